//! The front of the daemon and of the foreground run: everything around the supervisor. All ways to
//! start are [`start`], all ways to end one from outside are [`stop`].

use std::cell::RefCell;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::clock::{Mono, Wall};
use crate::base::error::{Error, Failure, Result, named};
use crate::base::logger::{Level, Logger};
use crate::base::number;
use crate::base::paths::ProjectDir;
use crate::client::connection::{
    self, Descriptor, MIN_CLIENT_VERSION, PATIENCE, PROTOCOL_VERSION, VERSION, Verdict,
};
use crate::config::{Config, Port, Toggle};
use crate::engine::handle::{Handle, Identity};
use crate::engine::state_file::State;
pub use crate::engine::supervisor::read_config;
use crate::engine::supervisor::{Manager, Setup, Supervisor};
use crate::log::passthrough::{Passthrough, Sources};
use crate::os::detach::{self, Ready, Side};
use crate::os::lock::Lock;
use crate::os::net::{Accept, tcp_listener, unix_listener};
use crate::os::peer::{self, our_uid};
use crate::os::{fds, files, memory, proc, reap};
use crate::server::net::{Control, Listeners, Policy, Server, UidCheck};
use crate::tools::{Kernel, Tools};

use super::log;
use super::presence::ProjectPresence;
use super::sd_notify::{Env, SdNotify};
use super::stop::{judge_lasting, stop};

/// Answers in flight get so long when everything has stopped (spec: daemon, "Stop").
const GRACE: Duration = Duration::from_secs(10);

/// A terminal that does not read holds up our end no longer than this.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A project, found.
#[derive(Debug, Clone)]
pub struct Project {
    /// Canonical.
    pub root: PathBuf,
    /// Its folder of state; need not be there.
    pub dir: ProjectDir,
    /// The environment of this bpm.
    pub env: Env,
}

impl Project {
    /// The root's last component, as people call the project.
    pub fn name(&self) -> String {
        match self.root.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "/".into(),
        }
    }
}

/// Before or behind the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Returns when it has stopped.
    Foreground,
    /// Returns when it serves.
    Detached,
}

/// What is asked for besides the configuration.
#[derive(Clone, Default)]
pub struct StartOptions {
    /// `--port`.
    pub port: Option<Port>,
    /// `--replace`: stop the one that runs.
    pub replace: bool,
    /// Start these and what they depend on, rather than all with `autostart`.
    pub only: Option<Vec<String>>,
    /// Foreground without the processes' lines: standard output belongs to somebody else.
    pub quiet: bool,
    /// Begun once we serve: a front of the same process.
    pub beside: Option<Sidecar>,
}

/// Starts a thread.
pub type Sidecar = Arc<dyn Fn() -> io::Result<()>>;

/// How a start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// A daemon serves now.
    Now {
        /// Its pid and where it serves, for a person.
        words: String,
        /// What an earlier one that was killed had left, and that was stopped first.
        found: Option<String>,
    },
    /// One runs already, with this pid.
    Already(i32),
    /// We were it, and it is over.
    Ended,
}

