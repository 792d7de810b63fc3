//! Reading `.mcp-run` again: what did not change is not touched.

use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Mono;
use crate::base::error::{Failure, Fault, Result};
use crate::base::logger::Level;
use crate::base::paths::CONFIG_FILE;
use crate::base::table::Set;
use crate::config::{self, Config, Diff, Process};
use crate::engine::handle::{Reload, Reloaded, Reply, ReplySlot, STOPPING};
use crate::lifecycle::{Order, UnitId};
use crate::os::{files, host, trust};

use super::environments::named_env_file;
use super::orders::Wanted;
use super::saved::ConfigSource;
use super::units::policy;
use super::{Phase, Supervisor};

/// Reads the configuration of a project.
///
/// # Errors
/// All mistakes in it; it can't be read; another user could have written it.
pub fn read_config(root: &Path) -> Result<Config> {
    read(root).map(|(config, _)| config)
}

/// The same for a daemon, which has no use for places of names, and what it was read from.
///
/// # Errors
/// As [`read_config`].
pub fn read_source(root: &Path) -> Result<(Config, ConfigSource)> {
    let (mut config, bytes) = read(root)?;
    config.named = config::Named::default();
    Ok((config, ConfigSource::new(&bytes)))
}

fn read(root: &Path) -> Result<(Config, Vec<u8>)> {
    let bytes = trust::read_config(root)?;
    let mut config = config::parse_bytes(&bytes, CONFIG_FILE, root, host::argument_room())?;
    config.read_env_files(|path| trust::read_env_file(root, path, None).ok().flatten());
    Ok((config, bytes))
}

impl Supervisor {
    /// Reads the file and does what follows from it. A mistake in the file changes nothing.
    pub(super) fn reload(&mut self, how: Reload, slot: ReplySlot) {
        if self.phase != Phase::Working {
            return slot.put(Reply::Refused(STOPPING.into()));
        }
        if how != Reload::Whole {
            return self.read_again(how, slot);
        }
        // Both are told whatever comes of it: a service manager that sent HUP waits for them (systemd.service(5),
        // Type=notify-reload).
        let now = Mono::now().as_nanos() / 1_000;
        let text = format!("RELOADING=1\nMONOTONIC_USEC={now}");
        self.setup.manager.tell(&text);
        self.read_again(how, slot);
        self.setup.manager.tell("READY=1");
    }

    fn read_again(&mut self, how: Reload, slot: ReplySlot) {
        let read = read(&self.setup.config.root).and_then(|(mut new, bytes)| {
            let diff = config::diff(&self.setup.config, &new);
            if how != Reload::Additions {
                sound_env_files(&new, &diff)?;
            }
            new.named = config::Named::default();
            (self.setup.access)(&new, how == Reload::Whole)?;
            Ok((new, ConfigSource::new(&bytes), diff))
        });
        let (new, source, diff) = match read {
            Ok(new) => new,
            Err(e) => {
                let errors: Vec<String> = e.to_string().lines().map(Into::into).collect();
                let text = format!("reload: nothing changed: {}", errors.join("; "));
                self.events.say(Level::Error, &text);
                return slot.put(Reply::Mistakes(errors));
            }
        };
        let reloaded = Reloaded {
            changed: diff.changed.clone(),
            added: diff.added.clone(),
            removed: diff.removed.clone(),
            unchanged: [&diff.adjusted[..], &diff.unchanged[..]].concat(),
            adjusted: diff.adjusted.clone(),
            errors: not_applied(&self.setup.config, &new).into_iter().collect(),
        };
        match how {
            Reload::Whole => {}
            Reload::DryRun => return slot.put(Reply::Reload(reloaded)),
            Reload::Additions => {
                self.take_additions(&new, source, &diff);
                // Not before the snapshot has them.
                return self.orders.answered.push((slot, Reply::Reload(reloaded)));
            }
        }
        let wanted = self.apply(&new, &diff);
        self.units
            .set_digest(files::digest(&new.root.join(CONFIG_FILE)));
        self.timers.set_heartbeat(new.heartbeat, Mono::now());
        self.setup.config = new;
        self.setup.source = source;
        self.hand_sockets_over();
        self.watch_files();
        let text = format!(
            "reload: {} changed, {} added, {} removed{}",
            reloaded.changed.len(),
            reloaded.added.len(),
            reloaded.removed.len(),
            match reloaded.adjusted.len() {
                0 => String::new(),
                n => format!(", {n} adjusted"),
            }
        );
        self.happened(Level::Info, None, "reload", text);
        self.order(wanted, Some(Box::new(reloaded)), slot);
    }

