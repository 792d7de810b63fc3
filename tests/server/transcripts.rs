//! Conversations of each revision, held byte by byte (but for the date). `> ` is sent, `< ` comes back;
//! one connection for a file. To take what the door says now as right:
//! `BPM_BLESS=1 cargo test --test server transcripts`, then read the diff.
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::fixture::{Http, TestServer};
use bpm::server::net::Policy;

/// The requests of a transcript: each is its lines, and the comment before it.
fn requests(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut requests: Vec<(String, Vec<&str>)> = Vec::new();
    let (mut comment, mut open) = (String::new(), false);
    for line in text.lines() {
        match line.strip_prefix("> ") {
            Some(sent) if open => requests.last_mut().unwrap().1.push(sent),
            Some(sent) => {
                requests.push((std::mem::take(&mut comment), vec![sent]));
                open = true;
            }
            None => {
                open = false;
                if line.starts_with('#') {
                    writeln!(comment, "{line}").unwrap();
                }
            }
        }
    }
    requests
}

/// A line that is a method and a path, or a field, or the body.
fn http_request(lines: &[&str]) -> String {
    let (mut start, mut fields, mut body) = ("POST /mcp".to_owned(), String::new(), "");
    for line in lines {
        if line.starts_with(['{', '[']) {
            body = line;
        } else if line.contains(": ") {
            write!(fields, "{line}\r\n").unwrap();
        } else {
            start = (*line).to_owned();
        }
    }
    if start.starts_with("POST") {
        write!(
            fields,
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        )
        .unwrap();
    }
    format!("{start} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}")
}

fn http_answer(http: &mut Http, request: &str) -> String {
    http.send(request);
    let answer = http.response();
    let body = String::from_utf8(answer.body).unwrap();
    let undated = answer.head.lines().filter(|l| !l.starts_with("Date: "));
    undated
        .chain(body.lines())
        .map(|l| format!("< {l}").trim_end().to_owned() + "\n")
        .collect()
}

fn hold(file: &Path, now: &str) {
    if std::env::var_os("BPM_BLESS").is_some() {
        std::fs::write(file, now).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap();
    for (n, (is, was)) in now.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, was, "{}:{}", file.display(), n + 1);
    }
    assert_eq!(
        now.lines().count(),
        golden.lines().count(),
        "{}",
        file.display()
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

#[test]
fn http_of_every_revision() {
    let server = TestServer::with(Policy::default());
    for revision in [
        "2024-11-05",
        "2025-03-26",
        "2025-06-18",
        "2025-11-25",
        "2026-07-28",
    ] {
        let file = folder().join(format!("{revision}.txt"));
        let golden = std::fs::read_to_string(&file).unwrap();
        let (mut now, mut http) = (String::new(), server.tcp());
        for (comment, lines) in requests(&golden) {
            now.push_str(&comment);
            for line in &lines {
                writeln!(now, "> {line}").unwrap();
            }
            let answer = http_answer(&mut http, &http_request(&lines));
            if answer.contains("\n< Connection: close\n") {
                http = server.tcp();
            }
            now.push_str(&answer);
            now.push('\n');
        }
        hold(&file, &now);
    }
}

#[test]
fn both_eras_on_the_socket() {
    let server = TestServer::new();
    let file = folder().join("socket.txt");
    let golden = std::fs::read_to_string(&file).unwrap();
    let (mut now, mut socket) = (String::new(), server.unix());
    for (comment, lines) in requests(&golden) {
        now.push_str(&comment);
        for line in &lines {
            writeln!(now, "> {line}").unwrap();
            std::io::Write::write_all(&mut socket.stream, format!("{line}\n").as_bytes()).unwrap();
        }
        writeln!(now, "< {}\n", socket.line().unwrap()).unwrap();
    }
    hold(&file, &now);
}
