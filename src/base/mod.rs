//! Errors, time, paths and JSON, which every other folder uses.

pub mod clock;
pub mod error;
pub mod escape;
pub mod globs;
pub mod json;
pub mod logger;
pub mod paths;
pub mod saved;
pub mod table;
