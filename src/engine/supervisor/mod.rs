//! The owner of all processes: one thread that takes commands, signals and time in, asks `lifecycle`
//! what follows, and does it. It alone spawns, signals and reaps: a second waiter would lose exits.
//!
//! It waits in one poll(2) over its signals, its inbox and the outputs of direnv, until the next
//! deadline; when nothing is due it sleeps for ever.

mod builds;
mod checks;
mod environment;
mod launch;
mod orders;
mod reload;
mod runs;
mod sockets;
mod view;
mod watching;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Mono, Wall};
use crate::base::error::reason;
use crate::base::logger::{Level, Logger};
use crate::base::paths::{CONFIG_FILE, ProjectDir};
use crate::base::table::{Set, Table};
use crate::build;
use crate::check::{Prober, Schedule};
use crate::config::{self, Command, Config, Mode, PortWish, Process, Swap};
use crate::engine::handle::{
    self, CommandReceiver, Handle, Identity, Notice, Reply, ReplySlot, Request, STOPPING,
};
use crate::engine::snapshot::{BuildView, Counters, EventView, Snapshot, SnapshotCell, UnitView};
use crate::engine::state_file::{BLOCK, Disk, Exits, Numbers, State, StoppedBy};
use crate::lifecycle::{Effect, Event, Fleet, Order, Policy, RunKey, Ticket, UnitId};
use crate::log::capture::Captures;
use crate::log::store::{Kind, Limits, Log};
use crate::os::fds::Nofile;
use crate::os::files;
use crate::os::memory;
use crate::os::poll::{self, Mailbox, Until, Waker};
use crate::os::proc;
use crate::os::reap::{self, Child, Signals};
use crate::watch::watcher::Watcher;

pub use reload::read_config;

use builds::Build;
use checks::Checking;
use environment::{Base, DirenvJob};
use orders::PendingOrder;
use runs::{RunRecord, Stopped, Sweep};
use sockets::Sockets;

/// Applies the access rules of a configuration; false: only checks them.
pub type Access = Box<dyn FnMut(&Config, bool) -> crate::base::error::Result<()> + Send>;

/// Everything that a supervisor needs to begin.
pub struct Setup {
    /// Checked.
    pub config: Config,
    /// The project's folder; it is there, and locked.
    pub dir: ProjectDir,
    /// The environment of bpm's start, less what is meant for bpm alone.
    pub env: Vec<(OsString, OsString)>,
    /// What [`crate::os::fds::raise_nofile`] found.
    pub nofile: Nofile,
    /// The umask of whoever started bpm.
    pub umask: u32,
    /// INT and TERM stop it, the second kills; HUP stops too where this is set (a terminal that
    /// went away), and reloads where not.
    pub hangs_up: bool,
    /// Over the configuration's, now and after a reload (`BPM_IDLE_TIMEOUT`).
    pub idle_shutdown: Option<Duration>,
    /// The bpm before did not end in order: it may have left processes.
    pub killed_before: bool,
    /// Who we are.
    pub identity: Identity,
    /// bpm's own log.
    pub logger: Arc<dyn Logger>,
    /// Called for each configuration that is read.
    pub access: Access,
    /// Told of readiness, reloads, stops and once per half of its watchdog's time (sd_notify(3)).
    pub manager: Box<dyn Manager>,
}

/// The service manager that started bpm and wants to know how it is: systemd, or none.
pub trait Manager: Send {
    /// `READY=1`, `STOPPING=1`, `STATUS=...`
    fn tell(&mut self, message: &str);
    /// How often `WATCHDOG=1` is due.
    fn watchdog(&self) -> Option<Duration>;
}

/// What sees to it that this bpm stays the only one of its project, and can be found.
pub trait Presence {
    /// Readable when there may be something to see to.
    fn notify_socket(&self) -> Option<BorrowedFd<'_>>;
    /// Sees to it.
    fn look(&mut self) -> PresenceState;
}

/// What [`Presence::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceState {
    /// All is as it was.
    Same,
    /// bpm's files were gone, and are there again.
    Mended,
    /// They were gone, and another bpm was quicker: all in the project's folder is that one's.
    Displaced,
}

