//! What is found on disk is what would have been found in memory: two bpms are told the same, one keeps
//! all in memory and nothing on disk, the other next to nothing in memory.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use super::files::{Random, segments};
use crate::common::{Project, eventually, log_data};

const PIECES: &[&[u8]] = &[
    b"listening on 8080",
    b"Error: request 17 failed",
    b"error: REQUEST 18 timed out",
    b"warning: disk almost full",
    b"\x1b[31mred error\x1b[0m",
    b"GET /a/b?c=d 200 12ms",
    b"",
    b" ",
    b"\xff\xfe bytes \x00 in between",
    "z\u{fc}rich \u{2028} stra\u{df}e".as_bytes(),
    b"\r",
    b"thread 'main' panicked at src/main.rs:7:5:",
    b"    at foo (bar.js:1:2)",
];

/// Some bytes that a process may write at once; they end with a mark that can be waited for.
fn chunk(random: &mut Random, n: usize, small: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let lines = match random.below(10) {
        _ if small => 2,
        0 => 1_500,
        1 => 300,
        2..=5 => 20,
        _ => 2,
    };
    for _ in 0..random.below(lines) {
        for _ in 0..random.below(4) {
            bytes.extend_from_slice(random.one(PIECES));
        }
        bytes.push(b'\n');
    }
    match random.below(30) {
        _ if small => {}
        // Longer than a line may be.
        0 => bytes.resize(bytes.len() + 70_000 + random.below(100_000), b'x'),
        1 => bytes.resize(bytes.len() + random.below(60_000), b'y'),
        _ => {}
    }
    bytes.extend(format!(" mark {n}.").as_bytes());
    // Often it stays unfinished, and goes on with the next one of its stream.
    if small || random.below(3) > 0 {
        bytes.push(b'\n');
    }
    bytes
}

fn search(project: &Project, args: &Value) -> Value {
    let mut args = args.clone();
    args["process"] = json!("p");
    args["format"] = json!("json");
    args["max_chars"] = json!(50_000);
    let answer = project.call("search_logs", args);
    if answer.failed {
        return json!(answer.text);
    }
    let mut data = log_data(&answer);
    forget_times(&mut data);
    data
}

