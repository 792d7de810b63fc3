//! `watch`: which processes are to be built and started anew, because files of theirs changed.
//!
//! One inotify instance for all processes, no thread: the supervisor waits for the descriptor
//! ([`AsFd`]) and for [`Watcher::deadline`], and each time it wakes calls [`Watcher::read`] and
//! then [`Watcher::due`] with one and the same time. [`Watcher::set`] says what is watched, at the
//! start and after each reload.
//!
//! A change is a file that was written and closed, made, moved, removed, or given a new modification time
//! (`touch`). Reading, `chmod`, another hard link and an empty folder are none. Folders that appear are
//! watched from then on, and what was made in them before that is found by looking. Links are not
//! followed: a change behind one is not seen.
//!
//! Folders are looked through in slices of some 5 ms, one with each `read`, until none is left;
//! `deadline` is at once meanwhile. A change in a folder that the first look has not come to yet is not
//! seen: 10,000 folders with three files each take 150 ms (measured).
//!
//! While changes go on, nothing is due: a process that writes to a watched file several times
//! a second is never started anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, DirEntry, ReadDir};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::{Error, Result, named, reason};
use crate::base::globs::{Glob, Ignores};
use crate::base::table::{Set, Table};
use crate::lifecycle::UnitId;
use crate::os::inotify::{Event, Inotify, Kind, Mark, Refusal, Scope};

/// A process is due so long after the last change (spec: config, `watch`).
pub const QUIET: Duration = Duration::from_millis(300);

/// Folders that are watched at the most: each takes about 1 KiB of the kernel's memory.
const MOST_FOLDERS: usize = 65_536;

/// Reads of 4 KiB for one call of `read`: the rest waits for the next.
const READS: usize = 64;

/// Entries looked at for one call of `read`; a folder counts as [`FOLDER_COST`] entries.
const SLICE: usize = 4_096;

/// To watch a folder and to open it takes as long as looking at so many entries.
const FOLDER_COST: usize = 16;

/// Watches let go for one call of `read`: each puts an event in the kernel's queue, which holds 16,384.
const LET_GO: usize = 1_024;

/// A process whose files changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub unit: UnitId,
    /// The first file that changed since the last time, relative to the root, as text: for whoever asks why.
    pub path: String,
}

/// See the module.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    root: PathBuf,
    ignores: Ignores,
    wanted: Vec<(UnitId, Vec<Glob>)>,
    folders: Folders,
    /// Not watched for anything any more, and yet to be told to the kernel.
    stale: BTreeSet<Mark>,
    walk: Walk,
    /// The last folder that left its place: it may have come to another.
    moved: Option<(u32, PathBuf)>,
    changed: Table<UnitId, Changed>,
    problems: Vec<String>,
    told: Set<Problem>,
    most: usize,
}

#[derive(Debug)]
struct Changed {
    last: Mono,
    path: String,
}

/// Problems that are reported once until the next `set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Problem {
    TooMany,
    Limit,
    Folder,
    Root,
    Read,
}

impl Watcher {
    /// Watches nothing yet. `root` is the project's, canonical.
    ///
    /// # Errors
    /// The user has as many inotify instances as may be; the hint says what to do.
    pub fn new(root: PathBuf) -> Result<Self> {
        Ok(Self {
            inotify: Inotify::new()?,
            root,
            ignores: Ignores::default(),
            wanted: Vec::new(),
            folders: Folders::default(),
            stale: BTreeSet::new(),
            walk: Walk::default(),
            moved: None,
            changed: Table::default(),
            problems: Vec::new(),
            told: Set::default(),
            most: MOST_FOLDERS,
        })
    }

    /// Replaces the watched patterns: the globs of each process, less what never counts. `ignored` are
    /// absolute paths besides the usual ones: bpm's own folder, cargo's target folder. What changed before
    /// and is not due yet stays so. Returns what is wrong with the globs; other problems come with `read`.
    pub fn set(&mut self, wanted: Vec<(UnitId, Vec<Glob>)>, ignored: &[PathBuf]) -> Vec<String> {
        self.ignores = Ignores::new(&self.root, ignored);
        self.wanted = wanted;
        self.wanted.retain(|(_, globs)| !globs.is_empty());
        self.changed
            .retain(|unit, _| self.wanted.iter().any(|(id, _)| id == unit));
        self.told = Set::default();
        self.walk.begin();
        let globs = self.wanted.iter().flat_map(|(_, globs)| globs);
        let in_vain = globs.filter_map(|glob| Some((glob.as_str(), glob.in_vain()?)));
        in_vain
            .map(|(glob, name)| format!("watch: {glob:?} means nothing: {name:?} never counts"))
            .collect()
    }

