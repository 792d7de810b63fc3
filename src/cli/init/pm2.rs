//! pm2's ecosystem file, where it is JSON.

use serde_json::{Map, Value};

use super::Source;
use super::draft::{Draft, Item, NOT_ROOT, ONE_OF_EACH, reason_for};
use super::folder::join;
use super::json::{Mark, marks};
use super::quote::{literal, words};
use crate::base::json::{self, items};
use crate::config::shell::is_simple;

/// How pm2 runs a script whose name ends so.
const INTERPRETERS: &[(&str, &str)] = &[
    (".js", "node"),
    (".cjs", "node"),
    (".mjs", "node"),
    (".ts", "node"),
    (".py", "python3"),
    (".sh", "bash"),
    (".rb", "ruby"),
    (".pl", "perl"),
    (".php", "php"),
];

/// Settings that need nothing in bpm.
const NEEDS_NOTHING: &[&str] = &[
    "name",
    "script",
    "exec",
    "cmd",
    "command",
    "args",
    "interpreter",
    "exec_interpreter",
    "interpreter_args",
    "node_args",
    "out_file",
    "error_file",
    "log_file",
    "output",
    "error",
    "log",
    "merge_logs",
    "combine_logs",
    "log_date_format",
    "treekill",
    "vizion",
    "pmx",
    "automation",
    "source_map_support",
    "time",
    "pid_file",
    "disable_logs",
    "log_type",
    "autostart",
    "kill_timeout",
    "instances",
    "exec_mode",
];

/// Settings without a counterpart: each with the reason.
const LACKING: &[(&str, &str)] = &[
    (
        "max_restarts",
        "bpm tries again for ever, unless start_limit_burst is set",
    ),
    ("min_uptime", "see \"start_limit_seconds\" in mcp-run(5)"),
    (
        "restart_delay",
        "delays are for all processes: see \"crash_backoff_factor\" in mcp-run(5)",
    ),
    (
        "exp_backoff_restart_delay",
        "bpm's delays grow by \"crash_backoff_factor\"",
    ),
    (
        "cron_restart",
        "bpm has no schedules: a timer may call \"bpm restart\"",
    ),
    (
        "cron",
        "bpm has no schedules: a timer may call \"bpm restart\"",
    ),
    (
        "wait_ready",
        "process.send('ready') does not reach bpm: see \"ready\" in mcp-run(5)",
    ),
    (
        "listen_timeout",
        "see \"ready.timeout_seconds\" in mcp-run(5)",
    ),
    (
        "ignore_watch",
        "watch = [...] names what counts; node_modules and .git never do",
    ),
    ("watch_options", "watch = [...] names what counts"),
    (
        "stop_exit_codes",
        "see \"success_exit_codes\" in mcp-run(5)",
    ),
    ("increment_var", "bpm runs one of each table"),
    ("namespace", "bpm has no groups"),
    ("filter_env", "see \"unset_env\" in mcp-run(5)"),
];

/// Reads it. `root`: the process runs as root, and `user` may be set.
pub(super) fn read(source: &Source, root: bool, draft: &mut Draft) -> Result<(), String> {
    let value: Value = json::parse(&source.text).map_err(|e| e.to_string())?;
    let (apps, depth): (Vec<&Value>, usize) = match &value {
        Value::Array(_) => (items(&value).collect(), 2),
        Value::Object(all) if all.contains_key("apps") => {
            for key in all.keys().filter(|key| *key != "apps") {
                draft.left(&source.file, key, "only \"apps\" is taken over");
            }
            match &value["apps"] {
                one @ Value::Object(_) => (vec![one], 2),
                several => (items(several).collect(), 3),
            }
        }
        one => (vec![one], 1),
    };
    let mut lines = lines(&source.text, depth).into_iter();
    for app in apps {
        let Some(app) = app.as_object() else {
            draft.left(&source.file, &app.to_string(), "an app that is no object");
            continue;
        };
        let lines = lines.next().unwrap_or_default();
        match self::app(source, app, &lines, root) {
            Ok(item) => draft.add(item),
            Err(why) => draft.left(&source.at(lines.start), "an app", &why),
        }
    }
    Ok(())
}

/// Where an app and its keys stand.
#[derive(Default)]
struct Lines {
    start: usize,
    keys: Vec<(String, usize)>,
}

impl Lines {
    fn of(&self, key: &str) -> usize {
        let found = self.keys.iter().find(|(name, _)| name == key);
        found.map_or(self.start, |(_, line)| *line)
    }
}

/// Of each object of that depth.
fn lines(text: &str, app: usize) -> Vec<Lines> {
    let mut all: Vec<Lines> = Vec::new();
    for (depth, mark, line) in marks(text).into_iter().filter(|(d, ..)| *d == app) {
        debug_assert_eq!(depth, app);
        match (mark, all.last_mut()) {
            (Mark::Object, _) => all.push(Lines {
                start: line,
                keys: Vec::new(),
            }),
            (Mark::Key(key), Some(last)) => last.keys.push((key.into(), line)),
            (Mark::Key(_), None) => {}
        }
    }
    all
}

