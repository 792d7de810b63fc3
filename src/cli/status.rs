//! `bpm status`, `bpm daemon status`, `bpm ps`: how it is.

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, Wall, human};
use crate::base::error::{Error, Failure, Result};
use crate::base::escape::in_line;
use crate::base::json::{list, object, or_null};
use crate::base::paths::{self, ProjectDir};
use crate::cli::render::{self, Cell, Paint, Tone};
use crate::client::connection::{CallError, Client, PATIENCE, VERSION};
use crate::client::verdict::{Descriptor, Verdict, hidden, is_ours, judge};
use crate::daemon::{self, Project};
use crate::engine::saved::LeftBehind;
use crate::engine::state_file::State;
use crate::os::lock::Lock;
use crate::os::{poll, proc};

use super::screen::Screen;
use super::source::{Asked, ask};
use super::spec::Call;
use super::{
    answer, before_switch, environment, known_projects, paint, pid_behind, print, refused,
    state_folder, tell,
};

/// Between two pictures of `-w`: uptimes and loads change by themselves.
const PICTURE: Duration = Duration::from_secs(1);

/// `bpm status`.
pub(super) fn status(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let name = call.names()?.into_iter().next();
    if call.has("watch") {
        return watch(&project, name.as_deref(), call.has("json"));
    }
    match picture(&project, name.as_deref(), call.has("json"))? {
        Picture::Shown(text, code) => print(&text).map(|()| code),
        Picture::Refused(why) => Ok(refused("show the status", &why)),
    }
}

/// The answer of `bpm status`.
enum Picture {
    /// For standard output, with the exit code.
    Shown(String, u8),
    /// The daemon has no such process: why.
    Refused(String),
}

fn picture(project: &Project, name: Option<&str>, json: bool) -> Result<Picture> {
    let verdict = match judged(project) {
        Err(error) if super::cannot_ask(&error) => {
            return Ok(Picture::Shown(on_disk(project, name, &error, json), 1));
        }
        verdict => verdict?,
    };
    let asked = ask(project, verdict, &mut |client| {
        of_client(project, client, name, json)
    })?;
    match asked {
        Asked::Answer(shown) => shown.map_err(|fault| fault.while_doing("tell the status")),
        Asked::Nobody(verdict) => {
            let text = without(project, &verdict, json);
            Ok(Picture::Shown(text, code(&verdict)))
        }
    }
}

/// The verdict, with a daemon that can't be found by its files as one that does not answer.
fn judged(project: &Project) -> Result<Verdict> {
    let verdict = judge(&project.dir, "cli")?;
    let hidden = match verdict {
        Verdict::Stopped | Verdict::Stale(_) => hidden(&project.dir, &project.root),
        Verdict::Running(..) | Verdict::Unhealthy(_) => None,
    };
    Ok(hidden.map_or(verdict, |daemon| Verdict::Unhealthy(Some(daemon))))
}

fn of_client(
    project: &Project,
    client: &mut Client,
    name: Option<&str>,
    json: bool,
) -> std::result::Result<Picture, CallError> {
    let params = match name {
        Some(name) => object([("process", name.into())]),
        None => object([]),
    };
    let until = Some(Mono::now().after(PATIENCE));
    let data = match client.call("bpm/status", params, until) {
        Ok(data) => data,
        Err(CallError::Refused { message, .. }) => return Ok(Picture::Refused(message)),
        Err(fault) => return Err(fault),
    };
    let text = match json {
        true => format!("{data}\n"),
        false => {
            let mut text = render::status(&data, paint(&project.env));
            let theirs = data["daemon"]["version"].as_str().unwrap_or_default();
            text.extend(other_version(theirs).map(|line| format!("{line}\n")));
            text
        }
    };
    Ok(Picture::Shown(text, 0))
}

/// The line about a daemon of another version than this command.
fn other_version(theirs: &str) -> Option<String> {
    (theirs != VERSION).then(|| format!("the daemon is bpm {theirs}, this is bpm {VERSION}"))
}

