//! `on_event`: commands that follow events.

use serde_json::json;

use crate::common::{Project, eventually, free_port, murder};

/// Appends what it was told of an event to the file `events`.
const TELL: &str = r#""echo \"$BPM_EVENT|$BPM_PROCESS|$BPM_RUN|$BPM_REASON|$BPM_URL\" >> events""#;

fn events(project: &Project, count: usize) -> Vec<String> {
    eventually(|| {
        let text = std::fs::read_to_string(project.root.join("events")).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(Into::into).collect();
        if lines.len() < count {
            Err(lines)
        } else {
            Ok(lines)
        }
    })
}

#[test]
fn event_crash_and_recovery_are_told_once() {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 0.1
on_event = {TELL}
[process.web]
command = "echo x >> runs; test $(wc -l < runs) -gt 3 && exec sleep 1000; exit 3"
port = {port}
ready.delay_seconds = 0.1
"#
    ));
    project.serve();
    let told = events(&project, 2);
    assert_eq!(
        told,
        [
            format!("crashed|web|1|exit code 3|http://127.0.0.1:{port}"),
            format!("recovered|web|4||http://127.0.0.1:{port}")
        ]
    );
}

#[test]
fn event_of_a_held_socket_has_its_address() {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
on_event.crashed = {TELL}
[process.web]
command = ["false"]
listen = ["unix:/tmp/bpm-hook-{port}.sock", "0.0.0.0:{port}"]
"#
    ));
    project.serve();
    let told = events(&project, 1);
    let wanted = format!("crashed|web|1|exit code 1|http://127.0.0.1:{port}");
    assert_eq!(told, [wanted]);
}

#[test]
fn event_has_its_own_command_and_its_output_is_in_the_daemons_log() {
    let mut project = Project::new(&format!(
        r#"
[process.once]
type = "task"
command = ["false"]
on_event.failed = {TELL}
on_event.crashed = ["sh", "-c", "echo said; pwd >&2; exit 7"]
[process.built]
command = "sleep 1000"
build = "exit 5"
on_event.build-failed = {TELL}
"#
    ));
    project.serve();
    let mut told = events(&project, 2);
    told.sort();
    assert!(
        told[0].starts_with("build-failed|built|0|exit code 5|"),
        "{told:?}"
    );
    assert!(told[1].starts_with("failed|once|1|"), "{told:?}");
    let root = project.root.display().to_string();
    for part in [
        "on_event crashed of once: said",
        &root,
        "on_event crashed of once: exit code 7",
    ] {
        eventually(|| match project.err() {
            log if log.contains(part) => Ok(()),
            log => Err(log),
        });
    }
}

#[test]
fn event_command_of_a_reload_is_run_without_a_restart() {
    let config =
        |on_event: &str| format!("{on_event}[process.web]\ncommand = \"exec sleep 1000\"\n");
    let mut project = Project::new(&config(""));
    project.serve();
    let pid = project.running("web");
    project.config(&config(&format!("on_event.crashed = {TELL}\n")));
    let answer = project.call("reload", json!({})).ok();
    assert_eq!(answer["changed"], json!([]), "{answer}");
    assert_eq!(project.running("web"), pid);
    murder(pid);
    assert_eq!(events(&project, 1), ["crashed|web|1|signal KILL|"]);
}

#[test]
fn event_command_in_a_list_gets_its_words_as_they_are() {
    let mut project = Project::new(
        r#"
[process.once]
type = "task"
command = ["false"]
on_event.failed = ["echo", "${BPM_EVENT}", "$$"]
on_event.crashed = "echo ${BPM_EVENT} of $BPM_PROCESS"
"#,
    );
    project.serve();
    for part in ["of once: ${BPM_EVENT} $$", "of once: crashed of once"] {
        eventually(|| match project.err() {
            log if log.contains(part) => Ok(()),
            log => Err(log),
        });
    }
}
