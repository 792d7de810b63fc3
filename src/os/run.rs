//! Running a short command to its end, for commands that people type.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::poll::{Until, wait};
use super::spawn::{Launch, spawn};
use crate::base::clock::Mono;

/// More than this of what it prints is dropped.
const MOST: usize = 64 << 10;

/// Output and end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; None: a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs it and waits. One that takes longer than `longest` is killed with its group.
///
/// # Errors
/// It can't be started, or it took too long.
pub fn run(
    program: &str,
    args: &[&str],
    env: &[(OsString, OsString)],
    cwd: &Path,
    longest: Duration,
) -> Result<Output, String> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let launch = Launch::new(OsStr::new(program), &args, env, cwd);
    let spawned = spawn(&launch).map_err(|e| e.to_string())?;
    let child = spawned.child;
    let until = Mono::now().after(longest);
    let mut streams = [
        (Some(File::from(spawned.stdout)), Vec::new()),
        (Some(File::from(spawned.stderr)), Vec::new()),
    ];
    let mut late = false;
    while !late && streams.iter().any(|(file, _)| file.is_some()) {
        let left = until.since(Mono::now());
        late = left.is_zero();
        let open = streams.iter().filter_map(|(file, _)| file.as_ref());
        let open: Vec<_> = open.map(|file| (file.as_fd(), Until::Readable)).collect();
        wait(&open, Some(left)).map_err(|e| e.to_string())?;
        for (file, bytes) in &mut streams {
            take(file, bytes);
        }
    }
    let pid = Pid::from_raw(child.pid());
    // A process that closed its output and goes on has the rest of the time, no more.
    if late || !child.wait(until.since(Mono::now())).unwrap_or(true) {
        child.signal_group(libc::SIGKILL);
        let _ = waitpid(pid, None);
        return Err(format!("it did not end within {} s", longest.as_secs()));
    }
    let code = match waitpid(pid, None) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        _ => None,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output {
        code,
        out: text(&streams[0].1),
        err: text(&streams[1].1),
    })
}

fn take(file: &mut Option<File>, bytes: &mut Vec<u8>) {
    let mut block = [0; 4096];
    while let Some(open) = file {
        match open.read(&mut block) {
            Ok(0) => *file = None,
            Ok(n) => {
                let room = MOST.saturating_sub(bytes.len()).min(n);
                bytes.extend_from_slice(&block[..room]);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => *file = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, longest: Duration) -> Result<Output, String> {
        let env = super::super::testing::env(&[]);
        run("sh", &["-c", line], &env, Path::new("/"), longest)
    }

    #[test]
    fn a_command_runs_to_its_end() {
        let output = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60)).unwrap();
        assert_eq!(
            output,
            Output {
                code: Some(3),
                out: "out\n".into(),
                err: "err\n".into()
            }
        );
        let missing = run(
            "no-such-program",
            &[],
            &[],
            Path::new("/"),
            Duration::from_secs(1),
        );
        assert!(missing.is_err());
    }

    #[test]
    fn one_that_hangs_is_killed() {
        for line in ["sleep 600", "exec >&- 2>&-; sleep 600"] {
            let why = shell(line, Duration::from_millis(50)).unwrap_err();
            assert!(why.contains("did not end"), "{why}");
        }
    }
}
