//! Every figure that bpm promises, each beside what this machine can do at best, in the same run.
//!
//! `cargo bench --bench bench -- [--quick] [start|logs|search|disk|http|door|proxy|idle|swap|upgrade|build ...]`.
//! No name: all but `build`. `BPM_BIN` names another binary. Nothing here fails on a time.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "bench/agents.rs"]
mod agents;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "bench/disk.rs"]
mod disk;
#[path = "bench/swap.rs"]
mod swap;
#[path = "bench/upgrade.rs"]
mod upgrade;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bpm::base::clock::Mono;
use common::{Http, Project, bpm, eventually, fixture, log_data, murder};
use serde_json::{Value, json};

type Group = (&'static str, fn(&Bench));

const GROUPS: &[Group] = &[
    ("start", start),
    ("logs", logs),
    ("search", search),
    ("disk", disk::disk),
    ("http", http),
    ("door", agents::door),
    ("proxy", agents::proxy),
    ("idle", idle),
    ("swap", swap::swap),
    ("upgrade", upgrade::upgrade),
    ("build", build),
];

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let (options, names): (Vec<_>, Vec<_>) = args.iter().partition(|a| a.starts_with("--"));
    let bench = Bench {
        quick: options.iter().any(|o| *o == "--quick"),
    };
    let known = |name: &str| GROUPS.iter().any(|(n, _)| *n == name);
    if let Some(odd) = names.iter().find(|n| !known(n)) {
        eprintln!("bench: no group {odd:?}");
        std::process::exit(2);
    }
    println!("{}\n", machine());
    println!("| what | bpm | beside it | wanted |\n| --- | --- | --- | --- |");
    for (name, run) in GROUPS {
        if names.iter().any(|n| n == name) || names.is_empty() && *name != "build" {
            run(&bench);
        }
    }
}

/// How thorough to be.
struct Bench {
    quick: bool,
}

impl Bench {
    /// So many rounds, or a third of them.
    fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(3) } else { full }
    }
}

/// One row. `beside`: what the machine does at best, and how that was measured.
fn row(what: &str, bpm: impl Into<String>, beside: impl Into<String>, wanted: &str) {
    println!("| {what} | {} | {} | {wanted} |", bpm.into(), beside.into());
    let _ = std::io::stdout().flush();
}

// start, crash, stop

