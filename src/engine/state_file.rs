//! What must outlive this bpm, in `state.json`: numbers of lines and runs, exits, and which processes
//! run, by identity.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Wall;
use crate::base::json::{self, object, strings};
use crate::base::table::Table;
use crate::engine::snapshot::ExitView;
use crate::os::files;

/// The layout of the file.
const VERSION: u64 = 1;
/// Numbers are reserved so many at a time: after a kill they go on behind the reserved ones.
pub const BLOCK: u64 = 10_000_000;

/// The next numbers of one process's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Of a line.
    pub seq: u64,
    /// Of a run.
    pub run: u64,
    /// Of a line of a build.
    pub build_seq: u64,
    /// Of a build.
    pub build_run: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            seq: 1,
            run: 1,
            build_seq: 1,
            build_run: 1,
        }
    }
}

/// A process that runs, or that ran when bpm was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The process's name.
    pub process: String,
    /// Its first pid.
    pub pid: i32,
    /// When that pid began, in clock ticks since the boot.
    pub start: u64,
    /// Its run in the log.
    pub run: u64,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The TCP port kept for `/mcp`.
    pub port: Option<u16>,
    /// No event has a number above this yet.
    pub event: u64,
    /// What `port = "auto"` was given.
    ports: Table<String, u16>,
    numbers: Table<String, Numbers>,
    exits: Table<String, VecDeque<ExitView>>,
    running: Vec<Running>,
}

impl State {
    /// What an earlier bpm left; nothing where there is no such file, or where it is damaged: it
    /// holds nothing that a project can't do without. The text says what was wrong with it.
    pub fn read(path: &Path) -> (Self, Option<String>) {
        match files::read_named(path) {
            Ok((bytes, _)) => match Self::parse(&bytes) {
                Some(state) => (state, None),
                None => (
                    Self::default(),
                    Some(format!("{} is damaged: beginning anew", path.display())),
                ),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Self::default(), None),
            Err(e) => {
                let why = crate::base::error::reason(&e);
                (
                    Self::default(),
                    Some(format!("cannot read {}: {why}", path.display())),
                )
            }
        }
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// As the system gives them (a full disk); the file of before stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::write_atomic(path, self.format().as_bytes(), 0o600)
    }

    /// The next numbers of a process.
    pub fn reserve(&mut self, process: &str) -> Numbers {
        *self.numbers.or_default(process.into())
    }

    /// Numbers below these have been given out.
    pub fn note_numbers(&mut self, process: &str, numbers: Numbers) {
        self.numbers.insert(process.into(), numbers);
    }

    /// The port kept for a process.
    pub fn port_of(&self, process: &str) -> Option<u16> {
        self.ports.get(process).copied()
    }

    /// Keeps a port for a process.
    pub fn keep_port(&mut self, process: &str, port: u16) {
        self.ports.insert(process.into(), port);
    }

    /// The exits of earlier runs, oldest first.
    pub fn exits(&self, process: &str) -> VecDeque<ExitView> {
        self.exits.get(process).cloned().unwrap_or_default()
    }

    /// It runs.
    pub fn started(&mut self, process: &str, pid: i32, start: u64, run: u64) {
        self.running.push(Running {
            process: process.into(),
            pid,
            start,
            run,
        });
    }

    /// Its first process ended.
    pub fn ended(&mut self, process: &str, exit: ExitView, most: usize) {
        let exits = self.exits.or_default(process.into());
        if exits.len() >= most {
            exits.pop_front();
        }
        exits.push_back(exit);
    }

    /// Nothing of that run is left.
    pub fn gone(&mut self, process: &str, run: u64) {
        self.running
            .retain(|r| r.process != process || r.run != run);
    }

    /// Processes run, as far as this knows.
    pub fn anything_runs(&self) -> bool {
        !self.running.is_empty()
    }

    /// What was left has been dealt with.
    pub fn forget_running(&mut self) {
        self.running.clear();
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        if value["version"].as_u64()? != VERSION {
            return None;
        }
        let mut state = Self {
            port: value["port"].as_u64().and_then(|p| u16::try_from(p).ok()),
            event: value["event"].as_u64().unwrap_or_default(),
            ..Self::default()
        };
        for (name, row) in value["processes"].as_object()? {
            let number = |key: &str| row["next"][key].as_u64().filter(|n| *n > 0).unwrap_or(1);
            let numbers = Numbers {
                seq: number("seq"),
                run: number("run"),
                build_seq: number("build_seq"),
                build_run: number("build_run"),
            };
            state.numbers.insert(name.clone(), numbers);
            if let Some(port) = row["port"].as_u64().and_then(|p| u16::try_from(p).ok()) {
                state.ports.insert(name.clone(), port);
            }
            let exits = row["exits"]
                .as_array()
                .map(|all| all.iter().filter_map(exit_of).collect());
            state.exits.insert(name.clone(), exits.unwrap_or_default());
        }
        state.running = value["running"]
            .as_array()?
            .iter()
            .filter_map(running_of)
            .collect();
        Some(state)
    }

