//! Readiness and health checks: when each is due and what counts as failed (`schedule`), and the threads that run them.
//! `engine/supervisor/checks.rs` hands the result to `lifecycle`, which decides on a restart.

mod http;
mod runner;
mod schedule;
mod work;

pub use runner::*;
pub use schedule::*;
