//! A copy of a program that a later build can't touch.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::files::beside;

/// Copies an executable; it appears under its name whole or not at all, with mode 0700. Shares the
/// blocks where the file system can (reflink). No hard link: some linkers write in place.
///
/// # Errors
/// Of reading `from` or of writing beside `to`; then nothing is left there.
pub fn copy_exe(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    beside(to, |path| {
        let mut copy = File::options()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(path)?;
        if !reflink(&source, &copy) {
            copied(&mut source, &mut copy)?;
        }
        // Whatever the umask is.
        copy.set_permissions(fs::Permissions::from_mode(0o700))
    })
}

/// Copies a file over another, which nobody else may read.
///
/// # Errors
/// Of reading one or of writing the other.
pub fn copy_private(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    copied(&mut source, &mut copy)
}

/// With copy_file_range(2), in the kernel.
#[inline(never)]
fn copied(from: &mut File, to: &mut File) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

fn reflink(from: &File, to: &File) -> bool {
    // SAFETY: takes two descriptors, touches no memory.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) == 0 }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::MetadataExt;

    use super::super::reap::End;
    use super::super::spawn::{Launch, spawn};
    use super::super::testing::{Folder, alone, ended, env};
    use super::*;

    #[test]
    fn a_copy_runs_at_once_and_is_its_own() {
        alone(
            "os::copy::tests::a_copy_runs_at_once_and_is_its_own",
            || {
                let folder = Folder::new("copy");
                let (from, to) = (Path::new("/bin/true"), folder.join("true"));
                fs::write(&to, "of an earlier build").unwrap();
                copy_exe(from, &to).unwrap();
                let (a, b) = (fs::metadata(from).unwrap(), fs::metadata(&to).unwrap());
                assert_eq!((a.len(), b.mode() & 0o7777), (b.len(), 0o700));
                assert_ne!((a.dev(), a.ino()), (b.dev(), b.ino()));
                let child = spawn(&Launch {
                    argv0: Some(OsStr::new("true")),
                    ..Launch::new(to.as_os_str(), &[], &env(&[]), Path::new("/"))
                })
                .unwrap();
                assert_eq!(ended(child.child.pid()).end, End::Code(0));
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            },
        );
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let folder = Folder::new("copy-fails");
        assert!(copy_exe(&folder.join("no"), &folder.join("to")).is_err());
        let file = folder.file("file", "x", 0o600);
        fs::create_dir_all(folder.join("dir/full")).unwrap();
        assert!(copy_exe(&file, &folder.join("dir")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
