//! `package.json`: its `dev` or `start` script, run by the package manager that the project uses.

use std::path::Path;

use serde_json::Value;

use super::Source;
use super::draft::{Draft, Item};
use super::folder::{self, join};
use super::json::line_of;
use crate::base::json::{self, strings};
use crate::os::files;

/// Package managers, each with the files that tell of it and what runs a script.
const MANAGERS: &[(&str, &[&str], &[&str])] = &[
    (
        "pnpm",
        &["pnpm-lock.yaml", "pnpm-workspace.yaml"],
        &["pnpm", "run"],
    ),
    ("yarn", &["yarn.lock"], &["yarn", "run"]),
    ("bun", &["bun.lock", "bun.lockb"], &["bun", "run"]),
    ("deno", &["deno.lock"], &["deno", "task"]),
    (
        "npm",
        &["package-lock.json", "npm-shrinkwrap.json"],
        &["npm", "run"],
    ),
    // Also editors and functions at the edge have these beside another manager's lock file.
    ("deno", &["deno.json", "deno.jsonc"], &["deno", "task"]),
];

/// A root's script with one of these in it runs the scripts of the members.
const RUNS_MEMBERS: &[&str] = &[
    "turbo ",
    "nx ",
    "lerna ",
    "concurrently",
    "run-p",
    "npm-run-all",
    "--workspace",
    "-ws",
    " -w ",
    "--filter",
    " -r ",
    "--recursive",
    "workspaces ",
    "workspace ",
    "--parallel",
];

/// Reads it.
pub(super) fn read(source: &Source, draft: &mut Draft) -> Result<(), String> {
    let package: Value = json::parse(&source.text).map_err(|e| e.to_string())?;
    let root = Path::new(&source.folder);
    let runner = runner(root, &package);
    let (script, body) = script(&package).unzip();
    let members = members(source, &package, draft);
    let before = draft.len();
    for member in &members {
        let file = join(member, "package.json");
        let Ok(text) = files::read_text(&root.join(&file)) else {
            continue;
        };
        match json::parse(&text) {
            Ok(package) => {
                let source = source.below(member, &file, text);
                add(&source, &package, runner, draft);
            }
            Err(e) => draft.left(&source.beside(&file), "the file", &e.to_string()),
        }
    }
    let took_members = draft.len() > before;
    let runs_them = |body: &str| RUNS_MEMBERS.iter().any(|word| body.contains(word));
    match script {
        Some(script) if took_members && body.is_some_and(runs_them) => {
            let place = source.at(line_of(&source.text, &["scripts", script]));
            draft.left(
                &place,
                script,
                "it runs the scripts of the workspaces, which are taken over",
            );
        }
        _ => add(source, &package, runner, draft),
    }
    Ok(())
}

/// The folders of its workspaces.
fn members(source: &Source, package: &Value, draft: &mut Draft) -> Vec<String> {
    let root = Path::new(&source.folder);
    let listed = match &package["workspaces"] {
        list @ Value::Array(_) => list,
        other => &other["packages"],
    };
    let mut patterns: Vec<String> = strings(listed).map(String::from).collect();
    if patterns.is_empty() && root.join("pnpm-workspace.yaml").is_file() {
        let why = "not read (YAML): apps/* and packages/* are taken for its packages";
        draft.left(&source.beside("pnpm-workspace.yaml"), "packages", why);
        patterns = vec!["apps/*".into(), "packages/*".into()];
    }
    let mut members = folder::members(root, &patterns, "package.json");
    // The root itself ("."), which is read anyway.
    members.retain(|member| !member.is_empty());
    members
}

/// A script's name and its text.
fn script(package: &Value) -> Option<(&'static str, &str)> {
    let scripts = &package["scripts"];
    let found = |name: &'static str| Some((name, scripts[name].as_str()?));
    found("dev").or_else(|| found("start"))
}

fn add(source: &Source, package: &Value, runner: &[&str], draft: &mut Draft) {
    let line = |name: &str| source.at(line_of(&source.text, &["scripts", name]));
    let command = |name: &str| {
        let words = runner.iter().chain([&name]);
        words
            .map(|word| (*word).to_string())
            .collect::<Vec<String>>()
    };
    for name in ["serve", "watch"] {
        if package["scripts"][name].is_string() {
            let why = format!("if it should run too: command = {:?}", command(name));
            draft.left(&line(name), name, &why);
        }
    }
    let Some((name, body)) = script(package) else {
        return;
    };
    let title = package["name"].as_str().unwrap_or_default();
    let title = match title.rsplit_once('/') {
        Some((_, name)) => name,
        None => title,
    };
    let folder = source.sub.rsplit('/').next().unwrap_or_default();
    let title = [title, folder].into_iter().find(|name| !name.is_empty());
    let mut item = Item::new(title.unwrap_or("web"), line(name));
    item.text("type", "npm");
    item.list("command", &command(name));
    item.folder(&source.sub);
    if ends_with_stdin(body) {
        item.set("stdin", "\"open\"".into());
    }
    draft.add(item);
}

/// A watcher that leaves when its standard input ends.
fn ends_with_stdin(script: &str) -> bool {
    let words: Vec<&str> = script.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let named = |name: &str| words.iter().any(|word| word.ends_with(name));
    (named("esbuild") && (has("--watch") || has("--serve")) && !has("--watch=forever"))
        || (named("tailwindcss") && (has("--watch") || has("-w")))
}

/// The program that runs scripts: by `packageManager`, else by the lock file, else npm.
fn runner(root: &Path, package: &Value) -> &'static [&'static str] {
    let named = package["packageManager"].as_str().unwrap_or_default();
    let named = named.split('@').next().unwrap_or_default();
    let by_name = MANAGERS.iter().find(|(name, ..)| *name == named);
    let by_file = || {
        let has = |files: &[&str]| files.iter().any(|file| root.join(file).is_file());
        MANAGERS.iter().find(|(_, files, _)| has(files))
    };
    by_name
        .or_else(by_file)
        .map_or(&["npm", "run"], |(.., runner)| runner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_that_leave_with_their_input_are_known() {
        for (script, leaves) in [
            ("esbuild a.js --bundle --watch", true),
            ("npx esbuild a.js --watch=forever", false),
            ("tailwindcss -i a.css -o b.css --watch", true),
            ("tailwindcss -i a.css --watch=always", false),
            ("vite", false),
            ("tsc --watch", false),
        ] {
            assert_eq!(ends_with_stdin(script), leaves, "{script}");
        }
    }
}