fn app(
    source: &Source,
    app: &Map<String, Value>,
    lines: &Lines,
    root: bool,
) -> Result<Item, String> {
    let text = |key: &str| app.get(key).and_then(Value::as_str);
    let script = ["script", "exec", "cmd", "command"];
    let script = script.iter().find_map(|key| text(key));
    let script = script.ok_or("it has no \"script\"")?;
    let file = script.rsplit('/').next().unwrap_or(script);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let mut item = Item::new(text("name").unwrap_or(stem), source.at(lines.start));
    let folder = text("cwd").unwrap_or("");
    // pm2 gives a script with a blank to bash, and drops its arguments.
    match script.contains(' ') {
        true if is_simple(script) => item.text("command", script),
        true => item.list("command", &["bash".into(), "-c".into(), literal(script)]),
        false => item.list("command", &command(source, app, script, folder)?),
    }
    item.folder(&source.folder_of(folder));
    // pm2 asks by INT, and kills 1.6 s later.
    item.text("stop_signal", "INT");
    let patience = app
        .get("kill_timeout")
        .and_then(|ms| plain(ms).parse().ok());
    let patience = patience.unwrap_or(1600.0_f64).clamp(0.0, 1e9) as u64;
    item.set(
        "stop_timeout_seconds",
        crate::base::clock::seconds(std::time::Duration::from_millis(patience)),
    );
    for (key, value) in app {
        let place = source.at(lines.of(key));
        match (key.as_str(), value) {
            ("watch", Value::Bool(true) | Value::String(_) | Value::Array(_)) => {
                item.at(&place);
                match watched(source, folder, value) {
                    Some(globs) => item.list("watch", &globs),
                    None => item.left(&place, key, "its folder is not below the project's"),
                }
            }
            ("env_file", Value::String(path)) => {
                item.at(&place);
                item.text("env_file", &source.folder_of(path));
            }
            _ => setting(&mut item, key, value, &place, root),
        }
    }
    Ok(item)
}

/// The globs that pm2 watches in the app's folder, as seen from the project's root.
fn watched(source: &Source, folder: &str, value: &Value) -> Option<Vec<String>> {
    let folder = source.folder_of(folder);
    let folder = match folder.starts_with('/') {
        true => {
            let root = source.folder.strip_suffix(&source.sub)?;
            let below = format!("{folder}/");
            let below = below.strip_prefix(&format!("{}/", root.trim_end_matches('/')))?;
            below.trim_matches('/').to_string()
        }
        false => folder,
    };
    let globs = match value {
        Value::Array(_) => items(value).map(plain).collect(),
        Value::String(one) => vec![one.clone()],
        _ => vec!["**".into()],
    };
    let below = |glob: &String| join(&folder, glob.trim_start_matches("./"));
    Some(globs.iter().map(below).collect())
}

/// The command that pm2 would execute.
fn command(
    source: &Source,
    app: &Map<String, Value>,
    script: &str,
    folder: &str,
) -> Result<Vec<String>, String> {
    let list = |keys: &[&str]| -> Result<Vec<String>, String> {
        let Some(value) = keys.iter().find_map(|key| app.get(*key)) else {
            return Ok(Vec::new());
        };
        match value {
            Value::String(text) => {
                words(text, false).ok_or(format!("{}: a quote is not closed", keys[0]))
            }
            Value::Array(_) => Ok(items(value).map(plain).collect()),
            _ => Err(format!("{}: neither a text nor a list", keys[0])),
        }
    };
    let named = ["interpreter", "exec_interpreter"];
    let named = named.iter().find_map(|key| app.get(*key)?.as_str());
    let by_name = INTERPRETERS.iter().find(|(end, _)| script.ends_with(end));
    let interpreter = match named {
        Some("none" | "") => None,
        Some(other) => Some(other),
        None => by_name.map(|(_, program)| *program).or_else(|| {
            // A script without an ending is node's, unless it is a program of PATH or a binary.
            let path = std::path::Path::new(&source.folder)
                .join(folder)
                .join(script);
            let is_script = super::start_of(&path).is_some_and(|start| start != *b"\x7fELF");
            is_script.then_some("node")
        }),
    };
    let mut command: Vec<String> = interpreter.map(String::from).into_iter().collect();
    if interpreter.is_some() {
        command.extend(list(&["interpreter_args", "node_args"])?);
    }
    command.push(script.into());
    command.extend(list(&["args"])?);
    Ok(command.iter().map(|word| literal(word)).collect())
}

