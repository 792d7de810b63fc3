//! The one table of commands: the parser, every help text and the completions come from it; tests/cli/help_and_man.rs
//! compares `man/bpm.1` with it. A command that is not built is not in it.

use super::spec::{Command, Operands, Opt, flag, runs, with};
use super::{
    check, complete, daemon, dash, doctor, export, init, install, logs, mcp_config, metrics,
    orders, status, trust, tui, up, upgrade,
};

const JSON: Opt = flag("json", "one JSON document instead of text");
const REPLACE: Opt = flag("replace", "stop a daemon that runs already, then start");
const FRESH: Opt = flag(
    "fresh",
    "stop what a killed daemon left instead of taking it over",
);
const PORT: Opt = with(
    "port",
    "N|auto",
    "TCP port of /mcp; overrides mcp_port and BPM_PORT (0: none, auto: a free one)",
);
const FORCE: Opt = flag(
    "force",
    "kill at once instead of waiting for an orderly end",
);
const NO_DAEMON: (u8, &str) = (3, "no daemon runs for the project");
const TIMED_OUT: (u8, &str) = (124, "it took longer than the time given");

const UPGRADE: &[Opt] = &[
    with(
        "binary",
        "FILE",
        "the program to run, instead of the one that runs this command",
    ),
    flag("all", "every daemon of this user, one after the other"),
    flag("now", "cancel builds under way, and repeat them afterwards"),
    flag("force", "an older version too"),
    JSON,
];
const UPGRADE_EXITS: &[(u8, &str)] = &[
    (1, "it was refused or failed; the daemon is as it was"),
    NO_DAEMON,
];

