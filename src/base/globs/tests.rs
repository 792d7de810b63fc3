use super::*;

fn glob(pattern: &str) -> Glob {
    Glob::new(pattern).unwrap()
}

#[test]
fn patterns_match_paths() {
    for (pattern, yes, no) in [
        ("src", "src src/a src/a/b.rs", "asrc src2 a/src"),
        ("a/b.txt", "a/b.txt a/b.txt/c", "a/bxtxt a b.txt"),
        ("*.rs", "a.rs .rs", "a/b.rs a.rsx a.rs/b"),
        ("src/*", "src/a src/.a", "src src/a/b a/src"),
        ("src/**", "src/a src/a/b", "src a/src/b"),
        ("**", "a a/b/c", ""),
        ("**/*.rs", "a.rs a/b.rs a/b/c.rs", "a.r"),
        ("src/**/x", "src/x src/a/x src/a/b/x src/x/y", "src/ax x"),
        ("**/a/**/b", "a/b x/a/y/b a/a/b/b a/b/c", "b/a a b"),
        ("**/a*/*b", "ab/ab x/y/a/b", "a/b/c b/b a"),
        ("?é*", "aé éébc", "é a/é"),
        ("*.{rs,to?l}", "a.rs a.toml", "a.tol a.rs,toml"),
        ("[a-c]x", "ax cx", "dx -x"),
        ("[!a-c]x", "dx", "ax /x"),
        ("[^]a]", "b", "] a"),
        ("[]a]", "] a", "b"),
        ("[-a][a-]", "-- a-", "b-"),
        ("a+(b).$|^\\d", "a+(b).$|^\\d", "aab1"),
        ("a+(b).$|^\\d?", "a+(b).$|^\\dx", "aab1"),
        ("{,a}b", "b ab", "aab"),
    ] {
        let glob = glob(pattern);
        for path in yes.split_whitespace() {
            assert!(glob.matches(Path::new(path)), "{pattern} {path} {glob:?}");
        }
        for path in no.split_whitespace() {
            assert!(!glob.matches(Path::new(path)), "{pattern} {path} {glob:?}");
        }
    }
    assert!(glob("a*b").matches(Path::new("a \n b")));
}

#[test]
fn names_that_are_no_text_match_too() {
    use std::ffi::OsStr;
    let path = Path::new(OsStr::from_bytes(b"src/\xff.rs"));
    for pattern in ["src", "**", "src/*", "src/?.rs", "**/*.rs"] {
        assert!(glob(pattern).matches(path), "{pattern}");
    }
    assert!(!glob("src/.rs").matches(path));
}

#[test]
fn nonsense_is_refused() {
    for (pattern, why) in [
        ("", "empty part"),
        ("/a", "absolute"),
        ("a//b", "empty part"),
        ("a/", "folder/**"),
        ("../a", "\"..\""),
        ("./a", "\".\""),
        ("a**", "stands alone"),
        ("[a", "without its \"]\""),
        ("[]", "without its \"]\""),
        ("[a/b]", "in the same name"),
        ("{a", "without its \"}\""),
        ("a}", "without its \"{\""),
        ("{a{b}}", "within"),
        ("[z-a]", "does not compile"),
        (&"a/".repeat(5_000), "more than 2048 names"),
    ] {
        let said = Glob::new(pattern).expect_err(pattern);
        assert!(said.contains(why), "{pattern}: {said}");
    }
    assert!(Glob::new(&"[!a]".repeat(20_000)).is_err());
}

#[test]
fn folders_on_the_way_are_reached() {
    for (pattern, yes, no) in [
        ("src", "src src/a src/a/b", "a srcs a/src"),
        ("Cargo.toml", "", "src"),
        ("src/*.rs", "src", "src/a a"),
        ("src/*/x", "src src/a src/a/x", "src/a/b"),
        ("**/*.rs", "a a/b/c", ""),
        ("a/**/b", "a a/x/y", "b"),
        ("{a,b}/c/**", "a b a/c b/c/d", "c a/d"),
    ] {
        let glob = glob(pattern);
        assert!(glob.reaches(Path::new("")), "{pattern}");
        for folder in yes.split_whitespace() {
            assert!(glob.reaches(Path::new(folder)), "{pattern} {folder}");
        }
        for folder in no.split_whitespace() {
            // A plain name may be that of a folder, whose contents are meant then.
            let may_be = folder == pattern;
            assert!(
                may_be || !glob.reaches(Path::new(folder)),
                "{pattern} {folder}"
            );
        }
    }
    assert!(glob("Cargo.toml").reaches(Path::new("Cargo.toml")));
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % sides
    }

    fn path(&mut self, names: &[&str]) -> String {
        let length = 1 + self.roll(6);
        let names: Vec<_> = (0..length).map(|_| names[self.roll(names.len())]).collect();
        names.join("/")
    }
}

/// The meaning of a pattern, in the shortest form.
fn means(parts: &[Part], names: &[&str]) -> bool {
    match (parts, names) {
        ([], names) => names.is_empty(),
        ([Part::Deep, rest @ ..], names) => (0..=names.len()).any(|n| means(rest, &names[n..])),
        ([_, ..], []) => false,
        ([one, rest @ ..], [name, names @ ..]) => one.fits(name.as_bytes()) && means(rest, names),
    }
}

#[test]
fn random_patterns_mean_what_they_say_and_reach_what_they_match() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut matched = 0;
    for _ in 0..20_000 {
        let glob = glob(&dice.path(&["a", "b", "*", "**", "**", "?", "{a,c}", "[!a]"]));
        let path = dice.path(&["a", "b", "c", "ab"]);
        let names: Vec<&str> = path.split('/').collect();
        let path = Path::new(&path);
        assert_eq!(
            glob.matches(path),
            means(&glob.parts, &names),
            "{glob:?} {path:?}"
        );
        if glob.matches(path) {
            matched += 1;
            for above in path.ancestors().skip(1) {
                assert!(glob.reaches(above), "{glob:?} {path:?} {above:?}");
            }
        }
    }
    assert!(matched > 1_000);
}

#[test]
fn no_pattern_takes_long() {
    let glob = glob(&format!("{}b", "**/a/".repeat(600)));
    let path = "a/".repeat(2_000);
    assert!(!glob.matches(Path::new(&path)));
}

#[test]
fn what_is_made_never_counts() {
    let root = Path::new("/home/me/app");
    let ignores = Ignores::new(
        root,
        &[
            root.join("build/cargo"),
            root.to_path_buf(),
            "/elsewhere".into(),
        ],
    );
    for path in "target target/debug/app crates/a/target/x .git .git/HEAD web/node_modules/a/b.js \
             build/cargo build/cargo/x .mcp-run src/main.rs~ src/.main.rs.swp .x.swo src/.#main.rs \
             src/#main.rs# src/4913 .main.rs.kate-swp .~lock.a.odt#"
        .split_whitespace()
    {
        assert!(ignores.covers(Path::new(path)), "{path}");
    }
    for path in "a src/main.rs targets src/target.rs .gitignore .github/x build build/cargo2 \
             elsewhere web/.mcp-run .env a.swp #a # .swp.rs 49130"
        .split_whitespace()
    {
        assert!(!ignores.covers(Path::new(path)), "{path}");
    }
}

#[test]
fn a_pattern_that_can_never_count_is_seen() {
    assert_eq!(
        glob("web/node_modules/**").ignored_name(),
        Some("node_modules")
    );
    assert_eq!(glob("target").ignored_name(), Some("target"));
    assert_eq!(glob("**/*.rs").ignored_name(), None);
}
