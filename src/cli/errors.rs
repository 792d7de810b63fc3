//! `bpm logs --errors`: what looks like an error or a warning, a group for each shape.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::json::{items, object};
use crate::client::connection::{CallError, ToolResult};

use super::orders::{call_all, for_each};
use super::source::{Source, has_ended};
use super::spec::Call;
use super::{print, refused};

/// Options of `logs` that choose lines one by one: here lines are counted by their shape.
const GO_WITH_IT: &[&str] = &["errors", "run", "build", "json"];

impl Source {
    fn errors(&mut self, calls: &[Value]) -> std::result::Result<Vec<ToolResult>, CallError> {
        match self {
            Self::Daemon(client) => call_all(client, "get_errors", calls),
            Self::Disk(stored, _) => {
                let errors = |arguments| stored.tool("get_errors", arguments);
                Ok(calls.iter().map(errors).collect())
            }
        }
    }
}

/// The errors of the processes that are named, or of all.
pub(super) fn errors(call: &Call) -> Result<u8> {
    let strange = |(option, _): &&(&super::spec::Opt, _)| !GO_WITH_IT.contains(&option.long);
    if let Some((option, _)) = call.options.iter().find(strange) {
        return Err(Error::usage(format!(
            "--{} does not go with --errors: only --run, --build and --json do",
            option.long
        )));
    }
    let mut arguments = object([("build", call.has("build").into())]);
    if let Some(run) = call.number::<i64>("run", "a run (-1 is the newest)")? {
        arguments["index"] = run.into();
    }
    let names = call.names()?;
    // Without a name all processes are asked for at once.
    let calls = match names.is_empty() {
        true => vec![arguments],
        false => for_each(&names, &arguments),
    };
    let project = call.project()?;
    let what = "show the errors";
    let (source, answers) = Source::ask(&project, what, &names, has_ended, &mut |source| {
        source.errors(&calls)
    })?;
    let answers = answers.map_err(|fault| fault.while_doing(what))?;
    let mut code = source.exit_code();
    for told in answers {
        if told.failed {
            code = refused(what, &told.text);
        } else if call.has("json") {
            for group in items(&told.data["groups"]) {
                print(format_args!("{group}\n"))?;
            }
        } else {
            print(format_args!("{}\n", told.text))?;
        }
    }
    Ok(code)
}
