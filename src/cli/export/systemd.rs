//! systemd: a service for each process, a socket where it has some, and a target for all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Options;
use super::out::{Out, seconds, span};
use super::plan::{Plan, Unit};
use super::quote::{
    Word, shell, systemd, systemd_folder, systemd_glob, systemd_path, systemd_text, variables,
};
use crate::base::error::{Error, Result};
use crate::config::{
    Condition, Kind, Listen, Probe, Restart, StopTo, Success, parse_http, parse_listen, parse_tcp,
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
    out.put(
        0,
        format_args!("[Unit]\nDescription={}", systemd_text(&plan.name)),
    );
    for unit in plan.units.iter().filter(|unit| unit.wanted) {
        out.put(0, format_args!("Wants={prefix}-{}.service", unit.name()));
    }
    out.put(0, format_args!("\n[Install]\nWantedBy={wanted_by}"));
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
    let title = systemd_text(&format!("{} of {}", unit.name(), plan.name));
    out.put(
        0,
        format_args!("Description={title}\nPartOf={prefix}.target"),
    );
    for need in &process.depends_on {
        let other = format!("{prefix}-{}.service", need.name);
        out.put(0, format_args!("Requires={other}\nAfter={other}"));
    }
    if !process.listen.is_empty() {
        let socket = format!("{prefix}-{}.socket", unit.name());
        out.put(0, format_args!("Requires={socket}\nAfter={socket}"));
    }
    match process.start_limit.burst {
        0 => out.line(0, "StartLimitIntervalSec=0"),
        burst => {
            let interval = span(process.start_limit.span);
            out.put(
                0,
                format_args!("StartLimitIntervalSec={interval}\nStartLimitBurst={burst}"),
            );
        }
    }
    out.line(0, "\n[Service]");
    run(plan, unit, options, out)?;
    ready(plan, unit, out);
    stop(plan, unit, out);
    limits(unit, options, out);
    out.lacking(0, unit, super::Engine::Systemd);
    Ok(())
}

