//! The commands that give orders and ask how it is, as a person types them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::{House, bpm};
use serde_json::Value;

const TWO: &str = "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n\
                   [process.more]\ncommand = [\"FIXTURE\", \"nap\"]\ndepends_on = [\"nap\"]\n\
                   [process.other]\ncommand = [\"FIXTURE\", \"nap\"]\n";

/// A rust process that the fake cargo builds.
const APP: &str = "[process.app]\ntype = \"rust\"\n";

fn states(house: &House) -> Vec<(String, String)> {
    let status: Value =
        serde_json::from_str(&house.cli(["status", "--json"]).exits(0).out).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    status["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (text(&p["name"]), text(&p["state"])))
        .collect()
}

fn pair(name: &str, state: &str) -> (String, String) {
    (name.into(), state.into())
}

#[test]
fn up_ends_with_what_runs_and_how_to_connect() {
    let house = House::new(TWO);
    let said = house.cli(["up"]).exits(0);
    let lines: Vec<&str> = said.out.lines().collect();
    for (line, name) in lines.iter().zip(["nap", "more", "other"]) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            [words[0], words[1], words[2], words[3]],
            [name, "running", "release", "pid"],
            "{said:?}"
        );
    }
    assert_eq!(lines[3], "");
    assert_eq!(lines[4], "claude mcp add shop -- bpm proxy");
    assert!(
        lines[5].starts_with("claude mcp add --transport http shop http://127.0.0.1:"),
        "{said:?}"
    );
    assert!(lines[5].ends_with("/mcp"));
    // What runs already is left alone.
    let again = house.cli(["up"]).exits(0);
    assert_eq!(again.out, said.out);
    house.cli(["stop"]).exits(0);
}

#[test]
fn up_runs_a_task_once() {
    let house = House::new(
        "[process.migrate]\ntype = \"task\"\ncommand = \"echo ran >> ran; sleep 0.2\"\n\
         [process.web]\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"migrate\"]\n",
    );
    house.cli(["up"]).exits(0);
    house.cli(["up"]).exits(0);
    let ran = std::fs::read_to_string(house.root.join("ran")).unwrap();
    assert_eq!(ran, "ran\n");
    house.cli(["stop"]).exits(0);
}

#[test]
fn up_runs_a_task_that_fails_once_each_time() {
    // While the others are started, the first one has failed.
    let mut config =
        String::from("[process.migrate]\ntype = \"task\"\ncommand = \"echo ran >> ran; exit 3\"\n");
    for n in 0..30 {
        config.push_str(&format!(
            "[process.nap{n}]\ncommand = [\"FIXTURE\", \"nap\"]\n"
        ));
    }
    let house = House::new(&config);
    for times in 1..=2 {
        house
            .cli(["up"])
            .exits(1)
            .says(&["bpm: migrate: ", "exit code 3"]);
        assert_eq!(house.read("ran"), "ran\n".repeat(times));
    }
    house.cli(["stop"]).exits(0);
}

#[test]
fn up_of_some_starts_no_others() {
    let house = House::new(TWO);
    let said = house.cli(["up", "more"]).exits(0);
    assert!(said.out.starts_with("more "), "{said:?}");
    assert_eq!(
        states(&house),
        [
            pair("nap", "running"),
            pair("more", "running"),
            pair("other", "stopped")
        ]
    );
    house.cli(["stop"]).exits(0);
    house.cli(["start", "other"]).exits(0);
    assert_eq!(
        states(&house),
        [
            pair("nap", "stopped"),
            pair("more", "stopped"),
            pair("other", "running")
        ]
    );
    house
        .cli(["up", "nothere"])
        .exits(1)
        .says(&["bpm: unknown process \"nothere\""]);
    house.cli(["stop"]).exits(0);
    house
        .cli(["up", "nothere"])
        .exits(1)
        .says(&["bpm: unknown process \"nothere\""]);
    house.cli(["status"]).exits(3);
}

#[test]
fn up_shows_builds_and_tells_what_failed() {
    let mut house = House::new(APP);
    house.fake_cargo();
    house.source("echo served; exec sleep 1000");
    let said = house.cli(["up"]).exits(0);
    assert!(said.err.contains("[app] "), "{said:?}");
    house.cli(["stop"]).exits(0);
    let mut broken = House::new(APP);
    broken.fake_cargo();
    broken.source("exec sleep 1000");
    broken.file("src/broken", "mismatched types");
    let said = broken.cli(["up"]).exits(1);
    assert!(
        said.err.contains("src/main.rs:3:5") && said.err.contains("mismatched types"),
        "{said:?}"
    );
    broken.cli(["stop"]).exits(0);
}

