//! `get_errors`: what looks like an error or a warning, a group for each shape, and the ends that nobody asked
//! for; of one process or of all.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::logs::{self, moment, not_yet};
use super::text::{LIMIT, LINE, Reader, clip, count, doing, escaped, fitting, thousands};
use super::{Call, build, why};
use crate::base::clock::{Mono, Wall};
use crate::base::json::{list, object, or_null};
use crate::base::table::sort;
use crate::engine::snapshot::{ExitView, State, UnitView};
use crate::log::search::{Errors, Group, Query, QueryError, Severity};
use crate::server::service::{Answer, Step};

/// Groups of an answer, unless `max` says otherwise.
const GROUPS: usize = 10;
/// The most that `max` may ask for.
pub(super) const MOST_GROUPS: i64 = 100;
/// Characters that what stands below the groups may take.
const NOTES: usize = 1_500;
/// Characters that what stands above a sample may take.
const HEAD: usize = 170;
/// A sample has so many characters at least, however many groups there are.
const SAMPLE: usize = 200;
/// Every line is looked at, so it may take longer than a search.
const BUDGET: Duration = Duration::from_secs(2);
const LEAST_BUDGET: Duration = Duration::from_millis(100);
/// Crashes of one process in an answer.
const CRASHES: usize = 5;
/// Characters of the last lines of a process's newest crash, and of those before it.
const CRASH_ROOM: usize = 1_200;
const EARLIER_ROOM: usize = 200;

/// The lines and ends that are searched.
#[derive(Debug, Clone, Copy)]
struct Scope {
    builds: bool,
    after: Option<u64>,
    since: Option<Wall>,
    index: Option<i64>,
}

/// The tool.
pub(super) fn get_errors(call: &Call<'_>) -> Result<Step, String> {
    let args = call.args;
    let since = args.text("since").map(|text| moment(text, Wall::now()));
    let scope = Scope {
        builds: args.flag("build").unwrap_or(false),
        after: args.count("after"),
        since: since.transpose()?,
        index: args.whole("index"),
    };
    let one = args.process().map(str::to_owned);
    if one.is_none() && scope.after.is_some() {
        return Err(
            "\"after\" is a cursor of one process's log: name the process, or use \"since\"".into(),
        );
    }
    let units = match &one {
        Some(_) => vec![call.unit()?],
        None => call.tools.handle.snapshot.now().units.clone(),
    };
    let max = args.size("max").unwrap_or(GROUPS);
    let reader = call.reader();
    Ok(Step::Work(Box::new(move || {
        match All::of(&units, scope, one.is_some(), max) {
            Ok(all) => all.answer(one.as_deref(), reader),
            Err(why) => Answer::Fail(why),
        }
    })))
}

/// The errors in the logs of all processes that were asked for.
#[derive(Default)]
struct All {
    groups: Vec<(Arc<UnitView>, Group)>,
    crashes: Vec<Crash>,
    /// Further faults and gaps, a sentence each.
    notes: Vec<String>,
    more_groups: usize,
    searched: u64,
    next: Option<u64>,
}

struct Crash {
    unit: Arc<UnitView>,
    exit: ExitView,
    room: usize,
}

impl All {
    fn of(units: &[Arc<UnitView>], scope: Scope, one: bool, max: usize) -> Result<Self, String> {
        let mut all = Self::default();
        let share = u32::try_from(units.len().max(1)).unwrap_or(u32::MAX);
        let budget = (BUDGET * 2 / share).clamp(LEAST_BUDGET, BUDGET);
        for unit in units {
            all.add(unit, scope, one, max, budget)?;
        }
        let order = |(_, group): &(Arc<UnitView>, Group)| {
            (group.level != Severity::Error, u64::MAX - group.count)
        };
        sort(&mut all.groups, |a, b| order(a).cmp(&order(b)));
        all.more_groups += all.groups.len().saturating_sub(max);
        all.groups.truncate(max);
        Ok(all)
    }

