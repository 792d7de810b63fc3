//! Readiness and health: runs the actions of [`Schedule`], and takes what processes say over `NOTIFY_SOCKET`
//! (sd_notify(3)).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::logger::Level;
use crate::base::saved::{Saved, saved};
use crate::base::table::Table;
use crate::build::Exec;
use crate::check::{
    self, Action, Attempt, CheckKey, CheckKind, Following, Prober, Schedule, Seen, Standing,
    Target, Timing,
};
use crate::config::{self, Environment, Expand, Happening, Process};
use crate::engine::handle::{Handle, Notice};
use crate::engine::handover::{Handover, Takeover};
use crate::lifecycle::{Event, Fleet, RunKey, UnitId};
use crate::log::store::Log;
use crate::os::notify::{NotifyMessage, Receiver};
use crate::os::proc;
use crate::os::reap::{Child, reap_from};

use super::Supervisor;
use super::environments::{self, Variables};
use super::launch::{Starter, account};
use super::listening::Before;
use super::runs::{RunRecord, Runs};

/// How many notices of a run are taken before others have their turn: a process that says more than bpm can
/// read must not hold bpm up.
const NOTICES: usize = 32;
/// How many senders that are not of a run are named in the log.
const STRANGERS: usize = 8;

/// A check with its variables expanded, where the file asks for one.
type Check = Option<Box<(Target, Timing)>>;

fn target(check: &Check) -> Option<&Target> {
    check.as_ref().map(|check| &check.0)
}

/// The checks of one run.
pub(super) struct RunChecks {
    process: Arc<Process>,
    ready: Check,
    /// Begins once the run is good.
    health: Check,
    notify: Option<NotifySocket>,
    /// The words that the lifecycle had last of what they saw.
    told: Option<String>,
    /// For commands that check: only where there is one.
    env: Option<Arc<Variables>>,
    /// The lines of the run.
    lines: Option<Following>,
    /// Sockets that listened before it began.
    before: Option<Before>,
    /// From where its checks of readiness and of health go on after an upgrade in place.
    standing: [Option<Standing>; 2],
}

/// A socket over which a run says how it is. Its file goes with it.
struct NotifySocket {
    receiver: Receiver,
    path: PathBuf,
    /// It was said that some of its messages are ignored: once is enough.
    warned: bool,
    /// Senders that are not of the run and were named in the log.
    refused: Vec<i32>,
}

impl NotifySocket {
    /// For a run with these settings: whose user it has, and root, may send.
    fn open(path: PathBuf, launch: &config::Launch) -> Result<Self, String> {
        let failed = |e: io::Error| format!("no NOTIFY_SOCKET {path:?}: {}", reason(&e));
        let receiver = Receiver::bind(&path).map_err(failed)?;
        if let Some(account) = account(launch)? {
            std::os::unix::fs::chown(&path, Some(account.uid), None).map_err(failed)?;
        }
        Ok(Self {
            receiver,
            path,
            warned: false,
            refused: Vec::new(),
        })
    }
}

impl RunChecks {
    /// The checks that the file asks for.
    ///
    /// # Errors
    /// A variable in them has no value, or what they name can't be read.
    pub(super) fn new(process: &Arc<Process>, expand: Expand<'_>) -> Result<Self, String> {
        let ready = process.ready.as_ref();
        let ready =
            ready.map(|r| Ok::<_, String>(Box::new((Target::of(&r.probe, expand)?, r.into()))));
        let health = process.health.as_ref();
        let health =
            health.map(|h| Ok::<_, String>(Box::new((Target::of(&h.probe, expand)?, h.into()))));
        Ok(Self {
            process: Arc::clone(process),
            ready: ready.transpose()?,
            health: health.transpose()?,
            notify: None,
            told: None,
            env: None,
            lines: None,
            before: None,
            standing: Default::default(),
        })
    }

    /// Its readiness is a connection.
    pub(super) fn connects(&self) -> bool {
        matches!(target(&self.ready), Some(Target::Connect(_)))
    }

