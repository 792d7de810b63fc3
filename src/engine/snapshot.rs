//! The visible state of the project: a snapshot that the supervisor replaces after each change and
//! that any thread reads without asking it. A reader never holds up the supervisor: the lock covers one
//! exchange of a pointer.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::{Mono, Wall};
use crate::base::error::listed;
use crate::base::saved::{saved, saved_enum};
pub use crate::build::{BuildError, BuildErrors};
use crate::config::{Kind, Mode};
use crate::lifecycle::Facts;
pub use crate::lifecycle::State;
use crate::log::store::Log;
use crate::os::poll::Waker;

/// How many events are kept.
pub const EVENTS: usize = 256;

/// The whole project at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Rises with every change.
    pub seq: u64,
    /// The root's last path component.
    pub project: String,
    /// The canonical root.
    pub root: PathBuf,
    /// In the order of the file.
    pub units: Vec<Arc<UnitView>>,
    /// The newest [`EVENTS`], oldest first; their `seq` rises by one.
    pub events: VecDeque<Arc<EventView>>,
    /// The number of the newest event of an earlier bpm: ours go on behind it.
    pub before: u64,
    /// The newest number that is known to have been used by then.
    pub before_used: u64,
    /// Of `.mcp-run` as it was read ([`crate::os::files::digest`]).
    pub config: Option<u64>,
    /// Dev if any process is in dev.
    pub mode: Mode,
    /// When dev processes are built for release, if nobody calls before.
    pub release_at: Option<Mono>,
    /// Orderly stop under way.
    pub stopping: bool,
    /// The present faults of bpm itself, a sentence each.
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// Without processes, and before anything happened.
    pub fn new(project: String, root: PathBuf) -> Self {
        Self {
            project,
            root,
            ..Self::default()
        }
    }

    /// The process of that name.
    pub fn unit(&self, name: &str) -> Option<&Arc<UnitView>> {
        self.units.iter().find(|u| u.name == name)
    }

    /// For a service manager: `3 processes; crashed: web`. It stays the same while all is well.
    pub fn summary(&self) -> String {
        let noun = match self.units.len() {
            1 => "process",
            _ => "processes",
        };
        let mut text = format!("{} {noun}", self.units.len());
        for state in [State::Crashed, State::Failed] {
            let units = self.units.iter().filter(|u| u.facts.state == state);
            let names: Vec<String> = units.map(|u| u.name.clone()).collect();
            if !names.is_empty() {
                text.push_str(&format!("; {}: {}", state.as_str(), listed(&names)));
            }
        }
        text
    }

    /// All names, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.units.iter().map(|u| u.name.clone()).collect()
    }
}

/// Numbers that only rise in a daemon's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU time of the runs that have ended.
    pub cpu: Duration,
    /// Builds that ended.
    pub builds_ok: u64,
    pub builds_failed: u64,
    pub builds_cancelled: u64,
}

/// One process.
#[derive(Debug, Clone)]
pub struct UnitView {
    pub name: String,
    pub kind: Kind,
    /// The lifecycle's facts; `healthy` is None where it has no health check.
    pub facts: Facts,
    /// When the state last changed.
    pub since: Wall,
    /// The number in the log of the run that serves.
    pub run: Option<u64>,
    /// The build under way, else the last one.
    pub build: Option<BuildView>,
    /// The last one that has ended.
    pub built: Option<BuildView>,
    pub counters: Counters,
    /// The last 32 exits, oldest first.
    pub exits: Arc<VecDeque<ExitView>>,
    pub depends_on: Vec<String>,
    /// The port that its settings give it.
    pub port: Option<u16>,
    /// Its settings ask for colours: `color` or `tty`.
    pub colours: bool,
    /// It has something to build.
    pub builds: bool,
    /// Its run was taken over from a daemon that died.
    pub adopted: bool,
    /// Promises of its settings that do not hold now, a sentence each.
    pub warnings: Vec<String>,
    pub log: Arc<Log>,
    pub build_log: Arc<Log>,
}

impl UnitView {
    /// A process that was never started, with its logs.
    pub fn idle(name: &str, log: Arc<Log>, build_log: Arc<Log>) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Command,
            facts: Facts::default(),
            since: Wall::now(),
            run: None,
            build: None,
            built: None,
            counters: Counters::default(),
            exits: Arc::default(),
            depends_on: Vec::new(),
            port: None,
            colours: false,
            builds: false,
            adopted: false,
            warnings: Vec::new(),
            log,
            build_log,
        }
    }

    /// Why its lines, or those of its builds, are not written to disk now.
    pub fn log_trouble(&self) -> Option<String> {
        log_trouble(&self.log, &self.build_log)
    }

    /// It does what it is there for, or did.
    pub fn is_ready(&self) -> bool {
        match self.facts.state {
            State::Running => self.facts.ready != Some(false),
            State::Done => true,
            State::Stopped
            | State::Waiting
            | State::Building
            | State::Starting
            | State::Stopping
            | State::Crashed
            | State::Failed => false,
        }
    }
}

