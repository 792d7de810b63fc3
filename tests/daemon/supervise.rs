//! Processes run as the configuration says, bpm starts and ends as it should, and what can't be
//! done is said.

use std::net::TcpListener;

use crate::common::{Project, eventually, lives};
use nix::sys::signal::Signal;
use serde_json::json;

const NAP: &str = "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n";

#[test]
fn the_mcp_run_of_an_earlier_manager_works() {
    let number = crate::common::free_port();
    let mut project = Project::new(&format!(
        r#"
mcp_port = {number}
dev_timeout_hours = 3
dev_crash_wait_seconds = 120
release_crash_backoff_initial_seconds = 1
release_crash_backoff_max_seconds = 300

[process.api]
type = "rust"
args = ["--port", "8080"]

[process.web]
type = "npm"
command = ["npm", "run", "dev"]

[process.tool]
command = ["sh", "-c", "echo tool; exec sleep 1000"]
"#
    ));
    project.fake_cargo();
    project.source("echo \"api $*\"; exec sleep 1000");
    project.program("fake/npm", "#!/bin/sh\necho \"npm $*\"\nexec sleep 1000\n");
    project.serve();

    assert_eq!(
        project.descriptor()["url"],
        format!("http://127.0.0.1:{number}/mcp")
    );
    assert_eq!(project.line("api", "api"), "api --port 8080");
    assert_eq!(project.line("web", "npm"), "npm run dev");
    assert_eq!(project.line("tool", "tool"), "tool");
    for (name, kind) in [("api", "rust"), ("web", "npm"), ("tool", "command")] {
        project.running(name);
        assert_eq!(project.status(name)["type"], kind);
        assert_eq!(project.status(name)["mode"], "release");
    }
}

#[test]
fn a_child_gets_its_own_session_and_nothing_of_bpm() {
    let mut project = Project::new("[process.child]\ncommand = [\"FIXTURE\", \"inherited\"]\n");
    project.serve();
    project.line("child", "session");
    let lines = project.logs("child");
    let pid = project.running("child");

    assert!(
        lines.contains(&format!("pid {pid} group {pid} session {pid}")),
        "{lines:?}"
    );
    // Its streams, and the folder that it looks at.
    let fds: Vec<&String> = lines.iter().filter(|l| l.starts_with("fd ")).collect();
    assert!(fds.contains(&&"fd 0 /dev/null".to_string()), "{lines:?}");
    assert_eq!(fds.len(), 3, "{lines:?}");
    // Rust ignores SIGPIPE (13) in its main by itself.
    assert!(
        lines.contains(&"SigBlk:\t0000000000000000".into()),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"SigIgn:\t0000000000001000".into()),
        "{lines:?}"
    );
}

#[test]
fn a_child_gets_the_environment_that_was_asked_for() {
    let mut project = Project::new(
        r#"
env = { WHERE = "top", BOTH = "top" }
env_file = ["one.env", "missing.env?"]
[process.child]
command = ["sh", "-c", "env | grep -E '^(WHERE|BOTH|FILE|SHELLED|BPM|NOTIFY|LISTEN|WATCHDOG)_?'; echo args $0 $1; pwd; exec sleep 1000", "${WHERE}", "$$5"]
cwd = "sub dir"
env = { BOTH = "own", SHELLED = "${FROM_OUTSIDE:-none}/${UNSET:-fallback}" }
"#,
    );
    project.file(
        "one.env",
        "# comment\nexport FILE=\"from file\"\nWHERE=file\n",
    );
    project.file("sub dir/x", "");
    project
        .env("FROM_OUTSIDE", "outside")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("LISTEN_FDS", "3")
        .env("WATCHDOG_USEC", "1");
    project.serve();
    project.line("child", "/sub dir");
    let lines = project.logs("child");
    for wanted in [
        "WHERE=top",
        "BOTH=own",
        "FILE=from file",
        "SHELLED=outside/fallback",
        "BPM_PROCESS=child",
        "BPM_RUN=1",
        "args top $5",
    ] {
        assert!(lines.iter().any(|l| l == wanted), "{wanted} in {lines:?}");
    }
    assert!(lines.iter().any(|l| l.starts_with("BPM_PROJECT=")));
    for unwanted in ["NOTIFY_SOCKET=", "LISTEN_FDS=", "WATCHDOG_USEC="] {
        assert!(!lines.iter().any(|l| l.starts_with(unwanted)), "{lines:?}");
    }
}

