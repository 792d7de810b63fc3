//! Processes that came to bpm when their parents ended, and can be given to no run, no build and no check: they are named
//! at once, and end with bpm. Those of a run that survived KILL are named until they are gone.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::os::proc::{self, Proc};

use super::Supervisor;

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
        strays.retain(|p| survivors.iter().all(|s| s.pid != p.pid));
        // Of each such tree, the first one is enough.
        let all = strays.clone();
        strays.retain(|p| all.iter().all(|other| other.pid != p.ppid));
        let survivors = survivors.iter().take(NAMED).map(|s| s.text.clone());
        let named: Vec<String> = survivors.chain(words(&strays)).collect();
        if !named.is_empty() {
            self.strays.due = Some(now.after(AGAIN));
        }
        for new in self.warnings.set_strays(named) {
            self.events.say(crate::base::logger::Level::Warn, &new);
        }
    }
}

fn words(strays: &[Proc]) -> Vec<String> {
    let name = |p: &Proc| proc::program(p.pid).unwrap_or_else(|| "?".into());
    let mut words: Vec<String> = strays
        .iter()
        .take(NAMED)
        .map(|p| format!("pid {} ({}) belongs to no process of this project: its parent has ended, and it will end with bpm", p.pid, name(p)))
        .collect();
    if strays.len() > NAMED {
        words.push(format!("and {} more like it", strays.len() - NAMED));
    }
    words
}