    /// Takes over the processes that are new in the file, and nothing else of it. They are not started.
    fn take_additions(&mut self, new: &Config, source: ConfigSource, diff: &Diff) {
        if diff.added.is_empty() {
            return;
        }
        let mut merged = self.setup.config.clone();
        let is_new = |process: &&Arc<Process>| diff.added.contains(&process.name);
        merged
            .processes
            .extend(new.processes.iter().filter(is_new).cloned());
        let added: Vec<Arc<Process>> = new.processes.iter().filter(is_new).cloned().collect();
        for process in added {
            self.add(process);
        }
        let rest = config::diff(&merged, new);
        let same = rest.changed.is_empty() && rest.adjusted.is_empty() && rest.removed.is_empty();
        if same && top_level(&merged) == top_level(new) {
            self.units
                .set_digest(files::digest(&new.root.join(CONFIG_FILE)));
        }
        self.setup.config = merged;
        let added = diff.added.clone();
        self.setup.source.added.push((source.text, added));
        self.hold_all_sockets();
        self.watch_files();
        let text = format!("reload: {} added, nothing else touched", diff.added.len());
        self.happened(Level::Info, None, "reload", text);
    }

    /// New settings for all, and an order for each process that needs one.
    fn apply(&mut self, new: &Config, diff: &Diff) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for name in &diff.removed {
            if let Some(id) = self.units.id_of(name) {
                if let Some(unit) = self.units.get_mut(id) {
                    unit.retiring = true;
                }
                self.lives.fleet.leave(id);
                wanted.push((name.clone(), Some(id), Order::Stop));
            }
        }
        let mut order = Vec::new();
        let mut rechecked = Vec::new();
        for process in &new.processes {
            let known = self.units.id_of(&process.name);
            let id = known.unwrap_or_else(|| self.add(Arc::clone(process)));
            order.push(id);
            if self.set_process(id, process, new) {
                rechecked.push(id);
            }
            let Some(facts) = self.lives.fleet.facts(id) else {
                continue;
            };
            let order = match known {
                None if process.autostart => Order::Start,
                // A process that somebody stopped stays stopped.
                Some(_) if diff.changed.contains(&process.name) && facts.wanted => Order::Restart {
                    mode: facts.mode,
                    build: true,
                },
                None | Some(_) => continue,
            };
            wanted.push((process.name.clone(), Some(id), order));
        }
        self.units.set_order(order);
        for id in rechecked {
            self.replace_checks(id);
        }
        wanted
    }

    /// New settings for one process. True: its checks are others.
    fn set_process(&mut self, id: UnitId, process: &Arc<Process>, config: &Config) -> bool {
        self.lives.fleet.set_policy(id, policy(process, config));
        let Some(unit) = self.units.get_mut(id) else {
            return false;
        };
        let old = Arc::clone(&unit.process);
        unit.set_process(process);
        (&old.ready, &old.health) != (&process.ready, &process.health)
    }

    /// Takes out processes that a reload removed, once nothing of them is left. True if there was one.
    pub(super) fn retire(&mut self) -> bool {
        let gone = |(id, unit): (UnitId, &super::units::Unit)| {
            let gone = unit.retiring && self.lives.fleet.is_empty(id) && !self.orders.awaits(id);
            gone.then_some(id)
        };
        let gone: Vec<UnitId> = self.units.iter().filter_map(gone).collect();
        for id in &gone {
            for effect in self.lives.fleet.remove(*id) {
                self.carry_out(effect);
            }
            if let Some(process) = self.units.process(*id) {
                self.runs.remove_vacant_of(&process.name);
            }
            self.units.remove(*id);
            self.sockets.close(*id);
            self.hooks.forget(*id);
        }
        !gone.is_empty()
    }
}

/// No process starts with an `env_file` that it can't have, and the run that it would replace is a good one.
fn sound_env_files(new: &Config, diff: &Diff) -> Result<()> {
    let starts = |p: &&Arc<Process>| diff.changed.contains(&p.name) || diff.added.contains(&p.name);
    let files = new.processes.iter().filter(starts);
    let files = files.flat_map(|process| &process.env_files);
    let mut faults: Set<Fault> = Set::default();
    for fault in files.filter_map(|file| named_env_file(new, file).err()) {
        faults.add(fault);
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Failure::Config(faults.into_keys()).into()),
    }
}

/// A configuration without its processes.
fn top_level(config: &Config) -> Config {
    Config {
        processes: Vec::new(),
        not_in_effect: Vec::new(),
        named: config::Named::default(),
        ..config.clone()
    }
}

/// Settings that a reload does not apply.
fn not_applied(old: &Config, new: &Config) -> Option<String> {
    let keys = [
        ("mcp_port", old.port != new.port),
        ("bind", old.bind != new.bind),
        ("cgroup", old.cgroup != new.cgroup),
        ("passthrough", old.passthrough != new.passthrough),
    ];
    let changed: Vec<&str> = keys
        .iter()
        .filter(|(_, c)| *c)
        .map(|(key, _)| *key)
        .collect();
    let take = if changed.len() == 1 { "takes" } else { "take" };
    let text = format!(
        "{} {take} effect with: bpm daemon restart",
        changed.join(", ")
    );
    (!changed.is_empty()).then_some(text)
}
