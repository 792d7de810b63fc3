//! Pure: no system call, no thread, no clock.
//!
//! From one picture to the next in few bytes: only cells that differ are written.

use std::fmt::Write as _;

use super::cell::{BOLD, Cell, Color, DIM, Grid, ITALIC, REVERSE, Style, UNDERLINE};

/// The colours that a terminal knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// None are wanted: bold, underline and reverse remain.
    None,
    /// Those of its theme.
    Sixteen,
    /// Its palette.
    Indexed,
    /// All.
    True,
}

/// The cells that a terminal shows, and the bytes that change them.
#[derive(Debug)]
pub struct Painter {
    shown: Grid,
    depth: Depth,
    /// Nobody knows what the terminal shows.
    lost: bool,
    /// The style that the terminal has now.
    style: Style,
    /// Where its cursor is, if that is known.
    at: Option<(u16, u16)>,
}

/// A gap of up to this number of cells is written again rather than jumped over.
const BRIDGE: u16 = 4;

impl Painter {
    /// Of a terminal that shows anything.
    pub fn new(depth: Depth) -> Self {
        Self {
            shown: Grid::default(),
            depth,
            lost: true,
            style: Style::PLAIN,
            at: None,
        }
    }

    /// Whatever the terminal shows, it is not what we think.
    pub fn forget(&mut self) {
        self.lost = true;
    }

    /// The bytes that turn what is shown into `next`; none where it is the same.
    pub fn paint(&mut self, next: Grid) -> String {
        let mut out = String::new();
        let size = (next.width, next.height);
        if self.lost || size != (self.shown.width, self.shown.height) {
            self.shown = Grid::new(next.width, next.height);
            // The size of cells may be another one as well, so that nothing of the old picture can stay.
            out.push_str("\x1b[m\x1b[H\x1b[2J\x1b[?25l");
            self.style = Style::PLAIN;
            self.at = Some((0, 0));
            self.lost = false;
        }
        let mut changed = 0;
        for y in 0..next.height {
            changed += self.row(y, &next, &mut out);
        }
        if next.cursor != self.shown.cursor || (next.cursor.is_some() && !out.is_empty()) {
            match next.cursor {
                Some((x, y)) => {
                    let _ = write!(out, "\x1b[{};{}H\x1b[?25h", y + 1, x + 1);
                    self.at = Some((x, y));
                }
                None => out.push_str("\x1b[?25l"),
            }
        }
        self.shown = next;
        let all = usize::from(size.0) * usize::from(size.1);
        if changed * 3 > all {
            // The terminal shows it at once, or ignores that.
            out.insert_str(0, "\x1b[?2026h");
            out.push_str("\x1b[?2026l");
        }
        out
    }

    /// One row; gives how many of its cells were written.
    fn row(&mut self, y: u16, next: &Grid, out: &mut String) -> usize {
        let (old, new) = (self.shown.row(y).to_vec(), next.row(y));
        let differs = |x: usize| old.get(x) != new.get(x);
        // Behind this column all is blank and is erased in one go, if that is worth it.
        let blank_from = new.len() - new.iter().rev().take_while(|c| **c == Cell::BLANK).count();
        let erases = (blank_from..new.len()).filter(|x| differs(*x)).count() > 3;
        let mut changed = 0;
        let mut x = 0;
        while x < new.len() {
            if !differs(x) {
                x += 1;
                continue;
            }
            if erases && x >= blank_from {
                self.go(x as u16, y, new, out);
                self.restyle(Style::PLAIN, out);
                out.push_str("\x1b[K");
                changed += new.len() - x;
                break;
            }
            // A wide character is written from its first half.
            while x > 0 && new.get(x).is_some_and(|cell| cell.ch == '\0') {
                x -= 1;
            }
            self.go(x as u16, y, new, out);
            let Some(cell) = new.get(x) else { break };
            let taken = self.cell(*cell, out);
            changed += taken;
            x += taken;
        }
        changed
    }

    /// Moves the cursor, or writes what is there already where that is shorter.
    fn go(&mut self, x: u16, y: u16, row: &[Cell], out: &mut String) {
        if self.at == Some((x, y)) {
            return;
        }
        if let Some((cx, cy)) = self.at.filter(|(cx, cy)| *cy == y && *cx < x) {
            let between = row.get(usize::from(cx)..usize::from(x)).unwrap_or_default();
            let same = |cell: &Cell| {
                cell.ch.is_ascii_graphic() && cell.style == self.style
                    || *cell == Cell::BLANK && !visible(self.style)
            };
            if x - cx <= BRIDGE && between.iter().all(same) {
                for cell in between {
                    out.push(cell.ch);
                }
                self.at = Some((x, cy));
                return;
            }
            let _ = match x - cx {
                1 => write!(out, "\x1b[C"),
                n => write!(out, "\x1b[{n}C"),
            };
        } else if self.at.is_some_and(|(_, cy)| cy == y) || self.same_row(y) {
            let _ = write!(out, "\x1b[{}G", x + 1);
        } else {
            let _ = match x {
                0 => write!(out, "\x1b[{}H", y + 1),
                _ => write!(out, "\x1b[{};{}H", y + 1, x + 1),
            };
        }
        self.at = Some((x, y));
    }

