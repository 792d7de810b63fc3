//! `bpm proxy`, as an agent that speaks stdio sees it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{
    Project, bpm, copied, eventually, freeze, gone, lives, murder, nonblocking_pipe, until_full,
};
use serde_json::{Value, json};

const NAP: &str = "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n";

pub struct Proxy {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    last: u64,
}

impl Proxy {
    pub fn new(project: &Project, args: &[&str]) -> Self {
        Self::of(project, &bpm(), args)
    }

    fn of(project: &Project, binary: &Path, args: &[&str]) -> Self {
        let mut child = project
            .command(binary)
            .arg("proxy")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            last: 0,
        }
    }

    fn send(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
    }

    pub fn ask(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let message =
            json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params});
        self.send(&message.to_string());
        self.last
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        assert!(
            self.output.read_line(&mut line).unwrap() > 0,
            "the proxy is gone"
        );
        serde_json::from_str(&line).unwrap()
    }

    /// The answer to this request; notifications before it are dropped.
    pub fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.next();
            if message["id"] == id {
                return message;
            }
        }
    }

    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params);
        self.answer(id)
    }

    pub fn handshake(&mut self) -> Value {
        let info = json!({"name": "test", "version": "1"});
        let params =
            json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
        let answer = self.call("initialize", params);
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        answer
    }

    fn status(&mut self) -> Value {
        let answer = self.call(
            "tools/call",
            json!({"name": "get_status", "arguments": {"verbose": true}}),
        );
        answer["result"]["structuredContent"].clone()
    }

    /// Ends its input, and gives its exit code.
    pub fn end(mut self) -> Option<i32> {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn it_starts_the_daemon_and_leaves_it() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    let answer = proxy.handshake();
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(proxy.status()["processes"][0]["name"], "nap");
    // The probe of clients of the modern era.
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let found = proxy.call("server/discover", json!({"_meta": meta}));
    assert!(
        found["result"].is_object() || found["error"].is_object(),
        "{found}"
    );
    assert_eq!(proxy.end(), Some(0));
    project.cli(["status"]).exits(0);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_restart_of_the_daemon_is_survived() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let before = proxy.status()["daemon"]["instance_id"].clone();
    project.cli(["daemon", "restart"]).exits(0);
    let after = proxy.status()["daemon"]["instance_id"].clone();
    assert_ne!(before, after);
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn reading_starts_no_daemon_and_a_tool_does() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    let hello = proxy.handshake();
    assert_eq!(hello["result"]["serverInfo"]["name"], "bpm", "{hello}");
    for method in ["ping", "tools/list", "resources/list", "prompts/list"] {
        assert!(
            proxy.call(method, json!({}))["result"].is_object(),
            "{method}"
        );
    }
    let tool = |name: &str, args: Value| json!({"name": name, "arguments": args});
    let stopped = proxy.call("tools/call", tool("stop", json!({"process": "nap"})));
    assert_eq!(
        stopped["result"]["structuredContent"]["ok"], true,
        "{stopped}"
    );
    let reloaded = proxy.call("tools/call", tool("reload", json!({})));
    assert_eq!(reloaded["result"]["isError"], true, "{reloaded}");
    project.cli(["status"]).exits(3);
    assert_eq!(proxy.status()["processes"][0]["name"], "nap");
    project.cli(["status"]).exits(0);
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn stop_on_purpose_lasts_until_somebody_starts() {
    let project = Project::new("[process.nap]\ncommand = \"echo hello; exec FIXTURE nap\"\n");
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    proxy.status();
    eventually(
        || match project.cli(["logs", "nap"]).out.contains("hello") {
            true => Ok(()),
            false => Err("no line yet"),
        },
    );
    let tool = |name: &str, args: Value| json!({"name": name, "arguments": args});
    for by in [&["stop"][..], &["daemon", "stop"], &["stop", "--force"]] {
        project.cli(by).exits(0);
        let reads = [
            ("get_status", json!({})),
            ("search_logs", json!({"process": "nap"})),
            ("get_errors", json!({})),
            ("wait", json!({"process": "nap"})),
        ];
        for (name, args) in reads {
            let answer = proxy.call("tools/call", tool(name, args));
            let text = answer["result"]["content"][0]["text"].as_str().unwrap();
            assert!(text.contains("stopped by \"bpm "), "{name}: {text}");
            assert!(text.contains("the tool start starts it"), "{name}: {text}");
            assert_eq!(text.contains("hello"), name == "search_logs", "{text}");
        }
        project.cli(["status"]).exits(3);
        let answer = proxy.call("tools/call", tool("start", json!({"process": "nap"})));
        assert_eq!(
            answer["result"]["structuredContent"]["ok"], true,
            "{answer}"
        );
        project.cli(["status"]).exits(0);
    }
    // A death is no stop on purpose.
    murder(proxy.status()["daemon"]["pid"].as_i64().unwrap() as i32);
    assert_eq!(proxy.status()["processes"][0]["name"], "nap");
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

/// Names and whether each is wanted.
fn wanted(project: &Project) -> Vec<(String, bool)> {
    let status = project.cli(["status", "--json"]).exits(0);
    let status: Value = serde_json::from_str(&status.out).unwrap();
    let processes = status["processes"].as_array().unwrap().iter();
    let row = |p: &Value| (p["name"].as_str().unwrap().into(), p["wanted"] == true);
    processes.map(row).collect()
}

#[test]
fn start_after_a_stop_on_purpose_starts_no_others() {
    let nap = |name: &str, more: &str| {
        format!("[process.{name}]\ncommand = [\"FIXTURE\", \"nap\"]\n{more}\n")
    };
    let config = [
        nap("db", ""),
        nap("api", "depends_on = [\"db\"]"),
        nap("web", ""),
    ];
    let project = Project::new(&config.concat());
    project.cli(["up"]).exits(0);
    project.cli(["stop"]).exits(0);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let start = |process: &str| json!({"name": "start", "arguments": {"process": process}});
    // A call that can't be carried out starts nothing either.
    for arguments in [json!({}), json!({"process": ""}), json!({"process": "wbe"})] {
        let call = json!({"name": "start", "arguments": arguments});
        let answer = proxy.call("tools/call", call);
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        project.cli(["status"]).exits(3);
    }
    let answer = proxy.call("tools/call", start("api"));
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    let started = |name: &str, wanted| (name.to_owned(), wanted);
    let rows = [
        started("db", true),
        started("api", true),
        started("web", false),
    ];
    assert_eq!(wanted(&project), rows);
    project.cli(["stop"]).exits(0);
    proxy.call("tools/call", start("*"));
    assert!(wanted(&project).iter().all(|(_, wanted)| *wanted));
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn missing_configuration_does_not_end_the_session() {
    let project = Project::empty();
    let mut proxy = Proxy::new(&project, &[]);
    assert!(proxy.handshake()["result"].is_object());
    assert!(proxy.call("tools/list", json!({}))["result"]["tools"].is_array());
    let call = json!({"name": "get_status", "arguments": {}});
    let answer = proxy.call("tools/call", call.clone());
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("no .mcp-run in"), "{text}");
    project.config(NAP);
    assert_eq!(proxy.status()["processes"][0]["name"], "nap");
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn daemon_is_started_from_the_binary_that_the_path_names_now() {
    let project = Project::new(NAP);
    let own = project.root.join("own");
    std::fs::create_dir(&own).unwrap();
    let path = own.join("bpm");
    copied(&bpm(), &path);
    let mut proxy = Proxy::of(&project, &path, &[]);
    proxy.handshake();
    // Another file by the same name, and the running one under none.
    std::fs::remove_file(&path).unwrap();
    copied(&bpm(), &path);
    let daemon = proxy.status()["daemon"]["pid"].as_i64().unwrap();
    let exe = std::fs::read_link(format!("/proc/{daemon}/exe")).unwrap();
    assert_eq!(exe, path);
    project.cli(["stop", "--force"]).exits(0);
    std::fs::remove_file(&path).unwrap();
    let start = json!({"name": "start", "arguments": {"process": "nap"}});
    let answer = proxy.call("tools/call", start);
    assert_eq!(
        answer["result"]["structuredContent"]["ok"], true,
        "{answer}"
    );
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn proxy_answers_calls_in_flight_when_the_daemon_dies() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let daemon = proxy.status()["daemon"]["pid"].as_i64().unwrap() as i32;
    let wait = json!({"name": "wait", "arguments": {"process": "nap", "for": "exit", "timeout_seconds": 600}});
    let id = proxy.ask("tools/call", wait);
    // It is under way once a later request is answered.
    assert!(proxy.call("ping", json!({}))["result"].is_object());
    murder(daemon);
    let answer = proxy.answer(id);
    assert_eq!(answer["error"]["code"], -32000, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("may or may not"),
        "{answer}"
    );
    // And the next one is served by the next daemon.
    let next = proxy.status();
    assert_ne!(next["daemon"]["pid"], daemon);
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn proxy_repeats_reading_calls_when_the_daemon_dies() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let daemon = proxy.status()["daemon"]["pid"].as_i64().unwrap() as i32;
    // It answers nothing any more, so both are under way when it dies.
    freeze(daemon);
    let order = proxy.ask(
        "tools/call",
        json!({"name": "stop", "arguments": {"process": "nap"}}),
    );
    let read = proxy.ask("tools/call", json!({"name": "get_status", "arguments": {}}));
    murder(daemon);
    assert_eq!(proxy.answer(order)["error"]["code"], -32000);
    let answer = proxy.answer(read);
    let data = &answer["result"]["structuredContent"];
    assert_eq!(data["processes"][0]["name"], "nap", "{answer}");
    assert_ne!(data["daemon"]["pid"], daemon);
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_restart_of_the_daemon_is_not_noticed_by_who_reads() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let over = AtomicBool::new(false);
    let mut asked = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                project.cli(["daemon", "restart"]).exits(0);
            }
            over.store(true, Ordering::SeqCst);
        });
        while !over.load(Ordering::SeqCst) {
            let tool = |name: &str, args: Value| json!({"name": name, "arguments": args});
            for (method, params) in [
                ("tools/list", json!({})),
                ("tools/call", tool("get_status", json!({}))),
                ("tools/call", tool("search_logs", json!({"process": "nap"}))),
                ("resources/read", json!({"uri": "bpm://status"})),
            ] {
                let answer = proxy.call(method, params);
                assert_eq!(answer["error"], Value::Null, "{method}, the {asked}th");
                asked += 1;
            }
        }
    });
    assert!(asked > 20, "{asked}");
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

