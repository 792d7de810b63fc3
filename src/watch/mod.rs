//! Watched files: the patterns, and the tree that inotify(7) follows.

pub mod watcher;

pub use watcher::*;
