//! Pure: no system call, no thread, no clock.
//!
//! Reads one HTTP/1 request within bounds (bytes in, a [`Head`] and the place of the body out), and writes
//! answers with tiny_http's types. Each byte is examined once, however it trickles in, and nothing is buffered
//! that the bounds forbid. Knows nothing of MCP, sockets or time.
//!
//! RFC 9112 with its liberties refused, since each of them is a way to smuggle: bare LF, folded lines,
//! blanks before the colon, doubled or signed lengths, a length beside chunks, codings other than `chunked`.

use std::io::Write;

use tiny_http::{Header, StatusCode};

use crate::base::clock::Wall;

/// The most a request line and its fields may take, in bytes.
pub const MAX_HEAD: usize = 16 << 10;
/// The most fields a head may have.
pub const MAX_FIELDS: usize = 100;
/// The most a body may have, in bytes (the same as the Python and TypeScript SDKs).
pub const MAX_BODY: usize = 4 << 20;
/// The most a chunk's size line, or all trailers, may take, in bytes.
const MAX_CHUNK_LINE: usize = 1 << 10;

/// Why a request is refused before its meaning matters; the connection can't be used after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// HTTP status.
    pub status: u16,
    /// A sentence.
    pub why: &'static str,
}

const fn reject(status: u16, why: &'static str) -> Reject {
    Reject { status, why }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// The head is there, told once: the time to refuse before a body is read.
    Head,
    /// All of it is there.
    Done,
}

/// The fields whose value somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `Host`
    Host,
    /// `Origin`
    Origin,
    /// `Content-Type`
    ContentType,
    /// `Authorization`
    Authorization,
    /// `User-Agent`
    UserAgent,
    /// `MCP-Protocol-Version`
    Version,
    /// `Mcp-Method`
    Method,
    /// `Mcp-Name`
    Name,
    /// `Bpm-Client`
    Client,
    /// `Sec-Fetch-Site`
    FetchSite,
    /// `Sec-Fetch-Mode`
    FetchMode,
    /// `Sec-Fetch-Dest`
    FetchDest,
}

const FIELDS: [(&str, Field); 12] = [
    ("host", Field::Host),
    ("origin", Field::Origin),
    ("content-type", Field::ContentType),
    ("authorization", Field::Authorization),
    ("user-agent", Field::UserAgent),
    ("mcp-protocol-version", Field::Version),
    ("mcp-method", Field::Method),
    ("mcp-name", Field::Name),
    ("bpm-client", Field::Client),
    ("sec-fetch-site", Field::FetchSite),
    ("sec-fetch-mode", Field::FetchMode),
    ("sec-fetch-dest", Field::FetchDest),
];

/// A place in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    from: u16,
    to: u16,
}

impl Span {
    /// Heads end before [`MAX_HEAD`], which fits.
    fn new(from: usize, to: usize) -> Self {
        Self {
            from: from as u16,
            to: to as u16,
        }
    }

    fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(usize::from(self.from)..usize::from(self.to))
            .unwrap_or_default()
    }
}

/// The request line and the fields. Texts stay in the buffer they came in.
#[derive(Debug, Clone, Default)]
pub struct Head {
    method: Span,
    target: Span,
    values: [Option<Span>; FIELDS.len()],
    /// A bit for each field that came more than once.
    doubled: u16,
    fields: u8,
    host_in_target: Option<Span>,
    /// HTTP/1.0.
    pub old: bool,
    /// The connection is to be closed after the answer.
    pub close: bool,
    /// `Expect: 100-continue`.
    pub expects: bool,
    /// A body follows.
    pub has_body: bool,
    /// The kinds of answer that the client takes.
    pub accepts: Accepts,
}

/// The kinds of answer that `Accept` lists; without that field, the first two.
#[derive(Debug, Clone, Copy)]
pub struct Accepts {
    sent: bool,
    /// `application/json`
    pub json: bool,
    /// `text/event-stream`
    pub events: bool,
    /// `text/html`, by its own name: a browser.
    pub html: bool,
}

