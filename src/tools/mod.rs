//! The verbs: each thing that can be done with bpm stands here once, for agents (MCP) and for the
//! CLI, which calls the same tools over the socket. Reading looks at the snapshot and the logs; orders
//! are asked of the supervisor, and who waits is a ticket, not a thread.
//!
//! Beside MCP the socket has methods of bpm's own; parameters are objects, all fields may be left out
//! unless said otherwise, wrong ones are answered with -32602 and a sentence:
//!
//! - `bpm/hello` `{client, version, protocol_version}`: `{stopping, instance_id, project, version,
//!   protocol_version, min_client_version, url, started_at}`: whether bpm is about to leave, and what
//!   `daemon.json` says.
//! - `bpm/status` `{process, events_since}`: the data of `get_status`.
//! - `bpm/metrics`: `{text}`, the text of `/metrics`.
//! - `bpm/why` `{process}` (needed): `{process, type, state, reason, restarts, crashes, stale,
//!   rolled_back, build, build_tail, exit, tail, changed, next_start_in_seconds, next, text}`. `exit` is
//!   that of `get_status` and `run`, `words`, `cpu_seconds`, `peak_rss_bytes`, of the last abnormal end,
//!   or null; `tail` its last lines; `changed` the events since the last good run; `build_tail` the last
//!   lines of the newest build, if it failed; `next` what happens next, in words;
//!   `text` all of it for a person.
//! - `bpm/reload` `{dry_run}`: the data of `reload`, with more patience.
//! - `bpm/shutdown` `{force}`: `{"ok": true}` once all processes are stopped, just before bpm leaves; until
//!   then, whenever it changes, a notification `bpm/stopping` `{"waiting_for": [names]}`. The end of the
//!   connection means the same as the answer.
//! - `bpm/follow` `{processes: [names], build, after: {name: seq}, lines, run, pattern, literal,
//!   ignore_case, context_lines, since, stream, follow}`: first the last `lines` (default 200, at most
//!   10,000) of each process (none named: of all, also of those that come later) as `bpm/lines`
//!   notifications, then lines as they come, until the client leaves. A process that `after` names goes
//!   on behind that line instead. `follow: false` ends behind the last lines with the result
//!   `{"next": {name: seq}}`; so does any other once bpm stops and nothing runs any more. `bpm/lines`:
//!   `{process, build, lines: [{seq, run, time, stream, text, match}], dropped, next}`; of each process
//!   at least one comes, be it without lines. `dropped` lines were gone before they could be sent.
//!   Context is shown around past lines only.

mod errors;
mod follow;
mod logs;
mod metrics;
mod orders;
mod resources;
mod schema;
mod status;
mod text;
mod usage;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use self::schema::{Args, COUNT, Field, Kind, Row, input, output};
pub use self::usage::{Group, Kernel, Meter};
use self::usage::{Reading, Usage};
use crate::base::clock::Mono;
use crate::base::error::{Error, Failure};
use crate::base::json::object;
use crate::base::logger::Logger;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{Snapshot, UnitView};
use crate::os::poll::Waker;
use crate::server::service::{Answer, Caller, ClientKind, Level, Open, Page, Service, Step, Watch};

/// Of this bpm.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The most that `max_chars` may ask for: some clients put more into a file and show its beginning.
const MOST_CHARS: usize = 50_000;

