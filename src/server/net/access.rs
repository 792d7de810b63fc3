//! Access over TCP: what a request must show before anything of its body is read.

use std::net::SocketAddr;

use crate::base::error::reason;
use crate::os::peer::{self, Diag};
use crate::server::http1::{Field, Head, Reject};
use crate::server::service::{Level, Service};

use super::conn::{Conn, Ends, Proto};

/// The clients that the configuration allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `Host` names beyond the loopback ones: `name`, or `name:port`.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values beyond the loopback ones.
    pub allowed_origins: Vec<String>,
    /// Each request must carry it; it replaces the check of the uid. Never empty.
    pub token: Option<Vec<u8>>,
    /// Opens `/metrics` alone. Never empty.
    pub metrics_token: Option<Vec<u8>>,
    /// The page at `/` is served.
    pub dashboard: bool,
    /// The most connections at a time.
    pub max_connections: usize,
    /// Without a token.
    pub uid: UidCheck,
}

/// How the user at the other end of a TCP connection is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UidCheck {
    /// The kernel is asked, and our uid and root are served.
    Kernel,
    /// Our own uid stands for all users without one in our user namespace: nobody is served.
    Meaningless,
    /// Everybody is served.
    Off,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            token: None,
            metrics_token: None,
            dashboard: true,
            max_connections: 1024,
            uid: UidCheck::Kernel,
        }
    }
}

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

const fn forbidden(why: &'static str) -> Reject {
    Reject { status: 403, why }
}

