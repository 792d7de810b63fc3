//! Pure: no system call, no thread, no clock.
//!
//! Addresses as they stand in the file: sockets to hold, and what probes connect at.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::base::paths::LONGEST_SOCKET_PATH;

/// One entry of `listen`, expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// `ip:port`.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// `ip:port` or `unix:/path`, after expansion; the error says what is wrong with it.
pub fn parse_listen(text: &str) -> Result<Listen, String> {
    let Some(path) = text.strip_prefix("unix:") else {
        return parse_tcp(text).map(Listen::Tcp);
    };
    if !path.starts_with('/') {
        return Err(format!("{text:?} needs an absolute path after \"unix:\""));
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(format!(
            "the path of {text:?} has {} bytes; a socket's has at most {LONGEST_SOCKET_PATH}",
            path.len()
        ));
    }
    Ok(Listen::Unix(path.into()))
}

/// `ip:port`, after expansion; names are not looked up, and port 0 is nobody's.
pub fn parse_tcp(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(format!("{text:?} has port 0")),
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "{text:?} is not an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\""
        )),
    }
}

/// The target of an `http` probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// Where to connect first; `localhost` is 127.0.0.1, then `::1`; port 80 where none is given.
    pub address: SocketAddr,
    /// For the `Host` header, as written.
    pub host: String,
    /// Path and query, `/` at least.
    pub path: String,
}

/// `http://ip[:port][/path]`, after expansion. No TLS, no names but localhost: a probe must not wait for DNS.
pub fn parse_http(text: &str) -> Result<HttpTarget, String> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(format!("{text:?} does not begin with \"http://\""));
    };
    if text.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return Err(format!("{text:?} has a blank in it"));
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let unnamed = match host.strip_prefix("localhost") {
        Some(port) => format!("{}{port}", Ipv4Addr::LOCALHOST),
        None => host.into(),
    };
    let address = unnamed
        .parse::<SocketAddr>()
        .or_else(|_| format!("{unnamed}:80").parse())
        .ok()
        .filter(|a| a.port() != 0)
        .ok_or_else(|| format!("{text:?} needs an IP address, or localhost, after \"http://\""))?;
    let path = match path.strip_prefix('/') {
        Some(_) => path.to_string(),
        None => format!("/{path}"),
    };
    Ok(HttpTarget {
        address,
        host: host.into(),
        path,
    })
}

/// Whether a connection to `target` could be answered by the socket held at `held`. Both as written;
/// where `${...}` stands in one of them, only what can be compared is.
pub(super) fn is_held(target: &str, held: &str) -> bool {
    if target == held {
        return true;
    }
    if let (Ok(target), Ok(held)) = (parse_tcp(target), parse_tcp(held)) {
        return target.port() == held.port()
            && (target.ip() == held.ip()
                || held.ip().is_unspecified()
                || target.ip().is_unspecified());
    }
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_string());
    let is_open = target.contains("${") || held.contains("${");
    is_open && !held.starts_with("unix:") && port(target) == port(held)
}

/// The `ip:port` of an `http` probe, as written.
pub(super) fn authority(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let host = rest
        .split(['/', '?', '#'])
        .next()
        .unwrap_or_default()
        .replace("localhost", "127.0.0.1");
    match host.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => host,
        _ => format!("{host}:80"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_to_hold_are_read() {
        let tcp = |text: &str| Ok(Listen::Tcp(text.parse().unwrap()));
        assert_eq!(parse_listen("127.0.0.1:80"), tcp("127.0.0.1:80"));
        assert_eq!(parse_listen("[::]:80"), tcp("[::]:80"));
        assert_eq!(parse_listen("unix:/a b"), Ok(Listen::Unix("/a b".into())));
        let longest = format!("unix:/{}", "x".repeat(106));
        assert!(parse_listen(&longest).is_ok());
        for wrong in [
            "",
            "80",
            ":80",
            "localhost:80",
            "::1:80",
            "127.0.0.1:0",
            "unix:",
            "unix:a",
            &format!("{longest}x"),
        ] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn urls_are_read() {
        for (url, address, host, path) in [
            ("http://127.0.0.1:80/", "127.0.0.1:80", "127.0.0.1:80", "/"),
            ("http://127.0.0.1", "127.0.0.1:80", "127.0.0.1", "/"),
            (
                "http://localhost:8080?a=/",
                "127.0.0.1:8080",
                "localhost:8080",
                "/?a=/",
            ),
            ("http://localhost/x#y", "127.0.0.1:80", "localhost", "/x"),
            ("http://[::1]:8080/a/b", "[::1]:8080", "[::1]:8080", "/a/b"),
            ("http://[::1]", "[::1]:80", "[::1]", "/"),
        ] {
            let target = parse_http(url).expect(url);
            assert_eq!(target.address, address.parse().unwrap(), "{url}");
            assert_eq!((target.host.as_str(), target.path.as_str()), (host, path));
        }
        for wrong in [
            "",
            "http://",
            "http:///x",
            "https://127.0.0.1",
            "http://name/",
            "http://a@127.0.0.1/",
            "http://127.0.0.1:x/",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/\r\n",
            "http://[127.0.0.1]/",
            "http://::1/",
            "http://localhostx/",
        ] {
            assert!(parse_http(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_held_socket_is_recognised() {
        for (target, held, is) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:${PORT}", "0.0.0.0:${PORT}", true),
            ("127.0.0.1:${PORT}", "127.0.0.1:80", false),
            ("${HOST}:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "unix:/run/a:80", false),
        ] {
            assert_eq!(is_held(target, held), is, "{target} {held}");
        }
        assert_eq!(authority("http://localhost/x:1"), "127.0.0.1:80");
        assert_eq!(authority("http://[::1]/x"), "[::1]:80");
        assert_eq!(authority("http://[::1]:${PORT}?x"), "[::1]:${PORT}");
    }
}
