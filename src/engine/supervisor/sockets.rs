//! Sockets that bpm holds for processes: opened once, kept over crashes, restarts and reloads, so
//! that connections queue in the kernel while nobody accepts. Handed on by the `LISTEN_FDS` protocol
//! (sd_listen_fds(3)).

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use serde_json::Value;

use crate::base::error::reason;
use crate::base::paths::LONGEST_SOCKET_PATH;
use crate::base::saved::Saved;
use crate::base::table::{Set, Table};
use crate::config::{Listen, parse_listen};
use crate::engine::handover::{Handover, Takeover};
use crate::lifecycle::UnitId;
use crate::os::fds::{inode, set_nonblocking};
use crate::os::net::{self, Accept};
use crate::os::proc;

struct Held {
    address: Listen,
    fd: OwnedFd,
    /// Device and inode of a Unix socket's file.
    file: Option<(u64, u64)>,
}

impl Held {
    fn open(address: &Listen, umask: u32) -> Result<Self, String> {
        let fd = open(address, umask)?;
        Ok(Self {
            file: file_at(address),
            address: address.clone(),
            fd,
        })
    }

    /// Of one that another bpm opened.
    fn before(address: Listen, fd: OwnedFd) -> Self {
        let file = match &address {
            Listen::Tcp(_) => None,
            // One that is gone by now is to be made again.
            Listen::Unix(_) => Some(file_at(&address).unwrap_or_default()),
        };
        Self { address, fd, file }
    }

    /// As it was when it was opened, whatever a program has done with it. Err: its file is not there any more, and can't
    /// be made again.
    fn repair(&mut self, umask: u32) -> Result<(), String> {
        if self.file != file_at(&self.address) {
            *self = Self::open(&self.address, umask)?;
        }
        let restored = set_nonblocking(&self.fd, false).and_then(|()| net::widen_backlog(&self.fd));
        restored.map_err(|e| format!("cannot listen on {}: {}", self.name(), reason(&e)))
    }

    fn name(&self) -> String {
        match &self.address {
            Listen::Tcp(at) => at.to_string(),
            Listen::Unix(path) => path.display().to_string(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Listen::Unix(path) = &self.address
            && self.file == file_at(&self.address)
        {
            // Gone already: nothing to do. Anything else would only be said to nobody.
            let _ = fs::remove_file(path);
        }
    }
}

fn file_at(address: &Listen) -> Option<(u64, u64)> {
    let Listen::Unix(path) = address else {
        return None;
    };
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
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
            match Held::open(address, umask) {
                Ok(held) => now.push(held),
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

    /// Before a start, while no run has them: makes a Unix socket again whose file a program has removed, lets accept(2)
    /// wait, and sets the backlog.
    ///
    /// # Errors
    /// Somebody else listens at that path by now, or it can't be made.
    pub(super) fn repair(&mut self, unit: UnitId, umask: u32) -> Result<(), String> {
        for held in self.held.get_mut(&unit).into_iter().flatten() {
            let file = held.file;
            held.repair(umask)?;
            if held.file != file {
                self.changed.add(unit);
            }
        }
        Ok(())
    }

    /// The sockets of a process by their inodes, each with its address.
    pub(super) fn inodes(&self, unit: UnitId) -> Vec<(u64, String)> {
        let held = self.held.get(&unit).into_iter().flatten();
        held.filter_map(|held| Some((inode(&held.fd).ok()?, held.name())))
            .collect()
    }

    /// Holds a socket that was opened before, by another bpm.
    pub(super) fn put(&mut self, unit: UnitId, address: Listen, fd: OwnedFd) {
        self.held.or_default(unit).push(Held::before(address, fd));
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
    pub(super) fn restore(&mut self, from: &mut Takeover) -> Result<(), String> {
        let all: Vec<(UnitId, (String, String))> = from.get("sockets")?;
        for (unit, (name, address)) in all {
            let address = parse_listen(&address)?;
            if let Some(fd) = from.take(&name) {
                let held = Held::before(address, fd);
                self.held.or_default(unit).push(held);
            }
        }
        Ok(())
    }

    /// Whether that TCP port is held for it.
    pub(super) fn holds(&self, unit: UnitId, port: u16) -> bool {
        let mut held = self.held.get(&unit).into_iter().flatten();
        held.any(|h| matches!(&h.address, Listen::Tcp(at) if at.port() == port))
    }

    /// The first TCP address that is held for a process.
    pub(super) fn address(&self, unit: UnitId) -> Option<SocketAddr> {
        let mut held = self.held.get(&unit).into_iter().flatten();
        held.find_map(|h| match &h.address {
            Listen::Tcp(at) => Some(*at),
            Listen::Unix(_) => None,
        })
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
            // Beside it, and then renamed: nobody meets a file that is gone, or one that may not be used yet.
            let mut new = path.clone().into_os_string();
            new.push(".new");
            let there = fs::symlink_metadata(path);
            let replaces = there.is_ok_and(|there| there.file_type().is_socket());
            let new = match replaces && new.len() <= LONGEST_SOCKET_PATH {
                true => PathBuf::from(new),
                false => path.clone(),
            };
            let listener = net::unix_listener(&new, true, Accept::Waits).map_err(said)?;
            // As a server that makes it by itself would: who may connect is the umask's business.
            fs::set_permissions(&new, Permissions::from_mode(0o666 & !umask)).map_err(said)?;
            if new != *path {
                fs::rename(&new, path).map_err(said)?;
            }
            Ok(listener.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    #[test]
    fn socket_that_a_program_changed_is_repaired() {
        let folder = std::env::temp_dir().join(format!("bpm-sockets-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("web.sock");
        let mut sockets = Sockets::default();
        sockets
            .hold(1, &[Listen::Unix(path.clone())], 0o22)
            .unwrap();
        let inode = |sockets: &Sockets| sockets.inodes(1)[0].0;
        let first = inode(&sockets);
        let fd = sockets.of(1)[0].try_clone_to_owned().unwrap();
        set_nonblocking(&fd, true).unwrap();
        sockets.repair(1, 0o22).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        assert_eq!(inode(&sockets), first);

        // Another socket is at the path: it is replaced, unless somebody serves there. A file of somebody's is not.
        fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        sockets.repair(1, 0o22).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_ne!(inode(&sockets), first);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        sockets.repair(1, 0o22).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"text");
        fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = sockets.repair(1, 0o22).unwrap_err();
        assert!(error.contains("listens there already"), "{error}");
        // Whatever is bound there now is not ours to remove.
        drop(sockets);
        assert!(path.exists());
        drop(other);
        fs::remove_dir_all(&folder).unwrap();
    }
}
