//! The resources that processes use, at most one second old, and read only when somebody asks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::paths::CONFIG_FILE;
use crate::base::table::Table;
use crate::engine::snapshot::Snapshot;
use crate::os::files::{self, Stamp};
use crate::os::proc;
use crate::tools::file::FileChange;

/// The resources of one process and of all that it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// CPU time so far.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub rss: u64,
    /// How many threads.
    pub tasks: u64,
    /// Where the TCP ports that it listens on are reached, the ports rising.
    pub ports: Vec<SocketAddr>,
}

/// Measures groups: the kernel, or a test.
pub trait Meter: Send + Sync {
    /// Of each leader's group, in the order asked; None where there is none any more. `others`: leaders that nobody asks
    /// about.
    fn groups(&self, leaders: &[i32], others: &[i32]) -> Vec<Option<Group>>;
    /// Resident memory of bpm itself, bytes.
    fn own_rss(&self) -> u64;
}

/// The kernel itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Meter for Kernel {
    fn groups(&self, leaders: &[i32], others: &[i32]) -> Vec<Option<Group>> {
        let groups = proc::usage(leaders, others).into_iter();
        groups
            .map(|used| {
                (!used.pids.is_empty()).then(|| Group {
                    cpu: used.cpu,
                    rss: used.rss,
                    tasks: used.tasks,
                    ports: proc::listening(&used.pids),
                })
            })
            .collect()
    }

    fn own_rss(&self) -> u64 {
        proc::self_rss()
    }
}

/// One reading of all groups.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    at: Mono,
    groups: Table<i32, Used>,
    /// The runs that were ready: a run that has become so since then may listen only now.
    ready: Table<i32, Option<bool>>,
    pub(super) own_rss: Option<u64>,
    /// `.mcp-run` is not what was read.
    pub(super) file: FileChange,
    /// Of `.mcp-run`, when that was looked at.
    config: Option<Stamp>,
    took: Duration,
}

/// A group's resources at a reading.
#[derive(Debug, Clone)]
pub(super) struct Used {
    /// None: it was gone.
    pub(super) group: Option<Group>,
    /// Over the time between two readings.
    pub(super) cpu_percent: Option<f64>,
    /// When the next percentage begins, and the CPU time until then.
    base: (Mono, Duration),
}

/// Readings this young are good enough.
const FRESH: Duration = Duration::from_secs(1);
/// A reading that took less is made again on the thread that was asked: a worker's would wake two more.
const QUICK: Duration = Duration::from_millis(2);
/// A percentage over less than this is noise: the kernel counts in ticks of 10 ms.
const SPAN: Duration = Duration::from_millis(500);

impl Reading {
    pub(super) fn of(&self, pid: i32) -> Option<&Used> {
        self.groups.get(&pid)
    }
}

/// The last reading.
pub(super) struct Usage {
    meter: Box<dyn Meter>,
    last: Mutex<Arc<Reading>>,
    /// Of the last reading of some processes alone: the file that was as the snapshot has it, and how long it took.
    of_some: Mutex<(Option<Stamp>, Duration)>,
    /// One reads at a time; the others take what it read.
    reading: Mutex<()>,
}

impl Usage {
    pub(super) fn new(meter: Box<dyn Meter>) -> Self {
        Self {
            meter,
            last: Mutex::default(),
            of_some: Mutex::default(),
            reading: Mutex::default(),
        }
    }

    /// The last reading, if it is young and knows every run of the snapshot as it is.
    pub(super) fn fresh(&self, snapshot: &Snapshot, now: Mono) -> Option<Arc<Reading>> {
        let last = Arc::clone(&lock(&self.last));
        let young = last.own_rss.is_some() && now.since(last.at) < FRESH;
        let whole = || {
            let mut runs = snapshot
                .units
                .iter()
                .filter_map(|unit| Some((unit.facts.pid?, unit)));
            runs.all(|(pid, unit)| last.ready.get(&pid) == Some(&unit.facts.ready))
        };
        let same_file = || last.config == config_stamp(snapshot);
        (young && whole() && same_file()).then_some(last)
    }

