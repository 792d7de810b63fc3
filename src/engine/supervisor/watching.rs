//! `watch`: files that change have their process built and restarted.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, human};
use crate::base::globs::Glob;
use crate::base::logger::Level;
use crate::base::saved::{Saved, saved};
use crate::base::table::Table;
use crate::engine::handover::{Handover, Takeover};
use crate::engine::snapshot::State;
use crate::lifecycle::{Event, Order, UnitId};
use crate::watch::changes::Changes;
use crate::watch::watcher::{QUIET, Watcher, with_hint};

use super::units::Unit;
use super::{Phase, Supervisor};

/// A change that comes within this time after the end of a build or a start may be their work.
const SOON: Duration = Duration::from_secs(1);
/// How many such changes in a row are taken for those of somebody who saves often. Each further one doubles
/// the time before the next restart: what a build or a start writes to a watched folder must not make a loop.
const FREE: u32 = 5;
/// The same where it is one file each time: that is hardly somebody.
const FREE_OF_ONE: u32 = 1;
/// The longest of these times.
const LONGEST: Duration = Duration::from_secs(60);

/// The build and the run of a process that were the newest.
type Work = (u64, u64);

/// Restarts of a process after changes that may be its own.
#[derive(Debug, Clone, Default)]
struct RestartThrottle {
    count: u32,
    /// How many of them in a row by the same file.
    same: u32,
    path: String,
    /// The work that was counted last.
    seen: Option<Work>,
    /// When the next one is due, and the file.
    held: Option<(Mono, String)>,
}

/// A decision about a change.
enum Verdict {
    Restart,
    /// A restart is due later, after this time.
    Wait(Duration),
    /// A restart waits already.
    Ignore,
}

impl RestartThrottle {
    /// A file changed; `own`: it comes right after this work of the process's own.
    fn judge(&mut self, path: &str, own: Option<Work>, now: Mono) -> Verdict {
        let Some(work) = own else {
            // Somebody's: it waits for nothing.
            *self = Self::default();
            return Verdict::Restart;
        };
        if self.held.is_some() {
            return Verdict::Ignore;
        }
        // Each counts once, however often files change while it is at work.
        if self.seen == Some(work) {
            return Verdict::Restart;
        }
        self.seen = Some(work);
        self.count += 1;
        self.same = if self.path == path { self.same + 1 } else { 1 };
        self.path = path.into();
        let over = match self.same > FREE_OF_ONE {
            true => Some(self.same),
            false => self.count.checked_sub(FREE),
        };
        let Some(over) = over else {
            return Verdict::Restart;
        };
        let delay = QUIET.saturating_mul(2 << over.min(20)).min(LONGEST);
        self.held = Some((now.after(delay), path.into()));
        Verdict::Wait(delay)
    }
}

/// The files that are watched; nothing is open where there are none.
#[derive(Default)]
pub(super) struct FileWatch {
    watcher: Option<Watcher>,
    throttles: Table<UnitId, RestartThrottle>,
}

saved! { RestartThrottle { count, same, path, seen, held } }

impl FileWatch {
    /// All that is to be watched is.
    pub(super) fn is_settled(&self) -> bool {
        self.watcher.as_ref().is_none_or(Watcher::is_settled)
    }

    /// Changes that are not due, and the descriptor with those that nobody has read.
    pub(super) fn save(&self, to: &mut Handover) -> Value {
        let mut changes = Changes::default();
        if let Some(watcher) = &self.watcher {
            to.keep("files", watcher);
            changes.clone_from(watcher.changes());
        }
        (self.throttles.clone(), changes).save()
    }

    /// Takes up what was saved; an earlier bpm saved nothing.
    pub(super) fn restore(&mut self, root: &Path, from: &mut Takeover) -> Result<(), String> {
        let saved: Option<(Table<UnitId, RestartThrottle>, Changes)> = from.get("watch")?;
        if let Some((throttles, changes)) = saved {
            self.throttles = throttles;
            let watcher = |fd| Watcher::go_on(root.into(), fd, changes);
            self.watcher = from.take("files").map(watcher);
        }
        Ok(())
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let held = self.throttles.values().filter_map(|t| t.held.as_ref());
        let held = held.map(|(due, _)| *due);
        let quiet = self.watcher.as_ref().and_then(Watcher::deadline);
        held.chain(quiet).min()
    }

    /// The descriptor to wait for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.as_ref().map(AsFd::as_fd)
    }

    /// Restarts that were put off until now.
    fn take_held(&mut self, now: Mono) -> Vec<(UnitId, String)> {
        let mut due = Vec::new();
        for (unit, throttle) in self.throttles.iter_mut() {
            let held = throttle.held.take_if(|(at, _)| *at <= now);
            due.extend(held.map(|(_, path)| (*unit, path)));
        }
        due
    }
}

