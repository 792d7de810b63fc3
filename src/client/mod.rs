//! Clients of a running daemon: the connection, the verdict on it, and the proxy.

pub mod connection;
pub mod proxy;
pub mod verdict;
