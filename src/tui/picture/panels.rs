//! Pure: no system call, no thread, no clock.
//!
//! Server Status, Process Details, Processes.

use std::collections::VecDeque;

use super::{Span, mark, put_spans, wrap};
use crate::base::json::thousands;
use crate::cli::render::size;
use crate::tui::cell::{Area, BOLD, Grid, Style, cut_middle, width_of};
use crate::tui::model::{Dialect, Link, Model, READINGS, Readings};
use crate::tui::status::{Kind, Process, ago, span};

fn plain(text: impl Into<String>) -> Span {
    (text.into(), Style::PLAIN)
}

/// How the connection is, in words.
fn link_words(model: &Model) -> (char, Style, String) {
    let now = model.clock.now;
    let name = &model.server.name;
    match &model.server.link {
        Link::Starting => ('◌', Style::YELLOW, format!("starting the daemon of {name}")),
        Link::First => ('◌', Style::YELLOW, format!("connecting   {name}")),
        Link::Trying(n) => ('◌', Style::YELLOW, format!("connecting {n}/5   {name}")),
        Link::Live => ('●', Style::GREEN, format!("live   {name}")),
        Link::Gone { since, again } => {
            let words = format!(
                "gone {} s, again in {} s",
                now.since(*since).as_secs(),
                again.since(now).as_millis().div_ceil(1_000)
            );
            ('✗', Style::RED, words)
        }
        Link::Stopped { at, by } => {
            let at = model.clock.local(*at);
            let words = match by {
                Some(by) => format!("stopped by {by} at {at}; S starts it, q leaves"),
                None => format!("stopped {at}; S starts it, q leaves"),
            };
            ('■', Style::YELLOW, words)
        }
        Link::TooOld(why) => ('✗', Style::RED, why.clone()),
    }
}

fn counts(model: &Model) -> Vec<Span> {
    let all = model.processes();
    let mut spans = vec![plain(format!("{}:", all.len()))];
    for kind in [Kind::Running, Kind::Busy, Kind::Stopped, Kind::Failed] {
        // One that is not well runs as well: what is wrong stands beside its name.
        let same = |p: &&Process| match p.kind() {
            Kind::Uneasy => kind == Kind::Running,
            other => other == kind,
        };
        let n = all.iter().filter(same).count();
        if n > 0 {
            let (sign, style) = mark(kind);
            spans.push(plain(format!(" {n}")));
            spans.push((sign.into(), style));
        }
    }
    spans
}

/// Server Status.
pub(super) fn server(grid: &mut Grid, area: Area, model: &Model) {
    let columns = usize::from(area.w);
    let (sign, style, words) = link_words(model);
    let mut lines: Vec<Vec<Span>> = Vec::new();
    // The advice begins a row.
    let parts = words
        .split_inclusive("; ")
        .flat_map(|part| wrap(part, columns.saturating_sub(2)));
    for (i, row) in parts.enumerate() {
        let sign = if i == 0 { sign } else { ' ' };
        lines.push(vec![(format!("{sign} "), style), plain(row)]);
    }
    let server = &model.server;
    match &server.status {
        None => lines.push(vec![("no status yet".into(), Style::FAINT)]),
        Some(status) => {
            let mut mode = status.mode.clone().unwrap_or_else(|| "-".into());
            if let Some(left) = &status.release {
                mode.push_str(&format!(", release in {left}"));
            }
            lines.push(vec![plain(mode)]);
            if status.processes.is_empty() {
                lines.push(vec![plain("no processes in .mcp-run")]);
            } else {
                lines.push(counts(model));
            }
            lines.extend(daemon(model, columns));
        }
    }
    // The last message is seen whatever falls away.
    let mut said: Vec<Vec<Span>> = Vec::new();
    if let Some(message) = &model.dialog.message {
        let style = if message.bad {
            Style::RED
        } else {
            Style::YELLOW
        };
        // Where there is room below the rest, it is shown whole. Else it takes rows of the daemon's figures: a
        // fault, which stays until a key, one more.
        let most = if message.bad { 3 } else { 2 };
        let rows = usize::from(area.h).saturating_sub(3).clamp(1, most);
        let free = usize::from(area.h).saturating_sub(lines.len());
        let first = message.text.lines().next().unwrap_or_default();
        let mut all = wrap(first, columns);
        if all.len() > rows.max(free) {
            all.truncate(rows.max(free));
            if let Some(last) = all.last_mut() {
                if width_of(last) >= columns {
                    last.pop();
                }
                last.push('…');
            }
        }
        said.extend(all.into_iter().map(|row| vec![(row, style)]));
    }
    lines.truncate(usize::from(area.h).saturating_sub(said.len()));
    for (y, line) in (area.y..area.y + area.h).zip(lines.iter().chain(&said)) {
        put_spans(grid, area.x, y, area.w, line);
    }
}

