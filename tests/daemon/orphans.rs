//! Processes that lost their parents: each belongs to a run, to a build or to nobody, and what lives is called stopped by no
//! answer.

use std::path::{Path, PathBuf};

use crate::common::{Project, eventually, freeze, lives, murder};
use nix::sys::signal::Signal;
use serde_json::json;

/// Pids of the `sleep` with that time that live.
fn sleepers(seconds: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let wanted = format!("sleep\0{seconds}\0");
    let is_one = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == wanted.as_bytes()
    };
    pids.filter(is_one).collect()
}

/// The folder of the cgroup that a process is in.
fn folder_of(pid: i32) -> Option<PathBuf> {
    let of = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = of.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mount = mounts
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"))?;
    Some(Path::new(mount.split(' ').nth(1)?).join(own))
}

/// Waits until the descendant without parent, session and environment is there.
fn escaped(seconds: &str) -> i32 {
    eventually(|| sleepers(seconds).first().copied().ok_or("not yet"))
}

/// A process whose descendant leaves everything by which it is known.
fn escaping(top: &str, seconds: &str) -> Project {
    Project::new(&format!(
        "{top}\n[process.a]\ncommand = '(env -i setsid sleep {seconds} &); exec sleep 1000'\n"
    ))
}

#[test]
fn stop_of_all_ends_an_orphan_without_marker_and_session() {
    for cgroup in ["cgroup = false", "cgroup = \"auto\""] {
        let seconds = format!("43{}", std::process::id());
        let mut project = escaping(cgroup, &seconds);
        project.serve();
        escaped(&seconds);
        project.signal(Signal::SIGTERM);
        eventually(|| project.ended().ok_or("it runs"));
        assert!(sleepers(&seconds).is_empty(), "{cgroup}");
    }
}

#[test]
fn stop_ends_an_orphan_that_only_one_process_can_have_made() {
    let seconds = format!("45{}", std::process::id());
    // Its output tells of the first, its beginning of the second: then there was no other.
    let pipes = escaping(
        "cgroup = false\n[process.b]\ncommand = 'exec sleep 1000'",
        &seconds,
    );
    let silent = Project::new(&format!(
        "cgroup = false\n[process.a]\ncommand = '(env -i setsid sleep {seconds} >/dev/null 2>&1 &); exec sleep 1000'\n"
    ));
    for mut project in [pipes, silent] {
        project.serve();
        project.running("a");
        escaped(&seconds);
        project.cli(["stop", "a"]).exits(0);
        assert!(sleepers(&seconds).is_empty());
        let warnings = project.call("get_status", json!({"verbose": true})).ok();
        assert_eq!(warnings["warnings"], json!([]));
    }
}

#[test]
fn stop_names_an_orphan_that_two_processes_can_have_made() {
    let seconds = format!("46{}", std::process::id());
    let mut project = Project::new(&format!(
        "cgroup = false
[process.b]
command = ['sleep', '1000']
[process.a]
depends_on = ['b']
command = '(env -i setsid sleep {seconds} >/dev/null 2>&1 &); exec sleep 1000'
"
    ));
    project.serve();
    project.running("a");
    let pid = escaped(&seconds);
    let told = format!("pid {pid} sleep (may be of b or a, nothing tells which");
    let said = project.cli(["stop", "a"]).exits(1);
    assert!(
        said.out.contains(&told) || said.err.contains(&told),
        "{said:?}"
    );
    let warning = format!("pid {pid} (sleep) may be of b or a, nothing tells which");
    eventually(|| {
        let status = project.cli(["status"]).out;
        match status.contains(&warning) {
            true => Ok(()),
            false => Err(status),
        }
    });
    assert!(lives(pid));
    // Of all that can have made it nothing is left then.
    project.call("stop", json!({"process": "b"})).ok();
    assert!(sleepers(&seconds).is_empty());
}

#[test]
fn stop_and_crash_end_all_that_is_in_the_cgroup() {
    let name = format!("stop-test-{}", std::process::id());
    if let Err(why) = bpm::os::cgroup::Groups::open(&name).map(|groups| groups.close()) {
        return eprintln!("skipped: {why}");
    }
    let seconds = format!("44{}", std::process::id());
    let mut project = escaping("", &seconds);
    project.serve();
    let pid = project.running("a");
    let unified = |pid: i32| {
        let all = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = all.lines().find(|l| l.starts_with("0::"));
        own.unwrap_or_default().to_string()
    };
    assert_eq!(unified(pid), unified(escaped(&seconds)));
    assert!(unified(pid).ends_with("/run-a-1"), "{}", unified(pid));
    // The signal reaches it there as well.
    let stopped = project.call("stop", json!({"process": "a"})).ok();
    assert_eq!(stopped["killed"], 0, "{stopped}");
    assert!(sleepers(&seconds).is_empty());
    project.call("start", json!({"process": "a"})).ok();
    escaped(&seconds);
    murder(project.running("a"));
    eventually(|| match sleepers(&seconds).as_slice() {
        [] => Ok(()),
        left => Err(left.to_vec()),
    });
}

