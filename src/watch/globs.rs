//! The patterns of `watch`, and what never counts. Pure: names and paths, no files.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use regex_lite::{Regex, RegexBuilder};

use crate::base::paths::CONFIG_FILE;

/// What the pattern of one name may compile to, in bytes.
const LARGEST_REGEX: usize = 64 << 10;

/// A pattern may have at most so many names: a path has at most 4,096 bytes (PATH_MAX).
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

/// What stands between two slashes.
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
    pub fn in_vain(&self) -> Option<&str> {
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

/// What stands after `[`. Its first character stands for itself, even where it is `]`.
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

/// What an editor leaves beside a file while it is open, or while it saves: opening a file is no change.
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

/// What never counts, whatever the patterns say: `.git`, `target` and `node_modules` at any depth, the files
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
mod tests {
    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern).unwrap()
    }

    #[test]
    fn patterns_match_paths() {
        for (pattern, yes, no) in [
            ("src", "src src/a src/a/b.rs", "asrc src2 a/src"),
            ("a/b.txt", "a/b.txt a/b.txt/c", "a/bxtxt a b.txt"),
            ("*.rs", "a.rs .rs", "a/b.rs a.rsx a.rs/b"),
            ("src/*", "src/a src/.a", "src src/a/b a/src"),
            ("src/**", "src/a src/a/b", "src a/src/b"),
            ("**", "a a/b/c", ""),
            ("**/*.rs", "a.rs a/b.rs a/b/c.rs", "a.r"),
            ("src/**/x", "src/x src/a/x src/a/b/x src/x/y", "src/ax x"),
            ("**/a/**/b", "a/b x/a/y/b a/a/b/b a/b/c", "b/a a b"),
            ("**/a*/*b", "ab/ab x/y/a/b", "a/b/c b/b a"),
            ("?é*", "aé éébc", "é a/é"),
            ("*.{rs,to?l}", "a.rs a.toml", "a.tol a.rs,toml"),
            ("[a-c]x", "ax cx", "dx -x"),
            ("[!a-c]x", "dx", "ax /x"),
            ("[^]a]", "b", "] a"),
            ("[]a]", "] a", "b"),
            ("[-a][a-]", "-- a-", "b-"),
            ("a+(b).$|^\\d", "a+(b).$|^\\d", "aab1"),
            ("a+(b).$|^\\d?", "a+(b).$|^\\dx", "aab1"),
            ("{,a}b", "b ab", "aab"),
        ] {
            let glob = glob(pattern);
            for path in yes.split_whitespace() {
                assert!(glob.matches(Path::new(path)), "{pattern} {path} {glob:?}");
            }
            for path in no.split_whitespace() {
                assert!(!glob.matches(Path::new(path)), "{pattern} {path} {glob:?}");
            }
        }
        assert!(glob("a*b").matches(Path::new("a \n b")));
    }

    #[test]
    fn names_that_are_no_text_match_too() {
        use std::ffi::OsStr;
        let path = Path::new(OsStr::from_bytes(b"src/\xff.rs"));
        for pattern in ["src", "**", "src/*", "src/?.rs", "**/*.rs"] {
            assert!(glob(pattern).matches(path), "{pattern}");
        }
        assert!(!glob("src/.rs").matches(path));
    }

    #[test]
    fn nonsense_is_refused() {
        for (pattern, why) in [
            ("", "empty part"),
            ("/a", "absolute"),
            ("a//b", "empty part"),
            ("a/", "folder/**"),
            ("../a", "\"..\""),
            ("./a", "\".\""),
            ("a**", "stands alone"),
            ("[a", "without its \"]\""),
            ("[]", "without its \"]\""),
            ("[a/b]", "in the same name"),
            ("{a", "without its \"}\""),
            ("a}", "without its \"{\""),
            ("{a{b}}", "within"),
            ("[z-a]", "does not compile"),
            (&"a/".repeat(5_000), "more than 2048 names"),
        ] {
            let said = Glob::new(pattern).expect_err(pattern);
            assert!(said.contains(why), "{pattern}: {said}");
        }
        assert!(Glob::new(&"[!a]".repeat(20_000)).is_err());
    }

    #[test]
    fn folders_on_the_way_are_reached() {
        for (pattern, yes, no) in [
            ("src", "src src/a src/a/b", "a srcs a/src"),
            ("Cargo.toml", "", "src"),
            ("src/*.rs", "src", "src/a a"),
            ("src/*/x", "src src/a src/a/x", "src/a/b"),
            ("**/*.rs", "a a/b/c", ""),
            ("a/**/b", "a a/x/y", "b"),
            ("{a,b}/c/**", "a b a/c b/c/d", "c a/d"),
        ] {
            let glob = glob(pattern);
            assert!(glob.reaches(Path::new("")), "{pattern}");
            for folder in yes.split_whitespace() {
                assert!(glob.reaches(Path::new(folder)), "{pattern} {folder}");
            }
            for folder in no.split_whitespace() {
                // A plain name may be that of a folder, whose contents are meant then.
                let may_be = folder == pattern;
                assert!(
                    may_be || !glob.reaches(Path::new(folder)),
                    "{pattern} {folder}"
                );
            }
        }
        assert!(glob("Cargo.toml").reaches(Path::new("Cargo.toml")));
    }

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 as usize % sides
        }

        fn path(&mut self, names: &[&str]) -> String {
            let length = 1 + self.roll(6);
            let names: Vec<_> = (0..length).map(|_| names[self.roll(names.len())]).collect();
            names.join("/")
        }
    }

    /// What a pattern means, said in the shortest way.
    fn means(parts: &[Part], names: &[&str]) -> bool {
        match (parts, names) {
            ([], names) => names.is_empty(),
            ([Part::Deep, rest @ ..], names) => (0..=names.len()).any(|n| means(rest, &names[n..])),
            ([_, ..], []) => false,
            ([one, rest @ ..], [name, names @ ..]) => {
                one.fits(name.as_bytes()) && means(rest, names)
            }
        }
    }

    #[test]
    fn random_patterns_mean_what_they_say_and_reach_what_they_match() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut matched = 0;
        for _ in 0..20_000 {
            let glob = glob(&dice.path(&["a", "b", "*", "**", "**", "?", "{a,c}", "[!a]"]));
            let path = dice.path(&["a", "b", "c", "ab"]);
            let names: Vec<&str> = path.split('/').collect();
            let path = Path::new(&path);
            assert_eq!(
                glob.matches(path),
                means(&glob.parts, &names),
                "{glob:?} {path:?}"
            );
            if glob.matches(path) {
                matched += 1;
                for above in path.ancestors().skip(1) {
                    assert!(glob.reaches(above), "{glob:?} {path:?} {above:?}");
                }
            }
        }
        assert!(matched > 1_000);
    }

    #[test]
    fn no_pattern_takes_long() {
        let glob = glob(&format!("{}b", "**/a/".repeat(600)));
        let path = "a/".repeat(2_000);
        assert!(!glob.matches(Path::new(&path)));
    }

    #[test]
    fn what_is_made_never_counts() {
        let root = Path::new("/home/me/app");
        let ignores = Ignores::new(
            root,
            &[
                root.join("build/cargo"),
                root.to_path_buf(),
                "/elsewhere".into(),
            ],
        );
        for path in
            "target target/debug/app crates/a/target/x .git .git/HEAD web/node_modules/a/b.js \
             build/cargo build/cargo/x .mcp-run src/main.rs~ src/.main.rs.swp .x.swo src/.#main.rs \
             src/#main.rs# src/4913 .main.rs.kate-swp .~lock.a.odt#"
                .split_whitespace()
        {
            assert!(ignores.covers(Path::new(path)), "{path}");
        }
        for path in "a src/main.rs targets src/target.rs .gitignore .github/x build build/cargo2 \
             elsewhere web/.mcp-run .env a.swp #a # .swp.rs 49130"
            .split_whitespace()
        {
            assert!(!ignores.covers(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_pattern_that_can_never_count_is_seen() {
        assert_eq!(glob("web/node_modules/**").in_vain(), Some("node_modules"));
        assert_eq!(glob("target").in_vain(), Some("target"));
        assert_eq!(glob("**/*.rs").in_vain(), None);
    }
}
