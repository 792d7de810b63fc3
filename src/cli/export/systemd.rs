//! systemd: a service for each process, a socket where it has some, and a target for all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Options;
use super::out::{Out, span};
use super::plan::{Check, Plan, Unit, Variable};
use super::quote::{Word, shell, systemd, systemd_folder, systemd_glob, systemd_path, variables};
use crate::base::clock::seconds;
use crate::base::error::{Error, Result};
use crate::cli::is_executable;
use crate::config::{
    Condition, Kind, Listen, Probe, Ready, Restart, StopTo, Success, parse_listen,
};
use crate::os::peer::our_uid;
use crate::os::reap::signal_name;

/// The files.
pub(super) fn files(
    plan: &Plan,
    options: &Options,
    out: &mut Out,
) -> Result<Vec<(String, String)>> {
    let prefix = unit_name(&plan.name);
    let mut files = Vec::new();
    let mut take = |name: String, out: &mut Out| files.push((name, std::mem::take(&mut out.text)));
    let wanted_by = match options.user {
        true => "default.target",
        false => "multi-user.target",
    };
    out.line(0, "[Unit]");
    out.text(0, "Description", &plan.name);
    for unit in plan.units.iter().filter(|unit| unit.wanted) {
        out.put(0, format_args!("Wants={prefix}-{}.service", unit.name()));
    }
    out.line(0, "\n[Install]");
    out.set(0, "WantedBy", wanted_by);
    take(format!("{prefix}.target"), out);
    for unit in &plan.units {
        let name = format!("{prefix}-{}", unit.name());
        service(plan, unit, options, &prefix, out)?;
        take(format!("{name}.service"), out);
        if !unit.process.listen.is_empty() {
            socket(unit, &prefix, out);
            take(format!("{name}.socket"), out);
        }
    }
    Ok(files)
}

/// Of a project's name what the name of a unit may have.
pub(in crate::cli) fn unit_name(project: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let name = project.chars().map(|c| if fine(c) { c } else { '-' });
    // systemctl would take it for an option.
    let name: String = name.skip_while(|c| *c == '-').take(100).collect();
    match name.as_str() {
        "" => "project".into(),
        _ => name,
    }
}

/// `ExecStart=`, as systemd takes the first word apart from the others.
pub(in crate::cli) fn exec_line(command: &[String]) -> String {
    let mut line = String::new();
    let mut words = command;
    if let Some((program, rest)) = command.split_first() {
        // These can't stand in the path of a program, only in an argument; before its name they mean something else.
        let is_odd = |c: char| matches!(c, '"' | '\'' | '\\') || c.is_control();
        if program.contains(is_odd) || program.starts_with(['-', '@', ':', '+', '!', '|']) {
            line.push_str("/usr/bin/env");
        } else {
            line.push_str(&systemd(program, Word::Plain));
            words = rest;
        }
    }
    for word in words {
        line.push(' ');
        line.push_str(&systemd(word, Word::Argument));
    }
    line
}

fn service(plan: &Plan, unit: &Unit, options: &Options, prefix: &str, out: &mut Out) -> Result<()> {
    let process = &unit.process;
    out.line(0, "[Unit]");
    let title = format!("{} of {}", unit.name(), plan.name);
    out.text(0, "Description", &title);
    out.put(0, format_args!("PartOf={prefix}.target"));
    let needs = process.depends_on.iter();
    let mut others: Vec<String> = needs.map(|n| format!("{}.service", n.name)).collect();
    if !process.listen.is_empty() {
        others.push(format!("{}.socket", unit.name()));
    }
    for other in others {
        out.put(0, format_args!("Requires={prefix}-{other}"));
        out.put(0, format_args!("After={prefix}-{other}"));
    }
    match process.start_limit.burst {
        0 => out.set(0, "StartLimitIntervalSec", 0),
        burst => {
            out.set(0, "StartLimitIntervalSec", span(process.start_limit.span));
            out.set(0, "StartLimitBurst", burst);
        }
    }
    out.line(0, "\n[Service]");
    run(plan, unit, options, out)?;
    ready(plan, unit, out);
    stop(plan, unit, out);
    limits(unit, options, out);
    out.lacking(0, unit);
    Ok(())
}

