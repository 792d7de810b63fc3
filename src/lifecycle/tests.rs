//! Random histories: a world that starts, ends and fails at random, and what must hold in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::base::clock::Mono;
use crate::config::{Backoff, Condition, Mode, Restart, StartLimit};

use super::*;

/// xorshift64*: enough to shuffle histories, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            None
        } else {
            Some(of[self.roll(of.len() as u64) as usize])
        }
    }
}

fn run(unit: UnitId, generation: Generation) -> RunKey {
    RunKey { unit, generation }
}

const BACKOFF: Backoff = Backoff {
    dev: Duration::from_secs(120),
    initial: Duration::from_secs(1),
    max: Duration::from_secs(300),
    factor: 1.5,
};

fn limit(burst: u32) -> StartLimit {
    let span = Duration::from_secs(60);
    StartLimit { burst, span }
}

fn policy(name: &str) -> Policy {
    Policy {
        name: name.into(),
        task: false,
        rolls_back: false,
        builds: [false, false],
        release_differs: false,
        pinned: None,
        restart: Restart::Always,
        backoff: BACKOFF,
        limit: limit(0),
        stop_timeout: Duration::from_secs(5),
        ready_within: None,
        overlap: false,
        settle: Duration::ZERO,
        build_timeout: Duration::from_secs(1800),
        port: None,
        depends_on: Vec::new(),
    }
}

