//! Pure: no system call, no thread, no clock.
//!
//! The Model Context Protocol in both its eras: requests to [`Call`]s by the ladder of checks, results to
//! bytes with what their era adds. Knows nothing of sockets, processes or time.
//!
//! 2026-07-28 is stateless: every request says who it is in `_meta`. Before it (2024-11-05 to 2025-11-25)
//! there was a handshake, which bpm answers and forgets, so nothing is lost when the daemon restarts.
//! Each request is decided on its own.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::base::json::{brief, object};
use crate::server::rpc::{self, INVALID_PARAMS, METHOD_NOT_FOUND, Refusal, Request};

/// Stateless revisions.
pub const MODERN: [&str; 1] = ["2026-07-28"];
/// Handshake revisions, newest first.
pub const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// The only revision that has batches.
pub const BATCHES: &str = "2025-03-26";

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER: &str = "io.modelcontextprotocol/serverInfo";
const IGNORED: &str = "bpm/ignored";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The headers of a modern request differ from its body.
pub const HEADER_MISMATCH: i64 = -32020;
/// A revision that is not served.
pub const UNSUPPORTED_VERSION: i64 = -32022;
/// No such resource, in the handshake era.
const RESOURCE_NOT_FOUND: i64 = -32002;

/// The most resources that one `subscriptions/listen` may watch.
pub const MAX_WATCHED: usize = 64;

/// The shape of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// The handshake revisions.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// The headers of an HTTP request; a socket has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    /// `MCP-Protocol-Version`
    pub version: Option<&'a [u8]>,
    /// `Mcp-Method`
    pub method: Option<&'a [u8]>,
    /// `Mcp-Name`
    pub name: Option<&'a [u8]>,
    /// One of them came twice.
    pub doubled: bool,
}

impl Headers<'_> {
    /// The version is one of the handshake era, or none was sent.
    pub fn is_legacy(&self) -> bool {
        self.version.is_none_or(is_legacy)
    }

    /// A batch is read: the revision has them, or was not said.
    pub fn may_batch(&self) -> bool {
        self.version.is_none_or(|v| v == BATCHES.as_bytes())
    }
}

fn is_legacy(version: &[u8]) -> bool {
    LEGACY.iter().any(|known| known.as_bytes() == version)
}

/// A request whose shape was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Call<'a> {
    pub era: Era,
    /// The progress token, where one was sent.
    pub token: Option<&'a Value>,
    pub verb: Verb<'a>,
}

/// A request by its method.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb<'a> {
    /// `initialize`
    Initialize {
        /// The revision agreed on.
        version: &'static str,
    },
    /// `server/discover`
    Discover,
    /// `ping`, `logging/setLevel`: there is nothing to say.
    Nothing,
    /// `tools/list`
    Tools,
    /// `tools/call`
    CallTool {
        /// The tool.
        name: &'a str,
        /// Its arguments, as sent: perhaps no object.
        args: &'a Value,
    },
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
    /// `resources/read`
    Read {
        /// The resource.
        uri: &'a str,
    },
    /// `prompts/list`
    Prompts,
    /// `prompts/get`
    Prompt {
        /// The prompt.
        name: &'a str,
        /// Its arguments.
        args: &'a Value,
    },
    /// `completion/complete`
    Complete {
        /// A prompt or a template.
        reference: &'a Value,
        /// The argument.
        argument: &'a str,
        /// The beginning of its value.
        value: &'a str,
    },
    /// `subscriptions/listen`
    Subscribe {
        /// The resources to watch; bounded by [`MAX_WATCHED`].
        uris: Vec<String>,
    },
    /// A method of bpm's own.
    Own {
        /// `bpm/...`
        method: &'a str,
        /// Its parameters.
        params: Value,
    },
}

/// How long a client may keep a result: milliseconds, and whether others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// `ttlMs`
    pub ttl_ms: u32,
    /// `cacheScope`
    pub scope: &'static str,
}

const HOUR: Cache = Cache {
    ttl_ms: 3_600_000,
    scope: "public",
};
const MINUTES: Cache = Cache {
    ttl_ms: 300_000,
    scope: "public",
};
const NEVER: Cache = Cache {
    ttl_ms: 0,
    scope: "private",
};

