//! Pure: no system call, no thread, no clock.
//!
//! `${VAR}`, and what a process finds in its environment.

use std::ffi::{OsStr, OsString};

use super::dotenv::Dotenv;
use super::inherit::is_unset;
use super::references::dotted;
use super::{PortWish, Process};
use crate::base::error::Fault;
use crate::base::table::Table;

/// Fallbacks within fallbacks, at most.
pub(super) const DEEPEST: usize = 16;

/// No argument or variable of a program is longer, its NUL included (execve(2)).
pub(super) const LONGEST: usize = 128 << 10;

pub(super) const TOO_LONG: &str = "longer than 128 KiB, the most that a program can be given";

/// Arguments and environment of a program are never larger together, whatever the stack's limit (`bprm_stack_limits`
/// of the kernel).
pub const LARGEST: usize = 6 << 20;

/// Expands `${VAR}` in a text, by the environment that the child will have.
pub type Expand<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// `${VAR}`, `${VAR:-fallback}` (used where VAR is unset or empty, and expanded itself) and `$$`; any
/// other `$` stands for itself. An unset variable without a fallback is an error that names it.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = Text {
        text: String::with_capacity(text.len()),
        lookup: &lookup,
        unset: None,
    };
    expand_into(&mut out, text, 0)?;
    Ok(out.text)
}

/// The same where a variable that is not set is empty; names those.
fn expand_or_empty(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<(String, Vec<String>), String> {
    let mut out = Text {
        text: String::with_capacity(text.len()),
        lookup: &lookup,
        unset: Some(Vec::new()),
    };
    expand_into(&mut out, text, 0)?;
    Ok((out.text, out.unset.unwrap_or_default()))
}

/// The length of what a text expands to, without making it; `lookup` has the lengths of variables.
pub(super) fn expanded_length(
    text: &str,
    lookup: impl Fn(&str) -> Option<usize>,
) -> Result<usize, String> {
    let mut out = Length {
        length: 0,
        lookup: &lookup,
    };
    expand_into(&mut out, text, 0)?;
    Ok(out.length)
}

/// Takes what a text expands to.
trait Out {
    fn push(&mut self, text: &str) -> Result<(), String>;
    /// Takes the value of a variable. None: it is not set; else whether there was anything to take.
    fn variable(&mut self, name: &str) -> Result<Option<bool>, String>;
    /// There is neither a value nor a fallback.
    fn missing(&mut self, name: &str) -> Result<(), String>;
}

struct Text<'a> {
    text: String,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Variables that are not set, where that is no error.
    unset: Option<Vec<String>>,
}

struct Length<'a> {
    length: usize,
    lookup: &'a dyn Fn(&str) -> Option<usize>,
}

/// The length of a value that has `more` added to it.
fn longer(length: usize, more: usize) -> Result<usize, String> {
    match length.saturating_add(more) {
        sum if sum < LONGEST => Ok(sum),
        _ => Err(TOO_LONG.into()),
    }
}

impl Out for Text<'_> {
    fn push(&mut self, text: &str) -> Result<(), String> {
        longer(self.text.len(), text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    fn variable(&mut self, name: &str) -> Result<Option<bool>, String> {
        let Some(value) = (self.lookup)(name) else {
            return Ok(None);
        };
        self.push(&value)?;
        Ok(Some(!value.is_empty()))
    }

    fn missing(&mut self, name: &str) -> Result<(), String> {
        match &mut self.unset {
            Some(unset) => unset.push(name.into()),
            None => return Err(format!("variable {name} is not set")),
        }
        Ok(())
    }
}

impl Out for Length<'_> {
    fn push(&mut self, text: &str) -> Result<(), String> {
        self.length = longer(self.length, text.len())?;
        Ok(())
    }

    fn variable(&mut self, name: &str) -> Result<Option<bool>, String> {
        let Some(length) = (self.lookup)(name) else {
            return Ok(None);
        };
        self.length = longer(self.length, length)?;
        Ok(Some(length > 0))
    }

    fn missing(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Expands up to the end, or within a fallback up to its `}`; gives what comes after.
fn expand_into<'t>(out: &mut dyn Out, mut text: &'t str, depth: usize) -> Result<&'t str, String> {
    let stop: &[char] = if depth > 0 { &['$', '}'] } else { &['$'] };
    while let Some(at) = text.find(stop) {
        out.push(&text[..at])?;
        text = &text[at..];
        if let Some(after) = text.strip_prefix("${") {
            text = variable(out, after, depth)?;
        } else if let Some(after) = text.strip_prefix("$$") {
            out.push("$")?;
            text = after;
        } else if let Some(after) = text.strip_prefix('$') {
            out.push("$")?;
            text = after;
        } else {
            return Ok(&text[1..]);
        }
    }
    if depth > 0 {
        return Err("\"${\" without its \"}\"".into());
    }
    out.push(text)?;
    Ok("")
}

