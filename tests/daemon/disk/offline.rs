//! `bpm logs` without a daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::files::folder;
use crate::common::{Project, bpm, eventually};

const TWO: &str = r#"
[process.api]
command = "for i in 1 2 3; do echo api $i; done; echo end; exec FIXTURE nap"
autostart = true
[process.web]
command = "echo web out; echo error: web err >&2; echo end; exec FIXTURE nap"
build = "echo build of web"
autostart = true
[process.idle]
command = "x"
autostart = false
"#;

/// Two runs of each, and no daemon.
fn left() -> Project {
    let mut project = Project::new(TWO);
    for _ in 0..2 {
        project.up();
        for name in ["api", "web"] {
            project.line(name, "end");
        }
        // The other stream may come later.
        project.line("web", "web err");
        project.cli(["stop"]).exits(0);
    }
    project
}

/// Each way to ask for lines.
const WAYS: &[&[&str]] = &[
    &[],
    &["-n", "3"],
    &["api"],
    &["web", "api", "-n", "5"],
    &["api", "--run", "-2"],
    &["--run", "0"],
    &["--run", "-7"],
    &["web", "--build"],
    &["--build"],
    &["--grep", "[23]$"],
    &["api", "--grep", "API 2", "-i"],
    &["api", "--grep", "[23]$", "-F"],
    &["api", "--grep", "2", "-C", "1"],
    &["--grep", "1|3", "-C", "0"],
    &["--since", "1h"],
    &["--since", "2100-01-01T00:00:00Z"],
    &["web", "--stream", "stderr"],
    &["-t"],
    &["--json"],
    &["--json", "--run", "-2", "--stream", "stdout"],
    &["--errors"],
    &["web", "--errors", "--run", "-2"],
    &["--errors", "--json"],
    &["api", "--run", "-7"],
    &["wbe"],
    &["idle"],
    &["idle", "api"],
    &["idle", "--errors"],
    &["api", "--grep", "("],
];

