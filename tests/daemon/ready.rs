//! Readiness and health: each probe says when a run is good, what it last saw is told, and none can
//! hold up or fill up anything.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Project, eventually, fixture, free_port, lives, murder};

/// The reason once it has all these parts.
#[track_caller]
fn reason(project: &Project, process: &str, parts: &[&str]) -> String {
    let fits = |s: &Value| {
        let reason = s["reason"].as_str().unwrap_or_default();
        parts.iter().all(|part| reason.contains(part))
    };
    let status = project.status_when(process, fits);
    status["reason"].as_str().unwrap().to_string()
}

#[track_caller]
fn starting(project: &Project, process: &str) {
    // The doors open a moment before the first start.
    let status = project.status_when(process, |s| s["state"] != "stopped");
    assert_eq!(status["state"], "starting", "{status}");
    assert_eq!(status["ready"], false, "{status}");
}

#[track_caller]
fn ready(project: &Project, process: &str) -> Value {
    let status = project.status_when(process, |s| s["state"] == "running");
    assert_eq!(status["ready"], true, "{status}");
    status
}

#[test]
fn ready_tcp_is_a_connection() {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
[process.web]
command = "until [ -e go ]; do sleep 0.02; done; exec FIXTURE serve"
env = {{ PORT = "{port}" }}
ready = {{ tcp = "127.0.0.1:${{PORT}}", interval_seconds = 0.05 }}
"#
    ));
    project.serve();
    reason(&project, "web", &["connection refused", &port.to_string()]);
    starting(&project, "web");
    project.file("go", "");
    let status = ready(&project, "web");
    // What was seen on the way is over.
    assert_eq!(status["reason"], Value::Null);
}

#[test]
fn ready_is_not_what_another_process_answers() {
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = stranger.local_addr().unwrap();
    let mut project = Project::new(&format!(
        "[process.web]\ncommand = \"until [ -e go ]; do sleep 0.02; done; exec FIXTURE listen {}\"\nready = {{ tcp = \"{at}\", interval_seconds = 0.05 }}\n",
        at.port()
    ));
    project.serve();
    let said = format!("{at} is served by pid {}", std::process::id());
    reason(&project, "web", &[&said]);
    starting(&project, "web");
    drop(stranger);
    project.file("go", "");
    ready(&project, "web");
}

#[test]
fn ready_http_is_an_answer_with_2xx() {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
[process.web]
command = ["FIXTURE", "serve"]
port = {port}
ready = {{ http = "http://127.0.0.1:${{PORT}}/health", interval_seconds = 0.05 }}
"#
    ));
    project.file("sick", "");
    project.serve();
    reason(&project, "web", &["503 Not Well"]);
    starting(&project, "web");
    project.remove("sick");
    ready(&project, "web");
}

#[test]
fn ready_log_is_a_line_of_this_run() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.web]
command = "echo booting; until [ -e go$BPM_RUN ]; do sleep 0.02; done; echo 'listening on 80'; exec sleep 1000"
ready = { log = 'listening on \d+' }
"#,
    );
    project.serve();
    project.line("web", "booting");
    starting(&project, "web");
    project.file("go1", "");
    let pid = ready(&project, "web")["pid"].as_i64().unwrap() as i32;
    // The line of the run before does not make the next one ready.
    murder(pid);
    project.status_when("web", |s| s["restarts"] == 1);
    eventually(|| match project.logs("web").as_slice() {
        [only] if only == "booting" => Ok(()),
        more => Err(more.to_vec()),
    });
    starting(&project, "web");
    project.file("go2", "");
    ready(&project, "web");
}

#[test]
fn ready_command_is_an_exit_with_0() {
    let mut project = Project::new(
        r#"
[process.db]
command = ["sleep", "1000"]
env = { WHAT = "flag" }
ready = { command = ["sh", "-c", "test -e $WHAT || { echo \"no $WHAT yet\" >&2; exit 3; }"], interval_seconds = 0.05 }
"#,
    );
    project.serve();
    reason(&project, "db", &["exit code 3", "no flag yet"]);
    starting(&project, "db");
    project.file("flag", "");
    ready(&project, "db");
}

