//! Pure: no system call, no thread, no clock.
//!
//! The picture of a model: its size in, cells out.

mod output;
mod overlay;
mod panels;

use super::cell::{Area, DIM, Grid, Style, cut_middle, width_of};
use super::layout::{Layout, Room};
use super::model::{Dialect, Entry, Link, Model};
use super::status::Kind;

/// A piece of a line, and how it looks.
pub(super) type Span = (String, Style);

/// The whole screen.
pub fn picture(model: &Model) -> Grid {
    let layout = model.layout();
    let mut grid = Grid::new(layout.whole.w, layout.whole.h);
    if model.screen.plain && layout.room != Room::Tiny {
        output::lines(&mut grid, layout.whole, model);
        bottom(&mut grid, layout.keys, model, false);
    } else {
        match layout.room {
            Room::Tiny => {
                grid.put(0, 0, layout.whole.w, "too small: 20x5", Style::PLAIN);
            }
            Room::Bare => bare(&mut grid, &layout, model),
            Room::Framed => framed(&mut grid, &layout, model),
        }
    }
    if model.screen.look.ascii {
        grid.each(ascii);
    }
    grid
}

fn framed(grid: &mut Grid, layout: &Layout, model: &Model) {
    frame(grid, layout.server, &["Server Status".into()]);
    let name = model.list.selected.as_deref().unwrap_or("-");
    frame(grid, layout.details, &[format!("Process Details: {name}")]);
    frame(grid, layout.list, &[panels::list_title(model)]);
    frame(
        grid,
        layout.output,
        &output::title(model, usize::from(layout.output.inner().w)),
    );
    let padded = |area: Area| {
        let inner = area.inner();
        Area {
            x: inner.x + 1,
            w: inner.w.saturating_sub(1),
            ..inner
        }
    };
    panels::server(grid, padded(layout.server), model);
    panels::details(grid, padded(layout.details), model);
    panels::list(grid, layout.list.inner(), model);
    output::lines(grid, layout.output.inner(), model);
    if is_old(model) {
        // The connection's own line stays as it is.
        let first = Area {
            h: 1,
            ..layout.server.inner()
        };
        for y in 0..layout.keys.y {
            for x in [0, layout.server.w] {
                let w = if x == 0 {
                    layout.server.w
                } else {
                    layout.whole.w - layout.server.w
                };
                if !(x == 0 && y == first.y) {
                    grid.restyle(Area { x, y, w, h: 1 }, |style| style.with(DIM));
                }
            }
        }
    }
    bottom(grid, layout.keys, model, true);
    overlay::draw(grid, model);
}

fn bare(grid: &mut Grid, layout: &Layout, model: &Model) {
    panels::list(grid, layout.list, model);
    panels::details_line(grid, layout.details, model);
    output::lines(grid, layout.output, model);
    if is_old(model) {
        grid.restyle(layout.whole, |style| style.with(DIM));
    }
    panels::server_line(grid, layout.server, model);
    bottom(grid, layout.keys, model, true);
    overlay::draw(grid, model);
}

/// The screen may be out of date.
fn is_old(model: &Model) -> bool {
    model.server.status.is_some() && !matches!(model.server.link, Link::Live)
}

