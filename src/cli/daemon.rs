//! Commands about the daemon as such: starting it in all ways, and the proxy.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::client::proxy;
use crate::daemon::{self, Launcher, Ourselves, Project, RunMode, StartOptions, Started};
use crate::os::reap;

use super::commands::Call;
use super::orders::stop_all;
use super::print;

/// `bpm [DIR]`, `bpm -d [DIR]`.
pub(super) fn bare(call: &Call) -> Result<u8> {
    let mode = match call.has("detach") {
        true => RunMode::Detached,
        false => RunMode::Foreground,
    };
    let options = options(call, mode)?;
    begin(&call.project_here()?, &options)
}

/// `bpm serve [DIR]`.
pub(super) fn serve(call: &Call) -> Result<u8> {
    let options = options(call, RunMode::Foreground)?;
    begin(&call.project_here()?, &options)
}

/// `bpm daemon start`.
pub(super) fn daemon_start(call: &Call) -> Result<u8> {
    let mode = match call.has("foreground") {
        true => RunMode::Foreground,
        false => RunMode::Detached,
    };
    let options = options(call, mode)?;
    begin(&call.project()?, &options)
}

/// `bpm daemon restart`.
pub(super) fn daemon_restart(call: &Call) -> Result<u8> {
    let options = options(call, RunMode::Detached)?;
    let project = call.project()?;
    // A mistake in the configuration must not cost the daemon that runs.
    daemon::read_config(&project.root)?;
    stop_all(&project, call.has("force"))?;
    begin(&project, &options)
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
        return proxy::run(Arc::new(Launcher::new(project, own_path())));
    }
    let options = StartOptions {
        mode: RunMode::Foreground,
        // Our standard output is the agent's.
        quiet: true,
        ..StartOptions::default()
    };
    daemon::start(&project, &options, &mut || {
        let ourselves = Arc::new(Ourselves(project.clone()));
        let bridge = move || {
            if let Err(error) = proxy::run(ourselves) {
                super::complain(&error);
            }
            // The input is at its end: everything stops as when a person asks for it.
            reap::ask_ourselves_to_stop();
        };
        let thread = std::thread::Builder::new().name("bridge".into());
        thread.spawn(bridge).map(drop)
    })?;
    Ok(0)
}

/// The path by which this bpm was started, made absolute: it may name another binary later.
fn own_path() -> PathBuf {
    let running = || std::env::current_exe().unwrap_or_default();
    let Some(name) = std::env::args_os().next() else {
        return running();
    };
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(&name).unwrap_or_else(|_| running());
    }
    let path = super::environment();
    let folders = path.get("PATH").map(std::env::split_paths);
    let found = folders.and_then(|mut all| all.find(|folder| folder.join(&name).is_file()));
    found.map_or_else(running, |folder| folder.join(&name))
}

/// `--port`, `--replace`.
pub(super) fn options(call: &Call, mode: RunMode) -> Result<StartOptions> {
    let port = call
        .text("port")?
        .map(|text| {
            daemon::port(text)
                .ok_or_else(|| Error::usage(format!("--port: {text:?} is neither a port nor auto")))
        })
        .transpose()?;
    Ok(StartOptions {
        mode,
        port,
        replace: call.has("replace"),
        ..StartOptions::default()
    })
}

/// Starts, and says how it went.
pub(super) fn begin(project: &Project, options: &StartOptions) -> Result<u8> {
    let name = project.name();
    match daemon::start(project, options, &mut || Ok(()))? {
        Started::Now { words, found } => {
            let found = found.map(|text| format!("{text}\n")).unwrap_or_default();
            print(&format!("{name}: started ({words})\n{found}"))?;
        }
        Started::Already(pid) => print(&format!("{name}: already running (pid {pid})\n"))?,
        Started::Ended => {}
    }
    Ok(0)
}
