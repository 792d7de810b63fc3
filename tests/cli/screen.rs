//! `bpm status -w` on a terminal.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use bpm::os::pty::{Pty, SIZE};
use nix::libc::SIGINT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Project, bpm, eventually};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A command in a terminal of [`SIZE`], and what it has written.
struct Terminal {
    master: File,
    child: Child,
    seen: Vec<u8>,
}

impl Terminal {
    fn new(project: &Project, args: &[&str]) -> Self {
        let Pty { master, terminal } = Pty::open().unwrap();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = project.command(bpm());
        let command = command.args(args).stdin(end()).stdout(end()).stderr(end());
        Self {
            child: command.spawn().unwrap(),
            master: master.into(),
            seen: Vec::new(),
        }
    }

    /// All that was written, once it has that text.
    fn until(&mut self, text: &str) -> String {
        eventually(|| {
            let seen = self.read();
            seen.contains(text).then(|| seen.clone()).ok_or(seen)
        })
    }

    fn read(&mut self) -> String {
        let mut chunk = [0; 4_096];
        loop {
            match self.master.read(&mut chunk) {
                Ok(n @ 1..) => self.seen.extend_from_slice(&chunk[..n]),
                Ok(_) => break,
                Err(e) => {
                    let gone = e.raw_os_error() == Some(nix::libc::EIO);
                    assert!(gone || e.kind() == ErrorKind::WouldBlock, "{e}");
                    break;
                }
            }
        }
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

/// Without escape sequences.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut escape = false;
    for c in text.chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (true, c) => escape = !c.is_ascii_alphabetic(),
            (false, c) => out.push(c),
        }
    }
    out
}

#[test]
fn pictures_of_a_watched_status_fit_the_terminal() {
    let processes = usize::from(SIZE.1) + 5;
    let config: String = (0..processes)
        .map(|n| format!("[process.p{n}]\ncommand = [\"x\"]\nautostart = false\n"))
        .collect();
    let mut project = Project::new(&config);
    project.up();
    let mut terminal = Terminal::new(&project, &["status", "-w"]);
    let seen = terminal.until("\x1b[J");
    let (before, picture) = seen.split_once("\x1b[H").unwrap();
    assert!(before.contains(ENTER), "{before:?}");
    let picture = plain(picture.split("\x1b[J").next().unwrap());
    let lines: Vec<&str> = picture.lines().collect();
    assert_eq!(lines.len(), usize::from(SIZE.1), "{picture}");
    assert!(lines[0].starts_with("NAME"), "{picture}");
    assert!(lines.last().unwrap().contains("more lines"), "{picture}");
    let widest = lines.iter().map(|line| line.trim_end().chars().count());
    assert!(widest.max().unwrap() <= usize::from(SIZE.0), "{picture}");

    kill(Pid::from_raw(terminal.child.id() as i32), Signal::SIGINT).unwrap();
    let status = terminal.child.wait().unwrap();
    assert_eq!(status.signal(), Some(SIGINT), "{status:?}");
    assert!(terminal.read().ends_with(LEAVE));
}

#[test]
fn watched_status_gives_the_screen_back_before_it_says_what_is_wrong() {
    let mut project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    project.up();
    let mut terminal = Terminal::new(&project, &["status", "-w", "nop"]);
    let seen = terminal.until("did you mean");
    let (screen, said) = seen.split_once(LEAVE).unwrap();
    assert!(screen.contains(ENTER));
    assert!(said.contains("unknown process \"nop\""), "{said}");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(1));
}