/// How the tools belong together; at most 1,200 characters.
const INSTRUCTIONS: &str = "\
bpm runs this project's processes, restarts what crashes and rebuilds on request. Do not start servers by hand.
After an edit: restart {\"process\"}. It builds while the old run serves, swaps, and answers when the new run is good: \
no sleeping, no polling. If it fails, the answer holds the compiler's first errors or the last output, and says whether \
the old run still serves; mend the cause and restart again.
Instead of sleeping: wait, for ready, a build's end, an exit, a log line that matches, or any change; also when an answer \
says timed_out.
What is going on: get_status (states, builds, exits, urls, ports). What was printed: search_logs (index -2 is the run \
before the newest, so a crashed run too) and search_build_log; only what went wrong, grouped: get_errors.
Read only what is new: answers end with a cursor, next; pass it as after (get_status: events_since).
restart builds in dev mode unless mode is release; when nobody calls for a while, dev processes go back to release by \
themselves. start and stop say what should run at all; a stopped process stays stopped. After an edit of .mcp-run: reload.";

/// One verb.
struct Tool {
    name: &'static str,
    title: &'static str,
    text: &'static str,
    rows: &'static [Row],
    hints: Hints,
    /// Fields of its data and, where it has two forms, those that both have. None: its answers are texts.
    data: Option<(&'static [Field], &'static [&'static str])>,
    /// Its schema belongs into a model's first prompt.
    always: bool,
    run: fn(&Tools, &Caller, Args<'_>) -> Result<Step, String>,
}

/// What a client may want to know before it allows a call.
struct Hints {
    reads: bool,
    destroys: bool,
    idempotent: bool,
}

const READS: Hints = Hints {
    reads: true,
    destroys: false,
    idempotent: true,
};

const PROCESS: Kind = Kind::Process { star: false };
const PROCESSES: Kind = Kind::Process { star: true };
const PATIENCE: Kind = Kind::Number { min: 0, max: 600 };

const ONE: Row = Row::needed("process", PROCESS, "Name of the process.");
const ONE_OR_ALL: Row = Row::needed(
    "process",
    PROCESSES,
    "Name of the process, or \"*\" for all.",
);
const INDEX: Row = Row::may(
    "index",
    Kind::Whole {
        min: i64::MIN,
        max: i64::MAX,
    },
    "Run (or build): -1 newest, -2 the one before, 0 oldest known. Default -1.",
);
const AFTER: Row = Row::may(
    "after",
    COUNT,
    "A cursor (next of an answer): only what came later. Default none.",
);
const TIMEOUT: Row = Row::may("timeout_seconds", PATIENCE, "Patience. Default 50.");

const SEARCH: &[Row] = &[
    ONE,
    Row::may("pattern", Kind::Text, "A regex. Default: all lines."),
    Row::may(
        "literal",
        Kind::Flag,
        "pattern is plain text. Default false.",
    ),
    Row::may("ignore_case", Kind::Flag, "Default false."),
    Row::may(
        "context_lines",
        Kind::Whole { min: 0, max: 1_000 },
        "Lines around each match. Default 0.",
    ),
    Row::may(
        "head",
        Kind::Whole {
            min: 1,
            max: i64::MAX,
        },
        "The first so many of what was found. Default: see tail.",
    ),
    Row::may(
        "tail",
        COUNT,
        "The last so many; wins over head. Default 200 when neither is given.",
    ),
    INDEX,
    AFTER,
    Row::may(
        "since",
        Kind::Text,
        "\"90s\", \"5m\" or an RFC 3339 time: only what came since. Default all.",
    ),
    Row::may(
        "stream",
        Kind::OneOf(&["stdout", "stderr"]),
        "Only this output. Default both.",
    ),
    Row::may(
        "format",
        Kind::OneOf(&["text", "json"]),
        "json: lines with seq, time and stream. Default text.",
    ),
    Row::may(
        "max_chars",
        Kind::Whole {
            min: 500,
            max: MOST_CHARS as i64,
        },
        "Length of the answer, cut at a line. Default 10000.",
    ),
];

/// All verbs, in the order of `tools/list`.
const TOOLS: &[Tool] = &[
    Tool {
        name: "search_logs",
        title: "Search the logs of a process",
        text: "Read or search what a process printed (stdout and stderr), in its newest run or an earlier one. Without a \
               pattern: its last 200 lines. Matches are marked with \" * \". The last line of the answer tells the run, how \
               many lines there are, and the cursor for the next call.",
        rows: SEARCH,
        hints: READS,
        data: None,
        always: true,
        run: logs::search_logs,
    },
    Tool {
        name: "search_build_log",
        title: "Search the build log of a process",
        text: "The same for what the builds of a process printed (compiler messages); index counts builds. A failed restart \
               already answers with the first errors.",
        rows: SEARCH,
        hints: READS,
        data: None,
        always: false,
        run: logs::search_build_log,
    },
    Tool {
        name: "restart",
        title: "Build and restart a process",
        text: "Build a process, then swap it for the new build; answers when the new run is good. To be called after an \
               edit. The old run serves while it builds, and goes on if the build fails: then the answer is an error with \
               the compiler's first errors (file, line) and the last 20 lines. After timeout_seconds it answers with \
               timed_out and goes on.",
        rows: &[
            Row::needed(
                "process",
                PROCESSES,
                "Name of the process, or \"*\" for all that are not stopped.",
            ),
            Row::may(
                "mode",
                Kind::OneOf(&["dev", "release"]),
                "dev builds fast, release runs fast. Default dev.",
            ),
            Row::may(
                "build",
                Kind::Flag,
                "false: start what is built already anew. Default true.",
            ),
            TIMEOUT,
        ],
        hints: Hints {
            reads: false,
            destroys: true,
            idempotent: false,
        },
        data: Some((orders::OUTPUT, &["ok"])),
        always: true,
        run: orders::restart,
    },
    Tool {
        name: "get_status",
        title: "State of the processes",
        text: "State, readiness, pid, ports, url, CPU, memory, newest build with its errors, and last exit of all processes \
               or of one; and what happened lately.",
        rows: &[
            Row::may("process", PROCESS, "Name of a process. Default: all."),
            Row::may(
                "events_since",
                COUNT,
                "A cursor (next of an earlier answer): all events since; 0: all kept. Default: the newest 5.",
            ),
        ],
        hints: READS,
        data: Some((status::OUTPUT, &[])),
        always: true,
        run: status::get_status,
    },
    Tool {
        name: "start",
        title: "Start a process",
        text: "Start a process and what it depends on; answers when it is good. Does nothing where it runs already. Builds \
               only what was never built: after an edit use restart.",
        rows: &[ONE_OR_ALL, TIMEOUT],
        hints: Hints {
            reads: false,
            destroys: false,
            idempotent: true,
        },
        data: Some((orders::OUTPUT, &["ok"])),
        always: false,
        run: orders::start,
    },
    Tool {
        name: "stop",
        title: "Stop a process",
        text: "Stop a process with all that it started, and keep it stopped until somebody starts it. Answers when nothing \
               of it is left. Does nothing where it is stopped already.",
        rows: &[ONE_OR_ALL, TIMEOUT],
        hints: Hints {
            reads: false,
            destroys: true,
            idempotent: true,
        },
        data: Some((orders::STOP_OUTPUT, &["ok"])),
        always: false,
        run: orders::stop,
    },
    Tool {
        name: "wait",
        title: "Wait for a process",
        text: "Wait until a process is ready (and no build of it is under way), exits, is built, prints a line that matches, \
               or changes. Answers as soon as that is so, or can't be any more (met false, with the reason). Time over is no \
               error: met false, call again with after set to next.",
        rows: &[
            ONE,
            Row::may(
                "for",
                Kind::OneOf(wait::FOR),
                "What to wait for. Default ready.",
            ),
            Row::may("pattern", Kind::Text, "For log: the regex. No default."),
            Row::may(
                "after",
                COUNT,
                "A cursor (next of an earlier wait; for log also of search_logs): what came after it counts too. Default: only \
                 what comes from now on.",
            ),
            Row::may("timeout_seconds", PATIENCE, "Default 30."),
        ],
        hints: READS,
        data: Some((wait::OUTPUT, &[])),
        always: false,
        run: wait::wait,
    },
    Tool {
        name: "get_errors",
        title: "Errors and warnings of a process",
        text: "Lines of a log that look like errors or warnings, grouped by shape (numbers, ids and times masked), each with \
               its count, times and one sample with its stack. With after set to a cursor from before a change: is there \
               anything new?",
        rows: &[
            ONE,
            AFTER,
            INDEX,
            Row::may("build", Kind::Flag, "The build log instead. Default false."),
            Row::may(
                "max",
                Kind::Whole {
                    min: 1,
                    max: errors::MOST_GROUPS,
                },
                "Groups. Default 10.",
            ),
        ],
        hints: READS,
        data: Some((errors::OUTPUT, &[])),
        always: false,
        run: errors::get_errors,
    },
    Tool {
        name: "reload",
        title: "Read .mcp-run anew",
        text: "Read .mcp-run anew: changed processes are swapped, removed ones stopped, new ones started, the others not \
               touched. With mistakes in the file nothing is done, and errors lists them.",
        rows: &[Row::may(
            "dry_run",
            Kind::Flag,
            "Only list what would be done. Default false.",
        )],
        hints: Hints {
            reads: false,
            destroys: true,
            idempotent: true,
        },
        data: Some((orders::RELOAD_OUTPUT, &[])),
        always: false,
        run: orders::reload,
    },
];

/// Calling that tool again does no harm: it changes nothing, and when it was called does not matter, as
/// it does to who waits without a cursor for what happens from then on.
pub fn repeatable(name: &str, args: &Value) -> bool {
    let reads = TOOLS
        .iter()
        .any(|tool| tool.name == name && tool.hints.reads);
    let state = matches!(args["for"].as_str(), None | Some("ready"));
    reads && (name != "wait" || state || !args["after"].is_null())
}

impl Tool {
    /// As `tools/list` gives it.
    fn listed(&self) -> Value {
        let mut tool = Map::new();
        tool.insert("name".into(), self.name.into());
        tool.insert("title".into(), self.title.into());
        tool.insert("description".into(), self.text.into());
        tool.insert("inputSchema".into(), input(self.rows));
        if let Some((fields, common)) = self.data {
            tool.insert("outputSchema".into(), output(fields, common));
        }
        tool.insert(
            "annotations".into(),
            object([
                ("readOnlyHint", self.hints.reads.into()),
                ("destructiveHint", self.hints.destroys.into()),
                ("idempotentHint", self.hints.idempotent.into()),
                ("openWorldHint", false.into()),
            ]),
        );
        if self.always {
            tool.insert(
                "_meta".into(),
                object([("anthropic/alwaysLoad", true.into())]),
            );
        }
        Value::Object(tool)
    }

    /// An order, as opposed to a look: activity whoever gives it.
    fn orders(&self) -> bool {
        matches!(self.name, "start" | "stop" | "restart")
    }
}

/// What one look at the snapshot and at the usage gives.
struct View<'a> {
    handle: &'a Handle,
    snapshot: &'a Snapshot,
    usage: &'a Reading,
    now: Mono,
}

/// bpm's own service.
pub struct Tools {
    handle: Arc<Handle>,
    usage: Arc<Usage>,
    cpu_totals: Arc<metrics::CpuTotals>,
    list: Value,
    logger: Arc<dyn Logger>,
    /// When a look at our health was noted last.
    looked: AtomicU64,
}

impl Tools {
    /// The verbs of this handle; `meter` tells what processes use ([`Kernel`], but for tests).
    pub fn new(handle: Arc<Handle>, meter: Box<dyn Meter>, logger: Arc<dyn Logger>) -> Self {
        Self {
            handle,
            usage: Arc::new(Usage::new(meter)),
            cpu_totals: Arc::default(),
            list: TOOLS.iter().map(Tool::listed).collect(),
            logger,
            looked: AtomicU64::new(0),
        }
    }

    /// A line for who asks whether we are well: once a minute, since anybody may ask, as often as they like.
    fn note_look(&self, status: u16) {
        const EVERY: u64 = 60_000_000_000;
        let (now, before) = (Mono::now().as_nanos(), self.looked.load(Ordering::Relaxed));
        if before == 0 || now.saturating_sub(before) >= EVERY {
            self.looked.store(now, Ordering::Relaxed);
            let text = format!("{} was asked: {status}", resources::HEALTH);
            self.logger.write(Level::Info, "net", &text);
        }
    }

    /// The process that checked arguments name.
    fn unit(&self, args: Args<'_>) -> Result<Arc<UnitView>, String> {
        self.named(args.text("process").unwrap_or_default())
    }

    fn named(&self, name: &str) -> Result<Arc<UnitView>, String> {
        let snapshot = self.handle.snapshot.now();
        snapshot.unit(name).cloned().ok_or_else(|| {
            Error::from(Failure::Unknown {
                kind: "process",
                name: crate::base::json::brief(name),
                known: snapshot.names(),
            })
            .to_string()
        })
    }
}

impl Service for Tools {
    fn info(&self) -> Value {
        let project = &self.handle.snapshot.now().project;
        object([
            ("name", "bpm".into()),
            ("title", format!("bpm: {project}").into()),
            ("version", VERSION.into()),
        ])
    }

    fn instructions(&self) -> &str {
        INSTRUCTIONS
    }

    fn tools(&self) -> &Value {
        &self.list
    }

    fn call(&self, caller: &Caller, name: &str, args: &Value, _: Option<&Value>) -> Option<Step> {
        let tool = TOOLS.iter().find(|tool| tool.name == name)?;
        let by_agent = match caller.kind {
            ClientKind::Agent | ClientKind::Proxy => true,
            ClientKind::Cli | ClientKind::Tui | ClientKind::Page => false,
        };
        let now = Mono::now();
        if by_agent || tool.orders() {
            self.handle.touch(now);
        } else {
            self.handle.saw(now);
        }
        let names = || self.handle.snapshot.now().names();
        let step = Args::check(tool.name, tool.rows, args, &names)
            .and_then(|args| (tool.run)(self, caller, args));
        Some(step.unwrap_or_else(|why| Step::Done(Answer::Fail(why))))
    }

    fn resources(&self) -> Vec<Value> {
        resources::all(&self.handle.snapshot.now())
    }

    fn templates(&self) -> Vec<Value> {
        resources::templates()
    }

    fn read(&self, _: &Caller, uri: &str) -> Option<Step> {
        resources::read(self, uri)
    }

    fn watch(&self, uri: &str, waker: &Arc<Waker>) -> Option<Box<dyn Watch>> {
        resources::watch(self, uri, waker)
    }

    fn prompts(&self) -> Vec<Value> {
        resources::prompts()
    }

    fn prompt(&self, _: &Caller, name: &str, args: &Value) -> Option<Step> {
        resources::prompt(self, name, args)
    }

    fn complete(&self, reference: &Value, argument: &str, value: &str) -> Option<Vec<String>> {
        resources::complete(&self.handle.snapshot.now(), reference, argument, value)
    }

    fn own(&self, caller: &Caller, method: &str, params: &Value) -> Option<Step> {
        // A scrape is nobody who looks.
        if method != "bpm/metrics" {
            self.handle.saw(Mono::now());
        }
        resources::own(self, caller, method, params)
    }

    fn page(&self, path: &str) -> Option<Page> {
        let page = resources::page(&self.handle, path)?;
        if path == resources::HEALTH {
            self.note_look(page.status);
        }
        Some(page)
    }

    fn open(&self, now: Open) {
        let handle = &self.handle;
        handle.clients.store(now.agents, Ordering::Relaxed);
        handle.connections.store(now.connections, Ordering::Relaxed);
    }

    fn answered(&self, tool: &str, well: bool) {
        if TOOLS.iter().any(|known| known.name == tool) {
            self.handle.count_call(tool, well);
        }
    }

    fn log(&self, level: Level, text: &str) {
        self.logger.write(level, "net", text);
    }
}
