//! `get_errors`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bpm::base::clock::Wall;
use bpm::engine::snapshot::{ExitView, State};
use bpm::log::search::Stream;
use bpm::log::store::{Limits, Log};
use serde_json::{Value, json};

use super::stage::*;

#[test]
fn errors_are_grouped_by_their_shape() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    print(&log, 3);
    for n in [17, 9_123] {
        let line = format!("error: request {n} failed after {n}ms\n    at handle (a.js:1:2)\n");
        log.append(1, Stream::Stderr, line.as_bytes());
    }
    log.append(1, Stream::Stdout, b"WARN slow\nfine\n");
    let args = json!({"process": "web"});
    let data = stage.data("get_errors", args.clone());
    let groups = data["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2, "{data}");
    let first = &groups[0];
    assert_eq!((&first["count"], &first["seq"]), (&json!(2), &json!(4)));
    assert_eq!(first["level"], "error");
    assert_eq!(
        first["sample"],
        "error: request 17 failed after 17ms\n    at handle (a.js:1:2)"
    );
    for time in ["first", "last"] {
        assert!(Wall::parse_rfc3339(first[time].as_str().unwrap()).is_some());
    }
    assert_eq!(groups[1]["level"], "warning");
    assert_eq!(groups[1]["seq"], 8);
    assert_eq!(
        (&data["process"], &data["searched"], &data["next"]),
        (&json!("web"), &json!(9), &json!(9))
    );

    let text = stage.text("get_errors", args);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("web: 2x error, ") && lines[0].ends_with(", seq 4"),
        "{text}"
    );
    assert_eq!(
        lines[1..3],
        [
            "   error: request 17 failed after 17ms",
            "       at handle (a.js:1:2)"
        ]
    );
    assert!(lines[3].starts_with("web: 1x warning, "), "{text}");
    assert_eq!(
        lines[4..],
        ["   WARN slow", "[2 groups in 9 lines | next 9]"]
    );
}

#[test]
fn a_cursor_tells_what_is_new_since_a_change() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    let run = log.begin(Wall(0));
    log.append(run, Stream::Stdout, b"error: old\n");
    let next = stage.data("get_errors", json!({"process": "web"}))["next"].clone();
    let args = json!({"process": "web", "after": next});
    assert_eq!(
        stage.text("get_errors", args.clone()),
        "no line of web looks like an error or a warning, and it has not crashed\n[0 groups in 0 lines | next 1]"
    );
    // A cursor crosses runs; an index is one run.
    log.end(run, Wall(1), "exit code 1");
    let run = log.begin(Wall(2));
    log.append(run, Stream::Stdout, b"ok\nerror: new\n");
    let data = stage.data("get_errors", args);
    assert_eq!(data["groups"][0]["sample"], "error: new");
    assert_eq!(data["groups"].as_array().unwrap().len(), 1);
    let data = stage.data("get_errors", json!({"process": "web", "index": -2}));
    assert_eq!(data["groups"][0]["sample"], "error: old");
    let why = stage.fail("get_errors", json!({"process": "web", "index": -7}));
    assert!(
        why.starts_with("web has no run of index -7: 2 runs"),
        "{why}"
    );
}

#[test]
fn a_build_has_errors_too() {
    let stage = Stage::new(vec![unit("web"), idle("new", State::Building)]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].build_log);
    let run = log.begin(Wall(0));
    let printed = "warning: unused variable: `x`\n --> src/main.rs:2:9\n\
        error[E0308]: mismatched types\n --> src/main.rs:3:5\n";
    log.append(run, Stream::Stderr, printed.as_bytes());
    let data = stage.data("get_errors", json!({"process": "web", "build": true}));
    assert_eq!(
        data["groups"][0]["sample"],
        "error[E0308]: mismatched types\n --> src/main.rs:3:5"
    );
    assert_eq!(data["groups"][1]["level"], "warning");
    for (build, what) in [(true, "been built"), (false, "run")] {
        assert_eq!(
            stage.text(
                "get_errors",
                json!({"process": "new", "build": build, "index": -3})
            ),
            format!("new has not {what} yet (it is building)\n[0 groups in 0 lines | next 0]")
        );
    }
}

