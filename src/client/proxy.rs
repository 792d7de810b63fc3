//! `bpm proxy`: MCP on standard input and output, bridged to the daemon's socket.
//!
//! Two threads that block: [`Inward`] takes lines from standard input to the socket, [`Outward`] from the
//! socket to standard output, and alone connects. One thread with blocking writes would hang for ever
//! where both ends write large messages and neither reads. They share what a new connection needs: the
//! handshake to say again, and which requests wait for an answer.
//!
//! A client does not notice that the daemon is restarted: what the old one would not begin any more, and what
//! only reads and had no answer yet, is asked of the new one.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memchr::memmem;
use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::Error;
use crate::base::json::object;
use crate::base::table::Table;
use crate::client::connection::{self, Client, Verdict};
use crate::daemon::{self, Project};
use crate::os::poll::readable;
use crate::os::spawn::{Launch, spawn};
use crate::os::{group, memory, proc, reap};
use crate::server::rpc::{INTERNAL_ERROR, INVALID_REQUEST, STOPPING};
use crate::tools;

/// The longest message that is forwarded.
const LONGEST: usize = 4 << 20;
/// How long a daemon may take to say that it has started.
const LAUNCH: Duration = Duration::from_secs(10);
/// A daemon that was found or started may be stopped before we are connected: so often another one is tried.
const ATTEMPTS: usize = 5;
/// A request that a stopping daemon refused waits so long for its end; clients wait for a minute.
const HOLD: Duration = Duration::from_secs(30);
/// Requests that are kept to be asked again, and the longest of them: together less than a socket takes
/// at once, so that asking them again never blocks.
const MOST_KEPT: usize = 32;
const LONGEST_KEPT: usize = 4 << 10;
/// How often a request is asked again.
const MOST_TRIES: u8 = 3;
/// After the end of the input, answers are waited for so long.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// What of an unfinished line is kept, at the most, between two reads.
const CHUNK: usize = 64 << 10;

/// What we say we are.
const KIND: &str = "proxy";

const RESTARTED: i64 = -32000;
const UNANSWERED: &str = "bpm's daemon does not answer";

/// How the proxy comes by its daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// One that runs, or that is started.
    Any,
    /// We are it: nothing is started, and when it goes we go.
    Ourselves,
}

/// Bridges until the input ends, or until our parent dies. The exit code.
///
/// # Errors
/// No descriptors or threads to be had.
pub fn run(project: &Project, daemon: Daemon) -> crate::base::error::Result<u8> {
    let shared = Arc::new(Shared::default());
    let outward = Outward {
        project: project.clone(),
        shared: Arc::clone(&shared),
        daemon,
    };
    let thread = std::thread::Builder::new().name("outward".into());
    thread
        .spawn(move || outward.run())
        .map_err(|e| Error::system("bridge", e))?;
    let mut inward = Inward {
        shared,
        rest: Vec::new(),
        skipping: false,
    };
    inward.run()?;
    inward.last_answers();
    Ok(0)
}

fn eprint(text: &str) {
    let _ = io::stderr().write_all(format!("bpm: {text}\n").as_bytes());
}

/// What both threads know. No lock is held while one of them blocks.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Where requests go; None: nobody is there at the moment.
    link: Option<Arc<UnixStream>>,
    handshake: Handshake,
    /// Requests that wait for an answer, by their ids as they were written.
    waiting: Table<Vec<u8>, Waiting>,
    /// Since when the daemon has refused some of them because it stops.
    refused: Option<Mono>,
    /// How often a connection was asked for, and how much of that was tried.
    asked: u64,
    tried: u64,
    /// Why nobody was there when it was tried last.
    why: Option<String>,
    /// The input has ended.
    over: bool,
}

/// A request without an answer.
#[derive(Default)]
struct Waiting {
    /// As it was written, where it may be asked again.
    line: Option<Vec<u8>>,
    /// The daemon did not begin it: it stops.
    refused: bool,
    /// The next daemon is asked.
    again: bool,
    tries: u8,
}

/// What a new daemon must hear before anything else.
#[derive(Default, Clone)]
struct Handshake {
    initialize: Option<Said>,
    initialized: Option<Vec<u8>>,
    level: Option<Said>,
}

