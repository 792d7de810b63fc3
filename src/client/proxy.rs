//! `bpm proxy`: MCP on standard input and output, bridged to the daemon's socket.
//!
//! One thread waits in poll(2) for both ends and never blocks in a write: an agent and a daemon that both
//! write large messages would otherwise wait for each other for ever. Connecting takes time, since a daemon
//! may have to be started, or another one to end first. That is done on a thread of its own while requests queue.
//!
//! A client does not notice a restart of the daemon: requests that the old one refused because it was stopping,
//! and those that only read and had no answer yet, are sent to the next one.

mod deadlines;
mod pipes;
mod requests;

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use pipes::{Line, Lines, Output};
use requests::{Asked, Start, asked_again, id_of_result, own, reads, repeatable};

use crate::base::clock::Mono;
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::table::Table;
use crate::client::connection::{Client, is_retried};
use crate::client::offline::{Absence, Offline};
use crate::os::inbox::Inbox;
use crate::os::pidfd::PidFd;
use crate::os::poll::{self, Until};
use crate::os::threads;
use crate::server::rpc::{self, INTERNAL_ERROR, INVALID_REQUEST, Message, Request, STOPPING};

/// The longest message from a client.
const LONGEST: usize = 4 << 20;
/// The longest message from a daemon.
const LONGEST_ANSWER: usize = 64 << 20;
/// Bytes of one read.
const CHUNK: usize = 16 << 10;
/// A connection is waited for so long: clients give up after a minute.
const CONNECT: Duration = Duration::from_secs(50);
/// A request that a stopping daemon refused waits so long for that daemon's end.
const HOLD: Duration = Duration::from_secs(30);
/// A daemon that has said nothing for so long, while requests wait, is asked whether it is there.
const QUIET: Duration = Duration::from_secs(5);
/// It may take so long to answer that.
const UNHEARD: Duration = Duration::from_secs(10);
/// After the end of the input, answers are waited for so long.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Requests that are kept to be sent again, and the longest of them.
const MOST_KEPT: usize = 256;
const LONGEST_KEPT: usize = 16 << 10;
/// How often a request is sent again.
const MOST_TRIES: u8 = 3;

/// The id of requests that the proxy itself makes.
const OWN_ID: &str = "bpm proxy";
const RESTARTED: i64 = -32000;
/// How a connection ends.
const CLOSED: &str = "the daemon was stopped or restarted";
const SILENT: &str = "the daemon does not answer any more";

/// Gives the proxy its connections. All of it may block.
pub trait Connect: Send + Sync {
    /// Connects to the daemon that runs. None: none runs.
    ///
    /// # Errors
    /// There is no project, or its daemon can't be asked or does not answer.
    fn find(&self) -> Result<Option<Client>>;
    /// Connects to the daemon. If none runs, one is started with these processes and what they depend on; without
    /// names, with all that start by themselves.
    ///
    /// # Errors
    /// Why there is none.
    fn start(&self, only: &[String]) -> Result<Client>;
    /// A person stopped the daemon on purpose, and nobody has started it since: what and when.
    fn stopped(&self) -> Option<String>;
    /// The service that answers without a daemon.
    ///
    /// # Errors
    /// No descriptors to be had.
    fn offline(&self) -> Result<Offline>;
    /// The daemon is this very process: its end is the proxy's.
    fn is_this_process(&self) -> bool;
}

/// Bridges until the input ends, or until our parent dies. The exit code.
///
/// # Errors
/// No descriptors or threads to be had; the output can't be written.
pub fn run(connect: Arc<dyn Connect>) -> Result<u8> {
    let cannot = |e| Error::system("bridge", e);
    let parent = parent();
    let mut input = Lines::new(LONGEST);
    let stdin = File::from(duplicate(io::stdin()).map_err(cannot)?);
    let mut proxy = Proxy::new(connect).map_err(cannot)?;
    proxy.dial().map_err(cannot)?;
    while !proxy.is_done() {
        let (reads, answers) = (proxy.reads_input(), proxy.reads_answers());
        let link = proxy.link.as_ref();
        let read = |fd| (fd, Until::Readable);
        let write = |fd| (fd, Until::Writable);
        let wanted = [
            reads.then(|| read(stdin.as_fd())),
            parent.as_ref().map(|fd| read(fd.fd())),
            Some(read(proxy.dialed.as_fd())),
            link.filter(|_| answers).map(|l| read(l.stream.as_fd())),
            link.filter(|l| !l.unsent.is_empty())
                .map(|l| write(l.stream.as_fd())),
            (!proxy.output.is_empty()).then(|| write(proxy.output.file.as_fd())),
        ];
        let fds: Vec<_> = wanted.iter().flatten().copied().collect();
        let left = proxy.deadline().map(|at| at.since(Mono::now()));
        let mut events = poll::wait(&fds, left).map_err(cannot)?.into_iter();
        let [ready, orphaned, dialed, answered, writable, taken] =
            wanted.map(|fd| fd.is_some() && events.next().unwrap_or(false));
        if orphaned {
            break;
        }
        if ready {
            proxy.read_input(&mut input, &stdin);
        }
        if dialed {
            proxy.dialed();
        }
        if answered {
            proxy.read_answers();
        }
        if writable {
            proxy.send();
        }
        if taken && !proxy.flush()? {
            break;
        }
        proxy.check_deadlines();
        proxy.dial().map_err(cannot)?;
    }
    Ok(0)
}

