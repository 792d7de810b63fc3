//! The export before it has an engine's words: commands and environments as they would be under bpm.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::Value;

use crate::base::error::{Error, Result, named, reason};
use crate::base::table::{Set, Table, sort};
use crate::build::plan::{self, Artifact};
use crate::cli::init::cargo;
use crate::config::{
    self, Condition, Config, EnvFile, EnvNotes, HttpTarget, Kind, Mode, PortWish, Probe, Process,
    environment, parse_http, parse_tcp, variable_of,
};
use crate::daemon::Project;
use crate::os::files;

use super::Engine;
use super::quote::{VARIABLE, variables};

/// Parts of names of variables that hold secrets.
const SECRETS: &[&str] = &["TOKEN", "KEY", "SECRET", "PASSWORD"];
/// A `port = "auto"` that no daemon has chosen yet.
const FIRST_PORT: u16 = 8080;

/// All processes.
pub(super) struct Plan {
    /// The name of the project.
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) units: Vec<Unit>,
    /// Where programs are looked for.
    pub(super) path: String,
}

/// One process.
pub(super) struct Unit {
    pub(super) process: Process,
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// In the order of names.
    pub(super) env: Vec<Variable>,
    /// Names of those whose values were left out.
    pub(super) secrets: Vec<String>,
    pub(super) port: Option<u16>,
    /// The build that has to come before, for a person.
    pub(super) build: Option<String>,
    /// It starts with the project, or something that does depends on it.
    pub(super) wanted: bool,
}

/// A variable of a process.
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
    /// It came from an `env_file`.
    pub(super) from_file: bool,
}

impl Unit {
    pub(super) fn name(&self) -> &str {
        &self.process.name
    }

    /// Variables in its values and its command that the file leaves to the daemon's environment.
    pub(super) fn left_open(&self) -> Vec<&str> {
        let values = self.env.iter().map(|v| v.value.as_str());
        let texts = values.chain(self.command.iter().map(String::as_str));
        let mut names: Vec<&str> = texts.flat_map(variables).collect();
        names.retain(|name| !self.secrets.iter().any(|secret| secret == name));
        sort(&mut names, Ord::cmp);
        names.dedup();
        names
    }

    /// A text of the configuration, expanded.
    pub(super) fn expand(&self, text: &str) -> std::result::Result<String, String> {
        config::expand(text, |name| {
            if self.secrets.iter().any(|secret| secret == name) {
                return Some(marked(name));
            }
            let found = self.env.iter().find(|v| v.name == name);
            Some(found.map_or_else(|| marked(name), |v| v.value.clone()))
        })
    }

    /// The check that an engine can make instead of bpm.
    pub(super) fn check(&self, probe: &Probe) -> std::result::Result<Check, String> {
        match probe {
            Probe::Port => {
                let port = self.port.unwrap_or_default();
                Ok(Check::Tcp((Ipv4Addr::LOCALHOST, port).into()))
            }
            Probe::Tcp(text) => Ok(Check::Tcp(parse_tcp(&self.expand(text)?)?)),
            Probe::Http(text) => {
                let url = self.expand(text)?;
                let target = parse_http(&url)?;
                Ok(Check::Http(url, target))
            }
            Probe::Command(words) => {
                let mut command = Vec::new();
                for word in words {
                    command.push(self.expand(word)?);
                }
                Ok(Check::Command(command))
            }
            Probe::Log(_) => Err("it reads no logs".into()),
            Probe::Notify => Err("it has no NOTIFY_SOCKET".into()),
            Probe::Delay(_) => Err("it has no delays".into()),
        }
    }
}

/// A check of [`Unit::check`].
pub(super) enum Check {
    Tcp(SocketAddr),
    /// With the whole URL.
    Http(String, HttpTarget),
    Command(Vec<String>),
}

impl Plan {
    pub(super) fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.name() == name)
    }

    /// A process, and all that depend on it, directly or not.
    pub(super) fn dependents<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let mut found = vec![name];
        let mut next = 0;
        std::iter::from_fn(move || {
            let name = *found.get(next)?;
            next += 1;
            for unit in &self.units {
                let needs = unit.process.depends_on.iter().any(|need| need.name == name);
                if needs && !found.contains(&unit.name()) {
                    found.push(unit.name());
                }
            }
            Some(name)
        })
    }

    /// Some process waits until that one is ready.
    pub(super) fn is_waited_for(&self, name: &str, until: Condition) -> bool {
        let mut needs = self.units.iter().flat_map(|unit| &unit.process.depends_on);
        needs.any(|need| need.name == name && need.until == until)
    }
}

fn marked(name: &str) -> String {
    format!("{VARIABLE}{name}{VARIABLE}")
}

/// The name of a variable says that its value is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRETS.iter().any(|word| match name.strip_suffix(word) {
        Some(before) => before.is_empty() || before.ends_with('_'),
        None => false,
    })
}

