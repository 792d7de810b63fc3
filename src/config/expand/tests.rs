use super::*;

fn lookup(name: &str) -> Option<String> {
    match name {
        "A" => Some("1".into()),
        "B_2" => Some("${A}".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

#[test]
fn variables_are_replaced_once() {
    for (text, expanded) in [
        ("", ""),
        ("plain é", "plain é"),
        ("${A}", "1"),
        ("x${A}y${B_2}z", "x1y${A}z"),
        ("${EMPTY}|", "|"),
        ("${EMPTY:-e}${NONE:-n}${A:-a}", "en1"),
        ("${NONE:-}", ""),
        ("${NONE:-${A}${OTHER:-}}!", "1!"),
        ("${A:-${NONE}}", "1"),
        ("${NONE:-$$}}", "$}"),
        ("$$A $$${A} $$$$", "$A $1 $$"),
        ("$A $ $5 $", "$A $ $5 $"),
        ("}{", "}{"),
    ] {
        assert_eq!(expand(text, lookup).as_deref(), Ok(expanded), "{text}");
    }
}

#[test]
fn what_can_not_be_replaced_is_named() {
    for (text, words) in [
        ("${NONE}", "variable NONE is not set"),
        ("${NONE:-${OTHER}}", "variable OTHER is not set"),
        ("a${", "without its \"}\""),
        ("${A", "without its \"}\""),
        ("${A:-b", "without its \"}\""),
        ("${A:-${A}", "without its \"}\""),
        ("${}", "without a variable's name"),
        ("${1}", "without a variable's name"),
        ("${A-b}", "\"${A\" goes on with neither"),
        ("${A b}", "goes on with neither"),
        ("${é}", "without a variable's name"),
    ] {
        let why = expand(text, lookup).expect_err(text);
        assert!(why.contains(words), "{text}: {why}");
    }
    let deep = "${NONE:-".repeat(17) + &"}".repeat(17);
    assert!(expand(&deep, lookup).is_err());
    let less = "${NONE:-".repeat(16) + "x" + &"}".repeat(16);
    assert_eq!(expand(&less, lookup).as_deref(), Ok("x"));
}

fn process(text: &str) -> Process {
    let text = format!("[process.web]\ncommand = \"x\"\n{text}");
    let root = std::path::Path::new("/app");
    crate::config::parse(&text, "f", root)
        .unwrap()
        .processes
        .remove(0)
        .as_ref()
        .clone()
}

fn made(process: &Process, files: &[&str], port: Option<u16>) -> Result<Vec<String>, String> {
    with_notes(process, files, port, &mut EnvNotes::default())
}

fn with_notes(
    process: &Process,
    files: &[&str],
    port: Option<u16>,
    notes: &mut EnvNotes,
) -> Result<Vec<String>, String> {
    let base = [("HOME", "/me"), ("PORT", "1"), ("A", "base")];
    let mut base = base.into_iter().map(|(n, v)| (n.into(), v.into()));
    let files = files
        .iter()
        .map(|text| crate::config::parse_dotenv(text, ".env").unwrap());
    let files: Vec<Dotenv> = files.collect();
    let all = environment(process, &mut base, &files, port, notes)?;
    let pair = |(n, v): (OsString, OsString)| format!("{}={}", n.display(), v.display());
    Ok(all.into_iter().map(pair).collect())
}

#[test]
fn the_environment_is_composed_in_its_order() {
    let plain = process("");
    assert_eq!(
        made(&plain, &[], None).unwrap(),
        ["A=base", "HOME=/me", "PORT=1"]
    );
    assert_eq!(
        made(&plain, &["A=one\nB=${A}", "A=two"], None).unwrap(),
        ["A=two", "B=one", "HOME=/me", "PORT=1"]
    );
    let full = process(
        "port = \"auto\"\ncolor = true\n[process.web.env]\nURL = \"http://${HOST:-localhost}:${PORT}\"\n\
             A = \"${A}+\"\nB = \"${A}${FILE}\"\nPORT = \"9\"\nFORCE_COLOR = \"3\"\n",
    );
    assert_eq!(
        made(&full, &["FILE=f\nPORT=7"], Some(5000)).unwrap(),
        [
            "A=base+",
            "B=base+f",
            "CLICOLOR_FORCE=1",
            "FILE=f",
            "FORCE_COLOR=3",
            "HOME=/me",
            "PORT=5000",
            "URL=http://localhost:5000"
        ]
    );
    let fixed = process("port = 8080");
    assert!(
        made(&fixed, &[], None)
            .unwrap()
            .contains(&"PORT=8080".into())
    );
}

#[test]
fn an_unset_variable_is_an_error_with_its_place() {
    let wrong = process("env.B = \"${C}\"\n");
    assert_eq!(
        made(&wrong, &[], None),
        Err("\"env.B\": variable C is not set".into())
    );
}

#[test]
fn env_files_are_expanded_by_all_before_them() {
    let mut notes = EnvNotes::default();
    let process = process("env.Z = \"${URL}!\"");
    let files = [
        "URL=x://${A}@${HOST:-h}\nE=\"${HOME}\\${HOME}$HOME\"\nS='${A}'\nP=pa$$w$o${rd$HOME",
        "A=\"<${URL}>\"\nN=${NONE}\nF=${NONE:-${OTHER}${A}$A}",
    ];
    let all = with_notes(&process, &files, None, &mut notes).unwrap();
    for expected in [
        "A=<x://base@h>",
        "E=/me${HOME}$HOME",
        "F=<x://base@h>$A",
        "N=",
        "P=pa$$w$o${rd$HOME",
        "S=${A}",
        "URL=x://base@h",
        "Z=x://base@h!",
    ] {
        assert!(all.contains(&expected.into()), "{expected} in {all:?}");
    }
    let lines = |notes: &[Fault]| notes.iter().map(Fault::to_string).collect::<Vec<_>>();
    assert_eq!(
        lines(&notes.unset),
        [
            ".env:2:1: N: ${NONE} is not set, and replaced by nothing",
            ".env:3:1: F: ${OTHER} is not set, and replaced by nothing"
        ]
    );
    assert_eq!(
        lines(&notes.bare),
        [
            ".env:2:1: E: $HOME stays as it is; ${HOME} would be replaced",
            ".env:4:1: P: $HOME stays as it is; ${HOME} would be replaced",
            ".env:3:1: F: $A stays as it is; ${A} would be replaced"
        ]
    );
}

#[test]
fn growth_is_stopped_before_it_takes_memory() {
    let mut file = String::from("A0=xxxxxxxxxx\n");
    for i in 1..40 {
        file += &format!("A{i}=${{A{}}}${{A{}}}\n", i - 1, i - 1);
    }
    let mut notes = EnvNotes::default();
    let why = with_notes(&process(""), &[&file], None, &mut notes).unwrap_err();
    assert_eq!(
        why,
        ".env:15:1: A14: longer than 128 KiB, the most that a program can be given"
    );
    assert_eq!(notes.too_long.len(), 1);
    // Many that are long, none of them too long.
    let long = "x".repeat(100_000);
    let mut file = format!("B={long}\n");
    for i in 0..100 {
        file += &format!("C{i}=${{B}}\n");
    }
    let why = made(&process(""), &[&file], None).unwrap_err();
    assert_eq!(
        why,
        ".env:63:1: C61: the environment is larger than any program can be given"
    );
}

#[test]
fn length_is_that_of_the_text() {
    for text in [
        "",
        "a${A}${NONE:-${B_2}}$$",
        "${A:-${NONE}}x",
        "${EMPTY:-abc}$",
    ] {
        let length = expanded_length(text, |name| lookup(name).map(|value| value.len()));
        assert_eq!(length, Ok(expand(text, lookup).unwrap().len()), "{text}");
    }
}

#[test]
fn ports_of_processes_have_no_fallback() {
    for text in ["${api.port:-80}", "${api.port", "${a b.port}"] {
        assert!(expand(text, lookup).is_err(), "{text}");
    }
}
