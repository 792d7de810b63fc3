//! Ownership of a project: a `.mcp-run` says what is executed, so that whoever can write it, or put another in its place,
//! runs programs as us (mcp-run(5), "Whose file"; git has `safe.directory` for the same reason).
//!
//! Everything is opened once and judged by descriptor: a name could lead elsewhere between a check and a use.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};

use super::fds::none_left;
use super::files;
use super::peer::our_uid;
use crate::base::error::{Error, Result, named, reason};
use crate::base::paths::{self, CONFIG_FILE, State};

/// Owner and mode of a file, a link or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owned {
    uid: u32,
    mode: u32,
}

/// `S_ISVTX`: in such a folder only a file's owner may rename or remove it.
const STICKY: u32 = 0o1000;

impl Owned {
    fn of(about: &Metadata) -> Self {
        Self {
            uid: about.uid(),
            mode: about.mode() & 0o7777,
        }
    }

    fn of_stat(about: &FileStat) -> Self {
        Self {
            uid: about.st_uid,
            mode: about.st_mode & 0o7777,
        }
    }

    fn belongs(self, us: u32, also: Option<u32>) -> std::result::Result<(), String> {
        match self.uid == us || self.uid == 0 || Some(self.uid) == also {
            true => Ok(()),
            false => Err(format!("it belongs to uid {}", self.uid)),
        }
    }

    /// The group's bits of an ordinary user are fine: a umask of 002 sets them for a group of one.
    fn written_by_others(self, us: u32) -> bool {
        self.mode & if us == 0 { 0o022 } else { 0o002 } != 0
    }

    fn file(self, us: u32, also: Option<u32>) -> std::result::Result<(), String> {
        self.belongs(us, also)?;
        match self.written_by_others(us) {
            true => Err(format!(
                "others may write it (mode {:03o})",
                self.mode & 0o777
            )),
            false => Ok(()),
        }
    }

    fn folder(self, us: u32, shown: &Path) -> std::result::Result<(), String> {
        let name = shown.display().to_string();
        // The owner of a sticky folder may rename what is in it all the same.
        if self.belongs(us, None).is_err() {
            return Err(format!("its folder {name:?} belongs to uid {}", self.uid));
        }
        match self.written_by_others(us) && self.mode & STICKY == 0 {
            true => Err(format!(
                "others may write its folder {name:?} (mode {:03o})",
                self.mode & 0o777
            )),
            false => Ok(()),
        }
    }
}

/// Reads a project's `.mcp-run`, if nobody else could have written it or put it there.
///
/// # Errors
/// It can't be read; it, what it points to or its folder (as root: a folder above) is another user's or can be written
/// by others, and the folder is not one of those that `bpm trust` or `BPM_TRUST` names.
pub fn read_config(root: &Path) -> Result<Vec<u8>> {
    let path = root.join(CONFIG_FILE);
    let failed = |e: io::Error| Error::file("read", &path, e);
    let folder = open_folder(root).map_err(failed)?;
    let file = openat(
        folder.as_fd(),
        CONFIG_FILE,
        OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let file = File::from(file.map_err(|e| failed(e.into()))?);
    if let Err(why) = verdict(root, &folder, &file)
        && !is_trusted(root)
    {
        let hint = format!("if you trust it: bpm trust {}", paths::quoted(root));
        return Err(Error::cannot(named("use", &path), why).with_hint(hint));
    }
    files::read_all(file)
        .map(|(bytes, _)| bytes)
        .map_err(failed)
}

fn open_folder(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
}

/// Opens the folder of a project in which a process is to start: by this descriptor, since others may put another folder
/// in its place where they can write the folder above.
///
/// # Errors
/// A sentence: it is not there; it is another user's or can be written by others, and is not trusted.
pub fn folder_to_start_in(root: &Path) -> std::result::Result<File, String> {
    let failed = |e: io::Error| match none_left(&e) {
        Some(text) => text.into(),
        None => format!("{root:?}: {}", reason(&e)),
    };
    let folder = open_folder(root).map_err(failed)?;
    let owned = Owned::of(&folder.metadata().map_err(failed)?);
    match owned.folder(our_uid(), root) {
        Err(why) if !is_trusted(root) => Err(why),
        Ok(()) | Err(_) => Ok(folder),
    }
}

/// A person said that the `.mcp-run` of this folder may be used whoever owns it.
fn is_trusted(root: &Path) -> bool {
    let (named, state) = paths::trusted_by();
    named.iter().any(|folder| folder == root)
        || state.is_some_and(|state| {
            let listed = trusted(&state).unwrap_or_default();
            listed.iter().any(|folder| folder == root)
        })
}

/// The folders that `bpm trust` names.
///
/// # Errors
/// A sentence: the list can't be read, or another user could have written it.
pub fn trusted(state: &State) -> std::result::Result<Vec<PathBuf>, String> {
    let file = match files::open_plain(&state.trust_file()) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(reason(&e)),
    };
    let us = our_uid();
    let said = |e: io::Error| reason(&e);
    Owned::of(&file.metadata().map_err(said)?).file(us, None)?;
    let folder = std::fs::metadata(state.path()).map_err(said)?;
    Owned::of(&folder).folder(us, state.path())?;
    let (bytes, _) = files::read_all(file).map_err(said)?;
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    Ok(lines.map(|l| PathBuf::from(OsStr::from_bytes(l))).collect())
}

