//! Pure: no system call, no thread, no clock.
//!
//! The commands that build a process and run it. Plans are only made here: the supervisor spawns, and
//! `runner` reads a build's output.

use std::path::{Path, PathBuf};

use super::cargo;
use crate::config::shell::is_simple;
use crate::config::{self, Command, Expand, Kind, Mode, Process};

/// The result of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Artifact {
    /// The copy to execute; None: the process's own `command`.
    pub exe: Option<PathBuf>,
    /// `argv[0]`, as `cargo run` gives it.
    pub argv0: Option<String>,
    /// Variables that `cargo run` would set; its library path goes before the one that is there.
    pub env: Vec<(String, String)>,
}

/// One program to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// A path, or a name to look for on `PATH`.
    pub program: String,
    /// `argv[0]`, where it is not `program`.
    pub argv0: Option<String>,
    /// The arguments after `argv[0]`.
    pub args: Vec<String>,
    /// Set over the child's environment, in order.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub cwd: PathBuf,
}

/// A build: one leader to execute, and what to make of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPlan {
    pub exec: Exec,
    /// The binary that cargo's messages must name; None: the build makes what `command` runs.
    pub binary: Option<Wanted>,
    /// Where the process runs: `argv[0]` is relative to it.
    pub cwd: PathBuf,
}

/// The binary that is wanted of those that cargo built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `package`.
    pub package: Option<String>,
    /// `bin`.
    pub bin: Option<String>,
}

/// The build before a start; None: there is none. `cargo_dir` is where cargo finds the manifest
/// ([`cargo_dir`]); other types do not use it.
///
/// A rust process whose own `build` is a `cargo build` in list form runs that, with
/// `--message-format` added. Any other `build` of its own is run first, and cargo's build after it,
/// which then has little left to do but to name the binary.
///
/// # Errors
/// A variable without a value; a list whose program is empty; a rust process with `build = []`.
pub fn build(
    process: &Process,
    mode: Mode,
    cargo_dir: &Path,
    expand: Expand<'_>,
) -> Result<Option<BuildPlan>, String> {
    let own = match mode {
        Mode::Dev => process.build.as_ref(),
        Mode::Release => process.build_release.as_ref().or(process.build.as_ref()),
    };
    let rust = process.kind == Kind::Rust;
    let words = match own {
        None if rust => cargo_build(process, mode),
        None => return Ok(None),
        Some(Command::List(list)) if list.is_empty() => match rust {
            true => return Err(
                "build = [] leaves nothing to run: remove it, or name a type that has a command"
                    .into(),
            ),
            false => return Ok(None),
        },
        Some(Command::List(list)) => {
            let list = expand_all(list, expand)?;
            match with_messages(&list, process.color) {
                Some(cargo) if rust => cargo,
                None if rust => then_cargo(&quoted(&list), process, mode),
                _ => list,
            }
        }
        Some(Command::Shell(line)) if rust => then_cargo(line, process, mode),
        Some(Command::Shell(line)) => shell(line),
    };
    let cwd = if rust { cargo_dir } else { &process.cwd };
    Ok(Some(BuildPlan {
        exec: exec(words, cwd)?,
        binary: rust.then(|| Wanted {
            package: process.package.clone(),
            bin: process.bin.clone(),
        }),
        cwd: process.cwd.clone(),
    }))
}

/// A release build would make nothing else than a dev build: only the mode changes.
pub fn one_build_for_both(process: &Process) -> bool {
    let same = process.build_release.is_none() || process.build_release == process.build;
    let cargo_decides = process.kind == Kind::Rust
        && match &process.build {
            Some(Command::List(list)) => with_messages(list, false).is_none(),
            Some(Command::Shell(_)) | None => true,
        };
    same && !cargo_decides
}

/// Where cargo is run: in the process's `cwd` if a manifest is there or above, else in the root (a
/// `cwd` that is only a folder of data must not hide the project).
pub fn cargo_dir<'a>(cwd: &'a Path, root: &'a Path, exists: impl Fn(&Path) -> bool) -> &'a Path {
    match cwd.ancestors().any(|dir| exists(&dir.join("Cargo.toml"))) {
        true => cwd,
        false => root,
    }
}