    /// These sockets listened before the run began.
    pub(super) fn set_before(&mut self, before: Option<Before>) {
        if let Some(ready) = &mut self.ready {
            ready.0.set_before(&before);
        }
        self.before = before;
    }

    /// The run is to say how it is.
    pub(super) fn needs_socket(&self) -> bool {
        let notify = |check| matches!(target(check), Some(Target::Notify));
        notify(&self.ready) || notify(&self.health)
    }

    /// Opens the socket for that.
    pub(super) fn open_socket(&mut self, path: PathBuf) -> Result<(), String> {
        self.notify = Some(NotifySocket::open(path, &self.process.launch)?);
        Ok(())
    }

    /// The variables that a run needs for it.
    pub(super) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let Some(socket) = &self.notify else {
            return Vec::new();
        };
        let mut all = vec![("NOTIFY_SOCKET", socket.path.clone().into_os_string())];
        let health = self.process.health.as_ref();
        if let Some(usec) = health.and_then(check::watchdog_usec) {
            all.push(("WATCHDOG_USEC", usec.to_string().into()));
        }
        all
    }

    /// The run was ready before: only its health is checked.
    pub(super) fn is_ready_already(&mut self) {
        self.ready = None;
    }

    /// The socket over which the run says how it is.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        self.notify.as_ref().map(|socket| socket.path.clone())
    }

    /// The run has begun, as that run of its log.
    pub(super) fn follow(&mut self, log: &Arc<Log>, run: u64, first: u64) {
        self.lines = Some(Following {
            log: Arc::clone(log),
            run,
            after: first.saturating_sub(1),
        });
    }

    /// Its commands get this environment.
    pub(super) fn keep_environment(&mut self, env: &Arc<Variables>) {
        let runs = |check| matches!(target(check), Some(Target::Command(_)));
        if runs(&self.ready) || runs(&self.health) {
            self.env = Some(Arc::clone(env));
        }
    }

    /// The command of a check, as it is to be started.
    fn command(&self, words: &[String]) -> Option<(Exec, &Variables)> {
        let (program, args) = words.split_first()?;
        let exec = Exec {
            program: program.clone(),
            argv0: None,
            args: args.to_vec(),
            env: Vec::new(),
            cwd: self.process.cwd.clone(),
        };
        Some((exec, self.env.as_ref()?))
    }
}

/// A command that checks.
struct Command {
    attempt: Attempt,
    child: Option<Child>,
}

impl Command {
    fn kill(&self) {
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }
}

/// A result of checks that others need to know.
pub(super) enum Finding {
    /// The lifecycle is to know.
    Event(Event),
    /// A health check failed often enough.
    Unhealthy(RunKey, String),
    /// A process said something that bpm does not follow.
    Ignored(String),
}

/// The checks of all runs.
pub(super) struct Checks {
    starter: Starter,
    schedule: Schedule,
    prober: Prober,
    runs: Table<RunKey, Box<RunChecks>>,
    commands: Vec<Command>,
    findings: Vec<Finding>,
}

