//! An agent's whole session: the daemon is restarted, killed and stopped by a person, and the `.mcp-run` is broken and
//! repaired. No call is lost without a sentence, nothing starts that nobody wanted, and there are never two daemons.

use serde_json::{Value, json};

use crate::common::{Project, eventually, lives, murder};
use crate::proxy::Proxy;

const GOOD: &str = "[process.api]\ncommand = \"echo hello; exec FIXTURE nap\"\n\
                    [process.later]\ncommand = [\"FIXTURE\", \"nap\"]\nautostart = false\n";

struct Session {
    project: Project,
    proxy: Proxy,
}

impl Session {
    fn ask(&mut self, tool: &str, arguments: Value) -> u64 {
        let call = json!({"name": tool, "arguments": arguments});
        self.proxy.ask("tools/call", call)
    }

    /// The sentence of an answer, be it an error.
    fn sentence(&mut self, id: u64) -> String {
        let answer = self.proxy.answer(id);
        let text = &answer["result"]["content"][0]["text"];
        let text = text.as_str().or(answer["error"]["message"].as_str());
        let text = text.unwrap_or_default();
        assert!(text.len() > 10, "no sentence in {answer}");
        text.into()
    }

    fn says(&mut self, tool: &str, arguments: Value) -> String {
        let id = self.ask(tool, arguments);
        self.sentence(id)
    }

    /// Calls a tool that succeeds; its data.
    fn ok(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.ask(tool, arguments);
        let answer = self.proxy.answer(id);
        assert_eq!(answer["result"]["isError"], false, "{answer}");
        answer["result"]["structuredContent"].clone()
    }

    /// Exactly one daemon runs, with one process of `api` and none of `later`. Its pid.
    fn one_daemon(&mut self) -> i32 {
        let list = self.project.cli(["ps", "--json"]).exits(0).out;
        let list: Value = serde_json::from_str(&list).unwrap();
        let daemons = list["daemons"].as_array().unwrap();
        assert_eq!(daemons.len(), 1, "{list}");
        assert_eq!(daemons[0]["verdict"], "running", "{list}");
        let (_, running) = eventually(|| {
            let naps = self.naps();
            let status = self.ok("get_status", json!({"verbose": true}));
            let pid = status["processes"][0]["pid"].as_i64();
            match naps.as_slice() {
                [one] if Some(i64::from(*one)) == pid => Ok((*one, status)),
                _ => Err((naps, status)),
            }
        });
        assert_eq!(running["processes"][1]["wanted"], false, "{running}");
        daemons[0]["pid"].as_i64().unwrap() as i32
    }

    /// The project's own processes.
    fn naps(&self) -> Vec<i32> {
        let all = self.project.inhabitants().into_iter();
        let naps = all.filter(|(_, command)| command.contains("fixture nap"));
        naps.map(|(pid, _)| pid).collect()
    }

    fn nothing_runs(&self) {
        self.project.cli(["status"]).exits(3);
        assert_eq!(self.naps(), Vec::<i32>::new());
    }
}

