//! The owner of all processes: one thread that takes inputs (commands, notices, signals, time), asks `lifecycle`
//! what follows, and does it. It alone spawns, signals and reaps: a second waiter would lose exits.
//!
//! It waits in one poll(2), until the next deadline; when nothing is due it sleeps for ever. Each of its parts owns
//! its data; what needs several of them is a method here, in the file of its subject:
//!
//! - `inputs`: all that can come in; `timers`: what bpm does by time; `stop`: the end;
//! - `launch`, `environments`, `ports`, `sockets`, `limits`, `listening`: starting a run; `runs`: its end, and what is left of it; `strays`: what is left of nobody;
//! - `builds`; `checks`: readiness and health; `watching`: restarts when files change; `hooks`: commands that follow
//!   events;
//! - `orders`: who waits for what; `reload`; `units`: the processes; `events`, `publish`, `warnings`: what others see;
//! - `upgrade`: an upgrade in place; `saved`: what goes over it; `adopt`: runs that a killed bpm left.

mod adopt;
mod builds;
mod checks;
mod environments;
mod events;
mod hooks;
mod inputs;
mod launch;
mod limits;
mod listening;
mod orders;
mod ports;
mod publish;
mod reload;
mod runs;
mod saved;
mod sockets;
mod stop;
mod strays;
mod timers;
mod units;
mod upgrade;
mod warnings;
mod watching;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Mono, Wall};
use crate::base::logger::{Level, Logger};
use crate::base::paths::{CONFIG_FILE, ProjectDir};
use crate::config::{Config, Process, Toggle};
use crate::engine::handle::{
    Handle, Identity, Notice, Reload, Reply, ReplySlot, Request, STOPPING,
};
use crate::engine::handover::Handover;
use crate::engine::snapshot::{Snapshot, SnapshotCell};
use crate::engine::state_file::{BLOCK, State, StateFile, StoppedBy};
use crate::lifecycle::{Effect, Event, Fleet, Order, UnitId};
use crate::os::cgroup::Groups;
use crate::os::fds::Nofile;
use crate::os::files;
use crate::os::memory;
use crate::os::poll::Until;
use crate::os::reap;

pub use environments::named_env_file;
pub use reload::{read_config, read_source};
pub use saved::{ConfigSource, config as saved_config};
pub use units::log_limits;
pub use upgrade::{Handshake, has_read, succeeded};

use adopt::Found;
use builds::Builds;
use checks::Checks;
use environments::{Environments, Purpose};
use events::EventLog;
use hooks::Hooks;
use inputs::{Input, Inputs, Signal, Source};
use launch::Starter;
use limits::MemoryWatch;
use listening::Listening;
use orders::Orders;
use ports::Ports;
use runs::Runs;
use sockets::Sockets;
use stop::Sweep;
use strays::Strays;
use timers::{Due, Timers};
use units::{Unit, Units, policy};
use upgrade::Upgrade;
use warnings::Warnings;
use watching::FileWatch;

/// Applies the access rules of a configuration; false: only checks them.
pub type Access = Box<dyn FnMut(&Config, bool) -> crate::base::error::Result<()> + Send>;

/// Everything that a supervisor needs to begin.
pub struct Setup {
    /// Checked.
    pub config: Config,
    /// What it was read from.
    pub source: ConfigSource,
    /// The path of the program that runs, for an upgrade without another one.
    pub program: PathBuf,
    /// The project's folder; it is there, and locked.
    pub dir: ProjectDir,
    /// The environment of bpm's start, less what is meant for bpm alone.
    pub env: Vec<(OsString, OsString)>,
    /// As [`crate::os::fds::raise_nofile`] found it.
    pub nofile: Nofile,
    /// The umask of bpm's start.
    pub umask: u32,
    /// INT and TERM stop it, the second kills, as QUIT does; HUP stops too where this is set (a terminal that
    /// went away), and reloads where not.
    pub hangs_up: bool,
    /// Over the configuration's, now and after a reload (`BPM_IDLE_TIMEOUT`).
    pub idle_shutdown: Option<Duration>,
    /// The bpm before did not end in order: it may have left processes.
    pub killed_before: bool,
    /// Descriptors that the service manager has kept, by the names that they were given to it with.
    pub stored: Vec<(String, OwnedFd)>,
    /// Its leftovers are stopped, and none of them taken over.
    pub fresh: bool,
    /// Those with `autostart` are to be started, whether they were stopped or not.
    pub only: bool,
    /// The names of this bpm.
    pub identity: Identity,
    /// Its faults from the start on, a sentence each.
    pub warnings: Vec<String>,
    /// bpm's own log.
    pub logger: Arc<dyn Logger>,
    /// Called for each configuration that is read.
    pub access: Access,
    /// Told of readiness, reloads, stops and once per half of its watchdog's time (sd_notify(3)).
    pub manager: Box<dyn Manager>,
}

