//! The door serves both eras, over HTTP and over the Unix socket.

use std::time::Duration;

use crate::fixture::{META, PATIENCE, TestServer, post};
use bpm::base::clock::Mono;
use bpm::server::net::Policy;
use serde_json::{Value, json};

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn a_call_by_hand_needs_no_ceremony() {
    let server = TestServer::new();
    let mut http = server.tcp();
    assert_eq!(text(&http.call("echo", json!({"text": "a"}))), "a");
    assert_eq!(text(&http.call("search", json!({}))), "found");
    assert_eq!(text(&http.call("wait", json!({"ms": 20}))), "time over");
    assert_eq!(text(&http.call("heavy", json!({"ms": 20}))), "time over");
    let fail = http.call("fail", json!({}));
    assert_eq!(
        (text(&fail), &fail["result"]["isError"]),
        ("do X instead", &json!(true))
    );
    let data = http.call("data", json!({}));
    assert_eq!(data["result"]["structuredContent"]["kind"], "Agent");
    assert_eq!(http.call("nope", json!({}))["error"]["code"], -32602);
    assert_eq!(http.call("echo", json!([1]))["result"]["isError"], true);
    assert_eq!(server.shared.connections.get(), 1);
    assert_eq!(server.shared.clients.get(), 1);
    drop(http);
    server.shared.clients.until("no client", |n| n == 0);
}

#[test]
fn the_handshake_era_is_served_without_sessions() {
    let server = TestServer::new();
    let mut http = server.tcp();
    let hello = http.post(
        "Accept: application/json, text/event-stream\r\n",
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"codex","version":"1"}}}"#,
    );
    assert!(!hello.has("mcp-session-id"));
    assert_eq!(hello.json()["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(hello.json()["result"]["instructions"], "Do \"this\".");
    let taken = http.post(
        "",
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    );
    assert_eq!((taken.status, taken.body.len()), (202, 0));
    let mut ask = |method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "id": "x", "method": method, "params": params});
        let response = http.post("MCP-Protocol-Version: 2025-06-18\r\n", &body.to_string());
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    };
    assert_eq!(
        ask("tools/list", json!({}))["result"]["tools"][0]["name"],
        "echo"
    );
    assert_eq!(ask("ping", json!({}))["result"], json!({}));
    assert_eq!(
        ask("logging/setLevel", json!({"level": "info"}))["result"],
        json!({})
    );
    assert_eq!(
        ask("logging/setLevel", json!({"level": "loud"}))["error"]["code"],
        -32602
    );
    assert_eq!(
        ask("resources/list", json!({}))["result"]["resources"][0]["name"],
        "status"
    );
    assert_eq!(
        ask("resources/list", json!({"cursor": "x"}))["error"]["code"],
        -32602
    );
    assert_eq!(
        ask("resources/templates/list", json!({}))["result"]["resourceTemplates"][0]["name"],
        "log"
    );
    assert_eq!(
        ask("resources/read", json!({"uri": "test://status"}))["result"]["contents"][0]["text"],
        "hello"
    );
    let missing = ask("resources/read", json!({"uri": "test://no"}));
    assert_eq!(
        missing["error"],
        json!({"code": -32002, "message": "Resource not found", "data": {"uri": "test://no"}})
    );
    assert_eq!(
        ask("prompts/list", json!({}))["result"]["prompts"][0]["name"],
        "diagnose"
    );
    let prompt = ask(
        "prompts/get",
        json!({"name": "diagnose", "arguments": {"process": "web"}}),
    );
    assert_eq!(
        prompt["result"]["messages"][0]["content"]["text"],
        "Diagnose \"web\""
    );
    let completion = ask(
        "completion/complete",
        json!({"ref": {"type": "ref/prompt", "name": "diagnose"}, "argument": {"name": "process", "value": "w"}}),
    );
    let completion = &completion["result"]["completion"];
    assert_eq!(completion["values"].as_array().unwrap().len(), 100);
    assert_eq!(
        (&completion["total"], &completion["hasMore"]),
        (&json!(150), &json!(true))
    );
    for none in [
        "resources/subscribe",
        "server/discover",
        "subscriptions/listen",
        "bpm/kind",
        "no/such",
    ] {
        assert_eq!(ask(none, json!({}))["error"]["code"], -32601, "{none}");
    }
}

