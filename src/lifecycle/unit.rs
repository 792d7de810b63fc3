//! One process: what is known of it, what is wanted of it.

use std::time::Duration;

use crate::clock::Mono;
use crate::config::{Condition, Mode, Restart};

use super::{Effect, Generation, UnitId, Why};

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

/// The settings that decide over a life.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The process.
    pub name: String,
    /// Runs once; done on exit 0; what it leaves running after that is left alone.
    pub task: bool,
    /// A binary that dies before it is good is rolled back.
    pub rolls_back: bool,
    /// Something has to be built for dev, for release.
    pub builds: [bool; 2],
    /// A release build is something else than a dev build.
    pub release_differs: bool,
    /// `mode` of the file.
    pub pinned: Option<Mode>,
    /// `restart`.
    pub restart: Restart,
    /// Wait after a crash in dev.
    pub dev_wait: Duration,
    /// First wait after a crash in release.
    pub backoff_initial: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// What each further wait is multiplied with.
    pub backoff_factor: f64,
    /// So many ends before readiness within the time below, and it has failed; zero: no limit.
    pub burst: u32,
    /// See `burst`.
    pub burst_span: Duration,
    /// From the stop signal to KILL.
    pub stop_timeout: Duration,
    /// A readiness check tells when a run is good, within this time.
    pub ready_within: Option<Duration>,
    /// A swap starts the new run before it stops the old one.
    pub overlap: bool,
    /// A build may take so long.
    pub build_timeout: Duration,
    /// What it waits for at its start.
    pub depends_on: Vec<(String, Condition)>,
}

impl Policy {
    fn builds(&self, mode: Mode) -> bool {
        self.builds[mode as usize]
    }

    fn delay(&self, mode: Mode, crashes: u32) -> Duration {
        match mode {
            Mode::Dev => self.dev_wait,
            Mode::Release => {
                // By steps rather than by a power: that would take the whole of libm, for a loop that
                // ends at the longest wait.
                let longest = self.backoff_max.as_secs_f64();
                let mut wait = self.backoff_initial.as_secs_f64();
                for _ in 0..crashes {
                    if wait >= longest || wait == 0.0 || self.backoff_factor <= 1.0 {
                        break;
                    }
                    wait *= self.backoff_factor;
                }
                Duration::try_from_secs_f64(wait.min(longest)).unwrap_or(self.backoff_max)
            }
        }
    }
}

/// One word for where a process is (spec: supervision, "What is seen").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody wants it up.
    Stopped,
    /// For a dependency.
    Waiting,
    /// First build, nothing runs yet.
    Building,
    /// Runs, not ready yet.
    Starting,
    /// Runs.
    Running,
    /// Was told to end.
    Stopping,
    /// Waits for its next start.
    Crashed,
    /// Gave up, or its first build failed, or a task that failed.
    Failed,
    /// Ended with 0 and is not to be restarted.
    Done,
}

impl State {
    /// As in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
            Self::Done => "done",
        }
    }
}

/// How a run's first process ended, as far as it decides over what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// With exit code 0.
    pub success: bool,
}

/// What can be seen of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Where it is.
    pub state: State,
    /// Somebody wants it up.
    pub wanted: bool,
    /// What runs or would be started.
    pub mode: Mode,
    /// The run that serves.
    pub generation: Option<Generation>,
    /// Its pid.
    pub pid: Option<i32>,
    /// When it was started.
    pub started: Option<Mono>,
    /// It is good.
    pub ready: Option<bool>,
    /// It passes its health check.
    pub healthy: Option<bool>,
    /// How long nothing served before it.
    pub gap: Option<Duration>,
    /// Starts after the first.
    pub restarts: u64,
    /// Ends that nobody asked for.
    pub crashes: u64,
    /// When it is started, or built, again.
    pub next_start: Option<Mono>,
    /// A build that was tried later than the one that runs is not what runs.
    pub stale: bool,
    /// What runs is an older build than the one that died at its start.
    pub rolled_back: bool,
    /// The build under way.
    pub building: Option<u64>,
    /// A build waits for its turn.
    pub queued: Option<Mode>,
    /// Why it is where it is.
    pub reason: Option<String>,
}

/// A build that went well: what is started of it is the engine's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Built {
    id: u64,
    mode: Mode,
}

