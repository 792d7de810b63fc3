//! The stage: boards and logs made by hand, an engine that the test plays, and what `net` does with a call.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bpm::base::clock::{Mono, Wall};
use bpm::base::logger::Logger;
use bpm::config::{Kind, Mode};
use bpm::engine::handle::{Command, Done, Handle, Identity, Reply, Request, Stopped};
use bpm::engine::snapshot::{
    BuildError, BuildErrors, BuildState, BuildView, EventView, ExitView, Snapshot, SnapshotCell,
    State, UnitView,
};
use bpm::lifecycle::Facts;
use bpm::log::search::Stream;
use bpm::log::store::{Limits, Log};
use bpm::os::inbox::{Inbox, Mailbox, Waker};
use bpm::server::service::{Answer, Caller, ClientKind, Level, Service, Step, Task};
use bpm::tools::{Group, Meter, Tools};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

const LIMITS: Limits = Limits {
    lines: 100_000,
    bytes: 64 << 20,
    runs: 10,
    disk: 0,
};

/// What a test sees of the tools, and the engine's end of everything.
pub(crate) struct Stage {
    pub(crate) handle: Arc<Handle>,
    pub(crate) commands: Arc<Inbox<Command>>,
    pub(crate) tools: Tools,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) readings: Arc<Mutex<u32>>,
    pub(crate) said: Arc<Mutex<Vec<String>>>,
}

struct Said(Arc<Mutex<Vec<String>>>);

impl Logger for Said {
    fn write(&self, _: Level, room: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{room}: {text}"));
    }
}

struct FakeMeter(Arc<Mutex<u32>>);

impl Meter for FakeMeter {
    fn groups(&self, leaders: &[i32], _: &[i32]) -> Vec<Option<Group>> {
        *self.0.lock().unwrap() += 1;
        let group = |_| {
            Some(Group {
                cpu: Duration::from_millis(1_500),
                rss: 48 << 20,
                tasks: 5,
                ports: vec![
                    "[::1]:5173".parse().unwrap(),
                    "127.0.0.1:9229".parse().unwrap(),
                ],
            })
        };
        leaders.iter().map(group).collect()
    }

    fn own_rss(&self) -> u64 {
        3 << 20
    }
}

pub(crate) fn unit(name: &str) -> UnitView {
    let log = || Log::new(LIMITS, 1, 1);
    UnitView {
        kind: Kind::Rust,
        facts: Facts {
            state: State::Running,
            wanted: true,
            mode: Mode::Dev,
            pid: Some(4711),
            started: Some(Mono::now()),
            ready: Some(true),
            ..Facts::default()
        },
        since: Wall(1_795_229_210_123),
        run: Some(1),
        builds: true,
        ..UnitView::idle(name, log(), log())
    }
}

/// Nothing of it runs.
pub(crate) fn idle(name: &str, state: State) -> UnitView {
    let facts = Facts {
        state,
        mode: Mode::Dev,
        ..Facts::default()
    };
    UnitView {
        facts,
        run: None,
        ..unit(name)
    }
}

pub(crate) fn build(id: u64, state: BuildState) -> BuildView {
    let ok = (!state.is_under_way()).then_some(state == BuildState::Ok);
    BuildView {
        id,
        state,
        phase: ok.is_none().then(|| "compiling".into()),
        mode: Mode::Dev,
        at: Wall(1_795_229_200_000),
        began: ok.is_none().then(Mono::now),
        took: ok.map(|_| Duration::from_millis(3_200)),
        ok,
        errors: Arc::default(),
    }
}

pub(crate) fn broken(id: u64) -> BuildView {
    BuildView {
        errors: Arc::new(BuildErrors {
            list: vec![BuildError {
                file: Some("src/main.rs".into()),
                line: Some(3),
                column: Some(5),
                message: "E0308: mismatched types".into(),
            }],
            count: 1,
            text: vec![
                "error[E0308]: mismatched types".into(),
                " --> src/main.rs:3:5".into(),
            ],
        }),
        ..build(id, BuildState::Failed)
    }
}

