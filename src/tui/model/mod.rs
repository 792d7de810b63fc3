//! Pure: no system call, no thread, no clock.
//!
//! All that the terminal UI knows, and what follows from keys and from news of the server. Effects are
//! handed out to be done elsewhere; what the screen shows is a function of this and of its size
//! (`picture`).

mod act;
mod news;

use std::collections::VecDeque;
use std::time::Duration;

use super::input::Typed;
use super::layout::{Layout, Room, known, layout};
use super::output::{Output, Size};
use super::status::{Event, Fault, Process, Status};
use crate::base::clock::Mono;
use crate::base::escape::escaped;
use crate::base::table::Table;

pub(in crate::tui) use act::is_to_start;
pub use news::{Answer, Ask, Batch, Told, View};

/// How long a message is seen; errors stay until a key.
const MESSAGE: Duration = Duration::from_secs(10);
/// How long a question waits.
const QUESTION: Duration = Duration::from_secs(10);
/// How long the selection rests before its log is read.
const REST: Duration = Duration::from_millis(100);
/// Esc leaves only if it has closed nothing for this time.
const ESCAPE: Duration = Duration::from_millis(500);
/// Readings of a sparkline.
pub const READINGS: usize = 60;
/// Events that are kept.
const EVENTS: usize = 256;
/// Messages that the help shows.
const MESSAGES: usize = 20;

/// The time, as it is when something comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// For spans.
    pub now: Mono,
    /// Milliseconds since 1970.
    pub wall: i64,
    /// Seconds by which local time is ahead of UTC.
    pub offset: i64,
}

impl Clock {
    /// `21:33:47` of a time in milliseconds.
    pub fn local(self, at: i64) -> String {
        let s = (at.div_euclid(1_000) + self.offset).rem_euclid(86_400);
        format!("{:02}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
    }
}

/// How it is to look and what it may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// No character beyond ASCII of our own.
    pub ascii: bool,
    /// Nothing may be changed.
    pub read_only: bool,
    /// The mouse is ours.
    pub mouse: bool,
    /// A project on this machine: files can be opened, the daemon started.
    pub local: bool,
}

/// The connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// The daemon is being started.
    Starting,
    /// For the first time.
    #[default]
    First,
    /// The same, and the number of tries that failed.
    Trying(u8),
    /// It is there.
    Live,
    /// It was lost then, and is tried again then.
    Gone {
        /// Since.
        since: Mono,
        /// The next try.
        again: Mono,
    },
    /// It was stopped, and is not started by itself.
    Stopped {
        /// When, in milliseconds since 1970.
        at: i64,
        /// By what: `bpm stop`.
        by: Option<String>,
    },
    /// It does not speak our protocol.
    TooOld(String),
}

/// The kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// bpm.
    #[default]
    Bpm,
    /// An earlier background-process-manager: four tools, texts.
    FourTools,
}

/// All that the model knows of the server.
#[derive(Debug, Default)]
pub struct Server {
    /// As a person calls it: the project, or the address.
    pub name: String,
    /// How the connection is.
    pub link: Link,
    pub dialect: Dialect,
    /// Its last answer.
    pub status: Option<Status>,
    /// When, in milliseconds since 1970.
    pub at: i64,
    told: Mono,
    /// Newest last.
    pub events: VecDeque<Event>,
    /// By process.
    pub readings: Table<String, Readings>,
    read_at: Mono,
}

/// The last readings of a process; None: a hole.
#[derive(Debug, Default, Clone)]
pub struct Readings {
    /// CPU in percent of a core.
    pub cpu: VecDeque<Option<f64>>,
    /// Memory in bytes.
    pub rss: VecDeque<Option<f64>>,
}

/// The list of processes.
#[derive(Debug, Default)]
pub struct List {
    /// The name of the one selected.
    pub selected: Option<String>,
    /// Only names that have this.
    pub filter: String,
    /// Where it was, should it vanish.
    place: usize,
    /// When the log follows the selection.
    switch: Option<Mono>,
}

/// The log that is shown.
#[derive(Debug, Default)]
pub struct Shown {
    /// Its lines.
    pub output: Output,
    pub view: View,
    /// Rises with each request, so that late answers are known.
    pub generation: u64,
    /// Something came for it.
    pub came: bool,
    /// Why there is nothing.
    pub trouble: Option<String>,
    /// More lines exist than were read at first.
    more: bool,
    /// The oldest of them is to be seen, once they are here.
    wants_oldest: bool,
    /// Lines chosen with the mouse, first and last.
    pub drag: Option<(u64, u64)>,
    dragging: bool,
}