impl Checks {
    /// None yet. The answers of attempts come as notices.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub(super) fn new(handle: &Arc<Handle>, starter: Starter) -> io::Result<Self> {
        let handle = Arc::clone(handle);
        let prober = Prober::new(Arc::new(move |attempt, seen| {
            handle.tell(Notice::Probed { attempt, seen })
        }))?;
        Ok(Self {
            starter,
            schedule: Schedule::default(),
            prober,
            runs: Table::default(),
            commands: Vec::new(),
            findings: Vec::new(),
        })
    }

    /// A run has begun: its readiness is checked from now on.
    pub(super) fn begin(&mut self, run: RunKey, mut checks: RunChecks) {
        let ready = checks.ready.take();
        self.runs.insert(run, Box::new(checks));
        self.watch(run, CheckKind::Ready, ready);
        self.run_due();
    }

    /// Health is checked once a run is good.
    fn begin_health(&mut self, fleet: &Fleet) {
        let waiting = self.runs.iter_mut().filter(|(_, c)| c.health.is_some());
        let good = waiting.filter(|(run, _)| fleet.is_good(**run));
        let begin: Vec<(RunKey, Check)> = good.map(|(run, c)| (*run, c.health.take())).collect();
        for (run, health) in begin {
            self.watch(run, CheckKind::Health, health);
        }
    }

    fn watch(&mut self, run: RunKey, kind: CheckKind, check: Check) {
        if let Some((target, timing)) = check.map(|check| *check) {
            let key = CheckKey { run, kind };
            self.schedule.watch(key, target, timing, Mono::now());
            let checks = self.runs.get_mut(&run);
            if let Some(standing) = checks.and_then(|c| c.standing[kind as usize].take()) {
                self.schedule.go_on(key, standing);
            }
        }
    }

    /// Replaces the checks of a run by those of new settings; one that is good is not checked for readiness again.
    fn replace(&mut self, run: RunKey, mut new: RunChecks, good: bool) {
        let Some(old) = self.runs.remove(&run).map(|old| *old) else {
            return;
        };
        self.forget(run);
        new.notify = old.notify;
        new.lines = old.lines;
        new.told = old.told;
        new.set_before(old.before);
        new.env = old.env.or(new.env);
        if good {
            new.ready = None;
        }
        self.begin(run, new);
        self.note_words(run);
    }

    /// Ends the checks of a run, those under way too.
    pub(super) fn end(&mut self, run: RunKey) {
        self.runs.remove(&run);
        self.forget(run);
    }

    fn forget(&mut self, run: RunKey) {
        let mut actions = Vec::new();
        self.schedule.forget(run, &mut actions);
        self.run(actions);
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.schedule.next_deadline()
    }

    /// Does what is due now.
    pub(super) fn run_due(&mut self) {
        let mut actions = Vec::new();
        self.schedule.step(Mono::now(), &mut actions);
        // An action may be due because something failed by that: a command that is late, a watchdog.
        let late = |action: &Action| match action {
            Action::Cancel(Attempt { key, .. }) | Action::Tell { key, .. } => Some(key.run),
            Action::Connect { .. } | Action::Follow { .. } | Action::Run { .. } => None,
        };
        let mut late: Vec<RunKey> = actions.iter().filter_map(late).collect();
        late.dedup();
        for run in late {
            self.note_words(run);
        }
        self.run(actions);
    }

    /// An attempt at a check has its answer.
    pub(super) fn answer(&mut self, attempt: Attempt, seen: Seen) {
        let mut actions = Vec::new();
        let now = Mono::now();
        self.schedule.answer(attempt, seen, now, &mut actions);
        self.note_words(attempt.key.run);
        self.run(actions);
    }

    /// Takes what processes have said. A sender counts if it is of the run, or has ended by now, as `systemd-notify` does
    /// at once: nothing can be told of it any more.
    pub(super) fn listen(&mut self, runs: &Runs) {
        let speaking = self.runs.iter().filter(|(_, c)| c.notify.is_some());
        let speaking: Vec<RunKey> = speaking.map(|(run, _)| *run).collect();
        for run in speaking {
            let mut actions = Vec::new();
            for _ in 0..NOTICES {
                let Some(checks) = self.runs.get_mut(&run) else {
                    break;
                };
                let Some(socket) = checks.notify.as_mut() else {
                    break;
                };
                let Ok(Some(message)) = socket.receiver.take() else {
                    break;
                };
                if runs.has_member(run, message.pid) == Some(false) {
                    let named = &mut socket.refused;
                    if named.len() < STRANGERS && !named.contains(&message.pid) {
                        named.push(message.pid);
                        let name = &checks.process.name;
                        let text = refused(name, &message);
                        self.findings.push(Finding::Ignored(text));
                    }
                    continue;
                }
                if !socket.warned
                    && let Some(text) = check::ignored(&message)
                {
                    socket.warned = true;
                    self.findings.push(Finding::Ignored(text));
                }
                let now = Mono::now();
                self.schedule.notified(run, &message, now, &mut actions);
            }
            self.note_words(run);
            self.run(actions);
        }
    }

    /// Somebody removed bpm's files: runs are heard again at the paths that they know.
    pub(super) fn reopen_sockets(&mut self, runs: &Runs) {
        self.listen(runs);
        for checks in self.runs.values_mut() {
            let gone = |socket: &mut NotifySocket| !socket.path.exists();
            let Some(old) = checks.notify.take_if(gone) else {
                continue;
            };
            let (path, warned) = (old.path.clone(), old.warned);
            let refused = old.refused.clone();
            // It removes its path.
            drop(old);
            let new = NotifySocket::open(path, &checks.process.launch).ok();
            checks.notify = new.map(|socket| NotifySocket {
                warned,
                refused,
                ..socket
            });
        }
    }

    /// Reaps a command that checks, if it is one. What it leaves behind would pile up.
    pub(super) fn reap(&mut self, pid: i32) -> bool {
        let is = |c: &Command| c.child.as_ref().is_some_and(|child| child.pid() == pid);
        let Some(at) = self.commands.iter().position(is) else {
            return false;
        };
        let command = &mut self.commands[at];
        command.kill();
        let Some(death) = reap_from(&mut command.child) else {
            return false;
        };
        let attempt = self.commands.swap_remove(at).attempt;
        self.prober.ended(attempt, death.end.into_result());
        true
    }

    /// The commands that live.
    pub(super) fn children(&self) -> impl Iterator<Item = &Child> {
        self.commands.iter().filter_map(|c| c.child.as_ref())
    }

    /// The sockets to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self.runs.values().filter_map(|c| c.notify.as_ref());
        sockets.map(|socket| socket.receiver.as_fd())
    }

    /// The state by which the checks of each run begin once more.
    pub(super) fn save(&self, to: &mut Handover) -> Value {
        let mut all = Vec::new();
        for (run, checks) in self.runs.iter() {
            let mut notify = None;
            if let Some(socket) = &checks.notify {
                let name = format!("notify {} {}", run.unit, run.generation);
                to.keep(name.as_str(), &socket.receiver);
                notify = Some((name, socket.path.clone()));
            }
            let lines = checks.lines.as_ref();
            let saved = SavedChecks {
                env: checks.env.as_deref().cloned(),
                notify,
                after: lines.map(|lines| lines.after),
                told: checks.told.clone(),
                standing: Some([CheckKind::Ready, CheckKind::Health].map(|kind| {
                    let now = self.schedule.standing(CheckKey { run: *run, kind });
                    now.or_else(|| checks.standing[kind as usize].clone())
                })),
                before: checks.before.clone(),
            };
            all.push((*run, saved));
        }
        all.save()
    }

    /// The commands that live: an upgrade in place gives them up, and they are started again.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.children().map(Child::pid).collect()
    }

    /// The findings since this was asked last.
    pub(super) fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Tells what the checks of a run have to say, where that is something new.
    fn note_words(&mut self, run: RunKey) {
        let words = self.schedule.words(run);
        if let Some(checks) = self.runs.get_mut(&run)
            && checks.told != words
        {
            checks.told.clone_from(&words);
            self.findings
                .push(Finding::Event(Event::Seen { run, words }));
        }
    }

    fn run(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Connect {
                    attempt,
                    connect,
                    within,
                } => self.prober.connect(attempt, connect, within),
                Action::Follow { attempt, pattern } => self.follow(attempt, pattern),
                Action::Run { attempt, command } => self.start(attempt, &command),
                Action::Cancel(attempt) => {
                    match self.commands.iter().find(|c| c.attempt == attempt) {
                        Some(command) => command.kill(),
                        None => self.prober.forget(attempt),
                    }
                }
                Action::Tell { key, good, saw } => self.tell(key, good, saw),
            }
        }
    }

    fn tell(&mut self, CheckKey { run, kind }: CheckKey, good: bool, saw: String) {
        match kind {
            CheckKind::Ready if good => self.findings.push(Finding::Event(Event::Ready(run))),
            CheckKind::Ready => {}
            CheckKind::Health => {
                if !good {
                    self.findings.push(Finding::Unhealthy(run, saw));
                }
                let healthy = good;
                self.findings
                    .push(Finding::Event(Event::Health { run, healthy }));
            }
        }
    }

    fn follow(&mut self, attempt: Attempt, pattern: String) {
        let lines = self
            .runs
            .get(&attempt.key.run)
            .and_then(|c| c.lines.clone());
        match lines {
            Some(lines) => self.prober.follow(attempt, lines, pattern),
            None => self.answer(attempt, Err("its run has no log".into())),
        }
    }

    /// Starts a command that checks. Every attempt is answered, also one that can't begin: or there would never be
    /// another one.
    fn start(&mut self, attempt: Attempt, words: &[String]) {
        let command = self
            .runs
            .get(&attempt.key.run)
            .and_then(|c| c.command(words));
        let spawned = match command {
            Some((exec, env)) => self.starter.command(&exec, env).map_err(|e| e.to_string()),
            None => Err("its run has no environment".into()),
        };
        match spawned {
            Ok(spawned) => {
                let (stdout, stderr) = (spawned.stdout, spawned.stderr);
                self.prober.watch(attempt, stdout, stderr);
                self.commands.push(Command {
                    attempt,
                    child: Some(spawned.child),
                });
            }
            Err(why) => self.answer(attempt, Err(why)),
        }
    }
}