impl Setup {
    fn starter(&self) -> Starter {
        Starter {
            root: self.config.root.as_path().into(),
            nofile: self.nofile.soft,
            umask: self.umask,
        }
    }
}

/// Where runs get their cgroups; else, why they get none.
fn groups(setup: &Setup) -> io::Result<Result<Groups, String>> {
    let name = setup.dir.path().file_name().and_then(OsStr::to_str);
    let groups = match setup.config.cgroup {
        Toggle::Off => Err("\"cgroup\" is false".into()),
        Toggle::Auto | Toggle::On => Groups::open(name.unwrap_or("project")),
    };
    match (&groups, setup.config.cgroup) {
        (Err(why), Toggle::On) => Err(io::Error::other(format!("\"cgroup\" is true: {why}"))),
        _ => Ok(groups),
    }
}

/// The service manager that started bpm and wants to know how it is: systemd, or none.
pub trait Manager: Send {
    /// `READY=1`, `STOPPING=1`
    fn tell(&mut self, message: &str);
    /// How all is, in words, which are made only where somebody listens: told where it is not as before. The first time
    /// `READY=1` carries it.
    fn status(&mut self, words: &dyn Fn() -> String);
    /// Keeps these descriptors over our death, in place of those that it kept by that name before: a process's sockets,
    /// a run's terminal.
    fn store(&mut self, name: &str, fds: &[BorrowedFd<'_>]);
    /// How often `WATCHDOG=1` is due.
    fn watchdog(&self) -> Option<Duration>;
}

/// Keeps this bpm the only one of its project, and where it can be found.
pub trait Presence {
    /// Readable when something may be missing.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Looks for what is missing, `anyway` or if something changed, and repairs it.
    fn check(&mut self, anyway: bool) -> PresenceState;
    /// The file or socket that could not be made.
    fn trouble(&self) -> Option<Trouble>;
    /// Holds up all that serves, and writes what the next program needs of it. Gives the time since when nobody is
    /// served.
    ///
    /// # Errors
    /// A sentence: something could not be held up in time.
    fn hand_over(&mut self, to: &mut Handover) -> Result<Mono, String>;
    /// It serves on, since there is no next program.
    fn thaw(&mut self);
}

/// Files by which others find this bpm that can't be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In words.
    pub text: String,
    /// Others find this bpm all the same.
    pub can_be_found: bool,
}

/// How it is after [`Presence::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceState {
    /// All is as it was.
    Same,
    /// bpm's files were gone, and are there again.
    Repaired,
    /// They were gone, and another bpm was quicker: all in the project's folder is that one's.
    Displaced,
}

/// How far it is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    /// `urgent`: what tasks have left on purpose is given no time either.
    Stopping {
        urgent: bool,
    },
    /// All processes are gone; what tasks have left on purpose goes now.
    Sweeping {
        due: Mono,
        stage: Sweep,
    },
    Ended,
}

/// The lives of all processes, and what they are still to hear of.
#[derive(Default)]
struct Lives {
    fleet: Fleet,
    queue: VecDeque<Event>,
}

impl Lives {
    fn note(&mut self, event: Event) {
        self.queue.push_back(event);
    }
}

/// See the module.
pub struct Supervisor {
    setup: Setup,
    handle: Arc<Handle>,
    inputs: Inputs,
    lives: Lives,
    units: Units,
    runs: Runs,
    environments: Environments,
    builds: Builds,
    checks: Checks,
    sockets: Sockets,
    ports: Ports,
    listening: Listening,
    memory: MemoryWatch,
    strays: Strays,
    watch: FileWatch,
    orders: Orders,
    events: EventLog,
    hooks: Hooks,
    timers: Timers,
    warnings: Warnings,
    state: StateFile,
    /// The leftovers of a bpm that was killed.
    found: Found,
    phase: Phase,
    /// The one that is under way.
    upgrade: Option<Upgrade>,
}

