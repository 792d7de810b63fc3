//! The verbs against an engine that is played by hand: boards and logs made here, orders answered here.
mod stage;

mod errors;
mod logs;
mod orders;
mod own;
mod resources;
mod status;
mod table;
mod wait;
