//! Checks of the machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::base::error::reason;
use crate::base::globs::Glob;
use crate::base::paths::LONGEST_SOCKET_PATH;
use crate::config::Toggle;
use crate::log::pipes;
use crate::os::files;
use crate::os::host;
use crate::os::peer::our_uid;

use super::Doctor;

/// bpm needs some room for its own files.
const ROOM: u64 = 64 << 20;
/// Folders that are looked into at most, to tell how many there are.
const MOST_FOLDERS: usize = 200_000;
/// bpm's own, and some for each process: pipes and what is handed to it.
const OWN_DESCRIPTORS: u64 = 64;
const DESCRIPTORS_EACH: u64 = 6;
/// A process starts others.
const PROCESSES_EACH: u64 = 4;

pub(super) fn look(doctor: &mut Doctor) {
    state_folder(doctor);
    socket(doctor);
    watches(doctor);
    limits(doctor);
    pipes(doctor);
    cgroups(doctor);
    sockets(doctor);
}

fn state_folder(doctor: &mut Doctor) {
    let dir = doctor.project.dir.path();
    let Some(there) = dir.ancestors().find(|folder| folder.exists()) else {
        return;
    };
    let name = format!("{:?}", there.display().to_string());
    let ours = "set BPM_HOME to a folder of your own";
    if let Ok(folder) = fs::metadata(there) {
        if there == dir && folder.uid() != our_uid() {
            let text = format_args!("{name} belongs to uid {}", folder.uid());
            return doctor.problem("state folder", text, ours);
        }
        if !folder.is_dir() {
            return doctor.problem("state folder", format_args!("{name} is no folder"), ours);
        }
    }
    if !host::may_write(there) {
        return doctor.problem(
            "state folder",
            format_args!("{name} may not be written"),
            ours,
        );
    }
    match host::disk(there) {
        Err(e) => doctor.problem("state folder", format_args!("{name}: {}", reason(&e)), ours),
        Ok(disk) => {
            if let Some(kind) = disk.remote {
                let text = format_args!("{name} is on {kind}, where locks and sockets do not hold");
                let fix = "set BPM_HOME to a folder on this machine's own disk";
                doctor.problem("state folder", text, fix);
            }
            if disk.free < ROOM {
                let text = format_args!("{name} has {} MiB left on its disk", disk.free >> 20);
                doctor.problem("disk", text, "make room, or set log_disk to less");
            }
        }
    }
    doctor.ok_unless_said("state folder", name);
}

/// Where the socket is.
fn socket(doctor: &mut Doctor) {
    let dir = &doctor.project.dir;
    let usual = dir.path().join("daemon.sock");
    if usual.as_os_str().len() <= LONGEST_SOCKET_PATH {
        return;
    }
    let runtime = doctor.project.env.get("XDG_RUNTIME_DIR");
    let place = dir.socket(runtime, our_uid());
    let folder = place.ancestors().nth(2).unwrap_or(Path::new("/"));
    if !host::may_write(folder) {
        let text = format_args!(
            "its path is too long, and {} may not be written",
            folder.display()
        );
        return doctor.problem("socket", text, "set BPM_HOME to a shorter path");
    }
    let text = format_args!(
        "its path is too long for a socket: it is {}",
        place.display()
    );
    let fix = "BPM_HOME with a shorter path keeps it beside the rest";
    doctor.note("socket", text, fix);
}

/// The kernel watches so many folders for a user.
fn watches(doctor: &mut Doctor) {
    let config = doctor.config;
    let patterns = config.processes.iter().flat_map(|p| &p.watch);
    let globs: Vec<Glob> = patterns.filter_map(|p| Glob::new(p).ok()).collect();
    if globs.is_empty() {
        return;
    }
    let mut folders = 0;
    count(&config.root, Path::new(""), &globs, &mut folders);
    let most = least([
        "/proc/sys/fs/inotify/max_user_watches",
        "/proc/sys/user/max_inotify_watches",
    ]);
    if folders as u64 * 10 > most.saturating_mul(9) {
        let text = format_args!("{folders} folders are to be watched, and a user may watch {most}");
        let fix = format_args!(
            "sysctl fs.inotify.max_user_watches={}",
            (folders * 4).max(65_536)
        );
        doctor.problem("inotify", text, fix);
    }
    let most = least([
        "/proc/sys/fs/inotify/max_user_instances",
        "/proc/sys/user/max_inotify_instances",
    ]);
    if most < 8 {
        let text = format_args!("a user may have {most} instances");
        doctor.problem("inotify", text, "sysctl fs.inotify.max_user_instances=128");
    }
    doctor.ok_unless_said("inotify", format_args!("{folders} folders are watched"));
}

/// The lower one of two limits of the kernel.
fn least(settings: [&str; 2]) -> u64 {
    let [one, other] = settings.map(|path| host::setting(path).unwrap_or(u64::MAX));
    one.min(other)
}

