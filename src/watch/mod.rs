//! Watched files: the patterns, and the tree that inotify(7) follows.

mod folders;
pub(crate) mod watcher;
