//! Files that appear whole, and folders that are nobody else's.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::clock::Mono;

/// Writes a file that a reader sees as it was or as it is now, never half. Not flushed to the disk:
/// it must outlive us, not the machine, and file systems order a rename after its data.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    beside(path, |path| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(bytes)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))
    })
}

/// Lets `make` make a file under a name of its own in the same folder, then renames it to `path`; if
/// that fails, nothing is left of it.
pub(super) fn beside(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut unique = std::ffi::OsString::from(".");
    unique.push(name);
    unique.push(format!(
        ".{}.{}",
        std::process::id(),
        Mono::now().as_nanos()
    ));
    let unique = path.with_file_name(unique);
    let done = make(&unique).and_then(|()| fs::rename(&unique, path));
    if done.is_err() {
        let _ = fs::remove_file(&unique);
    }
    done
}

/// Makes the folder, and those above it, with mode 0700; one that is there and is ours becomes 0700.
///
/// # Errors
/// It, or the link in its place, belongs to somebody else; it is no folder.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let us = nix::unistd::geteuid().as_raw();
    let folder = fs::metadata(path)?;
    // A link that somebody else put there leads where they want.
    for owner in [folder.uid(), fs::symlink_metadata(path)?.uid()] {
        if owner != us {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{path:?} belongs to user {owner}"),
            ));
        }
    }
    if folder.mode() & 0o777 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Opens a file for appending, making it with mode 0600.
pub fn open_append(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}
