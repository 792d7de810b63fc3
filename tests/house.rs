//! The house of the source: rooms stand on floors, and an import points to the same floor or to one
//! below; only `os` has `unsafe`; rooms stay small.

#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
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

/// Room -> floor, as `src/lib.rs` lists them: `// floor 2: ...`, then `pub mod os;`.
fn floors() -> BTreeMap<String, u8> {
    let lib = files().into_iter().find(|f| f.room() == "lib").unwrap();
    let mut floor = None;
    let mut found = BTreeMap::new();
    for line in lib.text.lines() {
        if let Some(rest) = line.strip_prefix("// floor ") {
            floor = rest[..1].parse().ok();
        } else if let Some(rest) = line.split("mod ").nth(1) {
            let room = rest.trim_end_matches(';').to_string();
            found.insert(room, floor.expect("a floor before the first room"));
        }
    }
    assert!(found.len() > 10, "lib.rs lists them otherwise");
    found
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
fn every_import_points_down() {
    let floors = floors();
    let mut wrong = Vec::new();
    for file in files().iter().filter(|f| f.is_room()) {
        let room = file.room();
        let Some(floor) = floors.get(room.as_str()) else {
            wrong.push(format!("{} stands on no floor", file.path.display()));
            continue;
        };
        for other in imports(file.code()) {
            match floors.get(other.as_str()) {
                Some(there) if there <= floor => {}
                Some(there) => wrong.push(format!(
                    "{} (floor {floor}) imports {other} (floor {there})",
                    file.path.display()
                )),
                None => wrong.push(format!(
                    "{} imports {other}, which stands on no floor",
                    file.path.display()
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn thought_asks_the_system_nothing() {
    let floors = floors();
    let mut wrong = Vec::new();
    for file in files().iter().filter(|f| f.is_room()) {
        let thought = floors.get(file.room().as_str()) == Some(&1);
        let forbidden = [
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
        for path in forbidden.iter().filter(|_| thought) {
            let names = |line: &&str| {
                let code = line.split("//").next().unwrap_or_default();
                words(code).any(|word| word == *path || word.starts_with(&format!("{path}::")))
            };
            if let Some(line) = file.code().lines().find(names) {
                wrong.push(format!("{}: {}", file.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Those that call the kernel themselves besides the hands: the clock, and who waits in epoll(7) or
/// reads and writes logs, each read of which would cross another room.
const CALL_THE_KERNEL: [&str; 5] = ["os", "clock", "net", "pump", "tape"];

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
fn only_the_hands_are_unsafe_and_they_say_why() {
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
