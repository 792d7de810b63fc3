//! Pure: no system call, no thread, no clock.
//!
//! The patterns of `watch`, and what never counts. Pure: names and paths, no files.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use regex_lite::{Regex, RegexBuilder};

use crate::base::paths::CONFIG_FILE;

/// Upper bound of a compiled name pattern, in bytes.
const LARGEST_REGEX: usize = 64 << 10;

/// A pattern may have at most this many names: a path has at most 4,096 bytes (PATH_MAX).
const MOST_NAMES: usize = 2_048;

/// A pattern for paths relative to the project's root, with `/` between names and none before the first.
///
/// `*` is any characters of one name, `?` one of them, `[a-z]` and `[!a-z]` one of a set, `{a,b}` either,
/// `**` between slashes any number of folders, and at the end everything below. A pattern that ends in a
/// plain name is also everything below a folder of that name.
#[derive(Debug, Clone)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

/// One name of a pattern, between two slashes.
#[derive(Debug, Clone)]
enum Part {
    /// Any number of names, none as well.
    Deep,
    /// Any one name.
    Any,
    /// This name.
    Plain(String),
    /// A name of this kind.
    Like(Regex),
}

impl Part {
    fn fits(&self, name: &[u8]) -> bool {
        match self {
            Self::Deep | Self::Any => true,
            Self::Plain(text) => text.as_bytes() == name,
            Self::Like(regex) => regex.is_match(&String::from_utf8_lossy(name)),
        }
    }

    fn is_deep(&self) -> bool {
        matches!(self, Self::Deep)
    }
}

