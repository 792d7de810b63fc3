//! The house of the source: rooms stand on floors, and an import points to the same floor or to one
//! below; only `os` has `unsafe`; rooms stay small.

#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code in one file, without tests: more than that is two rooms.
const ROOM: usize = 900;

struct File {
    /// Below `src`.
    path: PathBuf,
    text: String,
}

impl File {
    /// `src/os/spawn.rs` -> `os`, `src/tape.rs` -> `tape`.
    fn room(&self) -> String {
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

    fn is_room(&self) -> bool {
        !matches!(self.room().as_str(), "lib" | "main" | "bin")
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

/// The rooms that a line of code names: `use crate::os::poll`, `crate::hub::Ask`, `use crate::{a, b::c}`.
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
    for file in files().iter().filter(|f| f.is_room()) {
        let folder = file.room();
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

/// Those that call the kernel themselves besides the hands: the clock, and who waits in epoll(7) or
/// reads and writes logs, each read of which would cross another room.
const CALL_THE_KERNEL: [&str; 4] = ["os", "base", "server", "log"];

#[test]
fn the_others_leave_the_kernel_to_the_hands() {
    let mut wrong = Vec::new();
    for file in files() {
        let calls = |line: &&str| {
            let code = line.split("//").next().unwrap_or_default();
            words(code).any(|word| word == "nix" || word.starts_with("nix::"))
        };
        if !CALL_THE_KERNEL.contains(&file.room().as_str()) {
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
            if words(code).any(|w| w == "unsafe") && !(file.room() == "os" && argued) {
                wrong.push(format!("{}:{number}: {}", file.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_are_small() {
    for file in files() {
        let bare = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let lines = file.code().lines().filter(bare).count();
        assert!(lines <= ROOM, "{} has {lines} lines", file.path.display());
    }
}