fn daemon(model: &Model, columns: usize) -> Vec<Vec<Span>> {
    let server = &model.server;
    let Some(status) = &server.status else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    let refreshed = model.clock.local(server.at);
    if server.dialect == Dialect::FourTools {
        let words = wrap("looking keeps this server in dev mode", columns);
        lines.extend(words.into_iter().map(|row| vec![plain(row)]));
        lines.push(vec![plain(refreshed)]);
        return lines;
    }
    let daemon = &status.daemon;
    let mut words = format!("bpm {}", daemon.version.as_deref().unwrap_or("-"));
    words.push_str(&format!(" {}", daemon.rss.map_or("-".into(), size)));
    words.push_str(&format!(
        " up {}",
        daemon
            .uptime
            .map_or("-".into(), |up| span(up + model.age()))
    ));
    lines.push(vec![plain(words)]);
    let url = daemon
        .url
        .as_deref()
        .map_or("socket only", |url| url.trim_end_matches("/mcp"));
    lines.push(vec![plain(cut_middle(url, columns))]);
    if status.config_changed {
        lines.push(vec![(".mcp-run changed: u reloads".into(), Style::YELLOW)]);
    }
    let number = |n: Option<i64>| n.map_or("-".into(), |n| n.to_string());
    let clients = daemon.clients.map(|n| n as i64);
    lines.push(vec![plain(format!(
        "clients {}  pid {}",
        number(clients),
        number(daemon.pid)
    ))]);
    lines.push(vec![plain(format!("as of {refreshed}"))]);
    if let Some(end) = &daemon.previous_end {
        lines.push(vec![(format!("the one before: {end}"), Style::YELLOW)]);
    }
    lines
}

/// The same in one line.
pub(super) fn server_line(grid: &mut Grid, area: Area, model: &Model) {
    let (sign, style, words) = link_words(model);
    let mut spans = vec![(format!("{sign} "), style), plain(words)];
    match &model.dialog.message {
        Some(message) => {
            let style = if message.bad {
                Style::RED
            } else {
                Style::YELLOW
            };
            let first = message.text.lines().next().unwrap_or_default();
            // The message is news; the name of the project is not.
            spans.truncate(1);
            spans.push((first.into(), style));
        }
        None if model.server.status.is_some() && model.server.link == Link::Live => {
            spans.push(plain("  "));
            spans.extend(counts(model));
        }
        None => {}
    }
    put_spans(grid, area.x, area.y, area.w, &spans);
}

/// `Processes 1/4`
pub(super) fn list_title(model: &Model) -> String {
    let listed = model.listed();
    let selected = model.list.selected.as_ref();
    let at = selected.and_then(|name| listed.iter().position(|p| p.name == *name));
    let mut title = format!("Processes {}/{}", at.map_or(0, |at| at + 1), listed.len());
    if !model.list.filter.is_empty() {
        title.push_str(&format!(" p {}", model.list.filter));
    }
    title
}

/// Processes.
pub(super) fn list(grid: &mut Grid, area: Area, model: &Model) {
    let listed = model.listed();
    if listed.is_empty() {
        let words = match &model.server.status {
            None => String::new(),
            Some(_) if model.list.filter.is_empty() => "none".into(),
            Some(_) => format!("no name has {:?}", model.list.filter),
        };
        grid.put(
            area.x + 1,
            area.y,
            area.w.saturating_sub(1),
            &words,
            Style::FAINT,
        );
        return;
    }
    // Mark, name, figures: what is behind the names takes 14 cells.
    const FIGURES: usize = 14;
    let columns = usize::from(area.w);
    let names = columns.saturating_sub(3 + FIGURES).max(columns / 3);
    let top = model.list_top(usize::from(area.h));
    for (y, process) in (area.y..area.y + area.h).zip(listed.iter().skip(top)) {
        let selected = model.list.selected.as_ref() == Some(&process.name);
        row(grid, Area { y, h: 1, ..area }, process, names, model.age());
        if selected {
            grid.set(area.x, y, '›', Style::STRONG);
            let rest = Area {
                x: area.x + 2,
                y,
                w: area.w.saturating_sub(2),
                h: 1,
            };
            grid.restyle(rest, |_| Style::SELECTED);
        }
    }
}

