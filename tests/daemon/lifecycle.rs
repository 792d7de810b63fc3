//! The daemon from outside: starting, finding, judging and ending it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::sandbox::refusing;
use crate::common::{Project, bpm, eventually, freeze, gone, lives, murder};
use bpm::os::peer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const NAP: &str = "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n";

/// What `daemon status --json` says.
fn daemon(project: &Project) -> Value {
    serde_json::from_str(&project.cli(["daemon", "status", "--json"]).out).unwrap()
}

fn pid(project: &Project) -> i32 {
    daemon(project)["pid"].as_i64().unwrap() as i32
}

fn status(project: &Project) -> Value {
    serde_json::from_str(&project.cli(["status", "--json"]).out).unwrap()
}

/// The pid of the process, which starts a moment after the daemon does.
fn pid_of_nap(project: &Project) -> i32 {
    let pid = || {
        status(project)["processes"][0]["pid"]
            .as_i64()
            .ok_or("not yet")
    };
    eventually(pid) as i32
}

fn start(project: &Project, args: &[&str]) -> Child {
    project
        .command(bpm())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_daemon_is_started_found_and_stopped() {
    let project = Project::new(NAP);
    project.cli(["status"]).exits(3);
    project.cli(["daemon", "status"]).exits(3);
    let said = project.cli(["-d"]).exits(0);
    assert!(said.out.contains("started (pid "), "{said:?}");
    let now = daemon(&project);
    assert_eq!(now["verdict"], "running");
    assert_eq!(now["schema"], 1);
    assert_eq!(now["project"], project.root.to_str().unwrap());
    assert!(
        now["url"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    let folder = project.state_folder().unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| {
        fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(""), 0o700);
    for file in ["daemon.json", "daemon.sock", "daemon.log", "daemon.lock"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    for again in [&["start"][..], &["-d"], &["daemon", "start"]] {
        let said = project.cli(again).exits(0);
        assert!(
            said.out
                .contains(&format!("already running (pid {})", now["pid"])),
            "{said:?}"
        );
    }
    project
        .cli(["serve"])
        .exits(1)
        .says(&["already running (pid "]);
    project.cli(["status"]).exits(0);
    let listed = project.cli(["ps", "--json"]).exits(0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed["daemons"][0]["pid"], now["pid"]);
    let said = project.cli(["stop"]).exits(0);
    assert!(said.out.contains("stopped (pid "), "{said:?}");
    assert!(!lives(now["pid"].as_i64().unwrap() as i32));
    for gone in ["daemon.json", "daemon.sock"] {
        assert!(!folder.join(gone).exists(), "{gone}");
    }
    project.cli(["stop"]).exits(0);
    project.cli(["status"]).exits(3);
    assert_eq!(project.cli(["ps"]).exits(0).out, "no daemons\n");
}

#[test]
fn kept_port_that_another_has_is_a_warning() {
    let mut project = Project::new(NAP);
    project.up();
    let url = project.descriptor()["url"].as_str().unwrap().to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
    crate::common::murder(project.pid());
    let taken = eventually(|| TcpListener::bind(address));
    let port = taken.local_addr().unwrap().port();
    let said = format!(
        "port {port}, kept for this project, is in use by pid {}",
        std::process::id()
    );
    project
        .cli(["-d"])
        .exits(0)
        .says(&[&said, "bpm mcp-config"]);
    assert_ne!(daemon(&project)["url"], url);
    let log = fs::read_to_string(project.state_folder().unwrap().join("daemon.log")).unwrap();
    assert!(
        log.lines()
            .any(|line| line.contains("WARN") && line.contains(&said)),
        "{log}"
    );
    // It comes back to it.
    drop(taken);
    project.cli(["daemon", "restart"]).exits(0);
    assert_eq!(daemon(&project)["url"], url);
    project.cli(["stop"]).exits(0);
}

#[test]
fn the_port_is_kept_and_can_be_chosen() {
    let mut project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let url = daemon(&project)["url"].clone();
    project.cli(["daemon", "restart"]).exits(0);
    assert_eq!(daemon(&project)["url"], url);
    project.cli(["-d", "--replace", "--port", "0"]).exits(0);
    assert_eq!(daemon(&project)["url"], Value::Null);
    project.cli(["stop"]).exits(0);
    // Somebody else has it now: the start names them, and nothing is left.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let me = std::process::id().to_string();
    project.cli(["-d", "--port", &port]).exits(1).says(&[
        "bpm: cannot listen on 127.0.0.1:",
        "in use by pid",
        &me,
        "hint: ",
    ]);
    project.cli(["status"]).exits(3);
    project.env("BPM_PORT", &port).cli(["-d"]).exits(1);
    project.env("BPM_PORT", "auto").cli(["-d"]).exits(0);
    project.cli(["stop"]).exits(0);
    project.cli(["-d", "--port", "x"]).exits(2);
}

#[test]
fn a_wrong_setting_is_a_mistake_of_the_command_line() {
    let mut project = Project::new(NAP);
    project.env("BPM_LOG_LEVEL", "loud");
    for way in [&["-d"][..], &["serve"], &["up"]] {
        project
            .cli(way)
            .exits(2)
            .says(&["BPM_LOG_LEVEL=\"loud\" is none of debug"]);
    }
    // It is told also where there is no project.
    let nowhere = Project::empty();
    for line in [
        &["--port", "x"][..],
        &["serve", "--port", "x"],
        &["start", "--port", "x"],
        &["daemon", "restart", "--port", "x"],
        &["daemon", "logs", "-n", "x"],
        &["up", "--timeout", "x"],
        &["logs", "--run", "x"],
        &["logs", "--since", "x"],
    ] {
        nowhere.cli(line).exits(2);
    }
}

#[test]
fn daemon_log_warns_of_failures() {
    let mut project = Project::new(
        "[process.bad]\ncommand = \"exit 7\"\nrestart = \"never\"\n\
         [process.lost]\ncommand = [\"/no/such/program\"]\nrestart = \"never\"\n",
    );
    project.env("BPM_LOG_LEVEL", "warn").cli(["up"]).exits(1);
    let log = project.cli(["daemon", "logs"]).exits(0).out;
    for part in [
        "[WARN] supervisor: bad: failed",
        "[WARN] supervisor: lost: cannot start lost: no such file",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("[INFO]"), "{log}");
    project.cli(["stop"]).exits(0);
}

#[test]
fn mistakes_are_told_before_anything_is_started() {
    let project = Project::new("[process.a]\ncomand = \"x\"\n[process.b]\ntype = \"rusty\"\n");
    for way in [
        &["-d"][..],
        &["start"],
        &["up"],
        &["serve"],
        &["daemon", "start"],
        &["check"],
    ] {
        let said = project.cli(way).exits(1);
        assert!(
            said.err.contains(".mcp-run:2:1: unknown key \"comand\""),
            "{said:?}"
        );
        assert!(said.err.contains(".mcp-run:4:"), "{said:?}");
    }
    assert!(
        project
            .state_folder()
            .is_none_or(|f| !f.join("daemon.log").exists())
    );
}

#[test]
fn many_starts_at_once_make_one_daemon() {
    let project = Project::new(NAP);
    for round in 0..20 {
        let many: Vec<Child> = (0..2 + round % 4)
            .map(|_| start(&project, &["start"]))
            .collect();
        let mut started = 0;
        for child in many {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            started += usize::from(String::from_utf8_lossy(&output.stdout).contains("started"));
        }
        assert_eq!(started, 1);
        let naps = status(&project)["processes"][0]["restarts"].clone();
        assert_eq!(naps, 0);
        project.cli(["stop"]).exits(0);
    }
}

#[test]
fn killed_daemon_is_stale_and_its_processes_are_not_doubled() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let nap = pid_of_nap(&project);
    murder(pid(&project));
    let said = project.cli(["status"]).exits(1);
    assert!(said.out.contains("stale"), "{said:?}");
    let verdict: Value =
        serde_json::from_str(&project.cli(["daemon", "status", "--json"]).exits(1).out).unwrap();
    assert_eq!(verdict["verdict"], "stale");
    assert!(lives(nap));
    let said = project.cli(["start"]).exits(0);
    let adopted = format!("killed) left: adopted nap (pid {nap}, up ");
    assert!(said.out.contains(&adopted), "{said:?}");
    assert!(lives(nap));
    assert_eq!(pid_of_nap(&project), nap);
    assert_eq!(
        project.inhabitants().len(),
        2,
        "{:?}",
        project.inhabitants()
    );
    // Killed again, and stopped instead.
    murder(pid(&project));
    let said = project.cli(["stop"]).exits(0);
    assert!(said.out.contains("a dead daemon had left"), "{said:?}");
    assert!(!lives(nap));
    project.cli(["status"]).exits(3);
}

#[test]
fn unrecorded_processes_of_a_killed_daemon_are_found() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let nap = pid_of_nap(&project);
    murder(pid(&project));
    // As if it had been killed between a start and the note of it.
    let path = project.state_folder().unwrap().join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["running"] = Value::Array(Vec::new());
    state["processes"]["nap"]["life"] = Value::Null;
    fs::write(&path, state.to_string()).unwrap();
    project.cli(["start"]).exits(0);
    assert!(!lives(nap));
    assert_eq!(
        project.inhabitants().len(),
        2,
        "{:?}",
        project.inhabitants()
    );
    project.cli(["stop"]).exits(0);
}

#[test]
fn garbage_in_its_files_keeps_nobody_from_starting() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let folder = project.state_folder().unwrap();
    let long = "[".repeat(100_000);
    for garbage in ["", "nonsense", "{}", "null", "{\"pid\":1}", &long] {
        project.cli(["stop"]).exits(0);
        for file in [
            "daemon.lock",
            "daemon.json",
            "daemon.sock",
            "daemon.log",
            "state.json",
        ] {
            fs::write(folder.join(file), garbage).unwrap();
        }
        project.cli(["status"]).exits(3);
        project.cli(["-d"]).exits(0);
        project.cli(["status"]).exits(0);
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_strangers_pid_is_not_signalled() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let mut stranger = project.command("sleep").arg("1000").spawn().unwrap();
    let path = project.state_folder().unwrap().join("daemon.json");
    let mut descriptor: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    murder(pid(&project));
    // The number was given to somebody else meanwhile.
    descriptor["pid"] = stranger.id().into();
    fs::write(&path, descriptor.to_string()).unwrap();
    project.cli(["stop", "--force"]).exits(0);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn daemon_that_does_not_answer_is_unhealthy_and_replaced() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let old = pid(&project);
    freeze(old);
    let said = project.cli(["status"]).exits(1);
    assert!(said.out.contains("unhealthy"), "{said:?}");
    project
        .cli(["-d"])
        .exits(1)
        .says(&["does not answer", "hint: ", "--replace"]);
    project.cli(["stop"]).exits(1).says(&["--force"]);
    project.cli(["stop", "nap"]).exits(1).says(&["--force"]);
    for once in [&["up"][..], &["start", "nap"]] {
        // Each time a daemon is judged takes two seconds; all else may take long, but not each time.
        let quick = || {
            let begun = std::time::Instant::now();
            let said = project.cli(once).exits(1);
            said.says(&["does not answer", "hint: "]);
            begun.elapsed().as_secs_f64() < 3.9
        };
        assert!((0..5).any(|_| quick()), "judged twice: {once:?}");
    }
    project.cli(["-d", "--replace"]).exits(0);
    assert!(!lives(old));
    let new = pid(&project);
    assert_ne!(new, old);
    assert_eq!(project.inhabitants().len(), 2);
    freeze(new);
    project.cli(["stop", "--force"]).exits(0);
    assert!(!lives(new));
}

#[test]
fn the_end_of_one_that_is_stopping_is_waited_for() {
    let mut project = Project::new(
        "[process.slow]\ncommand = [\"FIXTURE\", \"stubborn\"]\nstop_timeout_seconds = 1\n",
    );
    for next in [&["start"][..], &["start", "slow"], &["proxy"]] {
        project.up();
        project.line("slow", "stubborn");
        let old = project.pid();
        project.signal(Signal::SIGTERM);
        project.stopping();
        let mut asking = project
            .command(bpm())
            .args(next)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // For the proxy, which starts a daemon for a tool alone.
        let call = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"get_status\"}}\n";
        let _ = asking.stdin.take().unwrap().write_all(call);
        assert!(asking.wait().unwrap().success(), "{next:?}");
        assert!(!lives(old), "{next:?}");
        assert_eq!(daemon(&project)["verdict"], "running", "{next:?}");
        assert_ne!(pid(&project), old);
    }
    project.cli(["stop", "--force"]).exits(0);
}

#[test]
fn daemon_without_a_descriptor_is_found_by_its_socket() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let old = pid(&project);
    let path = project.state_folder().unwrap().join("daemon.json");
    // It can't write another one.
    freeze(old);
    for lost in [true, false] {
        fs::write(&path, "{").unwrap();
        if lost {
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(daemon(&project)["pid"], old);
        project
            .cli(["stop"])
            .exits(1)
            .says(&[&format!("pid {old}"), "--force"]);
    }
    project.cli(["stop", "--force"]).exits(0);
    assert!(!lives(old));
    project.cli(["status"]).exits(3);
}

#[test]
fn the_callers_streams_and_descriptors_are_let_go() {
    let project = Project::new(NAP);
    let (mut read, write) = std::io::pipe().unwrap();
    let stray = write.try_clone().unwrap();
    // Without CLOEXEC, as a careless caller leaves it.
    nix::fcntl::fcntl(
        &stray,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let status = project
        .command(bpm())
        .arg("-d")
        .stdin(Stdio::null())
        .stdout(write)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    drop(stray);
    // Ends only when nobody has the other end, neither the daemon nor its processes.
    let mut said = String::new();
    read.read_to_string(&mut said).unwrap();
    assert!(said.contains("started"), "{said}");
    project.cli(["stop"]).exits(0);
}

#[test]
fn the_end_of_the_session_is_survived() {
    let project = Project::new(NAP);
    // A terminal's session of its own that is hung up: its leader ends, and HUP goes to all of it.
    let script = format!("{} -d >/dev/null && kill -HUP 0", bpm().display());
    let ended = project
        .command("setsid")
        .args(["--wait", "sh", "-c", &script])
        .status()
        .unwrap();
    assert!(!ended.success());
    assert_eq!(daemon(&project)["verdict"], "running");
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_long_path_and_an_odd_one_work() {
    let odd = "it's \"ä\" {$x}";
    let deep = std::env::temp_dir().join(format!("bpm-deep-{}", std::process::id()));
    let folder = deep.join("d".repeat(150)).join("e".repeat(150)).join(odd);
    fs::create_dir_all(&folder).unwrap();
    {
        let project = Project::below(&folder);
        project.config(NAP);
        project.cli(["-d"]).exits(0);
        let now = daemon(&project);
        let socket = now["socket"].as_str().unwrap();
        assert!(socket.len() <= 107, "{socket}");
        assert_eq!(now["verdict"], "running");
        project.cli(["status"]).exits(0);
        project.cli(["stop"]).exits(0);
        assert!(!Path::new(socket).parent().unwrap().exists(), "{socket}");
    }
    {
        // In the folder of the session that started it, which another does not have.
        let mut project = Project::below(&folder);
        project.config(NAP);
        let runtime = deep.join("run");
        fs::create_dir_all(&runtime).unwrap();
        project.env("XDG_RUNTIME_DIR", runtime.to_str().unwrap());
        project.cli(["-d"]).exits(0);
        let old = pid(&project);
        assert!(
            daemon(&project)["socket"]
                .as_str()
                .unwrap()
                .starts_with(runtime.to_str().unwrap())
        );
        freeze(old);
        fs::remove_file(project.state_folder().unwrap().join("daemon.json")).unwrap();
        project.env("XDG_RUNTIME_DIR", "");
        assert_eq!(daemon(&project)["pid"], old);
        fs::remove_dir_all(&runtime).unwrap();
        assert_eq!(daemon(&project)["pid"], old);
        project.cli(["stop", "--force"]).exits(0);
        assert!(!lives(old));
    }
    fs::remove_dir_all(&deep).unwrap();
}

#[test]
fn a_configuration_that_was_deleted_loses_nothing() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    project.remove(".mcp-run");
    project.cli(["status"]).exits(0);
    project
        .cli(["reload"])
        .exits(1)
        .says(&["bpm: cannot read", ".mcp-run"]);
    assert_eq!(project.inhabitants().len(), 2);
    project.cli(["stop"]).exits(0);
    project
        .cli(["status"])
        .exits(1)
        .says(&["no .mcp-run", "hint: "]);
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let mut project = Project::new(NAP);
    project.env("BPM_HOME", "/proc/nowhere");
    project
        .cli(["-d"])
        .exits(1)
        .says(&["/proc/nowhere", "hint: set BPM_HOME"]);
    let file = project.root.join(".mcp-run");
    project.env("BPM_HOME", file);
    for look in [&["status"][..], &["stop"], &["ps"], &["-d"]] {
        project.cli(look).exits(1).says(&["hint: set BPM_HOME"]);
    }
    project.env("BPM_HOME", "relative");
    project.cli(["-d"]).exits(1).says(&["not an absolute path"]);
}

#[test]
fn the_log_begins_anew_with_a_daemon_and_is_shown() {
    let project = Project::new(NAP);
    project.cli(["daemon", "logs"]).exits(3);
    project.cli(["-d"]).exits(0);
    let first = pid(&project);
    project.cli(["daemon", "restart"]).exits(0);
    let folder = project.state_folder().unwrap();
    let (now, before) = (
        fs::read_to_string(folder.join("daemon.log")).unwrap(),
        fs::read_to_string(folder.join("daemon.log.1")).unwrap(),
    );
    assert!(before.contains(&format!("pid {first}")) && !now.contains(&format!("pid {first}")));
    let shown = project.cli(["daemon", "logs", "-n", "1"]).exits(0).out;
    assert_eq!(shown.lines().count(), 1);
    let line = now.lines().next().unwrap();
    // 2026-11-21 02:46:50,123 [INFO] supervisor: text
    let (stamp, rest) = line.split_at(23);
    assert!(
        stamp
            .chars()
            .all(|c| c.is_ascii_digit() || "- :,".contains(c)),
        "{line}"
    );
    assert!(rest.starts_with(" [INFO] supervisor: "), "{line}");
    // It follows, over a daemon that comes after.
    let mut follower = start(&project, &["daemon", "logs", "-f", "-n", "0"]);
    let mut out = follower.stdout.take().unwrap();
    project.cli(["daemon", "restart"]).exits(0);
    let wanted = format!("pid {}", pid(&project));
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(&wanted) {
        let n = out.read(&mut chunk).unwrap();
        assert!(n > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_stop_waits_until_it_is_over_and_says_for_whom() {
    let project = Project::new(
        "[process.stubborn]\ncommand = [\"FIXTURE\", \"stubborn\"]\nstop_timeout_seconds = 1\n",
    );
    project.cli(["-d"]).exits(0);
    eventually(
        || match project.cli(["logs", "stubborn"]).out.contains("stubborn") {
            true => Ok(()),
            false => Err("no line yet"),
        },
    );
    let said = project.cli(["stop"]).exits(0);
    assert!(said.err.contains("waiting for stubborn"), "{said:?}");
    assert_eq!(project.inhabitants(), []);
}

#[test]
fn a_forced_stop_is_over_at_once() {
    let project = Project::new(
        "[process.stubborn]\ncommand = [\"FIXTURE\", \"stubborn\"]\nstop_timeout_seconds = 600\n",
    );
    project.cli(["-d"]).exits(0);
    project.cli(["stop", "--force"]).exits(0);
    assert_eq!(project.inhabitants(), []);
}

#[test]
fn a_terminal_that_goes_away_stops_what_is_in_its_foreground() {
    let project = Project::new(NAP);
    for (word, stops) in [("exec", true), ("exec nohup", false)] {
        let command = format!("{word} {} {}", bpm().display(), project.root.display());
        let mut terminal = project
            .command("script")
            .args(["-qfc", &command, "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually(|| match daemon(&project)["verdict"] == "running" {
            true => Ok(()),
            false => Err("not yet"),
        });
        let bpm = pid(&project);
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        if stops {
            gone(bpm);
        } else {
            // The kernel has told it already; a reload is the answer.
            kill(Pid::from_raw(bpm), Signal::SIGHUP).unwrap();
            let log = project.state_folder().unwrap().join("daemon.log");
            eventually(|| match fs::read_to_string(&log).unwrap() {
                text if text.contains("reload: 0 changed") => Ok(()),
                text => Err(text),
            });
            project.cli(["stop"]).exits(0);
        }
        assert_eq!(project.inhabitants(), []);
    }
}

#[test]
fn systemd_is_told() {
    use std::os::unix::net::UnixDatagram;
    let mut project = Project::new(NAP);
    let path = project.home().with_file_name("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    project.env("NOTIFY_SOCKET", path.to_str().unwrap());
    project.env("WATCHDOG_USEC", "1000000");
    // Always read: the queue of the socket holds ten (net.unix.max_dgram_qlen).
    let (heard, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(n) = systemd.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if heard.send(text).is_err() {
                break;
            }
        }
    });
    project.serve_beyond_terminals();
    // What it said until then, less what it always says.
    let hear = |until: &str| {
        let mut said = Vec::new();
        while !said.iter().any(|s: &String| s.contains(until)) {
            let text = hears.recv_timeout(crate::common::PATIENCE).unwrap();
            if text != "WATCHDOG=1" || text == until {
                said.push(text);
            }
        }
        said
    };
    hear("READY=1\nSTATUS=1 process");
    hear("WATCHDOG=1");
    murder(project.running("nap"));
    hear("STATUS=1 process; crashed: nap");
    assert_eq!(hear("STATUS=")[..], ["STATUS=1 process"]);
    // A file without changes, one with a mistake, and the change of a process.
    for text in [
        NAP,
        "[process.nap]\n",
        "[process.nap]\ncommand = \"exec sleep 1000\"\n",
    ] {
        project.config(text);
        project.signal(Signal::SIGHUP);
        let said = hear("READY=1");
        let usec = said[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(usec.is_some_and(|n| n.parse::<u64>().is_ok()), "{said:?}");
    }
    // What is for bpm alone does not reach the processes.
    let nap = project.running("nap");
    let environ = fs::read(format!("/proc/{nap}/environ")).unwrap();
    let text = String::from_utf8_lossy(&environ).into_owned();
    assert!(
        !text.contains("NOTIFY_SOCKET") && !text.contains("WATCHDOG"),
        "{text}"
    );
    project.signal(Signal::SIGTERM);
    hear("STOPPING=1");
    assert_eq!(project.ended(), Some(0));
}

/// Somebody holds the lock in that folder.
fn locked(folder: &Path) -> bool {
    let file = fs::File::open(folder.join("daemon.lock")).unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock);
    lock.is_err()
}

#[test]
fn removed_files_of_the_daemon_come_back() {
    let mut project = Project::new(NAP);
    project.up();
    let who = |project: &Project| {
        let mut who = daemon(project);
        for changing in ["uptime_seconds", "rss_bytes", "clients"] {
            who.as_object_mut().unwrap().remove(changing);
        }
        who
    };
    let (pid, before) = (project.pid(), who(&project));
    let same = |project: &Project, after: &str| {
        eventually(|| match who(project) {
            now if now == before => Ok(()),
            now => Err((after.to_string(), now)),
        });
    };
    let folder = project.state_folder().unwrap();
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(folder.join(name)).map(|m| m.ino())
    };
    let files = ["daemon.lock", "daemon.json", "daemon.sock"];
    for name in files {
        fs::remove_file(folder.join(name)).unwrap();
        eventually(|| inode(name));
        same(&project, name);
    }
    // Another one in its place.
    for name in ["daemon.lock", "daemon.json"] {
        let other = folder.join("other");
        fs::write(&other, "").unwrap();
        fs::rename(&other, folder.join(name)).unwrap();
        eventually(|| match locked(&folder) {
            true => Ok(()),
            false => Err(name),
        });
        same(&project, name);
        eventually(
            || match fs::read(folder.join("daemon.json")).unwrap().is_empty() {
                true => Err("not written"),
                false => Ok(()),
            },
        );
    }
    eventually(|| {
        let log = fs::read_to_string(folder.join("daemon.log")).unwrap();
        match log.contains("[WARN] daemon: somebody removed ") {
            true => Ok(()),
            false => Err(log),
        }
    });
    // With the folder, and with what is above it.
    let away = folder.with_file_name("away");
    let home = project.home();
    let moved = home.with_file_name("moved");
    for round in 0..5 {
        match round {
            0 => drop(fs::remove_dir_all(&folder)),
            1 => fs::rename(&folder, &away).unwrap(),
            2 => drop(fs::remove_dir_all(&home)),
            3 => fs::rename(&home, &moved).unwrap(),
            _ => drop(fs::remove_dir_all(&home)),
        }
        eventually(|| match project.cli(["status"]).code {
            Some(0) => Ok(()),
            other => Err(other),
        });
        // Until its descriptor is there again, less is known of it.
        same(&project, &format!("round {round}"));
        let again = project.cli(["start"]).exits(0);
        assert!(again.out.contains("already running"), "{again:?}");
        for name in files.into_iter().chain(["state.json"]) {
            eventually(|| inode(name));
        }
        eventually(|| match locked(&folder) {
            true => Ok(()),
            false => Err("no lock"),
        });
    }
    assert!(lives(pid));
    project.cli(["stop"]).exits(0);
    for gone in ["daemon.json", "daemon.sock"] {
        assert!(!folder.join(gone).exists(), "{gone}");
    }
    fs::remove_dir_all(&moved).unwrap();
}

#[test]
fn removed_folder_makes_no_room_for_a_second_daemon() {
    let project = Project::new(NAP);
    for round in 0..40 {
        project.cli(["-d"]).exits(0);
        let folder = project.state_folder().unwrap();
        let starts: Vec<Child> = (0..3)
            .map(|i| {
                if i == round % 4 {
                    let _ = fs::remove_dir_all(&folder);
                }
                start(&project, &["-d"])
            })
            .collect();
        if round % 4 == 3 {
            let _ = fs::remove_dir_all(&folder);
        }
        for child in starts {
            let ended = child.wait_with_output().unwrap();
            // One that has only begun may fail when its folder goes.
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            let fails = said.contains("no such file") || said.contains("was removed");
            assert!(ended.status.success() || fails, "{ended:?}");
        }
        // Where a new one was quicker, the old one leaves.
        eventually(|| match project.inhabitants() {
            two if two.len() == 2 => Ok(()),
            others => Err(others),
        });
        eventually(|| match daemon(&project)["verdict"].as_str() {
            Some("running") => Ok(()),
            other => Err(other.map(String::from)),
        });
        let nap = &status(&project)["processes"][0];
        assert!(
            ["starting", "running"].contains(&nap["state"].as_str().unwrap()),
            "{nap}"
        );
        project.cli(["stop"]).exits(0);
        assert_eq!(project.inhabitants(), []);
    }
}

#[test]
fn values_of_the_environment_stay_with_the_processes() {
    let project = Project::new(
        "[process.a]\ncommand = [\"sh\", \"-c\", \"while :; do sleep 1; done\", \"sh\", \"${TOKEN}\"]\n\
         env = { TOKEN = \"s3cr3t\" }\n",
    );
    let mut said = project.cli(["-d"]).exits(0).out;
    murder(pid(&project));
    let again = project.cli(["-d"]).exits(0);
    assert!(again.out.contains("adopted a (pid "), "{again:?}");
    said += &again.out;
    said += &again.err;
    for words in [
        &["status", "--json"][..],
        &["why", "a"],
        &["daemon", "status", "--json"],
        &["restart", "a"],
        &["stop"],
    ] {
        let ended = project.cli(words);
        said += &ended.out;
        said += &ended.err;
    }
    for file in fs::read_dir(project.state_folder().unwrap()).unwrap() {
        let path = file.unwrap().path();
        said += &fs::read_to_string(&path).unwrap_or_default();
    }
    assert!(!said.contains("s3cr3t"), "{said}");
}

#[test]
fn daemon_of_another_home_is_refused_and_named() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let first = pid(&project);
    let elsewhere = project.root.with_file_name("elsewhere");
    let of_other_home = |args: &[&str]| {
        let mut command = project.command(bpm());
        command.args(args).env("BPM_HOME", &elsewhere);
        command.stdin(Stdio::null()).output().unwrap()
    };
    for way in [&["-d"][..], &["up"], &["serve"], &["start", "nap"]] {
        let output = of_other_home(way);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let home = project.home();
        let who = format!(
            "the daemon (pid {first}, user {}, home {}) already runs",
            peer::user_name(peer::our_uid()),
            home.display()
        );
        assert!(said.contains(&who), "{said}");
    }
    assert_eq!(project.inhabitants().len(), 2);
    project.cli(["stop"]).exits(0);
    assert!(of_other_home(&["-d"]).status.success());
    assert!(of_other_home(&["stop"]).status.success());
}

#[test]
fn sandbox_without_sockets_gets_no_verdict() {
    let project =
        Project::new("[process.nap]\ncommand = \"echo up and napping; exec sleep 1000\"\n");
    project.cli(["-d"]).exits(0);
    let daemon = pid(&project);
    for call in [libc::SYS_connect, libc::SYS_socket] {
        for args in [
            &["status"][..],
            &["daemon", "status"],
            &["up"],
            &["stop"],
            &["stop", "--force"],
            &["stop", "nap"],
            &["restart", "nap"],
            &["-d", "--replace"],
            &["daemon", "restart"],
            &["wait", "nap"],
        ] {
            let mut command = project.command(bpm());
            command.args(args).stdin(Stdio::null());
            let output = refusing(&mut command, call).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
            let why = "cannot ask the daemon: operation not permitted (a sandbox?)";
            assert!(said.contains(why), "{args:?}: {said}");
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            for wrong in ["unhealthy", "--force\"", "--replace"] {
                assert!(
                    !said.contains(wrong) && !out.contains(wrong),
                    "{args:?}: {said}"
                );
            }
        }
    }
    // What is on disk is shown.
    for (args, shown) in [
        (&["status"][..], "nap"),
        (&["status", "--json"], "\"verdict\":null"),
        (&["logs"], "up and napping"),
        (&["why", "nap"], "has not ended by itself"),
    ] {
        let out = eventually(|| {
            let mut command = project.command(bpm());
            command.args(args).stdin(Stdio::null());
            let output = refusing(&mut command, libc::SYS_connect).output().unwrap();
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
            // The disk is some time behind.
            if out.contains(shown) {
                Ok(out)
            } else {
                Err(output)
            }
        });
        assert!(!out.contains("stopped"), "{args:?}: {out}");
    }
    // Who can't ask takes the daemon neither for another one nor for one that lost its files; who can't read the
    // folder of all states does not say that there are none.
    for (args, call, why) in [
        (["doctor"], libc::SYS_connect, "cannot ask the daemon"),
        (["ps"], libc::SYS_getdents64, "cannot read"),
    ] {
        let mut command = project.command(bpm());
        command.args(args).stdin(Stdio::null());
        let output = refusing(&mut command, call).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains(why), "{said}");
        for wrong in [
            "bpm stop",
            "files are gone",
            "other daemon",
            "no daemons",
            ": \n",
        ] {
            assert!(!said.contains(wrong), "{said}");
        }
    }
    assert!(lives(daemon));
    project.cli(["status"]).exits(0);
    // Nothing runs: that is learnt from the lock alone.
    project.cli(["stop"]).exits(0);
    let mut command = project.command(bpm());
    command.arg("status");
    assert_eq!(
        refusing(&mut command, libc::SYS_connect)
            .status()
            .unwrap()
            .code(),
        Some(3)
    );
    // A lock that may not be asked says nothing about who holds it.
    for args in [&["-d"][..], &["start"], &["up"], &["stop", "--force"]] {
        let mut command = project.command(bpm());
        command.args(args).stdin(Stdio::null());
        let output = refusing(&mut command, libc::SYS_flock).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        let why = "operation not permitted (a sandbox?)";
        assert!(
            said.contains(why) && !said.contains("--force"),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn daemon_of_a_folder_that_is_gone_is_found() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    let (root, first) = (project.root.clone(), pid(&project));
    // Renamed: found by device and inode, by the old path, and not started a second time.
    let renamed = root.with_file_name("renamed");
    fs::rename(&root, &renamed).unwrap();
    let at = |dir: &Path, args: &[&str]| {
        let mut command = std::process::Command::new(bpm());
        command.current_dir(dir).env("BPM_HOME", project.home());
        command.args(args).stdin(Stdio::null()).output().unwrap()
    };
    let above = root.parent().unwrap();
    let old = root.to_str().unwrap();
    for output in [
        at(&renamed, &["daemon", "status", "--json"]),
        at(above, &["-C", old, "daemon", "status", "--json"]),
    ] {
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&said["verdict"], &said["pid"]),
            (&"running".into(), &first.into())
        );
    }
    let listed = at(above, &["ps"]);
    assert!(
        String::from_utf8_lossy(&listed.stdout).contains("folder gone"),
        "{listed:?}"
    );
    // Removed.
    fs::remove_dir_all(&renamed).unwrap();
    assert!(at(above, &["-C", old, "stop"]).status.success());
    assert!(!lives(first));
    let pruned = at(above, &["ps", "--prune"]);
    assert!(
        String::from_utf8_lossy(&pruned.stdout).contains(old),
        "{pruned:?}"
    );
    assert!(project.state_folder().is_none());
    fs::create_dir(&root).unwrap();
}

#[test]
fn killed_daemon_of_a_folder_that_is_gone_is_pruned() {
    let project = Project::new("");
    project.config("[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\nautostart = false\n");
    project.cli(["-d"]).exits(0);
    murder(pid(&project));
    let root = project.root.clone();
    fs::remove_dir_all(&root).unwrap();
    let pruned = || -> Value {
        let mut command = std::process::Command::new(bpm());
        command.current_dir("/").env("BPM_HOME", project.home());
        let output = command.args(["ps", "--prune", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = pruned();
    assert_eq!(first["removed"][0]["project"], root.to_str().unwrap());
    assert!(project.state_folder().is_none());
    assert_eq!(pruned(), serde_json::json!({"schema": 1, "removed": []}));
    fs::create_dir(&root).unwrap();
}

#[test]
fn daemon_of_the_release_before_a_link_was_switched_is_named() {
    let project = Project::empty();
    let releases = ["1", "2"].map(|n| {
        project.file(
            &format!("releases/{n}/.mcp-run"),
            "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n",
        );
        project.root.join("releases").join(n)
    });
    let current = project.root.join("current");
    let at = |args: &[&str]| {
        let mut command = project.command(bpm());
        command
            .current_dir(&current)
            .env("PWD", &current)
            .args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    std::os::unix::fs::symlink(&releases[0], &current).unwrap();
    assert_eq!(at(&["-d"]).0, Some(0));
    fs::remove_file(&current).unwrap();
    std::os::unix::fs::symlink(&releases[1], &current).unwrap();
    let stop = format!("\"bpm -C {} stop\" stops it", releases[0].display());
    for (args, code) in [(&["restart", "nap"][..], 3), (&["status"], 3), (&["up"], 0)] {
        let (ended, said) = at(args);
        assert_eq!(ended, Some(code), "{args:?}: {said}");
        assert!(said.contains(&stop), "{args:?}: {said}");
    }
    assert!(!at(&["status"]).1.contains(&stop), "a daemon runs here now");
    for root in &releases {
        project.cli(["-C", root.to_str().unwrap(), "stop"]).exits(0);
    }
}
