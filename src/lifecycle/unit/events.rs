//! Pure: no system call, no thread, no clock.
//!
//! What has happened: an event only writes facts down.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::number;
use crate::config::{Mode, Restart};
use crate::lifecycle::{Effect, Generation, Why};

use super::{BREATH, Built, Cancel, GIVE_UP, Goal, Rest, Run, STABLE_AFTER, Stop, Unit};

impl Unit {
    pub(in crate::lifecycle) fn built(
        &mut self,
        now: Mono,
        id: u64,
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        let Some(build) = self.build.take_if(|b| b.id == id) else {
            return;
        };
        let result = match build.cancelled {
            Some(Cancel::Unwanted) => return,
            Some(Cancel::Late) => Err(format!(
                "not done within {} s",
                number::seconds(self.policy.build_timeout)
            )),
            None => result,
        };
        match result {
            Ok(()) => {
                self.tried = Some((id, false));
                self.built[build.mode as usize] = Some(Built {
                    id,
                    mode: build.mode,
                });
                if self.want {
                    self.stays = false;
                    self.swap = Some(build.mode);
                    self.rolled_back = false;
                    self.reason = None;
                    self.hold_until = None;
                    self.rest = None;
                    self.reverts = false;
                }
            }
            Err(why) => self.build_failed(now, build.id, build.mode, why, out),
        }
    }