/// One process, whose name takes at most `most` cells.
fn row(grid: &mut Grid, area: Area, process: &Process, most: usize, age: f64) {
    let (sign, style) = mark(process.kind());
    let y = area.y;
    grid.set(area.x + 1, y, sign, style);
    let mut flags = String::new();
    if process.stale {
        flags.push('*');
    }
    if process.rolled_back {
        flags.push('‹');
    }
    let name = cut_middle(&process.name, most.saturating_sub(flags.chars().count()));
    let x = put_spans(
        grid,
        area.x + 3,
        y,
        area.w.saturating_sub(3),
        &[plain(name), (flags, Style::YELLOW)],
    );
    let end = area.x + area.w;
    if process.kind() == Kind::Running {
        let figures = format!(
            "{:>6} {:>6}",
            cpu(process),
            process.rss.map_or("-".into(), size)
        );
        let width = width_of(&figures) as u16;
        // One cell stays free before the frame.
        let at = end.saturating_sub(width + 1).max(x);
        grid.put(at, y, end.saturating_sub(at), &figures, Style::PLAIN);
        return;
    }
    let (word, why) = (&process.state, process.why(age));
    let both = match &*why {
        "" => word.clone(),
        why if why.contains(word.as_str()) => why.into(),
        why => format!("{word}, {why}"),
    };
    let room = |x: u16| usize::from(end.saturating_sub(x));
    // Words begin in one column where names are short.
    let (behind, column) = (x + 1, x.max(area.x + 11) + 1);
    let mut at = column;
    let words = match process.kind() {
        // It runs: what is wrong with it is more than a word.
        Kind::Uneasy => {
            let what = process.words();
            what.strip_prefix("running, ").unwrap_or(&what).to_owned()
        }
        _ if width_of(&both) <= room(column) => both,
        // Why says more than that it failed.
        Kind::Failed if !why.is_empty() => {
            let mut why = why;
            if width_of(&why) > room(behind) {
                why = why.replacen("build failed", "build ✗", 1);
            }
            if width_of(&why) > room(column) {
                at = behind;
            }
            match process.when(age).filter(|_| width_of(&why) > room(at)) {
                // When it is started again is seen in any case.
                Some(when) => {
                    let why = why.strip_suffix(&when).unwrap_or(&why);
                    let left = room(at).saturating_sub(width_of(&when) + 2);
                    format!("{}, {when}", cut_middle(why.trim_end_matches(", "), left))
                }
                None => why,
            }
        }
        _ => both,
    };
    grid.put(at, y, end.saturating_sub(at), &words, style);
}

fn cpu(process: &Process) -> String {
    match process.cpu {
        Some(percent) if percent >= 1_000.0 => format!("{}%", percent as u64),
        Some(percent) => format!("{percent:.1}%"),
        None => "-".into(),
    }
}

/// Rows of pieces: a group begins a row, and goes on in the next where it does not fit.
fn flow(groups: Vec<Vec<Span>>, columns: usize) -> Vec<Vec<Span>> {
    let mut rows: Vec<Vec<Span>> = Vec::new();
    for group in groups {
        let mut used = 0;
        for (text, style) in group {
            let width = width_of(&text);
            if used == 0 || used + 2 + width > columns {
                rows.push(Vec::new());
                used = 0;
            }
            if let Some(row) = rows.last_mut() {
                if used > 0 {
                    row.push(plain("  "));
                    used += 2;
                }
                used += width;
                row.push((text, style));
            }
        }
    }
    rows
}

/// Process Details.
pub(super) fn details(grid: &mut Grid, area: Area, model: &Model) {
    let rows = detail_rows(model, usize::from(area.w));
    for (y, row) in (area.y..area.y + area.h).zip(&rows) {
        put_spans(grid, area.x, y, area.w, row);
    }
}

/// The details in one line.
pub(super) fn details_line(grid: &mut Grid, area: Area, model: &Model) {
    let Some(process) = model.selected() else {
        grid.put(area.x, area.y, area.w, "no process selected", Style::FAINT);
        return;
    };
    let name = cut_middle(&process.name, usize::from(area.w) / 3);
    let mut spans = vec![(format!("{name}: "), Style::STRONG)];
    let wrong = wrong(process, model);
    match wrong.into_iter().flatten().next() {
        Some(first) => spans.push(first),
        None => spans.extend(
            state(process, model.age())
                .into_iter()
                .flat_map(|span| [span, plain(" ")]),
        ),
    }
    put_spans(grid, area.x, area.y, area.w, &spans);
}

