//! The commands: what they print, their exit codes, help, man pages, the configuration.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used
)]

#[path = "../common/mod.rs"]
mod common;

mod commands;
mod config;
mod doctor;
mod documents;
mod export;
mod help_and_man;
mod init;
mod install;
mod keys;
mod logs;
mod names;
mod ownership;
mod proxy;
mod screen;
mod session;
mod strangers;
mod trust;
