//! The daemon as such: its start, its end, its own log, and the service manager above it.

mod launch;
mod listen;
mod lock;
mod log;
mod presence;
mod project;
mod resume;
mod sd_notify;
mod start;
mod stop;

pub use launch::{Launcher, Locate, Ourselves, START};
pub use lock::unhealthy;
pub use project::Project;
pub use resume::resume;
pub use sd_notify::{Env, SdNotify, handed_on};
pub use start::*;
pub use stop::{Force, Stopped, judge_lasting, stop, survivors};
