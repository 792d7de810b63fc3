//! Pure: no system call, no thread, no clock.
//!
//! Compares what is wanted with what is, and says what to do next. A newcomer reads this first.

use crate::base::clock::{self, Mono};
use crate::config::Mode;
use crate::lifecycle::{Effect, Generation, Why};

use super::{Build, Built, Cancel, GIVE_UP, GOOD_AFTER, Goal, Needs, Run, Stop, Swap, Unit};

impl Unit {
    /// First half: the changes that time alone brings.
    pub(in crate::lifecycle) fn let_time_pass(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.cancel_late_build(now, out);
        self.end_late_stops(now, out);
        self.judge_runs(now, out);
        self.note_good_run();
        self.finish_swap(now, out);
        self.throttle.hold_until.take_if(|until| *until <= now);
        self.answer_met(out);
    }

    /// Second half, where it is wanted up.
    pub(in crate::lifecycle) fn go_up(&mut self, now: Mono, needs: &Needs, out: &mut Vec<Effect>) {
        let nothing_runs = self.runs.current.is_none();
        self.hopeless = nothing_runs && !self.swaps() && matches!(needs, Needs::Hopeless(_));
        if !nothing_runs {
            self.swap(now, out);
        } else if self.rest.is_none() {
            self.want_build(needs, out);
            self.start_from_nothing(needs, out);
        }
        self.answer_met(out);
    }

    /// Second half, where it is wanted down. `may_end`: no process that depends on it is still to be stopped
    /// first.
    pub(in crate::lifecycle) fn go_down(
        &mut self,
        now: Mono,
        may_end: bool,
        out: &mut Vec<Effect>,
    ) {
        self.hopeless = false;
        self.cancel_build(Cancel::Unwanted, out);
        if may_end {
            let all: Vec<Generation> = self.runs.iter().map(|r| r.generation).collect();
            for generation in all {
                self.end(now, generation, out);
            }
        }
        self.answer_met(out);
    }

    /// When [`Unit::let_time_pass`] has something to do even if nothing happens.
    pub(in crate::lifecycle) fn deadline(&self) -> Option<Mono> {
        let within = self.policy.ready_within.unwrap_or(GOOD_AFTER);
        let runs = self.runs.iter().filter_map(|run| match run.stop {
            Some(Stop::Signaled { kill_at }) => run.started.map(|_| kill_at),
            Some(Stop::Killed { give_up_at }) => Some(give_up_at),
            None if run.good.is_some() => None,
            None => run.started.map(|at| at.after(within)),
        });
        let build = self.builds.under_way.as_ref();
        let build = build.filter(|b| b.cancelled.is_none()).map(|b| b.due);
        let idle = self.is_wanted() && self.runs.current.is_none();
        let hold = self.throttle.hold_until.filter(|_| idle);
        let coming = self.runs.coming.as_ref().and_then(|run| run.good);
        let settled = coming.map(|since| since.after(self.policy.settle));
        runs.chain(build).chain(hold).chain(settled).min()
    }

    fn cancel_late_build(&mut self, now: Mono, out: &mut Vec<Effect>) {
        if self.builds.under_way.as_ref().is_some_and(|b| b.due <= now) {
            self.cancel_build(Cancel::Late, out);
        }
    }

    fn cancel_build(&mut self, why: Cancel, out: &mut Vec<Effect>) {
        let build = self.builds.under_way.as_mut();
        if let Some(build) = build.filter(|b| b.cancelled.is_none()) {
            build.cancelled = Some(why);
            out.push(Effect::CancelBuild {
                unit: self.id,
                id: build.id,
            });
        }
    }

    /// Kills the runs that do not end, and gives up those that survive that.
    fn end_late_stops(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let mut given_up = Vec::new();
        for run in self.runs.iter_mut() {
            let key = run.key(self.id);
            match run.stop {
                Some(Stop::Signaled { kill_at }) if kill_at <= now && run.started.is_some() => {
                    run.stop = Some(Stop::Killed {
                        give_up_at: now.after(GIVE_UP),
                    });
                    out.push(Effect::Kill(key));
                }
                Some(Stop::Killed { give_up_at }) if give_up_at <= now => given_up.push(key),
                Some(Stop::Signaled { .. } | Stop::Killed { .. }) | None => {}
            }
        }
        for key in given_up {
            out.push(Effect::GiveUp(key));
            self.gone(now, key.generation);
        }
    }

    /// A run without a readiness check becomes good with time; one with a check has a time limit for it.
    fn judge_runs(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let ready_within = self.policy.ready_within;
        let mut late = None;
        for run in self
            .runs
            .iter_mut()
            .filter(|r| r.serves() && r.good.is_none())
        {
            let passed = |span| run.started.is_some_and(|at| at.after(span) <= now);
            match ready_within {
                None => run.good = passed(GOOD_AFTER).then_some(now),
                Some(within) if passed(within) => late = Some((run.generation, within)),
                Some(_) => {}
            }
        }
        if let Some((generation, within)) = late {
            let mut why = format!("not ready within {} s", clock::seconds(within));
            let saw = self.runs.find(generation).and_then(|r| r.saw.as_ref());
            if let Some(saw) = saw {
                why.push_str(&format!(": {saw}"));
            }
            self.end_faulty(now, generation, &why, out);
        }
    }

    /// A good run leaves nothing to go back to and, where it is the newest there is, no reason to report.
    fn note_good_run(&mut self) {
        let Some(run) = self.runs.current.as_ref().filter(|r| r.is_good()) else {
            return;
        };
        let newest = run.built.id >= self.builds.failed.max(self.builds.died);
        self.builds.fallback = None;
        if newest && self.swap != Swap::Refused {
            self.reason = None;
        }
    }

