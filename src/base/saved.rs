//! Pure: no system call, no thread, no clock.
//!
//! Values that go through JSON and come back the same: the state that an upgrade in place takes over. One list of fields
//! serves the writer and the reader, so that they cannot disagree.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::clock::{Mono, Wall};
use super::json::list;
use super::table::Table;

/// See the module.
pub trait Saved: Sized {
    fn save(&self) -> Value;
    /// # Errors
    /// The place of what is missing or wrong: `runs.3.pid: is null`.
    fn load(value: &Value) -> Result<Self, String>;
}

/// An object that is being made. Its fields are put in one by one: a list of them all would be moved and dropped
/// where it is made, of each type with code of its own.
#[derive(Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn put<T: Saved>(&mut self, name: &str, value: &T) {
        self.insert(name, value.save());
    }

    fn insert(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
}

impl From<Fields> for Value {
    fn from(fields: Fields) -> Self {
        Self::Object(fields.0)
    }
}

/// A field of an object.
///
/// # Errors
/// Those of [`Saved::load`].
pub fn field<T: Saved>(of: &Value, name: &str) -> Result<T, String> {
    T::load(&of[name]).map_err(|why| placed(name, why))
}

/// One piece of code for the errors of all types.
#[cold]
fn placed(name: &str, why: String) -> String {
    match why.starts_with("is ") {
        true => format!("{name}: {why}"),
        false => format!("{name}.{why}"),
    }
}

#[cold]
fn indexed(at: usize, why: &str) -> String {
    format!("{at}.{why}")
}

/// The error for a value of another type.
fn odd<T>(value: &Value) -> Result<T, String> {
    Err(kind(value))
}

#[cold]
fn kind(value: &Value) -> String {
    format!("is {}", super::json::kind_of(value))
}

/// Implements [`Saved`] for structs by their fields.
macro_rules! saved {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl $crate::base::saved::Saved for $name {
            fn save(&self) -> serde_json::Value {
                let mut to = $crate::base::saved::Fields::default();
                $(to.put(stringify!($field), &self.$field);)*
                to.into()
            }

            fn load(value: &serde_json::Value) -> std::result::Result<Self, String> {
                Ok(Self {
                    $($field: $crate::base::saved::field(value, stringify!($field))?),*
                })
            }
        }
    )*};
}

/// Implements [`Saved`] for enums by their variants: `{"is": "Wanted", "mode": ...}`.
macro_rules! saved_enum {
    ($($name:ident { $(
        $variant:ident $(($($item:ident),*))? $({ $($field:ident),* })?
    ),* $(,)? })*) => {$(
        impl $crate::base::saved::Saved for $name {
            fn save(&self) -> serde_json::Value {
                let mut to = $crate::base::saved::Fields::default();
                match self {
                    $(Self::$variant $(($($item),*))? $({ $($field),* })? => {
                        to.put("is", &std::borrow::Cow::Borrowed(stringify!($variant)));
                        $($(to.put(stringify!($item), $item);)*)?
                        $($(to.put(stringify!($field), $field);)*)?
                    })*
                }
                to.into()
            }

            fn load(value: &serde_json::Value) -> Result<Self, String> {
                match value["is"].as_str() {
                    $(Some(stringify!($variant)) => Ok(Self::$variant
                        $(($($crate::base::saved::field(value, stringify!($item))?),*))?
                        $({ $($field: $crate::base::saved::field(value, stringify!($field))?),* })?
                    ),)*
                    _ => Err(format!("is no {}", stringify!($name))),
                }
            }
        }
    )*};
}

pub(crate) use {saved, saved_enum};

impl Saved for Value {
    fn save(&self) -> Value {
        self.clone()
    }

    fn load(value: &Value) -> Result<Self, String> {
        Ok(value.clone())
    }
}

impl Saved for Map<String, Value> {
    fn save(&self) -> Value {
        self.clone().into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        value
            .as_object()
            .map_or_else(|| odd(value), |map| Ok(map.clone()))
    }
}

impl Saved for () {
    fn save(&self) -> Value {
        Value::Null
    }

    fn load(_: &Value) -> Result<Self, String> {
        Ok(())
    }
}

impl Saved for Cow<'static, str> {
    fn save(&self) -> Value {
        self.as_ref().into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        String::load(value).map(Self::Owned)
    }
}

impl Saved for bool {
    fn save(&self) -> Value {
        (*self).into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        value.as_bool().map_or_else(|| odd(value), Ok)
    }
}

macro_rules! saved_numbers {
    ($($number:ty)*) => {$(
        impl Saved for $number {
            fn save(&self) -> Value {
                (*self).into()
            }

            fn load(value: &Value) -> Result<Self, String> {
                let signed = value.as_i64().and_then(|n| Self::try_from(n).ok());
                let number = signed.or_else(|| Self::try_from(value.as_u64()?).ok());
                number.map_or_else(|| odd(value), Ok)
            }
        }
    )*};
}

saved_numbers! { u8 u16 u32 u64 usize i32 i64 }

impl Saved for String {
    fn save(&self) -> Value {
        self.as_str().into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        value
            .as_str()
            .map_or_else(|| odd(value), |text| Ok(text.into()))
    }
}

