//! Finds the daemon of a project and judges it. Everything that looks at a daemon uses this judgement.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::{Error, Failure, Result, named};
use crate::base::json::object;
use crate::base::paths::{ProjectDir, State};
use crate::client::connection::{
    CallError, Client, PATIENCE, PROTOCOL_VERSION, VERSION, is_own_fault, own_fault,
};
use crate::os::inotify::PathWatch;
use crate::os::lock::{self, Lock};
use crate::os::net::dial;
use crate::os::{files, peer, proc};

/// `daemon.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The daemon's.
    pub pid: i32,
    /// Its kernel start time, so that a recycled pid is told apart.
    pub process_start: u64,
    /// Of the daemon's life.
    pub instance_id: String,
    /// The project's root.
    pub project: String,
    /// The daemon's version.
    pub version: String,
    /// [`PROTOCOL_VERSION`] of the daemon.
    pub protocol_version: u64,
    /// [`MIN_CLIENT_VERSION`] of the daemon.
    pub min_client_version: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// `/mcp` over TCP, if there is TCP.
    pub url: Option<String>,
    /// RFC 3339.
    pub started_at: String,
    /// The binary that it runs.
    pub exe: String,
    /// The root's; None: an earlier version wrote it.
    pub folder: Option<FolderId>,
}

/// The folder of a project, however its path changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderId {
    pub device: u64,
    pub inode: u64,
}

impl FolderId {
    /// Of the folder that has that path now.
    pub fn of(path: &Path) -> Option<Self> {
        let folder = std::fs::metadata(path).ok()?;
        let (device, inode) = (folder.dev(), folder.ino());
        Some(Self { device, inode })
    }
}

impl Descriptor {
    /// The project's folder, which has this path, is not there any more, or another one has its path.
    pub fn is_folder_gone(&self, root: &Path) -> bool {
        let now = FolderId::of(root);
        now.is_none() || self.folder.is_some() && self.folder != now
    }

    /// Reads `daemon.json`; None: there is none that makes sense.
    pub fn read(path: &Path) -> Option<Self> {
        Self::parse(&files::read_named(path).ok()?.0)
    }

