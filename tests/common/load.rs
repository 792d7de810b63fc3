//! A bounded client: so many requests a second, each on a fresh connection or all on kept ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So many clients at once at most.
const CLIENTS: u32 = 8;

/// A client at work.
pub struct Load {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Served>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Served {
    /// When each request began, and how long it took.
    pub good: Vec<(Instant, Duration)>,
    /// What was answered, each once, in the order in which it came first to a client.
    pub bodies: Vec<String>,
    /// Why the others failed.
    pub failed: Vec<String>,
}

impl Load {
    /// Begins to ask.
    pub fn begin(address: SocketAddr, per_second: u32) -> Self {
        Self::by(|address, _| get(address), address, per_second)
    }

    /// The same on connections that are kept: one that was closed between two requests is no failure, and
    /// the request that met it is sent once more.
    pub fn kept(address: SocketAddr, per_second: u32) -> Self {
        Self::by(get_kept, address, per_second)
    }

    fn by(way: Way, address: SocketAddr, per_second: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicU64::new(0));
        let pause = Duration::from_secs(1) * CLIENTS / per_second;
        let clients = (0..CLIENTS)
            .map(|_| {
                let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
                std::thread::spawn(move || client(way, address, pause, &over, &asked))
            })
            .collect();
        Self {
            over,
            asked,
            clients,
        }
    }

    /// Waits until so many more requests have been answered.
    pub fn more(&self, count: u64) {
        let wanted = self.asked.load(Ordering::Relaxed) + count;
        super::eventually(|| {
            let asked = self.asked.load(Ordering::Relaxed);
            if asked >= wanted { Ok(()) } else { Err(asked) }
        });
    }

    /// Asks no more.
    pub fn end(self) -> Served {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Served::default();
        for client in self.clients {
            let one = client.join().unwrap();
            all.good.extend(one.good);
            all.failed.extend(one.failed);
            for body in one.bodies {
                if !all.bodies.contains(&body) {
                    all.bodies.push(body);
                }
            }
        }
        all
    }
}

/// How a request is made; the connection of the one before, where it was kept.
type Way = fn(SocketAddr, &mut Option<BufReader<TcpStream>>) -> Result<String, String>;

fn client(
    way: Way,
    address: SocketAddr,
    pause: Duration,
    over: &AtomicBool,
    asked: &AtomicU64,
) -> Served {
    let mut kept = None;
    let mut served = Served::default();
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match way(address, &mut kept) {
            Ok(body) => {
                served.good.push((begun, begun.elapsed()));
                if served.bodies.last() != Some(&body) {
                    served.bodies.push(body);
                }
            }
            Err(why) => served.failed.push(why),
        }
        asked.fetch_add(1, Ordering::Relaxed);
        // Bounded: what was missed is not caught up with.
        due = (due + pause).max(Instant::now() - pause);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    served
}

/// The body of what a server answers with 200.
pub fn get(address: SocketAddr) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    ask(&mut stream)
}

/// The same over a connection that is there.
pub fn ask(stream: &mut (impl Read + Write)) -> Result<String, String> {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .map_err(|e| format!("write: {e}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|e| format!("read: {e}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().into()),
        _ => Err(format!("an answer that is none: {answer:?}")),
    }
}

fn get_kept(
    address: SocketAddr,
    kept: &mut Option<BufReader<TcpStream>>,
) -> Result<String, String> {
    if let Some(mut stream) = kept.take() {
        match ask_kept(&mut stream) {
            Ok(Some(body)) => {
                *kept = Some(stream);
                return Ok(body);
            }
            // Closed before it answered anything.
            Ok(None) => {}
            Err(why) => return Err(why),
        }
    }
    let stream = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    let body = ask_kept(&mut stream)?.ok_or("a fresh connection was closed")?;
    *kept = Some(stream);
    Ok(body)
}

fn ask_kept(stream: &mut BufReader<TcpStream>) -> Result<Option<String>, String> {
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    if stream.get_mut().write_all(request).is_err() {
        return Ok(None);
    }
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match stream.read_line(&mut head) {
            Ok(1..) => {}
            Ok(0) | Err(_) if head.is_empty() => return Ok(None),
            other => return Err(format!("{other:?} after {head:?}")),
        }
    }
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("Content-Length: "));
    let length = length.and_then(|n| n.parse().ok()).ok_or("no length")?;
    let mut body = vec![0; length];
    stream
        .read_exact(&mut body)
        .map_err(|e| format!("read: {e}"))?;
    match head.starts_with("HTTP/1.1 200") {
        true => Ok(Some(String::from_utf8_lossy(&body).trim().into())),
        false => Err(head),
    }
}
