//! Pure: no system call, no thread, no clock.
//!
//! The errors of a build: those of the compiler's messages, else lines of its text that look like one, with
//! paths from the project's root. And the phase that a build is in, by cargo's lines.

use std::path::Path;

use super::cargo::Message;

/// The first errors that are kept: one whole, and the headlines of ten more.
pub const ERRORS: usize = 11;
/// Lines of the first error's text that are kept.
const LINES: usize = 60;
/// Characters of one cause in a message.
const LONGEST: usize = 300;

/// One error of a compiler.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildError {
    /// From the project's root, where it is below it.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<u64>,
    /// From 1.
    pub column: Option<u64>,
    /// First line of the message, with its code: `E0308: mismatched types`.
    pub message: String,
}

/// The errors of one build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildErrors {
    /// The first [`ERRORS`].
    pub list: Vec<BuildError>,
    pub count: u64,
    /// The first one as the compiler printed it.
    pub text: Vec<String>,
}

impl BuildErrors {
    /// Adds one; `lines` is its text.
    pub(super) fn add(&mut self, error: BuildError, lines: &mut dyn Iterator<Item = String>) {
        if self.count == 0 {
            self.text = lines.take(LINES).collect();
        }
        if self.list.len() < ERRORS {
            self.list.push(error);
        }
        self.count += 1;
    }

    /// A line more of the first one's text.
    pub(super) fn more_text(&mut self, line: &str) {
        if self.text.len() < LINES {
            self.text.push(line.into());
        }
    }
}

/// Where files are looked for.
pub struct Places<'a> {
    /// The project's root.
    pub root: &'a Path,
    /// Where the build runs.
    pub cwd: &'a Path,
    pub exists: &'a dyn Fn(&Path) -> bool,
}

impl Places<'_> {
    /// A file from the project's root. A compiler names it from where it runs: the folder of the package or a
    /// workspace's above it, so the nearest folder that has such a file is the one that is meant.
    fn relative_to_root(&self, file: &str, folder: &Path) -> String {
        let from = folder
            .ancestors()
            .take_while(|at| at.starts_with(self.root));
        let found = from
            .map(|at| at.join(file))
            .find(|path| path.starts_with(self.root) && (self.exists)(path));
        let relative = found
            .as_deref()
            .and_then(|path| path.strip_prefix(self.root).ok());
        relative.map_or(file.into(), |path| path.to_string_lossy().into_owned())
    }

    /// ` --> src/main.rs:3:5` with the file from the project's root.
    fn line_from_root(&self, line: &str, folder: &Path) -> String {
        for arrow in ["--> ", "::: "] {
            if let Some((before, place)) = line.split_once(arrow)
                && before.trim().is_empty()
                && let Some((file, rest)) = place.split_once(':')
            {
                return format!(
                    "{before}{arrow}{}:{rest}",
                    self.relative_to_root(file, folder)
                );
            }
        }
        line.into()
    }
}

/// Collects the errors of a build.
#[derive(Debug, Default)]
pub struct Diagnostics {
    messages: BuildErrors,
    texts: [TextErrors; 2],
}

impl Diagnostics {
    /// A message of the compiler.
    pub fn message(&mut self, message: Message, places: &Places<'_>) {
        let Some(mut error) = message.error else {
            return;
        };
        let manifest = Path::new(&message.manifest);
        let folder = manifest.parent().unwrap_or(places.cwd);
        error.file = error
            .file
            .map(|file| places.relative_to_root(&file, folder));
        let lines = message.rendered.trim_end().lines();
        let mut lines = lines.map(|line| places.line_from_root(line, folder));
        self.messages.add(error, &mut lines);
    }

    /// A line of one of the two outputs, without escapes.
    pub fn line(&mut self, stream: usize, line: &str) {
        self.texts[stream].line(line);
    }

