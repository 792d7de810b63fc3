//! A pattern for lines that come one by one.

use regex_lite::{Regex, RegexBuilder};

use crate::json::brief;

/// Longer patterns are no patterns.
const LONGEST: usize = 1_000;
/// Bytes of a compiled pattern: `(a{1000}){1000}` is refused instead of compiled.
const LARGEST: usize = 1 << 20;

/// A pattern, compiled.
#[derive(Debug)]
pub(super) struct Matcher(Regex);

impl Matcher {
    /// Compiles; Err: what is wrong with the pattern, and what to do.
    pub(super) fn new(pattern: &str, literal: bool, ignore_case: bool) -> Result<Self, String> {
        let refused = |why: &str| {
            format!(
                "cannot use the pattern {:?}: {why}; to match the text as it is, escape it",
                brief(pattern)
            )
        };
        if pattern.len() > LONGEST {
            return Err(refused(&format!("it is longer than {LONGEST} bytes")));
        }
        let source = if literal {
            regex_lite::escape(pattern)
        } else {
            pattern.to_owned()
        };
        RegexBuilder::new(&source)
            .case_insensitive(ignore_case)
            .size_limit(LARGEST)
            .build()
            .map(Self)
            .map_err(|e| refused(&e.to_string()))
    }

    /// It is in this line.
    pub(super) fn is_match(&self, line: &str) -> bool {
        self.0.is_match(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_or_are_refused_with_the_reason() {
        assert!(
            Matcher::new("ready.*8080", false, false)
                .unwrap()
                .is_match("ready on 8080")
        );
        assert!(!Matcher::new("a.b", true, false).unwrap().is_match("axb"));
        assert!(Matcher::new("a.b", true, true).unwrap().is_match("A.B"));
        for bad in ["(", "(a{1000}){1000}", &"x".repeat(1_001)] {
            let why = Matcher::new(bad, false, false).unwrap_err();
            assert!(why.starts_with("cannot use the pattern"), "{why}");
            assert!(why.len() < 400, "{why}");
        }
    }
}
