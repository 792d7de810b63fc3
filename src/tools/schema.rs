//! Pure: no system call, no thread, no clock.
//!
//! The arguments of a tool, as rows. The JSON Schema that clients read is written from them, and arguments are
//! checked against them, so the two can't disagree.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::base::error::{Error, Failure, listed, nearest};
use crate::base::json::{self, brief, entries, kind_of, list};

/// Unknown arguments that an answer names, and that an error complains of.
const MOST_UNKNOWN: usize = 10;

/// One argument of a tool.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// With its default, where it has one: some clients strip `default` from schemas.
    pub(super) text: &'static str,
}

/// The type of an argument. Single types only: clients warn of lists of types.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// The name of a process there is; `"*"` as well where it says so.
    Process {
        star: bool,
    },
    Text,
    OneOf(&'static [&'static str]),
    Flag,
    /// A whole number from `min` to `max`; `i64::MAX` and `i64::MIN` are no bounds.
    Whole {
        min: i64,
        max: i64,
    },
    /// A number from `min` to `max`.
    Number {
        min: u32,
        max: u32,
    },
}

/// A cursor or a count.
pub(super) const COUNT: Kind = Kind::Whole {
    min: 0,
    max: i64::MAX,
};

impl Row {
    pub(super) const fn needed(name: &'static str, kind: Kind, text: &'static str) -> Self {
        Self {
            name,
            kind,
            required: true,
            text,
        }
    }

    pub(super) const fn may(name: &'static str, kind: Kind, text: &'static str) -> Self {
        Self {
            name,
            kind,
            required: false,
            text,
        }
    }

    fn is_process(&self) -> bool {
        matches!(self.kind, Kind::Process { .. })
    }

    fn schema(&self) -> Value {
        let mut schema = Map::new();
        let mut put = |key: &str, value: Value| {
            schema.insert(key.into(), value);
        };
        put("description", self.text.into());
        match self.kind {
            Kind::Process { .. } | Kind::Text => put("type", "string".into()),
            Kind::OneOf(words) => {
                put("type", "string".into());
                put("enum", list(words.iter().copied()));
            }
            Kind::Flag => put("type", "boolean".into()),
            Kind::Whole { min, max } => {
                put("type", "integer".into());
                if min != i64::MIN {
                    put("minimum", min.into());
                }
                if max != i64::MAX {
                    put("maximum", max.into());
                }
            }
            Kind::Number { min, max } => {
                put("type", "number".into());
                put("minimum", min.into());
                put("maximum", max.into());
            }
        }
        Value::Object(schema)
    }

    /// The value that was meant; models write numbers and truth values as texts, and fill in what they
    /// want to leave out with null or an empty text. None: as good as absent.
    fn meant(&self, value: &Value) -> Option<Value> {
        match (self.kind, value) {
            (_, Value::Null) => None,
            (_, Value::String(text)) if text.is_empty() => None,
            (Kind::Flag, Value::String(text)) => Some(match text.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => value.clone(),
            }),
            (Kind::Whole { .. } | Kind::Number { .. }, Value::String(text)) => {
                let number: Option<Value> = json::parse(text).ok();
                Some(number.filter(Value::is_number).unwrap_or(value.clone()))
            }
            _ => Some(value.clone()),
        }
    }

    /// Why a value does not fit; None: it does.
    fn fault(&self, value: &Value, processes: &[String]) -> Option<String> {
        let mut near = None;
        let fits = match (self.kind, value) {
            (Kind::Process { star }, Value::String(name)) => {
                if (star && name == "*") || processes.contains(name) {
                    return None;
                }
                return Some(unknown("process", name, processes));
            }
            (Kind::Text, Value::String(_)) | (Kind::Flag, Value::Bool(_)) => true,
            (Kind::OneOf(words), Value::String(word)) => {
                near = nearest(&brief(word), words.iter().copied());
                words.contains(&word.as_str())
            }
            (Kind::Whole { min, max }, Value::Number(_)) => {
                whole(value).is_some_and(|n| (min..=max).contains(&n))
            }
            (Kind::Number { min, max }, Value::Number(n)) => n
                .as_f64()
                .is_some_and(|n| (f64::from(min)..=f64::from(max)).contains(&n)),
            _ => false,
        };
        let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        (!fits).then(|| {
            format!(
                "{:?} must be {}, not {}{near}",
                self.name,
                self.wants(),
                kind_of(value)
            )
        })
    }

    /// The values that it takes, in words.
    fn wants(&self) -> String {
        match self.kind {
            Kind::Process { star: false } => "the name of a process".into(),
            Kind::Process { star: true } => "the name of a process, or \"*\" for all".into(),
            Kind::Text => "a text".into(),
            Kind::Flag => "true or false".into(),
            Kind::OneOf(words) => {
                let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
                match quoted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => {
                        format!("{} or {last}", rest.join(", "))
                    }
                    _ => quoted.join(""),
                }
            }
            Kind::Whole { min, max } => match (min, max) {
                (i64::MIN, i64::MAX) => "a whole number".into(),
                (_, i64::MAX) => format!("a whole number of at least {min}"),
                _ => format!("a whole number from {min} to {max}"),
            },
            Kind::Number { min, max } => format!("a number from {min} to {max}"),
        }
    }
}