fn rust(name: &str) -> Policy {
    Policy {
        builds: [true, true],
        release_differs: true,
        rolls_back: true,
        ..policy(name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sim {
    Asked,
    Up,
    Signaled,
    Killed,
    Dead,
}

struct World<'l> {
    /// The steps, for a history that fails.
    log: Option<&'l mut Vec<String>>,
    fleet: Fleet,
    steps: u64,
    now: Mono,
    ids: Vec<UnitId>,
    overlaps: Vec<bool>,
    builds: BTreeSet<(UnitId, u64)>,
    runs: BTreeMap<RunKey, Sim>,
    open: BTreeSet<Ticket>,
    answers: BTreeMap<Ticket, Result<(), Why>>,
    next_ticket: Ticket,
    spawns: Vec<(Mono, RunKey, u64)>,
}

impl World<'_> {
    fn new(policies: Vec<Policy>) -> Self {
        let mut fleet = Fleet::default();
        let overlaps = policies.iter().map(|p| p.overlap).collect();
        let ids = policies.into_iter().map(|p| fleet.add(p)).collect();
        Self {
            log: None,
            fleet,
            steps: 0,
            now: Mono::from_nanos(1),
            ids,
            overlaps,
            builds: BTreeSet::new(),
            runs: BTreeMap::new(),
            open: BTreeSet::new(),
            answers: BTreeMap::new(),
            next_ticket: 1,
            spawns: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:?} {event:?}", self.now));
        }
        for effect in self.fleet.step(self.now, event) {
            self.take(effect);
        }
        // A step visits some: for the others there is nothing to do.
        let missed = self.fleet.step(self.now, Event::Tick);
        assert!(missed.is_empty(), "not seen before a tick: {missed:?}");
        self.upgrade();
        assert!(self.builds.len() <= 1, "two builds at once");
        for (unit, overlap) in self.fleet.units().zip(&self.overlaps) {
            assert!(
                unit.count_runs() <= if *overlap { 2 } else { 1 },
                "too many runs of {}",
                unit.id
            );
            assert!(self.fleet.names().agree(&unit.needed), "{:?}", unit.needed);
        }
    }

    /// Now and then it goes on with what the lives are as text: nothing that follows may tell.
    fn upgrade(&mut self) {
        self.steps += 1;
        let Some(saved) = self.fleet.save().filter(|_| self.steps.is_multiple_of(41)) else {
            return;
        };
        let text = serde_json::from_str(&saved.to_string()).unwrap();
        let fleet = Fleet::load(&text, |id| Some(self.policy(id))).unwrap();
        assert_eq!(fleet.save(), Some(saved));
        let [known, next] = fleet.after_death(|id| self.policy(id));
        assert_eq!(known, next);
        let fleet = Fleet::load(&text, |id| Some(self.policy(id))).unwrap();
        for id in &self.ids {
            assert_eq!(fleet.facts(*id), self.fleet.facts(*id));
        }
        self.fleet = fleet;
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Build { unit, id, .. } => {
                assert!(self.builds.insert((unit, id)), "a build twice")
            }
            Effect::CancelBuild { unit, id } => {
                assert!(self.builds.contains(&(unit, id)), "cancelled what is not")
            }
            Effect::Spawn { run, build } => {
                self.spawns.push((self.now, run, build));
                assert!(self.runs.insert(run, Sim::Asked).is_none(), "a run twice");
            }
            Effect::Abort(run) => assert_eq!(self.runs[&run], Sim::Asked),
            Effect::Fault { run, .. } => assert_eq!(self.runs[&run], Sim::Up),
            Effect::Signal(run) => {
                let sim = self.runs.get_mut(&run).expect("a signal to a run there is");
                assert_eq!(*sim, Sim::Up, "a signal to what is not up");
                *sim = Sim::Signaled;
            }
            Effect::Kill(run) => {
                let sim = self.runs.get_mut(&run).expect("a kill of a run there is");
                assert_ne!(*sim, Sim::Asked, "a kill without a pid");
                if *sim != Sim::Dead {
                    *sim = Sim::Killed;
                }
            }
            Effect::GiveUp(run) => {
                self.runs.remove(&run);
            }
            Effect::Answer { ticket, result } => {
                assert!(self.open.remove(&ticket), "ticket {ticket} answered twice");
                self.answers.insert(ticket, result);
            }
        }
    }

    fn order(&mut self, unit: UnitId, order: Order) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.open.insert(ticket);
        self.step(Event::Order {
            unit,
            ticket: Some(ticket),
            order,
        });
        ticket
    }

    /// Built for dev, as after an edit.
    fn restart(&mut self, unit: UnitId) -> Ticket {
        let (mode, build) = (Mode::Dev, true);
        self.order(unit, Order::Restart { mode, build })
    }

    fn build_ends(&mut self, result: Result<(), String>) {
        let (unit, id) = self.builds.pop_first().expect("a build");
        self.step(Event::Built { unit, id, result });
    }

    fn spawned(&mut self, key: RunKey) {
        self.runs.insert(key, Sim::Up);
        let pid = 1000 + key.generation as i32;
        self.step(Event::Spawned { run: key, pid });
    }

    fn exits(&mut self, key: RunKey, success: bool) {
        self.runs.insert(key, Sim::Dead);
        self.step(Event::Exited { run: key, success });
    }

    fn gone(&mut self, key: RunKey) {
        self.runs.remove(&key);
        self.step(Event::Gone(key));
    }

    fn loses(&mut self, key: RunKey) {
        self.runs.remove(&key);
        self.step(Event::Lost(key));
    }

    fn with(&self, sims: &[Sim]) -> Vec<RunKey> {
        self.runs
            .iter()
            .filter(|(_, s)| sims.contains(s))
            .map(|(k, _)| *k)
            .collect()
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.step(Event::Tick);
    }

    fn reach_deadline(&mut self) -> bool {
        let Some(due) = self.fleet.next_deadline() else {
            return false;
        };
        self.now = self.now.max(due);
        self.step(Event::Tick);
        true
    }

    /// Everything that is under way goes well; nothing new begins.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            if !self.builds.is_empty() {
                self.build_ends(Ok(()));
            } else if let Some(key) = self.with(&[Sim::Asked]).first().copied() {
                self.spawned(key);
            } else if let Some(key) = self.with(&[Sim::Signaled, Sim::Killed]).first().copied() {
                self.exits(key, false);
            } else if let Some(key) = self.with(&[Sim::Dead]).first().copied() {
                self.gone(key);
            } else if let Some(key) = self.readiness_due() {
                self.step(Event::Ready(key));
            } else if let Some(key) = self.task_due() {
                self.exits(key, true);
            } else if !self.reach_deadline() {
                return;
            }
        }
        panic!("it never settles");
    }

    fn assert_settled(&self) {
        let all: Vec<Facts> = self.ids.iter().map(|id| self.facts(*id)).collect();
        assert!(self.open.is_empty(), "unanswered: {:?}: {all:?}", self.open);
        assert_eq!(self.fleet.next_deadline(), None);
        for id in &self.ids {
            let facts = self.facts(*id);
            let empty = self.fleet.is_empty(*id);
            match facts.state {
                State::Stopped => assert!(!facts.wanted && empty, "{facts:?}"),
                State::Running => assert!(facts.wanted && facts.ready == Some(true), "{facts:?}"),
                State::Waiting | State::Done | State::Failed => {
                    assert!(facts.wanted && empty, "{facts:?}")
                }
                State::Building | State::Starting | State::Stopping | State::Crashed => {
                    panic!("not settled: {facts:?}")
                }
            }
        }
    }

    fn readiness_due(&self) -> Option<RunKey> {
        self.fleet
            .units()
            .filter(|u| u.policy.ready_within.is_some())
            .filter_map(|u| self.with(&[Sim::Up]).into_iter().rfind(|k| k.unit == u.id))
            .find(|k| {
                !self
                    .fleet
                    .units()
                    .any(|u| u.id == k.unit && u.is_good_run(k.generation))
            })
    }

    fn task_due(&self) -> Option<RunKey> {
        self.with(&[Sim::Up])
            .into_iter()
            .find(|k| self.fleet.units().any(|u| u.id == k.unit && u.policy.task))
    }

    fn state(&self, unit: UnitId) -> State {
        self.facts(unit).state
    }

    fn facts(&self, unit: UnitId) -> Facts {
        self.fleet.facts(unit).expect("a unit")
    }

    fn policy(&self, unit: UnitId) -> Policy {
        let mut units = self.fleet.units();
        units.find(|u| u.id == unit).unwrap().policy.clone()
    }

    fn up(&mut self, unit: UnitId) {
        let ticket = self.order(unit, Order::Start);
        self.settle();
        assert_eq!(self.answers[&ticket], Ok(()));
        assert_eq!(self.state(unit), State::Running);
    }

    fn newest(&self, unit: UnitId) -> RunKey {
        *self.runs.keys().rfind(|k| k.unit == unit).expect("a run")
    }

    fn build_of(&self, key: RunKey) -> u64 {
        let spawn = self.spawns.iter().find(|s| s.1 == key);
        spawn.unwrap().2
    }

    fn crash(&mut self, unit: UnitId) {
        let key = self.newest(unit);
        self.exits(key, false);
        self.gone(key);
    }
}

