//! Pure: no system call, no thread, no clock.
//!
//! Values that go through JSON and come back the same: the state that an upgrade in place takes over. One list of fields
//! serves the writer and the reader, so that they cannot disagree.

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

/// See the module. A value is read into one that is there: the fields of all types are read by one loop then, which
/// knows them by this trait alone.
pub trait Saved {
    fn save(&self) -> Value;

    /// Becomes what was saved.
    ///
    /// # Errors
    /// The place of what is missing or wrong: `runs.3.pid: is null`. It may be read in part then.
    fn restore(&mut self, saved: &Value) -> Result<(), String>;
}

/// The value that was saved.
///
/// # Errors
/// Those of [`Saved::restore`].
pub fn load<T: Saved + Default>(saved: &Value) -> Result<T, String> {
    let mut new = T::default();
    new.restore(saved)?;
    Ok(new)
}

/// A field of an object.
///
/// # Errors
/// Those of [`Saved::restore`].
pub fn field<T: Saved + Default>(of: &Value, name: &str) -> Result<T, String> {
    let mut new = T::default();
    restore_fields(of, &mut [(name, &mut new)])?;
    Ok(new)
}

/// An object of these fields.
pub fn save_fields(fields: &[(&str, &dyn Saved)]) -> Value {
    let mut object = Map::new();
    for (name, field) in fields {
        object.insert((*name).to_owned(), field.save());
    }
    object.into()
}

/// Reads these fields of an object.
///
/// # Errors
/// Those of [`Saved::restore`].
pub fn restore_fields(of: &Value, fields: &mut [(&str, &mut dyn Saved)]) -> Result<(), String> {
    for (name, field) in fields {
        restore_field(of, name, *field)?;
    }
    Ok(())
}

fn restore_field(of: &Value, name: &str, field: &mut dyn Saved) -> Result<(), String> {
    let read = field.restore(&of[name]);
    read.map_err(|why| match why.starts_with("is ") {
        true => format!("{name}: {why}"),
        false => format!("{name}.{why}"),
    })
}

/// The same as [`save_fields`] for the types below, whose names stand in one text, each with a blank behind it: half of
/// the code that a list of pairs is.
pub fn save_named(names: &str, fields: &[&dyn Saved]) -> Value {
    let mut object = Map::new();
    for (name, field) in names.split_terminator(' ').zip(fields) {
        object.insert(name.to_owned(), field.save());
    }
    object.into()
}

/// The same as [`restore_fields`].
///
/// # Errors
/// Those of [`Saved::restore`].
pub fn restore_named(of: &Value, names: &str, fields: &mut [&mut dyn Saved]) -> Result<(), String> {
    let mut all = names.split_terminator(' ').zip(fields);
    all.try_for_each(|(name, field)| restore_field(of, name, *field))
}

/// An enum's variant with its fields: `{"is": "Wanted", "mode": ...}`.
pub fn save_variant(variant: &str, names: &str, fields: &[&dyn Saved]) -> Value {
    let mut object = save_named(names, fields);
    object["is"] = variant.into();
    object
}

fn pair(one: &dyn Saved, other: &dyn Saved) -> Value {
    list([one.save(), other.save()])
}

/// Reads the items of a list, one after the other.
fn restore_items(
    list: &Value,
    restore: &mut dyn FnMut(&Value) -> Result<(), String>,
) -> Result<(), String> {
    let Value::Array(items) = list else {
        return odd(list);
    };
    for (at, item) in items.iter().enumerate() {
        restore(item).map_err(|why| format!("{at}.{why}"))?;
    }
    Ok(())
}

/// The error for a value of another type.
#[cold]
fn odd<T>(value: &Value) -> Result<T, String> {
    Err(format!("is {}", super::json::kind_of(value)))
}

/// Takes over a value that could be read.
fn set<T>(to: &mut T, read: Option<T>, saved: &Value) -> Result<(), String> {
    match read {
        Some(value) => *to = value,
        None => return odd(saved),
    }
    Ok(())
}

