//! Being told when something changes in a folder: what waits for another bpm to come or to go
//! neither polls nor sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, Inotify};

use super::{instance, open};
use crate::os::poll::{readable, readable_unless_gone, reader_gone};

/// A user has 128 inotify instances as a rule. Who gets none looks anew so often: two bpm that start at
/// once must both succeed, whatever else runs on the machine.
const BLIND: Duration = Duration::from_millis(50);

/// Tells that something changed in a folder, or to some files; not what.
#[derive(Debug)]
pub struct PathWatch {
    /// None: there was none to be had.
    inotify: Option<Inotify>,
}

impl PathWatch {
    /// Watches from now on: files that come and go, and files that somebody closes (a lock's holder
    /// that has ended). Look at the folder after this, not before.
    pub fn of(folder: &Path) -> io::Result<Self> {
        Self::with(folder, AddWatchFlags::empty())
    }

    /// The same, and files that are written.
    pub fn of_writes(folder: &Path) -> io::Result<Self> {
        Self::with(folder, AddWatchFlags::IN_MODIFY)
    }

    /// Watches whether these files are still where they are: one that is removed, replaced or changed, or any
    /// folder above it that goes. What comes and goes beside them is not told, but in the last folder that is
    /// there of a path that is not. Look at them after this, not before. `before`: a watch of the same places that
    /// goes on. None: no inotify to be had.
    pub fn of_places(files: &[PathBuf], before: Option<Self>) -> Option<Self> {
        let gone = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        // A file that is removed while somebody has it open is noticed by the number of its names alone.
        let file = gone | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CLOSE_WRITE;
        let comes =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
        let inotify = before.and_then(|watch| watch.inotify);
        let inotify = inotify.or_else(|| open().ok())?;
        for path in files {
            let mut there = inotify.add_watch(path, file).is_ok();
            for folder in path.ancestors().skip(1) {
                let what = if there { gone } else { gone | comes };
                // One that is watched already keeps what it is watched for.
                let what = what | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
                match inotify.add_watch(folder, what) {
                    Ok(_) => there = true,
                    Err(Errno::ENOSPC) => return None,
                    // Not there, or not ours to read: whoever may move it may do worse.
                    Err(_) => {}
                }
            }
        }
        Some(Self {
            inotify: Some(inotify),
        })
    }

    /// One that an earlier program of this process opened.
    pub fn inherited(fd: OwnedFd) -> Self {
        Self {
            inotify: Some(instance(fd)),
        }
    }

    fn with(folder: &Path, more: AddWatchFlags) -> io::Result<Self> {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE
            | more;
        let watching = open().and_then(|inotify| inotify.add_watch(folder, what).map(|_| inotify));
        match watching {
            Ok(inotify) => Ok(Self {
                inotify: Some(inotify),
            }),
            Err(Errno::EMFILE | Errno::ENOSPC) => Ok(Self { inotify: None }),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for the next change, at most so long. It may come back early: who waits looks again anyway.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let (fd, timeout) = match &self.inotify {
            Some(inotify) => (Some(inotify.as_fd()), timeout),
            None => (None, timeout.min(BLIND)),
        };
        readable([fd], Some(timeout))?;
        self.forget();
        Ok(())
    }

    /// Waits for the next change, likewise. False: who reads what we write to `output` has gone.
    pub fn wait_unless_gone(&self, output: BorrowedFd<'_>) -> io::Result<bool> {
        let there = match &self.inotify {
            Some(inotify) => readable_unless_gone(inotify.as_fd(), output)?,
            None => !reader_gone(output, BLIND)?,
        };
        self.forget();
        Ok(there)
    }

    /// To be waited for, where there is inotify.
    pub fn notify_socket(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Whether there was a change; what it was does not matter. EAGAIN: there was none, a signal woke us.
    pub fn take(&self) -> bool {
        self.inotify
            .as_ref()
            .is_some_and(|inotify| inotify.read_events().is_ok())
    }

    fn forget(&self) {
        let _ = self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::Folder;

    #[test]
    fn a_change_ends_the_wait() {
        let folder = Folder::new("path-watch");
        let watch = PathWatch::of(&folder.join("")).unwrap();
        watch.wait(Duration::from_millis(1)).unwrap();
        std::fs::write(folder.join("new"), "x").unwrap();
        let begun = crate::base::clock::Mono::now();
        watch.wait(Duration::from_secs(100)).unwrap();
        assert!(crate::base::clock::Mono::now().since(begun) < Duration::from_secs(50));
    }

    #[test]
    fn without_inotify_it_looks_anew() {
        let watch = PathWatch { inotify: None };
        let begun = crate::base::clock::Mono::now();
        watch.wait(Duration::from_secs(100)).unwrap();
        assert!(crate::base::clock::Mono::now().since(begun) < Duration::from_secs(50));
        let (read, write) = std::io::pipe().unwrap();
        assert!(watch.wait_unless_gone(write.as_fd()).unwrap());
        drop(read);
        assert!(!watch.wait_unless_gone(write.as_fd()).unwrap());
    }
}
