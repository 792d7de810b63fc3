//! Builds: the commands, what cargo's messages say, and the thread that runs one.

pub mod cargo;
pub mod diagnostics;
pub mod direnv;
pub mod plan;
pub mod runner;

pub use diagnostics::{BuildError, BuildErrors};
pub use plan::*;
