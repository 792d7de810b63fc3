//! Models as they are in the life of a project.

use bpm::base::clock::Mono;
use bpm::tui::model::{Batch, Clock, Dialect, Input, Link, Look, Model, Told};
use bpm::tui::output::Line;
use bpm::tui::status::Status;
use serde_json::{Value, json};

/// 2026-11-21 21:34:00 UTC, in milliseconds.
pub const NOW: i64 = 1_795_296_840_000;

pub fn clock(seconds: u64) -> Clock {
    Clock {
        now: Mono::from_nanos((1_000 + seconds) * 1_000_000_000),
        wall: NOW + (seconds * 1_000) as i64,
        offset: 0,
    }
}

pub fn tell(model: &mut Model, told: Told, seconds: u64) {
    model.update(Input::Told(Box::new(told)), clock(seconds));
}

/// Nothing is known yet.
pub fn new(look: Look) -> Model {
    Model::new(look, "shop")
}

pub fn look() -> Look {
    Look {
        mouse: true,
        local: true,
        ..Look::default()
    }
}

/// What a daemon answers for these processes.
pub fn status(processes: &[Value]) -> Status {
    Status::of(&json!({
        "schema": 1, "project": "shop", "mode": "dev", "release_in_seconds": 10_680,
        "daemon": {"pid": 6035, "version": "0.2.0", "uptime_seconds": 439_200.0, "rss_bytes": 3_145_728,
            "url": "http://127.0.0.1:41873/mcp", "clients": 2},
        "processes": processes,
        "events": [
            {"seq": 1, "time": "2026-11-21T21:30:02Z", "process": "api", "kind": "ended", "text": "ended (code 1)"},
            {"seq": 2, "time": "2026-11-21T21:33:47Z", "process": "api", "kind": "asked", "text": "restart asked"}],
        "next": 2}))
}

pub fn api() -> Value {
    json!({"name": "api", "type": "rust", "state": "running", "wanted": true, "mode": "dev", "pid": 4711,
        "uptime_seconds": 11_520.0, "ready": true, "healthy": null, "restarts": 2, "crashes": 1, "stale": true,
        "build": {"id": 12, "state": "failed", "ok": false, "at": "2026-11-21T21:30:50Z", "seconds": 10.0, "errors": [
            {"file": "src/main.rs", "line": 3, "column": 5, "message": "mismatched types"},
            {"file": "src/main.rs", "line": 9, "column": 1, "message": "cannot find value `x`"}]},
        "exit": {"code": null, "signal": "SEGV", "asked": false, "at": "2026-11-21T21:20:00Z", "uptime_seconds": 120.0},
        "ports": [8080], "url": "http://127.0.0.1:8080", "cpu_percent": 12.3, "rss_bytes": 50_541_363, "tasks": 9,
        "last_output_seconds": 1.0, "depends_on": []})
}

pub fn shop() -> Vec<Value> {
    vec![
        api(),
        json!({"name": "worker", "state": "crashed", "wanted": true, "restarts": 0, "crashes": 4,
            "exit": {"code": 3, "asked": false}, "next_start_in_seconds": 12.4}),
        json!({"name": "web", "state": "running", "wanted": true, "mode": "dev", "pid": 4720, "uptime_seconds": 60.0,
            "ready": false, "rolled_back": true, "cpu_percent": 0.0, "rss_bytes": 1_000_000, "depends_on": ["api"]}),
        json!({"name": "db-migrations", "state": "stopped", "wanted": false, "restarts": 0, "crashes": 0}),
        json!({"name": "search", "state": "building", "wanted": true,
            "build": {"id": 1, "state": "running", "phase": "compiling", "seconds": 3.0, "errors": []}}),
    ]
}

pub fn line(seq: u64, text: &str) -> Line {
    Line {
        seq,
        run: 12,
        at: NOW - 60_000 + seq as i64 * 1_000,
        stderr: text.contains("panicked"),
        text: text.into(),
    }
}

pub fn lines(model: &Model, lines: Vec<Line>, lost: u64) -> Told {
    Told::Lines(Batch {
        generation: model.log.generation,
        whole: !model.log.came,
        lines,
        lost,
    })
}

/// Connected, with a status and some lines.
pub fn live(look: Look) -> Model {
    let mut model = new(look);
    tell(&mut model, Told::Server(Dialect::Bpm, None), 0);
    tell(&mut model, Told::Link(Link::Live), 0);
    for second in 0..12 {
        let mut processes = shop();
        processes[0]["cpu_percent"] = json!((second * 37 % 100) as f64);
        if second == 11 {
            processes[0]["cpu_percent"] = json!(12.3);
        }
        tell(&mut model, Told::Status(status(&processes)), second);
    }
    let some = [
        "listening on 8080",
        "\u{1b}[32mGET\u{1b}[0m /index.html 200",
        "thread 'main' panicked at src/main.rs:19",
        "a tab\there, a bell\u{7} and a title\u{1b}]0;evil\u{7}",
    ];
    let some = (1..).zip(some).map(|(n, text)| line(n, text)).collect();
    let told = lines(&model, some, 0);
    tell(&mut model, told, 11);
    let mut later = vec![line(9, "another run says this")];
    later[0].run = 13;
    let told = lines(&model, later, 312);
    tell(&mut model, told, 11);
    model
}

/// 500 processes.
pub fn many(look: Look) -> Model {
    let mut model = new(look);
    tell(&mut model, Told::Link(Link::Live), 0);
    let processes: Vec<Value> = (0..500)
        .map(|n| {
            json!({"name": format!("service-number-{n:03}"), "state": "running", "wanted": true, "mode": "release",
                "pid": 10_000 + n, "uptime_seconds": 5.0, "ready": true, "cpu_percent": 0.1, "rss_bytes": 2_000_000})
        })
        .collect();
    tell(&mut model, Told::Status(status(&processes)), 0);
    model
}

/// Wide characters everywhere.
pub fn wide(look: Look) -> Model {
    let mut model = new(look);
    tell(&mut model, Told::Link(Link::Live), 0);
    let mut processes = shop();
    processes[1]["exit"] = Value::Null;
    processes[1]["reason"] = json!("ファイルがない");
    tell(&mut model, Told::Status(status(&processes)), 0);
    let some = [
        "日本語のログ、とても長い行です。日本語のログ、とても長い行です。終わり",
        "e\u{301}tude 👩\u{200d}💻 fini",
    ];
    let some = (1..).zip(some).map(|(n, text)| line(n, text)).collect();
    let told = lines(&model, some, 0);
    tell(&mut model, told, 0);
    model
}
