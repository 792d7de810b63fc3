//! `bpm install`: a systemd unit that runs the project's daemon. `bpm uninstall` takes it away.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::error::{Error, Result, named};
use crate::base::escape::in_line;
use crate::base::paths::{self, CONFIG_FILE};
use crate::client::connection::VERSION;
use crate::client::verdict::{Verdict, judge};
use crate::config::Config;
use crate::daemon::{self, Env, Force, Project, read_config};
use crate::os::files;
use crate::os::peer::{our_uid, user_name};
use crate::os::run::{Output, run};

use super::export::systemd::{exec_line, unit_name};
use super::export::{Word, systemd_text, systemd_word};
use super::spec::Call;
use super::{answer, note, pid_behind, print};

/// bpm needs this time to end everything, beyond the stop timeouts.
const MARGIN: Duration = Duration::from_secs(15);
/// `systemctl` answers within that; a start waits until the daemon serves.
const PATIENCE: Duration = Duration::from_secs(120);
/// Since this version a new main process may be put into a cgroup of its own (`DelegateSubgroup=`).
const SUBGROUPS: u32 = 254;
/// Variables that say where bpm and its programs are.
const KEPT: [&str; 3] = ["PATH", "BPM_HOME", "XDG_STATE_HOME"];

/// A unit file.
pub(super) struct Unit {
    /// `bpm-shop.service`.
    pub(super) name: String,
    pub(super) text: String,
}

/// The manager that runs the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    System,
    User,
}

impl Manager {
    /// Where its units are.
    fn folder(self, env: &Env) -> Result<PathBuf> {
        if self == Self::System {
            return Ok("/etc/systemd/system".into());
        }
        let config = env.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.filter(|folder| folder.is_absolute());
        let home = || env.get("HOME").map(|home| Path::new(home).join(".config"));
        match config.or_else(home) {
            Some(folder) => Ok(folder.join("systemd/user")),
            None => Err(Error::cannot("find the folder of units", "HOME is not set")),
        }
    }

    /// `systemctl`, for a person to type.
    fn command(self) -> &'static str {
        match self {
            Self::System => "systemctl",
            Self::User => "systemctl --user",
        }
    }

    /// The socket by which `systemctl` reaches it.
    fn socket(self, env: &Env) -> PathBuf {
        match self {
            Self::System => "/run/systemd/private".into(),
            Self::User => runtime(env).join("systemd/private"),
        }
    }

    fn systemctl(self, env: &Env, args: &[&str]) -> std::result::Result<Output, String> {
        let mut all: Vec<&str> = Vec::new();
        let mut env = env.0.clone();
        if self == Self::User {
            all.push("--user");
            if !env.iter().any(|(name, _)| name == "XDG_RUNTIME_DIR") {
                let folder = runtime(&Env(Vec::new()));
                env.push(("XDG_RUNTIME_DIR".into(), folder.into()));
            }
        }
        all.extend(args);
        run("systemctl", &all, &env, Path::new("/"), PATIENCE)
    }

    /// The same, where it must succeed.
    fn order(self, env: &Env, args: &[&str]) -> Result<()> {
        let what = || format!("run \"{} {}\"", self.command(), args.join(" "));
        match self.systemctl(env, args) {
            Ok(output) if output.code == Some(0) => Ok(()),
            Ok(output) => {
                let last = output.err.lines().next_back().unwrap_or("it failed");
                let hint = "\"journalctl -e\", with --user for a user unit, may say more";
                Err(Error::cannot(what(), last).with_hint(hint))
            }
            Err(why) => Err(Error::cannot(what(), why)),
        }
    }
}

/// The user's runtime folder.
fn runtime(env: &Env) -> PathBuf {
    let named = env.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| format!("/run/user/{}", our_uid()).into())
}

/// The managers of this user, the first one before the other: root's is the system's.
fn managers() -> &'static [Manager] {
    match our_uid() {
        0 => &[Manager::System, Manager::User],
        _ => &[Manager::User],
    }
}

