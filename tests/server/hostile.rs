//! Clients that mean harm, or are broken. None of them harms another one, memory and threads stay
//! bounded, and afterwards everything is as before.
//!
//! The door under attack runs in a process of its own (this binary again), so that its memory, threads and
//! descriptors can be seen and bounded.
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::{Http, PATIENCE, TestServer, post};
use bpm::server::net::{Policy, UidCheck};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

/// A door in a process of its own.
struct Target {
    child: Child,
    /// libtest still has things to say.
    _said: BufReader<ChildStdout>,
    addr: SocketAddr,
    path: PathBuf,
}

impl Target {
    fn new() -> Self {
        Self::with("")
    }

    /// `nofile`: how many descriptors it may have.
    #[allow(clippy::zombie_processes)] // waited for at its drop, or the test is over
    fn with(nofile: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hostile::serve", "--nocapture"])
            .env("DOOR_TARGET", nofile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        loop {
            let mut line = String::new();
            assert!(
                said.read_line(&mut line).unwrap() > 0,
                "the door did not open"
            );
            // libtest's own words may stand before ours on the line.
            if let Some((_, here)) = line.trim_end().split_once("door at ") {
                let (addr, path) = here.split_once(' ').unwrap();
                return Self {
                    child,
                    _said: said,
                    addr: addr.parse().unwrap(),
                    path: path.into(),
                };
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn http(&self) -> Http {
        Http(BufReader::new(Box::new(self.connect())))
    }

    fn unix(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|l| l.starts_with(field)).unwrap();
        let number = line.split_ascii_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    fn rss_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Clock ticks of CPU time.
    fn ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text
            .rsplit(')')
            .next()
            .unwrap()
            .split_ascii_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// It still answers whom it should.
    fn is_well(&self) {
        assert_eq!(self.http().get("/healthz").status, 200);
        assert_eq!(
            self.http().call("echo", json!({"text": "a"}))["result"]["content"][0]["text"],
            "a"
        );
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let ended = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert!(ended.success(), "the door did not end well: {ended}");
        }
    }
}

/// Not a test of its own: what [`Target`] starts.
#[test]
fn serve() {
    let Ok(nofile) = std::env::var("DOOR_TARGET") else {
        return;
    };
    if let Ok(n) = nofile.parse() {
        setrlimit(Resource::RLIMIT_NOFILE, n, n).unwrap();
    }
    // As the real one does; free memory at the end of another heap is not given back.
    bpm::os::memory::one_heap();
    let server = TestServer::new();
    println!("door at {} {}", server.addr, server.path.display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn refused(target: &Target, bytes: &[u8]) -> u16 {
    let mut http = target.http();
    http.send(bytes);
    let status = http.response().status;
    assert!(
        http.closed(),
        "still open after {status}: {:?}",
        String::from_utf8_lossy(bytes)
    );
    status
}

#[test]
fn non_requests_are_refused_and_closed() {
    let target = Target::new();
    let fields = |line: &str, more: &str| format!("{line}\r\nHost: localhost\r\n{more}\r\n");
    let post = |more: &str| {
        fields(
            "POST /mcp HTTP/1.1",
            &format!("Content-Type: application/json\r\n{more}"),
        )
    };
    for (status, bytes) in [
        (413, post("Content-Length: 60000000000\r\n")),
        (413, post("Content-Length: 18446744073709551615\r\n")),
        (413, post("Content-Length: 4194305\r\n")),
        (400, post("Content-Length: -1\r\n")),
        (400, post("Content-Length: 1\r\nContent-Length: 2\r\n")),
        (400, post("Content-Length: 2\r\nContent-Length: 2\r\n")),
        (400, post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")),
        (501, post("Transfer-Encoding: gzip\r\n")),
        (417, post("Expect: more\r\n")),
        (413, post("Transfer-Encoding: chunked\r\n").replace("\r\n\r\n", "\r\n\r\nfffffff\r\n")),
        (415, fields("POST /mcp HTTP/1.1", "Content-Type: text/plain\r\nContent-Length: 2\r\n")),
        (406, post("Accept: text/event-stream\r\nContent-Length: 2\r\n")),
        (404, fields("POST /sse HTTP/1.1", "Content-Length: 2\r\n")),
        (405, fields("OPTIONS /mcp HTTP/1.1", "Content-Length: 2\r\n")),
        (405, fields("OPTIONS /healthz HTTP/1.1", "Content-Length: 2\r\n")),
        (403, post("Sec-Fetch-Site: same-site\r\nContent-Length: 2\r\n")),
        (403, post("Sec-Fetch-Site: cross-site\r\nContent-Length: 2\r\n")),
        (403, fields("GET /healthz HTTP/1.1", "Sec-Fetch-Site: same-site\r\nConnection: close\r\n")),
        (403, "POST /mcp HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n".into()),
        (403, "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()),
        (400, "GET /healthz HTTP/1.0\r\n\r\n".into()),
        (200, "GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n".into()),
        (200, "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()),
        (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (400, "GET /healthz\r\n\r\n".into()),
        (400, "GET /healthz HTTP/1.1\nHost: localhost\n\n".into()),
        (400, fields("GET /healthz HTTP/1.1", "X: a\0b\r\n")),
        (400, fields("GET /healthz HTTP/1.1", "X : y\r\n")),
        (400, fields("GET /healthz HTTP/1.1", "X: a\r\n b\r\n")),
        (400, fields("GET /healthz HTTP/1.1", "Host: localhost\r\n")),
        (431, fields("GET /healthz HTTP/1.1", &"X: y\r\n".repeat(101))),
        (431, fields("GET /healthz HTTP/1.1", &format!("X: {}\r\n", "y".repeat(17_000)))),
    ] {
        assert_eq!(refused(&target, bytes.as_bytes()), status, "{bytes:.200}");
    }
    assert_eq!(
        refused(&target, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        400
    );
    assert_eq!(
        refused(&target, b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        400
    );
    // Bytes beyond ASCII in a value are no reason to hang up.
    let mut http = target.http();
    http.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \xff\xfe\r\n\r\n");
    assert_eq!(http.response().status, 200);
    target.is_well();
}

#[test]
fn non_messages_are_refused_and_the_connection_goes_on() {
    let target = Target::new();
    let mut http = target.http();
    let id = "9".repeat(10_000);
    for (code, body) in [
        (-32700, "[".repeat(9_000)),
        (-32700, "{\"a\":".repeat(9_000)),
        (-32700, "[".repeat(100_000)),
        (-32700, "{\"a\":".repeat(100_000)),
        (-32600, format!("{{\"a\":[{}0]}}", "0,".repeat(100_000))),
        (
            -32700,
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}"),
        ),
        (
            -32700,
            r#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#.into(),
        ),
        (-32700, String::new()),
        (
            -32600,
            r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#.into(),
        ),
        (
            -32600,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.into(),
        ),
        (
            -32600,
            r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#.into(),
        ),
        (-32600, "\"x\"".into()),
    ] {
        let answer = http.post("", &body);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &json!(code)),
            "{body:.100}"
        );
        assert_eq!(answer.json()["id"], Value::Null);
    }
    http.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n\xff\xfe\n");
    assert_eq!(http.response().json()["error"]["code"], -32700);
    // Exactly 4 MiB is read; one more is not.
    let padded = |n: usize| {
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        format!("{ping}{}", " ".repeat(n - ping.len()))
    };
    assert_eq!(http.post("", &padded(4 << 20)).json()["result"], json!({}));
    assert_eq!(
        refused(&target, post("", &padded((4 << 20) + 1)).as_bytes()),
        413
    );
    let mut unix = target.unix();
    let line = |bytes: &[u8], unix: &mut UnixStream| {
        unix.write_all(bytes).unwrap();
        let mut answer = String::new();
        BufReader::new(unix).read_line(&mut answer).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    assert_eq!(line(b"{nonsense\n", &mut unix)["error"]["code"], -32700);
    assert_eq!(
        line(
            b"\r\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\r\n",
            &mut unix
        )["id"],
        1
    );
    assert_eq!(
        line(&vec![b'['; (4 << 20) + 1], &mut unix)["error"]["code"],
        -32600
    );
    target.is_well();
}

/// What another reader of the same bytes could take for a second request is none of ours: refused, and closed.
#[test]
fn smuggling_forms_are_refused_and_closed() {
    let target = Target::new();
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let behind = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let codings = [
        "xchunked",
        "chunked, chunked",
        "chunked, gzip",
        "gzip, chunked",
        "identity",
        "\"chunked\"",
        "chunked;q=1",
        "chun\tked",
        "",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "chunked\r\nContent-Length: 5",
    ];
    let codings = codings.map(|c| format!("{head}Transfer-Encoding: {c}\r\n\r\n0\r\n\r\n{behind}"));
    let lengths = [
        "+2",
        "-0",
        "0x2",
        "2,2",
        "2, 2",
        "2 2",
        "2;",
        "",
        "2.0",
        "1e1",
        "\u{662}",
        "2\0",
        "02a",
        "99999999999999999999",
    ];
    let lengths = lengths.map(|l| format!("{head}Content-Length: {l}\r\n\r\n{{}}{behind}"));
    let chunks = [
        "+2\r\n{}\r\n",
        "-2\r\n{}\r\n",
        "0x2\r\n{}\r\n",
        "2 2\r\n{}\r\n",
        "g\r\n{}\r\n",
        "\r\n{}\r\n",
        "2\n{}\r\n",
        "2\r{}\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "2\r\n{}x\r\n",
        "fffffffffffffffff\r\n{}\r\n",
        "100000000\r\n{}\r\n",
        "2\0\r\n{}\r\n",
    ];
    let chunks = chunks.map(|c| format!("{head}Transfer-Encoding: chunked\r\n\r\n{c}{behind}"));
    let lines = [
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length : 2\r\n\r\n{}",
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\n Content-Length: 2\r\n\r\n{}",
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length:\r\n 2\r\n\r\n{}",
        "POST /mcp HTTP/1.1\r\nHost: localhost\nContent-Length: 2\n\n{}",
        "POST  /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /mcp  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /mcp HTTP/1.10\r\nHost: localhost\r\n\r\n",
    ];
    let lines = lines.map(|line| format!("{line}{behind}"));
    for bytes in codings.iter().chain(&lengths).chain(&chunks).chain(&lines) {
        let status = refused(&target, bytes.as_bytes());
        assert!((400..=505).contains(&status), "{status}: {bytes:?}");
    }
    target.is_well();
}

/// Neither what a message is made of nor its size takes memory for long, or much of it.
#[test]
fn large_messages_leave_nothing_behind() {
    let target = Target::new();
    let pad = " ".repeat((4 << 20) - 100);
    let long = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"{pad}}}");
    let objects = "{\"b\":0},".repeat(400_000);
    let many = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{{\"a\":[{objects}0]}}}}"
    );
    let mut http = target.http();
    let mut line = target.unix();
    let mut answers = BufReader::new(line.try_clone().unwrap());
    let mut answer = String::new();
    http.post("", "{}");
    target.is_well();
    let rss = target.rss_kib();
    for (code, body) in [(Value::Null, &long), (json!(-32600), &many)] {
        for _ in 0..3 {
            assert_eq!(http.post("", body).json()["error"]["code"], code);
            writeln!(line, "{body}").unwrap();
            answer.clear();
            answers.read_line(&mut answer).unwrap();
            let said: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(said["error"]["code"], code);
        }
    }
    // One more byte than may be, and without an end.
    line.write_all(&vec![b'x'; (4 << 20) + 1]).unwrap();
    answer.clear();
    answers.read_line(&mut answer).unwrap();
    assert!(answer.contains("4 MiB"), "{answer}");
    target.is_well();
    let (now, most) = (target.rss_kib(), target.status("VmHWM:"));
    assert!(now < rss + 1_024, "{rss} KiB, then {now} KiB");
    assert!(most < rss + (24 << 10), "{rss} KiB, then {most} KiB");
}

/// Sent in pieces of one byte, chunked, or after asking first: a request is a request.
#[test]
fn a_request_may_trickle() {
    let target = Target::new();
    let mut http = target.http();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for byte in post("", ping).as_bytes() {
        http.send([*byte]);
    }
    assert_eq!(http.response().json()["id"], 1);
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    http.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    for piece in ping.as_bytes().chunks(7) {
        http.send(format!("{:x}\r\n", piece.len()));
        http.send(piece);
        http.send("\r\n");
    }
    http.send("0\r\n\r\n");
    assert_eq!(http.response().json()["id"], 1);
    http.send(format!(
        "{head}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        ping.len()
    ));
    assert_eq!(http.head().status, 100);
    http.send(ping);
    assert_eq!(http.response().json()["id"], 1);
}

/// What is not finished in its time is over, each kind of it; meanwhile everybody else is served.
#[test]
fn unfinished_business_ends() {
    let target = Target::new();
    let mut cut: Vec<Http> = ["GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: local", "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\nhalf"]
        .map(|half| {
            let mut http = target.http();
            http.send(half);
            http
        })
        .into();
    let mut line = target.unix();
    line.write_all(b"{\"jsonrpc\":").unwrap();
    // One byte now and then is not enough either: the time is absolute. The read's timeout is the pause.
    let mut trickle = target.connect();
    trickle
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    let mut byte = [0; 512];
    loop {
        assert!(began.elapsed() < PATIENCE, "the trickle goes on");
        if trickle.write_all(b"X").is_err() {
            break;
        }
        match trickle.read(&mut byte) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&byte[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                target.is_well()
            }
            Err(_) => break,
        }
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 408 "),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    for http in &mut cut {
        assert_eq!(http.response().status, 408);
        assert!(http.closed());
    }
    assert_eq!(line.read(&mut byte).unwrap(), 0);
    target.is_well();
}

/// A stream of events that nobody reads is cut; on the socket it waits for its reader.
#[test]
fn an_unread_stream_ends() {
    let server = TestServer::new();
    let mut http = server.tcp();
    http.send(post(
        "",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"flood","_meta":{"progressToken":1}}}"#,
    ));
    let mut lines = server.unix();
    lines.request(json!(1), "bpm/flood", json!({}));
    server.shared.waiting.until("both flow", |n| n == 2);
    server.is_well();
    server.shared.waiting.until("one was cut", |n| n == 1);
    // What was in flight can still be read, then nothing more.
    assert_eq!(http.head().status, 200);
    let mut rest = Vec::new();
    let _ = http.0.read_to_end(&mut rest);
    assert!(rest.len() < 64 << 20);
    for _ in 0..100 {
        assert_eq!(lines.next().unwrap()["method"], "bpm/lines");
    }
    drop(lines);
    server.shared.waiting.until("none flows", |n| n == 0);
}

#[test]
fn two_thousand_idle_connections_cost_little() {
    let target = Target::new();
    let mut agent = target.http();
    let served = |agent: &mut Http| {
        assert_eq!(agent.call("echo", json!({}))["result"]["isError"], false);
    };
    served(&mut agent);
    target.is_well();
    let (rss, threads) = (target.rss_kib(), target.status("Threads:"));
    let idle: Vec<TcpStream> = (0..2_000).map(|_| target.connect()).collect();
    target.is_well();
    assert!(
        target.rss_kib() < rss + 2_048,
        "{} -> {} KiB",
        rss,
        target.rss_kib()
    );
    assert_eq!(target.status("Threads:"), threads);
    // Who never asked for anything went first.
    served(&mut agent);
    drop(idle);
    target.is_well();
}

/// Many who send megabytes, and not the last byte, take the memory of a few; who
/// comes after them has his turn.
#[test]
fn half_bodies_cost_what_a_few_of_them_do() {
    let target = Target::new();
    target.is_well();
    let rss = target.rss_kib();
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n";
    let most = [head.as_bytes(), &vec![b' '; 2 << 20]].concat();
    let half = |i: usize| {
        let mut stream: Box<dyn Write> = match i % 2 {
            0 => {
                let stream = target.connect();
                stream.set_nonblocking(true).unwrap();
                Box::new(stream)
            }
            _ => {
                let stream = target.unix();
                stream.set_nonblocking(true).unwrap();
                Box::new(stream)
            }
        };
        let _ = stream.write_all(if i % 4 == 1 {
            &most[head.len()..]
        } else {
            &most
        });
        stream
    };
    let held: Vec<Box<dyn Write>> = (0..150).map(half).collect();
    // Long enough that all of it was read that is going to be.
    for _ in 0..50 {
        target.is_well();
    }
    let now = target.rss_kib();
    assert!(now < rss + (48 << 10), "{rss} KiB, then {now} KiB");
    let body = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"{}}}",
        " ".repeat(1 << 20)
    );
    let mut late = target.http();
    late.send(post("", &body));
    drop(held);
    assert_eq!(late.response().json()["id"], 1);
    // Those who waited for a place are still to be read to their end.
    let began = Instant::now();
    while target.rss_kib() >= rss + 2_048 {
        target.is_well();
        let now = target.rss_kib();
        assert!(began.elapsed() < PATIENCE, "{rss} KiB, then {now} KiB");
    }
}

/// Where there is no room any more, who has just come is not closed for the next one to come.
#[test]
fn connection_to_a_full_server_is_served() {
    let target = Target::new();
    let halves = || {
        let mut stream = target.connect();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
            .unwrap();
        stream
    };
    let silent: Vec<UnixStream> = (0..1_100).map(|_| target.unix()).collect();
    target.is_well();
    let halves: Vec<TcpStream> = (0..1_100).map(|_| halves()).collect();
    target.is_well();
    let mut clients: Vec<Http> = (0..30).map(|_| target.http()).collect();
    for http in &mut clients {
        assert_eq!(http.get("/healthz").status, 200);
    }
    let mut lines = target.unix();
    writeln!(
        lines,
        "{}",
        json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    )
    .unwrap();
    let mut answer = String::new();
    BufReader::new(lines).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"result\""), "{answer}");
    drop((silent, halves));
    target.is_well();
}

/// Nothing is polled for: without anything to do the door does not wake up.
#[test]
fn an_idle_door_sleeps() {
    let target = Target::new();
    let mut agent = target.http();
    agent.call("echo", json!({}));
    let mut stream = target.http();
    stream.modern(
        "subscriptions/listen",
        r#""notifications":{"resourceSubscriptions":["test://a"]}"#,
    );
    stream.event();
    let mut waits = target.unix();
    waits
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"wait\"}}\n")
        .unwrap();
    target.is_well();
    let wakes = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", target.child.id())).unwrap();
        let statuses =
            tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap());
        let net = statuses
            .into_iter()
            .find(|s| s.starts_with("Name:\tnet\n"))
            .unwrap();
        let line = net
            .lines()
            .find(|l| l.starts_with("voluntary_ctxt_switches"))
            .unwrap();
        line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()
    };
    // Its answer to us was written before it went back to sleep, which may be later.
    let sleeps = || {
        let before = wakes();
        std::thread::park_timeout(Duration::from_secs(2));
        wakes() == before
    };
    assert!((0..5).any(|_| sleeps()));
}

