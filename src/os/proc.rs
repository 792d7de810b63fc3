//! Processes as the kernel shows them (proc(5)).
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::base::escape::escaped;
use crate::base::table::{Set, Table, in_order};
use crate::os::files;

/// How many characters of another process's command line are shown.
const SHOWN: usize = 200;

/// The variable by which a process is known as ours, set at its start and inherited by its own.
pub const MARKER: &str = "BPM_ID";

/// One process, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proc {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// Its group's.
    pub pgid: i32,
    /// Its session's.
    pub sid: i32,
    /// When it began, in clock ticks since the boot: with the number, an identity.
    pub start: u64,
    /// `R`, `S`, `D`, `T`, `Z` (ended and not reaped), ... (proc_pid_stat(5)).
    pub state: char,
}

/// Resources that a group of processes uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of its living processes and of the children that they waited for.
    pub cpu: Duration,
    /// Resident memory in bytes; what processes share is counted in each.
    pub rss: u64,
    /// Threads.
    pub tasks: u64,
    /// Its living processes.
    pub pids: Vec<i32>,
}

/// The resources of each of these groups, in the same order, in one pass over our descendants but those below `others`.
/// A process that left its group for a session of its own counts where its parent does.
pub fn usage(groups: &[i32], others: &[i32]) -> Vec<Usage> {
    let mut all = vec![Usage::default(); groups.len()];
    let by_group: Table<i32, usize> = groups.iter().copied().zip(0..).collect();
    let mut owner: Table<i32, usize> = Table::default();
    let mut living = census(groups, others);
    // One that was taken over is no descendant of ours.
    let ours: Set<i32> = living.iter().map(|s| s.proc.pid).collect();
    let others = groups.iter().filter(|pid| !ours.has(pid)).copied();
    living.extend(walk(others.collect()));
    // Parents come before their children.
    for stat in living {
        let of = by_group
            .get(&stat.proc.pgid)
            .or_else(|| owner.get(&stat.proc.ppid));
        let Some(of) = of.copied() else {
            continue;
        };
        owner.insert(stat.proc.pid, of);
        let sum = &mut all[of];
        sum.cpu += stat.cpu;
        if stat.proc.state != 'Z' {
            sum.rss += stat.rss;
            sum.tasks += stat.tasks;
            sum.pids.push(stat.proc.pid);
        }
    }
    all
}

/// `/proc/PID/stat`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub(super) proc: Proc,
    pub(super) cpu: Duration,
    pub(super) rss: u64,
    pub(super) tasks: u64,
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&stat_text(pid)?)
}

