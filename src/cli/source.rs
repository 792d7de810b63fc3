//! Where logs come from: the daemon, or where there is none, what is on disk.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::client::connection::{self, CallError, Client};
use crate::client::offline::Offline;
use crate::client::verdict::{Verdict, judge};
use crate::daemon::Project;

use super::spec::Call;
use super::{cannot_ask, no_daemon, note};

/// The source of log lines.
pub(super) enum Source {
    /// The daemon.
    Daemon(Client),
    /// Nobody but the disk; why a daemon that is there can't be asked.
    Disk(Offline, Option<Error>),
}

impl Source {
    /// Of these processes, or of all.
    ///
    /// # Errors
    /// There is neither a daemon nor anything on disk.
    pub(super) fn of(call: &Call, what: &str, named: &[String]) -> Result<(Project, Self)> {
        let project = call.project()?;
        let (error, is_down) = match judge(&project.dir, "cli") {
            Ok(Verdict::Running(_, client)) => return Ok((project, Self::Daemon(client))),
            Ok(verdict) => {
                let is_down = !matches!(verdict, Verdict::Unhealthy(_));
                (no_daemon(what, &project, &verdict), is_down)
            }
            Err(error) if cannot_ask(&error) => (error, false),
            Err(error) => return Err(error),
        };
        let stored = Offline::open(&project.root, &project.dir, named)?;
        if !stored.has_logs() {
            return Err(error);
        }
        if is_down {
            return Ok((project, Self::Disk(stored, None)));
        }
        note(&format!("bpm: {error}; what follows is on disk\n"));
        Ok((project, Self::Disk(stored, Some(error))))
    }

    /// The exit code of who has shown what there is.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Disk(_, Some(error)) if cannot_ask(error) => 1,
            Self::Disk(..) | Self::Daemon(_) => 0,
        }
    }

    /// `bpm/follow` without following: each of its notifications, and its result.
    pub(super) fn past(
        &mut self,
        params: &Value,
        each: &mut dyn FnMut(Value),
    ) -> std::result::Result<Value, CallError> {
        let client = match self {
            Self::Daemon(client) => client,
            Self::Disk(stored, _) => return stored.call("bpm/follow", params, each),
        };
        let id = client.send("bpm/follow", params.clone())?;
        loop {
            let Some(message) = client.receive(None)? else {
                continue;
            };
            if let Some(result) = connection::result_of(&message, id) {
                return result;
            }
            each(message);
        }
    }
}
