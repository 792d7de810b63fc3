//! `Cargo.toml`: the binaries of a package or a workspace, as cargo finds them, without asking it.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Source;
use super::draft::{Draft, Item};
use super::folder::{self, join};
use crate::base::table::sort;
use crate::os::files;

/// A binary that cargo would build.
pub(in crate::cli) struct Binary {
    /// Its package.
    pub(in crate::cli) package: String,
    /// Its name.
    pub(in crate::cli) name: String,
    /// The package's folder below the workspace; empty for its root.
    pub(in crate::cli) folder: String,
    features: Vec<String>,
    default_run: bool,
}

/// Reads it.
pub(super) fn read(source: &Source, draft: &mut Draft) -> Result<(), String> {
    let mut all = binaries(Path::new(&source.folder), &source.text)?;
    // The one that `cargo run` would take comes first.
    sort(&mut all, |a, b| b.default_run.cmp(&a.default_run));
    let packages = all.windows(2).any(|two| two[0].package != two[1].package);
    for (number, binary) in all.iter().enumerate() {
        let file = join(&binary.folder, "Cargo.toml");
        let mut item = Item::new(&binary.name, source.beside(&file));
        if number > 0 {
            item.by_hand();
        }
        item.text("type", "rust");
        if packages {
            item.text("package", &binary.package);
        }
        let siblings = all.iter().filter(|b| b.package == binary.package);
        if siblings.count() > 1 {
            item.text("bin", &binary.name);
        }
        if !binary.features.is_empty() {
            item.list("features", &binary.features);
        }
        item.folder(&source.sub);
        draft.add(item);
    }
    if all.is_empty() {
        draft.left(&source.file, "the package", "it has no binary to run");
    }
    Ok(())
}

/// The binaries of the default members, in the order of the members and names.
pub(in crate::cli) fn binaries(root: &Path, manifest: &str) -> Result<Vec<Binary>, String> {
    let table = DeTable::parse(manifest).map_err(|e| e.message().to_string())?;
    let table = table.get_ref();
    let mut all = Vec::new();
    let workspace = get(table, &["workspace"]).and_then(DeValue::as_table);
    let members = |key| {
        let patterns = workspace.map(|w| strings(w, &[key])).unwrap_or_default();
        folder::members(root, &patterns, "Cargo.toml")
    };
    let defaults = members("default-members");
    let own = table.contains_key("package");
    if own && defaults.is_empty() {
        of_package(root, "", table, &mut all);
        return Ok(all);
    }
    let mut chosen = match defaults.is_empty() {
        true => members("members"),
        false => defaults,
    };
    let excluded = members("exclude");
    chosen.retain(|member| !excluded.contains(member));
    for member in chosen {
        if let Ok(text) = files::read_text(&root.join(&member).join("Cargo.toml"))
            && let Ok(table) = DeTable::parse(&text)
        {
            of_package(root, &member, table.get_ref(), &mut all);
        }
    }
    Ok(all)
}

fn of_package(root: &Path, folder: &str, table: &DeTable, all: &mut Vec<Binary>) {
    let Some(package) = text(table, &["package", "name"]) else {
        return;
    };
    let path = root.join(folder);
    let default_run = text(table, &["package", "default-run"]);
    let mut add = |name: &str, features: Vec<String>| {
        if all.iter().any(|b| b.package == package && b.name == name) {
            return;
        }
        all.push(Binary {
            package: package.into(),
            name: name.into(),
            folder: folder.into(),
            features,
            default_run: default_run == Some(name),
        });
    };
    let targets = get(table, &["bin"]).and_then(DeValue::as_array);
    let targets = targets.into_iter().flatten();
    let targets: Vec<_> = targets.filter_map(|t| t.get_ref().as_table()).collect();
    for target in &targets {
        if let Some(name) = text(target, &["name"]) {
            add(name, strings(target, &["required-features"]));
        }
    }
    if get(table, &["package", "autobins"]).and_then(DeValue::as_bool) == Some(false) {
        return;
    }
    // A main.rs that a [[bin]] names by its path is that binary.
    let named = |file: &str| {
        let mut paths = targets.iter().filter_map(|t| text(t, &["path"]));
        paths.any(|path| path.trim_start_matches("./") == file)
    };
    if path.join("src/main.rs").is_file() && !named("src/main.rs") {
        add(package, Vec::new());
    }
    let mut names: Vec<(String, String)> = Vec::new();
    for entry in files::entries(path.join("src/bin")) {
        let Ok(file) = entry.file_name().into_string() else {
            continue;
        };
        if file.starts_with('.') {
            continue;
        }
        if let Some(name) = file.strip_suffix(".rs") {
            names.push((name.into(), format!("src/bin/{file}")));
        } else if entry.path().join("main.rs").is_file() {
            let main = format!("src/bin/{file}/main.rs");
            names.push((file, main));
        }
    }
    sort(&mut names, Ord::cmp);
    for (name, file) in names {
        if !named(&file) {
            add(&name, Vec::new());
        }
    }
}

/// The value below these keys.
pub(super) fn get<'t>(table: &'t DeTable<'t>, path: &[&str]) -> Option<&'t DeValue<'t>> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?.get_ref();
    match rest.is_empty() {
        true => Some(value),
        false => get(value.as_table()?, rest),
    }
}

/// The text below these keys.
pub(super) fn text<'t>(table: &'t DeTable<'t>, path: &[&str]) -> Option<&'t str> {
    get(table, path)?.as_str()
}

/// The texts in a list below these keys.
pub(super) fn strings(table: &DeTable, path: &[&str]) -> Vec<String> {
    let list = get(table, path).and_then(DeValue::as_array);
    let texts = list
        .into_iter()
        .flatten()
        .filter_map(|v| v.get_ref().as_str());
    texts.map(String::from).collect()
}