impl Glob {
    /// Reads a pattern. The error says what makes no sense in it.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let parts = parts(pattern).map_err(|why| format!("{pattern:?} {why}"))?;
        Ok(Self {
            text: pattern.into(),
            parts,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a path is meant. Takes at most the product of both lengths, whatever is written.
    pub fn matches(&self, path: &Path) -> bool {
        let names: Vec<&[u8]> = names(path).collect();
        let (mut at, mut part) = (0, 0);
        // Where the last `**` stands, and the first name that it has not taken.
        let mut deep: Option<(usize, usize)> = None;
        while at < names.len() {
            match self.parts.get(part) {
                Some(Part::Deep) => {
                    deep = Some((part, at));
                    part += 1;
                }
                Some(one) if one.fits(names[at]) => {
                    at += 1;
                    part += 1;
                }
                Some(_) | None => {
                    // An earlier `**` need not take more: the last one can do all that it could.
                    let Some((stands, taken)) = deep else {
                        return false;
                    };
                    deep = Some((stands, taken + 1));
                    (at, part) = (taken + 1, stands + 1);
                }
            }
        }
        self.parts[part..].iter().all(Part::is_deep)
    }

    /// Whether something below this folder may be meant; the root is the empty path.
    pub fn reaches(&self, folder: &Path) -> bool {
        let mut parts = self.parts.iter();
        for name in names(folder) {
            match parts.next() {
                Some(Part::Deep) => return true,
                Some(part) if part.fits(name) => {}
                Some(_) | None => return false,
            }
        }
        parts.next().is_some()
    }

    /// The first name in the pattern that keeps all it means from counting.
    pub fn ignored_name(&self) -> Option<&str> {
        self.text
            .split('/')
            .find(|name| is_left_out(name.as_bytes()))
    }
}

fn names(path: &Path) -> impl Iterator<Item = &[u8]> {
    let bytes = path.as_os_str().as_bytes();
    bytes
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    if pattern.starts_with('/') {
        return Err("is absolute; globs are below the project's root".into());
    }
    if pattern.split('/').count() > MOST_NAMES {
        return Err(format!("has more than {MOST_NAMES} names"));
    }
    let mut out = Vec::new();
    let mut rest = pattern.split('/').peekable();
    while let Some(part) = rest.next() {
        let is_last = rest.peek().is_none();
        match part {
            "" => return Err("has an empty part; to watch a folder, write \"folder/**\"".into()),
            "." | ".." => {
                return Err("has \".\" or \"..\" in it; globs are below the project's root".into());
            }
            "**" if is_last => out.extend([Part::Any, Part::Deep]),
            "**" => out.push(Part::Deep),
            "*" => out.push(Part::Any),
            _ if part.contains("**") => {
                return Err(
                    "has \"**\" beside other characters; it stands alone between slashes".into(),
                );
            }
            _ if part.contains(['*', '?', '[', '{', '}']) => out.push(Part::Like(like(part)?)),
            _ => {
                out.push(Part::Plain(part.into()));
                if is_last {
                    out.push(Part::Deep);
                }
            }
        }
    }
    Ok(out)
}

/// The kind of one name, as a regular expression: linear in time.
fn like(part: &str) -> Result<Regex, String> {
    let mut text = String::from("^");
    name(&mut text, part)?;
    text.push('$');
    RegexBuilder::new(&text)
        .size_limit(LARGEST_REGEX)
        .dot_matches_new_line(true)
        .build()
        .map_err(|e| format!("does not compile: {e}"))
}

/// One name of a path.
fn name(out: &mut String, part: &str) -> Result<(), &'static str> {
    let mut in_braces = false;
    let mut commands = part.chars();
    while let Some(command) = commands.next() {
        match command {
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => set(out, &mut commands)?,
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

/// Reads a set, behind its `[`. Its first character stands for itself, even where it is `]`.
fn set(out: &mut String, commands: &mut std::str::Chars) -> Result<(), &'static str> {
    out.push('[');
    let mut next = commands.next();
    if let Some('!' | '^') = next {
        out.push_str("^/");
        next = commands.next();
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
        next = commands.next();
    }
    out.push(']');
    Ok(())
}

fn literal(out: &mut String, command: char) {
    if command.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(command);
}

/// Folders whose contents nobody edits: what tools make of the sources (spec: config, `watch`).
const LEFT_OUT: &[&[u8]] = &[b".git", b"target", b"node_modules"];

fn is_left_out(name: &[u8]) -> bool {
    LEFT_OUT.contains(&name)
}

/// Names of files that editors leave beside an open file, or make while they save: opening a file is no change.
fn is_editors_own(name: &[u8]) -> bool {
    let swap = || {
        let (first, rest) = name.split_at(name.len().saturating_sub(4));
        // .name.swp, and .swo, .swn ... where that is taken
        first.starts_with(b".") && rest.starts_with(b".sw")
    };
    // Of vim (4913: may files be made here?), of emacs (.#lock, #autosave#), backups of
    // both, of Kate, of LibreOffice.
    name == b"4913"
        || name.ends_with(b"~")
        || name.starts_with(b".#")
        || (name.len() > 2 && name.starts_with(b"#") && name.ends_with(b"#"))
        || name.ends_with(b".kate-swp")
        || name.starts_with(b".~lock.")
        || swap()
}

/// Paths that never count, whatever the patterns say: `.git`, `target` and `node_modules` at any depth, the files
/// that editors make beside those they edit, `.mcp-run` (a reload takes it over), and the paths given.
#[derive(Debug, Clone, Default)]
pub struct Ignores {
    /// Relative to the root.
    paths: Vec<PathBuf>,
}

impl Ignores {
    /// `paths` are absolute; those that are not below the root are passed over.
    pub fn new(root: &Path, paths: &[PathBuf]) -> Self {
        let below = |path: &PathBuf| path.strip_prefix(root).ok().map(Path::to_path_buf);
        let paths = paths.iter().filter_map(below);
        Self {
            paths: paths.filter(|p| !p.as_os_str().is_empty()).collect(),
        }
    }

    /// Whether this path, relative to the root, or a folder that it is in never counts.
    pub fn covers(&self, path: &Path) -> bool {
        names(path).any(|name| is_left_out(name) || is_editors_own(name))
            || path == Path::new(CONFIG_FILE)
            || self.paths.iter().any(|ignored| path.starts_with(ignored))
    }
}

#[cfg(test)]
mod tests;
