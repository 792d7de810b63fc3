//! `pyproject.toml`, `manage.py`, `requirements.txt`: Django, Flask and FastAPI by their files.

use std::path::Path;

use crate::os::files;

use toml::de::{DeTable, DeValue};

use super::Source;
use super::cargo::{get, text};
use super::draft::{Draft, Item};
use super::folder::join;

/// Files that may hold an application.
const FILES: &[&str] = &["main", "app", "wsgi", "asgi", "server", "api", "__init__"];

/// A Python file is read so far.
const MOST: usize = 256 << 10;

/// Reads it. `source` is the first of the three that is there.
pub(super) fn read(source: &Source, draft: &mut Draft) -> Result<(), String> {
    let root = Path::new(&source.folder);
    let is_project = source.name() == "pyproject.toml";
    let parsed = match is_project {
        true => Some(DeTable::parse(&source.text).map_err(|e| e.message().to_string())?),
        false => None,
    };
    let none = DeTable::new();
    let project = parsed.as_ref().map_or(&none, |table| table.get_ref());
    let runner = runner(root, project);
    if let Some(item) = application(source, project, &runner) {
        draft.add(item);
    }
    let scripts = get(project, &["project", "scripts"]).and_then(DeValue::as_table);
    for name in scripts.into_iter().flat_map(|scripts| scripts.keys()) {
        let line = source.text[..name.span().start].matches('\n').count() + 1;
        let mut command = runner.clone();
        if runner.last().is_some_and(|last| last.ends_with("python3")) {
            command.pop();
        }
        command.push(name.get_ref().to_string());
        let why = format!("if it should run: command = {command:?}");
        draft.left(&source.at(line), name.get_ref(), &why);
    }
    Ok(())
}

/// The words that run Python or a tool of the project: `uv run`, or `python3`.
fn runner(root: &Path, project: &DeTable) -> Vec<String> {
    for (tool, lock) in [
        ("uv", "uv.lock"),
        ("poetry", "poetry.lock"),
        ("pdm", "pdm.lock"),
    ] {
        if root.join(lock).is_file() || get(project, &["tool", tool]).is_some() {
            return vec![tool.into(), "run".into()];
        }
    }
    let python = [".venv", "venv"]
        .iter()
        .map(|folder| format!("{folder}/bin/python3"))
        .find(|path| root.join(path).exists());
    vec![python.unwrap_or_else(|| "python3".into())]
}

fn application(source: &Source, project: &DeTable, runner: &[String]) -> Option<Item> {
    let root = Path::new(&source.folder);
    let title =
        text(project, &["project", "name"]).or_else(|| text(project, &["tool", "poetry", "name"]));
    let mut command: Vec<String> = runner.to_vec();
    let python = command.last().is_some_and(|last| last.ends_with("python3"));
    // "uv run flask", but "python3 -m flask".
    let mut program = |words: &[&str], module: bool| {
        if module && python {
            command.push("-m".into());
        }
        command.extend(words.iter().map(|word| (*word).to_string()));
    };
    let found = if root.join("manage.py").is_file() {
        let words: &[&str] = match python {
            true => &["manage.py", "runserver", "127.0.0.1:${PORT}"],
            false => &["python", "manage.py", "runserver", "127.0.0.1:${PORT}"],
        };
        program(words, false);
        ("manage.py".to_string(), "django")
    } else {
        let found = find(root, title)?;
        let port = "${PORT}";
        match found.kind {
            "fastapi" => {
                let app = format!("{}:{}", found.module, found.variable);
                program(&["uvicorn", &app, "--reload", "--port", port], true);
            }
            _ => program(
                &[
                    "flask",
                    "--app",
                    &found.module,
                    "run",
                    "--debug",
                    "--port",
                    port,
                ],
                true,
            ),
        }
        (found.file, found.kind)
    };
    let (file, kind) = found;
    let mut item = Item::new(title.unwrap_or(kind), source.beside(&file));
    item.list("command", &command);
    item.text("port", "auto");
    item.env("PYTHONUNBUFFERED", "1");
    item.folder(&source.sub);
    Some(item)
}

struct Found {
    file: String,
    module: String,
    variable: String,
    kind: &'static str,
}

/// The first file that makes an application.
fn find(root: &Path, title: Option<&str>) -> Option<Found> {
    let title = title.unwrap_or_default().replace('-', "_");
    let inside = join("src", &title);
    let folders = [
        ("", ""),
        ("app", "app"),
        (&title, &title),
        (&inside, &title),
    ];
    for (folder, package) in folders {
        for name in FILES {
            let file = join(folder, &format!("{name}.py"));
            let Ok((bytes, _)) = files::read_named(&root.join(&file)) else {
                continue;
            };
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]);
            let package = package.replace('/', ".");
            let module = match (*name, package.is_empty()) {
                ("__init__", true) => continue,
                ("__init__", false) => package,
                (name, true) => name.into(),
                (name, false) => format!("{package}.{name}"),
            };
            for (call, kind) in [("FastAPI(", "fastapi"), ("Flask(", "flask")] {
                if let Some(variable) = assigned(&text, call) {
                    return Some(Found {
                        file,
                        module,
                        variable,
                        kind,
                    });
                }
            }
        }
    }
    None
}

/// `app` of a line `app = FastAPI(...)`, also in a function, as factories have it for Flask.
fn assigned(text: &str, call: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (left, right) = line.split_once('=')?;
        let right = right.trim_start();
        let right = right
            .rsplit_once('.')
            .filter(|(module, _)| !module.contains('('))
            .map_or(right, |(_, r)| r);
        let factory = left.starts_with([' ', '\t']);
        if !right.starts_with(call) || (factory && call == "FastAPI(") {
            return None;
        }
        let name = left.split(':').next()?.trim();
        let fine = |c: char| c.is_alphanumeric() || c == '_';
        (!name.is_empty() && name.chars().all(fine)).then(|| name.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_found_by_their_assignment() {
        let is = |text: &str, call: &str| assigned(text, call);
        assert_eq!(
            is("x = 1\napp = FastAPI(title='x')\n", "FastAPI(").as_deref(),
            Some("app")
        );
        assert_eq!(
            is("api: FastAPI = FastAPI()\n", "FastAPI(").as_deref(),
            Some("api")
        );
        assert_eq!(
            is("app = fastapi.FastAPI()\n", "FastAPI(").as_deref(),
            Some("app")
        );
        assert_eq!(
            is("    app = Flask(__name__)\n", "Flask(").as_deref(),
            Some("app")
        );
        assert_eq!(is("    app = FastAPI()\n", "FastAPI("), None);
        assert_eq!(is("# Flask(x)\nprint('Flask(')\n", "Flask("), None);
    }
}
