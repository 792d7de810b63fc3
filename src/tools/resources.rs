//! Resources, the prompt, completions, the methods of bpm's own and the pages for probes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::follow::{failed, follow, refused};
use super::logs::Search;
use super::metrics::Sources;
use super::schema::{Args, COUNT, Kind, Row};
use super::status::{self, Card};
use super::{PROCESS, Tools, VERSION, orders};
use crate::base::clock::{Mono, Wall};
use crate::base::json::{list, object};
use crate::client::connection;
use crate::engine::handle::{Handle, Reply, ReplySlot, Request};
use crate::engine::snapshot::{Snapshot, State, UnitView};
use crate::log::store::Log;
use crate::os::poll::Waker;
use crate::server::rpc;
use crate::server::service::{Answer, Caller, Page, Step, Task, Watch};

const STATUS: &str = "bpm://status";
const LOGS: &str = "bpm://logs/";
const BUILDS: &str = "bpm://build-log/";
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const DIAGNOSE: &str = "diagnose";
/// Lines of a log that is read as a resource.
const LINES: usize = 200;
/// Lines of a log in a prompt, beside those of the crash card.
const PROMPT_LINES: usize = 50;
/// For who has all the time: the CLI.
const LONG: Duration = Duration::from_secs(3_600);

/// What a URI names.
enum Resource<'a> {
    Status,
    Log {
        unit: &'a Arc<UnitView>,
        builds: bool,
    },
}

fn named<'a>(snapshot: &'a Snapshot, uri: &str) -> Option<Resource<'a>> {
    if uri == STATUS {
        return Some(Resource::Status);
    }
    let (name, builds) = match (uri.strip_prefix(LOGS), uri.strip_prefix(BUILDS)) {
        (Some(name), _) => (name, false),
        (None, Some(name)) => (name, true),
        (None, None) => return None,
    };
    let unit = snapshot.unit(name)?;
    Some(Resource::Log { unit, builds })
}

fn entry(uri: String, name: String, title: String, mime: &str) -> Value {
    object([
        ("uri", uri.into()),
        ("name", name.into()),
        ("title", title.into()),
        ("mimeType", mime.into()),
    ])
}

/// `resources/list`: the status, and the logs of each process.
pub(super) fn all(snapshot: &Snapshot) -> Vec<Value> {
    let mut all = vec![entry(
        STATUS.into(),
        "status".into(),
        "State of all processes".into(),
        JSON,
    )];
    for unit in &snapshot.units {
        let name = &unit.name;
        all.push(entry(
            format!("{LOGS}{name}"),
            format!("logs/{name}"),
            format!("Last lines of {name}"),
            TEXT,
        ));
        if unit.build.is_some() {
            all.push(entry(
                format!("{BUILDS}{name}"),
                format!("build-log/{name}"),
                format!("Last build of {name}"),
                TEXT,
            ));
        }
    }
    all
}

/// `resources/templates/list`.
pub(super) fn templates() -> Vec<Value> {
    [
        (LOGS, "logs", "Last lines of a process"),
        (BUILDS, "build-log", "Last build of a process"),
    ]
    .map(|(prefix, name, title)| {
        object([
            ("uriTemplate", format!("{prefix}{{process}}").into()),
            ("name", name.into()),
            ("title", title.into()),
            ("mimeType", TEXT.into()),
        ])
    })
    .into()
}

/// `resources/read`.
pub(super) fn read(tools: &Tools, uri: &str) -> Option<Step> {
    let snapshot = tools.handle.snapshot.now();
    let resource = named(&snapshot, uri)?;
    let uri = uri.to_owned();
    Some(match resource {
        Resource::Status => status::data(tools, None, None, |value| {
            contents(uri, JSON, value.to_string())
        }),
        Resource::Log { unit, builds } => {
            let search = Search::newest(unit, builds, LINES);
            Step::Work(Box::new(move || match search.find() {
                Ok(found) => contents(uri, TEXT, search.text(&found)),
                Err(why) => contents(uri, TEXT, why),
            }))
        }
    })
}

