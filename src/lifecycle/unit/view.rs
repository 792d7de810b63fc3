//! Pure: no system call, no thread, no clock.
//!
//! What can be seen.

use crate::base::clock::Mono;
use crate::lifecycle::{Facts, State};

use super::{GOOD_AFTER, Needs, Rest, Run, Stop, Unit};

impl Unit {
    /// Nothing runs and nothing is being built.
    pub(in crate::lifecycle) fn is_empty(&self) -> bool {
        self.run.is_none()
            && self.coming.is_none()
            && self.leaving.is_none()
            && self.build.is_none()
    }

    /// The builds that run or may be started again.
    pub(in crate::lifecycle) fn builds(&self) -> Vec<u64> {
        let runs = self.runs().map(|r| r.built);
        let known = self.built.into_iter().chain([self.fallback]).flatten();
        runs.chain(known).map(|b| b.id).collect()
    }

    pub(in crate::lifecycle) fn is_building(&self) -> bool {
        self.build.is_some()
    }

    /// It holds that port, and is about to give it up.
    pub(in crate::lifecycle) fn gives_up(&self, port: u16) -> bool {
        let replaced = |run: &Run| self.policy.port != run.port && !self.stays;
        let goes = |run: &Run| !self.want || run.stop.is_some() || replaced(run);
        self.runs().any(|r| r.port == Some(port) && goes(r))
    }

    /// Something of it runs.
    pub(in crate::lifecycle) fn has_run(&self) -> bool {
        self.run.is_some()
    }

    /// Nothing of it has been started yet.
    pub(in crate::lifecycle) fn is_new(&self) -> bool {
        self.last_generation == 0
    }

    pub(in crate::lifecycle) fn is_up(&self) -> bool {
        self.run.as_ref().is_some_and(|r| r.serves())
    }

    pub(in crate::lifecycle) fn is_good(&self) -> bool {
        self.run.as_ref().is_some_and(|r| r.is_good())
    }

    pub(in crate::lifecycle) fn has_completed(&self) -> bool {
        self.completed && self.rest == Some(Rest::Done)
    }

    /// It won't come up by itself.
    pub(in crate::lifecycle) fn rests(&self) -> bool {
        !self.want || self.rest.is_some() || self.hopeless
    }

    /// Why it won't: `is stopped`.
    pub(in crate::lifecycle) fn rest_words(&self) -> &'static str {
        match self.rest {
            _ if !self.want => "is stopped",
            Some(Rest::Failed) => "has failed",
            Some(Rest::Done) => "has ended",
            None => "can't start either",
        }
    }

    /// When something is due even if nothing happens.
    pub(in crate::lifecycle) fn deadline(&self) -> Option<Mono> {
        let within = self.policy.ready_within.unwrap_or(GOOD_AFTER);
        let runs = self.runs().filter_map(|run| match run.stop {
            Some(Stop::Signaled { kill_at }) => run.started.map(|_| kill_at),
            Some(Stop::Killed { give_up_at }) => Some(give_up_at),
            None if run.good || run.dead => None,
            None => run.started.map(|at| at.after(within)),
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

    pub(in crate::lifecycle) fn state(&self, needs: &Needs) -> State {
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

    pub(in crate::lifecycle) fn facts(&self, needs: &Needs) -> Facts {
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
            ready: match run {
                Some(run) => Some(run.is_good()),
                None => (state == State::Starting).then_some(false),
            },
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
            hopeless: self.hopeless && state == State::Waiting,
            building: self.build.as_ref().map(|b| b.id),
            queued: self.build_wish.map(|(mode, _)| mode),
            reason: self.reason.clone().or_else(|| match needs {
                Needs::Unmet(why) | Needs::InTheWay(why) | Needs::Hopeless(why)
                    if state == State::Waiting =>
                {
                    Some(why.clone())
                }
                Needs::Met | Needs::Unmet(_) | Needs::InTheWay(_) | Needs::Hopeless(_) => {
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
        self.runs()
            .any(|r| r.generation == generation && (r.good || r.stop.is_some() || r.dead))
    }

    #[cfg(test)]
    pub(in crate::lifecycle) fn count_runs(&self) -> usize {
        self.runs().count()
    }
}
