//! `state.json`: what must outlive this bpm. Numbers of lines and runs, kept ports, exits, and which processes
//! run, by identity.
//!
//! The file is small: of an exit only what [`clip`] leaves is kept, of the tails of a project no more than
//! [`TAILS`]. It is replaced as a whole, so that a reader never sees half of it, and brought to the disk
//! within [`SOON`], at bpm's end at once: a power cut may bring back an older one, a kill does not. One that
//! can't be read is moved aside, never taken for an absent one: the processes of the bpm before are looked
//! for then.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, Wall};
use crate::base::error::{Error, Result, reason};
use crate::base::json::{self, object, strings};
use crate::base::saved::{Saved, field, load, saved};
use crate::base::table::Table;
use crate::engine::saved::{LeftBehind, SavedLife, SavedRun};
use crate::engine::snapshot::ExitView;
use crate::os::files;
use crate::os::replaced::{Replaced, spares};
use crate::os::threads;

/// The layout of the file.
const VERSION: u64 = 1;
/// Numbers are reserved in blocks: after a kill the next bpm goes on behind the reserved ones.
pub const BLOCK: u64 = 10_000_000;
/// How many exits of a process are kept.
const EXITS: usize = 32;
/// How many characters of a line in a tail.
const LONGEST_LINE: usize = 1_000;
/// How many bytes of a tail in memory.
const TAIL: usize = 16 << 10;
/// How many bytes of the tails of one process are in the file, of the newest exits; and of all processes.
const TAILS_OF_ONE: usize = 64 << 10;
const TAILS: usize = 2 << 20;
/// How many files that could not be read are kept beside the good one.
const DAMAGED: usize = 5;

/// Of the thread that waits for the disk.
const STACK: usize = 64 << 10;
/// That long after it was written the file is brought to the disk, with all that changed meanwhile: each time costs more
/// than the start of a process.
const SOON: Duration = Duration::from_secs(1);

/// The next numbers of one process's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Of a line.
    pub seq: u64,
    /// Of a run.
    pub run: u64,
    /// Of a line of a build.
    pub build_seq: u64,
    /// Of a build.
    pub build_run: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            seq: 1,
            run: 1,
            build_seq: 1,
            build_run: 1,
        }
    }
}

/// The exits of a process, oldest first.
pub type Exits = Arc<VecDeque<ExitView>>;

/// One process.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kept {
    numbers: Numbers,
    /// The port that `port = "auto"` was given.
    port: Option<u16>,
    /// A [`SavedLife`] as the file has it: the values that it is read into take ten times as much memory.
    life: Option<Box<str>>,
    /// Lines of it may not be in its files: their numbers are known from here alone.
    unwritten: bool,
    exits: Written<Exits>,
}

/// A value with its text, which is made once and kept until the value changes: the file is written as a whole each time
/// anything changes in any process.
#[derive(Debug, Clone, Default)]
struct Written<T> {
    value: T,
    text: OnceCell<String>,
}

impl<T> Written<T> {
    fn text(&self, write: impl FnOnce(&mut String, &T) -> fmt::Result) -> &str {
        self.text.get_or_init(|| {
            let mut text = String::new();
            // A string takes everything.
            let _ = write(&mut text, &self.value);
            text
        })
    }
}

impl<T> From<T> for Written<T> {
    fn from(value: T) -> Self {
        let text = OnceCell::new();
        Self { value, text }
    }
}

impl<T> Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Written<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.text.take();
        &mut self.value
    }
}

impl<T: PartialEq> PartialEq for Written<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A daemon, by which the next one knows that it was killed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DaemonId {
    pub pid: i32,
    /// Pids, start times and times of this file mean something within one boot alone.
    pub boot: String,
}

saved! { DaemonId { pid, boot } }

/// A stop on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedBy {
    /// The command: `bpm stop`.
    pub by: String,
    pub at: Wall,
}

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The TCP port kept for `/mcp`.
    pub port: Option<u16>,
    /// No event has a number above this yet.
    pub event: u64,
    /// The newest event when the file was written.
    pub event_used: u64,
    /// A person stopped the project, and nobody has started it since.
    pub stopped: Option<StoppedBy>,
    /// The project's folder, by which its files are known when it is gone.
    pub root: Option<String>,
    /// The daemon that wrote the file, unless it ended in order.
    pub daemon: Option<DaemonId>,
    /// Processes that survived the end of the daemon before.
    pub left: Vec<LeftBehind>,
    processes: Table<String, Kept>,
    running: Vec<Written<SavedRun>>,
    /// The file of before could not be read: processes may run that nobody wrote down.
    damaged: bool,
}

