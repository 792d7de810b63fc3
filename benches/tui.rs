//! Every bound of the terminal UI, each beside its limit.
//!
//! `cargo bench --features tui --bench tui -- [--quick|--long] [first|keys|lines|rest|flood|memory|size ...]`. With `--long`
//! a flood is watched for minutes. Nothing here fails on a time.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/tui/emulator.rs"]
mod emulator;
#[path = "../tests/tui/pseudo.rs"]
mod pseudo;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use bpm::base::clock::Mono;
use common::{Project, eventually};
use pseudo::{Pseudo, wakes};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);
const SECOND: Duration = Duration::from_secs(1);

type Group = (&'static str, fn(&Bench));

const GROUPS: &[Group] = &[
    ("first", first),
    ("keys", keys),
    ("lines", lines),
    ("rest", rest),
    ("flood", flood),
    ("memory", memory),
    ("size", size),
];

struct Bench {
    quick: bool,
    /// Seconds of each flood.
    flood: u32,
}

impl Bench {
    fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(4) } else { full }
    }
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let (options, names): (Vec<_>, Vec<_>) = args.iter().partition(|a| a.starts_with("--"));
    let given = |name: &str| options.iter().any(|o| *o == name);
    let bench = Bench {
        quick: given("--quick"),
        flood: match (given("--quick"), given("--long")) {
            (true, _) => 2,
            (false, true) => 180,
            (false, false) => 8,
        },
    };
    println!("| what | measured | limit |\n| --- | --- | --- |");
    for (name, run) in GROUPS {
        if names.is_empty() || names.iter().any(|n| n == name) {
            run(&bench);
        }
    }
}

fn row(what: &str, measured: impl std::fmt::Display, limit: &str) {
    println!("| {what} | {measured} | {limit} |");
    let _ = std::io::stdout().flush();
}

fn tui() -> &'static str {
    env!("CARGO_BIN_EXE_bpm-tui")
}

fn ms(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}

/// The value below which this share of them is, in percent.
fn percentile(mut spans: Vec<Duration>, percent: usize) -> Duration {
    spans.sort();
    spans[(spans.len() * percent / 100).min(spans.len() - 1)]
}

fn served(config: &str) -> Project {
    let mut project = Project::new(config);
    project.up();
    project
}

fn naps() -> String {
    let mut text = String::from("[process.a]\ncommand = \"echo hello; exec sleep 10000\"\n");
    for n in 1..10 {
        text += &format!("[process.nap{n}]\ncommand = [\"sleep\", \"10000\"]\n");
    }
    text
}

fn shown(project: &Project, args: &[&str], size: (u16, u16), text: &str) -> Pseudo {
    let mut pseudo = Pseudo::new(project, tui(), args, size);
    let begun = pseudo.begun;
    pseudo.sees(begun, |screen| screen.contains(text));
    pseudo
}

fn first(bench: &Bench) {
    let project = served(&naps());
    project.line("a", "hello");
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(21) {
        let pseudo = shown(&project, &[], SMALL, "hello");
        first.push(pseudo.first.unwrap());
        whole.push(pseudo.begun.elapsed());
    }
    row("launch -> first frame", ms(percentile(first, 50)), "30 ms");
    row(
        "launch -> whole picture",
        ms(percentile(whole, 50)),
        "80 ms",
    );
    for (size, limit) in [(SMALL, "6 KB"), (LARGE, "24 KB")] {
        let mut pseudo = shown(&project, &[], size, "hello");
        pseudo.read_for(Duration::from_millis(100));
        let what = format!("bytes of the first picture, {}x{}", size.0, size.1);
        row(&what, pseudo.seen.len(), limit);
    }
    drop(project);
    let mut started = Vec::new();
    for _ in 0..bench.rounds(8) {
        let project = Project::new(&naps());
        started.push(shown(&project, &[], SMALL, "hello").begun.elapsed());
        project.cli(["stop"]).exits(0);
    }
    row(
        "launch -> whole picture, daemon started first",
        ms(percentile(started, 50)),
        "250 ms",
    );
}

