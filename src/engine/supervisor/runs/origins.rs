//! Makers of processes that came to bpm when their parents ended. Most carry the marker of their run; what cleared its
//! environment, or can't be looked into, is known by its session, its cgroup or its pipes, by what was seen of it while its
//! parent lived, or since nothing else of bpm was there when it began.

use std::collections::VecDeque;

use super::{RunRecord, Runs, Supervisor, Upgrade};
use crate::base::table::{Set, Table, sort};
use crate::lifecycle::RunKey;
use crate::os::proc::{self, Proc};

/// This many children that have ended are remembered.
const PAST: usize = 256;
/// Above this many, those of processes that are gone are forgotten.
const NOTED: usize = 1024;

/// The maker of a process, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Maker {
    Run(RunKey),
    /// A run that is over, known by its mark: a task has left it on purpose.
    Done,
    /// A build, or another bpm: what it leaves is left alone.
    Spared,
    /// A check, direnv, a command of `on_event`.
    Helper,
    /// It began before this bpm wrote such things down.
    Unknown,
}

/// The children that bpm has started and not reaped.
pub(in super::super) type Known = Table<i32, Maker>;

/// A process, by pid and beginning, and the run that it is of.
pub(super) type Origin = ((i32, u64), RunKey);
/// When a process began and its pid, and its possible makers.
type Living = ((u64, i32), Vec<Maker>);

/// A child that has ended, and when it lived, on the clock of [`Proc::start`].
struct Past {
    from: u64,
    to: u64,
    maker: Maker,
}

#[derive(Default)]
pub(super) struct Origins {
    /// Possible makers of processes, by pid and beginning.
    of: Table<(i32, u64), Vec<Maker>>,
    past: VecDeque<Past>,
    /// Of children that ended before, nothing is known. Zero: there were none.
    since: u64,
}

impl Origins {
    /// A child of bpm has ended, and is not reaped yet. Its start is read where it is not known.
    fn ended(&mut self, pid: i32, start: Option<u64>, maker: Maker) {
        let to = proc::ticks();
        let known = start.filter(|start| *start > 0);
        let from = known.or_else(|| proc::start_time(pid)).unwrap_or(to);
        if self.past.len() == PAST
            && let Some(first) = self.past.pop_front()
        {
            self.since = self.since.max(first.to);
        }
        self.past.push_back(Past { from, to, maker });
    }

    /// The possible makers of that process are these.
    pub(super) fn note(&mut self, p: &Proc, makers: Vec<Maker>) {
        if self.of.len() >= NOTED {
            self.of
                .retain(|(pid, start), _| proc::start_time(*pid) == Some(*start));
        }
        self.of.insert((p.pid, p.start), makers);
    }

    /// Those that are of one run for certain, for an upgrade in place.
    pub(super) fn save(&self) -> Vec<Origin> {
        let run = |makers: &Vec<Maker>| match makers.as_slice() {
            [Maker::Run(key)] => Some(*key),
            _ => None,
        };
        let all = self.of.iter();
        all.filter_map(|(p, makers)| Some((*p, run(makers)?)))
            .collect()
    }

    /// Takes up what was saved. Of what else began before, the other bpm was the only one to know.
    pub(super) fn restore(&mut self, saved: Vec<Origin>) {
        self.since = proc::ticks();
        for (p, run) in saved {
            self.of.insert(p, vec![Maker::Run(run)]);
        }
    }

    pub(super) fn of(&self, p: &Proc) -> Option<&Vec<Maker>> {
        self.of.get(&(p.pid, p.start))
    }

    /// All that was there when a process began: one of them has made it. Of two that began in one tick of the clock, the
    /// smaller pid is the older one.
    fn candidates(&self, p: &Proc, living: &[Living]) -> Vec<Maker> {
        let start = p.start;
        let mut all: Set<Maker> = Set::default();
        if start <= self.since {
            all.add(Maker::Unknown);
        }
        let older = living.iter().filter(|(born, _)| *born <= (start, p.pid));
        let past = self.past.iter();
        let past = past.filter(|p| (p.from..=p.to).contains(&start));
        let makers = older.flat_map(|(_, makers)| makers.iter().copied());
        for maker in makers.chain(past.map(|p| p.maker)) {
            all.add(maker);
        }
        all.into_keys()
    }
}

impl Runs {
    /// A child of bpm has ended, and is not reaped yet.
    pub(in super::super) fn note_end(&mut self, pid: i32, start: Option<u64>, maker: Maker) {
        self.origins.ended(pid, start, maker);
    }

    /// The run whose first process has that number.
    pub(in super::super) fn led_by(&self, pid: i32) -> Option<RunKey> {
        self.by_pid.get(&pid).copied()
    }

    /// Notes of what came to us whose it is.
    pub(in super::super) fn find_origins(&mut self, known: &Known) {
        let found = proc::orphans(&|pid| known.has(&pid));
        self.makers(&found, known);
    }

