//! Pure: no system call, no thread, no clock.
//!
//! Output: the lines of a log.

use crate::base::json::thousands;
use crate::tui::cell::{Area, Grid, REVERSE, Style, cut_middle, width, width_of};
use crate::tui::layout::Room;
use crate::tui::model::Model;
use crate::tui::output::{Entry, Line, Row, counted, skipped};
use crate::tui::text;

/// The pieces of the panel's title.
pub(super) fn title(model: &Model, columns: usize) -> Vec<String> {
    let (log, view) = (&model.log, &model.log.view);
    if view.process.is_empty() {
        return vec!["Output".into()];
    }
    let what = if view.builds { "build" } else { "run" };
    let mut name = format!("Output: {}", view.process);
    match log.output.run() {
        0 if view.builds => name.push_str(" build"),
        0 => {}
        run => name.push_str(&format!(" {what} {run}")),
    }
    let mut pieces = vec![match log.output.paused() {
        Some(news) => format!("paused, {} new", thousands(news)),
        None if view.index == -1 => "follow".into(),
        None => format!("an earlier {what} ({})", view.index),
    }];
    if let Some(pattern) = &view.pattern {
        pieces.push(cut_middle(&format!("&{pattern}"), (columns / 4).max(6)));
    }
    if let Some(search) = log.output.search() {
        let (at, of) = search.position();
        pieces.push(format!("{at}/{of} hits"));
    }
    // ` name ── piece ── piece `
    let taken = |pieces: &[String]| pieces.iter().map(|p| width_of(p) + 4).sum::<usize>() + 2;
    let lines = log.output.lines();
    let count = counted(lines as u64, "line");
    if width_of(&name) + taken(&pieces) + width_of(&count) + 4 <= columns {
        pieces.push(count);
    }
    pieces.insert(0, cut_middle(&name, columns.saturating_sub(taken(&pieces))));
    pieces
}

/// The lines that are seen.
pub(super) fn lines(grid: &mut Grid, area: Area, model: &Model) {
    let gutter = u16::from(!model.screen.plain && model.layout().room != Room::Tiny);
    let size = model.output_size();
    let seen = model.log.output.seen(size);
    let trouble = model.selected().and_then(|p| p.log_trouble.as_ref());
    if seen.is_empty() {
        let words = match (&model.log.trouble, trouble) {
            (Some(why), _) => why.clone(),
            (None, Some(why)) => unwritten(why),
            (None, None) if model.log.view.process.is_empty() => String::new(),
            (None, None) if !model.log.came => String::new(),
            (None, None) if model.log.view.pattern.is_some() => "no line matches".into(),
            (None, None) => "nothing printed yet".into(),
        };
        grid.put(
            area.x + gutter,
            area.y,
            area.w.saturating_sub(gutter),
            &words,
            Style::FAINT,
        );
        return;
    }
    for (y, row) in (area.y..area.y + area.h).zip(&seen) {
        draw(grid, Area { y, h: 1, ..area }, gutter, row, model);
    }
}

/// Why a log is not written, without the long name of its file: what stands behind the last colon.
pub(super) fn unwritten(trouble: &str) -> String {
    let reason = trouble.rsplit(": ").next().unwrap_or(trouble);
    format!("log can't be written: {reason}")
}

fn draw(grid: &mut Grid, area: Area, gutter: u16, row: &Row<'_>, model: &Model) {
    let y = area.y;
    let room = area.w.saturating_sub(gutter);
    match row.entry {
        Entry::Gap(n) => {
            grid.put(area.x + gutter, y, room, &skipped(*n), Style::YELLOW);
        }
        Entry::Run { run, pid, at } => {
            let what = if model.log.view.builds {
                "build"
            } else {
                "run"
            };
            let mut words = format!("── {what} {run}");
            if let Some(pid) = pid.filter(|_| !model.log.view.builds) {
                words.push_str(&format!(", pid {pid}"));
            }
            if *at > 0 {
                words.push_str(&format!(", {}", model.clock.local(*at)));
            }
            words.push_str(" ──");
            grid.put(area.x + gutter, y, room, &words, Style::CYAN);
        }
        Entry::Line(line) => draw_line(grid, area, gutter, row, line, model),
    }
    let chosen = model
        .log
        .drag
        .is_some_and(|(a, b)| (a.min(b)..=a.max(b)).contains(&row.id));
    if chosen {
        let rest = Area {
            x: area.x + gutter,
            w: room,
            ..area
        };
        grid.restyle(rest, |style| style.with(REVERSE));
    }
}

fn draw_line(grid: &mut Grid, area: Area, gutter: u16, row: &Row<'_>, line: &Line, model: &Model) {
    let y = area.y;
    if gutter > 0 && line.stderr {
        grid.set(area.x, y, '▌', Style::RED);
    }
    let mut x = area.x + gutter;
    let times = model.time_columns();
    if times > 0 {
        if row.row == 0 && line.at > 0 {
            grid.put(x, y, times, &model.clock.local(line.at), Style::FAINT);
        }
        x += times;
    }
    let columns = model.output_size().columns;
    let output = &model.log.output;
    let marks = match output.search() {
        Some(search) => search.places(&text::plain(&line.text)),
        None => Vec::new(),
    };
    let (mut at_row, mut used, mut byte) = (0, 0, 0);
    text::shown(&line.text, |c, style, column| {
        let hit = marks.iter().any(|(from, to)| (*from..*to).contains(&byte));
        byte += c.len_utf8();
        let cells = width(c);
        let place = if output.wrap {
            if used + cells.min(columns) > columns {
                at_row += 1;
                used = 0;
            }
            let place = used;
            used += cells;
            (at_row == row.row).then_some(place)
        } else {
            let shifted = column.checked_sub(output.shift);
            shifted.filter(|at| at + cells <= columns)
        };
        let Some(place) = place else { return };
        let style = if hit { style.with(REVERSE) } else { style };
        grid.set(x + place as u16, y, c, style);
    });
}
