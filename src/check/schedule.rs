//! Pure: no system call, no thread, no clock.
//!
//! When a check is due, and what follows from its results. The supervisor runs the actions and reports
//! their results.
//!
//! A check has at most one attempt under way. A command that is killed since it is late counts as
//! failed at once, and is not followed by another before it is gone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Mono, human};
use crate::base::saved::saved;
use crate::base::table::{Set, Table};
use crate::config::{self, Expand, Health, HttpTarget, Probe, Ready};
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// `ready`: until it passes once.
    Ready,
    /// `health`: as long as the run lives.
    Health,
}

/// Names a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckKey {
    pub run: RunKey,
    pub kind: CheckKind,
}

/// Names one attempt of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub key: CheckKey,
    pub number: u64,
}

/// The result of an attempt; Err: it failed.
pub type Seen = Result<String, String>;

/// A probe with its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Connect(Connect),
    /// A line that matches this pattern.
    Line(String),
    /// A command that ends with 0.
    Command(Vec<String>),
    /// A message over `NOTIFY_SOCKET`.
    Notify,
    Delay(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// Tried in order: a server on `localhost` may have either of its addresses.
    pub addresses: Vec<SocketAddr>,
    /// A GET that has to be answered with 2xx; None: a connection is enough.
    pub get: Option<HttpTarget>,
    /// The process's own port: a listener on it is enough, and is seen without a connection where that can
    /// be. A connection that says nothing is an error to some servers; and the port was free before the start.
    pub own: Option<u16>,
    /// Sockets that listened before the run began: a connection to one of them says nothing of it. None: that can't be
    /// told, or does not matter.
    pub before: Option<Arc<Set<u64>>>,
}

impl Target {
    /// The target of a probe, for a run whose environment `expand` knows.
    pub fn of(probe: &Probe, expand: Expand<'_>) -> Result<Self, String> {
        let connect = |addresses, get| {
            Self::Connect(Connect {
                addresses,
                get,
                ..Connect::default()
            })
        };
        Ok(match probe {
            Probe::Tcp(at) => connect(vec![config::parse_tcp(&expand(at)?)?], None),
            Probe::Port => {
                let port = expand("${PORT}")?;
                let port: u16 = port.parse().map_err(|_| format!("{port:?} is no port"))?;
                let both = [
                    (Ipv4Addr::LOCALHOST, port).into(),
                    (Ipv6Addr::LOCALHOST, port).into(),
                ];
                Self::Connect(Connect {
                    addresses: both.to_vec(),
                    own: Some(port),
                    ..Connect::default()
                })
            }
            Probe::Http(url) => {
                let target = config::parse_http(&expand(url)?)?;
                let mut addresses = vec![target.address];
                if target.host.starts_with("localhost") {
                    addresses.push((Ipv6Addr::LOCALHOST, target.address.port()).into());
                }
                connect(addresses, Some(target))
            }
            Probe::Log(pattern) => Self::Line(pattern.clone()),
            Probe::Command(words) => {
                Self::Command(words.iter().map(|w| expand(w)).collect::<Result<_, _>>()?)
            }
            Probe::Notify => Self::Notify,
            Probe::Delay(span) => Self::Delay(*span),
        })
    }
}

