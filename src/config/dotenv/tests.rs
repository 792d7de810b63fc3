use super::*;
use crate::base::clock::Mono;

fn dotenv(text: &str) -> Result<Vec<(String, String)>, String> {
    let file = parse_dotenv(text, ".env").map_err(|f| f.to_string())?;
    Ok(file
        .variables
        .into_iter()
        .map(|v| (v.name, v.value))
        .collect())
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
        ("E", "as $$is \\n # \""),
        ("F", "a\n\t\r\\\"$$\\x"),
        ("G", "over\ntwo"),
        ("H", "and\nthree"),
        ("export", "4"),
        ("I", "=#"),
        ("J", "#c"),
        ("K", "${A}"),
    ];
    let expected = expected.map(|(n, v)| (n.to_string(), v.to_string()));
    assert_eq!(dotenv(text).unwrap(), expected);
    assert_eq!(dotenv("").unwrap(), []);
}

#[test]
fn a_broken_dotenv_file_is_told_without_its_values() {
    for (text, expected) in [
        ("A=1\n  secret word\n", ".env:2:3: expected NAME=value"),
        ("A:1\n", ".env:1:1: expected NAME=value"),
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

#[test]
fn lines_of_other_readers_are_read_with_a_remark() {
    let text = "A: 1\n; a note\nexport B\nC # why\nD:\n E=  # nothing\nF=#f\n";
    let file = parse_dotenv(text, ".env").unwrap();
    let pairs = file
        .variables
        .iter()
        .map(|v| (v.name.as_str(), v.value.as_str()));
    let pairs: Vec<_> = pairs.collect();
    assert_eq!(pairs, [("A", "1"), ("D", ""), ("E", ""), ("F", "#f")]);
    let notes: Vec<String> = file.notes.iter().map(Fault::to_string).collect();
    assert_eq!(
        notes,
        [
            ".env:1:1: \":\" is read as \"=\"",
            ".env:2:1: a comment begins with \"#\" everywhere",
            ".env:3:1: a name without a value: that variable stays as it is",
            ".env:4:1: a name without a value: that variable stays as it is",
            ".env:5:1: \":\" is read as \"=\""
        ]
    );
}

#[test]
fn a_dotenv_file_of_any_form_is_read_in_time() {
    for part in [
        "${A:-",
        "${",
        "$",
        "\"${A:-}",
        "A=${A:-${B:-}\n",
        "A=\n",
        "${A:-x}",
        "'",
    ] {
        let text = format!("A={}", part.repeat(300_000 / part.len()));
        let began = Mono::now();
        if let Ok(file) = parse_dotenv(&text, ".env") {
            for variable in &file.variables {
                let value = crate::config::expand(&variable.value, |_| Some(String::new()));
                let why = value.err().unwrap_or_default();
                assert!(why.is_empty() || why.contains("128 KiB"), "{part}: {why}");
            }
        }
        assert!(Mono::now().since(began).as_secs() < 20, "{part}");
    }
}
