//! Events, in words: in bpm's own log, and as events for those who read the snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::clock::Wall;
use crate::base::logger::{Level, Logger};
use crate::base::saved::saved;
use crate::engine::snapshot::{EVENTS, EventView};

/// The newest events, and the log that all of them go to.
pub(super) struct EventLog {
    logger: Arc<dyn Logger>,
    events: VecDeque<Arc<EventView>>,
    /// The number of the newest one.
    last: u64,
    /// The newest one that was published.
    published: u64,
}

saved! { EventLog { events, last } }

impl EventLog {
    /// An empty one that goes on after that number.
    pub(super) fn new(logger: Arc<dyn Logger>, last: u64) -> Self {
        Self {
            logger,
            events: VecDeque::new(),
            last,
            published: last,
        }
    }

    /// Writes a line to bpm's own log alone.
    pub(super) fn say(&self, level: Level, text: &str) {
        self.logger.write(level, "supervisor", text);
    }

    /// An event of a process, or of bpm itself.
    pub(super) fn happened(
        &mut self,
        level: Level,
        process: Option<&str>,
        kind: &'static str,
        text: String,
    ) {
        match process {
            Some(name) => self.say(level, &format!("{name}: {text}")),
            None => self.say(level, &text),
        }
        self.last += 1;
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(EventView {
            seq: self.last,
            at: Wall::now(),
            process: process.map(Into::into),
            kind: kind.into(),
            text,
        }));
    }

    /// The number of the newest event.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// There are events that were not published.
    pub(super) fn has_news(&self) -> bool {
        self.last != self.published
    }

    /// All that are kept, to be published.
    pub(super) fn publish(&mut self) -> VecDeque<Arc<EventView>> {
        self.published = self.last;
        self.events.clone()
    }
}
