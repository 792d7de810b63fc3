//! The state that goes over an execve: what each part wrote, as JSON with a version; bytes beside it; and the
//! descriptors that stay open, by name.

use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use serde_json::Value;

use crate::base::saved::{Saved, field, restore_fields};
use crate::base::table::Table;
use crate::os::reexec::{Inherited, number};

/// The layout. A release reads that of the two releases before it as well.
pub const VERSION: u64 = 1;
/// The layouts that this release reads.
pub const READS: &[u64] = &[1];

const MAGIC: &[u8; 8] = b"bpmstate";

/// The state as it is written: each part becomes text at once, so that little is left to do while nothing is served.
#[derive(Debug, Default)]
pub struct Handover {
    parts: String,
    pub bytes: Vec<u8>,
    fds: Table<String, RawFd>,
}

impl Handover {
    /// What a part has to hand over.
    pub fn put(&mut self, part: &str, value: &Value) {
        let comma = if self.parts.is_empty() { "" } else { "," };
        let _ = write!(self.parts, "{comma}{}:{value}", Value::from(part));
    }

    /// The same of several parts.
    pub fn put_all(&mut self, parts: &[(&str, &dyn Saved)]) {
        for (name, part) in parts {
            self.put(name, &part.save());
        }
    }

    /// Keeps a descriptor open for who takes it by that name.
    pub fn keep(&mut self, name: impl Into<String>, fd: impl AsFd) {
        self.fds.insert(name.into(), number(fd));
    }

    /// The same of one whose owner is on another thread.
    pub fn keep_number(&mut self, name: impl Into<String>, fd: RawFd) {
        self.fds.insert(name.into(), fd);
    }

    /// The descriptors to be kept.
    pub fn fds(&self) -> Vec<RawFd> {
        self.fds.values().copied().collect()
    }

    /// As it goes over the execve.
    pub fn encode(&self) -> Vec<u8> {
        let (fds, parts) = (self.fds.save(), &self.parts);
        let json = format!("{{\"version\":{VERSION},\"fds\":{fds},\"parts\":{{{parts}}}}}");
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(json.len() as u64).to_le_bytes());
        out.extend_from_slice(json.as_bytes());
        out.extend_from_slice(&self.bytes);
        out
    }
}

/// The state as it is read.
#[derive(Debug)]
pub struct Takeover {
    parts: Value,
    pub bytes: Vec<u8>,
    fds: Table<String, RawFd>,
    /// None: it is only read to see whether that can be done, and has no descriptors.
    inherited: Option<Inherited>,
}

impl Takeover {
    /// # Errors
    /// It is of another version, or damaged.
    pub fn decode(encoded: &[u8], inherited: Option<Inherited>) -> Result<Self, String> {
        let damaged = || "the state is damaged".to_owned();
        let rest = encoded.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
        let (json, bytes) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let mut json: Value = serde_json::from_slice(json).map_err(|_| damaged())?;
        let version: u64 = field(&json, "version")?;
        if !READS.contains(&version) {
            return Err(format!(
                "the state has version {version}, this bpm reads {READS:?}"
            ));
        }
        let fds = field(&json, "fds")?;
        let parts = json["parts"].take();
        if !parts.is_object() {
            return Err(damaged());
        }
        Ok(Self {
            parts,
            bytes: bytes.to_vec(),
            fds,
            inherited,
        })
    }

    /// What a part handed over.
    ///
    /// # Errors
    /// The place of what can't be read.
    pub fn get<T: Saved + Default>(&self, part: &str) -> Result<T, String> {
        field(&self.parts, part)
    }

    /// Reads parts into what is there.
    ///
    /// # Errors
    /// The place of what can't be read.
    pub fn restore(&self, parts: &mut [(&str, &mut dyn Saved)]) -> Result<(), String> {
        restore_fields(&self.parts, parts)
    }

    /// The same of parts that an earlier bpm does not hand over: they stay as they are then.
    ///
    /// # Errors
    /// The place of what can't be read.
    pub fn restore_known(&self, parts: &mut [(&str, &mut dyn Saved)]) -> Result<(), String> {
        for (name, part) in parts {
            if !self.parts[*name].is_null() {
                restore_fields(&self.parts, &mut [(name, &mut **part)])?;
            }
        }
        Ok(())
    }

    /// The same as it was read, once.
    pub fn part(&mut self, part: &str) -> Value {
        self.parts
            .get_mut(part)
            .map(Value::take)
            .unwrap_or_default()
    }

    /// The descriptor of that name. None: there is none, or it is only read.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let fd = self.fds.remove(name)?;
        self.inherited.as_mut()?.get(fd)
    }

    /// It is only read to see whether that can be done: nothing may be done with it.
    pub fn is_dry(&self) -> bool {
        self.inherited.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_comes_back_as_it_was_written() {
        let mut written = Handover::default();
        written.put("numbers", &vec![1_u64, 2].save());
        written.put("words", &"a".into());
        written.keep_number("lock", 5);
        written.bytes = b"\0\xff".to_vec();
        let encoded = written.encode();
        let mut read = Takeover::decode(&encoded, None).unwrap();
        assert_eq!(read.fds.values().copied().collect::<Vec<_>>(), [5]);
        assert_eq!(read.part("words"), "a");
        assert_eq!(read.part("words"), Value::Null);
        assert_eq!(read.get::<Vec<u64>>("numbers"), Ok(vec![1, 2]));
        assert_eq!(read.get::<u64>("numbers"), Err("numbers: is a list".into()));
        assert_eq!(read.get::<u64>("other"), Err("other: is null".into()));
        assert_eq!(read.bytes, b"\0\xff");
        for cut in 0..encoded.len() - 2 {
            assert!(Takeover::decode(&encoded[..cut], None).is_err(), "{cut}");
        }
        let other = String::from_utf8_lossy(&encoded[..encoded.len() - 2]).into_owned();
        let other = other.replace("\"version\":1", "\"version\":9");
        let why = Takeover::decode(other.as_bytes(), None).unwrap_err();
        assert!(why.contains("version 9"), "{why}");
    }
}
