//! `bpm logs`: what processes printed, merged by time; `bpm daemon logs`: bpm's own log.

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::base::clock::{Wall, parse_span};
use crate::base::error::{Error, Failure, Result};
use crate::base::escape::{coloured, escaped};
use crate::base::json::object;
use crate::base::table::in_order;
use crate::cli::render::{Paint, Tone};
use crate::client::connection::{self, CallError, Client};
use crate::client::verdict::{Verdict, judge};
use crate::daemon::Project;
use crate::os::inotify::PathWatch;
use crate::os::poll;

use super::errors::errors;
use super::source::{Source, has_ended};
use super::spec::Call;
use super::{note, paint, print, refused, tell, write};

/// `-n` where it is not given.
const LINES: u64 = 200;
/// A daemon that has not answered in time is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// The lines to show, and their form.
struct View<'a> {
    call: &'a Call,
    paint: Paint,
    /// Of one process: without its name before the lines.
    one: bool,
    lines: u64,
    /// The line that was printed last: a gap in context is shown by `--`.
    last: Option<(String, u64)>,
    names: Vec<String>,
    /// No line came since it was said that the daemon is gone: one that is stopping can still be reached.
    waits: bool,
}

/// `bpm logs`.
pub(super) fn logs(call: &Call) -> Result<u8> {
    if call.has("errors") {
        return errors(call);
    }
    let lines = call.number("lines", "a number of lines")?.unwrap_or(LINES);
    call.choice("stream")?;
    let mut params = params(call, lines)?;
    let (project, names) = (call.project()?, call.names()?);
    let mut view = View {
        call,
        paint: paint(&project.env),
        one: call.operands.len() == 1,
        lines,
        last: None,
        names: Vec::new(),
        waits: false,
    };
    match (call.has("raw"), call.has("json")) {
        (true, true) => {
            return Err(Error::usage("--raw does not go with --json")
                .with_hint("JSON has no bytes: the files below logs/ hold them too"));
        }
        (true, false) => params["raw"] = true.into(),
        (false, false) if view.paint.is_on() => params["color"] = "set".into(),
        (false, _) => {}
    }
    let is_lost = |stop: &Stop| matches!(stop, Stop::Lost(_));
    let (source, shown) = Source::ask(&project, "show the logs", &names, is_lost, &mut |source| {
        view.past(source, &params)
    })?;
    let mut cursors = match shown {
        Ok(cursors) => cursors,
        Err(stop) => return stop.report(),
    };
    if !call.has("follow") {
        return Ok(source.exit_code());
    }
    let mut client = match source {
        Source::Daemon(client) => client,
        Source::Disk(_, Some(error)) => return Err(error),
        Source::Disk(_, None) => {
            tell("no daemon runs; new lines appear here once one does");
            back(&project)?
        }
    };
    loop {
        let Err(stop) = view.live(client, &params, &mut cursors);
        if !is_lost(&stop) {
            return stop.report();
        }
        if !std::mem::replace(&mut view.waits, true) {
            tell("the daemon is gone; new lines appear here once it is back");
        }
        client = back(&project)?;
    }
}

fn params(call: &Call, lines: u64) -> Result<Value> {
    let mut params = Map::new();
    params.insert("processes".into(), call.names()?.into());
    params.insert("lines".into(), lines.into());
    for (option, key) in [
        ("build", "build"),
        ("ignore-case", "ignore_case"),
        ("literal", "literal"),
    ] {
        if call.has(option) {
            params.insert(key.into(), true.into());
        }
    }
    if let Some(text) = call.text("since")?
        && Wall::parse_rfc3339(text).is_none()
        && parse_span(text).is_none()
    {
        return Err(Error::usage(format!(
            "--since: {text:?} is neither a span such as 90s or 5m nor a time (RFC 3339)"
        )));
    }
    for (option, key) in [
        ("grep", "pattern"),
        ("since", "since"),
        ("stream", "stream"),
    ] {
        if let Some(text) = call.text(option)? {
            params.insert(key.into(), text.into());
        }
    }
    if let Some(run) = call.number::<i64>("run", "a run (-1 is the newest)")? {
        params.insert("run".into(), run.into());
    }
    if let Some(n) = call.number::<u64>("context", "a number of lines")? {
        params.insert("context_lines".into(), n.into());
    }
    Ok(Value::Object(params))
}

