//! Settings of the allocator.
#![allow(unsafe_code)]

/// Releases free heap: after something large the allocator keeps what it took, in case it comes again.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: releases free memory only (malloc_trim(3)); may be called by any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Makes all threads share one heap: an arena for each (malloc(3)) would cost two pages a thread, and ours
/// allocate next to nothing. To be called before there is a second thread.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator's.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}