#[test]
fn bursts_are_served_to_the_last() {
    let target = Target::new();
    for size in [8, 20, 50, 50, 200] {
        let mut calls: Vec<Http> = (0..size).map(|_| target.http()).collect();
        let mut streams: Vec<Http> = (0..size).map(|_| target.http()).collect();
        for http in &mut calls {
            http.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        }
        for http in &mut streams {
            let listen = r#""notifications":{"resourceSubscriptions":["test://a"]}"#;
            assert_eq!(http.modern("subscriptions/listen", listen).status, 200);
        }
        for http in &mut calls {
            assert_eq!(http.response().status, 200);
            assert_eq!(http.get("/healthz").status, 200);
        }
        for http in &mut streams {
            assert_eq!(
                http.event()["method"],
                "notifications/subscriptions/acknowledged"
            );
        }
    }
    target.is_well();
}

/// Writes until the other end takes no more, or `most` bytes are gone.
fn pour(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut gone = 0;
    while gone < most {
        match stream.write(bytes) {
            Ok(n) => gone += n,
            Err(_) => break,
        }
    }
    gone
}

#[test]
fn endless_heads_and_unread_answers_cost_little() {
    let target = Target::new();
    target.is_well();
    let rss = target.rss_kib();
    let mut head = target.connect();
    head.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    pour(&mut head, &vec![b'y'; 1 << 20], 300 << 20);
    let mut fields = target.connect();
    fields.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    pour(&mut fields, "X: y\r\n".repeat(10_000).as_bytes(), 30 << 20);
    let mut pipeline = target.connect();
    let request = post("", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).repeat(1_000);
    pour(&mut pipeline, request.as_bytes(), 300 << 20);
    let mut lines = target.unix();
    lines
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let many = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n".repeat(1_000);
    while lines.write_all(many.as_bytes()).is_ok() {}
    // A flood on the socket waits for its reader, and holds up nobody.
    let mut flood = target.unix();
    flood
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"bpm/flood\"}\n")
        .unwrap();
    target.is_well();
    assert!(
        target.rss_kib() < rss + 8_192,
        "{} -> {} KiB",
        rss,
        target.rss_kib()
    );
}

