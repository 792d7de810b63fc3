//! `bpm export`: what each engine is given. Whether the engines read it back is `.ci/export`'s to tell.

use std::fs;
use std::process::Command;

use crate::common::Project;

const SHOP: &str = r#"
[process.web]
command = ["sh", "-c", "serve", "50% of ${HOME}", "$5 ${API_TOKEN} ${PORT}"]
port = 8080
env = { API_TOKEN = "s3cret", GREETING = "good \"day\"" }
depends_on = ["migrate", "db"]
ready = { http = "http://127.0.0.1:8080/up" }
stop_signal = "INT"
stop_timeout_seconds = 2.5

[process.migrate]
type = "task"
command = "rake db:migrate && true"

[process.db]
command = ["sh"]
port = 5432
watch = ["*.sql"]
limits = { nofile = 512 }

[process.spare]
command = ["sh"]
autostart = false
"#;

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn systemd_gets_a_service_each_and_a_target() {
    let project = Project::new(SHOP);
    let said = project.cli(["export", "systemd"]).exits(0);
    has(
        &said.out,
        &[
            "# ---- shop.target\n# Written by bpm ",
            "/shop/.mcp-run\n# Use: ",
            "Wants=shop-web.service\nWants=shop-migrate.service\nWants=shop-db.service\n",
            "\nRequires=shop-migrate.service\nAfter=shop-migrate.service\nRequires=shop-db.service\n",
            "sh -c serve \"50%% of ${HOME}\" \"$$5 ${API_TOKEN} 8080\"\n",
            "\nEnvironment=\"GREETING=good \\\"day\\\"\"\n",
            "\nEnvironment=PORT=8080\n",
            "\n# left out, since the names look secret: API_TOKEN\n",
            "\nKillSignal=SIGINT\nTimeoutStopSec=2500ms\n",
            "\nType=oneshot\nRemainAfterExit=yes\n",
            "\nLimitNOFILE=512\n",
            "\n# no counterpart for watch: ",
        ],
    );
    assert!(!said.out.contains("Wants=shop-spare"), "{}", said.out);
    assert!(!said.out.contains("s3cret"), "{}", said.out);
    has(&said.err, &["1 setting has no counterpart in systemd"]);
    project.cli(["export", "systemd", "--strict"]).exits(1);
    // The same again.
    assert_eq!(project.cli(["export", "systemd"]).out, said.out);
    let secrets = project
        .cli(["export", "systemd", "--with-secrets"])
        .exits(0)
        .out;
    has(
        &secrets,
        &["Environment=API_TOKEN=s3cret\n", "\"$$5 s3cret 8080\""],
    );
    let user = project.cli(["export", "systemd", "--user"]).exits(0).out;
    has(&user, &["WantedBy=default.target"]);
}

#[test]
fn ports_of_other_processes_are_what_each_engine_has_for_them() {
    let project = Project::new(
        "[process.api]\ncommand = \"x\"\nport = 81\n[process.web]\ncommand = [\"sh\", \"${api.url}/x\"]\n\
         env.API = \"127.0.0.1:${api.port}\"\n",
    );
    let out = project.cli(["export", "systemd", "--strict"]).exits(0).out;
    has(
        &out,
        &[
            "sh http://127.0.0.1:81/x\n",
            "Environment=API=127.0.0.1:81\n",
        ],
    );
    for engine in ["compose", "kubernetes"] {
        let said = project.cli(["export", engine, "--image", "x"]).exits(0);
        has(
            &said.out,
            &[
                "\"http://api:81/x\"",
                "127.0.0.1:81",
                "# no counterpart for ${NAME.port}: ",
            ],
        );
        has(&said.err, &["1 setting has no counterpart"]);
    }
    let said = project.cli(["export", "nomad"]).exits(0);
    has(
        &said.out,
        &[
            "# no counterpart for ${NAME.port}: ",
            "# no counterpart for ${NAME.url}: ",
        ],
    );
}

