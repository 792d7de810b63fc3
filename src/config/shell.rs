//! Pure: no system call, no thread, no clock.
//!
//! Strings that `sh -c` runs: whether one is a simple command, and which runner a command begins with.

/// Words that a shell executes by itself: `exec` in front of one would fail, or do something else.
const BUILTINS: [&str; 77] = [
    "!", ".", ":", "[", "[[", "alias", "bg", "bind", "break", "builtin", "caller", "case", "cd",
    "chdir", "command", "compgen", "complete", "continue", "coproc", "declare", "dirs", "disown",
    "do", "done", "echo", "elif", "else", "enable", "esac", "eval", "exec", "exit", "export",
    "false", "fc", "fg", "fi", "for", "function", "getopts", "hash", "help", "history", "if", "in",
    "jobs", "kill", "let", "local", "logout", "popd", "printf", "pushd", "pwd", "read", "readonly",
    "return", "select", "set", "shift", "shopt", "source", "suspend", "test", "then", "time",
    "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias", "unset", "until",
    "wait",
];
const KEYWORDS: [&str; 3] = ["while", "{", "}"];

/// Whether a string is one simple command (POSIX, Shell Command Language, 2.9.1) without redirection, substitution or
/// assignment whose first word is a program: `exec` may stand before it.
pub fn is_simple(text: &str) -> bool {
    let Some(first) = first_word(text) else {
        return false;
    };
    let assigns = first
        .split_once('=')
        .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    let special = BUILTINS.contains(&first.as_str()) || KEYWORDS.contains(&first.as_str());
    !assigns && !special && !first.contains(['$', '#']) && has_no_operator(text)
}

/// The first word with its quotes removed; None where there is none, or a quote is not closed.
fn first_word(text: &str) -> Option<String> {
    let mut word = String::new();
    let mut chars = text.trim_start().chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => break,
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => word.push(chars.next()?),
                    c => word.push(c),
                }
            },
            '\\' => word.push(chars.next()?),
            c => word.push(c),
        }
    }
    (!word.is_empty()).then_some(word)
}

/// No control or redirection operator outside quotes, no command substitution anywhere, all quotes closed.
fn has_no_operator(text: &str) -> bool {
    let mut chars = text.trim().chars().peekable();
    let mut double = false;
    while let Some(c) = chars.next() {
        match c {
            '`' => return false,
            '$' if chars.peek() == Some(&'(') => return false,
            '\\' if chars.next().is_none_or(|escaped| escaped == '\n') => return false,
            '"' => double = !double,
            '\'' if !double && chars.by_ref().all(|c| c != '\'') => return false,
            ';' | '&' | '|' | '<' | '>' | '(' | ')' | '\n' if !double => return false,
            _ => {}
        }
    }
    !double
}

/// A program that starts another one, or workers, and stays beside it.
#[derive(Debug)]
pub struct Runner {
    name: &'static str,
    /// It is one with a flag that begins like this; empty: always.
    flag: &'static str,
    /// Signals that it passes on in its own way: sent to both, the program hears them twice, and many programs give up
    /// their orderly end at the second.
    passes: &'static [&'static str],
    /// It dies of all others and takes its program along.
    guards: bool,
}

/// Run with a program that notes each signal: bun 1.4.4, pnpm 12.21.0, uv 0.13.8, GNU make 4.3, deno 2.9.6,
/// yarn 4.18.1, tsx 4.23.15, node 24.22.3. npm 12.2.0 and sh die of the signal without passing it on: there the group is right. The workers of
/// hypercorn 0.18.0 ignore INT and die of TERM with the requests under way; its first process ends them in order. podman
/// 4.3.1 passes signals to the first process of its container; the others in there are not meant.
const RUNNERS: [Runner; 10] = [
    Runner {
        name: "bun",
        flag: "",
        passes: &["TERM", "INT"],
        guards: false,
    },
    Runner {
        name: "pnpm",
        flag: "",
        passes: &["TERM", "INT", "HUP"],
        guards: true,
    },
    Runner {
        name: "uv",
        flag: "",
        passes: &["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"],
        guards: false,
    },
    Runner {
        name: "make",
        flag: "",
        passes: &["TERM", "INT", "HUP"],
        guards: false,
    },
    Runner {
        name: "deno",
        flag: "",
        passes: &["TERM", "INT"],
        guards: false,
    },
    Runner {
        name: "yarn",
        flag: "",
        passes: &["TERM", "INT"],
        guards: false,
    },
    Runner {
        name: "tsx",
        flag: "",
        passes: &["TERM", "INT"],
        guards: false,
    },
    Runner {
        name: "node",
        flag: "--watch",
        passes: &["TERM", "INT"],
        guards: false,
    },
    Runner {
        name: "hypercorn",
        flag: "",
        passes: &["TERM"],
        guards: false,
    },
    Runner {
        name: "podman",
        flag: "",
        passes: &["TERM", "INT", "HUP", "QUIT"],
        guards: false,
    },
];

