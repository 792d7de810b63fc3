//! Threads. One function starts them all: std's is 3 KiB of code for each kind of work.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread.
///
/// # Errors
/// The system has none.
pub fn start(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(work)
}

/// Starts a thread with a stack of this size.
///
/// # Errors
/// The system has none.
pub fn start_small(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let thread = Builder::new().name(name.into()).stack_size(stack);
    thread.spawn(work).map(drop)
}
