//! Pure: no system call, no thread, no clock.
//!
//! The difference between two readings of the file: processes that need a swap, that only take new settings,
//! and that are the same.

use std::sync::Arc;
use std::time::Duration;

use super::{Config, OnEvent, Probe, Process, Restart, StartLimit, StopTo, Swap};
use crate::base::paths::fnv1a_64;

/// Old against new, names in the order of the new file (removed ones: of the old).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// The run was started with other settings: swap it.
    pub changed: Vec<String>,
    /// Only settings that apply to what runs (see [`needs_restart`]): take them over, touch nothing.
    pub adjusted: Vec<String>,
    /// Only in the new file.
    pub added: Vec<String>,
    /// Only in the old file.
    pub removed: Vec<String>,
    /// The same to the last value.
    pub unchanged: Vec<String>,
}

/// Compares what two files resolve to: a default written out is no change, and a top-level default that
/// changes counts for each process that uses it. A change of `direnv` changes the environment of all.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff::default();
    for process in &new.processes {
        let before = old.processes.iter().find(|p| p.name == process.name);
        let list = match before {
            None => &mut diff.added,
            Some(before) if old.direnv != new.direnv || needs_restart(before, process) => {
                &mut diff.changed
            }
            Some(before) if before != process => &mut diff.adjusted,
            Some(_) => &mut diff.unchanged,
        };
        list.push(process.name.clone());
    }
    let is_gone = |p: &&Arc<Process>| new.processes.iter().all(|n| n.name != p.name);
    let gone = old.processes.iter().filter(is_gone);
    diff.removed = gone.map(|p| p.name.clone()).collect();
    diff
}

/// Whether a process that runs as `old` must be swapped to be `new`.
pub fn needs_restart(old: &Process, new: &Process) -> bool {
    launch_part(old) != launch_part(new)
}

/// The settings that a run is started (and built) with, as a number that is the same in each daemon of this
/// version and on each machine. A run with the same number need not be started again.
pub fn fingerprint(process: &Process) -> u64 {
    // This text has every field, and differs where one does.
    fnv1a_64(format!("{:?}", launch_part(process)).as_bytes())
}

