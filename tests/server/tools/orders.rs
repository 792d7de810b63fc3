//! `start`, `stop`, `restart`, `reload`.

use std::time::Duration;

use bpm::base::clock::{Mono, Wall};
use bpm::config::Mode;
use bpm::engine::handle::Command;
use bpm::engine::handle::Done;
use bpm::engine::handle::Reload;
use bpm::engine::handle::Reloaded;
use bpm::engine::handle::Reply;
use bpm::engine::handle::Request;
use bpm::engine::handle::Stopped;
use bpm::engine::snapshot::{BuildState, State};
use bpm::lifecycle::Order;
use bpm::server::service::Answer;
use bpm::server::service::Caller;
use bpm::server::service::ClientKind;
use bpm::server::service::Service;
use bpm::server::service::Step;
use serde_json::Value;
use serde_json::json;

use super::stage::*;

#[test]
fn a_good_restart_is_answered_with_data() {
    let mut web = unit("web");
    web.facts.pid = Some(4720);
    print(&web.log, 7);
    let stage = Stage::new(vec![web]);
    stage.change(|snapshot| {
        snapshot.release_at = Some(Mono::now().after(Duration::from_secs(10_800)));
    });
    let reply = Reply::Units(vec![good("web")]);
    let (ask, answer) = stage.order("restart", json!({"process": "web"}), reply.clone());
    assert_eq!(
        ask,
        Request::Order {
            order: Order::Restart {
                mode: Mode::Dev,
                build: true
            },
            names: vec!["web".into()],
        }
    );
    let (mut value, text) = stage.checked("restart", answer);
    let at = value["at"].take();
    assert!(Wall::parse_rfc3339(at.as_str().unwrap()).is_some());
    assert!(value["release_in_seconds"].take().as_f64().unwrap() > 10_790.0);
    assert_eq!(
        value,
        json!({"process": "web", "ok": true, "mode": "dev", "pid": 4720, "previous_pid": 4711,
               "url": "http://[::1]:5173",
               "build": {"id": 7, "ok": true, "seconds": 3.2, "errors": []}, "ready": true,
               "gap_seconds": 0.012, "lines": ["line 1", "line 2", "line 3", "line 4", "line 5"],
               "at": null, "next": 5, "timed_out": false, "next_call": null, "release_in_seconds": null})
    );
    assert_eq!(
        text,
        format!(
            "web: restarted in dev, pid 4720 (before 4711), build 7 took 3.2s, ready, nothing served for 0.012 s, \
             http://[::1]:5173\nbuilt for release again after 2h59m without a call\nits first lines:\n   line 1\n   \
             line 2\n   line 3\n   line 4\n   line 5\n[since {} | next 5]",
            at.as_str().unwrap()
        )
    );
    let args = json!({"process": "web", "mode": "release", "build": false});
    let (ask, _) = stage.order("restart", args, reply);
    assert_eq!(
        ask,
        Request::Order {
            order: Order::Restart {
                mode: Mode::Release,
                build: false
            },
            names: vec!["web".into()],
        }
    );
}

#[test]
fn a_star_is_all_processes_that_are_to_be_up() {
    let stopped = idle("spare", State::Stopped);
    let stage = Stage::new(vec![unit("api"), stopped, unit("web")]);
    let reply = Reply::Units(vec![good("api"), good("web")]);
    let (ask, answer) = stage.order("restart", json!({"process": "*"}), reply);
    let Request::Order { names, .. } = ask else {
        panic!("{ask:?}")
    };
    assert_eq!(names, ["api", "web"], "what is stopped stays so");
    let (value, text) = stage.checked("restart", answer);
    assert_eq!(value["ok"], true);
    assert_eq!(value["results"][1]["process"], "web");
    assert_eq!(text.lines().count(), 2);

    let reply = Reply::Units(Vec::new());
    let (ask, answer) = stage.order("stop", json!({"process": "*"}), reply);
    assert_eq!(
        ask,
        Request::Order {
            order: Order::Stop,
            names: vec!["api".into(), "spare".into(), "web".into()],
        }
    );
    let (value, text) = stage.checked("stop", answer);
    assert_eq!(value, json!({"ok": true, "results": []}));
    assert_eq!(text, "nothing to do");
}

