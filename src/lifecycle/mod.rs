//! The life of a process as facts and wishes.
