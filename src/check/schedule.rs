//! Pure: no system call, no thread, no clock.
//!
//! When a check is due, and what its answers come to. Pure: the supervisor runs the actions, and
//! tells what came of them.
//!
//! A check has at most one attempt under way. A command that is killed since it is late counts as
//! failed at once, and is not followed by another before it is gone.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::clock::{Mono, human};
use crate::base::table::Table;
use crate::build::Expand;
use crate::config::{self, Health, HttpTarget, Probe, Ready};
use crate::lifecycle::RunKey;
use crate::os::notify::NotifyMessage;

/// How long one attempt to see whether a run is ready may take (its `timeout_seconds` is for all of
/// them together): a first request may have to warm up much, and an answer that got lost must not
/// cost the whole time.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The pause after the first attempt at readiness; it doubles up to `interval_seconds`.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

const RELOADS: &str = "it reloads";
const STOPS: &str = "it stops";

/// Names a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckKey {
    /// Of which run.
    pub run: RunKey,
    /// Which of its two.
    pub what: CheckKind,
}

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// `ready`: until it passes once.
    Ready,
    /// `health`: as long as it runs.
    Health,
}

/// What is looked at, with its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A socket.
    Connect(Connect),
    /// A line that matches.
    LogProbe(String),
    /// A command that ends with 0.
    Command(Vec<String>),
    /// What comes over `NOTIFY_SOCKET`.
    Notify,
    /// The time.
    Delay(Duration),
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// A connection is enough.
    Tcp(SocketAddr),
    /// The same, at 127.0.0.1 or else `::1`.
    Port(u16),
    /// A GET has to be answered with 2xx.
    Http(HttpTarget),
}

impl Target {
    /// Of a probe as it stands in the file, for a run whose environment `expand` knows.
    pub fn of(probe: &Probe, expand: Expand<'_>) -> Result<Self, String> {
        Ok(match probe {
            Probe::Tcp(at) => Self::Connect(Connect::Tcp(config::parse_tcp(&expand(at)?)?)),
            Probe::Port => {
                let port = expand("${PORT}")?;
                let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
                Self::Connect(Connect::Port(port))
            }
            Probe::Http(url) => Self::Connect(Connect::Http(config::parse_http(&expand(url)?)?)),
            Probe::Log(pattern) => Self::LogProbe(pattern.clone()),
            Probe::Command(words) => {
                Self::Command(words.iter().map(|w| expand(w)).collect::<Result<_, _>>()?)
            }
            Probe::Notify => Self::Notify,
            Probe::Delay(span) => Self::Delay(*span),
        })
    }
}

/// How often, how long, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one attempt to that of the next.
    pub interval: Duration,
    /// For one attempt.
    pub timeout: Duration,
    /// So many in a row, and it is not healthy.
    pub failures: u32,
}

impl From<&Ready> for Timing {
    fn from(ready: &Ready) -> Self {
        Self {
            interval: ready.interval,
            // Less than for all of them: who hangs is to be told as the reason when that time is over.
            timeout: ATTEMPT.max(ready.interval).min(ready.timeout * 19 / 20),
            failures: 1,
        }
    }
}

impl From<&Health> for Timing {
    fn from(health: &Health) -> Self {
        Self {
            interval: health.interval,
            timeout: health.timeout,
            failures: health.failures.max(1),
        }
    }
}

/// What the supervisor is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Knock there ([`super::Prober::connect`]).
    Connect {
        /// For which check.
        key: CheckKey,
        /// To be named in the answer.
        attempt: u64,
        /// Where.
        connect: Connect,
        /// For how long.
        within: Duration,
    },
    /// Look for a line of the run ([`super::Prober::follow`]).
    Follow {
        /// For which check.
        key: CheckKey,
        /// To be named in the answer.
        attempt: u64,
        /// A regex.
        pattern: String,
    },
    /// Execute, with pipes that [`super::Prober::watch`] reads. Its end goes to
    /// [`super::Prober::ended`]; a failed start to [`Schedule::answer`].
    Run {
        /// For which check.
        key: CheckKey,
        /// To be named in the answer.
        attempt: u64,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// Kill the group of that command; its end is told as ever.
    Kill {
        /// Of which check.
        key: CheckKey,
        /// Which.
        attempt: u64,
    },
    /// Give up what was asked ([`super::Prober::forget`]).
    Forget {
        /// Of which check.
        key: CheckKey,
    },
    /// It is so. For readiness once, when it is; for health whenever it changes.
    Tell {
        /// Of which check.
        key: CheckKey,
        /// Ready, or healthy.
        good: bool,
        /// What the last attempt saw.
        saw: String,
    },
}

/// All checks of all runs.
#[derive(Debug, Default)]
pub struct Schedule {
    checks: Table<CheckKey, Check>,
}

