//! The whole file: reads each table, then checks what concerns several of them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::address::{authority, is_held, parse_http, parse_listen, parse_tcp};
use super::keys::Place;
use super::read::{self, Doc, Read, Section, Value, quote, refuse, unfit};
use super::signal;
use super::{
    Condition, Config, Dependency, EnvFile, Health, Kind, Mode, Port, PortWish, Probe, Process,
    Ready, Restart, Swap, Toggle,
};
use crate::error::{Error, nearest};
use crate::graph;

/// A file larger than this is none that a person wrote.
const LARGEST_FILE: usize = 1 << 20;

/// Longer patterns, or ones that compile to more, are refused (the search has the same bounds).
const LONGEST_PATTERN: usize = 1000;
const LARGEST_REGEX: usize = 64 << 10;

const HOUR: f64 = 3600.0;
const MINUTE: f64 = 60.0;
const SECOND: f64 = 1.0;

/// Reads a `.mcp-run`. `file` is what it is called in faults; `root` is its folder, canonical.
/// The error is [`Error::Config`] with everything that is wrong, by place.
pub fn parse(text: &str, file: &str, root: &Path) -> Result<Config, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut doc = Doc::new(file, text);
    if text.len() > LARGEST_FILE {
        doc.fault(0, "the file is larger than 1 MiB");
        return Err(Error::Config(doc.into_faults().0));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !doc.syntax(errors) {
        return Err(Error::Config(doc.into_faults().0));
    }
    let mut config = whole(&mut doc, table.get_ref(), root);
    let (faults, notes) = doc.into_faults();
    if !faults.is_empty() {
        return Err(Error::Config(faults));
    }
    config.not_in_effect = notes;
    Ok(config)
}

/// The same for what was read from disk: invalid UTF-8 is a fault at its place.
pub fn parse_bytes(bytes: &[u8], file: &str, root: &Path) -> Result<Config, Error> {
    let wrong = match std::str::from_utf8(bytes) {
        Ok(text) => return parse(text, file, root),
        Err(wrong) => wrong,
    };
    let good = String::from_utf8_lossy(&bytes[..wrong.valid_up_to()]);
    let good = good.strip_prefix('\u{feff}').unwrap_or(&good);
    let mut doc = Doc::new(file, good);
    doc.fault(good.len(), "not UTF-8: save the file in that encoding");
    Err(Error::Config(doc.into_faults().0))
}

/// Running as root, bpm refuses a `.mcp-run` that somebody else owns or others may write: its owner could have root run anything.
/// `mode` are the permission bits and `owner` the uid of the file, `us` our effective uid; the error says what to do.
pub fn may_use(mode: u32, owner: u32, us: u32) -> Result<(), String> {
    if us != 0 {
        return Ok(());
    }
    if owner != 0 {
        return Err(format!(
            "it belongs to uid {owner}, and bpm runs as root; run \"chown root\" on it, or run bpm as its owner"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "others may write it (mode {:03o}), and bpm runs as root; run \"chmod go-w\" on it",
            mode & 0o777
        ));
    }
    Ok(())
}

/// What the top level gives to each process.
struct Defaults {
    env: Vec<(String, String)>,
    env_files: Vec<EnvFile>,
    log_lines: u64,
    log_bytes: u64,
    log_runs: u64,
    log_disk: u64,
}

/// A process, with the places of what only several processes together can be judged by.
struct Draft {
    process: Process,
    depends_on: Vec<Wish>,
    listen_at: Vec<usize>,
}

/// One entry of `depends_on`, before the other process is known.
struct Wish {
    name: String,
    until: Option<Condition>,
    at: usize,
}