/// A process that runs, and ends after its stop signal only once there is a file `go`.
fn slow() -> (Project, Proxy) {
    let project = Project::new(
        "[process.slow]\nstop_timeout_seconds = 60\n\
         command = \"trap 'until [ -e go ]; do sleep 0.01; done; exit 0' TERM; echo up; while :; do sleep 0.01; done\"\n",
    );
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let up = json!({"name": "wait", "arguments": {"process": "slow", "for": "log", "pattern": "up", "after": 0}});
    assert_eq!(
        proxy.call("tools/call", up)["result"]["structuredContent"]["met"],
        true
    );
    (project, proxy)
}

#[test]
fn an_order_to_a_daemon_that_stops_is_given_to_the_next() {
    let (project, mut proxy) = slow();
    let daemon = proxy.status()["daemon"]["pid"].clone();
    std::thread::scope(|scope| {
        scope.spawn(|| project.cli(["daemon", "restart"]).exits(0));
        eventually(|| match proxy.status()["processes"][0]["state"].as_str() {
            Some("stopping") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let start =
            json!({"name": "start", "arguments": {"process": "slow", "timeout_seconds": 600}});
        let order = proxy.ask("tools/call", start);
        // The old daemon has read it once it answers what came after it.
        proxy.status();
        project.file("go", "");
        let answer = proxy.answer(order);
        assert_eq!(
            answer["result"]["structuredContent"]["ok"], true,
            "{answer}"
        );
    });
    assert_ne!(proxy.status()["daemon"]["pid"], daemon);
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn an_order_under_way_does_not_undo_a_stop_on_purpose() {
    let (project, mut proxy) = slow();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| project.cli(["stop"]).exits(0));
        eventually(|| match proxy.status()["processes"][0]["state"].as_str() {
            Some("stopping") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let orders = ["start", "restart"].map(|name| {
            let order = json!({"name": name, "arguments": {"process": "slow"}});
            (name, proxy.ask("tools/call", order))
        });
        // The daemon has read them once it answers what came after them.
        proxy.status();
        project.file("go", "");
        for (name, order) in orders {
            let answer = proxy.answer(order);
            assert_eq!(answer["result"]["isError"], true, "{answer}");
            let text = answer["result"]["content"][0]["text"].as_str().unwrap();
            let why = format!("cannot {name}: while this call was under way, bpm was stopped by");
            assert!(text.contains(&why), "{text}");
        }
        stop.join().unwrap();
    });
    project.cli(["status"]).exits(3);
    // One that is given now starts it.
    let start = json!({"name": "start", "arguments": {"process": "slow"}});
    let answer = proxy.call("tools/call", start);
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_notification_starts_no_daemon() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    project.cli(["stop"]).exits(0);
    proxy.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#);
    assert_eq!(proxy.end(), Some(0));
    project.cli(["status"]).exits(3);
}

#[test]
fn a_broken_configuration_is_told_to_the_agent() {
    let project = Project::new("[process.a]\ncomand = \"x\"\n");
    let mut proxy = Proxy::new(&project, &[]);
    assert!(proxy.handshake()["result"].is_object());
    let call = json!({"name": "get_status", "arguments": {}});
    let answer = proxy.call("tools/call", call);
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("unknown key \"comand\""), "{text}");
    // Repaired, it works in the same session.
    project.config(NAP);
    assert_eq!(proxy.status()["processes"][0]["name"], "nap");
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn requests_run_side_by_side_and_odd_lines_are_answered() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let wait = json!({"name": "wait", "arguments": {"process": "nap", "for": "exit", "timeout_seconds": 600}});
    let waiting = proxy.ask("tools/call", wait);
    assert!(proxy.call("ping", json!({}))["result"].is_object());
    proxy.send("this is no json");
    assert_eq!(proxy.next()["error"]["code"], -32700);
    proxy.send(&"x".repeat(5 << 20));
    let answer = proxy.next();
    assert_eq!(
        (&answer["error"]["code"], &answer["id"]),
        (&json!(-32600), &Value::Null)
    );
    // What comes after is whole again.
    assert!(proxy.call("ping", json!({}))["result"].is_object());
    // Megabytes in both directions at once: neither end may wait for the other to read.
    let text = "y".repeat(3 << 20);
    let mut input = proxy.input.take().unwrap();
    let writer = std::thread::spawn(move || {
        for id in 100..104 {
            let params = json!({"name": text});
            let message =
                json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
            writeln!(input, "{message}").unwrap();
        }
        input
    });
    for id in 100..104 {
        assert_eq!(proxy.answer(id)["error"]["code"], -32602);
    }
    proxy.input = Some(writer.join().unwrap());
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waiting}});
    proxy.send(&cancel.to_string());
    // Cancelled, it is not waited for at the end.
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn proxy_answers_the_last_call_after_the_end_of_its_input() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let id = proxy.ask("tools/list", json!({}));
    drop(proxy.input.take());
    assert!(proxy.answer(id)["result"]["tools"].is_array());
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn all_of_an_input_that_has_ended_is_answered() {
    let mut project = Project::new(NAP);
    project.up();
    let requests: String = (1..=5)
        .map(|id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}\n"))
        .collect();
    project.file("requests", &requests);
    let output = project
        .command(bpm())
        .arg("proxy")
        .stdin(std::fs::File::open(project.root.join("requests")).unwrap())
        .output()
        .unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let mut answered: Vec<u64> = answers
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|answer| answer["result"]["tools"].is_array())
        .map(|answer| answer["id"].as_u64().unwrap())
        .collect();
    answered.sort();
    assert_eq!(answered, [1, 2, 3, 4, 5], "{answers}");
}

