//! Pure: no system call, no thread, no clock.
//!
//! A line that a process wrote, as a text: without escape sequences, and without what a carriage return
//! made a terminal write over.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memrchr};

const ESC: u8 = 0x1b;
const RESET: &[u8] = b"\x1b[0m";

/// Appends `src` without its escape sequences. A sequence that is not finished ends with its line.
pub fn strip_into(src: &[u8], out: &mut Vec<u8>) {
    for (text, _) in pieces(src) {
        out.extend_from_slice(text);
    }
}

/// Appends a line as a terminal shows it, in its colours, which end with it; of all escape sequences only
/// colours (SGR) are left.
pub fn coloured_into(line: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let (mut returned, mut coloured) = (false, false);
    // The colours that are on, which outlive a carriage return.
    let mut on = Vec::new();
    for (text, escape) in pieces(line.strip_suffix(b"\n").unwrap_or(line)) {
        for part in text.split_inclusive(|b| *b == b'\r') {
            let bare = part.strip_suffix(b"\r").unwrap_or(part);
            if returned && !bare.is_empty() {
                out.truncate(begin);
                out.extend_from_slice(&on);
                returned = false;
            }
            out.extend_from_slice(bare);
            returned |= bare.len() < part.len();
        }
        if is_colour(escape) {
            out.extend_from_slice(escape);
            coloured = true;
            if escape == RESET {
                on.clear();
            } else {
                on.extend_from_slice(escape);
            }
        }
    }
    if coloured {
        out.extend_from_slice(RESET);
    }
}

/// A line with its colours, as [`coloured_into`] shows it; None where it has none. Invalid UTF-8 is replaced.
pub fn coloured(line: &[u8]) -> Option<String> {
    memchr(ESC, line)?;
    let mut out = Vec::with_capacity(line.len());
    coloured_into(line, &mut out);
    out.ends_with(RESET).then(|| lossy(&out).into_owned())
}

/// The bytes of a line, where they are more than its text and a newline.
pub fn beyond_text(line: &[u8], text: &str) -> Option<Box<[u8]>> {
    let same = line.strip_suffix(b"\n") == Some(text.as_bytes());
    (!same).then(|| line.into())
}

/// The text of a line: what [`shown`] leaves of it, without escape sequences; invalid UTF-8 replaced.
pub fn text_of(line: &[u8]) -> String {
    if memchr(ESC, line).is_none() {
        return lossy(shown(line)).into_owned();
    }
    let mut plain = Vec::with_capacity(line.len());
    strip_into(line, &mut plain);
    lossy(shown(&plain)).into_owned()
}

/// The part of a line without escapes that a terminal shows.
pub fn shown(line: &[u8]) -> &[u8] {
    &line[shown_part(line)]
}

/// The place of that part: behind the last carriage return, those at the line's end not counted.
pub fn shown_part(line: &[u8]) -> Range<usize> {
    let mut text = line.strip_suffix(b"\n").unwrap_or(line);
    while let Some(rest) = text.strip_suffix(b"\r") {
        text = rest;
    }
    memrchr(b'\r', text).map_or(0, |at| at + 1)..text.len()
}

pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // Nearly all lines are valid, and that is checked several bytes at a time.
    match str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// Texts, each with the escape sequence that follows it (empty for the last one).
fn pieces(mut src: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        if src.is_empty() {
            return None;
        }
        let text = memchr(ESC, src).unwrap_or(src.len());
        let end = text + sequence(&src[text..]);
        let piece = (&src[..text], &src[text..end]);
        src = &src[end..];
        Some(piece)
    })
}

/// `ESC [ 1 ; 31 m`. With a private mark (`ESC [ > 4 m`) it sets something else.
fn is_colour(escape: &[u8]) -> bool {
    let numbers = escape
        .strip_prefix(b"\x1b[")
        .and_then(|rest| rest.strip_suffix(b"m"));
    numbers.is_some_and(|n| {
        n.iter()
            .all(|b| b.is_ascii_digit() || matches!(b, b';' | b':'))
    })
}

