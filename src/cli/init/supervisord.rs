//! Pure: no system call, no thread, no clock.
//!
//! `supervisord.conf`: Python's ini dialect, as supervisor 4 reads it.

use super::Source;
use super::draft::{Draft, Item, NOT_ROOT, ONE_OF_EACH, reason_for};
use super::quote::{literal, words};

/// A `key = value` of a section.
struct Setting {
    key: String,
    value: String,
    line: usize,
}

struct Section {
    title: String,
    line: usize,
    settings: Vec<Setting>,
}

impl Section {
    fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().rev().find(|s| s.key == key)
    }
}

/// Sections of the supervisor itself, which say nothing of programs.
const ITS_OWN: &[&str] = &[
    "unix_http_server",
    "inet_http_server",
    "supervisorctl",
    "supervisord",
];

/// Settings of a program that need nothing in bpm: each with the reason.
const NEEDS_NOTHING: &[&str] = &[
    // bpm always signals the whole group, and kills what is left.
    "stopasgroup",
    "killasgroup",
    "process_name",
    // bpm keeps what is printed, by itself.
    "redirect_stderr",
    "stdout_logfile",
    "stderr_logfile",
    "stdout_logfile_maxbytes",
    "stderr_logfile_maxbytes",
    "stdout_logfile_backups",
    "stderr_logfile_backups",
    "stdout_capture_maxbytes",
    "stderr_capture_maxbytes",
];

/// Settings without a counterpart: each with the reason.
const LACKING: &[(&str, &str)] = &[
    ("priority", "bpm starts in the order of depends_on"),
    (
        "startretries",
        "bpm tries again for ever, unless start_limit_burst is set",
    ),
    ("startsecs", "see \"ready\" in mcp-run(5)"),
    ("serverurl", "bpm has no such server"),
    ("stdout_events_enabled", "bpm has no such events"),
    ("stderr_events_enabled", "bpm has no such events"),
    ("stdout_syslog", "bpm writes no syslog"),
    ("stderr_syslog", "bpm writes no syslog"),
];

/// Reads it. `root`: the process runs as root, and `user` may be set.
pub(super) fn read(source: &Source, root: bool, draft: &mut Draft) {
    let sections = sections(source, draft);
    let common = sections.iter().find(|s| s.title == "supervisord");
    for section in &sections {
        let (kind, name) = section
            .title
            .split_once(':')
            .unwrap_or((&section.title, ""));
        let why = match kind {
            "program" if !name.is_empty() => {
                let context = Context {
                    source,
                    name,
                    section,
                };
                match context.program(common, root) {
                    Ok(item) => draft.add(item),
                    Err(why) => {
                        let title = format!("[{}]", section.title);
                        draft.left(&source.at(section.line), &title, &why);
                    }
                }
                continue;
            }
            "group" => "bpm has no groups: name several processes to a command instead",
            "include" => "other files are not read: bpm init --from FILE takes one",
            "eventlistener" => "bpm has no such events: see \"on_event\" in mcp-run(5)",
            "fcgi-program" => "a FastCGI socket: see \"listen\" in mcp-run(5)",
            kind if ITS_OWN.contains(&kind) || kind.starts_with("rpcinterface") => continue,
            _ => "unknown to bpm",
        };
        draft.left(
            &source.at(section.line),
            &format!("[{}]", section.title),
            why,
        );
    }
}

/// Sections in their order. Settings before the first one are named.
fn sections(source: &Source, draft: &mut Draft) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (line, number) in source.text.lines().zip(1..) {
        let bare = without_comment(line);
        let text = bare.trim();
        if text.is_empty() {
            continue;
        }
        if let Some(title) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            sections.push(Section {
                title: title.trim().into(),
                line: number,
                settings: Vec::new(),
            });
            continue;
        }
        let Some(section) = sections.last_mut() else {
            draft.left(&source.at(number), text, "it stands in no section");
            continue;
        };
        match (section.settings.last_mut(), text.split_once(['=', ':'])) {
            (Some(last), _) if bare.starts_with([' ', '\t']) => {
                last.value.push('\n');
                last.value.push_str(text);
            }
            (_, Some((key, value))) => section.settings.push(Setting {
                key: key.trim().to_ascii_lowercase(),
                value: value.trim().into(),
                line: number,
            }),
            (_, None) => draft.left(&source.at(number), text, "neither a section nor KEY=VALUE"),
        }
    }
    sections
}

/// A `;` or `#` at the beginning of a line or after a blank begins a comment.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if matches!(c, ';' | '#') && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

struct Context<'a> {
    source: &'a Source,
    name: &'a str,
    section: &'a Section,
}

