//! `bpm doctor`: each trouble is made, found, and named with what to do; a project that is well is not bothered.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Ended, Project, bpm, eventually};

const WELL: &str = "mcp_port = 0\n[process.a]\ncommand = [\"sleep\", \"1000\"]\n";

/// What doctor says; it must be that line, of that level.
#[track_caller]
fn finds(said: &Ended, level: &str, parts: &[&str]) {
    let line = said
        .out
        .lines()
        .find(|l| l.starts_with(level) && parts.iter().all(|p| l.contains(p)));
    assert!(line.is_some(), "no {level} with {parts:?} in {said:?}");
    let code = i32::from(said.out.contains("PROBLEM"));
    assert_eq!(said.code, Some(code), "{said:?}");
}

#[track_caller]
fn problem(project: &Project, parts: &[&str]) {
    finds(&project.cli(["doctor"]), "PROBLEM", parts);
}

#[track_caller]
fn note(project: &Project, parts: &[&str]) {
    finds(&project.cli(["doctor"]), "note", parts);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs doctor behind a line of the shell.
fn behind(project: &Project, line: &str) -> Ended {
    let line = format!("{line}; exec \"$0\" doctor");
    let output = project
        .command("sh")
        .args(["-c", &line])
        .arg(bpm())
        .output()
        .unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_project_that_is_well_is_not_bothered() {
    let mut project = Project::new(WELL);
    project.env("XDG_CONFIG_HOME", project.root.join("none"));
    for _ in 0..2 {
        let said = project.cli(["doctor"]).exits(0);
        assert!(said.out.lines().all(|l| l.starts_with("ok  ")), "{said:?}");
        assert_eq!(said.err, "");
        project.up();
    }
    let said = project.cli(["doctor", "--json"]).exits(0).out;
    let value: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&value["schema"], &value["problems"], &value["notes"]),
        (&1.into(), &0.into(), &0.into())
    );
    assert!(
        value["findings"]
            .as_array()
            .unwrap()
            .iter()
            .all(|f| f["level"] == "ok"),
        "{value}"
    );
}

#[test]
fn looking_changes_nothing() {
    let project = Project::new(WELL);
    project.cli(["doctor"]).exits(0);
    assert!(!project.home().exists());
    assert_eq!(fs::read_dir(&project.root).unwrap().count(), 1);
}

#[test]
fn mistakes_in_the_file_are_problems() {
    let project = Project::new("[process.a]\ncomand = \"x\"\n");
    problem(
        &project,
        &[
            "configuration: .mcp-run:2:1: unknown key \"comand\"",
            "bpm check",
        ],
    );
    let said = project.cli(["doctor", "--json"]).exits(1).out;
    let value: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(value["findings"][0]["level"], "problem");
    assert!(value["findings"][0]["fix"].is_string(), "{value}");
}

#[test]
fn tools_that_are_missing_or_do_not_start_are_problems() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"no-such-tool\"]\n[process.b]\ncommand = [\"./gone\"]\n\
         [process.c]\ntype = \"rust\"\n",
    );
    project.program(
        "fake/cargo",
        "#!/bin/sh\necho 'error: no default toolchain' >&2\nexit 1\n",
    );
    project.path_first("fake");
    problem(
        &project,
        &["tools: no-such-tool (a) is not in PATH", "install it"],
    );
    problem(&project, &["tools: ./gone (b) is not there"]);
    problem(
        &project,
        &[
            "tools: cargo (c) does not start: error: no default toolchain",
            "cargo --version",
        ],
    );
}

#[test]
fn an_envrc_that_is_not_allowed_is_a_problem() {
    let mut project = Project::new(WELL);
    project.file(".envrc", "export A=1\n");
    project.program(
        "fake/direnv",
        "#!/bin/sh\necho 'Found RC path x'\necho \"Found RC allowed ${ALLOWED:-false}\"\n",
    );
    project.path_first("fake");
    problem(
        &project,
        &[".envrc: direnv does not load it yet", "direnv allow"],
    );
    project.env("ALLOWED", "true");
    assert!(
        project
            .cli(["doctor"])
            .exits(0)
            .out
            .contains("ok       .envrc: ")
    );
}

