//! `bpm upgrade` while clients are connected, and what goes over it with the processes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::upgrade::begun;
use crate::common::{Ended, PATIENCE, Project, bpm, eventually};

fn upgrade(p: &Project, name: &str) {
    let program = p.other_build(name);
    p.cli(["upgrade", "--binary", program.to_str().unwrap()])
        .exits(0);
}

/// A connection to the server, and its name.
fn connection(p: &Project) -> (BufReader<TcpStream>, String) {
    let url = p.descriptor()["url"].as_str().unwrap();
    let host = url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .to_owned();
    let stream = TcpStream::connect(&host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (BufReader::new(stream), host)
}

fn health(stream: &mut BufReader<TcpStream>, host: &str) {
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let (mut line, mut length) = (String::new(), 0);
    stream.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line:?}");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let lower = line.to_ascii_lowercase();
        if let Some(number) = lower.strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).unwrap();
}

#[test]
fn idle_connections_half_a_request_and_half_an_answer_go_over_an_upgrade() {
    const LINES: usize = 10_000;
    let mut p = Project::new(&format!(
        "log_disk = \"64M\"\n[process.a]\n\
         command = \"awk 'BEGIN {{ for (n = 0; n < {LINES}; n++) printf \\\"%07d %0300d\\\\n\\\", n, 0 }}'; exec sleep 1000\"\n"
    ));
    p.up();
    p.line("a", "0009999 ");
    let mut idle: Vec<_> = (0..500).map(|_| connection(&p)).collect();
    for (stream, host) in &mut idle {
        health(stream, host);
    }
    let (mut half, host) = connection(&p);
    let body = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call",
        "params": {"name": "get_status", "arguments": {}}})
    .to_string();
    let whole = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (begin, rest) = whole.split_at(whole.len() - 20);
    half.get_mut().write_all(begin.as_bytes()).unwrap();
    // 3 MB that nobody reads yet: they wait in the daemon.
    let mut reader = begun(&p, &["logs", "a", "-n", "10000"]);
    let mut answer = BufReader::new(reader.stdout.take().unwrap());
    let mut first = String::new();
    answer.read_line(&mut first).unwrap();
    for name in ["one", "two"] {
        upgrade(&p, name);
    }
    for (stream, host) in &mut idle {
        health(stream, host);
    }
    half.get_mut().write_all(rest.as_bytes()).unwrap();
    let mut status = String::new();
    half.read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 200"), "{status:?}");
    let lines: Vec<String> = [Ok(first.trim_end().to_owned())]
        .into_iter()
        .chain(answer.lines())
        .map(Result::unwrap)
        .collect();
    assert_eq!(lines.len(), LINES);
    for (n, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{n:07} ")), "{n}: {line}");
    }
    assert!(reader.wait().unwrap().success());
}

#[test]
fn stream_ends_with_the_word_to_call_again() {
    let mut p = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    p.up();
    p.running("a");
    let (mut stream, host) = connection(&p);
    let body = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call",
        "params": {"name": "wait", "arguments": {"process": "a", "for": "exit"}, "_meta": {"progressToken": "t"}}})
    .to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
    }
    assert!(
        head.to_ascii_lowercase().contains("text/event-stream"),
        "{head}"
    );
    upgrade(&p, "one");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("upgrading: call again"), "{rest}");
    assert!(rest.contains("\"retry\":true"), "{rest}");
}

#[test]
fn upgrade_of_all_takes_each_daemon_of_the_user() {
    let mut p = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    p.up();
    p.file(
        "other/.mcp-run",
        "[process.b]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    p.cli(["-C", "other", "-d"]).exits(0);
    let program = p.other_build("one");
    let args = [
        "upgrade",
        "--all",
        "--json",
        "--binary",
        program.to_str().unwrap(),
    ];
    let done: Value = serde_json::from_str(&p.cli(args).exits(0).out).unwrap();
    let mut names: Vec<&str> = done["daemons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            assert_eq!(d["processes"], 1, "{done}");
            d["project"].as_str().unwrap()
        })
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["other", "shop"]);
    // One that can't be upgraded does not keep the others from it, but shows in the exit code.
    let broken = p.root.join("broken");
    fs::write(&broken, "#!/bin/sh\n").unwrap();
    let ended = p
        .cli(["upgrade", "--all", "--binary", broken.to_str().unwrap()])
        .exits(1);
    assert_eq!(ended.err.lines().count(), 2, "{}", ended.err);
    p.cli(["-C", "other", "stop"]).exits(0);
}

