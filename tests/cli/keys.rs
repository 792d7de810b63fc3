//! Every key of the file, one row each: read, checked with its place, compared by a reload, in the exports.

use std::fmt::Write as _;
use std::path::Path;

use bpm::config::{self, Config, KEYS, Place};

use crate::common::Project;

/// A key with two values that differ, and one that is refused.
struct Row {
    place: Place,
    name: &'static str,
    /// Lines that it needs beside it.
    with: &'static str,
    values: [&'static str; 2],
    bad: &'static str,
    /// Engines whose export is rightly the same for both.
    same: &'static [&'static str],
}

const fn row(
    place: Place,
    name: &'static str,
    with: &'static str,
    values: [&'static str; 2],
    bad: &'static str,
    same: &'static [&'static str],
) -> Row {
    Row {
        place,
        name,
        with,
        values,
        bad,
        same,
    }
}

const ENGINES: [&str; 4] = ["systemd", "compose", "kubernetes", "nomad"];
/// A setting of bpm's own, which an engine has no use for.
const OWN: &[&str] = &ENGINES;
/// The engines that run containers.
const CONTAINERS: &[&str] = &["compose", "kubernetes", "nomad"];
/// A container inherits nothing; a unit's processes get their signal as a group.
const NEEDS_NONE: [&str; 2] = ["unset_env", "stop_to"];
/// The setting is named as a whole there.
const WHOLE: &[&str] = &["systemd", "nomad"];

