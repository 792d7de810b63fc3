#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use super::super::schedule::*;
use super::*;
use crate::base::clock::Wall;
use crate::config::Probe;
use crate::lifecycle::RunKey;
use crate::log::search::Stream;
use crate::log::store::Limits;

const KEY: CheckKey = CheckKey {
    run: RunKey {
        unit: 1,
        generation: 2,
    },
    kind: CheckKind::Ready,
};
const LONG: Duration = Duration::from_secs(60);

struct Answers {
    prober: Prober,
    received: Receiver<(Attempt, Seen)>,
}

impl Answers {
    fn new() -> Self {
        let (sender, received) = channel();
        let sender = Mutex::new(sender);
        let tell = move |attempt, seen| sender.lock().unwrap().send((attempt, seen)).unwrap();
        let prober = Prober::new(Arc::new(tell)).unwrap();
        Self { prober, received }
    }

    fn answer(&self) -> (u64, Seen) {
        let (attempt, seen) = self.received.recv_timeout(LONG).unwrap();
        assert_eq!(attempt.key, KEY);
        (attempt.number, seen)
    }

    fn tcp(&mut self, address: SocketAddr) -> Seen {
        self.prober
            .connect(attempt(1), connect_to(vec![address]), LONG);
        self.answer().1
    }

    /// The result for a server that answers so, and then closes.
    fn http(&mut self, answer: &'static [u8]) -> Seen {
        let (listener, connect) = server();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            // It may have gone after the first line.
            let _ = stream.write_all(answer);
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        self.prober.connect(attempt(1), connect, LONG);
        let (_, seen) = self.answer();
        let request = server.join().unwrap();
        assert!(
            request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{request}"
        );
        seen
    }

    fn sh(&mut self, number: u64, line: &str) -> Child {
        let mut child = std::process::Command::new("sh")
            .args(["-c", line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap().into();
        let stderr = child.stderr.take().unwrap().into();
        self.prober.watch(attempt(number), stdout, stderr);
        child
    }

    fn command(&mut self, line: &str) -> Seen {
        let status = self.sh(1, line).wait().unwrap();
        let end = match status.code() {
            Some(0) => Ok(()),
            code => Err(format!("exit code {}", code.unwrap_or(-1))),
        };
        self.prober.ended(attempt(1), end);
        self.answer().1
    }
}

fn attempt(number: u64) -> Attempt {
    Attempt { key: KEY, number }
}

fn connect_to(addresses: Vec<SocketAddr>) -> Connect {
    Connect {
        addresses,
        get: None,
        own: None,
        before: None,
    }
}

fn target(probe: Probe) -> Connect {
    target_at(probe, 0)
}

fn target_at(probe: Probe, port: u16) -> Connect {
    let expand = |text: &str| Ok(text.replace("${PORT}", &port.to_string()));
    match Target::of(&probe, &expand).unwrap() {
        Target::Connect(connect) => connect,
        other => panic!("{other:?}"),
    }
}

fn server() -> (TcpListener, Connect) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    (listener, target(Probe::Http(url)))
}

#[test]
fn port_is_open_or_not() {
    let mut answers = Answers::new();
    for ip in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(ip) else {
            continue; // no IPv6 here
        };
        let address = listener.local_addr().unwrap();
        assert_eq!(answers.tcp(address), Ok(format!("connected to {address}")));
        drop(listener);
        // A process that another test starts just now may have a copy of it for a moment.
        let refused = (0..1_000).find_map(|_| answers.tcp(address).err());
        let why = format!("cannot connect to {address}: connection refused");
        assert_eq!(refused, Some(why));
    }
}

/// As Node's servers do where `localhost` is `::1` first.
#[test]
fn server_on_localhost_may_have_either_address() {
    let mut answers = Answers::new();
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return; // no IPv6 here
    };
    let address = listener.local_addr().unwrap();
    let mut connect = |connect| {
        answers.prober.connect(attempt(1), connect, LONG);
        answers.answer().1
    };
    let port = target_at(Probe::Port, address.port());
    let seen = format!("port {} is listened on", address.port());
    assert_eq!(connect(port.clone()), Ok(seen));
    let server = std::thread::spawn(move || {
        // The first connection is that of the GET: the port was seen without one.
        let mut stream = listener.incoming().flatten().next().unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 204 None\r\n\r\n").unwrap();
    });
    let url = format!("http://localhost:{}/", address.port());
    let http = target(Probe::Http(url));
    assert_eq!(connect(http.clone()), Ok("204 None".into()));
    server.join().unwrap();
    // A process that another test starts just now may have a copy of it for a moment.
    let refused = (0..1_000).find_map(|_| connect(port.clone()).err());
    let none = format!("nothing listens on port {}", address.port());
    assert_eq!(refused, Some(none));
}

#[test]
fn port_that_connects_to_itself_is_not_open() {
    // The kernel does this by chance once in thousands of attempts.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .unwrap();
    use std::os::fd::AsRawFd;
    let SocketAddr::V4(v4) = free else {
        unreachable!("bound to v4")
    };
    let name = nix::sys::socket::SockaddrIn::from(v4);
    nix::sys::socket::bind(socket.as_raw_fd(), &name).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &name).unwrap();
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true).unwrap();
    let mut connection = Connection::over(stream, free);
    let seen = connection.advance(true, Mono::now()).unwrap();
    assert_eq!(seen, Err(format!("nobody listens on {free}")));
}

