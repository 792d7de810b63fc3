//! The snapshot: replaced where something in it changed.

use std::sync::Arc;

use crate::base::clock::{Mono, Wall};
use crate::base::logger::Level;
use crate::config::{Happening, Mode};
use crate::engine::snapshot::{Snapshot, State, UnitView, log_trouble};
use crate::lifecycle::{Facts, RunKey, UnitId};

use super::{Phase, Supervisor};

impl Supervisor {
    /// An event of a process, or of bpm itself: in bpm's log, and for those who read the snapshot.
    pub(super) fn happened(
        &mut self,
        level: Level,
        unit: Option<UnitId>,
        kind: &'static str,
        text: String,
    ) {
        let process = unit.and_then(|id| self.units.get(id));
        let name = process.map(|u| u.process.name.as_str());
        self.events.happened(level, name, kind, text);
    }

    /// Says once that lines of a process are not written to disk, and once that they are again.
    pub(super) fn log_trouble(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(id) else {
            return;
        };
        // Every change of it is to be seen in the status.
        unit.changed = true;
        let trouble = log_trouble(&unit.log, &unit.build_log);
        let name = &unit.process.name;
        let (level, text) = match (&trouble, unit.log_trouble) {
            (Some(why), false) => (
                Level::Warn,
                format!("{name}: {why}; until that is fixed its new lines are in memory only"),
            ),
            (None, true) => (
                Level::Info,
                format!("{name}: its log is written to disk again"),
            ),
            (Some(_), true) | (None, false) => return,
        };
        unit.log_trouble = trouble.is_some();
        let name = name.clone();
        self.state.edit().note_unwritten(&name, trouble.is_some());
        self.events.say(level, &text);
        if let Some(why) = trouble {
            self.follow(id, Happening::LogTrouble, &why);
        }
    }

    /// Replaces the snapshot if anything in it changed.
    pub(super) fn publish(&mut self) {
        if self.refresh_all() {
            self.show();
        }
    }

    /// Makes the views of what changed; true if there is anything new to be shown.
    pub(super) fn refresh_all(&mut self) -> bool {
        let old = self.handle.snapshot.now();
        let ids = self.units.ids();
        let stopping = self.phase != Phase::Working;
        let release_at = self.release_at();
        // A process that is gone changes none of those that are there.
        let mut changed = old.seq == 0
            || old.units.len() != ids.len()
            || (old.stopping, old.release_at) != (stopping, release_at);
        changed |= self.warnings.take_changed();
        for id in ids {
            changed |= self.refresh(id);
        }
        changed || self.events.has_news()
    }

    /// Replaces the snapshot by one of the views that there are.
    pub(super) fn show(&mut self) {
        let old = self.handle.snapshot.now();
        let views = self.units.iter().filter_map(|(_, unit)| unit.view.clone());
        let units: Vec<Arc<UnitView>> = views.collect();
        let dev = units.iter().any(|u| u.facts.mode == Mode::Dev);
        self.handle.snapshot.publish(Snapshot {
            seq: old.seq + 1,
            project: old.project.clone(),
            root: old.root.clone(),
            units,
            events: self.events.publish(),
            before: old.before,
            before_used: old.before_used,
            config: self.units.digest(),
            mode: if dev { Mode::Dev } else { Mode::Release },
            release_at: self.release_at(),
            stopping: self.phase != Phase::Working,
            warnings: self.warnings.list(),
        });
        let snapshot = self.handle.snapshot.now();
        self.setup.manager.status(&|| snapshot.summary());
    }

    /// Makes the view of a process where something in it changed; true if so.
    fn refresh(&mut self, id: UnitId) -> bool {
        let Some(mut facts) = self.lives.fleet.facts(id) else {
            return false;
        };
        let Some(unit) = self.units.get_mut(id) else {
            return false;
        };
        if unit.process.health.is_none() {
            facts.healthy = None;
        }
        if matches!(facts.state, State::Starting | State::Building)
            && let Some(reason) = self.environments.reason(id, Mono::now())
        {
            facts.reason = Some(reason);
        }
        let before = unit.view.as_ref().map(|view| &view.facts);
        if !unit.changed && before == Some(&facts) {
            return false;
        }
        let shown = before.map(|f| (f.state, f.rolled_back));
        let before = before.map(|f| (f.state, f.pid));
        let passed = before.is_none_or(|(state, _)| state != facts.state);
        // At first it is since when it was saved, or made.
        if passed && before.is_some() {
            unit.since = Wall::now();
        }
        // At first it is starting before it is there.
        let told = before.is_some_and(|(_, pid)| passed || pid.is_none() && facts.pid.is_some());
        let level = match facts.state {
            State::Crashed | State::Failed => Level::Warn,
            _ => Level::Info,
        };
        let words = state_words(&facts);
        let process = Arc::clone(&unit.process);
        let generation = facts.generation;
        let run = generation.and_then(|generation| {
            let key = RunKey {
                unit: id,
                generation,
            };
            let record = self.runs.get(key)?;
            Some((record.run(), record.is_adopted()))
        });
        let wrong = generation.and_then(|generation| {
            let key = RunKey {
                unit: id,
                generation,
            };
            self.listening.wrong(key)
        });
        let port = self.known_port(&process);
        let replaced = match facts.pid {
            Some(_) => self.replaced_ports(id),
            None => Vec::new(),
        };
        let Some(unit) = self.units.get_mut(id) else {
            return false;
        };
        let mut view = unit.view(facts, run, port);
        view.warnings.extend(wrong);
        view.warnings.extend(replaced);
        let view = Arc::new(view);
        unit.view = Some(Arc::clone(&view));
        unit.changed = false;
        self.follow_view(id, shown, &view);
        self.note_life(id);
        if told {
            self.events
                .happened(level, Some(&process.name), "state", words);
        }
        true
    }
}

fn state_words(facts: &Facts) -> String {
    let mut words = facts.state.as_str().to_string();
    if let Some(pid) = facts.pid {
        words.push_str(&format!(" (pid {pid})"));
    }
    // The reason of a build is how the one before it ended.
    if let Some(reason) = facts
        .reason
        .as_ref()
        .filter(|_| facts.state != State::Building)
    {
        words.push_str(&format!(": {reason}"));
    }
    words
}