#[test]
fn session_goes_on_whatever_happens_to_the_daemon() {
    let project = Project::new(GOOD);
    let proxy = Proxy::new(&project, &[]);
    let mut session = Session { project, proxy };
    session.proxy.handshake();
    for method in ["tools/list", "resources/list", "prompts/list", "ping"] {
        session.proxy.call(method, json!({}));
    }
    session.nothing_runs();

    session.ok("get_status", json!({}));
    session.ok("wait", json!({"process": "api"}));
    let first = session.one_daemon();
    let cursor = session.ok("get_status", json!({}))["next"].clone();
    session.ok("restart", json!({"process": "api"}));
    assert_eq!(session.one_daemon(), first);

    // Restarted by a person, with a call in flight.
    let waiting = json!({"process": "api", "for": "exit", "timeout_seconds": 100});
    let id = session.ask("wait", waiting.clone());
    session.ok("get_status", json!({}));
    session.project.cli(["daemon", "restart"]).exits(0);
    session.sentence(id);
    let second = session.one_daemon();
    assert_ne!(second, first);
    let news = session.ok("get_status", json!({"events_since": cursor}));
    let daemon = |news: &Value| {
        let events = news["events"].as_array().unwrap().iter();
        let mut of_daemon = events.filter(|event| event["kind"] == "daemon");
        of_daemon.next_back().map(|event| event["text"].to_string())
    };
    let said = daemon(&news).expect("an event tells of the restart");
    assert!(said.contains("was stopped"), "{said}");

    // Killed, with a call in flight.
    let cursor = news["next"].clone();
    let id = session.ask("wait", waiting);
    session.ok("get_status", json!({}));
    murder(second);
    let text = session.sentence(id);
    assert!(
        text.contains("it changes nothing, so call it again"),
        "{text}"
    );
    // The next call starts another.
    session.ok("get_status", json!({}));
    let third = session.one_daemon();
    assert!(!lives(second) && third != second);
    let news = session.ok("get_status", json!({"events_since": cursor}));
    let said = daemon(&news).expect("an event tells of the death");
    assert!(said.contains("killed"), "{said}");

    // The file is broken: what runs goes on, and each answer says why nothing new is taken over.
    let broken = "[process.api]\ncomand = \"x\"\n[process.new]\ncommand = \"y\"\nprot = 1\n";
    session.project.config(broken);
    let text = session.says("reload", json!({}));
    for part in ["did you mean \"command\"?", "nothing was changed"] {
        assert!(text.contains(part), "{text}");
    }
    for (tool, arguments) in [
        ("get_status", json!({})),
        ("restart", json!({"process": "api"})),
        ("wait", json!({"process": "new"})),
    ] {
        let text = session.says(tool, arguments);
        for part in [
            "changed since it was read: it cannot be used",
            "did you mean",
        ] {
            assert!(text.contains(part), "{tool}: {text}");
        }
        assert!(!text.contains("unknown process"), "{text}");
    }
    // The first mistake in one line, and how many more there are.
    let status = session.ok("get_status", json!({}));
    let error = status["config_error"].as_str().unwrap_or_default();
    assert!(
        error.ends_with("did you mean \"command\"? (and 1 more)"),
        "{status}"
    );
    let shown = session.project.cli(["status"]).exits(0).out;
    let said =
        format!("goes on as before: {error}; once it is repaired, \"bpm reload\" takes it over\n");
    assert!(shown.contains(&said), "{shown}");
    assert_eq!(session.one_daemon(), third);
    // Without a daemon nothing can be started from it: that is said, again and again, until it is repaired.
    session.project.cli(["daemon", "stop"]).exits(0);
    for tool in ["start", "restart", "start"] {
        let text = session.says(tool, json!({"process": "api"}));
        assert!(text.contains("did you mean \"command\"?"), "{text}");
    }
    // There is nothing to stop, and why nothing can be read is said too.
    for tool in ["stop", "reload"] {
        let text = session.says(tool, json!({"process": "new"}));
        for part in ["no daemon runs", "did you mean \"command\"?"] {
            assert!(text.contains(part), "{tool}: {text}");
        }
    }
    session.nothing_runs();
    session.project.config(GOOD);
    session.ok("start", json!({"process": "api"}));
    let fourth = session.one_daemon();

    // Stopped by a person: it stays so for whoever only reads.
    session.project.cli(["stop"]).exits(0);
    assert!(!lives(fourth));
    for tool in ["get_status", "get_errors", "wait", "search_logs"] {
        let arguments = match tool {
            "wait" | "search_logs" => json!({"process": "api"}),
            _ => json!({}),
        };
        let text = session.says(tool, arguments);
        assert!(text.contains("stopped by \"bpm stop\""), "{tool}: {text}");
    }
    for tool in ["stop", "reload"] {
        let text = session.says(tool, json!({"process": "api"}));
        assert!(text.contains("no daemon runs"), "{tool}: {text}");
    }
    session.nothing_runs();
    // Nothing is counted without a daemon.
    let one = session.ok("get_status", json!({"process": "api"}));
    let one = &one["processes"][0];
    assert_eq!(
        (&one["name"], &one["state"]),
        (&json!("api"), &json!("stopped"))
    );
    for key in ["log_lines", "since", "crashes", "wanted"] {
        assert!(one.get(key).is_none(), "{one}");
    }
    let wait = session.ok("wait", json!({"process": "api"}));
    assert_eq!(
        (&wait["met"], &wait["state"]),
        (&json!(false), &json!("stopped"))
    );
    assert_eq!(wait["next_call"]["tool"], "start");
    // Nothing is said of a daemon that there is not, and what would keep the tool from starting it is.
    let status = session.ok("get_status", json!({}));
    assert_eq!(status["daemon"], Value::Null, "{status}");
    session.project.config("[process.api]\ncomand = \"x\"\n");
    let text = session.says("get_status", json!({}));
    for part in ["stopped by", "did you mean \"command\"?"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("pid 0"), "{text}");
    session.project.config(GOOD);
    session.ok("start", json!({"process": "api"}));
    session.one_daemon();
    session.project.cli(["stop"]).exits(0);
    assert_eq!(session.proxy.end(), Some(0));
}