#[derive(Debug)]
struct Build {
    id: u64,
    mode: Mode,
    due: Mono,
    cancelled: Option<Cancel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// It took too long: it has failed.
    Late,
    /// Nobody wants it any more: as if it had never been.
    Unwanted,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) generation: Generation,
    built: Built,
    /// None: being made (its environment may take a while).
    started: Option<Mono>,
    pid: Option<i32>,
    good: bool,
    healthy: bool,
    /// What its checks saw last, where that is worth a word.
    saw: Option<String>,
    gap: Option<Duration>,
    stop: Option<Stop>,
    dead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Told to end; KILL follows then.
    Told { kill_at: Mono },
    /// Killed; what is left then is given up.
    Killed { give_up_at: Mono },
}

impl Run {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Done,
    Failed,
}

/// What a unit needs to know of the others to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing is missing.
    Met,
    /// Wait: why, in words.
    Unmet(String),
    /// Can't be met any more unless somebody does something: why, in words.
    Hopeless(String),
}

/// One process.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: UnitId,
    pub(super) policy: Policy,
    pub(super) want: bool,
    mode: Mode,
    /// The mode that a build is wanted in, and when it was asked for (the queue's order).
    pub(super) build_wish: Option<(Mode, u64)>,
    /// The next run is of this mode, and what runs is to be replaced.
    swap: Option<Mode>,
    build: Option<Build>,
    last_build: u64,
    /// The last build that ended, and whether it failed.
    tried: Option<(u64, bool)>,
    built: [Option<Built>; 2],
    /// What ran well before the swap under way.
    fallback: Option<Built>,
    rolled_back: bool,
    /// The last swap failed, and the run before it serves on.
    refused: bool,
    /// It was down when a restart was asked for: if that build fails, it stays so.
    reverts: bool,
    run: Option<Box<Run>>,
    coming: Option<Box<Run>>,
    leaving: Option<Box<Run>>,
    last_generation: Generation,
    starts: u64,
    crashes: u64,
    /// Crashes in a row: the exponent of the next delay.
    row: u32,
    last_delay: Duration,
    hold_until: Option<Mono>,
    early_ends: Vec<Mono>,
    rest: Option<Rest>,
    gap_from: Option<Mono>,
    completed: bool,
    /// What it needs is not coming, so it is not coming either.
    pub(super) hopeless: bool,
    reason: Option<String>,
    waiting: Vec<(Ticket, Goal)>,
}

impl Unit {
    pub(super) fn new(id: UnitId, policy: Policy) -> Self {
        let mode = policy.pinned.unwrap_or(Mode::Release);
        Self {
            id,
            policy,
            want: false,
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
            reverts: false,
            run: None,
            coming: None,
            leaving: None,
            last_generation: 0,
            starts: 0,
            crashes: 0,
            row: 0,
            last_delay: Duration::ZERO,
            hold_until: None,
            early_ends: Vec::new(),
            rest: None,
            gap_from: None,
            completed: false,
            hopeless: false,
            reason: None,
            waiting: Vec::new(),
        }
    }

