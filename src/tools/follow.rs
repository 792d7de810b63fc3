//! `bpm/follow`: lines of one or more logs as they come, for `bpm logs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Tools;
use super::logs::{Search, TAIL, bad_pattern, stream};
use super::schema::{Args, COUNT, Kind, Row};
use super::text::Reader;
use crate::base::clock::{Mono, Wall};
use crate::base::json::{entries, kind_of, list, object, or_null};
use crate::base::table::Table;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{Snapshot, State, UnitView};
use crate::log::line::coloured;
use crate::log::search::{Line, Matcher, Query, Stream};
use crate::log::store::Log;
use crate::os::poll::Waker;
use crate::server::rpc;
use crate::server::service::{Answer, Step, Task};

/// At most so many of the last lines of a log are looked up at once.
const MOST: usize = 10_000;
/// A person waits longer than an agent for what they look for.
const BUDGET: Duration = Duration::from_secs(5);
/// Of a log that is filtered, between two looks at the others.
const SCAN: usize = 4 << 20;
/// The bytes of a line beside its text.
const FRAME: usize = 140;

const ROWS: &[Row] = &[
    Row::may("build", Kind::Flag, ""),
    Row::may("lines", COUNT, ""),
    Row::may(
        "run",
        Kind::Whole {
            min: i64::MIN,
            max: i64::MAX,
        },
        "",
    ),
    Row::may("pattern", Kind::Text, ""),
    Row::may("literal", Kind::Flag, ""),
    Row::may("ignore_case", Kind::Flag, ""),
    Row::may("context_lines", Kind::Whole { min: 0, max: 1_000 }, ""),
    Row::may("since", Kind::Text, ""),
    Row::may("stream", Kind::OneOf(&["stdout", "stderr"]), ""),
    Row::may("follow", Kind::Flag, ""),
    Row::may("color", Kind::OneOf(&["all", "set"]), ""),
    Row::may("raw", Kind::Flag, ""),
];

/// The method.
pub(super) fn follow(tools: &Tools, params: &Value) -> Result<Step, String> {
    let snapshot = tools.handle.snapshot.now();
    let names = names(params.get("processes"))?;
    let after = cursors(params.get("after"))?;
    let rest = match params {
        Value::Object(fields) => entries(
            &mut fields
                .iter()
                .filter(|(key, _)| !matches!(key.as_str(), "processes" | "after"))
                .map(|(key, value)| (key.clone(), value.clone())),
        ),
        Value::Null => object([]),
        other => return Err(format!("params must be an object, not {}", kind_of(other))),
    };
    let args = Args::check("bpm/follow", ROWS, &rest, &Vec::new)?;
    for name in &names {
        tools.named(name)?;
    }
    let pattern = args.text("pattern");
    let literal = args.flag("literal").unwrap_or(false);
    let ignore_case = args.flag("ignore_case").unwrap_or(false);
    let query = Query {
        pattern: pattern.map(str::to_owned),
        literal,
        ignore_case,
        context: args.size("context_lines").unwrap_or(0),
        tail: Some(args.size("lines").unwrap_or(TAIL).min(MOST)),
        index: args.whole("run").unwrap_or(-1),
        since: args
            .text("since")
            .map(|text| super::logs::moment(text, Wall::now()))
            .transpose()?,
        stream: args.text("stream").and_then(stream),
        budget: BUDGET,
        ..Query::default()
    };
    let mut task = Follow {
        handle: Arc::clone(&tools.handle),
        names,
        builds: args.flag("build").unwrap_or(false),
        endless: args.flag("follow").unwrap_or(true),
        matcher: pattern
            .map(|p| Matcher::new(p, literal, ignore_case))
            .transpose()
            .map_err(|e| bad_pattern(&e))?,
        query,
        after,
        form: match (args.flag("raw"), args.text("color")) {
            (Some(true), _) => Form::Bytes,
            (_, Some("all")) => Form::Colours,
            (_, Some(_)) => Form::ColoursWhereSet,
            (_, None) => Form::Text,
        },
        snapshot_seq: snapshot.seq,
        sources: Vec::new(),
        turn: 0,
        more: false,
        waker: None,
    };
    task.join(&snapshot.units, false);
    Ok(Step::Wait(Box::new(task)))
}

