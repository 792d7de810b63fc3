//! Orders and their answers: one order may be for several processes, and is answered when all are.

use serde_json::Value;

use crate::base::clock::{Mono, human};
use crate::base::json::list;
use crate::base::saved::{Saved, load, saved, saved_enum};
use crate::base::table::{Table, in_order};
use crate::config::{Mode, graph};
use crate::engine::handle::{Done, Reloaded, Reply, ReplySlot};
use crate::engine::snapshot::{ExitView, State};
use crate::lifecycle::{Event, Order, RunKey, Ticket, UnitId, Why};

use super::Supervisor;
use super::environments::read_env_file;
use super::units::{Unit, Units};

/// How many lines of what failed go into the answer.
const TAIL: usize = 20;

/// One order, until it is answered.
#[derive(Default)]
struct PendingOrder {
    /// None: its caller has not come back since an upgrade.
    slot: Option<ReplySlot>,
    began: Mono,
    targets: Vec<Target>,
    /// A reload is answered with this, and what of it failed.
    reload: Option<Box<Reloaded>>,
}

/// One process that an order is for.
#[derive(Default)]
struct Target {
    name: String,
    unit: Option<UnitId>,
    order: Order,
    before: Before,
    done: Option<Done>,
}

/// How it was when the order came.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    pid: Option<i32>,
    generation: u64,
    build: u64,
    run: u64,
}

/// A process with the order for it; None: there is none of that name.
pub(super) type Wanted = (String, Option<UnitId>, Order);

saved! {
    Orders { last_number, tickets, pending }
    Before { pid, generation, build, run }
    Target { name, unit, order, before, done }
    Done {
        name, ok, mode, pid, previous_pid, build, ready, gap, reason, old_serves, rolled_back, exit, tail,
        stopped, took,
    }
}

saved_enum! { Order { Start, Stop, Restart { mode, build } } }

/// Its caller comes back by [`Orders::resume`].
impl Saved for PendingOrder {
    fn save(&self) -> Value {
        list([self.began.save(), self.targets.save()])
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        (self.began, self.targets) = load(saved)?;
        Ok(())
    }
}

/// How an order to a process ended.
type Outcome = Result<(), Why>;

/// The orders that are not answered.
#[derive(Default)]
pub(super) struct Orders {
    pending: Table<u64, PendingOrder>,
    /// The order of a ticket, and which of its targets.
    tickets: Table<Ticket, (u64, usize)>,
    /// Outcomes that are not described yet.
    outcomes: Vec<((u64, usize), Outcome)>,
    pub(super) answered: Vec<(ReplySlot, Reply)>,
    /// Answers for callers who have not come back since an upgrade.
    unclaimed: Table<u64, Reply>,
    last_number: u64,
}

impl Orders {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The caller of an order from before an upgrade.
    pub(super) fn resume(&mut self, number: u64, slot: ReplySlot) {
        if let Some(order) = self.pending.get_mut(&number) {
            order.slot = Some(slot);
        } else if let Some(reply) = self.unclaimed.remove(&number) {
            slot.put(reply);
        } else {
            slot.put(Reply::Refused("its caller came back too late".into()));
        }
    }

    /// A reload is not answered yet.
    pub(super) fn is_reloading(&self) -> bool {
        self.pending.values().any(|order| order.reload.is_some())
    }

    /// A ticket has its outcome. It is described once all that follows has been done: the pid of a new run is
    /// there only then.
    pub(super) fn note(&mut self, ticket: Ticket, outcome: Outcome) {
        self.outcomes
            .extend(self.tickets.remove(&ticket).map(|target| (target, outcome)));
    }

    /// An order waits for an answer about that process.
    pub(super) fn awaits(&self, unit: UnitId) -> bool {
        let open = |(number, at): &(u64, usize)| {
            let order = self.pending.get(number)?;
            order.targets.get(*at)?.unit
        };
        self.tickets.values().filter_map(open).any(|id| id == unit)
    }

    /// A target is done; the answer, if it was the last one of its order.
    fn finish(&mut self, (number, at): (u64, usize), done: Done) -> Option<(ReplySlot, Reply)> {
        let order = self.pending.get_mut(&number)?;
        order.targets.get_mut(at)?.done = Some(done);
        if order.targets.iter().any(|target| target.done.is_none()) {
            return None;
        }
        let order = self.pending.remove(&number)?;
        let reply = reply(order.reload, order.targets);
        match order.slot {
            Some(slot) => Some((slot, reply)),
            None => {
                self.unclaimed.insert(number, reply);
                None
            }
        }
    }
}