/// All that there is to say of the selected process, the most important first.
pub(super) fn detail_rows(model: &Model, columns: usize) -> Vec<Vec<Span>> {
    let Some(process) = model.selected() else {
        return vec![vec![("no process selected".into(), Style::FAINT)]];
    };
    let mut rows = flow(vec![state(process, model.age())], columns);
    if model.server.dialect == Dialect::Bpm {
        rows.push(figures(
            process,
            model.server.readings.get(&process.name),
            columns,
        ));
    }
    let mut groups = wrong(process, model);
    groups.push(build(process));
    groups.push(numbers(process));
    groups.push(last_exit(process, model));
    // A row of the newest events, then figures of less weight, then the other events.
    let mut events = events(process, model);
    let others = events.split_off(events.len().min((columns + 1) / 24));
    groups.push(events);
    groups.push(more_numbers(process, model.age()));
    groups.push(others);
    rows.extend(flow(groups, columns));
    rows
}

fn state(process: &Process, age: f64) -> Vec<Span> {
    let (sign, style) = mark(process.kind());
    let mut spans = vec![(format!("{sign} {}", process.words()), style.with(BOLD))];
    spans.extend(process.mode.clone().map(plain));
    spans.push(plain(format!(
        "pid {}",
        process.pid.map_or("-".into(), |p| p.to_string())
    )));
    if let Some(up) = process
        .uptime
        .map(|up| span(up + age))
        .or_else(|| process.uptime_words.clone())
    {
        spans.push(plain(format!("up {up}")));
    }
    if process.adopted {
        spans.push(plain("adopted"));
    }
    spans
}

/// CPU and memory with what they were.
fn figures(process: &Process, readings: Option<&Readings>, columns: usize) -> Vec<Span> {
    let cpu = format!("cpu {:>6} ", cpu(process));
    let mem = format!("  mem {:>5} ", process.rss.map_or("-".into(), size));
    let room = columns.saturating_sub(width_of(&cpu) + width_of(&mem)) / 2;
    let room = room.min(READINGS);
    let none = VecDeque::new();
    let (of_cpu, of_rss) = readings.map_or((&none, &none), |r| (&r.cpu, &r.rss));
    vec![
        plain(cpu),
        (sparkline(of_cpu, room, 100.0), Style::GREEN),
        plain(mem),
        (sparkline(of_rss, room, 0.0), Style::CYAN),
    ]
}

/// The last readings as bars; the top is `least` or the highest of them. A hole is a blank.
fn sparkline(readings: &VecDeque<Option<f64>>, columns: usize, least: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = readings.iter().flatten().fold(least, |a, b| a.max(*b));
    let skipped = readings.len().saturating_sub(columns);
    let blank = columns.saturating_sub(readings.len());
    let bars = readings.iter().skip(skipped).map(|reading| match reading {
        Some(_) if top <= 0.0 => BARS[0],
        Some(value) => {
            let level = (value / top * 8.0).floor() as usize;
            BARS[level.min(7)]
        }
        None => ' ',
    });
    bars.chain(std::iter::repeat_n(' ', blank)).collect()
}

/// The faults of a process.
fn wrong(process: &Process, model: &Model) -> Vec<Vec<Span>> {
    let mut groups: Vec<Vec<Span>> = Vec::new();
    let again = process
        .next_start
        .map(|s| format!("again in {}", span(s - model.age())));
    let failed = process.build.as_ref().filter(|b| b.ok == Some(false));
    if let Some(build) = failed {
        let began = build
            .at
            .map(|at| at + (build.seconds.unwrap_or(0.0) * 1e3) as i64);
        let when = began.map(|at| format!(" {} ago", ago((model.clock.wall - at) / 1_000)));
        let errors = match build.errors.len() {
            0 => String::new(),
            1 => ": 1 error (e)".into(),
            n => format!(": {n} errors (e)"),
        };
        let stale = if process.stale { ", stale" } else { "" };
        let words = format!(
            "✗ build {} failed{}{errors}{stale}",
            build.id,
            when.unwrap_or_default()
        );
        groups.push(
            std::iter::once((words, Style::RED))
                .chain(again.clone().map(plain))
                .collect(),
        );
    } else if process.stale {
        groups.push(vec![("* stale: an older build runs".into(), Style::YELLOW)]);
    }
    if process.rolled_back {
        groups.push(vec![(
            "‹ rolled back: the newest build died at its start".into(),
            Style::YELLOW,
        )]);
    }
    let reason = process.reason.clone().filter(|_| failed.is_none());
    let style = if process.kind() == Kind::Failed {
        Style::RED
    } else {
        Style::YELLOW
    };
    let mut why: Vec<Span> = reason.into_iter().map(|text| (text, style)).collect();
    if failed.is_none() {
        why.extend(again.map(plain));
    }
    groups.push(why);
    if let Some(trouble) = &process.log_trouble {
        groups.push(vec![(super::output::unwritten(trouble), Style::YELLOW)]);
    }
    for warning in &process.warnings {
        groups.push(vec![(warning.clone(), Style::YELLOW)]);
    }
    groups
}

