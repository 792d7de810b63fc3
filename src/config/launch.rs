//! Pure: no system call, no thread, no clock.
//!
//! Keys of a process that say with which rights, limits and streams it starts, how it is stopped, and what follows its end.

use toml::de::DeValue;

use super::keys::Place;
use super::read::{self, Doc, Read, Section, Value, quote, refuse, unfit};
use super::{Command, signal, values};

/// With what a run is started: a change of it is a swap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Launch {
    /// `unset_env` of the top level and then of the process.
    pub unset_env: Vec<String>,
    /// `stdin = "open"`.
    pub stdin_open: bool,
    /// `tty`.
    pub tty: bool,
    /// `limits`.
    pub limits: Limits,
    /// `nice`.
    pub nice: Option<i32>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// `umask`.
    pub umask: Option<u32>,
    /// `user`, a name or a number.
    pub user: Option<String>,
    /// `group`, likewise.
    pub group: Option<String>,
}

/// `limits`; None is no limit, or bpm's own.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Open files.
    pub nofile: Option<u64>,
    /// Bytes of a core file; `u64::MAX` is no limit.
    pub core: Option<u64>,
    /// Bytes of memory of the whole run.
    pub memory: Option<u64>,
    /// Bytes from which on it is slowed down.
    pub memory_high: Option<u64>,
    /// Processors.
    pub cpu: Option<f64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// `stop_to`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StopTo {
    /// The leader where it is a runner that passes the signal on, else the group.
    #[default]
    Auto,
    /// All of the group.
    Group,
    /// The leader, and the rest once it has ended.
    Leader,
}

/// An entry of `success_exit_codes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Success {
    /// An exit code.
    Code(u8),
    /// Death by this signal.
    Signal(i32),
}

/// An event that `on_event` can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Happening {
    /// It ended though nobody asked.
    #[default]
    Crashed,
    /// It is not started again by itself.
    Failed,
    /// Its health checks failed.
    Unhealthy,
    /// A build failed.
    BuildFailed,
    /// The build before serves again.
    RolledBack,
    /// It is well after one of the others.
    Recovered,
    /// Its log can't be written.
    LogTrouble,
}

impl Happening {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 7] = [
        ("crashed", Self::Crashed),
        ("failed", Self::Failed),
        ("unhealthy", Self::Unhealthy),
        ("build-failed", Self::BuildFailed),
        ("rolled-back", Self::RolledBack),
        ("recovered", Self::Recovered),
        ("log-trouble", Self::LogTrouble),
    ];

    /// As in the file and in `BPM_EVENT`.
    pub fn as_str(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, event)| *event == self);
        named.map_or("", |(name, _)| name)
    }
}

/// `on_event`: the commands, each with the one event that it follows, or None for all.
pub type OnEvent = Vec<(Option<Happening>, Command)>;

/// Whether an end with this exit code or by this signal is one that `success_exit_codes` names.
pub fn is_success(named: &[Success], code: Option<i32>, signal: Option<i32>) -> bool {
    named.iter().any(|success| match *success {
        Success::Code(named) => code == Some(i32::from(named)),
        Success::Signal(named) => signal == Some(named),
    })
}

const STDINS: [(&str, bool); 2] = [("null", false), ("open", true)];
const STOPS: [(&str, StopTo); 3] = [
    ("auto", StopTo::Auto),
    ("group", StopTo::Group),
    ("leader", StopTo::Leader),
];

pub(super) fn launch(doc: &mut Doc, s: &Section, unset: &[String]) -> Launch {
    let launch = Launch {
        unset_env: [unset.to_vec(), unset_env(doc, s)].concat(),
        stdin_open: doc.value(s, "stdin", read::word(&STDINS)),
        tty: doc.value(s, "tty", read::boolean),
        limits: limits(doc, s),
        nice: doc.read(s, "nice", signed(-20, 19)),
        oom_score_adj: doc.read(s, "oom_score_adj", signed(-1000, 1000)),
        umask: doc.read(s, "umask", umask),
        user: doc.read(s, "user", account),
        group: doc.read(s, "group", account),
    };
    if launch.user.is_some() {
        let place = |name| doc.place(s, name, s.place_of(name));
        let places = (place("user"), place("group"));
        doc.named.accounts.push(places);
    }
    if launch.tty && launch.stdin_open {
        doc.complain(s, "stdin", "\"tty\" gives it a terminal to read from");
    }
    if launch.group.is_some() && launch.user.is_none() {
        doc.complain(s, "group", "it goes with \"user\"");
    }
    launch
}

