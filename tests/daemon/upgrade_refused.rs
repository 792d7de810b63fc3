//! `bpm upgrade` with programs that can't take over, and where the system refuses something: the daemon serves on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::upgrade::begun;
use crate::common::sandbox::refusing;
use crate::common::{Ended, Project, bpm, copied, eventually, fixture};

const ONE: &str = "[process.a]\ncommand = [\"FIXTURE\", \"rate\", \"200\", \"1000\"]\n";

/// A program that says that it is bpm of that version, reads these states, and answers so when it is to read one
/// (None: it fails).
fn pretender(
    p: &Project,
    name: &str,
    version: &str,
    states: &[u64],
    reads: Option<&str>,
) -> PathBuf {
    let program = p.root.join(name);
    copied(fixture(), &program);
    let image = bpm::os::image::Image::open(&program).unwrap();
    let said =
        json!({"version": version, "states": states, "target": "x", "checksum": image.checksum});
    p.file(&format!("{name}--handshake"), &said.to_string());
    if let Some(reads) = reads {
        p.file(&format!("{name}--resume"), reads);
    }
    program
}

/// The upgrade is refused in one line that says why, and nothing has happened.
fn refused(p: &Project, args: &[&str], program: &Path, why: &str) {
    let pid = p.running("a");
    let mut all = vec!["upgrade", "--binary", program.to_str().unwrap()];
    all.extend(args);
    let ended = p.cli(all).exits(1);
    assert!(ended.err.contains(why), "{program:?}: {}", ended.err);
    assert!(
        ended.err.starts_with("bpm: cannot upgrade shop: "),
        "{}",
        ended.err
    );
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    assert_eq!(p.running("a"), pid);
    let status = p
        .call("get_status", json!({"process": "a", "verbose": true}))
        .ok();
    assert_eq!(status["processes"][0]["restarts"], json!(0), "{status}");
}

/// Lines are read on, and a program that can take over does.
fn goes_on(p: &Project) {
    let count = || p.status("a")["log_lines"].as_u64().unwrap();
    let before = count();
    eventually(|| match count() {
        now if now > before => Ok(()),
        now => Err(now),
    });
    let program = p.other_build("good");
    p.cli(["upgrade", "--binary", program.to_str().unwrap()])
        .exits(0);
}

#[test]
fn upgrade_by_a_program_that_lies_or_fails_is_refused() {
    let mut p = Project::new(ONE);
    p.up();
    let same = env!("CARGO_PKG_VERSION");
    let liar = p.root.join("liar");
    copied(fixture(), &liar);
    p.file(
        "liar--handshake",
        &json!({"version": "9.0.0", "states": [1], "target": "x", "checksum": "0"}).to_string(),
    );
    refused(&p, &[], &liar, "it says that it is another file (checksum)");
    let mute = pretender(&p, "mute", "9.0.0", &[1], None);
    p.file("mute--handshake", "hang");
    refused(&p, &[], &mute, "it does not answer within 2 s");
    let foreign = pretender(&p, "foreign", "9.0.0", &[9], Some("x"));
    let why = format!("bpm 9.0.0 can't read the state of this one ({same})");
    refused(&p, &["--force"], &foreign, &why);
    let old = pretender(&p, "old", "0.0.1", &[1], None);
    refused(&p, &[], &old, "bpm 0.0.1 is older than the daemon");
    // Then it is let read the state.
    refused(&p, &["--force"], &old, "no such option");
    let gone = pretender(&p, "gone", same, &[1], None);
    refused(&p, &[], &gone, "no such option");
    let blind = pretender(&p, "blind", same, &[1], Some("read everything"));
    refused(&p, &[], &blind, "it does not answer as bpm does");
    let slow = pretender(&p, "slow", same, &[1], Some("hang"));
    refused(&p, &[], &slow, "it does not answer within 2 s");
    goes_on(&p);
}

/// A daemon that may not make one system call.
fn up_refusing(p: &mut Project, call: libc::c_long) {
    let mut command = p.command(bpm());
    Ended::new(refusing(command.arg("-d"), call).output().unwrap()).exits(0);
    p.up();
}

#[test]
fn daemon_goes_on_where_the_execve_is_refused() {
    let mut p = Project::new(ONE);
    // What it starts is started by execve(2), not by this.
    up_refusing(&mut p, libc::SYS_execveat);
    let pid = p.pid();
    for name in ["one", "two"] {
        let program = p.other_build(name);
        refused(&p, &[], &program, "operation not permitted");
    }
    assert_eq!(p.pid(), pid);
    // It still reads, reaps and stops.
    p.call("restart", json!({"process": "a"})).ok();
    p.cli(["stop"]).exits(0);
}

#[test]
fn daemon_goes_on_where_there_is_no_memory_for_the_state() {
    let mut p = Project::new(ONE);
    up_refusing(&mut p, libc::SYS_memfd_create);
    let program = p.other_build("one");
    refused(
        &p,
        &[],
        &program,
        "no memory for the state: operation not permitted",
    );
    p.cli(["stop"]).exits(0);
    // A limit on the size of files holds for memory as well.
    let limited = p
        .command("sh")
        .args(["-c", "ulimit -f 2; exec \"$0\" -d"])
        .arg(bpm())
        .output();
    Ended::new(limited.unwrap()).exits(0);
    p.up();
    refused(&p, &[], &program, "no memory for the state: file too large");
    p.cli(["stop"]).exits(0);
}

/// Where users may make namespaces of their own.
fn has_namespaces() -> bool {
    let tried = Command::new("unshare").args(["-rm", "true"]).output();
    tried.is_ok_and(|out| out.status.success())
}