    /// Takes what the kernel has to tell, and looks through a slice of the folders that are to be watched.
    /// Never blocks for longer than a slice takes. Returns new problems, each once until the next `set`:
    /// what is not watched, and what to do.
    pub fn read(&mut self, now: Mono) -> Vec<String> {
        for _ in 0..READS {
            match self.inotify.read() {
                Ok(events) if events.is_empty() => break,
                Ok(events) => events.into_iter().for_each(|event| self.take(event, now)),
                Err(e) => {
                    self.say(Problem::Read, &e);
                    break;
                }
            }
        }
        self.left(now);
        self.look(now);
        self.let_go();
        std::mem::take(&mut self.problems)
    }

    /// The processes whose last change is [`QUIET`] ago; each is told once.
    pub fn due(&mut self, now: Mono) -> Vec<Change> {
        let mut quiet = Vec::new();
        self.changed.retain(|unit, Changed { last, path }| {
            let waits = last.after(QUIET) > now;
            if !waits {
                let path = std::mem::take(path);
                quiet.push(Change { unit: *unit, path });
            }
            waits
        });
        quiet
    }

    /// Drops the changes until now: a build or a start that sees it begins.
    pub fn forget(&mut self, unit: UnitId) {
        self.changed.remove(&unit);
    }

    /// When to call `read` and `due` even if the descriptor is silent.
    pub fn deadline(&self) -> Option<Mono> {
        if self.walk.is_under_way() || !self.stale.is_empty() {
            return Some(Mono::default());
        }
        self.changed.values().map(|c| c.last.after(QUIET)).min()
    }

    fn take(&mut self, event: Event, now: Mono) {
        match event.kind {
            Kind::Lost => return self.everything(now),
            Kind::Gone => return self.gone(event.mark),
            Kind::SelfMoved => return self.root_is_gone(),
            _ => {}
        }
        let came_from = match event.kind {
            Kind::MovedIn(cookie) => self.moved.take_if(|(c, _)| *c == cookie),
            _ => None,
        };
        self.left(now);
        let Some(folder) = self.folders.get(event.mark) else {
            return;
        };
        let path = folder.path.join(&event.name);
        if !event.is_folder {
            if event.kind != Kind::Touched || self.has_new_time(&path) {
                self.note(&path, now);
            }
            return;
        }
        match event.kind {
            Kind::Made | Kind::MovedIn(_) => {
                self.drop_below(&path);
                let visit = Visit {
                    folder: path,
                    is_new: true,
                    came_from: came_from.map(|(_, from)| from),
                };
                self.plan(visit, now);
            }
            Kind::MovedOut(cookie) => {
                self.drop_below(&path);
                self.moved = Some((cookie, path));
            }
            Kind::Removed => self.drop_below(&path),
            Kind::Written | Kind::Touched | Kind::SelfMoved | Kind::Gone | Kind::Lost => {}
        }
    }

    /// A folder that left and came to no other place that we see: its files are gone.
    fn left(&mut self, now: Mono) {
        if let Some((_, path)) = self.moved.take() {
            self.note_below(&path, now);
        }
    }

