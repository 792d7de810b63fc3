//! A request to the supervisor, and a client that waits for the reply.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Call;
use crate::base::clock::Mono;
use crate::engine::handle::{Handle, Reply, ReplySlot, Request, STOPPING};
use crate::os::poll::Waker;
use crate::server::rpc;
use crate::server::service::{Answer, ClientKind, ORDER};

/// Until the engine has begun, the snapshot says what was before the request: a client without patience waits
/// for that, but not for an engine that hangs.
const BEGINNING: Duration = Duration::from_secs(1);

/// The outcome of a request.
pub(super) enum End {
    Reply(Reply),
    /// The client's time is over; the order goes on.
    Late,
}

/// Parameters of a tool with so much time left, in whole seconds and one at least.
pub(super) fn with_time(params: &Map<String, Value>, left: Duration) -> Map<String, Value> {
    let mut params = params.clone();
    let seconds = left.as_secs().saturating_add(1);
    if let Some(Value::Object(arguments)) = params.get_mut("arguments") {
        arguments.insert("timeout_seconds".into(), seconds.into());
    }
    params
}

/// See the module.
pub(super) struct Ticket {
    pub(super) handle: Arc<Handle>,
    pub(super) patience: Duration,
    pub(super) asked: Mono,
    /// It came by a proxy, which asks the next bpm what this one refuses.
    retried: bool,
    request: Option<Request>,
    slot: Option<ReplySlot>,
}

impl Ticket {
    pub(super) fn new(call: &Call<'_>, request: Request, patience: Duration) -> Self {
        Self {
            handle: Arc::clone(&call.tools.handle),
            patience,
            asked: Mono::now(),
            retried: call.caller.kind == ClientKind::Proxy,
            request: Some(request),
            slot: None,
        }
    }

    pub(super) fn start(&mut self, waker: &Arc<Waker>) {
        let handle = &self.handle;
        // By the beginning of its order no patience ends but one that is shorter than this.
        let at_begin = self.patience < BEGINNING;
        let request = self.request.take();
        self.slot = request.map(|ask| handle.ask(ask, Some(waker), at_begin));
    }

    pub(super) fn poll(&self, now: Mono) -> Option<End> {
        match self.slot.as_ref().and_then(ReplySlot::take) {
            Some(reply) => Some(End::Reply(reply)),
            None if self.handle.is_over() => Some(End::Reply(Reply::Refused(STOPPING.into()))),
            None => (now >= self.due()).then_some(End::Late),
        }
    }

    /// See [`Task::again`](crate::server::service::Task::again).
    pub(super) fn again(
        &self,
        params: &Map<String, Value>,
        now: Mono,
    ) -> Option<Map<String, Value>> {
        let number = self.slot.as_ref()?.number()?;
        let mut params = with_time(params, self.due().since(now));
        params.insert(ORDER.into(), number.into());
        Some(params)
    }

    pub(super) fn due(&self) -> Mono {
        let begun = self.slot.as_ref().is_some_and(ReplySlot::has_begun);
        let least = if begun { Duration::ZERO } else { BEGINNING };
        self.asked.after(self.patience.max(least))
    }

    pub(super) fn refusal(&self, why: String) -> Answer {
        if !self.retried {
            return Answer::Fail(why);
        }
        Answer::Error {
            code: rpc::STOPPING,
            message: why,
            data: None,
        }
    }
}
