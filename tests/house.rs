//! The layout of the source: a folder imports from those before it; only `os` has `unsafe`; files and structs stay
//! small; comments begin with their subject.

#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code in one file, without tests: more than that is two files.
const LINES: usize = 600;

/// Fields of a struct.
const FIELDS: usize = 16;
/// Structs above that, which must not grow beyond this.
const WIDE: [(&str, usize); 8] = [
    ("config/mod.rs: Process", 40),
    ("tui/status.rs: Process", 30),
    ("engine/supervisor/mod.rs: Supervisor", 26),
    ("engine/supervisor/mod.rs: Setup", 20),
    ("engine/handle.rs: Done", 20),
    ("lifecycle/policy.rs: Facts", 20),
    ("engine/snapshot.rs: UnitView", 18),
    ("os/spawn.rs: Plan", 18),
];

struct File {
    /// Below `src`.
    path: PathBuf,
    text: String,
}

impl File {
    /// `src/os/spawn.rs` -> `os`, `src/lib.rs` -> `lib`.
    fn folder(&self) -> String {
        let first = self.path.components().next().unwrap();
        let first = Path::new(first.as_os_str());
        first.file_stem().unwrap().to_str().unwrap().to_string()
    }

    /// Without the tests at its end.
    fn code(&self) -> &str {
        let end = self.text.find("\n#[cfg(test)]\nmod tests");
        &self.text[..end.unwrap_or(self.text.len())]
    }

    fn is_test(&self) -> bool {
        let name = self.path.file_stem().unwrap();
        name == "tests" || name == "testing"
    }

    fn is_module(&self) -> bool {
        !matches!(self.folder().as_str(), "lib" | "main" | "bin")
    }
}