fn whole(doc: &mut Doc, table: &DeTable, root: &Path) -> Config {
    let top = doc.section(Place::Top, String::new(), table, 0);
    let port = doc.read(&top, "mcp_port", read::integer(0, 65535));
    let token_file = doc.read(&top, "token_file", read::text);
    let bind = doc
        .read(&top, "bind", ip)
        .unwrap_or(Ipv4Addr::LOCALHOST.into());
    if !bind.to_canonical().is_loopback() && top.get("token_file").is_none() {
        doc.complain(
            &top,
            "bind",
            format!("{bind} lets other machines in; set \"token_file\" as well"),
        );
    }
    let initial = seconds(doc, &top, "release_crash_backoff_initial_seconds");
    let max = seconds(doc, &top, "release_crash_backoff_max_seconds");
    if max < initial {
        let given = if top.get("release_crash_backoff_max_seconds").is_some() {
            "release_crash_backoff_max_seconds"
        } else {
            "release_crash_backoff_initial_seconds"
        };
        doc.complain(
            &top,
            given,
            format!(
                "the longest wait ({} s) is shorter than the first one ({} s)",
                max.as_secs_f64(),
                initial.as_secs_f64()
            ),
        );
    }
    let defaults = Defaults {
        env: doc.env(&top),
        env_files: env_files(doc, &top, root),
        log_lines: log_setting(doc, &top, "log_lines").unwrap_or_default(),
        log_bytes: log_setting(doc, &top, "log_bytes").unwrap_or_default(),
        log_runs: log_setting(doc, &top, "log_runs").unwrap_or_default(),
        log_disk: log_setting(doc, &top, "log_disk").unwrap_or_default(),
    };
    Config {
        root: root.to_path_buf(),
        port: match port {
            None => Port::Any,
            Some(0) => Port::Off,
            Some(n) => u16::try_from(n).map_or(Port::Any, Port::Fixed),
        },
        bind,
        token_file: token_file.map(|path| join(root, &path)),
        allowed_origins: doc
            .read(&top, "allowed_origins", read::list(origin))
            .unwrap_or_default(),
        allowed_hosts: doc
            .read(&top, "allowed_hosts", read::list(host))
            .unwrap_or_default(),
        dev_timeout: doc
            .read(&top, "dev_timeout_hours", read::time_above_0(HOUR))
            .unwrap_or_default(),
        dev_crash_wait: seconds(doc, &top, "dev_crash_wait_seconds"),
        backoff_initial: initial,
        backoff_max: max,
        backoff_factor: doc
            .read(&top, "crash_backoff_factor", read::number(1.0, 1e6))
            .unwrap_or(1.0),
        passthrough: doc
            .read(&top, "passthrough", read::toggle)
            .unwrap_or(Toggle::Auto),
        heartbeat: doc
            .read(&top, "heartbeat_minutes", read::time(MINUTE, 0.0))
            .unwrap_or_default(),
        idle_shutdown: doc
            .read(&top, "idle_shutdown_minutes", read::time(MINUTE, 0.0))
            .unwrap_or_default(),
        direnv: doc
            .read(&top, "direnv", read::toggle)
            .unwrap_or(Toggle::Auto),
        processes: processes(doc, &top, &defaults, root),
        not_in_effect: Vec::new(),
    }
}

fn processes(doc: &mut Doc, top: &Section, defaults: &Defaults, root: &Path) -> Vec<Process> {
    let table = match top.get("process") {
        None => None,
        Some(_) => match doc.table(top, "process") {
            Some((table, _)) => Some(table),
            None => return Vec::new(),
        },
    };
    let mut drafts = Vec::new();
    for (key, value) in table.into_iter().flat_map(read::entries) {
        let name: &str = key.get_ref();
        let title = match check_name(name) {
            Ok(()) => format!("[process.{name}]"),
            Err(why) => {
                doc.fault(key.span().start, format!("process {}: {why}", quote(name)));
                format!("[process.{}]", quote(name))
            }
        };
        let DeValue::Table(table) = value.get_ref() else {
            doc.fault(
                value.span().start,
                format!("{title} must be a table of keys"),
            );
            continue;
        };
        let section = doc.section(Place::Process, title, table, value.span().start);
        drafts.push(process(doc, name, &section, defaults, root));
    }
    if table.is_none_or(DeTable::is_empty) {
        doc.fault(
            top.place_of("process"),
            "there is no process; add one, such as [process.web] with a \"command\"",
        );
    }
    resolve_dependencies(doc, &mut drafts);
    check_listeners(doc, &drafts);
    drafts.into_iter().map(|draft| draft.process).collect()
}

