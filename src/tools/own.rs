//! Methods of bpm's own on the Unix socket, and the pages for probes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::follow::{failed, follow, refused};
use super::metrics::Sources;
use super::resources::JSON;
use super::schema::{Args, COUNT, Kind, Row};
use super::status::{self, Wish};
use super::text::Reader;
use super::why::Card;
use super::{Call, PROCESS, PROCESSES, Tools, VERSION, reload, upgrade};
use crate::base::clock::{Mono, Wall};
use crate::base::json::{list, object, or_null, strings};
use crate::engine::handle::{Handle, Reply, ReplySlot, Request, UpgradeWish};
use crate::engine::snapshot::State;
use crate::os::poll::Waker;
use crate::server::rpc;
use crate::server::service::{
    Answer, Caller, MIN_CLIENT_VERSION, PROTOCOL_VERSION, Page, Step, Task,
};

/// For a client that has all the time: the CLI.
const LONG: Duration = Duration::from_secs(3_600);

pub(super) const ONE: &[Row] = &[Row::needed("process", PROCESS, "")];

/// Checks parameters that are no tool's: what is wrong with them is a JSON-RPC error.
pub(super) fn checked(
    tools: &Tools,
    name: &str,
    rows: &[Row],
    params: &Value,
    then: &dyn Fn(&Args) -> Result<Step, String>,
) -> Step {
    Args::check(name, rows, params, &|| tools.handle.snapshot.now().names())
        .and_then(|args| then(&args))
        .unwrap_or_else(|why| {
            let process = params["process"].as_str().unwrap_or_default();
            tools.refused(process, why, Reader::Person, refused)
        })
}

/// Methods of bpm's own.
pub(super) fn own(tools: &Tools, caller: &Caller, method: &str, params: &Value) -> Option<Step> {
    const STATUS: &[Row] = &[
        Row::may("process", PROCESSES, ""),
        Row::may("events_since", COUNT, ""),
    ];
    const RELOAD: &[Row] = &[
        Row::may("dry_run", Kind::Flag, ""),
        Row::may("additions", Kind::Flag, ""),
    ];
    const UPGRADE: &[Row] = &[
        Row::may("binary", Kind::Text, ""),
        Row::may("now", Kind::Flag, ""),
        Row::may("force", Kind::Flag, ""),
        Row::may(upgrade::DONE, Kind::Flag, ""),
    ];
    const SHUTDOWN: &[Row] = &[
        Row::may("force", Kind::Flag, ""),
        Row::may("by", Kind::Text, ""),
    ];
    Some(match method {
        "bpm/hello" => {
            let (snapshot, us) = (tools.handle.snapshot.now(), &tools.handle.identity);
            Step::Done(Answer::Result(object([
                ("stopping", snapshot.stopping.into()),
                ("instance_id", us.instance_id.as_str().into()),
                ("project", snapshot.root.to_string_lossy().into()),
                ("version", VERSION.into()),
                ("protocol_version", PROTOCOL_VERSION.into()),
                ("min_client_version", MIN_CLIENT_VERSION.into()),
                ("url", us.url.as_deref().into()),
                ("started_at", us.started_at.rfc3339().into()),
            ])))
        }
        "bpm/follow" => follow(tools, params).unwrap_or_else(|why| {
            let known = |name: &&str| tools.handle.snapshot.now().unit(name).is_some();
            let unknown = strings(&params["processes"]).find(|name| !known(name));
            tools.refused(unknown.unwrap_or_default(), why, Reader::Person, refused)
        }),
        "bpm/status" => checked(tools, method, STATUS, params, &|args| {
            let wish = Wish {
                process: args.process().map(str::to_owned),
                since: args.count("events_since"),
                verbose: true,
            };
            Ok(status::data(tools, wish, Answer::Result))
        }),
        "bpm/page" => checked(tools, method, &[], params, &|_| {
            let newest = status::newest(&tools.handle.snapshot.now());
            let wish = Wish {
                process: None,
                since: Some(newest.saturating_sub(PAGE_EVENTS)),
                verbose: true,
            };
            Ok(status::data(tools, wish, Answer::Result))
        }),
        "bpm/metrics" => checked(tools, method, &[], params, &|_| Ok(metrics(tools))),
        "bpm/why" => checked(tools, method, ONE, params, &|args| {
            let unit = tools.named(args.text("process").unwrap_or_default())?;
            let snapshot = tools.handle.snapshot.now();
            let started_by = tools.handle.identity.started_by.clone();
            Ok(Step::Work(Box::new(move || {
                let mut value = Card::of(&snapshot, &unit).value(&unit, Mono::now());
                // An environment that has little is the reason of many ends.
                if let Some(by) = &started_by
                    && (by.contains(" (by ") || by.contains("poor environment: "))
                    && let Value::String(text) = &mut value["text"]
                {
                    text.push_str(&format!("\nthe daemon was started as {by}"));
                }
                value["started_by"] = or_null(started_by);
                Answer::Result(value)
            })))
        }),
        "bpm/reload" => checked(tools, method, RELOAD, params, &|args| {
            let call = Call {
                tools,
                caller,
                reports: false,
                args,
            };
            Ok(plain(reload::reloading(&call, LONG)))
        }),
        "bpm/upgrade" => checked(tools, method, UPGRADE, params, &|args| {
            if args.flag(upgrade::DONE) == Some(true) {
                return Ok(upgrade::done(&tools.handle));
            }
            let flag = |name| args.flag(name).unwrap_or(false);
            let wish = UpgradeWish {
                program: args.text("binary").map(PathBuf::from),
                now: flag("now"),
                force: flag("force"),
            };
            Ok(upgrade::upgrade(&tools.handle, wish))
        }),
        "bpm/shutdown" => checked(tools, method, SHUTDOWN, params, &|args| {
            Ok(Step::Wait(Box::new(Shutdown {
                handle: Arc::clone(&tools.handle),
                force: args.flag("force").unwrap_or(false),
                by: args.text("by").map(String::from),
                slot: None,
                waker: None,
                told: None,
            })))
        }),
        _ => return None,
    })
}

