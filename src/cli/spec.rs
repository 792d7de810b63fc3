//! The parts of a command line: what a command takes, and a call of one.

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::base::error::{Error, Result};

/// One command.
pub struct Command {
    /// As typed: `restart`, `daemon start`; empty for bare `bpm`.
    pub name: &'static str,
    pub operands: Operands,
    /// One line without a full stop.
    pub summary: &'static str,
    /// Further advice; empty, or whole sentences.
    pub about: &'static str,
    /// Its own options; those of every command are [`COMMON`].
    pub options: &'static [Opt],
    /// Exit codes besides 0 and 2, with their meaning here.
    pub exits: &'static [(u8, &'static str)],
    /// Does it.
    pub run: fn(&Call) -> Result<u8>,
}

/// A command that takes nothing, to be filled in.
pub const fn runs(run: fn(&Call) -> Result<u8>) -> Command {
    Command {
        name: "",
        operands: Operands::None,
        summary: "",
        about: "",
        options: &[],
        exits: &[],
        run,
    }
}

impl Command {
    /// It takes `-C DIR` after its name (`logs` has another `-C`).
    pub fn has_dir(&self) -> bool {
        self.options.iter().all(|o| o.short != DIR.short)
    }
}

/// First words of the commands that have two.
pub fn families(table: &'static [Command]) -> impl Iterator<Item = &'static str> {
    let mut last = "";
    table.iter().filter_map(move |c| {
        let (first, _) = c.name.split_once(' ')?;
        (first != std::mem::replace(&mut last, first)).then_some(first)
    })
}

/// The operands of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// Nothing.
    None,
    /// `[DIR]`: the project's folder.
    Dir,
    /// `NAME`: one process.
    Name,
    /// `[NAME]`: at most one process.
    MaybeName,
    /// `[NAME...]`: any number of processes.
    Names,
    /// `[URL]`: at most one address, which another program understands.
    Url,
    /// At most one of these words, or exactly one where `needed`.
    Word {
        /// In the synopsis: `CLIENT`.
        label: &'static str,
        words: &'static [&'static str],
        /// It can't be left out.
        needed: bool,
    },
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opt {
    /// `-f`.
    pub short: Option<char>,
    /// `--follow`; empty where there is only a short one.
    pub long: &'static str,
    /// The name of its value; None: it takes none.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

/// An option without a value.
pub const fn flag(long: &'static str, help: &'static str) -> Opt {
    Opt {
        short: None,
        long,
        value: None,
        help,
    }
}

/// An option with a value.
pub const fn with(long: &'static str, value: &'static str, help: &'static str) -> Opt {
    let value = Some(value);
    Opt {
        value,
        ..flag(long, help)
    }
}

impl Opt {
    /// With a short form.
    pub const fn short(self, short: char) -> Self {
        let short = Some(short);
        Self { short, ..self }
    }
}

/// The project's folder; an option of every command, but `logs` has a `-C` of its own.
pub const DIR: Opt = with(
    "",
    "DIR",
    "the project's folder, instead of the nearest one upward that has a .mcp-run",
)
.short('C');

/// Options of every command.
pub const COMMON: &[Opt] = &[
    flag("help", "this text").short('h'),
    flag("version", "print the version").short('V'),
];

/// A command line, taken apart.
pub struct Call {
    /// All commands.
    pub table: &'static [Command],
    pub command: &'static Command,
    /// `-C DIR`.
    pub dir: Option<PathBuf>,
    /// The options, in order.
    pub options: Vec<(&'static Opt, OsString)>,
    /// The rest.
    pub operands: Vec<OsString>,
}

impl Call {
    /// The option was given.
    pub fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(o, _)| o.long == long)
    }

    /// The option's last value, as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self, long: &str) -> Result<Option<&str>> {
        match self.options.iter().rev().find(|(o, _)| o.long == long) {
            None => Ok(None),
            Some((_, value)) => match value.to_str() {
                Some(text) => Ok(Some(text)),
                None => Err(unfit(long, value, "is not UTF-8")),
            },
        }
    }

    /// The option's last value, read as `what`.
    ///
    /// # Errors
    /// It is not one.
    pub fn number<T: FromStr>(&self, long: &str, what: &str) -> Result<Option<T>> {
        match self.text(long)?.map(|text| (text, text.parse())) {
            None => Ok(None),
            Some((_, Ok(number))) => Ok(Some(number)),
            Some((text, Err(_))) => Err(unfit(long, text, &format!("is not {what}"))),
        }
    }

    /// The option's last value, a time in seconds.
    ///
    /// # Errors
    /// It is none.
    pub fn seconds(&self, long: &str) -> Result<Option<Duration>> {
        let Some(text) = self.text(long)? else {
            return Ok(None);
        };
        let span = text.parse().ok();
        match span.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
            Some(span) => Ok(Some(span)),
            None => Err(unfit(long, text, "is not a number of seconds")),
        }
    }

    /// One of the words that the table names for the option (`a|b|c`).
    ///
    /// # Errors
    /// It is none of them.
    pub fn choice(&self, long: &str) -> Result<Option<&str>> {
        let Some(text) = self.text(long)? else {
            return Ok(None);
        };
        let option = self.command.options.iter().find(|o| o.long == long);
        let words = option.and_then(|o| o.value).unwrap_or_default();
        if words.split('|').any(|w| w == text) {
            return Ok(Some(text));
        }
        let words = words.replace('|', ", ");
        Err(unfit(long, text, &format!("is none of {words}")))
    }

    /// The operands as names of processes, each once.
    ///
    /// # Errors
    /// One is not UTF-8, and so is no process.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for operand in &self.operands {
            let Some(name) = operand.to_str() else {
                let why = format!("{operand:?} is no process: not UTF-8");
                return Err(Error::usage(why));
            };
            if !names.iter().any(|known| known == name) {
                names.push(name.into());
            }
        }
        Ok(names)
    }
}

fn unfit(long: &str, value: impl Debug, why: &str) -> Error {
    Error::usage(format!("--{long}: {value:?} {why}"))
}
