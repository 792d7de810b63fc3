//! Being told when something changes in a folder: what waits for another bpm to come or to go
//! neither polls nor sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::poll::readable;

/// A folder that is watched.
#[derive(Debug)]
pub struct Notice {
    inotify: Inotify,
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
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(folder, what | more)?;
        Ok(Self { inotify })
    }

    /// Waits for the next change; false: there was none in that time.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let [changed] = readable([Some(self.inotify.as_fd())], Some(timeout))?;
        // What it was does not matter: who waits looks again. EAGAIN: it was a signal that woke us.
        let _ = self.inotify.read_events();
        Ok(changed)
    }
}

/// Readable once something has changed.
impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
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
        assert!(!notice.wait(Duration::from_millis(1)).unwrap());
        std::fs::write(folder.join("new"), "x").unwrap();
        assert!(notice.wait(Duration::from_secs(10)).unwrap());
    }
}