#[rustfmt::skip]
const ROWS: &[Row] = &{
    use Place::{Health, Limits, OnEvent, Process, Ready, Top};
    const TCP: &str = "ready.tcp = \"127.0.0.1:8093\"";
    const HEALTH: &str = "health.tcp = \"127.0.0.1:8094\"";
    const RUST: &str = "type = \"rust\"";
    [
        row(Top, "mcp_port", "", ["0", "8090"], "65536", OWN),
        row(Top, "bind", "token_file = \"t\"", ["\"127.0.0.1\"", "\"0.0.0.0\""], "\"localhost\"", OWN),
        row(Top, "token_file", "", ["\"t\"", "\"u\""], "1", OWN),
        row(Top, "metrics_token_file", "", ["\"t\"", "\"u\""], "1", OWN),
        row(Top, "dashboard", "", ["true", "false"], "\"no\"", OWN),
        row(Top, "allowed_origins", "", ["[]", "[\"http://a\"]"], "\"http://a\"", OWN),
        row(Top, "allowed_hosts", "", ["[]", "[\"a\"]"], "\"a\"", OWN),
        row(Top, "dev_timeout_hours", "", ["3", "2"], "0", OWN),
        row(Top, "dev_crash_wait_seconds", "", ["3", "2"], "-1", OWN),
        row(Top, "release_crash_backoff_initial_seconds", "", ["3", "2"], "-1", OWN),
        row(Top, "release_crash_backoff_max_seconds", "", ["3", "2"], "-1", OWN),
        row(Top, "crash_backoff_factor", "", ["3", "2"], "0.5", OWN),
        row(Top, "passthrough", "", ["true", "false"], "1", OWN),
        row(Top, "heartbeat_minutes", "", ["3", "2"], "-1", OWN),
        row(Top, "idle_shutdown_minutes", "", ["3", "2"], "-1", OWN),
        row(Top, "log_lines", "", ["300", "200"], "99", OWN),
        row(Top, "log_bytes", "", ["\"1M\"", "\"2M\""], "1", OWN),
        row(Top, "log_runs", "", ["3", "2"], "0", OWN),
        row(Top, "log_disk", "", ["3", "2"], "-1", OWN),
        row(Top, "env", "", ["{ A = \"1\" }", "{ A = \"2\" }"], "1", OWN),
        row(Top, "env_file", "", ["\"a?\"", "\"b?\""], "1", OWN),
        row(Top, "direnv", "", ["\"auto\"", "false"], "1", OWN),
        row(Top, "unset_env", "", ["[\"A\"]", "[\"B\"]"], "\"A\"", OWN),
        row(Top, "on_event", "", ["\"a\"", "[\"b\"]"], "1", OWN),
        row(Top, "cgroup", "", ["\"auto\"", "false"], "1", OWN),

        row(Process, "type", "", ["\"command\"", "\"task\""], "\"tusk\"", &[]),
        row(Process, "args", "", ["[]", "[\"a\"]"], "\"a\"", &[]),
        row(Process, "command", "", ["[\"sh\"]", "[\"ls\"]"], "1", &[]),
        row(Process, "build", "", ["[\"sh\"]", "[\"ls\"]"], "1", &["compose", "kubernetes"]),
        row(Process, "build_release", "", ["[\"sh\"]", "[\"ls\"]"], "1", &["compose", "kubernetes"]),
        row(Process, "build_timeout_seconds", "", ["3", "2"], "0", OWN),
        row(Process, "package", RUST, ["\"a\"", "\"b\""], "1", OWN),
        row(Process, "bin", RUST, ["\"a\"", "\"b\""], "1", OWN),
        row(Process, "features", RUST, ["[]", "[\"b\"]"], "1", OWN),
        row(Process, "cargo_args", RUST, ["[]", "[\"b\"]"], "1", OWN),
        row(Process, "mode", "", ["\"dev\"", "\"release\""], "\"debug\"", OWN),
        row(Process, "cwd", "", ["\".\"", "\"src\""], "1", &[]),
        row(Process, "env", "", ["{ A = \"1\" }", "{ A = \"2\" }"], "1", &[]),
        row(Process, "env_file", "", ["\"one.env\"", "\"two.env\""], "1", &[]),
        row(Process, "unset_env", "", ["[\"A\"]", "[\"B\"]"], "\"A\"", CONTAINERS),
        row(Process, "autostart", "", ["true", "false"], "1", &[]),
        row(Process, "restart", "", ["\"always\"", "\"never\""], "\"no\"", &[]),
        row(Process, "start_limit_burst", "", ["0", "3"], "-1", &[]),
        row(Process, "start_limit_seconds", "start_limit_burst = 3", ["3", "2"], "0", &["compose", "kubernetes"]),
        row(Process, "stop_signal", "", ["\"TERM\"", "\"INT\""], "\"TREM\"", &[]),
        row(Process, "stop_to", "", ["\"auto\"", "\"group\""], "\"all\"", &["systemd"]),
        row(Process, "stop_timeout_seconds", "", ["3", "2"], "-1", &[]),
        row(Process, "depends_on", "", ["[]", "[\"db\"]"], "1", &[]),
        row(Process, "port", "", ["8091", "8092"], "0", &[]),
        row(Process, "listen", "", ["[]", "[\"127.0.0.1:8092\"]"], "[\"8092\"]", &[]),
        row(Process, "swap", TCP, ["\"stop-start\"", "\"overlap\""], "\"rolling\"", &["nomad"]),
        row(Process, "ready", "", ["{ delay_seconds = 1 }", "{ log = \"a\" }"], "1", &["nomad"]),
        row(Process, "health", "", ["{ notify = true }", "{ command = [\"a\"] }"], "1", &["nomad"]),
        row(Process, "watch", "", ["[]", "[\"*.x\"]"], "\"*.x\"", &[]),
        row(Process, "color", "", ["true", "false"], "\"always\"", &[]),
        row(Process, "limits", "", ["{}", "{ core = 9 }"], "1", &[]),
        row(Process, "nice", "", ["3", "2"], "20", CONTAINERS),
        row(Process, "oom_score_adj", "", ["3", "2"], "1001", &["kubernetes", "nomad"]),
        row(Process, "umask", "", ["\"022\"", "\"077\""], "22", CONTAINERS),
        row(Process, "user", "", ["\"nobody\"", "\"daemon\""], "\"\"", &["kubernetes"]),
        row(Process, "group", "user = \"nobody\"", ["\"nogroup\"", "\"daemon\""], "\"\"", &["kubernetes", "nomad"]),
        row(Process, "stdin", "", ["\"null\"", "\"open\""], "\"pipe\"", &[]),
        row(Process, "tty", "", ["true", "false"], "1", &[]),
        row(Process, "success_exit_codes", "", ["[0]", "[0, 3]"], "[256]", &[]),
        row(Process, "on_event", "", ["{}", "[\"b\"]"], "1", &[]),
        row(Process, "log_lines", "", ["300", "200"], "99", OWN),
        row(Process, "log_bytes", "", ["\"1M\"", "\"2M\""], "1", OWN),
        row(Process, "log_runs", "", ["3", "2"], "0", OWN),
        row(Process, "log_disk", "", ["3", "2"], "-1", OWN),

        row(Ready, "tcp", "", ["\"127.0.0.1:8093\"", "\"127.0.0.1:8095\""], "\"8093\"", &["nomad"]),
        row(Ready, "http", "", ["\"http://127.0.0.1:8093/a\"", "\"http://127.0.0.1:8093/b\""], "\"ftp://a\"", &["nomad"]),
        row(Ready, "log", "", ["\"a\"", "\"b\""], "\"(\"", OWN),
        row(Ready, "command", "", ["[\"a\"]", "[\"b\"]"], "\"a\"", &["nomad"]),
        row(Ready, "notify", "", ["true", "true"], "false", OWN),
        row(Ready, "delay_seconds", "", ["3", "2"], "-1", OWN),
        row(Ready, "timeout_seconds", TCP, ["3", "2"], "0", &["nomad"]),
        row(Ready, "interval_seconds", TCP, ["3", "2"], "0", &["nomad"]),
        row(Ready, "settle_seconds", TCP, ["3", "2"], "-1", OWN),

        row(Health, "tcp", "", ["\"127.0.0.1:8093\"", "\"127.0.0.1:8095\""], "\"8093\"", WHOLE),
        row(Health, "http", "", ["\"http://127.0.0.1:8093/a\"", "\"http://127.0.0.1:8093/b\""], "\"ftp://a\"", WHOLE),
        row(Health, "command", "", ["[\"a\"]", "[\"b\"]"], "\"a\"", WHOLE),
        row(Health, "notify", "", ["true", "true"], "false", OWN),
        row(Health, "interval_seconds", HEALTH, ["3", "2"], "0", WHOLE),
        row(Health, "timeout_seconds", HEALTH, ["3", "2"], "0", WHOLE),
        row(Health, "failures", HEALTH, ["4", "2"], "0", WHOLE),

        row(Limits, "nofile", "", ["300", "200"], "0", &["kubernetes", "nomad"]),
        row(Limits, "core", "", ["300", "\"unlimited\""], "-1", &["kubernetes", "nomad"]),
        row(Limits, "memory", "", ["\"90M\"", "\"80M\""], "\"90X\"", &[]),
        row(Limits, "memory_high", "", ["\"90M\"", "\"80M\""], "-1", CONTAINERS),
        row(Limits, "cpu", "", ["2", "1.5"], "0", &[]),
        row(Limits, "tasks", "", ["300", "200"], "0", &["kubernetes", "nomad"]),

        row(OnEvent, "crashed", "", ["\"a\"", "\"b\""], "1", OWN),
        row(OnEvent, "failed", "", ["\"a\"", "\"b\""], "1", OWN),
        row(OnEvent, "unhealthy", "", ["\"a\"", "\"b\""], "1", OWN),
        row(OnEvent, "build-failed", "", ["\"a\"", "\"b\""], "1", OWN),
        row(OnEvent, "rolled-back", "", ["\"a\"", "\"b\""], "1", OWN),
        row(OnEvent, "recovered", "", ["\"a\"", "\"b\""], "1", OWN),
        row(OnEvent, "log-trouble", "", ["\"a\"", "\"b\""], "1", OWN),
    ]
};

