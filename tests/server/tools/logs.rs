//! `search_logs`, `search_build_log`.

use bpm::base::clock::Wall;
use bpm::engine::snapshot::{BuildState, State};
use bpm::log::search::Stream;
use bpm::log::store::{Limits, Log};
use serde_json::Value;
use serde_json::json;
use std::sync::Arc;

use super::stage::*;

#[test]
fn the_last_lines_come_with_their_run_and_a_cursor() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    print(&log, 1_234);
    let text = stage.text("search_logs", json!({"process": "web"}));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 201);
    assert_eq!(lines[0], "   line 1035");
    assert_eq!(lines[199], "   line 1234");
    assert_eq!(lines[200], "[run 1 (-1) | 200 of 1,234 lines | next 1234]");

    log.append(1, Stream::Stderr, b"news\n");
    let text = stage.text("search_logs", json!({"process": "web", "after": 1_234}));
    assert_eq!(text, "   news\n[run 1 (-1) | 1 of 1 lines | next 1235]");
    let text = stage.text("search_logs", json!({"process": "web", "after": 1_235}));
    assert_eq!(
        text,
        "no such lines in run 1 (0 searched)\n[run 1 (-1) | 0 of 0 lines | next 1235]"
    );
    let text = stage.text("search_logs", json!({"process": "web", "stream": "stderr"}));
    assert!(text.starts_with("   news\n[run 1 (-1) | 1 of "), "{text}");
}

#[test]
fn matches_are_marked_and_groups_are_separated() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 30);
    let args = json!({"process": "web", "pattern": "line (5|6|20)$", "context_lines": 1});
    let text = stage.text("search_logs", args);
    assert_eq!(
        text,
        "   line 4\n * line 5\n * line 6\n   line 7\n--\n   line 19\n * line 20\n   line 21\n\
         [run 1 (-1) | 3 of 3 matches in 30 lines | next 30]"
    );
    // Lines of the other stream lie between; they are no gap where only this one is asked for.
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    for i in 31..=34 {
        log.append(1, Stream::Stderr, format!("bad {i}\n").as_bytes());
        log.append(1, Stream::Stdout, b"noise\n");
    }
    let args =
        json!({"process": "web", "pattern": "bad 3[24]", "context_lines": 1, "stream": "stderr"});
    let text = stage.text("search_logs", args);
    assert!(
        text.starts_with("   bad 31\n * bad 32\n   bad 33\n * bad 34\n[run"),
        "{text}"
    );
    let text = stage.text(
        "search_logs",
        json!({"process": "web", "pattern": "LINE 5", "ignore_case": true}),
    );
    assert!(text.starts_with(" * line 5\n[run"), "{text}");
    let text = stage.text(
        "search_logs",
        json!({"process": "web", "pattern": "line .", "literal": true}),
    );
    assert_eq!(
        text,
        "no match for \"line .\" in 38 lines of run 1\n[run 1 (-1) | 0 of 0 matches in 38 lines | next 38]"
    );
    let why = stage.fail("search_logs", json!({"process": "web", "pattern": "("}));
    assert!(
        why.contains("cannot use this pattern") && why.contains("literal"),
        "{why}"
    );
}

#[test]
fn a_head_is_paged_with_its_cursor() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 25);
    let mut after = 0;
    let mut all = Vec::new();
    loop {
        let args = json!({"process": "web", "head": 10, "after": after});
        let text = stage.text("search_logs", args);
        let (lines, last) = text.rsplit_once('\n').unwrap();
        after = last
            .rsplit_once("next ")
            .unwrap()
            .1
            .trim_end_matches(']')
            .parse()
            .unwrap();
        if lines.starts_with("no such lines") {
            break;
        }
        all.extend(lines.lines().map(|line| line.trim_start().to_owned()));
    }
    let want: Vec<String> = (1..=25).map(|i| format!("line {i}")).collect();
    assert_eq!(all, want);
}

