//! Where bpm says what it does: the daemon's log, or a terminal. Who writes it is a front's business.

/// How loud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who looks for a bug in bpm.
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// As in the log and in `BPM_LOG_LEVEL`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// Takes a line. Never blocks for long, never fails where the caller could see it.
pub trait Logger: Send + Sync {
    /// `room` says who speaks: `supervisor`, `net`.
    fn write(&self, level: Level, room: &str, text: &str);
}