#[test]
fn the_modern_era_is_served_with_hints() {
    let server = TestServer::new();
    let mut http = server.tcp();
    let discover = http.modern("server/discover", "").json();
    let result = &discover["result"];
    assert_eq!(result["supportedVersions"][0], "2026-07-28");
    assert_eq!(
        (
            &result["resultType"],
            &result["ttlMs"],
            &result["cacheScope"]
        ),
        (&json!("complete"), &json!(3_600_000), &json!("public"))
    );
    assert_eq!(
        result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"],
        "fixture"
    );
    assert_eq!(
        result["capabilities"]["resources"],
        json!({"subscribe": true})
    );
    for (method, params) in [
        ("tools/list", ""),
        ("prompts/list", ""),
        ("resources/list", ""),
        ("resources/templates/list", ""),
        ("resources/read", r#""uri":"test://status""#),
    ] {
        let answer = http.modern(method, params).json();
        assert!(answer["result"]["ttlMs"].is_u64(), "{method}: {answer}");
    }
    let call = http
        .modern("tools/call", r#""name":"echo","arguments":{"text":"b"}"#)
        .json();
    assert_eq!((text(&call), &call["id"]), ("b", &json!("m")));
    assert_eq!(http.modern("ping", "").status, 404);
    let missing = http.modern("resources/read", r#""uri":"test://no""#);
    assert_eq!(
        (missing.status, &missing.json()["error"]["code"]),
        (200, &json!(-32602))
    );
    let same = |http: &mut crate::fixture::Http| http.modern("tools/list", "").body;
    assert_eq!(same(&mut http), same(&mut http));
}

#[test]
fn a_panic_is_one_answer() {
    let server = TestServer::new();
    let mut http = server.tcp();
    for tool in ["panic", "work_panic"] {
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}});
        let response = http.post("", &body.to_string());
        assert_eq!(
            (response.status, &response.json()["error"]["code"]),
            (500, &json!(-32603))
        );
    }
    assert_eq!(text(&http.call("echo", json!({}))), "nothing");
    assert_eq!(server.shared.log.lock().unwrap().len(), 2);
}

/// Where a panic can't be an answer, it is the end of one connection.
#[test]
fn a_panic_between_the_lines_is_one_connection() {
    let server = TestServer::new();
    let (mut other, mut lines) = (server.unix(), server.unix());
    other.tool(json!(1), "wait", json!({}));
    server.shared.waiting.until("one waits", |n| n == 1);
    lines.tool(json!(1), "wait", json!({}));
    lines.tool(json!(2), "trap", json!({}));
    assert_eq!(lines.next(), None);
    server
        .shared
        .waiting
        .until("its calls went with it", |n| n == 1);
    server.is_well();
    server.shared.release();
    assert_eq!(other.next().unwrap()["id"], 1);
    assert_eq!(server.shared.log.lock().unwrap().len(), 1);
}

#[test]
fn requests_of_one_socket_run_side_by_side() {
    let server = TestServer::new();
    let mut lines = server.unix();
    lines.tool(json!("slow"), "wait", json!({}));
    lines.tool(json!(2), "search", json!({}));
    assert_eq!(lines.next().unwrap()["id"], 2);
    assert_eq!(lines.call(json!(3), "ping", json!({}))["id"], 3);
    server.shared.release();
    let slow = lines.next().unwrap();
    assert_eq!((&slow["id"], text(&slow)), (&json!("slow"), "released"));
}

#[test]
fn a_cancelled_call_is_not_answered() {
    let server = TestServer::new();
    let mut lines = server.unix();
    lines.tool(json!(7), "wait", json!({}));
    server.shared.waiting.until("one waits", |n| n == 1);
    lines.send(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}),
    );
    server.shared.waiting.until("none waits", |n| n == 0);
    server.shared.release();
    assert_eq!(lines.call(json!(8), "ping", json!({}))["id"], 8);
}

