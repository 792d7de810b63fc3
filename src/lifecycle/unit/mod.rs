//! Pure: no system call, no thread, no clock.
//!
//! One process: the facts known of it, and what is wanted of it.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::config::Mode;

use super::names::{NameId, Needed};
use super::policy::Throttle;
use super::{Effect, Generation, Policy, RunKey, UnitId, Why};

mod events;
mod reconcile;
mod saved;
mod tickets;
mod view;

/// A run without a readiness check is good once it has lived this long.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// The shortest delay after a run that was not good.
const BREATH: Duration = Duration::from_millis(100);
/// A run that survives KILL this long (a process in an uninterruptible sleep) is given up and named.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Names a caller who waits for an answer.
pub type Ticket = u64;

/// A build that succeeded. The engine knows what it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Built {
    id: u64,
    mode: Mode,
}

/// A build under way.
#[derive(Debug, Default)]
struct Build {
    id: u64,
    mode: Mode,
    due: Mono,
    cancelled: Option<Cancel>,
}

/// Why a build was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Cancel {
    /// It took too long: it counts as failed.
    Late,
    /// The process is no longer wanted up: it counts as if it had never been.
    #[default]
    Unwanted,
}

#[derive(Debug, Default)]
struct Builds {
    /// The mode that a build is wanted in, and its turn in the queue.
    wish: Option<(Mode, u64)>,
    under_way: Option<Build>,
    /// The newest that began.
    last: u64,
    /// The newest that ended, and the newest that failed; 0: none.
    ended: u64,
    failed: u64,
    /// The newest that was rolled back, since it died before it was good; 0: none.
    died: u64,
    /// By mode, the newest that can be started.
    startable: [Option<Built>; 2],
    /// The build that ran well before the swap under way.
    fallback: Option<Built>,
    /// The artifact of the last build was gone before its start, and nothing was started since.
    lost: bool,
}

impl Builds {
    /// The result of one is still to come.
    fn pending(&self) -> bool {
        let under_way = self.under_way.as_ref();
        self.wish.is_some() || under_way.is_some_and(|b| b.cancelled != Some(Cancel::Unwanted))
    }
}

/// A run, from its start until nothing of it is left.
#[derive(Debug, Default)]
struct Run {
    generation: Generation,
    built: Built,
    port: Option<u16>,
    /// None: being made (its environment may take a while).
    started: Option<Mono>,
    pid: Option<i32>,
    /// When it was ready, or had lived long enough where nothing checks that.
    good: Option<Mono>,
    healthy: bool,
    /// The last result of its checks, where that is worth a word.
    saw: Option<String>,
    /// How long nothing served before it.
    gap: Option<Duration>,
    /// How far its end is, once it is to end.
    stop: Option<Stop>,
    /// Its first process has ended.
    dead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The stop signal was sent (or the start aborted, where there is no pid yet).
    Signaled { kill_at: Mono },
    /// KILL was sent.
    Killed { give_up_at: Mono },
}

impl Default for Stop {
    fn default() -> Self {
        let kill_at = Mono::default();
        Self::Signaled { kill_at }
    }
}

impl Run {
    fn key(&self, unit: UnitId) -> RunKey {
        RunKey {
            unit,
            generation: self.generation,
        }
    }

    fn is_good(&self) -> bool {
        self.good.is_some() && self.serves()
    }

    /// It is good, and was so for that time.
    fn has_settled(&self, settle: Duration, now: Mono) -> bool {
        let good = self.good.filter(|_| self.serves());
        good.is_some_and(|since| since.after(settle) <= now)
    }

    fn serves(&self) -> bool {
        self.started.is_some() && self.stop.is_none() && !self.dead
    }
}

/// The runs of a process: one, or two while a swap overlaps.
#[derive(Debug, Default)]
struct Runs {
    /// In service, or to be.
    current: Option<Box<Run>>,
    /// Started beside the current one, and takes over once it is good (an overlapping swap).
    coming: Option<Box<Run>>,
    /// To end, since another one has taken over.
    leaving: Option<Box<Run>>,
    last: Generation,
    starts: u64,
    crashes: u64,
}

impl Runs {
    /// The current one first.
    fn iter(&self) -> impl Iterator<Item = &Run> {
        let runs = [&self.current, &self.coming, &self.leaving];
        runs.into_iter().flatten().map(Box::as_ref)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        let runs = [&mut self.current, &mut self.coming, &mut self.leaving];
        runs.into_iter().flatten().map(Box::as_mut)
    }

    fn find(&mut self, generation: Generation) -> Option<&mut Run> {
        self.iter_mut().find(|r| r.generation == generation)
    }

    fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    fn is_current(&self, generation: Generation) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|r| r.generation == generation)
    }
}

/// A caller's condition for an answer.
#[derive(Debug, Clone, PartialEq, Default)]
enum Goal {
    /// A good run.
    #[default]
    Up,
    /// A good run later than this one, of this build or a later one.
    Fresh { after: Generation, build: u64 },
    /// Nothing left.
    Down,
    /// Failed already; answered once the run before is back.
    Back(Why),
}

