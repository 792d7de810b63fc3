//! Kubernetes: a Deployment, or a Job for a task, and a Service where there is a port.

use super::Options;
use super::out::{Out, processors, whole_seconds};
use super::plan::{Plan, Unit, Variable};
use super::quote::{Reader, variables, yaml, yaml_list};
use crate::base::error::{Error, Result};
use crate::config::{Condition, Kind, Probe, Restart, Swap, parse_http, parse_tcp};

/// The image that waits for another process.
const WAITER: &str = "busybox:1.37";

fn text(text: &str) -> String {
    yaml(text, Reader::Plain)
}

/// A name that Kubernetes takes.
pub(super) fn check_name(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fine = bytes.iter().all(|b| edge(b) || *b == b'-')
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.len() <= 63;
    if fine {
        return Ok(());
    }
    let what = format!("export {name:?} to kubernetes");
    let why = "a name there has small letters, digits and \"-\" only, at most 63, none of them \"-\" at an end";
    let mut better = super::label(name);
    better.truncate(63);
    let hint = format!(
        "rename [process.{name}], to {:?} say",
        better.trim_matches('-')
    );
    Err(Error::cannot(what, why).with_hint(hint))
}

/// The file.
pub(super) fn file(plan: &Plan, options: &Options, out: &mut Out) -> Result<()> {
    for unit in &plan.units {
        check_name(unit.name())?;
        if unit.env.iter().any(in_map) {
            config_map(plan, unit, out);
        }
        if options.secrets && unit.env.iter().any(|v| super::plan::is_secret(&v.name)) {
            out.note(
                0,
                &format!("{} has secrets in it (--with-secrets)", unit.name()),
            );
        }
        workload(plan, unit, options, out);
        if let Some(port) = unit.port {
            service(plan, unit, port, out);
        }
    }
    Ok(())
}

fn head(plan: &Plan, unit: &Unit, version: &str, kind: &str, name: &str, out: &mut Out) {
    out.line(0, "---");
    out.put(
        0,
        format_args!(
            "apiVersion: {}\nkind: {}\nmetadata:",
            text(version),
            text(kind)
        ),
    );
    out.put(1, format_args!("name: {}", text(name)));
    out.line(1, "labels:");
    labels(plan, unit, 2, out);
}

fn labels(plan: &Plan, unit: &Unit, depth: usize, out: &mut Out) {
    out.put(
        depth,
        format_args!("app.kubernetes.io/name: {}", text(unit.name())),
    );
    let project = super::label(&plan.name);
    out.put(
        depth,
        format_args!("app.kubernetes.io/part-of: {}", text(&project)),
    );
}

/// It stands in the ConfigMap: in there nothing is replaced.
fn in_map(variable: &Variable) -> bool {
    variable.from_file && variables(&variable.value).next().is_none()
}

/// The variables of `env_file`.
fn config_map(plan: &Plan, unit: &Unit, out: &mut Out) {
    head(plan, unit, "v1", "ConfigMap", unit.name(), out);
    out.line(0, "data:");
    for variable in unit.env.iter().filter(|v| in_map(v)) {
        // Nothing is replaced in them, and so nothing is doubled.
        out.put(
            1,
            format_args!("{}: {}", text(&variable.name), text(&variable.value)),
        );
    }
}

fn service(plan: &Plan, unit: &Unit, port: u16, out: &mut Out) {
    head(plan, unit, "v1", "Service", unit.name(), out);
    out.line(0, "spec:");
    out.line(1, "selector:");
    labels(plan, unit, 2, out);
    out.line(1, "ports:");
    out.put(
        2,
        format_args!("- name: \"main\"\n      port: {port}\n      targetPort: {port}"),
    );
}

