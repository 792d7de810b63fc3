//! Starting children: runs with their sockets and checks, and commands beside them.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::clock::{Mono, Wall};
use crate::base::error::{Fault, reason};
use crate::base::logger::Level;
use crate::base::paths::{LONGEST_SOCKET_PATH, RUN_FOLDER};
use crate::build::{self, Artifact, Exec};
use crate::config::{self, Environment, Listen, Process};
use crate::engine::handle::Notice;
use crate::engine::saved::SavedRun;
use crate::lifecycle::{Event, RunKey, UnitId};
use crate::log::store::Log;
use crate::os::accounts::Account;
use crate::os::cgroup::Cgroup;
use crate::os::fds;
use crate::os::files;
use crate::os::leader::Leader;
use crate::os::peer::our_uid;
use crate::os::proc;
use crate::os::pty::Pty;
use crate::os::reap::Child;
use crate::os::spawn::{Launch, SpawnError, Spawned, Stdin, User, spawn, spawn_on};
use crate::os::trust;

use super::Supervisor;
use super::adopt::settings_of;
use super::checks::RunChecks;
use super::environments::{self, Base, Purpose, Variables};
use super::listening::Expected;
use super::runs::RunRecord;

/// Starts children; what is the same for all of them.
#[derive(Debug, Clone)]
pub(super) struct Starter {
    /// The project's.
    pub(super) root: Arc<Path>,
    /// The soft limit of open files that bpm had at its start.
    pub(super) nofile: u64,
    pub(super) umask: u32,
}

/// A child that executes its program, and what it writes to.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) streams: Streams,
}

/// bpm's sides of the standard streams of a child: two pipes, or a terminal's.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdout: OwnedFd,
    /// None with a terminal.
    pub(super) stderr: Option<OwnedFd>,
    /// The child's side of its terminal.
    pub(super) terminal: Option<OwnedFd>,
}

impl Streams {
    /// Of its pipes, by which the next bpm knows them.
    pub(super) fn inodes(&self) -> Option<[u64; 2]> {
        let inode = |fd: &OwnedFd| fds::inode(fd).ok();
        Some([inode(&self.stdout)?, inode(self.stderr.as_ref()?)?])
    }
}

impl From<Spawned> for Started {
    fn from(spawned: Spawned) -> Self {
        Self {
            child: spawned.child,
            streams: Streams {
                stdout: spawned.stdout,
                stderr: Some(spawned.stderr),
                terminal: None,
            },
        }
    }
}

/// The sockets, the account and the cgroup of a child.
#[derive(Debug, Clone, Copy, Default)]
struct With<'a> {
    /// Become its descriptors 3, 4, ...
    sockets: &'a [BorrowedFd<'a>],
    account: Option<&'a Account>,
    cgroup: Option<&'a Cgroup>,
}

impl Starter {
    /// Starts a command beside the runs: no sockets, and no settings of a process.
    pub(super) fn command(&self, exec: &Exec, env: &Variables) -> Result<Spawned, SpawnError> {
        let launch = config::Launch::default();
        self.with_launch(exec, env, &launch, With::default(), spawn)
    }

    /// Starts a build, as the user that its process will run as.
    pub(super) fn build(
        &self,
        exec: &Exec,
        env: &Variables,
        account: Option<&Account>,
        cgroup: Option<&Cgroup>,
    ) -> Result<Spawned, SpawnError> {
        let with = With {
            account,
            cgroup,
            ..With::default()
        };
        self.with_launch(exec, env, &config::Launch::default(), with, spawn)
    }

    /// Starts a run as `launch` says, with pipes or on a terminal.
    fn run(
        &self,
        exec: &Exec,
        env: &Variables,
        launch: &config::Launch,
        with: With<'_>,
    ) -> Result<Started, String> {
        if !launch.tty {
            let spawned = self.with_launch(exec, env, launch, with, spawn);
            return spawned.map(Into::into).map_err(|e| e.to_string());
        }
        let no_terminal = |e: io::Error| format!("no terminal: {}", reason(&e));
        let Pty { master, terminal } = Pty::open().map_err(no_terminal)?;
        if let Some(account) = with.account {
            // As login(1) does: it may open its terminal by name.
            fchown(&terminal, Some(account.uid), None).map_err(no_terminal)?;
        }
        let on_terminal = |launch: &Launch<'_>| spawn_on(terminal.as_fd(), launch);
        let child = self.with_launch(exec, env, launch, with, on_terminal);
        Ok(Started {
            child: child.map_err(|e| e.to_string())?,
            streams: Streams {
                stdout: master,
                stderr: None,
                terminal: Some(terminal),
            },
        })
    }

