//! The start of the daemon and of the foreground run: everything around the supervisor.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::listen;
use super::lock::{self, Locks, Taken};
use super::log::{self, DaemonLog, Manner};
use super::presence::ProjectPresence;
use super::project::Project;
use super::sd_notify::{self, Env, SdNotify};
use super::stop::{Force, stop};
use crate::base::clock::{Mono, Wall};
use crate::base::error::{Error, Failure, Result, named};
use crate::base::logger::{Level, Logger};
use crate::client::connection::{MIN_CLIENT_VERSION, PROTOCOL_VERSION, VERSION};
use crate::client::verdict::{Descriptor, FolderId};
use crate::config::{Config, Port, Toggle};
use crate::engine::handle::{Handle, Identity};
use crate::engine::state_file::State;
pub use crate::engine::supervisor::read_config;
use crate::engine::supervisor::{ConfigSource, Manager, Setup, Supervisor, read_source};
use crate::log::passthrough::{Passthrough, Sources};
use crate::os::detach::{self, Ready, Side};
use crate::os::inotify::PathWatch;
use crate::os::{fds, files, memory, peer, proc, reap};
use crate::server::net::{Before, Control, Listeners, Server, UidCheck};
use crate::tools::{Kernel, Tools};

/// Answers in flight get so long when everything has stopped.
const GRACE: Duration = Duration::from_secs(10);

/// Descriptors of bpm itself and of some connections.
const OWN_FDS: usize = 250;
/// Those of a run: two pipes, and the pidfd of one that was taken over.
const FDS_OF_RUN: usize = 3;

/// A terminal that does not read holds up our end no longer than this.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Before or behind the terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunMode {
    /// Returns when it has stopped.
    Foreground,
    /// Returns when it serves.
    #[default]
    Detached,
}

/// The options of a start, beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    pub mode: RunMode,
    /// `--port`.
    pub port: Option<Port>,
    /// `--replace`: stop the one that runs.
    pub replace: bool,
    /// `--fresh`: what a killed daemon left is stopped, not taken over.
    pub fresh: bool,
    /// Start these and what they depend on, rather than all with `autostart`.
    pub only: Option<Vec<String>>,
    /// Foreground without the processes' lines: standard output belongs to somebody else.
    pub quiet: bool,
}

/// How a start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// A daemon serves now.
    Now {
        /// Its pid and where it serves, for a person.
        words: String,
        /// The leftovers of an earlier daemon that was killed; they were stopped first.
        found: Option<String>,
        /// Its faults from the start on.
        warnings: Vec<String>,
    },
    /// One runs already, with this pid.
    Already(i32),
    /// We were it, and it is over: the exit code.
    Ended(u8),
}

/// The exit code where QUIT ended bpm, as a shell would tell it.
const QUIT: u8 = 128 + 3;

/// Starts bpm for a project: the one way behind `bpm`, `bpm -d`, `start`, `up`, `daemon start` and `proxy`.
///
/// The configuration is checked before any fork, so that mistakes are printed in the terminal. The locks decide
/// whether another bpm runs; they are taken once, by the process that serves. No thread may run yet for
/// [`RunMode::Detached`]. `serving` is called once this process serves.
///
/// # Errors
/// Whatever keeps it from serving; nothing of it is left then.
pub fn start(
    project: &Project,
    options: &StartOptions,
    serving: &mut dyn FnMut() -> io::Result<()>,
) -> Result<Started> {
    let settings = Settings::read(project, options)?;
    files::private_dir(project.dir.path()).map_err(|e| {
        Error::file("keep bpm's files in", project.dir.path(), e)
            .with_hint("set BPM_HOME to a folder that you may write")
    })?;
    if options.replace {
        stop(project, Force::IfUnhealthy, None, &mut |_| {})?;
    }
    let mut terminal = match options.mode {
        RunMode::Foreground => None,
        RunMode::Detached => match detach::detach() {
            Ok(Side::Parent(waiting)) => return outcome(project, waiting.verdict()),
            Ok(Side::Daemon(ready)) => Some(ready),
            Err(e) => return Err(Error::system("make a daemon", e)),
        },
    };
    let ended = match lock::take(project) {
        Ok(Taken::Ours(locks)) => serve(project, options, settings, locks, &mut terminal, serving),
        Ok(Taken::Anothers(pid)) => match terminal.take() {
            Some(terminal) => {
                terminal.already(pid);
                return Ok(Started::Ended(0));
            }
            None => Err(already(project, pid)),
        },
        Err(error) => Err(error),
    };
    match (ended, terminal) {
        // Nobody looks at our own exit code; who started us reads the pipe.
        (Err(error), Some(terminal)) => {
            let hint = error.hint().map(|h| format!("\n{h}")).unwrap_or_default();
            terminal.failed(&format!("{error}{hint}"));
            Ok(Started::Ended(0))
        }
        (ended, _) => ended.map(Started::Ended),
    }
}

