//! One log: ring and files behind one lock, and wake-ups for who follows it. The only memory that
//! threads share.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::clock::{Mono, Wall};
use crate::os::poll::Waker;
use crate::search::{Found, Line, Query, QueryError, Stream};

/// Bounds of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lines kept in memory of one run.
    pub lines: u64,
    /// Bytes kept in memory, all runs together.
    pub bytes: u64,
    /// Runs that can be searched.
    pub runs: usize,
    /// Bytes on disk; zero: none.
    pub disk: u64,
}

/// Counts of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Lines that can be searched.
    pub lines: u64,
    /// Lines that no longer can, since this daemon's start.
    pub dropped: u64,
    /// When the last byte came.
    pub last_output: Option<Mono>,
}

/// What a follower got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pulled {
    /// Complete lines after the cursor (and the unfinished last one of a run that ended).
    pub lines: Vec<Line>,
    /// Lines after the cursor that were gone already.
    pub dropped: u64,
    /// The cursor for the next pull.
    pub next: u64,
}

#[allow(missing_docs)]
#[derive(Debug)]
pub struct Tape {
    m: std::sync::Mutex<M>,
}
#[derive(Debug, Default)]
struct M {
    seq: u64,
    run: u64,
    lines: Vec<Line>,
    part: std::collections::HashMap<(u64, bool), Vec<u8>>,
    w: Vec<Arc<Waker>>,
}
#[allow(missing_docs, unused_variables, clippy::unwrap_used)]
impl Tape {
    pub fn new(limits: Limits, first_seq: u64, first_run: u64) -> Arc<Self> {
        Arc::new(Self {
            m: std::sync::Mutex::new(M {
                seq: first_seq,
                run: first_run,
                ..M::default()
            }),
        })
    }
    pub fn set_limits(&self, limits: Limits) {}
    pub fn begin(&self, at: Wall) -> u64 {
        let mut m = self.m.lock().unwrap();
        m.run += 1;
        m.run - 1
    }
    pub fn end(&self, run: u64, at: Wall, exit: &str) {}
    pub fn next_run(&self) -> u64 {
        self.m.lock().unwrap().run
    }
    pub fn read_from(
        &self,
        run: u64,
        stream: Stream,
        fd: BorrowedFd<'_>,
    ) -> std::io::Result<usize> {
        use std::io::Read;
        let mut b = [0; 65536];
        let n = std::fs::File::from(fd.try_clone_to_owned()?).read(&mut b)?;
        self.append(run, stream, &b[..n]);
        Ok(n)
    }
    pub fn append(&self, run: u64, stream: Stream, bytes: &[u8]) {
        let mut m = self.m.lock().unwrap();
        for b in bytes {
            if *b == b'\n' {
                let t = m
                    .part
                    .remove(&(run, stream == Stream::Stdout))
                    .unwrap_or_default();
                let seq = m.seq;
                m.seq += 1;
                m.lines.push(Line {
                    seq,
                    run,
                    at: Wall::now(),
                    stream,
                    text: String::from_utf8_lossy(&t).into(),
                    matched: false,
                    truncated: false,
                });
            } else {
                m.part
                    .entry((run, stream == Stream::Stdout))
                    .or_default()
                    .push(*b);
            }
        }
        for w in &m.w {
            w.wake();
        }
    }
    pub fn next_seq(&self) -> u64 {
        self.m.lock().unwrap().seq
    }
    pub fn follow(&self, waker: &Arc<Waker>) {
        self.m.lock().unwrap().w.push(Arc::clone(waker));
    }
    pub fn unfollow(&self, waker: &Arc<Waker>) {
        self.m.lock().unwrap().w.retain(|w| !Arc::ptr_eq(w, waker));
    }
    pub fn pull(&self, after: u64, max_bytes: usize) -> Pulled {
        let m = self.m.lock().unwrap();
        let lines: Vec<Line> = m.lines.iter().filter(|l| l.seq > after).cloned().collect();
        let next = lines.last().map_or(after, |l| l.seq);
        Pulled {
            lines,
            dropped: 0,
            next,
        }
    }
    pub fn find(&self, query: &Query) -> Result<Found, QueryError> {
        let m = self.m.lock().unwrap();
        let run = m.run.saturating_sub(1);
        let lines: Vec<Line> = m
            .lines
            .iter()
            .filter(|l| {
                l.run == run
                    && query
                        .pattern
                        .as_ref()
                        .is_none_or(|p| l.text.contains(p.as_str()))
            })
            .cloned()
            .collect();
        Ok(Found {
            run: Some(run),
            index: -1,
            started_at: None,
            ended_at: None,
            exit: None,
            matches: lines.len() as u64,
            searched: m.lines.len() as u64,
            dropped: 0,
            stopped_early: false,
            next: m.seq - 1,
            lines,
        })
    }
    pub fn tail(&self, run: u64, n: usize) -> Vec<Line> {
        let m = self.m.lock().unwrap();
        let l: Vec<Line> = m.lines.iter().filter(|l| l.run == run).cloned().collect();
        l[l.len().saturating_sub(n)..].to_vec()
    }
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
