//! Files that change have their process built and restarted.

#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

mod common;

use common::House;

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
    // Five are taken as somebody's, then each waits twice as long as the one before.
    let said = |house: &House| house.err().matches("the next one waits").count();
    common::eventually(|| match said(&house) {
        0..3 => Err(house.err()),
        _ => Ok(()),
    });
    let restarts = house.status("web")["restarts"].as_u64().unwrap();
    // All but the one of ours and the first of the others have waited.
    let most = 6 + said(&house) as u64;
    assert!((5..=most).contains(&restarts), "{restarts}");
    assert!(
        house.err().contains("(src/made): the next one waits 2.4s"),
        "{}",
        house.err()
    );
}
