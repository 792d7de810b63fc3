//! Builds: begun one at a time, read by `builder`, ended here.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::clock::{Mono, Wall};
use crate::base::error::reason;
use crate::build::runner::{BuildJob, Builder};
use crate::build::{self, Artifact, BuildErrors, BuildPlan};
use crate::config::{self, Environment, Mode, Process};
use crate::engine::handle::BuildOutcome;
use crate::engine::snapshot::{BuildState, BuildView};
use crate::lifecycle::{Event, UnitId};
use crate::os::proc;
use crate::os::reap::{Child, reap_from};
use crate::os::spawn::Step;

use super::Supervisor;
use super::environment::Purpose;
use super::launch::{account, variables};

/// A build at work.
pub(super) struct Build {
    unit: UnitId,
    id: u64,
    pub(super) child: Option<Child>,
    builder: Builder,
    cancelled: bool,
}

impl Build {
    /// Kills its group. What left the group on purpose (a compiler cache) is left alone.
    pub(super) fn kill(&self) {
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }
}

impl Supervisor {
    /// Shows a build as begun and makes its environment; [`Supervisor::spawn_build`] follows.
    pub(super) fn begin_build(&mut self, unit: UnitId, id: u64, mode: Mode) {
        let Some(u) = self.units.get_mut(&unit) else {
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
        self.happened(Some(unit), "build", text);
        self.changes_are_seen(unit);
        self.prepare(Purpose::Build { unit, id, mode });
    }

    /// Starts a build; where there is nothing to build, it has ended well.
    pub(super) fn spawn_build(
        &mut self,
        unit: UnitId,
        id: u64,
        mode: Mode,
        process: &Process,
        env: Environment,
    ) {
        let root = &self.setup.config.root;
        let cargo_dir = build::cargo_dir(&process.cwd, root, |p| p.exists());
        let plan = {
            let expand = |text: &str| config::expand(text, |n| config::variable_of(&env, n));
            build::build(process, mode, cargo_dir, &expand)
        };
        let begun = match plan {
            Ok(Some(plan)) => self.try_build(unit, id, process, plan, env),
            Ok(None) => {
                let outcome = BuildOutcome {
                    result: Ok(Artifact::default()),
                    errors: BuildErrors::default(),
                };
                return self.build_ended(unit, id, outcome);
            }
            Err(why) => Err(why),
        };
        if let Err(why) = begun {
            self.fail(Purpose::Build { unit, id, mode }, &why);
        }
    }

    fn try_build(
        &mut self,
        unit: UnitId,
        id: u64,
        process: &Process,
        plan: BuildPlan,
        mut env: Environment,
    ) -> Result<(), String> {
        let Some(u) = self.units.get(&unit) else {
            return Ok(());
        };
        let (log, run) = (
            Arc::clone(&u.build_log),
            u.build.as_ref().map_or(0, |b| b.id),
        );
        let keep = self.executables(unit);
        env.insert(
            proc::MARKER.into(),
            format!("{}/{}/b{run}", self.marker_prefix(), process.name).into(),
        );
        let account = account(&process.launch)?;
        let spawned = match self.start(&plan.exec, &variables(env), account.as_ref()) {
            Ok(spawned) => spawned,
            Err(e) => {
                let missing = e.step == Step::Program && e.error.kind() == io::ErrorKind::NotFound;
                return Err(match missing && plan.exec.program == "cargo" {
                    true => "cargo is not on PATH: install Rust (rustup), or start bpm where PATH has it".into(),
                    false => e.to_string(),
                });
            }
        };
        let job = BuildJob {
            unit,
            id,
            log,
            run,
            plan,
            root: self.setup.config.root.clone(),
            stdout: spawned.stdout,
            stderr: spawned.stderr,
            bin_dir: self.setup.dir.bin(&process.name),
            keep,
            handle: Arc::clone(&self.handle),
        };
        match Builder::start(job) {
            Ok(builder) => {
                self.builds.push(Build {
                    unit,
                    id,
                    child: Some(spawned.child),
                    builder,
                    cancelled: false,
                });
                Ok(())
            }
            Err(e) => {
                spawned.child.signal_group(libc::SIGKILL);
                Err(format!("no thread to read it: {}", reason(&e)))
            }
        }
    }

    /// What must not be deleted: what runs, and what may be started again.
    fn executables(&self, unit: UnitId) -> Vec<PathBuf> {
        let running = self
            .books
            .iter()
            .filter(|(k, _)| k.unit == unit)
            .filter_map(|(_, b)| b.exe.clone());
        let builds = self.fleet.startable(unit);
        let built = self
            .units
            .get(&unit)
            .into_iter()
            .flat_map(|u| u.artifacts.iter())
            .filter(|(id, _)| builds.contains(id));
        running
            .chain(built.filter_map(|(_, (_, a))| a.exe.clone()))
            .collect()
    }

    /// Kills a build, or the making of its environment; it ends as cancelled.
    pub(super) fn cancel_build(&mut self, unit: UnitId, id: u64) {
        if let Some(build) = self
            .builds
            .iter_mut()
            .find(|b| b.unit == unit && b.id == id)
        {
            build.cancelled = true;
            build.kill();
        }
        for prep in &mut self.preps {
            if matches!(prep.purpose, Purpose::Build { unit: u, id: i, .. } if (u, i) == (unit, id))
            {
                prep.cancel("cancelled");
            }
        }
    }

    /// Reaps the leader of a build, if that is one. The thread that reads it says the rest.
    pub(super) fn reap_build(&mut self, pid: i32) -> bool {
        let is = |b: &&mut Build| b.child.as_ref().is_some_and(|c| c.pid() == pid);
        let Some(build) = self.builds.iter_mut().find(is) else {
            return false;
        };
        let Some(death) = reap_from(&mut build.child) else {
            return false;
        };
        build.builder.exited(death.end.into_result());
        true
    }

    /// A build says what it is doing; one that has ended says nothing any more.
    pub(super) fn build_phase(&mut self, unit: UnitId, id: u64, phase: String) {
        if self.builds.iter().any(|b| b.unit == unit && b.id == id) {
            self.set_phase(unit, &phase);
        }
    }

    /// Shows what the build of a process is doing.
    pub(super) fn set_phase(&mut self, unit: UnitId, phase: &str) {
        if let Some(u) = self.units.get_mut(&unit)
            && let Some(build) = &mut u.build
        {
            build.phase = Some(phase.into());
            u.changed = true;
        }
    }

    /// A build is over: keeps what it made, shows how it went, tells the lifecycle.
    pub(super) fn build_ended(&mut self, unit: UnitId, id: u64, outcome: BuildOutcome) {
        let cancelled = match self
            .builds
            .iter()
            .position(|b| b.unit == unit && b.id == id)
        {
            Some(at) => self.builds.swap_remove(at).cancelled,
            None => false,
        };
        let (result, artifact) = match outcome.result {
            Ok(artifact) => (Ok(()), Some(artifact)),
            Err(why) => (Err(why), None),
        };
        let words = match &result {
            Ok(()) => "exit code 0".to_string(),
            Err(why) => why.clone(),
        };
        let builds = self.fleet.startable(unit);
        if let Some(u) = self.units.get_mut(&unit) {
            if let Some(artifact) = artifact {
                let mode = u.build.as_ref().map_or(Mode::Release, |b| b.mode);
                u.artifacts.retain(|id, _| builds.contains(id));
                u.artifacts.insert(id, (mode, artifact));
            }
            if let Some(build) = &mut u.build {
                u.build_log.end(build.id, Wall::now(), &words);
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
        match &result {
            Ok(()) => self.happened(Some(unit), "build", "build ok".into()),
            Err(why) => self.trouble(Some(unit), "build", format!("build failed: {why}")),
        }
        self.queue.push_back(Event::Built { unit, id, result });
    }
}
