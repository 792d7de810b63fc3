//! The configuration as a person meets it: whole files in, everything that is wrong out.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bpm::base::error::{Error, Failure, Fault};
use bpm::config::{
    self, Command, Condition, Config, Dependency, EnvFile, Fallback, Happening, KEYS, Kind, Launch,
    Limits, Mode, Place, Port, PortWish, Probe, Process, Restart, StartLimit, StopTo, Success,
    Swap, Toggle,
};

const ROOT: &str = "/home/me/app";

fn read(text: &str) -> Result<Config, Vec<Fault>> {
    config::parse(text, ".mcp-run", Path::new(ROOT)).map_err(faults)
}

fn faults(e: Error) -> Vec<Fault> {
    match e.failure() {
        Failure::Config(faults) => faults.clone(),
        _ => panic!("not a fault of the file: {e}"),
    }
}

fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|f| panic!("{text}\n{}", Error::from(Failure::Config(f))))
}

/// The faults as lines, without the file's name.
fn bad(text: &str) -> Vec<String> {
    let faults = read(text).expect_err(text);
    let lines = faults.iter().map(Fault::to_string);
    lines
        .map(|l| l.strip_prefix(".mcp-run:").unwrap().to_string())
        .collect()
}

/// One process with these lines in its table, which begins in line 1.
fn process(lines: &str) -> Process {
    let text = format!("[process.web]\ncommand = [\"./web\"]\n{lines}\n");
    good(&text).processes[0].as_ref().clone()
}

/// The faults of such a process; line 3 is the first of `lines`.
fn bad_process(lines: &str) -> Vec<String> {
    bad(&format!("[process.web]\ncommand = [\"./web\"]\n{lines}\n"))
}

/// The faults of one line above a process.
fn bad_top(line: &str) -> Vec<String> {
    bad(&format!("{line}\n[process.web]\ncommand = [\"./web\"]\n"))
}

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

#[test]
fn a_file_of_an_earlier_manager_works_unchanged() {
    let config = good(
        r#"
mcp_port = 40123
dev_timeout_hours = 2.5
dev_crash_wait_seconds = 60
release_crash_backoff_initial_seconds = 2
release_crash_backoff_max_seconds = 600

[process.backend]
type = "rust"
args = ["--port", "8080"]

[process.frontend]
type = "npm"
command = ["npm", "run", "dev"]
"#,
    );
    assert_eq!(config.root, Path::new(ROOT));
    assert_eq!(config.port, Port::Fixed(40123));
    assert_eq!(config.dev_timeout, seconds(9000.0));
    assert_eq!(config.backoff.dev, seconds(60.0));
    assert_eq!(config.backoff.initial, seconds(2.0));
    assert_eq!(config.backoff.max, seconds(600.0));
    assert_eq!(config.not_in_effect, []);
    let [backend, frontend] = config.processes.as_slice() else {
        panic!("{config:?}");
    };
    assert_eq!(
        (backend.name.as_str(), backend.kind),
        ("backend", Kind::Rust)
    );
    assert_eq!(backend.args, ["--port", "8080"]);
    assert_eq!(backend.command, None);
    assert_eq!(
        (frontend.name.as_str(), frontend.kind),
        ("frontend", Kind::Npm)
    );
    let words = ["npm", "run", "dev"].map(String::from).to_vec();
    assert_eq!(frontend.command, Some(Command::List(words)));
    assert_eq!(frontend.stop_timeout, seconds(5.0));
}

#[test]
fn defaults_are_those_of_the_specification() {
    let config = good("[process.web]\ncommand = \"./web\"\n");
    let Config {
        root: _,
        port,
        bind,
        http,
        dev_timeout,
        backoff,
        passthrough,
        heartbeat,
        idle_shutdown,
        direnv,
        cgroup,
        processes,
        not_in_effect,
        named: _,
    } = config;
    assert_eq!((port, http.token_file), (Port::Any, None));
    assert!(http.dashboard && http.metrics_token_file.is_none());
    assert_eq!(bind.to_string(), "127.0.0.1");
    assert!(http.allowed_origins.is_empty() && http.allowed_hosts.is_empty());
    assert_eq!(dev_timeout, seconds(3.0 * 3600.0));
    assert_eq!(backoff.dev, seconds(120.0));
    assert_eq!(
        (backoff.initial, backoff.max),
        (seconds(1.0), seconds(300.0))
    );
    assert_eq!(backoff.factor, 1.5);
    assert_eq!(
        (passthrough, direnv, cgroup),
        (Toggle::Auto, Toggle::Auto, Toggle::Auto)
    );
    assert_eq!(heartbeat, seconds(300.0));
    assert_eq!(idle_shutdown, Duration::ZERO);
    assert_eq!(not_in_effect, []);
    let expected = Process {
        name: "web".into(),
        kind: Kind::Command,
        args: vec![],
        command: Some(Command::Shell("./web".into())),
        build: None,
        build_release: None,
        build_timeout: seconds(1800.0),
        package: None,
        bin: None,
        features: vec![],
        cargo_args: vec![],
        mode: None,
        cwd: ROOT.into(),
        env: vec![],
        env_files: vec![],
        autostart: true,
        restart: Restart::Always,
        start_limit: StartLimit {
            burst: 0,
            span: seconds(60.0),
        },
        stop_signal: 15,
        stop_timeout: seconds(5.0),
        depends_on: vec![],
        port: None,
        listen: vec![],
        swap: Swap::StopStart,
        ready: None,
        health: None,
        watch: vec![],
        color: false,
        launch: Launch::default(),
        stop_to: StopTo::Auto,
        success: vec![Success::Code(0)],
        on_event: vec![],
        log_lines: 10_000,
        log_bytes: 1 << 20,
        log_runs: 10,
        log_disk: 64 << 20,
        references: Vec::new(),
    };
    assert_eq!(processes, [expected.into()]);
}