    /// Starts a command as `launch` says, by `spawn`.
    fn with_launch<T>(
        &self,
        exec: &Exec,
        env: &Variables,
        launch: &config::Launch,
        with: With<'_>,
        spawn: impl FnOnce(&Launch<'_>) -> Result<T, SpawnError>,
    ) -> Result<T, SpawnError> {
        let root = exec
            .cwd
            .starts_with(&self.root)
            .then(|| trust::folder_to_start_in(&self.root).map_err(SpawnError::in_folder))
            .transpose()?;
        // Another user enters it by its path, by rights of its own; only root gets here, where nobody else can write the
        // folders above.
        let base = root.as_ref().filter(|_| with.account.is_none());
        let env = match exec.env.is_empty() {
            true => Cow::Borrowed(env),
            false => Cow::Owned(environments::with_command(env, exec)),
        };
        let args: Vec<OsString> = exec.args.iter().map(OsString::from).collect();
        spawn(&Launch {
            argv0: exec.argv0.as_ref().map(OsStr::new),
            base: base.map(|folder| (&*self.root, folder.as_fd())),
            pass: with.sockets,
            cgroup: with.cgroup.map(Cgroup::path),
            nofile: launch.limits.nofile.or(Some(self.nofile)),
            core: launch.limits.core,
            umask: launch.umask.or(Some(self.umask)),
            stdin: match launch.stdin_open {
                true => Stdin::Open,
                false => Stdin::Null,
            },
            nice: launch.nice,
            oom_score_adj: launch.oom_score_adj,
            user: with.account.map(|account| User {
                uid: account.uid,
                gid: account.gid,
                groups: &account.groups,
            }),
            ..Launch::new(OsStr::new(&exec.program), &args, &env, &exec.cwd)
        })
    }
}

/// The account of `user` and `group`; None: ours.
pub(super) fn account(wanted: &config::Launch) -> Result<Option<Account>, String> {
    let user = wanted.user.as_deref();
    user.map(|user| Account::find(user, wanted.group.as_deref()))
        .transpose()
}

impl Supervisor {
    /// Starts a run of what that build made, once its environment is there.
    pub(super) fn begin_run(&mut self, key: RunKey, build: u64) {
        if build == 0 {
            self.changes_are_seen(key.unit);
        }
        self.prepare(Purpose::Run { key, build });
    }

    /// Makes the base of an environment; what it is for goes on now or when that is there.
    pub(super) fn prepare(&mut self, purpose: Purpose) {
        let process = self.units.process(purpose.unit());
        // A build has a deadline of its own; it is the same.
        let limit = process.map(|p| p.build_timeout).unwrap_or_default();
        let base = self.environments.get(purpose, &self.setup.config, limit);
        match (base, purpose) {
            (Ok(Base::Ready(base)), _) => self.go_on(purpose, Ok(base)),
            (Ok(Base::Pending), Purpose::Build { unit, .. }) => {
                self.show_phase(unit, "environment");
            }
            (Ok(Base::Pending), Purpose::Run { .. }) => {}
            (Err(why), _) => self.go_on(purpose, Err(why)),
        }
    }

    /// The base of an environment is there, or can't be had.
    pub(super) fn go_on(&mut self, purpose: Purpose, base: Result<Arc<Variables>, String>) {
        match purpose {
            Purpose::Build { unit, id, mode } => self.run_build(unit, id, mode, base),
            Purpose::Run { key, build } => self.launch(key, build, base),
        }
    }