/// Starts bpm for a project: the one way behind `bpm`, `bpm -d`, `start`, `up`, `daemon start` and `proxy`.
/// The configuration is checked before any fork. No thread may run yet for [`RunMode::Detached`].
///
/// # Errors
/// Whatever keeps it from serving; nothing of it is left then.
pub fn start(project: &Project, wishes: &StartOptions, how: RunMode) -> Result<Started> {
    let (config, over) = chosen(read_config(&project.root)?, &project.env, wishes)?;
    files::private_dir(project.dir.path()).map_err(|e| {
        Error::file("keep bpm's files in", project.dir.path(), e)
            .with_hint("set BPM_HOME to a folder that you may write")
    })?;
    let verdict = match wishes.replace {
        true => connection::judge(&project.dir, "cli")?,
        false => judge_lasting(project, "cli")?,
    };
    match verdict {
        Verdict::Running(..) | Verdict::Unhealthy(_) if wishes.replace => {
            stop(project, false, true, &mut |_| {})?;
        }
        Verdict::Running(descriptor, _) => return already(project, descriptor.pid, how),
        Verdict::Unhealthy(descriptor) => return Err(unhealthy(project, descriptor.as_ref())),
        Verdict::Stale(_) | Verdict::Stopped => {}
    }
    let mut plan = Plan {
        project,
        wishes,
        config,
        over,
        how,
        umask: 0,
    };
    match how {
        RunMode::Foreground => {
            plan.umask = detach::private_umask();
            serve(plan, Announcer::Nobody)
        }
        RunMode::Detached => match detach::detach() {
            Ok(Side::Parent(waiting)) => heard(project, waiting.verdict()),
            Ok(Side::Daemon(ready)) => {
                plan.umask = ready.umask;
                // Nobody looks at our own exit code; who started us has been told through the pipe.
                serve(plan, Announcer::Terminal(ready))
            }
            Err(e) => Err(Error::system("make a daemon", e)),
        },
    }
}

/// What came through the pipe from the daemon.
fn heard(project: &Project, verdict: detach::Verdict) -> Result<Started> {
    match verdict {
        detach::Verdict::Ready(text) => Ok(match text.split_once('\n') {
            Some((words, found)) => Started::Now {
                words: words.into(),
                found: Some(found.into()),
            },
            None => Started::Now {
                words: text,
                found: None,
            },
        }),
        detach::Verdict::Already(pid) => Ok(Started::Already(pid)),
        detach::Verdict::Failed(text) => Err(told(&text)),
        detach::Verdict::Died => Err(Error::cannot(
            format!("start {}", project.name()),
            "the daemon died before it was ready",
        )
        .with_hint(named("see", &project.dir.log()))),
    }
}

fn already(project: &Project, pid: i32, how: RunMode) -> Result<Started> {
    match how {
        RunMode::Detached => Ok(Started::Already(pid)),
        RunMode::Foreground => Err(Error::cannot(
            format!("start {}", project.name()),
            format!("already running (pid {pid})"),
        )
        .with_hint("\"bpm logs -f\" shows its lines, --replace takes its place")),
    }
}

/// Why nothing can be started beside a daemon that does not answer.
pub fn unhealthy(project: &Project, descriptor: Option<&Descriptor>) -> Error {
    let who = descriptor.map_or(String::new(), |d| format!(" (pid {})", d.pid));
    Error::cannot(
        format!("start {}", project.name()),
        format!("a daemon that does not answer holds its lock{who}"),
    )
    .with_hint("--replace, or \"bpm stop --force\", ends it")
}

