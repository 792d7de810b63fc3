//! A project as it lies on disk, for when there is no daemon: asked through the very tools that a daemon answers
//! with, over a snapshot of processes of which none runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::{Error, Result};
use crate::base::json::object;
use crate::base::logger::Logger;
use crate::base::paths::{CONFIG_FILE, ProjectDir};
use crate::base::table::Set;
use crate::client::connection::{CallError, ToolResult};
use crate::config::Config;
use crate::engine::handle::{Handle, Identity};
use crate::engine::snapshot::{Snapshot, SnapshotCell, UnitView};
use crate::engine::state_file::State;
use crate::engine::supervisor::{log_limits, read_config};
use crate::log::store::{self, Limits, Log};
use crate::os::files;
use crate::os::poll::Mailbox;
use crate::server::ask::{self, Next};
use crate::server::mcp::{self, Envelope, Era, Mcp, Verb};
use crate::server::rpc::{self, Request};
use crate::server::service::{Answer, Caller, ClientKind, Level, Service, Step};
use crate::tools::{self, Kernel, Tools};

/// Of a process that is in no configuration: all there is.
const ALL: Limits = Limits {
    lines: 10_000_000,
    bytes: 1 << 20,
    runs: 100,
    disk: u64::MAX,
};

/// The tools that answer without a daemon.
pub struct Offline {
    tools: Tools,
    mcp: Mcp,
    mailbox: Arc<Mailbox>,
    on_disk: bool,
    /// The mistakes in `.mcp-run`.
    faults: Option<String>,
}

/// Why there is no daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// Nobody has started it yet.
    NotStarted,
    /// A person stopped it: what and when, and how it starts again.
    Stopped(String),
    /// None can be reached or started: why.
    Failed(String),
}

/// bpm's own lines have no place here.
struct Nowhere;

impl Logger for Nowhere {
    fn write(&self, _: Level, _: &str, _: &str) {}
}

impl Offline {
    /// The processes that are configured, or those of which something is on disk where the configuration is
    /// broken; those that are named also where they are in no configuration any more.
    ///
    /// # Errors
    /// No descriptors to be had.
    pub fn open(root: &Path, dir: &ProjectDir, named: &[String]) -> Result<Self> {
        let on_disk = folders(dir);
        let (config, faults) = match read_config(root) {
            Ok(config) => (Some(config), None),
            Err(why) => (None, Some(format!("{CONFIG_FILE} cannot be used: {why}"))),
        };
        let state = State::look(&dir.state());
        let names = names(config.as_ref(), &on_disk, named);
        let units = names.iter().map(|name| {
            let process = config.iter().flat_map(|c| &c.processes);
            let known = process.into_iter().find(|p| p.name == *name);
            let limits = known.map_or(ALL, |p| log_limits(p));
            Arc::new(unit(dir, &state, name, limits))
        });
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        let snapshot = Snapshot {
            units: units.collect(),
            ..Snapshot::new(name.into_owned(), root.into())
        };
        let on_disk = names.iter().any(|name| on_disk.contains(name));
        let offline = Self::of(snapshot, on_disk)?;
        Ok(Self { faults, ..offline })
    }

    /// No project, and so no processes.
    ///
    /// # Errors
    /// No descriptors to be had.
    pub fn nowhere() -> Result<Self> {
        Self::of(Snapshot::new("bpm".into(), PathBuf::from("/")), false)
    }

    fn of(snapshot: Snapshot, on_disk: bool) -> Result<Self> {
        let cannot = |e| Error::system("read the logs", e);
        let mailbox = Mailbox::new().map_err(cannot)?;
        let cell = SnapshotCell::new(snapshot);
        let (handle, _) = Handle::new(cell, Identity::nobody()).map_err(cannot)?;
        let tools = Tools::new(handle, Box::new(Kernel), Arc::new(Nowhere));
        Ok(Self {
            mcp: Mcp::new(&tools.info(), tools.instructions(), &tools.tools()),
            tools,
            mailbox,
            on_disk,
            faults: None,
        })
    }

