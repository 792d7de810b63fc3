//! Pure: no system call, no thread, no clock.
//!
//! How a process looks from outside: to the fleet, and in [`Facts`].

use crate::config::Mode;
use crate::lifecycle::names::Standing;
use crate::lifecycle::{Facts, Generation, RunKey, State, UnitId};

use super::{Needs, Rest, Run, Swap, Unit, Want};

impl Unit {
    /// Nothing runs and nothing is being built.
    pub(in crate::lifecycle) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.builds.under_way.is_none()
    }

    pub(in crate::lifecycle) fn is_wanted(&self) -> bool {
        match self.want {
            Want::Up | Want::UpIfBuilt => true,
            Want::Down | Want::Leaving => false,
        }
    }

    pub(in crate::lifecycle) fn leaves(&self) -> bool {
        self.want == Want::Leaving
    }

    /// The builds that run or may be started again.
    pub(in crate::lifecycle) fn builds(&self) -> Vec<u64> {
        let runs = self.runs.iter().map(|r| r.built);
        let known = self.builds.startable.into_iter();
        let known = known.chain([self.builds.fallback]).flatten();
        runs.chain(known).map(|b| b.id).collect()
    }

    /// The runs that are being made, each with its build.
    pub(in crate::lifecycle) fn in_the_making(&self) -> impl Iterator<Item = (RunKey, u64)> {
        let runs = self
            .runs
            .iter()
            .filter(|run| run.started.is_none() && !run.dead);
        runs.map(|run| (run.key(self.id), run.built.id))
    }

    /// The build that is under way and that nobody cancelled.
    pub(in crate::lifecycle) fn under_way(&self) -> Option<(UnitId, u64, Mode)> {
        let build = self.builds.under_way.as_ref();
        let build = build.filter(|b| b.cancelled.is_none())?;
        Some((self.id, build.id, build.mode))
    }

    pub(in crate::lifecycle) fn is_building(&self) -> bool {
        self.builds.under_way.is_some()
    }

    /// Its turn in the queue of builds.
    pub(in crate::lifecycle) fn turn(&self) -> Option<u64> {
        self.builds.wish.map(|(_, turn)| turn)
    }

    /// It holds that port, and is about to give it up.
    pub(in crate::lifecycle) fn gives_up(&self, port: u16) -> bool {
        let stays = self.swap == Swap::Refused && !self.builds.pending();
        let goes = |run: &Run| {
            !self.is_wanted() || run.stop.is_some() || self.policy.port != run.port && !stays
        };
        self.runs.iter().any(|r| r.port == Some(port) && goes(r))
    }

    pub(in crate::lifecycle) fn has_run(&self) -> bool {
        self.runs.current.is_some()
    }

    /// Nothing of it has been started yet.
    pub(in crate::lifecycle) fn is_new(&self) -> bool {
        self.runs.last == 0
    }

    /// It is wanted up, and no run of it lives.
    pub(in crate::lifecycle) fn wants_run(&self) -> bool {
        self.is_wanted() && self.runs.current.as_ref().is_none_or(|r| r.dead)
    }

    pub(in crate::lifecycle) fn standing(&self) -> Standing {
        Standing {
            up: self.is_up(),
            good: self.is_good(),
            completed: self.has_completed(),
            rests: self.rests(),
        }
    }

    pub(in crate::lifecycle) fn is_up(&self) -> bool {
        self.runs.current.as_ref().is_some_and(|r| r.serves())
    }

    pub(in crate::lifecycle) fn is_good(&self) -> bool {
        self.runs.current.as_ref().is_some_and(|r| r.is_good())
    }

    pub(in crate::lifecycle) fn is_current(&self, generation: Generation) -> bool {
        self.runs.is_current(generation)
    }

    pub(in crate::lifecycle) fn has_completed(&self) -> bool {
        self.rest == Some(Rest::Done)
    }

    /// It won't come up by itself.
    pub(in crate::lifecycle) fn rests(&self) -> bool {
        !self.is_wanted() || self.rest.is_some() || self.hopeless
    }

    /// Why it won't: `is stopped`.
    pub(in crate::lifecycle) fn rest_words(&self) -> &'static str {
        match self.rest {
            _ if !self.is_wanted() => "is stopped",
            Some(Rest::Failed) => "has failed",
            Some(Rest::Done) => "has ended",
            None => "can't start either",
        }
    }

    /// In dev, and not because the file says so.
    pub(in crate::lifecycle) fn in_dev(&self) -> bool {
        self.is_wanted()
            && self.rest.is_none()
            && self.mode == Mode::Dev
            && self.policy.pinned.is_none()
    }

    fn state(&self, needs: &Needs) -> State {
        let replaced = matches!(self.swap, Swap::Wanted(_));
        match &self.runs.current {
            Some(run) if run.dead && self.is_wanted() && !replaced => self.state_of_nothing(needs),
            Some(run) if run.stop.is_some() => State::Stopping,
            Some(run) if run.good.is_some() => State::Running,
            Some(_) => State::Starting,
            None if self.runs.leaving.is_some() => State::Stopping,
            None => self.state_of_nothing(needs),
        }
    }

    fn state_of_nothing(&self, needs: &Needs) -> State {
        let startable = self.startable().is_some();
        match self.rest {
            _ if !self.is_wanted() => State::Stopped,
            Some(Rest::Done) => State::Done,
            Some(Rest::Failed) => State::Failed,
            None if self.throttle.hold_until.is_some() && !startable => State::Failed,
            None if self.throttle.hold_until.is_some() => State::Crashed,
            None if !startable && self.is_building() => State::Building,
            None if *needs != Needs::Met => State::Waiting,
            None if !startable => State::Building,
            None => State::Starting,
        }
    }

    /// `unmet`: the words for [`Needs::Unmet`].
    pub(in crate::lifecycle) fn facts(
        &self,
        needs: &Needs,
        unmet: impl FnOnce() -> String,
    ) -> Facts {
        let state = self.state(needs);
        let run = self.runs.current.as_ref().filter(|r| !r.dead);
        let built = run.map(|r| r.built).or_else(|| self.startable());
        Facts {
            state,
            wanted: self.is_wanted(),
            mode: self.mode,
            generation: run.map(|r| r.generation),
            pid: run.and_then(|r| r.pid),
            started: run.and_then(|r| r.started),
            ready: match run {
                Some(run) => Some(run.is_good()),
                None => (state == State::Starting).then_some(false),
            },
            healthy: run.map(|r| r.healthy),
            gap: run.and_then(|r| r.gap),
            restarts: self.runs.starts.saturating_sub(1),
            crashes: self.runs.crashes,
            next_start: self
                .throttle
                .hold_until
                .filter(|_| matches!(state, State::Crashed | State::Failed | State::Stopping)),
            stale: run.is_some_and(|r| {
                self.policy.builds(r.built.mode) && self.builds.ended > r.built.id
            }),
            rolled_back: built.is_some_and(|b| b.id < self.builds.died),
            hopeless: self.hopeless && state == State::Waiting,
            building: self.builds.under_way.as_ref().map(|b| b.id),
            queued: self.builds.wish.map(|(mode, _)| mode),
            reason: self.reason.clone().or_else(|| match needs {
                Needs::Unmet if state == State::Waiting => Some(unmet()),
                Needs::InTheWay(why) | Needs::Hopeless(why) if state == State::Waiting => {
                    Some(why.clone())
                }
                Needs::Met | Needs::Unmet | Needs::InTheWay(_) | Needs::Hopeless(_) => {
                    run.and_then(|r| r.words())
                }
            }),
        }
    }

    #[cfg(test)]
    pub(in crate::lifecycle) fn is_good_run(
        &self,
        generation: crate::lifecycle::Generation,
    ) -> bool {
        self.runs
            .iter()
            .any(|r| r.generation == generation && (r.good.is_some() || r.stop.is_some() || r.dead))
    }

    #[cfg(test)]
    pub(in crate::lifecycle) fn count_runs(&self) -> usize {
        self.runs.iter().count()
    }
}

impl Run {
    /// The last result of its checks.
    fn words(&self) -> Option<String> {
        let saw = self.saw.as_ref().filter(|_| self.serves())?;
        Some(match self.good.is_some() {
            true => saw.clone(),
            false => format!("not ready yet: {saw}"),
        })
    }
}