/// Why a process that is wanted up stays down by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Rest {
    /// It ended well, and is not to be started again.
    #[default]
    Done,
    /// It was tried often enough.
    Failed,
}

/// Whether the other processes let this one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    Met,
    /// A dependency is still on its way.
    Unmet,
    /// A process that is about to end is in the way, in words.
    InTheWay(String),
    /// A dependency does not come by itself, in words.
    Hopeless(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Want {
    /// The start, and after a stop.
    #[default]
    Down,
    /// It was `Down` when a restart came whose build is to be awaited: `Up` if that succeeds, else `Down`.
    UpIfBuilt,
    Up,
    /// Taken out of the configuration: down, and only a stop is still accepted.
    Leaving,
}

/// The replacement of the current run by the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Swap {
    /// Not asked for, or done: a run was started last.
    #[default]
    No,
    /// Asked for by a build that succeeded, a restart that needs none, or a rollback: the next run has this
    /// mode, and the current one ends for it. The process is wanted up.
    Wanted(Mode),
    /// The build or the start of the replacement failed: the current run goes on and keeps its port.
    Refused,
}

/// One process.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: UnitId,
    pub(super) name: NameId,
    pub(super) policy: Policy,
    /// `policy.depends_on`, as the fleet numbers the names.
    pub(super) needed: Needed,
    want: Want,
    swap: Swap,
    /// The mode that runs, or would be started next.
    mode: Mode,
    builds: Builds,
    runs: Runs,
    throttle: Throttle,
    rest: Option<Rest>,
    /// Since when nothing has served.
    gap_from: Option<Mono>,
    /// A dependency is not coming, so this one is not coming either.
    hopeless: bool,
    /// Why it is where it is, in words.
    reason: Option<String>,
    waiting: Vec<(Ticket, Goal)>,
}

impl Unit {
    pub(super) fn new(id: UnitId, name: NameId, policy: Policy) -> Self {
        Self {
            id,
            name,
            mode: policy.pinned.unwrap_or(Mode::Release),
            policy,
            needed: Needed::default(),
            want: Want::Down,
            swap: Swap::No,
            builds: Builds::default(),
            runs: Runs::default(),
            throttle: Throttle::default(),
            rest: None,
            gap_from: None,
            hopeless: false,
            reason: None,
            waiting: Vec::new(),
        }
    }

    /// New settings. A pinned mode counts from the next start on.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        if policy.builds != self.policy.builds {
            self.builds.startable = [None; 2];
        }
        if policy.port != self.policy.port && self.swap == Swap::Refused {
            self.swap = Swap::No;
        }
        self.policy = policy;
    }

    pub(super) fn leave(&mut self) {
        self.want = Want::Leaving;
    }

    pub(super) fn start(&mut self, ticket: Option<Ticket>) {
        self.want_up(Want::Up);
        self.waiting.extend(ticket.map(|t| (t, Goal::Up)));
    }

    /// `turn` orders the queue of builds.
    pub(super) fn restart(&mut self, ticket: Option<Ticket>, mode: Mode, build: bool, turn: u64) {
        let mode = self.policy.pinned.unwrap_or(mode);
        let builds =
            self.policy.builds(mode) && (build || self.builds.startable[mode as usize].is_none());
        self.want_up(match self.want {
            Want::Down | Want::UpIfBuilt | Want::Leaving if builds => Want::UpIfBuilt,
            Want::Down | Want::UpIfBuilt | Want::Up | Want::Leaving => Want::Up,
        });
        let build = if builds {
            let turn = self.builds.wish.map_or(turn, |(_, t)| t);
            self.builds.wish = Some((mode, turn));
            self.builds.last + 1
        } else {
            self.swap = Swap::Wanted(mode);
            0
        };
        let after = self.runs.last;
        self.waiting
            .extend(ticket.map(|t| (t, Goal::Fresh { after, build })));
    }

    fn want_up(&mut self, want: Want) {
        if !self.is_wanted() {
            // After a stop on purpose nobody has missed it meanwhile.
            self.gap_from = None;
        }
        self.want = want;
        // Its dependencies are wanted as well: whether they come shows again.
        self.hopeless = false;
        self.rest = None;
        self.throttle = Throttle::default();
    }

    pub(super) fn stop(&mut self, ticket: Option<Ticket>, out: &mut Vec<Effect>) {
        if self.want != Want::Leaving {
            self.want = Want::Down;
        }
        self.builds.wish = None;
        self.swap = Swap::No;
        self.throttle.hold_until = None;
        self.rest = None;
        self.reason = None;
        self.fail_waiting(out, |goal| match goal {
            Goal::Up | Goal::Fresh { .. } => {
                Some(Why::Superseded("it was stopped meanwhile".into()))
            }
            Goal::Back(why) => Some(why.clone()),
            Goal::Down => None,
        });
        self.waiting.extend(ticket.map(|t| (t, Goal::Down)));
    }

    /// No call came for long: back to release.
    pub(super) fn idle(&mut self, turn: u64) {
        if !self.in_dev() {
            return;
        }
        if self.policy.release_differs {
            self.builds.wish.get_or_insert((Mode::Release, turn));
        } else {
            self.mode = Mode::Release;
        }
    }
}
