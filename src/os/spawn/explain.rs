//! Why a process could not be started, for a person: errno names neither the file
//! that is meant nor what to do.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use super::{Failed, Launch, Step};
use crate::base::error::reason;
use crate::os::fds::none_left;

/// Why there is no process. Its text is the reason alone: `no such file: "./srv" in /home/me/app`.
#[derive(Debug)]
pub struct SpawnError {
    /// Where it failed.
    pub step: Step,
    /// The system's error. `WouldBlock` (EAGAIN) means that there are too many processes: later, perhaps.
    pub error: io::Error,
    pub(super) words: String,
}

impl SpawnError {
    /// The working folder is not to be used, for this reason.
    pub fn in_folder(words: String) -> Self {
        Self {
            step: Step::Folder,
            error: io::ErrorKind::PermissionDenied.into(),
            words,
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for SpawnError {}

/// One of the paths that were tried.
pub(super) fn path(c: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(c.to_bytes()))
}

/// The first bytes of a file, as far as they can be read.
fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // Not waiting: it may be a FIFO.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    if let Ok(file) = file {
        let _ = file.take(256).read_to_end(&mut head);
    }
    head
}

/// A script rather than a program for another machine: no NUL byte at its beginning.
pub(super) fn is_text(path: &Path) -> bool {
    !head(path).contains(&0)
}

/// The failure for a person.
pub(super) fn words(failed: &Failed, launch: &Launch<'_>, search: &[CString]) -> String {
    let why = reason(&failed.error);
    let code = failed.error.raw_os_error();
    match failed.step {
        Step::Arguments => "an argument, a variable or the folder has a NUL byte in it".into(),
        Step::Streams | Step::Descriptors => match none_left(&failed.error) {
            Some(text) => text.into(),
            None => format!("no pipes for its output: {why}"),
        },
        Step::Process => match code {
            Some(libc::EAGAIN) => "too many processes (see \"ulimit -u\")".into(),
            _ => format!("no new process: {why}"),
        },
        Step::Cgroup => format!("its cgroup can't be entered: {why}"),
        Step::Terminal => format!("no terminal of its own: {why}"),
        Step::Nice => match launch.nice {
            Some(nice) => format!("nice = {nice} may not be set: {why}"),
            None => why,
        },
        Step::OomScore => match launch.oom_score_adj {
            Some(score) => format!("oom_score_adj = {score} may not be set: {why}"),
            None => why,
        },
        Step::User => match launch.user {
            Some(user) => format!(
                "cannot become user {} and group {}: {why}",
                user.uid, user.gid
            ),
            None => why,
        },
        Step::Session => format!("no session of its own: {why}"),
        Step::Folder => match code {
            Some(libc::ENOENT) => format!("no such folder: {:?}", launch.cwd),
            Some(libc::ENOTDIR) => format!("not a folder: {:?}", launch.cwd),
            _ => format!("cannot enter the folder {:?}: {why}", launch.cwd),
        },
        Step::Limits => [
            ("nofile", Resource::RLIMIT_NOFILE, launch.nofile),
            ("core", Resource::RLIMIT_CORE, launch.core),
        ]
        .into_iter()
        .find_map(|(name, what, wanted)| above_hard(name, what, wanted?))
        .unwrap_or_else(|| format!("its limits can't be set: {why}")),
        Step::Program => program_words(code, &why, failed.candidate, launch, search),
    }
}

fn above_hard(name: &str, what: Resource, wanted: u64) -> Option<String> {
    let (_, hard) = getrlimit(what).ok()?;
    (wanted > hard).then(|| format!("the limit {name} = {wanted} is above the hard limit {hard}"))
}

fn program_words(
    code: Option<i32>,
    why: &str,
    candidate: usize,
    launch: &Launch<'_>,
    search: &[CString],
) -> String {
    let shown = launch.program;
    let tried = search.get(candidate).map(|c| path(c));
    let file = launch.cwd.join(tried.unwrap_or(Path::new(shown)));
    match code {
        Some(libc::ENOENT | libc::ENOTDIR) => missing(launch, search),
        Some(libc::EACCES) => match std::fs::metadata(&file) {
            Ok(m) if m.is_dir() => format!("a folder, not a program: {shown:?}"),
            Ok(m) if m.permissions().mode() & 0o111 == 0 => {
                format!("not executable: {file:?} (see \"chmod +x\")")
            }
            _ => match interpreter(&file) {
                Some(name) => format!("{file:?}, or its interpreter {name:?}: {why}"),
                None => format!("may not execute {file:?}: {why}"),
            },
        },
        Some(libc::ENOEXEC) => format!("not a program for this machine: {file:?}"),
        Some(libc::ETXTBSY) => format!("somebody is still writing to {file:?}"),
        Some(libc::E2BIG) => "arguments and environment are too long together".into(),
        _ => format!("cannot execute {file:?}: {why}"),
    }
}

/// Words for ENOENT, which is said of the program, of its interpreter and of its loader alike.
fn missing(launch: &Launch<'_>, search: &[CString]) -> String {
    let shown = launch.program;
    let there = search
        .iter()
        .map(|c| launch.cwd.join(path(c)))
        .find(|p| p.is_file());
    if let Some(file) = there {
        return match interpreter(&file) {
            Some(name) => format!("{file:?} wants the interpreter {name:?}, which does not exist"),
            None => format!("{file:?} wants a loader that does not exist here"),
        };
    }
    if shown.is_empty() {
        return "the name of the program is empty".into();
    }
    if shown.as_bytes().contains(&b'/') {
        return match Path::new(shown).is_absolute() {
            true => format!("no such file: {shown:?}"),
            false => format!("no such file: {shown:?} in {}", launch.cwd.display()),
        };
    }
    match launch.cwd.join(shown).is_file() {
        true => {
            let here = Path::new(".").join(shown);
            format!("no such command in PATH: {shown:?}; did you mean {here:?}?")
        }
        false => format!("no such command in PATH: {shown:?}"),
    }
}

/// The interpreter that the first line of a script names.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let head = head(script);
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    // As the kernel splits it: the line end of a file from Windows belongs to the name, and {:?} shows it.
    let name = line.split(|b| b" \t".contains(b)).find(|w| !w.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}
