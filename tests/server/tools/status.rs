//! `get_status`.

use bpm::base::clock::Mono;
use bpm::engine::snapshot::{State, UnitView};
use bpm::server::service::Step;
use bpm::tools::{Kernel, Meter};
use serde_json::Value;
use serde_json::json;
use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::stage::*;

#[test]
fn status_says_that_a_log_is_not_written_to_disk() {
    let (web, db) = (unit("web"), unit("db"));
    let logs = [Arc::clone(&web.log), Arc::clone(&web.build_log)];
    let stage = Stage::new(vec![web, db]);
    let told = |trouble: Option<&str>| {
        // An answer that nothing has changed is kept for a moment.
        stage.change(|_| {});
        let answer = stage.finish(stage.step("get_status", json!({})), |_| None);
        let (value, text) = stage.checked("get_status", answer);
        assert_eq!(value["processes"][0]["log_trouble"], json!(trouble));
        assert!(value["processes"][1].get("log_trouble").is_none());
        assert_eq!(text.contains("in memory only"), trouble.is_some(), "{text}");
        assert!(text.contains(trouble.unwrap_or_default()), "{text}");
    };
    told(None);
    let calls = Arc::new(AtomicU32::new(0));
    for log in &logs {
        let calls = Arc::clone(&calls);
        log.on_trouble(Box::new(move || {
            calls.fetch_add(1, Ordering::Relaxed);
        }));
        let why = "cannot write /l/000003-00.log: no space left on device";
        for _ in 0..2 {
            log.set_trouble(Some(why.into()));
        }
        told(Some(why));
        for _ in 0..2 {
            log.set_trouble(None);
        }
        told(None);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 4, "only changes are told");
}