impl Supervisor {
    /// Orders the same of several processes.
    pub(super) fn order_all(&mut self, order: Order, names: &[String], slot: ReplySlot) {
        let wanted = |name: &String| (name.clone(), self.units.id_of(name), order);
        let targets = names.iter().map(wanted).collect();
        self.order(targets, None, slot);
    }

    /// Gives each process its order. Dependents are told to stop first, so that they end first.
    pub(super) fn order(
        &mut self,
        wanted: Vec<Wanted>,
        reload: Option<Box<Reloaded>>,
        slot: ReplySlot,
    ) {
        if wanted.is_empty() {
            return self.orders.answered.push((slot, reply(reload, Vec::new())));
        }
        let number = self.orders.number();
        let mut orders = Vec::new();
        let mut targets = Vec::new();
        for (at, (name, unit, order)) in wanted.into_iter().enumerate() {
            let broken = unit.filter(|_| matches!(order, Order::Restart { .. }));
            let broken = broken.and_then(|id| self.broken_env_file(id));
            match (unit, broken) {
                (Some(_), Some(why)) => {
                    let outcome = Err(Why::Spawn(why));
                    self.orders.outcomes.push(((number, at), outcome));
                }
                (Some(id), None) => {
                    let ticket = self.orders.number();
                    self.orders.tickets.insert(ticket, (number, at));
                    self.runs.forget_stopped(id);
                    orders.push((id, ticket, order));
                }
                (None, _) => {
                    let why = Why::Superseded("it is not in the configuration".into());
                    self.orders.outcomes.push(((number, at), Err(why)));
                }
            }
            targets.push(Target {
                name,
                unit,
                order,
                before: self.before(unit),
                done: None,
            });
        }
        if reload.is_none() && targets.iter().all(|target| target.order == Order::Stop) {
            let ranks = starting_order(&self.units);
            let rank = |id: &UnitId| ranks.iter().rev().position(|r| r == id);
            orders = in_order(orders, |(id, _, _)| rank(id).unwrap_or(usize::MAX) as u64);
        }
        let began = Mono::now();
        slot.set_number(number);
        let pending = PendingOrder {
            slot: Some(slot),
            began,
            targets,
            reload,
        };
        self.orders.pending.insert(number, pending);
        for (unit, ticket, order) in orders {
            let ticket = Some(ticket);
            self.lives.note(Event::Order {
                unit,
                ticket,
                order,
            });
        }
    }

    /// The run that goes on would have no successor.
    fn broken_env_file(&self, id: UnitId) -> Option<String> {
        let process = &self.units.get(id)?.process;
        self.lives.fleet.facts(id)?.pid?;
        let root = &self.setup.config.root;
        let mut files = process.env_files.iter();
        let fault = files.find_map(|file| read_env_file(root, file).err())?;
        Some(format!("cannot start {}: env_file {fault}", process.name))
    }

    fn before(&self, unit: Option<UnitId>) -> Before {
        let Some((id, unit)) = unit.and_then(|id| Some((id, self.units.get(id)?))) else {
            return Before::default();
        };
        let facts = self.lives.fleet.facts(id);
        Before {
            pid: facts.as_ref().and_then(|f| f.pid),
            generation: facts.and_then(|f| f.generation).unwrap_or(0),
            build: unit.built.as_ref().map_or(0, |b| b.id),
            run: unit.exits.back().map_or(0, |e| e.run),
        }
    }

    /// The answers that are due.
    pub(super) fn answers(&mut self) -> Vec<(ReplySlot, Reply)> {
        let mut answers = std::mem::take(&mut self.orders.answered);
        for (place, outcome) in std::mem::take(&mut self.orders.outcomes) {
            let (number, at) = place;
            let Some(order) = self.orders.pending.get(&number) else {
                continue;
            };
            if let Some(target) = order.targets.get(at) {
                let done = self.describe(target, order.began, &outcome);
                answers.extend(self.orders.finish(place, done));
            }
        }
        answers
    }

