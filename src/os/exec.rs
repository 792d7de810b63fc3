//! Another program in our place.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Executes a program with our pid, streams and environment; it is looked for in PATH where its name has no
/// slash. Comes back only with the reason why that can't be.
#[allow(clippy::disallowed_methods)]
pub fn execute(program: &Path, args: &[OsString]) -> io::Error {
    Command::new(program).args(args).exec()
}
