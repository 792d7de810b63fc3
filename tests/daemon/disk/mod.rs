//! Logs on disk, through the real binary: what is in the files, what is found in them later, and what
//! happens when the disk does not do what it should.
pub(crate) mod files;

mod bounds;
mod crash;
mod damage;
mod offline;
mod same;
mod stored;
pub(crate) mod trouble;