/// Names are folders and words of commands.
fn check_name(name: &str) -> Result<(), &'static str> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 {
        return Err("a name has 1 to 64 characters");
    }
    if !name.chars().all(is_fine) {
        return Err("a name has letters, digits, \"-\", \"_\" and \".\" only");
    }
    if name.starts_with(['.', '-']) {
        return Err("a name does not begin with \".\" or \"-\"");
    }
    Ok(())
}

fn process(doc: &mut Doc, name: &str, s: &Section, defaults: &Defaults, root: &Path) -> Draft {
    let kinds = [Kind::Rust, Kind::Npm, Kind::Command, Kind::Task].map(|k| (k.as_str(), k));
    let kind = doc
        .read(s, "type", read::word(&kinds))
        .unwrap_or(Kind::Command);
    let command = doc.read(s, "command", read::command);
    check_kind(doc, s, kind);

    let port = doc.read(s, "port", port);
    let listen = doc
        .read(s, "listen", read::list(listen))
        .unwrap_or_default();
    let given_ready = ready(doc, s, port);
    let swap = doc
        .read(
            s,
            "swap",
            read::word(&[("stop-start", Swap::StopStart), ("overlap", Swap::Overlap)]),
        )
        .unwrap_or(if !listen.is_empty() && given_ready.is_some() {
            Swap::Overlap
        } else {
            Swap::StopStart
        });
    if swap == Swap::Overlap
        && let Some(ready) = &given_ready
    {
        check_overlap(doc, s, &ready.probe, &listen);
    }
    let limits = doc
        .table(s, "limits")
        .map(|(table, at)| doc.section(Place::Limits, below(s, "limits"), table, at));
    let logs = |doc: &mut Doc, key: &str, default: u64| log_setting(doc, s, key).unwrap_or(default);
    let mut env = defaults.env.clone();
    env.extend(doc.env(s));
    let mut files = defaults.env_files.clone();
    files.extend(env_files(doc, s, root));
    let cwd = doc.read(s, "cwd", read::text).unwrap_or_default();
    let restarts = [
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
    ];
    let modes = [
        ("dev", Some(Mode::Dev)),
        ("release", Some(Mode::Release)),
        ("auto", None),
    ];
    let process = Process {
        name: name.into(),
        kind,
        args: strings(doc, s, "args"),
        command,
        build: doc.read(s, "build", read::build),
        build_release: doc.read(s, "build_release", read::build),
        build_timeout: above_0(doc, s, "build_timeout_seconds"),
        package: doc.read(s, "package", read::text),
        bin: doc.read(s, "bin", read::text),
        features: strings(doc, s, "features"),
        cargo_args: strings(doc, s, "cargo_args"),
        mode: doc.read(s, "mode", read::word(&modes)).flatten(),
        cwd: join(root, &cwd),
        env,
        env_files: files,
        autostart: doc.read(s, "autostart", read::boolean).unwrap_or_default(),
        restart: doc
            .read(s, "restart", read::word(&restarts))
            .unwrap_or(match kind {
                Kind::Task => Restart::Never,
                Kind::Rust | Kind::Npm | Kind::Command => Restart::Always,
            }),
        start_limit_burst: count(doc, s, "start_limit_burst", 0),
        start_limit: above_0(doc, s, "start_limit_seconds"),
        stop_signal: doc.read(s, "stop_signal", stop_signal).unwrap_or_default(),
        stop_timeout: seconds(doc, s, "stop_timeout_seconds"),
        depends_on: Vec::new(),
        port,
        listen,
        swap,
        ready: given_ready,
        health: health(doc, s),
        watch: doc.read(s, "watch", read::list(glob)).unwrap_or_default(),
        color: doc.read(s, "color", read::boolean).unwrap_or_default(),
        limit_nofile: limits
            .as_ref()
            .and_then(|l| doc.read(l, "nofile", read::integer(1, 1 << 20))),
        limit_core: limits
            .as_ref()
            .and_then(|l| doc.read(l, "core", size_or_unlimited)),
        log_lines: logs(doc, "log_lines", defaults.log_lines),
        log_bytes: logs(doc, "log_bytes", defaults.log_bytes),
        log_runs: logs(doc, "log_runs", defaults.log_runs) as usize,
        log_disk: logs(doc, "log_disk", defaults.log_disk),
    };
    Draft {
        depends_on: doc.read(s, "depends_on", wishes).unwrap_or_default(),
        listen_at: element_places(s.get("listen")),
        process,
    }
}

