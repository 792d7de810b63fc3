//! `bpm doctor`: what usually goes wrong, and what to do about it. It starts nothing of the project and changes
//! nothing.

mod agents;
mod commands;
mod daemon;
mod host;
mod project;

use serde_json::Value;

use crate::base::error::{Error, Failure, Result};
use crate::base::json::{list, object, or_null};
use crate::client::verdict::Descriptor;
use crate::config::Config;
use crate::daemon::{Project, read_config};

use super::print;
use super::spec::Call;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Note,
    Problem,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "PROBLEM",
        }
    }
}

/// One line.
struct Finding {
    level: Level,
    /// The name of the check: `ports`.
    check: &'static str,
    text: String,
    /// A command, or what to write.
    fix: Option<String>,
}

/// The project, and the findings so far.
struct Doctor<'a> {
    project: &'a Project,
    config: &'a Config,
    /// Of the daemon that runs.
    daemon: Option<Descriptor>,
    findings: Vec<Finding>,
}

impl Doctor<'_> {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(Level::Ok, check, text.into(), None);
    }

    fn note(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Note, check, text.into(), Some(fix.into()));
    }

    fn problem(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Problem, check, text.into(), Some(fix.into()));
    }

    /// With the error's own hint, where it has one.
    fn error(&mut self, check: &'static str, error: &Error) {
        self.add(Level::Problem, check, error.to_string(), error.hint());
    }

    fn add(&mut self, level: Level, check: &'static str, text: String, fix: Option<String>) {
        self.findings.push(Finding {
            level,
            check,
            text,
            fix,
        });
    }

    /// Says that all is well with something of which nothing else was said.
    fn ok_unless_said(&mut self, check: &'static str, text: impl Into<String>) {
        if !self.findings.iter().any(|f| f.check == check) {
            self.ok(check, text);
        }
    }
}

/// `bpm doctor`.
pub(super) fn doctor(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let config = match read_config(&project.root) {
        Ok(config) => config,
        Err(error) => {
            let findings = unreadable(&error);
            print(&shown(&findings, call.has("json")))?;
            return Ok(1);
        }
    };
    let mut doctor = Doctor {
        project: &project,
        config: &config,
        daemon: None,
        findings: Vec::new(),
    };
    doctor.ok("configuration", "no mistakes");
    for note in &config.not_in_effect {
        doctor.note("configuration", note.to_string(), "\"bpm check\" shows it");
    }
    daemon::look(&mut doctor);
    project::look(&mut doctor);
    commands::look(&mut doctor);
    host::look(&mut doctor);
    agents::look(&mut doctor);
    let findings = doctor.findings;
    print(&shown(&findings, call.has("json")))?;
    Ok(u8::from(findings.iter().any(|f| f.level == Level::Problem)))
}

/// A file that can't be used.
fn unreadable(error: &Error) -> Vec<Finding> {
    let problem = |text: String, fix: Option<String>| Finding {
        level: Level::Problem,
        check: "configuration",
        text,
        fix,
    };
    match error.failure() {
        Failure::Config(faults) => {
            let one = |fault| {
                problem(
                    format!("{fault}"),
                    Some("edit it, then \"bpm check\"".into()),
                )
            };
            faults.iter().map(one).collect()
        }
        _ => vec![problem(error.to_string(), error.hint())],
    }
}

fn shown(findings: &[Finding], json: bool) -> String {
    if !json {
        return findings.iter().map(line).collect();
    }
    let count = |level: Level| findings.iter().filter(|f| f.level == level).count();
    let all = findings.iter().map(|finding| {
        object([
            ("level", finding.level.word().to_ascii_lowercase().into()),
            ("check", finding.check.into()),
            ("text", finding.text.as_str().into()),
            ("fix", or_null(finding.fix.as_deref())),
        ])
    });
    let value: Value = object([
        ("schema", 1.into()),
        ("problems", count(Level::Problem).into()),
        ("notes", count(Level::Note).into()),
        ("findings", list(all)),
    ]);
    format!("{value}\n")
}

fn line(finding: &Finding) -> String {
    let Finding {
        level,
        check,
        text,
        fix,
    } = finding;
    let text = text.replace(char::is_control, " ");
    match fix {
        Some(fix) => format!("{:7}  {check}: {text}: {fix}\n", level.word()),
        None => format!("{:7}  {check}: {text}\n", level.word()),
    }
}