fn run(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) -> Result<()> {
    let process = &unit.process;
    let ready = process.ready.as_ref();
    let is_notify = ready.is_some_and(|r| r.probe == Probe::Notify);
    match process.kind {
        Kind::Task => out.line(0, "Type=oneshot\nRemainAfterExit=yes"),
        Kind::Rust | Kind::Npm | Kind::Command if is_notify => {
            out.line(0, "Type=notify\nNotifyAccess=all");
        }
        Kind::Rust | Kind::Npm | Kind::Command => out.line(0, "Type=exec"),
    }
    if !options.user && our_uid() != 0 && process.launch.user.is_none() {
        out.set(0, "User", our_uid());
    }
    if let Some(build) = &unit.build {
        out.note(0, format_args!("built by: {build}"));
    }
    let folder = systemd_folder(&process.cwd).ok_or_else(|| no_path(&process.cwd))?;
    out.set(0, "WorkingDirectory", folder);
    let mut command = unit.command.clone();
    command[0] = absolute(&command[0], &process.cwd, &plan.path);
    if !command[0].starts_with('/') {
        let program = &command[0];
        out.note(
            0,
            format_args!("{program} was not found where it was exported"),
        );
    }
    out.set(0, "ExecStart", exec_line(&command));
    if !unit.env.iter().any(|v| v.name == "PATH") && !plan.path.is_empty() {
        variable("PATH", &plan.path, out);
    }
    for Variable { name, value, .. } in &unit.env {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let setting = format!("env.{name}");
        if !name.chars().all(fine) || name.starts_with(|c: char| c.is_ascii_digit()) {
            out.gap(0, &setting, "a name has letters, digits and \"_\" only");
        } else if let Some(other) = variables(value).next() {
            let why = format!("it has {other} in it, which systemd does not replace here");
            out.gap(0, &setting, &why);
        } else {
            variable(name, value, out);
        }
    }
    if !unit.secrets.is_empty() {
        let names = unit.secrets.join(", ");
        out.note(
            0,
            format_args!("left out, since the names look secret: {names}"),
        );
        let file = process.cwd.join(format!("{}.secrets", unit.name()));
        let file = systemd_glob(&file).ok_or_else(|| no_path(&file))?;
        out.put(0, format_args!("EnvironmentFile=-{file}"));
    }
    Ok(())
}

fn variable(name: &str, value: &str, out: &mut Out) {
    let pair = systemd(&format!("{name}={value}"), Word::Plain);
    out.set(0, "Environment", pair);
}

/// A path that can't be in a unit: it is not quoted there.
fn no_path(path: &Path) -> Error {
    let why = format!(
        "no unit can have a path with control characters or bytes that are no text: {path:?}"
    );
    Error::cannot("export to systemd", why).with_hint("rename the folder")
}

/// The path of a program, as the process would find it.
fn absolute(program: &str, cwd: &Path, path: &str) -> String {
    if program.contains('/') {
        let path: PathBuf = cwd.join(program).components().collect();
        return path.display().to_string();
    }
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    let mut files = folders.map(|folder| format!("{folder}/{program}"));
    let found = files.find(|file| is_executable(Path::new(file)));
    found.unwrap_or_else(|| program.into())
}

/// A check becomes a command that ends once it passes: systemd waits for it.
fn ready(plan: &Plan, unit: &Unit, out: &mut Out) {
    let Some(ready) = &unit.process.ready else {
        return;
    };
    let setting = match &ready.probe {
        Probe::Tcp(_) => "ready.tcp",
        Probe::Http(_) => "ready.http",
        Probe::Command(_) => "ready.command",
        Probe::Log(_) => "ready.log",
        Probe::Port | Probe::Notify | Probe::Delay(_) => "ready",
    };
    match waiter(plan, unit, ready) {
        Ok(command) => out.set_some(0, "ExecStartPost", command.map(|c| exec_line(&c))),
        Err(why) => return out.gap(0, setting, &why),
    }
    if unit.process.kind != Kind::Task {
        out.set(0, "TimeoutStartSec", span(ready.timeout));
    }
}

fn waiter(
    plan: &Plan,
    unit: &Unit,
    ready: &Ready,
) -> std::result::Result<Option<Vec<String>>, String> {
    match &ready.probe {
        Probe::Notify => return Ok(None),
        Probe::Delay(time) => return Ok(Some(vec!["/bin/sleep".into(), seconds(*time)])),
        // Nobody waits for that port.
        Probe::Port if !plan.is_waited_for(unit.name(), Condition::Ready) => return Ok(None),
        Probe::Port | Probe::Tcp(_) | Probe::Http(_) | Probe::Command(_) | Probe::Log(_) => {}
    }
    let mut arguments = Vec::new();
    let check = match unit.check(&ready.probe)? {
        Check::Tcp(address) => {
            let (ip, port) = (address.ip(), address.port());
            format!("( : <>/dev/tcp/{ip}/{port} ) 2>/dev/null")
        }
        Check::Http(_, target) => {
            let (path, host) = (target.path, target.host);
            let ask = shell(&format!(
                "GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n"
            ));
            let (ip, port) = (target.address.ip(), target.address.port());
            format!(
                "( exec 3<>/dev/tcp/{ip}/{port} && printf %b {ask} >&3 && read -r _ code _ <&3 && [ \"${{code:0:1}}\" = 2 ] ) 2>/dev/null"
            )
        }
        Check::Command(words) => {
            arguments.push("sh".into());
            arguments.extend(words);
            "\"$@\"".into()
        }
    };
    let line = format!("until {check}; do sleep {}; done", seconds(ready.interval));
    let mut command = vec!["/bin/bash".into(), "-c".into(), line];
    command.extend(arguments);
    Ok(Some(command))
}