#[test]
fn ready_notify_is_what_the_process_says() {
    let mut project = Project::new(
        r#"
[process.web]
command = """
step() { until [ -e "go$1" ]; do sleep 0.02; done; }
step 1; FIXTURE notify 'STATUS=warming up'
step 2; FIXTURE notify MAINPID=1 MAINPID=1 READY=1
step 3; FIXTURE notify RELOADING=1
step 4; FIXTURE notify READY=1 'STATUS=as good as new'
step 5; FIXTURE notify STOPPING=1
exec sleep 1000"""
ready = { notify = true }
"#,
    );
    project.serve();
    starting(&project, "web");
    project.file("go1", "");
    reason(&project, "web", &["warming up"]);
    starting(&project, "web");
    project.file("go2", "");
    let pid = ready(&project, "web")["pid"].clone();
    project.file("go3", "");
    reason(&project, "web", &["reloads"]);
    project.file("go4", "");
    reason(&project, "web", &["as good as new"]);
    project.file("go5", "");
    reason(&project, "web", &["stops"]);
    let status = project.status("web");
    assert_eq!((&status["pid"], &status["restarts"]), (&pid, &json!(0)));
    // One word, however often it is said.
    assert_eq!(
        project.log().matches("MAINPID").count(),
        1,
        "{}",
        project.log()
    );
}

#[test]
fn ready_delay_is_time() {
    let mut project = Project::new(
        r#"
[process.slow]
command = ["sleep", "1000"]
ready = { delay_seconds = 0.4 }
[process.never]
command = ["sleep", "1000"]
ready = { delay_seconds = 50 }
"#,
    );
    project.serve();
    let status = ready(&project, "slow");
    // Both count from the same start, read by two clocks that the other start may come between.
    assert!(
        status["uptime_seconds"].as_f64().unwrap() >= 0.35,
        "{status}"
    );
    starting(&project, "never");
}

#[test]
fn not_ready_in_time_says_what_was_seen_and_counts_as_a_crash() {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 100
[process.web]
command = "echo I try; exec sleep 1000"
autostart = false
ready = {{ tcp = "127.0.0.1:{port}", timeout_seconds = 2.5, interval_seconds = 0.05 }}
"#
    ));
    project.serve();
    let error = project.call("start", json!({"process": "web"})).error();
    for part in [
        "not ready within 2.5 s",
        "connection refused",
        &port.to_string(),
        "I try",
        "what happens next: it starts again in 1m",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = project.status_when("web", |s| s["state"] == "crashed");
    assert_eq!(status["crashes"], 1);
    assert!(
        status["next_start_in_seconds"].as_f64() > Some(1.0),
        "{status}"
    );
    reason(
        &project,
        "web",
        &["not ready within 2.5 s", "connection refused"],
    );
}

#[test]
fn failures_in_a_row_are_a_crash() {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 0
[process.web]
command = ["FIXTURE", "serve"]
port = {port}
health = {{ http = "http://127.0.0.1:{port}/health", interval_seconds = 0.05, failures = 4 }}
[process.other]
command = ["sleep", "1000"]
"#
    ));
    project.serve();
    let pid = project.running("web");
    let other = project.running("other");
    project.status_when("web", |s| s["healthy"] == true);
    project.file("sick", "");
    // Before it is too often: still healthy, and what was seen is told.
    reason(&project, "web", &["503 Not Well"]);
    project.status_when("web", |s| s["restarts"] != 0);
    assert!(!lives(pid));
    project.remove("sick");
    let status = project.status_when("web", |s| s["state"] == "running" && s["healthy"] == true);
    assert_ne!(status["pid"], pid);
    assert_eq!(status["crashes"], status["restarts"], "{status}");
    let events = project.call("get_status", json!({"events_since": 0})).ok()["events"].to_string();
    assert!(events.contains("not healthy: 503 Not Well"), "{events}");
    // bpm ended it, but nobody wanted that: it is an abnormal end.
    let why = project.cli(["why", "web"]).exits(0).out;
    assert!(
        why.contains("last abnormal end: ") && why.contains("(ended by bpm: its health check"),
        "{why}"
    );
    assert_eq!(project.running("other"), other);
}

#[test]
fn one_failure_among_good_answers_is_none() {
    let mut project = Project::new(
        r#"
[process.a]
command = ["sleep", "1000"]
health = { command = ["sh", "-c", "echo x >>asked; n=$(wc -l <asked); test $((n % 3)) = 0"], interval_seconds = 0.02, failures = 3 }
"#,
    );
    project.serve();
    let pid = project.running("a");
    // Two fail, one passes: never three in a row.
    eventually(|| {
        let asked = project.read("asked").lines().count();
        if asked > 12 { Ok(()) } else { Err(asked) }
    });
    assert_eq!(project.running("a"), pid);
    assert_eq!(project.status("a")["crashes"], 0);
}