/// The checks of a run that goes over an upgrade in place.
#[derive(Default)]
pub(super) struct SavedChecks {
    env: Option<Variables>,
    /// The name of its descriptor, and the socket's path.
    notify: Option<(String, PathBuf)>,
    after: Option<u64>,
    told: Option<String>,
    /// An earlier bpm had none.
    standing: Option<[Option<Standing>; 2]>,
    before: Option<Before>,
}

saved! { SavedChecks { env, notify, after, told, standing, before } }

impl Supervisor {
    /// The checks of all runs go on.
    pub(super) fn restore_checks(&mut self, from: &mut Takeover) -> Result<(), String> {
        let all: Vec<(RunKey, SavedChecks)> = from.get("checks")?;
        for (key, saved) in all {
            let notify = saved.notify.and_then(|(name, path)| {
                Some(NotifySocket {
                    receiver: Receiver::inherited(from.take(&name)?),
                    path,
                    warned: true,
                    refused: Vec::new(),
                })
            });
            let unit = self.units.get(key.unit);
            let Some((process, log)) = unit.map(|u| (Arc::clone(&u.process), Arc::clone(&u.log)))
            else {
                continue;
            };
            let Some(run) = self.runs.get(key).map(RunRecord::run) else {
                continue;
            };
            let mut checks = match self.checks_again(&process, run, saved.env) {
                Ok(checks) => checks,
                Err(why) if from.is_dry() => return Err(why),
                // What was there a moment ago is gone.
                Err(why) => {
                    let text = format!("{}: it is not checked any more: {why}", process.name);
                    self.events.say(Level::Warn, &text);
                    continue;
                }
            };
            checks.notify = notify;
            checks.told = saved.told;
            checks.lines = saved.after.map(|after| Following { log, run, after });
            checks.set_before(saved.before);
            checks.standing = saved.standing.unwrap_or_default();
            let passed = checks.standing[0].as_ref().is_some_and(Standing::is_good);
            if self.lives.fleet.is_good(key) && !passed {
                checks.ready = None;
            }
            if !from.is_dry() {
                self.checks.begin(key, checks);
            }
        }
        let abandoned: Option<Vec<i32>> = from.get("abandoned")?;
        if !from.is_dry() {
            let all = abandoned.into_iter().flatten();
            all.filter_map(Child::inherited)
                .for_each(|child| child.signal_group(libc::SIGKILL));
        }
        Ok(())
    }