#[test]
fn ports_in_use_are_problems_and_ephemeral_ones_notes() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let project = Project::new("");
    let pid = std::process::id();
    for config in [
        format!("mcp_port = {port}\n[process.a]\ncommand = [\"sleep\", \"9\"]\n"),
        format!("mcp_port = 0\n[process.a]\ncommand = [\"sleep\", \"9\"]\nport = {port}\n"),
        format!(
            "mcp_port = 0\n[process.a]\ncommand = [\"sleep\", \"9\"]\nlisten = [\"127.0.0.1:{port}\"]\n"
        ),
    ] {
        project.config(&config);
        problem(
            &project,
            &[
                &format!("ports: {port} ("),
                &format!("in use by pid {pid}"),
                "kill ",
            ],
        );
    }
    drop(holder);
    note(
        &project,
        &[
            &format!("ports: {port} (listen of a) is one that the kernel gives"),
            "ip_local_reserved_ports",
        ],
    );
}

#[test]
fn a_state_folder_of_somebody_else_is_a_problem() {
    if !is_root() {
        return;
    }
    let project = Project::new(WELL);
    project.cli(["-d"]).exits(0);
    project.cli(["stop"]).exits(0);
    let folder = project.state_folder().unwrap();
    chown(&folder, Some(4343), None).unwrap();
    problem(
        &project,
        &["state folder: ", "belongs to uid 4343", "set BPM_HOME"],
    );
    chown(&folder, Some(0), None).unwrap();
}

#[test]
fn a_state_folder_that_can_not_be_one_is_a_problem() {
    let mut project = Project::new(WELL);
    project.file("file", "");
    project.env("BPM_HOME", project.root.join("file"));
    problem(
        &project,
        &["state folder: ", "/file\" is no folder", "set BPM_HOME"],
    );
}

#[test]
fn a_full_disk_is_a_problem() {
    let project = Project::new(WELL);
    fs::create_dir_all(project.home()).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=1m none '{}'",
        project.home().display()
    );
    let line = format!("{mount} || exit 77; exec '{}' doctor", bpm().display());
    let output = project
        .command("unshare")
        .args(["-m", "sh", "-c", &line])
        .output();
    let Ok(output) = output else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(1) && !said.is_empty() {
        assert!(said.contains("PROBLEM  disk: "), "{said}");
        assert!(said.contains("MiB left"), "{said}");
    }
}

#[test]
fn a_socket_path_that_is_too_long_is_said() {
    let mut project = Project::new(WELL);
    let long = project.home().join("x".repeat(100));
    project.env("BPM_HOME", long);
    project.env("XDG_RUNTIME_DIR", project.root.clone());
    note(
        &project,
        &[
            "socket: its path is too long",
            "BPM_HOME with a shorter path",
        ],
    );
}

#[test]
fn too_few_watches_are_a_problem() {
    let project = Project::new(&format!("{WELL}watch = [\"**/*.c\"]\n"));
    for folder in 0..20 {
        project.file(&format!("src/{folder}/a.c"), "");
    }
    let line = format!(
        "echo 10 > /proc/sys/user/max_inotify_watches || exit 77; exec '{}' doctor",
        bpm().display()
    );
    let Ok(output) = project
        .command("unshare")
        .args(["-Ur", "sh", "-c", &line])
        .output()
    else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(1) && !said.is_empty() {
        assert!(
            said.contains(
                "PROBLEM  inotify: 22 folders are to be watched, and a user may watch 10: sysctl"
            ),
            "{said}"
        );
    }
}

#[test]
fn limits_that_are_too_low_are_said() {
    let project = Project::new(WELL);
    let said = behind(&project, "ulimit -n 50");
    finds(
        &said,
        "PROBLEM",
        &[
            "limits: 50 descriptors may be open, and 70 are needed",
            "ulimit -Hn",
        ],
    );
    let said = behind(&project, "ulimit -u 1 2>/dev/null || ulimit -p 1");
    let level = if is_root() { "note" } else { "PROBLEM" };
    if said.out.contains("limits: 1 processes") {
        finds(
            &said,
            level,
            &["limits: 1 processes and threads are allowed", "ulimit -u"],
        );
    }
}

