//! Small helpers over serde_json.

use std::time::Duration;

use serde_json::{Map, Number, Value};

/// `value`, or null where there is none: absent fields of data are null, not left out.
pub fn or_null<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

/// An object of these fields. Unlike `json!` it moves nested values instead of writing them anew.
pub fn object<const N: usize>(mut fields: [(&str, Value); N]) -> Value {
    object_of(&mut fields, &|_, _| true)
}

/// An object of those fields that `keep` names. One piece of code for all numbers of fields. Inserts one by one:
/// `collect` would sort before.
pub fn object_of(fields: &mut [(&str, Value)], keep: &dyn Fn(&str, &Value) -> bool) -> Value {
    let mut object = Map::new();
    for (key, value) in fields {
        if keep(key, value) {
            object.insert((*key).to_owned(), value.take());
        }
    }
    Value::Object(object)
}

/// An object whose keys come from somewhere. Like [`object`], it does not sort them before.
pub fn entries(fields: &mut dyn Iterator<Item = (String, Value)>) -> Value {
    let mut object = Map::new();
    for (key, value) in fields {
        object.insert(key, value);
    }
    Value::Object(object)
}

/// Appends those fields that `keep` names to an object's text. They have to come in the order of their names, in which
/// a [`Map`] has them.
pub fn put_fields(
    out: &mut Vec<u8>,
    fields: &[(&str, Value)],
    keep: &dyn Fn(&str, &Value) -> bool,
) {
    for (key, value) in fields.iter().filter(|(key, value)| keep(key, value)) {
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
        // Writing into a `Vec` can't fail.
        let _ = serde_json::to_writer(&mut *out, value);
    }
}

/// A list.
pub fn list<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(items.into_iter().map(Into::into).collect())
}

/// The value that a text is. Texts are read as bytes are: serde_json has code of its own for each kind of input.
///
/// # Errors
/// It is no JSON.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_slice(text.as_bytes())
}

/// The elements of a list; of anything else none.
pub fn items(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter()
}

/// The texts in a list.
pub fn strings(value: &Value) -> impl Iterator<Item = &str> {
    items(value).filter_map(Value::as_str)
}

/// Seconds, to the millisecond.
pub fn seconds(span: Duration) -> Value {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Number::from_f64(millis as f64 / 1_000.0).map_or(Value::Null, Value::Number)
}

/// Describes a JSON value for a person: `the text "x"`, `a list`.
pub fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => format!("the truth value {flag}"),
        Value::Number(number) => format!("the number {}", brief(&number.to_string())),
        Value::String(text) => format!("the text {:?}", brief(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// At most 100 characters of what somebody sent, to be quoted in an answer or a log: who sends megabytes
/// for a name does not get them back.
pub fn brief(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => text.into(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

/// `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lists_and_seconds_are_plain_json() {
        let value = object([
            ("b", seconds(Duration::from_micros(1_234_567))),
            ("a", list(["x", "y"])),
            ("c", or_null(None::<u64>)),
        ]);
        assert_eq!(value.to_string(), r#"{"a":["x","y"],"b":1.234,"c":null}"#);
        assert!(strings(&value["a"]).eq(["x", "y"]));
        assert_eq!(items(&value).count(), 0);
    }

    #[test]
    fn what_is_quoted_stays_short() {
        assert_eq!(kind_of(&Value::from("x")), "the text \"x\"");
        assert_eq!(brief(&"ä".repeat(101)), format!("{}...", "ä".repeat(100)));
        assert_eq!(brief("short"), "short");
    }
}
