//! Connections over an upgrade in place. Nobody is answered for it: what the next program has to write is written down,
//! so that everything goes on as it was where there is no next program.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, Wall};
use crate::base::json::object;
use crate::base::saved::{saved, saved_enum};
use crate::os::inbox::Inbox;
use crate::server::http1;
use crate::server::rpc::{self, Request};
use crate::server::service::{ClientKind, ORDER};

use super::calls::Call;
use super::conn::{Conn, End, Phase, Proto, Sock};
use super::context::Context;
use super::event_loop::{EventLoop, Listener};

/// Searches under way have that time to end.
pub(super) const SEARCHES: Duration = Duration::from_secs(2);

/// All that is open, while the server's thread stands still.
#[derive(Debug, Default)]
pub struct FrozenNet {
    pub since: Mono,
    pub conns: Vec<SavedConn>,
    /// The instance whose places the connections have.
    pub bytes: Vec<u8>,
    /// By name.
    pub fds: Vec<(String, RawFd)>,
}

/// The order to stand still.
#[derive(Debug)]
pub(super) struct Freezing {
    pub(super) reply: Arc<Inbox<FrozenNet>>,
    pub(super) thaw: Arc<Inbox<()>>,
    /// Searches are waited for no longer.
    pub(super) until: Option<Mono>,
}

/// The start and the length of bytes beside.
type Place = (usize, usize);

/// One connection.
#[derive(Debug, Clone, Default)]
pub struct SavedConn {
    /// Of its descriptor.
    fd: String,
    is_tcp: bool,
    talks: Talk,
    client: ClientKind,
    modern: bool,
    spoke: bool,
    ours: Option<bool>,
    input: Place,
    output: Place,
    /// It is closed once `output` is written.
    ends: bool,
    /// Requests that are asked once more.
    again: Vec<Request>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Talk {
    #[default]
    Unknown,
    Http,
    Lines {
        batches: bool,
    },
}

saved! {
    SavedConn { fd, is_tcp, talks, client, modern, spoke, ours, input, output, ends, again }
    Request { id, method, params }
}

saved_enum! {
    Talk { Unknown, Http, Lines { batches } }
    ClientKind { Agent, Proxy, Cli, Tui, Page }
}

impl SavedConn {
    /// The name of its descriptor.
    pub fn name(&self) -> &str {
        &self.fd
    }