/// A process without the settings that apply to a run as it is: those have fixed values. All others count, so
/// that a setting that is forgotten here costs a restart and is not ignored. And whether a probe needs
/// `NOTIFY_SOCKET` in the environment.
fn launch_part(process: &Process) -> (Process, bool) {
    let probes = [
        process.ready.as_ref().map(|r| &r.probe),
        process.health.as_ref().map(|h| &h.probe),
    ];
    let launch = Process {
        build_timeout: Duration::ZERO,
        autostart: true,
        restart: Restart::Always,
        start_limit: StartLimit {
            burst: 0,
            span: Duration::ZERO,
        },
        stop_signal: 0,
        stop_timeout: Duration::ZERO,
        depends_on: Vec::new(),
        swap: Swap::StopStart,
        ready: None,
        health: None,
        watch: Vec::new(),
        stop_to: StopTo::default(),
        success: Vec::new(),
        on_event: OnEvent::default(),
        log_lines: 0,
        log_bytes: 0,
        log_runs: 0,
        log_disk: 0,
        ..process.clone()
    };
    (launch, probes.contains(&Some(&Probe::Notify)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(text: &str) -> Config {
        crate::config::parse(text, ".mcp-run", Path::new("/home/me/app")).unwrap()
    }

    fn with(lines: &str) -> Config {
        config(&format!(
            "[process.db]\ncommand = [\"db\"]\n[process.web]\ncommand = [\"web\"]\n{lines}\n"
        ))
    }

    #[test]
    fn unchanged_file_changes_nothing() {
        let old = with("port = 80");
        let new = config(
            "# moved and written out\nprocess.web = { port = 80, command = [\"web\"], autostart = true, env = {} }\nprocess.db.command = [\"db\"]\n",
        );
        let diff = diff(&old, &new);
        assert_eq!(diff.unchanged, ["web", "db"]);
        assert_eq!(
            diff,
            Diff {
                unchanged: diff.unchanged.clone(),
                ..Diff::default()
            }
        );
    }

    #[test]
    fn processes_come_and_go() {
        let new = config("[process.web]\ncommand = [\"web\"]\n[process.new]\ncommand = \"new\"\n");
        let diff = diff(&with(""), &new);
        assert_eq!(diff.added, ["new"]);
        assert_eq!(diff.removed, ["db"]);
        assert_eq!(diff.unchanged, ["web"]);
        assert!(diff.changed.is_empty() && diff.adjusted.is_empty());
    }

    /// All keys of a process but those of a type, each with another value than its default.
    const OF_A_START: [&str; 29] = [
        "args = [\"a\"]",
        "build = []",
        "build = \"make\"",
        "build_release = [\"make\"]",
        "mode = \"dev\"",
        "cwd = \"src\"",
        "env = { A = \"1\" }",
        "env_file = \"a\"",
        "env_file = \"a?\"",
        "port = 80",
        "port = \"auto\"",
        "listen = [\"127.0.0.1:80\"]",
        "color = true",
        "ready.notify = true",
        "health.notify = true",
        "limits.nofile = 10",
        "limits.core = 10",
        "limits.memory = \"1M\"",
        "limits.memory_high = \"1M\"",
        "limits.cpu = 2",
        "limits.tasks = 9",
        "unset_env = [\"A\"]",
        "nice = 1",
        "oom_score_adj = 1",
        "umask = \"077\"",
        "user = \"a\"",
        "user = \"a\"\ngroup = \"b\"",
        "stdin = \"open\"",
        "tty = true",
    ];

    #[test]
    fn settings_of_a_start_need_a_swap() {
        for line in OF_A_START {
            let diff = diff(&with(""), &with(line));
            assert_eq!(diff.changed, ["web"], "{line}");
            assert_eq!(diff.unchanged, ["db"], "{line}");
        }
        let rust = |line| config(&format!("[process.web]\ntype = \"rust\"\n{line}\n"));
        for line in [
            "package = \"a\"",
            "bin = \"a\"",
            "features = [\"a\"]",
            "cargo_args = [\"a\"]",
        ] {
            assert_eq!(diff(&rust(""), &rust(line)).changed, ["web"], "{line}");
        }
        let kind = |kind| {
            config(&format!(
                "[process.web]\ntype = \"{kind}\"\ncommand = \"a\"\n"
            ))
        };
        assert_eq!(diff(&kind("npm"), &kind("command")).changed, ["web"]);
        assert_eq!(
            diff(
                &with(""),
                &config(&format!(
                    "direnv = false\n{}",
                    "[process.db]\ncommand = [\"db\"]\n"
                ))
            )
            .changed,
            ["db"]
        );
    }

    const OF_A_RUN: [&str; 20] = [
        "autostart = false",
        "restart = \"never\"",
        "start_limit_burst = 3",
        "start_limit_seconds = 3",
        "stop_signal = \"INT\"",
        "stop_timeout_seconds = 3",
        "depends_on = [\"db\"]",
        "swap = \"overlap\"",
        "ready.tcp = \"127.0.0.1:1\"",
        "health.tcp = \"127.0.0.1:1\"",
        "watch = [\"src/**\"]",
        "build_timeout_seconds = 3",
        "log_lines = 100",
        "log_bytes = \"64K\"",
        "log_runs = 3",
        "log_disk = 0",
        "stop_to = \"group\"",
        "success_exit_codes = [0, 1]",
        "on_event = [\"a\"]",
        "ready = { log = \"a\", settle_seconds = 2 }",
    ];

    #[test]
    fn each_key_is_compared() {
        let all: Vec<&str> = OF_A_START
            .iter()
            .chain(&OF_A_RUN)
            .flat_map(|text| text.lines())
            .collect();
        let rust = [
            "type",
            "command",
            "package",
            "bin",
            "features",
            "cargo_args",
        ];
        for key in crate::config::KEYS
            .iter()
            .filter(|key| key.place == crate::config::Place::Process)
        {
            let tried = all
                .iter()
                .any(|line| line.split([' ', '.']).next() == Some(key.name));
            assert!(tried || rust.contains(&key.name), "{}", key.name);
        }
    }

    #[test]
    fn settings_that_apply_to_a_run_need_no_swap() {
        for line in OF_A_RUN {
            let diff = diff(&with(""), &with(line));
            assert_eq!(diff.adjusted, ["web"], "{line}");
            assert_eq!(diff.unchanged, ["db"], "{line}");
        }
    }

    #[test]
    fn fingerprint_differs_where_a_run_would() {
        let of = |line| fingerprint(&with(line).processes[1]);
        let (plain, other) = ("port = 80", "port = 80\nstop_timeout_seconds = 3");
        assert_eq!(of(plain), of(other));
        for (one, two) in [
            ("args = [\"a\", \"b\"]", "args = [\"ab\"]"),
            ("build = [\"a\"]", "build = \"a\""),
            ("build = []", ""),
            ("env = { A = \"B\" }", "env = { AB = \"\" }"),
        ] {
            assert_ne!(of(one), of(two), "{one}, {two}");
        }
    }

    #[test]
    fn edited_env_file_is_a_change_and_a_comment_in_it_is_none() {
        let read = |text: &'static str| {
            let mut config = with("env_file = \".env?\"");
            config.read_env_files(|_| Some(text.into()));
            config
        };
        let old = read("A=1\n");
        assert_eq!(diff(&old, &read("A=2\n")).changed, ["web"]);
        assert_eq!(diff(&old, &with("env_file = \".env?\"")).changed, ["web"]);
        assert_eq!(
            diff(&old, &read("# a word\nA=1\n")).unchanged,
            ["db", "web"]
        );
    }
}
