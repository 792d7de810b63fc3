//! Dependencies: what is started after what, waits for what, and ends before what. Many processes,
//! and what a run leaves.

use crate::common::{Project, eventually, lives, murder};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A chain db (ready by a check) <- api (ready once it lives) <- web, and a task that must be done.
const CHAIN: &str = r#"
[process.web]
command = "echo web >>order; trap 'echo web >>ends; exit' TERM; echo up; while :; do sleep 0.02; done"
depends_on = ["api"]
[process.api]
command = "echo api >>order; trap 'echo api >>ends; exit' TERM; echo up; while :; do sleep 0.02; done"
depends_on = { db = "ready", migrate = "completed" }
[process.migrate]
type = "task"
command = "echo migrate >>order; until [ -e migrated ]; do sleep 0.02; done"
depends_on = { db = "started" }
[process.db]
command = "echo db >>order; trap 'echo db >>ends; exit' TERM; echo up; while :; do sleep 0.02; done"
ready = { command = ["test", "-e", "ready"], interval_seconds = 0.05 }
"#;

fn waits(project: &Project, process: &str, for_what: &str) {
    let status = project.status_when(process, |s| {
        s["state"] == "waiting" && s["reason"].as_str().is_some_and(|r| r.contains(for_what))
    });
    assert_eq!(status["pid"], Value::Null, "{status}");
}

