//! Pure: no system call, no thread, no clock.
//!
//! The folders that are watched, by number and by path.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use crate::os::inotify::Mark;

#[derive(Debug, Default)]
pub(super) struct Folders {
    by_mark: HashMap<Mark, Folder>,
    by_path: BTreeMap<Arc<Path>, Mark>,
}

#[derive(Debug, Default)]
pub(super) struct Folder {
    /// Its places below the root: several where links lead to it, none where only names in it count.
    views: Vec<View>,
    /// Names in it by which links are followed.
    links: Vec<Step>,
    /// Writes to its files are told, and with them truncations.
    pub(super) tells_writes: bool,
}

#[derive(Debug)]
struct View {
    path: Arc<Path>,
    /// The walk that saw it last.
    round: u32,
}

#[derive(Debug)]
struct Step {
    name: OsString,
    /// The link, below the root.
    link: Arc<Path>,
    round: u32,
}

impl Folder {
    /// The paths of an entry, by all views.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.views.iter().map(|view| &view.path)
    }

    /// The paths that this walk has seen it by.
    pub(super) fn seen(&self, round: u32) -> impl Iterator<Item = &Arc<Path>> {
        let seen = self.views.iter().filter(move |view| view.round == round);
        seen.map(|view| &view.path)
    }

    /// The links that are followed by this name in it.
    pub(super) fn links(&self, name: &OsStr) -> Vec<Arc<Path>> {
        let steps = self.links.iter().filter(|step| step.name == name);
        steps.map(|step| Arc::clone(&step.link)).collect()
    }

    fn is_of_use(&self) -> bool {
        !self.views.is_empty() || !self.links.is_empty()
    }
}

impl Folders {
    pub(super) fn count(&self) -> usize {
        self.by_mark.len().max(self.by_path.len())
    }

    pub(super) fn get(&self, mark: Mark) -> Option<&Folder> {
        self.by_mark.get(&mark)
    }

    /// The folder at a path below the root.
    pub(super) fn at(&mut self, path: &Path) -> Option<&mut Folder> {
        self.by_mark.get_mut(self.by_path.get(path)?)
    }

    /// Returns the folder that had this path before, if it is not watched for anything else.
    pub(super) fn insert(&mut self, mark: Mark, path: &Path, round: u32) -> Option<Mark> {
        let folder = self.by_mark.entry(mark).or_default();
        folder.tells_writes = false;
        if let Some(known) = folder.views.iter_mut().find(|view| *view.path == *path) {
            known.round = round;
            return None;
        }
        let path: Arc<Path> = path.into();
        folder.views.push(View {
            path: Arc::clone(&path),
            round,
        });
        let old = self.by_path.insert(Arc::clone(&path), mark)?;
        self.drop_view(old, &path)
    }

    /// A link is followed by this name in the folder.
    pub(super) fn insert_link(&mut self, mark: Mark, name: &OsStr, link: &Path, round: u32) {
        let folder = self.by_mark.entry(mark).or_default();
        let mut known = folder.links.iter_mut();
        match known.find(|step| step.name == name && *step.link == *link) {
            Some(step) => step.round = round,
            None => folder.links.push(Step {
                name: name.into(),
                link: link.into(),
                round,
            }),
        }
    }

    /// Drops a folder that is gone; gives its places.
    pub(super) fn remove(&mut self, mark: Mark) -> Vec<Arc<Path>> {
        let folder = self.by_mark.remove(&mark).unwrap_or_default();
        let paths: Vec<Arc<Path>> = folder.views.into_iter().map(|view| view.path).collect();
        for path in &paths {
            self.by_path.remove(path);
        }
        paths
    }

    /// Drops one place of a folder; gives the folder if it is of no use then.
    pub(super) fn drop_view(&mut self, mark: Mark, path: &Path) -> Option<Mark> {
        if self.by_path.get(path) == Some(&mark) {
            self.by_path.remove(path);
        }
        let folder = self.by_mark.get_mut(&mark)?;
        folder.views.retain(|view| *view.path != *path);
        self.drop_useless(mark)
    }

    fn drop_useless(&mut self, mark: Mark) -> Option<Mark> {
        let useless = self.by_mark.get(&mark).is_some_and(|f| !f.is_of_use());
        useless.then(|| self.by_mark.remove(&mark)).map(|_| mark)
    }

    fn below(&self, folder: &Path) -> Vec<(Arc<Path>, Mark)> {
        // Paths are ordered by their names: what is below a folder follows it.
        let below = self
            .by_path
            .range::<Path, _>((Bound::Included(folder), Bound::Unbounded));
        let below = below.take_while(|(path, _)| path.starts_with(folder));
        below
            .map(|(path, mark)| (Arc::clone(path), *mark))
            .collect()
    }

    pub(super) fn has_below(&self, folder: &Path) -> bool {
        let mut below = self
            .by_path
            .range::<Path, _>((Bound::Included(folder), Bound::Unbounded));
        below
            .next()
            .is_some_and(|(path, _)| path.starts_with(folder))
    }

    /// Drops a place and all below it; gives the folders that are of no use then.
    pub(super) fn remove_below(&mut self, folder: &Path) -> Vec<Mark> {
        let below = self.below(folder);
        let dropped = below.iter().map(|(path, mark)| self.drop_view(*mark, path));
        dropped.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Drops what this walk has not seen; gives the folders that are of no use then.
    pub(super) fn remove_unseen(&mut self, round: u32) -> Vec<Mark> {
        let marks: Vec<Mark> = self.by_mark.keys().copied().collect();
        let mut useless = Vec::new();
        for mark in marks {
            let Some(folder) = self.by_mark.get_mut(&mark) else {
                continue;
            };
            folder.links.retain(|step| step.round == round);
            let unseen = folder.views.iter().filter(|view| view.round != round);
            let unseen: Vec<Arc<Path>> = unseen.map(|view| Arc::clone(&view.path)).collect();
            for path in unseen {
                useless.extend(self.drop_view(mark, &path));
            }
            useless.extend(self.drop_useless(mark));
        }
        useless
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.by_path.keys()
    }
}