/// A build under way, or the last one.
fn build(process: &Process) -> Vec<Span> {
    let Some(build) = &process.build else {
        return Vec::new();
    };
    let took = build
        .seconds
        .map_or(String::new(), |s| format!(" {}", span(s)));
    match build.ok {
        None => {
            let phase = build.phase.as_deref().unwrap_or(&build.state);
            vec![(format!("◌ build {} {phase}{took}", build.id), Style::YELLOW)]
        }
        Some(true) => vec![plain(format!("build {} {}{took}", build.id, build.state))],
        Some(false) => Vec::new(),
    }
}

fn numbers(process: &Process) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut number = |name: &str, n: Option<u64>| {
        spans.extend(n.map(|n| plain(format!("{name} {n}"))));
    };
    number("restarts", process.restarts);
    number("crashes", process.crashes);
    match &process.url {
        Some(url) => spans.push(plain(url.clone())),
        None if process.ports.is_empty() => {}
        None => {
            let ports: Vec<String> = process.ports.iter().map(u64::to_string).collect();
            spans.push(plain(format!("ports {}", ports.join(" "))));
        }
    }
    spans
}

fn more_numbers(process: &Process, age: f64) -> Vec<Span> {
    let mut spans = Vec::new();
    spans.extend(process.tasks.map(|n| plain(format!("tasks {n}"))));
    if !process.depends_on.is_empty() {
        spans.push(plain(format!("needs {}", process.depends_on.join(", "))));
    }
    if let Some(seconds) = process.last_output {
        spans.push(plain(format!("last output {} ago", span(seconds + age))));
    }
    if process.log_dropped > 0 {
        let lost = thousands(process.log_dropped);
        spans.push(plain(format!("{lost} lines not kept")));
    }
    spans
}

/// The newest first.
fn events(process: &Process, model: &Model) -> Vec<Span> {
    let own = process.events.iter().rev().map(|text| plain(text.clone()));
    let all = model.server.events.iter().rev();
    all.filter(|e| e.process.as_deref() == Some(&process.name))
        .map(|e| plain(format!("{} {}", model.clock.local(e.at), e.text)))
        .chain(own)
        .take(20)
        .collect()
}

fn last_exit(process: &Process, model: &Model) -> Vec<Span> {
    let Some(exit) = &process.exit else {
        return Vec::new();
    };
    let mut words = format!("last end {}", exit.words);
    if exit.asked {
        words.push_str(" (asked)");
    }
    if let Some(up) = exit.uptime {
        words.push_str(&format!(" after {}", ago(up as i64)));
    }
    if let Some(at) = exit.at {
        words.push_str(&format!(", {} ago", ago((model.clock.wall - at) / 1_000)));
    }
    if !exit.asked {
        words.push_str(" (w)");
    }
    vec![plain(words)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_have_their_top_and_their_holes() {
        let readings = |values: &[Option<f64>]| values.iter().copied().collect::<VecDeque<_>>();
        let line = |values: &[Option<f64>], top| sparkline(&readings(values), 4, top);
        assert_eq!(
            line(&[Some(0.0), Some(50.0), None, Some(100.0)], 100.0),
            "▁▅ █"
        );
        assert_eq!(line(&[Some(200.0), Some(100.0)], 100.0), "█▅  ");
        assert_eq!(line(&[Some(0.0)], 0.0), "▁   ");
        assert_eq!(line(&[], 100.0), "    ");
        assert_eq!(line(&[Some(1.0); 9], 0.0), "████");
    }

    #[test]
    fn pieces_flow_into_rows() {
        let group = |texts: &[&str]| texts.iter().map(|t| plain(*t)).collect::<Vec<_>>();
        let rows = flow(
            vec![group(&["aa", "bb", "cc"]), group(&[]), group(&["d"])],
            6,
        );
        let texts: Vec<String> = rows
            .iter()
            .map(|r| r.iter().map(|(t, _)| t.as_str()).collect())
            .collect();
        assert_eq!(texts, ["aa  bb", "cc", "d"]);
    }
}
