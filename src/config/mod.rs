//! Pure: no system call, no thread, no clock.
//!
//! `.mcp-run`: text -> [`Config`], with every mistake at its line and column. Knows nothing of a daemon.
//!
//! Reading a configuration never runs anything and asks the system nothing.

mod address;
mod claims;
mod depend;
mod diff;
mod dotenv;
mod expand;
pub(crate) mod graph;
pub(crate) mod inherit;
mod keys;
mod launch;
mod parse;
mod probe;
mod read;
mod references;
mod room;
pub(crate) mod shell;
mod signal;
mod values;

pub use address::{HttpTarget, Listen, parse_http, parse_listen, parse_tcp};
pub use depend::graph_node;
pub use diff::{Diff, diff, fingerprint, needs_restart};
pub use dotenv::{Dotenv, Variable, parse_dotenv};
pub use expand::{EnvNotes, Environment, Expand, LARGEST, environment, expand, variable_of};
pub use keys::{Fallback, KEYS, Key, Place};
pub use launch::{Happening, Launch, Limits, OnEvent, StopTo, Success, is_success};
pub use parse::{parse, parse_bytes};
pub use references::{Reference, with_ports};
pub use signal::signal_number;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Fault;
use crate::base::paths::fnv1a_64;

/// Access over TCP, as far as a reload can change it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Absolute.
    pub token_file: Option<PathBuf>,
    /// Absolute.
    pub metrics_token_file: Option<PathBuf>,
    pub dashboard: bool,
    pub allowed_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
}

/// A project's whole `.mcp-run`, checked, defaults filled in. Each process has its own resolved
/// values of what the top level gives defaults for.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The canonical folder of the `.mcp-run`.
    pub root: PathBuf,
    /// `mcp_port`.
    pub port: Port,
    /// `bind`.
    pub bind: IpAddr,
    /// Access over TCP.
    pub http: Http,
    /// `dev_timeout_hours`.
    pub dev_timeout: Duration,
    pub backoff: Backoff,
    /// `passthrough`.
    pub passthrough: Toggle,
    /// `heartbeat_minutes`; zero: none.
    pub heartbeat: Duration,
    /// `idle_shutdown_minutes`; zero: never.
    pub idle_shutdown: Duration,
    /// `direnv`.
    pub direnv: Toggle,
    /// `cgroup`.
    pub cgroup: Toggle,
    /// In the order of the file.
    pub processes: Vec<Arc<Process>>,
    /// Remarks: settings that may be meant otherwise, or have no effect where they stand; each with its place.
    pub not_in_effect: Vec<Fault>,
    /// Where it names what has to be there when a process starts.
    pub named: Named,
}

/// Places of names that can be looked up only where the processes start: each a mistake but for its reason.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Named {
    /// `user` and `group` of each process that has a user, in their order.
    pub accounts: Vec<(Fault, Fault)>,
    /// Files of `env_file`.
    pub env_files: Vec<(PathBuf, Fault)>,
}

impl Config {
    /// Notes what the env files say, so that a later reading can tell an edit. `contents`: None where a file
    /// can't be read; the start of its process says so.
    pub fn read_env_files(&mut self, contents: impl Fn(&Path) -> Option<Vec<u8>>) {
        for process in &mut self.processes {
            for file in &mut Arc::make_mut(process).env_files {
                file.says = contents(&file.path).map(|bytes| {
                    let text = String::from_utf8_lossy(&bytes);
                    match parse_dotenv(&text, "") {
                        Ok(file) => file.fingerprint(),
                        Err(_) => fnv1a_64(&bytes),
                    }
                });
            }
        }
    }
}

/// The waits before a process is started again after a crash.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// `dev_crash_wait_seconds`.
    pub dev: Duration,
    /// `release_crash_backoff_initial_seconds`.
    pub initial: Duration,
    /// `release_crash_backoff_max_seconds`.
    pub max: Duration,
    /// `crash_backoff_factor`.
    pub factor: f64,
}

/// How many ends before readiness within a time make a process failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimit {
    /// `start_limit_burst`; zero: no limit.
    pub burst: u32,
    /// `start_limit_seconds`.
    pub span: Duration,
}

/// Where `/mcp` listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// A free one, kept for the project.
    Any,
    /// No TCP at all.
    Off,
    /// This one.
    Fixed(u16),
}