fn random_project(dice: &mut Dice) -> Vec<Policy> {
    let names = ["a", "b", "c", "d"];
    let count = 1 + dice.roll(4) as usize;
    let mut before: Vec<(String, bool)> = Vec::new();
    (0..count)
        .map(|i| {
            let mut p = if dice.chance(50) {
                rust(names[i])
            } else {
                policy(names[i])
            };
            p.task = p.builds == [false, false] && dice.chance(30);
            p.restart = match dice.roll(3) {
                _ if p.task => Restart::Never,
                0 => Restart::OnFailure,
                1 if dice.chance(50) => Restart::Never,
                _ => Restart::Always,
            };
            p.ready_within = dice.chance(40).then_some(Duration::from_secs(60));
            p.overlap = !p.task && p.ready_within.is_some() && dice.chance(60);
            p.settle = Duration::from_secs(dice.roll(3));
            p.port = dice.chance(40).then_some(80);
            p.limit = limit(if dice.chance(20) { 3 } else { 0 });
            p.pinned = if dice.chance(15) {
                Some(Mode::Dev)
            } else {
                None
            };
            p.backoff.dev = Duration::from_secs(dice.roll(3) * 60);
            for (other, task) in &before {
                if dice.chance(35) {
                    // A service never completes: only tasks are waited for that long.
                    let conditions = [Condition::Started, Condition::Ready, Condition::Completed];
                    let until = if *task {
                        conditions[2]
                    } else {
                        conditions[dice.roll(2) as usize]
                    };
                    p.depends_on.push((other.clone(), until));
                }
            }
            before.push((p.name.clone(), p.task));
            p
        })
        .collect()
}

fn random_event(world: &mut World, dice: &mut Dice) {
    let unit = dice.pick(&world.ids.clone()).unwrap_or(0);
    match dice.roll(21) {
        0 | 1 => drop(world.order(unit, Order::Start)),
        2 => drop(world.order(unit, Order::Stop)),
        3..=5 => {
            let mode = if dice.chance(70) {
                Mode::Dev
            } else {
                Mode::Release
            };
            let build = dice.chance(80);
            world.order(unit, Order::Restart { mode, build });
        }
        6 | 7 if !world.builds.is_empty() => {
            let result = if dice.chance(60) {
                Ok(())
            } else {
                Err("error".to_string())
            };
            world.build_ends(result);
        }
        8..=10 => {
            if let Some(key) = dice.pick(&world.with(&[Sim::Asked])) {
                if dice.chance(80) {
                    world.spawned(key);
                } else {
                    world.runs.remove(&key);
                    let mut spawns = world.spawns.iter();
                    let built = spawns.any(|s| s.1 == key && s.2 > 0);
                    world.step(if built && dice.chance(50) {
                        Event::Lost(key)
                    } else {
                        Event::NotSpawned {
                            run: key,
                            why: "no such file".into(),
                        }
                    });
                }
            }
        }
        11 | 12 => {
            if let Some(key) = dice.pick(&world.with(&[Sim::Up, Sim::Signaled, Sim::Killed])) {
                let success = dice.chance(30);
                world.exits(key, success);
            }
        }
        13 | 14 => {
            if let Some(key) = dice.pick(&world.with(&[Sim::Dead])) {
                world.gone(key);
            }
        }
        15 => {
            if let Some(key) = dice.pick(&world.with(&[Sim::Up])) {
                world.step(Event::Ready(key));
            }
        }
        16 => {
            if let Some(key) = dice.pick(&world.with(&[Sim::Up])) {
                let healthy = dice.chance(50);
                world.step(Event::Health { run: key, healthy });
            }
        }
        17 => world.step(Event::Idle),
        18 => drop(world.reach_deadline()),
        19 => random_reload(world, dice),
        _ => world.pass(Duration::from_millis(dice.roll(20_000))),
    }
}

