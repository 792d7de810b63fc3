//! Pure: no system call, no thread, no clock.
//!
//! A line that a process printed, as characters that can be shown. Of its escape sequences the colours are
//! kept; nothing else of it reaches the terminal as a control.

use super::cell::{BOLD, Color, DIM, ITALIC, REVERSE, Style, UNDERLINE, harmless, width};

/// Columns between two tab stops.
const TAB: usize = 8;
/// A line is shown up to this number of cells: nobody scrolls further to the right.
const LONGEST: usize = 100_000;

/// Calls `each` with each character to be shown, its style, and the column that it begins in. Wide
/// characters take two columns, combining ones none.
pub fn shown(line: &str, mut each: impl FnMut(char, Style, usize)) {
    let line = last_part(line);
    let mut style = Style::PLAIN;
    let mut column = 0;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if column > LONGEST {
            return;
        }
        let behind = &rest[c.len_utf8()..];
        if (c == '\x1b' || c == '\u{9b}')
            && let Some((length, codes)) = escape(rest)
        {
            if let Some(codes) = codes {
                colours(codes, &mut style);
            }
            rest = &rest[length..];
            continue;
        }
        rest = behind;
        if c == '\t' {
            let stop = (column / TAB + 1) * TAB;
            for at in column..stop {
                each(' ', style, at);
            }
            column = stop;
            continue;
        }
        let Some(c) = harmless(c) else { continue };
        each(c, style, column);
        column += width(c);
    }
}

/// The characters of a line without colours, as they are shown.
pub fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    shown(line, |c, _, _| text.push(c));
    text
}

/// Behind the last bare carriage return: a progress bar ends as its last state.
fn last_part(line: &str) -> &str {
    let line = line.trim_end_matches(['\n', '\r']);
    match line.rfind('\r') {
        Some(at) => &line[at + 1..],
        None => line,
    }
}

/// The length of the sequence that the text begins with, and its codes where it sets colours. None: a lone
/// escape.
fn escape(text: &str) -> Option<(usize, Option<&str>)> {
    let (intro, body) = match text.strip_prefix("\x1b[") {
        Some(body) => (2, body),
        None => match text.strip_prefix('\u{9b}') {
            Some(body) => (2, body),
            None => return string(text),
        },
    };
    let length = body
        .bytes()
        .take_while(|b| (0x20..=0x3f).contains(b))
        .count();
    let last = *body.as_bytes().get(length)?;
    if !(0x40..=0x7e).contains(&last) {
        // Not a sequence: what it consists of is shown.
        return Some((intro + length, None));
    }
    let codes = &body[..length];
    let sets = last == b'm'
        && codes
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b';' || b == b':');
    Some((intro + length + 1, sets.then_some(codes)))
}

/// OSC, DCS and the like up to their end; two-character sequences.
fn string(text: &str) -> Option<(usize, Option<&str>)> {
    let bytes = text.as_bytes();
    match bytes.get(1)? {
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let end = bytes
                .iter()
                .enumerate()
                .skip(2)
                .find(|(_, b)| matches!(b, 0x07 | 0x1b));
            Some(match end {
                Some((at, 0x07)) => (at + 1, None),
                Some((at, _)) if bytes.get(at + 1) == Some(&b'\\') => (at + 2, None),
                Some((at, _)) => (at, None),
                None => (bytes.len(), None),
            })
        }
        0x20..=0x2f => {
            let body = bytes[1..]
                .iter()
                .take_while(|b| (0x20..=0x2f).contains(*b))
                .count();
            let whole = bytes
                .get(1 + body)
                .is_some_and(|b| (0x30..=0x7e).contains(b));
            Some((1 + body + usize::from(whole), None))
        }
        0x30..=0x7e => Some((2, None)),
        _ => None,
    }
}