/// A frame with titles in its upper line; those that do not fit are left out.
pub(super) fn frame(grid: &mut Grid, area: Area, titles: &[String]) {
    if area.w < 2 || area.h < 2 {
        return;
    }
    let (left, right) = (area.x, area.x + area.w - 1);
    let (top, bottom) = (area.y, area.y + area.h - 1);
    for x in left + 1..right {
        grid.set(x, top, '─', Style::PLAIN);
        grid.set(x, bottom, '─', Style::PLAIN);
    }
    for y in top + 1..bottom {
        grid.set(left, y, '│', Style::PLAIN);
        grid.set(right, y, '│', Style::PLAIN);
    }
    for (x, y, corner) in [
        (left, top, '┌'),
        (right, top, '┐'),
        (left, bottom, '└'),
        (right, bottom, '┘'),
    ] {
        grid.set(x, y, corner, Style::PLAIN);
    }
    // ` Title ── more ──`: a blank on each side.
    let mut x = left + 1;
    let end = right;
    for (i, title) in titles.iter().enumerate() {
        let room = usize::from(end.saturating_sub(x));
        let extra = if i == 0 { 2 } else { 4 };
        if i > 0 && width_of(title) + extra > room || room < 4 {
            continue;
        }
        if i > 0 {
            x += 2;
        }
        let shown = cut_middle(title, room.saturating_sub(2));
        x = grid.put(x, top, 1, " ", Style::PLAIN);
        x = grid.put(x, top, end - x, &shown, Style::CYAN);
        x = grid.put(x, top, 1, " ", Style::PLAIN);
    }
}

/// Puts pieces one after the other; gives the column behind them.
pub(super) fn put_spans(grid: &mut Grid, x: u16, y: u16, most: u16, spans: &[Span]) -> u16 {
    let end = x.saturating_add(most);
    let mut at = x;
    for (text, style) in spans {
        at = grid.put(at, y, end.saturating_sub(at), text, *style);
    }
    at
}

/// Breaks a text into rows at blanks where that is possible.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut rows = vec![String::new()];
    let mut used = 0;
    for word in text.split_inclusive(' ') {
        let width = width_of(word.trim_end());
        if used > 0 && used + width > columns {
            rows.push(String::new());
            used = 0;
        }
        for c in word.chars() {
            let w = super::cell::width(c);
            if used + w > columns {
                if c == ' ' {
                    continue;
                }
                rows.push(String::new());
                used = 0;
            }
            used += w;
            if let Some(row) = rows.last_mut() {
                row.push(c);
            }
        }
    }
    for row in &mut rows {
        row.truncate(row.trim_end().len());
    }
    rows
}

/// The last line: what is typed, what is asked, else the keys.
fn bottom(grid: &mut Grid, area: Area, model: &Model, keys: bool) {
    if let Some(field) = &model.dialog.field {
        grid.clear(area);
        let label = match field.what {
            Entry::Search => "/",
            Entry::Filter => "&",
            Entry::Names => "p ",
        };
        let from = grid.put(area.x, area.y, area.w, label, Style::STRONG);
        // A long text is shown from where its cursor is seen.
        let room = usize::from((area.x + area.w).saturating_sub(from + 1));
        let mut skip = 0;
        let before = &field.text[..field.cursor];
        while width_of(&before[skip..]) > room {
            skip += before[skip..].chars().next().map_or(1, char::len_utf8);
        }
        grid.put(from, area.y, area.w, &field.text[skip..], Style::PLAIN);
        let x = from + width_of(&before[skip..]) as u16;
        grid.cursor = Some((x.min(area.x + area.w - 1), area.y));
        return;
    }
    if let Some(question) = &model.dialog.question {
        grid.clear(area);
        let words = cut_middle(&question.words, usize::from(area.w).saturating_sub(8));
        let spans = [
            (format!(" {words}"), Style::STRONG),
            ("  y/n".into(), Style::CYAN),
        ];
        put_spans(grid, area.x, area.y, area.w, &spans);
        return;
    }
    if keys {
        keys_line(grid, area, model);
    }
}

fn keys_line(grid: &mut Grid, area: Area, model: &Model) {
    let always = [("?", "help"), ("q", "quit")];
    let needs = |key: &str, word: &str| width_of(key) + width_of(word) + 2;
    let mut room =
        usize::from(area.w).saturating_sub(always.iter().map(|(k, w)| needs(k, w)).sum());
    let mut shown: Vec<(&str, &str)> = Vec::new();
    for (key, word) in working_keys(model) {
        let needed = needs(key, word);
        if needed > room {
            break;
        }
        room -= needed;
        shown.push((key, word));
    }
    shown.extend(always);
    let mut x = area.x;
    for (key, word) in shown {
        let spans = [
            (" ".to_owned(), Style::PLAIN),
            (key.to_owned(), Style::STRONG),
            (format!(" {word}"), Style::PLAIN),
        ];
        x = put_spans(grid, x, area.y, (area.x + area.w).saturating_sub(x), &spans);
    }
}

