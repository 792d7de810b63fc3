//! `subscriptions/listen`: notifications of changed resources, as a task that ends with bpm.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::os::poll::Waker;
use crate::server::mcp;
use crate::server::service::{Answer, Service, Task, Watch};

/// A resource is reported as changed no more often than this.
const UPDATE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Subscription {
    service: Arc<dyn Service>,
    id: Value,
    uris: Vec<String>,
    watched: Vec<Watched>,
    acknowledged: bool,
}

struct Watched {
    uri: String,
    watch: Box<dyn Watch>,
    changed: bool,
    /// It is not reported again before.
    next: Mono,
}

impl Subscription {
    pub(super) fn new(service: Arc<dyn Service>, id: Value, uris: Vec<String>) -> Self {
        Self {
            service,
            id,
            uris,
            watched: Vec::new(),
            acknowledged: false,
        }
    }
}

impl Task for Subscription {
    fn start(&mut self, waker: &Arc<Waker>) {
        for uri in std::mem::take(&mut self.uris) {
            if let Some(watch) = self.service.watch(&uri, waker) {
                self.watched.push(Watched {
                    uri,
                    watch,
                    changed: false,
                    next: Mono::default(),
                });
            }
        }
    }

    fn poll(&mut self, now: Mono, _: usize, out: &mut Vec<Value>) -> Option<Answer> {
        if !self.acknowledged {
            self.acknowledged = true;
            let uris: Vec<&str> = self.watched.iter().map(|w| w.uri.as_str()).collect();
            out.push(mcp::acknowledged(&self.id, &uris));
        }
        for resource in &mut self.watched {
            resource.changed |= resource.watch.changed();
            if resource.changed && resource.next <= now {
                resource.changed = false;
                resource.next = now.after(UPDATE_EVERY);
                out.push(mcp::updated(&self.id, &resource.uri));
            }
        }
        // With nothing to watch it is over.
        let nothing = self.watched.is_empty();
        nothing.then(|| Answer::Text(String::new()))
    }

    fn deadline(&self) -> Option<Mono> {
        let changed = self.watched.iter().filter(|w| w.changed);
        changed.map(|w| w.next).min()
    }
}
