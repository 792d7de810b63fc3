//! A [`Project`]: a project in a folder of its own, and the real `bpm` in it.
//!
//! Tests wait for events. What tells nobody when it happens is looked at by [`eventually`], the only
//! place that polls.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used
)]

pub mod load;
pub mod sandbox;
pub mod tracer;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The value, once there is one. Fails with the last `why` after [`PATIENCE`].
pub fn eventually<T, E: Debug>(mut look: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(why) => assert!(
                begun.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {why:?}"
            ),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether attacks are made in full (`just attacks`), not only some rounds of each.
pub fn all_attacks() -> bool {
    std::env::var_os("BPM_ATTACKS").is_some()
}

/// A pipe whose writers do not block, as some wrappers make it.
pub fn nonblocking_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (reader, writer)
}

/// Waits until nothing more fits into a pipe.
pub fn until_full(pipe: &PipeWriter) {
    eventually(|| {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::ZERO).unwrap() {
            0 => Ok(()),
            _ => Err("there is room"),
        }
    });
}

/// A project's folder, its `BPM_HOME`, and the bpm that runs there. Dropped, it stops bpm and fails
/// the test if anything of it is left.
pub struct Project {
    base: PathBuf,
    /// The project's root.
    pub root: PathBuf,
    env: Vec<(String, String)>,
    args: Vec<String>,
    served: Option<Served>,
}

/// A bpm that runs.
struct Served {
    /// In the foreground; None: a daemon, whose parent is not the test.
    child: Option<Child>,
    descriptor: Value,
}

impl Served {
    fn pid(&self) -> i32 {
        let pid = self.descriptor["pid"].as_i64();
        pid.expect("a pid in the descriptor") as i32
    }

    /// The exit code, once it has ended; of a daemon always None.
    fn ended(&mut self) -> Option<Option<i32>> {
        match &mut self.child {
            Some(child) => child.try_wait().unwrap().map(|status| status.code()),
            None => (!lives(self.pid())).then_some(None),
        }
    }
}

/// An answer of a tool.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `isError`.
    pub failed: bool,
    /// The text.
    pub text: String,
    /// `structuredContent`, else null.
    pub data: Value,
}

impl Answer {
    /// The data of a call that succeeded.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(!self.failed, "{}", self.text);
        self.data
    }

    /// The text of a call that succeeded.
    #[track_caller]
    pub fn text(self) -> String {
        assert!(!self.failed, "{}", self.text);
        self.text
    }

    /// The text of a call that failed.
    #[track_caller]
    pub fn error(self) -> String {
        assert!(self.failed, "it did not fail: {}", self.text);
        self.text
    }
}

impl Project {
    /// A project in a folder of its own, with this `.mcp-run`.
    pub fn new(config: &str) -> Self {
        let project = Self::empty();
        project.config(config);
        project
    }

    /// A folder without a `.mcp-run`.
    pub fn empty() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same below another folder.
    pub fn below(folder: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = folder.join(format!("bpm-test-{}-{count}", std::process::id()));
        let root = base.join("shop");
        fs::create_dir_all(&root).unwrap();
        // As bpm will see it: the temporary folder may be a link.
        let base = base.canonicalize().unwrap();
        let root = root.canonicalize().unwrap();
        Self {
            base,
            root,
            env: Vec::new(),
            args: Vec::new(),
            served: None,
        }
    }

    /// Writes the `.mcp-run`. `FIXTURE` in it is the path of the fixture program.
    pub fn config(&self, text: &str) {
        let text = if text.contains("FIXTURE") {
            text.replace("FIXTURE", &fixture().display().to_string())
        } else {
            text.into()
        };
        self.file(".mcp-run", &text);
    }

    /// Writes a file below the root.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a program (a script) below the root.
    pub fn program(&self, path: &str, text: &str) {
        self.file(path, text);
        let path = self.root.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The text of a file below the root; empty if there is none.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// Removes a file below the root.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.root.join(path)).unwrap();
    }

