//! Passes what processes write through to bpm's own outputs, each line after the name of who wrote it.
//! A follower like any other: it never holds up a process, and says what it missed.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::handle::Handle;
use crate::log::search::{Stream, content, strip_into};
use crate::log::store::{Log, RawLine};
use crate::os::poll::{Mailbox, Until, Waker, readable, wait};

/// What is taken of one log before the next one has its turn, and what is written at once, bytes.
const TURN: usize = 64 << 10;

/// The thread that passes lines through.
#[derive(Debug)]
pub struct Passthrough {
    shared: Arc<Shared>,
}

/// What the thread and its owner share.
#[derive(Debug)]
struct Shared {
    mailbox: Arc<Mailbox>,
    waker: Arc<Waker>,
    /// Whose processes' logs are passed through.
    handle: Arc<Handle>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sources: Vec<Arc<Source>>,
    finish: bool,
    done: bool,
}

#[derive(Debug)]
struct Source {
    prefix: String,
    log: Arc<Log>,
    cursor: AtomicU64,
}

impl Passthrough {
    /// Passes the logs of all processes there are and will be through, builds too: lines from standard
    /// output to `out`, others to `err`. Escapes pass where that is a terminal.
    ///
    /// # Errors
    /// No descriptor or no thread is to be had.
    pub fn start(handle: &Arc<Handle>, out: OwnedFd, err: OwnedFd) -> io::Result<Self> {
        let mailbox = Mailbox::new()?;
        let shared = Arc::new(Shared {
            waker: mailbox.waker(0),
            mailbox,
            handle: Arc::clone(handle),
            state: Mutex::default(),
            done: Condvar::new(),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            sinks: [Sink::new(out), Sink::new(err)],
            buffer: Vec::new(),
            target: Stream::Stdout,
        };
        let thread = std::thread::Builder::new().name("echo".into());
        thread.spawn(move || writer.run())?;
        handle.snapshot.watch(&shared.waker);
        shared.waker.wake();
        Ok(Self { shared })
    }

    /// Writes what is there, then ends. False: that took longer than `patience` (nobody reads the
    /// terminal); the thread is left behind then.
    pub fn finish(self, patience: Duration) -> bool {
        self.shared.lock().finish = true;
        self.shared.waker.wake();
        let state = self.shared.lock();
        let waited = self
            .shared
            .done
            .wait_timeout_while(state, patience, |s| !s.done);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.done
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        self.shared.lock().finish = true;
        self.shared.waker.wake();
    }
}

impl Shared {
    /// Takes up the logs of processes that came (a reload), from their first line on. A log whose
    /// process is gone stays until the end: what it got last is written still, and it costs nothing.
    fn meet(&self) {
        let snapshot = self.handle.snapshot.now();
        for unit in &snapshot.units {
            for (prefix, log) in [
                (format!("[{}] ", unit.name), &unit.log),
                ("[build] ".to_owned(), &unit.build_log),
            ] {
                let mut state = self.lock();
                if state.sources.iter().any(|s| Arc::ptr_eq(&s.log, log)) {
                    continue;
                }
                state.sources.push(Arc::new(Source {
                    prefix,
                    log: Arc::clone(log),
                    cursor: AtomicU64::new(log.origin()),
                }));
                drop(state);
                log.follow(&self.waker);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    sinks: [Sink; 2],
    buffer: Vec<u8>,
    /// Where the buffer goes.
    target: Stream,
}

impl Writer {
    fn run(mut self) {
        let mut tokens = Vec::new();
        loop {
            // An error here is the kernel's lack of memory: looking costs little.
            let _ = readable([Some(self.shared.mailbox.as_fd())], None);
            self.shared.mailbox.take(&mut tokens);
            tokens.clear();
            self.shared.waker.seen();
            // Asked before the last look, so nothing that came before the order is missed.
            let finish = self.shared.lock().finish;
            self.shared.meet();
            while self.round() {}
            if finish {
                break;
            }
        }
        self.shared.handle.snapshot.unwatch(&self.shared.waker);
        let mut state = self.shared.lock();
        for source in state.sources.drain(..) {
            source.log.unfollow(&self.shared.waker);
        }
        state.done = true;
        self.shared.done.notify_all();
    }

    /// Gives each log its turn. True: there is more.
    fn round(&mut self) -> bool {
        let sources = self.shared.lock().sources.clone();
        let mut more = false;
        for source in sources {
            let after = source.cursor.load(Ordering::Relaxed);
            let pull = source
                .log
                .pull_raw(after, TURN, |line| self.line(&source.prefix, line));
            if pull.dropped > 0 {
                let note = format!(
                    "... {} lines skipped",
                    crate::base::json::thousands(pull.dropped)
                );
                self.put(Stream::Stderr, &source.prefix, note.as_bytes());
            }
            source.cursor.store(pull.next, Ordering::Relaxed);
            more |= pull.more;
        }
        self.flush();
        more
    }

    fn line(&mut self, prefix: &str, line: RawLine<'_>) {
        self.put(line.stream, prefix, line.bytes);
    }

    fn put(&mut self, stream: Stream, prefix: &str, bytes: &[u8]) {
        // One buffer for both: on a terminal they stay in order.
        if self.target != stream || self.buffer.len() >= TURN {
            self.flush();
            self.target = stream;
        }
        self.buffer.extend_from_slice(prefix.as_bytes());
        if self.sinks[stream as usize].terminal {
            self.buffer
                .extend_from_slice(bytes.strip_suffix(b"\n").unwrap_or(bytes));
        } else {
            strip_into(content(bytes), &mut self.buffer);
        }
        self.buffer.push(b'\n');
    }

    fn flush(&mut self) {
        self.sinks[self.target as usize].write(&self.buffer);
        self.buffer.clear();
    }
}

#[derive(Debug)]
struct Sink {
    fd: Option<File>,
    terminal: bool,
}

impl Sink {
    fn new(fd: OwnedFd) -> Self {
        Self {
            terminal: fd.is_terminal(),
            fd: Some(fd.into()),
        }
    }

    /// Writes all, however long it takes; after an error (the reader is gone) never again.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty()
            && let Some(fd) = &self.fd
        {
            match (&*fd).write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Somebody else made our terminal non-blocking.
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let _ = wait(&[(fd.as_fd(), Until::Writable)], None);
                }
                Err(_) => self.fd = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::base::clock::Wall;
    use crate::engine::handle::Identity;
    use crate::engine::snapshot::{Snapshot, SnapshotCell, UnitView};
    use crate::log::store::Limits;

    const LIMITS: Limits = Limits {
        lines: 1_000_000,
        bytes: 256 << 10,
        runs: 3,
        disk: 0,
    };

    /// An echo of one process, its log and that of its builds, and the other ends of the outputs.
    fn echo() -> (Passthrough, [Arc<Log>; 2], [io::PipeReader; 2]) {
        let logs = [(); 2].map(|()| Log::new(LIMITS, 1, 1));
        let [log, build_log] = logs.clone();
        let mut snapshot = Snapshot::new("shop".into(), "/".into());
        snapshot.units = vec![Arc::new(UnitView::idle("web", log, build_log))];
        let waker = Mailbox::new().unwrap().waker(0);
        let (handle, _) = Handle::new(SnapshotCell::new(snapshot), Identity::nobody(), waker);
        let (out_end, out) = io::pipe().unwrap();
        let (err_end, err) = io::pipe().unwrap();
        let echo = Passthrough::start(&handle, out.into(), err.into()).unwrap();
        (echo, logs, [out_end, err_end])
    }

    fn all(mut end: io::PipeReader) -> String {
        let mut text = String::new();
        end.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_pass_with_their_names_up_to_the_last() {
        let (echo, logs, [out, err]) = echo();
        let [web, build] = logs.each_ref().map(|t| t.begin(Wall(1)));
        logs[0].append(web, Stream::Stdout, b"\x1b[32mup\x1b[0m\r\nunfin");
        logs[1].append(build, Stream::Stderr, b"warning: x\n");
        logs[0].append(web, Stream::Stdout, b"ished\nlast");
        logs[0].end(web, Wall(2), "exit code 0");
        assert!(echo.finish(Duration::from_secs(10)));
        assert_eq!(all(out), "[web] up\n[web] unfinished\n[web] last\n");
        assert_eq!(all(err), "[build] warning: x\n");
    }

    #[test]
    fn nobody_reads_and_nobody_is_held_up() {
        let (echo, [log, _], [out, err]) = echo();
        let run = log.begin(Wall(1));
        for n in 0..100_000 {
            log.append(run, Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        assert!(
            !echo.finish(Duration::from_millis(20)),
            "nobody reads, so it can't end"
        );
        // Somebody does, at last: what was still kept comes, and what was not is said.
        let errors = std::thread::spawn(move || all(err));
        let text = all(out);
        let gap = errors.join().unwrap();
        assert!(text.ends_with("[web] line 99999\n"));
        let skipped = gap
            .strip_prefix("[web] ... ")
            .and_then(|g| g.split(' ').next());
        let skipped: usize = skipped.unwrap().replace(',', "").parse().unwrap();
        assert_eq!(text.lines().count() + skipped, 100_000, "{gap}");
    }

    #[test]
    fn a_closed_output_is_no_end() {
        let (echo, [log, _], outputs) = echo();
        drop(outputs);
        let run = log.begin(Wall(1));
        log.append(run, Stream::Stdout, b"into the void\n");
        log.append(run, Stream::Stderr, b"into the void\n");
        assert!(echo.finish(Duration::from_secs(10)));
    }
}