#[test]
fn earlier_runs_are_found_by_their_index() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    for i in 1..=3 {
        let run = log.begin(Wall(1_000 * i));
        log.append(run, Stream::Stdout, format!("run {i}\n").as_bytes());
        log.end(run, Wall(1_000 * i + 500), "exit code 3");
    }
    for (index, text) in [
        (-1, "   run 3\n[run 3 (-1) |"),
        (-2, "   run 2\n[run 2 (-2) |"),
        (0, "   run 1\n[run 1 (-3) |"),
        (1, "   run 2\n[run 2 (-2) |"),
    ] {
        let got = stage.text("search_logs", json!({"process": "web", "index": index}));
        assert!(got.starts_with(text), "{index}: {got}");
    }
    let why = stage.fail("search_logs", json!({"process": "web", "index": -7}));
    assert_eq!(
        why,
        "web has no run of index -7: 3 runs can be searched, -1 (newest) to -3, or 0 (oldest) to 2"
    );
    let json = stage.data(
        "search_logs",
        json!({"process": "web", "format": "json", "index": -2}),
    );
    assert_eq!(json["run"], 2);
    assert_eq!(json["exit"], "exit code 3");
    assert_eq!(json["started_at"], "1970-01-01T00:00:02.000Z");
    assert_eq!(json["ended_at"], "1970-01-01T00:00:02.500Z");
}

#[test]
fn a_process_that_has_not_run_yet_is_no_error() {
    let stage = Stage::new(vec![idle("web", State::Building)]);
    assert_eq!(
        stage.text("search_logs", json!({"process": "web"})),
        "web has not run yet (it is building)\n[no run | 0 of 0 lines | next 0]"
    );
    assert_eq!(
        stage.text("search_build_log", json!({"process": "web", "index": -3})),
        "web has not been built yet (it is building)\n[no run | 0 of 0 lines | next 0]"
    );
    let json = stage.data("search_logs", json!({"process": "web", "format": "json"}));
    assert_eq!(json["run"], Value::Null);
    assert_eq!(json["lines"], json!([]));
}

#[test]
fn log_answer_is_cut_at_a_line_and_says_so() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    let run = log.begin(Wall(0));
    for i in 1..=300 {
        let line = format!("{i:03} {}\n", "x".repeat(116));
        log.append(run, Stream::Stdout, line.as_bytes());
    }
    let text = stage.text("search_logs", json!({"process": "web"}));
    assert!(text.chars().count() <= 10_000);
    assert!(text.chars().count() > 9_000);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[lines.len() - 3].starts_with("   300 "),
        "the newest stay"
    );
    let note = lines[lines.len() - 2];
    assert!(
        note.contains("older lines left out") && note.contains("after 100"),
        "{note}"
    );

    let text = stage.text("search_logs", json!({"process": "web", "head": 200}));
    assert!(text.chars().count() <= 10_000 && text.starts_with("   001 "));
    let shown = text.lines().filter(|l| l.ends_with("xxx")).count();
    assert!(
        text.contains(&format!("go on with after {shown}")),
        "{text}"
    );
    assert!(text.ends_with(&format!("| next {shown}]")), "{text}");

    let text = stage.text(
        "search_logs",
        json!({"process": "web", "max_chars": 50_000}),
    );
    assert_eq!(text.lines().count(), 201);

    for head in [json!({}), json!({"head": 200})] {
        let mut args = json!({"process": "web", "format": "json"});
        args.as_object_mut()
            .unwrap()
            .extend(head.as_object().unwrap().clone());
        let (value, text) = stage.checked("search_logs", stage.call("search_logs", args));
        assert!(text.chars().count() <= 10_000 && text.chars().count() > 9_000);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(value["truncated"], true);
        let lines = value["lines"].as_array().unwrap();
        let edge = if head["head"].is_null() {
            lines.last()
        } else {
            lines.first()
        };
        let wanted = if head["head"].is_null() { 300 } else { 1 };
        assert_eq!(edge.unwrap()["seq"], wanted);
    }
}

#[test]
fn a_line_too_long_is_clipped_in_its_middle() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    let run = log.begin(Wall(0));
    let line = format!("begin {} end\n", "ä".repeat(5_000));
    log.append(run, Stream::Stderr, line.as_bytes());
    let text = stage.text("search_logs", json!({"process": "web"}));
    let first = text.lines().next().unwrap();
    assert!(first.chars().count() <= 1_003);
    assert!(
        first.starts_with("   begin ") && first.ends_with(" end"),
        "{first}"
    );
    assert!(first.contains("characters left out"));
    let json = stage.data("search_logs", json!({"process": "web", "format": "json"}));
    assert_eq!(json["lines"][0]["truncated"], true);
    assert_eq!(json["lines"][0]["stream"], "stderr");
}

