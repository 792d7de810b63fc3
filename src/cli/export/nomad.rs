//! Nomad: one job in HCL2, a group for each process.

use std::time::Duration;

use super::out::{Out, span};
use super::plan::{Check, Plan, Unit, Variable};
use super::quote::{hcl, list};
use super::{Engine, Options};
use crate::config::{Condition, Kind, PortWish, Probe, Restart};
use crate::os::reap::signal_name;

const SECOND: Duration = Duration::from_secs(1);

/// The file.
pub(super) fn file(plan: &Plan, options: &Options, out: &mut Out) {
    out.put(0, format_args!("job {} {{", hcl(&plan.name)));
    out.line(1, "type = \"service\"");
    let is_task = |unit: &Unit| unit.process.kind == Kind::Task;
    let mut first = Vec::new();
    for unit in plan.units.iter().filter(|unit| !is_task(unit)) {
        before(plan, unit, &mut first);
    }
    for unit in &plan.units {
        if !is_task(unit) {
            group(plan, unit, options, out);
        } else if !first.iter().any(|task| task.name() == unit.name()) {
            let setting = format!("type = \"task\" of {}", unit.name());
            out.gap(1, &setting, "it would be a batch job of its own");
        }
    }
    out.line(0, "}");
}

/// The tasks that have to be done before a process starts, and before each of them.
fn before<'a>(plan: &'a Plan, unit: &Unit, found: &mut Vec<&'a Unit>) {
    let needs = unit.process.depends_on.iter();
    for need in needs.filter(|need| need.until == Condition::Completed) {
        let other = plan.unit(&need.name);
        if let Some(other) = other.filter(|o| found.iter().all(|task| task.name() != o.name())) {
            before(plan, other, found);
            found.push(other);
        }
    }
}

fn group(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    out.put(1, format_args!("\n  group {} {{", hcl(unit.name())));
    out.set(2, "count", if unit.wanted { options.replicas } else { 0 });
    let limit = &process.start_limit;
    let (attempts, interval, mode) = match (process.restart, limit.burst) {
        (Restart::Never, _) => (0, "1m".into(), "fail"),
        (Restart::Always | Restart::OnFailure, 0) => (10, "1m".into(), "delay"),
        (Restart::Always | Restart::OnFailure, burst) => (burst, span(limit.span), "fail"),
    };
    if process.restart == Restart::OnFailure {
        let why = "a service is started again however it ended";
        out.gap(2, "restart = \"on-failure\"", why);
    }
    out.line(2, "restart {");
    out.set(3, "attempts", attempts);
    out.text(3, "interval", &interval);
    out.text(3, "delay", &span(plan.config.backoff.initial));
    out.text(3, "mode", mode);
    out.line(2, "}");
    if let Some(port) = unit.port {
        let is_auto = matches!(process.port, Some(PortWish::Auto) | None);
        out.line(2, "network {\n      port \"main\" {");
        if !is_auto {
            out.set(4, "static", port);
        }
        if options.image.is_some() {
            out.set(4, "to", port);
        }
        out.line(3, "}\n    }");
        service(plan, unit, out);
    } else {
        for (setting, is_set) in [
            ("ready", process.ready.is_some()),
            ("health", process.health.is_some()),
        ] {
            if is_set {
                let why = "a service, which is what it checks, needs a port";
                out.gap(2, setting, why);
            }
        }
    }
    let mut tasks = Vec::new();
    before(plan, unit, &mut tasks);
    for one in tasks.iter().copied().chain([unit]) {
        for need in &one.process.depends_on {
            let why = match need.until {
                Condition::Completed if one.process.kind == Kind::Task => {
                    "tasks before the main one begin together"
                }
                Condition::Completed => continue,
                Condition::Started | Condition::Ready => "groups don't wait for each other",
            };
            out.gap(2, &format!("depends_on.{}", need.name), why);
        }
        task(plan, one, options, one.name() != unit.name(), out);
    }
    out.line(1, "}");
}

fn service(plan: &Plan, unit: &Unit, out: &mut Out) {
    let name = super::label(&format!("{}-{}", plan.name, unit.name()));
    out.line(2, "service {");
    out.text(3, "name", &name);
    out.text(3, "port", "main");
    out.text(3, "provider", "nomad");
    let process = &unit.process;
    let ready = process.ready.as_ref();
    let ready = ready.map(|r| (&r.probe, r.interval, SECOND * 3, 0));
    let health = process.health.as_ref();
    let health = health.map(|h| (&h.probe, h.interval, h.timeout, h.failures));
    for (setting, check) in [("ready", ready), ("health", health)] {
        let Some((probe, interval, timeout, failures)) = check else {
            continue;
        };
        match kind(unit, probe) {
            Ok(path) => {
                out.line(3, "check {");
                out.text(4, "type", if path.is_some() { "http" } else { "tcp" });
                if let Some(path) = path {
                    out.text(4, "path", &path);
                }
                out.text(4, "interval", &span(interval.max(SECOND)));
                out.text(4, "timeout", &span(timeout.max(SECOND)));
                if failures > 0 {
                    out.line(4, "check_restart {");
                    out.set(5, "limit", failures);
                    out.line(4, "}");
                }
                out.line(3, "}");
            }
            Err(why) => out.gap(3, setting, &why),
        }
    }
    out.line(2, "}");
}

