//! The door behind the fixtures that the public conformance suite of MCP asks for: tools, resources, prompts,
//! completion and progress. `.ci/conformance` runs the suite against it. Prints its address, serves until its
//! standard input ends.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bpm::base::clock::Mono;
use bpm::os::poll::Waker;
use bpm::server::net::{Listeners, Policy, Server};
use bpm::server::service::{Answer, Caller, Level, Page, Service, Step, Task, Watch};
use serde_json::{Value, json};

/// One red pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// No sound.
const WAV: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";

struct Fixtures {
    tools: Value,
}

impl Fixtures {
    fn new() -> Self {
        let plain = [
            ("test_simple_text", "Returns a text"),
            ("test_image_content", "Returns an image"),
            ("test_audio_content", "Returns audio"),
            ("test_embedded_resource", "Returns a resource"),
            (
                "test_multiple_content_types",
                "Returns a text, an image and a resource",
            ),
            ("test_tool_with_logging", "Logs while it runs"),
            ("test_error_handling", "Always fails"),
            ("test_tool_with_progress", "Tells how far it is"),
        ];
        let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let mut tools: Vec<Value> = plain
            .iter()
            .map(|(name, text)| json!({"name": name, "description": text, "inputSchema": none}))
            .collect();
        tools.push(json!({
            "name": "json_schema_2020_12_tool",
            "description": "Has a schema with the keywords of JSON Schema 2020-12",
            "inputSchema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "$defs": {"address": {"$anchor": "addressDef", "type": "object",
                    "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
                "properties": {
                    "name": {"type": "string"},
                    "address": {"$ref": "#/$defs/address"},
                    "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                    "phone": {"type": "string"},
                    "email": {"type": "string"}
                },
                "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
                "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
                "then": {"required": ["phone"]},
                "else": {"required": ["email"]},
                "additionalProperties": false
            }
        }));
        Self {
            tools: Value::Array(tools),
        }
    }
}

/// Sends its notifications 50 ms apart, then answers.
struct ToolResult {
    notifications: std::vec::IntoIter<Value>,
    next: Mono,
    text: &'static str,
}

impl ToolResult {
    fn step(notifications: Vec<Value>, text: &'static str) -> Step {
        let notifications = notifications.into_iter();
        Step::Wait(Box::new(Self {
            notifications,
            next: Mono::now(),
            text,
        }))
    }
}

impl Task for ToolResult {
    fn start(&mut self, _: &Arc<Waker>) {}

    fn poll(&mut self, now: Mono, _: usize, out: &mut Vec<Value>) -> Option<Answer> {
        if now < self.next {
            return None;
        }
        self.next = now.after(Duration::from_millis(50));
        match self.notifications.next() {
            Some(notification) => out.push(notification),
            None => return Some(Answer::Text(self.text.into())),
        }
        None
    }

    fn deadline(&self) -> Option<Mono> {
        Some(self.next)
    }
}

