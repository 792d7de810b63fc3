//! The files of a process's log, as anybody can read them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Project, eventually, log_data};

/// One file and its index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) run: u64,
    pub(crate) number: u64,
    pub(crate) log: PathBuf,
}

impl Segment {
    pub(crate) fn index(&self) -> PathBuf {
        self.log.with_extension("idx")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.log).unwrap()
    }
}

/// The folder of a process's logs.
pub(crate) fn folder(project: &Project, process: &str) -> PathBuf {
    project.state_folder().unwrap().join("logs").join(process)
}

/// All files of runs, oldest first; `b`: of builds.
pub(crate) fn segments(project: &Project, process: &str, prefix: &str) -> Vec<Segment> {
    let mut found: Vec<Segment> = fs::read_dir(folder(project, process))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let log = entry.unwrap().path();
            let name = log.file_name()?.to_str()?.strip_suffix(".log")?.to_string();
            let (run, number) = name.strip_prefix(prefix)?.split_once('-')?;
            Some(Segment {
                run: run.parse().ok()?,
                number: number.parse().ok()?,
                log,
            })
        })
        .collect();
    found.sort();
    found
}

/// All bytes of a run that are left.
pub(crate) fn bytes(project: &Project, process: &str, run: u64) -> Vec<u8> {
    let of_run = segments(project, process, "").into_iter();
    of_run
        .filter(|s| s.run == run)
        .flat_map(|s| s.bytes())
        .collect()
}

/// What the folder takes of the disk, in blocks of 4 KiB, as du(1) counts on most file systems. What is
/// there, and as large, in two looks one after the other was so between them; one look alone may count
/// what went before it was over.
pub(crate) fn usage(folder: &Path) -> u64 {
    let look = || -> BTreeMap<_, u64> {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let size = |file: &fs::DirEntry| Some(file.metadata().ok()?.len().next_multiple_of(4096));
        files
            .filter_map(|file| Some((file.file_name(), size(&file)?)))
            .collect()
    };
    let (first, second) = (look(), look());
    let both = first
        .iter()
        .filter_map(|(name, size)| Some(size.min(second.get(name)?)));
    both.sum()
}

/// Who may do what with it.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What `search_logs` answers as data.
#[track_caller]
pub(crate) fn search(project: &Project, process: &str, mut args: Value) -> Value {
    args["process"] = json!(process);
    args["format"] = json!("json");
    let answer = project.call("search_logs", args);
    assert!(!answer.failed, "{}", answer.text);
    log_data(&answer)
}

/// Number and text of each line of an answer.
pub(crate) fn lines(data: &Value) -> Vec<(u64, String)> {
    let of = |line: &Value| {
        let text = line["text"].as_str().unwrap().to_string();
        (line["seq"].as_u64().unwrap(), text)
    };
    data["lines"].as_array().unwrap().iter().map(of).collect()
}

/// The texts alone.
pub(crate) fn texts(data: &Value) -> Vec<String> {
    lines(data).into_iter().map(|(_, text)| text).collect()
}

/// Waits until a line of that run contains `part`: for who waits for the newest, an old one may be it.
#[track_caller]
pub(crate) fn said(project: &Project, process: &str, run: u64, part: &str) {
    eventually(|| {
        let args = json!({"pattern": part, "literal": true, "tail": 1});
        let found = search(project, process, args);
        let there = found["run"] == run && found["matches"] != 0;
        if there { Ok(()) } else { Err(found) }
    });
}

/// Waits until so many lines have been written since the daemon's start.
#[track_caller]
pub(crate) fn wrote(project: &Project, process: &str, lines: u64) {
    project.status_when(process, |s| {
        let of = |key: &str| s[key].as_u64().unwrap();
        of("log_lines") + of("log_dropped") >= lines
    });
}

/// Stops the daemon and starts it again.
pub(crate) fn restart(project: &mut Project) {
    project.cli(["stop"]).exits(0);
    project.up();
}

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
