//! Resources that bpm itself uses.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use super::proc;

/// Resources that bpm itself uses; a figure that can't be read is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss: u64,
    pub threads: u64,
    /// Open descriptors.
    pub fds: u64,
    /// How many it may have open.
    pub max_fds: u64,
}

/// Reads it.
pub fn own() -> Own {
    let cpu = getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let time = usage.user_time() + usage.system_time();
        Duration::from_micros(time.num_microseconds().unsigned_abs())
    });
    let entries = |path| fs::read_dir(path).map_or(0, Iterator::count) as u64;
    Own {
        cpu,
        rss: proc::self_rss(),
        threads: entries("/proc/self/task"),
        // Less the one that reads the folder.
        fds: entries("/proc/self/fd").saturating_sub(1),
        max_fds: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_figures_are_those_of_this_process() {
        let own = own();
        assert!(own.cpu > Duration::ZERO && own.rss > 1 << 16);
        assert!(own.threads >= 1 && own.fds >= 3 && own.max_fds >= own.fds);
    }
}
