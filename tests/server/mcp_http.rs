//! MCP over HTTP, as agents and curl speak it.

use crate::common::{Http, Project};
use serde_json::{Value, json};

const NAP: &str = "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn project() -> Project {
    let mut project = Project::new(NAP);
    project.serve();
    project
}

#[test]
fn a_call_by_hand_needs_no_ceremony() {
    let project = project();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_status","arguments":{"verbose":true}}}"#;
    let answer = project.http().ask("POST", "/mcp", &[JSON], body);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let data = &answer.json()["result"]["structuredContent"];
    assert_eq!(data["schema"], 1);
    assert_eq!(data["daemon"]["pid"], project.pid());
    assert_eq!(data["daemon"]["url"], project.descriptor()["url"]);
    assert_eq!(data["daemon"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(data["processes"][0]["name"], "nap");
}

#[test]
fn every_handshake_revision_is_answered_with_itself() {
    let project = project();
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let answer = project.rpc(
            "initialize",
            json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}),
        );
        let result = &answer["result"];
        assert_eq!(result["protocolVersion"], revision, "{answer}");
        assert_eq!(result["serverInfo"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(result["instructions"].as_str().unwrap().len() <= 1_200);
        let mut http = project.http();
        let headers = [JSON, ("MCP-Protocol-Version", revision)];
        let done = http.ask(
            "POST",
            "/mcp",
            &headers,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        );
        assert_eq!((done.status, done.body.as_str()), (202, ""));
        assert_eq!(done.header("mcp-session-id"), None);
    }
}

#[test]
fn the_stateless_revision_is_spoken_too() {
    let project = project();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}});
    let headers = [
        JSON,
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "server/discover"),
    ];
    let answer = project
        .http()
        .ask("POST", "/mcp", &headers, &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let versions = &answer.json()["result"]["supportedVersions"];
    assert!(
        versions.as_array().unwrap().contains(&json!("2026-07-28")),
        "{versions}"
    );
}