#[test]
fn up_gives_up_after_its_time() {
    let house = House::new(
        "[process.slow]\ncommand = [\"FIXTURE\", \"nap\"]\nready = { tcp = \"127.0.0.1:1\", timeout_seconds = 600 }\n",
    );
    house
        .cli(["up", "--timeout", "0.3"])
        .exits(124)
        .says(&["bpm: cannot bring up slow: not within 0.3s"]);
    house.cli(["up", "--timeout", "soon"]).exits(2);
    house.cli(["stop"]).exits(0);
}

#[test]
fn orders_are_carried_out_and_answered() {
    let house = House::new(TWO);
    for command in ["restart", "why", "wait"] {
        house
            .cli([command, "nap"])
            .exits(3)
            .says(&["no daemon runs for shop", "hint: "]);
    }
    house.cli(["reload"]).exits(3);
    house.cli(["logs"]).exits(3);
    house.cli(["stop", "nap"]).exits(0);
    house.cli(["up"]).exits(0);
    let said = house.cli(["restart", "nap"]).exits(0);
    // Who restarts learns that it is a dev build now, and for how long.
    assert!(
        said.out.contains("dev") && said.out.contains("release after"),
        "{said:?}"
    );
    let said = house.cli(["restart", "--all", "--release"]).exits(0);
    assert!(
        ["nap", "more", "other"]
            .iter()
            .all(|n| said.out.contains(n)),
        "{said:?}"
    );
    house.cli(["stop", "other", "more"]).exits(0);
    assert_eq!(
        states(&house),
        [
            pair("nap", "running"),
            pair("more", "stopped"),
            pair("other", "stopped")
        ]
    );
    house.cli(["start", "other"]).exits(0);
    let twice = house.cli(["restart", "other", "other"]).exits(0);
    assert_eq!(twice.out.lines().count(), 1, "{twice:?}");
    for command in ["restart", "why", "wait", "start", "stop", "status", "logs"] {
        house.cli([command, "othr"]).exits(1).says(&[
            "bpm: unknown process \"othr\"; did you mean \"other\"? processes: nap, more, other",
        ]);
    }
    house.cli(["restart"]).exits(2).says(&["--all"]);
    house.cli(["restart", "--all", "nap"]).exits(2);
    house.cli(["stop", "--force", "nap"]).exits(2);
    house.cli(["stop"]).exits(0);
}

#[test]
fn a_failed_restart_prints_the_first_errors() {
    let mut house = House::new(APP);
    house.fake_cargo();
    house.source("exec sleep 1000");
    house.cli(["up"]).exits(0);
    house.file("src/broken", "mismatched types");
    let failed = house.cli(["restart", "app"]).exits(1);
    assert!(!failed.err.contains("search_"), "{failed:?}");
    failed.says(&[
        "bpm: ",
        "src/main.rs:3:5",
        "mismatched types",
        "old run",
        "hint: \"bpm logs --build app\" shows more\n",
    ]);
    let said = house.cli(["status"]).exits(0);
    assert!(
        said.out
            .contains("app: the last build failed; the old one still serves"),
        "{said:?}"
    );
    house.cli(["stop"]).exits(0);
}

#[test]
fn waiting_ends_when_it_is_so_or_can_not_be() {
    let house = House::new(
        "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n\
         [process.once]\ncommand = \"echo hello; exit 3\"\nrestart = \"never\"\nautostart = false\n",
    );
    house.cli(["-d"]).exits(0);
    house.cli(["wait", "nap", "--timeout", "20"]).exits(0);
    house
        .cli(["wait", "nap", "--for", "exit", "--timeout", "0.1"])
        .exits(124)
        .says(&["not within 0.1s"]);
    let failed = house.cli(["start", "once"]).exits(1);
    assert!(
        failed.err.ends_with("hint: \"bpm logs once\" shows more\n"),
        "{failed:?}"
    );
    house.cli(["wait", "once", "--timeout", "20"]).exits(1);
    house.cli(["wait", "nap", "--for", "log"]).exits(2);
    house.cli(["wait", "nap", "--pattern", "x"]).exits(2);
    house
        .cli(["wait", "nap", "--for", "rain"])
        .exits(2)
        .says(&["ready, exit, build, log"]);
    house
        .cli(["wait", "nap", "--for", "log", "--pattern", "("])
        .exits(1);
    let said = house.cli(["why", "once"]).exits(0);
    assert!(
        said.out.contains("exit code 3") && said.out.contains("hello"),
        "{said:?}"
    );
    house.cli(["stop"]).exits(0);
}

