//! Files that change have their process built and restarted.

#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

mod common;

use common::House;
use serde_json::json;

#[test]
fn a_change_restarts_and_what_does_not_match_does_not() {
    let mut house = House::new(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/**/*.py\"]\n\
         [process.other]\ncommand = [\"sleep\", \"1001\"]\n",
    );
    house.file("src/app.py", "1");
    house.serve();
    house.running("web");
    house.file("notes.txt", "no");
    house.file("src/deep/er/new.py", "2");
    house.status_when("web", |s| s["restarts"] == 1);
    house.running("web");
    house.file("src/app.py", "3");
    house.status_when("web", |s| s["restarts"] == 2);
    house.status_when("other", |s| s["restarts"] == 0);
}

#[test]
fn a_build_that_fails_waits_for_the_next_change() {
    let mut house = House::new(
        "[process.web]\nbuild = \"test ! -e src/broken\"\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/*\"]\n",
    );
    house.file("src/a", "1");
    house.serve();
    let pid = house.running("web");
    house.file("src/broken", "");
    house.status_when("web", |s| s["stale"] == true);
    assert_eq!(house.running("web"), pid, "the old one serves on");
    std::fs::remove_file(house.root.join("src/broken")).unwrap();
    house.status_when("web", |s| s["restarts"] == 1);
}

#[test]
fn what_a_build_writes_to_a_watched_folder_makes_no_loop() {
    let mut house = House::new(
        "[process.web]\nbuild = \"test ! -e src/go || date +%N >src/made\"\ncommand = [\"sleep\", \"1000\"]\nwatch = [\"src/*\"]\n",
    );
    house.file("src/a", "1");
    house.serve();
    // The first build may be over before anything is watched.
    house.running("web");
    house.file("src/go", "");
    // The second time it is taken for what it is; then each waits twice as long as the one before.
    let put_off = |house: &House| {
        let said = house.err().matches("the next one waits").count();
        if said >= 2 { Ok(()) } else { Err(said) }
    };
    common::eventually(|| put_off(&house));
    let restarts = house.status("web")["restarts"].as_u64().unwrap();
    assert!((1..=3).contains(&restarts), "{restarts}");
    assert!(
        house.err().contains("(src/made): the next one waits 2.4s"),
        "{}",
        house.err()
    );
}

#[test]
fn what_changed_before_a_restart_that_was_asked_for_is_seen_by_it() {
    let mut house = House::new(
        "[process.web]\nbuild = \"cat web/a >>built\"\ncommand = \"cat web/a; exec sleep 1000\"\nwatch = [\"web/*\"]\n\
         [process.plain]\ncommand = \"cat plain/a; exec sleep 1000\"\nwatch = [\"plain/*\"]\n",
    );
    let names = ["web", "plain"];
    for name in names {
        house.file(&format!("{name}/a"), "1\n");
    }
    house.serve();
    for name in names {
        house.running(name);
        let edit = |text: &str| house.file(&format!("{name}/a"), text);
        // The watcher is there.
        edit("2\n");
        house.status_when(name, |s| s["restarts"] == 1);
        house.running(name);

        edit("3\n");
        house.call("restart", json!({"process": name})).ok();
        // This change comes after what the one before might have done.
        edit("4\n");
        house.status_when(name, |s| s["restarts"].as_u64() >= Some(3));
        house.running(name);
        assert_eq!(house.status(name)["restarts"], 3, "{name}");
        assert_eq!(house.logs(name), ["4"], "{name}");
    }
    assert_eq!(house.read("built"), "1\n2\n3\n4\n");
}
