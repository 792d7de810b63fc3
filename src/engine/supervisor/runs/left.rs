//! Processes that are left of a run when its first one has ended: they are found, killed where that is due, and waited for.

use super::super::strays;
use super::{Doubtful, Known, Maker, Orphan, Progress, RunRecord, Runs, Supervisor};
use crate::base::clock::Mono;
use crate::base::logger::Level;
use crate::base::table::Set;
use crate::engine::saved::LeftBehind;
use crate::lifecycle::{Event, RunKey};
use crate::os::cgroup::Cgroup;
use crate::os::pidfd::PidFd;
use crate::os::proc::{self, Proc};

impl Runs {
    /// Of the runs whose first process has ended, finds what else there is; kills it where that is due; gives
    /// those of which nothing is left, each with what may be of it as well as of others.
    pub(in super::super) fn find_ends(&mut self, known: &Known) -> Vec<(RunKey, Vec<Doubtful>)> {
        let orphans = self.orphans(known);
        let (mut gone, mut last) = (Vec::new(), Vec::new());
        for (key, record) in self.records.iter_mut() {
            if record.read == Progress::First && !record.stop.killing {
                continue;
            }
            let left = members(*key, record, &orphans);
            if record.stop.killing {
                // Processes that it starts meanwhile die with it.
                if let Some(group) = &mut record.cgroup
                    && !left.is_empty()
                {
                    let _ = group.kill();
                }
                for member in left.iter().filter(|m| m.state != 'Z') {
                    member.signal(libc::SIGKILL);
                    record.stop.killed.add(member.pid);
                }
                // Once more as a group, for children that were born meanwhile.
                let mut in_group = left.iter().filter(|m| m.pgid == record.pid);
                match &record.leader {
                    Some(leader) => leader.signal_group(libc::SIGKILL),
                    None => drop(in_group.any(|m| m.signal_group_of_ours(libc::SIGKILL))),
                }
            }
            if let Some(adopted) = &mut record.adopted {
                let open = |p: &Proc| PidFd::open(p.pid, p.start).ok().flatten();
                adopted.left = left.iter().filter_map(open).collect();
            }
            // A zombie counts: its own children come to us when it is reaped.
            match record.read {
                Progress::Rest if left.is_empty() => {
                    record.read = Progress::Last;
                    last.push((*key, record.output.capture.drain()));
                }
                Progress::Done if left.is_empty() => gone.push(*key),
                Progress::First | Progress::Rest | Progress::Last | Progress::Done => {}
            }
        }
        for (key, is_read) in last {
            self.expect_output(key, is_read);
        }
        let doubtful = |key| (key, self.doubtful(key, &orphans));
        gone.into_iter().map(doubtful).collect()
    }

    /// Of what came to us, the processes that may be of that run, which can't be told.
    fn doubtful(&self, key: RunKey, orphans: &[Orphan]) -> Vec<Doubtful> {
        let nobodys = orphans
            .iter()
            .filter(|(p, of)| of.is_none() && p.state != 'Z');
        let makers = |(p, _): &Orphan| Some((*p, self.origins.of(p)?.clone()));
        let all = nobodys.filter_map(makers);
        all.filter(|(_, makers)| makers.len() > 1 && makers.contains(&Maker::Run(key)))
            .collect()
    }

    /// Processes that came to us when their parents ended, each with its run. `known` are the children that bpm
    /// started. Those of runs that were taken over have come to somebody else.
    pub(super) fn orphans(&mut self, known: &Known) -> Vec<Orphan> {
        let found = proc::orphans(&|pid| known.has(&pid));
        let makers = self.makers(&found, known);
        let of = |p: &Proc| self.owner(makers.get(&p.pid)?);
        let mut all: Vec<Orphan> = found.iter().map(|p| (*p, of(p))).collect();
        let of = |p: &Proc| match self.by_pid.get(&p.pgid) {
            Some(key) => Some(*key),
            None => self.key_of(&proc::marker(p.pid)?),
        };
        let adopted = self.records.values();
        let adopted = adopted.filter_map(|record| Some(record.adopted.as_ref()?.reaper));
        for reaper in adopted.collect::<Set<i32>>().keys() {
            for p in proc::children_of(*reaper) {
                let key = of(&p).filter(|key| self.is_left_of(*key, &p));
                if let Some(key) = key {
                    all.push((p, Some(key)));
                    let below = proc::descendants_of(p.pid).into_iter();
                    all.extend(below.map(|p| (p, Some(key))));
                }
            }
        }
        // Their parents are not us: they are over when they have ended.
        all.retain(|(p, key)| p.state != 'Z' || !self.is_adopted(*key));
        all
    }

    pub(super) fn is_adopted(&self, key: Option<RunKey>) -> bool {
        key.and_then(|key| self.get(key))
            .is_some_and(RunRecord::is_adopted)
    }

    /// The process is left of a run that was taken over; it is not its first one.
    fn is_left_of(&self, key: RunKey, p: &Proc) -> bool {
        let adopted = self
            .get(key)
            .and_then(|r| Some((r.pid, r.adopted.as_ref()?)));
        adopted.is_some_and(|(pid, adopted)| {
            // While it can be seen, its number is its own.
            p.pid != pid && proc::start_time(pid).is_none_or(|start| start == adopted.start)
        })
    }