/// A descriptor that becomes readable when our parent ends; None where that is the system's first
/// process, which adopts whoever has lost theirs. A proxy whose input somebody else holds open must not
/// outlive the agent that started it.
fn parent() -> Option<PidFd> {
    let pid = i32::try_from(parent_id()).ok().filter(|pid| *pid > 1)?;
    let watched = PidFd::of_number(pid).ok()?;
    // It may have ended before we looked; then we are another's child by now.
    watched.filter(|_| parent_id().cast_signed() == pid)
}

fn duplicate(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// A request without an answer.
struct Call {
    /// As it was written, where it may be sent again.
    line: Option<Vec<u8>>,
    /// Sending it again does no harm, whether it was executed or not.
    repeatable: bool,
    /// It changes nothing.
    reads: bool,
    progress: Progress,
    tries: u8,
}

#[derive(PartialEq, Eq)]
enum Progress {
    /// It waits for a connection.
    Queued,
    /// The daemon has it.
    Sent,
    /// The daemon did not begin it, since it is stopping.
    Refused,
}

/// A connection to the daemon.
struct Link {
    stream: UnixStream,
    answers: Lines,
    unsent: Vec<u8>,
    /// The daemon said something then, or was asked something after a pause.
    heard: Mono,
    /// It was asked whether it is there.
    probed: Option<Mono>,
    /// Since when it has refused requests because it is stopping.
    stopping: Option<Mono>,
    /// Nothing more is sent.
    shut: bool,
}

struct Proxy {
    connect: Arc<dyn Connect>,
    /// The connection that the other thread has made.
    dialed: Arc<Inbox<Result<Option<Client>>>>,
    /// It is at work.
    dials: bool,
    /// A connection was made, or was tried for.
    tried: bool,
    /// No daemon runs, and what waits needs one that starts this.
    starts: Option<Start>,
    link: Option<Link>,
    output: Output,
    /// The buffer of all reads.
    scratch: Vec<u8>,
    /// Wait for a connection.
    queue: Vec<Asked>,
    /// Subscriptions that wait for somebody to start a daemon.
    parked: Vec<Asked>,
    /// By their ids as JSON.
    calls: Table<String, Call>,
    /// The parameters of `initialize`, and its id: each daemon has to see it before anything else.
    handshake: Option<(String, Value)>,
    /// The input has ended; answers are waited for until then.
    over: Option<Mono>,
    /// We were the daemon, and it ends.
    ended: bool,
}

impl Proxy {
    fn new(connect: Arc<dyn Connect>) -> io::Result<Self> {
        Ok(Self {
            connect,
            dialed: Inbox::new()?,
            dials: false,
            tried: false,
            starts: None,
            parked: Vec::new(),
            link: None,
            output: Output {
                file: duplicate(io::stdout())?.into(),
                unsent: Vec::new(),
            },
            scratch: vec![0; CHUNK],
            queue: Vec::new(),
            calls: Table::default(),
            handshake: None,
            over: None,
            ended: false,
        })
    }

    fn reads_input(&self) -> bool {
        let queued: usize = self.queue.iter().map(|asked| asked.line.len()).sum();
        let unsent = self.link.as_ref().map_or(queued, |link| link.unsent.len());
        self.over.is_none() && unsent <= LONGEST && !self.output.is_full()
    }

    fn reads_answers(&self) -> bool {
        !self.output.is_full()
    }

    /// The input is at its end, and so is what was asked.
    fn is_done(&self) -> bool {
        let parked = self.parked.len();
        let answered = self.calls.len() <= parked || self.ended;
        (self.over.is_some() || self.ended) && answered && self.output.is_empty()
    }

    fn read_input(&mut self, input: &mut Lines, from: &File) {
        let more = input.read(from, &mut self.scratch);
        while let Some(line) = input.next() {
            match line {
                Line::Whole(line) => self.take(line),
                Line::TooLong => {
                    let why = "a message is larger than 4 MiB";
                    self.refuse(&Value::Null, INVALID_REQUEST, why);
                }
            }
        }
        if !more {
            self.over = Some(Mono::now().after(LAST_ANSWERS));
            self.send();
        }
    }

    /// A line of the client.
    fn take(&mut self, line: Vec<u8>) {
        let value = match rpc::parse(line.trim_ascii()) {
            Ok(value) => value,
            Err(refusal) => return self.refuse(&Value::Null, refusal.code, &refusal.message),
        };
        let mut requests = Vec::new();
        let is_batch = value.is_array();
        match value {
            Value::Array(items) => {
                // Its answers come together, so it is not sent again. What is wrong in it the daemon says.
                for item in items {
                    if let Ok(Message::Request(request)) = rpc::message(item) {
                        self.note(&request, None);
                        requests.push(request);
                    }
                }
            }
            one => match rpc::message(one) {
                Ok(Message::Request(request)) => {
                    let kept = line.len() <= LONGEST_KEPT && self.calls.len() < MOST_KEPT;
                    self.note(&request, kept.then(|| line.clone()));
                    requests.push(request);
                }
                Ok(Message::Notification { method, params }) => {
                    if method == "notifications/cancelled"
                        && let Some(id) = params.get("requestId")
                    {
                        self.forget(id);
                    }
                    // Nobody starts a daemon for it.
                    if let Some(link) = &mut self.link {
                        link.unsent.extend_from_slice(&line);
                    }
                    return self.send();
                }
                Ok(Message::Response) => return,
                Err((id, refusal)) => return self.refuse(&id, refusal.code, &refusal.message),
            },
        }
        self.ask(Asked {
            line,
            requests,
            is_batch,
            since: Mono::now(),
            again: false,
        });
    }

    /// Remembers a request until it is answered.
    fn note(&mut self, request: &Request, line: Option<Vec<u8>>) {
        let key = request.id.to_string();
        if request.method == "initialize" {
            let params = Value::Object(request.params.clone());
            self.handshake = Some((key.clone(), params));
        }
        let call = Call {
            line,
            repeatable: repeatable(request),
            reads: reads(request),
            progress: Progress::Queued,
            tries: 0,
        };
        self.calls.insert(key, call);
    }

    /// The client does not wait for that answer any more.
    fn forget(&mut self, id: &Value) {
        self.calls.remove(&id.to_string());
        let is_other = |asked: &Asked| match asked.requests.as_slice() {
            [one] => one.id != *id,
            _ => true,
        };
        self.queue.retain(is_other);
        self.parked.retain(is_other);
    }

    /// Sends a message to the daemon, or queues it until there is one.
    fn ask(&mut self, asked: Asked) {
        match self.link {
            Some(_) => {
                self.hand_over(&asked);
                self.send();
            }
            None => self.queue.push(asked),
        }
    }

    /// Notes a message as sent to the daemon; [`Self::send`] does it.
    fn hand_over(&mut self, asked: &Asked) {
        let waits = self.calls.values().any(|c| c.progress == Progress::Sent);
        let Some(link) = &mut self.link else {
            return;
        };
        if !waits {
            link.heard = Mono::now();
        }
        link.unsent.extend_from_slice(&asked.line);
        for request in &asked.requests {
            if let Some(call) = self.calls.get_mut(&request.id.to_string()) {
                call.progress = Progress::Sent;
            }
        }
    }

    /// Writes to the daemon what it takes. That it is gone is noticed by reading.
    fn send(&mut self) {
        let Some(link) = &mut self.link else {
            return;
        };
        while !link.unsent.is_empty() {
            match (&link.stream).write(&link.unsent) {
                Ok(n) => drop(link.unsent.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => link.unsent.clear(),
            }
        }
        link.unsent.shrink_to(CHUNK);
        if self.over.is_some() && !link.shut {
            // The daemon answers what it has, then closes.
            let _ = link.stream.shutdown(Shutdown::Write);
            link.shut = true;
        }
    }

    /// Connects on a thread of its own, if a connection is needed. A daemon that runs is connected to before anybody
    /// asks; one is started for who needs it alone.
    fn dial(&mut self) -> io::Result<()> {
        let needed = !self.queue.is_empty() || !self.tried;
        if self.dials || self.ended || self.link.is_some() || !needed {
            return Ok(());
        }
        let (connect, dialed) = (Arc::clone(&self.connect), Arc::clone(&self.dialed));
        let starts = std::mem::take(&mut self.starts);
        let work = move || match starts {
            Some(Start::All) => connect.start(&[]).map(Some),
            Some(Start::Only(names)) => connect.start(&names).map(Some),
            None => connect.find(),
        };
        threads::start("connect", Box::new(move || drop(dialed.send(work()))))?;
        self.dials = true;
        Ok(())
    }

    /// The thread that connects has finished.
    fn dialed(&mut self) {
        let Some(result) = self.dialed.pop() else {
            return;
        };
        self.dials = false;
        let first = !std::mem::replace(&mut self.tried, true);
        let linked = result.and_then(|client| {
            let Some(client) = client else {
                return Ok(None);
            };
            let stream = client.into_stream();
            let set = stream.set_nonblocking(true);
            set.map(|()| Some(stream))
                .map_err(|e| Error::system("talk to the daemon", e))
        });
        match linked {
            Ok(Some(stream)) => self.linked(stream),
            Ok(None) => {
                let stopped = self.connect.stopped();
                let absence = stopped.map_or(Absence::NotStarted, Absence::Stopped);
                self.answer_offline(&absence);
            }
            Err(error) => {
                let hint = error.hint().map(|h| format!("; {h}")).unwrap_or_default();
                let why = format!("{error}{hint}");
                if first {
                    // Not the end: each tool answers with it, and tries again.
                    let _ = io::stderr().write_all(format!("bpm: {why}\n").as_bytes());
                }
                self.ended |= self.connect.is_this_process();
                self.answer_offline(&Absence::Failed(why));
            }
        }
    }

    /// Answers what waits for a connection, but for what a daemon is started for.
    fn answer_offline(&mut self, absence: &Absence) {
        let queue = std::mem::take(&mut self.queue);
        if queue.is_empty() {
            return;
        }
        let offline = match self.connect.offline() {
            Ok(offline) => offline,
            Err(error) => {
                self.queue = queue;
                return self.give_up_queue(INTERNAL_ERROR, &error.to_string());
            }
        };
        let stopped = matches!(absence, Absence::Stopped(_));
        let failed = matches!(absence, Absence::Failed(_));
        for asked in queue {
            if !failed && let Some(start) = asked.needs(stopped) {
                self.starts = Some(match self.starts.take() {
                    Some(before) => before.and(start),
                    None => start,
                });
                self.queue.push(asked);
                continue;
            }
            let answers: Vec<Vec<u8>> = asked
                .requests
                .iter()
                .map(|request| offline.answer(request, absence))
                .collect();
            let out = &mut self.output.unsent;
            match asked.is_batch {
                true => {
                    out.push(b'[');
                    out.extend_from_slice(&answers.join(&b','));
                    out.push(b']');
                }
                false => out.extend_from_slice(&answers.concat()),
            }
            out.push(b'\n');
            if asked.is_subscription() {
                self.parked.push(asked);
                continue;
            }
            for request in &asked.requests {
                self.calls.remove(&request.id.to_string());
            }
        }
    }

    /// Says the handshake to a new daemon, whose answer the client has had already, then what waits.
    fn linked(&mut self, stream: UnixStream) {
        let mut link = Link {
            stream,
            answers: Lines::new(LONGEST_ANSWER),
            unsent: Vec::new(),
            heard: Mono::now(),
            probed: None,
            stopping: None,
            shut: false,
        };
        if let Some((key, params)) = &self.handshake
            && !self.calls.has(key)
        {
            link.unsent = own("initialize", params.clone());
        }
        self.link = Some(link);
        self.queue.append(&mut self.parked);
        // All of them before anything is sent: behind the last one the connection may be shut.
        for asked in std::mem::take(&mut self.queue) {
            self.hand_over(&asked);
        }
        self.send();
    }

    fn read_answers(&mut self) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        let more = link.answers.read(&link.stream, &mut self.scratch);
        (link.heard, link.probed) = (Mono::now(), None);
        let mut garbled = false;
        while let Some(line) = link.answers.next() {
            match line {
                Line::Whole(line) => {
                    let refused = self.answered(&line);
                    if refused && link.stopping.is_none() {
                        link.stopping = Some(Mono::now());
                    }
                }
                Line::TooLong => garbled = true,
            }
        }
        match more && !garbled {
            true => {
                self.link = Some(link);
                // Requests that an upgraded daemon could not take over are asked again.
                for asked in std::mem::take(&mut self.queue) {
                    self.ask(asked);
                }
            }
            false => self.lost(CLOSED),
        }
    }

    /// Passes a line of the daemon on. True: it did not begin what it was asked, since it is stopping, and the
    /// client does not hear of that: the next daemon will be asked.
    fn answered(&mut self, line: &[u8]) -> bool {
        if let Some(id) = id_of_result(line)
            && id != OWN_ID
        {
            self.calls.remove(&id.to_string());
            self.output.unsent.extend_from_slice(line);
            return false;
        }
        let answer: Value = serde_json::from_slice(line).unwrap_or_default();
        let answers = match &answer {
            Value::Array(answers) => answers.as_slice(),
            answer => std::slice::from_ref(answer),
        };
        for answer in answers.iter().filter(|a| a["method"].is_null()) {
            if answer["id"] == OWN_ID {
                return false;
            }
            let key = answer["id"].to_string();
            if let Some(call) = self.calls.get_mut(&key)
                && answer["error"]["code"] == STOPPING
                && call.line.is_some()
                && call.tries < MOST_TRIES
                && !self.connect.is_this_process()
            {
                call.progress = Progress::Refused;
                return true;
            }
            if let Some(call) = self.calls.get_mut(&key)
                && is_retried(&answer["error"])
                && call.tries < MOST_TRIES
                && let Some(asked) = call.line.as_deref().and_then(asked_again)
            {
                call.progress = Progress::Queued;
                call.tries += 1;
                self.queue.push(asked);
                return false;
            }
            self.calls.remove(&key);
        }
        self.output.unsent.extend_from_slice(line);
        false
    }

    /// The connection is gone, or the daemon does not answer any more. What it was asked may have been done or
    /// not: where that matters, only the client can decide whether to ask again.
    fn lost(&mut self, why: &str) {
        self.link = None;
        self.ended |= self.connect.is_this_process();
        let again = why == CLOSED && !self.ended && self.over.is_none();
        let mut gone = Vec::new();
        let mut queue = Vec::new();
        self.calls.retain(|key, call| {
            let refused = call.progress == Progress::Refused;
            if call.progress == Progress::Queued {
                return true;
            }
            let id = json::parse(key).unwrap_or_default();
            match &call.line {
                Some(line) if again && call.tries < MOST_TRIES && (refused || call.repeatable) => {
                    call.progress = Progress::Queued;
                    call.tries += 1;
                    queue.extend(asked_again(line));
                    true
                }
                _ => {
                    gone.push((id, call.reads));
                    false
                }
            }
        });
        self.queue.append(&mut queue);
        for (id, reads) in gone {
            let then = match reads {
                true => "; it changes nothing, so call it again",
                false => ": get_status shows how it is now",
            };
            let text = format!("{why}; the request may or may not have been executed{then}");
            self.refuse(&id, RESTARTED, &text);
        }
        if self.ended {
            self.give_up_queue(INTERNAL_ERROR, "bpm is stopping");
        }
    }

    /// No connection for those who wait for one.
    fn give_up_queue(&mut self, code: i64, why: &str) {
        for asked in std::mem::take(&mut self.queue) {
            for request in asked.requests {
                if self.calls.remove(&request.id.to_string()).is_some() {
                    self.refuse(&request.id, code, why);
                }
            }
        }
    }

    /// Answers a request ourselves.
    fn refuse(&mut self, id: &Value, code: i64, message: &str) {
        let out = &mut self.output.unsent;
        rpc::put_error(out, id, code, message, None);
        out.push(b'\n');
    }

    /// Writes to the client. False: nobody reads it any more.
    fn flush(&mut self) -> Result<bool> {
        let was_full = self.output.is_full();
        let before = self.output.unsent.len();
        match self.output.flush() {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(false),
            Err(e) => return Err(Error::system("write to standard output", e)),
        }
        let now = Mono::now();
        if was_full && let Some(link) = &mut self.link {
            // It was not listened to meanwhile.
            link.heard = now;
        }
        // A reader that takes something gets the rest.
        if self.output.unsent.len() < before && self.over.is_some() {
            self.over = Some(now.after(LAST_ANSWERS));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