/// `/proc/PID/stat`, by one read: the kernel gives a line as a whole where it fits.
fn stat_text(pid: i32) -> Option<Vec<u8>> {
    // 52 fields of at most 21 bytes, and the name.
    let mut text = vec![0; 2048];
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    let length = file.read(&mut text).ok()?;
    text.truncate(length);
    Some(text)
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name may have blanks and brackets in it; nothing after it has.
    let name_end = memchr::memrchr(b')', text)?;
    let pid = number(text.split(|b| *b == b' ').next()?)?;
    let rest = std::str::from_utf8(text.get(name_end + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbers as in proc_pid_stat(5), which counts from 1; `rest` begins with field 3.
    let field = |n: usize| fields.get(n - 3).copied();
    let count = |n: usize| field(n)?.parse::<u64>().ok();
    let id = |n: usize| field(n)?.parse::<i32>().ok();
    // Those of children that were waited for are signed.
    let waited = |n: usize| u64::try_from(field(n)?.parse::<i64>().ok()?).ok();
    let ticks = count(14)? + count(15)? + waited(16)? + waited(17)?;
    Some(Stat {
        proc: Proc {
            pid,
            ppid: id(4)?,
            pgid: id(5)?,
            sid: id(6)?,
            start: count(22)?,
            state: field(3)?.chars().next()?,
        },
        cpu: Duration::from_millis(ticks * 1000 / system(libc::_SC_CLK_TCK, 100)),
        rss: count(24)? * page(),
        tasks: count(20)?,
    })
}

/// The status, in the form of wait(2), of a process that has ended and is not reaped; it need not be our child. None:
/// it lives, or is reaped, or is not ours to ask about.
pub(super) fn status_of_dead(dead: &Proc) -> Option<i32> {
    let text = stat_text(dead.pid)?;
    let now = parse_stat(&text)?.proc;
    let user = super::peer::our_uid();
    // To others it is zero.
    let ours = user == 0 || owner(dead.pid) == Some(user);
    let is_dead = now.start == dead.start && now.state == 'Z' && ours;
    let status = text.trim_ascii_end().rsplit(|b| *b == b' ').next()?;
    is_dead.then(|| number(status))?
}

/// A file of /proc.
fn small(path: String) -> Option<Vec<u8>> {
    files::read_virtual(path, u64::MAX).ok()
}

fn number(digits: &[u8]) -> Option<i32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn page() -> u64 {
    system(libc::_SC_PAGESIZE, 4096)
}

fn system(what: libc::c_int, otherwise: u64) -> u64 {
    // SAFETY: touches no memory.
    let value = unsafe { libc::sysconf(what) };
    u64::try_from(value)
        .ok()
        .filter(|v| *v > 0)
        .unwrap_or(otherwise)
}

/// All processes that we can see.
pub(super) fn all_pids() -> impl Iterator<Item = i32> {
    files::entries("/proc").filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The uid of a process. None: it has ended.
pub fn owner(pid: i32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// When a process began, in clock ticks since the boot: with its number, an identity.
pub fn start_time(pid: i32) -> Option<u64> {
    Some(stat(pid)?.proc.start)
}

/// Now, on the clock of [`Proc::start`].
pub fn ticks() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    let (now, hertz) = (now.unwrap_or_default(), system(libc::_SC_CLK_TCK, 100));
    now.as_secs() * hertz + u64::from(now.subsec_nanos()) * hertz / 1_000_000_000
}

/// The start of a process that was made between `before` and now. Its file in /proc is read only where the clock has
/// moved on meanwhile: the kernel makes names for it, and takes them away when the process is reaped.
pub fn start_since(before: u64, pid: i32) -> Option<u64> {
    match ticks() == before {
        true => Some(before),
        false => start_time(pid),
    }
}

/// The inode of the pipe that a descriptor of a process is; None: it is none, or it can't be seen.
pub fn pipe_of(pid: i32, fd: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
    let pipe = link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?;
    pipe.parse().ok()
}

/// The process of that number that began then lives: it is neither a zombie nor another one by now.
pub fn lives(pid: i32, start: u64) -> bool {
    process(pid).is_some_and(|p| p.start == start && p.state != 'Z')
}

/// That process as it is now.
pub fn process(pid: i32) -> Option<Proc> {
    stat(pid).map(|s| s.proc)
}

/// The parents of a process, the nearest first; neither we nor what is above us.
pub fn ancestors(of: &Proc) -> Vec<Proc> {
    let us = std::process::id() as i32;
    let mut above: Vec<Proc> = Vec::new();
    let mut parent = of.ppid;
    // A number may be given to another process while we walk: the walk ends all the same.
    while parent > 1 && parent != us && above.iter().all(|p| p.pid != parent) {
        let Some(process) = process(parent) else {
            break;
        };
        parent = process.ppid;
        above.push(process);
    }
    above
}

/// Everything below that process, which is not in the list itself.
pub fn descendants_of(pid: i32) -> Vec<Proc> {
    match children(pid) {
        Some(first) => procs(walk(first)),
        None => procs(sieve(pid, all_pids().filter_map(stat).collect())),
    }
}

/// The children of that process.
pub fn children_of(pid: i32) -> Vec<Proc> {
    match children(pid) {
        Some(all) => all.into_iter().filter_map(process).collect(),
        None => {
            let everybody = all_pids().filter_map(process);
            everybody.filter(|p| p.ppid == pid).collect()
        }
    }
}

/// Our children that are not among `known`, and everything below them: what came to us when its
/// parent ended. One read where there is no such process, however many children are known.
pub fn orphans(known: &dyn Fn(i32) -> bool) -> Vec<Proc> {
    let us = std::process::id() as i32;
    // Only the main thread makes processes, and the kernel gives orphans to it (find_alive_thread).
    match children_of_thread(us, us) {
        Some(all) => procs(walk(all.into_iter().filter(|pid| !known(*pid)).collect())),
        None => {
            let everybody: Vec<Stat> = all_pids().filter_map(stat).collect();
            let strangers = everybody
                .iter()
                .filter(|s| s.proc.ppid == us && !known(s.proc.pid));
            let mut found: Vec<Proc> = strangers.map(|s| s.proc).collect();
            for at in 0..found.len() {
                found.extend(procs(sieve(found[at].pid, everybody.clone())));
            }
            found
        }
    }
}

fn procs(stats: Vec<Stat>) -> Vec<Proc> {
    stats.into_iter().map(|s| s.proc).collect()
}

fn children_of_thread(pid: i32, thread: i32) -> Option<Vec<i32>> {
    Some(numbers(&small(format!(
        "/proc/{pid}/task/{thread}/children"
    ))?))
}

fn numbers(list: &[u8]) -> Vec<i32> {
    let words = list.split(u8::is_ascii_whitespace);
    words.filter_map(number).collect()
}

/// All our descendants but the children `without` and what is below them, parents before their children, those that have
/// ended and are not reaped included. A picture of moving things. `with` are some that are asked about.
pub(super) fn census(with: &[i32], without: &[i32]) -> Vec<Stat> {
    let us = std::process::id() as i32;
    // One list where the main thread has made them: to it come the orphans too.
    let of_main = children_of_thread(us, us);
    let of_main =
        of_main.filter(|all| !with.is_empty() && with.iter().all(|pid| all.contains(pid)));
    match of_main.or_else(|| children(us)) {
        Some(mut first) => {
            let without: Set<i32> = without.iter().copied().collect();
            first.retain(|pid| !without.has(pid));
            walk(first)
        }
        None => sieve(us, all_pids().filter_map(stat).collect()),
    }
}

/// Down the kernel's lists of children: as many reads as there are descendants.
fn walk(mut pids: Vec<i32>) -> Vec<Stat> {
    let mut seen: Set<i32> = pids.iter().copied().collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        let stat = stat(pid);
        let below = match &stat {
            // One with a single thread has one list.
            Some(stat) if stat.tasks == 1 => children_of_thread(pid, pid),
            Some(_) | None => None,
        };
        let below = below.or_else(|| children(pid)).unwrap_or_default();
        found.extend(stat);
        // A number may be given to another process while we walk; seen once is enough, and the walk ends.
        pids.extend(below.into_iter().filter(|p| seen.add(*p)));
    }
    found
}

/// From everybody, the descendants of one: for kernels without lists of children
/// (CONFIG_PROC_CHILDREN).
fn sieve(root: i32, mut everybody: Vec<Stat>) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = Set::from_iter([root]);
    loop {
        let (of, others): (Vec<Stat>, Vec<Stat>) = everybody
            .into_iter()
            .partition(|s| parents.has(&s.proc.ppid));
        if of.is_empty() {
            return found;
        }
        parents = of.iter().map(|s| s.proc.pid).collect();
        found.extend(of);
        everybody = others;
    }
}

/// The children of all threads of a process; None where the kernel keeps no such list.
fn children(pid: i32) -> Option<Vec<i32>> {
    let mut all = Vec::new();
    for thread in files::entries(format!("/proc/{pid}/task")) {
        match files::read_virtual(thread.path().join("children"), u64::MAX) {
            Ok(list) => all.extend(numbers(&list)),
            // The thread ended meanwhile, unless its folder is still there.
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(all)
}

/// The value of [`MARKER`] in the environment that the process was given at its start. None: it has
/// none, has ended, wrote over it, or is not ours to read.
pub fn marker(pid: i32) -> Option<String> {
    let value = variable(pid, MARKER)?;
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// Its marker is that of a build.
pub fn is_of_build(pid: i32) -> bool {
    let marker = marker(pid).unwrap_or_default();
    let run = marker.rsplit('/').next();
    run.is_some_and(|run| run.starts_with('b'))
}

/// The value of any variable, likewise.
pub fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    // Larger environments can't be: an execve takes 6 MiB at most.
    const MOST: u64 = 6 << 20;
    let environ = files::read_virtual(format!("/proc/{pid}/environ"), MOST).ok()?;
    environ.split(|b| *b == 0).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.to_vec())
    })
}

