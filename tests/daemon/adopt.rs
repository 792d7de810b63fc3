//! What a bpm that was killed leaves is taken over by the next one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Project, all_attacks, bpm, eventually, free_port, lives, murder};
use crate::disk::files::Random;

/// Kills bpm and starts the next one.
#[track_caller]
fn killed(project: &mut Project, args: &[&str]) -> String {
    murder(project.pid());
    project.args(args).up();
    let said = project.cli(["daemon", "status", "--json"]).exits(0).out;
    let log = fs::read_to_string(project.state_folder().unwrap().join("daemon.log")).unwrap();
    let found = log.lines().find(|line| line.contains("found what"));
    found.map_or(said, Into::into)
}

/// The bytes of a run in its files.
pub(crate) fn written(project: &Project, process: &str, run: u64) -> String {
    let folder = project.state_folder().unwrap().join("logs").join(process);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
    files.retain(|f| {
        let name = f.file_name().into_string().unwrap();
        name.starts_with(&format!("{run:06}-")) && name.ends_with(".log")
    });
    files.sort_by_key(fs::DirEntry::file_name);
    let text = files.iter().map(|f| fs::read_to_string(f.path()).unwrap());
    text.collect()
}

fn state(project: &Project) -> Value {
    let path = project.state_folder().unwrap().join("state.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn adopted_runs_go_on_and_their_lines_follow_each_other() {
    let mut project = Project::new(
        r#"
[process.one]
command = ["FIXTURE", "rate", "2000", "600"]
[process.other]
command = "n=0; while :; do n=$((n+1)); echo out $n; echo err $n >&2; sleep 0.005; done"
"#,
    );
    project.up();
    let pids = ["one", "other"].map(|name| project.running(name));
    let mut seen = 0;
    let kills = 10;
    for round in 0..kills {
        // The line that is about to come when bpm is killed is another one each time.
        project.line("other", &format!("out {}", 10 + 7 * round));
        let said = killed(&mut project, &[]);
        assert!(
            said.contains(&format!("adopted one (pid {}, up ", pids[0])),
            "{said}"
        );
        for (name, pid) in ["one", "other"].iter().zip(pids) {
            let status = project.status(name);
            assert_eq!(
                (&status["pid"], &status["state"]),
                (&json!(pid), &json!("running"))
            );
            let counts = (&status["restarts"], &status["adopted"], &status["ready"]);
            assert_eq!(counts, (&json!(0), &json!(true), &json!(true)), "{status}");
        }
        let data = project.call(
            "search_logs",
            json!({"process": "one", "tail": 1, "format": "json"}),
        );
        let next = crate::common::log_data(&data)["next"].as_u64().unwrap();
        assert!(next > seen, "{next} after {seen}");
        seen = next;
    }
    project.cli(["stop", "one", "other"]).exits(0);
    // A kill may come between the read of a pipe and the write to the file: it loses that one read, and no more.
    let count = |name, word, first| {
        let text = written(&project, name, 1);
        let numbers = text.lines().filter_map(|line| line.strip_prefix(word));
        let numbers: Vec<u64> = numbers.map(|n| n.parse().unwrap()).collect();
        let gaps = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]);
        assert!(numbers[0] == first && numbers.is_sorted_by(|a, b| a < b));
        assert!(gaps.count() <= kills, "{numbers:?}");
        numbers.len()
    };
    count("other", "out ", 1);
    count("other", "err ", 1);
    let lines = count("one", "line ", 0);
    // Each line has its own number: the number of lines is the last one.
    let data = project.call(
        "search_logs",
        json!({"process": "one", "tail": 1, "format": "json"}),
    );
    let last = crate::common::log_data(&data)["lines"][0]["seq"].as_u64();
    assert_eq!(last, Some(lines as u64));
    let folder = project.state_folder().unwrap().join("logs/one");
    assert!(!folder.join("000002-00.log").exists());
}