    /// The checks of a run that began before, with the environment that was kept for them, else with one that is made
    /// again.
    pub(super) fn checks_again(
        &mut self,
        process: &Arc<Process>,
        run: u64,
        kept: Option<Variables>,
    ) -> Result<RunChecks, String> {
        let is_checked = process.ready.is_some() || process.health.is_some();
        let (process, env) = match kept {
            Some(env) => (self.with_ports(process)?, env.into_iter().collect()),
            None if !is_checked => (Arc::clone(process), Environment::default()),
            None => {
                // direnv is not asked for this: a variable that only it knows is missed here.
                let base = self.environments.base();
                let (process, mut env) = self.environment(process, &base, &mut Vec::new())?;
                environments::mark_run(&mut env, &process, &self.marker(), run);
                (process, env)
            }
        };
        let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
        let mut checks = RunChecks::new(&process, &expand)?;
        checks.keep_environment(&Arc::new(env.into_iter().collect()));
        Ok(checks)
    }

    /// Hands on what the checks have found.
    pub(super) fn take_findings(&mut self) {
        for finding in self.checks.take_findings() {
            match finding {
                Finding::Event(event) => self.lives.note(event),
                Finding::Unhealthy(run, saw) => {
                    let text = format!("not healthy: {saw}");
                    self.happened(Level::Warn, Some(run.unit), "health", text);
                    self.follow(run.unit, Happening::Unhealthy, &saw);
                }
                Finding::Ignored(text) => self.events.say(Level::Warn, &text),
            }
        }
    }