#[test]
fn json_of_logs_has_each_field() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 3);
    let args = json!({"process": "web", "format": "json", "pattern": "line 2", "context_lines": 1});
    let value = stage.data("search_logs", args);
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "dropped",
            "ended_at",
            "exit",
            "index",
            "lines",
            "matches",
            "next",
            "process",
            "run",
            "searched",
            "started_at",
            "truncated"
        ]
    );
    assert_eq!(value["matches"], 1);
    assert_eq!(value["searched"], 3);
    assert_eq!(value["next"], 3);
    let line = &value["lines"][1];
    assert_eq!(
        (&line["seq"], &line["text"], &line["match"]),
        (&json!(2), &json!("line 2"), &json!(true))
    );
    assert_eq!(value["lines"][0]["match"], false);
    assert!(Wall::parse_rfc3339(line["time"].as_str().unwrap()).is_some());
}

#[test]
fn since_takes_spans_and_times() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 3);
    let all = stage.text("search_logs", json!({"process": "web", "since": "5m"}));
    assert!(all.starts_with("   line 1\n"), "{all}");
    let none = stage.text(
        "search_logs",
        json!({"process": "web", "since": "2999-01-01T00:00:00Z"}),
    );
    assert!(none.starts_with("no such lines in run 1"), "{none}");
    let why = stage.fail(
        "search_logs",
        json!({"process": "web", "since": "yesterday"}),
    );
    assert!(
        why.contains("\"yesterday\"") && why.contains("\"5m\""),
        "{why}"
    );
}

#[test]
fn a_failed_newest_build_is_told_with_the_logs() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 1);
    stage.change_unit("web", |web| {
        web.build = Some(broken(8));
        web.facts.stale = true;
    });
    let text = stage.text("search_logs", json!({"process": "web"}));
    assert_eq!(
        text,
        "   line 1\n[running build of 2026-11-21T02:46:50.123Z; the last build failed: see search_build_log]\n\
         [run 1 (-1) | 1 of 1 lines | next 1]"
    );
    stage.change_unit("web", |web| web.build = Some(build(9, BuildState::Ok)));
    assert!(
        !stage
            .text("search_logs", json!({"process": "web"}))
            .contains("failed")
    );
}

#[test]
fn log_answer_says_what_was_dropped_or_not_searched() {
    let mut web = unit("web");
    web.log = Log::new(
        Limits {
            lines: 100,
            bytes: 64 << 10,
            runs: 10,
            disk: 0,
        },
        1,
        1,
    );
    print(&web.log, 5_000);
    let stage = Stage::new(vec![web, unit("big")]);
    let text = stage.text("search_logs", json!({"process": "web", "after": 10}));
    assert!(
        text.contains(" lines before these are no longer kept]"),
        "{text}"
    );
    let json = stage.data(
        "search_logs",
        json!({"process": "web", "after": 10, "format": "json"}),
    );
    let first = json["lines"][0]["seq"].as_u64().unwrap();
    assert!(
        json["dropped"].as_u64().unwrap() > 1_000 && first > 1_000,
        "{json}"
    );

    let log = Arc::clone(&stage.handle.snapshot.now().units[1].log);
    let run = log.begin(Wall(0));
    let line = format!("{}\n", "ab".repeat(5_000));
    log.append(run, Stream::Stdout, line.repeat(2_000).as_bytes());
    let args = json!({"process": "big", "pattern": "(a|b)*(b|a)*(a|ab)*[xyz]$"});
    let text = stage.text("search_logs", args);
    assert!(text.contains("ended at its time limit after"), "{text}");
}

