//! `bpm trust`: the folders whose `.mcp-run` is used whoever owns it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result, named};
use crate::base::paths::{self, State};
use crate::os::{files, trust};

use super::spec::Call;
use super::{answer, environment, state_folder};

/// `bpm trust DIR`, `--remove DIR`, `--list`.
pub(super) fn trust(call: &Call) -> Result<u8> {
    let env = environment();
    let state = state_folder(&env)?;
    let mut folders = trust::trusted(&state)
        .map_err(|why| Error::cannot(named("use", &state.trust_file()), why))?;
    if call.has("list") {
        if call.has("remove") || !call.operands.is_empty() {
            return Err(Error::usage("--list goes with no folder and no --remove"));
        }
        let lines = folders.iter().map(|f| paths::quoted(f) + "\n");
        return answer(lines.collect::<String>());
    }
    let named = call.operands.first().map(PathBuf::from);
    let Some(named) = named.or(call.dir.clone()) else {
        return Err(Error::usage("trust wants a folder")
            .with_hint("bpm trust --list prints those that are trusted"));
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