/// Keys that do something now, the commonest first.
fn working_keys(model: &Model) -> Vec<(&'static str, &'static str)> {
    use super::model::Overlay;
    match &model.dialog.overlay {
        Some(Overlay::Errors { .. }) => {
            return vec![
                ("j/k", "move"),
                ("Enter", "open"),
                ("y", "copy"),
                ("Esc", "close"),
            ];
        }
        Some(Overlay::Card { .. }) => {
            return vec![("j/k", "scroll"), ("y", "copy"), ("Esc", "close")];
        }
        Some(Overlay::Help | Overlay::Details) => return vec![("j/k", "scroll"), ("Esc", "close")],
        None => {}
    }
    let mut keys = Vec::new();
    let Some(process) = model.selected() else {
        if model.server.link != Link::Live && model.screen.look.local {
            keys.push(("S", "start"));
        }
        return keys;
    };
    let live = model.server.link == Link::Live;
    if !live && model.screen.look.local && !model.screen.look.read_only {
        keys.push(("S", "start"));
    }
    if model.log.output.paused().is_some() {
        keys.push(("f", "follow"));
    }
    if model.processes().len() > 1 {
        keys.push(("j/k", "move"));
    }
    keys.push(("Enter", "refresh"));
    let acts = live && !model.screen.look.read_only;
    let bpm = model.server.dialect == Dialect::Bpm;
    if acts {
        keys.push(("r", "restart"));
    }
    if acts && bpm {
        let start = super::model::is_to_start(process);
        keys.push(("s", if start { "start" } else { "stop" }));
    }
    if live && bpm {
        keys.push(("w", "why"));
        if process
            .build
            .as_ref()
            .is_some_and(|b| !b.errors.is_empty() || b.ok == Some(false))
        {
            keys.push(("e", "errors"));
        }
    }
    keys.push(("/", "search"));
    if model.log.output.search().is_some() {
        keys.push(("n/N", "hits"));
    }
    keys.extend([
        ("&", "filter"),
        ("b", "build"),
        ("y", "copy"),
        ("z", "plain"),
        ("c", "clear"),
    ]);
    keys
}

/// The mark of a process, and its colour.
pub(super) fn mark(kind: Kind) -> (char, Style) {
    match kind {
        Kind::Running => ('▶', Style::GREEN),
        Kind::Uneasy => ('▶', Style::YELLOW),
        Kind::Stopped => ('■', Style::YELLOW),
        Kind::Failed => ('✗', Style::RED),
        Kind::Busy => ('◌', Style::YELLOW),
    }
}

/// Replaces a character where there is only ASCII.
fn ascii(c: char) -> char {
    match c {
        '\0'..='~' => c,
        '▶' | '›' | '→' => '>',
        '■' => '#',
        '✗' => 'x',
        '◌' => '~',
        '‹' | '←' => '<',
        '▌' => '!',
        '●' => 'o',
        '…' | '·' | '▂' => '.',
        '─' | '▄' => '-',
        '│' => '|',
        '┌' | '┐' | '└' | '┘' => '+',
        '▁' => '_',
        '▃' => ':',
        '▅' => '=',
        '▆' => '*',
        '▇' | '█' => '#',
        '↑' => '^',
        '↓' => 'v',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_broken_at_blanks() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn ascii_has_a_sign_for_each_of_ours() {
        let marks = "▶■✗◌*‹▌";
        assert_eq!(
            marks.chars().map(ascii).collect::<String>(),
            "># x~*<!".replace(' ', "")
        );
        assert_eq!("▁▂▃▄▅▆▇".chars().map(ascii).collect::<String>(), "_.:-=*#");
    }
}
