//! A child that does what good children don't. Compiled once by `rustc`, without cargo.
//!
//! `fixture VERB [ARG]`; see `main`.

use std::io::{BufRead, Read, Write};
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicI32, Ordering};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn setsid() -> i32;
    fn fork() -> i32;
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    fn write(fd: i32, bytes: *const u8, length: usize) -> isize;
    fn poll(fds: *mut PollFd, count: u64, timeout: i32) -> i32;
}

/// `struct pollfd`.
#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

/// Nanoseconds of CLOCK_MONOTONIC.
fn now() -> i64 {
    let mut time = [0; 2];
    unsafe { clock_gettime(1, &mut time) };
    time[0] * 1_000_000_000 + time[1]
}

fn ignore_term() {
    unsafe { signal(15, 1) };
}

/// Standard output without Rust's buffer, which would look for the last newline of each block.
fn raw_stdout() -> std::fs::File {
    use std::os::fd::AsFd;
    let fd = std::io::stdout().as_fd().try_clone_to_owned();
    std::fs::File::from(fd.expect("a descriptor"))
}

fn say(text: std::fmt::Arguments) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Where the handler of TERM writes.
static TERM_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_term(_: i32) {
    unsafe { write(TERM_PIPE.load(Ordering::Relaxed), b"t".as_ptr(), 1) };
}

/// The sockets that bpm holds for us (sd_listen_fds(3)), else the port of our own.
fn listeners() -> Vec<i32> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") == Some(std::process::id()) {
        let count = number("LISTEN_FDS").unwrap_or(0) as i32;
        return (3..3 + count).collect();
    }
    let port = number("PORT").unwrap_or(0) as u16;
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(own) => vec![own.into_raw_fd()],
        Err(e) => {
            eprintln!("error: port {port}: {e}");
            std::process::exit(1);
        }
    }
}

/// A server that answers `VERSION PID` to each request, one after the other, and ends at TERM once
/// the request at hand is answered. VERSION stands in the file `version`; `die` ends at once, `never`
/// never says that it serves. With a file `sick` the answer is 503. With KEEP_ALIVE, connections stay open
/// until its end.
fn serve() {
    let version = std::fs::read_to_string("version").unwrap_or_default();
    let version = version.trim();
    match version {
        "die" => {
            eprintln!("cannot work like this");
            std::process::exit(3);
        }
        "never" => nap(),
        _ => {}
    }
    let Ok((notify_sockets, mouth)) = std::io::pipe() else {
        return;
    };
    TERM_PIPE.store(mouth.into_raw_fd(), Ordering::Relaxed);
    let handler: extern "C" fn(i32) = on_term;
    unsafe { signal(15, handler as usize) };
    let sockets: Vec<TcpListener> = listeners()
        .into_iter()
        .map(|fd| unsafe { TcpListener::from_raw_fd(fd) })
        .collect();
    for socket in &sockets {
        // Another generation may take what poll has shown us.
        let _ = socket.set_nonblocking(true);
    }
    say(format_args!("serving {version}"));
    let polled = |fd: i32| PollFd { fd, events: 1, revents: 0 };
    let keeps = std::env::var("KEEP_ALIVE").is_ok();
    let mut kept: Vec<std::fs::File> = Vec::new();
    loop {
        let mut fds = vec![polled(notify_sockets.as_raw_fd())];
        fds.extend(sockets.iter().map(|s| polled(s.as_raw_fd())));
        fds.extend(kept.iter().map(|s| polled(s.as_raw_fd())));
        if unsafe { poll(fds.as_mut_ptr(), fds.len() as u64, -1) } < 0 {
            continue;
        }
        if fds[0].revents != 0 {
            break;
        }
        for (socket, _) in sockets.iter().zip(&fds[1..]).filter(|(_, fd)| fd.revents != 0) {
            if let Ok(fd) = accept(socket) {
                kept.extend(answer(fd, version, keeps));
            }
        }
        let asking = &fds[1 + sockets.len()..];
        for at in (0..asking.len()).rev().filter(|at| asking[*at].revents != 0) {
            let stream = kept.swap_remove(at);
            kept.extend(answer(stream, version, keeps));
        }
    }
    let linger = std::env::var("LINGER_MS").ok().and_then(|ms| ms.parse().ok());
    std::thread::sleep(std::time::Duration::from_millis(linger.unwrap_or(0)));
}