    /// The column is not known, but the row is: terminals disagree on widths, not on lines.
    fn same_row(&self, y: u16) -> bool {
        self.at.is_some_and(|(cx, cy)| cx == u16::MAX && cy == y)
    }

    /// Writes a cell; gives how many columns it takes.
    fn cell(&mut self, cell: Cell, out: &mut String) -> usize {
        if cell != Cell::BLANK || visible(self.style) {
            self.restyle(cell.style, out);
        }
        let taken = super::cell::width(cell.ch).max(1);
        out.push(if cell.ch == '\0' { ' ' } else { cell.ch });
        if cell.mark != '\0' {
            out.push(cell.mark);
        }
        self.at = self.at.map(|(x, y)| {
            let next = x + taken as u16;
            // At the last column the cursor stays, or does not.
            match is_sure(cell) && next < self.shown.width {
                true => (next, y),
                false => (u16::MAX, y),
            }
        });
        taken
    }

    fn restyle(&mut self, style: Style, out: &mut String) {
        let style = self.shade(style);
        if style == self.style {
            return;
        }
        let old = self.style;
        let less = old.attrs & !style.attrs != 0
            || (old.fg != Color::Default && style.fg == Color::Default)
            || (old.bg != Color::Default && style.bg == Color::Default);
        self.style = style;
        if style == Style::PLAIN {
            out.push_str("\x1b[m");
            return;
        }
        let from = if less { Style::PLAIN } else { old };
        out.push_str("\x1b[");
        let mut first = !less;
        let mut separate = |out: &mut String| {
            if !std::mem::take(&mut first) {
                out.push(';');
            }
        };
        for (bit, code) in [
            (BOLD, '1'),
            (DIM, '2'),
            (ITALIC, '3'),
            (UNDERLINE, '4'),
            (REVERSE, '7'),
        ] {
            if style.attrs & !from.attrs & bit != 0 {
                separate(out);
                out.push(code);
            }
        }
        for (color, old, base) in [(style.fg, from.fg, 30), (style.bg, from.bg, 40)] {
            if color == old {
                continue;
            }
            separate(out);
            let _ = match color {
                Color::Default => write!(out, "{}", base + 9),
                Color::Index(n @ 0..8) => write!(out, "{}", base + u16::from(n)),
                Color::Index(n @ 8..16) => write!(out, "{}", base + 52 + u16::from(n)),
                Color::Index(n) => write!(out, "{};5;{n}", base + 8),
                Color::Rgb(r, g, b) => write!(out, "{};2;{r};{g};{b}", base + 8),
            };
        }
        out.push('m');
    }

    /// As the terminal can show it.
    fn shade(&self, style: Style) -> Style {
        let attrs = match self.depth {
            Depth::None => style.attrs & (BOLD | UNDERLINE | REVERSE),
            Depth::Sixteen | Depth::Indexed | Depth::True => style.attrs,
        };
        Style {
            fg: nearest(style.fg, self.depth),
            bg: nearest(style.bg, self.depth),
            attrs,
        }
    }
}

fn visible(style: Style) -> bool {
    style.bg != Color::Default || style.attrs & (REVERSE | UNDERLINE) != 0
}

/// All terminals agree on how many cells it takes: letters and lines, but not marks and pictures.
fn is_sure(cell: Cell) -> bool {
    cell.mark == '\0'
        && matches!(cell.ch,
            ' '..='~' | '\u{a0}'..='\u{ac}' | '\u{ae}'..='\u{2ff}' | '\u{370}'..='\u{482}'
            | '\u{48a}'..='\u{52f}' | '\u{2018}'..='\u{201f}' | '…' | '─'..='╿'
            | '▁'..='█' | 'ぁ'..='ヿ' | '一'..='鿿' | '가'..='힣')
}

/// The nearest colour that a terminal of this depth has.
fn nearest(color: Color, depth: Depth) -> Color {
    match (color, depth) {
        (_, Depth::None) => Color::Default,
        (Color::Rgb(r, g, b), Depth::Indexed) => Color::Index(cube(r, g, b)),
        (Color::Rgb(r, g, b), Depth::Sixteen) => Color::Index(sixteen(r, g, b)),
        (Color::Index(n @ 16..), Depth::Sixteen) => {
            let (r, g, b) = rgb(n);
            Color::Index(sixteen(r, g, b))
        }
        (color, Depth::Sixteen | Depth::Indexed | Depth::True) => color,
    }
}

