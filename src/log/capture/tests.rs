use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::base::clock::Wall;
use crate::log::search::{Found, Query};
use crate::log::store::Limits;
use crate::os::inbox::Mailbox;
use crate::os::poll::readable;

const LIMITS: Limits = Limits {
    lines: 1_000_000,
    bytes: 16 << 20,
    runs: 3,
    disk: 0,
};

struct Run {
    log: Arc<Log>,
    number: u64,
    capture: Capture,
    drained: Receiver<bool>,
}

impl Run {
    fn new(stdout: impl Into<OwnedFd>, stderr: impl Into<OwnedFd>) -> Self {
        Self::by(&Captures::new().unwrap(), stdout, stderr)
    }

    fn by(captures: &Captures, stdout: impl Into<OwnedFd>, stderr: impl Into<OwnedFd>) -> Self {
        let log = Log::new(LIMITS, 1, 1);
        let number = log.begin(Wall::now());
        let (tell, drained) = channel();
        let told = Box::new(move |ended| tell.send(ended).unwrap());
        let capture = captures.read(
            Arc::clone(&log),
            number,
            stdout.into(),
            Some(stderr.into()),
            told,
        );
        Self {
            capture: capture.unwrap(),
            log,
            number,
            drained,
        }
    }

    fn of(child: &mut Child) -> Self {
        Self::new(child.stdout.take().unwrap(), child.stderr.take().unwrap())
    }

    /// True: nobody has its pipes any more.
    fn drain(&self) -> bool {
        let patience = Duration::from_secs(10);
        self.capture.drain() || self.drained.recv_timeout(patience).unwrap()
    }

    /// The lines of the log once the child has ended and its output is drained.
    fn finish(self, child: &mut Child) -> Found {
        child.wait().unwrap();
        self.drain();
        self.log.end(self.number, Wall::now(), "exit code 0");
        self.log.find(&Query::unhurried()).unwrap()
    }

    /// Waits until the log has that many lines.
    fn lines(&self, count: u64) {
        let mailbox = Mailbox::new().unwrap();
        let waker = mailbox.waker(0);
        self.log.follow(&waker);
        while self.log.next_seq() <= count {
            waker.seen();
            let ready = readable([Some(mailbox.as_fd())], Some(Duration::from_secs(10)));
            assert!(ready.unwrap()[0], "only {} lines", self.log.next_seq() - 1);
            mailbox.take(&mut Vec::new());
        }
    }
}