#[test]
fn the_list_of_tools_is_small_and_complete() {
    let project = project();
    let answer = project.rpc("tools/list", json!({}));
    let tools = answer["result"]["tools"].as_array().unwrap();
    let names: Vec<&str> = tools.iter().map(|t| t["name"].as_str().unwrap()).collect();
    for name in [
        "search_logs",
        "search_build_log",
        "restart",
        "get_status",
        "start",
        "stop",
        "wait",
        "get_errors",
        "reload",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    for tool in tools {
        assert!(tool["description"].is_string(), "{tool}");
        assert!(tool["annotations"].is_object(), "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
    }
    // With room for who counts blanks after commas and colons too.
    assert!(answer.to_string().len() < 15_000);
}

#[test]
fn mistakes_of_a_request_are_named() {
    let project = project();
    let mut http = project.http();
    let mut error = |body: &str| {
        let answer = http.post(body);
        (answer.status, answer.json()["error"]["code"].clone())
    };
    assert_eq!(error("{\"jsonrpc\""), (400, json!(-32700)));
    assert_eq!(error("7"), (400, json!(-32600)));
    assert_eq!(error(r#"{"jsonrpc":"2.0","id":1}"#).1, json!(-32600));
    assert_eq!(
        error(r#"{"jsonrpc":"2.0","id":1,"method":"no/such"}"#).1,
        json!(-32601)
    );
    let unknown = project.rpc("tools/call", json!({"name": "restrat", "arguments": {}}));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    let message = unknown["error"]["message"].as_str().unwrap();
    assert!(message.contains("restrat"), "{message}");
    let wrong = project.call("restart", json!({"process": "nop"})).error();
    assert!(wrong.contains("did you mean \"nap\"?"), "{wrong}");
    let wrong = project
        .call("restart", json!({"process": "nap", "mode": "fast"}))
        .error();
    assert!(wrong.contains("mode"), "{wrong}");
    project.running("nap");
}

#[test]
fn only_loopback_names_and_origins_are_served() {
    let project = project();
    let status = |headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        project.http().ask("POST", "/mcp", &headers, ping).status
    };
    assert_eq!(status(&[]), 200);
    assert_eq!(status(&[("Host", "localhost")]), 200);
    assert_eq!(status(&[("Host", "[::1]:3001")]), 200);
    assert_eq!(status(&[("Origin", "http://localhost:5173")]), 200);
    assert_eq!(status(&[("Host", "evil.example")]), 403);
    assert_eq!(status(&[("Host", "localhost.evil.example")]), 403);
    assert_eq!(status(&[("Origin", "https://evil.example")]), 403);
    assert_eq!(status(&[("Origin", "null")]), 403);
}

/// The url that bpm tells is one that it serves.
#[test]
fn the_address_that_it_is_bound_to_is_served() {
    let mut project = Project::new(&format!("bind = \"127.0.0.2\"\n{NAP}"));
    project.serve();
    assert_eq!(project.rpc("ping", json!({}))["result"], json!({}));
    let other = [JSON, ("Host", "127.0.0.3")];
    assert_eq!(project.http().ask("POST", "/mcp", &other, "{}").status, 403);
}

#[test]
fn other_methods_and_paths_than_post_to_mcp_have_their_status() {
    let project = project();
    let mut http = project.http();
    let mut ask = |method: &str, path: &str| {
        let answer = http.ask(method, path, &[JSON], "");
        (answer.status, answer.header("allow").map(str::to_string))
    };
    assert_eq!(ask("GET", "/mcp"), (405, Some("POST".into())));
    assert_eq!(ask("DELETE", "/mcp"), (405, Some("POST".into())));
    assert_eq!(ask("GET", "/nowhere").0, 404);
    assert_eq!(ask("POST", "/healthz").0, 405);
    let health = project.http().ask("GET", "/healthz", &[], "");
    assert_eq!(health.status, 200);
    let health = health.json();
    // However often it is asked, that is one line of the log in a minute.
    let log = std::fs::read_to_string(project.state_folder().unwrap().join("daemon.log")).unwrap();
    assert_eq!(log.matches("/healthz was asked: 200").count(), 1, "{log}");
    assert_eq!(
        (&health["ok"], &health["pid"]),
        (&json!(true), &json!(project.pid()))
    );
    let plain = project
        .http()
        .ask("POST", "/mcp", &[("Content-Type", "text/plain")], "{}");
    assert_eq!(plain.status, 415);
}

#[test]
fn a_body_that_is_too_large_is_refused_unread() {
    let project = project();
    let mut http = project.http();
    http.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000000000\r\n\r\n");
    assert_eq!(http.response().status, 413);
    project.running("nap");
}

/// Also where nothing else changes with it.
#[test]
fn a_process_that_a_reload_removed_is_not_shown() {
    let project = project();
    let names = || -> Vec<String> {
        let data = project.call("get_status", json!({})).ok();
        let processes = data["processes"].as_array().unwrap();
        let name = |p: &Value| p["name"].as_str().unwrap().to_owned();
        processes.iter().map(name).collect()
    };
    for rest in ["autostart = false\n", ""] {
        let more = NAP.replace("nap", "late");
        project.config(&format!("{NAP}{more}{rest}"));
        project.call("reload", json!({})).ok();
        assert_eq!(names(), ["nap", "late"]);
        project.config(NAP);
        project.call("reload", json!({})).ok();
        assert_eq!(names(), ["nap"]);
    }
}

#[test]
fn reload_applies_access_rules_and_says_what_it_can_not_apply() {
    let project = project();
    let reload = |keys: &str| {
        project.config(&format!("{keys}{NAP}"));
        let answer = project.call("reload", json!({}));
        match answer.failed {
            true => answer.text,
            false => answer.data["errors"].to_string(),
        }
    };
    let status = |fields: &[(&str, &str)]| {
        let fields: Vec<_> = fields.iter().copied().chain([JSON]).collect();
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        project.http().ask("POST", "/mcp", &fields, ping).status
    };
    let (host, origin) = (("Host", "dev.example"), ("Origin", "https://dev.example"));
    assert_eq!(status(&[host, origin]), 403);
    let names = "allowed_hosts = [\"dev.example\"]\nallowed_origins = [\"https://dev.example\"]\n";
    assert_eq!(reload(names), "[]");
    assert_eq!(status(&[host, origin]), 200);
    // A token that can't be read is a mistake, and nothing changes.
    let said = reload("token_file = \"token\"\n");
    assert!(said.contains("token"), "{said}");
    assert_eq!(status(&[host]), 200);
    project.file("token", "secret");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(project.root.join("token"), private).unwrap();
    project.config(&format!("token_file = \"token\"\n{NAP}"));
    project.cli(["reload"]).exits(0);
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("Authorization", "Bearer secret")]), 200);
    assert_eq!(status(&[host, ("Authorization", "Bearer secret")]), 403);
    project.config(&format!(
        "bind = \"127.0.0.2\"\ntoken_file = \"token\"\n{NAP}"
    ));
    let said = project.cli(["reload"]);
    assert!(
        said.err.contains("bind takes effect with") || said.out.contains("bind takes effect with"),
        "{said:?}"
    );
}

#[test]
fn calls_of_many_clients_run_side_by_side() {
    let mut project = Project::new("[process.app]\ntype = \"rust\"\n");
    project.fake_cargo();
    project.source("exec sleep 1000");
    project.serve();
    project.running("app");
    let gate = project.gate();
    let url = project.descriptor()["url"].as_str().unwrap().to_string();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let url = url.clone();
            std::thread::spawn(move || {
                Http::to(&url)
                    .call("restart", json!({"process": "app"}))
                    .ok()
            })
        })
        .collect();
    project.status_when("app", |s| s["build"]["state"] == "running");
    // Twenty wait, and others are served; at most one more build is owed to all of them.
    gate.open();
    let finished = |w: &Vec<std::thread::JoinHandle<Value>>| w.iter().all(|w| w.is_finished());
    crate::common::eventually(|| {
        if finished(&waiting) {
            return Ok(());
        }
        if project.status("app")["build"]["state"] == "running" {
            gate.open_if_waiting();
        }
        Err("still waiting")
    });
    for call in waiting {
        assert_eq!(call.join().unwrap()["ok"], true);
    }
    gate.remove();
}