/// One build.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BuildView {
    /// Rises by one with each build of the process (also the run number in the build log).
    pub id: u64,
    /// How far it is.
    pub state: BuildState,
    /// While it runs: `environment`, `compiling`, `waiting for cargo's lock`, ...; null otherwise.
    pub phase: Option<String>,
    pub mode: Mode,
    /// When it began.
    pub at: Wall,
    /// While it runs, when it began.
    pub began: Option<Mono>,
    /// How long it took.
    pub took: Option<Duration>,
    /// Its end.
    pub ok: Option<bool>,
    pub errors: Arc<BuildErrors>,
}

impl BuildView {
    /// One that has not begun.
    pub fn queued(id: u64, mode: Mode) -> Self {
        Self {
            id,
            state: BuildState::Queued,
            phase: Some("waiting for its turn".into()),
            mode,
            at: Wall::now(),
            ..Self::default()
        }
    }
}

saved! {
    Counters { cpu, builds_ok, builds_failed, builds_cancelled }
    BuildView { id, state, phase, mode, at, began, took, ok, errors }
    BuildErrors { list, count, text }
    BuildError { file, line, column, message }
    ExitView {
        run, code, signal, core, oom, asked, crash, fault, at, uptime, cpu, peak_rss, tail,
    }
    EventView { seq, at, process, kind, text }
}

saved_enum! { BuildState { Queued, Running, Ok, Failed, Cancelled } }

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BuildState {
    /// Another one is under way.
    #[default]
    Queued,
    /// It is under way.
    Running,
    /// It made what it was to make.
    Ok,
    /// It did not.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

impl BuildState {
    /// As in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// It has not ended yet.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// One exit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExitView {
    /// The run's number in the log.
    pub run: u64,
    /// Exit code.
    pub code: Option<i32>,
    /// Signal's name without SIG: `KILL`.
    pub signal: Option<String>,
    /// Core dumped.
    pub core: bool,
    /// Killed for memory, as far as it can be told.
    pub oom: bool,
    /// bpm asked for it.
    pub asked: bool,
    /// Nobody wanted it, so the next start follows, or would.
    pub crash: bool,
    /// Why, where it did so though nobody wanted it to: it was not ready in time, or not healthy.
    pub fault: Option<String>,
    /// When.
    pub at: Wall,
    /// Length of the run.
    pub uptime: Duration,
    /// CPU time of the process and its reaped children.
    pub cpu: Duration,
    /// Peak resident memory, bytes.
    pub peak_rss: u64,
    /// For crashes: the last 40 lines.
    pub tail: Arc<Vec<String>>,
}

impl ExitView {
    /// `exit code 3`, `signal KILL`, `signal SEGV (core dumped)`.
    pub fn words(&self) -> String {
        let code = self.code.map(i64::from);
        exit_words(self.signal.as_deref(), code, self.core, self.oom)
    }
}

/// Why lines of a process, or of its builds, are not written to disk now.
pub fn log_trouble(log: &Log, build_log: &Log) -> Option<String> {
    log.trouble().or_else(|| build_log.trouble())
}

/// How a process ended, from the fields of its exit.
pub fn exit_words(signal: Option<&str>, code: Option<i64>, core: bool, oom: bool) -> String {
    match (signal, code) {
        (Some(signal), _) => {
            let core = if core { " (core dumped)" } else { "" };
            let oom = if oom { " (probably out of memory)" } else { "" };
            format!("signal {signal}{core}{oom}")
        }
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "status unknown (adopted)".into(),
    }
}

/// Something that happened.
#[derive(Debug, Clone, Default)]
pub struct EventView {
    /// From 1, rising by one.
    pub seq: u64,
    /// When.
    pub at: Wall,
    /// Of which process; None: of bpm.
    pub process: Option<String>,
    /// `state`, `build`, `exit`, `reload`, ...
    pub kind: Cow<'static, str>,
    /// In words.
    pub text: String,
}

/// Where the snapshot hangs.
#[derive(Debug)]
pub struct SnapshotCell {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    now: Arc<Snapshot>,
    watchers: Vec<Arc<Waker>>,
}

impl SnapshotCell {
    /// With a first snapshot.
    pub fn new(first: Snapshot) -> Self {
        Self {
            inner: Mutex::new(Inner {
                now: Arc::new(first),
                watchers: Vec::new(),
            }),
        }
    }

    /// The newest snapshot.
    pub fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.lock().now)
    }

    /// Replaces the snapshot and wakes who watches.
    pub fn publish(&self, next: Snapshot) {
        let mut inner = self.lock();
        inner.now = Arc::new(next);
        // Waking is one non-blocking write at most.
        for watcher in &inner.watchers {
            watcher.wake();
        }
    }

    /// Wakes `waker` at each change until [`SnapshotCell::unwatch`].
    pub fn watch(&self, waker: &Arc<Waker>) {
        self.lock().watchers.push(Arc::clone(waker));
    }

    /// Undoes [`SnapshotCell::watch`].
    pub fn unwatch(&self, waker: &Arc<Waker>) {
        self.lock().watchers.retain(|w| !Arc::ptr_eq(w, waker));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
