//! The command line, the environment, and what they lead to.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use super::painter::Depth;
use crate::base::error::{Error, Result, nearest};
use crate::daemon::Env;

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opt {
    /// `-C`, `--fps`, as they are typed; both where there are two.
    pub names: &'static str,
    /// The name of its value; empty: it takes none.
    pub value: &'static str,
    pub help: &'static str,
}

const fn opt(names: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { names, value, help }
}

/// All options, in the order of the help.
pub const OPTIONS: &[Opt] = &[
    opt(
        "-C",
        "DIR",
        "the project's folder, instead of the nearest one upward that has a .mcp-run",
    ),
    opt(
        "--read-only",
        "",
        "change nothing: no restart, start, stop, reload",
    ),
    opt(
        "--no-start",
        "",
        "do not start a daemon that does not run; exit 3",
    ),
    opt("--no-mouse", "", "leave the mouse to the terminal"),
    opt(
        "--no-color",
        "",
        "bold, underline and reverse only (also with NO_COLOR)",
    ),
    opt(
        "--ascii",
        "",
        "marks and frames in ASCII (also without a UTF-8 locale, and with TERM=linux)",
    ),
    opt("--fps", "N", "pictures a second, 1 to 30 (10; 4 over SSH)"),
    opt(
        "--token-file",
        "FILE",
        "its contents are the token, over HTTP (also BPM_TOKEN_FILE)",
    ),
    opt("-h, --help", "", "this text"),
    opt("-V, --version", "", "print the version"),
];

/// The request of a command line.
#[derive(Debug)]
pub(super) enum Asked {
    /// The help.
    Help,
    /// The version.
    Version,
    /// The terminal UI.
    Run(Box<Options>),
}

/// How to run.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// `-C`
    pub(super) dir: Option<PathBuf>,
    /// `[URL]`
    pub(super) url: Option<String>,
    /// `--read-only`
    pub(super) read_only: bool,
    /// `--no-start`
    pub(super) no_start: bool,
    /// `--no-mouse`
    pub(super) no_mouse: bool,
    /// `--no-color`
    pub(super) no_color: bool,
    /// `--ascii`
    pub(super) ascii: bool,
    /// `--fps`
    pub(super) fps: Option<u32>,
    /// `--token-file`
    pub(super) token_file: Option<PathBuf>,
}

/// Reads the arguments; the first is the program's name.
///
/// # Errors
/// They are not ours.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked> {
    let mut parser = Parser::from_iter(args);
    let mut options = Options::default();
    while let Some(arg) = parser.next().map_err(|e| Error::usage(e.to_string()))? {
        let given = match arg {
            Arg::Short(c) => format!("-{c}"),
            Arg::Long(name) => format!("--{name}"),
            Arg::Value(url) if options.url.is_none() => {
                let url = url.to_str().map(str::to_owned);
                options.url = Some(url.ok_or_else(|| Error::usage("the URL is not UTF-8"))?);
                continue;
            }
            Arg::Value(extra) => {
                return Err(Error::usage(format!("unexpected {extra:?} after the URL")));
            }
        };
        let mut value = |label: &str| {
            parser
                .value()
                .map_err(|_| Error::usage(format!("{given} needs a value: {label}")))
        };
        match given.as_str() {
            "-h" | "--help" => return Ok(Asked::Help),
            "-V" | "--version" => return Ok(Asked::Version),
            "-C" => options.dir = Some(value("DIR")?.into()),
            "--read-only" => options.read_only = true,
            "--no-start" => options.no_start = true,
            "--no-mouse" => options.no_mouse = true,
            "--no-color" => options.no_color = true,
            "--ascii" => options.ascii = true,
            "--fps" => {
                let text = value("N")?;
                let number = text.to_str().and_then(|t| t.parse().ok());
                let number = number.filter(|n| (1..=30).contains(n));
                let wrong = || Error::usage(format!("--fps: {text:?} is no number from 1 to 30"));
                options.fps = Some(number.ok_or_else(wrong)?);
            }
            "--token-file" => options.token_file = Some(value("FILE")?.into()),
            _ => return Err(unknown(&given)),
        }
    }
    match options.url.is_some() && options.dir.is_some() {
        true => Err(Error::usage("-C and a URL do not go together")),
        false => Ok(Asked::Run(Box::new(options))),
    }
}

fn unknown(given: &str) -> Error {
    let known = OPTIONS.iter().flat_map(|o| o.names.split(", "));
    let error = Error::usage(format!("unknown option {given:?} of bpm-tui"));
    match nearest(given, known).filter(|_| given.starts_with("--")) {
        Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
        None => error.with_hint("see \"bpm-tui --help\""),
    }
}

