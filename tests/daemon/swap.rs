//! Restarts without a gap: held sockets, overlap, rollback.

use std::net::SocketAddr;

use crate::common::load::{Load, get};
use crate::common::{Project, free_port, lives, murder};
use serde_json::{Value, json};

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A server on a held socket that is ready once it says so.
fn held(address: SocketAddr, more: &str) -> Project {
    let project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 0
dev_crash_wait_seconds = 0
[process.web]
command = ["FIXTURE", "serve"]
listen = ["{address}"]
ready = {{ log = "serving", timeout_seconds = 60 }}
{more}
"#
    ));
    project.file("version", "v0");
    project
}

fn restart(project: &Project) -> crate::common::Answer {
    project.call("restart", json!({"process": "web"}))
}

#[test]
fn twenty_restarts_under_load_with_overlap_fail_nobody() {
    let address = address();
    let mut project = held(address, "");
    project.serve();
    project.running("web");
    let load = Load::begin(address, 2_000);
    load.more(200);
    for n in 1..=20 {
        project.file("version", &format!("v{n}"));
        let done = restart(&project).ok();
        assert_eq!(done["gap_seconds"], Value::Null, "{done}");
        load.more(20);
    }
    let served = load.end();
    assert!(served.failed.is_empty(), "{:?}", served.failed);
    assert!(served.good.len() > 500, "{}", served.good.len());
    for n in 0..=20 {
        let of = format!("v{n} ");
        assert!(served.bodies.iter().any(|b| b.starts_with(&of)), "{of}");
    }
    assert_eq!(project.status("web")["restarts"], 20);
    assert_eq!(
        project.inhabitants().len(),
        1,
        "{:?}",
        project.inhabitants()
    );
}

#[test]
fn twenty_restarts_under_load_fail_no_kept_connection() {
    let address = address();
    let mut project = held(address, "env = { KEEP_ALIVE = \"1\" }\n");
    project.serve();
    project.running("web");
    let load = Load::kept(address, 2_000);
    load.more(200);
    for n in 1..=20 {
        project.file("version", &format!("v{n}"));
        let pid = restart(&project).ok()["pid"].clone();
        load.more(50);
        assert_eq!(project.status("web")["pid"], pid);
    }
    let served = load.end();
    assert!(served.failed.is_empty(), "{:?}", served.failed);
    for n in 0..=20 {
        let of = format!("v{n} ");
        assert!(served.bodies.iter().any(|b| b.starts_with(&of)), "{of}");
    }
    assert_eq!(
        project.inhabitants().len(),
        1,
        "{:?}",
        project.inhabitants()
    );
}

#[test]
fn stop_start_on_a_held_socket_delays_and_refuses_nobody() {
    let address = address();
    let mut project = held(
        address,
        "swap = \"stop-start\"\nenv = { LINGER_MS = \"100\" }\n",
    );
    project.serve();
    project.running("web");
    let load = Load::begin(address, 500);
    load.more(100);
    for n in 1..=5 {
        project.file("version", &format!("v{n}"));
        let done = restart(&project).ok();
        assert!(done["gap_seconds"].as_f64().unwrap() >= 0.1, "{done}");
        load.more(20);
    }
    let served = load.end();
    assert!(served.failed.is_empty(), "{:?}", served.failed);
    assert_eq!(project.inhabitants().len(), 1);
}

#[test]
fn a_crash_with_a_held_socket_refuses_nobody() {
    let address = address();
    let mut project = held(address, "");
    project.serve();
    let mut pid = project.running("web");
    for round in 1..=5 {
        // Nobody accepts from now on until the next one does.
        murder(pid);
        let answer = get(address).unwrap();
        let status =
            project.status_when("web", |s| s["restarts"] == round && s["state"] == "running");
        pid = status["pid"].as_i64().unwrap() as i32;
        assert_eq!(answer, format!("v0 {pid}"));
    }
}

