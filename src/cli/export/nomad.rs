//! Nomad: one job in HCL2, a group for each process.

use super::Options;
use super::out::{Out, span};
use super::plan::{Plan, Unit};
use super::quote::{hcl, hcl_list};
use crate::config::{Condition, Kind, PortWish, Probe, Restart, parse_http, parse_tcp};
use crate::os::reap::signal_name;

/// The file.
pub(super) fn file(plan: &Plan, options: &Options, out: &mut Out) {
    out.put(0, format_args!("job {} {{", hcl(&plan.name)));
    out.line(1, "type = \"service\"");
    for unit in &plan.units {
        if unit.process.kind == Kind::Task {
            let name = unit.name();
            if !plan.is_waited_for(name, Condition::Completed) {
                out.gap(
                    1,
                    &format!("type = \"task\" of {name}"),
                    "it would be a batch job of its own",
                );
            }
            continue;
        }
        group(plan, unit, options, out);
    }
    out.line(0, "}");
}

fn group(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    out.put(1, format_args!("\n  group {} {{", hcl(unit.name())));
    let count = if unit.wanted { options.replicas } else { 0 };
    out.put(2, format_args!("count = {count}"));
    let (attempts, interval, mode) = match (process.restart, process.start_limit.burst) {
        (Restart::Never, _) => (0, "1m".into(), "fail"),
        (Restart::Always | Restart::OnFailure, 0) => (10, "1m".into(), "delay"),
        (Restart::Always | Restart::OnFailure, burst) => {
            (burst, span(process.start_limit.span), "fail")
        }
    };
    if process.restart == Restart::OnFailure {
        out.gap(
            2,
            "restart = \"on-failure\"",
            "a service is started again however it ended",
        );
    }
    let delay = span(plan.config.backoff.initial);
    out.line(2, "restart {");
    out.put(
        3,
        format_args!(
            "attempts = {attempts}\n      interval = {}\n      delay = {}\n      mode = {}",
            hcl(&interval),
            hcl(&delay),
            hcl(mode)
        ),
    );
    out.line(2, "}");
    if let Some(port) = unit.port {
        let in_container = options.image.is_some();
        let line = match (process.port, in_container) {
            (Some(PortWish::Auto), true) => format!("to = {port}"),
            (Some(PortWish::Auto), false) | (None, _) => String::new(),
            (Some(PortWish::Fixed(_)), true) => format!("static = {port}\n        to = {port}"),
            (Some(PortWish::Fixed(_)), false) => format!("static = {port}"),
        };
        out.line(2, "network {\n      port \"main\" {");
        if !line.is_empty() {
            out.line(4, &line);
        }
        out.line(3, "}\n    }");
        service(plan, unit, out);
    } else {
        let probes = [
            ("ready", process.ready.is_some()),
            ("health", process.health.is_some()),
        ];
        for (setting, _) in probes.iter().filter(|(_, set)| *set) {
            out.gap(
                2,
                setting,
                "a service, which is what it checks, needs a port",
            );
        }
    }
    for need in &process.depends_on {
        match (need.until, plan.unit(&need.name)) {
            (Condition::Completed, Some(other)) => {
                task(plan, other, options, true, out);
            }
            _ => out.gap(
                2,
                &format!("depends_on.{}", need.name),
                "groups don't wait for each other",
            ),
        }
    }
    task(plan, unit, options, false, out);
    out.line(1, "}");
}

fn service(plan: &Plan, unit: &Unit, out: &mut Out) {
    let name = super::label(&format!("{}-{}", plan.name, unit.name()));
    out.line(2, "service {");
    out.put(
        3,
        format_args!(
            "name = {}\n      port = \"main\"\n      provider = \"nomad\"",
            hcl(&name)
        ),
    );
    let ready = unit
        .process
        .ready
        .as_ref()
        .map(|r| (&r.probe, r.interval, None));
    let health = unit.process.health.as_ref();
    let health = health.map(|h| (&h.probe, h.interval, Some((h.timeout, h.failures))));
    for (setting, check) in [("ready", ready), ("health", health)] {
        let Some((probe, interval, rest)) = check else {
            continue;
        };
        match kind(unit, probe) {
            Ok(lines) => {
                out.line(3, "check {");
                out.line(4, &lines);
                let second = std::time::Duration::from_secs(1);
                out.put(
                    4,
                    format_args!("interval = {}", hcl(&span(interval.max(second)))),
                );
                let (timeout, failures) = rest.unwrap_or((second * 3, 0));
                out.put(
                    4,
                    format_args!("timeout = {}", hcl(&span(timeout.max(second)))),
                );
                if failures > 0 {
                    out.put(
                        4,
                        format_args!("check_restart {{\n          limit = {failures}\n        }}"),
                    );
                }
                out.line(3, "}");
            }
            Err(why) => out.gap(3, setting, &why),
        }
    }
    out.line(2, "}");
}

