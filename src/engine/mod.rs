//! The engine: the supervisor's thread (`supervisor`), how others ask it (`handle`), what it shows (`snapshot`) and keeps
//! (`state_file`, its entries in `saved`), and what it hands to the next program in an upgrade (`handover`).

pub mod handle;
pub mod handover;
pub mod saved;
pub mod snapshot;
pub mod state_file;
pub mod supervisor;