impl Supervisor {
    /// Takes over signals and descendants; starts nothing yet.
    ///
    /// # Errors
    /// No descriptors or no memory to be had.
    pub fn new(setup: Setup, state: State) -> io::Result<Self> {
        reap::become_subreaper()?;
        let root = setup.config.root.clone();
        let digest = files::digest(&root.join(CONFIG_FILE));
        let name = root.file_name().map(|n| n.to_string_lossy().into_owned());
        let first = Snapshot {
            before: state.event,
            before_used: state.event_used.min(state.event),
            ..Snapshot::new(name.unwrap_or_else(|| "/".into()), root)
        };
        let mut supervisor = Self::bare(setup, state, first, digest, false)?;
        for process in supervisor.setup.config.processes.clone() {
            supervisor.add(process);
        }
        // Before anybody can ask: a process that is about to start is not shown as stopped.
        supervisor.take_up();
        supervisor.publish();
        Ok(supervisor)
    }

    /// All parts, with nothing in them. `dry`: nothing outside of this process is touched.
    fn bare(
        setup: Setup,
        state: State,
        first: Snapshot,
        digest: Option<u64>,
        dry: bool,
    ) -> io::Result<Self> {
        let (handle, inbox) = Handle::new(SnapshotCell::new(first), setup.identity.clone())?;
        let groups = match dry {
            true => Err("it is only tried".into()),
            false => groups(&setup)?,
        };
        let starter = setup.starter();
        let watchdog = setup.manager.watchdog();
        Ok(Self {
            inputs: Inputs::new(inbox, setup.hangs_up)?,
            lives: Lives::default(),
            units: Units::new(digest),
            runs: Runs::new(setup.dir.marker(), groups)?,
            environments: Environments::new(&setup.env, starter.clone()),
            builds: Builds::default(),
            checks: Checks::new(&handle, starter.clone())?,
            sockets: Sockets::default(),
            ports: Ports::default(),
            listening: Listening::default(),
            memory: MemoryWatch::new(Mono::now()),
            strays: Strays::default(),
            watch: FileWatch::default(),
            orders: Orders::default(),
            events: EventLog::new(Arc::clone(&setup.logger), state.event),
            hooks: Hooks::new(starter),
            timers: Timers::new(Mono::now(), setup.config.heartbeat, watchdog),
            warnings: Warnings::new(setup.warnings.clone()),
            state: StateFile::new(setup.dir.state(), state),
            found: Found::default(),
            phase: Phase::Working,
            upgrade: None,
            handle,
            setup,
        })
    }