/// The library's accept(2) reads the peer's address, which a Unix socket has none of.
fn accept(socket: &TcpListener) -> std::io::Result<std::fs::File> {
    let fd = match socket.local_addr() {
        Ok(_) => socket.accept()?.0.into_raw_fd(),
        Err(_) => {
            let unix = ManuallyDrop::new(unsafe { UnixListener::from_raw_fd(socket.as_raw_fd()) });
            unix.accept()?.0.into_raw_fd()
        }
    };
    Ok(unsafe { std::fs::File::from_raw_fd(fd) })
}

/// Gives the connection back if it stays open.
fn answer(mut stream: std::fs::File, version: &str, keeps: bool) -> Option<std::fs::File> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => request.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
    let status = match std::path::Path::new("sick").exists() {
        true => "503 Not Well",
        false => "200 OK",
    };
    let body = format!("{version} {}\n", std::process::id());
    let connection = if keeps { "keep-alive" } else { "close" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: {connection}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
    keeps.then_some(stream)
}

/// sd_notify(3), a datagram for each argument.
fn notify(messages: impl Iterator<Item = String>) {
    let path = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    for message in messages {
        let socket = UnixDatagram::unbound();
        if let Err(e) = socket.and_then(|s| s.send_to(message.as_bytes(), &path)) {
            eprintln!("error: {path:?}: {e}");
        }
    }
}

fn nap() -> ! {
    loop {
        std::thread::park();
    }
}