impl Default for Accepts {
    fn default() -> Self {
        Self {
            sent: false,
            json: true,
            events: true,
            html: false,
        }
    }
}

impl Accepts {
    fn read(&mut self, value: &[u8]) {
        if !std::mem::replace(&mut self.sent, true) {
            (self.json, self.events) = (false, false);
        }
        for range in value.split(|b| *b == b',') {
            let range = range.split(|b| *b == b';').next().unwrap_or_default();
            let range = range.trim_ascii().to_ascii_lowercase();
            self.json |= matches!(&range[..], b"*/*" | b"application/*" | b"application/json");
            self.events |= matches!(&range[..], b"*/*" | b"text/*" | b"text/event-stream");
            self.html |= range == b"text/html";
        }
    }
}

impl Head {
    /// `GET`, `POST`, ...
    pub fn method<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        self.method.of(buf)
    }

    /// The path, without a query.
    pub fn path<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        let target = self.target.of(buf);
        match memchr::memchr(b'?', target) {
            Some(at) => &target[..at],
            None => target,
        }
    }

    /// The (first) value of a field, without blanks around it.
    pub fn value<'b>(&self, buf: &'b [u8], field: Field) -> Option<&'b [u8]> {
        self.values[field as usize].map(|span| span.of(buf))
    }

    /// The field came more than once.
    pub fn doubled(&self, field: Field) -> bool {
        self.doubled & (1 << field as u16) != 0
    }

    /// The authority of an absolute target (`POST http://localhost/mcp`), where there was one.
    pub fn host_in_target<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.host_in_target.map(|span| span.of(buf))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the request line.
    Start,
    Fields,
    /// The head was told; what follows is known.
    Body(Framing),
    /// In a body of known length.
    Fixed {
        end: usize,
    },
    ChunkSize,
    ChunkData {
        left: usize,
    },
    ChunkEnd,
    Trailers,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(usize),
    Chunked,
}

/// Reads one request out of a buffer that its owner appends to.
#[derive(Debug, Clone)]
pub struct Reader {
    state: State,
    head: Head,
    /// The first byte not looked at yet.
    at: usize,
    /// Where the line under way begins.
    line: usize,
    /// Where the body begins, and where what is decoded of it ends.
    body: (usize, usize),
    /// Bytes of trailers so far.
    trailers: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Start,
            head: Head::default(),
            at: 0,
            line: 0,
            body: (0, 0),
            trailers: 0,
            length: None,
            chunked: false,
        }
    }
}

impl Reader {
    /// It is in a body of chunks.
    pub fn is_chunked(&self) -> bool {
        matches!(
            self.state,
            State::ChunkSize | State::ChunkData { .. } | State::ChunkEnd | State::Trailers
        )
    }

