//! The door: one thread and one epoll for all connections, HTTP on TCP and one JSON message a line on the
//! Unix socket. It serves any [`Service`]; what the verbs do it does not know.
//!
//! Calls that are answered at once are answered inline. Calls that wait are tickets, polled when their waker
//! rings or their deadline is due: a thousand of them are a thousand entries of a map. What takes a while
//! goes to a few workers. Everything is bounded: connections, requests, calls, buffers, threads, and the
//! time that each may take. Nothing is polled for: an idle door does not wake up.

mod access;
mod calls;
mod conn;
mod http;
mod jsonl;
mod pool;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay,
};

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::table::Table;
use crate::os::memory;
use crate::os::net::widen_backlog;
use crate::os::peer::{self, Diag};
use crate::os::poll::{Mailbox, Waker};
use crate::server::mcp::Mcp;
use crate::server::service::{ClientKind, Level, Service};

pub use access::Policy;
use calls::{Batch, Call, Finished};
use conn::{Conn, End, Ends, Place, Proto, Sock};
use pool::Pool;

/// Out of descriptors or memory: accepting pauses for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How much of a connection is read at a time; the others have their turn then.
const READ_SIZE: usize = 64 << 10;
/// Room for so many calls is kept while there are none.
const SPARE: usize = 64;
/// After a message of more bytes free memory is given back.
const BULK: usize = 256 << 10;
/// How many connections may have a large message under way at a time.
const PLACES: usize = 4;
/// How many workers there may be.
const WORKERS: usize = 3;
/// How long the answers in flight may take at the end, at most.
const MAX_GRACE: Duration = Duration::from_secs(10);

/// Tokens of epoll and of wakers below this are not of connections and calls.
const FIRST_TOKEN: u64 = 1 << 16;
/// epoll: the mailbox; listeners follow.
const BELL: u64 = 0;
/// Wakers: a worker is done, an order came.
const WORKER_DONE: u64 = 1;
const ORDER: u64 = 2;

/// What to accept from. They are taken over; the caller keeps duplicates if it needs them after.
#[derive(Debug, Default)]
pub struct Listeners {
    /// HTTP.
    pub tcp: Vec<TcpListener>,
    /// JSON lines, and HTTP for those that speak it.
    pub unix: Option<UnixListener>,
}

/// A door that is open. Dropped, it closes at once.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Orders>,
    waker: Arc<Waker>,
    connections: AtomicUsize,
    agents: AtomicUsize,
}

#[derive(Debug, Default)]
struct Orders {
    policy: Option<Policy>,
    refuse: bool,
    drain: Option<Duration>,
    unix: Option<UnixListener>,
}