fn names(processes: Option<&Value>) -> Result<Vec<String>, String> {
    let wrong = |v: &Value| format!("\"processes\" must be a list of names, not {}", kind_of(v));
    match processes {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(names)) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned).ok_or_else(|| wrong(name)))
            .collect(),
        Some(other) => Err(wrong(other)),
    }
}

fn cursors(after: Option<&Value>) -> Result<Table<String, u64>, String> {
    let wrong = |v: &Value| format!("\"after\" must be an object of cursors, not {}", kind_of(v));
    match after {
        None | Some(Value::Null) => Ok(Table::default()),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, seq)| Ok((name.clone(), seq.as_u64().ok_or_else(|| wrong(seq))?)))
            .collect(),
        Some(other) => Err(wrong(other)),
    }
}

struct Follow {
    handle: Arc<Handle>,
    /// Empty: all there are, and all that come.
    names: Vec<String>,
    builds: bool,
    endless: bool,
    matcher: Option<Matcher>,
    query: Query,
    after: Table<String, u64>,
    form: Form,
    snapshot_seq: u64,
    sources: Vec<Source>,
    /// The follower that has the room first, so that a loud process does not silence the others.
    turn: usize,
    /// Room ended before the lines did.
    more: bool,
    waker: Option<Arc<Waker>>,
}

/// What is sent of a line.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    /// With colours, of the processes whose settings ask for them.
    ColoursWhereSet,
    Colours,
    /// All that was written, with the newline; a character for each byte, since JSON has no bytes.
    Bytes,
}

struct Source {
    unit: Arc<UnitView>,
    log: Arc<Log>,
    stage: Stage,
    cursor: u64,
    /// The last lines were looked for until the time was over: in so many.
    cut: Option<u64>,
}

enum Stage {
    /// The last lines have not been looked up yet.
    Before,
    /// These are to be sent first.
    Past(VecDeque<Line>),
    /// Lines as they come.
    Live,
}

impl Task for Follow {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.handle.snapshot.watch(waker);
        for source in &self.sources {
            source.log.follow(waker);
        }
        self.waker = Some(Arc::clone(waker));
    }

    fn poll(&mut self, _: Mono, room: usize, out: &mut Vec<Value>) -> Option<Answer> {
        self.look_for_new();
        // The snapshot first: a process that rests there has its last lines in the log already.
        let over = !self.endless || at_rest(&self.handle.snapshot.now());
        let mut room = room;
        self.more = false;
        let n = self.sources.len();
        for i in 0..n {
            let at = (self.turn + i) % n;
            if let Err(why) = self.send(at, &mut room, out) {
                return Some(refused(why));
            }
            if self.more {
                self.turn = at + 1;
                return None;
            }
        }
        over.then(|| {
            let mut next = self
                .sources
                .iter()
                .map(|source| (source.unit.name.clone(), source.cursor.into()));
            Answer::Result(object([("next", entries(&mut next))]))
        })
    }

    fn deadline(&self) -> Option<Mono> {
        self.more.then(Mono::default)
    }

    /// Each process goes on behind the last line that was sent, those of which none was sent as they were asked for.
    fn again(&self, params: &Map<String, Value>, _: Mono) -> Option<Map<String, Value>> {
        let mut after = Map::new();
        for source in &self.sources {
            match source.stage {
                Stage::Live => {
                    after.insert(source.unit.name.clone(), source.cursor.into());
                }
                Stage::Before => {}
                // Some of them may have been sent.
                Stage::Past(_) => return None,
            }
        }
        let mut params = params.clone();
        params.insert("after".into(), after.into());
        Some(params)
    }

    fn heavy(&self) -> bool {
        let all_live = self.sources.iter().all(|s| matches!(s.stage, Stage::Live));
        self.matcher.is_some() || !all_live
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            self.handle.snapshot.unwatch(waker);
            for source in &self.sources {
                source.log.unfollow(waker);
            }
        }
    }
}