    /// A reload has other checks: the runs of a process are checked by them from now on.
    pub(super) fn replace_checks(&mut self, unit: UnitId) {
        let Some(process) = self.units.process(unit) else {
            return;
        };
        let living = self.runs.of_unit(unit).filter(|(_, record)| record.lives());
        let living: Vec<(RunKey, u64)> = living.map(|(key, r)| (key, r.run())).collect();
        for (key, run) in living {
            let checks = self.checks_again(&process, run, None);
            let good = self.lives.fleet.is_good(key);
            if let Err(why) = checks.map(|new| self.checks.replace(key, new, good)) {
                let name = &process.name;
                let text =
                    format!("{name}: its checks stay as they were until its next start: {why}");
                self.events.say(Level::Warn, &text);
            }
        }
    }

    /// Health checks begin for runs that are good now.
    pub(super) fn begin_health(&mut self) {
        self.checks.begin_health(&self.lives.fleet);
    }
}

/// A message of a process that is not of the run, in words for the log.
fn refused(name: &str, message: &NotifyMessage) -> String {
    let pid = message.pid;
    let program = proc::program(pid).unwrap_or_else(|| "?".into());
    let fields = message.fields.iter().map(|(field, _)| field.as_str());
    let said: String = fields.collect::<Vec<_>>().join(", ");
    let said: String = said.chars().take(100).collect();
    format!("{name}: {said:?} of pid {pid} ({program}) is refused: that process is not of its run")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::engine::handle::Identity;
    use crate::engine::snapshot::{Snapshot, SnapshotCell};

    #[test]
    fn attempt_that_cannot_begin_is_answered_and_followed_by_another() {
        let cell = SnapshotCell::new(Snapshot::new("shop".into(), "/".into()));
        let (handle, _) = Handle::new(cell, Identity::nobody()).unwrap();
        let starter = Starter {
            root: Path::new("/").into(),
            nofile: 1_024,
            umask: 0o22,
        };
        let mut checks = Checks::new(&handle, starter).unwrap();
        let run = RunKey {
            unit: 0,
            generation: 1,
        };
        let timing = Timing {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1_000),
            failures: 3,
        };
        // Its run is gone: there is no environment to start it with.
        let command = Target::Command(vec!["true".into()]);
        checks.watch(run, CheckKind::Ready, Some(Box::new((command, timing))));
        let begun = Mono::now();
        checks.run_due();
        let words = checks.schedule.words(run);
        assert_eq!(words.as_deref(), Some("its run has no environment"));
        let next = checks.deadline().unwrap().since(begun);
        assert!(next < Duration::from_secs(20), "{next:?}");
    }
}
