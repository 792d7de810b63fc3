//! Pure: no system call, no thread, no clock.
//!
//! dotenv files.

use super::expand::DEEPEST;
use crate::base::error::Fault;
use crate::base::paths::fnv1a_64;

/// A dotenv file.
#[derive(Debug, Clone, Default)]
pub struct Dotenv {
    file: String,
    /// In the order of the file.
    pub variables: Vec<Variable>,
    /// Lines that are read otherwise than they may be meant.
    pub notes: Vec<Fault>,
}

/// One assignment.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    /// For [`super::expand`]: what is not to be replaced has its dollar signs doubled.
    pub value: String,
    /// Names behind a `$` without braces, which stay as they are.
    bare: Vec<String>,
    line: usize,
    column: usize,
}

impl Dotenv {
    /// A remark about one of its variables.
    pub(super) fn note(&self, about: &Variable, text: String) -> Fault {
        Fault {
            file: self.file.clone(),
            line: about.line,
            column: about.column,
            text,
        }
    }

    /// A hash of its variables, before anything is replaced.
    pub(super) fn fingerprint(&self) -> u64 {
        let pairs = self.variables.iter().map(|v| (&v.name, &v.value));
        fnv1a_64(format!("{:?}", pairs.collect::<Vec<_>>()).as_bytes())
    }
}

impl Variable {
    /// Those of its bare `$NAME` that could have been meant as `${NAME}`.
    pub(super) fn bare<'v>(
        &'v self,
        is_set: impl Fn(&str) -> bool + 'v,
    ) -> impl Iterator<Item = &'v String> {
        self.bare.iter().filter(move |name| is_set(name))
    }
}

/// Reads a dotenv file: comments, `export`, `'as it is'`, `"with \n, \r, \t, \\, \", \$"`, both over several lines,
/// and `${X}`, `${X:-fallback}` outside single quotes. Any other dollar sign stays: files hold secrets, and a secret
/// may look like that. No fault quotes a value.
pub fn parse_dotenv(text: &str, file: &str) -> Result<Dotenv, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        file,
        text,
        rest: text,
        counted: (0, 1),
    };
    let mut read = Dotenv {
        file: file.into(),
        ..Dotenv::default()
    };
    loop {
        reader.rest = reader.rest.trim_start();
        let at = reader.rest;
        if at.is_empty() {
            return Ok(read);
        }
        if at.starts_with('#') {
            reader.line();
        } else if at.starts_with(';') {
            reader.line();
            read.notes
                .push(reader.fault(at, "a comment begins with \"#\" everywhere".into()));
        } else {
            let (variable, note) = reader.assignment()?;
            read.variables.extend(variable);
            read.notes.extend(note);
        }
    }
}

/// Stands for a dollar sign that was escaped. No value has a NUL in it.
const ESCAPED: char = '\0';

/// Makes a text that [`super::expand`] turns into this one, its references replaced.
fn template(out: &mut String, bare: &mut Vec<String>, mut text: &str, depth: usize) {
    while let Some(at) = text.find(['$', ESCAPED]) {
        out.push_str(&text[..at]);
        let (sign, after) = (text[at..].starts_with('$'), &text[at + 1..]);
        text = after;
        match after
            .strip_prefix('{')
            .and_then(reference)
            .filter(|_| sign && depth < DEEPEST)
        {
            Some((name, fallback, rest)) => {
                out.push_str("${");
                out.push_str(name);
                if let Some(fallback) = fallback {
                    out.push_str(":-");
                    template(out, bare, fallback, depth + 1);
                }
                out.push('}');
                text = rest;
            }
            None => {
                out.push_str("$$");
                let name = &after[..after.len() - after.trim_start_matches(is_letter).len()];
                if sign && is_variable(name) {
                    bare.push(name.into());
                }
            }
        }
    }
    out.push_str(text);
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| is_letter(c) && !c.is_ascii_digit())
}

/// `X}` or `X:-fallback}`, and what comes after.
fn reference(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let end = text.find(|c| !is_letter(c))?;
    let (name, after) = text.split_at(end);
    if !is_variable(name) {
        return None;
    }
    if let Some(rest) = after.strip_prefix('}') {
        return Some((name, None, rest));
    }
    let fallback = after.strip_prefix(":-")?;
    // Deeper ones are none, and looking for an end costs no more than that.
    let mut open = 1;
    let mut before = '\0';
    for (at, c) in fallback.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open > DEEPEST {
            return None;
        }
        if open == 0 {
            return Some((name, Some(&fallback[..at]), &fallback[at + 1..]));
        }
        before = c;
    }
    None
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    rest: &'t str,
    /// A byte of the text, and its line: lines are counted on from there.
    counted: (usize, usize),
}

