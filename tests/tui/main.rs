//! The terminal UI, from outside and as a picture.
