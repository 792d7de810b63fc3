//! Pure: no system call, no thread, no clock.
//!
//! From TOML values to ours: one small function for each type, and the list of everything that was wrong.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expand::{LONGEST, TOO_LONG, expanded_length};
use super::keys::{self, Fallback, Key, Place};
use super::parse::check_name;
use super::room::{self, Sizes};
use super::{Command, Named, Toggle};
use crate::base::error::{Fault, nearest};
use crate::base::table::{Set, in_order};

/// A value of the file with its place.
pub(super) type Value<'v> = Spanned<DeValue<'v>>;

/// The answer of a reader of one type: the value, or all its faults.
pub(super) type Read<T> = Result<T, Vec<Wrong>>;

/// More than this many faults help nobody; it also bounds the work that a hostile file can cause.
const MOST_FAULTS: usize = 200;

/// Longer than this is a slip of the finger, and would overflow deadlines: 31 years.
const LONGEST_SECONDS: f64 = 1e9;

/// No size is larger than 2^50 bytes, so that sums of sizes never overflow.
const LARGEST: u64 = 1 << 50;

/// One thing that is wrong with a value.
pub(super) struct Wrong {
    at: usize,
    why: Why,
}

enum Why {
    /// Not of the kind that the key takes; this was found.
    Found(String),
    /// Of that kind, and yet.
    Because(String),
}

/// `value` is not what the key takes.
pub(super) fn unfit<T>(value: &Value) -> Read<T> {
    Err(vec![Wrong {
        at: value.span().start,
        why: Why::Found(found(value.get_ref())),
    }])
}

/// `value` is of the right type, and can't be used because of `text`.
pub(super) fn refuse<T>(value: &Value, text: impl Into<String>) -> Read<T> {
    Err(vec![Wrong {
        at: value.span().start,
        why: Why::Because(text.into()),
    }])
}

fn found(value: &DeValue) -> String {
    match value {
        DeValue::String(s) => format!("the string {}", quote(s)),
        DeValue::Integer(i) => format!("the integer {}", short(&i.to_string())),
        DeValue::Float(f) => format!("the number {}", short(f.as_str())),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(a) if a.is_empty() => "an empty list".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.into(),
    }
}

/// Quoted, and cut where it is long.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", short(text))
}

/// A string that is not empty.
pub(super) fn text(value: &Value) -> Read<String> {
    let text = any_text(value)?;
    if text.is_empty() {
        return refuse(value, "it is empty");
    }
    Ok(text)
}