/// Reads the daemon's answer from the pipe.
fn outcome(project: &Project, verdict: detach::Verdict) -> Result<Started> {
    match verdict {
        detach::Verdict::Ready(text) => Ok(now(&text)),
        detach::Verdict::Already(pid) => Ok(Started::Already(pid)),
        detach::Verdict::Failed(text) => Err(error_of(&text)),
        detach::Verdict::Died => Err(Error::cannot(
            format!("start {}", project.shown()),
            "the daemon died before it was ready",
        )
        .with_hint(named("see", &project.dir.log()))),
    }
}

/// How lines through the pipe begin that are warnings.
const WARNING: &str = "warning: ";

/// The answer of a daemon that serves, through the pipe, lines; [`now`] reads it.
fn said(words: String, found: Option<&str>, warnings: &[String]) -> String {
    let found = found.into_iter().map(String::from);
    let warnings = warnings.iter().map(|warning| format!("{WARNING}{warning}"));
    let lines: Vec<String> = std::iter::once(words)
        .chain(found)
        .chain(warnings)
        .collect();
    lines.join("\n")
}

fn now(said: &str) -> Started {
    let (words, rest) = said.split_once('\n').unwrap_or((said, ""));
    let is_warning = |line: &&str| line.starts_with(WARNING);
    let (warnings, found): (Vec<&str>, Vec<&str>) = rest.lines().partition(is_warning);
    Started::Now {
        words: words.into(),
        found: (!found.is_empty()).then(|| found.join("\n")),
        warnings: warnings
            .iter()
            .map(|line| line.trim_start_matches(WARNING).into())
            .collect(),
    }
}

