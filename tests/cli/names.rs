//! Names that others choose: a folder that has another's hash, one that steers a terminal, one that was there before.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use nix::unistd::geteuid;

use crate::common::Project;

const NAP: &str = "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n";

/// `-C DIR`, and the rest.
fn at<'a>(dir: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    [&["-C", dir.to_str().unwrap()], args].concat()
}

#[test]
fn roots_with_one_hash_are_two_projects() {
    // Of both, FNV-1a (32 bit) is debd3986, and the last name is the same.
    let base = Path::new("/tmp/atk");
    let roots = ["coll/home/shop", "coll/clone/d13cece7f/shop"].map(|root| base.join(root));
    if base.exists() || roots.iter().any(|root| fs::create_dir_all(root).is_err()) {
        eprintln!("skipped: the two folders can't be made");
        return;
    }
    let project = Project::empty();
    let [first, second] = &roots;
    for (root, name) in [(first, "one"), (second, "two")] {
        fs::write(root.join(".mcp-run"), NAP.replace("nap", name)).unwrap();
    }
    project.cli(at(first, &["up"])).exits(0);
    // The second is not the first, whatever is asked.
    assert!(
        project
            .cli(at(second, &["status"]))
            .exits(3)
            .out
            .contains("stopped")
    );
    project.cli(at(second, &["stop"])).exits(0);
    project.cli(at(second, &["restart", "one"])).exits(3);
    project.cli(at(second, &["logs", "one"])).exits(3);
    let up = project.cli(at(second, &["up"])).exits(0).out;
    assert!(up.contains("two") && !up.contains("one"), "{up}");
    project.cli(at(second, &["daemon", "restart"])).exits(0);
    for (root, own, other) in [(first, "one", "two"), (second, "two", "one")] {
        let status = project.cli(at(root, &["status"])).exits(0).out;
        assert!(status.contains(own) && !status.contains(other), "{status}");
    }
    let ps = project.cli(["ps"]).exits(0).out;
    assert!(
        roots.iter().all(|root| ps.contains(root.to_str().unwrap())),
        "{ps}"
    );
    project.cli(at(first, &["stop"])).exits(0);
    // Each finds its own folder again.
    let status = project.cli(at(second, &["status"])).exits(0).out;
    assert!(status.contains("two"), "{status}");
    project.cli(at(second, &["stop"])).exits(0);
    let _ = fs::remove_dir_all(base);
}

#[test]
fn name_of_a_folder_steers_no_terminal() {
    let project = Project::empty();
    let odd = project.root.join("x\u{1b}[2J\u{202e}\nbpm: forged");
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join(".mcp-run"), NAP).unwrap();
    // In JSON, and in a unit's commands, a letter of any kind stands for itself.
    let hidden = |text: &str| {
        let plain: String = text
            .lines()
            .filter(|line| !line.contains('{') && !line.starts_with("Exec"))
            .collect();
        text.contains('\u{1b}')
            || plain.contains('\u{202e}')
            || text.lines().any(|line| line.starts_with("bpm: forged"))
    };
    for args in [
        &["check"][..],
        &["status"],
        &["restart", "nap"],
        &["logs", "nap"],
        &["-d"],
        &["-d"],
        &["up"],
        &["ps"],
        &["status"],
        &["daemon", "status"],
        &["daemon", "logs"],
        &["mcp-config"],
        &["doctor"],
        &["trust", "--list"],
        &["install", "--dry-run"],
        &["restart", "nap"],
        &["reload"],
        &["why", "nap"],
        &["up", "nope"],
        &["metrics"],
        &["dash"],
        &["export", "systemd", "--strict"],
        &["stop"],
        &["stop"],
        &["status"],
    ] {
        let mut command = project.command(crate::common::bpm());
        let output = command.args(args).current_dir(&odd).output().unwrap();
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!hidden(&text), "{args:?}: {text:?}");
        }
    }
}

#[test]
fn folder_whose_path_is_no_text_is_not_gone() {
    let project = Project::empty();
    let odd = project.root.join(OsStr::from_bytes(b"x\xff"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join(".mcp-run"), NAP).unwrap();
    let bpm = |args: &[&str]| {
        let mut command = project.command(crate::common::bpm());
        let output = command.args(args).current_dir(&odd).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    bpm(&["-d"]);
    let listed: serde_json::Value = serde_json::from_str(&bpm(&["ps", "--json"])).unwrap();
    assert_eq!(listed["daemons"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["daemons"][0]["folder_gone"], false, "{listed}");
    bpm(&["stop"]);
    assert_eq!(bpm(&["ps", "--prune"]), "nothing to remove\n");
}

#[test]
fn folder_with_a_newline_in_its_name_can_be_connected_to() {
    let project = Project::empty();
    let odd = project.root.join("x\ny");
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join(".mcp-run"), NAP).unwrap();
    let mut command = project.command(crate::common::bpm());
    command.args(["mcp-config", "--check", "--stdio"]);
    let output = command.current_dir(&odd).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn link_to_nowhere_ends_the_search() {
    let project = Project::new(NAP);
    let below = project.root.join("below");
    fs::create_dir(&below).unwrap();
    symlink("nowhere", below.join(".mcp-run")).unwrap();
    for args in [&["up"][..], &["check"]] {
        let said = project.cli(at(&below, args)).exits(1);
        assert!(said.err.contains("below/.mcp-run"), "{said:?}");
        let mut command = project.command(crate::common::bpm());
        let output = command.args(args).current_dir(&below).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("below/.mcp-run"), "{err}");
    }
}

#[test]
fn foretold_folder_of_a_stranger_is_passed_by() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root makes files of other users");
        return;
    }
    let mut project = Project::new(
        "[process.web]\ncommand = \"FIXTURE notify READY=1; exec sleep 1000\"\nready = { notify = true }\n",
    );
    let long = project.root.parent().unwrap().join("h".repeat(100));
    project.env("BPM_HOME", &long).env("XDG_RUNTIME_DIR", "");
    let socket = |project: &Project| -> String {
        let status = project.cli(["daemon", "status", "--json"]).exits(0).out;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["socket"].as_str().unwrap().into()
    };
    project.cli(["up"]).exits(0);
    let foretold = socket(&project);
    let foretold = Path::new(&foretold).parent().unwrap();
    assert!(foretold.starts_with("/tmp"), "{foretold:?}");
    project.cli(["stop"]).exits(0);
    assert!(!foretold.exists());
    let give = |path: &Path| chown(path, Some(4343), Some(4343)).unwrap();
    let mut made: Vec<Box<dyn Fn()>> = Vec::new();
    made.push(Box::new(|| {
        fs::create_dir(foretold).unwrap();
        give(foretold);
    }));
    made.push(Box::new(|| {
        symlink("/tmp", foretold).unwrap();
        std::os::unix::fs::lchown(foretold, Some(4343), Some(4343)).unwrap();
    }));
    made.push(Box::new(|| {
        fs::write(foretold, "").unwrap();
        give(foretold);
    }));
    for make in made {
        make();
        project.cli(["up"]).exits(0);
        let used = socket(&project);
        let used = Path::new(&used);
        assert!(
            used.starts_with("/tmp") && !used.starts_with(foretold),
            "{used:?}"
        );
        project.cli(["status"]).exits(0);
        project.cli(["stop"]).exits(0);
        assert!(!used.parent().unwrap().exists(), "nothing is left of it");
        let _ = fs::remove_dir(foretold).or_else(|_| fs::remove_file(foretold));
    }
}
