//! `on_event`: commands that follow events, one at a time. They have no events of their own, or one that fails would
//! call itself.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::json::list;
use crate::base::logger::Level;
use crate::base::saved::{Saved, load, saved_enum};
use crate::base::table::{Set, Table};
use crate::build;
use crate::config::{Command, Happening};
use crate::engine::snapshot::{State, UnitView};
use crate::lifecycle::UnitId;
use crate::os::output::ChildOutput;
use crate::os::reap::{Child, reap_from};

use super::environments::Variables;
use super::launch::Starter;
use super::{Phase, Supervisor};

/// How many commands wait at most; the oldest gives way.
const WAITING: usize = 32;
/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Events of one kind of one process are followed once in that time.
const PAUSE: Duration = Duration::from_secs(60);
/// How much of the output of a command goes to bpm's log.
const LONGEST: usize = 4 << 10;

/// One event, as its commands are told of it.
#[derive(Debug, Clone)]
struct Told {
    event: Happening,
    process: String,
    run: u64,
    reason: String,
    url: String,
}

impl Told {
    /// `on_event crashed of web`, for bpm's log.
    fn words(&self) -> String {
        format!("on_event {} of {}", self.event.as_str(), self.process)
    }

    fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("BPM_EVENT", self.event.as_str().into()),
            ("BPM_PROCESS", self.process.clone()),
            ("BPM_RUN", self.run.to_string()),
            ("BPM_REASON", self.reason.clone()),
            ("BPM_URL", self.url.clone()),
        ]
    }
}

/// A command at work.
struct Running {
    words: String,
    child: Option<Child>,
    output: ChildOutput,
    said: Vec<u8>,
    due: Mono,
    killed: bool,
}

impl Running {
    fn read(&mut self) {
        let said = &mut self.said;
        let mut sink = |_, bytes: &[u8]| keep(said, bytes);
        for pipe in [0, 1] {
            self.output.read(pipe, &mut sink);
        }
    }

    fn kill(&self) {
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }
}