/// The unit that runs a project. `account`: whom it runs as.
pub(super) fn unit(
    project: &Project,
    config: &Config,
    user: bool,
    account: Option<&str>,
) -> Result<Unit> {
    let binary = std::env::current_exe().map_err(|e| Error::system("tell where bpm is", e))?;
    let binary = binary.display().to_string();
    let binary = binary.trim_end_matches(" (deleted)");
    let root = project.root.to_str().ok_or_else(|| {
        let why = "its path has bytes that are no text, which no unit can have";
        Error::cannot(format!("write a unit for {}", project.shown()), why)
            .with_hint("rename the folder")
    })?;
    let command = |words: &[&str]| {
        let mut line = vec![binary.to_string()];
        line.extend(words.iter().map(|word| (*word).to_string()));
        exec_line(&line)
    };
    let patience = stop_time(config).saturating_add(MARGIN);
    let mut text = format!(
        "# Written by bpm {VERSION} for {}/{CONFIG_FILE}\n\
         # Use: bpm install does it all; bpm uninstall takes it away.\n\
         [Unit]\n\
         Description=bpm: {}\n\
         After=network.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={}\n\
         ExecReload={}\n\
         # \"always\" would undo a \"bpm stop\".\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         # bpm ends all of its processes when it is stopped; those of a bpm that was killed are for the next one to adopt.\n\
         KillMode=process\n\
         TimeoutStopSec={}\n\
         WatchdogSec=60\n\
         # Where bpm keeps listeners and terminals over its own restarts.\n\
         FileDescriptorStoreMax=1024\n\
         OOMPolicy=continue\n\
         Delegate=yes\n",
        in_line(root),
        systemd_text(&project.name()),
        command(&["serve", root]),
        command(&["-C", root, "reload"]),
        patience.as_secs().saturating_add(1),
    );
    text.push_str(match version(&project.env) {
        Some(version) if version >= SUBGROUPS => "DelegateSubgroup=bpm\n",
        _ => "# DelegateSubgroup=bpm is for systemd 254 and newer.\n",
    });
    if let Some(account) = account {
        text.push_str(&format!("User={}\n", systemd_text(account)));
    }
    if !user && account.is_none() {
        text.push_str("ProtectKernelModules=yes\nProtectKernelLogs=yes\n");
    }
    text.push_str(
        "# Nothing that implies NoNewPrivileges=: sudo and ssh-agent would fail below it.\n",
    );
    for (name, value) in kept(project, account) {
        let pair = format!("{name}={}", value.to_string_lossy());
        text.push_str(&format!(
            "Environment={}\n",
            systemd_word(&pair, Word::Plain)
        ));
    }
    let target = match user {
        true => "default.target",
        false => "multi-user.target",
    };
    text.push_str(&format!("\n[Install]\nWantedBy={target}\n"));
    Ok(Unit {
        name: name_of(project),
        text,
    })
}

/// The longest that a stop of all can take: what depends on a process ends before it.
fn stop_time(config: &Config) -> Duration {
    let all = &config.processes;
    let mut times: Vec<Duration> = all.iter().map(|p| p.stop_timeout).collect();
    let mut grows = true;
    while std::mem::take(&mut grows) {
        for (number, process) in all.iter().enumerate() {
            for need in &process.depends_on {
                let Some(other) = all.iter().position(|p| p.name == need.name) else {
                    continue;
                };
                let time = times[number].saturating_add(all[other].stop_timeout);
                grows |= time > times[other];
                times[other] = times[other].max(time);
            }
        }
    }
    times.into_iter().max().unwrap_or_default()
}

/// systemd's version here.
fn version(env: &Env) -> Option<u32> {
    let said = run(
        "systemctl",
        &["--version"],
        &env.0,
        Path::new("/"),
        PATIENCE,
    );
    said.ok()?.out.split_whitespace().nth(1)?.parse().ok()
}

