//! The environment that a build or a run begins with: direnv's, where there is one, then what the file says.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::base::error::reason;
use crate::build::BuildErrors;
use crate::build::direnv;
use crate::config::{self, EnvFile, Environment, Mode, PortWish, Process, Toggle};
use crate::engine::handle::BuildOutcome;
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::os::net;
use crate::os::proc;
use crate::os::reap::{Child, Death, End, reap_from};
use crate::os::spawn::Step;
use crate::os::trust;

use super::Supervisor;
use super::launch::account;

/// No environment is larger; direnv's errors are shorter.
const LONGEST_ENVIRONMENT: usize = 4 << 20;
/// A free port that another process is to have is passed over; so many are tried.
const TRIES: usize = 64;

pub(super) type Variables = Vec<(OsString, OsString)>;

/// The environment that everything begins with.
pub(super) enum Base {
    /// As bpm got it.
    Plain(Arc<Variables>),
    /// bpm was started from a folder of direnv's: what it set there is still to be taken back.
    Loaded(Arc<Variables>),
}

impl Base {
    /// Of the environment of bpm's start.
    pub(super) fn of(env: &Variables) -> Self {
        let loaded = env.iter().any(|(name, _)| name == "DIRENV_DIFF");
        let env = Arc::new(env.clone());
        if loaded {
            Self::Loaded(env)
        } else {
            Self::Plain(env)
        }
    }

    /// As it is now, loaded or not.
    pub(super) fn variables(&self) -> &Arc<Variables> {
        match self {
            Self::Plain(env) | Self::Loaded(env) => env,
        }
    }
}

/// What an environment is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Build { unit: UnitId, id: u64, mode: Mode },
    Run { key: RunKey, build: u64 },
}

impl Purpose {
    fn unit(self) -> UnitId {
        match self {
            Self::Build { unit, .. } => unit,
            Self::Run { key, .. } => key.unit,
        }
    }
}

/// direnv at work.
pub(super) struct DirenvJob {
    pub(super) purpose: Purpose,
    pub(super) child: Option<Child>,
    stdout: Option<File>,
    stderr: Option<File>,
    said: Vec<u8>,
    complained: Vec<u8>,
    /// It takes direnv's part out rather than in: the result is the base from now on.
    unloads: bool,
    pub(super) death: Option<Death>,
    /// Why nobody wants it any more.
    pub(super) cancelled: Option<String>,
}

impl DirenvJob {
    /// The pipes to wait for.
    pub(super) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(|fd| fd.as_fd())
    }

    /// Nobody wants it any more.
    pub(super) fn cancel(&mut self, why: &str) {
        self.cancelled = Some(why.into());
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }

    /// Takes what is there to be read.
    fn read(&mut self) {
        take(&mut self.stdout, &mut self.said);
        take(&mut self.stderr, &mut self.complained);
    }
}

