//! Things that bpm itself does by time.

use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::saved::saved;

/// By then what starts by itself has been started, and the memory that only the start needed is free.
const TRIM_AFTER: Duration = Duration::from_secs(2);

/// Something that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A line in the log that says that bpm lives.
    Heartbeat,
    /// `WATCHDOG=1` to the service manager.
    Watchdog,
    /// Free memory goes back to the system.
    Trim,
}

/// Something that is due again and again.
#[derive(Debug, Clone, Copy, Default)]
struct Every {
    next: Option<(Mono, Duration)>,
}

saved! {
    Every { next }
    Timers { heartbeat, watchdog, trim_at, released_after }
}

impl Every {
    fn new(span: Duration, now: Mono) -> Self {
        Self {
            next: (!span.is_zero()).then(|| (now.after(span), span)),
        }
    }

    fn is_due(&mut self, now: Mono) -> bool {
        let Some((_, span)) = self.next.filter(|(at, _)| *at <= now) else {
            return false;
        };
        self.next = Some((now.after(span), span));
        true
    }
}

/// See the module.
pub(super) struct Timers {
    heartbeat: Every,
    watchdog: Every,
    trim_at: Option<Mono>,
    /// The last activity before dev builds were given up for release builds last.
    released_after: Option<Mono>,
}

impl Timers {
    /// Zero and None are never due.
    pub(super) fn new(now: Mono, heartbeat: Duration, watchdog: Option<Duration>) -> Self {
        Self {
            heartbeat: Every::new(heartbeat, now),
            watchdog: Every::new(watchdog.unwrap_or_default(), now),
            trim_at: Some(now.after(TRIM_AFTER)),
            released_after: None,
        }
    }

    /// A reload may have another heartbeat.
    pub(super) fn set_heartbeat(&mut self, span: Duration, now: Mono) {
        if self.heartbeat.next.map_or(Duration::ZERO, |(_, span)| span) != span {
            self.heartbeat = Every::new(span, now);
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let every = [self.heartbeat, self.watchdog].into_iter();
        let every = every.filter_map(|e| Some(e.next?.0));
        every.chain(self.trim_at).min()
    }

    /// All that is due now.
    pub(super) fn due(&mut self, now: Mono) -> Vec<Due> {
        let mut due = Vec::new();
        if self.heartbeat.is_due(now) {
            due.extend([Due::Heartbeat, Due::Trim]);
        }
        if self.watchdog.is_due(now) {
            due.push(Due::Watchdog);
        }
        due.extend(self.trim_at.take_if(|at| *at <= now).map(|_| Due::Trim));
        due
    }

    /// Nobody has called since that activity, and no release builds were asked for since.
    pub(super) fn may_release(&self, active: Mono) -> bool {
        self.released_after != Some(active)
    }

    /// Release builds were asked for.
    pub(super) fn released(&mut self, active: Mono) {
        self.released_after = Some(active);
    }
}