#[test]
fn first_process_of_a_container_is_upgraded() {
    let root = nix::unistd::geteuid().is_root();
    let spaces = if root { "-pf" } else { "-rpf" };
    let tried = Command::new("unshare")
        .args([spaces, "--mount-proc", "true"])
        .output();
    if !tried.is_ok_and(|out| out.status.success()) {
        return;
    }
    let p = Project::new(
        "[process.a]\ncommand = [\"sh\", \"-c\", \"echo $$ >> pids; exec sleep 1000\"]\n",
    );
    let program = p.other_build("bpm");
    let mut unshare = p.command("unshare");
    unshare.args([spaces, "--mount-proc"]).arg(&program);
    unshare
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut unshare = unshare.spawn().unwrap();
    eventually(|| match p.read("pids").as_str() {
        "" => Err("not begun"),
        _ => Ok(()),
    });
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let outside: i32 = fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    fs::rename(p.other_build("next"), &program).unwrap();
    let log =
        || fs::read_to_string(p.state_folder().unwrap().join("daemon.log")).unwrap_or_default();
    eventually(|| match log().contains(" serves ") {
        true => Ok(()),
        false => Err(log()),
    });
    kill(Pid::from_raw(outside), Signal::SIGUSR2).unwrap();
    eventually(|| match log().contains("upgraded from") {
        true => Ok(()),
        false => Err(log()),
    });
    assert!(
        log().contains("(pid 1): took over 1 processes"),
        "{}",
        log()
    );
    assert_eq!(p.read("pids").lines().count(), 1, "a was not started again");
    kill(Pid::from_raw(outside), Signal::SIGTERM).unwrap();
    assert!(unshare.wait().unwrap().success());
}

#[test]
fn files_that_change_around_an_upgrade_are_seen_once() {
    let mut p = Project::new(
        "[process.a]\ncommand = [\"sh\", \"-c\", \"cat src/in >> seen; exec sleep 1000\"]\nwatch = [\"src/**\"]\n",
    );
    p.file("src/in", "0\n");
    p.up();
    p.running("a");
    let programs = ["one", "two", "three"].map(|name| p.other_build(name));
    for (n, program) in (1..).zip(&programs) {
        // The change is not due yet when the upgrade begins, or comes during it.
        let script = "echo $1 > src/in; exec \"$0\" upgrade --binary $2";
        let mut command = p.command("sh");
        command
            .args(["-c", script])
            .arg(bpm())
            .arg(n.to_string())
            .arg(program);
        Ended::new(command.output().unwrap()).exits(0);
        eventually(|| match p.read("seen") {
            seen if seen.ends_with(&format!("{n}\n")) => Ok(()),
            seen => Err(seen),
        });
        p.running("a");
    }
    assert_eq!(p.read("seen"), "0\n1\n2\n3\n");
}

#[test]
fn failures_of_a_health_check_are_counted_over_an_upgrade() {
    let mut p = Project::new(
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\n\
         health = { command = [\"false\", \"${api.port}\"], interval_seconds = 0.5, failures = 1000000 }\n\
         [process.api]\ncommand = [\"sleep\", \"1000\"]\nport = \"auto\"\n\
         [process.bad]\ncommand = \"exit 3\"\nrestart = \"never\"\non_event = \"echo $BPM_EVENT >> told\"\n",
    );
    p.up();
    let count = || {
        let reason = p.status("a")["reason"].to_string();
        let times = reason
            .split("failed ")
            .nth(1)
            .and_then(|r| r.split(' ').next());
        times.and_then(|n| n.parse::<u32>().ok()).ok_or(reason)
    };
    let before = eventually(count);
    eventually(|| match p.read("told").is_empty() {
        true => Err("nothing was told"),
        false => Ok(()),
    });
    let told = p.read("told");
    upgrade(&p, "one");
    assert!(eventually(count) >= before);
    upgrade(&p, "two");
    eventually(|| match count() {
        Ok(n) if n > before + 2 => Ok(()),
        other => Err(other),
    });
    assert_eq!(p.read("told"), told, "what was followed is followed once");
}

#[test]
fn order_to_stop_during_an_upgrade_is_not_lost() {
    let mut p = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let programs = ["one", "two"].map(|name| p.other_build(name));
    let rounds = std::env::var("BPM_STOP_ROUNDS").map_or(2, |n| n.parse().unwrap());
    for round in 0..rounds {
        p.up();
        p.running("a");
        let pid = Pid::from_raw(p.pid());
        let program = programs[round % 2].to_str().unwrap();
        let upgrade = begun(&p, &["upgrade", "--binary", program]);
        // At some moment of it: how long a few calls take is another time each round.
        (0..round % 8).for_each(|_| drop(p.http().rpc("ping", json!({}))));
        kill(pid, Signal::SIGTERM).unwrap();
        p.ended();
        upgrade.wait_with_output().unwrap();
    }
}
