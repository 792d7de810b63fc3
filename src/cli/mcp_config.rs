//! `bpm mcp-config`: how an agent is connected.

use crate::base::error::Result;
use crate::client::verdict::Descriptor;
use crate::config::Port;
use crate::daemon::{Project, read_config};

use super::print;
use super::spec::Call;

/// Agents that `mcp-config` knows.
pub(super) const CLIENTS: &[&str] = &[
    "claude", "codex", "cursor", "vscode", "gemini", "opencode", "zed",
];

/// What connects each of them over stdio, and over HTTP. Servers' names and URLs need no quoting in JSON.
const FORMS: [[&str; 2]; 7] = [
    [
        "claude mcp add {name} -- bpm proxy",
        "claude mcp add --transport http {name} {url}",
    ],
    [
        "codex mcp add {name} -- bpm proxy",
        "codex mcp add {name} --url {url}",
    ],
    [
        r#".cursor/mcp.json: {"mcpServers":{"{name}":{"args":["proxy"],"command":"bpm"}}}"#,
        r#".cursor/mcp.json: {"mcpServers":{"{name}":{"url":"{url}"}}}"#,
    ],
    [
        r#".vscode/mcp.json: {"servers":{"{name}":{"args":["proxy"],"command":"bpm","type":"stdio"}}}"#,
        r#".vscode/mcp.json: {"servers":{"{name}":{"type":"http","url":"{url}"}}}"#,
    ],
    [
        "gemini mcp add -s user {name} bpm proxy",
        "gemini mcp add -s user --transport http {name} {url}",
    ],
    [
        r#"opencode.json: {"mcp":{"{name}":{"command":["bpm","proxy"],"enabled":true,"type":"local"}}}"#,
        r#"opencode.json: {"mcp":{"{name}":{"enabled":true,"type":"remote","url":"{url}"}}}"#,
    ],
    [
        r#"settings.json: {"context_servers":{"{name}":{"args":["proxy"],"command":"bpm","env":{}}}}"#,
        r#"settings.json: {"context_servers":{"{name}":{"url":"{url}"}}}"#,
    ],
];

/// `bpm mcp-config`.
pub(super) fn mcp_config(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let name = server_name(&project.name());
    let url = match call.has("stdio") {
        true => None,
        false => url(&project),
    };
    let one = call.operands.first().and_then(|c| c.to_str());
    let mut text = String::new();
    let all = CLIENTS.iter().zip(&FORMS);
    for (client, form) in all.filter(|(c, _)| one.is_none_or(|one| one == **c)) {
        if one.is_none() {
            text.push_str(&format!("# {client}\n"));
        }
        text.push_str(&connection(form, &name, url.as_deref()));
        if one.is_none() {
            text.push('\n');
        }
    }
    print(text.trim_end_matches('\n'))?;
    print("\n")?;
    Ok(0)
}

/// The lines that end `bpm up`.
pub(super) fn claude_lines(project: &Project, url: Option<&str>) -> String {
    connection(&FORMS[0], &server_name(&project.name()), url)
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

/// A server's name: `[A-Za-z0-9_-]`, at most 32; each other command becomes `-`.
pub(super) fn server_name(project: &str) -> String {
    let name: String = project
        .chars()
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' => c,
            _ => '-',
        })
        .take(32)
        .collect();
    // One that begins with a dash would be an option of the agent's command.
    match name.trim_matches('-') {
        "" => "bpm".into(),
        name => name.into(),
    }
}

/// What connects one agent: over `bpm proxy` first, since that survives a change of port and starts the
/// daemon; then over HTTP, where there is a URL.
fn connection([stdio, http]: &[&str; 2], name: &str, url: Option<&str>) -> String {
    let mut text = format!("{}\n", stdio.replace("{name}", name));
    if let Some(url) = url {
        let line = http.replace("{name}", name).replace("{url}", url);
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
        for (client, form) in CLIENTS.iter().zip(&FORMS) {
            let text = connection(form, "shop", Some("http://127.0.0.1:1/mcp"));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{client}");
            assert!(
                lines[0].contains("proxy") && !lines[0].contains("http"),
                "{client}"
            );
            assert!(lines[1].contains("http://127.0.0.1:1/mcp"), "{client}");
            assert_eq!(connection(form, "shop", None).lines().count(), 1);
        }
        assert_eq!(
            connection(&FORMS[0], "shop", Some("http://127.0.0.1:41873/mcp")),
            "claude mcp add shop -- bpm proxy\n\
             claude mcp add --transport http shop http://127.0.0.1:41873/mcp\n"
        );
    }
}
