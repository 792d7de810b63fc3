//! Builds: begun one at a time, read by a thread each ([`crate::build::runner`]), ended here.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::clock::{Mono, Wall};
use crate::base::error::reason;
use crate::base::logger::Level;
use crate::build::runner::{BuildJob, BuildOutcome, Builder, CopyPlace, Report};
use crate::build::{self, Artifact, BuildErrors, BuildPlan};
use crate::config::{self, Environment, Happening, Mode, Process};
use crate::engine::handle::Notice;
use crate::engine::saved::SavedBuild;
use crate::engine::snapshot::{BuildState, BuildView};
use crate::lifecycle::{Event, UnitId};
use crate::os::cgroup::Cgroup;
use crate::os::reap::{Child, reap_from};
use crate::os::spawn::{SpawnError, Step};

use super::Supervisor;
use super::environments::{self, Purpose, Variables};
use super::launch::account;

/// A build at work.
struct Build {
    unit: UnitId,
    id: u64,
    child: Option<Child>,
    builder: Builder,
    cancelled: bool,
    _cgroup: Closing,
}

/// The cgroup of a build, by which what it leaves is known. Removed when this is dropped, unless something lives in it.
struct Closing(Option<Cgroup>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            group.remove();
        }
    }
}

impl Build {
    /// Kills its group. What left the group on purpose (a compiler cache) is left alone.
    fn kill(&self) {
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }
}

/// All builds at work.
#[derive(Default)]
pub(super) struct Builds {
    all: Vec<Build>,
}

impl Builds {
    fn find(&mut self, unit: UnitId, id: u64) -> Option<&mut Build> {
        self.all.iter_mut().find(|b| b.unit == unit && b.id == id)
    }

    /// Kills one; it ends as cancelled.
    fn cancel(&mut self, unit: UnitId, id: u64) {
        if let Some(build) = self.find(unit, id) {
            build.cancelled = true;
            build.kill();
        }
    }

    /// Kills all.
    pub(super) fn kill_all(&self) {
        self.all.iter().for_each(Build::kill);
    }

    /// Reaps the leader of a build, if that is one. The thread that reads it says the rest.
    pub(super) fn reap(&mut self, pid: i32) -> bool {
        let is = |b: &&mut Build| b.child.as_ref().is_some_and(|c| c.pid() == pid);
        let Some(build) = self.all.iter_mut().find(is) else {
            return false;
        };
        let Some(death) = reap_from(&mut build.child) else {
            return false;
        };
        build.builder.exited(death.end.into_result());
        true
    }

    /// Kills all, and knows nothing of them any more: they are begun once more.
    pub(super) fn abandon(&mut self) {
        self.kill_all();
        self.all.clear();
    }

    /// Takes out one that has ended. True: it was cancelled. None: it was abandoned.
    fn end(&mut self, unit: UnitId, id: u64) -> Option<bool> {
        let at = self.all.iter().position(|b| b.unit == unit && b.id == id);
        at.map(|at| self.all.swap_remove(at).cancelled)
    }

    /// None is at work.
    pub(super) fn is_idle(&self) -> bool {
        self.all.is_empty()
    }

    /// The leaders that are not reaped.
    pub(super) fn children(&self) -> impl Iterator<Item = &Child> {
        self.all.iter().filter_map(|b| b.child.as_ref())
    }
}

impl Supervisor {
    /// Shows a build as begun, and starts it once its environment is there.
    pub(super) fn begin_build(&mut self, unit: UnitId, id: u64, mode: Mode) {
        let Some(u) = self.units.get_mut(unit) else {
            return;
        };
        let run = u.build_log.begin(Wall::now());
        u.build = Some(BuildView {
            state: BuildState::Running,
            phase: None,
            began: Some(Mono::now()),
            ..BuildView::queued(run, mode)
        });
        u.changed = true;
        let text = format!("building for {}", mode.as_str());
        self.happened(Level::Info, Some(unit), "build", text);
        self.changes_are_seen(unit);
        self.prepare(Purpose::Build { unit, id, mode });
    }

    /// Starts a build; where there is nothing to build, or it can't be started, it has ended.
    pub(super) fn run_build(
        &mut self,
        unit: UnitId,
        id: u64,
        mode: Mode,
        base: Result<Arc<Variables>, String>,
    ) {
        let started = match self.units.process(unit) {
            Some(process) => base.and_then(|base| {
                let (process, env) = self.environment(&process, &base, &mut Vec::new())?;
                self.try_build(unit, id, mode, &process, env)
            }),
            None => Err("it was removed from .mcp-run".into()),
        };
        let result = match started {
            Ok(true) => return,
            Ok(false) => Ok(Artifact::default()),
            Err(why) => Err(why),
        };
        let errors = BuildErrors::default();
        self.end_build(unit, id, BuildOutcome { result, errors }, false);
    }