/// `[process.web]` -> `[process.web.ready]`.
fn below(section: &Section, key: &str) -> String {
    let outer = section.title.strip_suffix(']').unwrap_or_default();
    format!("{outer}.{key}]")
}

/// What a type needs, and what another type's keys are doing here.
fn check_kind(doc: &mut Doc, s: &Section, kind: Kind) {
    if kind == Kind::Rust {
        if let Some(value) = s.get("command") {
            let text = format!(
                "\"command\" in {} is not used: type \"rust\" runs what cargo builds",
                s.title
            );
            doc.remark(value.span().start, text);
        }
        return;
    }
    let is_misspelt = |(key, _): (&toml::Spanned<_>, _)| {
        let name: &std::borrow::Cow<str> = key.get_ref();
        nearest(name, ["command"]).is_some()
    };
    if s.get("command").is_none() && !s.table.iter().any(is_misspelt) {
        let text = format!(
            "\"command\" is missing in {}: type \"{}\" needs it",
            s.title,
            kind.as_str()
        );
        doc.fault(s.at, text);
    }
    for key in ["package", "bin", "features", "cargo_args"] {
        if s.get(key).is_some() {
            doc.complain(
                s,
                key,
                format!(
                    "only type \"rust\" has it, and this is type \"{}\"",
                    kind.as_str()
                ),
            );
        }
    }
}

fn seconds(doc: &mut Doc, s: &Section, name: &str) -> Duration {
    doc.read(s, name, read::time(SECOND, 0.0))
        .unwrap_or_default()
}

fn above_0(doc: &mut Doc, s: &Section, name: &str) -> Duration {
    doc.read(s, name, read::time_above_0(SECOND))
        .unwrap_or_default()
}

fn interval(doc: &mut Doc, s: &Section) -> Duration {
    doc.read(s, "interval_seconds", read::time(SECOND, 0.01))
        .unwrap_or_default()
}

fn count(doc: &mut Doc, s: &Section, name: &str, least: u64) -> u32 {
    let n = doc.read(s, name, read::integer(least, 1_000_000));
    n.and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
}

/// Strings that are expanded.
fn strings(doc: &mut Doc, s: &Section, name: &str) -> Vec<String> {
    doc.read(s, name, read::list(read::expandable))
        .unwrap_or_default()
}

fn log_setting(doc: &mut Doc, s: &Section, name: &str) -> Option<u64> {
    match name {
        "log_lines" => doc.read(s, name, read::integer(100, 10_000_000)),
        "log_bytes" => doc.read(s, name, read::size(64 << 10)),
        "log_runs" => doc.read(s, name, read::integer(1, 100)),
        _ => doc.read(s, name, read::size(0)),
    }
}

/// Below the root where it is relative, and without `.` in it.
fn join(root: &Path, path: &str) -> PathBuf {
    root.join(path)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

fn env_files(doc: &mut Doc, s: &Section, root: &Path) -> Vec<EnvFile> {
    doc.read(s, "env_file", read::one_or_list(env_path))
        .unwrap_or_default()
        .into_iter()
        .map(|(path, optional)| EnvFile {
            path: join(root, &path),
            optional,
        })
        .collect()
}

fn env_path(value: &Value) -> Read<(String, bool)> {
    let text = read::text(value)?;
    match text.strip_suffix('?') {
        Some("") => refuse(value, "there is no path before the \"?\""),
        Some(path) => Ok((path.into(), true)),
        None => Ok((text, false)),
    }
}

fn ip(value: &Value) -> Read<IpAddr> {
    read::any_text(value)?.parse().or_else(|_| unfit(value))
}

fn origin(value: &Value) -> Read<String> {
    let text = read::text(value)?;
    let is_one = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', ' ', '*'])
    });
    if is_one {
        return Ok(text);
    }
    let why = format!(
        "{} is no origin, such as \"https://example.org\"",
        quote(&text)
    );
    refuse(value, why)
}

