//! For the tests of the hands: a folder of their own, waiting for a condition, and a process of
//! their own where a test changes what all threads share (reaping, signals, descriptors, forks).
#![allow(clippy::disallowed_methods)]

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::proc::{self, Proc};
use super::reap::{Death, reap_orphan};
use super::spawn::{Launch, Spawned, spawn};

/// A folder that is removed with the value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let unique = crate::base::clock::Mono::now().as_nanos();
        let path = std::env::temp_dir().join(format!("bpm-{name}-{}-{unique}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file with that text and mode.
    pub(super) fn file(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Looks until it is so; fails after a minute.
#[track_caller]
pub(super) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `body` in a process in which no other test runs: the test binary, told to run only the
/// test that calls this. Also for what must be closed when it is dropped: the children of other
/// tests have copies of all descriptors from their fork to their execve.
#[track_caller]
pub(super) fn alone(name: &str, body: impl FnOnce()) {
    const INSIDE: &str = "BPM_TEST_ALONE";
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return body();
    }
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name}, by itself: {text}");
    assert!(
        text.contains("1 passed"),
        "no test is called {name}: {text}"
    );
}

/// All processes below this one.
pub(super) fn descendants() -> Vec<Proc> {
    proc::census(&[], &[]).into_iter().map(|s| s.proc).collect()
}

/// A descriptor that stays open over execve(2), as a careless library leaves one.
pub(super) fn inheritable(fd: impl AsFd) {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
}

/// PATH as ours, and these.
pub(super) fn env(more: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let path = std::env::var_os("PATH").unwrap();
    let more = more.iter().map(|(n, v)| (n.into(), v.into()));
    std::iter::once(("PATH".into(), path)).chain(more).collect()
}

/// `sh -c script` in a session of its own.
pub(super) fn shell(script: &str, more: &[(&str, &str)]) -> Spawned {
    let args = ["-c".into(), script.into()];
    let env = env(more);
    spawn(&Launch::new(OsStr::new("sh"), &args, &env, Path::new("/"))).unwrap()
}

/// All that comes out of a pipe until its end.
pub(super) fn text(pipe: OwnedFd) -> String {
    super::fds::set_nonblocking(&pipe, false).unwrap();
    let mut text = String::new();
    std::fs::File::from(pipe).read_to_string(&mut text).unwrap();
    text
}

/// The first line that comes out of a pipe.
pub(super) fn line(pipe: &OwnedFd) -> String {
    super::fds::set_nonblocking(pipe, false).unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while nix::unistd::read(pipe, &mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Waits for a child's end.
#[track_caller]
pub(super) fn ended(pid: i32) -> Death {
    eventually("the child has ended", || reap_orphan(pid))
}
