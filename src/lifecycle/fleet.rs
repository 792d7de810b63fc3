//! Pure: no system call, no thread, no clock.
//!
//! All processes of a project: who waits for whom, whose build is next.

use crate::base::clock::Mono;
use crate::base::table::Table;
use crate::config::{Condition, Mode};

use super::policy::{Facts, Policy};
use super::unit::{Needs, Ticket, Unit};
use super::{Generation, RunKey, UnitId};

/// An order for one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Up, with what it depends on.
    Start,
    Stop,
    /// Build where there is something to build, then replace what runs.
    Restart {
        mode: Mode,
        /// False: start what is built already.
        build: bool,
    },
}

/// A fact or an order, given to [`Fleet::step`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time went by.
    Tick,
    /// The ticket, if there is one, is answered exactly once.
    Order {
        unit: UnitId,
        ticket: Option<Ticket>,
        order: Order,
    },
    /// A build ended. Comes once for each [`Effect::Build`], also for one that was cancelled.
    Built {
        unit: UnitId,
        id: u64,
        result: Result<(), String>,
    },
    /// A run began. This, [`Event::NotSpawned`] or [`Event::Lost`] comes once for each [`Effect::Spawn`].
    Spawned { run: RunKey, pid: i32 },
    /// A run could not begin.
    NotSpawned { run: RunKey, why: String },
    /// A run could not begin, because what its build had made is gone. In place of [`Event::NotSpawned`].
    Lost(RunKey),
    /// The readiness check passed.
    Ready(RunKey),
    /// The health check passed again, or failed too often.
    Health { run: RunKey, healthy: bool },
    /// The last result of a run's checks; None: nothing to report. Comes before what follows from it.
    Seen { run: RunKey, words: Option<String> },
    /// The first process of a run ended; `success`: with exit code 0.
    Exited { run: RunKey, success: bool },
    /// The first process of a run ended, and nothing else of the run is left either.
    Gone(RunKey),
    /// No call came for long: dev builds give way to release builds.
    Idle,
    /// Everything ends.
    Shutdown,
}

/// A thing to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Build {
        unit: UnitId,
        /// Rises by one with each build of the unit.
        id: u64,
        mode: Mode,
    },
    /// Kill that build; [`Event::Built`] reports its end as for any other.
    CancelBuild { unit: UnitId, id: u64 },
    /// Start a run of that build; 0 where nothing is built.
    Spawn { run: RunKey, build: u64 },
    /// Give up a start that is still being made.
    Abort(RunKey),
    /// The run was not ready in time, or its health check failed: it is ended next though nobody asked.
    Fault { run: RunKey, why: String },
    /// Send the stop signal.
    Signal(RunKey),
    /// Kill all processes of the run, now and whenever more of them show until it is gone.
    Kill(RunKey),
    /// The run survived KILL for too long: no longer wait for its end.
    GiveUp(RunKey),
    /// Answer the caller who holds the ticket.
    Answer {
        ticket: Ticket,
        result: Result<(), Why>,
    },
}

/// Why an order could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The build failed.
    Build { id: u64, why: String },
    /// It could not be started.
    Spawn(String),
    /// That run ended before it was good.
    Ended(Generation),
    /// That run was not ready, or not healthy: in words.
    NotReady(Generation, String),
    /// Something that it depends on is not coming.
    Dependency(String),
    /// Another order came.
    Superseded(String),
}

/// All processes of a project.
#[derive(Debug, Default)]
pub struct Fleet {
    units: Table<UnitId, Box<Unit>>,
    /// The processes that depend on the one of this name.
    dependents: Table<String, Vec<UnitId>>,
    next_id: UnitId,
    turn: u64,
    stopping: bool,
}

impl Fleet {
    /// A process more, that nobody wants yet.
    pub fn add(&mut self, policy: Policy) -> UnitId {
        let id = self.next_id;
        self.next_id += 1;
        let depends = !policy.depends_on.is_empty();
        self.units.insert(id, Box::new(Unit::new(id, policy)));
        if depends {
            self.index();
        }
        id
    }

    /// Wants a process up, and what it needs: for the start, when nothing has been done yet. What follows
    /// from it shows with the next step.
    pub fn want(&mut self, id: UnitId) {
        self.want_needed(id);
        self.with(id, |u| u.start(None));
    }