    /// Processes that came to us and are nobody's: of no run for certain, and not of a build or a check.
    pub(in super::super) fn strays(&mut self, known: &Known) -> Vec<Doubtful> {
        let mut found = proc::orphans(&|pid| known.has(&pid));
        let makers = self.makers(&found, known);
        found.retain(|p| p.state != 'Z');
        let with = |p: Proc| Some((p, makers.get(&p.pid)?.clone()));
        let mut strays: Vec<Doubtful> = found.into_iter().filter_map(with).collect();
        strays.retain(|(_, makers)| match makers.as_slice() {
            [Maker::Run(key)] => !self.records.has(key),
            makers => makers
                .iter()
                .any(|m| matches!(m, Maker::Run(_) | Maker::Unknown)),
        });
        strays
    }

    /// The run of a marker: `<project>/<process>/<run>`.
    pub(super) fn key_of(&self, marker: &str) -> Option<RunKey> {
        let rest = marker.strip_prefix(&self.marker)?.strip_prefix('/')?;
        let (name, run) = rest.rsplit_once('/')?;
        let run = run.parse::<u64>().ok()?;
        let is = |record: &RunRecord| record.run == run && record.process == name;
        let mut all = self.records.iter();
        all.find(|(_, record)| is(record)).map(|(key, _)| *key)
    }

    /// Whether that process is one of a run's: by cgroup, session, parents or marker. None: it has ended.
    pub(in super::super) fn has_member(&self, key: RunKey, pid: i32) -> Option<bool> {
        let process = proc::process(pid)?;
        let Some(record) = self.records.get(&key) else {
            return Some(false);
        };
        let is_of = |p: &Proc| [p.pid, p.sid, p.pgid].contains(&record.pid);
        let in_cgroup = |group: &Cgroup| group.processes().contains(&pid);
        Some(
            is_of(&process)
                || proc::ancestors(&process).iter().any(is_of)
                || record.cgroup.as_ref().is_some_and(in_cgroup)
                || proc::marker(pid).is_some_and(|marker| self.key_of(&marker) == Some(key)),
        )
    }
}

/// All that lives of a run: its first process and what is below it, and what came to us when its parent ended.
pub(super) fn members(key: RunKey, record: &RunRecord, orphans: &[Orphan]) -> Vec<Proc> {
    let mut all = Vec::new();
    if record.lives() {
        all.extend(proc::process(record.pid));
        all.extend(proc::descendants_of(record.pid));
    }
    let adopted = orphans.iter().filter(|(_, of)| *of == Some(key));
    all.extend(adopted.map(|(orphan, _)| *orphan));
    // Whatever session, environment or parent it has by now.
    let in_cgroup = record.cgroup.as_ref().map(Cgroup::processes);
    for pid in in_cgroup.unwrap_or_default() {
        if all.iter().all(|p| p.pid != pid) {
            all.extend(proc::process(pid));
        }
    }
    all
}

/// A process that survived KILL: its program, and why it did, as far as it can be told.
pub(in super::super) fn survivor(pid: i32) -> String {
    let program = proc::program(pid).unwrap_or_else(|| "?".into());
    match proc::why_held(pid) {
        Some(why) => format!("{program} ({why})"),
        None => program,
    }
}

impl Supervisor {
    /// Kills what is due, and tells the lifecycle of runs of which nothing is left.
    pub(in super::super) fn find_ends(&mut self) {
        if !self.runs.any_ending() {
            return;
        }
        let known = self.known();
        for (key, doubtful) in self.runs.find_ends(&known) {
            self.close_run(key);
            for (p, makers) in doubtful {
                let (program, doubt) = (strays::program(&p), self.doubt(&makers));
                let what = format!("{program} ({doubt})");
                if let Some(unit) = self.units.get(key.unit) {
                    let of = LeftBehind {
                        process: unit.process.name.clone(),
                        pid: p.pid,
                        start: p.start,
                        what: what.clone(),
                    };
                    let told = format!("pid {} ({program}) {doubt}", p.pid);
                    self.strays.doubted(of, told);
                }
                self.runs.stopped_of(key.unit).leftovers.push((p.pid, what));
            }
            self.lives.note(Event::Gone(key));
        }
    }

    /// Leaves behind what survived KILL, and names it.
    pub(in super::super) fn give_up(&mut self, key: RunKey) {
        // bpm may be the one that is late: what has ended meanwhile did not survive.
        self.reap();
        let orphans = self.runs.orphans(&self.known());
        let left = self
            .runs
            .get(key)
            .map(|record| members(key, record, &orphans));
        let left = left.unwrap_or_default();
        let living = left.iter().filter(|p| p.state != 'Z');
        let survivors: Vec<(&Proc, String)> = living.map(|p| (p, survivor(p.pid))).collect();
        let named = survivors.iter().map(|(p, what)| (p.pid, what.clone()));
        let named: Vec<(i32, String)> = named.collect();
        if !named.is_empty() {
            let text = format!("survived KILL and is given up: {named:?}");
            self.events.say(Level::Error, &text);
            if let Some(unit) = self.units.get(key.unit) {
                for (p, what) in survivors {
                    self.strays.survived(LeftBehind {
                        process: unit.process.name.clone(),
                        pid: p.pid,
                        start: p.start,
                        what,
                    });
                }
            }
        }
        // Dead, but its capture is still reading: how it ended is known all the same.
        self.drained(key, true);
        // Of no other run, whatever is left of this one.
        for p in &left {
            self.runs.origins.note(p, vec![Maker::Run(key)]);
        }
        self.runs.spare(key, &named);
        self.close_run(key);
        self.runs.stopped_of(key.unit).leftovers = named;
        // Named at once.
        self.find_strays(Mono::now());
    }
}
