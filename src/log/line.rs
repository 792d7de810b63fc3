//! Pure: no system call, no thread, no clock.
//!
//! What a process wrote, as a text: without escape sequences and without the line's end.

use std::borrow::Cow;

use memchr::memchr;

const ESC: u8 = 0x1b;

/// Appends `src` without its escape sequences. One that is not finished ends with its line.
pub fn strip_into(mut src: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr(ESC, src) {
        out.extend_from_slice(&src[..at]);
        src = &src[at + sequence(&src[at..])..];
    }
    out.extend_from_slice(src);
}

/// The line without escapes, newline and the carriage return before it.
pub fn text_of(line: &[u8]) -> String {
    if memchr(ESC, line).is_none() {
        return lossy(content(line)).into_owned();
    }
    // The end of the line is taken off once, as a search does: what stands before it
    // may be another carriage return.
    let mut plain = Vec::with_capacity(line.len());
    strip_into(line, &mut plain);
    lossy(content(&plain)).into_owned()
}

/// The line without newline and the carriage return before it.
pub fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The length of the escape sequence that `src` begins with (ECMA-48, and xterm's control sequences).
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
        Some(_) | None => 1,
    }
}

fn string(src: &[u8]) -> usize {
    let end = 2 + run(&src[2..], |b| !matches!(b, 0x07 | b'\n' | ESC));
    match (src.get(end), src.get(end + 1)) {
        (Some(0x07), _) => end + 1,
        (Some(&ESC), Some(b'\\')) => end + 2,
        // Its line's end; or another sequence, which ends this one.
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
    fn escapes_go_and_text_stays() {
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
            ("a\rb\r\r\n", "a\rb\r"),
            ("nul\0 stays", "nul\0 stays"),
            ("\x1b[31mred\r\x1b[0m\n", "red"),
            ("\r\x1b\r\n", "\r"),
            ("", ""),
        ] {
            assert_eq!(text_of(raw.as_bytes()), text, "{raw:?}");
        }
        assert_eq!(text_of(b"bad \xff\xfe utf"), "bad \u{fffd}\u{fffd} utf");
    }

    #[test]
    fn a_sequence_never_eats_a_newline() {
        let mut out = Vec::new();
        strip_into(b"a\x1b]0;t\nb\x1b[1\nc\x1b\nd", &mut out);
        assert_eq!(out, b"a\nb\nc\nd");
    }
}