/// Implements [`Saved`] for structs by their fields. Others stay as they are.
macro_rules! saved {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl $crate::base::saved::Saved for $name {
            fn save(&self) -> serde_json::Value {
                let names = concat!($(stringify!($field), " "),*);
                $crate::base::saved::save_named(names, &[$(&self.$field),*])
            }

            fn restore(&mut self, saved: &serde_json::Value) -> std::result::Result<(), String> {
                let names = concat!($(stringify!($field), " "),*);
                $crate::base::saved::restore_named(saved, names, &mut [$(&mut self.$field),*])
            }
        }
    )*};
}

/// Implements [`Saved`] for enums by their variants.
macro_rules! saved_enum {
    ($($name:ident { $(
        $variant:ident $(($($item:ident),*))? $({ $($field:ident),* })?
    ),* $(,)? })*) => {$(
        impl $crate::base::saved::Saved for $name {
            fn save(&self) -> serde_json::Value {
                match self {
                    $(Self::$variant $(($($item),*))? $({ $($field),* })? => {
                        $crate::base::saved::save_variant(
                            stringify!($variant),
                            concat!(
                                $($(stringify!($item), " "),*)?
                                $($(stringify!($field), " "),*)?
                            ),
                            &[$($($item),*)? $($($field),*)?],
                        )
                    })*
                }
            }

            fn restore(&mut self, saved: &serde_json::Value) -> std::result::Result<(), String> {
                *self = match saved["is"].as_str() {
                    $(Some(stringify!($variant)) => {
                        $(
                            $(let mut $item = Default::default();)*
                            $crate::base::saved::restore_named(
                                saved,
                                concat!($(stringify!($item), " "),*),
                                &mut [$(&mut $item),*],
                            )?;
                        )?
                        $(
                            $(let mut $field = Default::default();)*
                            $crate::base::saved::restore_named(
                                saved,
                                concat!($(stringify!($field), " "),*),
                                &mut [$(&mut $field),*],
                            )?;
                        )?
                        Self::$variant $(($($item),*))? $({ $($field),* })?
                    })*
                    _ => return Err(format!("is no {}", stringify!($name))),
                };
                Ok(())
            }
        }
    )*};
}

pub(crate) use {saved, saved_enum};

impl Saved for Value {
    fn save(&self) -> Value {
        self.clone()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.clone_from(saved);
        Ok(())
    }
}

impl Saved for Map<String, Value> {
    fn save(&self) -> Value {
        self.clone().into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        set(self, saved.as_object().cloned(), saved)
    }
}

impl Saved for () {
    fn save(&self) -> Value {
        Value::Null
    }

    fn restore(&mut self, _: &Value) -> Result<(), String> {
        Ok(())
    }
}

impl Saved for std::borrow::Cow<'static, str> {
    fn save(&self) -> Value {
        self.as_ref().into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.to_mut().restore(saved)
    }
}

impl Saved for bool {
    fn save(&self) -> Value {
        (*self).into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        set(self, saved.as_bool(), saved)
    }
}

macro_rules! saved_numbers {
    ($($number:ty)*) => {$(
        impl Saved for $number {
            fn save(&self) -> Value {
                (*self).into()
            }

            fn restore(&mut self, saved: &Value) -> Result<(), String> {
                let signed = saved.as_i64().and_then(|n| Self::try_from(n).ok());
                let number = signed.or_else(|| Self::try_from(saved.as_u64()?).ok());
                set(self, number, saved)
            }
        }
    )*};
}

saved_numbers! { u8 u16 u32 u64 usize i32 i64 }

impl Saved for String {
    fn save(&self) -> Value {
        self.as_str().into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        set(self, saved.as_str().map(Into::into), saved)
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

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        *self = match saved {
            Value::String(text) => text.into(),
            bytes => Self::from_vec(load(bytes)?),
        };
        Ok(())
    }
}

