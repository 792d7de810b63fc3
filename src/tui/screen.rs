//! The terminal while it is ours: taken, given back once, whatever happens.

use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::os::terminal::Terminal;

/// Output that the terminal does not take within this at the end is not written: all of the end takes 0.2 s at most.
const LAST: Duration = Duration::from_millis(150);

/// Alternate screen, no cursor, no wrapping at the right edge, pastes marked as such.
const TAKE: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[?2004h";
/// The same undone, with what the mouse and a picture under way have set.
const GIVE: &str = "\x1b[?2026l\x1b[m\x1b[?1006l\x1b[?1002l\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[?1049l";

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    /// The terminal.
    pub(super) terminal: Terminal,
    taken: bool,
    out: Vec<u8>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It can't be made raw.
    pub(super) fn take(terminal: Terminal) -> Result<Self> {
        let mut screen = Self {
            terminal,
            taken: false,
            out: Vec::new(),
        };
        screen.again(false)?;
        Ok(screen)
    }

    /// Takes it once more.
    ///
    /// # Errors
    /// It can't be made raw.
    pub(super) fn again(&mut self, mouse: bool) -> Result<()> {
        let raw = self.terminal.make_raw();
        raw.map_err(|e| Error::system("take the terminal", e))?;
        self.taken = true;
        self.out.clear();
        self.out.extend_from_slice(TAKE);
        if mouse {
            self.mouse(true);
        }
        Ok(())
    }

    /// The mouse is ours, or not.
    pub(super) fn mouse(&mut self, ours: bool) {
        let set = if ours { 'h' } else { 'l' };
        self.put(&format!("\x1b[?1002{set}\x1b[?1006{set}"));
    }

    /// To be written as the terminal takes it.
    pub(super) fn put(&mut self, bytes: &str) {
        self.out.extend_from_slice(bytes.as_bytes());
    }

    /// All has been written.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    /// Writes what the terminal takes now.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        if !self.out.is_empty() {
            let n = self.terminal.write(&self.out)?;
            self.out.drain(..n);
            if self.out.is_empty() && self.out.capacity() > 64 << 10 {
                self.out = Vec::new();
            }
        }
        Ok(())
    }

    /// Gives the terminal back as it was, with a last line on it. Once.
    pub(super) fn give(&mut self, last: &str) {
        if !std::mem::take(&mut self.taken) {
            return;
        }
        let mut bytes = Vec::new();
        if !self.out.is_empty() {
            // The rest of a picture is not needed; a sequence that was cut is cancelled.
            bytes.extend_from_slice(b"\x18\x1b\\");
            self.out.clear();
        }
        bytes.extend_from_slice(GIVE.as_bytes());
        if !last.is_empty() {
            bytes.extend_from_slice(last.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        self.terminal.write_within(&bytes, LAST);
        self.terminal.make_sane();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give("");
    }
}
