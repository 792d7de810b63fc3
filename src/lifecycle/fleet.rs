//! Pure: no system call, no thread, no clock.
//!
//! All processes of a project: dependencies, the queue of builds, and the loop that reconciles.

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::json::list;
use crate::base::saved::{Saved, field, restore_fields, save_fields};
use crate::base::table::{Set, Table, sort};
use crate::config::{Condition, Mode};

use super::names::{NameId, Names, Standing, Wait};
use super::policy::{Facts, Policy};
use super::unit::{Needs, Ticket, Unit};
use super::{Generation, RunKey, UnitId};

/// Words about dependencies name at most this many.
const NAMED: usize = 8;

/// An order for one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Up, with what it depends on.
    #[default]
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

impl Default for Why {
    fn default() -> Self {
        Self::Superseded(String::new())
    }
}

/// All processes of a project.
#[derive(Debug, Default)]
pub struct Fleet {
    units: Table<UnitId, Box<Unit>>,
    names: Names,
    leaving: Vec<UnitId>,
    next_id: UnitId,
    turn: u64,
    stopping: bool,
    /// To be reconciled in the next pass: they have changed, or others on whom they depend, or who depend on them.
    open: Set<UnitId>,
    /// To be reconciled in each pass: another process is in their way, and any change may be its end.
    blocked: Vec<UnitId>,
    /// A unit's standing has changed since it was last looked at.
    changed: bool,
}

impl Fleet {
    /// Adds a process that is not wanted yet.
    pub fn add(&mut self, policy: Policy) -> UnitId {
        let id = self.next_id;
        self.next_id += 1;
        let name = self.names.number(&policy.name);
        let mut unit = Box::new(Unit::new(id, name, policy));
        unit.needed = self.names.link(id, &unit.policy.depends_on);
        let standing = unit.standing();
        self.units.insert(id, unit);
        self.show(name, Some(id), standing);
        id
    }

    /// All lives as JSON, for an upgrade in place. None while a process is on its way out of the configuration.
    pub fn save(&self) -> Option<Value> {
        let units = self.units.iter();
        let units = units.map(|(id, unit)| list([id.save(), unit.save()]));
        self.leaving.is_empty().then(|| {
            let mut saved = save_fields(&[("next_id", &self.next_id), ("turn", &self.turn)]);
            saved["units"] = list(units);
            saved
        })
    }

    /// The lives that were saved, each with its settings.
    ///
    /// # Errors
    /// The place of what can't be read.
    pub fn load(saved: &Value, policy: impl Fn(UnitId) -> Option<Policy>) -> Result<Self, String> {
        let mut fleet = Self::default();
        let units: Vec<(UnitId, Value)> = field(saved, "units")?;
        for (id, _) in &units {
            fleet.next_id = *id;
            fleet.add(policy(*id).ok_or_else(|| format!("units.{id}: is not configured"))?);
        }
        for (id, life) in units {
            let mut read = Ok(());
            fleet.with(id, |unit| read = unit.restore(&life));
            read.map_err(|why| format!("units.{id}.{why}"))?;
        }
        let (next_id, turn) = (&mut fleet.next_id, &mut fleet.turn);
        restore_fields(saved, &mut [("next_id", next_id), ("turn", turn)])?;
        Ok(fleet)
    }

    /// The life of one process as JSON, for a daemon that takes over from this one should it be killed.
    pub fn life(&self, id: UnitId) -> Option<Value> {
        Some(self.units.get(&id)?.life())
    }

    /// Goes on with the life of a process as [`Fleet::life`] of a daemon that was killed had it. Gives the run that
    /// was in service. The effects come with the next step.
    ///
    /// # Errors
    /// The place of what can't be read; then it is as it was.
    pub fn take_up(&mut self, id: UnitId, life: &Value) -> Result<Option<Generation>, String> {
        let mut read = Ok(None);
        self.with(id, |unit| {
            read = unit.take_up(life);
        });
        if let Ok(Some(turn)) = read {
            self.turn = self.turn.max(turn);
        }
        read?;
        Ok(self.facts(id).and_then(|facts| facts.generation))
    }

    /// The run that was in service could not be taken over.
    pub fn lose_run(&mut self, id: UnitId) {
        self.with(id, Unit::lose_run);
    }

    /// Runs that are still being made, each with its build: their start was given up for an upgrade, and is to be made
    /// again.
    pub fn in_the_making(&self) -> Vec<(RunKey, u64)> {
        let units = self.units.values();
        units.flat_map(|unit| unit.in_the_making()).collect()
    }

