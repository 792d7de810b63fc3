//! compose: one `compose.yaml`.

use super::Options;
use super::out::{Out, processors, span};
use super::plan::{Plan, Unit};
use super::quote::{Reader, shell, yaml, yaml_list};
use crate::config::{Condition, Health, Probe, Ready, Restart, parse_http, parse_tcp};
use crate::os::reap::signal_name;

const COMPOSE: Reader = Reader::Compose;

fn text(text: &str) -> String {
    yaml(text, COMPOSE)
}

/// The file.
pub(super) fn file(plan: &Plan, options: &Options, out: &mut Out) {
    let name: String = plan
        .name
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "_-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .collect();
    out.put(
        0,
        format_args!(
            "name: {}",
            text(if name.is_empty() { "bpm" } else { &name })
        ),
    );
    out.line(0, "services:");
    for unit in &plan.units {
        service(plan, unit, options, out);
    }
}

fn service(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    out.put(1, format_args!("{}:", text(unit.name())));
    out.put(
        2,
        format_args!(
            "image: {}",
            text(options.image.as_deref().unwrap_or_default())
        ),
    );
    out.put(
        2,
        format_args!("command: {}", yaml_list(&unit.command, COMPOSE)),
    );
    match unit.below(&plan.config.root) {
        Some("") => {}
        _ => out.gap(
            2,
            "cwd",
            "where that folder is in the image is not known: add working_dir",
        ),
    }
    if !unit.env.is_empty() || !unit.secrets.is_empty() {
        out.line(2, "environment:");
    }
    for variable in &unit.env {
        out.put(
            3,
            format_args!("{}: {}", text(&variable.name), text(&variable.value)),
        );
    }
    for name in &unit.secrets {
        out.note(
            3,
            "left out, since the name looks secret: compose takes it from its own environment",
        );
        out.put(3, format_args!("{}:", text(name)));
    }
    if let Some(port) = unit.port {
        let ports = match options.replicas {
            1 => format!("127.0.0.1:{port}:{port}"),
            _ => port.to_string(),
        };
        out.note(2, "in the container it has to listen on 0.0.0.0");
        out.put(2, format_args!("ports: [{}]", text(&ports)));
    }
    if !unit.wanted {
        // A service can depend only on one that is in a profile of its own.
        let profiles: Vec<String> = plan.dependents(unit.name()).map(String::from).collect();
        out.put(
            2,
            format_args!("profiles: {}", yaml_list(&profiles, COMPOSE)),
        );
    }
    depends(plan, unit, out);
    health(unit, out);
    let restart = match process.restart {
        Restart::Always => "always",
        Restart::OnFailure => "on-failure",
        Restart::Never => "no",
    };
    out.put(2, format_args!("restart: {}", text(restart)));
    let signal = signal_name(process.stop_signal);
    out.put(
        2,
        format_args!("stop_signal: {}", text(&format!("SIG{signal}"))),
    );
    out.put(
        2,
        format_args!("stop_grace_period: {}", text(&span(process.stop_timeout))),
    );
    if options.replicas > 1 {
        out.put(
            2,
            format_args!("deploy: {{replicas: {}}}", options.replicas),
        );
    }
    limits(unit, out);
    out.lacking(2, unit, super::Engine::Compose);
}

fn depends(plan: &Plan, unit: &Unit, out: &mut Out) {
    if unit.process.depends_on.is_empty() {
        return;
    }
    out.line(2, "depends_on:");
    for need in &unit.process.depends_on {
        let other = plan.unit(&need.name);
        let checked = other.is_some_and(|other| !checks(other, None).is_empty());
        let condition = match need.until {
            Condition::Started => "service_started",
            Condition::Completed => "service_completed_successfully",
            Condition::Ready if checked => "service_healthy",
            Condition::Ready => {
                out.gap(
                    3,
                    &format!("depends_on.{}", need.name),
                    "its check can't be made in a container",
                );
                "service_started"
            }
        };
        out.put(
            3,
            format_args!("{}: {{condition: {}}}", text(&need.name), text(condition)),
        );
    }
}

