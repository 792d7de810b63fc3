//! Starting a daemon from a process that has threads, which a fork does not allow: another bpm is executed for it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::clock::Wall;
use crate::base::error::{Error, Result};
use crate::client::connection::Client;
use crate::client::offline::Offline;
use crate::client::proxy::Connect;
use crate::client::verdict::{Verdict, judge};
use crate::engine::state_file::State;
use crate::os::poll::readable;
use crate::os::proc;
use crate::os::spawn::{Launch, spawn};

use super::lock::unhealthy;
use super::project::Project;
use super::start::read_config;
use super::stop::judge_lasting;

/// The hidden command `bpm __start ROOT NAME...`: `bpm -d ROOT`, but of the processes only these are started, and
/// what they depend on.
pub const START: &str = "__start";

/// The proxy's name for itself.
const KIND: &str = "proxy";
/// A daemon that was found or started may be stopped before we are connected: so often another one is tried.
const ATTEMPTS: usize = 5;
/// The most that is read of its output: more than a person would.
const MOST: usize = 16 << 10;

/// Finds a project, whose folder or configuration may not be there yet.
pub type Locate = Box<dyn Fn() -> Result<Project> + Send + Sync>;

/// Connects to the daemon of a project, and starts it if none runs.
pub struct Launcher {
    locate: Locate,
    /// The binary that is executed.
    image: PathBuf,
}

impl Launcher {
    /// `image`: the path by which this bpm was started. What it names by then is executed, and the file that runs
    /// here only where nothing has that name any more.
    pub fn new(locate: Locate, image: PathBuf) -> Self {
        Self { locate, image }
    }

    /// Executes `bpm -d`, or [`START`] with names, and waits for its end.
    ///
    /// # Errors
    /// The output of the program.
    fn launch(&self, project: &Project, only: &[String]) -> Result<()> {
        let cannot = |why: String| Error::cannot("start the daemon", why);
        let program = match self.image.exists() {
            true => &self.image,
            false => Path::new("/proc/self/exe"),
        };
        let verb = if only.is_empty() { "-d" } else { START };
        let names = only.iter().map(OsString::from);
        let args: Vec<OsString> = [verb.into(), project.root.clone().into()]
            .into_iter()
            .chain(names)
            .collect();
        let (env, cwd) = (&project.env.0, &project.root);
        let spawned = spawn(&Launch {
            argv0: Some(self.image.as_os_str()),
            ..Launch::new(program.as_os_str(), &args, env, cwd)
        })
        .map_err(|e| cannot(e.to_string()))?;
        let [_, said] = [spawned.stdout, spawned.stderr].map(read_all);
        // However long it takes: it was started here, so it is reaped here.
        let child = spawned.child;
        let _ = child.wait(Duration::MAX);
        match child.reap().map(|death| death.end) {
            Ok(end) if end.is_success() => Ok(()),
            _ if said.trim().is_empty() => Err(cannot("it ended without a message".into())),
            _ => Err(cannot(
                said.trim()
                    .trim_start_matches("bpm: ")
                    .replace("\nbpm: ", "\n"),
            )),
        }
    }
}

impl Connect for Launcher {
    fn find(&self) -> Result<Option<Client>> {
        let project = (self.locate)()?;
        match judge_lasting(&project, KIND)? {
            Verdict::Running(_, client) => Ok(Some(client)),
            Verdict::Stale(_) | Verdict::Stopped => Ok(None),
            Verdict::Unhealthy(descriptor) => Err(unhealthy(&project, descriptor.as_ref())),
        }
    }

    fn start(&self, only: &[String]) -> Result<Client> {
        for _ in 0..ATTEMPTS {
            if let Some(client) = self.find()? {
                return Ok(client);
            }
            self.launch(&(self.locate)()?, only)?;
        }
        Err(Error::cannot("reach the daemon", "it was stopped at once"))
    }

    fn stopped(&self) -> Option<String> {
        let project = (self.locate)().ok()?;
        let stopped = State::look(&project.dir.state()).stopped?;
        let (at, now) = (local(stopped.at), local(Wall::now()));
        // 2026-11-21 21:30
        let (day, time) = at.split_once(' ')?;
        let when = match now.starts_with(day) {
            true => time.to_string(),
            false => at.clone(),
        };
        let faults = read_config(&project.root).err();
        let first = faults.map_or(String::new(), |why| {
            format!(" once this is repaired: {why}")
        });
        Some(format!(
            "stopped by {:?} at {when}; the tool start starts it{first}",
            stopped.by
        ))
    }

    fn offline(&self) -> Result<Offline> {
        match (self.locate)() {
            Ok(project) => Offline::open(&project.root, &project.dir, &[]),
            Err(_) => Offline::nowhere(),
        }
    }

    fn is_this_process(&self) -> bool {
        false
    }
}

/// Local time to the minute.
fn local(at: Wall) -> String {
    let stamp = at.log_stamp(proc::local_offset(at.0.div_euclid(1000)));
    stamp.chars().take("2026-11-21 21:30".len()).collect()
}

/// Connects to the daemon that this process is.
pub struct Ourselves(pub Project);

impl Connect for Ourselves {
    fn find(&self) -> Result<Option<Client>> {
        match judge(&self.0.dir, KIND)? {
            Verdict::Running(_, client) => Ok(Some(client)),
            Verdict::Unhealthy(_) | Verdict::Stale(_) | Verdict::Stopped => {
                Err(Error::cannot("reach bpm", "it is stopping"))
            }
        }
    }

    fn start(&self, _: &[String]) -> Result<Client> {
        Err(Error::cannot("reach bpm", "it is stopping"))
    }

    fn stopped(&self) -> Option<String> {
        None
    }

    fn offline(&self) -> Result<Offline> {
        Offline::open(&self.0.root, &self.0.dir, &[])
    }

    fn is_this_process(&self) -> bool {
        true
    }
}

/// All that comes until the other end is closed.
fn read_all(pipe: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    let mut file = File::from(pipe);
    while readable([Some(file.as_fd())], None).is_ok() {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) if text.len() < MOST => text.extend_from_slice(&chunk[..n]),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