impl Shared {
    fn order(&self, give: impl FnOnce(&mut Orders)) {
        give(&mut self.orders());
        self.waker.wake();
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Who may come in, from now on; connections that are open stay.
    pub fn set_policy(&self, policy: Policy) {
        self.shared.order(|orders| orders.policy = Some(policy));
    }

    /// For who may have to open its Unix socket anew.
    pub fn inlet(&self) -> Inlet {
        Inlet {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Open connections of agents and proxies that have asked for something.
    pub fn agents(&self) -> usize {
        self.shared.agents.load(Ordering::Relaxed)
    }

    /// New requests by MCP are answered that bpm is stopping (HTTP 503) from now on; pages and `bpm/...`
    /// methods are still served, and what is in flight goes on.
    pub fn refuse(&self) {
        self.shared.order(|orders| orders.refuse = true);
    }

    /// Refuses, ends subscriptions with their result, and returns when what is in flight is answered and
    /// written, or after `grace` (10 s at most). Everything is closed then.
    pub fn drain(mut self, grace: Duration) {
        self.end(grace);
    }

    fn end(&mut self, grace: Duration) {
        self.shared
            .order(|orders| orders.drain = Some(grace.min(MAX_GRACE)));
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

/// Through this a door that is open gets another socket.
#[derive(Debug)]
pub struct Inlet {
    shared: Arc<Shared>,
}

impl Inlet {
    /// Listens there instead of at the Unix socket of before, whose name is gone. Connections stay.
    pub fn replace_unix(&self, listener: UnixListener) {
        self.shared.order(|orders| orders.unix = Some(listener));
    }
}

/// Opens the door: from now on `service` is served to whom `policy` lets in.
///
/// # Errors
/// No descriptor or no thread to be had.
pub fn start(
    service: Arc<dyn Service>,
    listeners: Listeners,
    policy: Policy,
) -> io::Result<Server> {
    let mailbox = Mailbox::new()?;
    let shared = Arc::new(Shared {
        orders: Mutex::default(),
        waker: mailbox.waker(ORDER),
        connections: AtomicUsize::new(0),
        agents: AtomicUsize::new(0),
    });
    let mut net = Net::new(service, policy, mailbox, Arc::clone(&shared))?;
    net.listen(listeners)?;
    let thread = std::thread::Builder::new().name("net".into());
    let thread = thread.spawn(move || net.run())?;
    Ok(Server {
        shared,
        thread: Some(thread),
    })
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Accept,
    Conn(u64),
    Call(u64),
}

/// All that the thread owns.
struct Net {
    service: Arc<dyn Service>,
    server: Mcp,
    policy: Policy,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    epoll: Epoll,
    listeners: Vec<Listener>,
    /// Connections and calls by token. Tokens are never used twice, so what comes late finds nothing.
    conns: HashMap<u64, Box<Conn>>,
    calls: HashMap<u64, Call>,
    batches: Table<u64, Batch>,
    next: u64,
    timers: BTreeSet<(Mono, Due)>,
    /// Calls to be polled again without waiting.
    again: Vec<u64>,
    /// Subscriptions among the calls.
    listens: usize,
    pool: Pool,
    finished: Arc<Mutex<Vec<Finished>>>,
    done: Arc<Waker>,
    diag: Asked,
    refusing: bool,
    /// When to close whatever is in flight.
    drain: Option<Mono>,
    agents: usize,
    /// Of [`PLACES`], those that are taken.
    places: usize,
    /// Who waits for one of them.
    queue: VecDeque<u64>,
    scratch: Vec<u8>,
    /// There was a large message.
    bulk: bool,
    /// The message under construction.
    message: Vec<u8>,
}

/// The way to ask the kernel who connected.
enum Asked {
    NotYet,
    Open(Diag),
    /// This kernel does not tell.
    Missing,
}

impl Net {
    fn new(
        service: Arc<dyn Service>,
        policy: Policy,
        mailbox: Arc<Mailbox>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let server = Mcp::new(&service.info(), service.instructions(), service.tools());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*mailbox, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        Ok(Self {
            service,
            server,
            policy,
            shared,
            epoll,
            listeners: Vec::new(),
            conns: HashMap::new(),
            calls: HashMap::new(),
            batches: Table::default(),
            next: FIRST_TOKEN,
            timers: BTreeSet::new(),
            again: Vec::new(),
            listens: 0,
            pool: Pool::new(WORKERS),
            finished: Arc::default(),
            done: mailbox.waker(WORKER_DONE),
            mailbox,
            diag: Asked::NotYet,
            refusing: false,
            drain: None,
            agents: 0,
            places: 0,
            queue: VecDeque::new(),
            scratch: vec![0; READ_SIZE],
            bulk: false,
            message: Vec::new(),
        })
    }

    fn listen(&mut self, listeners: Listeners) -> io::Result<()> {
        for tcp in listeners.tcp {
            // Accepted sockets inherit it, which spares a system call each.
            setsockopt(&tcp, TcpNoDelay, &true)?;
            tcp.set_nonblocking(true)?;
            widen_backlog(&tcp)?;
            self.listeners.push(Listener::Tcp(tcp));
        }
        if let Some(unix) = listeners.unix {
            unix.set_nonblocking(true)?;
            widen_backlog(&unix)?;
            self.listeners.push(Listener::Unix(unix));
        }
        self.watch_listeners(EpollFlags::EPOLLIN, true)
    }

    fn watch_listeners(&self, flags: EpollFlags, first: bool) -> io::Result<()> {
        for (i, listener) in self.listeners.iter().enumerate() {
            let mut event = EpollEvent::new(flags, BELL + 1 + i as u64);
            match (listener, first) {
                (Listener::Tcp(l), true) => self.epoll.add(l, event)?,
                (Listener::Unix(l), true) => self.epoll.add(l, event)?,
                (Listener::Tcp(l), false) => self.epoll.modify(l, &mut event)?,
                (Listener::Unix(l), false) => self.epoll.modify(l, &mut event)?,
            }
        }
        Ok(())
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let ready = match self.epoll.wait(&mut events, self.patience()) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(e) => {
                    let text = format!("the door is closed: epoll_wait: {}", reason(&e.into()));
                    self.service.log(Level::Error, &text);
                    return;
                }
            };
            let now = Mono::now();
            let turn = AssertUnwindSafe(|| self.turn(&events[..ready], now));
            if let Err(panic) = catch_unwind(turn) {
                self.log_panic(panic.as_ref());
                self.mend();
            }
            self.slim();
            if self.is_over(now) {
                return;
            }
        }
    }

    fn turn(&mut self, events: &[EpollEvent], now: Mono) {
        let mut woken = Vec::new();
        for event in events {
            match event.data() {
                BELL => self.mailbox.take(&mut woken),
                token if token < FIRST_TOKEN => self.accept(token - BELL - 1, now),
                token => self.on_conn(token, event.events(), now),
            }
        }
        for token in woken {
            match token {
                WORKER_DONE => self.collect(now),
                ORDER => self.obey(now),
                token => self.poll_call(token, now),
            }
        }
        self.on_time(now);
        for token in std::mem::take(&mut self.again) {
            self.poll_call(token, now);
        }
        self.seat(now);
    }

    /// A connection with a large message takes a place, or waits for one, and leaves it once that is
    /// answered. Memory is bounded by this: what all may send at a time would be gigabytes.
    fn place(&mut self, c: &mut Conn) {
        match (c.is_large(), c.place) {
            (true, Place::NoNeed) if self.places < PLACES => {
                self.places += 1;
                c.place = Place::Taken;
            }
            (true, Place::NoNeed) => {
                self.queue.push_back(c.token);
                c.place = Place::Awaited;
            }
            (false, Place::Taken) if c.is_slim() => self.leave(c),
            (false, Place::Awaited) => c.place = Place::NoNeed,
            (_, Place::Taken) | (true, Place::Awaited) | (false, Place::NoNeed) => {}
        }
    }

    fn leave(&mut self, c: &mut Conn) {
        if c.place == Place::Taken {
            self.places -= 1;
        }
        c.place = Place::NoNeed;
    }

    /// Gives the places that are free to those who wait for one, in their order.
    fn seat(&mut self, now: Mono) {
        while self.places < PLACES {
            let Some(token) = self.queue.pop_front() else {
                return;
            };
            let Some(mut c) = self.conns.remove(&token) else {
                continue;
            };
            if c.place == Place::Awaited {
                c.place = Place::Taken;
                self.places += 1;
            }
            self.put_back(c, now);
        }
    }

    /// After a panic: the connection that was in hand is closed already, since it was out of the map. What
    /// belonged to it goes too; events of the others that were not looked at come again, for epoll is
    /// level-triggered, and all other calls are looked at, for their wake-ups may be lost.
    fn mend(&mut self) {
        let here = |call: &Call| self.conns.contains_key(&call.conn());
        let (kept, lost): (Vec<_>, Vec<_>) = self
            .calls
            .keys()
            .partition(|t| self.calls.get(t).is_some_and(here));
        for token in lost {
            self.drop_call(token);
        }
        self.again = kept;
        self.agents = self.conns.values().filter(|c| c.counted).count();
        let seated = self.conns.values().filter(|c| c.place == Place::Taken);
        self.places = seated.count();
        self.tell_agents();
        self.count();
    }

    /// What a burst or a large answer took is given back.
    fn slim(&mut self) {
        self.bulk |= self.message.capacity() > BULK;
        if self.message.capacity() > READ_SIZE {
            self.message = Vec::new();
        }
        if std::mem::take(&mut self.bulk) {
            memory::trim();
        }
        if self.calls.is_empty() && self.calls.capacity() > SPARE {
            self.calls.shrink_to(0);
        }
    }

    /// How long to wait for events: for ever, where nothing is due.
    fn patience(&self) -> EpollTimeout {
        if !self.again.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some((at, _)) = self.timers.first() else {
            return EpollTimeout::NONE;
        };
        // Rounded up: too early would be a wake-up for nothing.
        let wait = at.since(Mono::now()).as_nanos().div_ceil(1_000_000);
        EpollTimeout::try_from(wait.min(3_600_000) as i32).unwrap_or(EpollTimeout::MAX)
    }

    fn on_time(&mut self, now: Mono) {
        while let Some((_, due)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            match due {
                Due::Accept => {
                    // Modifying what was added can't fail.
                    let _ = self.watch_listeners(EpollFlags::EPOLLIN, false);
                }
                Due::Conn(token) => self.conn_due(token, now),
                Due::Call(token) => self.call_due(token, now),
            }
        }
    }

    fn obey(&mut self, now: Mono) {
        self.shared.waker.seen();
        let orders = std::mem::take(&mut *self.shared.orders());
        if let Some(policy) = orders.policy {
            self.policy = policy;
        }
        if let Some(unix) = orders.unix {
            self.replace_unix(unix, now);
        }
        self.refusing |= orders.refuse || orders.drain.is_some();
        if let Some(grace) = orders.drain
            && self.drain.is_none()
        {
            self.drain = Some(now.after(grace));
            self.timers.insert((now.after(grace), Due::Accept));
            self.end_listens(now);
            // Callers that are answered by what has ended meanwhile are to see that.
            self.again.extend(self.calls.keys());
        }
    }

    fn replace_unix(&mut self, unix: UnixListener, now: Mono) {
        let is_unix = |l: &Listener| matches!(l, Listener::Unix(_));
        let Some(at) = self.listeners.iter().position(is_unix) else {
            return;
        };
        // Clients that wait there know of no other.
        self.accept(at as u64, now);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, BELL + 1 + at as u64);
        match self.epoll.add(&unix, event) {
            // The old one, closed, is out of epoll.
            Ok(()) => self.listeners[at] = Listener::Unix(unix),
            Err(e) => {
                let text = format!("no new Unix socket: epoll_ctl: {}", reason(&e.into()));
                self.service.log(Level::Error, &text);
            }
        }
    }

    /// The end has come: nothing is in flight any more but to clients that take nothing of it, or its time
    /// is over.
    fn is_over(&mut self, now: Mono) -> bool {
        let Some(until) = self.drain else {
            return false;
        };
        let taken = |c: &Conn| c.patience().is_none_or(|at| now < at);
        let waited_for = |conn: u64| self.conns.get(&conn).is_some_and(|c| taken(c));
        let busy = self.calls.values().any(|call| waited_for(call.conn()))
            || self.conns.values().any(|c| c.pending() > 0 && taken(c));
        if busy && now < until {
            let next = self.conns.values().filter_map(|c| c.patience());
            if let Some(at) = next.filter(|at| now < *at).min() {
                // Only to be here again at that time.
                self.timers.insert((at, Due::Accept));
            }
            return false;
        }
        self.abandon_calls(now);
        // Whoever asked at the last moment hears that nothing was done, instead of the end of the connection.
        for token in self.conns.keys().copied().collect::<Vec<_>>() {
            self.on_conn(token, EpollFlags::EPOLLIN, now);
        }
        true
    }

    fn accept(&mut self, index: u64, now: Mono) {
        // Bounded, so that a flood of connections does not starve those that are there.
        for _ in 0..64 {
            let accepted = match self.listeners.get(index as usize) {
                Some(Listener::Tcp(l)) => l.accept().and_then(|(s, remote)| {
                    let local = s.local_addr()?;
                    s.set_nonblocking(true)?;
                    if !remote.ip().to_canonical().is_loopback() {
                        notice_silence(&s)?;
                    }
                    Ok((Sock::Tcp(s), Some(Ends { remote, local })))
                }),
                Some(Listener::Unix(l)) => l.accept().and_then(|(s, _)| {
                    s.set_nonblocking(true)?;
                    Ok((Sock::Unix(s), None))
                }),
                None => return,
            };
            match accepted {
                Ok((sock, ends)) => self.admit(sock, ends, now),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
                    ) =>
                {
                    // The connection stays in the backlog, so epoll would ring at once again.
                    let _ = self.watch_listeners(EpollFlags::empty(), false);
                    self.timers.insert((now.after(ACCEPT_PAUSE), Due::Accept));
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
        let room = self.conns.len() < self.policy.max_connections || self.make_room();
        let token = self.token();
        let mut c = Box::new(Conn::new(token, sock, ends, now));
        if !room {
            self.turn_away(&mut c, now);
            return;
        }
        c.interest = c.wanted();
        let event = EpollEvent::new(c.interest, token);
        if self.epoll.add(&c.sock, event).is_err() {
            return;
        }
        self.put_back(c, now);
    }

    /// Closes the connection that is missed least: the oldest of those that have not asked for anything
    /// yet, then the one that has been idle longest.
    fn make_room(&mut self) -> bool {
        let victim = self
            .conns
            .values()
            .filter_map(|c| Some((c.dispensable()?, c.token)))
            .min();
        let Some((_, token)) = victim else {
            return false;
        };
        if let Some(c) = self.conns.remove(&token) {
            self.forget(c);
        }
        true
    }

    fn on_conn(&mut self, token: u64, flags: EpollFlags, now: Mono) {
        let Some(mut c) = self.conns.remove(&token) else {
            return;
        };
        if flags.contains(EpollFlags::EPOLLIN) && c.interest.contains(EpollFlags::EPOLLIN) {
            c.fill(&mut self.scratch);
            self.consume(&mut c, now);
        }
        c.half_closed |= flags.contains(EpollFlags::EPOLLRDHUP);
        if c.half_closed && !c.calls.is_empty() && !self.only_works(&c) {
            // The client of an HTTP request has closed its side. A shell may do so right after the
            // request (`nc -N`) and still read, so a search is finished; what waits or streams is over:
            // that is how it is cancelled.
            c.end = End::Dead;
        }
        if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            c.end = End::Dead;
        }
        self.put_back(c, now);
    }

    /// Looks at what was read.
    fn consume(&mut self, c: &mut Conn, now: Mono) {
        if let Proto::Unknown = c.proto {
            c.proto = match c.rbuf.first() {
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

    /// Writes, and sees to what waited for that: messages that were read but not served, calls that were
    /// not polled. Every way back into the map comes by here, or they would wait for ever.
    fn carry_on(&mut self, c: &mut Conn, now: Mono) {
        c.flush(now);
        while c.pending() == 0 && c.end == End::Open && std::mem::take(&mut c.stalled) {
            self.consume(c, now);
            c.flush(now);
        }
        if c.pending() == 0 {
            self.again.append(&mut c.parked);
        }
    }

    /// Back into the map, or out of the house.
    fn put_back(&mut self, mut c: Box<Conn>, now: Mono) {
        self.carry_on(&mut c, now);
        self.place(&mut c);
        c.settle(now);
        if let End::Lingering(_) = c.end {
            // What comes now is thrown away, and so is what came.
            self.bulk |= c.rbuf.capacity() > BULK;
            c.rbuf = Vec::new();
        }
        if c.end == End::Dead {
            self.forget(c);
            return;
        }
        let wanted = c.wanted();
        if wanted != c.interest {
            c.interest = wanted;
            let mut event = EpollEvent::new(wanted, c.token);
            if self.epoll.modify(&c.sock, &mut event).is_err() {
                self.forget(c);
                return;
            }
        }
        arm(
            &mut self.timers,
            &mut c.timer,
            c.deadline,
            Due::Conn(c.token),
        );
        self.conns.insert(c.token, c);
        self.count();
    }

    fn forget(&mut self, mut c: Box<Conn>) {
        for token in std::mem::take(&mut c.calls) {
            self.drop_call(token);
        }
        if let Some(at) = c.timer {
            self.timers.remove(&(at, Due::Conn(c.token)));
        }
        if c.counted {
            self.agents -= 1;
            self.tell_agents();
        }
        self.leave(&mut c);
        self.bulk |= c.rbuf.capacity() > BULK;
        // Closing the only descriptor takes it out of epoll.
        drop(c);
        self.count();
    }

    fn count(&self) {
        self.shared
            .connections
            .store(self.conns.len(), Ordering::Relaxed);
    }

    /// It has asked for something: counted once it is known as an agent's, and not
    /// any more if it says it is not.
    fn count_agent(&mut self, c: &mut Conn) {
        let agent = match c.caller.kind {
            ClientKind::Agent | ClientKind::Proxy => true,
            ClientKind::Cli | ClientKind::Tui => false,
        };
        if agent != c.counted {
            c.counted = agent;
            self.agents = if agent {
                self.agents + 1
            } else {
                self.agents - 1
            };
            self.tell_agents();
        }
    }

    fn tell_agents(&self) {
        self.shared.agents.store(self.agents, Ordering::Relaxed);
        self.service.clients(self.agents);
    }

    fn conn_due(&mut self, token: u64, now: Mono) {
        let Some(mut c) = self.conns.remove(&token) else {
            return;
        };
        c.timer = None;
        if c.deadline.is_some_and(|at| at <= now) {
            self.overdue(&mut c);
        }
        self.put_back(c, now);
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

/// Sees to it that the timer rings no later than `deadline`. It may ring early: then it is armed anew,
/// which costs less than moving it at each request.
fn arm(
    timers: &mut BTreeSet<(Mono, Due)>,
    timer: &mut Option<Mono>,
    deadline: Option<Mono>,
    due: Due,
) {
    let Some(deadline) = deadline else {
        return;
    };
    if timer.is_some_and(|at| at <= deadline) {
        return;
    }
    if let Some(at) = timer.take() {
        timers.remove(&(at, due));
    }
    timers.insert((deadline, due));
    *timer = Some(deadline);
}
