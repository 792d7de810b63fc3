//! Readiness and health: runs the errands of `probe::Schedule`, and takes what processes say over
//! `NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Mono;
use crate::config::{Probe, Process};
use crate::error::reason;
use crate::hub::Fact;
use crate::journal::Level;
use crate::lifecycle::Event;
use crate::os::notify::Receiver;
use crate::os::reap::Death;
use crate::os::{files, group};
use crate::paths::LONGEST_SOCKET_PATH;
use crate::plan::{Exec, Expand};
use crate::probe::{self, Errand, Following, Prober, Rhythm, Target, What};

use super::runs::end_words;
use super::{Key, Supervisor};

/// What is checked of a run, with its variables expanded.
#[derive(Default)]
pub(super) struct Checks {
    ready: Option<(Target, Rhythm)>,
    /// Begins once the run is good.
    health: Option<(Target, Rhythm)>,
    notify: Option<Ear>,
    /// For commands that check: only where there is one.
    env: Option<Arc<Vec<(OsString, OsString)>>>,
}

/// Where a run says how it is.
struct Ear {
    receiver: Receiver,
    path: PathBuf,
}

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
        if let Some(usec) = process.health.as_ref().and_then(probe::watchdog_usec) {
            all.push(("WATCHDOG_USEC", usec.to_string().into()));
        }
        all
    }

    /// Keeps the environment where a command needs it.
    pub(super) fn keep(&mut self, env: &Arc<Vec<(OsString, OsString)>>) {
        let runs =
            |check: &Option<(Target, Rhythm)>| matches!(check, Some((Target::Command(_), _)));
        if runs(&self.ready) || runs(&self.health) {
            self.env = Some(Arc::clone(env));
        }
    }
}

/// A command that checks.
pub(super) struct Checking {
    key: probe::Key,
    attempt: u64,
    pub(super) pid: i32,
}

impl Supervisor {
    /// Who asks sockets, logs and commands; its answers come as letters.
    pub(super) fn prober(hub: &Arc<crate::hub::Hub>) -> io::Result<Prober> {
        let hub = Arc::clone(hub);
        Prober::new(Box::new(move |key, attempt, result| {
            hub.tell(Fact::Probed {
                key,
                attempt,
                result,
            })
        }))
    }

