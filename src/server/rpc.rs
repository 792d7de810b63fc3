//! Pure: no system call, no thread, no clock.
//!
//! JSON-RPC 2.0: bytes to messages, answers to bytes. Knows nothing of what the methods mean.

use memchr::memchr2;
use serde_json::{Map, Value};

use crate::base::json::{brief, object};

/// Not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON, but no JSON-RPC message.
pub const INVALID_REQUEST: i64 = -32600;
/// No such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters are wrong.
pub const INVALID_PARAMS: i64 = -32602;
/// It went wrong here.
pub const INTERNAL_ERROR: i64 = -32603;
/// The server of before can't go on with a call; asked again, it is answered. `data.retry` says so.
pub const UPGRADING: i64 = -32000;
/// bpm is stopping: ours, outside the range that the specification keeps for itself.
pub const STOPPING: i64 = -31000;
/// Too much is under way already.
pub const BUSY: i64 = -31001;

/// The most messages a batch may have.
pub const MAX_BATCH: usize = 100;
/// The most values a message, or all of a batch, may have. One of a few bytes costs up to 700 bytes and a
/// microsecond once it is read, so the size alone bounds neither memory nor time.
pub const MAX_VALUES: usize = 10_000;

/// The deepest that lists and objects may be nested.
pub const MAX_DEPTH: usize = 127;

/// Why a message is not served.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// HTTP status, where it came by HTTP.
    pub status: u16,
    /// JSON-RPC code.
    pub code: i64,
    /// A sentence.
    pub message: String,
    /// More.
    pub data: Option<Value>,
}

impl Refusal {
    /// One with HTTP status 200, as errors of a handler have.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            status: 200,
            code,
            message: message.into(),
            data: None,
        }
    }

    /// There is no such thing: `Unknown tool: NAME`.
    pub fn unknown(code: i64, what: &str, name: &str) -> Self {
        Self::new(code, format!("{what}: {}", brief(name)))
    }

    /// The same with another HTTP status.
    pub fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The same with data.
    pub fn data(self, data: Value) -> Self {
        Self {
            data: Some(data),
            ..self
        }
    }
}

/// A message from a client.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Wants an answer.
    Request(Request),
    /// Wants none.
    Notification {
        /// Its method.
        method: String,
        /// Its parameters; empty where there were none.
        params: Map<String, Value>,
    },
    /// An answer to something that bpm never asks.
    Response,
}

/// A message that wants an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// A string or an integer, echoed as it came.
    pub id: Value,
    /// Its method.
    pub method: String,
    /// Its parameters; empty where there were none.
    pub params: Map<String, Value>,
}

/// Reads JSON: one message, or a batch. Nesting is bounded by serde_json ([`MAX_DEPTH`]).
pub fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    if bytes.len() > MAX_VALUES {
        let (values, depth) = extent(bytes);
        let refused = |code, text: String| Err(Refusal::new(code, text).status(400));
        if depth > MAX_DEPTH {
            let text = format!("Parse error: nested deeper than {MAX_DEPTH}");
            return refused(PARSE_ERROR, text);
        }
        if values > MAX_VALUES {
            let text = format!("Invalid request: more than {MAX_VALUES} values");
            return refused(INVALID_REQUEST, text);
        }
    }
    serde_json::from_slice(bytes)
        .map_err(|e| Refusal::new(PARSE_ERROR, format!("Parse error: {e}")).status(400))
}

/// How many values there are, or a few more; and how deep they are nested.
fn extent(json: &[u8]) -> (usize, usize) {
    let (mut count, mut at) = (1, 0);
    let (mut depth, mut deepest) = (0usize, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = behind_string(json, at),
            b',' => count += 1,
            b'[' | b'{' => {
                count += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (count, deepest)
}

fn behind_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    json.len()
}

/// Why a list is not read as a batch: its revision has none, or it is none itself.
pub fn no_batch() -> Refusal {
    let text = format!("Batches are of revision 2025-03-26 only, and of 1 to {MAX_BATCH} messages");
    Refusal::new(INVALID_REQUEST, text).status(400)
}

/// Reads a message. The error comes with the id, where that could be read.
pub fn message(value: Value) -> Result<Message, (Value, Refusal)> {
    let bad = |id: Value, why: &str| {
        let text = format!("Invalid request: {why}");
        (id, Refusal::new(INVALID_REQUEST, text).status(400))
    };
    let Value::Object(mut fields) = value else {
        return Err(bad(Value::Null, "a message is an object"));
    };
    let id = match fields.remove("id") {
        None => None,
        Some(id) if is_id(&id) => Some(id),
        Some(_) => return Err(bad(Value::Null, "an id is a string or an integer")),
    };
    let echo = || id.clone().unwrap_or_default();
    if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(bad(echo(), "jsonrpc is \"2.0\""));
    }
    let method = match fields.remove("method") {
        Some(Value::String(method)) => method,
        None if fields.contains_key("result") || fields.contains_key("error") => {
            return Ok(Message::Response);
        }
        Some(_) | None => return Err(bad(echo(), "a method is a string")),
    };
    let params = match fields.remove("params") {
        Some(Value::Object(params)) => params,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(bad(echo(), "params is an object")),
    };
    Ok(match id {
        Some(id) => Message::Request(Request { id, method, params }),
        None => Message::Notification { method, params },
    })
}

