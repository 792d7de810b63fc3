//! A small file that is replaced several times a second, and must be whole after a kill and after a power cut.
//!
//! To make a new file and to rename it over the old one costs ext4 an inode, a block and the start of a write to the
//! disk each time (0.24 ms of CPU and 0.4 ms until it is done; auto_da_alloc, ext4(5)). So the new contents are written over a
//! spare file, which then changes names with the file (renameat2(2), `RENAME_EXCHANGE`): a quarter of that, and a full disk
//! does not hinder it. There are two spares: the contents that are known to be on the disk are not written over before
//! newer ones are there.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::files;

/// Of such a file, for its owner alone.
const MODE: u32 = 0o600;

/// See the module.
#[derive(Debug)]
pub struct Replaced {
    path: PathBuf,
    /// That may be written over.
    spare: usize,
    /// How often it was replaced.
    count: u64,
}

impl Replaced {
    /// The file at that path, whether it is there or not.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            spare: 0,
            count: 0,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number for the contents that it has now.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Replaces the contents: a reader sees those of before, or these. They outlive us, but the machine only after
    /// [`files::sync`]. `synced`: the newest contents, by their number, that are known to be on the disk.
    ///
    /// # Errors
    /// As the system gives them (a full disk); the contents of before stay.
    pub fn write(&mut self, bytes: &[u8], synced: u64) -> io::Result<()> {
        let spare = spare_of(&self.path, self.spare);
        let is_synced = synced == self.count;
        match write_over(&spare, bytes).and_then(|()| exchange(&spare, &self.path)) {
            Ok(()) if is_synced => self.spare = 1 - self.spare,
            Ok(()) => {}
            // The first time; or no such system call, or none for this file system.
            Err(_) => files::write_atomic(&self.path, bytes, MODE)?,
        }
        self.count += 1;
        Ok(())
    }
}

/// Where contents of before may be, should the file be damaged.
pub fn spares(path: &Path) -> [PathBuf; 2] {
    [spare_of(path, 0), spare_of(path, 1)]
}

/// `.state.json.1`
fn spare_of(path: &Path, spare: usize) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", spare + 1));
    path.with_file_name(name)
}

/// The file is made where there is none. One that was made by halves, or is no file, is none.
fn write_over(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let opened = File::options()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = File::options()
                .write(true)
                .create_new(true)
                .mode(MODE)
                .open(path)?;
            // Whatever the umask is.
            file.set_permissions(Permissions::from_mode(MODE))?;
            file
        }
        opened => opened?,
    };
    file.write_all_at(bytes, 0)?;
    let len = bytes.len() as u64;
    if file.metadata()?.len() > len {
        file.set_len(len)?;
    }
    Ok(())
}

/// Both paths change what they name, at once.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let one = CString::new(one.as_os_str().as_bytes())?;
    let other = CString::new(other.as_os_str().as_bytes())?;
    // By its number: musl has no function for it.
    // SAFETY: both are strings that end with a zero, and live until it returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;
    use std::fs;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn contents_are_replaced_whole_whatever_stood_there() {
        let folder = Folder::new("replaced");
        let path = folder.join("state.json");
        let mut file = Replaced::new(path.clone());
        for text in ["first", "the second, a longer one", "3", "", "the fifth"] {
            file.write(text.as_bytes(), 0).unwrap();
            assert_eq!(read(&path), text);
        }
        assert_eq!(file.count(), 5);
        // Somebody removes it, and puts folders where its spares are.
        fs::remove_file(&path).unwrap();
        for spare in spares(&path) {
            let _ = fs::remove_file(&spare);
            fs::create_dir(&spare).unwrap();
        }
        for text in ["sixth", "seventh"] {
            file.write(text.as_bytes(), 0).unwrap();
            assert_eq!(read(&path), text);
        }
    }

    #[test]
    fn contents_on_the_disk_stay_until_newer_ones_are_there() {
        let folder = Folder::new("replaced");
        let path = folder.join("state.json");
        let mut file = Replaced::new(path.clone());
        let there = |text: &str| spares(&path).iter().any(|spare| read(spare) == text);
        let mut synced = 0;
        for n in 1..40_u64 {
            file.write(n.to_string().as_bytes(), synced).unwrap();
            if n > 1 && synced > 0 {
                assert!(there(&synced.to_string()), "{n}: {synced}");
            }
            if n % 7 == 0 || n % 3 == 1 {
                synced = n;
            }
        }
    }
}
