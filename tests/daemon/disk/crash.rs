//! What a daemon that is killed has shown is on disk, and the next one goes on behind it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::files::{bytes, segments};
use crate::common::{Project, bpm, eventually, log_data, murder};

/// A line that was shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    seq: u64,
    run: u64,
    text: String,
}

fn shown(line: &Value, run: &Value) -> Shown {
    Shown {
        seq: line["seq"].as_u64().unwrap(),
        run: run.as_u64().unwrap(),
        text: line["text"].as_str().unwrap().into(),
    }
}

/// `bpm logs -f --json`, and all that it has printed.
struct Follower {
    child: Child,
    lines: JoinHandle<Vec<Shown>>,
    /// The run of the newest line that it has shown.
    run: Arc<AtomicU64>,
}

impl Follower {
    fn new(project: &Project, args: &[&str]) -> Self {
        let mut child = project
            .command(bpm())
            .args(["logs", "-f", "p", "--json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let run = Arc::new(AtomicU64::new(0));
        let newest = Arc::clone(&run);
        let lines = std::thread::spawn(move || {
            let mut all = Vec::new();
            for line in out.lines() {
                // The last one may have been cut by the end of the follower.
                let Ok(line) = serde_json::from_str::<Value>(&line.unwrap()) else {
                    break;
                };
                // One that is far behind is told how many lines left the disk before it came to them.
                if line["dropped"].is_null() {
                    let line = shown(&line, &line["run"]);
                    newest.store(line.run, Ordering::Relaxed);
                    all.push(line);
                }
            }
            all
        });
        Self { child, lines, run }
    }

    fn end(mut self) -> Vec<Shown> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.join().unwrap()
    }
}

/// Two that a follower saw one after the other, although they are not: it sees each line once.
fn out_of_order(seen: &[Shown]) -> Option<&[Shown]> {
    seen.windows(2).find(|w| w[0].seq >= w[1].seq)
}

/// The complete lines of a run in its files, which have no gap: number and text. Where the oldest are
/// gone, the first may be without its begin.
fn written(project: &Project, run: u64) -> Vec<(u64, String)> {
    let text = String::from_utf8(bytes(project, "p", run)).unwrap();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let first = segments(project, "p", "")
        .into_iter()
        .find(|s| s.run == run);
    let is_cut = first.is_some_and(|first| first.number > 0);
    let whole = match whole.split_once('\n') {
        Some((_, rest)) if is_cut => rest,
        _ => whole,
    };
    let number = |line: &str| line[..10].parse::<u64>().unwrap();
    let lines: Vec<(u64, String)> = whole.lines().map(|l| (number(l), l.into())).collect();
    for (n, (number, line)) in (lines[0].0..).zip(&lines) {
        assert_eq!(*number, n, "{line}");
        assert_eq!(line.len() as u64, 10 + n * 7 % 80, "{line}");
    }
    lines
}

fn newest(project: &Project, args: Value) -> (Vec<Shown>, Value) {
    let mut args = args;
    args["process"] = json!("p");
    args["format"] = json!("json");
    let data = log_data(&project.call("search_logs", args));
    let lines = data["lines"].as_array().unwrap().iter();
    // An unfinished line has no number, and may be a part of another one.
    let lines = lines.filter(|line| line["partial"] == false);
    let lines = lines.map(|line| shown(line, &data["run"])).collect();
    (lines, data)
}

#[test]
fn shown_lines_survive_the_death_of_the_daemon() {
    let mut project = Project::new(
        "log_disk = \"48M\"\n[process.p]\n\
         command = \"while [ ! -e go ]; do sleep 0.02; done; exec FIXTURE count\"\n",
    );
    // A run for each round.
    project.args(&["--fresh"]);
    let mut random = u64::from(std::process::id());
    let mut highest = 0;
    let mut before: Vec<Shown> = Vec::new();
    for round in 1..=4 {
        project.up();
        // What was shown before the kill is there, under the same numbers.
        for line in &before {
            let args = json!({"after": line.seq - 1, "head": 1});
            let (found, data) = newest(&project, args);
            // A run that went on for long may have outgrown the budget: then its begin is gone.
            if data["dropped"] != 0 {
                let oldest = &segments(&project, "p", "")[0];
                assert!(oldest.number > 0 && found[0].seq > line.seq, "{data}");
                continue;
            }
            assert_eq!(found[0].seq, line.seq, "{data}");
            let text = &found[0].text;
            assert!(text.starts_with(&line.text), "{line:?} was {text}");
        }
        project.file("go", "");
        let first = eventually(|| {
            let (found, data) = newest(&project, json!({"head": 1}));
            let first = found.into_iter().find(|line| line.run == round);
            first.ok_or(data)
        });
        assert!(first.seq > highest, "{first:?} after {highest}");
        let follower = Follower::new(&project, &["-n", "3"]);
        let mut seen = vec![first];
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        for _ in 0..=(random >> 33) % 15 {
            seen.extend(newest(&project, json!({"tail": 3})).0);
        }
        murder(project.pid());
        project.remove("go");
        let followed = follower.end();
        assert_eq!(out_of_order(&followed), None);
        seen.extend(followed);
        let lines = written(&project, round);
        let last = bytes(&project, "p", round);
        let last = String::from_utf8_lossy(&last[last.len().saturating_sub(200)..]).into_owned();
        for line in seen.iter().filter(|l| l.text.len() >= 10) {
            assert_eq!(line.run, round);
            // One whose begin was gone with the segment before it has no number.
            let Ok(n) = line.text[..10].parse::<u64>() else {
                assert!(lines[0].0 > 1, "{line:?}");
                continue;
            };
            let there = match n.checked_sub(lines[0].0).map(|at| lines.get(at as usize)) {
                Some(Some((_, text))) => text.starts_with(&line.text),
                Some(None) => last.contains(&line.text),
                None => true,
            };
            assert!(there, "{line:?} is not in {} lines", lines.len());
        }
        seen.sort();
        highest = seen.last().unwrap().seq;
        let step = seen.len().div_ceil(8);
        before = seen.into_iter().rev().step_by(step).collect();
        before.retain(|line| !line.text.is_empty());
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_follower_goes_on_over_a_kill_with_what_it_had_not_seen() {
    let mut project =
        Project::new("[process.p]\ncommand = [\"FIXTURE\", \"rate\", \"4000\", \"600\"]\n");
    project.args(&["--fresh"]);
    project.up();
    let follower = Follower::new(&project, &["-n", "10000"]);
    let lines_of = |project: &Project, run: u64, text: &str| {
        // Shown by a daemon, or on disk at least.
        let args = ["logs", "p", "--grep", text, "--json"];
        eventually(|| {
            let out = project.cli(args).out;
            let there = out.lines().any(|l| {
                let line: Value = serde_json::from_str(l).unwrap();
                line["run"] == run
            });
            if there { Ok(()) } else { Err(out) }
        });
    };
    for run in 1..=4 {
        lines_of(&project, run, "^line 1500$");
        murder(project.pid());
        project.up();
    }
    lines_of(&project, 5, "^line 500$");
    eventually(|| match follower.run.load(Ordering::Relaxed) {
        5 => Ok(()),
        behind => Err(behind),
    });
    project.cli(["stop"]).exits(0);
    let all = follower.end();
    assert_eq!(out_of_order(&all), None);
    for run in 1..=4 {
        let bytes = String::from_utf8(bytes(&project, "p", run)).unwrap();
        let written: Vec<&str> = bytes.lines().collect();
        let of_run = all.iter().filter(|l| l.run == run);
        let seen: Vec<&str> = of_run.map(|l| l.text.as_str()).collect();
        assert_eq!(seen, written, "run {run}");
    }
}
