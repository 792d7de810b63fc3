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

fn dotenv(text: &str) -> Result<Vec<(String, String)>, String> {
    parse_dotenv(text, ".env").map_err(|f| f.to_string())
}

#[test]
fn a_dotenv_file_is_read() {
    let text = "\u{feff}# comment\r\n\r\nA=1\r\n  B = two words  # comment\nexport C=a#b\nexport\t D.x-y=\n\
            E='as $is \\n # \"' # comment\nF=\"a\\n\\t\\r\\\\\\\"\\$\\x\"\nG=\"over\ntwo\"\nH='and\nthree'\nexport=4\nI==#\nJ=#c\nK=${A}";
    let expected = [
        ("A", "1"),
        ("B", "two words"),
        ("C", "a#b"),
        ("D.x-y", ""),
        ("E", "as $is \\n # \""),
        ("F", "a\n\t\r\\\"$\\x"),
        ("G", "over\ntwo"),
        ("H", "and\nthree"),
        ("export", "4"),
        ("I", "=#"),
        ("J", ""),
        ("K", "${A}"),
    ];
    let expected = expected.map(|(n, v)| (n.to_string(), v.to_string()));
    assert_eq!(dotenv(text).unwrap(), expected);
    assert_eq!(dotenv("").unwrap(), []);
}

#[test]
fn a_broken_dotenv_file_is_told_without_its_values() {
    for (text, expected) in [
        ("A=1\n  secret\n", ".env:2:3: expected NAME=value"),
        ("é=secret", ".env:1:1: expected NAME=value"),
        ("A B=secret", ".env:1:1: expected NAME=value"),
        ("=secret", ".env:1:1: a variable without a name"),
        ("A=1\nB = 'secret", ".env:2:5: the quote of B is not closed"),
        ("A=\"secret\\\"", ".env:1:3: the quote of A is not closed"),
        ("A=\"secret\\", ".env:1:3: the quote of A is not closed"),
        (
            "A='x'secret",
            ".env:1:6: something follows the closing quote of A",
        ),
        (
            "A=\"x\" secret",
            ".env:1:6: something follows the closing quote of A",
        ),
        (
            "A=sec\0ret",
            ".env:1:1: the value of A has a NUL character in it",
        ),
    ] {
        assert_eq!(dotenv(text).expect_err(text), expected);
    }
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
    let base = [("HOME", "/me"), ("PORT", "1"), ("A", "base")];
    let base = base.map(|(n, v)| (n.into(), v.into()));
    let files: Vec<_> = files.iter().map(|f| dotenv(f).unwrap()).collect();
    let all = environment(process, base, &files, port)?;
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
        ["A=two", "B=${A}", "HOME=/me", "PORT=1"]
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
