//! Pure: no system call, no thread, no clock.
//!
//! A picture as cells: characters with colours, in a grid of the terminal's size.

use unicode_width::UnicodeWidthChar;

/// A colour of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Color {
    /// The terminal's own.
    #[default]
    Default,
    /// One of the 256, of which the first 16 belong to the terminal's theme.
    Index(u8),
    /// Red, green, blue.
    Rgb(u8, u8, u8),
}

/// Attributes, as bits of [`Style::attrs`].
pub const BOLD: u8 = 1;
/// Darker than the rest.
pub const DIM: u8 = 2;
/// Slanted.
pub const ITALIC: u8 = 4;
/// With a line below.
pub const UNDERLINE: u8 = 8;
/// Foreground and background exchanged.
pub const REVERSE: u8 = 16;

/// How a cell looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Of the character.
    pub fg: Color,
    /// Behind it.
    pub bg: Color,
    /// [`BOLD`] and the like.
    pub attrs: u8,
}

impl Style {
    /// The terminal's own.
    pub const PLAIN: Self = Self {
        fg: Color::Default,
        bg: Color::Default,
        attrs: 0,
    };
    /// Something good.
    pub const GREEN: Self = Self::of(2);
    /// Something under way.
    pub const YELLOW: Self = Self::of(3);
    /// Something wrong.
    pub const RED: Self = Self::of(1);
    /// A title.
    pub const CYAN: Self = Self::of(6);
    /// Of little weight.
    pub const FAINT: Self = Self::PLAIN.with(DIM);
    /// Of weight.
    pub const STRONG: Self = Self::PLAIN.with(BOLD);
    /// The selection.
    pub const SELECTED: Self = Self::PLAIN.with(REVERSE);

    const fn of(index: u8) -> Self {
        Self {
            fg: Color::Index(index),
            bg: Color::Default,
            attrs: 0,
        }
    }

    /// With these attributes as well.
    #[must_use]
    pub const fn with(mut self, attrs: u8) -> Self {
        self.attrs |= attrs;
        self
    }

    /// A blank in this style can be seen.
    fn shows_blank(self) -> bool {
        self.bg != Color::Default || self.attrs & (REVERSE | UNDERLINE) != 0
    }
}

/// One place of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The character; NUL: the second half of a wide one.
    pub ch: char,
    /// A combining character on it, or NUL.
    pub mark: char,
    /// How it looks.
    pub style: Style,
}

impl Cell {
    /// Nothing.
    pub const BLANK: Self = Self {
        ch: ' ',
        mark: '\0',
        style: Style::PLAIN,
    };
}

/// Replaces a character that must not reach the terminal.
const HIDDEN: char = '·';

/// The character, or what stands for it; None: it is left out.
pub fn harmless(c: char) -> Option<char> {
    match c {
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => Some(HIDDEN),
        // Bidi: marks, embeddings, overrides, isolates. Separators of lines. Tags.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' => {
            Some(HIDDEN)
        }
        '\u{2028}' | '\u{2029}' | '\u{e0000}'..='\u{e007f}' | '\u{fff9}'..='\u{fffb}' => {
            Some(HIDDEN)
        }
        // They join or vary what stands beside them, if the terminal can do that: most can't.
        '\u{ad}'
        | '\u{200b}'..='\u{200d}'
        | '\u{2060}'..='\u{2064}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' => None,
        c => Some(c),
    }
}

/// Cells that a character takes: 0, 1 or 2.
pub fn width(c: char) -> usize {
    match c {
        ' '..='~' => 1,
        _ => c.width().unwrap_or(0),
    }
}

/// Cells that a text takes.
pub fn width_of(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// A rectangle of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Area {
    /// Column of its left edge.
    pub x: u16,
    /// Row of its upper edge.
    pub y: u16,
    /// Columns.
    pub w: u16,
    /// Rows.
    pub h: u16,
}

impl Area {
    /// Without its outermost cells.
    #[must_use]
    pub fn inner(self) -> Self {
        Self {
            x: self.x + 1,
            y: self.y + 1,
            w: self.w.saturating_sub(2),
            h: self.h.saturating_sub(2),
        }
    }

    /// That cell is in it.
    pub fn has(self, x: u16, y: u16) -> bool {
        (self.x..self.x + self.w).contains(&x) && (self.y..self.y + self.h).contains(&y)
    }
}

/// A whole picture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grid {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
    cells: Vec<Cell>,
    /// Where the cursor is shown; None: nowhere.
    pub cursor: Option<(u16, u16)>,
}

impl Grid {
    /// A blank one.
    pub fn new(width: u16, height: u16) -> Self {
        Self {
            width,
            height,
            cells: vec![Cell::BLANK; usize::from(width) * usize::from(height)],
            cursor: None,
        }
    }

    /// The cells of a row.
    pub fn row(&self, y: u16) -> &[Cell] {
        let from = usize::from(y) * usize::from(self.width);
        self.cells
            .get(from..from + usize::from(self.width))
            .unwrap_or_default()
    }

    fn at(&mut self, x: u16, y: u16) -> Option<&mut Cell> {
        if x >= self.width || y >= self.height {
            return None;
        }
        self.cells
            .get_mut(usize::from(y) * usize::from(self.width) + usize::from(x))
    }