#[test]
fn status_has_each_field_and_reads_usage_once_a_second() {
    let mut web = unit("web");
    web.build = Some(broken(8));
    web.facts.stale = true;
    web.exits = Arc::new(VecDeque::from([exit(3, 101)]));
    web.port = Some(5173);
    web.depends_on = vec!["db".into()];
    print(&web.log, 12);
    let stage = Stage::new(vec![web, idle("db", State::Stopped)]);
    stage.change(|snapshot| {
        snapshot.release_at = Some(Mono::now().after(Duration::from_secs(600)));
        snapshot.events = (1..=9)
            .map(|i| event(i, "web", "state", "running"))
            .collect();
    });
    let all = json!({"verbose": true});
    let step = stage.step("get_status", all.clone());
    assert!(
        matches!(step, Step::Work(_)),
        "the first reading is done on a worker"
    );
    let answer = stage.finish(step, |_| None);
    let (value, text) = stage.checked("get_status", answer);
    assert!(
        matches!(stage.step("get_status", all), Step::Done(_)),
        "the next is at hand"
    );
    assert_eq!(*stage.readings.lock().unwrap(), 1);

    assert_eq!(value["schema"], 1);
    assert_eq!(value["project"], "shop");
    assert_eq!(value["mode"], "dev");
    assert_eq!(value["daemon"]["pid"], 4000);
    assert_eq!(value["daemon"]["rss_bytes"], 3 << 20);
    assert_eq!(value["daemon"]["instance_id"], "0123abcd");
    assert!(value["release_in_seconds"].as_f64().unwrap() > 590.0);
    let web = &value["processes"][0];
    for (key, want) in [
        ("name", json!("web")),
        ("type", json!("rust")),
        ("state", json!("running")),
        ("wanted", json!(true)),
        ("pid", json!(4711)),
        ("ready", json!(true)),
        ("healthy", Value::Null),
        ("stale", json!(true)),
        ("ports", json!([5173, 9229])),
        ("url", json!("http://[::1]:5173")),
        ("cpu_seconds", json!(1.5)),
        ("rss_bytes", json!(48 << 20)),
        ("tasks", json!(5)),
        ("log_lines", json!(12)),
        ("log_dropped", json!(0)),
        ("depends_on", json!(["db"])),
        ("since", json!("2026-11-21T02:46:50.123Z")),
    ] {
        assert_eq!(web[key], want, "{key}");
    }
    assert_eq!(web["build"]["errors"][0]["line"], 3);
    assert_eq!(web["build"]["seconds"], 3.2);
    assert_eq!(web["exit"]["code"], 101);
    assert_eq!(value["processes"][1]["pid"], Value::Null);
    assert_eq!(value["processes"][1]["ports"], json!([]));

    let seqs = |value: &Value| -> Vec<u64> {
        let events = value["events"].as_array().unwrap();
        events.iter().map(|e| e["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(seqs(&value), [5, 6, 7, 8, 9]);
    assert_eq!(value["next"], 9);
    assert_eq!(
        seqs(&stage.data("get_status", json!({"events_since": 7}))),
        [8, 9]
    );
    assert_eq!(
        seqs(&stage.data("get_status", json!({"events_since": 0}))).len(),
        9
    );
    assert!(seqs(&stage.data("get_status", json!({"events_since": 9}))).is_empty());
    let of_before = json!({"events_since": 5_000});
    assert_eq!(seqs(&stage.data("get_status", of_before)).len(), 9);
    let db = stage.data("get_status", json!({"process": "db", "events_since": 0}));
    assert_eq!(db["processes"].as_array().unwrap().len(), 1);
    assert!(seqs(&db).is_empty());

    for part in [
        "Mode: Dev\nTime until release mode: 9 minutes 59 seconds\nDaemon: bpm ",
        "\nProcesses:\n\n  web: running\n    Uptime: ",
        "      src/main.rs:3:5: E0308: mismatched types",
        "    last exit: exit code 101",
        "    URL: http://[::1]:5173\n",
        "    Recent events:\n      - 2026-",
        "\n\n  db: stopped\n",
        "\n[next 9]",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn usage_of_a_new_run_is_read_again() {
    let stage = Stage::new(vec![unit("web")]);
    stage.data("get_status", json!({}));
    stage.change_unit("web", |web| web.facts.pid = Some(4712));
    let value = stage.data("get_status", json!({"verbose": true}));
    assert_eq!(value["processes"][0]["rss_bytes"], 48 << 20);
    assert_eq!(*stage.readings.lock().unwrap(), 2);
}

#[test]
fn the_words_of_many_processes_stay_short() {
    let units = (0..300)
        .map(|i| {
            let mut unit = unit(&format!("process-{i}"));
            unit.build = Some(broken(3));
            unit
        })
        .collect();
    let stage = Stage::new(units);
    let text = stage.text("get_status", json!({}));
    assert!(text.chars().count() <= 10_000);
    assert!(text.contains("more processes left out: "), "{text}");
    assert!(text.ends_with("\n[next 0]"), "{text}");
    let value = stage.data("get_status", json!({}));
    assert!(value.to_string().len() <= 10_000);
    let shown = value["processes"].as_array().unwrap().len();
    assert_eq!(value["not_shown"]["running"], 300 - shown);
}

/// What is as expected is not said, so that many processes fit into what a model is shown.
#[test]
fn a_short_answer_tells_ends_that_surprise_alone() {
    let mut done = idle("migrate", State::Done);
    done.exits = Arc::new(VecDeque::from([exit(1, 0)]));
    let mut css = idle("css", State::Crashed);
    css.exits = Arc::new(VecDeque::from([exit(1, 0)]));
    // bpm ended it, since it did not become ready: nobody asked for that.
    let mut deaf = idle("deaf", State::Crashed);
    let mut ended = exit(1, 0);
    (ended.asked, ended.crash) = (true, true);
    ended.fault = Some("not ready within 1 s".into());
    deaf.exits = Arc::new(VecDeque::from([ended]));
    let stage = Stage::new(vec![done, css, deaf]);
    let answer = stage.call("get_status", json!({}));
    let (value, text) = stage.checked("get_status", answer);
    let [css, deaf, migrate] = value["processes"].as_array().unwrap().as_slice() else {
        panic!("{value}");
    };
    assert_eq!(deaf["exit"]["ended_by_bpm"], "not ready within 1 s");
    assert!(
        text.contains("(ended by bpm: not ready within 1 s), "),
        "{text}"
    );
    assert_eq!(migrate["name"], "migrate");
    assert!(migrate.get("exit").is_none(), "{migrate}");
    // That it ended with 0 is just what has to be known.
    assert_eq!(css["exit"]["code"], 0);
}

#[test]
fn a_short_answer_has_what_is_not_as_expected() {
    let mut units: Vec<UnitView> = (0..9).map(|i| unit(&format!("worker-{i}"))).collect();
    let mut down = idle("mailer", State::Crashed);
    down.facts.wanted = true;
    down.facts.crashes = 3;
    down.facts.next_start = Some(Mono::now().after(Duration::from_secs(9)));
    down.exits = Arc::new(VecDeque::from([exit(3, 1)]));
    down.build = Some(broken(2));
    units.push(down);
    let stage = Stage::new(units.clone());
    stage.change(|snapshot| {
        snapshot.events = (1..=9)
            .map(|i| event(i, "mailer", "state", "crashed: it ended with exit code 1"))
            .collect();
    });
    let answer = stage.call("get_status", json!({}));
    let (value, text) = stage.checked("get_status", answer);
    assert!(
        value.to_string().len() <= 2_500,
        "{}",
        value.to_string().len()
    );
    assert!(text.chars().count() <= 2_500, "{}", text.len());
    let first = &value["processes"][0];
    assert_eq!(first["name"], "mailer", "what is wrong comes first");
    assert_eq!(first["build"]["errors"][0]["line"], 3);
    assert_eq!(
        (&first["exit"]["code"], &first["crashes"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(first["exit"]["last_line"], "thread 'main' panicked");
    assert!(first.get("url").is_none(), "it does not run");
    assert!(
        text.contains("; last line: thread 'main' panicked\n"),
        "{text}"
    );
    assert!(first["next_start_in_seconds"].is_number());
    let second = value["processes"][1].as_object().unwrap();
    let keys: Vec<&String> = second.keys().collect();
    assert_eq!(
        keys,
        ["name", "pid", "ports", "state", "uptime_seconds", "url"]
    );
    let daemon: Vec<&String> = value["daemon"].as_object().unwrap().keys().collect();
    assert_eq!(daemon, ["pid", "uptime_seconds", "version"]);
    assert!(
        text.contains("Processes:\n\n  mailer: crashed\n    Crash count: 3\n"),
        "{text}"
    );
    // No other line begins with two blanks and holds a colon, and a blank line stands between processes.
    let named =
        |line: &&str| line.starts_with("  ") && !line.starts_with("   ") && line.contains(':');
    assert_eq!(text.lines().filter(named).count(), 10);
    assert_eq!(text.matches("\n\n  ").count(), 10);

    for i in 9..29 {
        units.push(unit(&format!("worker-{i}")));
    }
    let stage = Stage::new(units);
    let value = stage.data("get_status", json!({}));
    assert_eq!(value["processes"].as_array().unwrap().len(), 30);
    assert!(
        value.to_string().len() <= 8_000,
        "{}",
        value.to_string().len()
    );

    let one = stage.call("get_status", json!({"process": "mailer"}));
    let (value, text) = stage.checked("get_status", one);
    assert_eq!(value["processes"][0]["wanted"], true);
    assert_eq!(value["processes"][0]["log_lines"], 0);
    assert!(value["processes"][0].get("pid").is_none());
    assert_eq!(value["tail"], json!(["thread 'main' panicked"]));
    assert!(
        text.contains("    the last lines of that run:\n      thread 'main' panicked\n"),
        "{text}"
    );

    assert!(value.get("stopping").is_none());
    stage.change(|snapshot| snapshot.stopping = true);
    let short = stage.call("get_status", json!({}));
    let (value, text) = stage.checked("get_status", short);
    assert_eq!(value["stopping"], true);
    assert!(text.contains(", stopping\n"), "{text}");
}

#[test]
fn events_of_an_earlier_daemon_are_missed_and_many_are_paged() {
    let stage = Stage::new(vec![unit("web")]);
    stage.change(|snapshot| {
        snapshot.before = 10_000_012;
        snapshot.before_used = 12;
        snapshot.events = (10_000_013..10_000_133)
            .map(|i| event(i, "web", "state", "running"))
            .collect();
    });
    let ask = |after: u64| stage.data("get_status", json!({"events_since": after}));
    let first = ask(10);
    assert_eq!(first["events_missed"], 2);
    assert_eq!(first["events"].as_array().unwrap().len(), 50);
    assert_eq!(first["next"], 10_000_062);
    let second = ask(first["next"].as_u64().unwrap());
    assert!(second.get("events_missed").is_none());
    assert_eq!(second["events"][0]["seq"], 10_000_063);
    let last = ask(second["next"].as_u64().unwrap());
    assert_eq!(last["events"].as_array().unwrap().len(), 20);
    assert_eq!(last["next"], 10_000_132);
    assert_eq!(
        ask(500)["events_missed"],
        1,
        "how many were used is not known"
    );
    let text = stage.text("get_status", json!({"events_since": 10}));
    assert!(
        text.contains("2 earlier events are no longer known"),
        "{text}"
    );
}

#[test]
fn the_kernel_tells_what_a_group_uses() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let socket: std::os::fd::OwnedFd = listener.into();
    // It holds the socket as its standard input.
    let mut child = Command::new("sleep")
        .arg("600")
        .stdin(socket)
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    let groups = Kernel.groups(&[pid, i32::MAX], &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    let group = groups[0].clone().unwrap();
    assert_eq!((group.tasks, group.ports), (1, vec![at]));
    assert_eq!(groups[1], None);
    assert!(Kernel.own_rss() > 0);
}

/// What the file has by now is not unknown.
#[test]
fn a_new_name_in_a_changed_file_is_not_unknown() {
    let folder = std::env::temp_dir().join(format!("bpm-new-name-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(".mcp-run");
    std::fs::write(&file, "[process.web]\ncommand = \"true\"\n").unwrap();
    let stage = Stage::new(vec![unit("web")]);
    stage.change(|snapshot| {
        snapshot.root = folder.clone();
        snapshot.config = bpm::os::files::digest(&file);
    });
    let args = json!({"process": "late"});
    assert!(
        stage
            .fail("start", args.clone())
            .contains("unknown process")
    );
    let more = "[process.web]\ncommand = \"true\"\n[process.late]\ncommand = \"true\"\n";
    std::fs::write(&file, more).unwrap();
    assert_eq!(
        stage.fail("start", args),
        "\"late\" stands in .mcp-run, which has changed since it was read: reload takes it over"
    );
    assert!(
        stage
            .fail("start", json!({"process": "later"}))
            .contains("unknown process")
    );
    std::fs::remove_dir_all(&folder).unwrap();
}
