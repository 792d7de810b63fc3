//! The folders of a workspace, by the patterns that name them.

use std::path::Path;

use crate::base::globs::Glob;
use crate::base::table::sort;
use crate::os::files;

/// Folders that belong to tools.
const PASSED_OVER: &[&str] = &["node_modules", "target", "dist", "vendor", "venv"];
/// `**` goes down so far.
const DEEPEST: usize = 4;
/// Nobody has more members.
const MOST: usize = 500;
/// So many folders are looked into, whatever the patterns are.
const LOOKS: usize = 20_000;

/// The folders below `root` that match one of the patterns and have that file, sorted, each once. A
/// pattern that begins with `!` takes out.
pub(super) fn members(root: &Path, patterns: &[String], file: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut left = LOOKS;
    for pattern in patterns {
        let (out, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern.as_str()),
        };
        let parts: Vec<&str> = pattern
            .split('/')
            .filter(|p| !matches!(*p, "" | "."))
            .collect();
        let mut these = Vec::new();
        walk(root, String::new(), &parts, DEEPEST, &mut these, &mut left);
        these.retain(|folder| root.join(folder).join(file).is_file());
        match out {
            true => found.retain(|folder| !these.contains(folder)),
            false => found.extend(these),
        }
    }
    sort(&mut found, Ord::cmp);
    found.dedup();
    found
}

fn walk(
    root: &Path,
    at: String,
    parts: &[&str],
    depth: usize,
    into: &mut Vec<String>,
    left: &mut usize,
) {
    if *left == 0 {
        return;
    }
    *left -= 1;
    let Some((part, rest)) = parts.split_first() else {
        if into.len() < MOST {
            into.push(at);
        }
        return;
    };
    if *part == "**" {
        walk(root, at.clone(), rest, depth, into, left);
        if depth > 0 {
            for name in folders(&root.join(&at)) {
                walk(root, join(&at, &name), parts, depth - 1, into, left);
            }
        }
        return;
    }
    if !part.contains(['*', '?', '[', '{']) {
        let next = join(&at, part);
        if *part != ".." && root.join(&next).is_dir() {
            walk(root, next, rest, depth, into, left);
        }
        return;
    }
    let Ok(glob) = Glob::new(part) else { return };
    for name in folders(&root.join(&at)) {
        if glob.matches(Path::new(&name)) {
            walk(root, join(&at, &name), rest, depth, into, left);
        }
    }
}

/// `web` below `apps` -> `apps/web`.
pub(super) fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.into(),
        folder => format!("{folder}/{name}"),
    }
}

/// The folders in a folder, by name, without hidden ones and those of tools.
pub(super) fn folders(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in files::entries(path) {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let (true, Ok(name)) = (is_folder, entry.file_name().into_string())
            && !name.starts_with('.')
            && !PASSED_OVER.contains(&name.as_str())
        {
            names.push(name);
        }
    }
    sort(&mut names, Ord::cmp);
    names
}
