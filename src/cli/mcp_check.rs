//! `bpm mcp-config --check`: connects as the agent would, by the very command and URL that are printed.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::base::error::{Error, Result, reason};
use crate::base::escape::in_line;
use crate::base::json::{self, items, object};
use crate::daemon::{Env, Project, read_config};
use crate::os::run::run;

/// A connection that takes longer is none.
const LONGEST: Duration = Duration::from_secs(20);
/// The variables that the strictest agents pass on (Codex, the SDKs).
const KEPT: [&str; 7] = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

/// How an agent starts its server.
pub(super) struct Entry<'a> {
    pub(super) client: &'a str,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Variables that the entry sets.
    pub(super) env: &'a [(&'static str, String)],
    /// It is the user's and not the project's: it may be started anywhere.
    pub(super) of_user: bool,
}

impl Entry<'_> {
    /// The outcome, for a person.
    ///
    /// # Errors
    /// The agent could not work with what it would get.
    pub(super) fn check(&self, project: &Project, url: Option<&str>) -> Result<String> {
        let what = || format!("connect as {}", self.client);
        // The handshake is answered without it, but no tool is.
        read_config(&project.root).map_err(|e| Error::cannot(what(), e.to_string()))?;
        let version = self
            .over_stdio(project)
            .map_err(|why| Error::cannot(what(), why))?;
        let mut text = format!("{}: ok: stdio ({version})", self.client);
        if let Some(url) = url {
            over_http(url).map_err(|why| Error::cannot(what(), format!("{url}: {why}")))?;
            text.push_str(", http");
        }
        text.push('\n');
        Ok(text)
    }

    fn over_stdio(&self, project: &Project) -> std::result::Result<String, String> {
        let requests = format!(
            "{}\n{}\n",
            initialize(),
            request(2, "tools/list", object([]))
        );
        let script = format!("printf %s '{requests}' | \"$@\"");
        let args: Vec<&str> = ["-c", &script, "sh"]
            .into_iter()
            .chain(self.command.iter().map(String::as_str))
            .collect();
        let env = self.environment(&project.env);
        let cwd = match self.of_user {
            true => Path::new("/"),
            false => &project.root,
        };
        let output = run("/bin/sh", &args, &env, cwd, LONGEST)?;
        let answers = output.out.lines().map(json::parse);
        let answers: Vec<Value> = answers.filter_map(std::result::Result::ok).collect();
        let result = |id: u64| answers.iter().find(|a| a["id"] == id).map(|a| &a["result"]);
        let command = self.command.join(" ");
        let (Some(hello), Some(list)) = (result(1), result(2)) else {
            let said = output.err.trim();
            return Err(match said.is_empty() {
                true => format!("{command:?} did not answer"),
                false => format!("{command:?} did not answer: {said}"),
            });
        };
        if !items(&list["tools"]).any(|tool| tool["name"] == "restart") {
            return Err(format!("{command:?} is no bpm, or has no tools"));
        }
        let title = hello["serverInfo"]["title"].as_str().unwrap_or_default();
        let wanted = format!("bpm: {}", in_line(&project.name()));
        if title != wanted {
            return Err(format!("{command:?} serves {title:?}, not {wanted:?}"));
        }
        let version = hello["serverInfo"]["version"].as_str();
        Ok(format!("bpm {}", version.unwrap_or_default()))
    }

    /// The variables that its server gets.
    fn environment(&self, ours: &Env) -> Vec<(OsString, OsString)> {
        let kept = KEPT
            .into_iter()
            .filter_map(|name| Some((name.into(), ours.get(name)?.to_os_string())));
        let set = self.env.iter();
        kept.chain(set.map(|(name, value)| (name.into(), value.into())))
            .collect()
    }
}

fn initialize() -> Value {
    let info = object([
        ("name", "bpm mcp-config".into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ]);
    let params = [
        ("protocolVersion", "2025-06-18".into()),
        ("capabilities", object([])),
        ("clientInfo", info),
    ];
    request(1, "initialize", object(params))
}

fn request(id: u64, method: &str, params: Value) -> Value {
    object([
        ("jsonrpc", "2.0".into()),
        ("id", id.into()),
        ("method", method.into()),
        ("params", params),
    ])
}

/// Says the handshake to a URL of ours (`http://127.0.0.1:PORT/mcp`).
fn over_http(url: &str) -> std::result::Result<(), String> {
    let host = url.trim_start_matches("http://").trim_end_matches("/mcp");
    let address: SocketAddr = host.parse().map_err(|_| "no address of this machine")?;
    let cannot = |e: std::io::Error| reason(&e);
    let mut stream = TcpStream::connect_timeout(&address, LONGEST).map_err(cannot)?;
    stream.set_read_timeout(Some(LONGEST)).map_err(cannot)?;
    let body = initialize().to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .map_err(cannot)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(cannot)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") if body.contains("serverInfo") => Ok(()),
        Some(status) => Err(format!("status {status}: {}", body.trim())),
        None => Err("no answer".into()),
    }
}
