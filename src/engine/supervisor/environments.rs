//! The environment of a child, all of it: what the daemon had at its start, or what direnv makes of that; then
//! what the file says; then what bpm adds for one run or build.
//!
//! direnv takes its time. So [`Environments::get`] answers at once or not yet, and [`Environments::finished`]
//! has the answer later, also where direnv does not end: it has a deadline, and until then a reason is shown.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, human};
use crate::base::error::Fault;
use crate::base::saved::{Saved, load};
use crate::build::{Exec, direnv};
use crate::config::{self, Config, Dotenv, EnvFile, EnvNotes, Environment, Mode, Process, Toggle};
use crate::lifecycle::{RunKey, UnitId};
use crate::os::proc;
use crate::os::reap::{Child, Death, reap_from};
use crate::os::spawn::{SpawnError, Step};
use crate::os::trust;

use super::launch::{Starter, account};

/// No environment is larger; direnv's errors are shorter.
const LONGEST: usize = 4 << 20;

/// The variables that a child is given.
pub(super) type Variables = Vec<(OsString, OsString)>;

/// The build or run that an environment is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Build { unit: UnitId, id: u64, mode: Mode },
    Run { key: RunKey, build: u64 },
}

impl Purpose {
    pub(super) fn unit(self) -> UnitId {
        match self {
            Self::Build { unit, .. } => unit,
            Self::Run { key, .. } => key.unit,
        }
    }
}

/// The variables that an environment begins with.
pub(super) enum Base {
    Ready(Arc<Variables>),
    /// direnv is at work: [`Environments::finished`] will have them.
    Pending,
}

/// The variables that direnv made for a build or a run, or why it did not.
pub(super) type Finished = (Purpose, Result<Arc<Variables>, String>);

/// Makes the base of environments.
pub(super) struct Environments {
    starter: Starter,
    /// As bpm got it.
    base: Arc<Variables>,
    /// bpm was started from a folder of direnv's: what that set is still in `base`.
    loaded: bool,
    jobs: Vec<DirenvJob>,
    /// direnvs that were killed and are not reaped yet.
    killed: Vec<Option<Child>>,
}

/// direnv at work.
struct DirenvJob {
    purpose: Purpose,
    child: Option<Child>,
    death: Option<Death>,
    stdout: Option<File>,
    stderr: Option<File>,
    said: Vec<u8>,
    complained: Vec<u8>,
    /// It takes direnv's part out rather than in: the result is the base from now on.
    unloads: bool,
    began: Mono,
    limit: Duration,
}

impl DirenvJob {
    fn read(&mut self) {
        take(&mut self.stdout, &mut self.said);
        take(&mut self.stderr, &mut self.complained);
    }

    fn deadline(&self) -> Mono {
        self.began.after(self.limit)
    }
}

