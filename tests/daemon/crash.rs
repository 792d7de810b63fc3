//! What dies is started again, when its mode says, and how it died is known.

use crate::common::{Project, eventually, murder};
use serde_json::{Value, json};

#[test]
fn a_killed_process_is_back() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 0\n[process.nap]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    project.serve();
    let mut pid = project.running("nap");
    for round in 1..=3 {
        murder(pid);
        let status = project.status_when("nap", |s| s["restarts"] == round && s["pid"].is_number());
        assert_eq!(status["exit"]["signal"], "KILL");
        assert_eq!(status["exit"]["code"], Value::Null);
        assert_eq!(status["exit"]["asked"], false);
        assert_eq!(status["crashes"], round);
        let next = project.running("nap");
        assert_ne!(next, pid);
        pid = next;
    }
}

#[test]
fn delays_grow_in_release_mode() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0.1
release_crash_backoff_max_seconds = 300
crash_backoff_factor = 1000
[process.bad]
command = "echo run $BPM_RUN; exit 7"
"#,
    );
    project.serve();
    // 0.1 s after the first crash, 100 s after the second.
    let status = project.status_when("bad", |s| s["crashes"] == 2);
    assert_eq!(status["state"], "crashed");
    assert_eq!(status["exit"]["code"], 7);
    let next = status["next_start_in_seconds"].as_f64().unwrap();
    assert!((1.0..=100.0).contains(&next), "{next}");
    project.says("bad", &["run 2"]);
    assert_eq!(
        project.lines("search_logs", json!({"process": "bad", "index": -2})),
        ["run 1"]
    );
}

#[test]
fn a_start_clears_the_delay_and_is_answered_with_the_end() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 300\n[process.bad]\ncommand = \"echo last words >&2; exit 7\"\n",
    );
    project.serve();
    project.status_when("bad", |s| s["state"] == "crashed");
    let error = project.call("start", json!({"process": "bad"})).error();
    for part in ["exit code 7", "last words"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(project.status("bad")["crashes"], 2);
}

#[test]
fn dev_mode_waits_for_who_edits() {
    let mut project =
        Project::new("dev_crash_wait_seconds = 500\n[process.bad]\ncommand = \"exit 1\"\n");
    project.serve();
    project.status_when("bad", |s| s["state"] == "crashed");
    project.call("restart", json!({"process": "bad"})).error();
    let status = project.status("bad");
    assert_eq!(status["mode"], "dev");
    let next = status["next_start_in_seconds"].as_f64().unwrap();
    assert!((300.0..=500.0).contains(&next), "{next}");
}

#[test]
fn restart_says_what_is_to_be_started_again() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.never]
command = "exit 1"
restart = "never"
[process.failure]
command = "exit 0"
restart = "on-failure"
"#,
    );
    project.serve();
    let status = project.status_when("never", |s| s["exit"].is_object());
    assert_eq!(status["state"], "failed", "{status}");
    project.status_when("failure", |s| s["state"] == "done");
    assert_eq!(project.status("failure")["restarts"], 0);
}

#[test]
fn too_many_early_ends_are_enough() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.bad]
command = "exit 1"
start_limit_burst = 3
"#,
    );
    project.serve();
    let status = project.status_when("bad", |s| s["state"] == "failed");
    assert_eq!(status["crashes"], 3);
    assert_eq!(status["next_start_in_seconds"], Value::Null);
    assert!(status["reason"].is_string(), "{status}");
    // Somebody starts it: then it may try again.
    project.call("start", json!({"process": "bad"})).error();
    project.status_when("bad", |s| s["crashes"].as_u64() > Some(3));
}

#[test]
fn a_core_and_a_segfault_are_told_apart_from_exits() {
    let mut project =
        Project::new("[process.bad]\ncommand = \"kill -SEGV $$\"\nlimits = { core = 0 }\n");
    project.serve();
    let status = project.status_when("bad", |s| s["state"] == "crashed");
    assert_eq!(status["exit"]["signal"], "SEGV");
    assert_eq!(status["exit"]["core"], false);
}

#[test]
fn nobody_is_disturbed_by_a_crash_loop_of_another() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
crash_backoff_factor = 1
[process.loop]
command = "exit 1"
[process.nap]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    let pid = project.running("nap");
    eventually(|| {
        let crashes = project.status("loop")["crashes"].as_u64().unwrap();
        if crashes >= 5 { Ok(()) } else { Err(crashes) }
    });
    assert_eq!(project.running("nap"), pid);
    assert_eq!(project.status("nap")["restarts"], 0);
    // It is stopped in the middle of its loop.
    assert_eq!(
        project.call("stop", json!({"process": "loop"})).ok()["ok"],
        true
    );
    assert_eq!(project.status("loop")["state"], "stopped");
}

#[test]
fn crashes_with_long_lines_keep_the_state_file_small() {
    let config = r#"
release_crash_backoff_initial_seconds = 0
crash_backoff_factor = 1
[process.loud]
command = "line=$(head -c 30000 /dev/zero | tr '\\0' x); for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo $line; echo $line; done; exit 1"
[process.web]
command = ["sleep", "1000"]
port = "auto"
"#;
    let mut project = Project::new(config);
    project.serve();
    let status = project.status_when("loud", |s| s["crashes"].as_u64() >= Some(34));
    let tail = status["exit"]["tail"].as_array();
    assert!(tail.is_none_or(|t| t.len() <= 40), "{status}");
    let port = project.status("web")["port"].clone();
    project.signal(nix::sys::signal::Signal::SIGTERM);
    project.ended();
    let folder = project.state_folder().unwrap();
    let size = std::fs::metadata(folder.join("state.json")).unwrap().len();
    assert!(size < 256 << 10, "{size} bytes");
    // The next bpm reads it.
    project.serve();
    assert_eq!(project.status("web")["port"], port);
    assert!(!folder.join("state.json.damaged-1").exists());
}

#[test]
fn end_with_0_is_explained_as_what_it_is() {
    let mut project = Project::new(
        "dev_crash_wait_seconds = 0.01\nrelease_crash_backoff_initial_seconds = 0.01\n\
         [process.css]\ncommand = \"cat; echo Done\"\n",
    );
    project.up();
    project.status_when("css", |s| s["crashes"].as_u64() >= Some(2));
    let why = project.cli(["why", "css"]).exits(0).out;
    assert!(why.contains("last abnormal end: exit code 0"), "{why}");
    assert!(why.contains("such ends"), "{why}");
    assert!(why.contains("stdin = \"open\""), "{why}");
    assert!(!why.contains("has not ended by itself"), "{why}");
    // With its input open it stays.
    project.config("[process.css]\ncommand = \"cat; echo Done\"\nstdin = \"open\"\n");
    project.cli(["reload"]).exits(0);
    project.running("css");
}

#[test]
fn crash_of_an_adopted_run_keeps_its_last_lines() {
    let mut project = Project::new(
        "[process.p]\ncommand = \"for i in 1 2 3; do echo line $i; done; exec FIXTURE nap\"\n",
    );
    project.up();
    let pid = project.running("p");
    project.line("p", "line 3");
    murder(project.pid());
    project.up();
    assert_eq!(project.running("p"), pid);
    murder(pid);
    project.status_when("p", |p| p["crashes"] == 1);
    let said = project.cli(["why", "p"]).exits(0).out;
    assert!(said.contains("   line 1\n   line 2\n   line 3\n"), "{said}");
}
