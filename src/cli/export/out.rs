//! Pure: no system call, no thread, no clock.
//!
//! The text of an export: lines, and comments where an engine has nothing for a setting.

use std::fmt::{self, Display, Write};
use std::path::Path;
use std::time::Duration;

use super::Engine;
use super::plan::Unit;
use super::quote::{quoted, shown};
use crate::config::{Process, StopTo, Success, Swap};

/// A text for an engine, as it grows.
pub(super) struct Out {
    engine: Engine,
    /// So far.
    pub(super) text: String,
    /// Settings without a counterpart.
    pub(super) gaps: usize,
}

impl Out {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            text: String::new(),
            gaps: 0,
        }
    }

    /// A line, indented by `depth` steps of two blanks.
    pub(super) fn line(&mut self, depth: usize, text: &str) {
        self.put(depth, format_args!("{text}"));
    }

    /// The same, formatted into its place.
    pub(super) fn put(&mut self, depth: usize, text: fmt::Arguments<'_>) {
        for _ in 0..depth {
            self.text.push_str("  ");
        }
        let _ = writeln!(self.text, "{text}");
    }

    /// A key and its value, which stays as it is.
    pub(super) fn set(&mut self, depth: usize, key: &str, value: impl Display) {
        let between = match self.engine {
            Engine::Systemd => "=",
            Engine::Compose | Engine::Kubernetes => ": ",
            Engine::Nomad => " = ",
        };
        self.put(depth, format_args!("{key}{between}{value}"));
    }

    /// The same where there is a value.
    pub(super) fn set_some(&mut self, depth: usize, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(depth, key, value);
        }
    }

    /// A key and a text, which the engine reads back unchanged.
    pub(super) fn text(&mut self, depth: usize, key: &str, text: &str) {
        self.set(depth, key, quoted(text, self.engine));
    }

    /// A comment.
    pub(super) fn note(&mut self, depth: usize, text: impl Display) {
        self.put(depth, format_args!("# {}", shown(&text.to_string())));
    }

    /// A setting that the engine has no counterpart for.
    pub(super) fn gap(&mut self, depth: usize, setting: &str, why: &str) {
        self.gaps += 1;
        self.note(depth, format_args!("no counterpart for {setting}: {why}"));
    }

    /// An image has the folder of its program, and the project's root is taken for it.
    pub(super) fn image_folder(&mut self, depth: usize, unit: &Unit, root: &Path, key: &str) {
        if unit.process.cwd != root {
            let why = format!("where that folder is in the image is not known: add {key}");
            self.gap(depth, "cwd", &why);
        }
    }

    /// The settings of a process that this engine lacks whatever their values are.
    pub(super) fn lacking(&mut self, depth: usize, unit: &Unit) {
        for lack in LACKING {
            let why = lack.why[self.engine as usize];
            if !why.is_empty() && (lack.is_set)(&unit.process) {
                self.gap(depth, lack.setting, why);
            }
        }
    }
}

/// A setting, and why an engine has no counterpart; empty: it has one. In the order of [`Engine`].
struct Lack {
    setting: &'static str,
    is_set: fn(&Process) -> bool,
    why: [&'static str; 4],
}

const NO_RESTART: &str = "it restarts nothing when files change";
const NO_SOCKETS: &str = "it hands no sockets over; the program has to listen itself";
const NO_OVERLAP: &str = "it stops the old one before it starts the new one";
const NO_LIMIT: &str = "it sets no limit on restarts";

const IMAGE: &str = "the image is built elsewhere";
const FIRST: &str = "the signal goes to the first process of the container";
const OF_NODE: &str = "it is a setting of the node";
const OF_CLIENT: &str = "it is a setting of the client";
const NO_EVENTS: &str = "it runs no command of its own when something happens";
const CODES: &str = "only exit code 0 is success there";
const NOT_THERE: &str = "it has no such setting for one process";

const OWN_LOOPBACK: &str = "127.0.0.1 is the container's own there: its host is the service's name";
const NO_PLACE: &str = "the other group may run elsewhere, with a port that Nomad chooses";

fn names_port(process: &Process) -> bool {
    process.references.iter().any(|other| !other.url)
}

fn names_url(process: &Process) -> bool {
    process.references.iter().any(|other| other.url)
}

const fn lack(setting: &'static str, is_set: fn(&Process) -> bool, why: [&'static str; 4]) -> Lack {
    Lack {
        setting,
        is_set,
        why,
    }
}

#[rustfmt::skip]
const LACKING: &[Lack] = &[
    lack("${NAME.port}", names_port, ["", OWN_LOOPBACK, OWN_LOOPBACK, NO_PLACE]),
    lack("${NAME.url}", names_url, ["", "", "", NO_PLACE]),
    lack("build", |p| p.build.is_some(), ["", IMAGE, IMAGE, ""]),
    lack("build_release", |p| p.build_release.is_some(), ["", IMAGE, IMAGE, ""]),
    lack("stop_to = \"group\"", |p| p.stop_to == StopTo::Group, ["", FIRST, FIRST, FIRST]),
    lack("watch", |p| !p.watch.is_empty(), [NO_RESTART; 4]),
    lack("listen", |p| !p.listen.is_empty(), ["", NO_SOCKETS, NO_SOCKETS, NO_SOCKETS]),
    lack("swap = \"overlap\"", |p| p.swap == Swap::Overlap && p.listen.is_empty(), [NO_OVERLAP, NO_OVERLAP, "", ""]),
    lack("start_limit_burst", |p| p.start_limit.burst > 0, ["", NO_LIMIT, NO_LIMIT, ""]),
    lack("on_event", |p| !p.on_event.is_empty(), ["see OnFailure= in systemd.unit(5)", NO_EVENTS, NO_EVENTS, NO_EVENTS]),
    lack("success_exit_codes", |p| p.success != [Success::Code(0)], ["", CODES, CODES, CODES]),
    lack("stdin = \"open\"", |p| p.launch.stdin_open, ["its services read /dev/null, or a file", "", "", NOT_THERE]),
    lack("tty", |p| p.launch.tty, ["it has a terminal only where TTYPath= names one", "", "", NOT_THERE]),
    lack("nice", |p| p.launch.nice.is_some(), ["", NOT_THERE, NOT_THERE, NOT_THERE]),
    lack("oom_score_adj", |p| p.launch.oom_score_adj.is_some(), ["", "", NOT_THERE, NOT_THERE]),
    lack("umask", |p| p.launch.umask.is_some(), ["", NOT_THERE, NOT_THERE, NOT_THERE]),
    lack("limits.nofile", |p| p.launch.limits.nofile.is_some(), ["", "", OF_NODE, OF_CLIENT]),
    lack("limits.core", |p| p.launch.limits.core.is_some(), ["", "", OF_NODE, OF_CLIENT]),
    lack("limits.memory_high", |p| p.launch.limits.memory_high.is_some(), ["", NOT_THERE, NOT_THERE, NOT_THERE]),
    lack("limits.tasks", |p| p.launch.limits.tasks.is_some(), ["", "", OF_NODE, OF_CLIENT]),
];

/// Processors: `1.50`.
pub(super) fn processors(cpu: f64) -> String {
    format!("{:.2}", cpu.max(0.01))
}

/// Milliseconds or seconds, whole, as all engines read them: `1500ms`, `10s`.
pub(super) fn span(time: Duration) -> String {
    match time.subsec_nanos() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis().max(1)),
    }
}

/// Whole seconds, rounded up, at least one.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}