    /// New settings. A pinned mode counts from the next start on.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        if policy.builds != self.policy.builds {
            self.built = [None; 2];
        }
        self.policy = policy;
    }

    // ---- wishes -------------------------------------------------------------------------------

    pub(super) fn start(&mut self, ticket: Option<Ticket>) {
        self.reverts = false;
        self.wanted_again();
        self.waiting.extend(ticket.map(|t| (t, Goal::Up)));
    }

    /// `turn` orders the queue of builds.
    pub(super) fn restart(&mut self, ticket: Option<Ticket>, mode: Mode, build: bool, turn: u64) {
        let mode = self.policy.pinned.unwrap_or(mode);
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
        self.want = true;
        // What it needs is wanted as well: whether that is in vain shows anew.
        self.hopeless = false;
        self.rest = None;
        self.hold_until = None;
        self.row = 0;
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

    // ---- facts --------------------------------------------------------------------------------

    pub(super) fn built(
        &mut self,
        now: Mono,
        id: u64,
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        let Some(build) = self.build.take_if(|b| b.id == id) else {
            return;
        };
        let result = match build.cancelled {
            Some(Cancel::Unwanted) => return,
            Some(Cancel::Late) => Err(format!(
                "not done within {} s",
                self.policy.build_timeout.as_secs_f64()
            )),
            None => result,
        };
        self.tried = Some((id, result.is_err()));
        match result {
            Ok(()) => {
                self.built[build.mode as usize] = Some(Built {
                    id,
                    mode: build.mode,
                });
                if self.want {
                    self.swap = Some(build.mode);
                    self.rolled_back = false;
                    self.reason = None;
                    self.hold_until = None;
                    self.rest = None;
                    self.reverts = false;
                }
            }
            Err(why) => {
                let nothing_runs = self.run.is_none();
                if self.reverts && nothing_runs && self.build_wish.is_none() {
                    self.reverts = false;
                    self.want = false;
                } else if self.want && nothing_runs && self.startable().is_none() {
                    let delay = self.policy.delay(build.mode, self.row).max(BREATH);
                    self.row = self.row.saturating_add(1);
                    self.hold_until = Some(now.after(delay));
                    self.mode = build.mode;
                    self.reason = Some(format!("build failed: {why}"));
                }
                let first = nothing_runs;
                self.fail_waiting(out, |goal| match goal {
                    Goal::Fresh { build, .. } if *build <= id => Some(Why::Build {
                        id,
                        why: why.clone(),
                    }),
                    Goal::Up if first => Some(Why::Build {
                        id,
                        why: why.clone(),
                    }),
                    Goal::Up | Goal::Fresh { .. } | Goal::Down | Goal::Back(_) => None,
                });
            }
        }
    }

    pub(super) fn spawned(
        &mut self,
        now: Mono,
        generation: Generation,
        pid: i32,
        out: &mut Vec<Effect>,
    ) {
        let (id, stop_timeout) = (self.id, self.policy.stop_timeout);
        let gap = self.gap_from.take().map(|from| now.since(from));
        let Some(run) = self.find(generation) else {
            return;
        };
        run.started = Some(now);
        run.pid = Some(pid);
        run.gap = gap;
        if run.stop.is_some() {
            // Told to end while it was being made: the abort came too late.
            run.stop = Some(Stop::Told {
                kill_at: now.after(stop_timeout),
            });
            out.push(Effect::Signal {
                unit: id,
                generation,
            });
        }
    }

    pub(super) fn not_spawned(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.find(generation) else {
            return;
        };
        let asked = run.stop.is_some();
        run.dead = true;
        if !asked {
            self.reason = Some(why.into());
            self.ended_badly(now, generation, &Why::Spawn(why.into()), out);
        }
        self.gone(now, generation);
    }

    pub(super) fn ready(&mut self, generation: Generation) {
        if let Some(run) = self.find(generation).filter(|r| r.serves()) {
            run.good = true;
        }
    }

    pub(super) fn health(
        &mut self,
        now: Mono,
        generation: Generation,
        healthy: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.find(generation).filter(|r| r.serves()) else {
            return;
        };
        run.healthy = healthy;
        if !healthy {
            let why = run
                .saw
                .clone()
                .unwrap_or_else(|| "its health check failed too often".into());
            self.turn_out(now, generation, &why, out);
        }
    }

    pub(super) fn seen(&mut self, generation: Generation, words: Option<String>) {
        if let Some(run) = self.find(generation) {
            run.saw = words;
        }
    }

    pub(super) fn exited(
        &mut self,
        now: Mono,
        generation: Generation,
        ended: Ended,
        out: &mut Vec<Effect>,
    ) {
        let id = self.id;
        let task = self.policy.task;
        let Some(run) = self.find(generation) else {
            return;
        };
        if run.dead {
            return;
        }
        run.dead = true;
        if run.stop.is_some() {
            return;
        }
        if ended.success && task {
            // It may have left a daemon on purpose: that lives until bpm stops.
            self.completed = true;
            self.rest = Some(Rest::Done);
            self.gone(now, generation);
            return;
        }
        // What it left behind must not meet its successor.
        run.stop = Some(Stop::Killed {
            give_up_at: now.after(GIVE_UP),
        });
        out.push(Effect::Kill {
            unit: id,
            generation,
        });
        let in_service = self
            .run
            .as_ref()
            .is_some_and(|r| r.generation == generation);
        if in_service && self.coming.is_some() {
            // Its successor is on its way already and takes over.
            self.crashes += u64::from(!ended.success);
            let old = self.run.as_ref().filter(|r| r.good);
            self.fallback = old.map(|r| r.built);
            return;
        }
        let restarts = match self.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => !ended.success,
            Restart::Never => false,
        };
        if in_service && !restarts && ended.success {
            self.completed = true;
            self.rest = Some(Rest::Done);
        } else {
            self.ended_badly(now, generation, &Why::Ended(generation), out);
        }
    }

    pub(super) fn gone(&mut self, now: Mono, generation: Generation) {
        let is = |run: &Option<Box<Run>>| run.as_ref().is_some_and(|r| r.generation == generation);
        if is(&self.leaving) {
            self.leaving = None;
        } else if is(&self.coming) {
            self.coming = None;
        } else if is(&self.run) {
            let old = self.run.take();
            // The old one ended while the new one was on its way: the new one serves alone now.
            self.run = self.coming.take();
            if let (Some(_), Some(old)) = (&self.swap, &old) {
                self.fallback = old.good.then_some(old.built).or(self.fallback);
            }
            if self.run.is_none() && self.gap_from.is_none() {
                self.gap_from = Some(now);
            }
        }
    }

    /// A run ended, or could not begin, though nobody asked: what follows from that.
    fn ended_badly(&mut self, now: Mono, generation: Generation, why: &Why, out: &mut Vec<Effect>) {
        let coming = self
            .coming
            .as_ref()
            .is_some_and(|c| c.generation == generation);
        if let (true, Some(old)) = (coming, self.run.as_ref().filter(|r| r.serves())) {
            // The old one was never touched, and is what a crash brings back.
            self.mode = old.built.mode;
            self.built[self.mode as usize] = Some(old.built);
            self.refused = true;
            self.reason = Some(format!("{}; the old run serves on", words_of_new(why)));
            self.fail_fresh(why, out);
            return;
        }
        // Where the old one has died meanwhile, the new one is all there is.
        let serving = if coming { &self.coming } else { &self.run };
        let Some(run) = serving.as_ref().filter(|r| r.generation == generation) else {
            return;
        };
        let (good, built, lived) = (
            run.good,
            run.built,
            run.started.map_or(Duration::ZERO, |s| now.since(s)),
        );
        self.crashes += 1;
        self.gap_from = Some(now);
        if self.policy.restart == Restart::Never {
            self.rest = Some(Rest::Failed);
            self.fail_up(why, out);
            return;
        }
        if good && lived >= STABLE_AFTER && lived > self.last_delay {
            self.row = 0;
        }
        if !good && self.exceeds_burst(now) {
            self.rest = Some(Rest::Failed);
            self.reason = Some(format!(
                "gave up: {} ends before it was ready within {} s",
                self.policy.burst,
                self.policy.burst_span.as_secs_f64()
            ));
            self.fail_up(why, out);
            return;
        }
        if let (false, true, Some(old)) = (
            good,
            self.policy.rolls_back,
            self.fallback.take().filter(|old| *old != built),
        ) {
            self.built[old.mode as usize] = Some(old);
            self.swap = Some(old.mode);
            self.rolled_back = true;
            self.reason = Some(format!(
                "build {} died before it was good; rolled back to build {}",
                built.id, old.id
            ));
            self.hold_until = Some(now.after(BREATH));
            for (_, goal) in &mut self.waiting {
                if matches!(goal, Goal::Up | Goal::Fresh { .. }) {
                    *goal = Goal::Back(why.clone());
                }
            }
            return;
        }
        let delay = self.policy.delay(self.mode, self.row);
        let delay = if good { delay } else { delay.max(BREATH) };
        self.row = self.row.saturating_add(1);
        self.last_delay = delay;
        self.hold_until = Some(now.after(delay));
        self.fail_up(why, out);
    }

    fn exceeds_burst(&mut self, now: Mono) -> bool {
        if self.policy.burst == 0 {
            return false;
        }
        let span = self.policy.burst_span;
        self.early_ends.retain(|at| now.since(*at) < span);
        self.early_ends.push(now);
        self.early_ends.len() >= self.policy.burst as usize
    }

    // ---- answers ------------------------------------------------------------------------------

    fn fail_waiting(&mut self, out: &mut Vec<Effect>, verdict: impl Fn(&Goal) -> Option<Why>) {
        self.waiting.retain(|(ticket, goal)| match verdict(goal) {
            Some(why) => {
                out.push(Effect::Answer {
                    ticket: *ticket,
                    result: Err(why),
                });
                false
            }
            None => true,
        });
    }

    fn fail_up(&mut self, why: &Why, out: &mut Vec<Effect>) {
        // A restart whose build is still to come has not failed by what ran before.
        let last = self.last_generation;
        let pending = self.build.is_some() || self.build_wish.is_some();
        self.fail_waiting(out, |goal| match goal {
            Goal::Up => Some(why.clone()),
            Goal::Fresh { after, .. } if last > *after || !pending => Some(why.clone()),
            Goal::Back(first) => Some(first.clone()),
            Goal::Fresh { .. } | Goal::Down => None,
        });
    }

    fn fail_fresh(&mut self, why: &Why, out: &mut Vec<Effect>) {
        self.fail_waiting(out, |goal| match goal {
            Goal::Fresh { .. } => Some(why.clone()),
            Goal::Up | Goal::Down | Goal::Back(_) => None,
        });
    }

    /// Nobody will be answered by what comes: it is taken out of the project.
    pub(super) fn dismiss(&mut self, out: &mut Vec<Effect>) {
        self.fail_waiting(out, |_| {
            Some(Why::Superseded(
                "it was taken out of the configuration".into(),
            ))
        });
    }

    fn answer_met(&mut self, out: &mut Vec<Effect>) {
        let empty = self.is_empty();
        let run = self.run.as_ref().filter(|r| r.is_good());
        let (generation, build) = run.map_or((0, 0), |r| (r.generation, r.built.id));
        let up = run.is_some();
        let done = self.rest == Some(Rest::Done) && empty;
        let (last, want) = (self.last_generation, self.want);
        let settled = self.run.as_ref().is_some_and(|r| r.serves())
            && self.swap.is_none()
            && self.coming.is_none()
            && self.build.is_none()
            && self.build_wish.is_none();
        self.waiting.retain(|(ticket, goal)| {
            let result = match goal {
                Goal::Up => (up || done).then_some(Ok(())),
                Goal::Fresh {
                    after,
                    build: wanted,
                } => {
                    if up && generation > *after && build >= *wanted || done && last > *after {
                        Some(Ok(()))
                    } else if up && settled {
                        // Nothing more is to come: a later order chose another build than this one's.
                        Some(Err(Why::Superseded(
                            "a later order was carried out instead".into(),
                        )))
                    } else {
                        None
                    }
                }
                Goal::Down if empty => Some(Ok(())),
                Goal::Down if want && settled => Some(Err(Why::Superseded(
                    "it was started again meanwhile".into(),
                ))),
                Goal::Down => None,
                Goal::Back(why) => up.then(|| Err(why.clone())),
            };
            match result {
                Some(result) => {
                    out.push(Effect::Answer {
                        ticket: *ticket,
                        result,
                    });
                    false
                }
                None => true,
            }
        });
    }

    // ---- reconcile ----------------------------------------------------------------------------

    /// First half: what time alone changes, and the build without which nothing can start is asked for.
    pub(super) fn prepare(&mut self, now: Mono, needs: &Needs, out: &mut Vec<Effect>) {
        self.let_time_pass(now, out);
        self.answer_met(out);
        self.hopeless = self.want && self.run.is_none() && matches!(needs, Needs::Hopeless(_));
        if self.want {
            self.want_build(needs, out);
        }
    }

    /// Second half: compares what is wanted with what is. `free`: no other build of the project runs,
    /// and this one is next; `may_end`: nothing that depends on it is still to be stopped first.
    pub(super) fn act(
        &mut self,
        now: Mono,
        needs: &Needs,
        free: bool,
        may_end: bool,
        out: &mut Vec<Effect>,
    ) {
        if self.want {
            self.go_up(now, needs, free, out);
        } else {
            self.go_down(now, may_end, out);
        }
        self.answer_met(out);
    }

    fn let_time_pass(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let id = self.id;
        if let Some(build) = self
            .build
            .as_mut()
            .filter(|b| b.cancelled.is_none() && b.due <= now)
        {
            build.cancelled = Some(Cancel::Late);
            out.push(Effect::CancelBuild {
                unit: id,
                id: build.id,
            });
        }
        let mut late = None;
        let mut given_up = Vec::new();
        for run in [&mut self.run, &mut self.coming, &mut self.leaving]
            .into_iter()
            .flatten()
        {
            match run.stop {
                Some(Stop::Told { kill_at }) if kill_at <= now && run.started.is_some() => {
                    run.stop = Some(Stop::Killed {
                        give_up_at: now.after(GIVE_UP),
                    });
                    out.push(Effect::Kill {
                        unit: id,
                        generation: run.generation,
                    });
                }
                Some(Stop::Killed { give_up_at }) if give_up_at <= now => {
                    given_up.push(run.generation)
                }
                Some(Stop::Told { .. } | Stop::Killed { .. }) => {}
                None => match (run.started, self.policy.ready_within) {
                    (Some(started), None) if !run.good && started.after(GOOD_AFTER) <= now => {
                        run.good = true
                    }
                    (Some(started), Some(within)) if !run.good && started.after(within) <= now => {
                        late = Some((run.generation, within));
                    }
                    (None | Some(_), None | Some(_)) => {}
                },
            }
        }
        for generation in given_up {
            out.push(Effect::GiveUp {
                unit: id,
                generation,
            });
            self.gone(now, generation);
        }
        if let Some((generation, within)) = late {
            let saw = self.find(generation).and_then(|r| r.saw.clone());
            let mut why = format!("not ready within {} s", within.as_secs_f64());
            if let Some(saw) = saw {
                why.push_str(&format!(": {saw}"));
            }
            self.turn_out(now, generation, &why, out);
        }
        if let Some(run) = self.run.as_ref().filter(|r| r.is_good()) {
            self.fallback = None;
            if !self.rolled_back
                && !self.refused
                && !self
                    .tried
                    .is_some_and(|(id, failed)| failed && id > run.built.id)
            {
                self.reason = None;
            }
            self.completed |= !self.policy.task;
        }
        if self.coming.as_ref().is_some_and(|r| r.is_good()) && self.leaving.is_none() {
            self.leaving = self.run.take();
            self.run = self.coming.take();
            self.rolled_back = false;
            self.reason = None;
            let timeout = self.policy.stop_timeout;
            if let Some(old) = &mut self.leaving {
                end(id, old, now, timeout, out);
            }
        }
        self.hold_until = self.hold_until.filter(|until| *until > now);
    }

    /// Ends a run that lives but does not do: it counts as a crash.
    fn turn_out(&mut self, now: Mono, generation: Generation, why: &str, out: &mut Vec<Effect>) {
        let (id, timeout) = (self.id, self.policy.stop_timeout);
        self.ended_badly(now, generation, &Why::NotReady(generation, why.into()), out);
        if self.reason.is_none() {
            self.reason = Some(why.into());
        }
        if let Some(run) = self.find(generation) {
            end(id, run, now, timeout, out);
        }
    }

    fn go_up(&mut self, now: Mono, needs: &Needs, free: bool, out: &mut Vec<Effect>) {
        if free
            && self.build.is_none()
            && let Some((mode, _)) = self.build_wish.take()
        {
            self.last_build += 1;
            let build = Build {
                id: self.last_build,
                mode,
                due: now.after(self.policy.build_timeout),
                cancelled: None,
            };
            out.push(Effect::Build {
                unit: self.id,
                id: build.id,
                mode,
            });
            self.build = Some(build);
        }
        match &self.run {
            None => self.start_from_nothing(needs, out),
            Some(_) => self.replace(now, out),
        }
    }

    fn want_build(&mut self, needs: &Needs, out: &mut Vec<Effect>) {
        if self.run.is_some() || self.rest.is_some() {
            return;
        }
        if let Needs::Hopeless(why) = needs {
            self.reason = Some(why.clone());
            self.fail_waiting(out, |goal| match goal {
                Goal::Up | Goal::Fresh { .. } => Some(Why::Dependency(why.clone())),
                Goal::Back(first) => Some(first.clone()),
                Goal::Down => None,
            });
            return;
        }
        if self.hold_until.is_none()
            && self.startable().is_none()
            && self.build.is_none()
            && self.build_wish.is_none()
        {
            self.build_wish = Some((self.swap.unwrap_or(self.mode), 0));
        }
    }

    fn start_from_nothing(&mut self, needs: &Needs, out: &mut Vec<Effect>) {
        if self.rest.is_some() || self.hold_until.is_some() || self.leaving.is_some() {
            return;
        }
        let Some(built) = self.startable() else {
            return;
        };
        // A swap that is half done is not held up by what it depended on at its first start.
        if self.swap.is_none() || self.starts == 0 {
            match needs {
                Needs::Met => {}
                Needs::Unmet(why) | Needs::Hopeless(why) => {
                    self.reason = Some(why.clone());
                    return;
                }
            }
            if !self.rolled_back {
                self.reason = None;
            }
        }
        self.mode = built.mode;
        self.swap = None;
        self.run = Some(self.spawn(built, out));
    }

    fn replace(&mut self, now: Mono, out: &mut Vec<Effect>) {
        // One swap for all builds that are asked for: not while another one is to come.
        if self.build.is_some()
            || self.build_wish.is_some()
            || self.coming.is_some()
            || self.leaving.is_some()
        {
            return;
        }
        let (Some(_), Some(built)) = (self.swap, self.startable()) else {
            return;
        };
        let (id, timeout) = (self.id, self.policy.stop_timeout);
        let Some(run) = self.run.as_mut().filter(|r| r.stop.is_none() && !r.dead) else {
            return;
        };
        if self.policy.overlap && run.is_good() {
            self.mode = built.mode;
            self.swap = None;
            self.coming = Some(self.spawn(built, out));
        } else {
            if run.good {
                self.fallback = Some(run.built);
            }
            self.gap_from = Some(now);
            end(id, run, now, timeout, out);
        }
    }

    fn go_down(&mut self, now: Mono, may_end: bool, out: &mut Vec<Effect>) {
        let (id, timeout) = (self.id, self.policy.stop_timeout);
        if let Some(build) = self.build.as_mut().filter(|b| b.cancelled.is_none()) {
            build.cancelled = Some(Cancel::Unwanted);
            out.push(Effect::CancelBuild {
                unit: id,
                id: build.id,
            });
        }
        if !may_end {
            return;
        }
        for run in [&mut self.run, &mut self.coming, &mut self.leaving]
            .into_iter()
            .flatten()
        {
            if run.stop.is_none() {
                end(id, run, now, timeout, out);
            }
        }
    }

    /// What can be started as things are.
    fn startable(&self) -> Option<Built> {
        let mode = self.swap.unwrap_or(self.mode);
        if self.policy.builds(mode) {
            self.built[mode as usize]
        } else {
            Some(Built { id: 0, mode })
        }
    }

    fn spawn(&mut self, built: Built, out: &mut Vec<Effect>) -> Box<Run> {
        self.last_generation += 1;
        self.starts += 1;
        self.completed = false;
        self.refused = false;
        let generation = self.last_generation;
        out.push(Effect::Spawn {
            unit: self.id,
            generation,
            build: built.id,
            mode: built.mode,
        });
        Box::new(Run {
            generation,
            built,
            started: None,
            pid: None,
            good: false,
            healthy: true,
            saw: None,
            gap: None,
            stop: None,
            dead: false,
        })
    }

    fn find(&mut self, generation: Generation) -> Option<&mut Run> {
        [&mut self.run, &mut self.coming, &mut self.leaving]
            .into_iter()
            .flatten()
            .map(Box::as_mut)
            .find(|r| r.generation == generation)
    }

    // ---- what is seen -------------------------------------------------------------------------

    /// Nothing runs and nothing is being built.
    pub(super) fn is_empty(&self) -> bool {
        self.run.is_none()
            && self.coming.is_none()
            && self.leaving.is_none()
            && self.build.is_none()
    }

    pub(super) fn is_building(&self) -> bool {
        self.build.is_some()
    }

    pub(super) fn is_up(&self) -> bool {
        self.run.as_ref().is_some_and(|r| r.serves())
    }

    pub(super) fn is_good(&self) -> bool {
        self.run.as_ref().is_some_and(|r| r.is_good())
    }

    pub(super) fn has_completed(&self) -> bool {
        self.completed && self.rest == Some(Rest::Done)
    }

    /// It won't come up by itself.
    pub(super) fn rests(&self) -> bool {
        !self.want || self.rest.is_some() || self.hopeless
    }

    /// Why it won't: `is stopped`.
    pub(super) fn rest_words(&self) -> &'static str {
        match self.rest {
            _ if !self.want => "is stopped",
            Some(Rest::Failed) => "has failed",
            Some(Rest::Done) => "has ended",
            None => "can't start either",
        }
    }

    /// When something is due even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let runs = [&self.run, &self.coming, &self.leaving]
            .into_iter()
            .flatten()
            .filter_map(|run| match run.stop {
                Some(Stop::Told { kill_at }) => run.started.map(|_| kill_at),
                Some(Stop::Killed { give_up_at }) => Some(give_up_at),
                None if run.good || run.dead => None,
                None => run
                    .started
                    .map(|s| s.after(self.policy.ready_within.unwrap_or(GOOD_AFTER))),
            });
        let build = self
            .build
            .iter()
            .filter(|b| b.cancelled.is_none())
            .map(|b| b.due);
        let hold = if self.want && self.run.is_none() {
            self.hold_until
        } else {
            None
        };
        runs.chain(build).chain(hold).min()
    }

    pub(super) fn state(&self, needs: &Needs) -> State {
        match &self.run {
            Some(run) if run.dead && self.want && self.swap.is_none() => {
                self.state_of_nothing(needs)
            }
            Some(run) if run.stop.is_some() => State::Stopping,
            Some(run) if run.good => State::Running,
            Some(_) => State::Starting,
            None if self.leaving.is_some() => State::Stopping,
            None => self.state_of_nothing(needs),
        }
    }

    fn state_of_nothing(&self, needs: &Needs) -> State {
        match self.rest {
            _ if !self.want => State::Stopped,
            Some(Rest::Done) => State::Done,
            Some(Rest::Failed) => State::Failed,
            None if self.hold_until.is_some() && self.startable().is_none() => State::Failed,
            None if self.hold_until.is_some() => State::Crashed,
            None if self.startable().is_none() && self.build.is_some() => State::Building,
            None if *needs != Needs::Met => State::Waiting,
            None if self.startable().is_none() => State::Building,
            None => State::Starting,
        }
    }

    pub(super) fn facts(&self, needs: &Needs) -> Facts {
        let state = self.state(needs);
        let run = self.run.as_ref().filter(|r| !r.dead);
        let tried = self.tried.map_or(0, |(id, _)| id);
        Facts {
            state,
            wanted: self.want,
            mode: self.mode,
            generation: run.map(|r| r.generation),
            pid: run.and_then(|r| r.pid),
            started: run.and_then(|r| r.started),
            ready: run.map(|r| r.is_good()),
            healthy: run.map(|r| r.healthy),
            gap: run.and_then(|r| r.gap),
            restarts: self.starts.saturating_sub(1),
            crashes: self.crashes,
            next_start: if self.want && matches!(state, State::Crashed | State::Failed) {
                self.hold_until
            } else {
                None
            },
            stale: run.is_some_and(|r| self.policy.builds(r.built.mode) && tried > r.built.id),
            rolled_back: self.rolled_back,
            building: self.build.as_ref().map(|b| b.id),
            queued: self.build_wish.map(|(mode, _)| mode),
            reason: self.reason.clone().or_else(|| match needs {
                Needs::Unmet(why) | Needs::Hopeless(why) if state == State::Waiting => {
                    Some(why.clone())
                }
                Needs::Met | Needs::Unmet(_) | Needs::Hopeless(_) => run.and_then(|r| r.words()),
            }),
        }
    }

    #[cfg(test)]
    pub(super) fn is_good_run(&self, generation: Generation) -> bool {
        [&self.run, &self.coming, &self.leaving]
            .into_iter()
            .flatten()
            .any(|r| r.generation == generation && (r.good || r.stop.is_some() || r.dead))
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        [&self.run, &self.coming, &self.leaving]
            .into_iter()
            .flatten()
            .count()
    }
}

/// Why a run that was to replace another did not.
fn words_of_new(why: &Why) -> String {
    match why {
        Why::NotReady(_, why) => format!("the new run was {why}"),
        Why::Spawn(why) | Why::Dependency(why) | Why::Superseded(why) => {
            format!("no new run: {why}")
        }
        Why::Build { .. } | Why::Ended(_) => "the new run ended before it was good".into(),
    }
}

/// Tells a run to end.
fn end(unit: UnitId, run: &mut Run, now: Mono, timeout: Duration, out: &mut Vec<Effect>) {
    if run.stop.is_some() || run.dead {
        return;
    }
    run.stop = Some(Stop::Told {
        kill_at: now.after(timeout),
    });
    let generation = run.generation;
    if run.started.is_some() {
        out.push(Effect::Signal { unit, generation });
    } else {
        out.push(Effect::Abort { unit, generation });
    }
}