/// Reads until the pipe is empty or ends; an end closes it, and so does too much.
fn take(pipe: &mut Option<File>, into: &mut Vec<u8>) {
    let mut buffer = [0; 16 << 10];
    while let Some(file) = pipe {
        match file.read(&mut buffer) {
            Ok(n) if n > 0 && into.len() + n <= LONGEST => into.extend_from_slice(&buffer[..n]),
            Ok(_) => *pipe = None,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

/// The base, and whether direnv's part is still in it.
impl Saved for Environments {
    fn save(&self) -> Value {
        (Arc::clone(&self.base), self.loaded).save()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        (self.base, self.loaded) = load(saved)?;
        Ok(())
    }
}

impl Environments {
    /// On the environment of bpm's start.
    pub(super) fn new(env: &Variables, starter: Starter) -> Self {
        Self {
            starter,
            loaded: env.iter().any(|(name, _)| name == "DIRENV_DIFF"),
            base: Arc::new(env.clone()),
            jobs: Vec::new(),
            killed: Vec::new(),
        }
    }

    /// The variables that are there without direnv.
    pub(super) fn base(&self) -> Arc<Variables> {
        Arc::clone(&self.base)
    }

    /// The base for a build or a run. direnv has `limit` where it is asked.
    ///
    /// # Errors
    /// direnv can't be started: why.
    pub(super) fn get(
        &mut self,
        purpose: Purpose,
        config: &Config,
        limit: Duration,
    ) -> Result<Base, String> {
        let root = &config.root;
        let loads = match config.direnv {
            Toggle::On => true,
            Toggle::Off => false,
            Toggle::Auto => root.join(".envrc").exists(),
        };
        if !loads && !self.loaded {
            return Ok(Base::Ready(self.base()));
        }
        let exec = match loads {
            true => direnv::load(root),
            false => direnv::unload(),
        };
        let spawned = match self.starter.command(&exec, &self.base) {
            Ok(spawned) => spawned,
            Err(_) if !loads => {
                // direnv is not there to take its part back: its own variables at least go.
                let kept = self.base.iter().filter(|(name, _)| !direnv::is_own(name));
                self.base = Arc::new(kept.cloned().collect());
                self.loaded = false;
                return Ok(Base::Ready(self.base()));
            }
            Err(e) => return Err(not_started(config.direnv, &e)),
        };
        self.jobs.push(DirenvJob {
            purpose,
            child: Some(spawned.child),
            death: None,
            stdout: Some(spawned.stdout.into()),
            stderr: Some(spawned.stderr.into()),
            said: Vec::new(),
            complained: Vec::new(),
            unloads: !loads,
            began: Mono::now(),
            limit,
        });
        Ok(Base::Pending)
    }

    /// The bases that were made since this was asked last, or that can't be made.
    pub(super) fn finished(&mut self, root: &Path, now: Mono) -> Vec<Finished> {
        let mut finished = Vec::new();
        for at in (0..self.jobs.len()).rev() {
            let job = &mut self.jobs[at];
            job.read();
            if let Some(death) = job.death {
                let job = self.jobs.swap_remove(at);
                let purpose = job.purpose;
                finished.push((purpose, self.result(job, death, root)));
            } else if job.deadline() <= now {
                let why = format!("direnv did not end within {}", human(job.limit));
                let job = self.jobs.swap_remove(at);
                finished.push((job.purpose, Err(why)));
                self.kill(job);
            }
        }
        finished
    }

    fn result(
        &mut self,
        job: DirenvJob,
        death: Death,
        root: &Path,
    ) -> Result<Arc<Variables>, String> {
        if let Err(end) = death.end.into_result() {
            return Err(direnv::failure(root, &end, &job.complained));
        }
        let env = Arc::new(direnv::parse(&job.said));
        if job.unloads {
            self.base = Arc::clone(&env);
            self.loaded = false;
        }
        Ok(env)
    }

    /// Nobody wants these any more; gives those that were being made.
    pub(super) fn cancel(&mut self, unwanted: impl Fn(Purpose) -> bool) -> Vec<Purpose> {
        let mut cancelled = Vec::new();
        for at in (0..self.jobs.len()).rev() {
            if unwanted(self.jobs[at].purpose) {
                let job = self.jobs.swap_remove(at);
                cancelled.push(job.purpose);
                self.kill(job);
            }
        }
        cancelled
    }

    fn kill(&mut self, job: DirenvJob) {
        if let Some(child) = &job.child {
            child.signal_group(libc::SIGKILL);
            self.killed.push(job.child);
        }
    }

    /// Reaps direnv, if that is one.
    pub(super) fn reap(&mut self, pid: i32) -> bool {
        let is = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid() == pid);
        if let Some(job) = self.jobs.iter_mut().find(|job| is(&job.child)) {
            job.death = reap_from(&mut job.child);
            return job.death.is_some();
        }
        let Some(at) = self.killed.iter().position(is) else {
            return false;
        };
        let reaped = reap_from(&mut self.killed[at]).is_some();
        self.killed.retain(Option::is_some);
        reaped
    }

    /// The direnvs that live.
    pub(super) fn children(&self) -> impl Iterator<Item = &Child> {
        let jobs = self.jobs.iter().filter_map(|job| job.child.as_ref());
        jobs.chain(self.killed.iter().flatten())
    }

    /// Nothing is being made, and nothing is left of what was.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.killed.is_empty()
    }

    /// The reason why a process waits, if it waits for direnv.
    pub(super) fn reason(&self, unit: UnitId, now: Mono) -> Option<String> {
        let job = self.jobs.iter().find(|job| job.purpose.unit() == unit)?;
        let seconds = now.since(job.began).as_secs();
        Some(format!("waiting for direnv ({seconds} s)"))
    }

    /// When a job is late, or a reason says something else.
    pub(super) fn deadline(&self, now: Mono) -> Option<Mono> {
        let next = |job: &DirenvJob| {
            let shown = now.since(job.began).as_secs();
            job.began
                .after(Duration::from_secs(shown + 1))
                .min(job.deadline())
        };
        self.jobs.iter().map(next).min()
    }

    /// The pipes to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pipes = self.jobs.iter().flat_map(|job| [&job.stdout, &job.stderr]);
        pipes.flatten().map(AsFd::as_fd)
    }
}

