//! Where logs come from: the daemon, or where there is none, what is on disk.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::client::connection::{self, CallError, Client};
use crate::client::offline::Offline;
use crate::client::verdict::{Verdict, judge};
use crate::daemon::{Project, judge_lasting};
use crate::server::rpc::STOPPING;

use super::{cannot_ask, no_daemon, tell};

/// The outcome of asking a daemon.
pub(super) enum Asked<T> {
    /// It answered, or could not.
    Answer(std::result::Result<T, CallError>),
    /// It does not run as it should.
    Nobody(Box<Verdict>),
}

/// Asks the daemon. One that ended after its hello is waited for, and whoever runs then is asked.
///
/// # Errors
/// Nothing can be learnt of the daemon.
pub(super) fn ask<T>(
    project: &Project,
    verdict: Verdict,
    call: &mut dyn FnMut(&mut Client) -> std::result::Result<T, CallError>,
) -> Result<Asked<T>> {
    let Verdict::Running(_, mut client) = verdict else {
        return Ok(Asked::Nobody(Box::new(verdict)));
    };
    let answer = call(&mut client);
    if !answer.as_ref().is_err_and(has_ended) {
        return Ok(Asked::Answer(answer));
    }
    Ok(match judge_lasting(project, "cli")? {
        Verdict::Running(_, mut client) => Asked::Answer(call(&mut client)),
        verdict => Asked::Nobody(Box::new(verdict)),
    })
}

/// The daemon has ended, or is about to.
pub(super) fn has_ended(fault: &CallError) -> bool {
    match fault {
        CallError::Lost(_) => true,
        CallError::Refused { code, .. } => *code == STOPPING,
        CallError::Unable(_) | CallError::TimedOut => false,
    }
}

/// The source of log lines.
pub(super) enum Source {
    /// The daemon.
    Daemon(Client),
    /// Nobody but the disk; why a daemon that is there can't be asked.
    Disk(Offline, Option<Error>),
}

impl Source {
    /// Asks the source of these processes, or of all; where a daemon ended before it answered, whoever comes after it.
    ///
    /// # Errors
    /// There is neither a daemon nor anything on disk.
    pub(super) fn ask<T, E>(
        project: &Project,
        what: &str,
        named: &[String],
        has_ended: fn(&E) -> bool,
        call: &mut dyn FnMut(&mut Self) -> std::result::Result<T, E>,
    ) -> Result<(Self, std::result::Result<T, E>)> {
        let mut source = Self::judged(judge(&project.dir, "cli"), project, what, named)?;
        let mut answer = call(&mut source);
        if answer.as_ref().is_err_and(has_ended) {
            source = Self::judged(judge_lasting(project, "cli"), project, what, named)?;
            answer = call(&mut source);
        }
        Ok((source, answer))
    }

    fn judged(
        verdict: Result<Verdict>,
        project: &Project,
        what: &str,
        named: &[String],
    ) -> Result<Self> {
        let verdict = match verdict {
            Ok(Verdict::Running(_, client)) => return Ok(Self::Daemon(client)),
            Err(error) if !cannot_ask(&error) => return Err(error),
            verdict => verdict,
        };
        let stored = Offline::open(&project.root, &project.dir, named)?;
        if stored.has_logs() && matches!(verdict, Ok(Verdict::Stopped | Verdict::Stale(_))) {
            return Ok(Self::Disk(stored, None));
        }
        let error = match verdict {
            Ok(verdict) => no_daemon(what, project, &verdict),
            Err(error) => error,
        };
        if !stored.has_logs() {
            return Err(error);
        }
        tell(format_args!("{error}; what follows is on disk"));
        Ok(Self::Disk(stored, Some(error)))
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
