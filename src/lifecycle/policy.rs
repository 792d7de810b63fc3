//! Pure: no system call, no thread, no clock.
//!
//! What decides over a life, and what can be seen of it.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::config::{Condition, Mode, Restart};

use super::Generation;

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
    /// How many ends before readiness within the time below make it failed; zero: no limit.
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
    /// The port that it has to have.
    pub port: Option<u16>,
    /// What it waits for at its start.
    pub depends_on: Vec<(String, Condition)>,
}

impl Policy {
    pub(super) fn builds(&self, mode: Mode) -> bool {
        self.builds[mode as usize]
    }

    pub(super) fn delay(&self, mode: Mode, crashes: u32) -> Duration {
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
    /// It waits for what does not come up by itself.
    pub hopeless: bool,
}

impl Facts {
    /// Of a unit that nobody has started.
    pub fn idle() -> Self {
        Self {
            state: State::Stopped,
            wanted: false,
            mode: Mode::Release,
            generation: None,
            pid: None,
            started: None,
            ready: None,
            healthy: None,
            gap: None,
            restarts: 0,
            crashes: 0,
            next_start: None,
            stale: false,
            rolled_back: false,
            building: None,
            queued: None,
            reason: None,
            hopeless: false,
        }
    }
}