#[test]
fn sockets_that_a_sandbox_refuses_are_said() {
    let project = Project::new(WELL);
    project.file(
        "refuse.c",
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <stdlib.h>\n\
         int socket(int family, int type, int protocol) {\n\
         if (family == atoi(getenv(\"REFUSED\"))) { errno = EPERM; return -1; }\n\
         return ((int (*)(int, int, int))dlsym(RTLD_NEXT, \"socket\"))(family, type, protocol);\n}\n",
    );
    let made = project
        .command("cc")
        .args(["-shared", "-fPIC", "-o", "refuse.so", "refuse.c", "-ldl"])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let ask = |family: &str| {
        let line = format!(
            "export LD_PRELOAD='{}/refuse.so' REFUSED={family}",
            project.root.display()
        );
        behind(&project, &line)
    };
    for (family, kind) in [("1", "Unix"), ("2", "TCP")] {
        let said = ask(family);
        finds(
            &said,
            "PROBLEM",
            &[&format!(
                "sockets: {kind} sockets are refused (operation not permitted): a sandbox?"
            )],
        );
    }
    let said = ask("16");
    finds(
        &said,
        "note",
        &[
            "sockets: the kernel does not tell whose TCP connections",
            "token_file",
        ],
    );
}

#[test]
fn another_bpm_of_the_project_is_a_problem() {
    let mut project = Project::new(WELL);
    project.up();
    let home = project.home();
    let other = project.root.join("other-home");
    let output = project
        .command(bpm())
        .arg("doctor")
        .env("BPM_HOME", &other)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let line = format!("PROBLEM  other daemon: pid {} of ", project.pid());
    assert!(said.contains(&line), "{said}");
    assert!(
        said.contains(&format!("BPM_HOME={} bpm stop", home.display())),
        "{said}"
    );
}

#[test]
fn processes_without_a_daemon_are_a_problem() {
    let mut project = Project::new(WELL);
    project.up();
    project.cli(["wait", "a"]).exits(0);
    project.signal(Signal::SIGKILL);
    project.ended();
    problem(
        &project,
        &[
            "left processes: 1 of this project have no daemon: pid ",
            "sleep",
            "bpm stop",
        ],
    );
    note(&project, &["daemon: the one with pid "]);
    project.cli(["stop"]);
}

#[test]
fn a_daemon_that_does_not_answer_is_a_problem() {
    let mut project = Project::new(WELL);
    project.up();
    project.signal(Signal::SIGSTOP);
    let said = project.cli(["doctor"]);
    project.signal(Signal::SIGCONT);
    finds(
        &said,
        "PROBLEM",
        &["daemon: it does not answer", "bpm stop --force"],
    );
}

#[test]
fn a_daemon_of_an_earlier_installation_is_said() {
    let project = Project::new(WELL);
    let earlier = project.root.join("bpm");
    // By another program: a fork of another test must not hold the file open for writing.
    let copied = project
        .command("cp")
        .arg(bpm())
        .arg(&earlier)
        .status()
        .unwrap();
    assert!(copied.success());
    let started = project.command(&earlier).arg("-d").output().unwrap();
    assert!(started.status.success(), "{started:?}");
    fs::remove_file(&earlier).unwrap();
    let said = project.cli(["doctor"]);
    project.cli(["stop"]).exits(0);
    finds(
        &said,
        "note",
        &["version: the daemon's binary was replaced since it started: \"bpm "],
    );
}

#[test]
fn commands_that_do_not_stay_are_problems() {
    let mut project = Project::empty();
    for tool in [
        "nginx",
        "redis-server",
        "esbuild",
        "npm",
        "docker",
        "python3",
    ] {
        project.program(&format!("fake/{tool}"), "#!/bin/sh\nexit 0\n");
    }
    project.path_first("fake");
    project.file(
        "package.json",
        "{\"scripts\": {\"css\": \"tailwindcss -o x --watch\"}}",
    );
    let with = |command: &str| {
        project.config(&format!("mcp_port = 0\n[process.a]\ncommand = {command}\n"));
    };
    with("[\"nginx\", \"-c\", \"x\"]");
    problem(
        &project,
        &[
            "commands: a: nginx puts itself into the background",
            "daemon off;",
        ],
    );
    with("\"redis-server --daemonize yes\"");
    problem(
        &project,
        &["commands: a: redis-server puts itself", "drop --daemonize"],
    );
    with("\"nginx -g 'daemon off;' &\"");
    problem(
        &project,
        &["commands: a: the shell puts it into the background"],
    );
    with("[\"esbuild\", \"a.js\", \"--watch\"]");
    problem(
        &project,
        &[
            "commands: a: esbuild ends when its standard input does",
            "stdin = \"open\"",
        ],
    );
    with("[\"npm\", \"run\", \"css\"]");
    problem(
        &project,
        &["commands: a: tailwindcss ends when its standard input does"],
    );
    with("[\"python3\", \"app.py\"]");
    note(
        &project,
        &["commands: a: python without -u", "PYTHONUNBUFFERED"],
    );
    project.file("front.conf", "worker_processes 1;\ndaemon  off;\n");
    with("[\"nginx\", \"-c\", \"front.conf\"]");
    project.cli(["doctor"]).exits(0);
    with("[\"docker\", \"compose\", \"up\", \"nginx\"]");
    project.cli(["doctor"]).exits(0);
    with("[\"python3\", \"-u\", \"app.py\"]");
    project.cli(["doctor"]).exits(0);
    assert!(
        !project.cli(["doctor"]).out.contains("note"),
        "{}",
        project.cli(["doctor"]).out
    );
}

#[test]
fn settings_of_agents_that_do_not_fit_are_problems() {
    let mut project = Project::new(WELL);
    project.env("HOME", project.root.join("me"));
    let settings = |file: &str, server: &str| {
        project.file(file, &format!("{{\"mcpServers\": {{\"shop\": {server}}}}}"));
    };
    settings(
        ".mcp.json",
        "{\"command\": \"/gone/bpm\", \"args\": [\"proxy\"]}",
    );
    problem(
        &project,
        &[
            "agents: \"shop\" in ",
            ".mcp.json starts /gone/bpm, which is not there",
            "bpm mcp-config",
        ],
    );
    let bpm = bpm().display().to_string();
    settings(
        ".mcp.json",
        &format!("{{\"command\": \"{bpm}\", \"args\": [\"proxy\", \"/elsewhere\"]}}"),
    );
    problem(
        &project,
        &["agents: \"shop\" in ", "names another folder, /elsewhere"],
    );
    settings(
        ".mcp.json",
        &format!("{{\"command\": \"{bpm}\", \"args\": [\"proxy\"]}}"),
    );
    assert!(
        project
            .cli(["doctor"])
            .exits(0)
            .out
            .contains(".mcp.json fits")
    );
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    project.config(&WELL.replace("mcp_port = 0", "mcp_port = 18093"));
    settings(
        ".mcp.json",
        &format!("{{\"type\": \"http\", \"url\": \"http://127.0.0.1:{port}/mcp\"}}"),
    );
    problem(
        &project,
        &[&format!("connects to port {port}, and bpm serves at 18093")],
    );
    // The user's settings, for this folder.
    project.remove(".mcp.json");
    let root = project.root.display();
    project.file(
        "me/.claude.json",
        &format!("{{\"projects\": {{\"{root}\": {{\"mcpServers\": {{\"shop\": {{\"command\": \"/gone/bpm\", \"args\": [\"proxy\"]}}}}}}}}}}"),
    );
    problem(&project, &[".claude.json starts /gone/bpm"]);
}

#[test]
fn a_unit_that_ends_at_logout_is_said() {
    let mut project = Project::new(WELL);
    let config = project.root.join("config");
    project.env("XDG_CONFIG_HOME", config);
    let unit = project.cli(["install", "--dry-run"]).exits(0).out;
    project.file("config/systemd/user/bpm-shop.service", &unit);
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    if Path::new("/var/lib/systemd/linger").join(user).exists() {
        return;
    }
    note(
        &project,
        &[
            "unit: ",
            "bpm-shop.service ends when you log out",
            "loginctl enable-linger",
        ],
    );
}

#[test]
fn a_clock_that_was_set_back_is_a_problem() {
    let project = Project::new(WELL);
    let touched = Command::new("touch")
        .args(["-d", "+1 hour"])
        .arg(project.root.join(".mcp-run"))
        .status();
    assert!(eventually(|| touched.as_ref().map(|s| s.success())));
    problem(
        &project,
        &["clock: ", "changed in the future", "timedatectl"],
    );
}

#[test]
fn limits_that_can_t_be_had_are_said() {
    let project = Project::new(&format!("{WELL}limits = {{ tasks = 9 }}\n"));
    let said = project.cli(["doctor"]).exits(0);
    if said.out.contains("ok       cgroups: ") {
        return;
    }
    finds(
        &said,
        "note",
        &["cgroups: limits of a: ", "tasks", "Delegate=yes"],
    );
    let why = "a: limits of tasks are not in effect here: ";
    let said = project.cli(["check"]).exits(0);
    assert!(said.out.contains(why), "{said:?}");
    project.config(&format!("cgroup = true\n{WELL}"));
    problem(&project, &["cgroups: cgroup = true, and ", "Delegate=yes"]);
}

#[test]
fn an_input_that_stays_open_suits_watchers() {
    let mut project = Project::new(
        "mcp_port = 0\n[process.a]\ncommand = [\"esbuild\", \"--watch\"]\nstdin = \"open\"\n",
    );
    project.program("fake/esbuild", "#!/bin/sh\nexit 0\n");
    project.path_first("fake");
    assert!(
        !project
            .cli(["doctor"])
            .exits(0)
            .out
            .contains("esbuild ends")
    );
}