impl Target {
    /// Sockets of before the run are not believed.
    pub fn set_before(&mut self, before: &Option<Arc<Set<u64>>>) {
        if let Self::Connect(connect) = self {
            connect.before.clone_from(before);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one attempt to that of the next.
    pub interval: Duration,
    /// For one attempt.
    pub timeout: Duration,
    /// This many failures in a row make a run unhealthy.
    pub failures: u32,
}

impl From<&Ready> for Timing {
    fn from(ready: &Ready) -> Self {
        Self {
            interval: ready.interval,
            // Less than for all of them: the hanging attempt is to be the reason when that time is over.
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

/// A thing for the supervisor to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// [`super::Prober::connect`], for `within` at most.
    Connect {
        attempt: Attempt,
        connect: Connect,
        within: Duration,
    },
    /// [`super::Prober::follow`] the run's log up to a line that matches.
    Follow { attempt: Attempt, pattern: String },
    /// Execute, with pipes that [`super::Prober::watch`] reads. Its end goes to
    /// [`super::Prober::ended`]; a failed start to [`Schedule::answer`].
    Run {
        attempt: Attempt,
        command: Vec<String>,
    },
    /// Kill the group of the attempt's command, whose end still comes; else [`super::Prober::forget`] it.
    Cancel(Attempt),
    /// The result has changed. Once for readiness, when it passes; `saw` is of the last attempt.
    Tell {
        key: CheckKey,
        good: bool,
        saw: String,
    },
}

/// How far a check is, for an upgrade in place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    failed: u32,
    told: Option<bool>,
    saw: Option<String>,
    says: Option<String>,
    /// When the next attempt is due, where there is to be one.
    due: Option<Mono>,
}

saved! { Standing { failed, told, saw, says, due } }

impl Standing {
    /// It has passed, for now.
    pub fn is_good(&self) -> bool {
        self.told == Some(true)
    }
}

/// All checks of all runs.
#[derive(Debug, Default)]
pub struct Schedule {
    checks: Table<CheckKey, Check>,
    /// The number of the last attempt of all checks: a late answer to a check that was replaced is none
    /// to its successor.
    attempts: u64,
}

#[derive(Debug)]
struct Check {
    target: Target,
    timing: Timing,
    state: State,
    /// The number of the last attempt.
    attempt: u64,
    /// In a row.
    failed: u32,
    told: Option<bool>,
    saw: Option<String>,
    /// The process's own words (STATUS).
    says: Option<String>,
}

/// An attempt's states.
#[derive(Debug, Clone, Copy)]
enum State {
    /// The next one is due then.
    Due(Mono),
    /// It is under way; a command is killed at `until` (a connection has its own time limit).
    Asked { began: Mono, until: Option<Mono> },
    /// Its command was killed and is not gone yet.
    Killed { began: Mono },
    /// None is due: the check waits for a message, or is over.
    Rests,
}

impl Schedule {
    /// Begins a check: readiness at the start of the run, health once it is good.
    pub fn watch(&mut self, key: CheckKey, target: Target, timing: Timing, now: Mono) {
        let state = match (&target, key.kind) {
            (Target::Notify, CheckKind::Ready) => State::Rests,
            (Target::Delay(span), _) => State::Due(now.after(*span)),
            (_, CheckKind::Ready) => State::Due(now),
            (_, CheckKind::Health) => State::Due(now.after(timing.interval)),
        };
        let check = Check {
            target,
            timing,
            state,
            attempt: 0,
            failed: 0,
            told: None,
            saw: None,
            says: None,
        };
        self.checks.insert(key, check);
    }

    /// How far a check is. An attempt that is under way is to be made again.
    pub fn standing(&self, key: CheckKey) -> Option<Standing> {
        let check = self.checks.get(&key)?;
        Some(Standing {
            failed: check.failed,
            told: check.told,
            saw: check.saw.clone(),
            says: check.says.clone(),
            due: match check.state {
                State::Due(at) => Some(at),
                State::Asked { began, .. } | State::Killed { began } => Some(began),
                State::Rests => None,
            },
        })
    }

    /// A check that has just begun goes on from there.
    pub fn go_on(&mut self, key: CheckKey, from: Standing) {
        if let Some(check) = self.checks.get_mut(&key) {
            check.failed = from.failed;
            check.told = from.told;
            check.saw = from.saw;
            check.says = from.says;
            check.state = from.due.map_or(State::Rests, State::Due);
        }
    }

    /// Ends the checks of a run.
    pub fn forget(&mut self, run: RunKey, out: &mut Vec<Action>) {
        for kind in [CheckKind::Ready, CheckKind::Health] {
            let key = CheckKey { run, kind };
            if let Some(check) = self.checks.remove(&key)
                && let State::Asked { .. } = check.state
            {
                out.push(Action::Cancel(check.named(key)));
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
                State::Due(at) if at <= now => {
                    self.attempts += 1;
                    check.attempt = self.attempts;
                    check.begin(*key, now, out);
                }
                State::Asked {
                    began,
                    until: Some(until),
                } if until <= now => check.late(*key, began, out),
                State::Due(_) | State::Asked { .. } | State::Killed { .. } | State::Rests => {}
            }
        }
    }

    /// The result of an attempt. One that was given up changes nothing.
    pub fn answer(&mut self, attempt: Attempt, seen: Seen, now: Mono, out: &mut Vec<Action>) {
        let Attempt { key, number } = attempt;
        let check = self.checks.get_mut(&key);
        let Some(check) = check.filter(|c| c.attempt == number) else {
            return;
        };
        match check.state {
            State::Asked { began, .. } => {
                check.count(key, seen, out);
                check.pause(key, began, now);
            }
            State::Killed { began } => check.pause(key, began, now),
            State::Due(_) | State::Rests => {}
        }
    }

    /// A message of a run over `NOTIFY_SOCKET`.
    pub fn notified(
        &mut self,
        run: RunKey,
        notice: &NotifyMessage,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        for kind in [CheckKind::Ready, CheckKind::Health] {
            let key = CheckKey { run, kind };
            if let Some(check) = self.checks.get_mut(&key)
                && check.target == Target::Notify
            {
                check.notified(key, notice, now, out);
            }
        }
    }

    /// Words about a run: why it is not healthy, why it is not ready yet, else its own status.
    pub fn words(&self, run: RunKey) -> Option<String> {
        let of = |kind| self.checks.get(&CheckKey { run, kind });
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
        let attempt = self.named(key);
        let within = self.timing.timeout;
        let mut until = None;
        out.push(match &self.target {
            Target::Connect(connect) => Action::Connect {
                attempt,
                connect: connect.clone(),
                within,
            },
            Target::Line(pattern) => Action::Follow {
                attempt,
                pattern: pattern.clone(),
            },
            Target::Command(command) => {
                until = Some(now.after(within));
                Action::Run {
                    attempt,
                    command: command.clone(),
                }
            }
            Target::Notify => {
                let silent = format!("no WATCHDOG=1 within {}", human(self.timing.interval));
                self.count(key, Err(silent), out);
                return self.pause(key, now, now);
            }
            Target::Delay(span) => {
                self.count(key, Ok(format!("{} are over", human(*span))), out);
                return self.pause(key, now, now);
            }
        });
        self.state = State::Asked { began: now, until };
    }

    fn named(&self, key: CheckKey) -> Attempt {
        let number = self.attempt;
        Attempt { key, number }
    }

    /// A command takes too long.
    fn late(&mut self, key: CheckKey, began: Mono, out: &mut Vec<Action>) {
        out.push(Action::Cancel(self.named(key)));
        self.state = State::Killed { began };
        let late = format!("no end within {}, killed", human(self.timing.timeout));
        self.count(key, Err(late), out);
    }

    /// Counts the result of an attempt.
    fn count(&mut self, key: CheckKey, seen: Seen, out: &mut Vec<Action>) {
        let passed = seen.is_ok();
        let saw = seen.unwrap_or_else(|why| why);
        self.saw = Some(saw.clone());
        self.failed = if passed {
            0
        } else {
            self.failed.saturating_add(1)
        };
        let good = match key.kind {
            CheckKind::Ready => passed.then_some(true),
            CheckKind::Health if passed => Some(true),
            CheckKind::Health => (self.failed >= self.timing.failures).then_some(false),
        };
        if good.is_some() && good != self.told {
            self.told = good;
            out.push(Action::Tell {
                key,
                good: passed,
                saw,
            });
        }
    }

    /// An attempt that began then is over: decides when the next one is due.
    fn pause(&mut self, key: CheckKey, began: Mono, now: Mono) {
        let over = match key.kind {
            CheckKind::Ready => self.told.is_some() || matches!(self.target, Target::Line(_)),
            CheckKind::Health => false,
        };
        if over {
            self.state = State::Rests;
            return;
        }
        let steps = self.failed.saturating_sub(1).min(16);
        let interval = match (&self.target, key.kind) {
            // Cheap to ask, and every start waits for the answer.
            (Target::Connect(_), CheckKind::Ready) => {
                (FIRST_PAUSE * (1 << steps)).min(self.timing.interval)
            }
            _ => self.timing.interval,
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
        let alive = match key.kind {
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
        } else if key.kind == CheckKind::Health && notice.get("WATCHDOG") == Some("trigger") {
            self.failed = self.timing.failures;
            self.count(key, Err("WATCHDOG=trigger".into()), out);
        } else if words.is_some() {
            self.saw = words;
        } else if notice.get("MAINPID").is_some() && self.saw.is_none() {
            self.saw = Some(ONLY_MAINPID.into());
        }
    }
}

/// Said where a readiness check hears nothing else.
const ONLY_MAINPID: &str = "it said MAINPID and no READY=1 (podman: --sdnotify=conmon says it)";

/// `WATCHDOG_USEC` for a process whose health check is `notify`: how long it may be silent.
pub fn watchdog_usec(health: &Health) -> Option<u128> {
    let silence = health.interval * health.failures.max(1);
    (health.probe == Probe::Notify).then_some(silence.as_micros())
}

/// A message of a run that bpm does not follow, in words for its log.
pub fn ignored(notice: &NotifyMessage) -> Option<String> {
    let pid = notice.get("MAINPID")?;
    Some(format!(
        "MAINPID={pid:?} is ignored: bpm watches the process that it started"
    ))
}

#[cfg(test)]
mod tests;
