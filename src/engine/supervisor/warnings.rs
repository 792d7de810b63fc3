//! The faults that bpm knows of itself: shown by `get_status`, `bpm status` and `bpm doctor`, until they are gone.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::logger::Level;

use super::{Presence, PresenceState, Supervisor};

/// A failed write is tried again after this.
const AGAIN: Duration = Duration::from_secs(2);
/// A bpm that nobody can find stops after this.
const LOST: Duration = Duration::from_secs(600);

/// The faults that bpm has now.
pub(super) struct Warnings {
    /// It does not change while bpm lives.
    fixed: Vec<String>,
    /// `state.json` can't be written.
    state: Option<String>,
    /// The files by which others find bpm can't be made.
    files: Option<String>,
    /// Files that are not watched.
    watch: Vec<String>,
    /// Processes that belong to nobody.
    strays: Vec<String>,
    /// Since when others can't find bpm.
    lost: Option<Mono>,
    again: Option<Mono>,
    changed: bool,
}

impl Warnings {
    pub(super) fn new(fixed: Vec<String>) -> Self {
        Self {
            changed: !fixed.is_empty(),
            fixed,
            state: None,
            files: None,
            watch: Vec::new(),
            strays: Vec::new(),
            lost: None,
            again: None,
        }
    }

    /// The faults of bpm's files, for the next program.
    pub(super) fn unwritten(&self) -> (Option<String>, Option<String>) {
        (self.state.clone(), self.files.clone())
    }

    /// Goes on with those of the program before until it is known better, which is tried at once.
    pub(super) fn restore(&mut self, (state, files): (Option<String>, Option<String>), now: Mono) {
        (self.state, self.files) = (state, files);
        self.changed |= self.is_unwritten();
        self.again = self.is_unwritten().then_some(now);
    }

    /// Some of them changed since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn list(&self) -> Vec<String> {
        let found = self.files.iter().chain(&self.state);
        let found = found.chain(&self.watch).chain(&self.strays);
        self.fixed.iter().chain(found).cloned().collect()
    }

    /// When what could not be done is to be tried again.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.again
    }

    /// Bpm's files are to be looked for at that time.
    pub(super) fn look_at(&mut self, now: Mono) {
        self.again = Some(now);
    }

    fn set_again(&mut self, now: Mono) {
        self.again = self.is_unwritten().then(|| now.after(AGAIN));
    }

    fn is_unwritten(&self) -> bool {
        self.state.is_some() || self.files.is_some()
    }

    /// `state.json` was written, or could not be. True: that is new.
    pub(super) fn state_written(&mut self, why: Option<String>) -> bool {
        let new = self.state.is_some() != why.is_some();
        self.changed |= self.state != why;
        self.state = why;
        if new {
            self.set_again(Mono::now());
        }
        new
    }

    /// All that keeps files from being watched now.
    pub(super) fn set_watch(&mut self, wrong: Vec<String>) {
        self.changed |= self.watch != wrong;
        self.watch = wrong;
    }

    /// These belong to nobody now; gives those that are new.
    pub(super) fn set_strays(&mut self, strays: Vec<String>) -> Vec<String> {
        let old = std::mem::replace(&mut self.strays, strays);
        self.changed |= old != self.strays;
        let new = self.strays.iter().filter(|stray| !old.contains(stray));
        new.cloned().collect()
    }

    fn files_made(&mut self, why: Option<String>, found: bool, now: Mono) {
        self.changed |= self.files != why;
        self.files = why;
        self.lost = match found {
            true => None,
            false => self.lost.or(Some(now)),
        };
        self.set_again(now);
    }

    /// Nobody has been able to find this bpm for [`LOST`]: it had better stop.
    fn is_lost(&self, now: Mono) -> bool {
        self.lost.is_some_and(|since| now.since(since) >= LOST)
    }
}

impl Supervisor {
    /// Looks for bpm's files.
    pub(super) fn check_presence(&mut self, presence: &mut dyn Presence, anyway: bool) {
        match presence.check(anyway) {
            PresenceState::Same => {}
            PresenceState::Repaired => {
                self.state.edit();
                self.checks.reopen_sockets(&self.runs);
            }
            PresenceState::Displaced => {
                self.state.displace();
                self.begin_stop();
            }
        }
        self.note_presence(presence);
    }

    pub(super) fn note_presence(&mut self, presence: &dyn Presence) {
        let now = Mono::now();
        let trouble = presence.trouble();
        let found = trouble.as_ref().is_none_or(|t| t.can_be_found);
        self.warnings
            .files_made(trouble.map(|t| t.text), found, now);
        if self.warnings.is_lost(now) {
            let text = "nobody has been able to find this bpm for 10 minutes: stopping";
            self.events.say(Level::Error, text);
            self.begin_stop();
        }
    }

    /// Tries again what could not be written or made.
    pub(super) fn try_again(&mut self, now: Mono, presence: &mut dyn Presence) {
        if self.warnings.again.take_if(|at| *at <= now).is_none() {
            return;
        }
        if self.warnings.state.is_some() {
            self.state.edit();
        }
        self.check_presence(presence, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpm_that_cannot_be_found_is_lost_after_a_while_and_one_on_a_full_disk_never() {
        let begun = Mono::now();
        let mut warnings = Warnings::new(Vec::new());
        let later = begun.after(LOST);
        warnings.files_made(Some("full".into()), true, begun);
        assert!(!warnings.is_lost(later.after(LOST)));
        warnings.files_made(Some("hidden".into()), false, begun);
        warnings.files_made(Some("hidden".into()), false, begun.after(AGAIN));
        assert!(!warnings.is_lost(begun.after(AGAIN)) && warnings.is_lost(later));
        // It is there again: the time counts from the next loss.
        warnings.files_made(None, true, later);
        assert!(!warnings.is_lost(later) && warnings.deadline().is_none());
        warnings.files_made(Some("hidden".into()), false, later);
        assert!(!warnings.is_lost(later.after(AGAIN)));
    }
}
