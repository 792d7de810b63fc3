//! Pure: no system call, no thread, no clock.
//!
//! The room that a program has for its arguments and its environment: what execve(2) would refuse is a mistake in the
//! file, found before memory is taken for it.

use super::expand::{LONGEST, TOO_LONG, expanded_length};
use super::read::{Doc, Section};
use super::{Command, Process};
use crate::base::table::Table;

/// With the usual limit of the stack, 8 MiB: a quarter of it.
pub(super) const USUAL: usize = 2 << 20;

/// A string's pointer and its NUL.
const OVERHEAD: usize = 9;

/// The bytes that the top level gives to all processes together; each has a copy.
const MOST_COPIED: usize = 64 << 20;

/// Lengths of variables, those of the top level beneath those of a process. A variable that the file does not set
/// counts as empty: what is found too long is so in every environment.
#[derive(Default)]
pub(super) struct Sizes<'a> {
    beneath: Option<&'a Sizes<'a>>,
    own: Table<String, usize>,
    total: usize,
}

impl<'a> Sizes<'a> {
    /// Nothing over these.
    pub(super) fn over(beneath: &'a Sizes<'a>) -> Self {
        Self {
            beneath: Some(beneath),
            own: Table::default(),
            total: beneath.total,
        }
    }

    fn get(&self, name: &str) -> Option<usize> {
        let beneath = || self.beneath.and_then(|sizes| sizes.get(name));
        self.own.get(name).copied().or_else(beneath)
    }

    fn expanded(&self, text: &str) -> Result<usize, String> {
        expanded_length(text, |name| Some(self.get(name).unwrap_or(0)))
    }

    /// Takes a variable in, unless it is too long or there is no room for it.
    pub(super) fn set(&mut self, name: &str, text: &str, room: usize) -> Result<(), String> {
        let length = self.expanded(text)?;
        if name.len() + length + 2 > LONGEST {
            return Err(TOO_LONG.into());
        }
        let before = self.get(name).map_or(0, |old| name.len() + old + OVERHEAD);
        self.total = self.total - before + name.len() + length + OVERHEAD;
        self.own.insert(name.into(), length);
        match self.total > room {
            true => Err(too_large("the environment", room)),
            false => Ok(()),
        }
    }

    /// The words of a command, beside this environment.
    fn words(&self, words: &[String], room: usize) -> Result<(), String> {
        let mut total = self.total;
        for word in words {
            total += self.expanded(word)? + OVERHEAD;
            if total > room {
                return Err(too_large("arguments and environment together", room));
            }
        }
        Ok(())
    }
}

fn too_large(what: &str, room: usize) -> String {
    let room = room >> 10;
    format!("{what}: more than {room} KiB, the most that a program can be given here")
}

/// The commands of a process with the environment that the file gives them.
pub(super) fn check(doc: &mut Doc, s: &Section, process: &Process, sizes: &Sizes) {
    let list = |command: &Option<Command>| match command {
        Some(Command::List(words)) => words.clone(),
        Some(Command::Shell(line)) => vec![line.replace('$', "$$")],
        None => Vec::new(),
    };
    let run = [list(&process.command), process.args.clone()].concat();
    let key = if s.get("args").is_some() {
        "args"
    } else {
        "command"
    };
    for (key, words) in [
        (key, run),
        ("build", list(&process.build)),
        ("build_release", list(&process.build_release)),
    ] {
        if let Err(why) = sizes.words(&words, doc.room) {
            doc.complain(s, key, why);
        }
    }
}

/// Whether `copies` of what takes `bytes` can be had.
pub(super) fn can_copy(doc: &mut Doc, at: usize, bytes: usize, copies: usize) -> bool {
    let fits = bytes.saturating_mul(copies) <= MOST_COPIED;
    if !fits {
        let text = format!(
            "the settings of the top level for all of {copies} processes take more than {} MiB",
            MOST_COPIED >> 20
        );
        doc.fault(at, text);
    }
    fits
}
