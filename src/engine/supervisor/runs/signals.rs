//! The stop signal of a run: to its group or its leader, and to what left them.

use std::time::Duration;

use super::left::members;
use super::{Known, Maker, RunRecord, Runs};
use crate::base::clock::Mono;
use crate::base::table::Set;
use crate::config::shell::{self, Receiver};
use crate::config::{Command, Process, StopTo};
use crate::lifecycle::RunKey;
use crate::os::proc;
use crate::os::reap;

/// How a run is stopped, and how far that is.
#[derive(Default)]
pub(super) struct Stop {
    pub(super) signal: i32,
    pub(super) receiver: Receiver,
    pub(super) timeout: Duration,
    /// It was told to end.
    pub(super) begun: bool,
    /// That was before its first process ended: the end was asked for.
    pub(super) asked: bool,
    /// The leader alone has had the signal: at this time, or when it has ended, all others get it.
    pub(super) rest_due: Option<Mono>,
    /// All that shows of it is killed.
    pub(super) killing: bool,
    /// Pids that needed KILL.
    pub(super) killed: Set<i32>,
}

impl Stop {
    pub(super) fn of(process: &Process) -> Self {
        Self {
            signal: process.stop_signal,
            receiver: receiver(process),
            timeout: process.stop_timeout,
            ..Self::default()
        }
    }
}

/// The processes of a run that get the stop signal first.
fn receiver(process: &Process) -> Receiver {
    let words: Vec<String> = match &process.command {
        Some(Command::List(words)) => words.iter().chain(&process.args).cloned().collect(),
        Some(Command::Shell(line)) => shell::words(line),
        None => Vec::new(),
    };
    match process.stop_to {
        StopTo::Group => Receiver::Group,
        StopTo::Leader => Receiver::Leader,
        StopTo::Auto => {
            let signal = reap::signal_name(process.stop_signal);
            shell::receiver(words.iter().map(String::as_str), &signal)
        }
    }
}

/// A run that was sent its stop signal; processes of it that came to us were not yet.
pub(super) struct Signalled {
    key: RunKey,
    /// The group that has had the signal.
    group: Option<i32>,
    signal: i32,
}

impl Runs {
    /// Sends a run its stop signal. To the group: with it to what left the group but is still below it; what came to
    /// us follows in [`Runs::signal_orphans`]. To the leader: the rest follows in [`Runs::signal_rest`].
    pub(in super::super) fn signal(&mut self, key: RunKey) {
        let Some(record) = self.records.get_mut(&key) else {
            return;
        };
        let (pid, signal) = (record.pid, record.stop.signal);
        let first = !record.stop.begun;
        // Its own end may have come first, and the signal of it be on its way still.
        let lives = record
            .leader
            .as_ref()
            .is_some_and(|leader| !leader.has_ended());
        record.stop.asked |= lives;
        record.stop.begun = true;
        let mut group = None;
        if let Some(leader) = &record.leader {
            match record.stop.receiver {
                Receiver::Leader if first => {
                    let half = record.stop.timeout / 2;
                    record.stop.rest_due = Some(Mono::now().after(half));
                    // Their parents may end before the others get the signal.
                    for p in proc::descendants_of(pid) {
                        self.origins.note(&p, vec![Maker::Run(key)]);
                    }
                    leader.stop(signal);
                    self.stopped_of(key.unit).signalled = true;
                    return;
                }
                Receiver::Rest => {
                    proc::descendants_of(pid)
                        .iter()
                        .for_each(|p| p.stop(signal));
                }
                Receiver::Group | Receiver::Leader => {
                    let below = proc::descendants_of(pid);
                    for escaped in below.iter().filter(|p| p.pgid != pid) {
                        self.origins.note(escaped, vec![Maker::Run(key)]);
                        escaped.stop(signal);
                    }
                    leader.stop_group(signal);
                }
            }
            group = Some(pid);
        }
        self.signalled.push(Signalled { key, group, signal });
        self.stopped_of(key.unit).signalled = true;
    }

    /// Signals the rest of those runs whose leader alone has had the stop signal, and has ended by now or has had half
    /// of the time.
    pub(in super::super) fn signal_rest(&mut self, known: &Known, now: Mono) {
        let is_due = |record: &RunRecord| {
            let due = record.stop.rest_due.is_some_and(|due| due <= now);
            due || record.stop.rest_due.is_some() && !record.lives()
        };
        if !self.records.values().any(|record| is_due(record)) {
            return;
        }
        let orphans = self.orphans(known);
        for (key, record) in self.records.iter_mut() {
            if is_due(record) {
                record.stop.rest_due = None;
                let rest = members(*key, record, &orphans).into_iter();
                // The leader gets no second one.
                rest.filter(|p| p.pid != record.pid)
                    .for_each(|p| p.stop(record.stop.signal));
            }
        }
    }

    /// Signals those as well that left the groups of these runs and came to us when their parents ended.
    pub(in super::super) fn signal_orphans(&mut self, known: &Known) {
        let signalled = std::mem::take(&mut self.signalled);
        for (orphan, of) in self.orphans(known) {
            let run = signalled.iter().find(|s| of == Some(s.key));
            // The group has had it.
            if let Some(run) = run.filter(|run| Some(orphan.pgid) != run.group) {
                orphan.stop(run.signal);
            }
        }
    }

    /// [`Runs::signal_orphans`] has something to do.
    pub(in super::super) fn has_signalled(&self) -> bool {
        !self.signalled.is_empty()
    }
}
