//! The ports that processes are given.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::base::error::reason;
use crate::base::logger::Level;
use crate::base::paths::ProjectDir;
use crate::base::saved::saved;
use crate::base::table::Table;
use crate::config::{self, PortWish, Process};
use crate::engine::state_file::State;
use crate::lifecycle::UnitId;
use crate::os::{net, proc};

use super::Supervisor;

/// A free port that another process is to have is passed over; this many are tried.
const TRIES: usize = 64;

/// Ports that are used while another process has the kept one.
#[derive(Default)]
pub(super) struct Ports {
    stand_ins: Table<String, u16>,
}

saved! { Ports { stand_ins } }

impl Supervisor {
    /// The process that listens there: `pid 77 (node server.js)`.
    fn holder(&self, ip: IpAddr, port: u16) -> String {
        let Some((pid, command)) = proc::port_holder(ip, port) else {
            return "another process".into();
        };
        match self.other_project(pid) {
            Some((name, root)) => {
                format!("process {name} of {root} (pid {pid}): \"bpm -C {root} stop\" frees it")
            }
            None => format!("pid {pid} ({command})"),
        }
    }

    /// The process of another project that has that pid, and the project's root: what a deploy that switches a link
    /// leaves behind, say.
    fn other_project(&self, pid: i32) -> Option<(String, String)> {
        let marker = proc::marker(pid)?;
        let (project, rest) = marker.split_once('/')?;
        let (name, _) = rest.rsplit_once('/')?;
        if project == self.marker() {
            return None;
        }
        let known = std::fs::read_dir(self.setup.dir.path().parent()?).ok()?;
        let mut known = known.flatten().map(|entry| ProjectDir::at(entry.path()));
        let dir = known.find(|dir| dir.marker() == project)?;
        Some((name.into(), State::look(&dir.state()).root?))
    }

    /// The port of `port`; one of `"auto"` is taken now if it was not before, and kept.
    pub(super) fn port_of(&mut self, process: &Process) -> Result<Option<u16>, String> {
        match (process.port, self.known_port(process)) {
            (Some(PortWish::Auto), None) => self.take_port(&process.name).map(Some),
            (_, known) => Ok(known),
        }
    }

    /// The same, as far as it is known.
    pub(super) fn known_port(&self, process: &Process) -> Option<u16> {
        match process.port? {
            PortWish::Fixed(port) => Some(port),
            PortWish::Auto => self.port_now(&process.name),
        }
    }

