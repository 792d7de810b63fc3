//! Pure: no system call, no thread, no clock.
//!
//! Where in a JSON text things stand: the parser keeps no lines.

/// An object that begins, or a key of one.
pub(super) enum Mark<'t> {
    /// An object begins.
    Object,
    /// A key, as written between its quotes.
    Key(&'t str),
}

/// Objects and keys of a text that is JSON, each with how many objects and lists it is in (an object
/// counts itself) and its line.
pub(super) fn marks(text: &str) -> Vec<(usize, Mark<'_>, usize)> {
    let (mut found, mut depth, mut line, mut at) = (Vec::new(), 0usize, 1, 0);
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\n' => line += 1,
            b'{' => {
                depth += 1;
                found.push((depth, Mark::Object, line));
            }
            b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let start = at;
                while bytes.get(at).is_some_and(|b| *b != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let inside = text.get(start..at).unwrap_or_default();
                at += 1;
                let rest = text.get(at..).unwrap_or_default();
                if rest.trim_start().starts_with(':') {
                    found.push((depth, Mark::Key(inside), line));
                }
            }
            _ => {}
        }
    }
    found
}

/// The line of a key below these keys: `["scripts", "dev"]`.
pub(super) fn line_of(text: &str, path: &[&str]) -> usize {
    let (mut seen, mut last) = (0, 1);
    for (depth, mark, line) in marks(text) {
        if let Mark::Key(key) = mark {
            if depth == seen + 1 && path.get(seen) == Some(&key) {
                (seen, last) = (seen + 1, line);
            } else if depth < seen {
                seen = depth;
            }
        }
        if seen == path.len() {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_at_their_lines() {
        let text = "{\n \"a\": {\"dev\": \"}{\\\"\"},\n \"scripts\": {\n  \"x\": 1,\n  \"dev\": \"y\"\n }\n}";
        assert_eq!(line_of(text, &["scripts", "dev"]), 5);
        assert_eq!(line_of(text, &["a", "dev"]), 2);
        assert_eq!(line_of(text, &["a"]), 2);
    }
}
