//! Pure: no system call, no thread, no clock.
//!
//! One process: what is known of it, what is wanted of it.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::config::Mode;

use super::{Effect, Generation, Policy, RunKey, UnitId, Why};

mod events;
mod reconcile;
mod tickets;
mod view;

/// A run that has no readiness check is good once it has lived so long.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// A good run that lived so long (and longer than the delay before it) clears the count of crashes.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// A run that was not good is not followed by the next one sooner.
const BREATH: Duration = Duration::from_millis(100);
/// What survives KILL for so long (a process in an uninterruptible sleep) is given up and named.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Names a caller who waits for an answer.
pub type Ticket = u64;

/// A build that went well: what is started of it is the engine's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Built {
    id: u64,
    mode: Mode,
}

/// A build under way.
#[derive(Debug)]
struct Build {
    id: u64,
    mode: Mode,
    /// It takes too long then.
    due: Mono,
    cancelled: Option<Cancel>,
}

/// Why a build was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// It took too long: it has failed.
    Late,
    /// Nobody wants it any more: as if it had never been.
    Unwanted,
}

/// A run, from its start until nothing of it is left.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) generation: Generation,
    /// What it was started from.
    built: Built,
    /// The port that it was given.
    port: Option<u16>,
    /// None: being made (its environment may take a while).
    started: Option<Mono>,
    pid: Option<i32>,
    /// It was ready, or has lived long enough where nothing tells.
    good: bool,
    healthy: bool,
    /// What its checks saw last, where that is worth a word.
    saw: Option<String>,
    /// How long nothing served before it.
    gap: Option<Duration>,
    /// How far its end is, where it was told to end.
    stop: Option<Stop>,
    /// Its first process has ended.
    dead: bool,
}

/// How far the end of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Told to end; KILL follows then.
    Signaled { kill_at: Mono },
    /// Killed; what is left then is given up.
    Killed { give_up_at: Mono },
}

impl Run {
    fn key(&self, unit: UnitId) -> RunKey {
        RunKey {
            unit,
            generation: self.generation,
        }
    }

    fn is_good(&self) -> bool {
        self.good && self.serves()
    }

    fn serves(&self) -> bool {
        self.started.is_some() && self.stop.is_none() && !self.dead
    }

    /// What its checks have to say of it.
    fn words(&self) -> Option<String> {
        let saw = self.saw.as_ref().filter(|_| self.serves())?;
        Some(match self.good {
            true => saw.clone(),
            false => format!("not ready yet: {saw}"),
        })
    }
}

/// What a caller waits for.
#[derive(Debug, Clone, PartialEq)]
enum Goal {
    /// A good run.
    Up,
    /// A good run later than this one, of this build or a later one.
    Fresh { after: Generation, build: u64 },
    /// Nothing left.
    Down,
    /// Failed already; told once the run of before is back.
    Back(Why),
}

/// Why a process stays down by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It ended well, and is not to be started again.
    Done,
    /// It was tried often enough.
    Failed,
}

/// What a unit needs to know of the others to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing is missing.
    Met,
    /// Wait: why, in words.
    Unmet(String),
    /// A process that is about to go is in the way: which, in words.
    InTheWay(String),
    /// Can't be met any more unless somebody does something: why, in words.
    Hopeless(String),
}

/// One process.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: UnitId,
    pub(super) policy: Policy,
    /// Somebody wants it up.
    pub(super) want: bool,
    /// It is on its way out of the configuration.
    pub(super) leaves: bool,
    /// What runs, or would be started next.
    mode: Mode,
    /// The mode that a build is wanted in, and when it was asked for (the queue's order).
    pub(super) build_wish: Option<(Mode, u64)>,
    /// The next run is of this mode, and what runs is to be replaced.
    swap: Option<Mode>,
    /// The build under way.
    build: Option<Build>,
    last_build: u64,
    /// The last build that ended, and whether it failed.
    tried: Option<(u64, bool)>,
    /// By mode, the newest build that can be started.
    built: [Option<Built>; 2],
    /// What ran well before the swap under way.
    fallback: Option<Built>,
    /// What runs is the fallback, since the newest build died at its start.
    rolled_back: bool,
    /// The last swap failed, and the run before it serves on.
    refused: bool,
    /// The build or the start of what was to replace the run has failed: that keeps its port.
    stays: bool,
    /// It was down when a restart was asked for: if that build fails, it stays so.
    reverts: bool,
    /// The run in service, or the one that is to be.
    run: Option<Box<Run>>,
    /// Started beside it, to take over once it is good (an overlapping swap).
    coming: Option<Box<Run>>,
    /// Told to end, since the other one has taken over.
    leaving: Option<Box<Run>>,
    last_generation: Generation,
    starts: u64,
    crashes: u64,
    /// Crashes and failed builds in a row: the exponent of the next delay.
    in_a_row: u32,
    /// The delay before the last start.
    last_delay: Duration,
    /// It is not started or built by itself before.
    hold_until: Option<Mono>,
    /// Ends before readiness, as far back as they count.
    early_ends: Vec<Mono>,
    /// Why it stays down though it is wanted.
    rest: Option<Rest>,
    /// Since when nothing has served.
    gap_from: Option<Mono>,
    /// Its last run was good, or ended well.
    completed: bool,
    /// What it needs is not coming, so it is not coming either.
    pub(super) hopeless: bool,
    /// Why it is where it is, in words.
    reason: Option<String>,
    /// What was built last was gone before it could be started, and nothing has been started since.
    lost_before: bool,
    /// Who waits, and for what.
    waiting: Vec<(Ticket, Goal)>,
}