#[test]
fn dependent_waits_for_what_it_needs_and_ends_first() {
    let mut project = Project::new(CHAIN);
    project.serve();
    // `started` is enough for the task, `ready` is not there yet.
    project.status_when("migrate", |s| s["state"] == "running");
    project.line("db", "up");
    waits(&project, "api", "waits for");
    waits(&project, "web", "waits for api");
    project.file("ready", "");
    waits(&project, "api", "migrate to be done");
    project.file("migrated", "");
    project.status_when("migrate", |s| s["state"] == "done");
    project.line("web", "up");
    project.line("api", "up");
    // Shells that were started one right after the other race, their numbers don't.
    let order = project.read("order");
    let mut first: Vec<&str> = order.lines().take(2).collect();
    first.sort_unstable();
    assert_eq!(first, ["db", "migrate"]);
    let (api, web) = (project.running("api"), project.running("web"));
    assert!(api < web, "{api} {web}");

    project.signal(Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    assert_eq!(project.read("ends"), "web\napi\ndb\n");
}

#[test]
fn one_start_starts_what_it_needs_and_a_stop_only_itself() {
    let mut project = Project::new(
        &CHAIN
            .replace("]\ncommand", "]\nautostart = false\ncommand")
            .replace(
                "type = \"task\"\ncommand",
                "type = \"task\"\nautostart = false\ncommand",
            ),
    );
    project.file("ready", "");
    project.file("migrated", "");
    project.serve();
    assert_eq!(project.status("db")["state"], "stopped");
    project.call("start", json!({"process": "web"})).ok();
    for name in ["db", "api", "web"] {
        assert_eq!(project.status(name)["state"], "running", "{name}");
    }
    assert_eq!(project.status("migrate")["state"], "done");
    // A dependency that goes does not tear down who depends on it.
    let api = project.running("api");
    project.call("restart", json!({"process": "db"})).ok();
    assert_eq!(project.running("api"), api);
    project.call("stop", json!({"process": "db"})).ok();
    assert_eq!(project.running("api"), api);
    // Nor does it keep one from its restart.
    project.call("restart", json!({"process": "api"})).ok();
    assert_ne!(project.running("api"), api);
    assert_eq!(project.status("api")["reason"], Value::Null);
    assert_eq!(project.status("db")["state"], "stopped");
    // But who starts anew brings it back.
    project.call("restart", json!({"process": "web"})).ok();
    project.call("stop", json!({"process": "*"})).ok();
    let ends = project.read("ends");
    assert!(
        ends.ends_with("web\napi\n") || ends.ends_with("web\napi\ndb\n"),
        "{ends}"
    );
}

#[test]
fn waiting_process_can_be_stopped_and_a_task_runs_when_asked() {
    let mut project = Project::new(CHAIN);
    project.serve();
    waits(&project, "web", "api");
    let done = project.call("stop", json!({"process": "web"})).ok();
    assert_eq!(
        (&done["ok"], &done["signalled"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(project.status("web")["state"], "stopped");
    project.file("ready", "");
    project.file("migrated", "");
    project.running("api");
    assert_eq!(project.status("web")["state"], "stopped");

    let tasks = || project.read("order").matches("migrate").count();
    assert_eq!(tasks(), 1);
    // Others that come and go don't repeat it.
    project.call("restart", json!({"process": "api"})).ok();
    project.call("start", json!({"process": "web"})).ok();
    assert_eq!(tasks(), 1);
    project.call("restart", json!({"process": "migrate"})).ok();
    assert_eq!(tasks(), 2);
    assert_eq!(project.status("migrate")["state"], "done");
    project.call("start", json!({"process": "migrate"})).ok();
    let after_start = tasks();
    assert_eq!(after_start, 3, "a start is an order as well");
}

#[test]
fn a_task_runs_again_in_the_next_daemon() {
    let mut project = Project::new("[process.once]\ntype = \"task\"\ncommand = \"echo x >>ran\"\n");
    for times in 1..=2 {
        project.serve();
        project.status_when("once", |s| s["state"] == "done");
        assert_eq!(project.read("ran").lines().count(), times);
        project.signal(Signal::SIGTERM);
        assert_eq!(project.ended(), Some(0));
    }
}

#[test]
fn a_dependency_that_never_gets_ready_is_said_and_the_rest_runs() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.db]
command = ["sleep", "1000"]
ready = { command = ["sh", "-c", "echo 'no socket' >&2; exit 2"], timeout_seconds = 0.3, interval_seconds = 0.05 }
start_limit_burst = 2
[process.web]
command = ["sleep", "1000"]
depends_on = ["db"]
[process.migrate]
type = "task"
command = "exit 5"
[process.api]
command = ["sleep", "1000"]
depends_on = ["migrate"]
[process.fine]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    project.running("fine");
    waits(&project, "web", "db to be ready");
    let status = project.status_when("db", |s| s["state"] == "failed");
    assert!(
        status["reason"].as_str().unwrap().contains("gave up"),
        "{status}"
    );
    waits(&project, "web", "has failed");
    waits(
        &project,
        "api",
        "waits for migrate to be done, but it has failed",
    );
    let wait = project.call("wait", json!({"process": "api", "timeout_seconds": 60}));
    let wait = wait.ok();
    assert_eq!(wait["met"], false);
    assert_eq!(
        wait["reason"],
        "waits for migrate to be done, but it has failed"
    );
    let out = project.cli(["wait", "web", "--timeout", "60"]).exits(1);
    assert!(out.err.contains("has failed"), "{}", out.err);
    // Who asks is told why nothing comes: of the dependency, which is tried again for them.
    let error = project.call("start", json!({"process": "web"})).error();
    assert!(error.contains("db") && error.contains("failed"), "{error}");
    let error = project.call("restart", json!({"process": "api"})).error();
    assert!(
        error.contains("migrate") && error.contains("failed"),
        "{error}"
    );
    assert_eq!(
        project.call("stop", json!({"process": "web"})).ok()["ok"],
        true
    );
    project.running("fine");
}

#[test]
fn a_wait_ends_when_what_is_needed_is_stopped() {
    let mut project = Project::new(CHAIN);
    project.serve();
    waits(&project, "api", "db");
    project.call("stop", json!({"process": "db"})).ok();
    waits(&project, "api", "is stopped");
    let error = project.call("restart", json!({"process": "web", "timeout_seconds": 0.1}));
    // It started db anew, which is not ready: nothing to answer yet.
    assert_eq!(error.ok()["timed_out"], true);
    project.file("ready", "");
    project.file("migrated", "");
    project.running("web");
}

#[test]
fn a_killed_leader_whose_child_keeps_the_pipe_is_noticed_at_once() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.app]
command = "echo first words; (trap '' TERM; echo child; exec sleep 1000) & (exec setsid sleep 1000) & echo last words; exec sleep 1000"
[process.other]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    let mut pid = project.running("app");
    project.running("other");
    for round in 1..=3 {
        project.line("app", "child");
        project.line("app", "last words");
        let before = project.inhabitants();
        assert_eq!(before.len(), 4, "{before:?}");
        murder(pid);
        let status = project.status_when("app", |s| s["restarts"] == round && s["pid"].is_number());
        assert_eq!(status["exit"]["signal"], "KILL");
        assert_eq!(status["crashes"], round);
        // All of the old run is gone: in the group, and in a session of its own.
        let other = project.running("other");
        for (old, command) in before.iter().filter(|(p, _)| *p != other) {
            assert!(!lives(*old), "{command}");
        }
        let lines = project.lines("search_logs", json!({"process": "app", "index": -2}));
        for line in ["first words", "child", "last words"] {
            assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
        }
        pid = project.running("app");
    }
}