    /// Piece by piece: a tree of all of it would leave holes in the heap at each start of a process.
    fn format(&self) -> String {
        let mut out = format!(
            "{{\"version\":{VERSION},\"port\":{},\"event\":{},\"processes\":{{",
            Value::from(self.port),
            self.event
        );
        let mut comma = "";
        for (name, n) in self.numbers.iter() {
            let next = format!(
                "{{\"seq\":{},\"run\":{},\"build_seq\":{},\"build_run\":{}}}",
                n.seq, n.run, n.build_seq, n.build_run
            );
            let port = Value::from(self.ports.get(name).copied());
            let exits = self.exits.get(name).into_iter().flatten();
            let name = Value::from(name.as_str());
            let _ = write!(
                out,
                "{comma}{name}:{{\"next\":{next},\"port\":{port},\"exits\":"
            );
            list(&mut out, exits.map(exit_to));
            out.push('}');
            comma = ",";
        }
        out.push_str("},\"running\":");
        list(
            &mut out,
            self.running.iter().map(|r| {
                object([
                    ("process", r.process.as_str().into()),
                    ("pid", r.pid.into()),
                    ("start", r.start.into()),
                    ("run", r.run.into()),
                ])
            }),
        );
        out.push('}');
        out
    }
}

fn list(out: &mut String, items: impl Iterator<Item = Value>) {
    out.push('[');
    for (at, item) in items.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{item}");
    }
    out.push(']');
}

fn running_of(row: &Value) -> Option<Running> {
    Some(Running {
        process: row["process"].as_str()?.into(),
        pid: i32::try_from(row["pid"].as_i64()?).ok()?,
        start: row["start"].as_u64()?,
        run: row["run"].as_u64()?,
    })
}

fn exit_to(exit: &ExitView) -> Value {
    object([
        ("run", exit.run.into()),
        ("code", exit.code.into()),
        ("signal", exit.signal.clone().into()),
        ("core", exit.core.into()),
        ("oom", exit.oom.into()),
        ("asked", exit.asked.into()),
        ("fault", exit.fault.clone().into()),
        ("at", exit.at.0.into()),
        ("uptime_ms", millis(exit.uptime).into()),
        ("cpu_ms", millis(exit.cpu).into()),
        ("peak_rss", exit.peak_rss.into()),
        ("tail", json::list(exit.tail.iter().map(String::as_str))),
    ])
}

fn exit_of(row: &Value) -> Option<ExitView> {
    let flag = |key: &str| row[key].as_bool().unwrap_or(false);
    let span = |key: &str| Duration::from_millis(row[key].as_u64().unwrap_or(0));
    let tail = strings(&row["tail"]).map(Into::into).collect();
    Some(ExitView {
        run: row["run"].as_u64()?,
        code: row["code"].as_i64().and_then(|c| i32::try_from(c).ok()),
        signal: row["signal"].as_str().map(Into::into),
        core: flag("core"),
        oom: flag("oom"),
        asked: flag("asked"),
        fault: row["fault"].as_str().map(Into::into),
        at: Wall(row["at"].as_i64()?),
        uptime: span("uptime_ms"),
        cpu: span("cpu_ms"),
        peak_rss: row["peak_rss"].as_u64().unwrap_or(0),
        tail: Arc::new(tail),
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(run: u64) -> ExitView {
        ExitView {
            run,
            code: None,
            signal: Some("KILL".into()),
            core: false,
            oom: true,
            asked: false,
            fault: Some("it was not ready within 1.0s".into()),
            at: Wall(1_795_229_210_123),
            uptime: Duration::from_millis(1_500),
            cpu: Duration::from_millis(20),
            peak_rss: 4_096,
            tail: Arc::new(vec!["last \"words\"".into()]),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut state = State {
            port: Some(4_000),
            ..State::default()
        };
        assert_eq!(state.reserve("web"), Numbers::default());
        state.note_numbers(
            "web",
            Numbers {
                seq: 8,
                run: 3,
                build_seq: 1,
                build_run: 1,
            },
        );
        state.keep_port("web", 8_080);
        state.started("web", 4_711, 99, 2);
        state.ended("web", exit(1), 32);
        let bytes = state.format();
        assert_eq!(State::parse(bytes.as_bytes()), Some(state));
    }

    #[test]
    fn exits_are_bounded_and_a_run_that_is_gone_is_forgotten() {
        let mut state = State::default();
        for run in 0..40 {
            state.ended("web", exit(run), 32);
        }
        assert_eq!(state.exits("web").len(), 32);
        assert_eq!(state.exits("web")[0].run, 8);
        state.started("web", 1, 2, 3);
        state.gone("web", 3);
        assert!(!state.anything_runs());
    }

    #[test]
    fn damage_is_no_panic() {
        for bytes in [
            &b""[..],
            b"{}",
            b"[1]",
            b"{\"version\":1}",
            b"{\"version\":2,\"processes\":{},\"running\":[]}",
        ] {
            assert_eq!(State::parse(bytes), None);
        }
    }
}
