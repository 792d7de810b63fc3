//! Completions for three shells, from the table.

use std::fmt::Write;

use crate::base::error::Result;
use crate::daemon::read_config;

use super::spec::{COMMON, Call, Command, DIR, Operands, Opt, families};
use super::{answer, project};

/// The hidden first argument with which the scripts ask for the names of processes.
pub(super) const NAMES: &str = "__names";

/// Prints the names of the project's processes, one a line; nothing where there is no project.
pub(super) fn names() -> Result<u8> {
    let mut text = String::new();
    if let Ok(config) = project(None).and_then(|p| read_config(&p.root)) {
        for process in &config.processes {
            let _ = writeln!(text, "{}", process.name);
        }
    }
    answer(text)
}

/// `bpm completions SHELL`.
pub(super) fn completions(call: &Call) -> Result<u8> {
    answer(match call.operands.first().and_then(|s| s.to_str()) {
        Some("zsh") => zsh(call.table),
        Some("fish") => fish(call.table),
        _ => bash(call.table),
    })
}

type Table = &'static [Command];

/// The words that may follow a command, apart from options.
enum Follows {
    Nothing,
    Folders,
    Processes,
    Words(&'static [&'static str]),
}

fn follows(command: &Command) -> Follows {
    match command.operands {
        Operands::None | Operands::Url => Follows::Nothing,
        Operands::Dir => Follows::Folders,
        Operands::Name | Operands::MaybeName | Operands::Names => Follows::Processes,
        Operands::Word { words, .. } => Follows::Words(words),
    }
}

fn options(command: &'static Command) -> impl Iterator<Item = &'static Opt> {
    let dir = command.has_dir().then_some(&DIR);
    command.options.iter().chain(dir).chain(COMMON)
}

fn spellings(option: &Opt) -> Vec<String> {
    let short = option.short.map(|c| format!("-{c}"));
    let long = (!option.long.is_empty()).then(|| format!("--{}", option.long));
    short.into_iter().chain(long).collect()
}

/// Words that an option's value may be, where the table names them: `ready|exit|build|log`.
fn values(option: &Opt) -> Vec<&'static str> {
    let words: Vec<_> = option.value.unwrap_or_default().split('|').collect();
    match words.len() {
        0 | 1 => Vec::new(),
        _ => words,
    }
}

/// The words that may stand where a command does: commands of one word, and families.
fn first_words(table: Table) -> Vec<&'static str> {
    table
        .iter()
        .map(|c| c.name)
        .filter(|name| !name.is_empty() && !name.contains(' '))
        .chain(families(table))
        .collect()
}

/// Of a command or a family.
fn summary(table: Table, word: &str) -> &'static str {
    let command = table.iter().find(|c| c.name == word);
    command.map_or("the daemon itself", |c| c.summary)
}

