//! Descriptors: which ones a daemon begins with, and how they are set.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::files;

/// Closes every descriptor above 2: what a caller left open is not held for the daemon's life.
///
/// To be called first thing at a fresh start, before anything of ours is open, and never after a
/// re-exec, which has descriptors that must stay.
pub fn close_inherited() {
    close_inherited_from(3);
}

/// The same above the descriptors that a service manager has handed on, which become CLOEXEC: 3 and on, this many
/// (sd_listen_fds(3)).
pub fn keep_inherited(count: u16) {
    let first = 3 + RawFd::from(count);
    for fd in 3..first {
        // SAFETY: touches no memory.
        let is_open = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        if !is_open && let Ok(nothing) = nothing() {
            // Or it would become one of ours, and be taken for what was handed on.
            // SAFETY: touches no memory; nobody owns this number.
            unsafe { libc::dup3(nothing.as_raw_fd(), fd, libc::O_CLOEXEC) };
            if nothing.as_raw_fd() == fd {
                std::mem::forget(nothing);
            }
        }
    }
    close_inherited_from(first);
}

/// Takes a descriptor that [`keep_inherited`] has kept, once. None: it is not open.
pub fn inherited(number: u16) -> Option<OwnedFd> {
    let fd = 3 + RawFd::from(number);
    // SAFETY: touches no memory.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    // SAFETY: it is open and nobody else's, as the caller promises.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn close_inherited_from(first: RawFd) {
    // SAFETY: touches no memory. Nobody owns a descriptor from there on yet, as the caller promises.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, 0_u32) };
    if closed == 0 {
        return;
    }
    // Linux before 5.9 has no close_range(2). The folder's own descriptor is among the names and
    // closed by then: EBADF, and no harm, as there is one thread.
    for fd in open().into_iter().filter(|fd| *fd >= first) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// The descriptors above 2 of this process.
pub(super) fn open() -> Vec<RawFd> {
    files::entries("/proc/self/fd")
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect()
}

/// Opens for reading the pipe that a process has as that descriptor, if it is the one with that inode. Does not block.
///
/// # Errors
/// It is another file now; the process may not be looked into, or has ended.
pub fn pipe_of(pid: i32, number: i32, inode: u64) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{number}");
    // Looked at before it is opened: to open a device may do something.
    if std::fs::read_link(&path)?.as_os_str() != format!("pipe:[{inode}]").as_str() {
        return Err(io::Error::other("it goes elsewhere now"));
    }
    let pipe = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    match pipe.metadata()?.ino() == inode {
        true => Ok(pipe.into()),
        false => Err(io::Error::other("it goes elsewhere now")),
    }
}

/// The inode of an open file; of a socket, the number by which `/proc` names it.
pub fn inode(fd: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// A limit of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nofile {
    /// In force.
    pub soft: u64,
    /// Upper bound of the soft one.
    pub hard: u64,
}

/// Makes room in our table for so many descriptors. To be called before there are threads: a table that grows beside
/// them holds the caller up for some 10 ms, each time it doubles, until the kernel is sure that none of them reads the
/// old one (`synchronize_rcu`).
pub fn make_room(count: usize) {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let highest = most.min(count as u64).saturating_sub(1);
    let highest = i32::try_from(highest).unwrap_or(i32::MAX);
    // Refused: it grows later then.
    if let Ok(fd) = fcntl(io::stdin(), FcntlArg::F_DUPFD_CLOEXEC(highest)) {
        // SAFETY: just made, and nobody else's.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Raises our limit of open files to the hard one, and returns what it was: children get the
/// original, since programs that use select(2) break above 1,024.
pub fn raise_nofile() -> io::Result<Nofile> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(Nofile { soft, hard })
}

/// Whether reading and writing return at once. A property of the open file: everybody who has it
/// sees the change.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    let fd = fd.as_fd();
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Standard input becomes the null device.
pub fn null_stdin() -> io::Result<()> {
    onto(nothing()?.as_fd(), 0)
}

/// An input that is at its end from the first read on: the null device, or, in a root that was made by hand and has
/// none, a pipe that nobody writes to.
pub fn nothing() -> io::Result<OwnedFd> {
    match File::open("/dev/null") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => nobodys_pipe(),
        opened => Ok(opened?.into()),
    }
}