/// A request that is said again to a new daemon.
#[derive(Clone)]
struct Said {
    id: Vec<u8>,
    line: Vec<u8>,
    answered: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, or until the time is over; `done` at the end.
    fn wait(&self, span: Duration, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let until = Mono::now().after(span);
        let mut state = self.lock();
        loop {
            let left = until.since(Mono::now());
            if done(&state) || left.is_zero() {
                return state;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    /// Asks the other thread for a connection, and waits for what comes of it: else, why there is none.
    fn connection(&self) -> Result<Arc<UnixStream>, String> {
        let mut state = self.lock();
        loop {
            state.asked += 1;
            let asked = state.asked;
            self.changed.notify_all();
            while state.link.is_none() && state.tried < asked {
                state = self.sleep(state);
            }
            match (&state.link, &state.why) {
                (Some(link), _) => return Ok(Arc::clone(link)),
                (None, Some(why)) => return Err(why.clone()),
                // There was one for a moment.
                (None, None) => {}
            }
        }
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard input to socket.
struct Inward {
    shared: Arc<Shared>,
    /// An unfinished line.
    rest: Vec<u8>,
    /// It is the rest of one that is too long.
    skipping: bool,
}

impl Inward {
    fn run(&mut self) -> crate::base::error::Result<()> {
        let parent = parent();
        let mut input = io::stdin().lock();
        loop {
            // Whole buffers are taken below, so nothing that was read already waits behind this poll.
            let fds = [Some(input.as_fd()), parent.as_ref().map(AsFd::as_fd)];
            let [ready, orphaned] =
                readable(fds, None).map_err(|e| Error::system("wait for input", e))?;
            if !ready {
                match orphaned {
                    true => return Ok(()),
                    false => continue,
                }
            }
            let taken = match input.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(bytes) => {
                    self.rest.extend_from_slice(bytes);
                    bytes.len()
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // Like an end: there is nobody to talk to.
                Err(_) => return Ok(()),
            };
            input.consume(taken);
            self.lines(taken);
        }
    }

    /// Forwards the whole lines; `fresh` bytes at the end have not been looked at.
    fn lines(&mut self, fresh: usize) {
        let mut rest = std::mem::take(&mut self.rest);
        let (mut from, mut at) = (0, rest.len() - fresh);
        while let Some(end) = memchr::memchr(b'\n', &rest[at..]) {
            let end = at + end;
            let line = &rest[from..=end];
            if !std::mem::take(&mut self.skipping) && !line.trim_ascii().is_empty() {
                if line.len() > LONGEST {
                    too_long();
                } else {
                    self.forward(line);
                }
            }
            from = end + 1;
            at = from;
        }
        rest.drain(..from);
        if rest.len() > LONGEST {
            if !self.skipping {
                too_long();
            }
            self.skipping = true;
            rest.clear();
        }
        if rest.is_empty() {
            rest.shrink_to(CHUNK);
        }
        self.rest = rest;
    }

    fn forward(&self, line: &[u8]) {
        let heads = heads(line);
        loop {
            let Some(link) = self.link(&heads, line) else {
                return;
            };
            let mut state = self.shared.lock();
            // Noted only where it is sent: when this connection is lost, what is noted is answered.
            if state.link.as_ref().is_some_and(|l| Arc::ptr_eq(l, &link)) {
                for head in &heads {
                    state.note(head, line);
                }
                drop(state);
                // One that fails is noticed by the other thread as well.
                let _ = (&*link).write_all(line);
                return;
            }
        }
    }

    /// The connection. Where there is none, one is made for a request, or that is answered why not; a
    /// notification starts no daemon.
    fn link(&self, heads: &[Head], line: &[u8]) -> Option<Arc<UnixStream>> {
        {
            let mut state = self.shared.lock();
            if let Some(link) = &state.link {
                return Some(Arc::clone(link));
            }
            if !heads.is_empty() && !heads.iter().any(Head::is_request) {
                for head in heads {
                    state.note(head, line);
                }
                return None;
            }
        }
        match self.shared.connection() {
            Ok(link) => Some(link),
            Err(why) => {
                let requests = heads.iter().filter(|h| h.is_request());
                for id in requests.filter_map(|h| h.id.as_deref()) {
                    refuse(id, INTERNAL_ERROR, &why);
                }
                None
            }
        }
    }

    /// The input is at its end: what was asked is answered still, for a while.
    fn last_answers(&self) {
        let link = {
            let mut state = self.shared.lock();
            state.over = true;
            state.link.clone()
        };
        if let Some(link) = link {
            // The daemon answers what it has, then closes.
            let _ = link.shutdown(Shutdown::Write);
            drop(self.shared.wait(LAST_ANSWERS, |s| s.waiting.is_empty()));
        }
    }
}

/// A descriptor that becomes readable when our parent ends; None where that is the system's first
/// process, which adopts whoever has lost theirs. A proxy whose input somebody else holds open must not
/// outlive the agent that started it.
fn parent() -> Option<OwnedFd> {
    let pid = i32::try_from(parent_id()).ok().filter(|pid| *pid > 1)?;
    let watched = group::watch(pid, proc::start_time(pid)?).ok()?;
    // It may have ended before we looked; then we are another's child by now.
    watched.filter(|_| parent_id().cast_signed() == pid)
}

fn too_long() {
    refuse(b"null", INVALID_REQUEST, "a message is larger than 4 MiB");
}

/// Answers a request ourselves.
fn refuse(id: &[u8], code: i64, message: &str) {
    let mut line = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    line.extend_from_slice(id);
    line.extend_from_slice(b",\"error\":");
    line.extend_from_slice(
        object([("code", code.into()), ("message", message.into())])
            .to_string()
            .as_bytes(),
    );
    line.extend_from_slice(b"}\n");
    say(&line);
}

/// Writes whole lines to standard output. That nobody reads them is noticed by the end of the input.
fn say(lines: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(lines).and_then(|()| out.flush());
}

impl State {
    /// Remembers what a request or notification means for later.
    fn note(&mut self, head: &Head, line: &[u8]) {
        let said = |id: &[u8]| Said {
            id: id.to_vec(),
            line: line.to_vec(),
            answered: false,
        };
        match (head.method.as_deref(), &head.id) {
            (Some("initialize"), Some(id)) => self.handshake.initialize = Some(said(id)),
            (Some("logging/setLevel"), Some(id)) => self.handshake.level = Some(said(id)),
            (Some("notifications/initialized"), None) => {
                self.handshake.initialized = Some(line.to_vec());
            }
            // It gets no answer, so nobody waits for one.
            (Some("notifications/cancelled"), None) => {
                if let Some(id) = cancelled(line) {
                    self.waiting.remove(&id);
                }
            }
            (Some(_) | None, _) => {}
        }
        if let (true, Some(id)) = (head.is_request(), &head.id) {
            // Of a batch the answers come together, so it is not asked again.
            let keep = line.len() <= LONGEST_KEPT
                && self.waiting.len() < MOST_KEPT
                && line.trim_ascii_start().starts_with(b"{");
            let waiting = Waiting {
                line: keep.then(|| line.to_vec()),
                ..Waiting::default()
            };
            self.waiting.insert(id.clone(), waiting);
        }
    }

    /// An answer that is not passed on: the daemon stops and did not begin what it was
    /// asked, so the next one is.
    fn holds_back(&mut self, answer: &[u8]) -> bool {
        let head = head(answer);
        let waiting = head.id.and_then(|id| self.waiting.get_mut(&id));
        let Some(waiting) = waiting.filter(|w| w.line.is_some() && w.tries < MOST_TRIES) else {
            return false;
        };
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        waiting.refused = answer["error"]["code"] == STOPPING;
        if waiting.refused {
            self.refused.get_or_insert_with(Mono::now);
        }
        waiting.refused
    }

    /// What is asked again, as it goes over the wire.
    fn asked_again(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        let ids: Vec<Vec<u8>> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.again)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let Some(before) = self.waiting.remove(&id) else {
                continue;
            };
            let line = before.line.unwrap_or_default();
            lines.extend_from_slice(&line);
            self.note(&head(&line), &line);
            if let Some(now) = self.waiting.get_mut(&id) {
                now.tries = before.tries;
            }
        }
        lines
    }

    /// Takes out requests that wait, and gives their ids.
    fn give_up(&mut self, which: &dyn Fn(&Waiting) -> bool) -> Vec<Vec<u8>> {
        let mut ids = Vec::new();
        self.waiting.retain(|id, waiting| {
            let out = which(waiting);
            if out {
                ids.push(id.clone());
            }
            !out
        });
        ids
    }

    /// An answer came: nobody waits for it any more.
    fn answered(&mut self, id: &[u8]) {
        self.waiting.remove(id);
        for said in [&mut self.handshake.initialize, &mut self.handshake.level] {
            if let Some(said) = said.as_mut().filter(|s| s.id == id) {
                said.answered = true;
            }
        }
    }
}

/// Asking it again does no harm.
fn repeatable(line: &[u8]) -> bool {
    let message: Value = serde_json::from_slice(line).unwrap_or_default();
    match message["method"].as_str() {
        Some("tools/call") => {
            let call = &message["params"];
            let name = call["name"].as_str().unwrap_or_default();
            tools::repeatable(name, &call["arguments"])
        }
        // It has begun to answer.
        Some("subscriptions/listen") => false,
        Some(method) => !method.starts_with("bpm/"),
        None => false,
    }
}

fn cancelled(line: &[u8]) -> Option<Vec<u8>> {
    let message: Value = serde_json::from_slice(line).ok()?;
    Some(message["params"]["requestId"].to_string().into_bytes())
}

/// Socket to standard output.
struct Outward {
    project: Project,
    shared: Arc<Shared>,
    daemon: Daemon,
}

impl Outward {
    fn run(&self) {
        // The first connection is made before anybody asks; after that, one is made when it is needed: a
        // daemon that was stopped is not waited for by a thousand proxies that nobody talks to.
        let mut tried = 0;
        loop {
            let reached = self.reach();
            if let (0, Err(why)) = (tried, &reached) {
                // Not the end: each request is answered with it, and the next one tries again.
                eprint(why);
            }
            let (link, asked) = self.publish(reached, tried);
            tried = asked;
            if let Some(link) = link {
                // A hundred proxies that nobody talks to should cost next to nothing.
                if self.daemon == Daemon::Any {
                    memory::trim();
                }
                self.copy(&link);
                self.lost();
            }
            if self.daemon == Daemon::Ourselves {
                let mut state = self.shared.lock();
                state.why = Some("bpm is stopping".into());
                state.tried = u64::MAX;
                drop(state);
                self.shared.changed.notify_all();
                return;
            }
            tried = self.next_order(tried);
        }
    }

    /// Waits until a connection is asked for that was not tried yet, or is needed to ask something again.
    fn next_order(&self, tried: u64) -> u64 {
        let mut state = self.shared.lock();
        while state.asked <= tried && !state.waiting.values().any(|w| w.again) {
            state = self.shared.sleep(state);
        }
        state.asked
    }

    /// Connects to the daemon, to one that is started where there is none, and says the handshake again.
    fn reach(&self) -> Result<Arc<UnixStream>, String> {
        for _ in 0..ATTEMPTS {
            let found = match self.daemon {
                Daemon::Any => launch_if_needed(&self.project).map_err(|e| e.to_string())?,
                Daemon::Ourselves => find(connection::judge(&self.project.dir, KIND)),
            };
            if let Some(link) = found.map(|client| Arc::new(client.into_stream()))
                && self.greet(&link).is_ok()
            {
                return Ok(link);
            }
        }
        Err(UNANSWERED.into())
    }

    /// Asks again what the last daemon left, and lets the other thread use the connection, or know why
    /// there is none. Gives how often one was asked for that this was the answer to.
    fn publish(
        &self,
        reached: Result<Arc<UnixStream>, String>,
        tried: u64,
    ) -> (Option<Arc<UnixStream>>, u64) {
        if let Ok(link) = &reached {
            let lines = self.shared.lock().asked_again();
            // It fits into the socket's buffer, and one that fails is noticed by the next read.
            let _ = (&**link).write_all(&lines);
        }
        let (link, why) = match reached {
            Ok(link) => (Some(link), None),
            Err(why) => (None, Some(why)),
        };
        let (unanswered, tried) = {
            let mut state = self.shared.lock();
            // A connection is one for whoever asked meanwhile, too.
            state.tried = if link.is_some() { state.asked } else { tried };
            if let (Some(link), true) = (&link, state.over) {
                let _ = link.shutdown(Shutdown::Write);
            }
            state.link.clone_from(&link);
            state.why.clone_from(&why);
            (state.give_up(&|w| w.again), state.tried)
        };
        for id in unanswered {
            refuse(&id, INTERNAL_ERROR, why.as_deref().unwrap_or(UNANSWERED));
        }
        self.shared.changed.notify_all();
        (link, tried)
    }

    /// Says the handshake to a new daemon. The client has had its answers and does not get them twice.
    fn greet(&self, link: &UnixStream) -> io::Result<()> {
        let handshake = self.shared.lock().handshake.clone();
        for (request, then) in [
            (handshake.initialize, handshake.initialized),
            (handshake.level, None),
        ] {
            if let Some(said) = request {
                let mut reader = link;
                (&mut &*link).write_all(&said.line)?;
                answer_to(&mut reader, &said.id)?;
            }
            if let Some(line) = then {
                (&mut &*link).write_all(&line)?;
            }
        }
        Ok(())
    }

    /// Copies whole lines until the connection ends.
    fn copy(&self, link: &UnixStream) {
        let mut reader = link;
        let mut buffer: Vec<u8> = Vec::with_capacity(CHUNK / 4);
        let mut seen = 0;
        loop {
            self.await_the_end(link);
            let length = buffer.len();
            buffer.resize(length + CHUNK / 4, 0);
            let got = match reader.read(&mut buffer[length..]) {
                Ok(0) => return,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => 0,
                Err(_) => return,
            };
            buffer.truncate(length + got);
            let Some(end) = memchr::memrchr(b'\n', &buffer[seen..]) else {
                seen = buffer.len();
                continue;
            };
            let end = seen + end + 1;
            self.pass_on(&buffer[..end]);
            buffer.drain(..end);
            buffer.shrink_to(CHUNK);
            seen = buffer.len();
        }
    }

    /// Of a daemon that refuses because it stops the end is waited for, but not for ever.
    fn await_the_end(&self, link: &UnixStream) {
        let Some(since) = self.shared.lock().refused else {
            return;
        };
        let left = since.after(HOLD).since(Mono::now());
        if readable([Some(link.as_fd())], Some(left)).is_ok_and(|[ready]| ready) {
            return;
        }
        let ids = {
            let mut state = self.shared.lock();
            state.refused = None;
            state.give_up(&|w| w.refused)
        };
        for id in ids {
            refuse(&id, STOPPING, "bpm is stopping");
        }
        self.shared.changed.notify_all();
    }

    /// Writes whole lines to the client, but for refusals of what the next daemon is asked.
    fn pass_on(&self, lines: &[u8]) {
        let refusal = format!(":{STOPPING}");
        let kept;
        let mut lines = lines;
        if self.daemon == Daemon::Any && memmem::find(lines, refusal.as_bytes()).is_some() {
            let mut state = self.shared.lock();
            let rest = lines.split_inclusive(|b| *b == b'\n');
            kept = rest
                .filter(|line| !state.holds_back(line))
                .collect::<Vec<_>>()
                .concat();
            lines = &kept;
        }
        say(lines);
        {
            let mut state = self.shared.lock();
            for line in lines.split(|b| *b == b'\n') {
                for head in heads(line) {
                    if let (None, Some(id)) = (&head.method, &head.id) {
                        state.answered(id);
                    }
                }
            }
        }
        self.shared.changed.notify_all();
    }

    /// The daemon is gone. What it was asked may have been done or not: where that matters, only the client
    /// can decide whether to ask again.
    fn lost(&self) {
        let gone = {
            let mut state = self.shared.lock();
            state.link = None;
            state.refused = None;
            let handshake = &mut state.handshake;
            for said in [&mut handshake.initialize, &mut handshake.level] {
                // Without an answer it was no handshake: it is said again by the client, or for it.
                said.take_if(|s| !s.answered);
            }
            let lasts = self.daemon == Daemon::Any && !state.over;
            for waiting in state.waiting.values_mut() {
                let line = waiting
                    .line
                    .as_deref()
                    .filter(|_| waiting.tries < MOST_TRIES);
                waiting.again =
                    lasts && line.is_some_and(|line| waiting.refused || repeatable(line));
                waiting.tries += 1;
            }
            state.give_up(&|w| !w.again)
        };
        for id in gone {
            refuse(
                &id,
                RESTARTED,
                "the daemon was stopped or restarted; the request may or may not have been executed",
            );
        }
        self.shared.changed.notify_all();
    }
}

/// Reads until the answer to this request; what comes before it goes to the client.
fn answer_to(reader: &mut impl Read, id: &[u8]) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        // Byte by byte: what follows the line belongs to `copy`. It happens once per daemon.
        if reader.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        line.push(byte[0]);
        if byte[0] == b'\n' {
            let ours = heads(&line)
                .iter()
                .any(|h| h.method.is_none() && h.id.as_deref() == Some(id));
            if ours {
                return Ok(line);
            }
            say(&line);
            line.clear();
        }
        if line.len() > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

fn find(verdict: crate::base::error::Result<Verdict>) -> Option<Client> {
    match verdict {
        Ok(Verdict::Running(_, client)) => Some(client),
        Ok(Verdict::Unhealthy(_) | Verdict::Stale(_) | Verdict::Stopped) | Err(_) => None,
    }
}

/// Sees to it that a daemon runs, and is connected to it. A bpm of its own is executed for that, since a fork
/// needs a process of one thread. Its words are the error's. None: it was gone before we were connected.
fn launch_if_needed(project: &Project) -> crate::base::error::Result<Option<Client>> {
    if let Verdict::Running(_, client) = daemon::judge_lasting(project, KIND)? {
        return Ok(Some(client));
    }
    let cannot = |why: String| Error::cannot("start the daemon", why);
    let args = ["-d".into(), project.root.clone().into()];
    let exe = "/proc/self/exe".as_ref();
    let spawned = spawn(&Launch {
        argv0: Some("bpm".as_ref()),
        ..Launch::new(exe, &args, &project.env.0, &project.root)
    })
    .map_err(|e| cannot(e.to_string()))?;
    let said = [spawned.stdout, spawned.stderr].map(read_all);
    if let Some(start) = proc::start_time(spawned.pid) {
        let _ = group::wait_gone(spawned.pid, start, LAUNCH);
    }
    match reap::reap(spawned.pid).map(|death| death.end) {
        Some(reap::End::Code(0)) => Ok(find(connection::judge(&project.dir, KIND))),
        _ => {
            let text = said[1].trim().trim_start_matches("bpm: ");
            Err(cannot(if text.is_empty() {
                "it ended without a word".into()
            } else {
                text.into()
            }))
        }
    }
}

/// All that comes until the other end is closed; at most what a person would read.
fn read_all(pipe: OwnedFd) -> String {
    const MOST: usize = 16 << 10;
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    let mut file = std::fs::File::from(pipe);
    while text.len() < MOST && readable([Some(file.as_fd())], Some(LAUNCH)).is_ok_and(|[r]| r) {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What the proxy must know of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Head {
    /// As it was written.
    id: Option<Vec<u8>>,
    method: Option<String>,
}

impl Head {
    fn is_request(&self) -> bool {
        self.id.is_some() && self.method.is_some()
    }
}

/// The heads of a message, or of each message of a batch. Of what is no JSON, none: the daemon says so.
fn heads(line: &[u8]) -> Vec<Head> {
    let line = line.trim_ascii();
    match line.first() {
        Some(b'{') => vec![head(line)],
        Some(b'[') => match serde_json::from_slice(line) {
            Ok(Value::Array(items)) => items
                .iter()
                .map(|m| head(m.to_string().as_bytes()))
                .collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Looks for `id` and `method` among the keys of the outermost object, and no further than needed: an
/// answer of a megabyte, whose id stands at its beginning, is not looked through.
fn head(line: &[u8]) -> Head {
    let mut head = Head::default();
    let mut scan = Scan { line, at: 1 };
    while let Some(key) = scan.key() {
        let Some(value) = scan.value() else { break };
        match key {
            // null is no id that anybody could wait for.
            b"id" if value != b"null" => head.id = Some(value.to_vec()),
            b"method" => head.method = serde_json::from_slice(value).ok(),
            b"result" | b"error" => break,
            _ => {}
        }
        if head.is_request() {
            break;
        }
    }
    head
}

/// Walks over the fields of one JSON object. What is no JSON ends it.
struct Scan<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn skip(&mut self, these: &[u8]) {
        while self.line.get(self.at).is_some_and(|b| these.contains(b)) {
            self.at += 1;
        }
    }

    /// The next key; an escaped one is nobody's that matters. Of `result` and `error` the value need not
    /// be walked over: nothing that matters follows in what bpm writes.
    fn key(&mut self) -> Option<&'a [u8]> {
        self.skip(b" \t\r\n,");
        let key = self.string()?;
        self.skip(b" \t\r\n:");
        Some(&key[1..key.len() - 1])
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let from = self.at;
        if self.line.get(from) != Some(&b'"') {
            return None;
        }
        self.at += 1;
        loop {
            match self.line.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => {
                    self.at += 1;
                    return Some(&self.line[from..self.at]);
                }
                _ => self.at += 1,
            }
        }
    }

    fn value(&mut self) -> Option<&'a [u8]> {
        let from = self.at;
        let mut depth = 0_usize;
        loop {
            match self.line.get(self.at)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' if depth == 0 => break,
                _ => self.at += 1,
            }
            let ended = matches!(self.line.get(self.at - 1), Some(b'"' | b'}' | b']'));
            if depth == 0 && ended {
                break;
            }
        }
        Some(self.line[from..self.at].trim_ascii())
    }
}

#[cfg(test)]
mod tests;
