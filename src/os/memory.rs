//! Giving back memory that was only needed to begin.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Takes the pages of our own code, and of the libraries', out of our memory: the kernel maps 16 around
/// each that is touched, so most of what a start has mapped is never used again. What is used comes back
/// from the page cache by itself, in a microsecond.
pub fn forget_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (from, length) in maps.lines().filter_map(code) {
        let Some(from) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(from)) else {
            continue;
        };
        // SAFETY: a private mapping of a file that was never written to reads the same from the file
        // again. Code is that; data that the loader has relocated is not, and has other permissions.
        let _ = unsafe { madvise(from, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Begin and length of a mapping of code: `55d0-55e0 r-xp 00001000 08:01 77 /usr/bin/bpm`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    if words.next()? != "r-xp" || !words.next_back()?.starts_with('/') {
        return None;
    }
    let from = usize::from_str_radix(from, 16).ok()?;
    let to = usize::from_str_radix(to, 16).ok()?;
    Some((from, to.checked_sub(from)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_meant() {
        assert_eq!(
            code("1000-3000 r-xp 00001000 08:01 77 /usr/bin/bpm"),
            Some((0x1000, 0x2000))
        );
        for other in [
            "1000-3000 r--p 00001000 08:01 77 /usr/bin/bpm",
            "1000-3000 rw-p 00001000 08:01 77 /usr/bin/bpm",
            "1000-3000 r-xp 00000000 00:00 0  [vdso]",
            "1000-3000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn everything_still_works_after_it() {
        let before = super::super::proc::self_rss();
        forget_code();
        let after = super::super::proc::self_rss();
        assert!(after < before, "{before} {after}");
    }
}
