//! `limits` of runs: by their cgroups where there are controllers; else memory by looking at it, and the rest not at all.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::config::{self, Process};
use crate::lifecycle::{Event, RunKey};
use crate::os::cgroup::{Cgroup, Limits};
use crate::os::proc;

use super::Supervisor;
use super::runs::Runs;

/// How often the memory of runs is read.
const EVERY: Duration = Duration::from_secs(5);

/// When memory is read next.
pub(super) struct MemoryWatch {
    due: Option<Mono>,
}

impl MemoryWatch {
    /// Runs may be there that an earlier bpm began.
    pub(super) fn new(now: Mono) -> Self {
        Self {
            due: Some(now.after(EVERY)),
        }
    }

    /// A run began whose memory is to be read.
    pub(super) fn begin(&mut self, now: Mono) {
        self.due.get_or_insert(now.after(EVERY));
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.due
    }
}

impl Runs {
    /// Limits a run; the error says what can't be had here.
    pub(super) fn limit(
        &self,
        cgroup: Option<&Cgroup>,
        wanted: &config::Limits,
    ) -> Result<(), String> {
        let limits = Limits {
            memory: wanted.memory,
            memory_high: wanted.memory_high,
            cpu: wanted.cpu,
            tasks: wanted.tasks,
        };
        match (self.without_controllers(cgroup), cgroup) {
            (None, Some(group)) if limits != Limits::default() => group.limit(&limits),
            (Some(why), _) => {
                let keys = [
                    ("memory_high", limits.memory_high.is_some()),
                    ("cpu", limits.cpu.is_some()),
                    ("tasks", limits.tasks.is_some()),
                ];
                let keys = keys.iter().filter(|(_, set)| *set).map(|(key, _)| *key);
                let keys: Vec<&str> = keys.collect();
                match keys.as_slice() {
                    [] => Ok(()),
                    [one] => Err(format!("limits.{one} is not in effect: {why}")),
                    many => Err(format!(
                        "limits of {} are not in effect: {why}",
                        many.join(", ")
                    )),
                }
            }
            (None, _) => Ok(()),
        }
    }

    /// Why a run with this cgroup can't be limited by it.
    fn without_controllers(&self, cgroup: Option<&Cgroup>) -> Option<&str> {
        match (self.groups(), cgroup) {
            (Err(why), _) => Some(why),
            (Ok(_), None) => Some("the run has no cgroup"),
            (Ok(groups), Some(_)) => groups.without_controllers(),
        }
    }

    /// The memory of such a run has to be read.
    pub(super) fn is_read(&self, cgroup: Option<&Cgroup>, wanted: &config::Limits) -> bool {
        wanted.memory.is_some() && self.without_controllers(cgroup).is_some()
    }
}

impl Supervisor {
    /// Ends runs that are above their memory limit, as after a crash.
    pub(super) fn check_memory(&mut self, now: Mono) {
        if self.memory.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        let keys: Vec<RunKey> = self.runs.all().collect();
        for key in keys {
            let Some(process) = self.units.process(key.unit) else {
                continue;
            };
            let (Some(most), true) = (process.launch.limits.memory, self.is_read(key, &process))
            else {
                continue;
            };
            self.memory.begin(now);
            let used = proc::resident(&self.runs.processes(key));
            if used > most {
                let why = format!("over its memory limit: {} of {}", size(used), size(most));
                self.lives.note(Event::Seen {
                    run: key,
                    words: Some(why),
                });
                let healthy = false;
                self.lives.note(Event::Health { run: key, healthy });
            }
        }
    }

    fn is_read(&self, key: RunKey, process: &Process) -> bool {
        let record = self.runs.get(key).filter(|record| record.lives());
        record.is_some_and(|r| self.runs.is_read(r.cgroup(), &process.launch.limits))
    }
}

/// As in the file: `512M`, `1536K`.
fn size(bytes: u64) -> String {
    const M: u64 = 1 << 20;
    match bytes {
        0..M => format!("{}K", bytes.div_ceil(1 << 10)),
        _ => format!("{}M", bytes.div_ceil(M)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_in_the_file() {
        assert_eq!(size(512 << 20), "512M");
        assert_eq!(size(64 << 10), "64K");
        assert_eq!(size((512 << 20) + 1), "513M");
    }
}
