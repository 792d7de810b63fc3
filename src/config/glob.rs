//! The patterns of `watch`, as regular expressions: linear in time, whatever is written.

use regex_lite::{Regex, RegexBuilder};

/// What a pattern may compile to.
const LARGEST_REGEX: usize = 64 << 10;

/// A matcher for paths relative to the project's root, with `/` between names and none before the first.
///
/// `*` is any characters of one name, `?` one of them, `[a-z]` and `[!a-z]` one of a set, `{a,b}` either, `**` between slashes any
/// number of folders, and at the end everything below. A pattern that ends in a plain name is also everything below a
/// folder of that name. The error says what makes no sense.
pub fn glob(pattern: &str) -> Result<Regex, String> {
    let text = translate(pattern).map_err(|why| format!("{pattern:?} {why}"))?;
    RegexBuilder::new(&text)
        .size_limit(LARGEST_REGEX)
        .dot_matches_new_line(true)
        .build()
        .map_err(|e| format!("{pattern:?} does not compile: {e}"))
}

fn translate(pattern: &str) -> Result<String, &'static str> {
    if pattern.starts_with('/') {
        return Err("is absolute; globs are below the project's root");
    }
    let mut out = String::from("^");
    let mut parts = pattern.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "" => return Err("has an empty part; to watch a folder, write \"folder/**\""),
            "." | ".." => {
                return Err("has \".\" or \"..\" in it; globs are below the project's root");
            }
            "**" if is_last => out.push_str(".+"),
            "**" => out.push_str("(?:[^/]+/)*"),
            _ if part.contains("**") => {
                return Err("has \"**\" beside other characters; it stands alone between slashes");
            }
            _ => {
                name(&mut out, part)?;
                if !is_last {
                    out.push('/');
                } else if !part.contains(['*', '?', '[', '{']) {
                    out.push_str("(?:/.*)?");
                }
            }
        }
    }
    out.push('$');
    Ok(out)
}

/// One name of a path.
fn name(out: &mut String, part: &str) -> Result<(), &'static str> {
    let mut in_braces = false;
    let mut letters = part.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => set(out, &mut letters)?,
            '{' if in_braces => return Err("has \"{\" within \"{\""),
            '{' => {
                out.push_str("(?:");
                in_braces = true;
            }
            '}' if !in_braces => return Err("has a \"}\" without its \"{\""),
            '}' => {
                out.push(')');
                in_braces = false;
            }
            ',' if in_braces => out.push('|'),
            other => literal(out, other),
        }
    }
    if in_braces {
        return Err("has a \"{\" without its \"}\" in the same name");
    }
    Ok(())
}

/// What stands after `[`. Its first character stands for itself, even where it is `]`.
fn set(out: &mut String, letters: &mut std::str::Chars) -> Result<(), &'static str> {
    out.push('[');
    let mut next = letters.next();
    if let Some('!' | '^') = next {
        out.push_str("^/");
        next = letters.next();
    }
    let mut is_first = true;
    loop {
        match next {
            None => return Err("has a \"[\" without its \"]\" in the same name"),
            Some(']') if !is_first => break,
            Some('-') if !is_first => out.push('-'),
            Some(other) => literal(out, other),
        }
        is_first = false;
        next = letters.next();
    }
    out.push(']');
    Ok(())
}

fn literal(out: &mut String, letter: char) {
    if letter.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(letter);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths() {
        for (pattern, yes, no) in [
            ("src", "src src/a src/a/b.rs", "asrc src2 a/src"),
            ("a/b.txt", "a/b.txt a/b.txt/c", "a/bxtxt a b.txt"),
            ("*.rs", "a.rs .rs", "a/b.rs a.rsx a.rs/b"),
            ("src/**", "src/a src/a/b", "src a/src/b"),
            ("**", "a a/b/c", ""),
            ("**/*.rs", "a.rs a/b.rs a/b/c.rs", "a.r"),
            ("src/**/x", "src/x src/a/x src/a/b/x src/x/y", "src/ax x"),
            ("?é*", "aé éébc", "é a/é"),
            ("*.{rs,to?l}", "a.rs a.toml", "a.tol a.rs,toml"),
            ("[a-c]x", "ax cx", "dx -x"),
            ("[!a-c]x", "dx", "ax /x"),
            ("[^]a]", "b", "] a"),
            ("[]a]", "] a", "b"),
            ("[-a][a-]", "-- a-", "b-"),
            ("a+(b).$|^\\d", "a+(b).$|^\\d", "aab1"),
            ("{,a}b", "b ab", "aab"),
        ] {
            let regex = glob(pattern).unwrap();
            for path in yes.split_whitespace() {
                assert!(regex.is_match(path), "{pattern} {path} {regex}");
            }
            for path in no.split_whitespace() {
                assert!(!regex.is_match(path), "{pattern} {path} {regex}");
            }
        }
        assert!(glob("a*b").unwrap().is_match("a \n b"));
    }

    #[test]
    fn nonsense_is_refused() {
        for (pattern, why) in [
            ("", "empty part"),
            ("/a", "absolute"),
            ("a//b", "empty part"),
            ("a/", "folder/**"),
            ("../a", "\"..\""),
            ("./a", "\".\""),
            ("a**", "stands alone"),
            ("[a", "without its \"]\""),
            ("[]", "without its \"]\""),
            ("[a/b]", "in the same name"),
            ("{a", "without its \"}\""),
            ("a}", "without its \"{\""),
            ("{a{b}}", "within"),
            ("[z-a]", "does not compile"),
        ] {
            let said = glob(pattern).expect_err(pattern);
            assert!(said.contains(why), "{pattern}: {said}");
        }
        assert!(glob(&"[!a]".repeat(20_000)).is_err());
    }
}
