//! Pure: no system call, no thread, no clock.
//!
//! The status of a server and its processes: the data of `get_status`, or the text that an earlier
//! background-process-manager answers with.

use serde_json::Value;

use crate::base::clock::Wall;
use crate::base::json::{items, strings};

/// The condition of a process, as far as it decides how it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// It runs as it should.
    Running,
    /// It runs, but is not ready or not well.
    Uneasy,
    /// It does not run, and that is well.
    #[default]
    Stopped,
    /// It ended by itself, or could not be built or started.
    Failed,
    /// On its way.
    Busy,
}

/// A build.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Build {
    /// Its number.
    pub id: u64,
    /// `running`, `ok`, `failed`, ...
    pub state: String,
    pub phase: Option<String>,
    /// How long it took, or has been taking.
    pub seconds: Option<f64>,
    /// When it began.
    pub at: Option<i64>,
    /// Whether it succeeded; None: it has not ended.
    pub ok: Option<bool>,
    pub errors: Vec<Fault>,
}

/// A message of a compiler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<u64>,
    /// From 1.
    pub column: Option<u64>,
    pub message: String,
    /// It is not an error.
    pub warning: bool,
}

/// The end of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exit {
    /// `code 3`, `SIGSEGV`.
    pub words: String,
    /// bpm asked for it.
    pub asked: bool,
    /// When.
    pub at: Option<i64>,
    /// How long the run was.
    pub uptime: Option<f64>,
}

/// A process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// `running`, `crashed`, ...
    pub state: String,
    /// Somebody wants it up; None: the server does not say.
    pub wanted: Option<bool>,
    /// `dev` or `release`.
    pub mode: Option<String>,
    /// Of its run.
    pub pid: Option<i64>,
    /// Seconds that its run has lived.
    pub uptime: Option<f64>,
    /// The same where a server has only words for it.
    pub uptime_words: Option<String>,
    /// None: nothing runs, or there is no such check.
    pub ready: Option<bool>,
    /// None: there is no health check.
    pub healthy: Option<bool>,
    /// Starts after the first.
    pub restarts: Option<u64>,
    /// Ends that nobody asked for.
    pub crashes: Option<u64>,
    /// Seconds until it is started again.
    pub next_start: Option<f64>,
    /// The run is older than the newest build.
    pub stale: bool,
    /// The build before the newest runs.
    pub rolled_back: bool,
    /// It was found running by this daemon.
    pub adopted: bool,
    /// The newest.
    pub build: Option<Build>,
    /// The last.
    pub exit: Option<Exit>,
    /// It listens on these.
    pub ports: Vec<u64>,
    /// Where it can be reached.
    pub url: Option<String>,
    /// Of one core.
    pub cpu: Option<f64>,
    /// Memory.
    pub rss: Option<u64>,
    /// Threads.
    pub tasks: Option<u64>,
    /// Since it last printed something.
    pub last_output: Option<f64>,
    /// Lines that are not kept any more.
    pub log_dropped: u64,
    /// Why its lines are not written to disk.
    pub log_trouble: Option<String>,
    pub depends_on: Vec<String>,
    /// Promises that do not hold.
    pub warnings: Vec<String>,
    /// Of its state.
    pub reason: Option<String>,
    /// The newest last, where a server tells them by process.
    pub events: Vec<String>,
}

impl Process {
    /// How it is shown.
    pub fn kind(&self) -> Kind {
        match self.state.as_str() {
            "running" if self.ready == Some(false) || self.healthy == Some(false) => Kind::Uneasy,
            "running" => Kind::Running,
            "crashed" | "failed" => Kind::Failed,
            "waiting" | "building" | "starting" | "stopping" => Kind::Busy,
            // `idle` is what an earlier server calls one that has not been started.
            _ => Kind::Stopped,
        }
    }

    /// Its state in words, with what qualifies it.
    pub fn words(&self) -> String {
        let mut words = self.state.clone();
        if self.state == "running" {
            match self.ready {
                Some(true) => words.push_str(", ready"),
                Some(false) => words.push_str(", not ready"),
                None => {}
            }
        }
        if self.healthy == Some(false) {
            words.push_str(", unhealthy");
        }
        words
    }

