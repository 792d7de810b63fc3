use super::*;

#[test]
fn paths_are_from_the_projects_root() {
    let there = ["/p/api/src/a.rs", "/p/shared/src/b.rs", "/p/api/api/x.rs"];
    let places = Places {
        root: Path::new("/p"),
        cwd: Path::new("/p/api"),
        exists: &|path| there.iter().any(|known| Path::new(known) == path),
    };
    for (file, folder, want) in [
        ("src/a.rs", "/p/api", "api/src/a.rs"),
        ("api/src/a.rs", "/p/api", "api/src/a.rs"),
        ("src/b.rs", "/p/shared", "shared/src/b.rs"),
        ("/p/shared/src/b.rs", "/p/api", "shared/src/b.rs"),
        ("api/x.rs", "/p/api", "api/api/x.rs"),
        ("src/gone.rs", "/p/api", "src/gone.rs"),
        ("/rustc/x/lib.rs", "/p/api", "/rustc/x/lib.rs"),
    ] {
        assert_eq!(
            places.relative_to_root(file, Path::new(folder)),
            want,
            "{file}"
        );
    }
    let line = "   --> src/a.rs:3:5";
    assert_eq!(
        places.line_from_root(line, places.cwd),
        "   --> api/src/a.rs:3:5"
    );
    let code = "3 | let x --> src/a.rs:3:5";
    assert_eq!(places.line_from_root(code, places.cwd), code);
}

#[test]
fn the_first_error_is_kept_whole_and_all_are_counted() {
    let places = Places {
        root: Path::new("/p"),
        cwd: Path::new("/p/api"),
        exists: &|_| true,
    };
    let mut found = Diagnostics::default();
    for n in 0..120 {
        let message = Message {
            rendered: format!("error: {n}\n --> src/a.rs:{n}:1\n  |\n\n"),
            manifest: "/p/api/Cargo.toml".into(),
            error: Some(BuildError {
                file: Some("src/a.rs".into()),
                line: Some(n),
                column: Some(1),
                message: n.to_string(),
            }),
        };
        found.message(message, &places);
    }
    found.line(0, "error: of the text");
    let errors = found.take(&places);
    assert_eq!((errors.count, errors.list.len()), (120, ERRORS));
    assert_eq!(errors.list[10].file.as_deref(), Some("api/src/a.rs"));
    assert_eq!(errors.text, ["error: 0", " --> api/src/a.rs:0:1", "  |"]);
}

#[test]
fn the_text_of_other_compilers_is_kept_too() {
    let places = Places {
        root: Path::new("/p"),
        cwd: Path::new("/p"),
        exists: &|_| true,
    };
    let mut found = Diagnostics::default();
    let text = "cc main.c\nmain.c:7:9: error: expected ';'\n    7 | int x\n      |      ^\n\
                make: *** [all] Error 1\nmain.c:9:9: error: more\n";
    text.lines().for_each(|line| found.line(1, line));
    let errors = found.take(&places);
    assert_eq!((errors.count, errors.list.len()), (2, 2));
    assert_eq!(
        errors.text,
        [
            "main.c:7:9: error: expected ';'",
            "    7 | int x",
            "      |      ^"
        ]
    );
}

type Flat = (Option<String>, Option<u64>, Option<u64>, String);

fn errors(text: &str) -> Vec<Flat> {
    let mut errors = TextErrors::default();
    text.lines().for_each(|l| errors.line(l));
    let flat = |e: BuildError| (e.file, e.line, e.column, e.message);
    errors.take().list.into_iter().map(flat).collect()
}

fn at(file: &str, line: u64, column: u64, words: &str) -> Flat {
    (Some(file.into()), Some(line), Some(column), words.into())
}

fn bare(words: &str) -> Flat {
    (None, None, None, words.into())
}

#[test]
fn a_broken_manifest_is_an_error_at_its_place() {
    let text = "error: key with no value, expected `=`\n --> Cargo.toml:7:6\n  |\n7 | blah blah\n";
    assert_eq!(
        errors(text),
        [at("Cargo.toml", 7, 6, "key with no value, expected `=`")]
    );
}

#[test]
fn a_cause_belongs_to_its_error() {
    let text = "error: failed to parse manifest at `/home/me/app/Cargo.toml`\n\nCaused by:\n  no targets specified in the manifest\n  either src/lib.rs, ...\n";
    assert_eq!(
        errors(text),
        [bare(
            "failed to parse manifest at `/home/me/app/Cargo.toml`: no targets specified in the manifest"
        )]
    );
}

