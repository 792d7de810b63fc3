//! The `bpm` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(bpm::cli::main(std::env::args_os()))
}
