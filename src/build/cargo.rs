//! Pure: no system call, no thread, no clock.
//!
//! Cargo's JSON messages: what was built, what is wrong, and which executable was meant.

use std::path::Path;

use serde_json::Value;

use super::{BuildError, Wanted};
use crate::base::json::{items, strings};
use crate::base::table::{Set, Table};

/// Where the dynamic linker looks first.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// One line of `cargo build --message-format=json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CargoLine {
    /// Something was built, or was fresh.
    Artifact(Built),
    /// A compiler said something.
    Message(Message),
    /// A build script ran, or had run before.
    Script(Script),
    /// The end; whether all went well.
    Finished(bool),
    /// A message of another kind.
    Other,
}

/// An artifact that can be executed, or one that can't.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Built {
    /// Cargo's name of the package: `path+file:///home/me/app#0.1.0`.
    pub package_id: String,
    /// The path of its `Cargo.toml`.
    pub manifest: String,
    /// The target's name.
    pub name: String,
    /// It is a `bin` (no example, test, build script).
    pub bin: bool,
    /// Where the executable is.
    pub executable: Option<String>,
}

/// A compiler's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// For people, with its newline.
    pub rendered: String,
    /// The path of the package's `Cargo.toml`.
    pub manifest: String,
    /// It is an error, and this is it.
    pub error: Option<BuildError>,
}

/// The end of a build script.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Of which package.
    pub package_id: String,
    /// Where libraries are, as the script wrote it: `native=/home/me/app/target/debug/build/x/out`.
    pub linked_paths: Vec<String>,
    /// `cargo::rustc-env`; `cargo run` sets them as well.
    pub env: Vec<(String, String)>,
    /// `OUT_DIR`.
    pub out_dir: String,
}

impl CargoLine {
    /// Reads one line; None: it is none of cargo's.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let reason = value.get("reason")?.as_str()?;
        Some(match reason {
            "compiler-artifact" => Self::Artifact(Built {
                package_id: text(&value["package_id"]),
                manifest: text(&value["manifest_path"]),
                name: text(&value["target"]["name"]),
                bin: strings(&value["target"]["kind"]).any(|k| k == "bin"),
                executable: value["executable"].as_str().map(str::to_string),
            }),
            "compiler-message" => Self::Message(message(&value)),
            "build-script-executed" => Self::Script(Script {
                package_id: text(&value["package_id"]),
                linked_paths: strings(&value["linked_paths"])
                    .map(str::to_string)
                    .collect(),
                env: pairs(&value["env"]),
                out_dir: text(&value["out_dir"]),
            }),
            "build-finished" => Self::Finished(value["success"].as_bool().unwrap_or(false)),
            _ => Self::Other,
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let pair = |p: &Value| Some((p.get(0)?.as_str()?.into(), p.get(1)?.as_str()?.into()));
    items(value).filter_map(pair).collect()
}

fn message(line: &Value) -> Message {
    let value = &line["message"];
    let words = value["message"].as_str().unwrap_or_default();
    let level = value["level"].as_str().unwrap_or_default();
    // "aborting due to 2 previous errors" counts errors, it is none.
    let is_error = level.starts_with("error") && !words.starts_with("aborting due to");
    Message {
        rendered: text(&value["rendered"]),
        manifest: text(&line["manifest_path"]),
        error: is_error.then(|| {
            let span = items(&value["spans"])
                .find(|s| s["is_primary"] == true)
                .map(outermost);
            let first = words.lines().next().unwrap_or_default();
            let mut first: String = first.chars().take(1_000).collect();
            if let Some(detail) = detail(words, &value["children"]) {
                first.extend(": ".chars().chain(detail.chars().take(300)));
            }
            BuildError {
                file: span.map(|s| text(&s["file_name"])),
                line: span.and_then(|s| s["line_start"].as_u64()),
                column: span.and_then(|s| s["column_start"].as_u64()),
                message: match value["code"]["code"].as_str() {
                    Some(code) => format!("{code}: {first}"),
                    None => first,
                },
            }
        }),
    }
}

/// What a linker or a macro said itself, which stands in a note of the compiler's message.
fn detail<'v>(words: &str, notes: &'v Value) -> Option<&'v str> {
    let mut notes = items(notes).filter_map(|note| note["message"].as_str());
    if words.ends_with(" panicked") {
        return notes.find_map(|note| note.strip_prefix("message: ")?.lines().next());
    }
    if !words.starts_with("linking with ") {
        return None;
    }
    // The first note is the command line.
    let mut lines = notes.skip(1).flat_map(str::lines);
    lines.find_map(|line| {
        if line.contains("ld returned ") {
            return None;
        }
        if let Some((_, said)) = line.split_once("error: ") {
            return Some(said.trim());
        }
        let signs = ["undefined reference", "cannot find ", "multiple definition"];
        let at = signs.iter().find_map(|sign| line.find(sign))?;
        Some(line[at..].trim())
    })
}

