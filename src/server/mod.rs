//! The server: HTTP, JSON lines and MCP, without a word on what the tools do.

pub(crate) mod ask;
pub mod http1;
pub mod mcp;
pub(crate) mod metrics;
pub mod net;
pub(crate) mod page;
pub(crate) mod render;
pub mod rpc;
pub mod service;
