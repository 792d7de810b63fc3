//! Resources, prompts, completions, pages.

use bpm::base::clock::Mono;
use bpm::engine::snapshot::{BuildState, State};
use bpm::server::service::Answer;
use bpm::server::service::Level;
use bpm::server::service::Open;
use bpm::server::service::Service;
use serde_json::Value;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::stage::*;

fn contents(answer: Answer) -> (String, String) {
    let Answer::Result(value) = answer else {
        panic!("{answer:?}")
    };
    let content = &value["contents"][0];
    let text = |key: &str| content[key].as_str().unwrap().to_owned();
    (text("mimeType"), text("text"))
}

#[test]
fn resources_are_listed_read_and_watched() {
    let mut web = unit("web");
    web.build = Some(build(1, BuildState::Ok));
    print(&web.log, 3);
    let stage = Stage::new(vec![web, unit("api")]);
    let uris: Vec<Value> = stage
        .tools
        .resources()
        .iter()
        .map(|r| r["uri"].clone())
        .collect();
    assert_eq!(
        uris,
        [
            "bpm://status",
            "bpm://logs/web",
            "bpm://build-log/web",
            "bpm://logs/api"
        ]
    );
    let read = |uri: &str| {
        stage
            .tools
            .read(&agent(), uri)
            .map(|step| contents(stage.finish(step, |_| None)))
    };
    let (mime, text) = read("bpm://status").unwrap();
    assert_eq!(mime, "application/json");
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["processes"][0]["name"], "web");
    let (mime, text) = read("bpm://logs/web").unwrap();
    assert_eq!(mime, "text/plain");
    assert!(text.starts_with("   line 1\n"), "{text}");
    assert!(
        read("bpm://build-log/api")
            .unwrap()
            .1
            .contains("has not been built yet")
    );
    for uri in [
        "bpm://logs/wbe",
        "bpm://logs",
        "bpm://logs/",
        "file:///etc/passwd",
        "",
    ] {
        assert!(read(uri).is_none(), "{uri}");
        assert!(stage.tools.watch(uri, &stage.waker).is_none(), "{uri}");
    }

    let mut status = stage.tools.watch("bpm://status", &stage.waker).unwrap();
    let mut logs = stage.tools.watch("bpm://logs/web", &stage.waker).unwrap();
    assert!(!status.changed() && !logs.changed());
    stage.change(|_| {});
    assert!(status.changed() && !status.changed() && !logs.changed());
    print(&stage.handle.snapshot.now().units[0].log, 1);
    assert!(logs.changed() && !logs.changed() && !status.changed());
    drop((status, logs));
    stage.waker.seen();
    stage.mailbox.take(&mut Vec::new());
    stage.change(|_| {});
    print(&stage.handle.snapshot.now().units[0].log, 1);
    let mut tokens = Vec::new();
    stage.mailbox.take(&mut tokens);
    assert!(tokens.is_empty(), "{tokens:?}");
}

#[test]
fn templates_and_completions_know_the_processes() {
    let stage = Stage::new(vec![unit("web"), unit("worker"), unit("api")]);
    let templates: Vec<Value> = stage
        .tools
        .templates()
        .iter()
        .map(|t| t["uriTemplate"].clone())
        .collect();
    assert_eq!(
        templates,
        ["bpm://logs/{process}", "bpm://build-log/{process}"]
    );
    let complete =
        |reference: Value, value: &str| stage.tools.complete(&reference, "process", value);
    let resource = json!({"type": "ref/resource", "uri": "bpm://logs/{process}"});
    assert_eq!(complete(resource.clone(), "W").unwrap(), ["web", "worker"]);
    let prompt = json!({"type": "ref/prompt", "name": "diagnose"});
    assert_eq!(complete(prompt, "").unwrap().len(), 3);
    assert!(complete(json!({"type": "ref/prompt", "name": "x"}), "").is_none());
    assert!(complete(json!("x"), "").is_none());
    assert!(
        stage
            .tools
            .complete(&resource, "other", "")
            .unwrap()
            .is_empty()
    );
}

#[test]
fn the_prompt_has_the_crash_card_and_the_last_lines() {
    let mut web = unit("web");
    web.facts.state = State::Crashed;
    web.facts.pid = None;
    web.facts.crashes = 3;
    web.facts.next_start = Some(Mono::now().after(Duration::from_secs(90)));
    web.exits = Arc::new(VecDeque::from([exit(1, 0), exit(2, 101)]));
    print(&web.log, 3);
    let stage = Stage::new(vec![web]);
    let prompts = stage.tools.prompts();
    assert_eq!(prompts[0]["name"], "diagnose");
    assert_eq!(prompts[0]["arguments"][0]["name"], "process");
    let get = |args: Value| {
        let step = stage.tools.prompt(&agent(), "diagnose", &args).unwrap();
        stage.finish(step, |_| None)
    };
    let Answer::Result(value) = get(json!({"process": "web"})) else {
        panic!()
    };
    assert_eq!(value["messages"][0]["role"], "user");
    let text = value["messages"][0]["content"]["text"].as_str().unwrap();
    for part in [
        "exit code 101",
        "thread 'main' panicked",
        "   line 3",
        "it starts again in 1m",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(matches!(get(json!({})), Answer::Error { code: -32602, .. }));
    assert!(matches!(
        get(json!({"process": "x"})),
        Answer::Error { code: -32602, .. }
    ));
    assert!(stage.tools.prompt(&agent(), "other", &json!({})).is_none());
}

#[test]
fn probes_are_answered_by_pages() {
    let mut task = idle("migrate", State::Done);
    task.facts.wanted = true;
    let stage = Stage::new(vec![unit("web"), task, idle("spare", State::Stopped)]);
    let page = |path: &str| {
        let page = stage.tools.page(path).unwrap();
        let body: Value = serde_json::from_slice(&page.body).unwrap();
        (page.status, body)
    };
    let (status, body) = page("/healthz");
    assert_eq!(status, 200);
    assert_eq!(body["ok"], true);
    assert_eq!(body["pid"], 4000);
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    assert!(body["uptime_seconds"].is_number());
    assert_eq!(page("/readyz").0, 200);
    stage.change_unit("web", |web| web.facts.state = State::Starting);
    let (status, body) = page("/readyz");
    assert_eq!((status, &body["waiting_for"]), (503, &json!(["web"])));
    stage.change(|snapshot| snapshot.stopping = true);
    assert_eq!(page("/healthz").0, 503);
    assert!(stage.tools.page("/").is_none());
}

#[test]
fn service_names_itself_and_logs_lines() {
    let stage = Stage::new(vec![unit("web")]);
    let info = stage.tools.info();
    assert_eq!(info["name"], "bpm");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    stage.tools.open(Open {
        connections: 4,
        agents: 3,
    });
    assert_eq!(
        stage.data("get_status", json!({"verbose": true}))["daemon"]["clients"],
        3
    );
    stage.tools.log(Level::Warn, "a client was refused");
    assert_eq!(*stage.said.lock().unwrap(), ["net: a client was refused"]);
}