/// The processes of a run that get the first signal of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Receiver {
    /// All of its group.
    #[default]
    Group,
    /// Its leader, which passes it on.
    Leader,
    /// All but its leader, which would kill them.
    Rest,
}

/// The receiver of `signal` (`TERM`) for a command of these words, with `stop_to = "auto"`.
pub fn receiver<'a>(mut words: impl Iterator<Item = &'a str>, signal: &str) -> Receiver {
    let first = words.next().unwrap_or_default();
    let name = first.rsplit('/').next().unwrap_or(first);
    // What stands behind the script is the script's.
    let flags: Vec<&str> = words.take_while(|word| word.starts_with('-')).collect();
    let is = |runner: &&Runner| {
        let flagged = flags.iter().any(|flag| flag.starts_with(runner.flag));
        runner.name == name && (runner.flag.is_empty() || flagged)
    };
    match RUNNERS.iter().find(is) {
        Some(runner) if runner.passes.contains(&signal) => Receiver::Leader,
        Some(runner) if runner.guards => Receiver::Rest,
        _ => Receiver::Group,
    }
}

/// How a command hides held sockets from its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hides {
    /// It closes the descriptors.
    Closes,
    /// The program is a child of it: the descriptors are there, and `LISTEN_PID` is another's.
    Child,
    /// A shell stays in between: likewise.
    Shell,
}

