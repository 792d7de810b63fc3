//! Runs: what is known of each from its start until nothing of it is left.

mod left;
mod origins;
mod saved;
mod signals;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Mono, Wall, human};
use crate::base::logger::Level;
use crate::base::table::{Set, Table};
use crate::config::{self, Happening, Kind, Process, Restart};
use crate::engine::handle::Stopped;
use crate::engine::snapshot::ExitView;
use crate::engine::state_file::clip;
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::log::capture::{Capture, Captures, OnDrained};
use crate::log::store::Log;
use crate::os::cgroup::{Cgroup, Groups};
use crate::os::leader::{Leader, take_death};
use crate::os::pidfd::PidFd;
use crate::os::poll::Until;
use crate::os::proc::{self, Proc};
use crate::os::reap::{self, Death, End};

use self::left::members;
pub(super) use self::left::survivor;
use self::origins::Origins;
pub(super) use self::origins::{Known, Maker};
use self::signals::{Signalled, Stop};
use super::launch::Streams;
use super::upgrade::Upgrade;
use super::{Phase, Supervisor};

/// How many lines of a crash are kept.
const CRASH_LINES: usize = 40;
/// An end is reported after that time, even if the last output could not be read.
const DRAIN: Duration = Duration::from_secs(5);

/// One run.
pub(super) struct RunRecord {
    /// The number of its first process, and of its group.
    pid: i32,
    /// Its first process until its end is known.
    leader: Option<Leader>,
    /// It was taken over: what it starts never comes to us.
    adopted: Option<Adopted>,
    death: Option<Death>,
    /// The process's name, and the number in its log: the marker of all that it starts.
    process: String,
    run: u64,
    /// The binary of a build that it executes.
    exe: Option<PathBuf>,
    output: Output,
    began: Mono,
    task: bool,
    /// Why bpm ended it, where nobody wanted it to.
    fault: Option<String>,
    read: Progress,
    stop: Stop,
    /// Everything that it starts is in there, where one could be made.
    cgroup: Option<Cgroup>,
}

/// The capture of a run's output.
pub(super) struct Output {
    /// Held so that late lines of what it left behind are still read.
    capture: Capture,
    /// The inodes of its pipes. None: a terminal, or not known.
    pipes: Option<[u64; 2]>,
    /// The run's side of its terminal, where it has one. While it is open here, the other side has no end that would
    /// close it, and so hang up on a program that has closed its streams.
    _terminal: Option<OwnedFd>,
}

/// How far the output of a run is read: when its end is reported, all that it wrote is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Progress {
    /// Not to the end of its first process: the lifecycle does not know of that yet.
    #[default]
    First,
    /// To the end of its first process; what that left behind may write on.
    Rest,
    /// Nothing of the run is left, and what it left in the pipes is being read.
    Last,
    /// All of it, or as much as could be read in time.
    Done,
}

/// Of a run that was taken over from a bpm that was killed.
struct Adopted {
    /// Gets its orphans, as it has got its first process.
    reaper: i32,
    /// When its first process began: its number may be another's once that is reaped.
    start: u64,
    /// Leftovers of it that are to end: their pidfds report the end, since bpm is not the parent.
    left: Vec<PidFd>,
}

impl Output {
    /// The inodes of its pipes, by which the next bpm knows them.
    pub(super) fn pipes(&self) -> Option<[u64; 2]> {
        self.pipes
    }
}

impl RunRecord {
    /// Of a run that has just begun.
    pub(super) fn new(
        leader: Leader,
        run: u64,
        exe: Option<PathBuf>,
        output: Output,
        began: Mono,
        process: &Process,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self {
            adopted: leader.adopted().map(|adopted| Adopted {
                reaper: adopted.process().ppid,
                start: adopted.process().start,
                left: Vec::new(),
            }),
            run,
            exe,
            began,
            ..Self::with(leader.pid(), Some(leader), output, process, cgroup)
        }
    }

    fn with(
        pid: i32,
        leader: Option<Leader>,
        output: Output,
        process: &Process,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self {
            pid,
            leader,
            adopted: None,
            death: None,
            process: process.name.clone(),
            run: 0,
            exe: None,
            output,
            began: Mono::default(),
            task: process.kind == Kind::Task,
            fault: None,
            read: Progress::First,
            stop: Stop::of(process),
            cgroup,
        }
    }

