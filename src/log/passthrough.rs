//! Passes what processes write through to bpm's own outputs, each line after the name of its process. A
//! follower like any other: it never holds up a process, and reports the lines it missed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::base::escape::coloured;
use crate::base::json::thousands;
use crate::log::line::{coloured_into, lossy, shown, strip_into};
use crate::log::store::Log;
use crate::log::stream::Stream;
use crate::os::inbox::{Inbox, Waker};
use crate::os::poll::{Until, wait};
use crate::os::threads;

/// A terminal that takes nothing holds up nobody for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that are taken of one log before the next one has its turn, and that are written at once.
const TURN: usize = 64 << 10;

/// The logs that are passed through.
pub trait Sources: Send + Sync {
    /// Wakes `waker` whenever a log may have come or gone.
    fn watch(&self, waker: &Arc<Waker>);
    /// Undoes [`Sources::watch`].
    fn unwatch(&self, waker: &Arc<Waker>);
    /// The logs there are now, each with what stands before its lines.
    fn logs(&self) -> Vec<(String, Arc<Log>)>;
}

/// Called after each write: a file may be too large by then.
pub type Written = Box<dyn Fn() + Send>;

/// The thread that passes lines through.
#[derive(Debug)]
pub struct Passthrough {
    inbox: Arc<Inbox<Input>>,
    done: Arc<Inbox<()>>,
    paused: Arc<Inbox<Vec<u64>>>,
    goes_on: Arc<Inbox<()>>,
}

#[derive(Debug, Clone, Copy)]
enum Input {
    /// There may be new lines, or new logs.
    Lines,
    /// Say how far all is written, then write nothing until somebody says so.
    Pause,
    Finish,
}

/// Nothing is written while this is there.
#[derive(Debug)]
pub struct Pause(Arc<Inbox<()>>);

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Passthrough {
    /// Passes the lines of all logs there are and will be through: those from standard output to `out`,
    /// others to `err`. Colours pass where that is a terminal, and no other escape sequences.
    ///
    /// # Errors
    /// No descriptor or no thread is to be had.
    ///
    /// `cursors`: what another bpm has written already, in the order of the logs.
    pub fn start(
        sources: Arc<dyn Sources>,
        out: OwnedFd,
        err: OwnedFd,
        cursors: Vec<u64>,
        written: Written,
    ) -> io::Result<Self> {
        Self::start_to(sources, [out, err].map(Sink::new), cursors, written)
    }

    fn start_to(
        sources: Arc<dyn Sources>,
        sinks: [Sink; 2],
        cursors: Vec<u64>,
        written: Written,
    ) -> io::Result<Self> {
        let (inbox, done) = (Inbox::new()?, Inbox::new()?);
        let (paused, goes_on) = (Inbox::new()?, Inbox::new()?);
        let writer = Writer {
            cursors: cursors.into(),
            paused: Arc::clone(&paused),
            goes_on: Arc::clone(&goes_on),
            waker: inbox.waker(Input::Lines),
            inbox: Arc::clone(&inbox),
            done: Arc::clone(&done),
            sources,
            followed: Vec::new(),
            sinks,
            buffer: Vec::new(),
            target: Stream::Stdout,
            written,
        };
        threads::start("passthrough", Box::new(move || writer.run()))?;
        Ok(Self {
            inbox,
            done,
            paused,
            goes_on,
        })
    }

    /// Writes the lines there are, then nothing while the result is there. None: that takes too long (nobody reads the
    /// terminal).
    ///
    /// # Errors
    /// None.
    pub fn pause(&self) -> io::Result<Option<(Vec<u64>, Pause)>> {
        let pause = Pause(Arc::clone(&self.goes_on));
        let _ = self.inbox.send(Input::Pause);
        let cursors = self.paused.wait(PATIENCE);
        Ok(cursors.map(|cursors| (cursors, pause)))
    }

    /// Writes the lines there are, then ends. False: that took longer than `patience` (nobody reads the
    /// terminal), and the thread is left behind.
    pub fn finish(&self, patience: Duration) -> bool {
        let _ = self.inbox.send(Input::Finish);
        self.done.wait(patience).is_some()
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        let _ = self.inbox.send(Input::Finish);
    }
}

/// A log that is followed.
struct Followed {
    prefix: String,
    log: Arc<Log>,
    cursor: u64,
}

