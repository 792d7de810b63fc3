//! The files that make this bpm the only one of its project and by which it is found, kept where they
//! are: whoever removes them, by name or with the folder, must not make room for a second one beside it.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::log::DaemonLog;
use super::start::{clear, open_socket};
use crate::base::error::{Error, Result};
use crate::base::logger::{Level, Logger};
use crate::base::paths::ProjectDir;
use crate::client::connection::Descriptor;
use crate::engine::supervisor::{Presence, PresenceState};
use crate::os::files;
use crate::os::inotify::PathWatch;
use crate::os::lock::Lock;
use crate::server::net::Control;

/// Somebody may remove what was just made; more turns of this are taken when its event comes.
const TURNS: usize = 16;

/// Holds the lock. Dropped, it removes what others find us by, and lets go.
pub(super) struct ProjectPresence<'a> {
    dir: &'a ProjectDir,
    descriptor: &'a Descriptor,
    log: Arc<DaemonLog>,
    inlet: Control,
    lock: Lock,
    /// Which file our socket is.
    socket: Option<(u64, u64)>,
    watch: Option<PathWatch>,
    /// What was said last of what could not be mended.
    trouble: String,
    displaced: bool,
}

impl<'a> ProjectPresence<'a> {
    /// Writes the descriptor: from here on others can find us.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn new(
        dir: &'a ProjectDir,
        descriptor: &'a Descriptor,
        log: Arc<DaemonLog>,
        inlet: Control,
        lock: Lock,
    ) -> Result<Self> {
        let mut guard = Self {
            dir,
            descriptor,
            log,
            inlet,
            lock,
            socket: file_id(&descriptor.socket),
            watch: None,
            trouble: String::new(),
            displaced: false,
        };
        guard.describe()?;
        if guard.mend() == PresenceState::Displaced {
            return Err(Error::cannot(
                "start",
                "bpm's folder was removed meanwhile, and another bpm was quicker",
            ));
        }
        if guard.watch.is_none() {
            guard.log.write(
                Level::Warn,
                "daemon",
                "no inotify to be had (see fs.inotify.max_user_instances and max_user_watches): who removes the files of bpm is not noticed",
            );
        }
        Ok(guard)
    }

    /// Until all is there.
    fn mend(&mut self) -> PresenceState {
        let places = [
            self.dir.lock(),
            self.dir.descriptor(),
            self.descriptor.socket.clone(),
            self.dir.log(),
        ];
        let mut mended = Vec::new();
        for _ in 0..TURNS {
            // Watched first, looked at then.
            self.watch = PathWatch::of_places(&places);
            match self.turn() {
                Ok(None) => break,
                Ok(Some(what)) => mended.push(what),
                Err(e) => {
                    let text = format!("bpm's files are gone, and can't be made anew: {e}");
                    if text != self.trouble {
                        self.log.write(Level::Error, "daemon", &text);
                        self.trouble = text;
                    }
                    break;
                }
            }
            if self.displaced {
                let text = "bpm's files were removed, and another bpm has taken this one's place: stopping";
                self.log.write(Level::Error, "daemon", text);
                return PresenceState::Displaced;
            }
        }
        if mended.is_empty() {
            return PresenceState::Same;
        }
        self.trouble.clear();
        let what = mended.join(", ");
        let dir = self.dir.path().display();
        let text = format!("somebody removed {what} in {dir}: made anew");
        self.log.write(Level::Warn, "daemon", &text);
        PresenceState::Mended
    }

    /// Makes the first thing anew that is missing: what it was.
    fn turn(&mut self) -> Result<Option<&'static str>> {
        let dir = self.dir.path();
        let cannot = |path: &Path, e| Error::file("make", path, e);
        let lock = self.dir.lock();
        if !self.lock.is_at(&lock) {
            files::private_dir(dir).map_err(|e| cannot(dir, e))?;
            match Lock::take(&lock).map_err(|e| cannot(&lock, e))? {
                Some(lock) => self.lock = lock,
                None => self.displaced = true,
            }
            return Ok(Some("daemon.lock"));
        }
        let log = self.dir.log();
        if !log.exists() {
            self.log.reopen().map_err(|e| cannot(&log, e))?;
            return Ok(Some("daemon.log"));
        }
        let socket = &self.descriptor.socket;
        if self.socket.is_none() || file_id(socket) != self.socket {
            self.inlet.replace_unix(open_socket(self.dir, socket)?);
            self.socket = file_id(socket);
            return Ok(Some("daemon.sock"));
        }
        let there = Descriptor::read(&self.dir.descriptor());
        if there.as_ref() != Some(self.descriptor) {
            self.describe()?;
            return Ok(Some("daemon.json"));
        }
        Ok(None)
    }

    fn describe(&self) -> Result<()> {
        let path = self.dir.descriptor();
        let text = format!("{}\n", self.descriptor.to_json());
        files::write_atomic(&path, text.as_bytes(), 0o600)
            .map_err(|e| Error::file("write", &path, e))
    }
}

impl Presence for ProjectPresence<'_> {
    fn notify_socket(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().and_then(PathWatch::notify_socket)
    }

    fn look(&mut self) -> PresenceState {
        match self.displaced || !self.watch.as_ref().is_some_and(PathWatch::take) {
            true => PresenceState::Same,
            false => self.mend(),
        }
    }
}

impl Drop for ProjectPresence<'_> {
    fn drop(&mut self) {
        // What is there else is another's.
        if !self.displaced {
            clear(self.dir, Some(self.descriptor));
        }
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|file| (file.dev(), file.ino()))
}
