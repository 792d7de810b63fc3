//! `bpm logs --errors`: what looks like an error or a warning, a group for each shape.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::json::{items, object};
use crate::client::connection::Client;

use super::orders::{each, plain};
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
    let mut names = call.names()?;
    let named = !names.is_empty();
    let (_, source) = Source::of(call, "show the errors", &names)?;
    let answers = match source {
        Source::Daemon(mut client) => {
            if !named {
                names = all(&mut client)?;
            }
            each(&mut client, "get_errors", &names, &arguments)?
        }
        Source::Disk(stored, _) => {
            if !named {
                names.clone_from(&stored.names);
            }
            names
                .iter()
                .map(|name| {
                    arguments["process"] = name.as_str().into();
                    (name.clone(), stored.tool("get_errors", &arguments))
                })
                .collect()
        }
    };
    let mut code = 0;
    for (name, told) in answers {
        // One of all need not have the run.
        if told.failed && named {
            code = 1;
            note(&format!("bpm: {}\n", told.text));
        } else if !told.failed && call.has("json") {
            print(&one_a_line(&name, &told.data))?;
        } else if !told.failed {
            let label = match names.len() {
                1 => String::new(),
                _ => format!("[{name}] "),
            };
            print(&labelled(&label, &told.text))?;
        }
    }
    Ok(code)
}

/// The names of all processes.
fn all(client: &mut Client) -> Result<Vec<String>> {
    let status = client
        .call("bpm/status", object([]), None)
        .map_err(|f| f.while_doing("show the errors"))?;
    let names = items(&status["processes"]).filter_map(|p| Some(p["name"].as_str()?.to_owned()));
    Ok(names.collect())
}

/// Each group as an object of its own.
fn one_a_line(process: &str, data: &Value) -> String {
    items(&data["groups"])
        .map(|group| {
            let mut group = group.clone();
            group["process"] = process.into();
            format!("{group}\n")
        })
        .collect()
}

fn labelled(label: &str, text: &str) -> String {
    plain(text)
        .lines()
        .map(|l| format!("{label}{l}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_shown_without_its_cursor() {
        let text = "1x error, seq 3\n  bad\n[1 groups in 3 lines | next 3]";
        assert_eq!(labelled("", text), "1x error, seq 3\n  bad\n");
        assert_eq!(labelled("[a] ", text), "[a] 1x error, seq 3\n[a]   bad\n");
        let data = json!({"groups": [{"count": 2}, {"count": 1}]});
        assert_eq!(
            one_a_line("a", &data),
            "{\"count\":2,\"process\":\"a\"}\n{\"count\":1,\"process\":\"a\"}\n"
        );
    }
}
