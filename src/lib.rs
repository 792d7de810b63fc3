//! bpm keeps a project's processes running while people and coding agents work on it.
//!
//! One thread (`engine::supervisor`) owns all state and makes every system call that concerns a process. A pure state
//! machine (`lifecycle`) says what follows from what happened: it also decides when TERM is followed by KILL, and the
//! supervisor carries it out. Servers and clients translate. A folder imports from those before it, in this order, and
//! `tests/house.rs` holds the source to it; a file whose text begins with "Pure:" makes no system call.
//!
//! | folder | has |
//! | --- | --- |
//! | `base` | errors, time, paths, JSON, globs, the logger's trait |
//! | `os` | system calls: starting, signalling and reaping processes, /proc, cgroups, pidfds, sockets, inotify, terminals |
//! | `config` | `.mcp-run`: keys, reading, `${...}`, comparing two versions of it |
//! | `log` | the lines of a process: capture, memory, files, search |
//! | `lifecycle` | the state machine of all processes (pure) |
//! | `build`, `check`, `watch` | builds and their errors; readiness and health checks; watched files |
//! | `engine` | the supervisor's loop and its parts, the snapshot that others read, `state.json`, upgrades in place |
//! | `server` | HTTP, JSON lines, MCP, the page |
//! | `tools` | what agents call: `restart`, `wait`, `search_logs` ... |
//! | `client` | a connection to the daemon, the verdict whether it lives, the proxy |
//! | `daemon` | start, stop, the daemon's own log, systemd |
//! | `cli` | commands |
//! | `tui` | `bpm-tui`, a program of its own (feature `tui`) |
//!
//! Read first: `lifecycle/unit/reconcile.rs` (what happens next to a process), `lifecycle/fleet.rs` (dependencies),
//! `engine/supervisor/mod.rs` (the loop), `log/ring.rs` (lines and their numbers), `cli/commands.rs` (all commands).
//!
//! # Where is it
//!
//! - The stop timeout is applied in `lifecycle/unit/reconcile.rs`: `end` asks for TERM and sets the time,
//!   `end_late_stops` asks for KILL. `engine/supervisor/runs.rs` and `runs/signals.rs` send them.
//! - A line gets its number in `log/ring.rs` (`number`), when it ends.
//! - The `Host` of a request over TCP is checked in `server/net/access.rs`, which `http.rs` beside it asks.
//! - After a build `restart` goes on in `lifecycle/unit/events.rs` (`built`), then in `reconcile.rs` (`go_up`): `swap`, or
//!   `start_from_nothing` where nothing runs.
//! - The wait after a crash is decided in `lifecycle/unit/events.rs` (`ended_badly`), its length in `lifecycle/policy.rs`
//!   (`Throttle`).
//! - The answer of a health check is counted in `check/schedule.rs`, handed on in `engine/supervisor/checks.rs`, and ends
//!   the run in `lifecycle/unit/events.rs` (`health`), as a crash does.
//! - `state.json` is written by `save` in `engine/supervisor/mod.rs`, at the end of each `settle` that changed it and
//!   before callers are answered; its contents are in `engine/state_file.rs`.
//! - An upgrade in place is `engine/supervisor/upgrade.rs`; descriptors are named to a `Handover` in
//!   `engine/supervisor/saved.rs` and `daemon/presence.rs`, and `daemon/resume.rs` takes them.
//! - A new command is a row in `cli/commands.rs`, a file beside it and a section of `man/bpm.1`; a new tool is a row in
//!   `tools/mod.rs`, a file beside it and its name in `tests/server/tools/table.rs`; one that gives an order is also in
//!   `resumed` (`tools/orders.rs`).
//!
//! # Glossary
//!
//! - *unit*: one `[process.NAME]` and everything that is known of it; *run*: one start of it; *generation*: the number
//!   of a run in the state machine, by which events of earlier runs are told apart.
//! - *fact* and *want*: what is, and what should be; `reconcile` compares the two.
//! - *effect*: something that the state machine asks the supervisor to do.
//! - *ticket*: an order that waits for its answer.
//! - *swap*: the new run takes over from the old one; *rollback*: the build before is started again.
//! - *snapshot*: the immutable picture that tools and commands read.
//! - *cursor*: a line number that a reader goes on behind; a *partial* line has no number until it ends.
//! - *segment*: one file of a run's log; the *index* beside it has times and streams.
//! - *leftover*: a process that outlived what it belongs to; *marker*: the variable by which it is found.
//! - *verdict*: whether a daemon runs, is unhealthy, stale or stopped.

#[cfg(not(target_os = "linux"))]
compile_error!("bpm runs on Linux 5.4 or newer");

pub mod base;
mod build;
mod check;
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
mod watch;