#[test]
fn an_unset_variable_is_an_error_at_start() {
    let mut project = Project::new("[process.a]\ncommand = [\"echo\", \"${NOBODY_SETS_THIS}\"]\n");
    project.serve();
    let error = project.call("start", json!({"process": "a"})).error();
    assert!(error.contains("NOBODY_SETS_THIS"), "{error}");
}

#[test]
fn a_string_is_run_by_a_shell_in_the_same_process() {
    let mut project = Project::new("[process.nap]\ncommand = \"echo $$; exec sleep 1000\"\n");
    project.serve();
    let pid = project.running("nap");
    project.says("nap", &[pid.to_string()]);
}

#[test]
fn a_task_runs_once() {
    let mut project = Project::new(
        r#"
[process.good]
type = "task"
command = "echo once"
[process.bad]
type = "task"
command = "echo no; exit 3"
[process.rest]
command = "echo rest"
restart = "never"
"#,
    );
    project.serve();
    let good = project.status_when("good", |s| s["state"] == "done");
    assert_eq!(good["exit"]["code"], 0);
    let bad = project.status_when("bad", |s| s["state"] == "failed");
    assert_eq!(bad["exit"]["code"], 3);
    project.status_when("rest", |s| s["state"] == "done");
    project.says("good", &["once"]);
}

#[test]
fn a_dependent_starts_after_what_it_needs() {
    let mut project = Project::new(
        r#"
[process.web]
command = "cat prepared; exec sleep 1000"
depends_on = ["prepare"]
[process.prepare]
type = "task"
command = "read go <gate; echo >>passed; echo ready >prepared"
"#,
    );
    let gate = project.gate();
    project.serve();
    let web = project.status_when("web", |s| s["state"] == "waiting");
    assert_eq!(web["depends_on"], json!(["prepare"]));
    gate.open();
    assert_eq!(project.line("web", "ready"), "ready");
}

#[test]
fn autostart_false_waits_for_an_order() {
    let mut project =
        Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n");
    project.serve();
    assert_eq!(project.status("nap")["state"], "stopped");
    let pid = project.call("start", json!({"process": "nap"})).ok()["pid"].clone();
    assert_eq!(project.status("nap")["pid"], pid);
    // The same again is no error and no second one.
    assert_eq!(
        project.call("start", json!({"process": "nap"})).ok()["pid"],
        pid
    );
}

#[test]
fn a_program_that_is_missing_is_said_at_once() {
    let mut project = Project::new(
        r#"
[process.web]
command = ["./srv"]
[process.lost]
command = ["sleep", "1000"]
cwd = "no/such/folder"
[process.flat]
command = ["./flat"]
[process.fine]
command = ["sleep", "1000"]
"#,
    );
    project.file("flat", "not executable");
    project.serve();
    let root = project.root.display().to_string();

    let error = project.call("start", json!({"process": "web"})).error();
    for part in ["no such file", "\"./srv\"", &root] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let error = project.call("start", json!({"process": "lost"})).error();
    assert!(error.contains("no/such/folder"), "{error}");
    let error = project.call("start", json!({"process": "flat"})).error();
    assert!(error.contains("not executable"), "{error}");
    let status = project.status_when("web", |s| s["reason"].is_string());
    assert!(
        status["reason"].as_str().unwrap().contains("./srv"),
        "{status}"
    );
    project.running("fine");
}

#[test]
fn a_project_without_a_readable_mcp_run_is_said() {
    let mut project = Project::empty();
    project.serve_fails().exits(1).says(&["bpm: ", ".mcp-run"]);
    // Reading a folder fails for root as well.
    std::fs::create_dir(project.root.join(".mcp-run")).unwrap();
    project
        .serve_fails()
        .exits(1)
        .says(&["bpm: cannot", ".mcp-run", "directory"]);
}