/// The processes of our user, whoever's children they are, whose marker begins so: what a daemon
/// that is dead has left. We are not among them.
pub fn find_marked(prefix: &str) -> Vec<Proc> {
    find_marked_but(prefix, |_| false, |_| false)
}

/// The same without those whose number or identity is known, whose environment is not read.
pub fn find_marked_but(
    prefix: &str,
    known_pid: impl Fn(i32) -> bool,
    known: impl Fn(&Proc) -> bool,
) -> Vec<Proc> {
    let us = std::process::id() as i32;
    let user = super::peer::our_uid();
    all_pids()
        .filter(|pid| *pid != us && !known_pid(*pid))
        .filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == user))
        .filter_map(|pid| {
            // The identity before the marker and again after: both are then the same process's.
            let before = Some(stat(pid)?.proc).filter(|p| !known(p))?;
            let ours = marker(pid)?.starts_with(prefix);
            (ours && start_time(pid) == Some(before.start)).then_some(before)
        })
        .collect()
}

/// Its arguments with blanks between, or its name in brackets where it has none (a kernel thread, one
/// that has ended). One line of at most 4,096 bytes, whatever is in them.
pub fn cmdline(pid: i32) -> Option<String> {
    let mut line = small(format!("/proc/{pid}/cmdline"))?;
    line.truncate(4096);
    while line.last() == Some(&0) {
        line.pop();
    }
    if line.is_empty() {
        let name = small(format!("/proc/{pid}/comm"))?;
        return Some(format!("[{}]", in_line(name.trim_ascii_end())));
    }
    Some(in_line(&line))
}

