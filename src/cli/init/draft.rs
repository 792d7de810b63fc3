//! Pure: no system call, no thread, no clock.
//!
//! The `.mcp-run` as it grows: processes with their keys, and what could not be taken over.

use super::quote::{brief, key, toml, toml_list};
use crate::base::error::{Error, Failure, Fault, Result};
use crate::base::paths::CONFIG_FILE;
use crate::config::{KEYS, Place};

/// Nobody runs more of them; each costs a look at all before it.
const MOST: usize = 500;

/// Reasons that several supervisors' settings have.
pub(super) const NOT_ROOT: &str = "only root may start processes as another user";
pub(super) const ONE_OF_EACH: &str = "bpm runs one of each table: copy it under other names";

/// The reason why a setting has no counterpart.
pub(super) fn reason_for(key: &str, lacking: &[(&str, &'static str)]) -> &'static str {
    let known = lacking.iter().find(|(name, _)| *name == key);
    known.map_or("unknown to bpm", |(_, why)| *why)
}

/// One process.
pub(super) struct Item {
    name: String,
    /// `Procfile:3`.
    from: String,
    /// Where the keys that follow stand.
    place: String,
    entries: Vec<Entry>,
    autostart: bool,
}

enum Entry {
    /// Where it stands, the key and its value.
    Set(String, String, String),
    Note(String),
    /// A line that is also printed.
    Left(String),
}

impl Item {
    /// A process without keys; its name is made one that bpm takes.
    pub(super) fn new(name: &str, from: impl Into<String>) -> Self {
        let from = from.into();
        let mut item = Self {
            name: name_of(name),
            place: from.clone(),
            from,
            entries: Vec::new(),
            autostart: true,
        };
        if item.name != name {
            item.note(format!("called {:?} there", brief(name)));
        }
        item
    }

    /// The keys that follow stand there.
    pub(super) fn at(&mut self, place: &str) {
        self.place = place.into();
    }

    /// A key with its value, in TOML. A key that this bpm does not know becomes a comment.
    pub(super) fn set(&mut self, key: &str, value: String) {
        let (place, name) = match key.split_once('.') {
            Some(("limits", name)) => (Place::Limits, name),
            Some((table, _)) => (Place::Process, table),
            None => (Place::Process, key),
        };
        let known = KEYS.iter().any(|k| k.place == place && k.name == name);
        if known && !value.contains('\n') {
            let place = self.place.clone();
            self.entries.push(Entry::Set(place, key.into(), value));
        } else {
            self.left(
                &self.place.clone(),
                &format!("{key} = {value}"),
                match known {
                    true => "it stands in several lines",
                    false => "this bpm has no such key",
                },
            );
        }
    }

    /// The same with a string.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.set(key, toml(value));
    }

    /// The same with a list.
    pub(super) fn list(&mut self, key: &str, value: &[String]) {
        self.set(key, toml_list(value));
    }

    /// The folder that it runs in; empty: the project's.
    pub(super) fn folder(&mut self, folder: &str) {
        if !folder.is_empty() {
            self.text("cwd", folder);
        }
    }

    /// A variable; its value is in the form that bpm expands.
    pub(super) fn env(&mut self, name: &str, value: &str) {
        self.set(&format!("env.{}", key(name)), toml(value));
    }

    /// It does not start by itself.
    pub(super) fn by_hand(&mut self) {
        self.autostart = false;
    }

    /// A comment.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.entries.push(Entry::Note(text.into()));
    }

    /// Notes a setting that could not be taken over: where it stands, what it is, and why.
    pub(super) fn left(&mut self, place: &str, what: &str, why: &str) {
        self.entries.push(Entry::Left(left(place, what, why)));
    }

    /// Makes a comment of the key that the fault is about; false where it can't do without it. The block
    /// begins in the line `first`.
    fn refused(&mut self, fault: &Fault, first: usize) -> bool {
        let before = first + 2 + usize::from(!self.autostart);
        let at = match fault.file == CONFIG_FILE {
            true => fault.line.checked_sub(before),
            false => {
                let is_file = |e: &Entry| matches!(e, Entry::Set(_, key, _) if key == "env_file");
                self.entries.iter().position(is_file)
            }
        };
        let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) else {
            return false;
        };
        let why = &fault.text;
        match entry {
            Entry::Set(place, key, value)
                if !["type", "command", "port"].contains(&key.as_str()) =>
            {
                *entry = Entry::Left(left(place, &format!("{key} = {value}"), why));
                true
            }
            Entry::Set(..) | Entry::Note(_) | Entry::Left(_) => false,
        }
    }

    fn block(&self) -> String {
        let mut text = format!("# {}\n[process.{}]\n", self.from, key(&self.name));
        if !self.autostart {
            text.push_str("autostart = false\n");
        }
        for entry in &self.entries {
            text.push_str(&match entry {
                Entry::Set(_, key, value) => format!("{key} = {value}\n"),
                Entry::Note(line) | Entry::Left(line) => format!("# {line}\n"),
            });
        }
        text
    }
}