    /// The time of a change of the inode is that of its contents only where both were set: after
    /// `touch`, not after `chmod` or `ln`. Within a second, as old file systems count.
    fn has_new_time(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.root.join(path))
            .is_ok_and(|file| (0..=1).contains(&(file.ctime() - file.mtime())))
    }

    fn note(&mut self, path: &Path, now: Mono) {
        self.change(now, path, |glob| glob.matches(path));
    }

    /// The contents of a folder are not known: a pattern may have meant them.
    fn note_below(&mut self, folder: &Path, now: Mono) {
        self.change(now, folder, |glob| glob.reaches(folder));
    }

    fn change(&mut self, now: Mono, path: &Path, means: impl Fn(&Glob) -> bool) {
        if self.ignores.covers(path) {
            return;
        }
        for (unit, globs) in &self.wanted {
            let known = self.changed.get(unit).is_some_and(|c| c.last == now);
            if !known && globs.iter().any(&means) {
                let path = || path.display().to_string();
                mark_changed(&mut self.changed, *unit, now, path);
            }
        }
    }

    /// Events are lost: anything may have changed, and folders may have appeared.
    fn everything(&mut self, now: Mono) {
        for (unit, _) in &self.wanted {
            mark_changed(&mut self.changed, *unit, now, || {
                "(too many files to tell)".into()
            });
        }
        self.moved = None;
        self.walk.begin();
    }

    fn gone(&mut self, mark: Mark) {
        self.stale.remove(&mark);
        let was = self.folders.remove(mark);
        if was.is_some_and(|path| path.as_os_str().is_empty()) {
            self.root_is_gone();
        }
    }

    fn root_is_gone(&mut self) {
        let e = Error::cannot("watch files", "the project's folder was moved or removed");
        self.say(Problem::Root, &e.with_hint("reload once it is back"));
    }

    fn drop_below(&mut self, folder: &Path) {
        self.stale.extend(self.folders.remove_below(folder));
    }

    fn is_wanted(&self, folder: &Path) -> bool {
        !self.ignores.covers(folder)
            && self
                .wanted
                .iter()
                .any(|(_, globs)| globs.iter().any(|glob| glob.reaches(folder)))
    }

    /// A folder to be looked at, if anything in it may be meant.
    fn plan(&mut self, visit: Visit, now: Mono) {
        if !self.is_wanted(&visit.folder) {
            if let Some(was) = visit.came_from {
                self.note_below(&was, now);
            }
        } else if self.folders.count() + self.walk.todo.len() < self.most {
            self.walk.todo.push(visit);
        } else {
            let why = format!("there are more than {} folders", self.most);
            let e = Error::cannot("watch all files", why)
                .with_hint("name the folders with sources, such as \"src/**\" instead of \"**\"");
            self.say(Problem::TooMany, &e);
        }
    }

    /// One slice of the walk.
    fn look(&mut self, now: Mono) {
        let mut left = SLICE;
        while left > 0 && self.walk.is_under_way() {
            match self.walk.next_entry() {
                Some(entry) => {
                    self.meet(&entry, now);
                    left -= 1;
                }
                None => {
                    self.next_folder();
                    left = left.saturating_sub(FOLDER_COST);
                }
            }
        }
    }

    /// Handles an entry of the folder that the walk has open.
    fn meet(&mut self, entry: &DirEntry, now: Mono) {
        let Some((visit, _)) = &self.walk.open else {
            return;
        };
        let Ok(kind) = entry.file_type() else {
            return;
        };
        let inside = visit.inside(&entry.file_name());
        if kind.is_dir() {
            self.plan(inside, now);
        } else if inside.is_new {
            self.note(&inside.folder, now);
            if let Some(was) = inside.came_from {
                self.note(&was, now);
            }
        }
    }

    /// Watches the next folder, and opens it: in this order, so that a file made
    /// meanwhile is seen at least once.
    fn next_folder(&mut self) {
        let Some(visit) = self.walk.todo.pop() else {
            // All that is to be watched has been seen; the rest was watched for something else.
            self.stale
                .extend(self.folders.remove_unseen(self.walk.round));
            self.walk.is_whole = false;
            return;
        };
        // Planned before `set` asked for something else, maybe.
        if !self.is_wanted(&visit.folder) {
            return;
        }
        let path = self.root.join(&visit.folder);
        let is_root = visit.folder.as_os_str().is_empty();
        let scope = if is_root {
            Scope::Itself
        } else {
            Scope::Contents
        };
        match self.inotify.add(&path, scope) {
            Ok(mark) if self.is_seen_elsewhere(mark, &visit.folder) => return,
            Ok(mark) => {
                let replaced = self.folders.insert(mark, &visit.folder, self.walk.round);
                self.stale.extend(replaced);
                self.stale.remove(&mark);
            }
            Err(Refusal::NoFolder) if is_root => return self.root_is_gone(),
            Err(Refusal::NoFolder) => return,
            Err(Refusal::Limit(e)) => return self.say(Problem::Limit, &e),
            Err(Refusal::Other(e)) => return self.cannot_watch(&path, &e),
        }
        match fs::read_dir(&path) {
            Ok(entries) => self.walk.open = Some((visit, entries)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => self.cannot_watch(&path, &e),
        }
    }

    /// A folder that this walk has seen by another path, which is still there: a bind mount. To go on
    /// below it might never end.
    fn is_seen_elsewhere(&self, mark: Mark, path: &Path) -> bool {
        self.folders.get(mark).is_some_and(|known| {
            known.round == self.walk.round
                && *known.path != *path
                && self.root.join(&known.path).is_dir()
        })
    }

    fn cannot_watch(&mut self, path: &Path, e: &std::io::Error) {
        let what = named("watch", path);
        self.say(Problem::Folder, &Error::cannot(what, reason(e)));
    }

    fn let_go(&mut self) {
        for _ in 0..LET_GO {
            let Some(mark) = self.stale.pop_first() else {
                return;
            };
            self.inotify.remove(mark);
        }
    }

    fn say(&mut self, problem: Problem, e: &Error) {
        if self.told.add(problem) {
            let hint = e.hint().map_or(String::new(), |hint| format!("; {hint}"));
            self.problems.push(format!("{e}{hint}"));
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn mark_changed(
    changed: &mut Table<UnitId, Changed>,
    unit: UnitId,
    now: Mono,
    path: impl FnOnce() -> String,
) {
    match changed.get_mut(&unit) {
        Some(known) => known.last = now,
        None => {
            let path = path();
            changed.insert(unit, Changed { last: now, path });
        }
    }
}

/// A look at folders that are to be watched.
#[derive(Debug, Default)]
struct Walk {
    todo: Vec<Visit>,
    /// The folder that is being read.
    open: Option<(Visit, ReadDir)>,
    /// It began at the root, and will have seen all there is.
    is_whole: bool,
    /// Of walks that began at the root.
    round: u32,
}

#[derive(Debug)]
struct Visit {
    /// Relative to the root.
    folder: PathBuf,
    /// Its contents count as changed.
    is_new: bool,
    /// Where it was before.
    came_from: Option<PathBuf>,
}

impl Visit {
    fn inside(&self, name: &OsStr) -> Self {
        Self {
            folder: self.folder.join(name),
            is_new: self.is_new,
            came_from: self.came_from.as_ref().map(|from| from.join(name)),
        }
    }
}

impl Walk {
    /// From the root; new folders that are yet to be seen stay new.
    fn begin(&mut self) {
        self.todo.retain(|visit| visit.is_new);
        let root = Visit {
            folder: PathBuf::new(),
            is_new: false,
            came_from: None,
        };
        self.todo.insert(0, root);
        self.is_whole = true;
        self.round += 1;
    }

    fn is_under_way(&self) -> bool {
        self.is_whole || self.open.is_some() || !self.todo.is_empty()
    }

    fn next_entry(&mut self) -> Option<DirEntry> {
        let (_, entries) = self.open.as_mut()?;
        // An error ends the folder: it would only come again.
        let entry = entries.next().and_then(std::result::Result::ok);
        if entry.is_none() {
            self.open = None;
        }
        entry
    }
}

/// The folders that are watched, by number and by path.
#[derive(Debug, Default)]
struct Folders {
    by_mark: HashMap<Mark, Folder>,
    by_path: BTreeMap<Arc<Path>, Mark>,
}

#[derive(Debug)]
struct Folder {
    path: Arc<Path>,
    /// The walk that saw it last.
    round: u32,
}

impl Folders {
    fn count(&self) -> usize {
        self.by_mark.len()
    }

    fn get(&self, mark: Mark) -> Option<&Folder> {
        self.by_mark.get(&mark)
    }

    /// Returns the folder that had this path before, if it was another one.
    fn insert(&mut self, mark: Mark, path: &Path, round: u32) -> Option<Mark> {
        if let Some(known) = self.by_mark.get_mut(&mark)
            && *known.path == *path
        {
            known.round = round;
            return None;
        }
        self.remove(mark);
        let path: Arc<Path> = path.into();
        let folder = Folder {
            path: Arc::clone(&path),
            round,
        };
        self.by_mark.insert(mark, folder);
        let replaced = self.by_path.insert(path, mark);
        replaced.inspect(|old| {
            self.by_mark.remove(old);
        })
    }

    fn remove(&mut self, mark: Mark) -> Option<Arc<Path>> {
        let folder = self.by_mark.remove(&mark)?;
        self.by_path.remove(&folder.path);
        Some(folder.path)
    }

    /// A folder and all below it.
    fn remove_below(&mut self, folder: &Path) -> Vec<Mark> {
        // Paths are ordered by their names: what is below a folder follows it.
        let below = self
            .by_path
            .range::<Path, _>((Bound::Included(folder), Bound::Unbounded));
        let marks: Vec<Mark> = below
            .take_while(|(path, _)| path.starts_with(folder))
            .map(|(_, mark)| *mark)
            .collect();
        for mark in &marks {
            self.remove(*mark);
        }
        marks
    }

    /// Those that this walk has not seen.
    fn remove_unseen(&mut self, round: u32) -> Vec<Mark> {
        let unseen = self.by_mark.iter().filter(|(_, f)| f.round != round);
        let marks: Vec<Mark> = unseen.map(|(mark, _)| *mark).collect();
        for mark in &marks {
            self.remove(*mark);
        }
        marks
    }
}

#[cfg(test)]
mod tests;
