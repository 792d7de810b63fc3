//! All of a supervisor for an upgrade in place: what each part has to say, and the parts made of it again.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::json::{self, list};
use crate::base::saved::{field, save_fields, saved};
use crate::config::{self, Config, Process};
use crate::engine::handle::{Identity, Notice};
use crate::engine::handover::{Handover, Takeover};
use crate::engine::snapshot::Snapshot;
use crate::lifecycle::{Fleet, RunKey, UnitId};
use crate::log::capture::Freeze;
use crate::log::store::Log;
use crate::os::host;

use super::units::{Unit, policy};
use super::{CONFIG_FILE, Event, Setup, State, Supervisor};

/// The file as it was read, and the texts from which further processes came.
#[derive(Debug, Clone, Default)]
pub struct ConfigSource {
    pub text: String,
    /// Each with the processes that were taken over.
    pub added: Vec<(String, Vec<String>)>,
}

saved! {
    ConfigSource { text, added }
    Identity { instance_id, pid, started, started_at, url, socket, started_by, previous_end }
}

impl ConfigSource {
    /// Of a file that was just read.
    pub fn new(text: &[u8]) -> Self {
        // A file that was understood is one.
        let text = String::from_utf8_lossy(text).into_owned();
        let added = Vec::new();
        Self { text, added }
    }
}

/// The configuration of the daemon before, as that had read it: the file may be another by now.
///
/// # Errors
/// This bpm does not understand it.
pub fn config(from: &Takeover, root: &Path) -> Result<(Config, ConfigSource), String> {
    let saved: Value = from.get("config")?;
    let source: ConfigSource = field(&saved, "source")?;
    let read = |text: &str| {
        let read = config::parse_bytes(text.as_bytes(), CONFIG_FILE, root, host::argument_room());
        read.map_err(|e| format!("it can't read the configuration: {e}"))
    };
    let mut config = read(&source.text)?;
    for (text, names) in &source.added {
        let more = read(text)?.processes.into_iter();
        config
            .processes
            .extend(more.filter(|p| names.contains(&p.name)));
    }
    let autostart: Vec<String> = field(&saved, "autostart")?;
    let says: Vec<(PathBuf, Option<u64>)> = field(&saved, "says")?;
    for process in &mut config.processes {
        let process = Arc::make_mut(process);
        process.autostart = autostart.contains(&process.name);
        for file in &mut process.env_files {
            let known = says.iter().find(|(path, _)| *path == file.path);
            file.says = known.and_then(|(_, says)| *says);
        }
    }
    Ok((config, source))
}

impl Supervisor {
    /// Writes all that the next program needs, but for what those do who are served meanwhile.
    pub(super) fn hand_over(&self, frozen: &Freeze, to: &mut Handover) -> Result<(), String> {
        let config = &self.setup.config;
        let processes = config.processes.iter();
        let autostart: Vec<String> = processes
            .filter(|p| p.autostart)
            .map(|p| p.name.clone())
            .collect();
        let files = config.processes.iter().flat_map(|p| &p.env_files);
        let says: Vec<(PathBuf, Option<u64>)> = files.map(|f| (f.path.clone(), f.says)).collect();
        let setup = &self.setup;
        let config = save_fields(&[
            ("source", &setup.source),
            ("autostart", &autostart),
            ("says", &says),
            ("digest", &self.units.digest()),
        ]);
        to.put("config", &config);
        let settings = save_fields(&[
            ("umask", &setup.umask),
            ("nofile", &(setup.nofile.soft, setup.nofile.hard)),
            ("hangs_up", &setup.hangs_up),
            ("idle_shutdown", &setup.idle_shutdown),
            ("warnings", &setup.warnings),
        ]);
        to.put("setup", &settings);
        let state: Result<Value, _> = json::parse(&self.state.get().to_text());
        to.put("state", &state.map_err(|e| e.to_string())?);
        let fleet = self.lives.fleet.save();
        let leaving = || "a process is on its way out of the configuration".to_owned();
        to.put("fleet", &fleet.ok_or_else(leaving)?);
        let mut units = Vec::new();
        for (id, unit) in self.units.iter() {
            units.push(unit.save(id, &mut to.bytes));
        }
        to.put("units", &list(units));
        let of = |log: &Arc<Log>| {
            let mut all = self.units.iter();
            let found = all.find(|(_, unit)| Arc::ptr_eq(&unit.log, log));
            found.map(|(id, _)| id)
        };
        let runs = self.runs.save(frozen, of, to);
        to.put("runs", &runs);
        let checks = self.checks.save(to);
        to.put("checks", &checks);
        let sockets = self.sockets.save(to);
        to.put("sockets", &sockets);
        let watch = self.watch.save(to);
        to.put("watch", &watch);
        to.put_all(&[
            ("identity", &setup.identity),
            ("environment", &self.environments),
            ("events", &self.events),
            ("timers", &self.timers),
            ("orders", &self.orders),
            ("abandoned", &self.checks.pids()),
            ("listening", &self.listening),
            ("hooks", &self.hooks),
            ("ports", &self.ports),
            ("unwritten", &self.warnings.unwritten()),
        ]);
        Ok(())
    }