/// Reads what there is to export. `secrets`: their values too.
pub(super) fn plan(
    project: &Project,
    config: Config,
    secrets: bool,
    engine: Engine,
) -> Result<Plan> {
    // Read as it is: the daemon alone sets a damaged one aside.
    let state = fs::read(project.dir.state()).unwrap_or_default();
    let state: Value = serde_json::from_slice(&state).unwrap_or_default();
    let kept = |name: &str| state["processes"][name]["port"].as_u64();
    let mut free = FIRST_PORT..=u16::MAX;
    let is_fixed = |port: &u16| {
        let mut wishes = config.processes.iter().map(|p| p.port);
        wishes.any(|wish| wish == Some(PortWish::Fixed(*port)))
    };
    let mut ports: Table<&str, u16> = Table::default();
    for process in &config.processes {
        let port = match process.port {
            Some(PortWish::Fixed(port)) => Some(port),
            Some(PortWish::Auto) => kept(&process.name)
                .and_then(|port| u16::try_from(port).ok())
                .or_else(|| free.find(|port| !is_fixed(port))),
            None => None,
        };
        if let Some(port) = port {
            ports.insert(&process.name, port);
        }
    }
    let at = |name: &str| {
        let host = match engine {
            Engine::Systemd | Engine::Nomad => "127.0.0.1",
            // A service's name is its host's.
            Engine::Compose | Engine::Kubernetes => name,
        };
        Some((host.to_string(), *ports.get(name)?))
    };
    let mut units = Vec::new();
    for process in &config.processes {
        let port = ports.get(process.name.as_str()).copied();
        let process = config::with_ports(process, &at);
        match unit(&process, &config.root, port, secrets) {
            Ok(unit) => units.push(unit),
            Err(why) => return Err(Error::cannot(format!("export {:?}", process.name), why)),
        }
    }
    want(&mut units);
    let path = project.env.get("PATH").unwrap_or_default();
    Ok(Plan {
        name: project.name(),
        config,
        units,
        path: path.to_string_lossy().into_owned(),
    })
}

/// A unit that starts by itself wants its dependencies.
fn want(units: &mut [Unit]) {
    let mut open: Vec<String> = units
        .iter()
        .filter(|u| u.process.autostart)
        .map(|u| u.name().into())
        .collect();
    while let Some(name) = open.pop() {
        if let Some(unit) = units.iter_mut().find(|u| u.name() == name && !u.wanted) {
            unit.wanted = true;
            open.extend(unit.process.depends_on.iter().map(|need| need.name.clone()));
        }
    }
}

fn unit(
    process: &Process,
    root: &Path,
    port: Option<u16>,
    secrets: bool,
) -> std::result::Result<Unit, String> {
    let mut process = process.clone();
    let mut files = Vec::new();
    for EnvFile { path, optional, .. } in &process.env_files {
        match files::read_text(path) {
            Ok(text) => {
                let variables = config::parse_dotenv(&text, &path.display().to_string());
                files.push(variables.map_err(|fault| fault.to_string())?);
            }
            Err(_) if *optional => {}
            Err(e) => return Err(format!("{}: {}", named("read", path), reason(&e))),
        }
    }
    let mut left_out: Set<String> = Set::default();
    let mut hide = |name: &str, value: &mut String| {
        if !secrets && is_secret(name) {
            left_out.add(name.into());
            *value = marked(name);
        }
    };
    for variable in files.iter_mut().flat_map(|file| &mut file.variables) {
        hide(&variable.name, &mut variable.value);
    }
    for (name, value) in &mut process.env {
        hide(name, value);
    }
    // The engine fills in variables that the file does not set.
    let mut texts = probes(&process);
    texts.extend(process.env.iter().map(|(_, value)| value.as_str()));
    let variables = files.iter().flat_map(|file| &file.variables);
    texts.extend(variables.map(|v| v.value.as_str()));
    if let Some(config::Command::List(words)) = &process.command {
        texts.extend(words.iter().map(String::as_str));
    }
    for more in [&process.args, &process.listen] {
        texts.extend(more.iter().map(String::as_str));
    }
    let open = texts.into_iter().flat_map(needed);
    let mut base = open.map(|name| (name.into(), marked(name).into()));
    let all = environment(&process, &mut base, &files, port, &mut EnvNotes::default())?;
    let expand = |text: &str| config::expand(text, |name| variable_of(&all, name));
    let (artifact, build) = built(&process, root);
    let run = plan::run(&process, &artifact, &expand)?;
    let mut command = vec![run.program];
    command.extend(run.args);
    let mut env = Vec::new();
    for (name, value) in all.iter() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let in_env = process.env.iter().any(|(known, _)| *known == name);
        let mut variables = files.iter().flat_map(|file| &file.variables);
        let in_file = variables.any(|known| known.name == name);
        let is_open = value == marked(&name) && !in_env && !in_file;
        if is_open || left_out.has(&*name) {
            continue;
        }
        env.push(Variable {
            from_file: in_file && !in_env,
            name: name.into_owned(),
            value: value.into_owned(),
        });
    }
    Ok(Unit {
        command,
        env,
        secrets: left_out.into_keys(),
        port,
        build,
        wanted: false,
        process,
    })
}

