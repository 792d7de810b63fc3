//! Stopped means that nothing is left.

use std::collections::BTreeSet;

use crate::common::{Ended, Project, bpm, eventually, freeze, gone, lives, murder};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn stop_kills_a_run_that_ignores_the_signal_and_all_it_made() {
    let mut project = Project::new(
        r#"
[process.stubborn]
command = ["FIXTURE", "stubborn"]
stop_timeout_seconds = 0.3
[process.other]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    project.line("stubborn", "stubborn");
    let other = project.running("other");
    // The leader, a child in its group, a grandchild in a session of its own.
    let mut all = project.inhabitants();
    all.retain(|(pid, _)| *pid != other);
    assert_eq!(all.len(), 3, "{all:?}");

    let done = project.call("stop", json!({"process": "stubborn"})).ok();
    assert_eq!(done["ok"], true, "{done}");
    assert_eq!(done["signalled"], true, "{done}");
    assert_eq!(done["killed"], 3, "{done}");
    assert_eq!(done["leftovers"], json!([]), "{done}");
    for (pid, command) in all {
        assert!(!lives(pid), "{command}");
    }
    let status = project.status("stubborn");
    assert_eq!(status["state"], "stopped");
    assert_eq!(status["wanted"], false);
    assert_eq!(status["exit"]["asked"], true);
    assert_eq!(status["exit"]["signal"], "KILL");
    assert_eq!(project.running("other"), other);
}

#[test]
fn stop_signals_orphans_outside_of_the_group() {
    let mut project = Project::new(
        "[process.web]\ncommand = \"(setsid sleep 1000 &); echo up; exec sleep 1000\"\nstop_timeout_seconds = 1000\n",
    );
    project.serve();
    project.line("web", "up");
    let two = |project: &Project| {
        let mut all = project.inhabitants();
        all.retain(|(_, command)| command.starts_with("sleep"));
        if all.len() == 2 { Ok(()) } else { Err(all) }
    };
    eventually(|| two(&project));
    let done = project.call("stop", json!({"process": "web"})).ok();
    assert_eq!(done["killed"], 0, "{done}");
    assert_eq!(project.inhabitants(), []);
}

#[test]
fn stopping_twice_is_no_error_and_a_stop_is_no_crash() {
    let mut project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    project.serve();
    project.running("nap");
    let first = project.call("stop", json!({"process": "nap"})).ok();
    assert_eq!(first["killed"], 0, "{first}");
    let second = project.call("stop", json!({"process": "nap"})).ok();
    assert_eq!(
        (&second["ok"], &second["signalled"]),
        (&json!(true), &json!(false))
    );
    let status = project.status("nap");
    assert_eq!(status["crashes"], 0);
    assert_eq!(status["pid"], json!(null));
    assert_eq!(status["exit"]["signal"], "TERM");
}

#[test]
fn the_signal_that_was_asked_for_is_sent_to_the_whole_group() {
    let mut project = Project::new(
        r#"
[process.a]
command = "trap 'echo leader' USR1; sh -c 'trap \"echo member; exit\" USR1; echo ready; while :; do sleep 0.05; done'; echo over"
stop_signal = "USR1"
"#,
    );
    project.serve();
    project.line("a", "ready");
    project.call("stop", json!({"process": "a"})).ok();
    let lines: BTreeSet<String> = project.logs("a").into_iter().collect();
    for line in ["leader", "member", "over"] {
        assert!(lines.contains(line), "{lines:?}");
    }
}

#[test]
fn a_stopped_process_hears_the_signal() {
    let mut project = Project::new(
        "[process.nap]\ncommand = [\"sleep\", \"1000\"]\nstop_timeout_seconds = 1000\n",
    );
    project.serve();
    let pid = project.running("nap");
    // Job control has suspended it; without CONT it would never see TERM.
    freeze(pid);
    let done = project.call("stop", json!({"process": "nap"})).ok();
    assert_eq!(done["ok"], true, "{done}");
    assert_eq!(project.status("nap")["exit"]["signal"], "TERM");
}

#[test]
fn leftovers_of_a_crash_are_killed_before_the_next_run() {
    let mut project = Project::new(
        r#"
release_crash_backoff_initial_seconds = 0
[process.leave]
command = ["sh", "-c", "if [ -e again ]; then exec sleep 1000; fi; touch again; exec \"$0\" leave", "FIXTURE"]
"#,
    );
    project.serve();
    let pid = project.running("leave");
    // The grandchild of the first run holds its pipe open and ignores TERM: that delays nothing.
    let all = project.inhabitants();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].0, pid);
    assert_eq!(project.status("leave")["restarts"], 1);
}

