//! Calls: from a request to its answer, at once, by a worker, or as a ticket that waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::json::object;
use crate::base::table::Set;
use crate::os::poll::Waker;
use crate::server::mcp::{self, Envelope, Era, Headers, Verb};
use crate::server::rpc::{
    self, BUSY, INTERNAL_ERROR, INVALID_PARAMS, Message, Refusal, Request, STOPPING,
};
use crate::server::service::{Answer, ClientKind, Level, Service, Step, Task, Watch};

use super::conn::{Conn, Proto};
use super::pool::Job;
use super::{Due, Net, arm};

/// Calls under way on one connection of the Unix socket.
const MAX_CALLS: usize = 2_000;
/// Calls under way in all.
const MAX_ALL_CALLS: usize = 16_384;
/// Answers of one batch together.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// What a task may put out at a time, bytes.
const ROOM: usize = 64 << 10;
/// How often a waiting call says what it is doing.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often a stream of events says that it is alive.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How often a resource may be told to have changed.
const UPDATE_EVERY: Duration = Duration::from_secs(1);
/// A task whose deadline is past, and that does not end when it is polled, is polled again after this.
const PATIENCE: Duration = Duration::from_millis(10);
/// The most values that a completion gives.
const MAX_COMPLETIONS: usize = 100;

/// A call under way.
pub(super) struct Call {
    conn: u64,
    to: Envelope,
    batch: Option<u64>,
    /// The progress token, where the client sent one and can be told.
    token: Option<Value>,
    began: Mono,
    kind: Kind,
    next_progress: Option<Mono>,
    next_keepalive: Option<Mono>,
    timer: Option<Mono>,
}

impl Call {
    /// The connection it came by.
    pub(super) fn conn(&self) -> u64 {
        self.conn
    }
}

enum Kind {
    /// Waits for its waker or its deadline.
    Task {
        task: Box<dyn Task>,
        waker: Arc<Waker>,
    },
    /// A worker polls it; `woken` meanwhile, it is polled again.
    Away { waker: Arc<Waker>, woken: bool },
    /// A worker does it.
    Work,
    /// A subscription.
    Listen {
        watched: Vec<Watched>,
        waker: Arc<Waker>,
    },
}

struct Watched {
    uri: String,
    watch: Box<dyn Watch>,
    changed: bool,
    /// Not told again before.
    next: Mono,
}

/// Answers that go out together.
pub(super) struct Batch {
    parts: Vec<u8>,
    open: usize,
}

/// What a worker brings back.
pub(super) struct Finished {
    call: u64,
    what: Outcome,
}

enum Outcome {
    Answered(Answer),
    Polled {
        task: Box<dyn Task>,
        out: Vec<Value>,
        answer: Option<Answer>,
    },
    Panicked,
}

/// What has come of a request.
enum Next {
    /// The answer is in `Net::message`.
    Written,
    Refused(Refusal),
    Step(Step),
    Listen(Vec<String>),
}

fn broken() -> Refusal {
    Refusal::new(INTERNAL_ERROR, "Internal error; the daemon's log says more").status(500)
}