#[test]
fn build_may_leave_what_left_its_group() {
    for cgroup in ["cgroup = false", "cgroup = \"auto\""] {
        let seconds = format!("47{}", std::process::id());
        let mut project = Project::new(&format!(
            "{cgroup}
[process.web]
command = ['sleep', '1000']
build = 'env -i setsid -f sleep {seconds}; setsid -f sleep {seconds}'
"
        ));
        project.serve();
        project.running("web");
        let left = eventually(|| match sleepers(&seconds) {
            left if left.len() == 2 => Ok(left),
            left => Err(left),
        });
        project.cli(["stop", "web"]).exits(0);
        let status = project.call("get_status", json!({"verbose": true})).ok();
        assert_eq!(status["warnings"], json!([]), "{cgroup}");
        let said = project.cli(["stop"]).exits(0);
        assert!(!said.out.contains("had left"), "{said:?}");
        assert_eq!(sleepers(&seconds), left, "{cgroup}");
        let folder = folder_of(left[0]).filter(|folder| folder.ends_with("build-web-1"));
        for pid in left {
            murder(pid);
        }
        // Only the next bpm of the project would do it.
        if let Some(folder) = folder {
            eventually(|| std::fs::remove_dir(&folder));
            std::fs::remove_dir(folder.parent().unwrap()).unwrap();
        }
    }
}

#[test]
fn process_that_is_nobodys_is_named_and_ends_with_bpm() {
    let mut project = Project::new(
        r#"
cgroup = false
[process.once]
type = "task"
command = "env -i setsid -f sleep 4321"
"#,
    );
    project.serve();
    project.status_when("once", |p| p["state"] == "done");
    let warning = eventually(|| {
        let status = project.call("get_status", json!({"verbose": true})).ok();
        match status["warnings"]
            .as_array()
            .and_then(|all| all.first().cloned())
        {
            Some(warning) => Ok(warning.to_string()),
            None => Err(status),
        }
    });
    assert!(
        warning.contains("(sleep) belongs to no process"),
        "{warning}"
    );
    let digits: String = warning.chars().filter(char::is_ascii_digit).collect();
    let pid: i32 = digits.parse().unwrap();
    assert!(
        project
            .cli(["status"])
            .out
            .contains(&format!("pid {pid} (sleep)"))
    );
    project.signal(Signal::SIGTERM);
    project.ended();
    assert!(!lives(pid));
}