/// From a key to its effect: the cursor of an input.
fn press(pseudo: &mut Pseudo, rounds: usize) -> Vec<Duration> {
    let mut spans = Vec::new();
    for n in 0..rounds {
        // At another point of the second each time.
        pseudo.read_for(Duration::from_millis(130 + (n as u64 * 37) % 200));
        let mark = pseudo.mark();
        let begun = Instant::now();
        pseudo.keys("/");
        spans.push(pseudo.read_until(mark, "\x1b[?25h", begun));
        pseudo.read_for(Duration::from_millis(130));
        pseudo.keys("\x1b");
        pseudo.read_for(Duration::from_millis(120));
    }
    spans
}

fn keys(bench: &Bench) {
    let project = served(&naps());
    let mut pseudo = shown(&project, &[], SMALL, "hello");
    let spans = press(&mut pseudo, bench.rounds(100));
    row(
        "key -> screen at rest, p99",
        ms(percentile(spans, 99)),
        "30 ms",
    );
    drop(pseudo);
    drop(project);
    let project = served("[process.flood]\ncommand = [\"FIXTURE\", \"stamps\", \"50000\"]\n");
    let mut pseudo = shown(&project, &[], SMALL, "follow");
    let spans = press(&mut pseudo, bench.rounds(60));
    row(
        "key -> screen beside 50,000 lines/s, p99",
        ms(percentile(spans, 99)),
        "150 ms",
    );
}