impl Row {
    /// Its name within a process.
    fn key(&self) -> String {
        let table = match self.place {
            Place::Top | Place::Process => return self.name.into(),
            Place::Ready => "ready",
            Place::Health => "health",
            Place::Limits => "limits",
            Place::OnEvent => "on_event",
        };
        format!("{table}.{}", self.name)
    }

    /// A process with the key; the key's line is the last one.
    fn table(&self, name: &str, value: &str) -> String {
        let command = match self.name == "command" && self.place == Place::Process {
            true => "",
            false if self.with.starts_with("type") => "",
            false => "command = [\"sh\"]\n",
        };
        let (with, key) = (self.with, self.key());
        format!("[process.{name}]\n{command}{with}\n{key} = {value}\n")
    }

    /// A file with the key, where "web" is the process that may have it.
    fn file(&self, value: &str) -> String {
        let db = "[process.db]\ncommand = [\"sh\"]\n";
        match self.place {
            Place::Top => format!(
                "{}\n{} = {value}\n[process.web]\ncommand = [\"sh\"]\n{db}",
                self.with, self.name
            ),
            _ => format!("{}{db}", self.table("web", value)),
        }
    }
}

fn read(row: &Row, value: &str) -> Config {
    let text = row.file(value);
    let read = config::parse(&text, ".mcp-run", Path::new("/home/me/app"));
    read.unwrap_or_else(|e| panic!("{text}\n{e}"))
}

