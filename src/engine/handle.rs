//! The way from other threads to the supervisor and back: a [`Request`] goes into its inbox, the [`Reply`] is put into
//! a slot and wakes the thread that waits for it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, Wall};
use crate::base::saved::{field, restore_fields, save_fields};
use crate::base::table::Table;
use crate::build::runner::BuildOutcome;
use crate::check::{Attempt, Seen};
use crate::config::Mode;
use crate::engine::snapshot::{BuildView, ExitView, SnapshotCell};
use crate::lifecycle::{Order, RunKey};
use crate::log::passthrough::Sources;
use crate::log::store::Log;
use crate::os::image::Image;
use crate::os::inbox::{Inbox, Waker};

/// A request to the supervisor. Names were checked against the snapshot; one that is gone
/// meanwhile (a reload) is answered as a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// The same of several processes. Answered when each is good, or gone where it was to stop (or can't be).
    Order {
        order: Order,
        /// Process names.
        names: Vec<String>,
    },
    /// Read `.mcp-run` again.
    Reload(Reload),
    /// Go on as another program.
    Upgrade(UpgradeWish),
    /// The answer to the order of that number, which was given before an upgrade.
    Resume(u64),
    /// Stop everything and leave.
    Shutdown {
        /// Kill at once.
        force: bool,
        /// The command of a person who wants it stopped until somebody starts it; None: it may come back by itself.
        by: Option<String>,
    },
}

/// An upgrade that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeWish {
    /// The program; None: that of the start.
    pub program: Option<PathBuf>,
    /// Builds under way are cancelled and repeated.
    pub now: bool,
    /// An older one too.
    pub force: bool,
}

/// How much of `.mcp-run` is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// All of it.
    Whole,
    /// Nothing: what would be done is only listed.
    DryRun,
    /// Processes that are new in it, without starting them.
    Additions,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// One for each process asked for, in the order asked.
    Units(Vec<Done>),
    /// The effects of a reload, or of one that would be done.
    Reload(Reloaded),
    /// The mistakes in `.mcp-run`: nothing was changed.
    Mistakes(Vec<String>),
    /// It could not be done at all: a sentence.
    Refused(String),
    /// The very same program runs already.
    SameProgram,
}

/// How an order to one process ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Done {
    /// The process.
    pub name: String,
    /// As asked.
    pub ok: bool,
    /// The mode of the run, or of the next one.
    pub mode: Mode,
    /// Of the run that serves now.
    pub pid: Option<i32>,
    /// Of the run that served before.
    pub previous_pid: Option<i32>,
    /// The build that was made for it.
    pub build: Option<BuildView>,
    /// Its readiness.
    pub ready: Option<bool>,
    /// How long nothing served.
    pub gap: Option<Duration>,
    /// Why not ok, in words.
    pub reason: Option<String>,
    /// Not ok, and the run of before goes on.
    pub old_serves: bool,
    /// Not ok, and the build of before was started again.
    pub rolled_back: bool,
    /// Not ok since it ended: how.
    pub exit: Option<ExitView>,
    /// Not ok: the last 20 lines of what failed, the build or the run.
    pub tail: Vec<String>,
    /// The ends of its runs since it was to stop.
    pub stopped: Stopped,
    /// How long it took.
    pub took: Duration,
}

/// The ends of a process's runs since an order to stop it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stopped {
    /// A signal was sent.
    pub signalled: bool,
    /// How many processes needed KILL.
    pub killed: usize,
    /// Those that survived it: pid and command.
    pub leftovers: Vec<(i32, String)>,
}

impl Done {
    /// Not ok, and nothing else is known.
    pub fn new(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }
}

/// The effects of a reload: names of processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Swapped.
    pub changed: Vec<String>,
    /// Started.
    pub added: Vec<String>,
    /// Stopped.
    pub removed: Vec<String>,
    /// Not touched.
    pub unchanged: Vec<String>,
    /// Those of them whose new settings need no new run, and apply to the one that runs.
    pub adjusted: Vec<String>,
    /// Why nothing was done, or what of it failed.
    pub errors: Vec<String>,
}

