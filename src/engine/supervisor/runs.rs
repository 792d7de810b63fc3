//! Runs: what is known of each from its start until nothing of it is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Mono, Wall, human};
use crate::base::logger::Level;
use crate::base::table::Set;
use crate::config::{self, Kind, Process, Restart};
use crate::engine::snapshot::ExitView;
use crate::engine::state_file::clip;
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::log::capture::CaptureLoop;
use crate::os::group;
use crate::os::proc::{self, Proc};
use crate::os::reap::{self, Child, Death, End, reap_from};

use super::checks::Checks;
use super::{Phase, Supervisor};

/// How many lines of a crash.
const CRASH_LINES: usize = 40;
/// What tasks have left running on purpose gets so long to end, when bpm does.
pub(super) const LEFT_BY_TASKS: Duration = Duration::from_secs(5);

/// What survives KILL so long is named and left behind.
const GIVE_UP: Duration = Duration::from_secs(2);

/// How far the end of what tasks have left is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    Begun,
    ToolResult,
    Killed,
}

/// How many characters of a command are shown of what was left.
const LONGEST_COMMAND: usize = 60;

/// What a bpm that was killed has left.
struct Leftover {
    proc: Proc,
    command: String,
    signal: i32,
    timeout: Duration,
}

/// One run.
pub(super) struct RunRecord {
    /// The number of its first process, and of its group.
    pub(super) pid: i32,
    /// Its first process until that is reaped.
    leader: Option<Child>,
    /// Its number in the log.
    pub(super) run: u64,
    pub(super) exe: Option<PathBuf>,
    /// The number of its first line.
    pub(super) first_line: u64,
    pub(super) checks: Checks,
    /// Held so that late lines of what it left behind are still read.
    capture: CaptureLoop,
    began: Mono,
    stop_signal: i32,
    task: bool,
    /// bpm sent the stop signal before its first process ended.
    asked: bool,
    /// It was told to end.
    stopping: bool,
    /// Why bpm did so, where nobody wanted it to.
    fault: Option<String>,
    /// Whatever shows of it is killed.
    killing: bool,
    death: Option<Death>,
    /// The lifecycle knows of its death.
    told: bool,
    /// Pids that needed KILL.
    pub(super) killed: Set<i32>,
}

impl RunRecord {
    /// Its first process has not ended.
    pub(super) fn lives(&self) -> bool {
        self.leader.is_some()
    }

    /// Of a run that has just begun.
    pub(super) fn new(
        leader: Child,
        run: u64,
        first_line: u64,
        capture: CaptureLoop,
        began: Mono,
        process: &Process,
    ) -> Self {
        Self {
            pid: leader.pid(),
            leader: Some(leader),
            run,
            exe: None,
            first_line,
            checks: Checks::default(),
            capture,
            began,
            stop_signal: process.stop_signal,
            task: process.kind == Kind::Task,
            asked: false,
            stopping: false,
            fault: None,
            killing: false,
            death: None,
            told: false,
            killed: Set::default(),
        }
    }
}

/// What is known of the end of a run, for whoever asked for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Stopped {
    pub(super) signalled: bool,
    pub(super) killed: usize,
    pub(super) leftovers: Vec<(i32, String)>,
}

impl Supervisor {
    /// The end that follows is as abnormal as one of its own.
    pub(super) fn note_fault(&mut self, key: RunKey, why: String) {
        if let Some(book) = self.books.get_mut(&key) {
            book.fault = Some(why);
        }
    }

    /// Tells a run to end: its group, and what left the group but is still below it.
    pub(super) fn tell_to_end(&mut self, key: RunKey) {
        let Some(book) = self.books.get_mut(&key) else {
            return;
        };
        // What has ended by itself, even if that is not in the log yet, did not end for this.
        let group = book.leader.as_ref().map(|leader| {
            let below = proc::descendants_of(book.pid);
            for escaped in below.iter().filter(|p| p.pgid != book.pid) {
                escaped.stop(book.stop_signal);
            }
            leader.stop_group(book.stop_signal);
            book.pid
        });
        book.asked |= group.is_some();
        book.stopping = true;
        self.telling.push((key, group, book.stop_signal));
        self.stopped_of(key.unit).signalled = true;
    }

    /// Tells those as well that left the groups of these runs and came to us when their parents ended.
    pub(super) fn tell_orphans(&mut self) {
        let telling = std::mem::take(&mut self.telling);
        if telling.is_empty() {
            return;
        }
        for (orphan, of) in self.orphans() {
            let told = telling.iter().find(|(key, ..)| of == Some(*key));
            // What is in the group has had it.
            if let Some((_, group, signal)) = told
                && Some(orphan.pgid) != *group
            {
                orphan.stop(*signal);
            }
        }
    }

