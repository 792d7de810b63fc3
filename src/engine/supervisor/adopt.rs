//! What a bpm that was killed has left: runs that are as they would be started are taken over without a restart, the
//! rest is stopped before anything is started a second time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::base::clock::{Mono, Wall, human};
use crate::base::error::reason;
use crate::base::logger::Level;
use crate::base::table::{Set, Table};
use crate::config::{self, Listen, Process, Toggle};
use crate::engine::handle::Notice;
use crate::engine::saved::SavedRun;
use crate::engine::snapshot::ExitView;
use crate::engine::state_file::{BLOCK, DaemonId};
use crate::lifecycle::{Event, Policy, RunKey, UnitId};
use crate::os::leader::{Adopted, Leader};
use crate::os::proc::{self, Proc};
use crate::os::pty::Pty;
use crate::os::{fds, group, host, net};

use super::Supervisor;
use super::launch::{Streams, addresses};
use super::runs::RunRecord;
use super::units::policy;

/// What a killed bpm left and the configuration does not know has this long to end, and so has a process that survives
/// KILL before it is left behind.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The leftovers, as reports name them.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The daemon that was killed, where it is known.
    daemon: Option<i32>,
    adopted: Vec<String>,
    /// By process: why it was not taken over.
    reasons: Table<String, String>,
    /// Runs that were written down and are not taken over.
    others: Vec<SavedRun>,
}

/// A run was not taken over.
enum NotAdopted {
    /// It had ended meanwhile.
    Ended,
    Because(String),
}

/// A process that is to end.
struct Leftover {
    proc: Proc,
    /// Its owner: a process of the configuration, or a program.
    name: String,
    of_build: bool,
    signal: i32,
    timeout: std::time::Duration,
}

/// How the names begin by which the service manager keeps terminals: no process has a blank in its name.
const TERMINAL: &str = "tty ";

fn terminal_name(process: &str, run: u64) -> String {
    format!("{TERMINAL}{process} {run}")
}

/// It is a socket that listens there.
fn listens_on(socket: &OwnedFd, address: &Listen) -> bool {
    match (net::listens_on(socket), address) {
        (Ok(Some(at)), Listen::Tcp(wanted)) => at == *wanted,
        (Ok(None), Listen::Unix(_)) => true,
        (Ok(_) | Err(_), _) => false,
    }
}

/// The settings that a run is started with, as a number.
pub(super) fn settings_of(process: &Process, direnv: Toggle) -> u64 {
    let direnv = match direnv {
        Toggle::Auto => 0,
        Toggle::On => 1,
        Toggle::Off => 2,
    };
    config::fingerprint(process).wrapping_add(direnv)
}

impl Supervisor {
    /// Goes on with what the daemon before knew, where it was killed since this boot; else wants what starts by itself.
    pub(super) fn take_up(&mut self) {
        let us = DaemonId {
            pid: self.setup.identity.pid,
            boot: host::boot_id().unwrap_or_default(),
        };
        let state = self.state.edit();
        let before = state.daemon.replace(us.clone());
        self.found.daemon = before.as_ref().map(|daemon| daemon.pid);
        let same_boot = before.is_none_or(|daemon| daemon.boot == us.boot) && !us.boot.is_empty();
        if !same_boot {
            // Nothing lives of what was written down, and its numbers and times mean something else.
            state.forget_lives();
            state.daemon = Some(us.clone());
            self.setup.killed_before = false;
        }
        let runs = state.running().cloned().collect::<Vec<_>>();
        self.take_stored();
        let state = self.state.edit();
        if self.setup.fresh {
            self.found.reasons = runs
                .iter()
                .map(|r| (r.process.clone(), "--fresh".into()))
                .collect();
            self.found.others = runs;
            state.forget_lives();
            state.daemon = Some(us);
        } else {
            state.forget_running();
            self.take_up_lives(runs);
        }
        let wanted = self.units.ids().into_iter().filter(|id| {
            self.units.process(*id).is_some_and(|process| {
                let known = !self.setup.only && self.state.get().life_text(&process.name).is_some();
                process.autostart && !known
            })
        });
        self.lives.fleet.want(wanted.collect());
    }

