//! The server: one thread and one epoll instance for all connections, HTTP on TCP and one JSON message a line
//! on the Unix socket. It serves any [`Service`] and does not know what the tools do.
//!
//! Calls that are answered at once are answered inline. Calls that wait are tickets, polled when their waker
//! fires or their deadline is due: a thousand of them are a thousand entries of a map. A few worker threads do
//! what takes a while. Everything is bounded: connections, requests, calls, buffers, threads, and the time
//! that each may take. An idle server does not wake up.

mod access;
mod calls;
mod conn;
mod context;
mod event_loop;
mod handover;
mod http;
mod jsonl;
mod places;
mod pool;
mod subscription;

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::os::inbox::Inbox;
use crate::os::threads;
use crate::server::service::Service;

pub use access::{Policy, UidCheck};
use calls::Finished;
use event_loop::EventLoop;
use handover::Freezing;
pub use handover::{FrozenNet, SavedConn};

/// The longest time that answers in flight get at the end.
const MAX_GRACE: Duration = Duration::from_secs(10);

/// The sockets to accept from. They are taken over; the caller keeps duplicates if it needs them after.
#[derive(Debug, Default)]
pub struct Listeners {
    /// HTTP.
    pub tcp: Vec<TcpListener>,
    /// JSON lines, and HTTP for those that speak it.
    pub unix: Option<UnixListener>,
}

/// Connections that another program of this process has had.
#[derive(Debug, Default)]
pub struct Before {
    pub conns: Vec<(SavedConn, OwnedFd)>,
    /// The connections refer to places in it.
    pub bytes: Vec<u8>,
}

/// A server that runs. Dropped, it closes at once.
#[derive(Debug)]
pub struct Server {
    control: Control,
    thread: Option<JoinHandle<()>>,
}

/// Changes a server that runs.
#[derive(Debug, Clone)]
pub struct Control {
    inbox: Arc<Inbox<Message>>,
}

/// The server's thread stands still while this is there.
#[derive(Debug)]
pub struct Standstill(Arc<Inbox<()>>);

impl Drop for Standstill {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A message to the server's thread.
#[derive(Debug)]
enum Message {
    /// A call is to be polled.
    Wake(u64),
    /// A worker has polled one.
    Finished(Finished),
    Policy(Policy),
    Unix(UnixListener),
    Refuse,
    Freeze(Freezing),
    Drain(Duration),
}

impl Control {
    /// Replaces the access policy; connections that are open stay.
    pub fn set_policy(&self, policy: Policy) {
        self.send(Message::Policy(policy));
    }

    /// Listens there instead of at the Unix socket of before, whose name is gone. Connections stay.
    pub fn replace_unix(&self, listener: UnixListener) {
        self.send(Message::Unix(listener));
    }

    /// From now on new MCP requests are answered that bpm is stopping (HTTP 503); pages and `bpm/...` methods
    /// are still served, and what is in flight goes on.
    pub fn refuse(&self) {
        self.send(Message::Refuse);
    }

    /// Lets the server's thread stand still, and gives what it has open. None: it does not come to that in time.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn freeze(&self) -> io::Result<Option<(FrozenNet, Standstill)>> {
        let (reply, thaw) = (Inbox::new()?, Inbox::new()?);
        self.send(Message::Freeze(Freezing {
            reply: Arc::clone(&reply),
            thaw: Arc::clone(&thaw),
            until: None,
        }));
        let standstill = Standstill(thaw);
        let frozen = reply.wait(handover::SEARCHES * 2);
        Ok(frozen.map(|frozen| (frozen, standstill)))
    }

    fn send(&self, message: Message) {
        // The inbox is never full or closed.
        let _ = self.inbox.send(message);
    }
}

impl Server {
    /// Serves `service` to those that `policy` allows.
    ///
    /// # Errors
    /// No descriptor or no thread is available.
    pub fn start(
        service: Arc<dyn Service>,
        listeners: Listeners,
        policy: Policy,
    ) -> io::Result<Self> {
        Self::go_on(service, listeners, policy, Before::default())
    }

    /// The same with connections that are open already.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn go_on(
        service: Arc<dyn Service>,
        listeners: Listeners,
        policy: Policy,
        before: Before,
    ) -> io::Result<Self> {
        let inbox = Inbox::new()?;
        let control = Control {
            inbox: Arc::clone(&inbox),
        };
        let mut event_loop = EventLoop::new(service, policy, inbox)?;
        event_loop.listen(listeners)?;
        let Before { conns, bytes } = before;
        event_loop.take_up(conns, &bytes);
        let thread = threads::start("net", Box::new(move || event_loop.run()))?;
        Ok(Self {
            control,
            thread: Some(thread),
        })
    }

    /// A handle to change it.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Refuses new requests, ends subscriptions with their result, and returns when what is in flight is
    /// answered and written, or after `grace` (10 s at most). Everything is closed then.
    pub fn drain(mut self, grace: Duration) {
        self.end(grace);
    }

    fn end(&mut self, grace: Duration) {
        let grace = grace.min(MAX_GRACE);
        self.control.send(Message::Drain(grace));
        if let Some(thread) = self.thread.take() {
            // A panic there was logged there.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