/// A string, maybe empty. No NUL: the kernel ends arguments, variables and paths there.
pub(super) fn any_text(value: &Value) -> Read<String> {
    match value.get_ref() {
        DeValue::String(s) if s.contains('\0') => refuse(value, "it has a NUL character in it"),
        DeValue::String(s) => Ok(s.to_string()),
        _ => unfit(value),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Read<bool> {
    match value.get_ref() {
        DeValue::Boolean(b) => Ok(*b),
        _ => unfit(value),
    }
}

/// `"auto"`, `true` or `false`.
pub(super) fn toggle(value: &Value) -> Read<Toggle> {
    match value.get_ref() {
        DeValue::Boolean(true) => Ok(Toggle::On),
        DeValue::Boolean(false) => Ok(Toggle::Off),
        DeValue::String(s) if s == "auto" => Ok(Toggle::Auto),
        _ => unfit(value),
    }
}

/// One of these words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Value) -> Read<T> {
    move |value| match value.get_ref() {
        DeValue::String(s) => match words.iter().find(|(w, _)| w == s) {
            Some((_, meaning)) => Ok(*meaning),
            None => unfit(value),
        },
        _ => unfit(value),
    }
}

/// An integer within bounds, both included.
pub(super) fn integer(least: u64, most: u64) -> impl Fn(&Value) -> Read<u64> {
    move |value| match whole(value.get_ref()) {
        Some(n) if (least..=most).contains(&n) => Ok(n),
        _ => unfit(value),
    }
}

/// A number of things.
pub(super) fn count(least: u64) -> impl Fn(&Value) -> Read<u32> {
    move |value| {
        let n = integer(least, 1_000_000)(value)?;
        u32::try_from(n).or_else(|_| unfit(value))
    }
}

/// The value of a TOML integer, where it is not negative and fits.
fn whole(value: &DeValue) -> Option<u64> {
    match value {
        DeValue::Integer(i) => u64::from_str_radix(i.as_str(), i.radix()).ok(),
        _ => None,
    }
}

/// An integer or decimal within bounds, both included.
pub(super) fn number(least: f64, most: f64) -> impl Fn(&Value) -> Read<f64> {
    move |value| match finite(value.get_ref()) {
        Some(n) if (least..=most).contains(&n) => Ok(n),
        _ => unfit(value),
    }
}

fn finite(value: &DeValue) -> Option<f64> {
    let n: f64 = match value {
        DeValue::Integer(i) if i.radix() == 10 => i.as_str().parse().ok()?,
        DeValue::Float(f) => f.as_str().parse().ok()?,
        other => whole(other)? as f64,
    };
    n.is_finite().then_some(n)
}

/// A time in units of that many seconds; `least` is in that unit.
pub(super) fn time(unit: f64, least: f64) -> impl Fn(&Value) -> Read<Duration> {
    move |value| {
        let Some(n) = finite(value.get_ref()).filter(|n| *n >= least) else {
            return unfit(value);
        };
        let seconds = n * unit;
        if seconds > LONGEST_SECONDS {
            return refuse(value, "that is more than 31 years");
        }
        Ok(Duration::from_secs_f64(seconds))
    }
}

/// A time in seconds, maybe none.
pub(super) fn seconds(value: &Value) -> Read<Duration> {
    time(1.0, 0.0)(value)
}

/// A time in seconds that is one.
pub(super) fn seconds_above_0(value: &Value) -> Read<Duration> {
    time_above_0(1.0)(value)
}

/// A time above zero, down to the nanosecond.
pub(super) fn time_above_0(unit: f64) -> impl Fn(&Value) -> Read<Duration> {
    move |value| match time(unit, 0.0)(value) {
        Ok(t) if t.is_zero() => unfit(value),
        other => other,
    }
}

/// Bytes: an integer, or a string with K, M or G (powers of 1024).
pub(super) fn size(least: u64) -> impl Fn(&Value) -> Read<u64> {
    move |value| {
        let bytes = match value.get_ref() {
            DeValue::String(s) => suffixed(s),
            other => whole(other),
        };
        match bytes {
            Some(n) if n > LARGEST => refuse(value, "that is more than 1048576G"),
            Some(n) if n >= least => Ok(n),
            _ => unfit(value),
        }
    }
}

fn suffixed(text: &str) -> Option<u64> {
    let unit: u64 = match text.bytes().last()? {
        b'K' | b'k' => 1 << 10,
        b'M' | b'm' => 1 << 20,
        b'G' | b'g' => 1 << 30,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok().map(|n| n.saturating_mul(unit))
}

/// A list of such.
pub(super) fn list<T>(item: fn(&Value) -> Read<T>) -> impl Fn(&Value) -> Read<Vec<T>> {
    move |value| {
        let DeValue::Array(array) = value.get_ref() else {
            return unfit(value);
        };
        let (mut good, mut wrong) = (Vec::with_capacity(array.len()), Vec::new());
        for element in array.iter() {
            match item(element) {
                Ok(one) => good.push(one),
                Err(more) => wrong.extend(more),
            }
        }
        if wrong.is_empty() {
            Ok(good)
        } else {
            Err(wrong)
        }
    }
}

/// One, or a list of such.
pub(super) fn one_or_list<T>(item: fn(&Value) -> Read<T>) -> impl Fn(&Value) -> Read<Vec<T>> {
    move |value| match value.get_ref() {
        DeValue::Array(_) => list(item)(value),
        _ => item(value).map(|one| vec![one]),
    }
}

/// A string in which `${...}` is well formed.
pub(super) fn expandable(value: &Value) -> Read<String> {
    let text = any_text(value)?;
    match expanded_length(&text, |_| Some(0)) {
        Ok(_) => Ok(text),
        Err(why) => refuse(value, why),
    }
}

/// A list that is executed, whose program is named.
pub(super) fn program(value: &Value) -> Read<Vec<String>> {
    let words = list(expandable)(value)?;
    match words.first() {
        None => refuse(value, "it is empty; name a program"),
        Some(first) if first.is_empty() => refuse(value, "its program is empty"),
        Some(_) => Ok(words),
    }
}

/// A list that is executed, or a line for the shell.
pub(super) fn command(value: &Value) -> Read<Command> {
    match value.get_ref() {
        DeValue::String(s) if s.trim().is_empty() => refuse(value, "it is empty; name a program"),
        DeValue::String(_) => {
            let line = any_text(value)?;
            // `exec ` may come before it.
            match line.len() + 6 > LONGEST {
                true => refuse(value, TOO_LONG),
                false => Ok(Command::Shell(line)),
            }
        }
        _ => program(value).map(Command::List),
    }
}

/// As `command`; `[]` and `""` are nothing to do.
pub(super) fn build(value: &Value) -> Read<Command> {
    match value.get_ref() {
        DeValue::Array(a) if a.is_empty() => Ok(Command::List(Vec::new())),
        DeValue::String(s) if s.trim().is_empty() => Ok(Command::List(Vec::new())),
        _ => command(value),
    }
}

/// One table of the file, with the words by which it is called.
pub(super) struct Section<'t> {
    pub(super) place: Place,
    /// `[process.web]`.
    pub(super) title: String,
    pub(super) table: &'t DeTable<'t>,
    /// Where it begins.
    pub(super) at: usize,
}

impl<'t> Section<'t> {
    /// The value of a key, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&'t Value<'t>> {
        self.table.get(name)
    }

    /// Where a key or its value stands; where the table begins if it is absent.
    pub(super) fn place_of(&self, name: &str) -> usize {
        self.get(name).map_or(self.at, |v| v.span().start)
    }

    /// `[process.web]` -> `[process.web.ready]`.
    pub(super) fn title_of(&self, key: &str) -> String {
        let outer = self.title.strip_suffix(']').unwrap_or_default();
        format!("{outer}.{key}]")
    }

    /// ` in [process.web]`.
    pub(super) fn suffix(&self) -> String {
        match self.place {
            Place::Top => String::new(),
            Place::Process | Place::Ready | Place::Health | Place::Limits | Place::OnEvent => {
                format!(" in {}", self.title)
            }
        }
    }
}

