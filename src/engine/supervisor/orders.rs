//! Orders and their answers: one order may be for several processes, and is answered when all are.

use crate::base::clock::{Mono, human};
use crate::base::table::in_order;
use crate::config::Mode;
use crate::config::graph;
use crate::engine::handle::{Done, Reloaded, Reply, ReplySlot};
use crate::engine::snapshot::{ExitView, State};
use crate::lifecycle::{Event, Order, RunKey, Ticket, UnitId, Why};

use super::{Supervisor, Unit};

/// How many lines of what failed go into the answer.
const TAIL: usize = 20;

/// What was ordered.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Order(Order),
    Reload(Box<Reloaded>),
}

/// One order and who waits for it.
pub(super) struct PendingOrder {
    kind: Kind,
    slot: ReplySlot,
    began: Mono,
    members: Vec<Target>,
}

impl PendingOrder {
    /// It waits for an answer about that process.
    pub(super) fn awaits(&self, unit: UnitId) -> bool {
        self.members
            .iter()
            .any(|m| m.unit == Some(unit) && m.result.is_none())
    }
}

struct Target {
    name: String,
    unit: Option<UnitId>,
    before: Before,
    result: Option<Result<(), Why>>,
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

impl Supervisor {
    /// Orders the same of several processes.
    pub(super) fn order_all(&mut self, order: Order, names: &[String], slot: ReplySlot) {
        let members = names
            .iter()
            .map(|name| (name.clone(), self.id_of(name), order))
            .collect();
        self.gather(Kind::Order(order), members, slot);
    }

    /// Gives each its order. What others depend on is told last to stop, so that they end first.
    pub(super) fn gather(
        &mut self,
        kind: Kind,
        members: Vec<(String, Option<UnitId>, Order)>,
        slot: ReplySlot,
    ) {
        let pending = self.number();
        let mut orders = Vec::new();
        let mut list = Vec::new();
        for (at, (name, unit, order)) in members.into_iter().enumerate() {
            if let Some(id) = unit {
                let ticket = self.number();
                self.tickets.insert(ticket, (pending, at));
                if !self.is_ending(id) {
                    self.stopped.remove(&id);
                }
                orders.push((id, ticket, order));
            }
            let result = unit
                .is_none()
                .then(|| Err(Why::Superseded("it is not in the configuration".into())));
            list.push(Target {
                name,
                before: self.before(unit),
                unit,
                result,
                done: None,
            });
        }
        if kind == Kind::Order(Order::Stop) {
            let ranks = self.ranks();
            let rank = |id: &UnitId| ranks.iter().rev().position(|r| r == id);
            orders = in_order(orders, |(id, _, _)| rank(id).unwrap_or(usize::MAX) as u64);
        }
        self.pending_orders.insert(
            pending,
            PendingOrder {
                kind,
                slot,
                began: Mono::now(),
                members: list,
            },
        );
        for (unit, ticket, order) in orders {
            self.queue.push_back(Event::Order {
                unit,
                ticket: Some(ticket),
                order,
            });
        }
    }

    fn before(&self, unit: Option<UnitId>) -> Before {
        let Some((id, unit)) = unit.and_then(|id| Some((id, self.units.get(&id)?))) else {
            return Before::default();
        };
        let facts = self.fleet.facts(id);
        Before {
            pid: facts.as_ref().and_then(|f| f.pid),
            generation: facts.and_then(|f| f.generation).unwrap_or(0),
            build: unit.built.as_ref().map_or(0, |b| b.id),
            run: unit.exits.back().map_or(0, |e| e.run),
        }
    }

    /// Processes in the order of their starts: what others depend on first.
    fn ranks(&self) -> Vec<UnitId> {
        let processes: Vec<_> = self
            .order
            .iter()
            .filter_map(|id| self.units.get(id))
            .map(|u| &u.process)
            .collect();
        let nodes: Vec<graph::Node<'_>> = processes
            .iter()
            .map(|p| {
                (
                    p.name.as_str(),
                    p.depends_on.iter().map(|d| d.name.as_str()).collect(),
                )
            })
            .collect();
        graph::levels(&nodes)
            .into_iter()
            .flatten()
            .filter_map(|name| self.id_of(name))
            .collect()
    }

    /// Written down now, told once everything that follows from it has been done: the pid of a new
    /// run is there only then.
    pub(super) fn note_answer(&mut self, ticket: Ticket, result: Result<(), Why>) {
        let Some((pending, at)) = self.tickets.remove(&ticket) else {
            return;
        };
        if let Some(member) = self
            .pending_orders
            .get_mut(&pending)
            .and_then(|p| p.members.get_mut(at))
        {
            member.result = Some(result);
        }
    }

