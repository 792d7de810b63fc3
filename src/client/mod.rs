//! Clients of a running daemon: the connection, the verdict on it, what is on disk without it, and the proxy.

pub mod connection;
pub mod offline;
pub mod proxy;
pub mod verdict;
