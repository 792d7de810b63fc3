//! Runs that go over an upgrade in place: their processes stay our children.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::saved::{Saved, field, restore_fields, save_fields, saved, saved_enum};
use crate::config::Process;
use crate::config::shell::Receiver;
use crate::engine::handle::Stopped;
use crate::engine::handover::{Handover, Takeover};
use crate::lifecycle::{RunKey, UnitId};
use crate::log::capture::{Freeze, Frozen, OnDrained};
use crate::log::store::Log;
use crate::os::leader::{self, Leader};
use crate::os::reap::{Child, Death, End};

use super::origins::Origin;
use super::{Adopted, Output, Progress, RunRecord, Runs, Stop};

/// A disk that hangs may keep the reading thread from its work.
const PATIENCE: Duration = Duration::from_secs(2);

/// The output of a run that is gone: its process, its number, and the names of its pipes.
type Left = (UnitId, (u64, PipeNames));
type PipeNames = [Option<String>; 2];

saved! {
    Stop { signal, receiver, timeout, begun, asked, rest_due, killing, killed }
    Death { pid, end, cpu, peak_rss }
    Stopped { signalled, killed, leftovers }
}

saved_enum! {
    Receiver { Group, Leader, Rest }
    Progress { First, Rest, Last, Done }
    End { Code(code), Signal { number, core }, Unknown }
}

impl Runs {
    /// Nothing is read from any run while the result is there.
    pub(in crate::engine::supervisor) fn freeze(&self) -> Result<Freeze, String> {
        match self.captures.freeze(PATIENCE) {
            Ok(Some(freeze)) => Ok(freeze),
            Ok(None) => Err("the output of the processes can't be read: does a disk hang?".into()),
            Err(e) => Err(crate::base::error::reason(&e)),
        }
    }

    /// All runs, and the output of those that are gone but for a process that holds their pipes. `unit` knows the log.
    pub(in crate::engine::supervisor) fn save(
        &self,
        frozen: &Freeze,
        unit: impl Fn(&Arc<Log>) -> Option<UnitId>,
        to: &mut Handover,
    ) -> Value {
        let mut keep = |output: &Frozen| {
            let mut names = [None, None];
            for (at, fd) in output.pipes.iter().enumerate() {
                if let Some(fd) = fd {
                    let name = format!("output {} {at}", output.number);
                    to.keep_number(name.as_str(), *fd);
                    names[at] = Some(name);
                }
            }
            names
        };
        let mut records = Vec::new();
        for (key, record) in self.records.iter() {
            let mine = |o: &&Frozen| o.number == record.output.capture.number();
            let pipes = frozen.outputs.iter().find(mine).map(&mut keep);
            records.push((*key, record.save(pipes.unwrap_or_default())));
        }
        let mut left = Vec::new();
        for output in frozen.outputs.iter().filter(|o| o.detached) {
            if let Some(unit) = unit(&output.log) {
                left.push((unit, (output.run, keep(output))));
            }
        }
        for (key, record) in self.records.iter() {
            if let Some(terminal) = &record.output._terminal {
                let name = format!("terminal {} {}", key.unit, key.generation);
                to.keep(name, terminal);
            }
        }
        save_fields(&[
            ("records", &records),
            ("left", &left),
            ("origins", &self.origins.save()),
            ("stopped", &self.stopped),
        ])
    }