fn main() {
    let begun = now();
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let arg = args.next().unwrap_or_default();
    match verb.as_str() {
        // Its first instruction, appended to a file; then it naps.
        "stamp" => {
            let line = format!("{} {begun}\n", std::process::id());
            let file = std::fs::File::options().append(true).create(true).open(arg);
            let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
            nap();
        }
        "nap" => nap(),
        // A leader that ignores TERM, with a child in its group and a grandchild in a session of its own.
        "stubborn" => {
            ignore_term();
            for own_session in [false, true] {
                if unsafe { fork() } == 0 {
                    if own_session {
                        unsafe { setsid() };
                    }
                    nap();
                }
            }
            say(format_args!("stubborn"));
            nap();
        }
        // Leaves a child behind in a session of its own and ends; the child holds the pipe.
        "leave" => {
            if unsafe { fork() } == 0 {
                unsafe { setsid() };
                ignore_term();
                nap();
            }
            say(format_args!("left"));
        }
        // One line of so many commands.
        "long" => {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&vec![b'x'; arg.parse().unwrap_or(0)]);
            let _ = out.write_all(b"\n");
            drop(out);
            nap();
        }
        // So many numbered lines in one write, and out.
        "burst" => {
            let count: u32 = arg.parse().unwrap_or(0);
            let text: String = (1..=count).map(|n| format!("line {n}\n")).collect();
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
        // So many bytes in lines of 120 bytes, in writes of 64 KiB; the seconds it took go to a file.
        // Then it naps, unless nobody asked for the time.
        "flood" => {
            let line = [vec![b'x'; 119], vec![b'\n']].concat();
            let block = line.repeat(65_536 / 120 + 2);
            let mut left: usize = arg.parse().unwrap_or(0);
            let mut at = 0;
            let mut out = raw_stdout();
            while left > 0 {
                let size = left.min(65_536);
                if out.write_all(&block[at..at + size]).is_err() {
                    return;
                }
                at = (at + size) % 120;
                left -= size;
            }
            if let Some(file) = args.next() {
                let seconds = (now() - begun) as f64 / 1e9;
                let _ = std::fs::write(file, format!("{seconds}\n"));
                nap();
            }
        }
        // Numbered lines as fast as they are taken, in writes that end anywhere.
        "count" => {
            let mut out = raw_stdout();
            let (mut text, mut size) = (Vec::new(), 1);
            for n in 1_u64.. {
                let _ = writeln!(text, "{n:010}{:-<1$}", "", n as usize * 7 % 80);
                if text.len() >= 16_384 {
                    size = (size * 1_103 + 12_345) % 16_384;
                    if out.write_all(&text[..=size]).is_err() {
                        return;
                    }
                    text.drain(..=size);
                }
            }
        }
        // Copies files to its outputs as it is told over a FIFO: `1 PATH`, `2 PATH`.
        "relay" => {
            // Opened for writing too, it never ends.
            let orders = std::fs::File::options().read(true).write(true).open(&arg);
            let Ok(orders) = orders else { return };
            for order in std::io::BufReader::new(orders).lines().map_while(Result::ok) {
                let Some((stream, path)) = order.split_once(' ') else { continue };
                let bytes = std::fs::read(path).unwrap_or_default();
                let _ = match stream {
                    "1" => raw_stdout().write_all(&bytes),
                    _ => std::io::stderr().write_all(&bytes),
                };
            }
        }
        // A log of so many lines of 120 bytes: each hundredth an error, every tenth of those a
        // timeout, one with a needle.
        "log" => {
            let count: usize = arg.parse().unwrap_or(0);
            let mut text = String::with_capacity(count * 120);
            for n in 0..count {
                let what = match n {
                    _ if n == count / 2 + 1 => "info the needle is here",
                    _ if n % 100 == 0 => "error upstream said nothing, timeout",
                    _ if n % 10 == 0 => "error no such user",
                    _ => "info served",
                };
                let line = format!("2026-11-21T02:46:50.123Z request {n:>8} from 10.0.0.{} {what} ", n % 256);
                text.push_str(&format!("{line:.<119}\n"));
            }
            let _ = raw_stdout().write_all(text.as_bytes());
            nap();
        }
        // As a program that says that it is bpm: what it answers stands in a file beside it; without one it fails.
        "--handshake" | "--resume" => {
            let answer = format!("{}{verb}", std::env::args().next().unwrap_or_default());
            match std::fs::read_to_string(answer) {
                Ok(text) if text == "hang" => nap(),
                Ok(text) => say(format_args!("{text}")),
                Err(_) => {
                    eprintln!("no such option");
                    std::process::exit(2);
                }
            }
        }
        // So many lines a second, one write each, for so many seconds; then it naps.
        "rate" => {
            let rate: u64 = arg.parse().unwrap_or(1);
            let seconds: u64 = args.next().and_then(|s| s.parse().ok()).unwrap_or(1);
            let mut out = raw_stdout();
            for n in 0..rate * seconds {
                let due = begun + (n * 1_000_000_000 / rate) as i64;
                let early = due - now();
                if early > 0 {
                    std::thread::sleep(std::time::Duration::from_nanos(early as u64));
                }
                if out.write_all(format!("line {n}\n").as_bytes()).is_err() {
                    return;
                }
            }
            nap();
        }
        // The time, in nanoseconds, every so many milliseconds.
        "tick" => loop {
            std::thread::sleep(std::time::Duration::from_millis(arg.parse().unwrap_or(1_000)));
            say(format_args!("{}", now()));
        },
        // The time, in nanoseconds, so many times a second.
        "stamps" => {
            let rate: u64 = arg.parse().unwrap_or(1);
            let mut out = raw_stdout();
            for n in 0.. {
                let early = begun + (n * 1_000_000_000 / rate) as i64 - now();
                if early > 0 {
                    std::thread::sleep(std::time::Duration::from_nanos(early as u64));
                }
                if out.write_all(format!("{} {}\n", now(), char::from(b'a' + (n % 26) as u8).to_string().repeat(90)).as_bytes()).is_err() {
                    return;
                }
            }
        }
        // Listens on the port or at the address, prints the port, answers nothing.
        "listen" => match std::net::TcpListener::bind(match arg.contains(':') {
            true => arg,
            false => format!("127.0.0.1:{arg}"),
        }) {
            Ok(listener) => {
                say(format_args!("{}", listener.local_addr().map_or(0, |a| a.port())));
                nap();
            }
            Err(e) => eprintln!("error: {e}"),
        },
        // See there.
        "serve" => serve(),
        // Says all that over NOTIFY_SOCKET and ends.
        "notify" => notify(std::iter::once(arg).chain(args)),
        // Says nothing of worth over NOTIFY_SOCKET, without end.
        "babble" => {
            let path = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
            if let Ok(socket) = UnixDatagram::unbound() {
                for n in 0_u64.. {
                    if n == 10_000 {
                        say(format_args!("babbled"));
                    }
                    let _ = socket.send_to(b"MAINPID=1\nSTATUS=blah", &path);
                }
            }
        }
        // What it was given: descriptors, signals, group, standard input.
        "inherited" => {
            for fd in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
                let target = std::fs::read_link(fd.path()).unwrap_or_default();
                if !target.starts_with("/proc") {
                    say(format_args!("fd {} {}", fd.file_name().display(), target.display()));
                }
            }
            let status = std::fs::read("/proc/self/status").unwrap_or_default();
            for line in status.lines().map_while(Result::ok).filter(|l| l.starts_with("Sig")) {
                say(format_args!("{line}"));
            }
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
            let after = stat.rsplit(") ").next().unwrap_or_default();
            let ids: Vec<&str> = after.split(' ').skip(2).take(2).collect();
            say(format_args!("pid {} group {} session {}", std::process::id(), ids[0], ids[1]));
            nap();
        }
        other => {
            eprintln!("error: no verb {other:?}");
            std::process::exit(2);
        }
    }
}
