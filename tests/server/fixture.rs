//! A small service behind a real door, and clients that speak by hand. Shared by the tests of the door.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bpm::base::clock::Mono;
use bpm::os::poll::Waker;
use bpm::server::net::{Listeners, Policy, Server};
use bpm::server::service::{Answer, Caller, Level, Open, Page, Service, Step, Task, Watch};
use serde_json::{Value, json};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the tools share: a waker that `wait` waits for, and counts of what is alive.
#[derive(Default)]
pub struct Shared {
    wakers: Mutex<Vec<Arc<Waker>>>,
    pub released: AtomicBool,
    pub changed: AtomicUsize,
    pub waiting: Count,
    pub started: Count,
    pub log: Mutex<Vec<String>>,
    pub stopping: AtomicBool,
    pub clients: Count,
    pub connections: Count,
}

/// A number that can be waited for.
#[derive(Default)]
pub struct Count(Mutex<usize>, Condvar);

impl Count {
    pub fn set(&self, n: usize) {
        *self.0.lock().unwrap() = n;
        self.1.notify_all();
    }
    pub fn add(&self, n: isize) {
        let mut now = self.0.lock().unwrap();
        *now = now.wrapping_add_signed(n);
        self.1.notify_all();
    }
    pub fn get(&self) -> usize {
        *self.0.lock().unwrap()
    }
    pub fn until(&self, what: &str, met: impl Fn(usize) -> bool) {
        let now = self.0.lock().unwrap();
        let (now, waited) = self
            .1
            .wait_timeout_while(now, PATIENCE, |n| !met(*n))
            .unwrap();
        assert!(!waited.timed_out(), "{what}: still {}", *now);
    }
}

impl Shared {
    pub fn wake(&self) {
        for waker in self.wakers.lock().unwrap().iter() {
            waker.wake();
        }
    }
    pub fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.wake();
    }
    pub fn change(&self) {
        self.changed.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }
    fn watch(&self, waker: &Arc<Waker>) {
        self.wakers.lock().unwrap().push(Arc::clone(waker));
    }
}

pub struct Fixture {
    pub shared: Arc<Shared>,
    tools: Value,
}

/// Waits for the release, or for its time.
struct Waiting {
    shared: Arc<Shared>,
    until: Option<Mono>,
    heavy: bool,
}

impl Task for Waiting {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.shared.waiting.add(1);
        self.shared.started.add(1);
        self.shared.watch(waker);
    }
    fn poll(&mut self, now: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        if self.shared.released.load(Ordering::SeqCst) {
            return Some(Answer::Text("released".into()));
        }
        (self.until? <= now).then(|| Answer::Text("time over".into()))
    }
    fn deadline(&self) -> Option<Mono> {
        self.until
    }
    fn heavy(&self) -> bool {
        self.heavy
    }
    fn progress(&mut self, _: Mono) -> Option<String> {
        Some("waiting".into())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.add(-1);
    }
}

/// Tells its steps one at a time, then ends.
struct Steps {
    token: Value,
    left: usize,
    done: usize,
}

