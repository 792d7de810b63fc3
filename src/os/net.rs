//! Sockets that listen, and ways to connect.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    self as sys, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6,
    SockaddrStorage, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::time::{TimeVal, TimeValLike};

/// As many connections may wait to be accepted as the kernel allows. A number of ours would have to
/// be one that nix takes for valid: at most 128 with musl.
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// Whether accept(2) waits. A property of the socket that everybody shares who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// For a socket of our own loop.
    AtOnce,
    /// For a socket that a process gets: what it expects, unless it says otherwise.
    Waits,
}

/// Lets as many connections wait for this listener as the kernel allows.
pub fn widen_backlog(listener: &impl AsFd) -> io::Result<()> {
    Ok(listen(listener, BACKLOG)?)
}

/// Listens on a TCP port, 0 for any; a port whose last user has just left is no obstacle
/// (SO_REUSEADDR). CLOEXEC.
pub fn tcp_listener(ip: IpAddr, port: u16, accept: Accept) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((ip, port))?;
    // Once more, for our own backlog: the library's differs between its versions.
    widen_backlog(&listener)?;
    listener.set_nonblocking(accept == Accept::AtOnce)?;
    Ok(listener)
}

/// Listens on a Unix socket that only our user can connect to (mode 0600). `replace` removes a socket
/// that is there, and is for who holds the lock that says nobody serves it. CLOEXEC.
pub fn unix_listener(path: &Path, replace: bool, accept: Accept) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    if replace {
        unlink_socket(path)?;
    }
    let socket: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // bind(2) makes the file with the mode of the socket: it is never open to others, not even for a
    // moment, and no umask is changed under other threads.
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &address)?;
    widen_backlog(&socket)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(accept == Accept::AtOnce)?;
    Ok(listener)
}

/// The TCP address that a socket listens on, or None for one of Unix that listens.
///
/// # Errors
/// It is no socket that listens.
pub fn listens_on(socket: &impl AsFd) -> io::Result<Option<SocketAddr>> {
    let fd = socket.as_fd();
    if !sys::getsockopt(&fd, sys::sockopt::AcceptConn)? {
        return Err(ErrorKind::NotConnected.into());
    }
    let address: SockaddrStorage = sys::getsockname(fd.as_raw_fd())?;
    let v4 = address
        .as_sockaddr_in()
        .map(|a| SocketAddr::from((a.ip(), a.port())));
    let v6 = address
        .as_sockaddr_in6()
        .map(|a| SocketAddr::from((a.ip(), a.port())));
    Ok(v4.or(v6))
}

/// Somebody listens on that Unix socket. Never waits, not even where its queue is full.
pub fn unix_is_served(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = UnixAddr::new(path).and_then(|address| {
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        sys::connect(socket.as_raw_fd(), &address)
    });
    matches!(connected, Ok(()) | Err(Errno::EAGAIN))
}

/// A connection to a Unix socket, within the time given: connect(2) waits while the backlog of a
/// listener that accepts nothing is full, and only `SO_SNDTIMEO` ends that.
pub fn dial(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let millis = i64::try_from(patience.as_millis().max(1)).unwrap_or(i64::MAX);
    sys::setsockopt(
        &socket,
        sys::sockopt::SendTimeout,
        &TimeVal::milliseconds(millis),
    )?;
    sys::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The same without waiting, and neither will reads and writes: an error where the queue of the listener
/// is full.
pub fn dial_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    sys::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn unlink_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path),
        // bind(2) will say that something is in the way.
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Begins to connect and does not wait: the socket can be written once it is decided, and
/// `take_error` tells how. An error here is a refusal at once.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    let begun = match address {
        SocketAddr::V4(v4) => sys::connect(socket.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => sys::connect(socket.as_raw_fd(), &SockaddrIn6::from(v6)),
    };
    match begun {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(TcpStream::from(socket)),
        Err(e) => Err(e.into()),
    }
}

/// The addresses at which a local server is found.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// The loopback address at which somebody listens on that port. Nothing listens meanwhile that a client
/// could connect to: bind(2) alone fails where another socket listens.
pub fn loopback_listener(port: u16) -> Option<IpAddr> {
    LOOPBACK.into_iter().find(|ip| {
        let taken = |e: io::Error| e.kind() == ErrorKind::AddrInUse;
        bound(*ip, port).err().is_some_and(taken)
    })
}

/// The lowest port that bpm takes by itself.
const LOWEST: u16 = 20_000;