    /// Some process has left logs.
    pub fn has_logs(&self) -> bool {
        self.on_disk
    }

    /// A method of bpm's own, with its notifications.
    ///
    /// # Errors
    /// It is refused.
    pub fn call(
        &self,
        method: &str,
        params: &Value,
        each: &mut dyn FnMut(Value),
    ) -> std::result::Result<Value, CallError> {
        let step = self
            .tools
            .own(&caller(ClientKind::Cli, Era::Legacy), method, params);
        match step.map(|step| self.finish(step, each)) {
            Some(Answer::Result(value)) => Ok(value),
            Some(Answer::Error { code, message, .. }) => Err(CallError::Refused { code, message }),
            Some(_) | None => Err(CallError::Lost(format!("no answer to {method}"))),
        }
    }

    /// A tool, for a person.
    pub fn tool(&self, name: &str, arguments: &Value) -> ToolResult {
        let caller = caller(ClientKind::Cli, Era::Legacy);
        let step = self.tools.call(&caller, name, arguments, None);
        let (text, data, failed) = match step.map(|step| self.finish(step, &mut |_| {})) {
            Some(Answer::Text(text)) => (text, Value::Null, false),
            Some(Answer::Data { json, text }) => (
                text,
                serde_json::from_slice(&json).unwrap_or_default(),
                false,
            ),
            Some(Answer::Fail(why)) => (why, Value::Null, true),
            Some(Answer::Result(_) | Answer::Error { .. }) | None => {
                (format!("no answer to {name}"), Value::Null, true)
            }
        };
        ToolResult { text, data, failed }
    }

    /// The answer to an agent's request, as a message.
    pub fn answer(&self, request: &Request, absence: &Absence) -> Vec<u8> {
        let mut out = Vec::new();
        let id = request.id.clone();
        let call = match mcp::read(request, None) {
            Ok(call) => call,
            Err(refusal) => {
                rpc::put_error(
                    &mut out,
                    &id,
                    refusal.code,
                    &refusal.message,
                    refusal.data.as_ref(),
                );
                return out;
            }
        };
        let to = Envelope {
            id,
            era: call.era,
            cache: call.verb.cache(),
            ignored: match &call.verb {
                Verb::CallTool { name, args } => self.tools.ignored(name, args),
                _ => Vec::new(),
            },
        };
        if let Verb::CallTool { name, args } = &call.verb
            && let Some(answer) = self.instead(name, args, absence)
        {
            ask::put_answer(&self.mcp, &mut out, &to, answer);
            return out;
        }
        let caller = caller(ClientKind::Proxy, call.era);
        let is_tool = matches!(call.verb, Verb::CallTool { .. });
        match ask::ask(
            &self.tools,
            &self.mcp,
            &caller,
            &to,
            call.verb,
            None,
            &mut out,
        ) {
            Ok(Next::Written) => {}
            Ok(Next::Step(step)) => {
                let answer = self.finish(step, &mut |_| {});
                let answer = match absence {
                    Absence::Stopped(why) if is_tool => preceded(answer, why),
                    Absence::Stopped(_) | Absence::NotStarted | Absence::Failed(_) => answer,
                };
                ask::put_answer(&self.mcp, &mut out, &to, answer);
            }
            Ok(Next::Subscribe(uris)) => {
                let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
                rpc::put(&mut out, &mcp::acknowledged(&to.id, &uris));
            }
            Err(refusal) => {
                let data = refusal.data.as_ref();
                rpc::put_error(&mut out, &to.id, refusal.code, &refusal.message, data);
            }
        }
        out
    }

