//! Whatever comes in over the wire: no panic, no two opinions on the same bytes, no answer that is not JSON.
#![allow(clippy::unwrap_used)]

mod mutate;

use bpm::http1::{MAX_BODY, Progress, Reader};
use bpm::mcp::{self, Envelope, Headers, Server};
use bpm::rpc::{self, Message};
use serde_json::{Value, json};

/// How a stream of bytes was read: each request's method, path and body, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    requests: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    refused: Option<u16>,
    rest: Vec<u8>,
}

/// Feeds the pieces of `cuts` one after the other.
fn feed(input: &[u8], mut cut: impl FnMut(usize) -> usize) -> Read {
    let (mut reader, mut buf, mut at) = (Reader::default(), Vec::new(), 0);
    let mut read = Read {
        requests: Vec::new(),
        refused: None,
        rest: Vec::new(),
    };
    loop {
        match reader.advance(&mut buf) {
            Ok(Progress::Head) => {}
            Ok(Progress::Done) => {
                let head = reader.head();
                let body = reader.body(&buf).to_vec();
                assert!(body.len() <= MAX_BODY);
                read.requests
                    .push((head.method(&buf).to_vec(), head.path(&buf).to_vec(), body));
                buf.drain(..reader.consumed());
                reader = Reader::default();
            }
            Ok(Progress::More) if at == input.len() => {
                read.rest = buf;
                return read;
            }
            Ok(Progress::More) => {
                let n = cut(input.len() - at).clamp(1, input.len() - at);
                buf.extend_from_slice(&input[at..at + n]);
                at += n;
            }
            Err(reject) => {
                assert!((400..600).contains(&reject.status) && !reject.why.is_empty());
                read.refused = Some(reject.status);
                return read;
            }
        }
    }
}

#[test]
fn a_request_means_the_same_however_it_is_cut() {
    let corpus = mutate::corpus("http");
    let pieces: [&[u8]; 16] = [
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b" ",
        b"\0",
        b"\xff",
        b"\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"HTTP/1.1",
        b"Host: localhost\r\n",
        b"0\r\n\r\n",
        b"4194305",
        b"ffffffff",
        b"\t",
    ];
    let (mut taken, mut refused) = (0, 0);
    mutate::mutations(&corpus, &pieces, |input, dice| {
        let whole = feed(input, |left| left);
        assert_eq!(feed(input, |_| 1), whole);
        assert_eq!(feed(input, |_| 1 + dice.roll(40)), whole);
        taken += whole.requests.len();
        refused += usize::from(whole.refused.is_some());
    });
    assert!(
        taken > 100 && refused > 100,
        "{taken} taken, {refused} refused"
    );
}

#[test]
fn a_message_is_taken_or_refused_with_words() {
    let corpus = mutate::corpus("rpc");
    let pieces: [&[u8]; 16] = [
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"1e999",
        b"\\ud800",
        b"\xff",
        b"-0",
        b"\"id\":1,",
        b"\"method\":\"tools/list\",",
        b"{\"a\":",
        b"true",
    ];
    let server = Server::new(&json!({"name": "t"}), "Do \"this\".\n", &json!([]));
    let versions: [Option<&[u8]>; 4] = [
        None,
        Some(b"2026-07-28"),
        Some(b"2025-11-25"),
        Some(b"\xff"),
    ];
    let names: [Option<&[u8]>; 3] = [None, Some(b"logs"), Some(b"=?base64?bG9ncw==?=")];
    let (mut taken, mut refused) = (0, 0);
    mutate::mutations(&corpus, &pieces, |input, dice| {
        let Ok(value) = rpc::parse(input) else {
            refused += 1;
            return;
        };
        let items = match value {
            Value::Array(items) => items,
            one => vec![one],
        };
        for item in items {
            let request = match rpc::message(item) {
                Ok(Message::Request(request)) => request,
                Ok(Message::Notification { .. } | Message::Response) => continue,
                Err((id, refusal)) => {
                    assert!(id.is_null() || rpc::is_id(&id));
                    assert_eq!((refusal.status, refusal.code), (400, rpc::INVALID_REQUEST));
                    refused += 1;
                    continue;
                }
            };
            let (id, method) = (request.id.clone(), request.method.clone());
            let headers = Headers {
                version: versions[dice.roll(4)],
                method: [None, Some(method.as_bytes())][dice.roll(2)],
                name: names[dice.roll(3)],
                doubled: dice.roll(10) == 0,
            };
            let mut out = Vec::new();
            match mcp::read(request, (dice.roll(2) == 0).then_some(&headers)) {
                Ok(call) => {
                    taken += 1;
                    let to = Envelope {
                        id: id.clone(),
                        era: call.era,
                        cache: call.verb.cache(),
                    };
                    server.put_result(&mut out, &to, json!({"verb": format!("{:?}", call.verb)}));
                }
                Err(refusal) => {
                    refused += 1;
                    assert!([200, 400, 404].contains(&refusal.status));
                    rpc::put_error(
                        &mut out,
                        &id,
                        refusal.code,
                        &refusal.message,
                        refusal.data.as_ref(),
                    );
                }
            }
            assert!(!out.contains(&b'\n'), "an answer is one line");
            let answer: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(answer["id"], id);
            assert!(answer.get("result").is_some() != answer.get("error").is_some());
        }
    });
    assert!(
        taken > 100 && refused > 100,
        "{taken} taken, {refused} refused"
    );
}