/// A port on which nobody listens at the moment, at either loopback address: below those that the kernel gives to whoever
/// connects (`ip_local_port_range`), one of which another program would have by the time it is wanted again.
pub fn free_port() -> io::Result<u16> {
    const TRIES: u64 = 256;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let first = range.split_ascii_whitespace().next();
    let above = first.and_then(|first| first.parse().ok()).unwrap_or(32_768);
    if let Some(count) = u16::checked_sub(above, LOWEST).filter(|count| *count >= 100) {
        let random = RandomState::new();
        for n in 0..TRIES {
            let port = LOWEST + (random.hash_one(n) % u64::from(count)) as u16;
            if loopback_listener(port).is_none() {
                return Ok(port);
            }
        }
    }
    // The range begins too low, or everything is taken.
    let socket = TcpListener::from(bound(LOOPBACK[0], 0)?);
    Ok(socket.local_addr()?.port())
}

/// Listens on a port that [`free_port`] finds.
pub fn free_listener(ip: IpAddr) -> io::Result<TcpListener> {
    const TRIES: usize = 8;
    let mut last = ErrorKind::AddrInUse.into();
    for _ in 0..TRIES {
        // Somebody may take it in between.
        match tcp_listener(ip, free_port()?, Accept::AtOnce) {
            Err(e) if e.kind() == ErrorKind::AddrInUse => last = e,
            done => return done,
        }
    }
    Err(last)
}

/// A socket with that address that does not listen.
fn bound(ip: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let address = SockaddrStorage::from(SocketAddr::new(ip, port));
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // As a server does: connections that have just ended are no obstacle.
    sys::setsockopt(&socket, sys::sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::super::testing::{Folder, alone};
    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn port_check_finds_listeners_of_both_families_and_accepts_nobody() {
        let port = free_port().unwrap();
        assert_eq!(loopback_listener(port), None);
        // The check holds the port for a moment: nobody can connect to it, and a server may have the port.
        let held = bound(LOCALHOST, port).unwrap();
        let refused = TcpStream::connect((LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        drop(held);
        for ip in LOOPBACK {
            // Not every machine has IPv6.
            if let Ok(listener) = tcp_listener(ip, port, Accept::AtOnce) {
                assert_eq!(loopback_listener(port), Some(ip));
                drop(listener);
                assert_eq!(loopback_listener(port), None);
            }
        }
    }

    #[test]
    fn a_burst_of_connections_waits_in_the_kernel() {
        alone(
            "os::net::tests::a_burst_of_connections_waits_in_the_kernel",
            || {
                let port = free_port().unwrap();
                let listener = tcp_listener(LOCALHOST, port, Accept::AtOnce).unwrap();
                assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
                let taken = tcp_listener(LOCALHOST, port, Accept::AtOnce).unwrap_err();
                assert_eq!(taken.kind(), ErrorKind::AddrInUse);
                let clients: Vec<_> = (0..200)
                    .map(|_| TcpStream::connect((LOCALHOST, port)).unwrap())
                    .collect();
                for _ in &clients {
                    listener.accept().unwrap();
                }
                // Closed by us first: TIME_WAIT keeps nobody from the port.
                drop(listener);
                tcp_listener(LOCALHOST, port, Accept::AtOnce).unwrap();
            },
        );
    }

    #[test]
    fn a_socket_for_a_child_waits_in_accept() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let folder = Folder::new("accept");
        let nonblocking = |fd: OwnedFd| {
            let flags = fcntl(&fd, FcntlArg::F_GETFL).unwrap();
            OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
        };
        for (accept, expected) in [(Accept::Waits, false), (Accept::AtOnce, true)] {
            let unix = unix_listener(&folder.join("s"), true, accept).unwrap();
            assert_eq!(nonblocking(unix.into()), expected);
            let tcp = tcp_listener(LOCALHOST, 0, accept).unwrap();
            assert_eq!(nonblocking(tcp.into()), expected);
        }
    }

    #[test]
    fn a_unix_socket_is_ours_alone_and_replaced_only_when_told() {
        let folder = Folder::new("unix");
        let path = folder.join("daemon.sock");
        let listener = unix_listener(&path, false, Accept::AtOnce).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        drop(listener);
        let stale = unix_listener(&path, false, Accept::AtOnce).unwrap_err();
        assert_eq!(stale.kind(), ErrorKind::AddrInUse);
        let _listener = unix_listener(&path, true, Accept::AtOnce).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_stays_and_a_long_path_is_an_error() {
        let folder = Folder::new("unix-file");
        let path = folder.file("daemon.sock", "precious", 0o600);
        assert!(unix_listener(&path, true, Accept::AtOnce).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert!(unix_listener(&folder.join(&"x".repeat(120)), true, Accept::AtOnce).is_err());
    }
}