fn not_started(direnv: Toggle, e: &SpawnError) -> String {
    if e.step != Step::Program || e.error.kind() != io::ErrorKind::NotFound {
        return format!("direnv: {e}");
    }
    let wanted = match direnv {
        Toggle::Auto => "the project has an .envrc",
        Toggle::On | Toggle::Off => ".mcp-run says direnv = true",
    };
    format!("direnv is not installed, and {wanted}: install it, or set direnv = false")
}

/// The environment of a process, without what belongs to one run or build: `base`, its `env_file`s, its port, its
/// settings, and its names.
pub(super) fn of_process(
    process: &Process,
    root: &Path,
    base: &Variables,
    port: Option<u16>,
    notes: &mut Vec<Fault>,
) -> Result<Environment, String> {
    let files = process.env_files.iter().map(|f| read_env_file(root, f));
    let files = files.collect::<Result<Vec<_>, Fault>>();
    let files = files.map_err(|fault| format!("env_file {fault}"))?;
    notes.extend(files.iter().flat_map(|file| file.notes.iter().cloned()));
    // A pipe makes Python keep what it prints, up to 8 KiB of it; PWD is a shell's, and that of another folder.
    let mut all: Variables = vec![("PYTHONUNBUFFERED".into(), "1".into())];
    all.extend_from_slice(base);
    all.push(("PWD".into(), process.cwd.clone().into()));
    if let Some(account) = account(&process.launch)? {
        for (name, value) in account.env {
            all.push((name.into(), value));
        }
    }
    let mut found = EnvNotes::default();
    let mut env = config::environment(process, &mut all.into_iter(), &files, port, &mut found)?;
    notes.extend(found.unset);
    env.insert("BPM_PROCESS".into(), process.name.clone().into());
    env.insert("BPM_PROJECT".into(), root.into());
    Ok(env)
}

/// Adds what only a run has: its number, and the marker that it and all it starts are known by. `project` is how
/// markers of the project begin.
pub(super) fn mark_run(env: &mut Environment, process: &Process, project: &str, run: u64) {
    env.insert("BPM_RUN".into(), run.to_string().into());
    let marker = format!("{project}/{}/{run}", process.name);
    env.insert(proc::MARKER.into(), marker.into());
}

/// Adds the marker of a build.
pub(super) fn mark_build(env: &mut Environment, process: &Process, project: &str, build: u64) {
    let marker = format!("{project}/{}/b{build}", process.name);
    env.insert(proc::MARKER.into(), marker.into());
}

/// As it is handed to a child, with what the command itself sets.
pub(super) fn with_command(env: &Variables, exec: &Exec) -> Variables {
    let mut env = env.clone();
    for (name, value) in &exec.env {
        env.retain(|(n, _)| n.as_os_str() != OsStr::new(name));
        env.push((name.into(), value.into()));
    }
    env
}

/// The same; one that can't be read is a mistake where the configuration names it.
///
/// # Errors
/// As [`read_env_file`].
pub fn named_env_file(config: &Config, file: &EnvFile) -> Result<Dotenv, Fault> {
    read_env_file(&config.root, file).map_err(|fault| {
        let mut places = config.named.env_files.iter();
        match places.find(|(path, _)| *path == file.path) {
            Some((path, place)) if fault.line == 0 => {
                place.because(format_args!("cannot read {path:?}: {}", fault.text))
            }
            _ => fault,
        }
    })
}

/// Reads one of the `env_file`s of a process.
///
/// # Errors
/// It can't be read or used: why, with its path.
pub(super) fn read_env_file(root: &Path, file: &EnvFile) -> Result<Dotenv, Fault> {
    let shown = file.path.display().to_string();
    let wrong = |why: &str| {
        Err(Fault {
            file: shown.clone(),
            line: 0,
            column: 0,
            text: why.into(),
        })
    };
    match trust::read_env_file(root, &file.path, None) {
        Ok(Some(bytes)) => match std::str::from_utf8(&bytes) {
            Ok(text) => config::parse_dotenv(text, &shown),
            Err(_) => wrong("it is not UTF-8"),
        },
        Ok(None) if file.optional => Ok(Dotenv::default()),
        Ok(None) => wrong("no such file or directory"),
        Err(why) => wrong(&why),
    }
}
