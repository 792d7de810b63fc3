//! Starting runs: sockets, checks, the process itself.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::base::clock::{Mono, Wall};
use crate::base::error::reason;
use crate::base::logger::Level;
use crate::build::{self, Artifact, Exec};
use crate::config::{self, Environment, Listen, Process};
use crate::engine::handle::Notice;
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::log::capture::CaptureLoop;
use crate::log::store::Log;
use crate::os::accounts::Account;
use crate::os::proc;
use crate::os::reap::Child;
use crate::os::spawn::{Launch, SpawnError, Spawned, Stdin, User, spawn};

use super::Supervisor;
use super::environment::{Purpose, Variables};
use super::runs::RunRecord;

impl Supervisor {
    /// Makes the environment of a run; [`Supervisor::spawn_run`] follows.
    pub(super) fn begin_run(&mut self, key: RunKey, build: u64) {
        if build == 0 {
            self.changes_are_seen(key.unit);
        }
        self.prepare(Purpose::Run { key, build });
    }

    /// Starts a run of what that build made.
    pub(super) fn spawn_run(
        &mut self,
        key: RunKey,
        build: u64,
        process: &Process,
        env: Environment,
    ) {
        let Some(u) = self.units.get(&key.unit) else {
            return;
        };
        let artifact = u
            .artifacts
            .get(&build)
            .map(|(_, a)| a.clone())
            .unwrap_or_default();
        if let Some(exe) = artifact.exe.as_ref().filter(|exe| !exe.exists()) {
            let text = format!("{} is gone: building it once more", exe.display());
            self.happened(Some(key.unit), "build", text);
            return self.queue.push_back(Event::Lost(key));
        }
        let log = Arc::clone(&u.log);
        if let Err(why) = self.try_run(key, process, artifact, log, env) {
            self.fail(Purpose::Run { key, build }, &why);
        }
    }

