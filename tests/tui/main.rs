//! The terminal UI: as a picture, in a real terminal (tmux), over a pty that counts, and against servers of all
//! kinds.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used
)]

#[path = "../common/mod.rs"]
mod common;

mod documents;
mod emulator;
mod picture;
mod pseudo;
mod pty;
mod random;
mod scenes;
mod servers;
mod terminal;
mod tmux;