/// The account that `--user` names.
fn account(call: &Call) -> Result<Option<&str>> {
    let Some(name) = call.text("user")? else {
        return Ok(None);
    };
    let cannot = |why: &str| Error::cannot(format!("install for {name:?}"), why);
    if our_uid() != 0 {
        let hint = "\"sudo bpm install --user NAME\"; without --user it is installed for you";
        return Err(cannot("only root may, and this is not root").with_hint(hint));
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = users.lines().any(|line| {
        let mut fields = line.split(':');
        fields.next() == Some(name) || fields.nth(1) == Some(name)
    });
    match known {
        true => Ok(Some(name)),
        false => {
            let hint = "\"getent passwd\" lists all users";
            Err(cannot("there is no such user").with_hint(hint))
        }
    }
}

/// The file of the project's unit, where it would be, and whether that one is of this project.
fn place(manager: Manager, project: &Project) -> Result<(PathBuf, Option<bool>)> {
    let path = manager.folder(&project.env)?.join(name_of(project));
    let there = fs::read_to_string(&path).ok();
    let root = project.root.display().to_string();
    let root = format!(" for {}/{CONFIG_FILE}", in_line(&root));
    let ours = there.map(|text| {
        let first = text.lines().next().unwrap_or_default();
        first.starts_with("# Written by bpm ") && first.ends_with(&root)
    });
    Ok((path, ours))
}

/// `bpm install`.
pub(super) fn install(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let config = read_config(&project.root)?;
    let account = account(call)?;
    let runs = |manager: &&Manager| manager.socket(&project.env).exists();
    let found = managers().iter().find(runs).copied();
    let user = match found {
        Some(manager) => manager == Manager::User,
        None => our_uid() != 0,
    } && account.is_none();
    let unit = unit(&project, &config, user, account)?;
    if call.has("dry-run") {
        return answer(&unit.text);
    }
    let manager = match (account, found) {
        (Some(_), Some(Manager::System)) | (None, Some(_)) => found.unwrap_or(Manager::System),
        (_, _) => return without_systemd(&project, &unit, account),
    };
    let (path, ours) = place(manager, &project)?;
    if ours == Some(false) {
        let why = "it is there already, and not of this project";
        return Err(Error::cannot(named("write", &path), why)
            .with_hint("rename the project's folder, or remove that unit"));
    }
    make_room(call, &project, manager, &unit.name)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|e| Error::file("make", folder, e))?;
    files::write_atomic(&path, unit.text.as_bytes(), 0o644)
        .map_err(|e| Error::file("write", &path, e))?;
    manager.order(&project.env, &["daemon-reload"])?;
    manager.order(&project.env, &["enable", &unit.name])?;
    manager.order(&project.env, &["start", &unit.name])?;
    let name = manager.command();
    print(format_args!(
        "wrote {}\nit runs, and starts with the machine: \"{name} status {}\"\n",
        path.display(),
        unit.name
    ))?;
    if manager == Manager::User && !lingers() {
        note("it ends when you log out: \"loginctl enable-linger\" keeps it running\n");
    }
    Ok(0)
}

/// A daemon that runs outside the unit is stopped, once the person agrees.
fn make_room(call: &Call, project: &Project, manager: Manager, name: &str) -> Result<()> {
    let running = match judge(&project.dir, "cli")? {
        Verdict::Stopped | Verdict::Stale(_) => return Ok(()),
        verdict => verdict.descriptor(),
    };
    let of_unit = manager.systemctl(&project.env, &["show", "-P", "MainPID", name]);
    let of_unit = of_unit.ok().and_then(|said| said.out.trim().parse().ok());
    if running.as_ref().is_some_and(|d| Some(d.pid) == of_unit) {
        return Ok(());
    }
    let pid = pid_behind(running.as_ref());
    let why = format!(
        "a daemon runs already{pid}: it and its processes are stopped, and started again by systemd"
    );
    if call.has("yes") {
        note(format_args!("{why}\n"));
    } else if !io::stdin().is_terminal() {
        return Err(Error::cannot("install", why).with_hint("--yes agrees to that"));
    } else {
        note(format_args!("{why}\nGo on? [y/N] "));
        if !is_confirmed() {
            return Err(Error::cannot("install", "it was not confirmed"));
        }
    }
    daemon::stop(project, Force::IfUnhealthy, None, &mut |line| {
        note(format_args!("{line}\n"))
    })?;
    Ok(())
}