/// The texts of checks in which variables may stand.
fn probes(process: &Process) -> Vec<&str> {
    let both = [
        process.ready.as_ref().map(|r| &r.probe),
        process.health.as_ref().map(|h| &h.probe),
    ];
    let mut texts = Vec::new();
    for probe in both.into_iter().flatten() {
        match probe {
            Probe::Tcp(text) | Probe::Http(text) => texts.push(text.as_str()),
            Probe::Command(words) => texts.extend(words.iter().map(String::as_str)),
            Probe::Port | Probe::Log(_) | Probe::Notify | Probe::Delay(_) => {}
        }
    }
    texts
}

/// The names of the variables that a text can't do without: those with a fallback have one.
fn needed(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        } else if let Some((name, _)) = rest.strip_prefix('{').and_then(|r| r.split_once('}'))
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            names.push(name);
        }
    }
    names
}

/// Where the binary of a rust process is, and what builds it.
fn built(process: &Process, root: &Path) -> (Artifact, Option<String>) {
    let mut artifact = Artifact {
        exe: None,
        argv0: None,
        env: Vec::new(),
    };
    let exists = |path: &Path| path.exists();
    let folder = plan::cargo_dir(&process.cwd, root, exists);
    let words = plan::build(process, Mode::Release, folder, &|text| Ok(text.into()));
    let build = words.ok().flatten().map(|build| {
        let words = std::iter::once(&build.exec.program).chain(&build.exec.args);
        let words = words.filter(|word| !word.starts_with("--message-format"));
        words.cloned().collect::<Vec<_>>().join(" ")
    });
    if process.kind == Kind::Rust {
        let bin = process.bin.clone().or_else(|| only_binary(process, folder));
        let bin = bin.unwrap_or_else(|| process.name.clone());
        let workspace = folder
            .ancestors()
            .filter(|f| f.join("Cargo.lock").exists())
            .last();
        let target = workspace.unwrap_or(folder).join("target/release");
        artifact.exe = Some(target.join(bin));
    }
    (artifact, build)
}

/// The binary that cargo would build, if it is one.
fn only_binary(process: &Process, folder: &Path) -> Option<String> {
    let manifest = folder
        .ancestors()
        .map(|f| f.join("Cargo.toml"))
        .find(|f| f.exists())?;
    let text = files::read_text(&manifest).ok()?;
    let mut all = cargo::binaries(manifest.parent()?, &text).ok()?;
    if let Some(package) = &process.package {
        all.retain(|binary| binary.package == *package);
    }
    match all.as_slice() {
        [one] => Some(one.name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["API_TOKEN", "SECRET", "DB_PASSWORD", "aws_key"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["MONKEY", "TOKENS", "KEYBOARD", "PASSWORD_FILE"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn variables_without_a_fallback_are_needed() {
        assert_eq!(needed("${A} ${B:-${C}} $$ $${D} $E"), ["A", "C"]);
    }

    fn planned(config: &str, secrets: bool) -> Vec<Unit> {
        let root = Path::new("/shop");
        let config = config::parse(config, ".mcp-run", root).unwrap();
        let units = config
            .processes
            .iter()
            .map(|p| unit(p, root, None, secrets).unwrap());
        units.collect()
    }

    #[test]
    fn a_secret_is_left_out_wherever_it_would_stand() {
        let config = "[process.web]\ncommand = [\"a\", \"-t\", \"${API_TOKEN}\", \"${HOME}\"]\n\
                      env = { API_TOKEN = \"s3\", URL = \"x:${API_TOKEN}@\" }\n";
        let web = &planned(config, false)[0];
        assert_eq!(web.command, ["a", "-t", "\0API_TOKEN\0", "\0HOME\0"]);
        assert_eq!(web.secrets, ["API_TOKEN"]);
        let env: Vec<(&str, &str)> = web.env.iter().map(|v| (&*v.name, &*v.value)).collect();
        assert_eq!(env, [("URL", "x:\0API_TOKEN\0@")]);
        let web = &planned(config, true)[0];
        assert_eq!(web.command[2], "s3");
        assert_eq!(web.env.len(), 2);
    }

    #[test]
    fn what_others_wait_for_starts_too() {
        let config = "[process.a]\ncommand = \"x\"\ndepends_on = [\"b\"]\n[process.b]\ncommand = \"x\"\n\
                      autostart = false\n[process.c]\ncommand = \"x\"\nautostart = false\n";
        let mut units = planned(config, false);
        want(&mut units);
        let wanted: Vec<bool> = units.iter().map(|unit| unit.wanted).collect();
        assert_eq!(wanted, [true, true, false]);
    }
}
