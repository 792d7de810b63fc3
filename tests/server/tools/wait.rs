//! `wait`.

use bpm::base::clock::Mono;
use bpm::base::clock::Wall;
use bpm::config::Kind;
use bpm::engine::snapshot::{BuildState, State};
use bpm::log::search::Stream;
use serde_json::Value;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;

use super::stage::*;

#[test]
fn wait_for_ready_is_met_once_it_is_and_told_when_it_can_not_be() {
    let stage = Stage::new(vec![unit("web")]);
    assert_eq!(stage.data("wait", json!({"process": "web"}))["met"], true);

    stage.change_unit("web", |web| web.facts.state = State::Starting);
    let mut task = stage.waiting("wait", json!({"process": "web", "for": "ready"}));
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    assert!(
        task.progress(Mono::now())
            .unwrap()
            .contains("web: starting")
    );
    stage.change_unit("web", |web| web.facts.state = State::Running);
    stage.sleep(&*task);
    let (value, _) = stage.checked("wait", stage.poll(&mut *task, &mut out).unwrap());
    assert_eq!(
        (&value["met"], &value["state"]),
        (&json!(true), &json!("running"))
    );

    // The old run is ready, but what was asked for is still built.
    stage.change_unit("web", |web| web.build = Some(build(8, BuildState::Running)));
    let late = stage.data("wait", json!({"process": "web", "timeout_seconds": 0}));
    assert_eq!(late["met"], false);
    assert!(
        late["reason"].as_str().unwrap().contains("build 8 running"),
        "{late}"
    );
    stage.change_unit("web", |web| {
        web.build = Some(broken(8));
        web.facts.stale = true;
    });
    let value = stage.data("wait", json!({"process": "web"}));
    assert_eq!(value["met"], true);
    assert!(
        value["reason"]
            .as_str()
            .unwrap()
            .contains("older than build 8"),
        "{value}"
    );
}

#[test]
fn wait_ends_at_once_where_it_can_not_be_met() {
    let mut failed = idle("task", State::Failed);
    failed.facts.wanted = true;
    failed.kind = Kind::Task;
    failed.exits = Arc::new(VecDeque::from([exit(1, 3)]));
    let run = failed.log.begin(Wall(0));
    failed.log.append(run, Stream::Stderr, b"no database\n");
    failed.log.end(run, Wall(1), "exit code 3");
    let stage = Stage::new(vec![idle("web", State::Stopped), failed]);
    for what in ["ready", "exit", "build"] {
        let value = stage.data("wait", json!({"process": "web", "for": what}));
        assert_eq!(value["met"], false, "{what}");
        assert!(
            value["reason"].as_str().unwrap().contains("stopped"),
            "{value}"
        );
    }
    let value = stage.data(
        "wait",
        json!({"process": "web", "for": "log", "pattern": "x"}),
    );
    assert_eq!(value["met"], false);

    let answer = stage.call("wait", json!({"process": "task"}));
    let (value, text) = stage.checked("wait", answer);
    assert_eq!(value["met"], false);
    assert_eq!(value["exit"]["code"], 3);
    assert_eq!(value["tail"], json!(["no database"]));
    assert!(
        text.contains("not met") && text.contains("no database"),
        "{text}"
    );
    // It has ended, so who waits for its end has it.
    assert_eq!(
        stage.data("wait", json!({"process": "task", "for": "exit"}))["met"],
        true
    );
    // The same of one that somebody stopped.
    let mut stopped = idle("web", State::Stopped);
    stopped.exits = Arc::new(VecDeque::from([exit(1, 3)]));
    let stage = Stage::new(vec![stopped]);
    let value = stage.data("wait", json!({"process": "web", "for": "exit"}));
    assert_eq!(
        (&value["met"], &value["exit"]["code"]),
        (&json!(true), &json!(3))
    );
}

/// In the text as well as in the data, for there are clients that show only the one or the other.
#[test]
fn an_answer_with_long_last_lines_is_short_and_has_its_cursor() {
    let mut web = idle("web", State::Failed);
    let log = Arc::clone(&web.build_log);
    let run = log.begin(Wall(0));
    for _ in 0..40 {
        log.append(
            run,
            Stream::Stderr,
            format!("{}\n", "x".repeat(3_000)).as_bytes(),
        );
    }
    let mut failed = broken(run);
    let errors = Arc::make_mut(&mut failed.errors);
    errors.list = vec![errors.list[0].clone(); 10];
    errors.count = 10;
    for error in &mut errors.list {
        error.message = "m".repeat(3_000);
    }
    web.build = Some(failed);
    let stage = Stage::new(vec![web]);
    let answer = stage.call("wait", json!({"process": "web", "for": "build"}));
    let (value, text) = stage.checked("wait", answer);
    assert!(text.chars().count() <= 10_000, "{}", text.len());
    assert!(text.ends_with("\n[next 0]"), "{text}");
    assert!(text.contains("more errors, 9 of 10:"), "{text}");
    assert!(!value["tail"].as_array().unwrap().is_empty());
    assert!(
        value.to_string().len() <= 10_000,
        "{}",
        value.to_string().len()
    );
}

