//! Readiness and health: runs the errands of `check::Schedule`, and takes what processes say over
//! `NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::logger::Level;
use crate::base::paths::LONGEST_SOCKET_PATH;
use crate::build::{Exec, Expand};
use crate::check::{self, CheckKey, Errand, Following, Prober, Rhythm, Target, What};
use crate::config::{self, Probe, Process};
use crate::engine::handle::{Fact, Hub};
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::os::notify::Receiver;
use crate::os::reap::Death;
use crate::os::{files, group, peer};

use super::Supervisor;

/// What is looked at and how often, where that is asked for.
type Check = Option<(Target, Rhythm)>;

/// What is checked of a run, with its variables expanded.
#[derive(Default)]
pub(super) struct Checks {
    ready: Check,
    /// Begins once the run is good.
    health: Check,
    notify: Option<Ear>,
    /// What was told last of what they saw.
    told: Option<String>,
    /// For commands that check: only where there is one.
    env: Option<Arc<Vec<(OsString, OsString)>>>,
}

/// Where a run says how it is.
struct Ear {
    receiver: Receiver,
    path: PathBuf,
    /// It was told that what it says is ignored: once is enough.
    warned: bool,
}

/// How many notices of a run are taken before others have their turn: a process that says more than we
/// can read must not hold us up.
const NOTICES: usize = 32;

impl Drop for Ear {
    fn drop(&mut self) {
        // Gone already: nothing to do.
        let _ = fs::remove_file(&self.path);
    }
}

impl Checks {
    /// What is to be watched besides.
    pub(super) fn ear(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(|ear| ear.receiver.as_fd())
    }

