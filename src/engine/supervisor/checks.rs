//! Readiness and health: runs the actions of `check::Schedule`, and takes what processes say over
//! `NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::logger::Level;
use crate::base::paths::LONGEST_SOCKET_PATH;
use crate::build::{Exec, Expand};
use crate::check::{self, Action, CheckKey, CheckKind, Following, Prober, Target, Timing};
use crate::config::{self, Probe, Process};
use crate::engine::handle::{Handle, Notice};
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::os::notify::Receiver;
use crate::os::reap::{Child, reap_from};
use crate::os::{files, peer};

use super::Supervisor;

/// What is looked at and how often, where that is asked for.
type Check = Option<(Target, Timing)>;

/// What is checked of a run, with its variables expanded.
#[derive(Default)]
pub(super) struct Checks {
    ready: Check,
    /// Begins once the run is good.
    health: Check,
    notify: Option<NotifySocket>,
    /// What was told last of what they saw.
    told: Option<String>,
    /// For commands that check: only where there is one.
    env: Option<Arc<Vec<(OsString, OsString)>>>,
}

/// Where a run says how it is.
struct NotifySocket {
    receiver: Receiver,
    path: PathBuf,
    /// It was told that what it says is ignored: once is enough.
    warned: bool,
}

/// How many notices of a run are taken before others have their turn: a process that says more than we
/// can read must not hold us up.
const NOTICES: usize = 32;

impl Checks {
    /// What is to be watched besides.
    pub(super) fn notify_socket(&self) -> Option<BorrowedFd<'_>> {
        self.notify
            .as_ref()
            .map(|notify_socket| notify_socket.receiver.as_fd())
    }

    /// What the run's environment needs for it.
    pub(super) fn variables(&self, process: &Process) -> Vec<(&'static str, OsString)> {
        let Some(notify_socket) = &self.notify else {
            return Vec::new();
        };
        let mut all = vec![("NOTIFY_SOCKET", notify_socket.path.clone().into_os_string())];
        if let Some(usec) = process.health.as_ref().and_then(check::watchdog_usec) {
            all.push(("WATCHDOG_USEC", usec.to_string().into()));
        }
        all
    }

    /// Keeps the environment where a command needs it.
    pub(super) fn keep(&mut self, env: &Arc<Vec<(OsString, OsString)>>) {
        let runs = |check: &Check| matches!(check, Some((Target::Command(_), _)));
        if runs(&self.ready) || runs(&self.health) {
            self.env = Some(Arc::clone(env));
        }
    }
}

/// A command that checks.
pub(super) struct Checking {
    key: CheckKey,
    attempt: u64,
    pub(super) child: Option<Child>,
}

impl Checking {
    fn kill(&self) {
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }
}

impl Supervisor {
    /// What asks sockets, logs and commands; its answers come as commands.
    pub(super) fn prober(handle: &Arc<Handle>) -> io::Result<Prober> {
        let handle = Arc::clone(handle);
        Prober::new(Box::new(move |key, attempt, result| {
            handle.tell(Notice::Probed {
                key,
                attempt,
                result,
            })
        }))
    }

    /// A reload has other checks: what runs is looked at by them from now on.
    pub(super) fn check_anew(&mut self, unit: UnitId) {
        let Some(process) = self.units.get(&unit).map(|u| Arc::clone(&u.process)) else {
            return;
        };
        let keys: Vec<RunKey> = self
            .books
            .keys()
            .filter(|k| k.unit == unit)
            .copied()
            .collect();
        for key in keys {
            if let Err(why) = self.replace_checks(key, &process) {
                let name = &process.name;
                self.say(
                    Level::Warn,
                    &format!("{name}: its checks stay as they were until its next start: {why}"),
                );
            }
        }
    }