impl Net {
    /// Runs code of the service; a panic in it is one answer's error, never the door's end.
    pub(super) fn guarded<T>(&self, run: impl FnOnce(&Self) -> T) -> Result<T, Refusal> {
        catch_unwind(AssertUnwindSafe(|| run(self))).map_err(|panic| {
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

    /// Serves one request.
    pub(super) fn request(
        &mut self,
        c: &mut Conn,
        request: Request,
        headers: Option<&Headers<'_>>,
        batch: Option<u64>,
        now: Mono,
    ) {
        let id = request.id.clone();
        let call = match mcp::read(request, headers) {
            Ok(call) => call,
            Err(refusal) => return self.answer_refusal(c, batch, &id, &refusal),
        };
        let own = matches!(call.verb, Verb::Own { .. });
        if self.refusing && !own {
            let refusal = Refusal::new(STOPPING, "bpm is stopping").status(503);
            return self.answer_refusal(c, batch, &id, &refusal);
        }
        c.caller.modern = call.era == Era::Modern;
        let to = Envelope {
            id,
            era: call.era,
            cache: call.verb.cache(),
        };
        let token = call.token.filter(|_| batch.is_none());
        self.message.clear();
        let next = self.ask(c, &to, call.verb, token.as_ref());
        match next {
            Next::Written => self.deliver(c, batch, 200),
            Next::Refused(refusal) => self.answer_refusal(c, batch, &to.id, &refusal),
            Next::Step(Step::Done(answer)) => self.answer(c, batch, &to, answer),
            Next::Step(step) => self.later(c, to, batch, token, step, now),
            Next::Listen(uris) => self.listen_to(c, to, batch, uris, now),
        }
    }

    /// Asks the service.
    fn ask(&mut self, c: &mut Conn, to: &Envelope, verb: Verb, token: Option<&Value>) -> Next {
        let service = Arc::clone(&self.service);
        let asked = catch_unwind(AssertUnwindSafe(|| {
            self.ask_service(&*service, c, to, verb, token)
        }));
        asked.unwrap_or_else(|panic| {
            self.log_panic(panic.as_ref());
            Next::Refused(broken())
        })
    }

    fn ask_service(
        &mut self,
        service: &dyn Service,
        c: &mut Conn,
        to: &Envelope,
        verb: Verb,
        token: Option<&Value>,
    ) -> Next {
        let (server, out) = (&self.server, &mut self.message);
        let step = |step: Option<Step>, unknown: &dyn Fn() -> Refusal| match step {
            Some(step) => Next::Step(step),
            None => Next::Refused(unknown()),
        };
        match verb {
            Verb::Initialize { version } => {
                server.put_initialized(out, to, version);
                self.agreed(c, version);
            }
            Verb::Discover => server.put_discovered(out, to),
            Verb::Nothing => server.put_result(out, to, object([])),
            Verb::Tools => server.put_tools(out, to),
            Verb::Resources => server.put_list(out, to, "resources", service.resources()),
            Verb::Templates => server.put_list(out, to, "resourceTemplates", service.templates()),
            Verb::Prompts => server.put_list(out, to, "prompts", service.prompts()),
            Verb::CallTool { name, args } => {
                return step(call_tool(service, c, &name, &args, token), &|| {
                    Refusal::unknown(INVALID_PARAMS, "Unknown tool", &name)
                });
            }
            Verb::Read { uri } => {
                return step(service.read(&c.caller, &uri), &|| {
                    mcp::no_resource(to.era, &uri)
                });
            }
            Verb::Prompt { name, args } => {
                return step(service.prompt(&c.caller, &name, &args), &|| {
                    Refusal::unknown(INVALID_PARAMS, "Unknown prompt", &name)
                });
            }
            Verb::Complete {
                reference,
                argument,
                value,
            } => {
                let Some(values) = service.complete(&reference, &argument, &value) else {
                    let why = "Unknown reference: no such prompt or template";
                    return Next::Refused(Refusal::new(INVALID_PARAMS, why));
                };
                let total = values.len();
                let values = &values[..total.min(MAX_COMPLETIONS)];
                let more = total > MAX_COMPLETIONS;
                let completion = object([
                    ("values", values.into()),
                    ("total", total.into()),
                    ("hasMore", more.into()),
                ]);
                server.put_result(out, to, object([("completion", completion)]));
            }
            Verb::Listen { uris } => return Next::Listen(uris),
            Verb::Own { method, params } => {
                let hello = method == "bpm/hello";
                if hello {
                    self.greet(c, &params);
                }
                return match service.own(&c.caller, &method, &params) {
                    Some(step) => Next::Step(step),
                    None if hello => Next::Step(Step::Done(Answer::Result(object([])))),
                    None => Next::Refused(Refusal::unknown(
                        rpc::METHOD_NOT_FOUND,
                        "Method not found",
                        &method,
                    )),
                };
            }
        }
        Next::Written
    }

    /// A client of bpm's own says what it is.
    fn greet(&mut self, c: &mut Conn, params: &Value) {
        c.caller.kind = match params.get("client").and_then(Value::as_str) {
            Some("cli") => ClientKind::Cli,
            Some("tui") => ClientKind::Tui,
            Some("proxy") => ClientKind::Proxy,
            _ => ClientKind::Agent,
        };
    }

    /// Appends an answer to `self.message`; the HTTP status that goes with it.
    fn put_answer(&mut self, to: &Envelope, answer: Answer) -> u16 {
        let (server, out) = (&self.server, &mut self.message);
        out.clear();
        match answer {
            Answer::Text(text) => server.put_text(out, to, &text, false),
            Answer::Data { value, text } => server.put_data(out, to, &value, &text),
            Answer::Fail(text) => server.put_text(out, to, &text, true),
            Answer::Result(value) => server.put_result(out, to, value),
            Answer::Error {
                code,
                message,
                data,
            } => {
                rpc::put_error(out, &to.id, code, &message, data.as_ref());
            }
        }
        200
    }

    fn answer(&mut self, c: &mut Conn, batch: Option<u64>, to: &Envelope, answer: Answer) {
        let status = self.put_answer(to, answer);
        self.deliver(c, batch, status);
    }

    pub(super) fn answer_refusal(
        &mut self,
        c: &mut Conn,
        batch: Option<u64>,
        id: &Value,
        refusal: &Refusal,
    ) {
        self.message.clear();
        let Refusal {
            status,
            code,
            message,
            data,
        } = refusal;
        rpc::put_error(&mut self.message, id, *code, message, data.as_ref());
        self.deliver(c, batch, *status);
    }

    /// Sends `self.message` as an answer: to the batch it belongs to, as a line, by HTTP.
    fn deliver(&mut self, c: &mut Conn, batch: Option<u64>, status: u16) {
        match (batch.and_then(|b| self.batches.get_mut(&b)), &c.proto) {
            (Some(batch), _) => {
                if batch.parts.len() > 1 {
                    batch.parts.push(b',');
                }
                batch.parts.extend_from_slice(&self.message);
            }
            (None, Proto::Http(_)) => self.http_deliver(c, status),
            (None, Proto::Lines { .. } | Proto::Unknown) => self.put_line(c),
        }
    }

    /// Serves the messages of a batch side by side; their answers go out together.
    pub(super) fn batch(
        &mut self,
        c: &mut Conn,
        items: Vec<Value>,
        headers: Option<&Headers<'_>>,
        now: Mono,
    ) {
        let key = self.token();
        let batch = Batch {
            parts: b"[".to_vec(),
            open: 1,
        };
        self.batches.insert(key, batch);
        for item in items {
            let full = self
                .batches
                .get(&key)
                .is_some_and(|b| b.parts.len() > MAX_BATCH_BYTES);
            match rpc::message(item) {
                Ok(Message::Request(request)) if full => {
                    let refusal = Refusal::new(BUSY, "the answers of this batch are too large");
                    self.answer_refusal(c, Some(key), &request.id, &refusal);
                }
                Ok(Message::Request(request)) => {
                    self.request(c, request, headers, Some(key), now);
                }
                Ok(Message::Notification { method, params }) if headers.is_none() => {
                    self.notified(c, &method, &params);
                }
                Ok(Message::Notification { .. } | Message::Response) => {}
                Err((id, refusal)) => self.answer_refusal(c, Some(key), &id, &refusal),
            }
        }
        self.leave_batch(c, key);
    }

    /// One less is open in a batch; after the last its answers go out.
    fn leave_batch(&mut self, c: &mut Conn, key: u64) {
        let Some(batch) = self.batches.get_mut(&key) else {
            return;
        };
        batch.open -= 1;
        if batch.open > 0 {
            return;
        }
        let Some(batch) = self.batches.remove(&key) else {
            return;
        };
        if batch.parts.len() > 1 {
            self.message = batch.parts;
            self.message.push(b']');
            self.deliver(c, None, 200);
        } else if let Proto::Http(_) = c.proto {
            self.accepted(c);
        }
    }

    /// A call that is not answered at once.
    fn later(
        &mut self,
        c: &mut Conn,
        to: Envelope,
        batch: Option<u64>,
        token: Option<Value>,
        step: Step,
        now: Mono,
    ) {
        if c.calls.len() >= MAX_CALLS || self.calls.len() >= MAX_ALL_CALLS {
            let text = format!("too many calls under way ({})", c.calls.len());
            return self.answer_refusal(c, batch, &to.id, &Refusal::new(BUSY, text).status(503));
        }
        let ticket = self.token();
        let kind = match step {
            Step::Done(answer) => return self.answer(c, batch, &to, answer),
            Step::Work(work) => {
                let job = self.job(ticket, move || Outcome::Answered(work()));
                if self.pool.submit(job).is_err() {
                    let why = "too many searches under way; try again";
                    let refusal = Refusal::new(BUSY, why).status(503);
                    return self.answer_refusal(c, batch, &to.id, &refusal);
                }
                Kind::Work
            }
            Step::Wait(mut task) => {
                let waker = self.mailbox.waker(ticket);
                if let Err(refusal) = self.guarded(|_| task.start(&waker)) {
                    return self.answer_refusal(c, batch, &to.id, &refusal);
                }
                Kind::Task { task, waker }
            }
        };
        let waits = matches!(kind, Kind::Task { .. });
        let call = Call {
            conn: c.token,
            to,
            batch,
            next_progress: token
                .as_ref()
                .filter(|_| waits)
                .map(|_| now.after(PROGRESS_EVERY)),
            token,
            began: now,
            kind,
            next_keepalive: None,
            timer: None,
        };
        if let Some(batch) = batch.and_then(|b| self.batches.get_mut(&b)) {
            batch.open += 1;
        }
        self.calls.insert(ticket, call);
        c.calls.push(ticket);
        if waits {
            self.look(c, ticket, now);
        }
    }

    /// What a worker does for a call: run, bring back, ring.
    fn job(&self, call: u64, run: impl FnOnce() -> Outcome + Send + 'static) -> Job {
        let (finished, done) = (Arc::clone(&self.finished), Arc::clone(&self.done));
        let service = Arc::clone(&self.service);
        Box::new(move || {
            let what = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
                service.log(Level::Error, "a request made a worker panic (a bug)");
                Outcome::Panicked
            });
            finished
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Finished { call, what });
            done.wake();
        })
    }

