//! Whether runs listen where they were told to: on their `port`, and on the sockets that bpm holds for them. Only what
//! shows at a run that starts is examined, and what was wrong with it until that is right.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::logger::Level;
use crate::base::saved::{Saved, saved};
use crate::base::table::{Set, Table};
use crate::lifecycle::{Event, Fleet, RunKey};
use crate::os::proc;

use super::Supervisor;

/// A run is examined that long after its start, and each time again while it is not ready.
const EARLY: Duration = Duration::from_millis(400);
/// One with which something is wrong, while it serves.
const AGAIN: Duration = Duration::from_secs(5);

/// Programs that listen on a port of their own choice, whatever PORT says.
const IGNORE_PORT: [&str; 12] = [
    "vite",
    "astro",
    "webpack",
    "webpack-dev-server",
    "wrangler",
    "esbuild",
    "streamlit",
    "flask",
    "uvicorn",
    "hypercorn",
    "mkdocs",
    "deno",
];

/// The sockets that listened before a run began: they are not the run's, but for those that bpm holds for it.
pub(super) type Before = Arc<Set<u64>>;

/// Where a run is to listen.
#[derive(Clone, Default)]
pub(super) struct Expected {
    /// None: none, or bpm holds it.
    port: Option<u16>,
    /// The held sockets by their inodes.
    held: Vec<(u64, String)>,
    before: Option<Before>,
    due: Option<Mono>,
    good: bool,
    wrong: Option<String>,
}

/// Where all runs are to listen.
#[derive(Default)]
pub(super) struct Listening {
    runs: Table<RunKey, Expected>,
}

saved! { Expected { port, held, before, due, good, wrong } }

impl Expected {
    /// Of a run that is about to begin; `connects`: its check needs to know which sockets were there before.
    pub(super) fn new(port: Option<u16>, held: Vec<(u64, String)>, connects: bool) -> Self {
        let asked = connects || port.is_some();
        let mut before = asked.then(proc::listening_inodes).flatten();
        for (inode, _) in &held {
            if let Some(all) = &mut before {
                all.remove(inode);
            }
        }
        Self {
            port,
            held,
            before: before.map(Arc::new),
            due: Some(Mono::now().after(EARLY)),
            good: false,
            wrong: None,
        }
    }

    /// None: that can't be told here.
    pub(super) fn before(&self) -> Option<Before> {
        self.before.clone()
    }

    /// Faults of the addresses that these processes listen on. Before it is ready a run may still open its socket.
    fn examine(&self, pids: &[i32]) -> Option<String> {
        let listens = proc::listening(pids);
        let shown: Vec<String> = listens
            .iter()
            .map(|at| match at.ip().is_unspecified() {
                true => format!("*:{}", at.port()),
                false => at.to_string(),
            })
            .collect();
        let mut paths = self.held.iter().map(|(_, name)| Path::new(name));
        if let Some(path) = paths.find(|path| path.is_absolute() && !path.exists()) {
            return Some(format!(
                "nobody can connect to {}: the run before removed that file when it ended; say swap = \"stop-start\"",
                path.display()
            ));
        }
        if let Some((_, address)) = self.held.first()
            && self.good
            && let Some(open) = proc::open_sockets(pids)
            && !self.held.iter().any(|(inode, _)| open.has(inode))
        {
            let elsewhere = match shown.is_empty() {
                true => String::new(),
                false => format!("; it listens on {}", shown.join(" and ")),
            };
            return Some(format!(
                "connections to {address} wait, and no process of the run has that socket open{elsewhere}"
            ));
        }
        let port = self.port?;
        let ours = self.before.as_deref();
        if listens.is_empty()
            || listens.iter().any(|at| at.port() == port)
            || proc::is_listened_on(port, ours?) != Some(false)
        {
            return None;
        }
        let ports: Vec<String> = listens.iter().map(|at| at.port().to_string()).collect();
        let program = pids
            .iter()
            .find_map(|pid| ignores_port(&proc::cmdline(*pid)?));
        let advice = match program {
            Some(program) => format!("{program} ignores PORT; pass ${{PORT}} in command"),
            None => "if it ignores PORT, pass ${PORT} in command".into(),
        };
        Some(format!(
            "listens on {}, not on PORT {port}: {advice}",
            ports.join(", ")
        ))
    }
}

