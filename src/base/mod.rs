//! Errors, time, paths and JSON, which every other folder uses.

pub mod clock;
pub mod error;
pub(crate) mod escape;
pub(crate) mod globs;
pub(crate) mod json;
pub mod logger;
pub(crate) mod paths;
pub(crate) mod saved;
pub(crate) mod table;