#[test]
fn output_in_the_pipe_of_a_killed_run_is_kept() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 100\n[process.app]\ncommand = \"setsid sleep 1000 & FIXTURE burst 2000; kill -9 $$\"\n",
    );
    project.serve();
    let status = project.status_when("app", |s| s["state"] == "crashed");
    assert_eq!(status["exit"]["signal"], "KILL");
    assert_eq!(status["log_lines"], 2_000, "{status}");
    eventually(|| match project.inhabitants() {
        none if none.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// Children of bpm in any state: pid and state.
fn children(pid: i32) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields[1] == pid.to_string() {
            let child = entry.file_name().to_str().unwrap().parse().unwrap();
            found.push((child, fields[0].to_string()));
        }
    }
    found
}

#[test]
fn two_hundred_are_started_and_stopped_and_nothing_is_left() {
    let mut config = String::new();
    for n in 0..200 {
        // Every fourth with a child that ignores TERM.
        let (command, patience) = match n % 4 {
            0 => (
                "[\"sh\", \"-c\", \"(trap '' TERM; echo deaf; exec sleep 1000) & exec sleep 1000\"]",
                "0.5",
            ),
            _ => ("[\"sleep\", \"1000\"]", "1000"),
        };
        config +=
            &format!("[process.p{n}]\ncommand = {command}\nstop_timeout_seconds = {patience}\n");
    }
    let mut project = Project::new(&config);
    project.serve();
    let all_in = |state: &str| {
        eventually(|| {
            let status = project.call("get_status", json!({"verbose": true})).ok();
            let processes = status["processes"].as_array().unwrap().clone();
            let others = processes.iter().filter(|p| p["state"] != state).count();
            // Who will not hear the signal has said so.
            let deaf = processes
                .iter()
                .filter(|p| p["log_lines"].as_u64() > Some(0));
            match (others, deaf.count()) {
                (0, 50) => Ok(()),
                others => Err(others),
            }
        });
    };
    all_in("running");
    let done = project.call("stop", json!({"process": "*"})).ok();
    let results = done["results"].as_array().unwrap();
    let failed: Vec<&Value> = results.iter().filter(|r| r["ok"] != true).collect();
    assert_eq!(done["ok"], true, "{failed:?} {:?}", done.get("timed_out"));
    assert_eq!(results.len(), 200);
    for result in results {
        let n: u32 = result["process"].as_str().unwrap()[1..].parse().unwrap();
        let killed = result["killed"].as_u64().unwrap();
        // With the one that does not hear it one may have to go that was about to.
        let fits = if n.is_multiple_of(4) { 1..=2 } else { 0..=0 };
        assert!(fits.contains(&killed), "{result}");
    }
    all_in("stopped");
    assert!(
        project.inhabitants().is_empty(),
        "{:?}",
        project.inhabitants()
    );
    assert_eq!(children(project.pid()), [], "no zombie");
    let done = project.call("start", json!({"process": "*"})).ok();
    assert_eq!(done["ok"], true);
    all_in("running");
    project.signal(Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    assert!(project.inhabitants().is_empty());
}
