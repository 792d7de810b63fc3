//! sd_notify(3), both ends: bpm tells systemd, and its processes tell bpm.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};

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

/// What a process said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who, as the kernel knows it.
    pub pid: i32,
    /// `NAME=value`, a line each.
    pub fields: Vec<(String, String)>,
}

impl Notice {
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

    /// The next notice; None when there is none for now. Datagrams without a sender are passed over.
    pub fn take(&self) -> io::Result<Option<Notice>> {
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
                return Ok(Some(Notice { pid, fields }));
            }
        }
    }

    fn receive(&self, bytes: &mut [u8]) -> Result<(usize, Option<i32>), Errno> {
        // Room for the sender and nothing else: descriptors that come along (FDSTORE=, BARRIER=) are
        // closed by the kernel and never ours.
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut slices = [IoSliceMut::new(bytes)];
        let got = recvmsg::<UnixAddr>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let pid = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
            _ => None,
        });
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

fn parse(message: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(message)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