#[test]
fn alone_it_serves_and_takes_its_processes_with_it() {
    for way in ["--standalone", "BPM_DISABLE_DAEMON"] {
        let mut project = Project::new(NAP);
        let args: &[&str] = if way.starts_with('-') {
            &[way]
        } else {
            project.env(way, "1");
            &[]
        };
        let mut proxy = Proxy::new(&project, args);
        proxy.handshake();
        let status = proxy.status();
        assert_eq!(status["daemon"]["pid"], proxy.child.id());
        let nap = eventually(|| {
            proxy.status()["processes"][0]["pid"]
                .as_i64()
                .ok_or("not yet")
        }) as i32;
        assert!(lives(nap));
        assert_eq!(proxy.end(), Some(0));
        assert!(!lives(nap));
        project.cli(["status"]).exits(3);
    }
}

#[test]
fn proxy_ends_with_its_parent() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    // The input stays open in our hands, so only the parent's end can tell.
    let (input, kept) = std::io::pipe().unwrap();
    // A shell gives the null device to what it starts in the background, so the input is handed on as 3.
    let script = format!("exec 3<&0; {} proxy <&3 & echo $!; wait", bpm().display());
    let mut parent = project
        .command("sh")
        .args(["-c", &script])
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let proxy: i32 = line.trim().parse().unwrap();
    // It serves, and so watches its parent.
    (&kept)
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n")
        .unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("result"), "{line}");
    parent.kill().unwrap();
    parent.wait().unwrap();
    gone(proxy);
    drop(kept);
    project.cli(["stop"]).exits(0);
}