/// A runner that starts a program, and the words that make it do that; none: any.
type Starts = (&'static str, &'static [&'static str]);

/// Run with a program that looks at descriptor 3: npm 12.2.0, yarn 4.18.1, bun 1.4.4; uv 0.13.8, pnpm 12.21.0, GNU make
/// 4.3, deno 2.9.6.
const CLOSES: [Starts; 5] = [
    ("npm", &[]),
    ("npx", &[]),
    ("yarn", &[]),
    ("bun", &["run", "x"]),
    ("bunx", &[]),
];
const CHILD: [Starts; 4] = [
    ("uv", &["run"]),
    ("pnpm", &[]),
    ("make", &[]),
    ("deno", &["task"]),
];

/// Whether a command that is executed word by word hides held sockets from its program.
pub fn hides_sockets(words: &[&str]) -> Option<Hides> {
    let (first, rest) = words.split_first()?;
    let name = first.rsplit('/').next().unwrap_or(first);
    let starts = |(runner, with): &Starts| {
        let second = rest.first().copied().unwrap_or_default();
        *runner == name && (with.is_empty() || with.contains(&second))
    };
    // `bun run server.ts` is the program itself.
    let file = name == "bun" && rest.get(1).is_some_and(|word| word.contains(['.', '/']));
    if CLOSES.iter().any(starts) && !file {
        return Some(Hides::Closes);
    }
    // A program that is given the number needs no LISTEN_PID.
    let told = |word: &&str| word.starts_with("--fd") || word.contains("fd://");
    (CHILD.iter().any(starts) && !rest.iter().any(told)).then_some(Hides::Child)
}

/// The same of a string for `sh -c`.
pub fn line_hides_sockets(line: &str) -> Option<Hides> {
    let command = line.trim_start();
    let command = command.strip_prefix("exec ").unwrap_or(command);
    if is_simple(command) {
        return hides_sockets(&command.split_whitespace().collect::<Vec<_>>());
    }
    let told = ["exec ", "--fd", "fd://"]
        .iter()
        .any(|word| line.contains(word));
    (!told).then_some(Hides::Shell)
}

/// The words of a string for `sh -c`, behind `exec`, where it is one simple command: the first without its quotes.
pub fn words(text: &str) -> Vec<String> {
    let text = text.trim_start();
    let command = text.strip_prefix("exec ").unwrap_or(text);
    let first = first_word(command).filter(|_| is_simple(command));
    let rest = command.split_whitespace().skip(1).map(String::from);
    first.map_or_else(Vec::new, |first| {
        std::iter::once(first).chain(rest).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_commands_are_told_from_scripts() {
        for simple in [
            "gunicorn wapp:app",
            "  ./srv --port ${PORT} 'a;b' \"c|d\"",
            "'./my server' x",
            "node server.js # a comment",
            "a\\;b c",
            "python -c 'import os; print(1)'",
            "sleep 5 ",
        ] {
            assert!(is_simple(simple), "{simple}");
        }
        for script in [
            "",
            "   ",
            "a; b",
            "a && b",
            "a | b",
            "a > f",
            "a <f",
            "(a)",
            "a &",
            "A=1 b",
            "cd x",
            "echo hi",
            "exec a",
            "$CMD x",
            "a `b`",
            "a $(b)",
            "a \"$(b)\"",
            "if a",
            "while a",
            "{ a",
            "a\nb",
            "a 'b",
            "a \"b",
            "! a",
            "# a",
            "[ -e x ]",
            "a \\\nb",
            "\"cd\" x",
            ": x",
        ] {
            assert!(!is_simple(script), "{script}");
        }
    }

    #[test]
    fn program_stands_behind_exec() {
        assert_eq!(words("exec uv run x"), ["uv", "run", "x"]);
        assert_eq!(words("'/usr/bin/make' serve"), ["/usr/bin/make", "serve"]);
        assert!(words("cd x && make").is_empty());
    }

    #[test]
    fn commands_that_hide_held_sockets_are_known() {
        for (line, hides) in [
            ("npm run dev", Some(Hides::Closes)),
            ("/usr/bin/yarn dev", Some(Hides::Closes)),
            ("bun run dev", Some(Hides::Closes)),
            ("bun run server.ts", None),
            ("bun server.ts", None),
            ("exec uv run gunicorn app:app", Some(Hides::Child)),
            ("uv run uvicorn app:app --fd 3", None),
            ("uv sync", None),
            ("deno task dev", Some(Hides::Child)),
            ("deno run -A serve.ts", None),
            ("make serve", Some(Hides::Child)),
            ("gunicorn app:app", None),
            ("poetry run gunicorn app:app", None),
            ("cd x && gunicorn app:app", Some(Hides::Shell)),
            ("cd x && exec gunicorn app:app", None),
            ("cd x && uvicorn --fd 3 app:app", None),
        ] {
            assert_eq!(line_hides_sockets(line), hides, "{line}");
        }
        assert_eq!(hides_sockets(&["pnpm", "dev"]), Some(Hides::Child));
        assert_eq!(hides_sockets(&[]), None);
    }

    #[test]
    fn runners_that_pass_a_signal_on_get_it_alone() {
        let to = |line: &str, signal: &str| receiver(line.split(' '), signal);
        assert_eq!(to("/usr/local/bin/bun run x", "TERM"), Receiver::Leader);
        assert_eq!(to("pnpm dev", "HUP"), Receiver::Leader);
        assert_eq!(to("pnpm dev", "QUIT"), Receiver::Rest);
        assert_eq!(to("make", "USR1"), Receiver::Group);
        assert_eq!(to("podman run --rm x", "TERM"), Receiver::Leader);
        assert_eq!(to("tsx watch server.ts", "TERM"), Receiver::Leader);
        assert_eq!(to("node --watch server.js", "INT"), Receiver::Leader);
        assert_eq!(to("node -C x --watch server.js", "INT"), Receiver::Group);
        assert_eq!(to("node --watch-path=src s.js", "TERM"), Receiver::Leader);
        assert_eq!(to("node server.js --watch", "TERM"), Receiver::Group);
        assert_eq!(to("venv/bin/hypercorn app:app", "TERM"), Receiver::Leader);
        assert_eq!(to("hypercorn app:app", "INT"), Receiver::Group);
        for other in ["npm run dev", "node", "sh", "python3 x", "unmake", ""] {
            assert_eq!(to(other, "TERM"), Receiver::Group);
        }
    }
}