    /// Kills all of a run, now and whenever more of it shows.
    pub(super) fn kill(&mut self, key: RunKey) {
        let Some(book) = self.books.get_mut(&key) else {
            return;
        };
        book.killing = true;
        self.ends_due = true;
    }

    /// Leaves behind what survived KILL, and names it.
    pub(super) fn give_up(&mut self, key: RunKey) {
        let left = self.members_of(key);
        let named: Vec<(i32, String)> = left
            .iter()
            .map(|p| (p.pid, proc::program(p.pid).unwrap_or_else(|| "?".into())))
            .collect();
        if !named.is_empty() {
            self.say(
                Level::Error,
                &format!("survived KILL and is given up: {named:?}"),
            );
        }
        // Dead, but its capture is still reading: how it ended is known all the same.
        if let Some((run, false)) = self.books.get(&key).map(|b| (b.run, b.told)) {
            self.drained(key.unit, run);
        }
        self.close(key);
        self.stopped_of(key.unit).leftovers = named;
    }

    /// A run of it was told to end: whoever asks for that again is told of the same end.
    pub(super) fn is_ending(&self, unit: UnitId) -> bool {
        let mut books = self.books.iter();
        books.any(|(key, book)| key.unit == unit && book.stopping)
    }

    fn stopped_of(&mut self, unit: UnitId) -> &mut Stopped {
        self.stopped.or_default(unit)
    }

    // ---- reaping ------------------------------------------------------------------------------

    /// Takes all children that have ended. Signals may have merged: never counts, always loops.
    pub(super) fn reap(&mut self) {
        while let Some(pid) = reap::next_dead() {
            let ours = self.reap_run(pid)
                || self.reap_prep(pid)
                || self.reap_check(pid)
                || self.reap_build(pid);
            // One that nobody here has started came to us when its parent ended.
            if !ours && reap::reap_orphan(pid).is_none() {
                break;
            }
        }
        self.finish_preps();
        self.ends_due = true;
    }

    /// Reaps the first process of a run, if that is one.
    fn reap_run(&mut self, pid: i32) -> bool {
        let key = self.by_pid.get(&pid);
        let Some(book) = key.and_then(|key| self.books.get_mut(key)) else {
            return false;
        };
        // A dead leader keeps its group's number until it is reaped: what is left of a crash is killed
        // while the number can be nobody else's.
        if let Some(leader) = book.leader.as_ref().filter(|_| !book.task && !book.asked) {
            leader.signal_group(libc::SIGKILL);
        }
        let Some(death) = reap_from(&mut book.leader) else {
            return false;
        };
        book.death = Some(death);
        // What it wrote is in the pipes: the lifecycle hears of its end once it is in the log.
        book.capture.leader_exited();
        true
    }

    /// All that a run had written when it ended is in its log.
    pub(super) fn drained(&mut self, unit: UnitId, run: u64) {
        let found = self
            .books
            .iter()
            .find(|(k, b)| k.unit == unit && b.run == run && !b.told);
        let Some((key, death)) = found.and_then(|(k, b)| Some((*k, b.death?))) else {
            return;
        };
        let success = self.is_success(key.unit, death.end);
        self.record_exit(key, death);
        self.end_checks(key);
        self.queue.push_back(Event::Exited { run: key, success });
        let Some(book) = self.books.get_mut(&key) else {
            return;
        };
        book.told = true;
        if book.task && !book.stopping && success {
            // What it leaves running lives until bpm ends; its capture goes on by itself.
            self.close(key);
        } else {
            self.ends_due = true;
        }
    }

    /// Whether `success_exit_codes` names that end.
    fn is_success(&self, unit: UnitId, end: End) -> bool {
        let named = self.units.get(&unit).map(|u| u.process.success.as_slice());
        let (code, signal) = match end {
            End::Code(code) => (Some(code), None),
            End::Signal { number, .. } => (None, Some(number)),
        };
        config::is_success(named.unwrap_or_default(), code, signal)
    }

