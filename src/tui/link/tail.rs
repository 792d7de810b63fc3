//! Decides when lines of the shown log are read, and which.
//!
//! Over bpm's socket they are pushed as they come (`bpm/follow`). A flood is not: then the newest lines are
//! fetched once a frame, and the others are counted. Over HTTP they are always fetched: when the server says
//! that there are more, and as long as there are. An earlier server is asked again and again; which of its
//! lines are new is seen by comparing.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::{Connection, Pending};
use crate::base::clock::{Mono, Wall};
use crate::base::json::{items, list, object};
use crate::tui::model::{Batch, Dialect, Told, View};
use crate::tui::output::Line;
use crate::tui::output::ignores_case;

/// Lines that are fetched at a time: more than any screen shows.
const FETCHED: u64 = 250;
/// The most characters of an answer of `search_logs`.
const CHARS: u64 = 50_000;
/// So many lines within [`WINDOW`] are a flood.
const FLOOD: usize = 150;
const WINDOW: Duration = Duration::from_millis(100);
/// After this number of fetches with few lines the flood is over.
const CALM: u8 = 5;
const FEW: usize = 15;
/// Once lines came, more are looked for as long, since a server tells of them once a second at most.
const LIVELY: Duration = Duration::from_millis(1_200);
/// How often an earlier server is asked.
const OLD_PACE: Duration = Duration::from_secs(1);
/// And for how many lines, which are compared with those before.
const OLD_LINES: usize = 500;

/// How lines come at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    /// Not at all.
    #[default]
    Off,
    /// The last lines are awaited.
    Loading(u64),
    /// They are pushed.
    Pushed(u64),
    /// They are fetched.
    Fetched,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tail {
    view: View,
    generation: u64,
    mode: Mode,
    /// The number of the last line.
    cursor: u64,
    /// The run of the last line, where lines are fetched.
    run: u64,
    /// Nothing of the log has been given yet.
    fresh: bool,
    /// Lines of the first look, as they come.
    loaded: Vec<Line>,
    /// Pushed lines are of an earlier request until this is answered.
    fence: Option<u64>,
    window: (Mono, usize),
    calm: u8,
    /// A fetch is under way.
    fetching: Option<u64>,
    next: Option<Mono>,
    lively: Mono,
    /// Lines of a new run, until the end of the one before has been fetched.
    held: Option<(Vec<Line>, u64, u64)>,
    /// The last lines of an earlier server.
    known: VecDeque<Box<str>>,
}

impl Tail {
    /// Reads another log, or the same from its last lines.
    pub(super) fn show(&mut self, view: View, generation: u64) {
        let (window, mode) = (self.window, self.mode);
        *self = Self {
            view,
            generation,
            // Requests under way are cancelled once the connection is at hand.
            mode,
            fresh: true,
            window,
            ..Self::default()
        };
    }

    /// The process whose log is shown.
    pub(super) fn process(&self) -> &str {
        &self.view.process
    }

    fn follows(&self) -> bool {
        self.view.index == -1
    }

    /// On a new connection nothing is under way; what was read is gone on behind.
    pub(super) fn reconnected(&mut self) {
        (self.mode, self.fetching, self.fence, self.held) = (Mode::Off, None, None, None);
    }

    /// Begins, or goes on behind the last line.
    pub(super) fn begin(&mut self, c: &mut Connection, now: Mono) {
        if let Mode::Loading(id) | Mode::Pushed(id) = self.mode {
            c.cancel(id);
        }
        if let Some(id) = self.fetching.take() {
            c.cancel(id);
        }
        self.mode = Mode::Off;
        self.loaded.clear();
        if self.view.process.is_empty() {
            return;
        }
        if c.dialect == Dialect::FourTools || !c.socket {
            self.mode = Mode::Fetched;
            self.next = Some(now);
            return;
        }
        if !self.fresh {
            return self.push(c);
        }
        let mut params = self.params();
        params["lines"] = (self.view.lines as u64).into();
        params["run"] = self.view.index.into();
        params["follow"] = false.into();
        self.fence = Some(c.send("ping", object([]), Pending::Fence));
        let id = c.send("bpm/follow", params, Pending::Load);
        self.mode = Mode::Loading(id);
    }

    fn params(&self) -> Value {
        let mut params = object([
            ("processes", list([self.view.process.as_str()])),
            ("build", self.view.builds.into()),
            ("color", "all".into()),
        ]);
        self.pattern(&mut params);
        params
    }

    fn pattern(&self, params: &mut Value) {
        if let Some(pattern) = &self.view.pattern {
            params["pattern"] = pattern.as_str().into();
            params["ignore_case"] = ignores_case(pattern).into();
        }
    }

    /// From now on lines are pushed.
    fn push(&mut self, c: &mut Connection) {
        if !self.follows() {
            self.mode = Mode::Off;
            return;
        }
        let mut params = self.params();
        let after = (self.view.process.clone(), self.cursor.into());
        params["after"] = crate::base::json::entries(&mut std::iter::once(after));
        self.fence = Some(c.send("ping", object([]), Pending::Fence));
        let id = c.send("bpm/follow", params, Pending::Follow);
        self.mode = Mode::Pushed(id);
    }

