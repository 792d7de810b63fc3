//! What the manual says of options and keys is so, and a build without the feature has nothing of it.

use std::path::Path;
use std::process::Command;

use bpm::tui::keys::KEYS;
use bpm::tui::options::OPTIONS;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_manual_has_every_option_and_key() {
    let page = read("man/bpm-tui.1");
    for option in OPTIONS {
        for name in option.names.split(", ") {
            let flag = match name.strip_prefix("--") {
                Some(long) => format!("Fl Fl {long}"),
                None => format!("Fl {}", &name[1..]),
            };
            assert!(page.contains(&flag), "{name}");
        }
        assert!(
            option.value.is_empty() || page.contains(&format!("Ar {}", option.value)),
            "{option:?}"
        );
    }
    let keys = page.split(".Sh KEYS").nth(1).expect("its keys");
    for row in KEYS {
        for key in row.keys.split_whitespace().filter(|k| k.is_ascii()) {
            assert!(keys.contains(key), "{key}");
        }
    }
    assert!(page.contains("BPM_TOKEN_FILE") && page.contains("NO_COLOR"));
}

#[test]
fn the_readme_shows_it() {
    let readme = read("README.md");
    let section = readme.split("## Terminal UI").nth(1).expect("a section");
    assert!(section.contains("bpm tui") && section.contains("┌ Server Status"));
    assert!(section.contains("(contrib/page.png)"));
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/page.png");
    assert!(std::fs::metadata(picture).unwrap().len() < 60_000);
}

#[test]
fn a_build_without_the_feature_has_no_other_crates() {
    let tree = |features: &[&str]| -> Vec<String> {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--prefix",
                "none",
                "-e",
                "normal,build",
            ])
            .args(features)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text
            .lines()
            .map(|l| l.split(' ').next().unwrap_or_default().to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        names
    };
    let (without, with) = (tree(&[]), tree(&["--features", "tui"]));
    assert!(!without.contains(&"unicode-width".to_string()));
    let more: Vec<&String> = with.iter().filter(|name| !without.contains(name)).collect();
    assert_eq!(more, ["unicode-width"]);
    assert!(with.len() <= 90, "{} crates", with.len());
}
