//! The loop: one thread, one poll over terminal, server and signals. Input never waits for output: a picture is
//! made when the one before has been written, from the newest state.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::input::{Decoder, Typed};
use super::link::Link;
use super::model::{Clock, Effect, Input, Model, Told};
use super::painter::Painter;
use super::picture::picture;
use super::screen::Screen;
use crate::base::clock::{Mono, Wall};
use crate::base::error::{Error, Result};
use crate::daemon::Env;
use crate::os::memory;
use crate::os::poll::{Until, wait};
use crate::os::proc::local_offset;
use crate::os::terminal::{self, Caught, Signals};

/// After this time a lone ESC is the key.
const ESCAPE: Duration = Duration::from_millis(40);
/// Messages of more lines leave holes in the heap that are worth giving to the kernel.
const LARGE: usize = 1_000;
const SECOND: Duration = Duration::from_secs(1);

/// How it ended.
pub(super) enum Ended {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

/// Everything that runs.
pub(super) struct App {
    pub(super) screen: Screen,
    pub(super) signals: Signals,
    pub(super) model: Model,
    pub(super) link: Link,
    pub(super) painter: Painter,
    pub(super) env: Env,
    /// The project's folder, if it is on this machine.
    pub(super) root: Option<std::path::PathBuf>,
    pub(super) pace: Pace,
    decoder: Decoder,
    /// When bytes that may be half a key came.
    half: Option<Mono>,
}

/// When pictures are made.
pub(super) struct Pace {
    fps: usize,
    /// When the last ones were written, at most `fps` of them.
    made: VecDeque<Mono>,
    /// Something may look different; by a key or by itself.
    stale: bool,
    typed: bool,
}

impl Pace {
    /// At most this number a second.
    pub(super) fn new(fps: u32) -> Self {
        Self {
            fps: fps as usize,
            made: VecDeque::new(),
            stale: true,
            typed: false,
        }
    }

    /// When the next picture may be made; None: none is needed.
    fn due(&self) -> Option<Mono> {
        if !self.stale {
            return None;
        }
        let later = |at: Option<&Mono>, by: Duration| at.map_or(Mono::default(), |at| at.after(by));
        let paced = later(self.made.back(), SECOND / self.fps as u32);
        // Keys are answered at once as long as the second has room for it.
        let full = self.made.len() >= self.fps;
        let free = later(self.made.front().filter(|_| full), SECOND);
        Some(if self.typed { paced.min(free) } else { paced })
    }

    fn made(&mut self, now: Mono) {
        if self.made.len() >= self.fps {
            self.made.pop_front();
        }
        self.made.push_back(now);
    }
}

fn clock() -> Clock {
    let wall = Wall::now().0;
    Clock {
        now: Mono::now(),
        wall,
        offset: local_offset(wall.div_euclid(1_000)),
    }
}

impl App {
    pub(super) fn new(
        screen: Screen,
        signals: Signals,
        (model, link): (Model, Link),
        painter: Painter,
        env: Env,
        root: Option<std::path::PathBuf>,
        fps: u32,
    ) -> Self {
        Self {
            screen,
            signals,
            model,
            link,
            painter,
            env,
            root,
            pace: Pace::new(fps),
            decoder: Decoder::default(),
            half: None,
        }
    }

    /// Until the person leaves, a signal comes, or there is nothing to be reached.
    ///
    /// # Errors
    /// Nothing can be reached, or the terminal is gone.
    pub(super) fn run(&mut self) -> Result<Ended> {
        self.resize();
        if self.model.screen.look.mouse {
            self.screen.mouse(true);
        }
        // A first picture before anything is known: the person sees that something happens.
        self.draw()?;
        // For the test of that way out.
        if cfg!(debug_assertions) && self.env.get("BPM_TUI_PANIC").is_some() {
            panic!("forced");
        }
        loop {
            if let Some(ended) = self.turn()? {
                return Ok(ended);
            }
            self.draw()?;
            self.wait()?;
        }
    }