    /// A variable of bpm's environment.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        let value = value.as_ref().to_str().unwrap().to_string();
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.into(), value));
        self
    }

    /// Arguments of `serve`, before the folder, and of `up`.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.args = args.iter().map(|a| (*a).to_string()).collect();
        self
    }

    /// Puts a folder below the root (made if need be) before all others on PATH.
    pub fn path_first(&mut self, folder: &str) -> &mut Self {
        let folder = self.root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        self.env("PATH", path)
    }

    /// A `cargo` on PATH that takes milliseconds. Its "build" copies the script `src/main.sh` to
    /// `target/{debug,release}/app`; with a file `src/broken` it fails with what that file says,
    /// as the message of E0308 at `src/main.rs:3:5`; with a FIFO `gate` it waits there first.
    pub fn fake_cargo(&mut self) -> &mut Self {
        self.program("fake/cargo", FAKE_CARGO);
        self.file(
            "Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        );
        self.file("src/main.rs", "fn main() {}\n");
        self.path_first("fake")
    }

    /// The program that the fake cargo "builds".
    pub fn source(&self, script: &str) {
        self.file("src/main.sh", &format!("#!/bin/sh\n{script}\n"));
    }

    /// Makes the fake cargo wait until [`Gate::open`].
    pub fn gate(&self) -> Gate {
        let path = self.root.join("gate");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Gate {
            path,
            passed: self.root.join("passed"),
        }
    }

    /// The folder of the fixed `BPM_HOME`.
    pub fn home(&self) -> PathBuf {
        self.base.join("home")
    }

    /// bpm's folder of this project, once there is one.
    pub fn state_folder(&self) -> Option<PathBuf> {
        let mut folders = fs::read_dir(self.home()).ok()?;
        folders.find_map(|f| f.ok().map(|f| f.path()).filter(|p| p.is_dir()))
    }

    /// A command in the project's root, with its environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env_remove("BPM_PORT")
            .env_remove("BPM_LOG_LEVEL")
            .env("BPM_HOME", self.home())
            .env(MARK, &self.base)
            .envs(self.env.iter().map(|(n, v)| (n, v)));
        command
    }

    /// The variable by which processes of this project are found at its end.
    pub fn mark(&self) -> (&'static str, &Path) {
        (MARK, &self.base)
    }

    /// Runs `bpm ARGS` to its end.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        let output = self
            .command(bpm())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ended::new(output)
    }

    /// Starts `bpm ROOT` and waits until it listens. Its output goes to `out` and `err` beside the root.
    #[track_caller]
    pub fn serve(&mut self) -> &mut Self {
        let child = self.spawn(self.sink("out"));
        self.wait_until_served(child);
        self
    }

    /// Another build of bpm by that name: the same, but for its checksum.
    pub fn other_build(&self, name: &str) -> PathBuf {
        let (path, written) = (
            self.root.join(name),
            self.root.join(format!("{name}.written")),
        );
        let mut bytes = fs::read(bpm()).unwrap();
        bytes.extend_from_slice(name.as_bytes());
        fs::write(&written, bytes).unwrap();
        fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
        copied(&written, &path);
        fs::remove_file(written).unwrap();
        path
    }

    /// The same in a session of its own, as a service manager starts it: there is no
    /// terminal that could hang up.
    #[track_caller]
    pub fn serve_beyond_terminals(&mut self) -> &mut Self {
        let child = self
            .command("setsid")
            .arg(bpm())
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(self.sink("out"))
            .stderr(self.sink("err"))
            .spawn()
            .unwrap();
        self.wait_until_served(child);
        self
    }

    /// The same with a descriptor that a service manager has kept (sd_listen_fds(3)).
    #[track_caller]
    pub fn serve_with(&mut self, kept: &OwnedFd, name: &str) -> &mut Self {
        // The shell has the pid that bpm gets, and knows no descriptors above 9: it comes as its input.
        let script = format!(
            "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES='{name}'; exec \"$@\" 3<&0 </dev/null"
        );
        let child = self
            .command("sh")
            .args(["-c", &script, "sh"])
            .arg(bpm())
            .args(&self.args)
            .arg(&self.root)
            .stdin(kept.try_clone().unwrap())
            .stdout(self.sink("out"))
            .stderr(self.sink("err"))
            .spawn()
            .unwrap();
        self.wait_until_served(child);
        self
    }

    /// The same with its stdout going elsewhere.
    #[track_caller]
    pub fn serve_into(&mut self, out: std::os::fd::OwnedFd) -> &mut Self {
        let child = self.spawn(Stdio::from(out));
        self.wait_until_served(child);
        self
    }

    /// Starts `bpm ROOT`, which is expected to fail, and waits for its end.
    pub fn serve_fails(&mut self) -> Ended {
        let mut child = self.spawn(self.sink("out"));
        let status = child.wait().unwrap();
        Ended {
            code: status.code(),
            out: self.out(),
            err: self.err(),
        }
    }

    /// Starts the daemon with `bpm -d`.
    #[track_caller]
    pub fn up(&mut self) -> &mut Self {
        let args = self.args.iter().map(String::as_str);
        self.cli(["-d"].into_iter().chain(args)).exits(0);
        self.served = Some(Served {
            child: None,
            descriptor: self.on_disk().expect("a descriptor"),
        });
        self
    }

    /// What `daemon.json` says now.
    pub fn on_disk(&self) -> Result<Value, &'static str> {
        let path = self.state_folder().ok_or("no folder")?.join("daemon.json");
        let text = fs::read_to_string(path).map_err(|_| "no descriptor")?;
        serde_json::from_str(&text).map_err(|_| "half a descriptor")
    }

    fn sink(&self, name: &str) -> Stdio {
        fs::File::create(self.base.join(name)).unwrap().into()
    }

    fn spawn(&self, out: Stdio) -> Child {
        self.command(bpm())
            .args(&self.args)
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(self.sink("err"))
            .spawn()
            .unwrap()
    }

    #[track_caller]
    fn wait_until_served(&mut self, mut child: Child) {
        let descriptor = eventually(|| {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("bpm ended with {status}: {}{}", self.out(), self.err());
            }
            let descriptor = self.on_disk()?;
            if descriptor["pid"] == json!(child.id()) {
                Ok(descriptor)
            } else {
                Err("the descriptor of another")
            }
        });
        self.served = Some(Served {
            child: Some(child),
            descriptor,
        });
    }

    /// What bpm printed on stdout.
    pub fn out(&self) -> String {
        lossy(&self.base.join("out"))
    }

    /// What bpm printed on stderr.
    pub fn err(&self) -> String {
        lossy(&self.base.join("err"))
    }

    /// The pid of bpm.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.served().pid()
    }

    /// What `daemon.json` says.
    #[track_caller]
    pub fn descriptor(&self) -> &Value {
        &self.served().descriptor
    }

    #[track_caller]
    fn served(&self) -> &Served {
        self.served.as_ref().expect("bpm does not run")
    }

    /// Sends a signal to bpm; one that is stopped by it has stopped afterwards.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        match signal {
            Signal::SIGSTOP => freeze(self.pid()),
            signal => kill(Pid::from_raw(self.pid()), signal).unwrap(),
        }
    }

    /// bpm's own log. It is written at once, other than the copy on standard error.
    #[track_caller]
    pub fn log(&self) -> String {
        let folder = self.state_folder().expect("no folder of state");
        fs::read_to_string(folder.join("daemon.log")).unwrap()
    }

    /// Waits for the end of bpm and gives its exit code (None: a signal, or a daemon).
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        let mut served = self.served.take().expect("bpm does not run");
        eventually(|| served.ended().ok_or("bpm goes on"))
    }

    /// Waits until bpm has begun to stop.
    #[track_caller]
    pub fn stopping(&self) {
        let url = self.descriptor()["url"].as_str().expect("no url");
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
        eventually(|| {
            // While it stops, health is 503; later nobody listens.
            let Ok(mut stream) = TcpStream::connect(address) else {
                return Ok(());
            };
            let request = format!("GET /healthz HTTP/1.0\r\nHost: {address}\r\n\r\n");
            let mut answer = String::new();
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read_to_string(&mut answer);
            match answer.split(' ').nth(1) {
                Some("200") => Err(answer),
                _ => Ok(()),
            }
        });
    }

    /// A connection to bpm's HTTP.
    #[track_caller]
    pub fn http(&self) -> Http {
        let url = self.descriptor()["url"].as_str().expect("no url");
        Http::to(url)
    }

    /// Calls a JSON-RPC method over HTTP; the whole answer.
    #[track_caller]
    pub fn rpc(&self, method: &str, params: Value) -> Value {
        self.http().rpc(method, params)
    }

    /// Calls a tool over HTTP.
    #[track_caller]
    pub fn call(&self, tool: &str, args: Value) -> Answer {
        self.http().call(tool, args)
    }

    /// The document of `bpm status --json`, which exits with 0.
    #[track_caller]
    pub fn status_json(&self) -> Value {
        serde_json::from_str(&self.cli(["status", "--json"]).exits(0).out).unwrap()
    }

    /// One process in `get_status`.
    #[track_caller]
    pub fn status(&self, process: &str) -> Value {
        let data = self.call("get_status", json!({"process": process})).ok();
        let processes = data["processes"].as_array().unwrap();
        let found = processes.iter().find(|p| p["name"] == process);
        found.expect("the process is in the status").clone()
    }

    /// The status, once `fits` says so of it.
    #[track_caller]
    pub fn status_when(&self, process: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(|| {
            let status = self.status(process);
            if fits(&status) {
                Ok(status)
            } else {
                Err(status)
            }
        })
    }

    /// The pid, once the process is `running`.
    #[track_caller]
    pub fn running(&self, process: &str) -> i32 {
        let status = self.status_when(process, |s| s["state"] == "running");
        status["pid"].as_i64().unwrap() as i32
    }

    /// All lines of the newest run.
    #[track_caller]
    pub fn logs(&self, process: &str) -> Vec<String> {
        self.lines("search_logs", json!({"process": process}))
    }

    /// The lines that `search_logs` or `search_build_log` finds.
    #[track_caller]
    pub fn lines(&self, tool: &str, mut args: Value) -> Vec<String> {
        args["format"] = json!("json");
        args["max_chars"] = json!(50_000);
        let answer = self.call(tool, args);
        assert!(!answer.failed, "{}", answer.text);
        let data = log_data(&answer);
        let lines = data["lines"].as_array().unwrap();
        let text = |l: &Value| l["text"].as_str().unwrap().to_string();
        lines.iter().map(text).collect()
    }

    /// Waits until the newest run has said these lines, and no others.
    #[track_caller]
    pub fn says<S: AsRef<str>>(&self, process: &str, lines: &[S]) {
        eventually(|| {
            let said = self.logs(process);
            if said.iter().eq(lines.iter().map(AsRef::as_ref)) {
                Ok(())
            } else {
                Err(said)
            }
        });
    }

    /// Waits until the newest run has a line that contains `part`, and gives the line.
    #[track_caller]
    pub fn line(&self, process: &str, part: &str) -> String {
        eventually(|| {
            let lines = self.logs(process);
            let found = lines.iter().find(|l| l.contains(part)).cloned();
            found.ok_or(lines)
        })
    }

    /// All processes of this project but bpm itself: pid and command.
    pub fn inhabitants(&self) -> Vec<(i32, String)> {
        let bpm = self.served.as_ref().map(Served::pid);
        let mut found = marked(&self.base);
        found.retain(|(pid, _)| Some(*pid) != bpm);
        found
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if let Some(mut served) = self.served.take() {
            let pid = Pid::from_raw(served.pid());
            let _ = kill(pid, Signal::SIGTERM);
            let begun = Instant::now();
            while served.ended().is_none() {
                if begun.elapsed() > PATIENCE {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let left = marked(&self.base);
        for (pid, _) in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            for name in ["out", "err"] {
                let text = lossy(&self.base.join(name));
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                for line in tail.iter().rev() {
                    eprintln!("bpm {name}: {line}");
                }
            }
        } else {
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// Marks all processes of a project in their environment.
const MARK: &str = "BPM_TEST_HOUSE";

/// Living processes whose environment has the mark of this project.
fn marked(base: &Path) -> Vec<(i32, String)> {
    let mark = format!("{MARK}={}", base.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push((pid, command));
        }
    }
    found
}

/// Is there such a process (a zombie is none)?
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|s| !s.is_empty() && !s.starts_with('Z'))
}

/// Stops a process, and waits until each of its threads has stopped: until it takes the signal, it runs.
#[track_caller]
pub fn freeze(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    eventually(|| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let running = tasks
            .filter_map(|t| fs::read_to_string(t.path().join("stat")).ok())
            .any(|stat| !stat.rsplit(") ").next().unwrap().starts_with('T'));
        if running { Err("it runs") } else { Ok(()) }
    });
}

