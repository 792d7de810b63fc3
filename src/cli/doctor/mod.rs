//! `bpm doctor`: what usually goes wrong, and what to do about it. It starts nothing of the project and changes
//! nothing.

mod agents;
mod commands;
mod daemon;
mod host;
mod project;

use std::fmt::Display;

use serde_json::Value;

use crate::base::error::{Error, Failure, Result};
use crate::base::json::{list, object, or_null};
use crate::base::table::Set;
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
    fn ok(&mut self, check: &'static str, text: impl Display) {
        self.add(Level::Ok, check, &text, None);
    }

    fn note(&mut self, check: &'static str, text: impl Display, fix: impl Display) {
        self.add(Level::Note, check, &text, Some(&fix));
    }

    fn problem(&mut self, check: &'static str, text: impl Display, fix: impl Display) {
        self.add(Level::Problem, check, &text, Some(&fix));
    }

    /// With the error's own hint, where it has one.
    fn error(&mut self, check: &'static str, error: &Error) {
        let hint = error.hint();
        let fix = hint.as_ref().map(|hint| hint as &dyn Display);
        self.add(Level::Problem, check, error, fix);
    }

    fn add(
        &mut self,
        level: Level,
        check: &'static str,
        text: &dyn Display,
        fix: Option<&dyn Display>,
    ) {
        self.findings.push(Finding {
            level,
            check,
            text: text.to_string(),
            fix: fix.map(|fix| fix.to_string()),
        });
    }

    /// Says that all is well with something of which nothing else was said.
    fn ok_unless_said(&mut self, check: &'static str, text: impl Display) {
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
        Err(error) => return shown(&unreadable(&error), call),
    };
    let mut doctor = Doctor {
        project: &project,
        config: &config,
        daemon: None,
        findings: Vec::new(),
    };
    let mistakes = super::check::mistakes(&config, &project.env, &mut Set::default());
    if mistakes.is_empty() {
        doctor.ok("configuration", "no mistakes");
    }
    for mistake in mistakes.into_keys() {
        let fix = "edit it, then \"bpm check\"";
        doctor.problem("configuration", mistake.to_string(), fix);
    }
    for note in &config.not_in_effect {
        doctor.note("configuration", note.to_string(), "\"bpm check\" shows it");
    }
    daemon::look(&mut doctor);
    project::look(&mut doctor);
    commands::look(&mut doctor);
    host::look(&mut doctor);
    agents::look(&mut doctor);
    shown(&doctor.findings, call)
}

/// A file that can't be used.
fn unreadable(error: &Error) -> Vec<Finding> {
    let problem = |text: String, fix: Option<String>| Finding {
        level: Level::Problem,
        check: "configuration",
        text,
        fix,
    };
    let mut found = Vec::new();
    match error.failure() {
        Failure::Config(faults) => {
            for fault in faults {
                let fix = "edit it, then \"bpm check\"".into();
                found.push(problem(fault.to_string(), Some(fix)));
            }
        }
        _ => found.push(problem(error.to_string(), error.hint())),
    }
    found
}

/// Prints them; the exit code.
fn shown(findings: &[Finding], call: &Call) -> Result<u8> {
    let count = |level: Level| findings.iter().filter(|f| f.level == level).count();
    let problems = count(Level::Problem);
    let code = u8::from(problems > 0);
    if !call.has("json") {
        let lines: String = findings.iter().map(line).collect();
        return print(lines).map(|()| code);
    }
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
        ("problems", problems.into()),
        ("notes", count(Level::Note).into()),
        ("findings", list(all)),
    ]);
    print(format_args!("{value}\n")).map(|()| code)
}

fn line(finding: &Finding) -> String {
    let Finding {
        level,
        check,
        text,
        fix,
    } = finding;
    let text = text.replace(char::is_control, " ");
    let fix = fix.as_ref().map_or(String::new(), |fix| format!(": {fix}"));
    format!("{:7}  {check}: {text}{fix}\n", level.word())
}