impl Verb<'_> {
    /// The caching hint that a modern answer must have.
    pub fn cache(&self) -> Option<Cache> {
        match self {
            Self::Discover => Some(HOUR),
            Self::Tools | Self::Templates | Self::Prompts => Some(MINUTES),
            Self::Resources | Self::Read { .. } => Some(NEVER),
            Self::Initialize { .. }
            | Self::Nothing
            | Self::CallTool { .. }
            | Self::Prompt { .. }
            | Self::Complete { .. }
            | Self::Subscribe { .. }
            | Self::Own { .. } => None,
        }
    }
}

/// Reads a request: by HTTP with `headers`, on the socket without, where bpm's own methods are known too.
pub fn read<'a>(request: &'a Request, headers: Option<&Headers<'_>>) -> Result<Call<'a>, Refusal> {
    let Request { method, params, .. } = request;
    let meta = params.get("_meta").and_then(Value::as_object);
    let asked = |key: &str| meta.and_then(|meta| meta.get(key));
    let modern = asked(VERSION).is_some() || headers.is_some_and(|h| !h.is_legacy());
    if modern {
        ladder(method, params, meta, headers)?;
    }
    let token = asked("progressToken").filter(|t| rpc::is_id(t));
    let era = if modern { Era::Modern } else { Era::Legacy };
    let verb = verb(method, params, era, headers.is_none())?;
    Ok(Call { era, token, verb })
}

/// The checks of a modern request before its method matters; the first failure wins.
fn ladder(
    method: &str,
    params: &Map<String, Value>,
    meta: Option<&Map<String, Value>>,
    headers: Option<&Headers<'_>>,
) -> Result<(), Refusal> {
    let missing = |key: &str| {
        Refusal::new(INVALID_PARAMS, format!("Missing or wrong in _meta: {key}")).status(400)
    };
    let said = |key: &str| meta.and_then(|meta| meta.get(key));
    let version = said(VERSION)
        .and_then(Value::as_str)
        .ok_or_else(|| missing(VERSION))?;
    if !said(CAPABILITIES).is_some_and(Value::is_object) {
        return Err(missing(CAPABILITIES));
    }
    if let Some(headers) = headers {
        mirror(method, params, version, headers)?;
    }
    if !MODERN.contains(&version) {
        let supported: Vec<&str> = MODERN.into_iter().chain(LEGACY).collect();
        return Err(
            Refusal::new(UNSUPPORTED_VERSION, "Unsupported protocol version")
                .data(object([
                    ("supported", supported.into()),
                    ("requested", brief(version).into()),
                ]))
                .status(400),
        );
    }
    Ok(())
}

/// The headers of a modern request repeat its body, so that whoever routes by them sees what we see.
fn mirror(
    method: &str,
    params: &Map<String, Value>,
    version: &str,
    headers: &Headers<'_>,
) -> Result<(), Refusal> {
    let differs = |which: &str| {
        let text = format!("Header mismatch: {which} is missing, doubled or differs from the body");
        Refusal::new(HEADER_MISMATCH, text).status(400)
    };
    if headers.doubled {
        return Err(differs("a header"));
    }
    if headers.version != Some(version.as_bytes()) {
        return Err(differs("MCP-Protocol-Version"));
    }
    if headers.method != Some(method.as_bytes()) {
        return Err(differs("Mcp-Method"));
    }
    let named = match method {
        "tools/call" | "prompts/get" => params.get("name"),
        "resources/read" => params.get("uri"),
        _ => None,
    };
    let Some(named) = named.filter(|v| !v.is_null()) else {
        return Ok(());
    };
    let header = headers.name.and_then(decode);
    if header.is_none() || header.as_deref() != named.as_str().map(str::as_bytes) {
        return Err(differs("Mcp-Name"));
    }
    Ok(())
}

/// Header values that ASCII can't say come as `=?base64?...?=`.
fn decode(value: &[u8]) -> Option<Vec<u8>> {
    match value
        .strip_prefix(b"=?base64?")
        .and_then(|v| v.strip_suffix(b"?="))
    {
        Some(coded) => base64(coded),
        None => Some(value.to_vec()),
    }
}

