//! Reads a build: one thread while it runs, from the two pipes into the build log, until the
//! supervisor has reaped its leader; then copies what was built, so that no later build can touch
//! what runs.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::table::in_order;
use crate::build::cargo::{self, Built, CargoLine, Script};
use crate::build::diagnostics::{Diagnostics, Places};
use crate::build::{Artifact, BuildErrors, BuildPlan, text};
use crate::engine::handle::{BuildOutcome, Handle, Notice};
use crate::log::search::Stream;
use crate::log::store::Log;
use crate::os::copy::copy_exe;
use crate::os::poll::{Mailbox, Waker, readable};

/// How each of cargo's messages begins.
const MESSAGE: &[u8] = b"{\"reason\":";
/// A message that is longer is left out (and said to be).
const LONGEST_MESSAGE: usize = 1 << 20;
/// Of other lines so much is looked at for errors; the log gets them whole.
const LONGEST_LINE: usize = 4 << 10;
/// What is read of each pipe after the leader's end: more can't have been in it at that moment
/// (`/proc/sys/fs/pipe-max-size`), the rest is of somebody whom the build left running.
const DRAIN: usize = 1 << 20;
/// So many artifacts and build scripts are remembered.
const MOST: usize = 10_000;
/// A phase that follows another within this time is not told by itself.
const PHASE_EVERY: Duration = Duration::from_millis(250);

/// A build to be read.
#[derive(Debug)]
pub struct BuildJob {
    /// The unit's index.
    pub unit: usize,
    /// The build.
    pub id: u64,
    /// The build log.
    pub log: Arc<Log>,
    /// The run of this build in `log`; begun and ended by the supervisor.
    pub run: u64,
    /// What was started.
    pub plan: BuildPlan,
    /// The project's root.
    pub root: PathBuf,
    /// The read end of its standard output.
    pub stdout: OwnedFd,
    /// The read end of its standard error.
    pub stderr: OwnedFd,
    /// Where this process's binaries are kept: a copy is `<bin_dir>/<number>/<name>`.
    pub bin_dir: PathBuf,
    /// Executables that run, or that can be started again: the only copies that stay.
    pub keep: Vec<PathBuf>,
    /// Where the outcome goes ([`Notice::Built`]), and what it does meanwhile ([`Notice::Phase`]).
    pub handle: Arc<Handle>,
}

/// How a build ended: with exit code 0, or in words (`exit code 101`, `cancelled`).
pub type End = Result<(), String>;

/// The handle of a build's thread. Dropped before [`Builder::exited`], it ends as `cancelled`.
#[derive(Debug)]
pub struct Builder {
    end: Arc<Mutex<Option<End>>>,
    waker: Arc<Waker>,
}

impl Builder {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or no descriptor to be had; nothing was read then.
    pub fn start(job: BuildJob) -> io::Result<Self> {
        let mailbox = Mailbox::new()?;
        let waker = mailbox.waker(0);
        let end = Arc::new(Mutex::new(None));
        let reader = Reader {
            mailbox,
            waker: Arc::clone(&waker),
            end: Arc::clone(&end),
        };
        let thread = std::thread::Builder::new().name("build".into());
        thread.spawn(move || reader.run(job))?;
        Ok(Self { end, waker })
    }

    /// The leader has been reaped: what it wrote is in the pipes.
    pub fn exited(&self, end: End) {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(end);
        self.waker.wake();
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.exited(Err("cancelled".into()));
    }
}

/// The thread's side.
struct Reader {
    mailbox: Arc<Mailbox>,
    waker: Arc<Waker>,
    end: Arc<Mutex<Option<End>>>,
}

impl Reader {
    fn run(self, job: BuildJob) {
        let (unit, id) = (job.unit, job.id);
        let places = Places {
            root: &job.root,
            cwd: &job.plan.cwd,
            exists: &|path| path.exists(),
        };
        let mut output = Output::new(job.log, job.run, places);
        let mut pipes = [job.stdout, job.stderr].map(|fd| Some(File::from(fd)));
        let mut buffer = vec![0; 64 << 10];
        let mut reporter = Reporter::default();
        let end = loop {
            self.waker.seen();
            if let Some(end) = self.ended() {
                break end;
            }
            let (phase, wait) = reporter.next(&output.phase, Mono::now());
            if let Some(phase) = phase {
                job.handle.tell(Notice::Phase { unit, id, phase });
            }
            let [stdout, stderr] = &pipes;
            let fds = [stdout.as_ref(), stderr.as_ref()].map(|p| p.map(File::as_fd));
            let ready = match readable([fds[0], fds[1], Some(self.mailbox.as_fd())], wait) {
                Ok(ready) => ready,
                Err(e) => break Err(format!("cannot wait for its output: {}", reason(&e))),
            };
            for (i, pipe) in pipes.iter_mut().enumerate() {
                if ready[i] && output.read(i, pipe, &mut buffer) == Some(0) {
                    *pipe = None;
                }
            }
            if ready[2] {
                self.mailbox.take(&mut Vec::new());
            }
        };
        for (i, mut pipe) in pipes.into_iter().enumerate() {
            drain(i, &mut pipe, &mut output, &mut buffer);
        }
        output.finish();
        let outcome = Box::new(match end {
            Ok(()) => BuildOutcome {
                result: made(&output, &job.plan, &job.bin_dir, &job.keep),
                errors: BuildErrors::default(),
            },
            Err(words) => BuildOutcome {
                result: Err(words),
                errors: output.errors(),
            },
        });
        job.handle.tell(Notice::Built { unit, id, outcome });
    }

