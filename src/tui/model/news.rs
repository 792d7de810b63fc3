//! Pure: no system call, no thread, no clock.
//!
//! The questions to the server, and its answers.

use std::collections::VecDeque;

use serde_json::Value;

use super::{Dialect, EVENTS, Link, Model, Overlay, QUESTION, Question, READINGS, Readings};
use crate::base::json::{items, strings};
use crate::tui::model::Effect;
use crate::tui::output::Line;
use crate::tui::status::{Fault, Status};

/// A question to the server, or an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Build and swap; None: all.
    Restart(Option<String>),
    /// Start.
    Start(String),
    /// Stop.
    Stop(String),
    /// How it last ended.
    Why(String),
    /// The compiler's errors of its last build.
    Faults(String),
    /// Read the file again, or say what that would do.
    Reload {
        /// Only say.
        dry: bool,
    },
    /// The status, now.
    Status,
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    pub process: String,
    /// Of its builds.
    pub builds: bool,
    /// -1: the newest run, and those that come.
    pub index: i64,
    /// Only lines that match.
    pub pattern: Option<String>,
    /// The most of the last lines that are fetched.
    pub lines: usize,
}

/// Lines at a first look: enough for a screen and what is just above it.
pub(super) const FEW: usize = 500;

/// Lines of a log as they come.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Of which request.
    pub generation: u64,
    /// They are all there is: what was shown is replaced.
    pub whole: bool,
    /// In their order.
    pub lines: Vec<Line>,
    /// So many before them were lost or skipped.
    pub lost: u64,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub ask: Ask,
    /// For a person; of a failure why.
    pub text: String,
    /// As data, if it has any.
    pub data: Value,
    /// It could not be done.
    pub failed: bool,
}

/// News of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// How the connection is now.
    Link(Link),
    /// The dialect that it speaks; its name, if it told one.
    Server(Dialect, Option<String>),
    /// How it is.
    Status(Status),
    /// Lines.
    Lines(Batch),
    /// There are no lines, and why.
    NoLines(u64, String),
    Answer(Answer),
}