/// Why there are no more lines.
enum Stop {
    Refused(String),
    Lost(String),
    Said(Error),
}

impl Stop {
    /// Says so; the exit code.
    fn report(self) -> Result<u8> {
        let what = "show the logs";
        match self {
            Self::Refused(message) => Ok(refused(what, &message)),
            Self::Lost(why) => Err(CallError::Lost(why).while_doing(what)),
            Self::Said(error) => Err(error),
        }
    }
}

impl From<CallError> for Stop {
    fn from(fault: CallError) -> Self {
        match fault {
            // A follower goes on after the end of a daemon: another one may come.
            CallError::Lost(why) => Self::Lost(why),
            CallError::Refused { message, .. } if has_ended(&fault) => Self::Lost(message),
            CallError::Refused { message, .. } => Self::Refused(message),
            CallError::Unable(why) => Self::Said(Failure::CannotAsk { why }.into()),
            CallError::TimedOut => Self::Lost("it does not answer".into()),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl View<'_> {
    /// Prints the last lines of all, merged by time; where each log goes on.
    fn past(
        &mut self,
        source: &mut Source,
        params: &Value,
    ) -> std::result::Result<Map<String, Value>, Stop> {
        let mut found: Vec<(String, Value)> = Vec::new();
        let mut params = params.clone();
        params["follow"] = false.into();
        // Two more, one for each stream: a follower gets an unfinished line when it ends.
        // And behind the cursor nothing: a daemon that begins meanwhile writes on in the files that are read here.
        let stays = self.call.has("follow");
        params["lines"] = self.lines.saturating_add(2 * u64::from(stays)).into();
        let mut notes = String::new();
        let result = source.past(&params, &mut |message| {
            let params = &message["params"];
            if let Some(lines) = params["cut_after"].as_u64() {
                let process = params["process"].as_str().unwrap_or_default();
                notes.push_str(&format!(
                    "bpm: {process}: the search ended at its time limit after {lines} lines\n\
                     hint: narrow it with --since or --run, or look for a text with -F\n"
                ));
            }
            if let Some((process, lines)) = lines_of(message) {
                found.extend(lines.into_iter().map(|line| (process.clone(), line)));
            }
        })?;
        let next = result["next"].as_object().cloned().unwrap_or_default();
        if stays {
            let done = |process: &str| next.get(process).and_then(Value::as_u64);
            found.retain(|(process, line)| {
                let seq = line["seq"].as_u64();
                seq.is_some() && seq <= done(process)
            });
        }
        let found = by_time(found);
        let all = usize::try_from(self.lines).unwrap_or(usize::MAX);
        let skip = found.len().saturating_sub(all);
        let mut text = Vec::new();
        for (process, line) in &found[skip..] {
            self.line(&mut text, process, line);
        }
        write(&text)?;
        note(&notes);
        Ok(next)
    }

    /// Prints lines as they come, until the daemon or the reader is gone.
    fn live(
        &mut self,
        mut client: Client,
        params: &Value,
        cursors: &mut Map<String, Value>,
    ) -> std::result::Result<Infallible, Stop> {
        let mut params = params.clone();
        params["follow"] = true.into();
        params["after"] = Value::Object(cursors.clone());
        let id = client.send("bpm/follow", params)?;
        loop {
            let Some(message) = client.buffered()? else {
                match poll::readable_unless_gone(client.as_fd(), stdout().as_fd()) {
                    Ok(true) => client.fill()?,
                    Ok(false) => return Err(Stop::Said(Failure::ReaderGone.into())),
                    Err(e) => return Err(Stop::Said(Error::system("wait", e))),
                };
                continue;
            };
            if let Some(result) = connection::result_of(&message, id) {
                result?;
                return Err(Stop::Lost("it stops".into()));
            }
            let params = &message["params"];
            let process = params["process"].as_str().unwrap_or_default().to_string();
            if let Some(next) = params["next"].as_u64() {
                cursors.insert(process.clone(), next.into());
            }
            let mut text = Vec::new();
            if let Some(dropped) = params["dropped"].as_u64().filter(|n| *n > 0) {
                self.gap(&mut text, &process, dropped);
            }
            if let Some((process, lines)) = lines_of(message) {
                for line in &lines {
                    self.line(&mut text, &process, line);
                }
            }
            write(&text)?;
        }
    }

    fn line(&mut self, out: &mut Vec<u8>, process: &str, line: &Value) {
        self.waits = false;
        if self.call.has("json") {
            let mut object = line.clone();
            object["process"] = process.into();
            out.extend_from_slice(format!("{object}\n").as_bytes());
            return;
        }
        self.separate(out, process, line["seq"].as_u64().unwrap_or_default());
        if self.call.has("times") {
            let time = line["time"].as_str().unwrap_or_default();
            out.extend_from_slice(self.paint.paint(Tone::Dim, time).as_bytes());
            out.push(b' ');
        }
        if !self.one {
            out.extend_from_slice(self.label(process).as_bytes());
        }
        let text = line["text"].as_str().unwrap_or_default();
        if !self.call.has("raw") {
            out.extend_from_slice(coloured(text).as_bytes());
            out.push(b'\n');
            return;
        }
        out.extend(text.chars().filter_map(|byte| u8::try_from(byte).ok()));
        // Of one process just what it wrote; the name of the next one begins a line.
        if !self.one && !out.ends_with(b"\n") {
            out.push(b'\n');
        }
    }

    /// `--` between groups of matches with context, as grep does.
    fn separate(&mut self, text: &mut Vec<u8>, process: &str, seq: u64) {
        if self.call.has("context") && self.call.has("grep") {
            let last = self.last.as_ref();
            if last.is_some_and(|(name, last)| name != process || last + 1 != seq) {
                text.extend(b"--\n");
            }
            self.last = Some((process.into(), seq));
        }
    }

    fn gap(&mut self, text: &mut Vec<u8>, process: &str, dropped: u64) {
        if self.call.has("json") {
            let gap = object([("process", process.into()), ("dropped", dropped.into())]);
            text.extend_from_slice(format!("{gap}\n").as_bytes());
        } else {
            let label = match self.one {
                true => String::new(),
                false => self.label(process),
            };
            note(format_args!("{label}({dropped} lines left out)\n"));
        }
    }

    /// `[api] `, each process in a colour of its own.
    fn label(&mut self, process: &str) -> String {
        let known = self.names.iter().position(|n| n == process);
        let at = known.unwrap_or(self.names.len());
        if known.is_none() {
            self.names.push(process.into());
        }
        let label = format!("[{process}]");
        format!("{} ", self.paint.paint(Tone::Name(at), &label))
    }
}

/// Lines of several processes in the order of their times. Those of one process come one after the other,
/// and keep their order whatever their times: the clock may have been set back.
fn by_time(found: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut latest = ("", 0);
    let times: Vec<u64> = found
        .iter()
        .map(|(process, line)| {
            let time = line["time"].as_str().and_then(Wall::parse_rfc3339);
            let time = time.map_or(0, |Wall(at)| at as u64);
            let before = if latest.0 == process { latest.1 } else { 0 };
            latest = (process, time.max(before));
            latest.1
        })
        .collect();
    let timed = times.into_iter().zip(found).collect();
    let ordered = in_order(timed, |(time, _): &(u64, _)| *time);
    ordered.into_iter().map(|(_, line)| line).collect()
}

/// Process and lines of a `bpm/lines` notification.
fn lines_of(mut message: Value) -> Option<(String, Vec<Value>)> {
    if message["method"] != "bpm/lines" {
        return None;
    }
    let process = message["params"]["process"].as_str()?.to_string();
    match message["params"]["lines"].take() {
        Value::Array(lines) => Some((process, lines)),
        _ => None,
    }
}

/// Waits until a daemon of the project runs again.
fn back(project: &Project) -> Result<Client> {
    let cannot = |e| Error::system("wait for the daemon", e);
    loop {
        // Watched before it is looked at: a daemon that comes in between is not missed.
        let watch = PathWatch::of(project.dir.path()).map_err(cannot)?;
        let there = match judge(&project.dir, "cli")? {
            Verdict::Running(_, client) if !client.is_stopping() => return Ok(client),
            // No file changes when it answers again.
            Verdict::Unhealthy(_) => !poll::reader_gone(stdout().as_fd(), AGAIN).map_err(cannot)?,
            // One that is about to end has said all.
            Verdict::Running(..) | Verdict::Stale(_) | Verdict::Stopped => {
                watch.wait_unless_gone(stdout().as_fd()).map_err(cannot)?
            }
        };
        if !there {
            return Err(Failure::ReaderGone.into());
        }
    }
}

/// `bpm daemon logs`.
pub(super) fn daemon_logs(call: &Call) -> Result<u8> {
    let lines: u64 = call.number("lines", "a number of lines")?.unwrap_or(LINES);
    let project = call.project()?;
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let path = project.dir.log();
    let cannot = |e| Error::file("read", &path, e);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Failure::NoDaemon {
                what: "show the daemon's log".into(),
                project: project.shown(),
                hint: None,
            }
            .into());
        }
        Err(e) => return Err(cannot(e)),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(cannot)?;
    print(escaped(&String::from_utf8_lossy(last_lines(&bytes, lines))))?;
    if !call.has("follow") {
        return Ok(0);
    }
    let watch = PathWatch::of_writes(project.dir.path()).map_err(cannot)?;
    loop {
        let mut fresh = Vec::new();
        file.read_to_end(&mut fresh).map_err(cannot)?;
        print(escaped(&String::from_utf8_lossy(&fresh)))?;
        // Begun anew by a new daemon, or since it grew too large.
        if let Ok(other) = File::open(&path)
            && let (Ok(now), Ok(before)) = (other.metadata(), file.metadata())
            && now.ino() != before.ino()
        {
            file = other;
            continue;
        }
        let size = file.metadata().map_err(cannot)?.len();
        if file.stream_position().map_err(cannot)? > size {
            file.seek(SeekFrom::Start(0)).map_err(cannot)?;
            continue;
        }
        if !watch.wait_unless_gone(stdout().as_fd()).map_err(cannot)? {
            return Err(Failure::ReaderGone.into());
        }
    }
}

/// The last `n` lines.
fn last_lines(bytes: &[u8], n: usize) -> &[u8] {
    if n == 0 {
        return &[];
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    match memchr::memrchr_iter(b'\n', body).nth(n - 1) {
        Some(at) => &bytes[at + 1..],
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_merged_by_time_and_those_of_one_stay_in_order() {
        let line = |process: &str, seq: u64, second: u64| {
            let time = format!("2026-11-21T02:46:{second:02}.000Z");
            let line = object([("seq", seq.into()), ("time", time.into())]);
            (process.to_string(), line)
        };
        let found = vec![
            line("a", 1, 10),
            line("a", 2, 40),
            line("a", 3, 20),
            line("a", 4, 50),
            line("b", 1, 30),
            line("b", 2, 45),
        ];
        let order: Vec<String> = by_time(found)
            .iter()
            .map(|(process, line)| format!("{process}{}", line["seq"]))
            .collect();
        assert_eq!(order, ["a1", "b1", "a2", "a3", "b2", "a4"]);
    }

    #[test]
    fn the_last_lines_are_found() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 1), b"c");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}
