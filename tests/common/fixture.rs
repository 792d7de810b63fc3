//! A child that does what good children don't. Compiled once by `rustc`, without cargo.
//!
//! `fixture VERB [ARG]`; see `main`.

use std::io::{BufRead, Write};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn setsid() -> i32;
    fn fork() -> i32;
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
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
        // One line of so many letters.
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
        // Listens on the port, prints it, answers nothing.
        "listen" => match std::net::TcpListener::bind(format!("127.0.0.1:{arg}")) {
            Ok(listener) => {
                say(format_args!("{}", listener.local_addr().map_or(0, |a| a.port())));
                nap();
            }
            Err(e) => eprintln!("error: {e}"),
        },
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
