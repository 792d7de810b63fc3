//! What to execute, to build a process and to run it. Says so and does nothing: who spawns is the
//! supervisor, who reads a build's output is `builder`.

use std::path::{Path, PathBuf};

use super::cargo;
use crate::config::{Command, Kind, Mode, Process};

/// Expands `${VAR}` in one element of a list, by the environment that the child will have.
pub type Expand<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// What a build made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Artifact {
    /// The copy to execute; None: the process's own `command`.
    pub exe: Option<PathBuf>,
    /// `argv[0]`, as `cargo run` gives it.
    pub argv0: Option<String>,
    /// Variables that `cargo run` would set; its library path goes before the one that is there.
    pub env: Vec<(String, String)>,
}

/// One error of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    /// As the compiler names it.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<u64>,
    /// From 1.
    pub column: Option<u64>,
    /// First line of the message, with its code: `E0308: mismatched types`.
    pub message: String,
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
    /// What to execute.
    pub exec: Exec,
    /// The binary that cargo's messages must name; None: the build makes what `command` runs.
    pub binary: Option<Wanted>,
    /// Where the process runs: `argv[0]` is relative to it.
    pub cwd: PathBuf,
}

/// Which binary of those that cargo built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `package`.
    pub package: Option<String>,
    /// `bin`.
    pub bin: Option<String>,
}

/// What to run before a start; None: nothing. `cargo_dir` is where cargo finds the manifest
/// ([`cargo_dir`]); it is of no account for other types.
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

