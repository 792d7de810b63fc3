//! Pure: no system call, no thread, no clock.
//!
//! A pattern, compiled so that most lines are never read: a text that each match must contain is found with
//! memmem, and regex-lite, which is slow, sees only the lines around it.

use memchr::memmem::Finder;
use regex_lite::{Regex, RegexBuilder};

use super::QueryError;
use crate::log::line::lossy;

/// Longer patterns are refused.
const LONGEST: usize = 1_000;
/// Bytes of a compiled pattern: bounds the time for a byte of a line to some microseconds.
const LARGEST: usize = 64 << 10;
/// Of a longer line only this much is matched by a regex; a literal is found anywhere.
const MOST_MATCHED: usize = 16 << 10;

/// A compiled pattern.
#[derive(Debug)]
pub struct Matcher {
    /// A text that each match contains.
    pub(super) needle: Option<Needle>,
    rest: Rest,
}

/// The rest of the condition for a line that has the needle.
#[derive(Debug)]
enum Rest {
    Anything,
    /// `error.*timeout`, the usual question: these one after another, without any regex.
    InOrder(Vec<Finder<'static>>),
    Regex(Regex),
}

/// A text to be found in bytes.
#[derive(Debug)]
pub(super) struct Needle {
    finder: Finder<'static>,
    /// The needle is in lower case, and what it is looked for in must be.
    pub(super) folded: bool,
}

impl Needle {
    fn new(text: &str, folded: bool) -> Self {
        let text = if folded {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        };
        Self {
            finder: Finder::new(text.as_bytes()).into_owned(),
            folded,
        }
    }

    pub(super) fn find(&self, hay: &[u8]) -> Option<usize> {
        self.finder.find(hay)
    }

    pub(super) fn len(&self) -> usize {
        self.finder.needle().len()
    }
}

impl Matcher {
    /// Compiles. An empty pattern matches every line.
    ///
    /// # Errors
    /// It is no regex, longer than 1,000 bytes, or too large when compiled.
    pub fn new(pattern: &str, literal: bool, ignore_case: bool) -> Result<Self, QueryError> {
        if pattern.len() > LONGEST {
            return Err(QueryError::Pattern(format!(
                "it has {} bytes; at most {LONGEST} are allowed",
                pattern.len()
            )));
        }
        // The replacement for invalid UTF-8 can't be found in the bytes.
        if literal && !pattern.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(Self {
                needle: (!pattern.is_empty()).then(|| Needle::new(pattern, ignore_case)),
                rest: Rest::Anything,
            });
        }
        let escaped;
        let source = if literal {
            escaped = regex_lite::escape(pattern);
            escaped.as_str()
        } else {
            pattern
        };
        let regex = RegexBuilder::new(source)
            .case_insensitive(ignore_case)
            .size_limit(LARGEST)
            .build()
            .map_err(|e| QueryError::Pattern(e.to_string()))?;
        let required = required(source);
        let folded = ignore_case || required.folded;
        let rest = match required.parts {
            Some(parts) if parts.len() == 1 => Rest::Anything,
            Some(parts) => {
                let finder = |part: String| Needle::new(&part, folded).finder;
                Rest::InOrder(parts.into_iter().map(finder).collect())
            }
            None => Rest::Regex(regex),
        };
        Ok(Self {
            rest,
            needle: required.text.map(|text| Needle::new(&text, folded)),
        })
    }

    /// It is in this line: a text without escapes.
    pub fn is_match(&self, line: &str) -> bool {
        let folded;
        let hay = match &self.needle {
            Some(needle) if needle.folded => {
                folded = line.to_ascii_lowercase();
                folded.as_bytes()
            }
            Some(_) | None => line.as_bytes(),
        };
        let found = |needle: &Needle| needle.find(hay).is_some();
        self.needle.as_ref().is_none_or(found) && self.confirms(line.as_bytes(), hay)
    }

    /// The line (without escapes and newline), which contains the needle, is a match. `hay`: the same,
    /// in lower case if the needle is.
    pub(super) fn confirms(&self, line: &[u8], hay: &[u8]) -> bool {
        match &self.rest {
            Rest::Anything => true,
            Rest::InOrder(parts) => {
                let mut from = 0;
                parts.iter().all(|part| {
                    let found = part.find(&hay[from..]);
                    from += found.map_or(0, |at| at + part.needle().len());
                    found.is_some()
                })
            }
            Rest::Regex(regex) => {
                let mut cut = line.len().min(MOST_MATCHED);
                // Not in the middle of a character.
                while cut > 0 && cut < line.len() && line[cut] & 0xc0 == 0x80 {
                    cut -= 1;
                }
                regex.is_match(&lossy(&line[..cut]))
            }
        }
    }

