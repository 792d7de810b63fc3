//! `bpm mcp-config`: how an agent is connected.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::error::Result;
use crate::base::json::entries;
use crate::base::paths::{self, ProjectDir};
use crate::client::verdict::Descriptor;
use crate::config::Port;
use crate::daemon::{Project, read_config};
use crate::engine::state_file::State;

use super::daemon::own_path;
use super::mcp_check::Entry;
use super::spec::Call;
use super::{known_projects, note, print};

/// Agents that `mcp-config` knows.
pub(super) const CLIENTS: &[&str] = &[
    "claude", "codex", "cursor", "vscode", "gemini", "opencode", "zed",
];

/// The command or file that connects each of them over HTTP. Servers' names and URLs need no quoting in JSON.
const HTTP: [&str; 7] = [
    "claude mcp add --transport http {name} {url}",
    "codex mcp add {name} --url {url}",
    r#".cursor/mcp.json: {"mcpServers":{"{name}":{"url":"{url}"}}}"#,
    r#".vscode/mcp.json: {"servers":{"{name}":{"type":"http","url":"{url}"}}}"#,
    "gemini mcp add -s user --transport http {name} {url}",
    r#"opencode.json: {"mcp":{"{name}":{"enabled":true,"type":"remote","url":"{url}"}}}"#,
    r#"settings.json: {"context_servers":{"{name}":{"url":"{url}"}}}"#,
];

/// The same over `bpm proxy`. Where the entry is the user's and not the project's, it names the project. `{env}` are
/// the variables that are set, in an object or behind the flag before it.
const STDIO: [&str; 7] = [
    "claude mcp add {name} {env -e}-- {bpm} proxy",
    "codex mcp add {env --env}{name} -- {bpm} proxy {root}",
    r#".cursor/mcp.json: {"mcpServers":{"{name}":{"args":["proxy","${workspaceFolder}"],"command":{bpm}{env}}}}"#,
    r#".vscode/mcp.json: {"servers":{"{name}":{"args":["proxy","${workspaceFolder}"],"command":{bpm}{env},"type":"stdio"}}}"#,
    "gemini mcp add -s user {env -e}{name} {bpm} proxy {root}",
    r#"opencode.json: {"mcp":{"{name}":{"command":[{bpm},"proxy"],"enabled":true{environment},"type":"local"}}}"#,
    r#"settings.json: {"context_servers":{"{name}":{"args":["proxy",{root}],"command":{bpm}{env}}}}"#,
];

/// How `bpm proxy` is started, from wherever the agent runs.
struct Stdio {
    /// `bpm`, or its path where PATH has another one or none.
    bpm: String,
    root: String,
    /// The variables that name the state folder, as far as they are set.
    env: Vec<(&'static str, String)>,
}

impl Stdio {
    fn new(project: &Project) -> Self {
        let own = own_path();
        let path = project.env.get("PATH").unwrap_or_default();
        let mut found = std::env::split_paths(path).map(|folder| folder.join("bpm"));
        let first = found.find(|file| file.is_file());
        let is_own = |file: PathBuf| file.canonicalize().ok() == own.canonicalize().ok();
        let mut env = Vec::new();
        for name in ["BPM_HOME", "XDG_STATE_HOME"] {
            if let Some(value) = project.env.get(name) {
                env.push((name, value.to_string_lossy().into_owned()));
            }
        }
        Self {
            bpm: match first.is_some_and(is_own) {
                true => "bpm".into(),
                false => own.display().to_string(),
            },
            root: project.root.display().to_string(),
            env,
        }
    }

    /// How a client starts its server by what is printed for it.
    fn entry<'a>(&'a self, client: &'a str) -> Entry<'a> {
        let template = template(client);
        let of_user = template.contains("{root}");
        let names_root = of_user || template.contains("${workspaceFolder}");
        let mut command = vec![self.bpm.clone(), "proxy".into()];
        command.extend(names_root.then(|| self.root.clone()));
        Entry {
            client,
            command,
            env: &self.env,
            of_user,
        }
    }