    /// The same, or one that is made now: where nobody else makes one, and the last took next to no time.
    pub(super) fn at_once(&self, snapshot: &Snapshot, now: Mono) -> Option<Arc<Reading>> {
        if let Some(fresh) = self.fresh(snapshot, now) {
            return Some(fresh);
        }
        let last = Arc::clone(&lock(&self.last));
        let quick = last.own_rss.is_some() && last.took < QUICK;
        // Another file is one that may keep us waiting, and is read in full.
        let same_file = last.file == FileChange::None && last.config == config_stamp(snapshot);
        let _turn = self.reading.try_lock().ok()?;
        (quick && same_file).then(|| self.read_now(snapshot, now))
    }

    /// The usage of these processes and nothing else. None: it can't be had `at_once`, for the file is not the one of the
    /// last time, or that took long.
    pub(super) fn read_of(
        &self,
        snapshot: &Snapshot,
        names: &[&str],
        at_once: bool,
    ) -> Option<Arc<Reading>> {
        let now = Mono::now();
        if let Some(fresh) = self.fresh(snapshot, now) {
            return Some(fresh);
        }
        let config = config_stamp(snapshot);
        let (of_last, took) = *lock(&self.of_some);
        let same_file = config.is_some() && config == of_last;
        if at_once && (!same_file || took >= QUICK) {
            return None;
        }
        let (mut asked, mut others) = (Vec::new(), Vec::new());
        for unit in &snapshot.units {
            let of = match names.contains(&unit.name.as_str()) {
                true => &mut asked,
                false => &mut others,
            };
            of.extend(unit.facts.pid);
        }
        let groups = match asked.is_empty() {
            true => Vec::new(),
            false => self.meter.groups(&asked, &others),
        };
        let groups = asked.iter().zip(groups);
        let groups = groups.map(|(pid, group)| (*pid, used(group, None, now, now)));
        let file = match same_file {
            true => FileChange::None,
            false => FileChange::of(snapshot),
        };
        let reading = Reading {
            at: now,
            groups: groups.collect(),
            file,
            ..Reading::default()
        };
        let config = config.filter(|_| reading.file == FileChange::None);
        *lock(&self.of_some) = (config, Mono::now().since(now));
        Some(Arc::new(reading))
    }

    /// Reads anew where the last reading won't do. For a worker: the kernel walks tables for this.
    pub(super) fn read(&self, snapshot: &Snapshot) -> Arc<Reading> {
        let _turn = lock(&self.reading);
        let now = Mono::now();
        if let Some(fresh) = self.fresh(snapshot, now) {
            return fresh;
        }
        self.read_now(snapshot, now)
    }

    fn read_now(&self, snapshot: &Snapshot, now: Mono) -> Arc<Reading> {
        let before = Arc::clone(&lock(&self.last));
        let runs: Vec<(i32, Mono)> = snapshot
            .units
            .iter()
            .filter_map(|unit| Some((unit.facts.pid?, unit.facts.started.unwrap_or(now))))
            .collect();
        let pids: Vec<i32> = runs.iter().map(|(pid, _)| *pid).collect();
        let groups = runs
            .iter()
            .zip(self.meter.groups(&pids, &[]))
            .map(|(&(pid, started), group)| (pid, used(group, before.of(pid), started, now)))
            .collect();
        // Before the file is read: what is written in between counts as a change.
        let config = config_stamp(snapshot);
        let next = Arc::new(Reading {
            at: now,
            config,
            groups,
            ready: snapshot
                .units
                .iter()
                .filter_map(|unit| Some((unit.facts.pid?, unit.facts.ready)))
                .collect(),
            own_rss: Some(self.meter.own_rss()),
            file: FileChange::of(snapshot),
            took: Mono::now().since(now),
        });
        *lock(&self.last) = Arc::clone(&next);
        next
    }
}

/// One system call, and cheap enough for each request.
fn config_stamp(snapshot: &Snapshot) -> Option<Stamp> {
    files::stamp(&snapshot.root.join(CONFIG_FILE))
}