/// A number without a fraction, however it is written (`200.0` too).
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        // Beyond 2^53 a float is no exact number any more.
        value
            .as_f64()
            .filter(|n| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0)
            .map(|n| n as i64)
    })
}

fn unknown(kind: &'static str, name: &str, known: &[String]) -> String {
    Error::from(Failure::Unknown {
        kind,
        name: brief(name),
        known: known.to_vec(),
    })
    .to_string()
}

/// The input schema of these arguments.
pub(super) fn input(rows: &[Row]) -> Value {
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("additionalProperties".into(), false.into());
    let mut properties = rows.iter().map(|row| (row.name.to_owned(), row.schema()));
    schema.insert("properties".into(), entries(&mut properties));
    if rows.iter().any(|row| row.required) {
        schema.insert(
            "required".into(),
            list(rows.iter().filter(|r| r.required).map(|r| r.name)),
        );
    }
    Value::Object(schema)
}

/// All arguments as one object; `[]` and `""` are what some clients send for none.
fn fields(sent: &Value) -> Result<Option<&Map<String, Value>>, String> {
    match sent {
        Value::Null => Ok(None),
        Value::Object(map) => Ok(Some(map)),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::Array(list) if list.is_empty() => Ok(None),
        other => Err(format!(
            "arguments must be an object, not {}",
            kind_of(other)
        )),
    }
}

/// The arguments that no row has, those that are near to one's name apart: the first belong to the client, the
/// others are mistakes.
fn strangers<'a>(rows: &[Row], sent: &'a Map<String, Value>) -> (Vec<&'a str>, Vec<&'a str>) {
    let names = || rows.iter().map(|row| row.name);
    // A call with a thousand strange arguments gets no thousand words.
    sent.keys()
        .map(String::as_str)
        .filter(|key| !names().any(|name| name == *key))
        .take(MOST_UNKNOWN)
        .partition(|key| nearest(&brief(key), names()).is_none())
}

/// The names of arguments that a call may have and that mean nothing here.
pub(super) fn ignored(rows: &[Row], sent: &Value) -> Vec<String> {
    match fields(sent) {
        Ok(Some(map)) => strangers(rows, map).0.into_iter().map(brief).collect(),
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// Checked arguments.
#[derive(Debug, Clone, Default)]
pub(super) struct Args(Map<String, Value>);

impl Args {
    /// Checks what was sent against the rows; all that is wrong with it, in words, where it does not fit.
    pub(super) fn check(
        tool: &str,
        rows: &[Row],
        sent: &Value,
        processes: &dyn Fn() -> Vec<String>,
    ) -> Result<Self, String> {
        let sent = fields(sent)?;
        let processes = match rows.iter().any(Row::is_process) {
            true => processes(),
            false => Vec::new(),
        };
        let mut args = Map::new();
        let mut faults = Vec::new();
        for row in rows {
            let value = sent.and_then(|map| map.get(row.name));
            match value.and_then(|value| row.meant(value)) {
                Some(value) => {
                    faults.extend(row.fault(&value, &processes));
                    args.insert(row.name.into(), value);
                }
                None if row.required => {
                    let mut text = format!("{tool} needs {:?}: {}", row.name, row.wants());
                    if row.is_process() {
                        text.push_str("; processes: ");
                        text.push_str(&listed(&processes));
                    }
                    faults.push(text);
                }
                None => {}
            }
        }
        let near = sent.map(|map| strangers(rows, map).1).unwrap_or_default();
        faults.extend(near.iter().map(|key| {
            let known: Vec<String> = rows.iter().map(|row| row.name.to_owned()).collect();
            unknown("argument", key, &known)
        }));
        match faults.is_empty() {
            true => Ok(Self(args)),
            false => Err(faults.join("\n")),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The process that is named; None: all of them.
    pub(super) fn process(&self) -> Option<&str> {
        self.text("process").filter(|name| *name != "*")
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    pub(super) fn whole(&self, name: &str) -> Option<i64> {
        whole(self.0.get(name)?)
    }

    /// A cursor or a count.
    pub(super) fn count(&self, name: &str) -> Option<u64> {
        u64::try_from(self.whole(name)?).ok()
    }

    /// A count of lines or characters.
    pub(super) fn size(&self, name: &str) -> Option<usize> {
        usize::try_from(self.count(name)?).ok()
    }

    /// Seconds.
    pub(super) fn span(&self, name: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(self.0.get(name)?.as_f64()?).ok()
    }
}