#[test]
fn pipelined_requests_are_answered_to_the_last() {
    let target = Target::new();
    let mut http = target.http();
    let one = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let search = post(
        "",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"search"}}"#,
    );
    http.send(format!("{}{search}{}", one.repeat(300), one.repeat(200)));
    for i in 0..501 {
        let response = http.response();
        assert_eq!(response.status, 200);
        assert_eq!(i == 300, response.json()["id"] == 7);
    }
}

/// Each byte is looked at once, however it comes.
#[test]
fn a_long_line_in_small_pieces_costs_what_it_weighs() {
    let target = Target::new();
    let mut unix = target.unix();
    let mut http = target.connect();
    let before = target.ticks();
    unix.write_all(&vec![b'x'; 3_800_000]).unwrap();
    http.write_all(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n").unwrap();
    http.write_all(&vec![b' '; 3_800_000]).unwrap();
    for _ in 0..2_000 {
        unix.write_all(b"x").unwrap();
        http.write_all(b" ").unwrap();
    }
    target.is_well();
    // Scanned anew each time it would be 15 GB of looking. A tick is 10 ms.
    assert!(
        target.ticks() - before < 300,
        "{} ticks",
        target.ticks() - before
    );
}

#[test]
fn a_reset_before_accept_is_nobody() {
    let target = Target::new();
    for i in 0..200 {
        let stream = target.connect();
        let mut stream = stream;
        if i % 2 == 0 {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap();
        }
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &now).unwrap();
    }
    target.is_well();
}