fn faults(error: &Error) -> &[Fault] {
    match error.failure() {
        Failure::Config(faults) => faults,
        _ => &[],
    }
}

fn first_fault(error: &Error) -> String {
    let first = faults(error).first().map(|fault| fault.text.clone());
    first.unwrap_or_else(|| error.to_string())
}

fn left(place: &str, what: &str, why: &str) -> String {
    format!("{place}: {}: {why}", brief(what))
}

/// A name that bpm takes, as near as can be to the one given.
pub(super) fn name_of(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
            _ => '-',
        })
        .skip_while(|c| matches!(c, '.' | '-'))
        .take(60)
        .collect();
    match name.trim_end_matches('-') {
        "" => "app".into(),
        name => name.into(),
    }
}

/// The whole file.
#[derive(Default)]
pub(super) struct Draft {
    items: Vec<Item>,
    top: Vec<String>,
    left: Vec<String>,
    sources: Vec<String>,
    /// From here on nothing starts by itself: this file said already what runs.
    decided: Option<String>,
    /// How many processes were too many.
    more: usize,
}

impl Draft {
    /// A line above the first table.
    pub(super) fn top(&mut self, line: impl Into<String>) {
        let line = line.into();
        if !self.top.contains(&line) {
            self.top.push(line);
        }
    }

    /// Notes a setting that could not be taken over, and belongs to no process.
    pub(super) fn left(&mut self, place: &str, what: &str, why: &str) {
        self.left.push(left(place, what, why));
    }

    /// One more process, unless there are too many. Its name gets a number where another has it.
    pub(super) fn add(&mut self, mut item: Item) {
        if self.items.len() == MOST {
            self.more += 1;
            return;
        }
        if let Some(file) = &self.decided {
            item.note(format!(
                "{file} says what runs: this one starts by its name only"
            ));
            item.by_hand();
        }
        let wished = item.name.clone();
        let mut n = 2;
        while self.items.iter().any(|i| i.name == item.name) {
            item.name = format!("{wished}-{n}");
            n += 1;
        }
        self.items.push(item);
    }

    /// That file was read.
    pub(super) fn source(&mut self, file: &str) {
        self.sources.push(file.into());
    }

    /// That file says what runs; what is found after it starts by its name only.
    pub(super) fn decide(&mut self, file: &str) {
        if !self.items.is_empty() && self.decided.is_none() {
            self.decided = Some(file.into());
        }
    }

    /// How many processes there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Takes out what `bpm check` would refuse, and says why it did. `checked`: what `bpm check` says of a text.
    pub(super) fn sift(&mut self, checked: &dyn Fn(&str) -> Result<()>) {
        if self.more > 0 {
            let what = format!("{} more processes", self.more);
            let from = self.sources.join(", ");
            self.left(&from, &what, &format!("at most {MOST} are taken over"));
        }
        let mut kept = String::new();
        for line in std::mem::take(&mut self.top) {
            match checked(&format!("{line}\n[process.a]\ncommand = \"a\"\n")) {
                Ok(()) => {
                    kept.push_str(&format!("{line}\n"));
                    self.top.push(line);
                }
                Err(error) => self.left(".env", &line, &first_fault(&error)),
            }
        }
        let items = std::mem::take(&mut self.items);
        self.take_good(items, &mut kept, checked);
        let first = self.items.iter().all(|item| !item.autostart);
        if let Some(item) = self.items.first_mut().filter(|_| first) {
            item.note("the first one; autostart = true starts it with all");
        }
    }

