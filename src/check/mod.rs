//! Readiness and health checks: when each is due, and the threads that run them.

mod http;
mod runner;
mod schedule;
mod work;

pub use runner::*;
pub use schedule::*;