    /// Puts a character; one of two cells needs both. Gives the cells it took. Whatever it is, no control
    /// gets into a picture.
    pub fn set(&mut self, x: u16, y: u16, ch: char, style: Style) -> u16 {
        let Some(ch) = harmless(ch) else { return 0 };
        let wide = match width(ch) {
            0 => {
                self.combine(x, y, ch);
                return 0;
            }
            n => n == 2,
        };
        if wide && x + 1 >= self.width {
            return self.set(x, y, ' ', style);
        }
        self.split(x, y);
        if wide {
            self.split(x + 1, y);
        }
        let style = match ch {
            ' ' if !style.shows_blank() => Style::PLAIN,
            _ => style,
        };
        let mark = '\0';
        if let Some(cell) = self.at(x, y) {
            *cell = Cell { ch, mark, style };
        }
        if !wide {
            return 1;
        }
        if let Some(cell) = self.at(x + 1, y) {
            *cell = Cell {
                ch: '\0',
                mark,
                style,
            };
        }
        2
    }

    /// A character without a cell of its own goes onto the one before.
    fn combine(&mut self, x: u16, y: u16, mark: char) {
        let wide = x >= 2 && self.at(x - 1, y).is_some_and(|cell| cell.ch == '\0');
        let Some(before) = x.checked_sub(if wide { 2 } else { 1 }) else {
            return;
        };
        if let Some(cell) = self.at(before, y).filter(|cell| cell.mark == '\0') {
            cell.mark = mark;
        }
    }

    /// Half of a wide character is nothing: what is left of it when the other half is overwritten is blank.
    fn split(&mut self, x: u16, y: u16) {
        let half = |cell: Option<&mut Cell>| cell.is_some_and(|cell| cell.ch == '\0');
        if half(self.at(x, y))
            && let Some(lead) = x.checked_sub(1).and_then(|x| self.at(x, y))
        {
            *lead = Cell::BLANK;
        }
        if half(self.at(x + 1, y))
            && let Some(rest) = self.at(x + 1, y)
        {
            *rest = Cell::BLANK;
        }
    }

    /// Puts a text into at most `most` cells of a row; gives the column behind it.
    pub fn put(&mut self, x: u16, y: u16, most: u16, text: &str, style: Style) -> u16 {
        let end = x.saturating_add(most).min(self.width);
        let mut at = x;
        for ch in text.chars() {
            let needs = width(harmless(ch).unwrap_or(ch)) as u16;
            if at + needs > end {
                break;
            }
            at += self.set(at, y, ch, style);
        }
        at
    }

    /// Changes how a stretch of a row looks.
    pub fn restyle(&mut self, area: Area, change: impl Fn(Style) -> Style) {
        for y in area.y..area.y + area.h {
            for x in area.x..area.x + area.w {
                if let Some(cell) = self.at(x, y) {
                    cell.style = change(cell.style);
                }
            }
        }
    }

    /// Changes each character; what takes two cells becomes two.
    pub fn each(&mut self, change: impl Fn(char) -> char) {
        for cell in &mut self.cells {
            let wide = cell.ch == '\0';
            cell.ch = change(if wide { ' ' } else { cell.ch });
            cell.mark = '\0';
        }
    }

    /// Blanks an area.
    pub fn clear(&mut self, area: Area) {
        for y in area.y..area.y + area.h {
            for x in area.x..area.x + area.w {
                self.set(x, y, ' ', Style::PLAIN);
            }
        }
    }

    /// As text, a line a row, without blanks at their ends.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for y in 0..self.height {
            let mut line = String::new();
            for cell in self.row(y).iter().filter(|cell| cell.ch != '\0') {
                line.push(cell.ch);
                if cell.mark != '\0' {
                    line.push(cell.mark);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text in at most that many cells; a longer one is cut in its middle.
pub fn cut_middle(text: &str, most: usize) -> String {
    let whole = width_of(text);
    if whole <= most {
        return text.into();
    }
    if most < 2 {
        return if most == 1 {
            "…".into()
        } else {
            String::new()
        };
    }
    let (head, tail) = ((most - 1).div_ceil(2), (most - 1) / 2);
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars().take_while(|c| {
        used += width(*c);
        used <= head
    }) {
        cut.push(c);
    }
    cut.push('…');
    let mut used = 0;
    let end: Vec<char> = text
        .chars()
        .rev()
        .take_while(|c| {
            used += width(*c);
            used <= tail
        })
        .collect();
    cut.extend(end.iter().rev());
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_character_takes_two_cells_or_none() {
        let mut grid = Grid::new(4, 1);
        assert_eq!(grid.put(0, 0, 9, "日本語", Style::PLAIN), 4);
        assert_eq!(grid.text(), "日本\n");
        grid.set(1, 0, 'x', Style::PLAIN);
        assert_eq!(grid.text(), " x本\n");
        grid.set(3, 0, '語', Style::PLAIN);
        assert_eq!(grid.text(), " x\n", "half a character is none");
    }

    #[test]
    fn combining_characters_stay_with_theirs() {
        let mut grid = Grid::new(6, 1);
        grid.put(0, 0, 6, "e\u{301}日\u{301}x\u{200d}\u{fe0f}", Style::PLAIN);
        assert_eq!(grid.text(), "e\u{301}日\u{301}x\n");
    }

    #[test]
    fn a_long_name_is_cut_in_its_middle() {
        assert_eq!(cut_middle("background", 7), "bac…und");
        assert_eq!(cut_middle("background", 10), "background");
        assert_eq!(cut_middle("日本語", 4), "日…");
        assert_eq!(cut_middle("abc", 1), "…");
        assert_eq!(cut_middle("abc", 0), "");
    }
}