#[test]
fn compose_gets_services_with_conditions() {
    let project = Project::new(SHOP);
    let said = project
        .cli(["export", "compose", "--image", "shop:1"])
        .exits(0);
    has(
        &said.out,
        &[
            "name: \"shop\"\n",
            "command: [\"sh\", \"-c\", \"serve\", \"50% of ${HOME}\", \"$$5 ${API_TOKEN} 8080\"]\n",
            "\"GREETING\": \"good \\\"day\\\"\"\n",
            "\n      \"API_TOKEN\":\n",
            "ports: [\"127.0.0.1:8080:8080\"]\n",
            "\"migrate\": {condition: \"service_completed_successfully\"}\n",
            "\"db\": {condition: \"service_healthy\"}\n",
            "stop_signal: \"SIGINT\"\n    stop_grace_period: \"2500ms\"\n",
            "profiles: [\"spare\"]\n",
            "nofile: {soft: 512, hard: 512}\n",
            "command: [\"sh\", \"-c\", \"rake db:migrate && true\"]\n",
        ],
    );
    has(&said.err, &["1 setting has no counterpart in compose"]);
    let several = project
        .cli(["export", "compose", "--image", "x", "--replicas", "3"])
        .exits(0)
        .out;
    has(&several, &["deploy: {replicas: 3}", "ports: [\"8080\"]"]);
}

#[test]
fn kubernetes_gets_deployments_jobs_and_services() {
    let project = Project::new(SHOP);
    let said = project
        .cli([
            "export",
            "kubernetes",
            "--image",
            "shop:1",
            "--replicas",
            "2",
        ])
        .exits(0);
    has(
        &said.out,
        &[
            "kind: \"Deployment\"\n",
            "replicas: 2\n",
            "kind: \"Job\"\n",
            "kind: \"Service\"\n",
            "args: [\"-c\", \"serve\", \"50% of $(HOME)\", \"$5 $(API_TOKEN) 8080\"]\n",
            "secretKeyRef: {name: \"web-secrets\", key: \"API_TOKEN\"}",
            "terminationGracePeriodSeconds: 3\n",
            "httpGet: {path: \"/up\", port: 8080}\n            periodSeconds: 1\n            failureThreshold: 60\n",
            "until nc -z -w 2 db 5432; do sleep 1; done",
            "# no counterpart for stop_signal: ",
        ],
    );
    has(&said.err, &["5 settings have no counterpart in kubernetes"]);
    has(
        &said.out,
        &["# no counterpart for ${HOME}: the file does not set it"],
    );
}

#[test]
fn nomad_loses_no_task() {
    let config = r#"
[process.web]
command = ["serve"]
depends_on = ["late"]
[process.late]
type = "task"
command = ["b"]
depends_on = ["early"]
[process.early]
type = "task"
command = ["a"]
[process.alone]
type = "task"
command = ["c"]
depends_on = ["lost"]
[process.lost]
type = "task"
command = ["d"]
"#;
    let project = Project::new(config);
    let said = project.cli(["export", "nomad"]).exits(0);
    let at = |part: &str| {
        said.out
            .find(part)
            .unwrap_or_else(|| panic!("{part}: {said:?}"))
    };
    assert!(at("task \"early\"") < at("task \"late\"") && at("task \"late\"") < at("task \"web\""));
    has(
        &said.out,
        &[
            "# no counterpart for depends_on.early: tasks before the main one begin together",
            "# no counterpart for type = \"task\" of alone: ",
            "# no counterpart for type = \"task\" of lost: ",
        ],
    );
    has(&said.err, &["3 settings have no counterpart in nomad"]);
}