    /// Holds the sockets that the service manager has kept. Terminals wait for the runs that are taken over.
    fn take_stored(&mut self) {
        let stored = std::mem::take(&mut self.setup.stored);
        if stored.is_empty() {
            return;
        }
        let wanted = self.wanted_sockets();
        for (name, fd) in stored {
            if name.starts_with(TERMINAL) {
                self.setup.stored.push((name, fd));
                continue;
            }
            let of = |(id, _): &&(UnitId, Vec<Listen>)| {
                self.units.process(*id).is_some_and(|p| p.name == name)
            };
            let Some((id, addresses)) = wanted.iter().find(of) else {
                self.setup.manager.store(&name, &[]);
                continue;
            };
            let address = addresses.iter().find(|address| listens_on(&fd, address));
            if let Some(address) = address.filter(|address| !self.sockets.has(*id, address)) {
                self.sockets.put(*id, address.clone(), fd);
            }
        }
    }

    fn take_up_lives(&mut self, mut runs: Vec<SavedRun>) {
        for id in self.units.ids() {
            let Some(process) = self.units.process(id) else {
                continue;
            };
            let Some(saved) = self.state.get().life(&process.name) else {
                continue;
            };
            let serving = match self.lives.fleet.take_up(id, &saved.life) {
                Ok(serving) => serving,
                Err(why) => {
                    let text = format!("{}: its state can't be read: {why}", process.name);
                    self.events.say(Level::Warn, &text);
                    continue;
                }
            };
            if let Some(unit) = self.units.get_mut(id) {
                unit.artifacts = saved.builds;
            }
            let Some(generation) = serving else { continue };
            let key = RunKey {
                unit: id,
                generation,
            };
            let is = |run: &SavedRun| run.process == process.name && run.generation == generation;
            let run = runs.iter().position(is).map(|at| runs.swap_remove(at));
            let Some(run) = run else {
                self.lost_run(key, None);
                continue;
            };
            match self.take_over(key, &process, &run) {
                Ok(pid) => {
                    let up = human(Mono::now().since(run.began));
                    let name = &process.name;
                    self.found
                        .adopted
                        .push(format!("{name} (pid {pid}, up {up})"));
                }
                Err(NotAdopted::Ended) => self.lost_run(key, Some(&run)),
                Err(NotAdopted::Because(why)) => {
                    self.lives.fleet.lose_run(id);
                    self.found.reasons.insert(process.name.clone(), why);
                    runs.push(run);
                }
            }
        }
        self.found.others = runs;
    }

    /// A run ended while no daemon was there.
    fn lost_run(&mut self, key: RunKey, run: Option<&SavedRun>) {
        if let Some(run) = run {
            let exit = ExitView {
                run: run.run,
                crash: true,
                at: Wall::now(),
                uptime: Mono::now().since(run.began),
                ..ExitView::default()
            };
            self.record_exit(key, exit);
        }
        self.lives.note(Event::Exited {
            run: key,
            success: false,
        });
        self.lives.note(Event::Gone(key));
    }