    /// Takes in all that has come, and does what follows from it.
    fn turn(&mut self) -> Result<Option<Ended>> {
        let caught = self.signals.take();
        if let Some(number) = caught.end {
            return Ok(Some(Ended::Signal(number)));
        }
        self.signalled(caught)?;
        if let Some(code) = self.type_in()? {
            return Ok(Some(Ended::Code(code)));
        }
        self.link.turn(Mono::now());
        if let Some(error) = self.link.take_end() {
            return Err(error);
        }
        for told in self.link.take_told() {
            if matches!(told, Told::Status(_)) {
                // tmux loses some of its signals.
                self.resize();
            }
            let large = matches!(&told, Told::Lines(batch) if batch.lines.len() > LARGE);
            self.update(Input::Told(Box::new(told)));
            if large {
                memory::trim();
            }
        }
        if self.model.next_wake().is_some_and(|at| at <= Mono::now()) {
            self.update(Input::Tick);
        }
        Ok(self.effects()?.map(Ended::Code))
    }

    fn update(&mut self, input: Input) {
        // Lines and figures come by themselves; anything else is waited for.
        self.pace.typed |= match &input {
            Input::Tick | Input::Continued => false,
            Input::Typed(_) | Input::Size(..) | Input::Note(..) => true,
            Input::Told(told) => match &**told {
                Told::Lines(batch) => batch.whole,
                Told::Status(_) => self.model.server.status.is_none(),
                Told::Link(_) | Told::Server(..) | Told::NoLines(..) | Told::Answer(_) => true,
            },
        };
        self.pace.stale = true;
        self.model.update(input, clock());
    }

    fn signalled(&mut self, caught: Caught) -> Result<()> {
        if caught.suspend {
            self.suspend()?;
        } else if caught.continued {
            // We were stopped without a word: whatever the shell did to the terminal is undone.
            self.take_again()?;
        } else if caught.resized {
            self.resize();
        }
        Ok(())
    }

    fn resize(&mut self) {
        let (w, h) = self.screen.terminal.size();
        if (w, h) != self.model.screen.size {
            self.update(Input::Size(w, h));
        }
    }

