//! Every failure of bpm: its sentence, its hint, its exit code and its JSON-RPC code.

use std::fmt;
use std::io;
use std::path::Path;

use crate::base::escape::escaped;
use crate::base::paths::CONFIG_FILE;

/// The result of whatever can fail for a reason that a person should read.
pub type Result<T> = std::result::Result<T, Error>;

/// One mistake in a `.mcp-run`, at a place; in order of the places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// As the person knows it: `.mcp-run`.
    pub file: String,
    /// From 1; 0 where it is about the whole file.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The sentence, with the key in it: `unknown key "comand" in [process.web]; did you mean "command"?`
    pub text: String,
}

impl Fault {
    /// A place, with the reason why it is one.
    #[must_use]
    pub fn because(&self, why: impl fmt::Display) -> Self {
        Self {
            text: format!("{}: {why}", self.text),
            ..self.clone()
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Why bpm could not do what it was asked. One word: results with it are moved and dropped everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Failure>);

/// The kinds of [`Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The command line was wrong (exit code 2).
    Usage {
        why: String,
        /// The nearest right thing.
        hint: Option<String>,
    },
    /// The configuration has mistakes; all of them are here (exit code 1).
    Config(Vec<Fault>),
    /// `cannot <what>: <why>` (exit code 1).
    Cannot {
        /// The action: `read "/home/me/app/.mcp-run"`.
        what: String,
        /// Why it could not be: `no such file`.
        why: String,
        hint: Option<String>,
    },
    /// A name that nothing has (exit code 1):
    /// `unknown process "wbe"; did you mean "web"? processes: api, web`.
    Unknown {
        /// `process`, `tool`.
        kind: &'static str,
        /// The name given.
        name: String,
        /// All names there are.
        known: Vec<String>,
    },
    /// No daemon runs for this project (exit code 3).
    NoDaemon {
        what: String,
        /// The project's root.
        project: String,
        /// Over the usual one.
        hint: Option<String>,
    },
    /// Nothing can be learnt of the daemon, for a reason of our own: no verdict.
    CannotAsk {
        /// Why.
        why: String,
    },
    /// The time given was over (exit code 124).
    TimedOut {
        what: String,
        /// How long, in words: `60 s`.
        after: String,
    },
    /// The reader of our output went away (`bpm logs | head`): no error, and nothing is said (exit code 0).
    ReaderGone,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self(Box::new(failure))
    }
}

impl Error {
    /// `cannot <what>: <why>`.
    pub fn cannot(what: impl Into<String>, why: impl Into<String>) -> Self {
        let (what, why, hint) = (what.into(), why.into(), None);
        Failure::Cannot { what, why, hint }.into()
    }

    /// `cannot <what>:`, and what the system says.
    pub fn system(what: impl Into<String>, e: io::Error) -> Self {
        Self::cannot(what, reason(&e))
    }

    /// The same of a file: `cannot <verb> "<path>": <what the system says>`.
    pub fn file(verb: &str, path: &Path, e: io::Error) -> Self {
        Self::cannot(named(verb, path), reason(&e))
    }

