//! The `bpm-tui` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(bpm::tui::main(std::env::args_os()))
}
