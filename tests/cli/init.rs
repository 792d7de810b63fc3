//! `bpm init` in folders as projects have them (`tests/projects`): what it writes passes `bpm check`, and
//! runs where its programs can run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Project, eventually};

fn shape(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/projects")
        .join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A copy of one of the folders.
fn project(name: &str) -> Project {
    let project = Project::empty();
    copy(&shape(name), &project.root);
    project
}

/// The same after `bpm init`, which bpm takes; the file, and what init said.
#[track_caller]
fn taken(name: &str) -> (Project, String, String) {
    let project = project(name);
    let said = project.cli(["init"]).exits(0);
    project.cli(["check"]).exits(0);
    let text = project.read(".mcp-run");
    let (out, err) = (said.out, said.err);
    for line in err.lines().skip(1) {
        assert!(text.contains(&format!("# {line}\n")), "{line} in\n{text}");
    }
    (project, text, format!("{out}{err}"))
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// The log of a process has that line, sooner or later.
#[track_caller]
fn prints(project: &Project, process: &str, line: &str) {
    eventually(|| {
        let log = project.cli(["logs", process]).out;
        match log.contains(line) {
            true => Ok(()),
            false => Err(log),
        }
    });
}

fn python_is_there() -> bool {
    Project::empty()
        .command("python3")
        .arg("--version")
        .output()
        .is_ok()
}

#[test]
fn a_procfile_runs_as_under_foreman() {
    let (mut project, text, said) = taken("procfile");
    has(
        &text,
        &[
            "env_file = \".env?\"",
            "# Procfile.dev:2\n[process.web]\n",
            "command = \"exec sh bin/serve $PORT\"\nport = 18180\n",
            "env.PORT = \"18280\"",
            "[process.release]\nautostart = false\ntype = \"task\"",
            // A script besides: it starts by its name.
            "[process.shop]\nautostart = false\n",
        ],
    );
    has(
        &said,
        &[
            "web      Procfile.dev:2\n",
            "Procfile.dev:5: not a line: ",
            "Procfile: the file: bpm init --from Procfile takes it",
        ],
    );
    if !python_is_there() {
        return;
    }
    project.up();
    project.cli(["up"]).exits(0);
    prints(
        &project,
        "worker",
        "working on mail; default with good day at 18280",
    );
    has(&project.cli(["status"]).exits(0).out, &["18180", "css"]);
}

#[test]
fn one_binary_needs_no_names() {
    let (_, text, _) = taken("rust");
    has(
        &text,
        &["[process.app]\ntype = \"rust\"\n", "# .envrc: direnv"],
    );
    assert!(!text.contains("package ="), "{text}");
    assert!(!text.contains("bin ="), "{text}");
}

#[test]
fn init_of_a_cargo_project_runs() {
    let mut project = Project::empty();
    project.fake_cargo();
    project.source("exec sleep 1000");
    project.cli(["init"]).exits(0);
    project.up();
    project.cli(["up"]).exits(0);
    has(&project.cli(["status"]).exits(0).out, &["app", "running"]);
}

#[test]
fn a_workspace_gives_the_binaries_of_its_default_members() {
    let (_, text, said) = taken("rust-workspace");
    has(
        &text,
        &[
            "[process.api]\ntype = \"rust\"\npackage = \"shop-api\"\nbin = \"api\"\n",
            "[process.seed]\nautostart = false\ntype = \"rust\"\npackage = \"shop-api\"\nbin = \"seed\"\nfeatures = [\"seeds\"]\n",
            "[process.worker]\nautostart = false\n",
            "[process.once]\nautostart = false\n",
        ],
    );
    assert_eq!(text.matches("[process.").count(), 4, "{text}");
    has(&said, &["api     crates/api/Cargo.toml\n"]);
}

#[test]
fn a_package_runs_its_dev_script() {
    let (mut project, text, said) = taken("npm");
    has(
        &text,
        &[
            "# package.json:5\n[process.store-front]\n# called \"store front\" there\ntype = \"npm\"\ncommand = [\"npm\", \"run\", \"dev\"]\n",
        ],
    );
    has(
        &said,
        &["package.json:6: watch: ", "package.json:7: serve: "],
    );
    // What stands for npm.
    project.program("fake/npm", "#!/bin/sh\necho \"npm $*\"\nexec sleep 1000\n");
    project.path_first("fake").up();
    project.cli(["up"]).exits(0);
    prints(&project, "store-front", "npm run dev");
}

#[test]
fn workspaces_give_the_packages_that_have_a_script() {
    let (_, text, said) = taken("pnpm-workspace");
    has(
        &text,
        &[
            "[process.web]\ntype = \"npm\"\ncommand = [\"pnpm\", \"run\", \"dev\"]\ncwd = \"apps/web\"\n",
            "[process.ui]\n",
        ],
    );
    assert_eq!(text.matches("[process.").count(), 2, "{text}");
    has(
        &said,
        &[
            "package.json:1: dev: it runs the scripts of the workspaces",
            "pnpm-workspace.yaml: packages: not read",
        ],
    );
    let (_, text, _) = taken("yarn-workspaces");
    has(
        &text,
        &[
            "[process.mail]\ntype = \"npm\"\ncommand = [\"yarn\", \"run\", \"start\"]\ncwd = \"services/mail\"\n",
            "[process.gateway]\n",
        ],
    );
    assert_eq!(text.matches("[process.").count(), 2, "{text}");
}

#[test]
fn python_applications_are_known_by_their_files() {
    let (mut django, text, _) = taken("django");
    has(
        &text,
        &[
            "command = [\"python3\", \"manage.py\", \"runserver\", \"127.0.0.1:${PORT}\"]\nport = \"auto\"\nenv.PYTHONUNBUFFERED = \"1\"\n",
        ],
    );
    let (mut flask, text, said) = taken("flask");
    has(
        &text,
        &[
            "[process.blog-engine]\ncommand = [\"python3\", \"-m\", \"flask\", \"--app\", \"blog_engine\", \"run\",",
        ],
    );
    has(&said, &["pyproject.toml:6: blog-admin: "]);
    let (_, text, _) = taken("fastapi");
    has(
        &text,
        &[
            "command = [\"poetry\", \"run\", \"uvicorn\", \"prices.main:api\", \"--reload\", \"--port\", \"${PORT}\"]",
        ],
    );
    if !python_is_there() {
        return;
    }
    for project in [&mut django, &mut flask] {
        project.up();
        project.cli(["up"]).exits(0);
        has(&project.cli(["status"]).exits(0).out, &["running"]);
    }
}

#[test]
fn programs_of_supervisord_run() {
    let (mut project, text, said) = taken("supervisord");
    has(
        &text,
        &[
            "command = [\"sh\", \"-c\", \"echo \\\"clock says $GREETING\\\"; exec sleep 1000\"]",
            "stop_signal = \"INT\"\nstop_timeout_seconds = 2\n",
            "restart = \"on-failure\"\nstop_timeout_seconds = 10\n",
        ],
    );
    has(
        &said,
        &[
            "supervisord.conf:13: numprocs = 3: ",
            "supervisord.conf:23: [eventlistener:memmon]: ",
        ],
    );
    // The file names a user; here the process keeps ours.
    let without_user: String = text
        .lines()
        .filter(|l| !l.starts_with("user ="))
        .map(|l| format!("{l}\n"))
        .collect();
    project.config(&without_user);
    project.up();
    project.cli(["up"]).exits(0);
    prints(&project, "clock", "clock says good day, you");
    prints(&project, "mailer", "mail --from nobody at all");
}

#[test]
fn apps_of_pm2_run() {
    let (mut project, text, said) = taken("pm2");
    has(
        &text,
        &[
            "command = [\"bash\", \"./api.sh\", \"--greet\", \"good day\"]",
            "stop_signal = \"INT\"\nstop_timeout_seconds = 2.5\n",
            "command = [\"sh\", \"jobs.sh\", \"a b\"]\ncwd = \"jobs\"\n",
            "restart = \"never\"",
        ],
    );
    has(
        &said,
        &[
            "ecosystem.config.json:8: env_production: ",
            "ecosystem.config.json:9: instances = \"max\": ",
            "ecosystem.config.json:10: exec_mode = ",
        ],
    );
    project.up();
    project.cli(["up"]).exits(0);
    prints(
        &project,
        "api",
        "api --greet good day at 3000 for $5 and ${NOTHING}",
    );
    prints(&project, "jobs", "jobs a b");
}

#[test]
fn folders_are_looked_into_where_the_root_has_nothing() {
    let (_, text, _) = taken("two-folders");
    has(
        &text,
        &[
            "# backend/Cargo.toml\n[process.backend]\ntype = \"rust\"\ncwd = \"backend\"\n",
            "# frontend/package.json:1\n[process.frontend]\ntype = \"npm\"\ncommand = [\"bun\", \"run\", \"dev\"]\ncwd = \"frontend\"\n",
        ],
    );
}

#[test]
fn watchers_of_a_procfile_keep_their_input_and_folders_beside_it_are_named() {
    let (_, text, _) = taken("rails");
    has(
        &text,
        &[
            "[process.web]\n",
            "command = \"env RUBY_DEBUG_OPEN=true bin/rails server\"\nenv.PORT = \"5000\"\n",
            "command = \"yarn build --watch\"\nstdin = \"open\"\n",
            "command = \"bin/rails tailwindcss:watch\"\nstdin = \"open\"\n",
            "# worker/pyproject.toml: the file: \"bpm init --stdout --from worker/pyproject.toml\" prints what runs there\n",
        ],
    );
}

#[test]
fn a_folder_without_anything_to_run_is_said_so() {
    let project = project("compose");
    let said = project.cli(["init"]).exits(1);
    has(
        &said.err,
        &[
            "compose.yaml: the file: not read: mcp-run(5), \"COMING FROM\"",
            "Makefile:3: make dev: ",
            "bpm: cannot write a .mcp-run: nothing to run found: looked for Procfile.dev, ",
            "\nhint: ",
        ],
    );
    assert_eq!(project.read(".mcp-run"), "");
    // Asked for by its name, a target is a process.
    project.cli(["init", "--from", "Makefile"]).exits(0);
    has(
        &project.read(".mcp-run"),
        &["command = [\"make\", \"dev\"]"],
    );
    let said = project
        .cli(["init", "--from", "compose.yaml", "--stdout"])
        .exits(1);
    has(
        &said.err,
        &[
            "bpm: cannot take \"compose.yaml\" over: bpm reads neither YAML",
            "hint: ",
        ],
    );
}

#[test]
fn a_file_that_is_there_stays_until_force() {
    let project = project("npm");
    project.config("# mine\n");
    project.cli(["init"]).exits(1).says(&[
        "bpm: cannot write \"",
        ".mcp-run\": it exists",
        "hint: --stdout only prints; --force",
    ]);
    assert_eq!(project.read(".mcp-run"), "# mine\n");
    let printed = project.cli(["init", "--stdout"]).exits(0).out;
    assert_eq!(project.read(".mcp-run"), "# mine\n");
    project.cli(["init", "--force"]).exits(0);
    assert_eq!(project.read(".mcp-run"), printed);
    assert_eq!(project.read(".mcp-run.bak"), "# mine\n");
}

#[test]
fn nothing_that_is_found_is_run() {
    let mut project = project("procfile");
    for tool in ["sh", "npm", "node", "python3", "cargo", "direnv", "foreman"] {
        project.program(&format!("fake/{tool}"), "#!/bin/true\n");
        let path = project.root.join("fake").join(tool);
        // Whoever starts it leaves a trace.
        fs::write(
            &path,
            format!(
                "#!/bin/sh\ntouch {}\n",
                project.root.join("trace").display()
            ),
        )
        .unwrap();
    }
    project.path_first("fake");
    project.cli(["init"]).exits(0);
    assert!(!project.root.join("trace").exists());
}

#[test]
fn damaged_sources_are_named_and_never_written() {
    let project = Project::empty();
    for (file, text) in [
        ("package.json", "{\"scripts\": {\"dev\": 1"),
        ("Cargo.toml", "[package\n"),
        ("pyproject.toml", "x = \n"),
        (
            "pm2.json",
            "[{\"script\": \"a\\u0000b\", \"env\": {\"A\": \"\\u0000\"}}]",
        ),
        (
            "supervisord.conf",
            "[program:x]\ncommand=a\nstopsignal=NOPE\nautostart=maybe\n",
        ),
        ("Procfile", "\u{feff}a: b\u{1}c\nb: \t \n-c: ok\n"),
    ] {
        project.file(file, text);
    }
    let said = project.cli(["init"]).exits(0);
    has(
        &said.err,
        &[
            "package.json: the file: ",
            "Cargo.toml: the file: ",
            "pyproject.toml: the file: ",
            "pm2.json:1: a-b: ",
            "supervisord.conf:3: stop_signal = \"NOPE\": ",
        ],
    );
    let text = project.read(".mcp-run");
    has(
        &text,
        &[
            "command = \"b\\u0001c\"",
            "[process.c]\n# called \"-c\" there\n",
        ],
    );
    project.cli(["check"]).exits(0);
}

#[test]
fn files_that_check_refuses_are_left_out() {
    let project = Project::empty();
    project.file(
        "pm2.json",
        r#"[{"name": "a", "script": "a", "env_file": "nowhere"},
{"name": "b", "script": "b", "env_file": "odd"}]"#,
    );
    project.file("odd", "X='\n");
    project.file("Procfile", "c: true\n");
    project.file(".env", "A=1\n");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(project.root.join(".env"), everybody).unwrap();
    let said = project.cli(["init"]).exits(0);
    has(
        &said.err,
        &[
            "pm2.json:1: env_file = \"nowhere\": ",
            "pm2.json:2: env_file = \"odd\": ",
            ".env: env_file = \".env?\": ",
            "others may write it (mode 666)",
        ],
    );
    let checked = project.cli(["check"]).exits(0);
    has(&checked.out, &["processes: c, a, b"]);
}

#[test]
fn sources_in_a_folder_run_there() {
    let project = Project::empty();
    project.file("back/Procfile", "web: x\n");
    project.file("back/.env", "A=1\n");
    project.file("jobs/supervisord.conf", "[program:job]\ncommand=x\n");
    project.file(
        "more/pm2.json",
        r#"{"name": "app", "script": "x", "cwd": "./in", "watch": true, "env_file": ".env?"}"#,
    );
    project.file(
        "web/package.json",
        r#"{"scripts": {"dev": "x"}, "workspaces": ["."]}"#,
    );
    project.file("web/package-lock.json", "{}");
    project.file("web/deno.json", "{}");
    project.cli(["init"]).exits(0);
    project.cli(["check"]).exits(0);
    let text = project.read(".mcp-run");
    assert!(!text.contains("web-3"), "{text}");
    has(
        &text,
        &[
            "\nenv_file = \"back/.env?\"\n",
            "\ncommand = \"x\"\ncwd = \"back\"\n",
            "\ncommand = [\"x\"]\nrestart = \"on-failure\"\nstop_timeout_seconds = 10\ncwd = \"jobs\"\n",
            "\ncwd = \"more/in\"\n",
            "\nenv_file = \"more/.env?\"\n",
            "\nwatch = [\"more/in/**\"]\n",
            "[process.web-2]\nautostart = false\ntype = \"npm\"\ncommand = [\"npm\", \"run\", \"dev\"]\ncwd = \"web\"\n",
        ],
    );
}
