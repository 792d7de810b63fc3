//! The terminal of a command that draws the same picture again and again: its alternate screen, given back on every
//! way out.

use std::io::stdout;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::{Error, Result};
use crate::os::poll;
use crate::os::screen::{self, Signals};

use super::print;

/// The alternate screen without cursor and without line wrap, as a character that is two columns wide may still end
/// beyond the edge; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The screen while it is ours.
pub(super) struct Screen {
    signals: Signals,
}

impl Screen {
    /// Takes the terminal that standard output is.
    pub(super) fn take() -> Result<Self> {
        let signals = Signals::new().map_err(|e| Error::system("catch signals", e))?;
        let screen = Self { signals };
        print(ENTER)?;
        Ok(screen)
    }

    /// Draws as much of the text as there is room for.
    pub(super) fn draw(&self, text: &str) -> Result<()> {
        let out = stdout();
        let (columns, rows) = screen::size(out.as_fd());
        // Home, and what is below is cleared after the new picture is there: no flicker.
        print(format_args!(
            "\x1b[H{}\x1b[J",
            fitted(text, columns.into(), rows.into())
        ))
    }

    /// Waits for the next picture: until the time is over, or the terminal has another size.
    ///
    /// # Errors
    /// The terminal is gone. Does not return where a signal ends bpm.
    pub(super) fn wait(&self, span: Duration) -> Result<()> {
        let until = Mono::now().after(span);
        loop {
            let left = until.since(Mono::now());
            let fds = [Some(self.signals.as_fd())];
            poll::readable(fds, Some(left)).map_err(|e| Error::system("wait", e))?;
            let caught = self.signals.take();
            if let Some(number) = caught.end {
                let _ = print(LEAVE);
                screen::die_by(number);
            }
            if caught.suspend {
                print(LEAVE)?;
                screen::suspend_ourselves();
                print(ENTER)?;
            }
            if caught.suspend || caught.continued || caught.resized || left.is_zero() {
                return Ok(());
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to give back.
        let _ = print(LEAVE);
    }
}

/// The lines that fit, each cut at the edge, the rest counted in the last; 0 is as much as there is.
fn fitted(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let all = lines.len();
    let shown = match rows {
        0 => all,
        rows if all > rows => rows - 1,
        _ => all,
    };
    let mut out: Vec<String> = lines[..shown]
        .iter()
        .map(|line| cut(line, columns))
        .collect();
    if shown < all {
        out.push(cut(&format!("({} more lines)", all - shown), columns));
    }
    out.join("\x1b[K\r\n") + "\x1b[K"
}

/// As many characters as there are columns; escape sequences take none, and those behind the edge still count: they
/// end a colour.
fn cut(line: &str, columns: usize) -> String {
    let mut left = if columns == 0 { usize::MAX } else { columns };
    let mut out = String::new();
    let mut escape = false;
    for c in line.chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (true, c) => escape = !c.is_ascii_alphabetic(),
            (false, _) if left == 0 => continue,
            (false, _) => left -= 1,
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_fit_the_terminal() {
        let text = "NAME  STATE\n\x1b[1mapi\x1b[0m   running\nweb   running\n";
        let lines = |columns, rows| {
            let fit = fitted(text, columns, rows).replace("\x1b[K", "");
            let lines: Vec<String> = fit.split("\r\n").map(String::from).collect();
            lines
        };
        assert_eq!(lines(0, 0)[2], "web   running");
        assert_eq!(lines(80, 3).len(), 3);
        assert_eq!(lines(80, 2), ["NAME  STATE", "(2 more lines)"]);
        assert_eq!(lines(2, 3), ["NA", "\x1b[1map\x1b[0m", "we"]);
    }
}
