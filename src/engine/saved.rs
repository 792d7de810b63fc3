//! Pure: no system call, no thread, no clock.
//!
//! Runs and builds as the next bpm needs to know them, in JSON.

use std::path::PathBuf;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::saved::{Saved, saved};
use crate::build::Artifact;
use crate::config::Mode;
use crate::lifecycle::Generation;

/// A run of which something may live, by what the next bpm knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedRun {
    pub process: String,
    pub generation: Generation,
    /// Its number in the log.
    pub run: u64,
    /// Its first process, and when that began, in clock ticks since the boot.
    pub pid: i32,
    pub start: u64,
    pub began: Mono,
    /// The number of the first line that it could write.
    pub first_line: u64,
    /// The inodes of the pipes that it writes to. None: a terminal.
    pub pipes: Option<[u64; 2]>,
    /// Of the settings that it was started with.
    pub settings: u64,
    /// The binary of a build that it executes.
    pub exe: Option<PathBuf>,
    pub cgroup: Option<PathBuf>,
    /// The socket over which it says how it is.
    pub notify: Option<PathBuf>,
}

/// A process that survived KILL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftBehind {
    /// The name of its process in the file; empty: of none for certain.
    pub process: String,
    pub pid: i32,
    pub start: u64,
    /// Its program, and why it lives.
    pub what: String,
}

impl LeftBehind {
    /// `pid 4711 of web`
    pub fn named(&self) -> String {
        match self.process.as_str() {
            "" => format!("pid {}", self.pid),
            name => format!("pid {} of {name}", self.pid),
        }
    }

    /// A line for a person.
    pub fn line(&self) -> String {
        format!("   still there: {}: {}\n", self.named(), self.what)
    }
}

/// The state of a process apart from its runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SavedLife {
    /// As the lifecycle has it.
    pub life: Value,
    pub builds: Vec<SavedBuild>,
}

/// A build that can still be started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedBuild {
    pub id: u64,
    pub mode: Mode,
    pub made: Artifact,
}

impl SavedLife {
    /// The text of [`Saved::save`], without a copy of the values.
    pub fn to_text(&self) -> String {
        format!(
            r#"{{"builds":{},"life":{}}}"#,
            self.builds.save(),
            self.life
        )
    }
}

saved! {
    SavedRun {
        process, generation, run, pid, start, began, first_line, pipes, settings, exe, cgroup, notify,
    }
    LeftBehind { process, pid, start, what }
    SavedLife { life, builds }
    SavedBuild { id, mode, made }
    Artifact { exe, argv0, env }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::saved::load;

    pub(in crate::engine) fn run() -> SavedRun {
        SavedRun {
            process: "web".into(),
            generation: 7,
            run: 12,
            pid: 4711,
            start: 99,
            began: Mono::from_nanos(12),
            first_line: 5,
            pipes: Some([1, 2]),
            settings: u64::MAX,
            exe: Some("/x".into()),
            cgroup: None,
            notify: Some("/n".into()),
        }
    }

    #[test]
    fn runs_and_builds_come_back_as_they_were() {
        let run = run();
        let text = run.save().to_string();
        let read = load(&serde_json::from_str(&text).unwrap());
        assert_eq!(read, Ok(run));
        let build = SavedBuild {
            id: 3,
            mode: Mode::Dev,
            made: Artifact {
                exe: Some("/x".into()),
                argv0: Some("x".into()),
                env: vec![("A".into(), "b".into())],
            },
        };
        assert_eq!(load(&build.save()), Ok(build.clone()));
        let life = SavedLife {
            life: [("a", 1)].into_iter().collect(),
            builds: vec![build],
        };
        assert_eq!(life.to_text(), life.save().to_string());
    }
}
