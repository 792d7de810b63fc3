//! The hands: the only `unsafe`, the only system calls. Knows nothing of configuration.

pub mod accounts;
pub mod cgroup;
pub mod copy;
pub mod detach;
pub mod exec;
pub mod fds;
pub mod files;
pub mod group;
pub mod host;
pub mod image;
pub mod inbox;
pub mod inotify;
pub mod leader;
pub mod lock;
pub mod memory;
pub mod net;
pub mod notify;
pub mod output;
pub mod own;
pub mod peer;
pub mod pidfd;
pub mod poll;
pub mod proc;
pub mod pty;
pub mod reap;
pub mod reexec;
pub mod replaced;
pub mod run;
pub mod screen;
pub mod spawn;
#[cfg(feature = "tui")]
pub mod terminal;
#[cfg(test)]
pub(crate) mod testing;
pub mod threads;
pub mod trust;