fn contents(uri: String, mime: &str, text: String) -> Answer {
    let content = object([
        ("uri", uri.into()),
        ("mimeType", mime.into()),
        ("text", text.into()),
    ]);
    Answer::Result(object([("contents", list([content]))]))
}

/// Watches a resource until it is dropped.
pub(super) fn watch(tools: &Tools, uri: &str, waker: &Arc<Waker>) -> Option<Box<dyn Watch>> {
    let snapshot = tools.handle.snapshot.now();
    let waker = Arc::clone(waker);
    Some(match named(&snapshot, uri)? {
        Resource::Status => {
            tools.handle.snapshot.watch(&waker);
            Box::new(SnapshotWatch {
                handle: Arc::clone(&tools.handle),
                waker,
                seen: snapshot.seq,
            })
        }
        Resource::Log { unit, builds } => {
            let log = if builds { &unit.build_log } else { &unit.log };
            log.follow(&waker);
            Box::new(LogWatch {
                log: Arc::clone(log),
                waker,
                seen: log.next_seq(),
            })
        }
    })
}

struct SnapshotWatch {
    handle: Arc<Handle>,
    waker: Arc<Waker>,
    seen: u64,
}

impl Watch for SnapshotWatch {
    fn changed(&mut self) -> bool {
        let seq = self.handle.snapshot.now().seq;
        std::mem::replace(&mut self.seen, seq) != seq
    }
}

impl Drop for SnapshotWatch {
    fn drop(&mut self) {
        self.handle.snapshot.unwatch(&self.waker);
    }
}

struct LogWatch {
    log: Arc<Log>,
    waker: Arc<Waker>,
    seen: u64,
}

impl Watch for LogWatch {
    fn changed(&mut self) -> bool {
        let seq = self.log.next_seq();
        std::mem::replace(&mut self.seen, seq) != seq
    }
}

impl Drop for LogWatch {
    fn drop(&mut self) {
        self.log.unfollow(&self.waker);
    }
}

/// `prompts/list`.
pub(super) fn prompts() -> Vec<Value> {
    vec![object([
        ("name", DIAGNOSE.into()),
        ("title", "Diagnose a process".into()),
        (
            "description",
            "Why a process ended, does not build or does not get ready: its crash card and last lines.".into(),
        ),
        (
            "arguments",
            list([object([
                ("name", "process".into()),
                ("description", "Name of the process".into()),
                ("required", true.into()),
            ])]),
        ),
    ])]
}

/// `prompts/get`.
pub(super) fn prompt(tools: &Tools, name: &str, args: &Value) -> Option<Step> {
    const ROWS: &[Row] = &[Row::needed("process", PROCESS, "")];
    if name != DIAGNOSE {
        return None;
    }
    Some(checked(tools, name, ROWS, args, &|args| {
        let unit = tools.unit(args)?;
        let snapshot = tools.handle.snapshot.now();
        Ok(Step::Work(Box::new(move || {
            let card = Card::of(&snapshot, &unit, Mono::now());
            let logs = Search::newest(&unit, false, PROMPT_LINES);
            let logs = match logs.find() {
                Ok(found) => logs.text(&found),
                Err(why) => why,
            };
            let text = format!(
                "Find out why the process {:?} of this project does not run as it should, and mend the cause in the sources \
                 (then call restart). What bpm knows:\n\n{}\nits newest run's last lines:\n{logs}",
                unit.name,
                card.words(&unit, Mono::now())
            );
            let content = object([("type", "text".into()), ("text", text.into())]);
            let message = object([("role", "user".into()), ("content", content)]);
            Answer::Result(object([
                ("description", format!("Diagnose {}", unit.name).into()),
                ("messages", list([message])),
            ]))
        })))
    }))
}

