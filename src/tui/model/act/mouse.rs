//! Pure: no system call, no thread, no clock.
//!
//! The actions of the mouse.

use super::NOTCH;
use crate::tui::input::{Click, Key};
use crate::tui::layout::Room;
use crate::tui::model::{Model, Overlay};
use crate::tui::output::Row;

impl Model {
    pub(super) fn mouse(&mut self, click: Click, x: u16, y: u16) {
        let layout = self.layout();
        let wheel = match click {
            Click::WheelUp => -1,
            Click::WheelDown => 1,
            Click::Press | Click::Drag | Click::Release => 0,
        };
        if self.dialog.overlay.is_some() {
            for _ in 0..NOTCH * i64::from(wheel != 0) {
                self.key_in_overlay(if wheel > 0 { Key::Down } else { Key::Up });
            }
            return;
        }
        if wheel != 0 && layout.list.has(x, y) {
            return self.select_by(wheel);
        }
        if wheel != 0 {
            if layout.output.has(x, y) {
                self.scroll(wheel * NOTCH);
            }
            return;
        }
        let inside = |area: crate::tui::cell::Area| match layout.room {
            Room::Framed => area.inner(),
            Room::Bare | Room::Tiny => area,
        };
        let list = inside(layout.list);
        if click == Click::Press && list.has(x, y) {
            let top = self.list_top(usize::from(list.h));
            return self.select(top + usize::from(y - list.y));
        }
        self.drag(click, y, inside(layout.output), layout.output.has(x, y));
    }

    pub(super) fn drag(
        &mut self,
        click: Click,
        y: u16,
        area: crate::tui::cell::Area,
        inside: bool,
    ) {
        let size = self.output_size();
        let row = usize::from(y.saturating_sub(area.y)).min(size.rows.saturating_sub(1));
        let seen = self.log.output.seen(size);
        let at: Option<u64> = seen.get(row).or(seen.last()).map(|row: &Row<'_>| row.id);
        match (click, at, self.log.drag) {
            (Click::Press, at, _) => {
                self.log.drag = None;
                self.log.dragging = inside && at.is_some();
                if let Some(at) = at.filter(|_| inside) {
                    self.log.drag = Some((at, at));
                }
            }
            (Click::Drag, Some(at), Some((from, _))) if self.log.dragging => {
                self.log.drag = Some((from, at));
            }
            (Click::Release, _, Some((from, to))) if self.log.dragging => {
                self.log.dragging = false;
                match from == to {
                    // A click is no drag.
                    true => self.log.drag = None,
                    false => self.copy(),
                }
            }
            _ => {}
        }
    }

    /// The first process that is seen in a list of this height: the selected one is among them.
    pub fn list_top(&self, rows: usize) -> usize {
        let listed = self.listed();
        let selected = self.list.selected.as_ref();
        let at = selected.and_then(|name| listed.iter().position(|p| p.name == *name));
        let most = listed.len().saturating_sub(rows);
        // In the middle, but for both ends.
        at.unwrap_or(0).saturating_sub(rows / 2).min(most)
    }

    /// The rows of what lies over the panels.
    pub(super) fn overlay_rows(&self) -> usize {
        match &self.dialog.overlay {
            Some(Overlay::Help) => {
                let messages = self.dialog.messages.iter();
                let said: usize = messages.map(|m| m.text.lines().count()).sum();
                crate::tui::keys::KEYS.len() + said + 2
            }
            Some(Overlay::Card { lines, .. }) => lines.len(),
            Some(Overlay::Errors { list, .. }) => list.len(),
            Some(Overlay::Details) => 40,
            None => 0,
        }
    }
}
