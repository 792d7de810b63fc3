//! sd_notify(3), both ends: bpm tells systemd, and its processes tell bpm.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, sendmsg,
    setsockopt, sockopt,
};

/// As many descriptors as one message can carry (SCM_MAX_FD).
const MOST_FDS: usize = 253;

/// Sends `message` (`READY=1`, lines of `NAME=value`) to the socket that NOTIFY_SOCKET names: a path,
/// or `@` and an abstract name. Never blocks.
pub fn send(target: &OsStr, message: &str) -> io::Result<()> {
    let address = match target.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(target)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// The same with copies of descriptors: `FDSTORE=1`.
pub fn send_with(target: &OsStr, message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match target.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        path => UnixAddr::new(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(message.as_bytes())],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        Some(&address),
    )?;
    Ok(())
}

/// A datagram of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyMessage {
    /// The sender, as the kernel knows it.
    pub pid: i32,
    /// `NAME=value`, a line each.
    pub fields: Vec<(String, String)>,
}

impl NotifyMessage {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(n, _)| n == name)?;
        Some(value)
    }
}

/// Where processes of ours report; readable when one did. Its path is removed with it.
#[derive(Debug)]
pub struct Receiver {
    socket: UnixDatagram,
}

impl Receiver {
    /// At this path, in a folder that only our user can enter; what is there of an earlier daemon is
    /// replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self { socket })
    }

    /// One that this process has had since before an execve.
    pub fn inherited(fd: OwnedFd) -> Self {
        Self { socket: fd.into() }
    }

    /// The next notice; None when there is none for now. Datagrams without a sender are passed over.
    pub fn take(&self) -> io::Result<Option<NotifyMessage>> {
        loop {
            let mut bytes = [0; 4096];
            let (length, pid) = match self.receive(&mut bytes) {
                Ok(got) => got,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if let Some(pid) = pid {
                let fields = parse(&bytes[..length]);
                return Ok(Some(NotifyMessage { pid, fields }));
            }
        }
    }

    fn receive(&self, bytes: &mut [u8]) -> Result<(usize, Option<i32>), Errno> {
        let mut control = nix::cmsg_space!(UnixCredentials, [RawFd; MOST_FDS]);
        let mut slices = [IoSliceMut::new(bytes)];
        let got = recvmsg::<UnixAddr>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut pid = None;
        // Without an end when we are out of descriptors: then the sender is unknown as well.
        for message in got.cmsgs().into_iter().flatten() {
            match message {
                ControlMessageOwned::ScmCredentials(sender) => pid = Some(sender.pid()),
                ControlMessageOwned::ScmRights(fds) => close(&fds),
                _ => {}
            }
        }
        Ok((got.bytes, pid.filter(|p| *p > 0)))
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Ok(address) = self.socket.local_addr()
            && let Some(path) = address.as_pathname()
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Descriptors may come along (`BARRIER=1`, `FDSTORE=1`): we keep none, which is what a barrier waits for.
fn close(fds: &[RawFd]) {
    for fd in fds {
        // SAFETY: the kernel has just made it for us.
        drop(unsafe { OwnedFd::from_raw_fd(*fd) });
    }
}

fn parse(message: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(message)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, alone};
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_notice_arrives_with_its_sender() {
        let folder = Folder::new("notify");
        let path = folder.join("n.sock");
        std::fs::write(&path, "left by another").unwrap();
        let receiver = Receiver::bind(&path).unwrap();
        assert_eq!(receiver.take().unwrap(), None);
        send(path.as_os_str(), "READY=1\nSTATUS=a=b\nnonsense\n").unwrap();
        send(path.as_os_str(), "STOPPING=1").unwrap();
        let first = receiver.take().unwrap().unwrap();
        assert_eq!(first.pid, std::process::id() as i32);
        assert_eq!(
            (
                first.get("READY"),
                first.get("STATUS"),
                first.get("nonsense")
            ),
            (Some("1"), Some("a=b"), None)
        );
        assert_eq!(receiver.take().unwrap().unwrap().get("STOPPING"), Some("1"));
        assert_eq!(receiver.take().unwrap(), None);
        drop(receiver);
        assert!(!path.exists());
        assert!(send(path.as_os_str(), "READY=1").is_err());
    }

    #[test]
    fn an_abstract_name_is_told() {
        let name = format!("bpm-test-{}", std::process::id());
        let socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "READY=1").unwrap();
        let mut bytes = [0; 16];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }

    #[test]
    fn a_flood_neither_blocks_nor_ends_in_an_error() {
        let folder = Folder::new("notify-flood");
        let path = folder.join("n.sock");
        let receiver = Receiver::bind(&path).unwrap();
        // Until the kernel's queue is full; bytes that are no text, and more than is read at once.
        let junk = String::from_utf8_lossy(&std::ffi::OsString::from("=".repeat(9000)).into_vec())
            .into_owned();
        let sent = (0..100_000)
            .take_while(|_| send(path.as_os_str(), &junk).is_ok())
            .count();
        assert!((1..100_000).contains(&sent));
        let mut taken = 0;
        while let Some(notice) = receiver.take().unwrap() {
            assert_eq!(notice.fields.len(), 1);
            taken += 1;
        }
        assert_eq!(taken, sent);
    }

    #[test]
    fn descriptors_that_come_along_are_not_ours() {
        alone(
            "os::notify::tests::descriptors_that_come_along_are_not_ours",
            || {
                use nix::sys::socket::{ControlMessage, sendmsg};
                let folder = Folder::new("notify-fds");
                let path = folder.join("n.sock");
                let receiver = Receiver::bind(&path).unwrap();
                let sender = UnixDatagram::unbound().unwrap();
                let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
                let before = open();
                let fds = [sender.as_raw_fd(), 0, 1];
                let address = UnixAddr::new(&path).unwrap();
                for message in ["BARRIER=1", "FDSTORE=1"] {
                    let text = [io::IoSlice::new(message.as_bytes())];
                    let control = [ControlMessage::ScmRights(&fds)];
                    sendmsg(
                        sender.as_raw_fd(),
                        &text,
                        &control,
                        MsgFlags::empty(),
                        Some(&address),
                    )
                    .unwrap();
                    let notice = receiver.take().unwrap().unwrap();
                    assert_eq!(notice.pid, std::process::id() as i32);
                    assert_eq!(notice.fields.len(), 1);
                }
                assert_eq!(open(), before);
            },
        );
    }
}
