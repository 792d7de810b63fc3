//! Another program in our place.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::execvp;

/// Executes a program with our pid, streams and environment; it is looked for in PATH where its name has no
/// slash. Comes back only with the reason why that can't be. (The standard library's way to do that costs 8 KiB of code.)
pub fn execute(program: &Path, args: &[OsString]) -> io::Error {
    let mut words = Vec::new();
    for word in std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str)) {
        match CString::new(word.as_bytes()) {
            Ok(word) => words.push(word),
            Err(e) => return e.into(),
        }
    }
    match execvp(&words[0], &words) {
        Ok(never) => match never {},
        Err(e) => e.into(),
    }
}