    /// The same, told from one that can't be read.
    ///
    /// # Errors
    /// This process may not read it, or has no descriptors or memory left.
    pub fn find(dir: &ProjectDir) -> Result<Option<Self>> {
        match files::read_named(&dir.descriptor()) {
            Ok((bytes, _)) => Ok(Self::parse(&bytes)),
            Err(e) if is_own_fault(&e) => Err(cannot_look(dir, e)),
            Err(_) => Ok(None),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let needed = [
            "instance_id",
            "project",
            "version",
            "min_client_version",
            "socket",
            "started_at",
        ];
        if !needed.iter().all(|key| value[*key].is_string()) {
            return None;
        }
        value["protocol_version"].as_u64()?;
        let pid = i32::try_from(value["pid"].as_i64()?).ok()?;
        let folder = (
            value["root"]["device"].as_u64(),
            value["root"]["inode"].as_u64(),
        );
        let mut descriptor = Self::of(&value, pid, value["process_start"].as_u64()?);
        if let (Some(device), Some(inode)) = folder {
            descriptor.folder = Some(FolderId { device, inode });
        }
        Some(descriptor)
    }

    /// Of what a daemon says of itself, as far as it does.
    fn of(said: &Value, pid: i32, process_start: u64) -> Self {
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_string();
        Self {
            pid,
            process_start,
            instance_id: text("instance_id"),
            project: text("project"),
            version: text("version"),
            protocol_version: said["protocol_version"].as_u64().unwrap_or_default(),
            min_client_version: text("min_client_version"),
            socket: text("socket").into(),
            url: said["url"].as_str().map(String::from),
            started_at: text("started_at"),
            exe: text("exe"),
            folder: None,
        }
    }

    /// As it stands in the file.
    pub fn to_json(&self) -> Value {
        let root = match self.folder {
            Some(FolderId { device, inode }) => object([
                ("path", self.project.as_str().into()),
                ("device", device.into()),
                ("inode", inode.into()),
            ]),
            None => Value::Null,
        };
        object([
            ("pid", self.pid.into()),
            ("process_start", self.process_start.into()),
            ("instance_id", self.instance_id.as_str().into()),
            ("project", self.project.as_str().into()),
            ("version", self.version.as_str().into()),
            ("protocol_version", self.protocol_version.into()),
            (
                "min_client_version",
                self.min_client_version.as_str().into(),
            ),
            ("socket", self.socket.to_string_lossy().into()),
            ("url", self.url.as_deref().into()),
            ("started_at", self.started_at.as_str().into()),
            ("exe", self.exe.as_str().into()),
            ("root", root),
        ])
    }

    /// This bpm can talk to that daemon.
    ///
    /// # Errors
    /// It is too old for it, or the other way round.
    pub fn speaks(&self) -> Result<()> {
        speaks(
            &self.version,
            &self.min_client_version,
            self.protocol_version,
        )
    }
}

/// This bpm can talk to a daemon that says this of itself.
///
/// # Errors
/// It is too old for it, or the other way round.
pub fn speaks(theirs: &str, min_client_version: &str, protocol_version: u64) -> Result<()> {
    let ours = VERSION;
    let what = "talk to the daemon";
    if numbers(ours) < numbers(min_client_version) {
        let why = format!(
            "bpm {ours} is too old for this daemon ({theirs}): install {theirs}, or run \"bpm upgrade\" with it"
        );
        return Err(Error::cannot(what, why));
    }
    if protocol_version != PROTOCOL_VERSION {
        let why = format!(
            "it is bpm {theirs}, this is bpm {ours}, and they do not understand each other"
        );
        let hint = "\"bpm daemon restart\" starts this version";
        return Err(Error::cannot(what, why).with_hint(hint));
    }
    Ok(())
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split(['.', '-', '+'])
        .map_while(|part| part.parse().ok())
        .collect()
}

/// The state of a project's daemon.
#[derive(Debug)]
pub enum Verdict {
    /// Lock held, hello answered.
    Running(Descriptor, Client),
    /// Lock held, no answer within [`PATIENCE`].
    Unhealthy(Option<Descriptor>),
    /// Lock free, but a descriptor is left.
    Stale(Descriptor),
    /// Neither lock nor descriptor.
    Stopped,
}

impl Verdict {
    /// As in answers.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running(..) => "running",
            Self::Unhealthy(_) => "unhealthy",
            Self::Stale(_) => "stale",
            Self::Stopped => "stopped",
        }
    }

    /// Of which daemon.
    pub fn descriptor(self) -> Option<Descriptor> {
        match self {
            Self::Running(descriptor, _) | Self::Stale(descriptor) => Some(descriptor),
            Self::Unhealthy(descriptor) => descriptor,
            Self::Stopped => None,
        }
    }
}

