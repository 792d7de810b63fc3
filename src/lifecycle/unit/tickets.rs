//! Pure: no system call, no thread, no clock.
//!
//! The callers who wait, and when they are answered.

use crate::lifecycle::{Effect, Why};

use super::{Goal, Rest, Swap, Unit};

impl Unit {
    /// Answers those for whom `verdict` has a result.
    fn answer(
        &mut self,
        out: &mut Vec<Effect>,
        verdict: &dyn Fn(&Goal) -> Option<Result<(), Why>>,
    ) {
        self.waiting.retain(|(ticket, goal)| {
            let result = verdict(goal);
            let waits = result.is_none();
            out.extend(result.map(|result| Effect::Answer {
                ticket: *ticket,
                result,
            }));
            waits
        });
    }

    pub(super) fn fail_waiting(
        &mut self,
        out: &mut Vec<Effect>,
        verdict: impl Fn(&Goal) -> Option<Why>,
    ) {
        self.answer(out, &|goal| verdict(goal).map(Err));
    }

    /// No run is coming for those who wait for one.
    pub(super) fn fail_up(&mut self, why: &Why, out: &mut Vec<Effect>) {
        // A restart whose build is still to come has not failed by what ran before.
        let (last, pending) = (self.runs.last, self.builds.pending());
        self.fail_waiting(out, |goal| match goal {
            Goal::Up => Some(why.clone()),
            Goal::Fresh { after, .. } if last > *after || !pending => Some(why.clone()),
            Goal::Back(first) => Some(first.clone()),
            Goal::Fresh { .. } | Goal::Down => None,
        });
    }

    pub(super) fn fail_fresh(&mut self, why: &Why, out: &mut Vec<Effect>) {
        self.fail_waiting(out, |goal| match goal {
            Goal::Fresh { .. } => Some(why.clone()),
            Goal::Up | Goal::Down | Goal::Back(_) => None,
        });
    }

    /// It is taken out of the project: nothing that comes will answer anybody.
    pub(in crate::lifecycle) fn dismiss(&mut self, out: &mut Vec<Effect>) {
        let why = "it was removed from .mcp-run";
        self.fail_waiting(out, |_| Some(Why::Superseded(why.into())));
    }

    /// Answers those whose goal is met, or can no longer be met.
    pub(super) fn answer_met(&mut self, out: &mut Vec<Effect>) {
        if self.waiting.is_empty() {
            return;
        }
        let empty = self.is_empty();
        let run = self.runs.current.as_ref().filter(|r| r.is_good());
        let (generation, built) = run.map_or((0, 0), |r| (r.generation, r.built.id));
        let up = run.is_some();
        let done = self.rest == Some(Rest::Done) && empty;
        let (last, want) = (self.runs.last, self.is_wanted());
        let alone = self.runs.leaving.is_none();
        // Nothing more is to come.
        let settled = self.is_up()
            && !matches!(self.swap, Swap::Wanted(_))
            && self.runs.coming.is_none()
            && alone
            && !self.builds.pending();
        let superseded = |why: &str| Some(Err(Why::Superseded(why.into())));
        self.answer(out, &|goal| match goal {
            Goal::Up => (up || done).then_some(Ok(())),
            Goal::Fresh { after, build } => {
                // The caller of a fresh run must not meet the old one any more.
                let fresh = up && alone && generation > *after && built >= *build;
                if fresh || done && last > *after {
                    Some(Ok(()))
                } else if up && settled {
                    superseded("a later order was carried out instead")
                } else {
                    None
                }
            }
            Goal::Down if empty => Some(Ok(())),
            Goal::Down if want && settled => superseded("it was started again meanwhile"),
            Goal::Down => None,
            Goal::Back(why) => (up || done).then(|| Err(why.clone())),
        });
    }
}