#[test]
fn all_mistakes_of_a_mcp_run_are_told_at_once() {
    let mut project = Project::new(
        "mcp_prot = 1\n[process.web]\ncomand = [\"x\"]\n[process.api]\ncommand = 7\nstop_timeout_seconds = -1\n",
    );
    for ended in [project.cli(["check"]), project.serve_fails()] {
        ended.exits(1).says(&[
            ".mcp-run:1:1: unknown key \"mcp_prot\"",
            "did you mean \"mcp_port\"?",
            ".mcp-run:3:1: unknown key \"comand\" in [process.web]; did you mean \"command\"?",
            ".mcp-run:5:",
            ".mcp-run:6:",
        ]);
    }
    project.config(NAP);
    project.cli(["check"]).exits(0);
}

#[test]
fn a_port_in_use_names_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let mut project = Project::new(&format!("mcp_port = {port}\n{NAP}"));
    let me = std::process::id().to_string();
    project
        .serve_fails()
        .exits(1)
        .says(&[&port.to_string(), &me]);
    // Another port helps.
    project.args(&["--port", "auto"]).serve();
    project.running("nap");
}

#[test]
fn the_port_is_kept_for_the_project() {
    let mut project = Project::new(NAP);
    project.serve();
    let url = |project: &Project| project.descriptor()["url"].as_str().unwrap().to_string();
    let first = url(&project);
    let port: u16 = first.rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    assert!(port >= 20_000, "{first}");
    let again = |project: &mut Project| {
        project.signal(Signal::SIGTERM);
        assert_eq!(project.ended(), Some(0));
        project.serve();
    };
    again(&mut project);
    assert_eq!(url(&project), first);
    project.signal(Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    // Another has it: that is said, with who it is, in all places, and the port stays the project's.
    let other = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let said = project.cli(["-d"]).exits(0);
    let me = format!("in use by pid {} (", std::process::id());
    said.says(&["bpm: warning: port", &port.to_string(), &me, "serves"]);
    let status = project.cli(["status"]).exits(0).out;
    assert!(status.contains(&me), "{status}");
    let doctor = project.cli(["doctor"]).out;
    assert!(doctor.contains(&me), "{doctor}");
    let log = project.cli(["daemon", "logs"]).exits(0).out;
    assert!(log.contains("[WARN] daemon: port"), "{log}");
    project.cli(["stop"]).exits(0);
    drop(other);
    project.serve();
    assert_eq!(url(&project), first);
}

#[test]
fn holder_of_the_port_of_another_user_is_named() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root starts a process of another user");
        return;
    }
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let status: serde_json::Value =
        serde_json::from_str(&project.cli(["status", "--json"]).out).unwrap();
    let url = status["daemon"]["url"].as_str().unwrap();
    let port = url.rsplit([':', '/']).nth(1).unwrap().to_string();
    project.cli(["stop"]).exits(0);
    let mut other = std::process::Command::new(crate::common::fixture())
        .args(["listen", &port])
        .uid(4343)
        .gid(4343)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::common::eventually(|| std::net::TcpStream::connect(format!("127.0.0.1:{port}")));
    let said = project.cli(["-d"]).exits(0);
    other.kill().unwrap();
    other.wait().unwrap();
    said.says(&[&format!("pid {} (", other.id()), "of uid 4343"]);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_second_bpm_in_the_same_project_is_refused() {
    let mut project = Project::new(NAP);
    project.serve();
    let pid = project.pid().to_string();
    let second = project.cli([project.root.as_os_str()]).exits(1);
    second.says(&["already running", &pid]);
    project.running("nap");
}