    /// The head; complete from [`Progress::Head`] on.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The body; complete at [`Progress::Done`].
    pub fn body<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        buf.get(self.body.0..self.body.1).unwrap_or_default()
    }

    /// How many bytes of the buffer the request took; to be called at [`Progress::Done`].
    pub fn consumed(&self) -> usize {
        self.at
    }

    /// Looks at the bytes that were appended to `buf` since the last call. Chunks are joined in place, so
    /// `buf` must come back as it was left. To be called until it says `More` or `Done`.
    pub fn advance(&mut self, buf: &mut Vec<u8>) -> Result<Progress, Reject> {
        loop {
            match self.state {
                State::Start | State::Fields => match self.head_line(buf)? {
                    // An empty line before the request is skipped (RFC 9112, 2.2); MAX_HEAD bounds many.
                    Some(line) if self.state == State::Start => {
                        if line.0 < line.1 {
                            self.request_line(buf, line)?;
                        }
                    }
                    Some(line) if line.0 < line.1 => self.field(buf, line)?,
                    Some(_) => {
                        let framing = self.framing()?;
                        self.head.has_body = framing != Framing::None;
                        self.state = State::Body(framing);
                        return Ok(Progress::Head);
                    }
                    None => return Ok(Progress::More),
                },
                State::Body(framing) => {
                    self.body = (self.at, self.at);
                    self.state = match framing {
                        Framing::None => State::Done,
                        Framing::Length(n) => State::Fixed { end: self.at + n },
                        Framing::Chunked => State::ChunkSize,
                    };
                }
                State::Fixed { end } => {
                    if buf.len() < end {
                        return Ok(Progress::More);
                    }
                    self.at = end;
                    self.body.1 = end;
                    self.state = State::Done;
                }
                State::ChunkSize | State::ChunkData { .. } | State::ChunkEnd | State::Trailers => {
                    if !self.chunks(buf)? {
                        return Ok(Progress::More);
                    }
                }
                State::Done => return Ok(Progress::Done),
            }
        }
    }

    /// The next whole line of the head, without its CRLF.
    fn head_line(&mut self, buf: &[u8]) -> Result<Option<(usize, usize)>, Reject> {
        const TOO_LARGE: Reject = reject(431, "the request's head is larger than 16 KiB");
        if self.state == State::Start && self.line == self.at {
            // Another protocol (TLS, say) is refused at its first byte.
            match buf.get(self.at) {
                Some(b) if !is_token(*b) && *b != b'\r' => {
                    return Err(reject(400, "this is not an HTTP request"));
                }
                _ => {}
            }
        }
        let Some(found) = memchr::memchr(b'\n', &buf[self.at..]) else {
            self.at = buf.len();
            return if self.at > MAX_HEAD {
                Err(TOO_LARGE)
            } else {
                Ok(None)
            };
        };
        let newline = self.at + found;
        if newline >= MAX_HEAD {
            return Err(TOO_LARGE);
        }
        let line = (self.line, newline.max(1) - 1);
        if newline == self.line || buf[newline - 1] != b'\r' {
            return Err(reject(400, "a line of the head does not end with CR LF"));
        }
        self.at = newline + 1;
        self.line = self.at;
        Ok(Some(line))
    }

    fn request_line(&mut self, buf: &[u8], (from, to): (usize, usize)) -> Result<(), Reject> {
        const BAD: Reject = reject(400, "the request line is not METHOD TARGET HTTP/1.1");
        let line = &buf[from..to];
        let first = memchr::memchr(b' ', line).ok_or(BAD)?;
        let last = memchr::memrchr(b' ', line).ok_or(BAD)?;
        let (method, version) = (&line[..first], &line[last + 1..]);
        if first == last || method.is_empty() || !method.iter().copied().all(is_token) {
            return Err(BAD);
        }
        match version {
            b"HTTP/1.1" => {}
            b"HTTP/1.0" => {
                self.head.old = true;
                self.head.close = true;
            }
            v if v.len() == 8 && v.starts_with(b"HTTP/") && v[5].is_ascii_digit() => {
                return Err(reject(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"));
            }
            _ => return Err(BAD),
        }
        let (start, end) = (from + first + 1, from + last);
        let target = &buf[start..end];
        if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
            return Err(reject(400, "the request target has bytes that no URL has"));
        }
        self.head.method = Span::new(from, from + first);
        self.head.target = Span::new(start, end);
        if target[0] != b'/' {
            self.absolute(target, start, end)?;
        }
        self.state = State::Fields;
        Ok(())
    }

    /// `http://host/path`, which every server must take (RFC 9112, 3.2.2).
    fn absolute(&mut self, target: &[u8], start: usize, end: usize) -> Result<(), Reject> {
        const SCHEME: usize = "http://".len();
        if target == b"*" {
            return Ok(());
        }
        if target.len() <= SCHEME || !target[..SCHEME].eq_ignore_ascii_case(b"http://") {
            return Err(reject(
                400,
                "the request target is neither a path nor http://",
            ));
        }
        let slash = memchr::memchr(b'/', &target[SCHEME..]).map_or(end, |at| start + SCHEME + at);
        self.head.host_in_target = Some(Span::new(start + SCHEME, slash));
        self.head.target = Span::new(slash, end);
        Ok(())
    }

    fn field(&mut self, buf: &[u8], (from, to): (usize, usize)) -> Result<(), Reject> {
        if usize::from(self.head.fields) == MAX_FIELDS {
            return Err(reject(431, "the request's head has more than 100 fields"));
        }
        self.head.fields += 1;
        let line = &buf[from..to];
        let colon = memchr::memchr(b':', line).ok_or(reject(400, "a field has no colon"))?;
        let name = &line[..colon];
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(reject(400, "a field's name has bytes that no name has"));
        }
        let value = line[colon + 1..].trim_ascii();
        if !value
            .iter()
            .all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..))
        {
            return Err(reject(400, "a field's value has control characters"));
        }
        let at = from
            + colon
            + 1
            + (line.len() - colon - 1 - line[colon + 1..].trim_ascii_start().len());
        let span = Span::new(at, at + value.len());
        if let Some((_, field)) = FIELDS
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
        {
            let slot = &mut self.head.values[*field as usize];
            if slot.is_some() {
                self.head.doubled |= 1 << *field as u16;
                if *field == Field::Host {
                    return Err(reject(400, "Host was sent twice"));
                }
            } else {
                *slot = Some(span);
            }
            return Ok(());
        }
        self.framing_field(name, value)
    }

    /// The fields that say how the message goes on, and what the client takes.
    fn framing_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(reject(400, "Content-Length is not a number"));
            }
            let n = value.iter().fold(0u64, |n, d| {
                n.saturating_mul(10).saturating_add(u64::from(d - b'0'))
            });
            if self.length.is_some() {
                return Err(reject(400, "Content-Length was sent twice"));
            }
            self.length = Some(n);
        } else if is("transfer-encoding") {
            if self.chunked {
                return Err(reject(400, "Transfer-Encoding was sent twice"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(reject(501, "the only transfer coding here is chunked"));
            }
            self.chunked = true;
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(reject(417, "the only expectation met here is 100-continue"));
            }
            self.head.expects = true;
        } else if is("connection") {
            let mut words = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
            self.head.close |= words.any(|word| word.eq_ignore_ascii_case(b"close"));
        } else if is("accept") && !value.trim_ascii().is_empty() {
            self.head.accepts.read(value);
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Reject> {
        if self.head.values[Field::Host as usize].is_none() {
            return Err(reject(400, "the request has no Host"));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(reject(400, "both Content-Length and Transfer-Encoding")),
            (true, None) if self.head.old => Err(reject(400, "HTTP/1.0 has no chunks")),
            (true, None) => Ok(Framing::Chunked),
            (false, None | Some(0)) => Ok(Framing::None),
            (false, Some(n)) if n > MAX_BODY as u64 => Err(TOO_LONG),
            (false, Some(n)) => Ok(Framing::Length(n as usize)),
        }
    }

    /// Decodes as many chunks as are there. The raw bytes behind the decoded ones are taken out of `buf` at
    /// the end of each call, so a byte is moved a bounded number of times. True: the message is over.
    fn chunks(&mut self, buf: &mut Vec<u8>) -> Result<bool, Reject> {
        let over = loop {
            match self.state {
                State::ChunkData { left } => {
                    let n = left.min(buf.len() - self.at);
                    buf.copy_within(self.at..self.at + n, self.body.1);
                    self.at += n;
                    self.body.1 += n;
                    self.line = self.at;
                    if n < left {
                        self.state = State::ChunkData { left: left - n };
                        break false;
                    }
                    self.state = State::ChunkEnd;
                }
                _ => {
                    let Some((from, to)) = self.chunk_line(buf)? else {
                        break false;
                    };
                    if self.chunk_step(&buf[from..to])? {
                        break true;
                    }
                }
            }
        };
        let cut = self.line - self.body.1;
        buf.drain(self.body.1..self.line);
        self.at -= cut;
        self.line -= cut;
        Ok(over)
    }

    fn chunk_step(&mut self, line: &[u8]) -> Result<bool, Reject> {
        match self.state {
            State::ChunkSize => {
                let digits = line.split(|b| *b == b';').next().unwrap_or_default();
                let digits = digits.trim_ascii_end();
                if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(reject(400, "a chunk's size is not a hexadecimal number"));
                }
                if digits.len() > 8 {
                    return Err(TOO_LONG);
                }
                let size = digits.iter().fold(0usize, |n, d| {
                    n << 4 | char::from(*d).to_digit(16).unwrap_or(0) as usize
                });
                if size > MAX_BODY - (self.body.1 - self.body.0) {
                    return Err(TOO_LONG);
                }
                self.state = match size {
                    0 => State::Trailers,
                    left => State::ChunkData { left },
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::Trailers if line.is_empty() => {
                self.state = State::Done;
                return Ok(true);
            }
            State::Trailers => {
                self.trailers += line.len();
                if self.trailers > MAX_CHUNK_LINE {
                    return Err(reject(431, "the trailers are larger than 1 KiB"));
                }
            }
            _ => return Err(reject(400, "a chunk is longer than its size")),
        }
        Ok(false)
    }

    fn chunk_line(&mut self, buf: &[u8]) -> Result<Option<(usize, usize)>, Reject> {
        let found = memchr::memchr(b'\n', &buf[self.at..]);
        let end = found.map_or(buf.len(), |at| self.at + at);
        if end - self.line > MAX_CHUNK_LINE {
            return Err(reject(400, "a chunk's size line is larger than 1 KiB"));
        }
        if found.is_none() {
            self.at = end;
            return Ok(None);
        }
        if end == self.line || buf[end - 1] != b'\r' {
            return Err(reject(400, "a chunk's line does not end with CR LF"));
        }
        let line = (self.line, end - 1);
        self.at = end + 1;
        self.line = self.at;
        Ok(Some(line))
    }
}

const TOO_LONG: Reject = reject(413, "the body is larger than 4 MiB");

/// A byte of a token (RFC 9110, 5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// An answer's head beyond its length.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`, where there is a body.
    pub content_type: Option<&'a str>,
    /// More fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// Says `Connection: close`.
    pub close: bool,
    /// To HEAD: the length, but not the body.
    pub no_body: bool,
}

impl Reply<'_> {
    /// A status and nothing more.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            content_type: None,
            fields: &[],
            close: false,
            no_body: false,
        }
    }
}