    fn add(
        &mut self,
        unit: &Arc<UnitView>,
        scope: Scope,
        one: bool,
        max: usize,
        budget: Duration,
    ) -> Result<(), String> {
        let name = &unit.name;
        let log = logs::log(unit, scope.builds);
        let mut query = Query {
            index: scope.index.unwrap_or(-1),
            after: scope.after,
            since: scope.since,
            budget,
            ..Query::default()
        };
        let ends = match scope.builds {
            true => Vec::new(),
            false => ends(unit, scope),
        };
        if scope.after.is_none() && scope.index.is_none() && !scope.builds {
            // The runs of the ends, and the newest: a time crosses runs where a cursor does.
            let oldest = ends.last().filter(|_| scope.since.is_none());
            query.since = query
                .since
                .or(oldest.map(|exit| exit.at.before(exit.uptime)));
            query.after = query.since.map(|_| 0);
        }
        let found = match log.find_errors(&query, max) {
            Err(QueryError::NoRun { known, .. }) if known == 0 || !one => {
                // Why it did not run is said below, where it is known.
                if one && (scope.builds || !is_down(unit) || unit.facts.reason.is_none()) {
                    self.notes.push(not_yet(unit, scope.builds));
                }
                Errors {
                    next: log.next_seq().saturating_sub(1),
                    ..Errors::default()
                }
            }
            found => found.map_err(|e| logs::refusal(name, scope.builds, &e))?,
        };
        self.note(unit, &found, ends.is_empty(), scope);
        let earlier = ends.len().saturating_sub(CRASHES);
        if earlier > 0 {
            self.notes
                .push(format!("[{name}: {earlier} earlier crashes left out]"));
        }
        let last = |exit: &ExitView| exit.tail.last().cloned();
        let newest = ends.first().and_then(&last);
        for (at, exit) in ends.into_iter().take(CRASHES).enumerate() {
            let room = match at {
                0 => CRASH_ROOM,
                // The same again needs no lines.
                _ if last(&exit) == newest => 0,
                _ => EARLIER_ROOM,
            };
            let unit = Arc::clone(unit);
            self.crashes.push(Crash { unit, exit, room });
        }
        self.searched += found.searched;
        self.next = one.then_some(found.next);
        self.more_groups += found.more_groups;
        let groups = found.groups.into_iter();
        self.groups
            .extend(groups.map(|group| (Arc::clone(unit), group)));
        Ok(())
    }

    /// Notes further faults and gaps of a process.
    fn note(&mut self, unit: &UnitView, found: &Errors, no_crash: bool, scope: Scope) {
        let name = &unit.name;
        if found.others > 0 {
            self.notes.push(format!(
                "[{name}: {} more such lines, too varied to be grouped]",
                thousands(found.others)
            ));
        }
        if found.stopped_early {
            self.notes.push(format!(
                "[{name}: it ended at its time limit after {}, newer ones were not looked at: narrow it with after or since]",
                count(found.searched, "line")
            ));
        }
        let gone = logs::gone(found.dropped).filter(|_| scope.after != Some(0));
        self.notes
            .extend(gone.map(|gone| format!("{name}: {gone}")));
        if scope.builds {
            return;
        }
        let failed = unit.build.as_ref().filter(|build| build.ok == Some(false));
        if let Some(build) = failed {
            let first = build.errors.list.first().map(build::headline);
            let first = first.map_or(String::new(), |first| format!(": {first}"));
            self.notes
                .push(format!("{name}: build {} failed{first}", build.id));
        } else if is_down(unit) && no_crash {
            let now = Mono::now();
            self.notes.push(match &unit.facts.reason {
                Some(why) => {
                    let next = why::outlook(unit, now);
                    format!("{name}: {}; what happens next: {next}", clip(why, LINE))
                }
                None => format!("{name}: {}", doing(unit, now)),
            });
        }
    }

    fn answer(mut self, one: Option<&str>, reader: Reader) -> Answer {
        let share = (LIMIT - NOTES) / (self.groups.len() + self.crashes.len()).max(1);
        let room = share.saturating_sub(HEAD).max(SAMPLE);
        let crashes = &self.crashes;
        let is_shown = |unit: &UnitView, line: &str| {
            let own = crashes.iter().filter(|c| c.unit.name == unit.name);
            own.filter(|c| c.room > 0)
                .any(|c| c.exit.tail.iter().any(|l| l == line))
        };
        for (unit, group) in &mut self.groups {
            // An error among the last lines of a crash is not shown a second time.
            let last = group.sample.lines().last().unwrap_or_default();
            group.sample = match is_shown(unit, last) {
                true => shortened(last, room),
                false => shortened(&group.sample, room),
            };
        }
        for crash in &mut self.crashes {
            crash.room = crash.room.min(share);
        }
        let now = Mono::now();
        let text = self.text(one, reader, now);
        let crashes = self.crashes.iter();
        let crashes =
            crashes.map(|crash| why::crash_value(&crash.unit, &crash.exit, crash.room, now));
        let mut value = object([
            ("groups", list(self.groups.iter().map(value))),
            ("crashes", list(crashes)),
            ("searched", self.searched.into()),
            ("next", or_null(self.next)),
        ]);
        if let Some(name) = one {
            value["process"] = name.into();
        }
        if self.more_groups > 0 {
            value["more_groups"] = self.more_groups.into();
        }
        if !self.notes.is_empty() {
            value["notes"] = list(self.notes.iter().map(String::as_str));
        }
        Answer::data(&value, text)
    }