#[derive(Debug)]
struct Check {
    target: Target,
    rhythm: Timing,
    state: State,
    attempt: u64,
    /// In a row.
    failed: u32,
    told: Option<bool>,
    saw: Option<String>,
    /// What the process says of itself (STATUS).
    says: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The next attempt is due then.
    Due(Mono),
    /// An attempt is under way; a command is killed at `until` (who knocks minds the time itself).
    Asked { began: Mono, until: Option<Mono> },
    /// A command was killed and is not gone yet.
    Killed { began: Mono },
    /// Nothing to do: it will be told, or it is over.
    Rests,
}

impl Schedule {
    /// Begins a check: readiness at the start of the run, health once it is good.
    pub fn watch(&mut self, key: CheckKey, target: Target, rhythm: Timing, now: Mono) {
        let first = match (&target, key.what) {
            (Target::Notify, CheckKind::Ready) => State::Rests,
            (Target::Delay(span), _) => State::Due(now.after(*span)),
            (_, CheckKind::Ready) => State::Due(now),
            (_, CheckKind::Health) => State::Due(now.after(rhythm.interval)),
        };
        let check = Check {
            target,
            rhythm,
            state: first,
            attempt: 0,
            failed: 0,
            told: None,
            saw: None,
            says: None,
        };
        self.checks.insert(key, check);
    }

    /// Ends the checks of a run.
    pub fn forget(&mut self, run: RunKey, out: &mut Vec<Action>) {
        for what in [CheckKind::Ready, CheckKind::Health] {
            let key = CheckKey { run, what };
            if let Some(check) = self.checks.remove(&key) {
                out.extend(check.given_up(key));
            }
        }
    }

    /// When [`Schedule::step`] has something to do, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.checks.values().filter_map(Check::deadline).min()
    }

    /// Does what is due.
    pub fn step(&mut self, now: Mono, out: &mut Vec<Action>) {
        for (key, check) in self.checks.iter_mut() {
            match check.state {
                State::Due(at) if at <= now => check.begin(*key, now, out),
                State::Asked {
                    began,
                    until: Some(until),
                } if until <= now => check.late(*key, began, out),
                State::Due(_) | State::Asked { .. } | State::Killed { .. } | State::Rests => {}
            }
        }
    }

    /// What came of an attempt: what was seen, good or bad. One that nobody waits for changes nothing.
    pub fn answer(
        &mut self,
        key: CheckKey,
        attempt: u64,
        result: Result<String, String>,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        let Some(check) = self.checks.get_mut(&key).filter(|c| c.attempt == attempt) else {
            return;
        };
        match check.state {
            State::Asked { began, .. } => {
                check.count(key, result, out);
                check.pause(key, began, now);
            }
            State::Killed { began } => check.pause(key, began, now),
            State::Due(_) | State::Rests => {}
        }
    }

    /// What a run said over `NOTIFY_SOCKET`.
    pub fn notified(
        &mut self,
        run: RunKey,
        notice: &NotifyMessage,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        for what in [CheckKind::Ready, CheckKind::Health] {
            let key = CheckKey { run, what };
            if let Some(check) = self.checks.get_mut(&key)
                && check.target == Target::Notify
            {
                check.notified(key, notice, now, out);
            }
        }
    }

    /// What is worth a word of a run: why it is not ready yet, why it is not healthy, else what it says
    /// of itself.
    pub fn words(&self, run: RunKey) -> Option<String> {
        let of = |what| self.checks.get(&CheckKey { run, what });
        let (ready, health) = (of(CheckKind::Ready), of(CheckKind::Health));
        if let Some(check) = health.filter(|c| c.failed > 0) {
            let saw = check.saw.as_deref().unwrap_or_default();
            return Some(match check.failed {
                1 => format!("its health check failed: {saw}"),
                n => format!("its health check failed {n} times: {saw}"),
            });
        }
        let open = ready.filter(|c| c.told.is_none());
        open.and_then(|c| c.saw.clone())
            .or_else(|| ready.or(health).and_then(|c| c.says.clone()))
    }
}

impl Check {
    fn deadline(&self) -> Option<Mono> {
        match self.state {
            State::Due(at) => Some(at),
            State::Asked { until, .. } => until,
            State::Killed { .. } | State::Rests => None,
        }
    }