impl Unit {
    pub(super) fn new(id: UnitId, policy: Policy) -> Self {
        let mode = policy.pinned.unwrap_or(Mode::Release);
        Self {
            id,
            policy,
            want: false,
            leaves: false,
            mode,
            build_wish: None,
            swap: None,
            build: None,
            last_build: 0,
            tried: None,
            built: [None; 2],
            fallback: None,
            rolled_back: false,
            refused: false,
            stays: false,
            reverts: false,
            run: None,
            coming: None,
            leaving: None,
            last_generation: 0,
            starts: 0,
            crashes: 0,
            in_a_row: 0,
            last_delay: Duration::ZERO,
            hold_until: None,
            early_ends: Vec::new(),
            rest: None,
            gap_from: None,
            completed: false,
            hopeless: false,
            reason: None,
            lost_before: false,
            waiting: Vec::new(),
        }
    }

    /// New settings. A pinned mode counts from the next start on.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        if policy.builds != self.policy.builds {
            self.built = [None; 2];
        }
        self.stays &= policy.port == self.policy.port;
        self.policy = policy;
    }

    pub(super) fn start(&mut self, ticket: Option<Ticket>) {
        self.reverts = false;
        self.wanted_again();
        self.waiting.extend(ticket.map(|t| (t, Goal::Up)));
    }

    /// `turn` orders the queue of builds.
    pub(super) fn restart(&mut self, ticket: Option<Ticket>, mode: Mode, build: bool, turn: u64) {
        let mode = self.policy.pinned.unwrap_or(mode);
        self.stays = false;
        self.reverts |= !self.want;
        self.wanted_again();
        let builds = self.policy.builds(mode) && (build || self.built[mode as usize].is_none());
        if builds {
            let turn = self.build_wish.map_or(turn, |(_, t)| t);
            self.build_wish = Some((mode, turn));
        } else {
            self.swap = Some(mode);
        }
        let build = if builds { self.last_build + 1 } else { 0 };
        self.waiting.extend(ticket.map(|t| {
            (
                t,
                Goal::Fresh {
                    after: self.last_generation,
                    build,
                },
            )
        }));
    }

    fn wanted_again(&mut self) {
        if !self.want {
            // What was stopped on purpose was not missed meanwhile.
            self.gap_from = None;
        }
        self.want = true;
        // What it needs is wanted as well: whether that is in vain shows anew.
        self.hopeless = false;
        self.rest = None;
        self.hold_until = None;
        self.in_a_row = 0;
        self.early_ends.clear();
    }

    pub(super) fn stop(&mut self, ticket: Option<Ticket>, out: &mut Vec<Effect>) {
        self.want = false;
        self.build_wish = None;
        self.swap = None;
        self.hold_until = None;
        self.rest = None;
        self.reason = None;
        self.fail_waiting(out, |goal| match goal {
            Goal::Up | Goal::Fresh { .. } => {
                Some(Why::Superseded("it was told to stop meanwhile".into()))
            }
            Goal::Back(why) => Some(why.clone()),
            Goal::Down => None,
        });
        self.waiting.extend(ticket.map(|t| (t, Goal::Down)));
    }

    /// Nobody has called for long: back to release. True if something of that is to be done.
    pub(super) fn idle(&mut self, turn: u64) -> bool {
        if !self.in_dev() {
            return false;
        }
        if self.policy.release_differs {
            self.build_wish.get_or_insert((Mode::Release, turn));
        } else {
            self.mode = Mode::Release;
        }
        true
    }

    /// In dev, and not because the file says so.
    pub(super) fn in_dev(&self) -> bool {
        self.want && self.rest.is_none() && self.mode == Mode::Dev && self.policy.pinned.is_none()
    }

    fn key(&self, generation: Generation) -> RunKey {
        RunKey {
            unit: self.id,
            generation,
        }
    }

    /// All of its runs: the one in service first.
    fn runs(&self) -> impl Iterator<Item = &Run> {
        let runs = [&self.run, &self.coming, &self.leaving];
        runs.into_iter().flatten().map(Box::as_ref)
    }

    /// The same, to be changed.
    fn runs_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        let runs = [&mut self.run, &mut self.coming, &mut self.leaving];
        runs.into_iter().flatten().map(Box::as_mut)
    }
}
