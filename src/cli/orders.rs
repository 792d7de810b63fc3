//! `start`, `stop`, `restart`, `wait`, `why`, `reload`: orders, and their answers.

use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, human};
use crate::base::error::{Error, Failure, Result};
use crate::base::json::{items, object, strings};
use crate::client::connection::{self, CallError, Client, ToolResult};
use crate::client::offline::Offline;
use crate::client::verdict::{Verdict, judge};
use crate::daemon::{self, Project, RunMode};

use super::daemon::{begin, options, reach, stop_all};
use super::source::{Asked, ask};
use super::spec::Call;
use super::{answer, cannot_ask, no_daemon, print, refused, tell};

/// The most that a tool waits; who waits longer asks again.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// `bpm start`.
pub(super) fn start(call: &Call) -> Result<u8> {
    let mut options = options(call, RunMode::Detached)?;
    let names = call.names()?;
    let project = call.project()?;
    if names.is_empty() {
        return begin(&project, &options);
    }
    options.only = Some(names.clone());
    match reach(&project, &options)? {
        Some(mut reached) => order(&mut reached.client, "start", &names, object([])),
        None => Ok(0),
    }
}

/// `bpm stop`.
pub(super) fn stop(call: &Call) -> Result<u8> {
    let names = call.names()?;
    if names.is_empty() {
        return stop_all(&call.project()?, call.has("force"), Some("bpm stop"));
    }
    if call.has("force") {
        return Err(
            Error::usage("--force is for all: it does not go with names")
                .with_hint("stop_timeout_seconds says when a process is killed"),
        );
    }
    let project = call.project()?;
    let what = format!("stop {}", names.join(", "));
    match judge(&project.dir, "cli")? {
        Verdict::Running(_, mut client) => order(&mut client, "stop", &names, object([])),
        // Nothing runs, which is what was asked for.
        Verdict::Stopped => answer("nothing runs\n"),
        Verdict::Unhealthy(_) => Err(Error::cannot(what, "the daemon does not answer")
            .with_hint("\"bpm stop --force\" ends everything")),
        Verdict::Stale(_) => {
            Err(Error::cannot(what, "the daemon is dead").with_hint("\"bpm stop\" ends everything"))
        }
    }
}

/// `bpm restart`.
pub(super) fn restart(call: &Call) -> Result<u8> {
    let names = match (call.has("all"), call.names()?) {
        (true, names) if !names.is_empty() => {
            return Err(Error::usage("--all does not go with names"));
        }
        (true, _) => vec!["*".to_string()],
        (false, names) if names.is_empty() => {
            return Err(Error::usage(
                "bpm restart needs the name of a process, or --all",
            ));
        }
        (false, names) => names,
    };
    let (_, _, mut client) = call.daemon("restart")?;
    let mode = match call.has("release") {
        true => "release",
        false => "dev",
    };
    let arguments = object([("mode", mode.into())]);
    order(&mut client, "restart", &names, arguments)
}

/// Gives the same order to several processes at once, waits for all, and says how each went: 0 or 1.
fn order(client: &mut Client, tool: &str, names: &[String], mut arguments: Value) -> Result<u8> {
    let mut code = 0;
    arguments["timeout_seconds"] = LONGEST.as_secs().into();
    let calls = for_each(names, &arguments);
    let answers = call_all(client, tool, &calls).map_err(|f| f.while_doing(tool))?;
    for (name, told) in names.iter().zip(answers) {
        let late = late(&told.data);
        code = code.max(say(tool, name, &told, !late.is_empty() && tool != "stop")?);
        if tool == "stop" {
            continue;
        }
        // They go on beyond what a tool waits for: so do we.
        for name in late {
            let told = until_ready(client, &name)?;
            code = code.max(say(tool, &name, &told, false)?);
        }
    }
    Ok(code)
}

/// Prints an answer; 1 if it is a failure, be it that it goes on.
fn say(tool: &str, name: &str, told: &ToolResult, goes_on: bool) -> Result<u8> {
    if told.failed {
        return Ok(not_done(tool, name, &told.text));
    }
    print(format_args!("{}\n", told.text))?;
    Ok(u8::from(told.data["ok"] == false && !goes_on))
}

