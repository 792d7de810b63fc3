//! Pure: no system call, no thread, no clock.
//!
//! What is wrong with a build: the errors of the compiler's messages, else what looks like one in its text, with
//! paths from the project's root.

use std::path::Path;

use super::cargo::Message;
use super::text;

/// The first errors that are kept: one whole, and the headlines of ten more.
pub const ERRORS: usize = 11;
/// Lines of the first error's text that are kept.
const LINES: usize = 60;

/// One error of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    texts: [text::Errors; 2],
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
        let [stdout, stderr] = self.texts.map(text::Errors::take);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_from_the_projects_root() {
        let there = ["/p/api/src/a.rs", "/p/shared/src/b.rs", "/p/api/api/x.rs"];
        let places = Places {
            root: Path::new("/p"),
            cwd: Path::new("/p/api"),
            exists: &|path| there.iter().any(|known| Path::new(known) == path),
        };
        for (file, folder, want) in [
            ("src/a.rs", "/p/api", "api/src/a.rs"),
            ("api/src/a.rs", "/p/api", "api/src/a.rs"),
            ("src/b.rs", "/p/shared", "shared/src/b.rs"),
            ("/p/shared/src/b.rs", "/p/api", "shared/src/b.rs"),
            ("api/x.rs", "/p/api", "api/api/x.rs"),
            ("src/gone.rs", "/p/api", "src/gone.rs"),
            ("/rustc/x/lib.rs", "/p/api", "/rustc/x/lib.rs"),
        ] {
            assert_eq!(
                places.relative_to_root(file, Path::new(folder)),
                want,
                "{file}"
            );
        }
        let line = "   --> src/a.rs:3:5";
        assert_eq!(
            places.line_from_root(line, places.cwd),
            "   --> api/src/a.rs:3:5"
        );
        let code = "3 | let x --> src/a.rs:3:5";
        assert_eq!(places.line_from_root(code, places.cwd), code);
    }

    #[test]
    fn the_first_error_is_kept_whole_and_all_are_counted() {
        let places = Places {
            root: Path::new("/p"),
            cwd: Path::new("/p/api"),
            exists: &|_| true,
        };
        let mut found = Diagnostics::default();
        for n in 0..120 {
            let message = Message {
                rendered: format!("error: {n}\n --> src/a.rs:{n}:1\n  |\n\n"),
                manifest: "/p/api/Cargo.toml".into(),
                error: Some(BuildError {
                    file: Some("src/a.rs".into()),
                    line: Some(n),
                    column: Some(1),
                    message: n.to_string(),
                }),
            };
            found.message(message, &places);
        }
        found.line(0, "error: of the text");
        let errors = found.take(&places);
        assert_eq!((errors.count, errors.list.len()), (120, ERRORS));
        assert_eq!(errors.list[10].file.as_deref(), Some("api/src/a.rs"));
        assert_eq!(errors.text, ["error: 0", " --> api/src/a.rs:0:1", "  |"]);
    }

    #[test]
    fn the_text_of_other_compilers_is_kept_too() {
        let places = Places {
            root: Path::new("/p"),
            cwd: Path::new("/p"),
            exists: &|_| true,
        };
        let mut found = Diagnostics::default();
        let text = "cc main.c\nmain.c:7:9: error: expected ';'\n    7 | int x\n      |      ^\n\
                    make: *** [all] Error 1\nmain.c:9:9: error: more\n";
        text.lines().for_each(|line| found.line(1, line));
        let errors = found.take(&places);
        assert_eq!((errors.count, errors.list.len()), (2, 2));
        assert_eq!(
            errors.text,
            [
                "main.c:7:9: error: expected ';'",
                "    7 | int x",
                "      |      ^"
            ]
        );
    }
}