    /// Plans the run, opens what it needs, starts it.
    fn try_run(
        &mut self,
        key: RunKey,
        process: &Process,
        artifact: Artifact,
        log: Arc<Log>,
        mut env: Environment,
    ) -> Result<(), String> {
        if !process.cwd.is_dir() {
            return Err(format!("no such folder: {:?}", process.cwd));
        }
        let exec = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            build::run(process, &artifact, &expand)?
        };
        self.hold_sockets(key.unit, process, &env)?;
        if !process.listen.is_empty() {
            let names = vec![process.name.as_str(); process.listen.len()].join(":");
            env.insert("LISTEN_FDNAMES".into(), names.into());
        }
        let mut checks = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            self.plan_checks(key, process, &expand)?
        };
        for (name, value) in checks.variables(process) {
            env.insert(name.into(), value);
        }
        let (first_line, run) = (log.next_seq(), log.begin(Wall::now()));
        self.mark(&mut env, process, run);
        let env = Arc::new(variables(env));
        checks.keep(&env);
        let account = account(&process.launch)?;
        let began = Mono::now();
        let held = self.sockets.of(key.unit);
        let spawned = match self.start_as(&exec, &env, &held, Some(process), account.as_ref()) {
            Ok(spawned) => spawned,
            Err(e) => {
                log.end(run, Wall::now(), &format!("could not start: {e}"));
                return Err(e.to_string());
            }
        };
        let Spawned {
            child,
            stdout,
            stderr,
        } = spawned;
        let capture = self.capture_of(key.unit, run, log, &child, [stdout, stderr])?;
        let mut book = RunRecord::new(child, run, first_line, capture, began, process);
        book.exe = artifact.exe;
        book.checks = checks;
        self.enter(key, process, book);
        Ok(())
    }

    /// Begins to read what a run writes; kills it where that can't be.
    fn capture_of(
        &mut self,
        unit: UnitId,
        run: u64,
        log: Arc<Log>,
        child: &Child,
        [stdout, stderr]: [OwnedFd; 2],
    ) -> Result<CaptureLoop, String> {
        let handle = Arc::clone(&self.handle);
        let drained = Box::new(move || handle.tell(Notice::Drained { unit, run }));
        let capture = self.captures.read(log, run, stdout, stderr, drained);
        capture.map_err(|e| {
            child.signal_group(libc::SIGKILL);
            format!("its output can't be read: {}", reason(&e))
        })
    }

    /// Notes a run that has begun, tells the lifecycle of it and looks at its readiness.
    fn enter(&mut self, key: RunKey, process: &Process, book: RunRecord) {
        let pid = book.pid;
        let start = proc::start_time(pid).unwrap_or(0);
        self.by_pid.insert(pid, key);
        self.state.started(&process.name, pid, start, book.run);
        self.state_changed = true;
        self.books.insert(key, Box::new(book));
        self.queue.push_back(Event::Spawned { run: key, pid });
        self.begin_checks(key);
    }

    /// Opens the sockets of a process; nothing where it has none, or has them already.
    fn hold_sockets(
        &mut self,
        unit: UnitId,
        process: &Process,
        env: &Environment,
    ) -> Result<(), String> {
        let wanted = addresses(process, env)?;
        self.sockets.hold(unit, &wanted, self.setup.umask)
    }

    /// After a reload: an address that is another process's now takes its socket along, and the
    /// connections that wait in it.
    pub(super) fn hand_sockets_over(&mut self) {
        let base = Arc::clone(self.base.variables());
        let mut wanted = Vec::new();
        for id in self.order.clone() {
            let unit = self.units.get(&id).filter(|u| !u.retiring);
            let Some(process) = unit.map(|u| Arc::clone(&u.process)) else {
                continue;
            };
            if process.listen.is_empty() {
                continue;
            }
            // What can't be told now is opened at the start.
            if let Ok(env) = self.environment(&process, &base)
                && let Ok(addresses) = addresses(&process, &env)
            {
                wanted.push((id, addresses));
            }
        }
        self.sockets.hand_over(&wanted);
    }

    /// Opens all sockets that can be opened before anything is built: connections wait from then on.
    pub(super) fn hold_all_sockets(&mut self) {
        let base = Arc::clone(self.base.variables());
        for id in self.order.clone() {
            let Some(process) = self.units.get(&id).map(|u| Arc::clone(&u.process)) else {
                continue;
            };
            if process.listen.is_empty() {
                continue;
            }
            // What can't be had now (a variable of direnv's, a port in use) is said at the start.
            if let Ok(env) = self.environment(&process, &base)
                && let Err(why) = self.hold_sockets(id, &process, &env)
            {
                self.say(Level::Warn, &format!("{}: {why}", process.name));
            }
        }
    }

    /// Starts a command beside the runs: no sockets, and no limits of a process.
    pub(super) fn start(
        &self,
        exec: &Exec,
        env: &Variables,
        account: Option<&Account>,
    ) -> Result<Spawned, SpawnError> {
        self.start_as(exec, env, &[], None, account)
    }

    fn start_as(
        &self,
        exec: &Exec,
        env: &Variables,
        pass: &[BorrowedFd<'_>],
        process: Option<&Process>,
        account: Option<&Account>,
    ) -> Result<Spawned, SpawnError> {
        let mut env = Cow::Borrowed(env);
        for (name, value) in &exec.env {
            let env = env.to_mut();
            env.retain(|(n, _)| n.as_os_str() != OsStr::new(name));
            env.push((name.into(), value.into()));
        }
        let args: Vec<OsString> = exec.args.iter().map(OsString::from).collect();
        let wanted = process.map(|p| p.launch.clone()).unwrap_or_default();
        spawn(&Launch {
            program: OsStr::new(&exec.program),
            argv0: exec.argv0.as_ref().map(OsStr::new),
            args: &args,
            env: &env,
            cwd: &exec.cwd,
            pass,
            nofile: wanted.limits.nofile.or(Some(self.setup.nofile.soft)),
            core: wanted.limits.core,
            umask: wanted.umask.or(Some(self.setup.umask)),
            stdin: match wanted.stdin_open {
                true => Stdin::Open,
                false => Stdin::Null,
            },
            cgroup: None,
            nice: wanted.nice,
            oom_score_adj: wanted.oom_score_adj,
            user: account.map(|account| User {
                uid: account.uid,
                gid: account.gid,
                groups: &account.groups,
            }),
        })
    }

    /// How the markers of this project's processes begin.
    pub(super) fn marker_prefix(&self) -> String {
        self.setup.dir.marker()
    }
}

/// The account of `user` and `group`; None: ours.
pub(super) fn account(wanted: &config::Launch) -> Result<Option<Account>, String> {
    let user = wanted.user.as_deref();
    user.map(|user| Account::find(user, wanted.group.as_deref()))
        .transpose()
}

/// What `listen` says.
fn addresses(process: &Process, env: &Environment) -> Result<Vec<Listen>, String> {
    let lookup = |name: &str| config::variable_of(env, name);
    let texts = process.listen.iter();
    texts
        .map(|text| config::parse_listen(&config::expand(text, lookup)?))
        .collect()
}

/// As it is handed to a process.
pub(super) fn variables(env: Environment) -> Variables {
    env.into_iter().collect()
}
