//! From a checked request to what the service says to it, whatever the request came by.

use serde_json::Value;

use crate::base::json::object;
use crate::server::mcp::{self, Envelope, Mcp, Verb};
use crate::server::rpc::{self, INVALID_PARAMS, METHOD_NOT_FOUND, Refusal};
use crate::server::service::{Answer, Caller, Service, Step};

/// The most values that a completion gives.
const MAX_COMPLETIONS: usize = 100;

/// How it goes on.
pub enum Next {
    /// Its answer is written.
    Written,
    Step(Step),
    Subscribe(Vec<String>),
}

/// Asks the service.
///
/// # Errors
/// There is no such tool, resource, prompt or method.
pub fn ask(
    service: &dyn Service,
    mcp: &Mcp,
    caller: &Caller,
    to: &Envelope,
    verb: Verb<'_>,
    token: Option<&Value>,
    out: &mut Vec<u8>,
) -> Result<Next, Refusal> {
    let step = match verb {
        Verb::Initialize { version } => {
            mcp.put_initialized(out, to, version);
            return Ok(Next::Written);
        }
        Verb::Discover => {
            mcp.put_discovered(out, to);
            return Ok(Next::Written);
        }
        Verb::Tools => {
            mcp.put_tools(out, to);
            return Ok(Next::Written);
        }
        Verb::Subscribe { uris } => return Ok(Next::Subscribe(uris)),
        Verb::Nothing => result([]),
        Verb::Resources => result([("resources", service.resources().into())]),
        Verb::Templates => result([("resourceTemplates", service.templates().into())]),
        Verb::Prompts => result([("prompts", service.prompts().into())]),
        Verb::CallTool { name, args } => service
            .call(caller, name, args, token)
            .ok_or_else(|| Refusal::unknown(INVALID_PARAMS, "Unknown tool", name))?,
        Verb::Read { uri } => service
            .read(caller, uri)
            .ok_or_else(|| mcp::no_resource(to.era, uri))?,
        Verb::Prompt { name, args } => service
            .prompt(caller, name, args)
            .ok_or_else(|| Refusal::unknown(INVALID_PARAMS, "Unknown prompt", name))?,
        Verb::Complete {
            reference,
            argument,
            value,
        } => {
            let values = service.complete(reference, argument, value);
            completion(values.ok_or_else(|| {
                let why = "Unknown reference: no such prompt or template";
                Refusal::new(INVALID_PARAMS, why)
            })?)
        }
        Verb::Own { method, params } => match service.own(caller, method, &params) {
            Some(step) => step,
            None if method == "bpm/hello" => result([]),
            None => {
                let what = "Method not found";
                return Err(Refusal::unknown(METHOD_NOT_FOUND, what, method));
            }
        },
    };
    Ok(Next::Step(step))
}

/// Appends an answer as a message.
pub fn put_answer(mcp: &Mcp, out: &mut Vec<u8>, to: &Envelope, answer: Answer) {
    match answer {
        Answer::Text(text) => mcp.put_text(out, to, &text, false),
        Answer::Data { json, text } => mcp.put_data(out, to, &json, &text),
        Answer::Fail(text) => mcp.put_text(out, to, &text, true),
        Answer::Result(value) => mcp.put_result(out, to, value),
        Answer::Error {
            code,
            message,
            data,
        } => rpc::put_error(out, &to.id, code, &message, data.as_ref()),
    }
}

fn result<const N: usize>(fields: [(&str, Value); N]) -> Step {
    Step::Done(Answer::Result(object(fields)))
}

fn completion(values: Vec<String>) -> Step {
    let total = values.len();
    let shown = &values[..total.min(MAX_COMPLETIONS)];
    let completion = object([
        ("values", shown.into()),
        ("total", total.into()),
        ("hasMore", (total > MAX_COMPLETIONS).into()),
    ]);
    result([("completion", completion)])
}
