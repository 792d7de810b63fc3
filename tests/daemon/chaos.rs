//! Upgrades, kills, reloads, restarts, builds and stops in random order, under load, now and then with a full disk or
//! without a descriptor to be had.
//!
//! `BPM_CHAOS_ROUNDS` and `BPM_CHAOS_SEED` choose how much, and which order is repeated. Rounds that somebody asks for are
//! played with twenty processes, otherwise with a few.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::adopt::written;
use crate::common::load::Load;
use crate::common::{PATIENCE, Project, bpm, eventually, free_port, murder};
use crate::disk::files::Random;
use crate::disk::trouble::Mount;

/// Is restarted and stopped now and then.
const SWAYED: &str = "swayed";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How much is played with.
struct Scale {
    rounds: u64,
    /// Processes that print numbered lines and are never restarted, and how many lines each prints in a second.
    steady: usize,
    rate: u32,
    /// Servers on held sockets, and how many requests each gets in a second.
    servers: usize,
    requests: u32,
    followers: usize,
    proxies: usize,
}

impl Scale {
    fn chosen() -> Self {
        match number("BPM_CHAOS_ROUNDS") {
            Some(rounds) => Self {
                rounds,
                steady: 17,
                rate: 1000,
                servers: 2,
                requests: 250,
                followers: 3,
                proxies: 2,
            },
            None => Self {
                rounds: 10,
                steady: 3,
                rate: 500,
                servers: 1,
                requests: 100,
                followers: 1,
                proxies: 1,
            },
        }
    }

    fn steady(&self) -> Vec<String> {
        (1..=self.steady).map(|n| format!("steady-{n}")).collect()
    }

    fn servers(&self) -> Vec<String> {
        (1..=self.servers).map(|n| format!("web-{n}")).collect()
    }
}

fn project(scale: &Scale) -> (Project, Vec<SocketAddr>) {
    let mut config = "log_disk = \"256M\"\n[process.app]\ntype = \"rust\"\n".to_owned();
    let mut addresses = Vec::new();
    for name in scale.servers() {
        let port = free_port();
        config += &format!(
            "[process.{name}]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"127.0.0.1:{port}\"]\n"
        );
        addresses.push(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    for name in scale.steady().iter().map(String::as_str).chain([SWAYED]) {
        let rate = scale.rate;
        config += &format!(
            "[process.{name}]\ncommand = [\"FIXTURE\", \"rate\", \"{rate}\", \"36000\"]\n"
        );
    }
    let mut p = Project::new(&config);
    p.fake_cargo();
    p.source("exec sleep 36000");
    (p, addresses)
}

/// `bpm logs -f` of the first steady process, into that file.
fn follower(p: &Project, into: &str) -> Child {
    let mut command = p.command(bpm());
    command.args(["logs", "-f", "steady-1", "-n", "1000000"]);
    let out = fs::File::create(p.root.join(into)).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(fs::File::create(p.root.join(format!("{into}.err"))).unwrap());
    command.spawn().unwrap()
}

/// An agent whose call always waits.
struct Waiting {
    over: Arc<AtomicBool>,
    calls: JoinHandle<u64>,
}

impl Waiting {
    fn begin(p: &Project) -> Self {
        let mut command = p.command(bpm());
        command.arg("proxy").stderr(Stdio::null());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut proxy = command.spawn().unwrap();
        let (mut to, from) = (proxy.stdin.take().unwrap(), proxy.stdout.take().unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
                // What it tells by itself has no number.
                if !answer["id"].is_null() {
                    let _ = tell.send(answer);
                }
            }
        });
        let calls = std::thread::spawn(move || {
            let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
            writeln!(to, "{hello}").unwrap();
            assert_eq!(told.recv_timeout(PATIENCE).unwrap()["id"], 0);
            let mut id = 0;
            while !is_over.load(Ordering::Relaxed) {
                id += 1;
                let arguments = json!({"process": "steady-1", "for": "log", "pattern": "never", "timeout_seconds": 1});
                let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
                    "params": {"name": "wait", "arguments": arguments}});
                writeln!(to, "{call}").unwrap();
                // Once, with a result or with a sentence that says what became of it.
                let answer = told.recv_timeout(PATIENCE).unwrap();
                assert_eq!(answer["id"], id, "{answer}");
                let text = answer["result"]["content"][0]["text"].as_str();
                let text = text.or(answer["error"]["message"].as_str());
                assert!(text.is_some_and(|text| !text.is_empty()), "{answer}");
            }
            drop(to);
            assert!(proxy.wait().unwrap().success());
            assert!(told.recv_timeout(PATIENCE).is_err(), "an answer too many");
            id
        });
        Self { over, calls }
    }

    /// How many calls were answered.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.calls.join().unwrap()
    }
}