    /// When something is to be done even if nothing comes.
    pub(super) fn due(&self) -> Option<Mono> {
        self.next
            .filter(|_| self.mode == Mode::Fetched && self.fetching.is_none())
    }

    /// Time has passed.
    pub(super) fn turn(&mut self, c: &mut Connection, now: Mono) {
        if self.due().is_some_and(|at| at <= now) {
            self.fetch(c, now, self.view.index);
        }
    }

    /// The server says that there are more lines.
    pub(super) fn updated(&mut self, now: Mono) {
        self.lively = now.after(LIVELY);
        if self.mode == Mode::Fetched {
            self.next = Some(now);
        }
    }

    fn fetch(&mut self, c: &mut Connection, now: Mono, index: i64) {
        let tool = if self.view.builds {
            "search_build_log"
        } else {
            "search_logs"
        };
        let mut args = object([("process", self.view.process.as_str().into())]);
        self.pattern(&mut args);
        if index != -1 {
            args["index"] = index.into();
        }
        if c.dialect == Dialect::FourTools {
            if let Some(map) = args.as_object_mut() {
                map.remove("ignore_case");
            }
            args["tail"] = OLD_LINES.into();
        } else {
            args["format"] = "json".into();
            args["max_chars"] = CHARS.into();
            if self.fresh {
                args["tail"] = (self.view.lines as u64).into();
            } else {
                args["tail"] = FETCHED.into();
                args["after"] = self.cursor.into();
            }
        }
        self.fetching = Some(c.tool(tool, args, Pending::Fetch { index }));
        self.next = Some(now.after(c.pace));
    }

    /// The answer to `ping`: what comes from now on was asked for.
    pub(super) fn fenced(&mut self, id: u64) {
        if self.fence == Some(id) {
            self.fence = None;
        }
    }

    /// `bpm/lines`
    pub(super) fn pushed(
        &mut self,
        c: &mut Connection,
        params: &Value,
        now: Mono,
        told: &mut Vec<Told>,
    ) {
        let ours = params["process"] == self.view.process.as_str()
            && params["build"].as_bool().unwrap_or(false) == self.view.builds;
        if !ours || self.fence.is_some() {
            return;
        }
        let mut lines: Vec<Line> = items(&params["lines"]).map(|l| line(l, None)).collect();
        let lost = params["dropped"].as_u64().unwrap_or_default();
        if let Mode::Loading(_) = self.mode {
            self.loaded.append(&mut lines);
            return;
        }
        // Those that were on their way when it was cancelled follow as well.
        let next = params["next"].as_u64().unwrap_or_default();
        self.cursor = self.cursor.max(next);
        let n = lines.len();
        self.give(lines, lost, told);
        let Mode::Pushed(id) = self.mode else {
            return;
        };
        if now.since(self.window.0) > WINDOW {
            self.window = (now, 0);
        }
        self.window.1 += n;
        if self.window.1 > FLOOD {
            c.cancel(id);
            self.mode = Mode::Fetched;
            self.next = Some(now.after(c.pace));
            self.calm = 0;
            self.run = 0;
        }
    }

    fn give(&mut self, lines: Vec<Line>, lost: u64, told: &mut Vec<Told>) {
        let whole = std::mem::take(&mut self.fresh);
        if whole || !lines.is_empty() || lost > 0 {
            told.push(Told::Lines(Batch {
                generation: self.generation,
                whole,
                lines,
                lost,
            }));
        }
    }

    /// The last lines have all come.
    pub(super) fn loaded(&mut self, c: &mut Connection, result: &Value, told: &mut Vec<Told>) {
        let next = result["next"][self.view.process.as_str()].as_u64();
        let next = next.unwrap_or_default();
        let mut lines = std::mem::take(&mut self.loaded);
        // An unfinished line comes again when it is finished.
        lines.retain(|line| line.seq <= next || !self.follows());
        self.cursor = next;
        self.give(lines, 0, told);
        self.push(c);
    }

    /// It could not be followed, or its end has come.
    pub(super) fn ended(&mut self, why: Option<String>, told: &mut Vec<Told>) {
        self.mode = Mode::Off;
        if let Some(why) = why.filter(|_| self.fresh) {
            told.push(Told::NoLines(self.generation, words(why)));
        }
    }