    /// Takes up what was saved. `unit` gives the settings of a process and its log, `drained` whom to tell.
    pub(in crate::engine::supervisor) fn restore(
        &mut self,
        from: &mut Takeover,
        unit: impl Fn(UnitId) -> Option<(Arc<Process>, Arc<Log>)>,
        drained: impl Fn(RunKey) -> OnDrained,
    ) -> Result<(), String> {
        let saved = from.part("runs");
        let said = |e: std::io::Error| crate::base::error::reason(&e);
        let records: Vec<(RunKey, Value)> = field(&saved, "records")?;
        for (key, saved) in records {
            let (id, generation) = (key.unit, key.generation);
            let (process, log) = unit(id).ok_or_else(|| format!("runs.{id}: is no process"))?;
            let names: PipeNames = field(&saved, "pipes")?;
            let pipes = names.map(|name| from.take(&name?));
            let run: u64 = field(&saved, "run")?;
            let capture = self.captures.go_on(log, run, pipes, drained(key));
            let output = Output {
                capture: capture.map_err(said)?,
                pipes: None,
                _terminal: from.take(&format!("terminal {id} {generation}")),
            };
            let cgroup = match from.is_dry() {
                true => None,
                false => {
                    let groups = self.groups.as_ref().ok();
                    groups.and_then(|g| g.find(&format!("run-{}-{run}", process.name)))
                }
            };
            let record = RunRecord::restore(&saved, output, &process, cgroup, from.is_dry())?;
            self.by_pid.insert(record.pid, key);
            self.records.insert(key, Box::new(record));
        }
        let left: Vec<Left> = field(&saved, "left")?;
        for (id, (run, names)) in left {
            if let Some((_, log)) = unit(id) {
                let pipes = names.map(|name| from.take(&name?));
                let nobody = Box::new(|_| ());
                // Dropped, it goes on to its end.
                drop(self.captures.go_on(log, run, pipes, nobody).map_err(said)?);
            }
        }
        self.captures.wake();
        let mut origins: Option<Vec<Origin>> = None;
        let rest: &mut [(_, &mut dyn Saved)] =
            &mut [("stopped", &mut self.stopped), ("origins", &mut origins)];
        restore_fields(&saved, rest)?;
        self.origins.restore(origins.unwrap_or_default());
        self.expect_ends();
        Ok(())
    }

    /// How many of them have not ended.
    pub(in crate::engine::supervisor) fn living(&self) -> usize {
        self.records
            .values()
            .filter(|record| record.lives())
            .count()
    }

    /// The last output of some run is still being read.
    pub(in crate::engine::supervisor) fn is_draining(&self) -> bool {
        !self.draining.is_empty() || !self.read.is_empty()
    }
}

impl RunRecord {
    fn save(&self, pipes: PipeNames) -> Value {
        let adopted = self.adopted.as_ref().map(|a| (a.reaper, a.start));
        save_fields(&[
            ("pid", &self.pid),
            ("lives", &self.leader.is_some()),
            ("adopted", &adopted),
            ("death", &self.death),
            ("run", &self.run),
            ("exe", &self.exe),
            ("pipes", &pipes),
            ("began", &self.began),
            ("fault", &self.fault),
            ("read", &self.read),
            ("stop", &self.stop),
        ])
    }

    fn restore(
        saved: &Value,
        output: Output,
        process: &Process,
        cgroup: Option<crate::os::cgroup::Cgroup>,
        dry: bool,
    ) -> Result<Self, String> {
        let pid: i32 = field(saved, "pid")?;
        let lives: bool = field(saved, "lives")?;
        let adopted: Option<(i32, u64)> = field(saved, "adopted")?;
        let leader = match (lives && !dry, adopted) {
            (false, _) => None,
            (true, None) => {
                let child = Child::inherited(pid);
                Some(Leader::Child(
                    child.ok_or_else(|| format!("{pid} is no child of ours"))?,
                ))
            }
            (true, Some((_, start))) => {
                let opened = leader::Adopted::open(pid, start).ok().flatten();
                opened.map(Leader::Adopted)
            }
        };
        let mut record = Self::with(pid, leader, output, process, cgroup);
        record.adopted = adopted.map(|(reaper, start)| Adopted {
            reaper,
            start,
            left: Vec::new(),
        });
        restore_fields(
            saved,
            &mut [
                ("death", &mut record.death),
                ("run", &mut record.run),
                ("exe", &mut record.exe),
                ("began", &mut record.began),
                ("fault", &mut record.fault),
                ("read", &mut record.read),
                ("stop", &mut record.stop),
            ],
        )?;
        Ok(record)
    }
}