/// By then what starts by itself has been started.
const REST_AFTER: Duration = Duration::from_secs(2);

/// One process of the project, with all that is not the lifecycle's business.
struct Unit {
    process: Arc<Process>,
    log: Arc<Log>,
    build_log: Arc<Log>,
    exits: Exits,
    build: Option<BuildView>,
    /// The last one that has ended: whoever waits to hear how it went may hear it while the next one is at
    /// work.
    built: Option<BuildView>,
    counters: Counters,
    /// Of builds that can still be started.
    artifacts: Table<u64, (Mode, build::Artifact)>,
    /// What was published last.
    view: Option<Arc<UnitView>>,
    changed: bool,
    since: Wall,
    /// It is on its way out of the configuration.
    retiring: bool,
    /// It was said that its lines, or those of its builds, are not written to disk.
    log_trouble: bool,
}

/// How far it is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    Stopping,
    /// All processes are gone; what tasks have left on purpose goes now.
    Sweeping {
        due: Mono,
        stage: Sweep,
    },
    Ended,
}

/// See the module.
pub struct Supervisor {
    setup: Setup,
    handle: Arc<Handle>,
    commands: CommandReceiver,
    mailbox: Arc<Mailbox>,
    waker: Arc<Waker>,
    signals: Signals,
    captures: Captures,
    fleet: Fleet,
    units: Table<UnitId, Box<Unit>>,
    order: Vec<UnitId>,
    queue: VecDeque<Event>,
    books: Table<RunKey, Box<RunRecord>>,
    by_pid: Table<i32, RunKey>,
    preps: Vec<DirenvJob>,
    builds: Vec<Build>,
    sockets: Sockets,
    schedule: Schedule,
    prober: Prober,
    checking: Vec<Checking>,
    watcher: Option<Watcher>,
    /// Of processes whose watched files changed.
    rows: Table<UnitId, watching::RestartThrottle>,
    base: Base,
    pending_orders: Table<u64, PendingOrder>,
    tickets: Table<Ticket, (u64, usize)>,
    /// Runs that were told to end, with their groups and signals; their orphans were not yet.
    telling: Vec<(RunKey, Option<i32>, i32)>,
    /// What the end of a unit's runs took, since it was asked for.
    stopped: Table<UnitId, Stopped>,
    last_number: u64,
    /// Of `.mcp-run` as it was read.
    config_digest: Option<u64>,
    events: VecDeque<Arc<EventView>>,
    last_event: u64,
    snapshot_seq: u64,
    published_event: u64,
    /// The activity after which going back to release was tried last.
    idled: Option<Mono>,
    next_heartbeat: Option<Mono>,
    next_watchdog: Option<Mono>,
    /// When memory that only the start needed is given back.
    next_rest: Option<Mono>,
    oom_kills: Option<u64>,
    state: State,
    state_changed: bool,
    disk: Disk,
    /// The file is another's.
    displaced: bool,
    phase: Phase,
    /// Something may be gone: [`Supervisor::look_for_ends`] is to be called.
    ends_due: bool,
    terms: u32,
}