#[test]
fn kubernetes_replaces_variables_outside_of_its_config_map() {
    let config = "[process.a]\ncommand = [\"x\"]\nenv_file = \"e\"\n";
    let project = Project::new(config);
    project.file("e", "DB_PASSWORD=x\nURL=pg://u:${DB_PASSWORD}@h\nPLAIN=1\n");
    let call = ["export", "kubernetes", "--image", "i"];
    let out = project.cli(call).exits(0).out;
    has(
        &out,
        &[
            "data:\n  \"PLAIN\": \"1\"\n---",
            "- name: \"URL\"\n              value: \"pg://u:$(DB_PASSWORD)@h\"\n",
        ],
    );
}

#[test]
fn compose_names_the_check_that_has_no_place() {
    let config = r#"
[process.both]
command = ["x"]
ready = { http = "http://127.0.0.1:80/a" }
health = { http = "http://127.0.0.1:80/b" }
[process.same]
command = ["x"]
ready = { tcp = "127.0.0.1:80" }
health = { tcp = "127.0.0.1:80" }
[process.notify]
command = ["x"]
ready = { tcp = "127.0.0.1:81" }
health = { notify = true }
[process.after]
command = ["x"]
depends_on = ["notify", "lib"]
autostart = false
[process.lib]
command = ["x"]
autostart = false
"#;
    let project = Project::new(config);
    let said = project.cli(["export", "compose", "--image", "i"]).exits(0);
    has(&said.err, &["4 settings have no counterpart in compose"]);
    has(
        &said.out,
        &[
            "# no counterpart for ready: a container has one healthcheck",
            "# no counterpart for health: it has no NOTIFY_SOCKET\n    # the image needs the program of this check\n    healthcheck:\n      test: [\"CMD-SHELL\", \"nc -z 127.0.0.1 81\"]\n",
            "\"notify\": {condition: \"service_healthy\"}\n",
            "profiles: [\"after\"]\n",
            "profiles: [\"lib\", \"after\"]\n",
        ],
    );
}

#[test]
fn nomad_gets_a_job() {
    let project = Project::new(SHOP);
    let said = project.cli(["export", "nomad"]).exits(0);
    has(
        &said.out,
        &[
            "job \"shop\" {\n",
            "driver = \"raw_exec\"\n",
            "args = [\"-c\", \"serve\", \"50% of $${HOME}\", \"$5 $${API_TOKEN} 8080\"]\n",
            "hook = \"prestart\"\n",
            "static = 8080\n",
            "kill_signal = \"SIGINT\"\n      kill_timeout = \"2500ms\"\n",
            "API_TOKEN={{ with nomadVar \"nomad/jobs\" }}",
        ],
    );
    let docker = project
        .cli(["export", "nomad", "--image", "shop:1"])
        .exits(0)
        .out;
    has(
        &docker,
        &[
            "driver = \"docker\"",
            "image = \"shop:1\"",
            "ports = [\"main\"]",
        ],
    );
}

#[test]
fn a_folder_is_written_whole_and_nothing_of_others_is_lost() {
    let project = Project::new(SHOP);
    let folder = project.root.join("units");
    let folder = folder.to_str().unwrap();
    for _ in 0..2 {
        let said = project.cli(["export", "systemd", "-o", folder]).exits(0);
        has(
            &said.out,
            &["wrote shop.target, shop-web.service, shop-migrate.service, "],
        );
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 5);
    project.file("units/shop-web.service", "[Service]\n");
    project
        .cli(["export", "systemd", "-o", folder])
        .exits(1)
        .says(&[
            "shop-web.service\": it exists, and bpm has not written it",
            "hint: ",
        ]);
    assert_eq!(project.read("units/shop-web.service"), "[Service]\n");
}

/// What systemd says of the units in a folder; None: it is not here.
fn verified(folder: &std::path::Path) -> Option<String> {
    let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let mut verify = Command::new("systemd-analyze");
    let said = verify.arg("verify").args(files).output().ok()?;
    Some(String::from_utf8_lossy(&said.stderr).into_owned())
}