#[test]
fn wait_for_an_exit_takes_the_next_one_or_what_came_after_the_cursor() {
    let mut web = unit("web");
    web.exits = Arc::new(VecDeque::from([exit(1, 0)]));
    let stage = Stage::new(vec![web]);
    stage.change(|snapshot| {
        snapshot.events = VecDeque::from([event(5, "web", "exit", "exit code 0")])
    });
    let early = stage.data(
        "wait",
        json!({"process": "web", "for": "exit", "timeout_seconds": 0}),
    );
    assert_eq!((&early["met"], &early["next"]), (&json!(false), &json!(5)));
    let after = stage.data("wait", json!({"process": "web", "for": "exit", "after": 4}));
    assert_eq!(after["met"], true);
    // A cursor of the bpm before this one must not hide what happened since.
    let before = stage.data(
        "wait",
        json!({"process": "web", "for": "exit", "after": 5_000, "timeout_seconds": 0}),
    );
    assert_eq!(before["met"], true);

    let mut task = stage.waiting("wait", json!({"process": "web", "for": "exit"}));
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    stage.change_unit("web", |web| {
        Arc::make_mut(&mut web.exits).push_back(exit(2, 7));
        web.facts.state = State::Crashed;
    });
    stage.sleep(&*task);
    let (value, _) = stage.checked("wait", stage.poll(&mut *task, &mut out).unwrap());
    assert_eq!(value["met"], true);
    assert_eq!(value["exit"]["code"], 7);
}

#[test]
fn wait_for_a_build_ends_with_it() {
    let stage = Stage::new(vec![unit("web")]);
    let value = stage.data("wait", json!({"process": "web", "for": "build"}));
    assert_eq!(value["met"], false, "there is none");
    stage.change_unit("web", |web| web.build = Some(build(8, BuildState::Queued)));
    let mut task = stage.waiting("wait", json!({"process": "web", "for": "build"}));
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    stage.change_unit("web", |web| {
        web.build = Some(broken(8));
        for id in 1..=8 {
            let run = web.build_log.begin(Wall(0));
            let line = format!("error of build {id}\n");
            web.build_log.append(run, Stream::Stderr, line.as_bytes());
            web.build_log.end(run, Wall(1), "failed");
        }
    });
    stage.sleep(&*task);
    let answer = stage.poll(&mut *task, &mut out).unwrap();
    let (value, text) = stage.checked("wait", answer);
    assert_eq!(value["met"], true);
    assert_eq!(value["reason"], "build 8 failed after 3.2s");
    assert_eq!(value["tail"], json!(["error of build 8"]));
    assert!(text.contains("src/main.rs:3:5: E0308"), "{text}");
}

#[test]
fn wait_for_a_line_finds_it_in_what_comes() {
    let stage = Stage::new(vec![unit("web")]);
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    print(&log, 3);
    let args = json!({"process": "web", "for": "log", "pattern": "line 3|ready on \\d+"});
    let mut task = stage.waiting("wait", args.clone());
    assert!(task.heavy());
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    log.append(1, Stream::Stdout, b"noise\nready on 8080\nmore\n");
    stage.sleep(&*task);
    let (value, text) = stage.checked("wait", stage.poll(&mut *task, &mut out).unwrap());
    assert_eq!(value["met"], true);
    assert_eq!(
        (&value["line"], &value["seq"], &value["next"]),
        (&json!("ready on 8080"), &json!(5), &json!(5))
    );
    assert!(text.contains("ready on 8080"), "{text}");

    let mut before = args;
    before["after"] = 0.into();
    assert_eq!(stage.data("wait", before)["line"], "line 3");

    let fail = |args: Value| stage.fail("wait", args);
    assert!(fail(json!({"process": "web", "for": "log"})).contains("needs \"pattern\""));
    assert!(fail(json!({"process": "web", "for": "log", "pattern": "("})).contains("cannot use"));
    assert!(fail(json!({"process": "web", "pattern": "x"})).contains("\"pattern\" is for"));
    assert!(fail(json!({"process": "web", "for": "redy"})).contains("did you mean \"ready\""));
}