    /// Takes a run over, as if this bpm had started it. Gives its pid.
    fn take_over(
        &mut self,
        key: RunKey,
        process: &Arc<Process>,
        saved: &SavedRun,
    ) -> Result<i32, NotAdopted> {
        let because = |why: String| NotAdopted::Because(why);
        let adopted = Adopted::open(saved.pid, saved.start)
            .map_err(|e| because(format!("its end can't be watched: {}", reason(&e))))?
            .filter(|adopted| adopted.process().state != 'Z')
            .ok_or(NotAdopted::Ended)?;
        // As it was started.
        let process = &self.with_ports(process).map_err(because)?;
        if saved.settings != settings_of(process, self.setup.config.direnv) {
            return Err(because("its settings changed".into()));
        }
        let pipe = |number: i32, inode| -> Result<OwnedFd, NotAdopted> {
            let pipe = fds::pipe_of(saved.pid, number, inode);
            pipe.map_err(|e| because(format!("its output can't be read: {}", reason(&e))))
        };
        let streams = match saved.pipes {
            Some(inodes) => Streams {
                stdout: pipe(1, inodes[0])?,
                stderr: Some(pipe(2, inodes[1])?),
                terminal: None,
            },
            None => self.stored_terminal(saved).map_err(because)?,
        };
        // Both were opened by its number, which is another's only if it has ended.
        let leader = Leader::Adopted(adopted);
        if leader.has_ended() {
            return Err(NotAdopted::Ended);
        }
        let Some(unit) = self.units.get(key.unit) else {
            return Err(because("it is not in .mcp-run any more".into()));
        };
        let log = Arc::clone(&unit.log);
        let numbers = self.state.edit().reserve(&process.name);
        // All that was shown is in the files, unless they could not be written; else it may be anything that was reserved.
        let written = process.log_disk > 0 && !self.state.get().is_unwritten(&process.name);
        let reserved = if written { BLOCK } else { 0 };
        let uptime = Mono::now().since(saved.began);
        let first_seq = numbers.seq.saturating_sub(reserved);
        log.resume(saved.run, Wall::now().before(uptime), first_seq);
        let handle = Arc::clone(&self.handle);
        let drained = Box::new(move |all| handle.tell(Notice::Drained { run: key, all }));
        let output = self
            .runs
            .capture(Arc::clone(&log), saved.run, streams, drained);
        let output =
            output.map_err(|e| because(format!("its output can't be read: {}", reason(&e))))?;
        if let Some(adopted) = leader.adopted() {
            self.take_sockets(key.unit, process, adopted);
        }
        let cgroup = self.runs.cgroup_at(saved.cgroup.as_deref());
        let record = RunRecord::new(
            leader,
            saved.run,
            saved.exe.clone(),
            output,
            saved.began,
            process,
            cgroup,
        );
        self.runs.enter(key, record);
        self.state.edit().started(saved.clone());
        if let Err(why) = self.check_again(key, process, saved) {
            let text = format!(
                "{}: it is not checked until its next start: {why}",
                process.name
            );
            self.events.say(Level::Warn, &text);
        }
        Ok(saved.pid)
    }

    /// The terminal of a run that is taken over, as the service manager has kept it.
    fn stored_terminal(&mut self, saved: &SavedRun) -> Result<Streams, String> {
        let name = terminal_name(&saved.process, saved.run);
        let mut stored = self.setup.stored.iter();
        let at = stored.position(|(stored, _)| *stored == name);
        let (_, master) = self
            .setup
            .stored
            .swap_remove(at.ok_or("its terminal is gone")?);
        match Pty::again(master, saved.pid) {
            Ok(Pty { master, terminal }) => Ok(Streams {
                stdout: master,
                stderr: None,
                terminal: Some(terminal),
            }),
            Err(e) => {
                self.setup.manager.store(&name, &[]);
                Err(format!("its terminal can't be taken over: {}", reason(&e)))
            }
        }
    }

    /// Lets the service manager keep the terminal of a run, where it has one.
    pub(super) fn store_terminal(&mut self, process: &str, run: u64, streams: &Streams) {
        if streams.terminal.is_some() {
            let name = terminal_name(process, run);
            self.setup.manager.store(&name, &[streams.stdout.as_fd()]);
        }
    }

    /// The service manager need not keep it any more.
    pub(super) fn release_terminal(&mut self, process: &str, run: u64) {
        self.setup.manager.store(&terminal_name(process, run), &[]);
    }

    /// Copies the sockets of a run that is taken over, but for those that the service manager has kept.
    fn take_sockets(&mut self, unit: UnitId, process: &Arc<Process>, run: &Adopted) {
        if process.listen.is_empty() {
            return;
        }
        let base = self.environments.base();
        let env = self.environment(process, &base, &mut Vec::new());
        // The next start reports their faults.
        let wanted = env
            .and_then(|(process, env)| addresses(&process, &env))
            .unwrap_or_default();
        for (number, address) in (3..).zip(wanted) {
            if self.sockets.has(unit, &address) {
                continue;
            }
            let taken = match run.pidfd().copy_fd(number) {
                Ok(fd) if listens_on(&fd, &address) => Ok(fd),
                Ok(_) => Err("it uses that descriptor for something else".into()),
                Err(e) => Err(format!("it can't be copied: {}", reason(&e))),
            };
            match taken {
                Ok(fd) => self.sockets.put(unit, address, fd),
                Err(why) => {
                    let at = match &address {
                        Listen::Tcp(at) => at.to_string(),
                        Listen::Unix(path) => format!("unix:{}", path.display()),
                    };
                    let text = format!(
                        "the run that was taken over has {at} alone ({why}): bpm binds it again at the next start"
                    );
                    self.events
                        .say(Level::Warn, &format!("{}: {text}", process.name));
                    if let Some(unit) = self.units.get_mut(unit) {
                        unit.unheld.push(text);
                    }
                }
            }
        }
        if self.units.get(unit).is_some_and(|u| !u.unheld.is_empty()) {
            // The next run can't begin beside this one.
            let policy = Policy {
                overlap: false,
                ..policy(process, &self.setup.config)
            };
            self.lives.fleet.set_policy(unit, policy);
        }
    }