/// RFC 4648, with padding and without bits left over.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    let digits = &text[..text.len() - padding.min(text.len())];
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut have) = (0u32, 0);
    for digit in digits {
        let value = ALPHABET.iter().position(|known| known == digit)?;
        bits = bits << 6 | value as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    (bits == 0).then_some(out)
}

fn verb<'a>(
    method: &'a str,
    params: &'a Map<String, Value>,
    era: Era,
    own: bool,
) -> Result<Verb<'a>, Refusal> {
    let unknown = |method: &str| {
        let status = match era {
            Era::Legacy => 200,
            Era::Modern => 404,
        };
        Refusal::unknown(METHOD_NOT_FOUND, "Method not found", method).status(status)
    };
    let legacy = era == Era::Legacy;
    Ok(match method {
        "initialize" if legacy => Verb::Initialize {
            version: agreed(params.get("protocolVersion")),
        },
        "ping" if legacy => Verb::Nothing,
        "logging/setLevel" if legacy => level(params)?,
        "server/discover" if !legacy => Verb::Discover,
        "subscriptions/listen" if !legacy => Verb::Subscribe {
            uris: watched(params)?,
        },
        "tools/list" => whole(params, Verb::Tools)?,
        "resources/list" => whole(params, Verb::Resources)?,
        "resources/templates/list" => whole(params, Verb::Templates)?,
        "prompts/list" => whole(params, Verb::Prompts)?,
        "tools/call" => Verb::CallTool {
            name: text(params, "name")?,
            args: arguments(params),
        },
        "prompts/get" => Verb::Prompt {
            name: text(params, "name")?,
            args: arguments(params),
        },
        "resources/read" => Verb::Read {
            uri: text(params, "uri")?,
        },
        "completion/complete" => completion(params)?,
        _ if own && method.starts_with("bpm/") => Verb::Own {
            method,
            params: Value::Object(params.clone()),
        },
        _ => return Err(unknown(method)),
    })
}

/// The revision asked for if the handshake era has it, else its newest.
fn agreed(asked: Option<&Value>) -> &'static str {
    let asked = asked.and_then(Value::as_str);
    LEGACY
        .into_iter()
        .find(|known| Some(*known) == asked)
        .unwrap_or(LEGACY[0])
}

fn level(params: &Map<String, Value>) -> Result<Verb<'static>, Refusal> {
    const LEVELS: [&str; 8] = [
        "debug",
        "info",
        "notice",
        "warning",
        "error",
        "critical",
        "alert",
        "emergency",
    ];
    match params.get("level").and_then(Value::as_str) {
        Some(level) if LEVELS.contains(&level) => Ok(Verb::Nothing),
        _ => Err(wrong(format!("level is one of {}", LEVELS.join(", ")))),
    }
}

/// Lists come whole, so no cursor was ever given out.
fn whole(params: &Map<String, Value>, verb: Verb<'static>) -> Result<Verb<'static>, Refusal> {
    match params.get("cursor") {
        None | Some(Value::Null) => Ok(verb),
        Some(_) => Err(wrong(
            "this cursor was not given out: lists come whole here",
        )),
    }
}

fn watched(params: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let wanted = params
        .get("notifications")
        .and_then(Value::as_object)
        .ok_or_else(|| wrong("params.notifications is required, an object"))?;
    let mut uris: Vec<String> = Vec::new();
    let listed = wanted
        .get("resourceSubscriptions")
        .and_then(Value::as_array);
    for uri in listed.into_iter().flatten().filter_map(Value::as_str) {
        if uris.len() < MAX_WATCHED && !uris.iter().any(|known| known == uri) {
            uris.push(uri.to_owned());
        }
    }
    Ok(uris)
}

fn completion(params: &Map<String, Value>) -> Result<Verb<'_>, Refusal> {
    let reference = params
        .get("ref")
        .filter(|reference| reference.is_object())
        .ok_or_else(|| wrong("params.ref is required, an object"))?;
    let Some(Value::Object(argument)) = params.get("argument") else {
        return Err(wrong("params.argument is required, an object"));
    };
    Ok(Verb::Complete {
        reference,
        argument: text(argument, "name")?,
        value: text(argument, "value")?,
    })
}

