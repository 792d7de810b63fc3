//! Processes under a daemon or a foreground run: builds, starts, crashes, stops, logs.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used
)]

#[path = "../common/mod.rs"]
mod common;

mod adopt;
mod adopt_refused;
mod build;
mod chaos;
mod children;
mod crash;
mod dependencies;
mod disk;
mod hooks;
mod kills;
mod launch;
mod lifecycle;
mod orphans;
mod output;
mod ports;
mod ready;
mod reload;
mod sandboxed;
mod stop;
mod supervise;
mod swap;
mod upgrade;
mod upgrade_refused;
mod upgrade_served;
mod watch;
