//! Pure: text of others (paths, arguments, lines of processes) as it may be shown to a person or a model.

use std::borrow::Cow;

/// Characters that a reader does not see, or sees elsewhere: controls, formats, bidi, tags. A model reads
/// them all the same, so they are a way to tell it what a person never sees.
pub fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}'
        | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// ASCII without controls, but for newlines and tabs. Every line of an answer comes here, so eight bytes are checked at a
/// time.
fn is_plain(text: &[u8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let plain = |b: &u8| matches!(b, b' '..=b'~' | b'\n' | b'\t');
    let all_printable = |bytes: &[u8; 8]| {
        let word = u64::from_ne_bytes(*bytes);
        // The highest bit of a byte is set by one below a blank, by one beyond ASCII, and by DEL.
        let odd = word.wrapping_sub(EACH * 0x20) | word | word.wrapping_add(EACH);
        odd & (EACH << 7) == 0
    };
    let (words, rest) = text.as_chunks();
    words
        .iter()
        .all(|word| all_printable(word) || word.iter().all(plain))
        && rest.iter().all(plain)
}

/// With hidden characters written out: `\u{202e}`. Newlines and tabs stay.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if is_plain(text.as_bytes()) || !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_hidden(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The same, where colours are the only escape sequences that are left.
pub fn coloured(text: &str) -> Cow<'_, str> {
    match escaped(text) {
        Cow::Borrowed(plain) => Cow::Borrowed(plain),
        Cow::Owned(_) => {
            let parts: Vec<_> = text.split('\u{1b}').map(escaped).collect();
            Cow::Owned(parts.join("\u{1b}"))
        }
    }
}

/// The same in one line: a newline or a tab is written out as well.
pub fn in_line(text: &str) -> Cow<'_, str> {
    match escaped(text) {
        Cow::Borrowed(plain) if !plain.contains(['\n', '\t']) => Cow::Borrowed(plain),
        text => Cow::Owned(text.replace('\n', "\\u{a}").replace('\t', "\\u{9}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_written_out() {
        assert_eq!(escaped("a\tb\nc"), "a\tb\nc");
        assert_eq!(escaped("a\u{1b}[2J\u{202e}"), "a\\u{1b}[2J\\u{202e}");
        assert_eq!(in_line("a\tb\nc\u{1b}"), "a\\u{9}b\\u{a}c\\u{1b}");
        assert_eq!(in_line("läden"), "läden");
        assert_eq!(coloured("\u{1b}[1ma\u{9b}"), "\u{1b}[1ma\\u{9b}");
    }

    #[test]
    fn hidden_characters_are_found_at_each_place() {
        for c in '\0'..='\u{ff}' {
            for at in 0..17 {
                let text = format!("{:a<at$}{c}{:a<1$}", "", 16 - at);
                let borrowed = matches!(escaped(&text), Cow::Borrowed(_));
                assert_eq!(borrowed, !is_hidden(c), "{text:?}");
            }
        }
    }
}
