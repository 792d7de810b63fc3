//! The connection to a server: made, kept, made again; what is asked over it and what it answers. Nothing here
//! waits.

mod answers;
mod tail;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, Wall};
use crate::base::error::{Error, Failure, Result};
use crate::base::json::{items, object};
use crate::client::connection::{self, CallError};
use crate::client::verdict::{self, Descriptor};
use crate::daemon::Project;
use crate::os::files;
use crate::os::lock::Lock;
use crate::os::terminal::Helper;
use crate::tui::model::{Answer, Ask, Dialect, Link as Shown, Told, View};
use crate::tui::target::{Address, Url};
use crate::tui::wire::{Http, Interest, Lines, Lost, Wire};
use answers::listen;
use tail::Tail;

/// The most that a connection and its hello take.
const HELLO: Duration = Duration::from_secs(2);
/// A server that does not say for this time how it is, is gone.
const SILENCE: Duration = Duration::from_secs(5);
/// How often figures are asked for: a reading of the daemon's is good for as long.
const FIGURES: Duration = Duration::from_secs(1);
/// How often it is looked for further changes, once something has changed.
const LIVELY: Duration = Duration::from_millis(70);
/// And for how long: the server tells of changes once a second at most.
const LIVELY_FOR: Duration = Duration::from_millis(1_100);
/// Tries after the first.
const TRIES: u8 = 5;
/// The revision of MCP that has subscriptions.
const MODERN: &str = "2026-07-28";
/// Seconds that an order waits for its answer.
const PATIENCE: u64 = 600;

/// The server to connect to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// The daemon of a project, which can be started.
    Project(Project),
    /// A Unix socket.
    Unix(PathBuf),
    /// An address.
    Http(Url),
}

/// How it may be reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// A daemon that does not run is not started.
    pub(super) no_start: bool,
    /// For HTTP.
    pub(super) token: Option<String>,
    /// Between two fetches of a log.
    pub(super) pace: Duration,
    /// The program that starts a daemon.
    pub(super) bpm: PathBuf,
}

/// The request that an id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pending {
    Hello,
    Tools,
    Status,
    Fence,
    Load,
    Follow,
    Fetch { index: i64 },
    Listen,
    Ask(Ask),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    wire: Wire,
    /// bpm's own methods are there.
    socket: bool,
    dialect: Dialect,
    pace: Duration,
    last_id: u64,
    pending: Vec<(u64, Pending)>,
}

impl Connection {
    fn new(wire: Wire, pace: Duration) -> Self {
        Self {
            socket: matches!(wire, Wire::Lines(_)),
            wire,
            dialect: Dialect::Bpm,
            pace,
            last_id: 0,
            pending: Vec::new(),
        }
    }

    fn send(&mut self, method: &str, params: Value, what: Pending) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let alone = matches!(what, Pending::Listen | Pending::Ask(_));
        self.wire.send(id, method, params, alone);
        self.pending.push((id, what));
        id
    }

    fn tool(&mut self, name: &str, args: Value, what: Pending) -> u64 {
        self.send(
            "tools/call",
            object([("name", name.into()), ("arguments", args)]),
            what,
        )
    }

    fn cancel(&mut self, id: u64) {
        self.pending.retain(|(known, _)| *known != id);
        self.wire.cancel(id);
    }
}

/// How far it is.
#[derive(Debug)]
enum Phase {
    /// The daemon is being started.
    Starting(Helper),
    /// Nothing is connected; tried again then.
    Waiting(Mono),
    /// Connected, but no answer yet.
    Greeting(Connection, Mono),
    /// As it should be.
    Live(Connection),
    /// It ends here.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    target: Target,
    options: Options,
    phase: Phase,
    /// It has been live before.
    known: bool,
    tries: u8,
    lost: Option<Mono>,
    /// When it was stopped, in milliseconds since 1970, and by what.
    stopped: Option<(i64, Option<String>)>,
    why: String,
    end: Option<Error>,
    tail: Tail,
    poll: Poll,
    listening: Option<u64>,
    told: Vec<Told>,
}

/// When the status is asked for.
#[derive(Debug, Default)]
struct Poll {
    asked: Option<Mono>,
    next: Mono,
    lively: Mono,
    /// Events up to this one are known.
    events: u64,
}

