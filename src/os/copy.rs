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
            // copy_file_range(2) inside, which copies in the kernel.
            io::copy(&mut source, &mut copy)?;
        }
        // Whatever the umask is.
        copy.set_permissions(fs::Permissions::from_mode(0o700))
    })
}

fn reflink(from: &File, to: &File) -> bool {
    // SAFETY: takes two descriptors, touches no memory.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) == 0 }
}