    /// What the run's environment needs for it.
    pub(super) fn variables(&self, process: &Process) -> Vec<(&'static str, OsString)> {
        let Some(ear) = &self.notify else {
            return Vec::new();
        };
        let mut all = vec![("NOTIFY_SOCKET", ear.path.clone().into_os_string())];
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
    pub(super) pid: i32,
}

impl Supervisor {
    /// What asks sockets, logs and commands; its answers come as letters.
    pub(super) fn prober(hub: &Arc<Hub>) -> io::Result<Prober> {
        let hub = Arc::clone(hub);
        Prober::new(Box::new(move |key, attempt, result| {
            hub.tell(Fact::Probed {
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
            Some(self.open_ear(key)?)
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

    fn open_ear(&self, key: RunKey) -> Result<Ear, String> {
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
            Ok(receiver) => Ok(Ear {
                receiver,
                path,
                warned: false,
            }),
            Err(e) => Err(format!("no NOTIFY_SOCKET {path:?}: {}", reason(&e))),
        }
    }

    /// Somebody removed bpm's files: what runs is heard again at the paths that it knows.
    pub(super) fn open_ears_anew(&mut self) {
        self.listen_to_runs();
        for book in self.books.values_mut() {
            let Some(old) = book.checks.notify.take_if(|ear| !ear.path.exists()) else {
                continue;
            };
            let (path, warned) = (old.path.clone(), old.warned);
            // It would take the path with it.
            drop(old);
            book.checks.notify = Receiver::bind(&path).ok().map(|receiver| Ear {
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
            let what = What::Ready;
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
                let what = What::Health;
                self.schedule
                    .watch(CheckKey { run: key, what }, target, rhythm, Mono::now());
            }
        }
    }

    /// Does what the schedule has due now.
    pub(super) fn run_due_checks(&mut self) {
        let mut errands = Vec::new();
        self.schedule.step(Mono::now(), &mut errands);
        // What is due may have failed by that alone: a command that is late, a watchdog.
        let mut late: Vec<RunKey> = errands
            .iter()
            .filter_map(|errand| match errand {
                Errand::Kill { key, .. } | Errand::Tell { key, .. } => Some(key.run),
                Errand::Knock { .. }
                | Errand::Follow { .. }
                | Errand::Run { .. }
                | Errand::Forget { .. } => None,
            })
            .collect();
        late.dedup();
        for key in late {
            self.note_words(key);
        }
        self.run_errands(errands);
    }

    /// Ends the checks of a run, those under way too.
    pub(super) fn end_checks(&mut self, key: RunKey) {
        let mut errands = Vec::new();
        self.schedule.forget(key, &mut errands);
        self.run_errands(errands);
    }

    /// An attempt at a check has its answer.
    pub(super) fn probed(&mut self, key: CheckKey, attempt: u64, result: Result<String, String>) {
        let mut errands = Vec::new();
        self.schedule
            .answer(key, attempt, result, Mono::now(), &mut errands);
        self.note_words(key.run);
        self.run_errands(errands);
    }

    /// Tells what the checks of a run have to say, where that is something new.
    fn note_words(&mut self, key: RunKey) {
        let words = self.schedule.words(key);
        let Some(book) = self.books.get_mut(&key) else {
            return;
        };
        if book.checks.told != words {
            book.checks.told.clone_from(&words);
            self.queue.push_back(Event::Seen {
                unit: key.unit,
                generation: key.generation,
                words,
            });
        }
    }

    /// What processes have said.
    pub(super) fn listen_to_runs(&mut self) {
        let speaking: Vec<RunKey> = self
            .books
            .iter()
            .filter(|(_, b)| b.checks.ear().is_some())
            .map(|(k, _)| *k)
            .collect();
        for key in speaking {
            let mut errands = Vec::new();
            for _ in 0..NOTICES {
                let ear = self
                    .books
                    .get_mut(&key)
                    .and_then(|b| b.checks.notify.as_mut());
                let Some((ear, Ok(Some(notice)))) = ear.map(|ear| {
                    let notice = ear.receiver.take();
                    (ear, notice)
                }) else {
                    break;
                };
                let ignored = check::ignored(&notice).filter(|_| !ear.warned);
                ear.warned |= ignored.is_some();
                if let Some(text) = ignored {
                    self.say(Level::Warn, &text);
                }
                self.schedule
                    .notified(key, &notice, Mono::now(), &mut errands);
            }
            self.note_words(key);
            self.run_errands(errands);
        }
    }

    fn run_errands(&mut self, errands: Vec<Errand>) {
        for errand in errands {
            match errand {
                Errand::Knock {
                    key,
                    attempt,
                    knock,
                    within,
                } => self.prober.knock(key, attempt, knock, within),
                Errand::Follow {
                    key,
                    attempt,
                    pattern,
                } => self.follow(key, attempt, pattern),
                Errand::Run {
                    key,
                    attempt,
                    command,
                } => self.run_check(key, attempt, command),
                Errand::Kill { key, attempt } => {
                    for c in self
                        .checking
                        .iter()
                        .filter(|c| (c.key, c.attempt) == (key, attempt))
                    {
                        group::signal_group(c.pid, libc::SIGKILL);
                    }
                }
                Errand::Forget { key } => self.prober.forget(key),
                Errand::Tell { key, good, saw } => self.tell_lifecycle(key, good, &saw),
            }
        }
    }

    fn tell_lifecycle(&mut self, key: CheckKey, good: bool, saw: &str) {
        let CheckKey { run, what } = key;
        let RunKey { unit, generation } = run;
        match what {
            What::Ready if good => self.queue.push_back(Event::Ready { unit, generation }),
            What::Ready => {}
            What::Health => {
                if !good {
                    self.trouble(Some(unit), "health", format!("not healthy: {saw}"));
                }
                self.queue.push_back(Event::Health {
                    unit,
                    generation,
                    healthy: good,
                });
            }
        }
    }

    fn follow(&self, key: CheckKey, attempt: u64, pattern: String) {
        let run = self.books.get(&key.run).map(|b| (b.run, b.first_line));
        let tape = self.units.get(&key.run.unit).map(|u| Arc::clone(&u.log));
        if let (Some((run, first)), Some(tape)) = (run, tape) {
            let log = Following {
                tape,
                run,
                after: first.saturating_sub(1),
            };
            self.prober.follow(key, attempt, log, pattern);
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
            return;
        };
        let exec = Exec {
            program: program.clone(),
            argv0: None,
            args: args.to_vec(),
            env: Vec::new(),
            cwd: process.cwd.clone(),
        };
        match self.start(&exec, &env) {
            Ok(spawned) => {
                self.prober
                    .watch(key, attempt, spawned.stdout, spawned.stderr);
                self.checking.push(Checking {
                    key,
                    attempt,
                    pid: spawned.pid,
                });
            }
            Err(e) => self.probed(key, attempt, Err(e.to_string())),
        }
    }

    /// True if that was a command that checks.
    pub(super) fn check_exited(&mut self, death: Death) -> bool {
        let Some(at) = self.checking.iter().position(|c| c.pid == death.pid) else {
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
        .map(|r| Ok::<_, String>((Target::of(&r.probe, expand)?, Rhythm::from(r))));
    let health = process
        .health
        .as_ref()
        .map(|h| Ok::<_, String>((Target::of(&h.probe, expand)?, Rhythm::from(h))));
    Ok((ready.transpose()?, health.transpose()?))
}
