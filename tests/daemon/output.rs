//! Whatever a process prints is kept within bounds, and found again.

use crate::common::{Project, eventually, log_data};
use serde_json::{Value, json};

/// The answer of `search_logs` as data, of a process called `a`.
fn search(project: &Project, mut args: Value) -> Value {
    args["process"] = json!("a");
    args["format"] = json!("json");
    log_data(&project.call("search_logs", args))
}

#[test]
fn all_output_of_a_process_that_ends_at_once_is_kept() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"FIXTURE\", \"burst\", \"2000\"]\nrestart = \"never\"\n",
    );
    project.serve();
    project.status_when("a", |s| s["state"] == "done");
    let first = search(&project, json!({"head": 1}));
    assert_eq!(first["matches"], 2000, "{first}");
    assert_eq!(first["lines"][0]["text"], "line 1");
    let last = search(&project, json!({"tail": 1}));
    assert_eq!(last["lines"][0]["text"], "line 2000");
    assert_eq!(last["exit"], "exit code 0");
    let one = search(&project, json!({"pattern": "line 1234"}));
    assert_eq!(
        (&one["matches"], &one["searched"]),
        (&json!(1), &json!(2000))
    );
}

#[test]
fn pipes_have_room_for_what_a_program_writes_before_it_ends() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: the pipes of an ordinary user are counted together");
    }
    let mut project = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    project.serve();
    let pid = project.running("a");
    for fd in [1, 2] {
        let pipe = std::fs::File::open(format!("/proc/{pid}/fd/{fd}")).unwrap();
        let size = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
        assert_eq!(size, 1 << 20, "descriptor {fd}");
    }
}

#[test]
fn line_of_megabytes_is_split_and_marked() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"FIXTURE\", \"long\", \"3145728\"]\nlog_bytes = \"8M\"\n",
    );
    project.serve();
    eventually(|| {
        let all = search(&project, json!({"tail": 0}));
        if all["matches"] == 48 {
            Ok(())
        } else {
            Err(all)
        }
    });
    let pieces = search(&project, json!({"head": 1}));
    let piece = &pieces["lines"][0];
    assert_eq!(piece["truncated"], true, "{piece}");
    let shown = piece["text"].as_str().unwrap().chars().count();
    assert!(
        (900..=1100).contains(&shown),
        "clipped in its middle: {shown}"
    );
}

#[test]
fn memory_is_bounded_and_what_is_dropped_is_counted() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"seq 100000; echo end; exec sleep 1000\"\nlog_lines = 100\nlog_bytes = \"64K\"\nlog_disk = 0\n",
    );
    project.serve();
    project.line("a", "end");
    let all = search(&project, json!({"head": 1}));
    let kept = all["matches"].as_u64().unwrap();
    assert!((1..=100).contains(&kept), "{all}");
    assert_eq!(all["dropped"].as_u64().unwrap() + kept, 100_001, "{all}");
    let status = project.status("a");
    assert_eq!(status["log_lines"].as_u64(), Some(kept), "{status}");
    assert_eq!(status["log_dropped"].as_u64(), Some(100_001 - kept));
}