fn bash(table: Table) -> String {
    let mut text = String::from(
        "# bash completion for bpm; made by \"bpm completions bash\"\n\
         _bpm() {\n    \
             local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= word i skip=\n    \
             COMPREPLY=()\n    \
             for ((i = 1; i < COMP_CWORD; i++)); do\n        \
                 word=${COMP_WORDS[i]}\n        \
                 if [[ $skip ]]; then skip=; continue; fi\n        \
                 case \"$command:$word\" in\n            \
                     :-C) skip=1 ;;\n            \
                     :-*) ;;\n",
    );
    for family in families(table) {
        let _ = writeln!(
            text,
            "            :{family}) command={family} ;;\n            {family}:-*) ;;\n            \
             {family}:*) command=\"{family} $word\" ;;"
        );
    }
    text.push_str(
        "            :*) command=$word ;;\n        \
                 esac\n    \
             done\n    \
             case \"$prev\" in\n        \
                 -C) [[ $command == logs ]] || { COMPREPLY=($(compgen -d -- \"$cur\")); return; } ;;\n    \
             esac\n    \
             case \"$command $prev\" in\n",
    );
    for command in table {
        for option in command.options.iter().filter(|o| o.value.is_some()) {
            let words = values(option).join(" ");
            for spelling in spellings(option) {
                let _ = writeln!(
                    text,
                    "        {:?}) COMPREPLY=($(compgen -W {words:?} -- \"$cur\")); return ;;",
                    format!("{} {spelling}", command.name)
                );
            }
        }
    }
    text.push_str("    esac\n    case \"$command\" in\n");
    for command in table {
        let mut words: Vec<String> = options(command).flat_map(spellings).collect();
        if command.name.is_empty() {
            words.push(first_words(table).join(" "));
        }
        let mut more = "";
        match follows(command) {
            Follows::Nothing => {}
            Follows::Folders => more = " $(compgen -d -- \"$cur\")",
            Follows::Processes => words.push("$(bpm __names 2>/dev/null)".into()),
            Follows::Words(all) => words.push(all.join(" ")),
        }
        let (name, words) = (command.name, words.join(" "));
        let _ = writeln!(
            text,
            "        {name:?}) COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\"){more}) ;;"
        );
    }
    for family in families(table) {
        let _ = writeln!(
            text,
            "        {family}) COMPREPLY=($(compgen -W {:?} -- \"$cur\")) ;;",
            members(table, family).join(" ")
        );
    }
    text.push_str("    esac\n}\ncomplete -F _bpm bpm\n");
    text
}

/// The second words of a family.
fn members(table: Table, family: &str) -> Vec<&'static str> {
    table
        .iter()
        .filter_map(|c| c.name.split_once(' '))
        .filter(|(first, _)| *first == family)
        .map(|(_, second)| second)
        .collect()
}

/// Inside single quotes, and inside brackets of zsh's specifications.
fn zsh_text(text: &str) -> String {
    text.replace('\'', "'\\''")
        .replace('[', "\\[")
        .replace(']', "\\]")
        .replace(':', "\\:")
}

fn zsh(table: Table) -> String {
    let mut text = String::from(
        "#compdef bpm\n# zsh completion for bpm; made by \"bpm completions zsh\"\n\
         _bpm_names() { local -a names; names=(${(f)\"$(bpm __names 2>/dev/null)\"}); compadd -a names; }\n\
         _bpm() {\n    \
             local context state line curcontext=$curcontext\n    \
             local -a commands\n",
    );
    text.push_str("    commands=(\n");
    for word in first_words(table) {
        let _ = writeln!(text, "        '{word}:{}'", zsh_text(summary(table, word)));
    }
    text.push_str("    )\n");
    let bare = &table[0];
    text.push_str("    _arguments -C \\\n");
    zsh_options(&mut text, bare, 8);
    text.push_str(
        "        '1: :->first' '*:: :->rest'\n    \
             case $state in\n        \
             first) _describe command commands; _files -/ ;;\n        \
             rest)\n            \
                 case $words[1] in\n",
    );
    for command in table
        .iter()
        .filter(|c| !c.name.is_empty() && !c.name.contains(' '))
    {
        zsh_command(&mut text, command.name, command, 16);
    }
    for family in families(table) {
        let _ = writeln!(text, "                {family})");
        let _ = writeln!(
            text,
            "                    if (( CURRENT == 2 )); then compadd {}; else shift words; (( CURRENT-- ))",
            members(table, family).join(" ")
        );
        text.push_str("                    case $words[1] in\n");
        for command in table {
            if let Some((first, second)) = command.name.split_once(' ')
                && first == family
            {
                zsh_command(&mut text, second, command, 24);
            }
        }
        text.push_str("                    esac; fi ;;\n");
    }
    text.push_str("            esac ;;\n    esac\n}\n_bpm \"$@\"\n");
    text
}

