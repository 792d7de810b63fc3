//! Pure: no system call, no thread, no clock.
//!
//! `Justfile`, `Makefile`: targets whose names say that they run something.

use super::Source;
use super::draft::{Draft, Item};

/// Names of targets that may be worth a process.
const NAMES: &[&str] = &["dev", "run", "serve", "watch"];

/// Reads it. Targets become comments, and processes where the file was asked for by name.
pub(super) fn read(source: &Source, asked: bool, draft: &mut Draft) {
    let tool = match source.name().to_ascii_lowercase().ends_with("makefile") {
        true => "make",
        false => "just",
    };
    let mut first = true;
    for (line, number) in source.text.lines().zip(1..) {
        for name in NAMES.iter().filter(|name| is_target(line, name, tool)) {
            let command = [tool.to_string(), (*name).to_string()];
            if !asked {
                let why = format!("if it should run: command = {command:?}");
                draft.left(&source.at(number), &format!("{tool} {name}"), &why);
                continue;
            }
            let mut item = Item::new(name, source.at(number));
            item.list("command", &command);
            item.folder(&source.sub);
            if !std::mem::take(&mut first) {
                item.by_hand();
            }
            draft.add(item);
        }
    }
}

/// `dev:`, `dev: build`, `dev port="1":` (just), `dev run:` (make), and not `dev := x`, `dev = x`.
fn is_target(line: &str, name: &str, tool: &str) -> bool {
    let Some((before, after)) = line.split_once(':') else {
        return false;
    };
    if after.starts_with('=') || before.starts_with([' ', '\t']) {
        return false;
    }
    let words = before.trim_start_matches('@').split_whitespace();
    let words: Vec<&str> = words.collect();
    let is_value = words.get(1).is_some_and(|word| word.starts_with('='));
    match tool {
        "make" => !is_value && words.contains(&name),
        _ => !is_value && words.first() == Some(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_of, draft_of};
    use super::*;

    #[test]
    fn targets_are_named_and_taken_only_when_asked_for() {
        let text = "run := \"x\"\nbuild:\n\tx\ndev port=\"1\": build\n  npm run dev\n@serve:\n  x\ndevelop:\n";
        let draft = draft_of("Justfile", text, |s, d| read(s, false, d));
        assert_eq!(draft.len(), 0);
        let lost = draft.lost().join("\n");
        assert!(lost.starts_with("Justfile:4: just dev: "), "{lost}");
        assert!(lost.contains("Justfile:6: just serve: "), "{lost}");
        assert_eq!(draft.lost().len(), 2);
        let draft = draft_of("Makefile", text, |s, d| read(s, true, d));
        let config = config_of(&draft);
        let names: Vec<&str> = config.processes.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["dev", "serve"]);
        assert!(config.processes[0].autostart && !config.processes[1].autostart);
        let draft = draft_of("Makefile", "dev run: x\n", |s, d| read(s, false, d));
        assert!(draft.lost()[1].starts_with("Makefile:1: make run: "));
    }
}