/// What to run.
///
/// # Errors
/// A variable without a value; nothing to run.
pub fn run(process: &Process, artifact: &Artifact, expand: Expand<'_>) -> Result<Exec, String> {
    let args = expand_all(&process.args, expand)?;
    let mut words = match (&artifact.exe, &process.command) {
        (Some(exe), _) => vec![utf8(exe)?],
        (None, Some(Command::List(list))) => expand_all(list, expand)?,
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
    words.iter().map(|w| expand(w)).collect()
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
mod tests {
    use super::*;
    use crate::config;

    fn process(text: &str) -> Process {
        let text = format!("[process.app]\n{text}\n");
        let config = config::parse(&text, ".mcp-run", Path::new("/home/me/app"));
        config.unwrap().processes[0].as_ref().clone()
    }

    fn expand(text: &str) -> Result<String, String> {
        config::expand(text, |name| match name {
            "PORT" => Some("8080".into()),
            "LD_LIBRARY_PATH" => Some("/old".into()),
            _ => None,
        })
    }

    fn built(text: &str, mode: Mode) -> Vec<String> {
        let plan = build(&process(text), mode, Path::new("/cargo"), &expand);
        let exec = plan.unwrap().unwrap().exec;
        [vec![exec.program], exec.args].concat()
    }

    #[test]
    fn rust_is_built_by_cargo() {
        let plain = "type = \"rust\"";
        assert_eq!(
            built(plain, Mode::Dev),
            ["cargo", "build", "--message-format=json"]
        );
        assert_eq!(
            built(plain, Mode::Release),
            ["cargo", "build", "--message-format=json", "--release"]
        );
        let all = "type = \"rust\"\npackage = \"p\"\nbin = \"b\"\nfeatures = [\"x\", \"y\"]\n\
                   cargo_args = [\"--profile\", \"dist\"]\ncolor = true";
        assert_eq!(
            built(all, Mode::Release).join(" "),
            "cargo build --message-format=json-diagnostic-rendered-ansi -p p --bin b --features x,y --profile dist"
        );
        let plan = build(&process(all), Mode::Dev, Path::new("/cargo"), &expand);
        let plan = plan.unwrap().unwrap();
        assert_eq!(plan.exec.cwd, Path::new("/cargo"));
        assert_eq!(plan.cwd, Path::new("/home/me/app"));
        let binary = plan.binary.unwrap();
        assert_eq!(
            (binary.package.as_deref(), binary.bin.as_deref()),
            (Some("p"), Some("b"))
        );
    }

    #[test]
    fn a_cargo_build_of_the_persons_own_gets_the_messages() {
        let own = "type = \"rust\"\nbuild = [\"cargo\", \"+nightly\", \"build\", \"-Zx\"]";
        assert_eq!(
            built(own, Mode::Release),
            ["cargo", "+nightly", "build", "--message-format=json", "-Zx"]
        );
        assert!(one_build_for_both(&process(own)));
        let has = "type = \"rust\"\nbuild = [\"/bin/cargo\", \"b\", \"--message-format=json\"]";
        assert_eq!(
            built(has, Mode::Dev),
            ["/bin/cargo", "b", "--message-format=json"]
        );
    }

    #[test]
    fn any_other_build_of_a_rust_process_is_followed_by_cargos() {
        let shell = "type = \"rust\"\nbuild = \"make $X && echo ${Y}\"";
        let words = built(shell, Mode::Release);
        assert_eq!(words[..2], ["sh", "-c"]);
        assert_eq!(
            words[4..],
            [
                "make $X && echo ${Y}",
                "cargo",
                "build",
                "--message-format=json",
                "--release"
            ]
        );
        let list = "type = \"rust\"\nbuild = [\"it's\", \"${PORT}\"]";
        assert_eq!(built(list, Mode::Dev)[4], r"'it'\''s' '8080'");
        assert!(!one_build_for_both(&process(list)));
        let none = process("type = \"rust\"\nbuild = []");
        assert!(build(&none, Mode::Dev, Path::new("/"), &expand).is_err());
    }

    #[test]
    fn both_steps_are_run_and_the_first_failure_ends_it() {
        // As the shell understands it, not as it looks.
        #![allow(clippy::disallowed_methods)]
        let ends = |first: &str| {
            let process = process("type = \"rust\"");
            let mut words = then_cargo(first, &process, Mode::Dev);
            words.truncate(5);
            words.extend(["printf", "<%s>", "a b", "c"].map(str::to_string));
            let output = std::process::Command::new(&words[0])
                .args(&words[1..])
                .output()
                .unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stdout).unwrap(),
            )
        };
        assert_eq!(
            ends("printf '%s,' 'x  y' z"),
            (Some(0), "x  y,z,<a b><c>".into())
        );
        assert_eq!(
            ends(&quoted(&["printf".into(), "it's,".into()])),
            (Some(0), "it's,<a b><c>".into())
        );
        assert_eq!(ends("exit 3"), (Some(3), String::new()));
        assert_eq!(ends("false || exit 4"), (Some(4), String::new()));
    }

    #[test]
    fn other_types_build_what_they_say() {
        let none = process("command = \"x\"");
        assert_eq!(build(&none, Mode::Dev, Path::new("/"), &expand), Ok(None));
        assert!(one_build_for_both(&none));
        let two = "type = \"npm\"\ncommand = [\"npm\", \"start\"]\ncwd = \"web\"\n\
                   build = []\nbuild_release = [\"npm\", \"run\", \"p${PORT}\"]";
        assert_eq!(
            build(&process(two), Mode::Dev, Path::new("/"), &expand),
            Ok(None)
        );
        let plan = build(&process(two), Mode::Release, Path::new("/"), &expand);
        let plan = plan.unwrap().unwrap();
        assert_eq!(plan.exec.args, ["run", "p8080"]);
        assert_eq!(
            (plan.exec.cwd.as_path(), plan.binary),
            (Path::new("/home/me/app/web"), None)
        );
        assert!(!one_build_for_both(&process(two)));
        // cargo by another type is not ours to change.
        let cargo = "command = \"x\"\nbuild = [\"cargo\", \"build\"]";
        assert_eq!(built(cargo, Mode::Dev), ["cargo", "build"]);
        assert!(one_build_for_both(&process(cargo)));
    }

    #[test]
    fn a_variable_without_a_value_is_an_error() {
        let p = process("command = [\"x\"]\nbuild = [\"make\", \"${NOPE}\"]");
        let words = build(&p, Mode::Dev, Path::new("/"), &expand).unwrap_err();
        assert!(words.contains("NOPE"), "{words}");
        let p = process("command = [\"${NOPE:-}\"]");
        let words = run(&p, &Artifact::default(), &expand).unwrap_err();
        assert_eq!(words, "the command is empty");
    }

    #[test]
    fn commands_run_as_given() {
        let runs = |text: &str| {
            let exec = run(&process(text), &Artifact::default(), &expand).unwrap();
            [vec![exec.program], exec.args].concat()
        };
        assert_eq!(
            runs("command = [\"srv\", \"-p\", \"${PORT}\"]\nargs = [\"$$x\"]"),
            ["srv", "-p", "8080", "$x"]
        );
        assert_eq!(
            runs("command = \"exec srv ${PORT}\""),
            ["sh", "-c", "exec srv ${PORT}"]
        );
        assert_eq!(
            runs("command = \"srv $1\"\nargs = [\"a\"]"),
            ["sh", "-c", "srv $1", "sh", "a"]
        );
    }

    #[test]
    fn a_binary_runs_as_by_cargo_run() {
        let p = process("type = \"rust\"\nargs = [\"--port\", \"${PORT}\"]");
        assert!(run(&p, &Artifact::default(), &expand).is_err());
        let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
        let artifact = Artifact {
            exe: Some("/state/bin/1/app".into()),
            argv0: Some("target/debug/app".into()),
            env: vec![pair("A", "1"), pair("LD_LIBRARY_PATH", "/new")],
        };
        let exec = run(&p, &artifact, &expand).unwrap();
        assert_eq!(exec.program, "/state/bin/1/app");
        assert_eq!(exec.argv0.as_deref(), Some("target/debug/app"));
        assert_eq!(exec.args, ["--port", "8080"]);
        assert_eq!(
            exec.env,
            [pair("A", "1"), pair("LD_LIBRARY_PATH", "/new:/old")]
        );
        let bare = |_: &str| Ok(String::new());
        assert_eq!(run(&p, &artifact, &bare).unwrap().env[1].1, "/new");
    }

    #[test]
    fn cargo_runs_where_a_manifest_is() {
        let (cwd, root) = (Path::new("/p/crates/api/data"), Path::new("/p"));
        let at = |manifest: &'static str| cargo_dir(cwd, root, move |p| p == Path::new(manifest));
        assert_eq!(at("/p/crates/api/Cargo.toml"), cwd);
        assert_eq!(at("/p/Cargo.toml"), cwd);
        assert_eq!(at("/elsewhere/Cargo.toml"), root);
    }
}