/// `"auto"`, `true`, `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Toggle {
    /// Decided where it is used.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// One `[process.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The table's name.
    pub name: String,
    /// `type`.
    pub kind: Kind,
    /// `args`.
    pub args: Vec<String>,
    /// `command`; always there but for rust.
    pub command: Option<Command>,
    /// `build`; None: the type's own (cargo for rust, nothing otherwise).
    pub build: Option<Command>,
    /// `build_release`; None: as `build`.
    pub build_release: Option<Command>,
    /// `build_timeout_seconds`.
    pub build_timeout: Duration,
    /// `package` (rust).
    pub package: Option<String>,
    /// `bin` (rust).
    pub bin: Option<String>,
    /// `features` (rust).
    pub features: Vec<String>,
    /// `cargo_args` (rust).
    pub cargo_args: Vec<String>,
    /// `mode`; None: auto.
    pub mode: Option<Mode>,
    /// `cwd`, absolute.
    pub cwd: PathBuf,
    /// `env` of the top level and then of the process, as written (not expanded), in order; later ones win.
    pub env: Vec<(String, String)>,
    /// `env_file` of the top level and then of the process, absolute.
    pub env_files: Vec<EnvFile>,
    /// `autostart`.
    pub autostart: bool,
    /// `restart`.
    pub restart: Restart,
    pub start_limit: StartLimit,
    /// `stop_signal`, as a number.
    pub stop_signal: i32,
    /// `stop_timeout_seconds`.
    pub stop_timeout: Duration,
    /// `depends_on`, conditions resolved.
    pub depends_on: Vec<Dependency>,
    /// `port`.
    pub port: Option<PortWish>,
    /// `listen`, as written (not expanded).
    pub listen: Vec<String>,
    /// `swap`.
    pub swap: Swap,
    /// `ready`; for a `port` without a `ready`, the TCP check of that port.
    pub ready: Option<Ready>,
    /// `health`.
    pub health: Option<Health>,
    /// `watch`, globs.
    pub watch: Vec<String>,
    /// `color`.
    pub color: bool,
    /// With what a run is started.
    pub launch: Launch,
    /// `stop_to`.
    pub stop_to: StopTo,
    /// `success_exit_codes`.
    pub success: Vec<Success>,
    /// `on_event`, of the top level first.
    pub on_event: OnEvent,
    /// `log_lines`.
    pub log_lines: u64,
    /// `log_bytes`.
    pub log_bytes: u64,
    /// `log_runs`.
    pub log_runs: usize,
    /// `log_disk`; zero: none.
    pub log_disk: u64,
    /// The processes whose ports its texts name.
    pub references: Vec<Reference>,
}

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Built by cargo; bpm runs the binary itself.
    Rust,
    /// `command` with npm's habits.
    Npm,
    /// Any program.
    Command,
    /// Runs once; done on exit 0.
    Task,
}

impl Kind {
    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Npm => "npm",
            Self::Command => "command",
            Self::Task => "task",
        }
    }
}

/// The kind of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Quick to build.
    Dev,
    /// Quick to run.
    #[default]
    Release,
}

impl Mode {
    /// As in the file and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// A list is executed as it is, a string by `sh -c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Program and arguments; may be empty for `build` (nothing to do).
    List(Vec<String>),
    /// A line for `sh -c`.
    Shell(String),
}

/// `restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// After every end.
    Always,
    /// After an end that is not exit code 0.
    OnFailure,
    /// After none.
    Never,
}

/// One entry of `depends_on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The other process.
    pub name: String,
    pub until: Condition,
}

/// The condition that a dependent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It runs.
    Started,
    /// Its readiness check has passed.
    Ready,
    /// It ended with 0.
    Completed,
}

/// `port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortWish {
    /// A free one, kept for the project.
    Auto,
    /// This one.
    Fixed(u16),
}

/// `swap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The old one ends, the new one starts.
    StopStart,
    /// The old one ends once the new one is ready.
    Overlap,
}

/// The way to find out whether a process is ready, or healthy.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A connection to `ip:port` succeeds. As written (`${PORT}` is expanded at start).
    Tcp(String),
    /// A connection to the process's own port succeeds, at whichever loopback address.
    Port,
    /// A GET is answered with 2xx. As written.
    Http(String),
    /// A line matches.
    Log(String),
    /// A command ends with 0.
    Command(Vec<String>),
    /// `READY=1` comes over `NOTIFY_SOCKET`.
    Notify,
    /// So long after the start.
    Delay(Duration),
}

/// `ready`.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    pub probe: Probe,
    /// `timeout_seconds`.
    pub timeout: Duration,
    /// `interval_seconds`.
    pub interval: Duration,
    /// `settle_seconds`.
    pub settle: Duration,
}

/// `health`.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub probe: Probe,
    /// `interval_seconds`.
    pub interval: Duration,
    /// `timeout_seconds`.
    pub timeout: Duration,
    /// `failures` in a row.
    pub failures: u32,
}

/// One `env_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// Absolute.
    pub path: PathBuf,
    /// The path ended in `?`: it may be missing.
    pub optional: bool,
    /// A fingerprint of the variables in it, by [`Config::read_env_files`].
    pub says: Option<u64>,
}