#[test]
fn a_client_that_goes_away_ends_its_wait() {
    let server = TestServer::new();
    let wait =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait"}});
    let mut http = server.tcp();
    http.send(post("", &wait.to_string()));
    let mut lines = server.unix();
    lines.send(&wait);
    server.shared.waiting.until("two wait", |n| n == 2);
    drop(http);
    server.shared.waiting.until("one waits", |n| n == 1);
    drop(lines);
    server.shared.waiting.until("none waits", |n| n == 0);
}

#[test]
fn a_thousand_waiting_calls_hold_up_nobody() {
    let server = TestServer::new();
    let mut lines = server.unix();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    assert_eq!(lines.call(json!("x"), "ping", json!({}))["id"], "x");
    let before = threads();
    for id in 0..1_000 {
        lines.tool(json!(id), "wait", json!({}));
    }
    server.shared.waiting.until("all wait", |n| n == 1_000);
    // Other tests run beside this one, each with a thread or two of its own.
    assert!(threads() < before + 500);
    assert_eq!(text(&server.tcp().call("echo", json!({}))), "nothing");
    server.shared.release();
    let mut ids: Vec<i64> = (0..1_000)
        .map(|_| lines.next().unwrap()["id"].as_i64().unwrap())
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..1_000));
}

/// Answers and requests that had to wait for the reader go on when it reads, whoever was first.
#[test]
fn a_slow_reader_gets_everything() {
    let server = TestServer::new();
    let mut lines = server.unix();
    for id in 0..1_500 {
        lines.tool(json!(id), "wait", json!({}));
    }
    server.shared.waiting.until("all wait", |n| n == 1_500);
    server.shared.release();
    // More than the socket holds; sent by another thread, since nobody reads yet.
    let mut sender = lines.stream.try_clone().unwrap();
    let text = "x".repeat(2_000);
    let sent = std::thread::spawn(move || {
        for id in 1_500..3_000 {
            let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
                "params": {"name": "echo", "arguments": {"text": text}}});
            std::io::Write::write_all(&mut sender, format!("{call}\n").as_bytes()).unwrap();
        }
    });
    server.is_well();
    let mut ids: Vec<i64> = (0..3_000)
        .map(|_| lines.next().unwrap()["id"].as_i64().unwrap())
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..3_000));
    sent.join().unwrap();
}

#[test]
fn progress_turns_the_answer_into_a_stream() {
    let server = TestServer::new();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"steps","_meta":{"progressToken":"p"}}}"#;
    let mut http = server.tcp();
    http.send(post("", body));
    let head = http.head();
    assert!(
        head.has("content-type: text/event-stream") && head.has("x-accel-buffering: no"),
        "{head:?}"
    );
    for step in 1..=3 {
        let event = http.event();
        assert_eq!(
            event["params"],
            json!({"progressToken": "p", "progress": step})
        );
    }
    assert_eq!(text(&http.event()), "done");
    // Without a token nothing but the answer comes.
    assert_eq!(text(&server.tcp().call("steps", json!({}))), "done");
}

