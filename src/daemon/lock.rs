//! The two locks that make a daemon the only one of its project: one in its folder of state, and one on the project's
//! folder itself, which holds whatever BPM_HOME and user another bpm has.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::project::Project;
use super::stop::judge_lasting;
use crate::base::clock::Mono;
use crate::base::error::{Error, Result, named as of_file, reason};
use crate::base::paths::State;
use crate::client::connection::{PATIENCE, is_own_fault, own_fault};
use crate::client::verdict::{Descriptor, Verdict, keeps_its_state_in};
use crate::os::inotify::PathWatch;
use crate::os::lock::{self, Lock};
use crate::os::{files, peer, proc};

/// A daemon whose files were removed is looked for again after this, if nothing happens.
const AGAIN: Duration = Duration::from_millis(100);

/// Both locks, held.
pub(super) struct Locks {
    pub(super) state: Lock,
    /// None: the folder can't be locked, or its lock is held by somebody who has no say in the project.
    pub(super) folder: Option<Lock>,
    /// Why the folder is not locked.
    pub(super) warning: Option<String>,
}

/// The owner of the project's locks.
pub(super) enum Taken {
    Ours(Locks),
    /// Another bpm was quicker, and serves: its pid.
    Anothers(i32),
}

/// Takes both locks. To be called after the last fork, since a copy of the process would have them too.
///
/// # Errors
/// A daemon that does not answer holds the first, a bpm of another home the second.
pub(super) fn take(project: &Project) -> Result<Taken> {
    let path = project.dir.lock();
    let until = Mono::now().after(PATIENCE * 5);
    loop {
        let taken = Lock::take(&path).or_else(|e| match e.kind() {
            // Somebody has just removed the folder.
            ErrorKind::NotFound => {
                files::private_dir(project.dir.path()).and_then(|()| Lock::take(&path))
            }
            _ => Err(e),
        });
        if let Some(state) = taken.map_err(|e| cannot("lock", &path, e))? {
            match folder(project) {
                Ok((folder, warning)) => {
                    return Ok(Taken::Ours(Locks {
                        state,
                        folder,
                        warning,
                    }));
                }
                // A daemon of this home, whose files were just removed, makes them again.
                Err(Some(pid)) if keeps_its_state_in(pid, &project.dir) && Mono::now() < until => {}
                Err(holder) => return Err(held(project, holder)),
            }
        }
        let watch = PathWatch::of(project.dir.path());
        match judge_lasting(project, "cli")? {
            Verdict::Running(descriptor, _) => return Ok(Taken::Anothers(descriptor.pid)),
            // It has ended in between, or is not back yet.
            Verdict::Stale(_) | Verdict::Stopped if Mono::now() < until => {
                if let Ok(watch) = watch
                    && lock::holder(&project.root).is_some()
                {
                    let _ = watch.wait(until.since(Mono::now()).min(AGAIN));
                }
            }
            Verdict::Stale(_) | Verdict::Stopped => return Err(unhealthy(project, None)),
            Verdict::Unhealthy(descriptor) => {
                return Err(unhealthy(project, descriptor.as_ref()));
            }
        }
    }
}

/// An error of a lock's file. What this process may not do says nothing about who holds it.
pub(super) fn cannot(verb: &str, path: &Path, e: io::Error) -> Error {
    match is_own_fault(&e) {
        true => Error::cannot(of_file(verb, path), own_fault(&e)),
        false => Error::file(verb, path, e),
    }
}

/// Why nothing can be started beside a daemon that does not answer.
pub fn unhealthy(project: &Project, descriptor: Option<&Descriptor>) -> Error {
    let who = descriptor.map_or(String::new(), |d| format!(" (pid {})", d.pid));
    Error::cannot(
        format!("start {}", project.shown()),
        format!("a daemon that does not answer holds its lock{who}"),
    )
    .with_hint("--replace, or \"bpm stop --force\", ends it")
}

/// The lock of the folder, or why it is not needed; Err: who holds it.
fn folder(project: &Project) -> std::result::Result<(Option<Lock>, Option<String>), Option<i32>> {
    let root = &project.root;
    let why = match Lock::folder(root) {
        Ok(Some(lock)) => return Ok((Some(lock), None)),
        Ok(None) => match lock::holder(root) {
            Some(pid) if is_foreign(project, pid) => {
                format!("{} holds its lock, and is ignored", named(pid))
            }
            holder => return Err(holder),
        },
        Err(e) => reason(&e),
    };
    let warning = format!(
        "the folder {} is not locked ({why}): a bpm of another home would not notice this one",
        root.display()
    );
    Ok((None, Some(warning)))
}

/// Anybody who can read a folder can lock it: only its owner, root and we ourselves may keep us from starting.
fn is_foreign(project: &Project, pid: i32) -> bool {
    let owner = std::fs::metadata(&project.root).map(|folder| folder.uid());
    proc::owner(pid)
        .is_some_and(|uid| uid != 0 && !peer::is_us(uid) && owner.is_ok_and(|o| o != uid))
}

fn held(project: &Project, holder: Option<i32>) -> Error {
    let who = holder.map_or("another bpm".into(), named);
    let hint = match holder.is_some_and(|pid| keeps_its_state_in(pid, &project.dir)) {
        true => "its files are gone: \"bpm stop\" ends it",
        false => "stop that one first, with its BPM_HOME and as its user",
    };
    Error::cannot(
        format!("start {}", project.shown()),
        format!("{who} already runs this project"),
    )
    .with_hint(hint)
}

/// `the daemon (pid 4711, user ann, home /srv/bpm)`, as far as it can be seen.
fn named(pid: i32) -> String {
    let mut facts = vec![format!("pid {pid}")];
    if let Some(uid) = proc::owner(pid) {
        facts.push(format!("user {}", peer::user_name(uid)));
    }
    let program = proc::program(pid).unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    if !program.starts_with("bpm") {
        return format!("{program} ({})", facts.join(", "));
    }
    if let Ok(home) = home(pid) {
        facts.push(format!("home {}", home.path().display()));
    }
    format!("the daemon ({})", facts.join(", "))
}

/// Where the bpm with that pid keeps its state, by the environment it was started in.
fn home(pid: i32) -> Result<State> {
    State::locate(&|name| proc::variable(pid, name).map(OsString::from_vec))
}
