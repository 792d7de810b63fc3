//! Does bpm stay as it is? Thirty processes that log, crash, leave others behind, are built, stopped,
//! started and reloaded at random; twenty clients that search, wait, follow and go away in the middle of it.
//!
//! `cargo bench --bench soak -- [SECONDS [SEED]]`, 600 seconds unless told otherwise. `BPM_BIN` names another
//! binary. Each minute everything comes to rest and bpm is measured: what it has at the end and did not have
//! after the first minute has leaked. Then, and if an answer is missing or odd, this fails.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use common::{Project, bpm};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CLIENTS: usize = 20;
/// What RSS may grow by: the larger of the two. Descriptors and threads may not.
const MARGIN: f64 = 0.10;
const MARGIN_BYTES: u64 = 1 << 20;
/// Longest that bpm may take to be at rest once nobody wants anything.
const REST: Duration = Duration::from_secs(15);

/// A family of processes: its name, how many of it, and what stands in its table.
const FAMILIES: &[(&str, usize, &str)] = &[
    (
        "crash",
        8,
        "command = \"FIXTURE burst 300; echo error: request $$ failed >&2; sleep 0.6; exit 3\"",
    ),
    (
        "steady",
        6,
        "command = [\"FIXTURE\", \"rate\", \"200\", \"100000\"]",
    ),
    ("flood", 3, "command = \"FIXTURE flood 2000000; sleep 0.9\""),
    ("leave", 3, "command = \"FIXTURE leave; sleep 0.7; exit 1\""),
    ("stubborn", 3, "command = [\"FIXTURE\", \"stubborn\"]"),
    (
        "built",
        3,
        "build = \"FIXTURE burst 50; echo warning: unused >&2\"\ncommand = \"FIXTURE burst 5; sleep 1.1; kill -SEGV $$\"",
    ),
    (
        "checked",
        2,
        "command = \"FIXTURE burst 3; exec FIXTURE nap\"\nready.log = \"line 3\"\nhealth.command = [\"true\"]\nhealth.interval_seconds = 0.5",
    ),
    (
        "held",
        2,
        "command = [\"FIXTURE\", \"serve\"]\nlisten = [\"unix:ROOT/NAME.sock\"]\nready.log = \"serving\"",
    ),
];

fn main() {
    let mut numbers = std::env::args().filter_map(|a| a.parse::<u64>().ok());
    let seconds = numbers.next().unwrap_or(600).max(10);
    let seed = numbers.next().unwrap_or(0x9e37_79b9);
    // Five looks at least, or there would be nothing to compare.
    let round = Duration::from_secs_f64((seconds as f64 / 5.0).min(60.0));

    let mut project = Project::empty();
    project.config(&config(&project.root, 0));
    // A daemon: in the foreground HUP would end it.
    project.up();
    let soak = Soak {
        project: &project,
        pace: RwLock::new(()),
        over: AtomicBool::new(false),
        asked: AtomicU64::new(0),
    };
    println!("seed {seed}; at rest, but for \"busy\"\n");
    println!("| s | RSS busy | RSS | descriptors | threads | restarts | asked |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let looks = std::thread::scope(|scope| {
        for n in 0..CLIENTS as u64 {
            let (soak, dice) = (&soak, Dice::new(seed + 1 + n));
            scope.spawn(move || soak.client(n, dice));
        }
        let dice = Dice::new(seed);
        scope.spawn(|| soak.hand(dice));
        // A client that fails must end the others, too.
        let end = End(&soak.over);
        let looks = soak.watch(round, Duration::from_secs(seconds));
        drop(end);
        looks
    });
    drop(project);
    let grown = looks[0].grown(looks.last().unwrap());
    if !grown.is_empty() {
        eprintln!(
            "soak: since the first look there are more of: {}",
            grown.join(", ")
        );
        std::process::exit(1);
    }
    println!("\nnothing has grown");
}

/// The configuration; `turn` changes what the processes of some families are, for a reload.
fn config(root: &Path, turn: u64) -> String {
    let mut text = String::from(
        "passthrough = false\ndev_crash_wait_seconds = 0\nrelease_crash_backoff_initial_seconds = 0\n\
         log_bytes = \"64K\"\nlog_lines = 1000\nlog_disk = \"1M\"\nlog_runs = 5\n",
    );
    for (family, count, keys) in FAMILIES {
        for n in 0..*count {
            let name = format!("{family}{n}");
            let keys = keys
                .replace("NAME", &name)
                .replace("ROOT", &root.display().to_string());
            let turn = if n == 0 { turn % 3 } else { 0 };
            text += &format!(
                "[process.{name}]\n{keys}\nstop_timeout_seconds = 0.3\nenv.TURN = \"{turn}\"\n"
            );
        }
    }
    text
}