/// The program among these words that is known to ignore PORT.
fn ignores_port(line: &str) -> Option<&'static str> {
    // An interpreter and its flags come first.
    line.split(' ').take(4).find_map(|word| {
        let name = Path::new(word).file_stem()?.to_str()?;
        IGNORE_PORT.into_iter().find(|known| *known == name)
    })
}

impl Saved for Listening {
    fn save(&self) -> Value {
        let mut runs = self.runs.clone();
        for expected in runs.values_mut() {
            // Nobody asks again.
            if expected.due.is_none() && expected.good {
                expected.before = None;
            }
        }
        runs.save()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.runs.restore(saved)
    }
}

impl Listening {
    /// A run has begun.
    pub(super) fn begin(&mut self, run: RunKey, expected: Expected) {
        if expected.port.is_some() || !expected.held.is_empty() {
            self.runs.insert(run, expected);
        }
    }

    /// It has ended. It may have removed the file of a socket that another run of its process serves.
    pub(super) fn end(&mut self, run: RunKey, now: Mono) {
        self.runs.remove(&run);
        let others = self.runs.iter_mut().filter(|(of, _)| of.unit == run.unit);
        for (_, expected) in others {
            expected.due = Some(now);
        }
    }

    /// The faults of a run.
    pub(super) fn wrong(&self, run: RunKey) -> Option<String> {
        self.runs.get(&run)?.wrong.clone()
    }

    /// When a run is to be examined.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.runs.values().filter_map(|expected| expected.due).min()
    }

    /// The runs that are to be examined now: those that are due, and those that are good since.
    fn due(&mut self, now: Mono, fleet: &Fleet) -> Vec<RunKey> {
        let mut due = Vec::new();
        for (run, expected) in self.runs.iter_mut() {
            let good = expected.good || fleet.is_good(*run);
            if good != expected.good || expected.due.is_some_and(|at| at <= now) {
                expected.good = good;
                due.push(*run);
            }
        }
        due
    }

    /// Examines a run with these processes. True: something else is wrong with it than before, or nothing any more.
    fn examine(&mut self, run: RunKey, pids: &[i32], now: Mono) -> bool {
        let Some(expected) = self.runs.get_mut(&run) else {
            return false;
        };
        let wrong = expected.examine(pids);
        let again = match (expected.good, &wrong) {
            (false, _) => Some(EARLY),
            (true, Some(_)) => Some(AGAIN),
            (true, None) => None,
        };
        expected.due = again.map(|span| now.after(span));
        let new = expected.wrong != wrong;
        expected.wrong = wrong;
        new
    }
}

impl Supervisor {
    /// Examines where runs listen, as far as that is due.
    pub(super) fn examine_listening(&mut self) {
        let now = Mono::now();
        for run in self.listening.due(now, &self.lives.fleet) {
            let pids = self.runs.processes(run);
            if !self.listening.examine(run, &pids, now) {
                continue;
            }
            if let Some(unit) = self.units.get_mut(run.unit) {
                unit.changed = true;
            }
            let words = self.listening.wrong(run);
            if let Some(wrong) = &words {
                self.happened(Level::Warn, Some(run.unit), "listen", wrong.clone());
            }
            if !self.lives.fleet.is_good(run) {
                // It is the reason why it is not ready.
                self.lives.note(Event::Seen { run, words });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_ignore_port_are_known_behind_an_interpreter() {
        let known = |line| ignores_port(line);
        assert_eq!(
            known("node /app/node_modules/.bin/vite --host"),
            Some("vite")
        );
        assert_eq!(known("/usr/bin/python3 /venv/bin/flask run"), Some("flask"));
        assert_eq!(known("node /app/server.js vite"), Some("vite"));
        assert_eq!(known("node server.js --to a b vite"), None);
        assert_eq!(known(""), None);
    }
}
