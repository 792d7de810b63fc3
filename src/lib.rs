//! bpm keeps a project's processes running while people and coding agents work on it.
//!
//! One thread decides (`supervisor`), pure code says what (`lifecycle`, `plan`, `ring`, `search`,
//! `rpc`), small hands do it (`os`), doors translate (`net`, `tools`). Modules stand on floors, and
//! an import points to the same floor or to one below; `tests/house.rs` holds them to it.

#[cfg(not(target_os = "linux"))]
compile_error!("bpm runs on Linux 5.4 or newer");

// floor 0: the ground
pub mod clock;
pub mod error;
pub mod journal;
pub mod json;
pub mod number;
pub mod paths;
pub mod queue;
pub mod table;

// floor 1: thought (pure: no system calls, no threads, no clock)
pub mod block;
pub mod config;
pub mod globs;
pub mod graph;
pub mod http1;
pub mod lifecycle;
pub mod mcp;
pub mod plan;
pub mod ring;
pub mod rpc;
pub mod search;

// floor 2: hands
pub mod os;

// floor 3: the engine
pub mod board;
pub mod builder;
pub mod echo;
pub mod hub;
pub mod probe;
pub mod pump;
pub mod state;
pub mod supervisor;
pub mod tape;
pub mod watch;

// floor 4: doors
pub mod client;
pub mod door;
pub mod net;
pub mod tools;

// floor 5: fronts
pub mod cli;
pub mod daemon;
pub mod proxy;
pub mod render;