fn text<'a>(params: &'a Map<String, Value>, key: &str) -> Result<&'a str, Refusal> {
    match params.get(key) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(wrong(format!("{key} is required, a string"))),
    }
}

fn arguments(params: &Map<String, Value>) -> &Value {
    // A service gets an object where a client sends none.
    static NONE: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    let sent = params.get("arguments").filter(|args| !args.is_null());
    sent.unwrap_or(&NONE)
}

fn wrong(why: impl Into<String>) -> Refusal {
    Refusal::new(INVALID_PARAMS, why)
}

/// The answer for an unknown resource.
pub fn no_resource(era: Era, uri: &str) -> Refusal {
    let code = match era {
        Era::Legacy => RESOURCE_NOT_FOUND,
        Era::Modern => INVALID_PARAMS,
    };
    Refusal::new(code, "Resource not found").data(object([("uri", brief(uri).into())]))
}

/// The parts that all answers of a server share: written once, at the start.
#[derive(Debug, Clone)]
pub struct Mcp {
    info: Box<str>,
    instructions: Box<str>,
    tools: Box<str>,
}

/// Where a result goes: to which request, in which shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The request's id.
    pub id: Value,
    /// Its era.
    pub era: Era,
    /// Its caching hint.
    pub cache: Option<Cache>,
    /// Arguments that meant nothing.
    pub ignored: Vec<String>,
}

impl Mcp {
    /// `info`: `{name, title, version}`; `tools`: the list.
    pub fn new(info: &Value, instructions: &str, tools: &Value) -> Self {
        Self {
            info: info.to_string().into(),
            instructions: Value::from(instructions).to_string().into(),
            tools: tools.to_string().into(),
        }
    }

    /// Appends a result whose fields `body` writes: `"name":value` with commas between, at least one
    /// where the era adds none of its own.
    fn put(&self, out: &mut Vec<u8>, to: &Envelope, body: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        rpc::put(out, &to.id);
        out.extend_from_slice(b",\"result\":{");
        let from = out.len();
        body(out);
        if to.era == Era::Modern {
            if out.len() > from {
                out.push(b',');
            }
            out.extend_from_slice(b"\"resultType\":\"complete\",");
            if let Some(Cache { ttl_ms, scope }) = to.cache {
                let hint = format!("\"ttlMs\":{ttl_ms},\"cacheScope\":\"{scope}\",");
                out.extend_from_slice(hint.as_bytes());
            }
            let meta = format!("\"_meta\":{{\"{SERVER}\":{}", self.info);
            out.extend_from_slice(meta.as_bytes());
            if !to.ignored.is_empty() {
                out.push(b',');
                put_ignored(out, &to.ignored);
            }
            out.push(b'}');
        } else if !to.ignored.is_empty() {
            out.extend_from_slice(b",\"_meta\":{");
            put_ignored(out, &to.ignored);
            out.push(b'}');
        }
        out.extend_from_slice(b"}}");
    }

    /// Appends the answer to `initialize`.
    pub fn put_initialized(&self, out: &mut Vec<u8>, to: &Envelope, version: &str) {
        let Self {
            info, instructions, ..
        } = self;
        let fields = format!(
            "\"protocolVersion\":\"{version}\",\"capabilities\":{{\"completions\":{{}},\"logging\":{{}},\
             \"prompts\":{{}},\"resources\":{{}},\"tools\":{{}}}},\"serverInfo\":{info},\
             \"instructions\":{instructions}"
        );
        self.put(out, to, |out| out.extend_from_slice(fields.as_bytes()));
    }

    /// Appends the answer to `server/discover`.
    pub fn put_discovered(&self, out: &mut Vec<u8>, to: &Envelope) {
        let versions: Vec<&str> = MODERN.into_iter().chain(LEGACY).collect();
        let fields = format!(
            "\"supportedVersions\":{},\"capabilities\":{{\"completions\":{{}},\"prompts\":{{}},\
             \"resources\":{{\"subscribe\":true}},\"tools\":{{}}}},\"instructions\":{}",
            Value::from(versions),
            self.instructions
        );
        self.put(out, to, |out| out.extend_from_slice(fields.as_bytes()));
    }