#[test]
fn an_answer_is_bounded_and_says_what_is_missing() {
    let mut web = unit("web");
    web.log = Log::new(
        Limits {
            lines: 2_000,
            bytes: 8 << 20,
            runs: 10,
            disk: 0,
        },
        1,
        1,
    );
    let stage = Stage::new(vec![web]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    let run = log.begin(Wall(0));
    let name = |n: usize| [n / 26, n % 26].map(|l| char::from(b'a' + l as u8));
    for n in 0..600 {
        let [a, b] = name(n);
        let text = format!("error: {a}x{b}\n{}", "    at some place\n".repeat(13));
        log.append(run, Stream::Stderr, text.as_bytes());
    }
    let few = stage.data("get_errors", json!({"process": "web"}));
    assert_eq!(few["groups"].as_array().unwrap().len(), 10);
    let text = stage.text("get_errors", json!({"process": "web"}));
    assert!(text.contains("more groups left out: raise max"), "{text}");
    assert!(
        text.contains("lines before these are no longer kept]"),
        "{text}"
    );
    let most = stage.call("get_errors", json!({"process": "web", "max": 100}));
    let (most, text) = stage.checked("get_errors", most);
    assert_eq!(most["groups"].as_array().unwrap().len(), 100);
    assert!(
        text.ends_with(&format!("| next {}]", most["next"])),
        "{text}"
    );
    assert!(most.to_string().len() < 40_000);
    let why = stage.fail("get_errors", json!({"process": "web", "max": 0}));
    assert!(why.contains("whole number from 1 to 100"), "{why}");
}

#[test]
fn crashes_are_told_with_their_last_lines_back_to_the_last_good_run() {
    let mut mailer = unit("mailer");
    let long = |run: u64| ExitView {
        uptime: Duration::from_secs(600),
        ..exit(run, 1)
    };
    mailer.exits = Arc::new(VecDeque::from([
        exit(1, 1),
        long(2),
        exit(3, 1),
        exit(4, 2),
    ]));
    mailer.facts.crashes = 4;
    let mut api = unit("api");
    let asked = ExitView {
        asked: true,
        crash: false,
        ..exit(2, 0)
    };
    api.exits = Arc::new(VecDeque::from([exit(1, 1), asked]));
    let stage = Stage::new(vec![api, mailer]);
    let snapshot = stage.handle.snapshot.now();
    print(&snapshot.units[0].log, 3);
    print(&snapshot.units[1].log, 3);
    let answer = stage.call("get_errors", json!({}));
    let (value, text) = stage.checked("get_errors", answer);
    let crashes = value["crashes"].as_array().unwrap();
    let runs: Vec<u64> = crashes.iter().map(|c| c["run"].as_u64().unwrap()).collect();
    assert_eq!(runs, [4, 3, 2], "the one before the last good run is old");
    assert_eq!(crashes[0]["process"], "mailer");
    assert_eq!(crashes[0]["exit"], "exit code 2");
    assert_eq!(crashes[0]["tail"], json!(["thread 'main' panicked"]));
    assert_eq!(crashes[0]["what_happens_next"], "it runs");
    assert_eq!(crashes[1]["what_happens_next"], Value::Null);
    assert!(crashes[0]["hint"].as_str().unwrap().contains("make"));
    assert_eq!(crashes[1]["tail"], json!([]), "the same again");
    assert_eq!(value["next"], Value::Null);
    assert!(
        text.starts_with("mailer crashed: exit code 2 in run 4 after 3.0s, at ")
            && text.contains("; what happens next: it runs\n   thread 'main' panicked\nhint: 2 is"),
        "{text}"
    );
    let one = stage.data("get_errors", json!({"process": "api"}));
    assert_eq!(
        (&one["process"], &one["crashes"]),
        (&json!("api"), &json!([]))
    );
    assert!(one["next"].is_number());
    let since = stage.data(
        "get_errors",
        json!({"since": Wall(1_795_229_300_004).rfc3339()}),
    );
    assert_eq!(since["crashes"].as_array().unwrap().len(), 1);
    let why = stage.fail("get_errors", json!({"after": 3}));
    assert!(why.contains("name the process"), "{why}");
}

#[test]
fn anything_new_since_a_change_is_one_call_for_all_processes() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let snapshot = stage.handle.snapshot.now();
    for unit in &snapshot.units {
        let run = unit.log.begin(Wall(0));
        unit.log.append(run, Stream::Stdout, b"error: old\n");
        unit.log.end(run, Wall(1), "exit code 0");
        unit.log.begin(Wall::now());
    }
    let since = json!({"since": "1h"});
    let before = json!({"since": "2999-01-01T00:00:00Z"});
    let value = stage.data("get_errors", since);
    let of: Vec<&Value> = value["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| &g["process"])
        .collect();
    assert_eq!(of, [&json!("web"), &json!("api")], "times cross runs");
    let text = stage.text("get_errors", before);
    assert_eq!(
        text,
        "no line looks like an error or a warning, and nothing crashed\n[0 groups in 0 lines]"
    );
}

#[test]
fn a_process_that_could_not_start_says_why() {
    let mut admin = idle("admin", State::Crashed);
    admin.facts.reason = Some("port 3000 is in use by pid 99 (node)".into());
    let stage = Stage::new(vec![unit("web"), admin]);
    let answer = stage.call("get_errors", json!({}));
    let (value, text) = stage.checked("get_errors", answer);
    assert_eq!(value["crashes"], json!([]));
    let note = "admin: port 3000 is in use by pid 99 (node); what happens next: it starts again";
    assert_eq!(value["notes"], json!([note]));
    assert!(text.starts_with(note), "{text}");
}