#[test]
fn kills_under_load_lose_no_shown_line_and_double_none() {
    let names: Vec<String> = (0..8).map(|n| format!("p{n}")).collect();
    let mut config = String::from("log_disk = \"48M\"\n");
    for name in &names {
        config +=
            &format!("[process.{name}]\ncommand = [\"FIXTURE\", \"rate\", \"1000\", \"3600\"]\n");
    }
    let mut project = Project::new(&config);
    project.up();
    let pids: Vec<i32> = names.iter().map(|name| project.running(name)).collect();
    let rounds = if all_attacks() { 100 } else { 5 };
    let mut random = Random(u64::from(std::process::id()));
    let (mut shown, mut downs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let name = &names[round % names.len()];
        // Some lines more, then what was shown just before the kill.
        let more = 1 + random.below(200);
        let last = |data: &Value| data["lines"][0].clone();
        let newest = || {
            let args = json!({"process": name, "tail": 1, "format": "json"});
            last(&crate::common::log_data(&project.call("search_logs", args)))
        };
        let seq = |line: &Value| line["seq"].as_u64().unwrap_or_default();
        let from = seq(&newest());
        let line = eventually(|| {
            let line = newest();
            (seq(&line) >= from + more as u64)
                .then(|| line.clone())
                .ok_or(line)
        });
        shown.push((name.clone(), line["text"].as_str().unwrap().to_owned()));
        murder(project.pid());
        // Nobody reads its file while it is dead.
        let _ = state(&project);
        let began = Instant::now();
        project.up();
        downs.push(began.elapsed());
    }
    let now: Vec<i32> = names.iter().map(|name| project.running(name)).collect();
    assert_eq!(now, pids);
    project.cli(["stop"]).exits(0);
    let (mut count, mut gaps) = (0, 0);
    for name in &names {
        let (text, mut next) = (written(&project, name, 1), 0);
        let mut of_it = shown.iter().filter(|(of, _)| of == name).peekable();
        for line in text.lines() {
            let number = line.strip_prefix("line ").and_then(|n| n.parse().ok());
            let number = number.filter(|number: &u64| *number >= next);
            let number = number.unwrap_or_else(|| panic!("{name}: {line:?}, not line {next}"));
            // What was read and not written yet when bpm was killed, and not shown either.
            gaps += usize::from(number != next);
            (count, next) = (count + 1, number + 1);
            of_it.next_if(|(_, shown)| shown == line);
        }
        assert_eq!(of_it.next(), None, "{name}: not in its file");
    }
    assert!(gaps <= rounds * names.len(), "{gaps} gaps");
    assert_eq!(project.inhabitants(), []);
    downs.sort();
    println!(
        "{rounds} kills, {count} lines, {gaps} gaps, {} shown before a kill and kept; start after it: median {:?}, longest {:?}",
        shown.len(),
        downs[downs.len() / 2],
        downs[downs.len() - 1]
    );
}

#[test]
fn end_of_an_adopted_process_is_told_with_its_exit_code() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 0\n[process.api]\n\
         command = \"trap 'echo bye; exit 7' USR1; echo up; while :; do sleep 0.05; done\"\n\
         [process.once]\ncommand = \"exec sleep 1000\"\nrestart = \"on-failure\"\n",
    );
    project.up();
    project.line("api", "up");
    let once = project.running("once");
    let pid = project.running("api");
    killed(&mut project, &[]);
    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    let status = project.status_when("api", |s| s["restarts"] == 1);
    let exit = &status["exit"];
    assert_eq!(
        (&exit["code"], &exit["asked"]),
        (&json!(7), &json!(false)),
        "{status}"
    );
    assert_eq!(status["adopted"], false);
    assert!(written(&project, "api", 1).ends_with("bye\n"));
    kill(Pid::from_raw(once), Signal::SIGKILL).unwrap();
    let status = project.status_when("once", |s| s["restarts"] == 1);
    assert_eq!(status["exit"]["signal"], "KILL", "{status}");
}

#[test]
fn adopted_run_is_stopped_with_all_that_it_made() {
    let mut project = Project::new(
        "[process.stubborn]\ncommand = [\"FIXTURE\", \"stubborn\"]\nstop_timeout_seconds = 0.3\n\
         [process.calm]\ncommand = \"trap 'exit 0' TERM; setsid sleep 1000 & while :; do sleep 0.05; done\"\n",
    );
    project.up();
    project.line("stubborn", "stubborn");
    project.running("calm");
    let all = project.inhabitants();
    assert!(all.len() >= 5, "{all:?}");
    killed(&mut project, &[]);
    let stopped = project.call("stop", json!({"process": "stubborn"})).ok();
    assert_eq!(stopped["killed"], 3, "{stopped}");
    project.call("stop", json!({"process": "calm"})).ok();
    assert_eq!(project.inhabitants(), []);
    let again = project.call("start", json!({"process": "calm"})).ok();
    assert_eq!(again["ok"], true, "{again}");
}