/// Applies SGR codes to a style.
fn colours(codes: &str, style: &mut Style) {
    let mut numbers = codes
        .split([';', ':'])
        .map(|n| n.parse::<u16>().unwrap_or(0));
    while let Some(code) = numbers.next() {
        match code {
            0 => *style = Style::PLAIN,
            1 => style.attrs |= BOLD,
            2 => style.attrs |= DIM,
            3 => style.attrs |= ITALIC,
            4 => style.attrs |= UNDERLINE,
            7 => style.attrs |= REVERSE,
            22 => style.attrs &= !(BOLD | DIM),
            23 => style.attrs &= !ITALIC,
            24 => style.attrs &= !UNDERLINE,
            27 => style.attrs &= !REVERSE,
            30..=37 => style.fg = Color::Index(code as u8 - 30),
            39 => style.fg = Color::Default,
            40..=47 => style.bg = Color::Index(code as u8 - 40),
            49 => style.bg = Color::Default,
            90..=97 => style.fg = Color::Index(code as u8 - 82),
            100..=107 => style.bg = Color::Index(code as u8 - 92),
            38 | 48 => {
                let color = extended(&mut numbers);
                if let Some(color) = color {
                    let place = if code == 38 {
                        &mut style.fg
                    } else {
                        &mut style.bg
                    };
                    *place = color;
                }
            }
            _ => {}
        }
    }
}

fn extended(numbers: &mut impl Iterator<Item = u16>) -> Option<Color> {
    let mut byte = || numbers.next().and_then(|n| u8::try_from(n).ok());
    match byte()? {
        5 => byte().map(Color::Index),
        2 => Some(Color::Rgb(byte()?, byte()?, byte()?)),
        _ => None,
    }
}

/// Rows that a line takes in a panel of this width.
pub fn rows(line: &str, columns: usize) -> usize {
    let columns = columns.max(1);
    // Most lines are short: their bytes are at least as many as their cells, but for tabs.
    if line.len() <= columns && !line.contains('\t') {
        return 1;
    }
    let (mut rows, mut used) = (1, 0);
    shown(line, |c, _, _| {
        let needs = width(c).min(columns);
        if used + needs > columns {
            rows += 1;
            used = 0;
        }
        used += needs;
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_pass() {
        for (line, text) in [
            ("plain", "plain"),
            ("\x1b[1;31merror\x1b[0m: no", "error: no"),
            ("\x1b]0;a title\x07after", "after"),
            ("\x1b]52;c;aGFjaw==\x1b\\after", "after"),
            ("\x1b[2J\x1b[Hx", "x"),
            ("a\x07b\u{9b}31mc\u{85}", "a·bc·"),
            ("\x1bPq\x1b\\x\x1b(By", "xy"),
            ("\x1b", "·"),
            ("a\tb", "a       b"),
            ("10%\r20%\r30%\r", "30%"),
            ("safe\u{202e}evil\u{2066}", "safe·evil·"),
            ("a\u{200b}b\u{feff}", "ab"),
            ("nul\0", "nul·"),
        ] {
            assert_eq!(plain(line), text, "{line:?}");
        }
    }

    #[test]
    fn colours_are_read() {
        let mut styles = Vec::new();
        shown(
            "\x1b[1;31ma\x1b[38;5;200mb\x1b[22;48;2;1;2;3mc\x1b[md\x1b[38;5m",
            |_, style, _| styles.push(style),
        );
        assert_eq!(styles[0], Style::RED.with(BOLD));
        assert_eq!(styles[1].fg, Color::Index(200));
        assert_eq!((styles[2].bg, styles[2].attrs), (Color::Rgb(1, 2, 3), 0));
        assert_eq!(styles[3], Style::PLAIN);
    }

    #[test]
    fn rows_are_counted_as_they_are_shown() {
        assert_eq!(rows("", 10), 1);
        assert_eq!(rows("0123456789", 10), 1);
        assert_eq!(rows("0123456789a", 10), 2);
        assert_eq!(rows("日本語日本", 5), 3);
        assert_eq!(rows("\tx", 5), 2);
        assert_eq!(rows("x", 0), 1);
    }
}