impl Follow {
    /// Processes that a reload added, or gave a new log.
    fn look_for_new(&mut self) {
        let snapshot = self.handle.snapshot.now();
        if self.endless && snapshot.seq != self.snapshot_seq {
            self.snapshot_seq = snapshot.seq;
            self.join(&snapshot.units, true);
        }
    }

    fn join(&mut self, units: &[Arc<UnitView>], new: bool) {
        for unit in units {
            let meant = self.names.is_empty() || self.names.contains(&unit.name);
            let log = if self.builds {
                &unit.build_log
            } else {
                &unit.log
            };
            let known = self.sources.iter().any(|s| Arc::ptr_eq(&s.log, log));
            if !meant || known {
                continue;
            }
            if let Some(waker) = &self.waker {
                log.follow(waker);
            }
            // Of a process that came later, all it ever said is news.
            let from = self.after.get(&unit.name).copied();
            let cursor = from.or_else(|| new.then(|| log.origin()));
            self.sources.push(Source {
                unit: Arc::clone(unit),
                log: Arc::clone(log),
                stage: if cursor.is_some() {
                    Stage::Live
                } else {
                    Stage::Before
                },
                cursor: cursor.unwrap_or(0),
                cut: None,
            });
        }
        // A removed process has nothing more to say once its log was read to its end.
        if new {
            let waker = self.waker.as_ref();
            self.sources.retain(|source| {
                let stays = units.iter().any(|u| u.name == source.unit.name)
                    || source.log.next_seq() > source.cursor + 1;
                if let Some(waker) = waker.filter(|_| !stays) {
                    source.log.unfollow(waker);
                }
                stays
            });
        }
    }

    /// Sends what one source has, while there is room.
    fn send(&mut self, at: usize, room: &mut usize, out: &mut Vec<Value>) -> Result<(), String> {
        let alone = self.names.len() == 1;
        let Some(source) = self.sources.get_mut(at) else {
            return Ok(());
        };
        if let Stage::Before = source.stage {
            source.look_back(&self.query, self.builds, self.endless, alone)?;
        }
        if let Stage::Past(lines) = &mut source.stage {
            let mut some = Vec::new();
            while *room > 0
                && let Some(line) = lines.pop_front()
            {
                *room = room.saturating_sub(size(std::slice::from_ref(&line)));
                some.push(line);
            }
            self.more = !lines.is_empty();
            if !self.more {
                source.stage = Stage::Live;
            }
            let next = match some.last() {
                Some(line) if self.more => line.seq.unwrap_or(source.cursor),
                Some(_) | None => source.cursor,
            };
            emit(source, self.builds, self.form, &some, 0, next, out);
            source.cut = None;
            if self.more {
                return Ok(());
            }
        }
        if !self.endless {
            return Ok(());
        }
        let mut scan = SCAN;
        loop {
            if *room == 0 || scan == 0 {
                self.more = source.log.next_seq() > source.cursor + 1;
                return Ok(());
            }
            let pulled = source.log.pull(source.cursor, *room);
            if pulled.lines.is_empty() && pulled.dropped == 0 {
                return Ok(());
            }
            source.cursor = pulled.next;
            scan = scan.saturating_sub(size(&pulled.lines));
            let mut wanted = pulled.lines;
            wanted.retain(|line| meant(line, self.query.stream, self.matcher.as_ref()));
            if !wanted.is_empty() || pulled.dropped > 0 {
                *room = room.saturating_sub(size(&wanted) + FRAME);
                emit(
                    source,
                    self.builds,
                    self.form,
                    &wanted,
                    pulled.dropped,
                    pulled.next,
                    out,
                );
            }
        }
    }
}

