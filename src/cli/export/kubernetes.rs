//! Kubernetes: a Deployment, or a Job for a task, and a Service where there is a port.

use super::out::{Out, processors, whole_seconds};
use super::plan::{Check, Plan, Unit, Variable};
use super::quote::{Reader, list, quoted, variables, yaml};
use super::{Engine, Options};
use crate::base::error::{Error, Result};
use crate::config::{Condition, Kind, Probe, Restart, Swap};

/// The image that waits for another process.
const WAITER: &str = "busybox:1.37";

fn text(text: &str) -> String {
    quoted(text, Engine::Kubernetes)
}

/// A name that Kubernetes takes.
fn check_name(name: &str) -> Result<()> {
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
    let better = super::label(name);
    let hint = format!("rename [process.{name}], to {better:?} say");
    Err(Error::cannot(what, why).with_hint(hint))
}

/// The file.
pub(super) fn file(plan: &Plan, options: &Options, out: &mut Out) -> Result<()> {
    for unit in &plan.units {
        let name = unit.name();
        check_name(name)?;
        if unit.env.iter().any(in_map) {
            config_map(plan, unit, out);
        }
        if options.secrets && unit.env.iter().any(|v| super::plan::is_secret(&v.name)) {
            out.note(0, format_args!("{name} has secrets in it (--with-secrets)"));
        }
        workload(plan, unit, options, out);
        if let Some(port) = unit.port {
            service(plan, unit, port, out);
        }
    }
    Ok(())
}

fn head(plan: &Plan, unit: &Unit, version: &str, kind: &str, out: &mut Out) {
    out.line(0, "---");
    out.text(0, "apiVersion", version);
    out.text(0, "kind", kind);
    out.line(0, "metadata:");
    out.text(1, "name", unit.name());
    out.line(1, "labels:");
    labels(plan, unit, 2, out);
}

fn labels(plan: &Plan, unit: &Unit, depth: usize, out: &mut Out) {
    out.text(depth, "app.kubernetes.io/name", unit.name());
    let project = super::label(&plan.name);
    out.text(depth, "app.kubernetes.io/part-of", &project);
}

/// It stands in the ConfigMap: in there nothing is replaced.
fn in_map(variable: &Variable) -> bool {
    variable.from_file && variables(&variable.value).next().is_none()
}

/// The variables of `env_file`.
fn config_map(plan: &Plan, unit: &Unit, out: &mut Out) {
    head(plan, unit, "v1", "ConfigMap", out);
    out.line(0, "data:");
    for variable in unit.env.iter().filter(|v| in_map(v)) {
        // Nothing is replaced in them, and so nothing is doubled.
        out.text(1, &text(&variable.name), &variable.value);
    }
}

fn service(plan: &Plan, unit: &Unit, port: u16, out: &mut Out) {
    head(plan, unit, "v1", "Service", out);
    out.line(0, "spec:");
    out.line(1, "selector:");
    labels(plan, unit, 2, out);
    out.line(1, "ports:");
    out.text(2, "- name", "main");
    out.set(3, "port", port);
    out.set(3, "targetPort", port);
}

fn workload(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let process = &unit.process;
    let is_task = process.kind == Kind::Task;
    if is_task {
        head(plan, unit, "batch/v1", "Job", out);
        out.line(0, "spec:");
        if !unit.wanted {
            out.line(1, "suspend: true");
        }
        if process.restart == Restart::Never {
            out.line(1, "backoffLimit: 0");
        }
    } else {
        head(plan, unit, "apps/v1", "Deployment", out);
        out.line(0, "spec:");
        let replicas = if unit.wanted { options.replicas } else { 0 };
        out.set(1, "replicas", replicas);
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
    out.text(3, "restartPolicy", restart);
    let grace = whole_seconds(process.stop_timeout);
    out.set(3, "terminationGracePeriodSeconds", grace);
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
                let why = "a Deployment can't wait for a Job: the program has to";
                out.gap(3, &setting, why);
            }
            (Condition::Started | Condition::Ready, None) => {
                out.gap(3, &setting, "it has no port to wait for");
            }
            (Condition::Started | Condition::Ready, Some(port)) => {
                if std::mem::take(&mut first) {
                    out.line(3, "initContainers:");
                }
                let name = super::label(&format!("wait-for-{}", need.name));
                out.text(4, "- name", &name);
                out.text(5, "image", WAITER);
                let line = format!("until nc -z -w 2 {} {port}; do sleep 1; done", need.name);
                let command = ["sh".into(), "-c".into(), line];
                out.set(5, "command", list(&command, Engine::Kubernetes));
            }
        }
    }
}