    /// All sockets of a process are held from now on.
    pub(super) fn holds_again(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(id).filter(|u| !u.unheld.is_empty()) else {
            return;
        };
        unit.unheld.clear();
        unit.changed = true;
        let process = Arc::clone(&unit.process);
        self.lives
            .fleet
            .set_policy(id, policy(&process, &self.setup.config));
    }

    /// Lets the service manager keep the sockets that are others now.
    pub(super) fn store_sockets(&mut self) {
        for id in self.sockets.take_changed() {
            if let Some(unit) = self.units.get(id) {
                let sockets = self.sockets.of(id);
                self.setup.manager.store(&unit.process.name, &sockets);
            }
        }
    }

    /// The checks of a run that was taken over go on.
    fn check_again(
        &mut self,
        key: RunKey,
        process: &Arc<Process>,
        saved: &SavedRun,
    ) -> Result<(), String> {
        let mut checks = self.checks_again(process, saved.run, None)?;
        if let Some(path) = saved.notify.clone().filter(|_| checks.needs_socket()) {
            checks.open_socket(path)?;
        }
        let log = self.units.get(key.unit).map(|u| Arc::clone(&u.log));
        let log = log.ok_or("it is not in .mcp-run any more")?;
        checks.follow(&log, saved.run, saved.first_line);
        if self.lives.fleet.is_good(key) {
            checks.is_ready_already();
        }
        self.checks.begin(key, checks);
        Ok(())
    }

