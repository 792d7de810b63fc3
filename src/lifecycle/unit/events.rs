//! Pure: no system call, no thread, no clock.
//!
//! Events: each only writes facts down, and answers those who wait for what failed.

use std::time::Duration;

use crate::base::clock::{self, Mono};
use crate::config::Restart;
use crate::lifecycle::{Effect, Generation, Why};

use super::{BREATH, Built, Cancel, GIVE_UP, Goal, Rest, Stop, Swap, Unit, Want};

impl Unit {
    pub(in crate::lifecycle) fn built(
        &mut self,
        now: Mono,
        id: u64,
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        let Some(build) = self.builds.under_way.take_if(|b| b.id == id) else {
            return;
        };
        let mode = build.mode;
        let result = match build.cancelled {
            Some(Cancel::Unwanted) => return,
            Some(Cancel::Late) => Err(format!(
                "not done within {} s",
                clock::seconds(self.policy.build_timeout)
            )),
            None => result,
        };
        self.builds.ended = id;
        if let Err(why) = result {
            return self.build_failed(now, Built { id, mode }, why, out);
        }
        self.builds.startable[mode as usize] = Some(Built { id, mode });
        if self.is_wanted() {
            self.want = Want::Up;
            self.swap = Swap::Wanted(mode);
            self.reason = None;
            self.throttle.hold_until = None;
            self.rest = None;
        }
    }

    /// A build failed: the old run goes on; where there is none, the next build waits.
    fn build_failed(&mut self, now: Mono, build: Built, why: String, out: &mut Vec<Effect>) {
        let Built { id, mode } = build;
        self.builds.failed = id;
        let nothing_runs = self.runs.current.is_none();
        if self.builds.wish.is_none() {
            if !matches!(self.swap, Swap::Wanted(_)) {
                self.swap = Swap::Refused;
            }
            if self.want == Want::UpIfBuilt {
                self.want = if nothing_runs { Want::Down } else { Want::Up };
            }
        }
        if self.is_wanted() && nothing_runs && self.startable().is_none() {
            self.throttle.hold(now, &self.policy, mode, BREATH);
            self.mode = mode;
            self.reason = Some(format!("build failed: {why}"));
        }
        let why = Why::Build { id, why };
        self.fail_waiting(out, |goal| match goal {
            Goal::Fresh { build, .. } if *build <= id => Some(why.clone()),
            Goal::Up if nothing_runs => Some(why.clone()),
            Goal::Up | Goal::Fresh { .. } | Goal::Down | Goal::Back(_) => None,
        });
    }

    pub(in crate::lifecycle) fn spawned(
        &mut self,
        now: Mono,
        generation: Generation,
        pid: i32,
        out: &mut Vec<Effect>,
    ) {
        let gap = self.gap_from.take().map(|from| now.since(from));
        let Some(run) = self.runs.find(generation) else {
            return;
        };
        self.builds.lost = false;
        run.started = Some(now);
        run.pid = Some(pid);
        run.gap = gap;
        if run.stop.is_some() {
            // The abort came too late.
            run.stop = Some(Stop::Signaled {
                kill_at: now.after(self.policy.stop_timeout),
            });
            out.push(Effect::Signal(run.key(self.id)));
        }
    }

    pub(in crate::lifecycle) fn not_spawned(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.find(generation) else {
            return;
        };
        run.dead = true;
        if run.stop.is_none() {
            self.reason = Some(why.into());
            self.ended_badly(now, generation, &Why::Spawn(why.into()), out);
        }
        self.gone(now, generation);
    }

    /// The artifact of the run's build is gone. It is built once more at once, as if it had never been
    /// built; when that is gone as well before it ever ran, the build counts as failed, or builds would
    /// follow each other without a pause.
    pub(in crate::lifecycle) fn lost(
        &mut self,
        now: Mono,
        generation: Generation,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.find(generation) else {
            return;
        };
        let (built, asked) = (run.built, run.stop.is_some());
        let known = self.builds.startable.iter_mut();
        for known in known.chain([&mut self.builds.fallback]) {
            known.take_if(|b| *b == built);
        }
        self.runs.starts -= 1;
        // There is nothing to go back to.
        self.fail_waiting(out, |goal| match goal {
            Goal::Back(why) => Some(why.clone()),
            Goal::Up | Goal::Fresh { .. } | Goal::Down => None,
        });
        self.gone(now, generation);
        if asked {
            return;
        }
        if self.builds.lost {
            let why = "the file it made is gone again before it was started".into();
            self.build_failed(now, built, why, out);
        } else {
            self.builds.lost = true;
            self.builds.wish.get_or_insert((built.mode, 0));
        }
    }

    pub(in crate::lifecycle) fn ready(&mut self, now: Mono, generation: Generation) {
        if let Some(run) = self.runs.find(generation).filter(|r| r.serves()) {
            run.good.get_or_insert(now);
        }
    }

    pub(in crate::lifecycle) fn health(
        &mut self,
        now: Mono,
        generation: Generation,
        healthy: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.find(generation).filter(|r| r.serves()) else {
            return;
        };
        run.healthy = healthy;
        if !healthy {
            let saw = run.saw.clone();
            let why = saw.unwrap_or_else(|| "its health check failed too often".into());
            self.end_faulty(now, generation, &why, out);
        }
    }

    pub(in crate::lifecycle) fn seen(&mut self, generation: Generation, words: Option<String>) {
        if let Some(run) = self.runs.find(generation) {
            run.saw = words;
        }
    }

