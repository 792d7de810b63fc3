//! The server's thread: accepts, reads, writes, polls, and closes what is overdue.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay,
};

use crate::base::clock::{Mono, wait_millis};
use crate::base::error::reason;
use crate::os::inbox::Inbox;
use crate::os::memory;
use crate::os::net::widen_backlog;
use crate::os::peer;
use crate::server::service::{Level, Service};

use super::access::Access;
use super::conn::{BULK, Conn, End, Ends, Sock};
use super::context::{Context, Due, READ_SIZE};
use super::handover::Freezing;
use super::places::Places;
use super::{Listeners, Message, Policy};

/// Out of descriptors or memory, accepting pauses for this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// While there are no calls, their map keeps room for no more than this.
const SPARE: usize = 64;

/// epoll's data of the inbox; listeners follow. Connections lie above.
const INBOX: u64 = 0;
const MAX_LISTENERS: u64 = 1 << 16;

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(l) => l.as_fd(),
            Self::Unix(l) => l.as_fd(),
        }
    }
}

impl Listener {
    fn accept(&self) -> io::Result<(Sock, Option<Ends>)> {
        match self {
            Self::Tcp(l) => {
                let (stream, remote) = l.accept()?;
                let local = stream.local_addr()?;
                stream.set_nonblocking(true)?;
                if !remote.ip().to_canonical().is_loopback() {
                    notice_silence(&stream)?;
                }
                Ok((Sock::Tcp(stream), Some(Ends { remote, local })))
            }
            Self::Unix(l) => {
                let (stream, _) = l.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Sock::Unix(stream), None))
            }
        }
    }
}

/// A peer on a network may vanish without a word: the kernel asks, and gives up after 15 s.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &5)?;
    setsockopt(stream, TcpKeepInterval, &5)?;
    setsockopt(stream, TcpKeepCount, &2)?;
    Ok(())
}

pub(super) struct EventLoop {
    pub(super) ctx: Context,
    pub(super) conns: HashMap<u64, Box<Conn>>,
    /// The connection that is being served: after a panic it is closed.
    current: Option<u64>,
    places: Places,
    pub(super) listeners: Vec<Listener>,
    epoll: Epoll,
    /// When to close whatever is in flight.
    drain: Option<Mono>,
    /// It is to stand still.
    pub(super) freezing: Option<Freezing>,
}