impl State {
    /// Reads what an earlier bpm left: nothing where there is no such file. The text says what was wrong
    /// with a file that can't be read, and where it is now.
    ///
    /// # Errors
    /// It can't be read, and can't be moved aside either.
    pub fn read(path: &Path) -> Result<(Self, Option<String>)> {
        let why = match files::read_named(path) {
            Ok((bytes, _)) => match Self::parse(&bytes) {
                Some(state) => return Ok((state, None)),
                None => "it is damaged, or of another version of bpm".into(),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Self::default(), None)),
            Err(e) => reason(&e),
        };
        let aside = aside(path);
        fs::rename(path, &aside).map_err(|e| {
            let why = format!("{why}; it can't be moved aside: {}", reason(&e));
            Error::cannot(format!("read {}", path.display()), why)
        })?;
        let (state, rest) = match Self::of_before(path) {
            Some(state) => (state, "are those of a while before"),
            None => (Self::default(), "are lost"),
        };
        let text = format!(
            "cannot read {}: {why}; it is kept as {}, and kept ports and earlier exits {rest}",
            path.display(),
            aside.display()
        );
        let damaged = true;
        Ok((Self { damaged, ..state }, Some(text)))
    }

    /// The newest contents that the file had before and that can be read, but for what runs: that is looked for.
    fn of_before(path: &Path) -> Option<Self> {
        let read = |path: PathBuf| Self::parse(&files::read_named(&path).ok()?.0);
        let mut state = (spares(path).into_iter().filter_map(read)).max_by_key(|s| s.event_used)?;
        state.forget_lives();
        state.left = Vec::new();
        Some(state)
    }

    /// The same for who only looks: what can't be read counts as nothing, and stays where it is.
    pub fn look(path: &Path) -> Self {
        let read = files::read_named(path).ok();
        read.and_then(|(bytes, _)| Self::parse(&bytes))
            .unwrap_or_default()
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// As the system gives them (a full disk); the file of before stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::write_atomic(path, self.to_text().as_bytes(), 0o600)
    }

    /// The next numbers of a process.
    pub fn reserve(&mut self, process: &str) -> Numbers {
        self.kept(process).numbers
    }

    /// Numbers below these have been given out.
    pub fn note_numbers(&mut self, process: &str, numbers: Numbers) {
        // All of them each time that the file is written.
        match self.processes.get_mut(process) {
            Some(kept) => kept.numbers = numbers,
            None => self.kept(process).numbers = numbers,
        }
    }

    /// The port kept for a process.
    pub fn port_of(&self, process: &str) -> Option<u16> {
        self.processes.get(process)?.port
    }

    /// The port is kept for another process than this one.
    pub fn is_kept_for_another(&self, port: u16, process: &str) -> bool {
        let mut others = self.processes.iter().filter(|(name, _)| *name != process);
        others.any(|(_, kept)| kept.port == Some(port))
    }

    /// Keeps a port for a process.
    pub fn keep_port(&mut self, process: &str, port: u16) {
        self.kept(process).port = Some(port);
    }

    /// The exits of earlier runs.
    pub fn exits(&self, process: &str) -> Exits {
        let kept = self.processes.get(process);
        kept.map(|k| Arc::clone(&k.exits)).unwrap_or_default()
    }

    /// A run has begun.
    pub fn started(&mut self, run: SavedRun) {
        self.running.push(run.into());
    }

    /// The runs of which something lives, or lived when bpm was killed.
    pub fn running(&self) -> impl Iterator<Item = &SavedRun> {
        self.running.iter().map(|run| &run.value)
    }

    /// What the daemon that was killed knew of a process.
    pub fn life(&self, process: &str) -> Option<SavedLife> {
        let life = json::parse(self.life_text(process)?);
        load(&life.ok()?).ok()
    }

    /// The same as the file has it.
    pub fn life_text(&self, process: &str) -> Option<&str> {
        self.processes.get(process)?.life.as_deref()
    }

    /// Keeps what is known of a process.
    pub fn note_life(&mut self, process: &str, life: String) {
        self.kept(process).life = Some(life.into());
    }

    /// Lines of a process may not be in its files.
    pub fn is_unwritten(&self, process: &str) -> bool {
        self.processes.get(process).is_some_and(|k| k.unwritten)
    }

    /// Lines of a process are in its files, or not.
    pub fn note_unwritten(&mut self, process: &str, unwritten: bool) {
        self.kept(process).unwritten = unwritten;
    }

    /// Its first process ended. Gives the exits with this one.
    pub fn ended(&mut self, process: &str, exit: ExitView) -> Exits {
        let exits = &mut *self.kept(process).exits;
        let all = Arc::make_mut(exits);
        all.push_back(exit);
        while all.len() > EXITS {
            all.pop_front();
        }
        Arc::clone(exits)
    }

    /// Nothing of that run is left.
    pub fn gone(&mut self, process: &str, run: u64) {
        self.running
            .retain(|r| r.process != process || r.run != run);
    }

    /// The processes that are known, each with the pid that was written down for it where one runs.
    pub fn known(&self) -> impl Iterator<Item = (&str, Option<i32>)> {
        self.processes.keys().map(|name| {
            let mut running = self.running.iter().rev();
            let found = running.find(|r| r.process == *name);
            (name.as_str(), found.map(|r| r.pid))
        })
    }

    /// Processes of an earlier bpm may run.
    pub fn may_have_left(&self) -> bool {
        self.damaged || !self.running.is_empty()
    }

    /// The file of before could not be read.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// By now all is known that the damaged file did not say.
    pub fn forget_damage(&mut self) {
        self.damaged = false;
    }

    /// The runs that were written down have been dealt with.
    pub fn forget_running(&mut self) {
        self.running.clear();
    }

    /// The daemon ends in order, or what it left was ended: the next one begins from the configuration.
    pub fn forget_lives(&mut self) {
        self.forget_running();
        self.damaged = false;
        self.daemon = None;
        for (_, kept) in self.processes.iter_mut() {
            kept.life = None;
        }
    }

    fn kept(&mut self, process: &str) -> &mut Kept {
        if !self.processes.has(process) {
            // They share the room for tails, each with one more now.
            for (_, kept) in self.processes.iter_mut() {
                kept.exits.text.take();
            }
        }
        self.processes.or_default(process.into())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        Self::of_json(&serde_json::from_slice(bytes).ok()?)
    }

    /// From the contents of the file.
    pub fn of_json(value: &Value) -> Option<Self> {
        if value["version"].as_u64()? != VERSION {
            return None;
        }
        let processes = value["processes"].as_object()?.iter();
        let rows = value["running"].as_array()?;
        let running = rows.iter().filter_map(|r| load::<SavedRun>(r).ok());
        let running: Vec<_> = running.map(Written::from).collect();
        let mut state = Self {
            port: port(&value["port"]),
            event: value["event"].as_u64().unwrap_or_default(),
            event_used: value["event_used"].as_u64().unwrap_or_default(),
            stopped: value["stopped"]["by"].as_str().map(|by| StoppedBy {
                by: by.into(),
                at: Wall(value["stopped"]["at"].as_i64().unwrap_or_default()),
            }),
            root: value["root"].as_str().map(Into::into),
            daemon: field(value, "daemon").unwrap_or_default(),
            left: field(value, "left").unwrap_or_default(),
            processes: Table::default(),
            // Of another version: they are looked for.
            damaged: running.len() != rows.len(),
            running,
        };
        for (name, row) in processes {
            let mut kept = kept(row);
            // Earlier versions could give two processes the same one.
            let port = kept.port;
            kept.port = port.filter(|p| !state.is_kept_for_another(*p, name));
            state.processes.insert(name.clone(), kept);
        }
        Some(state)
    }

    /// The contents of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(4096);
        // A string takes everything.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, text: &mut String) -> fmt::Result {
        let stopped = self.stopped.as_ref();
        let stopped =
            stopped.map(|s| object([("by", s.by.as_str().into()), ("at", s.at.0.into())]));
        write!(
            text,
            r#"{{"version":{VERSION},"port":{},"event":{},"event_used":{},"stopped":{},"root":{},"daemon":{},"left":{},"processes":{{"#,
            Value::from(self.port),
            self.event,
            self.event_used,
            Value::from(stopped),
            Value::from(self.root.as_deref()),
            self.daemon.save(),
            self.left.save(),
        )?;
        let share = (TAILS / self.processes.len().max(1)).min(TAILS_OF_ONE);
        for (at, (name, kept)) in self.processes.iter().enumerate() {
            let n = &kept.numbers;
            write!(
                text,
                r#"{}{}:{{"next":{{"seq":{},"run":{},"build_seq":{},"build_run":{}}},"port":{},"life":{},"unwritten":{},"#,
                comma(at),
                Value::from(name.as_str()),
                n.seq,
                n.run,
                n.build_seq,
                n.build_run,
                Value::from(kept.port),
                kept.life.as_deref().unwrap_or("null"),
                kept.unwritten,
            )?;
            text.push_str(kept.exits.text(|text, exits| exits_to(text, exits, share)));
        }
        text.push_str(r#"},"running":["#);
        for (at, run) in self.running.iter().enumerate() {
            text.push_str(comma(at));
            text.push_str(run.text(|text, run| write!(text, "{}", run.save())));
        }
        text.push_str("]}");
        Ok(())
    }
}