    /// Its number in the log.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// The binary of a build that it executes.
    pub(super) fn exe(&self) -> Option<&PathBuf> {
        self.exe.as_ref()
    }

    /// It was taken over from a bpm that was killed.
    pub(super) fn is_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    /// Everything that it starts is in there, where one could be made.
    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Its first process has not ended.
    pub(super) fn lives(&self) -> bool {
        self.leader.is_some()
    }

    /// How it ended: its own doing is no end that was asked for, also when an order to end came right after it.
    fn exit(&self, death: Death, oom: bool, process: &Process) -> ExitView {
        let success = is_success(death.end, process);
        // After a success too, what is restarted all the same has crashed.
        let goes_on = !self.task && process.restart == Restart::Always;
        let (code, signal, core) = match death.end {
            End::Code(code) => (Some(code), None, false),
            End::Signal { number, core } => {
                let name = reap::signal_name(number).into_owned();
                (None, Some(name), core)
            }
            End::Unknown => (None, None, false),
        };
        ExitView {
            run: self.run,
            code,
            signal,
            core,
            oom,
            asked: self.stop.asked,
            crash: self.fault.is_some() || !self.stop.asked && (!success || goes_on),
            fault: self.fault.clone(),
            at: Wall::now(),
            uptime: Mono::now().since(self.began),
            cpu: death.cpu,
            peak_rss: death.peak_rss,
            tail: Arc::default(),
        }
    }
}

/// The end of a run's first process.
struct Exit {
    view: ExitView,
    success: bool,
    /// Processes that it leaves running live until bpm ends; its capture goes on by itself.
    leaves: bool,
}

/// Whether `success_exit_codes` names that end.
fn is_success(end: End, process: &Process) -> bool {
    let (code, signal) = match end {
        End::Code(code) => (Some(code), None),
        End::Signal { number, .. } => (None, Some(number)),
        End::Unknown => (None, None),
    };
    config::is_success(&process.success, code, signal)
}

/// A process that came to us when its parent ended, and the run that it belongs to.
type Orphan = (Proc, Option<RunKey>);
/// A process that came to us, and its possible makers.
type Doubtful = (Proc, Vec<Maker>);

/// All runs of which something is left.
pub(super) struct Runs {
    /// How the markers of this project's processes begin.
    marker: String,
    /// Where runs get cgroups; else, why not.
    groups: Result<Groups, String>,
    /// Cgroups of runs that have ended, for the next run of the process: to make one and to remove it costs 0.1 ms of CPU.
    vacant: Table<String, Cgroup>,
    captures: Captures,
    records: Table<RunKey, Box<RunRecord>>,
    by_pid: Table<i32, RunKey>,
    signalled: Vec<Signalled>,
    /// By process, since a stop of it was ordered.
    stopped: Table<UnitId, Stopped>,
    /// Runs whose first process has ended, but not their last output; and until when that is waited for.
    draining: VecDeque<(Mono, RunKey)>,
    /// The same, whose last output was read before they ended.
    read: VecDeque<RunKey>,
    /// Tasks that are done, and have left something on purpose.
    left: Set<RunKey>,
    origins: Origins,
    /// Something may be gone: [`Runs::find_ends`] is to be called.
    ends_due: bool,
    oom_kills: Option<u64>,
}

impl Runs {
    /// None yet.
    ///
    /// # Errors
    /// No thread to read their output.
    pub(super) fn new(marker: String, groups: Result<Groups, String>) -> io::Result<Self> {
        Ok(Self {
            marker,
            groups,
            vacant: Table::default(),
            captures: Captures::new()?,
            records: Table::default(),
            by_pid: Table::default(),
            signalled: Vec::new(),
            stopped: Table::default(),
            draining: VecDeque::new(),
            read: VecDeque::new(),
            left: Set::default(),
            origins: Origins::default(),
            ends_due: false,
            oom_kills: None,
        })
    }