impl Supervisor {
    /// Watches what the configuration names.
    pub(super) fn watch_files(&mut self) {
        let globs = |(id, unit): (UnitId, &Unit)| {
            // Checked when the configuration was read.
            let globs = unit.process.watch.iter().filter_map(|g| Glob::new(g).ok());
            (id, globs.collect::<Vec<Glob>>())
        };
        let staying = self.units.iter().filter(|(_, unit)| !unit.retiring);
        let mut wanted: Vec<_> = staying.map(globs).collect();
        wanted.retain(|(_, globs)| !globs.is_empty());
        let watch = &mut self.watch;
        watch
            .throttles
            .retain(|id, _| wanted.iter().any(|(w, _)| w == id));
        if wanted.is_empty() {
            watch.watcher = None;
            self.warnings.set_watch(Vec::new());
            return;
        }
        let watcher = match watch.watcher.take() {
            Some(watcher) => Ok(watcher),
            None => Watcher::new(self.setup.config.root.clone()),
        };
        match watcher {
            Ok(mut watcher) => {
                let problems = watcher.set(wanted, &self.never_watched());
                self.watch.watcher = Some(watcher);
                self.warn(problems);
            }
            Err(e) => {
                let text = with_hint(&e);
                self.events.say(Level::Error, &text);
                self.warnings.set_watch(vec![text]);
            }
        }
    }

    /// bpm's own files, and where cargo puts what it builds.
    fn never_watched(&self) -> Vec<PathBuf> {
        let mut env = self.setup.env.iter();
        let target = env.find(|(name, _)| name == "CARGO_TARGET_DIR");
        let target = target.map(|(_, dir)| self.setup.config.root.join(dir));
        let own = self.setup.dir.path().to_path_buf();
        [own].into_iter().chain(target).collect()
    }

    /// Takes what has changed, and restarts what has been left alone since for long enough.
    pub(super) fn read_changes(&mut self) {
        let now = Mono::now();
        for (unit, path) in self.watch.take_held(now) {
            self.restart_for(unit, &path);
        }
        let Some(watcher) = &mut self.watch.watcher else {
            return;
        };
        let problems = watcher.read(now);
        let due = watcher.due(now);
        self.warn(problems);
        for change in due {
            self.file_changed(change.unit, &change.path, now);
        }
    }

    /// The build and the run of which a change may well be the work, since it comes right after them.
    fn own_work(&self, unit: UnitId, now: Mono) -> Option<Work> {
        let facts = self.lives.fleet.facts(unit)?;
        let build = self.units.get(unit)?.build.as_ref();
        let built = build.and_then(|b| Some(b.began?.after(b.took?)));
        let soon = |at: Mono| now.since(at) < SOON;
        let follows =
            facts.building.is_some() || built.is_some_and(soon) || facts.started.is_some_and(soon);
        let work = (build.map_or(0, |b| b.id), facts.generation.unwrap_or(0));
        follows.then_some(work)
    }

    fn file_changed(&mut self, unit: UnitId, path: &str, now: Mono) {
        let own = self.own_work(unit, now);
        match self.watch.throttles.or_default(unit).judge(path, own, now) {
            Verdict::Restart => self.restart_for(unit, path),
            Verdict::Ignore => {}
            Verdict::Wait(delay) => {
                let name = self.units.get(unit).map_or("", |u| &u.process.name);
                let text = format!(
                    "{name}: watched files change with each of its builds or starts ({path}): the next one waits {}",
                    human(delay)
                );
                self.events.say(Level::Warn, &text);
            }
        }
    }

    /// A build or start that begins now sees all changes until now: it is not repeated for them.
    pub(super) fn changes_are_seen(&mut self, unit: UnitId) {
        let Some(watcher) = &mut self.watch.watcher else {
            return;
        };
        let problems = watcher.read(Mono::now());
        watcher.forget(unit);
        self.watch.throttles.or_default(unit).held = None;
        self.warn(problems);
    }

    fn restart_for(&mut self, unit: UnitId, path: &str) {
        let Some(facts) = self.lives.fleet.facts(unit) else {
            return;
        };
        // A process that somebody stopped stays stopped; a task runs again, as if asked.
        if !facts.wanted || facts.state == State::Stopped || self.phase != Phase::Working {
            return;
        }
        self.happened(Level::Info, Some(unit), "watch", format!("{path} changed"));
        let (mode, build) = (facts.mode, true);
        self.lives.note(Event::Order {
            unit,
            ticket: None,
            order: Order::Restart { mode, build },
        });
    }

    /// Logs what is new, and shows all that is wrong now.
    fn warn(&mut self, problems: Vec<String>) {
        for text in problems {
            self.events.say(Level::Warn, &text);
        }
        if let Some(watcher) = &self.watch.watcher {
            self.warnings.set_watch(watcher.wrong());
        }
    }
}