/// A string or an integer: also what a progress token is.
pub fn is_id(value: &Value) -> bool {
    value.is_string() || value.is_i64() || value.is_u64()
}

/// Appends JSON. Writing into a `Vec` can't fail.
pub fn put(out: &mut Vec<u8>, value: &Value) {
    let _ = serde_json::to_writer(out, value);
}

/// Appends a string as JSON.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

/// Appends an error answer. `id` is null where it could not be read.
pub fn put_error(out: &mut Vec<u8>, id: &Value, code: i64, message: &str, data: Option<&Value>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    put(out, id);
    out.extend_from_slice(format!(",\"error\":{{\"code\":{code},\"message\":").as_bytes());
    put_text(out, message);
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        put(out, data);
    }
    out.extend_from_slice(b"}}");
}

/// A notification.
pub fn notification(method: &str, params: Value) -> Value {
    object([
        ("jsonrpc", "2.0".into()),
        ("method", method.into()),
        ("params", params),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> i64 {
        match parse(text.as_bytes()).map(message) {
            Err(refusal) | Ok(Err((_, refusal))) => refusal.code,
            Ok(Ok(message)) => panic!("taken: {message:?}"),
        }
    }

    #[test]
    fn ids_are_echoed_as_they_came() {
        for id in [
            "1",
            "\"1\"",
            "-7",
            "18446744073709551615",
            "\"\"",
            "\"\\u00e9\"",
        ] {
            let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"x\"}}");
            let Ok(Message::Request(request)) = message(parse(text.as_bytes()).unwrap()) else {
                panic!("{text}");
            };
            assert_eq!(request.id, serde_json::from_str::<Value>(id).unwrap());
        }
    }

    #[test]
    fn values_are_counted_before_they_are_read() {
        for (count, depth, json) in [
            (1, 0, r#""a,[{\"\\""#),
            (4, 2, r#"["\",",{"#),
            (5, 2, r#"{"a":[1,2,"]"]}"#),
            (3, 2, r#"[{}"#),
            (1, 0, "\"\\"),
            (3, 1, "]]},[]"),
        ] {
            assert_eq!(extent(json.as_bytes()), (count, depth), "{json}");
        }
        let many = |n: usize| format!("[{}0]", "{},".repeat(n));
        assert!(parse(many(MAX_VALUES / 2 - 1).as_bytes()).is_ok());
        assert_eq!(code(&many(MAX_VALUES / 2)), INVALID_REQUEST);
        let long = format!("\"{}\"", "[,{".repeat(MAX_VALUES));
        assert!(parse(long.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(code("{"), PARSE_ERROR);
        assert_eq!(code(""), PARSE_ERROR);
        // However much there is of it.
        for depth in [MAX_DEPTH + 1, MAX_VALUES - 1, 10 * MAX_VALUES] {
            assert_eq!(code(&"[".repeat(depth)), PARSE_ERROR);
            let whole = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(code(&whole), PARSE_ERROR);
        }
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert_eq!(code(&deep), INVALID_REQUEST);
        assert_eq!(code(&"9".repeat(10_000)), PARSE_ERROR);
        assert_eq!(code("\"\\ud800\""), PARSE_ERROR);
        for bad in [
            "1",
            "[]",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":true,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
        ] {
            assert_eq!(code(bad), INVALID_REQUEST, "{bad}");
        }
    }

    #[test]
    fn a_message_without_an_id_wants_no_answer() {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert!(matches!(
            message(parse(text.as_bytes()).unwrap()),
            Ok(Message::Notification { .. })
        ));
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert_eq!(
            message(parse(text.as_bytes()).unwrap()),
            Ok(Message::Response)
        );
    }
}