/// The place in the person's own code, where the compiler points into the source of a macro of std.
fn outermost(span: &Value) -> &Value {
    let foreign = |s: &Value| {
        let file = s["file_name"].as_str().unwrap_or_default();
        file.starts_with("/rustc/") || file.starts_with('<')
    };
    let mut at = span;
    while foreign(at) && at["expansion"]["span"].is_object() {
        at = &at["expansion"]["span"];
    }
    at
}

/// The one executable that was meant. `manifest` gives the text of a `Cargo.toml`, asked only where
/// several binaries are there and none is named (`default-run`).
///
/// # Errors
/// None, or several; the words say what to do.
pub fn choose<'a>(
    built: &'a [Built],
    wanted: &Wanted,
    manifest: impl Fn(&str) -> Option<String>,
) -> Result<&'a Built, String> {
    let fits = |b: &&Built| {
        let package = wanted.package.as_deref();
        b.bin
            && b.executable.is_some()
            && package.is_none_or(|p| package_name(&b.package_id) == p || b.package_id == p)
            && wanted.bin.as_deref().is_none_or(|bin| b.name == bin)
    };
    // By executable; of several that say the same one the first counts.
    let fitting = built.iter().rev().filter(fits);
    let all: Table<_, &Built> = fitting.map(|b| (&b.executable, b)).collect();
    let all: Vec<&Built> = all.values().copied().collect();
    match all[..] {
        [one] => return Ok(one),
        [] => return Err(none_fits(built, wanted)),
        [..] => {}
    }
    let default: Vec<&Built> = all
        .iter()
        .copied()
        .filter(|b| {
            manifest(&b.manifest)
                .and_then(|t| default_run(&t))
                .as_deref()
                == Some(&b.name)
        })
        .collect();
    match default[..] {
        [one] => Ok(one),
        [..] => {
            let names: Vec<&str> = all.iter().map(|b| b.name.as_str()).collect();
            Err(format!(
                "{} binaries and none is named: {}; name one with bin = {:?}",
                names.len(),
                names.join(", "),
                names[0]
            ))
        }
    }
}

fn none_fits(built: &[Built], wanted: &Wanted) -> String {
    let names: Set<&str> = built
        .iter()
        .filter(|b| b.bin && b.executable.is_some())
        .map(|b| b.name.as_str())
        .collect();
    let names = names.into_keys();
    let what = match (&wanted.bin, &wanted.package) {
        (Some(bin), Some(package)) => format!("no binary {bin:?} of package {package:?}"),
        (Some(bin), None) => format!("no binary {bin:?}"),
        (None, Some(package)) => format!("no binary of package {package:?}"),
        (None, None) => "no binary".into(),
    };
    match (names.is_empty(), built.is_empty()) {
        (true, true) => format!("{what}: cargo has named nothing that it built"),
        (true, false) => format!("{what}: what cargo built is a library only"),
        (false, _) => format!("{what}; cargo built: {}", names.join(", ")),
    }
}

/// `path+file:///home/me/app#tool@0.1.0`, `path+file:///home/me/app#0.1.0` and, before Rust 1.77,
/// `app 0.1.0 (path+file:///home/me/app)`.
fn package_name(id: &str) -> &str {
    let Some((url, tail)) = id.split_once('#') else {
        return id.split(' ').next().unwrap_or(id);
    };
    match tail.split_once('@') {
        Some((name, _)) => name,
        None => url
            .rsplit('/')
            .next()
            .unwrap_or(url)
            .split('?')
            .next()
            .unwrap_or(url),
    }
}

