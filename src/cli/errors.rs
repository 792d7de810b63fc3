//! `bpm logs --errors`: what looks like an error or a warning, a group for each shape.

use crate::base::error::{Error, Result};
use crate::base::json::{items, object};
use crate::client::connection::ToolResult;

use super::orders::each;
use super::source::Source;
use super::spec::Call;
use super::{note, print};

/// Options of `logs` that choose lines one by one: here lines are counted by their shape.
const GO_WITH_IT: &[&str] = &["errors", "run", "build", "json"];

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
    let (_, source) = Source::of(call, "show the errors", &names)?;
    // Without a name all processes are asked for at once.
    let answers: Vec<ToolResult> = match source {
        Source::Daemon(mut client) if names.is_empty() => {
            let told = client.tool("get_errors", arguments, None);
            vec![told.map_err(|f| f.while_doing("show the errors"))?]
        }
        Source::Daemon(mut client) => {
            let answers = each(&mut client, "get_errors", &names, &arguments)?;
            answers.into_iter().map(|(_, told)| told).collect()
        }
        Source::Disk(stored, _) if names.is_empty() => {
            vec![stored.tool("get_errors", &arguments)]
        }
        Source::Disk(stored, _) => names
            .iter()
            .map(|name| {
                arguments["process"] = name.as_str().into();
                stored.tool("get_errors", &arguments)
            })
            .collect(),
    };
    let mut code = 0;
    for told in answers {
        if told.failed {
            code = 1;
            note(&format!("bpm: {}\n", told.text));
        } else if call.has("json") {
            let groups = items(&told.data["groups"]);
            print(&groups.map(|group| format!("{group}\n")).collect::<String>())?;
        } else {
            print(&format!("{}\n", told.text))?;
        }
    }
    Ok(code)
}
