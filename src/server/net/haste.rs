//! Whether to look for the next request a little longer before going to sleep.
//!
//! A client that asks again as soon as it is answered is there within 20 us. To be put to sleep and woken
//! for it takes 40 us in a virtual machine, where an idle processor is given back to the host, and as
//! much CPU as looking does. To look only where that has just proved right loses next to nothing where it
//! does not: on a single processor, or with a slow client.

use std::time::Duration;

use crate::base::clock::Mono;

/// How long to look.
pub(super) const LOOK: Duration = Duration::from_micros(50);
/// Events that follow each other within this time are worth it.
const CLOSE: Duration = Duration::from_micros(200);
/// After a look in vain so many events go by without one.
const REST: u8 = 100;

/// How events have come.
#[derive(Debug, Default)]
pub(super) struct Haste {
    last: Mono,
    close: bool,
    rest: u8,
}

impl Haste {
    /// The next event is worth looking for.
    pub(super) fn looks(&self) -> bool {
        self.close && self.rest == 0
    }

    /// Nothing came while it was looked for.
    pub(super) fn in_vain(&mut self) {
        self.rest = REST;
    }

    /// An event came.
    pub(super) fn came(&mut self, now: Mono) {
        self.close = now.since(self.last) < CLOSE;
        self.last = now;
        self.rest = self.rest.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_in_a_row_is_looked_for_and_rarely_in_vain() {
        let mut haste = Haste::default();
        let mut now = Mono::from_nanos(1 << 40);
        let mut came = |haste: &mut Haste, after: u64| {
            now = now.after(Duration::from_micros(after));
            haste.came(now);
            haste.looks()
        };
        assert!(!came(&mut haste, 1_000_000));
        assert!(came(&mut haste, 60) && came(&mut haste, 20));
        assert!(!came(&mut haste, 1_000));
        assert!(came(&mut haste, 60));
        // On a single processor each look is in vain.
        let mut looks = 0;
        for _ in 0..10_000 {
            if came(&mut haste, 150) {
                haste.in_vain();
                looks += 1;
            }
        }
        assert_eq!(looks, 100);
    }
}
