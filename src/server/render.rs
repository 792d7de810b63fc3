//! Turns the daemon's JSON into text for people: tables, spans, sizes, colours.

use std::time::Duration;

use serde_json::Value;

use crate::base::clock::human;
use crate::base::error::first_of;
use crate::base::escape::in_line;
use crate::base::json::{items, strings};
use crate::base::paths::CONFIG_FILE;
use crate::engine::snapshot;

/// How many processes that were taken over are named below the table.
const ADOPTED: usize = 10;

/// Colours on or off for one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

/// The meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Somebody should look.
    Bad,
    /// Of little weight.
    Dim,
    /// A heading.
    Bold,
    /// A name, one of several colours.
    Name(usize),
}

impl Paint {
    /// On a terminal and without `NO_COLOR` (the caller knows both).
    pub fn new(on: bool) -> Self {
        Self { on }
    }

    /// Colours are on.
    pub fn is_on(self) -> bool {
        self.on
    }

    /// The text in its colour.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        const NAMES: [&str; 6] = ["36", "35", "34", "32", "33", "96"];
        let code = match tone {
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Bold => "1",
            Tone::Name(n) => NAMES[n % NAMES.len()],
        };
        if self.on && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
    right: bool,
}

impl Cell {
    /// Plain.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            text: in_line(&text.into()).into_owned(),
            tone: None,
            right: false,
        }
    }

    /// A number: to the right.
    pub fn number(text: impl Into<String>) -> Self {
        Self {
            right: true,
            ..Self::plain(text)
        }
    }

    /// In a colour.
    pub fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            tone: Some(tone),
            ..Self::plain(text)
        }
    }
}