impl Link {
    /// Nothing is connected yet.
    pub(super) fn new(target: Target, options: Options) -> Self {
        Self {
            target,
            options,
            phase: Phase::Waiting(Mono::default()),
            known: false,
            tries: 0,
            lost: None,
            stopped: None,
            why: String::new(),
            end: None,
            tail: Tail::default(),
            poll: Poll::default(),
            listening: None,
            told: Vec::new(),
        }
    }

    /// Why there is no going on, once that is so.
    pub(super) fn take_end(&mut self) -> Option<Error> {
        self.end.take()
    }

    /// Takes the news for the model.
    pub(super) fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// The descriptors to poll.
    pub(super) fn interests(&self) -> Vec<Interest<'_>> {
        let mut all = Vec::new();
        match &self.phase {
            Phase::Starting(helper) => {
                use std::os::fd::AsFd;
                all.push((helper.as_fd(), crate::os::poll::Until::Readable));
            }
            Phase::Greeting(c, _) | Phase::Live(c) => c.wire.interests(&mut all),
            Phase::Waiting(_) | Phase::Over => {}
        }
        all
    }

    /// When something is to be done even if nothing comes.
    pub(super) fn due(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Starting(_) | Phase::Over => None,
            Phase::Waiting(at) | Phase::Greeting(_, at) => Some(*at),
            Phase::Live(_) => {
                let status = match self.poll.asked {
                    Some(asked) => asked.after(SILENCE),
                    None => self.poll.next,
                };
                Some(self.tail.due().map_or(status, |at| at.min(status)))
            }
        }
    }

    /// Does what can be done now.
    pub(super) fn turn(&mut self, now: Mono) {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        self.phase = match phase {
            Phase::Starting(helper) => self.starting(helper, now),
            Phase::Waiting(at) if at <= now => self.connect(now),
            Phase::Greeting(c, until) => self.greeting(c, until, now),
            Phase::Live(c) => self.live(c, now),
            other @ (Phase::Waiting(_) | Phase::Over) => other,
        };
    }

    /// Starts the daemon because the person said so.
    pub(super) fn start(&mut self, now: Mono) {
        if let (Phase::Waiting(_), Target::Project(project)) = (&self.phase, &self.target) {
            let project = project.clone();
            self.phase = self.start_daemon(&project, now);
        }
    }

    /// Reads this log from now on.
    pub(super) fn show(&mut self, view: View, generation: u64, now: Mono) {
        self.tail.show(view, generation);
        if let Phase::Live(c) = &mut self.phase {
            self.tail.begin(c, now);
            if !c.socket {
                listen(c, &mut self.listening, self.tail.process());
            }
        }
    }

    /// Asks for something. Without a connection it comes to nothing.
    pub(super) fn ask(&mut self, ask: Ask) {
        let Phase::Live(c) = &mut self.phase else {
            return;
        };
        let order = |name: &str| {
            object([
                ("process", name.into()),
                ("timeout_seconds", PATIENCE.into()),
            ])
        };
        let what = Pending::Ask(ask.clone());
        match &ask {
            Ask::Status => self.poll.next = Mono::default(),
            Ask::Restart(Some(name)) if c.dialect == Dialect::FourTools => {
                c.tool("restart", object([("process", name.as_str().into())]), what);
            }
            Ask::Restart(name) => {
                c.tool("restart", order(name.as_deref().unwrap_or("*")), what);
            }
            Ask::Start(name) => {
                c.tool("start", order(name), what);
            }
            Ask::Stop(name) => {
                c.tool("stop", order(name), what);
            }
            Ask::Why(name) => {
                let process = object([("process", name.as_str().into())]);
                if c.socket {
                    c.send("bpm/why", process, what);
                } else {
                    let params = object([("name", "diagnose".into()), ("arguments", process)]);
                    c.send("prompts/get", params, what);
                }
            }
            Ask::Faults(name) => {
                let args = object([
                    ("process", name.as_str().into()),
                    ("tail", 5_000.into()),
                    ("max_chars", 50_000.into()),
                ]);
                c.tool("search_build_log", args, what);
            }
            Ask::Reload { dry } => {
                let args = object([("dry_run", (*dry).into())]);
                if c.socket {
                    c.send("bpm/reload", args, what);
                } else {
                    c.tool("reload", args, what);
                }
            }
        }
    }

    fn connect(&mut self, now: Mono) -> Phase {
        let wire = match &self.target {
            Target::Unix(path) => Lines::connect(path)
                .map(Wire::Lines)
                .map_err(|e| Error::system("connect", e)),
            Target::Http(url) => Http::new(url, self.options.token.as_deref())
                .map(Wire::Http)
                .map_err(|e| Error::system("connect", e)),
            Target::Project(project) => {
                let project = project.clone();
                match self.reach_project(&project, now) {
                    Ok(wire) => Ok(Wire::Lines(wire)),
                    Err(phase) => return *phase,
                }
            }
        };
        match wire {
            Ok(wire) => self.greet(wire, now),
            Err(error) => {
                let text = error.to_string();
                let why = text.strip_prefix("cannot connect: ").unwrap_or(&text);
                self.again(why.into(), now)
            }
        }
    }

    /// The daemon's socket; Err: what else is to be done.
    fn reach_project(
        &mut self,
        project: &Project,
        now: Mono,
    ) -> std::result::Result<Lines, Box<Phase>> {
        let descriptor = Descriptor::read(&project.dir.descriptor());
        if let Some(descriptor) = &descriptor {
            match Lines::connect(&descriptor.socket) {
                Ok(lines) => {
                    return match descriptor.speaks() {
                        Ok(()) => Ok(lines),
                        Err(error) => Err(Box::new(self.too_old(&error))),
                    };
                }
                // It says nothing about the daemon: nothing is started beside it.
                Err(e) if connection::is_own_fault(&e) => {
                    let why = connection::own_fault(&e);
                    return Err(Box::new(self.over(Failure::CannotAsk { why }.into())));
                }
                Err(_) => {}
            }
        }
        match Lock::probe(&project.dir.lock()) {
            Ok(true) => Err(Box::new(self.again("no answer within 2 s".into(), now))),
            Ok(false) if self.known => {
                // The descriptor is removed at each end but a violent one.
                let orderly = descriptor.is_none() && self.stopped.is_none();
                self.stopped = stopped_by(project)
                    .or(self.stopped.take())
                    .or_else(|| orderly.then(|| (Wall::now().0, None)));
                Err(Box::new(self.again("no daemon runs".into(), now)))
            }
            Ok(false) if self.options.no_start => {
                let what = format!("reach the daemon of {}", project.name());
                Err(Box::new(
                    self.over(
                        Failure::NoDaemon {
                            what,
                            project: project.name(),
                            hint: None,
                        }
                        .into(),
                    ),
                ))
            }
            Ok(false) => match stopped_by(project) {
                // It is shown, and not started by itself.
                Some(stopped) => {
                    self.stopped = Some(stopped);
                    Err(Box::new(self.again("no daemon runs".into(), now)))
                }
                None => Err(Box::new(self.start_daemon(project, now))),
            },
            Err(e) => {
                let error = Error::file("look at", &project.dir.lock(), e);
                Err(Box::new(self.over(error)))
            }
        }
    }

    fn start_daemon(&mut self, project: &Project, now: Mono) -> Phase {
        let root = project.root.as_os_str();
        let args: [&OsStr; 2] = ["-d".as_ref(), root];
        match Helper::start(&self.options.bpm, &args) {
            Ok(helper) => {
                self.told.push(Told::Link(Shown::Starting));
                Phase::Starting(helper)
            }
            Err(e) => {
                let error = Error::file("run", &self.options.bpm, e)
                    .with_hint("bpm starts the daemon: it must be beside bpm-tui or in PATH");
                self.not_started(error, now)
            }
        }
    }

    fn starting(&mut self, mut helper: Helper, now: Mono) -> Phase {
        match helper.ended() {
            None => Phase::Starting(helper),
            Some((true, _)) => self.connect_after_start(now),
            Some((false, said)) => {
                let mut lines = said.lines();
                let first = lines.next().unwrap_or("bpm -d failed");
                let first = first.strip_prefix("bpm: ").unwrap_or(first);
                let (what, why) = match first
                    .strip_prefix("cannot ")
                    .and_then(|l| l.split_once(": "))
                {
                    Some((what, why)) => (what.to_owned(), why.to_owned()),
                    None => ("start the daemon".to_owned(), first.to_owned()),
                };
                let error = Error::cannot(what, why);
                let error = match lines.find_map(|line| line.strip_prefix("hint: ")) {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                };
                self.not_started(error, now)
            }
        }
    }

    fn connect_after_start(&mut self, now: Mono) -> Phase {
        self.stopped = None;
        // It serves: should it be gone again already, nothing starts it a second time.
        self.options.no_start = true;
        self.connect(now)
    }

    /// At first that is the end; later the person sees why.
    fn not_started(&mut self, error: Error, now: Mono) -> Phase {
        if !self.known {
            return self.over(error);
        }
        self.told.push(Told::Answer(Answer {
            ask: Ask::Reload { dry: false },
            text: error.to_string(),
            data: Value::Null,
            failed: true,
        }));
        self.again("no daemon runs".into(), now)
    }

    fn over(&mut self, error: Error) -> Phase {
        self.end = Some(error);
        Phase::Over
    }

    fn too_old(&mut self, error: &Error) -> Phase {
        self.told.push(Told::Link(Shown::TooOld(error.to_string())));
        Phase::Over
    }

    /// No connection this time.
    fn again(&mut self, why: String, now: Mono) -> Phase {
        self.why = why;
        self.tries = self.tries.saturating_add(1);
        if !self.known && self.stopped.is_none() && self.tries > TRIES {
            let error = self.unreachable();
            return self.over(error);
        }
        let wait =
            Duration::from_millis(100) * 2_u32.saturating_pow(u32::from(self.tries.min(7)) - 1);
        let at = now.after(wait.min(Duration::from_secs(5)));
        self.told
            .push(Told::Link(match (&self.stopped, self.known) {
                // By what it was stopped matters to a person who comes later.
                (Some((at, by)), known) => Shown::Stopped {
                    at: *at,
                    by: by.clone().filter(|_| !known),
                },
                (None, false) => Shown::Trying(self.tries),
                (None, true) => Shown::Gone {
                    since: *self.lost.get_or_insert(now),
                    again: at,
                },
            }));
        Phase::Waiting(at)
    }

    fn unreachable(&self) -> Error {
        let (what, hint) = match &self.target {
            Target::Project(project) => (
                format!("reach the daemon of {}", project.name()),
                "bpm daemon status; bpm daemon logs".to_owned(),
            ),
            Target::Unix(path) => (
                format!("reach {}", path.display()),
                "is that the socket of a daemon? bpm ps, bpm daemon status".into(),
            ),
            Target::Http(url) => (
                format!("reach http://{}{}", url.authority(), url.path),
                "give another URL, or -C DIR for a project's daemon".into(),
            ),
        };
        let why = format!("{} ({TRIES} tries)", self.why);
        Error::cannot(what, why).with_hint(hint)
    }

    fn greet(&mut self, wire: Wire, now: Mono) -> Phase {
        let mut c = Connection::new(wire, self.options.pace);
        if c.socket {
            c.send("bpm/hello", connection::hello("tui"), Pending::Hello);
        } else {
            c.send("tools/list", object([]), Pending::Tools);
        }
        self.greeting(c, now.after(HELLO), now)
    }

    fn greeting(&mut self, mut c: Connection, until: Mono, now: Mono) -> Phase {
        let mut messages = Vec::new();
        if let Err(lost) = c.wire.turn(&mut messages) {
            return match lost {
                Lost::NeedsToken => {
                    let Target::Http(url) = &self.target else {
                        return self.again("needs a token".into(), now);
                    };
                    let what = format!("reach http://{}{}", url.authority(), url.path);
                    let hint = "--token-file FILE, or BPM_TOKEN_FILE";
                    let error =
                        Error::cannot(what, "needs a token: --token-file FILE").with_hint(hint);
                    self.over(error)
                }
                Lost::Why(why) => self.again(why, now),
            };
        }
        for message in messages {
            let id = message["id"].as_u64();
            let Some(at) = c.pending.iter().position(|(known, _)| Some(*known) == id) else {
                continue;
            };
            let (id, what) = c.pending.remove(at);
            let result = match connection::result_of(&message, id) {
                Some(Ok(result)) => result,
                Some(Err(CallError::Refused { message, .. })) => return self.again(message, now),
                Some(Err(_)) | None => continue,
            };
            if what == Pending::Hello {
                if let Err(error) = speaks(&result) {
                    return self.too_old(&error);
                }
            } else if what == Pending::Tools {
                let has = |name: &str| items(&result["tools"]).any(|tool| tool["name"] == name);
                if !has("get_status") || !has("search_logs") {
                    return self.again("it is no process manager".into(), now);
                }
                if !has("start") || !has("wait") {
                    c.dialect = Dialect::FourTools;
                }
            }
            return self.greeted(c, now);
        }
        match until <= now {
            true => self.again("no answer within 2 s".into(), now),
            false => Phase::Greeting(c, until),
        }
    }

    fn greeted(&mut self, mut c: Connection, now: Mono) -> Phase {
        self.known = true;
        (self.tries, self.lost, self.stopped) = (0, None, None);
        self.told.push(Told::Server(c.dialect, None));
        self.told.push(Told::Link(Shown::Live));
        self.poll.asked = None;
        self.poll.next = now;
        self.listening = None;
        self.tail.reconnected();
        self.ask_status(&mut c, now);
        self.tail.begin(&mut c, now);
        listen(&mut c, &mut self.listening, self.tail.process());
        self.live(c, now)
    }

    fn ask_status(&mut self, c: &mut Connection, now: Mono) {
        let mut since = object([("events_since", self.poll.events.into())]);
        if !c.socket {
            since["verbose"] = true.into();
        }
        match (c.socket, c.dialect) {
            (true, _) => c.send("bpm/status", since, Pending::Status),
            (false, Dialect::Bpm) => c.tool("get_status", since, Pending::Status),
            (false, Dialect::FourTools) => c.tool("get_status", object([]), Pending::Status),
        };
        self.poll.asked = Some(now);
    }

    fn live(&mut self, mut c: Connection, now: Mono) -> Phase {
        let mut messages = Vec::new();
        let turned = c.wire.turn(&mut messages);
        for message in messages {
            self.message(&mut c, &message, now);
        }
        let lost = match turned {
            Err(Lost::Why(why)) => Some(why),
            Err(Lost::NeedsToken) => Some("needs a token: --token-file FILE".into()),
            Ok(()) => {
                let silent = |asked: Mono| now.since(asked) >= SILENCE;
                self.poll
                    .asked
                    .is_some_and(silent)
                    .then(|| "no answer within 5 s".into())
            }
        };
        if let Some(why) = lost {
            self.lost = Some(now);
            // The first try is soon, not at once: an end takes a moment.
            return self.again(why, now);
        }
        if self.poll.asked.is_none() && self.poll.next <= now {
            self.ask_status(&mut c, now);
        }
        self.tail.turn(&mut c, now);
        // New requests go out now, not with the next event.
        let mut more = Vec::new();
        if let Err(Lost::Why(why)) = c.wire.turn(&mut more) {
            self.lost = Some(now);
            return self.again(why, now);
        }
        for message in more {
            self.message(&mut c, &message, now);
        }
        Phase::Live(c)
    }
}

/// By what a daemon says of itself.
fn speaks(hello: &Value) -> Result<()> {
    let text = |key: &str| hello[key].as_str().unwrap_or_default();
    let protocol = hello["protocol_version"].as_u64().unwrap_or_default();
    verdict::speaks(text("version"), text("min_client_version"), protocol)
}

/// The client that stopped the project on purpose, if nobody has started it since; and when.
fn stopped_by(project: &Project) -> Option<(i64, Option<String>)> {
    let (bytes, _) = files::read_named(&project.dir.state()).ok()?;
    let state: Value = serde_json::from_slice(&bytes).ok()?;
    let by = state["stopped"]["by"].as_str()?;
    let at = state["stopped"]["at"].as_i64().unwrap_or_default();
    Some((at, Some(by.into())))
}

/// The bpm that belongs to this program: beside it, else in PATH.
pub(super) fn bpm_beside(own: Option<&Path>) -> PathBuf {
    let beside = own.and_then(Path::parent).map(|folder| folder.join("bpm"));
    beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| "bpm".into())
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        match address {
            Address::Unix(path) => Self::Unix(path),
            Address::Http(url) => Self::Http(url),
        }
    }
}