fn workload(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    let is_task = process.kind == Kind::Task;
    if is_task {
        head(plan, unit, "batch/v1", "Job", unit.name(), out);
        out.line(0, "spec:");
        if !unit.wanted {
            out.line(1, "suspend: true");
        }
        if process.restart == Restart::Never {
            out.line(1, "backoffLimit: 0");
        }
    } else {
        head(plan, unit, "apps/v1", "Deployment", unit.name(), out);
        out.line(0, "spec:");
        let replicas = if unit.wanted { options.replicas } else { 0 };
        out.put(1, format_args!("replicas: {replicas}"));
        if process.swap == Swap::StopStart {
            out.line(1, "strategy: {type: \"Recreate\"}");
        }
        out.line(1, "selector:\n    matchLabels:");
        labels(plan, unit, 3, out);
    }
    out.line(1, "template:\n    metadata:\n      labels:");
    labels(plan, unit, 4, out);
    out.line(2, "spec:");
    let restart = match (is_task, process.restart) {
        (true, Restart::Never) => "Never",
        (true, Restart::OnFailure) => "OnFailure",
        (true, Restart::Always) => {
            out.gap(3, "restart = \"always\"", "a Job ends when it is done");
            "OnFailure"
        }
        (false, Restart::Always) => "Always",
        (false, Restart::OnFailure | Restart::Never) => {
            out.gap(3, "restart", "a Deployment always starts again");
            "Always"
        }
    };
    out.put(3, format_args!("restartPolicy: {}", text(restart)));
    let grace = whole_seconds(process.stop_timeout);
    out.put(3, format_args!("terminationGracePeriodSeconds: {grace}"));
    waiters(plan, unit, out);
    out.line(3, "containers:");
    container(plan, unit, options, out);
}

/// Containers that end once what the process depends on can be reached.
fn waiters(plan: &Plan, unit: &Unit, out: &mut Out) {
    let mut first = true;
    for need in &unit.process.depends_on {
        let setting = format!("depends_on.{}", need.name);
        let port = plan.unit(&need.name).and_then(|other| other.port);
        match (need.until, port) {
            (Condition::Completed, _) => {
                out.gap(
                    3,
                    &setting,
                    "a Deployment can't wait for a Job: the program has to",
                );
            }
            (Condition::Started | Condition::Ready, None) => {
                out.gap(3, &setting, "it has no port to wait for");
            }
            (Condition::Started | Condition::Ready, Some(port)) => {
                if std::mem::take(&mut first) {
                    out.line(3, "initContainers:");
                }
                let name = super::label(&format!("wait-for-{}", need.name));
                let name: String = name.chars().take(63).collect();
                out.put(
                    4,
                    format_args!("- name: {}", text(name.trim_end_matches('-'))),
                );
                out.put(5, format_args!("image: {}", text(WAITER)));
                let line = format!("until nc -z -w 2 {} {port}; do sleep 1; done", need.name);
                out.put(
                    5,
                    format_args!(
                        "command: {}",
                        yaml_list(&["sh".into(), "-c".into(), line], Reader::Kubernetes)
                    ),
                );
            }
        }
    }
}

fn container(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    out.put(4, format_args!("- name: {}", text(unit.name())));
    out.put(
        5,
        format_args!(
            "image: {}",
            text(options.image.as_deref().unwrap_or_default())
        ),
    );
    let (program, args) = unit.command.split_at(1.min(unit.command.len()));
    out.put(
        5,
        format_args!("command: {}", yaml_list(program, Reader::Kubernetes)),
    );
    if !args.is_empty() {
        out.put(
            5,
            format_args!("args: {}", yaml_list(args, Reader::Kubernetes)),
        );
    }
    match unit.below(&plan.config.root) {
        Some("") => {}
        _ => out.gap(
            5,
            "cwd",
            "where that folder is in the image is not known: add workingDir",
        ),
    }
    if unit.env.iter().any(in_map) {
        let name = text(unit.name());
        out.put(
            5,
            format_args!("envFrom:\n            - configMapRef: {{name: {name}}}"),
        );
    }
    if !unit.env.iter().all(in_map) || !unit.secrets.is_empty() {
        out.line(5, "env:");
    }
    for name in &unit.secrets {
        let secret = format!("{}-secrets", unit.name());
        out.note(6, &format!("left out, since the name looks secret: kubectl create secret generic {secret} --from-literal={name}=..."));
        out.put(6, format_args!("- name: {}", text(name)));
        out.put(
            7,
            format_args!(
                "valueFrom: {{secretKeyRef: {{name: {}, key: {}}}}}",
                text(&secret),
                text(name)
            ),
        );
    }
    for variable in unit.env.iter().filter(|v| !in_map(v)) {
        out.put(6, format_args!("- name: {}", text(&variable.name)));
        out.put(
            7,
            format_args!("value: {}", yaml(&variable.value, Reader::Kubernetes)),
        );
    }
    if let Some(port) = unit.port {
        out.note(5, "it has to listen on 0.0.0.0 there");
        out.put(
            5,
            format_args!("ports:\n            - containerPort: {port}"),
        );
    }
    for name in unit.left_open() {
        let setting = format!("${{{name}}}");
        out.gap(
            5,
            &setting,
            "the file does not set it: add it to env, first",
        );
    }
    probes(unit, out);
    limits(unit, out);
    if process.stop_signal != 15 {
        out.gap(
            5,
            "stop_signal",
            "Kubernetes sends what the image names (STOPSIGNAL), else TERM",
        );
    }
    out.lacking(5, unit, super::Engine::Kubernetes);
}