impl Supervisor {
    /// Takes over signals and descendants; starts nothing yet.
    ///
    /// # Errors
    /// No descriptors or no memory to be had.
    pub fn new(setup: Setup, state: State) -> io::Result<Self> {
        reap::become_subreaper()?;
        let signals = Signals::new()?;
        let mailbox = Mailbox::new()?;
        let waker = mailbox.waker(0);
        let root = setup.config.root.clone();
        let config_digest = files::digest(&root.join(CONFIG_FILE));
        let snapshot = SnapshotCell::new(Snapshot {
            before: state.event,
            before_used: state.event_used.min(state.event),
            ..Snapshot::new(view::project_name(&root), root)
        });
        let (handle, commands) = Handle::new(snapshot, setup.identity.clone(), Arc::clone(&waker));
        let prober = Self::prober(&handle)?;
        let now = Mono::now();
        let every = |span: Duration| (!span.is_zero()).then(|| now.after(span));
        let mut supervisor = Self {
            next_heartbeat: every(setup.config.heartbeat),
            next_rest: Some(now.after(REST_AFTER)),
            next_watchdog: setup.manager.watchdog().map(|span| now.after(span)),
            base: Base::of(&setup.env),
            setup,
            handle,
            commands,
            mailbox,
            waker,
            signals,
            captures: Captures::new()?,
            fleet: Fleet::default(),
            units: Table::default(),
            order: Vec::new(),
            queue: VecDeque::new(),
            books: Table::default(),
            by_pid: Table::default(),
            preps: Vec::new(),
            builds: Vec::new(),
            sockets: Sockets::default(),
            schedule: Schedule::default(),
            prober,
            checking: Vec::new(),
            watcher: None,
            rows: Table::default(),
            pending_orders: Table::default(),
            tickets: Table::default(),
            telling: Vec::new(),
            stopped: Table::default(),
            last_number: 0,
            config_digest,
            events: VecDeque::new(),
            last_event: state.event,
            snapshot_seq: 0,
            published_event: state.event,
            idled: None,
            oom_kills: proc::oom_kills(),
            state,
            state_changed: false,
            disk: Disk::default(),
            displaced: false,
            phase: Phase::Working,
            ends_due: false,
            terms: 0,
        };
        for process in supervisor.setup.config.processes.clone() {
            supervisor.add(process);
        }
        // Before anybody can ask: what is about to start is not shown as stopped.
        for (id, unit) in supervisor.units.iter() {
            if unit.process.autostart {
                supervisor.fleet.want(*id);
            }
        }
        supervisor.publish();
        Ok(supervisor)
    }

