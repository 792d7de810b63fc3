//! Upgrades, kills, reloads, restarts and stops in random order, under load.
//!
//! `BPM_CHAOS_ROUNDS` and `BPM_CHAOS_SEED` choose how much, and which order is repeated.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::adopt::written;
use crate::common::load::Load;
use crate::common::{Project, bpm, eventually, free_port, murder};
use crate::disk::files::Random;

/// Print numbered lines, and are never restarted.
const STEADY: [&str; 3] = ["one", "two", "three"];
/// Is restarted and stopped now and then.
const SWAYED: &str = "swayed";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn project() -> (Project, SocketAddr) {
    let port = free_port();
    let mut config = format!(
        "[process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"127.0.0.1:{port}\"]\n"
    );
    for name in STEADY.into_iter().chain([SWAYED]) {
        config +=
            &format!("[process.{name}]\ncommand = [\"FIXTURE\", \"rate\", \"500\", \"36000\"]\n");
    }
    (
        Project::new(&config),
        SocketAddr::from(([127, 0, 0, 1], port)),
    )
}

fn follower(p: &Project) -> Child {
    let mut command = p.command(bpm());
    command.args(["logs", "-f", "one", "-n", "1000000"]);
    let out = fs::File::create(p.root.join("followed")).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Each number once and in order. A kill may lose what bpm had just read and not written yet: a gap, once.
#[track_caller]
fn assert_numbered(what: &str, text: &str, kills: usize) {
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    assert!(!whole.is_empty(), "{what}: no line");
    let number = |line: &str| line.strip_prefix("line ")?.parse::<usize>().ok();
    let (mut next, mut gaps) = (0, 0);
    for line in whole.lines() {
        let Some(found) = number(line).filter(|found| *found >= next) else {
            panic!("{what}: {line:?} instead of line {next}");
        };
        gaps += usize::from(found != next);
        next = found + 1;
    }
    assert!(gaps <= kills, "{what}: {gaps} gaps, {kills} kills");
}

/// Where the lines of the follower and of the file differ first, with what stands around it.
fn difference(followed: &str, whole: &str) -> String {
    let (ours, theirs): (Vec<_>, Vec<_>) = (followed.lines().collect(), whole.lines().collect());
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let around = |lines: &[&str]| {
        let end = lines.len().min(same + 6);
        format!(
            "{} lines, {:?}",
            lines.len(),
            &lines[same.saturating_sub(3)..end]
        )
    };
    format!(
        "line {same}: followed {}; in the file {}",
        around(&ours),
        around(&theirs)
    )
}

#[test]
fn chaos_loses_no_line_no_request_and_no_process() {
    let rounds = number("BPM_CHAOS_ROUNDS").unwrap_or(10);
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
    };
    let seed = number("BPM_CHAOS_SEED").unwrap_or_else(now).max(1);
    println!("BPM_CHAOS_SEED={seed} BPM_CHAOS_ROUNDS={rounds}");
    let mut random = Random(seed);
    let (mut p, address) = project();
    p.up();
    let kept = ["web", "one", "two", "three"];
    let pids = kept.map(|name| p.running(name));
    p.running(SWAYED);
    let load = Load::begin(address, 100);
    let mut follower = follower(&p);
    let (mut restarts, mut up, mut kills) = (0, true, 0);
    for round in 0..rounds {
        load.more(5);
        match random.below(7) {
            0 => {
                let program = p.other_build(&format!("bpm-{round}"));
                // A reload may be under way still.
                eventually(|| {
                    let ended =
                        p.cli(["upgrade".as_ref(), "--binary".as_ref(), program.as_os_str()]);
                    if ended.code == Some(0) {
                        Ok(())
                    } else {
                        Err(ended)
                    }
                });
                fs::remove_file(program).unwrap();
            }
            1 => {
                kills += 1;
                murder(p.pid());
                p.up();
            }
            // Killed while it is taken over.
            2 => {
                kills += 1;
                let program = p.other_build(&format!("bpm-{round}"));
                let mut command = p.command(bpm());
                command.args(["upgrade", "--binary"]).arg(&program);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                let mut upgrade = command.spawn().unwrap();
                load.more(random.below(20) as u64);
                murder(p.pid());
                upgrade.wait().unwrap();
                fs::remove_file(program).unwrap();
                p.up();
            }
            3 => kill(Pid::from_raw(p.pid()), Signal::SIGHUP).unwrap(),
            4 if up => {
                p.cli(["restart", SWAYED]).exits(0);
                restarts += 1;
            }
            5 if up => {
                p.cli(["stop", SWAYED]).exits(0);
                up = false;
            }
            _ => {
                p.cli(["start", SWAYED]).exits(0);
                restarts += u64::from(!up);
                up = true;
            }
        }
        assert_eq!(kept.map(|name| p.running(name)), pids, "round {round}");
    }
    let served = load.end();
    assert!(served.failed.is_empty(), "{:?}", served.failed);
    assert_eq!(served.bodies.len(), 1, "{:?}", served.bodies);
    for name in kept {
        let status = p.status(name);
        let counts = (&status["restarts"], &status["crashes"]);
        assert_eq!(counts, (&json!(0), &json!(0)), "{status}");
    }
    assert_eq!(p.status(SWAYED)["restarts"], json!(restarts));
    p.cli(["stop", "one", "two", "three", SWAYED]).exits(0);
    for name in STEADY {
        assert_numbered(name, &written(&p, name, 1), kills);
    }
    for run in 1..=restarts + 1 {
        assert_numbered(SWAYED, &written(&p, SWAYED, run), kills);
    }
    let whole = written(&p, "one", 1);
    eventually(|| {
        let followed = p.read("followed");
        match followed == whole {
            true => Ok(()),
            false => Err(difference(&followed, &whole)),
        }
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn follower_that_begins_beside_a_takeover_sees_each_line_once() {
    let (mut p, _) = project();
    p.up();
    p.running("one");
    for round in 0..number("BPM_CHAOS_ROUNDS").unwrap_or(10) {
        murder(p.pid());
        let mut follower = follower(&p);
        p.up();
        let before = written(&p, "one", 1).len();
        let followed = eventually(|| {
            let followed = p.read("followed");
            if followed.len() > before {
                Ok(followed)
            } else {
                Err((followed.len(), before))
            }
        });
        follower.kill().unwrap();
        follower.wait().unwrap();
        let end = followed.rfind('\n').map_or(0, |end| end + 1);
        let (followed, whole) = (&followed[..end], written(&p, "one", 1));
        assert!(
            whole.contains(followed),
            "round {round}: {}",
            difference(followed, &whole)
        );
    }
}
