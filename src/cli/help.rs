//! `--help`, from the table.

use std::fmt::Write;

use super::commands::COMMANDS;
use super::parse::spelled;
use super::spec::{COMMON, Command, DIR, Operands, Opt};

/// Environment variables that bpm reads, each with what it does.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "BPM_HOME",
        "where bpm keeps its files ($XDG_STATE_HOME/bpm, ~/.local/state/bpm)",
    ),
    (
        "BPM_PORT",
        "TCP port of /mcp; overrides mcp_port (auto: a free one)",
    ),
    (
        "BPM_DISABLE_DAEMON",
        "1: bpm proxy serves by itself, without a daemon",
    ),
    ("BPM_LOG_LEVEL", "debug, info (default), warn, error"),
    (
        "BPM_IDLE_TIMEOUT",
        "overrides idle_shutdown_minutes, in seconds (0: never)",
    ),
    (
        "BPM_TOKEN_FILE",
        "bpm tui: the file of the token, over HTTP",
    ),
    (
        "BPM_TRUST",
        "folders, with a colon between them, whose .mcp-run is used whoever owns it",
    ),
    ("NO_COLOR", "no colour, even on a terminal"),
];

/// Exit codes that are the same everywhere.
pub(super) const EXITS: &[(u8, &str)] = &[
    (0, "done, or already so"),
    (1, "failed"),
    (2, "the command line was wrong"),
    (3, "no daemon runs for the project"),
    (124, "it took longer than the time given"),
];

/// The help of all (empty name), of a command or of a family.
pub(super) fn help(name: &str) -> String {
    match COMMANDS.iter().find(|c| c.name == name) {
        Some(command) if !name.is_empty() => of_command(command),
        _ => overview(name),
    }
}

/// `bpm restart NAME... | --all [OPTIONS]`.
pub(super) fn synopsis(command: &Command) -> String {
    let mut text = String::from("bpm");
    for word in [command.name, "[OPTIONS]", &operands(command)] {
        if !word.is_empty() {
            text.push(' ');
            text.push_str(word);
        }
    }
    text
}

/// As in the synopsis.
pub(super) fn operands(command: &Command) -> String {
    match command.operands {
        Operands::None => String::new(),
        Operands::Dir => "[DIR]".into(),
        Operands::Name => "NAME".into(),
        Operands::MaybeName => "[NAME]".into(),
        Operands::Names => "[NAME...]".into(),
        Operands::Url => "[URL]".into(),
        Operands::Word { label, needed, .. } if needed => label.into(),
        Operands::Word { label, .. } => format!("[{label}]"),
    }
}

fn overview(family: &str) -> String {
    let mut text = String::new();
    let bare = &COMMANDS[0];
    if family.is_empty() {
        text.push_str(
            "bpm keeps a project's processes running, for people and for coding agents.\n\n",
        );
        let _ = writeln!(
            text,
            "Usage: {}\n       bpm COMMAND [OPTIONS]\n",
            synopsis(bare)
        );
        paragraph(&mut text, bare.about);
    } else {
        let _ = writeln!(text, "Usage: bpm {family} COMMAND [OPTIONS]");
    }
    text.push_str("\nCommands:\n");
    let of_family = |c: &&Command| match c.name.split_once(' ') {
        Some((first, _)) => family.is_empty() || first == family,
        None => family.is_empty() && !c.name.is_empty(),
    };
    let mut rows: Vec<Row> = Vec::new();
    for command in COMMANDS.iter().filter(of_family) {
        let left = format!("{} {}", command.name, operands(command));
        rows.push((left.trim_end().into(), command.summary));
    }
    table(&mut text, &rows);
    text.push_str("\nOptions:\n");
    let own = if family.is_empty() { bare.options } else { &[] };
    table(&mut text, &option_rows(own, true));
    if family.is_empty() {
        exits(&mut text, EXITS);
        text.push_str("\nEnvironment:\n");
        let rows = ENVIRONMENT
            .iter()
            .map(|(name, what)| (name.to_string(), *what));
        table(&mut text, &rows.collect::<Vec<Row>>());
        text.push_str("\n\"bpm help COMMAND\" explains a command; bpm(1) is the manual, mcp-run(5) describes .mcp-run.\n");
    }
    text
}

fn of_command(command: &Command) -> String {
    let mut text = format!("Usage: {}\n\n", synopsis(command));
    let mut commands = command.summary.chars();
    let first = commands.next().map(|c| c.to_ascii_uppercase().to_string());
    let _ = writeln!(text, "{}{}.", first.unwrap_or_default(), commands.as_str());
    if !command.about.is_empty() {
        text.push('\n');
        paragraph(&mut text, command.about);
    }
    if let Operands::Word { label, words, .. } = command.operands {
        let _ = writeln!(text, "\n{label}: {}", words.join(", "));
    }
    text.push_str("\nOptions:\n");
    table(&mut text, &option_rows(command.options, command.has_dir()));
    let mut codes = vec![EXITS[0]];
    codes.extend_from_slice(command.exits);
    codes.insert(codes.iter().filter(|(c, _)| *c < 2).count(), EXITS[2]);
    exits(&mut text, &codes);
    text
}

fn option_rows(own: &[Opt], dir: bool) -> Vec<Row> {
    let dir = dir.then_some(&DIR);
    let all = own.iter().chain(dir).chain(COMMON);
    all.map(|o| (option_left(o), o.help)).collect()
}

fn option_left(option: &Opt) -> String {
    let short = match (option.short, option.long) {
        (Some(_), "") => String::new(),
        (Some(c), _) => format!("-{c}, "),
        (None, _) => "    ".into(),
    };
    let value = option.value.map(|v| format!(" {v}")).unwrap_or_default();
    format!("{short}{}{value}", spelled(option))
}

fn exits(text: &mut String, codes: &[(u8, &'static str)]) {
    text.push_str("\nExit codes:\n");
    let rows = codes.iter().map(|(code, what)| (code.to_string(), *what));
    table(text, &rows.collect::<Vec<Row>>());
}

/// A row of two columns.
type Row = (String, &'static str);

/// Two columns; the right one is wrapped below itself.
fn table(text: &mut String, rows: &[Row]) {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    let width = width.min(26);
    for (left, right) in rows {
        let mut left = left.as_str();
        if left.len() > width {
            let _ = writeln!(text, "  {left}");
            left = "";
        }
        for line in wrapped(right, 76 - width) {
            let _ = writeln!(text, "  {left:width$}  {line}");
            left = "";
        }
    }
}

fn paragraph(text: &mut String, about: &str) {
    for line in wrapped(about, 78) {
        let _ = writeln!(text, "{line}");
    }
}

/// Breaks at blanks so that no line is longer than `width`, where words allow.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_fits_a_terminal_and_names_all_options() {
        for command in COMMANDS {
            let text = help(command.name);
            assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
            for option in command.options.iter().chain(COMMON) {
                assert!(
                    text.contains(&option_left(option)),
                    "{}: {text}",
                    command.name
                );
            }
            for (code, what) in command.exits.iter().filter(|_| !command.name.is_empty()) {
                assert!(text.contains(&code.to_string()), "{}: {what}", command.name);
            }
        }
        let all = help("");
        assert!(COMMANDS.iter().all(|c| all.contains(c.name)));
        assert!(help("daemon").contains("daemon restart"));
    }
}