#[test]
fn a_reload_touches_what_changed() {
    let house = House::new(TWO);
    house.cli(["up"]).exits(0);
    let before = house.cli(["status", "--json"]).out;
    assert_eq!(house.cli(["reload"]).exits(0).out, "nothing changed\n");
    let changed = TWO.replace("[process.other]", "[process.fourth]");
    house.config(&changed);
    let listed = house.cli(["reload", "--dry-run"]).exits(0).out;
    assert!(
        listed.contains("added: fourth") && listed.contains("removed: other"),
        "{listed}"
    );
    assert_eq!(states(&house).len(), 3);
    assert_eq!(house.cli(["reload"]).exits(0).out, listed);
    let names: Vec<String> = states(&house).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["nap", "more", "fourth"]);
    let after: Value = serde_json::from_str(&house.cli(["status", "--json"]).out).unwrap();
    let before: Value = serde_json::from_str(&before).unwrap();
    assert_eq!(before["processes"][0]["pid"], after["processes"][0]["pid"]);
    house.config("nonsense");
    house.cli(["reload"]).exits(1).says(&[".mcp-run:1:"]);
    assert_eq!(states(&house).len(), 3);
    house.cli(["stop"]).exits(0);
}

#[test]
fn the_status_is_a_table_or_a_document() {
    let house = House::new(TWO);
    let none: Value = serde_json::from_str(&house.cli(["status", "--json"]).exits(3).out).unwrap();
    assert_eq!(
        (&none["schema"], &none["verdict"]),
        (&Value::from(1), &Value::from("stopped"))
    );
    house.cli(["up"]).exits(0);
    let said = house.cli(["status"]).exits(0);
    assert!(said.out.starts_with("NAME"), "{said:?}");
    assert!(!said.out.contains('\x1b'), "{said:?}");
    assert_eq!(said.out.lines().count(), 4);
    assert_eq!(house.cli(["status", "nap"]).exits(0).out.lines().count(), 2);
    let document: Value = serde_json::from_str(&house.cli(["status", "--json"]).out).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["processes"].as_array().unwrap().len(), 3);
    house.cli(["stop"]).exits(0);
}

#[test]
fn the_project_is_found_from_below_and_by_name() {
    let house = House::new(TWO);
    house.file("deep/below/file", "");
    let below = house.root.join("deep/below");
    let said = house
        .command(bpm())
        .arg("check")
        .current_dir(&below)
        .output()
        .unwrap();
    assert!(said.status.success());
    let root = house.root.to_str().unwrap();
    house.cli(["-C", root, "check"]).exits(0);
    house.cli(["check", "-C", root]).exits(0);
    house
        .cli(["check", "-C", below.to_str().unwrap()])
        .exits(1)
        .says(&["no .mcp-run in it"]);
    house
        .cli(["check", "-C", "/no/such/folder"])
        .exits(1)
        .says(&["cannot enter \"/no/such/folder\""]);
    let nowhere = House::empty();
    nowhere
        .cli(["check"])
        .exits(1)
        .says(&["no .mcp-run in", "hint: "]);
    nowhere.cli([nowhere.root.as_os_str()]).exits(1);
}

#[test]
fn agents_are_connected_by_what_is_printed() {
    let mut house = House::new("mcp_port = 3001\n[process.a]\ncommand = \"x\"\n");
    let all = house.cli(["mcp-config"]).exits(0).out;
    assert!(all.contains("claude mcp add shop -- bpm proxy\nclaude mcp add --transport http shop http://127.0.0.1:3001/mcp\n"));
    for client in [
        "claude", "codex", "cursor", "vscode", "gemini", "opencode", "zed",
    ] {
        assert!(all.contains(&format!("# {client}\n")), "{all}");
        let one = house.cli(["mcp-config", client, "--stdio"]).exits(0).out;
        assert!(one.contains("proxy") && !one.contains("http"), "{one}");
        if let Some((_, json)) = one.split_once(": {") {
            serde_json::from_str::<Value>(&format!("{{{json}")).unwrap();
        }
    }
    house
        .cli(["mcp-config", "cluade"])
        .exits(2)
        .says(&["did you mean \"claude\"?"]);
    house.env("NO_COLOR", "1").cli(["mcp-config"]).exits(0);
}