/// The sentence and the hint of an error of the daemon, through the pipe and back.
fn told(text: &str) -> Error {
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

/// What the environment and the command line set over the file. The configuration itself stays as it is
/// written, or a reload would find it changed.
#[derive(Debug, Clone, Copy)]
struct Overrides {
    port: Option<Port>,
    idle_shutdown: Option<Duration>,
}

fn chosen(mut config: Config, env: &Env, wishes: &StartOptions) -> Result<(Config, Overrides)> {
    // Told in the terminal, as the others are.
    least(env)?;
    let from_env = env.get("BPM_PORT").map(|text| {
        let text = text.to_string_lossy();
        port(&text)
            .ok_or_else(|| Error::usage(format!("BPM_PORT={text:?} is neither a port nor auto")))
    });
    let idle = env.get("BPM_IDLE_TIMEOUT").map(|text| {
        let seconds = text.to_str().and_then(number::parse);
        seconds
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
            .ok_or_else(|| {
                Error::usage(format!("BPM_IDLE_TIMEOUT={text:?} is no number of seconds"))
            })
    });
    let over = Overrides {
        port: wishes.port.map(Ok).or(from_env).transpose()?,
        idle_shutdown: idle.transpose()?,
    };
    if let Some(only) = &wishes.only {
        let known = || config.processes.iter().map(|p| p.name.clone()).collect();
        for name in only {
            if config.processes.iter().all(|p| p.name != *name) {
                return Err(Failure::Unknown {
                    kind: "process",
                    name: name.clone(),
                    known: known(),
                }
                .into());
            }
        }
        // What these depend on is started because of them.
        for process in &mut config.processes {
            Arc::make_mut(process).autostart = only.contains(&process.name);
        }
    }
    Ok((config, over))
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

/// Who waits for us to be ready.
enum Announcer {
    Nobody,
    Terminal(Ready),
}

/// What is to be served, and how.
struct Plan<'a> {
    project: &'a Project,
    wishes: &'a StartOptions,
    config: Config,
    over: Overrides,
    how: RunMode,
    umask: u32,
}

/// The bpm that serves, from the lock to the end.
fn serve(plan: Plan<'_>, behind: Announcer) -> Result<Started> {
    let (project, how) = (plan.project, plan.how);
    let behind = RefCell::new(behind);
    let done = take_lock(project).and_then(|taken| match taken {
        Taken::Ours(lock) => run(plan, lock, &behind).map(|()| Started::Ended),
        Taken::Anothers(pid) => match behind.replace(Announcer::Nobody) {
            Announcer::Terminal(ready) => {
                ready.already(pid);
                Ok(Started::Ended)
            }
            Announcer::Nobody => already(project, pid, how),
        },
    });
    match (done, behind.into_inner()) {
        (Err(error), Announcer::Terminal(ready)) => {
            let hint = error.hint().map(|h| format!("\n{h}")).unwrap_or_default();
            ready.failed(&format!("{error}{hint}"));
            Ok(Started::Ended)
        }
        (done, _) => done,
    }
}

/// Whose the project's lock is.
enum Taken {
    Ours(Lock),
    /// Another bpm was quicker, and serves: its pid.
    Anothers(i32),
}

/// Takes the project's lock.
///
/// # Errors
/// Another one holds it and does not answer.
fn take_lock(project: &Project) -> Result<Taken> {
    let path = project.dir.lock();
    let until = Mono::now().after(PATIENCE * 5);
    loop {
        let taken = Lock::take(&path).or_else(|e| match e.kind() {
            // Somebody has just removed the folder.
            ErrorKind::NotFound => {
                files::private_dir(project.dir.path()).and_then(|()| Lock::take(&path))
            }
            _ => Err(e),
        });
        let lock = taken.map_err(|e| Error::file("lock", &path, e))?;
        if let Some(lock) = lock {
            return Ok(Taken::Ours(lock));
        }
        match judge_lasting(project, "cli")? {
            Verdict::Running(descriptor, _) => return Ok(Taken::Anothers(descriptor.pid)),
            // It has ended in between: ours now.
            Verdict::Stale(_) | Verdict::Stopped if Mono::now() < until => {}
            Verdict::Stale(_) | Verdict::Stopped => return Err(unhealthy(project, None)),
            Verdict::Unhealthy(descriptor) => {
                return Err(unhealthy(project, descriptor.as_ref()));
            }
        }
    }
}

/// Serves until all has stopped. An error leaves nothing running.
fn run(plan: Plan<'_>, lock: Lock, behind: &RefCell<Announcer>) -> Result<()> {
    let Plan {
        project,
        wishes,
        config,
        over,
        how,
        umask,
    } = plan;
    memory::one_heap();
    let foreground = how == RunMode::Foreground;
    let log = open_log(project, foreground)?;
    let nofile =
        fds::raise_nofile().map_err(|e| Error::system("raise the limit of open files", e))?;
    // Removed at each end but a violent one.
    let killed_before = project.dir.descriptor().exists();
    let (mut state, trouble) = State::read(&project.dir.state())?;
    if let Some(trouble) = trouble {
        log.write(Level::Warn, "daemon", &trouble);
    }
    let port = over.port.unwrap_or(config.port);
    let (listeners, identity, descriptor) = open(project, config.bind, port, &mut state)?;
    let policy = access_policy(&config, nofile.hard)?;
    let control = Arc::new(OnceLock::<Control>::new());
    let controlled = Arc::clone(&control);
    let passthrough = match config.passthrough {
        Toggle::Auto => foreground && !wishes.quiet,
        Toggle::On => !wishes.quiet,
        Toggle::Off => false,
    };
    let mut sd_notify = SdNotify::new(&project.env);
    let setup = Setup {
        config,
        dir: project.dir.clone(),
        env: project.env.for_children(),
        nofile,
        umask,
        hangs_up: foreground && reap::may_hang_up(),
        idle_shutdown: over.idle_shutdown,
        killed_before,
        identity,
        logger: Arc::clone(&log) as Arc<dyn Logger>,
        access: Box::new(move |config, apply| {
            let policy = access_policy(config, nofile.hard)?;
            if let Some(server) = controlled.get().filter(|_| apply) {
                server.set_policy(policy);
            }
            Ok(())
        }),
        manager: Box::new(sd_notify.clone()),
    };
    let mut supervisor = Supervisor::new(setup, state).map_err(|e| Error::system("begin", e))?;
    let handle = supervisor.handle();
    let door = open_door(&handle, &log, listeners, policy)?;
    let echo = if passthrough { echo(&handle) } else { None };
    // From here on others can find us, so it is removed again whatever happens. All that can fail stands
    // before the first start: nobody would stop what an error left running.
    let inlet = door.control();
    let _ = control.set(door.control());
    let mut guard = ProjectPresence::new(&project.dir, &descriptor, Arc::clone(&log), inlet, lock)?;
    if let Some(beside) = &wishes.beside {
        beside().map_err(|e| Error::system("begin", e))?;
    }
    let left = supervisor.begin();
    announce(project, &descriptor, left, log.as_ref(), behind);
    sd_notify.tell("READY=1");
    let ended = supervisor.run(&mut guard);
    if ended.is_err() {
        supervisor.kill_all();
    }
    handle.end();
    door.drain(GRACE);
    if let Some(echo) = echo {
        echo.finish(LAST_LINES);
    }
    log.write(Level::Info, "daemon", "stopped");
    drop(guard);
    ended.map_err(|e| Error::system("go on", e))
}

/// Tells the log, and who waits in a terminal, that we serve. `left`: what a bpm that was killed had left.
fn announce(
    project: &Project,
    descriptor: &Descriptor,
    left: Option<String>,
    log: &dyn Logger,
    behind: &RefCell<Announcer>,
) {
    let place = descriptor
        .url
        .as_deref()
        .unwrap_or("on the Unix socket only");
    let words = format!("pid {}, {place}", descriptor.pid);
    let text = format!("bpm {VERSION} serves {}: {words}", project.name());
    log.write(Level::Info, "daemon", &text);
    if let Announcer::Terminal(ready) = behind.replace(Announcer::Nobody) {
        let left = left.map(|text| format!("\n{text}")).unwrap_or_default();
        ready.ready(&format!("{words}{left}"));
    }
}

/// Opens the ways in: what listens there, who we are, and how others find us.
fn open(
    project: &Project,
    bind: IpAddr,
    port: Port,
    state: &mut State,
) -> Result<(Listeners, Identity, Descriptor)> {
    let tcp = listen(bind, port, state)?;
    let socket = project
        .dir
        .socket(project.env.get("XDG_RUNTIME_DIR"), our_uid());
    let unix = open_socket(&project.dir, &socket)?;
    let identity = identity(tcp.as_ref(), &socket);
    let descriptor = describe(project, &identity, socket);
    let listeners = Listeners {
        tcp: tcp.into_iter().collect(),
        unix: Some(unix),
    };
    Ok((listeners, identity, descriptor))
}

fn identity(tcp: Option<&TcpListener>, socket: &Path) -> Identity {
    let started = Mono::now();
    Identity {
        instance_id: format!("{:016x}", RandomState::new().hash_one(started.as_nanos())),
        pid: std::process::id().cast_signed(),
        started,
        started_at: Wall::now(),
        url: tcp.and_then(|l| l.local_addr().ok()).map(url),
        socket: Some(socket.display().to_string()),
    }
}

/// How loud a line must be to be written.
fn least(env: &Env) -> Result<Level> {
    let Some(word) = env.get("BPM_LOG_LEVEL").map(|w| w.to_string_lossy()) else {
        return Ok(Level::Info);
    };
    log::level(&word).ok_or_else(|| {
        Error::usage(format!(
            "BPM_LOG_LEVEL={word:?} is none of debug, info, warn, error"
        ))
    })
}

fn open_log(project: &Project, foreground: bool) -> Result<Arc<log::DaemonLog>> {
    let least = least(&project.env)?;
    let manner = if foreground {
        log::Manner::Foreground
    } else {
        log::Manner::Detached
    };
    log::DaemonLog::open(&project.dir, manner, least)
        .map(Arc::new)
        .map_err(|e| Error::file("write", &project.dir.log(), e))
}

/// The TCP listener of `/mcp`, if there is to be one.
fn listen(bind: IpAddr, port: Port, state: &mut State) -> Result<Option<TcpListener>> {
    let number = match port {
        Port::Off => return Ok(None),
        Port::Fixed(port) => port,
        Port::Any => {
            let kept = state.port;
            let again = kept.and_then(|p| tcp_listener(bind, p, Accept::AtOnce).ok());
            if let Some(listener) = again {
                return Ok(Some(listener));
            }
            0
        }
    };
    let listener =
        tcp_listener(bind, number, Accept::AtOnce).map_err(|e| port_taken(bind, number, e))?;
    if port == Port::Any
        && let Ok(address) = listener.local_addr()
    {
        state.port = Some(address.port());
    }
    Ok(Some(listener))
}

fn port_taken(bind: IpAddr, port: u16, e: io::Error) -> Error {
    let what = format!("listen on {}", SocketAddr::new(bind, port));
    if e.kind() != ErrorKind::AddrInUse {
        return Error::system(what, e);
    }
    let why = match proc::port_holder(bind, port) {
        Some((pid, command)) => format!("the port is in use by pid {pid} ({command})"),
        None => "the port is in use".into(),
    };
    Error::cannot(what, why).with_hint("--port auto takes a free one, --port N another")
}

fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        // Everywhere is reached here as well.
        ip if ip.is_unspecified() && ip.is_ipv4() => IpAddr::from([127, 0, 0, 1]),
        ip if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    format!("http://{}/mcp", SocketAddr::new(ip, address.port()))
}