fn shell(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn process_that_ends_at_once_loses_nothing() {
    let mut child = shell("seq 1 2000; echo bad >&2; printf end");
    let found = Run::of(&mut child).finish(&mut child);
    assert_eq!(found.matches, 2_002);
    let out = found.lines.iter().filter(|l| l.stream == Stream::Stdout);
    let texts: Vec<&str> = out.map(|l| l.text.as_str()).collect();
    assert_eq!(texts.len(), 2_001);
    let expected = (1..=2_000).map(|n| n.to_string()).chain(["end".into()]);
    assert!(texts.iter().copied().eq(expected));
}

#[test]
fn hostile_output_is_kept() {
    let mut child = shell(
        "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf 'nul\\0bad\\377\\n\\033[31mred\\033[0m\\n\\033[3\\ncut \\033]0;t'",
    );
    let found = Run::of(&mut child).finish(&mut child);
    let pieces: Vec<_> = found
        .lines
        .iter()
        .filter(|l| l.text.starts_with('x'))
        .collect();
    assert_eq!(
        pieces.iter().map(|l| l.text.len()).sum::<usize>(),
        3_000_000
    );
    assert_eq!(pieces.len(), 3_000_000 / (64 << 10) + 1);
    let (last, full) = pieces.split_last().unwrap();
    assert!(!last.truncated && full.iter().all(|l| l.truncated && l.text.len() == 64 << 10));
    let rest = found.lines.iter().skip(pieces.len());
    let rest: Vec<&str> = rest.map(|l| l.text.as_str()).collect();
    assert_eq!(rest, ["nul\0bad\u{fffd}", "red", "", "cut "]);
}

#[test]
fn grandchild_that_holds_the_pipe_delays_nothing_and_is_read() {
    let (out, mut hold) = std::io::pipe().unwrap();
    let (err, hold_err) = std::io::pipe().unwrap();
    hold.write_all(b"leader\n").unwrap();
    let run = Run::new(out, err);
    assert!(!run.drain(), "it may still write");
    assert_eq!(run.log.next_seq(), 2);
    run.log.end(run.number, Wall::now(), "exit code 0");
    hold.write_all(b"late\n").unwrap();
    run.lines(2);
    assert_eq!(run.log.tail(run.number, 1)[0].text, "late");
    assert!(run.drained.try_recv().is_err());
    hold.write_all(b"last words").unwrap();
    drop((hold, hold_err));
    assert!(run.drain(), "nobody is left who could write");
    assert_eq!(run.log.tail(run.number, 1)[0].text, "last words");
    assert!(run.capture.drain(), "nobody is asked again");
}

#[test]
fn end_of_both_pipes_is_not_the_end_of_the_leader() {
    let (out, end) = std::io::pipe().unwrap();
    let run = Run::new(out, std::io::pipe().unwrap().0);
    drop(end);
    // Both pipes are at their end; only the word of the leader's end counts.
    assert!(run.drain());
    assert!(run.drained.try_recv().is_err());
}

#[test]
fn lines_one_by_one_are_read_together_and_complete() {
    let (out, mut writer) = std::io::pipe().unwrap();
    let (err, mut errors) = std::io::pipe().unwrap();
    let run = Run::new(out, err);
    // The reader is waited for each time until it has seen that they come one by one.
    for n in 1..=u64::from(MANY) + 4 {
        writer.write_all(b"line\n").unwrap();
        run.lines(n);
    }
    for _ in 0..1_000 {
        writer.write_all(b"line\n").unwrap();
        errors.write_all(b"error\n").unwrap();
    }
    run.lines(2_000 + u64::from(MANY) + 4);
    // An order ends the pause at once.
    writer.write_all(b"last").unwrap();
    run.drain();
    assert_eq!(run.log.tail(run.number, 1)[0].text, "last");
}

#[test]
fn held_back_lines_come_before_later_ones() {
    let (out, mut writer) = std::io::pipe().unwrap();
    let (err, mut errors) = std::io::pipe().unwrap();
    let run = Run::new(out, err);
    let mut last = 0;
    // Whether it is held back depends on how fast we are; the order does not.
    for n in 1..=100 {
        writer.write_all(b"line\n").unwrap();
        if n % 10 == 0 {
            errors.write_all(b"error\n").unwrap();
            last += 1;
        }
        last += 1;
        run.lines(last);
    }
    let lines = run.log.tail(run.number, 200);
    let errors = lines.iter().enumerate().filter(|(_, l)| l.text == "error");
    let places: Vec<usize> = errors.map(|(at, _)| at).collect();
    assert_eq!(places, (1..=10).map(|n| 11 * n - 1).collect::<Vec<_>>());
}

#[test]
fn one_thread_reads_for_all_and_a_flood_holds_up_nobody() {
    let captures = Captures::new().unwrap();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let (out, mut flood) = std::io::pipe().unwrap();
    let flooded = Run::by(&captures, out, std::io::pipe().unwrap().0);
    let over = Arc::new(AtomicBool::new(false));
    let goes_on = Arc::clone(&over);
    let writer = std::thread::spawn(move || {
        while !goes_on.load(Ordering::Relaxed) {
            flood.write_all(&[b'\n'; 4096]).unwrap();
        }
    });
    let before = threads();
    let pipes = (0..50).map(|_| std::io::pipe().unwrap());
    let runs: Vec<_> = pipes
        .map(|(out, writer)| {
            let (err, errors) = std::io::pipe().unwrap();
            (Run::by(&captures, out, err), writer, errors)
        })
        .collect();
    // Other tests have threads as well.
    assert!(threads() < before + 40);
    for (run, mut writer, mut errors) in runs {
        writer.write_all(b"line\n").unwrap();
        run.lines(1);
        errors.write_all(b"error\n").unwrap();
        run.lines(2);
    }
    flooded.lines(100_000);
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn follower_is_woken_when_an_unfinished_line_stands_still() {
    let (out, mut writer) = std::io::pipe().unwrap();
    let run = Run::new(out, std::io::pipe().unwrap().0);
    let mailbox = Mailbox::new().unwrap();
    let waker = mailbox.waker(0);
    run.log.follow(&waker);
    // As soon as the second part came, the first one does not count.
    for part in [&b"login"[..], b": "] {
        writer.write_all(part).unwrap();
    }
    while run.log.still(None).is_empty() {
        waker.seen();
        let ready = readable([Some(mailbox.as_fd())], Some(Duration::from_secs(60)));
        assert!(ready.unwrap()[0], "nobody was woken");
        mailbox.take(&mut Vec::new());
    }
    assert_eq!(run.log.still(Some(run.number))[0].text, "login: ");
    assert_eq!(run.log.next_seq(), 1);
    writer.write_all(b"me\n").unwrap();
    run.lines(1);
    assert!(run.log.still(None).is_empty());
}