/// Folders that a pattern reaches.
fn count(root: &Path, below: &Path, globs: &[Glob], found: &mut usize) {
    if *found >= MOST_FOLDERS || !globs.iter().any(|glob| glob.reaches(below)) {
        return;
    }
    *found += 1;
    for entry in files::entries(root.join(below)) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count(root, &below.join(entry.file_name()), globs, found);
        }
    }
}

fn limits(doctor: &mut Doctor) {
    let processes = doctor.config.processes.len() as u64;
    let needed = OWN_DESCRIPTORS + DESCRIPTORS_EACH * processes;
    let most = host::most_descriptors();
    if most < needed {
        let text = format_args!("{most} descriptors may be open, and {needed} are needed");
        let fix = "ulimit -Hn 4096 before bpm starts, or LimitNOFILE= in its unit";
        doctor.problem("limits", text, fix);
    }
    let (most, now) = (host::most_processes(), host::processes_of_ours());
    let needed = PROCESSES_EACH * processes;
    if most.saturating_sub(now) < needed {
        let text = format_args!(
            "{most} processes and threads are allowed, {now} are there, and {needed} more may be needed"
        );
        let fix = "ulimit -u 4096 before bpm starts, or TasksMax= in its unit";
        // The kernel does not hold root to it, but those that run as somebody else.
        match our_uid() {
            0 => doctor.note("limits", text, fix),
            _ => doctor.problem("limits", text, fix),
        }
    }
    doctor.ok_unless_said("limits", "descriptors and processes are enough");
}

/// A pipe that is not widened makes its writer wait sooner, or throw away what does not fit.
fn pipes(doctor: &mut Doctor) {
    let processes = doctor.config.processes.iter();
    let needed = 2 * processes.filter(|p| !p.launch.tty).count();
    if let Some((text, fix)) = pipes::limit().and_then(|limit| narrow(needed, limit)) {
        doctor.note("pipes", text, fix);
    }
}

/// The pipes that stay as they are, and what helps, where not all that are needed fit into bpm's share.
fn narrow(needed: usize, limit: usize) -> Option<(String, String)> {
    let wide = limit / pipes::WIDE;
    (needed > wide).then(|| {
        let text = format!(
            "{wide} of {needed} get 1 MiB, bpm's quarter of what this user's may hold; the others stay at 64 KiB"
        );
        // The setting counts pages of 4 KiB.
        let pages = 4 * needed * (pipes::WIDE >> 12);
        (text, format!("sysctl fs.pipe-user-pages-soft={pages}"))
    })
}

/// Checks `limits`: controllers come from above, to a cgroup that is bpm's own.
fn cgroups(doctor: &mut Doctor) {
    let config = doctor.config;
    let mut names: Vec<&str> = Vec::new();
    for process in &config.processes {
        let limits = &process.launch.limits;
        if limits.memory.is_some()
            || limits.memory_high.is_some()
            || limits.cpu.is_some()
            || limits.tasks.is_some()
        {
            names.push(&process.name);
        }
    }
    if names.is_empty() && config.cgroup != Toggle::On {
        return;
    }
    let daemon = doctor.daemon.as_ref().map(|d| d.pid);
    match host::delegated(daemon.unwrap_or(std::process::id() as i32)) {
        Ok(()) => doctor.ok("cgroups", "bpm may make them, with controllers"),
        Err(why) => {
            let text = match names.is_empty() {
                true => format!("cgroup = true, and {why}"),
                false => format!(
                    "limits of {}: {why}, so memory is checked every 5 s, and cpu, tasks and memory_high are not in effect",
                    names.join(", ")
                ),
            };
            let fix = "\"bpm install\" (Delegate=yes), or systemd-run --user --scope -p Delegate=yes bpm -d";
            match config.cgroup {
                Toggle::On => doctor.problem("cgroups", text, fix),
                Toggle::Auto | Toggle::Off => doctor.note("cgroups", text, fix),
            }
        }
    }
}

/// Checks the kinds of socket that a sandbox may refuse.
fn sockets(doctor: &mut Doctor) {
    let refused = host::refused_sockets();
    for (kind, e) in &refused {
        let text = format_args!("{kind} are refused ({}): a sandbox?", reason(e));
        let fix = "run bpm outside of it, or allow local sockets in its settings";
        doctor.problem("sockets", text, fix);
    }
    if !refused.is_empty() {
        return;
    }
    match host::tells_whose_connections() {
        Ok(()) => doctor.ok("sockets", "the kernel tells whose connections are whose"),
        Err(e) => {
            let text = format_args!(
                "the kernel does not tell whose TCP connections are whose ({})",
                reason(&e)
            );
            let fix = "modprobe inet_diag tcp_diag, or set token_file, or mcp_port = 0";
            doctor.note("sockets", text, fix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_beyond_the_share_are_said() {
        // 16,384 pages, as the kernel has it.
        assert_eq!(narrow(16, 16 << 20), None);
        let (text, fix) = narrow(18, 16 << 20).unwrap();
        assert!(text.starts_with("16 of 18 get 1 MiB"), "{text}");
        assert_eq!(fix, "sysctl fs.pipe-user-pages-soft=18432");
    }
}