fn lines(bench: &Bench) {
    let config = "[process.say]\ncommand = [\"FIXTURE\", \"relay\", \"fifo\"]\n[process.nap]\ncommand = [\"sleep\", \"10000\"]\nrestart = \"never\"\n";
    let mut project = Project::new(config);
    nix::unistd::mkfifo(&project.root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    project.up();
    project.running("say");
    let mut pseudo = shown(&project, &[], SMALL, "follow");
    let file = project.root.join("said");
    let mut spans = Vec::new();
    for n in 0..bench.rounds(100) {
        pseudo.read_for(Duration::from_millis(150 + (n as u64 * 53) % 150));
        let text = char::from(b'A' + (n % 26) as u8).to_string().repeat(20);
        fs::write(&file, format!("{text}\n")).unwrap();
        let mark = pseudo.mark();
        let begun = Instant::now();
        fs::write(project.root.join("fifo"), format!("1 {}\n", file.display())).unwrap();
        spans.push(pseudo.read_until(mark, &text, begun));
    }
    row(
        "line written -> screen, p50",
        ms(percentile(spans.clone(), 50)),
        "15 ms",
    );
    row(
        "line written -> screen, p99",
        ms(percentile(spans, 99)),
        "150 ms",
    );
    let mut changes = Vec::new();
    for _ in 0..bench.rounds(20) {
        project
            .call("start", serde_json::json!({"process": "nap"}))
            .ok();
        let pid = project.running("nap");
        let begun = Instant::now();
        pseudo.sees(begun, |screen| screen.contains("▶ nap"));
        pseudo.read_for(Duration::from_millis(700));
        let begun = Instant::now();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        changes.push(pseudo.sees(begun, |screen| !screen.contains("▶ nap")));
    }
    row(
        "change of state -> screen, p50",
        ms(percentile(changes.clone(), 50)),
        "100 ms",
    );
    row(
        "change of state -> screen, longest",
        ms(percentile(changes, 100)),
        "",
    );
}

/// Nanoseconds on a processor, of all threads.
fn on_cpu(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let used = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    used.sum()
}

fn percent(nanos: u64, span: Duration) -> f64 {
    nanos as f64 / span.as_nanos() as f64 * 100.0
}

fn rest(bench: &Bench) {
    let span = SECOND * bench.rounds(20) as u32;
    let project = served(&naps());
    let daemon = project.pid() as u32;
    std::thread::sleep(SECOND * 2);
    let (cpu, woken) = (on_cpu(daemon), wakes(daemon));
    std::thread::sleep(span);
    let own = (on_cpu(daemon) - cpu, wakes(daemon) - woken);
    let mut pseudo = shown(&project, &[], SMALL, "hello");
    pseudo.read_for(SECOND * 3);
    let us = pseudo.child.id();
    let (cpu, woken, ours) = (on_cpu(daemon), wakes(daemon), on_cpu(us));
    let bytes = pseudo.read_for(span);
    let more = (on_cpu(daemon) - cpu).saturating_sub(own.0);
    let woken = (wakes(daemon) - woken).saturating_sub(own.1);
    row(
        "CPU at rest, 10 processes: TUI",
        format!("{:.2} %", percent(on_cpu(us) - ours, span)),
        "0.5 %",
    );
    row(
        "the same: daemon beyond its own",
        format!("{:.2} %", percent(more, span)),
        "0.5 %",
    );
    row(
        "the same: its wake-ups/s",
        format!("{:.1}", woken as f64 / span.as_secs_f64()),
        "2.5",
    );
    row("bytes/s at rest", bytes as u64 / span.as_secs(), "600");
    drop(pseudo);
    figures(bench);
}

/// A process that uses more memory from moment to moment: how long its figure stands still.
fn figures(bench: &Bench) {
    let project = served(
        "[process.grows]\ncommand = \"x=aaaaaaaaaaaaaaaa; while sleep 0.1; do x=$x$(printf %0200000d 0); done\"\n",
    );
    let mut pseudo = shown(&project, &[], SMALL, "▶ grows");
    let figure = |screen: &str| {
        let row = screen.lines().find(|line| line.contains("▶ grows"))?;
        Some(row.split('│').nth(1)?.to_owned())
    };
    let mut spans = Vec::new();
    let mut last = figure(&pseudo.screen.text());
    let mut since = None;
    while spans.len() < bench.rounds(12) {
        pseudo.read_for(Duration::from_millis(5));
        let now = figure(&pseudo.screen.text());
        if now != last {
            let begun = since.replace(Instant::now());
            spans.extend(begun.map(|at: Instant| at.elapsed()));
            last = now;
        }
    }
    row("figures, p50", ms(percentile(spans, 50)), "each second");
}

fn flood(bench: &Bench) {
    let span = SECOND * bench.flood;
    let project = served("[process.flood]\ncommand = [\"FIXTURE\", \"stamps\", \"50000\"]\n");
    for (args, size, what, limit) in [
        (&[][..], SMALL, "bytes/s in a flood, 10 fps", "16 KB"),
        (&["--fps", "4"], SMALL, "bytes/s in a flood, 4 fps", "7 KB"),
        (&[], LARGE, "bytes/s in a flood, 200x60", "100 KB"),
    ] {
        let mut pseudo = shown(&project, args, size, "follow");
        pseudo.read_for(SECOND * 2);
        let us = pseudo.child.id();
        let cpu = on_cpu(us);
        let bytes = pseudo.read_for(span);
        row(what, bytes as u64 / span.as_secs(), limit);
        if args.is_empty() {
            let what = format!("CPU beside 50,000 lines/s, {}x{}", size.0, size.1);
            row(
                &what,
                format!("{:.1} %", percent(on_cpu(us) - cpu, span)),
                "25 %",
            );
        }
    }
    let mut pseudo = shown(&project, &[], SMALL, "follow");
    pseudo.read_for(SECOND * 2);
    let (mut oldest, begun) = (0, Instant::now());
    while begun.elapsed() < span {
        pseudo.read_for(Duration::from_millis(10));
        // The newest stamp on the screen, and how old it is.
        let text = pseudo.screen.text();
        let stamps = text
            .split(|c: char| !c.is_ascii_digit())
            .filter(|n| n.len() > 10);
        let newest = stamps
            .filter_map(|n| n.parse::<u64>().ok())
            .max()
            .unwrap_or(0);
        oldest = oldest.max(Mono::now().as_nanos().saturating_sub(newest));
    }
    row(
        "age of the newest line in a flood, longest",
        ms(Duration::from_nanos(oldest)),
        "300 ms",
    );
    let mut ends = Vec::new();
    for _ in 0..bench.rounds(9) {
        drop(pseudo);
        pseudo = shown(&project, &[], SMALL, "follow");
        eventually(|| (!pseudo.takes_more()).then_some(()).ok_or("not full"));
        std::thread::sleep(SECOND);
        pseudo.keys("q");
        ends.push(pseudo.end_within(SECOND * 10).unwrap().0);
    }
    row(
        "q on a terminal that has stopped reading",
        ms(percentile(ends, 50)),
        "200 ms",
    );
    drop(pseudo);
    drop(project);
    let size: usize = if bench.quick { 256 << 20 } else { 1 << 30 };
    let config = format!(
        "[process.flood]\ncommand = [\"FIXTURE\", \"flood\", \"{size}\", \"took\"]\nautostart = false\n"
    );
    let mut project = Project::new(&config);
    project.up();
    let capture = |project: &Project| -> f64 {
        let _ = fs::remove_file(project.root.join("took"));
        project.cli(["restart", "flood"]);
        eventually(|| {
            project
                .read("took")
                .trim()
                .parse::<f64>()
                .map_err(|e| e.to_string())
        })
    };
    let rounds = bench.rounds(5);
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(capture(&project));
        let mut pseudo = shown(&project, &[], SMALL, "flood");
        let reader = std::thread::scope(|scope| {
            let took = scope.spawn(|| capture(&project));
            while !took.is_finished() {
                pseudo.read_for(Duration::from_millis(20));
            }
            took.join().unwrap()
        });
        watched.push(reader);
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (alone, watched) = (median(&mut alone), median(&mut watched));
    row(
        "what capture loses by it",
        format!(
            "{:.0} % ({alone:.2} s, {watched:.2} s)",
            (1.0 - alone / watched) * 100.0
        ),
        "10 %",
    );
}

fn memory(_: &Bench) {
    let project = served("[process.log]\ncommand = [\"FIXTURE\", \"log\", \"10000\"]\n");
    project.line("log", "request     9999");
    for (size, limit) in [(SMALL, "6 MB"), (LARGE, "10 MB")] {
        let mut pseudo = shown(&project, &[], size, "follow");
        pseudo.keys("g");
        let begun = Instant::now();
        pseudo.sees(begun, |screen| screen.contains("request        0"));
        pseudo.read_for(SECOND);
        pseudo.keys("f");
        pseudo.read_for(SECOND);
        let what = format!("RSS with 10,000 lines of 120 bytes, {}x{}", size.0, size.1);
        row(&what, format!("{:.1} MB", pseudo.rss() as f64 / 1e6), limit);
    }
}

fn size(_: &Bench) {
    let bytes = fs::metadata(tui()).unwrap().len();
    row("bpm-tui", format!("{:.2} MB", bytes as f64 / 1e6), "1.6 MB");
    let (without, with) = (crates(&[]), crates(&["--features", "tui"]));
    row("crates with the feature", with.len(), "90");
    let more = with.iter().filter(|name| !without.contains(*name)).count();
    row(
        "... and without it",
        format!("{} ({more} fewer)", without.len()),
        "nothing changes",
    );
}

/// The crates of a build, without those for tests.
fn crates(features: &[&str]) -> BTreeSet<String> {
    let args = [
        "tree",
        "--offline",
        "--prefix",
        "none",
        "-e",
        "normal,build",
    ];
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(features)
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}
