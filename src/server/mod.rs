//! The server: HTTP, JSON lines and MCP, without a word on what the tools do.

pub mod ask;
pub mod http1;
pub mod mcp;
pub mod metrics;
pub mod net;
pub mod page;
pub mod render;
pub mod rpc;
pub mod service;