fn verdict(root: &Path, folder: &File, file: &File) -> std::result::Result<(), String> {
    let us = our_uid();
    let unknown = |e: io::Error| format!("its owner can't be told: {e}");
    // The entry itself, which may be a link; it is not what was opened if somebody replaced it since, but then that
    // somebody may write the folder.
    let entry = fstatat(folder.as_fd(), CONFIG_FILE, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|e| unknown(e.into()))?;
    Owned::of_stat(&entry).belongs(us, None)?;
    Owned::of(&file.metadata().map_err(unknown)?).file(us, None)?;
    let owned = Owned::of(&folder.metadata().map_err(unknown)?);
    owned.folder(us, root)?;
    // Where the system lets users make hard links to files of others, one of ours proves nothing in a folder of all.
    if owned.written_by_others(us) && entry.st_nlink > 1 {
        let names = entry.st_nlink;
        return Err(format!(
            "it has {names} names (hard links), and others may write its folder"
        ));
    }
    if us == 0 {
        for above in root.ancestors().skip(1) {
            let about = std::fs::metadata(above).map_err(unknown)?;
            Owned::of(&about).folder(us, above)?;
        }
    }
    Ok(())
}

/// Reads an env file of a process that runs as `user` (None: as we do). None: there is no such file.
///
/// # Errors
/// A sentence: it can't be read, or another user could have written it.
pub fn read_env_file(
    root: &Path,
    path: &Path,
    user: Option<u32>,
) -> std::result::Result<Option<Vec<u8>>, String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(reason(&e)),
    };
    let about = file.metadata().map_err(|e| reason(&e))?;
    if let Err(why) = Owned::of(&about).file(our_uid(), user)
        && !is_trusted(root)
    {
        return Err(why);
    }
    match files::read_all(file) {
        Ok((bytes, _)) => Ok(Some(bytes)),
        Err(e) => Err(reason(&e)),
    }
}

/// A program that is to take this process over: nobody else may write it, as root also not the folders above it.
///
/// # Errors
/// A sentence: who could.
pub fn program(path: &Path, about: &Metadata) -> std::result::Result<(), String> {
    let us = our_uid();
    Owned::of(about).file(us, None)?;
    if us == 0 {
        for above in path.ancestors().skip(1) {
            let about =
                std::fs::metadata(above).map_err(|e| format!("its owner can't be told: {e}"))?;
            Owned::of(&about).folder(us, above)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u32 = 1000;
    const OTHER: u32 = 4343;

    fn owned(uid: u32, mode: u32) -> Owned {
        Owned { uid, mode }
    }

    #[test]
    fn files_are_used_by_owner_and_mode() {
        for (us, uid, mode, fine) in [
            (US, US, 0o644, true),
            (US, US, 0o664, true),
            (US, US, 0o666, false),
            (US, 0, 0o644, true),
            (US, 0, 0o664, true),
            (US, 0, 0o646, false),
            (US, OTHER, 0o644, false),
            (US, OTHER, 0o600, false),
            (0, 0, 0o644, true),
            (0, 0, 0o664, false),
            (0, 0, 0o666, false),
            (0, US, 0o644, false),
        ] {
            let got = owned(uid, mode).file(us, None);
            assert_eq!(got.is_ok(), fine, "{us} {uid} {mode:o}: {got:?}");
        }
        assert_eq!(owned(OTHER, 0o600).file(0, Some(OTHER)), Ok(()));
        assert_eq!(
            owned(OTHER, 0o600).file(US, None).unwrap_err(),
            "it belongs to uid 4343"
        );
    }

    #[test]
    fn folders_are_used_by_owner_mode_and_sticky_bit() {
        for (us, uid, mode, fine) in [
            (US, US, 0o755, true),
            (US, US, 0o775, true),
            (US, US, 0o777, false),
            (US, US, 0o1777, true),
            (US, 0, 0o1777, true),
            (US, 0, 0o777, false),
            (US, OTHER, 0o755, false),
            (US, OTHER, 0o1777, false),
            (0, 0, 0o755, true),
            (0, 0, 0o775, false),
            (0, 0, 0o1777, true),
            (0, US, 0o700, false),
        ] {
            let got = owned(uid, mode).folder(us, Path::new("/x"));
            assert_eq!(got.is_ok(), fine, "{us} {uid} {mode:o}: {got:?}");
        }
    }

    #[test]
    fn links_count_by_their_own_owner() {
        assert!(owned(OTHER, 0o777).belongs(US, None).is_err());
        assert!(owned(US, 0o777).belongs(US, None).is_ok());
        assert!(owned(0, 0o777).belongs(US, None).is_ok());
    }
}