    /// Where it can be reached, also while it does not run: at its port, else at the first address of its `listen`.
    pub(super) fn known_url(&self, unit: UnitId, process: &Process) -> Option<String> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let at = match self.known_port(process) {
            Some(port) => local(port),
            None => self.sockets.address(unit)?,
        };
        match at.ip().is_unspecified() {
            true => Some(format!("http://{}", local(at.port()))),
            false => Some(format!("http://{at}")),
        }
    }

    /// A process whose texts have the ports of the others that they name.
    pub(super) fn with_ports(&mut self, process: &Arc<Process>) -> Result<Arc<Process>, String> {
        if process.references.is_empty() {
            return Ok(Arc::clone(process));
        }
        let mut ports: Table<&str, u16> = Table::default();
        for other in &process.references {
            let port = match (other.port, self.port_now(&other.name)) {
                (PortWish::Fixed(port), _) | (PortWish::Auto, Some(port)) => port,
                (PortWish::Auto, None) => self.take_port(&other.name)?,
            };
            ports.insert(&other.name, port);
        }
        let at = |name: &str| Some((Ipv4Addr::LOCALHOST.to_string(), *ports.get(name)?));
        Ok(Arc::new(config::with_ports(process, &at)))
    }

    /// The port that a process with `port = "auto"` has, or has at its next start.
    fn port_now(&self, process: &str) -> Option<u16> {
        let stand_in = self.ports.stand_ins.get(process).copied();
        stand_in.or_else(|| self.state.get().port_of(process))
    }

    /// The ports of others that a process names, as it gets them if it is started now.
    pub(super) fn named_ports(&self, process: &Process) -> Vec<(String, u16)> {
        let automatic = process
            .references
            .iter()
            .filter(|r| r.port == PortWish::Auto);
        let ports = automatic.filter_map(|r| Some((r.name.clone(), self.port_now(&r.name)?)));
        ports.collect()
    }

    /// The ports that a run names and that have been replaced since its start.
    pub(super) fn replaced_ports(&self, unit: UnitId) -> Vec<String> {
        let Some(unit) = self.units.get(unit) else {
            return Vec::new();
        };
        let named = unit.named_ports.iter();
        let replaced = named.filter_map(|(name, port)| {
            let now = self.port_now(name).filter(|now| now != port)?;
            Some(format!(
                "it was started with port {port} of {name}, which has {now} now: restart {} takes it over",
                unit.process.name
            ))
        });
        replaced.collect()
    }

    /// A port was replaced: that is seen at those who name it.
    fn note_port(&mut self, process: &str) {
        for id in self.units.ids() {
            if let Some(unit) = self.units.get_mut(id) {
                unit.changed |= unit.named_ports.iter().any(|(name, _)| name == process);
            }
        }
    }

    /// Sees that the port is free: its holder is named before the process would die of it, and one of
    /// `"auto"` is replaced as long as another process has it. Not asked where an old run has it (an overlapping swap), or bpm.
    pub(super) fn free_port(&mut self, unit: UnitId, process: &Process) -> Result<(), String> {
        let Some(port) = self.port_of(process)? else {
            return Ok(());
        };
        if self.runs.of_unit(unit).next().is_some() || self.sockets.holds(unit, port) {
            return Ok(());
        }
        if process.port == Some(PortWish::Auto) {
            return self.free_kept_port(&process.name, port);
        }
        match net::loopback_listener(port) {
            Some(ip) => Err(format!(
                "port {port} is in use by {}",
                self.holder(ip, port)
            )),
            None => Ok(()),
        }
    }

    /// The kept port where it is free, else another one for now; `port` is the one that was used last.
    fn free_kept_port(&mut self, process: &str, port: u16) -> Result<(), String> {
        let kept = self.state.get().port_of(process).unwrap_or(port);
        if self.is_for_another(kept, process) {
            self.ports.stand_ins.remove(process);
            self.take_port(process)?;
            self.note_port(process);
            return Ok(());
        }
        let Some(ip) = net::loopback_listener(kept) else {
            if self.ports.stand_ins.remove(process).is_some() {
                let text = format!("{process}: port {kept} is free again, and used again");
                self.events.say(Level::Info, &text);
                self.note_port(process);
            }
            return Ok(());
        };
        if port != kept && net::loopback_listener(port).is_none() {
            return Ok(());
        }
        let stand_in = self.find_port(process)?;
        self.ports.stand_ins.insert(process.into(), stand_in);
        self.note_port(process);
        let text = format!(
            "port {kept}, kept for it, is in use by {}: {stand_in} until it is free",
            self.holder(ip, kept)
        );
        let id = self.units.id_of(process);
        self.happened(Level::Warn, id, "port", text);
        Ok(())
    }

    fn take_port(&mut self, process: &str) -> Result<u16, String> {
        let port = self.find_port(process)?;
        self.state.edit().keep_port(process, port);
        Ok(port)
    }

    fn find_port(&self, process: &str) -> Result<u16, String> {
        let wrong = |e| format!("no free port: {}", reason(&e));
        let mut port = net::free_port().map_err(wrong)?;
        for _ in 0..TRIES {
            if !self.is_for_another(port, process) {
                break;
            }
            port = net::free_port().map_err(wrong)?;
        }
        Ok(port)
    }

    /// Another process of the project has that port, or will have it at its next start.
    fn is_for_another(&self, port: u16, process: &str) -> bool {
        let mut fixed = self.setup.config.processes.iter();
        let fixed = fixed.any(|p| p.name != process && p.port == Some(PortWish::Fixed(port)));
        let mut stand_ins = self.ports.stand_ins.iter();
        let stands_in = stand_ins.any(|(name, taken)| name != process && *taken == port);
        fixed || stands_in || self.state.get().is_kept_for_another(port, process)
    }
}
