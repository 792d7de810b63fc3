//! The second half of an upgrade in place: this program was executed by a bpm that serves, and goes on as it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::lock::Locks;
use super::log::{DaemonLog, Manner};
use super::project::Project;
use super::sd_notify::Env;
use super::start::{Ground, Served, level_of, serve_on};
use crate::base::clock::Mono;
use crate::base::error::{Error, Result};
use crate::base::json::object;
use crate::base::logger::{Level, Logger};
use crate::base::paths::ProjectDir;
use crate::base::saved::field;
use crate::client::connection::VERSION;
use crate::engine::handle::Identity;
use crate::engine::handover::Takeover;
use crate::engine::supervisor::{Supervisor, has_read, saved_config, succeeded};
use crate::os::fds::Nofile;
use crate::os::inotify::PathWatch;
use crate::os::lock::Lock;
use crate::os::reexec::{Inherited, rename_ourselves};
use crate::server::net::{Before, SavedConn};

/// Nothing is written while it is only tried.
struct Silent;

impl Logger for Silent {
    fn write(&self, _: Level, _: &str, _: &str) {}
}

/// Goes on as the bpm that executed us, whose state is behind that descriptor; `dry`: only reads all of it.
///
/// # Errors
/// It can't be read, or the system refuses something. Nothing is stopped then.
pub fn resume(state: RawFd, dry: bool, env: Env) -> Result<u8> {
    let mut inherited = Inherited::take();
    let failed = |why: String| Error::cannot("go on as the daemon before", why);
    let file = inherited.get(state);
    let mut file = File::from(file.ok_or_else(|| failed("its state is not there".into()))?);
    let mut encoded = Vec::new();
    // A device could have no end.
    if !file.metadata().is_ok_and(|about| about.is_file()) {
        return Err(failed("its state is no file".into()));
    }
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut encoded))
        .map_err(|e| Error::system("read the state", e))?;
    drop(file);
    let inherited = (!dry).then_some(inherited);
    let from = Takeover::decode(&encoded, inherited).map_err(failed)?;
    let length = encoded.len();
    drop(encoded);
    if !dry {
        rename_ourselves(c"bpm");
    }
    let code = take_over(from, env).map_err(failed)?;
    if dry {
        let mut out = std::io::stdout();
        let written = out.write_all(has_read(length).as_bytes());
        written.map_err(|e| Error::system("say so", e))?;
    }
    Ok(code)
}

fn take_over(mut from: Takeover, env: Env) -> std::result::Result<u8, String> {
    let daemon: Value = from.get("daemon")?;
    let project = Project {
        root: field(&daemon, "root")?,
        dir: ProjectDir::at(field::<PathBuf>(&daemon, "dir")?),
        env,
    };
    let foreground: bool = field(&daemon, "foreground")?;
    let (config, source) = saved_config(&from, &project.root)?;
    let setup: Value = from.get("setup")?;
    let (soft, hard) = field(&setup, "nofile")?;
    let identity: Identity = from.get("identity")?;
    // It stays over an execve: anybody else has only got hold of the state.
    if !from.is_dry() && identity.pid != std::process::id().cast_signed() {
        return Err(format!("that is pid {}, not this process", identity.pid));
    }
    let log: Arc<dyn Logger>;
    let mut daemon_log = None;
    if from.is_dry() {
        log = Arc::new(Silent);
    } else {
        let manner = match foreground {
            true => Manner::Foreground,
            false => Manner::Resumed,
        };
        let level = level_of(&project.env).map_err(|e| e.to_string())?;
        let opened = DaemonLog::open(&project.dir, manner, level);
        let opened = Arc::new(opened.map_err(|e| e.to_string())?);
        log = Arc::clone(&opened) as Arc<dyn Logger>;
        daemon_log = Some(opened);
    }
    let passes: Option<Vec<u64>> = field(&daemon, "passes")?;
    let mut ground = Ground {
        project: &project,
        nofile: Nofile { soft, hard },
        umask: field(&setup, "umask")?,
        hangs_up: field(&setup, "hangs_up")?,
        idle_shutdown: field(&setup, "idle_shutdown")?,
        config,
        source,
        program: PathBuf::new(),
        killed_before: false,
        fresh: false,
        only: false,
        warnings: field(&setup, "warnings")?,
        identity,
        passes,
        foreground,
    };
    let conns: Vec<SavedConn> = field(&daemon, "connections")?;
    if from.is_dry() {
        ground.identity.pid = std::process::id().cast_signed();
        let (setup, _) = ground.setup(log);
        return Supervisor::restore(setup, &mut from).map(|_| 0);
    }
    let Some(log) = daemon_log else {
        return Err("no log".into());
    };
    let (version, began, program) = succeeded(&from)?;
    ground.program = program;
    let (setup, control) = ground.setup(log.clone());
    let supervisor = Supervisor::restore(setup, &mut from)?;
    let locks = Locks {
        state: Lock::inherited(from.take("lock").ok_or("its lock is gone")?),
        folder: from.take("folder lock").map(Lock::inherited),
        warning: None,
    };
    let mut tcp = Vec::new();
    while let Some(fd) = from.take(&format!("tcp {}", tcp.len())) {
        tcp.push(TcpListener::from(fd));
    }
    let unix = from.take("unix").map(UnixListener::from);
    let conns = conns.into_iter().filter_map(|conn| {
        let fd = from.take(conn.name())?;
        Some((conn, fd))
    });
    let conns = conns.collect();
    let bytes = std::mem::take(&mut from.bytes);
    let watch = from.take("places").map(PathWatch::inherited);
    // Descriptors that nobody took are closed.
    drop(from);
    let before = Before { conns, bytes };
    let took = Mono::now().since(began);
    let served = Served {
        tcp,
        unix,
        locks,
        watch,
        before,
    };
    let processes = supervisor.processes();
    supervisor.handle().set_upgraded(object([
        ("from", version.as_str().into()),
        ("to", VERSION.into()),
        ("pid", ground.identity.pid.into()),
        ("processes", processes.into()),
        ("ms", (took.as_micros() as f64 / 1_000.0).into()),
    ]));
    let mut first = |supervisor: &mut Supervisor| Ok(Some(supervisor.go_on_working(&version)));
    serve_on(
        ground, log, control, supervisor, served, &mut None, &mut first,
    )
    .map_err(|e| e.to_string())
}
