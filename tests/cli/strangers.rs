//! Files that a stranger has written, in a project that somebody cloned: they are read within bounds, nothing in them
//! is executed that nobody asked for, and nothing in them speaks in bpm's name.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::common::{Ended, Project, eventually};

/// `bpm ARGS` with a limit to its memory and to its time: beyond either it does not end with a code.
fn bounded(project: &Project, folder: &Path, args: &[&str]) -> Ended {
    let mut command = project.command("sh");
    command
        .args([
            "-c",
            "ulimit -v 500000; exec timeout -s KILL 60 \"$@\"",
            "sh",
        ])
        .arg(crate::common::bpm())
        .args(args)
        .current_dir(folder)
        .stdin(std::process::Stdio::null());
    Ended::new(command.output().unwrap())
}

#[test]
fn init_reads_files_of_any_kind_within_bounds() {
    let project = Project::empty();
    let touch = format!("touch {}", project.root.join("touched").display());
    let (objects, lists) = ("{\"a\":".repeat(100_000), "[".repeat(100_000));
    let script = format!("require('child_process').execSync('{touch}')");
    let mut count = 0;
    for name in [
        "Procfile",
        "package.json",
        "pyproject.toml",
        "supervisord.conf",
        "ecosystem.config.json",
        "ecosystem.config.js",
        "Cargo.toml",
        "requirements.txt",
        "manage.py",
        "compose.yaml",
        ".envrc",
    ] {
        for kind in [
            "fifo", "zero", "folder", "large", "objects", "lists", "script",
        ] {
            count += 1;
            let folder = project.root.join(format!("d{count}"));
            std::fs::create_dir(&folder).unwrap();
            let path = folder.join(name);
            match kind {
                "fifo" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                "zero" => symlink("/dev/zero", &path).unwrap(),
                "folder" => std::fs::create_dir(&path).unwrap(),
                "large" => std::fs::File::create(&path)
                    .unwrap()
                    .set_len(1 << 32)
                    .unwrap(),
                "objects" => std::fs::write(&path, &objects).unwrap(),
                "lists" => std::fs::write(&path, format!("a = {lists}")).unwrap(),
                _ => std::fs::write(&path, &script).unwrap(),
            }
            let ended = bounded(&project, &folder, &["init", "--stdout"]);
            let ends = matches!(ended.code, Some(0 | 1)) && !ended.err.contains("panicked");
            assert!(ends, "{kind} {name}: {ended:?}");
        }
    }
    assert!(!project.root.join("touched").exists());
}

#[test]
fn init_takes_over_a_bounded_number_of_processes() {
    let project = Project::empty();
    let lines = |n: usize| -> String { (0..n).map(|n| format!("p{n}: sleep {n}\n")).collect() };
    for (name, text) in [
        ("Procfile", lines(20_000)),
        ("ecosystem.config.json", {
            let apps = (0..5_000).map(|n| format!("{{\"name\":\"a{n}\",\"script\":\"x.js\"}}"));
            format!("{{\"apps\":[{}]}}", apps.collect::<Vec<_>>().join(","))
        }),
    ] {
        project.file(name, &text);
        let ended = bounded(&project, &project.root, &["init", "--stdout"]).exits(0);
        assert_eq!(ended.out.matches("\n[process.").count(), 500, "{name}");
        let said = ended
            .err
            .contains(" more processes: at most 500 are taken over");
        assert!(said, "{name}: {}", ended.err);
        project.remove(name);
    }
    // Patterns that walk the same folders again and again.
    for n in 0..100 {
        project.file(
            &format!("d{}/e{}/package.json", n % 10, n / 10),
            "{\"scripts\":{\"dev\":\"vite\"}}",
        );
    }
    let patterns: Vec<String> = (0..5_000).map(|_| "\"**/**/**/**\"".to_string()).collect();
    let text = format!(
        "{{\"workspaces\":[{}],\"scripts\":{{\"dev\":\"vite\"}}}}",
        patterns.join(",")
    );
    project.file("package.json", &text);
    bounded(&project, &project.root, &["init", "--stdout"]).exits(0);
}

/// What a stranger named is one string, and is seen as it is.
#[test]
fn init_writes_names_of_others_as_names() {
    let evil = "x\\n[process.evil]\\ncommand=\\\"touch touched\\\"\\u202e";
    let project = Project::empty();
    project.file(
        "ecosystem.config.json",
        &format!("{{\"apps\":[{{\"name\":\"{evil}\",\"script\":\"{evil}\",\"args\":\"{evil}\",\"cwd\":\"{evil}\",\"env\":{{\"{evil}\":\"{evil}\"}}}}]}}"),
    );
    project.file(
        "package.json",
        &format!("{{\"name\":\"{evil}\",\"scripts\":{{\"dev\":\"{evil}\",\"{evil}\":\"x\"}}}}"),
    );
    let ended = project.cli(["init"]).exits(0);
    let text = project.read(".mcp-run");
    assert!(
        !text.contains('\u{202e}') && !ended.err.contains('\u{202e}'),
        "{text}{ended:?}"
    );
    let forged = text
        .lines()
        .chain(ended.err.lines())
        .find(|l| l.starts_with("[process.evil"));
    assert_eq!(forged, None, "{text}");
    project.cli(["check"]).exits(0);
}

