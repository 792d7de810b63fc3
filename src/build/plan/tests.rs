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