    /// The line or file of a client.
    fn form(&self, client: &str, name: &str) -> String {
        let template = template(client);
        let is_file = template.contains(".json: ");
        let word = |text: &str| match is_file {
            true => Value::from(text).to_string(),
            false => paths::quoted(Path::new(text)),
        };
        filled(template, &|key| match key.split_once(' ') {
            Some((_, flag)) => {
                let mut flags = String::new();
                for (name, value) in &self.env {
                    let pair = word(&format!("{name}={value}"));
                    flags.push_str(&format!("{flag} {pair} "));
                }
                Some(flags)
            }
            None => match key {
                "name" => Some(name.into()),
                "bpm" => Some(word(&self.bpm)),
                "root" => Some(word(&self.root)),
                "env" | "environment" if self.env.is_empty() => Some(String::new()),
                "env" | "environment" => {
                    let mut set = self
                        .env
                        .iter()
                        .map(|(n, v)| ((*n).into(), v.clone().into()));
                    Some(format!(",\"{key}\":{}", entries(&mut set)))
                }
                _ => None,
            },
        })
    }
}

fn template(client: &str) -> &'static str {
    let at = CLIENTS.iter().position(|known| *known == client);
    STDIO[at.unwrap_or_default()]
}

/// A template with the values of its `{key}`s; other brackets stay.
fn filled(template: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (key, behind) = after.split_once('}').unwrap_or((after, ""));
        match value(key) {
            Some(value) => {
                out.push_str(&value);
                rest = behind;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out + rest
}

/// `bpm mcp-config`.
pub(super) fn mcp_config(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let name = distinct_name(&project);
    let stdio = Stdio::new(&project);
    let closed = !call.has("stdio") && needs_token(&project);
    let url = match call.has("stdio") || closed {
        true => None,
        false => url(&project),
    };
    if closed {
        note(
            "over HTTP an agent would need the token of token_file: the lines are for stdio alone\n",
        );
    }
    let one = call.operands.first().and_then(|c| c.to_str());
    if call.has("check") {
        return check(&project, &stdio, one, url.as_deref());
    }
    let mut text = String::new();
    let all = CLIENTS.iter().zip(&HTTP);
    for (client, http) in all.filter(|(c, _)| one.is_none_or(|one| one == **c)) {
        if one.is_none() {
            text.push_str(&format!("# {client}\n"));
        }
        text.push_str(&connection(
            &stdio.form(client, &name),
            http,
            &name,
            url.as_deref(),
        ));
        if one.is_none() {
            text.push('\n');
        }
    }
    print(format_args!("{}\n", text.trim_end_matches('\n')))?;
    if one == Some("codex") {
        note(format_args!(
            "codex exec refuses the tool stop, unless config.toml says so below [mcp_servers.{name}]: default_tools_approval_mode = \"approve\"\n"
        ));
    }
    Ok(0)
}

/// Connects as these clients would; HTTP only where a daemon runs, since nothing else answers there.
fn check(project: &Project, stdio: &Stdio, one: Option<&str>, url: Option<&str>) -> Result<u8> {
    let serves = Descriptor::find(&project.dir)?.is_some();
    for client in CLIENTS.iter().filter(|c| one.is_none_or(|one| one == **c)) {
        let entry = stdio.entry(client);
        print(entry.check(project, url.filter(|_| serves))?)?;
    }
    if url.is_some() && !serves {
        print("http was not tried: no daemon runs\n")?;
    }
    Ok(0)
}

/// The lines that end `bpm up`.
pub(super) fn claude_lines(project: &Project, url: Option<&str>) -> String {
    let name = distinct_name(project);
    let stdio = Stdio::new(project).form(CLIENTS[0], &name);
    connection(
        &stdio,
        HTTP[0],
        &name,
        url.filter(|_| !needs_token(project)),
    )
}

/// The lines for HTTP have no token, which is nobody's to print.
fn needs_token(project: &Project) -> bool {
    read_config(&project.root).is_ok_and(|config| config.http.token_file.is_some())
}

/// Where `/mcp` is over TCP: of the daemon that runs, else as configured.
fn url(project: &Project) -> Option<String> {
    if let Some(descriptor) = Descriptor::read(&project.dir.descriptor()) {
        return descriptor.url;
    }
    match read_config(&project.root).ok()?.port {
        Port::Fixed(port) => Some(format!("http://127.0.0.1:{port}/mcp")),
        Port::Any | Port::Off => None,
    }
}

/// A server's name: `[A-Za-z0-9-]`, at most 32; each other character becomes `-`. (Gemini's policies take no
/// underscores.)
pub(super) fn server_name(project: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric();
    let name: String = project.chars().take(32).collect();
    let name = name.replace(|c| !fine(c), "-");
    // One that begins with a dash would be an option of the agent's command.
    match name.trim_matches('-') {
        "" => "bpm".into(),
        name => name.into(),
    }
}

/// The server's name, with four digits of the root's hash behind it where another known project, a second worktree
/// say, has the same.
fn distinct_name(project: &Project) -> String {
    let name = server_name(&project.name());
    let home = project.dir.path().parent().unwrap_or(Path::new("/"));
    let known = known_projects(home).unwrap_or_default();
    let is_other = |dir: &ProjectDir| {
        State::look(&dir.state()).root.is_some_and(|root| {
            let root = Path::new(&root);
            let base = root.file_name().unwrap_or_default().to_string_lossy();
            root != project.root && server_name(&base) == name
        })
    };
    if !known.iter().any(is_other) {
        return name;
    }
    let folder = paths::project_dir_name(&project.root);
    let digits = folder.rsplit('-').next().unwrap_or_default();
    let short: String = name.chars().take(27).collect();
    format!("{short}-{}", &digits[..4.min(digits.len())])
}

/// The lines that connect one agent: over `bpm proxy` first, since that survives a change of port and starts the
/// daemon; then over HTTP, where there is a URL.
fn connection(stdio: &str, http: &str, name: &str, url: Option<&str>) -> String {
    let mut text = format!("{stdio}\n");
    if let Some(url) = url {
        let line = filled(http, &|key| match key {
            "name" => Some(name.into()),
            "url" => Some(url.into()),
            _ => None,
        });
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_agents_take() {
        assert_eq!(server_name("shop"), "shop");
        assert_eq!(server_name("my shop.v2"), "my-shop-v2");
        assert_eq!(server_name("läden"), "l-den");
        assert_eq!(server_name("日本"), "bpm");
        assert_eq!(server_name("ünï-x-é"), "n--x");
        assert_eq!(server_name(&"x".repeat(50)).len(), 32);
    }

    #[test]
    fn every_agent_has_both_forms_stdio_first() {
        let stdio = Stdio {
            bpm: "/opt/my bpm/bpm".into(),
            root: "/srv/shop".into(),
            env: vec![("BPM_HOME", "/state".into())],
        };
        for (client, http) in CLIENTS.iter().zip(&HTTP) {
            let form = stdio.form(client, "shop");
            let text = connection(&form, http, "shop", Some("http://127.0.0.1:1/mcp"));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{client}");
            assert!(
                lines[0].contains("proxy") && !lines[0].contains("http"),
                "{text}"
            );
            assert!(
                lines[0].contains("/opt/my bpm/bpm") && lines[0].contains("/state"),
                "{text}"
            );
            assert!(lines[1].contains("http://127.0.0.1:1/mcp"), "{client}");
        }
        for user in ["codex", "gemini", "zed"] {
            assert!(stdio.form(user, "shop").contains("/srv/shop"), "{user}");
        }
        for project in ["cursor", "vscode"] {
            assert!(
                stdio.form(project, "shop").contains("${workspaceFolder}"),
                "{project}"
            );
        }
        assert_eq!(
            stdio.form("codex", "shop"),
            "codex mcp add --env BPM_HOME=/state shop -- '/opt/my bpm/bpm' proxy /srv/shop"
        );
    }
}