impl<'t> Reader<'t> {
    /// Takes the rest of the line, without its end.
    fn line(&mut self) -> &'t str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Line and column of what stands at `at`.
    fn place(&mut self, at: &str) -> (usize, usize) {
        let offset = self.text.len() - at.len();
        let (counted, lines) = self.counted;
        let (from, lines) = if counted <= offset {
            (counted, lines)
        } else {
            (0, 1)
        };
        let lines = lines + self.text[from..offset].matches('\n').count();
        self.counted = (offset, lines);
        let line_start = self.text[..offset].rfind('\n').map_or(0, |i| i + 1);
        (lines, self.text[line_start..offset].chars().count() + 1)
    }

    fn fault(&mut self, at: &str, text: String) -> Fault {
        let (line, column) = self.place(at);
        Fault {
            file: self.file.into(),
            line,
            column,
            text,
        }
    }

    /// One assignment, or a name alone; and what is to be said of it.
    fn assignment(&mut self) -> Result<(Option<Variable>, Option<Fault>), Fault> {
        let start = self.rest;
        let blank = |c| c == ' ' || c == '\t';
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with(blank)
        {
            self.rest = after.trim_start_matches(blank);
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (name, after) = self.rest.split_at(end);
        let behind = after.trim_start_matches(blank);
        let ends = |text: &str| text.is_empty() || text.starts_with(['\n', '\r']);
        let mut note = None;
        let value = if let Some(value) = behind.strip_prefix('=') {
            value
        } else if let Some(value) = after.strip_prefix(':')
            && (value.starts_with(blank) || ends(value))
        {
            note = Some(self.fault(start, "\":\" is read as \"=\"".into()));
            value
        } else if !name.is_empty() && (ends(behind) || behind.starts_with('#')) {
            self.line();
            let text = "a name without a value: that variable stays as it is";
            return Ok((None, Some(self.fault(start, text.into()))));
        } else {
            return Err(self.fault(start, "expected NAME=value".into()));
        };
        if name.is_empty() {
            return Err(self.fault(start, "a variable without a name".into()));
        }
        let mut bare = Vec::new();
        let mut text = String::new();
        self.rest = value.trim_start_matches(blank);
        match self.rest.as_bytes().first() {
            Some(b'\'') => text = self.single(name)?.replace('$', "$$"),
            Some(b'"') => template(&mut text, &mut bare, &self.double(name)?, 0),
            _ => {
                self.rest = value;
                template(&mut text, &mut bare, plain(self.line()), 0);
            }
        }
        if start[..start.len() - self.rest.len()].contains('\0') {
            let text = format!("the value of {name} has a NUL character in it");
            return Err(self.fault(start, text));
        }
        let (line, column) = self.place(start);
        let variable = Variable {
            name: name.into(),
            value: text,
            bare,
            line,
            column,
        };
        Ok((Some(variable), note))
    }

    fn single(&mut self, name: &str) -> Result<String, Fault> {
        let open = self.rest;
        let Some((value, rest)) = open[1..].split_once('\'') else {
            return Err(self.fault(open, format!("the quote of {name} is not closed")));
        };
        self.rest = rest;
        self.only_a_comment_follows(name)?;
        Ok(value.into())
    }

    fn double(&mut self, name: &str) -> Result<String, Fault> {
        let open = self.rest;
        let mut value = String::new();
        let mut commands = open[1..].char_indices();
        while let Some((at, command)) = commands.next() {
            match command {
                '"' => {
                    self.rest = &open[at + 2..];
                    self.only_a_comment_follows(name)?;
                    return Ok(value);
                }
                '\\' => match commands.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, '$')) => value.push(ESCAPED),
                    Some((_, c @ ('\\' | '"' | '\''))) => value.push(c),
                    Some((_, c)) => value.extend(['\\', c]),
                    None => break,
                },
                other => value.push(other),
            }
        }
        Err(self.fault(open, format!("the quote of {name} is not closed")))
    }

    fn only_a_comment_follows(&mut self, name: &str) -> Result<(), Fault> {
        let after = self.rest;
        let line = self.line().trim_start();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        Err(self.fault(
            after,
            format!("something follows the closing quote of {name}"),
        ))
    }
}

/// A value without quotes: up to a `#` after a blank.
fn plain(line: &str) -> &str {
    let comment = line
        .match_indices('#')
        .map(|(at, _)| at)
        .find(|at| line[..*at].ends_with([' ', '\t']));
    line[..comment.unwrap_or(line.len())].trim()
}

#[cfg(test)]
mod tests;