    pub(in crate::lifecycle) fn exited(
        &mut self,
        now: Mono,
        generation: Generation,
        success: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.runs.find(generation).filter(|r| !r.dead) else {
            return;
        };
        run.dead = true;
        if run.stop.is_some() {
            return;
        }
        if success && self.policy.task {
            // It may have left a daemon on purpose: that lives until bpm stops.
            self.rest = Some(Rest::Done);
            self.gone(now, generation);
            return;
        }
        // The processes it left behind must not meet its successor.
        run.stop = Some(Stop::Killed {
            give_up_at: now.after(GIVE_UP),
        });
        out.push(Effect::Kill(run.key(self.id)));
        let in_service = self.runs.is_current(generation);
        if in_service && self.runs.coming.is_some() {
            // Its successor is on its way already and takes over.
            let goes_on = self.policy.restart == Restart::Always;
            self.runs.crashes += u64::from(!success || goes_on);
            let old = self.runs.current.as_ref().filter(|r| r.good.is_some());
            self.builds.fallback = old.map(|r| r.built);
            return;
        }
        let restarts = match self.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => !success,
            Restart::Never => false,
        };
        if !in_service || restarts || !success {
            self.ended_badly(now, generation, &Why::Ended(generation), out);
        } else if matches!(self.swap, Swap::Wanted(_)) {
            // Its successor was asked for before, and only waits for the end of this one.
            self.throttle.hold_until = Some(now.after(BREATH));
        } else {
            self.rest = Some(Rest::Done);
        }
    }

    pub(in crate::lifecycle) fn gone(&mut self, now: Mono, generation: Generation) {
        if self.runs.is_current(generation) {
            let old = self.runs.current.take();
            // Where the old one ended while the new one was on its way, the new one serves alone now.
            self.runs.current = self.runs.coming.take();
            if let (Swap::Wanted(_), Some(old)) = (self.swap, old) {
                let good = old.good.map(|_| old.built);
                self.builds.fallback = good.or(self.builds.fallback);
            }
            if self.runs.current.is_none() {
                self.gap_from.get_or_insert(now);
            }
        } else {
            let runs = [&mut self.runs.coming, &mut self.runs.leaving];
            for slot in runs {
                slot.take_if(|r| r.generation == generation);
            }
        }
    }

    /// A run ended, or could not begin, though nobody asked: decides on the next start.
    pub(super) fn ended_badly(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &Why,
        out: &mut Vec<Effect>,
    ) {
        let coming = self.runs.coming.as_ref();
        let coming = coming.is_some_and(|c| c.generation == generation);
        if coming && self.is_up() {
            return self.refuse_swap(why, out);
        }
        if !coming && !self.runs.is_current(generation) {
            return;
        }
        // Where the old one has died meanwhile, the new one is all there is.
        let Some(run) = self.runs.find(generation) else {
            return;
        };
        let (good, built) = (run.good.is_some(), run.built);
        let lived = run.started.map_or(Duration::ZERO, |s| now.since(s));
        // A run that could not begin has not crashed.
        self.runs.crashes += u64::from(!matches!(why, Why::Spawn(_)));
        self.gap_from = Some(now);
        if self.policy.restart == Restart::Never {
            self.rest = Some(Rest::Failed);
            return self.fail_up(why, out);
        }
        if good {
            self.throttle.ended(lived);
        } else if self.throttle.exceeds_burst(now, self.policy.limit) {
            self.rest = Some(Rest::Failed);
            self.reason = Some(format!(
                "gave up: {} ends before it was ready within {} s",
                self.policy.limit.burst,
                clock::seconds(self.policy.limit.span)
            ));
            return self.fail_up(why, out);
        }
        let fallback = self.builds.fallback.take().filter(|old| *old != built);
        if let Some(old) = fallback.filter(|_| !good && self.policy.rolls_back) {
            return self.roll_back(now, built, old, why);
        }
        let least = if good { Duration::ZERO } else { BREATH };
        self.throttle.hold(now, &self.policy, self.mode, least);
        self.fail_up(why, out);
    }

    /// The new run of an overlapping swap has failed. The old one was never touched, and a crash brings
    /// back its build.
    fn refuse_swap(&mut self, why: &Why, out: &mut Vec<Effect>) {
        if let Some(old) = &self.runs.current {
            self.mode = old.built.mode;
            self.builds.startable[self.mode as usize] = Some(old.built);
        }
        self.swap = Swap::Refused;
        let coming = self.runs.coming.as_ref();
        let settling = coming.is_some_and(|r| r.good.is_some());
        let new = match why {
            Why::NotReady(_, why) => format!("the new run failed: {why}"),
            Why::Spawn(why) | Why::Dependency(why) | Why::Superseded(why) => {
                format!("no new run: {why}")
            }
            Why::Build { .. } | Why::Ended(_) => match settling {
                true => "the new run ended soon after it was ready".into(),
                false => "the new run ended before it was ready".into(),
            },
        };
        self.reason = Some(format!("{new}; the old run serves on"));
        self.fail_fresh(why, out);
    }

    /// Starts the build of before once more; callers who wait for the dead one are answered once that is
    /// back.
    fn roll_back(&mut self, now: Mono, dead: Built, old: Built, why: &Why) {
        self.builds.startable[old.mode as usize] = Some(old);
        self.builds.died = dead.id;
        self.swap = Swap::Wanted(old.mode);
        self.reason = Some(format!(
            "build {} died before it was ready; rolled back to build {}",
            dead.id, old.id
        ));
        self.throttle.hold_until = Some(now.after(BREATH));
        for (_, goal) in &mut self.waiting {
            if matches!(goal, Goal::Up | Goal::Fresh { .. }) {
                *goal = Goal::Back(why.clone());
            }
        }
    }
}
