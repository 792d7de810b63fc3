//! The log of a process: its lines, in memory and on disk, and what takes them in and searches them.

pub mod block;
pub mod capture;
pub mod line;
pub mod passthrough;
pub mod ring;
pub mod search;
pub mod store;