#[test]
fn a_daemon_of_a_task_lives_until_bpm_stops() {
    let mut project =
        Project::new("[process.start]\ntype = \"task\"\ncommand = [\"FIXTURE\", \"leave\"]\n");
    project.serve();
    project.status_when("start", |s| s["state"] == "done");
    let all = project.inhabitants();
    assert_eq!(all.len(), 1, "{all:?}");
    project.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    assert!(!lives(all[0].0));
}

#[test]
fn dependents_are_stopped_first() {
    let mut project = Project::new(
        r#"
[process.web]
command = "trap 'sleep 0.2; echo web >>order; exit' TERM; echo up; while :; do sleep 0.05; done"
depends_on = ["db"]
[process.db]
command = "trap 'echo db >>order; exit' TERM; echo up; while :; do sleep 0.05; done"
"#,
    );
    project.serve();
    project.line("db", "up");
    project.line("web", "up");
    project.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    assert_eq!(project.read("order"), "web\ndb\n");
}

#[test]
fn a_waiting_start_can_be_stopped() {
    let mut project = Project::new(
        "dev_crash_wait_seconds = 1000\nrelease_crash_backoff_initial_seconds = 300\n[process.bad]\ncommand = \"exit 1\"\n",
    );
    project.serve();
    project.status_when("bad", |s| s["state"] == "crashed");
    let done = project.call("stop", json!({"process": "bad"})).ok();
    assert_eq!(done["signalled"], false, "{done}");
    let status = project.status("bad");
    assert_eq!(status["state"], "stopped");
    assert_eq!(status["next_start_in_seconds"], json!(null));
}

#[test]
fn an_orphan_is_reaped() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"(setsid sh -c 'echo $$ >orphan; exec sleep 1000' &) ; exec sleep 1000\"\n",
    );
    project.serve();
    project.running("a");
    let orphan: i32 = eventually(|| project.read("orphan").trim().parse());
    murder(orphan);
    // No zombie either: the subreaper has to take it.
    eventually(|| {
        let there = std::path::Path::new("/proc")
            .join(orphan.to_string())
            .exists();
        if there { Err("a zombie") } else { Ok(()) }
    });
    project.running("a");
}

#[test]
fn second_stop_is_answered_with_the_same_end() {
    let mut project = Project::new(
        "[process.web]\ncommand = \"trap 'until test -e go; do sleep 0.01; done; exit 0' TERM; echo up; while :; do sleep 0.01; done\"\nstop_timeout_seconds = 60\n",
    );
    project.serve();
    project.line("web", "up");
    let done = std::thread::scope(|scope| {
        let mut http = project.http();
        let first = scope.spawn(move || http.call("stop", json!({"process": "web"})).ok());
        project.status_when("web", |s| s["state"] == "stopping");
        let second = json!({"process": "web", "timeout_seconds": 0.1});
        project.call("stop", second).ok();
        project.file("go", "");
        first.join().unwrap()
    });
    assert_eq!(done["ok"], true, "{done}");
    assert_eq!(done["signalled"], true, "{done}");
}