pub(crate) fn exit(run: u64, code: i32) -> ExitView {
    ExitView {
        run,
        code: Some(code),
        signal: None,
        core: false,
        oom: false,
        asked: false,
        crash: code != 0,
        fault: None,
        at: Wall(1_795_229_300_000 + run as i64),
        uptime: Duration::from_secs(3),
        cpu: Duration::from_millis(250),
        peak_rss: 5 << 20,
        tail: Arc::new(vec!["thread 'main' panicked".into()]),
    }
}

pub(crate) fn event(seq: u64, process: &str, kind: &'static str, text: &str) -> Arc<EventView> {
    Arc::new(EventView {
        seq,
        at: Wall(1_795_229_210_000 + seq as i64),
        process: Some(process.into()),
        kind: kind.into(),
        text: text.into(),
    })
}

fn snapshot(units: Vec<UnitView>) -> Snapshot {
    Snapshot {
        seq: 1,
        units: units.into_iter().map(Arc::new).collect(),
        mode: Mode::Dev,
        ..Snapshot::new("shop".into(), "/home/me/shop".into())
    }
}

/// Lines `line 1` to `line n` in a new run.
pub(crate) fn print(log: &Log, n: usize) -> u64 {
    let run = log.begin(Wall(1_795_229_210_123));
    let text: String = (1..=n).map(|i| format!("line {i}\n")).collect();
    log.append(run, Stream::Stdout, text.as_bytes());
    run
}

pub(crate) fn agent() -> Caller {
    Caller {
        kind: ClientKind::Agent,
        modern: true,
    }
}

pub(crate) fn cli() -> Caller {
    Caller {
        kind: ClientKind::Cli,
        ..agent()
    }
}

impl Stage {
    pub(crate) fn new(units: Vec<UnitView>) -> Self {
        let mailbox = Mailbox::new().unwrap();
        let identity = Identity {
            instance_id: "0123abcd".into(),
            pid: 4000,
            started: Mono::now(),
            started_at: Wall::now(),
            url: Some("http://127.0.0.1:41873/mcp".into()),
            socket: Some("/run/bpm.sock".into()),
            started_by: Some("bpm -d".into()),
            previous_end: None,
        };
        let cell = SnapshotCell::new(snapshot(units));
        let (handle, commands) = Handle::new(cell, identity).unwrap();
        let (readings, said) = (Arc::default(), Arc::default());
        let meter = Box::new(FakeMeter(Arc::clone(&readings)));
        let logger = Arc::new(Said(Arc::clone(&said)));
        Self {
            tools: Tools::new(Arc::clone(&handle), meter, logger),
            handle,
            commands,
            waker: mailbox.waker(7),
            mailbox,
            readings,
            said,
        }
    }

    /// Changes the snapshot as the supervisor does.
    pub(crate) fn change(&self, with: impl FnOnce(&mut Snapshot)) {
        let mut next = (*self.handle.snapshot.now()).clone();
        next.seq += 1;
        with(&mut next);
        self.handle.snapshot.publish(next);
    }

    pub(crate) fn change_unit(&self, name: &str, with: impl FnOnce(&mut UnitView)) {
        self.change(|snapshot| {
            let unit = snapshot.units.iter_mut().find(|u| u.name == name).unwrap();
            with(Arc::make_mut(unit));
        });
    }

    pub(crate) fn step(&self, tool: &str, args: Value) -> Step {
        self.tools.call(&agent(), tool, &args, None).unwrap()
    }

    pub(crate) fn call(&self, tool: &str, args: Value) -> Answer {
        let step = self.step(tool, args);
        self.finish(step, |_| None)
    }