/// A message in the supervisor's inbox.
#[derive(Debug)]
pub enum Command {
    /// Somebody wants something.
    Request(Request, ReplySlot),
    /// Something that the engine's own threads noticed.
    Notice(Notice),
}

/// A program that was judged, and the checksum of the one that runs.
pub type Judged = Result<(Image, String), String>;

/// News from the engine's own threads.
#[derive(Debug)]
pub enum Notice {
    /// The log has all that a run had written when this was asked for; `all`: it can write no more.
    Drained { run: RunKey, all: bool },
    /// A build's thread is done.
    Built {
        /// The unit's index.
        unit: usize,
        /// The build.
        id: u64,
        outcome: Box<BuildOutcome>,
    },
    /// The result of an attempt to check a run.
    Probed { attempt: Attempt, seen: Seen },
    /// The program of an upgrade was opened and judged.
    Judged(Box<Judged>),
    /// A log can't be written to disk, or can be again.
    LogTrouble {
        /// The unit's index.
        unit: usize,
    },
    /// A build's thread says what it is doing.
    Phase {
        /// The unit's index.
        unit: usize,
        /// The build.
        id: u64,
        /// In words.
        phase: String,
    },
}

/// Where a reply is put.
#[derive(Debug, Clone, Default)]
pub struct ReplySlot {
    cell: Arc<Mutex<Option<Reply>>>,
    begun: Arc<AtomicBool>,
    /// Of its order; 0: it has none.
    number: Arc<AtomicU64>,
    waker: Option<Arc<Waker>>,
    /// It is woken when the order has begun, too.
    at_begin: bool,
}

impl ReplySlot {
    /// One that nobody reads.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Answers. The first answer counts.
    pub fn put(&self, reply: Reply) {
        self.cell
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reply);
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// The number by which the order can be asked for after an upgrade.
    pub fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Release);
    }

    /// The same; None: it has none.
    pub fn number(&self) -> Option<u64> {
        Some(self.number.load(Ordering::Acquire)).filter(|number| *number > 0)
    }

    /// The order is being carried out, and the snapshot shows it.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        if let Some(waker) = self.waker.as_ref().filter(|_| self.at_begin) {
            waker.wake();
        }
    }

    /// [`ReplySlot::begin`] was called.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// The answer, once it is there.
    pub fn take(&self) -> Option<Reply> {
        self.cell
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Facts that stay the same for the whole life of this bpm.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Of this bpm's life.
    pub instance_id: String,
    /// Its pid.
    pub pid: i32,
    /// When it began.
    pub started: Mono,
    /// When it began.
    pub started_at: Wall,
    /// `http://127.0.0.1:41873/mcp`, if there is TCP.
    pub url: Option<String>,
    /// The Unix socket, if there is one.
    pub socket: Option<String>,
    /// The command that started it.
    pub started_by: Option<String>,
    /// How the daemon before ended; None: it was stopped on purpose, or there was none.
    pub previous_end: Option<String>,
}

impl Identity {
    /// No bpm: logs are read without one.
    pub fn nobody() -> Self {
        Self {
            started: Mono::now(),
            started_at: Wall::now(),
            ..Self::default()
        }
    }

    /// What is asked is read from disk: there is no daemon.
    pub fn is_nobody(&self) -> bool {
        self.pid == 0
    }
}

/// The side of the supervisor that other threads hold.
#[derive(Debug)]
pub struct Handle {
    pub snapshot: SnapshotCell,
    pub identity: Identity,
    /// Connections of agents now.
    pub clients: AtomicUsize,
    /// All connections now.
    pub connections: AtomicUsize,
    /// By tool: how many calls were answered well, and how many with an error.
    calls: Mutex<Table<String, [u64; 2]>>,
    inbox: Arc<Inbox<Command>>,
    active: AtomicU64,
    seen: AtomicU64,
    over: AtomicBool,
    /// The outcome of the last upgrade.
    upgraded: Mutex<Value>,
}

/// The answer to an order that comes too late.
pub const STOPPING: &str = "bpm is stopping: nothing was done";