fn limits(unit: &Unit, out: &mut Out) {
    let launch = &unit.process.launch;
    let mut limits = Vec::new();
    limits.extend(
        launch
            .limits
            .memory
            .map(|n| format!("memory: {}", text(&n.to_string()))),
    );
    limits.extend(
        launch
            .limits
            .cpu
            .map(|n| format!("cpu: {}", text(&processors(n)))),
    );
    if !limits.is_empty() {
        out.put(
            5,
            format_args!("resources: {{limits: {{{}}}}}", limits.join(", ")),
        );
    }
    let mut context = Vec::new();
    for (setting, key, value) in [
        ("user", "runAsUser", &launch.user),
        ("group", "runAsGroup", &launch.group),
    ] {
        match value.as_ref().map(|value| value.parse::<u32>()) {
            Some(Ok(number)) => context.push(format!("{key}: {number}")),
            Some(Err(_)) => out.gap(5, setting, "Kubernetes takes numbers only"),
            None => {}
        }
    }
    if !context.is_empty() {
        out.put(
            5,
            format_args!("securityContext: {{{}}}", context.join(", ")),
        );
    }
    for (key, set) in [("stdin", launch.stdin_open), ("tty", launch.tty)] {
        if set {
            out.put(5, format_args!("{key}: true"));
        }
    }
}

fn probes(unit: &Unit, out: &mut Out) {
    if let Some(ready) = &unit.process.ready {
        match handler(unit, &ready.probe) {
            Ok(lines) => {
                let period = whole_seconds(ready.interval);
                let failures = whole_seconds(ready.timeout).div_ceil(period).max(1);
                probe(
                    "startupProbe",
                    &lines,
                    &[("periodSeconds", period), ("failureThreshold", failures)],
                    out,
                );
                probe(
                    "readinessProbe",
                    &lines,
                    &[("periodSeconds", period.max(5))],
                    out,
                );
            }
            Err(why) => out.gap(5, "ready", &why),
        }
    }
    if let Some(health) = &unit.process.health {
        match handler(unit, &health.probe) {
            Ok(lines) => {
                let numbers = [
                    ("periodSeconds", whole_seconds(health.interval)),
                    ("timeoutSeconds", whole_seconds(health.timeout)),
                    ("failureThreshold", u64::from(health.failures)),
                ];
                probe("livenessProbe", &lines, &numbers, out);
            }
            Err(why) => out.gap(5, "health", &why),
        }
    }
}

fn probe(name: &str, handler: &str, numbers: &[(&str, u64)], out: &mut Out) {
    out.put(5, format_args!("{name}:"));
    out.line(6, handler);
    for (name, number) in numbers {
        out.put(6, format_args!("{name}: {number}"));
    }
}

fn handler(unit: &Unit, probe: &Probe) -> std::result::Result<String, String> {
    match probe {
        Probe::Port => Ok(format!(
            "tcpSocket: {{port: {}}}",
            unit.port.unwrap_or_default()
        )),
        Probe::Tcp(text) => {
            let address = parse_tcp(&unit.expand(text)?)?;
            Ok(format!("tcpSocket: {{port: {}}}", address.port()))
        }
        Probe::Http(url) => {
            let target = parse_http(&unit.expand(url)?)?;
            let (path, port) = (text(&target.path), target.address.port());
            Ok(format!("httpGet: {{path: {path}, port: {port}}}"))
        }
        Probe::Command(words) => {
            let words: std::result::Result<Vec<String>, String> =
                words.iter().map(|word| unit.expand(word)).collect();
            Ok(format!(
                "exec: {{command: {}}}",
                yaml_list(&words?, Reader::Kubernetes)
            ))
        }
        Probe::Log(_) => Err("it reads no logs".into()),
        Probe::Notify => Err("it has no NOTIFY_SOCKET".into()),
        Probe::Delay(_) => Err("it has no delay that counts as ready".into()),
    }
}
