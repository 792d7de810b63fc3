//! `bpm init`: a `.mcp-run` for what is found in a folder. Nothing is run.

pub(in crate::cli) mod cargo;
mod draft;
mod folder;
mod json;
mod node;
mod pm2;
mod procfile;
mod python;
pub(in crate::cli) mod quote;
mod supervisord;
mod targets;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Failure, Result, named};
use crate::base::paths::CONFIG_FILE;
use crate::base::table::Set;
use crate::client::connection::VERSION;
use crate::os::files;
use crate::os::peer::our_uid;

use super::check::mistakes;
use super::spec::Call;
use super::{answer, note};
use draft::Draft;
use quote::brief;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Procfile,
    Supervisord,
    Pm2,
    Cargo,
    Package,
    Python,
    Targets,
    /// It is only named.
    Unread,
}

/// Files that are looked for, by kind, the first of a row before the others of it; in the order in which
/// they are asked what runs.
const SOURCES: &[(Kind, &[&str])] = &[
    (Kind::Procfile, &["Procfile.dev", "Procfile"]),
    (Kind::Supervisord, &["supervisord.conf"]),
    (Kind::Pm2, &["ecosystem.config.json", "pm2.json"]),
    (Kind::Cargo, &["Cargo.toml"]),
    (Kind::Package, &["package.json"]),
    (
        Kind::Python,
        &["pyproject.toml", "manage.py", "requirements.txt"],
    ),
    (Kind::Targets, &["Justfile", "justfile", ".justfile"]),
    (Kind::Targets, &["GNUmakefile", "makefile", "Makefile"]),
];

/// Files of others that bpm does not read: YAML, and programs.
const UNREAD: &[&str] = &[
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
    "process-compose.yaml",
    "process-compose.yml",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "mprocs.yaml",
    "pitchfork.toml",
    "circus.ini",
];

const UNREAD_WHY: &str = "not read: mcp-run(5), \"COMING FROM\", sets its settings beside bpm's";

/// Nobody writes a larger one.
const LARGEST: u64 = 4 << 20;

/// A file that is read.
pub(super) struct Source {
    /// As people call it: `web/package.json`.
    file: String,
    /// Its folder, absolute.
    folder: String,
    /// The same below the project's root; empty for the root itself.
    sub: String,
    text: String,
}

impl Source {
    /// `Procfile:3`.
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.file)
    }

    /// The name without folders.
    fn name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }

    /// Another file of the same folder, as people call it.
    fn beside(&self, file: &str) -> String {
        folder::join(&self.sub, file)
    }

    /// A folder that the file names, as seen from the project's root.
    fn folder_of(&self, named: &str) -> String {
        match named.trim_start_matches("./") {
            "" | "." => self.sub.clone(),
            absolute if absolute.starts_with('/') => absolute.into(),
            below => folder::join(&self.sub, below),
        }
    }

    /// A file in a folder below.
    fn below(&self, member: &str, file: &str, text: String) -> Self {
        Self {
            file: self.beside(file),
            folder: folder::join(&self.folder, member),
            sub: folder::join(&self.sub, member),
            text,
        }
    }
}

/// `bpm init`.
pub(super) fn init(call: &Call) -> Result<u8> {
    let root = match &call.dir {
        Some(dir) => dir
            .canonicalize()
            .map_err(|e| Error::file("enter", dir, e))?,
        None => std::env::current_dir().map_err(|e| Error::system("tell the current folder", e))?,
    };
    let path = root.join(CONFIG_FILE);
    let is_there = path.symlink_metadata().is_ok();
    if is_there && !call.has("stdout") && !call.has("force") {
        return Err(Error::cannot(named("write", &path), "it exists")
            .with_hint("--stdout only prints; --force replaces it and keeps it as .mcp-run.bak"));
    }
    let mut draft = Draft::default();
    match call.text("from")? {
        Some(file) => one(&root, file, &mut draft)?,
        None => all(&root, &mut draft),
    }
    let env = super::environment();
    let checked = |text: &str| {
        let config = crate::config::parse(text, CONFIG_FILE, &root)?;
        let mistakes = mistakes(&config, &env, &mut Set::default()).into_keys();
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(Failure::Config(mistakes).into()),
        }
    };
    draft.sift(&checked);
    let mut lost: String = draft
        .lost()
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    if !lost.is_empty() {
        lost.insert_str(0, "not taken over:\n");
    }
    note(&lost);
    if draft.len() == 0 {
        let names = SOURCES.iter().flat_map(|(_, names)| *names);
        let names: Vec<&str> = names.copied().collect();
        let why = format!("nothing to run found: looked for {}", names.join(", "));
        return Err(Error::cannot(format!("write a {CONFIG_FILE}"), why)
            .with_hint("mcp-run(5) has examples; --from FILE takes a file of another name"));
    }
    let text = draft.text(VERSION);
    // The new file has no mistakes: each process was read by itself, this is the whole.
    checked(&text)?;
    if call.has("stdout") {
        return answer(text);
    }
    if is_there {
        let kept = root.join(format!("{CONFIG_FILE}.bak"));
        fs::rename(&path, &kept).map_err(|e| Error::file("keep", &path, e))?;
    }
    files::write_atomic(&path, text.as_bytes(), 0o644)
        .map_err(|e| Error::file("write", &path, e))?;
    answer(format_args!(
        "wrote {CONFIG_FILE}\n{}next: \"bpm check\" reads it, \"bpm up\" starts it\n",
        draft.taken()
    ))
}

