//! The commands that give orders and ask how it is, as a person types them.

use std::os::unix::fs::PermissionsExt;

use crate::common::{Project, bpm};
use serde_json::Value;

const TWO: &str = "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n\
                   [process.more]\ncommand = [\"FIXTURE\", \"nap\"]\ndepends_on = [\"nap\"]\n\
                   [process.other]\ncommand = [\"FIXTURE\", \"nap\"]\n";

/// A rust process that the fake cargo builds.
const APP: &str = "[process.app]\ntype = \"rust\"\n";

fn states(project: &Project) -> Vec<(String, String)> {
    let status: Value =
        serde_json::from_str(&project.cli(["status", "--json"]).exits(0).out).unwrap();
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
    let project = Project::new(TWO);
    let said = project.cli(["up"]).exits(0);
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
    // The very lines that mcp-config prints: here bpm is not in PATH.
    let config = project.cli(["mcp-config", "claude"]).exits(0).out;
    assert_eq!(lines[4..], config.lines().collect::<Vec<_>>());
    assert!(lines[4].contains(&format!(" -- {} proxy", bpm().display())));
    // What runs already is left alone.
    let again = project.cli(["up"]).exits(0);
    assert_eq!(again.out, said.out);
    project.cli(["stop"]).exits(0);
}

