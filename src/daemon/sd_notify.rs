//! The environment of bpm's start: variables for bpm, for its processes, and of systemd.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::base::table::sort;
use crate::config::inherit::{agent, is_callers, is_poor};
use crate::engine::supervisor::Manager;
use crate::os::notify;

/// An environment.
#[derive(Debug, Clone, Default)]
pub struct Env(pub Vec<(OsString, OsString)>);

impl Env {
    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .iter()
            .find(|(n, value)| n == name && !value.is_empty())
            .map(|(_, value)| value.as_os_str())
    }

    /// Without what belongs to the call that started us (mcp-run(5), "ENVIRONMENT"). What direnv set stays: only direnv
    /// can take it back.
    pub fn for_children(&self) -> Vec<(OsString, OsString)> {
        let ours = |name: &OsStr| name.to_str().is_some_and(is_callers);
        self.0.iter().filter(|(n, _)| !ours(n)).cloned().collect()
    }

    /// The agent that started us, and whether the environment is poor: in words, where there is something to say.
    pub fn caller(&self) -> Option<String> {
        let names = self.0.iter().filter_map(|(name, _)| name.to_str());
        let names: Vec<&str> = names.collect();
        let by = agent(&names).map(|agent| format!("by {agent}"));
        let poor = is_poor(&names).then(|| {
            let rest = names.iter().copied();
            let mut rest: Vec<&str> = rest
                .filter(|n| !is_callers(n) && !n.starts_with("BPM_"))
                .collect();
            sort(&mut rest, Ord::cmp);
            format!("poor environment: {} alone", rest.join(", "))
        });
        let words: Vec<String> = by.into_iter().chain(poor).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// The names of the descriptors that a service manager has handed on to this process, 3 and on (sd_listen_fds(3)).
pub fn handed_on(env: &Env) -> Vec<String> {
    let text = |name| env.get(name).and_then(OsStr::to_str);
    let ours = text("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = text("LISTEN_FDS").filter(|_| ours);
    let count = count.and_then(|n| n.parse().ok()).unwrap_or(0_u16);
    let names = text("LISTEN_FDNAMES").unwrap_or_default().split(':');
    let names = names
        .map(Into::into)
        .chain(std::iter::repeat(String::new()));
    names.take(count.into()).collect()
}

/// sd_notify(3), where systemd waits for it; silent elsewhere.
#[derive(Debug, Clone, Default)]
pub struct SdNotify {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
    status: Option<String>,
}

impl SdNotify {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn new(env: &Env) -> Self {
        let number = |name| env.get(name)?.to_str()?.parse::<u64>().ok();
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self {
            socket: env.get("NOTIFY_SOCKET").map(OsStr::to_os_string),
            // Half of what systemd allows, as sd_watchdog_enabled(3) advises.
            watchdog: number("WATCHDOG_USEC")
                .filter(|usec| meant && *usec > 0)
                .map(|usec| Duration::from_micros(usec / 2)),
            status: None,
        }
    }
}

impl Manager for SdNotify {
    fn tell(&mut self, message: &str) {
        if let Some(socket) = &self.socket {
            // systemd that does not listen is systemd's concern.
            let _ = notify::send(socket, message);
        }
    }

    fn status(&mut self, words: &dyn Fn() -> String) {
        if self.socket.is_none() {
            return;
        }
        let words = words();
        if self.status.as_ref().is_some_and(|before| *before != words) {
            self.tell(&format!("STATUS={words}"));
        }
        self.status = Some(words);
    }

    fn store(&mut self, name: &str, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        self.clone()
            .tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
        if !fds.is_empty() {
            // Not watched for hanging up: a listener of Unix that was never connected to does.
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
            let _ = notify::send_with(socket, &text, fds);
        }
    }

    fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env(pairs.iter().map(|(n, v)| (n.into(), v.into())).collect())
    }

    #[test]
    fn children_do_not_get_what_is_meant_for_us() {
        let all = env(&[
            ("PATH", "/bin"),
            ("NOTIFY_SOCKET", "/x"),
            ("WATCHDOG_USEC", "1"),
            ("LISTEN_FDS", "1"),
            ("BPM_DISABLE_DAEMON", "1"),
            ("BPM_ID", "outer"),
            ("BPM_HOME", "/h"),
        ]);
        let names: Vec<_> = all.for_children().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["PATH", "BPM_HOME"]);
        assert_eq!(all.get("PATH"), Some(OsStr::new("/bin")));
        assert_eq!(env(&[("A", "")]).get("A"), None);
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_needed() {
        let sd_notify = SdNotify::new(&env(&[("WATCHDOG_USEC", "3000000")]));
        assert_eq!(sd_notify.watchdog(), Some(Duration::from_millis(1500)));
        let other = SdNotify::new(&env(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "1")]));
        assert_eq!(other.watchdog(), None);
    }
}
