//! Logs on disk, through the real binary: what is in the files, what is found in them later, and what
//! happens when the disk does not do what it should.
#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod files;

mod bounds;
mod crash;
mod damage;
mod offline;
mod same;
mod stored;
mod trouble;