/// Whatever is a megabyte long and means nothing comes back clipped, over HTTP and on the socket.
#[test]
fn mistakes_are_quoted_in_brief() {
    let mut project = Project::new(NAP);
    project.up();
    let long = "é".repeat(512 << 10);
    let tool = |name: &str, args: Value| json!({"name": name, "arguments": args});
    let modern = |version: &str| {
        json!({"_meta": {"io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {}}})
    };
    let asked = [
        (long.as_str(), json!({})),
        ("tools/call", tool(&long, json!({}))),
        ("prompts/get", tool(&long, json!({}))),
        ("prompts/get", tool("diagnose", json!({"process": long}))),
        ("prompts/get", tool("diagnose", json!({&long: "x"}))),
        ("resources/read", json!({"uri": long})),
        (
            "resources/read",
            json!({"uri": format!("bpm://logs/{long}")}),
        ),
        ("tools/list", modern(&long)),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": long}, "argument": {"name": "process", "value": long}}),
        ),
        ("logging/setLevel", json!({"level": long})),
        (
            "initialize",
            json!({"protocolVersion": long, "clientInfo": {"name": long}}),
        ),
        ("tools/call", tool("search_logs", json!({"process": long}))),
        (
            "tools/call",
            tool("search_logs", json!({"process": "nap", "pattern": long})),
        ),
        (
            "tools/call",
            tool("search_logs", json!({"process": "nap", "since": long})),
        ),
        (
            "tools/call",
            tool("search_logs", json!({"process": "nap", "format": long})),
        ),
        (
            "tools/call",
            tool("search_logs", json!({"process": "nap", "head": long})),
        ),
        (
            "tools/call",
            tool("search_logs", json!({"process": "nap", &long: 1})),
        ),
        (
            "tools/call",
            tool(
                "wait",
                json!({"process": "nap", "for": "log", "pattern": format!("({long}")}),
            ),
        ),
        ("tools/call", tool("restart", json!({"process": long}))),
        ("tools/call", json!({"name": "restart", "arguments": long})),
        ("bpm/why", json!({"process": long})),
        ("bpm/follow", json!({"processes": [long]})),
        (
            "bpm/follow",
            json!({"processes": {&long: 1}, "after": {&long: long}}),
        ),
        (long.as_str(), modern("2026-07-28")),
    ];
    let socket = project.descriptor()["socket"].as_str().unwrap();
    let mut lines = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let mut answers = std::io::BufReader::new(lines.try_clone().unwrap());
    for (method, params) in asked {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let by_http = project.http().post(&message.to_string()).body;
        std::io::Write::write_all(&mut lines, format!("{message}\n").as_bytes()).unwrap();
        let mut on_socket = String::new();
        std::io::BufRead::read_line(&mut answers, &mut on_socket).unwrap();
        for answer in [by_http, on_socket] {
            let parsed: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(parsed["id"], 1, "{method:.40} {answer:.2000}");
            assert!(
                answer.len() < 4_000,
                "{method:.40}: {} bytes: {answer:.2000}",
                answer.len()
            );
        }
    }
    project.cli(["daemon", "logs"]).exits(0);
    let log = std::fs::read_to_string(project.state_folder().unwrap().join("daemon.log")).unwrap();
    assert!(!log.contains("éé"), "{log:.2000}");
}
