//! A log for an upgrade in place.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::base::json::object;
use crate::base::saved::{Saved, field};
use crate::log::ring::{Limits, Ring};

use super::layout::Folder;
use super::writer::Disk;
use super::{Kind, Log};

impl Log {
    /// All that the next program has to know to go on with it; bytes go behind those that are there. Nothing may be
    /// appended from then on.
    pub fn save(&self, bytes: &mut Vec<u8>) -> Value {
        let (whole, disk) = self.with_disk(|disk| {
            let memory = self.memory();
            let (oldest, room) = (memory.ring.oldest(), memory.ring.limits().bytes);
            drop(memory);
            match disk {
                Some(disk) => {
                    let saved = disk.save();
                    (!disk.has_from(oldest, room), saved)
                }
                None => (true, Value::Null),
            }
        });
        let memory = self.memory();
        object([
            ("ring", memory.ring.save(whole, bytes)),
            ("last_output", memory.last_output.save()),
            ("bytes", memory.bytes.save()),
            ("disk", disk),
        ])
    }

    /// The log that was saved. Without a folder it is in memory alone, to see whether it can be read.
    ///
    /// # Errors
    /// The place of what can't be read.
    pub fn restore(
        folder: Option<&Arc<Path>>,
        kind: Kind,
        limits: Limits,
        saved: &Value,
        bytes: &[u8],
    ) -> Result<Arc<Self>, String> {
        let mut ring = Ring::new(limits, 1, 1);
        ring.restore(&saved["ring"], bytes)
            .map_err(|why| format!("ring.{why}"))?;
        let mut disk = None;
        if let Some(path) = folder {
            let path = Arc::clone(path);
            let folder = Folder { path, kind };
            disk = Some(match &saved["disk"] {
                Value::Null => Disk::new(folder, limits.disk),
                saved => Disk::restore(folder, limits.disk, saved)
                    .map_err(|why| format!("disk.{why}"))?,
            });
        }
        let log = Self::of(ring, disk);
        let mut memory = log.memory();
        memory.last_output = field(saved, "last_output")?;
        memory.bytes = field(saved, "bytes")?;
        drop(memory);
        Ok(log)
    }
}
