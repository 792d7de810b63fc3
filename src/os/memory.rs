//! Giving memory back that we do not need while nothing happens.
#![allow(unsafe_code)]

use std::fs;

/// Gives back what can be had again for nothing: pages of our own code (mapped around each fault, most
/// are never used again after the start) and free heap. What is needed is mapped again from the page
/// cache, without reading the disk.
pub fn give_back() {
    // Errors are of no account: nothing is given back then.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: a private mapping of a file that is executable and not writable holds no data of
        // its own: the kernel reads the same bytes from the file again (madvise(2), MADV_DONTNEED).
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    trim();
}

/// Gives back free heap: after something large the allocator keeps what it took, in case it comes again.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: releases free memory only (malloc_trim(3)); may be called by any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// One heap for all threads: an arena of its own for each (malloc(3)) would cost two pages a thread,
/// and ours allocate next to nothing. To be called before there is a second thread.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator's.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Start and length of a line of proc_pid_maps(5) that maps a file's code.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let file =
        fields.next() == Some("r-xp") && fields.nth(3).is_some_and(|path| path.starts_with('/'));
    let (from, to) = (
        usize::from_str_radix(from, 16).ok()?,
        usize::from_str_radix(to, 16).ok()?,
    );
    file.then_some((from, to - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_given_back() {
        let line = "7f01-7f05 r-xp 00001000 fe:00 42   /usr/bin/bpm";
        assert_eq!(code(line), Some((0x7f01, 4)));
        for other in [
            "7f01-7f05 r--p 00001000 fe:00 42   /usr/bin/bpm",
            "7f01-7f05 rwxp 00001000 fe:00 42   /usr/bin/bpm",
            "7ffd-7fff r-xp 00000000 00:00 0    [vdso]",
            "7ffd-7fff r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn we_go_on_after_it() {
        give_back();
        assert_eq!(format!("{:?}", vec![1; 3]), "[1, 1, 1]");
    }
}