    /// Why it does not run, and when it will, in few words, `age` seconds after the answer; empty where it
    /// runs, or nothing is known.
    pub fn why(&self, age: f64) -> String {
        let mut parts: Vec<String> = Vec::new();
        // One that crashed may have an older build that failed as well. After a kill of bpm there is a reason alone.
        let reason = self.reason.as_deref().unwrap_or_default();
        let failed_build = self.state == "failed"
            && (self.build.as_ref().is_some_and(|b| b.ok == Some(false))
                || reason.starts_with("build failed"));
        match self.kind() {
            Kind::Running => return String::new(),
            Kind::Uneasy => {}
            Kind::Failed if failed_build => parts.push("build failed".into()),
            Kind::Failed => match (&self.reason, &self.exit) {
                (Some(reason), _) => parts.push(reason.clone()),
                (None, Some(exit)) => parts.push(exit.words.clone()),
                (None, None) => {}
            },
            Kind::Busy => {
                let phase = self.build.as_ref().and_then(|b| b.phase.clone());
                let phase = phase.filter(|_| self.state == "building");
                parts.extend(phase.or_else(|| self.reason.clone()));
            }
            Kind::Stopped => parts.extend(self.reason.clone()),
        }
        parts.extend(self.when(age));
        parts.join(", ")
    }

    /// When it is started again: `in 12s`.
    pub fn when(&self, age: f64) -> Option<String> {
        let seconds = self.next_start?;
        Some(format!("in {}", span(seconds - age)))
    }
}

/// The server itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Daemon {
    /// Its process.
    pub pid: Option<i64>,
    /// Of its bpm.
    pub version: Option<String>,
    /// Seconds that it has lived.
    pub uptime: Option<f64>,
    /// Memory.
    pub rss: Option<u64>,
    /// Where it serves HTTP.
    pub url: Option<String>,
    /// Agents that are connected.
    pub clients: Option<u64>,
    /// How the one before ended.
    pub previous_end: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Rises by one.
    pub seq: u64,
    /// In milliseconds since 1970.
    pub at: i64,
    /// None: it happened to bpm.
    pub process: Option<String>,
    pub text: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// Its name.
    pub project: Option<String>,
    /// `dev` if any process is in dev.
    pub mode: Option<String>,
    /// Until release, in words.
    pub release: Option<String>,
    /// The file has changed since it was read.
    pub config_changed: bool,
    /// bpm.
    pub daemon: Daemon,
    /// In the order of the file.
    pub processes: Vec<Process>,
    /// Those since the cursor, oldest first.
    pub events: Vec<Event>,
    /// The cursor for the next time.
    pub next: u64,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}

/// Milliseconds since 1970 of an RFC 3339 time.
pub fn moment(value: &Value) -> Option<i64> {
    value.as_str().and_then(Wall::parse_rfc3339).map(|at| at.0)
}

/// A compiler's message from its JSON.
pub fn fault(value: &Value) -> Fault {
    Fault {
        file: text(&value["file"]),
        line: value["line"].as_u64(),
        column: value["column"].as_u64(),
        message: text(&value["message"]).unwrap_or_default(),
        warning: value["level"] == "warning",
    }
}

impl Status {
    /// The data of `get_status` or of `bpm/status`.
    pub fn of(data: &Value) -> Self {
        let daemon = &data["daemon"];
        Self {
            project: text(&data["project"]),
            mode: text(&data["mode"]),
            release: data["release_in_seconds"].as_f64().map(span),
            config_changed: match &data["config_changed"] {
                Value::Bool(changed) => *changed,
                Value::Null => false,
                _ => true,
            },
            daemon: Daemon {
                pid: daemon["pid"].as_i64(),
                version: text(&daemon["version"]),
                uptime: daemon["uptime_seconds"].as_f64(),
                rss: daemon["rss_bytes"].as_u64(),
                url: text(&daemon["url"]),
                clients: daemon["clients"].as_u64(),
                previous_end: text(&daemon["previous_end"]),
            },
            processes: items(&data["processes"]).map(process).collect(),
            events: items(&data["events"]).map(event).collect(),
            next: data["next"].as_u64().unwrap_or_default(),
        }
    }