/// A table's entries in the order of the file.
pub(super) fn entries<'t>(
    table: &'t DeTable<'t>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'t, str>>, &'t Value<'t>)> {
    in_order(table.iter().collect(), |(key, _)| key.span().start as u64)
}

/// The file, and what was found wrong with it so far.
pub(super) struct Doc<'a> {
    file: &'a str,
    text: &'a str,
    /// Byte at which each line begins.
    lines: Vec<usize>,
    faults: Vec<Fault>,
    /// The bytes that a program can take, arguments and environment together.
    pub(super) room: usize,
    /// Keys whose effect is not built yet.
    pub(super) notes: Vec<Fault>,
    /// Where accounts and env files are named.
    pub(super) named: Named,
}

impl<'a> Doc<'a> {
    /// Nothing wrong yet.
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self {
            file,
            text,
            lines: std::iter::once(0)
                .chain(after_newlines.map(|(i, _)| i + 1))
                .collect(),
            faults: Vec::new(),
            room: room::USUAL,
            notes: Vec::new(),
            named: Named::default(),
        }
    }

    fn at(&self, byte: usize, text: String) -> Fault {
        let byte = byte.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= byte);
        let start = self.lines[line - 1];
        let before = &self.text.as_bytes()[start..byte];
        Fault {
            file: self.file.into(),
            line,
            // characters: bytes that don't continue one
            column: before.iter().filter(|b| **b & 0xC0 != 0x80).count() + 1,
            text,
        }
    }

    /// Something is wrong at a byte of the file.
    pub(super) fn fault(&mut self, byte: usize, text: impl Into<String>) {
        if !self.is_full() {
            let fault = self.at(byte, text.into());
            self.faults.push(fault);
        }
    }

    /// Enough was said; nothing more is worth looking for.
    pub(super) fn is_full(&self) -> bool {
        self.faults.len() >= MOST_FAULTS
    }

    /// Everything that is wrong, by place; empty: nothing is.
    pub(super) fn into_faults(self) -> (Vec<Fault>, Vec<Fault>) {
        let sorted = |list: Vec<Fault>| list.into_iter().collect::<Set<Fault>>().into_keys();
        (sorted(self.faults), sorted(self.notes))
    }

    /// Reports TOML's own errors. False: the rest of the file can't be judged.
    pub(super) fn syntax(&mut self, errors: Vec<toml::de::Error>) -> bool {
        let mut lines_said = Vec::new();
        let mut readable = true;
        for e in errors {
            let span = e.span().unwrap_or(0..0);
            let there = self.text.get(span.clone()).unwrap_or_default();
            if e.message() == "duplicate key" {
                self.fault(span.start, format!("duplicate key {}", quote(there)));
                continue;
            }
            readable = false;
            // one slip makes several errors of a line; the first one names it
            let fault = self.at(span.start, syntax_words(e.message(), there));
            if !lines_said.contains(&fault.line) && !self.is_full() {
                lines_said.push(fault.line);
                self.faults.push(fault);
            }
        }
        readable
    }

    /// A table, as `place`; its unknown keys are faults.
    pub(super) fn section<'t>(
        &mut self,
        place: Place,
        title: String,
        table: &'t DeTable<'t>,
        at: usize,
    ) -> Section<'t> {
        let section = Section {
            place,
            title,
            table,
            at,
        };
        for (key, value) in entries(table) {
            match keys::find(place, key.get_ref()) {
                Some(_) => {}
                None if self.is_full() => break,
                None => self.unknown(&section, key.get_ref(), key.span().start, value),
            }
        }
        section
    }

    fn unknown(&mut self, section: &Section, name: &str, at: usize, value: &Value) {
        let elsewhere = keys::KEYS.iter().find(|k| k.name == name);
        let begun = |key: &&str| name.len() > 2 && key.starts_with(name);
        let near = nearest(name, keys::names(section.place))
            .or_else(|| keys::names(section.place).find(begun));
        let hint = if let Some(near) = near {
            format!("; did you mean {near:?}?")
        } else if section.place == Place::Top
            && value.get_ref().is_table()
            && check_name(name).is_ok()
        {
            format!("; did you mean [process.{name}]?")
        } else {
            match elsewhere.map(|k| k.place) {
                Some(Place::Top) => "; it belongs to the top level, above all tables".into(),
                Some(Place::Process) => "; it belongs into [process.NAME]".into(),
                Some(Place::Ready) => "; it belongs into [process.NAME.ready]".into(),
                Some(Place::Health) => "; it belongs into [process.NAME.health]".into(),
                Some(Place::Limits) => "; it belongs into [process.NAME.limits]".into(),
                Some(Place::OnEvent) => "; it belongs into [process.NAME.on_event]".into(),
                None => String::new(),
            }
        };
        let text = format!("unknown key {}{}{hint}", quote(name), section.suffix());
        self.fault(at, text);
    }

    /// Something that is no fault, and that the person should know.
    pub(super) fn remark(&mut self, at: usize, text: String) {
        if self.notes.len() < MOST_FAULTS {
            let fault = self.at(at, text);
            self.notes.push(fault);
        }
    }

    /// `"key" in [process.web]: text`, at the key's value.
    pub(super) fn complain(&mut self, section: &Section, name: &str, text: impl std::fmt::Display) {
        let text = format!("\"{name}\"{}: {text}", section.suffix());
        self.fault(section.place_of(name), text);
    }

    /// `"key" in [process.web]`, at that byte: a fault as far as it is known before its reason.
    pub(super) fn place(&self, section: &Section, name: &str, at: usize) -> Fault {
        self.at(at, format!("\"{name}\"{}", section.suffix()))
    }

    /// The value of a key: from the file, else the table's default, else None. A
    /// wrong one is a fault and None.
    pub(super) fn read<T>(
        &mut self,
        section: &Section,
        name: &str,
        with: impl Fn(&Value) -> Read<T>,
    ) -> Option<T> {
        let mut read = None;
        self.visit(section, name, &mut |value| {
            read = Some(with(value)?);
            Ok(())
        });
        read
    }

    /// Shows the value of a key to `with`: one piece of code for all types.
    fn visit(&mut self, section: &Section, name: &str, with: &mut dyn FnMut(&Value) -> Read<()>) {
        let Some(key) = keys::find(section.place, name) else {
            return;
        };
        match (section.get(name), key.fallback) {
            (Some(value), _) => {
                if let Err(wrong) = with(value) {
                    self.refused(section, key, value.span().start, wrong);
                }
            }
            (None, Fallback::Toml(default)) => {
                let _ = DeValue::parse(default).map(|value| with(&value));
            }
            (None, Fallback::Words(_)) => {}
        }
    }

    /// The same for keys that have a default; after a fault it does not matter what is given here.
    pub(super) fn value<T: Default>(
        &mut self,
        section: &Section,
        name: &str,
        with: impl Fn(&Value) -> Read<T>,
    ) -> T {
        self.read(section, name, with).unwrap_or_default()
    }

    fn refused(&mut self, section: &Section, key: &Key, start: usize, wrong: Vec<Wrong>) {
        for Wrong { at, why } in wrong {
            let why = match why {
                Why::Found(found) if at == start => {
                    format!("expected {}, found {found}", key.kind)
                }
                Why::Found(found) => format!("expected {}, found {found} in it", key.kind),
                Why::Because(text) => text,
            };
            self.fault(at, format!("\"{}\"{}: {why}", key.name, section.suffix()));
        }
    }

    /// A table under a key, with where it begins.
    pub(super) fn table<'t>(
        &mut self,
        section: &Section<'t>,
        name: &str,
    ) -> Option<(&'t DeTable<'t>, usize)> {
        let value = section.get(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span().start)),
            _ => {
                let key = keys::find(section.place, name)?;
                let read: Read<()> = match name {
                    "env" => refuse(value, format!("expected {}", key.kind)),
                    _ => unfit(value),
                };
                self.refused(section, key, value.span().start, read.err()?);
                None
            }
        }
    }

    /// An `env` table, in the order of the file. Its values may be secrets and are never quoted.
    /// `sizes` takes their lengths.
    pub(super) fn env(&mut self, section: &Section, sizes: &mut Sizes) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        let Some((table, _)) = self.table(section, "env") else {
            return variables;
        };
        for (key, value) in entries(table) {
            let name = key.get_ref();
            let text = variable(name, value.get_ref())
                .and_then(|text| sizes.set(name, &text, self.room).map(|()| text));
            match text {
                Ok(text) => variables.push((name.to_string(), text)),
                Err(why) => {
                    let key = quote(&format!("env.{name}"));
                    let text = format!("{key}{}: {why}", section.suffix());
                    self.fault(value.span().start, text);
                }
            }
        }
        variables
    }
}

