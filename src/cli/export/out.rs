//! Pure: no system call, no thread, no clock.
//!
//! The text of an export: lines, and comments where an engine has nothing for a setting.

use std::time::Duration;

use super::Engine;
use super::plan::Unit;
use super::quote::shown;
use crate::base::number;
use crate::config::{Process, Swap};

/// A text that grows.
#[derive(Default)]
pub(super) struct Out {
    /// So far.
    pub(super) text: String,
    /// Settings without a counterpart.
    pub(super) gaps: usize,
}

impl Out {
    /// A line, indented by so many steps of two blanks.
    pub(super) fn line(&mut self, depth: usize, text: impl AsRef<str>) {
        for _ in 0..depth {
            self.text.push_str("  ");
        }
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// A comment.
    pub(super) fn note(&mut self, depth: usize, text: impl AsRef<str>) {
        self.line(depth, format!("# {}", shown(text.as_ref())));
    }

    /// A setting that the engine has no counterpart for.
    pub(super) fn gap(&mut self, depth: usize, setting: &str, why: &str) {
        self.gaps += 1;
        self.note(depth, format!("no counterpart for {setting}: {why}"));
    }

    /// The settings of a process that this engine lacks whatever their values are.
    pub(super) fn lacking(&mut self, depth: usize, unit: &Unit, engine: Engine) {
        for lack in LACKING {
            let why = lack.why[engine as usize];
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
const NO_LIMIT: &str = "it sets no limit on restarts";

const LACKING: &[Lack] = &[
    Lack {
        setting: "watch",
        is_set: |p| !p.watch.is_empty(),
        why: [NO_RESTART; 4],
    },
    Lack {
        setting: "listen",
        is_set: |p| !p.listen.is_empty(),
        why: ["", NO_SOCKETS, NO_SOCKETS, NO_SOCKETS],
    },
    Lack {
        setting: "swap = \"overlap\"",
        is_set: |p| p.swap == Swap::Overlap && p.listen.is_empty(),
        why: [
            "it stops the old process before it starts the new one",
            "it stops the old container before it starts the new one",
            "",
            "",
        ],
    },
    Lack {
        setting: "start_limit_burst",
        is_set: |p| p.start_limit.burst > 0,
        why: ["", NO_LIMIT, NO_LIMIT, ""],
    },
    Lack {
        setting: "limits.nofile",
        is_set: |p| p.launch.limits.nofile.is_some(),
        why: [
            "",
            "",
            "it is a setting of the node",
            "it is a setting of the client",
        ],
    },
    Lack {
        setting: "limits.core",
        is_set: |p| p.launch.limits.core.is_some(),
        why: [
            "",
            "",
            "it is a setting of the node",
            "it is a setting of the client",
        ],
    },
];

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

/// Seconds with a fraction, for a shell's sleep.
pub(super) fn seconds(time: Duration) -> String {
    number::seconds(time)
}
