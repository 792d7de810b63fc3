//! The lock that makes a daemon the only one of its project: flock(2) on a file that stays.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How often a lock is tried while only probes stand in the way. A probe holds it for microseconds; one that was
/// stopped in between must not hold us up for ever.
const TRIES: usize = 10_000;

/// Held until it is dropped or the process is over.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, making the file if need be. None: somebody else has it. To be called after
    /// the last fork, since a copy of the process would have the lock too.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..TRIES {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            if exclusive(&file)? {
                // Somebody may have removed it between our opening and our locking: then it is a lock on nothing.
                if same(&file, path) {
                    return Ok(Some(Self { file }));
                }
            } else if !shared(&file)? {
                return Ok(None);
            }
            // Only a probe, which is over by now.
            std::thread::yield_now();
        }
        Err(io::Error::new(
            ErrorKind::WouldBlock,
            "somebody keeps looking at the lock",
        ))
    }

    /// Takes the lock of a folder that is there. None: somebody else has it. Where folders can't be locked (NFS) it is
    /// an error.
    pub fn folder(path: &Path) -> io::Result<Option<Self>> {
        let flags = libc::O_DIRECTORY;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let taken = exclusive(&file)?;
        Ok(taken.then_some(Self { file }))
    }

    /// One that this process has held since before an execve.
    pub fn inherited(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }

    /// Whether the locked file still has that name.
    pub fn is_at(&self, path: &Path) -> bool {
        same(&self.file, path)
    }

    /// Somebody holds the lock.
    pub fn probe(path: &Path) -> io::Result<bool> {
        // A FIFO in its place keeps nobody waiting.
        let flags = libc::O_NONBLOCK;
        match File::options().read(true).custom_flags(flags).open(path) {
            Ok(file) => Ok(!shared(&file)?),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The holder of the lock of that file or folder, as /proc/locks (proc(5)) has it. None: nobody, or one of another pid
/// namespace.
pub fn holder(path: &Path) -> Option<i32> {
    // It comes a page at a time, and misses a lock where others are let go between two pages.
    (0..10).find_map(|_| listed_holder(path))
}

fn listed_holder(path: &Path) -> Option<i32> {
    let file = std::fs::metadata(path).ok()?;
    let id = (file.dev(), file.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK ADVISORY WRITE 5663 fe:00:10010913 0 EOF
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, pid, inode) = (words.next()?, words.nth(2)?, words.next()?);
        let (device, number) = inode.rsplit_once(':')?;
        if kind != "FLOCK" || number.parse::<u64>().ok()? != id.1 {
            return None;
        }
        // The device there is not always the one of stat(2) (btrfs, overlayfs): its own descriptors tell, where they
        // are ours to see.
        let has = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(open) => open
                .flatten()
                .filter_map(|fd| std::fs::metadata(fd.path()).ok())
                .any(|f| (f.dev(), f.ino()) == id),
            Err(_) => device == format!("{:02x}:{:02x}", libc::major(id.0), libc::minor(id.0)),
        };
        pid.parse().ok().filter(|_| has)
    })
}

/// Locks until the last copy of the descriptor is closed. False: another process has it.
fn exclusive(file: &File) -> io::Result<bool> {
    taken(file.try_lock())
}

/// Whether nobody holds it, by holding it shared for a moment: probes do not see each other, and a process that takes
/// the lock tells a probe from a holder by doing the same.
fn shared(file: &File) -> io::Result<bool> {
    let free = taken(file.try_lock_shared())?;
    if free {
        file.unlock()?;
    }
    Ok(free)
}

fn taken(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn same(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::testing::{Folder, alone, shell};
    use super::*;

    #[test]
    fn one_has_it_until_it_lets_go() {
        alone("os::lock::tests::one_has_it_until_it_lets_go", || {
            let folder = Folder::new("lock");
            let path = folder.join("daemon.lock");
            assert!(!Lock::probe(&path).unwrap(), "no file");
            let lock = Lock::take(&path).unwrap().unwrap();
            assert!(Lock::probe(&path).unwrap());
            assert!(Lock::take(&path).unwrap().is_none());
            assert_eq!(holder(&path), Some(std::process::id().cast_signed()));
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            drop(lock);
            assert!(!Lock::probe(&path).unwrap());
            assert!(Lock::take(&path).unwrap().is_some());
        });
    }

    #[test]
    fn a_child_does_not_keep_it() {
        alone("os::lock::tests::a_child_does_not_keep_it", || {
            let folder = Folder::new("lock-child");
            let path = folder.join("daemon.lock");
            let lock = Lock::take(&path).unwrap().unwrap();
            let child = shell("exec sleep 60", &[]);
            drop(lock);
            assert!(Lock::take(&path).unwrap().is_some());
            super::super::group::signal_group(child.child.pid(), libc::SIGKILL);
            super::super::testing::ended(child.child.pid());
        });
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_not_taken_for_the_new_one() {
        let folder = Folder::new("lock-removed");
        let path = folder.join("daemon.lock");
        let first = Lock::take(&path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Lock::take(&path).unwrap().unwrap();
        assert!(!same(&first.file, &path));
        assert!(same(&second.file, &path));
    }

    #[test]
    fn of_many_at_once_one_takes_it_whoever_looks() {
        alone(
            "os::lock::tests::of_many_at_once_one_takes_it_whoever_looks",
            || {
                let folder = Folder::new("lock-race");
                for round in 0..50 {
                    let path = folder.join(&round.to_string());
                    let (go, stop) = (Barrier::new(6), AtomicBool::new(false));
                    std::thread::scope(|scope| {
                        for _ in 0..2 {
                            scope.spawn(|| {
                                go.wait();
                                while !stop.load(Ordering::Relaxed) {
                                    Lock::probe(&path).unwrap();
                                }
                            });
                        }
                        let take = || {
                            go.wait();
                            Lock::take(&path).unwrap()
                        };
                        let takers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
                        // Kept until all have tried.
                        let taken: Vec<_> = takers.into_iter().map(|t| t.join().unwrap()).collect();
                        stop.store(true, Ordering::Relaxed);
                        assert_eq!(taken.iter().flatten().count(), 1);
                    });
                }
            },
        );
    }
}
