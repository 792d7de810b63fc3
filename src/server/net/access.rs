//! Who may come in: what a request must show before anything of it is looked at. Pure.

use crate::server::http1::{Field, Head};

/// Whom the configuration lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `Host` names beyond the loopback ones: `name`, or `name:port`.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values beyond the loopback ones.
    pub allowed_origins: Vec<String>,
    /// What a request by TCP must carry; it replaces the check of the uid. Never empty.
    pub token: Option<Vec<u8>>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Without a token, ask the kernel who connected, and serve our uid and root only.
    pub check_uid: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            token: None,
            max_connections: 1024,
            check_uid: true,
        }
    }
}

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Policy {
    /// `Host` and `Origin` are ours: a page in a browser that was led here by DNS can't say so.
    pub fn knows(&self, head: &Head, buf: &[u8]) -> Result<(), &'static str> {
        let host = head.value(buf, Field::Host).unwrap_or_default();
        let hosts = [Some(host), head.host_in_target(buf)];
        if !hosts.into_iter().flatten().all(|host| self.host(host)) {
            return Err("Host not allowed");
        }
        let origin = head.value(buf, Field::Origin);
        if head.doubled(Field::Origin) || !origin.is_none_or(|origin| self.origin(origin)) {
            return Err("Origin not allowed");
        }
        Ok(())
    }

    fn host(&self, host: &[u8]) -> bool {
        let same = |known: &String| host.eq_ignore_ascii_case(known.as_bytes());
        if self.allowed_hosts.iter().any(same) {
            return true;
        }
        let Some(name) = without_port(host) else {
            return false;
        };
        let named = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        LOOPBACK.into_iter().any(named) || self.allowed_hosts.iter().any(|known| named(known))
    }

    fn origin(&self, origin: &[u8]) -> bool {
        let same =
            |known: &String| origin.eq_ignore_ascii_case(known.trim_end_matches('/').as_bytes());
        if self.allowed_origins.iter().any(same) {
            return true;
        }
        let host = ["http://", "https://"].into_iter().find_map(|scheme| {
            let (head, rest) = origin.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        });
        let name = host.and_then(without_port).unwrap_or_default();
        LOOPBACK
            .into_iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    }
}

/// The name of `name`, `name:8080`, `[::1]`, `[::1]:8080`; None: it is none of these.
fn without_port(host: &[u8]) -> Option<&[u8]> {
    let end = match host.first() {
        Some(b'[') => memchr::memchr(b']', host)? + 1,
        _ => memchr::memchr(b':', host).unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(end);
    let fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    fits.then_some(name)
}

/// `Authorization: Bearer <token>`. How long it takes tells only whether the lengths are the same.
pub(super) fn bears(authorization: Option<&[u8]>, token: &[u8]) -> bool {
    let Some((scheme, sent)) = authorization.and_then(|value| value.split_at_checked(7)) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(b"bearer ") || sent.len() != token.len() {
        return false;
    }
    let differ = sent
        .iter()
        .zip(token)
        .fold(0u8, |acc, (a, b)| std::hint::black_box(acc | (a ^ b)));
    differ == 0 && !token.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http1::Reader;

    fn policy() -> Policy {
        Policy {
            allowed_hosts: vec!["dev.example".into(), "one.example:81".into()],
            allowed_origins: vec!["https://app.example/".into()],
            ..Policy::default()
        }
    }

    fn knows(target: &str, fields: &str) -> bool {
        let mut buf = format!("GET {target} HTTP/1.1\r\n{fields}\r\n").into_bytes();
        let mut reader = Reader::default();
        reader.advance(&mut buf).unwrap();
        policy().knows(reader.head(), &buf).is_ok()
    }

    #[test]
    fn loopback_and_allowed_hosts_pass() {
        for host in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "dev.example:5",
            "one.example:81",
        ] {
            assert!(knows("/", &format!("Host: {host}\r\n")), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:80@evil.example",
            "localhost:80:80",
            "localhost:x",
            "[::1",
            "::1",
            "[::1]evil",
            "0.0.0.0",
            "one.example",
            "one.example:82",
        ] {
            assert!(!knows("/", &format!("Host: {host}\r\n")), "{host}");
        }
        assert!(!knows("/", ""));
        assert!(!knows("http://evil.example/", "Host: localhost\r\n"));
        assert!(knows("http://localhost/", "Host: localhost\r\n"));
    }

    #[test]
    fn an_origin_is_absent_or_known() {
        let knows = |origin: &str| knows("/", &format!("Host: localhost\r\nOrigin: {origin}\r\n"));
        for origin in [
            "http://localhost",
            "https://127.0.0.1:3000",
            "http://[::1]:1",
            "https://app.example",
        ] {
            assert!(knows(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://evil.example",
            "file://localhost",
            "http://app.example",
            "localhost",
        ] {
            assert!(!knows(origin), "{origin}");
        }
        assert!(!knows("http://localhost\r\nOrigin: http://evil.example"));
    }

    #[test]
    fn a_token_is_taken_whole_or_not() {
        let bears = |value: &str| super::bears(Some(value.as_bytes()), b"secret");
        assert!(bears("Bearer secret") && bears("bearer secret"));
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret1",
            "Bearer Secret",
            "Basic secret",
        ] {
            assert!(!bears(bad), "{bad}");
        }
        assert!(!super::bears(None, b"secret"));
        assert!(!super::bears(Some(b"Bearer "), b""));
    }
}
