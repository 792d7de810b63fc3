//! Files that change have their process built and restarted.

use crate::common::{Ended, Project, bpm};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn a_change_restarts_and_what_does_not_match_does_not() {
    let mut project = Project::new(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/**/*.py\"]\n\
         [process.other]\ncommand = [\"sleep\", \"1001\"]\n",
    );
    project.file("src/app.py", "1");
    project.serve();
    project.running("web");
    project.file("notes.txt", "no");
    project.file("src/deep/er/new.py", "2");
    project.status_when("web", |s| s["restarts"] == 1);
    project.running("web");
    project.file("src/app.py", "3");
    project.status_when("web", |s| s["restarts"] == 2);
    project.status_when("other", |s| s["restarts"] == 0);
}

#[test]
fn a_build_that_fails_waits_for_the_next_change() {
    let mut project = Project::new(
        "[process.web]\nbuild = \"test ! -e src/broken\"\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/*\"]\n",
    );
    project.file("src/a", "1");
    project.serve();
    let pid = project.running("web");
    project.file("src/broken", "");
    project.status_when("web", |s| s["stale"] == true);
    assert_eq!(project.running("web"), pid, "the old one serves on");
    std::fs::remove_file(project.root.join("src/broken")).unwrap();
    project.status_when("web", |s| s["restarts"] == 1);
}

#[test]
fn output_of_a_build_in_a_watched_folder_makes_no_loop() {
    let mut project = Project::new(
        "[process.web]\nbuild = \"test ! -e src/go || date +%N >src/made\"\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/*\"]\n",
    );
    project.file("src/a", "1");
    project.serve();
    // The first build may be over before anything is watched.
    project.running("web");
    project.file("src/go", "");
    // The second time it is taken for what it is; then each waits twice as long as the one before.
    let put_off = |project: &Project| {
        let said = project.log().matches("the next one waits").count();
        if said >= 2 { Ok(()) } else { Err(said) }
    };
    crate::common::eventually(|| put_off(&project));
    let restarts = project.status("web")["restarts"].as_u64().unwrap();
    assert!((1..=3).contains(&restarts), "{restarts}");
    assert!(
        project
            .log()
            .contains("(src/made): the next one waits 2.4s"),
        "{}",
        project.log()
    );
}

#[test]
fn ordered_restart_sees_the_changes_before_it() {
    let mut project = Project::new(
        "[process.web]\nbuild = \"cat web/a >>built\"\ncommand = \"cat web/a; exec sleep 1000\"\nwatch = [\"web/*\"]\n\
         [process.plain]\ncommand = \"cat plain/a; exec sleep 1000\"\nwatch = [\"plain/*\"]\n",
    );
    let names = ["web", "plain"];
    for name in names {
        project.file(&format!("{name}/a"), "1\n");
    }
    project.serve();
    for name in names {
        project.running(name);
        let edit = |text: &str| project.file(&format!("{name}/a"), text);
        // The watcher is there.
        edit("2\n");
        project.status_when(name, |s| s["restarts"] == 1);
        project.running(name);

        // bpm sees the change and the order at once, however late either comes.
        let mut http = project.http();
        project.signal(Signal::SIGSTOP);
        edit("3\n");
        http.send_call("restart", json!({"process": name}));
        project.signal(Signal::SIGCONT);
        assert_eq!(http.response().status, 200);
        // This change comes after what the one before might have done.
        edit("4\n");
        project.status_when(name, |s| s["restarts"].as_u64() >= Some(3));
        project.running(name);
        assert_eq!(project.status(name)["restarts"], 3, "{name}");
        assert_eq!(project.logs(name), ["4"], "{name}");
    }
    assert_eq!(project.read("built"), "1\n2\n3\n4\n");
}

#[test]
fn links_truncation_and_a_folder_that_was_replaced_are_seen() {
    let mut project = Project::new(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/link/*.py\", \"app.cfg\"]\n",
    );
    project.file("real/a.py", "12");
    project.file("conf/t.cfg", "12");
    std::fs::create_dir(project.root.join("src")).unwrap();
    std::os::unix::fs::symlink("../real", project.root.join("src/link")).unwrap();
    std::os::unix::fs::symlink("conf/t.cfg", project.root.join("app.cfg")).unwrap();
    project.serve();
    project.running("web");
    project.file("real/a.py", "123");
    project.status_when("web", |s| s["restarts"] == 1);
    project.running("web");
    project.file("conf/t.cfg", "123");
    project.status_when("web", |s| s["restarts"] == 2);
    project.running("web");
    nix::unistd::truncate(&project.root.join("conf/t.cfg"), 1).unwrap();
    project.status_when("web", |s| s["restarts"] == 3);
    project.running("web");
    nix::unistd::truncate(&project.root.join("conf/t.cfg"), 9).unwrap();
    project.status_when("web", |s| s["restarts"] == 4);
    project.running("web");
    let (old, new) = (
        project.root.with_extension("old"),
        project.root.with_extension("new"),
    );
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&project.root, &new])
        .status();
    assert!(copied.unwrap().success());
    std::fs::rename(&project.root, &old).unwrap();
    std::fs::rename(&new, &project.root).unwrap();
    project.status_when("web", |s| s["restarts"] == 5);
    project.running("web");
    project.file("real/a.py", "1234");
    project.status_when("web", |s| s["restarts"] == 6);
}

#[test]
fn watching_that_fails_is_told_with_the_status() {
    let project =
        Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/**\"]\n");
    let line =
        "echo 0 > /proc/sys/user/max_inotify_instances || exit 77; '{}' up; '{}' status; '{}' stop";
    let line = line.replace("{}", &bpm().display().to_string());
    let mut command = project.command("unshare");
    let said = Ended::new(command.args(["-Ur", "sh", "-c", &line]).output().unwrap());
    if said.code == Some(77) || said.err.contains("unshare") {
        return eprintln!("skipped: no namespaces to be had");
    }
    assert!(said.out.contains("bpm: cannot watch files: "), "{said:?}");
    assert!(
        said.err.contains("bpm: cannot watch files: "),
        "up: {said:?}"
    );
    assert!(said.out.contains("max_user_instances"), "{said:?}");
}