#[test]
fn a_listener_is_told_of_changes_once_a_second() {
    let server = TestServer::new();
    let mut http = server.tcp();
    let wanted = r#""notifications":{"toolsListChanged":true,"resourceSubscriptions":["test://a","other://b"]}"#;
    let head = http.modern("subscriptions/listen", wanted);
    assert!(head.status == 200 && head.has("text/event-stream"));
    let acknowledged = http.event();
    assert_eq!(
        acknowledged["method"],
        "notifications/subscriptions/acknowledged"
    );
    assert_eq!(
        acknowledged["params"]["notifications"],
        json!({"resourceSubscriptions": ["test://a"]})
    );
    let began = bpm::base::clock::Mono::now();
    server.shared.change();
    let update = http.event();
    assert_eq!(update["params"]["uri"], "test://a");
    assert_eq!(
        update["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "m"
    );
    for _ in 0..100 {
        server.shared.change();
    }
    assert_eq!(http.event()["method"], "notifications/resources/updated");
    assert!(bpm::base::clock::Mono::now().since(began) >= Duration::from_millis(999));
    server.drain(PATIENCE);
    let end = http.event();
    assert_eq!(
        (&end["id"], &end["result"]["resultType"]),
        (&json!("m"), &json!("complete"))
    );
    assert!(http.closed());
}

#[test]
fn nothing_honoured_ends_the_subscription_at_once() {
    let server = TestServer::new();
    let mut http = server.tcp();
    http.modern("subscriptions/listen", r#""notifications":{}"#);
    assert_eq!(http.event()["params"]["notifications"], json!({}));
    assert_eq!(http.event()["result"]["resultType"], "complete");
    let mut http = server.tcp();
    http.send(post(
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n",
        &format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{{META}}}}}"#
        ),
    ));
    assert_eq!(http.response().json()["error"]["code"], -32602);
}

#[test]
fn batches_are_of_one_revision() {
    let server = TestServer::new();
    let mut http = server.tcp();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},7,
        {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"search"}},
        {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"wait","arguments":{"ms":5}}}]"#;
    for extra in ["", "MCP-Protocol-Version: 2025-03-26\r\n"] {
        let answers = http.post(extra, batch).json();
        let mut ids: Vec<&Value> = answers
            .as_array()
            .unwrap()
            .iter()
            .map(|a| &a["id"])
            .collect();
        ids.sort_by_key(|id| id.as_i64());
        assert_eq!(ids, [&Value::Null, &json!(1), &json!(2), &json!(3)]);
    }
    assert_eq!(
        http.post("", r#"[{"jsonrpc":"2.0","method":"notifications/x"}]"#)
            .status,
        202
    );
    assert_eq!(
        http.post("MCP-Protocol-Version: 2025-11-25\r\n", batch)
            .status,
        400
    );
    assert_eq!(http.post("", "[]").status, 400);
    let many = vec!["{}"; 101].join(",");
    assert_eq!(http.post("", &format!("[{many}]")).status, 400);
    let mut lines = server.unix();
    lines.send(&serde_json::from_str(batch).unwrap());
    assert_eq!(lines.next().unwrap().as_array().unwrap().len(), 4);
    lines.call(
        json!(1),
        "initialize",
        json!({"protocolVersion": "2025-11-25"}),
    );
    lines.send(&serde_json::from_str(batch).unwrap());
    assert_eq!(lines.next().unwrap()["error"]["code"], -32600);
}

