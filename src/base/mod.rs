//! What everything else stands on: errors, time, paths, JSON.

pub mod clock;
pub mod error;
pub mod globs;
pub mod json;
pub mod logger;
pub mod number;
pub mod paths;
pub mod queue;
pub mod table;