#[test]
fn http_passes_with_200_and_reports_other_answers() {
    let mut answers = Answers::new();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(answers.http(ok), Ok("200 OK".into()));
    let busy = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
    assert_eq!(answers.http(busy), Err("503 Service Unavailable".into()));
    let none = answers.http(b"").unwrap_err();
    assert_eq!(none, "the connection was closed without an answer");
    let half = answers.http(b"HTTP/1.1 2").unwrap_err();
    assert_eq!(half, "the connection was closed within the answer's head");
    let other = answers.http(b"hello\n").unwrap_err();
    assert_eq!(other, "an answer that is not HTTP: \"hello\\n\"");
    static ENDLESS: [u8; 1 << 20] = {
        let mut bytes = [b'x'; 1 << 20];
        let begin = b"HTTP/1.1 ";
        let mut i = 0;
        while i < begin.len() {
            bytes[i] = begin[i];
            i += 1;
        }
        bytes
    };
    let endless = answers.http(&ENDLESS).unwrap_err();
    assert_eq!(endless, "an answer whose head does not end");
}

#[test]
fn silent_server_is_late_and_holds_up_nobody() {
    let mut answers = Answers::new();
    let (listener, connect) = server();
    answers.prober.connect(attempt(1), connect.clone(), LONG);
    let short = Duration::from_millis(30);
    answers.prober.connect(attempt(2), connect, short);
    let (number, seen) = answers.answer();
    let address = listener.local_addr().unwrap();
    let late = format!("connected to {address}, no answer within 0.0s");
    assert_eq!((number, seen), (2, Err(late)));
    // The first one still waits; it is forgotten, and its end is no answer any more.
    answers.prober.forget(attempt(1));
    assert!(answers.tcp(address).is_ok());
    drop(listener);
    assert!(answers.tcp(address).is_err());
    assert!(answers.received.try_recv().is_err());
}

#[test]
fn command_passes_with_0_and_its_last_line_says_why_not() {
    let mut answers = Answers::new();
    assert_eq!(answers.command("echo fine"), Ok("exit code 0".into()));
    let why = answers.command("echo one; echo 'no database' >&2; echo; exit 3");
    assert_eq!(why, Err("exit code 3: no database".into()));
    assert_eq!(answers.command("exit 4"), Err("exit code 4".into()));
}

#[test]
fn command_that_prints_much_waits_for_nobody() {
    let mut answers = Answers::new();
    let seen = answers.command("head -c 100000000 /dev/zero; echo last >&2; exit 1");
    assert_eq!(seen, Err("exit code 1: last".into()));
}

#[test]
fn grandchild_that_keeps_the_pipe_delays_nothing() {
    let mut answers = Answers::new();
    let seen = answers.command("sleep 600 & echo $!; exit 1").unwrap_err();
    let pid = seen.strip_prefix("exit code 1: ").unwrap();
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg(pid).status().unwrap().success());
}

#[test]
fn end_without_a_reader_is_answered_too() {
    let mut answers = Answers::new();
    answers.prober.ended(attempt(9), Err("signal KILL".into()));
    assert_eq!(answers.answer(), (9, Err("signal KILL".into())));
}

fn log() -> Following {
    let limits = Limits {
        lines: 10_000,
        bytes: 1 << 20,
        runs: 10,
        disk: 0,
    };
    let log = Log::new(limits, 1, 1);
    let run = log.begin(Wall::now());
    let after = log.next_seq() - 1;
    Following { log, run, after }
}

#[test]
fn line_is_found_when_it_comes_and_when_it_is_there_already() {
    let mut answers = Answers::new();
    let log = log();
    let append = |run, text: &[u8]| log.log.append(run, Stream::Stdout, text);
    answers
        .prober
        .follow(attempt(1), log.clone(), "port [0-9]+".into());
    let other = log.log.begin(Wall::now());
    append(other, b"port 1\n");
    append(log.run, b"port\nport");
    append(log.run, b" 80\n");
    assert_eq!(answers.answer(), (1, Ok("the line \"port 80\"".into())));
    answers
        .prober
        .follow(attempt(2), log.clone(), "^port$".into());
    assert_eq!(answers.answer(), (2, Ok("the line \"port\"".into())));
}

#[test]
fn line_that_never_comes_is_forgotten() {
    let mut answers = Answers::new();
    let log = log();
    answers
        .prober
        .follow(attempt(1), log.clone(), "never".into());
    log.log
        .append(log.run, Stream::Stdout, b"x\n".repeat(50_000).as_slice());
    answers.prober.forget(attempt(1));
    answers.prober.follow(attempt(2), log, "(".into());
    assert!(
        answers
            .answer()
            .1
            .unwrap_err()
            .starts_with("the pattern \"(\": ")
    );
}

#[test]
fn line_is_found_after_earlier_ones_were_read() {
    let mut answers = Answers::new();
    let (listener, _) = server();
    let address = listener.local_addr().unwrap();
    let log = log();
    let append = |text: &[u8]| log.log.append(log.run, Stream::Stdout, text);
    append(b"booting\n");
    answers
        .prober
        .follow(attempt(1), log.clone(), "^port$".into());
    for line in [&b"one\n"[..], b"two\n"] {
        // The answer says that the thread has read so far.
        assert!(answers.tcp(address).is_ok());
        append(line);
    }
    assert!(answers.tcp(address).is_ok());
    append(b"port\n");
    assert_eq!(answers.answer(), (1, Ok("the line \"port\"".into())));
}
