//! Restarts, crashes and many processes: what who connects sees of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bpm::base::clock::Mono;
use serde_json::json;

use super::common::load::{Load, Served, get};
use super::common::{Project, eventually, free_port, murder};
use super::{
    Bench, between, cpu, exec_time, ms, resident, row, served, sorted, spread, stamps, timed,
};

/// Requests a second, each on a fresh connection.
const RATE: u32 = 2_000;

pub(super) fn swap(bench: &Bench) {
    overlap(bench);
    gap(bench);
    crash(bench);
    two_hundred(bench);
    five_hundred();
}

fn held(swap: &str) -> (Project, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let project = Project::new(&format!(
        "release_crash_backoff_initial_seconds = 0\n[process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"{address}\"]\nready = {{ log = \"serving\" }}\nswap = \"{swap}\"\n"
    ));
    project.file("version", "v");
    (project, address)
}

fn p99(times: Vec<f64>) -> f64 {
    let times = sorted(times);
    times[times.len() * 99 / 100]
}

/// Seconds that the requests begun within one of the spans took.
fn within(served: &Served, spans: &[(Instant, Instant)]) -> Vec<f64> {
    let is = |at: &Instant| spans.iter().any(|(from, to)| from <= at && at <= to);
    let of = served.good.iter().filter(|(at, _)| is(at));
    of.map(|(_, took)| took.as_secs_f64()).collect()
}

fn overlap(bench: &Bench) {
    for swap in ["overlap", "stop-start"] {
        let (mut project, address) = held(swap);
        project.serve();
        project.running("web");
        let mut client = project.http();
        let load = Load::begin(address, RATE);
        let begun = Instant::now();
        load.more(u64::from(RATE) * 2);
        let quiet = (begun, Instant::now());
        let mut swaps = Vec::new();
        for _ in 0..bench.rounds(20) {
            let begun = Instant::now();
            client.call("restart", json!({"process": "web"})).ok();
            // What was accepted by the old one, or waits for the new one.
            load.more(100);
            swaps.push((begun, Instant::now()));
        }
        let served = load.end();
        let (quiet, during) = (within(&served, &[quiet]), within(&served, &swaps));
        let rate = quiet.len() as f64 / 2.0;
        let (quiet, during) = (p99(quiet), p99(during));
        let wanted = match swap {
            "overlap" => "0 failed, p99 < 5 x quiet",
            _ => "0 refused, only delayed",
        };
        row(
            &format!(
                "{} restarts, listen, {swap}, {rate:.0} requests/s on fresh connections",
                swaps.len()
            ),
            format!(
                "{} of {} failed, p99 {} ({:.1} x)",
                served.failed.len(),
                served.failed.len() + served.good.len(),
                ms(during),
                during / quiet
            ),
            format!("quiet p99 {}", ms(quiet)),
            wanted,
        );
    }
}

/// From the order to the successor's first instruction, of a process that ends at once.
fn gap(bench: &Bench) {
    let project = served("[process.a]\ncommand = [\"FIXTURE\", \"stamp\", \"stamps\"]\n");
    project.running("a");
    let file = project.root.join("stamps");
    let mut client = project.http();
    let mut seen = Vec::new();
    let mut told = Vec::new();
    for _ in 0..bench.rounds(9) {
        let before = stamps(&file).len();
        let begun = Mono::now();
        let done = client.call("restart", json!({"process": "a"})).ok();
        told.push(done["gap_seconds"].as_f64().unwrap());
        let (_, at) = stamps(&file)[before];
        seen.push(between(begun, at));
    }
    row(
        "restart, stop-start, of a process that ends at once: order -> successor's first instruction",
        format!("{}; gap told {}", spread(seen), spread(told)),
        format!("fork + exec {}", ms(exec_time(bench))),
        "< 15 ms (goal 5)",
    );
}

