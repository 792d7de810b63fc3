//! `bpm tui`: the terminal UI is a program of its own.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::parse::spelled;
use super::spec::Call;
use crate::base::error::{Error, Result};
use crate::os::exec::execute;

const PROGRAM: &str = "bpm-tui";

/// Becomes it, with the same options.
pub(super) fn tui(call: &Call) -> Result<u8> {
    let mut args: Vec<OsString> = Vec::new();
    if let Some(dir) = &call.dir {
        args.extend(["-C".into(), dir.into()]);
    }
    for (option, value) in &call.options {
        args.push(spelled(option).into());
        if option.value.is_some() {
            args.push(value.clone());
        }
    }
    args.extend(call.operands.iter().cloned());
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let beside = own.parent().map(|folder| folder.join(PROGRAM));
    let program = beside.filter(|path| path.exists());
    let program = program.unwrap_or_else(|| PathBuf::from(PROGRAM));
    Err(missing(&program, execute(&program, &args)))
}

fn missing(program: &Path, e: std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => {
            let why = format!("there is no {PROGRAM} beside bpm or in PATH");
            Error::cannot("show the terminal UI", why).with_hint(
                "cargo install --features tui, or without it \"bpm status -w\" and \"bpm logs -f\"",
            )
        }
        _ => Error::file("run", program, e),
    }
}
