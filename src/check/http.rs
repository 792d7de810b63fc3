//! The little of HTTP that a probe needs: a GET, and the status of what comes back.

use crate::config::HttpTarget;

/// So much of an answer is looked at for its status.
pub(super) const LONGEST: usize = 16 << 10;

/// The whole request. What is in `target` has no blanks and no control characters
/// ([`crate::config::parse_http`]).
pub(super) fn request(target: &HttpTarget) -> Vec<u8> {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bpm/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.path,
        target.host,
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// The meaning of an answer's first bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Not enough yet.
    More,
    /// 2xx: `200 OK`.
    Good(String),
    /// Another status, or no HTTP.
    Bad(String),
}

/// Reads the status; interim answers (1xx) are passed over.
pub(super) fn status(mut bytes: &[u8]) -> Head {
    loop {
        let begin = b"HTTP/1.";
        let n = bytes.len().min(begin.len());
        if bytes[..n] != begin[..n] {
            let shown: Vec<u8> = bytes.iter().copied().take(40).collect();
            let shown = String::from_utf8_lossy(&shown);
            return Head::Bad(format!("an answer that is not HTTP: {shown:?}"));
        }
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            return Head::More;
        };
        let line = String::from_utf8_lossy(&bytes[..end]);
        let words = line.split_once(' ').map_or("", |(_, words)| words.trim());
        let words: String = words.chars().take(80).collect();
        let code = words.split(' ').next().and_then(|c| c.parse::<u16>().ok());
        match code {
            Some(100..200) => {
                let Some(next) = after_head(bytes) else {
                    return Head::More;
                };
                bytes = next;
            }
            Some(200..300) => return Head::Good(words),
            Some(_) => return Head::Bad(words),
            None => return Head::Bad(format!("a status line without a status: {:?}", line.trim())),
        }
    }
}

fn after_head(bytes: &[u8]) -> Option<&[u8]> {
    let find = |end: &[u8]| {
        let at = bytes.windows(end.len()).position(|w| w == end)?;
        Some(&bytes[at + end.len()..])
    };
    find(b"\r\n\r\n").or_else(|| find(b"\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole() {
        let target = crate::config::parse_http("http://localhost:8080/health?x=1").unwrap();
        let request = String::from_utf8(request(&target)).unwrap();
        assert!(request.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: localhost:8080\r\n"));
        assert!(request.ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn two_hundreds_are_good_and_all_else_is_told() {
        let good = |words: &str| Head::Good(words.into());
        let bad = |words: &str| Head::Bad(words.into());
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), good("200 OK"));
        assert_eq!(status(b"HTTP/1.0 204\n"), good("204"));
        assert_eq!(
            status(b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n"),
            bad("503 Service Unavailable")
        );
        assert_eq!(status(b"HTTP/1.1 302 Found\r\n"), bad("302 Found"));
        assert_eq!(
            status(b"SSH-2.0-x\r\n"),
            bad("an answer that is not HTTP: \"SSH-2.0-x\\r\\n\"")
        );
        assert!(matches!(status(b"HTTP/1.1 OK\r\n"), Head::Bad(_)));
        assert!(matches!(status(b"HTTP/2 200\r\n"), Head::Bad(_)));
    }

    #[test]
    fn it_waits_for_the_whole_line_and_passes_over_interim_answers() {
        let whole = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n";
        for n in 0..whole.len() {
            assert_eq!(status(&whole[..n]), Head::More, "{n}");
        }
        assert_eq!(status(whole), Head::Good("200 OK".into()));
    }
}
