//! Bounds how many large messages are under way at a time: the others wait for their turn unread.

use std::collections::VecDeque;

use super::conn::{Conn, Place};

/// The most connections that may have a large message under way.
const MAX_LARGE: usize = 4;

#[derive(Default)]
pub(super) struct Places {
    taken: usize,
    queue: VecDeque<u64>,
}

impl Places {
    /// Takes a place for a connection whose message has become large, or queues it for one; takes the place
    /// back when nothing large is left.
    pub(super) fn update(&mut self, c: &mut Conn) {
        match (c.is_large(), c.place) {
            (true, Place::NoNeed) if self.taken < MAX_LARGE => {
                self.taken += 1;
                c.place = Place::Taken;
            }
            (true, Place::NoNeed) => {
                self.queue.push_back(c.token);
                c.place = Place::Awaited;
            }
            (false, Place::Taken) if c.is_slim() => self.release(c),
            (false, Place::Awaited) => c.place = Place::NoNeed,
            (_, Place::Taken) | (true, Place::Awaited) | (false, Place::NoNeed) => {}
        }
    }

    /// The connection is about to close.
    pub(super) fn release(&mut self, c: &mut Conn) {
        if c.place == Place::Taken {
            self.taken -= 1;
        }
        c.place = Place::NoNeed;
    }

    /// The connection that has waited longest, if a place is free: it is to be updated.
    pub(super) fn next(&mut self) -> Option<u64> {
        match self.taken < MAX_LARGE {
            true => self.queue.pop_front(),
            false => None,
        }
    }
}
