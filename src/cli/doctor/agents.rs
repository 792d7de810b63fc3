//! Settings of agents that name this project: where they stand, and whether they still fit.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::json::{self, strings};
use crate::config::Port;
use crate::os::files;

use super::Doctor;

/// Files in the project, each with the key above its servers.
const IN_PROJECT: &[(&str, &str)] = &[
    (".mcp.json", "mcpServers"),
    (".cursor/mcp.json", "mcpServers"),
    (".vscode/mcp.json", "servers"),
    (".gemini/settings.json", "mcpServers"),
    ("opencode.json", "mcp"),
    (".zed/settings.json", "context_servers"),
];
/// Files of the user.
const OF_USER: &[(&str, &str)] = &[
    (".claude.json", "mcpServers"),
    (".cursor/mcp.json", "mcpServers"),
    (".gemini/settings.json", "mcpServers"),
    (".config/opencode/opencode.json", "mcp"),
    (".config/zed/settings.json", "context_servers"),
];
const FIX: &str = "\"bpm mcp-config\" prints what fits";

pub(super) fn look(doctor: &mut Doctor) {
    let root = doctor.project.root.clone();
    for (file, key) in IN_PROJECT {
        let path = root.join(file);
        servers(doctor, &path, &read(&path)[*key], true);
    }
    let Some(home) = doctor.project.env.get("HOME").map(PathBuf::from) else {
        return;
    };
    for (file, key) in OF_USER {
        let path = home.join(file);
        let settings = read(&path);
        servers(doctor, &path, &settings[*key], false);
        // The servers that "claude mcp add" wrote for this folder.
        let own = &settings["projects"][root.to_string_lossy().as_ref()]["mcpServers"];
        servers(doctor, &path, own, true);
    }
    let codex = home.join(".codex/config.toml");
    if let Ok(text) = files::read_text(&codex)
        && text.contains(&format!("{:?}", root.display().to_string()))
        && text.contains("proxy")
    {
        doctor.ok(
            "agents",
            format_args!("{} names this project", codex.display()),
        );
    }
}

/// The settings in a file; null where there are none.
fn read(path: &Path) -> Value {
    let text = files::read_text(path).unwrap_or_default();
    json::parse(&text).unwrap_or_default()
}

/// Looks at each server. `here`: the file is this project's, so that an entry need not name the folder.
fn servers(doctor: &mut Doctor, path: &Path, servers: &Value, here: bool) {
    for (name, server) in servers.as_object().into_iter().flatten() {
        let place = format!("{:?} in {}", name, path.display());
        let url = server["url"].as_str().or(server["httpUrl"].as_str());
        if let Some(url) = url {
            if here {
                over_http(doctor, &place, url);
            }
            continue;
        }
        // opencode has the program and its arguments in one list.
        let mut words: Vec<&str> = match &server["command"] {
            Value::String(program) => vec![program],
            list => strings(list).collect(),
        };
        words.extend(strings(&server["args"]));
        let [program, rest @ ..] = words.as_slice() else {
            continue;
        };
        let is_bpm = program.rsplit('/').next() == Some("bpm") && rest.contains(&"proxy");
        let root = doctor.project.root.to_string_lossy().into_owned();
        let folder = folder(rest);
        let names_it = match folder {
            Some(folder) => folder.trim_end_matches('/') == root,
            None => here,
        };
        if !is_bpm || (!names_it && !here) {
            continue;
        }
        over_stdio(doctor, &place, program, folder, names_it);
    }
}

/// The project's folder among the arguments: of `-C`, or behind `proxy`.
fn folder<'a>(words: &[&'a str]) -> Option<&'a str> {
    let mut words = words.iter();
    let mut found = None;
    while let Some(word) = words.next() {
        match *word {
            "-C" => found = words.next().copied(),
            "proxy" => {}
            word if word.starts_with('-') => {}
            word => found = Some(word),
        }
    }
    found.filter(|folder| folder.starts_with('/'))
}

fn over_stdio(
    doctor: &mut Doctor,
    place: &str,
    program: &str,
    folder: Option<&str>,
    names_it: bool,
) {
    let path = doctor.project.env.get("PATH").unwrap_or_default();
    let there = match program.contains('/') {
        true => Path::new(program).is_file(),
        false => std::env::split_paths(path).any(|folder| folder.join(program).is_file()),
    };
    if !there {
        let text = format_args!("{place} starts {program}, which is not there");
        doctor.problem("agents", text, FIX);
    } else if !names_it {
        let text = format_args!(
            "{place} names another folder, {}",
            folder.unwrap_or_default()
        );
        doctor.problem("agents", text, FIX);
    } else {
        doctor.ok("agents", format_args!("{place} fits"));
    }
}

/// An address of this machine that ends in `/mcp`.
fn over_http(doctor: &mut Doctor, place: &str, url: &str) {
    let Some((host, port)) = address(url) else {
        return;
    };
    if !["127.0.0.1", "localhost", "[::1]"].contains(&host) {
        return;
    }
    let running = doctor.daemon.as_ref().and_then(|d| d.url.as_deref());
    let now = running.and_then(|url| address(url)?.1.parse::<u16>().ok());
    let fixed = match doctor.config.port {
        Port::Fixed(port) => Some(port),
        Port::Any | Port::Off => None,
    };
    match now.or(fixed) {
        Some(now) if Ok(now) == port.parse() => doctor.ok("agents", format_args!("{place} fits")),
        Some(now) => {
            let text = format_args!("{place} connects to port {port}, and bpm serves at {now}");
            doctor.problem("agents", text, FIX);
        }
        None => {}
    }
}

/// Host and port of `http://HOST:PORT/mcp`.
fn address(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?.strip_suffix("/mcp")?;
    rest.rsplit_once(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_found_among_the_arguments() {
        assert_eq!(folder(&["proxy", "/shop"]), Some("/shop"));
        assert_eq!(folder(&["-C", "/shop", "proxy"]), Some("/shop"));
        assert_eq!(folder(&["proxy"]), None);
        assert_eq!(folder(&["proxy", "${workspaceFolder}"]), None);
    }
}