    /// The answer of a tool that is not asked, since only a daemon could do it.
    fn instead(&self, name: &str, args: &Value, absence: &Absence) -> Option<Answer> {
        match (name, absence) {
            _ if !tools::is_tool(name) => None,
            (_, Absence::Failed(why)) => Some(Answer::Fail(why.clone())),
            ("stop", _) => Some(self.stopped_already(args)),
            ("reload", _) => {
                let why = "cannot reload: no daemon runs; the next start reads .mcp-run";
                let faults = self.faults.iter().map(|faults| format!("\n{faults}"));
                Some(Answer::Fail(why.to_owned() + &faults.collect::<String>()))
            }
            ("start" | "restart", Absence::Stopped(why)) => {
                let why = format!("cannot {name}: while this call was under way, bpm was {why}");
                Some(Answer::Fail(why))
            }
            ("wait", Absence::Stopped(why)) => Some(Answer::data(
                &object([
                    ("met", false.into()),
                    ("reason", why.as_str().into()),
                    ("state", "stopped".into()),
                    ("exit", Value::Null),
                    ("line", Value::Null),
                    ("seq", Value::Null),
                    ("tail", Value::Array(Vec::new())),
                    ("next", Value::Null),
                    (
                        "next_call",
                        object([
                            ("tool", "start".into()),
                            ("arguments", object([("process", args["process"].clone())])),
                        ]),
                    ),
                ]),
                format!("not met: {why}"),
            )),
            _ => None,
        }
    }

    fn stopped_already(&self, args: &Value) -> Answer {
        let all = args["process"] == "*";
        let one = match &args["process"] {
            Value::String(name) if !all => name.clone(),
            _ => String::new(),
        };
        if !all {
            // Faults of the name are reported as everywhere.
            let asked = object([("process", args["process"].clone())]);
            let name = match one.is_empty() {
                true => "stop",
                false => "get_status",
            };
            let told = self.tool(name, &asked);
            // A file that cannot be read may have it.
            if told.failed && (one.is_empty() || self.faults.is_none()) {
                return Answer::Fail(told.text);
            }
        }
        let (value, who) = match all {
            true => (
                object([("ok", true.into()), ("results", Value::Array(Vec::new()))]),
                "all",
            ),
            false => (
                object([
                    ("process", one.as_str().into()),
                    ("ok", true.into()),
                    ("signalled", false.into()),
                    ("killed", 0.into()),
                    ("leftovers", Value::Array(Vec::new())),
                    ("seconds", 0.into()),
                    ("timed_out", false.into()),
                ]),
                one.as_str(),
            ),
        };
        let mut text = format!("{who}: stopped already: no daemon runs");
        if let Some(faults) = &self.faults {
            text.push_str(&format!("\n{faults}"));
        }
        Answer::data(&value, text)
    }

    fn finish(&self, step: Step, each: &mut dyn FnMut(Value)) -> Answer {
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

fn caller(kind: ClientKind, era: Era) -> Caller {
    let modern = era == Era::Modern;
    Caller { kind, modern }
}

/// An answer from disk, with what is so said first.
fn preceded(answer: Answer, why: &str) -> Answer {
    match answer {
        Answer::Text(text) => Answer::Text(format!("{why}\n{text}")),
        Answer::Data { json, text } => {
            let mut value: Value = serde_json::from_slice(&json).unwrap_or_default();
            if value.is_object() {
                value["stopped"] = why.into();
            }
            Answer::data(&value, format!("{why}\n{text}"))
        }
        Answer::Fail(_) | Answer::Result(_) | Answer::Error { .. } => answer,
    }
}

/// The processes of which something is on disk, by name.
fn folders(dir: &ProjectDir) -> Vec<String> {
    let mut names = Set::default();
    for folder in files::entries(dir.all_logs()) {
        let has_files = files::entries(folder.path()).next().is_some();
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
fn unit(dir: &ProjectDir, state: &State, name: &str, limits: Limits) -> UnitView {
    let folder: Arc<Path> = dir.logs(name).into();
    let log = Log::stored(Arc::clone(&folder), store::Kind::Runs, limits);
    let build_log = Log::stored(folder, store::Kind::Builds, limits);
    UnitView {
        exits: state.exits(name),
        ..UnitView::idle(name, log, build_log)
    }
}
