//! Whatever comes in, over the wire, from a file, or as a pattern for what processes print: no panic, no
//! two opinions on the same bytes, no answer that is not JSON, no mistake without its place, no match
//! that is missed, no time without a bound.
use std::path::Path;
use std::time::Duration;

use bpm::base::error::{Failure, Fault};
use bpm::config;
use bpm::log::search::{Found, Line, Matcher, Query, Stream};
use bpm::log::store::{Limits, Log};
use bpm::server::http1::{MAX_BODY, Progress, Reader};
use bpm::server::mcp::{self, Envelope, Headers, Mcp};
use bpm::server::rpc::{self, Message};
use regex_lite::{Regex, RegexBuilder, escape};
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
    let corpus = crate::mutate::corpus("http");
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
    crate::mutate::mutations(&corpus, &pieces, |input, dice| {
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
    let corpus = crate::mutate::corpus("rpc");
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
    let server = Mcp::new(&json!({"name": "t"}), "Do \"this\".\n", &json!([]));
    let versions: [Option<&[u8]>; 4] = [
        None,
        Some(b"2026-07-28"),
        Some(b"2025-11-25"),
        Some(b"\xff"),
    ];
    let names: [Option<&[u8]>; 3] = [None, Some(b"logs"), Some(b"=?base64?bG9ncw==?=")];
    let (mut taken, mut refused) = (0, 0);
    crate::mutate::mutations(&corpus, &pieces, |input, dice| {
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
            match mcp::read(&request, (dice.roll(2) == 0).then_some(&headers)) {
                Ok(call) => {
                    taken += 1;
                    let to = Envelope {
                        id: id.clone(),
                        era: call.era,
                        cache: call.verb.cache(),
                        ignored: Vec::new(),
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

#[test]
fn a_configuration_is_taken_or_each_mistake_has_its_place() {
    let corpus = crate::mutate::corpus("config");
    let pieces: [&[u8]; 16] = [
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b"'",
        b"=",
        b"\n",
        b"${",
        b"\xff",
        b".",
        b"-",
        b"\0",
        b"\r\n",
        b"\xc3\xa9",
        b"[process.a]\n",
    ];
    let read =
        |text: &[u8]| config::parse_bytes(text, ".mcp-run", Path::new("/home/me/app"), 2 << 20);
    for text in &corpus {
        assert_eq!(read(text).err().map(|e| e.to_string()), None);
    }
    let (mut taken, mut refused) = (0, 0);
    crate::mutate::mutations(&corpus, &pieces, |text, _| {
        let (first, spent) = crate::mutate::cpu_time(|| read(text));
        assert!(spent < Duration::from_secs(1), "it took {spent:?}");
        assert_eq!(read(text), first);
        match first {
            Ok(config) => {
                taken += 1;
                assert!(!config.processes.is_empty());
                assert!(config::diff(&config, &config).changed.is_empty());
                check_places(text, &config.not_in_effect);
            }
            Err(e) => {
                let Failure::Config(faults) = e.failure() else {
                    panic!("not a fault of the file: {e}");
                };
                refused += 1;
                assert!(!faults.is_empty());
                check_places(text, faults);
            }
        }
    });
    assert!(
        taken > 100 && refused > 100,
        "{taken} taken, {refused} refused"
    );
}

/// Each within the text, in order, and a sentence.
fn check_places(text: &[u8], faults: &[Fault]) {
    let text = String::from_utf8_lossy(text);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines: Vec<&str> = text.split('\n').collect();
    let mut last = (0, 0);
    for fault in faults {
        let place = (fault.line, fault.column);
        let line = lines.get(fault.line.wrapping_sub(1));
        let width = line.map(|l| l.chars().count() + 1);
        assert!(
            width.is_some_and(|w| (1..=w).contains(&fault.column)),
            "{fault} is outside of {text:?}"
        );
        assert!(last <= place && !fault.text.is_empty(), "{faults:?}");
        assert!(!fault.text.contains('\n'), "{fault:?}");
        last = place;
    }
}

/// What a pattern says of a line, by regex-lite alone.
enum Plain {
    Regex(Regex),
    Literal(String, bool),
}

impl Plain {
    /// None: it is no pattern.
    fn new(pattern: &str, query: &Query) -> Option<Self> {
        let replaced = pattern.contains(char::REPLACEMENT_CHARACTER);
        if query.literal && !replaced {
            return Some(Self::Literal(pattern.into(), query.ignore_case));
        }
        let escaped = escape(pattern);
        RegexBuilder::new(if query.literal { &escaped } else { pattern })
            .case_insensitive(query.ignore_case)
            .size_limit(64 << 10)
            .build()
            .ok()
            .map(Self::Regex)
    }

    fn is_match(&self, line: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(line),
            Self::Literal(text, false) => line.contains(text),
            Self::Literal(text, true) => line
                .to_ascii_lowercase()
                .contains(&text.to_ascii_lowercase()),
        }
    }
}

/// What is to be found, looked for line by line.
fn by_hand(all: &[Line], plain: &Plain, query: &Query) -> (Vec<Line>, u64) {
    let hits: Vec<bool> = all.iter().map(|l| plain.is_match(&l.text)).collect();
    let near = |at: usize| {
        let from = at.saturating_sub(query.context);
        let to = (at + query.context + 1).min(all.len());
        hits[from..to].contains(&true)
    };
    let mut lines: Vec<Line> = (0..all.len())
        .filter(|at| near(*at))
        .map(|at| Line {
            matched: hits[at],
            ..all[at].clone()
        })
        .collect();
    match (query.tail, query.head) {
        (Some(tail), _) => drop(lines.drain(..lines.len().saturating_sub(tail))),
        (None, Some(head)) => lines.truncate(head),
        (None, None) => {}
    }
    (lines, hits.iter().filter(|hit| **hit).count() as u64)
}

fn logged(text: &[u8], dice: &mut crate::mutate::Dice) -> (std::sync::Arc<Log>, Vec<Line>) {
    let limits = Limits {
        lines: 1 << 30,
        bytes: 8 << 20,
        runs: 3,
        disk: 0,
    };
    let log = Log::new(limits, 1, 1);
    let run = log.begin(bpm::base::clock::Wall(0));
    let mut rest = text;
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + dice.roll(4096)).min(rest.len()));
        let stream = [Stream::Stdout, Stream::Stderr][usize::from(dice.roll(4) == 0)];
        log.append(run, stream, now);
        rest = later;
    }
    // A pattern is not matched with a line that is just being written.
    log.end(run, bpm::base::clock::Wall(1), "exit code 0");
    let whole = Query {
        budget: Duration::from_secs(600),
        ..Query::default()
    };
    let all = log.find(&whole).unwrap().lines;
    (log, all)
}

#[test]
fn a_search_finds_what_a_look_at_each_line_finds() {
    let corpus = crate::mutate::corpus("search");
    let pieces: [&[u8]; 24] = [
        b"\n",
        b"\r\n",
        b"(",
        b")",
        b"[",
        b"]",
        b"|",
        b"*",
        b"+",
        b"?",
        b"{2}",
        b".*",
        b"\\",
        b"\\b",
        b"(?i)",
        b"(?:",
        b"^",
        b"$",
        b"\x1b[1m",
        b"\x1b",
        b"\xff",
        b"\xef\xbf\xbd",
        b"error",
        b"\xc3\xa9",
    ];
    // A regex is some thirty times as slow where nothing is optimized.
    let most = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });
    let (mut matched, mut refused, mut stopped) = (0, 0, 0);
    crate::mutate::mutations(&corpus, &pieces, |input, dice| {
        let cut = input.iter().position(|b| *b == b'\n');
        let (pattern, text) = input.split_at(cut.unwrap_or(input.len()));
        let pattern = String::from_utf8_lossy(pattern);
        let some = |dice: &mut crate::mutate::Dice| (dice.roll(2) == 0).then(|| dice.roll(6));
        let mut query = Query {
            pattern: Some(pattern.to_string()),
            literal: dice.roll(3) == 0,
            ignore_case: dice.roll(3) == 0,
            context: [0, 0, 1, 3][dice.roll(4)],
            head: some(dice),
            tail: some(dice),
            budget: Duration::from_secs(600),
            ..Query::default()
        };
        let hurried = dice.roll(60) == 0;
        let repeated;
        let text = if hurried {
            query.budget = Duration::from_millis(1);
            repeated = text.repeat((128 << 10) / text.len().max(1));
            &repeated
        } else {
            text
        };
        let (log, all) = logged(text, dice);
        let (found, spent) = crate::mutate::cpu_time(|| log.find(&query));
        let Some(plain) = Plain::new(&pattern, &query) else {
            refused += 1;
            let why = found.unwrap_err();
            let refusal = Matcher::new(&pattern, query.literal, query.ignore_case).unwrap_err();
            assert_eq!(refusal, why);
            return;
        };
        assert!(spent < most, "it took {spent:?}");
        let found: Found = found.unwrap();
        stopped += u32::from(found.stopped_early);
        if found.stopped_early {
            assert!(hurried && found.searched <= all.len() as u64);
            for line in found.lines.iter().filter(|line| line.matched) {
                assert!(plain.is_match(&line.text), "{pattern:?} {line:?}");
            }
            return;
        }
        let (lines, matches) = by_hand(&all, &plain, &query);
        let asked = || format!("{query:?} of {:?}", String::from_utf8_lossy(text));
        assert_eq!(found.lines, lines, "{}", asked());
        assert_eq!(found.matches, matches, "{}", asked());
        assert_eq!(found.searched, all.len() as u64);
        matched += matches;
    });
    assert!(
        matched > 100 && refused > 10 && stopped > 0,
        "{matched} matched, {refused} refused, {stopped} stopped"
    );
}
