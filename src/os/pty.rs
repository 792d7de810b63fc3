//! Pseudoterminals for processes with `tty = true` (pty(7), ioctl_tty(2)).
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::fds::set_nonblocking;

/// Columns and rows of every terminal.
pub const SIZE: (u16, u16) = (120, 40);

/// Both sides of a terminal.
#[derive(Debug)]
pub struct Pty {
    /// bpm's side: non-blocking, CLOEXEC. At the end of the other side a read fails with EIO.
    pub master: OwnedFd,
    /// The process's side: CLOEXEC, and nobody's controlling terminal yet.
    pub terminal: OwnedFd,
}

impl Pty {
    /// A new terminal that echoes nothing and passes newlines on as they are, so that the log holds just what the
    /// process writes.
    ///
    /// # Errors
    /// ENOSPC where there are too many (`kernel.pty.max`); ENOENT without /dev/ptmx.
    pub fn open() -> io::Result<Self> {
        // SAFETY: takes flags alone.
        let master = Errno::result(unsafe {
            libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
        })?;
        // SAFETY: just opened, and nobody else's.
        let master = unsafe { OwnedFd::from_raw_fd(master) };
        let unlocked: libc::c_int = 0;
        // SAFETY: reads an int.
        Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })?;
        let terminal = other_side(&master)?;
        quiet(&terminal)?;
        let size = libc::winsize {
            ws_row: SIZE.1,
            ws_col: SIZE.0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: reads `size`.
        Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
        set_nonblocking(&master, true)?;
        Ok(Self { master, terminal })
    }

    /// The terminal of a process by bpm's side of it, which somebody has kept.
    ///
    /// # Errors
    /// The process writes to something else; that is no such side; ENOENT: the process has ended.
    pub fn again(master: OwnedFd, pid: i32) -> io::Result<Self> {
        let terminal = other_side(&master)?;
        let ours = fstat(&terminal)?;
        let theirs = fs::metadata(format!("/proc/{pid}/fd/1"))?;
        if (ours.st_dev, ours.st_ino) != (theirs.dev(), theirs.ino()) {
            return Err(io::Error::other("its output goes elsewhere now"));
        }
        set_nonblocking(&master, true)?;
        Ok(Self { master, terminal })
    }
}

/// The process's side of a terminal, by the master and not by name: /dev/pts may be another mount's (Linux 4.13).
fn other_side(master: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes flags, returns a descriptor.
    let terminal =
        Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(terminal) })
}

/// Takes ECHO and ONLCR away.
fn quiet(terminal: &OwnedFd) -> io::Result<()> {
    // SAFETY: a termios of zeros is valid, and is filled in.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: writes `settings`.
    Errno::result(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut settings) })?;
    settings.c_lflag &= !(libc::ECHO | libc::ECHONL);
    settings.c_oflag &= !libc::ONLCR;
    // SAFETY: reads `settings`.
    Errno::result(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &settings) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_come_as_they_were_written_and_end_with_eio() {
        let Pty { master, terminal } = Pty::open().unwrap();
        let mut master = File::from(master);
        let mut terminal = File::from(terminal);
        terminal.write_all(b"one\ntwo\x1b[1m").unwrap();
        let mut got = [0; 64];
        let n = master.read(&mut got).unwrap();
        assert_eq!(&got[..n], b"one\ntwo\x1b[1m");
        let e = master.read(&mut got).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        drop(terminal);
        let e = master.read(&mut got).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EIO));
    }
}
