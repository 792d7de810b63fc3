//! `watch`: files that change have their process built and restarted.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::clock::{Mono, human};
use crate::base::globs::Glob;
use crate::base::logger::Level;
use crate::engine::snapshot::State;
use crate::lifecycle::{Event, Order, UnitId};
use crate::watch::watcher::{QUIET, Watcher};

use super::{Phase, Supervisor};

/// A change that is told within this time behind the end of a build or a start may be their work.
const SOON: Duration = Duration::from_secs(1);
/// How many such changes in a row are taken as those of somebody who saves often. Each one more doubles
/// the time before the next restart: what a build or a start writes to a watched folder must not make it
/// go round and round.
const FREE: u32 = 5;
/// The same where it is one file each time: that is hardly somebody.
const FREE_OF_ONE: u32 = 1;
/// The longest of these times.
const LONGEST: Duration = Duration::from_secs(60);

/// Restarts of a process behind changes that may be its own.
#[derive(Debug, Default)]
pub(super) struct RestartThrottle {
    count: u32,
    /// How many of them in a row by the same file.
    same: u32,
    path: String,
    /// The build and the run that were counted last.
    seen: Option<(u64, u64)>,
    /// When the next one is due, and the file.
    held: Option<(Mono, String)>,
}

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
        self.rows
            .retain(|id, _| wanted.iter().any(|(w, _)| w == id));
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
        self.restart_held(now);
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

    /// The build and the run of which a change may well be the work, since it comes so soon behind them.
    fn follows_its_own(&self, unit: UnitId, now: Mono) -> Option<(u64, u64)> {
        let (unit, facts) = self.units.get(&unit).zip(self.fleet.facts(unit))?;
        let build = unit.build.as_ref();
        let built = build.and_then(|b| Some(b.began?.after(b.took?)));
        let soon = |at: Mono| now.since(at) < SOON;
        let follows =
            facts.building.is_some() || built.is_some_and(soon) || facts.started.is_some_and(soon);
        let which = (build.map_or(0, |b| b.id), facts.generation.unwrap_or(0));
        follows.then_some(which)
    }

    fn restart_changed(&mut self, unit: UnitId, path: &str) {
        let now = Mono::now();
        let follows = self.follows_its_own(unit, now);
        let row = self.rows.or_default(unit);
        match follows {
            // Somebody's: it waits for nothing.
            None => *row = RestartThrottle::default(),
            Some(_) if row.held.is_some() => return,
            // Each counts once, however often files change while it is at work.
            Some(_) if row.seen == follows => return self.restart_now(unit, path),
            Some(_) => {
                row.count += 1;
                row.same = if row.path == path { row.same + 1 } else { 1 };
                row.path = path.into();
            }
        }
        row.seen = follows;
        let over = match row.same > FREE_OF_ONE {
            true => Some(row.same),
            false => row.count.checked_sub(FREE),
        };
        let Some(over) = over else {
            return self.restart_now(unit, path);
        };
        let delay = QUIET.saturating_mul(2 << over.min(20)).min(LONGEST);
        row.held = Some((now.after(delay), path.into()));
        let name = self.units.get(&unit).map_or("", |u| &u.process.name);
        let text = format!(
            "{name}: watched files change with each of its builds or starts ({path}): the next one waits {}",
            human(delay)
        );
        self.say(Level::Warn, &text);
    }

    /// What begins now sees all that has changed until now: it is not to be done once more for that.
    pub(super) fn changes_are_seen(&mut self, unit: UnitId) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let problems = watcher.read(Mono::now());
        watcher.forget(unit);
        self.rows.or_default(unit).held = None;
        for text in problems {
            self.say(Level::Warn, &text);
        }
    }

    /// When the next restart is due that was put off.
    pub(super) fn held_restart_at(&self) -> Option<Mono> {
        let held = self.rows.values().filter_map(|row| row.held.as_ref());
        held.map(|(due, _)| *due).min()
    }

    fn restart_held(&mut self, now: Mono) {
        let mut due = Vec::new();
        for (unit, row) in self.rows.iter_mut() {
            if let Some((_, path)) = row.held.take_if(|(at, _)| *at <= now) {
                due.push((*unit, path));
            }
        }
        for (unit, path) in due {
            self.restart_now(unit, &path);
        }
    }

    fn restart_now(&mut self, unit: UnitId, path: &str) {
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
