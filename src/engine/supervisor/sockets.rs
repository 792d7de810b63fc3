//! Sockets that bpm holds for processes: opened once, kept over crashes, restarts and reloads, so
//! that connections queue in the kernel while nobody accepts. Handed on by the `LISTEN_FDS` protocol
//! (sd_listen_fds(3)).

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::base::error::reason;
use crate::base::saved::Saved;
use crate::base::table::{Set, Table};
use crate::config::{Listen, parse_listen};
use crate::engine::handover::Handover;
use crate::lifecycle::UnitId;
use crate::os::net::{self, Accept};
use crate::os::proc;

struct Held {
    address: Listen,
    fd: OwnedFd,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Listen::Unix(path) = &self.address {
            // Gone already: nothing to do. Anything else would only be said to nobody.
            let _ = fs::remove_file(path);
        }
    }
}

/// All held sockets, by process, in the order of its `listen`.
#[derive(Default)]
pub(super) struct Sockets {
    held: Table<UnitId, Vec<Held>>,
    changed: Set<UnitId>,
}

impl Sockets {
    /// Opens what is missing and closes what is not wanted any more; the others stay as they are.
    ///
    /// # Errors
    /// An address that can't be had, with its holder where it can be seen. What was open stays.
    pub(super) fn hold(
        &mut self,
        unit: UnitId,
        wanted: &[Listen],
        umask: u32,
    ) -> Result<(), String> {
        let mut old = self.held.remove(&unit).unwrap_or_default();
        // First: an address that is not wanted any more may be in the way of one that is.
        old.retain(|held| wanted.contains(&held.address));
        let mut now = Vec::new();
        let mut trouble = None;
        let same = old.len() == wanted.len();
        for address in wanted {
            if let Some(at) = old.iter().position(|h| h.address == *address) {
                now.push(old.swap_remove(at));
                continue;
            }
            match open(address, umask) {
                Ok(fd) => now.push(Held {
                    address: address.clone(),
                    fd,
                }),
                Err(why) => trouble = Some(why),
            }
        }
        if !same || !old.is_empty() {
            self.changed.add(unit);
        }
        if !now.is_empty() {
            self.held.insert(unit, now);
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Holds a socket that was opened before, by another bpm.
    pub(super) fn put(&mut self, unit: UnitId, address: Listen, fd: OwnedFd) {
        self.held.or_default(unit).push(Held { address, fd });
        self.changed.add(unit);
    }

    /// That address is held for it.
    pub(super) fn has(&self, unit: UnitId, address: &Listen) -> bool {
        let mut held = self.held.get(&unit).into_iter().flatten();
        held.any(|h| h.address == *address)
    }

    /// The processes whose sockets are others since this was asked last.
    pub(super) fn take_changed(&mut self) -> Vec<UnitId> {
        std::mem::take(&mut self.changed).keys().copied().collect()
    }

    /// Gives each process what another held of its addresses. One that still wants
    /// an address keeps it.
    pub(super) fn hand_over(&mut self, wanted: &[(UnitId, Vec<Listen>)]) {
        let wants = |unit: UnitId, address: &Listen| {
            let mut all = wanted.iter().filter(|(id, _)| *id == unit);
            all.any(|(_, addresses)| addresses.contains(address))
        };
        let mut moved = Vec::new();
        for (owner, held) in self.held.iter_mut() {
            for at in (0..held.len()).rev() {
                let address = &held[at].address;
                let mut heirs = wanted.iter().filter(|(_, all)| all.contains(address));
                if !wants(*owner, address)
                    && let Some((heir, _)) = heirs.next()
                {
                    moved.push((*heir, held.swap_remove(at)));
                }
            }
        }
        for (heir, socket) in moved {
            self.changed.add(heir);
            self.held.or_default(heir).push(socket);
        }
    }

    /// Addresses as texts, each with the name by which its socket is kept.
    pub(super) fn save(&self, to: &mut Handover) -> Value {
        let mut all = Vec::new();
        for (unit, held) in self.held.iter() {
            for (at, socket) in held.iter().enumerate() {
                let name = format!("listen {unit} {at}");
                to.keep(name.as_str(), &socket.fd);
                let address = match &socket.address {
                    Listen::Tcp(at) => at.to_string(),
                    Listen::Unix(path) => format!("unix:{}", path.display()),
                };
                all.push((*unit, (name, address)));
            }
        }
        all.save()
    }

    /// Takes up what was held.
    pub(super) fn restore(&mut self, from: &mut Handover) -> Result<(), String> {
        let all: Vec<(UnitId, (String, String))> = from.get("sockets")?;
        for (unit, (name, address)) in all {
            let address = parse_listen(&address)?;
            if let Some(fd) = from.take(&name) {
                self.held.or_default(unit).push(Held { address, fd });
            }
        }
        Ok(())
    }

    /// Whether that TCP port is held for it.
    pub(super) fn holds(&self, unit: UnitId, port: u16) -> bool {
        let mut held = self.held.get(&unit).into_iter().flatten();
        held.any(|h| matches!(&h.address, Listen::Tcp(at) if at.port() == port))
    }

    /// The descriptors 3 and on of a process.
    pub(super) fn of(&self, unit: UnitId) -> Vec<BorrowedFd<'_>> {
        self.held
            .get(&unit)
            .into_iter()
            .flatten()
            .map(|h| h.fd.as_fd())
            .collect()
    }

    /// The process is gone from the configuration.
    pub(super) fn close(&mut self, unit: UnitId) {
        self.changed.add(unit);
        self.held.remove(&unit);
    }
}

fn open(address: &Listen, umask: u32) -> Result<OwnedFd, String> {
    match address {
        Listen::Tcp(at) => match net::tcp_listener(at.ip(), at.port(), Accept::Waits) {
            Ok(listener) => Ok(listener.into()),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let holder = match proc::port_holder(at.ip(), at.port()) {
                    Some((pid, command)) => format!("pid {pid} ({command}) listens there already"),
                    None => "another process listens there already".into(),
                };
                Err(format!("cannot listen on {at}: {holder}"))
            }
            Err(e) => Err(format!("cannot listen on {at}: {}", reason(&e))),
        },
        Listen::Unix(path) => {
            let said = |e: io::Error| format!("cannot listen on {path:?}: {}", reason(&e));
            if net::unix_is_served(path) {
                return Err(format!(
                    "cannot listen on {path:?}: another process listens there already"
                ));
            }
            let listener = net::unix_listener(path, true, Accept::Waits).map_err(said)?;
            // As a server that makes it by itself would: who may connect is the umask's business.
            fs::set_permissions(path, Permissions::from_mode(0o666 & !umask)).map_err(said)?;
            Ok(listener.into())
        }
    }
}