/// Everything in the folder; where nothing is there to run, in the folders of it.
fn all(root: &Path, draft: &mut Draft) {
    in_folder(root, "", draft);
    if draft.len() == 0 {
        for sub in folder::folders(root) {
            in_folder(root, &sub, draft);
        }
    } else {
        name_folders(root, draft);
    }
    if draft.len() > 0 && root.join(".envrc").is_file() {
        draft.top(
            "# .envrc: direnv sets its variables for all processes, once \"direnv allow\" was said",
        );
    }
}

/// Names what folders of the project have that may run beside what the project's own files say.
fn name_folders(root: &Path, draft: &mut Draft) {
    let kinds = SOURCES.iter().filter(|(kind, names)| {
        let asked = matches!(kind, Kind::Cargo | Kind::Package | Kind::Python);
        asked && !names.iter().any(|name| root.join(name).is_file())
    });
    let kinds: Vec<_> = kinds.collect();
    for sub in folder::folders(root) {
        for (_, names) in &kinds {
            let mut files = names.iter().map(|name| folder::join(&sub, name));
            if let Some(file) = files.find(|file| root.join(file).is_file()) {
                let why = format!("\"bpm init --stdout --from {file}\" prints what runs there");
                draft.left(&file, "the file", &why);
            }
        }
    }
}

fn in_folder(root: &Path, sub: &str, draft: &mut Draft) {
    let there = |name: &&&str| root.join(sub).join(name).is_file();
    for (kind, names) in SOURCES {
        let mut found = names.iter().filter(there);
        if let Some(name) = found.next() {
            read(root, &folder::join(sub, name), *kind, false, draft);
        }
        // Names of one row that say what runs; of the Python files one is enough.
        if matches!(kind, Kind::Procfile | Kind::Pm2) {
            for other in found {
                let file = folder::join(sub, other);
                draft.left(
                    &file,
                    "the file",
                    &format!("bpm init --from {file} takes it"),
                );
            }
        }
    }
    for name in UNREAD.iter().filter(there) {
        draft.left(&folder::join(sub, name), "the file", UNREAD_WHY);
    }
}

/// The kind of a file by its name.
fn kind_of(name: &str) -> Option<Kind> {
    let of = |(kind, names): &(Kind, &[&str])| names.contains(&name).then_some(*kind);
    if let Some(kind) = SOURCES.iter().find_map(of) {
        return Some(kind);
    }
    if UNREAD.contains(&name) || name.ends_with(".yaml") || name.ends_with(".yml") {
        return Some(Kind::Unread);
    }
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match end {
        "json" => Some(Kind::Pm2),
        "conf" | "ini" => Some(Kind::Supervisord),
        "js" | "cjs" | "mjs" => Some(Kind::Unread),
        "mk" => Some(Kind::Targets),
        _ if name.starts_with("Procfile") => Some(Kind::Procfile),
        _ => None,
    }
}

