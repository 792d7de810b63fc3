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

    /// As it is saved, without most of what a new process has too: the lives of all processes are kept as texts, and
    /// written each time that one of them changes.
    pub(in crate::lifecycle) fn life(&self) -> Value {
        let mut life = self.save();
        for part in ["builds", "runs", "throttle"] {
            drop_empty(&mut life[part]);
        }
        drop_empty(&mut life);
        life
    }

    /// Takes up the life that a daemon had which was killed, as a process that is new. Gives the turn in which it wants
    /// to be built.
    pub(in crate::lifecycle) fn take_up(&mut self, life: &Value) -> Result<Option<u64>, String> {
        let mut whole = self.save();
        lay_over(&mut whole, life);
        self.restore(&whole)?;
        self.after_death();
        Ok(self.turn())
    }
}

/// Leaves out the fields that a new process has just so.
fn drop_empty(of: &mut Value) {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(_) => false,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    if let Value::Object(fields) = of {
        fields.retain(|_, value| !says_nothing(value));
    }
}

/// Sets the fields that `life` has.
fn lay_over(whole: &mut Value, life: &Value) {
    match (whole, life) {
        (Value::Object(whole), Value::Object(life)) => {
            for (name, value) in life {
                lay_over(whole.entry(name).or_insert(Value::Null), value);
            }
        }
        (whole, life) => *whole = life.clone(),
    }
}