fn nobodys_pipe() -> io::Result<OwnedFd> {
    let (read, _write) = io::pipe()?;
    Ok(read.into())
}

/// Standard input becomes the null device; standard output and error become `log`.
pub fn redirect_streams(log: BorrowedFd<'_>) -> io::Result<()> {
    null_stdin()?;
    onto(log, 1)?;
    onto(log, 2)
}

/// `to`, one of the three standard streams, becomes what `from` is.
fn onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: touches no memory; 0, 1 and 2 are nobody's OwnedFd.
    Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) })?;
    Ok(())
}

/// The failure of a call that opens something, where no descriptor is left; None: it failed for something else.
pub(super) fn none_left(e: &io::Error) -> Option<&'static str> {
    match e.raw_os_error() {
        Some(libc::EMFILE) => Some("bpm has too many files open (see \"ulimit -n\")"),
        Some(libc::ENFILE) => Some("the system has too many files open"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, alone, inheritable};
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn room_is_made_once() {
        alone("os::fds::tests::room_is_made_once", || {
            let size = || {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
                line.unwrap().trim().parse::<usize>().unwrap()
            };
            raise_nofile().unwrap();
            let (wanted, open_before) = (2 * size(), open().len());
            make_room(wanted);
            assert!(size() >= wanted, "{} of {wanted}", size());
            assert_eq!(open().len(), open_before);
        });
    }

    #[test]
    fn what_was_inherited_is_closed() {
        alone("os::fds::tests::what_was_inherited_is_closed", || {
            let stray = File::open("/dev/null").unwrap().into_raw_fd();
            inheritable(unsafe { BorrowedFd::borrow_raw(stray) });
            close_inherited();
            let folder_itself = 1;
            assert_eq!(open().len(), folder_itself);
        });
    }

    #[test]
    fn the_limit_is_raised_and_the_original_told() {
        alone(
            "os::fds::tests::the_limit_is_raised_and_the_original_told",
            || {
                let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
                setrlimit(Resource::RLIMIT_NOFILE, 200, hard).unwrap();
                assert_eq!(raise_nofile().unwrap(), Nofile { soft: 200, hard });
                assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
            },
        );
    }

    #[test]
    fn flags_are_set_and_cleared() {
        let (read, _write) = std::io::pipe().unwrap();
        for on in [true, false] {
            set_nonblocking(&read, on).unwrap();
            let flags = OFlag::from_bits_retain(fcntl(&read, FcntlArg::F_GETFL).unwrap());
            assert_eq!(flags.contains(OFlag::O_NONBLOCK), on);
        }
    }

    #[test]
    fn nothing_is_at_its_end() {
        for nothing in [nothing().unwrap(), nobodys_pipe().unwrap()] {
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut File::from(nothing), &mut text).unwrap();
            assert!(text.is_empty());
        }
    }

    #[test]
    fn streams_go_to_the_log() {
        alone("os::fds::tests::streams_go_to_the_log", || {
            let folder = Folder::new("streams");
            let kept = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
            let log = File::create(folder.join("log")).unwrap();
            redirect_streams(log.as_fd()).unwrap();
            nix::unistd::write(std::io::stdout(), b"one ").unwrap();
            nix::unistd::write(std::io::stderr(), b"two").unwrap();
            let end = std::io::Read::read(&mut std::io::stdin(), &mut [0; 8]).unwrap();
            // For libtest's own words.
            onto(kept.as_fd(), 1).unwrap();
            assert_eq!(std::fs::read(folder.join("log")).unwrap(), b"one two");
            assert_eq!(end, 0);
        });
    }
}
