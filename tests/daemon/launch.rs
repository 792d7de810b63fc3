//! With what a process starts: its environment, its streams, its rights.

use std::fs;

use nix::unistd::geteuid;
use serde_json::json;

use crate::common::{Project, eventually};

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
