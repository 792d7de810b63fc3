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
use crate::build::{Artifact, BuildError, BuildPlan, text};
use crate::engine::handle::{BuildOutcome, Handle, Notice};
use crate::log::search::Stream;
use crate::log::store::Log;
use crate::os::copy::copy_exe;
use crate::os::poll::{Mailbox, Waker, readable};
use crate::os::thread;

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
        thread::start("build", thread::LARGE, Box::new(move || reader.run(job)))?;
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
        let mut output = Output::new(job.log, job.run);
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
                errors: Vec::new(),
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
fn drain(stream: usize, pipe: &mut Option<File>, output: &mut Output, buffer: &mut [u8]) {
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
struct Output {
    log: Arc<Log>,
    run: u64,
    lines: [Line; 2],
    errors: Vec<BuildError>,
    texts: [text::Errors; 2],
    built: Vec<Built>,
    scripts: Vec<Script>,
    phase: String,
}

impl Output {
    fn new(log: Arc<Log>, run: u64) -> Self {
        Self {
            log,
            run,
            lines: Default::default(),
            errors: Vec::new(),
            texts: Default::default(),
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
        self.texts[stream].line(&text);
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
                if self.errors.len() < text::ERRORS {
                    self.errors.extend(message.error);
                }
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

    /// The first errors: of the compiler's messages, else what looks like one in the text.
    fn errors(self) -> Vec<BuildError> {
        if !self.errors.is_empty() {
            return self.errors;
        }
        let [stdout, stderr] = self.texts;
        let mut found = stderr.take();
        found.extend(stdout.take());
        found.truncate(text::ERRORS);
        found
    }
}

/// What a build that ended well made.
fn made(
    output: &Output,
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
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::io::{PipeWriter, Write, pipe};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::base::clock::Wall;
    use crate::build::{Exec, Wanted};
    use crate::engine::handle::{self, CommandReceiver, Identity};
    use crate::engine::snapshot::{Snapshot, SnapshotCell};
    use crate::log::store::Limits;

    /// A folder that goes away with its test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bpm-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// One process's builds.
    struct House {
        handle: Arc<Handle>,
        commands: CommandReceiver,
        log: Arc<Log>,
        dir: Folder,
        binary: Option<Wanted>,
        keep: Vec<PathBuf>,
    }

    impl House {
        fn new(name: &str) -> Self {
            let snapshot = SnapshotCell::new(Snapshot::new(name.into(), "/".into()));
            let waker = Mailbox::new().unwrap().waker(0);
            let (handle, commands) = Handle::new(snapshot, Identity::nobody(), waker);
            let limits = Limits {
                lines: 10_000,
                bytes: 8 << 20,
                runs: 10,
                disk: 0,
            };
            Self {
                handle,
                commands,
                log: Log::new(limits, 1, 1),
                dir: Folder::new(name),
                binary: Some(Wanted::default()),
                keep: Vec::new(),
            }
        }

        fn start(&self, id: u64, stdout: OwnedFd, stderr: OwnedFd) -> Builder {
            let cwd = self.dir.0.clone();
            Builder::start(BuildJob {
                unit: 3,
                id,
                log: Arc::clone(&self.log),
                run: self.log.begin(Wall::now()),
                plan: BuildPlan {
                    exec: Exec {
                        program: "cargo".into(),
                        argv0: None,
                        args: Vec::new(),
                        env: Vec::new(),
                        cwd: cwd.clone(),
                    },
                    binary: self.binary.clone(),
                    cwd: cwd.clone(),
                },
                stdout,
                stderr,
                bin_dir: cwd.join("bin"),
                keep: self.keep.clone(),
                handle: Arc::clone(&self.handle),
            })
            .unwrap()
        }

        /// A build whose output the test writes.
        fn pipes(&self, id: u64) -> (Builder, PipeWriter, PipeWriter) {
            let (stdout, out) = pipe().unwrap();
            let (stderr, err) = pipe().unwrap();
            (self.start(id, stdout.into(), stderr.into()), out, err)
        }

        fn fact(&self) -> Notice {
            match self.commands.wait(Duration::from_secs(60)).unwrap() {
                handle::Command::Notice(fact) => fact,
                handle::Command::Request(ask, _) => panic!("nobody asks {ask:?}"),
            }
        }

        fn outcome(&self) -> (u64, BuildOutcome) {
            loop {
                if let Notice::Built {
                    unit: 3,
                    id,
                    outcome,
                } = self.fact()
                {
                    return (id, *outcome);
                }
            }
        }

        /// Runs it as the supervisor would.
        fn run(&self, id: u64, mut command: Command) -> BuildOutcome {
            let mut child = command
                .current_dir(&self.dir.0)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let stdout = child.stdout.take().unwrap().into();
            let builder = self.start(id, stdout, child.stderr.take().unwrap().into());
            let status = child.wait().unwrap();
            builder.exited(match status.code() {
                Some(0) => Ok(()),
                code => Err(format!("exit code {}", code.unwrap_or(-1))),
            });
            let (built, outcome) = self.outcome();
            assert_eq!(built, id);
            outcome
        }

        fn cargo(&self, id: u64) -> BuildOutcome {
            let mut cargo = Command::new("cargo");
            cargo.args(["build", "--offline", "--message-format=json"]);
            cargo.env_remove("CARGO_TARGET_DIR");
            self.run(id, cargo)
        }

        fn sh(&self, id: u64, line: &str) -> BuildOutcome {
            let mut sh = Command::new("sh");
            sh.args(["-c", line]);
            self.run(id, sh)
        }

        /// The log of a build; runs count from 1.
        fn log(&self, run: u64) -> Vec<String> {
            let lines = self.log.tail(run, 1_000).into_iter();
            lines.map(|l| l.text).collect()
        }

        fn main_rs(&self, text: &str) {
            fs::write(self.dir.0.join("src/main.rs"), text).unwrap();
        }
    }

    #[test]
    fn a_crate_is_built_broken_mended_and_kept_twice() {
        let mut house = House::new("crate");
        let root = house.dir.0.clone();
        fs::create_dir_all(root.join("src")).unwrap();
        fs::write(
            root.join("Cargo.toml"),
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
        )
        .unwrap();
        fs::write(
            root.join("build.rs"),
            "fn main() { println!(\"cargo::rustc-env=GREETING=hello\"); }",
        )
        .unwrap();
        let says = |n: u32| {
            format!("fn main() {{ println!(\"{{}} {n}\", std::env::args().next().unwrap()); }}")
        };

        house.main_rs(&says(1));
        let first = house.cargo(1).result.unwrap();
        let exe = first.exe.clone().unwrap();
        assert_eq!(exe, root.join("bin/1/app"));
        assert_eq!(first.argv0.as_deref(), Some("target/debug/app"));
        let var = |name: &str| {
            first
                .env
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(var("CARGO_MANIFEST_DIR"), root.to_str());
        assert_eq!(var("GREETING"), Some("hello"));
        let profile = root.join("target/debug");
        let libs = format!("{0}:{0}/deps:/", profile.display());
        assert!(
            var("LD_LIBRARY_PATH").unwrap().starts_with(&libs),
            "{first:?}"
        );
        let output = Command::new(&exe).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("/bin/1/app 1\n"));
        assert!(
            house
                .log(1)
                .iter()
                .any(|l| l.contains("Compiling app v0.1.0"))
        );

        house.main_rs("fn main() {\n    let x: u32 = \"a\";\n}\n");
        let broken = house.cargo(2);
        assert_eq!(broken.result, Err("exit code 101".into()));
        assert_eq!(
            broken.errors,
            [BuildError {
                file: Some("src/main.rs".into()),
                line: Some(2),
                column: Some(18),
                message: "E0308: mismatched types".into(),
            }]
        );
        let log = house.log(2);
        assert!(
            log.iter().any(|l| l == "error[E0308]: mismatched types"),
            "{log:?}"
        );
        assert!(!log.iter().any(|l| l.contains("\"reason\"")), "{log:?}");
        assert!(exe.exists());

        // The same sources again are the same binary: nothing is copied.
        house.main_rs(&says(1));
        assert_eq!(house.cargo(3).result.unwrap().exe, Some(exe.clone()));

        house.keep = vec![exe.clone()];
        house.main_rs(&says(2));
        let second = house.cargo(4).result.unwrap().exe.unwrap();
        assert_eq!(second, root.join("bin/2/app"));
        assert!(exe.exists(), "what runs is kept");

        house.keep = vec![second.clone()];
        house.main_rs(&says(3));
        let last = house.cargo(5).result.unwrap().exe.unwrap();
        let kept: Vec<u64> = stored(&root.join("bin"))
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(kept, [3, 2]);
        let output = Command::new(&last).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 3\n"));

        fs::write(root.join("Cargo.toml"), "[package]\nnome = \"app\"\n").unwrap();
        let broken = house.cargo(7);
        assert!(
            broken.errors[0]
                .message
                .starts_with("failed to parse manifest"),
            "{broken:?}"
        );
    }

    #[test]
    fn somebody_who_holds_the_pipe_delays_nothing() {
        let mut house = House::new("held");
        house.binary = None;
        let outcome = house.sh(1, "sleep 600 & echo $! > pid; echo done");
        assert_eq!(outcome.result, Ok(Artifact::default()));
        assert_eq!(house.log(1), ["done"]);
        let pid = fs::read_to_string(house.dir.0.join("pid")).unwrap();
        let alive = Command::new("kill").arg(pid.trim()).status().unwrap();
        assert!(alive.success(), "it was left alone");
    }

    #[test]
    fn a_build_of_another_kind_tells_its_errors_too() {
        let mut house = House::new("other");
        house.binary = None;
        let outcome = house.sh(
            1,
            "echo 'src/x.ts(3,5): error TS2322: no.'; printf 'half' >&2; exit 2",
        );
        assert_eq!(outcome.result, Err("exit code 2".into()));
        assert_eq!(outcome.errors[0].file.as_deref(), Some("src/x.ts"));
        assert_eq!(outcome.errors[0].message, "TS2322: no.");
        house.log.append(1, Stream::Stderr, b"\n");
        assert!(house.log(1).contains(&"half".to_string()));
    }

    #[test]
    fn phases_are_told_when_they_change() {
        let house = House::new("phases");
        let (builder, out, mut err) = house.pipes(9);
        let mut told = |line: &str| {
            err.write_all(line.as_bytes()).unwrap();
            match house.fact() {
                Notice::Phase {
                    unit: 3,
                    id: 9,
                    phase,
                } => phase,
                other => panic!("{other:?}"),
            }
        };
        let lock = "    Blocking waiting for file lock on artifact directory\n";
        assert_eq!(told(lock), "waiting for cargo's lock");
        let many: String = (0..1000)
            .map(|n| format!("   Compiling c{n} v1.0.0\n"))
            .collect();
        let first = told(&many);
        // At most one every 250 ms: the thousand came in far less time.
        assert_eq!(first, "compiling c999");
        drop(out);
        builder.exited(Err("exit code 1".into()));
        assert_eq!(house.outcome().1.result, Err("exit code 1".into()));
    }

    #[test]
    fn messages_come_in_pieces_and_beside_other_words() {
        let house = House::new("pieces");
        fs::write(house.dir.0.join("app"), "not much of a program").unwrap();
        let (builder, mut out, err) = house.pipes(1);
        let exe = house.dir.0.join("app");
        let artifact = format!(
            "{{\"reason\":\"compiler-artifact\",\"target\":{{\"kind\":[\"bin\"],\"name\":\"app\"}},\"manifest_path\":\"/x/Cargo.toml\",\"executable\":{exe:?}}}"
        );
        for byte in artifact.bytes() {
            out.write_all(&[byte]).unwrap();
        }
        out.write_all(b"\nwords\n{\"reason\":").unwrap();
        let chunk = vec![b'x'; 1 << 20];
        out.write_all(&chunk)
            .and_then(|()| out.write_all(&chunk))
            .unwrap();
        out.write_all(b"\n{ is no message\n{\"reason\": 7}\nend")
            .unwrap();
        drop((out, err));
        builder.exited(Ok(()));
        let artifact = house.outcome().1.result.unwrap();
        assert_eq!(artifact.argv0.as_deref(), Some("./app"));
        house.log.append(1, Stream::Stdout, b"\n");
        assert_eq!(
            house.log(1),
            [
                "words",
                "[bpm: a message of 2097163 bytes is left out]",
                "{ is no message",
                "{\"reason\": 7}",
                "end"
            ]
        );
    }

    #[test]
    fn a_binary_that_cannot_be_copied_fails_the_build() {
        let house = House::new("nocopy");
        let (builder, mut out, _err) = house.pipes(1);
        let line = "{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bin\"],\"name\":\"app\"},\"executable\":\"/nonexistent/app\"}";
        out.write_all(line.as_bytes()).unwrap();
        builder.exited(Ok(()));
        let words = house.outcome().1.result.unwrap_err();
        assert!(
            words.starts_with("cannot copy /nonexistent/app to "),
            "{words}"
        );
        assert!(words.ends_with(": no such file or directory"), "{words}");
        assert!(stored(&house.dir.0.join("bin")).is_empty());
    }

    #[test]
    fn a_handle_that_is_dropped_ends_its_thread() {
        let house = House::new("dropped");
        let (builder, _out, _err) = house.pipes(1);
        drop(builder);
        assert_eq!(house.outcome().1.result, Err("cancelled".into()));
    }

    #[test]
    fn who_floods_the_pipe_after_the_end_is_cut_off() {
        let mut house = House::new("flood");
        house.binary = None;
        let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
        let stdout = yes.stdout.take().unwrap().into();
        let (stderr, _err) = pipe().unwrap();
        let builder = house.start(1, stdout, stderr.into());
        builder.exited(Ok(()));
        assert_eq!(house.outcome().1.result, Ok(Artifact::default()));
        // Its pipe is gone.
        assert!(!yes.wait().unwrap().success());
    }
}
