//! A project that another user could have written is used for nothing that executes.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use crate::common::{Ended, Project, bpm};

pub(crate) const VICTIM: u32 = 4242;
pub(crate) const ATTACKER: u32 = 4343;

/// False, with a word, where files of other users can't be made.
pub(crate) fn is_root() -> bool {
    let root = geteuid().as_raw() == 0;
    if !root {
        eprintln!("skipped: only root makes files of other users");
    }
    root
}

pub(crate) fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
}

/// `bpm` as another user, with a home of its own.
pub(crate) fn as_user(project: &Project, uid: u32, folder: &Path, args: &[&str]) -> Ended {
    let home = project.root.parent().unwrap().join(format!("home-{uid}"));
    if std::fs::create_dir(&home).is_ok() {
        give(&home, uid);
    }
    as_user_with(project, &home, uid, folder, args)
}

/// The same with that `BPM_HOME`.
pub(crate) fn as_user_with(
    project: &Project,
    home: &Path,
    uid: u32,
    folder: &Path,
    args: &[&str],
) -> Ended {
    let mut command = command_as(project, home, uid, folder, &bpm());
    Ended::new(command.args(args).output().unwrap())
}

/// A program as another user.
fn command_as(project: &Project, home: &Path, uid: u32, folder: &Path, program: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let (name, value) = project.mark();
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("BPM_HOME", home)
        .env(name, value)
        .uid(uid)
        .gid(uid);
    command
}

#[test]
fn daemon_without_a_process_to_be_had_is_said_in_words() {
    if !is_root() {
        return;
    }
    let project = Project::new(TOUCHES);
    open_way(&project.root);
    let home = project.root.parent().unwrap().join("home");
    std::fs::create_dir(&home).unwrap();
    // Nobody else has this one, and root has no such limit. The first fork of the start is the second process.
    let uid = 60_000 + std::process::id() % 5_000;
    for path in [&home, &project.root, &project.root.join(".mcp-run")] {
        give(path, uid);
    }
    for (processes, why) in [
        (1, "cannot make a daemon: "),
        (2, "cannot make a process for the daemon: "),
    ] {
        let script = format!("ulimit -u {processes}; exec \"$0\" -d");
        let mut command = command_as(&project, &home, uid, &project.root, Path::new("bash"));
        let output = command.args(["-c", &script]).arg(bpm()).output().unwrap();
        let ended = Ended::new(output).exits(1);
        let said = format!("bpm: {why}resource temporarily unavailable");
        let words = ended.err.to_lowercase();
        assert!(words.starts_with(&said), "{ended:?}");
    }
}

pub(crate) const TOUCHES: &str = "[process.x]\ncommand = \"touch executed; exec sleep 1000\"\n";

#[test]
fn strangers_mcp_run_above_is_refused_to_an_ordinary_user() {
    if !is_root() {
        return;
    }
    let project = Project::new(TOUCHES);
    let (above, file) = (&project.root, project.root.join(".mcp-run"));
    mode(above, 0o1777);
    give(&file, ATTACKER);
    mode(&file, 0o644);
    let mine = above.join("mine");
    std::fs::create_dir(&mine).unwrap();
    give(&mine, VICTIM);
    open_way(above);
    for args in [&["up"][..], &["-d"], &["start"], &["restart", "x"]] {
        let ended =
            as_user(&project, VICTIM, &mine, args).exits(if args[0] == "restart" { 3 } else { 1 });
        if args[0] != "restart" {
            ended.says(&[".mcp-run", "it belongs to uid 4343", "bpm trust"]);
        }
    }
    assert!(!above.join("executed").exists() && !mine.join("executed").exists());
}

#[test]
fn link_and_folder_count_for_root_too() {
    if !is_root() {
        return;
    }
    let project = Project::empty();
    let real = project.root.join("real");
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join(".mcp-run"), TOUCHES).unwrap();
    // A link of the attacker's to a file of ours.
    let link = project.root.join("link");
    std::fs::create_dir(&link).unwrap();
    symlink(real.join(".mcp-run"), link.join(".mcp-run")).unwrap();
    std::os::unix::fs::lchown(link.join(".mcp-run"), Some(ATTACKER), Some(ATTACKER)).unwrap();
    project
        .cli(["-C", link.to_str().unwrap(), "up"])
        .exits(1)
        .says(&["it belongs to uid 4343"]);
    // A file of ours in a folder of the attacker's, and in one that all may write.
    give(&real, ATTACKER);
    project
        .cli(["-C", real.to_str().unwrap(), "up"])
        .exits(1)
        .says(&["its folder", "belongs to uid 4343"]);
    give(&real, 0);
    mode(&real, 0o777);
    project
        .cli(["-C", real.to_str().unwrap(), "up"])
        .exits(1)
        .says(&["others may write its folder", "mode 777"]);
    mode(&real, 0o755);
    mode(&real.join(".mcp-run"), 0o666);
    project
        .cli(["-C", real.to_str().unwrap(), "up"])
        .exits(1)
        .says(&["others may write it", "mode 666"]);
    assert!(!real.join("executed").exists() && !link.join("executed").exists());
}

#[test]
fn env_file_of_another_starts_nothing() {
    if !is_root() {
        return;
    }
    let mut project = Project::new(&format!("{TOUCHES}env_file = \".env\"\n"));
    project.file(".env", "A=1\n");
    give(&project.root.join(".env"), ATTACKER);
    project.serve();
    let status = project.status_when("x", |p| p["state"] == "crashed" || p["state"] == "failed");
    assert!(
        status.to_string().contains("it belongs to uid 4343"),
        "{status}"
    );
    assert!(!project.root.join("executed").exists());
}