fn run(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) -> Result<()> {
    let process = &unit.process;
    let is_notify = process
        .ready
        .as_ref()
        .is_some_and(|r| r.probe == Probe::Notify);
    match process.kind {
        Kind::Task => out.line(0, "Type=oneshot\nRemainAfterExit=yes"),
        Kind::Rust | Kind::Npm | Kind::Command if is_notify => {
            out.line(0, "Type=notify\nNotifyAccess=all");
        }
        Kind::Rust | Kind::Npm | Kind::Command => out.line(0, "Type=exec"),
    }
    if !options.user && our_uid() != 0 && process.launch.user.is_none() {
        out.put(0, format_args!("User={}", our_uid()));
    }
    if let Some(build) = &unit.build {
        out.note(0, &format!("built by: {build}"));
    }
    let folder = systemd_folder(&process.cwd).ok_or_else(|| no_path(&process.cwd))?;
    out.put(0, format_args!("WorkingDirectory={folder}"));
    let mut command = unit.command.clone();
    command[0] = absolute(&command[0], &process.cwd, &plan.path);
    if !command[0].starts_with('/') {
        out.note(
            0,
            &format!("{} was not found where it was exported", command[0]),
        );
    }
    out.put(0, format_args!("ExecStart={}", exec_line(&command)));
    if !unit.env.iter().any(|v| v.name == "PATH") && !plan.path.is_empty() {
        out.put(
            0,
            format_args!(
                "Environment={}",
                systemd(&format!("PATH={}", plan.path), Word::Plain)
            ),
        );
    }
    for variable in &unit.env {
        let name = &variable.name;
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.chars().all(fine) || name.starts_with(|c: char| c.is_ascii_digit()) {
            out.gap(
                0,
                &format!("env.{name}"),
                "a name has letters, digits and \"_\" only",
            );
        } else if let Some(other) = variables(&variable.value).next() {
            let why = format!("it has {other} in it, which systemd does not replace here");
            out.gap(0, &format!("env.{name}"), &why);
        } else {
            let pair = format!("{name}={}", variable.value);
            out.put(
                0,
                format_args!("Environment={}", systemd(&pair, Word::Plain)),
            );
        }
    }
    if !unit.secrets.is_empty() {
        out.note(
            0,
            &format!(
                "left out, since the names look secret: {}",
                unit.secrets.join(", ")
            ),
        );
        let file = process.cwd.join(format!("{}.secrets", unit.name()));
        let file = systemd_glob(&file).ok_or_else(|| no_path(&file))?;
        out.put(0, format_args!("EnvironmentFile=-{file}"));
    }
    Ok(())
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
        let path = cwd.join(program);
        return path
            .components()
            .collect::<std::path::PathBuf>()
            .display()
            .to_string();
    }
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| format!("{folder}/{program}"))
        .find(|path| is_executable(Path::new(path)))
        .unwrap_or_else(|| program.into())
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// A check becomes a command that ends once it passes: systemd waits for it.
fn ready(plan: &Plan, unit: &Unit, out: &mut Out) {
    let Some(ready) = &unit.process.ready else {
        return;
    };
    let pause = seconds(ready.interval);
    let until = |check: &str| format!("until {check}; do sleep {pause}; done");
    let bash = |line: String| vec!["/bin/bash".to_string(), "-c".into(), line];
    let waiter = match &ready.probe {
        Probe::Notify => None,
        Probe::Port => {
            // Waiting costs nothing where nobody waits: systemd starts the others meanwhile.
            let port = unit.port.unwrap_or_default();
            plan.is_waited_for(unit.name(), Condition::Ready)
                .then(|| bash(until(&tcp("127.0.0.1", port))))
        }
        Probe::Tcp(text) => match unit.expand(text).and_then(|text| parse_tcp(&text)) {
            Ok(address) => Some(bash(until(&tcp(&address.ip().to_string(), address.port())))),
            Err(why) => return out.gap(0, "ready.tcp", &why),
        },
        Probe::Http(text) => match unit.expand(text).and_then(|text| parse_http(&text)) {
            Ok(target) => {
                let ask = format!(
                    "GET {} HTTP/1.0\\r\\nHost: {}\\r\\n\\r\\n",
                    target.path, target.host
                );
                let address = format!("/dev/tcp/{}/{}", target.address.ip(), target.address.port());
                let check = format!(
                    "( exec 3<>{address} && printf %b {} >&3 && read -r _ code _ <&3 && [ \"${{code:0:1}}\" = 2 ] ) 2>/dev/null",
                    shell(&ask)
                );
                Some(bash(until(&check)))
            }
            Err(why) => return out.gap(0, "ready.http", &why),
        },
        Probe::Command(words) => {
            let mut line = bash(until("\"$@\""));
            line.push("sh".into());
            for word in words {
                match unit.expand(word) {
                    Ok(word) => line.push(word),
                    Err(why) => return out.gap(0, "ready.command", &why),
                }
            }
            Some(line)
        }
        Probe::Delay(time) => Some(vec!["/bin/sleep".into(), seconds(*time)]),
        Probe::Log(_) => return out.gap(0, "ready.log", "it reads no logs"),
    };
    if let Some(command) = waiter {
        out.put(0, format_args!("ExecStartPost={}", exec_line(&command)));
    }
    if unit.process.kind != Kind::Task {
        out.put(0, format_args!("TimeoutStartSec={}", span(ready.timeout)));
    }
}

fn tcp(ip: &str, port: u16) -> String {
    format!("( : <>/dev/tcp/{ip}/{port} ) 2>/dev/null")
}

