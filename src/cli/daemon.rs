//! Commands about the daemon as such: starting it in all ways, and the proxy.

use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::client::proxy;
use crate::daemon::{self, Project, RunMode, StartOptions, Started};
use crate::os::reap;

use super::commands::Call;
use super::orders::stop_all;
use super::print;

/// `bpm [DIR]`, `bpm -d [DIR]`.
pub(super) fn bare(call: &Call) -> Result<u8> {
    let how = match call.has("detach") {
        true => RunMode::Detached,
        false => RunMode::Foreground,
    };
    let wishes = wishes(call)?;
    begin(&call.project_here()?, &wishes, how)
}

/// `bpm serve [DIR]`.
pub(super) fn serve(call: &Call) -> Result<u8> {
    let wishes = wishes(call)?;
    begin(&call.project_here()?, &wishes, RunMode::Foreground)
}

/// `bpm daemon start`.
pub(super) fn daemon_start(call: &Call) -> Result<u8> {
    let how = match call.has("foreground") {
        true => RunMode::Foreground,
        false => RunMode::Detached,
    };
    let wishes = wishes(call)?;
    begin(&call.project()?, &wishes, how)
}

/// `bpm daemon restart`.
pub(super) fn daemon_restart(call: &Call) -> Result<u8> {
    let wishes = wishes(call)?;
    let project = call.project()?;
    // A mistake in the configuration must not cost the daemon that runs.
    daemon::read_config(&project.root)?;
    stop_all(&project, call.has("force"))?;
    begin(&project, &wishes, RunMode::Detached)
}

/// `bpm proxy [DIR]`.
pub(super) fn proxy(call: &Call) -> Result<u8> {
    let project = call.project_here()?;
    let alone = call.has("standalone")
        || project
            .env
            .get("BPM_DISABLE_DAEMON")
            .is_some_and(|v| v != "0");
    if !alone {
        return proxy::run(&project, proxy::Daemon::Any);
    }
    let bridged = project.clone();
    let wishes = StartOptions {
        // Our standard output is the agent's.
        quiet: true,
        beside: Some(Arc::new(move || {
            let bridged = bridged.clone();
            let bridge = move || {
                if let Err(error) = proxy::run(&bridged, proxy::Daemon::Ourselves) {
                    super::complain(&error);
                }
                // The input is at its end: everything stops as when a person asks for it.
                reap::ask_ourselves_to_stop();
            };
            let thread = std::thread::Builder::new().name("inward".into());
            thread.spawn(bridge).map(drop)
        })),
        ..StartOptions::default()
    };
    begin(&project, &wishes, RunMode::Foreground)
}

/// `--port`, `--replace`.
pub(super) fn wishes(call: &Call) -> Result<StartOptions> {
    let port = call
        .text("port")?
        .map(|text| {
            daemon::port(text)
                .ok_or_else(|| Error::usage(format!("--port: {text:?} is neither a port nor auto")))
        })
        .transpose()?;
    Ok(StartOptions {
        port,
        replace: call.has("replace"),
        ..StartOptions::default()
    })
}

/// Starts, and says how it went.
pub(super) fn begin(project: &Project, wishes: &StartOptions, how: RunMode) -> Result<u8> {
    let name = project.name();
    match daemon::start(project, wishes, how)? {
        Started::Now { words, found } => {
            let found = found.map(|text| format!("{text}\n")).unwrap_or_default();
            print(&format!("{name}: started ({words})\n{found}"))?;
        }
        Started::Already(pid) => print(&format!("{name}: already running (pid {pid})\n"))?,
        Started::Ended => {}
    }
    Ok(0)
}