fn kind(unit: &Unit, probe: &Probe) -> Result<String, String> {
    match probe {
        Probe::Port => Ok("type = \"tcp\"".into()),
        Probe::Tcp(text) => parse_tcp(&unit.expand(text)?)
            .and_then(|address| own(unit, address.port(), "type = \"tcp\"".into())),
        Probe::Http(text) => {
            let target = parse_http(&unit.expand(text)?)?;
            let path = hcl(&target.path);
            own(
                unit,
                target.address.port(),
                format!("type = \"http\"\n        path = {path}"),
            )
        }
        Probe::Command(_) => Err("Nomad's own services check tcp and http only".into()),
        Probe::Log(_) => Err("it reads no logs".into()),
        Probe::Notify => Err("it has no NOTIFY_SOCKET".into()),
        Probe::Delay(_) => Err("it has no delays".into()),
    }
}

fn own(unit: &Unit, port: u16, lines: String) -> Result<String, String> {
    match unit.port == Some(port) {
        true => Ok(lines),
        false => Err("it asks at another port than the process's own".into()),
    }
}

fn task(plan: &Plan, unit: &Unit, options: &Options, before: bool, out: &mut Out) {
    let process = &unit.process;
    out.put(2, format_args!("task {} {{", hcl(unit.name())));
    if before {
        out.line(
            3,
            "lifecycle {\n        hook = \"prestart\"\n        sidecar = false\n      }",
        );
    }
    let (program, args) = match unit.command.split_first() {
        Some((program, args)) => (program.as_str(), args),
        None => ("", [].as_slice()),
    };
    out.put(
        3,
        format_args!(
            "driver = {}",
            hcl(if options.image.is_some() {
                "docker"
            } else {
                "raw_exec"
            })
        ),
    );
    if let Some(build) = &unit.build {
        out.note(3, &format!("built by: {build}"));
    }
    out.line(3, "config {");
    match &options.image {
        Some(image) => {
            out.put(4, format_args!("image = {}", hcl(image)));
            if unit.below(&plan.config.root) != Some("") {
                out.gap(
                    4,
                    "cwd",
                    "where that folder is in the image is not known: add work_dir",
                );
            }
            if unit.port.is_some() {
                out.line(4, "ports = [\"main\"]");
            }
        }
        None => out.put(
            4,
            format_args!("work_dir = {}", hcl(&process.cwd.display().to_string())),
        ),
    }
    out.put(4, format_args!("command = {}", hcl(program)));
    if !args.is_empty() {
        out.put(4, format_args!("args = {}", hcl_list(args)));
    }
    for word in &unit.command {
        if let Some(variable) = unit
            .env
            .iter()
            .find(|v| word.contains(&format!("${{{}}}", v.name)))
        {
            let why = "Nomad puts the value there as it starts the task";
            out.gap(
                4,
                &format!("the text ${{{}}} in the command", variable.name),
                why,
            );
        }
    }
    out.line(3, "}");
    environment(unit, out);
    let signal = signal_name(process.stop_signal);
    out.put(
        3,
        format_args!("kill_signal = {}", hcl(&format!("SIG{signal}"))),
    );
    out.put(
        3,
        format_args!("kill_timeout = {}", hcl(&span(process.stop_timeout))),
    );
    limits(unit, out);
    out.lacking(3, unit, super::Engine::Nomad);
    out.line(2, "}");
}

fn limits(unit: &Unit, out: &mut Out) {
    let launch = &unit.process.launch;
    if let Some(user) = &launch.user {
        out.put(3, format_args!("user = {}", hcl(user)));
    }
    if launch.group.is_some() {
        out.gap(3, "group", "a task has a user only");
    }
    let mut lines = Vec::new();
    // Megabytes, 10 at least.
    lines.extend(
        launch
            .limits
            .memory
            .map(|n| format!("memory = {}", (n >> 20).max(10))),
    );
    match launch.limits.cpu {
        Some(cpu) if cpu.fract() == 0.0 => lines.push(format!("cores = {cpu}")),
        Some(_) => out.gap(
            3,
            "limits.cpu",
            "Nomad counts whole cores, or MHz of the machine",
        ),
        None => {}
    }
    if !lines.is_empty() {
        out.line(3, "resources {");
        for line in lines {
            out.line(4, &line);
        }
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
            out.put(4, format_args!("{} = {value}", hcl(&variable.name)));
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
        &format!("left out, since the names look secret: nomad var put nomad/jobs {names}"),
    );
    out.line(3, "template {\n        destination = \"secrets/env\"\n        env = true\n        data = <<EOT");
    for name in &unit.secrets {
        out.text.push_str(&format!("{name}={{{{ with nomadVar \"nomad/jobs\" }}}}{{{{ index . \"{name}\" | toJSON }}}}{{{{ end }}}}\n"));
    }
    out.line(0, "EOT\n      }");
}