#[test]
fn crash_before_a_stop_is_recorded_as_a_crash() {
    let mut project = Project::new(
        "[process.web]\ncommand = \"read go <gate; echo >>passed; echo last words; exit 7\"\n",
    );
    let gate = project.gate();
    project.serve();
    let web = project.running("web");
    // bpm learns of the end and of the order at once.
    let mut http = project.http();
    project.signal(Signal::SIGSTOP);
    gate.open();
    gone(web);
    http.send_call("stop", json!({"process": "web"}));
    project.signal(Signal::SIGCONT);
    assert_eq!(http.response().status, 200);
    let exit = project.status("web")["exit"].clone();
    assert_eq!((&exit["code"], &exit["asked"]), (&json!(7), &json!(false)));
    assert_eq!(project.status("web")["state"], "stopped");
}

#[test]
fn stop_to_leader_lets_the_program_hear_the_signal_once() {
    for (stop_to, times) in [("leader", 1), ("group", 2)] {
        let mut project = Project::new(&format!(
            "[process.a]\ncommand = [\"sh\", \"runner\"]\nstop_to = \"{stop_to}\"\nstop_timeout_seconds = 10\n"
        ));
        // A runner that passes TERM on a little later, and a program that listens for a while after the first.
        let runner = "trap 'sleep 0.2; kill -TERM $child; wait $child; exit 0' TERM\n\
                      sh counter & child=$!\nwait $child; wait $child\n";
        let counter = format!(
            "heard=0; trap 'echo heard; heard=$((heard+1))' TERM; echo up\n\
             until [ $heard -ge {times} ]; do sleep 0.05; done\n\
             for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.05; done\n"
        );
        project.file("runner", runner);
        project.file("counter", &counter);
        project.serve();
        project.line("a", "up");
        let stopped = project.call("stop", json!({"process": "a"})).ok();
        assert_eq!(stopped["killed"], 0, "{stopped}");
        let heard = project.logs("a").iter().filter(|l| *l == "heard").count();
        assert_eq!(heard, times, "{stop_to}");
    }
}

#[test]
fn stop_to_leader_signals_the_rest_once_the_leader_has_ended() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"sh\", \"-c\", \"sh counter & exec sleep 1000\"]\nstop_to = \"leader\"\n",
    );
    let counter =
        "trap 'seq 10000; echo heard; exit 0' TERM; echo up; while :; do sleep 0.05; done\n";
    project.file("counter", counter);
    project.serve();
    project.line("a", "up");
    let stopped = project.call("stop", json!({"process": "a"})).ok();
    assert_eq!(stopped["killed"], 0, "{stopped}");
    // All that it wrote is in the log before the stop is answered.
    assert!(project.logs("a").contains(&"heard".to_string()));
}

/// Traces a process so that it can't end, until it is dropped. None: that is not allowed here.
struct Tracer(
    Option<std::thread::JoinHandle<()>>,
    std::sync::mpsc::Sender<()>,
);

impl Tracer {
    #[allow(unsafe_code)]
    fn of(pid: i32) -> Option<Self> {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (told, traced) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: touches no memory of ours; the tracee is let go when this thread ends.
            let seized =
                unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, libc::PTRACE_O_TRACEEXIT) };
            told.send(seized == 0).unwrap();
            let _ = wait.recv();
        });
        let own = Self(Some(thread), done);
        traced.recv().unwrap().then_some(own)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.1 = std::sync::mpsc::channel().0;
        let _ = self.0.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn tracer_that_holds_a_process_is_named() {
    let mut project = Project::new(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\nstop_timeout_seconds = 0.1\n",
    );
    project.serve();
    let first = project.running("web");
    let Some(tracer) = Tracer::of(first) else {
        eprintln!("skipped: processes may not be traced here");
        return;
    };
    let me = format!("held by its tracer, pid {}", std::process::id());
    let answer = project.call("restart", json!({"process": "web"}));
    let left = answer.data["leftovers"][0]["pid"].as_i64();
    assert_eq!(left, Some(i64::from(first)), "{answer:?}");
    assert!(answer.text.contains(&me), "{}", answer.text);
    assert!(answer.text.contains(&first.to_string()), "{}", answer.text);
    let second = project.running("web");
    assert_ne!(first, second);
    drop(tracer);
    gone(first);
    let tracer = Tracer::of(second).unwrap();
    let said = project.cli(["stop", "web"]).exits(1);
    assert!(said.err.contains(&me) || said.out.contains(&me), "{said:?}");
    // It was not killed, and a later stop says so as well.
    let again = project.call("stop", json!({"process": "web"}));
    assert_eq!(again.data["killed"], 0);
    assert!(again.text.contains(&me), "{}", again.text);
    let named = format!("pid {second} of web survived KILL and is still there: sleep ({me}");
    let shown = |there: bool| {
        eventually(|| {
            let status = project.cli(["status"]).out;
            match status.contains(&named) == there {
                true => Ok(()),
                false => Err(status),
            }
        });
    };
    shown(true);
    drop(tracer);
    shown(false);
}