#[test]
fn bytes_that_are_no_text_are_shown_as_well_as_can_be() {
    let mut project =
        Project::new("[process.a]\ncommand = [\"cat\", \"bytes\"]\nrestart = \"never\"\n");
    let bytes = b"plain\n\xff\xfe bad\nnul\0nul\n\x1b[31mred\x1b[0m\n\x1b]0;a title that never ends\nafter\nno newline";
    std::fs::write(project.root.join("bytes"), bytes).unwrap();
    project.serve();
    project.status_when("a", |s| s["state"] == "done");
    let found = search(&project, json!({}));
    let lines: Vec<&str> = found["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["text"].as_str().unwrap())
        .collect();
    assert_eq!(lines.len(), 7, "{lines:?}");
    assert_eq!(lines[0], "plain");
    assert_eq!(lines[1], "\u{fffd}\u{fffd} bad");
    assert!(lines[2].starts_with("nul") && lines[2].ends_with("nul"));
    assert_eq!(lines[3], "red");
    // The sequence ends with its line at the latest: what follows is not swallowed.
    assert_eq!(lines[5], "after");
    assert_eq!(lines[6], "no newline");
    assert!(!found.to_string().contains("\\u001b"), "{found}");
}

#[test]
fn escapes_are_gone_before_the_search() {
    let mut project = Project::new(
        r#"
[process.a]
command = ["printf", "\\033[1mer\\033[0mror: \\033[38;5;9mbad\\033[m\\n"]
restart = "never"
"#,
    );
    project.serve();
    project.status_when("a", |s| s["state"] == "done");
    assert_eq!(
        search(&project, json!({"pattern": "^error: bad$"}))["matches"],
        1
    );
    assert_eq!(
        search(&project, json!({"pattern": "38;5", "literal": true}))["matches"],
        0
    );
}

#[test]
fn unfinished_line_is_shown_without_a_number() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"printf 'password: '; read x <gate; echo >>passed; echo ok; exec sleep 1000\"\n",
    );
    let gate = project.gate();
    project.serve();
    project.line("a", "password: ");
    let before = search(&project, json!({}));
    let line = &before["lines"][0];
    assert_eq!(
        (&line["seq"], &line["partial"]),
        (&json!(null), &json!(true))
    );
    assert_eq!(
        (&before["matches"], &before["next"]),
        (&json!(0), &json!(0))
    );
    let args =
        json!({"process": "a", "for": "log", "pattern": "^password: $", "timeout_seconds": 60});
    let met = project.call("wait", args).ok();
    assert_eq!(
        (&met["met"], &met["seq"]),
        (&json!(true), &json!(null)),
        "{met}"
    );
    assert_eq!(
        search(&project, json!({"pattern": "word"}))["lines"][0]["match"],
        true
    );
    gate.open();
    project.line("a", "password: ok");
    let after = search(&project, json!({"after": before["next"]}));
    let line = &after["lines"][0];
    assert_eq!((&line["seq"], &line["partial"]), (&json!(1), &json!(false)));
    assert_eq!((&after["matches"], &after["next"]), (&json!(1), &json!(1)));
}

#[test]
fn prompt_makes_a_process_ready() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"printf 'loading\\\\rserving'; exec sleep 1000\"\nready.log = \"^serving$\"\n",
    );
    project.serve();
    project.status_when("a", |s| s["state"] == "running" && s["ready"] == true);
    assert_eq!(search(&project, json!({}))["lines"][0]["text"], "serving");
}

#[test]
fn line_shows_what_stands_behind_its_last_carriage_return() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"printf\", \"10%%\\\\r\\\\033[32m100%%\\\\033[0m\\\\r\\\\nnext\\\\n\"]\nrestart = \"never\"\n",
    );
    project.serve();
    project.status_when("a", |s| s["state"] == "done");
    let found = search(&project, json!({}));
    let texts: Vec<&Value> = found["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| &l["text"])
        .collect();
    assert_eq!(texts, ["100%", "next"]);
    assert_eq!(search(&project, json!({"pattern": "^10%"}))["matches"], 0);
    assert_eq!(search(&project, json!({"pattern": "^100%$"}))["matches"], 1);
}

#[test]
fn streams_are_told_apart() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"echo out; echo err >&2; echo end; exec sleep 1000\"\n",
    );
    project.serve();
    project.line("a", "end");
    let of = |stream: &str| project.lines("search_logs", json!({"process": "a", "stream": stream}));
    assert_eq!(of("stdout"), ["out", "end"]);
    assert_eq!(of("stderr"), ["err"]);
}