#[test]
fn pages_and_methods() {
    let server = TestServer::new();
    let mut http = server.tcp();
    assert_eq!(http.get("/healthz").json(), json!({"ok": true}));
    assert_eq!(http.get("/readyz?x").status, 200);
    for path in [
        "/",
        "/mcp/x",
        "/.well-known/oauth-protected-resource/mcp",
        "/mcp/.well-known/openid-configuration",
    ] {
        let answer = http.get(path);
        assert_eq!(answer.status, 404, "{path}");
        let why = answer.json()["error"]["message"].to_string();
        assert!(why.contains("/mcp"), "{why}");
        assert!(!answer.has("access-control"));
    }
    http.send("OPTIONS /x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:1\r\n\r\n");
    let options = http.response();
    assert!(options.status == 405 && options.has("\r\nallow: GET, HEAD\r\n"));
    assert!(!options.has("access-control"));
    let get = http.get("/mcp");
    assert!(get.status == 405 && get.has("\r\nallow: POST\r\n"));
    for method in ["DELETE", "OPTIONS", "PUT"] {
        http.send(format!("{method} /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(http.response().status, 405, "{method}");
    }
    http.send("POST /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let post = http.response();
    assert!(post.status == 405 && post.has("\r\nallow: GET, HEAD\r\n"));
    http.send("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = http.head();
    assert!(head.status == 200 && head.has("content-length: 11"));
    assert_eq!(http.get("/healthz").status, 200);
}

#[test]
fn json_alone_is_enough_where_the_answer_is_json() {
    let server = TestServer::new();
    let mut http = server.tcp();
    let json = "Accept: application/json\r\n";
    let call = |name: &str| {
        let params = json!({"name": name, "_meta": {"progressToken": "t"}});
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
    };
    for (name, said) in [("echo", "nothing"), ("search", "found"), ("steps", "done")] {
        let answer = http.post(json, &call(name));
        assert!(answer.has("content-type: application/json"), "{name}");
        assert_eq!(text(&answer.json()), said);
    }
    let answer = http.post("", &call("steps"));
    assert!(answer.has("content-type: text/event-stream"));
    let mut http = server.tcp();
    let listen = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":["test://a"]}},{META}}}}}"#
    );
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
    assert_eq!(http.post(&format!("{fields}{json}"), &listen).status, 406);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    http.send(post("", ping).replace("/mcp ", "/mcp/ "));
    assert_eq!(http.response().json()["result"], json!({}));
    assert_eq!(http.post("Accept: text/event-stream\r\n", ping).status, 406);
}

#[test]
fn the_first_words_on_the_socket_say_who_speaks() {
    let server = TestServer::new();
    for (client, kind, counted) in [("cli", "Cli", 0), ("tui", "Tui", 0), ("proxy", "Proxy", 1)] {
        let mut lines = server.unix();
        let hello = json!({"client": client, "version": "1", "protocol_version": 1});
        assert_eq!(
            lines.call(json!(1), "bpm/hello", hello)["result"],
            json!({})
        );
        assert_eq!(
            lines.call(json!(2), "bpm/kind", json!({}))["result"]["kind"],
            kind
        );
        server.shared.clients.until("counted", |n| n == counted);
        assert_eq!(
            lines.call(json!(3), "bpm/no", json!({}))["error"]["code"],
            -32601
        );
    }
    let mut http = server.tcp();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"data"}}"#;
    let answer = http.post("User-Agent: bpm-cli/0.1.0\r\n", body).json();
    assert_eq!(answer["result"]["structuredContent"]["kind"], "Cli");
}

#[test]
fn http_is_spoken_on_the_socket_too() {
    let server = TestServer::new();
    let mut http = crate::fixture::Http(std::io::BufReader::new(Box::new(server.unix().stream)));
    http.send("GET /healthz HTTP/1.1\r\nHost: anything\r\n\r\n");
    assert_eq!(http.response().status, 200);
    assert_eq!(text(&http.call("echo", json!({"text": "u"}))), "u");
}

#[test]
fn both_eras_come_on_one_socket() {
    let server = TestServer::new();
    let mut lines = server.unix();
    let meta: Value = serde_json::from_str(&format!("{{{META}}}")).unwrap();
    let discover = lines.call(json!("d"), "server/discover", meta.clone());
    assert_eq!(discover["result"]["resultType"], "complete");
    let mut old = meta.clone();
    old["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("1900-01-01");
    let refused = lines.call(json!(1), "tools/list", old);
    assert_eq!(refused["error"]["code"], -32022);
    assert_eq!(refused["error"]["data"]["requested"], "1900-01-01");
    assert!(
        lines.call(json!(2), "tools/list", json!({}))["result"]
            .get("resultType")
            .is_none()
    );
    let mut listen = meta;
    listen["notifications"] = json!({"resourceSubscriptions": ["test://a"]});
    assert_eq!(
        lines.call(json!("l"), "subscriptions/listen", listen)["method"],
        "notifications/subscriptions/acknowledged"
    );
    server.shared.change();
    assert_eq!(lines.next().unwrap()["params"]["uri"], "test://a");
    lines.stream.shutdown(std::net::Shutdown::Write).unwrap();
    server.drain(PATIENCE);
    assert_eq!(lines.next().unwrap()["id"], "l");
    assert_eq!(lines.next(), None);
}

#[test]
fn calls_in_flight_are_answered_while_bpm_stops() {
    let server = TestServer::new();
    let wait =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait"}});
    let (mut http, mut lines) = (server.tcp(), server.unix());
    http.send(post("", &wait.to_string()));
    lines.send(&wait);
    server.shared.waiting.until("two wait", |n| n == 2);
    server.door().control().refuse();
    server
        .shared
        .stopping
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let mut late = server.tcp();
    let refused = late.post("", &wait.to_string());
    assert_eq!(refused.status, 503);
    assert!(late.closed());
    assert_eq!(server.tcp().get("/healthz").status, 503);
    assert_eq!(lines.call(json!(2), "bpm/kind", json!({}))["id"], 2);
    assert_eq!(
        lines.call(json!(3), "ping", json!({}))["error"]["code"],
        -31000
    );
    let shared = std::sync::Arc::clone(&server.shared);
    shared.release();
    server.drain(PATIENCE);
    assert_eq!(text(&http.response().json()), "released");
    assert_eq!(text(&lines.next().unwrap()), "released");
    assert_eq!(lines.next(), None);
}

#[test]
fn the_grace_is_bounded() {
    let server = TestServer::new();
    let mut lines = server.unix();
    lines.tool(json!(1), "wait", json!({}));
    server.shared.waiting.until("one waits", |n| n == 1);
    server.drain(Duration::from_millis(50));
    assert_eq!(lines.next().unwrap()["error"]["code"], -31000);
    assert_eq!(lines.next(), None);
}

#[test]
fn client_that_reads_nothing_delays_no_end() {
    let server = TestServer::new();
    let (mut lines, mut other) = (server.unix(), server.unix());
    lines.tool(json!(1), "flood", json!({}));
    server.shared.waiting.until("it floods", |n| n == 1);
    other.tool(json!(2), "wait", json!({}));
    server.shared.waiting.until("another waits", |n| n == 2);
    let shared = std::sync::Arc::clone(&server.shared);
    let later = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(500));
        shared.release();
    });
    let begun = Mono::now();
    server.drain(PATIENCE);
    assert!(Mono::now().since(begun) < PATIENCE / 2);
    later.join().unwrap();
    // Who does read is waited for.
    assert!(other.next().unwrap()["result"].is_object());
    drop(lines);
}