/// Waits until a process has ended.
#[track_caller]
pub fn gone(pid: i32) {
    eventually(|| if lives(pid) { Err("it lives") } else { Ok(()) });
}

/// Kills one process with KILL.
#[track_caller]
pub fn murder(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // A signal is only noted for a process that runs: until it takes it, it may still accept a connection.
    gone(pid);
}

/// What holds the fake cargo.
pub struct Gate {
    path: PathBuf,
    passed: PathBuf,
}

impl Gate {
    /// Waits until a build is there, and lets it go on. The next one waits again.
    pub fn open(&self) {
        let count = || fs::read(&self.passed).map_or(0, |b| b.len());
        let before = count();
        eventually(|| {
            if self.open_if_waiting() {
                Ok(())
            } else {
                Err("nothing waits at the gate")
            }
        });
        // What the next call writes must not go to the same reader.
        eventually(|| {
            if count() > before {
                Ok(())
            } else {
                Err("it stands at the gate")
            }
        });
    }

    /// Lets the build that is there go on, if there is one; true then.
    pub fn open_if_waiting(&self) -> bool {
        let mut options = fs::File::options();
        // Without a reader a FIFO can't be opened like this.
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        let Ok(mut fifo) = options.open(&self.path) else {
            return false;
        };
        fifo.write_all(b"go\n").unwrap();
        true
    }