    fn record_exit(&mut self, key: RunKey, death: Death) {
        let Some(book) = self.books.get(&key) else {
            return;
        };
        let (asked, run, uptime) = (book.asked, book.run, Mono::now().since(book.began));
        let killed = matches!(
            death.end,
            End::Signal {
                number: libc::SIGKILL,
                ..
            }
        );
        let kills = proc::oom_kills();
        let oom = killed && !asked && kills > self.oom_kills;
        self.oom_kills = kills;
        let fault = book.fault.clone();
        let success = self.is_success(key.unit, death.end);
        let Some(unit) = self.units.get_mut(&key.unit) else {
            return;
        };
        // After a success too, what is restarted all the same has crashed.
        let process = &unit.process;
        let goes_on = process.kind != Kind::Task && process.restart == Restart::Always;
        let crash = fault.is_some() || !asked && (!success || goes_on);
        let tail: Vec<String> = match crash {
            true => clip(unit.log.tail(run, CRASH_LINES).into_iter().map(|l| l.text)),
            false => Vec::new(),
        };
        let (code, signal, core) = match death.end {
            End::Code(code) => (Some(code), None, false),
            End::Signal { number, core } => {
                (None, Some(reap::signal_name(number).into_owned()), core)
            }
        };
        let exit = ExitView {
            run,
            code,
            signal,
            core,
            oom,
            asked,
            crash,
            fault,
            at: Wall::now(),
            uptime,
            cpu: death.cpu,
            peak_rss: death.peak_rss,
            tail: Arc::new(tail),
        };
        unit.counters.cpu += exit.cpu;
        unit.log.end(run, exit.at, &exit.words());
        let words = exit.words();
        unit.exits = self.state.ended(&unit.process.name, exit);
        unit.changed = true;
        self.state_changed = true;
        let how = if asked { "stopped" } else { "ended" };
        self.happened(
            Some(key.unit),
            "exit",
            format!("{how} ({words}) after {}", human(uptime)),
        );
    }

    // ---- what is left -------------------------------------------------------------------------

    /// Of the runs whose first process has ended, finds what else there is; kills it where that is
    /// due; tells the lifecycle of those of which nothing is left.
    pub(super) fn look_for_ends(&mut self) {
        let ending: Vec<RunKey> = self
            .books
            .iter()
            .filter(|(_, b)| b.told || b.killing)
            .map(|(k, _)| *k)
            .collect();
        if ending.is_empty() {
            return;
        }
        let orphans = self.orphans();
        for key in ending {
            let left = self.members(key, &orphans);
            let Some(book) = self.books.get_mut(&key) else {
                continue;
            };
            if book.killing {
                for member in left.iter().filter(|m| m.state != 'Z') {
                    member.signal(libc::SIGKILL);
                    book.killed.add(member.pid);
                }
                // Once more as a group, for children that were born meanwhile.
                let mut in_group = left.iter().filter(|m| m.pgid == book.pid);
                match &book.leader {
                    Some(leader) => leader.signal_group(libc::SIGKILL),
                    None => drop(in_group.any(|m| m.signal_group_of_ours(libc::SIGKILL))),
                }
            }
            // A zombie counts: its own children come to us when it is reaped.
            if book.told && left.is_empty() {
                self.close(key);
                self.queue.push_back(Event::Gone(key));
            }
        }
    }

    fn members_of(&self, key: RunKey) -> Vec<Proc> {
        self.members(key, &self.orphans())
    }

    /// All that lives of a run: below its first process, and what came to us when its parent ended.
    fn members(&self, key: RunKey, orphans: &[(Proc, Option<RunKey>)]) -> Vec<Proc> {
        let Some(book) = self.books.get(&key) else {
            return Vec::new();
        };
        let own = match book.lives() {
            true => proc::process(book.pid)
                .into_iter()
                .chain(proc::descendants_of(book.pid))
                .collect(),
            false => Vec::new(),
        };
        let adopted = orphans
            .iter()
            .filter(|(_, of)| *of == Some(key))
            .map(|(p, _)| *p);
        own.into_iter().chain(adopted).collect()
    }

    /// What came to us when its parent ended, and whose it was: told by its group, else by its marker.
    fn orphans(&self) -> Vec<(Proc, Option<RunKey>)> {
        let known = self.known();
        let prefix = self.marker_prefix();
        let of = |p: &Proc| match self.by_pid.get(&p.pgid) {
            Some(key) => Some(*key),
            None => self.key_of(&proc::marker(p.pid)?, &prefix),
        };
        proc::orphans(|pid| known.has(&pid))
            .into_iter()
            .map(|p| (p, of(&p)))
            .collect()
    }

    /// `<project>/<process>/<run>`.
    fn key_of(&self, marker: &str, prefix: &str) -> Option<RunKey> {
        let rest = marker.strip_prefix(prefix)?.strip_prefix('/')?;
        let (name, run) = rest.rsplit_once('/')?;
        let (unit, run) = (
            self.units.iter().find(|(_, u)| u.process.name == name)?.0,
            run.parse::<u64>().ok()?,
        );
        self.books
            .iter()
            .find(|(k, b)| k.unit == *unit && b.run == run)
            .map(|(k, _)| *k)
    }