/// Writes a whole answer, head and body, to the end of `out`.
pub fn write(out: &mut Vec<u8>, reply: &Reply<'_>, now: Wall, body: &[u8]) {
    let (date, length) = (now.http_date(), body.len().to_string());
    let mut fields = Vec::with_capacity(8);
    if reply.close {
        fields.push(("Connection", "close"));
    }
    fields.extend([("Server", "bpm"), ("Date", &date)]);
    fields.extend(reply.content_type.map(|kind| ("Content-Type", kind)));
    fields.extend_from_slice(reply.fields);
    fields.push(("Content-Length", &length));
    write_head(out, reply.status, &fields);
    if !reply.no_body {
        out.extend_from_slice(body);
    }
}

/// Writes the head of a stream of events, which ends with the connection.
pub fn write_stream_head(out: &mut Vec<u8>) {
    let fields = [
        ("Server", "bpm"),
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
        ("Connection", "close"),
    ];
    write_head(out, 200, &fields);
}

/// A field that could break out of its line is left out. Writing into a `Vec` can't fail.
fn write_head(out: &mut Vec<u8>, status: u16, fields: &[(&str, &str)]) {
    let status = StatusCode(status);
    let reason = status.default_reason_phrase();
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.0);
    for (name, value) in fields {
        if value.bytes().all(|b| matches!(b, b' '..=b'~'))
            && let Ok(field) = Header::from_bytes(*name, *value)
        {
            let _ = write!(out, "{field}\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A client with `Expect: 100-continue` waits for it.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
mod tests;
