//! Reads a build: one thread while it runs, from the two pipes into the build log, until the
//! supervisor has reaped its leader; then copies what was built, so that no later build can touch
//! what runs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::table::sort;
use crate::build::cargo::{self, Built, CargoLine, Script};
use crate::build::diagnostics::{BuildErrors, Diagnostics, Places, phase};
use crate::build::{Artifact, BuildPlan};
use crate::log::line::text_of;
use crate::log::store::Log;
use crate::log::stream::Stream;
use crate::os::accounts::Account;
use crate::os::copy::copy_exe;
use crate::os::files;
use crate::os::inbox::Inbox;
use crate::os::output::ChildOutput;
use crate::os::poll::readable;
use crate::os::threads;

/// How each of cargo's messages begins.
const MESSAGE: &[u8] = b"{\"reason\":";
/// A message that is longer is left out (and said to be).
const LONGEST_MESSAGE: usize = 1 << 20;
/// Other lines are searched for errors up to this length; the log gets them whole.
const LONGEST_LINE: usize = 4 << 10;
/// At most this many artifacts and build scripts are remembered.
const MOST: usize = 10_000;
/// This many executables of a build are linked beside a copy at most.
const MOST_SIBLINGS: usize = 1_000;
/// Phases are reported at most this often.
const PHASE_EVERY: Duration = Duration::from_millis(250);

/// A build to be read.
pub struct BuildJob {
    pub log: Arc<Log>,
    /// The run of this build in `log`; begun and ended by the supervisor.
    pub run: u64,
    pub plan: BuildPlan,
    /// The project's root.
    pub root: PathBuf,
    /// The read ends of the leader's pipes.
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Where this process's binaries are kept.
    pub place: CopyPlace,
    /// Executables that run, or that can be started again: the only copies that stay.
    pub keep: Vec<PathBuf>,
    /// Called on the build's thread; must not block.
    pub report: Box<dyn Fn(Report) + Send>,
}

/// The folder of a process's binaries: a copy is `<folder>/<number>/<name>`.
#[derive(Debug)]
pub enum CopyPlace {
    /// bpm's own.
    Ours(PathBuf),
    /// That of a process that runs as another user, who can't reach ours: `.bpm/<process>` beside what the build made. All
    /// there is done with that user's rights, since the folder is that user's.
    Theirs { process: String, account: Account },
}

impl CopyPlace {
    fn store(&self, exe: &Path, keep: &[PathBuf]) -> Result<PathBuf, String> {
        match self {
            Self::Ours(folder) => store(exe, folder, keep),
            Self::Theirs { process, account } => {
                let folder = exe.with_file_name(".bpm").join(process);
                account.act(|| store(exe, &folder, keep))?
            }
        }
    }
}

/// A report of a build's thread.
#[derive(Debug)]
pub enum Report {
    /// The phase of the build, in words.
    Phase(String),
    /// The last one.
    Ended(BuildOutcome),
}

/// The outcome of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildOutcome {
    /// The artifact to start; Err: why there is none, in words.
    pub result: Result<Artifact, String>,
    pub errors: BuildErrors,
}

/// How a build ended: with exit code 0, or in words (`exit code 101`, `cancelled`).
pub type End = Result<(), String>;

/// The handle of a build's thread. Dropped before [`Builder::exited`], it ends as `cancelled`.
#[derive(Debug)]
pub struct Builder {
    /// The first message counts.
    end: Arc<Inbox<End>>,
}

impl Builder {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or no descriptor to be had; nothing was read then.
    pub fn start(job: BuildJob) -> io::Result<Self> {
        let end = Inbox::new()?;
        let ended = Arc::clone(&end);
        threads::start("build", Box::new(move || run(job, &ended)))?;
        Ok(Self { end })
    }

    /// The leader has been reaped: its output is in the pipes.
    pub fn exited(&self, end: End) {
        // An open inbox without a limit takes everything.
        let _ = self.end.send(end);
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.exited(Err("cancelled".into()));
    }
}