#[test]
fn search_shows_matches_context_and_where_it_goes_on() {
    let mut project = Project::new("[process.a]\ncommand = \"seq 100; exec sleep 1000\"\n");
    project.serve();
    project.line("a", "100");
    let text = |args: Value| {
        let mut args = args;
        args["process"] = json!("a");
        project.call("search_logs", args).text()
    };
    let found = text(json!({"pattern": "^(20|50)$", "context_lines": 1}));
    assert!(
        found.starts_with("   19\n * 20\n   21\n--\n   49\n * 50\n   51\n"),
        "{found}"
    );
    let last = found.lines().last().unwrap();
    assert!(
        last.starts_with("[run 1 (-1) | ") && last.ends_with(']'),
        "{last}"
    );
    let nothing = text(json!({"pattern": "nothing like it"}));
    assert!(nothing.contains("100 lines"), "{nothing}");

    // A cursor: only what came later.
    let first = search(&project, json!({"head": 50}));
    let next = first["next"].as_u64().unwrap();
    let rest = search(&project, json!({"after": next}));
    let rest: Vec<&Value> = rest["lines"].as_array().unwrap().iter().collect();
    assert_eq!(rest.len(), 50);
    assert_eq!(rest[0]["text"], "51");
    // Case, literal.
    assert_eq!(
        search(&project, json!({"pattern": "1.", "literal": true}))["matches"],
        0
    );
}

#[test]
fn run_is_found_after_its_end() {
    let mut project = Project::new(
        "release_crash_backoff_initial_seconds = 0\n[process.a]\ncommand = \"echo run $BPM_RUN; [ $BPM_RUN = 3 ] || exit 1; exec sleep 1000\"\n",
    );
    project.serve();
    project.line("a", "run 3");
    let text = |index: i64| search(&project, json!({"index": index}))["lines"][0]["text"].clone();
    assert_eq!(text(-1), "run 3");
    assert_eq!(text(-2), "run 2");
    assert_eq!(text(-3), "run 1");
    assert_eq!(text(0), "run 1");
    // Numbers rise over runs.
    let (old, new) = (
        search(&project, json!({"index": -2})),
        search(&project, json!({"index": -1})),
    );
    assert!(old["lines"][0]["seq"].as_u64() < new["lines"][0]["seq"].as_u64());
    let error = project
        .call("search_logs", json!({"process": "a", "index": -9}))
        .error();
    assert!(error.contains('9'), "{error}");
}

#[test]
fn query_that_cannot_be_done_is_refused() {
    let mut project = Project::new(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\n[process.api]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    project.serve();
    project.running("web");
    let error = |args: Value| project.call("search_logs", args).error();
    let unknown = error(json!({"process": "wbe"}));
    assert!(unknown.contains("unknown process \"wbe\""), "{unknown}");
    assert!(unknown.contains("did you mean \"web\"?"), "{unknown}");
    for name in ["api", "web"] {
        assert!(unknown.contains(name), "{unknown}");
    }
    let regex = error(json!({"process": "web", "pattern": "(unclosed"}));
    assert!(
        regex.contains("pattern") && regex.contains("group"),
        "{regex}"
    );
    let missing = error(json!({}));
    assert!(missing.contains("process"), "{missing}");
    let extra = error(json!({"process": "web", "patern": "x"}));
    assert!(
        extra.contains("patern") && extra.contains("pattern"),
        "{extra}"
    );
    let kind = error(json!({"process": "web", "tail": "many"}));
    assert!(kind.contains("tail"), "{kind}");
    let since = error(json!({"process": "web", "since": "yesterday"}));
    assert!(since.contains("yesterday"), "{since}");
    let nothing = project
        .call("search_logs", json!({"process": "web"}))
        .text();
    assert!(nothing.contains("no lines"), "{nothing}");
}

#[test]
fn hostile_pattern_ends_within_its_budget() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -n 10000; exec sleep 1000\"\n",
    );
    project.serve();
    eventually(|| {
        let lines = project.status("a")["log_lines"].clone();
        if lines == 10_000 { Ok(()) } else { Err(lines) }
    });
    let answer = project.call(
        "search_logs",
        json!({"process": "a", "pattern": "(?:a?){40}a{40}b"}),
    );
    // It is refused, or it ends early and says so; nobody else waits for it.
    assert!(
        answer.failed || answer.text.contains("time limit") || answer.text.contains("no match"),
        "{}",
        answer.text
    );
    project.running("a");
}