#[test]
fn units_pass_systemd_s_own_check() {
    let project = Project::new(SHOP);
    let folder = project.root.join("units");
    project
        .cli(["export", "systemd", "-o", folder.to_str().unwrap()])
        .exits(0);
    assert_eq!(verified(&folder).unwrap_or_default(), "");
}

#[test]
fn units_of_folders_with_odd_names_have_their_lines() {
    let project = Project::empty();
    for (at, (name, folder, title)) in [
        (r"a\", r"a\/.", r"a\u{5c}"),
        (r"a\\", r"a\\/.", r"a\\u{5c}"),
        ("a ", "a /.", "a "),
        ("50% \"of\" 'it'", "50%% \"of\" 'it'", "50%% \"of\" 'it'"),
        ("$HOME", "$HOME", "$HOME"),
        ("lä\u{200b}den", "lä\u{200b}den", "lä\\u{200b}den"),
        (
            "a\n[Service]\nUser=root",
            "",
            r"a\u{a}[Service]\u{a}User=root",
        ),
        ("a\u{1b}[2J\t", "", r"a\u{1b}[2J\u{9}"),
    ]
    .into_iter()
    .enumerate()
    {
        let root = project.root.join(name);
        fs::create_dir(&root).unwrap();
        let config = "[process.api]\ncommand = [\"/bin/sleep\", \"9\"]\n\
                      env = { API_TOKEN = \"x\" }\n[process.own]\ncommand = [\"+x\", \"a\\\\\"]\n";
        fs::write(root.join(".mcp-run"), config).unwrap();
        let out = project.root.join(format!("units{at}"));
        let export = |more: &[&str]| {
            let args = ["-C", root.to_str().unwrap(), "export", "systemd", "-o"];
            project.cli([&args[..], &[out.to_str().unwrap()], more].concat())
        };
        let exported = export(&[]);
        if folder.is_empty() {
            exported.exits(1).says(&["no unit can have a path"]);
        } else {
            exported.exits(0);
            let units = fs::read_dir(&out).unwrap().map(|f| f.unwrap().path());
            let api = units
                .into_iter()
                .find(|path| path.to_string_lossy().ends_with("-api.service"));
            let text = fs::read_to_string(api.unwrap()).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let at = project.root.display();
            for line in [
                format!("Description=api of {title}"),
                format!("WorkingDirectory={at}/{folder}"),
                "ExecStart=/bin/sleep 9".into(),
            ] {
                assert!(lines.contains(&line.as_str()), "no {line} in\n{text}");
            }
            assert!(!text.contains("\\\n"), "{text}");
            let said = verified(&out).unwrap_or_default();
            assert!(said.is_empty(), "{name:?}: {said}");
            fs::remove_dir_all(&out).unwrap();
        }
        // The daemon's own unit names the folder in its commands only, where everything can be quoted.
        export(&["--self"]).exits(0);
        let unit = fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(unit).unwrap();
        let line = format!("Description=bpm: {title}");
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        assert!(!text.lines().any(|l| l == "User=root"), "{text}");
        let said = verified(&out).unwrap_or_default();
        assert!(said.is_empty(), "{name:?}: {said}");
    }
}

#[test]
fn every_refusal_names_the_next_step() {
    let project = Project::new(SHOP);
    for engine in ["compose", "kubernetes"] {
        project
            .cli(["export", engine])
            .exits(1)
            .says(&["no image is named", "hint: --image NAME"]);
    }
    project.cli(["export"]).exits(2);
    project
        .cli(["export", "kubernets"])
        .exits(2)
        .says(&["did you mean \"kubernetes\"?"]);
    project.cli(["export", "systemd", "--image", "x"]).exits(2);
    project.cli(["export", "nomad", "--self"]).exits(2);
    for number in ["many", "0"] {
        project
            .cli(["export", "compose", "--image", "x", "--replicas", number])
            .exits(2);
    }
    let call = ["export", "compose", "--image", ""];
    project.cli(call).exits(1).says(&["no image is named"]);
    let long = "x".repeat(64);
    for name in ["a_b", "a.b", "A", &long] {
        project.config(&format!("[process.\"{name}\"]\ncommand = \"x\"\n"));
        project
            .cli(["export", "kubernetes", "--image", "x"])
            .exits(1)
            .says(&[
                &format!("cannot export {name:?} to kubernetes: a name there has small letters"),
                "hint: rename",
            ]);
        project.cli(["export", "compose", "--image", "x"]).exits(0);
    }
    project.config(
        "[process.a]\ncommand = \"x\"\nport = 80\ndepends_on = [\"b\"]\n\
         [process.b]\ncommand = \"x\"\nport = 80\nautostart = false\n",
    );
    for engine in ["systemd", "nomad"] {
        project.cli(["export", engine]).exits(1).says(&[
            "a and b both have port 80",
            "hint: give [process.b] another port",
        ]);
    }
    project
        .cli(["export", "kubernetes", "--image", "x"])
        .exits(0);
    project.config("[process.a]\ncommand = \"x\"\nenv_file = \"missing\"\n");
    project
        .cli(["export", "systemd"])
        .exits(1)
        .says(&["cannot export \"a\": read \"", "no such file"]);
    project.remove(".mcp-run");
    project.cli(["export", "systemd"]).exits(1);
}

#[test]
fn a_rust_process_runs_the_release_binary() {
    let mut project = Project::empty();
    project.fake_cargo();
    project.config("[process.api]\ntype = \"rust\"\nargs = [\"--x\"]\n");
    let said = project.cli(["export", "systemd"]).exits(0).out;
    let binary = project.root.join("target/release/app");
    has(
        &said,
        &[
            "\n# built by: cargo build --release\n",
            &format!("\nExecStart={} --x\n", binary.display()),
        ],
    );
}

const LIMITED: &str = r#"
[process.a]
command = ["sh"]
limits = { memory = "512M", memory_high = "256M", cpu = 1.5, tasks = 64 }
nice = 5
oom_score_adj = 100
umask = "027"
stdin = "open"
unset_env = ["CI", "NPM_*"]
success_exit_codes = [0, 3, "HUP"]
stop_to = "leader"
on_event = "echo x"
"#;

#[test]
fn limits_are_those_of_each_engine() {
    let project = Project::new(LIMITED);
    let said = project.cli(["export", "systemd"]).exits(0);
    has(
        &said.out,
        &[
            "\nMemoryMax=536870912\nMemoryHigh=268435456\nCPUQuota=150%\nTasksMax=64\nNice=5\nOOMScoreAdjust=100\nUMask=0027\n",
            "\nUnsetEnvironment=CI\n",
            "\nSuccessExitStatus=0 3 SIGHUP\n",
            "\nKillMode=mixed\n",
            "# no counterpart for stdin = \"open\": ",
            "# no counterpart for on_event: ",
        ],
    );
    has(&said.err, &["3 settings have no counterpart in systemd"]);
    let at_once = "[process.a]\ncommand = \"x\"\nstop_timeout_seconds = 0\n";
    let said = Project::new(at_once).cli(["export", "systemd"]).exits(0);
    has(&said.out, &["\nTimeoutStopSec=1ms\n"]);
    let said = project
        .cli(["export", "compose", "--image", "x"])
        .exits(0)
        .out;
    has(
        &said,
        &[
            "mem_limit: \"536870912b\"\n    cpus: 1.50\n    pids_limit: 64\n    oom_score_adj: 100\n    stdin_open: true\n",
        ],
    );
    let said = project
        .cli(["export", "kubernetes", "--image", "x"])
        .exits(0)
        .out;
    has(
        &said,
        &[
            "resources: {limits: {memory: \"536870912\", cpu: \"1.50\"}}",
            "stdin: true\n",
        ],
    );
    let said = project.cli(["export", "nomad"]).exits(0).out;
    has(
        &said,
        &["memory = 512\n", "# no counterpart for limits.cpu: "],
    );
}