    /// Plans a build and starts it. False: there is nothing to build.
    fn try_build(
        &mut self,
        unit: UnitId,
        id: u64,
        mode: Mode,
        process: &Process,
        mut env: Environment,
    ) -> Result<bool, String> {
        let root = &self.setup.config.root;
        let cargo_dir = build::cargo_dir(&process.cwd, root, |p| p.exists());
        let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
        let Some(plan) = build::build(process, mode, cargo_dir, &expand)? else {
            return Ok(false);
        };
        let Some(u) = self.units.get(unit) else {
            return Ok(false);
        };
        let run = u.build.as_ref().map_or(0, |b| b.id);
        environments::mark_build(&mut env, process, &self.marker(), run);
        let env = env.into_iter().collect();
        let account = account(&process.launch)?;
        let cgroup = self.runs.new_cgroup("build", &process.name, run);
        let spawned =
            self.setup
                .starter()
                .build(&plan.exec, &env, account.as_ref(), cgroup.as_ref());
        // It is removed with the build; what the build leaves in it keeps it.
        let cgroup = Closing(cgroup);
        let spawned = spawned.map_err(|e| not_started(&plan, &e))?;
        let handle = Arc::clone(&self.handle);
        let job = BuildJob {
            log: Arc::clone(&u.build_log),
            run,
            plan,
            root: root.clone(),
            stdout: spawned.stdout,
            stderr: spawned.stderr,
            place: match account {
                None => CopyPlace::Ours(self.setup.dir.bin(&process.name)),
                Some(account) => CopyPlace::Theirs {
                    process: process.name.clone(),
                    account,
                },
            },
            keep: self.executables(unit),
            report: Box::new(move |report| {
                handle.tell(match report {
                    Report::Phase(phase) => Notice::Phase { unit, id, phase },
                    Report::Ended(outcome) => Notice::Built {
                        unit,
                        id,
                        outcome: Box::new(outcome),
                    },
                });
            }),
        };
        let builder = Builder::start(job).map_err(|e| {
            spawned.child.signal_group(libc::SIGKILL);
            format!("no thread to read it: {}", reason(&e))
        })?;
        self.builds.all.push(Build {
            unit,
            id,
            child: Some(spawned.child),
            builder,
            cancelled: false,
            _cgroup: cgroup,
        });
        Ok(true)
    }

    /// The binaries that must not be deleted: those that run, and those that may be started again.
    fn executables(&self, unit: UnitId) -> Vec<PathBuf> {
        let running = self.runs.of_unit(unit);
        let running = running.filter_map(|(_, record)| record.exe().cloned());
        let builds = self.lives.fleet.startable(unit);
        let made = self.units.get(unit).into_iter().flat_map(|u| &u.artifacts);
        let startable = made.filter(|build| builds.contains(&build.id));
        let startable = startable.filter_map(|build| build.made.exe.clone());
        running.chain(startable).collect()
    }

    /// Kills a build, or the making of its environment; it ends as cancelled.
    pub(super) fn cancel_build(&mut self, unit: UnitId, id: u64) {
        self.builds.cancel(unit, id);
        let is = |p| matches!(p, Purpose::Build { unit: u, id: i, .. } if (u, i) == (unit, id));
        for _ in self.environments.cancel(is) {
            let outcome = BuildOutcome {
                result: Err("cancelled".into()),
                errors: BuildErrors::default(),
            };
            self.end_build(unit, id, outcome, true);
        }
    }

    /// A build says what it is doing; one that has ended says nothing any more.
    pub(super) fn build_phase(&mut self, unit: UnitId, id: u64, phase: &str) {
        if self.builds.find(unit, id).is_some() {
            self.show_phase(unit, phase);
        }
    }

    /// Shows what the build of a process is doing.
    pub(super) fn show_phase(&mut self, unit: UnitId, phase: &str) {
        if let Some(u) = self.units.get_mut(unit)
            && let Some(build) = &mut u.build
        {
            build.phase = Some(phase.into());
            u.changed = true;
        }
    }

    /// The thread of a build has read it to its end.
    pub(super) fn build_read(&mut self, unit: UnitId, id: u64, outcome: BuildOutcome) {
        if let Some(cancelled) = self.builds.end(unit, id) {
            self.end_build(unit, id, outcome, cancelled);
        }
    }

    /// A build is over: keeps what it made, shows how it went, tells the lifecycle.
    fn end_build(&mut self, unit: UnitId, id: u64, outcome: BuildOutcome, cancelled: bool) {
        let startable = self.lives.fleet.startable(unit);
        let (result, artifact) = match outcome.result {
            Ok(artifact) => (Ok(()), Some(artifact)),
            Err(why) => (Err(why), None),
        };
        if let Some(u) = self.units.get_mut(unit) {
            if let Some(made) = artifact {
                let mode = u.build.as_ref().map_or(Mode::Release, |b| b.mode);
                u.artifacts
                    .retain(|made| made.id != id && startable.contains(&made.id));
                u.artifacts.push(SavedBuild { id, mode, made });
            }
            if let Some(build) = &mut u.build {
                let words = match &result {
                    Ok(()) => "exit code 0",
                    Err(why) => why,
                };
                u.build_log.end(build.id, Wall::now(), words);
                let (state, count) = match (&result, cancelled) {
                    (Ok(()), _) => (BuildState::Ok, &mut u.counters.builds_ok),
                    (Err(_), true) => (BuildState::Cancelled, &mut u.counters.builds_cancelled),
                    (Err(_), false) => (BuildState::Failed, &mut u.counters.builds_failed),
                };
                *count += 1;
                build.state = state;
                build.phase = None;
                build.took = build.began.map(|at| Mono::now().since(at));
                build.ok = Some(result.is_ok());
                build.errors = Arc::new(outcome.errors);
                u.built = Some(build.clone());
            }
            u.changed = true;
        }
        let (level, text) = match &result {
            Ok(()) => (Level::Info, "build ok".into()),
            Err(why) => (Level::Warn, format!("build failed: {why}")),
        };
        self.happened(level, Some(unit), "build", text);
        if let Err(why) = &result
            && !cancelled
        {
            self.follow(unit, Happening::BuildFailed, why);
        }
        self.lives.note(Event::Built { unit, id, result });
    }
}

fn not_started(plan: &BuildPlan, e: &SpawnError) -> String {
    let missing = e.step == Step::Program && e.error.kind() == io::ErrorKind::NotFound;
    match missing && plan.exec.program == "cargo" {
        true => {
            "cargo is not on PATH: install Rust (rustup), or start bpm where PATH has it".into()
        }
        false => e.to_string(),
    }
}