/// The nearest of the palette's cube of 216 colours and its 24 greys.
fn cube(r: u8, g: u8, b: u8) -> u8 {
    if r == g && g == b && (8..=238).contains(&r) {
        return 232 + (r - 8) / 10;
    }
    let level = |c: u8| match c {
        0..48 => 0,
        48..115 => 1,
        _ => (c - 35) / 40,
    };
    16 + 36 * level(r) + 6 * level(g) + level(b)
}

/// The colour that the palette has for a number from 16 on.
fn rgb(n: u8) -> (u8, u8, u8) {
    if n >= 232 {
        let grey = 8 + (n - 232) * 10;
        return (grey, grey, grey);
    }
    let level = |n: u8| if n == 0 { 0 } else { 55 + n * 40 };
    let n = n.saturating_sub(16);
    (level(n / 36), level(n / 6 % 6), level(n % 6))
}

/// The nearest of the theme's colours: which of the three are strong, and how bright it is.
fn sixteen(r: u8, g: u8, b: u8) -> u8 {
    let most = r.max(g).max(b);
    if most < 50 {
        return 0;
    }
    let bit = |c: u8, n: u8| if c > most / 2 { n } else { 0 };
    let color = bit(r, 1) | bit(g, 2) | bit(b, 4);
    match color {
        7 if most < 110 => 8,
        color if most > 200 => color + 8,
        color => color,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(painter: &mut Painter, lines: &[&str]) -> String {
        let mut grid = Grid::new(20, 4);
        for (y, line) in lines.iter().enumerate() {
            grid.put(0, y as u16, 20, line, Style::PLAIN);
        }
        painter.paint(grid)
    }

    #[test]
    fn the_same_picture_is_no_bytes() {
        let mut painter = Painter::new(Depth::True);
        assert!(!painted(&mut painter, &["abc"]).is_empty());
        assert_eq!(painted(&mut painter, &["abc"]), "");
        painter.forget();
        assert!(painted(&mut painter, &["abc"]).contains("\x1b[2Jabc") || !painter.lost);
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut painter = Painter::new(Depth::True);
        painted(&mut painter, &["up 10 s", "pid 4711"]);
        assert_eq!(
            painted(&mut painter, &["up 11 s", "pid 4711"]),
            "\x1b[1;5H1"
        );
        assert_eq!(
            painted(&mut painter, &["up 21 d", "pid 4711"]),
            "\x1b[4G21 d"
        );
        assert_eq!(painted(&mut painter, &["up 21 d"]), "\x1b[2H\x1b[K");
    }

    #[test]
    fn the_cursor_is_placed_again_behind_a_mark() {
        let mut painter = Painter::new(Depth::True);
        painted(&mut painter, &[""]);
        assert_eq!(painted(&mut painter, &["▶ api"]), "▶\x1b[3Gapi");
    }

    #[test]
    fn a_large_change_is_shown_at_once() {
        let mut painter = Painter::new(Depth::True);
        painted(&mut painter, &[""]);
        let all = ["aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb"];
        let out = painted(&mut painter, &all);
        assert!(out.starts_with("\x1b[?2026h") && out.ends_with("\x1b[?2026l"));
    }

    #[test]
    fn colours_are_those_that_the_terminal_has() {
        let style = Style {
            fg: Color::Rgb(255, 0, 0),
            bg: Color::Default,
            attrs: DIM | REVERSE,
        };
        for (depth, codes) in [
            (Depth::True, "\x1b[2;7;38;2;255;0;0m"),
            (Depth::Indexed, "\x1b[2;7;38;5;196m"),
            (Depth::Sixteen, "\x1b[2;7;91m"),
            (Depth::None, "\x1b[7m"),
        ] {
            let mut painter = Painter::new(depth);
            let mut grid = Grid::new(2, 1);
            grid.put(0, 0, 2, "x", style);
            assert!(
                painter.paint(grid).contains(&format!("{codes}x")),
                "{depth:?}"
            );
        }
        assert_eq!(cube(255, 255, 255), 231);
        assert_eq!(rgb(196), (255, 0, 0));
        assert_eq!(sixteen(0, 0, 128), 4);
    }

    #[test]
    fn a_style_is_left_when_less_is_wanted() {
        let mut painter = Painter::new(Depth::True);
        painted(&mut painter, &[""]);
        let mut grid = Grid::new(20, 4);
        grid.put(0, 0, 9, "a", Style::RED.with(BOLD));
        grid.put(1, 0, 9, "b", Style::RED);
        grid.put(2, 0, 9, "c", Style::PLAIN);
        assert_eq!(painter.paint(grid), "\x1b[1;31ma\x1b[;31mb\x1b[mc");
    }
}
