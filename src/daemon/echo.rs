//! The lines of the processes on our own standard output and error, with their names before them, for
//! the foreground. It may tell a gap; it never holds up a process.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::hub::Hub;
use crate::os::poll::{Mailbox, Waker, readable};
use crate::search::{Line, Stream};
use crate::tape::Tape;

/// At most so much of a log is taken at once, so that a loud process does not silence the others.
const BITE: usize = 64 << 10;
/// A terminal that does not read holds up our end no longer than this.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The thread that writes them. Dropped, it writes what there is and ends.
#[derive(Debug)]
pub(super) struct Echo {
    over: Arc<AtomicBool>,
    waker: Arc<Waker>,
    /// Rung by the thread at its end.
    done: Arc<Mailbox>,
}

impl Echo {
    /// Starts it; None: no thread or descriptor to be had, and the logs have all of it.
    pub(super) fn start(hub: &Arc<Hub>) -> Option<Self> {
        let mailbox = Mailbox::new().ok()?;
        let waker = mailbox.waker(0);
        let over = Arc::new(AtomicBool::new(false));
        let mut copier = Copier {
            hub: Arc::clone(hub),
            waker: Arc::clone(&waker),
            sources: Vec::new(),
        };
        let seen = Arc::clone(&over);
        let done = Mailbox::new().ok()?;
        let ended = done.waker(0);
        std::thread::Builder::new()
            .name("echo".into())
            .spawn(move || {
                copier.run(&mailbox, &seen);
                ended.wake();
            })
            .ok()?;
        Some(Self { over, waker, done })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.waker.wake();
        let _ = readable([Some(self.done.as_fd())], Some(LAST_WORDS));
    }
}

struct Copier {
    hub: Arc<Hub>,
    waker: Arc<Waker>,
    sources: Vec<Source>,
}

struct Source {
    label: String,
    tape: Arc<Tape>,
    cursor: u64,
}

impl Copier {
    fn run(&mut self, mailbox: &Mailbox, over: &AtomicBool) {
        self.hub.board.watch(&self.waker);
        let mut tokens = Vec::new();
        loop {
            self.waker.seen();
            // Asked first: what was written before the end was asked for is copied still.
            let last = over.load(Ordering::Acquire);
            self.look_for_new();
            match self.copy() {
                Ok(true) => continue,
                Ok(false) if last => break,
                Ok(false) => {}
                // Nobody reads any more; the logs have it.
                Err(_) => break,
            }
            if readable([Some(mailbox.as_fd())], None).is_err() {
                break;
            }
            mailbox.take(&mut tokens);
            tokens.clear();
        }
        self.hub.board.unwatch(&self.waker);
        for source in &self.sources {
            source.tape.unfollow(&self.waker);
        }
    }

    /// Processes that a reload brought.
    fn look_for_new(&mut self) {
        let board = self.hub.board.now();
        let mut now: BTreeMap<*const Tape, (String, Arc<Tape>)> = BTreeMap::new();
        for unit in &board.units {
            for (tape, label) in [
                (&unit.log, unit.name.clone()),
                (&unit.build_log, "build".to_string()),
            ] {
                now.insert(Arc::as_ptr(tape), (label, Arc::clone(tape)));
            }
        }
        for source in &self.sources {
            now.remove(&Arc::as_ptr(&source.tape));
        }
        for (label, tape) in now.into_values() {
            tape.follow(&self.waker);
            self.sources.push(Source {
                label,
                tape,
                cursor: 0,
            });
        }
    }

    /// Copies one bite of each; true: there is more.
    fn copy(&mut self) -> io::Result<bool> {
        let mut more = false;
        for source in &mut self.sources {
            let pulled = source.tape.pull(source.cursor, BITE);
            if pulled.lines.is_empty() && pulled.dropped == 0 {
                continue;
            }
            more = true;
            source.cursor = pulled.next;
            if pulled.dropped > 0 {
                let gap = format!("[{}] ({} lines left out)\n", source.label, pulled.dropped);
                io::stderr().write_all(gap.as_bytes())?;
            }
            write(&source.label, &pulled.lines)?;
        }
        Ok(more)
    }
}

/// Runs of lines of one stream are one write each.
fn write(label: &str, lines: &[Line]) -> io::Result<()> {
    for group in lines.chunk_by(|a, b| a.stream == b.stream) {
        let mut text = String::new();
        for line in group {
            text.push('[');
            text.push_str(label);
            text.push_str("] ");
            text.push_str(&line.text);
            text.push('\n');
        }
        match group.first().map(|line| line.stream) {
            Some(Stream::Stderr) => io::stderr().write_all(text.as_bytes())?,
            Some(Stream::Stdout) | None => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
        }
    }
    Ok(())
}