/// Columns as wide as their widest cell, two blanks between them, none at the end of a line.
pub fn table(rows: &[Vec<Cell>], paint: Paint) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(cells).max();
    let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        // Blanks are written only once something follows them.
        let mut owed = 0;
        for (cell, width) in row.iter().zip(&widths) {
            let pad = width - cells(cell);
            if cell.right {
                owed += pad;
            }
            if !cell.text.is_empty() {
                line.extend(std::iter::repeat_n(' ', std::mem::take(&mut owed)));
                match cell.tone {
                    Some(tone) => line.push_str(&paint.paint(tone, &cell.text)),
                    None => line.push_str(&cell.text),
                }
            }
            owed += 2 + if cell.right { 0 } else { pad };
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn cells(cell: &Cell) -> usize {
    cell.text.chars().count()
}

/// `940K`, `12.3M`, `1.2G`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["K", "M", "G", "T"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes}B"),
        _ if value < 99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// `3h12m` of a number of seconds; `-` where there is none.
pub fn span(seconds: &Value) -> String {
    match seconds.as_f64() {
        Some(s) => human(Duration::try_from_secs_f64(s).unwrap_or_default()),
        None => "-".into(),
    }
}

/// The colour of a state.
pub fn tone(state: &str) -> Tone {
    match state {
        "running" | "done" => Tone::Good,
        "building" | "starting" | "waiting" | "stopping" => Tone::Busy,
        "crashed" | "failed" => Tone::Bad,
        _ => Tone::Dim,
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn integer(value: &Value) -> String {
    value.as_i64().map_or("-".into(), |n| n.to_string())
}

/// The text of `bpm status`: the table, and below it the faults.
pub fn status(data: &Value, paint: Paint) -> String {
    let list = data["processes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = processes(list, paint);
    let mut below = notes(data);
    below.extend(adopted(list));
    if !below.is_empty() {
        text.push('\n');
    }
    for line in below {
        text.push_str(&in_line(&line));
        text.push('\n');
    }
    text
}

/// The processes that were taken over, the first of them by name.
fn adopted(list: &[Value]) -> Option<String> {
    let all = list.iter().filter(|p| p["adopted"] == true);
    let names: Vec<&str> = all.map(|p| text(p, "name")).collect();
    let named = first_of(&names, ADOPTED);
    (!names.is_empty()).then(|| format!("adopted from a daemon that was killed: {named}"))
}

/// The note for a person whose `.mcp-run` is not the one that the daemon has read.
pub fn changed_file(data: &Value) -> Option<String> {
    let words = || changed_words(data["config_error"].as_str(), "\"bpm reload\"");
    (data["config_changed"] == true).then(words)
}

/// The sentence of a `.mcp-run` that is not the one that was read. `error`: why it cannot be used; `reload`: the name of
/// what takes it over.
pub fn changed_words(error: Option<&str>, reload: &str) -> String {
    let then = match error {
        None => format!("{reload} takes it over"),
        Some(why) => format!(
            "it cannot be used, and what runs goes on as before: {why}; once it is repaired, {reload} takes it over"
        ),
    };
    format!("{CONFIG_FILE} has changed since it was read: {then}")
}

/// The lines below the table.
pub fn notes(data: &Value) -> Vec<String> {
    let list = data["processes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<String> = strings(&data["warnings"])
        .map(|warning| format!("bpm: {warning}"))
        .collect();
    lines.extend(troubles(list));
    if data["release_in_seconds"].is_number() {
        let span = span(&data["release_in_seconds"]);
        lines.push(format!(
            "dev builds; release again in {span} if nobody calls"
        ));
    }
    lines.extend(changed_file(data));
    lines
}

/// The table of `bpm status`: one row for each process of `get_status`.
pub fn processes(list: &[Value], paint: Paint) -> String {
    let head = [
        "NAME", "STATE", "MODE", "PID", "UPTIME", "RESTARTS", "CPU", "MEMORY", "PORTS",
    ];
    let mut rows = vec![
        head.iter()
            .enumerate()
            .map(|(i, name)| Cell {
                right: (3..8).contains(&i),
                ..Cell::toned(Tone::Bold, *name)
            })
            .collect::<Vec<_>>(),
    ];
    rows.extend(list.iter().map(|p| {
        let state = text(p, "state");
        let is_open = |port: &Value| items(&p["open_ports"]).any(|open| open == port);
        let ports = items(&p["ports"]).map(|port| match is_open(port) {
            true => format!("*:{}", integer(port)),
            false => integer(port),
        });
        let ports: Vec<String> = ports.collect();
        vec![
            Cell::plain(text(p, "name")),
            Cell::toned(tone(state), state),
            Cell::plain(text(p, "mode")),
            Cell::number(integer(&p["pid"])),
            Cell::number(span(&p["uptime_seconds"])),
            Cell::number(integer(&p["restarts"])),
            Cell::number(
                p["cpu_percent"]
                    .as_f64()
                    .map_or("-".into(), |c| format!("{c:.1}%")),
            ),
            Cell::number(p["rss_bytes"].as_u64().map_or("-".into(), size)),
            Cell::plain(if ports.is_empty() {
                "-".into()
            } else {
                ports.join(",")
            }),
        ]
    }));
    table(&rows, paint)
}

/// The faults of the processes, a line each, without a newline: a person should see them below the table.
pub fn troubles(list: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for p in list {
        let name = text(p, "name");
        let state = text(p, "state");
        let build = &p["build"];
        let mut say = |what: String| lines.push(format!("{name}: {what}"));
        if matches!(state, "crashed" | "failed") {
            say(ended(p, state));
        } else if let Some(reason) = p["reason"].as_str() {
            say(reason.to_string());
        }
        if build["state"] == "failed" {
            let said = text(p, "reason").starts_with("build failed");
            match p["pid"].is_i64() {
                true => say("the last build failed; the old one still serves".into()),
                false if said => {}
                false => say("the last build failed".into()),
            }
            for error in items(&build["errors"]).take(3) {
                say(build_error(error));
            }
        } else if build["state"] == "running" {
            let phase = build["phase"].as_str().unwrap_or("building");
            say(format!("{phase}, for {}", span(&build["seconds"])));
        }
        if p["rolled_back"] == true {
            say("rolled back: the newest build died at its start".into());
        }
        if p["healthy"] == false {
            say("its health check fails".into());
        }
        let reason = p["reason"].as_str().unwrap_or_default();
        strings(&p["warnings"])
            .filter(|warning| !reason.contains(warning))
            .for_each(|warning| say(warning.into()));
        if let Some(why) = p["log_trouble"].as_str() {
            say(format!("{why}; its new lines are in memory only"));
        }
    }
    lines
}

fn ended(p: &Value, state: &str) -> String {
    let mut what = match p["reason"].as_str() {
        Some(reason) => format!("{state}: {reason}"),
        None if p["exit"].is_object() => format!("{state}: {}", exit_words(&p["exit"])),
        None => state.to_string(),
    };
    if p["next_start_in_seconds"].is_number() {
        what.push_str(&format!(
            "; next start in {}",
            span(&p["next_start_in_seconds"])
        ));
    } else if state == "failed" {
        what.push_str(&format!("; \"bpm start {}\" tries again", text(p, "name")));
    }
    what
}

/// `exit code 3`, `signal KILL (probably out of memory)`.
pub fn exit_words(exit: &Value) -> String {
    snapshot::exit_words(
        exit["signal"].as_str(),
        exit["code"].as_i64(),
        exit["core"] == true,
        exit["oom"] == true,
    )
}

/// `src/main.rs:7:5: E0308: mismatched types`.
pub fn build_error(error: &Value) -> String {
    let mut place = String::new();
    if let Some(file) = error["file"].as_str() {
        place.push_str(file);
        for key in ["line", "column"] {
            if let Some(n) = error[key].as_u64() {
                place.push_str(&format!(":{n}"));
            }
        }
        place.push_str(": ");
    }
    format!("{place}{}", text(error, "message"))
}

/// The lines of `bpm up` for its processes, spaced as the specification shows them.
pub fn reached(list: &[Value], paint: Paint) -> String {
    let wider = |text: &str| match text {
        "" => Cell::plain(""),
        text => Cell::plain(format!("{text} ")),
    };
    // What does not run serves nothing: its port may be another program's.
    let url = |p: &'_ Value| match p["pid"].is_number() {
        true => p["url"].as_str().unwrap_or_default().to_owned(),
        false => String::new(),
    };
    let anywhere = list.iter().any(|p| !url(p).is_empty());
    let rows: Vec<Vec<Cell>> = list
        .iter()
        .map(|p| {
            let state = text(p, "state");
            let pid = p["pid"].as_i64().map(|pid| format!("pid {pid}"));
            let mut row = vec![wider(text(p, "name")), Cell::toned(tone(state), state)];
            if anywhere {
                row.push(wider(&url(p)));
            }
            row.push(wider(text(p, "mode")));
            row.push(Cell::plain(pid.unwrap_or_default()));
            row
        })
        .collect();
    let lines = table(&rows, paint);
    lines
        .lines()
        .map(|l| format!("{}\n", l.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Paint = Paint { on: false };

    #[test]
    fn up_ends_as_the_specification_shows_it() {
        let list = [
            json!({"name": "api", "state": "running", "url": "http://127.0.0.1:8080", "mode": "release", "pid": 4711}),
            json!({"name": "web", "state": "running", "url": "http://127.0.0.1:5173", "mode": "dev", "pid": 4720}),
        ];
        assert_eq!(
            reached(&list, PLAIN),
            "api   running  http://127.0.0.1:8080   release   pid 4711\n\
             web   running  http://127.0.0.1:5173   dev       pid 4720\n"
        );
        let crashed = [
            json!({"name": "api", "state": "crashed", "url": "http://127.0.0.1:8080",
                              "mode": "release", "pid": null}),
        ];
        assert_eq!(reached(&crashed, PLAIN), "api   crashed  release\n");
    }

    #[test]
    fn a_table_is_aligned_and_ends_without_blanks() {
        let list = [
            json!({"name": "api", "state": "running", "mode": "dev", "pid": 12, "uptime_seconds": 11520.0,
                   "restarts": 0, "cpu_percent": 1.25, "rss_bytes": 12_900_000, "ports": [8080, 8081]}),
            json!({"name": "worker", "state": "stopped", "mode": "release", "pid": null, "restarts": 3, "ports": []}),
        ];
        assert_eq!(
            processes(&list, PLAIN),
            "NAME    STATE    MODE     PID  UPTIME  RESTARTS   CPU  MEMORY  PORTS\n\
             api     running  dev       12   3h12m         0  1.2%   12.3M  8080,8081\n\
             worker  stopped  release    -       -         3     -       -  -\n"
        );
        let painted = processes(&list, Paint::new(true));
        assert!(painted.contains("\x1b[32mrunning\x1b[0m"));
    }

    #[test]
    fn what_is_wrong_is_said_and_what_is_right_is_not() {
        let good = json!({"name": "api", "state": "running", "pid": 1, "build": {"state": "ok", "errors": []}});
        assert_eq!(troubles(&[good]), Vec::<String>::new());
        let broken = json!({"name": "api", "state": "running", "pid": 1, "build": {"state": "failed",
            "errors": [{"file": "src/main.rs", "line": 7, "column": null, "message": "E0308: mismatched types"}]}});
        assert_eq!(
            troubles(&[broken]),
            [
                "api: the last build failed; the old one still serves",
                "api: src/main.rs:7: E0308: mismatched types"
            ]
        );
        let unbuilt = json!({"name": "app", "state": "failed", "reason": "build failed: exit code 1",
            "next_start_in_seconds": 21.0, "build": {"state": "failed", "errors": []}});
        assert_eq!(
            troubles(&[unbuilt]),
            ["app: failed: build failed: exit code 1; next start in 21s"]
        );
        let crashed = json!({"name": "web", "state": "crashed", "exit": {"code": 3}, "next_start_in_seconds": 12.0});
        assert_eq!(
            troubles(&[crashed]),
            ["web: crashed: exit code 3; next start in 12s"]
        );
        let full = json!({"name": "web", "state": "running", "log_trouble": "cannot write /l: no space left on device"});
        assert_eq!(
            troubles(&[full]),
            ["web: cannot write /l: no space left on device; its new lines are in memory only"]
        );
    }

    #[test]
    fn processes_that_were_taken_over_are_named() {
        let of = |n: usize| json!({"name": format!("p{n}"), "adopted": n != 1});
        let all = |count: usize| adopted(&(0..count).map(of).collect::<Vec<_>>());
        assert_eq!(all(0), None);
        let said = "adopted from a daemon that was killed: p0, p2";
        assert_eq!(all(3).as_deref(), Some(said));
        assert!(all(20).unwrap().ends_with("p9, p10 and 9 more"));
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0, 999, 1_000, 12_900_000, 5_368_709_120].map(size);
        assert_eq!(shown, ["0B", "999B", "1.0K", "12.3M", "5.0G"]);
    }
}