impl Task for Steps {
    fn start(&mut self, _: &Arc<Waker>) {}
    fn poll(&mut self, _: Mono, _: usize, out: &mut Vec<Value>) -> Option<Answer> {
        if self.left == 0 || self.token.is_null() {
            return Some(Answer::Text("done".into()));
        }
        self.left -= 1;
        self.done += 1;
        out.push(json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": self.token, "progress": self.done}}));
        None
    }
    fn deadline(&self) -> Option<Mono> {
        None
    }
}

/// Panics when it is asked until when to wait.
struct Trap;

impl Task for Trap {
    fn start(&mut self, _: &Arc<Waker>) {}
    fn poll(&mut self, _: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        None
    }
    fn deadline(&self) -> Option<Mono> {
        panic!("on purpose")
    }
}

/// Puts out large notifications without end.
struct Flood(Arc<Shared>);

impl Task for Flood {
    fn start(&mut self, _: &Arc<Waker>) {
        self.0.waiting.add(1);
    }
    fn poll(&mut self, _: Mono, room: usize, out: &mut Vec<Value>) -> Option<Answer> {
        out.push(
            json!({"jsonrpc": "2.0", "method": "bpm/lines", "params": {"x": "y".repeat(room)}}),
        );
        None
    }
    fn deadline(&self) -> Option<Mono> {
        None
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.waiting.add(-1);
    }
}

struct Changed {
    shared: Arc<Shared>,
    seen: usize,
}

impl Watch for Changed {
    fn changed(&mut self) -> bool {
        let now = self.shared.changed.load(Ordering::SeqCst);
        std::mem::replace(&mut self.seen, now) != now
    }
}

impl Service for Fixture {
    fn info(&self) -> Value {
        json!({"name": "fixture", "title": "Fixture", "version": "1"})
    }
    fn instructions(&self) -> &str {
        "Do \"this\"."
    }
    fn tools(&self) -> Value {
        self.tools.clone()
    }
    fn call(
        &self,
        caller: &Caller,
        name: &str,
        args: &Value,
        token: Option<&Value>,
    ) -> Option<Step> {
        let wait = |heavy| {
            let until = args
                .get("ms")
                .and_then(Value::as_u64)
                .map(|ms| Mono::now().after(Duration::from_millis(ms)));
            Step::Wait(Box::new(Waiting {
                shared: Arc::clone(&self.shared),
                until,
                heavy,
            }))
        };
        if !args.is_object() {
            return Some(Step::Done(Answer::Fail(
                "arguments must be an object".into(),
            )));
        }
        Some(match name {
            "echo" => Step::Done(Answer::Text(
                args.get("text")
                    .and_then(Value::as_str)
                    .unwrap_or("nothing")
                    .into(),
            )),
            "data" => Step::Done(Answer::data(
                &json!({"kind": format!("{:?}", caller.kind)}),
                "who",
            )),
            "fail" => Step::Done(Answer::Fail("do X instead".into())),
            "search" => Step::Work(Box::new(|| Answer::Text("found".into()))),
            "wait" => wait(false),
            "heavy" => wait(true),
            "panic" => panic!("on purpose"),
            "work_panic" => Step::Work(Box::new(|| panic!("on purpose"))),
            "trap" => Step::Wait(Box::new(Trap)),
            "flood" => Step::Wait(Box::new(Flood(Arc::clone(&self.shared)))),
            "steps" => Step::Wait(Box::new(Steps {
                token: token.cloned().unwrap_or_default(),
                left: 3,
                done: 0,
            })),
            _ => return None,
        })
    }
    fn resources(&self) -> Vec<Value> {
        vec![json!({"uri": "test://status", "name": "status"})]
    }
    fn templates(&self) -> Vec<Value> {
        vec![json!({"uriTemplate": "test://logs/{name}", "name": "log"})]
    }
    fn read(&self, _: &Caller, uri: &str) -> Option<Step> {
        let contents =
            json!({"contents": [{"uri": uri, "mimeType": "text/plain", "text": "hello"}]});
        (uri == "test://status").then_some(Step::Done(Answer::Result(contents)))
    }
    fn watch(&self, uri: &str, waker: &Arc<Waker>) -> Option<Box<dyn Watch>> {
        self.shared.watch(waker);
        let shared = Arc::clone(&self.shared);
        let seen = shared.changed.load(Ordering::SeqCst);
        uri.starts_with("test://")
            .then(|| Box::new(Changed { shared, seen }) as Box<dyn Watch>)
    }
    fn prompts(&self) -> Vec<Value> {
        vec![json!({"name": "diagnose", "arguments": [{"name": "process", "required": true}]})]
    }
    fn prompt(&self, _: &Caller, name: &str, args: &Value) -> Option<Step> {
        let text = format!("Diagnose {}", args["process"]);
        let message = json!({"role": "user", "content": {"type": "text", "text": text}});
        (name == "diagnose").then(|| Step::Done(Answer::Result(json!({"messages": [message]}))))
    }
    fn complete(&self, reference: &Value, _: &str, value: &str) -> Option<Vec<String>> {
        (reference["name"] == "diagnose").then(|| (0..150).map(|n| format!("{value}{n}")).collect())
    }
    fn own(&self, caller: &Caller, method: &str, _: &Value) -> Option<Step> {
        match method {
            "bpm/kind" => Some(Step::Done(Answer::Result(
                json!({"kind": format!("{:?}", caller.kind)}),
            ))),
            "bpm/flood" => Some(Step::Wait(Box::new(Flood(Arc::clone(&self.shared))))),
            _ => None,
        }
    }
    fn page(&self, path: &str) -> Option<Page> {
        let ok = !self.shared.stopping.load(Ordering::SeqCst);
        let status = if ok { 200 } else { 503 };
        matches!(path, "/healthz" | "/readyz").then(|| Page {
            status,
            content_type: "application/json",
            body: json!({"ok": ok}).to_string().into_bytes(),
        })
    }
    fn open(&self, now: Open) {
        self.shared.clients.set(now.agents);
        self.shared.connections.set(now.connections);
    }
    fn log(&self, _: Level, text: &str) {
        self.shared.log.lock().unwrap().push(text.into());
    }
}

/// A door in this process.
pub struct TestServer {
    pub shared: Arc<Shared>,
    pub addr: SocketAddr,
    pub path: PathBuf,
    door: Option<Server>,
}

impl TestServer {
    pub fn new() -> Self {
        Self::with(Policy::default())
    }

    pub fn with(policy: Policy) -> Self {
        Self::on("127.0.0.1:0", policy)
    }

