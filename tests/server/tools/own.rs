//! Methods of bpm's own.

use bpm::base::clock::Mono;
use bpm::engine::handle::Command;
use bpm::engine::handle::Reloaded;
use bpm::engine::handle::Reply;
use bpm::engine::handle::Request;
use bpm::engine::snapshot::State;
use bpm::log::search::Stream;
use bpm::server::service::Answer;
use bpm::server::service::Service;
use bpm::server::service::Step;
use serde_json::Value;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;

use super::stage::*;

fn lines_of(out: &[Value], process: &str) -> Vec<String> {
    out.iter()
        .filter(|note| note["method"] == "bpm/lines" && note["params"]["process"] == process)
        .flat_map(|note| note["params"]["lines"].as_array().unwrap())
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect()
}

fn numbered(lines: std::ops::RangeInclusive<usize>) -> Vec<String> {
    lines.map(|i| format!("line {i}")).collect()
}

#[test]
fn followers_get_the_last_lines_and_then_each_new_one_once() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    print(&log, 500);
    log.append(1, Stream::Stdout, b"unfini");
    let Step::Wait(mut task) = stage.own("bpm/follow", json!({"lines": 10})) else {
        panic!()
    };
    task.start(&stage.waker);
    assert!(task.heavy());
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    assert_eq!(lines_of(&out, "web"), numbered(491..=500));
    assert!(
        out.iter().any(|n| n["params"]["process"] == "api"),
        "even where there is nothing"
    );
    assert!(!task.heavy(), "from now on there is nothing to search");

    out.clear();
    log.append(1, Stream::Stdout, b"shed\nnext\n");
    stage.sleep(&*task);
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    assert_eq!(lines_of(&out, "web"), ["unfinished", "next"]);
    let params = &out[0]["params"];
    assert_eq!(
        (&params["build"], &params["dropped"], &params["next"]),
        (&json!(false), &json!(0), &json!(502))
    );
    assert_eq!(params["lines"][0]["run"], 1);

    // A process that a reload adds is followed from its first line.
    out.clear();
    let new = unit("new");
    print(&new.log, 2);
    stage.change(|snapshot| snapshot.units.push(Arc::new(new)));
    stage.sleep(&*task);
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    assert_eq!(lines_of(&out, "new"), numbered(1..=2));
}

#[test]
fn a_follower_without_room_gets_everything_by_and_by() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let snapshot = stage.handle.snapshot.now();
    print(&snapshot.units[0].log, 3_000);
    print(&snapshot.units[1].log, 100);
    let Step::Wait(mut task) = stage.own("bpm/follow", json!({"lines": 5_000})) else {
        panic!()
    };
    task.start(&stage.waker);
    let mut out = Vec::new();
    let mut polls = 0;
    while task.poll(Mono::now(), 4_096, &mut out).is_none() {
        polls += 1;
        if polls == 20 {
            let more: String = (3_001..=3_500).map(|i| format!("line {i}\n")).collect();
            snapshot.units[0]
                .log
                .append(1, Stream::Stdout, more.as_bytes());
        }
        if task.deadline().is_none() {
            break;
        }
    }
    assert!(polls > 50, "{polls}");
    assert_eq!(lines_of(&out, "web"), numbered(1..=3_500));
    assert_eq!(lines_of(&out, "api"), numbered(1..=100));
}

#[test]
fn following_goes_on_behind_a_cursor_and_filters() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    print(&log, 30);
    let follow = |params: Value| {
        let Step::Wait(mut task) = stage.own("bpm/follow", params) else {
            panic!()
        };
        task.start(&stage.waker);
        let mut out = Vec::new();
        let end = stage.poll(&mut *task, &mut out);
        (lines_of(&out, "web"), end)
    };
    let (lines, end) = follow(json!({"processes": ["web"], "after": {"web": 28}}));
    assert_eq!((lines, end), (numbered(29..=30), None));
    let (lines, _) = follow(
        json!({"after": {"web": 0}, "pattern": "LINE 1", "ignore_case": true, "stream": "stdout"}),
    );
    assert_eq!(lines.len(), 11);
    let (lines, _) = follow(json!({"after": {"web": 0}, "stream": "stderr"}));
    assert!(lines.is_empty());
    let (lines, end) = follow(json!({"lines": 3, "follow": false, "pattern": "line 2."}));
    assert_eq!(lines, ["line 27", "line 28", "line 29"]);
    assert_eq!(end, Some(Answer::Result(json!({"next": {"web": 30}}))));
}