impl Context<'_> {
    fn program(&self, common: Option<&Section>, root: bool) -> Result<Item, String> {
        let command = self.section.get("command").ok_or("it has no command")?;
        let command = words(&self.expanded(&command.value)?, true)
            .ok_or("a quote of its command is not closed")?;
        if command.is_empty() {
            return Err("its command is empty".into());
        }
        let mut item = Item::new(self.name, self.source.at(self.section.line));
        item.list("command", &command);
        // The default of supervisor.
        if self.section.get("autorestart").is_none() {
            item.text("restart", "on-failure");
        }
        if self.section.get("stopwaitsecs").is_none() {
            item.set("stop_timeout_seconds", "10".into());
        }
        if self.section.get("directory").is_none() {
            item.folder(&self.source.sub);
        }
        if let Some(setting) = common.and_then(|s| s.get("environment")) {
            self.environment(&mut item, setting);
        }
        for setting in &self.section.settings {
            self.setting(&mut item, setting, root);
        }
        Ok(item)
    }

    fn setting(&self, item: &mut Item, setting: &Setting, root: bool) {
        let place = self.source.at(setting.line);
        let said = format!("{} = {}", setting.key, setting.value);
        item.at(&place);
        if setting.key == "environment" {
            return self.environment(item, setting);
        }
        let value = match self.expanded(&setting.value) {
            Ok(value) => value,
            Err(why) => return item.left(&place, &said, &why),
        };
        let no = ["false", "no", "off", "0"].contains(&value.to_ascii_lowercase().as_str());
        let why = match setting.key.as_str() {
            "command" => return,
            "directory" if value.contains("${") || value.starts_with('~') => {
                "cwd expands no variables and no \"~\""
            }
            "directory" => return item.folder(&self.source.folder_of(&value)),
            "autostart" if no => return item.by_hand(),
            "autostart" => return,
            "autorestart" => {
                let restart = match value.to_ascii_lowercase().as_str() {
                    "unexpected" => "on-failure",
                    _ if no => "never",
                    _ => "always",
                };
                return item.text("restart", restart);
            }
            "stopsignal" if value.parse::<u8>().is_ok() => {
                return item.set("stop_signal", value);
            }
            "stopsignal" => return item.text("stop_signal", &value),
            "stopwaitsecs" => return item.set("stop_timeout_seconds", value),
            "exitcodes" => return item.set("success_exit_codes", format!("[{value}]")),
            "umask" => return item.text("umask", &value),
            "user" if root => return item.text("user", &value),
            "user" => NOT_ROOT,
            "numprocs" if value == "1" => return,
            "numprocs" => ONE_OF_EACH,
            key if NEEDS_NOTHING.contains(&key) => return,
            key => reason_for(key, LACKING),
        };
        item.left(&place, &said, why);
    }

    /// `A="x, y",B='q',C=z`.
    fn environment(&self, item: &mut Item, setting: &Setting) {
        let place = self.source.at(setting.line);
        let mut rest = setting.value.trim_start_matches([',', ' ', '\t', '\n']);
        while !rest.is_empty() {
            let Some((name, value, after)) = variable(rest) else {
                return item.left(&place, rest, "not NAME=\"value\", with commas between");
            };
            match self.expanded(value) {
                Ok(value) => item.env(name, &value),
                Err(why) => item.left(&place, name, &why),
            }
            rest = after.trim_start_matches([',', ' ', '\t', '\n']);
        }
    }

    /// `%(here)s` and its like, in the form that bpm expands.
    fn expanded(&self, value: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = value;
        while let Some(at) = rest.find('%') {
            out.push_str(&literal(&rest[..at]));
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                out.push('%');
                rest = after;
                continue;
            }
            let (name, after) = rest
                .strip_prefix('(')
                .and_then(|r| r.split_once(')'))
                .ok_or("a \"%\" that is neither \"%%\" nor \"%(name)s\"")?;
            let end = after.find(|c: char| c.is_ascii_alphabetic());
            let (format, after) = after.split_at(end.map_or(after.len(), |end| end + 1));
            rest = after;
            match name {
                "program_name" | "group_name" => out.push_str(self.name),
                "here" => out.push_str(&literal(&self.source.folder)),
                "process_num" => out.push_str(&number(0, format)),
                "numprocs" => out.push_str(&number(1, format)),
                _ => match name.strip_prefix("ENV_") {
                    Some(variable) => out.push_str(&format!("${{{variable}}}")),
                    None => return Err(format!("%({name}) is unknown to bpm")),
                },
            }
        }
        out.push_str(&literal(rest));
        Ok(out)
    }
}

/// As Python's `%` writes it: `02d` pads with zeros.
fn number(n: u32, format: &str) -> String {
    let width = format.trim_end_matches(|c: char| !c.is_ascii_digit());
    let columns = width.parse().unwrap_or(0).min(20);
    match width.starts_with('0') {
        true => format!("{n:0columns$}"),
        false => format!("{n:columns$}"),
    }
}

