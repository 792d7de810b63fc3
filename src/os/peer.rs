//! The user at the other end of a connection: `SO_PEERCRED` for Unix sockets, sock_diag(7) for loopback TCP.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, getsockopt, socket,
};
use nix::unistd::geteuid;

use super::files;

/// The user at the other end of a Unix socket, as the kernel recorded it at connect(2).
pub fn unix_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, PeerCredentials)?.uid())
}

/// The process at the other end of a Unix socket, and its user; of a listener, who listened, even if it
/// has not accepted yet.
pub fn unix_owner(stream: &UnixStream) -> io::Result<(i32, u32)> {
    let peer = getsockopt(stream, PeerCredentials)?;
    Ok((peer.pid(), peer.uid()))
}

/// Our effective uid.
pub fn our_uid() -> u32 {
    geteuid().as_raw()
}

/// Our uid is the one that the kernel shows for every user who has none in our user namespace
/// (user_namespaces(7), overflowuid): equal uids then prove nothing.
pub fn uid_is_shared() -> bool {
    let read = |path: &str| files::virtual_text(path).unwrap_or_default();
    shared(
        our_uid(),
        &read("/proc/sys/kernel/overflowuid"),
        &read("/proc/self/uid_map"),
    )
}

/// The map of the first user namespace maps all uids to themselves.
fn shared(uid: u32, overflow: &str, map: &str) -> bool {
    let all = ["0", "0", "4294967295"];
    let identity = map.split_ascii_whitespace().eq(all);
    overflow.trim().parse() == Ok(uid) && !identity
}

/// The name of a user, else the number.
pub fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    // ann:x:1000:1000:Ann:/home/ann:/bin/sh
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_string())
    });
    found.unwrap_or(number)
}

/// Our uid or root.
pub fn is_us(uid: u32) -> bool {
    uid == 0 || uid == our_uid()
}

/// A socket to ask the kernel whose TCP sockets are whose.
#[derive(Debug)]
pub struct Diag {
    netlink: File,
}

