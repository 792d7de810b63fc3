//! Threads. std's way to start one is 3 KiB of code for each closure; here is one for all.

use std::io;
use std::thread::{Builder, JoinHandle};

/// A stack of std's size: for regexes and nested JSON.
pub const LARGE: usize = 2 << 20;
/// A stack for who only passes bytes on.
pub const SMALL: usize = 64 << 10;

/// Starts a thread.
///
/// # Errors
/// There is none to be had.
pub fn start(
    name: &str,
    stack: usize,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<JoinHandle<()>> {
    Builder::new()
        .name(name.into())
        .stack_size(stack)
        .spawn(work)
}
