//! Small helpers over serde_json.

use serde_json::Value;

/// `value`, or null where there is none: absent fields of data are null, not left out.
pub fn or_null<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}