#[test]
fn a_watchdog_that_is_silent_is_a_crash() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.dog]
command = """
echo "every $WATCHDOG_USEC"
FIXTURE notify READY=1
while ! [ -e silent ]; do FIXTURE notify WATCHDOG=1; sleep 0.05; done
exec sleep 1000"""
ready = { notify = true }
health = { notify = true, interval_seconds = 1, failures = 2 }
"#,
    );
    project.serve();
    let pid = project.running("dog");
    assert_eq!(project.line("dog", "every"), "every 2000000");
    project.status_when("dog", |s| s["uptime_seconds"].as_f64() > Some(0.5));
    assert_eq!(project.running("dog"), pid);
    // Its socket is gone with bpm's folder, and there again.
    let _ = std::fs::remove_dir_all(project.state_folder().unwrap());
    project.status_when("dog", |s| s["uptime_seconds"].as_f64() > Some(4.0));
    assert_eq!(project.running("dog"), pid);
    project.file("silent", "");
    project.status_when("dog", |s| s["restarts"] == 1);
    let events = project.call("get_status", json!({"events_since": 0})).ok()["events"].to_string();
    assert!(events.contains("no WATCHDOG=1 within"), "{events}");
}

/// The socket over which a process says how it is.
fn notify_socket(project: &Project) -> PathBuf {
    eventually(|| {
        let folder = project.state_folder().ok_or("no folder")?;
        let entries = std::fs::read_dir(folder).map_err(|_| "not readable")?;
        let is = |path: &PathBuf| path.to_string_lossy().contains("/notify-");
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths.find(is).ok_or("no socket")
    })
}

#[test]
fn notice_of_a_stranger_is_refused() {
    let mut project = Project::new(
        r#"
[process.web]
command = "until [ -e go ]; do sleep 0.02; done; (FIXTURE notify READY=1); exec sleep 1000"
ready = { notify = true }
[process.sibling]
command = "until [ -e path ]; do sleep 0.02; done; NOTIFY_SOCKET=`cat path` exec FIXTURE babble"
"#,
    );
    project.serve();
    starting(&project, "web");
    let path = notify_socket(&project);
    let socket = UnixDatagram::unbound().unwrap();
    for message in ["READY=1", "STOPPING=1", "STATUS=stranger", "WATCHDOG=1"] {
        socket.send_to(message.as_bytes(), &path).unwrap();
    }
    let refused = |sender: String| {
        let line = format!("of pid {sender}");
        eventually(|| match project.log() {
            err if err.contains(&line) && err.contains("is refused") => Ok(()),
            err => Err(err),
        });
    };
    refused(std::process::id().to_string());
    // Nor may a process of another run.
    project.file("path.new", &path.display().to_string());
    std::fs::rename(project.root.join("path.new"), project.root.join("path")).unwrap();
    refused(project.running("sibling").to_string());
    starting(&project, "web");
    assert_eq!(project.status("web")["reason"], Value::Null);
    // One line for each sender, however much it says.
    assert_eq!(project.log().matches("is refused").count(), 2);
    project.call("stop", json!({"process": "sibling"})).ok();
    project.file("go", "");
    ready(&project, "web");
}

#[test]
fn notice_of_a_sender_that_has_ended_counts() {
    let mut project = Project::new(
        r#"
[process.web]
command = ["sleep", "1000"]
ready = { notify = true }
"#,
    );
    project.serve();
    starting(&project, "web");
    let path = notify_socket(&project);
    // As systemd-notify does it: nothing is left of it when bpm looks.
    project.signal(Signal::SIGSTOP);
    let mut sender = project.command(fixture());
    let sender = sender
        .args(["notify", "READY=1"])
        .env("NOTIFY_SOCKET", &path);
    assert!(sender.status().unwrap().success());
    project.signal(Signal::SIGCONT);
    ready(&project, "web");
}