    /// The process of that name.
    pub fn process(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|p| p.name == name)
    }

    /// The text of an earlier server's `get_status`. A line that begins with two blanks names a process;
    /// what is said of it is indented further.
    pub fn of_text(text: &str) -> Self {
        let mut status = Self::default();
        let mut in_events = false;
        for line in text.lines() {
            let (indent, rest) = (line.len() - line.trim_start().len(), line.trim());
            let (key, value) = match rest.split_once(':') {
                Some((key, value)) => (key.trim(), value.trim()),
                None => (rest, ""),
            };
            let process = status.processes.last_mut();
            match (indent, key, process) {
                (0, "Mode", _) => status.mode = Some(value.to_lowercase()),
                (0, "Time until release mode", _) => status.release = Some(brief(value)),
                (2, name, _) if rest.contains(':') => {
                    in_events = false;
                    status.processes.push(Process {
                        name: name.into(),
                        state: value.to_lowercase(),
                        ..Process::default()
                    });
                }
                (6.., _, Some(process)) if in_events => {
                    // The newest comes first in that text.
                    let event = rest.strip_prefix("- ").unwrap_or(rest);
                    process.events.insert(0, event.into());
                }
                (4, "Uptime", Some(process)) => process.uptime_words = Some(brief(value)),
                (4, "Crash count", Some(process)) => process.crashes = value.parse().ok(),
                (4, "Recent events", Some(_)) => in_events = true,
                (4, "why", Some(process)) => process.reason = Some(value.into()),
                _ => {}
            }
        }
        // That server keeps its processes in no order, another one each time.
        status.processes.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }
}

/// `2 hours 58 minutes` -> `2h58m`.
fn brief(words: &str) -> String {
    let parts: Vec<&str> = words.split_ascii_whitespace().collect();
    match parts.as_slice() {
        [hours, "hours" | "hour", minutes, "minutes" | "minute"] => {
            format!("{hours}h{minutes:0>2}m")
        }
        _ => words.into(),
    }
}

fn process(p: &Value) -> Process {
    let flag = |key: &str| p[key] == true;
    Process {
        name: text(&p["name"]).unwrap_or_default(),
        state: text(&p["state"]).unwrap_or_default(),
        wanted: p["wanted"].as_bool(),
        mode: text(&p["mode"]),
        pid: p["pid"].as_i64(),
        uptime: p["uptime_seconds"].as_f64(),
        uptime_words: None,
        ready: p["ready"].as_bool(),
        healthy: p["healthy"].as_bool(),
        restarts: p["restarts"].as_u64(),
        crashes: p["crashes"].as_u64(),
        next_start: p["next_start_in_seconds"].as_f64(),
        stale: flag("stale"),
        rolled_back: flag("rolled_back"),
        adopted: flag("adopted"),
        build: p["build"].is_object().then(|| build(&p["build"])),
        exit: p["exit"].is_object().then(|| exit(&p["exit"])),
        ports: items(&p["ports"]).filter_map(Value::as_u64).collect(),
        url: text(&p["url"]),
        cpu: p["cpu_percent"].as_f64(),
        rss: p["rss_bytes"].as_u64(),
        tasks: p["tasks"].as_u64(),
        last_output: p["last_output_seconds"].as_f64(),
        log_dropped: p["log_dropped"].as_u64().unwrap_or_default(),
        log_trouble: text(&p["log_trouble"]),
        depends_on: strings(&p["depends_on"]).map(String::from).collect(),
        warnings: strings(&p["warnings"]).map(String::from).collect(),
        reason: text(&p["reason"]),
        events: Vec::new(),
    }
}

fn build(b: &Value) -> Build {
    Build {
        id: b["id"].as_u64().unwrap_or_default(),
        state: text(&b["state"]).unwrap_or_default(),
        phase: text(&b["phase"]),
        seconds: b["seconds"].as_f64(),
        at: moment(&b["at"]),
        ok: b["ok"].as_bool(),
        errors: items(&b["errors"]).map(fault).collect(),
    }
}

fn exit(e: &Value) -> Exit {
    let mut words = match (e["signal"].as_str(), e["code"].as_i64()) {
        (Some(signal), _) if signal.starts_with("SIG") => signal.into(),
        (Some(signal), _) => format!("SIG{signal}"),
        (None, Some(code)) => format!("code {code}"),
        (None, None) => "status unknown".into(),
    };
    if e["core"] == true {
        words.push_str(", core dumped");
    }
    if e["oom"] == true {
        words.push_str(", out of memory");
    }
    Exit {
        words,
        asked: e["asked"] == true,
        at: moment(&e["at"]),
        uptime: e["uptime_seconds"].as_f64(),
    }
}