/// A group's percentage counts from the reading before; at the first, from its start.
fn used(group: Option<Group>, before: Option<&Used>, started: Mono, now: Mono) -> Used {
    let base = before.map_or((started, Duration::ZERO), |used| used.base);
    let span = now.since(base.0);
    let Some(cpu) = group.as_ref().map(|group| group.cpu) else {
        return Used {
            group,
            cpu_percent: None,
            base,
        };
    };
    if span < SPAN {
        return Used {
            group,
            cpu_percent: before.and_then(|used| used.cpu_percent),
            base,
        };
    }
    let share = cpu.saturating_sub(base.1).as_secs_f64() / span.as_secs_f64();
    Used {
        group,
        cpu_percent: Some((share * 1_000.0 + 0.5) as u64 as f64 / 10.0),
        base: (now, cpu),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(millis * 1_000_000)
    }

    fn with_cpu(millis: u64) -> Option<Group> {
        Some(Group {
            cpu: Duration::from_millis(millis),
            ..Group::default()
        })
    }

    #[test]
    fn a_percentage_is_over_the_time_between_two_readings() {
        let first = used(with_cpu(500), None, at(0), at(10_000));
        assert_eq!(first.cpu_percent, Some(5.0));
        let second = used(with_cpu(1_500), Some(&first), at(0), at(12_000));
        assert_eq!(second.cpu_percent, Some(50.0));
        // Too soon after: the percentage stands, and so does what the next one is counted from.
        let third = used(with_cpu(1_700), Some(&second), at(0), at(12_200));
        assert_eq!(third.cpu_percent, Some(50.0));
        let fourth = used(with_cpu(2_500), Some(&third), at(0), at(13_000));
        assert_eq!(fourth.cpu_percent, Some(100.0));
    }

    #[test]
    fn a_group_that_is_gone_or_lost_members_has_no_wild_figures() {
        let first = used(with_cpu(500), None, at(0), at(1_000));
        assert_eq!(used(None, Some(&first), at(0), at(2_000)).cpu_percent, None);
        let fewer = used(with_cpu(100), Some(&first), at(0), at(2_000));
        assert_eq!(fewer.cpu_percent, Some(0.0));
    }

    struct Nothing;

    impl Meter for Nothing {
        fn groups(&self, leaders: &[i32], _: &[i32]) -> Vec<Option<Group>> {
            vec![None; leaders.len()]
        }
        fn own_rss(&self) -> u64 {
            1
        }
    }

    #[test]
    fn a_reading_is_made_at_once_where_the_last_one_was_quick() {
        let usage = Usage::new(Box::new(Nothing));
        let snapshot = Snapshot::new("shop".into(), "/nonexistent".into());
        let now = Mono::now();
        let after = |took| {
            *lock(&usage.last) = Arc::new(Reading {
                own_rss: Some(1),
                took,
                ..Reading::default()
            });
            usage.at_once(&snapshot, now.after(FRESH)).is_some()
        };
        assert!(usage.at_once(&snapshot, now).is_none(), "nothing is known");
        assert!(after(Duration::ZERO) && !after(QUICK));
        let _turn = lock(&usage.reading);
        assert!(!after(Duration::ZERO), "somebody reads");
    }

    #[test]
    fn some_are_read_at_once_where_file_and_time_are_known() {
        let folder = std::env::temp_dir().join(format!("bpm-usage-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let usage = Usage::new(Box::new(Nothing));
        let snapshot = Snapshot::new("shop".into(), folder.clone());
        let read = |at_once| usage.read_of(&snapshot, &[], at_once).is_some();
        assert!(!read(true) && read(false));
        assert!(!read(true), "there is no file");
        let file = folder.join(CONFIG_FILE);
        std::fs::write(&file, "a").unwrap();
        assert!(!read(true) && read(false) && read(true));
        std::fs::write(&file, "ab").unwrap();
        assert!(!read(true), "it is another one");
        assert!(read(false));
        lock(&usage.of_some).1 = QUICK;
        assert!(!read(true), "the last one took long");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
