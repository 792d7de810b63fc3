//! Files that somebody or something has damaged: what can be read is read, and nobody falls over it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::files::{Random, folder, segments, wrote};
use crate::common::{Project, eventually};

/// A log of some segments, and no daemon.
struct Left {
    project: Project,
    folder: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Left {
    fn new(command: &str, lines: u64) -> Self {
        let mut project = Project::new(&format!(
            "log_disk = \"1M\"\n[process.p]\ncommand = \"{command}; exec FIXTURE nap\"\n"
        ));
        project.up();
        wrote(&project, "p", lines);
        project.cli(["stop"]).exits(0);
        let folder = folder(&project, "p");
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        };
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(read).collect();
        files.sort();
        assert!(segments(&project, "p", "").len() > 1);
        Self {
            project,
            folder,
            files,
        }
    }

    fn restore(&self) {
        for entry in fs::read_dir(&self.folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (path, bytes) in &self.files {
            fs::write(path, bytes).unwrap();
        }
    }

    /// What `bpm logs` shows without a daemon.
    fn lines(&self) -> Vec<(u64, String)> {
        let ended = self
            .project
            .cli(["logs", "p", "--json", "-n", "10000", "--run", "0"]);
        assert!(ended.err.is_empty(), "{ended:?}");
        let ended = ended.exits(0);
        let parse = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            (
                line["seq"].as_u64().unwrap(),
                line["text"].as_str().unwrap().to_string(),
            )
        };
        ended.out.lines().map(parse).collect()
    }

    /// One file of that kind.
    fn pick(&self, random: &mut Random, extension: &str) -> (PathBuf, Vec<u8>) {
        let fits = |f: &&(PathBuf, Vec<u8>)| f.0.extension().is_some_and(|e| e == extension);
        let of_kind: Vec<_> = self.files.iter().filter(fits).collect();
        of_kind[random.below(of_kind.len())].clone()
    }
}

/// Two lines of which the later has no higher number.
fn out_of_order(lines: &[(u64, String)]) -> Option<&[(u64, String)]> {
    lines.windows(2).find(|w| w[0].0 >= w[1].0)
}

/// Damages a file in one of many ways; says how.
fn damage(path: &Path, mut bytes: Vec<u8>, random: &mut Random) -> String {
    let at = random.below(bytes.len());
    let how = match random.below(7) {
        0 => {
            let _ = fs::remove_file(path);
            return format!("{path:?} removed");
        }
        1 => {
            bytes.truncate(at);
            "cut"
        }
        2 => {
            let end = (at + 1 + random.below(200)).min(bytes.len());
            bytes[at..end].fill_with(|| random.below(256) as u8);
            "overwritten"
        }
        3 => {
            bytes[at] ^= 1 << random.below(8);
            "a bit flipped"
        }
        4 => {
            bytes[at..].fill(0);
            "its end zeroed"
        }
        5 => {
            let length = random.below(bytes.len());
            bytes = (0..length).map(|_| random.below(256) as u8).collect();
            "all garbage"
        }
        _ => {
            let more = random.below(500);
            bytes.extend((0..more).map(|_| random.below(256) as u8));
            "garbage behind it"
        }
    };
    fs::write(path, bytes).unwrap();
    format!("{path:?} {how} at {at}")
}

#[test]
fn an_index_in_any_state_hides_no_line() {
    const LINES: u64 = 4_000;
    let left = Left::new(
        "seq -f 'line %.0f of a log that has to be longer than this xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' 4000",
        LINES,
    );
    let whole = left.lines();
    assert_eq!(whole.len() as u64, LINES);
    let texts: Vec<&str> = whole.iter().map(|(_, text)| text.as_str()).collect();
    let mut random = Random(0x9e37_79b9);
    for _ in 0..25 {
        left.restore();
        let (path, bytes) = left.pick(&mut random, "idx");
        let how = damage(&path, bytes, &mut random);
        let lines = left.lines();
        let found: Vec<&str> = lines.iter().map(|(_, text)| text.as_str()).collect();
        // Where a file begins within a line, only its index tells so: that line comes in two.
        let other: Vec<_> = found.iter().zip(&texts).filter(|(a, b)| a != b).collect();
        assert!(
            other.len() <= 1 && found.len() == texts.len(),
            "{how}: {other:?} {}",
            found.len()
        );
        assert_eq!(out_of_order(&lines), None, "{how}");
    }
    // All of them gone.
    left.restore();
    for (path, _) in left
        .files
        .iter()
        .filter(|(p, _)| p.extension().is_some_and(|e| e == "idx"))
    {
        fs::remove_file(path).unwrap();
    }
    let lines = left.lines();
    let other = lines.iter().zip(&texts).filter(|((_, a), b)| a != *b);
    assert!(other.count() < left.files.len() && lines.len() == texts.len());
}

#[test]
fn files_in_any_state_keep_no_daemon_from_its_work() {
    let mut left = Left::new(
        "for i in 1 2 3 4 5; do seq 500; seq 1000 1500 >&2; printf unfinished; printf more >&2; seq -f '%.0f xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' 900; done",
        5 * (500 + 501 + 900),
    );
    let mut random = Random(0x1234_5678);
    let known: BTreeSet<String> = left.lines().into_iter().map(|(_, text)| text).collect();
    for round in 0..20 {
        left.restore();
        let mut how = Vec::new();
        for _ in 0..=random.below(3) {
            let kind = if random.below(3) == 0 { "log" } else { "idx" };
            let (path, bytes) = left.pick(&mut random, kind);
            how.push(damage(&path, bytes, &mut random));
        }
        let lines = left.lines();
        if how.iter().all(|how| how.contains(".idx")) {
            assert_eq!(out_of_order(&lines), None, "{how:?}");
            let strange = lines
                .iter()
                .filter(|(_, text)| !known.contains(text))
                .count();
            // Where it is not known which stream said it, an unfinished line of one goes on with the other's.
            assert!(strange < 200, "{how:?}: {strange} of {}", lines.len());
        }
        if round % 10 != 0 {
            continue;
        }
        // A daemon takes it as it is, and its own lines have numbers of their own.
        left.project.up();
        let data = eventually(|| {
            let args = json!({"process": "p", "head": 1, "format": "json"});
            let data = crate::common::log_data(&left.project.call("search_logs", args));
            if data["lines"][0]["text"] == "1" {
                Ok(data)
            } else {
                Err(data)
            }
        });
        let last = lines.last().map_or(0, |(seq, _)| *seq);
        assert!(
            data["lines"][0]["seq"].as_u64() > Some(last),
            "{how:?}: {data}"
        );
        let all = json!({"process": "p", "pattern": "unfin", "index": 0, "context_lines": 2});
        let all = json!({"name": "search_logs", "arguments": all});
        let answer = left.project.rpc("tools/call", all);
        let log = fs::read_to_string(left.folder.join("../../daemon.log")).unwrap();
        assert!(answer["result"].is_object(), "{how:?}: {answer}\n{log}");
        left.project.cli(["stop"]).exits(0);
    }
}
