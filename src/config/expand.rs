//! Pure: no system call, no thread, no clock.
//!
//! `${VAR}`, dotenv files, and what a process finds in its environment. Pure: who calls has read the files.

use std::ffi::{OsStr, OsString};

use super::inherit::is_unset;
use super::{PortWish, Process};
use crate::base::error::Fault;
use crate::base::table::Table;

/// Fallbacks within fallbacks, at most.
const DEEPEST: usize = 16;

/// Expands `${VAR}` in a text, by the environment that the child will have.
pub type Expand<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// `${VAR}`, `${VAR:-fallback}` (used where VAR is unset or empty, and expanded itself) and `$$`; any
/// other `$` stands for itself. An unset variable without a fallback is an error that names it.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    expand_into(&mut out, text, &lookup, 0)?;
    Ok(out)
}

/// Expands up to the end, or within a fallback up to its `}`; gives what comes after.
fn expand_into<'t>(
    out: &mut String,
    mut text: &'t str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<&'t str, String> {
    let stop: &[char] = if depth > 0 { &['$', '}'] } else { &['$'] };
    while let Some(at) = text.find(stop) {
        out.push_str(&text[..at]);
        text = &text[at..];
        if let Some(after) = text.strip_prefix("${") {
            text = variable(out, after, lookup, depth)?;
        } else if let Some(after) = text.strip_prefix("$$") {
            out.push('$');
            text = after;
        } else if let Some(after) = text.strip_prefix('$') {
            out.push('$');
            text = after;
        } else {
            return Ok(&text[1..]);
        }
    }
    if depth > 0 {
        return Err("\"${\" without its \"}\"".into());
    }
    out.push_str(text);
    Ok("")
}

/// What stands after `${`.
fn variable<'t>(
    out: &mut String,
    text: &'t str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<&'t str, String> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    if after.is_empty() {
        return Err("\"${\" without its \"}\"".into());
    }
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("\"${\" without a variable's name; a dollar sign is \"$$\"".into());
    }
    if let Some(after) = after.strip_prefix('}') {
        let value = lookup(name).ok_or_else(|| format!("variable {name} is not set"))?;
        out.push_str(&value);
        return Ok(after);
    }
    let Some(fallback) = after.strip_prefix(":-") else {
        return Err(format!(
            "\"${{{name}\" goes on with neither \"}}\" nor \":-\""
        ));
    };
    if depth == DEEPEST {
        return Err(format!("more than {DEEPEST} fallbacks within each other"));
    }
    match lookup(name).filter(|value| !value.is_empty()) {
        // the fallback is read all the same, to find its end; what it names need not exist
        Some(value) => {
            out.push_str(&value);
            expand_into(
                &mut String::new(),
                fallback,
                &|_| Some(String::new()),
                depth + 1,
            )
        }
        None => expand_into(out, fallback, lookup, depth + 1),
    }
}

/// The variables of a dotenv file, in its order: comments, `export`, `'as it is'`,
/// `"with \n, \r, \t, \\, \", \$"`, both over several lines. `${...}` is left alone: files hold secrets,
/// and a secret may look like that. No fault quotes a value.
pub fn parse_dotenv(text: &str, file: &str) -> Result<Vec<(String, String)>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Dotenv {
        file,
        text,
        rest: text,
    };
    let mut variables = Vec::new();
    loop {
        reader.rest = reader.rest.trim_start();
        if reader.rest.is_empty() {
            return Ok(variables);
        }
        if reader.rest.starts_with('#') {
            reader.line();
        } else {
            variables.push(reader.assignment()?);
        }
    }
}

struct Dotenv<'t> {
    file: &'t str,
    text: &'t str,
    rest: &'t str,
}

impl<'t> Dotenv<'t> {
    /// Takes the rest of the line, without its end.
    fn line(&mut self) -> &'t str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        line.strip_suffix('\r').unwrap_or(line)
    }

    fn fault(&self, at: &str, text: String) -> Fault {
        let before = &self.text[..self.text.len() - at.len()];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Fault {
            file: self.file.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text,
        }
    }

    fn assignment(&mut self) -> Result<(String, String), Fault> {
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
        let Some(value) = after.trim_start_matches(blank).strip_prefix('=') else {
            return Err(self.fault(start, "expected NAME=value".into()));
        };
        if name.is_empty() {
            return Err(self.fault(start, "a variable without a name".into()));
        }
        self.rest = value.trim_start_matches(blank);
        let value = match self.rest.as_bytes().first() {
            Some(b'\'') => self.single(name)?,
            Some(b'"') => self.double(name)?,
            _ => plain(self.line()).to_string(),
        };
        if value.contains('\0') {
            return Err(self.fault(
                start,
                format!("the value of {name} has a NUL character in it"),
            ));
        }
        Ok((name.into(), value))
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
                    Some((_, c @ ('\\' | '"' | '$' | '\''))) => value.push(c),
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
        .find(|at| line[..*at].is_empty() || line[..*at].ends_with([' ', '\t']));
    line[..comment.unwrap_or(line.len())].trim()
}

/// The variables of a process: names and hold.
pub type Environment = Table<OsString, OsString>;

/// The environment of a process, later ones winning: `base` (the daemon's of its start, or what direnv
/// made of it); the variables of `env_file`s, in order; `PORT`; the colours; `env`, whose values may
/// refer to all that came before them. `port` is the one taken for `port = "auto"`; a fixed one is known.
/// With a `port`, `PORT` is always that one. The error names the variable whose value can't be made.
pub fn environment(
    process: &Process,
    base: impl IntoIterator<Item = (OsString, OsString)>,
    files: &[Vec<(String, String)>],
    port: Option<u16>,
) -> Result<Environment, String> {
    let unset = &process.launch.unset_env;
    let left_out = |name: &OsStr| name.to_str().is_some_and(|n| is_unset(n, unset));
    let mut all: Environment = base.into_iter().filter(|(n, _)| !left_out(n)).collect();
    if process.launch.tty {
        all.insert("TERM".into(), "xterm-256color".into());
    }
    for (name, value) in files.iter().flatten() {
        all.insert(name.into(), value.into());
    }
    let port = match process.port {
        Some(PortWish::Fixed(port)) => Some(port),
        Some(PortWish::Auto) => port,
        None => None,
    };
    if let Some(port) = port {
        all.insert("PORT".into(), port.to_string().into());
    }
    if process.color {
        all.remove(OsStr::new("NO_COLOR"));
        all.insert("FORCE_COLOR".into(), "1".into());
        all.insert("CLICOLOR_FORCE".into(), "1".into());
    }
    for (name, value) in &process.env {
        if name == "PORT" && port.is_some() {
            continue;
        }
        let value = expand(value, |n| variable_of(&all, n))
            .map_err(|why| format!("\"env.{name}\": {why}"))?;
        all.insert(name.into(), value.into());
    }
    Ok(all)
}

/// A variable, for `expand`; bytes that are no UTF-8 are replaced.
pub fn variable_of(environment: &Environment, name: &str) -> Option<String> {
    environment
        .get(OsStr::new(name))
        .map(|value| value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