#[test]
fn every_key_of_the_top_level_is_read() {
    let config = good(
        r#"
mcp_port = 0
bind = "0.0.0.0"
token_file = "secrets/./token"
metrics_token_file = "/run/metrics"
dashboard = false
allowed_origins = ["https://dev.example.org", "http://box:8080"]
allowed_hosts = ["dev.example.org"]
crash_backoff_factor = 2
passthrough = true
heartbeat_minutes = 0.5
idle_shutdown_minutes = 30
log_lines = 200
log_bytes = "64K"
log_runs = 3
log_disk = 0
env = { A = "1", B = "${A}" }
env_file = "common.env"
direnv = false
process.web.command = "./web"
process.db = { command = ["db"], log_lines = 100, log_bytes = 65_536, log_runs = 1, log_disk = "2G" }
"#,
    );
    assert_eq!(config.port, Port::Off);
    assert_eq!(config.bind.to_string(), "0.0.0.0");
    assert_eq!(
        config.http.token_file,
        Some(PathBuf::from("/home/me/app/secrets/token"))
    );
    assert_eq!(config.http.allowed_origins.len(), 2);
    assert_eq!(config.http.allowed_hosts, ["dev.example.org"]);
    assert!(!config.http.dashboard);
    assert_eq!(config.http.metrics_token_file, Some("/run/metrics".into()));
    assert_eq!(config.backoff.factor, 2.0);
    assert_eq!(
        (config.passthrough, config.direnv),
        (Toggle::On, Toggle::Off)
    );
    assert_eq!(config.heartbeat, seconds(30.0));
    assert_eq!(config.idle_shutdown, seconds(1800.0));
    let [web, db] = config.processes.as_slice() else {
        panic!("{config:?}");
    };
    assert_eq!((web.name.as_str(), db.name.as_str()), ("web", "db"));
    let logs = |p: &Process| (p.log_lines, p.log_bytes, p.log_runs, p.log_disk);
    assert_eq!(logs(web), (200, 64 << 10, 3, 0));
    assert_eq!(logs(db), (100, 64 << 10, 1, 2 << 30));
    assert_eq!(
        web.env,
        [("A".into(), "1".into()), ("B".into(), "${A}".into())]
    );
    assert_eq!(web.env_files[0].path, Path::new("/home/me/app/common.env"));
}