#[test]
fn a_token_replaces_the_uid() {
    let policy = Policy {
        token: Some(b"secret".to_vec()),
        ..Policy::default()
    };
    let server = TestServer::with(policy);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let mut http = server.tcp();
    assert_eq!(http.get("/healthz").status, 200);
    assert_eq!(http.get("/readyz").status, 401);
    assert_eq!(
        http.get("/.well-known/oauth-protected-resource").status,
        404
    );
    assert_eq!(
        http.post("Authorization: Bearer secret\r\n", body).status,
        200
    );
    let doubled = "Authorization: Bearer secret\r\nAuthorization: Bearer x\r\n";
    assert_eq!(server.tcp().post(doubled, body).status, 401);
    let refused = http.post("Authorization: Bearer secreT\r\n", body);
    assert!(
        refused.status == 401
            && refused.has("www-authenticate: Bearer")
            && refused.has("connection: close")
    );
    server.door().control().set_policy(Policy::default());
    assert_eq!(server.tcp().post("", body).status, 200);
}

#[test]
fn strangers_by_name_are_refused_before_their_body() {
    let server = TestServer::on("[::1]:0", Policy::default());
    for fields in [
        "Host: evil.example\r\n",
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
    ] {
        let mut http = server.tcp();
        http.send(format!(
            "POST /mcp HTTP/1.1\r\n{fields}Content-Length: 1000\r\n\r\n"
        ));
        assert_eq!(http.response().status, 403, "{fields}");
        assert!(http.closed());
    }
    let mut http = server.tcp();
    http.send("POST /mcp HTTP/1.1\r\nX: y\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(http.response().status, 400);
    assert!(http.closed());
    assert_eq!(text(&server.tcp().call("echo", json!({}))), "nothing");
}