/// Judges the daemon of a project, and is connected to it where it runs.
///
/// # Errors
/// The daemon runs, but this bpm can't talk to it; or nothing can be learnt of it, since this process may not
/// ask, or has no descriptors or memory left ([`Failure::CannotAsk`]): that is no verdict.
pub fn judge(dir: &ProjectDir, kind: &str) -> Result<Verdict> {
    let until = Mono::now().after(PATIENCE);
    let mut watch: Option<PathWatch> = None;
    is_ours(dir)?;
    loop {
        let descriptor = Descriptor::find(dir)?;
        let answer = match &descriptor {
            Some(descriptor) => {
                let left = until.since(Mono::now());
                Client::connect(&descriptor.socket, kind, left).map(|client| (descriptor, client))
            }
            None => Err(CallError::Lost("it has no descriptor".into())),
        };
        // A daemon that answers holds the lock: nobody else could have its socket. So the lock is looked at only
        // where there is no answer, and a healthy daemon costs one round trip.
        let refused = match answer {
            Ok((found, client)) => {
                // On a full disk the file of the daemon before stands, and names the socket of this one.
                let is_its_own = client.greeting()["instance_id"] == found.instance_id.as_str();
                let own = client
                    .owner()
                    .filter(|_| !is_its_own)
                    .and_then(|pid| describe(dir, pid, found.socket.clone(), client.greeting()));
                let descriptor = own.unwrap_or_else(|| found.clone());
                descriptor.speaks()?;
                return Ok(Verdict::Running(descriptor, client));
            }
            Err(refused) => refused,
        };
        if !Lock::probe(&dir.lock()).map_err(|e| cannot_look(dir, e))? {
            // Read again: a daemon that ends in order removes it before it releases the lock, and another one may
            // have been started in between.
            let now = Descriptor::find(dir)?;
            match now {
                None => return Ok(Verdict::Stopped),
                Some(now) if descriptor.as_ref() == Some(&now) => return Ok(Verdict::Stale(now)),
                Some(_) if until.since(Mono::now()).is_zero() => {}
                Some(_) => continue,
            }
        }
        if let CallError::Unable(why) = refused {
            return Err(Failure::CannotAsk { why }.into());
        }
        if descriptor.is_none()
            && let Some(verdict) = undescribed(dir, kind, until)?
        {
            if let Verdict::Running(descriptor, _) = &verdict {
                descriptor.speaks()?;
            }
            return Ok(verdict);
        }
        let left = until.since(Mono::now());
        if left.is_zero() {
            let holder = || {
                let pid = lock::holder(&dir.lock())?;
                describe(dir, pid, socket_of(dir, pid), &Value::Null)
            };
            return Ok(Verdict::Unhealthy(descriptor.or_else(holder)));
        }
        // Somebody starts or stops at this moment; either ends with a change in the folder. The watch begins
        // before the next look, so that a change in between is not missed.
        match &watch {
            None => watch = Some(PathWatch::of(dir.path()).map_err(|e| cannot_look(dir, e))?),
            Some(watch) => {
                watch.wait(left).map_err(|e| cannot_look(dir, e))?;
            }
        }
    }
}

