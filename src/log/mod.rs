//! The log of a process: its lines in memory and on disk, their capture from its pipes, and the search in them.

pub mod block;
pub mod capture;
pub mod line;
pub mod passthrough;
pub mod pipes;
pub mod ring;
pub mod search;
pub mod store;
pub mod stream;
