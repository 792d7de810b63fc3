//! In a release build the functions that an idle daemon enters lie side by side (`functions.ld`). A page fault maps the
//! 64 KiB around it, and they are a third of the code: in the order of the source nearly all of it would be in memory.
//!
//! The names of functions there have no hashes, so the list holds for other compilers; what it lacks is merely somewhere
//! else. `measure` beside it writes it.

#![allow(
    clippy::disallowed_methods,
    reason = "cargo talks to a build script in variables"
)]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=contrib/link/functions.ld");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let var = |name| env::var(name).unwrap_or_default();
    // Linkers that have no INSERT (ld's manual, "Implicit Linker Scripts" and "INSERT") refuse the list.
    let linker = var("RUSTC_LINKER") + &var("CARGO_ENCODED_RUSTFLAGS");
    let known = !["mold", "wild", "gold"]
        .iter()
        .any(|name| linker.contains(name));
    if var("PROFILE") == "release" && var("CARGO_CFG_TARGET_OS") == "linux" && known {
        let folder = var("CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-arg-bin=bpm=-T{folder}/contrib/link/functions.ld");
    }
}