/// A line that is typed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub what: Entry,
    /// So far.
    pub text: String,
    /// Its cursor, in bytes.
    pub cursor: usize,
}

/// The purpose of a line that is typed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// `/`
    Search,
    /// `&`
    Filter,
    /// `p`
    Names,
}

/// A box over the panels.
#[derive(Debug, Clone, PartialEq)]
pub enum Overlay {
    /// All keys and the last messages.
    Help,
    /// A text with a title.
    Card {
        /// Its title.
        title: String,
        /// Its lines.
        lines: Vec<String>,
    },
    /// The compiler's errors of a process.
    Errors {
        process: String,
        /// Errors first.
        list: Vec<Fault>,
        selected: usize,
        /// The build log has been looked through.
        whole: bool,
    },
    /// The details, on a small screen.
    Details,
}

/// A question that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its words, without `y/n`.
    pub words: String,
    ask: Ask,
    until: Mono,
}

/// Something said to the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub text: String,
    /// It went wrong.
    pub bad: bool,
    /// When, in milliseconds since 1970.
    pub at: i64,
    until: Option<Mono>,
}

/// The state of the dialog with the person.
#[derive(Debug, Default)]
pub struct Dialog {
    /// Over the panels.
    pub overlay: Option<Overlay>,
    /// Rows above what is seen of it.
    pub scroll: usize,
    /// At the bottom.
    pub field: Option<Field>,
    /// At the bottom.
    pub question: Option<Question>,
    /// The newest, as long as it is seen.
    pub message: Option<Message>,
    /// Newest last.
    pub messages: VecDeque<Message>,
    /// Orders that have no answer yet.
    pub orders: Vec<Ask>,
    closed: Option<Mono>,
}

/// The screen.
#[derive(Debug, Default)]
pub struct Screen {
    /// Columns and rows.
    pub size: (u16, u16),
    /// How it looks.
    pub look: Look,
    /// The lines alone.
    pub plain: bool,
    /// Times before the lines.
    pub times: bool,
}

/// The model asks its surroundings to do this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask the server.
    Ask(Ask),
    /// Read this log from now on.
    Show(View, u64),
    /// To the clipboard.
    Copy(String),
    /// The mouse is ours, or not.
    Mouse(bool),
    /// Nobody knows what the screen shows.
    Repaint,
    /// Ctrl-Z.
    Suspend,
    /// The end, with this exit code.
    Leave(u8),
    /// Open a file at a line.
    Edit(String, u64),
    /// Show a text in the pager.
    Page(String),
    /// Start the daemon.
    Start,
}

/// An event that reaches the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// From the person.
    Typed(Typed),
    /// The screen's size.
    Size(u16, u16),
    /// Time has passed.
    Tick,
    /// From the server.
    Told(Box<Told>),
    /// A word of our own for the person; it went wrong or not.
    Note(String, bool),
    /// We were stopped for a while.
    Continued,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    /// The server.
    pub server: Server,
    /// The list.
    pub list: List,
    /// The log.
    pub log: Shown,
    /// The person.
    pub dialog: Dialog,
    /// The screen.
    pub screen: Screen,
    /// The time.
    pub clock: Clock,
    effects: Vec<Effect>,
}

impl Model {
    /// Before anything is known. `name`: of the server.
    pub fn new(look: Look, name: &str) -> Self {
        let mut model = Self::default();
        model.server.name = name.into();
        model.screen.look = look;
        model
    }

    /// Something came.
    pub fn update(&mut self, input: Input, clock: Clock) {
        self.clock = clock;
        match input {
            Input::Typed(typed) => self.typed(typed),
            Input::Size(w, h) => self.screen.size = (w, h),
            Input::Tick => {}
            Input::Told(told) => self.told(*told),
            Input::Note(text, bad) => self.say(text, bad),
            Input::Continued => self.server.read_at = Mono::default(),
        }
        self.pass_time();
    }