    /// A cgroup for a run; None where there can be none.
    pub(super) fn cgroup(&mut self, process: &str, run: u64) -> Option<Cgroup> {
        if let Some(group) = self.vacant.remove(process) {
            if group.is_as_new() {
                return Some(group);
            }
            group.remove();
        }
        self.new_cgroup("run", process, run)
    }

    /// A cgroup of that kind: `run` or `build`.
    pub(super) fn new_cgroup(&self, kind: &str, process: &str, run: u64) -> Option<Cgroup> {
        let groups = self.groups.as_ref().ok()?;
        groups.make(&format!("{kind}-{process}-{run}")).ok()
    }

    /// Removes the cgroup of a run that has ended, or keeps it where its process may run again: not where the kernel
    /// counts in it for each run (peaks, kills).
    fn vacate(&mut self, process: &str, group: Option<Cgroup>, again: bool) {
        let before = self.vacant.remove(process);
        let mut all: Vec<Cgroup> = before.into_iter().chain(group).collect();
        let counts = |groups: &Groups| groups.without_controllers().is_none();
        if again
            && !self.groups.as_ref().is_ok_and(counts)
            && let Some(newest) = all.pop()
        {
            self.vacant.insert(process.into(), newest);
        }
        for group in all {
            group.remove();
        }
    }

    /// Removes the one that is kept for a process that does not run again.
    pub(super) fn remove_vacant_of(&mut self, process: &str) {
        if let Some(group) = self.vacant.remove(process) {
            group.remove();
        }
    }

    /// Removes those that are kept for later runs.
    pub(super) fn remove_vacant(&mut self) {
        for (_, group) in std::mem::take(&mut self.vacant).iter() {
            group.remove();
        }
    }

    /// Where runs get cgroups; else, why not.
    pub(super) fn groups(&self) -> Result<&Groups, &str> {
        self.groups.as_ref().map_err(String::as_str)
    }

    /// All of which something is left.
    pub(super) fn all(&self) -> impl Iterator<Item = RunKey> {
        self.records.keys().copied()
    }

    /// The cgroup of a run that is taken over.
    pub(super) fn cgroup_at(&self, path: Option<&Path>) -> Option<Cgroup> {
        let groups = self.groups.as_ref().ok()?;
        let name = path?.file_name()?.to_str()?;
        groups.find(name).filter(|group| Some(group.path()) == path)
    }

    /// The process belongs to a run that was taken over: by its marker, its session, its cgroup or its parents.
    pub(super) fn is_of_adopted(&self, p: &Proc) -> bool {
        let by_marker = || self.key_of(&proc::marker(p.pid)?);
        let in_group = || {
            let mut groups = self.records.values().filter_map(|r| r.cgroup.as_ref());
            groups.any(|group| group.processes().contains(&p.pid))
        };
        self.is_in_adopted_session(p) || self.is_adopted(by_marker()) || in_group()
    }

    /// The process is in the session of a run that was taken over.
    pub(super) fn is_in_adopted_session(&self, p: &Proc) -> bool {
        self.is_adopted_leader(p.sid)
    }

    /// The first process of a run that was taken over has, or had, that number.
    pub(super) fn is_adopted_leader(&self, pid: i32) -> bool {
        self.is_adopted(self.by_pid.get(&pid).copied())
    }

    /// Processes in the cgroups that a killed bpm left, each with the name of what it is a run of; not those of runs
    /// that were taken over.
    pub(super) fn left_in_groups(&self) -> Vec<(Proc, Option<String>)> {
        let mut left = Vec::new();
        let ours = self.records.values().filter_map(|r| r.cgroup.as_ref());
        let ours: Set<&OsStr> = ours.filter_map(|g| g.path().file_name()).collect();
        if let Ok(groups) = &self.groups {
            let mut names = groups.names();
            // Those of builds are left alone.
            names.retain(|name| !ours.has(&OsStr::new(name)) && !name.starts_with("build-"));
            for name in names {
                let group = groups.find(&name);
                let pids = group.as_ref().map(Cgroup::processes).unwrap_or_default();
                // It was kept for a next run.
                if let Some(group) = group.filter(|_| pids.is_empty()) {
                    group.remove();
                }
                let of = name.strip_prefix("run-").and_then(|n| n.rsplit_once('-'));
                let of = of.map(|(process, _)| process.to_owned());
                let all = pids.into_iter().filter_map(proc::process);
                left.extend(all.map(|proc| (proc, of.clone())));
            }
        }
        left
    }

