//! Pure: no system call, no thread, no clock.
//!
//! The names of processes, and how many of its dependencies each process still waits for.
//!
//! A process may depend on hundreds, and each step asks each process whether it may start. So nobody goes through
//! dependencies for that: whoever changes moves one number of each of its dependents.

use std::collections::HashMap;

use crate::config::Condition;

use super::UnitId;

/// Numbers the names of processes, so that a dependency is found without comparing strings.
pub(super) type NameId = usize;

/// The part of a process that others depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) up: bool,
    pub(super) good: bool,
    pub(super) completed: bool,
    pub(super) rests: bool,
}

/// How it is with a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Met,
    /// It is on its way.
    Unmet,
    /// It does not come by itself.
    Hopeless,
}

/// The dependencies of a process, and how many of them are met, on their way and hopeless.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) list: Vec<(NameId, Condition)>,
    counts: [usize; 3],
}

impl Needed {
    pub(super) fn hopeless(&self) -> usize {
        self.counts[Wait::Hopeless as usize]
    }

    /// All that are not met.
    pub(super) fn open(&self) -> usize {
        self.counts[Wait::Unmet as usize] + self.hopeless()
    }

    /// One of them is otherwise now.
    pub(super) fn moved(&mut self, before: Wait, after: Wait) {
        self.counts[before as usize] -= 1;
        self.counts[after as usize] += 1;
    }
}

#[derive(Debug, Default)]
pub(super) struct Name {
    name: String,
    /// The process of that name; one that leaves the configuration has given it up.
    unit: Option<UnitId>,
    standing: Standing,
    dependents: Vec<(UnitId, Condition)>,
}

impl Name {
    /// The configuration has no unknown names, and one that a reload takes out holds up nobody.
    fn wait(&self, until: Condition) -> Wait {
        let standing = self.standing;
        let met = match until {
            Condition::Started => standing.up,
            Condition::Ready => standing.good,
            Condition::Completed => standing.completed,
        };
        match self.unit {
            None => Wait::Met,
            Some(_) if met => Wait::Met,
            Some(_) if standing.rests => Wait::Hopeless,
            Some(_) => Wait::Unmet,
        }
    }
}

/// Each dependent of a process for which something has changed: how it was, and how it is.
pub(super) type Moved = (UnitId, Wait, Wait);

/// All names that a process has or needs.
#[derive(Debug, Default)]
pub(super) struct Names {
    list: Vec<Name>,
    ids: HashMap<String, NameId>,
    /// Places in `list` that no process has or needs.
    unused: Vec<NameId>,
    /// How many dependencies were looked at one by one.
    #[cfg(test)]
    pub(super) looked_at: std::cell::Cell<usize>,
}

impl Names {
    /// The number of a name.
    pub(super) fn number(&mut self, name: &str) -> NameId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.unused.pop().unwrap_or(self.list.len());
        if id == self.list.len() {
            self.list.push(Name::default());
        }
        self.list[id].name = name.into();
        self.ids.insert(name.into(), id);
        id
    }

    /// Gives the number to another name where nobody has or needs this one.
    pub(super) fn release(&mut self, id: NameId) {
        let name = &self.list[id];
        if name.unit.is_none()
            && name.dependents.is_empty()
            && self.ids.remove(&name.name).is_some()
        {
            self.unused.push(id);
        }
    }

    pub(super) fn text(&self, id: NameId) -> &str {
        &self.list[id].name
    }

    /// The process of that name.
    pub(super) fn unit(&self, id: NameId) -> Option<UnitId> {
        self.list[id].unit
    }

    pub(super) fn wait(&self, id: NameId, until: Condition) -> Wait {
        #[cfg(test)]
        self.looked_at.update(|n| n + 1);
        self.list[id].wait(until)
    }

    /// The numbers of a process are those that its dependencies say.
    #[cfg(test)]
    pub(super) fn agree(&self, needed: &Needed) -> bool {
        let mut counts = [0; 3];
        for (id, until) in &needed.list {
            counts[self.list[*id].wait(*until) as usize] += 1;
        }
        counts == needed.counts
    }

    pub(super) fn dependents(&self, id: NameId) -> impl Iterator<Item = UnitId> {
        self.list[id].dependents.iter().map(|(unit, _)| *unit)
    }

    /// The dependencies of a process, by the names in its settings.
    pub(super) fn link(&mut self, unit: UnitId, names: &[(String, Condition)]) -> Needed {
        let mut needed = Needed::default();
        for (name, until) in names {
            let id = self.number(name);
            self.list[id].dependents.push((unit, *until));
            needed.list.push((id, *until));
            needed.counts[self.wait(id, *until) as usize] += 1;
        }
        needed
    }

    pub(super) fn unlink(&mut self, unit: UnitId, needed: Needed) {
        for (id, _) in needed.list {
            self.list[id]
                .dependents
                .retain(|(dependent, _)| *dependent != unit);
            self.release(id);
        }
    }

    /// Another process has the name, or it is otherwise: says for which dependents that changes something. None:
    /// it is as it was.
    pub(super) fn show(
        &mut self,
        id: NameId,
        unit: Option<UnitId>,
        standing: Standing,
    ) -> Option<impl Iterator<Item = Moved>> {
        let name = &mut self.list[id];
        if (name.unit, name.standing) == (unit, standing) {
            return None;
        }
        let all = [Condition::Started, Condition::Ready, Condition::Completed];
        let before = all.map(|until| name.wait(until));
        (name.unit, name.standing) = (unit, standing);
        let after = all.map(|until| name.wait(until));
        let dependents = name.dependents.iter().filter(move |_| before != after);
        let moved = dependents.map(move |(unit, until)| {
            let at = *until as usize;
            (*unit, before[at], after[at])
        });
        Some(moved.filter(|(_, before, after)| before != after))
    }
}