/// The person has typed a yes. A terminal gives one line in one read.
fn is_confirmed() -> bool {
    let mut line = [0; 64];
    let read = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stdin| File::from(stdin).read(&mut line));
    let typed = line[..read.unwrap_or(0)].trim_ascii();
    typed.eq_ignore_ascii_case(b"y") || typed.eq_ignore_ascii_case(b"yes")
}

/// Somebody else has to start it: what would.
fn without_systemd(project: &Project, unit: &Unit, account: Option<&str>) -> Result<u8> {
    let binary = paths::quoted(&std::env::current_exe().unwrap_or_default());
    let root = paths::quoted(&project.root);
    let name = unit.name.trim_end_matches(".service");
    let user = account.map(|user| paths::quoted(Path::new(user)));
    let as_user = user.map_or(String::new(), |user| format!("chpst -u {user} "));
    let mut env = String::new();
    for (name, value) in kept(project, account) {
        env.push_str(&format!("{name}={} ", paths::quoted(Path::new(value))));
    }
    print(format_args!(
        "# runit: /etc/sv/{name}/run\n#!/bin/sh\nexec 2>&1\n{env}exec {as_user}{binary} serve {root}\n\n\
         # or cron: a line for \"crontab -e\"\n@reboot {}\n",
        format!("{env}{binary} -d {root}").replace('%', "\\%")
    ))?;
    Err(
        Error::cannot("install", "no systemd runs here that this user can reach")
            .with_hint("use what is printed above; --dry-run prints the unit of systemd"),
    )
}

/// The variables that a daemon is started with: another user has folders of their own.
fn kept<'a>(
    project: &'a Project,
    account: Option<&str>,
) -> impl Iterator<Item = (&'static str, &'a OsStr)> {
    let own = account.is_none();
    let names = KEPT.into_iter().filter(move |name| *name == "PATH" || own);
    names.filter_map(|name| Some((name, project.env.get(name)?)))
}

/// Units of this user run on after the last logout.
pub(super) fn lingers() -> bool {
    let name = user_name(our_uid());
    Path::new("/var/lib/systemd/linger").join(name).exists()
}

/// The file of the unit that runs this project for its user, if it is installed.
pub(super) fn unit_of_user(project: &Project) -> Option<PathBuf> {
    let (path, ours) = place(Manager::User, project).ok()?;
    (ours == Some(true)).then_some(path)
}

fn name_of(project: &Project) -> String {
    format!("bpm-{}.service", unit_name(&project.name()))
}

/// `bpm uninstall`.
pub(super) fn uninstall(call: &Call) -> Result<u8> {
    let project = call.project()?;
    for manager in managers() {
        let (path, ours) = place(*manager, &project)?;
        if ours != Some(true) {
            continue;
        }
        if call.has("dry-run") {
            return answer(format_args!("would stop and remove {}\n", path.display()));
        }
        let runs = || manager.socket(&project.env).exists();
        if runs() {
            let name = name_of(&project);
            manager.order(&project.env, &["disable", "--now", &name])?;
        }
        fs::remove_file(&path).map_err(|e| Error::file("remove", &path, e))?;
        if runs() {
            manager.order(&project.env, &["daemon-reload"])?;
        }
        return answer(format_args!("stopped it and removed {}\n", path.display()));
    }
    answer("it is not installed\n")
}