    /// The same with a second line that says what to do.
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Failure::Usage { hint, .. }
        | Failure::Cannot { hint, .. }
        | Failure::NoDaemon { hint, .. } = &mut *self.0
        {
            *hint = Some(text.into());
        }
        self
    }

    /// The command line was wrong.
    pub fn usage(why: impl Into<String>) -> Self {
        let (why, hint) = (why.into(), None);
        Failure::Usage { why, hint }.into()
    }

    /// The lines for standard error, with the program's name; None where nothing is to be said.
    pub fn report(&self, program: &str) -> Option<String> {
        let mut text = match self.failure() {
            Failure::ReaderGone => return None,
            Failure::Config(faults) => {
                let n = faults.len();
                let plural = if n == 1 { "" } else { "s" };
                format!("{self}\n{program}: cannot use {CONFIG_FILE}: {n} mistake{plural} in it\n")
            }
            _ => format!("{program}: {self}\n"),
        };
        if let Some(hint) = self.hint() {
            text.push_str(&format!("hint: {hint}\n"));
        }
        Some(escaped(&text).into_owned())
    }

    /// The kind of failure, with its data.
    pub fn failure(&self) -> &Failure {
        &self.0
    }

    /// The exit code of the process (bpm(1), "EXIT STATUS").
    pub fn exit_code(&self) -> u8 {
        match self.failure() {
            Failure::ReaderGone => 0,
            Failure::Config(_)
            | Failure::Cannot { .. }
            | Failure::CannotAsk { .. }
            | Failure::Unknown { .. } => 1,
            Failure::Usage { .. } => 2,
            Failure::NoDaemon { .. } => 3,
            Failure::TimedOut { .. } => 124,
        }
    }

    /// The second line, where one helps.
    pub fn hint(&self) -> Option<String> {
        match self.failure() {
            Failure::Usage { hint, .. } | Failure::Cannot { hint, .. } => hint.clone(),
            Failure::NoDaemon { hint, .. } => {
                let usual = || "start it with \"bpm -d\", or \"bpm up\"".into();
                Some(hint.clone().unwrap_or_else(usual))
            }
            Failure::Config(_)
            | Failure::CannotAsk { .. }
            | Failure::Unknown { .. }
            | Failure::TimedOut { .. }
            | Failure::ReaderGone => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure() {
            // Some say it themselves: `cannot use "ftp://x": no http address`.
            Failure::Usage { why, .. } if why.starts_with("cannot ") => f.write_str(why),
            Failure::Usage { why, .. } => write!(f, "cannot run this command: {why}"),
            Failure::Config(faults) => {
                for (i, fault) in faults.iter().enumerate() {
                    if i > 0 {
                        f.write_str("\n")?;
                    }
                    write!(f, "{fault}")?;
                }
                Ok(())
            }
            Failure::Cannot { what, why, .. } => write!(f, "cannot {what}: {why}"),
            Failure::Unknown { kind, name, known } => {
                write!(f, "unknown {kind} {name:?}")?;
                if let Some(near) = nearest(name, known.iter().map(String::as_str)) {
                    write!(f, "; did you mean {near:?}?")?;
                } else if !known.is_empty() {
                    f.write_str(";")?;
                }
                if !known.is_empty() {
                    let plural = if *kind == "process" {
                        "processes".into()
                    } else {
                        format!("{kind}s")
                    };
                    write!(f, " {plural}: {}", listed(known))?;
                }
                Ok(())
            }
            Failure::NoDaemon { what, project, .. } => {
                write!(f, "cannot {what}: no daemon runs for {project}")
            }
            Failure::CannotAsk { why } => write!(f, "cannot ask the daemon: {why}"),
            Failure::TimedOut { what, after } => write!(f, "cannot {what}: not within {after}"),
            Failure::ReaderGone => f.write_str("nobody reads the output"),
        }
    }
}

impl std::error::Error for Error {}

/// `read "/home/me/app/.mcp-run"`.
pub fn named(verb: &str, path: &Path) -> String {
    format!("{verb} {:?}", path.display().to_string())
}

/// `api, web and 3 more`: the first `most` names, and the number of the others.
pub fn first_of(names: &[&str], most: usize) -> String {
    let named = names.get(..most).unwrap_or(names).join(", ");
    match names.len().saturating_sub(most) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// `api, web`; of very many the first ones, and how many more there are.
pub fn listed(names: &[String]) -> String {
    const MOST: usize = 2_000;
    let mut text = String::new();
    for (i, name) in names.iter().enumerate() {
        if text.len() + name.len() > MOST {
            let more = format!(" and {} more", names.len() - i);
            return text + &more;
        }
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
    }
    text
}

/// The system's text for an error, without Rust's "(os error 2)".
pub fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    let mut text = match text.split_once(" (os error") {
        Some((words, _)) => words.into(),
        None => text,
    };
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    if text.is_empty() {
        text.push_str("unknown error");
    }
    text
}

/// The known name that was probably meant, of the first thousand: at most a third of its letters are wrong.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .take(1_000)
        .map(|k| {
            (
                distance(&name.to_ascii_lowercase(), &k.to_ascii_lowercase()),
                k,
            )
        })
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits between two words; two neighbours exchanged count as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("wbe", ["api", "web"]), Some("web"));
        assert_eq!(nearest("comand", ["args", "command"]), Some("command"));
        assert_eq!(nearest("zebra", ["api", "web"]), None);
    }

    #[test]
    fn an_unknown_process_is_answered_with_all_there_are() {
        let e = Error::from(Failure::Unknown {
            kind: "process",
            name: "wbe".into(),
            known: vec!["api".into(), "web".into()],
        });
        assert_eq!(
            e.to_string(),
            "unknown process \"wbe\"; did you mean \"web\"? processes: api, web"
        );
    }

    #[test]
    fn names_of_many_are_cut() {
        assert_eq!(first_of(&["a", "b"], 8), "a, b");
        let many = "a, a, a, a, a, a, a, a and 492 more";
        assert_eq!(first_of(&["a"; 500], 8), many);
    }

    #[test]
    fn system_reasons_read_as_words() {
        assert_eq!(
            reason(&std::io::Error::from_raw_os_error(2)),
            "no such file or directory"
        );
    }
}