/// The sentence and the hint of an error of the daemon, through the pipe and back.
fn error_of(text: &str) -> Error {
    let (sentence, hint) = match text.split_once('\n') {
        Some((sentence, hint)) => (sentence, Some(hint)),
        None => (text, None),
    };
    let bare = sentence.strip_prefix("cannot ").unwrap_or(sentence);
    let (what, why) = bare.split_once(": ").unwrap_or(("start", bare));
    let error = Error::cannot(what, why);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn already(project: &Project, pid: i32) -> Error {
    Error::cannot(
        format!("start {}", project.shown()),
        format!("already running (pid {pid})"),
    )
    .with_hint("\"bpm logs -f\" shows its lines, --replace takes its place")
}

/// The configuration, and what the environment and the command line set over it.
struct Settings {
    /// As it is written, or a reload would find it changed; but for `autostart` where processes were named.
    config: Config,
    source: ConfigSource,
    port: Port,
    idle_shutdown: Option<Duration>,
    /// The quietest line that is written to the log.
    level: Level,
}

impl Settings {
    fn read(project: &Project, options: &StartOptions) -> Result<Self> {
        let (mut config, source) = read_source(&project.root)?;
        if let Some(only) = &options.only {
            let known: Vec<String> = config.processes.iter().map(|p| p.name.clone()).collect();
            if let Some(name) = only.iter().find(|name| !known.contains(name)) {
                return Err(Failure::Unknown {
                    kind: "process",
                    name: name.clone(),
                    known,
                }
                .into());
            }
            // Their dependencies are started because of them.
            for process in &mut config.processes {
                Arc::make_mut(process).autostart = only.contains(&process.name);
            }
        }
        let port_of_env = variable(&project.env, "BPM_PORT", port, "neither a port nor auto")?;
        Ok(Self {
            port: options.port.or(port_of_env).unwrap_or(config.port),
            idle_shutdown: variable(
                &project.env,
                "BPM_IDLE_TIMEOUT",
                |text| Duration::try_from_secs_f64(text.parse().ok()?).ok(),
                "no number of seconds",
            )?,
            level: level_of(&project.env)?,
            config,
            source,
        })
    }
}

/// The quietest line that is written to the log.
pub(super) fn level_of(env: &Env) -> Result<Level> {
    let level = variable(
        env,
        "BPM_LOG_LEVEL",
        log::level,
        "none of debug, info, warn, error",
    )?;
    Ok(level.unwrap_or(Level::Info))
}

fn variable<T>(
    env: &Env,
    name: &str,
    read: impl Fn(&str) -> Option<T>,
    wrong: &str,
) -> Result<Option<T>> {
    let Some(value) = env.get(name) else {
        return Ok(None);
    };
    match value.to_str().and_then(read) {
        Some(value) => Ok(Some(value)),
        None => Err(Error::usage(format!("{name}={value:?} is {wrong}"))),
    }
}

/// `auto`, `0`, `8080`.
pub fn port(text: &str) -> Option<Port> {
    match text {
        "auto" => Some(Port::Any),
        text => match text.parse().ok()? {
            0 => Some(Port::Off),
            port => Some(Port::Fixed(port)),
        },
    }
}

/// Serves until all has stopped; the exit code. An error leaves nothing running.
fn serve(
    project: &Project,
    options: &StartOptions,
    settings: Settings,
    locks: Locks,
    terminal: &mut Option<Ready>,
    serving: &mut dyn FnMut() -> io::Result<()>,
) -> Result<u8> {
    memory::one_heap();
    let foreground = terminal.is_none();
    let umask = match terminal {
        Some(ready) => ready.umask,
        None => detach::private_umask(),
    };
    let manner = match foreground {
        true => Manner::Foreground,
        false => Manner::Detached,
    };
    let log = DaemonLog::open(&project.dir, manner, settings.level)
        .map_err(|e| Error::file("write", &project.dir.log(), e))?;
    let log = Arc::new(log);
    project.dir.note_root(&project.root);
    files::remove_unfinished(project.dir.path());
    // Two roots with one hash were first used at the same moment.
    if let Some(other) = project.dir.root().filter(|root| *root != project.root) {
        let why = format!("{other:?} has just taken its state folder; try again");
        return Err(Error::cannot(format!("start {}", project.shown()), why));
    }
    let nofile =
        fds::raise_nofile().map_err(|e| Error::system("raise the limit of open files", e))?;
    fds::make_room(OWN_FDS + settings.config.processes.len() * FDS_OF_RUN);
    // Removed at each end but a violent one.
    let before = Descriptor::read(&project.dir.descriptor());
    let runtime = project.env.get("XDG_RUNTIME_DIR");
    let socket = project.dir.socket(runtime, peer::our_uid());
    // On a full disk there may be no descriptor.
    let killed_before = project.dir.descriptor().exists() || socket.exists();
    let (mut state, trouble) = State::read(&project.dir.state())?;
    state.stopped = None;
    state.root = Some(project.root.display().to_string());
    if let Some(trouble) = trouble {
        log.write(Level::Warn, "daemon", &trouble);
    }

    let config = settings.config;
    let mut warnings: Vec<String> = locks.warning.iter().cloned().collect();
    let tcp = listen::tcp(config.bind, settings.port, &mut state, &mut warnings)?;
    let (unix, socket) = listen::unix_somewhere(&project.dir, socket)?;
    let mut identity = identity(tcp.as_ref(), &socket, &project.env);
    identity.previous_end = killed_before.then(|| {
        let pid = before.map_or(String::new(), |d| format!(" (pid {})", d.pid));
        format!("killed or crashed{pid}: it did not shut down properly")
    });
    let policy = listen::policy(&config, nofile.hard)?;
    if tcp.is_some() && policy.token.is_none() && policy.uid == UidCheck::Meaningless {
        let text = "uids prove nothing in this user namespace: nobody is served over TCP without token_file";
        warnings.push(text.into());
    }
    for warning in &warnings {
        log.write(Level::Warn, "daemon", warning);
    }
    let passes_lines = !options.quiet
        && match config.passthrough {
            Toggle::Auto => foreground,
            Toggle::On => true,
            Toggle::Off => false,
        };
    let ground = Ground {
        project,
        nofile,
        umask,
        hangs_up: foreground && reap::may_hang_up(),
        idle_shutdown: settings.idle_shutdown,
        config,
        source: settings.source,
        program: std::env::current_exe().unwrap_or_default(),
        killed_before,
        fresh: options.fresh,
        only: options.only.is_some(),
        warnings,
        identity,
        passes: passes_lines.then(Vec::new),
        foreground,
    };
    let (mut setup, control) = ground.setup(Arc::clone(&log) as Arc<dyn Logger>);
    let names = (0..).zip(sd_notify::handed_on(&project.env));
    setup.stored = names
        .filter_map(|(n, name)| Some((name, fds::inherited(n)?)))
        .collect();
    let supervisor = Supervisor::new(setup, state).map_err(|e| Error::system("begin", e))?;
    let served = Served {
        tcp: tcp.into_iter().collect(),
        unix: Some(unix),
        locks,
        watch: None,
        before: Before::default(),
    };
    let mut first = |supervisor: &mut Supervisor| {
        serving().map_err(|e| Error::system("begin", e))?;
        Ok(supervisor.begin())
    };
    serve_on(
        ground, log, control, supervisor, served, terminal, &mut first,
    )
}

/// All that a bpm stands on, whether it was just started or goes on as another one.
pub(super) struct Ground<'a> {
    pub(super) project: &'a Project,
    pub(super) nofile: fds::Nofile,
    pub(super) umask: u32,
    pub(super) hangs_up: bool,
    pub(super) idle_shutdown: Option<Duration>,
    pub(super) config: Config,
    pub(super) source: ConfigSource,
    pub(super) program: PathBuf,
    pub(super) killed_before: bool,
    pub(super) fresh: bool,
    pub(super) only: bool,
    pub(super) warnings: Vec<String>,
    pub(super) identity: Identity,
    /// Lines of processes are passed through: the cursors, in the order of the logs.
    pub(super) passes: Option<Vec<u64>>,
    pub(super) foreground: bool,
}

