//! With what a process starts: its environment, its streams, its rights.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::common::{Ended, Http, Project, bpm, eventually, fixture, lives};

#[test]
fn environment_has_nothing_of_the_call_that_started_the_daemon() {
    let mut project = Project::new(
        r#"
unset_env = ["AWS_*"]
[process.show]
command = "env; exec sleep 1000"
cwd = "sub"
unset_env = ["?ESKTOP"]
env = { MAKELEVEL = "mine", DESKTOP = "again" }
"#,
    );
    project.file("sub/x", "");
    for name in [
        "CLAUDECODE",
        "CODEX_SANDBOX",
        "GIT_DIR",
        "MAKEFLAGS",
        "MAKELEVEL",
        "npm_lifecycle_event",
        "OLDPWD",
        "AWS_REGION",
        "DESKTOP",
        "CODEX_API_KEY",
        "npm_config_registry",
        "GIT_SSH_COMMAND",
    ] {
        project.env(name, "of the caller");
    }
    project.serve();
    let status = project.call("get_status", json!({"verbose": true})).ok();
    let by = status["daemon"]["started_by"].as_str().unwrap();
    assert!(by.ends_with(" (by Claude Code)"), "{by}");
    let why = project.cli(["why", "show"]).exits(0);
    assert!(
        why.out.contains("\nthe daemon was started as "),
        "{}",
        why.out
    );
    project.line("show", "PWD=");
    let lines = eventually(|| {
        let lines = project.logs("show");
        let whole = lines.iter().any(|l| l.starts_with("BPM_RUN="));
        if whole && lines.len() > 10 {
            Ok(lines)
        } else {
            Err(lines)
        }
    });
    let value = |name: &str| {
        let mut lines = lines.iter();
        lines.find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
    };
    for gone in [
        "CLAUDECODE",
        "CODEX_SANDBOX",
        "GIT_DIR",
        "MAKEFLAGS",
        "npm_lifecycle_event",
        "OLDPWD",
        "AWS_REGION",
    ] {
        assert_eq!(value(gone), None, "{gone}");
    }
    for kept in ["CODEX_API_KEY", "npm_config_registry", "GIT_SSH_COMMAND"] {
        assert_eq!(value(kept), Some("of the caller"), "{kept}");
    }
    assert_eq!(value("MAKELEVEL"), Some("mine"));
    assert_eq!(value("DESKTOP"), Some("again"));
    assert_eq!(value("PYTHONUNBUFFERED"), Some("1"));
    assert_eq!(value("PWD"), project.root.join("sub").to_str());
}

#[test]
fn empty_pythonunbuffered_counts_as_set() {
    let mut project = Project::new(
        "[process.show]\ncommand = \"echo \\\"<$PYTHONUNBUFFERED>\\\"; exec sleep 1000\"\n",
    );
    project.env("PYTHONUNBUFFERED", "");
    project.serve();
    assert_eq!(project.line("show", "<"), "<>");
}

#[test]
fn simple_string_is_the_program_itself() {
    let mut project = Project::new(
        "[process.one]\ncommand = \"sleep 1000\"\n[process.two]\ncommand = \"sleep 1000; true\"\n",
    );
    project.serve();
    let name = |process: &str| {
        let pid = project.running(process);
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap()
    };
    assert_eq!(name("one"), "sleep\n");
    assert_ne!(name("two"), "sleep\n");
}

#[test]
fn open_stdin_keeps_a_watcher_that_leaves_at_the_end_of_its_input() {
    let watcher = "cat >/dev/null; echo over; exit 0";
    let mut project = Project::new(&format!(
        "[process.open]\ncommand = \"{watcher}\"\nstdin = \"open\"\n[process.null]\ncommand = \"{watcher}\"\n"
    ));
    project.serve();
    project.line("null", "over");
    let open = project.status_when("open", |p| p["state"] == "running" && p["ready"] == true);
    assert_eq!(open["crashes"], 0);
    assert!(project.logs("open").is_empty());
}

#[test]
fn named_exit_codes_and_signals_are_success() {
    let mut project = Project::new(
        r#"
[process.three]
type = "task"
command = ["sh", "-c", "exit 3"]
success_exit_codes = [3]
[process.term]
type = "task"
command = ["sh", "-c", "kill -TERM $$$$"]
success_exit_codes = ["TERM"]
[process.zero]
type = "task"
command = ["true"]
success_exit_codes = [3]
"#,
    );
    project.serve();
    project.status_when("three", |p| p["state"] == "done");
    project.status_when("term", |p| p["state"] == "done");
    project.status_when("zero", |p| p["state"] == "failed");
    let wait = json!({"process": "three", "for": "log", "pattern": "x"});
    let reason = project.call("wait", wait).ok()["reason"].clone();
    assert!(reason.as_str().unwrap().contains("exit code 3"), "{reason}");
}

#[test]
fn another_user_can_say_that_it_is_ready() {
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let mut project = Project::new(
        "[process.said]\ncommand = \"./fixture notify READY=1; exec sleep 1000\"\n\
         user = \"nobody\"\nready = { notify = true }\n",
    );
    for folder in project.root.ancestors().take(2) {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder, open).unwrap();
    }
    crate::common::copied(fixture(), &project.root.join("fixture"));
    project.serve();
    project.status_when("said", |s| s["ready"] == true);
    project.call("stop", json!({"process": "said"})).ok();
}

