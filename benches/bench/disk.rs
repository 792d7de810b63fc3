//! Logs on disk: what is found in a gigabyte of them, and how soon a line is shown to who follows.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bpm::base::clock::Mono;
use serde_json::json;

use super::common::{Project, bpm, eventually, fixture};
use super::{Bench, between, end, memory_folder, ms, row, served, sorted, spread, timed};

/// A project on tmpfs, whose process has written so much, most of which is no longer in memory.
fn written(command: &str, lines: u64) -> Project {
    let mut project = Project::below(&memory_folder());
    project.config(&format!(
        "passthrough = false\nlog_disk = \"4G\"\n[process.a]\ncommand = {command}\n"
    ));
    project.serve();
    project.status_when("a", |s| {
        let of = |key: &str| s[key].as_u64().unwrap_or(0);
        of("log_lines") + of("log_dropped") >= lines
    });
    project
}

fn files(project: &Project) -> Vec<PathBuf> {
    let folder = project.state_folder().unwrap().join("logs/a");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    files.sort();
    files
}

/// Seconds that a command takes; what it says goes nowhere.
fn run(command: &mut Command) -> f64 {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    timed(|| assert!(command.status().unwrap().success()))
}

pub(super) fn disk(bench: &Bench) {
    history(bench);
    tail(bench);
    for load in [false, true] {
        followed(bench, load);
    }
}

fn history(bench: &Bench) {
    let lines: u64 = if bench.quick { 1_000_000 } else { 8_400_000 };
    let project = written(&format!("[\"FIXTURE\", \"log\", \"{lines}\"]"), lines);
    let files = files(&project);
    let size: u64 = files.iter().map(|f| f.metadata().unwrap().len()).sum();
    assert_eq!(size, lines * 120, "all of it is on disk");
    let size = size as f64 / 1e9;
    let what = |how: &str| format!("rare literal in {size:.1} GB of history on disk, {how}");
    for (pattern, hits) in [("the needle is", 1), ("no such thing at all", 0)] {
        let grep = (0..bench.rounds(5)).map(|_| {
            let mut grep = Command::new("grep");
            grep.args(["-c", "-F", pattern]).args(&files);
            grep.stdin(Stdio::null()).stdout(Stdio::null());
            timed(|| assert_eq!(grep.status().unwrap().success(), hits > 0))
        });
        let grep = format!("`grep -c -F` {}", spread(grep.collect()));
        let args = ["logs", "a", "--grep", pattern, "-F", "-n", "1"];
        let found = project.cli(args).exits(0).out;
        assert_eq!(found.lines().count(), hits, "{found}");
        let walls = (0..bench.rounds(5)).map(|_| run(project.command(bpm()).args(args)));
        let word = if hits > 0 { "found" } else { "not there" };
        row(
            &what(&format!("`bpm logs --grep -F`, {word}")),
            spread(walls.collect()),
            grep,
            "grep's time",
        );
    }
    // An agent waits no longer than its budget; what it learns is how far the search came.
    let mut client = project.http();
    let args = json!({"process": "a", "pattern": "no such thing at all", "literal": true});
    let mut said = String::new();
    let wall = timed(|| said = client.call("search_logs", args).text());
    let word = match said.contains("time limit") {
        true => "ended at its limit and said so",
        false => "all of it",
    };
    row(
        &what("through a tool call"),
        format!("{}, {word}", ms(wall)),
        "-",
        "its budget, 500 ms",
    );
}

fn tail(bench: &Bench) {
    let bytes: u64 = if bench.quick { 256 << 20 } else { 2 << 30 };
    let flood = format!("[\"FIXTURE\", \"flood\", \"{bytes}\", \"took\"]");
    let project = written(&flood, bytes / 120);
    let files = files(&project);
    let newest = files.last().unwrap();
    let mut client = project.http();
    let args = json!({"process": "a", "tail": 200});
    let walls =
        (0..bench.rounds(51)).map(|_| timed(|| drop(client.call("search_logs", args.clone()))));
    let beside = (0..bench.rounds(21)).map(|_| {
        let mut tail = Command::new("tail");
        run(tail.args(["-n", "200"]).arg(newest))
    });
    let beside = format!("`tail -n 200`, a process {}", spread(beside.collect()));
    let size = bytes as f64 / 1e9;
    row(
        &format!("last 200 lines of a run of {size:.1} GB, through a tool call"),
        spread(walls.collect()),
        &beside,
        "< 2 ms",
    );
    // From the middle of it: far from what is in memory.
    let seq = bytes / 240;
    let args = json!({"process": "a", "after": seq, "head": 200});
    let walls =
        (0..bench.rounds(51)).map(|_| timed(|| drop(client.call("search_logs", args.clone()))));
    row(
        &format!("200 lines behind a cursor in the middle of {size:.1} GB"),
        spread(walls.collect()),
        beside,
        "< 5 ms",
    );
    client.call("stop", json!({"process": "a"}));
    drop(client);
    project.cli(["stop"]).exits(0);
    let walls = (0..bench.rounds(11)).map(|_| run(project.command(bpm()).args(["logs", "a"])));
    row(
        "the same without a daemon, `bpm logs`, wall",
        spread(walls.collect()),
        "-",
        "< 10 ms",
    );
}

/// Seconds from a line's making to its sight, for so many lines that say when they were made.
fn seen(out: impl Read, count: usize) -> Vec<f64> {
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    let late = |line: String| {
        Some(between(
            Mono::from_nanos(line.parse().ok()?),
            Mono::now().as_nanos(),
        ))
    };
    lines.filter_map(late).skip(20).take(count).collect()
}

fn followed(bench: &Bench, load: bool) {
    let count = bench.rounds(900);
    let flood = match load {
        true => "[process.b]\ncommand = [\"FIXTURE\", \"count\"]\nlog_disk = \"64M\"\n",
        false => "",
    };
    let project = served(&format!(
        "passthrough = false\n[process.a]\ncommand = [\"FIXTURE\", \"tick\", \"3\"]\n{flood}"
    ));
    project.running("a");
    if load {
        project.status_when("b", |s| s["log_dropped"].as_u64() > Some(100_000));
    }
    let piped = |command: &mut Command| -> Child {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let measured = |mut child: Child| {
        let late = seen(child.stdout.take().unwrap(), count);
        end(&mut child);
        late
    };
    let late = measured(piped(
        project.command(bpm()).args(["logs", "-f", "a", "-n", "0"]),
    ));
    let file = eventually(|| files(&project).last().cloned().ok_or("no file"));
    let tail = measured(piped(
        Command::new("tail").args(["-n", "0", "-F"]).arg(file),
    ));
    let bare = measured(piped(Command::new(fixture()).args(["tick", "3"])));
    let worst = |late: Vec<f64>| ms(*sorted(late).last().unwrap());
    let beside = format!(
        "a pipe {}; `tail -F` of the file {}, worst {}",
        spread(bare),
        spread(tail.clone()),
        worst(tail)
    );
    let what = if load {
        "beside one that floods"
    } else {
        "idle"
    };
    row(
        &format!("line written -> seen by `bpm logs -f`, {what}"),
        format!("{}, worst {}", spread(late.clone()), worst(late)),
        beside,
        if load { "< 20 ms" } else { "< 1 ms" },
    );
}
