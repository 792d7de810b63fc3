//! A walk over folders, one entry at a time.

use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, ReadDir};
use std::path::{Component, Path, PathBuf};

/// A look at folders that are to be watched.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) todo: Vec<Visit>,
    /// The folder that is being read.
    pub(super) open: Option<(Visit, ReadDir)>,
    /// It began at the root, and will have seen all there is.
    pub(super) is_whole: bool,
    /// Of walks that began at the root.
    pub(super) round: u32,
}

#[derive(Debug)]
pub(super) struct Visit {
    /// Relative to the root.
    pub(super) folder: PathBuf,
    /// Its contents count as changed.
    pub(super) is_new: bool,
    /// Where it was before.
    pub(super) came_from: Option<PathBuf>,
    /// It is a link itself.
    pub(super) is_link: bool,
    /// Links in its path.
    pub(super) links: u8,
}

/// The names that a path is made of, `..` among them.
pub(super) fn names(path: &Path) -> impl Iterator<Item = OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    parts.map(OsStr::to_os_string)
}

impl Visit {
    pub(super) fn new(folder: PathBuf, is_new: bool) -> Self {
        Self {
            folder,
            is_new,
            came_from: None,
            is_link: false,
            links: 0,
        }
    }

    pub(super) fn inside(&self, name: &OsStr) -> Self {
        Self {
            folder: self.folder.join(name),
            is_new: self.is_new,
            came_from: self.came_from.as_ref().map(|from| from.join(name)),
            is_link: false,
            links: self.links,
        }
    }
}

impl Walk {
    /// From the root; new folders that are yet to be seen stay new.
    pub(super) fn begin(&mut self) {
        self.todo.retain(|visit| visit.is_new);
        let root = Visit::new(PathBuf::new(), false);
        self.todo.insert(0, root);
        self.is_whole = true;
        self.round += 1;
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.is_whole || self.open.is_some() || !self.todo.is_empty()
    }

    pub(super) fn next_entry(&mut self) -> Option<DirEntry> {
        let (_, entries) = self.open.as_mut()?;
        // An error ends the folder: it would only come again.
        let entry = entries.next().and_then(std::result::Result::ok);
        if entry.is_none() {
            self.open = None;
        }
        entry
    }
}
