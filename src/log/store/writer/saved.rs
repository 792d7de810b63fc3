//! The files of a log for an upgrade in place: the segments that are being written are written on.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::Value;

use crate::base::clock::Wall;
use crate::base::json::{list, object};
use crate::base::saved::{Saved, field, saved};
use crate::log::store::index::{Header, Record};

use super::{Disk, Folder, Open, Writer};
#[derive(Default)]
struct SavedOpen {
    number: u32,
    header: Header,
    records: u64,
    last: Record,
    highest: u64,
}

saved! { SavedOpen { number, header, records, last, highest } }

impl Disk {
    /// The files have all lines from that number on, and will have them longer than a memory of that many bytes would.
    pub(in crate::log) fn has_from(&mut self, first: Option<u64>, memory: u64) -> bool {
        let Some(first) = first else { return true };
        if self.budget < 4 * memory {
            return false;
        }
        self.list();
        let begins = |at| super::super::segment::meta(&self.folder, &self.segments, at);
        let oldest = match self.segments.is_empty() {
            true => self
                .writers
                .iter()
                .filter_map(|w| w.open.as_ref())
                .map(|o| o.header.first)
                .min(),
            false => begins(0).map(|meta| meta.header.first),
        };
        !self.has_gaps && oldest.is_some_and(|oldest| oldest <= first)
    }

    /// To be called when the files are up to date.
    pub(in crate::log) fn save(&mut self) -> Value {
        for index in 0..self.writers.len() {
            let open = &mut self.writers[index].open;
            if let Some(Err(e)) = open.as_mut().map(|open| open.flush()) {
                self.failed(index, &e);
            }
        }
        object([
            ("writers", list(self.writers.iter().map(Writer::save))),
            ("has_gaps", self.has_gaps.save()),
        ])
    }

    /// Goes on where the segments that were written end.
    pub(in crate::log) fn restore(
        folder: Folder,
        budget: u64,
        saved: &Value,
    ) -> Result<Self, String> {
        let writers: Vec<Value> = field(saved, "writers")?;
        let writers = writers.iter().map(|w| Writer::restore(&folder, w));
        Ok(Self {
            budget: folder.kind.share(budget),
            segments: Vec::new(),
            unlisted: true,
            writers: writers.collect::<Result<_, _>>()?,
            folder,
            trouble: None,
            changed: false,
            has_gaps: field(saved, "has_gaps")?,
        })
    }
}

impl Writer {
    fn save(&self) -> Value {
        let open = self.open.as_ref().map(|open| SavedOpen {
            number: open.number,
            header: open.header.clone(),
            records: open.records,
            last: open.last,
            highest: open.highest,
        });
        object([
            ("run", self.run.save()),
            ("started", self.started.save()),
            ("next", self.next.save()),
            ("lines", self.lines.save()),
            ("ended", self.ended.save()),
            ("open", open.save()),
        ])
    }

    /// A segment that is not as it was left is not written on: a new one follows.
    fn restore(folder: &Folder, saved: &Value) -> Result<Self, String> {
        let mut writer = Self::new(field(saved, "run")?, field(saved, "started")?);
        writer.next = field(saved, "next")?;
        writer.lines = field(saved, "lines")?;
        writer.ended = field(saved, "ended")?;
        let open: Option<SavedOpen> = field(saved, "open")?;
        let reopened = open.and_then(|open| Open::of_saved(folder, writer.run, open));
        writer.open = reopened.filter(|open| open.is_whole()).map(Box::new);
        Ok(writer)
    }
}

impl Open {
    fn of_saved(folder: &Folder, run: u64, saved: SavedOpen) -> Option<Self> {
        let open = |extension, append| {
            File::options()
                .append(append)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(folder.file(run, saved.number, extension))
        };
        Some(Self {
            number: saved.number,
            log: open("log", true).ok()?,
            index: open("idx", false).ok()?,
            header: saved.header,
            records: saved.records,
            waiting: Vec::new(),
            checked: Wall(0),
            last: saved.last,
            highest: saved.highest,
        })
    }
}