#[test]
fn up_runs_a_task_once() {
    let project = Project::new(
        "[process.migrate]\ntype = \"task\"\ncommand = \"echo ran >> ran; sleep 0.2; echo done\"\n\
         [process.web]\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"migrate\"]\n",
    );
    project.cli(["up"]).exits(0);
    project.cli(["up"]).exits(0);
    let ran = std::fs::read_to_string(project.root.join("ran")).unwrap();
    assert_eq!(ran, "ran\n");
    let said = project.cli(["restart", "migrate"]).exits(0).out;
    assert_eq!(
        said,
        "migrate: restarted, done\nits first lines:\n   done\n"
    );
    project.cli(["stop"]).exits(0);
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
    let project = Project::new(&config);
    for times in 1..=2 {
        project
            .cli(["up"])
            .exits(1)
            .says(&["bpm: cannot start migrate: ", "exit code 3"]);
        assert_eq!(project.read("ran"), "ran\n".repeat(times));
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn connections_are_checked_as_agents_make_them() {
    let mut project = Project::new("[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n");
    let all = project.cli(["mcp-config", "--check"]).exits(0).out;
    for client in [
        "claude", "codex", "cursor", "vscode", "gemini", "opencode", "zed",
    ] {
        let ok = format!("{client}: ok: stdio (bpm ");
        assert!(all.contains(&ok), "{all}");
    }
    // Looking starts nothing.
    project.cli(["status"]).exits(3);
    project.up();
    let one = project.cli(["mcp-config", "codex", "--check"]).exits(0).out;
    assert!(one.ends_with("), http\n"), "{one}");
    // Over TCP it would need the token; over stdio it does not.
    let config = project.read(".mcp-run");
    project.file("token", "a-token-of-some-length\n");
    let token = project.root.join("token");
    std::fs::set_permissions(token, PermissionsExt::from_mode(0o600)).unwrap();
    project.config(&format!("token_file = \"token\"\n{config}"));
    project.cli(["reload"]).exits(0);
    project
        .cli(["mcp-config", "claude", "--check"])
        .exits(0)
        .says(&["over HTTP an agent would need the token"]);
    project
        .cli(["mcp-config", "claude", "--check", "--stdio"])
        .exits(0);
    project.config("[process.nap]\ncomand = \"x\"\n");
    project
        .cli(["mcp-config", "zed", "--check"])
        .exits(1)
        .says(&["cannot connect as zed: ", "did you mean \"command\"?"]);
}

#[test]
fn up_takes_over_what_is_new_in_the_file_alone() {
    let one = "[process.one]\ncommand = \"echo FIRST; exec FIXTURE nap\"\n";
    let mut project = Project::new(one);
    project.up();
    let pid = project.running("one");
    let changed = ".mcp-run has changed since it was read: \"bpm reload\" takes it over";
    let is_told = |args: &[&str], told: bool| {
        let ended = project.cli(args).exits(0);
        let said = [ended.out, ended.err].concat();
        assert_eq!(said.contains(changed), told, "{args:?}: {said}");
    };
    is_told(&["status"], false);
    // Asked within the second for which figures are kept.
    let two = "[process.two]\ncommand = [\"FIXTURE\", \"nap\"]\n";
    project.config(&[one, two].concat());
    for args in [&["status"][..], &["why", "one"], &["start", "one"]] {
        is_told(args, true);
    }
    for args in [
        &["status", "two"][..],
        &["start", "two"],
        &["restart", "two"],
        &["logs", "two"],
        &["why", "two"],
        &["wait", "two"],
    ] {
        let said = project.cli(args).exits(1).err;
        assert!(
            said.contains("\"two\" stands in .mcp-run"),
            "{args:?}: {said}"
        );
        assert!(!said.contains("unknown"), "{args:?}: {said}");
    }
    // That was all that is new: the file is read.
    is_told(&["up"], false);
    assert_eq!(project.running("one"), pid);
    project.running("two");
    // What changes something that runs is said, and left to reload.
    let three = "[process.three]\ncommand = [\"FIXTURE\", \"nap\"]\n";
    project.config(&[&one.replace("FIRST", "SECOND"), two, three].concat());
    is_told(&["up"], true);
    project.running("three");
    assert_eq!(project.running("one"), pid);
    is_told(&["restart", "two"], true);
    assert_eq!(project.logs("one"), ["FIRST"]);
    project.cli(["reload"]).exits(0);
    is_told(&["status"], false);
    assert_eq!(project.line("one", "SECOND"), "SECOND");
}

#[test]
fn up_of_some_starts_no_others() {
    let project = Project::new(TWO);
    let said = project.cli(["up", "more"]).exits(0);
    assert!(said.out.starts_with("more "), "{said:?}");
    assert_eq!(
        states(&project),
        [
            pair("nap", "running"),
            pair("more", "running"),
            pair("other", "stopped")
        ]
    );
    project.cli(["stop"]).exits(0);
    project.cli(["start", "other"]).exits(0);
    assert_eq!(
        states(&project),
        [
            pair("nap", "stopped"),
            pair("more", "stopped"),
            pair("other", "running")
        ]
    );
    project
        .cli(["up", "nothere"])
        .exits(1)
        .says(&["bpm: cannot start: unknown process \"nothere\""]);
    project.cli(["stop"]).exits(0);
    project
        .cli(["up", "nothere"])
        .exits(1)
        .says(&["unknown process \"nothere\""]);
    project.cli(["status"]).exits(3);
}

#[test]
fn up_shows_builds_and_tells_what_failed() {
    let mut project = Project::new(APP);
    project.fake_cargo();
    project.source("echo served; exec sleep 1000");
    let said = project.cli(["up"]).exits(0);
    assert!(said.err.contains("[app] "), "{said:?}");
    project.cli(["stop"]).exits(0);
    let mut broken = Project::new(APP);
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
    let project = Project::new(
        "[process.slow]\ncommand = [\"FIXTURE\", \"nap\"]\nready = { tcp = \"127.0.0.1:1\", timeout_seconds = 600 }\n",
    );
    project
        .cli(["up", "--timeout", "0.3"])
        .exits(124)
        .says(&["bpm: cannot bring up slow: not within 0.3s"]);
    project.cli(["up", "--timeout", "soon"]).exits(2);
    project.cli(["stop"]).exits(0);
}

#[test]
fn orders_are_carried_out_and_answered() {
    let project = Project::new(TWO);
    for command in ["restart", "why", "wait"] {
        project
            .cli([command, "nap"])
            .exits(3)
            .says(&["no daemon runs for shop", "hint: "]);
    }
    project.cli(["reload"]).exits(3);
    project.cli(["logs"]).exits(3);
    project.cli(["stop", "nap"]).exits(0);
    project.cli(["up"]).exits(0);
    let said = project.cli(["restart", "nap"]).exits(0);
    // It has no build, so it has no mode.
    assert!(
        said.out.starts_with("nap: restarted, pid ") && !said.out.contains("release"),
        "{said:?}"
    );
    let said = project.cli(["restart", "--all", "--release"]).exits(0);
    assert!(
        ["nap", "more", "other"]
            .iter()
            .all(|n| said.out.contains(n)),
        "{said:?}"
    );
    project.cli(["stop", "other", "more"]).exits(0);
    assert_eq!(
        states(&project),
        [
            pair("nap", "running"),
            pair("more", "stopped"),
            pair("other", "stopped")
        ]
    );
    project.cli(["start", "other"]).exits(0);
    let twice = project.cli(["restart", "other", "other"]).exits(0);
    assert_eq!(twice.out.lines().count(), 1, "{twice:?}");
    for command in ["restart", "why", "wait", "start", "stop", "status", "logs"] {
        let unknown =
            "unknown process \"othr\"; did you mean \"other\"? processes: nap, more, other";
        let said = project.cli([command, "othr"]).exits(1).says(&[unknown]);
        assert!(said.err.starts_with("bpm: cannot "), "{said:?}");
    }
    project.cli(["restart"]).exits(2).says(&["--all"]);
    project.cli(["restart", "--all", "nap"]).exits(2);
    project.cli(["stop", "--force", "nap"]).exits(2);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_failed_restart_prints_the_first_errors() {
    let mut project = Project::new(APP);
    project.fake_cargo();
    project.source("exec sleep 1000");
    project.cli(["up"]).exits(0);
    project.file("src/broken", "mismatched types");
    let failed = project.cli(["restart", "app"]).exits(1);
    assert!(!failed.err.contains("search_"), "{failed:?}");
    failed.says(&[
        "bpm: ",
        "src/main.rs:3:5",
        "mismatched types",
        "old run",
        "hint: \"bpm logs --build app\" shows more\n",
    ]);
    let said = project.cli(["status"]).exits(0);
    assert!(
        said.out
            .contains("app: the last build failed; the old one still serves"),
        "{said:?}"
    );
    project.cli(["stop"]).exits(0);
}

#[test]
fn waiting_ends_when_it_is_so_or_can_not_be() {
    let project = Project::new(
        "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n\
         [process.once]\ncommand = \"echo hello; exit 3\"\nrestart = \"never\"\nautostart = false\n",
    );
    project.cli(["-d"]).exits(0);
    project.cli(["wait", "nap", "--timeout", "20"]).exits(0);
    project
        .cli(["wait", "nap", "--for", "exit", "--timeout", "0.1"])
        .exits(124)
        .says(&["not within 0.1s"]);
    let failed = project.cli(["start", "once"]).exits(1);
    assert!(
        failed.err.ends_with("hint: \"bpm logs once\" shows more\n"),
        "{failed:?}"
    );
    project.cli(["wait", "once", "--timeout", "20"]).exits(1);
    project.cli(["wait", "nap", "--for", "log"]).exits(2);
    project.cli(["wait", "nap", "--pattern", "x"]).exits(2);
    project
        .cli(["wait", "nap", "--for", "rain"])
        .exits(2)
        .says(&["ready, exit, build, log"]);
    project
        .cli(["wait", "nap", "--for", "log", "--pattern", "("])
        .exits(1);
    let said = project.cli(["why", "once"]).exits(0);
    assert!(
        said.out.contains("exit code 3") && said.out.contains("hello"),
        "{said:?}"
    );
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_reload_touches_what_changed() {
    let project = Project::new(TWO);
    project.cli(["up"]).exits(0);
    let before = project.cli(["status", "--json"]).out;
    assert_eq!(project.cli(["reload"]).exits(0).out, "nothing changed\n");
    let changed = TWO.replace("[process.other]", "[process.fourth]");
    project.config(&changed);
    let listed = project.cli(["reload", "--dry-run"]).exits(0).out;
    assert!(
        listed.contains("added: fourth") && listed.contains("removed: other"),
        "{listed}"
    );
    assert_eq!(states(&project).len(), 3);
    assert_eq!(project.cli(["reload"]).exits(0).out, listed);
    let names: Vec<String> = states(&project).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["nap", "more", "fourth"]);
    let after: Value = serde_json::from_str(&project.cli(["status", "--json"]).out).unwrap();
    let before: Value = serde_json::from_str(&before).unwrap();
    assert_eq!(before["processes"][0]["pid"], after["processes"][0]["pid"]);
    project.config("nonsense");
    project.cli(["reload"]).exits(1).says(&[".mcp-run:1:"]);
    assert_eq!(states(&project).len(), 3);
    project.cli(["stop"]).exits(0);
}

#[test]
fn the_status_is_a_table_or_a_document() {
    let project = Project::new(TWO);
    let none: Value =
        serde_json::from_str(&project.cli(["status", "--json"]).exits(3).out).unwrap();
    assert_eq!(
        (&none["schema"], &none["verdict"]),
        (&Value::from(1), &Value::from("stopped"))
    );
    assert!(none.get("mode").is_some_and(Value::is_null) && none["events"] == Value::Array(vec![]));
    project.cli(["up"]).exits(0);
    let said = project.cli(["status"]).exits(0);
    assert!(said.out.starts_with("NAME"), "{said:?}");
    assert!(!said.out.contains('\x1b'), "{said:?}");
    assert_eq!(said.out.lines().count(), 4);
    assert_eq!(
        project.cli(["status", "nap"]).exits(0).out.lines().count(),
        2
    );
    let document: Value = serde_json::from_str(&project.cli(["status", "--json"]).out).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["processes"].as_array().unwrap().len(), 3);
    project.cli(["stop"]).exits(0);
}

#[test]
fn the_project_is_found_from_below_and_by_name() {
    let project = Project::new(TWO);
    project.file("deep/below/file", "");
    let below = project.root.join("deep/below");
    let said = project
        .command(bpm())
        .arg("check")
        .current_dir(&below)
        .output()
        .unwrap();
    assert!(said.status.success());
    let root = project.root.to_str().unwrap();
    project.cli(["-C", root, "check"]).exits(0);
    project.cli(["check", "-C", root]).exits(0);
    project
        .cli(["check", "-C", below.to_str().unwrap()])
        .exits(1)
        .says(&["no .mcp-run in it"]);
    project
        .cli(["check", "-C", "/no/such/folder"])
        .exits(1)
        .says(&["cannot enter \"/no/such/folder\""]);
    let nowhere = Project::empty();
    nowhere
        .cli(["check"])
        .exits(1)
        .says(&["no .mcp-run in", "hint: "]);
    nowhere.cli([nowhere.root.as_os_str()]).exits(1);
}

#[test]
fn agents_get_no_line_for_http_that_lacks_a_token() {
    let project =
        Project::new("mcp_port = 3001\ntoken_file = \"token\"\n[process.a]\ncommand = \"x\"\n");
    let said = project.cli(["mcp-config"]).exits(0).says(&["token_file"]);
    assert!(
        said.out.contains(" proxy") && !said.out.contains("http://"),
        "{said:?}"
    );
    let said = project.cli(["mcp-config", "--stdio"]).exits(0);
    assert_eq!(said.err, "");
}

#[test]
fn agents_are_connected_by_what_is_printed() {
    let mut project = Project::new("mcp_port = 3001\n[process.a]\ncommand = \"x\"\n");
    let all = project.cli(["mcp-config"]).exits(0).out;
    // It fits from anywhere: bpm is not in PATH here, and BPM_HOME is set.
    let (bpm, home, root) = (bpm(), project.home(), &project.root);
    let (bpm, home, root) = (bpm.display(), home.display(), root.display());
    assert!(all.contains(&format!(
        "claude mcp add shop -e BPM_HOME={home} -- {bpm} proxy\nclaude mcp add --transport http shop http://127.0.0.1:3001/mcp\n"
    )), "{all}");
    assert!(
        all.contains(&format!(
            "codex mcp add --env BPM_HOME={home} shop -- {bpm} proxy {root}\n"
        )),
        "{all}"
    );
    // An entry of the user's names the project, one of the project's uses the client's own variable.
    for part in [
        format!("gemini mcp add -s user -e BPM_HOME={home} shop {bpm} proxy {root}\n"),
        format!(
            "{{\"context_servers\":{{\"shop\":{{\"args\":[\"proxy\",\"{root}\"],\"command\":\"{bpm}\",\"env\":{{\"BPM_HOME\":\"{home}\"}}}}}}}}"
        ),
        "{\"mcpServers\":{\"shop\":{\"args\":[\"proxy\",\"${workspaceFolder}\"],".into(),
        "{\"servers\":{\"shop\":{\"args\":[\"proxy\",\"${workspaceFolder}\"],".into(),
    ] {
        assert!(all.contains(&part), "{part}: {all}");
    }
    let codex = project.cli(["mcp-config", "codex"]).exits(0);
    codex.says(&["[mcp_servers.shop]: default_tools_approval_mode = \"approve\""]);
    for client in [
        "claude", "codex", "cursor", "vscode", "gemini", "opencode", "zed",
    ] {
        assert!(all.contains(&format!("# {client}\n")), "{all}");
        let one = project.cli(["mcp-config", client, "--stdio"]).exits(0).out;
        assert!(one.contains("proxy") && !one.contains("http"), "{one}");
        if let Some((_, json)) = one.split_once(": {") {
            serde_json::from_str::<Value>(&format!("{{{json}")).unwrap();
        }
    }
    project
        .cli(["mcp-config", "cluade"])
        .exits(2)
        .says(&["did you mean \"claude\"?"]);
    project.env("NO_COLOR", "1").cli(["mcp-config"]).exits(0);
}

#[test]
fn servers_of_two_worktrees_have_two_names() {
    let project = Project::new("");
    let trees = ["a", "b"].map(|n| {
        project.file(
            &format!("{n}/my_tree/.mcp-run"),
            "[process.nap]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n",
        );
        project.root.join(n).join("my_tree").display().to_string()
    });
    let name = |tree: &str| {
        let said = project.cli(["-C", tree, "mcp-config", "codex", "--stdio"]);
        let line = said.exits(0).out;
        assert!(line.ends_with(&format!("proxy {tree}\n")), "{line}");
        let before = line.split(" -- ").next().unwrap();
        before.split(' ').next_back().unwrap().to_string()
    };
    assert_eq!(name(&trees[0]), "my-tree");
    for tree in &trees {
        project.cli(["-C", tree, "-d"]).exits(0);
    }
    let names = trees.each_ref().map(|tree| name(tree));
    for name in &names {
        assert!(name.starts_with("my-tree-") && name.len() == 12, "{name}");
    }
    assert_ne!(names[0], names[1]);
    for tree in &trees {
        project.cli(["-C", tree, "stop"]).exits(0);
    }
}

#[test]
fn every_error_says_what_could_not_be_done() {
    let project = Project::new(
        "[process.bad]\ncommand = [\"./nope\"]\nautostart = false\n\
         [process.built]\ncommand = [\"FIXTURE\", \"nap\"]\nbuild = \"exit 3\"\nautostart = false\n\
         [process.ends]\ncommand = \"exit 4\"\nrestart = \"never\"\nautostart = false\n",
    );
    let said = |args: &[&str], code: i32| {
        let ended = project.cli(args).exits(code);
        let first = ended.err.lines().next().unwrap_or_default().to_string();
        assert!(first.starts_with("bpm: cannot "), "{args:?}: {ended:?}");
        first
    };
    for (args, why) in [
        (
            &["statsu"][..],
            "\"statsu\" is neither a command nor a folder",
        ),
        (
            &["up", "--tiemout", "3"],
            "unknown option \"--tiemout\" of bpm up",
        ),
        (&["restart"], "needs the name of a process, or --all"),
        (
            &["wait", "bad", "--for", "log"],
            "--for log needs --pattern RE",
        ),
        (&["help", "statsu"], "\"statsu\" is neither"),
    ] {
        let first = said(args, 2);
        assert_eq!(first.split(": ").nth(1), Some("cannot run this command"));
        assert!(first.contains(why), "{first}");
    }
    let first = said(&["-C", "/no/such", "status"], 1);
    assert_eq!(first, "bpm: cannot enter \"/no/such\": no such folder");
    project.cli(["-d"]).exits(0);
    let first = said(&["start", "bad"], 1);
    assert!(first.starts_with("bpm: cannot start bad: no such file: \"./nope\" in "));
    for args in [["start", "built"], ["restart", "built"], ["up", "built"]] {
        let first = said(&args, 1);
        assert!(first.contains(" built: build "), "{first}");
    }
    let first = said(&["start", "ends"], 1);
    assert!(
        first.starts_with("bpm: cannot start ends: it ended with exit code 4"),
        "{first}"
    );
    let first = said(&["wait", "ends", "--timeout", "60"], 1);
    assert_eq!(first, "bpm: cannot wait for ends: it failed: exit code 4");
    project.cli(["stop"]).exits(0);
}

#[test]
fn up_takes_the_options_of_a_start() {
    let project = Project::new(TWO);
    let daemon = || -> Value {
        serde_json::from_str(&project.cli(["daemon", "status", "--json"]).exits(0).out).unwrap()
    };
    project.cli(["up", "--port", "0"]).exits(0);
    let first = daemon();
    assert!(first["url"].is_null(), "{first}");
    project.cli(["up", "--replace", "--port=auto"]).exits(0);
    let second = daemon();
    assert!(
        second["url"].is_string() && second["pid"] != first["pid"],
        "{second}"
    );
    project.cli(["stop"]).exits(0);
}

#[test]
fn help_is_a_word_too() {
    let project = Project::empty();
    for (words, option) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "logs"], &["logs", "--help"]),
        (&["help", "daemon", "logs"], &["daemon", "logs", "--help"]),
        (&["help", "daemon"], &["daemon", "--help"]),
    ] {
        let text = project.cli(words).exits(0).out;
        assert_eq!(text, project.cli(option).exits(0).out);
    }
}
