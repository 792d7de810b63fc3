//! Who is connected: proxies, many who say nothing, and who is told of what happens.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use bpm::base::clock::Mono;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::common::{Http, Project, bpm};
use super::{Bench, between, end, hammer, median, ms, resident, row, served, spread, timed};

const NAP: &str = "[process.a]\ncommand = [\"FIXTURE\", \"nap\"]\n";

/// One JSON message a line.
struct Lines<R, W> {
    from: BufReader<R>,
    to: W,
}

impl<R: Read, W: Write> Lines<R, W> {
    fn send(&mut self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.to
            .write_all(format!("{message}\n").as_bytes())
            .unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(method, params);
        let answer = self.next();
        assert!(answer["result"].is_object(), "{answer}");
        answer
    }

    fn shake(&mut self) {
        let client = json!({"name": "bench", "version": "1"});
        let params =
            json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client});
        self.ask("initialize", params);
    }

    /// The median of a trivial tool call, in seconds.
    fn call(&mut self, bench: &Bench) -> f64 {
        let params = json!({"name": "get_status", "arguments": {"process": "a"}});
        let mut once = || timed(|| drop(self.ask("tools/call", params.clone())));
        once();
        median((0..bench.rounds(1_500)).map(|_| once()).collect())
    }
}

fn socket(project: &Project) -> Lines<UnixStream, UnixStream> {
    let path = project.descriptor()["socket"].as_str().unwrap();
    let to = UnixStream::connect(path).unwrap();
    let from = BufReader::new(to.try_clone().unwrap());
    Lines { from, to }
}

type Proxy = (Child, Lines<ChildStdout, ChildStdin>);

fn proxied(project: &Project) -> Proxy {
    let mut command = project.command(bpm());
    command
        .arg("proxy")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let to = child.stdin.take().unwrap();
    let from = BufReader::new(child.stdout.take().unwrap());
    (child, Lines { from, to })
}

pub(super) fn proxy(bench: &Bench) {
    let project = served(NAP);
    let mut starts = Vec::new();
    for _ in 0..bench.rounds(31) {
        let mut spawned = None;
        starts.push(timed(|| {
            let (child, mut lines) = proxied(&project);
            lines.shake();
            lines.ask("tools/list", json!({}));
            spawned = Some(child);
        }));
        end(&mut spawned.unwrap());
    }
    let version = (0..bench.rounds(31)).map(|_| timed(|| drop(project.cli(["--version"]))));
    let version = format!("`bpm --version` {}", ms(median(version.collect())));
    row(
        "proxy: spawn -> tools/list",
        spread(starts),
        version,
        "< 5 ms",
    );

    let direct = socket(&project).call(bench);
    let (mut child, mut lines) = proxied(&project);
    lines.shake();
    let through = lines.call(bench);
    row(
        "proxy: cost of a tool call over the direct one",
        format!("{:.0} us", (through - direct) * 1e6),
        format!("direct, on the socket {:.0} us", direct * 1e6),
        "< 100 us",
    );
    let rss = resident(child.id() as i32);
    row(
        "proxy: RSS",
        format!("{:.2} MB", rss / 1e6),
        "-",
        "< 2.5 MB, static 1.5 MB",
    );
    end(&mut child);

    std::thread::sleep(Duration::from_secs(1));
    let before = resident(project.pid());
    let mut proxies: Vec<Proxy> = (0..100).map(|_| proxied(&project)).collect();
    for (_, lines) in &mut proxies {
        lines.shake();
    }
    let more = resident(project.pid()) - before;
    for (child, _) in &mut proxies {
        end(child);
    }
    row(
        "100 idle proxies: the daemon's memory",
        format!("+{:.2} MB", more / 1e6),
        "-",
        "< +1 MB",
    );
}

pub(super) fn door(bench: &Bench) {
    crowd(bench);
    follower(bench);
    listener(bench);
}

/// A thousand connections that say nothing any more.
fn crowd(bench: &Bench) {
    const IDLE: usize = 1_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let seconds = if bench.quick { 1.0 } else { 3.0 };
    let project = served(NAP);
    let url = project.descriptor()["url"].as_str().unwrap();
    let rate = || hammer(url, 16, seconds, "ping", json!({}));
    let one = || {
        let mut http = project.http();
        let times = (0..bench.rounds(3_000)).map(|_| timed(|| drop(http.rpc("ping", json!({})))));
        median(times.collect())
    };
    let (alone, latency) = (rate(), one());
    let before = resident(project.pid());
    let crowd: Vec<Http> = (0..IDLE)
        .map(|_| {
            let mut http = project.http();
            http.rpc("ping", json!({}));
            http
        })
        .collect();
    let more = resident(project.pid()) - before;
    let (beside, later) = (rate(), one());
    drop(crowd);
    row(
        "1,000 idle connections: memory",
        format!("+{:.2} MB", more / 1e6),
        "-",
        "<= +1 MB",
    );
    row(
        "1,000 idle connections: a `ping` beside them, median",
        format!("{:.0} us, x {:.2}", later * 1e6, later / latency),
        format!("without them {:.0} us", latency * 1e6),
        "x 1.2",
    );
    row(
        "1,000 idle connections: `ping` by 16 others",
        format!("{beside:.0}/s, x {:.2}", alone / beside),
        format!("without them {alone:.0}/s"),
        "x 1.3",
    );
}

/// From a process's write to a follower on the socket. Each line says when it was written.
fn follower(bench: &Bench) {
    let project = served("[process.a]\ncommand = [\"FIXTURE\", \"tick\", \"50\"]\n");
    let mut lines = socket(&project);
    lines.send("bpm/follow", json!({"lines": 0}));
    let mut times = Vec::new();
    while times.len() < bench.rounds(201) {
        let note = lines.next();
        let now = Mono::now();
        let texts = note["params"]["lines"].as_array().unwrap();
        times.extend(
            texts
                .iter()
                .map(|line| now.since(written(line)).as_secs_f64()),
        );
    }
    row(
        "a line written -> a follower on the socket has it",
        spread(times),
        "-",
        "< 2 ms",
    );
}

/// When a line of `fixture tick` was written.
fn written(line: &Value) -> Mono {
    Mono::from_nanos(line["text"].as_str().unwrap().parse().unwrap())
}

/// From a process's write to the event that its log has changed. They come once a second at most.
fn listener(bench: &Bench) {
    let project = served("[process.a]\ncommand = [\"FIXTURE\", \"tick\", \"1500\"]\n");
    let mut follower = socket(&project);
    follower.send("bpm/follow", json!({"lines": 0}));
    let params = json!({
        "notifications": {"resourceSubscriptions": ["bpm://logs/a"]},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    });
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
    let body = body.to_string();
    let address = project.descriptor()["url"].as_str().unwrap();
    let address = address
        .trim_start_matches("http://")
        .trim_end_matches("/mcp");
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut events = BufReader::new(stream).lines();
    let mut times = Vec::new();
    for _ in 0..bench.rounds(9) {
        let told = events.find(|line| line.as_ref().unwrap().contains("resources/updated"));
        told.unwrap().unwrap();
        let now = Mono::now();
        // The first note of a follower may be without lines.
        let line = loop {
            let note = follower.next();
            if let Some(line) = note["params"]["lines"].as_array().unwrap().last() {
                break line.clone();
            }
        };
        times.push(between(written(&line), now.as_nanos()));
    }
    row(
        "a line written -> `updated` on an SSE stream",
        spread(times),
        "-",
        "< 5 ms",
    );
}
