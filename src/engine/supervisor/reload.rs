//! Reading `.mcp-run` anew: what did not change is not touched.

use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Mono;
use crate::base::error::Result;
use crate::base::logger::Level;
use crate::base::paths::CONFIG_FILE;
use crate::config::{self, Config, Diff};
use crate::engine::handle::{Reloaded, Reply, ReplySlot, STOPPING};
use crate::lifecycle::{Order, UnitId};
use crate::os::{files, trust};

use super::orders::Kind;
use super::{Phase, Supervisor, log_limits, policy};

/// Reads the configuration of a project.
///
/// # Errors
/// All mistakes in it; it can't be read; another user could have written it.
pub fn read_config(root: &Path) -> Result<Config> {
    config::parse_bytes(&trust::read_config(root)?, CONFIG_FILE, root)
}

impl Supervisor {
    /// A mistake in the file changes nothing.
    pub(super) fn reload(&mut self, dry_run: bool, slot: ReplySlot) {
        if self.phase != Phase::Working {
            return slot.put(Reply::Refused(STOPPING.into()));
        }
        if dry_run {
            return self.read_anew(true, slot);
        }
        // Whatever comes of it: whoever sent HUP waits for both (systemd.service(5), Type=notify-reload).
        let now = Mono::now().as_nanos() / 1_000;
        let text = format!("RELOADING=1\nMONOTONIC_USEC={now}");
        self.setup.manager.tell(&text);
        self.read_anew(false, slot);
        self.setup.manager.tell("READY=1");
    }

    fn read_anew(&mut self, dry_run: bool, slot: ReplySlot) {
        let read = read_config(&self.setup.config.root);
        let read = read.and_then(|new| (self.setup.access)(&new, !dry_run).map(|()| new));
        let new = match read {
            Ok(new) => new,
            Err(e) => {
                let errors: Vec<String> = e.to_string().lines().map(Into::into).collect();
                self.say(
                    Level::Error,
                    &format!("reload: nothing changed: {}", errors.join("; ")),
                );
                return slot.put(Reply::Mistakes(errors));
            }
        };
        let old = &self.setup.config;
        let diff = config::diff(old, &new);
        let mut reloaded = Reloaded {
            changed: diff.changed.clone(),
            added: diff.added.clone(),
            removed: diff.removed.clone(),
            unchanged: diff
                .adjusted
                .iter()
                .chain(&diff.unchanged)
                .cloned()
                .collect(),
            errors: Vec::new(),
        };
        let door = [
            ("mcp_port", old.port != new.port),
            ("bind", old.bind != new.bind),
        ];
        let late: Vec<&str> = door
            .iter()
            .filter(|(_, c)| *c)
            .map(|(key, _)| *key)
            .collect();
        if !late.is_empty() {
            let text = format!("{} take effect with: bpm daemon restart", late.join(", "));
            reloaded.errors.push(text);
        }
        if dry_run {
            return slot.put(Reply::Reload(reloaded));
        }
        let members = self.take_over(&new, &diff);
        self.config_digest = files::digest(&new.root.join(CONFIG_FILE));
        self.setup.config = new;
        self.hand_sockets_over();
        self.watch_files();
        let text = format!(
            "reload: {} changed, {} added, {} removed",
            reloaded.changed.len(),
            reloaded.added.len(),
            reloaded.removed.len()
        );
        self.happened(None, "reload", text);
        self.gather(Kind::Reload(Box::new(reloaded)), members, slot);
    }

    /// New settings for all, and an order for each that needs one.
    fn take_over(&mut self, new: &Config, diff: &Diff) -> Vec<(String, Option<UnitId>, Order)> {
        let mut members = Vec::new();
        let mut rechecked = Vec::new();
        for name in &diff.removed {
            if let Some(id) = self.id_of(name) {
                if let Some(unit) = self.units.get_mut(&id) {
                    unit.retiring = true;
                }
                self.fleet.leave(id);
                members.push((name.clone(), Some(id), Order::Stop));
            }
        }
        let mut order: Vec<UnitId> = Vec::new();
        for process in &new.processes {
            let name = &process.name;
            let known = self.id_of(name);
            let id = match known {
                Some(id) => id,
                None => self.add(Arc::clone(process)),
            };
            order.push(id);
            self.fleet.set_policy(id, policy(process, new));
            let Some(unit) = self.units.get_mut(&id) else {
                continue;
            };
            unit.log.set_limits(log_limits(process));
            unit.build_log.set_limits(log_limits(process));
            if (&unit.process.ready, &unit.process.health) != (&process.ready, &process.health) {
                rechecked.push(id);
            }
            unit.process = Arc::clone(process);
            unit.changed = true;
            let Some(facts) = self.fleet.facts(id) else {
                continue;
            };
            if known.is_none() && process.autostart {
                members.push((name.clone(), Some(id), Order::Start));
            } else if diff.changed.contains(name) && facts.wanted {
                // What somebody stopped stays stopped.
                members.push((
                    name.clone(),
                    Some(id),
                    Order::Restart {
                        mode: facts.mode,
                        build: true,
                    },
                ));
            }
        }
        let retiring = self
            .order
            .iter()
            .filter(|id| !order.contains(id))
            .copied()
            .collect::<Vec<_>>();
        order.extend(retiring);
        self.order = order;
        for id in rechecked {
            self.check_anew(id);
        }
        members
    }

    /// Takes out processes that a reload removed, once nothing of them is left.
    /// True if there was one.
    pub(super) fn retire(&mut self) -> bool {
        let gone: Vec<UnitId> = self
            .units
            .iter()
            .filter(|(id, u)| u.retiring && self.fleet.is_empty(**id))
            .map(|(id, _)| *id)
            .collect();
        let before = self.units.len();
        for id in gone {
            if self.tickets_of(id) {
                continue;
            }
            for effect in self.fleet.remove(id) {
                self.carry_out(effect);
            }
            self.units.remove(&id);
            self.sockets.close(id);
            self.order.retain(|o| *o != id);
        }
        self.units.len() != before
    }

    /// Somebody still waits for an answer about it.
    fn tickets_of(&self, id: UnitId) -> bool {
        self.pending_orders.values().any(|p| p.awaits(id))
    }
}
