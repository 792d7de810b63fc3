//! Pure: no system call, no thread, no clock.
//!
//! Text as TOML writes it, and words as the files that are read split them.

use crate::base::escape::is_hidden;

/// A TOML string, in which nothing is hidden from a person who reads it.
pub(in crate::cli) fn toml(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_hidden(c) && c > '\u{ffff}' => {
                out.push_str(&format!("\\U{:08X}", u32::from(c)));
            }
            c if is_hidden(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A TOML list of strings.
pub(super) fn toml_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| toml(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A key of a TOML table, quoted where it must be.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.into(),
        false => toml(name),
    }
}

/// Text that bpm expands and that is to stay as it is: `${` and `$$` mean something there.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        out.push(c);
        if c == '$' && matches!(rest.peek(), Some('$' | '{')) {
            out.push('$');
        }
    }
    out
}

/// On one line, for a comment; shortened where it is long.
pub(super) fn brief(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if is_hidden(c) => ' ',
            c => c,
        })
        .collect();
    match line.char_indices().nth(120) {
        Some((cut, _)) => format!("{}...", &line[..cut]),
        None => line,
    }
}

/// Splits as a shell does without expanding anything. `escapes`: a backslash quotes what follows (Python's
/// shlex); otherwise it stands for itself (pm2). None: a quote is not closed.
pub(super) fn words(text: &str, escapes: bool) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '\\') if escapes => match rest.next()? {
                c @ ('"' | '\\') => word.get_or_insert_default().push(c),
                c => word.get_or_insert_default().extend(['\\', c]),
            },
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') if escapes => word.get_or_insert_default().push(rest.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_strings_are_read_back_as_they_were() {
        for text in [
            "",
            "a\"b\\c",
            "\n\t\r\u{1b}\u{7f}",
            "é\u{a0}🚀",
            "a\u{202e}b\u{e0041}",
            "${X} $$ %",
        ] {
            let file = format!("x = {}", toml(text));
            let table = toml::de::DeTable::parse(&file).unwrap();
            let value = table.get_ref().get("x").unwrap().get_ref();
            assert_eq!(value.as_str(), Some(text));
        }
        assert_eq!(toml("a\u{202e}"), "\"a\\u202E\"");
        assert_eq!(key("A_b-1"), "A_b-1");
        assert_eq!(key("a.b"), "\"a.b\"");
    }

    #[test]
    fn literal_text_survives_bpm_s_expansion() {
        for text in ["$", "$$", "$$$", "${X}", "$${X}", "a$b", "$5", "100%"] {
            let expanded = crate::config::expand(&literal(text), |_| None);
            assert_eq!(expanded.as_deref(), Ok(text));
        }
    }

    #[test]
    fn words_are_split_as_the_sources_split_them() {
        let split = |text, escapes| words(text, escapes).unwrap();
        assert_eq!(
            split("a  'b c' \"d\\\"e\" f\\ g ''", true),
            ["a", "b c", "d\"e", "f g", ""]
        );
        assert_eq!(split("a\\b \"c d\"", false), ["a\\b", "c d"]);
        assert_eq!(words("a 'b", true), None);
        assert_eq!(
            split("--x=\"1 2\" && $HOME", true),
            ["--x=1 2", "&&", "$HOME"]
        );
    }
}
