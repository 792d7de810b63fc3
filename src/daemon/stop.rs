//! Ending a bpm from outside, whatever state it is in; and what it left.

use std::io;
use std::time::Duration;

use serde_json::Value;

use super::lock;
use super::presence::clear;
use super::project::Project;
use super::start::read_config;
use crate::base::clock::{Mono, Wall};
use crate::base::error::{Error, Result, first_of};
use crate::base::json::{object, strings};
use crate::base::paths::ProjectDir;
use crate::client::connection::{self, CallError, Client};
use crate::client::verdict::{Descriptor, Verdict, hidden, judge};
use crate::engine::saved::LeftBehind;
use crate::engine::state_file::{State, StoppedBy};
use crate::os::group;
use crate::os::lock::Lock;
use crate::os::pidfd::PidFd;
use crate::os::proc::{self, Proc};

/// After the longest stop timeout, so much more until KILL.
const MORE: Duration = Duration::from_secs(10);
/// A daemon that does not answer gets so long after TERM.
const UNHEALTHY: Duration = Duration::from_secs(3);
/// A process that was killed is gone in microseconds, unless the kernel holds it.
const KILLED: Duration = Duration::from_secs(5);
/// A daemon that is to kill everything at once gets so long for it.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A stop that takes longer says who it is waiting for ...
const WONDER: Duration = Duration::from_millis(300);
/// ... and says so again no sooner: a long chain of dependencies stops one by one.
const AGAIN: Duration = Duration::from_secs(1);
/// Names in such a line.
const NAMED: usize = 8;

/// The processes that were ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The daemon's pid; None: none ran.
    pub pid: Option<i32>,
    /// It had to be killed.
    pub killed: bool,
    /// Processes of a daemon that was dead.
    pub leftovers: usize,
    /// Processes that survived KILL.
    pub survivors: Vec<LeftBehind>,
}

/// How hard a daemon is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// One that does not answer is left alone.
    None,
    /// One that does not answer is killed; one that does is asked.
    IfUnhealthy,
    /// It kills everything at once, or is killed.
    AtOnce,
}

/// Stops everything of a project and returns when it is over. `by`: the command of a person who wants it to stay
/// stopped, which is noted. `say` takes lines for the person.
///
/// # Errors
/// It is unhealthy and [`Force::None`] was asked for; something survived.
pub fn stop(
    project: &Project,
    force: Force,
    by: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Stopped> {
    let at_once = force == Force::AtOnce;
    let patience = match at_once {
        true => Duration::ZERO,
        false => longest(project),
    };
    let mut stopped = Stopped::default();
    let verdict = judge(&project.dir, "cli")?;
    let found = match verdict {
        Verdict::Stopped | Verdict::Stale(_) => hidden(&project.dir, &project.root),
        Verdict::Running(..) | Verdict::Unhealthy(_) => None,
    };
    if let Some(daemon) = &found {
        say(&format!("pid {} runs it, its files are gone", daemon.pid));
        stopped.pid = Some(daemon.pid);
        stopped.killed = at_once;
        end_hidden(
            project,
            &Running::find(&project.dir, daemon),
            at_once,
            patience,
        )?;
    }
    let descriptor = match verdict {
        Verdict::Stopped => None,
        Verdict::Stale(descriptor) => Some(descriptor),
        Verdict::Running(descriptor, client) => {
            stopped.pid = Some(descriptor.pid);
            let params = object([("force", at_once.into()), ("by", by.into())]);
            let daemon = Running::find(&project.dir, &descriptor);
            stopped.killed = end_running(&daemon, client, params, patience, say)?;
            Some(descriptor)
        }
        Verdict::Unhealthy(Some(descriptor)) if force != Force::None => {
            stopped.pid = Some(descriptor.pid);
            stopped.killed = end_unhealthy(&Running::find(&project.dir, &descriptor))?;
            Some(descriptor)
        }
        Verdict::Unhealthy(descriptor) => {
            let what = format!("stop {}", project.shown());
            return Err(match descriptor {
                Some(d) => {
                    Error::cannot(what, format!("the daemon does not answer (pid {})", d.pid))
                        .with_hint("\"bpm stop --force\" kills it")
                }
                None => Error::cannot(what, "a process that can't be seen holds its lock"),
            });
        }
    };
    stopped.survivors = survivors(project);
    let spared = Spared {
        // In an orderly end nothing is left but what builds leave on purpose.
        builds: stopped.pid.is_some() && !stopped.killed,
        survivors: &stopped.survivors,
    };
    stopped.leftovers = sweep(&project.dir, patience, &spared)?;
    // Another bpm may have been started meanwhile: then its files are there, and it holds the lock.
    if let Ok(Some(_lock)) = Lock::take(&project.dir.lock()) {
        clear(&project.dir, descriptor.as_ref());
        // Everything has stopped: a full disk changes nothing in that.
        if let Err(why) = note(project, by) {
            say(&why.to_string());
        }
    }
    Ok(stopped)
}

/// Processes that are not ended once the daemon is gone.
struct Spared<'a> {
    /// Those that builds have left.
    builds: bool,
    /// They have had KILL.
    survivors: &'a [LeftBehind],
}

