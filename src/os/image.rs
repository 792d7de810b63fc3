//! A program that is to take this process over: opened once, judged by its descriptor, and executed by it, so that what
//! its path names by then does not matter.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::trust;
use crate::base::error::reason;

/// See the module.
#[derive(Debug)]
pub struct Image {
    pub file: File,
    /// Canonical, as it was opened.
    pub path: PathBuf,
    /// Of its bytes.
    pub checksum: String,
    stamp: Stamp,
}

/// Differs once the file is another, or was written to or renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    id: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            id: (about.dev(), about.ino()),
            size: about.size(),
            changed: (about.ctime(), about.ctime_nsec()),
        })
    }
}

impl Image {
    /// Opens a program and judges it. Reads all of it.
    ///
    /// # Errors
    /// A sentence: it can't be read; others may write it, or own it; it is no program, or one for another machine.
    pub fn open(path: &Path) -> Result<Self, String> {
        let said = |e: std::io::Error| reason(&e);
        let path = path.canonicalize().map_err(said)?;
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(said)?;
        let about = file.metadata().map_err(said)?;
        if !about.is_file() {
            return Err("it is no file".into());
        }
        if about.mode() & 0o111 == 0 {
            return Err("it is not executable".into());
        }
        trust::program(&path, &about)?;
        let stamp = Stamp::of(&file).map_err(said)?;
        is_for_us(&file)?;
        let checksum = checksum(&file).map_err(said)?;
        let image = Self {
            file,
            path,
            checksum,
            stamp,
        };
        image.is_unchanged()?;
        Ok(image)
    }

    /// Nobody has written to it since it was judged. Its bytes are read again where it has lost its name, say.
    ///
    /// # Errors
    /// Somebody has.
    pub fn is_unchanged(&self) -> Result<(), String> {
        match Stamp::of(&self.file) {
            Ok(stamp) if stamp == self.stamp => Ok(()),
            Ok(stamp) => match checksum(&self.file) {
                Ok(sum) if sum == self.checksum && stamp.id == self.stamp.id => Ok(()),
                Ok(_) => Err("it was changed meanwhile".into()),
                Err(e) => Err(reason(&e)),
            },
            Err(e) => Err(reason(&e)),
        }
    }
}

/// The program that this process executes.
///
/// # Errors
/// It can't be read.
pub fn own_checksum() -> std::io::Result<String> {
    checksum(&File::open("/proc/self/exe")?)
}

/// Both lanes take every second word; it is to tell two builds apart, not to withstand an attack.
fn checksum(file: &File) -> std::io::Result<String> {
    const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut lanes = [0xcbf2_9ce4_8422_2325_u64, 0x8422_2325_cbf2_9ce4];
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        // Whole words until the end, however little a read gives.
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let used = filled.next_multiple_of(8).min(buffer.len());
        buffer[filled..used].fill(0);
        for (i, word) in buffer[..used].as_chunks::<8>().0.iter().enumerate() {
            let lane = &mut lanes[i % 2];
            *lane = (*lane ^ u64::from_le_bytes(*word))
                .wrapping_mul(PRIME)
                .rotate_left(29);
        }
        at += filled as u64;
        if filled < buffer.len() {
            lanes[0] ^= at;
            return Ok(format!("{:016x}{:016x}", lanes[0], lanes[1]));
        }
    }
}

/// The machine of ELF files that run here (elf(5)); None: not known to us, and the kernel decides.
const MACHINE: Option<u16> = match () {
    () if cfg!(target_arch = "x86_64") => Some(62),
    () if cfg!(target_arch = "aarch64") => Some(183),
    () if cfg!(target_arch = "riscv64") => Some(243),
    () if cfg!(target_arch = "x86") => Some(3),
    () if cfg!(target_arch = "arm") => Some(40),
    () => None,
};

fn is_for_us(mut file: &File) -> Result<(), String> {
    let mut head = [0; 20];
    let mut read = 0;
    while read < head.len() {
        match file.read(&mut head[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) => return Err(reason(&e)),
        }
    }
    match &head {
        [b'#', b'!', ..] => Err("it is a script, not a program".into()),
        [0x7f, b'E', b'L', b'F', .., low, high] if read == head.len() => {
            let machine = match cfg!(target_endian = "little") {
                true => u16::from_le_bytes([*low, *high]),
                false => u16::from_be_bytes([*low, *high]),
            };
            match MACHINE.is_none_or(|ours| ours == machine) {
                true => Ok(()),
                false => Err(format!("it is for another machine (ELF machine {machine})")),
            }
        }
        _ => Err("it is no program (ELF)".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn programs_are_told_from_what_is_none() {
        let folder = Folder::new("image");
        let ours = std::fs::read("/proc/self/exe").unwrap();
        let refused = |name: &str, bytes: &[u8], mode: u32| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Image::open(&path).map(|image| image.checksum)
        };
        let mut foreign = ours[..4096].to_vec();
        foreign[18] = 0xf7;
        foreign[19] = 0x7f;
        for (name, bytes, mode, why) in [
            ("script", &b"#!/bin/sh\n"[..], 0o755, "a script"),
            ("text", b"hello", 0o755, "no program"),
            ("short", &ours[..10], 0o755, "no program"),
            ("foreign", &foreign, 0o755, "another machine"),
            ("plain", &ours[..4096], 0o644, "not executable"),
            ("open", &ours[..4096], 0o777, "others may write it"),
        ] {
            let said = refused(name, bytes, mode).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert!(Image::open(folder.path()).unwrap_err().contains("no file"));
        let copy = refused("copy", &ours, 0o755).unwrap();
        assert_eq!(copy, own_checksum().unwrap());
        let longer = [&ours[..], b"\0"].concat();
        assert_ne!(copy, refused("longer", &longer, 0o755).unwrap());
    }

    #[test]
    fn an_image_that_is_written_to_is_no_longer_the_one_that_was_judged() {
        let folder = Folder::new("image-swap");
        let path = folder.join("program");
        std::fs::copy("/proc/self/exe", &path).unwrap();
        let image = Image::open(&path).unwrap();
        assert_eq!(image.is_unchanged(), Ok(()));
        // Another file of its name does not matter.
        std::fs::copy("/bin/true", folder.join("other")).unwrap();
        std::fs::rename(folder.join("other"), folder.join("program.old")).unwrap();
        assert_eq!(image.is_unchanged(), Ok(()));
        std::fs::rename(&path, folder.join("moved")).unwrap();
        assert_eq!(image.is_unchanged(), Ok(()));
        let file = File::options()
            .append(true)
            .open(folder.join("moved"))
            .unwrap();
        std::io::Write::write_all(&mut &file, b"x").unwrap();
        assert!(image.is_unchanged().is_err());
    }
}
