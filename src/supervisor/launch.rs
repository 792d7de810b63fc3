//! Making processes: the environment (direnv's, where there is one), then a build or a run.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::board::BuildView;
use crate::builder::{BuildJob, Builder};
use crate::clock::{Mono, Wall};
use crate::config::{self, EnvFile, Environment, Mode, PortWish, Process, Toggle};
use crate::error::reason;
use crate::hub::{BuildOutcome, Fact};
use crate::journal::Level;
use crate::lifecycle::{Event, UnitId};
use crate::os::group;
use crate::os::net::{self, Accept};
use crate::os::proc;
use crate::os::reap::Death;
use crate::os::spawn::{Launch, Output, SpawnError, Spawned, Step, spawn};
use crate::plan::{self, Exec, direnv};
use crate::pump::Pump;

use super::runs::Book;
use super::{Key, Supervisor, bin_dir};

/// No environment is larger; direnv's errors are shorter.
const LONGEST_ENVIRONMENT: usize = 4 << 20;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Variables = Vec<(OsString, OsString)>;

/// The environment that everything begins with.
pub(super) enum Base {
    /// As bpm got it.
    Plain(Arc<Variables>),
    /// bpm was started from a folder of direnv's: what it set there is still to be taken back.
    Loaded(Arc<Variables>),
}

impl Base {
    pub(super) fn of(env: &Variables) -> Self {
        let loaded = env.iter().any(|(name, _)| name == "DIRENV_DIFF");
        let env = Arc::new(env.clone());
        if loaded {
            Self::Loaded(env)
        } else {
            Self::Plain(env)
        }
    }

    fn variables(&self) -> &Arc<Variables> {
        match self {
            Self::Plain(env) | Self::Loaded(env) => env,
        }
    }
}

/// What an environment is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Build { unit: UnitId, id: u64, mode: Mode },
    Run { key: Key, build: u64, mode: Mode },
}

impl Purpose {
    fn unit(self) -> UnitId {
        match self {
            Self::Build { unit, .. } => unit,
            Self::Run { key, .. } => key.0,
        }
    }
}

/// direnv at work.
pub(super) struct Prep {
    purpose: Purpose,
    pub(super) pid: i32,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    said: Vec<u8>,
    complained: Vec<u8>,
    /// It takes direnv's part out rather than in: the result is the base from now on.
    unloads: bool,
    pub(super) death: Option<Death>,
    /// Why nobody wants it any more.
    pub(super) cancelled: Option<String>,
}

impl Prep {
    pub(super) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(|fd| fd.as_fd())
    }

    /// Takes what is there to be read.
    fn read(&mut self) {
        take(&mut self.stdout, &mut self.said);
        take(&mut self.stderr, &mut self.complained);
    }
}