#[test]
fn every_key_of_a_process_is_read() {
    let config = good(
        r#"
env.SHARED = "top"
env_file = "top.env"

[process.db]
command = ["db"]
restart = "on-failure"

[process.seed]
type = "task"
command = "seed"

[process.api]
type = "rust"
args = ["--verbose", "${HOME}", "$$"]
build = "make api"
build_release = ["make", "release"]
build_timeout_seconds = 0.5
package = "api"
bin = "server"
features = ["tls"]
cargo_args = ["--locked"]
mode = "dev"
cwd = "services/api"
env_file = ["a.env", "/etc/b.env?"]
autostart = false
restart = "never"
start_limit_burst = 5
start_limit_seconds = 30
stop_signal = "SIGINT"
stop_timeout_seconds = 0
depends_on = ["db", "seed"]
port = 8080
listen = ["127.0.0.1:9000", "[::1]:9000", "unix:/run/api.sock", "0.0.0.0:${PORT}"]
swap = "overlap"
watch = ["src/**", "*.{toml,lock}", "doc/[!a-c]?.md"]
color = true
log_runs = 2

[process.api.env]
Z = "1"
A = "2"

[process.api.ready]
log = "^listening on \\d+$"
timeout_seconds = 5
interval_seconds = 0.25

[process.api.health]
http = "http://localhost:9000/health"
interval_seconds = 1
timeout_seconds = 2
failures = 4

[process.api.limits]
nofile = 4096
core = "1G"
"#,
    );
    let api = &config.processes[2];
    assert_eq!(config.processes[1].restart, Restart::Never);
    assert_eq!(api.args, ["--verbose", "${HOME}", "$$"]);
    assert_eq!(api.build, Some(Command::Shell("make api".into())));
    let release = vec!["make".into(), "release".into()];
    assert_eq!(api.build_release, Some(Command::List(release)));
    assert_eq!(api.build_timeout, seconds(0.5));
    assert_eq!(api.package.as_deref(), Some("api"));
    assert_eq!(api.bin.as_deref(), Some("server"));
    assert_eq!(
        (&api.features[..], &api.cargo_args[..]),
        (&["tls".to_string()][..], &["--locked".to_string()][..])
    );
    assert_eq!(api.mode, Some(Mode::Dev));
    assert_eq!(api.cwd, Path::new("/home/me/app/services/api"));
    let env: Vec<&str> = api.env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(env, ["SHARED", "Z", "A"]);
    let file = |path: &str, optional| EnvFile {
        path: path.into(),
        optional,
        says: None,
    };
    assert_eq!(
        api.env_files,
        [
            file("/home/me/app/top.env", false),
            file("/home/me/app/a.env", false),
            file("/etc/b.env", true)
        ]
    );
    assert!(!api.autostart && api.color);
    assert_eq!((api.restart, api.start_limit.burst), (Restart::Never, 5));
    assert_eq!(api.start_limit.span, seconds(30.0));
    assert_eq!((api.stop_signal, api.stop_timeout), (2, Duration::ZERO));
    let depends = |name: &str, until| Dependency {
        name: name.into(),
        until,
    };
    assert_eq!(
        api.depends_on,
        [
            depends("db", Condition::Started),
            depends("seed", Condition::Completed)
        ]
    );
    assert_eq!(api.port, Some(PortWish::Fixed(8080)));
    assert_eq!(api.listen.len(), 4);
    assert_eq!(api.swap, Swap::Overlap);
    let ready = api.ready.as_ref().unwrap();
    assert_eq!(ready.probe, Probe::Log("^listening on \\d+$".into()));
    assert_eq!(
        (ready.timeout, ready.interval),
        (seconds(5.0), seconds(0.25))
    );
    let health = api.health.as_ref().unwrap();
    assert_eq!(
        health.probe,
        Probe::Http("http://localhost:9000/health".into())
    );
    assert_eq!(
        (health.interval, health.timeout, health.failures),
        (seconds(1.0), seconds(2.0), 4)
    );
    assert_eq!(api.watch.len(), 3);
    assert_eq!(
        (api.launch.limits.nofile, api.launch.limits.core),
        (Some(4096), Some(1 << 30))
    );
    assert_eq!((api.log_runs, api.log_lines), (2, 10_000));
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest() {
    let text =
        "mcp_port = 0\n\n[process.db]\ncommand = \"db\"\n\n[process.web]\ncomand = \"web\"\n";
    assert_eq!(
        bad(text),
        ["7:1: unknown key \"comand\" in [process.web]; did you mean \"command\"?"]
    );
    assert_eq!(
        bad_top("mcp_prot = 1"),
        ["1:1: unknown key \"mcp_prot\"; did you mean \"mcp_port\"?"]
    );
    assert_eq!(
        bad_top("port = 1"),
        ["1:1: unknown key \"port\"; it belongs into [process.NAME]"]
    );
    assert_eq!(
        bad_process("heartbeat_minutes = 1"),
        [
            "3:1: unknown key \"heartbeat_minutes\" in [process.web]; it belongs to the top level, above all tables"
        ]
    );
    assert_eq!(
        bad_process("[web]"),
        ["3:2: unknown key \"web\"; did you mean [process.web]?"]
    );
    assert_eq!(
        bad_process("ready = { tcp = \"127.0.0.1:1\", timeout = 3 }"),
        ["3:32: unknown key \"timeout\" in [process.web.ready]; did you mean \"timeout_seconds\"?"]
    );
    assert_eq!(
        bad_process("limits.fsize = \"1G\""),
        ["3:8: unknown key \"fsize\" in [process.web.limits]"]
    );
}

#[test]
fn all_faults_come_at_once_and_in_order() {
    let text = "\
log_lines = 5
dev_timeout_hours = \"long\"

[process.web]
type = \"npm\"
args = [1, \"a\", true]
depends_on = [\"bd\"]

[process.db]
command = []
comand = 3
";
    assert_eq!(
        bad(text),
        [
            "1:13: \"log_lines\": expected an integer from 100 to 10_000_000, found the integer 5",
            "2:21: \"dev_timeout_hours\": expected a number above 0, found the string \"long\"",
            "4:1: \"command\" is missing in [process.web]: type \"npm\" needs it",
            "6:9: \"args\" in [process.web]: expected a list of strings, found the integer 1 in it",
            "6:17: \"args\" in [process.web]: expected a list of strings, found true in it",
            "7:15: \"depends_on\" in [process.web]: unknown process \"bd\"; did you mean \"db\"?",
            "10:11: \"command\" in [process.db]: it is empty; name a program",
            "11:1: unknown key \"comand\" in [process.db]; did you mean \"command\"?",
        ]
    );
}

/// Key by key: values of a wrong type or out of range. Each is one fault, at the value, with the key in it.
#[test]
fn wrong_values_are_refused() {
    let top = [
        ("mcp_port", r#"65536 | -1 | 80.0 | "80" | [80] | true"#),
        (
            "bind",
            r#""localhost" | "" | 1 | "0.0.0.0" | "::" | "10.1.2.3""#,
        ),
        ("token_file", r#""" | 1 | "a\u0000b""#),
        (
            "allowed_origins",
            r#""http://a" | ["a.example"] | ["https://a/b"] | ["*"]"#,
        ),
        ("allowed_hosts", r#""a" | ["http://a"] | [""] | [1]"#),
        (
            "dev_timeout_hours",
            r#"0 | -1 | 0.0 | 1e-15 | nan | inf | -inf | 1e300 | 300_000 | "3" | 2020-01-01"#,
        ),
        (
            "dev_crash_wait_seconds",
            r#"-0.1 | nan | inf | 1e10 | 99999999999999999999999 | {}"#,
        ),
        ("release_crash_backoff_initial_seconds", r#"-1 | 301"#),
        ("release_crash_backoff_max_seconds", r#"0.5 | -1 | "x""#),
        ("crash_backoff_factor", r#"0.99 | -1 | nan | inf | 1e7"#),
        ("passthrough", r#""yes" | 1"#),
        ("heartbeat_minutes", r#"-1 | "5""#),
        ("idle_shutdown_minutes", r#"-1 | inf"#),
        ("log_lines", r#"99 | 10_000_001 | 1e3 | "1K""#),
        (
            "log_bytes",
            r#"65535 | "63K" | "64" | "64KB" | "K" | "-1M" | "1.5M" | "9999999999999999999G" | 1.0 | "é""#,
        ),
        ("log_runs", r#"0 | 101"#),
        ("log_disk", r#"-1 | "64T" | true | 2_000_000_000_000_000"#),
        ("env", r#"[] | "A=1" | 1"#),
        ("env_file", r#""" | "?" | 1 | [1] | [["a"]]"#),
        ("direnv", r#""on" | 0"#),
        ("process", r#"1 | []"#),
    ];
    for (key, values) in top {
        for value in values.split(" | ") {
            let said = bad_top_or_nothing(key, value);
            assert_eq!(said.len(), 1, "{key} = {value}: {said:?}");
            assert!(
                said[0].starts_with("1:") && said[0].contains(&format!("\"{key}\"")),
                "{key} = {value}: {said:?}"
            );
        }
    }
    let of_process = [
        ("type", r#""go" | 1"#),
        (
            "args",
            r#""a" | [1] | ["a\u0000"] | ["${"] | ["${A"] | ["${A-b}"] | ["${1}"] | ["${}"]"#,
        ),
        ("build", r#"1 | [""] | [1] | [[]]"#),
        ("build_release", r#"false | ["", "a"]"#),
        ("build_timeout_seconds", r#"0 | -1 | "1""#),
        ("mode", r#""debug" | true"#),
        ("cwd", r#""" | 1"#),
        ("env_file", r#"{} | [""]"#),
        ("autostart", r#""true" | 1"#),
        ("restart", r#""no" | false"#),
        ("start_limit_burst", r#"-1 | 1.5"#),
        ("start_limit_seconds", r#"0 | nan"#),
        ("stop_signal", r#""TREM" | 0 | 65 | "" | -9 | true"#),
        ("stop_timeout_seconds", r#"-1 | inf | 1_000_000_001"#),
        (
            "depends_on",
            r#""db" | 1 | [1] | { db = "up" } | { db = 1 } | ["db"] | ["web"]"#,
        ),
        ("port", r#"0 | 65536 | "any" | 80.0 | -1"#),
        (
            "listen",
            r#""127.0.0.1:1" | ["8080"] | [":8080"] | ["localhost:1"] | ["127.0.0.1:0"] | ["unix:run"] | ["127.0.0.1:70000"] | ["127.0.0.1:1", "127.0.0.1:1"] | ["${"]"#,
        ),
        ("swap", r#""rolling" | 1"#),
        ("ready", r#""tcp" | true | []"#),
        ("health", r#"1"#),
        (
            "watch",
            r#""src" | [""] | ["/src"] | ["../x"] | ["a//b"] | ["src/"] | ["a**b"] | ["a["] | ["[]"] | ["a{b"] | ["a}b"] | ["{a{b}}"]"#,
        ),
        ("color", r#""always""#),
        ("limits", r#"1024"#),
        ("log_bytes", r#"1"#),
    ];
    for (key, values) in of_process {
        for value in values.split(" | ") {
            let said = bad_process(&format!("{key} = {value}"));
            assert_eq!(said.len(), 1, "{key} = {value}: {said:?}");
            let key = format!("\"{key}\" in [process.web]");
            assert!(
                said[0].starts_with("3:") && said[0].contains(&key),
                "{value}: {said:?}"
            );
        }
    }
    let long = format!("[\"unix:/{}\"]", "x".repeat(107));
    assert!(bad_process(&format!("listen = {long}"))[0].contains("108 bytes"));
}

fn bad_top_or_nothing(key: &str, value: &str) -> Vec<String> {
    if key == "process" {
        return bad(&format!("process = {value}\n"));
    }
    bad_top(&format!("{key} = {value}"))
}

#[test]
fn probes_are_checked() {
    let refused = [
        (
            "ready = {}",
            "needs one of tcp, http, log, command, notify, delay_seconds",
        ),
        ("ready = { timeout_seconds = 1 }", "needs one of"),
        ("health = {}", "needs one of tcp, http, command, notify"),
        (
            "ready = { notify = true, log = \"x\" }",
            "\"log\" in [process.web.ready]: only one probe can be used, and \"notify\" is there",
        ),
        ("ready.notify = false", "expected true, found false"),
        ("ready.log = \"(\"", "\"(\" does not compile"),
        ("ready.log = \"\"", "it is empty"),
        ("ready.log = \"(?:.{1,100}){1,100}\"", "does not compile"),
        ("ready.log = 1", "expected a regular expression"),
        ("ready.command = []", "it is empty; name a program"),
        ("ready.command = \"x\"", "expected a list of strings"),
        (
            "ready.tcp = \"localhost:80\"",
            "is not an IP address and a port",
        ),
        ("ready.tcp = 80", "expected an address"),
        (
            "ready.http = \"https://127.0.0.1/\"",
            "does not begin with \"http://\"",
        ),
        (
            "ready.http = \"http://example.org/\"",
            "needs an IP address, or localhost",
        ),
        (
            "ready.http = \"http://127.0.0.1:0/\"",
            "needs an IP address, or localhost",
        ),
        (
            "ready.http = \"http://\"",
            "needs an IP address, or localhost",
        ),
        ("ready.delay_seconds = -1", "expected a number, 0 or more"),
        ("ready = { delay_seconds = 60 }", "never be ready"),
        (
            "ready = { notify = true, interval_seconds = 0.001 }",
            "0.01 or more",
        ),
        ("ready = { notify = true, timeout_seconds = 0 }", "above 0"),
        (
            "health = { log = \"x\", notify = true }",
            "unknown key \"log\" in [process.web.health]",
        ),
        (
            "health = { notify = true, failures = 0 }",
            "an integer from 1",
        ),
        ("limits.nofile = 0", "an integer from 1"),
        (
            "limits.core = \"much\"",
            "expected a size, or \"unlimited\"",
        ),
    ];
    for (line, words) in refused {
        let said = bad_process(line);
        assert_eq!(said.len(), 1, "{line}: {said:?}");
        assert!(said[0].contains(words), "{line}: {said:?}");
    }
    let accepted = [
        "ready.tcp = \"127.0.0.1:${PORT}\"",
        "ready.tcp = \"[::1]:80\"",
        "ready.http = \"http://[::1]:8080?x=1\"",
        "ready.http = \"http://localhost/a b\"",
        "ready.delay_seconds = 0",
        "ready.command = [\"pg_isready\", \"-p\", \"${PORT}\"]",
    ];
    for line in accepted {
        let line = line.replace(' ', if line.contains("a b") { "" } else { " " });
        assert!(process(&line).ready.is_some(), "{line}");
    }
    assert_eq!(
        process("limits.core = \"unlimited\"").launch.limits.core,
        Some(u64::MAX)
    );
}

#[test]
fn a_port_is_a_readiness_check_where_there_is_no_other() {
    let ready = process("port = \"auto\"").ready.unwrap();
    assert_eq!(ready.probe, Probe::Port);
    assert_eq!(
        (ready.timeout, ready.interval),
        (seconds(60.0), seconds(0.5))
    );
    let ready = process("port = 80\nready.notify = true").ready.unwrap();
    assert_eq!(ready.probe, Probe::Notify);
    // and so it is waited for
    let config = good(
        "[process.a]\ncommand = \"a\"\nport = 1\n[process.b]\ncommand = \"b\"\ndepends_on = [\"a\"]\n",
    );
    assert_eq!(config.processes[1].depends_on[0].until, Condition::Ready);
}

#[test]
fn overlap_needs_a_probe_that_only_the_new_one_can_answer() {
    let listen = "listen = [\"127.0.0.1:8080\"]\n";
    assert_eq!(
        process(&format!("{listen}ready.notify = true")).swap,
        Swap::Overlap
    );
    assert_eq!(process(listen).swap, Swap::StopStart);
    assert_eq!(process("ready.notify = true").swap, Swap::StopStart);
    let held = [
        "ready.tcp = \"127.0.0.1:8080\"",
        "ready.http = \"http://localhost:8080/x\"",
        "ready.http = \"http://127.0.0.1:8080\"",
        "ready.tcp = \"0.0.0.0:8080\"",
        "port = 8080\nready.tcp = \"127.0.0.1:${PORT}\"",
        "swap = \"overlap\"\nready.tcp = \"127.0.0.1:8080\"",
    ];
    for line in held {
        let said = bad_process(&format!("{listen}{line}"));
        assert_eq!(said.len(), 1, "{line}: {said:?}");
        assert!(
            said[0].contains("\"127.0.0.1:8080\" would be answered by the old process"),
            "{said:?}"
        );
        process(
            &format!("{listen}{line}\nswap = \"stop-start\"").replace("swap = \"overlap\"\n", ""),
        );
    }
    // A connection to the port that bpm holds itself would tell nothing: it is no check then.
    for port in ["8080", "\"auto\""] {
        let web = process(&format!(
            "listen = [\"0.0.0.0:8081\", \"0.0.0.0:${{PORT}}\"]\nport = {port}"
        ));
        assert_eq!((web.ready, web.swap), (None, Swap::StopStart));
    }
    process(&format!("{listen}ready.tcp = \"127.0.0.1:8081\""));
    process(&format!("{listen}ready.tcp = \"127.0.0.2:8080\""));
    process("listen = [\"unix:/run/a\"]\nready.tcp = \"127.0.0.1:8080\"");
}

#[test]
fn a_socket_is_held_by_one_process() {
    let text = "[process.a]\ncommand = \"a\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:${PORT}\"]\nport = 5\nswap = \"stop-start\"\n\
                [process.b]\ncommand = \"b\"\nlisten = [\"127.0.0.1:${PORT}\", \"127.0.0.1:1\"]\nport = 6\nswap = \"stop-start\"\n";
    assert_eq!(
        bad(text),
        ["8:32: \"listen\" in [process.b]: \"127.0.0.1:1\" is in [process.a] already"]
    );
}

#[test]
fn a_port_belongs_to_one_process() {
    let two = |a: &str, b: &str| {
        format!("[process.a]\ncommand = \"a\"\n{a}\n[process.b]\ncommand = \"b\"\n{b}\n")
    };
    let text = two("port = 80", "port = 80");
    assert_eq!(
        bad(&text),
        ["6:8: \"port\" in [process.b]: 80 is in [process.a] already"]
    );
    let listen = |address: &str| format!("listen = [\"{address}\"]");
    for (a, b) in [
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::]:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "[::]:80"),
        ("[::1]:80", "[::]:80"),
        ("10.0.0.1:80", "0.0.0.0:80"),
    ] {
        assert_eq!(
            bad(&two(&listen(a), &listen(b))),
            [format!(
                "6:11: \"listen\" in [process.b]: \"{b}\" overlaps with what is in [process.a]: \"{a}\""
            )]
        );
    }
    for (a, b) in [
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:80", "[::1]:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("10.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "127.0.0.1:81"),
    ] {
        good(&two(&listen(a), &listen(b)));
    }
    // A program that is given a port may listen on it at any loopback address.
    bad(&two("port = 80", &listen("[::1]:80")));
    bad(&two(&listen("0.0.0.0:80"), "port = 80"));
    good(&two("port = 80", &listen("10.0.0.1:80")));
    good(&two(
        "port = 80\nlisten = [\"0.0.0.0:80\"]\nswap = \"stop-start\"",
        "port = 81",
    ));
    let text = format!("mcp_port = 80\n{}", two("port = 80", ""));
    assert_eq!(
        bad(&text),
        [
            "4:8: \"port\" in [process.a]: 80 overlaps with what is bpm's own: 80 is its \"mcp_port\""
        ]
    );
    // One of two that is started by hand may be meant to run in place of the other.
    let config = good(&two("port = 80", "port = 80\nautostart = false"));
    assert_eq!(
        config.not_in_effect[0].to_string(),
        ".mcp-run:6:8: \"port\" in [process.b]: 80 is in [process.a] already"
    );
}

#[test]
fn a_socket_that_can_not_reach_its_program_is_said() {
    let said = |command: &str| {
        let config = good(&format!(
            "[process.web]\ncommand = {command}\nlisten = [\"127.0.0.1:1\"]\n"
        ));
        let notes = config.not_in_effect.iter().map(Fault::to_string);
        notes.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        said("[\"npm\", \"run\", \"dev\"]"),
        ".mcp-run:3:10: \"listen\" in [process.web]: \"npm\" closes the sockets that it is handed: run the program itself"
    );
    assert!(said("\"uv run gunicorn a:a\"").contains("\"uv\" starts the program as a child"));
    assert!(said("\"cd x; gunicorn a:a\"").contains("a shell stays before the program"));
    assert_eq!(said("[\"gunicorn\", \"a:a\"]"), "");
}

#[test]
fn ports_of_others_are_named_and_known() {
    let text = "[process.api]\ncommand = \"a\"\nport = 81\n[process.\"web.v1\"]\ncommand = [\"b\", \"${api.port}\"]\n\
                args = [\"$${api.port}${api.url}/x\"]\nport = \"auto\"\nenv = { A = \"${web.v1.url}\", B = \"${X:-${api.port}}\" }\n\
                ready.tcp = \"127.0.0.1:${api.port}\"\n";
    let process = good(text).processes[1].clone();
    let named: Vec<_> = process
        .references
        .iter()
        .map(|r| (&*r.name, r.port, r.url))
        .collect();
    assert_eq!(
        named,
        [
            ("api", PortWish::Fixed(81), false),
            ("api", PortWish::Fixed(81), true),
            ("web.v1", PortWish::Auto, true)
        ]
        .map(|(name, port, url)| (name, port, url))
    );
    let ports = |name: &str| Some(("h".to_string(), if name == "api" { 81 } else { 82 }));
    let process = config::with_ports(&process, &ports);
    assert_eq!(
        process.command,
        Some(Command::List(vec!["b".into(), "81".into()]))
    );
    assert_eq!(process.args, ["$${api.port}http://h:81/x"]);
    let env = [("A", "http://h:82"), ("B", "${X:-81}")];
    assert_eq!(
        process.env,
        env.map(|(n, v)| (n.to_string(), v.to_string()))
    );
    assert_eq!(
        process.ready.unwrap().probe,
        Probe::Tcp("127.0.0.1:81".into())
    );
    // Another port of the one that is named is a change of who names it.
    let diff = config::diff(&good(text), &good(&text.replace("81", "91")));
    assert_eq!(diff.changed, ["api", "web.v1"]);
    // Two may name each other.
    good(
        "[process.a]\ncommand = [\"${b.port}\"]\nport = 1\n[process.b]\ncommand = [\"${a.port}\"]\nport = 2\n",
    );
}

#[test]
fn ports_of_nobody_are_mistakes() {
    let text = "env.A = \"${wbe.url}\"\n[process.web]\ncommand = [\"x\", \"${db.port}\"]\nport = 1\n\
                env.B = \"é${web.host}\"\nready.command = [\"${web.prot}\"]\nlisten = [\"127.0.0.1:${w.port}\"]\n\
                [process.db]\ncommand = \"${no.port} is the shell's\"\n";
    assert_eq!(
        bad(text),
        [
            "1:9: \"env.A\": unknown process \"wbe\"; did you mean \"web\"?",
            "3:17: \"command\" in [process.web]: [process.db] has no \"port\"",
            "5:9: \"env.B\" in [process.web]: \"${web.host}\" is neither ${web.port} nor ${web.url}",
            "6:18: \"ready\" in [process.web]: \"${web.prot}\" is neither ${web.port} nor ${web.url}",
            "7:11: \"listen\" in [process.web]: unknown process \"w\"",
        ]
    );
    assert_eq!(
        bad_process("port = 1\nenv.A = \"${web.port:-1}\""),
        ["4:9: \"env.A\" in [process.web]: \"${web.port\" goes on without \"}\""]
    );
}

#[test]
fn impossible_arguments_of_a_program_are_a_mistake() {
    let growing = |n: usize| -> String {
        let mut text = String::from("env.A0 = \"xxxxxxxxxx\"\n");
        for i in 1..n {
            text += &format!("env.A{i} = \"${{A{}}}${{A{}}}\"\n", i - 1, i - 1);
        }
        text
    };
    let too_long = "longer than 128 KiB, the most that a program can be given";
    let said = bad_process(&growing(60));
    assert_eq!(
        said[0],
        format!("17:11: \"env.A14\" in [process.web]: {too_long}")
    );
    assert!(said.len() < 60, "{said:?}");
    assert_eq!(
        bad_top(&growing(20))[0],
        format!("15:11: \"env.A14\": {too_long}")
    );
    process(&growing(14));
    let long = "x".repeat(131_064);
    process(&format!("env.A = \"{long}\""));
    assert_eq!(
        bad_process(&format!("env.NAME = \"{long}{long}\"")),
        [format!("3:12: \"env.NAME\" in [process.web]: {too_long}")]
    );
    assert_eq!(
        bad_process(&format!("args = [\"{long}{long}\"]")),
        [format!("3:9: \"args\" in [process.web]: {too_long}")]
    );
    assert_eq!(
        bad(&format!("[process.a]\ncommand = \"{long}xxx\"\n")),
        [format!("2:11: \"command\" in [process.a]: {too_long}")]
    );
    let many = "\"${A}\", ".repeat(30);
    assert_eq!(
        bad_process(&format!(
            "env.A = \"{}\"\nargs = [{many}]",
            "x".repeat(100_000)
        )),
        [
            "4:8: \"args\" in [process.web]: arguments and environment together: more than 2048 KiB, the most that a program can be given here"
        ]
    );
    // The same settings for very many processes.
    let mut text = format!("env.A = \"{}\"\n", "x".repeat(100_000));
    for i in 0..1000 {
        text += &format!("[process.p{i}]\ncommand = \"x\"\n");
    }
    assert_eq!(
        bad(&text),
        ["2:2: the settings of the top level for all of 1000 processes take more than 64 MiB"]
    );
}

#[test]
fn a_hostile_file_is_read_in_time() {
    let each = |part: &dyn Fn(usize) -> String, top: &str| {
        let mut text = String::from(top);
        let mut i = 0;
        while text.len() < 300_000 {
            text += &part(i);
            i += 1;
        }
        text
    };
    let process = "[process.a]\ncommand = [\"x\"]\n";
    for text in [
        each(
            &|i| format!("[process.p{i}]\ncommand=\"x\"\nport=80\nautostart=false\n"),
            "",
        ),
        each(
            &|i| {
                format!(
                    "[process.p{}]\ncommand=\"x\"\nlisten=[\"127.{}.{}.1:80\"]\n",
                    90_000 - i,
                    200 - i / 250,
                    250 - i % 250
                )
            },
            "",
        ),
        each(
            &|i| format!("[process.p{i}]\ncommand=[\"${{q{i}.port}}\"]\n"),
            "",
        ),
        each(
            &|i| format!("[process.p{i}]\ncommand=[\"x\"]\ndepends_on=[\"q{i}\"]\n"),
            "",
        ),
        each(
            &|i| format!("A{}=\"${{A{}}}\"\n", 90_000 - i, 90_001 - i),
            &format!("{process}[process.a.env]\n"),
        ),
        each(&|i| format!("k{}{i}=1\n", "x".repeat(i % 4000)), ""),
        format!("{process}x = {}", "[".repeat(300_000)),
        format!("{process}{} = 1", "a.".repeat(150_000)),
        format!("{process}x = {}", "{a=".repeat(100_000)),
        format!("{process}env.A = \"{}\"", "${A:-".repeat(20_000)),
    ] {
        let began = Instant::now();
        let _ = read(&text);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}: {}", &text[..200]);
    }
}

#[test]
fn dependencies_are_checked() {
    let three = |a: &str, b: &str, c: &str| {
        format!(
            "[process.a]\ncommand = \"a\"\n{a}\n[process.b]\ncommand = \"b\"\n{b}\n[process.c]\ncommand = \"c\"\n{c}\n"
        )
    };
    assert_eq!(
        bad(&three(
            "depends_on = [\"b\"]",
            "depends_on.c = \"ready\"",
            "depends_on = [\"a\"]"
        )),
        ["3:15: \"depends_on\" in [process.a]: a cycle, a -> b -> c -> a"]
    );
    assert_eq!(
        bad(&three(
            "depends_on = [\"a\"]",
            "depends_on = [\"c\"]",
            "depends_on = [\"b\"]"
        )),
        [
            "3:15: \"depends_on\" in [process.a]: a cycle, a -> a",
            "6:15: \"depends_on\" in [process.b]: a cycle, b -> c -> b"
        ]
    );
    let config = good(&three(
        "",
        "depends_on = [\"a\", \"a\"]",
        "depends_on = { b = \"completed\", a = \"started\" }",
    ));
    assert_eq!(config.processes[1].depends_on.len(), 1);
    assert_eq!(
        config.processes[2].depends_on[0].until,
        Condition::Completed
    );
    assert_eq!(config.processes[2].depends_on[1].name, "a");
}

#[test]
fn names_are_checked() {
    let named = |name: &str| format!("[process.{name}]\ncommand = \"x\"\n");
    for fine in ["a", "Web-1_2", "\"a.b\"", &"x".repeat(64)] {
        good(&named(fine));
    }
    for (wrong, why) in [
        ("\"\"", "1 to 64"),
        (&*"x".repeat(65), "1 to 64"),
        ("-a", "begin with"),
        ("\".a\"", "begin with"),
        ("\"a b\"", "only"),
        ("\"a/b\"", "only"),
        ("\"a\\nb\"", "only"),
        ("\"é\"", "only"),
    ] {
        let said = bad(&named(wrong));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("1:10: process ") && said[0].contains(why),
            "{said:?}"
        );
    }
}

#[test]
fn keys_of_another_type_are_refused_or_told() {
    for key in [
        "package = \"a\"",
        "bin = \"a\"",
        "features = []",
        "cargo_args = []",
    ] {
        let said = bad_process(key);
        assert!(said[0].contains("only type \"rust\" has it"), "{said:?}");
    }
    let config = good("[process.web]\ntype = \"rust\"\ncommand = \"x\"\n");
    assert_eq!(
        config.not_in_effect[0].to_string(),
        ".mcp-run:3:11: \"command\" in [process.web] is not used: type \"rust\" runs what cargo builds"
    );
    for kind in ["npm", "command", "task"] {
        let said = bad(&format!("[process.web]\ntype = \"{kind}\"\n"));
        assert_eq!(
            said,
            [format!(
                "1:1: \"command\" is missing in [process.web]: type \"{kind}\" needs it"
            )]
        );
    }
}

#[test]
fn secrets_are_not_quoted() {
    let said = bad_process(
        "env = { A = 12345, B = true, C = \"hunter2${\", D = [\"hunter2\"], \"\" = \"hunter2\", E = \"hunter2\\u0000\" }",
    );
    assert_eq!(said.len(), 6, "{said:?}");
    assert_eq!(
        said[0],
        "3:13: \"env.A\" in [process.web]: expected a string, found an integer; put it in quotes"
    );
    let unquoted = bad("[process.web.env]\nTOKEN = hunter2\n");
    let whole = bad_process("env = \"TOKEN=hunter2\"");
    let number = bad_process("env = 12345");
    let all = [said, unquoted, whole, number].concat();
    for line in &all {
        assert!(
            !line.contains("hunter2") && !line.contains("12345"),
            "{line}"
        );
    }
}

#[test]
fn no_process_is_an_error() {
    let words = "there is no process; add one, such as [process.web] with a \"command\"";
    assert_eq!(bad(""), [format!("1:1: {words}")]);
    assert_eq!(
        bad("# nothing\nlog_lines = 100\n"),
        [format!("1:1: {words}")]
    );
    assert_eq!(bad("\n[process]\n"), [format!("2:1: {words}")]);
    assert_eq!(
        bad("[[process]]\nweb = 1\n"),
        ["1:1: \"process\": expected a table for each process, found a list"]
    );
    assert_eq!(
        bad("process.web = 1\n"),
        ["1:15: [process.web] must be a table of keys"]
    );
}

#[test]
fn syntax_errors_have_a_place() {
    assert_eq!(
        bad("[process.web]\ncommand = web serve\nport = 1\nport = 2\n[process.db\n"),
        [
            "2:11: not valid TOML: a string needs quotes",
            "4:1: duplicate key \"port\"",
            "5:12: not valid TOML: unclosed table, expected `]`",
        ]
    );
    assert_eq!(
        bad("log_lines = \n"),
        ["1:13: not valid TOML: the value is missing"]
    );
    // a key that is there twice hides nothing else
    assert_eq!(
        bad("[process.web]\ncommand = \"x\"\nprot = 1\n[process.web]\nport = 0\n"),
        [
            "3:1: unknown key \"prot\" in [process.web]; did you mean \"port\"?",
            "4:10: duplicate key \"web\"",
            "5:8: \"port\" in [process.web]: expected an integer from 1 to 65535, or \"auto\", found the integer 0",
        ]
    );
}

#[test]
fn columns_are_characters_and_files_come_from_anywhere() {
    let said = bad_process("watch = [\"äöü/**\", \"/日本\"] # é");
    assert!(said[0].starts_with("3:20: "), "{said:?}");
    let windows = "\u{feff}log_lines = 1\r\n[process.web]\r\ncommand = \"x\"\r\n\r\nport = 0\r\n";
    let said = bad(windows);
    assert!(
        said[0].starts_with("1:13: ") && said[1].starts_with("5:8: "),
        "{said:?}"
    );
    good("\u{feff}[process.web]\r\ncommand = \"x\"\r\n");
    let bytes =
        |b: &[u8]| config::parse_bytes(b, ".mcp-run", Path::new(ROOT), 2 << 20).map_err(faults);
    assert_eq!(
        bytes(b"\xef\xbb\xbf# \xc3\xa9\nx = \"\xc3\xa9\xff\"\n").unwrap_err()[0].to_string(),
        ".mcp-run:2:7: not UTF-8: save the file in that encoding"
    );
    assert!(bytes(b"[process.web]\ncommand = \"x\"\n").is_ok());
    let large = format!("# {}", "x".repeat(2 << 20));
    assert_eq!(bad(&large), ["1:1: the file is larger than 1 MiB"]);
}

#[test]
fn a_hostile_file_costs_little() {
    let started = Instant::now();
    let unknown: String = (0..60_000)
        .map(|i| format!("a_long_key_name_{i} = 1\n"))
        .collect();
    assert_eq!(
        bad(&unknown[..1 << 20][..unknown[..1 << 20].rfind('\n').unwrap()]).len(),
        200
    );
    let mut chain = String::new();
    for i in 0..15_000 {
        chain.push_str(&format!(
            "[process.p{i}]\ncommand=\"x\"\ndepends_on=[\"p{}\"]\n",
            i + 1
        ));
    }
    chain.push_str("[process.p15000]\ncommand=\"x\"\n");
    assert_eq!(good(&chain).processes.len(), 15_001);
    let deep = format!("x = {}", "[".repeat(100_000));
    assert!(!bad(&deep).is_empty());
    let nested = format!(
        "[process.web]\ncommand = [\"x\", \"{}\"]\n",
        "${A:-".repeat(20_000)
    );
    assert!(bad(&nested)[0].contains("16 fallbacks"));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

fn man_page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/mcp-run.5");
    std::fs::read_to_string(path).expect("man/mcp-run.5")
}

/// The literal blocks of the man page.
fn examples() -> Vec<String> {
    let page = man_page();
    let blocks = page.split(".Bd -literal").skip(1);
    blocks
        .map(|b| {
            let (_, body) = b.split_once('\n').expect("a line after .Bd");
            body.split_once(".Ed").expect("an .Ed").0.to_string()
        })
        .collect()
}

#[test]
fn the_man_page_has_every_key() {
    let page = man_page();
    let part = |place| {
        let title = match place {
            Place::Top => "TOP LEVEL",
            Place::Process => "PROCESSES",
            Place::Ready => "READINESS",
            Place::Health => "HEALTH",
            Place::Limits => "LIMITS",
            Place::OnEvent => "EVENTS",
        };
        let from = page.find(&format!(".Sh {title}\n")).expect(title);
        let part = &page[from + 4..];
        &part[..part.find(".Sh ").expect("a next section")]
    };
    for key in KEYS {
        let mut kind = key.kind.to_string();
        kind[..1].make_ascii_uppercase();
        let entry = format!(
            ".It Ic {}\n{kind}.\nDefault: {}.\n",
            key.name,
            key.fallback.as_str()
        );
        assert!(
            part(key.place).contains(&entry),
            "the man page lacks:\n{entry}"
        );
    }
    let mut places: Vec<Place> = Vec::new();
    for key in KEYS {
        if !places.contains(&key.place) {
            places.push(key.place);
        }
    }
    let items = places.iter().map(|p| part(*p).matches("\n.It Ic ").count());
    let items: usize = items.sum();
    assert_eq!(items, KEYS.len(), "the man page has keys that do not exist");
}

#[test]
fn the_examples_of_the_man_page_parse() {
    let examples = examples();
    assert!(examples.len() >= 3);
    for example in examples {
        good(&example);
    }
}

#[test]
fn every_default_in_the_table_is_accepted_as_a_value() {
    for key in KEYS {
        let Fallback::Toml(default) = key.fallback else {
            continue;
        };
        let line = format!("{} = {default}", key.name);
        match key.place {
            Place::Top => drop(good(&format!("{line}\n[process.web]\ncommand = \"x\"\n"))),
            Place::Process => {
                let text = format!("[process.web]\ntype = \"rust\"\n{line}\n");
                drop(good(
                    &text.replace("type = \"rust\"\ntype", "command = \"x\"\ntype"),
                ));
            }
            Place::Ready => drop(process(&format!("ready.notify = true\nready.{line}"))),
            Place::Health => drop(process(&format!("health.notify = true\nhealth.{line}"))),
            Place::Limits => drop(process(&format!("limits.{line}"))),
            Place::OnEvent => drop(process(&format!("on_event.{line}"))),
        }
    }
}

#[test]
fn rights_limits_and_streams_are_read() {
    let config = good(
        r#"
unset_env = ["AWS_*"]
on_event = "notify"
cgroup = false

[process.web]
command = "./web"
unset_env = ["SECRET"]
stop_to = "leader"
nice = -5
oom_score_adj = 300
umask = "027"
user = "www-data"
group = 33
stdin = "open"
success_exit_codes = [0, 3, "TERM"]
limits = { memory = "512M", memory_high = "400M", cpu = 1.5, tasks = 64 }
ready = { notify = true, settle_seconds = 2.5 }

[process.web.on_event]
crashed = ["mail", "me"]
"#,
    );
    assert_eq!(config.cgroup, Toggle::Off);
    let web = &config.processes[0];
    let expected = Launch {
        unset_env: vec!["AWS_*".into(), "SECRET".into()],
        stdin_open: true,
        tty: false,
        limits: Limits {
            memory: Some(512 << 20),
            memory_high: Some(400 << 20),
            cpu: Some(1.5),
            tasks: Some(64),
            ..Limits::default()
        },
        nice: Some(-5),
        oom_score_adj: Some(300),
        umask: Some(0o27),
        user: Some("www-data".into()),
        group: Some("33".into()),
    };
    assert_eq!(web.launch, expected);
    assert_eq!(web.stop_to, StopTo::Leader);
    assert_eq!(
        web.success,
        [Success::Code(0), Success::Code(3), Success::Signal(15)]
    );
    let mail = Command::List(vec!["mail".into(), "me".into()]);
    assert_eq!(
        web.on_event,
        [
            (None, Command::Shell("notify".into())),
            (Some(Happening::Crashed), mail)
        ]
    );
    assert_eq!(web.ready.as_ref().unwrap().settle, seconds(2.5));
    let settle = |line: &str| process(line).ready.unwrap().settle;
    assert_eq!(settle("ready.notify = true"), seconds(1.0));
    assert_eq!(settle("ready.log = \"up\""), seconds(0.0));
}

#[test]
fn rights_limits_and_streams_that_cannot_be_are_refused() {
    for (line, part) in [
        (
            "nice = 20",
            "\"nice\" in [process.web]: expected an integer from -20 to 19",
        ),
        (
            "oom_score_adj = \"x\"",
            "expected an integer from -1000 to 1000",
        ),
        ("umask = \"888\"", "expected octal digits in a string"),
        ("umask = 22", "expected octal digits in a string"),
        ("group = \"x\"", "it goes with \"user\""),
        ("tty = true\nstdin = \"open\"", "gives it a terminal"),
        (
            "limits = { memory = 100, memory_high = 200 }",
            "it is above \"memory\"",
        ),
        ("limits = { cpu = 0 }", "expected a number above 0"),
        (
            "success_exit_codes = [256]",
            "expected a list of exit codes",
        ),
        ("success_exit_codes = [\"TREM\"]", "unknown signal \"TREM\""),
        (
            "stop_to = \"all\"",
            "expected \"auto\", \"group\" or \"leader\"",
        ),
        ("on_event.crash = \"x\"", "did you mean \"crashed\"?"),
        ("on_event = []", "name a program"),
    ] {
        let said = bad(&format!("[process.web]\ncommand = \"./web\"\n{line}\n")).join("\n");
        assert!(said.contains(part), "{line}: {said}");
    }
}