#[test]
fn process_that_ended_while_no_bpm_was_there_is_a_crash() {
    let mut project = Project::new("[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    project.up();
    let pid = project.running("nap");
    murder(project.pid());
    murder(pid);
    project.up();
    let status = project.status_when("nap", |s| s["state"] == "running");
    assert_eq!(status["restarts"], 1, "{status}");
    let why = project.cli(["why", "nap"]);
    assert!(why.out.contains("status unknown (adopted)"), "{why:?}");
}

#[test]
fn changed_settings_are_started_anew_and_stopped_stays_stopped() {
    let mut project = Project::new(
        "[process.same]\ncommand = [\"FIXTURE\", \"nap\"]\nstop_timeout_seconds = 3\n\
         [process.changed]\ncommand = [\"FIXTURE\", \"nap\"]\nenv_file = \"vars\"\n\
         [process.gone]\ncommand = [\"FIXTURE\", \"nap\"]\n\
         [process.quiet]\ncommand = [\"FIXTURE\", \"nap\"]\n",
    );
    project.file("vars", "A=1\n");
    project.up();
    let [same, changed, gone, quiet] =
        ["same", "changed", "gone", "quiet"].map(|name| project.running(name));
    project.cli(["stop", "quiet"]).exits(0);
    assert!(!lives(quiet));
    murder(project.pid());
    project.file("vars", "A=2\n");
    project.config(
        "[process.same]\ncommand = [\"FIXTURE\", \"nap\"]\nstop_timeout_seconds = 4\n\
         [process.changed]\ncommand = [\"FIXTURE\", \"nap\"]\nenv_file = \"vars\"\n\
         [process.quiet]\ncommand = [\"FIXTURE\", \"nap\"]\n\
         [process.new]\ncommand = [\"FIXTURE\", \"nap\"]\n",
    );
    project.up();
    let log = fs::read_to_string(project.state_folder().unwrap().join("daemon.log")).unwrap();
    let found = log
        .lines()
        .find(|l| l.contains("found what the daemon (pid "))
        .unwrap();
    for part in [
        &format!("killed) left: adopted same (pid {same}, up ")[..],
        "changed (its settings changed)",
        "gone (it is not in .mcp-run)",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
    assert_eq!(project.running("same"), same);
    assert_ne!(project.running("changed"), changed);
    assert!(!lives(changed) && !lives(gone));
    project.running("new");
    let status = project.status("quiet");
    assert_eq!(
        (&status["state"], &status["pid"]),
        (&json!("stopped"), &Value::Null)
    );
    // Once more, and all of it is stopped first.
    let said = killed(&mut project, &["--fresh"]);
    assert!(said.contains("stopped same (--fresh)"), "{said}");
    assert!(!lives(same));
    for name in ["same", "changed", "quiet", "new"] {
        project.running(name);
        assert_eq!(project.status(name)["adopted"], false);
    }
}

#[test]
fn readiness_health_and_delays_go_on() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 600
release_crash_backoff_max_seconds = 600
[process.web]
command = "touch ready; exec FIXTURE nap"
ready = { command = ["test", "-e", "ready"] }
env = { API = "${api.url}" }
health = { command = ["test", "!", "-e", "sick", "-o", "-z", "${api.port}"], interval_seconds = 0.1, failures = 1 }
[process.api]
command = "exec FIXTURE nap"
port = "auto"
[process.slow]
command = "exec FIXTURE nap"
ready = { command = ["test", "-e", "slow"], timeout_seconds = 600, interval_seconds = 0.1 }
[process.notes]
command = "until [ -e go ]; do sleep 0.05; done; FIXTURE notify READY=1; exec FIXTURE nap"
ready = { notify = true, timeout_seconds = 600 }
[process.bad]
command = "false"
"#,
    );
    project.up();
    let web = project.running("web");
    project.status_when("bad", |s| s["state"] == "crashed");
    project.remove("ready");
    killed(&mut project, &[]);
    assert_eq!(project.running("web"), web);
    // It waits for as long as it would have.
    let bad = project.status("bad");
    assert_eq!(bad["state"], "crashed", "{bad}");
    assert!(
        bad["next_start_in_seconds"].as_f64().unwrap() > 300.0,
        "{bad}"
    );
    for name in ["slow", "notes"] {
        let status = project.status(name);
        let seen = (&status["state"], &status["adopted"]);
        assert_eq!(seen, (&json!("starting"), &json!(true)), "{status}");
    }
    project.file("slow", "");
    project.file("go", "");
    project.running("slow");
    project.running("notes");
    project.file("sick", "");
    project.status_when("web", |s| s["state"] == "crashed" || s["restarts"] == 1);
    assert!(!lives(web));
}

