//! Files that anybody may have written: dotenv files, what they and the configuration expand to, the state file, and
//! what is exported of a configuration. No panic, no text without a bound, nothing that reads back as something else.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bpm::config::{self, EnvNotes, LARGEST, Process};
use bpm::engine::state_file::State;

use crate::common::Project;
use crate::mutate::{Dice, corpus, cpu_time, mutations};

const ROOT: &str = "/home/me/app";

fn base() -> Vec<(OsString, OsString)> {
    [("HOME", "/me"), ("A", "${B}"), ("B", "b")]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec()
}

fn bare() -> Process {
    let text = "[process.a]\ncommand = \"x\"\n";
    let config = config::parse(text, ".mcp-run", Path::new(ROOT)).unwrap();
    config.processes[0].as_ref().clone()
}

#[test]
fn a_dotenv_file_is_expanded_or_refused_at_its_place() {
    let corpus = corpus("dotenv");
    let pieces: [&[u8]; 14] = [
        b"${", b"}", b"${A:-", b"$", b"\\", b"'", b"\"", b"#", b" ", b"\n", b"=", b"\0", b";", b"A",
    ];
    let process = bare();
    let (mut taken, mut refused) = (0, 0);
    mutations(&corpus, &pieces, |text, _| {
        let text = String::from_utf8_lossy(text);
        let (read, spent) = cpu_time(|| config::parse_dotenv(&text, ".env"));
        assert!(spent < Duration::from_secs(1), "it took {spent:?}");
        let file = match read {
            Ok(file) => file,
            Err(fault) => {
                refused += 1;
                let lines = text
                    .strip_prefix('\u{feff}')
                    .unwrap_or(&text)
                    .split('\n')
                    .count();
                assert!((1..=lines).contains(&fault.line), "{fault}");
                return;
            }
        };
        taken += 1;
        for variable in &file.variables {
            let name = &variable.name;
            assert!(
                !name.is_empty() && !name.contains(['=', '\0', ' ']),
                "{name:?}"
            );
            // A file's text is one that can always be expanded.
            let value = config::expand(&variable.value, |_| Some(String::new())).unwrap();
            assert!(!value.contains('\0'), "{value:?}");
            if !variable.value.contains("${") {
                let dollars = |text: &str| text.matches('$').count();
                assert_eq!(dollars(&variable.value), 2 * dollars(&value));
            }
        }
        let mut notes = EnvNotes::default();
        let made =
            config::environment(&process, &mut base().into_iter(), &[file], None, &mut notes);
        assert!(made.is_ok(), "{made:?}");
    });
    assert!(
        taken > 100 && refused > 100,
        "{taken} taken, {refused} refused"
    );
}

const SHOP: &str = r#"
env = { TOP = "${HOME}/x", GROW = "${TOP}${TOP}${TOP}" }
[process.api]
command = ["api", "--port", "${PORT}", "${web.url}"]
port = "auto"
env = { A = "${A:-${B}}$$", C = "${GROW}${GROW}${GROW}" }
[process."web.v1"]
command = ["web", "${api.port}", "${C:-}"]
args = ["$${api.port}", "${NONE:-${api.url}}"]
listen = ["127.0.0.1:${api.port}", "unix:/run/${B}"]
ready = { http = "http://127.0.0.1:${web.v1.port}/" }
port = 81
[process.web]
type = "task"
command = "echo ${PORT}"
port = 82
"#;

#[test]
fn a_configuration_expands_within_bounds() {
    let pieces: [&[u8]; 12] = [
        b"${",
        b"}",
        b"${api.port}",
        b"${web.url}",
        b"$",
        b"${GROW}",
        b"${A:-",
        b"\"",
        b".",
        b"listen",
        b"port = 81\n",
        b"[process.web]\n",
    ];
    let mut taken = 0;
    mutations(&[SHOP.into()], &pieces, |text, _| {
        let (read, spent) =
            cpu_time(|| config::parse_bytes(text, ".mcp-run", Path::new(ROOT), 2 << 20));
        assert!(spent < Duration::from_secs(1), "it took {spent:?}");
        let Ok(config) = read else { return };
        taken += 1;
        for process in &config.processes {
            let name = &process.name;
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            assert!(name.chars().all(fine) && !name.starts_with('.'), "{name:?}");
            let known = |name: &str| config.processes.iter().find(|p| p.name == name);
            for other in &process.references {
                assert_eq!(known(&other.name).unwrap().port, Some(other.port));
            }
            let at = |name: &str| known(name).map(|_| ("h".to_string(), 1));
            let resolved = config::with_ports(process, &at);
            // Nothing is left to replace, and each reference was one.
            assert_eq!(config::with_ports(&resolved, &at), resolved);
            let mut notes = EnvNotes::default();
            let Ok(env) = config::environment(
                &resolved,
                &mut base().into_iter(),
                &[],
                Some(80),
                &mut notes,
            ) else {
                continue;
            };
            let size: usize = env.iter().map(|(n, v)| n.len() + v.len()).sum();
            assert!(size <= LARGEST);
            for text in resolved.args.iter().chain(&resolved.listen) {
                let lookup = |name: &str| config::variable_of(&env, name);
                if let Err(why) = config::expand(text, lookup) {
                    assert!(
                        why.contains("is not set") || why.contains("128 KiB"),
                        "{why}"
                    );
                }
            }
        }
    });
    assert!(taken > 100, "{taken} taken");
}

