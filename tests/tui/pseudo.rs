//! A terminal that only counts: what is written to it, and when.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

use crate::common::{PATIENCE, Project};
use crate::emulator::Emulator;

/// A pseudo terminal with the terminal UI in it.
pub struct Pseudo {
    master: Option<File>,
    pub child: Child,
    pub begun: Instant,
    /// Everything that was read.
    pub seen: Vec<u8>,
    /// When the first bytes came.
    pub first: Option<Duration>,
    /// What is seen.
    pub screen: Emulator,
}

impl Pseudo {
    /// Runs it with these options in a terminal of that size.
    pub fn new(project: &Project, program: &str, args: &[&str], (w, h): (u16, u16)) -> Self {
        let size = Winsize {
            ws_row: h,
            ws_col: w,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        // None of ours may be held by a child: its end would never be seen.
        for fd in [&pty.master, &pty.slave] {
            fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).unwrap();
        }
        let flags = OFlag::from_bits_retain(fcntl(&pty.master, FcntlArg::F_GETFL).unwrap());
        fcntl(&pty.master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
        let end = |slave: &OwnedFd| Stdio::from(slave.try_clone().unwrap());
        let begun = Instant::now();
        // Its terminal is its controlling one, as a shell would have it.
        let child = command(project)
            .arg("-c")
            .arg(program)
            .args(args)
            .stdin(end(&pty.slave))
            .stdout(end(&pty.slave))
            .stderr(end(&pty.slave))
            .spawn()
            .unwrap();
        Self {
            master: Some(pty.master.into()),
            child,
            begun,
            seen: Vec::new(),
            first: None,
            screen: Emulator::new(w, h),
        }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        let mut master = self.master.as_ref().unwrap();
        master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads what comes within that time; how many bytes it was.
    pub fn read_for(&mut self, span: Duration) -> usize {
        let before = self.seen.len();
        let until = Instant::now() + span;
        while let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            if !self.read_once(left) {
                break;
            }
        }
        self.seen.len() - before
    }

    /// Reads until a text has been written since the last `mark`; how long after `since` that was.
    #[track_caller]
    pub fn read_until(&mut self, from: usize, text: &str, since: Instant) -> Duration {
        let until = Instant::now() + PATIENCE;
        // The last bytes and the end may come together.
        let mut goes_on = true;
        while memchr::memmem::find(&self.seen[from..], text.as_bytes()).is_none() {
            let tail = || String::from_utf8_lossy(&self.seen[from..]).into_owned();
            assert!(goes_on, "no {text:?} in {:?}", tail());
            let left = until.saturating_duration_since(Instant::now());
            goes_on = !left.is_zero() && self.read_once(left);
        }
        since.elapsed()
    }

    /// Reads until the screen is like that; how long after `since` that was.
    #[track_caller]
    pub fn sees(&mut self, since: Instant, fits: impl Fn(&str) -> bool) -> Duration {
        let until = Instant::now() + PATIENCE;
        let mut goes_on = true;
        while !fits(&self.screen.text()) {
            assert!(goes_on, "it shows:\n{}", self.screen.text());
            let left = until.saturating_duration_since(Instant::now());
            goes_on = !left.is_zero() && self.read_once(left);
        }
        since.elapsed()
    }

    /// Reads until the screen has that text.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        self.sees(Instant::now(), |screen| screen.contains(text));
    }

    /// Whether the terminal takes more of what is written to it.
    pub fn takes_more(&self) -> bool {
        let terminal = File::options()
            .write(true)
            .custom_flags((OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits())
            .open(format!("/proc/{}/fd/1", self.child.id()))
            .unwrap();
        let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    }

    /// Waits for bytes and takes them; false: there are no more.
    fn read_once(&mut self, within: Duration) -> bool {
        let mut master = self.master.as_ref().unwrap();
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within.as_micros().div_ceil(1_000)).unwrap();
        let _ = poll(&mut fds, timeout);
        let mut chunk = [0; 64 << 10];
        loop {
            match master.read(&mut chunk) {
                Ok(0) => return false,
                Ok(n) => {
                    self.first.get_or_insert(self.begun.elapsed());
                    self.screen.feed(&chunk[..n]);
                    self.seen.extend_from_slice(&chunk[..n]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                // The other end is closed.
                Err(_) => return false,
            }
        }
    }

    /// Where what comes next begins.
    pub fn mark(&self) -> usize {
        self.seen.len()
    }

    /// Waits for its end without reading: how long that takes, and its exit code.
    pub fn end_within(&mut self, patience: Duration) -> Option<(Duration, Option<i32>)> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some((begun.elapsed(), status.code()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Its resident memory in bytes.
    pub fn rss(&self) -> u64 {
        status(self.child.id(), "VmRSS:") * 1024
    }

    /// CPU time that it has used.
    pub fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }

    /// The terminal goes away.
    pub fn hang_up(&mut self) {
        self.master = None;
    }
}

impl Drop for Pseudo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(project: &Project) -> Command {
    let mut command = project.command("setsid");
    command
        .env("LANG", "C.UTF-8")
        .env("LC_ALL", "C.UTF-8")
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .env_remove("COLORTERM")
        .env_remove("SSH_CONNECTION");
    command
}

/// A number of /proc/PID/status.
pub fn status(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// CPU time of a process, to the tick of 10 ms.
pub fn cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = text.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<u64> = rest.split(' ').map(|f| f.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    Duration::from_millis(ticks * 10)
}

/// How often the threads of a process have gone to sleep by themselves: its wake-ups.
pub fn wakes(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ids = tasks.filter_map(|t| t.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.map(|tid| {
        let text =
            std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|l| l.trim().parse::<u64>().ok()).unwrap_or(0)
    })
    .sum()
}