/// Takes all room of a file system until it is dropped.
struct Ballast(std::path::PathBuf);

impl Ballast {
    fn fill(folder: &Path) -> Self {
        let path = folder.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How many descriptors that process has.
fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Sets how many descriptors that process may have; true if that could be done.
fn limit_descriptors(pid: i32, soft: usize) -> bool {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={pid}"));
    let done = command.arg(format!("--nofile={soft}:")).output();
    done.is_ok_and(|output| output.status.success())
}

/// Each number once and in order. A kill may lose what bpm had just read and not written yet: a gap, once.
#[track_caller]
fn assert_numbered(what: &str, text: &str, kills: usize) {
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    assert!(!whole.is_empty(), "{what}: no line");
    let number = |line: &str| line.strip_prefix("line ")?.parse::<usize>().ok();
    let (mut next, mut gaps) = (0, 0);
    for line in whole.lines() {
        let Some(found) = number(line).filter(|found| *found >= next) else {
            panic!("{what}: {line:?} instead of line {next}");
        };
        gaps += usize::from(found != next);
        next = found + 1;
    }
    assert!(gaps <= kills, "{what}: {gaps} gaps, {kills} kills");
}

/// Where the lines of the follower and of the file differ first, with what stands around it.
fn difference(followed: &str, whole: &str) -> String {
    let (ours, theirs): (Vec<_>, Vec<_>) = (followed.lines().collect(), whole.lines().collect());
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let around = |lines: &[&str]| {
        let end = lines.len().min(same + 6);
        format!(
            "{} lines, {:?}",
            lines.len(),
            &lines[same.saturating_sub(3)..end]
        )
    };
    format!(
        "line {same}: followed {}; in the file {}",
        around(&ours),
        around(&theirs)
    )
}

#[test]
fn chaos_loses_no_line_no_request_and_no_process() {
    let scale = Scale::chosen();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
    };
    let seed = number("BPM_CHAOS_SEED").unwrap_or_else(now).max(1);
    println!("BPM_CHAOS_SEED={seed}, {} rounds", scale.rounds);
    let mut random = Random(seed);
    let (mut p, addresses) = project(&scale);
    // Only root has a file system to fill.
    let mount = Mount::new(&p.home(), "size=2g,mode=700");
    p.up();
    let kept: Vec<String> = scale.servers().into_iter().chain(scale.steady()).collect();
    let running = |p: &Project| -> Vec<i32> { kept.iter().map(|name| p.running(name)).collect() };
    let pids = running(&p);
    p.running(SWAYED);
    p.running("app");
    let inhabitants = p.inhabitants().len();
    let had = descriptors(p.pid());
    let loads: Vec<Load> = addresses
        .iter()
        .map(|a| Load::begin(*a, scale.requests))
        .collect();
    let load = &loads[0];
    let followed: Vec<String> = (1..=scale.followers)
        .map(|n| format!("followed-{n}"))
        .collect();
    let mut followers: Vec<Child> = followed.iter().map(|into| follower(&p, into)).collect();
    let proxies: Vec<Waiting> = (0..scale.proxies).map(|_| Waiting::begin(&p)).collect();
    let (mut restarts, mut up, mut kills, mut full) = (0, true, 0, 0);
    let upgrade = |p: &Project, program: &Path| {
        p.cli(["upgrade".as_ref(), "--binary".as_ref(), program.as_os_str()])
    };
    for round in 0..scale.rounds {
        load.more(5);
        match random.below(10) {
            0 => {
                let program = p.other_build(&format!("bpm-{round}"));
                // A reload may be under way still.
                eventually(|| match upgrade(&p, &program) {
                    ended if ended.code == Some(0) => Ok(()),
                    ended => Err(ended),
                });
                fs::remove_file(program).unwrap();
            }
            1 => {
                kills += 1;
                murder(p.pid());
                p.up();
            }
            // Killed while it is taken over.
            2 => {
                kills += 1;
                let program = p.other_build(&format!("bpm-{round}"));
                let mut command = p.command(bpm());
                command.args(["upgrade", "--binary"]).arg(&program);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                let mut upgrade = command.spawn().unwrap();
                load.more(random.below(20) as u64);
                murder(p.pid());
                upgrade.wait().unwrap();
                fs::remove_file(program).unwrap();
                p.up();
            }
            3 => kill(Pid::from_raw(p.pid()), Signal::SIGHUP).unwrap(),
            // A build that may be under way still in what comes next.
            4 => {
                p.source(&format!("exec sleep {}", 40_000 + round));
                p.call("restart", json!({"process": "app", "timeout_seconds": 0}));
            }
            // Done or refused with a reason; nothing is lost by either.
            5 if mount.is_some() => {
                full += 1;
                let program = p.other_build(&format!("bpm-{round}"));
                let ballast = Ballast::fill(&p.home());
                load.more(20);
                let ended = upgrade(&p, &program);
                assert!(
                    ended.code == Some(0) || ended.err.starts_with("bpm: "),
                    "{ended:?}"
                );
                drop(ballast);
                fs::remove_file(program).unwrap();
                for name in scale.steady() {
                    p.status_when(&name, |s| s["log_trouble"].is_null());
                }
            }
            6 => {
                let program = p.other_build(&format!("bpm-{round}"));
                let pid = p.pid();
                if limit_descriptors(pid, descriptors(pid) + random.below(4)) {
                    let mut command = p.command(bpm());
                    command.args(["upgrade", "--binary"]).arg(&program);
                    command.stdout(Stdio::null()).stderr(Stdio::null());
                    let mut upgrade = command.spawn().unwrap();
                    load.more(20);
                    assert!(limit_descriptors(pid, 1024));
                    upgrade.wait().unwrap();
                }
                fs::remove_file(program).unwrap();
            }
            7 if up => {
                p.cli(["restart", SWAYED]).exits(0);
                restarts += 1;
            }
            8 if up => {
                p.cli(["stop", SWAYED]).exits(0);
                up = false;
            }
            _ => {
                p.cli(["start", SWAYED]).exits(0);
                restarts += u64::from(!up);
                up = true;
            }
        }
        assert_eq!(running(&p), pids, "round {round}");
    }
    for load in loads {
        let served = load.end();
        assert!(served.failed.is_empty(), "{:?}", served.failed);
        assert_eq!(served.bodies.len(), 1, "{:?}", served.bodies);
    }
    for proxy in proxies {
        assert!(proxy.end() > 0);
    }
    for name in &kept {
        let status = p.status(name);
        let counts = (&status["restarts"], &status["crashes"]);
        assert_eq!(counts, (&json!(0), &json!(0)), "{status}");
    }
    assert_eq!(p.status(SWAYED)["restarts"], json!(restarts));
    p.cli(["start", SWAYED]).exits(0);
    p.running("app");
    // Nothing runs twice, and nothing is held that is of no use.
    eventually(|| match p.inhabitants() {
        all if all.len() == inhabitants + scale.followers => Ok(()),
        all => Err(all),
    });
    let names = scale.steady();
    let names = names.iter().map(String::as_str).chain([SWAYED]);
    p.cli(["stop"].into_iter().chain(names)).exits(0);
    eventually(|| match descriptors(p.pid()) {
        has if has <= had => Ok(()),
        has => Err(format!("{has} descriptors, {had} at first")),
    });
    // A full disk makes gaps in the files, where a disk with room again ends them.
    let gaps = kills + 16 * full;
    for name in scale.steady() {
        assert_numbered(&name, &written(&p, &name, 1), gaps);
    }
    for run in 1..=restarts + 1 {
        assert_numbered(SWAYED, &written(&p, SWAYED, run), gaps);
    }
    let whole = written(&p, "steady-1", 1);
    for (into, mut follower) in followed.iter().zip(followers.drain(..)) {
        eventually(|| {
            let followed = p.read(into);
            match followed == whole || full > 0 && followed.lines().last() == whole.lines().last() {
                true => Ok(()),
                false => Err(difference(&followed, &whole)),
            }
        });
        assert_numbered(into, &p.read(into), gaps);
        follower.kill().unwrap();
        follower.wait().unwrap();
    }
    p.cli(["stop"]).exits(0);
}

#[test]
fn follower_that_begins_beside_a_takeover_sees_each_line_once() {
    let (mut p, _) = project(&Scale::chosen());
    p.up();
    p.running("steady-1");
    for round in 0..number("BPM_CHAOS_ROUNDS").unwrap_or(10) {
        murder(p.pid());
        let mut follower = follower(&p, "followed");
        p.up();
        let before = written(&p, "steady-1", 1).len();
        let followed = eventually(|| {
            let followed = p.read("followed");
            if followed.len() > before {
                Ok(followed)
            } else {
                let ended = follower.try_wait().unwrap();
                Err((followed.len(), before, ended, p.read("followed.err")))
            }
        });
        follower.kill().unwrap();
        follower.wait().unwrap();
        let end = followed.rfind('\n').map_or(0, |end| end + 1);
        let (followed, whole) = (&followed[..end], written(&p, "steady-1", 1));
        assert!(
            whole.contains(followed),
            "round {round}: {}",
            difference(followed, &whole)
        );
    }
}