/// The checks of a process that a container can make of itself, that of `health` first. `out`: names the others.
fn checks<'a>(unit: &'a Unit, mut out: Option<&mut Out>) -> Vec<(Vec<String>, Times<'a>)> {
    let health = unit.process.health.as_ref();
    let ready = unit.process.ready.as_ref();
    let both = [
        health.map(|h| ("health", &h.probe, Times::Health(h))),
        ready.map(|r| ("ready", &r.probe, Times::Ready(r))),
    ];
    let mut checks: Vec<(Vec<String>, Times)> = Vec::new();
    for (setting, probe, times) in both.into_iter().flatten() {
        let why = match check(unit, probe) {
            Ok(test) => {
                let first = checks.is_empty();
                let same = first || checks[0].0 == test || *probe == Probe::Port;
                checks.push((test, times));
                match (first, setting) {
                    (true, "health") => {
                        "compose checks it, and restarts nothing that is unhealthy".into()
                    }
                    _ if same => continue,
                    _ => "a container has one healthcheck, and \"health\" is it".into(),
                }
            }
            Err(why) => why,
        };
        if let Some(out) = &mut out {
            out.gap(2, setting, &why);
        }
    }
    checks
}

/// How often a check is made.
enum Times<'a> {
    Health(&'a Health),
    Ready(&'a Ready),
}

/// The command by which a container checks itself.
fn check(unit: &Unit, probe: &Probe) -> Result<Vec<String>, String> {
    let script = |line: String| Ok(vec!["CMD-SHELL".to_string(), line]);
    match probe {
        Probe::Port => script(format!("nc -z 127.0.0.1 {}", unit.port.unwrap_or_default())),
        Probe::Tcp(text) => {
            let address = parse_tcp(&unit.expand(text)?)?;
            script(format!("nc -z {} {}", address.ip(), address.port()))
        }
        Probe::Http(text) => {
            let url = unit.expand(text)?;
            parse_http(&url)?;
            let url = shell(&url);
            script(format!(
                "curl -fsS -o /dev/null {url} || wget -q -O /dev/null {url}"
            ))
        }
        Probe::Command(words) => {
            let mut test = vec!["CMD".to_string()];
            for word in words {
                test.push(unit.expand(word)?);
            }
            Ok(test)
        }
        Probe::Log(_) => Err("it reads no logs".into()),
        Probe::Notify => Err("it has no NOTIFY_SOCKET".into()),
        Probe::Delay(_) => Err("it has no delays".into()),
    }
}

fn health(unit: &Unit, out: &mut Out) {
    let checks = checks(unit, Some(out));
    let Some((test, times)) = checks.first() else {
        return;
    };
    if let Some("CMD-SHELL") = test.first().map(String::as_str) {
        out.note(2, "the image needs the program of this check");
    }
    out.line(2, "healthcheck:");
    out.put(3, format_args!("test: {}", yaml_list(test, COMPOSE)));
    let (interval, timeout, failures) = match times {
        Times::Health(health) => (health.interval, health.timeout, health.failures),
        Times::Ready(ready) => (ready.interval, ready.timeout, 3),
    };
    out.put(3, format_args!("interval: {}", text(&span(interval))));
    out.put(3, format_args!("timeout: {}", text(&span(timeout))));
    out.put(3, format_args!("retries: {failures}"));
    if let Some(ready) = &unit.process.ready {
        out.put(
            3,
            format_args!("start_period: {}", text(&span(ready.timeout))),
        );
    }
}

fn limits(unit: &Unit, out: &mut Out) {
    let launch = &unit.process.launch;
    let limits = &launch.limits;
    if limits.nofile.is_some() || limits.core.is_some() {
        out.line(2, "ulimits:");
    }
    if let Some(most) = limits.nofile {
        out.put(3, format_args!("nofile: {{soft: {most}, hard: {most}}}"));
    }
    match limits.core {
        Some(u64::MAX) => out.line(3, "core: -1"),
        Some(bytes) => out.put(3, format_args!("core: {bytes}")),
        None => {}
    }
    let user = match (&launch.user, &launch.group) {
        (Some(user), Some(group)) => Some(text(&format!("{user}:{group}"))),
        (Some(user), None) => Some(text(user)),
        (None, Some(_)) => {
            out.gap(2, "group", "compose takes a group only behind a user");
            None
        }
        (None, None) => None,
    };
    let lines = [
        (
            "mem_limit",
            limits.memory.map(|bytes| text(&format!("{bytes}b"))),
        ),
        ("cpus", limits.cpu.map(processors)),
        ("pids_limit", limits.tasks.map(|n| n.to_string())),
        ("oom_score_adj", launch.oom_score_adj.map(|n| n.to_string())),
        ("user", user),
        ("stdin_open", launch.stdin_open.then(|| "true".into())),
        ("tty", launch.tty.then(|| "true".into())),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            out.put(2, format_args!("{name}: {value}"));
        }
    }
}