/// `package.default-run` of a `Cargo.toml`.
pub fn default_run(manifest: &str) -> Option<String> {
    let table = toml::de::DeTable::parse(manifest).ok()?.into_inner();
    let package = table.get("package")?.get_ref();
    Some(package.get("default-run")?.get_ref().as_str()?.to_string())
}

/// `argv[0]` as `cargo run` gives it: relative where the executable is under `cwd`.
pub fn argv0(executable: &str, cwd: &Path) -> String {
    match Path::new(executable).strip_prefix(cwd) {
        Ok(below) if below.components().count() == 1 => format!("./{}", below.display()),
        Ok(below) => below.display().to_string(),
        Err(_) => executable.to_string(),
    }
}

/// The variables that `cargo run` would set for this executable, of those that a program can need
/// at run time: where its manifest is, what its build script set, and where its libraries are.
/// `sysroot` are the toolchain's own folders ([`sysroot_libs`]).
pub fn run_env(chosen: &Built, scripts: &[Script], sysroot: &[String]) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if let Some(dir) = Path::new(&chosen.manifest).parent() {
        env.push(("CARGO_MANIFEST_DIR".into(), dir.display().to_string()));
        env.push(("CARGO_MANIFEST_PATH".into(), chosen.manifest.clone()));
    }
    for script in scripts.iter().filter(|s| s.package_id == chosen.package_id) {
        env.push(("OUT_DIR".into(), script.out_dir.clone()));
        env.extend(script.env.iter().cloned());
    }
    let exe = chosen.executable.as_deref().map(Path::new);
    if let Some(profile) = exe.and_then(Path::parent) {
        let mut dirs = native_dirs(scripts, profile);
        dirs.push(profile.display().to_string());
        dirs.push(profile.join("deps").display().to_string());
        dirs.extend(sysroot.iter().cloned());
        env.push((LIBRARY_PATH.into(), dirs.join(":")));
    }
    env
}

/// Folders that build scripts named, in cargo's order, of those that are cargo's own: what lies
/// outside of the target folder `cargo run` leaves to the system.
fn native_dirs(scripts: &[Script], profile: &Path) -> Vec<String> {
    let all: Set<&str> = scripts
        .iter()
        .flat_map(|s| s.linked_paths.iter().map(String::as_str))
        .collect();
    let kinds = ["native", "crate", "dependency", "framework", "all"];
    all.into_keys()
        .into_iter()
        .map(|path| match path.split_once('=') {
            Some((kind, path)) if kinds.contains(&kind) => path,
            _ => path,
        })
        .filter(|path| Path::new(path).starts_with(profile))
        .map(str::to_string)
        .collect()
}

/// The toolchain's libraries, as far as `.rustc_info.json` in the target folder tells: cargo notes
/// there what it asked of rustc, and asking rustc again would cost each build 30 ms. `triple`: of
/// `--target`; None: the host's.
///
/// The second folder is what rustup's own `cargo` puts on the path.
pub fn sysroot_libs(rustc_info: &str, triple: Option<&str>) -> Vec<String> {
    let Ok(info) = serde_json::from_slice::<Value>(rustc_info.as_bytes()) else {
        return Vec::new();
    };
    let outputs = info["outputs"].as_object();
    let lines = || {
        outputs
            .into_iter()
            .flat_map(|o| o.values())
            .filter_map(|o| o["stdout"].as_str())
            .flat_map(str::lines)
    };
    let host = lines().find_map(|l| l.strip_prefix("host: "));
    let sysroot = lines().find(|l| l.starts_with('/'));
    let (Some(sysroot), Some(triple)) = (sysroot, triple.or(host)) else {
        return Vec::new();
    };
    let mut dirs = vec![format!("{sysroot}/lib/rustlib/{triple}/lib")];
    let by_rustup = Path::new(sysroot)
        .parent()
        .is_some_and(|p| p.ends_with("toolchains"));
    if by_rustup {
        dirs.push(format!("{sysroot}/lib"));
    }
    dirs
}

#[cfg(test)]
mod tests;
