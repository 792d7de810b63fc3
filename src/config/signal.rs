//! Pure: no system call, no thread, no clock.
//!
//! Signals by name: Linux's numbers, which x86-64 and aarch64 share.

/// Name without `SIG`, and number (signal(7)).
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The largest number of a signal (SIGRTMAX).
pub(super) const LAST: i32 = 64;

/// `TERM`, `SIGTERM`, in small commands too.
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// All names, for suggestions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SIGNALS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_this_system() {
        for (name, number) in [
            ("TERM", libc::SIGTERM),
            ("sigusr2", libc::SIGUSR2),
            ("SigSys", libc::SIGSYS),
        ] {
            assert_eq!(signal_number(name), Some(number));
        }
        for (i, (name, number)) in SIGNALS.iter().enumerate() {
            assert_eq!(*number, i as i32 + 1);
            assert_eq!(signal_number(name), Some(*number));
        }
        assert_eq!(signal_number("TREM"), None);
        assert_eq!(signal_number(""), None);
    }
}
