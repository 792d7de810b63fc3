//! Pure: no system call, no thread, no clock.
//!
//! The parts of the screen, by its size.

use super::cell::Area;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Four panels in frames.
    Framed,
    /// The same without frames, one below the other.
    Bare,
    /// One line that says so.
    Tiny,
}

/// Where everything is; panels with their frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// How much room there is.
    pub room: Room,
    /// All of it.
    pub whole: Area,
    /// Server Status.
    pub server: Area,
    /// Process Details.
    pub details: Area,
    /// Processes.
    pub list: Area,
    /// Output.
    pub output: Area,
    /// The keys.
    pub keys: Area,
}

/// The size; a terminal that does not know its own counts as 80 by 24.
pub fn known(size: (u16, u16)) -> (u16, u16) {
    match size {
        (0, _) | (_, 0) => (80, 24),
        // Larger than any screen: cells of both pictures must fit into memory.
        (w, h) => (w.min(1_000), h.min(500)),
    }
}

/// The places for a screen of that size.
pub fn layout(w: u16, h: u16) -> Layout {
    let area = |x, y, w, h| Area { x, y, w, h };
    let none = Area::default();
    let whole = area(0, 0, w, h);
    let mut all = Layout {
        room: Room::Tiny,
        whole,
        server: none,
        details: none,
        list: none,
        output: none,
        keys: none,
    };
    if w < 20 || h < 5 {
        return all;
    }
    all.keys = area(0, h - 1, w, 1);
    if w < 60 || h < 16 {
        all.room = Room::Bare;
        all.server = area(0, 0, w, 1);
        let rows = (h / 3).max(1);
        all.list = area(0, 1, w, rows);
        all.details = area(0, 1 + rows, w, 1);
        all.output = area(0, 2 + rows, w, h.saturating_sub(3 + rows));
        return all;
    }
    all.room = Room::Framed;
    let left = if w >= 120 { 40 } else { 30 };
    let top = if h >= 30 { (h / 3).min(12) } else { 8 };
    all.server = area(0, 0, left, top);
    all.details = area(left, 0, w - left, top);
    all.list = area(0, top, left, h - 1 - top);
    all.output = area(left, top, w - left, h - 1 - top);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_places_within_it() {
        for w in 0..210 {
            for h in 0..70 {
                let all = layout(w, h);
                for a in [all.server, all.details, all.list, all.output, all.keys] {
                    assert!(a.x + a.w <= w && a.y + a.h <= h, "{w}x{h}: {a:?}");
                }
            }
        }
        let all = layout(80, 24);
        assert_eq!((all.server.w, all.server.h, all.output.h), (30, 8, 15));
        let all = layout(200, 60);
        assert_eq!((all.server.w, all.server.h), (40, 12));
        assert_eq!(layout(120, 30).server.h, 10);
        assert_eq!(layout(40, 12).list.h, 4);
        assert_eq!(layout(19, 4).room, Room::Tiny);
        assert_eq!(known((0, 0)), (80, 24));
    }
}
