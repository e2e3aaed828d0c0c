//! Finds libgcrypt, and has the programs linked with it.
//!
//! This isn't done by the root package's `build.rs` because Cargo gives each package its own output
//! directory.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    pkg_config::Config::new()
        .atleast_version("1.8.0")
        .probe("libgcrypt")
        .expect("libgcrypt's development files (Debian: libgcrypt20-dev) are needed");
}