#[test]
fn many_share_one_daemon() {
    let project = Project::new(NAP);
    // All at once, without a daemon.
    let mut many: Vec<Proxy> = (0..30).map(|_| Proxy::new(&project, &[])).collect();
    let mut instances: Vec<String> = Vec::new();
    for proxy in &mut many {
        proxy.handshake();
        instances.push(proxy.status()["daemon"]["instance_id"].to_string());
    }
    instances.dedup();
    assert_eq!(instances.len(), 1);
    project.cli(["daemon", "restart"]).exits(0);
    for proxy in &mut many {
        assert!(proxy.call("ping", json!({}))["result"].is_object());
    }
    for proxy in many {
        assert_eq!(proxy.end(), Some(0));
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn events_are_numbered_over_restarts_and_deaths() {
    let project = Project::new(NAP);
    let mut proxy = Proxy::new(&project, &[]);
    proxy.handshake();
    let call = |proxy: &mut Proxy, name: &str, args: Value| {
        let answer = proxy.call("tools/call", json!({"name": name, "arguments": args}));
        answer["result"]["structuredContent"].clone()
    };
    for dies in [false, true] {
        // More than the next bpm has of its own, so that its numbers would be taken for old ones.
        for _ in 0..3 {
            call(&mut proxy, "stop", json!({"process": "nap"}));
            let start = json!({"process": "nap", "timeout_seconds": 0});
            call(&mut proxy, "start", start);
        }
        let before = proxy.status();
        let cursor = before["next"].as_u64().unwrap();
        if dies {
            murder(before["daemon"]["pid"].as_i64().unwrap() as i32);
        } else {
            project.cli(["daemon", "restart"]).exits(0);
        }
        let change = json!({"process": "nap", "for": "change", "after": cursor});
        assert_eq!(call(&mut proxy, "wait", change)["met"], true);
        let news = call(&mut proxy, "get_status", json!({"events_since": cursor}));
        let numbers: Vec<u64> = news["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect();
        assert!(numbers.is_sorted() && numbers[0] > cursor, "{news}");
        assert_eq!(news["next"].as_u64(), numbers.last().copied());
    }
    assert_eq!(proxy.end(), Some(0));
    project.cli(["stop"]).exits(0);
}

#[test]
fn answers_come_whole_where_the_output_does_not_block() {
    let project =
        Project::new("[process.many]\ncommand = \"FIXTURE burst 3000; exec FIXTURE nap\"\n");
    project.cli(["up"]).exits(0);
    let (reader, writer) = nonblocking_pipe();
    let kept = writer.try_clone().unwrap();
    let mut child = project
        .command(bpm())
        .arg("proxy")
        .stdin(Stdio::piped())
        .stdout(writer)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let arguments = json!({"process": "many", "tail": 3000, "max_chars": 50_000});
    let params = json!({"name": "search_logs", "arguments": arguments});
    for id in 1..=3 {
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        writeln!(input, "{call}").unwrap();
    }
    until_full(&kept);
    drop(kept);
    writeln!(
        input,
        "{}",
        json!({"jsonrpc": "2.0", "id": 4, "method": "ping"})
    )
    .unwrap();
    let mut ids = Vec::new();
    for line in BufReader::new(reader).lines().take(4) {
        let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
        ids.push(answer["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    project.cli(["stop"]).exits(0);
}
