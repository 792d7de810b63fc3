//! The processes of the project, with all of each that is not the lifecycle's business.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Wall;
use crate::base::saved::{restore_fields, save_fields};
use crate::base::table::Table;
use crate::build;
use crate::config::{self, Command, Config, Mode, PortWish, Process, Swap};
use crate::engine::handle::{Handle, Notice};
use crate::engine::saved::{SavedBuild, SavedLife};
use crate::engine::snapshot::{BuildView, Counters, UnitView};
use crate::engine::state_file::{Exits, Numbers};
use crate::lifecycle::{Facts, Policy, UnitId};
use crate::log::store::{Kind, Limits, Log};

const MODES: [Mode; 2] = [Mode::Dev, Mode::Release];

/// One process of the project.
pub(super) struct Unit {
    pub(super) process: Arc<Process>,
    pub(super) log: Arc<Log>,
    pub(super) build_log: Arc<Log>,
    pub(super) exits: Exits,
    /// The build under way, else the last one.
    pub(super) build: Option<BuildView>,
    /// The last one that has ended: an answer may speak of it while the next one is under way.
    pub(super) built: Option<BuildView>,
    pub(super) counters: Counters,
    /// Of builds that can still be started.
    pub(super) artifacts: Vec<SavedBuild>,
    /// Its view as it was published last.
    pub(super) view: Option<Arc<UnitView>>,
    /// Something other than the lifecycle's facts changed since.
    pub(super) changed: bool,
    pub(super) since: Wall,
    /// A reload took it out of the configuration; it is removed once nothing of it is left.
    pub(super) retiring: bool,
    /// Why sockets that its run has are not held by bpm until its next start, a sentence each.
    pub(super) unheld: Vec<String>,
    /// Why limits of its last run are not in effect.
    pub(super) unlimited: Option<String>,
    /// It was said that lines of it are not written to disk.
    pub(super) log_trouble: bool,
    /// The ports of others that its last run was given.
    pub(super) named_ports: Vec<(String, u16)>,
}

impl Unit {
    /// A process with its logs, whose numbers go on where an earlier bpm left them.
    pub(super) fn new(
        id: UnitId,
        process: Arc<Process>,
        folder: &Arc<Path>,
        numbers: Numbers,
        exits: Exits,
        handle: &Arc<Handle>,
    ) -> Self {
        let limits = log_limits(&process);
        let open = |kind, line, run| {
            let log = Log::open(Arc::clone(folder), kind, limits, line, run);
            report_trouble(&log, id, handle);
            log
        };
        let log = open(Kind::Runs, numbers.seq, numbers.run);
        let build_log = open(Kind::Builds, numbers.build_seq, numbers.build_run);
        Self::with(process, log, build_log, exits)
    }

    fn with(process: Arc<Process>, log: Arc<Log>, build_log: Arc<Log>, exits: Exits) -> Self {
        Self {
            process,
            log,
            build_log,
            exits,
            build: None,
            built: None,
            counters: Counters::default(),
            artifacts: Vec::new(),
            view: None,
            changed: true,
            since: Wall::now(),
            retiring: false,
            unheld: Vec::new(),
            unlimited: None,
            log_trouble: false,
            named_ports: Vec::new(),
        }
    }

    /// As JSON, for an upgrade in place; bytes go behind those that are there.
    pub(super) fn save(&self, id: UnitId, bytes: &mut Vec<u8>) -> Value {
        let mut saved = save_fields(&[
            ("id", &id),
            ("name", &self.process.name),
            ("build", &self.build),
            ("built", &self.built),
            ("counters", &self.counters),
            ("artifacts", &self.artifacts),
            ("since", &self.since),
            ("unheld", &self.unheld),
            ("unlimited", &self.unlimited),
            ("log_trouble", &self.log_trouble),
            ("named_ports", &self.named_ports),
        ]);
        saved["log"] = self.log.save(bytes);
        saved["build_log"] = self.build_log.save(bytes);
        saved
    }

