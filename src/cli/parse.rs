//! Arguments -> [`Call`], by the table; and what to say where they do not fit it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use crate::base::error::{Error, Result, nearest};

use super::commands::COMMANDS;
use super::spec::{COMMON, Call, Command, DIR, Operands, Opt, families};

/// The request of a command line.
pub(super) enum Asked {
    /// A command.
    Call(Call),
    /// The help of all, of a command, or of a family (`daemon`).
    Help(String),
    /// `--version`.
    Version,
}

/// Reads the arguments; the first is the program's name.
///
/// # Errors
/// They do not fit the table: a usage error with the nearest right thing as its hint.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked> {
    let mut parser = Parser::from_iter(args);
    let mut dir = None;
    let mut command: &'static Command = &COMMANDS[0];
    let mut family: Option<&'static str> = None;
    let mut options = Vec::new();
    let mut operands: Vec<OsString> = Vec::new();
    while let Some(arg) = parser.next().map_err(|e| Error::usage(e.to_string()))? {
        let given = match arg {
            Arg::Short(c) => format!("-{c}"),
            Arg::Long(name) => format!("--{name}"),
            Arg::Value(word) => {
                let first = operands.is_empty() && command.name.is_empty();
                if first && family.is_none() && word == "help" {
                    return help_of(&mut parser);
                }
                match word.to_str().filter(|_| first) {
                    Some(word) => match step(family, word) {
                        Some(Word::Command(found)) => {
                            settle(found, &options)?;
                            command = found;
                            family = None;
                        }
                        Some(Word::Family(found)) => family = Some(found),
                        // At once: what follows would be measured by bare bpm.
                        None if family.is_some() || !Path::new(word).is_dir() => {
                            return Err(unknown_command(family, word));
                        }
                        None => operands.push(word.into()),
                    },
                    None => operands.push(word),
                }
                continue;
            }
        };
        match find(command, &given) {
            Some(option) if option.long == "help" => {
                return Ok(Asked::Help(family.unwrap_or(command.name).into()));
            }
            Some(option) if option.long == "version" => return Ok(Asked::Version),
            Some(option) => {
                let value = match option.value {
                    Some(label) => parser
                        .value()
                        .map_err(|_| Error::usage(format!("{given} needs a value: {label}")))?,
                    None => OsString::new(),
                };
                if *option == DIR {
                    dir = Some(PathBuf::from(value));
                } else {
                    options.push((option, value));
                }
            }
            None => return Err(unknown_option(command, &given)),
        }
    }
    if let Some(family) = family {
        return Err(unknown_command(Some(family), ""));
    }
    fits(command, &operands)?;
    Ok(Asked::Call(Call {
        table: COMMANDS,
        command,
        dir,
        options,
        operands,
    }))
}

/// `help`, and the command that it is about.
fn help_of(parser: &mut Parser) -> Result<Asked> {
    let rest = parser.raw_args().map_err(|e| Error::usage(e.to_string()))?;
    let words: Vec<OsString> = rest.collect();
    let name = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
    match name.is_empty() || step(None, &name).is_some() {
        true => Ok(Asked::Help(name)),
        false => Err(unknown_command(None, &name)),
    }
}