    /// Removes the cgroups in which nothing is left.
    pub(super) fn close_groups(&self) {
        if let Ok(groups) = &self.groups {
            for group in groups.names().iter().filter_map(|name| groups.find(name)) {
                group.remove();
            }
            groups.close();
        }
    }

    /// Begins to read what a run writes.
    pub(super) fn capture(
        &self,
        log: Arc<Log>,
        run: u64,
        streams: Streams,
        drained: OnDrained,
    ) -> io::Result<Output> {
        let pipes = streams.inodes();
        let (stdout, stderr) = (streams.stdout, streams.stderr);
        Ok(Output {
            pipes,
            capture: self.captures.read(log, run, stdout, stderr, drained)?,
            _terminal: streams.terminal,
        })
    }

    /// A run has begun.
    pub(super) fn enter(&mut self, key: RunKey, record: RunRecord) {
        self.by_pid.insert(record.pid, key);
        self.records.insert(key, Box::new(record));
    }

    pub(super) fn get(&self, key: RunKey) -> Option<&RunRecord> {
        self.records.get(&key).map(Box::as_ref)
    }

    /// The runs of a process of which something is left.
    pub(super) fn of_unit(&self, unit: UnitId) -> impl Iterator<Item = (RunKey, &RunRecord)> {
        let all = self.records.iter().filter(move |(key, _)| key.unit == unit);
        all.map(|(key, record)| (*key, record.as_ref()))
    }

    /// The living processes of a run, but for those that came to us when their parents ended.
    pub(super) fn processes(&self, key: RunKey) -> Vec<i32> {
        let record = self.records.get(&key);
        let all = record.map(|record| members(key, record, &[]));
        all.into_iter().flatten().map(|p| p.pid).collect()
    }

    /// First processes, dead ones too.
    fn leaders(&self) -> impl Iterator<Item = (i32, Maker)> {
        let all = self.by_pid.iter();
        all.map(|(pid, key)| (*pid, Maker::Run(*key)))
    }

    /// The end that follows is as abnormal as one of its own.
    pub(super) fn note_fault(&mut self, key: RunKey, why: String) {
        if let Some(record) = self.records.get_mut(&key) {
            record.fault = Some(why);
        }
    }

    // ---- ending -------------------------------------------------------------------------------