fn stop(plan: &Plan, unit: &Unit, out: &mut Out) {
    let process = &unit.process;
    let restart = match (process.restart, process.kind) {
        (Restart::Always, Kind::Task) => {
            let why = "a oneshot service is not started again when it is done";
            out.gap(0, "restart = \"always\"", why);
            "on-failure"
        }
        (Restart::Always, _) => "always",
        (Restart::OnFailure, _) => "on-failure",
        (Restart::Never, _) => "no",
    };
    out.set(0, "Restart", restart);
    if process.restart != Restart::Never {
        out.set(0, "RestartSec", span(plan.config.backoff.initial));
    }
    let signal = signal_name(process.stop_signal);
    out.put(0, format_args!("KillSignal=SIG{signal}"));
    // 0 would be no timeout at all.
    let patience = process.stop_timeout.max(Duration::from_millis(1));
    out.set(0, "TimeoutStopSec", span(patience));
    if process.stop_to == StopTo::Leader {
        out.set(0, "KillMode", "mixed");
    }
    match &process.health {
        Some(health) if health.probe == Probe::Notify => {
            out.set(0, "WatchdogSec", span(health.interval));
        }
        Some(_) => out.gap(0, "health", "it knows WATCHDOG=1 only (health.notify)"),
        None => {}
    }
}

fn limits(unit: &Unit, options: &Options, out: &mut Out) {
    let launch = &unit.process.launch;
    let limits = &launch.limits;
    out.set_some(0, "LimitNOFILE", limits.nofile);
    match limits.core {
        Some(u64::MAX) => out.set(0, "LimitCORE", "infinity"),
        bytes => out.set_some(0, "LimitCORE", bytes),
    }
    out.set_some(0, "MemoryMax", limits.memory);
    out.set_some(0, "MemoryHigh", limits.memory_high);
    if let Some(cpu) = limits.cpu {
        let percent = (cpu * 100.0).max(1.0);
        out.put(0, format_args!("CPUQuota={percent:.0}%"));
    }
    out.set_some(0, "TasksMax", limits.tasks);
    out.set_some(0, "Nice", launch.nice);
    out.set_some(0, "OOMScoreAdjust", launch.oom_score_adj);
    if let Some(mask) = launch.umask {
        out.put(0, format_args!("UMask={mask:04o}"));
    }
    for (key, setting, value) in [
        ("User", "user", &launch.user),
        ("Group", "group", &launch.group),
    ] {
        match value {
            Some(value) if !options.user => out.text(0, key, value),
            Some(_) => out.gap(0, setting, "a unit of the user runs as that user"),
            None => {}
        }
    }
    let is_glob = |name: &&String| name.contains(['*', '?']);
    for name in launch.unset_env.iter().filter(|name| !is_glob(name)) {
        out.set(0, "UnsetEnvironment", systemd(name, Word::Plain));
    }
    if launch.unset_env.iter().any(|name| is_glob(&name)) {
        let why = "UnsetEnvironment= takes names only";
        out.gap(0, "unset_env with a \"*\" or \"?\"", why);
    }
    if unit.process.success != [Success::Code(0)] {
        let name = |success: &Success| match success {
            Success::Code(code) => code.to_string(),
            Success::Signal(signal) => format!("SIG{}", signal_name(*signal)),
        };
        let names: Vec<String> = unit.process.success.iter().map(name).collect();
        out.set(0, "SuccessExitStatus", names.join(" "));
    }
}

fn socket(unit: &Unit, prefix: &str, out: &mut Out) {
    let name = unit.name();
    out.put(
        0,
        format_args!("[Unit]\nDescription=Sockets of {name}\nPartOf={prefix}.target\n\n[Socket]"),
    );
    for text in &unit.process.listen {
        match unit.expand(text).and_then(|text| parse_listen(&text)) {
            Ok(Listen::Tcp(address)) => out.set(0, "ListenStream", address),
            Ok(Listen::Unix(path)) => {
                match systemd_path(&path).filter(|path| !path.ends_with('\\')) {
                    Some(path) => out.set(0, "ListenStream", path),
                    None => out.gap(0, "listen", "no unit can have a path like this"),
                }
            }
            Err(why) => out.gap(0, "listen", &why),
        }
    }
    out.put(0, format_args!("Service={prefix}-{name}.service"));
}