enum Word {
    Command(&'static Command),
    Family(&'static str),
}

/// The meaning of a word where a command may stand.
fn step(family: Option<&str>, word: &str) -> Option<Word> {
    let full = match family {
        Some(family) => format!("{family} {word}"),
        None => word.to_string(),
    };
    if let Some(found) = COMMANDS.iter().find(|c| c.name == full && !full.is_empty()) {
        return Some(Word::Command(found));
    }
    families(COMMANDS).find(|f| *f == full).map(Word::Family)
}

/// Options that came before the command's name are those of bare bpm: only `-C` may stand there.
fn settle(command: &Command, options: &[(&'static Opt, OsString)]) -> Result<()> {
    let Some((option, _)) = options.first() else {
        return Ok(());
    };
    let (option, name) = (spelled(option), command.name);
    let why = format!("{option} does not go with {name}");
    Err(Error::usage(why).with_hint(format!("see \"bpm {name} --help\"")))
}

fn find(command: &'static Command, given: &str) -> Option<&'static Opt> {
    let is = |o: &&'static Opt| match given.strip_prefix("--") {
        Some(long) => o.long == long,
        None => o.short.is_some_and(|c| given[1..].chars().eq([c])),
    };
    command
        .options
        .iter()
        .find(is)
        .or_else(|| COMMON.iter().find(is))
        .or_else(|| Some(&DIR).filter(is))
}

/// `--follow`, or `-C` where there is no long one.
pub(super) fn spelled(option: &Opt) -> String {
    match (option.long, option.short) {
        ("", Some(c)) => format!("-{c}"),
        (long, _) => format!("--{long}"),
    }
}

fn called(command: &Command) -> String {
    format!("bpm {}", command.name).trim_end().to_string()
}

fn unknown_option(command: &'static Command, given: &str) -> Error {
    let known: Vec<String> = command.options.iter().chain(COMMON).map(spelled).collect();
    let name = called(command);
    let error = Error::usage(format!("unknown option {given:?} of {name}"));
    match nearest(given, known.iter().map(String::as_str)).filter(|_| given.starts_with("--")) {
        Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
        None => error.with_hint(format!("see \"{name} --help\"")),
    }
}

fn unknown_command(family: Option<&str>, word: &str) -> Error {
    let prefix = family.map(|f| format!("{f} ")).unwrap_or_default();
    let known: Vec<&str> = COMMANDS
        .iter()
        .filter_map(|c| c.name.strip_prefix(prefix.as_str()))
        .filter(|name| !name.is_empty())
        .chain(families(COMMANDS).filter(|_| family.is_none()))
        .collect();
    let why = match (family, word) {
        (Some(family), "") => format!("bpm {family} needs one of {}", known.join(", ")),
        (Some(family), word) => format!("unknown command \"{family} {word}\""),
        (None, word) => format!("{word:?} is neither a command nor a folder"),
    };
    let hint = match nearest(word, known) {
        Some(near) => format!("did you mean \"{prefix}{near}\"?"),
        None => format!("see \"bpm {prefix}--help\""),
    };
    Error::usage(why).with_hint(hint)
}

/// The operands are as many and of the kind that the table says.
fn fits(command: &'static Command, operands: &[OsString]) -> Result<()> {
    let name = called(command);
    let most = match command.operands {
        Operands::None => 0,
        Operands::Dir
        | Operands::Name
        | Operands::MaybeName
        | Operands::Url
        | Operands::Word { .. } => 1,
        Operands::Names => usize::MAX,
    };
    if let Some(extra) = operands.get(most) {
        return Err(Error::usage(format!("unexpected {extra:?} after {name}"))
            .with_hint(format!("see \"{name} --help\"")));
    }
    match (command.operands, operands.first()) {
        (Operands::Name, None) => Err(Error::usage(format!("{name} needs the name of a process"))),
        (Operands::Word { label, words, .. }, Some(word)) => {
            match words.iter().any(|w| *w == word.as_os_str()) {
                true => Ok(()),
                false => Err(unknown_word(label, words, &word.to_string_lossy())),
            }
        }
        (Operands::Word { words, needed, .. }, None) if needed => {
            let words = words.join(", ");
            Err(Error::usage(format!("{name} needs one of {words}")))
        }
        (Operands::Dir, Some(word)) if !Path::new(word).is_dir() => {
            let word = word.to_string_lossy();
            match command.name {
                "" => Err(unknown_command(None, &word)),
                // The list may have a folder that is gone.
                "trust" => Ok(()),
                _ => Err(Error::usage(format!("{word:?} is no folder"))),
            }
        }
        _ => Ok(()),
    }
}

fn unknown_word(label: &str, words: &[&str], word: &str) -> Error {
    let label = label.to_ascii_lowercase();
    let error = Error::usage(format!("unknown {label} {word:?}"));
    match nearest(word, words.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
        None => error.with_hint(format!("one of {}", words.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked> {
        let words = std::iter::once("bpm").chain(line.split_whitespace());
        parse(words.map(OsString::from))
    }

    fn call(line: &str) -> Call {
        match read(line) {
            Ok(Asked::Call(call)) => call,
            Ok(_) => panic!("{line}: no call"),
            Err(e) => panic!("{line}: {e}"),
        }
    }

    fn refused(line: &str) -> (String, String) {
        match read(line) {
            Err(e) => {
                assert_eq!(e.exit_code(), 2, "{line}");
                (e.to_string(), e.hint().unwrap_or_default())
            }
            Ok(_) => panic!("{line}: taken"),
        }
    }

    #[test]
    fn options_are_long_short_and_combined() {
        let c = call("logs -fitn 20 api --since=5m -C3");
        assert_eq!(c.command.name, "logs");
        assert!(c.has("follow") && c.has("ignore-case") && c.has("times"));
        assert_eq!(c.number::<u64>("lines", "a number").unwrap(), Some(20));
        assert_eq!(c.text("since").unwrap(), Some("5m"));
        assert_eq!(c.text("context").unwrap(), Some("3"));
        assert_eq!(c.names().unwrap(), ["api"]);
        assert_eq!(call("logs --run -2").text("run").unwrap(), Some("-2"));
    }

    #[test]
    fn the_folder_comes_before_the_command_or_after_it() {
        assert_eq!(call("-C /tmp status").dir, Some("/tmp".into()));
        assert_eq!(call("status -C /tmp").dir, Some("/tmp".into()));
        let logs = call("-C /tmp logs -C 2");
        assert_eq!(logs.dir, Some("/tmp".into()));
        assert_eq!(logs.text("context").unwrap(), Some("2"));
    }

    #[test]
    fn a_folder_is_run_and_a_typo_is_answered() {
        assert_eq!(call("/tmp").operands, ["/tmp"]);
        assert!(call("-d /tmp").has("detach"));
        assert_eq!(
            refused("statsu"),
            (
                "cannot run this command: \"statsu\" is neither a command nor a folder".into(),
                "did you mean \"status\"?".into()
            )
        );
        // Whatever follows.
        for line in ["restrt web", "restrt --all", "restrt web -x"] {
            assert_eq!(refused(line).1, "did you mean \"restart\"?", "{line}");
        }
        assert_eq!(refused("daemon stpo").1, "did you mean \"daemon stop\"?");
        assert!(refused("daemon").0.contains("start, stop, restart"));
        assert_eq!(refused("logs --folow").1, "did you mean \"--follow\"?");
        assert_eq!(refused("completions bsh").1, "did you mean \"bash\"?");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for line in [
            "-d status",
            "status a b",
            "reload x",
            "wait",
            "why",
            "completions",
            "logs -n",
            "logs --json=1",
            "status -x",
            "--nope",
            "proxy /no/such/folder",
        ] {
            refused(line);
        }
    }

    #[test]
    fn help_and_version_win_wherever_they_stand() {
        let help = |line| match read(line) {
            Ok(Asked::Help(name)) => name,
            _ => panic!("{line}"),
        };
        assert_eq!(help("-h"), "");
        assert_eq!(help("logs api --help"), "logs");
        assert_eq!(help("daemon --help"), "daemon");
        assert_eq!(help("daemon status -h"), "daemon status");
        assert!(matches!(read("-V"), Ok(Asked::Version)));
        assert!(matches!(read("logs --version"), Ok(Asked::Version)));
    }
}