impl Model {
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Link(link) => self.linked(link),
            Told::Server(dialect, name) => {
                self.server.dialect = dialect;
                if let Some(name) = name {
                    self.server.name = name;
                }
            }
            Told::Status(status) => self.status(status),
            Told::Lines(batch) => self.lines(batch),
            Told::NoLines(generation, why) if generation == self.log.generation => {
                self.log.came = true;
                self.log.trouble = Some(why);
            }
            Told::NoLines(..) => {}
            Told::Answer(answer) => self.answer(answer),
        }
    }

    fn linked(&mut self, link: Link) {
        if link == Link::Live && self.server.link != Link::Live {
            // Unsent questions are asked again; the outcome of orders that were under way is not known any more.
            let lost = std::mem::take(&mut self.dialog.orders);
            if !lost.is_empty() {
                self.say(
                    "the connection was lost: whether it was done is shown by the status",
                    true,
                );
            }
        }
        self.server.link = link;
    }

    fn status(&mut self, mut status: Status) {
        let now = self.clock.now;
        for event in status.events.drain(..) {
            let newest = self.server.events.back().map_or(0, |e| e.seq);
            if event.seq > newest || event.seq == 0 {
                self.server.events.push_back(event);
            }
        }
        while self.server.events.len() > EVENTS {
            self.server.events.pop_front();
        }
        // Not each status is a reading: some come sooner, because something changed.
        let since = now.since(self.server.read_at).as_millis();
        if since >= 900 {
            self.server.read_at = now;
            let missed = if since > 2_500 {
                (since / 1_000) as usize
            } else {
                0
            };
            for process in &status.processes {
                let Readings { cpu, rss } = self.server.readings.or_default(process.name.clone());
                let empty = cpu.is_empty() && rss.is_empty();
                let holes = if empty { 0 } else { missed.min(READINGS) };
                keep(cpu, process.cpu, holes);
                keep(rss, process.rss.map(|b| b as f64), holes);
            }
            let known = |name: &String| status.processes.iter().any(|p| p.name == *name);
            self.server.readings.retain(|name, _| known(name));
        }
        if let Some(name) = &status.project {
            self.server.name.clone_from(name);
        }
        let pid = status.process(&self.log.view.process).and_then(|p| p.pid);
        self.log.output.name_run(pid);
        self.server.status = Some(status);
        self.server.at = self.clock.wall;
        self.server.told = now;
        self.keep_selection();
    }

    fn lines(&mut self, batch: Batch) {
        let size = self.output_size();
        let log = &mut self.log;
        if batch.generation != log.generation {
            return;
        }
        log.came = true;
        log.trouble = None;
        let stood = log.output.standing_at(size).filter(|_| batch.whole);
        if batch.whole {
            log.output.reset();
            log.drag = None;
            log.more = batch.lines.len() >= log.view.lines.min(FEW);
        }
        log.output.gap(batch.lost);
        batch
            .lines
            .into_iter()
            .for_each(|line| log.output.push(line));
        if batch.whole && std::mem::take(&mut log.wants_oldest) {
            log.output.to_oldest(size);
            // It was typed before anything was read: there may be older lines than those.
            self.log.wants_oldest = self.read_more();
        } else if let Some(seq) = stood {
            log.output.stand_at(seq, size);
        }
    }

    fn answer(&mut self, answer: Answer) {
        let Answer {
            ask,
            text,
            data,
            failed,
        } = answer;
        self.dialog.orders.retain(|order| *order != ask);
        let first = text.lines().next().unwrap_or_default().to_owned();
        match ask {
            Ask::Why(process) if !failed => {
                let title = format!("Why: {process}");
                let lines = text.lines().map(String::from).collect();
                self.open(Overlay::Card { title, lines });
            }
            Ask::Faults(process) => {
                // Without the build log there is what the status says.
                let found = if failed {
                    Vec::new()
                } else {
                    compiler_messages(&text)
                };
                self.more_faults(&process, found);
            }
            Ask::Reload { dry: true } if !failed => self.ask_reload(&data, &first),
            Ask::Restart(Some(name)) | Ask::Start(name) | Ask::Stop(name) => {
                let named = first.contains(name.as_str());
                let words = if named {
                    first
                } else {
                    format!("{name}: {first}")
                };
                self.report(words, &text, failed);
                self.effect(Effect::Ask(Ask::Status));
            }
            Ask::Restart(None) | Ask::Reload { .. } | Ask::Why(_) => {
                self.report(first, &text, failed);
                self.effect(Effect::Ask(Ask::Status));
            }
            Ask::Status => {}
        }
    }

    /// A short word now, the whole text under `?`.
    fn report(&mut self, words: String, whole: &str, failed: bool) {
        self.say(words, failed);
        if let Some(kept) = self
            .dialog
            .messages
            .back_mut()
            .filter(|_| whole.lines().count() > 1)
        {
            kept.text = whole.trim_end().into();
        }
    }

    fn ask_reload(&mut self, data: &Value, first: &str) {
        let mut parts: Vec<String> = Vec::new();
        for (key, word) in [
            ("changed", "swaps"),
            ("added", "starts"),
            ("removed", "stops"),
        ] {
            let names: Vec<&str> = strings(&data[key])
                .chain(
                    items(&data[key]).filter_map(|p| p["process"].as_str().or(p["name"].as_str())),
                )
                .collect();
            if !names.is_empty() {
                parts.push(format!("{word} {}", names.join(", ")));
            }
        }
        if parts.is_empty() {
            let nothing = data.is_object() || first.is_empty();
            self.say(
                if nothing {
                    "reload: nothing would change"
                } else {
                    first
                },
                false,
            );
            return;
        }
        self.question(
            format!("reload: {}?", parts.join("; ")),
            Ask::Reload { dry: false },
        );
    }

    pub(super) fn question(&mut self, words: String, ask: Ask) {
        let until = self.clock.now.after(QUESTION);
        self.dialog.question = Some(Question { words, ask, until });
    }

    fn more_faults(&mut self, process: &str, found: Vec<Fault>) {
        let Some(Overlay::Errors {
            process: shown,
            list,
            whole,
            ..
        }) = &mut self.dialog.overlay
        else {
            return;
        };
        if shown != process {
            return;
        }
        *whole = true;
        for fault in found {
            let same = |known: &Fault| {
                let place = |f: &Fault| (f.file.clone(), f.line, f.column);
                // Its message may have the compiler's code before it, and more lines after it.
                place(known) == place(&fault) && known.message.contains(&fault.message)
            };
            if !list.iter().any(same) {
                list.push(fault);
            }
        }
        list.sort_by_key(|fault| fault.warning);
    }
}

