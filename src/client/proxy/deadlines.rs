//! The times by which a proxy gives something up: a daemon that is not there, says nothing, or takes long to stop.

use super::requests::own;
use super::{CONNECT, HOLD, Link, Progress, Proxy, QUIET, SILENT, UNHEARD};
use crate::base::clock::Mono;
use crate::base::json::{self, object};
use crate::base::table::Table;
use crate::server::rpc::{INTERNAL_ERROR, STOPPING};

impl Proxy {
    /// The next deadline, if nothing else happens.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let waits = self.calls.values().any(|c| c.progress == Progress::Sent);
        let silent = self
            .link
            .as_ref()
            .filter(|_| waits && !self.output.is_full());
        let stopping = self.link.as_ref().and_then(|link| link.stopping);
        let queued = self.queue.first().map(|asked| asked.since.after(CONNECT));
        [
            silent.map(Link::heard_by),
            stopping.map(|since| since.after(HOLD)),
            queued,
            // Requests to a daemon that is being started are answered.
            self.over.filter(|_| queued.is_none()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn check_deadlines(&mut self) {
        let now = Mono::now();
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        if self
            .queue
            .first()
            .is_some_and(|a| a.since.after(CONNECT) <= now)
        {
            let seconds = CONNECT.as_secs();
            let why = format!("no daemon within {seconds} s: it is still being started; try again");
            self.give_up_queue(INTERNAL_ERROR, &why);
        } else if self.over.is_some_and(|at| at <= now) && self.queue.is_empty() {
            self.calls = Table::default();
            self.output.unsent.clear();
        } else if let Some(link) = &mut self.link {
            if link.stopping.is_some_and(|since| since.after(HOLD) <= now) {
                link.stopping = None;
                self.give_up_refused();
            } else if link.heard_by() <= now && link.probed.is_some() {
                self.lost(SILENT);
            } else if link.heard_by() <= now {
                link.probed = Some(now);
                let ping = own("ping", object([]));
                link.unsent.extend_from_slice(&ping);
                self.send();
            }
        }
    }

    /// The daemon takes too long to stop for those who wait for the next one.
    fn give_up_refused(&mut self) {
        let mut ids = Vec::new();
        self.calls.retain(|key, call| {
            let refused = call.progress == Progress::Refused;
            if refused {
                ids.push(json::parse(key).unwrap_or_default());
            }
            !refused
        });
        for id in ids {
            self.refuse(&id, STOPPING, "bpm is stopping");
        }
    }
}

impl Link {
    /// The daemon must have said something by then, or is asked whether it is there, or given up.
    fn heard_by(&self) -> Mono {
        match self.probed {
            Some(at) => at.after(UNHEARD),
            None => self.heard.after(QUIET),
        }
    }
}