/// Checks parameters that are no tool's: what is wrong with them is a JSON-RPC error.
fn checked(
    tools: &Tools,
    name: &str,
    rows: &[Row],
    params: &Value,
    then: &dyn Fn(Args<'_>) -> Result<Step, String>,
) -> Step {
    Args::check(name, rows, params, &|| tools.handle.snapshot.now().names())
        .and_then(then)
        .unwrap_or_else(|why| Step::Done(refused(why)))
}

/// `completion/complete`: names of processes.
pub(super) fn complete(
    snapshot: &Snapshot,
    reference: &Value,
    argument: &str,
    value: &str,
) -> Option<Vec<String>> {
    let field = |name: &str| reference.get(name).and_then(Value::as_str);
    let known = match field("type") {
        Some("ref/prompt") => field("name") == Some(DIAGNOSE),
        Some("ref/resource") => field("uri").is_some_and(|uri| {
            templates()
                .iter()
                .any(|t| t.get("uriTemplate").and_then(Value::as_str) == Some(uri))
        }),
        Some(_) | None => false,
    };
    if !known {
        return None;
    }
    let typed = value.to_ascii_lowercase();
    let fits =
        |name: &String| argument == "process" && name.to_ascii_lowercase().starts_with(&typed);
    Some(snapshot.names().into_iter().filter(fits).collect())
}

/// Methods of bpm's own.
pub(super) fn own(tools: &Tools, caller: &Caller, method: &str, params: &Value) -> Option<Step> {
    const ONE: &[Row] = &[Row::needed("process", PROCESS, "")];
    const STATUS: &[Row] = &[
        Row::may("process", PROCESS, ""),
        Row::may("events_since", COUNT, ""),
    ];
    const DRY: &[Row] = &[Row::may("dry_run", Kind::Flag, "")];
    const FORCE: &[Row] = &[Row::may("force", Kind::Flag, "")];
    Some(match method {
        "bpm/hello" => {
            let (snapshot, us) = (tools.handle.snapshot.now(), &tools.handle.identity);
            Step::Done(Answer::Result(object([
                ("stopping", snapshot.stopping.into()),
                ("instance_id", us.instance_id.as_str().into()),
                ("project", snapshot.root.to_string_lossy().into()),
                ("version", connection::VERSION.into()),
                ("protocol_version", connection::PROTOCOL_VERSION.into()),
                ("min_client_version", connection::MIN_CLIENT_VERSION.into()),
                ("url", us.url.as_deref().into()),
                ("started_at", us.started_at.rfc3339().into()),
            ])))
        }
        "bpm/follow" => follow(tools, params).unwrap_or_else(|why| Step::Done(refused(why))),
        "bpm/status" => checked(tools, method, STATUS, params, &|args| {
            let process = args.text("process").map(str::to_owned);
            let since = args.count("events_since");
            Ok(status::data(tools, process, since, Answer::Result))
        }),
        "bpm/metrics" => checked(tools, method, &[], params, &|_| Ok(metrics(tools))),
        "bpm/why" => checked(tools, method, ONE, params, &|args| {
            let unit = tools.unit(args)?;
            let snapshot = tools.handle.snapshot.now();
            Ok(Step::Work(Box::new(move || {
                let now = Mono::now();
                Answer::Result(Card::of(&snapshot, &unit, now).value(&unit, now))
            })))
        }),
        "bpm/reload" => checked(tools, method, DRY, params, &|args| {
            let dry_run = args.flag("dry_run").unwrap_or(false);
            Ok(plain(orders::reloading(tools, caller, dry_run, LONG)))
        }),
        "bpm/shutdown" => checked(tools, method, FORCE, params, &|args| {
            Ok(Step::Wait(Box::new(Shutdown {
                handle: Arc::clone(&tools.handle),
                force: args.flag("force").unwrap_or(false),
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
        Answer::Data { value, .. } => Answer::Result(value),
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
    slot: Option<ReplySlot>,
    waker: Option<Arc<Waker>>,
    told: Option<Vec<String>>,
}

impl Task for Shutdown {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.handle.snapshot.watch(waker);
        let ask = Request::Shutdown { force: self.force };
        self.slot = Some(self.handle.ask(ask, Some(waker)));
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
