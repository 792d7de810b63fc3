//! The terminal of a full-screen program: a non-blocking descriptor of its own, raw mode, and programs that get it for
//! a while.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::poll::{Until, wait};
pub use super::screen::{Caught, Signals, die_by, size, suspend_ourselves};
use crate::base::clock::Mono;

/// The terminal that standard output is. Its modes are as they were found once it is dropped.
#[derive(Debug)]
pub struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    /// Opens it a second time: O_NONBLOCK belongs to the open file, which the shell shares with our
    /// standard streams and must find as it left it. None: standard output is no terminal.
    pub fn open() -> io::Result<Option<Self>> {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Ok(None);
        }
        let open = |path: &Path| {
            File::options()
                .read(true)
                .write(true)
                .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits())
                .open(path)
        };
        // The name may be one of another mount namespace: then it is our controlling terminal.
        let name = format!("/proc/self/fd/{}", stdout.as_raw_fd());
        let file = open(Path::new(&name)).or_else(|_| open(Path::new("/dev/tty")))?;
        let before = tcgetattr(&file)?;
        Ok(Some(Self { file, before }))
    }

    /// Bytes as they are typed, nothing echoed, no signals from keys.
    pub fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        // At once: to wait until all is written would be for ever where nobody reads.
        Ok(tcsetattr(&self.file, SetArg::TCSANOW, &raw)?)
    }

    /// The modes that it had when it was opened.
    pub fn make_sane(&self) {
        // It fails only where the terminal is gone.
        let _ = tcsetattr(&self.file, SetArg::TCSANOW, &self.before);
    }

    /// Columns and rows; (0, 0) where they are not known.
    pub fn size(&self) -> (u16, u16) {
        size(self.as_fd())
    }

    /// Appends what has been typed.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn read(&self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut chunk = [0; 1024];
        loop {
            match (&self.file).read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => into.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
            // More than anybody types: the rest waits, so that a paste holds nothing up.
            if into.len() >= 64 << 10 {
                return Ok(());
            }
        }
    }

    /// Writes as much as the terminal takes now, and says how much that was.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match (&self.file).write(&bytes[done..]) {
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Writes all of it, or what the terminal takes within that time.
    pub fn write_within(&self, mut bytes: &[u8], patience: Duration) {
        let until = Mono::now().after(patience);
        while !bytes.is_empty() {
            let Ok(n) = self.write(bytes) else { return };
            bytes = &bytes[n..];
            let left = until.since(Mono::now());
            if left.is_zero() || bytes.is_empty() {
                return;
            }
            if wait(&[(self.as_fd(), Until::Writable)], Some(left)).is_err() {
                return;
            }
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.make_sane();
    }
}

/// Runs a shell command with the terminal as its streams, `input` for its standard input where given, and
/// waits for its end. What it prints on standard error is seen on the terminal.
pub fn run_in_foreground(
    command: &str,
    args: &[&OsStr],
    folder: Option<&Path>,
    input: Option<&[u8]>,
) -> io::Result<bool> {
    let mut shell = shell(command, args);
    if let Some(folder) = folder {
        shell.current_dir(folder);
    }
    if input.is_some() {
        shell.stdin(Stdio::piped());
    }
    let mut child = shell.spawn()?;
    if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
        // A pager that is left before its end closes the pipe: that is no error.
        let _ = pipe.write_all(bytes);
    }
    Ok(child.wait()?.success())
}

#[allow(clippy::disallowed_methods)]
fn shell(command: &str, args: &[&OsStr]) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("{command} \"$@\""));
    shell.arg("sh").args(args);
    shell
}

/// A program that runs beside us and says on standard error what goes wrong.
#[derive(Debug)]
pub struct Helper {
    child: std::process::Child,
    said: Vec<u8>,
    pipe: OwnedFd,
}

impl Helper {
    /// Starts it.
    #[allow(clippy::disallowed_methods)]
    pub fn start(program: &Path, args: &[&OsStr]) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OwnedFd::from(theirs))
            .spawn()?;
        Ok(Self {
            child,
            said: Vec::new(),
            pipe: ours.into(),
        })
    }

    /// Whether it succeeded, and what it said; None: it still runs.
    pub fn ended(&mut self) -> Option<(bool, String)> {
        let mut chunk = [0; 1024];
        loop {
            match nix::unistd::read(&self.pipe, &mut chunk) {
                Ok(0) => break,
                // More than a screen of it is never shown.
                Ok(n) if self.said.len() < 16 << 10 => self.said.extend_from_slice(&chunk[..n]),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return None,
                Err(_) => break,
            }
        }
        // Its end of the pipe is closed: it has ended, or does so now.
        let good = self.child.wait().is_ok_and(|status| status.success());
        Some((good, String::from_utf8_lossy(&self.said).into_owned()))
    }
}

impl AsFd for Helper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