fn event(e: &Value) -> Event {
    Event {
        seq: e["seq"].as_u64().unwrap_or_default(),
        at: moment(&e["time"]).unwrap_or_default(),
        process: text(&e["process"]),
        text: text(&e["text"]).unwrap_or_default(),
    }
}

/// `3h12m`, `5d2h`, `12s`: two units at most, shorter than elsewhere since panels are narrow.
pub fn span(seconds: f64) -> String {
    // Times are whole numbers here: tenths would change with every refresh.
    let s = seconds.clamp(0.0, 1e12) as u64;
    match s {
        0..=59 => format!("{s}s"),
        60..=3_599 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..=86_399 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3_600 % 24),
    }
}

/// `3m`, `2h`: one unit, for how long ago something was.
pub fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=59 => format!("{s}s"),
        s @ 60..=3_599 => format!("{}m", s / 60),
        s @ 3_600..=86_399 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SEED: &str = "Mode: Dev\nTime until release mode: 2 hours 8 minutes\n\nProcesses:\n\n  web: running\n    \
        Uptime: 0 hours 3 minutes\n    Recent events:\n      - [10:00] Started\n      - [09:59] Crashed: code 1\n    \
        Crash count: 2\n\n  api: idle\n";

    #[test]
    fn the_text_of_an_earlier_server_is_read() {
        let status = Status::of_text(SEED);
        assert_eq!(status.mode.as_deref(), Some("dev"));
        assert_eq!(status.release.as_deref(), Some("2h08m"));
        let [api, web] = &status.processes[..] else {
            panic!("{status:?}")
        };
        assert_eq!(
            (&*api.name, &*api.state, api.kind()),
            ("api", "idle", Kind::Stopped)
        );
        assert_eq!((&*web.state, web.crashes), ("running", Some(2)));
        assert_eq!(web.uptime_words.as_deref(), Some("0h03m"));
        assert_eq!(web.events, ["[09:59] Crashed: code 1", "[10:00] Started"]);
    }

    #[test]
    fn data_is_read_field_by_field() {
        let status = Status::of(
            &json!({"project": "shop", "mode": "dev", "release_in_seconds": 10680.0,
            "daemon": {"pid": 7, "version": "0.2.0", "uptime_seconds": 1.0, "url": null},
            "processes": [{"name": "api", "state": "crashed", "exit": {"code": 3, "signal": null}, "next_start_in_seconds": 12.4},
                {"name": "web", "state": "running", "ready": false},
                {"name": "db", "state": "crashed", "exit": {"signal": "SEGV", "core": true}, "build": {"id": 2, "state": "failed", "ok": false}},
                {"name": "app", "state": "failed", "reason": "build failed: exit code 1", "next_start_in_seconds": 100.0},
                {"name": "port", "state": "crashed", "reason": "port 80 is in use", "exit": {"code": 3, "signal": null}}],
            "events": [{"seq": 4, "time": "2026-11-21T02:46:50.123Z", "process": "api", "kind": "ended", "text": "ended (code 3)"}],
            "next": 4}),
        );
        assert_eq!(status.release.as_deref(), Some("2h58m"));
        assert_eq!(status.processes[0].why(0.0), "code 3, in 12s");
        assert_eq!(status.processes[1].kind(), Kind::Uneasy);
        assert_eq!(status.processes[1].words(), "running, not ready");
        assert_eq!(status.processes[2].why(0.0), "SIGSEGV, core dumped");
        assert_eq!(status.processes[3].why(0.0), "build failed, in 1m40s");
        assert_eq!(status.processes[4].why(0.0), "port 80 is in use");
        assert_eq!((status.events[0].seq, status.next), (4, 4));
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [
            (0.4, "0s"),
            (61.0, "1m01s"),
            (11_520.0, "3h12m"),
            (439_200.0, "5d2h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!((ago(14 * 60), ago(-1)), ("14m".into(), "0s".into()));
    }
}