/// Others choose their arguments: what ends a line or steers a terminal is a blank, and nothing is hidden.
fn in_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    escaped(&text.replace(char::is_control, " ")).into_owned()
}

/// Its program as it was called, without its arguments: those may be secrets that came from its environment.
pub fn program(pid: i32) -> Option<String> {
    let line = small(format!("/proc/{pid}/cmdline"))?;
    match line.split(|b| *b == 0).next() {
        Some(first) if !first.is_empty() => Some(in_line(first)),
        _ => cmdline(pid),
    }
}

/// Why a process does not end that was killed: somebody traces it, it is not ours to kill, or the kernel waits for a
/// device. None: nothing of that kind.
pub fn why_held(pid: i32) -> Option<String> {
    let field = |pid: i32, name: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next());
        value.map(String::from)
    };
    let number = |pid, name| field(pid, name)?.parse::<i32>().ok();
    if let Some(thread) = number(pid, "TracerPid:").filter(|tracer| *tracer > 0) {
        let tracer = number(thread, "Tgid:").unwrap_or(thread);
        let name = program(tracer).unwrap_or_else(|| "?".into());
        return Some(format!("held by its tracer, pid {tracer} ({name})"));
    }
    let us = super::peer::our_uid();
    if let Some(uid) = owner(pid).filter(|uid| us != 0 && *uid != us) {
        return Some(format!("it belongs to uid {uid}"));
    }
    (field(pid, "State:")? == "D").then(|| "the kernel waits for a device or a disk".into())
}

/// Resident memory of these processes in bytes; what they share is counted in each.
pub fn resident(pids: &[i32]) -> u64 {
    let stats = pids.iter().filter_map(|pid| stat(*pid));
    stats.map(|stat| stat.rss).sum()
}

/// Our own resident memory in bytes.
pub fn self_rss() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|t| t.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * page()
}

/// A TCP socket that listens.
struct Listener {
    ip: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

fn listeners() -> Vec<Listener> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| text.lines().filter_map(parse_listener).collect::<Vec<_>>())
        .collect()
}

/// The inodes of all TCP sockets that listen; None: the kernel's tables can't be read.
pub fn listening_inodes() -> Option<Set<u64>> {
    fs::metadata("/proc/net/tcp").ok()?;
    Some(listeners().iter().map(|l| l.inode).collect())
}

/// A TCP socket listens on that port that is not one of `before`; None: the kernel's tables can't be read.
pub fn is_listened_on(port: u16, before: &Set<u64>) -> Option<bool> {
    fs::metadata("/proc/net/tcp").ok()?;
    let all = listeners();
    let mut ours = all.iter().filter(|l| l.port == port);
    Some(ours.any(|l| !before.has(&l.inode)))
}

