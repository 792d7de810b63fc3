//! Files that a stranger has written, in a project that somebody cloned: they are read within bounds, nothing in them
//! is executed that nobody asked for, and nothing in them speaks in bpm's name.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::{Ended, Project};

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