    /// Starts a run, or tells the lifecycle why it can't be.
    fn launch(&mut self, key: RunKey, build: u64, base: Result<Arc<Variables>, String>) {
        let Some(unit) = self.units.get(key.unit) else {
            let why = "it was removed from .mcp-run".into();
            return self.lives.note(Event::NotSpawned { run: key, why });
        };
        let (process, log) = (Arc::clone(&unit.process), Arc::clone(&unit.log));
        let artifact = unit.artifacts.iter().find(|made| made.id == build);
        let artifact = artifact.map(|build| build.made.clone());
        let artifact = artifact.unwrap_or_default();
        if let Some(exe) = artifact.exe.as_ref().filter(|exe| !exe.exists()) {
            let text = format!("{} is gone: building it once more", exe.display());
            self.happened(Level::Info, Some(key.unit), "build", text);
            return self.lives.note(Event::Lost(key));
        }
        let started = base.and_then(|base| {
            self.free_port(key.unit, &process)?;
            let mut notes = Vec::new();
            let (process, env) = self.environment(&process, &base, &mut notes)?;
            let named = self.named_ports(&process);
            if let Some(unit) = self.units.get_mut(key.unit) {
                unit.changed |= unit.named_ports != named;
                unit.named_ports = named;
            }
            for note in notes {
                self.events
                    .say(Level::Warn, &format!("{}: {note}", process.name));
            }
            self.try_launch(key, &process, artifact, log, env)
        });
        if let Err(why) = started {
            let why = format!("cannot start {}: {why}", process.name);
            self.happened(Level::Warn, Some(key.unit), "exit", why.clone());
            self.lives.note(Event::NotSpawned { run: key, why });
        }
    }

    /// Where the `NOTIFY_SOCKET` of a run is.
    fn notify_path(&self, key: RunKey, process: &Process) -> Result<PathBuf, String> {
        // A run that is taken over keeps its own, whatever number its process has then.
        let pid = std::process::id();
        let name = format!("notify-{pid}-{}-{}", key.unit, key.generation);
        if process.launch.user.is_some() && our_uid() == 0 {
            let folder = Path::new(RUN_FOLDER);
            files::passable_dir(folder)
                .map_err(|e| format!("no folder {folder:?}: {}", reason(&e)))?;
            return Ok(folder.join(name));
        }
        let path = self.setup.dir.path().join(&name);
        if path.as_os_str().len() <= LONGEST_SOCKET_PATH {
            return Ok(path);
        }
        // In the short folder of bpm's own socket.
        let socket = self.setup.identity.socket.as_deref().map(Path::new);
        let folder = socket.and_then(Path::parent).ok_or("no folder for it")?;
        files::private_dir(folder).map_err(|e| format!("no folder {folder:?}: {}", reason(&e)))?;
        Ok(folder.join(name))
    }

    /// Plans the run, opens what it needs, starts it.
    fn try_launch(
        &mut self,
        key: RunKey,
        process: &Arc<Process>,
        artifact: Artifact,
        log: Arc<Log>,
        mut env: Environment,
    ) -> Result<(), String> {
        if !process.cwd.is_dir() {
            return Err(format!("no such folder: {:?}", process.cwd));
        }
        let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
        let exec = build::run(process, &artifact, &expand)?;
        self.sockets
            .hold(key.unit, &addresses(process, &env)?, self.setup.umask)?;
        if self.runs.of_unit(key.unit).next().is_none() {
            self.sockets.repair(key.unit, self.setup.umask)?;
        }
        self.holds_again(key.unit);
        let port = self.known_port(process);
        let port = port.filter(|port| !self.sockets.holds(key.unit, *port));
        let mut checks = RunChecks::new(process, &expand)?;
        if checks.needs_socket() {
            checks.open_socket(self.notify_path(key, process)?)?;
        }
        if !process.listen.is_empty() {
            let names = vec![process.name.as_str(); process.listen.len()].join(":");
            env.insert("LISTEN_FDNAMES".into(), names.into());
        }
        for (name, value) in checks.variables() {
            env.insert(name.into(), value);
        }
        let (first_line, run) = (log.next_seq(), log.begin(Wall::now()));
        environments::mark_run(&mut env, process, &self.marker(), run);
        let env = Arc::new(env.into_iter().collect());
        checks.keep_environment(&env);
        checks.follow(&log, run, first_line);
        let account = account(&process.launch)?;
        let listening = Expected::new(port, self.sockets.inodes(key.unit), checks.connects());
        checks.set_before(listening.before());
        let began = Mono::now();
        let cgroup = self.runs.cgroup(&process.name, run);
        let limits = &process.launch.limits;
        let unlimited = self.runs.limit(cgroup.as_ref(), limits).err();
        if let Some(why) = &unlimited {
            self.happened(Level::Warn, Some(key.unit), "limits", why.clone());
        }
        if self.runs.is_read(cgroup.as_ref(), limits) {
            self.memory.begin(began);
        }
        if let Some(unit) = self.units.get_mut(key.unit) {
            unit.unlimited = unlimited;
        }
        let (starter, sockets) = (self.setup.starter(), self.sockets.of(key.unit));
        let with = With {
            sockets: &sockets,
            account: account.as_ref(),
            cgroup: cgroup.as_ref(),
        };
        let before = proc::ticks();
        let started = starter.run(&exec, &env, &process.launch, with);
        let start = |pid| proc::start_since(before, pid).unwrap_or(0);
        let started = started.map(|started| (start(started.child.pid()), started));
        let (start, Started { child, streams }) = match started {
            Ok(started) => started,
            Err(why) => {
                if let Some(group) = cgroup {
                    group.remove();
                }
                log.end(run, Wall::now(), &format!("could not start: {why}"));
                return Err(why);
            }
        };
        let handle = Arc::clone(&self.handle);
        let drained = Box::new(move |all| handle.tell(Notice::Drained { run: key, all }));
        self.store_terminal(&process.name, run, &streams);
        let output = self.runs.capture(log, run, streams, drained);
        if output.is_err() {
            self.release_terminal(&process.name, run);
        }
        let output = output.map_err(|e| {
            child.signal_group(libc::SIGKILL);
            format!("its output can't be read: {}", reason(&e))
        })?;
        let leader = Leader::Child(child);
        let pid = leader.pid();
        self.state.edit().started(SavedRun {
            process: process.name.clone(),
            generation: key.generation,
            run,
            pid,
            start,
            began,
            first_line,
            pipes: output.pipes(),
            settings: settings_of(process, self.setup.config.direnv),
            exe: artifact.exe.clone(),
            cgroup: cgroup.as_ref().map(|group| group.path().into()),
            notify: checks.socket(),
        });
        let record = RunRecord::new(leader, run, artifact.exe, output, began, process, cgroup);
        self.runs.enter(key, record);
        self.strays.expect(Mono::now());
        self.lives.note(Event::Spawned { run: key, pid });
        self.checks.begin(key, checks);
        self.listening.begin(key, listening);
        Ok(())
    }