/// The path of a check by HTTP. None: it is one by TCP.
fn kind(unit: &Unit, probe: &Probe) -> Result<Option<String>, String> {
    let (port, path) = match unit.check(probe)? {
        Check::Tcp(address) => (address.port(), None),
        Check::Http(_, target) => (target.address.port(), Some(target.path)),
        Check::Command(_) => return Err("Nomad's own services check tcp and http only".into()),
    };
    match unit.port == Some(port) {
        true => Ok(path),
        false => Err("it asks at another port than the process's own".into()),
    }
}

fn task(plan: &Plan, unit: &Unit, options: &Options, before: bool, out: &mut Out) {
    let process = &unit.process;
    out.put(2, format_args!("task {} {{", hcl(unit.name())));
    if before {
        out.line(3, "lifecycle {");
        out.text(4, "hook", "prestart");
        out.set(4, "sidecar", false);
        out.line(3, "}");
    }
    let driver = match options.image {
        Some(_) => "docker",
        None => "raw_exec",
    };
    out.text(3, "driver", driver);
    if let Some(build) = &unit.build {
        out.note(3, format_args!("built by: {build}"));
    }
    out.line(3, "config {");
    match &options.image {
        Some(image) => {
            out.text(4, "image", image);
            out.image_folder(4, unit, &plan.config.root, "work_dir");
            if unit.port.is_some() {
                out.line(4, "ports = [\"main\"]");
            }
        }
        None => out.text(4, "work_dir", &process.cwd.display().to_string()),
    }
    let (program, args) = unit.command.split_at(1.min(unit.command.len()));
    out.text(4, "command", &program.concat());
    if !args.is_empty() {
        out.set(4, "args", list(args, Engine::Nomad));
    }
    for word in &unit.command {
        let is_in = |v: &&Variable| word.contains(&format!("${{{}}}", v.name));
        if let Some(variable) = unit.env.iter().find(is_in) {
            let setting = format!("the text ${{{}}} in the command", variable.name);
            let why = "Nomad puts the value there as it starts the task";
            out.gap(4, &setting, why);
        }
    }
    out.line(3, "}");
    environment(unit, out);
    let signal = signal_name(process.stop_signal);
    out.text(3, "kill_signal", &format!("SIG{signal}"));
    out.text(3, "kill_timeout", &span(process.stop_timeout));
    limits(unit, out);
    out.lacking(3, unit);
    out.line(2, "}");
}

fn limits(unit: &Unit, out: &mut Out) {
    let launch = &unit.process.launch;
    if let Some(user) = &launch.user {
        out.text(3, "user", user);
    }
    if launch.group.is_some() {
        out.gap(3, "group", "a task has a user only");
    }
    // Megabytes, 10 at least.
    let memory = launch.limits.memory.map(|bytes| (bytes >> 20).max(10));
    let cores = launch.limits.cpu.filter(|cpu| cpu.fract() == 0.0);
    if launch.limits.cpu.is_some() && cores.is_none() {
        let why = "Nomad counts whole cores, or MHz of the machine";
        out.gap(3, "limits.cpu", why);
    }
    if memory.is_some() || cores.is_some() {
        out.line(3, "resources {");
        out.set_some(4, "memory", memory);
        out.set_some(4, "cores", cores);
        out.line(3, "}");
    }
}

fn environment(unit: &Unit, out: &mut Out) {
    if !unit.env.is_empty() {
        out.line(3, "env = {");
        for variable in &unit.env {
            let value = match (variable.name.as_str(), unit.process.port) {
                // The port that Nomad chose.
                ("PORT", Some(PortWish::Auto)) => "\"${NOMAD_PORT_main}\"".into(),
                _ => hcl(&variable.value),
            };
            out.set(4, &hcl(&variable.name), value);
        }
        out.line(3, "}");
    }
    for name in unit.left_open() {
        let setting = format!("${{{name}}}");
        out.gap(3, &setting, "the file does not set it: add it to env");
    }
    if unit.secrets.is_empty() {
        return;
    }
    let names = unit.secrets.join(", ");
    out.note(
        3,
        format_args!("left out, since the names look secret: nomad var put nomad/jobs {names}"),
    );
    out.line(3, "template {");
    out.text(4, "destination", "secrets/env");
    out.set(4, "env", true);
    out.line(4, "data = <<EOT");
    for name in &unit.secrets {
        out.put(0, format_args!("{name}={{{{ with nomadVar \"nomad/jobs\" }}}}{{{{ index . \"{name}\" | toJSON }}}}{{{{ end }}}}"));
    }
    out.line(0, "EOT\n      }");
}