#[test]
fn a_failed_build_is_an_error_that_says_all() {
    let stage = Stage::new(vec![unit("web")]);
    let failed = Done {
        ok: false,
        pid: Some(4711),
        build: Some(broken(8)),
        reason: Some("the build failed: cargo ended with exit code 101".into()),
        old_serves: true,
        tail: (1..=20).map(|i| format!("cargo line {i}")).collect(),
        ..good("web")
    };
    let reply = Reply::Units(vec![failed]);
    let (_, answer) = stage.order("restart", json!({"process": "web"}), reply);
    let Answer::Fail(text) = answer else {
        panic!("{answer:?}")
    };
    for part in [
        "web: not restarted: build 8 failed after 3.2s: cargo ended with exit code 101",
        "\nsrc/main.rs:3:5: E0308: mismatched types:\n   error[E0308]: mismatched types\n    --> src/main.rs:3:5\n",
        "the old run still serves (pid 4711)",
        "search_build_log {\"process\":\"web\"}",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn a_failed_start_tells_its_end_and_the_rollback() {
    let stage = Stage::new(vec![unit("web")]);
    let failed = Done {
        ok: false,
        reason: None,
        exit: Some(exit(9, 3)),
        tail: vec!["cannot bind".into()],
        rolled_back: true,
        ..good("web")
    };
    let text = {
        let reply = Reply::Units(vec![failed.clone()]);
        match stage.order("restart", json!({"process": "web"}), reply).1 {
            Answer::Fail(text) => text,
            other => panic!("{other:?}"),
        }
    };
    for part in [
        "it ended with exit code 3 after 3.0s",
        "last line of the run:\n   cannot bind\n",
        "rolled back: the previous build was started again (pid 4720)",
        "search_logs {\"process\":\"web\"}",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    // Nothing serves: then it is said when it is tried again.
    stage.change_unit("web", |web| {
        web.facts.next_start = Some(Mono::now().after(Duration::from_secs(600)));
    });
    let down = Done {
        rolled_back: false,
        ..failed.clone()
    };
    let reply = Reply::Units(vec![down]);
    match stage.order("start", json!({"process": "web"}), reply).1 {
        Answer::Fail(text) => {
            assert!(
                text.contains("serves now; what happens next: it starts again in 9m59s"),
                "{text}"
            )
        }
        other => panic!("{other:?}"),
    }
    // Of a hundred, each has its part of the room.
    let long = Done {
        tail: vec!["x".repeat(3_000); 20],
        ..failed
    };
    let reply = Reply::Units(vec![long; 100]);
    let (_, answer) = stage.order("restart", json!({"process": "*"}), reply);
    let Answer::Fail(text) = answer else {
        panic!("{answer:?}")
    };
    assert!(text.chars().count() <= 10_000, "{}", text.chars().count());
}

#[test]
fn an_order_that_takes_longer_goes_on_and_says_how_to_wait() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    stage.change_unit("web", |web| web.build = Some(build(8, BuildState::Running)));
    let mut asked = None;
    let args = json!({"process": "web", "timeout_seconds": 0});
    let step = stage.step("restart", args);
    let answer = stage.finish(step, |ask| {
        asked = Some(ask);
        None
    });
    assert!(asked.is_some(), "asked all the same");
    let (value, text) = stage.checked("restart", answer);
    assert_eq!(value["timed_out"], true);
    assert_eq!(value["ok"], false);
    assert_eq!(value["build"]["ok"], Value::Null);
    assert_eq!(value["pid"], 4711);
    assert_eq!(value["previous_pid"], Value::Null);
    for part in [
        "not restarted within",
        "build 8 running (compiling)",
        "the old run serves on",
        "to go on waiting: wait {\"for\":\"ready\",\"process\":\"web\"}",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    // What runs already needs no patience; there is no old run beside what is only starting.
    stage.change_unit("web", |web| {
        web.facts.state = State::Starting;
        web.facts.ready = Some(false);
        web.build = None;
    });
    let answer = stage.call("start", json!({"process": "web", "timeout_seconds": 0}));
    let (_, text) = stage.checked("start", answer);
    assert!(
        text.contains("not started within") && !text.contains("old run"),
        "{text}"
    );
    for tool in ["start", "stop"] {
        let value = stage.data(tool, json!({"process": "*", "timeout_seconds": 0.01}));
        assert_eq!(value["ok"], false);
        assert_eq!(value["results"].as_array().unwrap().len(), 2);
    }
    assert!(
        stage
            .fail("reload", json!({"dry_run": "x"}))
            .contains("true or false")
    );
}

#[test]
fn late_answer_about_several_tells_done_ones_apart() {
    let stage = Stage::new(vec![unit("api"), unit("web"), idle("job", State::Done)]);
    let step = stage.step("restart", json!({"process": "*", "timeout_seconds": 0}));
    let answer = stage.finish(step, |_| None);
    let (value, _) = stage.checked("restart", answer);
    let done = |value: &Value| -> Vec<bool> {
        let results = value["results"].as_array().unwrap();
        results
            .iter()
            .map(|r| !r["timed_out"].as_bool().unwrap())
            .collect()
    };
    assert_eq!(done(&value), [false, false], "nothing has happened yet");

    let step = stage.step("restart", json!({"process": "*", "timeout_seconds": 0}));
    let answer = stage.finish(step, |_| {
        stage.change_unit("api", |api| {
            api.facts.pid = Some(4800);
            api.facts.started = Some(Mono::now().after(Duration::from_secs(1)));
        });
        stage.change_unit("web", |web| web.build = Some(build(8, BuildState::Running)));
        None
    });
    let (value, text) = stage.checked("restart", answer);
    assert_eq!(done(&value), [true, false]);
    assert_eq!(value["ok"], false);
    assert_eq!(value["results"][0]["previous_pid"], 4711);
    assert!(
        text.starts_with("api: restarted in dev, pid 4800 (before 4711), ready, ")
            && text.contains("\nweb: not "),
        "{text}"
    );
}

#[test]
fn order_without_patience_shows_what_has_begun() {
    let stage = Stage::new(vec![unit("web")]);
    let step = stage.step("restart", json!({"process": "web", "timeout_seconds": 0}));
    let bpm::server::service::Step::Wait(mut task) = step else {
        panic!("an order takes its time")
    };
    task.start(&stage.waker);
    assert_eq!(
        stage.poll(&mut *task, &mut Vec::new()),
        None,
        "the board is still that of before"
    );
    let Some(Command::Request(_, slot)) = stage.commands.pop() else {
        panic!("nothing was asked")
    };
    stage.change_unit("web", |web| web.build = Some(build(8, BuildState::Running)));
    slot.begin();
    let answer = stage
        .poll(&mut *task, &mut Vec::new())
        .expect("it has begun");
    let (_, text) = stage.checked("restart", answer);
    assert!(text.contains("build 8 running"), "{text}");
}

#[test]
fn refused_order_is_an_error() {
    let stage = Stage::new(vec![unit("web")]);
    let reply = Reply::Refused("bpm is stopping".into());
    let (_, answer) = stage.order("start", json!({"process": "web"}), reply);
    assert_eq!(answer, Answer::Fail("bpm is stopping".into()));
}

/// A proxy asks the next bpm instead, so it must be able to tell.
#[test]
fn order_after_the_end_is_refused() {
    let stage = Stage::new(vec![unit("web")]);
    let proxy = Caller {
        kind: ClientKind::Proxy,
        ..agent()
    };
    let steps = [agent(), proxy].map(|caller| {
        let args = json!({"process": "web"});
        stage.tools.call(&caller, "restart", &args, None).unwrap()
    });
    stage.handle.end();
    let why = "bpm is stopping: nothing was done";
    let [by_agent, by_proxy] = steps.map(|step| stage.finish(step, |_| None));
    assert_eq!(by_agent, Answer::Fail(why.into()));
    let refused = Answer::Error {
        code: -31000,
        message: why.into(),
        data: None,
    };
    assert_eq!(by_proxy, refused);
}

#[test]
fn start_and_stop_say_what_they_found() {
    let stage = Stage::new(vec![unit("web")]);
    let running = Done {
        previous_pid: Some(4720),
        build: None,
        gap: None,
        ..good("web")
    };
    let (ask, answer) = stage.order(
        "start",
        json!({"process": "web"}),
        Reply::Units(vec![running]),
    );
    assert_eq!(
        ask,
        Request::Order {
            order: Order::Start,
            names: vec!["web".into()],
        }
    );
    let (_, text) = stage.checked("start", answer);
    assert_eq!(
        text.lines().next(),
        Some("web: runs already in dev, pid 4720, ready, http://[::1]:5173")
    );

    let stopped = Done {
        ok: false,
        stopped: Stopped {
            signalled: true,
            killed: 2,
            leftovers: vec![(99, "sh -c sleep".into())],
        },
        reason: Some("a process can't be killed".into()),
        ..good("web")
    };
    let (ask, answer) = stage.order(
        "stop",
        json!({"process": "web"}),
        Reply::Units(vec![stopped]),
    );
    assert_eq!(
        ask,
        Request::Order {
            order: Order::Stop,
            names: vec!["web".into()],
        }
    );
    let (value, text) = stage.checked("stop", answer);
    assert_eq!(
        value,
        json!({"process": "web", "ok": false, "signalled": true, "killed": 2,
               "leftovers": [{"pid": 99, "command": "sh -c sleep"}], "seconds": 3.3,
               "timed_out": false, "next_call": null})
    );
    assert!(
        text.contains("2 had to be killed") && text.contains("pid 99"),
        "{text}"
    );

    let asleep = Done {
        stopped: Stopped::default(),
        ..good("web")
    };
    let (_, answer) = stage.order(
        "stop",
        json!({"process": "web"}),
        Reply::Units(vec![asleep]),
    );
    assert_eq!(
        stage.checked("stop", answer).1,
        "web: stopped, it did not run"
    );
}

#[test]
fn reload_lists_what_it_did() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    let done = Reloaded {
        changed: vec!["web".into()],
        errors: vec!["mcp_port takes effect with: bpm daemon restart".into()],
        ..Reloaded::default()
    };
    let (ask, answer) = stage.order("reload", json!({"dry_run": true}), Reply::Reload(done));
    assert_eq!(ask, Request::Reload(Reload::DryRun));
    let (value, text) = stage.checked("reload", answer);
    assert_eq!(
        value,
        json!({"changed": ["web"], "added": [], "removed": [], "unchanged": [],
               "errors": ["mcp_port takes effect with: bpm daemon restart"]})
    );
    assert_eq!(
        text,
        "changed: web\nerror: mcp_port takes effect with: bpm daemon restart"
    );
    let (_, answer) = stage.order("reload", json!({}), Reply::Reload(Reloaded::default()));
    assert_eq!(stage.checked("reload", answer).1, "nothing to do");
    let mistakes = Reply::Mistakes(vec![".mcp-run:7:1: unknown key".into()]);
    let (_, answer) = stage.order("reload", json!({}), mistakes);
    assert_eq!(
        answer,
        Answer::Fail(
            ".mcp-run:7:1: unknown key\nnothing was changed: web, api go on as before".into()
        )
    );
}

#[test]
fn a_process_without_a_build_has_no_mode_and_no_release() {
    let mut worker = unit("worker");
    worker.builds = false;
    worker.facts.pid = Some(4720);
    let stage = Stage::new(vec![worker]);
    stage.change(|snapshot| {
        snapshot.release_at = Some(Mono::now().after(Duration::from_secs(10_800)));
    });
    let done = Done {
        build: None,
        ..good("worker")
    };
    let args = json!({"process": "worker"});
    let (_, answer) = stage.order("restart", args, Reply::Units(vec![done]));
    let (value, text) = stage.checked("restart", answer);
    for key in ["mode", "build", "release_in_seconds"] {
        assert_eq!(value[key], Value::Null, "{key}");
    }
    assert!(
        text.starts_with("worker: restarted, pid 4720 (before 4711), ready")
            && !text.contains("release"),
        "{text}"
    );
}

#[test]
fn a_late_answer_names_the_call_that_goes_on() {
    let stage = Stage::new(vec![unit("web")]);
    stage.change_unit("web", |web| web.build = Some(build(8, BuildState::Running)));
    let args = json!({"process": "web", "timeout_seconds": 0});
    let answer = stage.call("restart", args.clone());
    let (value, _) = stage.checked("restart", answer);
    assert_eq!(
        value["next_call"],
        json!({"tool": "wait", "arguments": {"process": "web", "for": "ready"}})
    );
    let value = stage.data("stop", args);
    assert_eq!(value["next_call"]["tool"], "get_status");
}

/// Clients give up after 60 s, after 300 s where they hear of progress; people wait as long as they say.
#[test]
fn a_call_is_answered_before_its_client_gives_up() {
    let stage = Stage::new(vec![idle("web", State::Starting)]);
    let token = json!(1);
    for (caller, token, limit) in [
        (agent(), None, 55),
        (agent(), Some(&token), 280),
        (cli(), None, 500),
    ] {
        for tool in ["restart", "start", "stop", "wait"] {
            let args = json!({"process": "web", "timeout_seconds": 500});
            let Some(Step::Wait(task)) = stage.tools.call(&caller, tool, &args, token) else {
                panic!("{tool} does not wait")
            };
            let left = task.deadline().unwrap().since(Mono::now());
            assert!(
                left <= Duration::from_secs(limit) && left > Duration::from_secs(limit - 5),
                "{tool}: {left:?}"
            );
        }
    }
}

#[test]
fn a_changed_mcp_run_is_said() {
    let folder = std::env::temp_dir().join(format!("bpm-changed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(".mcp-run");
    std::fs::write(&file, "[process.web]\ncommand = \"before\"\n").unwrap();
    let stage = Stage::new(vec![unit("web")]);
    stage.change(|snapshot| {
        snapshot.root = folder.clone();
        snapshot.config = bpm::os::files::digest(&file);
    });
    let start = || {
        let reply = Reply::Units(vec![good("web")]);
        let (_, answer) = stage.order("start", json!({"process": "web"}), reply);
        stage.checked("start", answer)
    };
    let mut pid = 0;
    let mut status = || {
        pid += 1;
        stage.change_unit("web", |web| web.facts.pid = Some(pid));
        stage.checked("get_status", stage.call("get_status", json!({})))
    };
    let (value, text) = start();
    assert!(
        value.get("config_changed").is_none() && !text.contains(".mcp-run"),
        "{text}"
    );
    std::fs::write(&file, "[process.web]\ncommand = \"after\"\n").unwrap();
    for (value, text) in [start(), status()] {
        assert_eq!(value["config_changed"], true);
        assert_eq!(value.get("config_error"), None);
        let said = ".mcp-run has changed since it was read: reload takes it over";
        assert!(text.contains(said), "{text}");
    }
    // A reload would refuse this: the answer says why, be it a mistake or that there is no file.
    for (now, mistake) in [
        (
            Some("[process.web]\ncomand = \"x\"\n"),
            "did you mean \"command\"?",
        ),
        (None, "no such file"),
    ] {
        match now {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        for (value, text) in [start(), status()] {
            assert_eq!(value["config_changed"], true);
            let error = value["config_error"].as_str().unwrap();
            assert!(error.contains(mistake), "{error}");
            let then = "once it is repaired, reload takes it over";
            for part in ["changed since it was read: it cannot be used", error, then] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn reading_from_the_cli_is_no_activity_and_orders_are() {
    let stage = Stage::new(vec![unit("web")]);
    let mut last = stage.handle.last_activity();
    let mut touched = |caller: &Caller, tool: &str| {
        let _ = stage
            .tools
            .call(caller, tool, &json!({"process": "web"}), None);
        std::mem::replace(&mut last, stage.handle.last_activity()) != stage.handle.last_activity()
    };
    assert!(!touched(&cli(), "get_status"));
    assert!(!touched(&cli(), "search_logs"));
    assert!(!touched(
        &Caller {
            kind: ClientKind::Tui,
            ..cli()
        },
        "wait"
    ));
    for tool in ["start", "stop", "restart"] {
        assert!(touched(&cli(), tool), "{tool}");
    }
    assert!(touched(&agent(), "get_status"));
    assert!(touched(
        &Caller {
            kind: ClientKind::Proxy,
            ..cli()
        },
        "search_logs"
    ));
}
