//! The table of commands, the help, the man page and the completions say the same.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Project, bpm};
use bpm::cli::commands::COMMANDS;
use bpm::cli::spec::{COMMON, DIR, Operands, Opt};

fn man() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/bpm.1")).unwrap()
}

/// The part of the page about a command.
fn section(page: &str, name: &str) -> String {
    let title = if name.is_empty() {
        ".Ss bpm ".to_string()
    } else {
        format!(".Ss {name}")
    };
    let mut lines = page.lines().skip_while(|line| {
        let rest = line.strip_prefix(&title);
        !rest.is_some_and(|r| r.is_empty() || r.starts_with(' ') || title.ends_with(' '))
    });
    let first = lines
        .next()
        .unwrap_or_else(|| panic!("{name} is not in the man page"));
    let body: Vec<&str> = lines
        .take_while(|l| !l.starts_with(".Ss ") && !l.starts_with(".Sh "))
        .collect();
    format!("{first}\n{}", body.join("\n"))
}

/// As mdoc writes it: `Fl f , Fl Fl follow`.
fn in_mdoc(text: &str, option: &Opt) -> bool {
    let long = option.long.is_empty() || text.contains(&format!("Fl Fl {}", option.long));
    let short = option
        .short
        .is_none_or(|c| text.contains(&format!("Fl {c}")));
    long && short
}

#[test]
fn the_man_page_has_every_command_option_and_exit_code() {
    let page = man();
    let mut seen = 0;
    for command in COMMANDS {
        let text = section(&page, command.name);
        for option in command.options {
            assert!(
                in_mdoc(&text, option),
                "{}: {} in\n{text}",
                command.name,
                option.long
            );
        }
        let operand = match command.operands {
            Operands::None => "",
            Operands::Dir => "Ar DIR",
            Operands::Url => "Ar URL",
            Operands::Name | Operands::MaybeName | Operands::Names => "Ar NAME",
            Operands::Word { words, .. } => {
                for word in words {
                    assert!(text.contains(word), "{}: {word}", command.name);
                }
                ""
            }
        };
        assert!(
            text.lines().next().unwrap().contains(operand),
            "{}: {operand}",
            command.name
        );
        seen += 1;
    }
    assert_eq!(
        page.matches("\n.Ss ").count(),
        seen,
        "the page has a command that is not built"
    );
    for option in COMMON.iter().chain([&DIR]) {
        assert!(in_mdoc(&page, option), "{option:?}");
    }
    let codes = page.split(".Sh EXIT STATUS").nth(1).unwrap();
    for code in [0, 1, 2, 3, 124] {
        assert!(codes.contains(&format!(".It {code}\n")), "{code}");
    }
}

#[test]
fn the_help_names_what_the_man_page_names() {
    let project = Project::empty();
    let all = project.cli(["--help"]).exits(0).out;
    let page = man();
    for command in COMMANDS.iter().filter(|c| !c.name.is_empty()) {
        assert!(
            all.contains(&format!("  {}", command.name)),
            "{}",
            command.name
        );
        let words = command.name.split(' ').chain(["--help"]);
        let help = project.cli(words).exits(0).out;
        assert!(
            help.starts_with(&format!("Usage: bpm {}", command.name)),
            "{help}"
        );
        for option in command.options {
            assert!(
                help.contains(option.help.split(' ').next().unwrap()),
                "{help}"
            );
        }
        for (code, _) in command.exits {
            assert!(
                help.contains(&format!("\n  {code} ")),
                "{}: {code}: {help}",
                command.name
            );
        }
    }
    // Every variable of the one is in the other.
    let variables = |text: &str, marks: &[char]| -> Vec<String> {
        let mut found: Vec<String> = text
            .split(|c: char| c.is_whitespace() || marks.contains(&c))
            .filter(|w| w.starts_with("BPM_") || *w == "NO_COLOR")
            .map(str::to_string)
            .collect();
        found.sort();
        found.dedup();
        found
    };
    assert_eq!(variables(&all, &[',', ';']), variables(&page, &[',', ';']));
}

#[test]
fn no_command_is_named_that_is_not_built() {
    let project = Project::empty();
    for name in ["upgrade", "tui", "export"] {
        if COMMANDS.iter().any(|c| c.name == name) {
            continue;
        }
        project.cli([name]).exits(2);
        assert!(
            !project.cli(["--help"]).out.contains(&format!("  {name} ")),
            "{name}"
        );
        assert!(!man().contains(&format!(".Ss {name}")), "{name}");
    }
}

/// Runs a script in a shell, if there is one.
fn shell(project: &Project, program: &str, script: &str) -> Option<String> {
    let spawned = project
        .command(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("{program} is not installed");
        return None;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{err}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn bash_completes_commands_options_and_processes() {
    let mut project =
        Project::new("[process.api]\ncommand = \"x\"\n[process.web]\ncommand = \"x\"\n");
    let path = format!(
        "{}:{}",
        bpm().parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    project.env("PATH", path);
    let complete = |project: &Project, line: &str| -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(|w| format!("'{w}'")).collect();
        let script = format!(
            "source <(bpm completions bash)\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_bpm\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            words.join(" "),
            words.len() - 1
        );
        let out = shell(project, "bash", &script).unwrap_or_default();
        out.lines().map(str::to_string).collect()
    };
    assert_eq!(complete(&project, "bpm sta"), ["start", "status"]);
    assert_eq!(
        complete(&project, "bpm restart "),
        [
            "--all",
            "--release",
            "-C",
            "-h",
            "--help",
            "-V",
            "--version",
            "api",
            "web"
        ]
    );
    assert_eq!(complete(&project, "bpm restart w"), ["web"]);
    assert_eq!(complete(&project, "bpm logs --fo"), ["--follow"]);
    assert_eq!(complete(&project, "bpm wait api --for e"), ["exit"]);
    assert_eq!(complete(&project, "bpm daemon sta"), ["start", "status"]);
    assert_eq!(complete(&project, "bpm daemon logs --fo"), ["--follow"]);
    assert_eq!(complete(&project, "bpm mcp-config cu"), ["cursor"]);
    assert_eq!(complete(&project, "bpm completions z"), ["zsh"]);
    assert_eq!(complete(&project, "bpm -C /tmp lo"), ["logs"]);
}

#[test]
fn the_other_shells_take_their_scripts() {
    let project = Project::empty();
    for (program, arguments) in [("zsh", ["-n"]), ("fish", ["--no-execute"])] {
        let script = project.cli(["completions", program]).exits(0).out;
        let file = project.root.join(program);
        fs::write(&file, script).unwrap();
        match Command::new(program).args(arguments).arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => eprintln!("{program} is not installed"),
        }
    }
}

#[test]
fn the_man_page_is_without_fault() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/bpm.1");
    match Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .arg(page)
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(_) => eprintln!("mandoc is not installed"),
    }
}
