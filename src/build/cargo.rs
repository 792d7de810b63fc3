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

/// What a compiler said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// For people, with its newline.
    pub rendered: String,
    /// It is an error, and this is it.
    pub error: Option<BuildError>,
}

/// What a build script said.
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
            "compiler-message" => Self::Message(message(&value["message"])),
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

fn message(value: &Value) -> Message {
    let words = value["message"].as_str().unwrap_or_default();
    let level = value["level"].as_str().unwrap_or_default();
    // "aborting due to 2 previous errors" counts errors, it is none.
    let is_error = level.starts_with("error") && !words.starts_with("aborting due to");
    Message {
        rendered: text(&value["rendered"]),
        error: is_error.then(|| {
            let span = items(&value["spans"])
                .find(|s| s["is_primary"] == true)
                .map(outermost);
            let first = words.lines().next().unwrap_or_default();
            let first: String = first.chars().take(1_000).collect();
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
mod tests {
    use super::*;

    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../tests/recorded/", $name))
        };
    }

    fn lines(recorded: &str) -> Vec<CargoLine> {
        let parse = |l: &str| CargoLine::parse(l.as_bytes()).expect("one of cargo's");
        recorded.lines().map(parse).collect()
    }

    fn built(recorded: &str) -> Vec<Built> {
        let artifact = |l| match l {
            CargoLine::Artifact(built) => Some(built),
            _ => None,
        };
        lines(recorded).into_iter().filter_map(artifact).collect()
    }

    fn scripts(recorded: &str) -> Vec<Script> {
        let script = |l| match l {
            CargoLine::Script(script) => Some(script),
            _ => None,
        };
        lines(recorded).into_iter().filter_map(script).collect()
    }

    fn wanted(package: Option<&str>, bin: Option<&str>) -> Wanted {
        Wanted {
            package: package.map(Into::into),
            bin: bin.map(Into::into),
        }
    }

    fn chosen(recorded: &str, wanted: &Wanted) -> Result<String, String> {
        choose(&built(recorded), wanted, |_| None).map(|b| b.executable.clone().unwrap())
    }

    #[test]
    fn a_success_names_its_executable_and_warnings_are_no_errors() {
        let recorded = recorded!("success.jsonl");
        assert_eq!(
            chosen(recorded, &Wanted::default()).unwrap(),
            "/home/me/app/target/debug/app"
        );
        let messages: Vec<Message> = lines(recorded)
            .into_iter()
            .filter_map(|l| match l {
                CargoLine::Message(m) => Some(m),
                _ => None,
            })
            .collect();
        assert!(messages[0].rendered.starts_with("warning: unused variable"));
        assert!(messages.iter().all(|m| m.error.is_none()));
        assert_eq!(lines(recorded).last(), Some(&CargoLine::Finished(true)));
    }

    #[test]
    fn errors_have_code_and_place_and_the_count_of_them_is_none() {
        let errors: Vec<BuildError> = lines(recorded!("errors.jsonl"))
            .into_iter()
            .filter_map(|l| match l {
                CargoLine::Message(m) => m.error,
                _ => None,
            })
            .collect();
        let place = |line, column, message: &str| BuildError {
            file: Some("src/main.rs".into()),
            line: Some(line),
            column: Some(column),
            message: message.into(),
        };
        assert_eq!(
            errors,
            [
                place(3, 18, "E0308: mismatched types"),
                place(4, 5, "E0425: cannot find function `missing` in this scope"),
            ]
        );
    }

    #[test]
    fn an_error_inside_a_macro_of_std_is_told_where_it_was_called() {
        let line = br#"{"reason":"compiler-message","message":{"rendered":"x","level":"error: internal compiler error",
            "message":"a\nb","code":null,"spans":[{"is_primary":true,"file_name":"/rustc/abc/library/macros.rs",
            "line_start":9,"column_start":9,"expansion":{"span":{"file_name":"src/a.rs","line_start":2,"column_start":3}}}]}}"#;
        let Some(CargoLine::Message(message)) = CargoLine::parse(line) else {
            panic!("a message");
        };
        let error = message.error.unwrap();
        assert_eq!(
            (
                error.file.as_deref(),
                error.line,
                error.column,
                error.message.as_str()
            ),
            (Some("src/a.rs"), Some(2), Some(3), "a")
        );
    }

    #[test]
    fn what_is_not_cargos_is_told_apart() {
        for line in [
            "",
            "hello",
            "{",
            "[]",
            "{\"reason\":1}",
            "{\"a\":1}",
            "null",
        ] {
            assert_eq!(CargoLine::parse(line.as_bytes()), None, "{line}");
        }
        let other = CargoLine::parse(b"{\"reason\":\"timing-info\"}");
        assert_eq!(other, Some(CargoLine::Other));
        // Every field missing is no panic.
        for reason in [
            "compiler-artifact",
            "compiler-message",
            "build-script-executed",
        ] {
            let line = format!("{{\"reason\":\"{reason}\"}}");
            assert!(CargoLine::parse(line.as_bytes()).is_some());
        }
    }

    #[test]
    fn two_binaries_are_an_error_that_lists_them() {
        let recorded = recorded!("two-bins.jsonl");
        assert_eq!(
            chosen(recorded, &Wanted::default()).unwrap_err(),
            "2 binaries and none is named: app, tool; name one with bin = \"app\""
        );
        assert_eq!(
            chosen(recorded, &wanted(None, Some("tool"))).unwrap(),
            "/home/me/app/target/debug/tool"
        );
        assert_eq!(
            chosen(recorded, &wanted(None, Some("toll"))).unwrap_err(),
            "no binary \"toll\"; cargo built: app, tool"
        );
    }

    #[test]
    fn default_run_decides_between_two() {
        let all = built(recorded!("two-bins.jsonl"));
        let manifest = |path: &str| {
            assert_eq!(path, "/home/me/app/Cargo.toml");
            Some("[package]\nname = \"app\"\ndefault-run = \"tool\"\n".to_string())
        };
        let one = choose(&all, &Wanted::default(), manifest).unwrap();
        assert_eq!(one.name, "tool");
        assert!(choose(&all, &Wanted::default(), |_| Some("not toml".into())).is_err());
    }

    #[test]
    fn workspaces_are_chosen_from_by_package() {
        // A crate "api" in the folder "api-server": its id spells the name out; that of "worker" does not.
        assert_eq!(
            chosen(recorded!("default-members.jsonl"), &Wanted::default()).unwrap(),
            "/home/me/ws/target/debug/api"
        );
        let all = recorded!("workspace.jsonl");
        assert_eq!(
            chosen(all, &Wanted::default()).unwrap_err(),
            "2 binaries and none is named: api, worker; name one with bin = \"api\""
        );
        for package in ["api", "worker"] {
            assert_eq!(
                chosen(all, &wanted(Some(package), None)).unwrap(),
                format!("/home/me/ws/target/debug/{package}")
            );
        }
        assert_eq!(
            chosen(all, &wanted(Some("util"), None)).unwrap_err(),
            "no binary of package \"util\"; cargo built: api, worker"
        );
    }

    #[test]
    fn a_library_alone_is_an_error_that_says_so() {
        let library: Vec<Built> = built(recorded!("workspace.jsonl"))
            .into_iter()
            .filter(|b| b.name == "util")
            .collect();
        assert_eq!(
            choose(&library, &Wanted::default(), |_| None).unwrap_err(),
            "no binary: what cargo built is a library only"
        );
        assert_eq!(
            choose(&[], &Wanted::default(), |_| None).unwrap_err(),
            "no binary: cargo has named nothing that it built"
        );
    }

    #[test]
    fn names_are_read_from_every_form_of_package_id() {
        for (id, name) in [
            ("path+file:///home/me/app#0.1.0", "app"),
            ("path+file:///home/me/api-server#api@0.1.0", "api"),
            ("git+https://host/x/tool?branch=main#1.0.0", "tool"),
            ("app 0.1.0 (path+file:///home/me/app)", "app"),
        ] {
            assert_eq!(package_name(id), name);
        }
    }

    #[test]
    fn argv0_is_what_cargo_run_shows() {
        let cwd = Path::new("/home/me/app");
        assert_eq!(
            argv0("/home/me/app/target/debug/app", cwd),
            "target/debug/app"
        );
        assert_eq!(argv0("/home/me/app/app", cwd), "./app");
        assert_eq!(
            argv0("/home/me/elsewhere/debug/app", cwd),
            "/home/me/elsewhere/debug/app"
        );
    }

    #[test]
    fn the_environment_is_what_cargo_run_gave() {
        // Recorded from `cargo run` of the same crates.
        let sysroot = "/home/me/.rustup/toolchains/stable-x86_64-unknown-linux-gnu";
        for (recorded, target, triple) in [
            (
                recorded!("success.jsonl"),
                "/home/me/app/target/debug",
                None,
            ),
            (
                recorded!("target-dir.jsonl"),
                "/home/me/elsewhere/debug",
                None,
            ),
            (
                recorded!("triple.jsonl"),
                "/home/me/app/target/x86_64-unknown-linux-gnu/debug",
                Some("x86_64-unknown-linux-gnu"),
            ),
        ] {
            let (built, scripts) = (built(recorded), scripts(recorded));
            let one = choose(&built, &Wanted::default(), |_| None).unwrap();
            let libs = sysroot_libs(recorded!("rustc_info.json"), triple);
            let out = &scripts[0].out_dir;
            assert!(out.starts_with(target), "{out}");
            let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
            assert_eq!(
                run_env(one, &scripts, &libs),
                [
                    pair("CARGO_MANIFEST_DIR", "/home/me/app"),
                    pair("CARGO_MANIFEST_PATH", "/home/me/app/Cargo.toml"),
                    pair("OUT_DIR", out),
                    pair("GREETING", "hello"),
                    pair(
                        LIBRARY_PATH,
                        &format!(
                            "{out}:{target}:{target}/deps:{sysroot}/lib/rustlib/x86_64-unknown-linux-gnu/lib:{sysroot}/lib"
                        )
                    ),
                ]
            );
        }
    }

    #[test]
    fn notes_of_rustc_that_cannot_be_read_are_done_without() {
        for notes in [
            "",
            "{}",
            "{\"outputs\":[]}",
            "{\"outputs\":{\"1\":{\"stdout\":\"x\"}}}",
        ] {
            assert!(sysroot_libs(notes, None).is_empty(), "{notes}");
        }
    }
}
