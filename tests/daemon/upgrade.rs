//! `bpm upgrade`: another program takes the process over.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Project, bpm, eventually, fixture, free_port};

/// Two that print numbered lines, one that has a held socket, one that was stopped, one that crashed.
fn project() -> (Project, u16) {
    let port = free_port();
    let p = Project::new(&format!(
        "[process.a]\ncommand = [\"FIXTURE\", \"rate\", \"500\", \"100\"]\n\
         [process.b]\ncommand = [\"FIXTURE\", \"rate\", \"500\", \"100\"]\nlog_disk = 0\nlog_bytes = \"8M\"\nlog_lines = 100000\n\
         [process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"127.0.0.1:{port}\"]\n\
         [process.idle]\ncommand = [\"sleep\", \"1000\"]\n\
         [process.bad]\ncommand = [\"sh\", \"-c\", \"echo bad; exit 3\"]\n\
         restart = \"on-failure\"\n"
    ));
    (p, port)
}

fn upgrade(p: &Project, program: &std::path::Path) -> Value {
    let program = program.to_str().unwrap();
    let ended = p.cli(["upgrade", "--json", "--binary", program]).exits(0);
    serde_json::from_str(&ended.out).unwrap()
}

/// Every number is there, once and in order.
fn assert_numbered(lines: &[String], least: usize) {
    assert!(lines.len() >= least, "{} lines", lines.len());
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line, &format!("line {n}"));
    }
}

fn all_lines(p: &Project, process: &str) -> Vec<String> {
    let ended = p.cli(["logs", process, "-n", "1000000"]).exits(0);
    ended.out.lines().map(String::from).collect()
}

fn remove_and_see_it_come_back(file: &std::path::Path) {
    std::fs::remove_file(file).unwrap();
    eventually(|| std::fs::metadata(file));
}

/// The number that inotify gave last to a watched file of that process; each instance counts from 1.
fn newest_watch(pid: i32) -> u64 {
    let all = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let all = all.filter_map(|info| std::fs::read_to_string(info.ok()?.path()).ok());
    let all: String = all.collect();
    let numbers = all
        .lines()
        .filter_map(|line| line.strip_prefix("inotify wd:")?.split(' ').next());
    let numbers = numbers.map(|hex| u64::from_str_radix(hex, 16).unwrap());
    numbers.max().expect("it watches its files")
}