    /// Looks at all together with those that were kept before (two of them may not have the same port), then at halves.
    fn take_good(
        &mut self,
        mut items: Vec<Item>,
        kept: &mut String,
        checked: &dyn Fn(&str) -> Result<()>,
    ) {
        let blocks: String = items.iter().map(Item::block).collect();
        let with = format!("{kept}{blocks}");
        let Err(error) = checked(&with) else {
            *kept = with;
            self.items.extend(items);
            return;
        };
        if items.len() > 1 {
            let rest = items.split_off(items.len() / 2);
            self.take_good(items, kept, checked);
            self.take_good(rest, kept, checked);
        } else if let Some(mut item) = items.pop() {
            let first = kept.lines().count() + 1;
            let refused = faults(&error).iter().filter(|f| item.refused(f, first));
            if refused.count() > 0 {
                return self.take_good(vec![item], kept, checked);
            }
            self.left(&item.from, &item.name, &first_fault(&error));
        }
    }

    /// The file.
    pub(super) fn text(&self, version: &str) -> String {
        let mut text = format!(
            "# Written by bpm {version} (bpm init) from {}. All keys: man mcp-run.\n\
             # \"bpm check\" reads it, \"bpm up\" starts what is in it.\n",
            self.sources.join(", ")
        );
        if !self.top.is_empty() {
            text.push('\n');
        }
        for line in &self.top {
            text.push_str(&format!("{line}\n"));
        }
        for item in &self.items {
            text.push_str(&format!("\n{}", item.block()));
        }
        if !self.left.is_empty() {
            text.push_str("\n# Not taken over:\n");
        }
        for line in &self.left {
            text.push_str(&format!("# {line}\n"));
        }
        text
    }

    /// Each process and where it came from.
    pub(super) fn taken(&self) -> String {
        let width = self.items.iter().map(|i| i.name.len()).max().unwrap_or(0);
        let line = |i: &Item| format!("{:width$}  {}\n", i.name, i.from);
        self.items.iter().map(line).collect()
    }

    /// Everything that was not taken over, a line each.
    pub(super) fn lost(&self) -> Vec<&str> {
        let of_items = self.items.iter().flat_map(|item| &item.entries);
        let of_items = of_items.filter_map(|entry| match entry {
            Entry::Left(line) => Some(line.as_str()),
            Entry::Set(..) | Entry::Note(_) => None,
        });
        of_items
            .chain(self.left.iter().map(String::as_str))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_of, parsed};
    use super::*;

    #[test]
    fn names_become_ones_that_bpm_takes() {
        assert_eq!(name_of("@acme/web app"), "acme-web-app");
        assert_eq!(name_of("..x"), "x");
        assert_eq!(name_of("日本"), "app");
        assert_eq!(name_of(&"x".repeat(90)).len(), 60);
    }

    #[test]
    fn a_process_that_check_refuses_becomes_a_comment() {
        let mut draft = Draft::default();
        let mut bad = Item::new("bad", "Procfile:1");
        bad.text("command", "a\0b");
        draft.add(bad);
        for port in ["5000", "5001", "5000"] {
            let mut good = Item::new("good", "Procfile:2");
            good.text("command", "true");
            good.set("port", port.into());
            draft.add(good);
        }
        draft.sift(&parsed);
        let text = draft.text("1");
        let config = config_of(&draft);
        let names: Vec<&str> = config.processes.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["good", "good-2"]);
        assert!(draft.lost()[0].starts_with("Procfile:1: bad: "), "{text}");
        assert!(
            text.contains("# Not taken over:\n# Procfile:1: bad: "),
            "{text}"
        );
        let port = "# Procfile:2: good-3: \"port\" in [process.good-3]: 5000 is in [process.good]";
        assert!(text.contains(port), "{text}");
    }

    #[test]
    fn a_key_that_this_bpm_lacks_becomes_a_comment() {
        let mut draft = Draft::default();
        let mut item = Item::new("web", "x.conf:1");
        item.text("command", "true");
        item.set("limits.nofile", "64".into());
        item.set("no_such_key", "1".into());
        item.env("A.B", "x");
        draft.add(item);
        draft.sift(&parsed);
        let text = draft.text("1");
        assert!(text.contains("\nlimits.nofile = 64\n"), "{text}");
        assert!(text.contains("\n# x.conf:1: no_such_key = 1: this bpm has no such key\n"));
        assert!(text.contains("\nenv.\"A.B\" = \"x\"\n"), "{text}");
        assert_eq!(draft.lost().len(), 1);
    }
}
