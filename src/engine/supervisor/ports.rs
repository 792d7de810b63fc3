//! The ports that processes are given.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::base::error::reason;
use crate::base::table::Table;
use crate::config::{self, PortWish, Process};
use crate::lifecycle::UnitId;
use crate::os::{net, proc};

use super::Supervisor;

/// A free port that another process is to have is passed over; this many are tried.
const TRIES: usize = 64;

impl Supervisor {
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
            PortWish::Auto => self.state.get().port_of(&process.name),
        }
    }

    /// A process whose texts have the ports of the others that they name.
    pub(super) fn with_ports(&mut self, process: &Arc<Process>) -> Result<Arc<Process>, String> {
        if process.references.is_empty() {
            return Ok(Arc::clone(process));
        }
        let mut ports: Table<&str, u16> = Table::default();
        for other in &process.references {
            let port = match (other.port, self.state.get().port_of(&other.name)) {
                (PortWish::Fixed(port), _) | (PortWish::Auto, Some(port)) => port,
                (PortWish::Auto, None) => self.take_port(&other.name)?,
            };
            ports.insert(&other.name, port);
        }
        let at = |name: &str| Some((Ipv4Addr::LOCALHOST.to_string(), *ports.get(name)?));
        Ok(Arc::new(config::with_ports(process, &at)))
    }

    /// Sees that the port is free: its holder is named before the process would die of it, and one of
    /// `"auto"` is replaced. Not asked where an old run has it (an overlapping swap), or bpm.
    pub(super) fn free_port(&mut self, unit: UnitId, process: &Process) -> Result<(), String> {
        let Some(port) = self.port_of(process)? else {
            return Ok(());
        };
        if self.runs.of_unit(unit).next().is_some() || self.sockets.holds(unit, port) {
            return Ok(());
        }
        let holder = net::loopback_listener(port);
        if process.port == Some(PortWish::Auto) {
            return match holder.is_some() || self.is_for_another(port, &process.name) {
                true => self.take_port(&process.name).map(drop),
                false => Ok(()),
            };
        }
        let Some(ip) = holder else { return Ok(()) };
        Err(match proc::port_holder(ip, port) {
            Some((pid, command)) => format!("port {port} is in use by pid {pid} ({command})"),
            None => format!("port {port} is in use by another process"),
        })
    }

    fn take_port(&mut self, process: &str) -> Result<u16, String> {
        let wrong = |e| format!("no free port: {}", reason(&e));
        let mut port = net::free_port().map_err(wrong)?;
        for _ in 0..TRIES {
            if !self.is_for_another(port, process) {
                break;
            }
            port = net::free_port().map_err(wrong)?;
        }
        self.state.edit().keep_port(process, port);
        Ok(port)
    }

    /// Another process of the project has that port, or will have it at its next start.
    fn is_for_another(&self, port: u16, process: &str) -> bool {
        let mut fixed = self.setup.config.processes.iter();
        let fixed = fixed.any(|p| p.name != process && p.port == Some(PortWish::Fixed(port)));
        fixed || self.state.get().is_kept_for_another(port, process)
    }
}
