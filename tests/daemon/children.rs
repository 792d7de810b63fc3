//! Children that misbehave, and clients that never rest: bpm goes on for all others, and nothing of it grows.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::common::{Project, all_attacks, eventually};

/// The resident memory of a process, in KiB.
fn memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// Every number once and in its order: what the fixture's `rate` prints is kept whole.
#[track_caller]
fn has_no_gap(lines: &[String]) {
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {n}"));
    }
}

/// The number that it has printed last.
fn newest(project: &Project, process: &str) -> u64 {
    let lines = project.logs(process);
    let last = lines.last().and_then(|l| l.strip_prefix("line "));
    last.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn output_of_escapes_and_endless_lines_is_kept_and_searched() {
    let mut project = Project::new(
        "[process.web]\ncommand = '''\n\
         head -c 10000000 /dev/zero | tr '\\0' x; echo\n\
         yes \"$(printf '\\033[')\" | tr -d '\\n' | head -c 4000000; echo\n\
         printf '\\033]0;'; head -c 3000000 /dev/zero | tr '\\0' y; echo\n\
         echo the end; exec sleep 1000'''\n",
    );
    project.serve();
    project.line("web", "the end");
    for args in [
        json!({"process": "web", "pattern": "end"}),
        json!({"process": "web", "pattern": "(x+x+)+y"}),
        json!({"process": "web", "tail": 1000}),
    ] {
        let text = project.call("search_logs", args.clone()).text();
        assert!(
            text.len() < 40_000 && !text.contains('\u{1b}'),
            "{args}: {} bytes",
            text.len()
        );
    }
    let kept = memory(project.pid());
    assert!(kept < 150_000, "{kept} KiB");
}

#[test]
fn storm_of_orphans_leaves_nothing_and_costs_others_no_line() {
    let all = if all_attacks() { 10_000 } else { 500 };
    let mut project = Project::new(&format!(
        "[process.good]\ncommand = [\"FIXTURE\", \"rate\", \"200\", \"3600\"]\n\
         [process.storm]\ncommand = '''\n\
         n=0; while [ $n -lt {all} ]; do (setsid sleep 0.1 &); n=$((n + 1)); done\n\
         trap '(setsid sleep 1000 &)' TERM\n\
         (setsid sleep 1000 &); echo over; while :; do sleep 1000 & wait; done'''\n\
         stop_timeout_seconds = 0.5\n"
    ));
    project.serve();
    project.line("good", "line 100");
    project.line("storm", "over");
    project.call("stop", json!({"process": "storm"})).text();
    let seen = newest(&project, "good");
    project.line("good", &format!("line {}", seen + 50));
    has_no_gap(&project.lines("search_logs", json!({"process": "good", "head": 1000})));
    // What is left of it fails the test at its end.
    project.cli(["stop"]).exits(0);
}

/// The files that a process's lines are in.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).collect()
}

#[test]
fn process_that_spoils_its_own_log_files_loses_no_line_in_memory() {
    let rounds = if all_attacks() { 80 } else { 10 };
    let mut project =
        Project::new("[process.web]\ncommand = [\"FIXTURE\", \"rate\", \"200\", \"3600\"]\n");
    project.serve();
    project.line("web", "line 20");
    let folder = project.state_folder().unwrap().join("logs/web");
    let precious = project.root.join("precious");
    std::fs::write(&precious, "precious").unwrap();
    for round in 0..rounds {
        for path in files(&folder) {
            let _ = match round % 5 {
                0 => std::fs::remove_file(&path),
                1 => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)),
                2 => std::fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|f| f.set_len(0)),
                3 => std::fs::remove_file(&path).and_then(|()| Ok(mkfifo(&path, Mode::S_IRWXU)?)),
                _ => std::fs::remove_file(&path).and_then(|()| symlink(&precious, &path)),
            };
        }
        let seen = newest(&project, "web");
        eventually(|| match newest(&project, "web") {
            now if now > seen => Ok(()),
            now => Err(now),
        });
    }
    has_no_gap(&project.lines("search_logs", json!({"process": "web", "head": 1000})));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn crash_loops_and_busy_clients_leave_nothing_behind() {
    const CLIENTS: usize = 8;
    let rounds = if all_attacks() { 300 } else { 30 };
    let mut config = String::from("release_crash_backoff_initial_seconds = 0\n");
    for n in 0..4 {
        config += &format!("[process.loop{n}]\ncommand = \"echo error: {n}; exit {n}\"\n");
    }
    for n in 0..4 {
        config += &format!("[process.nap{n}]\ncommand = [\"sleep\", \"1000\"]\n");
    }
    let mut project = Project::new(&config);
    project.serve();
    for n in 0..4 {
        project.running(&format!("nap{n}"));
        project.status_when(&format!("loop{n}"), |s| s["crashes"].as_u64() > Some(2));
    }
    let (fds, before) = (descriptors(project.pid()), memory(project.pid()));
    let project = &project;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut http = project.http();
                for round in 0..rounds {
                    let (tool, args) = match (client + round) % 5 {
                        0 => ("get_status", json!({})),
                        1 => ("get_errors", json!({})),
                        2 => (
                            "search_logs",
                            json!({"process": format!("loop{}", client % 4)}),
                        ),
                        3 => ("search_logs", json!({"process": "*", "pattern": "error"})),
                        _ if client < 4 => ("restart", json!({"process": format!("nap{client}")})),
                        _ => ("get_status", json!({"verbose": true})),
                    };
                    let answer = http.call(tool, args.clone());
                    assert!(!answer.failed, "{tool} {args}: {}", answer.text);
                }
            });
        }
    });
    eventually(|| match descriptors(project.pid()) {
        now if now <= fds + 4 => Ok(()),
        now => Err((fds, now)),
    });
    let after = memory(project.pid());
    assert!(after < before + 60_000, "{before} KiB, then {after}");
    let state = std::fs::metadata(project.state_folder().unwrap().join("state.json")).unwrap();
    assert!(state.len() < 1 << 20, "{}", state.len());
}
