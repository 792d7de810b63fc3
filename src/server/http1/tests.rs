use super::*;

/// A request with its body and what came after it.
type Taken = (Reader, Vec<u8>, Vec<u8>);

/// Feeds `input` in pieces of `step` bytes; the body and what is left, or the status of the refusal.
fn read(input: &[u8], step: usize) -> Result<Option<Taken>, u16> {
    let (mut reader, mut buf) = (Reader::default(), Vec::new());
    let mut heads = 0;
    for (i, piece) in input.chunks(step).enumerate() {
        buf.extend_from_slice(piece);
        loop {
            match reader.advance(&mut buf).map_err(|r| r.status)? {
                Progress::More => break,
                Progress::Head => heads += 1,
                Progress::Done => {
                    assert_eq!(heads, 1);
                    let body = reader.body(&buf).to_vec();
                    let mut rest = buf[reader.consumed()..].to_vec();
                    rest.extend_from_slice(&input[((i + 1) * step).min(input.len())..]);
                    return Ok(Some((reader, body, rest)));
                }
            }
        }
    }
    Ok(None)
}

fn refused(input: &str) -> u16 {
    let whole = read(input.as_bytes(), input.len()).map(|r| r.is_some());
    let bytes = read(input.as_bytes(), 1).map(|r| r.is_some());
    assert_eq!(whole, bytes, "{input:?}");
    match whole {
        Err(status) => status,
        Ok(done) => panic!("taken ({done}): {input:?}"),
    }
}

#[test]
fn a_request_is_the_same_however_it_is_cut() {
    let input = b"\r\nPOST /mcp?x=1 HTTP/1.1\r\nHost:  localhost:1 \r\nContent-Length: 5\r\n\
            ACCEPT: application/json, text/event-stream\r\n\r\nhelloGET / HTTP/1.1\r\n";
    for step in [1, 2, 3, 7, 1000] {
        let (reader, body, rest) = read(input, step).unwrap().unwrap();
        assert_eq!(body, b"hello");
        assert_eq!(rest, b"GET / HTTP/1.1\r\n");
        let head = reader.head();
        assert_eq!(head.method(input), b"POST");
        assert_eq!(head.path(input), b"/mcp");
        assert_eq!(head.value(input, Field::Host), Some(&b"localhost:1"[..]));
        assert!(head.accepts.json && head.accepts.events && !head.close && head.has_body);
    }
    // A field without a value lists nothing that would be refused.
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: \r\n\r\n";
    let (reader, ..) = read(input, 1000).unwrap().unwrap();
    assert!(reader.head().accepts.json && reader.head().accepts.events);
}

#[test]
fn chunks_are_joined_however_they_are_cut() {
    let input = b"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
            5;ext=1\r\nhello\r\n1\r\n \r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nNEXT";
    for step in [1, 2, 3, 5, 11, 1000] {
        let (_, body, rest) = read(input, step).unwrap().unwrap();
        assert_eq!(body, b"hello 0123456789", "{step}");
        assert_eq!(rest, b"NEXT", "{step}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let post = |fields: &str| {
        refused(&format!(
            "POST /mcp HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"
        ))
    };
    assert_eq!(post("Content-Length: -1"), 400);
    assert_eq!(post("Content-Length: +5"), 400);
    assert_eq!(post("Content-Length: 5, 5"), 400);
    assert_eq!(post("Content-Length: 5\r\nContent-Length: 6"), 400);
    assert_eq!(post("Content-Length: 5\r\nContent-Length: 5"), 400);
    assert_eq!(post("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400);
    assert_eq!(post("Transfer-Encoding: gzip"), 501);
    assert_eq!(post("Transfer-Encoding: gzip, chunked"), 501);
    assert_eq!(
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        400
    );
    assert_eq!(post("Content-Length: 4194305"), 413);
    assert_eq!(post("Content-Length: 60000000000"), 413);
    assert_eq!(
        post("Content-Length: 99999999999999999999999999999999"),
        413
    );
    assert_eq!(post("Expect: a miracle"), 417);
    assert_eq!(post("X : y"), 400);
    assert_eq!(post("X: a\r\n folded"), 400);
    assert_eq!(post("X: a\0b"), 400);
    assert_eq!(post("no colon"), 400);
    assert_eq!(post("Host: b"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET http://a/ HTTP/1.0\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\nHost: a\n\n"), 400);
    assert_eq!(refused("GET /\r\n\r\n"), 400);
    assert_eq!(refused("GET  HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET /\u{e9} HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(refused("\x16\x03\x01"), 400);
    let chunks = |body: &str| {
        refused(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ))
    };
    assert_eq!(chunks("x\r\n"), 400);
    assert_eq!(chunks("-1\r\n"), 400);
    assert_eq!(chunks("\r\n"), 400);
    assert_eq!(chunks("1\r\nab\r\n"), 400);
    assert_eq!(chunks("1\na\r\n"), 400);
    assert_eq!(chunks("400001\r\n"), 413);
    assert_eq!(chunks("ffffffffffffffff\r\n"), 413);
    assert_eq!(chunks(&format!("0\r\nx: {}\r\n", "y".repeat(2000))), 400);
}

#[test]
fn heads_are_bounded() {
    let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MAX_HEAD));
    assert_eq!(refused(&long), 431);
    let many = format!(
        "GET / HTTP/1.1\r\n{}\r\n",
        "X: y\r\n".repeat(MAX_FIELDS + 1)
    );
    assert_eq!(refused(&many), 431);
    let fields = "X: y\r\n".repeat(MAX_FIELDS - 1);
    let exact = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert!(read(exact.as_bytes(), 4096).unwrap().is_some());
}

#[test]
fn an_absolute_target_is_a_path_and_a_host() {
    let input = b"GET http://evil.test:80/healthz?a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (reader, ..) = read(input, 1000).unwrap().unwrap();
    assert_eq!(reader.head().path(input), b"/healthz");
    assert_eq!(
        reader.head().host_in_target(input),
        Some(&b"evil.test:80"[..])
    );
}

#[test]
fn an_answer_is_one_piece_with_its_length() {
    let mut out = Vec::new();
    let reply = Reply {
        status: 405,
        content_type: Some("application/json"),
        fields: &[("Allow", "POST"), ("X", "a\r\nSet-Cookie: b")],
        close: true,
        no_body: false,
    };
    let now = Wall(1_795_229_210_123);
    write(&mut out, &reply, now, &vec![b'x'; 100_000]);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\n"));
    assert!(
        text.contains("\r\nContent-Length: 100000\r\n") && text.contains("\r\nAllow: POST\r\n")
    );
    assert!(text.contains("\r\nDate: Sat, 21 Nov 2026 02:46:50 GMT\r\n"));
    assert!(!text.contains("Transfer-Encoding") && !text.contains("Set-Cookie"));
}
