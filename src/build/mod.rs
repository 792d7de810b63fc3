//! Builds: the commands, what cargo's messages say, and the thread that runs one.

pub mod cargo;
pub mod direnv;
pub mod plan;
pub mod runner;
pub mod text;

pub use plan::*;
