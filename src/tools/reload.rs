//! `reload`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Call;
use super::text::{LINE, bounded, clip};
use super::ticket::{End, Ticket};
use crate::base::clock::{Mono, human};
use crate::base::error::listed;
use crate::base::json::{list, object};
use crate::engine::handle::{Reload, Reloaded, Reply, Request};
use crate::os::poll::Waker;
use crate::server::service::{Answer, Step, Task};

const PATIENCE: Duration = Duration::from_secs(50);

/// The tool.
pub(super) fn reload(call: &Call<'_>) -> Result<Step, String> {
    Ok(reloading(call, call.patience(PATIENCE)))
}

/// The same for a client that can wait longer.
pub(super) fn reloading(call: &Call<'_>, patience: Duration) -> Step {
    let asked = |flag| call.args.flag(flag).unwrap_or(false);
    let how = match (asked("dry_run"), asked("additions")) {
        (true, _) => Reload::DryRun,
        (false, true) => Reload::Additions,
        (false, false) => Reload::Whole,
    };
    Step::Wait(Box::new(Reloading {
        ticket: Ticket::new(call, Request::Reload(how), patience),
    }))
}

struct Reloading {
    ticket: Ticket,
}

impl Task for Reloading {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.ticket.start(waker);
    }

    fn poll(&mut self, now: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        Some(match self.ticket.poll(now)? {
            End::Reply(Reply::Reload(done)) => answer(&done),
            End::Reply(Reply::Refused(why)) => self.ticket.refusal(why),
            End::Reply(Reply::Mistakes(errors)) => self.mistaken(&errors),
            End::Reply(Reply::Units(_) | Reply::SameProgram) => {
                Answer::Fail("the reload was not answered".into())
            }
            End::Late => Answer::Fail(format!(
                "the reload is not done within {}, it goes on: get_status says what is being swapped",
                human(self.ticket.patience)
            )),
        })
    }

    fn deadline(&self) -> Option<Mono> {
        Some(self.ticket.due())
    }

    fn progress(&mut self, _: Mono) -> Option<String> {
        Some("reloading".into())
    }
}

impl Reloading {
    /// A mistake in the file changes nothing.
    fn mistaken(&self, errors: &[String]) -> Answer {
        let mut text: String = errors
            .iter()
            .map(|error| format!("{}\n", clip(error, LINE)))
            .collect();
        let names = listed(&self.ticket.handle.snapshot.now().names());
        let _ = write!(text, "nothing was changed: {names} go on as before");
        Answer::Fail(bounded(text, "run bpm check", ""))
    }
}

fn answer(done: &Reloaded) -> Answer {
    let lists = [
        ("changed", &done.changed),
        ("added", &done.added),
        ("removed", &done.removed),
        ("unchanged", &done.unchanged),
        ("adjusted", &done.adjusted),
    ];
    let mut text = String::new();
    for (what, names) in lists {
        if !names.is_empty() {
            let _ = writeln!(text, "{what}: {}", listed(names));
        }
    }
    for error in &done.errors {
        let _ = writeln!(text, "error: {}", clip(error, LINE));
    }
    if text.is_empty() {
        text.push_str("nothing to do");
    }
    let [changed, added, removed, unchanged, (adjusts, adjusted)] =
        lists.map(|(what, names)| (what, list(names.iter().map(String::as_str))));
    let errors = list(done.errors.iter().map(String::as_str));
    let mut value = object([changed, added, removed, unchanged, ("errors", errors)]);
    if !done.adjusted.is_empty() {
        value[adjusts] = adjusted;
    }
    let text = bounded(text.trim_end().into(), "run bpm check", "");
    Answer::data(&value, text)
}