fn keep(readings: &mut VecDeque<Option<f64>>, value: Option<f64>, holes: usize) {
    if readings.is_empty() && value.is_none() {
        return;
    }
    readings.extend(std::iter::repeat_n(None, holes));
    readings.push_back(value);
    while readings.len() > READINGS {
        readings.pop_front();
    }
}

/// Errors and warnings as rustc and those like it print them: `error[E0308]: text`, then
/// ` --> file:line:column`; or `file:line:column: error: text`.
pub(super) fn compiler_messages(log: &str) -> Vec<Fault> {
    let mut found: Vec<Fault> = Vec::new();
    let mut open = false;
    for line in log.lines().map(crate::tui::text::plain) {
        let line = line.trim_start_matches([' ', '*']);
        if let Some(place) = line.strip_prefix("--> ").filter(|_| open) {
            open = false;
            if let Some(fault) = found.last_mut() {
                at(place, fault);
            }
            continue;
        }
        let mut fault = Fault::default();
        let rest = match level(line) {
            Some(rest) => rest,
            None => match place_and_rest(line, &mut fault) {
                Some(rest) => rest,
                None => continue,
            },
        };
        fault.warning = rest.0;
        fault.message = rest.1.trim().into();
        let summary = fault.message.starts_with("could not compile")
            || fault.message.contains(" generated ") && fault.message.contains("warning")
            || fault.message.starts_with("aborting due to");
        if fault.message.is_empty() || summary {
            open = false;
            continue;
        }
        open = fault.file.is_none();
        found.push(fault);
    }
    found
}

/// `error[E0308]: text` -> (false, text).
fn level(line: &str) -> Option<(bool, &str)> {
    for (word, warning) in [("error", false), ("warning", true), ("fatal error", false)] {
        if let Some(rest) = line.strip_prefix(word) {
            let rest = match rest.strip_prefix('[') {
                Some(code) => code.split_once(']')?.1,
                None => rest,
            };
            return rest.strip_prefix(':').map(|text| (warning, text));
        }
    }
    None
}

/// `src/a.c:3:5: error: text`
fn place_and_rest<'a>(line: &'a str, fault: &mut Fault) -> Option<(bool, &'a str)> {
    let (place, rest) = line.split_once(": ")?;
    at(place, fault);
    fault.line?;
    level(rest)
}

/// `file:line:column`
fn at(place: &str, fault: &mut Fault) {
    let mut parts = place.trim().rsplitn(3, ':');
    let (last, middle, first) = (parts.next(), parts.next(), parts.next());
    let number = |text: Option<&str>| text.and_then(|t| t.parse().ok());
    match (first, number(middle), number(last)) {
        (Some(file), Some(line), column) if !file.contains(char::is_whitespace) => {
            fault.file = Some(file.into());
            (fault.line, fault.column) = (Some(line), column);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_messages_are_found_in_a_log() {
        let log = "   Compiling app\nwarning: unused variable: `x`\n  --> src/main.rs:2:9\n   |\nerror[E0308]: mismatched types\n \
                   --> src/main.rs:3:5\nsrc/a.c:7:1: error: expected ';'\nerror: could not compile `app` (bin \"app\") due to 1 previous error\n\
                   time: 10:20:30: ok\n";
        let found = compiler_messages(log);
        let places: Vec<_> = found
            .iter()
            .map(|f| {
                (
                    f.file.as_deref().unwrap_or_default(),
                    f.line,
                    f.column,
                    f.warning,
                )
            })
            .collect();
        assert_eq!(
            places,
            [
                ("src/main.rs", Some(2), Some(9), true),
                ("src/main.rs", Some(3), Some(5), false),
                ("src/a.c", Some(7), Some(1), false)
            ]
        );
        assert_eq!(found[1].message, "mismatched types");
    }
}
