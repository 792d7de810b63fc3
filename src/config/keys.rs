//! Pure: no system call, no thread, no clock.
//!
//! The one table of keys: the reader, its suggestions, the defaults and the man page all look here.

/// The table that a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Above the first table.
    Top,
    /// `[process.NAME]`.
    Process,
    /// `[process.NAME.ready]`.
    Ready,
    /// `[process.NAME.health]`.
    Health,
    /// `[process.NAME.limits]`.
    Limits,
    /// `[on_event]`, `[process.NAME.on_event]`.
    OnEvent,
}

/// The default of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This TOML value; the reader reads it as if it stood in the file.
    Toml(&'static str),
    /// Something that a value can't say.
    Words(&'static str),
}

impl Fallback {
    /// As in the man page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Toml(text) | Self::Words(text) => text,
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its table.
    pub place: Place,
    /// Its name.
    pub name: &'static str,
    /// The values that it takes, as after "expected ".
    pub kind: &'static str,
    pub fallback: Fallback,
}

const fn toml(place: Place, name: &'static str, kind: &'static str, default: &'static str) -> Key {
    Key {
        place,
        name,
        kind,
        fallback: Fallback::Toml(default),
    }
}

const fn words(place: Place, name: &'static str, kind: &'static str, default: &'static str) -> Key {
    Key {
        place,
        name,
        kind,
        fallback: Fallback::Words(default),
    }
}

const TIME: &str = "a number, 0 or more";
const TIME_ABOVE_0: &str = "a number above 0";
const TEXT: &str = "a string";
const LIST: &str = "a list of strings";
const COMMAND: &str = "a list of strings, or a string";
const SIZE: &str = "a size such as 65536 or \"64M\"";
const BOOL: &str = "true or false";
const TOGGLE: &str = "\"auto\", true or false";
const ADDRESS: &str = "an address such as \"127.0.0.1:8080\"";
const URL: &str = "a URL such as \"http://127.0.0.1:8080/health\"";
const TOP: &str = "the top level's";
const OURS: &str = "that of bpm's start";
const GLOBS: &str = "a list of globs such as \"AWS_*\"";
const EVENTS: &str = "a list of strings, a string, or a table of them by event";

/// Every key there is, in the order of the man page.
#[rustfmt::skip]
pub const KEYS: &[Key] = &{
    use Place::{Health, Limits, OnEvent, Process, Ready, Top};
    [
        words(Top, "mcp_port", "an integer from 0 to 65535", "a free port, kept for the project"),
        toml(Top, "bind", "an IP address", "\"127.0.0.1\""),
        words(Top, "token_file", "a path", "none"),
        words(Top, "metrics_token_file", "a path", "none"),
        toml(Top, "dashboard", BOOL, "true"),
        toml(Top, "allowed_origins", LIST, "[]"),
        toml(Top, "allowed_hosts", LIST, "[]"),
        toml(Top, "dev_timeout_hours", TIME_ABOVE_0, "3"),
        toml(Top, "dev_crash_wait_seconds", TIME, "120"),
        toml(Top, "release_crash_backoff_initial_seconds", TIME, "1"),
        toml(Top, "release_crash_backoff_max_seconds", TIME, "300"),
        toml(Top, "crash_backoff_factor", "a number from 1 to 1_000_000", "1.5"),
        toml(Top, "passthrough", TOGGLE, "\"auto\""),
        toml(Top, "heartbeat_minutes", TIME, "5"),
        toml(Top, "idle_shutdown_minutes", TIME, "0"),
        toml(Top, "log_lines", "an integer from 100 to 10_000_000", "10_000"),
        toml(Top, "log_bytes", "a size of 64K or more", "\"1M\""),
        toml(Top, "log_runs", "an integer from 1 to 100", "10"),
        toml(Top, "log_disk", SIZE, "\"64M\""),
        words(Top, "env", "a table of strings", "none"),
        toml(Top, "env_file", "a path, or a list of paths", "[]"),
        toml(Top, "direnv", TOGGLE, "\"auto\""),
        toml(Top, "unset_env", GLOBS, "[]"),
        words(Top, "on_event", EVENTS, "none"),
        toml(Top, "cgroup", TOGGLE, "\"auto\""),
        words(Top, "process", "a table for each process", "at least one is needed"),

        toml(Process, "type", "\"rust\", \"npm\", \"command\" or \"task\"", "\"command\""),
        toml(Process, "args", LIST, "[]"),
        words(Process, "command", COMMAND, "needed for all types but rust"),
        words(Process, "build", COMMAND, "cargo for rust, nothing for others"),
        words(Process, "build_release", COMMAND, "as build"),
        toml(Process, "build_timeout_seconds", TIME_ABOVE_0, "1800"),
        words(Process, "package", TEXT, "from Cargo.toml"),
        words(Process, "bin", TEXT, "from Cargo.toml"),
        toml(Process, "features", LIST, "[]"),
        toml(Process, "cargo_args", LIST, "[]"),
        toml(Process, "mode", "\"dev\", \"release\" or \"auto\"", "\"auto\""),
        toml(Process, "cwd", "a path", "\".\""),
        words(Process, "env", "a table of strings", "none"),
        toml(Process, "env_file", "a path, or a list of paths", "[]"),
        toml(Process, "unset_env", GLOBS, "[]"),
        toml(Process, "autostart", BOOL, "true"),
        words(Process, "restart", "\"always\", \"on-failure\" or \"never\"", "\"always\"; for a task \"never\""),
        toml(Process, "start_limit_burst", "an integer from 0 to 1_000_000", "0"),
        toml(Process, "start_limit_seconds", TIME_ABOVE_0, "60"),
        toml(Process, "stop_signal", "the name or the number of a signal", "\"TERM\""),
        toml(Process, "stop_to", "\"auto\", \"group\" or \"leader\"", "\"auto\""),
        toml(Process, "stop_timeout_seconds", TIME, "5"),
        toml(Process, "depends_on", "a list of names, or a table of conditions", "[]"),
        words(Process, "port", "an integer from 1 to 65535, or \"auto\"", "none"),
        toml(Process, "listen", "a list of addresses such as \"127.0.0.1:8080\" or \"unix:/path\"", "[]"),
        words(Process, "swap", "\"stop-start\" or \"overlap\"", "\"overlap\" with listen and a readiness check, else \"stop-start\""),
        words(Process, "ready", "a table", "none"),
        words(Process, "health", "a table", "none"),
        toml(Process, "watch", "a list of globs", "[]"),
        toml(Process, "color", BOOL, "false"),
        words(Process, "limits", "a table", "none"),
        words(Process, "nice", "an integer from -20 to 19", OURS),
        words(Process, "oom_score_adj", "an integer from -1000 to 1000", OURS),
        words(Process, "umask", "octal digits in a string, such as \"022\"", OURS),
        words(Process, "user", "a name or a number", OURS),
        words(Process, "group", "a name or a number", "the user's"),
        toml(Process, "stdin", "\"null\" or \"open\"", "\"null\""),
        toml(Process, "tty", BOOL, "false"),
        toml(Process, "success_exit_codes", "a list of exit codes and names of signals", "[0]"),
        words(Process, "on_event", EVENTS, TOP),
        words(Process, "log_lines", "an integer from 100 to 10_000_000", TOP),
        words(Process, "log_bytes", "a size of 64K or more", TOP),
        words(Process, "log_runs", "an integer from 1 to 100", TOP),
        words(Process, "log_disk", SIZE, TOP),

        words(Ready, "tcp", ADDRESS, "none"),
        words(Ready, "http", URL, "none"),
        words(Ready, "log", "a regular expression", "none"),
        words(Ready, "command", LIST, "none"),
        words(Ready, "notify", "true", "none"),
        words(Ready, "delay_seconds", TIME, "none"),
        toml(Ready, "timeout_seconds", TIME_ABOVE_0, "60"),
        toml(Ready, "interval_seconds", "a number, 0.01 or more", "0.5"),
        words(Ready, "settle_seconds", TIME, "1 with notify, else 0"),

        words(Health, "tcp", ADDRESS, "none"),
        words(Health, "http", URL, "none"),
        words(Health, "command", LIST, "none"),
        words(Health, "notify", "true", "none"),
        toml(Health, "interval_seconds", "a number, 0.01 or more", "10"),
        toml(Health, "timeout_seconds", TIME_ABOVE_0, "3"),
        toml(Health, "failures", "an integer from 1 to 1_000_000", "3"),

        words(Limits, "nofile", "an integer from 1 to 1_048_576", OURS),
        words(Limits, "core", "a size, or \"unlimited\"", OURS),
        words(Limits, "memory", SIZE, "none"),
        words(Limits, "memory_high", SIZE, "none"),
        words(Limits, "cpu", TIME_ABOVE_0, "none"),
        words(Limits, "tasks", "an integer from 1 to 4_194_304", "none"),

        words(OnEvent, "crashed", COMMAND, "none"),
        words(OnEvent, "failed", COMMAND, "none"),
        words(OnEvent, "unhealthy", COMMAND, "none"),
        words(OnEvent, "build-failed", COMMAND, "none"),
        words(OnEvent, "rolled-back", COMMAND, "none"),
        words(OnEvent, "recovered", COMMAND, "none"),
        words(OnEvent, "log-trouble", COMMAND, "none"),
    ]
};

/// The key of that name in that table.
pub(super) fn find(place: Place, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.place == place && k.name == name)
}

/// The names of all keys of a table.
pub(super) fn names(place: Place) -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter(move |k| k.place == place)
        .map(|k| k.name)
}