impl Saved for PathBuf {
    fn save(&self) -> Value {
        self.as_os_str().to_owned().save()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.as_mut_os_string().restore(saved)
    }
}

impl Saved for Mono {
    fn save(&self) -> Value {
        self.as_nanos().into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        *self = Self::from_nanos(load(saved)?);
        Ok(())
    }
}

impl Saved for Wall {
    fn save(&self) -> Value {
        self.0.into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.0.restore(saved)
    }
}

/// In nanoseconds.
impl Saved for Duration {
    fn save(&self) -> Value {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        *self = Self::from_nanos(load(saved)?);
        Ok(())
    }
}

impl<T: Saved + Default> Saved for Option<T> {
    fn save(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::save)
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        *self = None;
        match saved {
            Value::Null => Ok(()),
            saved => self.insert(T::default()).restore(saved),
        }
    }
}

impl<T: Saved> Saved for Box<T> {
    fn save(&self) -> Value {
        T::save(self)
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        T::restore(self, saved)
    }
}

impl<T: Saved + Default> Saved for Arc<T> {
    fn save(&self) -> Value {
        T::save(self)
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        *self = Self::new(load(saved)?);
        Ok(())
    }
}

impl<T: Saved> Saved for [T] {
    fn save(&self) -> Value {
        let mut items = Vec::with_capacity(self.len());
        for item in self {
            items.push(item.save());
        }
        items.into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        if saved.as_array().is_some_and(|all| all.len() != self.len()) {
            return odd(saved);
        }
        let mut rest = self.iter_mut();
        restore_items(saved, &mut |item| match rest.next() {
            Some(one) => one.restore(item),
            None => odd(saved),
        })
    }
}

impl<T: Saved + Default> Saved for Vec<T> {
    fn save(&self) -> Value {
        self.as_slice().save()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.clear();
        restore_items(saved, &mut |item| {
            self.push(load(item)?);
            Ok(())
        })
    }
}

impl<T: Saved + Default> Saved for VecDeque<T> {
    fn save(&self) -> Value {
        let mut items = Vec::with_capacity(self.len());
        for item in self {
            items.push(item.save());
        }
        items.into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.clear();
        restore_items(saved, &mut |item| {
            self.push_back(load(item)?);
            Ok(())
        })
    }
}

impl<T: Saved, const N: usize> Saved for [T; N] {
    fn save(&self) -> Value {
        self.as_slice().save()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        self.as_mut_slice().restore(saved)
    }
}

impl<A: Saved, B: Saved> Saved for (A, B) {
    fn save(&self) -> Value {
        pair(&self.0, &self.1)
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        match saved.as_array().map(Vec::as_slice) {
            Some([a, b]) => {
                self.0.restore(a)?;
                self.1.restore(b)
            }
            Some(_) | None => odd(saved),
        }
    }
}

/// A list of pairs.
impl<K: Saved + Default + Ord, V: Saved + Default> Saved for Table<K, V> {
    fn save(&self) -> Value {
        let mut items = Vec::with_capacity(self.len());
        for (key, value) in self.iter() {
            items.push(pair(key, value));
        }
        items.into()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        *self = Self::default();
        restore_items(saved, &mut |pair| {
            let (key, value) = load(pair)?;
            self.insert(key, value);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Point {
        x: u64,
        name: Option<String>,
        shape: Shape,
    }

    #[derive(Debug, Default, PartialEq)]
    enum Shape {
        #[default]
        Dot,
        Circle(i32),
        Box {
            sides: Vec<u16>,
            at: Mono,
        },
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
            let back = load(&serde_json::from_str(&text).unwrap());
            assert_eq!(back, Ok(point));
        }
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        assert_eq!(load(&odd.save()), Ok(odd));
        let table: Table<String, (u8, bool)> = [("a".into(), (1, true))].into_iter().collect();
        assert_eq!(load(&table.save()), Ok(table));
    }

    #[test]
    fn the_place_of_a_fault_is_named() {
        let text = |value: Value| load::<Point>(&value).unwrap_err();
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
