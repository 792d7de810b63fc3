//! What a changed file changes: which processes need a swap, which only take new settings, which nothing at all.

use super::{Command, Config, EnvFile, PortWish, Probe, Process};
use crate::paths::fnv1a_64;

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

/// Compares what two files resolve to: a default written out is no change, and a top-level default that changes counts
/// for each process that uses it. A change of `direnv` changes the environment of all.
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
    let is_gone = |p: &&Process| new.processes.iter().all(|n| n.name != p.name);
    let gone = old.processes.iter().filter(is_gone);
    diff.removed = gone.map(|p| p.name.clone()).collect();
    diff
}

/// Whether a process that runs as `old` must be swapped to be `new`.
pub fn needs_restart(old: &Process, new: &Process) -> bool {
    resolved_hash(old) != resolved_hash(new)
}

/// The settings a run is started (and built) with, as a number that is the same in each daemon and on each machine: FNV-1a over
/// a canonical form. A run whose number is still the same is taken back after the daemon's death, and left alone by a reload.
///
/// In it: `type`, `args`, `command`, `build`, `build_release`, `package`, `bin`, `features`, `cargo_args`, `mode`, `cwd`, `env`, `env_file`
/// (the names; not what is in them), `port`, `listen`, `color`, `limits`, and whether a probe needs `NOTIFY_SOCKET`.
/// Not in it, since they apply to what runs already: `build_timeout_seconds`, `autostart`, `restart`, `start_limit_*`, `stop_*`,
/// `depends_on`, `swap`, `ready`, `health`, `watch`, `log_*`.
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
        start_limit_burst: _,
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
        limit_nofile,
        limit_core,
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
    form.text("nofile", limit_nofile.map(|n| n.to_string()));
    form.text("core", limit_core.map(|n| n.to_string()));
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