    /// Its bytes stand so many further on.
    pub fn move_by(&mut self, bytes: usize) {
        self.input.0 += bytes;
        self.output.0 += bytes;
    }
}

fn put(bytes: &mut Vec<u8>, more: &[u8]) -> Place {
    let start = bytes.len();
    bytes.extend_from_slice(more);
    (start, more.len())
}

/// The error for a waiting call that can't be taken over: the client asks again by itself, or is to.
fn put_call_again(out: &mut Vec<u8>, id: &Value) {
    let data = object([("retry", true.into())]);
    let text = "upgrading: call again";
    rpc::put_error(out, id, rpc::UPGRADING, text, Some(&data));
}

impl Context {
    fn save(&self, c: &Conn, into: &mut FrozenNet, now: Mono) -> Option<SavedConn> {
        if !matches!(c.end, End::Open | End::Flushed { .. }) {
            return None;
        }
        let mut output = c.unwritten().to_vec();
        let mut ends = c.end != End::Open;
        let mut again = Vec::new();
        let mut input: &[u8] = &c.input.bytes;
        for ticket in &c.calls {
            let call = self.calls.get(ticket)?;
            // A batch is answered as a whole.
            if call.to.batch.is_some() {
                return None;
            }
            match (&c.proto, call.again(now)) {
                (Proto::Http(http), _) => {
                    let mut body = Vec::new();
                    put_call_again(&mut body, &call.to.envelope.id);
                    if http.phase == Phase::Stream {
                        output.extend_from_slice(b"event: message\ndata: ");
                        output.extend_from_slice(&body);
                        output.extend_from_slice(b"\n\n");
                    } else {
                        let reply = http1::Reply {
                            content_type: Some("application/json"),
                            close: true,
                            ..http1::Reply::new(200)
                        };
                        http1::write(&mut output, &reply, Wall::now(), &body);
                    }
                    ends = true;
                }
                (_, Some(request)) => again.push(request),
                (_, None) => {
                    put_call_again(&mut output, &call.to.envelope.id);
                    output.push(b'\n');
                }
            }
        }
        let talks = match &c.proto {
            Proto::Unknown => Talk::Unknown,
            Proto::Lines { batches, .. } => Talk::Lines { batches: *batches },
            Proto::Http(http) if http.phase != Phase::Reading => {
                input = &[];
                Talk::Http
            }
            // Of a body in chunks a part was taken apart already.
            Proto::Http(http) if http.reader.is_chunked() => return None,
            Proto::Http(_) => Talk::Http,
        };
        let fd = format!("connection {}", c.token);
        into.fds.push((fd.clone(), c.sock.as_fd().as_raw_fd()));
        Some(SavedConn {
            fd,
            is_tcp: matches!(c.sock, Sock::Tcp(_)),
            talks,
            client: c.caller.kind,
            modern: c.caller.modern,
            spoke: c.spoke,
            ours: c.ours,
            input: put(&mut into.bytes, input),
            output: put(&mut into.bytes, &output),
            ends,
            again,
        })
    }
}

impl EventLoop {
    /// Stands still if that was ordered and nothing is being searched, until somebody says that it goes on.
    pub(super) fn stand_still(&mut self, now: Mono) {
        let Some(freezing) = &mut self.freezing else {
            return;
        };
        let until = *freezing.until.get_or_insert_with(|| now.after(SEARCHES));
        let searching = self.ctx.calls.values().any(Call::is_away);
        if searching && now < until {
            self.ctx.timers.at(until, super::context::Due::Accept);
            return;
        }
        let Some(freezing) = self.freezing.take() else {
            return;
        };
        let mut frozen = FrozenNet {
            since: Mono::now(),
            ..FrozenNet::default()
        };
        let mut tcp = 0;
        for listener in &self.listeners {
            let (name, fd) = match listener {
                Listener::Tcp(l) => {
                    tcp += 1;
                    (format!("tcp {}", tcp - 1), l.as_fd().as_raw_fd())
                }
                Listener::Unix(l) => ("unix".to_owned(), l.as_fd().as_raw_fd()),
            };
            frozen.fds.push((name, fd));
        }
        for c in self.conns.values() {
            let saved = self.ctx.save(c, &mut frozen, now);
            frozen.conns.extend(saved);
        }
        let _ = freezing.reply.send(frozen);
        let _ = freezing.thaw.wait(Duration::MAX);
    }

    /// Takes up connections of the program before.
    pub(super) fn take_up(&mut self, conns: Vec<(SavedConn, OwnedFd)>, bytes: &[u8]) {
        let now = Mono::now();
        let at = |(start, length): Place| bytes.get(start..start + length).unwrap_or_default();
        for (saved, fd) in conns {
            let sock = match saved.is_tcp {
                true => Sock::Tcp(fd.into()),
                false => Sock::Unix(fd.into()),
            };
            let Some(token) = self.enter(sock, now) else {
                continue;
            };
            self.visit(token, now, |ctx, c| {
                c.proto = match saved.talks {
                    Talk::Unknown => Proto::Unknown,
                    Talk::Http => Proto::Http(Default::default()),
                    Talk::Lines { batches } => Proto::Lines { at: 0, batches },
                };
                c.caller.kind = saved.client;
                c.caller.modern = saved.modern;
                c.spoke = saved.spoke;
                c.ours = saved.ours;
                c.out().extend_from_slice(at(saved.output));
                if saved.spoke {
                    ctx.count(c);
                }
                if saved.ends {
                    c.end = End::Flushed { linger: false };
                    return;
                }
                for mut request in saved.again {
                    ctx.order = request.params.remove(ORDER).and_then(|n| n.as_u64());
                    ctx.request(c, request, None, None, now);
                    ctx.order = None;
                }
                c.input.bytes = at(saved.input).to_vec();
                if !c.input.bytes.is_empty() {
                    ctx.consume(c, now);
                }
            });
        }
    }
}