fn container(plan: &Plan, unit: &Unit, options: &Options, out: &mut Out) {
    let name = unit.name();
    out.text(4, "- name", name);
    out.text(5, "image", options.image());
    let (program, args) = unit.command.split_at(1.min(unit.command.len()));
    out.set(5, "command", list(program, Engine::Kubernetes));
    if !args.is_empty() {
        out.set(5, "args", list(args, Engine::Kubernetes));
    }
    out.image_folder(5, unit, &plan.config.root, "workingDir");
    if unit.env.iter().any(in_map) {
        out.line(5, "envFrom:");
        out.put(6, format_args!("- configMapRef: {{name: {}}}", text(name)));
    }
    if !unit.env.iter().all(in_map) || !unit.secrets.is_empty() {
        out.line(5, "env:");
    }
    for key in &unit.secrets {
        let secret = format!("{name}-secrets");
        out.note(6, format_args!("left out, since the name looks secret: kubectl create secret generic {secret} --from-literal={key}=..."));
        out.text(6, "- name", key);
        let (secret, key) = (text(&secret), text(key));
        out.put(
            7,
            format_args!("valueFrom: {{secretKeyRef: {{name: {secret}, key: {key}}}}}"),
        );
    }
    for variable in unit.env.iter().filter(|v| !in_map(v)) {
        out.text(6, "- name", &variable.name);
        out.set(7, "value", yaml(&variable.value, Reader::Kubernetes));
    }
    if let Some(port) = unit.port {
        out.note(5, "it has to listen on 0.0.0.0 there");
        out.line(5, "ports:");
        out.set(6, "- containerPort", port);
    }
    for name in unit.left_open() {
        let setting = format!("${{{name}}}");
        let why = "the file does not set it: add it to env, first";
        out.gap(5, &setting, why);
    }
    probes(unit, out);
    limits(unit, out);
    if unit.process.stop_signal != 15 {
        let why = "Kubernetes sends what the image names (STOPSIGNAL), else TERM";
        out.gap(5, "stop_signal", why);
    }
    out.lacking(5, unit);
}

fn limits(unit: &Unit, out: &mut Out) {
    let launch = &unit.process.launch;
    let mut limits = Vec::new();
    if let Some(bytes) = launch.limits.memory {
        limits.push(format!("memory: {}", text(&bytes.to_string())));
    }
    if let Some(cpu) = launch.limits.cpu {
        limits.push(format!("cpu: {}", text(&processors(cpu))));
    }
    if !limits.is_empty() {
        let limits = limits.join(", ");
        out.put(5, format_args!("resources: {{limits: {{{limits}}}}}"));
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
        let context = context.join(", ");
        out.put(5, format_args!("securityContext: {{{context}}}"));
    }
    out.set_some(5, "stdin", launch.stdin_open.then_some(true));
    out.set_some(5, "tty", launch.tty.then_some(true));
}

fn probes(unit: &Unit, out: &mut Out) {
    if let Some(ready) = &unit.process.ready {
        match handler(unit, &ready.probe) {
            Ok(handler) => {
                let period = whole_seconds(ready.interval);
                let failures = whole_seconds(ready.timeout).div_ceil(period).max(1);
                let startup = [("periodSeconds", period), ("failureThreshold", failures)];
                probe("startupProbe", &handler, &startup, out);
                let readiness = [("periodSeconds", period.max(5))];
                probe("readinessProbe", &handler, &readiness, out);
            }
            Err(why) => out.gap(5, "ready", &why),
        }
    }
    if let Some(health) = &unit.process.health {
        match handler(unit, &health.probe) {
            Ok(handler) => {
                let numbers = [
                    ("periodSeconds", whole_seconds(health.interval)),
                    ("timeoutSeconds", whole_seconds(health.timeout)),
                    ("failureThreshold", u64::from(health.failures)),
                ];
                probe("livenessProbe", &handler, &numbers, out);
            }
            Err(why) => out.gap(5, "health", &why),
        }
    }
}

fn probe(name: &str, handler: &str, numbers: &[(&str, u64)], out: &mut Out) {
    out.put(5, format_args!("{name}:"));
    out.line(6, handler);
    for (name, number) in numbers {
        out.set(6, name, number);
    }
}

fn handler(unit: &Unit, probe: &Probe) -> std::result::Result<String, String> {
    if matches!(probe, Probe::Delay(_)) {
        return Err("it has no delay that counts as ready".into());
    }
    Ok(match unit.check(probe)? {
        Check::Tcp(address) => format!("tcpSocket: {{port: {}}}", address.port()),
        Check::Http(_, target) => {
            let (path, port) = (text(&target.path), target.address.port());
            format!("httpGet: {{path: {path}, port: {port}}}")
        }
        Check::Command(words) => {
            format!("exec: {{command: {}}}", list(&words, Engine::Kubernetes))
        }
    })
}