/// The thread.
fn run(job: BuildJob, ended: &Inbox<End>) {
    let places = Places {
        root: &job.root,
        cwd: &job.plan.cwd,
        exists: &|path| path.exists(),
    };
    let mut pipes = ChildOutput::new(job.stdout, job.stderr);
    let mut output = Output::new(job.log, job.run, places);
    let mut reporter = Reporter::default();
    let end = loop {
        if let Some(end) = ended.pop() {
            break end;
        }
        let (phase, wait) = reporter.next(&output.phase, Mono::now());
        if let Some(phase) = phase {
            (job.report)(Report::Phase(phase));
        }
        let [stdout, stderr] = pipes.fds();
        let ready = match readable([stdout, stderr, Some(ended.as_fd())], wait) {
            Ok(ready) => ready,
            Err(e) => break Err(format!("cannot wait for its output: {}", reason(&e))),
        };
        for pipe in [0, 1] {
            if ready[pipe] {
                pipes.read(pipe, &mut |stream, bytes| output.take(stream, bytes));
            }
        }
    };
    pipes.drain(&mut |stream, bytes| output.take(stream, bytes));
    drop(pipes);
    output.finish();
    (job.report)(Report::Ended(match end {
        Ok(()) => BuildOutcome {
            result: made(&output, &job.plan, &job.place, &job.keep),
            errors: BuildErrors::default(),
        },
        Err(words) => BuildOutcome {
            result: Err(words),
            errors: output.errors(),
        },
    }));
}

/// Reports a phase when it changes, and not too often.
#[derive(Default)]
struct Reporter {
    reported: String,
    at: Option<Mono>,
}

impl Reporter {
    /// The phase to report now, or how long to wait before it can be reported.
    fn next(&mut self, phase: &str, now: Mono) -> (Option<String>, Option<Duration>) {
        if phase == self.reported {
            return (None, None);
        }
        let wait = self.at.map_or(Duration::ZERO, |at| {
            PHASE_EVERY.saturating_sub(now.since(at))
        });
        if !wait.is_zero() {
            return (None, Some(wait));
        }
        self.reported = phase.to_string();
        self.at = Some(now);
        (Some(self.reported.clone()), None)
    }
}

/// One line as it comes, in bounded memory.
#[derive(Default)]
struct Line {
    text: Vec<u8>,
    /// It begins as one of cargo's messages: held until it is whole.
    held: bool,
    /// Bytes beyond the limit.
    lost: usize,
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        let limit = if self.held {
            LONGEST_MESSAGE
        } else {
            LONGEST_LINE
        };
        let room = part.len().min(limit - self.text.len());
        self.text.extend_from_slice(&part[..room]);
        self.lost += part.len() - room;
    }
}

/// The facts that a build's output has.
struct Output<'a> {
    log: Arc<Log>,
    run: u64,
    lines: [Line; 2],
    diagnostics: Diagnostics,
    places: Places<'a>,
    built: Vec<Built>,
    scripts: Vec<Script>,
    phase: String,
}

impl<'a> Output<'a> {
    fn new(log: Arc<Log>, run: u64, places: Places<'a>) -> Self {
        Self {
            log,
            run,
            lines: Default::default(),
            diagnostics: Diagnostics::default(),
            places,
            built: Vec::new(),
            scripts: Vec::new(),
            phase: String::new(),
        }
    }

    /// Bytes of one pipe. Cargo's messages are held until they are complete; the log gets all else
    /// as it comes.
    fn take(&mut self, stream: usize, bytes: &[u8]) {
        // The log has `bytes` up to here.
        let mut from = 0;
        let mut at = 0;
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let line = &mut self.lines[stream];
            if line.text.is_empty() && stream == 0 {
                line.held = part.starts_with(MESSAGE) || MESSAGE.starts_with(part);
            }
            line.push(part);
            if line.held {
                self.log(stream, &bytes[from..at]);
                from = at + part.len();
            }
            at += part.len();
            if part.ends_with(b"\n") {
                self.line(stream);
            }
        }
        self.log(stream, &bytes[from..]);
    }

    /// Takes the lines that have no newline at their end.
    fn finish(&mut self) {
        for stream in [0, 1] {
            if !self.lines[stream].text.is_empty() {
                self.line(stream);
            }
        }
    }

    /// A line is complete.
    fn line(&mut self, stream: usize) {
        let line = std::mem::take(&mut self.lines[stream]);
        if line.held {
            if line.lost > 0 {
                let size = line.text.len() + line.lost;
                let note = format!("[bpm: a message of {size} bytes is left out]\n");
                return self.log(stream, note.as_bytes());
            }
            match CargoLine::parse(&line.text) {
                Some(message) => return self.message(message),
                None => self.log(stream, &line.text),
            }
        }
        let text = text_of(&line.text);
        self.diagnostics.line(stream, &text);
        if let Some(phase) = phase(&text) {
            self.phase = phase;
        }
    }

    fn message(&mut self, message: CargoLine) {
        match message {
            CargoLine::Artifact(built) if self.built.len() < MOST => self.built.push(built),
            CargoLine::Script(script) if self.scripts.len() < MOST => self.scripts.push(script),
            CargoLine::Message(message) => {
                // Where cargo itself would print it.
                self.log(1, message.rendered.as_bytes());
                self.diagnostics.message(message, &self.places);
            }
            CargoLine::Artifact(_)
            | CargoLine::Script(_)
            | CargoLine::Finished(_)
            | CargoLine::Other => {}
        }
    }

    fn log(&self, stream: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            let stream = Stream::ALL[stream];
            self.log.append(self.run, stream, bytes);
        }
    }

    fn errors(self) -> BuildErrors {
        self.diagnostics.take(&self.places)
    }
}

