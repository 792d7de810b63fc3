//! bpm is killed at each of its system calls that change something, and the next one goes on.
//!
//! Without `BPM_KILL_STEP` each work is killed once; with it, at each call of that distance (1: at all of them).
//! `BPM_KILL_FIRST` chooses the first one.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::tracer::Tracer;
use crate::common::{Project, bpm, eventually, freeze, lives, murder};

/// What bpm is killed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Its start, with nothing there.
    Begin,
    /// Its start, with all running that a killed one has left.
    Adopt,
    /// A command.
    Order(&'static [&'static str]),
}

const WORK: [Work; 8] = [
    Work::Begin,
    Work::Adopt,
    Work::Order(&["restart", "a"]),
    Work::Order(&["stop", "b"]),
    Work::Order(&["start", "b"]),
    Work::Order(&["reload"]),
    Work::Order(&["restart", "app"]),
    Work::Order(&["stop"]),
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn config(round: u64) -> String {
    format!(
        "release_crash_backoff_initial_seconds = 0\ndev_crash_wait_seconds = 0\n\
         [process.a]\ncommand = [\"FIXTURE\", \"nap\"]\nargs = [\"{round}\"]\nstop_timeout_seconds = 0.2\n\
         ready = {{ command = [\"true\"] }}\n\
         [process.b]\ncommand = \"trap '' TERM; exec sleep 1000\"\nstop_timeout_seconds = 0.05\n\
         [process.app]\ntype = \"rust\"\n"
    )
}

/// Starts bpm in the foreground, held up until it is traced.
fn begin(p: &Project, number: u64) -> (Child, Tracer) {
    let mut command = p.command("sh");
    command.args(["-c", "read x; exec \"$@\" </dev/null", "sh"]);
    command.arg(bpm()).arg(&p.root);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let tracer = Tracer::attach(child.id() as i32, number).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    (child, tracer)
}

/// Does the work; bpm is killed at that call of it, else when it is done. Gives how many calls there were, and whether the
/// order was answered with success.
fn killed_at(p: &Project, work: Work, number: u64) -> (u64, bool) {
    match work {
        Work::Begin | Work::Adopt => {
            let (mut child, tracer) = begin(p, number);
            let pid = child.id() as i32;
            // A command that comes before it serves would start another bpm.
            let serves = || p.on_disk().is_ok_and(|d| d["pid"] == json!(pid));
            eventually(|| match !lives(pid) || serves() {
                true => Ok(()),
                false => Err("it begins"),
            });
            if lives(pid) {
                p.cli(["start", "a", "b", "app"]);
            }
            if lives(pid) {
                murder(pid);
            }
            // The tracer is a thread of its parent, and may have reaped it.
            let _ = child.wait();
            (tracer.calls(), true)
        }
        Work::Order(order) => {
            let pid = p.pid();
            let tracer = Tracer::attach(pid, number).unwrap();
            let done = p.cli(order);
            if lives(pid) {
                murder(pid);
            }
            (tracer.calls(), done.code == Some(0))
        }
    }
}

/// The runs that were seen, by process: the highest number, and the pid that has it.
type Seen = HashMap<String, (u64, i64)>;

/// Name, number of its run and pid, where it has one. None: it has just ended.
fn run_of(status: &Value) -> Option<Option<(String, u64, i64)>> {
    let Some(pid) = status["pid"].as_i64() else {
        return Some(None);
    };
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environ.split(|b| *b == 0);
    let marker = variables.find(|v| v.starts_with(b"BPM_ID="))?;
    let marker = String::from_utf8_lossy(marker);
    let run = marker.rsplit('/').next()?.parse().ok()?;
    Some(Some((status["name"].as_str()?.into(), run, pid)))
}

/// All that runs is what the status says, once; numbers of runs rise.
fn assert_consistent(p: &Project, what: &str, seen: &mut Seen) {
    let all = eventually(|| {
        let data = p.call("get_status", json!({})).ok();
        let all = data["processes"].as_array().unwrap();
        let settled = |p: &Value| p["state"] == "running" || p["state"] == "stopped";
        let pids = all.iter().filter_map(|p| p["pid"].as_i64());
        let mut told: Vec<i64> = pids.collect();
        told.sort_unstable();
        let mut living: Vec<i64> = p
            .inhabitants()
            .iter()
            .map(|(pid, _)| (*pid).into())
            .collect();
        living.sort_unstable();
        // A restart that the bpm before had begun may end one of them right now.
        let runs = all.iter().map(run_of).collect::<Option<Vec<_>>>();
        match runs {
            Some(runs) if all.iter().all(settled) && told == living => Ok(runs),
            _ => Err(format!("{what}: {:?}, {data}", p.inhabitants())),
        }
    });
    for (name, run, pid) in all.into_iter().flatten() {
        let (last, before) = seen.get(&name).copied().unwrap_or_default();
        assert!(
            run > last || (run, pid) == (last, before),
            "{what}: {name} has run {run} (pid {pid}) after {last} (pid {before})"
        );
        seen.insert(name, (run, pid));
    }
    let folder = fs::read_dir(p.state_folder().unwrap()).unwrap().flatten();
    let damaged = folder.filter(|f| f.file_name().to_string_lossy().contains("damaged"));
    assert_eq!(damaged.count(), 0, "{what}");
}

#[test]
fn bpm_killed_at_any_call_leaves_what_the_next_one_goes_on_with() {
    // Each work makes 30 to 220 calls.
    let sweep = number("BPM_KILL_STEP").filter(|step| *step > 0);
    let step = sweep.unwrap_or(60);
    let first = number("BPM_KILL_FIRST").unwrap_or(u64::from(std::process::id()) % step + 1);
    println!("BPM_KILL_STEP={step} BPM_KILL_FIRST={first}");
    let rounds = sweep.map_or(1, |_| usize::MAX);
    let mut p = Project::new(&config(0));
    p.fake_cargo();
    p.source("exec sleep 1000");
    let (mut seen, mut kills, mut round) = (Seen::new(), 0, 0);
    for work in WORK {
        for at in (first..).step_by(step as usize).take(rounds) {
            let what = format!("{work:?} at call {at}");
            round += 1;
            match work {
                Work::Begin => {
                    p.cli(["stop"]);
                }
                Work::Adopt => {
                    p.up();
                    assert_consistent(&p, &what, &mut seen);
                    murder(p.pid());
                }
                Work::Order(order) => {
                    p.up();
                    let started = ["start", "a", "b", "app"];
                    let kept = match order {
                        ["start", "b"] => &started[..2],
                        _ => &started[..],
                    };
                    p.cli(kept).exits(0);
                    if kept.len() == 2 {
                        p.cli(["stop", "b"]).exits(0);
                    }
                    assert_consistent(&p, &what, &mut seen);
                    if order == ["reload"] {
                        p.config(&config(round));
                    }
                }
            }
            let (calls, done) = killed_at(&p, work, at);
            kills += 1;
            p.up();
            assert_consistent(&p, &what, &mut seen);
            if done && work == Work::Order(&["stop", "b"]) {
                assert_eq!(p.status("b")["state"], "stopped", "{what}");
            }
            if done && work == Work::Order(&["start", "b"]) {
                assert_eq!(p.status("b")["state"], "running", "{what}");
            }
            if calls < at {
                println!("{work:?}: {calls} calls");
                break;
            }
        }
    }
    println!("{kills} kills");
    p.cli(["stop"]).exits(0);
    eventually(|| match p.inhabitants() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// The file has all that somebody saw: a kill after that forgets no order, and no build under way.
#[test]
fn what_is_shown_is_written_before() {
    let mut config = r#"
[process.nap]
command = "echo up; exec sleep 1000"
ready = { log = "up" }
"#
    .to_owned();
    for n in 0..24 {
        config += &format!("[process.idle-{n}]\ncommand = \"true\"\nautostart = false\n");
    }
    let mut p = Project::new(&config);
    p.up();
    murder(p.pid());
    // So many exits that writing them takes its time.
    let file = p.state_folder().unwrap().join("state.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    let mut state = read();
    let lines = vec!["x".repeat(1000); 16];
    for (_, kept) in state["processes"].as_object_mut().unwrap() {
        let exit = |run| json!({"run": run, "code": 0, "at": 1, "uptime_ms": 1, "tail": lines});
        kept["exits"] = (1..=32).map(exit).collect();
    }
    fs::write(&file, state.to_string()).unwrap();
    p.up();
    assert!(fs::metadata(&file).unwrap().len() > 1 << 20);
    let daemon = p.pid();
    let mut http = p.http();
    for round in 0..6 {
        let (order, shown, wanted) = match round % 2 {
            0 => ("stop", json!(false), json!("Down")),
            _ => ("start", json!(true), json!("Up")),
        };
        let mut order = p.command(bpm()).args([order, "nap"]).spawn().unwrap();
        eventually(|| {
            let data = http
                .call("get_status", json!({"process": "nap", "verbose": true}))
                .ok();
            let is = &data["processes"][0]["wanted"];
            if *is == shown {
                Ok(())
            } else {
                Err(is.clone())
            }
        });
        freeze(daemon);
        let state = read();
        kill(Pid::from_raw(daemon), Signal::SIGCONT).unwrap();
        let want = &state["processes"]["nap"]["life"]["life"]["want"]["is"];
        assert_eq!(*want, wanted, "round {round}");
        assert!(order.wait().unwrap().success());
    }
}
