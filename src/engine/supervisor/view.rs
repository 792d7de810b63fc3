//! What is shown: the snapshot on the snapshot, made anew where something changed.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Wall;
use crate::base::logger::Level;
use crate::config::{Mode, PortWish};
use crate::engine::snapshot::{
    BuildView, EVENTS, EventView, Snapshot, State, UnitView, log_trouble,
};
use crate::lifecycle::{Facts, RunKey, UnitId};

use super::{Phase, Supervisor, Unit};

/// The root's last path component.
pub(super) fn project_name(root: &Path) -> String {
    root.file_name()
        .map_or_else(|| "/".into(), |n| n.to_string_lossy().into_owned())
}

impl Supervisor {
    /// A word for the log and for whoever asks what happened.
    pub(super) fn happened(&mut self, unit: Option<UnitId>, kind: &'static str, text: String) {
        self.noted(Level::Info, unit, kind, text);
    }

    /// The same of what somebody should look at.
    pub(super) fn trouble(&mut self, unit: Option<UnitId>, kind: &'static str, text: String) {
        self.noted(Level::Warn, unit, kind, text);
    }

    fn noted(&mut self, level: Level, unit: Option<UnitId>, kind: &'static str, text: String) {
        let process = unit
            .and_then(|id| self.units.get(&id))
            .map(|u| u.process.name.clone());
        let said = match &process {
            Some(name) => format!("{name}: {text}"),
            None => text.clone(),
        };
        self.say(level, &said);
        self.last_event += 1;
        let event = EventView {
            seq: self.last_event,
            at: Wall::now(),
            process,
            kind,
            text,
        };
        push_bounded(&mut self.events, Arc::new(event), EVENTS);
    }

    /// Says once that lines are not written to disk, and once that they are again.
    pub(super) fn log_trouble(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        // Whoever watches the status sees every change of it.
        unit.changed = true;
        let trouble = log_trouble(&unit.log, &unit.build_log);
        let name = &unit.process.name;
        let (level, text) = match (&trouble, unit.log_trouble) {
            (Some(why), false) => (
                Level::Warn,
                format!("{name}: {why}; until that is mended its new lines are in memory only"),
            ),
            (None, true) => (
                Level::Info,
                format!("{name}: its log is written to disk again"),
            ),
            (Some(_), true) | (None, false) => return,
        };
        unit.log_trouble = trouble.is_some();
        self.say(level, &text);
    }

    /// Replaces the snapshot if anything in it changed.
    pub(super) fn publish(&mut self) {
        let mut changed = self.snapshot_seq == 0 || self.last_event != self.published_event;
        for id in self.order.clone() {
            changed |= self.refresh(id);
        }
        let stopping = self.phase != Phase::Working;
        let release_at = self.release_at();
        let old = self.handle.snapshot.now();
        // One that is gone changes none of those that are there.
        changed |= old.units.len() != self.order.len();
        if !changed && old.stopping == stopping && old.release_at == release_at {
            return;
        }
        self.snapshot_seq += 1;
        self.published_event = self.last_event;
        let units: Vec<Arc<UnitView>> = self
            .order
            .iter()
            .filter_map(|id| self.units.get(id)?.view.clone())
            .collect();
        let dev = units.iter().any(|u| u.facts.mode == Mode::Dev);
        self.handle.snapshot.publish(Snapshot {
            seq: self.snapshot_seq,
            project: old.project.clone(),
            root: old.root.clone(),
            units,
            events: self.events.clone(),
            before: old.before,
            before_used: old.before_used,
            config: self.config_digest,
            mode: if dev { Mode::Dev } else { Mode::Release },
            release_at,
            stopping,
        });
    }

    /// True if the unit has to be shown anew.
    fn refresh(&mut self, id: UnitId) -> bool {
        let Some(mut facts) = self.fleet.facts(id) else {
            return false;
        };
        let Some(unit) = self.units.get_mut(&id) else {
            return false;
        };
        if unit.process.health.is_none() {
            facts.healthy = None;
        }
        let before = unit.view.as_ref().map(|view| &view.facts);
        if !unit.changed && before == Some(&facts) {
            return false;
        }
        let before = before.map(|f| (f.state, f.pid));
        let passed = before.is_none_or(|(state, _)| state != facts.state);
        if passed {
            unit.since = Wall::now();
        }
        let port = match unit.process.port {
            Some(PortWish::Fixed(port)) => Some(port),
            Some(PortWish::Auto) => self.state.port_of(&unit.process.name),
            None => None,
        };
        let generation = facts.generation;
        let run = generation.and_then(|generation| {
            let key = RunKey {
                unit: id,
                generation,
            };
            Some(self.books.get(&key)?.run)
        });
        let words = state_words(&facts);
        // At first it is starting before it is there.
        let told = match before {
            None => false,
            Some((_, pid)) => passed || pid.is_none() && facts.pid.is_some(),
        };
        let level = match facts.state {
            State::Crashed | State::Failed => Level::Warn,
            _ => Level::Info,
        };
        unit.view = Some(Arc::new(unit.show(facts, run, port)));
        unit.changed = false;
        if told {
            self.noted(level, Some(id), "state", words);
        }
        true
    }
}

impl Unit {
    fn show(&self, facts: Facts, run: Option<u64>, port: Option<u16>) -> UnitView {
        let process = &self.process;
        UnitView {
            name: process.name.clone(),
            kind: process.kind,
            since: self.since,
            run,
            build: self.show_build(&facts),
            built: self.built.clone(),
            counters: self.counters,
            facts,
            exits: Arc::clone(&self.exits),
            depends_on: process.depends_on.iter().map(|d| d.name.clone()).collect(),
            port,
            builds: [Mode::Dev, Mode::Release]
                .into_iter()
                .any(|mode| super::builds(process, mode)),
            adopted: false,
            warnings: Vec::new(),
            log: Arc::clone(&self.log),
            build_log: Arc::clone(&self.build_log),
        }
    }

    /// The build under way, else one that waits for its turn, else the last one.
    fn show_build(&self, facts: &Facts) -> Option<BuildView> {
        match facts.queued {
            Some(mode) if facts.building.is_none() => {
                let last = self.build.as_ref().map_or(0, |b| b.id);
                Some(BuildView::queued(last + 1, mode))
            }
            _ => self.build.clone(),
        }
    }
}

/// Appends; the oldest goes where there are too many.
pub(super) fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn state_words(facts: &Facts) -> String {
    let mut words = facts.state.as_str().to_string();
    if let Some(pid) = facts.pid {
        words.push_str(&format!(" (pid {pid})"));
    }
    if let Some(reason) = &facts.reason {
        words.push_str(&format!(": {reason}"));
    }
    words
}