/// The help.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Usage: bpm-tui [OPTIONS] [URL]\n\n\
         A terminal UI for a project's processes: status, details, output, restarts.\n\
         URL: http://host:port/mcp, host:port, :port or unix:PATH. Without one it is the project's daemon, which \
         is started\nif need be; without a project http://localhost:3001/mcp. Keys: ? in it.\n\nOptions:\n",
    );
    for option in OPTIONS {
        let both = format!("{} {}", option.names, option.value);
        text.push_str(&format!("  {:19} {}\n", both.trim_end(), option.help));
    }
    text
}

/// A variable that is set to something.
fn set<'a>(env: &'a Env, name: &str) -> Option<&'a OsStr> {
    env.get(name).filter(|value| !value.is_empty())
}

/// `TERM`
pub(super) fn term(env: &Env) -> String {
    set(env, "TERM").map_or(String::new(), |t| t.to_string_lossy().into_owned())
}

/// The colours of the terminal.
pub(super) fn depth(options: &Options, env: &Env) -> Depth {
    let colors = set(env, "COLORTERM")
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    if options.no_color || set(env, "NO_COLOR").is_some() {
        Depth::None
    } else if matches!(colors, "truecolor" | "24bit") {
        Depth::True
    } else if term(env).contains("256color") {
        Depth::Indexed
    } else {
        Depth::Sixteen
    }
}

/// Only ASCII can be shown, or is wanted.
pub(super) fn ascii(options: &Options, env: &Env) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = locale.into_iter().find_map(|name| set(env, name));
    let locale = locale.map_or(String::new(), |l| l.to_string_lossy().to_lowercase());
    let utf8 = locale.contains("utf-8") || locale.contains("utf8");
    options.ascii || !utf8 || term(env) == "linux"
}

/// Pictures a second.
pub(super) fn fps(options: &Options, env: &Env) -> u32 {
    let over_ssh = set(env, "SSH_CONNECTION").is_some();
    options.fps.unwrap_or(if over_ssh { 4 } else { 10 })
}

/// The token, if one is to be sent.
///
/// # Errors
/// Its file can't be read.
pub(super) fn token(options: &Options, env: &Env) -> Result<Option<String>> {
    let named = options.token_file.as_deref();
    let Some(path) = named.or_else(|| set(env, "BPM_TOKEN_FILE").map(Path::new)) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).map_err(|e| Error::file("read", path, e))?;
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        let what = crate::base::error::named("use the token in", path);
        return Err(Error::cannot(what, "it is no line of ASCII"));
    }
    Ok(Some(token.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Asked> {
        parse(
            std::iter::once("bpm-tui")
                .chain(args.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn options_are_read() {
        let Ok(Asked::Run(options)) = parsed(&["--fps=4", "--read-only", ":3001"]) else {
            panic!()
        };
        assert_eq!(
            (options.fps, options.read_only, options.url.as_deref()),
            (Some(4), true, Some(":3001"))
        );
        for (args, part) in [
            (&["--fps", "31"][..], "1 to 30"),
            (&["--red-only"], "unknown option"),
            (&["a:1", "b:2"], "unexpected"),
            (&["-C"], "needs a value"),
            (&["-C", ".", ":1"], "do not go together"),
        ] {
            let error = parsed(args).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert_eq!(
            parsed(&["--red-only"]).unwrap_err().hint().unwrap(),
            "did you mean \"--read-only\"?"
        );
    }

    #[test]
    fn the_terminal_is_known_by_its_environment() {
        let env = |vars: &[(&str, &str)]| {
            Env(vars
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect())
        };
        let options = Options::default();
        assert_eq!(
            depth(&options, &env(&[("TERM", "xterm-256color")])),
            Depth::Indexed
        );
        assert_eq!(
            depth(&options, &env(&[("COLORTERM", "truecolor")])),
            Depth::True
        );
        assert_eq!(depth(&options, &env(&[("NO_COLOR", "1")])), Depth::None);
        assert_eq!(depth(&options, &env(&[("NO_COLOR", "")])), Depth::Sixteen);
        assert!(!ascii(&options, &env(&[("LANG", "de_DE.UTF-8")])));
        assert!(ascii(
            &options,
            &env(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")])
        ));
        assert!(ascii(
            &options,
            &env(&[("LANG", "C.utf8"), ("TERM", "linux")])
        ));
        assert_eq!(fps(&options, &env(&[("SSH_CONNECTION", "x")])), 4);
    }
}
