//! The logs of a project as they lie on disk, for when there is no daemon: asked through the very tools
//! that a daemon answers with, over a snapshot of processes of which none runs.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::{Error, Result};
use crate::base::logger::Logger;
use crate::base::table::Set;
use crate::client::connection::{CallError, ToolResult};
use crate::config::Config;
use crate::daemon::{Project, read_config};
use crate::engine::handle::{Handle, Identity};
use crate::engine::snapshot::{Snapshot, SnapshotCell, UnitView};
use crate::engine::supervisor::log_limits;
use crate::log::store::{self, Limits, Log};
use crate::os::poll::Mailbox;
use crate::server::service::{Answer, Caller, ClientKind, Level, Service, Step};
use crate::tools::{Kernel, Tools};

/// Of a process that is in no configuration: all there is.
const ALL: Limits = Limits {
    lines: 10_000_000,
    bytes: 1 << 20,
    runs: 100,
    disk: u64::MAX,
};

/// What can be asked without a daemon.
pub(super) struct Stored {
    tools: Tools,
    mailbox: Arc<Mailbox>,
}

/// bpm's own lines have no place here.
struct Nowhere;

impl Logger for Nowhere {
    fn write(&self, _: Level, _: &str, _: &str) {}
}

impl Stored {
    /// The logs of all processes that are configured, or of all that are on disk where the configuration is
    /// broken; of those that are named also where they are in no configuration any more.
    /// None: nothing is on disk.
    ///
    /// # Errors
    /// No descriptors to be had.
    pub(super) fn open(project: &Project, named: &[String]) -> Result<Option<Self>> {
        let on_disk = folders(project);
        let config = read_config(&project.root).ok();
        let names = names(config.as_ref(), &on_disk, named);
        if !names.iter().any(|name| on_disk.contains(name)) {
            return Ok(None);
        }
        let cannot = |e| Error::system("read the logs", e);
        let mailbox = Mailbox::new().map_err(cannot)?;
        let units = names.iter().map(|name| {
            let process = config.iter().flat_map(|c| &c.processes);
            let known = process.into_iter().find(|p| p.name == *name);
            Arc::new(unit(project, name, known.map_or(ALL, |p| log_limits(p))))
        });
        let snapshot = SnapshotCell::new(Snapshot {
            units: units.collect(),
            ..Snapshot::new(project.name(), project.root.clone())
        });
        let (handle, _) = Handle::new(snapshot, Identity::nobody()).map_err(cannot)?;
        Ok(Some(Self {
            tools: Tools::new(handle, Box::new(Kernel), Arc::new(Nowhere)),
            mailbox,
        }))
    }

    /// A method of bpm's own, with its notifications.
    ///
    /// # Errors
    /// It is refused.
    pub(super) fn call(
        &self,
        method: &str,
        params: &Value,
        each: &mut dyn FnMut(Value),
    ) -> std::result::Result<Value, CallError> {
        let step = self.tools.own(&us(), method, params);
        match step.map(|step| self.answer(step, each)) {
            Some(Answer::Result(value)) => Ok(value),
            Some(Answer::Error { code, message, .. }) => Err(CallError::Refused { code, message }),
            Some(_) | None => Err(CallError::Lost(format!("no answer to {method}"))),
        }
    }

    /// A tool.
    pub(super) fn tool(&self, name: &str, arguments: &Value) -> ToolResult {
        let step = self.tools.call(&us(), name, arguments, None);
        let (text, data, failed) = match step.map(|step| self.answer(step, &mut |_| {})) {
            Some(Answer::Text(text)) => (text, Value::Null, false),
            Some(Answer::Data { value, text }) => (text, value, false),
            Some(Answer::Fail(why)) => (why, Value::Null, true),
            Some(Answer::Result(_) | Answer::Error { .. }) | None => {
                (format!("no answer to {name}"), Value::Null, true)
            }
        };
        ToolResult { text, data, failed }
    }

    fn answer(&self, step: Step, each: &mut dyn FnMut(Value)) -> Answer {
        match step {
            Step::Done(answer) => answer,
            Step::Work(work) => work(),
            Step::Wait(mut task) => {
                task.start(&self.mailbox.waker(0));
                let mut out = Vec::new();
                // With room for all there is, what can be answered is answered at once.
                loop {
                    let answer = task.poll(Mono::now(), usize::MAX, &mut out);
                    out.drain(..).for_each(&mut *each);
                    if let Some(answer) = answer {
                        return answer;
                    }
                }
            }
        }
    }
}

fn us() -> Caller {
    Caller {
        kind: ClientKind::Cli,
        modern: false,
    }
}

/// The processes of which something is on disk, by name.
fn folders(project: &Project) -> Vec<String> {
    let mut names = Set::default();
    let folders = fs::read_dir(project.dir.all_logs()).into_iter().flatten();
    for folder in folders.flatten() {
        let has_files = fs::read_dir(folder.path()).is_ok_and(|mut files| files.next().is_some());
        if let (true, Ok(name)) = (has_files, folder.file_name().into_string()) {
            names.add(name);
        }
    }
    names.into_keys()
}

/// In the order of the file; what is in no file any more comes last, where it was named.
fn names(config: Option<&Config>, on_disk: &[String], named: &[String]) -> Vec<String> {
    let Some(config) = config else {
        return on_disk.to_vec();
    };
    let mut names: Vec<String> = config.processes.iter().map(|p| p.name.clone()).collect();
    for name in on_disk {
        if named.contains(name) && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// A process that does not run, with the logs it left.
fn unit(project: &Project, name: &str, limits: Limits) -> UnitView {
    let folder: Arc<Path> = project.dir.logs(name).into();
    let log = Log::stored(Arc::clone(&folder), store::Kind::Runs, limits);
    let build_log = Log::stored(folder, store::Kind::Builds, limits);
    UnitView::idle(name, log, build_log)
}