    /// Appends the answer to `tools/list`.
    pub fn put_tools(&self, out: &mut Vec<u8>, to: &Envelope) {
        self.put(out, to, |out| {
            out.extend_from_slice(b"\"tools\":");
            out.extend_from_slice(self.tools.as_bytes());
        });
    }

    /// Appends a tool's text, an error's too.
    pub fn put_text(&self, out: &mut Vec<u8>, to: &Envelope, text: &str, is_error: bool) {
        self.put(out, to, |out| content(out, text, is_error));
    }

    /// Appends a tool's data with its text.
    pub fn put_data(&self, out: &mut Vec<u8>, to: &Envelope, data: &[u8], text: &str) {
        self.put(out, to, |out| {
            content(out, text, false);
            out.extend_from_slice(b",\"structuredContent\":");
            out.extend_from_slice(data);
        });
    }

    /// Appends a result as it is, with what the era adds to objects.
    pub fn put_result(&self, out: &mut Vec<u8>, to: &Envelope, result: Value) {
        let Value::Object(fields) = result else {
            out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            rpc::put(out, &to.id);
            out.extend_from_slice(b",\"result\":");
            rpc::put(out, &result);
            out.push(b'}');
            return;
        };
        // These are ours to write, and a field must not come twice.
        let ours: &[&str] = match to.era {
            Era::Modern => &["_meta", "resultType", "ttlMs", "cacheScope"],
            Era::Legacy => &[],
        };
        self.put(out, to, |out| {
            let begun = out.len();
            for (key, value) in &fields {
                if ours.contains(&key.as_str()) {
                    continue;
                }
                if out.len() > begun {
                    out.push(b',');
                }
                rpc::put_text(out, key);
                out.push(b':');
                rpc::put(out, value);
            }
        });
    }

    /// Appends the end of a subscription.
    pub fn put_listened(&self, out: &mut Vec<u8>, id: &Value) {
        let info: Value = serde_json::from_slice(self.info.as_bytes()).unwrap_or_default();
        let meta = object([(SUBSCRIPTION, id.clone()), (SERVER, info)]);
        rpc::put(
            out,
            &object([
                ("jsonrpc", "2.0".into()),
                ("id", id.clone()),
                (
                    "result",
                    object([("resultType", "complete".into()), ("_meta", meta)]),
                ),
            ]),
        );
    }
}

/// Names arguments that meant nothing.
fn put_ignored(out: &mut Vec<u8>, names: &[String]) {
    rpc::put_text(out, IGNORED);
    out.push(b':');
    rpc::put(out, &Value::from(names));
}

fn content(out: &mut Vec<u8>, text: &str, is_error: bool) {
    out.extend_from_slice(b"\"content\":[{\"type\":\"text\",\"text\":");
    rpc::put_text(out, text);
    out.extend_from_slice(if is_error {
        b"}],\"isError\":true"
    } else {
        b"}],\"isError\":false"
    });
}

/// The first message of a subscription: what of it is honoured.
pub fn acknowledged(id: &Value, uris: &[&str]) -> Value {
    let mut honoured = Map::new();
    if !uris.is_empty() {
        honoured.insert("resourceSubscriptions".into(), Value::from(uris));
    }
    rpc::notification(
        "notifications/subscriptions/acknowledged",
        object([
            ("_meta", object([(SUBSCRIPTION, id.clone())])),
            ("notifications", honoured.into()),
        ]),
    )
}

/// A resource changed.
pub fn updated(id: &Value, uri: &str) -> Value {
    rpc::notification(
        "notifications/resources/updated",
        object([
            ("uri", uri.into()),
            ("_meta", object([(SUBSCRIPTION, id.clone())])),
        ]),
    )
}

/// How far a call is: `progress` rises, in seconds.
pub fn progress(token: &Value, progress: u64, message: &str) -> Value {
    rpc::notification(
        "notifications/progress",
        object([
            ("progressToken", token.clone()),
            ("progress", progress.into()),
            ("message", message.into()),
        ]),
    )
}

#[cfg(test)]
mod tests;