fn zsh_command(text: &mut String, word: &str, command: &'static Command, indent: usize) {
    let _ = writeln!(text, "{:indent$}{word}) _arguments \\", "");
    zsh_options(text, command, indent + 4);
    let rest = match follows(command) {
        Follows::Nothing => String::new(),
        Follows::Folders => "'*:folder:_files -/'".into(),
        Follows::Processes => "'*:process:_bpm_names'".into(),
        Follows::Words(words) => format!("'1: :({})'", words.join(" ")),
    };
    let _ = writeln!(text, "{:indent$}    {rest} ;;", "");
}

fn zsh_options(text: &mut String, command: &'static Command, indent: usize) {
    for option in options(command) {
        for spelling in spellings(option) {
            let value = match (option.value, values(option)) {
                (None, _) => String::new(),
                (Some(_), words) if !words.is_empty() => format!(": :({})", words.join(" ")),
                (Some(_), _) if *option == DIR => ": :_files -/".into(),
                (Some(label), _) => format!(":{}: ", zsh_text(label)),
            };
            let help = zsh_text(option.help);
            let _ = writeln!(text, "{:indent$}'{spelling}[{help}]{value}' \\", "");
        }
    }
}

fn fish(table: Table) -> String {
    let mut text = String::from(
        "# fish completion for bpm; made by \"bpm completions fish\"\n\
         complete -c bpm -f\n",
    );
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut add = |when: &str, what: &str| {
        let _ = writeln!(text, "complete -c bpm -n {} {what}", quoted(when));
    };
    let word = |word: &str, help: &str| format!("-a {word} -d {}", quoted(help));
    let firsts = first_words(table);
    let nothing_yet = format!("not __fish_seen_subcommand_from {}", firsts.join(" "));
    for first in firsts {
        add(&nothing_yet, &word(first, summary(table, first)));
    }
    for command in table {
        let when = match command.name.split_once(' ') {
            _ if command.name.is_empty() => nothing_yet.clone(),
            None => format!("__fish_seen_subcommand_from {}", command.name),
            Some((family, second)) => {
                let seen = format!("__fish_seen_subcommand_from {family}; and");
                let others = members(table, family).join(" ");
                let before = format!("{seen} not __fish_seen_subcommand_from {others}");
                add(&before, &word(second, command.summary));
                format!("{seen} __fish_seen_subcommand_from {second}")
            }
        };
        for option in options(command) {
            let mut line = String::new();
            if let Some(c) = option.short {
                let _ = write!(line, "-s {c} ");
            }
            if !option.long.is_empty() {
                let _ = write!(line, "-l {} ", option.long);
            }
            if option.value.is_some() {
                line.push_str("-x ");
            }
            let words = values(option).join(" ");
            if *option == DIR {
                line.push_str("-a '(__fish_complete_directories)' ");
            } else if !words.is_empty() {
                let _ = write!(line, "-a {} ", quoted(&words));
            }
            add(&when, &format!("{line}-d {}", quoted(option.help)));
        }
        let words = match follows(command) {
            Follows::Nothing => continue,
            Follows::Folders => "(__fish_complete_directories)".into(),
            Follows::Processes => "(bpm __names 2>/dev/null)".into(),
            Follows::Words(words) => words.join(" "),
        };
        add(&when, &format!("-a {}", quoted(&words)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_in_every_shell() {
        let table = super::super::commands::COMMANDS;
        for (shell, text) in [
            ("bash", bash(table)),
            ("zsh", zsh(table)),
            ("fish", fish(table)),
        ] {
            for command in table {
                let word = command.name.rsplit(' ').next().unwrap_or_default();
                assert!(text.contains(word), "{shell}: {word}");
                for option in command.options.iter().filter(|o| !o.long.is_empty()) {
                    let written = match shell {
                        "fish" => format!("-l {}", option.long),
                        _ => format!("--{}", option.long),
                    };
                    assert!(
                        text.contains(&written),
                        "{shell}: {}: {written}",
                        command.name
                    );
                }
            }
            assert!(text.contains("__names"), "{shell}");
        }
    }
}
