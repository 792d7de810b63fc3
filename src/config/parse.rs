//! Pure: no system call, no thread, no clock.
//!
//! The whole file: reads each table, then checks what concerns several of them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::claims::Claims;
use super::depend::{resolve, wishes_in};
use super::keys::Place;
use super::launch::{self, OnEvent};
use super::probe::{check_overlap, health, ready};
use super::read::{self, Doc, Section, quote};
use super::references::{self, Ports};
use super::room::{self, Sizes};
use super::shell::{self, Hides};
use super::values;
use super::{
    Backoff, Command, Config, EnvFile, Http, Kind, Mode, Named, Port, Process, Restart, StartLimit,
    Swap,
};
use crate::base::clock;
use crate::base::error::{Error, Failure, nearest};

/// A file larger than this is none that a person wrote.
const LARGEST_FILE: usize = 1 << 20;

const HOUR: f64 = 3600.0;
const MINUTE: f64 = 60.0;

const TYPES: [(&str, Kind); 4] = [
    ("rust", Kind::Rust),
    ("npm", Kind::Npm),
    ("command", Kind::Command),
    ("task", Kind::Task),
];
const MODES: [(&str, Option<Mode>); 3] = [
    ("dev", Some(Mode::Dev)),
    ("release", Some(Mode::Release)),
    ("auto", None),
];
const RESTARTS: [(&str, Restart); 3] = [
    ("always", Restart::Always),
    ("on-failure", Restart::OnFailure),
    ("never", Restart::Never),
];
const SWAPS: [(&str, Swap); 2] = [("stop-start", Swap::StopStart), ("overlap", Swap::Overlap)];

/// Reads a `.mcp-run`. `file` is what it is called in faults; `root` is its folder, canonical.
/// The error is [`Failure::Config`] with everything that is wrong, by place.
pub fn parse(text: &str, file: &str, root: &Path) -> Result<Config, Error> {
    parse_for(text, file, root, room::USUAL)
}

fn parse_for(text: &str, file: &str, root: &Path, room: usize) -> Result<Config, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut doc = Doc::new(file, text);
    doc.room = room;
    if text.len() > LARGEST_FILE {
        doc.fault(0, "the file is larger than 1 MiB");
        return Err(mistakes(doc));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !doc.syntax(errors) {
        return Err(mistakes(doc));
    }
    let mut config = whole(&mut doc, table.get_ref(), root);
    let named = std::mem::take(&mut doc.named);
    let (faults, notes) = doc.into_faults();
    if !faults.is_empty() {
        return Err(Failure::Config(faults).into());
    }
    config.not_in_effect = notes;
    config.named = named;
    Ok(config)
}

/// The same for what was read from disk: invalid UTF-8 is a fault at its place. `room` is what a program may be given,
/// arguments and environment together.
pub fn parse_bytes(bytes: &[u8], file: &str, root: &Path, room: usize) -> Result<Config, Error> {
    let wrong = match std::str::from_utf8(bytes) {
        Ok(text) => return parse_for(text, file, root, room),
        Err(wrong) => wrong,
    };
    let good = String::from_utf8_lossy(&bytes[..wrong.valid_up_to()]);
    let good = good.strip_prefix('\u{feff}').unwrap_or(&good);
    let mut doc = Doc::new(file, good);
    doc.fault(good.len(), "not UTF-8: save the file in that encoding");
    Err(mistakes(doc))
}

/// Everything that was found wrong.
fn mistakes(doc: Doc) -> Error {
    Failure::Config(doc.into_faults().0).into()
}

/// The settings that the top level gives to each process.
struct Defaults<'a> {
    env: Vec<(String, String)>,
    env_files: Vec<EnvFile>,
    unset_env: Vec<String>,
    on_event: OnEvent,
    log_lines: u64,
    log_bytes: u64,
    log_runs: usize,
    log_disk: u64,
    /// Of its `env`.
    sizes: Sizes<'a>,
}