/// Two bpms are not told at the same moment.
fn forget_times(data: &mut Value) {
    match data {
        Value::Object(map) => {
            for key in ["time", "started_at", "ended_at", "first", "last"] {
                map.remove(key);
            }
            map.values_mut().for_each(forget_times);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// A process that says what it is told.
fn told(config: &str) -> Project {
    let mut project = Project::new(&format!(
        "{config}\n[process.p]\ncommand = [\"FIXTURE\", \"relay\", \"orders\"]\n"
    ));
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&project.root.join("orders"), mode).unwrap();
    project.up();
    project
}

fn tell(project: &Project, stream: usize, bytes: &[u8]) {
    fs::write(project.root.join("said"), bytes).unwrap();
    let mut orders = fs::File::options()
        .write(true)
        .open(project.root.join("orders"))
        .unwrap();
    writeln!(orders, "{stream} said").unwrap();
}

/// Waits until the newest line of a stream ends with that mark.
fn heard(project: &Project, stream: usize, n: usize) {
    let stream = ["stdout", "stderr"][stream - 1];
    let mark = format!("mark {n}.");
    eventually(|| {
        let found = search(project, &json!({"stream": stream, "tail": 1}));
        let text = found["lines"][0]["text"].as_str().unwrap_or_default();
        if text.ends_with(&mark) {
            Ok(())
        } else {
            Err(format!(
                "{mark} {found} {}",
                project.read(".mcp-run").lines().next().unwrap()
            ))
        }
    });
}

fn query(random: &mut Random, newest: usize) -> Value {
    let mut query = json!({"index": random.one(&[-1, -1, -1, -2, -3, 0, 1, 2])});
    let mut put = |key: &str, value: Value| query[key] = value;
    match random.below(8) {
        0 | 1 => {}
        2 => put("pattern", json!("[Ee]rror.*(failed|out)")),
        3 => put("pattern", json!("mark [0-9]*7")),
        4 => put("pattern", json!("nothing like it")),
        5 => {
            put("pattern", json!("ERROR"));
            put("ignore_case", json!(true));
        }
        6 => {
            put("pattern", json!("disk almost"));
            put("literal", json!(true));
        }
        _ => put("pattern", json!("^$")),
    }
    if random.below(3) == 0 {
        put("context_lines", json!(random.below(4)));
    }
    match random.below(4) {
        0 => put("head", json!(1 + random.below(60))),
        1 => put("tail", json!(random.below(60))),
        2 => put("head", json!(5_000)),
        _ => {}
    }
    if random.below(3) == 0 {
        put("after", json!(random.below(newest + 10)));
    }
    if random.below(3) == 0 {
        put("stream", json!(random.one(&["stdout", "stderr"])));
    }
    query
}

#[test]
fn answers_from_disk_are_those_from_memory() {
    let memory = told("log_disk = 0\nlog_bytes = \"256M\"\nlog_lines = 10000000");
    let disk = told("log_disk = \"2M\"\nlog_bytes = \"64K\"\nlog_lines = 100");
    let both = [&memory, &disk];
    let mut random = Random(0x5eed_1e55);
    let mut n = 0;
    for run in 0..3 {
        if run > 0 {
            for project in both {
                project.call("restart", json!({"process": "p"})).ok();
            }
        }
        let mut unfinished = None;
        for _ in 0..30 {
            n += 1;
            // A few lines of the other stream may overtake one that is not finished.
            let between = unfinished.is_some() && random.below(2) == 0;
            let stream = match unfinished {
                Some(stream) if between => 3 - stream,
                Some(stream) => stream,
                None => 1 + random.below(2),
            };
            let bytes = chunk(&mut random, n, between);
            both.iter()
                .for_each(|project| tell(project, stream, &bytes));
            both.iter().for_each(|project| heard(project, stream, n));
            if !between {
                unfinished = (!bytes.ends_with(b"\n")).then_some(stream);
            }
        }
    }
    let newest = search(&memory, &json!({}))["next"].as_u64().unwrap() as usize;
    assert!(newest > 5_000, "{newest}");
    // A run of several files, all of which are there still.
    let files = segments(&disk, "p", "");
    assert!(
        files.len() > 3 && files[0].number == 0 && files[0].run == 1,
        "{files:?}"
    );
    for _ in 0..80 {
        let query = query(&mut random, newest);
        let [a, b] = both.map(|project| search(project, &query));
        assert!(a == b, "{query}\nmemory: {a}\ndisk:   {b}");
    }
    for _ in 0..12 {
        let mut args = json!({"process": "p", "index": random.one(&[-1, -2, 0])});
        if random.below(2) == 0 {
            args["after"] = json!(random.below(newest));
        }
        let [a, b] = both.map(|project| {
            let mut data = project.call("get_errors", args.clone()).ok();
            forget_times(&mut data);
            // Beyond 512 shapes it counts what is not told apart, and which shapes those are depends on the pages.
            if let Some(data) = data.as_object_mut() {
                data.remove("notes");
            }
            data
        });
        assert!(a == b, "{args}\nmemory: {a}\ndisk:   {b}");
    }
    // Page by page, over all runs.
    let mut after = 0;
    loop {
        let args = json!({"after": after, "head": 197});
        let [a, b] = both.map(|project| search(project, &args));
        assert!(a == b, "{args}\nmemory: {a}\ndisk:   {b}");
        let next = a["next"].as_u64().unwrap();
        if next == after {
            break;
        }
        after = next;
    }
    assert_eq!(after as usize, newest);
    // Without a daemon, from the files alone.
    for project in both {
        project.call("stop", json!({"process": "p"})).ok();
    }
    let ways: Vec<Vec<String>> = [-1, -2, 0]
        .iter()
        .flat_map(|run| {
            [
                format!("logs p --json --run {run} -n 10000"),
                format!("logs p --json --run {run} -n 50 --stream stderr"),
                format!("logs p --run {run} --grep error -i -C 2"),
            ]
        })
        .map(|way| way.split(' ').map(str::to_string).collect())
        .collect();
    let show = |project: &Project, way: &[String]| -> Vec<String> {
        let out = project.cli(way).exits(0).out;
        let timeless = |line: &str| match serde_json::from_str::<Value>(line) {
            Ok(mut value) if value.is_object() => {
                forget_times(&mut value);
                value.to_string()
            }
            _ => line.to_string(),
        };
        out.lines().map(timeless).collect()
    };
    let from_memory: Vec<_> = ways.iter().map(|way| show(&memory, way)).collect();
    disk.cli(["stop"]).exits(0);
    for (way, from_memory) in ways.iter().zip(from_memory) {
        assert_eq!(show(&disk, way), from_memory, "{way:?}");
    }
    memory.cli(["stop"]).exits(0);
}