struct Writer {
    /// How far another bpm has written the first logs.
    cursors: VecDeque<u64>,
    paused: Arc<Inbox<Vec<u64>>>,
    goes_on: Arc<Inbox<()>>,
    inbox: Arc<Inbox<Input>>,
    done: Arc<Inbox<()>>,
    waker: Arc<Waker>,
    sources: Arc<dyn Sources>,
    followed: Vec<Followed>,
    sinks: [Sink; 2],
    buffer: Vec<u8>,
    /// The output that the buffer is for.
    target: Stream,
    written: Written,
}

impl Writer {
    fn run(mut self) {
        self.sources.watch(&self.waker);
        let mut finish = false;
        loop {
            self.waker.seen();
            self.follow_new();
            while self.round() {}
            if finish {
                break;
            }
            match self.inbox.wait(Duration::MAX) {
                Some(Input::Lines) => {}
                Some(Input::Pause) => {
                    self.follow_new();
                    while self.round() {}
                    let _ = self.paused.send(self.written());
                    let _ = self.goes_on.wait(Duration::MAX);
                }
                Some(Input::Finish) | None => finish = true,
            }
        }
        self.sources.unwatch(&self.waker);
        for followed in &self.followed {
            followed.log.unfollow(&self.waker);
        }
        let _ = self.done.send(());
    }

    /// Follows the logs that came (a reload), from their first line on. A log whose process is gone stays
    /// until the end: its last lines are still written, and it costs nothing.
    fn follow_new(&mut self) {
        for (prefix, log) in self.sources.logs() {
            if self.followed.iter().any(|f| Arc::ptr_eq(&f.log, &log)) {
                continue;
            }
            log.follow(&self.waker);
            self.followed.push(Followed {
                prefix,
                cursor: self.cursors.pop_front().unwrap_or_else(|| log.origin()),
                log,
            });
        }
    }

    /// The cursors in the order of the logs.
    fn written(&self) -> Vec<u64> {
        let logs = self.sources.logs().into_iter();
        let cursor = |(_, log): (String, Arc<Log>)| {
            let mut followed = self.followed.iter();
            let known = followed.find(|f| Arc::ptr_eq(&f.log, &log));
            known.map_or(log.origin(), |f| f.cursor)
        };
        logs.map(cursor).collect()
    }

    /// Gives each log its turn. True: there is more.
    fn round(&mut self) -> bool {
        let mut more = false;
        let mut all = std::mem::take(&mut self.followed);
        for followed in &mut all {
            let Followed {
                prefix,
                log,
                cursor,
            } = followed;
            let pull = log.pull_raw(*cursor, TURN, |line| {
                self.put(line.stream, prefix, line.bytes);
            });
            if pull.dropped > 0 {
                let note = format!("... {} lines skipped", thousands(pull.dropped));
                self.put(Stream::Stderr, prefix, note.as_bytes());
            }
            *cursor = pull.next;
            more |= pull.more;
        }
        self.followed = all;
        self.flush();
        more
    }

    fn put(&mut self, stream: Stream, prefix: &str, line: &[u8]) {
        // One buffer for both: on a terminal they stay in order.
        if self.target != stream || self.buffer.len() >= TURN {
            self.flush();
            self.target = stream;
        }
        self.buffer.extend_from_slice(prefix.as_bytes());
        if self.sinks[stream as usize].terminal {
            let begin = self.buffer.len();
            coloured_into(line, &mut self.buffer);
            write_out_hidden(&mut self.buffer, begin);
        } else {
            let mut plain = Vec::with_capacity(line.len());
            strip_into(line, &mut plain);
            self.buffer.extend_from_slice(shown(&plain));
        }
        self.buffer.push(b'\n');
    }

    fn flush(&mut self) {
        self.sinks[self.target as usize].write(&self.buffer);
        self.buffer.clear();
        (self.written)();
    }
}