/// The document of a status that no daemon gives: all its fields, those that nobody can tell as null.
fn document(project: &Project, verdict: Value, processes: Vec<Value>) -> Value {
    object([
        ("schema", 1.into()),
        ("project", project.name().into()),
        ("verdict", verdict),
        ("daemon", Value::Null),
        ("mode", Value::Null),
        ("release_in_seconds", Value::Null),
        ("config_changed", Value::Null),
        ("processes", processes.into()),
        ("events", Value::Array(Vec::new())),
        ("events_missed", 0.into()),
        ("next", Value::Null),
        ("warnings", Value::Array(Vec::new())),
    ])
}

/// The state that the daemon wrote down, for a user who may not ask it.
fn on_disk(project: &Project, name: Option<&str>, error: &Error, json: bool) -> String {
    let state = State::look(&project.dir.state());
    let meant = |known: &(&str, Option<i32>)| name.is_none_or(|name| known.0 == name);
    let processes: Vec<_> = state.known().filter(meant).collect();
    let last = |name: &str| state.exits(name).back().cloned();
    if json {
        let processes = processes.iter().map(|&(name, pid)| {
            let exit = last(name).map(|exit| exit.words());
            object([
                ("name", name.into()),
                ("pid", or_null(pid)),
                ("exit", or_null(exit)),
            ])
        });
        let mut document = document(project, Value::Null, processes.collect());
        document["error"] = error.to_string().into();
        return format!("{document}\n");
    }
    tell(format_args!("{error}; what follows is what it wrote down"));
    let head = ["NAME", "RUNS AS PID", "LAST END"].map(|h| Cell::toned(Tone::Bold, h));
    let mut rows = vec![head.to_vec()];
    for (name, pid) in processes {
        let end = last(name).map(|exit| format!("{}, {}", exit.words(), exit.at.rfc3339()));
        rows.push(vec![
            Cell::plain(name),
            Cell::plain(pid.map_or("-".into(), |pid| pid.to_string())),
            Cell::plain(end.unwrap_or_else(|| "-".into())),
        ]);
    }
    render::table(&rows, paint(&project.env))
}

/// The text for a project without a healthy daemon.
fn without(project: &Project, verdict: &Verdict, json: bool) -> String {
    if json {
        let verdict = verdict.word().into();
        return format!("{}\n", document(project, verdict, Vec::new()));
    }
    let name = project.shown();
    match verdict {
        Verdict::Running(..) => format!("{name}: running\n"),
        Verdict::Stopped => {
            let before = before_switch(project).map_or(String::new(), |text| format!("{text}\n"));
            let left = daemon::survivors(project);
            let left: String = left.iter().map(LeftBehind::line).collect();
            format!("{name}: stopped\n{left}{before}")
        }
        Verdict::Stale(d) => format!(
            "{name}: stale: the daemon (pid {}) has died; its processes may still run\n\
             \"bpm -d\" starts it again, \"bpm stop\" ends what is left\n",
            d.pid
        ),
        Verdict::Unhealthy(d) => {
            let pid = pid_behind(d.as_ref());
            let why = match project.dir.lock().exists() {
                true => "does not answer",
                false => "does not answer, its files are gone",
            };
            format!(
                "{name}: unhealthy: the daemon{pid} {why}\n\
                 \"bpm stop --force\" ends it, \"bpm -d --replace\" starts another\n"
            )
        }
    }
}

fn code(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Running(..) => 0,
        Verdict::Stopped => 3,
        Verdict::Stale(_) | Verdict::Unhealthy(_) => 1,
    }
}

/// Draws it every second until the person has seen enough.
fn watch(project: &Project, name: Option<&str>, json: bool) -> Result<u8> {
    let is_terminal = stdout().is_terminal() && !json;
    let screen = is_terminal.then(Screen::take).transpose()?;
    loop {
        let text = match picture(project, name, json)? {
            Picture::Shown(text, _) => text,
            Picture::Refused(why) => {
                drop(screen);
                return Ok(refused("show the status", &why));
            }
        };
        match &screen {
            Some(screen) => {
                screen.draw(&text)?;
                screen.wait(PICTURE)?;
            }
            None => {
                print(&text)?;
                if poll::reader_gone(stdout().as_fd(), PICTURE).unwrap_or(true) {
                    return Err(Failure::ReaderGone.into());
                }
            }
        }
    }
}