/// The value of a variable, or why it can't be one, without quoting it.
fn variable(name: &str, value: &DeValue) -> Result<String, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("that can't be the name of a variable".into());
    }
    let text = match value {
        DeValue::String(text) => text,
        DeValue::Integer(_) => return Err(unquoted("an integer")),
        DeValue::Float(_) => return Err(unquoted("a number")),
        DeValue::Boolean(_) => return Err(unquoted("true or false")),
        DeValue::Datetime(_) => return Err(unquoted("a date")),
        DeValue::Array(_) | DeValue::Table(_) => {
            return Err(format!("expected a string, found {}", found(value)));
        }
    };
    if text.contains('\0') {
        return Err("it has a NUL character in it".into());
    }
    expanded_length(text, |_| Some(0))?;
    Ok(text.to_string())
}

fn unquoted(what: &str) -> String {
    format!("expected a string, found {what}; put it in quotes")
}

/// The parser's words, and ours where they help more.
fn syntax_words(message: &str, there: &str) -> String {
    if message.starts_with("string values must be quoted") {
        return if there.is_empty() {
            "not valid TOML: the value is missing".into()
        } else {
            // not quoted here: it may be a secret of [env]
            "not valid TOML: a string needs quotes".into()
        };
    }
    format!("not valid TOML: {message}")
}