    /// Reads what was typed; each key's effects are done before the next.
    fn type_in(&mut self) -> Result<Option<u8>> {
        let mut bytes = Vec::new();
        let gone = |e| Error::system("read the terminal", e);
        self.screen.terminal.read(&mut bytes).map_err(gone)?;
        let now = Mono::now();
        if !bytes.is_empty() {
            self.decoder.feed(&bytes);
            self.half = None;
        }
        let over = self.half.is_some_and(|at| at.after(ESCAPE) <= now);
        let mut typed: Vec<Typed> = Vec::new();
        self.decoder.take(over, &mut typed);
        self.half = self
            .decoder
            .is_half()
            .then_some(self.half.filter(|_| !over).unwrap_or(now));
        for typed in typed {
            self.update(Input::Typed(typed));
            if let Some(code) = self.effects()? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    fn effects(&mut self) -> Result<Option<u8>> {
        for effect in self.model.take_effects() {
            match effect {
                Effect::Leave(code) => return Ok(Some(code)),
                Effect::Ask(ask) => self.link.ask(ask),
                Effect::Show(view, generation) => self.link.show(view, generation, Mono::now()),
                Effect::Start => self.link.start(Mono::now()),
                Effect::Mouse(ours) => self.screen.mouse(ours),
                Effect::Copy(text) => {
                    let encoded = base64(text.as_bytes());
                    self.screen.put(&format!("\x1b]52;c;{encoded}\x07"));
                }
                Effect::Repaint => {
                    self.painter.forget();
                    self.resize();
                }
                Effect::Suspend => self.suspend()?,
                Effect::Edit(file, line) => self.edit(&file, line)?,
                Effect::Page(text) => self.page(&text)?,
            }
        }
        Ok(None)
    }

    fn suspend(&mut self) -> Result<()> {
        self.screen.give("");
        terminal::suspend_ourselves();
        self.take_again()?;
        // The signal that let us go on is what we have just done.
        self.signals.take();
        Ok(())
    }

    fn take_again(&mut self) -> Result<()> {
        let mouse = self.model.screen.look.mouse && !self.model.screen.plain;
        self.screen.again(mouse)?;
        self.painter.forget();
        self.update(Input::Continued);
        self.resize();
        Ok(())
    }

    /// Another program has the terminal until it ends.
    fn lend(&mut self, command: &str, args: &[&OsStr], input: Option<&[u8]>) -> Result<()> {
        self.screen.give("");
        let ran = terminal::run_in_foreground(command, args, self.root.as_deref(), input);
        self.take_again()?;
        // Ctrl-C was meant for that program.
        let caught = self.signals.take();
        if let Some(number) = caught
            .end
            .filter(|n| *n != libc::SIGINT && *n != libc::SIGQUIT)
        {
            terminal::die_by(number);
        }
        if let Err(e) = ran {
            let why = crate::base::error::reason(&e);
            self.update(Input::Note(format!("cannot run {command}: {why}"), true));
        }
        Ok(())
    }

    fn variable(&self, names: &[&str]) -> Option<String> {
        let set = |name: &&str| self.env.get(name).filter(|v| !v.is_empty());
        let value = names.iter().find_map(set)?;
        Some(value.to_string_lossy().into_owned())
    }

    fn edit(&mut self, file: &str, line: u64) -> Result<()> {
        let Some(editor) = self.variable(&["VISUAL", "EDITOR"]) else {
            self.update(Input::Note("neither VISUAL nor EDITOR is set".into(), true));
            return Ok(());
        };
        // A name that begins with a dash would be an option.
        let file = if Path::new(file).is_absolute() {
            file.to_owned()
        } else {
            format!("./{file}")
        };
        self.lend(&editor, &[format!("+{line}").as_ref(), file.as_ref()], None)
    }

    fn page(&mut self, text: &str) -> Result<()> {
        let pager = self.variable(&["PAGER"]).unwrap_or_else(|| "less".into());
        self.lend(&pager, &[], Some(text.as_bytes()))
    }

    /// Makes the next picture if it is time, and writes what the terminal takes.
    fn draw(&mut self) -> Result<()> {
        let now = Mono::now();
        if self.screen.is_idle() && self.pace.due().is_some_and(|at| at <= now) {
            self.model.clock = clock();
            let bytes = self.painter.paint(picture(&self.model));
            (self.pace.stale, self.pace.typed) = (false, false);
            if !bytes.is_empty() {
                self.screen.put(&bytes);
                self.pace.made(now);
            }
        }
        let gone = |e| Error::system("write to the terminal", e);
        self.screen.flush().map_err(gone)
    }

    /// Waits until something comes or is due.
    fn wait(&self) -> Result<()> {
        let mut all = vec![
            (self.signals.as_fd(), Until::Readable),
            (self.screen.terminal.as_fd(), Until::Readable),
        ];
        let idle = self.screen.is_idle();
        if !idle {
            all.push((self.screen.terminal.as_fd(), Until::Writable));
        }
        all.extend(self.link.interests());
        let due = [
            self.link.due(),
            self.model.next_wake(),
            self.pace.due().filter(|_| idle),
            self.half.map(|at| at.after(ESCAPE)),
        ];
        let now = Mono::now();
        let timeout = due.into_iter().flatten().min().map(|at| at.since(now));
        wait(&all, timeout).map_err(|e| Error::system("wait", e))?;
        Ok(())
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_first_change_is_drawn_at_once_and_keys_before_figures() {
        let mut pace = Pace::new(10);
        assert_eq!(pace.due(), Some(Mono::default()));
        let now = Mono::from_nanos(1 << 40);
        pace.made(now);
        pace.stale = false;
        assert_eq!(pace.due(), None);
        pace.stale = true;
        assert_eq!(pace.due(), Some(now.after(SECOND / 10)));
        pace.typed = true;
        assert_eq!(pace.due(), Some(Mono::default()));
        (0..10).for_each(|_| pace.made(now));
        assert_eq!(
            pace.due(),
            Some(now.after(SECOND / 10)),
            "a second has its share"
        );
    }
}