#[test]
fn build_and_task_of_a_killed_bpm_are_not_done_twice() {
    let mut project = Project::new(
        r#"
[process.app]
type = "rust"
[process.seed]
type = "task"
command = "echo seeded >> seeds; setsid sleep 1000 & exit 0"
"#,
    );
    project.fake_cargo();
    project.source("echo up; exec sleep 1000");
    project.up();
    let app = project.running("app");
    project.status_when("seed", |s| s["state"] == "done");
    let left = project.inhabitants();
    // Killed while a build is under way.
    let gate = project.gate();
    let child = project.command(bpm()).args(["restart", "app"]).spawn();
    project.status_when("app", |s| s["build"]["state"] == "running");
    murder(project.pid());
    child.unwrap().wait().unwrap();
    project.up();
    assert_eq!(project.running("app"), app);
    let log = project.cli(["daemon", "logs"]).exits(0).out;
    assert!(log.contains("stopped the build of app"), "{log}");
    assert_eq!(project.status("seed")["state"], "done");
    assert_eq!(project.read("seeds"), "seeded\n");
    gate.open();
    gate.remove();
    // It is built once more, and started.
    let status = project.status_when("app", |s| s["restarts"] == 1 && s["state"] == "running");
    assert_ne!(status["pid"], app);
    // What the task left on purpose is there until bpm stops.
    let sleeps = |all: &[(i32, String)]| all.iter().filter(|(_, c)| c.starts_with("sleep")).count();
    assert_eq!(sleeps(&left), sleeps(&project.inhabitants()));
    project.cli(["stop"]).exits(0);
    eventually(|| match project.inhabitants() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

pub(crate) fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}

pub(crate) const WEB: &str = r#"
[process.web]
command = ["FIXTURE", "serve"]
listen = ["127.0.0.1:PORT"]
ready = { log = "serving" }
swap = "overlap"
"#;

#[test]
fn held_socket_is_taken_over_and_no_connection_is_refused() {
    let port = free_port();
    let mut project = Project::new(&WEB.replace("PORT", &port.to_string()));
    project.file("version", "1");
    project.up();
    let pid = project.running("web");
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let client = std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let answer = get(port);
            assert!(answer.as_ref().is_ok_and(|a| !a.is_empty()), "{answer:?}");
            count += 1;
        }
        count
    });
    killed(&mut project, &[]);
    assert_eq!(project.running("web"), pid);
    let status = project.status("web");
    assert_eq!(status["warnings"], json!([]), "{status}");
    project.file("version", "2");
    project.call("restart", json!({"process": "web"})).ok();
    killed(&mut project, &[]);
    project.call("restart", json!({"process": "web"})).ok();
    done.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 0);
    assert!(get(port).unwrap().starts_with("2 "));
}

