#![allow(clippy::disallowed_methods)]

use std::io::{PipeWriter, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::base::clock::Wall;
use crate::build::BuildError;
use crate::build::{Exec, Wanted};
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
struct Builds {
    reporter: Sender<(u64, Report)>,
    reports: Receiver<(u64, Report)>,
    log: Arc<Log>,
    dir: Folder,
    binary: Option<Wanted>,
    keep: Vec<PathBuf>,
}

impl Builds {
    fn new(name: &str) -> Self {
        let (reporter, reports) = channel();
        let limits = Limits {
            lines: 10_000,
            bytes: 8 << 20,
            runs: 10,
            disk: 0,
        };
        Self {
            reporter,
            reports,
            log: Log::new(limits, 1, 1),
            dir: Folder::new(name),
            binary: Some(Wanted::default()),
            keep: Vec::new(),
        }
    }

    fn start(&self, id: u64, stdout: OwnedFd, stderr: OwnedFd) -> Builder {
        let cwd = self.dir.0.clone();
        let reporter = self.reporter.clone();
        Builder::start(BuildJob {
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
            root: cwd.clone(),
            stdout,
            stderr,
            place: CopyPlace::Ours(cwd.join("bin")),
            keep: self.keep.clone(),
            report: Box::new(move |report| reporter.send((id, report)).unwrap()),
        })
        .unwrap()
    }

    /// A build whose output the test writes.
    fn pipes(&self, id: u64) -> (Builder, PipeWriter, PipeWriter) {
        let (stdout, out) = pipe().unwrap();
        let (stderr, err) = pipe().unwrap();
        (self.start(id, stdout.into(), stderr.into()), out, err)
    }

    fn report(&self) -> (u64, Report) {
        self.reports.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn outcome(&self) -> (u64, BuildOutcome) {
        loop {
            if let (id, Report::Ended(outcome)) = self.report() {
                return (id, outcome);
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
    let mut builds = Builds::new("crate");
    let root = builds.dir.0.clone();
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

    builds.main_rs(&says(1));
    let first = builds.cargo(1).result.unwrap();
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
        builds
            .log(1)
            .iter()
            .any(|l| l.contains("Compiling app v0.1.0"))
    );

    builds.main_rs("fn main() {\n    let x: u32 = \"a\";\n}\n");
    let broken = builds.cargo(2);
    assert_eq!(broken.result, Err("exit code 101".into()));
    assert_eq!(
        broken.errors.list,
        [BuildError {
            file: Some("src/main.rs".into()),
            line: Some(2),
            column: Some(18),
            message: "E0308: mismatched types".into(),
        }]
    );
    let log = builds.log(2);
    assert!(
        log.iter().any(|l| l == "error[E0308]: mismatched types"),
        "{log:?}"
    );
    assert!(!log.iter().any(|l| l.contains("\"reason\"")), "{log:?}");
    assert!(exe.exists());

    // The same sources again are the same binary: nothing is copied.
    builds.main_rs(&says(1));
    assert_eq!(builds.cargo(3).result.unwrap().exe, Some(exe.clone()));

    builds.keep = vec![exe.clone()];
    builds.main_rs(&says(2));
    let second = builds.cargo(4).result.unwrap().exe.unwrap();
    assert_eq!(second, root.join("bin/2/app"));
    assert!(exe.exists(), "what runs is kept");

    builds.keep = vec![second.clone()];
    builds.main_rs(&says(3));
    let last = builds.cargo(5).result.unwrap().exe.unwrap();
    let kept: Vec<u64> = stored(&root.join("bin"))
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(kept, [3, 2]);
    let output = Command::new(&last).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 3\n"));

    fs::write(root.join("Cargo.toml"), "[package]\nnome = \"app\"\n").unwrap();
    let broken = builds.cargo(7);
    assert!(
        broken.errors.list[0]
            .message
            .starts_with("failed to parse manifest"),
        "{broken:?}"
    );
}

#[test]
fn somebody_who_holds_the_pipe_delays_nothing() {
    let mut builds = Builds::new("held");
    builds.binary = None;
    let outcome = builds.sh(1, "sleep 600 & echo $! > pid; echo done");
    assert_eq!(outcome.result, Ok(Artifact::default()));
    assert_eq!(builds.log(1), ["done"]);
    let pid = fs::read_to_string(builds.dir.0.join("pid")).unwrap();
    let alive = Command::new("kill").arg(pid.trim()).status().unwrap();
    assert!(alive.success(), "it was left alone");
}

#[test]
fn a_build_of_another_kind_tells_its_errors_too() {
    let mut builds = Builds::new("other");
    builds.binary = None;
    let outcome = builds.sh(
        1,
        "echo 'src/x.ts(3,5): error TS2322: no.'; printf 'half' >&2; exit 2",
    );
    assert_eq!(outcome.result, Err("exit code 2".into()));
    assert_eq!(outcome.errors.list[0].file.as_deref(), Some("src/x.ts"));
    assert_eq!(outcome.errors.list[0].message, "TS2322: no.");
    builds.log.append(1, Stream::Stderr, b"\n");
    assert!(builds.log(1).contains(&"half".to_string()));
}

#[test]
fn phases_are_told_when_they_change() {
    let builds = Builds::new("phases");
    let (builder, out, mut err) = builds.pipes(9);
    let mut told = |line: &str| {
        err.write_all(line.as_bytes()).unwrap();
        match builds.report() {
            (9, Report::Phase(phase)) => phase,
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
    assert_eq!(builds.outcome().1.result, Err("exit code 1".into()));
}

#[test]
fn messages_come_in_pieces_and_beside_other_words() {
    let builds = Builds::new("pieces");
    fs::write(builds.dir.0.join("app"), "not much of a program").unwrap();
    let (builder, mut out, err) = builds.pipes(1);
    let exe = builds.dir.0.join("app");
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
    let artifact = builds.outcome().1.result.unwrap();
    assert_eq!(artifact.argv0.as_deref(), Some("./app"));
    builds.log.append(1, Stream::Stdout, b"\n");
    assert_eq!(
        builds.log(1),
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
    let builds = Builds::new("nocopy");
    let (builder, mut out, _err) = builds.pipes(1);
    let line = "{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bin\"],\"name\":\"app\"},\"executable\":\"/nonexistent/app\"}";
    out.write_all(line.as_bytes()).unwrap();
    builder.exited(Ok(()));
    let words = builds.outcome().1.result.unwrap_err();
    assert!(
        words.starts_with("cannot copy /nonexistent/app to "),
        "{words}"
    );
    assert!(words.ends_with(": no such file or directory"), "{words}");
    assert!(stored(&builds.dir.0.join("bin")).is_empty());
}

#[test]
fn a_handle_that_is_dropped_ends_its_thread() {
    let builds = Builds::new("dropped");
    let (builder, _out, _err) = builds.pipes(1);
    drop(builder);
    assert_eq!(builds.outcome().1.result, Err("cancelled".into()));
}

#[test]
fn who_floods_the_pipe_after_the_end_is_cut_off() {
    let mut builds = Builds::new("flood");
    builds.binary = None;
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = yes.stdout.take().unwrap().into();
    let (stderr, _err) = pipe().unwrap();
    let builder = builds.start(1, stdout, stderr.into());
    builder.exited(Ok(()));
    assert_eq!(builds.outcome().1.result, Ok(Artifact::default()));
    // Its pipe is gone.
    assert!(!yes.wait().unwrap().success());
}