    /// From now on nothing waits.
    pub fn remove(self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; None: a signal.
    pub code: Option<i32>,
    /// stdout.
    pub out: String,
    /// stderr.
    pub err: String,
}

impl Ended {
    pub fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails unless it exited with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Fails unless all parts are in stderr.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        self
    }
}

/// A kept-alive connection to an HTTP server. Blocking, and as small as it can be.
pub struct Http {
    stream: BufReader<TcpStream>,
    host: String,
    path: String,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Response {
    /// 200, ...
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

impl Http {
    /// Connects to the host of `http://host:port/path`.
    #[track_caller]
    pub fn to(url: &str) -> Self {
        let rest = url.strip_prefix("http://").expect("http");
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let stream = TcpStream::connect(host).unwrap();
        // Tools answer within 50 s, unless told otherwise.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
            host: host.into(),
            path: format!("/{path}"),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends the call of a tool; its answer is waited for by [`Http::response`].
    pub fn send_call(&mut self, tool: &str, args: Value) {
        let params = json!({"name": tool, "arguments": args});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let body = body.to_string();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.path,
            self.host,
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes());
    }

    /// A request with these headers besides Host and Content-Length.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.send(head.as_bytes());
        self.response()
    }

    /// Reads one answer.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {line:?}"));
        let mut headers = Vec::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            let (name, value) = (name.to_ascii_lowercase(), value.trim().to_string());
            if name == "content-length" {
                length = value.parse().unwrap();
            }
            headers.push((name, value));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Response {
            status,
            headers,
            body: String::from_utf8(body).unwrap(),
        }
    }