#[test]
fn survivor_is_named_by_reload_and_by_a_stop_of_all() {
    let config = |seconds: u32| {
        format!("[process.web]\ncommand = [\"sleep\", \"{seconds}\"]\nstop_timeout_seconds = 0.1\n")
    };
    let mut project = Project::new(&config(1000));
    project.serve();
    let first = project.running("web");
    let Some(tracer) = Tracer::of(first) else {
        eprintln!("skipped: processes may not be traced here");
        return;
    };
    project.config(&config(1001));
    let named = format!("still there: pid {first} ");
    let said = project.cli(["reload"]);
    assert!(
        said.err.contains(&named) || said.out.contains(&named),
        "{said:?}"
    );
    let said = project.cli(["stop"]).exits(1);
    assert!(said.out.contains(&named), "{said:?}");
    project.ended();
    // Its daemon is gone, and it still there.
    assert!(project.cli(["status"]).exits(3).out.contains(&named));
    assert!(project.cli(["stop"]).exits(1).out.contains(&named));
    drop(tracer);
    gone(first);
    project.cli(["stop"]).exits(0);
}

#[test]
fn stop_without_proc_waits_for_the_daemon_and_kills_it() {
    let project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    let without_proc = |args: &str| {
        let line = format!(
            "mount -t tmpfs none /proc || exit 77; exec '{}' {args}",
            bpm().display()
        );
        let mut command = project.command("unshare");
        Ended::new(command.args(["-rm", "sh", "-c", &line]).output().unwrap())
    };
    let daemon = || {
        let path = project.state_folder().unwrap().join("daemon.json");
        let descriptor: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        i32::try_from(descriptor["pid"].as_i64().unwrap()).unwrap()
    };
    let started = without_proc("-d");
    if started.code == Some(77) || started.err.contains("unshare") {
        return eprintln!("skipped: no namespaces to be had");
    }
    started.exits(0);
    for _ in 0..5 {
        let pid = daemon();
        without_proc("stop").exits(0);
        assert!(!lives(pid), "stop came back before the daemon had ended");
        without_proc("status").exits(3);
        without_proc("-d").exits(0);
    }
    let pid = daemon();
    freeze(pid);
    without_proc("stop").exits(1).says(&["does not answer"]);
    without_proc("stop --force").exits(0);
    assert!(!lives(pid), "said to be killed, and not");
    without_proc("status").exits(3);
}

#[test]
fn status_beside_a_stop_tells_running_or_stopped() {
    let project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    for _ in 0..20 {
        project.cli(["-d"]).exits(0);
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let said = project.cli(["status"]);
                            match said.code {
                                Some(0) => {}
                                Some(3) => break,
                                _ => panic!("{said:?}"),
                            }
                        }
                    })
                })
                .collect();
            project.cli(["stop"]).exits(0);
            for asking in asking {
                asking.join().unwrap();
            }
        });
    }
}
