//! Pure: no system call, no thread, no clock.
//!
//! The settings that decide over a process, the wait before its next start, and the facts that others see of it.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::saved::saved;
use crate::config::{Backoff, Condition, Mode, Restart, StartLimit};

use super::Generation;

/// A good run that lived this long (and longer than the delay before it) clears the count of crashes.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The settings that decide over a life.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: String,
    /// Runs once; done on exit 0; processes that it leaves running are left alone.
    pub task: bool,
    /// A binary that dies before it is good is rolled back.
    pub rolls_back: bool,
    /// Something has to be built for dev, for release.
    pub builds: [bool; 2],
    /// A release build differs from a dev build.
    pub release_differs: bool,
    /// `mode` of the file.
    pub pinned: Option<Mode>,
    pub restart: Restart,
    pub backoff: Backoff,
    pub limit: StartLimit,
    /// From the stop signal to KILL.
    pub stop_timeout: Duration,
    /// A readiness check decides when a run is good, within this time.
    pub ready_within: Option<Duration>,
    /// A swap starts the new run before it stops the old one.
    pub overlap: bool,
    /// It stops the old one only once the new one has been good for that time.
    pub settle: Duration,
    pub build_timeout: Duration,
    /// The port that it has to have.
    pub port: Option<u16>,
    pub depends_on: Vec<(String, Condition)>,
}

impl Policy {
    pub(super) fn builds(&self, mode: Mode) -> bool {
        self.builds[mode as usize]
    }

    /// The wait after that many crashes in a row.
    fn delay(&self, mode: Mode, crashes: u32) -> Duration {
        let Backoff {
            dev,
            initial,
            max,
            factor,
        } = self.backoff;
        match mode {
            Mode::Dev => dev,
            Mode::Release if initial.is_zero() => initial,
            Mode::Release => {
                let crashes = i32::try_from(crashes).unwrap_or(i32::MAX);
                let wait = initial.as_secs_f64() * factor.powi(crashes);
                Duration::try_from_secs_f64(wait).map_or(max, |wait| wait.min(max))
            }
        }
    }
}

/// The pace of starts: the failures so far, and the time before which nothing is started.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    pub(super) hold_until: Option<Mono>,
    /// Crashes and failed builds in a row: the exponent of the next delay.
    in_a_row: u32,
    last_delay: Duration,
    /// Ends before readiness, as far back as they count.
    early_ends: Vec<Mono>,
}

saved! { Throttle { hold_until, in_a_row, last_delay, early_ends } }

impl Throttle {
    /// One more failure: delays the next start.
    pub(super) fn hold(&mut self, now: Mono, policy: &Policy, mode: Mode, least: Duration) {
        self.last_delay = policy.delay(mode, self.in_a_row).max(least);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.hold_until = Some(now.after(self.last_delay));
    }

    /// A good run ended: one that lived longer than the delay before it clears the count.
    pub(super) fn ended(&mut self, lived: Duration) {
        if lived >= STABLE_AFTER && lived > self.last_delay {
            self.in_a_row = 0;
        }
    }

    /// Counts an end before readiness. True: there were too many.
    pub(super) fn exceeds_burst(&mut self, now: Mono, limit: StartLimit) -> bool {
        if limit.burst == 0 {
            return false;
        }
        self.early_ends.retain(|at| now.since(*at) < limit.span);
        self.early_ends.push(now);
        self.early_ends.len() >= limit.burst as usize
    }
}

/// One word for where a process is (mcp-run(5), STATES).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Not wanted up.
    #[default]
    Stopped,
    /// Waits for a dependency, or for another process to end.
    Waiting,
    /// First build, nothing runs yet.
    Building,
    /// Runs, not ready yet.
    Starting,
    Running,
    /// Ends on request.
    Stopping,
    /// Waits for its next start.
    Crashed,
    /// Gave up, or its first build failed, or a task that failed.
    Failed,
    /// Ended with 0 and is not to be restarted.
    Done,
}

impl State {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Stopped,
        Self::Waiting,
        Self::Building,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Crashed,
        Self::Failed,
        Self::Done,
    ];

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

/// The facts of a unit that others see.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    pub state: State,
    /// It is wanted up.
    pub wanted: bool,
    /// The mode that runs or would be started.
    pub mode: Mode,
    /// The run that serves, its first process and its start.
    pub generation: Option<Generation>,
    pub pid: Option<i32>,
    pub started: Option<Mono>,
    /// The run is good.
    pub ready: Option<bool>,
    /// The run passes its health check.
    pub healthy: Option<bool>,
    /// How long nothing served before the run.
    pub gap: Option<Duration>,
    /// Starts after the first.
    pub restarts: u64,
    /// Ends that nobody asked for.
    pub crashes: u64,
    /// When it is started, or built, again.
    pub next_start: Option<Mono>,
    /// A build that was tried later than the one that runs is not what runs.
    pub stale: bool,
    /// The run is of an older build than one that died at its start.
    pub rolled_back: bool,
    /// The build under way.
    pub building: Option<u64>,
    /// The mode of a build that waits for its turn.
    pub queued: Option<Mode>,
    /// Why it is where it is.
    pub reason: Option<String>,
    /// It waits for a dependency that does not come up by itself.
    pub hopeless: bool,
}