/// Name, value and what comes after it.
fn variable(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('=')?;
    let (name, rest) = (name.trim(), rest.trim_start());
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ',') {
        return None;
    }
    for quote in ['"', '\''] {
        if let Some(quoted) = rest.strip_prefix(quote) {
            let (value, after) = quoted.split_once(quote)?;
            return Some((name, value, after));
        }
    }
    let end = rest.find(|c: char| c.is_whitespace() || c == ',');
    let (value, after) = rest.split_at(end.unwrap_or(rest.len()));
    Some((name, value, after))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_of, draft_of, parsed};
    use super::*;
    use crate::config::{Command, Restart};

    const CONF: &str = r#"
[unix_http_server]
file=/tmp/supervisor.sock
[supervisord]
environment=LANG="C.UTF-8"
[program:web]
command=gunicorn -b 0.0.0.0:80 'my app:app'  ; the server
    --name "%(program_name)s;x" --home $HOME -n%(process_num)02d
directory=%(here)s/web
environment=A="x, y",B='q',C=z,D="5%%",E="%(ENV_USER)s ${F}",G="%(nope)s"
autorestart=true
stopsignal=QUIT
stopwaitsecs=30
numprocs=2
priority=10
[program:once]
command=true # not that
autostart=false
stopsignal=2
directory=~/x
[group:all]
programs=web,once
[include]
files = /etc/supervisor/*.conf
"#;

    #[test]
    fn programs_become_processes() {
        let draft = draft_of("supervisord.conf", CONF, |s, d| read(s, false, d));
        let config = config_of(&draft);
        let (web, once) = (&config.processes[0], &config.processes[1]);
        let command = [
            "gunicorn",
            "-b",
            "0.0.0.0:80",
            "my app:app",
            "--name",
            "web;x",
            "--home",
            "$HOME",
            "-n00",
        ];
        assert_eq!(
            web.command,
            Some(Command::List(command.map(String::from).to_vec()))
        );
        assert_eq!(web.cwd, std::path::Path::new("/shop/web"));
        let env: Vec<(&str, &str)> = web
            .env
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            env,
            [
                ("LANG", "C.UTF-8"),
                ("A", "x, y"),
                ("B", "q"),
                ("C", "z"),
                ("D", "5%"),
                ("E", "${USER} $${F}"),
            ]
        );
        assert_eq!(
            (web.restart, web.stop_timeout.as_secs()),
            (Restart::Always, 30)
        );
        assert_eq!(
            (once.restart, once.stop_timeout.as_secs()),
            (Restart::OnFailure, 10)
        );
        assert!(!once.autostart);
        assert_eq!(once.stop_signal, 2);
        assert_eq!(once.command, Some(Command::List(vec!["true".into()])));
        let lost = draft.lost().join("\n");
        for part in [
            "supervisord.conf:14: numprocs = 2: ",
            "supervisord.conf:15: priority = 10: ",
            "supervisord.conf:10: G: %(nope) is unknown",
            "supervisord.conf:20: directory = ~/x: ",
            "supervisord.conf:21: [group:all]: ",
            "supervisord.conf:23: [include]: ",
        ] {
            assert!(lost.contains(part), "{part} in {lost}");
        }
        assert_eq!(draft.lost().len(), 6, "{lost}");
    }

    #[test]
    fn a_setting_that_check_refuses_costs_no_process() {
        let conf =
            "[program:a]\ncommand=a\nstopsignal=NOPE\nstopwaitsecs=x\nexitcodes=0,999\numask=8\n";
        let mut draft = draft_of("supervisord.conf", conf, |s, d| read(s, false, d));
        draft.sift(&parsed);
        let config = config_of(&draft);
        assert_eq!(config.processes.len(), 1);
        let lost = draft.lost().join("\n");
        for part in [
            ":3: stop_signal = \"NOPE\": ",
            ":4: stop_timeout_seconds = x: ",
            ":5: success_exit_codes = [0,999]: ",
            ":6: umask = \"8\": ",
        ] {
            assert!(lost.contains(part), "{part} in {lost}");
        }
    }

    #[test]
    fn what_can_t_be_read_is_named() {
        let conf = "x=1\n[program:a]\ncommand='open\n[program:b]\ncommand=b %(nope)s\n[program:c]\ncommand=c\nenvironment=A B\nodd\n[program:d]\n";
        let draft = draft_of("supervisord.conf", conf, |s, d| read(s, false, d));
        assert_eq!(config_of(&draft).processes.len(), 1);
        let lost = draft.lost().join("\n");
        for part in [
            ":1: x=1: ",
            ":2: [program:a]: a quote of its command is not closed",
            ":4: [program:b]: %(nope) is unknown to bpm",
            ":10: [program:d]: it has no command",
            ":8: A B: ",
            ":9: odd: ",
        ] {
            assert!(lost.contains(part), "{part} in {lost}");
        }
    }
}