/// The command of a run.
///
/// # Errors
/// A variable without a value; nothing to run.
pub fn run(process: &Process, artifact: &Artifact, expand: Expand<'_>) -> Result<Exec, String> {
    let args = expand_all(&process.args, expand)?;
    let mut words = match (&artifact.exe, &process.command) {
        (Some(exe), _) => vec![utf8(exe)?],
        (None, Some(Command::List(list))) => expand_all(list, expand)?,
        // The program has the pid then, and with it the signals and LISTEN_PID: dash keeps a shell beside it.
        (None, Some(Command::Shell(line))) if args.is_empty() && is_simple(line) => {
            shell(&format!("exec {line}"))
        }
        (None, Some(Command::Shell(line))) if args.is_empty() => shell(line),
        // `args` are $1 and on.
        (None, Some(Command::Shell(line))) => [shell(line), vec!["sh".into()]].concat(),
        (None, None) => return Err("it has not been built".into()),
    };
    words.extend(args);
    let mut exec = exec(words, &process.cwd)?;
    exec.argv0.clone_from(&artifact.argv0);
    exec.env.clone_from(&artifact.env);
    for (_, value) in exec
        .env
        .iter_mut()
        .filter(|(n, _)| n == cargo::LIBRARY_PATH)
    {
        let old = expand("${LD_LIBRARY_PATH:-}")?;
        if !old.is_empty() {
            *value = format!("{value}:{old}");
        }
    }
    Ok(exec)
}

/// A command that is neither a build nor a process.
///
/// # Errors
/// There is no program in it.
pub fn command(command: &Command, cwd: &Path) -> Result<Exec, String> {
    let words = match command {
        Command::List(list) => list.clone(),
        Command::Shell(line) => shell(line),
    };
    exec(words, cwd)
}

/// `cargo build` for this process.
fn cargo_build(process: &Process, mode: Mode) -> Vec<String> {
    let mut words = vec!["cargo".to_string(), "build".into(), messages(process.color)];
    let profiled = process.cargo_args.iter().any(|a| {
        matches!(a.as_str(), "--profile" | "--release" | "-r") || a.starts_with("--profile=")
    });
    if mode == Mode::Release && !profiled {
        words.push("--release".into());
    }
    for (flag, value) in [("-p", &process.package), ("--bin", &process.bin)] {
        words.extend(value.iter().flat_map(|v| [flag.to_string(), v.clone()]));
    }
    if !process.features.is_empty() {
        words.extend(["--features".into(), process.features.join(",")]);
    }
    words.extend(process.cargo_args.iter().cloned());
    words
}

fn expand_all(words: &[String], expand: Expand<'_>) -> Result<Vec<String>, String> {
    let mut expanded = Vec::with_capacity(words.len());
    let mut size = 0;
    for word in words {
        let word = expand(word)?;
        size += word.len();
        if size > config::LARGEST {
            return Err("the arguments are longer than any program can be given".into());
        }
        expanded.push(word);
    }
    Ok(expanded)
}

fn messages(color: bool) -> String {
    match color {
        true => "--message-format=json-diagnostic-rendered-ansi".into(),
        false => "--message-format=json".into(),
    }
}

/// A list that is a plain `cargo build`, with the messages that name the binary.
fn with_messages(list: &[String], color: bool) -> Option<Vec<String>> {
    let program = Path::new(list.first()?).file_name()?;
    let at = 1 + list[1..].iter().position(|a| !a.starts_with('+'))?;
    if program != "cargo" || !matches!(list[at].as_str(), "build" | "b" | "rustc") {
        return None;
    }
    let mut words = list.to_vec();
    if !list.iter().any(|a| a.starts_with("--message-format")) {
        words.insert(at + 1, messages(color));
    }
    Some(words)
}

/// A line of the person's own, and cargo's build after it: one leader, one group, one time limit.
fn then_cargo(line: &str, process: &Process, mode: Mode) -> Vec<String> {
    let mut words = shell("sh -c \"$1\" || exit; shift; exec \"$@\"");
    words.extend(["sh".into(), line.into()]);
    words.extend(cargo_build(process, mode));
    words
}

fn shell(line: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), line.into()]
}

/// One line for a shell that gives these words again.
fn quoted(words: &[String]) -> String {
    let quote = |w: &String| format!("'{}'", w.replace('\'', r"'\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn exec(mut words: Vec<String>, cwd: &Path) -> Result<Exec, String> {
    if words.first().is_none_or(String::is_empty) {
        return Err("the command is empty".into());
    }
    Ok(Exec {
        program: words.remove(0),
        argv0: None,
        args: words,
        env: Vec::new(),
        cwd: cwd.to_path_buf(),
    })
}

fn utf8(path: &Path) -> Result<String, String> {
    let text = path.to_str().map(str::to_string);
    text.ok_or_else(|| format!("its path is not UTF-8: {path:?}"))
}

#[cfg(test)]
mod tests;