/// Says why an order was not carried out: a tool's `api: not restarted: build 3 failed`; the exit code.
pub(super) fn not_done(tool: &str, name: &str, text: &str) -> u8 {
    let said = text.strip_prefix(name).and_then(|rest| {
        let (done, why) = rest.strip_prefix(": not ")?.split_once(": ")?;
        matches!(done, "started" | "stopped" | "restarted" | "met").then_some(why)
    });
    match (said, name) {
        (Some(why), _) => refused(&format!("{tool} {name}"), why),
        (None, "*") => refused(&format!("{tool} all"), text),
        (None, _) => refused(tool, text),
    }
}

/// The processes for which an order was not done in time.
fn late(data: &Value) -> Vec<String> {
    let all = std::iter::once(data).chain(items(&data["results"]));
    let late = all.filter(|result| result["timed_out"] == true);
    late.filter_map(|result| Some(result["process"].as_str()?.to_owned()))
        .collect()
}

/// Waits for readiness as long as it takes.
fn until_ready(client: &mut Client, name: &str) -> Result<ToolResult> {
    loop {
        let arguments = object([
            ("process", name.into()),
            ("for", "ready".into()),
            ("timeout_seconds", LONGEST.as_secs().into()),
        ]);
        let begun = Mono::now();
        let told = client
            .tool("wait", arguments, None)
            .map_err(|f| f.while_doing("wait"))?;
        let over = Mono::now().since(begun) >= LONGEST;
        if told.failed || told.data["met"] == true || !over {
            let failed = told.failed || told.data["met"] != true;
            return Ok(ToolResult { failed, ..told });
        }
    }
}

/// The arguments of a call for each name.
pub(super) fn for_each(names: &[String], arguments: &Value) -> Vec<Value> {
    let mut calls = vec![arguments.clone(); names.len()];
    for (call, name) in calls.iter_mut().zip(names) {
        call["process"] = name.as_str().into();
    }
    calls
}