    /// A build failed: the old run goes on; where there is none, the next build waits.
    fn build_failed(&mut self, now: Mono, id: u64, mode: Mode, why: String, out: &mut Vec<Effect>) {
        self.tried = Some((id, true));
        self.stays = self.build_wish.is_none();
        let nothing_runs = self.run.is_none();
        if self.reverts && nothing_runs && self.build_wish.is_none() {
            self.reverts = false;
            self.want = false;
        } else if self.want && nothing_runs && self.startable().is_none() {
            let delay = self.policy.delay(mode, self.in_a_row).max(BREATH);
            self.in_a_row = self.in_a_row.saturating_add(1);
            self.hold_until = Some(now.after(delay));
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
        let (key, stop_timeout) = (self.key(generation), self.policy.stop_timeout);
        let gap = self.gap_from.take().map(|from| now.since(from));
        let Some(run) = self.find(generation) else {
            return;
        };
        run.started = Some(now);
        run.pid = Some(pid);
        run.gap = gap;
        if run.stop.is_some() {
            // Told to end while it was being made: the abort came too late.
            run.stop = Some(Stop::Signaled {
                kill_at: now.after(stop_timeout),
            });
            out.push(Effect::Signal(key));
        }
        self.lost_before = false;
    }

    pub(in crate::lifecycle) fn not_spawned(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.find(generation) else {
            return;
        };
        let asked = run.stop.is_some();
        run.dead = true;
        if !asked {
            self.reason = Some(why.into());
            self.ended_badly(now, generation, &Why::Spawn(why.into()), out);
        }
        self.gone(now, generation);
    }

    /// What a build made is gone. It is built once more at once, as if it had never been built; when that
    /// is gone as well before it ever ran, the build counts as failed, or builds would follow each other
    /// without a pause.
    pub(in crate::lifecycle) fn lost(
        &mut self,
        now: Mono,
        generation: Generation,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.find(generation) else {
            return;
        };
        let (built, asked) = (run.built, run.stop.is_some());
        for known in self.built.iter_mut().chain([&mut self.fallback]) {
            known.take_if(|b| *b == built);
        }
        self.starts -= 1;
        // There is nothing to go back to.
        self.fail_waiting(out, |goal| match goal {
            Goal::Back(why) => Some(why.clone()),
            Goal::Up | Goal::Fresh { .. } | Goal::Down => None,
        });
        self.gone(now, generation);
        if asked {
            return;
        }
        if self.lost_before {
            let why = "what it made is gone again before it was started".into();
            self.build_failed(now, built.id, built.mode, why, out);
        } else {
            self.lost_before = true;
            self.build_wish.get_or_insert((built.mode, 0));
        }
    }

    pub(in crate::lifecycle) fn ready(&mut self, generation: Generation) {
        if let Some(run) = self.find(generation).filter(|r| r.serves()) {
            run.good = true;
        }
    }

    pub(in crate::lifecycle) fn health(
        &mut self,
        now: Mono,
        generation: Generation,
        healthy: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(run) = self.find(generation).filter(|r| r.serves()) else {
            return;
        };
        run.healthy = healthy;
        if !healthy {
            let why = run
                .saw
                .clone()
                .unwrap_or_else(|| "its health check failed too often".into());
            self.turn_out(now, generation, &why, out);
        }
    }

    pub(in crate::lifecycle) fn seen(&mut self, generation: Generation, words: Option<String>) {
        if let Some(run) = self.find(generation) {
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
        let key = self.key(generation);
        let task = self.policy.task;
        let Some(run) = self.find(generation) else {
            return;
        };
        if run.dead {
            return;
        }
        run.dead = true;
        if run.stop.is_some() {
            return;
        }
        if success && task {
            // It may have left a daemon on purpose: that lives until bpm stops.
            self.completed = true;
            self.rest = Some(Rest::Done);
            self.gone(now, generation);
            return;
        }
        // What it left behind must not meet its successor.
        run.stop = Some(Stop::Killed {
            give_up_at: now.after(GIVE_UP),
        });
        out.push(Effect::Kill(key));
        let in_service = self
            .run
            .as_ref()
            .is_some_and(|r| r.generation == generation);
        if in_service && self.coming.is_some() {
            // Its successor is on its way already and takes over.
            self.crashes += u64::from(!success);
            let old = self.run.as_ref().filter(|r| r.good);
            self.fallback = old.map(|r| r.built);
            return;
        }
        let restarts = match self.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => !success,
            Restart::Never => false,
        };
        if in_service && !restarts && success {
            if self.swap.is_some() {
                // Its successor was asked for before, and only waits for the end of the one before.
                self.hold_until = Some(now.after(BREATH));
                return;
            }
            self.completed = true;
            self.rest = Some(Rest::Done);
        } else {
            self.ended_badly(now, generation, &Why::Ended(generation), out);
        }
    }

    pub(in crate::lifecycle) fn gone(&mut self, now: Mono, generation: Generation) {
        let is = |run: &Option<Box<Run>>| run.as_ref().is_some_and(|r| r.generation == generation);
        if is(&self.leaving) {
            self.leaving = None;
        } else if is(&self.coming) {
            self.coming = None;
        } else if is(&self.run) {
            let old = self.run.take();
            // The old one ended while the new one was on its way: the new one serves alone now.
            self.run = self.coming.take();
            if let (Some(_), Some(old)) = (&self.swap, &old) {
                self.fallback = old.good.then_some(old.built).or(self.fallback);
            }
            if self.run.is_none() && self.gap_from.is_none() {
                self.gap_from = Some(now);
            }
        }
    }

    /// A run ended, or could not begin, though nobody asked: what follows from that.
    pub(super) fn ended_badly(
        &mut self,
        now: Mono,
        generation: Generation,
        why: &Why,
        out: &mut Vec<Effect>,
    ) {
        let coming = self
            .coming
            .as_ref()
            .is_some_and(|c| c.generation == generation);
        if coming && self.run.as_ref().is_some_and(|r| r.serves()) {
            return self.refuse_swap(why, out);
        }
        // Where the old one has died meanwhile, the new one is all there is.
        let serving = if coming { &self.coming } else { &self.run };
        let Some(run) = serving.as_ref().filter(|r| r.generation == generation) else {
            return;
        };
        let (good, built, lived) = (
            run.good,
            run.built,
            run.started.map_or(Duration::ZERO, |s| now.since(s)),
        );
        self.crashes += 1;
        self.gap_from = Some(now);
        if self.policy.restart == Restart::Never {
            self.rest = Some(Rest::Failed);
            return self.fail_up(why, out);
        }
        if good && lived >= STABLE_AFTER && lived > self.last_delay {
            self.in_a_row = 0;
        }
        if !good && self.exceeds_burst(now) {
            self.rest = Some(Rest::Failed);
            self.reason = Some(format!(
                "gave up: {} ends before it was ready within {} s",
                self.policy.burst,
                number::seconds(self.policy.burst_span)
            ));
            return self.fail_up(why, out);
        }
        let fallback = self.fallback.take().filter(|old| *old != built);
        if let Some(old) = fallback.filter(|_| !good && self.policy.rolls_back) {
            return self.roll_back(now, built, old, why);
        }
        let delay = self.policy.delay(self.mode, self.in_a_row);
        let delay = if good { delay } else { delay.max(BREATH) };
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last_delay = delay;
        self.hold_until = Some(now.after(delay));
        self.fail_up(why, out);
    }

    /// The new run of an overlapping swap was none. The old one was never touched, and is what a crash
    /// brings back.
    fn refuse_swap(&mut self, why: &Why, out: &mut Vec<Effect>) {
        if let Some(old) = &self.run {
            self.mode = old.built.mode;
            self.built[self.mode as usize] = Some(old.built);
        }
        self.refused = true;
        self.stays = true;
        self.reason = Some(format!("{}; the old run serves on", words_of_new(why)));
        self.fail_fresh(why, out);
    }

    /// Starts the build of before once more; whoever waits for this one is told why
    /// once that is back.
    fn roll_back(&mut self, now: Mono, dead: Built, old: Built, why: &Why) {
        self.built[old.mode as usize] = Some(old);
        self.swap = Some(old.mode);
        self.rolled_back = true;
        self.reason = Some(format!(
            "build {} died before it was good; rolled back to build {}",
            dead.id, old.id
        ));
        self.hold_until = Some(now.after(BREATH));
        for (_, goal) in &mut self.waiting {
            if matches!(goal, Goal::Up | Goal::Fresh { .. }) {
                *goal = Goal::Back(why.clone());
            }
        }
    }

    fn exceeds_burst(&mut self, now: Mono) -> bool {
        if self.policy.burst == 0 {
            return false;
        }
        let span = self.policy.burst_span;
        self.early_ends.retain(|at| now.since(*at) < span);
        self.early_ends.push(now);
        self.early_ends.len() >= self.policy.burst as usize
    }
}

/// Why a run that was to replace another did not.
fn words_of_new(why: &Why) -> String {
    match why {
        Why::NotReady(_, why) => format!("the new run was {why}"),
        Why::Spawn(why) | Why::Dependency(why) | Why::Superseded(why) => {
            format!("no new run: {why}")
        }
        Why::Build { .. } | Why::Ended(_) => "the new run ended before it was good".into(),
    }
}
