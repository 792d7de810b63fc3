//! Ending a bpm from outside, whatever state it is in; and what it left.

use std::time::Duration;

use super::start::{Project, clear, read_config};
use crate::base::clock::Mono;
use crate::base::error::{Error, Result};
use crate::base::json::{object, strings};
use crate::base::paths::ProjectDir;
use crate::client::connection::{self, CallError, Client, Descriptor, Verdict};
use crate::os::group;
use crate::os::lock::Lock;
use crate::os::proc::{self, Proc};

/// After the longest stop timeout, so much more until KILL (spec: daemon, "Stop").
const MORE: Duration = Duration::from_secs(10);
/// A daemon that does not answer gets so long after TERM.
const UNHEALTHY: Duration = Duration::from_secs(3);
/// A process that was killed is gone in microseconds, unless the kernel holds it.
const KILLED: Duration = Duration::from_secs(5);
/// A daemon that is to kill everything at once gets so long for it.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A stop that takes longer says who it is waiting for.
const WONDER: Duration = Duration::from_millis(300);

/// What was ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The daemon's pid; None: none ran.
    pub pid: Option<i32>,
    /// It had to be killed.
    pub killed: bool,
    /// Processes of a daemon that was dead.
    pub leftovers: usize,
}

/// Stops everything of a project and returns when it is over. `force`: kill at once. `hard`: end one that
/// does not answer, too. `say` takes lines for the person.
///
/// # Errors
/// It is unhealthy and neither `force` nor `hard` is set; something survived.
pub fn stop(
    project: &Project,
    force: bool,
    hard: bool,
    say: &mut dyn FnMut(&str),
) -> Result<Stopped> {
    let patience = if force {
        Duration::ZERO
    } else {
        longest(project)
    };
    let mut stopped = Stopped::default();
    let descriptor = match connection::judge(&project.dir, "cli")? {
        Verdict::Stopped => None,
        Verdict::Stale(descriptor) => Some(descriptor),
        Verdict::Running(descriptor, client) => {
            stopped.pid = Some(descriptor.pid);
            stopped.killed = end_running(&descriptor, client, force, patience, say)?;
            Some(descriptor)
        }
        Verdict::Unhealthy(Some(descriptor)) if force || hard => {
            stopped.pid = Some(descriptor.pid);
            stopped.killed = end_unhealthy(&descriptor)?;
            Some(descriptor)
        }
        Verdict::Unhealthy(descriptor) => {
            let who =
                descriptor.map_or("it has no descriptor".into(), |d| format!("pid {}", d.pid));
            return Err(Error::cannot(
                format!("stop {}", project.name()),
                format!("the daemon does not answer ({who})"),
            )
            .with_hint("\"bpm stop --force\" kills it"));
        }
    };
    stopped.leftovers = sweep(&project.dir, patience)?;
    // Only what no living bpm stands behind: one may have been started meanwhile.
    if matches!(
        connection::judge(&project.dir, "cli"),
        Ok(Verdict::Stale(_) | Verdict::Stopped)
    ) {
        clear(&project.dir, descriptor.as_ref());
    }
    Ok(stopped)
}

/// Judges the daemon of a project for who needs one that stays: the end of one that
/// is stopping is waited for.
///
/// # Errors
/// Those of [`connection::judge`]; it takes longer to stop than it is allowed to.
pub fn judge_lasting(project: &Project, kind: &str) -> Result<Verdict> {
    let mut until = None;
    loop {
        let descriptor = match connection::judge(&project.dir, kind)? {
            Verdict::Running(descriptor, client) if client.is_stopping() => descriptor,
            verdict => return Ok(verdict),
        };
        let until = *until.get_or_insert_with(|| Mono::now().after(longest(project) + MORE));
        if !gone(&descriptor, until.since(Mono::now()))? {
            return Err(Error::cannot(
                format!("start {}", project.name()),
                format!("the daemon (pid {}) is still stopping", descriptor.pid),
            )
            .with_hint("\"bpm stop --force\" ends it at once"));
        }
    }
}

/// The longest stop timeout of the configuration as it is now; that of a file with mistakes is the default.
fn longest(project: &Project) -> Duration {
    let config = read_config(&project.root).ok();
    config
        .iter()
        .flat_map(|c| &c.processes)
        .map(|p| p.stop_timeout)
        .max()
        .unwrap_or(Duration::from_secs(5))
}

