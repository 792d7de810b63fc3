//! A cgroup of its own for each run and each build, below bpm's own (cgroups(7), version 2).
//!
//! Every process in a run's cgroup belongs to the run, whatever sessions, environments and users it makes; one write
//! to `cgroup.kill` ends it. Controllers, and so limits, can be had only where bpm is alone in its cgroup: one
//! that holds processes can't hand controllers on to its children ("no internal processes"), so bpm moves into
//! a child called `bpm` first.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::base::error::reason;
use crate::os::files;

/// The child of bpm's cgroup that bpm moves into; systemd's `DelegateSubgroup=bpm` makes the same one.
const OWN: &str = "bpm";
/// The controllers that `limits` uses.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Rounds of "kill what is listed" where there is no `cgroup.kill`; each round is done with the group frozen, so
/// that nothing new can appear but by the processes that are about to die.
const KILL_ROUNDS: usize = 8;

/// The folder below which this project's cgroups are made.
#[derive(Debug)]
pub struct Groups {
    folder: PathBuf,
    controllers: Vec<&'static str>,
    /// Why there are no controllers.
    without: Option<String>,
}

/// The cgroup of one run or build.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// All that was ever killed in it is known, and that is nothing.
    unharmed: bool,
}

/// Limits of a cgroup; None is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes; above it, the kernel kills in the group.
    pub memory: Option<u64>,
    /// Bytes; above it, the group is slowed down and its memory reclaimed.
    pub memory_high: Option<u64>,
    /// Processors: 0.5 is half of one.
    pub cpu: Option<f64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// Resources that a cgroup has used; None where the controller is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes now.
    pub memory: Option<u64>,
    /// Bytes at most (Linux 5.19).
    pub peak: Option<u64>,
    /// Time on all processors together.
    pub cpu: Option<Duration>,
    /// Processes killed since memory ran out.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub tasks: Option<u64>,
}

impl Groups {
    /// Finds bpm's own cgroup and makes a folder for the project in it; moves bpm into a child where it is alone and
    /// may hand controllers on.
    ///
    /// # Errors
    /// A sentence: why there can be no cgroups here.
    pub fn open(project: &str) -> Result<Self, String> {
        let own = own_cgroup()?;
        // After an upgrade, or by `DelegateSubgroup=bpm`, bpm sits in the child already.
        let parent = own.parent().filter(|parent| {
            own.file_name().is_some_and(|name| name == OWN)
                && parent.join("cgroup.procs").exists()
                && processes(parent).is_empty()
        });
        let (base, moved) = match parent {
            Some(parent) => (parent.to_path_buf(), true),
            None => (own, false),
        };
        let cannot =
            |e: &io::Error| format!("cannot make a cgroup in {}: {}", base.display(), reason(e));
        let folder = base.join(format!("bpm-{project}"));
        make(&folder).map_err(|e| cannot(&e))?;
        let mut groups = Self {
            folder,
            controllers: Vec::new(),
            without: None,
        };
        match hand_on(&base, moved) {
            Ok(()) => groups.controllers = enable(&groups.folder),
            Err(why) => groups.without = Some(why),
        }
        Ok(groups)
    }

    /// Why `limits` can't be had of cgroups here; None where they can.
    pub fn without_controllers(&self) -> Option<&str> {
        match self.controllers.is_empty() {
            true => Some(
                self.without
                    .as_deref()
                    .unwrap_or("no controllers are delegated to bpm"),
            ),
            false => None,
        }
    }

