//! Resources, and completions of their and the prompt's arguments.

use std::sync::Arc;

use serde_json::Value;

use super::logs::Search;
use super::status::{self, Wish};
use super::{Tools, prompts};
use crate::base::json::{list, object};
use crate::engine::handle::Handle;
use crate::engine::snapshot::{Snapshot, UnitView};
use crate::log::store::Log;
use crate::os::poll::Waker;
use crate::server::service::{Answer, Step, Watch};

const STATUS: &str = "bpm://status";
const LOGS: &str = "bpm://logs/";
const BUILDS: &str = "bpm://build-log/";
const TEXT: &str = "text/plain";
pub(super) const JSON: &str = "application/json";
/// Lines of a log that is read as a resource.
const LINES: usize = 200;

/// The resource that a URI names.
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
        Resource::Status => {
            let wish = Wish {
                verbose: true,
                ..Wish::default()
            };
            status::data(tools, wish, |value| contents(uri, JSON, value.to_string()))
        }
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

/// `completion/complete`: names of processes.
pub(super) fn complete(
    snapshot: &Snapshot,
    reference: &Value,
    argument: &str,
    value: &str,
) -> Option<Vec<String>> {
    let field = |name: &str| reference.get(name).and_then(Value::as_str);
    let known = match field("type") {
        Some("ref/prompt") => field("name") == Some(prompts::DIAGNOSE),
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