    /// When [`Runs::signal_rest`] or [`Runs::take_overdue`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let rest = self.records.values();
        let rest = rest.filter_map(|record| record.stop.rest_due);
        let draining = self.draining.front().map(|(due, _)| *due);
        rest.chain(draining).chain(self.unreaped()).min()
    }

    /// Kills all of a run, now and whenever more of it shows.
    pub(super) fn kill(&mut self, key: RunKey) {
        if let Some(record) = self.records.get_mut(&key) {
            record.stop.killing = true;
            self.ends_due = true;
        }
    }

    /// The same to all runs.
    pub(super) fn kill_all(&mut self) {
        for record in self.records.values_mut() {
            record.stop.killing = true;
            self.ends_due = true;
        }
    }

    /// Kills by the kernel until now are no reason for the ends that follow.
    pub(super) fn note_oom_kills(&mut self) {
        self.oom_kills = proc::oom_kills();
    }

    /// A run of it was told to end: a second order to stop is answered with the same end.
    pub(super) fn is_ending(&self, unit: UnitId) -> bool {
        self.of_unit(unit).any(|(_, record)| record.stop.begun)
    }

    /// An order to stop begins: what earlier ends took is no part of its answer.
    pub(super) fn forget_stopped(&mut self, unit: UnitId) {
        if !self.is_ending(unit) {
            self.stopped.remove(&unit);
        }
    }

    /// The end of its runs so far.
    pub(super) fn stopped(&self, unit: UnitId) -> Stopped {
        self.stopped.get(&unit).cloned().unwrap_or_default()
    }

    fn stopped_of(&mut self, unit: UnitId) -> &mut Stopped {
        self.stopped.or_default(unit)
    }

    // ---- what is left -------------------------------------------------------------------------

    /// Reaps the first process of a run, if that is one.
    pub(super) fn reap(&mut self, pid: i32) -> bool {
        let key = self.by_pid.get(&pid).copied();
        key.is_some_and(|key| self.note_death(key))
    }

    /// The descriptors to poll for runs that were taken over.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Until)> {
        let leaders = self.records.values().filter_map(|r| r.leader.as_ref());
        let leaders = leaders.filter_map(|leader| Some(leader.adopted()?.fd()));
        let adopted = self.records.values().filter_map(|r| r.adopted.as_ref());
        let left = adopted.flat_map(|adopted| &adopted.left);
        leaders.chain(left.map(|fd| (fd.fd(), Until::Readable)))
    }

    /// Notes the ends of runs that were taken over.
    pub(super) fn find_deaths(&mut self) {
        let adopted = self.records.iter().filter(|(_, r)| r.is_adopted());
        let adopted: Vec<RunKey> = adopted.map(|(key, _)| *key).collect();
        for key in adopted {
            self.note_death(key);
            self.ends_due = true;
        }
    }

    /// Those whose parents have not reaped them in time.
    pub(super) fn find_late_deaths(&mut self, now: Mono) {
        if self.unreaped().is_some_and(|due| due <= now) {
            self.find_deaths();
        }
    }

    /// When [`Runs::find_late_deaths`] has something to do next.
    fn unreaped(&self) -> Option<Mono> {
        let leaders = self.records.values().filter_map(|r| r.leader.as_ref());
        leaders
            .filter_map(|leader| leader.adopted()?.deadline())
            .min()
    }

    /// Notes how the first process of a run ended, once that is known.
    fn note_death(&mut self, key: RunKey) -> bool {
        let Some(record) = self.records.get_mut(&key) else {
            return false;
        };
        // A dead leader keeps its group's number until it is reaped: what is left of a crash is killed
        // while the number can be nobody else's.
        if let Some(leader) = &record.leader
            && leader.has_ended()
            && !record.task
            && !record.stop.asked
        {
            leader.signal_group(libc::SIGKILL);
        }
        let Some(death) = take_death(&mut record.leader) else {
            return false;
        };
        record.death = Some(death);
        let is_read = record.output.capture.drain();
        self.expect_output(key, is_read);
        true
    }

    /// The lifecycle hears of a run once its last output is in the log.
    fn expect_output(&mut self, key: RunKey, is_read: bool) {
        match is_read {
            true => self.read.push_back(key),
            false => self.draining.push_back((Mono::now().after(DRAIN), key)),
        }
    }

    /// Takes a run that has ended, and whose last output was read before.
    pub(super) fn take_read(&mut self) -> Option<RunKey> {
        self.read.pop_front()
    }

    /// The pipes of a run were read; `all`: nothing more is to be waited for. The first time, that is the end of its
    /// first process.
    fn take_exit(&mut self, key: RunKey, all: bool, process: &Process) -> Option<Exit> {
        self.draining.retain(|(_, draining)| *draining != key);
        let record = self.records.get_mut(&key)?;
        let death = record.death?;
        let first = record.read == Progress::First;
        let goes_on = first && !all;
        record.read = if goes_on {
            Progress::Rest
        } else {
            Progress::Done
        };
        if !first {
            self.ends_due = true;
            return None;
        }
        let killed = matches!(death.end, End::Signal { number, .. } if number == libc::SIGKILL);
        let measures = |groups: &Groups| groups.controls("memory");
        let measured = self.groups.as_ref().is_ok_and(measures);
        let used = record.cgroup.as_ref().filter(|_| measured);
        let used = used.map(Cgroup::usage).unwrap_or_default();
        let oom = killed
            && !record.stop.asked
            && match used.oom_kills {
                Some(kills) => kills > 0,
                None => {
                    let kills = proc::oom_kills();
                    kills > std::mem::replace(&mut self.oom_kills, kills)
                }
            };
        let success = is_success(death.end, process);
        let mut view = record.exit(death, oom, process);
        // Of all its processes, not of the largest alone.
        view.peak_rss = used.peak.unwrap_or(view.peak_rss);
        Some(Exit {
            view,
            success,
            leaves: record.task && !record.stop.begun && success,
        })
    }

    /// Takes a run whose last output could not be read in time: a file system that hangs must not keep its
    /// end from being reported.
    pub(super) fn take_overdue(&mut self, now: Mono) -> Option<RunKey> {
        let (due, key) = *self.draining.front()?;
        (due <= now).then(|| self.draining.pop_front())?;
        Some(key)
    }

    /// Children have ended: something may be gone.
    pub(super) fn expect_ends(&mut self) {
        self.ends_due = true;
    }

    /// Whether something may be gone since this was asked last.
    pub(super) fn take_ends_due(&mut self) -> bool {
        std::mem::take(&mut self.ends_due)
    }

    /// [`Runs::find_ends`] has something to look for.
    pub(super) fn any_ending(&self) -> bool {
        self.records
            .values()
            .any(|record| record.read != Progress::First || record.stop.killing)
    }

    /// These were sent KILL, and were not killed.
    fn spare(&mut self, key: RunKey, survivors: &[(i32, String)]) {
        if let Some(record) = self.records.get_mut(&key) {
            for (pid, _) in survivors {
                record.stop.killed.remove(pid);
            }
        }
    }

    /// Nothing is left of a run, or nothing that matters. `again`: its process may run again.
    fn close(&mut self, key: RunKey, again: bool) -> Option<RunRecord> {
        let mut record = self.records.remove(&key)?;
        let group = record.cgroup.take();
        self.vacate(&record.process, group, again);
        self.by_pid.remove(&record.pid);
        self.stopped_of(key.unit).killed += record.stop.killed.len();
        self.draining.retain(|(_, draining)| *draining != key);
        Some(*record)
    }
}