    pub fn on(bind: &str, policy: Policy) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let path =
            std::env::temp_dir().join(format!("bpm-door-{}-{number}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let shared = Arc::new(Shared::default());
        let tools = [
            "echo", "data", "fail", "search", "wait", "heavy", "panic", "steps",
        ]
        .map(|name| json!({"name": name, "description": name, "inputSchema": {"type": "object"}}));
        let service = Fixture {
            shared: Arc::clone(&shared),
            tools: json!(tools),
        };
        let tcp = TcpListener::bind(bind).unwrap();
        let addr = tcp.local_addr().unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        let listeners = Listeners {
            tcp: vec![tcp],
            unix: Some(unix),
        };
        let door = Server::start(Arc::new(service), listeners, policy).unwrap();
        Self {
            shared,
            addr,
            path,
            door: Some(door),
        }
    }

    pub fn door(&self) -> &Server {
        self.door.as_ref().unwrap()
    }

    pub fn drain(mut self, grace: Duration) {
        self.door.take().unwrap().drain(grace);
    }

    pub fn tcp(&self) -> Http {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Http(BufReader::new(Box::new(stream)))
    }

    pub fn unix(&self) -> Lines {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Lines {
            reader: BufReader::new(stream.try_clone().unwrap()),
            stream,
        }
    }

    /// The door still answers.
    pub fn is_well(&self) {
        assert_eq!(self.tcp().get("/healthz").status, 200);
        let answer = self.unix().call(json!("x"), "ping", json!({}));
        assert_eq!(answer["result"], json!({}));
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.door.take();
        let _ = std::fs::remove_file(&self.path);
        if !std::thread::panicking() {
            assert_eq!(self.shared.waiting.get(), 0, "a task outlived its door");
        }
    }
}

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An HTTP client that sends what it is told.
pub struct Http(pub BufReader<Box<dyn Stream>>);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    pub fn has(&self, field: &str) -> bool {
        self.head
            .to_ascii_lowercase()
            .contains(&field.to_ascii_lowercase())
    }
}

pub const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;

pub fn post(extra: &str, body: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Http {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Status line and fields.
    pub fn head(&mut self) -> Response {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let before = head.len();
            self.0.read_line(&mut head).unwrap();
            assert!(head.len() > before, "closed within a head: {head:?}");
        }
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        Response {
            status,
            head,
            body: Vec::new(),
        }
    }

    pub fn response(&mut self) -> Response {
        let mut response = self.head();
        let lower = response.head.to_ascii_lowercase();
        match lower.split("content-length: ").nth(1) {
            Some(rest) => {
                let n: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
                response.body = vec![0; n];
                self.0.read_exact(&mut response.body).unwrap();
            }
            None if response.status == 100 => {}
            None => {
                self.0.read_to_end(&mut response.body).unwrap();
            }
        }
        response
    }

    /// The next event's data.
    pub fn event(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// The connection is closed by the other end.
    pub fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => rest.trim_ascii().is_empty(),
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.response()
    }

    pub fn post(&mut self, extra: &str, body: &str) -> Response {
        self.send(post(extra, body));
        self.response()
    }

    pub fn call(&mut self, tool: &str, args: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": args}});
        let response = self.post("", &body.to_string());
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// A modern request, with its headers.
    pub fn modern(&mut self, method: &str, params: &str) -> Response {
        let comma = if params.is_empty() { "" } else { "," };
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"m","method":"{method}","params":{{{params}{comma}{META}}}}}"#
        );
        let value: Value = serde_json::from_str(&body).unwrap();
        let named = value["params"]["name"]
            .as_str()
            .or(value["params"]["uri"].as_str());
        let name = named
            .map(|n| format!("Mcp-Name: {n}\r\n"))
            .unwrap_or_default();
        let extra = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}");
        self.send(post(&extra, &body));
        if method == "subscriptions/listen" {
            return self.head();
        }
        self.response()
    }
}

/// A client of the Unix socket.
pub struct Lines {
    reader: BufReader<UnixStream>,
    pub stream: UnixStream,
}

impl Lines {
    pub fn send(&mut self, message: &Value) {
        self.stream
            .write_all(format!("{message}\n").as_bytes())
            .unwrap();
    }
    pub fn request(&mut self, id: Value, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
    }
    pub fn tool(&mut self, id: Value, name: &str, args: Value) {
        self.request(id, "tools/call", json!({"name": name, "arguments": args}));
    }
    /// The next line, as it came.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let n = self.reader.read_line(&mut line).unwrap();
        (n > 0).then(|| line.trim_end().to_owned())
    }
    pub fn next(&mut self) -> Option<Value> {
        self.line().map(|line| serde_json::from_str(&line).unwrap())
    }
    pub fn call(&mut self, id: Value, method: &str, params: Value) -> Value {
        self.request(id, method, params);
        self.next().unwrap()
    }
}
