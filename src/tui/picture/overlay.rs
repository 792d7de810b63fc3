//! Pure: no system call, no thread, no clock.
//!
//! The boxes over the panels: help, cards, errors, details.

use super::{Span, frame, put_spans, wrap};
use crate::tui::cell::{Area, Grid, Style, width_of};
use crate::tui::keys::KEYS;
use crate::tui::layout::Room;
use crate::tui::model::{Model, Overlay};
use crate::tui::output::counted;

/// Draws it, if there is one.
pub(super) fn draw(grid: &mut Grid, model: &Model) {
    let Some(overlay) = &model.dialog.overlay else {
        return;
    };
    let layout = model.layout();
    let whole = Area {
        h: layout.whole.h.saturating_sub(1),
        ..layout.whole
    };
    let bare = layout.room != Room::Framed;
    let room = if bare {
        whole.w
    } else {
        whole.w.saturating_sub(6).min(112)
    };
    let columns = usize::from(room.saturating_sub(if bare { 0 } else { 4 }));
    let (title, rows, selected) = content(overlay, model, columns);
    let area = if bare {
        whole
    } else {
        let h = (rows.len() as u16 + 2).min(whole.h);
        let (x, y) = ((whole.w - room) / 2, (whole.h - h) / 2);
        Area { x, y, w: room, h }
    };
    grid.clear(area);
    let inner = if bare {
        grid.put(area.x, area.y, area.w, &title, Style::CYAN);
        Area {
            y: area.y + 1,
            h: area.h.saturating_sub(1),
            ..area
        }
    } else {
        frame(grid, area, &[title]);
        let inner = area.inner();
        Area {
            x: inner.x + 1,
            w: inner.w.saturating_sub(2),
            ..inner
        }
    };
    let seen = usize::from(inner.h);
    let most = rows.len().saturating_sub(seen);
    // The selected row is seen, else what was scrolled to.
    let top = match selected {
        Some(at) => at.saturating_sub(seen / 2).min(most),
        None => model.dialog.scroll.min(most),
    };
    for (i, (y, row)) in (inner.y..inner.y + inner.h)
        .zip(rows.iter().skip(top))
        .enumerate()
    {
        put_spans(grid, inner.x, y, inner.w, row);
        if selected == Some(top + i) {
            grid.restyle(Area { y, h: 1, ..inner }, |_| Style::SELECTED);
        }
    }
    if most > 0 && !bare {
        let more = format!(" {}/{} ", (top + seen).min(rows.len()), rows.len());
        let x = (area.x + area.w).saturating_sub(width_of(&more) as u16 + 2);
        grid.put(x, area.y + area.h - 1, area.w, &more, Style::FAINT);
    }
}

type Content = (String, Vec<Vec<Span>>, Option<usize>);

fn content(overlay: &Overlay, model: &Model, columns: usize) -> Content {
    match overlay {
        Overlay::Help => ("Keys".into(), help(model, columns), None),
        Overlay::Card { title, lines } => {
            let rows = lines
                .iter()
                .flat_map(|line| wrapped(line, columns, Style::PLAIN));
            (title.clone(), rows.collect(), None)
        }
        Overlay::Errors {
            process,
            list,
            selected,
            whole,
        } => {
            let errors = list.iter().filter(|f| !f.warning).count();
            let warnings = list.len() - errors;
            let title = format!(
                "Build of {process}: {}, {}",
                counted(errors as u64, "error"),
                counted(warnings as u64, "warning")
            );
            let rows: Vec<Vec<Span>> = list
                .iter()
                .map(|fault| {
                    let style = if fault.warning {
                        Style::YELLOW
                    } else {
                        Style::RED
                    };
                    vec![(fault.words(), style)]
                })
                .collect();
            if rows.is_empty() {
                let words = if *whole {
                    "none"
                } else {
                    "looking through the build log"
                };
                return (title, vec![vec![(words.into(), Style::FAINT)]], None);
            }
            (title, rows, Some(*selected))
        }
        Overlay::Details => {
            let name = model.list.selected.as_deref().unwrap_or("-");
            let rows = super::panels::detail_rows(model, columns);
            (format!("Process Details: {name}"), rows, None)
        }
    }
}

fn wrapped(line: &str, columns: usize, style: Style) -> impl Iterator<Item = Vec<Span>> {
    let shown = crate::tui::text::plain(line);
    let rows = wrap(&shown, columns);
    rows.into_iter().map(move |row| vec![(row, style)])
}

fn help(model: &Model, columns: usize) -> Vec<Vec<Span>> {
    const WIDTH: usize = 11;
    let mut rows: Vec<Vec<Span>> = Vec::new();
    for key in KEYS {
        let parts = wrap(key.does, columns.saturating_sub(WIDTH));
        for (i, part) in parts.into_iter().enumerate() {
            let keys = if i == 0 { key.keys } else { "" };
            let pad = " ".repeat(WIDTH.saturating_sub(width_of(keys)));
            rows.push(vec![
                (keys.into(), Style::STRONG),
                (pad, Style::PLAIN),
                (part, Style::PLAIN),
            ]);
        }
    }
    if !model.dialog.messages.is_empty() {
        rows.push(Vec::new());
        rows.push(vec![("Last messages".into(), Style::CYAN)]);
    }
    for message in model.dialog.messages.iter().rev() {
        let style = if message.bad {
            Style::RED
        } else {
            Style::PLAIN
        };
        let at = model.clock.local(message.at);
        for (i, line) in message.text.lines().enumerate() {
            let line = if i == 0 {
                format!("{at} {line}")
            } else {
                format!("  {line}")
            };
            rows.extend(wrapped(&line, columns, style));
        }
    }
    rows
}
