//! Where the daemon listens, and who may connect.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result, named, reason};
use crate::base::paths::ProjectDir;
use crate::config::{Config, Port};
use crate::engine::state_file::State;
use crate::os::net::{Accept, free_listener, tcp_listener, unix_listener};
use crate::os::peer::{self, our_uid};
use crate::os::{files, proc};
use crate::server::net::{Policy, UidCheck};

/// The TCP listener of `/mcp`, if there is to be one. A port that is kept for the project stays so while another has it.
pub(super) fn tcp(
    bind: IpAddr,
    port: Port,
    state: &mut State,
    warnings: &mut Vec<String>,
) -> Result<Option<TcpListener>> {
    match port {
        Port::Off => return Ok(None),
        Port::Fixed(port) => {
            let listener = tcp_listener(bind, port, Accept::AtOnce);
            return match listener {
                Ok(listener) => Ok(Some(listener)),
                Err(e) => Err(port_taken(bind, port, e)),
            };
        }
        Port::Any => {}
    }
    let kept = state
        .port
        .map(|port| (port, tcp_listener(bind, port, Accept::AtOnce)));
    let lost = match kept {
        Some((_, Ok(listener))) => return Ok(Some(listener)),
        Some((port, Err(_))) => Some(port),
        None => None,
    };
    let listener = match free_listener(bind) {
        Ok(listener) => listener,
        // A sandbox without TCP; nobody has asked for a port.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            warnings.push(format!(
                "no TCP, the Unix socket only: cannot listen on {bind}: {}",
                reason(&e)
            ));
            return Ok(None);
        }
        Err(e) => return Err(port_taken(bind, 0, e)),
    };
    let address = listener
        .local_addr()
        .map_err(|e| Error::system("tell the port", e))?;
    match lost {
        Some(kept) => warnings.push(format!(
            "port {kept}, kept for this project, is in use by {}: an agent that connects to it talks to that one; until it \
             is free, {} serves (\"bpm mcp-config\" prints the lines)",
            holder(bind, kept),
            url(address)
        )),
        None => state.port = Some(address.port()),
    }
    Ok(Some(listener))
}

/// `pid 4711 (nc) of user ann`, as far as it can be seen.
fn holder(bind: IpAddr, port: u16) -> String {
    let user = |uid: u32| format!("uid {uid} ({})", peer::user_name(uid));
    match (proc::port_holder(bind, port), proc::port_owner(port)) {
        (Some((pid, command)), Some(uid)) if uid == our_uid() => format!("pid {pid} ({command})"),
        (Some((pid, command)), Some(uid)) => format!("pid {pid} ({command}) of {}", user(uid)),
        (Some((pid, command)), None) => format!("pid {pid} ({command})"),
        (None, Some(uid)) => user(uid),
        (None, None) => "a process that can't be seen".into(),
    }
}

fn port_taken(bind: IpAddr, port: u16, e: io::Error) -> Error {
    let what = format!("listen on {}", SocketAddr::new(bind, port));
    if e.kind() != ErrorKind::AddrInUse {
        return Error::system(what, e);
    }
    let why = match proc::port_holder(bind, port) {
        Some((pid, command)) => format!("the port is in use by pid {pid} ({command})"),
        None => "the port is in use".into(),
    };
    Error::cannot(what, why).with_hint("--port auto takes a free one, --port N another")
}

pub(super) fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        // Everywhere is reached here as well.
        ip if ip.is_unspecified() && ip.is_ipv4() => IpAddr::from([127, 0, 0, 1]),
        ip if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    format!("http://{}/mcp", SocketAddr::new(ip, address.port()))
}

/// The Unix socket at that path, or where somebody has its short folder in `/tmp`, at another; and the path. To be called
/// by who holds the project's lock.
pub(super) fn unix_somewhere(dir: &ProjectDir, path: PathBuf) -> Result<(UnixListener, PathBuf)> {
    let foretold = path.parent().filter(|folder| *folder != dir.path());
    let path = match foretold.map(files::private_dir) {
        Some(Err(_)) => {
            let random = RandomState::new().hash_one(std::process::id());
            let folder = format!("/tmp/bpm-{}-{random:016x}", our_uid());
            Path::new(&folder).join("daemon.sock")
        }
        Some(Ok(())) | None => path,
    };
    Ok((unix(dir, &path)?, path))
}

/// The Unix socket at that path. To be called by who holds the project's lock.
pub(super) fn unix(dir: &ProjectDir, path: &Path) -> Result<UnixListener> {
    let folder = path.parent().unwrap_or(dir.path());
    // We hold the lock, and the folder is nobody else's: whatever has that name goes.
    files::private_dir(folder)
        .and_then(|()| {
            let _ = fs::remove_file(path);
            unix_listener(path, true, Accept::AtOnce)
        })
        .map_err(|e| Error::file("listen on", path, e))
}

/// Connections leave room for processes.
fn connections(config: &Config, descriptors: u64) -> usize {
    let processes = config.processes.len() as u64;
    let room = descriptors.saturating_sub(64).saturating_sub(6 * processes);
    room.clamp(16, 1_024) as usize
}

/// The access policy for connections over TCP.
pub(super) fn policy(config: &Config, descriptors: u64) -> Result<Policy> {
    let http = &config.http;
    let read = |key, path: &Option<PathBuf>| {
        let path = path.as_deref();
        path.map(|path| token(key, path)).transpose()
    };
    let mut allowed_hosts = http.allowed_hosts.clone();
    // The address that our own URL names: no name can lead a browser here that then says this.
    match config.bind {
        ip if ip.is_unspecified() => {}
        IpAddr::V4(ip) => allowed_hosts.push(ip.to_string()),
        IpAddr::V6(ip) => allowed_hosts.push(format!("[{ip}]")),
    }
    Ok(Policy {
        allowed_hosts,
        allowed_origins: http.allowed_origins.clone(),
        token: read("token_file", &http.token_file)?,
        metrics_token: read("metrics_token_file", &http.metrics_token_file)?,
        dashboard: http.dashboard,
        max_connections: connections(config, descriptors),
        uid: match peer::uid_is_shared() {
            true => UidCheck::Meaningless,
            false => UidCheck::Kernel,
        },
    })
}

/// The contents of a token's file, which must be ours and not readable by others.
fn token(key: &str, path: &Path) -> Result<Vec<u8>> {
    let verb = format!("use {key}");
    let what = || named(&verb, path);
    let (text, file) = files::read_named(path).map_err(|e| Error::file(&verb, path, e))?;
    if file.uid() != our_uid() {
        return Err(Error::cannot(
            what(),
            format!("it belongs to uid {}", file.uid()),
        ));
    }
    if file.mode() & 0o077 != 0 {
        return Err(Error::cannot(what(), "others may read it")
            .with_hint(format!("chmod 600 {}", path.display())));
    }
    let token = text.trim_ascii().to_vec();
    if token.is_empty() {
        return Err(Error::cannot(what(), "it is empty"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_can_be_called() {
        let of = |a: &str| url(a.parse().unwrap());
        assert_eq!(of("0.0.0.0:80"), "http://127.0.0.1:80/mcp");
        assert_eq!(of("[::]:80"), "http://[::1]:80/mcp");
        assert_eq!(of("127.0.0.1:8080"), "http://127.0.0.1:8080/mcp");
    }

    #[test]
    fn a_token_of_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("bpm-token-{}", std::process::id()));
        fs::write(&path, "secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            token("token_file", &path)
                .unwrap_err()
                .to_string()
                .contains("others may read it")
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(token("token_file", &path).unwrap(), b"secret");
        fs::remove_file(&path).unwrap();
    }
}