/// The length of the escape sequence that `src` begins with (ECMA-48, and xterm's control sequences); zero
/// at its end.
fn sequence(src: &[u8]) -> usize {
    match src.get(1) {
        Some(b'[') => {
            let body = run(&src[2..], |b| (0x20..=0x3f).contains(&b));
            2 + body + usize::from(src.get(2 + body).is_some_and(|b| (0x40..=0x7e).contains(b)))
        }
        // OSC, DCS, SOS, PM, APC: strings, up to BEL or ESC \.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => string(src),
        // ESC ( B and the like.
        Some(0x20..=0x2f) => {
            let body = run(&src[1..], |b| (0x20..=0x2f).contains(&b));
            1 + body + usize::from(src.get(1 + body).is_some_and(|b| (0x30..=0x7e).contains(b)))
        }
        Some(0x30..=0x7e) => 2,
        Some(_) | None => src.len().min(1),
    }
}

fn string(src: &[u8]) -> usize {
    let end = 2 + run(&src[2..], |b| !matches!(b, 0x07 | b'\n' | ESC));
    match (src.get(end), src.get(end + 1)) {
        (Some(0x07), _) => end + 1,
        (Some(&ESC), Some(b'\\')) => end + 2,
        // The line's end; or another sequence, which ends this one.
        (_, _) => end,
    }
}

fn run(bytes: &[u8], within: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|b| within(**b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_a_terminal_shows() {
        for (raw, text) in [
            ("plain\r\n", "plain"),
            ("\x1b[1;31merror\x1b[0m: no\n", "error: no"),
            ("\x1b]0;a title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ end", "link end"),
            ("\x1b(Bx\x1b=y\x1b7z", "xyz"),
            ("cut \x1b[31", "cut "),
            ("cut \x1b", "cut "),
            ("cut \x1b]0;never ends", "cut "),
            ("\x1b[3\x1b[0mx", "x"),
            ("\x1b]0;a\x1b[0mx", "x"),
            ("a\rb\r\r\n", "b"),
            ("50%\r100%\n", "100%"),
            ("50%\r", "50%"),
            ("\x1b[2K50%\r\x1b[2K100%", "100%"),
            ("nul\0 stays", "nul\0 stays"),
            ("\x1b[31mred\r\x1b[0m\n", "red"),
            ("\r\x1b\r\n", ""),
            ("", ""),
        ] {
            assert_eq!(text_of(raw.as_bytes()), text, "{raw:?}");
        }
        assert_eq!(text_of(b"bad \xff\xfe utf"), "bad \u{fffd}\u{fffd} utf");
    }

    #[test]
    fn escape_never_takes_a_newline_with_it() {
        let mut out = Vec::new();
        strip_into(b"a\x1b]0;t\nb\x1b[1\nc\x1b\nd", &mut out);
        assert_eq!(out, b"a\nb\nc\nd");
    }

    #[test]
    fn colours_are_kept_and_end_with_the_line() {
        for (raw, shown) in [
            ("plain\r\n", "plain"),
            (
                "\x1b[1;31merror\x1b[0m: no\n",
                "\x1b[1;31merror\x1b[0m: no\x1b[0m",
            ),
            ("\x1b[31mred to the end\n", "\x1b[31mred to the end\x1b[0m"),
            ("\x1b[38:5:9mx", "\x1b[38:5:9mx\x1b[0m"),
            ("\x1b[2J\x1b[H\x1b[?25lclear\x1b]0;title\x07\n", "clear"),
            ("\x1b[>4;2mkeys\n", "keys"),
            ("\x1b[31mred\r\x1b[0m\n", "\x1b[31mred\x1b[0m\x1b[0m"),
            ("10%\r\x1b[32m100%\n", "\x1b[32m100%\x1b[0m"),
            (
                "\x1b[1mold\x1b[0m\x1b[31m10%\r100%\n",
                "\x1b[31m100%\x1b[0m",
            ),
            ("cut \x1b[31", "cut "),
        ] {
            let mut out = b"before ".to_vec();
            coloured_into(raw.as_bytes(), &mut out);
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.strip_prefix("before "), Some(shown), "{raw:?}");
        }
    }
}
