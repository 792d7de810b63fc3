//! Commands about the daemon as such: starting it in all ways, and the proxy.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::client::connection::Client;
use crate::client::proxy;
use crate::client::verdict::{Descriptor, Verdict};
use crate::daemon::{self, Force, Launcher, Ourselves, Project, RunMode, StartOptions, Started};
use crate::os::reap;
use crate::os::threads;

use super::spec::Call;
use super::{answer, counted, note, print, tell};

/// `bpm [DIR]`, `bpm -d [DIR]`.
pub(super) fn bare(call: &Call) -> Result<u8> {
    let mode = match call.has("detach") {
        true => RunMode::Detached,
        false => RunMode::Foreground,
    };
    let options = options(call, mode)?;
    begin(&call.project_here()?, &options)
}

/// [`daemon::START`]: what comes after it.
pub(super) fn start_some(args: &[OsString]) -> Result<u8> {
    let Some((root, names)) = args.split_first() else {
        return Err(Error::usage("a folder is missing"));
    };
    let names = names.iter().map(|name| name.to_string_lossy().into_owned());
    let options = StartOptions {
        only: Some(names.collect()),
        ..StartOptions::default()
    };
    begin(&super::project(Some(Path::new(root)))?, &options)
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
    stop_all(&project, call.has("force"), None)?;
    begin(&project, &options)
}

/// A daemon, and whether it is new.
pub(super) struct Reached {
    pub descriptor: Descriptor,
    /// Connected.
    pub client: Client,
    /// We started it: what its processes did, they did just now.
    pub new: bool,
}

/// Connects to the daemon, which is started if there is none. None: we were that daemon, and it is over.
pub(super) fn reach(project: &Project, options: &StartOptions) -> Result<Option<Reached>> {
    let mut options = options.clone();
    let mut new = false;
    for tries in 0..3 {
        if !options.replace {
            match daemon::judge_lasting(project, "cli")? {
                Verdict::Running(descriptor, client) => {
                    return Ok(Some(Reached {
                        descriptor,
                        client,
                        new,
                    }));
                }
                _ if tries == 2 => break,
                // Judged once: it has had its time to answer.
                Verdict::Unhealthy(descriptor) => {
                    return Err(daemon::unhealthy(project, descriptor.as_ref()));
                }
                Verdict::Stale(_) | Verdict::Stopped => {}
            }
        }
        say_before_switch(project);
        match daemon::start(project, &options, &mut || Ok(()))? {
            Started::Ended(_) => return Ok(None),
            Started::Now {
                words,
                found,
                warnings,
            } => {
                new = true;
                let found = found
                    .map(|text| format!("bpm: {text}\n"))
                    .unwrap_or_default();
                note(format_args!("bpm: started the daemon ({words})\n{found}"));
                warn(&warnings);
            }
            Started::Already(_) => {}
        }
        // Replaced by now.
        options.replace = false;
    }
    Err(Error::cannot("reach the daemon", "it was stopped at once"))
}

/// `bpm daemon stop`.
pub(super) fn daemon_stop(call: &Call) -> Result<u8> {
    stop_all(&call.project()?, call.has("force"), Some("bpm daemon stop"))
}

/// Stops everything, and says what that was.
pub(super) fn stop_all(project: &Project, force: bool, by: Option<&str>) -> Result<u8> {
    let force = match force {
        true => Force::AtOnce,
        false => Force::None,
    };
    let stopped = daemon::stop(project, force, by, &mut |line| tell(line))?;
    let name = project.shown();
    let mut text = match (stopped.pid, stopped.killed) {
        (Some(pid), false) => format!("{name}: stopped (pid {pid})\n"),
        (Some(pid), true) => format!("{name}: killed (pid {pid})\n"),
        (None, _) if stopped.leftovers == 0 => format!("{name}: not running\n"),
        (None, _) => format!("{name}: no daemon ran\n"),
    };
    if stopped.leftovers > 0 {
        let left = stopped.leftovers;
        let noun = counted(left, "process", "processes");
        text.push_str(&format!(
            "{name}: stopped {left} {noun} that a dead daemon had left\n"
        ));
    }
    for left in &stopped.survivors {
        text.push_str(&left.line());
    }
    print(&text)?;
    Ok(u8::from(!stopped.survivors.is_empty()))
}

/// `bpm proxy [DIR]`.
pub(super) fn proxy(call: &Call) -> Result<u8> {
    let disabled = super::environment();
    let disabled = disabled.get("BPM_DISABLE_DAEMON");
    if !call.has("standalone") && disabled.is_none_or(|v| v == "0") {
        let operand = call.operands.first().map(PathBuf::from);
        let dir = operand.or_else(|| call.dir.clone());
        let locate = Box::new(move || super::project(dir.as_deref()));
        return proxy::run(Arc::new(Launcher::new(locate, own_path())));
    }
    let project = call.project_here()?;
    let options = StartOptions {
        mode: RunMode::Foreground,
        // Our standard output is the agent's.
        quiet: true,
        ..StartOptions::default()
    };
    let started = daemon::start(&project, &options, &mut || {
        let ourselves = Arc::new(Ourselves(project.clone()));
        let bridge = move || {
            if let Err(error) = proxy::run(ourselves) {
                super::complain(&error);
            }
            // The input is at its end: everything stops as when a person asks for it.
            reap::ask_ourselves_to_stop();
        };
        threads::start("bridge", Box::new(bridge)).map(drop)
    })?;
    match started {
        Started::Ended(code) => Ok(code),
        Started::Now { .. } | Started::Already(_) => Ok(0),
    }
}

/// The path by which this bpm was started, made absolute: it may name another binary later.
pub(super) fn own_path() -> PathBuf {
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
        fresh: call.has("fresh"),
        ..StartOptions::default()
    })
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(format_args!("warning: {warning}"));
    }
}

/// What is switched serves on beside what is started now, until somebody stops it.
fn say_before_switch(project: &Project) {
    if let Some(text) = super::before_switch(project) {
        tell(text);
    }
}

/// Starts, and says how it went.
pub(super) fn begin(project: &Project, options: &StartOptions) -> Result<u8> {
    let name = project.shown();
    say_before_switch(project);
    match daemon::start(project, options, &mut || Ok(()))? {
        Started::Now {
            words,
            found,
            warnings,
        } => {
            let found = found.map(|text| format!("{text}\n")).unwrap_or_default();
            print(format_args!("{name}: started ({words})\n{found}"))?;
            warn(&warnings);
            Ok(0)
        }
        Started::Already(pid) => answer(format_args!("{name}: already running (pid {pid})\n")),
        Started::Ended(code) => Ok(code),
    }
}
