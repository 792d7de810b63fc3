//! A shell in a terminal of its own, by tmux.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Project};

/// The value, once there is one. Fails with the last `why`, whose lines stay lines.
#[track_caller]
pub fn eventually<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(why) => assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A tmux server with one pane. Dropped, it is gone.
pub struct Tmux {
    name: String,
}

/// There is a tmux; else it is said that a test is skipped.
pub fn is_there() -> bool {
    let found = Command::new("tmux")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let there = found.is_ok_and(|status| status.success());
    if !there {
        println!("skipped: tmux is not installed");
    }
    there
}

/// The binary that is tested.
pub fn bpm_tui() -> &'static str {
    env!("CARGO_BIN_EXE_bpm-tui")
}

impl Tmux {
    /// A shell in the project's folder and environment.
    pub fn new(project: &Project, w: u16, h: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let tmux = Self {
            name: format!("bpm-test-{}-{count}", std::process::id()),
        };
        let (w, h) = (w.to_string(), h.to_string());
        let mut command = project.command("tmux");
        command
            .args([
                "-f",
                "/dev/null",
                "-L",
                &tmux.name,
                "new-session",
                "-d",
                "-x",
                &w,
                "-y",
                &h,
            ])
            .arg("exec env PS1='$ ' bash --norc --noprofile -i")
            .env("LANG", "C.UTF-8")
            .env("LC_ALL", "C.UTF-8")
            .env("PS1", "$ ")
            .env_remove("TMUX")
            .env_remove("NO_COLOR");
        assert!(command.status().unwrap().success());
        tmux.until("a prompt", |screen| {
            screen.contains("$ ") || screen.starts_with('$')
        });
        tmux
    }

    /// Runs a command of tmux; what it prints.
    pub fn run(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.name])
            .args(args)
            .env_remove("TMUX")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types these keys, as tmux calls them.
    pub fn keys(&self, keys: &[&str]) -> &Self {
        for key in keys {
            self.run(&["send-keys", "-t", "0", key]);
        }
        self
    }

    /// Types a text.
    pub fn text(&self, text: &str) -> &Self {
        self.run(&["send-keys", "-t", "0", "-l", text]);
        self
    }

    /// Types a line into the shell.
    pub fn line(&self, text: &str) -> &Self {
        self.text(text).keys(&["Enter"])
    }

    /// What is seen.
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p", "-t", "0"])
    }

    /// A format of tmux.
    pub fn format(&self, format: &str) -> String {
        let text = self.run(&["display-message", "-p", "-t", "0", format]);
        text.trim_end().into()
    }

    /// Waits until the screen is like that.
    #[track_caller]
    pub fn until(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        eventually(|| {
            let screen = self.screen();
            if fits(&screen) {
                Ok(screen)
            } else {
                Err(format!("{what}:\n{screen}"))
            }
        })
    }

    /// Waits until all of these are on the screen.
    #[track_caller]
    pub fn sees(&self, parts: &[&str]) -> String {
        self.until(&format!("{parts:?}"), |screen| {
            parts.iter().all(|part| screen.contains(part))
        })
    }

    /// Waits until none of these is.
    #[track_caller]
    pub fn misses(&self, parts: &[&str]) -> String {
        self.until(&format!("no {parts:?}"), |screen| {
            !parts.iter().any(|part| screen.contains(part))
        })
    }

    /// The process in the pane that the shell has started.
    pub fn child(&self) -> i32 {
        let shell = self.format("#{pane_pid}");
        eventually(|| {
            let path = format!("/proc/{shell}/task/{shell}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            let first = children
                .split_whitespace()
                .next()
                .and_then(|pid| pid.parse().ok());
            first.ok_or_else(|| "it has no child".into())
        })
    }

    /// The terminal is that of a shell again.
    #[track_caller]
    pub fn is_restored(&self) {
        eventually(|| {
            let now = self.format("#{alternate_on} #{mouse_any_flag} #{cursor_flag}");
            if now == "0 0 1" { Ok(()) } else { Err(now) }
        });
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let ids = self.format("#{pid} #{pane_pid}");
        self.run(&["kill-server"]);
        // The project asks whether anything is left of it.
        let begun = Instant::now();
        let ids = ids.split(' ').filter_map(|id| id.parse().ok());
        for id in ids {
            while crate::common::lives(id) && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
