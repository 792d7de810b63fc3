//! Pure: no system call, no thread, no clock.
//!
//! What a changed file changes: which processes need a swap, which only take new
//! settings, which nothing at all.

use std::sync::Arc;

use super::{Command, Config, EnvFile, PortWish, Probe, Process};
use crate::base::paths::fnv1a_64;

/// Old against new, names in the order of the new file (removed ones: of the old).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// What runs was started with other settings: swap it.
    pub changed: Vec<String>,
    /// Only settings that apply to what runs (see [`resolved_hash`]): take them over, touch nothing.
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
    resolved_hash(old) != resolved_hash(new)
}

/// The settings a run is started (and built) with, as a number that is the same in each daemon and on
/// each machine: FNV-1a over a canonical form. A run whose number is still the same is taken back after
/// the daemon's death, and left alone by a reload.
///
/// In it: `type`, `args`, `command`, `build`, `build_release`, `package`, `bin`, `features`,
/// `cargo_args`, `mode`, `cwd`, `env`, `env_file` (the names; not what is in them), `port`, `listen`,
/// `color`, `limits`, and whether a probe needs `NOTIFY_SOCKET`. Not in it, since they apply to what runs
/// already: `build_timeout_seconds`, `autostart`, `restart`, `start_limit_*`, `stop_*`, `depends_on`,
/// `swap`, `ready`, `health`, `watch`, `log_*`.
pub fn resolved_hash(process: &Process) -> u64 {
    // taken apart without `..`, so that a new setting has to be put on one side or the other
    let Process {
        name,
        kind,
        args,
        command,
        build,
        build_release,
        build_timeout: _,
        package,
        bin,
        features,
        cargo_args,
        mode,
        cwd,
        env,
        env_files,
        autostart: _,
        restart: _,
        start_limit: _,
        stop_signal: _,
        stop_timeout: _,
        depends_on: _,
        port,
        listen,
        swap: _,
        ready,
        health,
        watch: _,
        color,
        launch,
        stop_to: _,
        success: _,
        on_event: _,
        log_lines: _,
        log_bytes: _,
        log_runs: _,
        log_disk: _,
    } = process;
    let mut form = Form::default();
    form.text("name", [name]);
    form.text("type", [kind.as_str()]);
    form.text("args", args);
    form.command("command", command.as_ref());
    form.command("build", build.as_ref());
    form.command("build_release", build_release.as_ref());
    form.text("package", package);
    form.text("bin", bin);
    form.text("features", features);
    form.text("cargo_args", cargo_args);
    form.text("mode", mode.map(|m| m.as_str()));
    form.bytes("cwd", [cwd.as_os_str().as_encoded_bytes()]);
    form.text("env", env.iter().flat_map(|(name, value)| [name, value]));
    for EnvFile { path, optional } in env_files {
        let path = path.as_os_str().as_encoded_bytes();
        form.bytes("env_file", [path, &[u8::from(*optional)]]);
    }
    form.text(
        "port",
        port.map(|port| match port {
            PortWish::Auto => "auto".into(),
            PortWish::Fixed(port) => port.to_string(),
        }),
    );
    form.text("listen", listen);
    let probes = [
        ready.as_ref().map(|r| &r.probe),
        health.as_ref().map(|h| &h.probe),
    ];
    let notify = probes.contains(&Some(&Probe::Notify));
    form.text("notify", [notify.to_string()]);
    form.text("color", [color.to_string()]);
    // Its text has every field, and differs where one does.
    form.text("launch", [format!("{launch:?}")]);
    fnv1a_64(&form.0)
}

/// `key`, number of values, each value with its length before it: no two settings have the same bytes.
#[derive(Default)]
struct Form(Vec<u8>);

impl Form {
    fn text<T: AsRef<str>>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<T> = values.into_iter().collect();
        self.bytes(key, values.iter().map(|v| v.as_ref().as_bytes()));
    }

    fn bytes<'v>(&mut self, key: &str, values: impl IntoIterator<Item = &'v [u8]>) {
        let values: Vec<&[u8]> = values.into_iter().collect();
        self.piece(key.as_bytes());
        self.number(values.len());
        for value in values {
            self.piece(value);
        }
    }

    fn piece(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, n: usize) {
        self.0.extend_from_slice(&(n as u64).to_le_bytes());
    }

    fn command(&mut self, key: &str, command: Option<&Command>) {
        match command {
            None => self.text(key, [""; 0]),
            Some(Command::List(words)) => {
                self.text(key, ["list"]);
                self.text(key, words);
            }
            Some(Command::Shell(line)) => self.text(key, ["shell", line]),
        }
    }
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
    fn an_unchanged_file_changes_nothing() {
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

    #[test]
    fn what_a_run_was_started_with_needs_a_swap() {
        for line in [
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
        ] {
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

    #[test]
    fn what_applies_to_a_run_as_it_is_needs_none() {
        for line in [
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
        ] {
            let diff = diff(&with(""), &with(line));
            assert_eq!(diff.adjusted, ["web"], "{line}");
            assert_eq!(diff.unchanged, ["db"], "{line}");
        }
    }

    #[test]
    fn a_settings_number_is_the_same_for_ever() {
        let config = with("port = 80\nenv = { A = \"1\" }\nlimits.nofile = 100");
        assert_eq!(resolved_hash(&config.processes[1]), GOLDEN);
    }

    /// A running process carries such a number over an upgrade: another one would restart it.
    const GOLDEN: u64 = 0x8ed9_a102_46ca_b227;

    #[test]
    fn no_two_settings_look_alike() {
        let hash = |line| resolved_hash(&with(line).processes[1]);
        assert_ne!(hash("args = [\"a\", \"b\"]"), hash("args = [\"ab\"]"));
        assert_ne!(hash("build = [\"a\"]"), hash("build = \"a\""));
        assert_ne!(hash("build = []"), hash(""));
        assert_ne!(hash("env = { A = \"B\" }"), hash("env = { AB = \"\" }"));
    }
}