/// Ports go from one to another, and somebody leaves who comes back under the same name.
fn random_reload(world: &mut World, dice: &mut Dice) {
    let mut orders = Vec::new();
    if dice.chance(30)
        && let Some(old) = dice.pick(&world.ids.clone())
    {
        world.fleet.leave(old);
        orders.push((old, Order::Stop));
        let policy = world.policy(old);
        world.overlaps.push(policy.overlap);
        let new = world.fleet.add(policy);
        world.ids.retain(|id| *id != old);
        world.ids.push(new);
        orders.push((new, Order::Start));
    }
    for id in world.ids.clone() {
        let port = dice.pick(&[None, Some(80), Some(81), Some(82)]).flatten();
        let policy = world.policy(id);
        if dice.chance(50) && policy.port != port {
            world.fleet.set_policy(id, Policy { port, ..policy });
            if world.facts(id).wanted {
                let (mode, build) = (world.facts(id).mode, true);
                orders.push((id, Order::Restart { mode, build }));
            }
        }
    }
    for (id, order) in orders {
        world.order(id, order);
    }
}

/// A project, and a number for each event of its history. An event is drawn from its number and from the
/// state of the world, so a history is still one after events were taken out.
struct History {
    project: u64,
    events: Vec<u64>,
}

impl History {
    fn random(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            project: dice.roll(u64::MAX),
            events: (0..dice.roll(60)).map(|_| dice.roll(u64::MAX)).collect(),
        }
    }

    /// None if all holds in it, else what does not; `log` takes the steps.
    fn failure(&self, log: &mut Vec<String>) -> Option<String> {
        let play = std::panic::AssertUnwindSafe(|| self.play(log));
        let panic = std::panic::catch_unwind(play).err()?;
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        Some(text.unwrap_or_else(|| *panic.downcast::<String>().unwrap_or_default()))
    }

    fn play(&self, log: &mut Vec<String>) {
        let mut dice = Dice::new(self.project);
        let project = random_project(&mut dice);
        log.extend(project.iter().map(|policy| format!("{policy:?}")));
        let mut world = World::new(project);
        world.log = Some(log);
        for event in &self.events {
            random_event(&mut world, &mut Dice::new(*event));
        }
        if dice.chance(20) {
            world.step(Event::Shutdown);
        }
        world.settle();
        world.assert_settled();
    }

    /// Takes out one event after the other as long as it still fails.
    fn shorten(&mut self) {
        let mut at = 0;
        while at < self.events.len() {
            let event = self.events.remove(at);
            if self.failure(&mut Vec::new()).is_none() {
                self.events.insert(at, event);
                at += 1;
            }
        }
    }
}