#[test]
fn a_connection_made_before_the_first_start_waits() {
    let address = address();
    let mut project = Project::new(&format!(
        "[process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"{address}\"]\nautostart = false\n"
    ));
    project.serve();
    let waiting = std::thread::spawn(move || get(address));
    project.call("start", json!({"process": "web"})).ok();
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_new_version_that_fails_leaves_the_old_one_untouched() {
    let address = address();
    let mut project = held(address, "");
    project.serve();
    let old = project.running("web");
    let load = Load::begin(address, 500);

    project.file("version", "die");
    let error = restart(&project).error();
    for part in ["exit code 3", "cannot work like this", "still serves"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    // It is said until the next swap, not only to who asked.
    let status = project.status("web");
    assert_eq!(
        (&status["state"], &status["pid"], &status["mode"]),
        (&json!("running"), &json!(old), &json!("release"))
    );
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("old run serves on"), "{reason}");
    assert_eq!(project.status("web")["reason"], reason);
    assert_eq!(project.status("web")["restarts"], 1);

    project.file("version", "never");
    project.config(&project.read(".mcp-run").replace("= 60", "= 0.5"));
    project.call("reload", json!({})).ok();
    let error = restart(&project).error();
    for part in ["not ready within 0.5 s", "still serves"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    project.status_when("web", |_| project.inhabitants().len() == 1);
    assert_eq!(project.running("web"), old);
    let reason = project.status("web")["reason"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(reason.contains("not ready within 0.5 s"), "{reason}");

    // A crash now brings back what served.
    project.file("version", "v0");
    murder(old);
    let back = project.status_when("web", |s| s["state"] == "running" && s["pid"] != old);
    assert_eq!(back["reason"], Value::Null, "{back}");
    let served = load.end();
    // One connection may have been accepted by what was killed.
    assert!(served.failed.len() <= 1, "{:?}", served.failed);
    assert!(!served.failed.iter().any(|f| f.contains("connect")));
}

#[test]
fn new_run_that_dies_soon_after_it_was_ready_leaves_the_old_one_untouched() {
    let mut project = Project::new(
        r#"
[process.web]
command = "echo ready; test ! -e broken || { sleep 0.05; exit 3; }; exec sleep 1000"
swap = "overlap"
ready = { log = "ready", settle_seconds = 2 }
"#,
    );
    project.serve();
    let old = project.running("web");
    project.file("broken", "");
    let error = restart(&project).error();
    assert!(error.contains("exit code 3"), "{error}");
    assert_eq!(project.running("web"), old);
    let reason = project.status("web")["reason"].to_string();
    assert!(reason.contains("soon after it was ready"), "{reason}");
    project.remove("broken");
    let done = restart(&project).ok();
    assert_eq!(done["previous_pid"], old);
}

#[test]
fn the_old_one_serves_until_the_new_one_is_ready_and_their_lines_are_told_apart() {
    let address = address();
    let mut project = Project::new(&format!(
        r#"
[process.web]
command = "echo begin $BPM_RUN; until [ -e go$BPM_RUN ]; do sleep 0.02; done; exec FIXTURE serve"
listen = ["{address}"]
ready = {{ log = "serving" }}
"#
    ));
    project.file("go1", "");
    project.file("version", "one");
    project.serve();
    let old = project.running("web");
    project.file("version", "two");
    let url = project.descriptor()["url"].as_str().unwrap().to_string();
    let answer = std::thread::spawn(move || {
        crate::common::Http::to(&url)
            .call("restart", json!({"process": "web"}))
            .ok()
    });
    project.line("web", "begin 2");
    // Both are there, and the old one answers. A shell that is about to be `sleep` is a third for a moment.
    crate::common::eventually(|| {
        let mut all = project.inhabitants();
        all.retain(|(_, command)| !command.starts_with("sleep"));
        if all.len() == 2 { Ok(()) } else { Err(all) }
    });
    for _ in 0..10 {
        assert_eq!(get(address).unwrap(), format!("one {old}"));
    }
    assert_eq!(project.status("web")["pid"], old);
    project.file("go2", "");
    let done = answer.join().unwrap();
    assert_eq!(done["previous_pid"], old);
    assert_eq!(done["ready"], true);
    crate::common::eventually(|| if lives(old) { Err("lives") } else { Ok(()) });
    assert_eq!(get(address).unwrap(), format!("two {}", done["pid"]));
    project.says("web", &["begin 2", "serving two"]);
    let before = project.lines("search_logs", json!({"process": "web", "index": -2}));
    assert_eq!(before, ["begin 1", "serving one"]);
}

#[test]
fn a_stop_during_an_overlap_stops_both() {
    let address = address();
    let mut project = held(address, "");
    project.serve();
    project.running("web");
    project.file("version", "never");
    let url = project.descriptor()["url"].as_str().unwrap().to_string();
    let answer = std::thread::spawn(move || {
        crate::common::Http::to(&url).call("restart", json!({"process": "web"}))
    });
    crate::common::eventually(|| match project.inhabitants().len() {
        2 => Ok(()),
        n => Err(n),
    });
    project.call("stop", json!({"process": "web"})).ok();
    assert!(project.inhabitants().is_empty());
    let error = answer.join().unwrap().error();
    assert!(error.contains("stop"), "{error}");
    // The address is still bpm's: who connects waits for the next start.
    std::net::TcpStream::connect(address).unwrap();
    assert_eq!(project.status("web")["state"], "stopped");
}

/// A rust process under the fake cargo.
fn rust(more: &str) -> Project {
    let mut project = Project::new(&format!(
        "dev_crash_wait_seconds = 0\n[process.app]\ntype = \"rust\"\n{more}"
    ));
    project.fake_cargo();
    project.source("echo one; exec sleep 1000");
    project.serve();
    project.running("app");
    project
}

#[test]
fn a_binary_that_dies_before_it_is_good_is_rolled_back() {
    let project = rust("");
    project.source("echo 'no config' >&2; exit 9");
    let error = project.call("restart", json!({"process": "app"})).error();
    for part in ["rolled back", "exit code 9", "no config"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = project.status("app");
    assert_eq!(status["state"], "running", "{status}");
    assert_eq!(status["rolled_back"], true, "{status}");
    assert_eq!(status["stale"], true, "{status}");
    assert_eq!(status["build"]["ok"], true, "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("rolled back"), "{reason}");
    project.says("app", &["one"]);
    let shown = project.cli(["status"]).exits(0).out;
    assert!(shown.contains("rolled back"), "{shown}");

    // What was rolled back long ago is not what a later failure does.
    project.file("src/broken", "mismatched types");
    let pid = project.running("app").to_string();
    let error = project.call("restart", json!({"process": "app"})).error();
    for part in ["E0308", "still serves", &pid] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    assert!(!error.contains("rolled back"), "{error}");
    project.remove("src/broken");

    // What was rolled back to is what a crash brings back.
    murder(project.running("app"));
    project.status_when("app", |s| s["restarts"] == 3 && s["state"] == "running");
    project.says("app", &["one"]);

    project.source("echo three; exec sleep 1000");
    project.call("restart", json!({"process": "app"})).ok();
    let status = project.status("app");
    assert_eq!(
        (&status["rolled_back"], &status["reason"]),
        (&json!(false), &Value::Null)
    );
    project.says("app", &["three"]);
}

#[test]
fn build_that_is_not_ready_in_time_is_rolled_back() {
    let project = rust("ready = { log = \"one|three\", timeout_seconds = 2.5 }\n");
    project.source("echo two; exec sleep 1000");
    let error = project.call("restart", json!({"process": "app"})).error();
    for part in ["rolled back", "not ready within 2.5 s"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = project.status("app");
    assert_eq!(
        (&status["state"], &status["rolled_back"]),
        (&json!("running"), &json!(true))
    );
    project.says("app", &["one"]);
}

#[test]
fn a_first_start_that_dies_is_not_rolled_back_to_anything() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 100\n[process.app]\ntype = \"rust\"\n",
    );
    project.fake_cargo();
    project.source("exit 9");
    project.serve();
    let status = project.status_when("app", |s| s["state"] == "crashed");
    assert_eq!(status["rolled_back"], false, "{status}");
}

#[test]
fn command_that_dies_is_not_rolled_back() {
    let mut project = Project::new(
        "dev_crash_wait_seconds = 100\n[process.app]\ncommand = \"test -e bad && exit 9; exec sleep 1000\"\n",
    );
    project.serve();
    project.running("app");
    project.file("bad", "");
    let error = project.call("restart", json!({"process": "app"})).error();
    assert!(error.contains("exit code 9"), "{error}");
    assert!(!error.contains("rolled back"), "{error}");
    assert_eq!(project.status("app")["state"], "crashed");
}

#[test]
fn a_rust_process_overlaps_as_well() {
    let address = address();
    let mut project = Project::new(&format!(
        "[process.app]\ntype = \"rust\"\nlisten = [\"{address}\"]\nready = {{ log = \"serving\" }}\n"
    ));
    let serve = format!("exec {} serve", crate::common::fixture().display());
    project.fake_cargo();
    project.source(&serve);
    project.file("version", "v1");
    project.serve();
    let old = project.running("app");
    project.source("echo 'no config' >&2; exit 9");
    let error = project.call("restart", json!({"process": "app"})).error();
    assert!(
        error.contains("still serves") && error.contains("no config"),
        "{error}"
    );
    let status = project.status("app");
    assert_eq!(
        (
            &status["pid"],
            &status["stale"],
            &status["rolled_back"],
            &status["mode"]
        ),
        (&json!(old), &json!(true), &json!(false), &json!("release"))
    );
    project.source(&serve);
    project.file("version", "v2");
    let done = project.call("restart", json!({"process": "app"})).ok();
    assert_eq!(
        (&done["mode"], &done["gap_seconds"]),
        (&json!("dev"), &Value::Null)
    );
    assert_eq!(get(address).unwrap(), format!("v2 {}", done["pid"]));
}
