#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::super::schedule::*;
use super::*;
use crate::base::clock::Wall;
use crate::config::parse_http;
use crate::lifecycle::RunKey;
use crate::log::search::Stream;
use crate::log::store::Limits;

const KEY: CheckKey = CheckKey {
    run: RunKey {
        unit: 1,
        generation: 2,
    },
    what: CheckKind::Ready,
};
const LONG: Duration = Duration::from_secs(60);

type Seen = Result<String, String>;

struct House {
    prober: Prober,
    answers: Receiver<(CheckKey, u64, Seen)>,
}

impl House {
    fn new() -> Self {
        let (sender, answers) = channel();
        let tell = move |key, attempt, seen| sender.send((key, attempt, seen)).unwrap();
        let prober = Prober::new(Box::new(tell)).unwrap();
        Self { prober, answers }
    }

    fn answer(&self) -> (u64, Seen) {
        let (key, attempt, seen) = self.answers.recv_timeout(LONG).unwrap();
        assert_eq!(key, KEY);
        (attempt, seen)
    }

    fn tcp(&self, address: SocketAddr) -> Seen {
        self.prober.connect(KEY, 1, Connect::Tcp(address), LONG);
        self.answer().1
    }

    /// What is seen of a server that answers so, and then closes.
    fn http(&self, answer: &'static [u8]) -> Seen {
        let (listener, connect) = server();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            // It may have gone after the first line.
            let _ = stream.write_all(answer);
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        self.prober.connect(KEY, 1, connect, LONG);
        let (_, seen) = self.answer();
        let request = server.join().unwrap();
        assert!(
            request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{request}"
        );
        seen
    }