/// `bpm daemon status`.
pub(super) fn daemon_status(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let verdict = judged(&project)?;
    let code = code(&verdict);
    let word = verdict.word();
    let mut document = object([
        ("schema", 1.into()),
        ("verdict", word.into()),
        ("project", project.root.display().to_string().into()),
    ]);
    match verdict {
        Verdict::Running(descriptor, mut client) => {
            describe(&mut document, &descriptor);
            let until = Some(Mono::now().after(PATIENCE));
            if let Ok(status) = client.call("bpm/status", object([]), until) {
                for key in ["uptime_seconds", "clients", "rss_bytes"] {
                    document[key] = status["daemon"][key].clone();
                }
            }
        }
        Verdict::Unhealthy(Some(descriptor)) | Verdict::Stale(descriptor) => {
            describe(&mut document, &descriptor);
        }
        Verdict::Unhealthy(None) | Verdict::Stopped => {}
    }
    match call.has("json") {
        true => print(format_args!("{document}\n"))?,
        false => print(daemon_words(&document))?,
    }
    Ok(code)
}

fn describe(document: &mut Value, descriptor: &Descriptor) {
    let Value::Object(known) = descriptor.to_json() else {
        return;
    };
    for (key, value) in known {
        if key != "project" {
            document[key] = value;
        }
    }
}

fn daemon_words(document: &Value) -> String {
    let mut text = format!(
        "{}: {}\n",
        in_line(document["project"].as_str().unwrap_or_default()),
        document["verdict"].as_str().unwrap_or_default()
    );
    let mut row = |label: &str, value: String| {
        let value = in_line(&value);
        if !value.is_empty() {
            text.push_str(&format!("  {label:9}{value}\n"));
        }
    };
    let plain = |key: &str| match &document[key] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    row("pid", plain("pid"));
    if document["uptime_seconds"].is_number() {
        row("uptime", render::span(&document["uptime_seconds"]));
    }
    row("clients", plain("clients"));
    row("socket", plain("socket"));
    row("url", plain("url"));
    row("version", plain("version"));
    if let Some(bytes) = document["rss_bytes"].as_u64() {
        row("memory", render::size(bytes));
    }
    text
}

/// `bpm ps`.
pub(super) fn ps(call: &Call) -> Result<u8> {
    let env = environment();
    let state = state_folder(&env)?;
    let mut daemons: Vec<Listed> = Vec::new();
    let mut abandoned = Vec::new();
    let known = match known_projects(state.path()) {
        Ok(known) => known,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            return Err(Error::file("read", state.path(), e)
                .with_hint("set BPM_HOME to a folder that you may write"));
        }
    };
    for dir in known {
        if is_ours(&dir).is_err() {
            continue;
        }
        let (word, descriptor) = match judge(&dir, "cli") {
            Ok(verdict) => (verdict.word(), verdict.descriptor()),
            Err(error) if super::cannot_ask(&error) => return Err(error),
            Err(_) => ("other version", Descriptor::read(&dir.descriptor())),
        };
        if matches!(word, "stopped" | "stale") {
            abandoned.extend(abandoned_by(&dir));
        }
        let Some(descriptor) = descriptor else {
            continue;
        };
        let root = dir
            .root()
            .unwrap_or_else(|| PathBuf::from(&descriptor.project));
        let at = daemons.partition_point(|before| before.root <= root);
        daemons.insert(
            at,
            Listed {
                descriptor,
                word,
                root,
            },
        );
    }
    let hidden = hidden_daemons(&state, &daemons);
    daemons.extend(hidden);
    if call.has("prune") {
        return prune(&abandoned, call.has("json"));
    }
    match call.has("json") {
        true => answer(format_args!("{}\n", ps_json(&daemons))),
        false if daemons.is_empty() => answer("no daemons\n"),
        false => answer(ps_table(&daemons, paint(&env))),
    }
}

/// A daemon in the answer of `bpm ps`. Its root is the path itself: the descriptor has that as text.
struct Listed {
    descriptor: Descriptor,
    word: &'static str,
    root: PathBuf,
}

