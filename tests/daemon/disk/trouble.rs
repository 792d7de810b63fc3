//! A disk that is full, gone, or not to be written: processes and the daemon go on, it is
//! said, and it ends by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::files::{folder, segments};
use crate::common::{Project, eventually, lives, murder};

/// A file system of its own on a folder, until it is dropped. None: only root can have one.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(folder: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let own = Self(folder.into());
        let mounted = geteuid().is_root() && own.mount(&["-t", "tmpfs", "-o", options, "tmpfs"]);
        if !mounted {
            eprintln!("skipped: no file system can be mounted here");
            std::mem::forget(own);
            return None;
        }
        Some(own)
    }

    fn mount(&self, args: &[&str]) -> bool {
        let done = Command::new("mount").args(args).arg(&self.0).output();
        done.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It may be in use for a moment still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A line a tick.
const TICK: &str = "[process.p]\ncommand = [\"FIXTURE\", \"tick\", \"20\"]\nautostart = false\n";

/// A daemon that serves, whose process has not run yet, and the folder that its log will have.
fn ready(config: &str) -> (Project, PathBuf) {
    let mut project = Project::new(config);
    project.up();
    let folder = folder(&project, "p");
    (project, folder)
}

fn trouble(project: &Project) -> Value {
    project.status("p")["log_trouble"].clone()
}

/// Waits until trouble is told, and checks that everybody tells it.
fn told(project: &Project, why: &str) -> u64 {
    let said = eventually(|| {
        let said = trouble(project);
        if said.is_string() {
            Ok(said)
        } else {
            Err(project.status("p"))
        }
    });
    let said = said.as_str().unwrap();
    assert!(
        said.starts_with("cannot write ") && said.contains(why),
        "{said}"
    );
    let shown = project.cli(["status"]).exits(0).out;
    assert!(shown.contains(why), "{shown}");
    let words = project.call("get_status", json!({})).text();
    assert!(words.contains(why), "{words}");
    eventually(|| {
        if said_in_log(project) == (1, 0) {
            Ok(())
        } else {
            Err(said_in_log(project))
        }
    });
    // The process goes on, and so do its lines.
    printed(project, newest(project) + 1);
    assert_eq!(project.status("p")["crashes"], 0);
    newest(project)
}

/// The number of the newest line.
fn newest(project: &Project) -> u64 {
    let found = super::files::search(project, "p", json!({"tail": 1}));
    found["next"].as_u64().unwrap()
}

/// Waits for the line of this number.
fn printed(project: &Project, seq: u64) {
    eventually(|| match newest(project) {
        now if now >= seq => Ok(()),
        now => Err(format!("{now} of {seq}")),
    });
}

/// Waits until it is over, and the newest lines are in a file.
fn over(project: &Project, folder: &Path) {
    eventually(|| match trouble(project) {
        Value::Null => Ok(()),
        still => Err(still),
    });
    eventually(|| {
        if said_in_log(project) == (1, 1) {
            Ok(())
        } else {
            Err(said_in_log(project))
        }
    });
    on_disk(project, folder);
    project.running("p");
    assert_eq!(project.status("p")["crashes"], 0);
}

/// Waits until a line that is newer than this call is in a file.
fn on_disk(project: &Project, folder: &Path) {
    let found = super::files::search(project, "p", json!({"tail": 1}));
    let after = found["lines"][0]["text"].as_str().unwrap().to_string();
    eventually(|| {
        let files = fs::read_dir(folder).map_err(|e| e.to_string())?;
        let texts: Vec<String> = files
            .flatten()
            .filter(|f| f.path().extension().is_some_and(|e| e == "log"))
            .map(|f| String::from_utf8_lossy(&fs::read(f.path()).unwrap_or_default()).into_owned())
            .collect();
        let newer = |line: &str| line.parse().ok() > after.parse::<u64>().ok();
        if texts.iter().any(|t| t.lines().any(newer)) {
            Ok(())
        } else {
            Err(format!("{texts:?} {}", project.status("p")))
        }
    });
}

/// How often the daemon's log says that it began, and that it is over.
fn said_in_log(project: &Project) -> (usize, usize) {
    let path = project.state_folder().unwrap().join("daemon.log");
    let log = fs::read_to_string(path).unwrap();
    let count = |parts: [&str; 2]| {
        let both = |line: &&str| parts.iter().all(|part| line.contains(part));
        log.lines().filter(both).count()
    };
    (
        count(["[WARN] supervisor: p: cannot write ", "in memory only"]),
        count(["[INFO] supervisor: p: ", "written to disk again"]),
    )
}

#[test]
fn a_full_disk_stops_nobody() {
    let (project, folder) = ready(
        "log_disk = \"64M\"\n[process.p]\ncommand = \"FIXTURE flood 3000000; exec FIXTURE tick 20\"\nautostart = false\n",
    );
    let Some(mount) = Mount::new(&folder, "size=1m,mode=700") else {
        return;
    };
    project.call("start", json!({"process": "p"})).ok();
    let seq = told(&project, "no space left on device");
    // It is not over by what a failed write gave back, however long the process prints on.
    printed(&project, seq + 120);
    assert_eq!(said_in_log(&project), (1, 0));
    // What could be written is there, from the begin and without a gap.
    let kept: Vec<u8> = segments(&project, "p", "")
        .iter()
        .flat_map(|s| s.bytes())
        .collect();
    assert!(kept.len() > 100_000, "{}", kept.len());
    assert!(mount.mount(&["-o", "remount,size=64m"]));
    over(&project, &folder);
    // What was not written is known to be missing, not made up.
    let found = super::files::search(&project, "p", json!({"tail": 1}));
    assert!(
        found["matches"].as_u64().unwrap() <= 25_000 + 10_000,
        "{found}"
    );
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_disk_that_is_read_only_stops_nobody() {
    let (project, folder) = ready(TICK);
    let Some(mount) = Mount::new(&folder, "ro,mode=700") else {
        return;
    };
    project.call("start", json!({"process": "p"})).ok();
    told(&project, "read-only file system");
    drop(mount);
    over(&project, &folder);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_file_in_the_place_of_the_folder_stops_nobody() {
    let (project, folder) = ready(TICK);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::write(&folder, "in the way").unwrap();
    project.call("start", json!({"process": "p"})).ok();
    told(&project, "cannot write");
    fs::remove_file(&folder).unwrap();
    over(&project, &folder);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_folder_that_is_removed_is_made_again() {
    let (project, folder) = ready(TICK);
    project.call("start", json!({"process": "p"})).ok();
    on_disk(&project, &folder);
    let logs = folder.parent().unwrap();
    for gone in [folder.as_path(), logs] {
        fs::remove_dir_all(gone).unwrap();
        on_disk(&project, &folder);
        assert_eq!(super::files::mode(&folder), 0o700);
    }
    // Nothing that bpm still has is missing from what it shows.
    let shown = project.logs("p");
    assert!(
        shown
            .windows(2)
            .all(|w| w[0].parse::<u64>().unwrap() < w[1].parse().unwrap())
    );
    project.running("p");
    project.cli(["stop"]).exits(0);
}

#[test]
fn files_that_somebody_changes_are_left_to_them() {
    let (project, folder) = ready(TICK);
    project.call("start", json!({"process": "p"})).ok();
    let newest = || segments(&project, "p", "").pop().unwrap();
    for change in [
        |path: &Path| {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(0)
                .unwrap()
        },
        |path: &Path| {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(7)
                .unwrap()
        },
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| {
            fs::write(
                path,
                "something else altogether, and longer than it was: ".repeat(500),
            )
            .unwrap()
        },
    ] {
        on_disk(&project, &folder);
        let before = newest();
        change(&before.log);
        on_disk(&project, &folder);
        // What comes later is in a file of its own.
        let after = newest();
        assert!(
            after.number > before.number || !before.log.exists(),
            "{after:?}"
        );
        project.running("p");
    }
    for change in [
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(0)
                .unwrap()
        },
        |path: &Path| fs::write(path, "no index").unwrap(),
    ] {
        on_disk(&project, &folder);
        change(&newest().index());
        on_disk(&project, &folder);
        // Another segment, with an index of its own.
        fs::remove_file(newest().log).unwrap();
        on_disk(&project, &folder);
        project.running("p");
    }
    assert!(project.status("p")["log_trouble"].is_null());
    // The next daemon makes of it what it can.
    project.cli(["stop"]).exits(0);
    let shown = project.cli(["logs", "p", "-n", "10000"]).exits(0);
    assert!(shown.err.is_empty() && !shown.out.is_empty(), "{shown:?}");
}

#[test]
fn a_limit_on_the_size_of_files_stops_nobody() {
    let project = Project::new(
        "[process.p]\ncommand = \"head -c 65536 /dev/zero | tr '\\\\0' x; read x <gate; echo >>passed; exec FIXTURE tick 20\"\n",
    );
    let gate = project.gate();
    // 64 KiB: the next byte is one too many, for which the kernel has a signal (SIGXFSZ).
    let script = format!("ulimit -f 64; exec {} -d", crate::common::bpm().display());
    let started = project
        .command("bash")
        .args(["-c", &script])
        .status()
        .unwrap();
    assert!(started.success());
    let status = || project.status_json()["processes"][0].clone();
    eventually(|| {
        let files = segments(&project, "p", "");
        let sizes: Vec<usize> = files.iter().map(|s| s.bytes().len()).collect();
        if sizes == [65_536] {
            Ok(())
        } else {
            Err(sizes)
        }
    });
    gate.open();
    // What comes then is in a file of its own.
    let folder = folder(&project, "p");
    eventually(|| {
        let next = fs::read_to_string(folder.join("000001-01.log")).unwrap_or_default();
        if next.lines().count() > 3 {
            Ok(())
        } else {
            Err((next, status()))
        }
    });
    assert_eq!(
        (&status()["crashes"], &status()["log_trouble"]),
        (&json!(0), &Value::Null)
    );
    project.cli(["stop"]).exits(0);
}

/// Fills a file system to the last byte.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("full");
    let block = vec![0; 4096];
    let mut file = fs::File::create(&path).unwrap();
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    path
}

/// The processes of the project that are a `sleep`.
fn sleeping(project: &Project) -> Vec<i32> {
    let all = project.inhabitants().into_iter();
    all.filter(|(_, command)| command.starts_with("sleep "))
        .map(|(pid, _)| pid)
        .collect()
}

#[test]
fn start_on_a_full_disk_serves_and_says_so() {
    let project = Project::new("[process.p]\ncommand = \"echo said; exec sleep 1000\"\n");
    let Some(_mount) = Mount::new(&project.home(), "size=64k,mode=700") else {
        return;
    };
    let room = fill(&project.home());
    project.cli(["-d"]).exits(0);
    let status = eventually(|| match project.status_json() {
        s if s["processes"][0]["state"] == "running" && s["warnings"][1].is_string() => Ok(s),
        s => Err(s),
    });
    for (at, file) in ["daemon.json", "state.json"].iter().enumerate() {
        let text = status["warnings"][at].as_str().unwrap();
        assert!(
            text.contains(file) && text.contains("no space left"),
            "{text}"
        );
    }
    let shown = project.cli(["status"]).exits(0).out;
    assert!(
        shown.contains("daemon.json\": no space left on device"),
        "{shown}"
    );
    let lines = || project.cli(["logs", "p"]).out;
    eventually(|| lines().contains("said").then_some(()).ok_or_else(lines));
    // Killed, it leaves a process, which the next start on the full disk ends.
    let run = |status: &Value| status["processes"][0]["pid"].as_i64().unwrap() as i32;
    murder(status["daemon"]["pid"].as_i64().unwrap() as i32);
    project.cli(["-d"]).exits(0);
    let again = eventually(|| match project.status_json() {
        s if s["processes"][0]["state"] == "running" => Ok(s),
        s => Err(s),
    });
    assert_eq!(sleeping(&project), [run(&again)], "not {}", run(&status));
    // daemon.json is still that of the one that was killed.
    let pid = again["daemon"]["pid"].as_i64().unwrap().to_string();
    let listed = project.cli(["ps"]).exits(0).out;
    assert!(listed.contains(&pid), "{listed}, not {pid}");
    // The state that an upgrade hands over is in memory.
    let next = project.other_build("next");
    let next = next.to_str().unwrap();
    let upgraded = project.cli(["upgrade", "--binary", next]).exits(0).out;
    assert!(upgraded.contains(&pid), "{upgraded}, not {pid}");
    // It says so from its first answer on.
    let warned = project.status_json()["warnings"].clone();
    assert!(warned[1].is_string(), "{warned}");
    assert_eq!(sleeping(&project), [run(&again)]);
    // There is room again: what could not be written is written now.
    fs::remove_file(room).unwrap();
    eventually(|| match project.status_json() {
        s if s["warnings"] == json!([]) => Ok(()),
        s => Err(s),
    });
    let folder = project.state_folder().unwrap();
    assert!(folder.join("daemon.json").exists() && folder.join("state.json").exists());
    project.cli(["stop"]).exits(0);
    // There is no room for the note that it was stopped on purpose: it is stopped all the same.
    fs::remove_file(folder.join("state.json")).unwrap();
    let room = fill(&project.home());
    for _ in 0..2 {
        project.cli(["-d"]).exits(0);
        project.cli(["stop"]).exits(0);
        assert_eq!(sleeping(&project), [0; 0]);
    }
    fs::remove_file(room).unwrap();
}

#[test]
fn daemon_whose_files_are_hidden_is_named_and_ended() {
    let project = Project::new(
        "heartbeat_minutes = 0.01\nrelease_crash_backoff_initial_seconds = 0\n\
         [process.p]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    for stop in [&["stop"][..], &["stop", "--force"], &["-d", "--replace"]] {
        project.cli(["up"]).exits(0);
        let pid = || -> Option<i32> {
            let path = project.state_folder()?.join("daemon.json");
            let descriptor: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            Some(descriptor["pid"].as_i64()? as i32)
        };
        let daemon = pid().unwrap();
        let run = sleeping(&project)[0];
        let replace = stop[0] == "-d";
        let options = if replace {
            "size=1M,mode=700"
        } else {
            "size=1M,mode=700,ro"
        };
        let Some(mount) = Mount::new(&project.home(), options) else {
            project.cli(["stop"]).exits(0);
            return;
        };
        let said = format!("pid {daemon}");
        // One that may write makes its files again, by and by.
        if !replace {
            assert!(project.cli(["status"]).exits(1).out.contains(&said));
            project
                .cli(["restart", "p"])
                .exits(1)
                .says(&[&said, "its files are gone"]);
            let ps = project.cli(["ps"]).exits(0).out;
            assert!(ps.contains(&daemon.to_string()), "{ps}");
            project.cli(["up"]).exits(1);
            assert!(lives(run), "nobody ends its processes behind its back");
        }
        let ended = project.cli(stop).exits(0);
        if !replace {
            ended.says(&[&said, "its files are gone"]);
        }
        assert!(!lives(daemon) && !lives(run));
        project.cli(["stop"]).exits(0);
        drop(mount);
        project.cli(["stop"]).exits(0);
    }
}
