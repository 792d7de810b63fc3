//! A disk that is full, gone, or not to be written: processes and the daemon go on, it is
//! said, and it ends by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::common::{House, eventually};
use crate::files::{folder, segments};

/// A file system of its own on a folder, until it is dropped. None: only root can have one.
struct Mount(PathBuf);

impl Mount {
    fn new(folder: &Path, options: &str) -> Option<Self> {
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
fn ready(config: &str) -> (House, PathBuf) {
    let mut house = House::new(config);
    house.up();
    let folder = folder(&house, "p");
    (house, folder)
}

fn trouble(house: &House) -> Value {
    house.status("p")["log_trouble"].clone()
}

/// Waits until trouble is told, and checks that everybody tells it.
fn told(house: &House, why: &str) -> u64 {
    let said = eventually(|| {
        let said = trouble(house);
        if said.is_string() {
            Ok(said)
        } else {
            Err(house.status("p"))
        }
    });
    let said = said.as_str().unwrap();
    assert!(
        said.starts_with("cannot write ") && said.contains(why),
        "{said}"
    );
    let shown = house.cli(["status"]).exits(0).out;
    assert!(shown.contains(why), "{shown}");
    let words = house.call("get_status", json!({})).text();
    assert!(words.contains(why), "{words}");
    eventually(|| {
        if said_in_log(house) == (1, 0) {
            Ok(())
        } else {
            Err(said_in_log(house))
        }
    });
    // The process goes on, and so do its lines.
    printed(house, newest(house) + 1);
    assert_eq!(house.status("p")["crashes"], 0);
    newest(house)
}

/// The number of the newest line.
fn newest(house: &House) -> u64 {
    let found = crate::files::search(house, "p", json!({"tail": 1}));
    found["next"].as_u64().unwrap()
}

/// Waits for the line of this number.
fn printed(house: &House, seq: u64) {
    eventually(|| match newest(house) {
        now if now >= seq => Ok(()),
        now => Err(format!("{now} of {seq}")),
    });
}

/// Waits until it is over, and the newest lines are in a file.
fn over(house: &House, folder: &Path) {
    eventually(|| match trouble(house) {
        Value::Null => Ok(()),
        still => Err(still),
    });
    eventually(|| {
        if said_in_log(house) == (1, 1) {
            Ok(())
        } else {
            Err(said_in_log(house))
        }
    });
    on_disk(house, folder);
    house.running("p");
    assert_eq!(house.status("p")["crashes"], 0);
}

/// Waits until a line that is newer than this call is in a file.
fn on_disk(house: &House, folder: &Path) {
    let found = crate::files::search(house, "p", json!({"tail": 1}));
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
            Err(format!("{texts:?} {}", house.status("p")))
        }
    });
}

/// How often the daemon's log says that it began, and that it is over.
fn said_in_log(house: &House) -> (usize, usize) {
    let path = house.state_folder().unwrap().join("daemon.log");
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
    let (house, folder) = ready(
        "log_disk = \"64M\"\n[process.p]\ncommand = \"FIXTURE flood 3000000; exec FIXTURE tick 20\"\nautostart = false\n",
    );
    let Some(mount) = Mount::new(&folder, "size=1m,mode=700") else {
        return;
    };
    house.call("start", json!({"process": "p"})).ok();
    let seq = told(&house, "no space left on device");
    // It is not over by what a failed write gave back, however long the process prints on.
    printed(&house, seq + 120);
    assert_eq!(said_in_log(&house), (1, 0));
    // What could be written is there, from the begin and without a gap.
    let kept: Vec<u8> = segments(&house, "p", "")
        .iter()
        .flat_map(|s| s.bytes())
        .collect();
    assert!(kept.len() > 100_000, "{}", kept.len());
    assert!(mount.mount(&["-o", "remount,size=64m"]));
    over(&house, &folder);
    // What was not written is known to be missing, not made up.
    let found = crate::files::search(&house, "p", json!({"tail": 1}));
    assert!(
        found["matches"].as_u64().unwrap() <= 25_000 + 10_000,
        "{found}"
    );
    house.cli(["stop"]).exits(0);
}

