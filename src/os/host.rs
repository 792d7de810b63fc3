//! The machine's disks, limits and sockets. Nothing is changed by asking.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::files;
use super::peer::Diag;

/// File systems of other machines, by the number that statfs(2) gives (linux/magic.h).
const REMOTE: [(i64, &str); 9] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
];

/// Bytes that a program may be given, arguments and environment together: a quarter of the stack's limit, within bounds
/// (`bprm_stack_limits` of the kernel).
pub fn argument_room() -> usize {
    let (least, most) = (128 << 10, 6 << 20);
    let stack = getrlimit(Resource::RLIMIT_STACK).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(stack / 4).map_or(most, |quarter| quarter.clamp(least, most))
}

/// The disk below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that we may still write.
    pub free: u64,
    /// The name of a file system that is another machine's.
    pub remote: Option<&'static str>,
}

/// Names the time since the machine was started; another one after each start. None: /proc can't be read.
pub fn boot_id() -> Option<String> {
    let id = files::virtual_text("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Asks about the disk that holds this path, which must be there.
pub fn disk(path: &Path) -> io::Result<Disk> {
    let about = statvfs(path)?;
    // Unsigned with musl.
    #[allow(clippy::unnecessary_cast)]
    let kind = nix::sys::statfs::statfs(path)?.filesystem_type().0 as i64;
    Ok(Disk {
        free: about.blocks_available() * about.fragment_size(),
        remote: remote(kind),
    })
}

fn remote(kind: i64) -> Option<&'static str> {
    // On some machines the number is signed and has 32 bits.
    let same = |known: i64| known == kind || known == kind & 0xffff_ffff;
    REMOTE
        .iter()
        .find(|(known, _)| same(*known))
        .map(|(_, name)| *name)
}

/// We may write there.
pub fn may_write(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

/// How many descriptors a process of ours may have open at most: bpm raises its own to that.
pub fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard)
}

/// How many processes and threads our user may have.
pub fn most_processes() -> u64 {
    getrlimit(Resource::RLIMIT_NPROC).map_or(u64::MAX, |(soft, _)| soft)
}

/// How many our user has.
pub fn processes_of_ours() -> u64 {
    let us = super::peer::our_uid();
    let pids = super::proc::all_pids().filter(|pid| super::proc::owner(*pid) == Some(us));
    pids.map(|pid| super::proc::stat(pid).map_or(0, |s| s.tasks))
        .sum()
}

/// Sockets that a sandbox may refuse: each kind, with what the system said.
pub fn refused_sockets() -> Vec<(&'static str, io::Error)> {
    let unix = UnixDatagram::unbound().map(drop);
    let tcp = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    [("Unix sockets", unix), ("TCP sockets", tcp.map(drop))]
        .into_iter()
        .filter_map(|(kind, made)| Some((kind, made.err()?)))
        .collect()
}

/// The kernel tells whose TCP connections are whose (sock_diag(7)).
pub fn tells_whose_connections() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Diag::open(listener.local_addr()?).map(drop)
}

/// A number in a file of /proc.
pub fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The ports that the kernel gives to whoever asks for any: a fixed one among them may be taken.
pub fn ephemeral_ports() -> Option<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = text.split_ascii_whitespace().map(str::parse);
    Some((ends.next()?.ok()?, ends.next()?.ok()?))
}

/// A port that the kernel was told to leave alone.
pub fn is_reserved(port: u16) -> bool {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
    text.unwrap_or_default().trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let end = |text: &str| text.parse::<u16>().ok();
        matches!((end(first), end(last)), (Some(first), Some(last)) if (first..=last).contains(&port))
    })
}

/// Whether the cgroup of a process can hand controllers on to cgroups that it makes.
///
/// # Errors
/// A sentence: why it can't.
pub fn delegated(pid: i32) -> Result<(), String> {
    let list = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = list.lines().find_map(|line| line.strip_prefix("0::"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounted = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let root = mounted.find_map(|words| match words.as_slice() {
        [_, place, "cgroup2", ..] => Some((*place).to_string()),
        _ => None,
    });
    let (Some(own), Some(root)) = (own, root) else {
        return Err("there is no cgroup v2 here".into());
    };
    // bpm's own child of the cgroup that was handed to it.
    let own = own.trim_end_matches("/bpm").trim_start_matches('/');
    let folder = Path::new(&root).join(own);
    if !may_write(&folder.join("cgroup.subtree_control")) {
        return Err(format!(
            "the cgroup {:?} is not bpm's own",
            folder.display().to_string()
        ));
    }
    let there = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<&str> = ["memory", "cpu", "pids"]
        .into_iter()
        .filter(|name| !there.split_whitespace().any(|word| word == *name))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "controllers are missing in its cgroup ({})",
            missing.join(", ")
        )),
    }
}

/// Device and number of the file that a process executes.
pub fn image(pid: i32) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_other_machines_are_known() {
        assert_eq!(remote(0x6969), Some("NFS"));
        assert_eq!(remote(-11_317_950), Some("CIFS"));
        assert_eq!(remote(0xef53), None);
        let here = disk(Path::new("/")).unwrap();
        assert_eq!(here.remote, None);
        assert!(disk(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn this_machine_grants_what_tests_need() {
        assert!(refused_sockets().is_empty());
        assert!(processes_of_ours() >= 1);
        assert!(most_descriptors() > 16);
        assert!(may_write(&std::env::temp_dir()));
    }
}