#[test]
fn lines_are_shown_as_a_daemon_shows_them() {
    let mut project = left();
    let ask = |project: &Project, way: &[&str]| {
        let ended = project.cli(["logs"].iter().chain(way));
        (ended.code, ended.out, ended.err)
    };
    let without: Vec<_> = WAYS.iter().map(|way| ask(&project, way)).collect();
    assert!(without[0].1.contains("[api] api 1\n"), "{:?}", without[0]);
    assert_eq!(without[2].1, "api 1\napi 2\napi 3\nend\n");
    // A daemon that has started nothing knows the same runs.
    project.config(&TWO.replace("true", "false"));
    project.up();
    for (way, without) in WAYS.iter().zip(without) {
        assert_eq!(without, ask(&project, way), "{way:?}");
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_broken_configuration_keeps_nobody_from_reading() {
    let project = left();
    project.config("this is = not\n[process.web\n");
    let all = project.cli(["logs"]).exits(0).out;
    assert!(
        all.contains("[api] api 3\n") && all.contains("[web] web out\n"),
        "{all}"
    );
    assert_eq!(
        project.cli(["logs", "api", "-n", "1"]).exits(0).out,
        "end\n"
    );
    project
        .cli(["logs", "wbe"])
        .exits(1)
        .says(&["unknown process \"wbe\"; did you mean \"web\"?"]);
}

#[test]
fn a_process_that_is_no_longer_configured_is_shown_when_it_is_named() {
    let project = left();
    project.config("[process.api]\ncommand = \"x\"\n");
    let all = project.cli(["logs"]).exits(0).out;
    assert!(
        all.contains("[api] api 3\n") && !all.contains("web out"),
        "{all}"
    );
    let both = project.cli(["logs", "web", "api"]).exits(0).out;
    assert!(
        both.contains("[api] api 3\n") && both.contains("[web] web out\n"),
        "{both}"
    );
    let errors = project.cli(["logs", "web", "--errors"]).exits(0).out;
    assert!(errors.contains("error: web err"), "{errors}");
    // Names that lead elsewhere are no names.
    for name in ["../logs/web", "..", "."] {
        project
            .cli(["logs", name])
            .exits(1)
            .says(&["unknown process"]);
    }
}

#[test]
fn nothing_on_disk_and_no_daemon_is_said() {
    let mut project = Project::new(TWO);
    let nothing = |args: &[&str]| {
        project
            .cli(["logs"].iter().chain(args))
            .exits(3)
            .says(&["no daemon runs", "hint: "]);
    };
    for args in [&[][..], &["-f"], &["api"], &["--errors"], &["-f", "api"]] {
        nothing(args);
    }
    project.config(&format!("log_disk = 0\n{TWO}"));
    project.up();
    project.line("api", "end");
    project.cli(["stop"]).exits(0);
    project.cli(["logs"]).exits(3);
}

/// A follower of `api`, and its next line.
fn follower(project: &Project, lines: &str) -> (Child, impl FnMut() -> String + use<>) {
    let mut child = project
        .command(bpm())
        .args(["logs", "-f", "api", "-n", lines])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let next = move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    (child, next)
}

#[test]
fn a_follower_begins_without_a_daemon_and_goes_on_with_it() {
    let mut project = left();
    let (mut child, mut next) = follower(&project, "2");
    assert_eq!((next(), next()), ("api 3\n".into(), "end\n".into()));
    project.up();
    let run: Vec<String> = (0..4).map(|_| next()).collect();
    assert_eq!(run, ["api 1\n", "api 2\n", "api 3\n", "end\n"]);
    child.kill().unwrap();
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(
        err,
        "bpm: no daemon runs; new lines appear here once one does\n"
    );
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_follower_goes_on_with_a_daemon_that_answers_late() {
    let mut project = left();
    let (mut child, mut next) = follower(&project, "1");
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(next(), "end\n");
    crate::common::freeze(pid);
    project.up();
    for name in ["api", "web"] {
        project.line(name, "end");
    }
    project.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    // It has asked for two seconds by then, and waits; nothing tells of that.
    std::thread::sleep(Duration::from_millis(2_500));
    project.signal(Signal::SIGCONT);
    let run: Vec<String> = (0..4).map(|_| next()).collect();
    assert_eq!(run, ["api 1\n", "api 2\n", "api 3\n", "end\n"]);
    child.kill().unwrap();
    child.wait().unwrap();
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_daemon_that_does_not_answer_keeps_nobody_from_reading() {
    let mut project = Project::new(TWO);
    project.up();
    project.line("api", "end");
    project.signal(Signal::SIGSTOP);
    let stat = format!("/proc/{}/stat", project.pid());
    eventually(|| {
        let stat = fs::read_to_string(&stat).unwrap();
        if stat.contains(") T ") {
            Ok(())
        } else {
            Err(stat)
        }
    });
    let shown = project
        .cli(["logs", "api"])
        .exits(0)
        .says(&["does not answer", "what follows is on disk"]);
    assert_eq!(shown.out, "api 1\napi 2\napi 3\nend\n");
    let followed = project.cli(["logs", "-f", "api"]).exits(1);
    assert_eq!(followed.out, shown.out);
    project.signal(Signal::SIGCONT);
    project.cli(["stop"]).exits(0);
}

#[test]
fn log_of_a_killed_daemon_is_there() {
    let mut project = Project::new(TWO);
    project.up();
    project.line("web", "end");
    let before = project.cli(["logs", "web", "--json"]).exits(0).out;
    crate::common::murder(project.pid());
    let after = project.cli(["logs", "web", "--json"]).exits(0).out;
    let parsed = |text: &str| -> Vec<Value> {
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    assert_eq!(parsed(&after), parsed(&before));
    assert!(folder(&project, "web").exists());
    project.cli(["stop"]).exits(0);
}
