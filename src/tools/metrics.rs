//! The text of `/metrics` and `bpm metrics`, from the snapshot and one reading of `/proc`.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::usage::{Group, Reading};
use crate::base::clock::{Mono, Wall};
use crate::base::escape::in_line;
use crate::base::table::{Table, sort};
use crate::config::Mode;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{BuildState, ExitView, Snapshot, State, UnitView};
use crate::log::store::Stats;
use crate::os::own::Own;
use crate::os::reap::signal_name;
use crate::server::metrics::Family;
use crate::server::metrics::Kind::{self, Counter, Gauge};

/// The sources of the text.
pub(super) struct Sources<'a> {
    pub(super) handle: &'a Handle,
    pub(super) snapshot: &'a Snapshot,
    pub(super) usage: &'a Reading,
    pub(super) own: Own,
    pub(super) now: Mono,
    pub(super) wall: Wall,
}

/// CPU time as a counter: a group whose child left keeps that child's time. By the process's name.
#[derive(Debug, Default)]
pub(super) struct CpuTotals(Mutex<Table<String, Duration>>);

impl CpuTotals {
    /// The time so far, and no less than the last time that somebody asked.
    fn at_least(&self, name: &str, cpu: Duration) -> Duration {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(total) = totals.get_mut(name) {
            *total = cpu.max(*total);
            return *total;
        }
        totals.insert(name.to_owned(), cpu);
        cpu
    }
}

/// One process, as far as metrics are concerned.
struct Seen<'a> {
    unit: &'a UnitView,
    group: Option<&'a Group>,
    log: Stats,
    cpu: Duration,
    sources: &'a Sources<'a>,
}

