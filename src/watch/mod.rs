//! Watched files: the patterns, and the tree that inotify(7) follows.

pub mod changes;
mod folders;
mod walk;
pub(crate) mod watcher;
