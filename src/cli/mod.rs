//! The command line: a table of commands (`commands`, of the parts in `spec`), its readers (`parse`, `help`,
//! `complete`), and a file for each command or a few, which ask the daemon and show its answers.

mod check;
pub mod commands;
mod complete;
mod daemon;
mod dash;
mod doctor;
mod errors;
mod export;
mod help;
mod init;
mod install;
mod logs;
mod mcp_check;
mod mcp_config;
mod metrics;
mod orders;
mod parse;
mod screen;
mod source;
pub mod spec;
mod status;
mod trust;
mod tui;
mod up;
mod upgrade;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Failure, Result, named};
use crate::base::paths::{self, CONFIG_FILE, ProjectDir, State};
use crate::client::connection::{Client, VERSION};
use crate::client::verdict::{Descriptor, FolderId, Verdict, hidden, judge};
use crate::daemon::{Env, Project, START, handed_on};
use crate::os::lock::Lock;
use crate::os::{fds, poll, proc};
pub(crate) use crate::server::render;
use crate::server::render::Paint;

use help::help;
use parse::Asked;
use spec::Call;

/// Does what the arguments say; the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let done = upgrade::asked_by_daemon(&args).unwrap_or_else(|| {
        // Nothing of ours is open yet: what a caller left open is not held for a daemon's life.
        let kept = handed_on(&environment()).len();
        fds::keep_inherited(u16::try_from(kept).unwrap_or(u16::MAX));
        asked(args)
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn asked(args: Vec<OsString>) -> Result<u8> {
    if args.get(1).is_some_and(|a| a == complete::NAMES) {
        return complete::names();
    }
    if args.get(1).is_some_and(|a| a == START) {
        return daemon::start_some(&args[2..]);
    }
    match parse::parse(args)? {
        Asked::Version => answer(format_args!("bpm {VERSION}\n")),
        Asked::Help(name) => answer(help(&name)),
        Asked::Call(call) => (call.command.run)(&call),
    }
}

/// Says on standard error what went wrong.
fn complain(error: &Error) {
    if let Some(text) = error.report("bpm") {
        note(&text);
    }
}

/// Says on standard error that the daemon could not do it, in its words; the exit code.
fn refused(doing: &str, why: &str) -> u8 {
    tell(cannot(doing, why));
    1
}

/// `cannot restart api: build 3 failed`, where that is not said already.
fn cannot(doing: &str, why: &str) -> String {
    match why.starts_with("cannot ") {
        true => why.into(),
        false => format!("cannot {doing}: {why}"),
    }
}

/// On standard error, as it is. One that is closed is no reason to fail.
fn note(text: impl Display) {
    let _ = poll::write_all(io::stderr().as_fd(), text.to_string().as_bytes());
}

/// On standard error, as a line of bpm's own.
fn tell(text: impl Display) {
    note(format_args!("bpm: {text}\n"));
}

/// On standard output.
///
/// # Errors
/// Nobody reads it any more ([`Failure::ReaderGone`]), or it can't be written.
fn print(text: impl Display) -> Result<()> {
    write(text.to_string().as_bytes())
}

/// Prints all that a command has to say; its exit code.
fn answer(text: impl Display) -> Result<u8> {
    print(text).map(|()| 0)
}

/// The same of bytes.
fn write(bytes: &[u8]) -> Result<()> {
    poll::write_all(io::stdout().as_fd(), bytes).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::ReaderGone.into(),
        _ => Error::system("write to standard output", e),
    })
}

/// The folder of all that bpm keeps.
fn state_folder(env: &Env) -> Result<State> {
    State::locate(&|name| env.get(name).map(OsStr::to_os_string))
}

/// The folders of the projects of which bpm keeps something there.
fn known_projects(state: &Path) -> io::Result<Vec<ProjectDir>> {
    let mut known = Vec::new();
    for entry in std::fs::read_dir(state)? {
        known.push(ProjectDir::at(entry?.path()));
    }
    Ok(known)
}

fn environment() -> Env {
    Env(std::env::vars_os().collect())
}

/// Colours for standard output.
fn paint(env: &Env) -> Paint {
    Paint::new(env.get("NO_COLOR").is_none() && io::stdout().is_terminal())
}

impl Call {
    /// The project: `-C DIR`, else the nearest folder upward that has a `.mcp-run`; else, for who looks at
    /// a daemon whose `.mcp-run` was deleted, the nearest folder upward that bpm knows.
    ///
    /// # Errors
    /// There is none.
    fn project(&self) -> Result<Project> {
        project(self.dir.as_deref())
    }

    /// The project of a command that takes `[DIR]`: exactly that folder.
    fn project_here(&self) -> Result<Project> {
        let operand = self.operands.first().map(|o| Path::new(o.as_os_str()));
        project(operand.or(self.dir.as_deref()))
    }

    /// The daemon, which must run.
    ///
    /// # Errors
    /// It does not (exit code 3), or does not answer.
    fn daemon(&self, what: &str) -> Result<(Project, Descriptor, Client)> {
        let project = self.project()?;
        match judge(&project.dir, "cli")? {
            Verdict::Running(descriptor, client) => Ok((project, descriptor, client)),
            verdict => Err(no_daemon(what, &project, &verdict)),
        }
    }
}

/// The pid of a daemon behind its name; nothing where it is not known.
fn pid_behind(daemon: Option<&Descriptor>) -> String {
    daemon.map_or(String::new(), |d| format!(" (pid {})", d.pid))
}