    fn close(&mut self, key: RunKey) {
        if let Some(book) = self.books.remove(&key) {
            self.by_pid.remove(&book.pid);
            self.stopped_of(key.unit).killed += book.killed.len();
            if let Some(unit) = self.units.get(&key.unit) {
                self.state.gone(&unit.process.name, book.run);
                self.state_changed = true;
            }
        }
    }

    // ---- the beginning and the end ------------------------------------------------------------

    /// A bpm of this project that was killed has left processes: they are stopped before anything is
    /// started a second time. Says which, where there were any.
    pub(super) fn end_leftovers(&mut self) -> Option<String> {
        // What it started last it may not have written down.
        if !self.state.may_have_left() && !self.setup.killed_before {
            return None;
        }
        self.state.forget_running();
        self.state_changed = true;
        let prefix = format!("{}/", self.marker_prefix());
        let found: Vec<Leftover> = proc::find_marked(&prefix)
            .into_iter()
            .filter(|p| p.state != 'Z')
            .map(|p| self.leftover(p, &prefix))
            .collect();
        if found.is_empty() {
            return None;
        }
        for left in &found {
            left.proc.stop(left.signal);
        }
        let began = Mono::now();
        for left in &found {
            let due = began.after(left.timeout);
            let gone = group::wait_gone(left.proc.pid, left.proc.start, due.since(Mono::now()));
            if !matches!(gone, Ok(true)) {
                left.proc.signal(libc::SIGKILL);
                // What survives that as well is the kernel's business.
                let _ = group::wait_gone(left.proc.pid, left.proc.start, GIVE_UP);
            }
        }
        let named: Vec<String> = found
            .iter()
            .map(|l| format!("{} ({})", l.proc.pid, l.command))
            .collect();
        let text = format!(
            "the bpm before was killed; stopped what it left: {}",
            named.join(", ")
        );
        self.trouble(None, "leftovers", text.clone());
        Some(text)
    }

    /// How to stop what a dead bpm left: as the file says, as far as the process is in it.
    fn leftover(&self, proc: Proc, prefix: &str) -> Leftover {
        let marker = proc::marker(proc.pid).unwrap_or_default();
        let name = marker
            .strip_prefix(prefix)
            .and_then(|m| m.rsplit_once('/'))
            .map_or("", |(name, _)| name);
        let process = self.setup.config.processes.iter().find(|p| p.name == name);
        let mut command = proc::program(proc.pid).unwrap_or_else(|| "?".into());
        if let Some((cut, _)) = command.char_indices().nth(LONGEST_COMMAND) {
            command.truncate(cut);
            command.push_str("...");
        }
        Leftover {
            proc,
            command,
            signal: process.map_or(libc::SIGTERM, |p| p.stop_signal),
            timeout: process.map_or(LEFT_BY_TASKS, |p| p.stop_timeout),
        }
    }

    /// The last thing: what tasks have left running on purpose ends with bpm.
    pub(super) fn sweep_tasks(&mut self) {
        let Phase::Sweeping { due, stage } = self.phase else {
            return;
        };
        let prefix = self.marker_prefix();
        let ours = |p: &Proc| {
            let marker = proc::marker(p.pid).unwrap_or_default();
            let rest = marker
                .strip_prefix(&prefix)
                .and_then(|r| r.strip_prefix('/'));
            // A build's cache daemon is left alone.
            rest.and_then(|r| r.rsplit_once('/'))
                .is_some_and(|(_, run)| !run.starts_with('b'))
        };
        let left: Vec<Proc> = proc::orphans(|_| false)
            .into_iter()
            .filter(|p| p.state != 'Z' && ours(p))
            .collect();
        if left.is_empty() {
            self.phase = Phase::Ended;
            return;
        }
        let late = due <= Mono::now();
        match stage {
            Sweep::Killed if late => {
                let pids: Vec<i32> = left.iter().map(|p| p.pid).collect();
                self.say(
                    Level::Error,
                    &format!("survived KILL and is left behind: {pids:?}"),
                );
                self.phase = Phase::Ended;
            }
            Sweep::ToolResult | Sweep::Begun if late || self.terms > 1 => {
                for p in &left {
                    p.signal(libc::SIGKILL);
                }
                self.phase = Phase::Sweeping {
                    due: Mono::now().after(GIVE_UP),
                    stage: Sweep::Killed,
                };
            }
            Sweep::Begun => {
                for p in &left {
                    p.stop(libc::SIGTERM);
                }
                self.phase = Phase::Sweeping {
                    due,
                    stage: Sweep::ToolResult,
                };
            }
            Sweep::ToolResult | Sweep::Killed => {}
        }
    }
}
