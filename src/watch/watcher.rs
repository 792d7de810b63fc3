//! `watch`: which processes are to be built and restarted, because files of theirs changed.
//!
//! One inotify instance for all processes, no thread: the supervisor waits for the descriptor
//! ([`AsFd`]) and for [`Watcher::deadline`], and each time it wakes calls [`Watcher::read`] and
//! then [`Watcher::due`] with one and the same time. [`Watcher::set`] says what is watched, at the
//! start and after each reload.
//!
//! A change is a file that was written and closed, made, moved, removed, cut or lengthened by `truncate`(2), which closes
//! nothing, or given a new modification time (`touch`). Reading, `chmod`, another hard link and an empty folder are none. Folders
//! that appear are watched from then on, and what was made in them before that is found by looking. Links are followed,
//! unless one leads to a folder that it is in itself: what is behind a link counts at the link's path, and a link on
//! the way that is changed counts as a change of what is behind it. A project's folder that is moved away is taken up
//! again once there is one of its name.
//!
//! Folders are looked through in slices of some 5 ms, one with each `read`, until none is left;
//! `deadline` is at once meanwhile. A change in a folder that the first look has not come to yet is not
//! seen: 10,000 folders with three files each take 150 ms (measured).
//!
//! While changes go on, nothing is due: a process that writes to a watched file several times
//! a second is never restarted.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::{Error, Result, named, reason};
use crate::base::globs::{Glob, Ignores};
use crate::base::paths::fnv1a_64;
use crate::base::table::Table;
use crate::lifecycle::UnitId;
use crate::os::inotify::{self, Event, Inotify, Kind, Mark, Refusal, Scope};

use super::changes::{Changed, Changes, mark_changed};
use super::folders::Folders;
use super::walk::{Visit, Walk, names};

/// A process is due that long after the last change (spec: config, `watch`).
pub const QUIET: Duration = Duration::from_millis(300);

/// Folders that are watched at the most: each takes about 1 KiB of the kernel's memory.
const MOST_FOLDERS: usize = 65_536;

/// Reads of 4 KiB for one call of `read`: the rest waits for the next.
const READS: usize = 64;

/// Entries looked at for one call of `read`; a folder counts as [`FOLDER_COST`] entries.
const SLICE: usize = 4_096;

/// To watch a folder and to open it takes as long as looking at that many entries.
const FOLDER_COST: usize = 16;

/// Watches removed by one call of `read`: each puts an event in the kernel's queue, which holds 16,384.
const REMOVALS: usize = 1_024;

/// Links on the way to a file, and links within the path of a folder.
const MOST_LINKS: u8 = 8;

