//! Pure: no system call, no thread, no clock.
//!
//! A process's life as JSON, for an upgrade in place. Its policy is not part of that: it follows from the configuration.

use serde_json::Value;

use crate::base::saved::{Saved, saved, saved_enum};
use crate::config::Mode;
use crate::lifecycle::Why;

use super::{Build, Builds, Built, Cancel, Goal, Rest, Run, Runs, Stop, Swap, Unit, Want};

saved! {
    Unit {
        want, swap, mode, builds, runs, throttle, rest, gap_from, hopeless, reason, waiting,
    }
    Built { id, mode }
    Build { id, mode, due, cancelled }
    Builds { wish, under_way, last, ended, failed, died, startable, fallback, lost }
    Run { generation, built, port, started, pid, good, healthy, saw, gap, stop, dead }
    Runs { current, coming, leaving, last, starts, crashes }
}

saved_enum! {
    Mode { Dev, Release }
    Cancel { Late, Unwanted }
    Stop { Signaled { kill_at }, Killed { give_up_at } }
    Goal { Up, Fresh { after, build }, Down, Back(why) }
    Why { Build { id, why }, Spawn(why), Ended(run), NotReady(run, why), Dependency(why), Superseded(why) }
    Rest { Done, Failed }
    Want { Down, UpIfBuilt, Up, Leaving }
    Swap { No, Wanted(mode), Refused }
}

impl Unit {
    /// Goes on after the daemon was killed: its callers are gone, builds and swaps that were under way begin again, and
    /// a run that was not in service is none of its own any more.
    pub(in crate::lifecycle) fn after_death(&mut self) {
        self.waiting.clear();
        self.hopeless = false;
        if self.want == Want::Leaving {
            self.want = Want::Down;
        }
        if let Some(build) = self.builds.under_way.take()
            && build.cancelled != Some(Cancel::Unwanted)
        {
            self.builds.wish.get_or_insert((build.mode, 0));
        }
        if let Some(new) = self.runs.coming.take() {
            self.swap = Swap::Wanted(new.built.mode);
        }
        self.runs.leaving = None;
        if let Some(run) = self.runs.current.take_if(|run| !run.serves()) {
            // It was about to be started.
            self.runs.starts -= u64::from(run.started.is_none() && self.runs.starts > 0);
        }
    }

    /// Its run could not be taken over, and is ended by others: the next one is built and started as if this one had
    /// never been.
    pub(in crate::lifecycle) fn lose_run(&mut self) {
        self.runs.current = None;
        self.swap = Swap::No;
        self.builds.startable = [None; 2];
        self.builds.fallback = None;
        self.reason = None;
    }

    /// Takes up the life that a daemon had which was killed. Gives the turn in which it wants to be built.
    pub(in crate::lifecycle) fn take_up(&mut self, saved: &Value) -> Result<Option<u64>, String> {
        self.restore(saved)?;
        self.after_death();
        Ok(self.turn())
    }
}