#[test]
fn a_holder_of_the_port_is_named_in_one_line() {
    let project = Project::new(NAP);
    let port = crate::common::free_port().to_string();
    let mut holder = std::process::Command::new(crate::common::fixture())
        .args(["listen", &port, "a\nb\x1b[31mc", &"x".repeat(1000)])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::common::eventually(|| std::net::TcpStream::connect(format!("127.0.0.1:{port}")));
    for way in [&["serve"][..], &["-d"]] {
        let args: Vec<&str> = way
            .iter()
            .copied()
            .chain(["--port", port.as_str()])
            .collect();
        let said = project.cli(&args).exits(1);
        let lines: Vec<&str> = said
            .err
            .lines()
            .filter(|l| !l.starts_with("bpm: nap"))
            .collect();
        assert!(
            lines.len() == 2
                && lines[0].contains(&format!("in use by pid {} (", holder.id()))
                && lines[0].contains("a b [31mc x")
                && lines[0].ends_with("x...)")
                && lines[1].starts_with("hint: --port auto"),
            "{said:?}"
        );
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_fifo_is_refused_and_keeps_nobody_waiting() {
    let mode = nix::sys::stat::Mode::S_IRUSR;
    let project = Project::empty();
    nix::unistd::mkfifo(&project.root.join(".mcp-run"), mode).unwrap();
    project
        .cli(["check"])
        .exits(1)
        .says(&["cannot read", "it is a FIFO, not a file"]);
    let mut project = Project::new(
        "[process.secret]\ncommand = [\"FIXTURE\", \"nap\"]\nenv_file = \"pipe\"\n\
         [process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n",
    );
    nix::unistd::mkfifo(&project.root.join("pipe"), mode).unwrap();
    project.serve();
    project.running("nap");
    let why = project.call("start", json!({"process": "secret"})).error();
    assert!(
        why.contains("/pipe") && why.contains(": it is a FIFO, not a file"),
        "{why}"
    );
    project.remove(".mcp-run");
    nix::unistd::mkfifo(&project.root.join(".mcp-run"), mode).unwrap();
    let why = project.call("reload", json!({})).error();
    assert!(why.contains("it is a FIFO"), "{why}");
}

#[test]
fn root_reloads_nothing_that_others_may_write() {
    // Anybody else may read what is theirs anyhow.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut project = Project::new(NAP);
    project.serve();
    project.config(&NAP.replace("nap]", "theirs]"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(project.root.join(".mcp-run"), mode).unwrap();
    let why = project.call("reload", json!({})).error();
    assert!(why.contains("others may write it"), "{why}");
    project.running("nap");
}

#[test]
fn an_unknown_command_is_answered_with_the_nearest() {
    let project = Project::new(NAP);
    project
        .cli(["chekc"])
        .exits(2)
        .says(&["did you mean", "check\"?"]);
    project.cli(["--prot", "1"]).exits(2).says(&["--port"]);
    project.cli(["check", "--nosuch"]).exits(2).says(&["bpm: "]);
}

#[test]
fn help_and_version_are_results() {
    let project = Project::empty();
    for flag in ["--version", "-V"] {
        let said = project.cli([flag]).exits(0);
        assert_eq!(said.out, format!("bpm {}\n", env!("CARGO_PKG_VERSION")));
    }
    for flag in ["--help", "-h"] {
        let said = project.cli([flag]).exits(0);
        assert!(
            said.out.contains("check") && said.err.is_empty(),
            "{said:?}"
        );
    }
}

#[test]
fn term_and_int_end_everything_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut project = Project::new(NAP);
        project.serve();
        let nap = project.running("nap");
        let folder = project.state_folder().unwrap();
        project.signal(signal);
        assert_eq!(project.ended(), Some(0));
        assert!(!lives(nap));
        assert!(!folder.join("daemon.json").exists());
        assert!(!folder.join("daemon.sock").exists());
    }
}

/// A process that ignores TERM for longer than anybody waits; its pids.
fn stubborn() -> (Project, Vec<(i32, String)>) {
    let mut project = Project::new(
        "[process.stubborn]\ncommand = [\"FIXTURE\", \"stubborn\"]\nstop_timeout_seconds = 1000\n",
    );
    project.serve();
    project.line("stubborn", "stubborn");
    let children = project.inhabitants();
    assert_eq!(children.len(), 3, "{children:?}");
    (project, children)
}

#[test]
fn a_second_term_does_not_wait() {
    let (mut project, children) = stubborn();
    project.signal(Signal::SIGTERM);
    project.stopping();
    project.signal(Signal::SIGTERM);
    project.ended();
    for (pid, _) in children {
        assert!(!lives(pid));
    }
}

#[test]
fn quit_kills_all_that_runs_and_leaves() {
    let (mut project, children) = stubborn();
    let folder = project.state_folder().unwrap();
    project.signal(Signal::SIGQUIT);
    assert_eq!(project.ended(), Some(131));
    for (pid, _) in children {
        assert!(!lives(pid));
    }
    assert!(!folder.join("daemon.json").exists());
}

#[test]
fn signals_without_a_meaning_end_nothing() {
    let mut project = Project::new(NAP);
    project.up();
    let nap = project.running("nap");
    let log = project.state_folder().unwrap().join("daemon.log");
    for (signal, name) in [
        (nix::libc::SIGUSR1, "USR1"),
        (nix::libc::SIGALRM, "ALRM"),
        (nix::libc::SIGPWR, "PWR"),
        (nix::libc::SIGRTMIN() + 1, "RTMIN+1"),
    ] {
        let pid = project.pid().to_string();
        let kill = project
            .command("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(kill.unwrap().success());
        let line = format!("ignored signal {name}\n");
        eventually(|| {
            let log = std::fs::read_to_string(&log).unwrap();
            log.contains(&line).then_some(()).ok_or(log)
        });
    }
    assert_eq!(project.running("nap"), nap);
}

#[test]
fn the_daemon_serves_as_the_foreground_does() {
    let mut project = Project::new(NAP);
    project.up();
    let nap = project.running("nap");
    let status = project.call("get_status", json!({})).ok();
    assert_eq!(status["daemon"]["pid"], project.pid());
    // It belongs to nobody's terminal.
    assert_ne!(project.pid(), std::process::id() as i32);
    project.signal(Signal::SIGTERM);
    project.ended();
    assert!(!lives(nap));
}

#[test]
fn process_about_to_start_is_not_shown_as_stopped() {
    let mut project = Project::new(
        r#"
[process.slow]
command = ["FIXTURE", "stubborn"]
stop_timeout_seconds = 1000
depends_on = ["base"]
[process.base]
command = ["FIXTURE", "nap"]
autostart = false
[process.idle]
command = ["FIXTURE", "nap"]
autostart = false
"#,
    );
    project.serve();
    project.line("slow", "stubborn");
    // What a bpm leaves that is killed is ended before anything starts: here that takes until we do it.
    let left = project.inhabitants();
    crate::common::murder(project.pid());
    project.ended();
    project.args(&["--fresh"]);
    project.serve();
    let states = ["slow", "base", "idle"].map(|name| project.status(name)["state"].clone());
    assert_eq!(states, ["waiting", "starting", "stopped"]);
    left.iter().for_each(|(pid, _)| crate::common::murder(*pid));
    project.line("slow", "stubborn");
    // These would not end for less, either.
    project.signal(Signal::SIGTERM);
    project.stopping();
    project.signal(Signal::SIGTERM);
    project.ended();
}

#[test]
fn damaged_state_is_set_aside_and_its_processes_are_not_doubled() {
    let mut project = Project::new(NAP);
    project.serve();
    let nap = project.running("nap");
    crate::common::murder(project.pid());
    project.ended();
    let folder = project.state_folder().unwrap();
    std::fs::write(folder.join("state.json"), "{\"version\":1,").unwrap();
    // As if that bpm had ended in order: only the state could have told what it left.
    std::fs::remove_file(folder.join("daemon.json")).unwrap();
    project.serve();
    let kept = std::fs::read_to_string(folder.join("state.json.damaged-1")).unwrap();
    assert_eq!(kept, "{\"version\":1,");
    let log = project.log();
    assert!(log.contains("state.json.damaged-1"), "{log}");
    assert_ne!(project.running("nap"), nap);
    assert!(!lives(nap));
}

#[test]
fn auto_ports_are_never_the_same() {
    let mut project = Project::new(
        r#"
[process.a]
command = "echo $PORT; exec FIXTURE listen $PORT"
port = "auto"
[process.b]
command = "echo $PORT; exec FIXTURE listen $PORT"
port = "auto"
"#,
    );
    let ports = |project: &Project| {
        project.running("a");
        project.running("b");
        ["a", "b"].map(|name| project.logs(name)[0].clone())
    };
    project.serve();
    ports(&project);
    project.signal(Signal::SIGTERM);
    project.ended();
    // As an earlier version could have left it.
    let path = project.state_folder().unwrap().join("state.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let port = state["processes"]["a"]["port"].clone();
    state["processes"]["b"]["port"] = port.clone();
    std::fs::write(&path, state.to_string()).unwrap();
    project.serve();
    let [a, b] = ports(&project);
    assert_eq!(a, port.to_string());
    assert_ne!(b, a);
    for name in ["a", "b"] {
        assert_eq!(project.status(name)["crashes"], 0);
    }
}

#[test]
fn direnv_is_read_while_no_descriptor_is_to_be_had() {
    let mut project = Project::new("direnv = true\n[process.app]\ncommand = \"exec sleep 1000\"\n");
    // More than its pipe takes.
    project.program(
        "fake/direnv",
        "#!/bin/sh\nread -r _ <gate\necho >>passed\nlong=$(head -c 100000 /dev/zero | tr '\\0' x)\nfor i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13; do export \"LONG$i=$long\"; done\nshift 2\nexec \"$@\"\n",
    );
    let gate = project.gate();
    project.path_first("fake");
    project.serve();
    let mut http = project.http();
    let mut app = || {
        let data = http.call("get_status", json!({"process": "app"})).ok();
        data["processes"][0].clone()
    };
    // Not only about to start: direnv is there.
    eventually(|| match app() {
        app if app["reason"]
            .as_str()
            .is_some_and(|r| r.contains("waiting for direnv")) =>
        {
            Ok(())
        }
        app => Err(app),
    });
    let limit = |number: &str| {
        let pid = project.pid().to_string();
        let status = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={number}:")])
            .status();
        assert!(status.unwrap().success());
    };
    // Less than bpm has open, more than it waits for at once.
    limit("12");
    gate.open();
    crate::common::eventually(|| match app() {
        app if app["reason"]
            .as_str()
            .is_some_and(|r| r.contains("too many files open")) =>
        {
            Ok(())
        }
        app => Err(app),
    });
    limit("1000");
    gate.remove();
    project.file("gate", "go\n");
    let pid = project.call("start", json!({"process": "app"})).ok()["pid"].clone();
    assert!(pid.is_number());
}

#[test]
fn hanging_direnv_is_the_reason_and_has_a_deadline() {
    let mut project = Project::new(
        r#"
direnv = true
[process.app]
command = ["sleep", "1000"]
[process.late]
command = ["sleep", "1000"]
build_timeout_seconds = 0.5
"#,
    );
    project.program("fake/direnv", "#!/bin/sh\nsleep 1000 & exec sleep 1000\n");
    project.path_first("fake");
    project.serve();
    let reason = |status: &serde_json::Value| status["reason"].as_str().unwrap_or("").to_string();
    let status = project.status_when("app", |s| reason(s).starts_with("waiting for direnv (1 s"));
    assert_eq!(status["state"], "starting");
    let failed = |s: &serde_json::Value| reason(s).contains("direnv did not end within 0.5");
    let status = project.status_when("late", failed);
    assert_eq!(status["state"], "crashed");
    // Both can be stopped, and nothing of direnv is left.
    for name in ["app", "late"] {
        assert_eq!(
            project.call("stop", json!({"process": name})).ok()["ok"],
            true
        );
    }
    crate::common::eventually(|| match project.inhabitants() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}