#[test]
fn a_flood_of_notices_holds_up_nobody() {
    let mut project = Project::new(
        r#"
[process.loud]
command = "FIXTURE notify READY=1; exec FIXTURE babble"
ready = { notify = true }
[process.other]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    project.running("loud");
    project.line("loud", "babbled");
    for _ in 0..3 {
        project.call("restart", json!({"process": "other"})).ok();
    }
    assert!(project.log().len() < 100_000);
}

#[test]
fn probes_that_misbehave_are_killed_and_told() {
    let mut project = Project::new(
        r#"
[process.hang]
command = ["sleep", "1000"]
health = { command = ["sh", "-c", "sleep 77 & sleep 77"], interval_seconds = 0.05, timeout_seconds = 0.1, failures = 1000 }
[process.flood]
command = ["sleep", "1000"]
health = { command = ["sh", "-c", "echo begin; head -c 100M /dev/zero | tr '\\0' x; echo; echo 'an end' >&2; exit 4"], interval_seconds = 0.05, timeout_seconds = 600, failures = 1000 }
[process.fork]
command = ["sleep", "1000"]
health = { command = ["sh", "-c", "sleep 88 & echo x >>forked; exit 1"], interval_seconds = 0.05, failures = 1000 }
[process.lost]
command = ["sleep", "1000"]
health = { command = ["./no-such-program"], interval_seconds = 0.05, failures = 1000 }
[process.fine]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    for name in ["hang", "flood", "fork", "lost", "fine"] {
        project.running(name);
    }
    reason(&project, "hang", &["no end within", "killed"]);
    reason(&project, "flood", &["exit code 4: an end"]);
    reason(&project, "lost", &["no such file", "./no-such-program"]);
    eventually(|| {
        let forked = project.read("forked").lines().count();
        if forked > 5 { Ok(()) } else { Err(forked) }
    });
    let count = |what: &str| {
        let all = project.inhabitants();
        all.iter().filter(|(_, c)| c.starts_with(what)).count()
    };
    // One attempt's at most: they neither pile up nor leave anything. Who looks while one is followed by
    // the next may see some of both.
    for (what, most) in [("sleep 77", 2), ("sleep 88", 1)] {
        eventually(|| match count(what) {
            few if few <= most => Ok(()),
            many => Err((what, many)),
        });
    }
    let status = project.call("get_status", json!({"verbose": true})).ok();
    let rss = status["daemon"]["rss_bytes"].as_u64().unwrap();
    assert!(rss < 60_000_000, "{rss}");
    for process in status["processes"].as_array().unwrap() {
        assert_eq!(process["state"], "running", "{process}");
        assert_eq!(process["crashes"], 0, "{process}");
    }
}

#[test]
fn a_reload_changes_the_checks_of_what_runs() {
    let mut project = Project::new("x");
    let config = |checks: &str| {
        project.config(&format!(
            "[process.web]\ncommand = [\"sleep\", \"1000\"]\n{checks}\n"
        ));
    };
    config("ready = { command = [\"false\"], interval_seconds = 0.05 }");
    let health = |program: &str| {
        format!(
            "health = {{ command = [\"sh\", \"-c\", \"echo $BPM_RUN by {program} >&2; {program}\"], interval_seconds = 0.05, failures = 1000 }}"
        )
    };
    let ready = "ready = { command = [\"test\", \"-e\", \".mcp-run\"], interval_seconds = 0.05 }\n";
    let (bad, good) = (health("false"), health("true"));
    let files = [
        format!("{ready}{bad}"),
        format!("{ready}{good}"),
        ready.to_string(),
    ];
    let texts =
        files.map(|checks| format!("[process.web]\ncommand = [\"sleep\", \"1000\"]\n{checks}\n"));
    project.serve();
    reason(&project, "web", &["exit code 1"]);
    let pid = project.status("web")["pid"].clone();

    project.config(&texts[0]);
    let done = project.call("reload", json!({})).ok();
    assert_eq!(done["unchanged"], json!(["web"]), "{done}");
    project.running("web");
    reason(&project, "web", &["health check failed", "1 by false"]);

    project.config(&texts[1]);
    project.call("reload", json!({})).ok();
    project.status_when("web", |s| s["reason"].is_null() && s["healthy"] == true);

    project.config(&texts[2]);
    project.call("reload", json!({})).ok();
    let status = project.status("web");
    assert_eq!((&status["pid"], &status["restarts"]), (&pid, &json!(0)));
    assert_eq!(status["healthy"], Value::Null);
}

#[test]
fn a_check_that_hangs_is_told_as_the_reason() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 100\n[process.web]\ncommand = [\"sleep\", \"1000\"]\nready = { command = [\"sleep\", \"1001\"], timeout_seconds = 0.5 }\n",
    );
    project.serve();
    project.status_when("web", |s| s["state"] == "crashed");
    reason(
        &project,
        "web",
        &["not ready within 0.5 s", "no end within"],
    );
}