fn comma(at: usize) -> &'static str {
    if at == 0 { "" } else { "," }
}

/// A name for a file that can't be read: the first that is free, else the last one.
fn aside(path: &Path) -> PathBuf {
    let named = |n: usize| path.with_extension(format!("json.damaged-{n}"));
    (1..DAMAGED)
        .map(named)
        .find(|free| fs::symlink_metadata(free).is_err())
        .unwrap_or_else(|| named(DAMAGED))
}

/// The lines of a crash as far as they are kept: the newest that fit, each cut where it is long.
pub fn clip(lines: impl DoubleEndedIterator<Item = String>) -> Vec<String> {
    let mut left = TAIL;
    let mut kept: Vec<String> = lines
        .rev()
        .map(|mut line| {
            if let Some((cut, _)) = line.char_indices().nth(LONGEST_LINE) {
                line.truncate(cut);
                line.push_str("...");
            }
            line
        })
        .take_while(|line| fits(&mut left, line.len()))
        .collect();
    kept.reverse();
    kept
}

/// Takes that much of what is left; false: it is more.
fn fits(left: &mut usize, size: usize) -> bool {
    let rest = left.checked_sub(size);
    *left = rest.unwrap_or(0);
    rest.is_some()
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

fn kept(row: &Value) -> Kept {
    let number = |key: &str| row["next"][key].as_u64().filter(|n| *n > 0).unwrap_or(1);
    let exits: Vec<ExitView> = json::items(&row["exits"]).filter_map(exit_of).collect();
    let skipped = exits.len().saturating_sub(EXITS);
    let life = load::<SavedLife>(&row["life"]);
    Kept {
        numbers: Numbers {
            seq: number("seq"),
            run: number("run"),
            build_seq: number("build_seq"),
            build_run: number("build_run"),
        },
        port: port(&row["port"]),
        life: life.ok().map(|_| row["life"].to_string().into()),
        unwritten: row["unwritten"] == true,
        exits: Exits::new(exits.into_iter().skip(skipped).collect()).into(),
    }
}

/// The newest lines of their tails, that many bytes of all together.
fn exits_to(text: &mut String, exits: &Exits, mut tails: usize) -> fmt::Result {
    text.push_str(r#""exits":["#);
    // The newest first: its lines are what somebody asks for.
    let shown = |exit: &ExitView| {
        let lines = exit.tail.iter().rev();
        lines
            .take_while(|line| fits(&mut tails, line.len()))
            .count()
    };
    let shown: Vec<usize> = exits.iter().rev().map(shown).collect();
    for (at, (exit, shown)) in exits.iter().zip(shown.iter().rev()).enumerate() {
        text.push_str(comma(at));
        exit_to(text, exit, *shown)?;
    }
    text.push_str("]}");
    Ok(())
}

/// With that many of the newest lines of its tail.
fn exit_to(text: &mut String, exit: &ExitView, shown: usize) -> fmt::Result {
    write!(
        text,
        r#"{{"run":{},"code":{},"signal":{},"core":{},"oom":{},"asked":{},"crash":{},"fault":{},"at":{},"uptime_ms":{},"cpu_ms":{},"peak_rss":{},"tail":["#,
        exit.run,
        Value::from(exit.code),
        Value::from(exit.signal.as_deref()),
        exit.core,
        exit.oom,
        exit.asked,
        exit.crash,
        Value::from(exit.fault.as_deref()),
        exit.at.0,
        millis(exit.uptime),
        millis(exit.cpu),
        exit.peak_rss,
    )?;
    let tail = exit.tail.iter().skip(exit.tail.len() - shown);
    for (at, line) in tail.enumerate() {
        write!(text, "{}{}", comma(at), Value::from(line.as_str()))?;
    }
    text.push_str("]}");
    Ok(())
}

fn exit_of(row: &Value) -> Option<ExitView> {
    let flag = |key: &str| row[key].as_bool().unwrap_or(false);
    let span = |key: &str| Duration::from_millis(row[key].as_u64().unwrap_or(0));
    let tail: Vec<String> = strings(&row["tail"]).map(Into::into).collect();
    Some(ExitView {
        run: row["run"].as_u64()?,
        code: row["code"].as_i64().and_then(|c| i32::try_from(c).ok()),
        signal: row["signal"].as_str().map(Into::into),
        core: flag("core"),
        oom: flag("oom"),
        asked: flag("asked"),
        // Earlier versions wrote down what was abnormal, not what was a crash.
        crash: row["crash"].as_bool().unwrap_or_else(|| {
            row["fault"].is_string() || !flag("asked") && row["code"].as_i64() != Some(0)
        }),
        fault: row["fault"].as_str().map(Into::into),
        at: Wall(row["at"].as_i64()?),
        uptime: span("uptime_ms"),
        cpu: span("cpu_ms"),
        peak_rss: row["peak_rss"].as_u64().unwrap_or(0),
        tail: Arc::new(clip(tail.into_iter())),
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The file of a running bpm.
#[derive(Debug)]
pub struct StateFile {
    file: Replaced,
    state: State,
    changed: bool,
    /// All in the folder is another bpm's.
    displaced: bool,
    disk: Disk,
    /// When what was written is brought to the disk.
    sync_due: Option<Mono>,
}

impl StateFile {
    /// The file at that path, of which this was read.
    pub fn new(path: PathBuf, state: State) -> Self {
        Self {
            file: Replaced::new(path),
            state,
            changed: false,
            displaced: false,
            disk: Disk::default(),
            sync_due: None,
        }
    }

    /// Its contents.
    pub fn get(&self) -> &State {
        &self.state
    }

    /// The same, to be changed: it is written with the next [`StateFile::save`].
    pub fn edit(&mut self) -> &mut State {
        self.changed = true;
        &mut self.state
    }

    /// It is to be written.
    pub fn is_changed(&self) -> bool {
        self.changed && !self.displaced
    }

    /// Another bpm has the folder: nothing is written any more.
    pub fn displace(&mut self) {
        self.displaced = true;
    }

    /// Writes it where it changed. `durable`: returns once it is on the disk; else it is there soon.
    ///
    /// # Errors
    /// A sentence; the file of before stays.
    pub fn save(&mut self, durable: bool) -> std::result::Result<(), String> {
        if !self.is_changed() {
            return Ok(());
        }
        self.changed = false;
        let text = self.state.to_text();
        let written = self.file.write(text.as_bytes(), self.disk.synced());
        let done = match durable {
            true => {
                self.sync_due = None;
                let synced = written.and_then(|()| files::sync(self.file.path()));
                synced.map(|()| self.disk.lock().synced = self.file.count())
            }
            false => {
                self.sync_due.get_or_insert_with(|| Mono::now().after(SOON));
                written
            }
        };
        done.map_err(|e| {
            format!(
                "cannot write {}: {}",
                self.file.path().display(),
                reason(&e)
            )
        })
    }

    /// When [`StateFile::sync_if_due`] has something to do.
    pub fn deadline(&self) -> Option<Mono> {
        self.sync_due
    }

    /// Brings what was written a while ago to the disk, all changes since then at once.
    pub fn sync_if_due(&mut self, now: Mono) {
        if self.sync_due.take_if(|due| *due <= now).is_some() && !self.displaced {
            self.disk.sync(&self.file);
        }
    }
}

/// Brings the file to the disk beside the supervisor, which must not wait for it: where a build writes as
/// well, that may take seconds. Until then a power cut may bring back an older file.
#[derive(Debug, Clone, Default)]
struct Disk {
    work: Arc<Mutex<Work>>,
}

#[derive(Debug, Default)]
struct Work {
    under_way: bool,
    /// The number of the contents that are to be brought there, until that is begun.
    next: Option<u64>,
    /// That of the newest that are there.
    synced: u64,
}

impl Disk {
    /// Begins to, or goes on once it is done where it is under way.
    fn sync(&self, file: &Replaced) {
        let before = {
            let mut work = self.lock();
            work.next = Some(file.count());
            std::mem::replace(&mut work.under_way, true)
        };
        if before {
            return;
        }
        let (disk, path) = (self.clone(), file.path().to_path_buf());
        let run = move || {
            while let Some(number) = disk.begin() {
                // A disk that fails is said by the next write. One that was replaced after it was asked for is a newer
                // one, which then counts as not there: nothing is lost by that.
                if files::sync(&path).is_ok() {
                    disk.lock().synced = number;
                }
            }
        };
        if threads::start_small("sync", STACK, Box::new(run)).is_err() {
            self.lock().under_way = false;
        }
    }

    fn begin(&self) -> Option<u64> {
        let mut work = self.lock();
        let next = work.next.take();
        work.under_way = next.is_some();
        next
    }

    fn synced(&self) -> u64 {
        self.lock().synced
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::saved::tests::run;
    use crate::os::testing::Folder;

    fn exit(run: u64, tail: Vec<String>) -> ExitView {
        ExitView {
            run,
            code: None,
            signal: Some("KILL".into()),
            core: false,
            oom: true,
            asked: false,
            crash: true,
            fault: Some("it was not ready within 1.0s".into()),
            at: Wall(1_795_229_210_123),
            uptime: Duration::from_millis(1_500),
            cpu: Duration::from_millis(20),
            peak_rss: 4_096,
            tail: Arc::new(tail),
        }
    }

    fn parsed(state: &State) -> State {
        State::parse(state.to_text().as_bytes()).unwrap()
    }

    #[test]
    fn state_is_read_back_as_it_was_written() {
        let mut state = State {
            port: Some(4_000),
            ..State::default()
        };
        assert_eq!(state.reserve("web"), Numbers::default());
        let numbers = Numbers {
            seq: 8,
            run: 3,
            build_seq: 1,
            build_run: 1,
        };
        state.note_numbers("web", numbers);
        state.keep_port("web", 8_080);
        state.started(run());
        state.ended("web", exit(1, vec!["last \"words\"".into()]));
        assert_eq!(parsed(&state), state);
        assert!(state.is_kept_for_another(8_080, "api"));
        assert!(!state.is_kept_for_another(8_080, "web"));
    }

    #[test]
    fn state_of_version_0_1_0_is_read() {
        let text = r#"{"version":1,"port":4000,"event":7,"processes":{"web":{"next":{"seq":8,"run":3,"build_seq":1,"build_run":1},"port":8080,"exits":[{"at":1,"run":2,"code":3,"tail":["a"]}]}},"running":[{"process":"web","pid":4711,"start":99,"run":2}]}"#;
        let state = State::parse(text.as_bytes()).unwrap();
        assert_eq!((state.port, state.event), (Some(4_000), 7));
        assert_eq!(state.port_of("web"), Some(8_080));
        assert_eq!(state.exits("web")[0].code, Some(3));
        assert!(state.may_have_left());
    }

    #[test]
    fn port_is_kept_for_one_process_only() {
        let mut state = State::default();
        state.keep_port("api", 8_080);
        state.keep_port("web", 8_080);
        let back = parsed(&state);
        assert_eq!(
            (back.port_of("api"), back.port_of("web")),
            (Some(8_080), None)
        );
    }

    #[test]
    fn exits_are_bounded_and_a_run_that_is_gone_is_forgotten() {
        let mut state = State::default();
        for run in 0..40 {
            state.ended("web", exit(run, Vec::new()));
        }
        assert_eq!(state.exits("web").len(), 32);
        assert_eq!(state.exits("web")[0].run, 8);
        state.started(run());
        state.gone("web", run().run);
        assert!(!state.may_have_left());
    }

    #[test]
    fn tails_are_clipped_by_lines_and_bytes() {
        let lines = (0..40).map(|n| format!("{n}:{}", "ä".repeat(30_000)));
        let tail = clip(lines);
        assert_eq!(tail.len(), 8);
        assert!(tail[7].starts_with("39:ä") && tail[7].ends_with("ä..."));
        assert_eq!(tail[7].chars().count(), 1_003);
        assert!(clip(std::iter::empty()).is_empty());
    }

    #[test]
    fn text_follows_every_change() {
        let mut state = State::default();
        let mut texts = vec![state.to_text()];
        let life = |n: u64| SavedLife {
            life: n.into(),
            builds: Vec::new(),
        };
        let changes: [&dyn Fn(&mut State); 9] = [
            &|s| s.keep_port("web", 8_080),
            &|s| s.note_life("web", life(1).save().to_string()),
            &|s| s.note_life("web", life(2).save().to_string()),
            &|s| s.note_unwritten("web", true),
            &|s| drop(s.ended("web", exit(1, vec!["last words".into()]))),
            &|s| s.keep_port("api", 8_081),
            &|s| s.started(run()),
            &|s| s.gone("web", run().run),
            &|s| s.forget_lives(),
        ];
        for change in changes {
            change(&mut state);
            let text = state.to_text();
            assert_eq!(State::parse(text.as_bytes()).as_ref(), Some(&state));
            assert_ne!(texts.last(), Some(&text));
            texts.push(text);
        }
    }

    #[test]
    fn damaged_file_leaves_what_it_had_a_while_before() {
        let folder = Folder::new("damaged-state");
        let path = folder.path().join("state.json");
        let mut file = StateFile::new(path.clone(), State::default());
        for n in 1..4 {
            let state = file.edit();
            state.event_used = n;
            state.keep_port("web", 8_080);
            state.started(run());
            state.ended("web", exit(n, Vec::new()));
            file.save(n == 1).unwrap();
        }
        fs::write(&path, "{").unwrap();
        let (state, text) = State::read(&path).unwrap();
        assert!(text.unwrap().contains("are those of a while before"));
        assert!(state.is_damaged() && state.running().next().is_none());
        assert_eq!(state.port_of("web"), Some(8_080));
        assert_eq!(state.exits("web").len(), 2);
        for spare in spares(&path) {
            fs::write(&spare, "{").unwrap();
        }
        fs::write(&path, "{").unwrap();
        let (state, text) = State::read(&path).unwrap();
        assert!(text.unwrap().contains("are lost"));
        assert!(state.is_damaged() && state.port_of("web").is_none());
    }

    #[test]
    fn file_stays_small_however_many_crash() {
        let mut state = State::default();
        let tail = clip((0..40).map(|_| "\u{1}".repeat(1_000)));
        for process in 0..200 {
            for run in 0..32 {
                state.ended(&format!("p{process}"), exit(run, tail.clone()));
            }
        }
        let text = state.to_text();
        assert!(text.len() < 14 << 20, "{}", text.len());
        let back = State::parse(text.as_bytes()).unwrap();
        assert_eq!(back.exits("p7").len(), 32);
        // The newest exit has most of its lines, the oldest none.
        assert!(back.exits("p7")[31].tail.len() > 8);
        assert!(back.exits("p7")[0].tail.is_empty());
    }

    #[test]
    fn damaged_file_is_moved_aside() {
        let folder = Folder::new("state");
        let path = folder.path().join("state.json");
        assert_eq!(State::read(&path).unwrap().1, None);
        for (damage, n) in [
            (&b""[..], 1),
            (b"{}", 2),
            (b"{\"version\":1}", 3),
            (b"{\"version\":2,\"processes\":{},\"running\":[]}", 4),
            (b"[1]", 5),
            (b"\xff", 5),
        ] {
            fs::write(&path, damage).unwrap();
            let (state, said) = State::read(&path).unwrap();
            let aside = folder.path().join(format!("state.json.damaged-{n}"));
            assert_eq!(fs::read(&aside).unwrap(), damage);
            assert!(said.unwrap().contains(aside.to_str().unwrap()));
            assert!(!path.exists());
            // Nobody knows what runs.
            assert!(state.may_have_left());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn every_write_is_synced_or_covered_by_a_later_sync() {
        let folder = Folder::new("sync");
        let mut file = StateFile::new(folder.path().join("state.json"), State::default());
        let later = Mono::now().after(2 * SOON);
        for n in 1..=100 {
            file.edit().event = n;
            file.save(false).unwrap();
            file.sync_if_due(later);
        }
        while file.disk.lock().under_way {
            std::thread::yield_now();
        }
        assert_eq!(file.disk.synced(), 100);
        assert_eq!(State::look(file.file.path()).event, 100);
    }
}