    /// The crashes, the groups, what is to be said about them, and the cursor.
    fn text(&self, one: Option<&str>, reader: Reader, now: Mono) -> String {
        let crashes = self.crashes.iter();
        let crashes = crashes.map(|c| why::crash_words(&c.unit, &c.exit, c.room, now));
        let groups = self
            .groups
            .iter()
            .map(|(unit, group)| piece(&unit.name, group));
        let mut pieces: Vec<String> = crashes.map(|text| text.trim_end().into()).collect();
        pieces.extend(groups);
        let shown = fitting(pieces.iter().map(String::as_str), LIMIT - NOTES, false);
        let mut text = String::new();
        for piece in &pieces[..shown] {
            let _ = writeln!(text, "{piece}");
        }
        let mut notes = self.notes.clone();
        let left = pieces.len() - shown + self.more_groups;
        if left > 0 {
            notes.push(format!(
                "[{left} more groups left out: raise max (to {MOST_GROUPS} at most), or narrow it with since or after]"
            ));
        }
        if pieces.is_empty() && notes.is_empty() {
            notes.push(match one {
                Some(name) => format!(
                    "no line of {name} looks like an error or a warning, and it has not crashed"
                ),
                None => "no line looks like an error or a warning, and nothing crashed".into(),
            });
        }
        let mut room = NOTES - 200;
        for note in notes {
            let note = clip(&escaped(&note), 500).into_owned();
            room = room.saturating_sub(note.chars().count() + 1);
            if room == 0 {
                text.push_str("[more notes left out: ask for one process]\n");
                break;
            }
            let _ = writeln!(text, "{note}");
        }
        if reader == Reader::Person {
            return text.trim_end().into();
        }
        let groups = count(self.groups.len() as u64, "group");
        let _ = write!(text, "[{groups} in {}", count(self.searched, "line"));
        match self.next.filter(|_| one.is_some()) {
            Some(next) => {
                let _ = write!(text, " | next {next}]");
            }
            None => text.push(']'),
        }
        text
    }
}

fn is_down(unit: &UnitView) -> bool {
    matches!(unit.facts.state, State::Crashed | State::Failed)
}

/// The ends that are meant and that nobody asked for, the newest first.
fn ends(unit: &UnitView, scope: Scope) -> Vec<ExitView> {
    let newest_first = || unit.exits.iter().rev();
    let crashes = |wanted: &dyn Fn(&ExitView) -> bool| -> Vec<ExitView> {
        let ends = newest_first().filter(|exit| exit.crash && wanted(exit));
        ends.cloned().collect()
    };
    if let Some(after) = scope.after {
        let line = line_at(unit, after);
        return crashes(&|exit| line.is_some_and(|(run, at)| exit.run >= run && exit.at >= at));
    }
    if let Some(since) = scope.since {
        return crashes(&|exit| exit.at >= since);
    }
    if let Some(index) = scope.index {
        let query = Query {
            index,
            head: Some(0),
            ..Query::default()
        };
        let run = unit.log.find(&query).ok().and_then(|found| found.run);
        return crashes(&|exit| Some(exit.run) == run);
    }
    // Back to the last good run, be it that it crashed.
    let mut ends = Vec::new();
    for exit in newest_first().take_while(|exit| exit.crash) {
        ends.push(exit.clone());
        if why::was_good(exit) {
            break;
        }
    }
    ends
}

/// The run and the time of the line that a cursor stands behind.
fn line_at(unit: &UnitView, cursor: u64) -> Option<(u64, Wall)> {
    let query = Query {
        after: Some(cursor.saturating_sub(1)),
        head: Some(1),
        ..Query::default()
    };
    let found = unit.log.find(&query).ok()?;
    found.lines.first().map(|line| (line.run, line.at))
}

fn value((unit, group): &(Arc<UnitView>, Group)) -> Value {
    object([
        ("process", unit.name.as_str().into()),
        ("count", group.count.into()),
        ("first", group.first.rfc3339().into()),
        ("last", group.last.rfc3339().into()),
        ("level", group.level.as_str().into()),
        ("sample", group.sample.as_str().into()),
        ("seq", group.seq.into()),
    ])
}

/// The first lines of a sample, each behind three columns in the text.
fn shortened(sample: &str, room: usize) -> String {
    let lines: Vec<_> = sample.lines().map(|line| clip(line, room - 20)).collect();
    let costs: Vec<String> = lines
        .iter()
        .map(|line| format!("   {}", escaped(line)))
        .collect();
    let keep = fitting(costs.iter().map(String::as_str), room - 10, false).max(1);
    let mut text = lines[..keep.min(lines.len())].join("\n");
    if keep < lines.len() {
        text.push_str("\n...");
    }
    text
}

/// `web: 12x error, 2026-11-21T05:00:00.123Z to 2026-11-21T05:10:00.000Z, seq 11`, and the sample.
fn piece(name: &str, group: &Group) -> String {
    let (times, level) = (thousands(group.count), group.level.as_str());
    let mut text = format!("{name}: {times}x {level}, {}", group.first.rfc3339());
    if group.count > 1 {
        let _ = write!(text, " to {}", group.last.rfc3339());
    }
    let _ = write!(text, ", seq {}", group.seq);
    for line in group.sample.lines() {
        let _ = write!(text, "\n   {}", escaped(line));
    }
    text
}
