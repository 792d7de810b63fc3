//! Processes that came to bpm when their parents ended, and can be given to no run, no build and no check: they are named
//! at once, and end with bpm. Those of a run that survived KILL are named until they are gone.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::os::proc::{self, Proc};

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
    survivors: Vec<Survivor>,
}

/// A process that survived KILL.
struct Survivor {
    pid: i32,
    start: u64,
    text: String,
}

impl Strays {
    /// Children have ended.
    pub(super) fn expect(&mut self, now: Mono) {
        let soon = now.after(SOON);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// These of a process's run survived KILL: pid, and program with the reason.
    pub(super) fn survived(&mut self, name: &str, left: &[(i32, String)], now: Mono) {
        for (pid, what) in left {
            let Some(start) = proc::start_time(*pid) else {
                continue;
            };
            let text = format!("pid {pid} of {name} survived KILL and is still there: {what}");
            self.survivors.retain(|s| s.pid != *pid);
            self.survivors.push(Survivor {
                pid: *pid,
                start,
                text,
            });
        }
        self.expect(now);
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
        self.strays.survivors.retain(|s| {
            let lives = proc::process(s.pid).filter(|p| p.state != 'Z');
            lives.is_some_and(|p| p.start == s.start)
        });
        let survivors = &self.strays.survivors;
        let known = self.known();
        let mut strays = self.runs.strays(&known);
        strays.retain(|(p, _)| survivors.iter().all(|s| s.pid != p.pid));
        // Of each such tree, the first one is enough.
        let all: Vec<i32> = strays.iter().map(|(p, _)| p.pid).collect();
        strays.retain(|(p, _)| !all.contains(&p.ppid));
        let survivors = survivors.iter().take(NAMED).map(|s| s.text.clone());
        let named: Vec<String> = survivors.chain(self.words(&strays)).collect();
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
