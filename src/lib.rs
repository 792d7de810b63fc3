//! bpm keeps a project's processes running while people and coding agents work on it.
//!
//! One thread decides (`supervisor`), pure code says what (`lifecycle`, `plan`, `ring`, `search`,
//! `rpc`), small hands do it (`os`), doors translate (`net`, `tools`). Modules stand on floors, and
//! an import points to the same floor or to one below; `tests/house.rs` holds them to it.

#[cfg(not(target_os = "linux"))]
compile_error!("bpm runs on Linux 5.4 or newer");

pub mod base;
pub mod build;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod lifecycle;
pub mod log;
pub mod os;
pub mod server;
pub mod tools;
#[cfg(feature = "tui")]
pub mod tui;
pub mod watch;