impl Supervisor {
    /// All that a run had written at the end of its first process, or of all of it, is in its log.
    pub(super) fn drained(&mut self, key: RunKey, all: bool) {
        let process = self.units.process(key.unit);
        let Some(exit) = process.and_then(|process| self.runs.take_exit(key, all, &process)) else {
            return;
        };
        self.record_exit(key, exit.view);
        self.checks.end(key);
        self.listening.end(key, Mono::now());
        let success = exit.success;
        self.lives.note(Event::Exited { run: key, success });
        match exit.leaves {
            true => {
                self.runs.left.add(key);
                self.close_run(key);
            }
            false => self.runs.expect_ends(),
        }
    }

    pub(super) fn record_exit(&mut self, key: RunKey, mut exit: ExitView) {
        let Some(unit) = self.units.get_mut(key.unit) else {
            return;
        };
        if exit.crash {
            let lines = unit.log.tail(exit.run, CRASH_LINES);
            exit.tail = Arc::new(clip(lines.into_iter().map(|line| line.text)));
        }
        let how = if exit.asked { "stopped" } else { "ended" };
        let words = exit.words();
        let text = format!("{how} ({words}) after {}", human(exit.uptime));
        unit.log.end(exit.run, exit.at, &words);
        unit.counters.cpu += exit.cpu;
        let crash = exit.crash.then(|| exit.fault.clone().unwrap_or(words));
        unit.exits = self.state.edit().ended(&unit.process.name, exit);
        unit.changed = true;
        self.happened(Level::Info, Some(key.unit), "exit", text);
        if let Some(why) = crash {
            self.follow(key.unit, Happening::Crashed, &why);
        }
    }

    /// Signals what came to us of the runs that were sent their stop signal, and the rest of those whose leader had it.
    pub(super) fn signal_orphans(&mut self) {
        if self.runs.deadline().is_some() {
            let known = self.known();
            self.runs.signal_rest(&known, Mono::now());
        }
        if self.runs.has_signalled() {
            let known = self.known();
            self.runs.signal_orphans(&known);
        }
    }

    fn close_run(&mut self, key: RunKey) {
        let unit = self.units.get(key.unit);
        let again = self.phase == Phase::Working && unit.is_some_and(|unit| !unit.retiring);
        if let Some(record) = self.runs.close(key, again)
            && let Some(unit) = self.units.get(key.unit)
        {
            let name = unit.process.name.clone();
            self.state.edit().gone(&name, record.run);
            if record.output._terminal.is_some() {
                self.release_terminal(&name, record.run);
            }
        }
    }
}
