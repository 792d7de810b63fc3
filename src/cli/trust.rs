//! `bpm trust`: the folders whose `.mcp-run` is used whoever owns it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Failure, Result, named};
use crate::base::paths::{self, State};
use crate::os::{files, trust};

use super::spec::Call;
use super::{environment, print};

/// `bpm trust DIR`, `--remove DIR`, `--list`.
pub(super) fn trust(call: &Call) -> Result<u8> {
    let env = environment();
    let state = State::locate(&|name| env.get(name).map(Into::into))?;
    let mut folders = trust::trusted(&state)
        .map_err(|why| Error::cannot(named("use", &state.trust_file()), why))?;
    if call.has("list") {
        if call.has("remove") || !call.operands.is_empty() {
            return Err(Failure::Usage {
                why: "--list goes with no folder and no --remove".into(),
                hint: None,
            }
            .into());
        }
        let lines: String = folders
            .iter()
            .map(|folder| format!("{}\n", paths::quoted(folder)))
            .collect();
        print(&lines)?;
        return Ok(0);
    }
    let named = call
        .operands
        .first()
        .map(PathBuf::from)
        .or(call.dir.clone());
    let Some(named) = named else {
        return Err(Failure::Usage {
            why: "trust wants a folder".into(),
            hint: Some("bpm trust --list prints those that are trusted".into()),
        }
        .into());
    };
    // A folder that is gone is removed by the name that the list has.
    let folder = match (named.canonicalize(), call.has("remove")) {
        (Ok(folder), _) => folder,
        (Err(_), true) => named,
        (Err(e), false) => return Err(Error::file("trust", &named, e)),
    };
    let known = folders.contains(&folder);
    match (call.has("remove"), known) {
        (true, true) => folders.retain(|f| *f != folder),
        (false, false) => folders.push(folder.clone()),
        (true, false) | (false, true) => return Ok(0),
    }
    if folder.as_os_str().as_bytes().contains(&b'\n') {
        return Err(Error::cannot("trust it", "its path has a newline in it"));
    }
    write(&state, &folders)?;
    Ok(0)
}

fn write(state: &State, folders: &[PathBuf]) -> Result<()> {
    let file = state.trust_file();
    let failed = |path: &Path, e| Error::file("write", path, e);
    files::private_dir(state.path()).map_err(|e| failed(state.path(), e))?;
    let lines: Vec<&[u8]> = folders.iter().map(|f| f.as_os_str().as_bytes()).collect();
    let text = [lines.join(&b'\n').as_slice(), b"\n"].concat();
    files::write_atomic(&file, &text, 0o600).map_err(|e| failed(&file, e))
}