fn stop(plan: &Plan, unit: &Unit, out: &mut Out) {
    let process = &unit.process;
    let restart = match (process.restart, process.kind) {
        (Restart::Always, Kind::Task) => {
            out.gap(
                0,
                "restart = \"always\"",
                "a oneshot service is not started again when it is done",
            );
            "on-failure"
        }
        (Restart::Always, _) => "always",
        (Restart::OnFailure, _) => "on-failure",
        (Restart::Never, _) => "no",
    };
    out.put(0, format_args!("Restart={restart}"));
    if process.restart != Restart::Never {
        out.put(
            0,
            format_args!("RestartSec={}", span(plan.config.backoff.initial)),
        );
    }
    let signal = signal_name(process.stop_signal);
    let patience = span(process.stop_timeout);
    out.put(
        0,
        format_args!("KillSignal=SIG{signal}\nTimeoutStopSec={patience}"),
    );
    if process.stop_to == StopTo::Leader {
        out.line(0, "KillMode=mixed");
    }
    match &process.health {
        Some(health) if health.probe == Probe::Notify => {
            out.put(0, format_args!("WatchdogSec={}", span(health.interval)));
        }
        Some(_) => out.gap(0, "health", "it knows WATCHDOG=1 only (health.notify)"),
        None => {}
    }
}

fn limits(unit: &Unit, options: &Options, out: &mut Out) {
    let launch = &unit.process.launch;
    let limits = &launch.limits;
    let core = limits.core.map(|bytes| match bytes {
        u64::MAX => "infinity".into(),
        bytes => bytes.to_string(),
    });
    let lines = [
        ("LimitNOFILE", limits.nofile.map(|n| n.to_string())),
        ("LimitCORE", core),
        ("MemoryMax", limits.memory.map(|n| n.to_string())),
        ("MemoryHigh", limits.memory_high.map(|n| n.to_string())),
        (
            "CPUQuota",
            limits
                .cpu
                .map(|cpu| format!("{:.0}%", (cpu * 100.0).max(1.0))),
        ),
        ("TasksMax", limits.tasks.map(|n| n.to_string())),
        ("Nice", launch.nice.map(|n| n.to_string())),
        (
            "OOMScoreAdjust",
            launch.oom_score_adj.map(|n| n.to_string()),
        ),
        ("UMask", launch.umask.map(|mask| format!("{mask:04o}"))),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            out.put(0, format_args!("{name}={value}"));
        }
    }
    for (name, value) in [("User", &launch.user), ("Group", &launch.group)] {
        match value {
            Some(value) if !options.user => {
                out.put(0, format_args!("{name}={}", systemd_text(value)))
            }
            Some(_) => out.gap(
                0,
                &name.to_ascii_lowercase(),
                "a unit of the user runs as that user",
            ),
            None => {}
        }
    }
    let (globs, names): (Vec<&String>, Vec<&String>) = launch
        .unset_env
        .iter()
        .partition(|name| name.contains(['*', '?']));
    for name in names {
        out.put(
            0,
            format_args!("UnsetEnvironment={}", systemd(name, Word::Plain)),
        );
    }
    if !globs.is_empty() {
        out.gap(
            0,
            "unset_env with a \"*\" or \"?\"",
            "UnsetEnvironment= takes names only",
        );
    }
    if unit.process.success != [Success::Code(0)] {
        let name = |success: &Success| match success {
            Success::Code(code) => code.to_string(),
            Success::Signal(signal) => format!("SIG{}", signal_name(*signal)),
        };
        let names: Vec<String> = unit.process.success.iter().map(name).collect();
        out.put(0, format_args!("SuccessExitStatus={}", names.join(" ")));
    }
}

fn socket(unit: &Unit, prefix: &str, out: &mut Out) {
    out.put(
        0,
        format_args!(
            "[Unit]\nDescription=Sockets of {}\nPartOf={prefix}.target\n\n[Socket]",
            unit.name()
        ),
    );
    for text in &unit.process.listen {
        match unit.expand(text).and_then(|text| parse_listen(&text)) {
            Ok(Listen::Tcp(address)) => out.put(0, format_args!("ListenStream={address}")),
            Ok(Listen::Unix(path)) => {
                match systemd_path(&path).filter(|path| !path.ends_with('\\')) {
                    Some(path) => out.put(0, format_args!("ListenStream={path}")),
                    None => out.gap(0, "listen", "no unit can have a path like this"),
                }
            }
            Err(why) => out.gap(0, "listen", &why),
        }
    }
    out.put(0, format_args!("Service={prefix}-{}.service", unit.name()));
}