/// The way to the server, which is begun after the supervisor and whose policy that changes on reload.
pub(super) type Controlled = Arc<OnceLock<Control>>;

impl Ground<'_> {
    pub(super) fn setup(&self, logger: Arc<dyn Logger>) -> (Setup, Controlled) {
        let control = Controlled::default();
        let (controlled, descriptors) = (Arc::clone(&control), self.nofile.hard);
        let setup = Setup {
            config: self.config.clone(),
            source: self.source.clone(),
            program: self.program.clone(),
            dir: self.project.dir.clone(),
            env: self.project.env.for_children(),
            nofile: self.nofile,
            umask: self.umask,
            hangs_up: self.hangs_up,
            idle_shutdown: self.idle_shutdown,
            killed_before: self.killed_before,
            stored: Vec::new(),
            fresh: self.fresh,
            only: self.only,
            identity: self.identity.clone(),
            warnings: self.warnings.clone(),
            logger,
            manager: Box::new(SdNotify::new(&self.project.env)),
            access: Box::new(move |config, apply| {
                let policy = listen::policy(config, descriptors)?;
                if let Some(server) = controlled.get().filter(|_| apply) {
                    server.set_policy(policy);
                }
                Ok(())
            }),
        };
        (setup, control)
    }
}

/// The socket, ports and files by which others reach this bpm.
pub(super) struct Served {
    pub(super) tcp: Vec<TcpListener>,
    pub(super) unix: Option<UnixListener>,
    pub(super) locks: Locks,
    pub(super) watch: Option<PathWatch>,
    pub(super) before: Before,
}

/// The first thing that a supervisor does, and what it has to say about it.
type First<'a> = &'a mut dyn FnMut(&mut Supervisor) -> Result<Option<String>>;

/// Serves with a supervisor that is ready.
pub(super) fn serve_on(
    ground: Ground<'_>,
    log: Arc<DaemonLog>,
    control: Controlled,
    mut supervisor: Supervisor,
    served: Served,
    terminal: &mut Option<Ready>,
    first: First<'_>,
) -> Result<u8> {
    let project = ground.project;
    let socket = ground.identity.socket.clone().unwrap_or_default();
    let descriptor = describe(project, &ground.identity, Path::new(&socket));
    let policy = listen::policy(&ground.config, ground.nofile.hard)?;
    let mut sd_notify = SdNotify::new(&project.env);
    let handle = supervisor.handle();
    let logger = Arc::clone(&log) as Arc<dyn Logger>;
    let tools = Tools::new(Arc::clone(&handle), Box::new(Kernel), logger);
    let listeners = Listeners {
        tcp: served.tcp,
        unix: served.unix,
    };
    let server = Server::go_on(Arc::new(tools), listeners, policy, served.before)
        .map_err(|e| Error::system("begin to serve", e))?;
    let _ = control.set(server.control());
    let passes = ground.passes.as_ref();
    let passthrough = passes.and_then(|cursors| passthrough(&handle, &log, cursors.clone()));
    supervisor.open_sockets();
    // From here on others can find us, so the descriptor is removed again whatever happens. All that can fail stands
    // before the first start: nobody would stop what an error left running.
    let control = server.control();
    let mut presence = ProjectPresence::new(
        project,
        &descriptor,
        Arc::clone(&log),
        control,
        served.locks,
        served.watch,
    )?;
    presence.carries(ground.foreground, passthrough.as_ref());
    let found = first(&mut supervisor)?;

    let place = match &descriptor.url {
        Some(url) => url,
        None => "on the Unix socket only",
    };
    let words = format!("pid {}, {place}", descriptor.pid);
    let text = format!("bpm {VERSION} serves {}: {words}", project.shown());
    log.write(Level::Info, "daemon", &text);
    if let Some(terminal) = terminal.take() {
        terminal.ready(&said(words, found.as_deref(), &ground.warnings));
    }
    let summary = handle.snapshot.now().summary();
    sd_notify.tell(&format!("READY=1\nSTATUS={summary}"));

    let ended = supervisor.run(&mut presence);
    if ended.is_err() {
        supervisor.kill_all();
    }
    handle.end();
    server.drain(GRACE);
    if let Some(passthrough) = &passthrough {
        passthrough.finish(LAST_LINES);
    }
    log.write(Level::Info, "daemon", "stopped");
    drop(presence);
    match ended {
        Ok(()) if supervisor.was_quit() => Ok(QUIT),
        Ok(()) => Ok(0),
        Err(e) => Err(Error::system("go on", e)),
    }
}