pub(super) fn open_socket(
    dir: &ProjectDir,
    path: &Path,
) -> Result<std::os::unix::net::UnixListener> {
    let folder = path.parent().unwrap_or(dir.path());
    // We hold the lock, and the folder is nobody else's: whatever has that name goes.
    files::private_dir(folder)
        .and_then(|()| {
            let _ = fs::remove_file(path);
            unix_listener(path, true, Accept::AtOnce)
        })
        .map_err(|e| Error::file("listen on", path, e))
}

fn describe(project: &Project, identity: &Identity, socket: PathBuf) -> Descriptor {
    let exe = std::env::current_exe().unwrap_or_default();
    Descriptor {
        pid: identity.pid,
        process_start: proc::start_time(identity.pid).unwrap_or_default(),
        instance_id: identity.instance_id.clone(),
        project: project.root.display().to_string(),
        version: VERSION.into(),
        protocol_version: PROTOCOL_VERSION,
        min_client_version: MIN_CLIENT_VERSION.into(),
        socket,
        url: identity.url.clone(),
        started_at: identity.started_at.rfc3339(),
        exe: exe.display().to_string(),
    }
}

/// Connections leave room for processes (spec: daemon, "Who may").
fn connections(config: &Config, descriptors: u64) -> usize {
    let processes = config.processes.len() as u64;
    let room = descriptors.saturating_sub(64).saturating_sub(6 * processes);
    room.clamp(16, 1_024) as usize
}

