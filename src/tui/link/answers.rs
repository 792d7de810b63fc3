//! The server's messages: answers to requests, and notifications.

use serde_json::Value;

use super::{Connection, FIGURES, LIVELY, LIVELY_FOR, Link, MODERN, Pending};
use crate::base::clock::Mono;
use crate::base::json::{items, list, object};
use crate::client::connection::{self, CallError};
use crate::tui::model::{Answer, Ask, Dialect, Told};
use crate::tui::status::Status;

impl Link {
    pub(super) fn message(&mut self, c: &mut Connection, message: &Value, now: Mono) {
        match message["method"].as_str() {
            Some("bpm/lines") => {
                return self.tail.pushed(c, &message["params"], now, &mut self.told);
            }
            Some("notifications/resources/updated") => {
                match message["params"]["uri"].as_str() {
                    Some("bpm://status") => {
                        self.poll.lively = now.after(LIVELY_FOR);
                        self.poll.next = now;
                    }
                    Some(_) => self.tail.updated(now),
                    None => {}
                }
                return;
            }
            Some(_) => return,
            None => {}
        }
        let Some(id) = message["id"].as_u64() else {
            return;
        };
        let Some(at) = c.pending.iter().position(|(known, _)| *known == id) else {
            return;
        };
        let (_, what) = c.pending.remove(at);
        let Some(result) = connection::result_of(message, id) else {
            return;
        };
        self.result(c, id, what, result, now);
    }

    fn result(
        &mut self,
        c: &mut Connection,
        id: u64,
        what: Pending,
        result: std::result::Result<Value, CallError>,
        now: Mono,
    ) {
        let refusal = |e: CallError| match e {
            CallError::Refused { message, .. } => message,
            CallError::Lost(why) | CallError::Unable(why) => why,
            CallError::TimedOut => "no answer".into(),
        };
        match what {
            Pending::Hello | Pending::Tools | Pending::Listen => {}
            Pending::Status => {
                self.poll.asked = None;
                let pace = if now < self.poll.lively {
                    LIVELY
                } else {
                    FIGURES
                };
                self.poll.next = now.after(pace);
                if let Ok(result) = result {
                    self.status(c, result);
                }
            }
            Pending::Fence => self.tail.fenced(id),
            Pending::Load => match result {
                Ok(result) => self.tail.loaded(c, &result, &mut self.told),
                Err(e) => self.tail.ended(Some(refusal(e)), &mut self.told),
            },
            // The daemon is about to leave: the connection will say so.
            Pending::Follow => self.tail.ended(result.err().map(refusal), &mut self.told),
            Pending::Fetch { index } => {
                let (text, failed) = match result {
                    Ok(result) => {
                        let told = connection::told(&result);
                        (told.text, told.failed)
                    }
                    Err(e) => (refusal(e), true),
                };
                self.tail
                    .fetched(c, index, &text, failed, now, &mut self.told);
            }
            Pending::Ask(ask) => {
                let (text, data, failed) = match result {
                    Ok(result) if result["content"].is_array() => {
                        let told = connection::told(&result);
                        (told.text, told.data, told.failed)
                    }
                    Ok(result) if result["messages"].is_array() => {
                        let text = items(&result["messages"])
                            .filter_map(|m| m["content"]["text"].as_str());
                        (text.collect::<Vec<_>>().join("\n"), Value::Null, false)
                    }
                    Ok(result) => {
                        let text = result["text"].as_str().unwrap_or_default().to_owned();
                        let text = match (&ask, text.is_empty()) {
                            (Ask::Reload { .. }, true) => reloaded(&result),
                            _ => text,
                        };
                        let failed = items(&result["errors"]).next().is_some();
                        (text, result, failed)
                    }
                    Err(e) => (refusal(e), Value::Null, true),
                };
                self.told.push(Told::Answer(Answer {
                    ask,
                    text,
                    data,
                    failed,
                }));
            }
        }
    }

    fn status(&mut self, c: &Connection, result: Value) {
        let status = match (c.socket, c.dialect) {
            (true, _) => Status::of(&result),
            (false, Dialect::Bpm) => Status::of(&connection::told(&result).data),
            (false, Dialect::FourTools) => Status::of_text(&connection::told(&result).text),
        };
        self.poll.events = self.poll.events.max(status.next);
        self.told.push(Told::Status(status));
    }
}

/// Describes a reload, from its data.
fn reloaded(data: &Value) -> String {
    if let Some(error) = items(&data["errors"]).next() {
        return error
            .as_str()
            .map_or_else(|| error.to_string(), String::from);
    }
    let count = |key: &str| items(&data[key]).count();
    format!(
        "reloaded: {} changed, {} added, {} removed",
        count("changed"),
        count("added"),
        count("removed")
    )
}

/// Subscribes to changes; an earlier subscription ends.
pub(super) fn listen(c: &mut Connection, listening: &mut Option<u64>, process: &str) {
    if c.dialect == Dialect::FourTools {
        return;
    }
    let mut uris = vec!["bpm://status".to_owned()];
    // On the socket lines are pushed.
    if !c.socket && !process.is_empty() {
        uris.push(format!("bpm://logs/{process}"));
        uris.push(format!("bpm://build-log/{process}"));
    }
    if let Some(id) = listening.take() {
        c.cancel(id);
    }
    let meta = object([
        (crate::tui::wire::PROTOCOL, MODERN.into()),
        ("io.modelcontextprotocol/clientCapabilities", object([])),
    ]);
    let params = object([
        (
            "notifications",
            object([("resourceSubscriptions", list(uris))]),
        ),
        ("_meta", meta),
    ]);
    *listening = Some(c.send("subscriptions/listen", params, Pending::Listen));
}