fn crash(bench: &Bench) {
    let (mut project, address) = held("overlap");
    project.serve();
    let mut pid = project.running("web");
    let mut times = Vec::new();
    let mut refused = 0;
    for _ in 0..bench.rounds(21) {
        murder(pid);
        times.push(timed(|| refused += i32::from(get(address).is_err())));
        pid = project.status_when("web", |s| s["state"] == "running" && s["pid"] != pid)["pid"]
            .as_i64()
            .unwrap() as i32;
    }
    let quiet: Vec<f64> = (0..200).map(|_| timed(|| drop(get(address)))).collect();
    row(
        "killed -9 with a held socket -> a request made at once is answered",
        format!("{}; {refused} refused", spread(times)),
        format!("a quiet request {}", spread(quiet)),
        "0 refused",
    );
}

fn two_hundred(bench: &Bench) {
    const COUNT: usize = 200;
    let config: String = (0..COUNT)
        .map(|n| format!("[process.p{n}]\ncommand = [\"FIXTURE\", \"stamp\", \"stamps\"]\nautostart = false\n"))
        .collect();
    let project = served(&config);
    let file = project.root.join("stamps");
    let (mut starts, mut start_cpu) = (Vec::new(), 0.0);
    let (mut stops, mut stop_cpu) = (Vec::new(), 0.0);
    let mut left = 0;
    let rounds = bench.rounds(5);
    for _ in 0..rounds {
        let before = stamps(&file).len();
        let url = project.descriptor()["url"].as_str().unwrap().to_string();
        let cpu_before = cpu(project.pid());
        let begun = Mono::now();
        let start = std::thread::spawn(move || {
            super::Http::to(&url)
                .call("start", json!({"process": "*"}))
                .ok()
        });
        let last = eventually(|| {
            let all = stamps(&file);
            match all.len() - before {
                COUNT => Ok(all[before..].iter().map(|(_, at)| *at).max().unwrap()),
                n => Err(n),
            }
        });
        starts.push(between(begun, last));
        start.join().unwrap();
        start_cpu += cpu(project.pid()) - cpu_before;
        let mut client = project.http();
        let cpu_before = cpu(project.pid());
        stops.push(timed(|| {
            drop(client.call("stop", json!({"process": "*"})).ok())
        }));
        stop_cpu += cpu(project.pid()) - cpu_before;
        left += project.inhabitants().len();
    }
    let each = |cpu: f64| cpu / rounds as f64 * 1e3;
    row(
        "200 processes: order -> the last one's first instruction",
        format!(
            "{}, {:.0} ms CPU until all are good",
            spread(starts),
            each(start_cpu)
        ),
        format!("200 x fork + exec {}", ms(exec_time(bench) * COUNT as f64)),
        "<= 0.5 s",
    );
    row(
        "200 processes: stop of all",
        format!(
            "{}, {:.0} ms CPU; {left} left",
            spread(stops),
            each(stop_cpu)
        ),
        "-",
        "<= 0.1 s, none left",
    );
}

fn five_hundred() {
    const COUNT: usize = 500;
    let of = |count: usize| {
        let config: String = (0..count)
            .map(|n| format!("[process.p{n}]\ncommand = [\"FIXTURE\", \"nap\"]\n"))
            .collect();
        let project = served(&config);
        project.status_when(&format!("p{}", count - 1), |s| s["state"] == "running");
        eventually(|| match project.inhabitants().len() {
            all if all == count => Ok(()),
            some => Err(some),
        });
        std::thread::sleep(Duration::from_secs(2));
        let before = cpu(project.pid());
        std::thread::sleep(Duration::from_secs(2));
        let idle = cpu(project.pid()) - before;
        (resident(project.pid()), idle)
    };
    let ((one, _), (all, idle)) = (of(1), of(COUNT));
    row(
        "RSS with 500 idle children",
        format!(
            "{:.2} MB, {:.1} kB each; {:.0} ms CPU in 2 s",
            all / 1e6,
            (all - one) / (COUNT - 1) as f64 / 1e3,
            idle * 1e3
        ),
        format!("with one {:.2} MB", one / 1e6),
        "<= 13 KiB each",
    );
}
