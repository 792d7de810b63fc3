//! Pure: no system call, no thread, no clock.
//!
//! Environment variables that a process does not inherit from the daemon: they belong to the one call that started it.

/// Names, or beginnings of names where a `*` follows.
const CALLERS: [(&str, &[&str]); 7] = [
    (
        "of whoever started bpm as a service",
        &["NOTIFY_SOCKET", "WATCHDOG_*", "LISTEN_*"],
    ),
    (
        "of another bpm",
        &[
            "BPM_DISABLE_DAEMON",
            "BPM_ID",
            "BPM_PROCESS",
            "BPM_RUN",
            "BPM_PROJECT",
        ],
    ),
    ("of the shell", &["OLDPWD"]),
    (
        // `git rev-parse --local-env-vars`, git 2.47.
        "of a git command, whose hook may have started bpm",
        &[
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            "GIT_COMMON_DIR",
            "GIT_CONFIG",
            "GIT_CONFIG_COUNT",
            "GIT_CONFIG_PARAMETERS",
            "GIT_DIR",
            "GIT_GRAFT_FILE",
            "GIT_IMPLICIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_INTERNAL_SUPER_PREFIX",
            "GIT_NO_REPLACE_OBJECTS",
            "GIT_OBJECT_DIRECTORY",
            "GIT_PREFIX",
            "GIT_REPLACE_REF_BASE",
            "GIT_SHALLOW_FILE",
            "GIT_WORK_TREE",
        ],
    ),
    (
        "of make and cargo, whose jobserver is another's",
        &["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS"],
    ),
    (
        "of a script that npm runs",
        &[
            "npm_lifecycle_*",
            "npm_package_*",
            "npm_command",
            "npm_execpath",
            "npm_node_execpath",
        ],
    ),
    (
        // Under them `astro dev` 7.3.5 leaves for the background, and `next dev` 16.4.6 writes into AGENTS.md.
        "of an agent",
        &[
            "CLAUDECODE",
            "CLAUDE_CODE_*",
            "CODEX_*",
            "GEMINI_CLI",
            "OPENCODE",
            "OPENCODE_*",
            "CURSOR_AGENT",
            "AI_AGENT",
        ],
    ),
];

/// Whether a variable of the daemon's start belongs to the call that started it.
pub fn is_callers(name: &str) -> bool {
    let mut listed = CALLERS.iter().flat_map(|(_, names)| names.iter());
    listed.any(|listed| matches(listed.as_bytes(), name.as_bytes())) && !name.ends_with("_API_KEY")
}

/// Agents, and the marks that each sets in the environment of its commands.
const AGENTS: [(&str, &str); 6] = [
    ("CLAUDE", "Claude Code"),
    ("CODEX_", "Codex"),
    ("GEMINI_CLI", "Gemini CLI"),
    ("OPENCODE", "OpenCode"),
    ("CURSOR_AGENT", "Cursor"),
    ("AI_AGENT", "an agent"),
];

/// The agent that marks a call whose environment has these names.
pub fn agent(names: &[&str]) -> Option<&'static str> {
    let marks = |mark: &str, name: &&str| name.starts_with(mark) && is_callers(name);
    let mut agents = AGENTS.iter();
    let found = agents.find(|(mark, _)| names.iter().any(|name| marks(mark, name)));
    found.map(|(_, agent)| *agent)
}

/// Whether an environment has nothing but what every login has: agents start MCP servers with no more, and a program
/// misses the variables of its user's shell.
pub fn is_poor(names: &[&str]) -> bool {
    const EVERYWHERE: [&str; 13] = [
        "HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "TERM", "TMPDIR", "TZ", "USER",
        "LANGUAGE", "_",
    ];
    let rest = |name: &&&str| {
        !EVERYWHERE.contains(name)
            && !is_callers(name)
            && !name.starts_with("LC_")
            && !name.starts_with("BPM_")
    };
    !names.iter().any(|name| rest(&name))
}

/// Whether one of the globs of `unset_env` names a variable.
pub fn is_unset(name: &str, globs: &[String]) -> bool {
    let mut globs = globs.iter();
    globs.any(|glob| matches(glob.as_bytes(), name.as_bytes()))
}

/// Whether a name fits a pattern in which `*` is any number of characters and `?` one. Takes at most the product of
/// both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Behind the last `*`, and the first byte of the name that it has not taken.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((behind, taken)) => {
                    (p, n) = (behind, taken + 1);
                    star = Some((behind, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_caller_are_left_out() {
        for name in [
            "GIT_DIR",
            "GIT_INDEX_FILE",
            "MAKEFLAGS",
            "npm_lifecycle_event",
            "npm_package_json",
            "CLAUDECODE",
            "CLAUDE_CODE_SSE_PORT",
            "CODEX_SANDBOX",
            "OPENCODE_CLIENT",
            "OLDPWD",
            "LISTEN_FDS",
            "WATCHDOG_USEC",
            "NOTIFY_SOCKET",
        ] {
            assert!(is_callers(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "GIT_SSH_COMMAND",
            "GIT_AUTHOR_NAME",
            "npm_config_registry",
            "CODEX_API_KEY",
            "ANTHROPIC_API_KEY",
            "MAKE",
            "LISTENER",
            "PWD",
        ] {
            assert!(!is_callers(name), "{name}");
        }
    }

    #[test]
    fn agents_and_poor_environments_are_known_by_their_names() {
        let codex = ["HOME", "LANG", "PATH", "TERM", "CODEX_SANDBOX"];
        assert_eq!((agent(&codex), is_poor(&codex)), (Some("Codex"), true));
        let claude = ["PATH", "CLAUDECODE", "SSH_AUTH_SOCK"];
        assert_eq!(
            (agent(&claude), is_poor(&claude)),
            (Some("Claude Code"), false)
        );
        let keys = ["CODEX_API_KEY", "CLAUDE_API_KEY", "PATH"];
        assert_eq!((agent(&keys), is_poor(&keys)), (None, false));
    }

    #[test]
    fn unset_env_names_more_by_globs() {
        let unset = ["AWS_*".to_string(), "S?CRET".into(), "X_API_KEY".into()];
        for name in ["AWS_REGION", "SECRET", "S1CRET", "X_API_KEY"] {
            assert!(is_unset(name, &unset), "{name}");
        }
        assert!(!is_unset("MY_AWS_REGION", &unset));
    }
}