    /// Possible makers of each of these, which came to us with all that is below them (parents first).
    pub(in super::super) fn makers(
        &mut self,
        found: &[Proc],
        known: &Known,
    ) -> Table<i32, Vec<Maker>> {
        let mut all: Table<i32, Vec<Maker>> = Table::default();
        let there: Set<i32> = found.iter().map(|p| p.pid).collect();
        let mut unsigned = Vec::new();
        for p in found {
            match self.signed(p) {
                Some(makers) => drop(all.insert(p.pid, makers)),
                None if !there.has(&p.ppid) => unsigned.push(*p),
                None => {}
            }
        }
        if !unsigned.is_empty() {
            let child = |(pid, maker): (&i32, &Maker)| {
                Some(((proc::start_time(*pid)?, *pid), vec![*maker]))
            };
            let mut living: Vec<Living> = known.iter().filter_map(child).collect();
            let signed = found.iter().filter(|p| !there.has(&p.ppid));
            let orphan = |p: &Proc| Some(((p.start, p.pid), all.get(&p.pid)?.clone()));
            living.extend(signed.filter_map(orphan));
            // Each may have made the younger ones.
            sort(&mut unsigned, |a, b| {
                (a.start, a.pid).cmp(&(b.start, b.pid))
            });
            for p in unsigned {
                let makers = self.origins.candidates(&p, &living);
                self.origins.note(&p, makers.clone());
                living.push(((p.start, p.pid), makers.clone()));
                all.insert(p.pid, makers);
            }
        }
        for p in found {
            if !all.has(&p.pid)
                && let Some(makers) = all.get(&p.ppid).cloned()
            {
                self.origins.note(p, makers.clone());
                all.insert(p.pid, makers);
            }
        }
        all
    }

    /// The makers of a process by what it shows itself, or by what was seen of it before.
    fn signed(&self, p: &Proc) -> Option<Vec<Maker>> {
        // A number stays a group's and a session's while somebody is in them.
        let of_leader = |id: i32| self.by_pid.get(&id).map(|key| Maker::Run(*key));
        if let Some(run) = of_leader(p.pgid).or_else(|| of_leader(p.sid)) {
            return Some(vec![run]);
        }
        if let Some(makers) = self.origins.of(p) {
            return Some(makers.clone());
        }
        let maker = self.by_marker(p.pid).or_else(|| self.by_cgroup(p.pid));
        Some(vec![maker.or_else(|| self.by_pipes(p.pid))?])
    }

    fn by_marker(&self, pid: i32) -> Option<Maker> {
        let marker = proc::marker(pid).filter(|marker| !marker.is_empty())?;
        let ours = marker.strip_prefix(&self.marker);
        let run = ours.and_then(|rest| rest.strip_prefix('/')?.rsplit_once('/'));
        Some(match (self.key_of(&marker), run) {
            (Some(key), _) => Maker::Run(key),
            (None, Some((_, run))) if !run.starts_with('b') => Maker::Done,
            (None, _) => Maker::Spared,
        })
    }

    fn by_cgroup(&self, pid: i32) -> Option<Maker> {
        let name = self.groups.as_ref().ok()?.name_of(pid)?;
        let is = |record: &RunRecord| {
            let path = record.cgroup.as_ref().map(|group| group.path());
            path.is_some_and(|path| path.ends_with(&name))
        };
        let mut all = self.records.iter();
        Some(match all.find(|(_, record)| is(record)) {
            Some((key, _)) => Maker::Run(*key),
            None if name.starts_with("build-") => Maker::Spared,
            None => Maker::Done,
        })
    }

    /// By the pipes that it writes to, where those of no other run are among them.
    fn by_pipes(&self, pid: i32) -> Option<Maker> {
        let inodes = [1, 2].map(|fd| proc::pipe_of(pid, fd));
        let writes = |record: &RunRecord| {
            let mut own = record.output.pipes.into_iter().flatten();
            own.any(|pipe| inodes.contains(&Some(pipe)))
        };
        let mut all = self.records.iter().filter(|(_, record)| writes(record));
        let (key, _) = all.next()?;
        all.next().is_none().then_some(Maker::Run(*key))
    }

    /// The run that a process of these makers is treated as one of: the only one of which something is left.
    pub(super) fn owner(&self, makers: &[Maker]) -> Option<RunKey> {
        let mut owner = None;
        for maker in makers {
            match maker {
                Maker::Run(key) if self.records.has(key) => {
                    if owner.replace(*key).is_some() {
                        return None;
                    }
                }
                Maker::Run(key) if !self.left.has(key) => {}
                Maker::Run(_) | Maker::Done | Maker::Spared | Maker::Helper | Maker::Unknown => {
                    return None;
                }
            }
        }
        owner
    }
}

impl Supervisor {
    /// Children that bpm started: what else is our child came to us when its parent ended.
    pub(in super::super) fn known(&self) -> Known {
        self.known_but(&[])
    }

    /// The same without some.
    pub(in super::super) fn known_but(&self, pids: &[i32]) -> Known {
        let known = self.runs.leaders().chain(self.helpers());
        known.filter(|(pid, _)| !pids.contains(pid)).collect()
    }

    /// Those that are no run's first process.
    fn helpers(&self) -> impl Iterator<Item = (i32, Maker)> {
        let direnv = self.environments.children();
        let upgrade = self.upgrade.iter().filter_map(Upgrade::child);
        let helpers = direnv.chain(self.checks.children());
        let helpers = helpers.chain(upgrade).chain(self.hooks.children());
        let helpers = helpers.map(|child| (child.pid(), Maker::Helper));
        let builds = self.builds.children();
        let builds = builds.map(|child| (child.pid(), Maker::Spared));
        builds.chain(helpers)
    }

    /// The same of one child; None: it came to us.
    pub(in super::super) fn maker_of_child(&self, pid: i32) -> Option<Maker> {
        let run = self.runs.led_by(pid).map(Maker::Run);
        run.or_else(|| {
            let helper = self.helpers().find(|(child, _)| *child == pid);
            helper.map(|(_, maker)| maker)
        })
    }
}