fn notification(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

fn content(content: Value) -> Step {
    Step::Done(Answer::Result(
        json!({"content": content, "isError": false}),
    ))
}

fn user(contents: &[Value]) -> Step {
    let messages: Vec<Value> = contents
        .iter()
        .map(|content| json!({"role": "user", "content": content}))
        .collect();
    Step::Done(Answer::Result(json!({"messages": messages})))
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn image() -> Value {
    json!({"type": "image", "data": PNG, "mimeType": "image/png"})
}

fn embedded(uri: &str, text: &str) -> Value {
    json!({"type": "resource", "resource": {"uri": uri, "mimeType": "text/plain", "text": text}})
}

impl Service for Fixtures {
    fn info(&self) -> Value {
        json!({"name": "bpm-conformance", "title": "bpm's door behind fixtures", "version": env!("CARGO_PKG_VERSION")})
    }

    fn instructions(&self) -> &str {
        "Fixtures of the conformance suite."
    }

    fn tools(&self) -> Value {
        self.tools.clone()
    }

    fn call(&self, caller: &Caller, name: &str, _: &Value, token: Option<&Value>) -> Option<Step> {
        Some(match name {
            "test_simple_text" => Step::Done(Answer::Text(
                "This is a simple text response for testing.".into(),
            )),
            "test_image_content" => content(json!([image()])),
            "test_audio_content" => {
                content(json!([{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]))
            }
            "test_embedded_resource" => content(json!([embedded(
                "test://embedded-resource",
                "This is an embedded resource content."
            )])),
            "test_multiple_content_types" => content(json!([
                text("Multiple content types test:"),
                image(),
                embedded("test://mixed-content-resource", "{\"test\":\"data\"}"),
            ])),
            "test_tool_with_logging" if caller.modern => {
                Step::Done(Answer::Text("The modern era logs only on demand.".into()))
            }
            "test_tool_with_logging" => {
                let said = [
                    "Tool execution started",
                    "Tool processing data",
                    "Tool execution completed",
                ];
                let said = said.map(|data| {
                    notification(
                        "notifications/message",
                        json!({"level": "info", "data": data}),
                    )
                });
                ToolResult::step(said.into(), "logged")
            }
            "test_error_handling" => Step::Done(Answer::Fail(
                "This tool intentionally returns an error for testing".into(),
            )),
            "test_tool_with_progress" => {
                let steps = token.map_or_else(Vec::new, |token| {
                    [0, 50, 100]
                        .map(|n| {
                            let params =
                                json!({"progressToken": token, "progress": n, "total": 100});
                            notification("notifications/progress", params)
                        })
                        .into()
                });
                ToolResult::step(steps, "done")
            }
            "json_schema_2020_12_tool" => Step::Done(Answer::Text("valid".into())),
            _ => return None,
        })
    }

    fn resources(&self) -> Vec<Value> {
        [
            "test://static-text",
            "test://static-binary",
            "test://watched-resource",
        ]
        .map(|uri| json!({"uri": uri, "name": uri.trim_start_matches("test://")}))
        .into()
    }

    fn templates(&self) -> Vec<Value> {
        vec![
            json!({"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}),
        ]
    }

    fn read(&self, _: &Caller, uri: &str) -> Option<Step> {
        let contents = match uri {
            "test://static-text" | "test://watched-resource" => {
                json!({"uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource."})
            }
            "test://static-binary" => json!({"uri": uri, "mimeType": "image/png", "blob": PNG}),
            _ => {
                let id = uri
                    .strip_prefix("test://template/")?
                    .strip_suffix("/data")?;
                let data =
                    json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
                json!({"uri": uri, "mimeType": "application/json", "text": data.to_string()})
            }
        };
        Some(Step::Done(Answer::Result(json!({"contents": [contents]}))))
    }

    fn watch(&self, uri: &str, _: &Arc<Waker>) -> Option<Box<dyn Watch>> {
        struct Still;
        impl Watch for Still {
            fn changed(&mut self) -> bool {
                false
            }
        }
        (uri == "test://watched-resource").then(|| Box::new(Still) as Box<dyn Watch>)
    }

    fn prompts(&self) -> Vec<Value> {
        let prompt = |name: &str, arguments: &[&str]| {
            let argument =
                |name: &&str| json!({"name": name, "description": name, "required": true});
            let arguments: Vec<Value> = arguments.iter().map(argument).collect();
            json!({"name": name, "description": "A prompt of the suite", "arguments": arguments})
        };
        vec![
            prompt("test_simple_prompt", &[]),
            prompt("test_prompt_with_arguments", &["arg1", "arg2"]),
            prompt("test_prompt_with_embedded_resource", &["resourceUri"]),
            prompt("test_prompt_with_image", &[]),
        ]
    }

    fn prompt(&self, _: &Caller, name: &str, args: &Value) -> Option<Step> {
        let arg = |name: &str| args.get(name).and_then(Value::as_str).unwrap_or_default();
        Some(match name {
            "test_simple_prompt" => user(&[text("This is a simple prompt for testing.")]),
            "test_prompt_with_arguments" => {
                let (one, two) = (arg("arg1"), arg("arg2"));
                user(&[text(&format!(
                    "Prompt with arguments: arg1='{one}', arg2='{two}'"
                ))])
            }
            "test_prompt_with_embedded_resource" => user(&[
                embedded(arg("resourceUri"), "Embedded resource content for testing."),
                text("Please process the embedded resource above."),
            ]),
            "test_prompt_with_image" => user(&[image(), text("Please analyze the image above.")]),
            _ => return None,
        })
    }

    fn complete(&self, reference: &Value, _: &str, value: &str) -> Option<Vec<String>> {
        (reference["name"] == "test_prompt_with_arguments").then(|| vec![format!("{value}1")])
    }

    fn own(&self, _: &Caller, _: &str, _: &Value) -> Option<Step> {
        None
    }

    fn page(&self, _: &str) -> Option<Page> {
        None
    }

    fn log(&self, _: Level, text: &str) {
        eprintln!("{text}");
    }
}

fn main() {
    let port = std::env::args().nth(1).unwrap_or_else(|| "0".into());
    let tcp = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    println!("http://{}/mcp", tcp.local_addr().unwrap());
    let listeners = Listeners {
        tcp: vec![tcp],
        unix: None,
    };
    let door = Server::start(Arc::new(Fixtures::new()), listeners, Policy::default()).unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    door.drain(Duration::from_secs(1));
}