/// Where others may make folders beside ours, one of them may have made this one, with a daemon that is none in it.
///
/// # Errors
/// Whose it is.
pub fn is_ours(dir: &ProjectDir) -> Result<()> {
    let us = peer::our_uid();
    match std::fs::symlink_metadata(dir.path()) {
        Ok(there) if us != 0 && !peer::is_us(there.uid()) => {
            let why = format!("it belongs to user {}", peer::user_name(there.uid()));
            Err(Error::cannot(named("use", dir.path()), why)
                .with_hint("set BPM_HOME to a folder that nobody else may write"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn cannot_look(dir: &ProjectDir, e: io::Error) -> Error {
    if is_own_fault(&e) {
        let why = own_fault(&e);
        return Failure::CannotAsk { why }.into();
    }
    Error::file("look at", &dir.lock(), e).with_hint("set BPM_HOME to a folder that you may write")
}

/// A daemon whose `daemon.json` was lost, found by its lock or its socket: described by itself, or where
/// it does not answer, by what the kernel knows. None: nobody listens there.
fn undescribed(dir: &ProjectDir, kind: &str, until: Mono) -> Result<Option<Verdict>> {
    let socket = match lock::holder(&dir.lock()) {
        Some(pid) => socket_of(dir, pid),
        None => dir.socket(None, peer::our_uid()),
    };
    let owned = dial(&socket, until.since(Mono::now())).and_then(|stream| {
        let owner = peer::unix_owner(&stream)?;
        Ok((stream, owner))
    });
    let (stream, pid) = match owned {
        Ok((stream, (pid, uid))) if peer::is_us(uid) => (stream, pid),
        Err(e) if is_own_fault(&e) => return Err(cannot_look(dir, e)),
        Ok(_) | Err(_) => return Ok(None),
    };
    Ok(match Client::greet(stream, kind, until) {
        Ok(client) => describe(dir, pid, socket, client.greeting())
            .map(|descriptor| Verdict::Running(descriptor, client)),
        Err(CallError::TimedOut) => {
            Some(Verdict::Unhealthy(describe(dir, pid, socket, &Value::Null)))
        }
        Err(CallError::Unable(why)) => return Err(Failure::CannotAsk { why }.into()),
        // It leaves at this moment.
        Err(CallError::Lost(_) | CallError::Refused { .. }) => None,
    })
}

/// A daemon that lives and can't be found by its files, since they are gone, or hidden by another file system: it holds
/// the lock of the project's folder, or is the parent of the project's processes, and has this project's lock file open.
pub fn hidden(dir: &ProjectDir, root: &Path) -> Option<Descriptor> {
    let marker = format!("{}/", dir.marker());
    let marked = proc::find_marked(&marker).into_iter().map(|p| p.ppid);
    let mut pids = lock::holder(root).into_iter().chain(marked);
    let lock = dir.lock();
    let home = dir.path().parent().unwrap_or(Path::new("/"));
    let lock = lock.strip_prefix(home).unwrap_or(&lock);
    let is_ours = |pid: &i32| {
        let owned = proc::owner(*pid).is_some_and(|uid| uid == peer::our_uid());
        owned && proc::has_open(*pid, lock) && keeps_its_state_in(*pid, dir)
    };
    let pid = pids.find(is_ours)?;
    describe(dir, pid, socket_of(dir, pid), &Value::Null)
}

/// Whether the bpm with that pid has this folder of state, by the environment that it was started in.
pub fn keeps_its_state_in(pid: i32, dir: &ProjectDir) -> bool {
    let home = State::locate(&|name| proc::variable(pid, name).map(OsString::from_vec));
    home.is_ok_and(|home| dir.path().parent() == Some(home.path()))
}

/// Where the daemon with that pid listens, by the environment that it was started in.
fn socket_of(dir: &ProjectDir, pid: i32) -> PathBuf {
    let runtime = proc::variable(pid, "XDG_RUNTIME_DIR").map(OsString::from_vec);
    dir.socket(runtime.as_deref(), peer::our_uid())
}

/// A descriptor made of what the daemon says of itself, if it does, and of what the kernel knows. None: it has ended.
fn describe(dir: &ProjectDir, pid: i32, socket: PathBuf, said: &Value) -> Option<Descriptor> {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let mut descriptor = Descriptor::of(said, pid, proc::start_time(pid)?);
    descriptor.socket = socket;
    descriptor.exe = exe.display().to_string();
    if descriptor.project.is_empty() {
        descriptor.project = dir.path().display().to_string();
    }
    Some(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Descriptor {
        Descriptor {
            pid: 12,
            process_start: 34,
            instance_id: "ab".into(),
            project: "/p".into(),
            version: "0.5.0".into(),
            protocol_version: PROTOCOL_VERSION,
            min_client_version: "0.1.0".into(),
            socket: "/s".into(),
            url: None,
            started_at: "2026-11-21T02:46:50.123Z".into(),
            exe: "/usr/bin/bpm".into(),
            folder: Some(FolderId {
                device: 5,
                inode: 6,
            }),
        }
    }

    #[test]
    fn a_descriptor_comes_back_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("bpm-descriptor-{}", std::process::id()));
        let written = descriptor();
        std::fs::write(&path, written.to_json().to_string()).unwrap();
        assert_eq!(Descriptor::read(&path), Some(written));
        std::fs::write(&path, "{\"pid\": 1}").unwrap();
        assert_eq!(Descriptor::read(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Descriptor::read(&path), None);
    }

    #[test]
    fn an_old_client_is_told_so() {
        let mut d = descriptor();
        assert_eq!(d.speaks(), Ok(()));
        d.min_client_version = "99.0".into();
        let said = d.speaks().unwrap_err().to_string();
        assert!(
            said.ends_with(
                "is too old for this daemon (0.5.0): install 0.5.0, or run \"bpm upgrade\" with it"
            ),
            "{said}"
        );
        d.min_client_version = "0.0.9".into();
        d.protocol_version += 1;
        assert!(d.speaks().is_err());
    }
}
