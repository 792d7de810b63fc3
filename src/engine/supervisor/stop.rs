//! The end of bpm.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::logger::Level;
use crate::engine::saved::LeftBehind;
use crate::lifecycle::Event;
use crate::os::proc::{self, Proc};

use super::runs::{Maker, survivor};
use super::{Phase, Supervisor};

/// Processes that tasks have left running on purpose have this long to end, when bpm does.
const LEFT_BY_TASKS: Duration = Duration::from_secs(5);
/// After this time, what survives KILL is named and left behind.
const GIVE_UP: Duration = Duration::from_secs(2);

/// How far the end of what tasks have left is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    Begun,
    Signalled,
    Killed,
}

impl Supervisor {
    /// TERM or INT came: stops in order at first, kills when it came `again` or was QUIT.
    pub(super) fn stop_by_signal(&mut self, again: bool) {
        self.begin_stop();
        if !again {
            return self.events.say(Level::Info, "asked to stop");
        }
        let text = match self.inputs.was_quit() {
            true => "QUIT came: killing all that is left",
            false => "asked to stop again: killing all that is left",
        };
        self.events.say(Level::Warn, text);
        self.settle();
        self.stop_at_once();
    }

    /// Stops everything in order, then ends.
    pub(super) fn begin_stop(&mut self) {
        if self.phase == Phase::Working {
            self.phase = Phase::Stopping { urgent: false };
            self.setup.manager.tell("STOPPING=1");
            self.lives.note(Event::Shutdown);
        }
    }

    /// Kills what a stop waits for.
    pub(super) fn stop_at_once(&mut self) {
        self.kill_all();
        match &mut self.phase {
            Phase::Stopping { urgent } => *urgent = true,
            Phase::Sweeping { due, stage } if *stage != Sweep::Killed => *due = Mono::now(),
            Phase::Working | Phase::Sweeping { .. } | Phase::Ended => {}
        }
    }

    /// Kills everything that is left, at once.
    pub fn kill_all(&mut self) {
        self.runs.kill_all();
        self.find_ends();
        self.builds.kill_all();
    }

    /// The last thing: what tasks have left running on purpose ends with bpm.
    pub(super) fn sweep(&mut self) {
        if let Phase::Stopping { urgent } = self.phase
            && self.lives.fleet.all_empty()
            && self.environments.is_idle()
        {
            let patience = if urgent {
                Duration::ZERO
            } else {
                LEFT_BY_TASKS
            };
            self.phase = Phase::Sweeping {
                due: Mono::now().after(patience),
                stage: Sweep::Begun,
            };
        }
        let Phase::Sweeping { due, stage } = self.phase else {
            return;
        };
        let left = self.left_by_tasks();
        if left.is_empty() {
            self.runs.close_groups();
            self.phase = Phase::Ended;
            return;
        }
        let late = due <= Mono::now();
        match stage {
            Sweep::Killed if late => {
                for p in &left {
                    self.strays.survived(LeftBehind {
                        process: String::new(),
                        pid: p.pid,
                        start: p.start,
                        what: survivor(p.pid),
                    });
                }
                let pids: Vec<i32> = left.iter().map(|p| p.pid).collect();
                let text = format!("survived KILL and is left behind: {pids:?}");
                self.events.say(Level::Error, &text);
                self.phase = Phase::Ended;
            }
            Sweep::Begun | Sweep::Signalled if late => {
                for p in &left {
                    p.signal(libc::SIGKILL);
                }
                self.phase = Phase::Sweeping {
                    due: Mono::now().after(GIVE_UP),
                    stage: Sweep::Killed,
                };
            }
            Sweep::Begun => {
                for p in &left {
                    p.stop(libc::SIGTERM);
                }
                let stage = Sweep::Signalled;
                self.phase = Phase::Sweeping { due, stage };
            }
            Sweep::Signalled | Sweep::Killed => {}
        }
    }

    /// All that came to us, but for what builds leave on purpose. What has no marker that could be read came to us
    /// from a run that cleared its environment, or from a program that changed its user: bpm is the only one to end it.
    /// So does the command of a check: it was killed with its run, and may not have ended yet.
    fn left_by_tasks(&mut self) -> Vec<Proc> {
        let checks = self.checks.pids();
        let known = self.known_but(&checks);
        let mut left = proc::orphans(&|pid| known.has(&pid));
        let makers = self.runs.makers(&left, &known);
        let spared = |p: &Proc| makers.get(&p.pid).is_some_and(|m| *m == [Maker::Spared]);
        // They have had their time.
        let survivors = self.strays.survivors();
        let survived = |p: &Proc| survivors.iter().any(|s| s.pid == p.pid);
        left.retain(|p| p.state != 'Z' && !spared(p) && !survived(p));
        left
    }
}