/// Calls a tool with each of these arguments at once; the answers in their order.
pub(super) fn call_all(
    client: &mut Client,
    tool: &str,
    calls: &[Value],
) -> std::result::Result<Vec<ToolResult>, CallError> {
    let mut ids = Vec::new();
    for arguments in calls {
        let params = object([("name", tool.into()), ("arguments", arguments.clone())]);
        ids.push(client.send("tools/call", params)?);
    }
    let mut answers: Vec<Option<ToolResult>> = calls.iter().map(|_| None).collect();
    while answers.iter().any(Option::is_none) {
        let Some(message) = client.receive(None)? else {
            continue;
        };
        for (id, answer) in ids.iter().zip(&mut answers) {
            if let Some(result) = connection::result_of(&message, *id) {
                *answer = Some(connection::told(&result?));
            }
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// `bpm wait`.
pub(super) fn wait(call: &Call) -> Result<u8> {
    let what = call.choice("for")?.unwrap_or("ready");
    let pattern = call.text("pattern")?;
    let name = call.names()?.remove(0);
    let limit = call.seconds("timeout")?;
    match (what, pattern) {
        ("log", None) => return Err(Error::usage("--for log needs --pattern RE")),
        ("log", _) | (_, None) => {}
        (_, Some(_)) => return Err(Error::usage("--pattern is for --for log")),
    }
    let (_, _, mut client) = call.daemon("wait")?;
    let until = limit.map(|l| Mono::now().after(l));
    let mut after = Value::Null;
    loop {
        let span = until.map_or(LONGEST, |u| u.since(Mono::now()).min(LONGEST));
        let mut arguments = object([
            ("process", name.as_str().into()),
            ("for", what.into()),
            ("timeout_seconds", span.as_secs_f64().into()),
        ]);
        if let Some(pattern) = pattern {
            arguments["pattern"] = pattern.into();
        }
        if !after.is_null() {
            arguments["after"] = after;
        }
        let begun = Mono::now();
        let told = client
            .tool("wait", arguments, None)
            .map_err(|f| f.while_doing("wait"))?;
        if told.failed {
            return Ok(not_done("wait for", &name, &told.text));
        }
        if told.data["met"] == true {
            return answer(format_args!("{}\n", told.text));
        }
        if Mono::now().since(begun) < span {
            return Ok(not_done("wait for", &name, &told.text));
        }
        if until.is_some_and(|u| u.since(Mono::now()).is_zero()) {
            return Err(Failure::TimedOut {
                what: format!("wait for {name} ({what})"),
                after: limit.map(human).unwrap_or_default(),
            }
            .into());
        }
        after = told.data["next"].clone();
    }
}

/// `bpm why`.
pub(super) fn why(call: &Call) -> Result<u8> {
    let name = call.names()?.remove(0);
    let params = object([("process", name.as_str().into())]);
    let project = call.project()?;
    let asked = judge(&project.dir, "cli").and_then(|verdict| {
        ask(&project, verdict, &mut |client| {
            client.call("bpm/why", params.clone(), None)
        })
    });
    let said = match asked {
        Ok(Asked::Answer(said)) => said,
        Ok(Asked::Nobody(verdict)) => return Err(no_daemon("tell why", &project, &verdict)),
        Err(error) if cannot_ask(&error) => return why_on_disk(&project, &name, &params, error),
        Err(error) => return Err(error),
    };
    match said {
        Ok(card) => {
            let text = card["text"].as_str().unwrap_or_default();
            answer(format_args!("{}\n", text.trim_end()))
        }
        Err(CallError::Refused { message, .. }) => Ok(refused("tell why", &message)),
        Err(fault) => Err(fault.while_doing("tell why")),
    }
}

/// The last end that was written down, for who may not ask the daemon: nothing about how the process is now.
fn why_on_disk(project: &Project, name: &str, params: &Value, error: Error) -> Result<u8> {
    let stored = Offline::open(&project.root, &project.dir, &[name.to_owned()])?;
    let Ok(card) = stored.call("bpm/why", params, &mut |_| {}) else {
        return Err(error);
    };
    tell(format_args!("{error}; what follows is on disk"));
    let text = card["text"].as_str().unwrap_or_default();
    for line in text.lines().skip(1) {
        if !line.starts_with("what happens next") {
            print(format_args!("{line}\n"))?;
        }
    }
    Ok(1)
}

/// `bpm reload`.
pub(super) fn reload(call: &Call) -> Result<u8> {
    let (project, _, mut client) = call.daemon("reload")?;
    // Mistakes are shown with their places by who reads the file here, the same way as everywhere.
    daemon::read_config(&project.root)?;
    let dry = call.has("dry-run");
    let done = match client.call("bpm/reload", object([("dry_run", dry.into())]), None) {
        Ok(done) => done,
        Err(CallError::Refused { message, .. }) => return Ok(refused("reload", &message)),
        Err(fault) => return Err(fault.while_doing("reload")),
    };
    let mut text = String::new();
    for key in ["changed", "added", "removed", "adjusted"] {
        let names: Vec<&str> = strings(&done[key]).collect();
        if !names.is_empty() {
            text.push_str(&format!("{key}: {}\n", names.join(", ")));
        }
    }
    if text.is_empty() {
        text.push_str("nothing changed\n");
    }
    print(&text)?;
    let mut code = 0;
    for error in strings(&done["errors"]) {
        code = refused("reload", error);
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_that_is_late_is_waited_for() {
        let one = json!({"process": "web", "ok": false, "timed_out": true});
        let done = json!({"process": "api", "ok": true, "timed_out": false});
        assert_eq!(late(&one), ["web"]);
        assert!(late(&done).is_empty());
        let worker = json!({"process": "worker", "timed_out": true});
        let all = json!({"ok": false, "results": [one, done, worker]});
        assert_eq!(late(&all), ["web", "worker"]);
    }
}
