//! Pure: no system call, no thread, no clock.
//!
//! `Procfile`: a process a line, run by a shell, with the ports that foreman gives.

use super::Source;
use super::draft::{Draft, Item};
use super::quote::toml;
use crate::base::table::Set;
use crate::config;

/// foreman's first port.
const FIRST_PORT: u16 = 5000;
/// From one line to the next.
const STEP: u16 = 100;

/// Reads it. `dotenv` is the text of the `.env` beside it, if there is one.
pub(super) fn read(source: &Source, dotenv: Option<&str>, draft: &mut Draft) {
    let first_port = environment(source, dotenv, draft);
    let mut names: Set<&str> = Set::default();
    for (line, number) in source.text.lines().zip(1..) {
        let place = source.at(number);
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let Some((name, command)) = entry(line) else {
            let why = "not NAME: COMMAND with letters, digits, \"-\" and \"_\" in the name";
            draft.left(&place, line, why);
            continue;
        };
        let port = u16::try_from(names.len())
            .ok()
            .and_then(|n| STEP.checked_mul(n)?.checked_add(first_port));
        if !names.add(name) {
            draft.left(&place, line, "a line above has that name");
            continue;
        }
        let mut item = Item::new(name, place.clone());
        match name {
            // Heroku runs it once for each release, before the others.
            "release" => {
                item.text("type", "task");
                item.note("the release phase: \"bpm start release\" runs it once");
                item.by_hand();
            }
            _ => {
                item.note("bpm starts it again when it ends; restart = \"never\" is foreman's way")
            }
        }
        item.text("command", command);
        item.folder(&source.sub);
        if ends_with_stdin(command) {
            item.set("stdin", "\"open\"".into());
        }
        match port {
            Some(port) if command.contains("$PORT") || command.contains("${PORT") => {
                item.set("port", port.to_string());
            }
            // A key would make bpm wait until somebody listens there.
            Some(port) => item.env("PORT", &port.to_string()),
            None => item.left(&place, "PORT", "there is no port left for it"),
        }
        draft.add(item);
    }
    if names.is_empty() {
        draft.left(&source.file, "the file", "no process in it");
    }
}

/// A build that goes on while its standard input is open: esbuild and tailwind, mostly behind a script.
fn ends_with_stdin(command: &str) -> bool {
    let mut words = command.split_whitespace();
    words.any(|word| word == "--watch" || word.ends_with("tailwindcss:watch"))
}

/// Takes `.env` over; the port of the first line.
fn environment(source: &Source, dotenv: Option<&str>, draft: &mut Draft) -> u16 {
    let Some(text) = dotenv else {
        return FIRST_PORT;
    };
    let name = source.beside(".env");
    match config::parse_dotenv(text, &name) {
        Ok(file) => {
            draft.top(format!("env_file = {}", toml(&format!("{name}?"))));
            let port = file.variables.iter().rev().find(|v| v.name == "PORT");
            port.and_then(|v| v.value.parse().ok())
                .unwrap_or(FIRST_PORT)
        }
        Err(fault) => {
            draft.left(&format!("{name}:{}", fault.line), ".env", &fault.text);
            FIRST_PORT
        }
    }
}

fn entry(line: &str) -> Option<(&str, &str)> {
    let (name, command) = line.trim_end().split_once(':')?;
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let command = command.trim_start();
    (!name.is_empty() && name.chars().all(fine) && !command.is_empty()).then_some((name, command))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_of, draft_of};
    use super::*;

    #[test]
    fn lines_are_processes_with_foreman_s_ports() {
        let text = "# the shop\r\nweb: puma -p $PORT\r\nworker:sidekiq\na.b: no\n\nrelease: rake db:migrate\nweb: twice\n";
        let draft = draft_of("Procfile", text, |s, d| {
            read(s, Some("A=1\nPORT=7000\n"), d)
        });
        let config = config_of(&draft);
        let named = |n: &str| config.processes.iter().find(|p| p.name == n).unwrap();
        assert_eq!(named("web").port, Some(config::PortWish::Fixed(7000)));
        assert_eq!(
            named("web").command,
            Some(config::Command::Shell("puma -p $PORT".into()))
        );
        assert_eq!(named("worker").env, [("PORT".into(), "7100".into())]);
        assert_eq!(named("worker").port, None);
        assert_eq!(named("release").kind, config::Kind::Task);
        assert!(!named("release").autostart);
        assert_eq!(named("web").env_files.len(), 1);
        let lost = draft.lost();
        assert!(lost[0].starts_with("Procfile:4: a.b: no: "), "{lost:?}");
        assert!(lost[1].starts_with("Procfile:7: web: twice: "), "{lost:?}");
        assert_eq!(lost.len(), 2);
    }

    #[test]
    fn a_dotenv_that_bpm_refuses_is_left_out() {
        let draft = draft_of("Procfile", "a: b\n", |s, d| read(s, Some("X=1\nX='\n"), d));
        let config = config_of(&draft);
        assert!(config.processes[0].env_files.is_empty());
        assert!(
            draft.lost()[0].starts_with(".env:2: "),
            "{:?}",
            draft.lost()
        );
    }
}
