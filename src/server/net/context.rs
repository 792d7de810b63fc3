//! The state that requests and calls share: calls, batches, timers, the access policy.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::base::clock::Mono;
use crate::os::inbox::Inbox;
use crate::server::mcp::Mcp;
use crate::server::rpc::{INTERNAL_ERROR, Refusal};
use crate::server::service::{ClientKind, Level, Open, Service};

use super::access::Access;
use super::calls::{Batch, Call};
use super::conn::{Conn, End, Proto};
use super::pool::Pool;
use super::{Message, conn};

/// At most this much of a connection is read at a time; then the others have their turn.
pub(super) const READ_SIZE: usize = 16 << 10;
/// The first token of connections and calls.
const FIRST_TOKEN: u64 = 1 << 16;

pub(super) struct Context {
    pub(super) service: Arc<dyn Service>,
    pub(super) mcp: Mcp,
    pub(super) access: Access,
    pub(super) inbox: Arc<Inbox<Message>>,
    pub(super) calls: HashMap<u64, Call>,
    pub(super) batches: HashMap<u64, Batch>,
    pub(super) pool: Pool,
    pub(super) timers: Timers,
    /// Calls to be polled again without waiting.
    pub(super) again: Vec<u64>,
    /// The order of the call that is asked again after an upgrade.
    pub(super) order: Option<u64>,
    /// New MCP requests are refused: bpm stops.
    pub(super) refusing: bool,
    /// A large buffer was freed: the allocator may return it to the system.
    pub(super) bulk: bool,
    /// The message under construction.
    pub(super) message: Vec<u8>,
    pub(super) scratch: Vec<u8>,
    open: Open,
    last_token: u64,
}

impl Context {
    pub(super) fn new(
        service: Arc<dyn Service>,
        access: Access,
        inbox: Arc<Inbox<Message>>,
    ) -> Self {
        Self {
            mcp: Mcp::new(&service.info(), service.instructions(), &service.tools()),
            service,
            access,
            inbox,
            calls: HashMap::new(),
            batches: HashMap::new(),
            pool: Pool::default(),
            timers: Timers::default(),
            again: Vec::new(),
            order: None,
            refusing: false,
            bulk: false,
            message: Vec::new(),
            scratch: vec![0; READ_SIZE],
            open: Open::default(),
            last_token: FIRST_TOKEN,
        }
    }

    /// A number for a connection or a call. None comes twice, so what arrives late finds nothing.
    pub(super) fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Runs code of the service; a panic in it is one answer's error, never the server's end.
    pub(super) fn guarded<T>(&self, run: impl FnOnce() -> T) -> Result<T, Refusal> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
            self.log_panic(panic.as_ref());
            broken()
        })
    }

    pub(super) fn log_panic(&self, panic: &(dyn std::any::Any + Send)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let text = format!("a request made bpm panic (a bug): {text}");
        self.service.log(Level::Error, &text);
    }

    /// Serves what was read.
    pub(super) fn consume(&mut self, c: &mut Conn, now: Mono) {
        if let Proto::Unknown = c.proto {
            c.proto = match c.input.bytes.first() {
                None => return,
                Some(first) if first.is_ascii_uppercase() => Proto::Http(conn::Http::default()),
                Some(_) => Proto::Lines {
                    at: 0,
                    batches: true,
                },
            };
        }
        match c.proto {
            Proto::Http(_) => self.read_http(c, now),
            Proto::Lines { .. } | Proto::Unknown => self.read_lines(c, now),
        }
    }

    /// Writes, then goes on with what waited for that: messages that were read but not served, and calls that
    /// were not polled.
    pub(super) fn carry_on(&mut self, c: &mut Conn, now: Mono) {
        c.flush(now);
        while c.is_free() && c.end == End::Open && std::mem::take(&mut c.input.stalled) {
            self.consume(c, now);
            c.flush(now);
        }
        if c.pending() == 0 {
            self.again.append(&mut c.parked);
        }
    }

    /// Counts a connection that has asked for something, unless it says that it is no agent's.
    pub(super) fn count(&mut self, c: &mut Conn) {
        let agent = match c.caller.kind {
            ClientKind::Agent | ClientKind::Proxy => true,
            ClientKind::Cli | ClientKind::Tui | ClientKind::Page => false,
        };
        if agent != c.counted {
            c.counted = agent;
            match agent {
                true => self.open.agents += 1,
                false => self.open.agents -= 1,
            }
            self.service.open(self.open);
        }
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, mut c: Box<Conn>) {
        for ticket in std::mem::take(&mut c.calls) {
            self.drop_call(ticket);
        }
        self.timers.disarm(&mut c.watch.timer, Due::Conn(c.token));
        self.open.agents -= usize::from(c.counted);
        self.bulk |= c.input.bytes.capacity() > conn::BULK;
    }

    pub(super) fn set_connections(&mut self, open: usize) {
        self.open.connections = open;
        self.service.open(self.open);
    }
}

pub(super) fn broken() -> Refusal {
    Refusal::new(INTERNAL_ERROR, "Internal error; the daemon's log says more").status(500)
}

/// The owner of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// To accept again, or only to see whether the end has come.
    Accept,
    Conn(u64),
    Call(u64),
}

/// All deadlines. Each owner keeps the time of its timer.
#[derive(Default)]
pub(super) struct Timers(BTreeSet<(Mono, Due)>);

impl Timers {
    /// Makes the timer fire no later than `deadline`. It may fire early, and is armed again then: that costs
    /// less than moving it at each request.
    pub(super) fn arm(&mut self, timer: &mut Option<Mono>, deadline: Option<Mono>, due: Due) {
        let Some(deadline) = deadline else {
            return;
        };
        if timer.is_none_or(|at| deadline < at) {
            self.disarm(timer, due);
            self.at(deadline, due);
            *timer = Some(deadline);
        }
    }

    pub(super) fn disarm(&mut self, timer: &mut Option<Mono>, due: Due) {
        if let Some(at) = timer.take() {
            self.0.remove(&(at, due));
        }
    }

    pub(super) fn at(&mut self, at: Mono, due: Due) {
        self.0.insert((at, due));
    }

    pub(super) fn first(&self) -> Option<Mono> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The next that is due by now.
    pub(super) fn pop(&mut self, now: Mono) -> Option<Due> {
        self.first().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, due)| due)
    }
}