/// A text where it is one; bytes are numbers.
impl Saved for OsString {
    fn save(&self) -> Value {
        match self.to_str() {
            Some(text) => text.into(),
            None => list(self.as_bytes().iter().copied()),
        }
    }

    fn load(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text.into()),
            bytes => Vec::load(bytes).map(Self::from_vec),
        }
    }
}

impl Saved for PathBuf {
    fn save(&self) -> Value {
        self.clone().into_os_string().save()
    }

    fn load(value: &Value) -> Result<Self, String> {
        OsString::load(value).map(Self::from)
    }
}

impl Saved for Mono {
    fn save(&self) -> Value {
        self.as_nanos().into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        u64::load(value).map(Self::from_nanos)
    }
}

impl Saved for Wall {
    fn save(&self) -> Value {
        self.0.into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        i64::load(value).map(Self)
    }
}

/// In nanoseconds.
impl Saved for Duration {
    fn save(&self) -> Value {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).into()
    }

    fn load(value: &Value) -> Result<Self, String> {
        u64::load(value).map(Self::from_nanos)
    }
}

impl<T: Saved> Saved for Option<T> {
    fn save(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::save)
    }

    fn load(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::load(value).map(Some),
        }
    }
}

impl<T: Saved> Saved for Box<T> {
    fn save(&self) -> Value {
        T::save(self)
    }

    fn load(value: &Value) -> Result<Self, String> {
        T::load(value).map(Self::new)
    }
}

impl<T: Saved> Saved for Arc<T> {
    fn save(&self) -> Value {
        T::save(self)
    }

    fn load(value: &Value) -> Result<Self, String> {
        T::load(value).map(Self::new)
    }
}

impl<T: Saved> Saved for Vec<T> {
    fn save(&self) -> Value {
        list(self.iter().map(T::save))
    }

    fn load(value: &Value) -> Result<Self, String> {
        let Value::Array(items) = value else {
            return odd(value);
        };
        let mut all = Self::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            all.push(T::load(item).map_err(|why| indexed(at, &why))?);
        }
        Ok(all)
    }
}

impl<T: Saved> Saved for VecDeque<T> {
    fn save(&self) -> Value {
        list(self.iter().map(T::save))
    }

    fn load(value: &Value) -> Result<Self, String> {
        Vec::load(value).map(Self::from)
    }
}

impl<T: Saved, const N: usize> Saved for [T; N] {
    fn save(&self) -> Value {
        list(self.iter().map(T::save))
    }

    fn load(value: &Value) -> Result<Self, String> {
        let items: Vec<T> = Vec::load(value)?;
        Self::try_from(items).or_else(|_| odd(value))
    }
}

impl<A: Saved, B: Saved> Saved for (A, B) {
    fn save(&self) -> Value {
        list([self.0.save(), self.1.save()])
    }

    fn load(value: &Value) -> Result<Self, String> {
        match value.as_array().map(Vec::as_slice) {
            Some([a, b]) => Ok((A::load(a)?, B::load(b)?)),
            Some(_) | None => odd(value),
        }
    }
}

/// A list of pairs.
impl<K: Saved + Ord, V: Saved> Saved for Table<K, V> {
    fn save(&self) -> Value {
        list(
            self.iter()
                .map(|(key, value)| list([key.save(), value.save()])),
        )
    }

    fn load(value: &Value) -> Result<Self, String> {
        let pairs: Vec<(K, V)> = Vec::load(value)?;
        Ok(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Point {
        x: u64,
        name: Option<String>,
        shape: Shape,
    }

    #[derive(Debug, PartialEq)]
    enum Shape {
        Dot,
        Circle(i32),
        Box { sides: Vec<u16>, at: Mono },
    }

    saved! { Point { x, name, shape } }
    saved_enum! { Shape { Dot, Circle(radius), Box { sides, at } } }

    #[test]
    fn values_come_back_the_same() {
        let at = Mono::from_nanos(u64::MAX);
        let sides = vec![1, u16::MAX];
        for shape in [Shape::Dot, Shape::Circle(-5), Shape::Box { sides, at }] {
            let point = Point {
                x: u64::MAX,
                name: Some("ä\0\n".into()),
                shape,
            };
            let text = point.save().to_string();
            let back = Point::load(&serde_json::from_str(&text).unwrap());
            assert_eq!(back, Ok(point));
        }
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        assert_eq!(OsString::load(&odd.save()), Ok(odd));
        let table: Table<String, (u8, bool)> = [("a".into(), (1, true))].into_iter().collect();
        assert_eq!(Table::load(&table.save()), Ok(table));
    }

    #[test]
    fn the_place_of_a_fault_is_named() {
        let text = |value: Value| Point::load(&value).unwrap_err();
        assert_eq!(text(json!({})), "x: is null");
        assert_eq!(
            text(json!({"x": 1, "shape": {"is": "Box", "sides": [1, "a"], "at": 0}})),
            "shape.sides.1.is the text \"a\""
        );
        assert_eq!(
            text(json!({"x": -1, "shape": {"is": "Dot"}})),
            "x: is the number -1"
        );
        assert_eq!(
            text(json!({"x": 1, "shape": {"is": "Star"}})),
            "shape: is no Shape"
        );
    }
}
