//! `bpm upgrade`, and what the program that takes over is asked (`--handshake`, `--resume`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::json::{object, strings};
use crate::base::saved::Saved;
use crate::base::table::sort;
use crate::client::connection::{self, CallError, Client, VERSION};
use crate::client::verdict::{Verdict, judge};
use crate::daemon;
use crate::engine::supervisor::Handshake;
use crate::server::rpc::METHOD_NOT_FOUND;

use super::spec::Call;
use super::{answer, counted, environment, known_projects, print, state_folder, tell};

/// `--handshake`, `--resume N [--dry-run]`: asked by a daemon, before anything of ours is open. None: it is neither.
pub(super) fn asked_by_daemon(args: &[OsString]) -> Option<Result<u8>> {
    let word = |at: usize| args.get(at).and_then(|arg| arg.to_str());
    match word(1)? {
        "--handshake" if args.len() == 2 => Some(handshake()),
        "--resume" => {
            let state = word(2)?.parse().ok()?;
            let dry = word(3) == Some("--dry-run");
            Some(daemon::resume(state, dry, environment()))
        }
        _ => None,
    }
}

fn handshake() -> Result<u8> {
    let ours = Handshake::ours(VERSION).map_err(|e| Error::system("read this program", e))?;
    answer(format_args!("{}\n", ours.save()))
}

/// `bpm upgrade`, `bpm daemon upgrade`.
pub(super) fn upgrade(call: &Call) -> Result<u8> {
    let program = match call.text("binary")? {
        Some(path) => {
            let path = PathBuf::from(path);
            path.canonicalize()
                .map_err(|e| Error::file("upgrade to", &path, e))?
        }
        None => std::env::current_exe().map_err(|e| Error::system("tell which bpm this is", e))?,
    };
    let params = object([
        ("binary", program.to_string_lossy().into()),
        ("now", call.has("now").into()),
        ("force", call.has("force").into()),
    ]);
    if !call.has("all") {
        let (project, _, client) = call.daemon("upgrade")?;
        let name = project.name();
        let done = ask(client, &name, params)?;
        say(call, &[(name, done)])?;
        return Ok(0);
    }
    let (mut all, mut code) = (Vec::new(), 0);
    for (name, client) in daemons()? {
        match ask(client, &name, params.clone()) {
            Ok(done) => all.push((name, done)),
            Err(error) => {
                code = 1;
                super::complain(&error);
                let failed = object([("error", error.to_string().into())]);
                all.push((name, failed));
            }
        }
    }
    if all.is_empty() && !call.has("json") {
        print("no daemons\n")?;
    }
    say(call, &all)?;
    Ok(code)
}

/// The daemons of this user that answer, with the names of their projects.
fn daemons() -> Result<Vec<(String, Client)>> {
    let state = state_folder(&environment())?;
    let mut known = known_projects(state.path()).unwrap_or_default();
    sort(&mut known, |a, b| a.path().cmp(b.path()));
    let mut found = Vec::new();
    for dir in known {
        if let Ok(Verdict::Running(descriptor, client)) = judge(&dir, "cli") {
            let name = Path::new(&descriptor.project).file_name();
            let name = name.map_or("/".into(), OsStr::to_string_lossy);
            found.push((name.into_owned(), client));
        }
    }
    Ok(found)
}

/// Asks one daemon, and waits for the answer of the program that takes it over.
fn ask(mut client: Client, name: &str, params: Value) -> Result<Value> {
    let what = format!("upgrade {name}");
    let lost = |f: CallError| match f {
        CallError::Refused { code, .. } if code == METHOD_NOT_FOUND => {
            Error::cannot(&what, "the daemon is of a version that can't")
                .with_hint("\"bpm daemon restart\" starts this one")
        }
        other => other.while_doing(&what),
    };
    let id = client.send("bpm/upgrade", params).map_err(lost)?;
    loop {
        let Some(message) = client.receive(None).map_err(lost)? else {
            continue;
        };
        if let Some(result) = connection::result_of(&message, id) {
            return result.map_err(lost);
        }
        let names: Vec<&str> = strings(&message["params"]["waiting_for"]).collect();
        if message["method"] == "bpm/upgrading" && !names.is_empty() {
            let names = names.join(", ");
            tell(format_args!(
                "waiting for the build of {names} (--now cancels and repeats it)"
            ));
        }
    }
}

fn say(call: &Call, all: &[(String, Value)]) -> Result<()> {
    if call.has("json") {
        let mut entries = all.iter().map(|(name, done)| {
            let mut entry = done.clone();
            entry["project"] = name.as_str().into();
            entry
        });
        let document = match call.has("all") {
            true => object([
                ("schema", 1.into()),
                ("daemons", entries.collect::<Vec<Value>>().into()),
            ]),
            false => {
                let mut one = entries.next().unwrap_or_default();
                one["schema"] = 1.into();
                one
            }
        };
        return print(format_args!("{document}\n"));
    }
    for (name, done) in all.iter().filter(|(_, done)| done["error"].is_null()) {
        let pid = &done["pid"];
        if done["same"] == true {
            print(format_args!(
                "{name}: nothing to do, it runs this very file (pid {pid})\n"
            ))?;
            continue;
        }
        let text = |key: &str| done[key].as_str().unwrap_or("?");
        let ms = done["ms"].as_f64().unwrap_or_default().ceil();
        let count = done["processes"].as_u64().unwrap_or_default() as usize;
        print(format_args!(
            "{name}: {} -> {} in {ms} ms; pid {pid} as before, {count} {} untouched\n",
            text("from"),
            text("to"),
            counted(count, "process", "processes")
        ))?;
    }
    Ok(())
}
