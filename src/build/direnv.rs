//! Pure: no system call, no thread, no clock.
//!
//! The environment that direnv gives.
//!
//! `direnv exec DIR` first takes back what direnv had set in the environment that it is given, and
//! then loads the `.envrc` of `DIR`. So [`load`] is right whatever shell bpm was started from, and
//! [`unload`] gives the environment of the daemon's start less what direnv set there (it need be
//! asked once only, and only where `DIRENV_DIFF` is set: reading that variable by ourselves would
//! take a decompressor).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::Exec;
use crate::log::line::text_of;

/// Prints the environment of the project, each variable ended by NUL.
pub fn load(root: &Path) -> Exec {
    exec(root, root)
}

/// Prints the environment without direnv's part.
pub fn unload() -> Exec {
    exec(Path::new("/"), Path::new("/"))
}

fn exec(dir: &Path, cwd: &Path) -> Exec {
    let args = ["exec", &dir.to_string_lossy(), "env", "-0"];
    Exec {
        program: "direnv".into(),
        argv0: None,
        args: args.map(str::to_string).to_vec(),
        env: Vec::new(),
        cwd: cwd.to_path_buf(),
    }
}

/// Reads what [`load`] and [`unload`] print. direnv's own variables are left out: a shell in the
/// process would take them for its own.
pub fn parse(output: &[u8]) -> Vec<(OsString, OsString)> {
    output
        .split(|b| *b == 0)
        .filter_map(|entry| {
            // A name is not empty; a `=` may be its first byte (Windows' habits under WSL).
            let at = entry.iter().skip(1).position(|b| *b == b'=')? + 1;
            Some((&entry[..at], &entry[at + 1..]))
        })
        .filter(|(name, _)| !is_own(OsStr::from_bytes(name)))
        .map(|(name, value)| {
            (
                OsString::from_vec(name.into()),
                OsString::from_vec(value.into()),
            )
        })
        .collect()
}

/// A variable that direnv keeps for itself.
pub fn is_own(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"DIRENV_")
}

/// Why there is no environment: `end` is how direnv ended, `stderr` what it printed.
pub fn failure(root: &Path, end: &str, stderr: &[u8]) -> String {
    let words = String::from_utf8_lossy(stderr);
    let lines: Vec<String> = words.lines().map(|l| text_of(l.as_bytes())).collect();
    if lines.iter().any(|l| l.contains(".envrc is blocked")) {
        return format!(
            "{} is not allowed: look at it, then run \"direnv allow {}\"",
            root.join(".envrc").display(),
            root.display()
        );
    }
    let said = lines.iter().rev().find(|l| !l.trim().is_empty());
    match said {
        Some(line) => format!("direnv ended with {end}: {}", line.trim()),
        None => format!("direnv ended with {end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_without_direnvs_own() {
        let output = b"A=1\0B=x=y\nz\0DIRENV_DIR=-/x\0EMPTY=\0=C:=odd\0junk\0\0\xff=\xfe\0";
        let pair =
            |n: &[u8], v: &[u8]| (OsString::from_vec(n.into()), OsString::from_vec(v.into()));
        assert_eq!(
            parse(output),
            [
                pair(b"A", b"1"),
                pair(b"B", b"x=y\nz"),
                pair(b"EMPTY", b""),
                pair(b"=C:", b"odd"),
                pair(b"\xff", b"\xfe"),
            ]
        );
        assert!(parse(b"").is_empty());
    }

    #[test]
    fn a_blocked_envrc_says_what_to_do() {
        let stderr = b"\x1b[31mdirenv: error /home/me/app/.envrc is blocked. Run `direnv allow` to approve its content\x1b[0m\n";
        assert_eq!(
            failure(Path::new("/home/me/app"), "exit code 1", stderr),
            "/home/me/app/.envrc is not allowed: look at it, then run \"direnv allow /home/me/app\""
        );
        let stderr = b"direnv: loading ~/app/.envrc\n./.envrc:1: nope: command not found\n\n";
        assert_eq!(
            failure(Path::new("/x"), "exit code 127", stderr),
            "direnv ended with exit code 127: ./.envrc:1: nope: command not found"
        );
        assert_eq!(
            failure(Path::new("/x"), "signal KILL", b""),
            "direnv ended with signal KILL"
        );
    }

    #[test]
    fn direnv_is_run_for_the_root() {
        let exec = load(Path::new("/home/me/app"));
        assert_eq!(
            (exec.program.as_str(), exec.cwd),
            ("direnv", "/home/me/app".into())
        );
        assert_eq!(exec.args, ["exec", "/home/me/app", "env", "-0"]);
    }
}
