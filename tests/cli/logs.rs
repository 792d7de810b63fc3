//! `bpm logs`: merged, filtered, followed over everything that happens to a process and to the daemon.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bpm::os::pty::Pty;

use crate::common::{Project, bpm, eventually, murder, nonblocking_pipe, until_full};
use serde_json::{Value, json};

/// Says `NAME 1` to `NAME 3`, then naps.
const TWO: &str = "[process.api]\ncommand = \"for i in 1 2 3; do echo api $i; done; exec FIXTURE nap\"\n\
                   [process.web]\ncommand = \"echo web out; echo web err >&2; exec FIXTURE nap\"\n";

fn up(config: &str) -> Project {
    let project = Project::new(config);
    project.cli(["up"]).exits(0);
    project
}

/// [`TWO`] once it has printed all that it will: a process may be good before its first line is read.
fn two() -> Project {
    let project = up(TWO);
    eventually(|| match lines(&project, &[]) {
        all if all.len() == 5 => Ok(()),
        some => Err(some),
    });
    project
}

fn lines(project: &Project, args: &[&str]) -> Vec<String> {
    let args = ["logs"].iter().chain(args);
    project
        .cli(args)
        .exits(0)
        .out
        .lines()
        .map(str::to_string)
        .collect()
}

/// What `bpm logs` writes to a terminal, up to the line `end`.
fn on_a_terminal(project: &Project, args: &[&str]) -> String {
    let pty = Pty::open().unwrap();
    let mut child = project
        .command(bpm())
        .arg("logs")
        .args(args)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(pty.terminal)
        .spawn()
        .unwrap();
    let (mut master, mut text) = (std::fs::File::from(pty.master), String::new());
    eventually(|| {
        let mut bytes = [0; 4096];
        if let Ok(n) = master.read(&mut bytes) {
            text.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
        let ended = child.try_wait().unwrap().is_some();
        if ended && text.contains("end") {
            Ok(())
        } else {
            Err(text.clone())
        }
    });
    text
}

struct Follower {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Follower {
    fn new(project: &Project, args: &[&str]) -> Self {
        let mut child = project
            .command(bpm())
            .arg("logs")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        assert!(
            self.out.read_line(&mut line).unwrap() > 0,
            "the follower is gone"
        );
        line.trim_end().to_string()
    }

    /// Ends it, and gives what it said besides lines.
    fn end(mut self) -> String {
        self.child.kill().unwrap();
        let mut err = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        self.child.wait().unwrap();
        err
    }
}

#[test]
fn lines_are_merged_prefixed_and_chosen() {
    let project = two();
    project.cli(["wait", "web", "--timeout", "20"]).exits(0);
    let all = lines(&project, &[]);
    assert_eq!(all.len(), 5, "{all:?}");
    let of_api: Vec<&String> = all.iter().filter(|l| l.starts_with("[api] ")).collect();
    assert_eq!(of_api, ["[api] api 1", "[api] api 2", "[api] api 3"]);
    assert_eq!(lines(&project, &["api"]), ["api 1", "api 2", "api 3"]);
    assert_eq!(lines(&project, &["api", "-n", "1"]), ["api 3"]);
    assert_eq!(lines(&project, &["-n", "2"]).len(), 2);
    assert_eq!(lines(&project, &["web", "--stream", "stderr"]), ["web err"]);
    assert_eq!(
        lines(&project, &["api", "--grep", "[23]$"]),
        ["api 2", "api 3"]
    );
    assert_eq!(
        lines(&project, &["api", "--grep", "API 2", "-i"]),
        ["api 2"]
    );
    assert_eq!(
        lines(&project, &["api", "--grep", "[23]$", "-F"]),
        Vec::<String>::new()
    );
    assert_eq!(lines(&project, &["api", "--grep", "2", "-C", "1"]).len(), 3);
    assert_eq!(
        lines(&project, &["api", "--grep", "1|3", "--context", "0"]),
        ["api 1", "--", "api 3"]
    );
    let all = lines(&project, &["-C", "1"]);
    assert!(!all.contains(&"--".to_string()), "{all:?}");
    assert_eq!(lines(&project, &["api", "--since", "1h"]).len(), 3);
    assert_eq!(
        lines(&project, &["api", "--since", "2100-01-01T00:00:00Z"]),
        Vec::<String>::new()
    );
    let timed = lines(&project, &["api", "-t", "-n", "1"]);
    assert!(
        timed[0].ends_with(" api 3") && timed[0].contains('T'),
        "{timed:?}"
    );
    for line in lines(&project, &["--json"]) {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(line["process"].is_string() && line["seq"].is_u64() && line["text"].is_string());
        assert!(
            line["truncated"] == false && line["partial"] == false,
            "{line}"
        );
    }
    project
        .cli(["logs", "--grep", "("])
        .exits(1)
        .says(&["bpm: "]);
    project.cli(["logs", "--stream", "stdin"]).exits(2);
    project.cli(["logs", "-n", "many"]).exits(2);
    project.cli(["logs", "--since", "nonsense"]).exits(2);
    project.cli(["stop"]).exits(0);
}

#[test]
fn raw_lines_are_the_bytes_that_were_written() {
    let program = "printf 'plain\\n\\033[31mred\\033[0m\\n10%%\\r100%%\\r\\n\\377\\000x\\nopen'; exec FIXTURE nap";
    let project = up(&format!(
        "[process.p]\ncommand = {program:?}\n[process.q]\ncommand = [\"FIXTURE\", \"nap\"]\n"
    ));
    let written = b"plain\n\x1b[31mred\x1b[0m\n10%\r100%\r\n\xff\0x\nopen";
    let shown = |args: &[&str]| {
        let output = project.command(bpm()).arg("logs").args(args).output();
        output.unwrap().stdout
    };
    eventually(|| match shown(&["p", "--raw"]) {
        bytes if bytes == written => Ok(()),
        bytes => Err(bytes),
    });
    assert_eq!(
        shown(&["p", "--raw", "--grep", "^red$"]),
        b"\x1b[31mred\x1b[0m\n"
    );
    let all = shown(&["--raw"]);
    assert!(all.ends_with(b"[p] \xff\0x\n[p] open\n"), "{all:?}");
    let json = shown(&["p", "--json"]);
    let last = json.split(|b| *b == b'\n').rfind(|line| !line.is_empty());
    let last: Value = serde_json::from_slice(last.unwrap()).unwrap();
    assert!(last["partial"] == true && last["seq"].is_null(), "{last}");
    project.cli(["logs", "--raw", "--json"]).exits(2);
    project.cli(["stop"]).exits(0);
    // From disk.
    assert_eq!(shown(&["p", "--raw"]), written);
}

#[test]
fn runs_before_the_newest_can_be_read() {
    let project = up("[process.p]\ncommand = \"echo run $BPM_RUN; exec FIXTURE nap\"\n");
    let first = lines(&project, &["p"]);
    project.cli(["restart", "p"]).exits(0);
    let second = lines(&project, &["p"]);
    assert_ne!(first, second);
    assert_eq!(lines(&project, &["p", "--run", "-2"]), first);
    assert_eq!(lines(&project, &["p", "--run", "0"]), first);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_follower_goes_on_over_crash_restart_reload_and_daemon() {
    let config = "[process.p]\ncommand = \"echo run $BPM_RUN; exec FIXTURE nap\"\n\
                  dev_crash_wait_seconds = 0\n";
    let config = config.replace("dev_crash_wait_seconds = 0\n", "");
    let config =
        format!("dev_crash_wait_seconds = 0\nrelease_crash_backoff_initial_seconds = 0\n{config}");
    let project = up(&config);
    let mut follower = Follower::new(&project, &["-f", "p"]);
    let mut seen = vec![follower.next()];
    let status: Value = serde_json::from_str(&project.cli(["status", "--json"]).out).unwrap();
    murder(status["processes"][0]["pid"].as_i64().unwrap() as i32);
    seen.push(follower.next());
    project.cli(["restart", "p"]).exits(0);
    seen.push(follower.next());
    project.config(&format!(
        "{config}stop_timeout_seconds = 4\nenv = {{ X = \"1\" }}\n"
    ));
    project.cli(["reload"]).exits(0);
    seen.push(follower.next());
    project.cli(["daemon", "restart"]).exits(0);
    seen.push(follower.next());
    project.cli(["stop"]).exits(0);
    project.cli(["up"]).exits(0);
    seen.push(follower.next());
    // Each run once, in order.
    let runs: Vec<u64> = seen
        .iter()
        .map(|l| l.strip_prefix("run ").unwrap().parse().unwrap())
        .collect();
    assert!(runs.windows(2).all(|w| w[0] < w[1]), "{runs:?}");
    let said = follower.end();
    assert_eq!(said.matches("the daemon is gone").count(), 2, "{said}");
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_daemon_that_stops_is_told_once() {
    // Its folder changes several times while it ends.
    let mut project = up(
        "[process.api]\ncommand = \"trap '' TERM; echo up; FIXTURE nap\"\nstop_timeout_seconds = 0.2\n",
    );
    let mut follower = Follower::new(&project, &["-f", "api"]);
    for _ in 0..3 {
        assert_eq!(follower.next(), "up");
        project.cli(["stop"]).exits(0);
        project.up();
    }
    assert_eq!(follower.next(), "up");
    let said = follower.end();
    assert_eq!(said.matches("the daemon is gone").count(), 3, "{said}");
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_search_that_took_too_long_says_so() {
    // Each command may belong to any part of the pattern, and the number that it ends with is never there.
    let mut project =
        Project::new("[process.p]\ncommand = \"FIXTURE flood 60000000; exec FIXTURE nap\"\n");
    project.up();
    project.status_when("p", |s| {
        s["log_lines"].as_u64().unwrap() + s["log_dropped"].as_u64().unwrap() >= 500_000
    });
    let pattern = "(x?){60}(x?){60}(x?){60}[0-9]$";
    project.cli(["stop"]).exits(0);
    let shown = project.cli(["logs", "p", "--grep", pattern]).exits(0);
    assert_eq!(shown.out, "");
    assert!(
        shown
            .err
            .starts_with("bpm: p: the search ended at its time limit after ")
            && shown
                .err
                .lines()
                .nth(1)
                .is_some_and(|l| l.starts_with("hint: ")),
        "{}",
        shown.err
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let project = two();
    for command in [
        "logs",
        "logs -f",
        "logs --json -f",
        "status -w",
        "--help",
        "ps",
        "mcp-config",
    ] {
        let script = format!(
            "{} {command} | head -n 1; echo \"${{PIPESTATUS[0]}}\"",
            bpm().display()
        );
        let output = project
            .command("bash")
            .args(["-c", &script])
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(out.ends_with("\n0\n"), "{command}: {output:?}");
        assert!(output.stderr.is_empty(), "{command}: {output:?}");
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_follower_that_does_not_read_delays_nobody_and_is_told() {
    // More than all pipes and buffers between the process and the follower take.
    let project = Project::new(
        "log_disk = 0\n[process.flood]\ncommand = \"echo begin; read go <gate; FIXTURE flood 6000000; exec FIXTURE nap\"\n",
    );
    nix::unistd::mkfifo(&project.root.join("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    project.cli(["-d"]).exits(0);
    let mut follower = Follower::new(&project, &["-f", "flood"]);
    // Now it follows.
    assert_eq!(follower.next(), "begin");
    project.file("gate", "go\n");
    // The process has written all of it although nobody reads.
    let total = eventually(|| {
        let status = project.cli(["status", "flood", "--json"]).out;
        let status: Value = serde_json::from_str(&status).unwrap();
        let of = |key: &str| status["processes"][0][key].as_u64().unwrap();
        match of("log_lines") + of("log_dropped") {
            written if written > 50_000 => Ok(written - 1),
            written => Err(written),
        }
    });
    // Then it reads, and what was gone by then is told: together it is all, each once.
    let (shown, gone) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&shown);
    let out = follower.out;
    let lines = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            assert_eq!(line.len(), 119);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let count = Arc::clone(&gone);
    let err = BufReader::new(follower.child.stderr.take().unwrap());
    let gaps = std::thread::spawn(move || {
        for line in err.lines().map_while(Result::ok) {
            let n = line
                .strip_prefix('(')
                .and_then(|l| l.strip_suffix(" lines left out)"));
            count.fetch_add(n.expect(&line).parse().unwrap(), Ordering::Relaxed);
        }
    });
    eventually(|| {
        let (shown, gone) = (shown.load(Ordering::Relaxed), gone.load(Ordering::Relaxed));
        match gone > 0 && shown + gone == total {
            true => Ok(()),
            false => Err((shown, gone, total)),
        }
    });
    follower.child.kill().unwrap();
    follower.child.wait().unwrap();
    lines.join().unwrap();
    gaps.join().unwrap();
    project.cli(["stop"]).exits(0);
}

#[test]
fn logs_come_whole_where_the_output_does_not_block() {
    let project = up("[process.many]\ncommand = \"FIXTURE burst 20000; exec FIXTURE nap\"\n");
    eventually(
        || match project.cli(["logs", "many", "-n", "1"]).out.trim() {
            "line 20000" => Ok(()),
            other => Err(other.to_string()),
        },
    );
    let (mut reader, writer) = nonblocking_pipe();
    let kept = writer.try_clone().unwrap();
    let mut child = project
        .command(bpm())
        .args(["logs", "many", "-n", "10000"])
        .stdout(writer)
        .spawn()
        .unwrap();
    until_full(&kept);
    drop(kept);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 10_000);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn colours_are_shown_on_a_terminal_where_the_settings_ask_for_them() {
    let prints =
        r"printf '\\033[31mred\\033[0m\\033]0;title\\007\\n\\033[2Jend\\n'; exec sleep 1000";
    let project = up(&format!(
        "[process.on]\ncolor = true\ncommand = \"{prints}\"\n[process.off]\ncommand = \"{prints}\"\n"
    ));
    let shown = |name: &str| {
        eventually(|| match lines(&project, &[name]).len() {
            2 => Ok(()),
            n => Err(n),
        });
        on_a_terminal(&project, &[name])
    };
    assert_eq!(shown("on"), "\x1b[31mred\x1b[0m\x1b[0m\nend\n");
    assert_eq!(shown("off"), "red\nend\n");
    assert_eq!(lines(&project, &["on"]), ["red", "end"]);
    project.cli(["stop"]).exits(0);
}

/// A daemon that answers hello and ends before the first call.
fn ends_after_hello(folder: &Path, descriptor: &Value) -> std::thread::JoinHandle<()> {
    let socket = folder.join("gone.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut descriptor = descriptor.clone();
    descriptor["socket"] = socket.to_str().unwrap().into();
    std::fs::write(folder.join("daemon.json"), descriptor.to_string()).unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        drop(listener);
        let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
        lines.next().unwrap().unwrap();
        // The descriptor has what it says of itself.
        let hello = json!({"jsonrpc": "2.0", "id": 1, "result": descriptor});
        client.write_all(format!("{hello}\n").as_bytes()).unwrap();
        // The call itself is not answered.
        lines.next();
        std::fs::remove_file(socket).unwrap();
    })
}

#[test]
fn reading_goes_on_from_disk_where_the_daemon_ends_after_hello() {
    let project = up("[process.api]\ncommand = \"echo error: no; exec FIXTURE nap\"\n");
    let folder = project.state_folder().unwrap();
    let descriptor = std::fs::read(folder.join("daemon.json")).unwrap();
    let descriptor: Value = serde_json::from_slice(&descriptor).unwrap();
    project.cli(["stop"]).exits(0);
    for (args, code, shown) in [
        (&["logs", "api"][..], 0, "error: no"),
        (&["logs", "--errors"], 0, "error: no"),
        (&["logs", "--errors", "api"], 0, "error: no"),
        (&["status"], 1, "stale"),
        (&["why", "api"], 3, ""),
    ] {
        let daemon = ends_after_hello(&folder, &descriptor);
        let said = project.cli(args).exits(code);
        daemon.join().unwrap();
        assert!(said.out.contains(shown), "{args:?}: {said:?}");
        assert!(!said.err.contains("gone"), "{args:?}: {said:?}");
    }
    let daemon = ends_after_hello(&folder, &descriptor);
    let mut follower = Follower::new(&project, &["api", "-f"]);
    assert_eq!(follower.next(), "error: no");
    daemon.join().unwrap();
    let mut note = String::new();
    let mut err = BufReader::new(follower.child.stderr.take().unwrap());
    err.read_line(&mut note).unwrap();
    assert!(note.contains("no daemon runs"), "{note}");
    follower.child.kill().unwrap();
    follower.child.wait().unwrap();
    std::fs::remove_file(folder.join("daemon.json")).unwrap();
}