fn access_policy(config: &Config, descriptors: u64) -> Result<Policy> {
    let token = match &config.token_file {
        None => None,
        Some(path) => Some(token(path)?),
    };
    let mut allowed_hosts = config.allowed_hosts.clone();
    // The address that our own URL names: no name can lead a browser here that then says this.
    match config.bind {
        ip if ip.is_unspecified() => {}
        IpAddr::V4(ip) => allowed_hosts.push(ip.to_string()),
        IpAddr::V6(ip) => allowed_hosts.push(format!("[{ip}]")),
    }
    Ok(Policy {
        allowed_hosts,
        allowed_origins: config.allowed_origins.clone(),
        token,
        max_connections: connections(config, descriptors),
        uid: match peer::uid_is_shared() {
            true => UidCheck::Meaningless,
            false => UidCheck::Kernel,
        },
    })
}

/// The contents of `token_file`, which must be ours and for nobody else's eyes.
fn token(path: &Path) -> Result<Vec<u8>> {
    let what = || named("use token_file", path);
    let (text, file) =
        files::read_named(path).map_err(|e| Error::file("use token_file", path, e))?;
    if file.uid() != our_uid() {
        return Err(Error::cannot(
            what(),
            format!("it belongs to uid {}", file.uid()),
        ));
    }
    if file.mode() & 0o077 != 0 {
        return Err(Error::cannot(what(), "others may read it")
            .with_hint(format!("chmod 600 {}", path.display())));
    }
    let token = text.trim_ascii().to_vec();
    if token.is_empty() {
        return Err(Error::cannot(what(), "it is empty"));
    }
    Ok(token)
}