impl Defaults<'_> {
    /// About how much a copy of them takes.
    fn bytes(&self) -> usize {
        let pairs = self
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let files = self
            .env_files
            .iter()
            .map(|file| file.path.as_os_str().len());
        let lists = [self.env.len(), self.env_files.len(), self.unset_env.len()];
        let commands = self.on_event.iter().map(|(_, command)| match command {
            Command::List(words) => words.iter().map(|word| word.len() + 24).sum(),
            Command::Shell(line) => line.len(),
        });
        let texts = pairs
            .chain(files)
            .chain(self.unset_env.iter().map(String::len));
        texts.chain(commands).sum::<usize>() + lists.iter().sum::<usize>() * 48
    }
}

fn whole(doc: &mut Doc, table: &DeTable, root: &Path) -> Config {
    let top = &doc.section(Place::Top, String::new(), table, 0);
    let mut sizes = Sizes::default();
    let mut claims = Claims::default();
    let defaults = Defaults {
        env: doc.env(top, &mut sizes),
        sizes,
        env_files: env_files(doc, top, root),
        unset_env: launch::unset_env(doc, top),
        on_event: launch::on_event(doc, top),
        log_lines: doc.value(top, "log_lines", values::log_lines),
        log_bytes: doc.value(top, "log_bytes", values::log_bytes),
        log_runs: doc.value(top, "log_runs", values::log_runs),
        log_disk: doc.value(top, "log_disk", read::size(0)),
    };
    let token_file = doc.read(top, "token_file", read::text);
    let metrics_token_file = doc.read(top, "metrics_token_file", read::text);
    let port = match doc.read(top, "mcp_port", read::integer(0, 65535)) {
        None => Port::Any,
        Some(0) => Port::Off,
        Some(n) => u16::try_from(n).map_or(Port::Any, Port::Fixed),
    };
    let bind = bind(doc, top);
    claims.own(top, port, bind);
    Config {
        root: root.to_path_buf(),
        port,
        bind,
        http: Http {
            token_file: token_file.map(|path| join(root, &path)),
            metrics_token_file: metrics_token_file.map(|path| join(root, &path)),
            dashboard: doc.value(top, "dashboard", read::boolean),
            allowed_origins: doc.value(top, "allowed_origins", read::list(values::origin)),
            allowed_hosts: doc.value(top, "allowed_hosts", read::list(values::host)),
        },
        dev_timeout: doc.value(top, "dev_timeout_hours", read::time_above_0(HOUR)),
        backoff: backoff(doc, top),
        passthrough: doc.value(top, "passthrough", read::toggle),
        heartbeat: doc.value(top, "heartbeat_minutes", read::time(MINUTE, 0.0)),
        idle_shutdown: doc.value(top, "idle_shutdown_minutes", read::time(MINUTE, 0.0)),
        direnv: doc.value(top, "direnv", read::toggle),
        cgroup: doc.value(top, "cgroup", read::toggle),
        processes: shared(processes(doc, top, &defaults, root, claims)),
        not_in_effect: Vec::new(),
        named: Named::default(),
    }
}

/// Into a list of its own: a `collect` would keep the memory of the list that it is made from.
fn shared(processes: Vec<Process>) -> Vec<Arc<Process>> {
    let mut all = Vec::with_capacity(processes.len());
    all.extend(processes.into_iter().map(Arc::new));
    all
}

fn bind(doc: &mut Doc, top: &Section) -> IpAddr {
    let bind = doc.read(top, "bind", values::ip);
    let bind = bind.unwrap_or(Ipv4Addr::LOCALHOST.into());
    if !bind.to_canonical().is_loopback() && top.get("token_file").is_none() {
        let text = format!("{bind} lets other machines in; set \"token_file\" as well");
        doc.complain(top, "bind", text);
    }
    bind
}

fn backoff(doc: &mut Doc, top: &Section) -> Backoff {
    let (first, longest) = (
        "release_crash_backoff_initial_seconds",
        "release_crash_backoff_max_seconds",
    );
    let (initial, max) = (
        doc.read(top, first, read::seconds),
        doc.read(top, longest, read::seconds),
    );
    if let (Some(initial), Some(max)) = (initial, max)
        && max < initial
    {
        let given = if top.get(longest).is_some() {
            longest
        } else {
            first
        };
        let text = format!(
            "the longest wait ({} s) is shorter than the first one ({} s)",
            clock::seconds(max),
            clock::seconds(initial)
        );
        doc.complain(top, given, text);
    }
    Backoff {
        dev: doc.value(top, "dev_crash_wait_seconds", read::seconds),
        initial: initial.unwrap_or_default(),
        max: max.unwrap_or_default(),
        factor: doc.value(top, "crash_backoff_factor", read::number(1.0, 1e6)),
    }
}

