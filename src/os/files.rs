//! Files that appear whole, and folders that are nobody else's.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::base::clock::Mono;

/// How often a folder is made anew that somebody removes while it is made.
const REMOVED: usize = 8;
/// Far more than a person writes into a file, or bpm into one of its own that is read as a whole.
const LARGEST: u64 = 16 << 20;

/// Writes a file that a reader sees as it was or as it is now, never half. It outlives us, but the machine
/// only after [`sync`].
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

/// A text of the kernel's (proc(5), cgroups(7)).
pub fn virtual_text(path: impl AsRef<Path>) -> io::Result<String> {
    let bytes = read_virtual(path, u64::MAX)?;
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A file of the kernel's, which has no size that could be asked for: it is read at once where it is small.
pub(super) fn read_virtual(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Brings a file, and its name in its folder, to the disk.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
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

/// The entries of a folder; without those that can't be read, and none where the folder can't be.
pub fn entries(folder: impl AsRef<Path>) -> Entries {
    Entries(fs::read_dir(folder).ok())
}

/// See [`entries`]. One type for all: a chain of adapters over `ReadDir` is compiled for each caller.
pub struct Entries(Option<fs::ReadDir>);

impl Iterator for Entries {
    type Item = fs::DirEntry;

    fn next(&mut self) -> Option<fs::DirEntry> {
        loop {
            if let Ok(entry) = self.0.as_mut()?.next()? {
                return Some(entry);
            }
        }
    }
}

/// Removes what [`write_atomic`] was making in that folder when it was killed. To be called by who alone writes there.
pub fn remove_unfinished(folder: &Path) {
    for entry in entries(folder) {
        let name = entry.file_name();
        // `.name.pid.time`
        let mut parts = name.as_encoded_bytes().rsplit(|b| *b == b'.');
        let mut is_number = || {
            let part = parts.next().unwrap_or_default();
            !part.is_empty() && part.iter().all(u8::is_ascii_digit)
        };
        let numbered = is_number() && is_number();
        if numbered && name.as_encoded_bytes().starts_with(b".") && parts.count() > 1 {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes the folder, and those above it, with mode 0700; one that is there and is ours becomes 0700.
///
/// # Errors
/// It, or the link in its place, belongs to somebody else; it is no folder.
pub fn private_dir(path: &Path) -> io::Result<()> {
    // Somebody may remove it meanwhile: then once more, but not for ever.
    for _ in 0..REMOVED {
        match make_private(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound || !path.exists() => {}
            done => return done,
        }
    }
    make_private(path)
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let us = super::peer::our_uid();
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

/// Makes a folder that others may enter, without seeing what is in it.
pub fn passable_dir(path: &Path) -> io::Result<()> {
    private_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o711))
}

/// Opens a file for reading that is one: no link, and nothing that keeps who opens it waiting, as a FIFO
/// does, or that has no end.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

/// Reads a file that people name; also gives its owner. A link leads to it, a FIFO is refused: it would
/// keep its reader waiting.
///
/// # Errors
/// It can't be read, or is larger than anything of that kind.
pub fn read_named(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    read_all(file)
}

/// The same where the text alone counts.
///
/// # Errors
/// Those of [`read_named`], and what is no UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let (bytes, _) = read_named(path)?;
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The same of one that is open.
pub(super) fn read_all(file: File) -> io::Result<(Vec<u8>, Metadata)> {
    let about = file.metadata()?;
    if about.file_type().is_fifo() {
        return Err(io::Error::other("it is a FIFO, not a file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok((bytes, about)),
    }
}

/// Opens a file for appending, making it with mode 0600.
pub fn open_append(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// A stamp that changes with each write to a file, and when another one takes its name; None: there is no file.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some(Stamp([
        file.dev() as i64,
        file.ino() as i64,
        file.len() as i64,
        file.mtime(),
        file.mtime_nsec(),
        file.ctime_nsec(),
    ]))
}

/// See [`stamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([i64; 6]);

/// A number for the contents of a file, to tell whether they have changed; None: it can't be read.
pub fn digest(path: &Path) -> Option<u64> {
    let (bytes, _) = read_named(path).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_reader_never_sees_half_a_file() {
        let folder = Folder::new("atomic");
        let path = folder.join("state.json");
        let texts = ["a".repeat(100_000), "b".repeat(200_000)];
        write_atomic(&path, texts[0].as_bytes(), 0o600).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for i in 0..100 {
                    write_atomic(&path, texts[i % 2].as_bytes(), 0o644).unwrap();
                }
            });
            while !writer.is_finished() {
                assert!(texts.contains(&fs::read_to_string(&path).unwrap()));
            }
        });
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(&folder.join("no/file"), b"", 0o600).is_err());
        assert!(write_atomic(Path::new("/"), b"", 0o600).is_err());
    }

    #[test]
    fn unfinished_files_are_removed_and_no_others() {
        let folder = Folder::new("unfinished");
        let all = [
            (".daemon.json.4711.123456", true),
            (".state.json.1.2", true),
            ("daemon.json.1.2", false),
            (".state.json.1", false),
            (".state.json.1.x", false),
            (".1.2", false),
        ];
        for (name, _) in all {
            fs::write(folder.join(name), "").unwrap();
        }
        remove_unfinished(&folder.join("."));
        for (name, goes) in all {
            assert_eq!(folder.join(name).exists(), !goes, "{name}");
        }
    }

    #[test]
    fn a_private_folder_is_private() {
        let folder = Folder::new("private");
        let deep = folder.join("a/b");
        private_dir(&deep).unwrap();
        assert_eq!((mode(&deep), mode(&folder.join("a"))), (0o700, 0o700));
        fs::set_permissions(&deep, Permissions::from_mode(0o755)).unwrap();
        private_dir(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
        let file = folder.file("file", "", 0o600);
        assert!(private_dir(&file).is_err());
    }

    #[test]
    fn somebody_elses_folder_is_refused() {
        use std::os::unix::fs::{chown, lchown};
        let folder = Folder::new("others");
        let (theirs, link) = (folder.join("theirs"), folder.join("link"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(folder.join("ours")).unwrap();
        std::os::unix::fs::symlink(folder.join("ours"), &link).unwrap();
        private_dir(&link).unwrap();
        // Only root can give a folder away; others meet the root's.
        if chown(&theirs, Some(1), None).is_ok() {
            lchown(&link, Some(1), None).unwrap();
            for path in [&theirs, &link] {
                let e = private_dir(path).unwrap_err().to_string();
                assert_eq!(e, format!("{path:?} belongs to user 1"));
            }
        } else {
            assert_eq!(
                private_dir(Path::new("/")).unwrap_err().to_string(),
                "\"/\" belongs to user 0"
            );
        }
    }

    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        let folder = Folder::new("plain");
        let (file, fifo, link) = (
            folder.join("file"),
            folder.join("fifo"),
            folder.join("link"),
        );
        fs::write(&file, "text").unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(open_plain(&file).is_ok());
        for path in [&fifo, &link, folder.path(), Path::new("/dev/zero")] {
            assert!(open_plain(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn what_is_appended_is_appended_and_ours() {
        let folder = Folder::new("append");
        let path = folder.join("daemon.log");
        for text in ["one ", "two"] {
            open_append(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(&path)),
            ("one two", 0o600)
        );
    }
}