#[test]
fn wrong_parameters_of_own_methods_are_rpc_errors() {
    let stage = Stage::new(vec![unit("web")]);
    for (method, params) in [
        ("bpm/follow", json!({"processes": ["wbe"]})),
        ("bpm/follow", json!({"processes": "web"})),
        ("bpm/follow", json!({"processes": [1]})),
        ("bpm/follow", json!({"after": {"web": "x"}})),
        ("bpm/follow", json!({"after": 3})),
        ("bpm/follow", json!({"lines": -1})),
        ("bpm/follow", json!({"pattern": "("})),
        ("bpm/follow", json!({"since": "noon"})),
        ("bpm/follow", json!({"patern": "x"})),
        ("bpm/follow", json!([])),
        ("bpm/status", json!({"process": "wbe"})),
        ("bpm/why", json!({})),
        ("bpm/shutdown", json!({"force": 1})),
        ("bpm/reload", json!({"dry_run": 1})),
    ] {
        let answer = match stage.own(method, params.clone()) {
            Step::Done(answer) => answer,
            Step::Work(_) | Step::Wait(_) => panic!("{method} {params}"),
        };
        assert!(
            matches!(answer, Answer::Error { code: -32602, .. }),
            "{method} {params}: {answer:?}"
        );
    }
    print(&stage.handle.snapshot.now().units[0].log, 1);
    let step = stage.own("bpm/follow", json!({"run": -9, "follow": false}));
    let end = stage.finish(step, |_| None);
    assert_eq!(
        end,
        Answer::Result(json!({"next": {"web": 1}})),
        "one of all may lack it"
    );
    let step = stage.own("bpm/follow", json!({"processes": ["web"], "run": -9}));
    let Answer::Error { message, .. } = stage.finish(step, |_| None) else {
        panic!()
    };
    assert!(message.contains("web has no run of index -9"), "{message}");
    assert!(stage.tools.own(&cli(), "bpm/other", &json!({})).is_none());
}

#[test]
fn status_why_and_reload_are_there_for_the_cli() {
    let mut web = unit("web");
    web.exits = Arc::new(VecDeque::from([exit(1, 0), exit(2, 101)]));
    let stage = Stage::new(vec![web]);
    let result = |method: &str, params: Value, reply: Option<Reply>| {
        let step = stage.own(method, params);
        match stage.finish(step, |_| reply.clone()) {
            Answer::Result(value) => value,
            other => panic!("{other:?}"),
        }
    };
    let status = result("bpm/status", json!({}), None);
    assert_eq!(status["processes"][0]["wanted"], true);
    let why = result("bpm/why", json!({"process": "web"}), None);
    assert_eq!(why["exit"]["words"], "exit code 101");
    assert_eq!(why["exit"]["run"], 2);
    assert_eq!(why["tail"], json!(["thread 'main' panicked"]));
    assert_eq!(why["next"], "it runs");
    assert!(why["text"].as_str().unwrap().contains("exit code 101"));
    let step = stage.own("bpm/reload", json!({"dry_run": true}));
    let answer = stage.finish(step, |_| Some(Reply::Reload(Reloaded::default())));
    let Answer::Result(value) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(value["errors"], json!([]));
    let step = stage.own("bpm/reload", json!({}));
    let answer = stage.finish(step, |_| Some(Reply::Refused("bpm is stopping".into())));
    assert!(matches!(answer, Answer::Error { code: -32603, .. }));
}

#[test]
fn shutdown_says_which_processes_it_waits_for() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let Step::Wait(mut task) = stage.own("bpm/shutdown", json!({"force": true, "by": "bpm stop"}))
    else {
        panic!()
    };
    task.start(&stage.waker);
    let Command::Request(ask, slot) = stage.commands.pop().unwrap() else {
        panic!()
    };
    let by = Some("bpm stop".into());
    assert_eq!(ask, Request::Shutdown { force: true, by });
    slot.put(Reply::Units(Vec::new()));
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None, "it has only begun");
    stage.change(|snapshot| snapshot.stopping = true);
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    let stop = |name: &str| {
        stage.change_unit(name, |unit| {
            unit.facts.state = State::Stopped;
            unit.facts.pid = None;
        });
    };
    stop("web");
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    let told: Vec<&Value> = out.iter().map(|n| &n["params"]["waiting_for"]).collect();
    assert_eq!(told, [&json!(["web", "api"]), &json!(["api"])]);
    stop("api");
    let end = stage.poll(&mut *task, &mut out);
    assert_eq!(end, Some(Answer::Result(json!({"ok": true}))));

    let step = stage.own("bpm/shutdown", json!({}));
    let answer = stage.finish(step, |_| Some(Reply::Refused("not now".into())));
    assert!(matches!(answer, Answer::Error { code: -32603, .. }));
}
