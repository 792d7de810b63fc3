//! What a process wrote is in its files, byte for byte, and is found again by the next daemon.

use std::fs;

use serde_json::json;

use super::files::{bytes, folder, lines, mode, restart, said, search, segments, texts};
use crate::common::{Project, eventually};

#[test]
fn runs_of_daemons_before_are_found_by_index_and_cursor() {
    let mut project = Project::new(
        "[process.p]\ncommand = \"for i in 1 2 3; do echo run $BPM_RUN line $i; done; exec FIXTURE nap\"\n",
    );
    let mut seen: Vec<Vec<(u64, String)>> = Vec::new();
    for round in 1..=3 {
        project.up();
        said(&project, "p", seen.len() as u64 + 1, "line 3");
        if round == 2 {
            project.call("restart", json!({"process": "p"})).ok();
            said(&project, "p", seen.len() as u64 + 2, "line 3");
        }
        for index in (1..=if round == 2 { 2 } else { 1 }).rev() {
            seen.push(lines(&search(&project, "p", json!({"index": -index}))));
        }
        // Every run that ever was, by either end, and all of them by a cursor.
        let count = seen.len() as i64;
        for (at, expected) in (0..).zip(&seen) {
            for index in [at, at - count] {
                let found = search(&project, "p", json!({"index": index}));
                assert_eq!(&lines(&found), expected, "{index}");
                assert_eq!(found["index"], at - count);
                assert_eq!(found["run"], at + 1);
            }
        }
        let all: Vec<(u64, String)> = seen.concat();
        for (at, (seq, _)) in all.iter().enumerate() {
            let found = search(&project, "p", json!({"after": seq}));
            assert_eq!(lines(&found), all[at + 1..], "after {seq}");
            assert_eq!(found["dropped"], 0);
        }
        assert!(all.windows(2).all(|w| w[0].0 < w[1].0), "{all:?}");
        project.cli(["stop"]).exits(0);
    }
    project.up();
    said(&project, "p", 5, "line 3");
    let first = search(&project, "p", json!({"index": 0}));
    assert_eq!(first["exit"], "signal TERM", "{first}");
    assert!(first["started_at"].as_str() < first["ended_at"].as_str());
    let beyond = project.call("search_logs", json!({"process": "p", "index": -9}));
    assert!(beyond.error().contains("5 runs can be searched"));
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_search_and_the_errors_reach_into_runs_before() {
    let mut project = Project::new(
        "[process.p]\ncommand = \"seq 1000; echo error: request 17 failed >&2; echo end; exec FIXTURE nap\"\n",
    );
    project.up();
    said(&project, "p", 1, "end");
    restart(&mut project);
    said(&project, "p", 2, "end");
    let found = search(
        &project,
        "p",
        json!({"index": -2, "pattern": "^50.$", "context_lines": 1, "head": 3}),
    );
    assert_eq!(texts(&found), ["499", "500", "501"]);
    assert_eq!(
        (&found["matches"], &found["searched"]),
        (&json!(10), &json!(1002))
    );
    let errors = project
        .call("get_errors", json!({"process": "p", "index": -2}))
        .ok();
    assert_eq!(
        errors["groups"][0]["sample"], "error: request 17 failed",
        "{errors}"
    );
    assert_eq!(errors["searched"], 1002);
    project.cli(["stop"]).exits(0);
}

#[test]
fn the_file_is_what_the_process_wrote() {
    let mut long = vec![b'y'; 3 << 20];
    long[1_000_000] = 0;
    let mut all: Vec<u8> = (0..=255).collect();
    all.extend(b"\r\n\xff\xfe bad\n\0\0\x1b[31mred\x1b[0m\n\n\n");
    all.extend(&long);
    all.extend("\n\u{e9}\u{2028}end\nno newline".as_bytes());
    for (name, content) in [
        ("mixed", all),
        ("empty line", b"\n".to_vec()),
        ("one byte", b"x".to_vec()),
        ("nuls", vec![0; 200_000]),
        ("newlines", vec![b'\n'; 200_000]),
    ] {
        let mut project = Project::new(
            "[process.a]\ncommand = [\"cat\", \"bytes\"]\nrestart = \"never\"\nautostart = false\n",
        );
        fs::write(project.root.join("bytes"), &content).unwrap();
        project.up();
        // The end of one run is no newline, and the next run has a file of its own.
        for run in 1..=2 {
            project.call("start", json!({"process": "a"}));
            project.status_when("a", |s| s["state"] == "done");
            assert!(bytes(&project, "a", run) == content, "{name}, run {run}");
        }
        project.cli(["stop"]).exits(0);
        assert!(bytes(&project, "a", 2) == content, "{name}, after the end");
    }
}

#[test]
fn two_streams_are_in_one_file_and_told_apart() {
    let mut project = Project::new(
        "[process.p]\ncommand = \"for i in $(seq 60); do echo out $i; echo err $i >&2; done; echo end; exec FIXTURE nap\"\n",
    );
    project.up();
    said(&project, "p", 1, "end");
    let all = |project: &Project| {
        eventually(|| {
            let found = search(
                project,
                "p",
                json!({"index": 0, "tail": 1000, "max_chars": 50_000}),
            );
            if found["matches"] == 121 {
                Ok(found)
            } else {
                Err(found)
            }
        })
    };
    let before = all(&project);
    // In the file they stand as they came.
    let written = String::from_utf8(bytes(&project, "p", 1)).unwrap();
    let mut found: Vec<&str> = written.lines().collect();
    let mut shown = texts(&before);
    found.sort_unstable();
    shown.sort_unstable();
    assert_eq!(found, shown);
    restart(&mut project);
    said(&project, "p", 2, "end");
    assert_eq!(lines(&all(&project)), lines(&before));
    for (stream, count) in [("stdout", 61), ("stderr", 60)] {
        let args = json!({"index": 0, "stream": stream, "tail": 400});
        let of = search(&project, "p", args);
        assert_eq!(of["matches"], count);
        let fits = |text: &String| match stream {
            "stderr" => text.starts_with("err "),
            _ => text.starts_with("out ") || text == "end",
        };
        assert!(texts(&of).iter().all(fits));
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn builds_have_files_of_their_own() {
    let mut project = Project::new(
        "[process.p]\ncommand = \"exec FIXTURE nap\"\nbuild = \"echo build of $(cat number); exit $(cat code)\"\n",
    );
    project.file("number", "one");
    project.file("code", "0");
    project.up();
    project.running("p");
    project.file("number", "two");
    project.file("code", "3");
    project.call("restart", json!({"process": "p"})).error();
    let of = |project: &Project, index: i64| {
        project.lines("search_build_log", json!({"process": "p", "index": index}))
    };
    assert_eq!(of(&project, -1)[0], "build of two");
    restart(&mut project);
    project.file("number", "three");
    eventually(|| {
        let (newest, before) = (of(&project, -1), of(&project, -2));
        match (newest.first(), before.first()) {
            (Some(newest), Some(before)) if newest.starts_with("build of") => {
                assert_eq!(before, "build of two");
                Ok(())
            }
            _ => Err((newest, before)),
        }
    });
    assert_eq!(of(&project, 0)[0], "build of one");
    let kept: Vec<Vec<u8>> = segments(&project, "p", "b")
        .iter()
        .map(|s| s.bytes())
        .collect();
    assert!(kept.len() >= 3, "{kept:?}");
    assert!(kept[0].starts_with(b"build of one\n") && kept[1].starts_with(b"build of two\n"));
    assert!(
        segments(&project, "p", "").is_empty(),
        "the process wrote nothing"
    );
    let shown = project
        .cli(["logs", "p", "--build", "--run", "0"])
        .exits(0)
        .out;
    assert!(shown.starts_with("build of one\n"), "{shown}");
    project.cli(["stop"]).exits(0);
}

#[test]
fn files_are_for_us_alone_and_come_with_the_first_byte() {
    let mut project = Project::new(
        "[process.p]\ncommand = \"read x <gate; echo >>passed; echo said; exec FIXTURE nap\"\n[process.mute]\ncommand = [\"FIXTURE\", \"nap\"]\n",
    );
    let gate = project.gate();
    project.up();
    project.running("mute");
    project.running("p");
    assert!(segments(&project, "p", "").is_empty());
    gate.open();
    project.line("p", "said");
    let [segment] = &segments(&project, "p", "")[..] else {
        panic!("one segment");
    };
    assert_eq!((segment.run, segment.number), (1, 0));
    assert!(segment.log.ends_with("000001-00.log"));
    assert_eq!(segment.bytes(), b"said\n");
    assert_eq!((mode(&segment.log), mode(&segment.index())), (0o600, 0o600));
    let folder = folder(&project, "p");
    assert_eq!(
        (mode(&folder), mode(folder.parent().unwrap())),
        (0o700, 0o700)
    );
    assert!(segments(&project, "mute", "").is_empty());
    project.cli(["stop"]).exits(0);
}

#[test]
fn without_a_budget_there_are_no_files() {
    let config = |disk: &str| {
        format!(
            "log_disk = {disk}\n[process.p]\ncommand = \"echo one; read x <gate; echo >>passed; echo two; exec FIXTURE nap\"\n"
        )
    };
    let mut project = Project::new(&config("0"));
    let gate = project.gate();
    project.up();
    project.line("p", "one");
    assert!(!folder(&project, "p").exists());
    // A reload turns it on: what comes from now on is written.
    project.config(&config("\"64M\""));
    project.call("reload", json!({})).ok();
    assert!(segments(&project, "p", "").is_empty());
    gate.open();
    project.line("p", "two");
    assert_eq!(bytes(&project, "p", 1), b"two\n");
    project.says("p", &["one", "two"]);
    assert_eq!(project.status("p")["restarts"], 0);
    // And off: the files go, or stay as they are, but nothing is added.
    project.config(&config("0"));
    project.call("reload", json!({})).ok();
    project.call("restart", json!({"process": "p"}));
    project.line("p", "one");
    assert!(segments(&project, "p", "").iter().all(|s| s.run == 1));
    project.cli(["stop"]).exits(0);
}