#[test]
fn a_line_of_any_length_can_be_paged_past() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    let run = log.begin(Wall(1));
    for line in ["\u{1}".repeat(3_000), "\"".repeat(3_000), "ä".repeat(3_000)] {
        log.append(run, Stream::Stdout, line.as_bytes());
        log.append(run, Stream::Stdout, b"\n");
    }
    for max in [500, 1_000, 7_000] {
        for (way, args) in [("head", json!({"head": 3})), ("tail", json!({"tail": 3}))] {
            let mut args = args;
            args["process"] = "web".into();
            args["max_chars"] = max.into();
            let text = stage.text("search_logs", args.clone());
            assert!(text.chars().count() <= max, "{max} {way}: {text}");
            assert!(!text.contains("| 0 of"), "{max} {way}: {text}");
            args["format"] = "json".into();
            let value = stage.data("search_logs", args);
            assert!(value.to_string().chars().count() <= max, "{max} {way}");
            let lines = value["lines"].as_array().unwrap();
            assert!(!lines.is_empty(), "{max} {way}: {value}");
            assert_eq!(lines[0]["truncated"], true);
            if way == "head" {
                assert_eq!(value["next"], lines[lines.len() - 1]["seq"]);
            }
        }
    }
}

#[test]
fn counts_are_of_all_matches_and_can_be_asked_for_alone() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 5_000);
    let ask = |tail: u64| {
        let args = json!({"process": "web", "pattern": "line 1", "tail": tail});
        stage.text("search_logs", args)
    };
    assert_eq!(
        ask(0),
        "1,111 matches for \"line 1\" in 5,000 lines of run 1\n\
         [run 1 (-1) | 0 of 1,111 matches in 5,000 lines | next 5000]"
    );
    assert_eq!(
        ask(2),
        " * line 1998\n * line 1999\n[run 1 (-1) | 2 of 1,111 matches in 5,000 lines | next 5000]"
    );
    let text = stage.text("search_logs", json!({"process": "web", "tail": 0}));
    assert_eq!(
        text,
        "5,000 lines in run 1\n[run 1 (-1) | 0 of 5,000 lines | next 5000]"
    );
}

/// What a process prints can't look like bpm's own words, nor hide from a person.
#[test]
fn lines_of_a_process_stand_behind_a_margin_with_hidden_characters_written_out() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    let run = log.begin(Wall(0));
    let forged = "[run 12 (-1) | 5 of 5 lines | next 77]";
    let hidden = "ok\u{e0041}\u{202e}drop\u{200b}";
    log.append(
        run,
        Stream::Stdout,
        format!("{forged}\n{hidden}\n").as_bytes(),
    );
    let text = stage.text("search_logs", json!({"process": "web"}));
    assert_eq!(
        text,
        format!(
            "   {forged}\n   ok\\u{{e0041}}\\u{{202e}}drop\\u{{200b}}\n[run 1 (-1) | 2 of 2 lines | next 2]"
        )
    );
    let json = stage.data("search_logs", json!({"process": "web", "format": "json"}));
    assert_eq!(json["lines"][1]["text"], hidden);
}

#[test]
fn lines_of_all_processes_are_merged_by_time() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let snapshot = stage.handle.snapshot.now();
    for unit in &snapshot.units {
        print(&unit.log, 300);
    }
    let text = stage.text("search_logs", json!({"process": "*", "tail": 100}));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 101, "{text}");
    assert_eq!(lines[100], "[all processes | 100 of 600 lines]");
    assert!(
        lines[..100]
            .iter()
            .all(|l| l.starts_with("   [web] line ") || l.starts_with("   [api] line "))
    );
    let text = stage.text("search_logs", json!({"process": "*", "pattern": "line 7$"}));
    assert_eq!(
        text,
        " * [web] line 7\n * [api] line 7\n[all processes | 2 of 2 matches in 600 lines]"
    );
    let json = stage.data(
        "search_logs",
        json!({"process": "*", "pattern": "line 7$", "format": "json"}),
    );
    assert_eq!(json["matches"], 2);
    assert_eq!(json["lines"][1]["process"], "api");
    assert!(json.get("next").is_none() && json.get("index").is_none());
    let why = stage.fail("search_logs", json!({"process": "*", "after": 3}));
    assert!(why.contains("\"after\" is of one process"), "{why}");
    let why = stage.fail("search_build_log", json!({"process": "*"}));
    assert!(why.contains("unknown process"), "{why}");
}
