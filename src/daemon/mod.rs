//! The daemon as such: its start, its end, its own log, and the service manager above it.

mod launch;
mod log;
mod presence;
mod sd_notify;
mod start;
mod stop;

pub use launch::{Launcher, Ourselves};
pub use sd_notify::{Env, SdNotify};
pub use start::*;
pub use stop::{Stopped, judge_lasting, stop};
