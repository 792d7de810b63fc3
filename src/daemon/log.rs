//! bpm's own log: `daemon.log`, one line for each thing that somebody may want to know later.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Wall;
use crate::base::escape::escaped;
use crate::base::logger::{Level, Logger};
use crate::base::paths::ProjectDir;
use crate::os::copy::copy_private;
use crate::os::inbox::Inbox;
use crate::os::threads;
use crate::os::{fds, files, proc};

/// A log that is larger becomes `daemon.log.1`.
const LARGEST: u64 = 10 << 20;
/// Lines that wait for a terminal that does not read; more are left out there (the file has them).
const PATIENCE: usize = 256;

/// Where the lines go besides the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// A daemon: the file starts empty, and our standard streams are the file.
    Detached,
    /// In the foreground: appended to the file, and on standard error.
    Foreground,
    /// A daemon after an upgrade in place: the file and our standard streams are as they were.
    Resumed,
}

/// The log.
#[derive(Debug)]
pub(super) struct DaemonLog {
    inner: Mutex<Inner>,
    least: Level,
    echo: Option<Arc<Inbox<String>>>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    rotated: PathBuf,
}

impl DaemonLog {
    /// Opens it; to be called by who holds the project's lock. `Detached` redirects the standard streams.
    ///
    /// # Errors
    /// The file can't be opened.
    pub(super) fn open(dir: &ProjectDir, manner: Manner, least: Level) -> io::Result<Self> {
        let detached = manner == Manner::Detached;
        if detached {
            // A rename between two names of one file does nothing (rename(2)), and its lines would be written on.
            let _ = fs::remove_file(dir.log_rotated());
            match fs::rename(dir.log(), dir.log_rotated()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let file = files::open_append(&dir.log())?;
        if detached {
            fds::redirect_streams(file.as_fd())?;
        }
        Ok(Self {
            inner: Mutex::new(Inner {
                file,
                path: dir.log(),
                rotated: dir.log_rotated(),
            }),
            least,
            echo: match manner {
                Manner::Foreground => echo(),
                Manner::Detached | Manner::Resumed => None,
            },
        })
    }
}

impl DaemonLog {
    /// Processes' lines were written to its file (`passthrough = true`).
    pub(super) fn check_size(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.rotate_if_large();
    }
}

impl Drop for DaemonLog {
    fn drop(&mut self) {
        if let Some(echo) = &self.echo {
            echo.close();
        }
    }
}

impl Logger for DaemonLog {
    /// Writes `2026-11-21 02:46:50,123 [INFO] room: text`; each line of the text becomes one of its own.
    fn write(&self, level: Level, room: &str, text: &str) {
        if level < self.least {
            return;
        }
        let now = Wall::now();
        let stamp = now.log_stamp(proc::local_offset(now.0.div_euclid(1000)));
        let word = level.as_str();
        let mut lines = String::new();
        let text = escaped(text);
        for line in text.lines() {
            lines.push_str(&format!("{stamp} [{word}] {room}: {line}\n"));
        }
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(lines.as_bytes());
        if let Some(echo) = &self.echo {
            for line in text.lines() {
                // Full: nobody reads the terminal, and nobody is held up by that.
                let _ = echo.send(format!("bpm: {line}\n"));
            }
        }
    }
}

impl Inner {
    /// A disk that is full, or a folder that is gone, stops nobody: the line is lost.
    fn write(&mut self, bytes: &[u8]) {
        self.rotate_if_large();
        let _ = self.file.write_all(bytes);
    }

    /// Asked of the file: processes' lines may go to the same one (`passthrough = true`).
    fn rotate_if_large(&mut self) {
        if self.file.metadata().is_ok_and(|m| m.len() > LARGEST) {
            self.rotate();
        }
    }

    /// Copied and emptied rather than renamed: our standard streams, and copies of them, are this file.
    fn rotate(&mut self) {
        if copy_private(&self.path, &self.rotated).is_ok() {
            let _ = self.file.set_len(0);
        }
    }
}

/// A thread that writes to standard error, so that a terminal that is stopped (^S) or a pipe that is
/// full holds up this thread and no other. None: no thread to be had, and no echo.
fn echo() -> Option<Arc<Inbox<String>>> {
    let lines = Inbox::<String>::bounded(PATIENCE).ok()?;
    let inbox = Arc::clone(&lines);
    let work = move || {
        while let Some(line) = inbox.wait(Duration::MAX) {
            if io::stderr().write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    };
    threads::start("log-echo", Box::new(work)).ok()?;
    Some(lines)
}

/// `debug`, `info`, `warn`, `error`.
pub(super) fn level(word: &str) -> Option<Level> {
    [Level::Debug, Level::Info, Level::Warn, Level::Error]
        .into_iter()
        .find(|l| l.as_str().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> ProjectDir {
        let path = std::env::temp_dir().join(format!("bpm-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        ProjectDir::at(path)
    }

    #[test]
    fn lines_have_their_stamp_and_quiet_ones_are_left_out() {
        let dir = folder("lines");
        let log = DaemonLog::open(&dir, Manner::Foreground, Level::Info).unwrap();
        log.write(Level::Debug, "supervisor", "not this");
        log.write(Level::Info, "supervisor", "one\ntwo");
        log.write(Level::Error, "net", "three");
        let text = fs::read_to_string(dir.log()).unwrap();
        let ends: Vec<&str> = text.lines().map(|l| &l[23..]).collect();
        assert_eq!(
            ends,
            [
                " [INFO] supervisor: one",
                " [INFO] supervisor: two",
                " [ERROR] net: three"
            ]
        );
        assert_eq!(&text[19..20], ",");
        drop(log);
        // A foreground run appends.
        DaemonLog::open(&dir, Manner::Foreground, Level::Info)
            .unwrap()
            .write(Level::Warn, "net", "four");
        assert_eq!(fs::read_to_string(dir.log()).unwrap().lines().count(), 4);
        fs::remove_dir_all(dir.path()).unwrap();
    }

    #[test]
    fn a_large_log_is_rotated() {
        let dir = folder("large");
        let log = DaemonLog::open(&dir, Manner::Foreground, Level::Info).unwrap();
        File::options()
            .write(true)
            .open(dir.log())
            .unwrap()
            .set_len(LARGEST + 1)
            .unwrap();
        log.write(Level::Info, "supervisor", "fresh");
        assert!(fs::metadata(dir.log_rotated()).unwrap().len() > LARGEST);
        assert!(
            fs::read_to_string(dir.log())
                .unwrap()
                .ends_with("supervisor: fresh\n")
        );
        fs::remove_dir_all(dir.path()).unwrap();
    }

    #[test]
    fn levels_have_words() {
        assert_eq!(level("warn"), Some(Level::Warn));
        assert_eq!(level("loud"), None);
    }
}