#[test]
fn upgrade_without_proc_is_refused() {
    if !has_namespaces() {
        return;
    }
    let mut p = Project::new(ONE);
    let mut command = p.command("unshare");
    command.args(["-m", "--propagation", "private"]);
    let root = nix::unistd::geteuid().is_root();
    if !root {
        command.arg("-r");
    }
    Ended::new(command.arg(bpm()).arg("-d").output().unwrap()).exits(0);
    p.up();
    let inside = |script: &str| {
        let mut command = Command::new("nsenter");
        command.args(["-t", &p.pid().to_string(), "-m"]);
        if !root {
            command.args(["-U", "--preserve-credentials"]);
        }
        let done = command.args(["sh", "-c", script]).output().unwrap();
        Ended::new(done).exits(0);
    };
    inside("mount -t tmpfs none /proc");
    let program = p.other_build("one");
    refused(
        &p,
        &[],
        &program,
        "/proc/self/exe: no such file or directory",
    );
    inside("umount /proc");
    goes_on(&p);
}

/// A program that is judged, and waits until a build is done.
fn held_up(p: &mut Project, program: &Path) -> std::process::Child {
    p.up();
    eventually(|| match p.read("builds").as_str() {
        "" => Err("no build"),
        _ => Ok(()),
    });
    let mut upgrade = begun(p, &["upgrade", "--binary", program.to_str().unwrap()]);
    let mut said = String::new();
    let mut stderr = std::io::BufReader::new(upgrade.stderr.as_mut().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut said).unwrap();
    assert!(said.contains("waiting for the build of a"), "{said}");
    // The thread that reads it has opened it, and is done.
    let all = |of: &str| fs::read_dir(format!("/proc/{}/{of}", p.pid())).unwrap();
    let is_open = || {
        let mut links = all("fd").filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        links.any(|link| link == program)
    };
    let is_read = || {
        let names = all("task").map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
        !names.flatten().any(|name| name.trim() == "judge")
    };
    eventually(|| match is_open() && is_read() {
        true => Ok(()),
        false => Err("not judged"),
    });
    upgrade
}

const BUILT: &str = "[process.a]\ncommand = [\"sleep\", \"1000\"]\n\
     build = \"echo built >> builds; while ! test -e open; do sleep 0.05; done\"\n";

#[test]
fn program_that_was_judged_is_executed_whatever_its_path_names_by_then() {
    let mut p = Project::new(BUILT);
    let program = p.other_build("one");
    let kept = p.root.join("kept");
    copied(&program, &kept);
    let upgrade = held_up(&mut p, &program);
    let pid = p.pid();
    fs::rename(p.other_build("two"), &program).unwrap();
    p.file("open", "");
    let done = upgrade.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(p.pid(), pid);
    let same = p
        .cli(["upgrade", "--binary", kept.to_str().unwrap()])
        .exits(0);
    assert!(same.out.contains("nothing to do"), "{}", same.out);
}

#[test]
fn program_that_is_written_to_after_it_was_judged_is_not_executed() {
    let mut p = Project::new(BUILT);
    let program = p.other_build("one");
    let upgrade = held_up(&mut p, &program);
    // While it is asked what it is, it is busy (ETXTBSY).
    eventually(|| {
        let script = "printf x >> \"$0\"";
        let write = Command::new("sh")
            .args(["-c", script])
            .arg(&program)
            .output()
            .unwrap();
        match write.status.success() {
            true => Ok(()),
            false => Err(write),
        }
    });
    p.file("open", "");
    let done = upgrade.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let why = String::from_utf8(done.stderr).unwrap();
    let whys = [
        "it was changed meanwhile",
        "it says that it is another file",
    ];
    assert!(whys.iter().any(|known| why.contains(known)), "{why}");
    p.running("a");
}

#[test]
fn upgrade_during_a_reload_or_a_stop_is_refused() {
    let gated = |n: u32| {
        format!(
            "[process.a]\ncommand = [\"sh\", \"-c\", \"trap 'while ! test -e end; do sleep 0.05; done; exit' TERM; echo {n}; while :; do sleep 0.05; done\"]\n\
             stop_timeout_seconds = 100\nready = {{ command = [\"test\", \"-e\", \"open\"], interval_seconds = 0.05, timeout_seconds = 100 }}\n"
        )
    };
    let mut p = Project::new(&gated(1));
    p.file("open", "");
    p.up();
    p.running("a");
    p.config(&gated(2));
    let reload = begun(&p, &["reload"]);
    let program = p.other_build("one");
    let tried = || {
        let args = ["upgrade", "--binary", program.to_str().unwrap()];
        let ended = p.cli(args);
        let busy = ["a reload is under way", "bpm is stopping"];
        busy.iter()
            .any(|why| ended.err.contains(why))
            .then_some(ended)
    };
    p.status_when("a", |s| s["state"] == "stopping");
    let ended = tried().expect("a reload is under way").exits(1);
    assert!(ended.err.contains("a reload is under way"), "{}", ended.err);
    p.file("end", "");
    let done = reload.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    p.remove("end");
    p.running("a");
    let stop = begun(&p, &["stop"]);
    p.stopping();
    let ended = p
        .cli(["upgrade", "--binary", program.to_str().unwrap()])
        .exits(1);
    assert!(ended.err.contains("bpm is stopping"), "{}", ended.err);
    p.file("end", "");
    assert!(stop.wait_with_output().unwrap().status.success());
}
