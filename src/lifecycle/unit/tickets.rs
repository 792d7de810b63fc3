//! Pure: no system call, no thread, no clock.
//!
//! Who waits, and when they are answered.

use crate::lifecycle::{Effect, Why};

use super::{Goal, Rest, Unit};

impl Unit {
    pub(super) fn fail_waiting(
        &mut self,
        out: &mut Vec<Effect>,
        verdict: impl Fn(&Goal) -> Option<Why>,
    ) {
        self.waiting.retain(|(ticket, goal)| match verdict(goal) {
            Some(why) => {
                out.push(Effect::Answer {
                    ticket: *ticket,
                    result: Err(why),
                });
                false
            }
            None => true,
        });
    }

    pub(super) fn fail_up(&mut self, why: &Why, out: &mut Vec<Effect>) {
        // A restart whose build is still to come has not failed by what ran before.
        let last = self.last_generation;
        let pending = self.build.is_some() || self.build_wish.is_some();
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

    /// Nobody will be answered by what comes: it is taken out of the project.
    pub(in crate::lifecycle) fn dismiss(&mut self, out: &mut Vec<Effect>) {
        self.fail_waiting(out, |_| {
            Some(Why::Superseded(
                "it was taken out of the configuration".into(),
            ))
        });
    }

    pub(super) fn answer_met(&mut self, out: &mut Vec<Effect>) {
        let empty = self.is_empty();
        let run = self.run.as_ref().filter(|r| r.is_good());
        let (generation, build) = run.map_or((0, 0), |r| (r.generation, r.built.id));
        let up = run.is_some();
        let done = self.rest == Some(Rest::Done) && empty;
        let (last, want) = (self.last_generation, self.want);
        let alone = self.leaving.is_none();
        let settled = self.run.as_ref().is_some_and(|r| r.serves())
            && self.swap.is_none()
            && self.coming.is_none()
            && alone
            && self.build.is_none()
            && self.build_wish.is_none();
        self.waiting.retain(|(ticket, goal)| {
            let result = match goal {
                Goal::Up => (up || done).then_some(Ok(())),
                Goal::Fresh {
                    after,
                    build: wanted,
                } => {
                    // Whoever is told that the new one serves must not meet the old one any more.
                    let fresh = up && alone && generation > *after && build >= *wanted;
                    if fresh || done && last > *after {
                        Some(Ok(()))
                    } else if up && settled {
                        // Nothing more is to come: a later order chose another build than this one's.
                        Some(Err(Why::Superseded(
                            "a later order was carried out instead".into(),
                        )))
                    } else {
                        None
                    }
                }
                Goal::Down if empty => Some(Ok(())),
                Goal::Down if want && settled => Some(Err(Why::Superseded(
                    "it was started again meanwhile".into(),
                ))),
                Goal::Down => None,
                Goal::Back(why) => (up || done).then(|| Err(why.clone())),
            };
            match result {
                Some(result) => {
                    out.push(Effect::Answer {
                        ticket: *ticket,
                        result,
                    });
                    false
                }
                None => true,
            }
        });
    }
}