/// Files whose lengths are kept, to tell one that was shortened.
const MOST_LENGTHS: usize = 65_536;

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
    moved: Option<(u32, Vec<PathBuf>)>,
    /// Lengths of files that are meant, by the hash of their paths.
    lengths: HashMap<u64, u64>,
    /// The folder of the project's folder, while that is gone.
    parent: Option<Mark>,
    changed: Changes,
    problems: Vec<String>,
    /// All that are so now.
    told: Table<Problem, String>,
    most: usize,
    /// How far it is with the events from before an upgrade in place.
    taking_over: TakingOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakingOver {
    /// The folders are looked through first: events name them by their marks alone.
    Folders,
    /// Events are read that may be of folders that have been removed since.
    Events,
    Done,
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
        Ok(Self::with(Inotify::new()?, root))
    }

    /// Goes on for one that an earlier program of this process had: `fd` has the events since, `changed` what was not
    /// due.
    pub fn go_on(root: PathBuf, fd: OwnedFd, changed: Changes) -> Self {
        Self {
            changed,
            taking_over: TakingOver::Folders,
            ..Self::with(Inotify::inherited(fd), root)
        }
    }

    fn with(inotify: Inotify, root: PathBuf) -> Self {
        Self {
            inotify,
            root,
            ignores: Ignores::default(),
            wanted: Vec::new(),
            folders: Folders::default(),
            stale: BTreeSet::new(),
            walk: Walk::default(),
            moved: None,
            lengths: HashMap::new(),
            parent: None,
            changed: Table::default(),
            problems: Vec::new(),
            told: Table::default(),
            most: MOST_FOLDERS,
            taking_over: TakingOver::Done,
        }
    }

    /// The changes that are not due.
    pub fn changes(&self) -> &Changes {
        &self.changed
    }

    /// All folders are watched, and no others.
    pub fn is_settled(&self) -> bool {
        !self.walk.is_under_way() && self.stale.is_empty() && self.taking_over == TakingOver::Done
    }

    /// Replaces the watched patterns: the globs of each process, less what never counts. `ignored` are
    /// absolute paths beside the usual ones: bpm's own folder, cargo's target folder. What changed before
    /// and is not due yet stays so. Returns what is wrong with the globs; other problems come with `read`.
    pub fn set(&mut self, wanted: Vec<(UnitId, Vec<Glob>)>, ignored: &[PathBuf]) -> Vec<String> {
        self.ignores = Ignores::new(&self.root, ignored);
        self.wanted = wanted;
        self.wanted.retain(|(_, globs)| !globs.is_empty());
        self.changed
            .retain(|unit, _| self.wanted.iter().any(|(id, _)| id == unit));
        self.told = Table::default();
        self.walk.begin();
        let globs = self.wanted.iter().flat_map(|(_, globs)| globs);
        let useless = globs.filter_map(|glob| Some((glob.as_str(), glob.ignored_name()?)));
        useless
            .map(|(glob, name)| format!("watch: {glob:?} means nothing: {name:?} never counts"))
            .collect()
    }

    /// Takes what the kernel has to tell, and looks through a slice of the folders that are to be watched.
    /// Never blocks for longer than a slice takes. Returns new problems, each once until the next `set`:
    /// what is not watched, and what to do.
    pub fn read(&mut self, now: Mono) -> Vec<String> {
        let reads = match self.taking_over {
            TakingOver::Folders => 0,
            TakingOver::Events | TakingOver::Done => READS,
        };
        for _ in 0..reads {
            match self.inotify.read() {
                Ok(events) if events.is_empty() => {
                    self.taking_over = TakingOver::Done;
                    break;
                }
                Ok(events) => events.into_iter().for_each(|event| self.take(event, now)),
                Err(e) => {
                    self.say(Problem::Read, &e);
                    break;
                }
            }
        }
        self.left(now);
        self.look(now);
        if self.taking_over == TakingOver::Folders && !self.walk.is_under_way() {
            self.taking_over = TakingOver::Events;
        }
        self.remove_stale();
        std::mem::take(&mut self.problems)
    }

    /// The processes whose last change is [`QUIET`] ago; each is given once.
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
        if !self.is_settled() {
            return Some(Mono::default());
        }
        self.changed.values().map(|c| c.last.after(QUIET)).min()
    }

    fn take(&mut self, event: Event, now: Mono) {
        match event.kind {
            Kind::Lost => return self.everything(now),
            Kind::Gone => return self.gone(event.mark, now),
            Kind::SelfMoved => return self.root_is_gone(now),
            _ => {}
        }
        if self.parent == Some(event.mark) {
            if self.root.file_name() == Some(&event.name) {
                self.root_is_back(now);
            }
            return;
        }
        let came_from = match event.kind {
            Kind::MovedIn(cookie) => self.moved.take_if(|(c, _)| *c == cookie),
            _ => None,
        };
        self.left(now);
        let Some(folder) = self.folders.get(event.mark) else {
            if self.taking_over == TakingOver::Events && !event.is_folder {
                self.change_all(now, "(a file in a folder that is gone)");
            }
            return;
        };
        let paths: Vec<PathBuf> = folder.paths().map(|path| path.join(&event.name)).collect();
        for link in folder.links(&event.name) {
            self.behind(&link, event.kind, now);
        }
        let mut came_from = came_from.map(|(_, from)| from).unwrap_or_default();
        for path in &paths {
            let from = (!came_from.is_empty()).then(|| came_from.remove(0));
            match event.is_folder {
                true => self.take_folder(path, event.kind, from, now),
                false => self.take_file(path, event.kind, now),
            }
        }
        if let (true, Kind::MovedOut(cookie)) = (event.is_folder, event.kind) {
            self.moved = Some((cookie, paths));
        }
    }

    fn take_folder(&mut self, path: &Path, kind: Kind, came_from: Option<PathBuf>, now: Mono) {
        match kind {
            Kind::Made | Kind::MovedIn(_) => {
                self.drop_below(path);
                let visit = Visit {
                    came_from,
                    ..Visit::new(path.into(), true)
                };
                self.plan(visit, now);
            }
            Kind::MovedOut(_) | Kind::Removed => self.drop_below(path),
            Kind::Written
            | Kind::Wrote
            | Kind::Touched
            | Kind::SelfMoved
            | Kind::Gone
            | Kind::Lost => {}
        }
    }

    fn take_file(&mut self, path: &Path, kind: Kind, now: Mono) {
        let counts = match kind {
            Kind::Touched => self.has_new_time(path),
            Kind::Wrote => self.is_truncated(path),
            Kind::Made | Kind::MovedIn(_) => {
                if self.root.join(path).is_symlink() {
                    self.drop_below(path);
                    self.meet_link(Visit::new(path.into(), true), now);
                }
                true
            }
            Kind::MovedOut(_) | Kind::Removed => {
                // A link, if anything was below it.
                if self.folders.has_below(path) {
                    self.drop_below(path);
                    self.note_below(path, now);
                }
                true
            }
            Kind::Written | Kind::SelfMoved | Kind::Gone | Kind::Lost => true,
        };
        if counts && self.is_meant(path) {
            self.note(path, now);
            self.know(path);
        }
    }

    /// Something happened to what a link depends on.
    fn behind(&mut self, link: &Path, kind: Kind, now: Mono) {
        let path = self.root.join(link);
        if !path.is_symlink() {
            return;
        }
        let replaced = matches!(
            kind,
            Kind::Made | Kind::MovedIn(_) | Kind::MovedOut(_) | Kind::Removed
        );
        if replaced && (path.is_dir() || self.folders.has_below(link)) {
            self.drop_below(link);
            self.note_below(link, now);
            return self.meet_link(Visit::new(link.into(), true), now);
        }
        if path.is_dir() {
            return;
        }
        let counts = match kind {
            Kind::Touched => self.has_new_time(link),
            Kind::Wrote => self.is_truncated(link),
            _ => true,
        };
        if counts {
            self.note(link, now);
            self.know(link);
        }
        if replaced {
            self.follow(link);
        }
    }

    /// A folder that left and came to no other place that we see: its files are gone.
    fn left(&mut self, now: Mono) {
        for path in self
            .moved
            .take()
            .map(|(_, paths)| paths)
            .unwrap_or_default()
        {
            self.note_below(&path, now);
        }
    }

    /// The time of a change of the inode is that of its contents only where both were set: after
    /// `touch`, not after `chmod` or `ln`. Within a second, as old file systems count.
    fn has_new_time(&self, path: &Path) -> bool {
        let path = self.root.join(path);
        let about = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path));
        about.is_ok_and(|file| (0..=1).contains(&(file.ctime() - file.mtime())))
    }

    /// A file that was written to, maybe by nobody who has it open: what is written is a change when it is closed.
    fn is_truncated(&mut self, path: &Path) -> bool {
        if !self.is_meant(path) {
            return false;
        }
        let Ok(about) = fs::metadata(self.root.join(path)) else {
            return false;
        };
        let shorter = match self.set_length(path, about.len()) {
            Some(before) => about.len() < before,
            None => about.len() == 0,
        };
        shorter || inotify::is_open_for_writing(&self.root.join(path)) == Some(false)
    }

    fn set_length(&mut self, path: &Path, length: u64) -> Option<u64> {
        let key = fnv1a_64(path.as_os_str().as_bytes());
        let fits = self.lengths.len() < MOST_LENGTHS || self.lengths.contains_key(&key);
        fits.then(|| self.lengths.insert(key, length)).flatten()
    }

    /// Keeps the length of a file that is meant, and has its folder tell when it is written to.
    fn know(&mut self, path: &Path) {
        if let Ok(about) = fs::metadata(self.root.join(path)) {
            self.set_length(path, about.len());
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let Some(known) = self.folders.at(folder).filter(|known| !known.tells_writes) else {
            return;
        };
        known.tells_writes = true;
        // One that is gone says so by itself.
        if let Ok(folder) = fs::canonicalize(self.root.join(folder)) {
            let _ = self.inotify.widen(&folder);
        }
    }

    fn is_meant(&self, path: &Path) -> bool {
        let mut globs = self.wanted.iter().flat_map(|(_, globs)| globs);
        globs.any(|glob| glob.matches(path)) && !self.ignores.covers(path)
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
        self.change_all(now, "(too many files to tell)");
        self.moved = None;
        self.walk.begin();
    }

    fn change_all(&mut self, now: Mono, why: &str) {
        for (unit, _) in &self.wanted {
            mark_changed(&mut self.changed, *unit, now, || why.into());
        }
    }

    fn gone(&mut self, mark: Mark, now: Mono) {
        self.stale.remove(&mark);
        if self.parent == Some(mark) {
            self.parent = None;
        }
        let was = self.folders.remove(mark);
        if was.iter().any(|path| path.as_os_str().is_empty()) {
            self.root_is_gone(now);
        }
    }

    /// The folder itself left, with all in it. Its own folder is asked for another one of its name.
    fn root_is_gone(&mut self, now: Mono) {
        self.drop_below(Path::new(""));
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        self.parent = self.inotify.add(parent, Scope::Names).ok();
        if self.root.is_dir() {
            return self.root_is_back(now);
        }
        let e = Error::cannot("watch files", "the project's folder was moved or removed");
        self.say(Problem::Root, &e.with_hint("put it back"));
    }

    fn root_is_back(&mut self, now: Mono) {
        self.stale.extend(self.parent.take());
        self.told.remove(&Problem::Root);
        self.change_all(now, "(the project's folder was replaced)");
        self.walk.begin();
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
                    self.next_folder(now);
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
            return self.plan(inside, now);
        }
        if self.is_meant(&inside.folder) {
            self.know(&inside.folder);
        }
        if inside.is_new {
            self.note(&inside.folder, now);
            if let Some(was) = &inside.came_from {
                self.note(was, now);
            }
        }
        if kind.is_symlink() {
            self.meet_link(inside, now);
        }
    }

    /// Follows a link, to a folder or to a file that is meant.
    fn meet_link(&mut self, mut visit: Visit, now: Mono) {
        let path = self.root.join(&visit.folder);
        if !path.is_dir() {
            if self.is_meant(&visit.folder) {
                self.follow(&visit.folder);
            }
            return;
        }
        visit.is_link = true;
        visit.links += 1;
        let above = path.parent().and_then(|above| fs::canonicalize(above).ok());
        let leads_up = match (above, fs::canonicalize(&path)) {
            (Some(above), Ok(target)) => above.starts_with(target),
            _ => true,
        };
        if visit.links > MOST_LINKS || leads_up || !self.is_wanted(&visit.folder) {
            return;
        }
        self.follow(&visit.folder);
        self.plan(visit, now);
    }

    /// Watches the names by which a link is followed, all but its own, which its folder tells of.
    fn follow(&mut self, link: &Path) {
        let own = self.root.join(link);
        let mut at = self.root.clone();
        let mut parts: Vec<OsString> = names(link).collect();
        parts.reverse();
        let mut links = 0;
        while let Some(name) = parts.pop() {
            let path = at.join(&name);
            let target = fs::read_link(&path).ok();
            let is_last = parts.is_empty() && target.is_none();
            if path != own && (target.is_some() || is_last) {
                self.depend(&at, &name, link);
            }
            match target {
                None if name == ".." => at = at.parent().unwrap_or(Path::new("/")).into(),
                None => at = path,
                Some(_) if links == MOST_LINKS => return,
                Some(target) => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let before = parts.len();
                    parts.extend(names(&target));
                    parts[before..].reverse();
                }
            }
        }
    }

    fn depend(&mut self, folder: &Path, name: &OsStr, link: &Path) {
        if self.folders.count() >= self.most {
            return;
        }
        match self.inotify.widen(folder) {
            Ok(mark) => {
                self.stale.remove(&mark);
                self.folders.insert_link(mark, name, link, self.walk.round);
            }
            Err(Refusal::NoFolder) => {}
            Err(Refusal::Limit(e)) => self.say(Problem::Limit, &e),
            Err(Refusal::Other(e)) => self.cannot_watch(folder, &e),
        }
    }

    /// Watches the next folder, and opens it: in this order, so that a file made
    /// meanwhile is seen at least once.
    fn next_folder(&mut self, now: Mono) {
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
        let mut path = self.root.join(&visit.folder);
        if visit.is_link {
            // inotify is asked for no link.
            path = fs::canonicalize(&path).unwrap_or(path);
        }
        let is_root = visit.folder.as_os_str().is_empty();
        let scope = if is_root {
            Scope::Itself
        } else {
            Scope::Contents
        };
        match self.inotify.add(&path, scope) {
            Ok(mark) if visit.links == 0 && self.is_seen_elsewhere(mark, &visit.folder) => return,
            Ok(mark) => {
                let replaced = self.folders.insert(mark, &visit.folder, self.walk.round);
                self.stale.extend(replaced);
                self.stale.remove(&mark);
                if visit.links == 0 {
                    self.drop_places_that_are_gone(mark, &visit.folder);
                }
            }
            Err(Refusal::NoFolder) if is_root => return self.root_is_gone(now),
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

    /// A folder that this walk has seen by another path without a link, which is still there: a bind mount. To go on
    /// below it might never end.
    fn is_seen_elsewhere(&self, mark: Mark, path: &Path) -> bool {
        let Some(known) = self.folders.get(mark) else {
            return false;
        };
        let mut others = known
            .seen(self.walk.round)
            .filter(|other| ***other != *path);
        others.any(|other| {
            let other = self.root.join(other);
            other.is_dir() && fs::canonicalize(&other).is_ok_and(|real| real == other)
        })
    }

    /// A folder that was moved here, before we heard that it left.
    fn drop_places_that_are_gone(&mut self, mark: Mark, path: &Path) {
        let known = self.folders.get(mark).into_iter().flat_map(|f| f.paths());
        let others = known.filter(|other| ***other != *path && !self.root.join(other).is_dir());
        for other in others.cloned().collect::<Vec<_>>() {
            self.folders.drop_view(mark, &other);
        }
    }

    fn cannot_watch(&mut self, path: &Path, e: &std::io::Error) {
        let what = named("watch", path);
        self.say(Problem::Folder, &Error::cannot(what, reason(e)));
    }

    fn remove_stale(&mut self) {
        for _ in 0..REMOVALS {
            let Some(mark) = self.stale.pop_first() else {
                return;
            };
            self.inotify.remove(mark);
        }
    }

    fn say(&mut self, problem: Problem, e: &Error) {
        if !self.told.has(&problem) {
            let text = with_hint(e);
            self.told.insert(problem, text.clone());
            self.problems.push(text);
        }
    }

    /// What is not watched now, and what to do.
    pub fn wrong(&self) -> Vec<String> {
        self.told.values().cloned().collect()
    }
}

/// `cannot watch files: ...; raise the limit`.
pub fn with_hint(e: &Error) -> String {
    let hint = e.hint().map_or(String::new(), |hint| format!("; {hint}"));
    format!("{e}{hint}")
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests;