/// The file that was asked for.
fn one(root: &Path, file: &str, draft: &mut Draft) -> Result<()> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let what = || format!("take {file:?} over");
    match kind_of(name) {
        None if !Path::new(file).exists() => Err(Error::cannot(what(), "no such file")),
        None => {
            let why = "its name is none of those that bpm knows";
            Err(Error::cannot(what(), why).with_hint(
                "Procfile, supervisord.conf, *.json (pm2), package.json, pyproject.toml, Cargo.toml, Justfile, Makefile",
            ))
        }
        Some(Kind::Unread) => Err(
            Error::cannot(what(), "bpm reads neither YAML nor JavaScript")
                .with_hint("\"man mcp-run\", COMING FROM, sets its settings beside bpm's"),
        ),
        Some(kind) => {
            let path = PathBuf::from(file);
            let path = std::env::current_dir().unwrap_or_default().join(path);
            let path = path
                .canonicalize()
                .map_err(|e| Error::file("read", &path, e))?;
            let below = path.strip_prefix(root).ok().and_then(Path::to_str);
            let named = below.or_else(|| path.to_str()).unwrap_or(file).to_string();
            read(root, &named, kind, true, draft);
            Ok(())
        }
    }
}

/// `file` is relative to the root, or absolute.
fn read(root: &Path, file: &str, kind: Kind, asked: bool, draft: &mut Draft) {
    let path = root.join(file);
    let text = match text_of(&path) {
        Ok(text) => text,
        Err(why) => return draft.left(file, "the file", &why),
    };
    let folder = path.parent().unwrap_or(root);
    let source = Source {
        file: brief(file),
        folder: folder.display().to_string(),
        sub: match file.starts_with('/') {
            true => String::new(),
            false => file.rsplit_once('/').map_or("", |(sub, _)| sub).into(),
        },
        text,
    };
    let before = draft.len();
    let root_user = our_uid() == 0;
    let read = match kind {
        Kind::Procfile => {
            let dotenv = text_of(&folder.join(".env")).ok();
            procfile::read(&source, dotenv.as_deref(), draft);
            Ok(())
        }
        Kind::Supervisord => {
            supervisord::read(&source, root_user, draft);
            Ok(())
        }
        Kind::Pm2 => pm2::read(&source, root_user, draft),
        Kind::Cargo => cargo::read(&source, draft),
        Kind::Package => node::read(&source, draft),
        Kind::Python => python::read(&source, draft),
        Kind::Targets => {
            targets::read(&source, asked, draft);
            Ok(())
        }
        Kind::Unread => Ok(()),
    };
    if let Err(why) = read {
        draft.left(&source.file, "the file", &why);
    }
    if draft.len() > before {
        draft.source(&source.file);
        if matches!(kind, Kind::Procfile | Kind::Supervisord | Kind::Pm2) {
            draft.decide(&source.file);
        }
    }
}

/// A text file, if it is one and of a size that people write.
fn text_of(path: &Path) -> std::result::Result<String, String> {
    let why = |e: &std::io::Error| crate::base::error::reason(e);
    let file = files::open_plain(path).map_err(|e| why(&e))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| why(&e))?;
    if bytes.len() as u64 > LARGEST {
        return Err("it is larger than 4 MiB".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    Ok(text.trim_start_matches('\u{feff}').into())
}

/// The first bytes of a file that is one.
fn start_of(path: &Path) -> Option<[u8; 4]> {
    let mut start = [0; 4];
    let mut file = File::open(path)
        .ok()
        .filter(|f| f.metadata().is_ok_and(|m| m.is_file()))?;
    file.read_exact(&mut start).ok()?;
    Some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};

    /// The draft that a reader makes of a file in `/shop`.
    pub(super) fn draft_of(
        file: &str,
        text: &str,
        read: impl FnOnce(&Source, &mut Draft),
    ) -> Draft {
        let source = Source {
            file: file.into(),
            folder: "/shop".into(),
            sub: String::new(),
            text: text.into(),
        };
        let mut draft = Draft::default();
        read(&source, &mut draft);
        draft.sift(&parsed);
        draft
    }

    /// A file of `/shop` has no mistakes.
    pub(super) fn parsed(text: &str) -> Result<()> {
        config::parse(text, CONFIG_FILE, Path::new("/shop")).map(drop)
    }

    /// The configuration that comes of it.
    pub(super) fn config_of(draft: &Draft) -> Config {
        let text = draft.text("0");
        config::parse(&text, CONFIG_FILE, Path::new("/shop"))
            .unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    #[test]
    fn files_are_known_by_their_names() {
        assert_eq!(kind_of("Procfile.staging"), Some(Kind::Procfile));
        assert_eq!(kind_of("web.conf"), Some(Kind::Supervisord));
        assert_eq!(kind_of("package.json"), Some(Kind::Package));
        assert_eq!(kind_of("apps.json"), Some(Kind::Pm2));
        assert_eq!(kind_of("compose.yaml"), Some(Kind::Unread));
        assert_eq!(kind_of("README"), None);
    }
}
