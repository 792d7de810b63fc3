//! `watch`: files that change have their process built and restarted.

use std::path::PathBuf;

use crate::board::State;
use crate::clock::Mono;
use crate::globs::Glob;
use crate::journal::Level;
use crate::lifecycle::{Event, Order, UnitId};
use crate::watch::Watcher;

use super::{Phase, Supervisor};

impl Supervisor {
    /// Watches what the configuration names; nothing is open where it names nothing.
    pub(super) fn watch_files(&mut self) {
        let mut wanted: Vec<(UnitId, Vec<Glob>)> = Vec::new();
        for (id, unit) in self.units.iter().filter(|(_, u)| !u.retiring) {
            // Checked when the configuration was read.
            let globs: Vec<Glob> = unit
                .process
                .watch
                .iter()
                .filter_map(|g| Glob::new(g).ok())
                .collect();
            if !globs.is_empty() {
                wanted.push((*id, globs));
            }
        }
        if wanted.is_empty() {
            self.watcher = None;
            return;
        }
        if self.watcher.is_none() {
            match Watcher::new(self.setup.config.root.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(e) => return self.say(Level::Error, &e.to_string()),
            }
        }
        let ignored = self.never_watched();
        let problems = self
            .watcher
            .as_mut()
            .map(|w| w.set(wanted, &ignored))
            .unwrap_or_default();
        for text in problems {
            self.say(Level::Warn, &text);
        }
    }

    /// bpm's own files, and where cargo puts what it builds.
    fn never_watched(&self) -> Vec<PathBuf> {
        let root = &self.setup.config.root;
        let target = self
            .setup
            .env
            .iter()
            .find(|(name, _)| name == "CARGO_TARGET_DIR");
        let target = target.map(|(_, dir)| root.join(dir));
        [self.setup.dir.path().to_path_buf()]
            .into_iter()
            .chain(target)
            .collect()
    }

    /// Takes what has changed, and restarts what has been left alone since for long enough.
    pub(super) fn read_changes(&mut self) {
        let now = Mono::now();
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let problems = watcher.read(now);
        let due = watcher.due(now);
        for text in problems {
            self.say(Level::Warn, &text);
        }
        for change in due {
            self.restart_changed(change.unit, &change.path);
        }
    }

    fn restart_changed(&mut self, unit: UnitId, path: &str) {
        let Some(facts) = self.fleet.facts(unit) else {
            return;
        };
        // What somebody stopped stays stopped; a task runs again, as if asked.
        if !facts.wanted || facts.state == State::Stopped || self.phase != Phase::Working {
            return;
        }
        self.happened(Some(unit), "watch", format!("{path} changed"));
        let order = Order::Restart {
            mode: facts.mode,
            build: true,
        };
        self.queue.push_back(Event::Order {
            unit,
            ticket: None,
            order,
        });
    }
}