    /// The process that was saved.
    pub(super) fn restore(
        id: UnitId,
        process: Arc<Process>,
        folder: Option<&Arc<Path>>,
        exits: Exits,
        saved: &Value,
        bytes: &[u8],
        handle: &Arc<Handle>,
    ) -> Result<Self, String> {
        let limits = log_limits(&process);
        let open = |name: &str, kind| {
            let log = Log::restore(folder, kind, limits, &saved[name], bytes);
            let log = log.map_err(|why| format!("{name}.{why}"))?;
            report_trouble(&log, id, handle);
            Ok::<_, String>(log)
        };
        let (log, build_log) = (open("log", Kind::Runs)?, open("build_log", Kind::Builds)?);
        let mut unit = Self::with(process, log, build_log, exits);
        // Version 0.1.0 had none.
        let mut named_ports = Some(Vec::new());
        restore_fields(
            saved,
            &mut [
                ("build", &mut unit.build),
                ("built", &mut unit.built),
                ("counters", &mut unit.counters),
                ("artifacts", &mut unit.artifacts),
                ("since", &mut unit.since),
                ("unheld", &mut unit.unheld),
                ("unlimited", &mut unit.unlimited),
                ("log_trouble", &mut unit.log_trouble),
                ("named_ports", &mut named_ports),
            ],
        )?;
        unit.named_ports = named_ports.unwrap_or_default();
        Ok(unit)
    }

    /// New settings, after a reload.
    pub(super) fn set_process(&mut self, process: &Arc<Process>) {
        self.log.set_limits(log_limits(process));
        self.build_log.set_limits(log_limits(process));
        self.process = Arc::clone(process);
        self.changed = true;
    }

    /// The next numbers of its logs, `reserve` further than they are.
    pub(super) fn numbers(&self, reserve: u64) -> Numbers {
        Numbers {
            seq: self.log.next_seq() + reserve,
            run: self.log.next_run(),
            build_seq: self.build_log.next_seq() + reserve,
            build_run: self.build_log.next_run(),
        }
    }

    /// The state for the next bpm, with its life as the lifecycle has it.
    pub(super) fn saved(&self, life: Value) -> SavedLife {
        SavedLife {
            life,
            builds: self.artifacts.clone(),
        }
    }

    /// The view that others have of it.
    pub(super) fn view(
        &self,
        facts: Facts,
        run: Option<(u64, bool)>,
        port: Option<u16>,
    ) -> UnitView {
        let process = &self.process;
        UnitView {
            name: process.name.clone(),
            kind: process.kind,
            since: self.since,
            run: run.map(|(number, _)| number),
            build: self.build_view(&facts),
            built: self.built.clone(),
            counters: self.counters,
            facts,
            exits: Arc::clone(&self.exits),
            depends_on: process.depends_on.iter().map(|d| d.name.clone()).collect(),
            port,
            colours: process.color || process.launch.tty,
            builds: MODES.into_iter().any(|mode| builds(process, mode)),
            adopted: run.is_some_and(|(_, adopted)| adopted),
            warnings: self.unheld.iter().chain(&self.unlimited).cloned().collect(),
            log: Arc::clone(&self.log),
            build_log: Arc::clone(&self.build_log),
        }
    }

    /// The build under way, else one that waits for its turn, else the last one.
    fn build_view(&self, facts: &Facts) -> Option<BuildView> {
        match facts.queued {
            Some(mode) if facts.building.is_none() => {
                let last = self.build.as_ref().map_or(0, |b| b.id);
                Some(BuildView::queued(last + 1, mode))
            }
            _ => self.build.clone(),
        }
    }
}

/// All processes, those too that are on their way out of the configuration.
pub(super) struct Units {
    /// Of `.mcp-run` as it was read.
    digest: Option<u64>,
    all: Table<UnitId, Box<Unit>>,
    /// As in the file; what is retiring comes last.
    order: Vec<UnitId>,
}