/// One of them, or several.
fn counted(n: usize, one: &'static str, more: &'static str) -> &'static str {
    if n == 1 { one } else { more }
}

/// Nothing was learnt of the daemon, for a reason of our own.
fn cannot_ask(error: &Error) -> bool {
    matches!(error.failure(), Failure::CannotAsk { .. })
}

/// Why a daemon that is not running as it should can't be asked.
fn no_daemon(what: &str, project: &Project, verdict: &Verdict) -> Error {
    match verdict {
        Verdict::Unhealthy(descriptor) => {
            let pid = pid_behind(descriptor.as_ref());
            Error::cannot(what, format!("the daemon does not answer{pid}"))
                .with_hint("\"bpm stop --force\" ends it, \"bpm -d --replace\" starts another")
        }
        Verdict::Running(..) | Verdict::Stale(_) | Verdict::Stopped => {
            match hidden(&project.dir, &project.root) {
                Some(daemon) => {
                    let why = format!("pid {} runs it, and its files are gone", daemon.pid);
                    Error::cannot(what, why).with_hint("\"bpm stop\" ends it")
                }
                None => Failure::NoDaemon {
                    what: what.into(),
                    project: project.shown(),
                    hint: before_switch(project),
                }
                .into(),
            }
        }
    }
}

/// The daemon of another folder that was started by a path which leads to this project now: a deploy has switched a
/// link. A sentence.
fn before_switch(project: &Project) -> Option<String> {
    let known = known_projects(project.dir.path().parent()?).ok()?;
    known.iter().find_map(|dir| {
        let daemon = Descriptor::read(&dir.descriptor())?;
        let lives = proc::start_time(daemon.pid) == Some(daemon.process_start);
        if !lives || Path::new(&daemon.project) == project.root {
            return None;
        }
        let path = PathBuf::from(OsString::from_vec(proc::variable(daemon.pid, "PWD")?));
        let switched = path != project.root && path.canonicalize().ok()? == project.root;
        switched.then(|| {
            let (pid, root, path) = (daemon.pid, &daemon.project, path.display());
            let now = project.root.display();
            format!(
                "the daemon of {root} (pid {pid}) was started in {path}, which is {now} now: \"bpm -C {root} stop\" stops it"
            )
        })
    })
}

/// A file that its owner, its group or others may execute.
fn is_executable(path: &Path) -> bool {
    let file = path.metadata();
    file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

pub(crate) fn project(dir: Option<&Path>) -> Result<Project> {
    let env = environment();
    let state = state_folder(&env)?;
    let root = match dir {
        Some(dir) => root_at(&state, dir)?,
        None => root_above(&state)?,
    };
    let own = state.project(&root);
    let dir = match own.descriptor().exists() {
        true => own,
        false => moved(&state, &root).unwrap_or(own),
    };
    Ok(Project { dir, root, env })
}

/// Exactly this folder.
fn root_at(state: &State, dir: &Path) -> Result<PathBuf> {
    let root = resolved(dir).map_err(|e| Error::file("enter", dir, e))?;
    let known = state.project(&root);
    let config = root.join(CONFIG_FILE).symlink_metadata();
    // Also one whose folder is gone: its path is enough to find the daemon.
    if config.is_ok()
        || known.descriptor().exists()
        || moved(state, &root).is_some()
        || !root.exists() && known.path().exists()
    {
        return Ok(root);
    }
    if !root.exists() {
        return Err(Error::cannot(named("enter", dir), "no such folder"));
    }
    match config {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(Error::file("enter", dir, e)),
        _ => {
            let why = format!("there is no {CONFIG_FILE} in it");
            Err(Error::cannot(named("find the project", dir), why))
        }
    }
}

/// The nearest folder from here upward that is a project, or was one when its daemon was started.
fn root_above(state: &State) -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|e| Error::system("tell the current folder", e))?;
    let known = |root: &&Path| state.project(root).descriptor().exists();
    // A link that leads nowhere is one as well, and not a reason to take the project above.
    let found = paths::find_project(&here, &|path| path.symlink_metadata().is_ok())
        .or_else(|| here.ancestors().find(known).map(Path::to_path_buf));
    found.ok_or_else(|| {
        let here = here.display().to_string();
        let why = format!("no {CONFIG_FILE} in {here:?} or above");
        Error::cannot("find a project", why)
            .with_hint("go to one, name its folder with -C DIR, or write one: \"bpm init\"")
    })
}

/// The canonical path, also of a folder that is gone: then of what is left above it.
fn resolved(dir: &Path) -> io::Result<PathBuf> {
    let gone = match dir.canonicalize() {
        Err(e) if e.kind() == ErrorKind::NotFound => std::path::absolute(dir)?,
        other => return other,
    };
    let mut above = gone.ancestors().skip(1);
    let found = above.find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    Ok(match found {
        Some((folder, canonical)) => canonical.join(gone.strip_prefix(folder).unwrap_or(&gone)),
        None => gone,
    })
}

/// The state of a daemon that runs this very folder, which had another path when it was started.
fn moved(state: &State, root: &Path) -> Option<ProjectDir> {
    let folder = FolderId::of(root)?;
    let known = known_projects(state.path()).ok()?;
    known.into_iter().find(|dir| {
        let descriptor = Descriptor::read(&dir.descriptor());
        descriptor.is_some_and(|d| d.folder == Some(folder))
            && Lock::probe(&dir.lock()).is_ok_and(|held| held)
    })
}
