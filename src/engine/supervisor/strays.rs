//! Processes that came to bpm when their parents ended, and can be given to no run, no build and no check: they are named
//! at once, and end with bpm. Those of a run that survived KILL are named until they are gone.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::os::proc::{self, Proc};

use crate::engine::saved::LeftBehind;

use super::Supervisor;
use super::runs::Maker;

/// After the end of a child, what it left has come to bpm by then.
const SOON: Duration = Duration::from_millis(100);
/// How often the named ones are looked at.
const AGAIN: Duration = Duration::from_secs(5);
/// So many are named.
const NAMED: usize = 8;

#[derive(Default)]
pub(super) struct Strays {
    /// When they are looked for next.
    due: Option<Mono>,
    left: Vec<Left>,
}

/// A process that outlived a stop.
struct Left {
    of: LeftBehind,
    /// As `status` names it.
    told: String,
    /// It was sent KILL; else it was not, since it may be of another run as well.
    survived: bool,
}

impl Left {
    fn lives(&self) -> bool {
        proc::lives(self.of.pid, self.of.start)
    }
}

impl Strays {
    /// Children have ended.
    pub(super) fn expect(&mut self, now: Mono) {
        let soon = now.after(SOON);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// This one of a process's run survived KILL: its program, with the reason.
    pub(super) fn survived(&mut self, of: LeftBehind) {
        let told = format!(
            "{} survived KILL and is still there: {}",
            of.named(),
            of.what
        );
        self.add(of, told, true);
    }

    /// This one may be of a process's run, or of another's.
    pub(super) fn doubted(&mut self, of: LeftBehind, told: String) {
        self.add(of, told, false);
    }

    fn add(&mut self, of: LeftBehind, told: String, survived: bool) {
        // One that may be of several is noted for each.
        self.left
            .retain(|left| (left.of.pid, &left.of.process) != (of.pid, &of.process));
        self.left.push(Left { of, told, survived });
        self.due = Some(Mono::now());
    }

    /// Living ones of a process.
    pub(super) fn of(&self, name: &str) -> Vec<(i32, String)> {
        let all = self
            .left
            .iter()
            .filter(|left| left.of.process == name && left.lives());
        all.map(|left| (left.of.pid, left.of.what.clone()))
            .collect()
    }

    /// Living ones that survived KILL.
    pub(super) fn survivors(&self) -> Vec<LeftBehind> {
        let all = self
            .left
            .iter()
            .filter(|left| left.survived && left.lives());
        all.map(|left| left.of.clone()).collect()
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.due
    }
}

impl Supervisor {
    /// Looks for strays, where that is due.
    pub(super) fn find_strays(&mut self, now: Mono) {
        if self.strays.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        self.strays.left.retain(Left::lives);
        let left = &self.strays.left;
        let known = self.known();
        let mut strays = self.runs.strays(&known);
        strays.retain(|(p, _)| left.iter().all(|left| left.of.pid != p.pid));
        // Of each such tree, the first one is enough.
        let all: Vec<i32> = strays.iter().map(|(p, _)| p.pid).collect();
        strays.retain(|(p, _)| !all.contains(&p.ppid));
        let mut named: Vec<String> = left.iter().map(|left| left.told.clone()).collect();
        named.dedup();
        named.truncate(NAMED);
        named.extend(self.words(&strays));
        if !named.is_empty() {
            self.strays.due = Some(now.after(AGAIN));
        }
        for new in self.warnings.set_strays(named) {
            self.events.say(crate::base::logger::Level::Warn, &new);
        }
    }

    fn words(&self, strays: &[(Proc, Vec<Maker>)]) -> Vec<String> {
        let mut words: Vec<String> = strays
            .iter()
            .take(NAMED)
            .map(|(p, makers)| {
                let whose = match makers.len() {
                    1 => "belongs to no process of this project: its parent has ended, and it will end with bpm".into(),
                    _ => self.doubt(makers),
                };
                format!("pid {} ({}) {whose}", p.pid, program(p))
            })
            .collect();
        if strays.len() > NAMED {
            words.push(format!("and {} more like it", strays.len() - NAMED));
        }
        words
    }

    /// Says whose a process may be that has nothing that tells.
    pub(super) fn doubt(&self, makers: &[Maker]) -> String {
        let name = |maker: &Maker| match maker {
            Maker::Run(key) => Some(self.units.get(key.unit)?.process.name.as_str()),
            Maker::Done => Some("a task that is done"),
            Maker::Spared => Some("a build"),
            Maker::Helper => Some("a command of bpm's own"),
            Maker::Unknown => None,
        };
        let mut names: Vec<&str> = makers.iter().filter_map(name).collect();
        names.dedup();
        let all = match names.split_last() {
            None => "any process of this project".into(),
            Some((last, [])) => (*last).to_owned(),
            Some((last, first)) => format!("{} or {last}", first.join(", ")),
        };
        format!(
            "may be of {all}, nothing tells which: its parent has ended, and it will end with bpm"
        )
    }
}

/// The name of the program that it executes.
pub(super) fn program(p: &Proc) -> String {
    proc::program(p.pid).unwrap_or_else(|| "?".into())
}