#[test]
fn upgrade_keeps_processes_lines_numbers_and_events() {
    let (mut p, port) = project();
    p.up();
    p.call("stop", json!({"process": "idle"})).ok();
    let pids = ["a", "b", "web"].map(|name| p.running(name));
    p.status_when("bad", |s| s["crashes"].as_u64() > Some(0));
    let before = p.rpc(
        "tools/call",
        json!({"name": "get_status", "arguments": {"verbose": true}}),
    );
    let events = before["result"]["structuredContent"]["next"].clone();
    let mut http = p.http();
    assert!(!http.call("get_status", json!({})).failed);
    eventually(|| {
        let lines = p.status("a")["log_lines"].as_u64();
        match lines {
            Some(0) => Err("no line yet"),
            _ => Ok(()),
        }
    });
    let pid = p.pid();
    // Its execve must not close the watch of the files by which it is found: close(2) of that waits for the kernel.
    let descriptor = p.state_folder().unwrap().join("daemon.json");
    remove_and_see_it_come_back(&descriptor);
    let watch = newest_watch(pid);
    for name in ["one", "two", "three"] {
        let program = p.other_build(name);
        let done = upgrade(&p, &program);
        assert_eq!(done["pid"], json!(pid), "{done}");
        assert!(done["processes"].as_u64() >= Some(3), "{done}");
        // The connection of before goes on.
        assert!(!http.call("get_status", json!({})).failed);
    }
    assert!(newest_watch(pid) >= watch, "inotify was opened again");
    remove_and_see_it_come_back(&descriptor);
    assert_eq!(["a", "b", "web"].map(|name| p.running(name)), pids);
    for name in ["a", "b", "web"] {
        let status = p
            .call("get_status", json!({"process": name, "verbose": true}))
            .ok();
        assert_eq!(status["processes"][0]["restarts"], json!(0), "{status}");
        let second = json!({"process": name, "index": -2});
        assert!(
            p.call("search_logs", second).failed,
            "{name} has a second run"
        );
    }
    assert_eq!(p.status("idle")["state"], "stopped");
    assert!(p.status("bad")["crashes"].as_u64() > Some(0));
    let since = p
        .call("get_status", json!({"events_since": 0, "verbose": true}))
        .ok();
    let seqs: Vec<u64> = since["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["seq"].as_u64().unwrap())
        .collect();
    assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
    assert!(since["next"].as_u64() > events.as_u64());
    // A connection to the held socket is served.
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    for name in ["a", "b"] {
        assert_numbered(&all_lines(&p, name), 100);
    }
    // The exit codes of its children are still read.
    let stopped = p.call("stop", json!({"process": "a"})).ok();
    assert_eq!(stopped["ok"], true, "{stopped}");
}

#[test]
fn upgrade_to_the_very_same_file_does_nothing() {
    let (mut p, _) = project();
    p.up();
    let ended = p.cli(["upgrade"]).exits(0);
    assert!(ended.out.contains("nothing to do"), "{}", ended.out);
}

#[test]
fn upgrade_by_what_is_no_bpm_changes_nothing() {
    let (mut p, _) = project();
    p.up();
    let pid = p.running("a");
    let truncated = p.root.join("truncated");
    let whole = fs::read(bpm()).unwrap();
    fs::write(&truncated, &whole[..64 << 10]).unwrap();
    let mut foreign = whole;
    (foreign[18], foreign[19]) = (0xf7, 0x7f);
    fs::write(p.root.join("foreign"), foreign).unwrap();
    p.program("script", "#!/bin/sh\necho '{\"version\":\"9\"}'\n");
    p.program("hangs", "#!/bin/sh\nsleep 100\n");
    for name in ["truncated", "foreign"] {
        let path = p.root.join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let cases = [
        ("script".to_owned(), "is a script"),
        ("foreign".to_owned(), "another machine"),
        ("truncated".to_owned(), "cannot upgrade shop"),
        ("/bin/true".to_owned(), "does not answer as bpm does"),
        ("/bin/sleep".to_owned(), "does not answer as bpm does: "),
        (fixture().display().to_string(), "cannot upgrade shop"),
        ("/no/such".to_owned(), "no such file"),
    ];
    for (program, why) in cases {
        let ended = p.cli(["upgrade", "--binary", &program]).exits(1);
        assert!(ended.err.contains(why), "{program}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
    assert_eq!(p.running("a"), pid);
}

#[test]
fn usr2_upgrades_to_the_program_of_the_start() {
    let mut p = Project::new("[process.a]\ncommand = [\"FIXTURE\", \"rate\", \"500\", \"100\"]\n");
    let program = p.other_build("bpm");
    p.command(&program).arg("-d").status().unwrap();
    p.up();
    let pid = p.running("a");
    // Replaced as an installation does it.
    let next = p.other_build("next");
    fs::rename(next, &program).unwrap();
    p.signal(Signal::SIGUSR2);
    eventually(|| {
        let events = p.call("get_status", json!({})).text;
        match events.contains("upgraded from") {
            true => Ok(()),
            false => Err(events),
        }
    });
    assert_eq!(p.running("a"), pid);
    assert_numbered(&all_lines(&p, "a"), 1);
}

/// A command of a person that is under way.
pub fn begun(p: &Project, args: &[&str]) -> std::process::Child {
    let mut command = p.command(bpm());
    command.args(args).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn callers_who_wait_are_answered_once_by_the_next_program() {
    let mut p = Project::new(
        "[process.a]\ncommand = [\"FIXTURE\", \"rate\", \"1000\", \"100\"]\n\
         [process.slow]\ncommand = [\"sh\", \"-c\", \"echo up; sleep 1000\"]\n\
         ready = { command = [\"test\", \"-e\", \"open\"], interval_seconds = 0.05, timeout_seconds = 100 }\n\
         autostart = false\n",
    );
    p.up();
    let pid = p.running("a");
    let wait = begun(
        &p,
        &["wait", "a", "--for", "log", "--pattern", "^line 4000$"],
    );
    let start = begun(&p, &["start", "slow"]);
    let mut follow = begun(&p, &["logs", "-f", "-n", "100000", "a"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "line 0");
    let slow = p.status_when("slow", |s| s["pid"].is_i64())["pid"].clone();
    // Over plain HTTP nobody asks again by himself.
    let mut http = p.http();
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "wait", "arguments": {"process": "slow"}}});
    let body = body.to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    http.send(head.as_bytes());
    http.send(body.as_bytes());
    for name in ["one", "two", "three"] {
        let program = p.other_build(name);
        upgrade(&p, &program);
    }
    let refused = http.response().json();
    assert_eq!(refused["error"]["code"], json!(-32000), "{refused}");
    assert_eq!(refused["error"]["data"]["retry"], json!(true), "{refused}");
    p.file("open", "");
    let started = start.wait_with_output().unwrap();
    assert!(started.status.success(), "{started:?}");
    assert_eq!(p.status("slow")["pid"], slow);
    let waited = wait.wait_with_output().unwrap();
    assert!(waited.status.success(), "{waited:?}");
    let mut seen = vec!["line 0".to_owned()];
    while seen.len() <= 4_000 {
        seen.push(lines.next().unwrap().unwrap());
    }
    assert_numbered(&seen, 4_000);
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(p.running("a"), pid);
}

#[test]
fn builds_are_finished_before_an_upgrade_or_repeated_after_it() {
    let mut p = Project::new(
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\n\
         build = \"echo built >> builds; while ! test -e open; do sleep 0.05; done\"\n",
    );
    p.up();
    let built = |n: usize| {
        eventually(|| {
            let text = p.read("builds");
            match text.lines().count() {
                count if count == n => Ok(()),
                _ => Err(text),
            }
        });
    };
    built(1);
    // Cancelled, and begun once more.
    let one = p.other_build("one");
    let now = p.cli(["upgrade", "--now", "--binary", one.to_str().unwrap()]);
    now.exits(0);
    built(2);
    let two = p.other_build("two");
    let mut finished = begun(&p, &["upgrade", "--binary", two.to_str().unwrap()]);
    // Before the daemon has heard of it another one could come first.
    let mut waits = String::new();
    let mut stderr = std::io::BufReader::new(finished.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut waits).unwrap();
    assert!(waits.contains("waiting for the build of a"), "{waits}");
    let again = p.cli(["upgrade", "--binary", two.to_str().unwrap()]);
    assert!(
        again.err.contains("another upgrade is under way"),
        "{again:?}"
    );
    p.file("open", "");
    let finished = finished.wait_with_output().unwrap();
    assert!(finished.status.success(), "{finished:?}");
    p.running("a");
    assert_eq!(p.read("builds").lines().count(), 2);
}

/// Lets bpm read a state as it is read before an upgrade.
fn read_state(p: &Project, state: &std::path::Path) -> crate::common::Ended {
    let mut command = p.command("sh");
    command.args(["-c", "exec \"$0\" --resume 3 --dry-run 3<\"$1\""]);
    crate::common::Ended::new(command.arg(bpm()).arg(state).output().unwrap())
}

#[test]
fn resume_by_hand_takes_nothing_over() {
    let mut p = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    p.up();
    let (daemon, run) = (p.pid(), p.running("a"));
    let recorded = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/recorded/state-0.1.0.bin"
    );
    for (from, why) in [
        ("3<&-", "its state is not there"),
        ("3</dev/null", "its state is no file"),
        ("3</dev/zero", "its state is no file"),
        ("3<.", "its state is no file"),
        ("3< <(echo bpmstate)", "its state is no file"),
        ("3<.mcp-run", "the state is damaged"),
        ("3<\"$1\"", "not this process"),
    ] {
        let script = format!("exec \"$0\" --resume 3 {from}");
        let mut command = p.command("bash");
        let ended = command
            .args(["-c", &script])
            .arg(bpm())
            .arg(recorded)
            .output();
        crate::common::Ended::new(ended.unwrap())
            .exits(1)
            .says(&["cannot go on as the daemon before", why]);
    }
    assert_eq!((p.pid(), p.running("a")), (daemon, run));
}

#[test]
fn state_of_each_version_is_read_and_a_damaged_one_is_refused() {
    let p = Project::empty();
    let recorded = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut count = 0;
    for entry in fs::read_dir(recorded).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "bin") {
            continue;
        }
        count += 1;
        read_state(&p, &path).exits(0);
        let state = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&state[16..]).into_owned();
        for (from, to, why) in [
            ("\"fleet\":", "\"f1eet\":", "fleet"),
            ("\"records\":", "\"recordz\":", "records"),
            ("\"is\":\"Up\"", "\"is\":\"Ab\"", "is no Want"),
            ("command = [", "commamd = [", "configuration"),
        ] {
            assert!(text.contains(from), "{from}");
            let mut damaged = state.clone();
            let at = damaged
                .windows(from.len())
                .position(|w| w == from.as_bytes());
            let at = at.unwrap();
            damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
            let path = p.root.join("damaged");
            fs::write(&path, damaged).unwrap();
            let ended = read_state(&p, &path).exits(1);
            assert!(ended.err.contains(why), "{from}: {}", ended.err);
        }
    }
    assert!(count > 0);
}

#[test]
fn upgrade_in_the_foreground_prints_each_line_once() {
    let mut p = Project::new("[process.a]\ncommand = [\"FIXTURE\", \"rate\", \"500\", \"2\"]\n");
    p.serve();
    let pid = p.running("a");
    for name in ["one", "two"] {
        let program = p.other_build(name);
        assert_eq!(upgrade(&p, &program)["pid"], json!(p.pid()));
    }
    eventually(|| match p.out().contains("line 999\n") {
        true => Ok(()),
        false => Err(p.out().lines().count()),
    });
    let out = p.out();
    let lines = out.lines().filter_map(|line| line.strip_prefix("[a] "));
    let lines: Vec<String> = lines.map(String::from).collect();
    assert_numbered(&lines, 1_000);
    assert_eq!(p.running("a"), pid);
}

#[test]
fn upgrade_tells_a_service_manager_and_keeps_its_pid() {
    let mut p = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let path = p.root.join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    p.env("NOTIFY_SOCKET", &path);
    p.serve();
    let said = || {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert!(said().contains("READY=1"));
    let program = p.other_build("one");
    upgrade(&p, &program);
    let reloading = said();
    assert!(
        reloading.contains("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(said().contains("READY=1"));
}