    fn begin(&mut self, key: CheckKey, now: Mono, out: &mut Vec<Action>) {
        self.attempt += 1;
        let attempt = self.attempt;
        let within = self.rhythm.timeout;
        let mut until = None;
        match &self.target {
            Target::Connect(connect) => out.push(Action::Connect {
                key,
                attempt,
                connect: connect.clone(),
                within,
            }),
            Target::LogProbe(pattern) => out.push(Action::Follow {
                key,
                attempt,
                pattern: pattern.clone(),
            }),
            Target::Command(command) => {
                until = Some(now.after(within));
                out.push(Action::Run {
                    key,
                    attempt,
                    command: command.clone(),
                });
            }
            Target::Notify => {
                let silent = format!("no WATCHDOG=1 within {}", human(self.rhythm.interval));
                self.count(key, Err(silent), out);
                return self.pause(key, now, now);
            }
            Target::Delay(span) => {
                self.count(key, Ok(format!("{} are over", human(*span))), out);
                return self.pause(key, now, now);
            }
        }
        self.state = State::Asked { began: now, until };
    }

    /// A command takes too long.
    fn late(&mut self, key: CheckKey, began: Mono, out: &mut Vec<Action>) {
        let attempt = self.attempt;
        out.push(Action::Kill { key, attempt });
        self.state = State::Killed { began };
        let late = format!("no end within {}, killed", human(self.rhythm.timeout));
        self.count(key, Err(late), out);
    }

    /// An attempt counts.
    fn count(&mut self, key: CheckKey, result: Result<String, String>, out: &mut Vec<Action>) {
        let passed = result.is_ok();
        let saw = result.unwrap_or_else(|why| why);
        self.saw = Some(saw.clone());
        self.failed = if passed {
            0
        } else {
            self.failed.saturating_add(1)
        };
        let good = match key.what {
            CheckKind::Ready => passed.then_some(true),
            CheckKind::Health if passed => Some(true),
            CheckKind::Health => (self.failed >= self.rhythm.failures).then_some(false),
        };
        if good.is_some() && good != self.told {
            self.told = good;
            let good = passed;
            out.push(Action::Tell { key, good, saw });
        }
    }

    /// An attempt that began then is over: when is the next?
    fn pause(&mut self, key: CheckKey, began: Mono, now: Mono) {
        let over = match key.what {
            CheckKind::Ready => self.told.is_some() || matches!(self.target, Target::LogProbe(_)),
            CheckKind::Health => false,
        };
        if over {
            self.state = State::Rests;
            return;
        }
        let steps = self.failed.saturating_sub(1).min(16);
        let interval = match (&self.target, key.what) {
            // Cheap to ask, and every start waits for the answer.
            (Target::Connect(_), CheckKind::Ready) => {
                (FIRST_PAUSE * (1 << steps)).min(self.rhythm.interval)
            }
            _ => self.rhythm.interval,
        };
        self.state = State::Due(began.after(interval).max(now));
    }

    fn notified(
        &mut self,
        key: CheckKey,
        notice: &NotifyMessage,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        let says = |name: &str| notice.get(name) == Some("1");
        let words = match notice.get("STATUS") {
            Some(status) => Some(status.chars().take(200).collect::<String>()),
            None if says("RELOADING") => Some(RELOADS.into()),
            None if says("STOPPING") => Some(STOPS.into()),
            None => None,
        };
        if words.is_some() {
            self.says.clone_from(&words);
        } else if says("READY") && matches!(self.says.as_deref(), Some(RELOADS | STOPS)) {
            self.says = None;
        }
        let alive = match key.what {
            CheckKind::Ready => says("READY"),
            CheckKind::Health => says("READY") || says("WATCHDOG"),
        };
        if alive {
            let said = if says("READY") {
                "READY=1"
            } else {
                "WATCHDOG=1"
            };
            self.count(key, Ok(words.unwrap_or_else(|| said.into())), out);
            self.pause(key, now, now);
        } else if key.what == CheckKind::Health && notice.get("WATCHDOG") == Some("trigger") {
            self.failed = self.rhythm.failures;
            self.count(key, Err("WATCHDOG=trigger".into()), out);
        } else if words.is_some() {
            self.saw = words;
        }
    }

    /// What is left to undo when nobody waits any more.
    fn given_up(self, key: CheckKey) -> Option<Action> {
        let State::Asked { .. } = self.state else {
            return None;
        };
        match self.target {
            Target::Command(_) => Some(Action::Kill {
                key,
                attempt: self.attempt,
            }),
            Target::Connect(_) | Target::LogProbe(_) => Some(Action::Forget { key }),
            Target::Notify | Target::Delay(_) => None,
        }
    }
}

/// `WATCHDOG_USEC` for a process whose health check is `notify`: how long it may be silent.
pub fn watchdog_usec(health: &Health) -> Option<u128> {
    let silence = health.interval * health.failures.max(1);
    (health.probe == Probe::Notify).then_some(silence.as_micros())
}

/// What a run said that bpm does not follow, in words for its log.
pub fn ignored(notice: &NotifyMessage) -> Option<String> {
    let pid = notice.get("MAINPID")?;
    Some(format!(
        "MAINPID={pid:?} is ignored: bpm watches the process that it started"
    ))
}

#[cfg(test)]
mod tests;