impl Spared<'_> {
    fn has(&self, p: &Proc) -> bool {
        self.survivors.iter().any(|left| left.pid == p.pid)
            || self.builds && proc::is_of_build(p.pid)
    }
}

/// Living processes that survived the end of a daemon of the project.
pub fn survivors(project: &Project) -> Vec<LeftBehind> {
    let mut state = State::look(&project.dir.state());
    state.left.retain(|left| proc::lives(left.pid, left.start));
    state.left
}

/// Notes who stopped the project, and that nothing is left of a daemon that was killed, unless the daemon has done so
/// itself. To be called by who holds the lock.
fn note(project: &Project, by: Option<&str>) -> Result<()> {
    let path = project.dir.state();
    let (mut state, _) = State::read(&path)?;
    let new = by.filter(|_| state.stopped.is_none());
    if new.is_none() && state.daemon.is_none() && !state.may_have_left() {
        return Ok(());
    }
    state.forget_lives();
    if let Some(by) = new {
        let at = Wall::now();
        let by = by.into();
        state.stopped = Some(StoppedBy { by, at });
    }
    state
        .write(&path)
        .map_err(|e| Error::file("write", &path, e))
}

/// Judges the daemon of a project for who needs one that stays: the end of one that
/// is stopping is waited for.
///
/// # Errors
/// Those of [`judge`]; it takes longer to stop than it is allowed to.
pub fn judge_lasting(project: &Project, kind: &str) -> Result<Verdict> {
    let mut until = None;
    loop {
        let descriptor = match judge(&project.dir, kind)? {
            Verdict::Running(descriptor, client) if client.is_stopping() => descriptor,
            verdict => return Ok(verdict),
        };
        let until = *until.get_or_insert_with(|| Mono::now().after(longest(project) + MORE));
        let daemon = Running::find(&project.dir, &descriptor);
        if !daemon.gone(until.since(Mono::now()))? {
            return Err(Error::cannot(
                format!("reach a daemon of {}", project.shown()),
                format!("the one before (pid {}) is still stopping", descriptor.pid),
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
    daemon: &Running,
    mut client: Client,
    params: Value,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<bool> {
    let allowed = match params["force"] == true {
        true => AT_ONCE,
        false => patience + MORE,
    };
    let begun = Mono::now();
    let mut until = begun.after(allowed);
    // A user who waits long enough to wonder reads the names of the processes that still run.
    let mut untold: Option<String> = None;
    let mut wonder = begun.after(WONDER);
    if let Ok(id) = client.send("bpm/shutdown", params) {
        loop {
            let next = match &untold {
                Some(names) if Mono::now() >= wonder => {
                    say(&format!("waiting for {names}"));
                    untold = None;
                    wonder = Mono::now().after(AGAIN);
                    until
                }
                Some(_) => wonder.min(until),
                None => until,
            };
            match client.receive(Some(next)) {
                Ok(Some(message)) if message["method"] == "bpm/stopping" => {
                    let names: Vec<&str> = strings(&message["params"]["waiting_for"]).collect();
                    untold = (!names.is_empty()).then(|| first_of(&names, NAMED));
                    // Levels of dependencies stop one after the other, each with its own time.
                    until = Mono::now().after(allowed);
                }
                Ok(Some(message)) => match connection::result_of(&message, id) {
                    None => {}
                    Some(Ok(_) | Err(CallError::Lost(_) | CallError::TimedOut)) => break,
                    Some(Err(refused @ (CallError::Refused { .. } | CallError::Unable(_)))) => {
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
    if daemon.gone(left)? {
        return Ok(false);
    }
    say(&format!("it takes too long: killing pid {}", daemon.pid));
    daemon.kill()?;
    Ok(true)
}

/// TERM, then KILL, to the pid whose start time matches: true if KILL was needed.
fn end_unhealthy(daemon: &Running) -> Result<bool> {
    daemon.stop();
    if daemon.gone(UNHEALTHY)? {
        return Ok(false);
    }
    daemon.kill()?;
    Ok(true)
}

/// A daemon that can't be asked: TERM stops it in order.
fn end_hidden(
    project: &Project,
    daemon: &Running,
    at_once: bool,
    patience: Duration,
) -> Result<()> {
    if at_once {
        return daemon.kill();
    }
    daemon.stop();
    match daemon.gone(patience + MORE)? {
        true => Ok(()),
        false => Err(Error::cannot(
            format!("stop {}", project.shown()),
            format!("the daemon (pid {}) is still stopping", daemon.pid),
        )
        .with_hint("\"bpm stop --force\" ends it at once")),
    }
}

/// A daemon's process, from before it was asked to end.
struct Running {
    pid: i32,
    start: u64,
    /// None: it has ended. An error: a filter refuses pidfd_open(2).
    process: io::Result<Option<PidFd>>,
}

impl Running {
    fn find(dir: &ProjectDir, daemon: &Descriptor) -> Self {
        let (pid, start) = (daemon.pid, daemon.process_start);
        let process = match proc::start_time(std::process::id().cast_signed()) {
            Some(_) => PidFd::open(pid, start),
            // Where /proc is not mounted, no start time tells the daemon from another process of that number. The
            // lock does: while it is held and the descriptor is the same, its writer lives and has its number.
            None => PidFd::of_number(pid).map(|process| process.filter(|_| holds(dir, daemon))),
        };
        Self {
            pid,
            start,
            process,
        }
    }

    fn signal(&self, signal: i32) {
        match &self.process {
            Ok(Some(process)) if process.signal(signal) => {}
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => {
                group::signal_if(self.pid, self.start, signal);
            }
        }
    }

    /// TERM, and CONT: what is stopped by a signal could not end.
    fn stop(&self) {
        self.signal(libc::SIGTERM);
        self.signal(libc::SIGCONT);
    }

    fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL);
        if self.gone(KILLED)? {
            return Ok(());
        }
        Err(Error::cannot(
            format!("kill the daemon (pid {})", self.pid),
            "the kernel holds it",
        ))
    }

    /// Waits for its end. False: it lives after `timeout`.
    fn gone(&self, timeout: Duration) -> Result<bool> {
        let waited = match &self.process {
            Ok(Some(process)) => process.wait(timeout),
            Ok(None) => Ok(true),
            Err(_) => group::wait_gone(self.pid, self.start, timeout),
        };
        waited.map_err(|e| Error::system(format!("wait for pid {}", self.pid), e))
    }
}

/// The daemon that wrote that descriptor holds the lock.
fn holds(dir: &ProjectDir, daemon: &Descriptor) -> bool {
    let now = Descriptor::read(&dir.descriptor());
    now.is_some_and(|now| now.instance_id == daemon.instance_id)
        && Lock::probe(&dir.lock()).unwrap_or(false)
}

/// Ends the processes that a dead daemon left, known by their marker: TERM, and KILL after
/// `patience`. How many there were.
fn sweep(dir: &ProjectDir, patience: Duration, spared: &Spared<'_>) -> Result<usize> {
    let found = left(dir, spared)?;
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
    // Processes that they started meanwhile have the marker, too.
    let mut survivors = left(dir, spared)?;
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
        survivors = left(dir, spared)?;
    }
    let pids: Vec<String> = survivors.iter().map(|p| p.pid.to_string()).collect();
    Err(Error::cannot(
        "stop what a dead daemon left",
        format!("these live on: {}", pids.join(", ")),
    ))
}

/// The processes of this project that no living bpm stands behind: one may have been started meanwhile, and have taken
/// over what was left.
///
/// # Errors
/// The lock can't be looked at: then a bpm may live.
fn left(dir: &ProjectDir, spared: &Spared<'_>) -> Result<Vec<Proc>> {
    let mut found = proc::find_marked(&format!("{}/", dir.marker()));
    found.retain(|p| !spared.has(p));
    // Asked after the processes: a bpm has the lock before it starts or takes over anything. The lock decides whether
    // it lives: one that was killed and that nobody has reaped still has its pid.
    let held = Lock::probe(&dir.lock()).map_err(|e| lock::cannot("look at", &dir.lock(), e))?;
    Ok(if held { Vec::new() } else { found })
}