/// Writes out, from `begin` on, what a terminal would obey or not show; bytes that are no text are replaced.
fn write_out_hidden(buffer: &mut Vec<u8>, begin: usize) {
    let line = &buffer[begin..];
    if line.iter().all(|b| matches!(b, b' '..=b'~' | b'\t' | 0x1b)) {
        return;
    }
    let text = lossy(line);
    if let (Cow::Borrowed(_), Cow::Borrowed(_)) = (&text, coloured(&text)) {
        return;
    }
    let text = coloured(&text).into_owned();
    buffer.truncate(begin);
    buffer.extend_from_slice(text.as_bytes());
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
    use crate::log::store::Limits;

    const LIMITS: Limits = Limits {
        lines: 1_000_000,
        bytes: 256 << 10,
        runs: 3,
        disk: 0,
    };
    const LONG: Duration = Duration::from_secs(60);

    /// The log of a process and that of its builds.
    struct Two([Arc<Log>; 2]);

    impl Sources for Two {
        fn watch(&self, _: &Arc<Waker>) {}

        fn unwatch(&self, _: &Arc<Waker>) {}

        fn logs(&self) -> Vec<(String, Arc<Log>)> {
            let prefixes = ["[web] ", "[build] "].map(str::to_owned);
            prefixes.into_iter().zip(self.0.clone()).collect()
        }
    }

    /// Two logs that are passed through, and the other ends of the outputs.
    fn piped(terminal: bool) -> (Passthrough, [Arc<Log>; 2], [io::PipeReader; 2]) {
        let logs = [(); 2].map(|()| Log::new(LIMITS, 1, 1));
        let (out_end, out) = io::pipe().unwrap();
        let (err_end, err) = io::pipe().unwrap();
        let sinks = [out, err].map(|pipe| Sink {
            terminal,
            ..Sink::new(pipe.into())
        });
        let passthrough = Passthrough::start_to(
            Arc::new(Two(logs.clone())),
            sinks,
            Vec::new(),
            Box::new(|| ()),
        )
        .unwrap();
        (passthrough, logs, [out_end, err_end])
    }

    fn all(mut end: io::PipeReader) -> String {
        let mut text = String::new();
        end.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_pass_with_their_names_up_to_the_last() {
        let (passthrough, logs, [out, err]) = piped(false);
        let [web, build] = logs.each_ref().map(|t| t.begin(Wall(1)));
        logs[0].append(web, Stream::Stdout, b"\x1b[32mup\x1b[0m\r\n10%\runfin");
        logs[1].append(build, Stream::Stderr, b"warning: x\n");
        logs[0].append(web, Stream::Stdout, b"ished\nlast");
        logs[0].end(web, Wall(2), "exit code 0");
        assert!(passthrough.finish(LONG));
        assert_eq!(all(out), "[web] up\n[web] unfinished\n[web] last\n");
        assert_eq!(all(err), "[build] warning: x\n");
    }

    #[test]
    fn slow_reader_holds_up_nobody() {
        let (passthrough, [log, _], [out, err]) = piped(false);
        let run = log.begin(Wall(1));
        for n in 0..100_000 {
            log.append(run, Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        assert!(
            !passthrough.finish(Duration::from_millis(20)),
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
    fn closed_output_is_no_end() {
        let (passthrough, [log, _], outputs) = piped(false);
        drop(outputs);
        let run = log.begin(Wall(1));
        log.append(run, Stream::Stdout, b"into the void\n");
        log.append(run, Stream::Stderr, b"into the void\n");
        assert!(passthrough.finish(LONG));
    }

    #[test]
    fn terminal_gets_colours_that_end_with_their_line() {
        let (passthrough, [log, _], [out, _]) = piped(true);
        let run = log.begin(Wall(1));
        log.append(
            run,
            Stream::Stdout,
            b"\x1b[2J\x1b[31mred\n\x1b]0;t\x07plain\n",
        );
        assert!(passthrough.finish(LONG));
        assert_eq!(all(out), "[web] \x1b[31mred\x1b[0m\n[web] plain\n");
    }

    #[test]
    fn terminal_gets_no_hidden_character() {
        let (passthrough, [log, _], [out, _]) = piped(true);
        let run = log.begin(Wall(1));
        let lines = "\u{202e}a\x07\x1b[1mb\u{9b}2J\ngr\u{fc}n\n".as_bytes();
        log.append(run, Stream::Stdout, &[lines, b"\x9b2J\n"].concat());
        assert!(passthrough.finish(LONG));
        assert_eq!(
            all(out),
            "[web] \\u{202e}a\\u{7}\x1b[1mb\\u{9b}2J\x1b[0m\n[web] gr\u{fc}n\n[web] \u{fffd}2J\n"
        );
    }
}