    /// A fetch was answered.
    pub(super) fn fetched(
        &mut self,
        c: &mut Connection,
        index: i64,
        text: &str,
        failed: bool,
        now: Mono,
        told: &mut Vec<Told>,
    ) {
        self.fetching = None;
        if c.dialect == Dialect::FourTools {
            return self.compared(text, failed, now, told);
        }
        if failed {
            // A run that is gone stays gone; anything else may be better the next time.
            self.next = self.follows().then(|| now.after(OLD_PACE));
            return self.failed(text, told);
        }
        let data: Value = serde_json::from_str(text).unwrap_or_default();
        let run = data["run"].as_u64().unwrap_or_default();
        let whole = |l: &&Value| l["seq"].is_u64();
        let lines: Vec<Line> = items(&data["lines"])
            .filter(whole)
            .map(|l| line(l, Some(run)))
            .collect();
        let count = |key: &str| data[key].as_u64().unwrap_or_default();
        let lost = (count("matches") + count("dropped"))
            .saturating_sub(items(&data["lines"]).count() as u64);
        let lost = if self.fresh { 0 } else { lost };
        let next = count("next");
        if let Some((newer, lost_of_newer, next)) = self.held.take() {
            // The end of the run before, then the beginning of this one.
            if index != -1 && run == self.run {
                self.give(lines, lost, told);
            }
            self.run = newer.last().map_or(0, |l| l.run);
            self.cursor = next.max(self.cursor);
            self.give(newer, lost_of_newer, told);
            self.next = Some(now.after(c.pace));
            return;
        }
        if self.follows() && self.run != 0 && run > self.run {
            self.held = Some((lines, lost, next));
            return self.fetch(c, now, -2);
        }
        if run != 0 {
            self.run = run;
        }
        self.cursor = self.cursor.max(next);
        let n = lines.len();
        self.give(lines, lost, told);
        if !self.follows() {
            self.mode = Mode::Off;
        } else if c.socket {
            self.calm = if n < FEW { self.calm + 1 } else { 0 };
            if self.calm >= CALM {
                self.push(c);
            }
        } else {
            if n > 0 {
                self.lively = now.after(LIVELY);
            }
            // Where nothing tells of lines, they are looked for now and then.
            let pace = if now < self.lively {
                c.pace
            } else {
                OLD_PACE * 2
            };
            self.next = Some(now.after(pace));
        }
    }

    fn failed(&mut self, text: &str, told: &mut Vec<Told>) {
        if self.fresh {
            told.push(Told::NoLines(self.generation, words(text.to_owned())));
        }
    }

    /// The last lines of an earlier server: what follows those of the last time is new.
    fn compared(&mut self, text: &str, failed: bool, now: Mono, told: &mut Vec<Told>) {
        self.next = self.follows().then(|| now.after(OLD_PACE));
        let none = text.is_empty() || text == "(empty)" || text == "No matches found";
        let refused = text.starts_with("Log instance ") || text.starts_with("Invalid regex");
        if refused && self.follows() && !self.view.builds {
            // It has not run yet.
            return self.give(Vec::new(), 0, told);
        }
        if failed || refused {
            return self.failed(text, told);
        }
        let marked = self.view.pattern.is_some();
        let bare =
            |l: &str| -> Box<str> { if marked { l.get(3..).unwrap_or(l) } else { l }.into() };
        let lines: Vec<Box<str>> = if none {
            Vec::new()
        } else {
            text.split('\n').map(bare).collect()
        };
        let old = overlap(&self.known, &lines);
        let changed = old == 0 && !self.known.is_empty();
        let lost = u64::from(changed && lines.len() >= OLD_LINES);
        if changed && lost == 0 {
            // Nothing of what was there is left: another run has begun.
            self.run += 1;
        }
        let new: Vec<Line> = lines[old..]
            .iter()
            .map(|text| Line {
                seq: 0,
                run: self.run + 1,
                at: 0,
                stderr: false,
                text: text.clone(),
            })
            .collect();
        self.known = lines.into();
        self.give(new, lost, told);
    }
}

/// How many of the first lines are the last ones of before.
fn overlap(before: &VecDeque<Box<str>>, lines: &[Box<str>]) -> usize {
    let most = before.len().min(lines.len());
    let fits = |n: &usize| before.iter().skip(before.len() - n).eq(&lines[..*n]);
    (1..=most).rev().find(fits).unwrap_or(0)
}

fn line(value: &Value, run: Option<u64>) -> Line {
    let at = value["time"].as_str().and_then(Wall::parse_rfc3339);
    Line {
        seq: value["seq"].as_u64().unwrap_or_default(),
        run: run.or(value["run"].as_u64()).unwrap_or_default(),
        at: at.map_or(0, |at| at.0),
        stderr: value["stream"] == "stderr",
        text: value["text"].as_str().unwrap_or_default().into(),
    }
}

/// Why there are no lines, for a person who sees only that.
fn words(why: String) -> String {
    match why.contains(" has no run of index ")
        || why.contains(" has no build of index ")
        || why.starts_with("Log instance ")
    {
        true => "this run is not kept any more".into(),
        false => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_lines_are_those_behind_the_known_ones() {
        let boxed = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| Box::from(*t))
                .collect::<Vec<Box<str>>>()
        };
        let old = |before: &[&str], lines: &[&str]| overlap(&boxed(before).into(), &boxed(lines));
        assert_eq!(old(&["a", "b", "c"], &["b", "c", "d"]), 2);
        assert_eq!(old(&["a", "b"], &["a", "b"]), 2);
        assert_eq!(old(&["a", "a"], &["a", "a", "a"]), 2);
        assert_eq!(old(&["a"], &["x"]), 0);
        assert_eq!(old(&[], &["x"]), 0);
    }
}