    /// Takes the effects: each is carried out once.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When to be told the time even if nothing comes.
    pub fn next_wake(&self) -> Option<Mono> {
        let dialog = &self.dialog;
        let second = match &self.server.link {
            Link::Live if self.server.status.is_some() => {
                // The next whole second of what was told: times go on between two answers.
                let age = self.clock.now.since(self.server.told).as_secs();
                Some(self.server.told.after(Duration::from_secs(age + 1)))
            }
            Link::Gone { .. } | Link::Trying(_) => {
                Some(self.clock.now.after(Duration::from_secs(1)))
            }
            Link::Starting | Link::First | Link::Live | Link::Stopped { .. } | Link::TooOld(_) => {
                None
            }
        };
        let all = [
            dialog.message.as_ref().and_then(|m| m.until),
            dialog.question.as_ref().map(|q| q.until),
            self.list.switch,
            second,
        ];
        all.into_iter().flatten().min()
    }

    fn pass_time(&mut self) {
        let now = self.clock.now;
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        if due(self.dialog.message.as_ref().and_then(|m| m.until)) {
            self.dialog.message = None;
        }
        if due(self.dialog.question.as_ref().map(|q| q.until)) {
            self.dialog.question = None;
        }
        if due(self.list.switch) {
            self.show_selected();
        }
        if self.log.output.take_stalled() {
            self.read_again();
        }
    }

    /// Seconds since the server told how it is, while it is there.
    pub fn age(&self) -> f64 {
        match self.server.link {
            Link::Live => self.clock.now.since(self.server.told).as_secs_f64(),
            _ => 0.0,
        }
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn say(&mut self, text: impl Into<String>, bad: bool) {
        let message = Message {
            text: text.into(),
            bad,
            at: self.clock.wall,
            until: (!bad).then(|| self.clock.now.after(MESSAGE)),
        };
        self.dialog.messages.push_back(message.clone());
        if self.dialog.messages.len() > MESSAGES {
            self.dialog.messages.pop_front();
        }
        self.dialog.message = Some(message);
    }

    /// The places of the screen.
    pub fn layout(&self) -> Layout {
        let (w, h) = known(self.screen.size);
        layout(w, h)
    }

    /// Columns that times take.
    pub fn time_columns(&self) -> u16 {
        if self.screen.times { 9 } else { 0 }
    }

    /// Where lines are shown.
    pub fn output_size(&self) -> Size {
        let layout = self.layout();
        let (area, gutter) = match layout.room {
            _ if self.screen.plain => (layout.whole, 0),
            Room::Framed => (layout.output.inner(), 1),
            Room::Bare => (layout.output, 1),
            Room::Tiny => (layout.whole, 0),
        };
        let used = gutter + self.time_columns();
        Size {
            columns: usize::from(area.w.saturating_sub(used).max(1)),
            rows: usize::from(area.h.max(1)),
        }
    }

    /// All processes.
    pub fn processes(&self) -> &[Process] {
        self.server.status.as_ref().map_or(&[], |s| &s.processes)
    }

    /// Those whose name has what was typed.
    pub fn listed(&self) -> Vec<&Process> {
        let wanted = self.list.filter.to_lowercase();
        let all = self.processes().iter();
        all.filter(|p| p.name.to_lowercase().contains(&wanted))
            .collect()
    }

    /// The selected process.
    pub fn selected(&self) -> Option<&Process> {
        let name = self.list.selected.as_ref()?;
        self.processes().iter().find(|p| p.name == *name)
    }

    /// The text that stays on the terminal after the end.
    pub fn farewell(&self) -> String {
        use super::status::Kind;
        // It is written as it is: no cell of the picture keeps a folder's name from the terminal.
        let name = escaped(&self.server.name);
        let count = |fits: &dyn Fn(&&Process) -> bool| self.processes().iter().filter(fits).count();
        let up = count(&|p| p.pid.is_some() || matches!(p.kind(), Kind::Running | Kind::Uneasy));
        let mut words = match up {
            _ if self.server.status.is_none() => return String::new(),
            n => format!("{name}: {n} running"),
        };
        let failed = count(&|p| p.kind() == Kind::Failed);
        if failed > 0 {
            words.push_str(&format!(", {failed} failed"));
        }
        match &self.server.link {
            Link::Stopped { .. } => format!("{name}: stopped"),
            Link::Gone { .. } => format!("{name}: the daemon is gone"),
            Link::Starting | Link::First | Link::Trying(_) | Link::Live | Link::TooOld(_) => {
                let pid = self.server.status.as_ref().and_then(|s| s.daemon.pid);
                let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
                let who = match self.server.dialect {
                    Dialect::Bpm => "bpm",
                    Dialect::FourTools => "the server",
                };
                format!("{words}; {who} runs on{pid}")
            }
        }
    }
}