/// Asks it to stop and waits until it has ended; true: it had to be killed.
fn end_running(
    daemon: &Descriptor,
    mut client: Client,
    force: bool,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<bool> {
    let allowed = if force { AT_ONCE } else { patience + MORE };
    let begun = Mono::now();
    let mut until = begun.after(allowed);
    // Who is waited for is told to who waits long enough to wonder.
    let mut untold: Option<String> = None;
    if let Ok(id) = client.send("bpm/shutdown", object([("force", force.into())])) {
        loop {
            let wonder = begun.after(WONDER);
            let next = match &untold {
                Some(names) if Mono::now() >= wonder => {
                    say(&format!("waiting for {names}"));
                    untold = None;
                    until
                }
                Some(_) => wonder.min(until),
                None => until,
            };
            match client.receive(Some(next)) {
                Ok(Some(message)) if message["method"] == "bpm/stopping" => {
                    let names: Vec<&str> = strings(&message["params"]["waiting_for"]).collect();
                    untold = (!names.is_empty()).then(|| names.join(", "));
                    // Levels of dependencies stop one after the other, each with its own time.
                    until = Mono::now().after(allowed);
                }
                Ok(Some(message)) => match connection::result_of(&message, id) {
                    None => {}
                    Some(Ok(_) | Err(CallError::Lost(_) | CallError::TimedOut)) => break,
                    Some(Err(refused @ CallError::Refused { .. })) => {
                        return Err(refused.while_doing("stop the daemon"));
                    }
                },
                Ok(None) if Mono::now() >= until => break,
                Ok(None) => {}
                // It is over, or nearly so.
                Err(_) => break,
            }
        }
    }
    drop(client);
    let left = until.since(Mono::now()).max(Duration::from_secs(1));
    if gone(daemon, left)? {
        return Ok(false);
    }
    say(&format!("it takes too long: killing pid {}", daemon.pid));
    kill(daemon)?;
    Ok(true)
}

/// TERM, then KILL, to the pid whose start time matches: true if KILL was needed.
fn end_unhealthy(daemon: &Descriptor) -> Result<bool> {
    group::stop_if(daemon.pid, daemon.process_start, libc::SIGTERM);
    if gone(daemon, UNHEALTHY)? {
        return Ok(false);
    }
    kill(daemon)?;
    Ok(true)
}

fn kill(daemon: &Descriptor) -> Result<()> {
    group::signal_if(daemon.pid, daemon.process_start, libc::SIGKILL);
    if gone(daemon, KILLED)? {
        return Ok(());
    }
    Err(Error::cannot(
        format!("kill the daemon (pid {})", daemon.pid),
        "the kernel holds it",
    ))
}

fn gone(daemon: &Descriptor, timeout: Duration) -> Result<bool> {
    group::wait_gone(daemon.pid, daemon.process_start, timeout)
        .map_err(|e| Error::system(format!("wait for pid {}", daemon.pid), e))
}

/// Ends the processes that a dead daemon left, known by their marker: TERM, and KILL after
/// `patience`. How many there were.
fn sweep(dir: &ProjectDir, patience: Duration) -> Result<usize> {
    let found = left(dir);
    if found.is_empty() {
        return Ok(0);
    }
    let until = Mono::now().after(patience);
    if !patience.is_zero() {
        for process in &found {
            group::stop_if(process.pid, process.start, libc::SIGTERM);
        }
        for process in &found {
            let left = until.since(Mono::now());
            let _ = group::wait_gone(process.pid, process.start, left);
        }
    }
    // What they started meanwhile has the marker, too.
    let mut survivors = left(dir);
    for _ in 0..20 {
        if survivors.is_empty() {
            return Ok(found.len());
        }
        for process in &survivors {
            group::signal_if(process.pid, process.start, libc::SIGKILL);
        }
        for process in &survivors {
            let _ = group::wait_gone(process.pid, process.start, Duration::from_millis(250));
        }
        survivors = left(dir);
    }
    let pids: Vec<String> = survivors.iter().map(|p| p.pid.to_string()).collect();
    Err(Error::cannot(
        "stop what a dead daemon left",
        format!("these live on: {}", pids.join(", ")),
    ))
}

/// The processes of this project that no living bpm stands behind: one may have been started meanwhile.
fn left(dir: &ProjectDir) -> Vec<Proc> {
    let mut found = proc::find_marked(&format!("{}/", dir.marker()));
    // Read behind the look: a bpm writes its descriptor before it starts anything. The lock decides
    // whether it lives: one that was killed and that nobody has reaped still has its pid.
    let living = Descriptor::read(&dir.descriptor())
        .filter(|_| Lock::probe(&dir.lock()).is_ok_and(|held| held));
    if let Some(living) = living {
        found.retain(|process| process.start < living.process_start);
    }
    found
}
