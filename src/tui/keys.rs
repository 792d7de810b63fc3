//! Pure: no system call, no thread, no clock.
//!
//! The one table of keys: the help and the manual say what it says.

/// Keys and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// As they are shown: `j ↓, k ↑`.
    pub keys: &'static str,
    /// In a line of the help.
    pub does: &'static str,
}

const fn row(keys: &'static str, does: &'static str) -> Row {
    Row { keys, does }
}

/// All keys, in the order of the help.
pub const KEYS: &[Row] = &[
    row(
        "j ↓  k ↑",
        "next, previous process; in plain mode and overlays: scroll",
    ),
    row("Enter", "read the last lines again; end filter and pause"),
    row("r  R", "restart (build first); all processes, asks"),
    row("s", "start what does not run, else stop (asks)"),
    row("c", "clear the panel, nothing else"),
    row("w", "why it last ended, and what happens next"),
    row(
        "e",
        "errors of the last build; Enter opens one in $VISUAL or $EDITOR",
    ),
    row("b", "build log and back"),
    row("[  ]", "the run before, the run after"),
    row(
        "/  n  N",
        "search (regex; a capital letter makes case count), older hit, newer hit",
    ),
    row("&", "only lines that match, history included; empty: all"),
    row("p", "only processes whose name has it; empty: all"),
    row("f G End", "follow the newest line"),
    row("g Home", "the oldest line held"),
    row("PgUp PgDn", "a page; Ctrl-u Ctrl-d half a page"),
    row("← →", "sideways, where long lines are cut"),
    row("l", "long lines wrapped or cut"),
    row("t", "times"),
    row("o", "the shown log in $PAGER"),
    row(
        "z",
        "plain mode: the lines alone, to select and copy with the terminal",
    ),
    row(
        "y",
        "copy: the drag's lines, else the hit, else what is seen",
    ),
    row("m", "mouse ours or the terminal's"),
    row("u", "reload .mcp-run: shows what would change, asks"),
    row("S", "start a stopped daemon"),
    row("Tab", "on a small screen: the details whole"),
    row("? F1", "this help, and the last messages"),
    row("Ctrl-L", "draw the screen again"),
    row("Ctrl-Z", "suspend"),
    row("q Ctrl-C", "leave; nothing is stopped"),
    row("Esc", "close what is open; nothing open: leave"),
];