fn start(bench: &Bench) {
    let alone = exec_time(bench);
    let limit = format!("fork + exec {}", ms(alone));

    let launches: Vec<f64> = (0..bench.rounds(21)).map(|_| launch()).collect();
    row(
        "launch -> first child's first instruction",
        spread(launches),
        &limit,
        "< 6 ms",
    );
    for others in [0, 100] {
        row(
            &format!("killed -9 -> successor's first instruction, delay 0, {others} others"),
            spread(revivals(bench, others)),
            &limit,
            "< 3 ms",
        );
    }
    let project = served("[process.a]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    let mut client = project.http();
    let stops = (0..bench.rounds(21)).map(|_| {
        client.call("start", json!({"process": "a"})).ok();
        timed(|| drop(client.call("stop", json!({"process": "a"})).ok()))
    });
    row(
        "stop of a process that obeys",
        spread(stops.collect()),
        limit.clone(),
        "",
    );
    drop(project);

    let project =
        served("[process.a]\ncommand = [\"FIXTURE\", \"stubborn\"]\nstop_timeout_seconds = 0.5\n");
    let mut client = project.http();
    let stops = (0..bench.rounds(5)).map(|_| {
        client.call("start", json!({"process": "a"})).ok();
        timed(|| drop(client.call("stop", json!({"process": "a"})).ok())) - 0.5
    });
    row(
        "stop of three that ignore TERM, one in its own session, beyond the stop timeout",
        spread(stops.collect()),
        "-",
        "< 300 ms",
    );

    let version = (0..bench.rounds(51))
        .map(|_| timed(|| drop(Command::new(bpm()).arg("--version").output().unwrap())));
    let version = spread(version.collect());
    let empty = (0..bench.rounds(51)).map(|_| {
        timed(|| {
            drop(
                Command::new(fixture())
                    .args(["burst", "0"])
                    .output()
                    .unwrap(),
            )
        })
    });
    let empty = format!("an empty Rust program {}", spread(empty.collect()));
    row("`bpm --version`, wall", version, &empty, "< 2 ms");
    daemon(bench, &empty);
}

/// `bpm status` and `bpm -d`, where this bpm has them.
fn daemon(bench: &Bench, empty: &str) {
    let project = served("[process.a]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    if project.cli(["status"]).code != Some(0) {
        return;
    }
    let walls = (0..bench.rounds(51)).map(|_| timed(|| drop(project.cli(["status"]))));
    row(
        "`bpm status`, wall",
        spread(walls.collect()),
        empty,
        "< 5 ms",
    );
    drop(project);

    let project = Project::new("[process.a]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    let mut walls = Vec::new();
    for _ in 0..bench.rounds(21) {
        walls.push(timed(|| drop(project.cli(["-d"]).exits(0))));
        project.cli(["stop"]).exits(0);
    }
    row("`bpm -d`, wall", spread(walls), empty, "< 30 ms");
}

/// Seconds from fork to the first instruction of a bare child.
fn exec_time(bench: &Bench) -> f64 {
    let project = Project::empty();
    let file = project.root.join("stamps");
    let times = (0..bench.rounds(21)).map(|n| {
        let begun = Mono::now();
        let mut child = Command::new(fixture())
            .arg("stamp")
            .arg(&file)
            .spawn()
            .unwrap();
        let (_, at) = eventually(|| stamps(&file).get(n).copied().ok_or("no stamp"));
        child.kill().unwrap();
        child.wait().unwrap();
        between(begun, at)
    });
    median(times.collect())
}

/// Seconds from the launch of bpm to the first instruction of its first process.
fn launch() -> f64 {
    let mut project = Project::new("[process.a]\ncommand = [\"FIXTURE\", \"stamp\", \"stamps\"]\n");
    let begun = Mono::now();
    project.serve();
    let file = project.root.join("stamps");
    let (_, at) = eventually(|| stamps(&file).first().copied().ok_or("no stamp"));
    between(begun, at)
}

/// Seconds from a kill to the successor's first instruction. Each victim has lived
/// long enough to count as good.
fn revivals(bench: &Bench, others: usize) -> Vec<f64> {
    const VICTIMS: usize = 10;
    let mut config = String::from("release_crash_backoff_initial_seconds = 0\n");
    for n in 0..VICTIMS {
        config += &format!("[process.v{n}]\ncommand = [\"FIXTURE\", \"stamp\", \"stamps{n}\"]\n");
    }
    for n in 0..others {
        config += &format!("[process.o{n}]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    }
    let project = served(&config);
    let mut times = Vec::new();
    for _ in 0..bench.rounds(6) {
        let pids: Vec<i32> = (0..VICTIMS)
            .map(|n| project.running(&format!("v{n}")))
            .collect();
        for (n, pid) in pids.into_iter().enumerate() {
            let file = project.root.join(format!("stamps{n}"));
            let before = stamps(&file).len();
            let begun = Mono::now();
            murder(pid);
            let (_, at) = eventually(|| stamps(&file).get(before).copied().ok_or("no stamp"));
            times.push(between(begun, at));
        }
    }
    times
}

// logs

fn logs(bench: &Bench) {
    const GIB: u64 = 1 << 30;
    let folder = memory_folder();
    let rate = |seconds: f64| (GIB >> 20) as f64 / seconds;
    let rounds = bench.rounds(5);
    for (what, disk, beside, wanted) in [
        (
            "memory only",
            "0",
            "/dev/null",
            ">= 1,536 MiB/s and half of cat",
        ),
        (
            "files on",
            "\"2G\"",
            "file",
            ">= 1,150 MiB/s, <= 0.66 CPU s",
        ),
    ] {
        let (mut cat, mut seconds, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        // In turns: what else the machine does slows both down.
        for _ in 0..rounds {
            cat.push(rate(flood_into_cat(&folder, GIB, beside)));
            let (took, used) = flood_into_bpm(&folder, GIB, disk);
            seconds.push(took);
            cpu.push(used);
        }
        let cat = median(cat);
        let rate = rate(median(seconds));
        row(
            &format!("1 GiB of 120-byte lines, 64 KiB writes, {what}"),
            format!("{rate:.0} MiB/s, {:.2} CPU s/GiB", median(cpu)),
            format!("cat >{beside} {cat:.0} MiB/s ({:.2} of it)", rate / cat),
            wanted,
        );
    }
    trickle(bench);
}

/// Seconds that the writer took, and CPU seconds of bpm.
fn flood_into_bpm(folder: &Path, bytes: u64, disk: &str) -> (f64, f64) {
    let mut project = Project::below(folder);
    project.config(&format!(
        "passthrough = false\nlog_disk = {disk}\n[process.a]\ncommand = [\"FIXTURE\", \"flood\", \"{bytes}\", \"took\"]\nautostart = false\n"
    ));
    project.serve();
    let before = cpu(project.pid());
    let mut client = project.http();
    client.call("start", json!({"process": "a", "timeout_seconds": 60}));
    let seconds = eventually(|| project.read("took").trim().parse::<f64>());
    (seconds, cpu(project.pid()) - before)
}

fn flood_into_cat(folder: &Path, bytes: u64, into: &str) -> f64 {
    let project = Project::below(folder);
    let out = fs::File::create(project.root.join(into)).unwrap();
    let took = project.root.join("took");
    let mut writer = project
        .command(fixture())
        .args(["flood", &bytes.to_string()])
        .arg(&took)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut cat = Command::new("cat")
        .stdin(writer.stdout.take().unwrap())
        .stdout(out)
        .spawn()
        .unwrap();
    let seconds = eventually(|| project.read("took").trim().parse::<f64>());
    end(&mut writer);
    end(&mut cat);
    seconds
}

/// Twenty processes with a thousand lines a second each, one write a line.
fn trickle(bench: &Bench) {
    const PROCESSES: usize = 20;
    let seconds: u64 = if bench.quick { 3 } else { 10 };
    // The start before, a second to settle, and the looking after it are not what is measured.
    let whole = seconds + 3;
    let mut config = String::from("passthrough = false\nlog_lines = 100000\n");
    for n in 0..PROCESSES {
        config +=
            &format!("[process.p{n}]\ncommand = [\"FIXTURE\", \"rate\", \"1000\", \"{whole}\"]\n");
    }
    let used = |pids: &[i32]| {
        let all = || pids.iter().copied().map(cpu).sum::<f64>();
        std::thread::sleep(Duration::from_secs(1));
        let before = all();
        std::thread::sleep(Duration::from_secs(seconds));
        (all() - before) / seconds as f64 * 100.0
    };
    let project = served(&config);
    for n in 0..PROCESSES {
        project.running(&format!("p{n}"));
    }
    let bpm = used(&[project.pid()]);
    for n in 0..PROCESSES {
        project.status_when(&format!("p{n}"), |s| s["log_lines"] == whole * 1_000);
    }
    drop(project);

    let project = Project::empty();
    let mut pairs: Vec<[Child; 2]> = Vec::new();
    for _ in 0..PROCESSES {
        let mut writer = project
            .command(fixture())
            .args(["rate", "1000", &whole.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let cat = Command::new("cat")
            .stdin(writer.stdout.take().unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        pairs.push([writer, cat]);
    }
    let cats: Vec<i32> = pairs.iter().map(|[_, cat]| cat.id() as i32).collect();
    let cats = used(&cats);
    for [writer, cat] in &mut pairs {
        end(writer);
        end(cat);
    }
    row(
        "20 processes x 1,000 lines/s, nothing lost: CPU of one core",
        format!("{bpm:.1} %"),
        format!("20 cats {cats:.1} %"),
        "< 5 %",
    );
}

// search

fn search(bench: &Bench) {
    const LINES: usize = 100_000;
    let project = served(&format!(
        "passthrough = false\nlog_lines = 200000\nlog_bytes = \"32M\"\n[process.a]\ncommand = [\"FIXTURE\", \"log\", \"{LINES}\"]\n"
    ));
    project.status_when("a", |s| s["log_lines"] == LINES);
    let bytes = {
        let output = Command::new(fixture())
            .args(["log", &LINES.to_string()])
            .stdout(Stdio::piped())
            .spawn();
        let mut child = output.unwrap();
        let mut bytes = vec![0; LINES * 120];
        child.stdout.take().unwrap().read_exact(&mut bytes).unwrap();
        end(&mut child);
        bytes
    };
    let mut client = project.http();
    for (what, pattern, literal, needle, hits, wanted) in [
        (
            "rare literal",
            "the needle is",
            true,
            "the needle is",
            1,
            "1.5 ms",
        ),
        (
            "`error.*timeout`, 1,000 hits",
            "error.*timeout",
            false,
            "timeout",
            1_000,
            "4 ms",
        ),
        (
            "no match",
            "no such thing at all",
            true,
            "no such thing at all",
            0,
            "1.5 ms",
        ),
    ] {
        let args = json!({"process": "a", "pattern": pattern, "literal": literal, "tail": 1, "format": "json"});
        let found = log_data(&client.call("search_logs", args.clone()));
        assert_eq!(found["matches"], hits, "{found}");
        let walls =
            (0..bench.rounds(51)).map(|_| timed(|| drop(client.call("search_logs", args.clone()))));
        let walls = spread(walls.collect());
        let finder = memchr::memmem::Finder::new(needle);
        let bare = (0..bench.rounds(51))
            .map(|_| timed(|| assert_eq!(finder.find_iter(&bytes).count(), hits)));
        let bare = ms(median(bare.collect()));
        row(
            &format!("search of 100,000 lines (12 MB) through a tool call: {what}"),
            walls,
            format!("memmem over the bytes {bare}"),
            wanted,
        );
    }
    let args = json!({"process": "a", "pattern": "(?:.{1,9}){1,9}[!?]{2}", "tail": 1});
    let mut text = String::new();
    let wall = timed(|| text = client.call("search_logs", args).text);
    let word = if text.contains("time limit") {
        "said so"
    } else {
        "did not stop early"
    };
    row(
        "the same, a hostile pattern",
        format!("{}, {word}", ms(wall)),
        "-",
        "its budget, 500 ms",
    );
}

// http

fn http(bench: &Bench) {
    let seconds = if bench.quick { 1.0 } else { 3.0 };
    let project = served("[process.a]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    let url = project.descriptor()["url"].as_str().unwrap().to_string();
    let bare = bare_server();
    for clients in [1, 16, 100] {
        let limit = hammer(&bare, clients, seconds, "ping", json!({}));
        for (what, method, params) in [
            ("`ping`", "ping", json!({})),
            (
                "a tool call (`get_status` of one process)",
                "tools/call",
                json!({"name": "get_status", "arguments": {"process": "a"}}),
            ),
        ] {
            let before = cpu(project.pid());
            let rate = hammer(&url, clients, seconds, method, params);
            let each = (cpu(project.pid()) - before) / (rate * seconds) * 1e6;
            row(
                &format!("{what}, kept alive, {clients} connections"),
                format!("{rate:.0}/s, {each:.0} us CPU each"),
                format!("a thread each that answers the same bytes {limit:.0}/s"),
                "",
            );
        }
    }
}

/// Answers a second by so many clients at once.
fn hammer(url: &str, clients: usize, seconds: f64, method: &str, params: Value) -> f64 {
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let clients: Vec<Http> = (0..clients).map(|_| Http::to(url)).collect();
    let begun = Instant::now();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let request = request.clone();
            std::thread::spawn(move || {
                let mut count = 0.0;
                while begun.elapsed().as_secs_f64() < seconds {
                    assert_eq!(client.post(&request).status, 200);
                    count += 1.0;
                }
                count
            })
        })
        .collect();
    let count: f64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    count / begun.elapsed().as_secs_f64()
}

/// A server that reads until it has seen a request's end and answers the same each time: its URL.
fn bare_server() -> String {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let serve = |mut stream: TcpStream| {
        let _ = stream.set_nodelay(true);
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer) {
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    url
}

// idle

fn idle(bench: &Bench) {
    let seconds = if bench.quick { 5 } else { 20 };
    let nap = |n: usize| format!("[process.n{n}]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    let naps = |count: usize| (0..count).map(nap).collect::<String>();
    let settled = |count: usize| {
        let project = served(&naps(count));
        for n in 0..count {
            project.running(&format!("n{n}"));
        }
        project
    };
    let memory = |count: usize| {
        let rounds = (0..bench.rounds(3)).map(|_| {
            let project = settled(count);
            // What only the start needed is given back after two seconds; the connection of the last
            // question goes too.
            std::thread::sleep(Duration::from_secs(3));
            resident(project.pid())
        });
        median(rounds.collect())
    };
    let one = memory(1);
    let mut bare = Command::new(fixture()).arg("nap").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let alone = resident(bare.id() as i32);
    end(&mut bare);
    row(
        "RSS, idle, one child",
        format!("{:.2} MB", one / 1e6),
        format!("an empty Rust program {:.2} MB", alone / 1e6),
        "< 4 MB",
    );
    for (others, wanted) in [(50, "<= 15 kB"), (500, "<= 13 KiB")] {
        row(
            &format!("RSS for each further child (of {others})"),
            format!("{:.1} kB", (memory(others + 1) - one) / others as f64 / 1e3),
            "-",
            wanted,
        );
    }
    let project = settled(10);
    std::thread::sleep(Duration::from_secs(1));
    let before = switches(project.pid());
    std::thread::sleep(Duration::from_secs(seconds));
    let after = switches(project.pid());
    let sum: u64 = after
        .iter()
        .map(|(thread, count)| count - before.get(thread).unwrap_or(&0))
        .sum();
    // A thread that ended meanwhile woke up for it.
    let ended = before.keys().filter(|t| !after.contains_key(*t)).count() as u64;
    let woken = (sum + ended) as f64 / seconds as f64 * 10.0;
    row(
        "wake-ups in ten seconds, idle, 10 children",
        format!("{woken:.1}"),
        "0",
        "< 1",
    );
}

// build

fn build(_: &Bench) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = memory_folder().join(format!("bpm-build-{}", std::process::id()));
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(root).args(args).env_remove("RUSTFLAGS");
        command
    };
    let before = children_cpu();
    let wall = timed(|| {
        let mut build = cargo(&[
            "build",
            "--release",
            "--quiet",
            "--bin",
            "bpm",
            "--target-dir",
        ]);
        assert!(build.arg(&target).status().unwrap().success());
    });
    let used = children_cpu() - before;
    row(
        "clean `cargo build --release`",
        format!("{wall:.1} s, {used:.1} CPU s"),
        format!("{} cores", std::thread::available_parallelism().unwrap()),
        "< 40 s",
    );
    let tree = cargo(&["tree", "--edges", "normal,build", "--prefix", "none"])
        .output()
        .unwrap();
    let mut crates: Vec<String> = String::from_utf8_lossy(&tree.stdout)
        .lines()
        .filter_map(|l| {
            Some(l.split(' ').take(2).collect::<Vec<_>>().join(" ")).filter(|l| !l.is_empty())
        })
        .collect();
    crates.sort();
    crates.dedup();
    row("crates in the tree", crates.len().to_string(), "-", "<= 40");
    let size = target.join("release/bpm").metadata().unwrap().len() as f64;
    row("binary", format!("{:.2} MB", size / 1e6), "-", "< 1.8 MB");
    fs::remove_dir_all(target).unwrap();
}

// what they have in common

fn served(config: &str) -> Project {
    let mut project = Project::new(config);
    project.serve();
    project
}

/// Pids and times that `fixture stamp` wrote.
fn stamps(file: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let pair = |line: &str| {
        let (pid, at) = line.split_once(' ')?;
        Some((pid.parse().ok()?, at.parse().ok()?))
    };
    // The last line counts once it is whole.
    text.split_inclusive('\n')
        .filter_map(|l| l.strip_suffix('\n').and_then(pair))
        .collect()
}

fn between(begun: Mono, at: u64) -> f64 {
    Mono::from_nanos(at).since(begun).as_secs_f64()
}

fn timed(run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    begun.elapsed().as_secs_f64()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: Vec<f64>) -> f64 {
    let values = sorted(values);
    values[values.len() / 2]
}

/// `1.23 ms (p99 2.00 ms, 21 runs)`.
fn spread(values: Vec<f64>) -> String {
    let values = sorted(values);
    let p99 = values[(values.len() * 99 / 100).min(values.len() - 1)];
    format!(
        "{} (p99 {}, {} runs)",
        ms(values[values.len() / 2]),
        ms(p99),
        values.len()
    )
}

fn ms(seconds: f64) -> String {
    match seconds * 1e3 {
        long @ 100.0.. => format!("{long:.0} ms"),
        short => format!("{short:.2} ms"),
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// CPU seconds of a process, user and system.
fn cpu(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|f| f.parse::<f64>().unwrap())
        .sum();
    // USER_HZ is 100 wherever Linux runs.
    ticks / 100.0
}

/// CPU seconds of children that have been waited for.
fn children_cpu() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6)
        .sum()
}

/// A number in `/proc/.../status`.
fn status_field(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let number = line.and_then(|l| l.trim_start_matches(':').split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Bytes in memory.
fn resident(pid: i32) -> f64 {
    status_field(Path::new(&format!("/proc/{pid}/status")), "VmRSS") as f64 * 1024.0
}

/// How often the threads of a process went to sleep so far: as often they were woken.
fn switches(pid: i32) -> BTreeMap<PathBuf, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flatten()
        .map(|t| {
            let status = t.path().join("status");
            let count = status_field(&status, "voluntary_ctxt_switches");
            (status, count)
        })
        .collect()
}

/// tmpfs where there is room, so that disks don't count.
fn memory_folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let room =
        nix::sys::statvfs::statvfs(shm).map_or(0, |s| s.blocks_available() * s.fragment_size());
    if room > 3 << 30 {
        shm.into()
    } else {
        std::env::temp_dir()
    }
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("an unknown CPU", |l| l.trim_start_matches([' ', '\t', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cpu}, {cores} cores, Linux {}, bpm {}; medians; files on {}",
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        memory_folder().display()
    )
}