impl Policy {
    /// Checks the names in a request: a page in a browser that was led here by DNS, or that is open at another
    /// port, can't send ours.
    pub fn check(&self, head: &Head, buf: &[u8]) -> Result<(), Reject> {
        let hosts = [head.value(buf, Field::Host), head.host_in_target(buf)];
        if !hosts.into_iter().flatten().all(|host| self.host(host)) {
            return Err(forbidden("Host not allowed"));
        }
        let origin = head.value(buf, Field::Origin);
        if head.doubled(Field::Origin) || !origin.is_none_or(|origin| self.origin(origin)) {
            return Err(forbidden("Origin not allowed"));
        }
        if !self.site(head, buf) {
            return Err(forbidden(
                "a page of another site, or of another port, may not ask (Sec-Fetch-Site)",
            ));
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
        if self.listed(origin) {
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

    /// The origin stands in the configuration.
    fn listed(&self, origin: &[u8]) -> bool {
        let same =
            |known: &String| origin.eq_ignore_ascii_case(known.trim_end_matches('/').as_bytes());
        self.allowed_origins.iter().any(same)
    }

    /// A browser says which page a request comes from: our own, none (an address that was typed), an allowed
    /// one, or any other where somebody follows a link to the page at `/`.
    fn site(&self, head: &Head, buf: &[u8]) -> bool {
        let is = |field, value: &str| head.value(buf, field) == Some(value.as_bytes());
        if head.value(buf, Field::FetchSite).is_none() {
            return true;
        }
        let own = is(Field::FetchSite, "same-origin") || is(Field::FetchSite, "none");
        if own && !head.doubled(Field::FetchSite) {
            return true;
        }
        let origin = head.value(buf, Field::Origin);
        let link = is(Field::FetchMode, "navigate") && is(Field::FetchDest, "document");
        origin.is_some_and(|origin| self.listed(origin))
            || link && head.method(buf) == b"GET" && head.path(buf) == b"/"
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
fn bears(authorization: Option<&[u8]>, token: &[u8]) -> bool {
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

/// Decides who is served over TCP.
pub(super) struct Access {
    pub(super) policy: Policy,
    listeners: Vec<SocketAddr>,
    kernel: Kernel,
}

/// The way to ask the kernel who connected.
enum Kernel {
    NotAsked,
    Open(Diag),
    /// This kernel does not tell.
    Silent,
}

impl Access {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            listeners: Vec::new(),
            kernel: Kernel::NotAsked,
        }
    }

    pub(super) fn listens_on(&mut self, address: SocketAddr) {
        self.listeners.push(address);
    }

    /// Checks the user: by the token, which each request shows, or by asking the kernel, once for a connection.
    /// HTTP on the Unix socket was checked when it connected.
    pub(super) fn check_user(&mut self, c: &mut Conn, service: &dyn Service) -> Result<(), Reject> {
        let (Some(ends), Proto::Http(http)) = (c.ends, &c.proto) else {
            return Ok(());
        };
        let head = http.reader.head();
        let shown = head.value(&c.input.bytes, Field::Authorization);
        // Of two, a proxy that routes the request may have looked at the other one.
        let shown = shown.filter(|_| !head.doubled(Field::Authorization));
        let bears = |token: &Option<Vec<u8>>| {
            let token = token.as_ref();
            token.is_some_and(|token| bears(shown, token))
        };
        let metrics = head.path(&c.input.bytes) == b"/metrics";
        if bears(&self.policy.token) || metrics && bears(&self.policy.metrics_token) {
            return Ok(());
        }
        if self.policy.token.is_some() {
            return Err(Reject {
                status: 401,
                why: "a bearer token is needed (token_file)",
            });
        }
        match self.policy.uid {
            UidCheck::Off => return Ok(()),
            UidCheck::Meaningless => {
                return Err(forbidden(
                    "uids prove nothing in this user namespace: set token_file, or use the socket",
                ));
            }
            UidCheck::Kernel => {}
        }
        let ours = match c.ours {
            Some(ours) => ours,
            None => self.is_ours(ends, service),
        };
        c.ours = Some(ours);
        match (ours, &self.kernel) {
            (true, _) => Ok(()),
            (false, Kernel::Silent) => Err(forbidden(
                "this kernel does not tell who connected: set token_file",
            )),
            (false, Kernel::NotAsked | Kernel::Open(_)) => Err(forbidden(
                "only the user who runs bpm, and root, may connect",
            )),
        }
    }

    fn is_ours(&mut self, ends: Ends, service: &dyn Service) -> bool {
        if !ends.remote.ip().to_canonical().is_loopback() {
            return false;
        }
        if let Kernel::NotAsked = self.kernel {
            self.kernel = match self.open_diag() {
                Ok(diag) => Kernel::Open(diag),
                Err(e) => {
                    let why = reason(&e);
                    let text = format!(
                        "cannot ask the kernel who connects over TCP: {why}; nobody is let in without token_file"
                    );
                    service.log(Level::Warn, &text);
                    Kernel::Silent
                }
            };
        }
        let Kernel::Open(diag) = &mut self.kernel else {
            return false;
        };
        match diag.uid(ends.remote, ends.local) {
            Ok(uid) => uid.is_some_and(peer::is_us),
            Err(e) => {
                let text = format!("cannot ask who connected: {}", reason(&e));
                service.log(Level::Warn, &text);
                // A late answer to this question must not be taken for one to the next.
                self.kernel = Kernel::NotAsked;
                false
            }
        }
    }

    fn open_diag(&self) -> std::io::Result<Diag> {
        let mut last = std::io::ErrorKind::Unsupported.into();
        for address in &self.listeners {
            match Diag::open(*address) {
                Ok(diag) => return Ok(diag),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
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

    fn passes(line: &str, fields: &str) -> bool {
        let mut buf = format!("{line} HTTP/1.1\r\n{fields}\r\n").into_bytes();
        let mut reader = Reader::default();
        reader.advance(&mut buf).unwrap();
        policy().check(reader.head(), &buf).is_ok()
    }

    #[test]
    fn loopback_and_allowed_hosts_pass() {
        let passes = |host: &str| passes("GET /", &format!("Host: {host}\r\n"));
        for host in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "dev.example:5",
            "one.example:81",
        ] {
            assert!(passes(host), "{host}");
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
            assert!(!passes(host), "{host}");
        }
        let target = |target| super::tests::passes(target, "Host: localhost\r\n");
        assert!(!target("GET http://evil.example/"));
        assert!(target("GET http://localhost/"));
    }

    #[test]
    fn origin_is_absent_or_known() {
        let passes = |origin: &str| {
            let fields = format!("Host: localhost\r\nOrigin: {origin}\r\n");
            passes("POST /mcp", &fields)
        };
        for origin in [
            "http://localhost",
            "https://127.0.0.1:3000",
            "http://[::1]:1",
            "https://app.example",
        ] {
            assert!(passes(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://evil.example",
            "file://localhost",
            "http://app.example",
            "localhost",
        ] {
            assert!(!passes(origin), "{origin}");
        }
        assert!(!passes("http://localhost\r\nOrigin: http://evil.example"));
    }

    #[test]
    fn pages_of_other_sites_and_ports_are_refused() {
        let passes =
            |line: &str, fields: &str| passes(line, &format!("Host: localhost\r\n{fields}"));
        let link = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
        for site in ["same-origin", "none"] {
            assert!(passes("POST /mcp", &format!("Sec-Fetch-Site: {site}\r\n")));
        }
        for site in ["same-site", "cross-site", "", "same-origin, none"] {
            let site = format!("Sec-Fetch-Site: {site}\r\n");
            for line in ["POST /mcp", "GET /", "GET /healthz", "GET /metrics"] {
                assert!(!passes(line, &site), "{line} {site}");
                let own_machine = format!("{site}Origin: http://localhost:5173\r\n");
                assert!(!passes(line, &own_machine), "{line} {site}");
                let allowed = format!("{site}Origin: https://app.example\r\n");
                assert!(passes(line, &allowed), "{line} {site}");
            }
            assert!(passes("GET /", &format!("{site}{link}")), "{site}");
            assert!(!passes("POST /", &format!("{site}{link}")), "{site}");
            assert!(!passes("GET /metrics", &format!("{site}{link}")), "{site}");
            let frame = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n";
            assert!(!passes("GET /", &format!("{site}{frame}")), "{site}");
        }
        let doubled = "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n";
        assert!(!passes("POST /mcp", doubled));
    }

    #[test]
    fn token_is_taken_whole_or_not() {
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
