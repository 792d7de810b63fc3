use super::*;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../../tests/recorded/", $name))
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

#[test]
fn linkers_and_macros_say_why() {
    let headline = |words: &str, notes: &[&str]| {
        let notes: Vec<Value> = notes
            .iter()
            .map(|note| serde_json::json!({"message": note, "level": "note"}))
            .collect();
        let line =
            serde_json::json!({"message": {"message": words, "level": "error", "children": notes}});
        message(&line).error.unwrap().message
    };
    let cc = " \"cc\" \"-o\" \"error: x\"";
    for (note, said) in [
        (
            "rust-lld: error: undefined symbol: nosuchsym\n>>> referenced by main.rs:2\ncollect2: error: ld returned 1 exit status\n",
            "undefined symbol: nosuchsym",
        ),
        (
            "/usr/bin/ld: /p/a.o: in function `main':\nmain.rs:2: undefined reference to `nosuchsym'\n",
            "undefined reference to `nosuchsym'",
        ),
        (
            "/usr/bin/ld: cannot find -lnosuchlib: No such file or directory\n",
            "cannot find -lnosuchlib: No such file or directory",
        ),
    ] {
        assert_eq!(
            headline(
                "linking with `cc` failed: exit status: 1",
                &[cc, "some arguments are omitted", note]
            ),
            format!("linking with `cc` failed: exit status: 1: {said}")
        );
    }
    assert_eq!(
        headline("proc-macro derive panicked", &["message: no field\nsecond"]),
        "proc-macro derive panicked: no field"
    );
    assert_eq!(
        headline("mismatched types", &["message: x"]),
        "mismatched types"
    );
    assert_eq!(
        headline("linking with `cc` failed", &[]),
        "linking with `cc` failed"
    );
}