#[test]
fn rustc_s_text_is_read_and_its_count_is_left_out() {
    let text = "   Compiling app v0.1.0\nerror[E0308]: mismatched types\n --> src/main.rs:3:18\n  |\nwarning: unused\n --> src/main.rs:2:9\nerror: could not compile `app` (bin \"app\") due to 1 previous error\n";
    assert_eq!(
        errors(text),
        [at("src/main.rs", 3, 18, "E0308: mismatched types")]
    );
    let alone = "error: could not compile `app` (bin \"app\")\n";
    assert_eq!(
        errors(alone),
        [bare("could not compile `app` (bin \"app\")")]
    );
}

#[test]
fn other_compilers_are_read() {
    let text = "src/x.ts(3,5): error TS2322: Type 'string' is not assignable.\n\
                src/y.ts:4:6 - error TS1005: ';' expected.\n\
                main.c:7:9: error: expected ';' before 'return'\n\
                main.c:1:10: fatal error: nope.h: No such file or directory\n\
                main.c:2:1: warning: an error: of none\n";
    assert_eq!(
        errors(text),
        [
            at("src/x.ts", 3, 5, "TS2322: Type 'string' is not assignable."),
            at("src/y.ts", 4, 6, "TS1005: ';' expected."),
            at("main.c", 7, 9, "expected ';' before 'return'"),
            at("main.c", 1, 10, "nope.h: No such file or directory"),
        ]
    );
}

#[test]
fn prose_is_no_error() {
    for line in [
        "errors: none",
        "an error: here",
        "Handling error cases",
        "12:30:00 error happened",
        "error",
        "error[E0308",
        ": error: x",
        "test error::tests::it_works ... ok",
    ] {
        assert_eq!(errors(line), [], "{line}");
    }
}

#[test]
fn the_first_few_are_kept() {
    let text = "error: a\n".repeat(5000);
    assert_eq!(errors(&text).len(), ERRORS);
    // A place after the last does not go to one before.
    let text = "error: a\n".repeat(ERRORS + 1) + " --> src/main.rs:1:1\n";
    assert_eq!(errors(&text)[ERRORS - 1], bare("a"));
}

#[test]
fn phases_are_told_in_words() {
    let lock = "    Blocking waiting for file lock on artifact directory";
    assert_eq!(phase(lock).as_deref(), Some("waiting for cargo's lock"));
    assert_eq!(
        phase("   Compiling foo v0.1.0 (/x)").as_deref(),
        Some("compiling foo")
    );
    for line in [
        "",
        "Compiling",
        "   Compiling ",
        "    Finished `dev` profile",
        "Blocking x",
    ] {
        assert_eq!(phase(line), None, "{line}");
    }
}

fn headline(text: &str) -> String {
    let mut all = Diagnostics::default();
    text.lines().for_each(|line| all.line(1, line));
    let places = Places {
        root: Path::new("/p"),
        cwd: Path::new("/p"),
        exists: &|_| false,
    };
    all.take(&places).list.remove(0).message
}

#[test]
fn panic_of_a_build_script_is_in_the_headline() {
    let said = "error: failed to run custom build command for `lk v0.1.0 (/p)`\nnote: To improve backtraces, do that.\n\n\
                Caused by:\n  process didn't exit successfully: `/p/build-script-build` (exit status: 101)\n  --- stdout\n  hi\n\n  \
                --- stderr\n\n  thread 'main' (10844) panicked at build.rs:1:57:\n  no such thing\n  second\n  stack backtrace:\n     0: x\n  \
                note: Some details are omitted\nwarning: build failed\n";
    let start = "failed to run custom build command for `lk v0.1.0 (/p)`: process didn't exit successfully: `/p/build-script-build`";
    assert_eq!(
        headline(said),
        format!("{start} (exit status: 101): panicked at build.rs:1:57: no such thing")
    );
    let said = "error: failed to run custom build command for `lk v0.1.0 (/p)`\n\nCaused by:\n  process didn't exit successfully: \
                `/p/build-script-build` (exit status: 2)\n  --- stderr\n  first\n  error: pkg missing\n";
    assert_eq!(
        headline(said),
        format!("{start} (exit status: 2): error: pkg missing")
    );
}

#[test]
fn last_cause_is_in_the_headline() {
    let said = "error: failed to get `foo` as a dependency of package `lk`\n\nCaused by:\n  failed to load source for dependency `foo`\n\n\
                Caused by:\n  unable to update /p/nowhere\n\nCaused by:\n  No such file or directory (os error 2)\n";
    assert_eq!(
        headline(said),
        "failed to get `foo` as a dependency of package `lk`: failed to load source for dependency `foo`: No such file or directory (os error 2)"
    );
}