/// A tool's step whose answer is plain data instead of a tool's result.
fn plain(step: Step) -> Step {
    match step {
        Step::Done(answer) => Step::Done(plain_answer(answer)),
        Step::Work(work) => Step::Work(Box::new(move || plain_answer(work()))),
        Step::Wait(task) => Step::Wait(Box::new(Plain(task))),
    }
}

/// How many events the page at `/` shows.
const PAGE_EVENTS: u64 = 20;

fn metrics(tools: &Tools) -> Step {
    let totals = Arc::clone(&tools.cpu_totals);
    status::with_usage(tools, move |view| {
        let sources = Sources {
            handle: view.handle,
            snapshot: view.snapshot,
            usage: view.usage,
            own: crate::os::own::own(),
            now: view.now,
            wall: Wall::now(),
        };
        let names = super::TOOLS.iter().map(|tool| tool.name);
        let text = super::metrics::text(&sources, &totals, names);
        Answer::Result(object([("text", text.into())]))
    })
}

fn plain_answer(answer: Answer) -> Answer {
    match answer {
        Answer::Data { json, .. } => {
            Answer::Result(serde_json::from_slice(&json).unwrap_or_default())
        }
        Answer::Text(text) => Answer::Result(object([("text", text.into())])),
        Answer::Fail(why) => failed(why),
        Answer::Result(_) | Answer::Error { .. } => answer,
    }
}

struct Plain(Box<dyn Task>);

impl Task for Plain {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.0.start(waker);
    }

    fn poll(&mut self, now: Mono, room: usize, out: &mut Vec<Value>) -> Option<Answer> {
        self.0.poll(now, room, out).map(plain_answer)
    }

    fn deadline(&self) -> Option<Mono> {
        self.0.deadline()
    }

    fn heavy(&self) -> bool {
        self.0.heavy()
    }

    fn progress(&mut self, now: Mono) -> Option<String> {
        self.0.progress(now)
    }
}

/// The end of bpm, and who is waited for meanwhile. As long as it takes: the client may leave.
struct Shutdown {
    handle: Arc<Handle>,
    force: bool,
    by: Option<String>,
    slot: Option<ReplySlot>,
    waker: Option<Arc<Waker>>,
    told: Option<Vec<String>>,
}

impl Task for Shutdown {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.handle.snapshot.watch(waker);
        let ask = Request::Shutdown {
            force: self.force,
            by: self.by.take(),
        };
        self.slot = Some(self.handle.ask(ask, Some(waker), false));
        self.waker = Some(Arc::clone(waker));
    }

    fn poll(&mut self, _: Mono, _: usize, out: &mut Vec<Value>) -> Option<Answer> {
        // Any other reply means that it has begun; its end is on the snapshot.
        if let Some(Reply::Refused(why)) = self.slot.as_ref().and_then(ReplySlot::take) {
            return Some(failed(why));
        }
        let snapshot = self.handle.snapshot.now();
        if !snapshot.stopping {
            return None;
        }
        let left: Vec<String> = snapshot
            .units
            .iter()
            .filter(|unit| unit.facts.pid.is_some() || unit.facts.state == State::Stopping)
            .map(|unit| unit.name.clone())
            .collect();
        if left.is_empty() {
            return Some(Answer::Result(object([("ok", true.into())])));
        }
        if self.told.as_ref() != Some(&left) {
            let names = list(left.iter().map(String::as_str));
            let params = object([("waiting_for", names)]);
            out.push(rpc::notification("bpm/stopping", params));
            self.told = Some(left);
        }
        None
    }

    fn deadline(&self) -> Option<Mono> {
        None
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            self.handle.snapshot.unwatch(waker);
        }
    }
}

/// Whether bpm is well, for anybody.
pub(super) const HEALTH: &str = "/healthz";

/// `GET /healthz`, `GET /readyz`.
pub(super) fn page(handle: &Handle, path: &str) -> Option<Page> {
    let snapshot = handle.snapshot.now();
    let (good, body) = match path {
        HEALTH => {
            let up = Mono::now().since(handle.identity.started);
            let ok = !snapshot.stopping;
            let body = object([
                ("ok", ok.into()),
                ("version", VERSION.into()),
                ("pid", handle.identity.pid.into()),
                ("uptime_seconds", crate::base::json::seconds(up)),
            ]);
            (ok, body)
        }
        "/readyz" => {
            let waiting: Vec<&str> = snapshot
                .units
                .iter()
                .filter(|unit| unit.facts.wanted && !unit.is_ready())
                .map(|unit| unit.name.as_str())
                .collect();
            let ready = waiting.is_empty() && !snapshot.stopping;
            let body = object([("ready", ready.into()), ("waiting_for", list(waiting))]);
            (ready, body)
        }
        _ => return None,
    };
    Some(Page {
        status: if good { 200 } else { 503 },
        content_type: JSON,
        body: body.to_string().into_bytes(),
    })
}