/// A value as pm2 puts it into the environment.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn setting(item: &mut Item, key: &str, value: &Value, place: &str, root: bool) {
    let said = format!("{key} = {value}");
    item.at(place);
    let why = match (key, value) {
        ("env", Value::Object(env)) => {
            for (name, value) in env {
                item.env(name, &literal(&plain(value)));
            }
            return;
        }
        ("cwd", Value::String(_)) | (_, Value::Null) => return,
        ("autorestart", Value::Bool(false)) => return item.text("restart", "never"),
        ("autorestart", _) | ("watch", Value::Bool(false)) => return,
        ("kill_timeout", value) if plain(value).parse::<f64>().is_err() => {
            "no number of milliseconds"
        }
        ("max_memory_restart", value) => match size(value) {
            Some(size) => return item.set("limits.memory", size),
            None => "no size such as 300M",
        },
        ("user" | "uid", _) if root => return item.text("user", &plain(value)),
        ("gid", _) if root => return item.text("group", &plain(value)),
        ("user" | "uid" | "gid", _) => NOT_ROOT,
        ("instances", value) if *value != 1 && *value != "1" => ONE_OF_EACH,
        ("exec_mode", Value::String(mode)) if mode.starts_with("cluster") => {
            "bpm starts plain processes; node's cluster module works within one"
        }
        (key, _) if NEEDS_NOTHING.contains(&key) => return,
        (key, _) if key.starts_with("env_") => {
            return item.left(place, key, "only \"env\" is taken over");
        }
        (key, _) => reason_for(key, LACKING),
    };
    item.left(place, &said, why);
}

/// `"300M"` as TOML; a number is bytes.
fn size(value: &Value) -> Option<String> {
    if let Some(bytes) = value.as_u64() {
        return Some(bytes.to_string());
    }
    let text = value.as_str()?;
    let digits = text.trim_end_matches(['K', 'k', 'M', 'm', 'G', 'g']);
    let unit = text[digits.len()..].to_ascii_uppercase();
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match unit.len() {
        0 if whole => Some(digits.into()),
        1 if whole => Some(format!("\"{digits}{unit}\"")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_of, draft_of};
    use super::*;
    use crate::config::{Command, Restart};

    #[test]
    fn apps_become_processes() {
        let text = r#"{"apps": [
 {"name": "api", "script": "./server.js", "args": "--a \"b c\" $HOME && x\\y",
  "node_args": ["--trace-warnings"],
  "env": {"PORT": 3000, "A": true, "B": "${X}"},
  "env_production": {"A": false},
  "instances": 4, "autorestart": false},
 {"script": "npm", "args": "run dev", "cwd": "web", "kill_timeout": 3000,
  "watch": ["src/**"], "cron_restart": "0 0 * * *"},
 {"name": "a", "script": "npm start", "args": "lost"},
 {"name": "b", "cmd": "source x && echo ${A}"},
 "no app",
 {"name": "c", "script": "c", "cwd": "/shop/deep", "watch": "./src", "kill_timeout": "4000",
  "namespace": "x"}
], "deploy": {}}"#;
        let draft = draft_of("ecosystem.config.json", text, |s, d| {
            read(s, false, d).unwrap()
        });
        let config = config_of(&draft);
        let (api, npm) = (&config.processes[0], &config.processes[1]);
        let list = |words: &[&str]| {
            Some(Command::List(
                words.iter().map(|w| (*w).to_string()).collect(),
            ))
        };
        assert_eq!(
            api.command,
            list(&[
                "node",
                "--trace-warnings",
                "./server.js",
                "--a",
                "b c",
                "$HOME",
                "&&",
                "x\\y"
            ])
        );
        assert!(
            api.env.contains(&("PORT".into(), "3000".into())),
            "{:?}",
            api.env
        );
        assert!(
            api.env.contains(&("B".into(), "$${X}".into())),
            "{:?}",
            api.env
        );
        assert_eq!(
            (api.restart, api.stop_timeout.as_millis()),
            (Restart::Never, 1600)
        );
        assert_eq!(
            (npm.name.as_str(), &npm.command),
            ("npm", &list(&["npm", "run", "dev"]))
        );
        assert_eq!(npm.cwd, std::path::Path::new("/shop/web"));
        assert_eq!(
            config.processes[2].command,
            Some(Command::Shell("npm start".into()))
        );
        assert_eq!(
            config.processes[3].command,
            list(&["bash", "-c", "source x && echo $${A}"])
        );
        assert_eq!(
            (npm.watch.as_slice(), npm.stop_timeout.as_secs()),
            (&["web/src/**".to_string()][..], 3)
        );
        let last = &config.processes[4];
        assert_eq!(
            (last.watch.as_slice(), last.stop_timeout.as_secs()),
            (&["deep/src".to_string()][..], 4)
        );
        let lost = draft.lost().join("\n");
        for part in [
            "ecosystem.config.json:5: env_production: ",
            "ecosystem.config.json:6: instances = 4: ",
            "ecosystem.config.json:8: cron_restart = ",
            "ecosystem.config.json: \"no app\": an app that is no object",
            "ecosystem.config.json:13: namespace = ",
            "ecosystem.config.json: deploy: ",
        ] {
            assert!(lost.contains(part), "{part} in {lost}");
        }
    }

    #[test]
    fn sizes_are_those_of_bpm() {
        assert_eq!(size(&Value::from("300M")).as_deref(), Some("\"300M\""));
        assert_eq!(size(&Value::from("2g")).as_deref(), Some("\"2G\""));
        assert_eq!(size(&Value::from(1024)).as_deref(), Some("1024"));
        assert_eq!(size(&Value::from("much")), None);
    }
}