    /// A process whose texts have the ports of the others that they name, and its environment without what belongs to one
    /// run.
    pub(super) fn environment(
        &mut self,
        process: &Arc<Process>,
        base: &Variables,
        notes: &mut Vec<Fault>,
    ) -> Result<(Arc<Process>, Environment), String> {
        let process = self.with_ports(process)?;
        let port = self.port_of(&process)?;
        let root = &self.setup.config.root;
        let env = environments::of_process(&process, root, base, port, notes)?;
        Ok((process, env))
    }

    /// Opens all sockets that can be opened before anything is built: connections wait from then on.
    pub(super) fn hold_all_sockets(&mut self) {
        for (id, wanted) in self.wanted_sockets() {
            // The run that was taken over has them, alone.
            if self.units.get(id).is_some_and(|u| !u.unheld.is_empty()) {
                continue;
            }
            // A socket that can't be had now (a port in use) is reported at the start as well.
            if let Err(why) = self.sockets.hold(id, &wanted, self.setup.umask) {
                let name = self.units.process(id).map(|p| p.name.clone());
                let name = name.unwrap_or_default();
                self.events.say(Level::Warn, &format!("{name}: {why}"));
            }
        }
    }

    /// After a reload: an address that is another process's now takes its socket along, and the
    /// connections that wait in it.
    pub(super) fn hand_sockets_over(&mut self) {
        let wanted = self.wanted_sockets();
        self.sockets.hand_over(&wanted);
    }

    /// The sockets that processes want, as far as that can be told without direnv.
    pub(super) fn wanted_sockets(&mut self) -> Vec<(UnitId, Vec<Listen>)> {
        let base = self.environments.base();
        let mut wanted = Vec::new();
        for id in self.units.ids() {
            let unit = self.units.get(id).filter(|u| !u.retiring);
            let Some(process) = unit.map(|u| Arc::clone(&u.process)) else {
                continue;
            };
            if !process.listen.is_empty()
                && let Ok((process, env)) = self.environment(&process, &base, &mut Vec::new())
                && let Ok(addresses) = addresses(&process, &env)
            {
                wanted.push((id, addresses));
            }
        }
        wanted
    }

    /// How the markers of this project's processes begin.
    pub(super) fn marker(&self) -> String {
        self.setup.dir.marker()
    }
}

/// The addresses of `listen`.
pub(super) fn addresses(process: &Process, env: &Environment) -> Result<Vec<Listen>, String> {
    let lookup = |name: &str| config::variable_of(env, name);
    let texts = process.listen.iter();
    texts
        .map(|text| config::parse_listen(&config::expand(text, lookup)?))
        .collect()
}