    /// All that was found: of the messages, else of the text.
    pub fn take(self, places: &Places<'_>) -> BuildErrors {
        if self.messages.count > 0 {
            return self.messages;
        }
        let [stdout, stderr] = self.texts.map(TextErrors::take);
        let (mut found, other) = match stderr.count {
            0 => (stdout, stderr),
            _ => (stderr, stdout),
        };
        found.list.extend(other.list);
        found.list.truncate(ERRORS);
        found.count += other.count;
        for error in &mut found.list {
            let file = error.file.take();
            error.file = file.map(|file| places.relative_to_root(&file, places.cwd));
        }
        for line in &mut found.text {
            *line = places.line_from_root(line, places.cwd);
        }
        found
    }
}

/// The phase that a line of cargo names: `compiling foo`, `waiting for cargo's lock`.
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
struct TextErrors {
    found: BuildErrors,
    /// The last one may go on: ` --> src/main.rs:1:2` or its causes may follow.
    open: Option<Causes>,
    /// The line before belonged to the first error.
    first: bool,
    /// A line that only counts errors: said where there is no other.
    summary: Option<BuildError>,
}

/// Why an error of cargo's came about, in cargo's words.
#[derive(Debug, Default)]
struct Causes {
    first: Option<String>,
    last: Option<String>,
    /// `Caused by:` was the line before.
    begins: bool,
    /// The lines are what a build script printed on its standard error.
    stderr: bool,
    /// Where it panicked, and its words if they are not to come in the next line.
    panic: Option<String>,
    panic_goes_on: bool,
    last_line: Option<String>,
}

impl Causes {
    fn line(&mut self, line: &str) {
        let text = line.trim();
        if self.begins {
            self.begins = false;
            let place = match self.first {
                None => &mut self.first,
                Some(_) => &mut self.last,
            };
            *place = Some(text.into());
        } else if line == "Caused by:" {
            self.begins = true;
        } else if text.starts_with("--- ") {
            self.stderr = text == "--- stderr";
        } else if self.stderr && !text.is_empty() {
            self.printed(text);
        }
    }

    fn printed(&mut self, text: &str) {
        if self.panic_goes_on {
            self.panic_goes_on = false;
            if let Some(panic) = &mut self.panic {
                panic.push_str(&format!(": {text}"));
            }
        } else if self.panic.is_none()
            && let Some(at) = text.find("panicked at ")
        {
            self.panic = Some(text[at..].trim_end_matches(':').into());
            self.panic_goes_on = text.ends_with(':');
        } else {
            self.last_line = Some(text.into());
        }
    }

    /// The text that they add to the error's message.
    fn into_words(self) -> impl Iterator<Item = String> {
        let printed = self.panic.or(self.last_line);
        [self.first, self.last, printed].into_iter().flatten()
    }
}

impl TextErrors {
    /// Looks at the next line, without escapes.
    fn line(&mut self, line: &str) {
        let error = placed(line).or_else(|| bare(line));
        if let Some(error) = error {
            self.close();
            if counts(&error) {
                self.first = false;
                self.summary.get_or_insert(error);
                return;
            }
            let before = self.found.list.len();
            self.first = self.found.count == 0;
            let placeless = error.file.is_none();
            self.found.add(error, &mut std::iter::once(line.into()));
            if placeless && self.found.list.len() > before {
                self.open = Some(Causes::default());
            }
            return;
        }
        let belongs = belongs(line);
        self.first &= belongs;
        if self.first {
            self.found.more_text(line);
        }
        let Some(causes) = &mut self.open else {
            // Nothing that this line could belong to.
            return;
        };
        if !belongs {
            self.close();
        } else if let (Some(place), None) = (line.trim_start().strip_prefix("--> "), &causes.first)
        {
            self.open = None;
            if let (Some(last), Some((file, l, c))) = (self.found.list.last_mut(), place_of(place))
            {
                (last.file, last.line, last.column) = (Some(file), Some(l), c);
            }
        } else {
            causes.line(line);
        }
    }

    /// The last error is whole.
    fn close(&mut self) {
        if let (Some(causes), Some(last)) = (self.open.take(), self.found.list.last_mut()) {
            for words in causes.into_words() {
                let words: String = words.chars().take(LONGEST).collect();
                last.message = format!("{}: {words}", last.message);
            }
        }
    }

    fn take(mut self) -> BuildErrors {
        self.close();
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
mod tests;
