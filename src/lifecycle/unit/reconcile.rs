//! Pure: no system call, no thread, no clock.
//!
//! What is wanted beside what is: what to do next.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::number;
use crate::lifecycle::{Effect, Generation, UnitId, Why};

use super::{Build, Built, Cancel, GIVE_UP, GOOD_AFTER, Goal, Needs, Run, Stop, Unit};

impl Unit {
    /// First half: what time alone changes, and the build without which nothing can start is asked for.
    pub(in crate::lifecycle) fn prepare(
        &mut self,
        now: Mono,
        needs: &Needs,
        out: &mut Vec<Effect>,
    ) {
        self.let_time_pass(now, out);
        self.answer_met(out);
        self.hopeless = self.want && self.run.is_none() && matches!(needs, Needs::Hopeless(_));
        if self.want {
            self.want_build(needs, out);
        }
    }

    /// Second half: compares what is wanted with what is. `free`: no other build of the project runs,
    /// and this one is next; `may_end`: nothing that depends on it is still to be stopped first.
    pub(in crate::lifecycle) fn act(
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
        self.end_late_build(now, out);
        self.end_late_stops(now, out);
        self.judge_runs(now, out);
        self.note_good_run();
        self.take_over(now, out);
        self.hold_until = self.hold_until.filter(|until| *until > now);
    }

    fn end_late_build(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let build = self.build.as_mut();
        if let Some(build) = build.filter(|b| b.cancelled.is_none() && b.due <= now) {
            build.cancelled = Some(Cancel::Late);
            out.push(Effect::CancelBuild {
                unit: self.id,
                id: build.id,
            });
        }
    }

    /// Kills what does not end, and gives up what survives that.
    fn end_late_stops(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let id = self.id;
        let mut given_up = Vec::new();
        for run in self.runs_mut() {
            match run.stop {
                Some(Stop::Signaled { kill_at }) if kill_at <= now && run.started.is_some() => {
                    run.stop = Some(Stop::Killed {
                        give_up_at: now.after(GIVE_UP),
                    });
                    out.push(Effect::Kill(run.key(id)));
                }
                Some(Stop::Killed { give_up_at }) if give_up_at <= now => {
                    given_up.push(run.generation);
                }
                Some(Stop::Signaled { .. } | Stop::Killed { .. }) | None => {}
            }
        }
        for generation in given_up {
            out.push(Effect::GiveUp(self.key(generation)));
            self.gone(now, generation);
        }
    }

    /// A run without a readiness check is good by living; one with a check has its time.
    fn judge_runs(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let ready_within = self.policy.ready_within;
        let mut late = None;
        for run in self.runs_mut().filter(|r| r.stop.is_none() && !r.good) {
            match (run.started, ready_within) {
                (Some(started), None) => run.good = started.after(GOOD_AFTER) <= now,
                (Some(started), Some(within)) if started.after(within) <= now => {
                    late = Some((run.generation, within, run.saw.clone()));
                }
                (None | Some(_), None | Some(_)) => {}
            }
        }
        if let Some((generation, within, saw)) = late {
            let mut why = format!("not ready within {} s", number::seconds(within));
            if let Some(saw) = saw {
                why.push_str(&format!(": {saw}"));
            }
            self.turn_out(now, generation, &why, out);
        }
    }

    /// What is so while a good run serves.
    fn note_good_run(&mut self) {
        let Some(run) = self.run.as_ref().filter(|r| r.is_good()) else {
            return;
        };
        let newer_failed = self
            .tried
            .is_some_and(|(id, failed)| failed && id > run.built.id);
        self.fallback = None;
        if !self.rolled_back && !self.refused && !newer_failed {
            self.reason = None;
        }
        self.completed |= !self.policy.task;
    }

    /// The second half of an overlapping swap.
    fn take_over(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let ready = self.coming.as_ref().is_some_and(|r| r.is_good());
        if !ready || self.leaving.is_some() {
            return;
        }
        self.leaving = self.run.take();
        self.run = self.coming.take();
        self.rolled_back = false;
        self.reason = None;
        if let Some(old) = &mut self.leaving {
            end(self.id, old, now, self.policy.stop_timeout, out);
        }
    }

    /// Ends a run that lives but does not do: it counts as a crash.
    pub(super) fn turn_out(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        let (id, timeout) = (self.id, self.policy.stop_timeout);
        self.ended_badly(now, generation, &Why::NotReady(generation, why.into()), out);
        if self.reason.is_none() {
            self.reason = Some(why.into());
        }
        if let Some(run) = self.find(generation) {
            out.push(Effect::Fault {
                run: run.key(id),
                why: why.into(),
            });
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
        if matches!(needs, Needs::InTheWay(_)) {
            return;
        }
        // A swap that is half done is not held up by what it depended on at its first start.
        if self.swap.is_none() || self.starts == 0 {
            match needs {
                Needs::Met | Needs::InTheWay(_) => {}
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
        for run in self.runs_mut().filter(|r| r.stop.is_none()) {
            end(id, run, now, timeout, out);
        }
    }

    /// What can be started as things are.
    pub(super) fn startable(&self) -> Option<Built> {
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
            run: self.key(generation),
            build: built.id,
        });
        Box::new(Run {
            generation,
            built,
            port: self.policy.port,
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

    pub(in crate::lifecycle) fn find(&mut self, generation: Generation) -> Option<&mut Run> {
        self.runs_mut().find(|r| r.generation == generation)
    }
}

/// Tells a run to end.
fn end(unit: UnitId, run: &mut Run, now: Mono, timeout: Duration, out: &mut Vec<Effect>) {
    if run.stop.is_some() || run.dead {
        return;
    }
    run.stop = Some(Stop::Signaled {
        kill_at: now.after(timeout),
    });
    out.push(match run.started {
        Some(_) => Effect::Signal(run.key(unit)),
        None => Effect::Abort(run.key(unit)),
    });
}