/// Nothing of these sleeps is left after a stop of "a" that calls it stopped.
#[track_caller]
fn stops(project: &Project, seconds: &str) {
    let stopped = project.call("stop", json!({"process": "a"})).ok();
    assert_eq!(
        (&stopped["ok"], &stopped["leftovers"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(sleepers(seconds), [0; 0]);
}

#[test]
fn stop_ends_what_a_container_runner_leaves() {
    // As podman's conmon: a session of its own, no environment, no pipes, and a first process that takes no TERM.
    for cgroup in ["cgroup = false", "cgroup = \"auto\""] {
        let seconds = format!("48{}", std::process::id());
        let mut project = Project::new(&format!(
            "{cgroup}
[process.a]
command = '''
(env -i setsid sh -c '(trap \"\" TERM; exec setsid sleep {seconds}) & exec sleep {seconds}' >/dev/null 2>&1 &)
exec sleep 1000'''
stop_timeout_seconds = 0.3
"
        ));
        project.serve();
        project.running("a");
        eventually(|| match sleepers(&seconds) {
            both if both.len() == 2 => Ok(()),
            some => Err(some),
        });
        stops(&project, &seconds);
    }
}

#[test]
fn stop_ends_a_descendant_of_another_user() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root makes processes of other users");
    }
    let seconds = format!("49{}", std::process::id());
    let mut project = Project::new(&format!(
        "cgroup = false
[process.a]
command = '(env -i setpriv --reuid 65534 --regid 65534 --clear-groups setsid sleep {seconds} >/dev/null 2>&1 &); exec sleep 1000'
"
    ));
    project.serve();
    project.running("a");
    let pid = escaped(&seconds);
    assert_eq!(bpm::os::proc::owner(pid), Some(65534));
    stops(&project, &seconds);
}

#[test]
fn stop_ends_what_a_signal_has_frozen() {
    let seconds = format!("50{}", std::process::id());
    let mut project = Project::new(&format!(
        "[process.a]\ncommand = 'setsid sleep {seconds} & exec sleep {seconds}'\n"
    ));
    project.serve();
    project.running("a");
    let both = eventually(|| match sleepers(&seconds) {
        both if both.len() == 2 => Ok(both),
        some => Err(some),
    });
    both.into_iter().for_each(freeze);
    stops(&project, &seconds);
}

#[test]
fn stop_ends_what_a_cgroup_has_frozen() {
    let seconds = format!("51{}", std::process::id());
    // The second has to be killed.
    for command in ["exec", "trap \"\" TERM;"] {
        let mut project = Project::new(&format!(
            "[process.a]\ncommand = '{command} sleep {seconds}'\nstop_timeout_seconds = 0.3\n"
        ));
        project.serve();
        project.running("a");
        let pid = escaped(&seconds);
        let Some(folder) = folder_of(pid).filter(|folder| folder.ends_with("run-a-1")) else {
            return eprintln!("skipped: no cgroups of our own here");
        };
        let folder = folder.display();
        if let Err(e) = std::fs::write(format!("{folder}/cgroup.freeze"), "1") {
            return eprintln!("skipped: cannot freeze {folder}: {e}");
        }
        stops(&project, &seconds);
    }
}

#[test]
fn next_run_goes_on_in_the_cgroup_of_the_run_before() {
    let b = "dev_crash_wait_seconds = 0.1\n[process.b]\ncommand = 'trap \"\" TERM; echo up; while :; do sleep 1000; done'\n\
             ready.log = 'up'\nstop_timeout_seconds = 0.1\n";
    let a = "[process.a]\ncommand = ['sleep', '1000']\n";
    let mut project = Project::new(&format!("{b}{a}"));
    project.serve();
    let folder = |pid: i32| folder_of(pid).unwrap_or_default();
    let first = folder(project.running("a"));
    if !first.ends_with("run-a-1") {
        return eprintln!("skipped: no cgroups of our own here");
    }
    let restart = |name: &str| {
        project.call("restart", json!({"process": name})).ok();
        folder(project.running(name))
    };
    assert_eq!(restart("a"), first);
    // Another kills all that is in it, which bpm can't know: the next run begins all the same.
    let pid = project.running("a");
    if std::fs::write(first.join("cgroup.kill"), "1").is_ok() {
        let again = eventually(|| match project.running("a") {
            new if new != pid => Ok(new),
            _ => Err("not yet"),
        });
        assert_eq!(folder(again), first);
    }
    // One in which bpm has killed is not used again.
    let killed = folder(project.running("b"));
    assert!(killed.ends_with("run-b-1"), "{killed:?}");
    assert!(restart("b").ends_with("run-b-2"));
    assert!(!killed.exists());
    // So does a start after a stop, until its process leaves the configuration.
    project.call("stop", json!({"process": "a"})).ok();
    project.call("start", json!({"process": "a"})).ok();
    assert_eq!(folder(project.running("a")), first);
    project.call("stop", json!({"process": "a"})).ok();
    project.config(b);
    project.call("reload", json!({})).ok();
    eventually(|| match first.exists() {
        true => Err(&first),
        false => Ok(()),
    });
}

#[test]
fn orphan_is_known_to_the_bpm_after_an_upgrade() {
    let seconds = format!("52{}", std::process::id());
    let mut project = Project::new(&format!(
        "cgroup = false\n[process.a]\ncommand = '(env -i setsid sleep {seconds} >/dev/null 2>&1 &); exec sleep 1000'\n"
    ));
    project.serve();
    project.running("a");
    let (pid, daemon) = (escaped(&seconds), project.pid());
    eventually(|| match bpm::os::proc::process(pid) {
        Some(orphan) if orphan.ppid == daemon => Ok(()),
        other => Err(other),
    });
    let program = project.other_build("next");
    let program = program.to_str().unwrap();
    project.cli(["upgrade", "--binary", program]).exits(0);
    stops(&project, &seconds);
}
