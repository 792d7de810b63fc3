//! `bpm up`: everything runs and is ready, or it is said what does not.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, Wall, human};
use crate::base::error::{Error, Failure, Result};
use crate::base::escape::coloured;
use crate::base::json::{items, object};
use crate::base::table::Table;
use crate::cli::render::{self, Paint, Tone};
use crate::client::connection::{self, CallError, Client};
use crate::daemon::{Project, RunMode, StartOptions, read_config};
use crate::os::poll::readable;

use super::daemon::{options, reach};
use super::mcp_config::claude_lines;
use super::orders::{LONGEST, not_done};
use super::spec::Call;
use super::{answer, note, paint, print, tell};

/// `--timeout` where it is not given.
const READY: Duration = Duration::from_secs(60);
/// A daemon that answered a moment ago is busy, or the machine is: its next answers may take longer than
/// [`connection::PATIENCE`].
const ANSWER: Duration = Duration::from_secs(30);

/// `bpm up`.
pub(super) fn up(call: &Call) -> Result<u8> {
    let patience = call.seconds("timeout")?.unwrap_or(READY);
    let project = call.project()?;
    let config = read_config(&project.root)?;
    let named = call.names()?;
    let names = match named.is_empty() {
        true => config
            .processes
            .iter()
            .filter(|p| p.autostart)
            .map(|p| p.name.clone())
            .collect(),
        false => named.clone(),
    };
    let options = StartOptions {
        only: (!named.is_empty()).then_some(named),
        ..options(call, RunMode::Detached)?
    };
    let since = Wall::now();
    let Some(reached) = reach(&project, &options)? else {
        return Ok(0);
    };
    let builds = Builds::follow(&reached.descriptor.socket, since, paint_err(&project))?;
    let mut client = reached.client;
    take_additions(&mut client)?;
    let mut run = Run {
        client,
        builds,
        patience,
        waits: Table::default(),
        changes: Table::default(),
    };
    run.begin(&names, reached.new)?;
    let failed = run.settle()?;
    let data = run.status()?;
    let shown: Vec<Value> = items(&data["processes"])
        .filter(|p| names.iter().any(|n| p["name"] == n.as_str()))
        .cloned()
        .collect();
    print(render::reached(&shown, paint(&project.env)))?;
    let own = items(&data["warnings"]).filter_map(Value::as_str);
    own.for_each(tell);
    for process in &shown {
        let name = process["name"].as_str().unwrap_or_default();
        let warnings = items(&process["warnings"]).filter_map(Value::as_str);
        warnings.for_each(|warning| tell(format_args!("{name}: {warning}")));
    }
    if let Some(changed) = render::changed_file(&data) {
        tell(changed);
    }
    match failed {
        0 => {
            let url = reached.descriptor.url.as_deref();
            answer(format_args!("\n{}", claude_lines(&project, url)))
        }
        _ => Ok(1),
    }
}

/// Colours for what goes to standard error.
fn paint_err(project: &Project) -> Paint {
    use std::io::IsTerminal;
    let plain = project.env.get("NO_COLOR").is_some();
    Paint::new(!plain && std::io::stderr().is_terminal())
}

/// Has the daemon take over processes that are new in the file; nothing that runs is touched.
fn take_additions(client: &mut Client) -> Result<()> {
    let params = object([("additions", true.into())]);
    match client.call("bpm/reload", params, None) {
        Ok(_) => Ok(()),
        Err(fault) => Err(lost(fault)),
    }
}

/// The state of one `bpm up`.
struct Run {
    client: Client,
    builds: Builds,
    patience: Duration,
    /// By request: a process that was told to start, and when its time is over (None: it is built).
    waits: Table<u64, (String, Option<Mono>)>,
    /// By request: a process whose changes are waited for.
    changes: Table<u64, String>,
}

impl Run {
    fn begin(&mut self, names: &[String], new: bool) -> Result<()> {
        let data = self.status()?;
        for name in names {
            let process = items(&data["processes"]).find(|p| p["name"] == name.as_str());
            let under_way = process.filter(|p| p["type"] == "task" && p["wanted"] == true);
            let mut arguments = waiting(name);
            // A task runs once for each start of the daemon: one that was started is waited for, not
            // run again. One that failed before is.
            let tool = match under_way.and_then(|p| p["state"].as_str()) {
                Some("done") => continue,
                Some("failed") if !new => "start",
                None => "start",
                Some(_) => {
                    arguments["for"] = "ready".into();
                    "wait"
                }
            };
            let id = self.ask(tool, arguments)?;
            let until = Mono::now().after(self.patience);
            self.waits.insert(id, (name.clone(), Some(until)));
            self.watch(name, &Value::Null)?;
        }
        self.look()
    }

    fn ask(&mut self, tool: &str, arguments: Value) -> Result<u64> {
        self.client
            .send(
                "tools/call",
                object([("name", tool.into()), ("arguments", arguments)]),
            )
            .map_err(|f| f.while_doing("bring it up"))
    }

    fn watch(&mut self, name: &str, after: &Value) -> Result<()> {
        let mut arguments = waiting(name);
        arguments["for"] = "change".into();
        if !after.is_null() {
            arguments["after"] = after.clone();
        }
        let id = self.ask("wait", arguments)?;
        self.changes.insert(id, name.into());
        Ok(())
    }