/// The kernel's answer about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    state: u8,
    uid: u32,
    inode: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2` with `struct inet_diag_sockid` in it.
const REQUEST: usize = 56;
/// Where `idiag_uid` and `idiag_inode` are in `struct inet_diag_msg`, whose length is 72.
const UID: usize = 64;
const INODE: usize = 68;
const TCP_LISTEN: u8 = 10;

impl Diag {
    /// Opens it, and makes sure that it works by asking for one of our own listeners: a kernel without the
    /// module answers "no entry" to everything.
    pub fn open(listener: SocketAddr) -> io::Result<Self> {
        let netlink: OwnedFd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkSockDiag,
        )?;
        // Connected to the kernel: nobody else's message is received.
        connect(
            std::os::fd::AsRawFd::as_raw_fd(&netlink),
            &NetlinkAddr::new(0, 0),
        )?;
        let mut diag = Self {
            netlink: netlink.into(),
        };
        let nobody = SocketAddr::new(
            match listener.ip() {
                IpAddr::V4(_) => IpAddr::from([0u8; 4]),
                IpAddr::V6(_) => IpAddr::from([0u8; 16]),
            },
            0,
        );
        match diag.ask(listener, nobody)? {
            Some(found) if found.state == TCP_LISTEN => Ok(diag),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The user who owns the other end of a connection that we accepted: `remote` is its address
    /// there, `local` ours. None: there is no such socket, or it was closed already (then the
    /// kernel says inode 0 and uid 0).
    pub fn uid(&mut self, remote: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
        let found = self.ask(remote, local)?;
        // A lookup that finds no connection falls back to a listener on the same port: a stranger to it.
        Ok(found
            .filter(|f| f.inode != 0 && f.state != TCP_LISTEN)
            .map(|f| f.uid))
    }

    fn ask(&mut self, source: SocketAddr, target: SocketAddr) -> io::Result<Option<Found>> {
        (&self.netlink).write_all(&request(source, target))?;
        let mut answer = [0u8; 1024];
        // The kernel answers within the write, so there is nothing to wait for.
        let n = (&self.netlink).read(&mut answer)?;
        read_answer(&answer[..n], source, target)
    }
}

/// One exact lookup. Native byte order, but for addresses and ports.
fn request(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let (source, target) = (canonical(source), canonical(target));
    let family = match source.ip() {
        IpAddr::V4(_) => nix::libc::AF_INET,
        IpAddr::V6(_) => nix::libc::AF_INET6,
    };
    let mut out = Vec::with_capacity(HEADER + REQUEST);
    out.extend_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    out.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    out.extend_from_slice(&[0; 8]); // sequence, port id
    out.extend_from_slice(&[family as u8, nix::libc::IPPROTO_TCP as u8, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes()); // any state
    id(&mut out, source, target);
    out.extend_from_slice(&[0; 4]); // any interface
    out.extend_from_slice(&[0xff; 8]); // INET_DIAG_NOCOOKIE
    out
}

/// Ports and addresses of `struct inet_diag_sockid`.
fn id(out: &mut Vec<u8>, source: SocketAddr, target: SocketAddr) {
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&target.port().to_be_bytes());
    for ip in [source.ip(), target.ip()] {
        match ip {
            IpAddr::V4(ip) => {
                out.extend_from_slice(&ip.octets());
                out.extend_from_slice(&[0; 12]);
            }
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
}

/// `::ffff:127.0.0.1` is 127.0.0.1, where the kernel keeps it.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn read_answer(answer: &[u8], source: SocketAddr, target: SocketAddr) -> io::Result<Option<Found>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let u32_at = |at: usize| -> io::Result<u32> {
        let bytes = answer.get(at..at + 4).ok_or_else(bad)?;
        Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| bad())?))
    };
    let kind = answer.get(4..6).ok_or_else(bad)?;
    match u16::from_ne_bytes([kind[0], kind[1]]) {
        SOCK_DIAG_BY_FAMILY => {
            let mut ports = Vec::with_capacity(36);
            id(&mut ports, canonical(source), canonical(target));
            let same = answer.get(HEADER + 4..HEADER + 8) == Some(&ports[..4]);
            Ok(Some(Found {
                state: answer.get(HEADER + 1).copied().ok_or_else(bad)?,
                uid: u32_at(HEADER + UID)?,
                inode: u32_at(HEADER + INODE)?,
            })
            .filter(|found| same || found.state == TCP_LISTEN))
        }
        NLMSG_ERROR => {
            let errno = -(u32_at(HEADER)? as i32);
            if errno == nix::libc::ENOENT {
                return Ok(None);
            }
            Err(io::Error::from_raw_os_error(errno))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn pair(on: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(on).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    #[test]
    fn the_kernel_knows_who_connected() {
        for on in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, client, server) = pair(on);
            let mut diag = Diag::open(listener.local_addr().unwrap()).unwrap();
            let (remote, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(
                diag.uid(remote, local).unwrap(),
                Some(geteuid().as_raw()),
                "{on}"
            );
            drop(client);
            assert_eq!(diag.uid(remote, local).unwrap(), None, "closed on {on}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_same_connection() {
        let (listener, _client, server) = pair("127.0.0.1:0");
        let mut diag = Diag::open(listener.local_addr().unwrap()).unwrap();
        let mapped = |a: SocketAddr| match a.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), a.port()),
            IpAddr::V6(_) => a,
        };
        let (remote, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        assert_eq!(
            diag.uid(mapped(remote), mapped(local)).unwrap(),
            Some(geteuid().as_raw())
        );
    }

    #[test]
    fn overflow_uid_of_a_user_namespace_is_shared() {
        let first = "         0          0 4294967295\n";
        assert!(shared(65_534, "65534\n", ""));
        assert!(shared(65_534, "65534\n", "0 1000 1\n"));
        assert!(!shared(65_534, "65534\n", first));
        assert!(!shared(1000, "65534\n", "1000 1000 1\n"));
        assert!(!shared(0, "", ""));
    }

    #[test]
    fn short_answers_are_errors() {
        let a: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for n in 0..HEADER + 72 {
            let mut answer = vec![0u8; n];
            if n >= 6 {
                answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            }
            assert!(read_answer(&answer, a, a).is_err(), "{n}");
        }
    }
}
