//! The size of the pipes that processes write to.
//!
//! A wide pipe keeps what a process writes at once: node, for one, throws away what does not fit when it calls
//! `process.exit`. But the kernel counts the pages of all pipes of a user, and gives tiny pipes to all programs
//! of one who is above `fs.pipe-user-pages-soft` (pipe(7)), so bpm takes at most a quarter of that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{SysconfVar, sysconf};

use crate::os::files;

/// Bytes of a pipe that nobody has changed.
pub(super) const NARROW: usize = 64 << 10;
pub const WIDE: usize = 1 << 20;
/// With either of them (21: SYS_ADMIN, 24: SYS_RESOURCE) pipes are not counted.
const UNCOUNTED: u64 = 1 << 21 | 1 << 24;

/// The pipes of all processes.
#[derive(Debug, Default)]
pub struct Pipes {
    /// Bytes that all may have together; None: they are not counted. Asked for with the first pipe,
    /// whose process has started by then.
    limit: OnceLock<Option<usize>>,
    held: AtomicUsize,
    /// Pipes that are open.
    open: AtomicUsize,
    /// Those of them that are narrow, since the limit is reached or the kernel refused more.
    narrow: AtomicUsize,
}

/// One of them, of which bpm has the reading end.
#[derive(Debug)]
pub(super) struct Pipe {
    fd: OwnedFd,
    size: usize,
    pipes: Arc<Pipes>,
}

impl Pipes {
    /// The number of open pipes, and that of those of them that could not be made wide.
    pub fn counts(&self) -> (usize, usize) {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        (count(&self.open), count(&self.narrow))
    }

    /// Makes a pipe wide if it may be. A refusal is no error.
    pub(super) fn add(self: &Arc<Self>, fd: OwnedFd) -> Pipe {
        let mut size = size(fd.as_fd()).unwrap_or(0);
        // A terminal is none.
        if size > 0 {
            let more = WIDE.saturating_sub(size);
            let held = self.held.fetch_add(size + more, Ordering::Relaxed) + size + more;
            let limit = self.limit.get_or_init(limit);
            let fits = limit.is_none_or(|limit| held <= limit);
            // One that an earlier bpm has widened stays as it is.
            let widen = || fcntl(&fd, FcntlArg::F_SETPIPE_SZ(WIDE as i32)).is_ok();
            if fits && (more == 0 || widen()) {
                size += more;
            } else {
                self.held.fetch_sub(more, Ordering::Relaxed);
                self.narrow.fetch_add(1, Ordering::Relaxed);
            }
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        Pipe {
            fd,
            size,
            pipes: Arc::clone(self),
        }
    }
}

impl Pipe {
    /// It is a terminal: a read gives 4 KiB at most, however much there is.
    pub(super) fn is_terminal(&self) -> bool {
        self.size == 0
    }

    /// The bytes that it can hold, about.
    pub(super) fn size(&self) -> usize {
        self.size.max(NARROW)
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.size > 0 {
            self.pipes.held.fetch_sub(self.size, Ordering::Relaxed);
            self.pipes.open.fetch_sub(1, Ordering::Relaxed);
            let narrow = usize::from(self.size < WIDE);
            self.pipes.narrow.fetch_sub(narrow, Ordering::Relaxed);
        }
    }
}

fn size(fd: BorrowedFd<'_>) -> Option<usize> {
    usize::try_from(fcntl(fd, FcntlArg::F_GETPIPE_SZ).ok()?).ok()
}

/// A quarter of the user's limit, in bytes. None: bpm's pipes are not counted.
pub fn limit() -> Option<usize> {
    let status = files::virtual_text("/proc/self/status").unwrap_or_default();
    let users = files::virtual_text("/proc/self/uid_map").unwrap_or_default();
    let pages = files::virtual_text("/proc/sys/fs/pipe-user-pages-soft").ok();
    let pages = pages.and_then(|pages| pages.trim().parse().ok());
    if is_uncounted(&status, &users) || pages == Some(0) {
        return None;
    }
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|size| usize::try_from(size).ok());
    Some(pages.unwrap_or(0_usize) / 4 * page.unwrap_or(4096))
}

/// One of the capabilities is effective, in the first user namespace.
fn is_uncounted(status: &str, users: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let first = users.split_whitespace().eq(["0", "0", "4294967295"]);
    first && effective.unwrap_or(0) & UNCOUNTED != 0
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;

    #[test]
    fn pipes_are_wide_within_the_limit() {
        let within = |limit| {
            let limit = OnceLock::from(Some(limit));
            Arc::new(Pipes {
                limit,
                ..Pipes::default()
            })
        };
        let pipes = within(2 * WIDE + NARROW);
        let make = || {
            let (reader, writer) = pipe().unwrap();
            (pipes.add(reader.into()), writer)
        };
        let all = [make(), make(), make(), make()];
        let wide = all.iter().filter(|(pipe, _)| pipe.size() == WIDE).count();
        assert_eq!(pipes.counts(), (4, 4 - wide));
        // This user may be above its limit already.
        assert!(wide <= 2);
        assert!(
            all.iter()
                .all(|(pipe, _)| size(pipe.as_fd()) == Some(pipe.size()))
        );
        let held = wide * WIDE + (4 - wide) * NARROW;
        assert_eq!(pipes.held.load(Ordering::Relaxed), held);
        drop(all);
        assert_eq!(
            (pipes.counts(), pipes.held.load(Ordering::Relaxed)),
            ((0, 0), 0)
        );
        let none = within(0);
        let (reader, _writer) = pipe().unwrap();
        assert_eq!(none.add(reader.into()).size(), NARROW);
    }

    #[test]
    fn only_real_privilege_is_uncounted() {
        let status = "Name:\tbpm\nCapEff:\t000001ffffffffff\n";
        let whole = "         0          0 4294967295\n";
        assert!(is_uncounted(status, whole));
        assert!(!is_uncounted(status, "0 1000 1\n"));
        assert!(!is_uncounted("CapEff:\t00000000a80425fb\n", whole));
        assert!(!is_uncounted("", whole));
    }
}