fn host(value: &Value) -> Read<String> {
    let text = read::text(value)?;
    if text.contains(['/', ' ', '*', '@']) {
        let why = format!(
            "{} is no host name, such as \"dev.example.org\"",
            quote(&text)
        );
        return refuse(value, why);
    }
    Ok(text)
}

fn port(value: &Value) -> Read<PortWish> {
    match value.get_ref() {
        DeValue::String(s) if s == "auto" => Ok(PortWish::Auto),
        _ => match u16::try_from(read::integer(1, 65535)(value)?) {
            Ok(port) => Ok(PortWish::Fixed(port)),
            Err(_) => unfit(value),
        },
    }
}

fn stop_signal(value: &Value) -> Read<i32> {
    if let DeValue::Integer(_) = value.get_ref() {
        let number = read::integer(1, signal::LAST as u64)(value)?;
        return i32::try_from(number).or_else(|_| unfit(value));
    }
    let name = read::text(value)?;
    if let Some(number) = signal::signal_number(&name) {
        return Ok(number);
    }
    let plain = name.to_ascii_uppercase();
    let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
    let hint = match nearest(plain, signal::names()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    refuse(value, format!("unknown signal {}{hint}", quote(&name)))
}

fn size_or_unlimited(value: &Value) -> Read<u64> {
    match value.get_ref() {
        DeValue::String(s) if s == "unlimited" => Ok(u64::MAX),
        _ => read::size(0)(value),
    }
}

/// Checks what will be expanded only where nothing is left to expand.
fn checked<T>(
    value: &Value,
    text: String,
    check: impl Fn(&str) -> Result<T, String>,
) -> Read<String> {
    if !text.contains('$')
        && let Err(why) = check(&text)
    {
        return refuse(value, why);
    }
    Ok(text)
}

fn listen(value: &Value) -> Read<String> {
    checked(value, read::expandable(value)?, parse_listen)
}

/// What `watch` takes: paths below the root, with `*`, `?`, `[a-z]`, `{a,b}` and `**` for any number of folders.
fn glob(value: &Value) -> Read<String> {
    let glob = read::text(value)?;
    match check_glob(&glob) {
        Ok(()) => Ok(glob),
        Err(why) => refuse(value, format!("{} {why}", quote(&glob))),
    }
}

fn check_glob(glob: &str) -> Result<(), &'static str> {
    if glob.starts_with('/') {
        return Err("is absolute; globs are below the project's root");
    }
    for part in glob.split('/') {
        match part {
            "" => return Err("has an empty part; to watch a folder, write \"folder/**\""),
            "." | ".." => {
                return Err("has \".\" or \"..\" in it; globs are below the project's root");
            }
            "**" => {}
            part if part.contains("**") => {
                return Err("has \"**\" beside other characters; it stands alone between slashes");
            }
            _ => {}
        }
    }
    let mut in_braces = false;
    let mut letters = glob.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '[' => {
                // the first one, after a negation, stands for itself even where it is "]"
                letters.next_if(|c| *c == '!' || *c == '^');
                letters.next();
                if !letters.by_ref().any(|c| c == ']') {
                    return Err("has a \"[\" without its \"]\"");
                }
            }
            '{' if in_braces => return Err("has \"{\" within \"{\""),
            '{' => in_braces = true,
            '}' if !in_braces => return Err("has a \"}\" without its \"{\""),
            '}' => in_braces = false,
            _ => {}
        }
    }
    if in_braces {
        return Err("has a \"{\" without its \"}\"");
    }
    Ok(())
}

fn tcp(value: &Value) -> Read<Probe> {
    checked(value, read::expandable(value)?, parse_tcp).map(Probe::Tcp)
}

fn http(value: &Value) -> Read<Probe> {
    checked(value, read::expandable(value)?, parse_http).map(Probe::Http)
}

fn log(value: &Value) -> Read<Probe> {
    let pattern = read::text(value)?;
    if pattern.len() > LONGEST_PATTERN {
        let why = format!("the pattern has more than {LONGEST_PATTERN} bytes");
        return refuse(value, why);
    }
    let regex = regex_lite::RegexBuilder::new(&pattern)
        .size_limit(LARGEST_REGEX)
        .build();
    match regex {
        Ok(_) => Ok(Probe::Log(pattern)),
        Err(e) => refuse(value, format!("{} does not compile: {e}", quote(&pattern))),
    }
}

