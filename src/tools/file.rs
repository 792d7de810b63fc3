//! `.mcp-run` as it is now, beside the one that was read.

use std::path::Path;

use serde_json::Value;

use super::text::{LINE, Reader, clip};
use crate::base::error::{Error, Failure, listed};
use crate::base::paths::CONFIG_FILE;
use crate::engine::snapshot::Snapshot;
use crate::engine::supervisor::read_config;
use crate::os::files;
use crate::server::render::changed_words;

/// `.mcp-run` is not what was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum FileChange {
    #[default]
    None,
    /// A reload takes it over.
    Usable,
    /// It has to be repaired first: why.
    Broken(String),
}

impl FileChange {
    /// Reads the file: for a worker.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        if snapshot.config.is_none()
            || snapshot.config == files::digest(&snapshot.root.join(CONFIG_FILE))
        {
            return Self::None;
        }
        match read_config(&snapshot.root) {
            Ok(_) => Self::Usable,
            Err(why) => Self::Broken(clip(&first(&why), LINE).into_owned()),
        }
    }

    /// The sentence of an answer.
    pub(super) fn words(&self, reader: Reader) -> Option<String> {
        let reload = match reader {
            Reader::Model => "reload",
            Reader::Person => "\"bpm reload\"",
        };
        self.is_one().then(|| changed_words(self.error(), reload))
    }

    pub(super) fn is_one(&self) -> bool {
        *self != Self::None
    }

    /// Why the file is of no use as it is.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::None | Self::Usable => None,
            Self::Broken(why) => Some(why),
        }
    }

    /// The same in an answer's data.
    pub(super) fn put(&self, value: &mut Value) {
        if self.is_one() {
            value["config_changed"] = true.into();
        }
        if let Some(why) = self.error() {
            value["config_error"] = why.into();
        }
    }
}

/// Why a process that the daemon does not have is refused: one that `.mcp-run` has by now is not just unknown. Reads the
/// file: for a worker.
pub(super) fn unknown(snapshot: &Snapshot, name: &str, why: String, reader: Reader) -> String {
    let change = FileChange::of(snapshot);
    let Some(changed) = change.words(reader) else {
        return why;
    };
    match change {
        FileChange::Usable if is_configured(&snapshot.root, name) => {
            let changed = changed.trim_start_matches(CONFIG_FILE);
            format!("{name:?} stands in {CONFIG_FILE}, which{changed}")
        }
        // It may stand in a file that cannot be read.
        FileChange::Broken(_) if !why.contains("did you mean") => {
            let names = listed(&snapshot.names());
            format!(
                "{name:?} was not in {CONFIG_FILE} when it was read (processes: {names})\n{changed}"
            )
        }
        FileChange::Broken(_) => format!("{why}\n{changed}"),
        FileChange::None | FileChange::Usable => why,
    }
}

/// The first mistake, and how many more there are: a reload lists them all.
fn first(error: &Error) -> String {
    match error.failure() {
        Failure::Config(faults) => match faults.as_slice() {
            [] => error.to_string(),
            [one] => one.to_string(),
            [first, more @ ..] => format!("{first} (and {} more)", more.len()),
        },
        _ => error.to_string(),
    }
}

fn is_configured(root: &Path, name: &str) -> bool {
    let config = read_config(root);
    config.is_ok_and(|config| config.processes.iter().any(|process| process.name == name))
}