type Value = fn(&Seen<'_>) -> Option<f64>;

/// Families with one sample a process.
const PROCESS: &[(&str, Kind, &str, Value)] = &[
    (
        "bpm_process_up",
        Gauge,
        "1 while a run of it serves, else 0.",
        |p| flag(p.unit.facts.pid.is_some()),
    ),
    (
        "bpm_process_wanted",
        Gauge,
        "1 if somebody wants it up, else 0.",
        |p| flag(p.unit.facts.wanted),
    ),
    (
        "bpm_process_ready",
        Gauge,
        "1 if its run is ready, 0 if not yet; absent while nothing runs.",
        |p| p.unit.facts.pid.and(p.unit.facts.ready).and_then(flag),
    ),
    (
        "bpm_process_healthy",
        Gauge,
        "1 if its last health checks passed, else 0; absent without a health check.",
        |p| p.unit.facts.healthy.and_then(flag),
    ),
    (
        "bpm_process_dev_mode",
        Gauge,
        "1 in dev mode, 0 in release mode.",
        |p| flag(p.unit.facts.mode == Mode::Dev),
    ),
    (
        "bpm_process_stale",
        Gauge,
        "1 while an older build serves because the newest failed, else 0.",
        |p| flag(p.unit.facts.stale),
    ),
    (
        "bpm_process_rolled_back",
        Gauge,
        "1 while the build before the newest serves because the newest died at its start, else 0.",
        |p| flag(p.unit.facts.rolled_back),
    ),
    (
        "bpm_process_start_time_seconds",
        Gauge,
        "When the run that serves was started, in seconds since the epoch; absent while nothing runs.",
        |p| {
            p.unit
                .facts
                .pid
                .and(p.unit.facts.started)
                .map(|at| p.sources.date(at))
        },
    ),
    (
        "bpm_process_restarts_total",
        Counter,
        "Starts after the first.",
        |p| Some(p.unit.facts.restarts as f64),
    ),
    (
        "bpm_process_crashes_total",
        Counter,
        "Ends that nobody asked for.",
        |p| Some(p.unit.facts.crashes as f64),
    ),
    (
        "bpm_process_last_exit_code",
        Gauge,
        "Exit code of the last run that ended, 128 and the number for a signal; absent before that.",
        |p| p.unit.exits.back().and_then(exit_code),
    ),
    (
        "bpm_process_last_exit_timestamp_seconds",
        Gauge,
        "When the last run ended; absent before that.",
        |p| p.unit.exits.back().map(|exit| seconds(exit.at)),
    ),
    (
        "bpm_process_next_start_timestamp_seconds",
        Gauge,
        "When it will be started or built again by itself; absent while nothing is planned.",
        |p| p.unit.facts.next_start.map(|at| p.sources.date(at)),
    ),
    (
        "bpm_process_cpu_seconds_total",
        Counter,
        "CPU time of its whole group, over all runs.",
        |p| Some(p.cpu.as_secs_f64()),
    ),
    (
        "bpm_process_resident_memory_bytes",
        Gauge,
        "Resident memory of its whole group; absent while nothing runs.",
        |p| p.group.map(|group| group.rss as f64),
    ),
    (
        "bpm_process_threads",
        Gauge,
        "Threads of its whole group; absent while nothing runs.",
        |p| p.group.map(|group| group.tasks as f64),
    ),
    (
        "bpm_process_log_lines_total",
        Counter,
        "Lines it printed.",
        |p| Some(p.log.printed as f64),
    ),
    (
        "bpm_process_log_bytes_total",
        Counter,
        "Bytes it printed.",
        |p| Some(p.log.bytes as f64),
    ),
    (
        "bpm_process_log_dropped_lines_total",
        Counter,
        "Lines that are kept neither in memory nor on disk any more.",
        |p| Some(p.log.dropped as f64),
    ),
    (
        "bpm_process_log_trouble",
        Gauge,
        "1 while its log can't be written to disk, else 0.",
        |p| flag(p.unit.log_trouble().is_some()),
    ),
    (
        "bpm_process_last_output_timestamp_seconds",
        Gauge,
        "When it last printed something; absent before that.",
        |p| p.log.last_output.map(|at| p.sources.date(at)),
    ),
    (
        "bpm_process_build_running",
        Gauge,
        "1 while it is built, else 0.",
        |p| {
            let build = p.unit.build.as_ref();
            flag(build.is_some_and(|build| build.state == BuildState::Running))
        },
    ),
    (
        "bpm_process_build_errors",
        Gauge,
        "Errors of the last build that ended; absent before that.",
        |p| p.unit.built.as_ref().map(|build| build.errors.count as f64),
    ),
    (
        "bpm_process_build_duration_seconds",
        Gauge,
        "How long the last build took; absent before that.",
        |p| Some(p.unit.built.as_ref()?.took?.as_secs_f64()),
    ),
];

/// Name, type, help, and the value where it is known.
type Row<T> = (&'static str, Kind, &'static str, fn(&Sources<'_>) -> T);

/// Families with one sample in all.
const DAEMON: &[Row<Option<f64>>] = &[
    (
        "bpm_clients",
        Gauge,
        "Agents and proxies that are connected.",
        |s| Some(s.handle.clients.load(Ordering::Relaxed) as f64),
    ),
    (
        "bpm_connections",
        Gauge,
        "Connections that are open, on the socket and over TCP.",
        |s| Some(s.handle.connections.load(Ordering::Relaxed) as f64),
    ),
    (
        "bpm_release_timestamp_seconds",
        Gauge,
        "When processes in dev mode will be built for release unless somebody calls before; absent in release mode.",
        |s| s.snapshot.release_at.map(|at| s.date(at)),
    ),
];

/// bpm itself, by the names that all exporters use.
const OWN: &[Row<f64>] = &[
    (
        "process_cpu_seconds_total",
        Counter,
        "CPU time of bpm itself.",
        |s| s.own.cpu.as_secs_f64(),
    ),
    (
        "process_resident_memory_bytes",
        Gauge,
        "Resident memory of bpm itself.",
        |s| s.own.rss as f64,
    ),
    ("process_threads", Gauge, "Threads of bpm.", |s| {
        s.own.threads as f64
    }),
    (
        "process_start_time_seconds",
        Gauge,
        "When bpm was started, in seconds since the epoch.",
        |s| seconds(s.handle.identity.started_at),
    ),
    (
        "process_open_fds",
        Gauge,
        "Descriptors that bpm has open.",
        |s| s.own.fds as f64,
    ),
    (
        "process_max_fds",
        Gauge,
        "Descriptors that bpm may have open.",
        |s| s.own.max_fds as f64,
    ),
];

impl Sources<'_> {
    /// When that is, in seconds since the epoch.
    fn date(&self, at: Mono) -> f64 {
        let now = self.wall.0 as f64 / 1_000.0;
        let shift = match at >= self.now {
            true => at.since(self.now).as_secs_f64(),
            false => -self.now.since(at).as_secs_f64(),
        };
        ((now + shift) * 1_000.0).round() / 1_000.0
    }
}

/// The whole text. `tools`: the names of all tools.
pub(super) fn text<'t>(
    sources: &Sources<'_>,
    totals: &CpuTotals,
    tools: impl Iterator<Item = &'t str>,
) -> String {
    let snapshot = sources.snapshot;
    let seen: Vec<Seen<'_>> = snapshot
        .units
        .iter()
        .map(|unit| {
            let used = unit.facts.pid.and_then(|pid| sources.usage.of(pid));
            let group = used.and_then(|used| used.group.as_ref());
            let cpu = unit.counters.cpu + group.map_or(Duration::ZERO, |group| group.cpu);
            Seen {
                unit,
                group,
                log: unit.log.stats(),
                cpu: totals.at_least(&unit.name, cpu),
                sources,
            }
        })
        .collect();
    let mut text = String::new();
    let mut put = |name, kind, help: &str, fill: &mut dyn FnMut(&mut Family)| {
        let mut family = Family::new(name, kind, help);
        fill(&mut family);
        text.push_str(family.text());
    };
    let help = "The daemon, its version and its project; always 1.";
    put("bpm_info", Gauge, help, &mut |family| {
        family.add(
            &[
                ("version", super::VERSION),
                ("project", &in_line(&snapshot.project)),
            ],
            1.0,
        );
    });
    let mut tools: Vec<&str> = tools.collect();
    sort(&mut tools, Ord::cmp);
    put(
        "bpm_tool_calls_total",
        Counter,
        "Tool calls answered.",
        &mut |family| {
            for tool in &tools {
                let [ok, error] = sources.handle.calls(tool);
                family.add(&[("tool", tool), ("result", "ok")], ok as f64);
                family.add(&[("tool", tool), ("result", "error")], error as f64);
            }
        },
    );
    for (name, kind, help, value) in DAEMON {
        put(name, *kind, help, &mut |family| {
            if let Some(value) = value(sources) {
                family.add(&[], value);
            }
        });
    }
    let help = "A process of .mcp-run and its type; always 1.";
    put("bpm_process_info", Gauge, help, &mut |family| {
        for Seen { unit, .. } in &seen {
            family.add(
                &[("process", &unit.name), ("type", unit.kind.as_str())],
                1.0,
            );
        }
    });
    let help = "1 for the state the process is in, 0 for the others.";
    put("bpm_process_state", Gauge, help, &mut |family| {
        for Seen { unit, .. } in &seen {
            for state in State::ALL {
                let is = f64::from(u8::from(unit.facts.state == state));
                family.add(&[("process", &unit.name), ("state", state.as_str())], is);
            }
        }
    });
    for (name, kind, help, value) in PROCESS {
        put(name, *kind, help, &mut |family| {
            for process in &seen {
                if let Some(value) = value(process) {
                    family.add(&[("process", &process.unit.name)], value);
                }
            }
        });
    }
    put(
        "bpm_process_builds_total",
        Counter,
        "Builds that ended.",
        &mut |family| {
            for Seen { unit, .. } in &seen {
                let counters = &unit.counters;
                for (result, count) in [
                    ("ok", counters.builds_ok),
                    ("failed", counters.builds_failed),
                    ("cancelled", counters.builds_cancelled),
                ] {
                    family.add(&[("process", &unit.name), ("result", result)], count as f64);
                }
            }
        },
    );
    for (name, kind, help, value) in OWN {
        put(name, *kind, help, &mut |family| {
            family.add(&[], value(sources))
        });
    }
    text
}

fn flag(is: bool) -> Option<f64> {
    Some(f64::from(u8::from(is)))
}

fn seconds(at: Wall) -> f64 {
    at.0 as f64 / 1_000.0
}

fn exit_code(exit: &ExitView) -> Option<f64> {
    match (exit.code, &exit.signal) {
        (Some(code), _) => Some(f64::from(code)),
        (None, Some(signal)) => {
            let number = (1..=64).find(|n| signal_name(*n) == signal.as_str())?;
            Some(f64::from(128 + number))
        }
        (None, None) => None,
    }
}