/// A connection to that address ends at one of the sockets `before`.
pub fn is_served_by(address: SocketAddr, before: &Set<u64>) -> bool {
    let all = listeners();
    let at = |ip: IpAddr| {
        let all = all.iter().filter(move |l| l.port == address.port());
        all.filter(move |l| l.ip == ip).collect::<Vec<_>>()
    };
    // The kernel prefers the socket that is bound to the address itself.
    let any = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let mut found = at(address.ip());
    if found.is_empty() {
        found = any.into_iter().flat_map(at).collect();
    }
    !found.is_empty() && found.iter().all(|l| before.has(&l.inode))
}

/// The uid that listens on that port. None: nobody does, or the kernel's tables can't be read.
pub fn port_owner(port: u16) -> Option<u32> {
    let mut all = listeners().into_iter();
    all.find(|listener| listener.port == port).map(|l| l.uid)
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 12345 ...`
fn parse_listener(line: &str) -> Option<Listener> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (ip, port) = fields.get(1)?.split_once(':')?;
    Some(Listener {
        ip: parse_ip(ip)?,
        port: u16::from_str_radix(port, 16).ok()?,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// The kernel prints addresses as numbers in the machine's own order, 32 bits each.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| {
        let digits = hex.get(i * 8..i * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The inodes of the sockets that a process has open; empty where we may not look.
fn sockets(pid: i32) -> Vec<u64> {
    files::entries(format!("/proc/{pid}/fd"))
        .filter_map(|e| {
            let target = fs::read_link(e.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// The inodes of the sockets that these processes have open; None where we may not look at one of them.
pub fn open_sockets(pids: &[i32]) -> Option<Set<u64>> {
    for pid in pids {
        // One that has ended has none.
        if let Err(e) = fs::read_dir(format!("/proc/{pid}/fd"))
            && e.kind() == io::ErrorKind::PermissionDenied
        {
            return None;
        }
    }
    let all = pids.iter().flat_map(|pid| sockets(*pid));
    Some(all.collect())
}

/// Where these processes listen: one address for each TCP port, in the ports' order; the one of all addresses where there
/// is such a one, else one by which this machine reaches it.
pub fn listening(pids: &[i32]) -> Vec<SocketAddr> {
    let theirs: Set<u64> = pids.iter().flat_map(|pid| sockets(*pid)).collect();
    if theirs.is_empty() {
        return Vec::new();
    }
    let theirs = listeners().into_iter().filter(|l| theirs.has(&l.inode));
    let reached = theirs.map(|l| SocketAddr::new(l.ip, l.port));
    let mut reached = in_order(reached.collect(), |at| {
        let rank = match at.ip() {
            ip if ip.is_unspecified() => 0,
            ip if ip == Ipv4Addr::LOCALHOST => 1,
            ip if ip.is_loopback() => 2,
            _ => 3,
        };
        u64::from(at.port()) << 2 | rank
    });
    reached.dedup_by_key(|at| at.port());
    reached
}

/// The process that listens there already: number and arguments, of a process of bpm's the program. None:
/// nobody, or somebody of another user.
pub fn port_holder(ip: IpAddr, port: u16) -> Option<(i32, String)> {
    let inodes: Set<u64> = listeners()
        .into_iter()
        .filter(|l| l.port == port)
        .filter(|l| l.ip == ip || l.ip.is_unspecified() || ip.is_unspecified())
        .map(|l| l.inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    // Of a server and the workers that it forked, the oldest is the one to stop.
    let holders = all_pids().filter(|pid| sockets(*pid).iter().any(|s| inodes.has(s)));
    let holder = holders.min_by_key(|pid| start_time(*pid).unwrap_or(u64::MAX))?;
    // A process of a bpm may have secrets of its environment among its arguments.
    let line = match marker(holder) {
        Some(_) => program(holder),
        None => cmdline(holder),
    };
    let mut line = line.unwrap_or_default();
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push_str("...");
    }
    Some((holder, line))
}

/// Whether a process has a file open whose path ends so, be that path hidden or removed by now.
pub fn has_open(pid: i32, end: &Path) -> bool {
    files::entries(format!("/proc/{pid}/fd")).any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| {
            let target = target.as_os_str().as_bytes();
            let path = target.strip_suffix(b" (deleted)").unwrap_or(target);
            Path::new(OsStr::from_bytes(path)).ends_with(end)
        })
    })
}

/// How many processes the kernel has killed for memory, in our control group or, where that can't be
/// told, on the machine. Rising between two readings makes a KILL that nobody sent suspicious.
pub fn oom_kills() -> Option<u64> {
    own_cgroup()
        .and_then(|group| files::virtual_text(format!("/sys/fs/cgroup{group}/memory.events")).ok())
        .and_then(|events| counter(&events, "oom_kill"))
        .or_else(|| counter(&files::virtual_text("/proc/vmstat").ok()?, "oom_kill"))
}

/// Our path in the one hierarchy of cgroup v2.
fn own_cgroup() -> Option<String> {
    let groups = files::virtual_text("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.to_owned())
}

/// The number after a name, in lines of both.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?
        .trim()
        .parse()
        .ok()
}

/// Seconds by which the local clock was ahead of UTC at that time (seconds since 1970); 0 where the
/// zone is unknown.
pub fn local_offset(seconds: i64) -> i64 {
    // SAFETY: a tm of zeros is valid; localtime_r reads the one and writes the other.
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut local).is_null() {
            return 0;
        }
        local.tm_gmtoff
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::signal_group;
    use super::super::testing::{alone, descendants, ended, eventually, line, shell};
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_name_with_brackets_and_blanks_is_no_obstacle() {
        let text =
            b"42 (a) R 1 (b) S 7 8 9 0 -1 4194304 1 2 3 4 10 20 -1 30 20 0 5 0 777 1000 3 0 0";
        assert!(parse_stat(text).is_none(), "a negative time is none");
        let text =
            b"42 (a) R 1 (b) S 7 8 9 0 -1 4194304 1 2 3 4 10 20 0 30 20 0 5 0 777 1000 3 0 0";
        let stat = parse_stat(text).unwrap();
        let expected = Proc {
            pid: 42,
            ppid: 7,
            pgid: 8,
            sid: 9,
            start: 777,
            state: 'S',
        };
        assert_eq!((stat.proc, stat.tasks, stat.rss), (expected, 5, 3 * page()));
        assert_eq!(
            stat.cpu,
            Duration::from_millis(60 * 1000 / system(libc::_SC_CLK_TCK, 100))
        );
        for text in ["", "1", "1 (x)", "1 (x) ", "1 (x) S 1"] {
            assert!(parse_stat(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_group_is_counted_with_who_left_it() {
        let busy = shell("setsid sleep 60 & echo ready; while :; do :; done", &[]);
        let idle = shell("echo ready; exec sleep 60", &[]);
        for child in [&busy, &idle] {
            line(&child.stdout);
        }
        let seen = eventually("time was used and the session made", || {
            let all = usage(&[idle.child.pid(), i32::MAX, busy.child.pid()], &[]);
            let apart = all[2]
                .pids
                .iter()
                .any(|p| stat(*p).is_some_and(|s| s.proc.sid == *p && *p != busy.child.pid()));
            (apart && all[2].cpu >= Duration::from_millis(50)).then_some(all)
        });
        assert_eq!(
            (seen[0].pids.as_slice(), seen[0].tasks),
            ([idle.child.pid()].as_slice(), 1)
        );
        assert!(seen[0].rss > 100_000 && seen[0].cpu < Duration::from_millis(50));
        assert_eq!(seen[1], Usage::default());
        assert_eq!((seen[2].pids.len(), seen[2].tasks), (2, 2));
        for pid in &seen[2].pids {
            super::super::group::signal(*pid, libc::SIGKILL);
        }
        signal_group(idle.child.pid(), libc::SIGKILL);
        ended(idle.child.pid());
        ended(busy.child.pid());
    }

    #[test]
    fn who_listens_where_is_found() {
        alone("os::proc::tests::who_listens_where_is_found", || {
            let us = std::process::id() as i32;
            for address in ["127.0.0.1:0", "[::1]:0"] {
                // Not every machine has IPv6.
                let Ok(listener) = TcpListener::bind(address) else {
                    continue;
                };
                let at = listener.local_addr().unwrap();
                assert!(listening(&[us]).contains(&at));
                let now = listening_inodes().unwrap();
                let own = open_sockets(&[us]).unwrap();
                assert!(own.keys().any(|inode| now.has(inode)));
                assert!(is_served_by(at, &now) && !is_served_by(at, &Set::default()));
                assert_eq!(is_listened_on(at.port(), &Set::default()), Some(true));
                assert_eq!(is_listened_on(at.port(), &now), Some(false));
                let (pid, line) = port_holder(at.ip(), at.port()).unwrap();
                assert_eq!((pid, Some(line)), (us, cmdline(us)));
                drop(listener);
                assert_eq!(port_holder(at.ip(), at.port()), None);
            }
            let any = TcpListener::bind("0.0.0.0:0").unwrap();
            let at = any.local_addr().unwrap();
            assert_eq!(listening(&[us]), [at]);
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, at.port()));
            let before = listening_inodes().unwrap();
            assert!(is_served_by(local, &before));
            // The socket of the address itself is preferred, where both can be.
            if let Ok(_own) = TcpListener::bind(local) {
                assert!(!is_served_by(local, &before));
            }
            assert!(listening(&[]).is_empty());
        });
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        assert_eq!(parse_ip(&hex([127, 0, 0, 1])), "127.0.0.1".parse().ok());
        let six = hex([0; 4]).repeat(3) + &hex([0, 0, 0, 1]);
        assert_eq!(parse_ip(&six), "::1".parse().ok());
        for bad in ["", "0", "0100007G", "0100007F00"] {
            assert_eq!(parse_ip(bad), None, "{bad}");
        }
        let line = "0: 0100007F:1F90 00000000:0000 01 0:0 0:0 0 1000 0 12345 1";
        assert!(parse_listener(line).is_none(), "a connection");
        assert!(parse_listener("").is_none());
    }

    #[test]
    fn a_command_line_is_one_line() {
        let child = shell("exec sleep 60", &[]);
        eventually("it is a sleep", || {
            (cmdline(child.child.pid())? == "sleep 60").then_some(())
        });
        assert_eq!(program(child.child.pid()).as_deref(), Some("sleep"));
        // Others choose their arguments: none ends the line or steers a terminal.
        let steering = shell(":; sleep 60 # \n\x1b[31m", &[]);
        eventually("it has its arguments", || {
            let line = cmdline(steering.child.pid())?;
            (line.contains("sleep 60 #  ") && !line.contains(char::is_control)).then_some(())
        });
        signal_group(steering.child.pid(), libc::SIGKILL);
        ended(steering.child.pid());
        signal_group(child.child.pid(), libc::SIGKILL);
        eventually("it has ended", || {
            (cmdline(child.child.pid())? == "[sleep]").then_some(())
        });
        assert_eq!(program(child.child.pid()).as_deref(), Some("[sleep]"));
        ended(child.child.pid());
        assert_eq!(cmdline(child.child.pid()), None);
        assert_eq!(program(child.child.pid()), None);
    }

    #[test]
    fn the_offset_is_that_of_the_zone() {
        alone("os::proc::tests::the_offset_is_that_of_the_zone", || {
            // SAFETY: no other thread of this process looks at the environment.
            unsafe { std::env::set_var("TZ", "XYZ-5:30") };
            assert_eq!(local_offset(1_795_229_210), 19_800);
        });
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let events = "low 0\noom 7\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(counter(events, "oom_kill"), Some(3));
        assert_eq!(counter(events, "oom_ki"), None);
    }

    #[test]
    fn this_process_is_known() {
        assert!(self_rss() > 500_000);
        assert!(start_time(std::process::id() as i32).unwrap() > 0);
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn start_is_known_by_the_clock() {
        // Its tick is the clock's, whether that has moved on meanwhile or not.
        for _ in 0..20 {
            let before = ticks();
            let child = shell("exit 0", &[]);
            let pid = child.child.pid();
            let start = start_since(before, pid);
            assert_eq!(start, start_time(pid));
            ended(pid);
        }
    }

    #[test]
    fn children_are_the_same_by_lists_and_by_parents() {
        alone(
            "os::proc::tests::children_are_the_same_by_lists_and_by_parents",
            || {
                let child = shell("(sleep 60 & sleep 60 & echo ready; wait) & wait", &[]);
                line(&child.stdout);
                let us = std::process::id() as i32;
                eventually("all is there", || (descendants().len() == 4).then_some(()));
                let pids = |all: Vec<Stat>| {
                    let mut pids: Vec<i32> = all.iter().map(|s| s.proc.pid).collect();
                    pids.sort();
                    pids
                };
                let scanned = sieve(us, all_pids().filter_map(stat).collect());
                assert_eq!(pids(scanned), pids(walk(children(us).unwrap())));
                signal_group(child.child.pid(), libc::SIGKILL);
                ended(child.child.pid());
            },
        );
    }
}