    /// A POST of JSON, as curl does it.
    #[track_caller]
    pub fn post(&mut self, body: &str) -> Response {
        let path = self.path.clone();
        self.ask("POST", &path, &[("Content-Type", "application/json")], body)
    }

    /// A JSON-RPC request; the whole answer.
    #[track_caller]
    pub fn rpc(&mut self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.post(&request.to_string()).json()
    }

    /// A tool's answer.
    #[track_caller]
    pub fn call(&mut self, tool: &str, args: Value) -> Answer {
        let answer = self.rpc("tools/call", json!({"name": tool, "arguments": args}));
        let result = &answer["result"];
        assert!(result.is_object(), "{answer}");
        Answer {
            failed: result["isError"] == json!(true),
            text: result["content"][0]["text"]
                .as_str()
                .unwrap_or_default()
                .into(),
            data: result["structuredContent"].clone(),
        }
    }
}

/// The data of a log search with `format = "json"`.
#[track_caller]
pub fn log_data(answer: &Answer) -> Value {
    if answer.data.is_object() {
        return answer.data.clone();
    }
    serde_json::from_str(&answer.text).unwrap_or_else(|e| panic!("{e} in {}", answer.text))
}

/// The binary that is tested: `BPM_BIN` (a static build, say), else the one that cargo just built.
pub fn bpm() -> PathBuf {
    std::env::var_os("BPM_BIN").map_or(env!("CARGO_BIN_EXE_bpm").into(), PathBuf::from)
}

