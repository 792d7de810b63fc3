//! The engine: the supervisor's thread, how others ask it, and what it shows and keeps.

pub mod handle;
pub mod handover;
pub mod saved;
pub mod snapshot;
pub mod state_file;
pub mod supervisor;
