//! Where logs come from: the daemon, or where there is none, what is on disk.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::client::connection::{self, CallError, Client};
use crate::client::verdict::{Verdict, judge};
use crate::daemon::Project;

use super::spec::Call;
use super::stored::Stored;
use super::{no_daemon, note};

/// Who knows the lines.
pub(super) enum Source {
    /// The daemon.
    Daemon(Client),
    /// Nobody but the disk; why a daemon that is there can't be asked.
    Disk(Stored, Option<Error>),
}

impl Source {
    /// Of these processes, or of all.
    ///
    /// # Errors
    /// There is neither a daemon nor anything on disk.
    pub(super) fn of(call: &Call, what: &str, named: &[String]) -> Result<(Project, Self)> {
        let project = call.project()?;
        let verdict = match judge(&project.dir, "cli")? {
            Verdict::Running(_, client) => return Ok((project, Self::Daemon(client))),
            verdict => verdict,
        };
        let error = no_daemon(what, &project, &verdict);
        let Some(stored) = Stored::open(&project, named)? else {
            return Err(error);
        };
        let hung = matches!(verdict, Verdict::Unhealthy(_)).then_some(error);
        if let Some(error) = &hung {
            note(&format!("bpm: {error}; what follows is on disk\n"));
        }
        Ok((project, Self::Disk(stored, hung)))
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
