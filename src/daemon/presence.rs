//! The files that make this bpm the only one of its project and by which it is found: lock, socket and descriptor.
//! Somebody who removes them, by name or with their folder, must not make room for a second bpm beside this one.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::listen;
use super::lock::Locks;
use super::log::DaemonLog;
use super::project::Project;
use crate::base::clock::Mono;
use crate::base::error::{Error, Result, reason};
use crate::base::json::object;
use crate::base::logger::{Level, Logger};
use crate::base::paths::ProjectDir;
use crate::base::saved::Saved;
use crate::client::verdict::Descriptor;
use crate::engine::handover::Handover;
use crate::engine::supervisor::{Presence, PresenceState, Trouble};
use crate::log::passthrough::{Passthrough, Pause};
use crate::os::files;
use crate::os::inotify::PathWatch;
use crate::os::lock::Lock;
use crate::server::net::{Control, Standstill};

/// A repaired file may be removed again; it is repaired this often at once, and then at its event.
const TURNS: usize = 16;

/// Holds the locks. Dropped, it removes what others find us by, and releases them.
pub(super) struct ProjectPresence<'a> {
    dir: &'a ProjectDir,
    descriptor: &'a Descriptor,
    log: Arc<DaemonLog>,
    control: Control,
    locks: Locks,
    /// Device and inode of our socket.
    socket: Option<(u64, u64)>,
    watch: Option<PathWatch>,
    /// Another bpm holds the lock: all that is there is its own.
    displaced: bool,
    trouble: Option<Trouble>,
    root: &'a Path,
    foreground: bool,
    passthrough: Option<&'a Passthrough>,
    /// The parts that stand still for an upgrade.
    standstill: Option<(Standstill, Option<Pause>)>,
}

impl<'a> ProjectPresence<'a> {
    /// Writes the descriptor, if there is room for it: from here on others can find us.
    ///
    /// # Errors
    /// Another bpm has the project.
    pub(super) fn new(
        project: &'a Project,
        descriptor: &'a Descriptor,
        log: Arc<DaemonLog>,
        control: Control,
        locks: Locks,
        watch: Option<PathWatch>,
    ) -> Result<Self> {
        let dir = &project.dir;
        let mut presence = Self {
            dir,
            root: &project.root,
            foreground: false,
            passthrough: None,
            standstill: None,
            descriptor,
            log,
            control,
            locks,
            socket: file_id(&descriptor.socket),
            watch: None,
            displaced: false,
            trouble: None,
        };
        // Where there is no room for it, that is tried again and again.
        let _ = presence.describe();
        if presence.repair(watch) == PresenceState::Displaced {
            return Err(Error::cannot(
                "start",
                "bpm's folder was removed, and another bpm has been started",
            ));
        }
        if presence.watch.is_none() {
            let text = "inotify is not available (see fs.inotify.max_user_instances and max_user_watches): \
                        removal of bpm's files will not be noticed";
            presence.log.write(Level::Warn, "daemon", text);
        }
        Ok(presence)
    }

    /// Further state that goes over an upgrade in place.
    pub(super) fn carries(&mut self, foreground: bool, passthrough: Option<&'a Passthrough>) {
        self.foreground = foreground;
        self.passthrough = passthrough;
    }

    /// Makes again what is missing. `before`: the watch of the program before.
    fn repair(&mut self, mut before: Option<PathWatch>) -> PresenceState {
        let places = [
            self.dir.lock(),
            self.dir.descriptor(),
            self.descriptor.socket.clone(),
        ];
        let mut repaired = Vec::new();
        let trouble = self.trouble.take();
        for _ in 0..TURNS {
            // The watch begins before the look, so that a change in between is not missed.
            self.watch = PathWatch::of_places(&places, before.take());
            match self.repair_one() {
                Ok(None) => break,
                Ok(Some(what)) => repaired.push(what),
                Err(e) => {
                    let text = format!("bpm's files can't be made: {e}");
                    if trouble.as_ref().is_none_or(|t| t.text != text) {
                        self.log.write(Level::Error, "daemon", &text);
                    }
                    // Without the descriptor, the socket and the lock tell all there is to know.
                    let can_be_found = self.is_reached();
                    self.trouble = Some(Trouble { text, can_be_found });
                    break;
                }
            }
            if self.displaced {
                let text = "bpm's files were removed, and another bpm has taken this one's place: stopping";
                self.log.write(Level::Error, "daemon", text);
                return PresenceState::Displaced;
            }
        }
        if repaired.is_empty() {
            return PresenceState::Same;
        }
        let (what, dir) = (repaired.join(", "), self.dir.path().display());
        let text = match trouble {
            Some(_) => format!("{what} in {dir} could be made again"),
            None => format!("somebody removed {what} in {dir}: made again"),
        };
        self.log.write(Level::Warn, "daemon", &text);
        PresenceState::Repaired
    }

