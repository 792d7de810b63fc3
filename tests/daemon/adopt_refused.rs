//! Adoption where the kernel refuses something: one before 5.3, 5.6 or 6.15, Yama, a container's filter, an ordinary user.

use std::fs;
use std::os::unix::process::CommandExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};

use crate::adopt::{WEB, get};
use crate::common::sandbox::Refusal;
use crate::common::{Ended, Project, bpm, eventually, free_port, lives, murder};

/// Starts `bpm -d` with one system call refused.
fn up_refusing(project: &Project, refusal: &Refusal) -> Ended {
    let mut command = project.command(bpm());
    let output = refusal.to(command.arg("-d")).output().unwrap();
    Ended::new(output).exits(0)
}

#[test]
fn socket_that_cannot_be_copied_is_bound_again_at_the_next_restart() {
    let port = free_port();
    let mut project = Project::new(&WEB.replace("PORT", &port.to_string()));
    project.file("version", "1");
    project.up();
    let pid = project.running("web");
    murder(project.pid());
    let said = up_refusing(&project, &Refusal::of(libc::SYS_pidfd_getfd));
    assert!(said.out.contains("adopted web"), "{said:?}");
    let status = project.status_json();
    let web = &status["processes"][0];
    assert_eq!(web["pid"], pid, "{web}");
    let warning = web["warnings"][0].as_str().unwrap();
    let words = format!("has 127.0.0.1:{port} alone");
    assert!(warning.contains(&words), "{warning}");
    assert!(get(port).unwrap().starts_with("1 "));
    project.file("version", "2");
    project.cli(["restart", "web"]).exits(0);
    assert!(get(port).unwrap().starts_with("2 "));
    let status = project.status_json();
    assert_eq!(status["processes"][0]["warnings"], json!([]), "{status}");
    project.cli(["stop"]).exits(0);
}

#[test]
fn without_the_calls_nothing_runs_twice_and_it_is_said() {
    let calls = [libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal].map(Refusal::of);
    let old = calls.map(|call| call.with(libc::ENOSYS));
    for refusal in calls.into_iter().chain(old) {
        let mut project = Project::new("[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n");
        project.up();
        let nap = project.running("nap");
        murder(project.pid());
        let said = up_refusing(&project, &refusal);
        let adopted = said.out.contains("adopted nap");
        assert!(
            adopted || said.out.contains("stopped nap (its end can't be watched"),
            "{said:?}"
        );
        assert_eq!(lives(nap), adopted);
        eventually(|| match project.inhabitants() {
            all if all.len() == 2 => Ok(()),
            all => Err(all),
        });
        project.cli(["stop"]).exits(0);
        eventually(|| match project.inhabitants() {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

/// A kernel before 6.15 does not tell the status of a process that is no child.
#[test]
fn end_whose_status_is_refused_is_unknown_and_a_failure() {
    // `PIDFD_GET_INFO`, whatever the size of its structure: `_IOWR(0xFF, 11, ..)`.
    let info = Refusal::of(libc::SYS_ioctl).where_argument(1, 0xFFFF, 0xFF0B);
    for refusal in [info.with(libc::ENOTTY), info.with(libc::EPERM)] {
        let mut project = Project::new(
            "release_crash_backoff_initial_seconds = 0\n[process.nap]\n\
             command = [\"FIXTURE\", \"nap\"]\nrestart = \"on-failure\"\n",
        );
        project.up();
        let nap = project.running("nap");
        murder(project.pid());
        let said = up_refusing(&project, &refusal);
        assert!(said.out.contains("adopted nap"), "{said:?}");
        kill(Pid::from_raw(nap), Signal::SIGTERM).unwrap();
        let after = eventually(|| {
            let status = project.status_json()["processes"][0].clone();
            match status["restarts"] == 1 && status["state"] == "running" {
                true => Ok(status),
                false => Err(status),
            }
        });
        // /proc may show the status before the parent, which is not bpm, has reaped it.
        let exit = &after["exit"];
        let is_known = exit["signal"] == "TERM";
        assert!(is_known || exit["signal"].is_null(), "{after}");
        assert_eq!(
            (&exit["code"], &exit["asked"]),
            (&Value::Null, &json!(false)),
            "{after}"
        );
        project.cli(["stop"]).exits(0);
    }
}

/// As an ordinary user, where Yama's `ptrace_scope` 1 refuses copies of descriptors.
#[test]
fn ordinary_user_adopts_what_is_left() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root becomes another user");
        return;
    }
    const USER: u32 = 4343;
    let port = free_port();
    let config = WEB.replace("PORT", &port.to_string());
    let mut project = Project::new(&format!(
        "{config}[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n"
    ));
    // Programs that this user may execute, wherever the repository lies.
    let programs = project.root.join("programs");
    fs::create_dir(&programs).unwrap();
    let mine = |program: &std::path::Path| {
        let copy = programs.join(program.file_name().unwrap());
        crate::common::copied(program, &copy);
        copy
    };
    let (program, fixture) = (mine(&bpm()), mine(crate::common::fixture()));
    let config = project.read(".mcp-run");
    let theirs = crate::common::fixture().display().to_string();
    project.config(&config.replace(&theirs, &fixture.display().to_string()));
    project.file("version", "1");
    for path in ["..", "../home", ".", ".mcp-run", "version"] {
        let path = project.root.join(path);
        let made = fs::create_dir(&path);
        assert!(made.is_ok() || path.exists());
        std::os::unix::fs::chown(&path, Some(USER), Some(USER)).unwrap();
    }
    project.env("HOME", project.home());
    let run = |args: &[&str], refusal: Option<&Refusal>| {
        let mut command = project.command(&program);
        command.args(args).uid(USER).gid(USER);
        if let Some(refusal) = refusal {
            refusal.to(&mut command);
        }
        Ended::new(command.output().unwrap()).exits(0).out
    };
    let all = || serde_json::from_str::<Value>(&run(&["status", "--json"], None)).unwrap();
    run(&["up"], None);
    let pids = |all: &Value| [0, 1].map(|n| all["processes"][n]["pid"].as_i64().unwrap());
    let before = all();
    let daemon = |all: &Value| all["daemon"]["pid"].as_i64().unwrap() as i32;
    for refusal in [None, Some(Refusal::of(libc::SYS_pidfd_getfd))] {
        murder(daemon(&all()));
        let said = run(&["-d"], refusal.as_ref());
        assert!(
            said.contains("adopted web") && said.contains(", nap (pid"),
            "{said}"
        );
        let after = all();
        assert_eq!(pids(&after), pids(&before), "{after}");
        assert!(get(port).unwrap().starts_with("1 "));
        let warnings = after
            .to_string()
            .contains(&format!("has 127.0.0.1:{port} alone"));
        assert_eq!(warnings, refusal.is_some(), "{after}");
    }
    run(&["stop"], None);
    eventually(|| match project.inhabitants() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}