/// Copies an executable by a program of its own: a child that another test forks meanwhile would have a copy of our
/// descriptor, and the file be busy (ETXTBSY, execve(2)).
#[track_caller]
pub fn copied(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// The path of the fixture program, compiled once.
pub fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/fixture.rs");
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixture");
        let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        if age(&binary) > age(&source) {
            return binary;
        }
        // Beside it first: another test may be at it as well.
        let fresh = binary.with_extension(std::process::id().to_string());
        let status = Command::new("rustc")
            .args(["--edition", "2024", "-O", "-C", "strip=symbols"])
            .arg(&source)
            .arg("-o")
            .arg(&fresh)
            .status()
            .unwrap();
        assert!(status.success());
        fs::rename(&fresh, &binary).unwrap();
        binary
    })
}

fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

const FAKE_CARGO: &str = r#"#!/bin/sh
# As much of cargo as bpm asks for.
profile=debug
for arg in "$@"; do
  case $arg in --release | -r) profile=release ;; esac
done
echo "$*" >>cargo-calls
if [ -p gate ]; then read -r _ <gate; echo >>passed; fi
root=$PWD
if [ -e src/broken ]; then
  text=$(cat src/broken)
  printf '%s\n' '{"reason":"compiler-message","package_id":"path+file://'"$root"'#app@0.1.0","manifest_path":"'"$root"'/Cargo.toml","target":{"kind":["bin"],"crate_types":["bin"],"name":"app","src_path":"'"$root"'/src/main.rs","edition":"2024"},"message":{"rendered":"error[E0308]: '"$text"'\n --> src/main.rs:3:5\n","$message_type":"diagnostic","children":[],"code":{"code":"E0308","explanation":""},"level":"error","message":"'"$text"'","spans":[{"byte_end":20,"byte_start":10,"column_end":9,"column_start":5,"expansion":null,"file_name":"src/main.rs","is_primary":true,"label":null,"line_end":3,"line_start":3,"suggested_replacement":null,"suggestion_applicability":null,"text":[]}]}}'
  printf '%s\n' '{"reason":"build-finished","success":false}'
  echo "error: could not compile \`app\` (bin \"app\") due to 1 previous error" >&2
  exit 101
fi
mkdir -p "target/$profile"
cp src/main.sh "target/$profile/app.new" && chmod +x "target/$profile/app.new" && mv "target/$profile/app.new" "target/$profile/app"
echo "   Compiling app v0.1.0 ($root)" >&2
printf '%s\n' '{"reason":"compiler-artifact","package_id":"path+file://'"$root"'#app@0.1.0","manifest_path":"'"$root"'/Cargo.toml","target":{"kind":["bin"],"crate_types":["bin"],"name":"app","src_path":"'"$root"'/src/main.rs","edition":"2024","doc":true,"doctest":false,"test":true},"profile":{"opt_level":"0","debuginfo":2,"debug_assertions":true,"overflow_checks":true,"test":false},"features":[],"filenames":["'"$root/target/$profile/app"'"],"executable":"'"$root/target/$profile/app"'","fresh":false}'
printf '%s\n' '{"reason":"build-finished","success":true}'
echo "    Finished \`$profile\` profile" >&2
"#;

/// A port on which nobody listens at the moment. It is none of those that the kernel gives away, so
/// nobody who connects, or binds to port 0, has it meanwhile.
pub fn free_port() -> u16 {
    const LOWEST: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let given_away =
        fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = given_away
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok());
    let ours = first.unwrap_or(32_768_u32).saturating_sub(LOWEST);
    for _ in 0..ours {
        // Others who try at the same time begin elsewhere.
        let n = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id().wrapping_mul(61) % ours;
        let port = (LOWEST + n % ours) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