    /// The second half of an overlapping swap. Programs say that they are ready and then die of what they load.
    fn finish_swap(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let settle = self.policy.settle;
        let runs = &mut self.runs;
        let settled = |run: &Run| run.has_settled(settle, now);
        if runs.leaving.is_some() || !runs.coming.as_deref().is_some_and(settled) {
            return;
        }
        runs.leaving = runs.current.take();
        runs.current = runs.coming.take();
        self.reason = None;
        if let Some(old) = self.runs.leaving.as_ref().map(|r| r.generation) {
            self.end(now, old, out);
        }
    }

    /// Ends a run that lives but fails its checks: it counts as a crash.
    pub(super) fn end_faulty(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        self.ended_badly(now, generation, &Why::NotReady(generation, why.into()), out);
        self.reason.get_or_insert_with(|| why.into());
        if let Some(run) = self.runs.find(generation) {
            out.push(Effect::Fault {
                run: run.key(self.id),
                why: why.into(),
            });
            self.end(now, generation, out);
        }
    }

    /// Nothing runs: without hope the callers are answered, and without a build one is wanted.
    fn want_build(&mut self, needs: &Needs, out: &mut Vec<Effect>) {
        if let Needs::Hopeless(why) = needs
            && !self.swaps()
        {
            self.reason = Some(why.clone());
            self.fail_waiting(out, |goal| match goal {
                Goal::Up | Goal::Fresh { .. } => Some(Why::Dependency(why.clone())),
                Goal::Back(first) => Some(first.clone()),
                Goal::Down => None,
            });
        } else if self.throttle.hold_until.is_none()
            && self.startable().is_none()
            && !self.builds.pending()
        {
            self.builds.wish = Some((self.next_mode(), 0));
        }
    }

    /// It is its turn, and no other build of the project runs.
    pub(in crate::lifecycle) fn build(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let Some((mode, _)) = self.builds.wish.take() else {
            return;
        };
        self.builds.last += 1;
        let (unit, id) = (self.id, self.builds.last);
        self.builds.under_way = Some(Build {
            id,
            mode,
            due: now.after(self.policy.build_timeout),
            cancelled: None,
        });
        out.push(Effect::Build { unit, id, mode });
    }

    fn start_from_nothing(&mut self, needs: &Needs, out: &mut Vec<Effect>) {
        if self.throttle.hold_until.is_some() || self.runs.leaving.is_some() {
            return;
        }
        let Some(built) = self.startable() else {
            return;
        };
        match needs {
            Needs::InTheWay(_) => return,
            Needs::Met | Needs::Unmet | Needs::Hopeless(_) if self.swaps() => {}
            Needs::Hopeless(_) => return,
            Needs::Unmet => {
                self.reason = None;
                return;
            }
            Needs::Met if built.id < self.builds.died => {}
            Needs::Met => self.reason = None,
        }
        self.runs.current = Some(self.spawn(built, out));
    }

    /// In the second half of a swap, which does not wait for the dependencies of the first start.
    pub(in crate::lifecycle) fn swaps(&self) -> bool {
        matches!(self.swap, Swap::Wanted(_)) && self.runs.starts > 0
    }

    /// Replaces the run by one of the newest build, as a restart wants once its build has ended: with an overlap the
    /// new run begins beside the old one, else the old one is to end first.
    fn swap(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let runs = &self.runs;
        // One swap for all builds that are asked for: not while another one is to come.
        if self.builds.pending() || runs.coming.is_some() || runs.leaving.is_some() {
            return;
        }
        let (Swap::Wanted(_), Some(built)) = (self.swap, self.startable()) else {
            return;
        };
        let Some(run) = runs.current.as_ref().filter(|r| r.stop.is_none()) else {
            return;
        };
        if self.policy.overlap && run.is_good() {
            self.runs.coming = Some(self.spawn(built, out));
            return;
        }
        if run.good.is_some() {
            self.builds.fallback = Some(run.built);
        }
        self.gap_from = Some(now);
        self.end(now, run.generation, out);
    }

    fn next_mode(&self) -> Mode {
        match self.swap {
            Swap::Wanted(mode) => mode,
            Swap::No | Swap::Refused => self.mode,
        }
    }

    /// The build that can be started as things are.
    pub(super) fn startable(&self) -> Option<Built> {
        let mode = self.next_mode();
        match self.policy.builds(mode) {
            true => self.builds.startable[mode as usize],
            false => Some(Built { id: 0, mode }),
        }
    }

    fn spawn(&mut self, built: Built, out: &mut Vec<Effect>) -> Box<Run> {
        self.mode = built.mode;
        self.swap = Swap::No;
        self.runs.starts += 1;
        self.runs.last += 1;
        let run = Run {
            generation: self.runs.last,
            built,
            port: self.policy.port,
            healthy: true,
            ..Run::default()
        };
        out.push(Effect::Spawn {
            run: run.key(self.id),
            build: built.id,
        });
        Box::new(run)
    }

    /// Sends a run its stop signal, or aborts its start.
    fn end(&mut self, now: Mono, generation: Generation, out: &mut Vec<Effect>) {
        let run = self.runs.find(generation);
        let Some(run) = run.filter(|r| r.stop.is_none() && !r.dead) else {
            return;
        };
        run.stop = Some(Stop::Signaled {
            kill_at: now.after(self.policy.stop_timeout),
        });
        let key = run.key(self.id);
        out.push(match run.started {
            Some(_) => Effect::Signal(key),
            None => Effect::Abort(key),
        });
    }
}