/// All commands, in the order of help.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "",
        operands: Operands::Dir,
        summary: "run the project in the foreground, or with -d as a daemon",
        about: "Builds and starts the processes of DIR's .mcp-run and serves MCP until INT or TERM stops \
                it in order; a second one, or QUIT, kills everything and exits. In the foreground the lines of the \
                processes are printed with their names before them.",
        options: &[
            flag("detach", "as a daemon; back once it is ready").short('d'),
            REPLACE,
            FRESH,
            PORT,
        ],
        exits: &[(
            1,
            "it could not be started; in the foreground also: it runs already",
        )],
        ..runs(daemon::bare)
    },
    Command {
        name: "serve",
        operands: Operands::Dir,
        summary: "run the project in the foreground",
        about: "The same as bpm without a command.",
        options: &[REPLACE, FRESH, PORT],
        exits: &[(1, "it could not be started, or it runs already")],
        ..runs(daemon::serve)
    },
    Command {
        name: "up",
        operands: Operands::Names,
        summary: "start everything, wait until it is ready, and print how to reach it",
        about: "Starts the daemon if there is none, starts what does not run, shows builds as they go, \
                waits until all is ready, then prints the URLs and the lines that connect an agent. What \
                runs already is left alone.",
        options: &[
            REPLACE,
            FRESH,
            PORT,
            with(
                "timeout",
                "S",
                "seconds to wait for readiness, counted from the end of each build (60)",
            ),
        ],
        exits: &[(1, "something failed to build or to start"), TIMED_OUT],
        ..runs(up::up)
    },
    Command {
        name: "start",
        operands: Operands::Names,
        summary: "start the daemon, or these processes and what they depend on",
        about: "Without a name it is bpm -d. With names and without a daemon, the daemon is started \
                without the other processes. Waits until they are ready.",
        options: &[REPLACE, FRESH, PORT],
        exits: &[(1, "it could not be started")],
        ..runs(orders::start)
    },
    Command {
        name: "stop",
        operands: Operands::Names,
        summary: "stop everything and the daemon, or these processes",
        about: "Waits until nothing is left of them. It is no error if nothing runs. Ten seconds after the \
                longest stop timeout the daemon is killed, and what it leaves behind is stopped.",
        options: &[FORCE],
        exits: &[(1, "something survived")],
        ..runs(orders::stop)
    },
    Command {
        name: "restart",
        operands: Operands::Names,
        summary: "build, then swap in the new run",
        about: "The old run serves on while the new one is built. On failure the first errors are \
                printed, and the old run stays. NAME or --all is needed.",
        options: &[
            flag("all", "every process"),
            flag("release", "build for release instead of dev"),
        ],
        exits: &[(1, "the build or the start failed"), NO_DAEMON],
        ..runs(orders::restart)
    },
    Command {
        name: "status",
        operands: Operands::MaybeName,
        summary: "a table of the processes, and what is wrong",
        options: &[
            JSON,
            flag("watch", "redraw it every second, cut to the terminal").short('w'),
        ],
        exits: &[
            (
                1,
                "the daemon is stale or unhealthy, or there is no such process",
            ),
            NO_DAEMON,
        ],
        ..runs(status::status)
    },
    Command {
        name: "logs",
        operands: Operands::Names,
        summary: "what the processes printed, merged by time",
        about: "With one name only that process is shown, without its name before the lines. Without a \
                daemon what is on disk is shown. -f goes on over restarts of the process and of the daemon. \
                The project's folder is given before the command (bpm -C DIR logs), since -C means context \
                here.",
        options: &[
            flag("follow", "go on with new lines as they come").short('f'),
            with("lines", "N", "the last N lines (200)").short('n'),
            with(
                "run",
                "K",
                "which run: -1 the newest (default), -2 the one before, 0 the oldest known",
            ),
            flag("build", "the output of the build instead"),
            flag(
                "errors",
                "errors and warnings, similar ones grouped; goes with --run, --build, --json",
            ),
            with("grep", "RE", "only lines that match the regular expression"),
            flag("ignore-case", "ignore case in --grep").short('i'),
            flag("literal", "--grep is a literal text").short('F'),
            with("context", "N", "N lines around each match").short('C'),
            with(
                "since",
                "TIME",
                "only what came since: 90s, 5m, or RFC 3339",
            ),
            with("stream", "stdout|stderr", "only this stream"),
            flag("times", "the time before each line").short('t'),
            flag("raw", "the bytes as they were written"),
            flag("json", "one JSON object a line"),
        ],
        exits: &[
            (1, "there is no such process, or the pattern is no regex"),
            (3, "there is neither a daemon nor anything on disk"),
        ],
        ..runs(logs::logs)
    },
    Command {
        name: "wait",
        operands: Operands::Name,
        summary: "wait until a process is ready, ends, is built, or prints a line",
        options: &[
            with("for", "ready|exit|build|log", "what is waited for (ready)"),
            with("pattern", "RE", "for log: the regular expression"),
            with("timeout", "S", "seconds to wait (for ever)"),
        ],
        exits: &[(1, "it can't happen any more"), NO_DAEMON, TIMED_OUT],
        ..runs(orders::wait)
    },
    Command {
        name: "why",
        operands: Operands::Name,
        summary: "how and when a process last ended abnormally, and what happens next",
        exits: &[(1, "there is no such process"), NO_DAEMON],
        ..runs(orders::why)
    },
    Command {
        name: "reload",
        summary: "read .mcp-run again; only what changed is touched",
        options: &[flag("dry-run", "only list what would be done")],
        exits: &[(1, "the file has mistakes, or a change failed"), NO_DAEMON],
        ..runs(orders::reload)
    },
    Command {
        name: "upgrade",
        summary: "let another version of bpm take over the daemon; no process is restarted",
        about: "The daemon executes the program in its own process: its pid, its processes with their pipes and exit \
                codes, its sockets, logs and numbers stay. Whatever keeps the program from taking over is said, and \
                nothing has happened then. Builds under way are finished first. USR2 does the same with the program of \
                the daemon's start.",
        options: UPGRADE,
        exits: UPGRADE_EXITS,
        ..runs(upgrade::upgrade)
    },
    Command {
        name: "trust",
        operands: Operands::Dir,
        summary: "use the .mcp-run of a folder that others can write",
        about: "Otherwise bpm starts nothing where another user could have written the .mcp-run, or put it there. \
                The list is kept in BPM_HOME; BPM_TRUST names more folders, with a colon between them.",
        options: &[
            flag("list", "print the folders"),
            flag("remove", "take the folder from the list"),
        ],
        exits: &[(1, "there is no such folder")],
        ..runs(trust::trust)
    },
    Command {
        name: "init",
        summary: "write a .mcp-run for what is found in the folder",
        about: "Reads Procfile, supervisord.conf, pm2's JSON, Cargo.toml, package.json, pyproject.toml and \
                their like, runs none of it, and never replaces a .mcp-run. Settings that can't be converted become comments, and are listed.",
        options: &[
            flag("stdout", "only print it"),
            with("from", "FILE", "take over this file alone"),
            flag("force", "replace a .mcp-run; it is kept as .mcp-run.bak"),
        ],
        exits: &[(
            1,
            "nothing to run was found, or there is a .mcp-run already",
        )],
        ..runs(init::init)
    },
    Command {
        name: "check",
        summary: "read .mcp-run and print every mistake in it",
        exits: &[(1, "it has mistakes")],
        ..runs(check::check)
    },
    Command {
        name: "doctor",
        summary: "check for common problems, and print how to fix them",
        about: "A line for each thing that was looked at: ok, note or PROBLEM, and what to do. It starts \
                nothing of the project and changes nothing.",
        options: &[JSON],
        exits: &[(1, "there is a problem")],
        ..runs(doctor::doctor)
    },
    Command {
        name: "dash",
        summary: "print the URL of the page",
        about: "With token_file the URL carries the token; --open never does, since everybody can read the \
                arguments of a program: the page asks for it.",
        options: &[flag("open", "show it in a browser (xdg-open)")],
        exits: &[
            (1, "there is no page: dashboard = false, or no TCP port"),
            NO_DAEMON,
        ],
        ..runs(dash::dash)
    },
    Command {
        name: "metrics",
        summary: "print the metrics, as GET /metrics does",
        about: "Prometheus text, for a textfile collector, or where there is no TCP port.",
        exits: &[NO_DAEMON],
        ..runs(metrics::metrics)
    },
    Command {
        name: "ps",
        summary: "all daemons of this user",
        about: "A daemon whose folder was removed or renamed is listed as such; -C with the old path reaches it.",
        options: &[
            JSON,
            flag(
                "prune",
                "list and remove what is kept of projects whose folder is gone",
            ),
        ],
        ..runs(status::ps)
    },
    Command {
        name: "proxy",
        operands: Operands::Dir,
        summary: "MCP on standard input and output, bridged to the daemon",
        about: "For agents that speak stdio. Starts the daemon when a call needs it, survives its restarts, \
                ends with its input.",
        options: &[flag(
            "standalone",
            "serve without a daemon (as with BPM_DISABLE_DAEMON=1); the processes end with it",
        )],
        exits: &[(1, "the connection can't be served")],
        ..runs(daemon::proxy)
    },
    Command {
        name: "tui",
        operands: Operands::Url,
        summary: "the terminal UI: runs bpm-tui",
        about: "bpm-tui(1) is a separate program that not every build of bpm has. It is looked for \
                beside bpm, else in PATH.",
        options: &[
            flag(
                "read-only",
                "change nothing: no restart, start, stop, reload",
            ),
            flag(
                "no-start",
                "do not start a daemon that does not run; exit 3",
            ),
            flag("no-mouse", "leave the mouse to the terminal"),
            flag("no-color", "bold, underline and reverse only"),
            flag("ascii", "marks and frames in ASCII"),
            with("fps", "N", "frames per second, 1 to 30 (10; 4 over SSH)"),
            with(
                "token-file",
                "FILE",
                "its contents are the token, over HTTP (also BPM_TOKEN_FILE)",
            ),
        ],
        exits: &[
            (
                1,
                "there is no bpm-tui, or it can't reach what it is to show",
            ),
            NO_DAEMON,
        ],
        ..runs(tui::tui)
    },
    Command {
        name: "mcp-config",
        operands: Operands::Word {
            label: "CLIENT",
            words: mcp_config::CLIENTS,
            needed: false,
        },
        summary: "the line or file that connects an agent; all without a name",
        options: &[
            flag(
                "stdio",
                "only the form over bpm proxy, which survives a change of port",
            ),
            flag("check", "connect as the agent would, and say how it went"),
        ],
        exits: &[(
            1,
            "there is no such project; with --check: an agent could not connect",
        )],
        ..runs(mcp_config::mcp_config)
    },
    Command {
        name: "install",
        summary: "make the daemon start with the machine, by a systemd unit",
        about: "A unit of the user; as root one of the system. A daemon that runs already is stopped, and \
                started again by systemd, once you have confirmed it.",
        options: &[
            flag("dry-run", "only print the unit"),
            with("user", "NAME", "as root: the user that it runs as"),
            flag("yes", "stop a daemon that runs without asking"),
        ],
        exits: &[(1, "systemd can't be reached, or it was not confirmed")],
        ..runs(install::install)
    },
    Command {
        name: "uninstall",
        summary: "stop the daemon of bpm install, and remove its unit",
        options: &[flag("dry-run", "only say what would be removed")],
        exits: &[(1, "the unit could not be removed")],
        ..runs(install::uninstall)
    },
    Command {
        name: "export",
        operands: Operands::Word {
            label: "ENGINE",
            words: export::ENGINES,
            needed: true,
        },
        summary: "write the processes as units or manifests for another engine",
        about: "To standard output, or into a folder. Settings without a counterpart become comments, and are counted.",
        options: &[
            with("output", "DIR", "into this folder").short('o'),
            flag("strict", "exit 1 if a setting has no counterpart"),
            flag(
                "with-secrets",
                "the values of *_TOKEN, *_KEY, *_SECRET and *_PASSWORD too",
            ),
            with("image", "NAME", "compose, kubernetes, nomad: the image"),
            with("replicas", "N", "the same: how many of each (1)"),
            flag("self", "systemd: one unit that runs bpm"),
            flag("user", "systemd: units of the user, not of the system"),
        ],
        exits: &[(1, "it can't be exported, or with --strict not all of it")],
        ..runs(export::export)
    },
    Command {
        name: "completions",
        operands: Operands::Word {
            label: "SHELL",
            words: &["bash", "zsh", "fish"],
            needed: true,
        },
        summary: "a script that completes commands, options and process names",
        about: "bash: source <(bpm completions bash). zsh: bpm completions zsh > a file _bpm in your \
                fpath. fish: bpm completions fish | source.",
        ..runs(complete::completions)
    },
    Command {
        name: "daemon start",
        summary: "the same as bpm -d",
        options: &[
            flag("foreground", "the same as bpm serve"),
            REPLACE,
            FRESH,
            PORT,
        ],
        exits: &[(1, "it could not be started")],
        ..runs(daemon::daemon_start)
    },
    Command {
        name: "daemon stop",
        summary: "stop everything and the daemon",
        options: &[FORCE],
        exits: &[(1, "something survived")],
        ..runs(daemon::daemon_stop)
    },
    Command {
        name: "daemon restart",
        summary: "stop the daemon with everything, and start it",
        options: &[FORCE, PORT],
        exits: &[(1, "it could not be stopped or started")],
        ..runs(daemon::daemon_restart)
    },
    Command {
        name: "daemon status",
        summary: "the daemon itself: verdict, pid, uptime, clients, socket, URL, version, memory",
        options: &[JSON],
        exits: &[(1, "it is stale or unhealthy"), NO_DAEMON],
        ..runs(status::daemon_status)
    },
    Command {
        name: "daemon upgrade",
        summary: "the same as bpm upgrade",
        options: UPGRADE,
        exits: UPGRADE_EXITS,
        ..runs(upgrade::upgrade)
    },
    Command {
        name: "daemon logs",
        summary: "the daemon's own log",
        options: &[
            flag("follow", "go on with new lines as they come").short('f'),
            with("lines", "N", "the last N lines (200)").short('n'),
        ],
        exits: &[(3, "no daemon ever ran for the project")],
        ..runs(logs::daemon_logs)
    },
];