#[test]
fn descriptors_run_out_and_come_back() {
    let target = Target::with("64");
    target.is_well();
    for _ in 0..3 {
        let mut held: Vec<TcpStream> = (0..200).map(|_| target.connect()).collect();
        // Out of descriptors it waits for some, and does not spin, once it has taken what it can.
        let waits = || {
            let before = target.ticks();
            std::thread::park_timeout(Duration::from_millis(300));
            target.ticks() - before < 15
        };
        assert!((0..10).any(|_| waits()));
        held.truncate(10);
        target.is_well();
    }
}

/// A thread whose system calls are made as `nobody`. None: we are not root, so there
/// is no second user to be had.
fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> Option<T> {
    const NOBODY: libc::uid_t = 65_534;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return None;
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            // SAFETY: three numbers. The raw call changes this thread only, where libc's wrapper changes all.
            let ok = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(ok, 0);
            run()
        });
        Some(other.join().unwrap())
    })
}

#[test]
fn another_user_is_a_stranger() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let server = TestServer::on(bind, Policy::default());
        let asked = as_nobody(|| {
            let mut http = server.tcp();
            assert_eq!(http.get("/healthz").status, 200);
            assert_eq!(http.get("/readyz").status, 403);
            let refused = http.post("", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
            (refused.status, refused.has("connection: close"))
        });
        if let Some(asked) = asked {
            assert_eq!(asked, (403, true));
            server.door().control().set_policy(Policy {
                uid: UidCheck::Off,
                ..Policy::default()
            });
            let asked = as_nobody(|| server.tcp().get("/readyz").status);
            assert_eq!(asked, Some(200));
        }
        server.is_well();
    }
}