    /// `memory`, `cpu`, `pids`: whether the controller can be had.
    pub fn controls(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Makes a cgroup of that name, or opens the one that is left of a killed bpm.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn make(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.folder.join(name);
        let unharmed = make(&path)?;
        Ok(Cgroup { path, unharmed })
    }

    /// The cgroup of that name, if it is there.
    pub fn find(&self, name: &str) -> Option<Cgroup> {
        let path = self.folder.join(name);
        let unharmed = false;
        path.is_dir().then_some(Cgroup { path, unharmed })
    }

    /// The names of all that are there.
    pub fn names(&self) -> Vec<String> {
        files::entries(&self.folder)
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// The name of the one of these cgroups that a process is in, whoever's the process is.
    pub fn name_of(&self, pid: i32) -> Option<String> {
        let text = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let folder = self.folder.file_name()?.to_str()?;
        let (_, below) = path.split_once(&format!("/{folder}/"))?;
        below.split('/').next().map(str::to_owned)
    }

    /// Removes the folder; it stays where something is in it.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

impl Cgroup {
    /// Its folder, for [`super::spawn::Launch::cgroup`]. Not kept open: each start copies all descriptors of bpm.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The processes in it and in those below it.
    pub fn processes(&self) -> Vec<i32> {
        all_processes(&self.path)
    }

    /// Whether nothing lives in it or below it.
    pub fn is_empty(&self) -> bool {
        match read(&self.path.join("cgroup.events")) {
            Some(events) => field(&events, "populated") != Some(1),
            None => self.processes().is_empty(),
        }
    }

    /// Whether another run can have it: nothing is in it, nobody has frozen it, and nothing was killed in it. One whose
    /// `cgroup.kill` was written kills for ever what clone3(2) begins in it
    /// (findings/cgroup-killed-once-kills-what-is-started-in-it.sh).
    pub fn is_as_new(&self) -> bool {
        let is_free = |events: String| ["populated", "frozen"].map(|name| field(&events, name));
        let events = read(&self.path.join("cgroup.events")).map(is_free);
        self.unharmed && matches!(events, Some([Some(0), None | Some(0)]))
    }

    /// Kills all that is in it and below it.
    ///
    /// # Errors
    /// Those of writing to the cgroup's files.
    pub fn kill(&mut self) -> io::Result<()> {
        self.unharmed = false;
        match write(&self.path.join("cgroup.kill"), "1") {
            // Linux before 5.14.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let freeze = self.path.join("cgroup.freeze");
                write(&freeze, "1")?;
                for _ in 0..KILL_ROUNDS {
                    let listed = self.processes();
                    listed.iter().for_each(|pid| kill_frozen(*pid));
                    if listed.is_empty() {
                        break;
                    }
                }
                write(&freeze, "0")
            }
            done => done,
        }
    }

    /// Sets limits; a controller that is not there is an error only where its limit is wanted.
    ///
    /// # Errors
    /// A sentence that names the limit.
    pub fn limit(&self, limits: &Limits) -> Result<(), String> {
        const PERIOD: u64 = 100_000;
        let wanted = [
            ("memory", "memory.max", limits.memory.map(|n| n.to_string())),
            (
                "memory_high",
                "memory.high",
                limits.memory_high.map(|n| n.to_string()),
            ),
            ("tasks", "pids.max", limits.tasks.map(|n| n.to_string())),
            (
                "cpu",
                "cpu.max",
                limits.cpu.map(|cores| {
                    format!("{} {PERIOD}", ((cores * PERIOD as f64) as u64).max(1_000))
                }),
            ),
        ];
        for (key, file, value) in wanted {
            if let Some(value) = value {
                write(&self.path.join(file), &value)
                    .map_err(|e| format!("cannot limit {key}: {}", reason(&e)))?;
            }
        }
        if limits.memory.is_some() {
            // One process of a run that dies takes the others along: half a run serves nobody.
            let _ = write(&self.path.join("memory.oom.group"), "1");
        }
        Ok(())
    }

    /// Its resources until now.
    pub fn usage(&self) -> Usage {
        let read = |file: &str| read(&self.path.join(file));
        let number = |file: &str| read(file)?.trim().parse().ok();
        Usage {
            memory: number("memory.current"),
            peak: number("memory.peak"),
            cpu: read("cpu.stat")
                .and_then(|text| field(&text, "usage_usec"))
                .map(Duration::from_micros),
            oom_kills: read("memory.events").and_then(|text| field(&text, "oom_kill")),
            tasks: number("pids.current"),
        }
    }

    /// Removes it with what is below it. False: something lives in it.
    pub fn remove(&self) -> bool {
        remove(&self.path)
    }
}

/// Sends KILL to a process that was listed in a frozen cgroup: it can't end there, so its number is still its own.
fn kill_frozen(pid: i32) {
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Folder of the cgroup that we are in.
fn own_cgroup() -> Result<PathBuf, String> {
    let read = |path: &str| {
        files::virtual_text(path).map_err(|e| format!("cannot read {path}: {}", reason(&e)))
    };
    let mounts = read("/proc/self/mountinfo")?;
    let (root, mount) = mounts
        .lines()
        .find_map(mounted)
        .ok_or("no cgroup v2 is mounted here")?;
    let groups = read("/proc/self/cgroup")?;
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or("bpm is in no cgroup v2")?;
    // In a container only a part of the tree is mounted.
    let below = Path::new(own)
        .strip_prefix(&root)
        .map_err(|_| format!("bpm's cgroup {own} is not mounted here"))?;
    Ok(mount.join(below))
}

/// Root and mount point of a line of mountinfo that mounts a cgroup v2 (proc_pid_mountinfo(5)).
fn mounted(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    if kind.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = place.split(' ').skip(3);
    let (root, mount) = (fields.next()?, fields.next()?);
    Some((unescaped(root).into(), unescaped(mount).into()))
}

/// `\040` is a blank there.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Lets the children of `base` have controllers; bpm leaves it for a child of its own first, unless it has.
fn hand_on(base: &Path, moved: bool) -> Result<(), String> {
    let have = controllers(base);
    if have.is_empty() {
        return Err("no controllers are delegated to bpm's cgroup".into());
    }
    // The root of the tree may hold processes and hand controllers on; it is the machine's, not ours.
    if !base.join("cgroup.events").exists() {
        return Err("bpm is in the root cgroup".into());
    }
    if !moved {
        let us = std::process::id() as i32;
        if processes(base) != [us] {
            return Err("bpm shares its cgroup with other processes".into());
        }
        let own = base.join(OWN);
        let entered = make(&own).and_then(|_| write(&own.join("cgroup.procs"), &us.to_string()));
        entered.map_err(|e| format!("bpm cannot move into {}: {}", own.display(), reason(&e)))?;
    }
    match enable(base).is_empty() {
        true => Err("controllers cannot be enabled".into()),
        false => Ok(()),
    }
}

/// The controllers of ours that a cgroup has.
fn controllers(folder: &Path) -> Vec<&'static str> {
    let text = read(&folder.join("cgroup.controllers")).unwrap_or_default();
    let have: Vec<&str> = text.split_whitespace().collect();
    CONTROLLERS
        .into_iter()
        .filter(|c| have.contains(c))
        .collect()
}

/// Hands a cgroup's controllers to its children; the ones that they have.
fn enable(folder: &Path) -> Vec<&'static str> {
    let control = folder.join("cgroup.subtree_control");
    let one = |c: &&str| write(&control, &format!("+{c}")).is_ok();
    controllers(folder).into_iter().filter(one).collect()
}

/// False: it is there already.
fn make(folder: &Path) -> io::Result<bool> {
    match fs::create_dir(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        done => done.map(|()| true),
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(file)?
        .write_all(text.as_bytes())
}

/// A file of a cgroup.
fn read(file: &Path) -> Option<String> {
    files::virtual_text(file).ok()
}

fn processes(folder: &Path) -> Vec<i32> {
    let text = read(&folder.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of another pid namespace.
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    // Each folder in it adds a link to its own two.
    let any = fs::metadata(folder).is_ok_and(|m| m.nlink() > 2);
    let entries = any.then(|| files::entries(folder));
    entries
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
}

fn all_processes(folder: &Path) -> Vec<i32> {
    let mut found = processes(folder);
    below(folder).for_each(|child| found.extend(all_processes(&child)));
    found
}

fn remove(folder: &Path) -> bool {
    let gone = || match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(e) => e.kind() == ErrorKind::NotFound,
    };
    // Seldom is anything below it.
    gone() || {
        below(folder).for_each(|child| {
            remove(&child);
        });
        gone()
    }
}

/// The number behind a name in a file of lines `NAME NUMBER`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ended, eventually, shell};
    use super::*;

    /// None where this machine lets nobody make cgroups.
    fn groups(name: &str) -> Option<Groups> {
        Groups::open(&format!("test-{name}-{}", std::process::id()))
            .map_err(|why| eprintln!("skipped: {why}"))
            .ok()
    }

    #[test]
    fn mount_of_version_2_is_found() {
        let line =
            "33 25 0:28 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:9 - cgroup2 cgroup rw";
        let found = Some(("/".into(), "/sys/fs/cgroup/uni fied".into()));
        assert_eq!(mounted(line), found);
        assert_eq!(
            mounted("32 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"),
            None
        );
    }

    #[test]
    fn kill_ends_what_left_its_session_and_lost_its_environment() {
        let Some(groups) = groups("kill") else { return };
        let mut group = groups.make("run-a-1").unwrap();
        assert!(group.is_as_new());
        // It begins nothing before it is in its group: that would live on.
        let child = shell(
            "until grep -q run-a-1 /proc/self/cgroup; do :; done
             env -i setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000",
            &[],
        );
        write(
            &group.path.join("cgroup.procs"),
            &child.child.pid().to_string(),
        )
        .unwrap();
        assert!(!group.is_empty() && !group.is_as_new());
        assert!(group.processes().contains(&child.child.pid()));
        eventually("all have begun", || {
            (group.processes().len() >= 4).then_some(())
        });
        assert!(!groups.make("run-a-1").unwrap().is_empty());
        group.kill().unwrap();
        ended(child.child.pid());
        eventually("nothing is in it", || group.is_empty().then_some(()));
        assert!(!group.is_as_new());
        assert!(group.remove());
        assert!(groups.names().is_empty());
        groups.close();
    }

    #[test]
    fn limits_of_absent_controllers_are_named() {
        let Some(groups) = groups("limit") else {
            return;
        };
        let group = groups.make("run-b-1").unwrap();
        let limits = Limits {
            memory: Some(64 << 20),
            ..Limits::default()
        };
        match groups.controls("memory") {
            true => assert_eq!(group.limit(&limits), Ok(())),
            false => assert!(
                group
                    .limit(&limits)
                    .unwrap_err()
                    .starts_with("cannot limit memory: ")
            ),
        }
        assert!(group.remove());
        groups.close();
    }
}