#[test]
fn a_disk_that_is_read_only_stops_nobody() {
    let (house, folder) = ready(TICK);
    let Some(mount) = Mount::new(&folder, "ro,mode=700") else {
        return;
    };
    house.call("start", json!({"process": "p"})).ok();
    told(&house, "read-only file system");
    drop(mount);
    over(&house, &folder);
    house.cli(["stop"]).exits(0);
}

#[test]
fn a_file_in_the_place_of_the_folder_stops_nobody() {
    let (house, folder) = ready(TICK);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::write(&folder, "in the way").unwrap();
    house.call("start", json!({"process": "p"})).ok();
    told(&house, "cannot write");
    fs::remove_file(&folder).unwrap();
    over(&house, &folder);
    house.cli(["stop"]).exits(0);
}

#[test]
fn a_folder_that_is_removed_is_made_again() {
    let (house, folder) = ready(TICK);
    house.call("start", json!({"process": "p"})).ok();
    on_disk(&house, &folder);
    let logs = folder.parent().unwrap();
    for gone in [folder.as_path(), logs] {
        fs::remove_dir_all(gone).unwrap();
        on_disk(&house, &folder);
        assert_eq!(crate::files::mode(&folder), 0o700);
    }
    // Nothing that bpm still has is missing from what it shows.
    let shown = house.logs("p");
    assert!(
        shown
            .windows(2)
            .all(|w| w[0].parse::<u64>().unwrap() < w[1].parse().unwrap())
    );
    house.running("p");
    house.cli(["stop"]).exits(0);
}

#[test]
fn files_that_somebody_changes_are_left_to_them() {
    let (house, folder) = ready(TICK);
    house.call("start", json!({"process": "p"})).ok();
    let newest = || segments(&house, "p", "").pop().unwrap();
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
        on_disk(&house, &folder);
        let before = newest();
        change(&before.log);
        on_disk(&house, &folder);
        // What comes later is in a file of its own.
        let after = newest();
        assert!(
            after.number > before.number || !before.log.exists(),
            "{after:?}"
        );
        house.running("p");
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
        on_disk(&house, &folder);
        change(&newest().index());
        on_disk(&house, &folder);
        // Another segment, with an index of its own.
        fs::remove_file(newest().log).unwrap();
        on_disk(&house, &folder);
        house.running("p");
    }
    assert!(house.status("p")["log_trouble"].is_null());
    // The next daemon makes of it what it can.
    house.cli(["stop"]).exits(0);
    let shown = house.cli(["logs", "p", "-n", "10000"]).exits(0);
    assert!(shown.err.is_empty() && !shown.out.is_empty(), "{shown:?}");
}

#[test]
fn a_limit_on_the_size_of_files_stops_nobody() {
    let house = House::new(
        "[process.p]\ncommand = \"head -c 65536 /dev/zero | tr '\\\\0' x; read x <gate; echo >>passed; exec FIXTURE tick 20\"\n",
    );
    let gate = house.gate();
    // 64 KiB: the next byte is one too many, for which the kernel has a signal (SIGXFSZ).
    let script = format!("ulimit -f 64; exec {} -d", crate::common::bpm().display());
    let started = house
        .command("bash")
        .args(["-c", &script])
        .status()
        .unwrap();
    assert!(started.success());
    let status = || -> Value {
        let out = house.cli(["status", "--json"]).exits(0).out;
        serde_json::from_str::<Value>(&out).unwrap()["processes"][0].clone()
    };
    eventually(|| {
        let files = segments(&house, "p", "");
        let sizes: Vec<usize> = files.iter().map(|s| s.bytes().len()).collect();
        if sizes == [65_536] {
            Ok(())
        } else {
            Err(sizes)
        }
    });
    gate.open();
    // What comes then is in a file of its own.
    let folder = folder(&house, "p");
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
    house.cli(["stop"]).exits(0);
}