/// `BPM_HISTORIES` sets the number of histories; the CI plays more.
#[test]
fn random_histories_settle_and_answer_everybody() {
    #[allow(clippy::disallowed_methods)]
    let histories = std::env::var("BPM_HISTORIES");
    let histories = histories.ok().and_then(|n| n.parse().ok());
    for seed in 1..=histories.unwrap_or(5_000) {
        let mut history = History::random(seed);
        if history.failure(&mut Vec::new()).is_none() {
            continue;
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        history.shorten();
        std::panic::set_hook(hook);
        let mut log = Vec::new();
        let failure = history.failure(&mut log).unwrap_or_default();
        let steps = log.join("\n");
        panic!("history {seed}, shortened:\n{steps}\n{failure}");
    }
}

#[test]
fn failed_build_leaves_the_old_run_untouched() {
    let mut w = World::new(vec![rust("api")]);
    w.up(0);
    let pid = w.facts(0).pid;
    let ticket = w.restart(0);
    w.build_ends(Err("mismatched types".into()));
    assert_eq!(
        w.answers[&ticket],
        Err(Why::Build {
            id: 2,
            why: "mismatched types".into()
        })
    );
    let facts = w.facts(0);
    assert_eq!(
        (facts.state, facts.pid, facts.stale, facts.mode),
        (State::Running, pid, true, Mode::Release)
    );
}

#[test]
fn restarts_during_a_build_make_one_more_build_and_one_swap() {
    let mut w = World::new(vec![rust("api")]);
    w.up(0);
    let first = w.restart(0);
    let second = w.restart(0);
    let third = w.restart(0);
    w.settle();
    for ticket in [first, second, third] {
        assert_eq!(w.answers[&ticket], Ok(()));
    }
    let builds: Vec<u64> = w.spawns.iter().map(|s| s.2).collect();
    assert_eq!(builds, [1, 3]);
}

#[test]
fn release_backoff_grows_and_a_stable_run_clears_it() {
    let mut w = World::new(vec![policy("web")]);
    w.up(0);
    let mut waits = Vec::new();
    for _ in 0..4 {
        w.crash(0);
        waits.push(w.facts(0).next_start.map(|at| at.since(w.now).as_millis()));
        assert_eq!(w.state(0), State::Crashed);
        w.settle();
    }
    assert_eq!(waits, [Some(1_000), Some(1_500), Some(2_250), Some(3_375)]);
    w.pass(Duration::from_secs(11));
    w.crash(0);
    assert_eq!(
        w.facts(0).next_start.map(|at| at.since(w.now).as_millis()),
        Some(1_000)
    );
}

#[test]
fn zero_backoff_restarts_a_good_run_at_once_and_a_bad_one_after_a_breath() {
    let mut w = World::new(vec![Policy {
        backoff: Backoff {
            initial: Duration::ZERO,
            ..BACKOFF
        },
        ..policy("web")
    }]);
    w.up(0);
    w.crash(0);
    assert_eq!(w.with(&[Sim::Asked]).len(), 1, "started in the same step");
    let key = w.newest(0);
    w.spawned(key);
    w.crash(0);
    assert_eq!(
        w.facts(0).next_start.map(|at| at.since(w.now).as_millis()),
        Some(100)
    );
}

#[test]
fn start_by_hand_skips_the_crash_delay() {
    let mut w = World::new(vec![Policy {
        pinned: Some(Mode::Dev),
        ..policy("web")
    }]);
    w.up(0);
    w.crash(0);
    assert_eq!(w.state(0), State::Crashed);
    w.order(0, Order::Start);
    assert_eq!(w.with(&[Sim::Asked]).len(), 1);
}

#[test]
fn new_binary_that_dies_at_its_start_is_rolled_back() {
    let mut w = World::new(vec![rust("api")]);
    w.up(0);
    let ticket = w.restart(0);
    w.build_ends(Ok(()));
    let old = w.newest(0);
    w.exits(old, false);
    w.gone(old);
    let new = w.newest(0);
    w.spawned(new);
    w.crash(0);
    w.settle();
    assert!(matches!(w.answers[&ticket], Err(Why::Ended(_))));
    let facts = w.facts(0);
    assert_eq!(
        (facts.state, facts.mode, facts.rolled_back, facts.stale),
        (State::Running, Mode::Release, true, true)
    );
}

/// A unit that runs and is swapped with an overlap, and its run.
fn overlapping() -> (World<'static>, RunKey) {
    let mut w = World::new(vec![Policy {
        overlap: true,
        ready_within: Some(Duration::from_secs(60)),
        ..rust("api")
    }]);
    w.up(0);
    let old = w.newest(0);
    (w, old)
}

#[test]
fn overlap_ends_the_old_run_only_once_the_new_one_is_ready() {
    let (mut w, old) = overlapping();
    let ticket = w.restart(0);
    w.build_ends(Ok(()));
    let new = w.newest(0);
    w.spawned(new);
    assert_eq!(w.runs[&old], Sim::Up);
    w.exits(new, false);
    w.gone(new);
    assert!(matches!(w.answers[&ticket], Err(Why::Ended(_))));
    assert_eq!((w.runs[&old], w.state(0)), (Sim::Up, State::Running));
    w.step(Event::Tick);
    let facts = w.facts(0);
    assert_eq!((facts.mode, facts.stale), (Mode::Release, true));
    assert!(facts.reason.unwrap().contains("the old run serves on"));
    let ticket = w.restart(0);
    w.settle();
    assert_eq!(w.answers[&ticket], Ok(()));
    assert!(!w.runs.contains_key(&old));
}

#[test]
fn overlap_keeps_the_old_run_until_the_new_one_has_settled() {
    let mut w = World::new(vec![Policy {
        overlap: true,
        ready_within: Some(Duration::from_secs(60)),
        settle: Duration::from_secs(1),
        ..policy("api")
    }]);
    w.up(0);
    let old = w.newest(0);
    let ticket = w.restart(0);
    let new = w.newest(0);
    w.spawned(new);
    w.step(Event::Ready(new));
    w.pass(Duration::from_millis(900));
    assert_eq!(w.runs[&old], Sim::Up);
    w.exits(new, false);
    w.gone(new);
    assert!(matches!(w.answers[&ticket], Err(Why::Ended(_))));
    let reason = w.facts(0).reason.unwrap();
    assert!(reason.contains("soon after it was ready"), "{reason}");
    let ticket = w.restart(0);
    let new = w.newest(0);
    w.spawned(new);
    w.step(Event::Ready(new));
    w.pass(Duration::from_secs(1));
    assert_eq!(w.runs[&old], Sim::Signaled);
    w.settle();
    assert_eq!(w.answers[&ticket], Ok(()));
}

#[test]
fn crash_after_a_refused_swap_brings_back_the_old_build() {
    let (mut w, old) = overlapping();
    let build = w.build_of(old);
    w.restart(0);
    w.build_ends(Ok(()));
    let new = w.newest(0);
    w.spawned(new);
    w.exits(new, false);
    w.gone(new);
    w.exits(old, false);
    w.gone(old);
    w.pass(Duration::from_secs(2));
    let back = w.newest(0);
    assert_ne!(back, new);
    assert_eq!(w.build_of(back), build);
}

#[test]
fn swap_in_which_both_die_goes_back_to_the_old_build_after_a_breath() {
    let (mut w, old) = overlapping();
    let build = w.build_of(old);
    let ticket = w.restart(0);
    w.build_ends(Ok(()));
    let new = w.newest(0);
    w.spawned(new);
    w.exits(old, false);
    w.exits(new, false);
    w.gone(old);
    w.gone(new);
    assert_eq!(w.spawns.len(), 2, "not at once");
    w.settle();
    assert!(matches!(w.answers[&ticket], Err(Why::Ended(_))));
    let facts = w.facts(0);
    assert!(facts.rolled_back);
    assert_eq!(w.build_of(run(0, facts.generation.unwrap())), build);
}

#[test]
fn dependents_end_first_and_dependencies_start_first() {
    let db = policy("db");
    let web = Policy {
        depends_on: vec![("db".into(), Condition::Started)],
        ..policy("web")
    };
    let mut w = World::new(vec![db, web]);
    w.order(1, Order::Start);
    assert_eq!((w.state(0), w.state(1)), (State::Starting, State::Waiting));
    w.settle();
    w.step(Event::Shutdown);
    assert_eq!(
        w.with(&[Sim::Signaled]),
        [run(1, 1)],
        "db goes on until web is gone"
    );
    w.settle();
    assert!(w.fleet.all_empty());
}

#[test]
fn stop_while_waiting_or_building_is_answered() {
    let slow = rust("slow");
    let web = Policy {
        depends_on: vec![("slow".into(), Condition::Started)],
        ..policy("web")
    };
    let mut w = World::new(vec![slow, web]);
    let start = w.order(1, Order::Start);
    let stop = w.order(1, Order::Stop);
    assert_eq!(w.answers[&stop], Ok(()));
    assert!(matches!(w.answers[&start], Err(Why::Superseded(_))));
    let stop = w.order(0, Order::Stop);
    assert!(w.open.contains(&stop), "the build's end is still to come");
    w.build_ends(Err("killed".into()));
    assert_eq!(
        (w.answers[&stop].clone(), w.state(0)),
        (Ok(()), State::Stopped)
    );
}

#[test]
fn task_is_done_once_and_runs_again_when_asked() {
    let task = Policy {
        task: true,
        restart: Restart::Never,
        ..policy("migrate")
    };
    let web = Policy {
        depends_on: vec![("migrate".into(), Condition::Completed)],
        ..policy("web")
    };
    let mut w = World::new(vec![task, web]);
    w.up(1);
    assert_eq!(w.state(0), State::Done);
    w.restart(1);
    w.settle();
    assert_eq!(w.spawns.iter().filter(|s| s.1.unit == 0).count(), 1);
    let ticket = w.order(0, Order::Start);
    w.settle();
    assert_eq!(w.answers[&ticket], Ok(()));
    assert_eq!(w.spawns.iter().filter(|s| s.1.unit == 0).count(), 2);
}

#[test]
fn idle_takes_dev_back_to_release() {
    let mut w = World::new(vec![rust("api"), policy("web")]);
    w.up(0);
    w.up(1);
    w.restart(0);
    w.restart(1);
    w.settle();
    assert!(w.fleet.in_dev());
    let starts = w.spawns.len();
    w.step(Event::Idle);
    w.settle();
    assert!(!w.fleet.in_dev());
    assert_eq!(
        w.spawns.len(),
        starts + 1,
        "only what is built otherwise is started anew"
    );
}

#[test]
fn process_that_keeps_dying_early_is_given_up() {
    let mut w = World::new(vec![Policy {
        limit: limit(3),
        ..policy("web")
    }]);
    let ticket = w.order(0, Order::Start);
    for _ in 0..3 {
        while w.with(&[Sim::Asked]).is_empty() {
            w.reach_deadline();
        }
        let key = w.newest(0);
        w.spawned(key);
        w.crash(0);
    }
    assert!(matches!(w.answers[&ticket], Err(Why::Ended(1))));
    assert_eq!((w.state(0), w.fleet.next_deadline()), (State::Failed, None));
}

#[test]
fn first_build_that_fails_is_tried_again() {
    let mut w = World::new(vec![rust("api")]);
    let ticket = w.order(0, Order::Start);
    assert_eq!(w.state(0), State::Building);
    w.build_ends(Err("error".into()));
    assert!(matches!(w.answers[&ticket], Err(Why::Build { id: 1, .. })));
    let facts = w.facts(0);
    assert_eq!(
        (
            facts.state,
            facts.next_start.map(|t| t.since(w.now).as_secs())
        ),
        (State::Failed, Some(1))
    );
    w.settle();
    assert_eq!(w.state(0), State::Running);
}

#[test]
fn restart_survives_the_end_of_the_run_it_replaces() {
    let mut w = World::new(vec![Policy {
        restart: Restart::Never,
        overlap: true,
        ready_within: Some(Duration::from_secs(60)),
        ..policy("web")
    }]);
    w.up(0);
    w.restart(0);
    let second = w.newest(0);
    w.spawned(second);
    w.step(Event::Ready(second));
    // The first one is still leaving.
    let ticket = w.restart(0);
    w.exits(second, true);
    w.gone(second);
    w.settle();
    assert_eq!(w.answers[&ticket], Ok(()));
    assert_eq!(w.state(0), State::Running);
}

#[test]
fn rollback_answers_callers_when_the_old_one_ends_as_well() {
    let mut w = World::new(vec![Policy {
        restart: Restart::OnFailure,
        ..rust("api")
    }]);
    w.up(0);
    let ticket = w.restart(0);
    w.build_ends(Ok(()));
    let old = w.newest(0);
    w.exits(old, true);
    w.gone(old);
    let new = w.newest(0);
    w.spawned(new);
    w.crash(0);
    w.reach_deadline();
    let back = w.newest(0);
    assert_ne!(back, new);
    w.spawned(back);
    w.exits(back, true);
    w.gone(back);
    assert_eq!(w.answers[&ticket], Err(Why::Ended(new.generation)));
    assert_eq!(w.state(0), State::Done);
}

#[test]
fn process_that_keeps_its_port_is_not_waited_for() {
    let on = |p: Policy, port| Policy {
        port: Some(port),
        ..p
    };
    let mut w = World::new(vec![on(policy("a"), 1), on(rust("b"), 2)]);
    w.up(0);
    w.up(1);
    w.fleet.set_policy(0, on(policy("a"), 2));
    w.fleet.set_policy(1, on(rust("b"), 3));
    let (ticket, key) = (w.restart(0), w.newest(0));
    w.exits(key, false);
    w.gone(key);
    let failed = w.restart(1);
    assert_eq!(w.state(0), State::Waiting);
    w.build_ends(Err("no".into()));
    w.settle();
    assert!(w.answers[&failed].is_err());
    assert_eq!(w.answers[&ticket], Ok(()));
}

#[test]
fn process_without_hope_is_not_built_while_its_port_is_given_up() {
    let on_port = |policy| Policy {
        port: Some(80),
        ..policy
    };
    let web = Policy {
        depends_on: vec![("db".into(), Condition::Started)],
        ..rust("web")
    };
    let mut w = World::new(vec![on_port(policy("old")), policy("db"), on_port(web)]);
    w.up(0);
    w.order(2, Order::Start);
    w.order(1, Order::Stop);
    w.build_ends(Err("no".into()));
    w.settle();
    w.order(0, Order::Stop);
    assert_eq!(w.with(&[Sim::Signaled]), [w.newest(0)]);
    assert!(w.builds.is_empty(), "{:?}", w.builds);
}

#[test]
fn leaving_process_is_not_started_again() {
    let mut w = World::new(vec![policy("db")]);
    w.up(0);
    w.fleet.leave(0);
    let stop = w.order(0, Order::Stop);
    let db = w.fleet.add(policy("db"));
    let api = w.fleet.add(Policy {
        depends_on: vec![("db".into(), Condition::Started)],
        ..policy("api")
    });
    let starts = [db, api].map(|id| w.order(id, Order::Start));
    let late = w.restart(0);
    w.settle();
    assert!(w.fleet.is_empty(0) && w.answers[&late].is_err());
    for ticket in [stop, starts[0], starts[1]] {
        assert_eq!(w.answers[&ticket], Ok(()));
    }
}

#[test]
fn dependent_listed_first_starts_as_soon_as_its_dependency_is_good() {
    let mut w = World::new(vec![
        Policy {
            depends_on: vec![("db".into(), Condition::Ready)],
            ..policy("api")
        },
        policy("db"),
    ]);
    w.fleet.want(vec![0]);
    w.step(Event::Tick);
    w.spawned(run(1, 1));
    w.reach_deadline();
    assert_eq!(w.facts(1).ready, Some(true));
    assert_eq!(w.with(&[Sim::Asked]), [run(0, 1)]);
}

#[test]
fn start_looks_at_each_dependency_once_whatever_happens() {
    const ALL: usize = 60;
    let name = |n: usize| format!("p{n}");
    let all = (0..ALL).map(|n| Policy {
        depends_on: (0..n).map(|n| (name(n), Condition::Ready)).collect(),
        ..policy(&name(n))
    });
    let mut w = World::new(all.collect());
    w.fleet.want((0..ALL).collect());
    w.step(Event::Tick);
    w.settle();
    assert_eq!(w.with(&[Sim::Up]).len(), ALL);
    // Once to count them, and once for the words that an upgrade on the way compares.
    let dependencies = ALL * (ALL - 1) / 2;
    assert!(w.fleet.names().looked_at.get() <= 2 * dependencies);
}

#[test]
fn build_whose_artifact_vanishes_again_and_again_waits_longer_each_time() {
    let mut w = World::new(vec![rust("api")]);
    let ticket = w.order(0, Order::Start);
    let lost = |w: &mut World| {
        w.build_ends(Ok(()));
        w.loses(w.newest(0));
    };
    // The first time somebody may have removed it: it is built again at once.
    lost(&mut w);
    assert_eq!((w.builds.len(), w.state(0)), (1, State::Building));
    lost(&mut w);
    assert!(matches!(w.answers[&ticket], Err(Why::Build { id: 2, .. })));
    for wait in [1.0, 1.5, 2.25] {
        assert_eq!((w.builds.len(), w.state(0)), (0, State::Failed));
        let due = w.facts(0).next_start.unwrap();
        assert_eq!(due.since(w.now), Duration::from_secs_f64(wait));
        assert!(w.facts(0).reason.unwrap().contains("is gone again"));
        w.pass(Duration::from_secs_f64(wait));
        lost(&mut w);
    }
    assert_eq!(w.facts(0).crashes, 0);
    // A build that is started clears the count.
    w.reach_deadline();
    w.build_ends(Ok(()));
    let key = w.newest(0);
    w.spawned(key);
    w.crash(0);
    w.reach_deadline();
    w.loses(w.newest(0));
    assert_eq!(w.builds.len(), 1);
}

#[test]
fn overlapping_swap_is_refused_when_its_artifact_is_lost_again() {
    let (mut w, old) = overlapping();
    let ticket = w.restart(0);
    w.build_ends(Ok(()));
    w.loses(run(0, 2));
    w.build_ends(Ok(()));
    w.loses(run(0, 3));
    assert!(matches!(w.answers[&ticket], Err(Why::Build { .. })));
    assert_eq!((w.runs[&old], w.builds.len()), (Sim::Up, 0));
}

#[test]
fn failed_build_of_a_stopped_process_leaves_it_stopped_but_not_one_that_ran_since() {
    let mut w = World::new(vec![rust("api")]);
    let ticket = w.restart(0);
    w.build_ends(Err("error".into()));
    assert!(w.answers[&ticket].is_err());
    assert_eq!(w.state(0), State::Stopped);
    w.up(0);
    w.order(0, Order::Stop);
    w.settle();
    let (mode, build) = (Mode::Release, false);
    w.order(0, Order::Restart { mode, build });
    w.settle();
    w.crash(0);
    w.restart(0);
    w.build_ends(Err("error".into()));
    assert_ne!(w.state(0), State::Stopped);
}

#[test]
fn waiting_reason_names_eight_dependencies_and_counts_the_rest() {
    let mut policies: Vec<Policy> = (0..20).map(|i| policy(&format!("p{i}"))).collect();
    let all = policies.iter().map(|p| p.name.clone());
    let depends_on = all.map(|name| (name, Condition::Started)).collect();
    policies.push(Policy {
        depends_on,
        ..policy("web")
    });
    let mut w = World::new(policies);
    w.order(20, Order::Start);
    let reason = w.facts(20).reason.unwrap();
    assert!(
        reason.starts_with("waits for p0 to be started, p1 to be"),
        "{reason}"
    );
    assert!(reason.ends_with("p7 to be started and 12 more"), "{reason}");
}

#[test]
fn cancelled_build_does_not_hold_up_a_restart() {
    let mut w = World::new(vec![Policy {
        restart: Restart::Never,
        ..rust("api")
    }]);
    w.up(0);
    w.restart(0);
    w.order(0, Order::Stop);
    w.crash(0);
    w.order(0, Order::Start);
    let second = w.newest(0);
    w.spawned(second);
    let (mode, build) = (Mode::Release, false);
    let ticket = w.order(0, Order::Restart { mode, build });
    w.step(Event::Health {
        run: second,
        healthy: false,
    });
    w.build_ends(Ok(()));
    w.settle();
    assert_eq!(w.answers[&ticket], Ok(()));
}