    /// What is to be checked of the run that begins.
    pub(super) fn plan_checks(
        &self,
        key: Key,
        process: &Process,
        expand: Expand<'_>,
    ) -> Result<Checks, String> {
        let ready = process
            .ready
            .as_ref()
            .map(|r| Ok::<_, String>((Target::of(&r.probe, expand)?, Rhythm::from(r))));
        let health = process
            .health
            .as_ref()
            .map(|h| Ok::<_, String>((Target::of(&h.probe, expand)?, Rhythm::from(h))));
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
            ready: ready.transpose()?,
            health: health.transpose()?,
            notify,
            env: None,
        })
    }

    fn open_ear(&self, key: Key) -> Result<Ear, String> {
        let name = format!("notify-{}-{}", key.0, key.1);
        let mut path = self.setup.dir.path().join(&name);
        if path.as_os_str().len() > LONGEST_SOCKET_PATH {
            let runtime = self
                .setup
                .env
                .iter()
                .find(|(n, _)| n == "XDG_RUNTIME_DIR")
                .map(|(_, v)| v.as_os_str());
            let folder = self
                .setup
                .dir
                .short_folder(runtime, nix::unistd::geteuid().as_raw());
            files::private_dir(&folder)
                .map_err(|e| format!("no folder {folder:?}: {}", reason(&e)))?;
            path = folder.join(name);
        }
        match Receiver::bind(&path) {
            Ok(receiver) => Ok(Ear { receiver, path }),
            Err(e) => Err(format!("no NOTIFY_SOCKET {path:?}: {}", reason(&e))),
        }
    }

    /// The run is there: its readiness is looked at from now on.
    pub(super) fn begin_checks(&mut self, key: Key) {
        let Some(book) = self.books.get(&key) else {
            return;
        };
        if let Some((target, rhythm)) = book.checks.ready.clone() {
            self.schedule
                .watch(check_key(key, What::Ready), target, rhythm, Mono::now());
        }
        self.run_due_checks();
    }

    /// Health is looked at once a run is good.
    pub(super) fn begin_health(&mut self) {
        let waiting: Vec<Key> = self
            .books
            .iter()
            .filter(|(_, b)| b.checks.health.is_some())
            .map(|(k, _)| *k)
            .collect();
        for key in waiting {
            let good = self
                .fleet
                .facts(key.0)
                .is_some_and(|f| f.generation == Some(key.1) && f.ready == Some(true));
            let Some(book) = self.books.get_mut(&key).filter(|_| good) else {
                continue;
            };
            if let Some((target, rhythm)) = book.checks.health.take() {
                self.schedule
                    .watch(check_key(key, What::Health), target, rhythm, Mono::now());
            }
        }
    }

    pub(super) fn run_due_checks(&mut self) {
        let mut errands = Vec::new();
        self.schedule.step(Mono::now(), &mut errands);
        self.run_errands(errands);
    }

    pub(super) fn end_checks(&mut self, key: Key) {
        let mut errands = Vec::new();
        self.schedule.forget(key.0, key.1, &mut errands);
        self.run_errands(errands);
    }

    pub(super) fn probed(&mut self, key: probe::Key, attempt: u64, result: Result<String, String>) {
        let mut errands = Vec::new();
        self.schedule
            .answer(key, attempt, result, Mono::now(), &mut errands);
        if let Some(unit) = self.units.get_mut(&key.unit) {
            unit.changed = true;
        }
        self.run_errands(errands);
    }

    /// What processes have said.
    pub(super) fn listen_to_runs(&mut self) {
        let speaking: Vec<Key> = self
            .books
            .iter()
            .filter(|(_, b)| b.checks.ear().is_some())
            .map(|(k, _)| *k)
            .collect();
        for key in speaking {
            let mut errands = Vec::new();
            let mut words = Vec::new();
            let ear = self.books.get(&key).and_then(|b| b.checks.notify.as_ref());
            while let Some(Ok(Some(notice))) = ear.map(|e| e.receiver.take()) {
                words.extend(probe::ignored(&notice));
                self.schedule
                    .notified(key.0, key.1, &notice, Mono::now(), &mut errands);
            }
            for text in words {
                self.say(Level::Warn, &text);
            }
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

    fn tell_lifecycle(&mut self, key: probe::Key, good: bool, saw: &str) {
        let probe::Key {
            unit,
            generation,
            what,
        } = key;
        match what {
            What::Ready if good => self.queue.push_back(Event::Ready { unit, generation }),
            What::Ready => {}
            What::Health => {
                if !good {
                    self.happened(Some(unit), "health", format!("not healthy: {saw}"));
                }
                self.queue.push_back(Event::Health {
                    unit,
                    generation,
                    healthy: good,
                });
            }
        }
    }

    fn follow(&self, key: probe::Key, attempt: u64, pattern: String) {
        let run = self
            .books
            .get(&(key.unit, key.generation))
            .map(|b| (b.run, b.first_line));
        let tape = self.units.get(&key.unit).map(|u| Arc::clone(&u.log));
        if let (Some((run, first)), Some(tape)) = (run, tape) {
            let log = Following {
                tape,
                run,
                after: first.saturating_sub(1),
            };
            self.prober.follow(key, attempt, log, pattern);
        }
    }

    fn run_check(&mut self, key: probe::Key, attempt: u64, command: Vec<String>) {
        let env = self
            .books
            .get(&(key.unit, key.generation))
            .and_then(|b| b.checks.env.clone());
        let process = self.units.get(&key.unit).map(|u| Arc::clone(&u.process));
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
                if let (Some(stdout), Some(stderr)) = (spawned.stdout, spawned.stderr) {
                    self.prober.watch(key, attempt, stdout, stderr);
                }
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
        let words = end_words(death.end);
        let end = if words == "exit code 0" {
            Ok(())
        } else {
            Err(words)
        };
        self.prober.ended(key, attempt, end);
        true
    }

    /// What the last attempt saw.
    pub(super) fn seen_by_checks(&self, key: Key) -> Option<&str> {
        self.schedule.saw(key.0, key.1)
    }
}

fn check_key(key: Key, what: What) -> probe::Key {
    probe::Key {
        unit: key.0,
        generation: key.1,
        what,
    }
}