/// About as many bytes as these lines take on the wire.
fn size(lines: &[Line]) -> usize {
    let one = |line: &Line| line.raw.as_ref().map_or(line.text.len(), |raw| raw.len()) + FRAME;
    lines.iter().map(one).sum()
}

impl Source {
    /// Looks up the last lines.
    fn look_back(
        &mut self,
        query: &Query,
        builds: bool,
        endless: bool,
        alone: bool,
    ) -> Result<(), String> {
        let wanted = query.tail.unwrap_or(TAIL);
        let mut query = query.clone();
        // Two more, one for each stream: a follower gets an unfinished line when it ends.
        query.tail = Some(wanted + 2 * usize::from(endless));
        let search = Search {
            unit: Arc::clone(&self.unit),
            builds,
            query,
            json: false,
            limit: 0,
            reader: Reader::Person,
        };
        let found = if alone {
            search.find()?
        } else {
            search.find_any()?
        };
        self.cursor = found.next;
        self.cut = found.stopped_early.then_some(found.searched);
        let done = |line: &Line| !endless || line.seq.is_some();
        let mut lines: VecDeque<Line> = found.lines.into_iter().filter(done).collect();
        lines.drain(..lines.len().saturating_sub(wanted));
        self.stage = Stage::Past(lines);
        Ok(())
    }
}

/// bpm is stopping, and all that ran has ended: nobody says anything any more, and bpm's own end must not
/// wait for followers.
fn at_rest(snapshot: &Snapshot) -> bool {
    snapshot.stopping
        && snapshot
            .units
            .iter()
            .all(|unit| unit.facts.pid.is_none() && unit.facts.state != State::Stopping)
}

fn meant(line: &Line, stream: Option<Stream>, matcher: Option<&Matcher>) -> bool {
    stream.is_none_or(|stream| line.stream == stream)
        && matcher.is_none_or(|matcher| matcher.is_match(&line.text))
}

fn emit(
    source: &Source,
    builds: bool,
    form: Form,
    lines: &[Line],
    dropped: u64,
    next: u64,
    out: &mut Vec<Value>,
) {
    let form = match form {
        Form::ColoursWhereSet if source.unit.colours => Form::Colours,
        Form::ColoursWhereSet => Form::Text,
        Form::Text | Form::Colours | Form::Bytes => form,
    };
    let text = |line: &Line| -> String {
        let shown = match (form, &line.raw) {
            (Form::Bytes, Some(raw)) => Some(raw.iter().map(|byte| char::from(*byte)).collect()),
            (Form::Bytes, None) => {
                let bytes = line.text.bytes().chain([b'\n']);
                Some(bytes.map(char::from).collect())
            }
            (Form::Colours, Some(raw)) => coloured(raw),
            (Form::Colours, None) | (Form::Text | Form::ColoursWhereSet, _) => None,
        };
        shown.unwrap_or_else(|| line.text.clone())
    };
    let lines = lines.iter().map(|line| {
        object([
            ("seq", or_null(line.seq)),
            ("run", line.run.into()),
            ("time", line.at.rfc3339().into()),
            ("stream", line.stream.as_str().into()),
            ("text", text(line).into()),
            ("match", line.matched.into()),
            ("truncated", line.truncated.into()),
            ("partial", line.seq.is_none().into()),
        ])
    });
    let mut params = object([
        ("process", source.unit.name.as_str().into()),
        ("build", builds.into()),
        ("lines", list(lines)),
        ("dropped", dropped.into()),
        ("next", next.into()),
    ]);
    if let Some(searched) = source.cut {
        params["cut_after"] = searched.into();
    }
    out.push(rpc::notification("bpm/lines", params));
}

/// A JSON-RPC error: it can't be done.
pub(super) fn failed(why: String) -> Answer {
    Answer::Error {
        code: rpc::INTERNAL_ERROR,
        message: why,
        data: None,
    }
}

/// A JSON-RPC error: the parameters do not fit.
pub(super) fn refused(why: String) -> Answer {
    Answer::Error {
        code: rpc::INVALID_PARAMS,
        message: why,
        data: None,
    }
}