impl EventLoop {
    pub(super) fn new(
        service: Arc<dyn Service>,
        policy: Policy,
        inbox: Arc<Inbox<Message>>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*inbox, EpollEvent::new(EpollFlags::EPOLLIN, INBOX))?;
        Ok(Self {
            ctx: Context::new(service, Access::new(policy), inbox),
            conns: HashMap::new(),
            current: None,
            places: Places::default(),
            listeners: Vec::new(),
            epoll,
            drain: None,
            freezing: None,
        })
    }

    pub(super) fn listen(&mut self, listeners: Listeners) -> io::Result<()> {
        for tcp in listeners.tcp {
            // Accepted sockets inherit it, which spares a system call each.
            setsockopt(&tcp, TcpNoDelay, &true)?;
            tcp.set_nonblocking(true)?;
            widen_backlog(&tcp)?;
            self.ctx.access.listens_on(tcp.local_addr()?);
            self.listeners.push(Listener::Tcp(tcp));
        }
        if let Some(unix) = listeners.unix {
            unix.set_nonblocking(true)?;
            widen_backlog(&unix)?;
            self.listeners.push(Listener::Unix(unix));
        }
        for (listener, token) in self.listeners.iter().zip(INBOX + 1..) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
            self.epoll.add(listener, event)?;
        }
        Ok(())
    }

    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(e) => {
                    let text = format!("the server has ended: epoll_wait: {}", reason(&e.into()));
                    self.ctx.service.log(Level::Error, &text);
                    return;
                }
            };
            let now = Mono::now();
            let turn = AssertUnwindSafe(|| self.turn(&events[..ready], now));
            if let Err(panic) = catch_unwind(turn) {
                self.ctx.log_panic(panic.as_ref());
                self.recover();
            }
            self.slim();
            self.stand_still(now);
            if self.is_over(now) {
                return;
            }
        }
    }

    /// How long to wait for events: without end where nothing is due.
    fn timeout(&self) -> EpollTimeout {
        if !self.ctx.again.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(at) = self.ctx.timers.first() else {
            return EpollTimeout::NONE;
        };
        let wait = wait_millis(at.since(Mono::now()));
        EpollTimeout::try_from(wait.min(3_600_000) as i32).unwrap_or(EpollTimeout::MAX)
    }

    fn turn(&mut self, events: &[EpollEvent], now: Mono) {
        let mut messages = Vec::new();
        for event in events {
            match event.data() {
                INBOX => self.ctx.inbox.take(&mut messages),
                token if token < MAX_LISTENERS => self.accept((token - INBOX - 1) as usize, now),
                token => self.on_conn(token, event.events(), now),
            }
        }
        for message in messages {
            self.obey(message, now);
        }
        while let Some(due) = self.ctx.timers.pop(now) {
            match due {
                Due::Accept => self.watch_listeners(EpollFlags::EPOLLIN),
                Due::Conn(token) => self.visit(token, now, |ctx, c| {
                    c.watch.timer = None;
                    if c.watch.deadline.is_some_and(|at| at <= now) {
                        ctx.overdue(c);
                    }
                }),
                Due::Call(ticket) => {
                    if let Some(conn) = self.ctx.conn_of(ticket) {
                        self.visit(conn, now, |ctx, c| ctx.call_due(c, ticket, now));
                    }
                }
            }
        }
        for ticket in std::mem::take(&mut self.ctx.again) {
            self.poll_call(ticket, now);
        }
        while let Some(token) = self.places.next() {
            self.visit(token, now, |_, c| c.leave_queue());
        }
    }

    fn poll_call(&mut self, ticket: u64, now: Mono) {
        if let Some(conn) = self.ctx.conn_of(ticket) {
            self.visit(conn, now, |ctx, c| ctx.poll(c, ticket, now));
        }
    }

    /// Serves one connection, then writes, and decides what it waits for.
    pub(super) fn visit(
        &mut self,
        token: u64,
        now: Mono,
        serve: impl FnOnce(&mut Context, &mut Conn),
    ) {
        if let Some(c) = self.conns.get_mut(&token) {
            self.current = Some(token);
            serve(&mut self.ctx, c);
            if self.settle(token, now) == End::Dead {
                self.close(token);
            }
            self.current = None;
        }
    }

    fn settle(&mut self, token: u64, now: Mono) -> End {
        let Some(c) = self.conns.get_mut(&token) else {
            return End::Open;
        };
        self.ctx.carry_on(c, now);
        self.places.update(c);
        c.settle(now);
        if let End::Lingering(_) = c.end {
            // Input is thrown away from here on.
            self.ctx.bulk |= c.input.bytes.capacity() > BULK;
            c.input.bytes = Vec::new();
        }
        let wanted = c.wanted();
        if c.end != End::Dead && wanted != c.watch.interest {
            c.watch.interest = wanted;
            let mut event = EpollEvent::new(wanted, token);
            if self.epoll.modify(&c.sock, &mut event).is_err() {
                c.end = End::Dead;
            }
        }
        let timers = &mut self.ctx.timers;
        timers.arm(&mut c.watch.timer, c.watch.deadline, Due::Conn(token));
        c.end
    }

    fn close(&mut self, token: u64) {
        if let Some(mut c) = self.conns.remove(&token) {
            self.places.release(&mut c);
            // Closing the only descriptor takes it out of epoll.
            self.ctx.forget(c);
            self.ctx.set_connections(self.conns.len());
        }
    }

    /// After a panic: the connection that was served is closed with its calls. Events of others that were not
    /// handled come again, since epoll is level-triggered; all calls are polled, for their wake-ups may be lost.
    fn recover(&mut self) {
        if let Some(token) = self.current.take() {
            self.close(token);
        }
        self.ctx.again = self.ctx.calls.keys().copied().collect();
    }

    /// Frees what a burst or a large answer took.
    fn slim(&mut self) {
        let ctx = &mut self.ctx;
        ctx.bulk |= ctx.message.capacity() > BULK;
        if ctx.message.capacity() > READ_SIZE {
            ctx.message = Vec::new();
        }
        if std::mem::take(&mut ctx.bulk) {
            memory::trim();
        }
        if ctx.calls.is_empty() && ctx.calls.capacity() > SPARE {
            ctx.calls.shrink_to(0);
        }
    }

    fn obey(&mut self, message: Message, now: Mono) {
        match message {
            Message::Wake(ticket) => self.poll_call(ticket, now),
            Message::Finished(finished) => {
                // None: it was cancelled meanwhile.
                if let Some(conn) = self.ctx.conn_of(finished.ticket) {
                    self.visit(conn, now, |ctx, c| ctx.came_back(c, finished, now));
                }
            }
            Message::Policy(policy) => self.ctx.access.policy = policy,
            Message::Unix(unix) => self.replace_unix(unix, now),
            Message::Refuse => self.ctx.refusing = true,
            Message::Freeze(freezing) => self.freezing = Some(freezing),
            Message::Drain(grace) => self.begin_drain(grace, now),
        }
    }

    fn begin_drain(&mut self, grace: Duration, now: Mono) {
        self.ctx.refusing = true;
        if self.drain.is_none() {
            self.drain = Some(now.after(grace));
            self.ctx.timers.at(now.after(grace), Due::Accept);
            for (ticket, conn) in self.ctx.subscriptions() {
                self.visit(conn, now, |ctx, c| ctx.end_subscription(c, ticket));
            }
            // Callers that can be answered by what has ended meanwhile are answered so.
            self.ctx.again.extend(self.ctx.calls.keys());
        }
    }

    fn replace_unix(&mut self, unix: UnixListener, now: Mono) {
        let is_unix = |l: &Listener| matches!(l, Listener::Unix(_));
        let Some(at) = self.listeners.iter().position(is_unix) else {
            return;
        };
        // Clients that wait at the old one know of no other.
        self.accept(at, now);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, INBOX + 1 + at as u64);
        match self.epoll.add(&unix, event) {
            // The old one, closed, is out of epoll.
            Ok(()) => self.listeners[at] = Listener::Unix(unix),
            Err(e) => {
                let text = format!("no new Unix socket: epoll_ctl: {}", reason(&e.into()));
                self.ctx.service.log(Level::Error, &text);
            }
        }
    }

    /// Whether bpm's end has come: nothing is in flight any more but to clients that take nothing of it, or
    /// the time for that is over.
    fn is_over(&mut self, now: Mono) -> bool {
        let Some(until) = self.drain else {
            return false;
        };
        let takes = |c: &Conn| c.gives_up_at().is_none_or(|at| now < at);
        let mut open = self.conns.values();
        if now < until && open.any(|c| takes(c) && (c.pending() > 0 || !c.calls.is_empty())) {
            let next = self.conns.values().filter_map(|c| c.gives_up_at());
            if let Some(at) = next.filter(|at| now < *at).min() {
                self.ctx.timers.at(at, Due::Accept);
            }
            return false;
        }
        for token in self.conns.keys().copied().collect::<Vec<_>>() {
            self.visit(token, now, |ctx, c| ctx.abandon(c));
            // A request of the last moment is answered that nothing was done.
            self.on_conn(token, EpollFlags::EPOLLIN, now);
        }
        true
    }

    fn watch_listeners(&self, flags: EpollFlags) {
        for (listener, token) in self.listeners.iter().zip(INBOX + 1..) {
            // Modifying what was added can't fail.
            let _ = self
                .epoll
                .modify(listener, &mut EpollEvent::new(flags, token));
        }
    }

    fn accept(&mut self, index: usize, now: Mono) {
        // Bounded, so that a flood of connections does not starve those that are there.
        for _ in 0..64 {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            match listener.accept() {
                Ok((sock, ends)) => self.admit(sock, ends, now),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
                    ) =>
                {
                    // The connection stays in the backlog, so epoll would report it at once again.
                    self.watch_listeners(EpollFlags::empty());
                    self.ctx.timers.at(now.after(ACCEPT_PAUSE), Due::Accept);
                    return;
                }
                // That one connection is gone already (ECONNABORTED, EINTR, a reset before accept).
                Err(_) => {}
            }
        }
    }

    fn admit(&mut self, sock: Sock, ends: Option<Ends>, now: Mono) {
        if let Sock::Unix(stream) = &sock
            && !peer::unix_uid(stream).is_ok_and(peer::is_us)
        {
            return;
        }
        let room =
            self.conns.len() < self.ctx.access.policy.max_connections || self.close_dispensable();
        let token = self.ctx.token();
        let mut c = Box::new(Conn::new(token, sock, ends, now));
        if !room {
            return self.ctx.turn_away(&mut c, now);
        }
        let event = EpollEvent::new(c.watch.interest, token);
        if self.epoll.add(&c.sock, event).is_ok() {
            self.conns.insert(token, c);
            self.ctx.set_connections(self.conns.len());
            self.visit(token, now, |_, _| {});
        }
    }

    /// Takes in a connection of the program before.
    pub(super) fn enter(&mut self, sock: Sock, now: Mono) -> Option<u64> {
        let ends = match &sock {
            Sock::Tcp(tcp) => {
                let (remote, local) = (tcp.peer_addr().ok()?, tcp.local_addr().ok()?);
                Some(Ends { remote, local })
            }
            Sock::Unix(_) => None,
        };
        let token = self.ctx.token();
        let c = Box::new(Conn::new(token, sock, ends, now));
        let event = EpollEvent::new(c.watch.interest, token);
        self.epoll.add(&c.sock, event).ok()?;
        self.conns.insert(token, c);
        self.ctx.set_connections(self.conns.len());
        Some(token)
    }

    /// Closes the connection that is missed least: the oldest of those that have not asked for anything yet,
    /// else the one that has been idle longest. False: all are needed.
    fn close_dispensable(&mut self) -> bool {
        let dispensable = |c: &Conn| Some((c.dispensable()?, c.token));
        match self.conns.values().filter_map(|c| dispensable(c)).min() {
            Some((_, token)) => {
                self.close(token);
                true
            }
            None => false,
        }
    }

    fn on_conn(&mut self, token: u64, flags: EpollFlags, now: Mono) {
        self.visit(token, now, |ctx, c| {
            let reads = EpollFlags::EPOLLIN;
            if flags.contains(reads) && c.watch.interest.contains(reads) {
                c.fill(&mut ctx.scratch);
                ctx.consume(c, now);
            }
            c.input.half_closed |= flags.contains(EpollFlags::EPOLLRDHUP);
            // The client of an HTTP request has closed its side. A shell may do so right after the request
            // (`nc -N`) and still read, so a search is finished; what waits or streams is cancelled that way.
            let cancelled = c.input.half_closed && !c.calls.is_empty() && !ctx.only_searches(c);
            if cancelled || flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                c.end = End::Dead;
            }
        });
    }
}