    /// How an order to one process ended.
    fn describe(&self, target: &Target, began: Mono, outcome: &Outcome) -> Done {
        let took = Mono::now().since(began);
        let found = target.unit.and_then(|id| Some((id, self.units.get(id)?)));
        let Some((id, unit)) = found else {
            let reason = outcome.as_ref().err().map(words);
            return Done {
                reason,
                took,
                ..Done::new(target.name.clone())
            };
        };
        let facts = self.lives.fleet.facts(id);
        let facts = facts.as_ref();
        let before = target.before;
        let failed = outcome.is_err();
        let serves = facts.is_some_and(|f| f.state == State::Running);
        let build = unit.built.as_ref().filter(|b| b.id > before.build).cloned();
        let mut exits = unit.exits.iter();
        let exit = match outcome {
            Err(Why::Ended(_)) => exits.rfind(|e| e.run > before.run && !e.asked),
            _ => None,
        };
        let fresh = facts.filter(|f| f.generation.is_some_and(|g| g > before.generation));
        let mut stopped = self.runs.stopped(id);
        // Of earlier stops too, until they are gone.
        if matches!(target.order, Order::Stop | Order::Restart { .. }) {
            let mut earlier = self.strays.of(&target.name);
            earlier.retain(|(pid, _)| stopped.leftovers.iter().all(|(p, _)| p != pid));
            stopped.leftovers.extend(earlier);
        }
        // A run that was rolled back long before this order, and goes on, is just the old run.
        let rolled_back = failed && fresh.is_some_and(|f| f.rolled_back);
        let reason = outcome.as_ref().err().map(|why| match (why, exit) {
            (Why::Ended(_), Some(exit)) => {
                let uptime = human(exit.uptime);
                format!("it ended with {} after {uptime}", exit.words())
            }
            (why, _) => words(why),
        });
        Done {
            name: target.name.clone(),
            ok: !failed && (target.order != Order::Stop || stopped.leftovers.is_empty()),
            mode: facts.map_or(Mode::Release, |f| f.mode),
            pid: facts.and_then(|f| f.pid),
            previous_pid: before.pid,
            ready: facts.and_then(|f| f.ready),
            gap: fresh.and_then(|f| f.gap),
            reason,
            old_serves: failed && serves && !rolled_back && target.order != Order::Stop,
            rolled_back,
            tail: self.tail(id, unit, outcome, exit),
            exit: exit.cloned(),
            build,
            stopped,
            took,
        }
    }

    /// The last lines of what failed.
    fn tail(
        &self,
        unit: UnitId,
        u: &Unit,
        outcome: &Outcome,
        exit: Option<&ExitView>,
    ) -> Vec<String> {
        let lines = match (outcome, exit) {
            (Err(Why::Build { .. }), _) => u.built.as_ref().map(|b| u.build_log.tail(b.id, TAIL)),
            (Err(Why::Ended(_)), Some(exit)) => Some(u.log.tail(exit.run, TAIL)),
            (Err(Why::NotReady(generation, _)), _) => {
                let generation = *generation;
                let record = self.runs.get(RunKey { unit, generation });
                record.map(|record| u.log.tail(record.run(), TAIL))
            }
            _ => None,
        };
        let lines = lines.unwrap_or_default().into_iter();
        lines.map(|line| line.text).collect()
    }
}

/// Processes in the order of their starts: what others depend on first.
fn starting_order(units: &Units) -> Vec<UnitId> {
    let nodes: Vec<graph::Node<'_>> = units
        .iter()
        .map(|(_, unit)| {
            let needs = unit.process.depends_on.iter().map(|d| d.name.as_str());
            (unit.process.name.as_str(), needs.collect())
        })
        .collect();
    let levels = graph::levels(&nodes).into_iter().flatten();
    levels.filter_map(|name| units.id_of(name)).collect()
}

fn reply(reload: Option<Box<Reloaded>>, targets: Vec<Target>) -> Reply {
    let done = targets.into_iter().filter_map(|target| target.done);
    let Some(mut reloaded) = reload else {
        return Reply::Units(done.collect());
    };
    for failed in done.filter(|done| !done.ok || !done.stopped.leftovers.is_empty()) {
        let left = failed.stopped.leftovers.iter();
        let left = left.map(|(pid, program)| format!("pid {pid} {program}"));
        let left = || format!("still there: {}", left.collect::<Vec<_>>().join(", "));
        let why = failed.reason.unwrap_or_else(left);
        reloaded.errors.push(format!("{}: {why}", failed.name));
    }
    Reply::Reload(*reloaded)
}

fn words(why: &Why) -> String {
    match why {
        Why::Build { why, .. } => format!("the build failed: {why}"),
        Why::Spawn(why) | Why::NotReady(_, why) | Why::Dependency(why) | Why::Superseded(why) => {
            why.clone()
        }
        Why::Ended(_) => "it ended before it was ready".into(),
    }
}
