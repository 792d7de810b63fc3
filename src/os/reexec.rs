//! Executing another program in this very process, and coming back as it: the pid, the children, the signals that wait,
//! and the descriptors that are named stay.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::fds::open;
use super::reap::Masked;

// SAFETY: libc has this variable, of this type.
unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Executes an open file with our environment. `keep` are the descriptors that stay open. Signals wait until the new
/// program lets them in ([`super::reap::Signals::new`]): one that came before it has its handlers would end it.
///
/// Returns only where that fails, with everything as it was; nothing of ours has run meanwhile.
pub fn execute(image: &File, args: &[OsString], keep: &[RawFd]) -> io::Error {
    let args: Result<Vec<CString>, _> = args
        .iter()
        .map(|arg| CString::new(arg.as_bytes()))
        .collect();
    let Ok(args) = args else {
        return io::ErrorKind::InvalidInput.into();
    };
    let argv: Vec<*const c_char> = args
        .iter()
        .map(|arg| arg.as_ptr())
        .chain([ptr::null()])
        .collect();
    let masked = Masked::all();
    let failed = inherit(keep, true).and_then(|()| {
        // SAFETY: both lists end with a null pointer; `environ` is the environment that we were started with, which
        // nobody changes. A success does not return.
        let result = unsafe {
            libc::syscall(
                libc::SYS_execveat,
                image.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                environ,
                libc::AT_EMPTY_PATH,
            )
        };
        Errno::result(result).map(drop).map_err(io::Error::from)
    });
    let _ = inherit(keep, false);
    drop(masked);
    failed.err().unwrap_or_else(|| io::ErrorKind::Other.into())
}

fn inherit(fds: &[RawFd], on: bool) -> io::Result<()> {
    let flags = match on {
        true => FdFlag::empty(),
        false => FdFlag::FD_CLOEXEC,
    };
    for fd in fds {
        // SAFETY: only its flags are changed; one that is not open is an error.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl(fd, FcntlArg::F_SETFD(flags))?;
    }
    Ok(())
}

/// A file in memory with these bytes.
///
/// # Errors
/// No memory or no descriptor to be had.
pub fn memory(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// The descriptors above 2 that an earlier program of this process left open. All of them are closed at the next
/// execve; those that nobody takes are closed when this is dropped.
#[derive(Debug)]
pub struct Inherited {
    fds: Vec<Option<OwnedFd>>,
}

impl Inherited {
    /// To be called first thing, before anything of ours is open.
    pub fn take() -> Self {
        let fds = open().into_iter().filter_map(|fd| {
            // SAFETY: nobody owns a descriptor above 2 yet, as the caller promises. That of the folder that was read
            // is closed by now.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            // SAFETY: open, as was just seen, and nobody else's.
            Some(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        });
        Self { fds: fds.collect() }
    }

    /// The one of that number, once.
    pub fn get(&mut self, number: RawFd) -> Option<OwnedFd> {
        let is = |fd: &&mut Option<OwnedFd>| fd.as_ref().is_some_and(|fd| fd.as_raw_fd() == number);
        self.fds.iter_mut().find(is)?.take()
    }
}

/// The number of a descriptor, for who takes it over.
pub fn number(fd: impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

/// Our name in lists of processes: an open file that is executed has none.
pub fn rename_ourselves(name: &std::ffi::CStr) {
    let _ = nix::sys::prctl::set_name(name);
}