    fn sh(&self, attempt: u64, line: &str) -> Child {
        let mut child = std::process::Command::new("sh")
            .args(["-c", line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap().into();
        let stderr = child.stderr.take().unwrap().into();
        self.prober.watch(KEY, attempt, stdout, stderr);
        child
    }

    fn command(&self, line: &str) -> Seen {
        let status = self.sh(1, line).wait().unwrap();
        let end = match status.code() {
            Some(0) => Ok(()),
            code => Err(format!("exit code {}", code.unwrap_or(-1))),
        };
        self.prober.ended(KEY, 1, end);
        self.answer().1
    }

    /// No thread is left (it leaves right after its last answer).
    fn is_quiet(&self) -> bool {
        let began = Mono::now();
        while self.prober.shared.queue().served {
            if Mono::now().since(began) > LONG {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

fn server() -> (TcpListener, Connect) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    (listener, Connect::Http(parse_http(&url).unwrap()))
}

#[test]
fn a_port_is_open_or_not() {
    let house = House::new();
    for ip in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(ip) else {
            continue; // no IPv6 here
        };
        let address = listener.local_addr().unwrap();
        assert_eq!(house.tcp(address), Ok(format!("connected to {address}")));
        drop(listener);
        // What another test starts just now may have a copy of it for a moment.
        let refused = (0..1_000).find_map(|_| house.tcp(address).err());
        let why = format!("cannot connect to {address}: connection refused");
        assert_eq!(refused, Some(why));
    }
    assert!(house.is_quiet());
}

/// As Node's servers do where `localhost` is `::1` first.
#[test]
fn a_server_on_localhost_may_have_either_address() {
    let house = House::new();
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return; // no IPv6 here
    };
    let address = listener.local_addr().unwrap();
    let connect = |connect| {
        house.prober.connect(KEY, 1, connect, LONG);
        house.answer().1
    };
    let port = Connect::Port(address.port());
    let seen = format!("port {} is listened on", address.port());
    assert_eq!(connect(port.clone()), Ok(seen));
    let server = std::thread::spawn(move || {
        // The first connection is that of the GET: the port was looked at without one.
        let mut stream = listener.incoming().flatten().next().unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 204 None\r\n\r\n").unwrap();
    });
    let url = format!("http://localhost:{}/", address.port());
    let http = Connect::Http(parse_http(&url).unwrap());
    assert_eq!(connect(http.clone()), Ok("204 None".into()));
    server.join().unwrap();
    // What another test starts just now may have a copy of it for a moment.
    let refused = (0..1_000).find_map(|_| connect(port.clone()).err());
    let none = format!("nothing listens on port {}", address.port());
    assert_eq!(refused, Some(none));
}

#[test]
fn a_port_that_connects_to_itself_is_not_open() {
    // What luck does once in thousands of attempts, done on purpose.
    let house = House::new();
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
    let mut knocking = Knocking::over(stream, free);
    let seen = knocking.advance(true, Mono::now()).unwrap();
    assert_eq!(seen, Err(format!("nobody listens on {free}")));
    drop(house);
}

#[test]
fn http_is_good_with_200_and_tells_what_else_it_got() {
    let house = House::new();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(house.http(ok), Ok("200 OK".into()));
    let busy = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
    assert_eq!(house.http(busy), Err("503 Service Unavailable".into()));
    let none = house.http(b"").unwrap_err();
    assert_eq!(none, "the connection was closed without an answer");
    let half = house.http(b"HTTP/1.1 2").unwrap_err();
    assert_eq!(half, "the connection was closed within the answer's head");
    let other = house.http(b"hello\n").unwrap_err();
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
    let endless = house.http(&ENDLESS).unwrap_err();
    assert_eq!(endless, "an answer whose head does not end");
    assert!(house.is_quiet());
}

#[test]
fn who_does_not_answer_is_late_and_holds_up_nobody() {
    let house = House::new();
    let (listener, connect) = server();
    house.prober.connect(KEY, 1, connect.clone(), LONG);
    let short = Duration::from_millis(30);
    house.prober.connect(KEY, 2, connect, short);
    let (attempt, seen) = house.answer();
    let address = listener.local_addr().unwrap();
    let late = format!("connected to {address}, no answer within 0.0s");
    assert_eq!((attempt, seen), (2, Err(late)));
    // The first still waits; it is forgotten, and then nobody is there any more.
    house.prober.forget(KEY);
    assert!(house.is_quiet());
    assert!(house.answers.try_recv().is_err());
}

#[test]
fn a_command_is_good_with_0_and_its_last_line_says_why_not() {
    let house = House::new();
    assert_eq!(house.command("echo fine"), Ok("exit code 0".into()));
    let why = house.command("echo one; echo 'no database' >&2; echo; exit 3");
    assert_eq!(why, Err("exit code 3: no database".into()));
    assert_eq!(house.command("exit 4"), Err("exit code 4".into()));
    assert!(house.is_quiet());
}

#[test]
fn a_command_that_prints_much_waits_for_nobody() {
    let house = House::new();
    let seen = house.command("head -c 100000000 /dev/zero; echo last >&2; exit 1");
    assert_eq!(seen, Err("exit code 1: last".into()));
}

#[test]
fn who_keeps_a_commands_pipe_delays_nothing() {
    let house = House::new();
    let seen = house.command("sleep 600 & echo $!; exit 1").unwrap_err();
    let pid = seen.strip_prefix("exit code 1: ").unwrap();
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg(pid).status().unwrap().success());
    assert!(house.is_quiet());
}

#[test]
fn an_end_without_a_reader_is_answered_too() {
    let house = House::new();
    house.prober.ended(KEY, 9, Err("signal KILL".into()));
    assert_eq!(house.answer(), (9, Err("signal KILL".into())));
    assert!(house.is_quiet());
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
fn a_line_is_found_when_it_comes_and_when_it_is_there_already() {
    let house = House::new();
    let log = log();
    let append = |run, text: &[u8]| log.log.append(run, Stream::Stdout, text);
    house
        .prober
        .follow(KEY, 1, log.clone(), "port [0-9]+".into());
    let other = log.log.begin(Wall::now());
    append(other, b"port 1\n");
    append(log.run, b"port\nport");
    append(log.run, b" 80\n");
    assert_eq!(house.answer(), (1, Ok("the line \"port 80\"".into())));
    house.prober.follow(KEY, 2, log.clone(), "^port$".into());
    assert_eq!(house.answer(), (2, Ok("the line \"port\"".into())));
    assert!(house.is_quiet());
}

#[test]
fn a_line_that_never_comes_costs_nothing_and_is_given_up() {
    let house = House::new();
    let log = log();
    house.prober.follow(KEY, 1, log.clone(), "never".into());
    log.log
        .append(log.run, Stream::Stdout, b"x\n".repeat(50_000).as_slice());
    house.prober.forget(KEY);
    assert!(house.is_quiet());
    assert!(house.answers.try_recv().is_err());
    house.prober.follow(KEY, 2, log, "(".into());
    assert!(
        house
            .answer()
            .1
            .unwrap_err()
            .starts_with("the pattern \"(\": ")
    );
}
