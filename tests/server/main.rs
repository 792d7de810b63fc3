//! The server: HTTP, JSON lines, MCP, and the tools behind them.
#![allow(unsafe_code)]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used
)]

#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod mutate;

mod faces;
mod hostile;
mod mcp_http;
mod mutation;
mod mutation_files;
mod tools;
mod transcripts;
mod wire;
mod words;