#[test]
fn another_user_does_not_get_into_the_socket() {
    let server = TestServer::new();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&server.path, PermissionsExt::from_mode(0o777)).unwrap();
    let read = as_nobody(|| {
        let mut lines = server.unix();
        // The door may be quicker than the write.
        let _ = lines
            .stream
            .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n");
        let mut byte = [0];
        lines.stream.read(&mut byte).unwrap_or(0)
    });
    assert!(read.is_none_or(|n| n == 0));
    server.is_well();
}

/// Once its socket is closed the kernel says uid 0 of whoever it was: that is no pass.
#[test]
fn sender_that_has_ended_is_not_root() {
    let server = TestServer::new();
    for _ in 0..200 {
        as_nobody(|| {
            let mut http = server.tcp();
            http.send(post(
                "",
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait"}}"#,
            ));
        });
    }
    server.is_well();
    assert_eq!(server.shared.started.get(), 0);
}

/// Orders on every way that a connection can end, also before the kernel could be asked whose it is.
#[test]
fn orders_of_strangers_are_not_carried_out() {
    const CLIENTS: usize = 8;
    let all = if crate::common::all_attacks() {
        36_000
    } else {
        2_000
    };
    let server = TestServer::new();
    let order = post(
        "",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait"}}"#,
    );
    let refused = AtomicUsize::new(0);
    let client = |first: usize| {
        for n in (first..all).step_by(CLIENTS) {
            if n % 4 < 2 {
                let mut http = server.tcp();
                http.send(&order);
                assert_eq!(http.response().status, 403);
                refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut stream = TcpStream::connect(server.addr).unwrap();
            // A server that has refused it already may have closed it.
            let _ = stream.write_all(order.as_bytes());
            if n % 4 == 3 {
                // Its end is a reset.
                let at_once = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
            }
        }
    };
    let client = &client;
    std::thread::scope(|scope| {
        for first in 0..CLIENTS {
            scope.spawn(move || as_nobody(|| client(first)));
        }
    });
    server.is_well();
    assert_eq!(server.shared.started.get(), 0);
    println!("{all} orders, {refused:?} answers, all 403");
}