    /// The cost of confirming a line, in bytes of a regex's work.
    pub(super) fn cost(&self, line: &[u8]) -> usize {
        match self.rest {
            Rest::Anything => 0,
            Rest::InOrder(_) => line.len() / 64,
            Rest::Regex(_) => line.len().min(MOST_MATCHED) + 64,
        }
    }
}

/// The texts that every match of a pattern contains.
#[derive(Debug, Default, PartialEq, Eq)]
struct Required {
    text: Option<String>,
    /// In any case (a leading `(?i)`).
    folded: bool,
    /// The pattern is nothing but these, with `.*` between them.
    parts: Option<Vec<String>>,
}

/// The longest literal run at the top level of a pattern that compiles. In doubt none: a text that is not
/// required after all would hide matches (a test compares with plain regex-lite).
fn required(pattern: &str) -> Required {
    let body = pattern.strip_prefix("(?i)");
    let folded = body.is_some();
    let body = body.unwrap_or(pattern);
    let Some((text, _)) = Scan::new(body).run() else {
        return Required::default();
    };
    // Where `.*` is not what it seems (in a class, escaped, lazy), a part is no literal.
    let part = |part| Scan::new(part).run().filter(|(_, whole)| *whole);
    let parts = body.split(".*").map(|p| part(p).map(|(text, _)| text));
    Required {
        folded,
        parts: parts.collect(),
        text: (!text.is_empty()).then_some(text),
    }
}

struct Scan<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    best: String,
    run: String,
    whole: bool,
}

impl<'a> Scan<'a> {
    fn new(pattern: &'a str) -> Self {
        Self {
            rest: pattern.chars().peekable(),
            best: String::new(),
            run: String::new(),
            whole: true,
        }
    }

    /// The longest run, and whether it is all; None: can't tell.
    fn run(mut self) -> Option<(String, bool)> {
        while let Some(c) = self.rest.next() {
            match c {
                '|' => return None,
                '(' => {
                    self.end_run();
                    self.group()?;
                }
                '[' => {
                    self.end_run();
                    self.class()?;
                }
                '\\' => match self.rest.next()? {
                    'x' | 'u' | 'U' => return None,
                    'b' if self.rest.peek() == Some(&'{') => return None,
                    c if c.is_ascii_punctuation() && c != '<' && c != '>' => self.literal(c),
                    _ => self.end_run(),
                },
                '*' | '+' | '?' | '{' => self.quantifier(c),
                '.' | '^' | '$' => self.end_run(),
                char::REPLACEMENT_CHARACTER => self.end_run(),
                c => self.literal(c),
            }
        }
        let whole = self.whole;
        self.end_run();
        Some((self.best, whole))
    }

    /// A character that stands for itself, unless it may be missing.
    fn literal(&mut self, c: char) {
        match self.rest.peek() {
            Some('*' | '?' | '{') => self.end_run(),
            Some('+') => {
                self.rest.next();
                // `a+{0}`, `a+*`: another quantifier may allow none after all.
                if !matches!(self.rest.peek(), Some('*' | '+' | '?' | '{')) {
                    self.run.push(c);
                }
                self.end_run();
            }
            Some(_) | None => self.run.push(c),
        }
    }

    /// One that follows a group, a class, or another one.
    fn quantifier(&mut self, c: char) {
        self.end_run();
        if c == '{' {
            self.rest.by_ref().find(|c| *c == '}');
        }
    }

    fn end_run(&mut self) {
        self.whole = false;
        if self.run.len() > self.best.len() {
            std::mem::swap(&mut self.run, &mut self.best);
        }
        self.run.clear();
    }

    /// Skips a group, whose `(` is taken. None where it sets flags, which may change how it reads.
    fn group(&mut self) -> Option<()> {
        let mut depth = 1;
        self.group_head()?;
        while depth > 0 {
            match self.rest.next()? {
                '\\' => {
                    self.rest.next()?;
                }
                '[' => self.class()?,
                '(' => {
                    depth += 1;
                    self.group_head()?;
                }
                ')' => depth -= 1,
                _ => {}
            }
        }
        Some(())
    }

    fn group_head(&mut self) -> Option<()> {
        if self.rest.next_if_eq(&'?').is_some() {
            matches!(self.rest.next()?, ':' | 'P' | '<').then_some(())
        } else {
            Some(())
        }
    }