#[test]
fn wait_for_a_change_and_for_a_process_that_goes() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let mut task = stage.waiting("wait", json!({"process": "web", "for": "change"}));
    let mut out = Vec::new();
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    stage.change(|snapshot| {
        snapshot
            .events
            .push_back(event(1, "api", "state", "stopped"))
    });
    assert_eq!(stage.poll(&mut *task, &mut out), None, "of another process");
    stage.change(|snapshot| {
        snapshot
            .events
            .push_back(event(2, "web", "state", "stopping"))
    });
    let (value, _) = stage.checked("wait", stage.poll(&mut *task, &mut out).unwrap());
    assert_eq!(
        (&value["reason"], &value["next"]),
        (&json!("state: stopping"), &json!(2))
    );

    stage.change_unit("web", |web| web.facts.state = State::Starting);
    let mut task = stage.waiting("wait", json!({"process": "web"}));
    assert_eq!(stage.poll(&mut *task, &mut out), None);
    stage.change(|snapshot| snapshot.units.retain(|unit| unit.name != "web"));
    let (value, _) = stage.checked("wait", stage.poll(&mut *task, &mut out).unwrap());
    assert_eq!(
        (&value["met"], &value["state"]),
        (&json!(false), &Value::Null)
    );

    stage.change_unit("api", |api| api.facts.state = State::Starting);
    stage.change(|snapshot| snapshot.stopping = true);
    let value = stage.data("wait", json!({"process": "api"}));
    assert_eq!(
        value["reason"],
        "bpm is stopping; this wait changed nothing"
    );
}

#[test]
fn late_wait_is_no_error_and_a_dropped_one_is_forgotten() {
    let stage = Stage::new(vec![unit("web")]);
    stage.change_unit("web", |web| web.facts.state = State::Starting);
    let args = json!({"process": "web", "timeout_seconds": 0.02});
    let value = stage.data("wait", args.clone());
    assert_eq!(value["met"], false);
    assert!(
        value["reason"]
            .as_str()
            .unwrap()
            .starts_with("not within 0.0s: starting"),
        "{value}"
    );

    let task = stage.waiting(
        "wait",
        json!({"process": "web", "for": "log", "pattern": "x"}),
    );
    drop(task);
    stage.waker.seen();
    stage.mailbox.take(&mut Vec::new());
    stage.change(|_| {});
    let log = Arc::clone(&stage.handle.snapshot.now().units[0].log);
    print(&log, 1);
    let mut tokens = Vec::new();
    stage.mailbox.take(&mut tokens);
    assert!(
        tokens.is_empty(),
        "nobody waits, nobody is woken: {tokens:?}"
    );
}

#[test]
fn the_exit_of_an_answer_is_that_of_the_run_it_is_about() {
    let mut web = unit("web");
    web.exits = Arc::new(VecDeque::from([exit(1, 0)]));
    let mut task = idle("task", State::Done);
    task.facts.wanted = true;
    task.kind = Kind::Task;
    task.exits = Arc::new(VecDeque::from([exit(4, 0)]));
    let stage = Stage::new(vec![web, task]);
    let exit_of = |args: Value| stage.data("wait", args)["exit"].clone();
    assert_eq!(exit_of(json!({"process": "web"})), Value::Null);
    let late = json!({"process": "web", "for": "exit", "timeout_seconds": 0});
    assert_eq!(exit_of(late), Value::Null);
    assert_eq!(exit_of(json!({"process": "task"}))["code"], 0);
}

#[test]
fn a_wait_whose_time_is_over_names_the_call_that_goes_on() {
    let stage = Stage::new(vec![unit("web"), idle("spare", State::Stopped)]);
    print(&stage.handle.snapshot.now().units[0].log, 3);
    let args = json!({"process": "web", "for": "log", "pattern": "x", "timeout_seconds": 0});
    let answer = stage.call("wait", args);
    let (value, text) = stage.checked("wait", answer);
    assert_eq!(
        value["next_call"],
        json!({"tool": "wait", "arguments": {"process": "web", "for": "log", "pattern": "x", "after": 3}})
    );
    assert!(text.contains("to go on waiting: wait {"), "{text}");
    let value = stage.data("wait", json!({"process": "spare"}));
    assert_eq!(
        value["next_call"],
        json!({"tool": "start", "arguments": {"process": "spare"}})
    );
}