    /// Lock and socket are where others look for them.
    fn is_reached(&self) -> bool {
        let socket = file_id(&self.descriptor.socket);
        self.locks.state.is_at(&self.dir.lock()) && socket.is_some() && socket == self.socket
    }

    /// Makes the first thing that is missing, and names it.
    fn repair_one(&mut self) -> Result<Option<&'static str>> {
        let dir = self.dir.path();
        let cannot = |path: &Path, e| Error::file("make", path, e);
        let lock = self.dir.lock();
        if !self.locks.state.is_at(&lock) {
            files::private_dir(dir).map_err(|e| cannot(dir, e))?;
            match Lock::take(&lock).map_err(|e| cannot(&lock, e))? {
                Some(lock) => self.locks.state = lock,
                // A bpm that has just been started made it. It finds the folder locked, and leaves.
                None if self.locks.folder.is_some() => {
                    fs::remove_file(&lock).map_err(|e| cannot(&lock, e))?;
                }
                None => self.displaced = true,
            }
            return Ok(Some("daemon.lock"));
        }
        let socket = &self.descriptor.socket;
        if self.socket.is_none() || file_id(socket) != self.socket {
            self.control.replace_unix(listen::unix(self.dir, socket)?);
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
    fn hand_over(&mut self, to: &mut Handover) -> std::result::Result<Mono, String> {
        let said = |e: std::io::Error| reason(&e);
        let mut passes = None;
        let mut pause = None;
        if let Some(passthrough) = self.passthrough {
            // A terminal that does not read: what waits for it is written by the next program.
            let paused = passthrough.pause().map_err(said)?;
            let (cursors, paused) = paused.ok_or("standard output takes nothing")?;
            passes = Some(cursors);
            pause = Some(paused);
        }
        let Some((mut net, standstill)) = self.control.freeze().map_err(said)? else {
            return Err("the server does not come to a standstill".into());
        };
        self.standstill = Some((standstill, pause));
        // The execve would close it, and close(2) of an inotify instance waits for work of the kernel: 10 to 20 ms on a
        // machine that is busy.
        if let Some(watch) = self.fd() {
            to.keep("places", watch);
        }
        to.keep("lock", &self.locks.state);
        if let Some(folder) = &self.locks.folder {
            to.keep("folder lock", folder);
        }
        for (name, fd) in net.fds {
            to.keep_number(name, fd);
        }
        let behind = to.bytes.len();
        net.conns.iter_mut().for_each(|conn| conn.move_by(behind));
        to.put(
            "daemon",
            &object([
                ("root", self.root.to_path_buf().save()),
                ("dir", self.dir.path().to_path_buf().save()),
                ("foreground", self.foreground.save()),
                ("passes", passes.save()),
                ("connections", net.conns.save()),
            ]),
        );
        to.bytes.append(&mut net.bytes);
        Ok(net.since)
    }

    fn thaw(&mut self) {
        self.standstill = None;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().and_then(PathWatch::notify_socket)
    }

    fn check(&mut self, anyway: bool) -> PresenceState {
        let changed = self.watch.as_ref().is_some_and(PathWatch::take);
        match self.displaced || !changed && !anyway {
            true => PresenceState::Same,
            // A new watch: the old one tells of folders that were moved away, too.
            false => self.repair(None),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble.clone()
    }
}

impl Drop for ProjectPresence<'_> {
    fn drop(&mut self) {
        if !self.displaced {
            clear(self.dir, Some(self.descriptor));
        }
    }
}

/// Removes what a daemon is found by. For who holds the lock, or knows that nobody does.
pub(super) fn clear(dir: &ProjectDir, descriptor: Option<&Descriptor>) {
    let _ = fs::remove_file(dir.descriptor());
    let Some(descriptor) = descriptor else { return };
    let _ = fs::remove_file(&descriptor.socket);
    // A short folder was made for the socket alone.
    if let Some(folder) = descriptor.socket.parent().filter(|f| *f != dir.path()) {
        let _ = fs::remove_dir(folder);
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|file| (file.dev(), file.ino()))
}