/// Reads until the pipe is empty or ends; an end closes it, and so does too much.
fn take(pipe: &mut Option<File>, into: &mut Vec<u8>) {
    let mut buffer = [0; 16 << 10];
    while let Some(file) = pipe {
        match file.read(&mut buffer) {
            Ok(n) if n > 0 && into.len() + n <= LONGEST_ENVIRONMENT => {
                into.extend_from_slice(&buffer[..n])
            }
            Ok(_) => *pipe = None,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

impl Supervisor {
    /// Makes the environment of a build or a run, by direnv where that is needed; then it is started.
    pub(super) fn prepare(&mut self, purpose: Purpose) {
        let root = self.setup.config.root.clone();
        let loads = match self.setup.config.direnv {
            Toggle::On => true,
            Toggle::Off => false,
            Toggle::Auto => root.join(".envrc").exists(),
        };
        let unloads = !loads && matches!(self.base, Base::Loaded(_));
        if !loads && !unloads {
            let base = Arc::clone(self.base.variables());
            return self.proceed(purpose, &base);
        }
        let exec = if loads {
            direnv::load(&root)
        } else {
            direnv::unload()
        };
        if let Purpose::Build { unit, .. } = purpose {
            self.set_phase(unit, "environment");
        }
        let env = Arc::clone(self.base.variables());
        match self.start(&exec, &env, None) {
            Ok(spawned) => self.preps.push(DirenvJob {
                purpose,
                child: Some(spawned.child),
                stdout: Some(spawned.stdout.into()),
                stderr: Some(spawned.stderr.into()),
                said: Vec::new(),
                complained: Vec::new(),
                unloads,
                death: None,
                cancelled: None,
            }),
            Err(_) if unloads => {
                // direnv is not there to take its part back: its own variables at least go.
                let kept = env
                    .iter()
                    .filter(|(name, _)| !direnv::is_own(name))
                    .cloned()
                    .collect();
                self.base = Base::Plain(Arc::new(kept));
                self.prepare(purpose);
            }
            Err(e) => {
                let found = if e.step == Step::Program && e.error.kind() == io::ErrorKind::NotFound
                {
                    let wanted = match self.setup.config.direnv {
                        Toggle::Auto => "the project has an .envrc",
                        Toggle::On | Toggle::Off => ".mcp-run says direnv = true",
                    };
                    format!(
                        "direnv is not installed, and {wanted}: install it, or set direnv = false"
                    )
                } else {
                    format!("direnv: {e}")
                };
                self.fail(purpose, &found);
            }
        }
    }

    /// Reads what direnv says, and goes on where it has ended.
    pub(super) fn read_preps(&mut self) {
        for prep in &mut self.preps {
            prep.read();
        }
        self.finish_preps();
    }

    /// Reaps direnv, if that is one.
    pub(super) fn reap_prep(&mut self, pid: i32) -> bool {
        let is = |p: &&mut DirenvJob| p.child.as_ref().is_some_and(|c| c.pid() == pid);
        let Some(prep) = self.preps.iter_mut().find(is) else {
            return false;
        };
        prep.death = reap_from(&mut prep.child);
        prep.death.is_some()
    }

    /// Goes on with those of which direnv has ended.
    pub(super) fn finish_preps(&mut self) {
        let dead = |preps: &[DirenvJob]| {
            let mut ended = preps.iter().zip(0..);
            ended.find_map(|(prep, at)| Some((at, prep.death?)))
        };
        while let Some((at, death)) = dead(&self.preps) {
            let mut prep = self.preps.swap_remove(at);
            prep.read();
            self.finish_prep(prep, death.end);
        }
    }

    fn finish_prep(&mut self, prep: DirenvJob, end: End) {
        if let Some(why) = prep.cancelled {
            return self.fail(prep.purpose, &why);
        }
        if let Err(end) = end.into_result() {
            let why = direnv::failure(&self.setup.config.root, &end, &prep.complained);
            return self.fail(prep.purpose, &why);
        }
        let env = Arc::new(direnv::parse(&prep.said));
        if prep.unloads {
            self.base = Base::Plain(Arc::clone(&env));
        }
        self.proceed(prep.purpose, &env);
    }

    fn proceed(&mut self, purpose: Purpose, base: &Variables) {
        let Some(process) = self
            .units
            .get(&purpose.unit())
            .map(|u| Arc::clone(&u.process))
        else {
            return self.fail(purpose, "it was taken out of the configuration");
        };
        let free = match purpose {
            Purpose::Run { key, .. } => self.free_port(key.unit, &process),
            Purpose::Build { .. } => Ok(()),
        };
        let env = match free.and_then(|()| self.environment(&process, base)) {
            Ok(env) => env,
            Err(why) => return self.fail(purpose, &why),
        };
        match purpose {
            Purpose::Build { unit, id, mode } => self.spawn_build(unit, id, mode, &process, env),
            Purpose::Run { key, build } => self.spawn_run(key, build, &process, env),
        }
    }

    /// [`Supervisor::environment`], with what marks a run.
    pub(super) fn run_environment(
        &mut self,
        process: &Process,
        base: &Variables,
        run: u64,
    ) -> Result<Environment, String> {
        let mut env = self.environment(process, base)?;
        self.mark(&mut env, process, run);
        Ok(env)
    }

    /// By this what belongs to a run is known.
    pub(super) fn mark(&self, env: &mut Environment, process: &Process, run: u64) {
        env.insert("BPM_RUN".into(), run.to_string().into());
        let marker = format!("{}/{}/{run}", self.marker_prefix(), process.name);
        env.insert(proc::MARKER.into(), marker.into());
    }

    /// The environment of a process: `base`, its `env_file`s, its port, its settings, and its names.
    pub(super) fn environment(
        &mut self,
        process: &Process,
        base: &Variables,
    ) -> Result<Environment, String> {
        let files: Vec<_> = process
            .env_files
            .iter()
            .map(|file| read_env_file(&self.setup.config.root, file))
            .collect::<Result<_, _>>()?;
        let login = account(&process.launch)?.map(|account| account.env);
        let login = login.into_iter().flatten();
        // A pipe makes Python keep what it prints, up to 8 KiB of it; PWD is a shell's, and that of another folder.
        let unbuffered = [("PYTHONUNBUFFERED".into(), "1".into())];
        let own = [("PWD".into(), process.cwd.clone().into())];
        let base = unbuffered
            .into_iter()
            .chain(base.iter().cloned())
            .chain(own);
        let mut env = config::environment(
            process,
            base.chain(login.map(|(name, value)| (name.into(), value))),
            &files,
            self.port_of(process)?,
        )?;
        let root = self.setup.config.root.clone();
        env.insert("BPM_PROCESS".into(), process.name.clone().into());
        env.insert("BPM_PROJECT".into(), root.into());
        Ok(env)
    }

    /// The port of `port`; one of `"auto"` is taken now if it was not before, and kept.
    fn port_of(&mut self, process: &Process) -> Result<Option<u16>, String> {
        match process.port {
            None => Ok(None),
            Some(PortWish::Fixed(port)) => Ok(Some(port)),
            Some(PortWish::Auto) => match self.state.port_of(&process.name) {
                Some(port) => Ok(Some(port)),
                None => self.take_port(&process.name).map(Some),
            },
        }
    }

    fn take_port(&mut self, process: &str) -> Result<u16, String> {
        let wrong = |e| format!("no free port: {}", reason(&e));
        let mut port = net::free_port().map_err(wrong)?;
        for _ in 0..TRIES {
            if !self.is_for_another(port, process) {
                break;
            }
            port = net::free_port().map_err(wrong)?;
        }
        self.state.keep_port(process, port);
        self.state_changed = true;
        Ok(port)
    }

    /// Another process of the project has that port, or will have it at its next start.
    fn is_for_another(&self, port: u16, process: &str) -> bool {
        let mut fixed = self.setup.config.processes.iter();
        let fixed = fixed.any(|p| p.name != process && p.port == Some(PortWish::Fixed(port)));
        fixed || self.state.is_kept_for_another(port, process)
    }

    /// Sees that the port is free: its holder is named before the process would die of it, and one of
    /// `"auto"` is replaced. Not asked where an old run has it (an overlapping swap), or bpm.
    fn free_port(&mut self, unit: UnitId, process: &Process) -> Result<(), String> {
        let Some(port) = self.port_of(process)? else {
            return Ok(());
        };
        if self.books.keys().any(|k| k.unit == unit) || self.sockets.holds(unit, port) {
            return Ok(());
        }
        let holder = net::loopback_listener(port);
        if process.port == Some(PortWish::Auto) {
            return match holder.is_some() || self.is_for_another(port, &process.name) {
                true => self.take_port(&process.name).map(drop),
                false => Ok(()),
            };
        }
        let Some(ip) = holder else { return Ok(()) };
        Err(match proc::port_holder(ip, port) {
            Some((pid, command)) => format!("port {port} is in use by pid {pid} ({command})"),
            None => format!("port {port} is in use by another process"),
        })
    }

    /// It does not come to a build or a run.
    pub(super) fn fail(&mut self, purpose: Purpose, why: &str) {
        match purpose {
            Purpose::Build { unit, id, .. } => {
                let outcome = BuildOutcome {
                    result: Err(why.into()),
                    errors: BuildErrors::default(),
                };
                self.build_ended(unit, id, outcome);
            }
            Purpose::Run { key: run, .. } => {
                let name = self
                    .units
                    .get(&run.unit)
                    .map(|u| u.process.name.clone())
                    .unwrap_or_default();
                let why = format!("cannot start {name}: {why}");
                self.trouble(Some(run.unit), "exit", why.clone());
                self.queue.push_back(Event::NotSpawned { run, why });
            }
        }
    }

    /// Gives up a start whose environment is still being made.
    pub(super) fn abort(&mut self, key: RunKey) {
        for prep in &mut self.preps {
            if matches!(prep.purpose, Purpose::Run { key: k, .. } if k == key) {
                prep.cancel("it was told to stop");
            }
        }
    }
}

fn read_env_file(root: &std::path::Path, file: &EnvFile) -> Result<Vec<(String, String)>, String> {
    let wrong = |why: &str| Err(format!("env_file {:?}: {why}", file.path));
    match trust::read_env_file(root, &file.path, None) {
        Ok(Some(bytes)) => match std::str::from_utf8(&bytes) {
            Ok(text) => config::parse_dotenv(text, &file.path.display().to_string())
                .map_err(|fault| fault.to_string()),
            Err(_) => wrong("it is not UTF-8"),
        },
        Ok(None) if file.optional => Ok(Vec::new()),
        Ok(None) => wrong("no such file or directory"),
        Err(why) => wrong(&why),
    }
}