#[test]
fn a_state_file_is_read_as_it_is_written() {
    let project = Project::empty();
    let (one, two) = (project.root.join("one"), project.root.join("two"));
    let pieces: [&[u8]; 10] = [
        b"null",
        b"-1",
        b"18446744073709551616",
        b"{",
        b"}",
        b"[",
        b"\"",
        b",",
        b"1e999",
        b"\"\\u0000\"",
    ];
    let corpus = corpus("state");
    let (mut taken, mut refused) = (0, 0);
    mutations(&corpus, &pieces, |text, _| {
        fs::write(&one, text).unwrap();
        let (read, spent) = cpu_time(|| State::look(&one));
        assert!(spent < Duration::from_secs(1), "it took {spent:?}");
        if read == State::default() {
            refused += 1;
            return;
        }
        taken += 1;
        // What a first reading leaves out is left out for good.
        read.write(&two).unwrap();
        let again = State::look(&two);
        again.write(&one).unwrap();
        assert_eq!(State::look(&one), again);
        let names = |state: &State| {
            state
                .known()
                .map(|(n, _)| n.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&again), names(&read));
        assert!(again.running().eq(read.running()));
    });
    assert!(
        taken > 100 && refused > 100,
        "{taken} taken, {refused} refused"
    );
}

/// Each round is a process: some of them in the tests, as many as there is time for where it is asked for.
#[test]
fn an_export_is_written_or_says_why_not() {
    let seconds = std::env::var("BPM_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse::<u64>().ok());
    let project = Project::empty();
    project.file(".env", "URL='a $x'\nT=\"${HOME}\"\n");
    // Longer runs are others each time.
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = seconds.map_or(0x5EED_0F00_D5EE_D002, |_| clock.as_nanos() as u64);
    println!("seed {seed:#x}");
    let mut dice = Dice::new(seed);
    let odd = [
        "%", "$", "${A}", "\\", "\"", "+x", "-", "'", "\u{1b}", "é", "\u{2028}", "#", ";", "{{",
        "%{", "$(X)", "\t", "",
    ];
    let began = std::time::Instant::now();
    let mut rounds = 0;
    while rounds < 12 || began.elapsed() < Duration::from_secs(seconds.unwrap_or(0)) {
        rounds += 1;
        let mut word = || -> String {
            let parts = (0..dice.roll(5)).map(|_| odd[dice.roll(odd.len())]);
            let text: String = parts.collect();
            toml_string(&text)
        };
        let text = format!(
            "env.T = {}\n[process.a]\ncommand = [\"sh\", {}, {}]\nport = \"auto\"\nenv_file = \".env\"\n\
             [process.b]\ncommand = {}\nenv = {{ U = \"${{a.url}}\", V = {} }}\ndepends_on = [\"a\"]\n",
            word(),
            word(),
            word(),
            word(),
            word()
        );
        project.config(&text);
        let engine = ["systemd", "compose", "kubernetes", "nomad"][dice.roll(4)];
        let mut args = vec!["export", engine];
        if engine != "systemd" {
            args.extend(["--image", "x"]);
        }
        let said = project.cli(args);
        assert!(!said.err.contains("panicked"), "{text}\n{}", said.err);
        assert!(
            !said.out.contains('\0') && !said.out.contains('\u{1b}'),
            "{text}\n{}",
            said.out
        );
        if said.out.is_empty() {
            assert!(
                said.err.starts_with("bpm: ") || said.err.contains(".mcp-run:"),
                "{text}\n{}",
                said.err
            );
        } else {
            assert!(said.out.contains("# Written by bpm "), "{}", said.out);
            // It would take the next line in.
            assert!(!said.out.contains("\\\n"), "{text}\n{}", said.out);
        }
    }
    println!("{rounds} exports");
}

fn toml_string(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
