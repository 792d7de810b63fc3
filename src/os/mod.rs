//! The hands: the only `unsafe`, the only system calls. Knows nothing of configuration.

pub mod poll;