    /// New settings for a process; what runs is not touched.
    pub fn set_policy(&mut self, id: UnitId, policy: Policy) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.set_policy(policy);
            self.index();
        }
    }

    /// A process is on its way out of the configuration: what has come into it since waits for its end,
    /// since it may be the same under another name.
    pub fn leave(&mut self, id: UnitId) {
        self.with(id, |u| u.leaves = true);
    }

    /// Takes out a process of which nothing is left ([`Fleet::is_empty`]); whoever still waits is told.
    pub fn remove(&mut self, id: UnitId) -> Vec<Effect> {
        let mut out = Vec::new();
        if let Some(mut unit) = self.units.remove(&id) {
            unit.dismiss(&mut out);
            self.index();
        }
        out
    }

    fn index(&mut self) {
        self.dependents = Table::default();
        for (id, unit) in self.units.iter() {
            for (name, _) in &unit.policy.depends_on {
                self.dependents.or_default(name.clone()).push(*id);
            }
        }
    }

    /// What can be seen of a process.
    pub fn facts(&self, id: UnitId) -> Option<Facts> {
        self.units
            .get(&id)
            .map(|unit| unit.facts(&self.needs(unit)))
    }

    /// The builds that may be started from now on, without the one under way.
    pub fn startable(&self, id: UnitId) -> Vec<u64> {
        self.units.get(&id).map_or(Vec::new(), |u| u.builds())
    }

    /// Nothing of it runs or is built.
    pub fn is_empty(&self, id: UnitId) -> bool {
        self.units.get(&id).is_none_or(|u| u.is_empty())
    }

    /// Nothing of any process runs or is built.
    pub fn all_empty(&self) -> bool {
        self.units.values().all(|u| u.is_empty())
    }

    /// Some process is in dev and would go back to release.
    pub fn in_dev(&self) -> bool {
        self.units.values().any(|u| u.in_dev())
    }

    /// When [`Event::Tick`] is due if nothing happens before: all the time that the fleet needs.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.units.values().filter_map(|u| u.deadline()).min()
    }

    /// Writes down what has happened, and says what to do about it.
    pub fn step(&mut self, now: Mono, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.note(now, event, &mut out);
        // What becomes of one unit can free another, or leave it without hope: until all is quiet.
        loop {
            let before = (out.len(), self.outlook());
            for id in self.units.keys().copied().collect::<Vec<_>>() {
                self.reconcile(now, id, &mut out);
            }
            if before == (out.len(), self.outlook()) {
                return out;
            }
        }
    }

    /// What others look at, and what changes without an effect.
    fn outlook(&self) -> Vec<(bool, bool)> {
        let units = self.units.values();
        units.map(|u| (u.hopeless, u.is_good())).collect()
    }

    fn note(&mut self, now: Mono, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Order {
                unit,
                ticket,
                order,
            } => self.order(unit, ticket, &order, out),
            Event::Idle => {
                for unit in self.units.values_mut() {
                    self.turn += 1;
                    unit.idle(self.turn);
                }
            }
            Event::Shutdown => {
                self.stopping = true;
                for unit in self.units.values_mut() {
                    unit.stop(None, out);
                }
            }
            Event::Built { unit, id, result } => self.with(unit, |u| u.built(now, id, result, out)),
            Event::Spawned { run, pid } => self.with_run(run, |u, g| u.spawned(now, g, pid, out)),
            Event::NotSpawned { run, why } => {
                self.with_run(run, |u, g| u.not_spawned(now, g, &why, out));
            }
            Event::Lost(run) => self.with_run(run, |u, g| u.lost(now, g, out)),
            Event::Ready(run) => self.with_run(run, |u, g| u.ready(g)),
            Event::Health { run, healthy } => {
                self.with_run(run, |u, g| u.health(now, g, healthy, out));
            }
            Event::Seen { run, words } => self.with_run(run, |u, g| u.seen(g, words)),
            Event::Exited { run, success } => {
                self.with_run(run, |u, g| u.exited(now, g, success, out));
            }
            Event::Gone(run) => self.with_run(run, |u, g| u.gone(now, g)),
        }
    }

    fn with_run(&mut self, run: RunKey, note: impl FnOnce(&mut Unit, Generation)) {
        self.with(run.unit, |u| note(u, run.generation));
    }

    fn with(&mut self, id: UnitId, note: impl FnOnce(&mut Unit)) {
        // A fact about a process that a reload took out meanwhile means nothing any more.
        if let Some(unit) = self.units.get_mut(&id) {
            note(unit);
        }
    }

    fn order(&mut self, id: UnitId, ticket: Option<Ticket>, order: &Order, out: &mut Vec<Effect>) {
        let unit = self.units.get(&id);
        let gone = unit.is_none_or(|u| u.leaves && *order != Order::Stop);
        let refusal = match order {
            Order::Start | Order::Restart { .. } if self.stopping => Some("bpm is stopping"),
            Order::Start | Order::Restart { .. } | Order::Stop if gone => {
                Some("it was taken out of the configuration")
            }
            Order::Start | Order::Restart { .. } | Order::Stop => None,
        };
        if let Some(why) = refusal {
            let result = Err(Why::Superseded(why.into()));
            out.extend(ticket.map(|ticket| Effect::Answer { ticket, result }));
            return;
        }
        self.turn += 1;
        let turn = self.turn;
        match *order {
            Order::Start => {
                self.want_needed(id);
                self.with(id, |u| u.start(ticket));
            }
            Order::Stop => self.with(id, |u| u.stop(ticket, out)),
            Order::Restart { mode, build } => {
                self.want_needed(id);
                self.with(id, |u| u.restart(ticket, mode, build, turn));
            }
        }
    }

    /// Wants up what a process needs for its start and what is not up, or has not been done, already.
    fn want_needed(&mut self, id: UnitId) {
        let mut open = vec![id];
        let mut seen = vec![id];
        while let Some(next) = open.pop() {
            let Some(unit) = self.units.get(&next) else {
                continue;
            };
            if unit.is_up() {
                continue;
            }
            let needed: Vec<UnitId> = unit
                .policy
                .depends_on
                .iter()
                .filter_map(|(name, _)| self.by_name(name))
                .collect();
            for other in needed
                .into_iter()
                .filter(|o| !seen.contains(o))
                .collect::<Vec<_>>()
            {
                seen.push(other);
                open.push(other);
                self.with(other, |u| {
                    if u.rests() && !u.has_completed() {
                        u.start(None);
                    }
                });
            }
        }
    }

    fn by_name(&self, name: &str) -> Option<UnitId> {
        self.units
            .values()
            // One that is leaving may have the same name.
            .find(|u| u.policy.name == name && !u.leaves)
            .map(|u| u.id)
    }

    fn reconcile(&mut self, now: Mono, id: UnitId, out: &mut Vec<Effect>) {
        let Some(needs) = self.units.get(&id).map(|unit| self.needs(unit)) else {
            return;
        };
        self.with(id, |u| u.prepare(now, &needs, out));
        // Asked only of those that would build: the answer takes a look at all.
        let builds = self.units.get(&id).is_some_and(|u| u.build_wish.is_some());
        let free = builds && self.next_builder() == Some(id);
        let may_end = self.units.get(&id).is_some_and(|u| self.may_end(u));
        self.with(id, |u| u.act(now, &needs, free, may_end, out));
    }

    /// Dependents that are to be stopped too end first.
    fn may_end(&self, unit: &Unit) -> bool {
        let dependents = self.dependents.get(unit.policy.name.as_str());
        let mut dependents = dependents
            .into_iter()
            .flatten()
            .filter_map(|id| self.units.get(id));
        dependents.all(|d| d.want || d.is_empty())
    }

    /// Builds run one at a time, in the order they were asked for; one waits for the tasks that its
    /// process needs done, since they may make what it is built from.
    fn next_builder(&self) -> Option<UnitId> {
        if self.units.values().any(|u| u.is_building()) {
            return None;
        }
        self.units
            .values()
            .filter(|u| u.want && (u.is_up() || self.tasks_done(u)))
            .filter_map(|u| u.build_wish.map(|(_, turn)| (turn, u.id)))
            .min()
            .map(|(_, id)| id)
    }

    fn tasks_done(&self, unit: &Unit) -> bool {
        unit.policy
            .depends_on
            .iter()
            .all(|(name, until)| match until {
                Condition::Completed => self
                    .by_name(name)
                    .and_then(|d| self.units.get(&d))
                    .is_none_or(|u| u.has_completed()),
                Condition::Started | Condition::Ready => true,
            })
    }

    fn needs(&self, unit: &Unit) -> Needs {
        if let Some(other) = self.in_the_way(unit) {
            return Needs::InTheWay(format!("waits for {} to end", other.policy.name));
        }
        let mut missing = Vec::new();
        for (name, until) in &unit.policy.depends_on {
            // The configuration has no unknown names; one that a reload takes out holds nobody up.
            let Some(other) = self.by_name(name).and_then(|d| self.units.get(&d)) else {
                continue;
            };
            let (met, wish) = match until {
                Condition::Started => (other.is_up(), "to be started"),
                Condition::Ready => (other.is_good(), "to be ready"),
                Condition::Completed => (other.has_completed(), "to be done"),
            };
            if met {
                continue;
            }
            if other.rests() {
                let how = other.rest_words();
                return Needs::Hopeless(format!("waits for {name} {wish}, but it {how}"));
            }
            missing.push(format!("{name} {wish}"));
        }
        match missing.is_empty() {
            true => Needs::Met,
            false => Needs::Unmet(format!("waits for {}", missing.join(", "))),
        }
    }

    /// The process that has to end before this one can begin.
    fn in_the_way(&self, unit: &Unit) -> Option<&Unit> {
        let port = unit.policy.port;
        if !unit.want || unit.has_run() || port.is_none() && !unit.is_new() {
            return None;
        }
        self.units.values().map(Box::as_ref).find(|other| {
            let leaves = unit.is_new() && other.leaves && !other.is_empty();
            leaves || other.id != unit.id && port.is_some_and(|port| other.gives_up(port))
        })
    }

    #[cfg(test)]
    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units.values().map(Box::as_ref)
    }
}