    /// What the doors hold of it.
    pub fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handle)
    }

    /// Starts what starts by itself. Says what an earlier bpm that was killed had left running, and
    /// that was stopped first.
    pub fn begin(&mut self) -> Option<String> {
        let found = self.end_leftovers();
        self.note_start(found.as_deref());
        // Numbers are on the disk before a line has one of them.
        self.save();
        let _ = files::sync(&self.setup.dir.state());
        self.hold_all_sockets();
        for at in &self.setup.config.not_in_effect {
            self.setup
                .logger
                .write(Level::Warn, "config", &format!("{at}"));
        }
        self.queue.push_back(Event::Tick);
        self.settle();
        self.watch_files();
        found
    }

    /// An agent that has seen the daemon before this one hears of what lies between.
    fn note_start(&mut self, found: Option<&str>) {
        let identity = &self.setup.identity;
        let mut text = format!("started (pid {})", identity.pid);
        match &identity.previous_end {
            Some(end) => text.push_str(&format!("; the daemon before: {end}")),
            None if self.last_event > 0 => text.push_str("; the daemon before was stopped"),
            None => {}
        }
        if let Some(found) = found {
            text.push_str(&format!("; {found}"));
        }
        self.happened(None, "daemon", text);
    }

    /// Works until everything has stopped.
    ///
    /// # Errors
    /// Only when the system refuses to wait for descriptors.
    pub fn run(&mut self, keeper: &mut dyn Presence) -> io::Result<()> {
        while self.phase != Phase::Ended {
            self.wait(keeper.notify_socket())?;
            match keeper.look() {
                PresenceState::Same => {}
                PresenceState::Mended => {
                    self.state_changed = true;
                    self.open_notify_sockets_anew();
                }
                PresenceState::Displaced => {
                    self.displaced = true;
                    self.begin_stop();
                }
            }
            let caught = self.signals.take();
            // First of all: what has ended by itself did not end for an order that came meanwhile.
            if caught.child {
                self.reap();
            }
            if caught.term || caught.int || (caught.hup && self.setup.hangs_up) {
                self.told_to_stop();
            } else if caught.hup {
                self.reload(false, ReplySlot::nobody());
            }
            if caught.usr2 {
                self.say(
                    Level::Warn,
                    "USR2 came: this version can't upgrade itself yet",
                );
            }
            self.read_commands();
            self.read_preps();
            self.listen_to_runs();
            self.read_changes();
            self.pass_time(Mono::now());
            self.settle();
        }
        self.state.forget_running();
        self.state_changed = true;
        self.save();
        Ok(())
    }

    /// Kills everything that is left, at once: for an end by an error.
    pub fn kill_all(&mut self) {
        for key in self.books.keys().copied().collect::<Vec<_>>() {
            self.kill(key);
        }
        self.look_for_ends();
        for build in &self.builds {
            build.kill();
        }
    }

    /// Carries out what has been noted until nothing follows from it any more, then shows it.
    fn settle(&mut self) {
        loop {
            while let Some(event) = self.queue.pop_front() {
                let now = Mono::now();
                for effect in self.fleet.step(now, event) {
                    self.carry_out(effect);
                }
            }
            // Once for all that is told, and that has ended: both look at every orphan.
            self.tell_orphans();
            if !std::mem::take(&mut self.ends_due) {
                break;
            }
            self.look_for_ends();
        }
        self.begin_health();
        self.publish();
        let answers = self.answers();
        if self.retire() {
            self.publish();
        }
        // Only now: whoever is answered may look at once.
        for (slot, reply) in answers {
            slot.put(reply);
        }
        self.save();
        if self.phase == Phase::Stopping && self.fleet.all_empty() && self.preps.is_empty() {
            self.phase = Phase::Sweeping {
                due: Mono::now().after(runs::LEFT_BY_TASKS),
                stage: Sweep::Begun,
            };
        }
        self.sweep_tasks();
    }

    /// Does what the lifecycle wants done.
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Build { unit, id, mode } => self.begin_build(unit, id, mode),
            Effect::CancelBuild { unit, id } => self.cancel_build(unit, id),
            Effect::Spawn { run, build } => self.begin_run(run, build),
            Effect::Abort(run) => self.abort(run),
            Effect::Fault { run, why } => self.note_fault(run, why),
            Effect::Signal(run) => self.tell_to_end(run),
            Effect::Kill(run) => self.kill(run),
            Effect::GiveUp(run) => self.give_up(run),
            Effect::Answer { ticket, result } => self.note_answer(ticket, result),
        }
    }

    fn wait(&self, keeper: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let own = [self.signals.as_fd(), self.mailbox.as_fd()];
        let notify_sockets = self.books.values().filter_map(|b| b.checks.notify_socket());
        let outputs = self.preps.iter().flat_map(DirenvJob::outputs);
        let watcher = self.watcher.iter().map(Watcher::as_fd);
        let all = own
            .into_iter()
            .chain(keeper)
            .chain(notify_sockets)
            .chain(outputs);
        let fds: Vec<_> = all.chain(watcher).map(|fd| (fd, Until::Readable)).collect();
        let left = self.deadline().map(|due| due.since(Mono::now()));
        poll::wait(&fds, left).map(drop)
    }

    fn deadline(&self) -> Option<Mono> {
        let sweep = match self.phase {
            Phase::Sweeping { due, .. } => Some(due),
            Phase::Working | Phase::Stopping | Phase::Ended => None,
        };
        [
            self.fleet.next_deadline(),
            self.schedule.next_deadline(),
            self.watcher.as_ref().and_then(Watcher::deadline),
            self.held_restart_at(),
            self.release_at(),
            self.idle_stop_at(),
            self.next_heartbeat,
            self.next_watchdog,
            self.next_rest,
            sweep,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When dev builds give way to release builds if nobody calls before.
    fn release_at(&self) -> Option<Mono> {
        let active = self.handle.last_activity();
        let pending =
            self.fleet.in_dev() && self.idled != Some(active) && self.phase == Phase::Working;
        pending.then(|| active.after(self.setup.config.dev_timeout))
    }

    fn idle_stop_at(&self) -> Option<Mono> {
        let span = self
            .setup
            .idle_shutdown
            .unwrap_or(self.setup.config.idle_shutdown);
        let idle = !span.is_zero() && self.phase == Phase::Working;
        idle.then(|| self.handle.last_seen().after(span))
    }

    fn pass_time(&mut self, now: Mono) {
        self.queue.push_back(Event::Tick);
        self.run_due_checks();
        if self.release_at().is_some_and(|at| at <= now) {
            self.idled = Some(self.handle.last_activity());
            self.say(
                Level::Info,
                "nobody has called for long: back to release builds",
            );
            self.queue.push_back(Event::Idle);
        }
        if self.idle_stop_at().is_some_and(|at| at <= now) {
            if self.handle.anybody_there() {
                self.handle.saw(now);
            } else {
                self.say(Level::Info, "nobody has been here for long: stopping");
                self.begin_stop();
            }
        }
        if self.next_heartbeat.is_some_and(|at| at <= now) {
            self.say(Level::Info, "heartbeat alive");
            self.next_rest = Some(now);
            self.next_heartbeat = Some(now.after(self.setup.config.heartbeat));
        }
        if self.next_rest.is_some_and(|at| at <= now) {
            memory::trim();
            self.next_rest = None;
        }
        if self.next_watchdog.is_some_and(|at| at <= now) {
            self.setup.manager.tell("WATCHDOG=1");
            self.next_watchdog = self.setup.manager.watchdog().map(|span| now.after(span));
        }
    }

    fn read_commands(&mut self) {
        let mut tokens = Vec::new();
        self.mailbox.take(&mut tokens);
        self.waker.seen();
        while let Some(command) = self.commands.pop() {
            match command {
                handle::Command::Request(ask, slot) => {
                    self.take_ask(ask, slot.clone());
                    // An answer to the first command must not wait for the hundredth.
                    self.settle();
                    slot.begin();
                }
                handle::Command::Notice(fact) => self.take_fact(fact),
            }
        }
    }

    fn take_ask(&mut self, ask: Request, slot: ReplySlot) {
        let stopping = self.phase != Phase::Working;
        match ask {
            Request::Order {
                order: Order::Start | Order::Restart { .. },
                ..
            }
            | Request::Reload { .. }
                if stopping =>
            {
                slot.put(Reply::Refused(STOPPING.into()));
            }
            Request::Order { order, names } => self.order_all(order, &names, slot),
            Request::Reload { dry_run } => self.reload(dry_run, slot),
            Request::Shutdown { force, by } => {
                if let Some(by) = by {
                    let at = Wall::now();
                    self.state.stopped = Some(StoppedBy { by, at });
                    self.state_changed = true;
                }
                slot.put(Reply::Units(Vec::new()));
                self.begin_stop();
                if force {
                    self.settle();
                    self.kill_all();
                }
            }
        }
    }

    fn take_fact(&mut self, fact: Notice) {
        match fact {
            Notice::Drained { unit, run } => self.drained(unit, run),
            Notice::Built { unit, id, outcome } => self.build_ended(unit, id, *outcome),
            Notice::LogTrouble { unit } => self.log_trouble(unit),
            Notice::Phase { unit, id, phase } => self.build_phase(unit, id, phase),
            Notice::Probed {
                key,
                attempt,
                result,
            } => self.probed(key, attempt, result),
        }
    }

    fn told_to_stop(&mut self) {
        self.terms += 1;
        if self.terms == 1 {
            self.say(Level::Info, "told to stop");
            self.begin_stop();
        } else {
            self.say(Level::Warn, "told to stop again: killing all that is left");
            self.begin_stop();
            self.settle();
            self.kill_all();
        }
    }

    fn begin_stop(&mut self) {
        if self.phase == Phase::Working {
            self.phase = Phase::Stopping;
            self.setup.manager.tell("STOPPING=1");
            self.queue.push_back(Event::Shutdown);
        }
    }

    /// A process more. Its numbers go on where an earlier bpm left them.
    fn add(&mut self, process: Arc<Process>) -> UnitId {
        let id = self.fleet.add(policy(&process, &self.setup.config));
        let Numbers {
            seq,
            run,
            build_seq,
            build_run,
        } = self.state.reserve(&process.name);
        self.state_changed = true;
        let limits = log_limits(&process);
        let folder: Arc<Path> = self.setup.dir.logs(&process.name).into();
        let unit = Unit {
            log: Log::open(Arc::clone(&folder), Kind::Runs, limits, seq, run),
            build_log: Log::open(folder, Kind::Builds, limits, build_seq, build_run),
            exits: self.state.exits(&process.name),
            process,
            build: None,
            built: None,
            counters: Counters::default(),
            artifacts: Table::default(),
            view: None,
            changed: true,
            since: Wall::now(),
            retiring: false,
            log_trouble: false,
        };
        for log in [&unit.log, &unit.build_log] {
            let handle = Arc::clone(&self.handle);
            log.on_trouble(Box::new(move || {
                handle.tell(Notice::LogTrouble { unit: id })
            }));
        }
        self.units.insert(id, Box::new(unit));
        self.order.push(id);
        id
    }

    fn id_of(&self, name: &str) -> Option<UnitId> {
        self.units
            .iter()
            .find(|(_, u)| u.process.name == name && !u.retiring)
            .map(|(id, _)| *id)
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn say(&self, level: Level, text: &str) {
        self.setup.logger.write(level, "supervisor", text);
    }

    /// Writes what must outlive us, where it changed.
    fn save(&mut self) {
        if !std::mem::take(&mut self.state_changed) || self.displaced {
            return;
        }
        self.note_numbers();
        let path = self.setup.dir.state();
        match self.state.write(&path) {
            Ok(()) if self.phase == Phase::Ended => drop(files::sync(&path)),
            Ok(()) => self.disk.sync(&path),
            Err(e) => self.say(
                Level::Error,
                &format!("cannot write {}: {}", path.display(), reason(&e)),
            ),
        }
    }

    /// Numbers that may be given out before we write again; the exact ones once all is over.
    fn note_numbers(&mut self) {
        let block = if self.phase == Phase::Ended { 0 } else { BLOCK };
        self.state.event = self.last_event + block;
        self.state.event_used = self.last_event;
        for unit in self.units.values() {
            let (log, build) = (&unit.log, &unit.build_log);
            let numbers = Numbers {
                seq: log.next_seq() + block,
                run: log.next_run(),
                build_seq: build.next_seq() + block,
                build_run: build.next_run(),
            };
            self.state.note_numbers(&unit.process.name, numbers);
        }
    }

    /// Pids that are accounted for: what else is our child came to us when its parent ended.
    fn known(&self) -> Set<i32> {
        let preps = self.preps.iter().map(|p| &p.child);
        let builds = self.builds.iter().map(|b| &b.child);
        let checks = self.checking.iter().map(|c| &c.child);
        let children = preps.chain(builds).chain(checks);
        self.by_pid
            .keys()
            .copied()
            .chain(children.flatten().map(Child::pid))
            .collect()
    }
}

/// There is something to build for that mode.
fn builds(process: &Process, mode: Mode) -> bool {
    let own = match mode {
        Mode::Dev => process.build.as_ref(),
        Mode::Release => process.build_release.as_ref().or(process.build.as_ref()),
    };
    match own {
        Some(Command::List(list)) => !list.is_empty(),
        Some(Command::Shell(_)) => true,
        None => process.kind == config::Kind::Rust,
    }
}

/// The settings of a process that decide over its life.
fn policy(process: &Process, config: &Config) -> Policy {
    Policy {
        name: process.name.clone(),
        task: process.kind == config::Kind::Task,
        rolls_back: process.kind == config::Kind::Rust,
        builds: [builds(process, Mode::Dev), builds(process, Mode::Release)],
        release_differs: !build::one_build_for_both(process),
        pinned: process.mode,
        restart: process.restart,
        backoff: config.backoff,
        limit: process.start_limit,
        stop_timeout: process.stop_timeout,
        ready_within: process.ready.as_ref().map(|r| r.timeout),
        overlap: process.swap == Swap::Overlap,
        build_timeout: process.build_timeout,
        port: match process.port {
            Some(PortWish::Fixed(port)) => Some(port),
            Some(PortWish::Auto) | None => None,
        },
        depends_on: process
            .depends_on
            .iter()
            .map(|d| (d.name.clone(), d.until))
            .collect(),
    }
}

/// The bounds of the logs of a process.
pub fn log_limits(process: &Process) -> Limits {
    Limits {
        lines: process.log_lines,
        bytes: process.log_bytes,
        runs: process.log_runs,
        disk: process.log_disk,
    }
}