    fn replace_checks(&mut self, key: RunKey, process: &Process) -> Result<(), String> {
        let living = self.books.get(&key).filter(|b| b.lives());
        let Some(run) = living.map(|b| b.run) else {
            return Ok(());
        };
        // What direnv adds is not asked for anew: a variable that only it knows is missed here.
        let base = Arc::clone(self.base.variables());
        let env = self.run_environment(process, &base, run)?;
        let (ready, health) = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            targets(process, &expand)?
        };
        let good = self.is_good(key);
        self.end_checks(key);
        if let Some(book) = self.books.get_mut(&key) {
            book.checks.ready = ready.filter(|_| !good);
            book.checks.health = health;
            if book.checks.env.is_none() {
                book.checks.keep(&Arc::new(env.into_iter().collect()));
            }
        }
        self.note_words(key);
        self.begin_checks(key);
        Ok(())
    }

    /// What is to be checked of the run that begins.
    pub(super) fn plan_checks(
        &self,
        key: RunKey,
        process: &Process,
        expand: Expand<'_>,
    ) -> Result<Checks, String> {
        let (ready, health) = targets(process, expand)?;
        let speaks = process
            .ready
            .as_ref()
            .is_some_and(|r| r.probe == Probe::Notify)
            || process
                .health
                .as_ref()
                .is_some_and(|h| h.probe == Probe::Notify);
        let notify = if speaks {
            Some(self.open_notify_socket(key)?)
        } else {
            None
        };
        Ok(Checks {
            ready,
            health,
            notify,
            told: None,
            env: None,
        })
    }

    /// It is the run in service, and ready.
    fn is_good(&self, key: RunKey) -> bool {
        let facts = self.fleet.facts(key.unit);
        facts.is_some_and(|f| f.generation == Some(key.generation) && f.ready == Some(true))
    }

    fn open_notify_socket(&self, key: RunKey) -> Result<NotifySocket, String> {
        let name = format!("notify-{}-{}", key.unit, key.generation);
        let mut path = self.setup.dir.path().join(&name);
        if path.as_os_str().len() > LONGEST_SOCKET_PATH {
            let runtime = self
                .setup
                .env
                .iter()
                .find(|(n, _)| n == "XDG_RUNTIME_DIR")
                .map(|(_, v)| v.as_os_str());
            let folder = self.setup.dir.short_folder(runtime, peer::our_uid());
            files::private_dir(&folder)
                .map_err(|e| format!("no folder {folder:?}: {}", reason(&e)))?;
            path = folder.join(name);
        }
        match Receiver::bind(&path) {
            Ok(receiver) => Ok(NotifySocket {
                receiver,
                path,
                warned: false,
            }),
            Err(e) => Err(format!("no NOTIFY_SOCKET {path:?}: {}", reason(&e))),
        }
    }

    /// Somebody removed bpm's files: what runs is heard again at the paths that it knows.
    pub(super) fn open_notify_sockets_anew(&mut self) {
        self.listen_to_runs();
        for book in self.books.values_mut() {
            let Some(old) = book
                .checks
                .notify
                .take_if(|notify_socket| !notify_socket.path.exists())
            else {
                continue;
            };
            let (path, warned) = (old.path.clone(), old.warned);
            // It removes its path.
            drop(old);
            book.checks.notify = Receiver::bind(&path).ok().map(|receiver| NotifySocket {
                receiver,
                path,
                warned,
            });
        }
    }

    /// The run is there: its readiness is looked at from now on.
    pub(super) fn begin_checks(&mut self, key: RunKey) {
        let Some(book) = self.books.get(&key) else {
            return;
        };
        if let Some((target, rhythm)) = book.checks.ready.clone() {
            let what = CheckKind::Ready;
            self.schedule
                .watch(CheckKey { run: key, what }, target, rhythm, Mono::now());
        }
        self.run_due_checks();
    }

    /// Health is looked at once a run is good.
    pub(super) fn begin_health(&mut self) {
        let waiting: Vec<RunKey> = self
            .books
            .iter()
            .filter(|(_, b)| b.checks.health.is_some())
            .map(|(k, _)| *k)
            .collect();
        for key in waiting {
            if !self.is_good(key) {
                continue;
            }
            let Some(book) = self.books.get_mut(&key) else {
                continue;
            };
            if let Some((target, rhythm)) = book.checks.health.take() {
                let what = CheckKind::Health;
                self.schedule
                    .watch(CheckKey { run: key, what }, target, rhythm, Mono::now());
            }
        }
    }

    /// Does what the schedule has due now.
    pub(super) fn run_due_checks(&mut self) {
        let mut actions = Vec::new();
        self.schedule.step(Mono::now(), &mut actions);
        // What is due may have failed by that alone: a command that is late, a watchdog.
        let mut late: Vec<RunKey> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Kill { key, .. } | Action::Tell { key, .. } => Some(key.run),
                Action::Connect { .. }
                | Action::Follow { .. }
                | Action::Run { .. }
                | Action::Forget { .. } => None,
            })
            .collect();
        late.dedup();
        for key in late {
            self.note_words(key);
        }
        self.run_actions(actions);
    }

    /// Ends the checks of a run, those under way too.
    pub(super) fn end_checks(&mut self, key: RunKey) {
        let mut actions = Vec::new();
        self.schedule.forget(key, &mut actions);
        self.run_actions(actions);
    }

    /// An attempt at a check has its answer.
    pub(super) fn probed(&mut self, key: CheckKey, attempt: u64, result: Result<String, String>) {
        let mut actions = Vec::new();
        self.schedule
            .answer(key, attempt, result, Mono::now(), &mut actions);
        self.note_words(key.run);
        self.run_actions(actions);
    }

    /// Tells what the checks of a run have to say, where that is something new.
    fn note_words(&mut self, key: RunKey) {
        let words = self.schedule.words(key);
        let Some(book) = self.books.get_mut(&key) else {
            return;
        };
        if book.checks.told != words {
            book.checks.told.clone_from(&words);
            self.queue.push_back(Event::Seen { run: key, words });
        }
    }

    /// What processes have said.
    pub(super) fn listen_to_runs(&mut self) {
        let speaking: Vec<RunKey> = self
            .books
            .iter()
            .filter(|(_, b)| b.checks.notify_socket().is_some())
            .map(|(k, _)| *k)
            .collect();
        for key in speaking {
            let mut actions = Vec::new();
            for _ in 0..NOTICES {
                let notify_socket = self
                    .books
                    .get_mut(&key)
                    .and_then(|b| b.checks.notify.as_mut());
                let Some((notify_socket, Ok(Some(notice)))) = notify_socket.map(|notify_socket| {
                    let notice = notify_socket.receiver.take();
                    (notify_socket, notice)
                }) else {
                    break;
                };
                let ignored = check::ignored(&notice).filter(|_| !notify_socket.warned);
                notify_socket.warned |= ignored.is_some();
                if let Some(text) = ignored {
                    self.say(Level::Warn, &text);
                }
                self.schedule
                    .notified(key, &notice, Mono::now(), &mut actions);
            }
            self.note_words(key);
            self.run_actions(actions);
        }
    }

    fn run_actions(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Connect {
                    key,
                    attempt,
                    connect,
                    within,
                } => self.prober.connect(key, attempt, connect, within),
                Action::Follow {
                    key,
                    attempt,
                    pattern,
                } => self.follow(key, attempt, pattern),
                Action::Run {
                    key,
                    attempt,
                    command,
                } => self.run_check(key, attempt, command),
                Action::Kill { key, attempt } => {
                    for c in self
                        .checking
                        .iter()
                        .filter(|c| (c.key, c.attempt) == (key, attempt))
                    {
                        c.kill();
                    }
                }
                Action::Forget { key } => self.prober.forget(key),
                Action::Tell { key, good, saw } => self.tell_lifecycle(key, good, &saw),
            }
        }
    }

    fn tell_lifecycle(&mut self, key: CheckKey, good: bool, saw: &str) {
        let CheckKey { run, what } = key;
        match what {
            CheckKind::Ready if good => self.queue.push_back(Event::Ready(run)),
            CheckKind::Ready => {}
            CheckKind::Health => {
                if !good {
                    self.trouble(Some(run.unit), "health", format!("not healthy: {saw}"));
                }
                self.queue.push_back(Event::Health { run, healthy: good });
            }
        }
    }

    fn follow(&mut self, key: CheckKey, attempt: u64, pattern: String) {
        let run = self.books.get(&key.run).map(|b| (b.run, b.first_line));
        let log = self.units.get(&key.run.unit).map(|u| Arc::clone(&u.log));
        if let (Some((run, first)), Some(log)) = (run, log) {
            let log = Following {
                log,
                run,
                after: first.saturating_sub(1),
            };
            self.prober.follow(key, attempt, log, pattern);
        } else {
            self.probed(key, attempt, Err("its run is gone".into()));
        }
    }

    fn run_check(&mut self, key: CheckKey, attempt: u64, command: Vec<String>) {
        let env = self.books.get(&key.run).and_then(|b| b.checks.env.clone());
        let process = self
            .units
            .get(&key.run.unit)
            .map(|u| Arc::clone(&u.process));
        let (Some(env), Some(process), Some((program, args))) =
            (env, process, command.split_first())
        else {
            let gone = Err("its run is gone".into());
            return self.probed(key, attempt, gone);
        };
        let exec = Exec {
            program: program.clone(),
            argv0: None,
            args: args.to_vec(),
            env: Vec::new(),
            cwd: process.cwd.clone(),
        };
        match self.start(&exec, &env, None) {
            Ok(spawned) => {
                self.prober
                    .watch(key, attempt, spawned.stdout, spawned.stderr);
                self.checking.push(Checking {
                    key,
                    attempt,
                    child: Some(spawned.child),
                });
            }
            Err(e) => self.probed(key, attempt, Err(e.to_string())),
        }
    }

    /// Reaps a command that checks, if it is one; what it leaves behind would pile up.
    pub(super) fn reap_check(&mut self, pid: i32) -> bool {
        let is = |c: &Checking| c.child.as_ref().is_some_and(|child| child.pid() == pid);
        let Some(at) = self.checking.iter().position(is) else {
            return false;
        };
        let check = &mut self.checking[at];
        check.kill();
        let Some(death) = reap_from(&mut check.child) else {
            return false;
        };
        let Checking { key, attempt, .. } = self.checking.swap_remove(at);
        self.prober.ended(key, attempt, death.end.into_result());
        true
    }
}

/// What the file says of readiness and of health, with variables expanded.
fn targets(process: &Process, expand: Expand<'_>) -> Result<(Check, Check), String> {
    let ready = process
        .ready
        .as_ref()
        .map(|r| Ok::<_, String>((Target::of(&r.probe, expand)?, Timing::from(r))));
    let health = process
        .health
        .as_ref()
        .map(|h| Ok::<_, String>((Target::of(&h.probe, expand)?, Timing::from(h))));
    Ok((ready.transpose()?, health.transpose()?))
}