#[test]
fn damaged_state_is_moved_aside_and_nothing_runs_twice() {
    let mut project = Project::new("[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    project.up();
    let large = format!("{{\"version\":1,\"pad\":\"{}\"", "x".repeat(16 << 20));
    for damage in [
        "",
        "{\"version\":1,",
        "{\"version\":99}",
        "\u{0}\u{0}",
        &large,
    ] {
        let nap = project.running("nap");
        murder(project.pid());
        let path = project.state_folder().unwrap().join("state.json");
        fs::write(&path, damage).unwrap();
        project.up();
        assert_ne!(project.running("nap"), nap);
        assert!(!lives(nap), "{:?}", &damage[..damage.len().min(20)]);
        assert_eq!(project.inhabitants().len(), 1);
    }
    let folder = project.state_folder().unwrap();
    let aside = fs::read_dir(folder).unwrap().flatten();
    let aside = aside.filter(|f| f.file_name().to_string_lossy().contains("damaged"));
    assert_eq!(aside.count(), 5);
}

#[test]
fn another_boot_is_another_life() {
    let mut project = Project::new("[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    project.up();
    let nap = project.running("nap");
    project.cli(["stop", "nap"]).exits(0);
    murder(project.pid());
    assert!(!lives(nap));
    let path = project.state_folder().unwrap().join("state.json");
    let mut before = state(&project);
    before["daemon"]["boot"] = json!("another");
    fs::write(path, before.to_string()).unwrap();
    project.up();
    project.running("nap");
}

/// A service manager that keeps descriptors.
fn manager(project: &mut Project) -> UnixDatagram {
    let path = project.root.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    project.env("NOTIFY_SOCKET", path.to_str().unwrap());
    manager
}

#[test]
fn sockets_are_kept_by_the_service_manager() {
    let port = free_port();
    let mut project = Project::new(&WEB.replace("PORT", &port.to_string()));
    project.file("version", "1");
    let manager = manager(&mut project);
    project.serve();
    let mut kept = None;
    loop {
        let (text, fds) = received(&manager);
        if text.contains("FDSTORE=1\n") {
            assert!(
                text.contains("FDNAME=web") && text.contains("FDPOLL=0"),
                "{text}"
            );
            kept = fds.into_iter().next();
        }
        if text.contains("READY=1") {
            break;
        }
    }
    let kept = kept.expect("a socket to keep");
    let pid = project.running("web");
    murder(project.pid());
    project.ended();
    // The process can't be asked for its copy: it is gone.
    murder(pid);
    let waiting = std::thread::spawn(move || get(port));
    project.serve_with(&kept, "web");
    assert!(waiting.join().unwrap().unwrap().starts_with("1 "));
    assert!(get(port).unwrap().starts_with("1 "));
}

#[test]
fn terminal_is_kept_by_the_service_manager() {
    let mut project = Project::new(
        "[process.term]\ntty = true\n\
         command = \"n=0; while :; do n=$((n+1)); echo out $n; sleep 0.01; done\"\n",
    );
    let manager = manager(&mut project);
    project.serve();
    let of_terminal = |begin: &str| loop {
        let (text, fds) = received(&manager);
        if text.starts_with(begin) && text.ends_with("FDNAME=tty term 1") {
            break fds;
        }
    };
    let kept = of_terminal("FDSTORE=1\n");
    let pid = project.running("term");
    project.line("term", "out 20");
    for _ in 0..2 {
        murder(project.pid());
        project.ended();
        project.serve_with(&kept[0], "tty term 1");
        assert_eq!(project.running("term"), pid);
        assert_eq!(project.status("term")["adopted"], true);
    }
    let next = written(&project, "term", 1).lines().count() + 20;
    project.line("term", &format!("out {next}"));
    for (line, n) in written(&project, "term", 1).lines().zip(1..) {
        assert_eq!(line, format!("out {n}"));
    }
    project.cli(["stop", "term"]).exits(0);
    of_terminal("FDSTOREREMOVE=1\n");
}

/// A datagram, and the descriptors that came with it.
fn received(socket: &UnixDatagram) -> (String, Vec<std::os::fd::OwnedFd>) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
    let mut bytes = [0; 4096];
    let mut control = nix::cmsg_space!([RawFd; 16]);
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags);
    let got = got.unwrap();
    let mut fds = Vec::new();
    for message in got.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(rights) = message {
            // SAFETY: the kernel has just made them for us.
            #[allow(unsafe_code)]
            fds.extend(
                rights
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let count = got.bytes;
    (String::from_utf8_lossy(&bytes[..count]).into_owned(), fds)
}

#[test]
fn table_of_descriptors_has_room_for_all_runs_from_the_start() {
    let process =
        |n| format!("[process.p{n}]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n");
    let mut project = Project::new(&(0..100).map(process).collect::<String>());
    project.up();
    // Grown beside threads, it holds bpm up, which shows in no system call.
    let status = fs::read_to_string(format!("/proc/{}/status", project.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    let size: usize = size.unwrap().trim().parse().unwrap();
    assert!(size >= 650, "{size}");
}