fn names() -> Vec<String> {
    let of = |(family, count, _): &(&str, usize, &str)| {
        let family = family.to_string();
        (0..*count).map(move |n| format!("{family}{n}"))
    };
    FAMILIES.iter().flat_map(of).collect()
}

/// Everybody stops when this is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len() as u64) as usize]
    }

    fn process(&mut self) -> String {
        let names = names();
        names[self.below(names.len() as u64) as usize].clone()
    }
}

/// What bpm holds at rest.
struct Look {
    rss: u64,
    descriptors: usize,
    threads: usize,
}

impl Look {
    fn of(pid: i32) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        Self {
            rss: rss(pid),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    /// What there is more of in a later one.
    fn grown(&self, later: &Self) -> Vec<&'static str> {
        let allowed = self.rss + MARGIN_BYTES.max((self.rss as f64 * MARGIN) as u64);
        let all = [
            ("memory", later.rss > allowed),
            ("descriptors", later.descriptors > self.descriptors),
            ("threads", later.threads > self.threads),
        ];
        all.into_iter()
            .filter(|(_, more)| *more)
            .map(|(what, _)| what)
            .collect()
    }
}

fn rss(pid: i32) -> u64 {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages
        * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .unwrap()
            .unwrap() as u64
}

struct Soak<'a> {
    project: &'a Project,
    /// Who wants something of bpm reads; who wants it to be at rest writes.
    pace: RwLock<()>,
    over: AtomicBool,
    asked: AtomicU64,
}

