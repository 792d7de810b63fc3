//! Pure: no system call, no thread, no clock.
//!
//! Changes that are not due yet: they go over an upgrade in place.

use crate::base::clock::Mono;
use crate::base::saved::saved;
use crate::base::table::Table;
use crate::lifecycle::UnitId;

/// Processes whose files changed.
pub type Changes = Table<UnitId, Changed>;

#[derive(Debug, Clone, Default)]
pub struct Changed {
    pub(super) last: Mono,
    /// The first file.
    pub(super) path: String,
}

saved! { Changed { last, path } }

pub(super) fn mark_changed(
    changed: &mut Changes,
    unit: UnitId,
    now: Mono,
    path: impl FnOnce() -> String,
) {
    match changed.get_mut(&unit) {
        Some(known) => known.last = now,
        None => {
            let path = path();
            changed.insert(unit, Changed { last: now, path });
        }
    }
}