impl Units {
    /// None yet, of a file with that digest.
    pub(super) fn new(digest: Option<u64>) -> Self {
        Self {
            digest,
            all: Table::default(),
            order: Vec::new(),
        }
    }

    /// The digest of the file that they were read from.
    pub(super) fn digest(&self) -> Option<u64> {
        self.digest
    }

    /// They are those of another file now.
    pub(super) fn set_digest(&mut self, digest: Option<u64>) {
        self.digest = digest;
    }

    pub(super) fn get(&self, id: UnitId) -> Option<&Unit> {
        self.all.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.all.get_mut(&id).map(Box::as_mut)
    }

    /// The settings of a process.
    pub(super) fn process(&self, id: UnitId) -> Option<Arc<Process>> {
        Some(Arc::clone(&self.get(id)?.process))
    }

    /// All in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UnitId, &Unit)> {
        let found = |id: &UnitId| Some((*id, self.get(*id)?));
        self.order.iter().filter_map(found)
    }

    /// The ids of all in their order.
    pub(super) fn ids(&self) -> Vec<UnitId> {
        self.order.clone()
    }

    /// The process of that name that stays.
    pub(super) fn id_of(&self, name: &str) -> Option<UnitId> {
        let mut all = self.iter();
        let found = all.find(|(_, unit)| unit.process.name == name && !unit.retiring);
        found.map(|(id, _)| id)
    }

    pub(super) fn insert(&mut self, id: UnitId, unit: Unit) {
        self.all.insert(id, Box::new(unit));
        self.order.push(id);
    }

    /// Puts these first, in this order.
    pub(super) fn set_order(&mut self, mut order: Vec<UnitId>) {
        self.order.retain(|id| !order.contains(id));
        order.append(&mut self.order);
        self.order = order;
    }

    pub(super) fn remove(&mut self, id: UnitId) {
        self.all.remove(&id);
        self.order.retain(|other| *other != id);
    }
}

/// The supervisor hears when lines of a process are not written to disk.
fn report_trouble(log: &Log, unit: UnitId, handle: &Arc<Handle>) {
    let handle = Arc::clone(handle);
    log.on_trouble(Box::new(move || handle.tell(Notice::LogTrouble { unit })));
}

/// There is something to build for that mode.
fn builds(process: &Process, mode: Mode) -> bool {
    let own = match mode {
        Mode::Dev => process.build.as_ref(),
        Mode::Release => process.build_release.as_ref().or(process.build.as_ref()),
    };
    match own {
        Some(Command::List(list)) => !list.is_empty(),
        Some(Command::Shell(_)) => true,
        None => process.kind == config::Kind::Rust,
    }
}

/// The settings of a process that decide over its life.
pub(super) fn policy(process: &Process, config: &Config) -> Policy {
    let depends_on = process.depends_on.iter();
    Policy {
        name: process.name.clone(),
        task: process.kind == config::Kind::Task,
        rolls_back: process.kind == config::Kind::Rust,
        builds: MODES.map(|mode| builds(process, mode)),
        release_differs: !build::one_build_for_both(process),
        pinned: process.mode,
        restart: process.restart,
        backoff: config.backoff,
        limit: process.start_limit,
        stop_timeout: process.stop_timeout,
        ready_within: process.ready.as_ref().map(|r| r.timeout),
        overlap: process.swap == Swap::Overlap,
        settle: process.ready.as_ref().map_or(Duration::ZERO, |r| r.settle),
        build_timeout: process.build_timeout,
        port: match process.port {
            Some(PortWish::Fixed(port)) => Some(port),
            Some(PortWish::Auto) | None => None,
        },
        depends_on: depends_on.map(|d| (d.name.clone(), d.until)).collect(),
    }
}

/// The bounds of the logs of a process.
pub fn log_limits(process: &Process) -> Limits {
    Limits {
        lines: process.log_lines,
        bytes: process.log_bytes,
        runs: process.log_runs,
        disk: process.log_disk,
    }
}