impl Soak<'_> {
    /// Looks once a round, when all is at rest.
    fn watch(&self, round: Duration, span: Duration) -> Vec<Look> {
        let begun = Instant::now();
        let mut looks = Vec::new();
        while begun.elapsed() + round / 2 < span {
            let due = begun + round * (looks.len() as u32 + 1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            assert!(!self.over.load(Ordering::Relaxed), "a client has failed");
            let busy = rss(self.project.pid());
            let rest = self.pace.write().unwrap();
            let restarts = self.restarts();
            self.all("stop");
            let look = self.at_rest(looks.first());
            self.all("start");
            drop(rest);
            println!(
                "| {} | {:.2} MB | {:.2} MB | {} | {} | {restarts} | {} |",
                begun.elapsed().as_secs(),
                busy as f64 / 1e6,
                look.rss as f64 / 1e6,
                look.descriptors,
                look.threads,
                self.asked.load(Ordering::Relaxed),
            );
            looks.push(look);
        }
        looks
    }

    /// What is there once the last connections are noticed to be gone and threads that wait for work have
    /// left: no more than at the `first` look, or all that is there after [`REST`].
    fn at_rest(&self, first: Option<&Look>) -> Look {
        let begun = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let look = Look::of(self.project.pid());
            let rests = first.is_some_and(|f| f.grown(&look).is_empty());
            if rests || begun.elapsed() > REST {
                return look;
            }
        }
    }

    fn all(&self, order: &str) {
        let mut http = self.project.http();
        for process in names() {
            http.call(order, json!({"process": process, "timeout_seconds": 10}));
        }
    }

    /// How often processes were started again, all of them together.
    fn restarts(&self) -> u64 {
        let status = self.project.call("get_status", json!({})).ok();
        let all = status["processes"].as_array().unwrap();
        all.iter().filter_map(|p| p["restarts"].as_u64()).sum()
    }

    /// A turn of somebody who wants something; None: it is over.
    fn turn(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let guard = self.pace.read().unwrap();
        self.asked.fetch_add(1, Ordering::Relaxed);
        (!self.over.load(Ordering::Relaxed)).then_some(guard)
    }

    /// Stops, starts and restarts at random, and reloads.
    fn hand(&self, mut dice: Dice) {
        let _end = End(&self.over);
        let mut turns = 0;
        while let Some(_turn) = self.turn() {
            turns += 1;
            match dice.below(20) {
                0 => {
                    self.project.config(&config(&self.project.root, turns));
                    // It would wait for processes that never live long enough to be good.
                    self.leave_after(&mut dice, "bpm/reload", json!({}));
                }
                1 => self.project.signal(Signal::SIGHUP),
                _ => {
                    let order = dice.one(&["stop", "start", "start", "restart"]);
                    let args = json!({"process": dice.process(), "timeout_seconds": 2});
                    self.project.call(order, args);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first sixteen ask over HTTP, two follow, one listens, one is a shell.
    fn client(&self, n: u64, mut dice: Dice) {
        let _end = End(&self.over);
        while let Some(_turn) = self.turn() {
            match n {
                0..16 => self.ask(&mut dice),
                16..18 => self.follow(&mut dice),
                18 => self.listen(&mut dice),
                _ => self.shell(&mut dice),
            }
            std::thread::sleep(Duration::from_millis(dice.below(40)));
        }
    }

    /// A connection with some calls; the last is at times not waited for.
    fn ask(&self, dice: &mut Dice) {
        let mut http = self.project.http();
        for _ in 0..=dice.below(5) {
            let (tool, args) = question(dice);
            if dice.below(10) > 0 {
                let answer = http.call(tool, args);
                // Early on there are no four runs yet.
                let known = !answer.failed || answer.text.contains("has no run of index");
                assert!(known, "{tool}: {}", answer.text);
                continue;
            }
            let params = json!({"name": tool, "arguments": args, "_meta": {"progressToken": 1}});
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
            let body = body.to_string();
            let length = body.len();
            let request = format!(
                "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            // Half of it at times.
            let sent = length / (1 + dice.below(2) as usize) + request.len() - length;
            http.send(&request.as_bytes()[..sent]);
            return;
        }
    }

    /// Follows over the socket, and leaves in the middle of a line.
    fn follow(&self, dice: &mut Dice) {
        let processes = match dice.below(3) {
            0 => vec![],
            _ => vec![dice.process(), "steady0".into()],
        };
        let params = json!({"processes": processes, "lines": dice.below(500)});
        self.leave_after(dice, "bpm/follow", params);
    }

    /// Subscribes, and leaves.
    fn listen(&self, dice: &mut Dice) {
        let logs = format!("bpm://logs/{}", dice.process());
        let params = json!({
            "notifications": {"resourceSubscriptions": ["bpm://status", logs]},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        });
        self.leave_after(dice, "subscriptions/listen", params);
    }

    fn leave_after(&self, dice: &mut Dice, method: &str, params: Value) {
        let path = self.project.descriptor()["socket"].as_str().unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let begun = Instant::now();
        let mut left = dice.below(100_000);
        let mut buffer = [0; 4096];
        while left > 0 && begun.elapsed() < Duration::from_secs(2) {
            match stream.read(&mut buffer) {
                Ok(n @ 1..) => left = left.saturating_sub(n as u64),
                // Nobody says anything at the moment.
                Err(_) => return,
                Ok(0) => panic!("{method}: the connection was closed"),
            }
        }
    }

    /// The command line.
    fn shell(&self, dice: &mut Dice) {
        let process = dice.process();
        match dice.below(5) {
            0 => drop(self.project.cli(["status", "--json"]).exits(0)),
            1 => drop(self.project.cli(["logs", "-n", "50", &process]).exits(0)),
            2 => drop(self.project.cli(["why", &process])),
            3 => drop(self.project.cli(["ps"]).exits(0)),
            _ => {
                let mut follower = self.project.command(bpm());
                follower.args(["logs", "-f"]);
                follower.stdout(Stdio::piped()).stderr(Stdio::null());
                let mut follower = follower.spawn().unwrap();
                let mut some = vec![0; 1 + dice.below(20_000) as usize];
                follower
                    .stdout
                    .take()
                    .unwrap()
                    .read_exact(&mut some)
                    .unwrap();
                follower.kill().unwrap();
                follower.wait().unwrap();
            }
        }
    }
}

/// A tool and its arguments.
fn question(dice: &mut Dice) -> (&'static str, Value) {
    let process = dice.process();
    let soon = dice.below(500) as f64 / 1e3;
    match dice.below(8) {
        0 => ("get_status", json!({})),
        1 => ("get_errors", json!({"process": process})),
        2 => ("search_build_log", json!({"process": "built0", "tail": 5})),
        3 => {
            let goal = dice.one(&["ready", "exit", "change"]);
            let args = json!({"process": process, "for": goal, "timeout_seconds": soon});
            ("wait", args)
        }
        4 => {
            let args = json!({"process": process, "for": "log", "pattern": "line 29[0-9]", "timeout_seconds": soon});
            ("wait", args)
        }
        5 => {
            let index = -1 - dice.below(4) as i64;
            (
                "search_logs",
                json!({"process": process, "index": index, "tail": 20}),
            )
        }
        _ => {
            let pattern = dice.one(&["line 1.*7", "error", "no such line", "x{3}"]);
            let args =
                json!({"process": process, "pattern": pattern, "context_lines": 2, "head": 30});
            ("search_logs", args)
        }
    }
}