    /// Until each has its answer; how many failed.
    fn settle(&mut self) -> Result<usize> {
        let mut failed = 0;
        while !self.waits.is_empty() {
            let due = self.waits.values().filter_map(|(_, until)| *until).min();
            let left = due.map(|d| d.since(Mono::now()));
            if left == Some(Duration::ZERO) {
                return Err(self.too_late());
            }
            while let Some(message) = self.client.buffered().map_err(lost)? {
                failed += self.take(&message)?;
            }
            if self.waits.is_empty() {
                break;
            }
            let fds = [Some(self.client.as_fd()), self.builds.fd()];
            let [answer, built] = readable(fds, left).map_err(|e| Error::system("wait", e))?;
            if built {
                self.builds.show();
            }
            if answer {
                self.client.fill().map_err(lost)?;
            }
        }
        // The last words of a build that has just ended.
        self.builds.show();
        Ok(failed)
    }

    /// One message; 1 if it tells that a process failed.
    fn take(&mut self, message: &Value) -> Result<usize> {
        let Some(id) = message["id"].as_u64() else {
            return Ok(0);
        };
        let Some(result) = connection::result_of(message, id) else {
            return Ok(0);
        };
        if let Some(name) = self.changes.remove(&id) {
            let told = connection::told(&result.map_err(lost)?);
            // The process may be gone, or bpm stop: then its start is answered as well.
            if !told.failed && told.data["met"] == true {
                self.watch(&name, &told.data["next"])?;
            }
            self.look()?;
            return Ok(0);
        }
        let Some((name, until)) = self.waits.remove(&id) else {
            return Ok(0);
        };
        let told = connection::told(&result.map_err(lost)?);
        if told.data["timed_out"] == true {
            let id = self.ask("start", waiting(&name))?;
            self.waits.insert(id, (name, until));
            return Ok(0);
        }
        let failed = told.failed || told.data["ok"] == false || told.data["met"] == false;
        if failed {
            not_done("start", &name, &told.text);
        }
        Ok(usize::from(failed))
    }

    /// The time for readiness is counted from the end of each build.
    fn look(&mut self) -> Result<()> {
        let data = self.status()?;
        let building = |name: &str| {
            let processes = items(&data["processes"]);
            processes.filter(|p| p["name"] == name).any(|p| {
                let build = &p["build"]["state"];
                p["state"] == "building" || build == "running" || build == "queued"
            })
        };
        for (name, until) in self.waits.values_mut() {
            match (building(name), &until) {
                (true, _) => *until = None,
                (false, None) => *until = Some(Mono::now().after(self.patience)),
                (false, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Asked on a connection of its own: answers on the first belong to `take`.
    fn status(&mut self) -> Result<Value> {
        let until = Some(Mono::now().after(ANSWER));
        self.builds
            .second
            .call("bpm/status", object([]), until)
            .map_err(lost)
    }

    fn too_late(&self) -> Error {
        let now = Mono::now();
        let late: Vec<&str> = self
            .waits
            .values()
            .filter(|(_, until)| until.is_some_and(|u| u <= now))
            .map(|(name, _)| name.as_str())
            .collect();
        Failure::TimedOut {
            what: format!("bring up {}", late.join(", ")),
            after: human(self.patience),
        }
        .into()
    }
}

/// The arguments of a call that waits for a process.
fn waiting(name: &str) -> Value {
    object([
        ("process", name.into()),
        ("timeout_seconds", LONGEST.as_secs().into()),
    ])
}

fn lost(fault: CallError) -> Error {
    fault.while_doing("bring it up")
}

/// The builds' output, shown as it comes.
struct Builds {
    /// Follows; None once it is over.
    first: Option<Client>,
    /// Asks.
    second: Client,
    paint: Paint,
}

impl Builds {
    fn follow(socket: &std::path::Path, since: Wall, paint: Paint) -> Result<Self> {
        let connect = || Client::connect(socket, "cli", ANSWER).map_err(lost);
        let mut first = connect()?;
        let params = object([
            ("build", true.into()),
            ("since", since.rfc3339().into()),
            ("follow", true.into()),
        ]);
        first.send("bpm/follow", params).map_err(lost)?;
        Ok(Self {
            first: Some(first),
            second: connect()?,
            paint,
        })
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.first.as_ref().map(AsFd::as_fd)
    }

    /// Prints what has come.
    fn show(&mut self) {
        let Some(client) = &mut self.first else {
            return;
        };
        // A deadline that is due: what is there is taken, nothing is waited for.
        let now = Some(Mono::now().after(Duration::from_millis(1)));
        loop {
            match client.receive(now) {
                Ok(Some(message)) => {
                    let params = &message["params"];
                    let label = format!("[{}]", params["process"].as_str().unwrap_or("build"));
                    let label = self.paint.paint(Tone::Dim, &label);
                    let lines = items(&params["lines"]);
                    let text: String = lines
                        .filter_map(|line| line["text"].as_str())
                        .map(|line| format!("{label} {}\n", coloured(line)))
                        .collect();
                    note(&text);
                }
                Ok(None) => return,
                Err(_) => {
                    self.first = None;
                    return;
                }
            }
        }
    }
}
