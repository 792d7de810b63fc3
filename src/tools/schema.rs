//! What a tool takes and gives, as rows. The JSON Schema that clients read is written from them, and
//! arguments are checked against them, so the two can't disagree.

use serde_json::{Map, Value};

use crate::base::error::{Error, Failure, listed, nearest};
use crate::base::json::{brief, entries, kind_of, list, object};

/// One argument of a tool.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// With its default, where it has one: some clients strip `default` from schemas.
    pub(super) text: &'static str,
}

/// What an argument may be. Single types only: clients warn of lists of types.
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

    fn of_process(&self) -> bool {
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

    /// What is wrong with a value for it.
    fn fault(&self, value: &Value, processes: &[String]) -> Option<String> {
        let fits = match (self.kind, value) {
            (Kind::Process { star }, Value::String(name)) => {
                if (star && name == "*") || processes.contains(name) {
                    return None;
                }
                return Some(unknown("process", name, processes));
            }
            (Kind::Text, Value::String(_)) | (Kind::Flag, Value::Bool(_)) => true,
            (Kind::OneOf(words), Value::String(word)) => {
                if words.contains(&word.as_str()) {
                    return None;
                }
                let near = nearest(&brief(word), words.iter().copied())
                    .map(|near| format!("; did you mean {near:?}?"))
                    .unwrap_or_default();
                return Some(format!(
                    "{:?} must be {}, not {}{near}",
                    self.name,
                    self.wants(),
                    kind_of(value)
                ));
            }
            (Kind::Whole { min, max }, Value::Number(_)) => {
                whole(value).is_some_and(|n| (min..=max).contains(&n))
            }
            (Kind::Number { min, max }, Value::Number(n)) => n
                .as_f64()
                .is_some_and(|n| (f64::from(min)..=f64::from(max)).contains(&n)),
            (
                Kind::Process { .. }
                | Kind::Text
                | Kind::OneOf(_)
                | Kind::Flag
                | Kind::Whole { .. }
                | Kind::Number { .. },
                _,
            ) => false,
        };
        (!fits).then(|| {
            format!(
                "{:?} must be {}, not {}",
                self.name,
                self.wants(),
                kind_of(value)
            )
        })
    }

    /// What it takes, in words.
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

/// One field of a tool's data.
pub(super) struct Field(
    pub(super) &'static str,
    pub(super) Shape,
    pub(super) &'static str,
);

/// What a field is.
pub(super) enum Shape {
    /// Always of this JSON type.
    Always(&'static str),
    /// May be null, so without a type: single types only.
    Maybe,
    /// Not in every answer (`results` of `"*"`), a list.
    Sometimes,
    /// A list of objects with these fields.
    Many(&'static [Field]),
}

/// The output schema of these fields. All of them are always there, but for `Sometimes`; `loose`
/// names the only ones that are, where an answer has two forms.
pub(super) fn output(fields: &[Field], loose: &[&str]) -> Value {
    let required = fields.iter().filter_map(|Field(name, shape, _)| {
        let there = match shape {
            Shape::Sometimes => false,
            Shape::Always(_) | Shape::Maybe | Shape::Many(_) => true,
        };
        (there && (loose.is_empty() || loose.contains(name))).then_some(*name)
    });
    object([
        ("type", "object".into()),
        ("required", list(required)),
        ("properties", properties(fields)),
    ])
}

/// What is in lists does not say again that all of it is always there: every model reads the list of tools.
fn properties(fields: &[Field]) -> Value {
    let mut properties = fields.iter().map(|Field(name, shape, text)| {
        let mut schema = Map::new();
        if !text.is_empty() {
            schema.insert("description".into(), (*text).into());
        }
        match shape {
            Shape::Always(kind) => {
                schema.insert("type".into(), (*kind).into());
            }
            Shape::Maybe => {}
            Shape::Sometimes => {
                schema.insert("type".into(), "array".into());
            }
            Shape::Many(inner) => {
                let items = object([("type", "object".into()), ("properties", properties(inner))]);
                schema.insert("type".into(), "array".into());
                schema.insert("items".into(), items);
            }
        }
        ((*name).to_owned(), Value::Object(schema))
    });
    entries(&mut properties)
}

/// Checked arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Args<'a>(Option<&'a Map<String, Value>>);

impl<'a> Args<'a> {
    /// Checks what was sent against the rows; all that is wrong with it, in words, where it does not fit.
    pub(super) fn check(
        tool: &str,
        rows: &[Row],
        sent: &'a Value,
        processes: &dyn Fn() -> Vec<String>,
    ) -> Result<Self, String> {
        let map = match sent {
            Value::Null => None,
            Value::Object(map) => Some(map),
            other => {
                return Err(format!(
                    "arguments must be an object, not {}",
                    kind_of(other)
                ));
            }
        };
        let args = Self(map);
        let processes = if rows.iter().any(|row| row.of_process()) {
            processes()
        } else {
            Vec::new()
        };
        let mut faults = Vec::new();
        for row in rows {
            match args.value(row.name) {
                Some(value) => faults.extend(row.fault(value, &processes)),
                None if row.required => {
                    let mut text = format!("{tool} needs {:?}: {}", row.name, row.wants());
                    if row.of_process() {
                        text.push_str("; processes: ");
                        text.push_str(&listed(&processes));
                    }
                    faults.push(text);
                }
                None => {}
            }
        }
        let known: Vec<String> = rows.iter().map(|row| row.name.to_owned()).collect();
        // A call with a thousand wrong arguments gets no thousand lines.
        let strange = map.into_iter().flat_map(Map::keys);
        let strange = strange.filter(|key| !known.contains(key)).take(10);
        faults.extend(strange.map(|key| unknown("argument", key, &known)));
        if faults.is_empty() {
            Ok(args)
        } else {
            Err(faults.join("\n"))
        }
    }

    /// Null is as good as absent: some clients send all they know.
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.value(name)?.as_str()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.value(name)?.as_bool()
    }

    pub(super) fn whole(&self, name: &str) -> Option<i64> {
        whole(self.value(name)?)
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
    pub(super) fn span(&self, name: &str) -> Option<std::time::Duration> {
        std::time::Duration::try_from_secs_f64(self.value(name)?.as_f64()?).ok()
    }
}