    /// Skips a class, whose `[` is taken. None where another `[` is in it: a POSIX class or, as the end
    /// of a range, itself.
    fn class(&mut self) -> Option<()> {
        self.rest.next_if_eq(&'^');
        // A `]` that comes first stands for itself.
        self.rest.next_if_eq(&']');
        loop {
            match self.rest.next()? {
                '\\' => {
                    self.rest.next()?;
                }
                '[' => return None,
                ']' => return Some(()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_text_is_in_each_match() {
        for (pattern, text, whole) in [
            ("ERROR", "ERROR", true),
            ("error.*timeout", "timeout", true),
            (".*b.*", "b", true),
            ("a\\.*bcd", "bcd", false),
            ("a.*?bcd", "bcd", false),
            ("[.*]bcd", "bcd", false),
            ("a.*(?i)bcd", "", false),
            ("a\\.b", "a.b", true),
            ("^x=\\d+ failed$", " failed", false),
            ("colou?r", "colo", false),
            ("ab+c", "ab", false),
            ("ab+{0}cde", "cde", false),
            ("xa{2}y", "x", false),
            ("(foo|bar)baz", "baz", false),
            ("[]a]xy[^]b]", "xy", false),
            ("\\d+", "", false),
            ("a|b", "", false),
            ("(?-i)abc", "", false),
            ("x(?i:y)abc", "", false),
            ("[[:alpha:]]abc", "", false),
            ("[+-[:][^]x]", "", false),
            ("abc\\x41", "", false),
            ("\\b{start}abc", "", false),
            ("\\<abc", "abc", false),
        ] {
            let required = required(pattern);
            assert_eq!(required.text.unwrap_or_default(), text, "{pattern}");
            assert_eq!(required.parts.is_some(), whole, "{pattern}");
        }
        assert!(required("(?i)abc").folded);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["(", "(?:.{1,100}){100}", &"x".repeat(1_001)] {
            assert!(matches!(
                Matcher::new(bad, false, false),
                Err(QueryError::Pattern(_))
            ));
        }
        assert!(Matcher::new("(", true, false).is_ok());
    }

    /// Random patterns of everything that can break a run, on random lines of the same few letters:
    /// the matcher says what plain regex-lite says.
    #[test]
    fn prefilter_hides_no_match() {
        const PARTS: &[&str] = &[
            "a",
            "b",
            "c",
            "A",
            "B",
            "ab",
            "bc",
            "abc",
            ".",
            "*",
            "+",
            "?",
            "{0}",
            "{1,2}",
            "{0,1}",
            "|",
            "(",
            ")",
            "(?:",
            ".*",
            ".*",
            ".*",
            "(?i)",
            "(?i:",
            "(?P<n>",
            "[ab]",
            "[^c]",
            "[]a]",
            "[^]b]",
            "[",
            "]",
            "[[:alpha:]]",
            "[+-[:]",
            "\\",
            "\\.",
            "\\w",
            "\\d",
            "\\b",
            "\\b{start}",
            "\\<",
            "\\x61",
            "\\|",
            "^",
            "$",
            " ",
            "é",
            "\u{fffd}",
            "-",
            "{",
            "}",
            ":",
            "#",
            "(?x)",
            "(?s-i:",
        ];
        let mut random = crate::log::block::testing::Random(0x9e37_79b9_7f4a_7c15);
        let (mut compiled, mut matched) = (0, 0);
        for _ in 0..60_000 {
            let pattern: String = (0..1 + random.below(7))
                .map(|_| PARTS[random.below(PARTS.len())])
                .collect();
            let ignore_case = random.below(4) == 0;
            let plain = RegexBuilder::new(&pattern)
                .case_insensitive(ignore_case)
                .size_limit(LARGEST)
                .build();
            let (Ok(plain), Ok(ours)) = (plain, Matcher::new(&pattern, false, ignore_case)) else {
                continue;
            };
            compiled += 1;
            for _ in 0..6 {
                let line: String = (0..random.below(9))
                    .map(|_| {
                        ["a", "b", "c", "A", "B", "C", ".", " ", "é", "]", "x"][random.below(11)]
                    })
                    .collect();
                assert_eq!(
                    ours.is_match(&line),
                    plain.is_match(&line),
                    "{pattern:?} (ignore_case {ignore_case}) on {line:?}"
                );
                matched += u32::from(plain.is_match(&line));
            }
        }
        assert!(
            compiled > 15_000 && matched > 15_000,
            "{compiled} {matched}"
        );
    }
}
