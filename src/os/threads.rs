//! Threads. One function starts them all: std's is 3 KiB of code for each kind of work.
//!
//! None of them gets signals. They are the main thread's: those that come while it has them blocked wait for the program
//! that it executes.

use std::io;
use std::thread::{Builder, JoinHandle};

use super::reap::Masked;

/// Starts a thread.
///
/// # Errors
/// The system has none.
pub fn start(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    let _masked = Masked::all();
    Builder::new().name(name.into()).spawn(work)
}

/// Starts a thread with a stack of this size.
///
/// # Errors
/// The system has none.
pub fn start_small(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let thread = Builder::new().name(name.into()).stack_size(stack);
    let _masked = Masked::all();
    thread.spawn(work).map(drop)
}
