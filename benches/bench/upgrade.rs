//! An upgrade in place under load: how long nobody is answered.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::{Project, bpm};
use super::{Bench, ms, row, sorted, spread, timed};

const COUNT: usize = 20;

/// Asks on fresh connections, one after the other, until it is over: the begin and the end of each request, and how many
/// failed.
fn ask(address: SocketAddr, over: &AtomicBool) -> (Vec<(Instant, Instant)>, usize) {
    let (mut good, mut failed) = (Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match health(address) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => good.push((begun, Instant::now())),
            Ok(_) | Err(_) => failed += 1,
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    (good, failed)
}

fn health(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(super) fn upgrade(bench: &Bench) {
    let config: String = (0..COUNT)
        .map(|n| {
            format!("[process.p{n}]\ncommand = [\"FIXTURE\", \"rate\", \"1000\", \"1000\"]\nlog_disk = \"64M\"\n")
        })
        .collect();
    let mut project = Project::new(&config);
    let programs = ["one", "two"].map(|name| project.other_build(name));
    project.up();
    let pids: Vec<i32> = (0..COUNT)
        .map(|n| project.running(&format!("p{n}")))
        .collect();
    let url = project.descriptor()["url"].as_str().unwrap();
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
    let address = address.replace("localhost", "127.0.0.1").parse().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let client = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || ask(address, &over))
    };
    let pid = project.pid();
    let (mut spans, mut told) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds(100) {
        let program = programs[round % 2].to_str().unwrap();
        let begun = Instant::now();
        let done = project
            .cli(["upgrade", "--json", "--binary", program])
            .exits(0);
        let done: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        told.push(done["ms"].as_f64().unwrap() / 1e3);
        std::thread::sleep(Duration::from_millis(50));
        spans.push((begun, Instant::now()));
    }
    over.store(true, Ordering::Relaxed);
    let (asked, failed) = client.join().unwrap();
    let pauses = spans.iter().map(|(from, to)| {
        let during = asked
            .iter()
            .filter(|(begun, ended)| ended >= from && begun <= to);
        let longest = during.map(|(begun, ended)| ended.duration_since(*begun));
        longest.max().unwrap_or_default().as_secs_f64()
    });
    let pauses = sorted(pauses.collect());
    let after: Vec<i32> = (0..COUNT)
        .map(|n| project.running(&format!("p{n}")))
        .collect();
    assert_eq!(
        (project.pid(), after),
        (pid, pids),
        "nothing was started again"
    );
    let lost = (0..COUNT).filter(|n| !is_numbered(&project, *n)).count();
    let empty = (0..bench.rounds(51))
        .map(|_| timed(|| drop(Command::new(bpm()).arg("--version").output().unwrap())));
    row(
        &format!(
            "{} upgrades, {COUNT} processes of 1,000 lines/s: longest request on a fresh connection",
            spans.len()
        ),
        format!(
            "p50 {}, worst {}; {failed} of {} failed, {lost} logs with lost or doubled lines; told {}",
            ms(pauses[pauses.len() / 2]),
            ms(*pauses.last().unwrap()),
            asked.len() + failed,
            spread(told)
        ),
        format!(
            "an empty run of the same program {}",
            spread(empty.collect())
        ),
        "p50 <= 15 ms, worst <= 60 ms, none failed or lost",
    );
}

/// The files have each line once and in order.
fn is_numbered(project: &Project, process: usize) -> bool {
    let folder = project
        .state_folder()
        .unwrap()
        .join(format!("logs/p{process}"));
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "log"));
    files.sort();
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut lines = text.lines().enumerate();
    // The last one may be half a line.
    let count = text.matches('\n').count();
    lines.all(|(n, line)| n >= count || line == format!("line {n}"))
}
