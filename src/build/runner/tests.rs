#![allow(clippy::disallowed_methods)]

use std::io::{PipeWriter, Write, pipe};
use std::process::{Command, Stdio};

use super::*;
use crate::base::clock::Wall;
use crate::build::BuildError;
use crate::build::{Exec, Wanted};
use crate::engine::handle::{self, Identity};
use crate::engine::snapshot::{Snapshot, SnapshotCell};
use crate::log::store::Limits;
use crate::os::inbox::Inbox;

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
    commands: Arc<Inbox<handle::Command>>,
    log: Arc<Log>,
    dir: Folder,
    binary: Option<Wanted>,
    keep: Vec<PathBuf>,
}

impl House {
    fn new(name: &str) -> Self {
        let snapshot = SnapshotCell::new(Snapshot::new(name.into(), "/".into()));
        let (handle, commands) = Handle::new(snapshot, Identity::nobody()).unwrap();
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
            root: cwd.clone(),
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
        broken.errors.list,
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
        broken.errors.list[0]
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
    assert_eq!(outcome.errors.list[0].file.as_deref(), Some("src/x.ts"));
    assert_eq!(outcome.errors.list[0].message, "TS2322: no.");
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
