//! compose: one `compose.yaml`.

use super::out::{Out, processors, span};
use super::plan::{Check, Plan, Unit};
use super::quote::{list, quoted, shell};
use super::{Engine, Options};
use crate::config::{Condition, Health, Probe, Ready, Restart};
use crate::os::reap::signal_name;

fn text(text: &str) -> String {
    quoted(text, Engine::Compose)
}

/// The file.
pub(super) fn file(plan: &Plan, options: &Options, out: &mut Out) {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let name = plan.name.to_ascii_lowercase();
    let name = name.replace(|c: char| !fine(c), "-");
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    out.text(0, "name", if name.is_empty() { "bpm" } else { name });
    out.line(0, "services:");
    for unit in &plan.units {
        service(plan, unit, options, out);
    }
}

fn service(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    out.put(1, format_args!("{}:", text(unit.name())));
    out.text(2, "image", options.image());
    out.set(2, "command", list(&unit.command, Engine::Compose));
    out.image_folder(2, unit, &plan.config.root, "working_dir");
    if !unit.env.is_empty() || !unit.secrets.is_empty() {
        out.line(2, "environment:");
    }
    for variable in &unit.env {
        out.text(3, &text(&variable.name), &variable.value);
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
        out.set(2, "ports", list(&[ports], Engine::Compose));
    }
    if !unit.wanted {
        // A service can depend only on one that is in a profile of its own.
        let profiles: Vec<String> = plan.dependents(unit.name()).map(String::from).collect();
        out.set(2, "profiles", list(&profiles, Engine::Compose));
    }
    depends(plan, unit, out);
    health(unit, out);
    let restart = match process.restart {
        Restart::Always => "always",
        Restart::OnFailure => "on-failure",
        Restart::Never => "no",
    };
    out.text(2, "restart", restart);
    let signal = signal_name(process.stop_signal);
    out.text(2, "stop_signal", &format!("SIG{signal}"));
    out.text(2, "stop_grace_period", &span(process.stop_timeout));
    if options.replicas > 1 {
        let replicas = options.replicas;
        out.put(2, format_args!("deploy: {{replicas: {replicas}}}"));
    }
    limits(unit, out);
    out.lacking(2, unit);
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
                let setting = format!("depends_on.{}", need.name);
                out.gap(3, &setting, "its check can't be made in a container");
                "service_started"
            }
        };
        let (name, condition) = (text(&need.name), text(condition));
        out.put(3, format_args!("{name}: {{condition: {condition}}}"));
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
    let line = match unit.check(probe)? {
        Check::Tcp(address) => format!("nc -z {} {}", address.ip(), address.port()),
        Check::Http(url, _) => {
            let url = shell(&url);
            format!("curl -fsS -o /dev/null {url} || wget -q -O /dev/null {url}")
        }
        Check::Command(mut words) => {
            words.insert(0, "CMD".into());
            return Ok(words);
        }
    };
    Ok(vec!["CMD-SHELL".into(), line])
}

fn health(unit: &Unit, out: &mut Out) {
    let checks = checks(unit, Some(out));
    let Some((test, times)) = checks.first() else {
        return;
    };
    if test[0] == "CMD-SHELL" {
        out.note(2, "the image needs the program of this check");
    }
    out.line(2, "healthcheck:");
    out.set(3, "test", list(test, Engine::Compose));
    let (interval, timeout, failures) = match times {
        Times::Health(health) => (health.interval, health.timeout, health.failures),
        Times::Ready(ready) => (ready.interval, ready.timeout, 3),
    };
    out.text(3, "interval", &span(interval));
    out.text(3, "timeout", &span(timeout));
    out.set(3, "retries", failures);
    if let Some(ready) = &unit.process.ready {
        out.text(3, "start_period", &span(ready.timeout));
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
        Some(bytes) => out.set(3, "core", bytes),
        None => {}
    }
    let user = match (&launch.user, &launch.group) {
        (Some(user), Some(group)) => Some(text(&format!("{user}:{group}"))),
        (user, None) => user.as_deref().map(text),
        (None, Some(_)) => {
            out.gap(2, "group", "compose takes a group only behind a user");
            None
        }
    };
    if let Some(bytes) = limits.memory {
        out.text(2, "mem_limit", &format!("{bytes}b"));
    }
    out.set_some(2, "cpus", limits.cpu.map(processors));
    out.set_some(2, "pids_limit", limits.tasks);
    out.set_some(2, "oom_score_adj", launch.oom_score_adj);
    out.set_some(2, "user", user);
    out.set_some(2, "stdin_open", launch.stdin_open.then_some(true));
    out.set_some(2, "tty", launch.tty.then_some(true));
}