/// Reads until the pipe is empty or ends; an end closes it, and so does too much.
fn take(pipe: &mut Option<OwnedFd>, into: &mut Vec<u8>) {
    let mut buffer = [0; 16 << 10];
    while let Some(fd) = pipe {
        let Ok(mut file) = fd.try_clone().map(File::from) else {
            return;
        };
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

/// A build at work.
pub(super) struct Build {
    unit: UnitId,
    id: u64,
    pub(super) pid: i32,
    builder: Builder,
    cancelled: bool,
}

impl Build {
    /// Kills its group. What left the group on purpose (a compiler cache) is left alone.
    pub(super) fn kill(&self) {
        group::signal_group(self.pid, libc::SIGKILL);
    }
}

impl Supervisor {
    // ---- the environment ----------------------------------------------------------------------

    pub(super) fn begin_run(&mut self, key: Key, build: u64, mode: Mode) {
        self.prepare(Purpose::Run { key, build, mode });
    }

    pub(super) fn begin_build(&mut self, unit: UnitId, id: u64, mode: Mode) {
        let Some(u) = self.units.get_mut(&unit) else {
            return;
        };
        let run = u.build_log.begin(Wall::now());
        let began = Mono::now();
        u.build = Some(BuildView {
            id: run,
            state: "running",
            phase: None,
            mode,
            at: Wall::now(),
            began: Some(began),
            took: None,
            ok: None,
            errors: Arc::default(),
        });
        u.changed = true;
        let text = format!("building for {}", mode.as_str());
        self.happened(Some(unit), "build", text);
        self.prepare(Purpose::Build { unit, id, mode });
    }

    fn prepare(&mut self, purpose: Purpose) {
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
        match self.start(&exec, &env) {
            Ok(spawned) => self.preps.push(Prep {
                purpose,
                pid: spawned.pid,
                stdout: spawned.stdout,
                stderr: spawned.stderr,
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
                    "direnv is not installed, and the project has an .envrc: install it, or set direnv = false".into()
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

    pub(super) fn finish_preps(&mut self) {
        while let Some(at) = self.preps.iter().position(|p| p.death.is_some()) {
            let mut prep = self.preps.swap_remove(at);
            prep.read();
            self.finish_prep(prep);
        }
    }

    fn finish_prep(&mut self, prep: Prep) {
        if let Some(why) = prep.cancelled {
            return self.fail(prep.purpose, &why);
        }
        let end = prep
            .death
            .map_or_else(String::new, |d| super::runs::end_words(d.end));
        if end != "exit code 0" {
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
            Purpose::Run { key, .. } => self.free_port(key.0, &process),
            Purpose::Build { .. } => Ok(()),
        };
        let env = match free.and_then(|()| self.environment(&process, base)) {
            Ok(env) => env,
            Err(why) => return self.fail(purpose, &why),
        };
        match purpose {
            Purpose::Build { unit, id, mode } => self.spawn_build(unit, id, mode, &process, env),
            Purpose::Run { key, build, .. } => self.spawn_run(key, build, &process, env),
        }
    }

    fn environment(&mut self, process: &Process, base: &Variables) -> Result<Environment, String> {
        let files: Vec<_> = process
            .env_files
            .iter()
            .map(read_env_file)
            .collect::<Result<_, _>>()?;
        let mut env = config::environment(
            process,
            base.iter().cloned(),
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
        let port = net::free_port(LOOPBACK).map_err(|e| format!("no free port: {}", reason(&e)))?;
        self.state.keep_port(process, port);
        self.state_changed = true;
        Ok(port)
    }

    /// Sees that the port is free: whoever has it is named before the process would die of it, and
    /// one of `"auto"` is taken anew. Not asked where an old run has it (an overlapping swap), or bpm.
    fn free_port(&mut self, unit: UnitId, process: &Process) -> Result<(), String> {
        let Some(port) = self.port_of(process)? else {
            return Ok(());
        };
        let ours = self.books.keys().any(|k| k.0 == unit) || self.sockets.holds(unit, port);
        if ours || net::tcp_listener(LOOPBACK, port, Accept::AtOnce).is_ok() {
            return Ok(());
        }
        if process.port == Some(PortWish::Auto) {
            return self.take_port(&process.name).map(drop);
        }
        Err(match proc::port_holder(LOOPBACK, port) {
            Some((pid, command)) => format!("port {port} is in use by pid {pid} ({command})"),
            None => format!("port {port} is in use by another process"),
        })
    }

    /// It does not come to a build or a run.
    fn fail(&mut self, purpose: Purpose, why: &str) {
        match purpose {
            Purpose::Build { unit, id, .. } => {
                let outcome = BuildOutcome {
                    result: Err(why.into()),
                    errors: Vec::new(),
                };
                self.build_ended(unit, id, outcome);
            }
            Purpose::Run {
                key: (unit, generation),
                ..
            } => {
                let name = self
                    .units
                    .get(&unit)
                    .map(|u| u.process.name.clone())
                    .unwrap_or_default();
                let why = format!("cannot start {name}: {why}");
                self.happened(Some(unit), "exit", why.clone());
                self.queue.push_back(Event::NotSpawned {
                    unit,
                    generation,
                    why,
                });
            }
        }
    }

    /// Gives up a start whose environment is still being made.
    pub(super) fn abort(&mut self, key: Key) {
        for prep in &mut self.preps {
            if matches!(prep.purpose, Purpose::Run { key: k, .. } if k == key) {
                prep.cancelled = Some("it was told to stop".into());
                group::signal_group(prep.pid, libc::SIGKILL);
            }
        }
    }

    // ---- builds -------------------------------------------------------------------------------

    fn spawn_build(
        &mut self,
        unit: UnitId,
        id: u64,
        mode: Mode,
        process: &Process,
        mut env: Environment,
    ) {
        let purpose = Purpose::Build { unit, id, mode };
        let root = &self.setup.config.root;
        let cargo_dir = plan::cargo_dir(&process.cwd, root, |p| p.exists());
        let plan = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            plan::build(process, mode, cargo_dir, &expand)
        };
        let plan = match plan {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                let outcome = BuildOutcome {
                    result: Ok(plan::Artifact::default()),
                    errors: Vec::new(),
                };
                return self.build_ended(unit, id, outcome);
            }
            Err(why) => return self.fail(purpose, &why),
        };
        let Some(u) = self.units.get(&unit) else {
            return;
        };
        let (tape, run) = (
            Arc::clone(&u.build_log),
            u.build.as_ref().map_or(0, |b| b.id),
        );
        let keep = self.executables(unit);
        env.insert(
            group::MARKER.into(),
            format!("{}/{}/b{run}", self.marker_prefix(), process.name).into(),
        );
        let spawned = match self.start(&plan.exec, &variables(env)) {
            Ok(spawned) => spawned,
            Err(e) => {
                let missing = e.step == Step::Program && e.error.kind() == io::ErrorKind::NotFound;
                let why = match missing && plan.exec.program == "cargo" {
                    true => "cargo is not on PATH: install Rust (rustup), or start bpm where PATH has it".into(),
                    false => e.to_string(),
                };
                return self.fail(purpose, &why);
            }
        };
        let (Some(stdout), Some(stderr)) = (spawned.stdout, spawned.stderr) else {
            return;
        };
        let job = BuildJob {
            unit,
            id,
            tape,
            run,
            plan,
            stdout,
            stderr,
            bin_dir: bin_dir(&self.setup.dir, &process.name),
            keep,
            hub: Arc::clone(&self.hub),
        };
        match Builder::start(job) {
            Ok(builder) => {
                self.builds.push(Build {
                    unit,
                    id,
                    pid: spawned.pid,
                    builder,
                    cancelled: false,
                });
            }
            Err(e) => {
                group::signal_group(spawned.pid, libc::SIGKILL);
                self.fail(purpose, &format!("no thread to read it: {}", reason(&e)));
            }
        }
    }

    /// What must not be deleted: what runs, and what a mode's last good build made.
    fn executables(&self, unit: UnitId) -> Vec<PathBuf> {
        let running = self
            .books
            .iter()
            .filter(|(k, _)| k.0 == unit)
            .filter_map(|(_, b)| b.exe.clone());
        let built = self
            .units
            .get(&unit)
            .into_iter()
            .flat_map(|u| u.artifacts.values());
        running.chain(built.filter_map(|a| a.exe.clone())).collect()
    }

    pub(super) fn cancel_build(&mut self, unit: UnitId, id: u64) {
        if let Some(build) = self
            .builds
            .iter_mut()
            .find(|b| b.unit == unit && b.id == id)
        {
            build.cancelled = true;
            build.kill();
        }
        for prep in &mut self.preps {
            if matches!(prep.purpose, Purpose::Build { unit: u, id: i, .. } if (u, i) == (unit, id))
            {
                prep.cancelled = Some("cancelled".into());
                group::signal_group(prep.pid, libc::SIGKILL);
            }
        }
    }

    /// Its leader has been reaped. The thread that reads it says the rest.
    pub(super) fn build_exited(&mut self, death: Death) -> bool {
        let Some(build) = self.builds.iter().find(|b| b.pid == death.pid) else {
            return false;
        };
        let words = super::runs::end_words(death.end);
        build.builder.exited(if words == "exit code 0" {
            Ok(())
        } else {
            Err(words)
        });
        true
    }

    pub(super) fn build_phase(&mut self, unit: UnitId, id: u64, phase: String) {
        if self.builds.iter().any(|b| b.unit == unit && b.id == id) {
            self.set_phase(unit, &phase);
        }
    }

    fn set_phase(&mut self, unit: UnitId, phase: &str) {
        if let Some(u) = self.units.get_mut(&unit)
            && let Some(build) = &mut u.build
        {
            build.phase = Some(phase.into());
            u.changed = true;
        }
    }

    pub(super) fn build_ended(&mut self, unit: UnitId, id: u64, outcome: BuildOutcome) {
        let cancelled = match self
            .builds
            .iter()
            .position(|b| b.unit == unit && b.id == id)
        {
            Some(at) => self.builds.swap_remove(at).cancelled,
            None => false,
        };
        let (result, artifact) = match outcome.result {
            Ok(artifact) => (Ok(()), Some(artifact)),
            Err(why) => (Err(why), None),
        };
        let words = match &result {
            Ok(()) => "exit code 0".to_string(),
            Err(why) => why.clone(),
        };
        if let Some(u) = self.units.get_mut(&unit) {
            if let Some(artifact) = artifact {
                u.artifacts.insert(id, artifact);
                // Of each mode one, the one before for a rollback, and what runs.
                while u.artifacts.len() > 4 {
                    u.artifacts.pop_first();
                }
            }
            if let Some(build) = &mut u.build {
                u.build_log.end(build.id, Wall::now(), &words);
                build.state = match (&result, cancelled) {
                    (Ok(()), _) => "ok",
                    (Err(_), true) => "cancelled",
                    (Err(_), false) => "failed",
                };
                build.phase = None;
                build.took = build.began.map(|at| Mono::now().since(at));
                build.ok = Some(result.is_ok());
                build.errors = Arc::new(outcome.errors);
            }
            u.changed = true;
        }
        let text = match &result {
            Ok(()) => "build ok".to_string(),
            Err(why) => format!("build failed: {why}"),
        };
        self.happened(Some(unit), "build", text);
        self.queue.push_back(Event::Built { unit, id, result });
    }

    // ---- runs ---------------------------------------------------------------------------------

    fn spawn_run(&mut self, key: Key, build: u64, process: &Arc<Process>, mut env: Environment) {
        let purpose = Purpose::Run {
            key,
            build,
            mode: Mode::Dev,
        };
        let Some(u) = self.units.get(&key.0) else {
            return;
        };
        let artifact = u.artifacts.get(&build).cloned().unwrap_or_default();
        let log = Arc::clone(&u.log);
        if !process.cwd.is_dir() {
            return self.fail(purpose, &format!("no such folder: {:?}", process.cwd));
        }
        let exec = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            plan::run(process, &artifact, &expand)
        };
        let exec = match exec {
            Ok(exec) => exec,
            Err(why) => return self.fail(purpose, &why),
        };
        if let Err(why) = self.hold_sockets(key.0, process, &env) {
            return self.fail(purpose, &why);
        }
        if !process.listen.is_empty() {
            let names = vec![process.name.as_str(); process.listen.len()].join(":");
            env.insert("LISTEN_FDNAMES".into(), names.into());
        }
        let checks = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            self.plan_checks(key, process, &expand)
        };
        let mut checks = match checks {
            Ok(checks) => checks,
            Err(why) => return self.fail(purpose, &why),
        };
        for (name, value) in checks.variables(process) {
            env.insert(name.into(), value);
        }
        let (first_line, run) = (log.next_seq(), log.begin(Wall::now()));
        env.insert("BPM_RUN".into(), run.to_string().into());
        let marker = format!("{}/{}/{run}", self.marker_prefix(), process.name);
        env.insert(group::MARKER.into(), marker.into());
        let env = Arc::new(variables(env));
        checks.keep(&env);
        let began = Mono::now();
        let held = self.sockets.of(key.0);
        let spawned = match self.start_as(&exec, &env, &held, Some(process)) {
            Ok(spawned) => spawned,
            Err(e) => {
                log.end(run, Wall::now(), &format!("could not start: {e}"));
                return self.fail(purpose, &e.to_string());
            }
        };
        let (Some(stdout), Some(stderr)) = (spawned.stdout, spawned.stderr) else {
            return;
        };
        let (hub, unit) = (Arc::clone(&self.hub), key.0);
        let drained = Box::new(move || hub.tell(Fact::Drained { unit, run }));
        let pump = match Pump::start(log, run, stdout, stderr, drained) {
            Ok(pump) => pump,
            Err(e) => {
                group::signal_group(spawned.pid, libc::SIGKILL);
                return self.fail(
                    purpose,
                    &format!("no thread to read its output: {}", reason(&e)),
                );
            }
        };
        let start = group::identity(spawned.pid).unwrap_or(0);
        self.by_pid.insert(spawned.pid, key);
        self.state.started(&process.name, spawned.pid, start, run);
        self.state_changed = true;
        let mut book = Book::new(spawned.pid, run, first_line, pump, began, process);
        book.exe = artifact.exe;
        book.checks = checks;
        self.books.insert(key, Box::new(book));
        self.queue.push_back(Event::Spawned {
            unit: key.0,
            generation: key.1,
            pid: spawned.pid,
        });
        self.begin_checks(key);
    }

    /// Opens the sockets of a process; nothing where it has none, or has them already.
    fn hold_sockets(
        &mut self,
        unit: UnitId,
        process: &Process,
        env: &Environment,
    ) -> Result<(), String> {
        let lookup = |name: &str| config::variable_of(env, name);
        let wanted = process
            .listen
            .iter()
            .map(|text| config::parse_listen(&config::expand(text, lookup)?))
            .collect::<Result<Vec<_>, String>>()?;
        self.sockets.hold(unit, &wanted, self.setup.umask)
    }

    /// Opens all sockets that can be opened before anything is built: connections wait from then on.
    pub(super) fn hold_all_sockets(&mut self) {
        let base = Arc::clone(self.base.variables());
        for id in self.order.clone() {
            let Some(process) = self.units.get(&id).map(|u| Arc::clone(&u.process)) else {
                continue;
            };
            if process.listen.is_empty() {
                continue;
            }
            // What can't be had now (a variable of direnv's, a port in use) is said at the start.
            if let Ok(env) = self.environment(&process, &base)
                && let Err(why) = self.hold_sockets(id, &process, &env)
            {
                self.say(Level::Warn, &format!("{}: {why}", process.name));
            }
        }
    }

    pub(super) fn start(&self, exec: &Exec, env: &Variables) -> Result<Spawned, SpawnError> {
        self.start_as(exec, env, &[], None)
    }

    fn start_as(
        &self,
        exec: &Exec,
        env: &Variables,
        pass: &[BorrowedFd<'_>],
        process: Option<&Process>,
    ) -> Result<Spawned, SpawnError> {
        let mut env = Cow::Borrowed(env);
        for (name, value) in &exec.env {
            let env = env.to_mut();
            env.retain(|(n, _)| n.as_os_str() != OsStr::new(name));
            env.push((name.into(), value.into()));
        }
        let args: Vec<OsString> = exec.args.iter().map(OsString::from).collect();
        spawn(&Launch {
            program: OsStr::new(&exec.program),
            argv0: exec.argv0.as_ref().map(OsStr::new),
            args: &args,
            env: &env,
            cwd: &exec.cwd,
            output: Output::Pipes,
            pass,
            nofile: process
                .and_then(|p| p.limit_nofile)
                .or(Some(self.setup.nofile.soft)),
            core: process.and_then(|p| p.limit_core),
            umask: Some(self.setup.umask),
        })
    }

    /// How the markers of this project's processes begin.
    pub(super) fn marker_prefix(&self) -> String {
        self.setup.dir.marker()
    }

    /// A word for the log and for who asks what happened.
    pub(super) fn happened(&mut self, unit: Option<UnitId>, kind: &'static str, text: String) {
        let process = unit
            .and_then(|id| self.units.get(&id))
            .map(|u| u.process.name.clone());
        let said = match &process {
            Some(name) => format!("{name}: {text}"),
            None => text.clone(),
        };
        self.say(Level::Info, &said);
        self.last_event += 1;
        let event = crate::board::EventView {
            seq: self.last_event,
            at: Wall::now(),
            process,
            kind,
            text,
        };
        push_bounded(&mut self.events, Arc::new(event), crate::board::EVENTS);
    }
}

/// Appends; the oldest goes where there are too many.
pub(super) fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn variables(env: Environment) -> Variables {
    env.into_iter().collect()
}

fn read_env_file(file: &EnvFile) -> Result<Vec<(String, String)>, String> {
    let shown = |p: &Path| p.display().to_string();
    match std::fs::read_to_string(&file.path) {
        Ok(text) => {
            config::parse_dotenv(&text, &shown(&file.path)).map_err(|fault| fault.to_string())
        }
        Err(e) if file.optional && e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(format!("env_file {:?}: {}", file.path, reason(&e))),
    }
}