#[test]
fn trusted_folder_is_used_whoever_owns_it() {
    if !is_root() {
        return;
    }
    let mut project = Project::new(TOUCHES);
    give(&project.root.join(".mcp-run"), ATTACKER);
    project.cli(["check"]).exits(1);
    project.cli(["trust", "."]).exits(0);
    let listed = project.cli(["trust", "--list"]).exits(0).out;
    assert_eq!(listed.trim_end(), project.root.to_str().unwrap());
    project.cli(["check"]).exits(0);
    project.cli(["trust", "--remove", "."]).exits(0);
    project.cli(["check"]).exits(1);
    let root = project.root.clone();
    project.env("BPM_TRUST", format!("/nowhere:{}", root.display()));
    project.up();
    project.running("x");
}

/// Folders above, which only root may enter otherwise.
pub(crate) fn open_way(folder: &Path) {
    for above in folder.ancestors().skip(1) {
        if above.starts_with(std::env::temp_dir()) && above != std::env::temp_dir() {
            mode(above, 0o755);
        }
    }
}

#[test]
fn folder_that_is_gone_can_be_removed_from_the_list() {
    let project = Project::empty();
    let folder = project.root.join("theirs");
    std::fs::create_dir(&folder).unwrap();
    let name = folder.to_str().unwrap();
    project.cli(["trust", name]).exits(0);
    std::fs::remove_dir(&folder).unwrap();
    project
        .cli(["trust", name])
        .exits(1)
        .says(&["bpm: cannot trust "]);
    assert!(
        project
            .cli(["trust", "--list"])
            .exits(0)
            .out
            .contains("theirs")
    );
    // Two wishes that contradict each other change nothing.
    project.cli(["trust", "--list", "--remove", name]).exits(2);
    project.cli(["trust", "--remove", name]).exits(0);
    assert_eq!(project.cli(["trust", "--list"]).exits(0).out, "");
}

/// Where others may make folders too, one of them may have made ours before us, with a daemon in it that is none.
#[test]
fn strangers_folder_of_state_is_not_believed() {
    if !is_root() {
        return;
    }
    let project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    open_way(&project.root);
    give(&project.root, VICTIM);
    give(&project.root.join(".mcp-run"), VICTIM);
    let home = project.root.parent().unwrap().join("shared");
    std::fs::create_dir(&home).unwrap();
    mode(&home, 0o1777);
    let bpm_says = |args: &[&str]| as_user_with(&project, &home, VICTIM, &project.root, args);
    bpm_says(&["-d"]).exits(0);
    let folder = std::fs::read_dir(&home)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let descriptor = std::fs::read(folder.join("daemon.json")).unwrap();
    let mut descriptor: serde_json::Value = serde_json::from_slice(&descriptor).unwrap();
    bpm_says(&["stop"]).exits(0);

    let mut sleep = command_as(&project, &home, VICTIM, &project.root, Path::new("sleep"));
    let mut sleep = sleep.arg("1000").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleep.id())).unwrap();
    let start = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(19)
        .unwrap()
        .to_string();
    descriptor["pid"] = sleep.id().into();
    descriptor["process_start"] = start.parse::<u64>().unwrap().into();
    let socket = folder.join("daemon.sock");
    descriptor["socket"] = socket.display().to_string().into();
    std::fs::write(folder.join("daemon.json"), descriptor.to_string()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let lock = std::fs::File::create(folder.join("daemon.lock")).unwrap();
    lock.lock().unwrap();
    for name in ["daemon.json", "daemon.sock", "daemon.lock"] {
        mode(&folder.join(name), 0o666);
        give(&folder.join(name), ATTACKER);
    }
    mode(&folder, 0o755);
    give(&folder, ATTACKER);

    for args in [
        &["status"][..],
        &["restart", "nap"],
        &["-d"],
        &["up"],
        &["stop"],
        &["stop", "--force"],
        &["-d", "--replace"],
    ] {
        let ended = bpm_says(args);
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        ended.says(&["belongs to user 4343"]);
    }
    assert_eq!(bpm_says(&["ps"]).exits(0).out, "no daemons\n");
    assert!(listener.accept().is_err(), "a stranger was asked");
    assert!(
        sleep.try_wait().unwrap().is_none(),
        "a stranger was believed"
    );
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

#[test]
fn env_files_that_are_missing_are_mistakes_where_they_are_named() {
    let project = Project::new(
        "env_file = \"top\"\n[process.x]\ncommand = \"x\"\nenv_file = [\n \"a?\",\n \"b\",\n]\n",
    );
    let said = project.cli(["check"]).exits(1).err;
    let doctor = project.cli(["doctor"]).exits(1).out;
    let problem = "configuration: .mcp-run:6:2: \"env_file\" in [process.x]: cannot read ";
    assert!(doctor.contains(problem), "{doctor}");
    let file = |name: &str| format!("{:?}", project.root.join(name));
    for line in [
        format!(
            ".mcp-run:1:12: \"env_file\": cannot read {}: no such file",
            file("top")
        ),
        format!(
            ".mcp-run:6:2: \"env_file\" in [process.x]: cannot read {}: no such file",
            file("b")
        ),
    ] {
        assert!(said.contains(&line), "no {line} in {said}");
    }
}