    /// Its text, where the answer is good.
    pub(crate) fn text(&self, tool: &str, args: Value) -> String {
        match self.call(tool, args) {
            Answer::Text(text) | Answer::Data { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    /// Its data.
    pub(crate) fn data(&self, tool: &str, args: Value) -> Value {
        let answer = self.call(tool, args);
        self.checked(tool, answer).0
    }

    pub(crate) fn checked(&self, tool: &str, answer: Answer) -> (Value, String) {
        let Answer::Data { json, text } = answer else {
            panic!("{answer:?}");
        };
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value.to_string().as_bytes(), json, "the order of fields");
        assert!(value.is_object(), "{tool}: {value}");
        assert!(!text.is_empty() && text.chars().count() <= 10_000);
        (value, text)
    }

    pub(crate) fn fail(&self, tool: &str, args: Value) -> String {
        match self.call(tool, args) {
            Answer::Fail(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// An order, answered by the engine.
    pub(crate) fn order(&self, tool: &str, args: Value, reply: Reply) -> (Request, Answer) {
        let mut asked = None;
        let step = self.step(tool, args);
        let answer = self.finish(step, |ask| {
            asked = Some(ask);
            Some(reply.clone())
        });
        (asked.unwrap(), answer)
    }

    /// Brings a step to its end as `net` does; `engine` answers what is asked meanwhile.
    pub(crate) fn finish(
        &self,
        step: Step,
        mut engine: impl FnMut(Request) -> Option<Reply>,
    ) -> Answer {
        match step {
            Step::Done(answer) => answer,
            Step::Work(work) => work(),
            Step::Wait(mut task) => {
                task.start(&self.waker);
                loop {
                    while let Some(Command::Request(ask, slot)) = self.commands.pop() {
                        slot.begin();
                        if let Some(reply) = engine(ask) {
                            slot.put(reply);
                        }
                    }
                    let mut out = Vec::new();
                    if let Some(answer) = self.poll(&mut *task, &mut out) {
                        return answer;
                    }
                    self.sleep(&*task);
                }
            }
        }
    }

    /// As `net` does: what is over, but has logs to read for its answer, is polled again, by a worker.
    pub(crate) fn poll(&self, task: &mut dyn Task, out: &mut Vec<Value>) -> Option<Answer> {
        self.waker.seen();
        let light = !task.heavy();
        let answer = task.poll(Mono::now(), 64 * 1024, out);
        if answer.is_none() && light && task.heavy() {
            return task.poll(Mono::now(), 64 * 1024, out);
        }
        answer
    }

    /// Until somebody wakes the task or it is due; a test that waits for longer has failed.
    pub(crate) fn sleep(&self, task: &dyn Task) {
        let most = Duration::from_secs(20);
        let left = task.deadline().map_or(most, |at| at.since(Mono::now()));
        let left = left.min(most) + Duration::from_millis(1);
        let mut fds = [PollFd::new(self.mailbox.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap();
        let rang = poll(&mut fds, timeout).unwrap();
        assert!(rang > 0 || left < most, "nothing came");
        self.mailbox.take(&mut Vec::new());
    }

    pub(crate) fn waiting(&self, tool: &str, args: Value) -> Box<dyn Task> {
        let Step::Wait(mut task) = self.step(tool, args) else {
            panic!("it does not wait")
        };
        task.start(&self.waker);
        task
    }

    pub(crate) fn own(&self, method: &str, params: Value) -> Step {
        self.tools.own(&cli(), method, &params).unwrap()
    }
}

pub(crate) fn good(name: &str) -> Done {
    Done {
        name: name.into(),
        ok: true,
        mode: Mode::Dev,
        pid: Some(4720),
        previous_pid: Some(4711),
        build: Some(build(7, BuildState::Ok)),
        ready: Some(true),
        gap: Some(Duration::from_millis(12)),
        reason: None,
        old_serves: false,
        rolled_back: false,
        exit: None,
        tail: Vec::new(),
        stopped: Stopped {
            signalled: true,
            ..Stopped::default()
        },
        took: Duration::from_millis(3_300),
    }
}
