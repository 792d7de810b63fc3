//! Pure: no system call, no thread, no clock.
//!
//! A process's life as JSON, for an upgrade in place. Its policy is not part of that: it follows from the configuration.

use serde_json::Value;

use crate::base::json::object;
use crate::base::saved::{Saved, field, saved, saved_enum};
use crate::config::Mode;
use crate::lifecycle::Why;

use super::{Build, Builds, Built, Cancel, Goal, Rest, Run, Runs, Stop, Swap, Unit, Want};

saved! {
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
    pub(in crate::lifecycle) fn save(&self) -> Value {
        object([
            ("want", self.want.save()),
            ("swap", self.swap.save()),
            ("mode", self.mode.save()),
            ("builds", self.builds.save()),
            ("runs", self.runs.save()),
            ("throttle", self.throttle.save()),
            ("rest", self.rest.save()),
            ("gap_from", self.gap_from.save()),
            ("hopeless", self.hopeless.save()),
            ("reason", self.reason.save()),
            ("waiting", self.waiting.save()),
        ])
    }

    /// Takes up the life that was saved.
    pub(in crate::lifecycle) fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.want = field(saved, "want")?;
        self.swap = field(saved, "swap")?;
        self.mode = field(saved, "mode")?;
        self.builds = field(saved, "builds")?;
        self.runs = field(saved, "runs")?;
        self.throttle = field(saved, "throttle")?;
        self.rest = field(saved, "rest")?;
        self.gap_from = field(saved, "gap_from")?;
        self.hopeless = field(saved, "hopeless")?;
        self.reason = field(saved, "reason")?;
        self.waiting = field(saved, "waiting")?;
        Ok(())
    }
}