#[test]
fn lines_are_passed_through_with_the_name_before_them() {
    let mut project = Project::new(
        r#"
[process.web]
command = "echo to out; echo to err >&2; exec sleep 1000"
build = "echo from build"
[process.api]
command = "printf 'no newline'; exec sleep 1000"
"#,
    );
    project.serve();
    eventually(|| {
        let (out, err) = (project.out(), project.err());
        let there = out.lines().any(|l| l.contains("[web] to out"))
            && err.lines().any(|l| l.contains("[web] to err"))
            && (out.clone() + &err).contains("[build] ");
        if there { Ok(()) } else { Err((out, err)) }
    });
    project.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    assert!(
        project.out().contains("[api] no newline\n"),
        "{}",
        project.out()
    );
}

#[test]
fn passthrough_can_be_turned_off() {
    let mut project = Project::new(
        "passthrough = false\n[process.web]\ncommand = \"echo hidden; exec sleep 1000\"\n",
    );
    project.serve();
    project.line("web", "hidden");
    project.signal(nix::sys::signal::Signal::SIGTERM);
    project.ended();
    assert!(!project.out().contains("hidden"));
}

#[test]
fn passed_lines_do_not_let_the_daemon_log_grow() {
    let line = "0123456789".repeat(10);
    let mut project = Project::new(&format!(
        "passthrough = true\n[process.a]\ncommand = \"yes {line} | head -c 12000000; exec FIXTURE nap\"\n"
    ));
    project.up();
    let rotated = project.state_folder().unwrap().join("daemon.log.1");
    eventually(|| match std::fs::metadata(&rotated) {
        Ok(file) if file.len() > 10 << 20 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn unread_output_of_bpm_delays_no_process() {
    let mut project =
        Project::new("[process.a]\ncommand = \"seq 200000; echo end >&2; exec sleep 1000\"\n");
    // A pipe that nobody reads.
    let (_reader, writer) = nix::unistd::pipe().unwrap();
    project.serve_into(writer);
    project.status_when("a", |s| {
        s["log_lines"].as_u64().unwrap_or(0) + s["log_dropped"].as_u64().unwrap_or(0) == 200_001
    });
    project.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
}

#[test]
fn errors_are_grouped_by_shape_on_every_way() {
    let script = "echo listening; for n in 1 2 3; do echo \"error: request $n failed\" >&2; done; \\\n\
        echo '[warn] disk almost full'; echo end; exec sleep 1000";
    let mut project = Project::new(&format!(
        "[process.a]\ncommand = {script:?}\n[process.b]\ncommand = \"echo fine; exec sleep 1000\"\n"
    ));
    project.serve();
    project.line("a", "end");
    project.line("b", "fine");
    let data = eventually(|| {
        // The two streams come over two pipes.
        let data = project.call("get_errors", json!({"process": "a"})).data;
        if data["searched"] == 6 {
            Ok(data)
        } else {
            Err(data)
        }
    });
    assert_eq!(data["groups"][0]["count"], 3, "{data}");
    assert_eq!(data["groups"][0]["sample"], "error: request 1 failed");
    assert_eq!(data["groups"][1]["level"], "warning");
    let after = json!({"process": "a", "after": data["next"]});
    assert_eq!(project.call("get_errors", after).data["groups"], json!([]));

    let shown = project.cli(["logs", "a", "--errors"]).exits(0).out;
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("a: 3x error, "), "{shown}");
    assert_eq!(lines[1], "   error: request 1 failed");
    assert_eq!(lines[3..], ["   [warn] disk almost full"]);
    let all = project.cli(["logs", "--errors"]).exits(0).out;
    assert!(
        all.contains("a: 3x error, ") && all.contains("\n   error: request 1 failed\n"),
        "{all}"
    );
    let none = project.cli(["logs", "b", "--errors"]).exits(0).out;
    assert_eq!(
        none,
        "no line of b looks like an error or a warning, and it has not crashed\n"
    );
    let json = project.cli(["logs", "--errors", "--json"]).exits(0).out;
    let groups: Vec<Value> = json
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(groups.len(), 2, "{json}");
    assert_eq!(groups[0]["process"], "a");
    let refused = project.cli(["logs", "a", "--errors", "-f"]).exits(2).err;
    assert!(
        refused.contains("--follow does not go with --errors"),
        "{refused}"
    );
    project.cli(["logs", "none", "--errors"]).exits(1);
}