    fn ended(&self) -> Option<End> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.take()
    }
}

/// Reads what is in a pipe already.
fn drain(stream: usize, pipe: &mut Option<File>, output: &mut Output<'_>, buffer: &mut [u8]) {
    let mut left = DRAIN;
    while left > 0 {
        let fd = pipe.as_ref().map(File::as_fd);
        if !readable([fd], Some(Duration::ZERO)).is_ok_and(|[ready]| ready) {
            return;
        }
        match output.read(stream, pipe, buffer) {
            Some(0) | None => return,
            Some(n) => left = left.saturating_sub(n),
        }
    }
}

/// Tells a phase when it changes, and not too often.
#[derive(Default)]
struct Reporter {
    told: String,
    at: Option<Mono>,
}

impl Reporter {
    /// What to tell now, or how long to wait before it can be told.
    fn next(&mut self, phase: &str, now: Mono) -> (Option<String>, Option<Duration>) {
        if phase == self.told {
            return (None, None);
        }
        let wait = self.at.map_or(Duration::ZERO, |at| {
            PHASE_EVERY.saturating_sub(now.since(at))
        });
        if !wait.is_zero() {
            return (None, Some(wait));
        }
        self.told = phase.to_string();
        self.at = Some(now);
        (Some(self.told.clone()), None)
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

/// What a build's output tells.
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

    /// One read of a pipe; 0 at its end, None where there is nothing for now.
    fn read(&mut self, stream: usize, pipe: &mut Option<File>, buffer: &mut [u8]) -> Option<usize> {
        let n = match pipe.as_mut()?.read(buffer) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return None;
            }
            // It will not get better: the same as the end.
            Err(_) => 0,
        };
        self.take(stream, &buffer[..n]);
        Some(n)
    }

    /// Bytes of one pipe. Cargo's messages are held until they are complete; the log gets all else
    /// as it comes.
    fn take(&mut self, stream: usize, bytes: &[u8]) {
        // What the log has not got yet of `bytes`.
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

    /// What has no newline at its end.
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
        let text = text::plain(&line.text);
        self.diagnostics.line(stream, &text);
        if let Some(phase) = text::phase(&text) {
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

/// What a build that ended well made.
fn made(
    output: &Output<'_>,
    plan: &BuildPlan,
    bin_dir: &Path,
    keep: &[PathBuf],
) -> Result<Artifact, String> {
    let Some(wanted) = &plan.binary else {
        return Ok(Artifact::default());
    };
    let chosen = cargo::choose(&output.built, wanted, |path| fs::read_to_string(path).ok())?;
    let executable = chosen.executable.as_deref().unwrap_or_default();
    let copy = store(Path::new(executable), bin_dir, keep)?;
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
/// `keep`. What is the same as the newest copy is not copied again: what is kept should differ, so that there
/// is something to roll back to. Numbers only rise, over daemons as well: builds are counted anew by each.
fn store(exe: &Path, bin_dir: &Path, keep: &[PathBuf]) -> Result<PathBuf, String> {
    let name = exe.file_name().ok_or("cargo names no file")?;
    let older = stored(bin_dir);
    let newest = older.first();
    if let Some(last) = newest.map(|(_, dir)| dir.join(name))
        && same(exe, &last).unwrap_or(false)
    {
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
    for (_, old) in &older {
        if !keep.iter().any(|k| k.starts_with(old)) {
            // It is only space; the next build tries again.
            let _ = fs::remove_dir_all(old);
        }
    }
    Ok(copy)
}

/// The copies there are, newest first.
fn stored(bin_dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(bin_dir).into_iter().flatten().flatten();
    let all: Vec<(u64, PathBuf)> = entries
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path())))
        .collect();
    let mut all = in_order(all, |(id, _)| *id);
    all.reverse();
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