    /// The builds under way that nobody cancelled.
    pub fn under_way(&self) -> Vec<(UnitId, u64, Mode)> {
        let units = self.units.values();
        units.filter_map(|unit| unit.under_way()).collect()
    }

    /// Wants processes up, and their dependencies: for the start, when nothing has been done yet. The effects
    /// come with the next step.
    pub fn want(&mut self, ids: Vec<UnitId>) {
        self.want_needed(ids.clone());
        for id in ids {
            self.with(id, |u| u.start(None));
        }
    }

    /// New settings for a process; the runs are not touched.
    pub fn set_policy(&mut self, id: UnitId, policy: Policy) {
        let Some(mut unit) = self.units.remove(&id) else {
            return;
        };
        if unit.policy.depends_on == policy.depends_on {
            unit.set_policy(policy);
        } else {
            self.names.unlink(id, std::mem::take(&mut unit.needed));
            unit.set_policy(policy);
            unit.needed = self.names.link(id, &unit.policy.depends_on);
        }
        self.units.insert(id, unit);
        self.with(id, |_| {});
    }

    /// Takes a process out of the configuration: one that was added since waits for its end, since it may be
    /// the same program under another name.
    pub fn leave(&mut self, id: UnitId) {
        self.with(id, Unit::leave);
        self.leaving.push(id);
        self.give_up_name(id);
    }

    /// Removes a process of which nothing is left ([`Fleet::is_empty`]) and answers those who still wait.
    pub fn remove(&mut self, id: UnitId) -> Vec<Effect> {
        let mut out = Vec::new();
        self.give_up_name(id);
        if let Some(mut unit) = self.units.remove(&id) {
            unit.dismiss(&mut out);
            self.names.unlink(id, std::mem::take(&mut unit.needed));
            self.names.release(unit.name);
            self.leaving.retain(|l| *l != id);
        }
        out
    }

    /// Another process may have the name of this one.
    fn give_up_name(&mut self, id: UnitId) {
        let unit = self.units.get(&id);
        let unit = unit.filter(|u| self.names.unit(u.name) == Some(id));
        if let Some((name, standing)) = unit.map(|u| (u.name, u.standing())) {
            self.show(name, None, standing);
        }
    }

    /// The one way to change the process of a name, and how that is: its dependents are kept up to date.
    fn show(&mut self, name: NameId, unit: Option<UnitId>, standing: Standing) {
        let Some(dependents) = self.names.show(name, unit, standing) else {
            return;
        };
        self.changed = true;
        for (dependent, before, after) in dependents {
            if let Some(unit) = self.units.get_mut(&dependent) {
                unit.needed.moved(before, after);
                self.open.add(dependent);
            }
        }
    }

    /// The facts of a process.
    pub fn facts(&self, id: UnitId) -> Option<Facts> {
        let unit = self.units.get(&id)?;
        Some(unit.facts(&self.needs(unit), || self.unmet_words(unit)))
    }

    /// It is the run in service, and ready.
    pub fn is_good(&self, run: RunKey) -> bool {
        let unit = self.units.get(&run.unit);
        unit.is_some_and(|u| u.is_good() && u.is_current(run.generation))
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
        // A change of one unit can free another, or leave it without hope: until nothing changes any more. Only those
        // are visited that it can concern: with hundreds of processes each event would visit hundreds.
        loop {
            let mut pass = std::mem::take(&mut self.open);
            for id in std::mem::take(&mut self.blocked) {
                pass.add(id);
            }
            for id in pass.into_keys() {
                self.reconcile(now, id, &mut out);
            }
            if let Some(id) = self.next_builder() {
                self.with(id, |u| u.build(now, &mut out));
            }
            if self.open.is_empty() {
                return out;
            }
        }
    }

    fn all(&self) -> Vec<UnitId> {
        self.units.keys().copied().collect()
    }

