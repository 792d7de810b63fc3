use serde_json::json;

use super::*;
use crate::server::rpc::Message;

fn request(value: Value) -> Request {
    match rpc::message(value) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn modern(method: &str, mut params: Value) -> Request {
    params["_meta"] = json!({VERSION: "2026-07-28", CAPABILITIES: {}, "io.modelcontextprotocol/clientInfo": {"name": "t"}});
    request(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

fn headers<'a>(method: &'a str, name: Option<&'a str>) -> Headers<'a> {
    Headers {
        version: Some(b"2026-07-28"),
        method: Some(method.as_bytes()),
        name: name.map(str::as_bytes),
        doubled: false,
    }
}

#[test]
fn the_first_failure_of_the_ladder_wins() {
    let call = || modern("tools/call", json!({"name": "logs"}));
    assert!(read(&call(), Some(&headers("tools/call", Some("logs")))).is_ok());
    assert!(
        read(
            &call(),
            Some(&headers("tools/call", Some("=?base64?bG9ncw==?=")))
        )
        .is_ok()
    );
    let refused = |request: Request, headers: &Headers<'_>| {
        let refusal = read(&request, Some(headers)).unwrap_err();
        (refusal.code, refusal.status)
    };
    let good = headers("tools/call", Some("logs"));
    let cases = [
        headers("tools/list", Some("logs")),
        headers("tools/call", Some("Logs")),
        headers("tools/call", None),
        headers("tools/call", Some("=?base64?bG9n!?=")),
        Headers {
            version: None,
            ..good
        },
        Headers {
            version: Some(b"2025-11-25"),
            ..good
        },
        Headers {
            doubled: true,
            ..good
        },
    ];
    for bad in cases {
        assert_eq!(refused(call(), &bad), (HEADER_MISMATCH, 400), "{bad:?}");
    }
    let mut old = call();
    old.params["_meta"][VERSION] = json!("1900-01-01");
    let matching = Headers {
        version: Some(b"1900-01-01"),
        ..good
    };
    assert_eq!(refused(old, &matching), (UNSUPPORTED_VERSION, 400));
    let mut bare = call();
    bare.params.remove("_meta");
    assert_eq!(refused(bare, &good), (INVALID_PARAMS, 400));
    for gone in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "no/such",
        "bpm/x",
    ] {
        let head = headers(gone, None);
        assert_eq!(
            refused(modern(gone, json!({})), &head),
            (METHOD_NOT_FOUND, 404)
        );
    }
}

#[test]
fn a_request_by_hand_is_of_the_handshake_era() {
    let by_hand = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "get_status", "arguments": {}}});
    let by_hand = request(by_hand);
    let call = read(&by_hand, Some(&Headers::default())).unwrap();
    assert_eq!(call.era, Era::Legacy);
    let verb = Verb::CallTool {
        name: "get_status",
        args: &json!({}),
    };
    assert_eq!(call.verb, verb);
}

#[test]
fn a_modern_version_in_initialize_is_answered_with_the_newest_handshake() {
    for (asked, answered) in [
        ("2026-07-28", "2025-11-25"),
        ("2024-11-05", "2024-11-05"),
        ("x", "2025-11-25"),
    ] {
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize",
                "params": {"protocolVersion": asked, "clientInfo": {"name": "t"}}});
        let hello = request(hello);
        let call = read(&hello, None).unwrap();
        assert_eq!(call.verb, Verb::Initialize { version: answered });
    }
}

#[test]
fn own_methods_are_known_on_the_socket_only() {
    let own = json!({"jsonrpc": "2.0", "id": 1, "method": "bpm/status"});
    let own = request(own);
    assert!(matches!(read(&own, None).unwrap().verb, Verb::Own { .. }));
    let refusal = read(&own, Some(&Headers::default())).unwrap_err();
    assert_eq!((refusal.code, refusal.status), (METHOD_NOT_FOUND, 200));
}

#[test]
fn base64_is_strict() {
    assert_eq!(base64(b"bG9ncw==").unwrap(), b"logs");
    assert_eq!(base64(b"").unwrap(), b"");
    for bad in ["a", "abc", "a===", "====", "bG9ncx==", "bG9n\n", "bG=n"] {
        assert_eq!(base64(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn results_have_what_their_era_adds() {
    let server = Mcp::new(&json!({"name": "t"}), "Do.", &json!([]));
    let answer = |era, result: Value| {
        let to = Envelope {
            id: json!("a"),
            era,
            cache: Some(NEVER),
            ignored: Vec::new(),
        };
        let mut out = Vec::new();
        server.put_result(&mut out, &to, result);
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    assert_eq!(
        answer(Era::Legacy, json!({"x": 1})),
        json!({"jsonrpc": "2.0", "id": "a", "result": {"x": 1}})
    );
    assert_eq!(
        answer(Era::Modern, json!({"x": 1, "resultType": "other"}))["result"],
        json!({"x": 1, "resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "_meta": {SERVER: {"name": "t"}}})
    );
    assert_eq!(
        answer(Era::Modern, json!({}))["result"]["resultType"],
        "complete"
    );
    assert_eq!(answer(Era::Legacy, json!([]))["result"], json!([]));
}
