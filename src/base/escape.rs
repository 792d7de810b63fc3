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

/// With hidden characters written out: `\u{202e}`. Newlines and tabs stay.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text
        .bytes()
        .all(|b| matches!(b, b' '..=b'~' | b'\n' | b'\t'))
        || !text.chars().any(is_hidden)
    {
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
}