    /// The supervisor that was saved. `state` is that of before.
    ///
    /// # Errors
    /// It can't be read, or the system refuses something.
    pub fn restore(setup: Setup, from: &mut Takeover) -> Result<Self, String> {
        let state = from.part("state");
        let state = State::of_json(&state).ok_or("state: can't be read")?;
        let said = |e: io::Error| reason(&e);
        let root = setup.config.root.clone();
        let handle: Value = from.get("handle")?;
        let name = root.file_name().map(|n| n.to_string_lossy().into_owned());
        let first = Snapshot {
            seq: field(&handle, "seq")?,
            before: field(&handle, "before")?,
            before_used: field(&handle, "before_used")?,
            ..Snapshot::new(name.unwrap_or_else(|| "/".into()), root)
        };
        let digest = from.get::<Value>("config")?;
        let digest = field(&digest, "digest")?;
        let mut new = Self::bare(setup, state, first, digest, from.is_dry()).map_err(said)?;
        new.runs.note_oom_kills();
        new.handle.restore(&handle)?;
        let Value::Array(units) = from.part("units") else {
            return Err("units: can't be read".into());
        };
        for saved in &units {
            new.restore_unit(saved, from)?;
        }
        let policies = |id: UnitId| {
            let process = new.units.process(id)?;
            Some(policy(&process, &new.setup.config))
        };
        new.lives.fleet =
            Fleet::load(&from.part("fleet"), policies).map_err(|why| format!("fleet.{why}"))?;
        let unit = |id: UnitId| {
            let unit = new.units.get(id)?;
            Some((Arc::clone(&unit.process), Arc::clone(&unit.log)))
        };
        let drained = |key: RunKey| {
            let handle = Arc::clone(&new.handle);
            let run = key;
            Box::new(move |all| handle.tell(Notice::Drained { run, all })) as Box<_>
        };
        new.runs.restore(from, unit, drained)?;
        new.sockets.restore(from)?;
        from.restore(&mut [
            ("environment", &mut new.environments),
            ("events", &mut new.events),
            ("timers", &mut new.timers),
            ("orders", &mut new.orders),
        ])?;
        new.restore_checks(from)?;
        let root = new.setup.config.root.clone();
        new.watch.restore(&root, from)?;
        let mut unwritten = Default::default();
        from.restore_known(&mut [
            ("listening", &mut new.listening),
            ("ports", &mut new.ports),
            ("unwritten", &mut unwritten),
        ])?;
        new.warnings.restore(unwritten, Mono::now());
        // Before anybody can ask.
        new.publish();
        // What shows by now has been followed.
        new.hooks.forget_all();
        from.restore_known(&mut [("hooks", &mut new.hooks)])?;
        Ok(new)
    }

    fn restore_unit(&mut self, saved: &Value, from: &Takeover) -> Result<(), String> {
        let (id, name): (UnitId, String) = (field(saved, "id")?, field(saved, "name")?);
        let process = |p: &&Arc<Process>| p.name == name;
        let process = self.setup.config.processes.iter().find(process).cloned();
        let process = process.ok_or_else(|| format!("units.{name}: is not configured"))?;
        let folder: Arc<Path> = self.setup.dir.logs(&name).into();
        let folder = (!from.is_dry()).then_some(&folder);
        let exits = self.state.get().exits(&name);
        let unit = Unit::restore(id, process, folder, exits, saved, &from.bytes, &self.handle)
            .map_err(|why| format!("units.{name}.{why}"))?;
        self.units.insert(id, unit);
        Ok(())
    }

    /// How many runs live.
    pub fn processes(&self) -> usize {
        self.runs.living()
    }

    /// Goes on with what was under way, after [`Supervisor::restore`]. Says what was taken over.
    pub fn go_on_working(&mut self, from_version: &str) -> String {
        self.begin_once_more();
        let runs = self.runs.living();
        let text = format!(
            "upgraded from {from_version} (pid {}): took over {runs} processes",
            self.setup.identity.pid
        );
        self.happened(
            crate::base::logger::Level::Info,
            None,
            "upgrade",
            text.clone(),
        );
        self.reap();
        self.watch_files();
        self.lives.note(Event::Tick);
        self.settle();
        text
    }
}
