//! Pure: no system call, no thread, no clock.
//!
//! The lives of a project's processes: facts and wishes in, effects out. Pure: no system call, no
//! clock, no thread; a pid is a number to hand on.
//!
//! An event only writes down what has happened (a build ended, a run exited) or what somebody wants.
//! [`Fleet::step`] then reconciles: it compares what is wanted with what is, and says what to do next.
//! Nothing is done on the way from one state to another, so no order of events can get lost between
//! two states; `tests` in this module drive it with random histories.

use serde_json::Value;

use crate::base::saved::{Saved, load};

mod fleet;
mod names;
mod policy;
mod unit;

pub use fleet::{Effect, Event, Fleet, Order, Why};
pub use policy::{Facts, Policy, State};
pub use unit::Ticket;

/// Names a process over its whole life, reloads included.
pub type UnitId = usize;

/// Names a run of a process; rises with each.
pub type Generation = u64;

/// Names a run among all of the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RunKey {
    pub unit: UnitId,
    pub generation: Generation,
}

/// A pair.
impl Saved for RunKey {
    fn save(&self) -> Value {
        (self.unit, self.generation).save()
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        (self.unit, self.generation) = load(saved)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
