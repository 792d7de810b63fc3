//! `${VAR}`, dotenv files, and what a process finds in its environment. Pure: who calls has read the files.

use std::ffi::{OsStr, OsString};

use super::{PortWish, Process};
use crate::base::error::Fault;
use crate::base::table::Table;

/// Fallbacks within fallbacks, at most.
const DEEPEST: usize = 16;

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

/// What the variables of a process are called and hold.
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
    let mut all: Environment = base.into_iter().collect();
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
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "B_2" => Some("${A}".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once() {
        for (text, expanded) in [
            ("", ""),
            ("plain é", "plain é"),
            ("${A}", "1"),
            ("x${A}y${B_2}z", "x1y${A}z"),
            ("${EMPTY}|", "|"),
            ("${EMPTY:-e}${NONE:-n}${A:-a}", "en1"),
            ("${NONE:-}", ""),
            ("${NONE:-${A}${OTHER:-}}!", "1!"),
            ("${A:-${NONE}}", "1"),
            ("${NONE:-$$}}", "$}"),
            ("$$A $$${A} $$$$", "$A $1 $$"),
            ("$A $ $5 $", "$A $ $5 $"),
            ("}{", "}{"),
        ] {
            assert_eq!(expand(text, lookup).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn what_can_not_be_replaced_is_named() {
        for (text, words) in [
            ("${NONE}", "variable NONE is not set"),
            ("${NONE:-${OTHER}}", "variable OTHER is not set"),
            ("a${", "without its \"}\""),
            ("${A", "without its \"}\""),
            ("${A:-b", "without its \"}\""),
            ("${A:-${A}", "without its \"}\""),
            ("${}", "without a variable's name"),
            ("${1}", "without a variable's name"),
            ("${A-b}", "\"${A\" goes on with neither"),
            ("${A b}", "goes on with neither"),
            ("${é}", "without a variable's name"),
        ] {
            let why = expand(text, lookup).expect_err(text);
            assert!(why.contains(words), "{text}: {why}");
        }
        let deep = "${NONE:-".repeat(17) + &"}".repeat(17);
        assert!(expand(&deep, lookup).is_err());
        let less = "${NONE:-".repeat(16) + "x" + &"}".repeat(16);
        assert_eq!(expand(&less, lookup).as_deref(), Ok("x"));
    }

    fn dotenv(text: &str) -> Result<Vec<(String, String)>, String> {
        parse_dotenv(text, ".env").map_err(|f| f.to_string())
    }

    #[test]
    fn a_dotenv_file_is_read() {
        let text = "\u{feff}# comment\r\n\r\nA=1\r\n  B = two words  # comment\nexport C=a#b\nexport\t D.x-y=\n\
            E='as $is \\n # \"' # comment\nF=\"a\\n\\t\\r\\\\\\\"\\$\\x\"\nG=\"over\ntwo\"\nH='and\nthree'\nexport=4\nI==#\nJ=#c\nK=${A}";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a#b"),
            ("D.x-y", ""),
            ("E", "as $is \\n # \""),
            ("F", "a\n\t\r\\\"$\\x"),
            ("G", "over\ntwo"),
            ("H", "and\nthree"),
            ("export", "4"),
            ("I", "=#"),
            ("J", ""),
            ("K", "${A}"),
        ];
        let expected = expected.map(|(n, v)| (n.to_string(), v.to_string()));
        assert_eq!(dotenv(text).unwrap(), expected);
        assert_eq!(dotenv("").unwrap(), []);
    }

    #[test]
    fn a_broken_dotenv_file_is_told_without_its_values() {
        for (text, expected) in [
            ("A=1\n  secret\n", ".env:2:3: expected NAME=value"),
            ("é=secret", ".env:1:1: expected NAME=value"),
            ("A B=secret", ".env:1:1: expected NAME=value"),
            ("=secret", ".env:1:1: a variable without a name"),
            ("A=1\nB = 'secret", ".env:2:5: the quote of B is not closed"),
            ("A=\"secret\\\"", ".env:1:3: the quote of A is not closed"),
            ("A=\"secret\\", ".env:1:3: the quote of A is not closed"),
            (
                "A='x'secret",
                ".env:1:6: something follows the closing quote of A",
            ),
            (
                "A=\"x\" secret",
                ".env:1:6: something follows the closing quote of A",
            ),
            (
                "A=sec\0ret",
                ".env:1:1: the value of A has a NUL character in it",
            ),
        ] {
            assert_eq!(dotenv(text).expect_err(text), expected);
        }
    }

    fn process(text: &str) -> Process {
        let text = format!("[process.web]\ncommand = \"x\"\n{text}");
        let root = std::path::Path::new("/app");
        crate::config::parse(&text, "f", root)
            .unwrap()
            .processes
            .remove(0)
            .as_ref()
            .clone()
    }

    fn made(process: &Process, files: &[&str], port: Option<u16>) -> Result<Vec<String>, String> {
        let base = [("HOME", "/me"), ("PORT", "1"), ("A", "base")];
        let base = base.map(|(n, v)| (n.into(), v.into()));
        let files: Vec<_> = files.iter().map(|f| dotenv(f).unwrap()).collect();
        let all = environment(process, base, &files, port)?;
        let pair = |(n, v): (OsString, OsString)| format!("{}={}", n.display(), v.display());
        Ok(all.into_iter().map(pair).collect())
    }

    #[test]
    fn the_environment_is_composed_in_its_order() {
        let plain = process("");
        assert_eq!(
            made(&plain, &[], None).unwrap(),
            ["A=base", "HOME=/me", "PORT=1"]
        );
        assert_eq!(
            made(&plain, &["A=one\nB=${A}", "A=two"], None).unwrap(),
            ["A=two", "B=${A}", "HOME=/me", "PORT=1"]
        );
        let full = process(
            "port = \"auto\"\ncolor = true\n[process.web.env]\nURL = \"http://${HOST:-localhost}:${PORT}\"\n\
             A = \"${A}+\"\nB = \"${A}${FILE}\"\nPORT = \"9\"\nFORCE_COLOR = \"3\"\n",
        );
        assert_eq!(
            made(&full, &["FILE=f\nPORT=7"], Some(5000)).unwrap(),
            [
                "A=base+",
                "B=base+f",
                "CLICOLOR_FORCE=1",
                "FILE=f",
                "FORCE_COLOR=3",
                "HOME=/me",
                "PORT=5000",
                "URL=http://localhost:5000"
            ]
        );
        let fixed = process("port = 8080");
        assert!(
            made(&fixed, &[], None)
                .unwrap()
                .contains(&"PORT=8080".into())
        );
    }

    #[test]
    fn an_unset_variable_is_an_error_with_its_place() {
        let wrong = process("env.B = \"${C}\"\n");
        assert_eq!(
            made(&wrong, &[], None),
            Err("\"env.B\": variable C is not set".into())
        );
    }
}