/// Keeps the first bytes.
fn keep(said: &mut Vec<u8>, bytes: &[u8]) {
    let room = LONGEST.saturating_sub(said.len());
    said.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// A line for bpm's own log.
type Line = (Level, String);

saved_enum! {
    Happening { Crashed, Failed, Unhealthy, BuildFailed, RolledBack, Recovered, LogTrouble }
}

/// The commands that wait, the one that runs, and what was followed when.
pub(super) struct Hooks {
    starter: Starter,
    waiting: VecDeque<(Command, Told)>,
    running: Option<Running>,
    /// When events of processes were followed last.
    followed: Table<(UnitId, Happening), Mono>,
    /// Processes of which something was told, and not that they are well again.
    unwell: Set<UnitId>,
}

/// What was followed: an upgrade in place waits until no command is left.
impl Saved for Hooks {
    fn save(&self) -> Value {
        list([self.followed.save(), self.unwell.save()])
    }

    fn restore(&mut self, saved: &Value) -> Result<(), String> {
        (self.followed, self.unwell) = load(saved)?;
        Ok(())
    }
}

impl Hooks {
    pub(super) fn new(starter: Starter) -> Self {
        Self {
            starter,
            waiting: VecDeque::new(),
            running: None,
            followed: Table::default(),
            unwell: Set::default(),
        }
    }

    /// Nothing has been followed, and nothing is to be.
    pub(super) fn forget_all(&mut self) {
        self.waiting.clear();
        self.followed = Table::default();
        self.unwell = Set::default();
    }

    /// Whether an event is followed now. Events of one kind come in crowds.
    fn is_followed(&mut self, unit: UnitId, event: Happening, now: Mono) -> bool {
        let last = self.followed.get(&(unit, event));
        if last.is_some_and(|last| now.since(*last) < PAUSE) {
            return false;
        }
        self.followed.insert((unit, event), now);
        true
    }

    /// Appends a command; gives the one that has to go.
    fn push(&mut self, command: Command, told: Told) -> Option<Told> {
        self.waiting.push_back((command, told));
        let full = self.waiting.len() > WAITING;
        full.then(|| self.waiting.pop_front().map(|(_, told)| told))?
    }

    /// Reads what the command says, kills it when it is late, starts the next one.
    pub(super) fn step(&mut self, now: Mono, root: &Path, env: &Variables) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(running) = &mut self.running {
            running.read();
            if running.due <= now && !running.killed {
                running.killed = true;
                running.kill();
                let text = format!("{}: killed after {} s", running.words, LIMIT.as_secs());
                lines.push((Level::Warn, text));
            }
        }
        while self.running.is_none()
            && let Some((command, told)) = self.waiting.pop_front()
        {
            if let Err(why) = self.start(&command, &told, now, root, env) {
                lines.push((Level::Warn, format!("{}: {why}", told.words())));
            }
        }
        lines
    }

    fn start(
        &mut self,
        command: &Command,
        told: &Told,
        now: Mono,
        root: &Path,
        env: &Variables,
    ) -> Result<(), String> {
        let exec = build::command(command, root)?;
        let mut env = env.clone();
        for (name, value) in told.variables() {
            env.retain(|(known, _)| known != name);
            // No value of an environment has a NUL in it.
            env.push((name.into(), OsString::from(value.replace('\0', ""))));
        }
        let spawned = self.starter.command(&exec, &env);
        let spawned = spawned.map_err(|e| e.to_string())?;
        self.running = Some(Running {
            words: told.words(),
            child: Some(spawned.child),
            output: ChildOutput::new(spawned.stdout, spawned.stderr),
            said: Vec::new(),
            due: now.after(LIMIT),
            killed: false,
        });
        Ok(())
    }

    /// Reaps the command, if it is that. What it leaves in its group ends with it.
    pub(super) fn reap(&mut self, pid: i32) -> Option<Vec<Line>> {
        let is = |r: &&mut Running| r.child.as_ref().is_some_and(|c| c.pid() == pid);
        let running = self.running.as_mut().filter(is)?;
        running.kill();
        let death = reap_from(&mut running.child)?;
        let mut running = self.running.take()?;
        let said = &mut running.said;
        running.output.drain(&mut |_, bytes| keep(said, bytes));
        let words = &running.words;
        let text = String::from_utf8_lossy(&running.said);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let lines = lines.map(|line| (Level::Info, format!("{words}: {line}")));
        let failure = death.end.into_result().err();
        let failure = failure.map(|how| (Level::Warn, format!("{words}: {how}")));
        Some(lines.chain(failure).collect())
    }

    /// None is at work or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// The command that lives.
    pub(super) fn children(&self) -> impl Iterator<Item = &Child> {
        self.running.iter().filter_map(|r| r.child.as_ref())
    }

    /// Its pipes, to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let running = self.running.iter();
        running.flat_map(|r| r.output.fds()).flatten()
    }

    /// When a command is late.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let running = self.running.as_ref().filter(|r| !r.killed);
        running.map(|r| r.due)
    }

    /// A process is gone from the configuration.
    pub(super) fn forget(&mut self, unit: UnitId) {
        self.followed.retain(|(of, _), _| *of != unit);
        self.unwell.remove(&unit);
    }
}

impl Supervisor {
    /// An event of a process: the commands that follow it wait for their turn.
    pub(super) fn follow(&mut self, id: UnitId, event: Happening, reason: &str) {
        if event != Happening::Recovered {
            self.hooks.unwell.insert(id, ());
        }
        let Some(unit) = self.units.get(id) else {
            return;
        };
        let process = &unit.process;
        let follows = |on: &Option<Happening>| on.is_none_or(|on| on == event);
        let commands = process.on_event.iter().filter(|(on, _)| follows(on));
        let commands: Vec<Command> = commands.map(|(_, command)| command.clone()).collect();
        if commands.is_empty()
            || self.phase != Phase::Working
            || !self.hooks.is_followed(id, event, Mono::now())
        {
            return;
        }
        let told = Told {
            event,
            process: process.name.clone(),
            run: unit.log.next_run().saturating_sub(1),
            reason: reason.into(),
            url: self.known_url(id, process).unwrap_or_default(),
        };
        for command in commands {
            if let Some(dropped) = self.hooks.push(command, told.clone()) {
                let text = format!("{}: too many wait, so it is not run", dropped.words());
                self.events.say(Level::Warn, &text);
            }
        }
    }

