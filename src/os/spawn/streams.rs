//! The standard streams of a child.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::super::fds::{nothing, set_nonblocking};
use super::super::reap::Child;
use super::{Spawned, Stdin, errno};

/// Both sides of a child's three streams.
pub(super) struct Streams {
    input: OwnedFd,
    out: Pipe,
    err: Pipe,
}

pub(super) struct Pipe {
    ours: OwnedFd,
    childs: OwnedFd,
}

impl Pipe {
    pub(super) fn new() -> Result<Self, Errno> {
        let (ours, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&ours, true).map_err(errno)?;
        // Both directions for the child, see the module's text. Without /proc it gets one.
        let both = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", write.as_raw_fd()));
        Ok(Self {
            ours,
            childs: both.map_or(write, OwnedFd::from),
        })
    }
}

/// A pipe that the child holds both ends of.
fn endless() -> Result<OwnedFd, Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let both = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", read.as_raw_fd()));
    drop(write);
    both.map(OwnedFd::from).map_err(errno)
}

impl Streams {
    pub(super) fn open(stdin: Stdin) -> Result<Self, Errno> {
        Ok(Self {
            input: match stdin {
                Stdin::Null => nothing().map_err(errno)?,
                Stdin::Open => endless()?,
            },
            out: Pipe::new()?,
            err: Pipe::new()?,
        })
    }

    pub(super) fn child(&self) -> [BorrowedFd<'_>; 3] {
        [&self.input, &self.out.childs, &self.err.childs].map(AsFd::as_fd)
    }

    /// Closes the child's ends.
    pub(super) fn parent(self, child: Child) -> Spawned {
        Spawned {
            child,
            stdout: self.out.ours,
            stderr: self.err.ours,
        }
    }
}