fn notify(value: &Value) -> Read<Probe> {
    match value.get_ref() {
        DeValue::Boolean(true) => Ok(Probe::Notify),
        _ => unfit(value),
    }
}

/// One row for each probe.
const PROBES: [(&str, fn(&Value) -> Read<Probe>); 6] = [
    ("tcp", tcp),
    ("http", http),
    ("log", log),
    ("command", |v| read::program(v).map(Probe::Command)),
    ("notify", notify),
    ("delay_seconds", |v| {
        read::time(SECOND, 0.0)(v).map(Probe::Delay)
    }),
];

/// The one probe of `ready` or `health`; none and two are faults.
fn probe(doc: &mut Doc, s: &Section) -> Option<Probe> {
    let known = |name: &str| super::keys::find(s.place, name).is_some();
    let mut given: Vec<_> = PROBES
        .iter()
        .filter(|(name, _)| known(name) && s.get(name).is_some())
        .collect();
    given.sort_by_key(|(name, _)| s.place_of(name));
    let probes: Vec<Option<Probe>> = given
        .iter()
        .map(|(name, with)| doc.read(s, name, with))
        .collect();
    if let [(first, _), more @ ..] = given.as_slice() {
        for (name, _) in more {
            doc.complain(
                s,
                name,
                format!("only one probe can be used, and \"{first}\" is there"),
            );
        }
    } else {
        let names: Vec<&str> = PROBES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| known(name))
            .collect();
        let text = format!("{} needs one of {}", s.title, names.join(", "));
        doc.fault(s.at, text);
    }
    probes.into_iter().next().flatten()
}

fn ready(doc: &mut Doc, process: &Section, port: Option<PortWish>) -> Option<Ready> {
    let title = below(process, "ready");
    if process.get("ready").is_none() {
        port?;
        let none = DeTable::new();
        let timings = doc.section(Place::Ready, title, &none, process.at);
        return Some(Ready {
            probe: Probe::Tcp("127.0.0.1:${PORT}".into()),
            timeout: above_0(doc, &timings, "timeout_seconds"),
            interval: interval(doc, &timings),
        });
    }
    let (table, at) = doc.table(process, "ready")?;
    let s = doc.section(Place::Ready, title, table, at);
    let timeout = above_0(doc, &s, "timeout_seconds");
    let interval = interval(doc, &s);
    let probe = probe(doc, &s)?;
    if let Probe::Delay(delay) = &probe
        && *delay >= timeout
    {
        let text =
            "it is not shorter than \"timeout_seconds\", so the process would never be ready";
        doc.complain(&s, "delay_seconds", text);
    }
    Some(Ready {
        probe,
        timeout,
        interval,
    })
}

fn health(doc: &mut Doc, process: &Section) -> Option<Health> {
    let title = below(process, "health");
    let (table, at) = doc.table(process, "health")?;
    let s = doc.section(Place::Health, title, table, at);
    let interval = interval(doc, &s);
    let timeout = above_0(doc, &s, "timeout_seconds");
    let failures = count(doc, &s, "failures", 1);
    Some(Health {
        probe: probe(doc, &s)?,
        interval,
        timeout,
        failures,
    })
}

/// While both run, a connection to a held socket is answered by the kernel or by the old process: it tells nothing of the new one.
fn check_overlap(doc: &mut Doc, s: &Section, probe: &Probe, listen: &[String]) {
    let (kind, target) = match probe {
        Probe::Tcp(target) => ("tcp", target.clone()),
        Probe::Http(url) => ("http", authority(url)),
        Probe::Log(_) | Probe::Command(_) | Probe::Notify | Probe::Delay(_) => return,
    };
    let Some(held) = listen.iter().find(|held| is_held(&target, held)) else {
        return;
    };
    let key = if s.get("ready").is_some() {
        "ready"
    } else {
        "port"
    };
    doc.complain(
        s,
        key,
        format!(
            "with swap \"overlap\" a {kind} probe of {held:?} would be answered by the old process or the kernel, since \"listen\" holds \
             it; use notify, log or command in \"ready\", or swap = \"stop-start\""
        ),
    );
}

