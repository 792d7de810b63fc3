//! Pure: no system call, no thread, no clock.
//!
//! The server that the operand names.

use std::path::PathBuf;

use crate::base::error::{Error, Result};

/// Where an earlier server listens, and a bpm with `mcp_port = 3001`.
pub(super) const USUAL: &str = "http://localhost:3001/mcp";

/// A server by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// HTTP.
    Http(Url),
}

/// `http://host:port/path`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Without brackets.
    pub(super) host: String,
    /// 80 where none is given.
    pub(super) port: u16,
    /// `/mcp` where none is given.
    pub(super) path: String,
}

impl Url {
    /// `host:port`, as in a header.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// `http://host:port/mcp`, `host:port`, `:port`, `unix:PATH`.
///
/// # Errors
/// It is none of these.
pub(super) fn address(text: &str) -> Result<Address> {
    let wrong = |why: &str| Error::usage(format!("cannot use {text:?}: {why}"));
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(wrong("unix: needs a path"));
        }
        return Ok(Address::Unix(path.into()));
    }
    if let Some(rest) = text.strip_prefix("https://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        let port = rest.split('/').next().and_then(|a| a.rsplit_once(':'));
        let port = port.map_or("3001", |(_, port)| port);
        return Err(wrong("bpm-tui speaks no TLS").with_hint(format!(
            "ssh -L {port}:localhost:{port} {host}, then bpm-tui :{port}"
        )));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    if rest.contains("://") {
        return Err(wrong("only http:// and unix: are known"));
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/mcp"),
    };
    let path = if path == "/" { "/mcp" } else { path };
    if path.contains(|c: char| c.is_control() || c == ' ') {
        return Err(wrong("a path has no blanks"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| wrong("a bracket is open"))?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| wrong("its port is no port"))?,
        None if text.starts_with("http://") => 80,
        None => {
            return Err(
                wrong("it has no port").with_hint("host:port, http://host:port/mcp or unix:PATH")
            );
        }
    };
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '@';
    if host.contains(odd) {
        return Err(wrong("its host is no name"));
    }
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Address::Http(Url {
        host: host.into(),
        port,
        path: path.into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, authority, path) in [
            ("http://localhost:3001/mcp", "localhost:3001", "/mcp"),
            ("http://box:80", "box:80", "/mcp"),
            ("http://box/x/y", "box:80", "/x/y"),
            ("127.0.0.1:8080", "127.0.0.1:8080", "/mcp"),
            (":3001", "localhost:3001", "/mcp"),
            ("[::1]:3001", "[::1]:3001", "/mcp"),
        ] {
            let Ok(Address::Http(url)) = address(text) else {
                panic!("{text}")
            };
            assert_eq!(
                (url.authority().as_str(), url.path.as_str()),
                (authority, path),
                "{text}"
            );
        }
        assert_eq!(
            address("unix:/run/x.sock").unwrap(),
            Address::Unix("/run/x.sock".into())
        );
    }

    #[test]
    fn others_are_refused_with_what_helps() {
        let hint = |text| address(text).unwrap_err().hint().unwrap_or_default();
        assert_eq!(
            hint("https://box:3001/mcp"),
            "ssh -L 3001:localhost:3001 box, then bpm-tui :3001"
        );
        assert!(hint("box").contains("host:port"));
        for bad in [
            "ftp://x:1",
            "box:0",
            "box:x",
            "unix:",
            "a b:1",
            "http://u@h:1",
            "[::1:1",
        ] {
            assert_eq!(address(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