#[test]
fn commands_that_only_read_end_whatever_the_files_are() {
    let project = Project::new(
        "[process.web]\ncommand = [\"npm\", \"run\", \"dev\"]\n\
         [process.env]\ncommand = [\"sleep\", \"1000\"]\nenv_file = \".env\"\n\
         [process.rust]\ntype = \"rust\"\n",
    );
    for kind in ["fifo", "zero", "folder", "lists"] {
        let names = [
            "package.json",
            ".env",
            "Cargo.toml",
            ".mcp.json",
            ".envrc",
            "opencode.json",
        ];
        for name in names {
            let path = project.root.join(name);
            match kind {
                "fifo" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                "zero" => symlink("/dev/zero", &path).unwrap(),
                "folder" => std::fs::create_dir(&path).unwrap(),
                _ => std::fs::write(&path, "[".repeat(100_000)).unwrap(),
            }
        }
        for args in [
            vec!["check"],
            vec!["doctor"],
            vec!["status"],
            vec!["export", "systemd"],
            vec!["export", "compose", "env"],
            vec!["mcp-config"],
        ] {
            let ended = bounded(&project, &project.root, &args);
            let ends = matches!(ended.code, Some(0..=4)) && !ended.err.contains("panicked");
            assert!(ends, "{kind} {args:?}: {ended:?}");
        }
        for name in names {
            let path = project.root.join(name);
            match kind {
                "folder" => std::fs::remove_dir(path).unwrap(),
                _ => std::fs::remove_file(path).unwrap(),
            }
        }
    }
}

/// The kernel's start time of a process, 0 for what is none.
fn start(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    after
        .split(' ')
        .nth(19)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Files that say a stranger's pid, with its right start time: what they name is no process of this project.
#[test]
fn forged_state_ends_no_stranger() {
    let project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    project.cli(["-d"]).exits(0);
    let folder = project.state_folder().unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let daemon = read("daemon.json");
    // A run is in it before anybody is answered.
    let state = eventually(|| {
        let state = read("state.json");
        match state["running"]
            .as_array()
            .is_some_and(|runs| runs.len() == 1)
        {
            true => Ok(state),
            false => Err(state),
        }
    });
    project.cli(["stop"]).exits(0);
    // Not of this project: neither its marker nor its cgroup.
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let theirs = i64::from(stranger.id());
    for pid in [theirs, -theirs, 1 << 31, i64::MAX, theirs + (1 << 32)] {
        for copies in [1, 500] {
            let (mut state, mut daemon) = (state.clone(), daemon.clone());
            let mut run = state["running"][0].clone();
            (run["pid"], run["start"]) = (pid.into(), start(pid).into());
            (daemon["pid"], daemon["process_start"]) = (pid.into(), start(pid).into());
            state["running"] = vec![run; copies].into();
            std::fs::write(folder.join("state.json"), state.to_string()).unwrap();
            std::fs::write(folder.join("daemon.json"), daemon.to_string()).unwrap();
            project.cli(["status"]);
            project.cli(["stop", "--force"]).exits(0);
            std::fs::write(folder.join("state.json"), state.to_string()).unwrap();
            std::fs::write(folder.join("daemon.json"), daemon.to_string()).unwrap();
            project.cli(["-d"]).exits(0);
            project.cli(["stop"]).exits(0);
            assert!(stranger.try_wait().unwrap().is_none(), "{pid} x {copies}");
        }
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// In the folder of state: whatever stands where a file of bpm's is to be, nobody waits for it, and nothing is written
/// through it.
#[test]
fn planted_entries_in_the_folder_of_state_hold_up_nobody() {
    let project = Project::new("[process.nap]\ncommand = \"echo hello; exec sleep 1000\"\n");
    project.cli(["-d"]).exits(0);
    let folder = project.state_folder().unwrap();
    project.cli(["stop"]).exits(0);
    let precious = project.root.join("precious");
    std::fs::write(&precious, "precious").unwrap();
    for kind in ["fifo", "zero", "link", "hard link"] {
        for name in [
            "daemon.lock",
            "daemon.json",
            "daemon.log",
            "daemon.log.1",
            "state.json",
        ] {
            let path = folder.join(name);
            let _ = std::fs::remove_file(&path);
            match kind {
                "fifo" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                "zero" => symlink("/dev/zero", &path).unwrap(),
                "link" => symlink(&precious, &path).unwrap(),
                _ => std::fs::hard_link(&precious, &path).unwrap(),
            }
        }
        bounded(&project, &project.root, &["status"]).exits(3);
        bounded(&project, &project.root, &["ps"]).exits(0);
        project.cli(["-d"]).exits(0);
        bounded(&project, &project.root, &["daemon", "logs"]);
        project.cli(["stop"]).exits(0);
        assert_eq!(
            std::fs::read_to_string(&precious).unwrap(),
            "precious",
            "{kind}"
        );
    }
}