pub(super) fn stop_to(doc: &mut Doc, s: &Section) -> StopTo {
    doc.value(s, "stop_to", read::word(&STOPS))
}

pub(super) fn unset_env(doc: &mut Doc, s: &Section) -> Vec<String> {
    doc.value(s, "unset_env", read::list(read::text))
}

fn limits(doc: &mut Doc, process: &Section) -> Limits {
    let Some((table, at)) = doc.table(process, "limits") else {
        return Limits::default();
    };
    let s = &doc.section(Place::Limits, process.title_of("limits"), table, at);
    let limits = Limits {
        nofile: doc.read(s, "nofile", read::integer(1, 1 << 20)),
        core: doc.read(s, "core", values::size_or_unlimited),
        memory: doc.read(s, "memory", read::size(1)),
        memory_high: doc.read(s, "memory_high", read::size(1)),
        cpu: doc.read(s, "cpu", above_0),
        tasks: doc.read(s, "tasks", read::integer(1, 1 << 22)),
    };
    if let (Some(memory), Some(high)) = (limits.memory, limits.memory_high)
        && high > memory
    {
        doc.complain(
            s,
            "memory_high",
            "it is above \"memory\", and never reached",
        );
    }
    limits
}

pub(super) fn success(doc: &mut Doc, s: &Section) -> Vec<Success> {
    doc.value(s, "success_exit_codes", read::list(success_code))
}

fn success_code(value: &Value) -> Read<Success> {
    if let DeValue::Integer(_) = value.get_ref() {
        let code = read::integer(0, 255)(value)?;
        return u8::try_from(code)
            .map(Success::Code)
            .or_else(|_| unfit(value));
    }
    let name = read::text(value)?;
    match signal::signal_number(&name) {
        Some(number) => Ok(Success::Signal(number)),
        None => refuse(value, format!("unknown signal {}", quote(&name))),
    }
}

/// `on_event`: one command for all events, or a table of commands by event.
pub(super) fn on_event(doc: &mut Doc, s: &Section) -> OnEvent {
    let Some(DeValue::Table(_)) = s.get("on_event").map(|value| value.get_ref()) else {
        let command = doc.read(s, "on_event", read::command);
        return command.into_iter().map(|command| (None, command)).collect();
    };
    let Some((table, at)) = doc.table(s, "on_event") else {
        return OnEvent::new();
    };
    let s = &doc.section(Place::OnEvent, s.title_of("on_event"), table, at);
    let events = Happening::ALL.into_iter();
    events
        .filter_map(|(name, event)| Some((Some(event), doc.read(s, name, read::command)?)))
        .collect()
}

/// An integer that may be below zero.
fn signed(least: i32, most: i32) -> impl Fn(&Value) -> Read<i32> {
    move |value| {
        let number = match value.get_ref() {
            DeValue::Integer(i) => i32::from_str_radix(i.as_str(), i.radix()).ok(),
            _ => None,
        };
        match number {
            Some(n) if (least..=most).contains(&n) => Ok(n),
            _ => unfit(value),
        }
    }
}

fn above_0(value: &Value) -> Read<f64> {
    match read::number(0.0, 1e6)(value)? {
        0.0 => unfit(value),
        n => Ok(n),
    }
}

/// `"022"`: octal digits in a string, since 022 is no number in TOML and 22 would be another.
fn umask(value: &Value) -> Read<u32> {
    let text = read::text(value)?;
    match u32::from_str_radix(&text, 8) {
        Ok(mask) if mask <= 0o777 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(mask),
        _ => unfit(value),
    }
}

/// The name or the number of a user or of a group.
fn account(value: &Value) -> Read<String> {
    match value.get_ref() {
        DeValue::Integer(_) => Ok(read::integer(0, u64::from(u32::MAX - 1))(value)?.to_string()),
        _ => read::text(value),
    }
}
