//! Pure: no system call, no thread, no clock.
//!
//! What people's build tools print: the phase a build is in, and errors at a place, for builds that
//! have no messages for machines.

use super::{BuildError, BuildErrors};

/// A line without escape sequences, for reading only; invalid UTF-8 replaced.
pub fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut commands = text.trim_end_matches(['\n', '\r']).chars();
    while let Some(c) = commands.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        match commands.next() {
            // CSI: up to its final byte.
            Some('[') => while commands.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
            // OSC (a hyperlink, say): up to BEL or ESC \.
            Some(']') => loop {
                match commands.next() {
                    None | Some('\u{7}') => break,
                    Some('\u{1b}') => {
                        commands.next();
                        break;
                    }
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    out
}

/// What cargo says it is doing now: `compiling foo`, `waiting for cargo's lock`.
pub fn phase(line: &str) -> Option<String> {
    let (verb, rest) = line.trim_start().split_once(' ')?;
    let subject = rest.split(' ').next().filter(|s| !s.is_empty())?;
    Some(match verb {
        "Blocking" if rest.starts_with("waiting for file lock") => {
            "waiting for cargo's lock".into()
        }
        "Compiling" | "Checking" => format!("compiling {subject}"),
        "Updating" => "updating the registry's index".into(),
        "Downloading" | "Downloaded" => "downloading crates".into(),
        _ => return None,
    })
}

/// Finds errors in lines, one after the other.
#[derive(Debug, Default)]
pub struct Errors {
    found: BuildErrors,
    /// The last one has no place yet: ` --> src/main.rs:1:2` may follow.
    open: bool,
    /// `Caused by:` was the line before.
    cause: bool,
    /// The line before belonged to the first error.
    first: bool,
    /// A line that only counts errors: said where there is no other.
    summary: Option<BuildError>,
}

impl Errors {
    /// Looks at the next line, without escapes.
    pub fn line(&mut self, line: &str) {
        let error = placed(line).or_else(|| bare(line));
        if let Some(error) = error {
            if counts(&error) {
                self.first = false;
                self.open = false;
                self.summary.get_or_insert(error);
                return;
            }
            let before = self.found.list.len();
            self.first = self.found.count == 0;
            let placeless = error.file.is_none();
            self.found.add(error, &mut std::iter::once(line.into()));
            self.open = placeless && self.found.list.len() > before;
            self.cause = false;
            return;
        }
        self.first &= belongs(line);
        if self.first {
            self.found.more_text(line);
        }
        if !self.open {
            // Nothing that this line could belong to.
        } else if let Some(place) = line.trim_start().strip_prefix("--> ") {
            self.open = false;
            if let (Some(last), Some((file, l, c))) = (self.found.list.last_mut(), place_of(place))
            {
                (last.file, last.line, last.column) = (Some(file), Some(l), c);
            }
        } else if self.cause {
            self.open = false;
            if let Some(last) = self.found.list.last_mut() {
                last.message = format!("{}: {}", last.message, line.trim());
            }
        }
        self.cause = self.open && line == "Caused by:";
    }

    /// What was found.
    pub fn take(mut self) -> BuildErrors {
        if let Some(summary) = self.summary.filter(|_| self.found.count == 0) {
            let line = format!("error: {}", summary.message);
            self.found.add(summary, &mut std::iter::once(line));
        }
        let text = &mut self.found.text;
        let used = text.iter().rposition(|line| !line.trim().is_empty());
        text.truncate(used.map_or(0, |last| last + 1));
        self.found
    }
}

/// It only counts other errors.
fn counts(error: &BuildError) -> bool {
    let message = &error.message;
    message.starts_with("could not compile ")
        || message.starts_with("aborting due to ")
        || message == "build script logged errors"
}

/// The text of an error goes on: source, arrows, notes.
fn belongs(line: &str) -> bool {
    let source = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let begun = ["Caused by:", "note:", "help:"];
    line.is_empty() || source.starts_with(' ') || begun.iter().any(|b| line.starts_with(b))
}

/// `error: words`, `error[E0308]: words` at the start of a line (cargo, rustc).
fn bare(line: &str) -> Option<BuildError> {
    let rest = line.strip_prefix("error")?;
    let message = match rest.strip_prefix('[') {
        Some(code) => {
            let (code, words) = code.split_once("]: ")?;
            format!("{code}: {words}")
        }
        None => rest.strip_prefix(": ")?.to_string(),
    };
    Some(BuildError {
        file: None,
        line: None,
        column: None,
        message,
    })
}

/// `file:3:5: error: words` (cc, make), `file(3,5): error TS2322: words` and
/// `file:3:5 - error TS2322: words` (tsc).
fn placed(line: &str) -> Option<BuildError> {
    let at = line.find("error")?;
    let (head, tail) = (&line[..at], &line[at + "error".len()..]);
    let head = head.strip_suffix("fatal ").unwrap_or(head);
    let place = head
        .strip_suffix(": ")
        .or_else(|| head.strip_suffix(" - "))?;
    let message = match tail.strip_prefix(": ") {
        Some(words) => words,
        None => tail.strip_prefix(' ').filter(|t| {
            // A code and a colon; otherwise it is prose with the word in it.
            t.split_once(": ")
                .is_some_and(|(code, _)| !code.contains(' '))
        })?,
    };
    let (file, l, c) = place_of(place).or_else(|| in_parentheses(place))?;
    Some(BuildError {
        file: Some(file),
        line: Some(l),
        column: c,
        message: message.to_string(),
    })
}

/// `src/main.rs:3:5` or `src/main.rs:3`.
fn place_of(text: &str) -> Option<(String, u64, Option<u64>)> {
    let (rest, last) = text.trim().rsplit_once(':')?;
    let last: u64 = last.parse().ok()?;
    let (file, l, c) = match rest.rsplit_once(':').map(|(file, l)| (file, l.parse())) {
        Some((file, Ok(l))) => (file, l, Some(last)),
        _ => (rest, last, None),
    };
    (!file.is_empty()).then(|| (file.into(), l, c))
}

/// `src/x.ts(3,5)`.
fn in_parentheses(text: &str) -> Option<(String, u64, Option<u64>)> {
    let (file, numbers) = text.strip_suffix(')')?.rsplit_once('(')?;
    let (l, c) = numbers.split_once(',')?;
    Some((file.into(), l.parse().ok()?, Some(c.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::diagnostics::ERRORS;

    type Flat = (Option<String>, Option<u64>, Option<u64>, String);

    fn errors(text: &str) -> Vec<Flat> {
        let mut errors = Errors::default();
        text.lines().for_each(|l| errors.line(l));
        let flat = |e: BuildError| (e.file, e.line, e.column, e.message);
        errors.take().list.into_iter().map(flat).collect()
    }

    fn at(file: &str, line: u64, column: u64, words: &str) -> Flat {
        (Some(file.into()), Some(line), Some(column), words.into())
    }

    fn bare(words: &str) -> Flat {
        (None, None, None, words.into())
    }

    #[test]
    fn a_broken_manifest_is_an_error_at_its_place() {
        let text =
            "error: key with no value, expected `=`\n --> Cargo.toml:7:6\n  |\n7 | blah blah\n";
        assert_eq!(
            errors(text),
            [at("Cargo.toml", 7, 6, "key with no value, expected `=`")]
        );
    }

    #[test]
    fn a_cause_belongs_to_its_error() {
        let text = "error: failed to parse manifest at `/home/me/app/Cargo.toml`\n\nCaused by:\n  no targets specified in the manifest\n  either src/lib.rs, ...\n";
        assert_eq!(
            errors(text),
            [bare(
                "failed to parse manifest at `/home/me/app/Cargo.toml`: no targets specified in the manifest"
            )]
        );
    }

    #[test]
    fn rustc_s_text_is_read_and_its_count_is_left_out() {
        let text = "   Compiling app v0.1.0\nerror[E0308]: mismatched types\n --> src/main.rs:3:18\n  |\nwarning: unused\n --> src/main.rs:2:9\nerror: could not compile `app` (bin \"app\") due to 1 previous error\n";
        assert_eq!(
            errors(text),
            [at("src/main.rs", 3, 18, "E0308: mismatched types")]
        );
        let alone = "error: could not compile `app` (bin \"app\")\n";
        assert_eq!(
            errors(alone),
            [bare("could not compile `app` (bin \"app\")")]
        );
    }

    #[test]
    fn other_compilers_are_read() {
        let text = "src/x.ts(3,5): error TS2322: Type 'string' is not assignable.\n\
                    src/y.ts:4:6 - error TS1005: ';' expected.\n\
                    main.c:7:9: error: expected ';' before 'return'\n\
                    main.c:1:10: fatal error: nope.h: No such file or directory\n\
                    main.c:2:1: warning: an error: of none\n";
        assert_eq!(
            errors(text),
            [
                at("src/x.ts", 3, 5, "TS2322: Type 'string' is not assignable."),
                at("src/y.ts", 4, 6, "TS1005: ';' expected."),
                at("main.c", 7, 9, "expected ';' before 'return'"),
                at("main.c", 1, 10, "nope.h: No such file or directory"),
            ]
        );
    }

    #[test]
    fn prose_is_no_error() {
        for line in [
            "errors: none",
            "an error: here",
            "Handling error cases",
            "12:30:00 error happened",
            "error",
            "error[E0308",
            ": error: x",
            "test error::tests::it_works ... ok",
        ] {
            assert_eq!(errors(line), [], "{line}");
        }
    }

    #[test]
    fn the_first_few_are_kept() {
        let text = "error: a\n".repeat(5000);
        assert_eq!(errors(&text).len(), ERRORS);
        // A place after the last does not go to one before.
        let text = "error: a\n".repeat(ERRORS + 1) + " --> src/main.rs:1:1\n";
        assert_eq!(errors(&text)[ERRORS - 1], bare("a"));
    }

    #[test]
    fn phases_are_told_in_words() {
        let lock = "    Blocking waiting for file lock on artifact directory";
        assert_eq!(phase(lock).as_deref(), Some("waiting for cargo's lock"));
        assert_eq!(
            phase("   Compiling foo v0.1.0 (/x)").as_deref(),
            Some("compiling foo")
        );
        for line in [
            "",
            "Compiling",
            "   Compiling ",
            "    Finished `dev` profile",
            "Blocking x",
        ] {
            assert_eq!(phase(line), None, "{line}");
        }
    }

    #[test]
    fn escapes_are_left_out() {
        assert_eq!(
            plain(b"\x1b[1m\x1b[32m   Compiling\x1b[0m foo v1\r\n"),
            "   Compiling foo v1"
        );
        assert_eq!(
            plain(b"\x1b]8;;http://x\x07link\x1b]8;;\x1b\\ end"),
            "link end"
        );
        for unfinished in [&b"a\x1b"[..], b"a\x1b[", b"a\x1b[12", b"a\x1b]8;;x"] {
            assert_eq!(plain(unfinished), "a");
        }
        assert_eq!(plain(b"\xff"), "\u{fffd}");
    }
}