#[test]
fn keys_have_a_row_each() {
    let rows: Vec<(Place, &str)> = ROWS.iter().map(|row| (row.place, row.name)).collect();
    let keys = KEYS.iter().map(|key| (key.place, key.name));
    let keys: Vec<(Place, &str)> = keys.filter(|(_, name)| *name != "process").collect();
    assert_eq!(rows, keys);
}

#[test]
fn check_names_the_place_of_every_bad_value() {
    let mut file = String::new();
    let mut places = Vec::new();
    let top = |row: &&Row| row.place == Place::Top;
    let (tops, others) = (ROWS.iter().filter(top), ROWS.iter().filter(|r| !top(r)));
    for row in tops {
        let _ = writeln!(file, "{} = {}", row.name, row.bad);
        places.push((row, file.lines().count()));
    }
    for (at, row) in others.enumerate() {
        file.push_str(&row.table(&format!("p{at}"), row.bad));
        places.push((row, file.lines().count()));
    }
    let project = Project::new(&file);
    let said = project.cli(["check"]).exits(1);
    for (row, line) in &places {
        let column = row.key().len() + " = ".len() + 1;
        // A mistake in a list stands at the element.
        let column = column + usize::from(row.bad.starts_with('['));
        let place = format!(".mcp-run:{line}:{column}: ");
        let found = said.out.lines().chain(said.err.lines());
        let told: Vec<&str> = found.filter(|l| l.starts_with(&place)).collect();
        let [told] = told.as_slice() else {
            panic!("{} = {}: not once at {place}\n{said:?}", row.name, row.bad);
        };
        assert!(told.contains(&format!("\"{}\"", row.name)), "{told}");
    }
    let count = said.out.lines().chain(said.err.lines());
    let count = count.filter(|l| l.starts_with(".mcp-run:")).count();
    assert_eq!(count, places.len(), "{said:?}");
}

#[test]
fn reload_compares_every_key() {
    for row in ROWS {
        let [one, two] = row.values.map(|value| read(row, value));
        let difference = config::diff(&one, &two);
        let touched = [&difference.changed[..], &difference.adjusted[..]].concat();
        match (row.place, row.values[0] == row.values[1]) {
            (_, true) => assert!(touched.is_empty(), "{}", row.name),
            // Of those that are no defaults of processes, the configuration itself tells.
            (Place::Top, _) => assert_ne!(one, two, "{}", row.name),
            _ => assert_eq!(touched, ["web"], "{}", row.name),
        }
    }
}

#[test]
fn exports_have_or_name_every_key() {
    let project = Project::new("[process.web]\ncommand = [\"sh\"]\n");
    for name in ["one", "two"] {
        let path = project.root.join(format!("{name}.env"));
        std::fs::write(path, format!("A={name}\n")).unwrap();
    }
    std::fs::create_dir(project.root.join("src")).unwrap();
    let export = |row: &Row, value: &str, engine: &str| {
        std::fs::write(project.root.join(".mcp-run"), row.file(value)).unwrap();
        let image: &[&str] = match engine {
            "systemd" => &[],
            _ => &["--image", "shop"],
        };
        let args = ["export", engine].into_iter().chain(image.iter().copied());
        project.cli(args).exits(0).out
    };
    let mut wrong = Vec::new();
    let of_processes = |row: &&Row| row.place != Place::Top && row.same.len() < ENGINES.len();
    for row in ROWS.iter().filter(of_processes) {
        for engine in ENGINES {
            let [one, two] = row.values.map(|value| export(row, value, engine));
            // A setting without a counterpart is named.
            let named = format!("{one}{two}").contains("no counterpart");
            let told = one != two || named || NEEDS_NONE.contains(&row.name);
            if !told || (one == two) != row.same.contains(&engine) {
                wrong.push(format!(
                    "{}, {engine}: told {told}, same {}",
                    row.key(),
                    one == two
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