fn files() -> Vec<File> {
    fn walk(folder: &Path, root: &Path, into: &mut Vec<File>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(File {
                    path: path.strip_prefix(root).unwrap().into(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.retain(|f| !f.is_test());
    assert!(found.len() > 10, "the source is somewhere else");
    found
}

/// Names and paths in a line of code: `std::fs::read`, `unsafe`.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
}

/// The folders in the order of imports: a file imports from its own folder and from those before it. Folders of
/// one row do not import each other.
const ORDER: [&[&str]; 13] = [
    &["base"],
    &["os"],
    &["config"],
    &["log"],
    &["lifecycle"],
    &["build", "check", "watch"],
    &["engine"],
    // The server knows tools by the trait `Service` alone, which the tools implement.
    &["server"],
    &["tools"],
    &["client"],
    &["daemon"],
    &["cli"],
    &["tui"],
];

/// The row of a folder in [`ORDER`].
fn row(folder: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&folder))
}

/// The folders that code names: `use crate::os::poll`, `crate::log::line`, `use crate::{a, b::c}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: String = code
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(list) => {
                let (mut depth, mut start) = (0, true);
                for (i, c) in list.char_indices() {
                    if start && !c.is_whitespace() {
                        found.push(name(&list[i..]));
                        start = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ => {}
                    }
                }
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_are_read_from_lists_too() {
    let code =
        "use crate::os::poll;\nuse crate::{\n    hub::{Ask, Hub},\n    tape,\n};\n// crate::not\n";
    assert_eq!(imports(code), ["os", "hub", "tape"]);
}

#[test]
fn imports_point_to_earlier_folders() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|f| f.is_module()) {
        let folder = file.folder();
        let Some(own) = row(&folder) else {
            wrong.push(format!(
                "{}: its folder is not in ORDER",
                file.path.display()
            ));
            continue;
        };
        for other in imports(file.code()) {
            if other != folder && row(&other).is_none_or(|there| there >= own) {
                wrong.push(format!("{} imports {other}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_files_make_no_system_calls() {
    const FORBIDDEN: [&str; 9] = [
        "std::fs",
        "std::net::TcpStream",
        "std::os::fd",
        "std::thread",
        "std::process",
        "nix",
        "libc",
        "Mono::now",
        "Wall::now",
    ];
    let (mut wrong, mut pure) = (Vec::new(), 0);
    for file in files().iter().filter(|f| f.text.starts_with("//! Pure:")) {
        pure += 1;
        for path in FORBIDDEN {
            let names = |line: &&str| {
                let code = line.split("//").next().unwrap_or_default();
                words(code).any(|word| word == path || word.starts_with(&format!("{path}::")))
            };
            if let Some(line) = file.code().lines().find(names) {
                wrong.push(format!("{}: {}", file.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pure > 10, "only {pure} files are declared pure");
}

/// The folders that call the kernel by themselves: `os`, the clock, the server's epoll(7), and the log, whose reads
/// and writes would otherwise each cross another folder.
const CALL_THE_KERNEL: [&str; 4] = ["os", "base", "server", "log"];

#[test]
fn other_folders_leave_the_kernel_to_os() {
    let mut wrong = Vec::new();
    for file in files() {
        let calls = |line: &&str| {
            let code = line.split("//").next().unwrap_or_default();
            words(code).any(|word| word == "nix" || word.starts_with("nix::"))
        };
        if !CALL_THE_KERNEL.contains(&file.folder().as_str()) {
            let lines = file.code().lines().filter(calls);
            wrong.extend(lines.map(|l| format!("{}: {}", file.path.display(), l.trim())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_os_alone_and_says_why() {
    let mut wrong = Vec::new();
    for file in files() {
        let mut argued = false;
        for (line, number) in file.code().lines().zip(1..) {
            let code = line.split("//").next().unwrap_or_default();
            // An argument holds for the function that it is in.
            argued = line.contains("SAFETY") || argued && !words(code).any(|w| w == "fn");
            if words(code).any(|w| w == "unsafe") && !(file.folder() == "os" && argued) {
                wrong.push(format!("{}:{number}: {}", file.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of the structs that are known to be wide, else the usual one.
fn bound(name: &str) -> usize {
    let found = WIDE.iter().find(|(n, _)| *n == name);
    found.map_or(FIELDS, |(_, bound)| *bound)
}

#[test]
fn files_are_small() {
    for file in files() {
        let bare = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let lines = file.code().lines().filter(bare).count();
        let name = file.path.to_str().unwrap();
        assert!(lines <= LINES, "{name} has {lines} lines");
    }
}

#[test]
fn structs_have_few_fields() {
    for file in files() {
        let mut lines = file.code().lines();
        while let Some(line) = lines.next() {
            let mut parts = words(line).skip_while(|word| *word != "struct");
            let Some(name) = parts.nth(1).filter(|_| line.ends_with('{')) else {
                continue;
            };
            let indent = line.len() - line.trim_start().len() + 4;
            let is_field = |line: &&str| {
                let inner = line.get(indent..).unwrap_or_default();
                inner.starts_with(|c: char| c.is_alphabetic()) && inner.contains(": ")
            };
            let body = lines.by_ref().take_while(|line| line.trim_start() != "}");
            let fields = body.filter(is_field).count();
            let name = format!("{}: {name}", file.path.display());
            let most = bound(&name);
            assert!(fields <= most, "{name} has {fields} fields");
        }
    }
}

#[test]
fn src_has_few_entries() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name());
    // The terminal UI is a binary of its own.
    let counted = names.filter(|name| name != "tui" && name != "bin").count();
    assert!(counted <= 16, "{counted} entries");
}

/// A sentence has its subject first. The bound is not zero: now and then such an opening is the plainest.
#[test]
fn comments_begin_with_their_subject() {
    const OPENERS: [&str; 6] = ["Who", "Whoever", "Whom", "What", "Whose", "Which"];
    let mut found = Vec::new();
    for file in files() {
        let opens = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("//")
                && words(line)
                    .find(|word| !word.is_empty())
                    .is_some_and(|word| OPENERS.contains(&word))
        };
        let lines = file.text.lines().filter(opens);
        found.extend(lines.map(|l| format!("{}: {}", file.path.display(), l.trim())));
    }
    assert!(found.len() < 20, "{}", found.join("\n"));
}
