//! Restarts without a gap: held sockets, overlap, rollback.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;

use common::load::{Load, get};
use common::{House, free_port, lives, murder};
use serde_json::{Value, json};

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A server on a held socket that is ready once it says so.
fn held(address: SocketAddr, more: &str) -> House {
    let house = House::new(&format!(
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
    house.file("version", "v0");
    house
}

fn restart(house: &House) -> common::Answer {
    house.call("restart", json!({"process": "web"}))
}

#[test]
fn twenty_restarts_under_load_with_overlap_fail_nobody() {
    let address = address();
    let mut house = held(address, "");
    house.serve();
    house.running("web");
    let load = Load::begin(address, 2_000);
    load.more(200);
    for n in 1..=20 {
        house.file("version", &format!("v{n}"));
        let done = restart(&house).ok();
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
    assert_eq!(house.status("web")["restarts"], 20);
    assert_eq!(house.inhabitants().len(), 1, "{:?}", house.inhabitants());
}

#[test]
fn twenty_restarts_under_load_fail_no_kept_connection() {
    let address = address();
    let mut house = held(address, "env = { KEEP_ALIVE = \"1\" }\n");
    house.serve();
    house.running("web");
    let load = Load::kept(address, 2_000);
    load.more(200);
    for n in 1..=20 {
        house.file("version", &format!("v{n}"));
        let pid = restart(&house).ok()["pid"].clone();
        load.more(50);
        assert_eq!(house.status("web")["pid"], pid);
    }
    let served = load.end();
    assert!(served.failed.is_empty(), "{:?}", served.failed);
    for n in 0..=20 {
        let of = format!("v{n} ");
        assert!(served.bodies.iter().any(|b| b.starts_with(&of)), "{of}");
    }
    assert_eq!(house.inhabitants().len(), 1, "{:?}", house.inhabitants());
}

#[test]
fn stop_start_on_a_held_socket_delays_and_refuses_nobody() {
    let address = address();
    let mut house = held(
        address,
        "swap = \"stop-start\"\nenv = { LINGER_MS = \"100\" }\n",
    );
    house.serve();
    house.running("web");
    let load = Load::begin(address, 500);
    load.more(100);
    for n in 1..=5 {
        house.file("version", &format!("v{n}"));
        let done = restart(&house).ok();
        assert!(done["gap_seconds"].as_f64().unwrap() >= 0.1, "{done}");
        load.more(20);
    }
    let served = load.end();
    assert!(served.failed.is_empty(), "{:?}", served.failed);
    assert_eq!(house.inhabitants().len(), 1);
}

#[test]
fn a_crash_with_a_held_socket_refuses_nobody() {
    let address = address();
    let mut house = held(address, "");
    house.serve();
    let mut pid = house.running("web");
    for round in 1..=5 {
        // Nobody accepts from now on until the next one does.
        murder(pid);
        let answer = get(address).unwrap();
        let status =
            house.status_when("web", |s| s["restarts"] == round && s["state"] == "running");
        pid = status["pid"].as_i64().unwrap() as i32;
        assert_eq!(answer, format!("v0 {pid}"));
    }
}

#[test]
fn a_connection_made_before_the_first_start_waits() {
    let address = address();
    let mut house = House::new(&format!(
        "[process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"{address}\"]\nautostart = false\n"
    ));
    house.serve();
    let waiting = std::thread::spawn(move || get(address));
    house.call("start", json!({"process": "web"})).ok();
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_new_version_that_fails_leaves_the_old_one_untouched() {
    let address = address();
    let mut house = held(address, "");
    house.serve();
    let old = house.running("web");
    let load = Load::begin(address, 500);

    house.file("version", "die");
    let error = restart(&house).error();
    for part in ["exit code 3", "cannot work like this", "still serves"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    // It is said until the next swap, not only to who asked.
    let status = house.status("web");
    assert_eq!(
        (&status["state"], &status["pid"], &status["mode"]),
        (&json!("running"), &json!(old), &json!("release"))
    );
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("old run serves on"), "{reason}");
    assert_eq!(house.status("web")["reason"], reason);
    assert_eq!(house.status("web")["restarts"], 1);

    house.file("version", "never");
    house.config(&house.read(".mcp-run").replace("= 60", "= 0.5"));
    house.call("reload", json!({})).ok();
    let error = restart(&house).error();
    for part in ["not ready within 0.5 s", "still serves"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    house.status_when("web", |_| house.inhabitants().len() == 1);
    assert_eq!(house.running("web"), old);
    let reason = house.status("web")["reason"].as_str().unwrap().to_string();
    assert!(reason.contains("not ready within 0.5 s"), "{reason}");

    // A crash now brings back what served.
    house.file("version", "v0");
    murder(old);
    let back = house.status_when("web", |s| s["state"] == "running" && s["pid"] != old);
    assert_eq!(back["reason"], Value::Null, "{back}");
    let served = load.end();
    // One connection may have been accepted by what was killed.
    assert!(served.failed.len() <= 1, "{:?}", served.failed);
    assert!(!served.failed.iter().any(|f| f.contains("connect")));
}

#[test]
fn the_old_one_serves_until_the_new_one_is_ready_and_their_lines_are_told_apart() {
    let address = address();
    let mut house = House::new(&format!(
        r#"
[process.web]
command = "echo begin $BPM_RUN; until [ -e go$BPM_RUN ]; do sleep 0.02; done; exec FIXTURE serve"
listen = ["{address}"]
ready = {{ log = "serving" }}
"#
    ));
    house.file("go1", "");
    house.file("version", "one");
    house.serve();
    let old = house.running("web");
    house.file("version", "two");
    let url = house.descriptor()["url"].as_str().unwrap().to_string();
    let answer = std::thread::spawn(move || {
        common::Http::to(&url)
            .call("restart", json!({"process": "web"}))
            .ok()
    });
    house.line("web", "begin 2");
    // Both are there, and the old one answers. A shell that is about to be `sleep` is a third for a moment.
    common::eventually(|| {
        let mut all = house.inhabitants();
        all.retain(|(_, command)| !command.starts_with("sleep"));
        if all.len() == 2 { Ok(()) } else { Err(all) }
    });
    for _ in 0..10 {
        assert_eq!(get(address).unwrap(), format!("one {old}"));
    }
    assert_eq!(house.status("web")["pid"], old);
    house.file("go2", "");
    let done = answer.join().unwrap();
    assert_eq!(done["previous_pid"], old);
    assert_eq!(done["ready"], true);
    common::eventually(|| if lives(old) { Err("lives") } else { Ok(()) });
    assert_eq!(get(address).unwrap(), format!("two {}", done["pid"]));
    house.says("web", &["begin 2", "serving two"]);
    let before = house.lines("search_logs", json!({"process": "web", "index": -2}));
    assert_eq!(before, ["begin 1", "serving one"]);
}

#[test]
fn a_stop_during_an_overlap_stops_both() {
    let address = address();
    let mut house = held(address, "");
    house.serve();
    house.running("web");
    house.file("version", "never");
    let url = house.descriptor()["url"].as_str().unwrap().to_string();
    let answer = std::thread::spawn(move || {
        common::Http::to(&url).call("restart", json!({"process": "web"}))
    });
    common::eventually(|| match house.inhabitants().len() {
        2 => Ok(()),
        n => Err(n),
    });
    house.call("stop", json!({"process": "web"})).ok();
    assert!(house.inhabitants().is_empty());
    let error = answer.join().unwrap().error();
    assert!(error.contains("stop"), "{error}");
    // The address is still bpm's: who connects waits for the next start.
    std::net::TcpStream::connect(address).unwrap();
    assert_eq!(house.status("web")["state"], "stopped");
}

/// A rust process under the fake cargo.
fn rust(more: &str) -> House {
    let mut house = House::new(&format!(
        "dev_crash_wait_seconds = 0\n[process.app]\ntype = \"rust\"\n{more}"
    ));
    house.fake_cargo();
    house.source("echo one; exec sleep 1000");
    house.serve();
    house.running("app");
    house
}

#[test]
fn a_binary_that_dies_before_it_is_good_is_rolled_back() {
    let house = rust("");
    house.source("echo 'no config' >&2; exit 9");
    let error = house.call("restart", json!({"process": "app"})).error();
    for part in ["rolled back", "exit code 9", "no config"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = house.status("app");
    assert_eq!(status["state"], "running", "{status}");
    assert_eq!(status["rolled_back"], true, "{status}");
    assert_eq!(status["stale"], true, "{status}");
    assert_eq!(status["build"]["ok"], true, "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("rolled back"), "{reason}");
    house.says("app", &["one"]);
    let shown = house.cli(["status"]).exits(0).out;
    assert!(shown.contains("rolled back"), "{shown}");

    // What was rolled back long ago is not what a later failure does.
    house.file("src/broken", "mismatched types");
    let pid = house.running("app").to_string();
    let error = house.call("restart", json!({"process": "app"})).error();
    for part in ["E0308", "still serves", &pid] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    assert!(!error.contains("rolled back"), "{error}");
    house.remove("src/broken");

    // What was rolled back to is what a crash brings back.
    murder(house.running("app"));
    house.status_when("app", |s| s["restarts"] == 3 && s["state"] == "running");
    house.says("app", &["one"]);

    house.source("echo three; exec sleep 1000");
    house.call("restart", json!({"process": "app"})).ok();
    let status = house.status("app");
    assert_eq!(
        (&status["rolled_back"], &status["reason"]),
        (&json!(false), &Value::Null)
    );
    house.says("app", &["three"]);
}

#[test]
fn one_that_is_not_ready_in_time_is_rolled_back_too() {
    let house = rust("ready = { log = \"one|three\", timeout_seconds = 2.5 }\n");
    house.source("echo two; exec sleep 1000");
    let error = house.call("restart", json!({"process": "app"})).error();
    for part in ["rolled back", "not ready within 2.5 s"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = house.status("app");
    assert_eq!(
        (&status["state"], &status["rolled_back"]),
        (&json!("running"), &json!(true))
    );
    house.says("app", &["one"]);
}

#[test]
fn a_first_start_that_dies_is_not_rolled_back_to_anything() {
    let mut house =
        House::new("release_crash_backoff_initial_seconds = 100\n[process.app]\ntype = \"rust\"\n");
    house.fake_cargo();
    house.source("exit 9");
    house.serve();
    let status = house.status_when("app", |s| s["state"] == "crashed");
    assert_eq!(status["rolled_back"], false, "{status}");
}

#[test]
fn a_command_that_dies_is_no_matter_of_builds() {
    let mut house = House::new(
        "dev_crash_wait_seconds = 100\n[process.app]\ncommand = \"test -e bad && exit 9; exec sleep 1000\"\n",
    );
    house.serve();
    house.running("app");
    house.file("bad", "");
    let error = house.call("restart", json!({"process": "app"})).error();
    assert!(error.contains("exit code 9"), "{error}");
    assert!(!error.contains("rolled back"), "{error}");
    assert_eq!(house.status("app")["state"], "crashed");
}

#[test]
fn a_rust_process_overlaps_as_well() {
    let address = address();
    let mut house = House::new(&format!(
        "[process.app]\ntype = \"rust\"\nlisten = [\"{address}\"]\nready = {{ log = \"serving\" }}\n"
    ));
    let serve = format!("exec {} serve", common::fixture().display());
    house.fake_cargo();
    house.source(&serve);
    house.file("version", "v1");
    house.serve();
    let old = house.running("app");
    house.source("echo 'no config' >&2; exit 9");
    let error = house.call("restart", json!({"process": "app"})).error();
    assert!(
        error.contains("still serves") && error.contains("no config"),
        "{error}"
    );
    let status = house.status("app");
    assert_eq!(
        (
            &status["pid"],
            &status["stale"],
            &status["rolled_back"],
            &status["mode"]
        ),
        (&json!(old), &json!(true), &json!(false), &json!("release"))
    );
    house.source(&serve);
    house.file("version", "v2");
    let done = house.call("restart", json!({"process": "app"})).ok();
    assert_eq!(
        (&done["mode"], &done["gap_seconds"]),
        (&json!("dev"), &Value::Null)
    );
    assert_eq!(get(address).unwrap(), format!("v2 {}", done["pid"]));
}