#[test]
fn another_user_runs_and_builds_with_its_own_home() {
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let mut project = Project::new(
        r#"
[process.who]
command = "echo \"$(id -un) $HOME $USER $(cat built)\"; exec sleep 1000"
build = "id -un > built"
user = "nobody"
umask = "077"
nice = 3
"#,
    );
    for folder in project.root.ancestors().take(2) {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(folder, open).unwrap();
    }
    project.serve();
    let home = nix::unistd::User::from_name("nobody").unwrap().unwrap().dir;
    assert_eq!(
        project.line("who", "nobody"),
        format!("nobody {} nobody nobody", home.display())
    );
    let pid = project.running("who");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    assert_eq!(after.split(' ').nth(16), Some("3"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Umask:\t0077"), "{status}");
    project.call("stop", json!({"process": "who"})).ok();
}

#[test]
fn unknown_user_is_named() {
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let mut project = Project::new("[process.x]\ncommand = [\"true\"]\nuser = \"nosuchuser\"\n");
    project.serve();
    let status = project.status_when("x", |p| p["reason"].to_string().contains("nosuchuser"));
    assert!(
        status["reason"].to_string().contains("there is no user"),
        "{status}"
    );
}

#[test]
fn terminal_is_all_three_streams_and_the_controlling_one() {
    let mut project = Project::new(
        r#"
[process.ink]
command = "tty; stty size; echo $TERM >/dev/tty; test -t 2 && printf 'to the second\\r\\n' >&2; exec sleep 1000"
tty = true
"#,
    );
    project.env("TERM", "dumb");
    project.serve();
    let lines = eventually(|| match project.logs("ink") {
        lines if lines.len() >= 4 => Ok(lines),
        lines => Err(lines),
    });
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[1..], ["40 120", "xterm-256color", "to the second"]);
    let answer = project.call("search_logs", json!({"process": "ink", "stream": "stderr"}));
    assert!(!answer.text().contains("to the second"));
    let pid = project.running("ink");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    // The foreground group of its terminal.
    assert_eq!(after.split(' ').nth(5), Some(pid.to_string().as_str()));
}

#[test]
fn terminal_whose_program_closed_it_does_not_hang_up() {
    let mut project = Project::new(
        r#"
[process.quiet]
command = "trap 'touch hup' HUP; trap 'touch bye; exit' TERM; exec </dev/null >/dev/null 2>&1; sleep 0.3; touch quiet; while :; do sleep 0.02; done"
tty = true
"#,
    );
    project.serve();
    let there = |name: &str| project.root.join(name).exists().then_some(()).ok_or("");
    eventually(|| there("quiet"));
    project.call("stop", json!({"process": "quiet"})).ok();
    assert_eq!(there("bye"), Ok(()));
    assert_eq!(there("hup"), Err(""));
}

#[test]
fn last_words_on_a_terminal_are_kept_and_the_daemons_death_hangs_up() {
    let mut project = Project::new(
        r#"
[process.talks]
type = "task"
command = "seq 5000; echo the last word >&2; exit 3"
tty = true
[process.waits]
command = "trap 'touch hup; exit' HUP; while :; do sleep 0.02; done"
tty = true
"#,
    );
    project.serve();
    project.status_when("talks", |p| p["state"] == "failed");
    let lines = project.logs("talks");
    assert_eq!(lines.last().map(String::as_str), Some("the last word"));
    let pid = project.running("waits");
    project.signal(Signal::SIGKILL);
    eventually(|| match project.root.join("hup").exists() {
        true => Ok(()),
        false => Err("no HUP came"),
    });
    eventually(|| if lives(pid) { Err(pid) } else { Ok(()) });
}

#[test]
fn memory_above_its_limit_ends_a_run_as_a_crash_where_there_is_no_controller() {
    // Memory is read each five seconds: this test waits for one reading.
    let mut project = Project::new(
        r#"
cgroup = false
[process.fat]
command = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo full; sleep 1000; echo $x"
limits = { memory = "20M", tasks = 1000 }
"#,
    );
    project.serve();
    project.line("fat", "full");
    let fat = project.status_when("fat", |p| p["crashes"] == 1);
    assert!(
        project.log().contains("over its memory limit: "),
        "{}",
        project.log()
    );
    assert!(
        fat["warnings"][0]
            .to_string()
            .contains("limits.tasks is not in effect"),
        "{fat}"
    );
}

#[test]
fn user_namespace_without_uids_serves_nobody_over_tcp_without_a_token() {
    const NAP: &str = "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n";
    let project = Project::new(NAP);
    // Nobody is mapped: whoever is outside has the uid of bpm there.
    let inside = |args: &[&str]| {
        let mut command = project.command("unshare");
        Ended::new(command.arg("-U").arg(bpm()).args(args).output().unwrap())
    };
    let ask = |fields: &[(&str, &str)]| {
        let path = project.state_folder().unwrap().join("daemon.json");
        let descriptor: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let url = descriptor["url"].as_str().unwrap().to_string();
        let kinds = [
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
        ];
        let fields: Vec<_> = fields.iter().copied().chain(kinds).collect();
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        Http::to(&url).ask("POST", "/mcp", &fields, ping).status
    };
    let started = inside(&["-d"]);
    if started.err.contains("unshare") {
        return eprintln!("skipped: no user namespaces to be had");
    }
    started.exits(0);
    let status = inside(&["status"]).exits(0).out;
    assert!(status.contains("uids prove nothing"), "{status}");
    assert_eq!(ask(&[]), 403);
    inside(&["stop"]).exits(0);
    project.file("token", "secret");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(project.root.join("token"), private).unwrap();
    project.config(&format!("token_file = \"token\"\n{NAP}"));
    inside(&["-d"]).exits(0);
    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&[("Authorization", "Bearer secret")]), 200);
    inside(&["stop"]).exits(0);
}