    /// The answers that are due, and whom they go to.
    pub(super) fn answers(&mut self) -> Vec<(ReplySlot, Reply)> {
        let mut answers = Vec::new();
        let numbers: Vec<u64> = self.pending_orders.keys().copied().collect();
        for number in numbers {
            let Some(mut pending) = self.pending_orders.remove(&number) else {
                continue;
            };
            for member in &mut pending.members {
                if member.done.is_none()
                    && let Some(result) = &member.result
                {
                    member.done = Some(self.done(&pending.kind, pending.began, member, result));
                }
            }
            if pending.members.iter().all(|m| m.done.is_some()) {
                answers.push((pending.slot, reply(pending.kind, pending.members)));
            } else {
                self.pending_orders.insert(number, pending);
            }
        }
        answers
    }

    fn done(&self, kind: &Kind, began: Mono, member: &Target, result: &Result<(), Why>) -> Done {
        let took = Mono::now().since(began);
        let entry = member.unit.and_then(|id| Some((id, self.units.get(&id)?)));
        let Some((id, unit)) = entry else {
            let reason = result.as_ref().err().map(words);
            return Done {
                reason,
                took,
                ..Done::new(member.name.clone())
            };
        };
        let facts = self.fleet.facts(id);
        let before = member.before;
        let serves = facts.as_ref().is_some_and(|f| f.state == State::Running);
        let build = unit.built.as_ref().filter(|b| b.id > before.build).cloned();
        let exit = match result {
            Err(Why::Ended(_)) => unit
                .exits
                .iter()
                .rfind(|e| e.run > before.run && !e.asked)
                .cloned(),
            _ => None,
        };
        let failed = result.is_err();
        let fresh = facts
            .as_ref()
            .filter(|f| f.generation.is_some_and(|g| g > before.generation));
        let stopped = self.stopped.get(&id).cloned().unwrap_or_default();
        // What was rolled back long before this order, and goes on, is just the old run.
        let rolled_back = failed && fresh.is_some_and(|f| f.rolled_back);
        Done {
            name: member.name.clone(),
            ok: !failed && stopped.leftovers.is_empty(),
            mode: facts.as_ref().map_or(Mode::Release, |f| f.mode),
            pid: facts.as_ref().and_then(|f| f.pid),
            previous_pid: before.pid,
            ready: facts.as_ref().and_then(|f| f.ready),
            gap: fresh.and_then(|f| f.gap),
            reason: result.as_ref().err().map(|why| match (why, &exit) {
                (Why::Ended(_), Some(exit)) => {
                    format!(
                        "it ended with {} after {}",
                        exit.words(),
                        human(exit.uptime)
                    )
                }
                (why, _) => words(why),
            }),
            old_serves: failed && serves && !rolled_back && *kind != Kind::Order(Order::Stop),
            rolled_back,
            tail: if failed {
                self.tail(id, unit, result, exit.as_ref())
            } else {
                Vec::new()
            },
            exit,
            build,
            signalled: stopped.signalled,
            killed: stopped.killed,
            leftovers: stopped.leftovers,
            took,
        }
    }

    /// The last lines of what failed.
    fn tail(
        &self,
        id: UnitId,
        unit: &Unit,
        result: &Result<(), Why>,
        exit: Option<&ExitView>,
    ) -> Vec<String> {
        let lines = match (result, exit) {
            (Err(Why::Build { .. }), _) => {
                unit.built.as_ref().map(|b| unit.build_log.tail(b.id, TAIL))
            }
            (Err(Why::Ended(_)), Some(exit)) => Some(unit.log.tail(exit.run, TAIL)),
            (Err(Why::NotReady(generation, _)), _) => self
                .books
                .get(&RunKey {
                    unit: id,
                    generation: *generation,
                })
                .map(|b| unit.log.tail(b.run, TAIL)),
            _ => None,
        };
        lines
            .unwrap_or_default()
            .into_iter()
            .map(|l| l.text)
            .collect()
    }
}

fn reply(kind: Kind, members: Vec<Target>) -> Reply {
    let done = members.into_iter().filter_map(|m| m.done);
    match kind {
        Kind::Order(_) => Reply::Units(done.collect()),
        Kind::Reload(mut reloaded) => {
            for failed in done.filter(|d| !d.ok) {
                let why = failed
                    .reason
                    .unwrap_or_else(|| "it left processes behind".into());
                reloaded.errors.push(format!("{}: {why}", failed.name));
            }
            Reply::Reload(*reloaded)
        }
    }
}

fn words(why: &Why) -> String {
    match why {
        Why::Build { why, .. } => format!("the build failed: {why}"),
        Why::Spawn(why) | Why::NotReady(_, why) | Why::Dependency(why) | Why::Superseded(why) => {
            why.clone()
        }
        Why::Ended(_) => "it ended before it was good".into(),
    }
}