fn open_door(
    handle: &Arc<Handle>,
    log: &Arc<log::DaemonLog>,
    listeners: Listeners,
    policy: Policy,
) -> Result<Server> {
    let logger = Arc::clone(log) as Arc<dyn Logger>;
    let tools = Tools::new(Arc::clone(handle), Box::new(Kernel), logger);
    Server::start(Arc::new(tools), listeners, policy)
        .map_err(|e| Error::system("open the doors", e))
}

/// Passes the processes' lines through. None: no descriptor or thread to be had, and the logs have them.
fn echo(handle: &Arc<Handle>) -> Option<Passthrough> {
    let out = io::stdout().as_fd().try_clone_to_owned().ok()?;
    let err = io::stderr().as_fd().try_clone_to_owned().ok()?;
    Passthrough::start(Arc::clone(handle) as Arc<dyn Sources>, out, err).ok()
}

/// Removes what a daemon is found by. For who holds the lock, or knows that nobody does.
pub(super) fn clear(dir: &ProjectDir, descriptor: Option<&Descriptor>) {
    let _ = fs::remove_file(dir.descriptor());
    let Some(descriptor) = descriptor else { return };
    let _ = fs::remove_file(&descriptor.socket);
    // A short folder was made for the socket alone.
    if let Some(folder) = descriptor.socket.parent().filter(|f| *f != dir.path()) {
        let _ = fs::remove_dir(folder);
    }
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
    fn an_error_comes_through_the_pipe_whole() {
        let error =
            Error::cannot("listen on 127.0.0.1:1", "the port is in use: by me").with_hint("x");
        let sent = format!("{error}\n{}", error.hint().unwrap());
        assert_eq!(told(&sent).to_string(), error.to_string());
        assert_eq!(told(&sent).hint(), error.hint());
        assert_eq!(told("odd").to_string(), "cannot start: odd");
    }

    #[test]
    fn a_url_can_be_called() {
        let of = |a: &str| url(a.parse().unwrap());
        assert_eq!(of("0.0.0.0:80"), "http://127.0.0.1:80/mcp");
        assert_eq!(of("[::]:80"), "http://[::1]:80/mcp");
        assert_eq!(of("127.0.0.1:8080"), "http://127.0.0.1:8080/mcp");
    }

    #[test]
    fn a_token_of_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("bpm-token-{}", std::process::id()));
        fs::write(&path, "secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            token(&path)
                .unwrap_err()
                .to_string()
                .contains("others may read it")
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(token(&path).unwrap(), b"secret");
        fs::remove_file(&path).unwrap();
    }
}