    /// The side of it that other threads hold.
    pub fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handle)
    }

    /// Opens held sockets before others can find us: a connection that is made as soon as bpm answers waits in them.
    pub fn open_sockets(&mut self) {
        // Leftovers of a killed bpm may have the addresses until `begin` ends them.
        if !self.setup.killed_before && !self.state.get().is_damaged() {
            self.hold_all_sockets();
        }
    }

    /// Starts what starts by itself. Says what an earlier bpm that was killed had left running, and
    /// that was stopped first.
    pub fn begin(&mut self) -> Option<String> {
        self.note_start();
        let found = self.end_leftovers();
        for left in self.state.get().left.clone() {
            self.strays.survived(left);
        }
        self.hold_all_sockets();
        // Numbers are written down before a line has one of them.
        self.save(false);
        for at in &self.setup.config.not_in_effect {
            self.setup
                .logger
                .write(Level::Warn, "config", &at.to_string());
        }
        self.lives.note(Event::Tick);
        self.settle();
        // Not before the first process runs: the kernel counts for long.
        self.runs.note_oom_kills();
        self.watch_files();
        found
    }

    /// An agent that has seen the daemon before this one hears of what lies between.
    fn note_start(&mut self) {
        let identity = &self.setup.identity;
        let mut text = format!("started (pid {})", identity.pid);
        match &identity.previous_end {
            Some(end) => text.push_str(&format!("; the daemon before: {end}")),
            None if self.events.last() > 0 => text.push_str("; the daemon before was stopped"),
            None => {}
        }
        self.happened(Level::Info, None, "daemon", text);
    }

    /// Works until everything has stopped.
    ///
    /// # Errors
    /// Only when the system refuses to wait for descriptors.
    pub fn run(&mut self, presence: &mut dyn Presence) -> io::Result<()> {
        self.note_presence(presence);
        self.publish();
        while self.phase != Phase::Ended {
            let input = self.next_input(presence)?;
            self.handle_input(input, presence);
        }
        let left = self.strays.survivors();
        let state = self.state.edit();
        state.forget_lives();
        state.left = left;
        self.save(true);
        Ok(())
    }

    /// SIGQUIT ended it: it killed all that was left.
    pub fn was_quit(&self) -> bool {
        self.inputs.was_quit()
    }

    /// The next input; waits for it where none has come.
    fn next_input(&mut self, presence: &dyn Presence) -> io::Result<Input> {
        loop {
            if let Some(input) = self.inputs.next() {
                return Ok(input);
            }
            let until = self.deadline();
            let presence = presence.fd().map(|fd| (fd, Source::Presence));
            let direnv = self.environments.fds().map(|fd| (fd, Source::Direnv));
            let notify = self.checks.fds().map(|fd| (fd, Source::Notify));
            let files = self.watch.fd().map(|fd| (fd, Source::Files));
            let hooks = self.hooks.fds().map(|fd| (fd, Source::Hooks));
            let upgrade = self.upgrade.iter().flat_map(Upgrade::fds);
            let upgrade = upgrade.map(|fd| (fd, Source::Upgrade));
            let sources = presence
                .into_iter()
                .chain(direnv)
                .chain(hooks)
                .chain(upgrade)
                .chain(notify)
                .chain(files)
                .map(|(fd, source)| (fd, Until::Readable, source));
            let adopted = self.runs.fds();
            let adopted = adopted.map(|(fd, until)| (fd, until, Source::Adopted));
            self.inputs
                .wait(&sources.chain(adopted).collect::<Vec<_>>(), until)?;
        }
    }

    fn handle_input(&mut self, input: Input, presence: &mut dyn Presence) {
        match input {
            Input::Signal(Signal::Child) => self.reap(),
            Input::Signal(Signal::Stop { again }) => self.stop_by_signal(again),
            Input::Signal(Signal::Reload) => self.reload(Reload::Whole, ReplySlot::nobody()),
            Input::Signal(Signal::Upgrade) => self.upgrade_by_signal(),
            Input::Signal(Signal::Other(number)) => {
                let text = format!("ignored signal {}", reap::signal_name(number));
                self.events.say(Level::Warn, &text);
            }
            Input::Command(request, slot) => {
                self.obey(request, slot.clone());
                // An answer to the first command must not wait for the hundredth.
                self.settle();
                slot.begin();
            }
            Input::Notice(notice) => self.take_notice(notice),
            Input::Readable(Source::Presence) => self.check_presence(presence, false),
            Input::Readable(Source::Direnv) => self.read_direnv(),
            Input::Readable(Source::Hooks) => self.run_hooks(),
            Input::Readable(Source::Notify) => self.checks.listen(&self.runs),
            Input::Readable(Source::Files) => self.read_changes(),
            Input::Readable(Source::Upgrade) => self.read_upgrade(),
            Input::Readable(Source::Adopted) => self.runs.find_deaths(),
            Input::Time(now) => {
                self.try_again(now, presence);
                self.pass_time(now);
                self.settle();
                self.advance_upgrade(presence);
            }
        }
    }

    /// Does what is asked for.
    fn obey(&mut self, request: Request, slot: ReplySlot) {
        let stopping = self.phase != Phase::Working;
        match request {
            Request::Order {
                order: Order::Start | Order::Restart { .. },
                ..
            }
            | Request::Reload(_)
                if stopping =>
            {
                slot.put(Reply::Refused(STOPPING.into()));
            }
            Request::Order { order, names } => self.order_all(order, &names, slot),
            Request::Reload(how) => self.reload(how, slot),
            Request::Upgrade(wish) => self.begin_upgrade(wish, slot),
            Request::Resume(number) => self.orders.resume(number, slot),
            Request::Shutdown { force, by } => {
                if let Some(by) = by {
                    let at = Wall::now();
                    self.state.edit().stopped = Some(StoppedBy { by, at });
                }
                slot.put(Reply::Units(Vec::new()));
                self.begin_stop();
                if force {
                    self.settle();
                    self.stop_at_once();
                }
            }
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Drained { run, all } => self.drained(run, all),
            Notice::Built { unit, id, outcome } => self.build_read(unit, id, *outcome),
            Notice::Judged(judged) => self.program_judged(*judged),
            Notice::LogTrouble { unit } => self.log_trouble(unit),
            Notice::Phase { unit, id, phase } => self.build_phase(unit, id, &phase),
            Notice::Probed { attempt, seen } => self.checks.answer(attempt, seen),
        }
    }

    /// Takes all children that have ended. Signals may have merged: never counts, always loops.
    fn reap(&mut self) {
        while let Some(pid) = reap::next_dead() {
            if let Some(maker) = self.maker_of_child(pid) {
                let mut running = self.state.get().running();
                let start = running.find(|run| run.pid == pid).map(|run| run.start);
                self.runs.note_end(pid, start, maker);
            }
            let ours = self.runs.reap(pid)
                || self.environments.reap(pid)
                || self.checks.reap(pid)
                || self.builds.reap(pid)
                || self.reap_upgrade(pid)
                || self.reap_hook(pid);
            // One that nobody here has started came to us when its parent ended.
            if !ours && reap::reap_orphan(pid).is_none() {
                break;
            }
        }
        self.runs.expect_ends();
        self.strays.expect(Mono::now());
        self.read_direnv();
    }

    /// Goes on with those builds and runs whose environment is there, or can't be had.
    fn read_direnv(&mut self) {
        let root = self.setup.config.root.clone();
        for (purpose, base) in self.environments.finished(&root, Mono::now()) {
            self.go_on(purpose, base);
        }
    }

    /// Carries out what has been noted until nothing follows from it any more, then shows it.
    fn settle(&mut self) {
        self.take_findings();
        loop {
            while let Some(run) = self.runs.take_read() {
                self.drained(run, true);
            }
            while let Some(event) = self.lives.queue.pop_front() {
                for effect in self.lives.fleet.step(Mono::now(), event) {
                    self.carry_out(effect);
                }
                self.take_findings();
            }
            // Once for all that was signalled, and that has ended: both look at every orphan.
            self.signal_orphans();
            self.examine_listening();
            if self.runs.take_ends_due() {
                self.find_ends();
            } else if self.lives.queue.is_empty() {
                break;
            }
        }
        self.begin_health();
        let mut has_news = self.refresh_all();
        self.run_hooks();
        let answers = self.answers();
        if self.retire() {
            has_news |= self.refresh_all();
        }
        self.store_sockets();
        // An answer, and all that is shown, holds for the next bpm too, should this one be killed.
        self.save(false);
        if has_news {
            self.show();
        }
        // Only now: those who are answered may read the snapshot at once.
        for (slot, reply) in answers {
            slot.put(reply);
        }
        self.sweep();
    }

    /// Does what the lifecycle wants done.
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Build { unit, id, mode } => self.begin_build(unit, id, mode),
            Effect::CancelBuild { unit, id } => self.cancel_build(unit, id),
            Effect::Spawn { run, build, .. } => self.begin_run(run, build),
            Effect::Abort(run) => self.abort(run),
            Effect::Fault { run, why } => self.runs.note_fault(run, why),
            Effect::Signal(run) => self.runs.signal(run),
            Effect::Kill(run) => self.runs.kill(run),
            Effect::GiveUp(run) => self.give_up(run),
            Effect::Answer { ticket, result } => self.orders.note(ticket, result),
        }
    }

    /// When something is due if nothing comes in before.
    fn deadline(&self) -> Option<Mono> {
        let sweep = match self.phase {
            Phase::Sweeping { due, .. } => Some(due),
            Phase::Working | Phase::Stopping { .. } | Phase::Ended => None,
        };
        [
            self.lives.fleet.next_deadline(),
            self.environments.deadline(Mono::now()),
            self.checks.deadline(),
            self.listening.deadline(),
            self.memory.deadline(),
            self.strays.deadline(),
            self.watch.deadline(),
            self.hooks.deadline(),
            self.timers.deadline(),
            self.warnings.deadline(),
            self.state.deadline(),
            self.release_at(),
            self.idle_stop_at(),
            self.runs.deadline(),
            self.upgrade.as_ref().and_then(Upgrade::deadline),
            sweep,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When dev builds give way to release builds if nobody calls before.
    fn release_at(&self) -> Option<Mono> {
        let active = self.handle.last_activity();
        let pending = self.phase == Phase::Working
            && self.timers.may_release(active)
            && self.lives.fleet.in_dev();
        pending.then(|| active.after(self.setup.config.dev_timeout))
    }

    /// When bpm stops if nobody is there before.
    fn idle_stop_at(&self) -> Option<Mono> {
        let span = self
            .setup
            .idle_shutdown
            .unwrap_or(self.setup.config.idle_shutdown);
        let stops = !span.is_zero() && self.phase == Phase::Working;
        stops.then(|| self.handle.last_seen().after(span))
    }

    fn pass_time(&mut self, now: Mono) {
        self.lives.note(Event::Tick);
        self.runs.find_late_deaths(now);
        while let Some(run) = self.runs.take_overdue(now) {
            let text =
                "the last output of a run could not be read in time: does its log's disk hang?";
            self.events.say(Level::Warn, text);
            self.drained(run, true);
        }
        self.checks.run_due();
        self.check_memory(now);
        self.state.sync_if_due(now);
        self.find_strays(now);
        self.read_changes();
        self.read_direnv();
        if self.release_at().is_some_and(|at| at <= now) {
            self.timers.released(self.handle.last_activity());
            let text = "no calls for a long time: back to release builds";
            self.events.say(Level::Info, text);
            self.lives.note(Event::Idle);
        }
        if self.idle_stop_at().is_some_and(|at| at <= now) {
            if self.handle.anybody_there() {
                self.handle.saw(now);
            } else {
                let text = "no activity for a long time: stopping";
                self.events.say(Level::Info, text);
                self.begin_stop();
            }
        }
        for due in self.timers.due(now) {
            match due {
                Due::Heartbeat => {
                    self.events.say(Level::Info, "heartbeat alive");
                    // A file system that comes over bpm's folder is no event.
                    self.warnings.look_at(now);
                    self.runs.note_oom_kills();
                }
                Due::Watchdog => self.setup.manager.tell("WATCHDOG=1"),
                Due::Trim => memory::trim(),
            }
        }
    }

    /// Adds a process. Its numbers go on where an earlier bpm left them.
    fn add(&mut self, process: Arc<Process>) -> UnitId {
        let id = self.lives.fleet.add(policy(&process, &self.setup.config));
        let numbers = self.state.edit().reserve(&process.name);
        let exits = self.state.get().exits(&process.name);
        let folder: Arc<Path> = self.setup.dir.logs(&process.name).into();
        let unit = Unit::new(id, process, &folder, numbers, exits, &self.handle);
        self.units.insert(id, unit);
        id
    }

    /// Writes what must outlive us, where it changed: the numbers that may be given out before the next time, and
    /// the exact ones once all is over.
    fn save(&mut self, durable: bool) {
        if !self.state.is_changed() {
            return;
        }
        let reserve = if self.phase == Phase::Ended { 0 } else { BLOCK };
        let state = self.state.edit();
        state.event = self.events.last() + reserve;
        state.event_used = self.events.last();
        for (_, unit) in self.units.iter() {
            state.note_numbers(&unit.process.name, unit.numbers(reserve));
        }
        let why = self.state.save(durable).err();
        let text = why
            .as_ref()
            .map(|why| format!("{why}; what changes is in memory only"));
        if self.warnings.state_written(text.clone()) {
            match text {
                Some(text) => self.events.say(Level::Error, &text),
                None => self.events.say(Level::Info, "state.json is written again"),
            }
        }
    }

    /// Gives up a start whose environment is still being made.
    fn abort(&mut self, run: crate::lifecycle::RunKey) {
        let is = |purpose| matches!(purpose, Purpose::Run { key, .. } if key == run);
        for purpose in self.environments.cancel(is) {
            self.go_on(purpose, Err("it was stopped".into()));
        }
    }
}