/// Daemons that can't be found by their files, but by the processes that they have.
fn hidden_daemons(state: &paths::State, known: &[Listed]) -> Vec<Listed> {
    let mut found = Vec::new();
    let mut roots: Vec<PathBuf> = known.iter().map(|daemon| daemon.root.clone()).collect();
    for process in proc::find_marked("") {
        let root = proc::variable(process.pid, "BPM_PROJECT").map(OsString::from_vec);
        let Some(root) = root.map(PathBuf::from).filter(|root| !roots.contains(root)) else {
            continue;
        };
        if let Some(daemon) = hidden(&state.project(&root), &root) {
            let project = root.display().to_string();
            found.push(Listed {
                descriptor: Descriptor { project, ..daemon },
                word: "unhealthy",
                root: root.clone(),
            });
        }
        roots.push(root);
    }
    found
}

/// The state of a project whose folder is gone and of which nothing runs, with the folder's path.
fn abandoned_by(dir: &ProjectDir) -> Option<(PathBuf, String)> {
    let root = dir.root()?;
    let marker = format!("{}/", dir.marker());
    let gone = !root.exists() && proc::find_marked(&marker).is_empty();
    gone.then(|| (dir.path().to_path_buf(), root.display().to_string()))
}

/// `bpm ps --prune`: lists what is left of projects that are gone, then removes it.
fn prune(abandoned: &[(PathBuf, String)], json: bool) -> Result<u8> {
    if json {
        print(format_args!("{}\n", prune_json(abandoned)))?;
    } else if abandoned.is_empty() {
        print("nothing to remove\n")?;
    }
    for (folder, root) in abandoned {
        if !json {
            let (folder, root) = (folder.display(), in_line(root));
            print(format_args!("{folder} (of {root}, which is gone)\n"))?;
        }
    }
    for (folder, _) in abandoned {
        // Held, so that no daemon starts in it meanwhile.
        let dir = ProjectDir::at(folder.clone());
        if let Ok(Some(_lock)) = Lock::take(&dir.lock()) {
            std::fs::remove_dir_all(folder).map_err(|e| Error::file("remove", folder, e))?;
        }
    }
    Ok(0)
}

fn prune_json(abandoned: &[(PathBuf, String)]) -> Value {
    let removed = abandoned.iter().map(|(folder, root)| {
        object([
            ("folder", folder.display().to_string().into()),
            ("project", root.as_str().into()),
        ])
    });
    object([("schema", 1.into()), ("removed", list(removed))])
}

fn ps_json(daemons: &[Listed]) -> Value {
    let list: Vec<Value> = daemons
        .iter()
        .map(|daemon| {
            let mut value = daemon.descriptor.to_json();
            value["verdict"] = daemon.word.into();
            value["folder_gone"] = daemon.descriptor.is_folder_gone(&daemon.root).into();
            value
        })
        .collect();
    object([("schema", 1.into()), ("daemons", list.into())])
}

fn ps_table(daemons: &[Listed], paint: Paint) -> String {
    let head = ["PID", "VERDICT", "UPTIME", "VERSION", "URL", "PROJECT"];
    let mut rows = vec![head.map(|h| Cell::toned(Tone::Bold, h)).to_vec()];
    let now = Wall::now();
    for daemon in daemons {
        let (d, word) = (&daemon.descriptor, daemon.word);
        let up = Wall::parse_rfc3339(&d.started_at)
            .and_then(|at| u64::try_from(now.0 - at.0).ok())
            .filter(|_| word == "running")
            .map_or("-".into(), |ms| human(Duration::from_millis(ms)));
        let tone = if word == "running" {
            Tone::Good
        } else {
            Tone::Bad
        };
        rows.push(vec![
            Cell::plain(d.pid.to_string()),
            match d.is_folder_gone(&daemon.root) {
                true => Cell::toned(Tone::Bad, format!("{word}, folder gone")),
                false => Cell::toned(tone, word),
            },
            Cell::plain(up),
            Cell::plain(&d.version),
            Cell::plain(d.url.as_deref().unwrap_or("-")),
            Cell::plain(&d.project),
        ]);
    }
    let mut text = render::table(&rows, paint);
    if daemons.iter().any(|d| d.descriptor.version != VERSION) {
        text.push_str(&format!("this is bpm {VERSION}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_said() {
        assert_eq!(other_version(VERSION), None);
        let said = other_version("0.0.9").unwrap();
        assert!(
            said.starts_with("the daemon is bpm 0.0.9, this is bpm "),
            "{said}"
        );
    }
}