    /// Follows what shows in the view of a process and did not before.
    pub(super) fn follow_view(
        &mut self,
        id: UnitId,
        before: Option<(State, bool)>,
        now: &UnitView,
    ) {
        let facts = &now.facts;
        let (state, rolled_back) = before.unwrap_or((State::Stopped, false));
        let reason = facts.reason.as_deref().unwrap_or_default();
        if facts.rolled_back && !rolled_back {
            self.follow(id, Happening::RolledBack, reason);
        }
        if facts.state == State::Failed && state != State::Failed {
            self.follow(id, Happening::Failed, reason);
        }
        if is_well(now) && self.hooks.unwell.remove(&id).is_some() {
            self.follow(id, Happening::Recovered, "");
        }
    }

    /// Goes on with the commands that follow events.
    pub(super) fn run_hooks(&mut self) {
        if self.phase != Phase::Working {
            self.hooks.waiting.clear();
        }
        let (root, env) = (&self.setup.config.root, self.environments.base());
        for (level, text) in self.hooks.step(Mono::now(), root, &env) {
            self.events.say(level, &text);
        }
    }

    /// Reaps a command that followed an event, if it is one.
    pub(super) fn reap_hook(&mut self, pid: i32) -> bool {
        let Some(lines) = self.hooks.reap(pid) else {
            return false;
        };
        for (level, text) in lines {
            self.events.say(level, &text);
        }
        true
    }
}

/// Nothing of what is followed holds now.
fn is_well(unit: &UnitView) -> bool {
    let built = unit.built.as_ref().is_none_or(|b| b.ok != Some(false));
    let facts = &unit.facts;
    unit.is_ready()
        && facts.ready != Some(false)
        && facts.healthy != Some(false)
        && !facts.rolled_back
        && built
        && unit.log_trouble().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::proc;

    fn hooks() -> Hooks {
        Hooks::new(Starter {
            root: Path::new("/").into(),
            nofile: 1_024,
            umask: 0o22,
        })
    }

    fn told(process: &str) -> Told {
        Told {
            event: Happening::Crashed,
            process: process.into(),
            run: 1,
            reason: String::new(),
            url: String::new(),
        }
    }

    #[test]
    fn events_of_one_kind_are_followed_once_a_minute() {
        let mut hooks = hooks();
        let now = Mono::now();
        assert!(hooks.is_followed(1, Happening::Crashed, now));
        assert!(!hooks.is_followed(1, Happening::Crashed, now.after(PAUSE / 2)));
        assert!(hooks.is_followed(1, Happening::Failed, now));
        assert!(hooks.is_followed(2, Happening::Crashed, now));
        assert!(hooks.is_followed(1, Happening::Crashed, now.after(PAUSE)));
    }

    #[test]
    fn oldest_command_gives_way() {
        let mut hooks = hooks();
        let command = || Command::Shell("true".into());
        for n in 0..WAITING {
            assert!(hooks.push(command(), told(&n.to_string())).is_none());
        }
        let dropped = hooks.push(command(), told("last")).unwrap();
        assert_eq!(dropped.process, "0");
        assert_eq!(hooks.waiting.len(), WAITING);
    }

    #[test]
    fn late_command_is_killed_and_the_next_one_waits_for_its_end() {
        let mut hooks = hooks();
        let (now, root) = (Mono::now(), Path::new("/"));
        hooks.push(Command::Shell("exec sleep 1000".into()), told("web"));
        hooks.push(Command::List(vec!["/no/such".into()]), told("api"));
        assert!(hooks.step(now, root, &Vec::new()).is_empty());
        let pid = hooks.children().next().unwrap().pid();
        let lines = hooks.step(now.after(LIMIT), root, &Vec::new());
        assert_eq!(lines[0].1, "on_event crashed of web: killed after 30 s");
        assert_eq!((lines.len(), hooks.waiting.len()), (1, 1));
        // It is dead as soon as the signal is handled.
        while proc::process(pid).is_some_and(|p| p.state != 'Z') {
            std::thread::yield_now();
        }
        let ended = hooks.reap(pid).unwrap();
        assert_eq!(ended[0].1, "on_event crashed of web: signal KILL");
        let lines = hooks.step(now, root, &Vec::new());
        assert!(lines[0].1.contains("no such file"), "{lines:?}");
    }
}