    /// Stops what a bpm of this project that was killed has left and that was not taken over. Says what was found.
    pub(super) fn end_leftovers(&mut self) -> Option<String> {
        let found = std::mem::take(&mut self.found);
        // A process may have begun that it could not write down.
        let looks =
            self.setup.killed_before || self.state.get().is_damaged() || found.daemon.is_some();
        let left = match looks || !found.others.is_empty() {
            true => self.leftovers(&found),
            false => Vec::new(),
        };
        if self.state.get().is_damaged() {
            self.state.edit().forget_damage();
        }
        for left in &left {
            left.proc.stop(left.signal);
        }
        let began = Mono::now();
        for Leftover { proc, timeout, .. } in &left {
            let rest = began.after(*timeout).since(Mono::now());
            if !matches!(group::wait_gone(proc.pid, proc.start, rest), Ok(true)) {
                proc.signal(libc::SIGKILL);
                // A process that survives that as well is held by the kernel.
                let _ = group::wait_gone(proc.pid, proc.start, PATIENCE);
            }
        }
        for (name, _terminal) in std::mem::take(&mut self.setup.stored) {
            self.setup.manager.store(&name, &[]);
        }
        let mut told: Set<(&str, bool)> = Set::default();
        let names = left.iter().map(|l| (l.name.as_str(), l.of_build));
        let stopped: Vec<String> = names
            .filter(|name| told.add(*name))
            .map(|(name, of_build)| match found.reasons.get(name) {
                _ if of_build => format!("the build of {name}"),
                Some(why) => format!("{name} ({why})"),
                None if self.units.id_of(name).is_some() => {
                    format!("{name} (it was being stopped, or had just begun)")
                }
                None => format!("{name} (it is not in .mcp-run)"),
            })
            .collect();
        let parts = [("adopted", &found.adopted), ("stopped", &stopped)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> = parts
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        if parts.is_empty() {
            return None;
        }
        let pid = found
            .daemon
            .map_or(String::new(), |pid| format!("pid {pid}, "));
        let text = format!(
            "found what the daemon ({pid}killed) left: {}",
            parts.join("; ")
        );
        self.happened(Level::Warn, None, "daemon", text.clone());
        Some(text)
    }

    /// All that is left, by marker, cgroup and what was written down.
    fn leftovers(&self, found: &Found) -> Vec<Leftover> {
        let prefix = format!("{}/", self.marker());
        let mut all: Vec<(Proc, Option<String>)> = Vec::new();
        let mut add = |proc: Proc, name: Option<String>| {
            let known = all.iter().any(|(p, _)| p.pid == proc.pid);
            if !known && proc.state != 'Z' && !self.runs.is_of_adopted(&proc) {
                all.push((proc, name));
            }
        };
        for run in &found.others {
            let is = |p: &Proc| p.start == run.start && self.is_run(run, &prefix);
            if let Some(proc) = proc::process(run.pid).filter(is) {
                add(proc, Some(run.process.clone()));
                for below in proc::descendants_of(run.pid) {
                    add(below, Some(run.process.clone()));
                }
            }
        }
        let is_leader = |pid| self.runs.is_adopted_leader(pid);
        let known = |p: &Proc| self.runs.is_in_adopted_session(p);
        for proc in proc::find_marked_but(&prefix, is_leader, known) {
            let own = proc::marker(proc.pid).unwrap_or_default();
            let of = own.strip_prefix(&prefix).and_then(|m| m.rsplit_once('/'));
            // A task that is done may have left it on purpose.
            if of.is_some_and(|(name, run)| !run.starts_with('b') && self.is_done_task(name)) {
                continue;
            }
            add(proc, of.map(|(name, _)| name.into()));
        }
        for (proc, name) in self.runs.left_in_groups() {
            if name.as_ref().is_none_or(|name| !self.is_done_task(name)) {
                add(proc, name);
            }
        }
        all.into_iter()
            .map(|(proc, name)| self.leftover(proc, name))
            .collect()
    }

    /// The process with its number has its marker, its pipes or its cgroup: a number and a time that somebody wrote into
    /// a file end nobody.
    fn is_run(&self, run: &SavedRun, prefix: &str) -> bool {
        let marked = || proc::marker(run.pid).is_some_and(|marker| marker.starts_with(prefix));
        let has_pipe = |[out, err]: [u64; 2]| {
            let pipe = |(number, inode)| proc::pipe_of(run.pid, number) == Some(inode);
            [(1, out), (2, err)].into_iter().any(pipe)
        };
        let in_group = || {
            let group = self.runs.cgroup_at(run.cgroup.as_deref());
            group.is_some_and(|group| group.processes().contains(&run.pid))
        };
        marked() || run.pipes.is_some_and(has_pipe) || in_group()
    }

    /// It is a task that has ended well.
    fn is_done_task(&self, name: &str) -> bool {
        let id = self.units.id_of(name);
        let process = id.and_then(|id| self.units.process(id));
        let facts = id.and_then(|id| self.lives.fleet.facts(id));
        process.is_some_and(|p| p.kind == config::Kind::Task)
            && facts.is_some_and(|f| f.state == crate::lifecycle::State::Done)
    }

    /// How to stop it: as the file says, where it has the process.
    fn leftover(&self, proc: Proc, name: Option<String>) -> Leftover {
        let process = name.as_ref().and_then(|name| {
            let mut all = self.setup.config.processes.iter();
            all.find(|p| p.name == *name)
        });
        Leftover {
            of_build: proc::is_of_build(proc.pid),
            proc,
            signal: process.map_or(libc::SIGTERM, |p| p.stop_signal),
            timeout: process.map_or(PATIENCE, |p| p.stop_timeout),
            name: name.unwrap_or_else(|| proc::program(proc.pid).unwrap_or_else(|| "?".into())),
        }
    }

    /// Writes down what is known of a process, where that changed.
    pub(super) fn note_life(&mut self, id: UnitId) {
        let (Some(life), Some(unit)) = (self.lives.fleet.life(id), self.units.get(id)) else {
            return;
        };
        let life = unit.saved(life).to_text();
        if self.state.get().life_text(&unit.process.name) != Some(&life) {
            self.state.edit().note_life(&unit.process.name, life);
        }
    }
}
