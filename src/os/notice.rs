//! Being told when something changes in a folder: what waits for another bpm to come or to go
//! neither polls nor sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::poll::{readable, readable_unless_gone, reader_gone};

/// A user has 128 inotify instances as a rule. Who gets none looks anew so often: two bpm that start at
/// once must both succeed, whatever else runs on the machine.
const BLIND: Duration = Duration::from_millis(50);

/// A folder that is watched.
#[derive(Debug)]
pub struct Notice {
    /// None: there was none to be had.
    inotify: Option<Inotify>,
}

impl Notice {
    /// Watches from now on: files that come and go, and files that somebody closes (a lock's holder
    /// that has ended). Look at the folder after this, not before.
    pub fn of(folder: &Path) -> io::Result<Self> {
        Self::with(folder, AddWatchFlags::empty())
    }

    /// The same, and files that are written.
    pub fn of_writes(folder: &Path) -> io::Result<Self> {
        Self::with(folder, AddWatchFlags::IN_MODIFY)
    }

    fn with(folder: &Path, more: AddWatchFlags) -> io::Result<Self> {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE
            | more;
        let watching = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .and_then(|inotify| inotify.add_watch(folder, what).map(|_| inotify));
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

    /// What the change was does not matter. EAGAIN: there was none, a signal woke us.
    fn forget(&self) {
        if let Some(inotify) = &self.inotify {
            let _ = inotify.read_events();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn a_change_ends_the_wait() {
        let folder = Folder::new("notice");
        let notice = Notice::of(&folder.join("")).unwrap();
        notice.wait(Duration::from_millis(1)).unwrap();
        std::fs::write(folder.join("new"), "x").unwrap();
        let begun = crate::clock::Mono::now();
        notice.wait(Duration::from_secs(100)).unwrap();
        assert!(crate::clock::Mono::now().since(begun) < Duration::from_secs(50));
    }

    #[test]
    fn without_inotify_it_looks_anew() {
        let notice = Notice { inotify: None };
        let begun = crate::clock::Mono::now();
        notice.wait(Duration::from_secs(100)).unwrap();
        assert!(crate::clock::Mono::now().since(begun) < Duration::from_secs(50));
        let (read, write) = std::io::pipe().unwrap();
        assert!(notice.wait_unless_gone(write.as_fd()).unwrap());
        drop(read);
        assert!(!notice.wait_unless_gone(write.as_fd()).unwrap());
    }
}