    fn note(&mut self, now: Mono, event: Event, out: &mut Vec<Effect>) {
        match event {
            // Time concerns all.
            Event::Tick => self.open = Set::from_iter(self.all()),
            Event::Order {
                unit,
                ticket,
                order,
            } => self.order(unit, ticket, &order, out),
            Event::Idle => {
                for id in self.all() {
                    self.turn += 1;
                    let turn = self.turn;
                    self.with(id, |u| u.idle(turn));
                }
            }
            Event::Shutdown => {
                self.stopping = true;
                for id in self.all() {
                    self.with(id, |u| u.stop(None, out));
                }
            }
            Event::Built { unit, id, result } => self.with(unit, |u| u.built(now, id, result, out)),
            Event::Spawned { run, pid } => self.with_run(run, |u, g| u.spawned(now, g, pid, out)),
            Event::NotSpawned { run, why } => {
                self.with_run(run, |u, g| u.not_spawned(now, g, &why, out));
            }
            Event::Lost(run) => self.with_run(run, |u, g| u.lost(now, g, out)),
            Event::Ready(run) => self.with_run(run, |u, g| u.ready(now, g)),
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

    /// Changes a unit, and opens those whom that can concern.
    fn with(&mut self, id: UnitId, note: impl FnOnce(&mut Unit)) {
        self.change(id, note);
        self.open_around(id);
    }

    /// A process, those that depend on it, and those that may have to wait for its end.
    fn open_around(&mut self, id: UnitId) {
        let Some(unit) = self.units.get(&id) else {
            return;
        };
        self.open.add(id);
        for dependent in self.names.dependents(unit.name) {
            self.open.add(dependent);
        }
        let needed = unit.needed.list.iter();
        let needed = needed.filter_map(|(name, _)| self.names.unit(*name));
        // One that leaves has given up its name.
        for needed in needed.chain(self.leaving.iter().copied()) {
            self.open.add(needed);
        }
    }

    /// The one way to change a unit: its standing is kept up to date.
    fn change(&mut self, id: UnitId, note: impl FnOnce(&mut Unit)) {
        // A fact about a process that a reload took out meanwhile means nothing any more.
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        note(unit);
        let (name, standing) = (unit.name, unit.standing());
        if self.names.unit(name) == Some(id) {
            self.show(name, Some(id), standing);
        }
    }

    fn order(&mut self, id: UnitId, ticket: Option<Ticket>, order: &Order, out: &mut Vec<Effect>) {
        let unit = self.units.get(&id);
        let gone = unit.is_none_or(|u| u.leaves() && *order != Order::Stop);
        let refusal = match order {
            Order::Start | Order::Restart { .. } if self.stopping => Some("bpm is stopping"),
            Order::Start | Order::Restart { .. } | Order::Stop if gone => {
                Some("it was removed from .mcp-run")
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
                self.want_needed(vec![id]);
                self.with(id, |u| u.start(ticket));
            }
            Order::Stop => self.with(id, |u| u.stop(ticket, out)),
            Order::Restart { mode, build } => {
                self.want_needed(vec![id]);
                self.with(id, |u| u.restart(ticket, mode, build, turn));
            }
        }
    }

    /// Wants up the dependencies of processes, and theirs, that are neither up nor done.
    fn want_needed(&mut self, mut open: Vec<UnitId>) {
        let mut seen = Set::from_iter(open.iter().copied());
        while let Some(next) = open.pop() {
            let Some(unit) = self.units.get(&next).filter(|u| !u.is_up()) else {
                continue;
            };
            let needed = unit.needed.list.iter();
            let needed = needed.filter_map(|(name, _)| self.names.unit(*name));
            let needed: Vec<UnitId> = needed.filter(|id| seen.add(*id)).collect();
            for id in needed {
                open.push(id);
                self.with(id, |u| {
                    if u.rests() && !u.has_completed() {
                        u.start(None);
                    }
                });
            }
        }
    }

    fn reconcile(&mut self, now: Mono, id: UnitId, out: &mut Vec<Effect>) {
        let before = out.len();
        self.changed = false;
        self.change(id, |u| u.let_time_pass(now, out));
        let Some(unit) = self.units.get(&id) else {
            return;
        };
        if unit.is_wanted() {
            let needs = self.needs(unit);
            if matches!(needs, Needs::InTheWay(_)) {
                self.blocked.push(id);
            }
            self.change(id, |u| u.go_up(now, &needs, out));
        } else {
            let may_end = unit.is_empty() || self.may_end(unit);
            self.change(id, |u| u.go_down(now, may_end, out));
        }
        if self.changed || out.len() > before {
            self.open_around(id);
        }
    }

    /// Dependents that are to be stopped too end first.
    fn may_end(&self, unit: &Unit) -> bool {
        let dependents = self.names.dependents(unit.name);
        let mut dependents = dependents.filter_map(|id| self.units.get(&id));
        dependents.all(|d| d.is_wanted() || d.is_empty())
    }

    /// Builds run one at a time, in the order they were asked for; one waits for the tasks that its
    /// process needs done, since they may make what it is built from.
    fn next_builder(&self) -> Option<UnitId> {
        let wishes = self.units.values().filter(|u| u.is_wanted());
        let wishes = wishes.filter_map(|u| u.turn().map(|turn| (turn, u)));
        let mut wishes: Vec<(u64, &Box<Unit>)> = wishes.collect();
        if wishes.is_empty() || self.units.values().any(|u| u.is_building()) {
            return None;
        }
        sort(&mut wishes, |(a, one), (b, other)| {
            (a, one.id).cmp(&(b, other.id))
        });
        let mut wishes = wishes.into_iter().map(|(_, unit)| unit);
        let next = wishes.find(|u| u.is_up() || self.tasks_done(u));
        next.map(|u| u.id)
    }

    fn tasks_done(&self, unit: &Unit) -> bool {
        let mut unmet = self.unmet(unit);
        unmet.all(|(_, until)| until != Condition::Completed)
    }

    /// The dependencies that it still waits for.
    fn unmet(&self, unit: &Unit) -> impl Iterator<Item = (NameId, Condition)> {
        let waits = unit.needed.open() > 0;
        let all = unit.needed.list.iter().copied().filter(move |_| waits);
        all.filter(|(name, until)| self.names.wait(*name, *until) != Wait::Met)
    }

    fn needs(&self, unit: &Unit) -> Needs {
        if !unit.wants_run() {
            return Needs::Met;
        }
        // Without hope nothing is built or waited for, whatever else is in the way.
        if !unit.swaps()
            && let Some(why) = self.hopeless(unit)
        {
            return Needs::Hopeless(why);
        }
        if let Some(other) = self.in_the_way(unit) {
            return Needs::InTheWay(format!("waits for {} to end", other.policy.name));
        }
        if unit.needed.open() == 0 {
            return Needs::Met;
        }
        self.hopeless(unit).map_or(Needs::Unmet, Needs::Hopeless)
    }

    /// Why a dependency will not be met, as things are.
    fn hopeless(&self, unit: &Unit) -> Option<String> {
        if unit.needed.hopeless() == 0 {
            return None;
        }
        let mut unmet = self.unmet(unit);
        let (name, until) =
            unmet.find(|(name, until)| self.names.wait(*name, *until) == Wait::Hopeless)?;
        let how = self.names.unit(name).and_then(|id| self.units.get(&id));
        let how = how.map_or("is gone", |u| u.rest_words());
        let what = self.wish_words(name, until);
        Some(format!("waits for {what}, but it {how}"))
    }

    /// `db to be ready`.
    fn wish_words(&self, name: NameId, until: Condition) -> String {
        let what = match until {
            Condition::Started => "started",
            Condition::Ready => "ready",
            Condition::Completed => "done",
        };
        format!("{} to be {what}", self.names.text(name))
    }

    /// `waits for db to be ready, api to be started and 3 more`.
    fn unmet_words(&self, unit: &Unit) -> String {
        let first = self.unmet(unit).take(NAMED);
        let first: Vec<String> = first
            .map(|(name, until)| self.wish_words(name, until))
            .collect();
        match unit.needed.open() - first.len() {
            0 => format!("waits for {}", first.join(", ")),
            more => format!("waits for {} and {more} more", first.join(", ")),
        }
    }

    /// The process that has to end before this one can begin.
    fn in_the_way(&self, unit: &Unit) -> Option<&Unit> {
        if unit.has_run() {
            return None;
        }
        if unit.is_new() {
            let mut leaving = self.leaving.iter().filter_map(|id| self.units.get(id));
            if let Some(old) = leaving.find(|old| !old.is_empty()) {
                return Some(old);
            }
        }
        let port = unit.policy.port?;
        let mut others = self.units.values().filter(|other| other.id != unit.id);
        others.find(|other| other.gives_up(port)).map(Box::as_ref)
    }

    /// The lives after the death of the daemon: as they were, and as they are taken up from what was written of them.
    #[cfg(test)]
    pub(super) fn after_death(mut self, policy: impl Fn(UnitId) -> Policy) -> [Vec<Value>; 2] {
        let mut next = Self::default();
        for id in self.all() {
            next.next_id = id;
            next.add(policy(id));
            assert!(next.take_up(id, &self.life(id).unwrap_or_default()).is_ok());
            self.with(id, Unit::after_death);
        }
        [self, next].map(|fleet| fleet.units.values().map(|unit| unit.save()).collect())
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    #[cfg(test)]
    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units.values().map(Box::as_ref)
    }
}