impl Handle {
    /// A handle, and the inbox in which its commands arrive.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(
        snapshot: SnapshotCell,
        identity: Identity,
    ) -> io::Result<(Arc<Self>, Arc<Inbox<Command>>)> {
        // Bounded by its senders: one request of each connection, a few notices of each process.
        let inbox = Inbox::new()?;
        let handle = Self {
            active: AtomicU64::new(identity.started.as_nanos()),
            snapshot,
            identity,
            clients: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            calls: Mutex::default(),
            inbox: Arc::clone(&inbox),
            seen: AtomicU64::new(0),
            over: AtomicBool::new(false),
            upgraded: Mutex::default(),
        };
        Ok((Arc::new(handle), inbox))
    }

    /// Asks; the answer comes into the slot and wakes `waker`, and so does, with `at_begin`, that the order has begun.
    pub fn ask(&self, ask: Request, waker: Option<&Arc<Waker>>, at_begin: bool) -> ReplySlot {
        let slot = ReplySlot {
            at_begin,
            waker: waker.cloned(),
            ..ReplySlot::default()
        };
        self.send(Command::Request(ask, slot.clone()));
        slot
    }

    /// Tells the supervisor what was noticed.
    pub fn tell(&self, fact: Notice) {
        self.send(Command::Notice(fact));
    }

    fn send(&self, command: Command) {
        // It has no limit, and nobody closes it.
        let _ = self.inbox.send(command);
    }

    /// This bpm is the successor of another one in the same process.
    pub fn set_upgraded(&self, what: Value) {
        *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// The outcome of the last upgrade; null: there was none.
    pub fn upgraded(&self) -> Value {
        self.upgraded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Nobody reads commands any more: what came too late to be answered will not be.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// [`Handle::end`] was called.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The figures that others have seen, for an upgrade in place.
    pub(super) fn save(&self) -> Value {
        let snapshot = self.snapshot.now();
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        save_fields(&[
            ("seq", &snapshot.seq),
            ("before", &snapshot.before),
            ("before_used", &snapshot.before_used),
            ("calls", &*calls),
            ("active", &self.active.load(Ordering::Relaxed)),
            ("seen", &self.seen.load(Ordering::Relaxed)),
        ])
    }

    /// Goes on with what was saved.
    pub(super) fn restore(&self, saved: &Value) -> Result<(), String> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        restore_fields(saved, &mut [("calls", &mut *calls)])?;
        self.active
            .store(field(saved, "active")?, Ordering::Relaxed);
        self.seen.store(field(saved, "seen")?, Ordering::Relaxed);
        Ok(())
    }

    /// Marks activity (spec: supervision, "Build"): a tool call, an order.
    pub fn touch(&self, now: Mono) {
        self.active.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Somebody was here, even if only to look.
    pub fn saw(&self, now: Mono) {
        self.seen.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// When somebody was here last.
    pub fn last_seen(&self) -> Mono {
        Mono::from_nanos(self.seen.load(Ordering::Relaxed)).max(self.last_activity())
    }

    /// Counts the answer to a tool call.
    pub fn count_call(&self, tool: &str, ok: bool) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.or_default(tool.to_owned())[usize::from(!ok)] += 1;
    }

    /// How many calls of a tool were answered well, and how many with an error.
    pub fn calls(&self, tool: &str) -> [u64; 2] {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(tool).copied().unwrap_or_default()
    }

    /// A client is connected.
    pub fn anybody_there(&self) -> bool {
        self.clients.load(Ordering::Relaxed) > 0
    }

    /// The last activity.
    pub fn last_activity(&self) -> Mono {
        Mono::from_nanos(self.active.load(Ordering::Relaxed))
    }
}

impl Sources for Handle {
    fn watch(&self, waker: &Arc<Waker>) {
        self.snapshot.watch(waker);
    }

    fn unwatch(&self, waker: &Arc<Waker>) {
        self.snapshot.unwatch(waker);
    }

    fn logs(&self) -> Vec<(String, Arc<Log>)> {
        let mut logs = Vec::new();
        for unit in &self.snapshot.now().units {
            logs.push((format!("[{}] ", unit.name), Arc::clone(&unit.log)));
            logs.push(("[build] ".to_owned(), Arc::clone(&unit.build_log)));
        }
        logs
    }
}
