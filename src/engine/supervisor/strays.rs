//! Processes that came to bpm when their parents ended, and can be given to no run, no build and no check: they are named
//! at once, and end with bpm.

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

/// When they are looked for next.
#[derive(Default)]
pub(super) struct Strays {
    due: Option<Mono>,
}

impl Strays {
    /// Children have ended.
    pub(super) fn expect(&mut self, now: Mono) {
        let soon = now.after(SOON);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
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
        let known = self.known();
        let mut strays = self.runs.strays(&known);
        // Of each such tree, the first one is enough.
        let all = strays.clone();
        strays.retain(|p| all.iter().all(|other| other.pid != p.ppid));
        if !strays.is_empty() {
            self.strays.due = Some(now.after(AGAIN));
        }
        for new in self.warnings.set_strays(words(&strays)) {
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
