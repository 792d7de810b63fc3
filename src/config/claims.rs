//! Pure: no system call, no thread, no clock.
//!
//! Ports and addresses that two processes can't both have.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use super::address::{Listen, parse_listen};
use super::read::{Doc, Section};
use super::{Port, PortWish, Process};
use crate::base::table::sort;

/// An address that a process, or bpm itself, will listen on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimed {
    /// `port`: on loopback at least.
    Port(u16),
    /// An entry of `listen`.
    Tcp(SocketAddr),
    /// A path, or what is known at the start only; with the one process in which it means the same.
    Text(String),
}

struct Claim {
    what: Claimed,
    key: &'static str,
    shown: String,
    /// Byte of the file.
    at: usize,
    title: String,
    /// It does not start by itself, and another may start in its place.
    spare: bool,
}

impl Claim {
    fn port(&self) -> u16 {
        match &self.what {
            Claimed::Port(port) => *port,
            Claimed::Tcp(at) => at.port(),
            Claimed::Text(_) => 0,
        }
    }
}

/// All of a file.
#[derive(Default)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    /// `mcp_port`.
    pub(super) fn own(&mut self, top: &Section, port: Port, bind: IpAddr) {
        if let Port::Fixed(port) = port {
            self.0.push(Claim {
                what: Claimed::Tcp(SocketAddr::new(bind.to_canonical(), port)),
                key: "mcp_port",
                shown: port.to_string(),
                at: top.place_of("mcp_port"),
                title: "\"mcp_port\"".into(),
                spare: false,
            });
        }
    }

    /// `port` and `listen` of a process.
    pub(super) fn of(&mut self, s: &Section, process: &Process) {
        let claim = |what, key, shown, at| Claim {
            what,
            key,
            shown,
            at,
            title: s.title.clone(),
            spare: !process.autostart,
        };
        let port = match process.port {
            Some(PortWish::Fixed(port)) => {
                let at = s.place_of("port");
                self.0
                    .push(claim(Claimed::Port(port), "port", port.to_string(), at));
                Some(port.to_string())
            }
            Some(PortWish::Auto) | None => None,
        };
        let Some(DeValue::Array(places)) = s.get("listen").map(|value| value.get_ref()) else {
            return;
        };
        for (text, place) in process.listen.iter().zip(places.iter()) {
            let resolved = match &port {
                Some(port) => text.replace("${PORT}", port),
                None => text.clone(),
            };
            let what = match parse_listen(&resolved) {
                Ok(Listen::Tcp(at)) => {
                    Claimed::Tcp(SocketAddr::new(at.ip().to_canonical(), at.port()))
                }
                Ok(Listen::Unix(_)) | Err(_) if !text.contains('$') => Claimed::Text(resolved),
                Ok(Listen::Unix(_)) | Err(_) => Claimed::Text(format!("{}{text}", s.title)),
            };
            let shown = format!("{text:?}");
            self.0
                .push(claim(what, "listen", shown, place.span().start));
        }
    }

    /// Says which of them exclude each other. The time that it takes does not depend on how many are alike.
    pub(super) fn check(&mut self, doc: &mut Doc) {
        sort(&mut self.0, |a, b| (&a.what, a.at).cmp(&(&b.what, b.at)));
        for same in self.0.chunk_by(|a, b| a.what == b.what) {
            for later in &same[1..] {
                conflict(doc, later, &same[0], "is");
            }
        }
        let mut numbered: Vec<&Claim> = self.0.iter().filter(|c| c.port() > 0).collect();
        sort(&mut numbered, |a, b| {
            a.port().cmp(&b.port()).then(a.at.cmp(&b.at))
        });
        for one_port in numbered.chunk_by(|a, b| a.port() == b.port()) {
            let mut before = Before::default();
            for claim in one_port {
                if let Some(other) = before.excludes(claim) {
                    conflict(doc, claim, other, "overlaps with what is");
                }
                before.take(claim);
            }
        }
    }
}

/// The first claims of one port, of each kind.
#[derive(Default)]
struct Before<'c> {
    any: Option<&'c Claim>,
    v4: Option<&'c Claim>,
    loopback: Option<&'c Claim>,
    all_v4: Option<&'c Claim>,
    /// `[::]` takes what comes over IPv4 as well.
    all_v6: Option<&'c Claim>,
    own: Option<&'c Claim>,
}

impl<'c> Before<'c> {
    /// A claim of another process, not of the same address, that excludes this one.
    fn excludes(&self, claim: &Claim) -> Option<&'c Claim> {
        let all = self.all_v6.or(self.all_v4);
        let found = match &claim.what {
            Claimed::Port(_) => self.loopback.or(all),
            Claimed::Tcp(at) => match at.ip() {
                IpAddr::V6(ip) if ip.is_unspecified() => self.any,
                IpAddr::V6(ip) if ip.is_loopback() => self.own.or(self.all_v6),
                IpAddr::V6(_) => self.all_v6,
                IpAddr::V4(ip) if ip.is_unspecified() => self.v4.or(self.own).or(self.all_v6),
                IpAddr::V4(ip) if ip.is_loopback() => self.own.or(all),
                IpAddr::V4(_) => all,
            },
            Claimed::Text(_) => None,
        };
        found.filter(|other| other.title != claim.title && other.what != claim.what)
    }

    fn take(&mut self, claim: &'c Claim) {
        let kinds = match &claim.what {
            Claimed::Port(_) => vec![&mut self.own],
            Claimed::Tcp(at) => {
                let mut kinds = Vec::new();
                if at.ip().is_loopback() {
                    kinds.push(&mut self.loopback);
                }
                match (at.ip().is_unspecified(), at.ip()) {
                    (true, IpAddr::V4(_)) => kinds.extend([&mut self.all_v4, &mut self.v4]),
                    (true, IpAddr::V6(_)) => kinds.push(&mut self.all_v6),
                    (false, IpAddr::V4(_)) => kinds.push(&mut self.v4),
                    (false, IpAddr::V6(_)) => {}
                }
                kinds
            }
            Claimed::Text(_) => return,
        };
        for kind in kinds.into_iter().chain([&mut self.any]) {
            kind.get_or_insert(claim);
        }
    }
}

fn conflict(doc: &mut Doc, a: &Claim, b: &Claim, how: &str) {
    let (later, first) = match a.at.cmp(&b.at) {
        Ordering::Less => (b, a),
        Ordering::Equal | Ordering::Greater => (a, b),
    };
    let place = match first.key {
        "mcp_port" => format!("bpm's own: {} is its \"mcp_port\"", first.shown),
        _ if how == "is" => format!("in {} already", first.title),
        _ => format!("in {}: {}", first.title, first.shown),
    };
    let text = format!(
        "\"{}\" in {}: {} {how} {place}",
        later.key, later.title, later.shown
    );
    // One of the two may be meant to run in place of the other.
    if later.spare || first.spare {
        doc.remark(later.at, text);
    } else {
        doc.fault(later.at, text);
    }
}