/// The artifact of a build that ended well.
fn made(
    output: &Output<'_>,
    plan: &BuildPlan,
    place: &CopyPlace,
    keep: &[PathBuf],
) -> Result<Artifact, String> {
    let Some(wanted) = &plan.binary else {
        return Ok(Artifact::default());
    };
    let chosen = cargo::choose(&output.built, wanted, |path| {
        files::read_text(Path::new(path)).ok()
    })?;
    let executable = chosen.executable.as_deref().unwrap_or_default();
    let copy = place.store(Path::new(executable), keep)?;
    Ok(Artifact {
        exe: Some(copy),
        argv0: Some(cargo::argv0(executable, &plan.cwd)),
        env: cargo::run_env(
            chosen,
            &output.scripts,
            &sysroot_libs(Path::new(executable)),
        ),
    })
}

/// The toolchain's libraries: cargo's notes lie in `target`, two levels above the executable, or
/// three with `--target` (and then the triple is the level between).
fn sysroot_libs(executable: &Path) -> Vec<String> {
    let notes = |level: usize| {
        let target = executable.ancestors().nth(level)?;
        fs::read_to_string(target.join(".rustc_info.json")).ok()
    };
    if let Some(notes) = notes(2) {
        return cargo::sysroot_libs(&notes, None);
    }
    let triple = executable.ancestors().nth(2).and_then(Path::file_name);
    match (notes(3), triple.and_then(|t| t.to_str())) {
        (Some(notes), Some(triple)) => cargo::sysroot_libs(&notes, Some(triple)),
        _ => Vec::new(),
    }
}

/// Copies an executable to a folder of its own below `bin_dir`, and deletes the older copies but those in
/// `keep`. A file that equals the newest copy is not copied again: the copies should differ, so that there
/// is something to roll back to. Numbers only rise, over daemons as well: each daemon counts builds from 1.
fn store(exe: &Path, bin_dir: &Path, keep: &[PathBuf]) -> Result<PathBuf, String> {
    let name = exe.file_name().ok_or("cargo names no file")?;
    let older = stored(bin_dir);
    let newest = older.first();
    if let Some(last) = newest.map(|(_, dir)| dir.join(name))
        && same(exe, &last).unwrap_or(false)
    {
        link_siblings(exe, &last);
        return Ok(last);
    }
    let number = newest.map_or(1, |(n, _)| n + 1);
    let dir = bin_dir.join(number.to_string());
    let copy = dir.join(name);
    if let Err(e) = fs::create_dir_all(&dir).and_then(|()| copy_exe(exe, &copy)) {
        let _ = fs::remove_dir_all(&dir);
        let (exe, dir, why) = (exe.display(), dir.display(), reason(&e));
        return Err(format!("cannot copy {exe} to {dir}: {why}"));
    }
    link_siblings(exe, &copy);
    for (_, old) in &older {
        if !keep.iter().any(|k| k.starts_with(old)) {
            // It is only space; the next build tries again.
            let _ = fs::remove_dir_all(old);
        }
    }
    Ok(copy)
}

/// Links the other executables of the build beside the copy: programs look for their helpers beside themselves.
fn link_siblings(exe: &Path, copy: &Path) {
    let Some((from, to)) = exe.parent().zip(copy.parent()) else {
        return;
    };
    let there = files::entries(to);
    let links = there.filter(|e| e.file_type().is_ok_and(|kind| kind.is_symlink()));
    for stale in links {
        let _ = fs::remove_file(stale.path());
    }
    let built = files::entries(from).filter(|e| {
        let executable = |m: fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
        Some(e.file_name().as_os_str()) != exe.file_name() && e.metadata().is_ok_and(executable)
    });
    for sibling in built.take(MOST_SIBLINGS) {
        // A program that misses it says so.
        let _ = symlink(sibling.path(), to.join(sibling.file_name()));
    }
}

/// The copies there are, newest first.
fn stored(bin_dir: &Path) -> Vec<(u64, PathBuf)> {
    let mut all: Vec<(u64, PathBuf)> = files::entries(bin_dir)
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path())))
        .collect();
    sort(&mut all, |(a, _), (b, _)| b.cmp(a));
    all
}

/// The files have the same contents.
fn same(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let n = a.read(&mut x)?;
        b.read_exact(&mut y[..n])?;
        if n == 0 || x[..n] != y[..n] {
            return Ok(n == 0);
        }
    }
}

#[cfg(test)]
mod tests;