fn identity(tcp: Option<&TcpListener>, socket: &Path, env: &Env) -> Identity {
    let started = Mono::now();
    let pid = std::process::id().cast_signed();
    Identity {
        instance_id: format!("{:016x}", RandomState::new().hash_one(started.as_nanos())),
        pid,
        started,
        started_at: Wall::now(),
        url: tcp.and_then(|l| l.local_addr().ok()).map(listen::url),
        socket: Some(socket.display().to_string()),
        started_by: proc::cmdline(pid).map(|command| match env.caller() {
            Some(caller) => format!("{command} ({caller})"),
            None => command,
        }),
        previous_end: None,
    }
}

fn describe(project: &Project, identity: &Identity, socket: &Path) -> Descriptor {
    let exe = std::env::current_exe().unwrap_or_default();
    Descriptor {
        pid: identity.pid,
        process_start: proc::start_time(identity.pid).unwrap_or_default(),
        instance_id: identity.instance_id.clone(),
        project: project.root.display().to_string(),
        version: VERSION.into(),
        protocol_version: PROTOCOL_VERSION,
        min_client_version: MIN_CLIENT_VERSION.into(),
        socket: socket.into(),
        url: identity.url.clone(),
        started_at: identity.started_at.rfc3339(),
        exe: exe.display().to_string(),
        folder: FolderId::of(&project.root),
    }
}

/// Passes the processes' lines through. None: no descriptor or thread to be had, and the logs have them.
fn passthrough(
    handle: &Arc<Handle>,
    log: &Arc<DaemonLog>,
    cursors: Vec<u64>,
) -> Option<Passthrough> {
    let log = Arc::clone(log);
    let written = Box::new(move || log.check_size());
    let out = io::stdout().as_fd().try_clone_to_owned().ok()?;
    let err = io::stderr().as_fd().try_clone_to_owned().ok()?;
    Passthrough::start(
        Arc::clone(handle) as Arc<dyn Sources>,
        out,
        err,
        cursors,
        written,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!(port("auto"), Some(Port::Any));
        assert_eq!(port("0"), Some(Port::Off));
        assert_eq!(port("8080"), Some(Port::Fixed(8080)));
        assert_eq!(port("70000"), None);
        assert_eq!(port("-1"), None);
    }

    #[test]
    fn start_comes_through_the_pipe_whole() {
        let through = |found: Option<&str>, warnings: &[&str]| {
            let warnings: Vec<String> = warnings.iter().map(|w| (*w).into()).collect();
            now(&said("pid 1".into(), found, &warnings))
        };
        for found in [None, Some("found"), Some("found\nmore")] {
            for warnings in [&[][..], &["a: b", "c"]] {
                assert_eq!(
                    through(found, warnings),
                    Started::Now {
                        words: "pid 1".into(),
                        found: found.map(String::from),
                        warnings: warnings.iter().map(|w| (*w).into()).collect(),
                    }
                );
            }
        }
    }

    #[test]
    fn an_error_comes_through_the_pipe_whole() {
        let error =
            Error::cannot("listen on 127.0.0.1:1", "the port is in use: by me").with_hint("x");
        let sent = format!("{error}\n{}", error.hint().unwrap());
        assert_eq!(error_of(&sent).to_string(), error.to_string());
        assert_eq!(error_of(&sent).hint(), error.hint());
        assert_eq!(error_of("odd").to_string(), "cannot start: odd");
    }
}