fn processes(
    doc: &mut Doc,
    top: &Section,
    defaults: &Defaults,
    root: &Path,
    mut claims: Claims,
) -> Vec<Process> {
    let none = DeTable::new();
    let table = match top.get("process") {
        None => &none,
        Some(_) => match doc.table(top, "process") {
            Some((table, _)) => table,
            None => return Vec::new(),
        },
    };
    if table.is_empty() {
        doc.fault(
            top.place_of("process"),
            "there is no process; add one, such as [process.web] with a \"command\"",
        );
    }
    let at = top.place_of("process");
    if !room::can_copy(doc, at, defaults.bytes(), table.len()) {
        return Vec::new();
    }
    let (mut all, mut wishes, mut sections) = (Vec::new(), Vec::new(), Vec::new());
    for (key, value) in read::entries(table) {
        let name: &str = key.get_ref();
        if let Err(why) = check_name(name) {
            doc.fault(key.span().start, format!("process {}: {why}", quote(name)));
        }
        let title = title(name);
        let at = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            doc.fault(at, format!("{title} must be a table of keys"));
            continue;
        };
        let section = doc.section(Place::Process, title, table, at);
        let process = process(doc, name, &section, defaults, root);
        claims.of(&section, &process);
        wishes.push(doc.value(&section, "depends_on", wishes_in));
        all.push(process);
        sections.push(section);
    }
    claims.check(doc);
    let ports: Ports = all.iter().map(|p| (p.name.clone(), p.port)).collect();
    for section in std::iter::once(top).chain(&sections) {
        references::check(doc, section, &ports);
    }
    references::resolve(&mut all, &ports);
    resolve(doc, &mut all, &wishes);
    all
}

/// `[process.web]`, quoted where TOML asks for it or the name is none.
pub(super) fn title(name: &str) -> String {
    match check_name(name) {
        Ok(()) if !name.contains('.') => format!("[process.{name}]"),
        Ok(()) | Err(_) => format!("[process.{}]", quote(name)),
    }
}

/// Names are folders and words of commands.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
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

fn process(doc: &mut Doc, name: &str, s: &Section, defaults: &Defaults, root: &Path) -> Process {
    let kind = doc.read(s, "type", read::word(&TYPES));
    check_kind(doc, s, kind);
    let kind = kind.unwrap_or(Kind::Command);
    let usual_restart = match kind {
        Kind::Task => Restart::Never,
        Kind::Rust | Kind::Npm | Kind::Command => Restart::Always,
    };
    let port = doc.read(s, "port", values::port);
    let listen = doc.value(s, "listen", read::list(values::listen));
    let ready = ready(doc, s, port, &listen);
    let swap = match doc.read(s, "swap", read::word(&SWAPS)) {
        Some(swap) => swap,
        None if !listen.is_empty() && ready.is_some() => Swap::Overlap,
        None => Swap::StopStart,
    };
    if let (Swap::Overlap, Some(ready)) = (swap, &ready) {
        check_overlap(doc, s, &ready.probe, port, &listen);
    }
    let cwd = doc.value(s, "cwd", read::text);
    let mut sizes = Sizes::over(&defaults.sizes);
    let env = [defaults.env.clone(), doc.env(s, &mut sizes)].concat();
    let process = Process {
        name: name.into(),
        kind,
        args: doc.value(s, "args", read::list(read::expandable)),
        command: doc.read(s, "command", read::command),
        build: doc.read(s, "build", read::build),
        build_release: doc.read(s, "build_release", read::build),
        build_timeout: doc.value(s, "build_timeout_seconds", read::seconds_above_0),
        package: doc.read(s, "package", read::text),
        bin: doc.read(s, "bin", read::text),
        features: doc.value(s, "features", read::list(read::text)),
        cargo_args: doc.value(s, "cargo_args", read::list(read::text)),
        mode: doc.value(s, "mode", read::word(&MODES)),
        cwd: join(root, &cwd),
        env,
        env_files: [defaults.env_files.clone(), env_files(doc, s, root)].concat(),
        autostart: doc.value(s, "autostart", read::boolean),
        restart: doc
            .read(s, "restart", read::word(&RESTARTS))
            .unwrap_or(usual_restart),
        start_limit: StartLimit {
            burst: doc.value(s, "start_limit_burst", read::count(0)),
            span: doc.value(s, "start_limit_seconds", read::seconds_above_0),
        },
        stop_signal: doc.value(s, "stop_signal", values::stop_signal),
        stop_timeout: doc.value(s, "stop_timeout_seconds", read::seconds),
        depends_on: Vec::new(),
        port,
        listen,
        swap,
        ready,
        health: health(doc, s),
        watch: doc.value(s, "watch", read::list(values::watched)),
        color: doc.value(s, "color", read::boolean),
        launch: launch::launch(doc, s, &defaults.unset_env),
        stop_to: launch::stop_to(doc, s),
        success: launch::success(doc, s),
        on_event: [defaults.on_event.clone(), launch::on_event(doc, s)].concat(),
        log_lines: doc
            .read(s, "log_lines", values::log_lines)
            .unwrap_or(defaults.log_lines),
        log_bytes: doc
            .read(s, "log_bytes", values::log_bytes)
            .unwrap_or(defaults.log_bytes),
        log_runs: doc
            .read(s, "log_runs", values::log_runs)
            .unwrap_or(defaults.log_runs),
        log_disk: doc
            .read(s, "log_disk", read::size(0))
            .unwrap_or(defaults.log_disk),
        references: Vec::new(),
    };
    room::check(doc, s, &process, &sizes);
    remark_sockets(doc, s, &process);
    process
}