    /// What the workers brought back.
    pub(super) fn collect(&mut self, now: Mono) {
        self.done.seen();
        let finished =
            std::mem::take(&mut *self.finished.lock().unwrap_or_else(PoisonError::into_inner));
        for Finished { call: ticket, what } in finished {
            let Some(conn) = self.calls.get(&ticket).map(|call| call.conn) else {
                // Cancelled meanwhile.
                continue;
            };
            let Some(mut c) = self.conns.remove(&conn) else {
                continue;
            };
            match what {
                Outcome::Answered(answer) => self.finish(&mut c, ticket, Ok(answer)),
                Outcome::Panicked => self.finish(&mut c, ticket, Err(broken())),
                Outcome::Polled { task, out, answer } => {
                    self.came_back(&mut c, ticket, task, out, answer, now);
                }
            }
            self.consume(&mut c, now);
            self.put_back(c, now);
        }
    }

    fn came_back(
        &mut self,
        c: &mut Conn,
        ticket: u64,
        task: Box<dyn Task>,
        out: Vec<Value>,
        answer: Option<Answer>,
        now: Mono,
    ) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        if let Kind::Away { waker, woken } = &call.kind {
            if *woken {
                self.again.push(ticket);
            }
            let waker = Arc::clone(waker);
            call.kind = Kind::Task { task, waker };
        }
        self.polled(c, ticket, out, answer, now);
    }

    /// Looks at a call: somebody woke it, or it asked for it.
    pub(super) fn poll_call(&mut self, ticket: u64, now: Mono) {
        let Some(conn) = self.calls.get(&ticket).map(|call| call.conn) else {
            return;
        };
        if let Some(mut c) = self.conns.remove(&conn) {
            self.look(&mut c, ticket, now);
            self.consume(&mut c, now);
            self.put_back(c, now);
        }
    }

    /// Looks at a call of a connection, unless that has something to write first.
    pub(super) fn look(&mut self, c: &mut Conn, ticket: u64, now: Mono) {
        c.flush(now);
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        if let Kind::Away { waker, woken } = &mut call.kind {
            waker.seen();
            *woken = true;
            return;
        }
        if c.pending() > 0 {
            if !c.parked.contains(&ticket) {
                c.parked.push(ticket);
            }
            return;
        }
        match &mut call.kind {
            Kind::Work | Kind::Away { .. } => {}
            Kind::Listen { watched, waker } => {
                waker.seen();
                for resource in watched {
                    resource.changed |= resource.watch.changed();
                }
                self.tell_updates(c, ticket, now);
            }
            Kind::Task { task, waker } => {
                waker.seen();
                if task.heavy() {
                    let waker = Arc::clone(waker);
                    self.send_away(c, ticket, waker, now);
                    return;
                }
                let mut out = Vec::new();
                match catch_unwind(AssertUnwindSafe(|| task.poll(now, ROOM, &mut out))) {
                    Ok(answer) => self.polled(c, ticket, out, answer, now),
                    Err(panic) => {
                        self.log_panic(panic.as_ref());
                        self.finish(c, ticket, Err(broken()));
                    }
                }
            }
        }
    }

    /// A worker polls a task.
    fn send_away(&mut self, c: &mut Conn, ticket: u64, waker: Arc<Waker>, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        let away = Kind::Away {
            waker,
            woken: false,
        };
        let Kind::Task { mut task, .. } = std::mem::replace(&mut call.kind, away) else {
            return;
        };
        let job = self.job(ticket, move || {
            let mut out = Vec::new();
            let answer = task.poll(now, ROOM, &mut out);
            Outcome::Polled { task, out, answer }
        });
        if self.pool.submit(job).is_err() {
            let refusal = Refusal::new(BUSY, "too much is being searched; try again").status(503);
            self.finish(c, ticket, Err(refusal));
        }
    }

    /// A task was polled.
    fn polled(
        &mut self,
        c: &mut Conn,
        ticket: u64,
        out: Vec<Value>,
        answer: Option<Answer>,
        now: Mono,
    ) {
        for notification in &out {
            self.notify(c, ticket, notification, now);
        }
        if let Some(answer) = answer {
            return self.finish(c, ticket, Ok(answer));
        }
        if !out.is_empty() {
            // It may have stopped for want of room, and nobody would wake it for that.
            c.flush(now);
            match c.pending() {
                0 => self.again.push(ticket),
                _ => c.parked.push(ticket),
            }
        }
        self.arm_call(c, ticket, now);
    }

    /// Sends a notification that belongs to a call.
    fn notify(&mut self, c: &mut Conn, ticket: u64, notification: &Value, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        self.message.clear();
        rpc::put(&mut self.message, notification);
        match c.proto {
            // There is no place for it in a list of answers.
            _ if call.batch.is_some() => {}
            Proto::Lines { .. } | Proto::Unknown => self.put_line(c),
            Proto::Http(_) => {
                call.next_keepalive = Some(now.after(KEEPALIVE));
                self.http_event(c);
            }
        }
    }

    /// When a call is to be looked at even if nobody wakes it.
    fn arm_call(&mut self, c: &Conn, ticket: u64, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        let own = match &call.kind {
            // It goes on when what is to be written was.
            _ if c.parked.contains(&ticket) => None,
            Kind::Task { task, .. } => task
                .deadline()
                .map(|at| if at <= now { now.after(PATIENCE) } else { at }),
            Kind::Listen { watched, .. } => {
                watched.iter().filter(|w| w.changed).map(|w| w.next).min()
            }
            Kind::Away { .. } | Kind::Work => None,
        };
        let due = [own, call.next_progress, call.next_keepalive];
        let due = due.into_iter().flatten().min();
        arm(&mut self.timers, &mut call.timer, due, Due::Call(ticket));
    }

    /// The time of a call has come: to be looked at, to say how far it is, to say that it is alive.
    pub(super) fn call_due(&mut self, ticket: u64, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        call.timer = None;
        let Some(mut c) = self.conns.remove(&call.conn) else {
            return;
        };
        if call.next_progress.is_some_and(|at| at <= now) {
            call.next_progress = Some(now.after(PROGRESS_EVERY));
            let said = match &mut call.kind {
                Kind::Task { task, .. } => {
                    catch_unwind(AssertUnwindSafe(|| task.progress(now))).unwrap_or_default()
                }
                Kind::Away { .. } | Kind::Work | Kind::Listen { .. } => None,
            };
            if let (Some(text), Some(token)) = (said, &call.token)
                && c.pending() == 0
            {
                let seconds = now.since(call.began).as_secs();
                let progress = mcp::progress(token, seconds, &text);
                self.notify(&mut c, ticket, &progress, now);
            }
        }
        self.keep_alive(&mut c, ticket, now);
        self.look(&mut c, ticket, now);
        self.arm_call(&c, ticket, now);
        self.consume(&mut c, now);
        self.put_back(c, now);
    }

    fn keep_alive(&mut self, c: &mut Conn, ticket: u64, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        if call.next_keepalive.is_some_and(|at| at <= now) {
            call.next_keepalive = Some(now.after(KEEPALIVE));
            if c.pending() == 0 {
                c.wbuf.extend_from_slice(b": keepalive\n\n");
            }
        }
    }

    /// Ends a call with its answer.
    fn finish(&mut self, c: &mut Conn, ticket: u64, answer: Result<Answer, Refusal>) {
        let Some(call) = self.take_call(ticket) else {
            return;
        };
        c.calls.retain(|t| *t != ticket);
        match answer {
            Ok(answer) => self.answer(c, call.batch, &call.to, answer),
            Err(refusal) => {
                self.answer_refusal(c, call.batch, &call.to.id, &refusal);
            }
        }
        if let Some(batch) = call.batch {
            self.leave_batch(c, batch);
        }
    }

    fn take_call(&mut self, ticket: u64) -> Option<Call> {
        let call = self.calls.remove(&ticket)?;
        if let Some(at) = call.timer {
            self.timers.remove(&(at, Due::Call(ticket)));
        }
        if let Kind::Listen { .. } = call.kind {
            self.listens -= 1;
        }
        Some(call)
    }

    /// The client of a call is gone.
    pub(super) fn drop_call(&mut self, ticket: u64) {
        let call = self.take_call(ticket);
        if let Some(batch) = call.and_then(|call| call.batch) {
            self.batches.remove(&batch);
        }
    }

    /// The client of a call wants no answer any more.
    pub(super) fn cancel(&mut self, c: &mut Conn, id: &Value) {
        let of = |t: &u64| self.calls.get(t).is_some_and(|call| call.to.id == *id);
        let Some(ticket) = c.calls.iter().copied().find(of) else {
            return;
        };
        c.calls.retain(|t| *t != ticket);
        c.parked.retain(|t| *t != ticket);
        if let Some(call) = self.take_call(ticket) {
            let batch = call.batch;
            drop(call);
            if let Some(batch) = batch {
                self.leave_batch(c, batch);
            }
        }
    }

    /// Nothing but searches is under way.
    pub(super) fn only_works(&self, c: &Conn) -> bool {
        c.calls.iter().all(|t| {
            matches!(
                self.calls.get(t),
                Some(Call {
                    kind: Kind::Work,
                    ..
                })
            )
        })
    }

    /// `subscriptions/listen`: watches what there is of it.
    fn listen_to(
        &mut self,
        c: &mut Conn,
        to: Envelope,
        batch: Option<u64>,
        uris: Vec<String>,
        now: Mono,
    ) {
        let most = (self.policy.max_connections / 4 * 3).max(1);
        if batch.is_some() || self.listens >= most || c.calls.len() >= MAX_CALLS {
            let refusal = Refusal::new(INTERNAL_ERROR, "too many subscriptions");
            return self.answer_refusal(c, batch, &to.id, &refusal);
        }
        let ticket = self.token();
        let waker = self.mailbox.waker(ticket);
        let watch = |net: &Self| -> Vec<Watched> {
            uris.into_iter()
                .filter_map(|uri| {
                    let watch = net.service.watch(&uri, &waker)?;
                    Some(Watched {
                        uri,
                        watch,
                        changed: false,
                        next: now,
                    })
                })
                .collect()
        };
        let watched = match self.guarded(watch) {
            Ok(watched) => watched,
            Err(refusal) => return self.answer_refusal(c, batch, &to.id, &refusal),
        };
        let uris: Vec<&str> = watched.iter().map(|w| w.uri.as_str()).collect();
        let acknowledged = mcp::acknowledged(&to.id, &uris);
        let nothing = watched.is_empty();
        let call = Call {
            conn: c.token,
            to,
            batch: None,
            token: None,
            began: now,
            kind: Kind::Listen { watched, waker },
            next_progress: None,
            next_keepalive: None,
            timer: None,
        };
        self.calls.insert(ticket, call);
        self.listens += 1;
        c.calls.push(ticket);
        self.notify(c, ticket, &acknowledged, now);
        if nothing {
            self.end_listen(c, ticket);
        } else {
            self.look(c, ticket, now);
            self.arm_call(c, ticket, now);
        }
    }

    /// Tells what changed, each resource once a second at most.
    fn tell_updates(&mut self, c: &mut Conn, ticket: u64, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        let mut told = Vec::new();
        if let Kind::Listen { watched, .. } = &mut call.kind {
            for resource in watched.iter_mut().filter(|w| w.changed && w.next <= now) {
                resource.changed = false;
                resource.next = now.after(UPDATE_EVERY);
                told.push(mcp::updated(&call.to.id, &resource.uri));
            }
        }
        for update in told {
            self.notify(c, ticket, &update, now);
        }
        self.arm_call(c, ticket, now);
    }

    /// Ends a subscription with its result.
    fn end_listen(&mut self, c: &mut Conn, ticket: u64) {
        let Some(call) = self.take_call(ticket) else {
            return;
        };
        c.calls.retain(|t| *t != ticket);
        self.message.clear();
        self.server.put_listened(&mut self.message, &call.to.id);
        self.deliver(c, None, 200);
    }

    /// Ends all subscriptions: bpm stops.
    pub(super) fn end_listens(&mut self, now: Mono) {
        let listens = self
            .calls
            .iter()
            .filter(|(_, call)| matches!(call.kind, Kind::Listen { .. }));
        let listens: Vec<(u64, u64)> = listens.map(|(t, call)| (*t, call.conn)).collect();
        for (ticket, conn) in listens {
            if let Some(mut c) = self.conns.remove(&conn) {
                self.end_listen(&mut c, ticket);
                self.put_back(c, now);
            }
        }
    }

    /// Answers everything that is still under way that bpm stops.
    pub(super) fn abandon_calls(&mut self, now: Mono) {
        let conns: Set<u64> = self.calls.values().map(|call| call.conn).collect();
        for (conn, ()) in conns {
            let Some(mut c) = self.conns.remove(&conn) else {
                continue;
            };
            for ticket in c.calls.clone() {
                let refusal = Refusal::new(STOPPING, "bpm is stopping").status(503);
                self.finish(&mut c, ticket, Err(refusal));
            }
            self.put_back(c, now);
        }
    }
}

fn call_tool(
    service: &dyn Service,
    c: &Conn,
    name: &str,
    args: &Value,
    token: Option<&Value>,
) -> Option<Step> {
    if args.is_object() {
        return service.call(&c.caller, name, args, token);
    }
    let tools = service.tools().as_array();
    let known = |tool: &Value| tool.get("name").and_then(Value::as_str) == Some(name);
    tools.is_some_and(|tools| tools.iter().any(known)).then(|| {
        Step::Done(Answer::Fail(
            "arguments must be an object: {\"name\": value, ...}".into(),
        ))
    })
}
