use super::*;
use crate::log::block::testing::Random;

fn of(text: &str) -> (Option<String>, Option<String>) {
    let head = head(text.as_bytes());
    (
        head.id.map(|id| String::from_utf8(id).unwrap()),
        head.method,
    )
}

#[test]
fn heads_are_found_wherever_they_stand() {
    let (id, method) = (Some("1".to_string()), Some("m".to_string()));
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"id":2,"method":"x"}}"#,
        r#"{"params":{"id":2,"a":["}",{"id":3}]},"method":"m","id":1}"#,
        r#"{ "params" : "a\"}," , "method" : "m" , "id" : 1 }"#,
        r#"{"params":[],"x":-1.5e3,"y":null,"z":true,"method":"m","id":1}"#,
    ] {
        assert_eq!(of(text), (id.clone(), method.clone()), "{text}");
    }
    assert_eq!(of(r#"{"id":"a b","method":"m"}"#).0, Some("\"a b\"".into()));
    assert_eq!(of(r#"{"id":1,"result":{"method":"m"}}"#), (id, None));
    assert_eq!(of(r#"{"method":"m"}"#), (None, method));
    assert_eq!(of(r#"{"id":null,"error":{}}"#), (None, None));
}

#[test]
fn what_is_no_json_has_no_head_and_does_no_harm() {
    for text in [
        "{",
        "{}",
        "{\"",
        "{\"a",
        "{\"a\"",
        "{\"a\":",
        "{\"id\":\"",
        "{\"a\":[",
        "{\"a\\",
        "{]",
        "{\"id\":]",
    ] {
        let head = head(text.as_bytes());
        assert!(!head.is_request(), "{text}");
    }
    assert_eq!(heads(b"x"), []);
    assert_eq!(heads(b""), []);
    assert_eq!(heads(b"[1"), []);
}

#[test]
fn scanning_agrees_with_a_parser() {
    // A small generator of JSON, so that no crate is needed for it.
    let mut random = Random(42);
    let mut next = |n: u64| random.next() % n;
    fn value(next: &mut impl FnMut(u64) -> u64, depth: u32) -> Value {
        match next(if depth > 3 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => (next(1000) as i64 - 500).into(),
            2 => (next(100) as f64 / 7.0).into(),
            3 => true.into(),
            4 => ["", "a\"b", "\\", "}{][,:", "id", "日本"][next(6) as usize].into(),
            5 => (0..next(4)).map(|_| value(next, depth + 1)).collect(),
            _ => {
                let keys = ["id", "method", "a", "b\"c", "result2"];
                let n = next(4);
                (0..n)
                    .map(|_| (keys[next(5) as usize].to_string(), value(next, depth + 1)))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }
        }
    }
    for _ in 0..20_000 {
        let message = value(&mut next, 0);
        let Value::Object(fields) = &message else {
            continue;
        };
        let head = head(message.to_string().as_bytes());
        let id = fields.get("id").filter(|id| !id.is_null());
        let method = fields.get("method").and_then(Value::as_str);
        assert_eq!(
            head.id
                .map(|id| serde_json::from_slice::<Value>(&id).unwrap())
                .as_ref(),
            id,
            "{message}"
        );
        assert_eq!(head.method.as_deref(), method, "{message}");
    }
}

#[test]
fn a_batch_has_many_heads() {
    let found = heads(br#"[{"id":1,"method":"a"},{"method":"b"}]"#);
    assert_eq!(found.len(), 2);
    assert!(found[0].is_request() && !found[1].is_request());
}

#[test]
fn the_answer_is_found_among_others() {
    let mut wire: &[u8] = b"{\"id\":7,\"result\":1}\nrest";
    assert_eq!(
        answer_to(&mut wire, b"7").unwrap(),
        b"{\"id\":7,\"result\":1}\n"
    );
    assert_eq!(wire, b"rest");
    assert!(answer_to(&mut wire, b"7").is_err());
}

#[test]
fn what_changes_something_or_waits_for_what_is_new_is_not_asked_again() {
    for (yes, message) in [
        (true, r#"{"method":"tools/list"}"#),
        (
            true,
            r#"{"method":"tools/call","params":{"name":"get_status"}}"#,
        ),
        (
            true,
            r#"{"method":"tools/call","params":{"name":"wait","arguments":{"process":"a"}}}"#,
        ),
        (
            true,
            r#"{"method":"tools/call","params":{"name":"wait","arguments":{"for":"exit","after":7}}}"#,
        ),
        (
            false,
            r#"{"method":"tools/call","params":{"name":"wait","arguments":{"for":"exit"}}}"#,
        ),
        (
            false,
            r#"{"method":"tools/call","params":{"name":"start"}}"#,
        ),
        (
            false,
            r#"{"method":"tools/call","params":{"name":"no such"}}"#,
        ),
        (false, r#"{"method":"subscriptions/listen"}"#),
        (false, r#"{"method":"bpm/shutdown"}"#),
        (false, "no json"),
    ] {
        assert_eq!(repeatable(message.as_bytes()), yes, "{message}");
    }
}

#[test]
fn a_cancelled_request_is_waited_for_no_more() {
    let mut state = State::default();
    let line = br#"{"id":"x","method":"tools/call"}"#;
    state.note(&head(line), line);
    assert_eq!(state.waiting.len(), 1);
    let line = br#"{"method":"notifications/cancelled","params":{"requestId":"x"}}"#;
    state.note(&head(line), line);
    assert!(state.waiting.is_empty());
}