/// Says where what `listen` holds can't reach the program.
fn remark_sockets(doc: &mut Doc, s: &Section, process: &Process) {
    let (Some(command), false) = (&process.command, process.listen.is_empty()) else {
        return;
    };
    let (first, hides) = match command {
        Command::List(words) => {
            let words: Vec<&str> = words
                .iter()
                .chain(&process.args)
                .map(String::as_str)
                .collect();
            (words.first().copied(), shell::hides_sockets(&words))
        }
        Command::Shell(line) => (
            line.split_whitespace().next(),
            shell::line_hides_sockets(line),
        ),
    };
    let first = quote(first.unwrap_or_default());
    let why = match hides {
        None => return,
        Some(Hides::Closes) => {
            format!("{first} closes the sockets that it is handed: run the program itself")
        }
        Some(Hides::Child) => format!(
            "{first} starts the program as a child, which LISTEN_PID does not name: run the program itself, or tell it \
             descriptor 3"
        ),
        Some(Hides::Shell) => {
            "a shell stays before the program, which LISTEN_PID does not name: write exec before the program".into()
        }
    };
    doc.remark(
        s.place_of("listen"),
        format!("\"listen\"{}: {why}", s.suffix()),
    );
}

/// Reports keys that the type lacks, and keys that belong to another type.
fn check_kind(doc: &mut Doc, s: &Section, kind: Option<Kind>) {
    let Some(kind) = kind else { return };
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
    // a misspelt one is a fault already
    let mut keys = s.table.keys().map(|key| key.get_ref());
    if s.get("command").is_none() && !keys.any(|key| nearest(key, ["command"]).is_some()) {
        let text = format!(
            "\"command\" is missing in {}: type \"{}\" needs it",
            s.title,
            kind.as_str()
        );
        doc.fault(s.at, text);
    }
    let why = format!(
        "only type \"rust\" has it, and this is type \"{}\"",
        kind.as_str()
    );
    for key in ["package", "bin", "features", "cargo_args"] {
        if s.get(key).is_some() {
            doc.complain(s, key, &why);
        }
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
    let file = |value: &read::Value| Ok((value.span().start, values::env_path(value)?));
    let mut files = Vec::new();
    for (at, (path, optional)) in doc.value(s, "env_file", read::one_or_list(file)) {
        let path = join(root, &path);
        let place = doc.place(s, "env_file", at);
        doc.named.env_files.push((path.clone(), place));
        files.push(EnvFile {
            path,
            optional,
            says: None,
        });
    }
    files
}