fn wishes(value: &Value) -> Read<Vec<Wish>> {
    let DeValue::Table(table) = value.get_ref() else {
        return read::list(|element| {
            Ok(Wish {
                name: read::text(element)?,
                until: None,
                at: element.span().start,
            })
        })(value);
    };
    let conditions = [
        ("started", Condition::Started),
        ("ready", Condition::Ready),
        ("completed", Condition::Completed),
    ];
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    for (key, value) in read::entries(table) {
        let until = read::word(&conditions)(value).or_else(|_| {
            let why = format!(
                "{} is waited for until \"started\", \"ready\" or \"completed\"",
                quote(key.get_ref())
            );
            refuse(value, why)
        });
        match until {
            Ok(until) => all.push(Wish {
                name: key.get_ref().to_string(),
                until: Some(until),
                at: key.span().start,
            }),
            Err(more) => wrong.extend(more),
        }
    }
    if wrong.is_empty() {
        Ok(all)
    } else {
        Err(wrong)
    }
}

fn resolve_dependencies(doc: &mut Doc, drafts: &mut [Draft]) {
    let known: Vec<(String, Condition)> = drafts
        .iter()
        .map(|draft| {
            let until = match (draft.process.kind, &draft.process.ready) {
                (Kind::Task, _) => Condition::Completed,
                (Kind::Rust | Kind::Npm | Kind::Command, Some(_)) => Condition::Ready,
                (Kind::Rust | Kind::Npm | Kind::Command, None) => Condition::Started,
            };
            (draft.process.name.clone(), until)
        })
        .collect();
    for draft in &mut *drafts {
        for wish in &draft.depends_on {
            let Some((_, usual)) = known.iter().find(|(name, _)| *name == wish.name) else {
                let hint = match nearest(&wish.name, known.iter().map(|(name, _)| name.as_str())) {
                    Some(near) => format!("; did you mean {near:?}?"),
                    None => String::new(),
                };
                let text = format!(
                    "\"depends_on\" in [process.{}]: unknown process {}{hint}",
                    draft.process.name,
                    quote(&wish.name)
                );
                doc.fault(wish.at, text);
                continue;
            };
            if draft.process.depends_on.iter().all(|d| d.name != wish.name) {
                draft.process.depends_on.push(Dependency {
                    name: wish.name.clone(),
                    until: wish.until.unwrap_or(*usual),
                });
            }
        }
    }
    let mut nodes: Vec<graph::Node> = drafts
        .iter()
        .map(|d| {
            let needs = d.process.depends_on.iter().map(|d| d.name.as_str());
            (d.process.name.as_str(), needs.collect())
        })
        .collect();
    while let Some(cycle) = graph::cycle(&nodes) {
        let at = drafts
            .iter()
            .find(|d| d.process.name == cycle[0])
            .and_then(|d| d.depends_on.iter().find(|w| w.name == cycle[1]))
            .map_or(0, |w| w.at);
        let text = format!(
            "\"depends_on\" in [process.{}]: a cycle, {}",
            cycle[0],
            cycle.join(" -> ")
        );
        doc.fault(at, text);
        nodes.retain(|(name, _)| !cycle.contains(name));
    }
}

/// A socket is held once: two processes, or one twice, can't have the same.
fn check_listeners(doc: &mut Doc, drafts: &[Draft]) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for Draft {
        process, listen_at, ..
    } in drafts
    {
        for (address, at) in process.listen.iter().zip(listen_at) {
            // ${PORT} is another one in each process
            let holder = seen.iter().find(|(a, holder)| {
                a == address && (!address.contains('$') || *holder == process.name)
            });
            if let Some((_, holder)) = holder {
                let text = format!(
                    "\"listen\" in [process.{}]: {address:?} is in [process.{holder}] already",
                    process.name
                );
                doc.fault(*at, text);
            }
            seen.push((address, &process.name));
        }
    }
}

fn element_places(list: Option<&Value>) -> Vec<usize> {
    match list.map(|value| value.get_ref()) {
        Some(DeValue::Array(array)) => array.iter().map(|e| e.span().start).collect(),
        _ => Vec::new(),
    }
}