/// Expands the text after `${`.
fn variable<'t>(out: &mut dyn Out, text: &'t str, depth: usize) -> Result<&'t str, String> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    let (name, after) = match dotted(text) {
        "" => text.split_at(end),
        name => (name, &text[name.len()..]),
    };
    if after.is_empty() {
        return Err("\"${\" without its \"}\"".into());
    }
    if name.contains('.') {
        if !after.starts_with('}') {
            return Err(format!("\"${{{name}\" goes on without \"}}\""));
        }
    } else if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("\"${\" without a variable's name; a dollar sign is \"$$\"".into());
    }
    if let Some(after) = after.strip_prefix('}') {
        if out.variable(name)?.is_none() {
            out.missing(name)?;
        }
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
    match out.variable(name)? {
        // The fallback is read all the same, to find its end; what it names need not exist.
        Some(true) => {
            let mut unread = Length {
                length: 0,
                lookup: &|_| Some(0),
            };
            expand_into(&mut unread, fallback, depth + 1)
        }
        Some(false) | None => expand_into(out, fallback, depth + 1),
    }
}

/// The variables of a process: names and hold.
pub type Environment = Table<OsString, OsString>;

/// Remarks on `env_file`s that only the rest of the environment makes possible.
#[derive(Debug, Default)]
pub struct EnvNotes {
    /// For each start as well.
    pub unset: Vec<Fault>,
    /// For `bpm check`.
    pub bare: Vec<Fault>,
    /// No environment can have them: also an error of the start.
    pub too_long: Vec<Fault>,
}

/// An environment that grows no larger than any program can be given.
struct Growing {
    all: Environment,
    size: usize,
}

impl Growing {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        self.size += name.len() + value.len();
        if let Some(old) = self.all.insert(name.into(), value.into()) {
            self.size -= name.len() + old.len();
        }
        if self.size > LARGEST {
            return Err("the environment is larger than any program can be given".into());
        }
        Ok(())
    }
}

/// The environment of a process, later ones winning: `base` (the daemon's of its start, or what direnv
/// made of it); the variables of `env_file`s, in order, which may refer to all that came before them; `PORT`; the
/// colours; `env`, whose values may too. `port` is the one taken for `port = "auto"`; a fixed one is known.
/// With a `port`, `PORT` is always that one. The error names the variable whose value can't be made.
pub fn environment(
    process: &Process,
    base: &mut dyn Iterator<Item = (OsString, OsString)>,
    files: &[Dotenv],
    port: Option<u16>,
    notes: &mut EnvNotes,
) -> Result<Environment, String> {
    let unset = &process.launch.unset_env;
    let left_out = |name: &OsStr| name.to_str().is_some_and(|n| is_unset(n, unset));
    let all: Environment = base.filter(|(n, _)| !left_out(n)).collect();
    let mut env = Growing {
        size: all.iter().map(|(n, v)| n.len() + v.len()).sum(),
        all,
    };
    if process.launch.tty {
        // Colours and cursor movements that nobody minds.
        env.set("TERM", "xterm-256color".into())?;
    }
    for file in files {
        from_file(&mut env, file, notes)?;
    }
    let port = match process.port {
        Some(PortWish::Fixed(port)) => Some(port),
        Some(PortWish::Auto) => port,
        None => None,
    };
    if let Some(port) = port {
        env.set("PORT", port.to_string())?;
    }
    if process.color {
        env.all.remove(OsStr::new("NO_COLOR"));
        env.set("FORCE_COLOR", "1".into())?;
        env.set("CLICOLOR_FORCE", "1".into())?;
    }
    for (name, value) in &process.env {
        if name == "PORT" && port.is_some() {
            continue;
        }
        expand(value, |n| variable_of(&env.all, n))
            .and_then(|value| env.set(name, value))
            .map_err(|why| format!("\"env.{name}\": {why}"))?;
    }
    Ok(env.all)
}

fn from_file(env: &mut Growing, file: &Dotenv, notes: &mut EnvNotes) -> Result<(), String> {
    for variable in &file.variables {
        let name = &variable.name;
        let fail = |why: String| file.note(variable, format!("{name}: {why}"));
        let bare = variable.bare(|n| env.all.has(OsStr::new(n)));
        notes.bare.extend(bare.map(|n| {
            let text = format!("{name}: ${n} stays as it is; ${{{n}}} would be replaced");
            file.note(variable, text)
        }));
        let expanded = expand_or_empty(&variable.value, |n| variable_of(&env.all, n));
        let (value, unset) = match expanded {
            Ok(expanded) => expanded,
            Err(why) => {
                let fault = fail(why);
                notes.too_long.push(fault.clone());
                return Err(fault.to_string());
            }
        };
        notes.unset.extend(unset.iter().map(|n| {
            let text = format!("{name}: ${{{n}}} is not set, and replaced by nothing");
            file.note(variable, text)
        }));
        env.set(name, value).map_err(|why| fail(why).to_string())?;
    }
    Ok(())
}

/// A variable, for `expand`; bytes that are no UTF-8 are replaced.
pub fn variable_of(environment: &Environment, name: &str) -> Option<String> {
    environment
        .get(OsStr::new(name))
        .map(|value| value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
