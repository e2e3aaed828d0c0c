//! Generates the bindings to libgcrypt, for the functions that this crate calls and no others.
//!
//! This isn't done by the root package's `build.rs` because Cargo gives each package its own output
//! directory.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let library = pkg_config::Config::new()
        .atleast_version("1.8.0")
        .probe("libgcrypt")
        .expect("libgcrypt's development files (Debian: libgcrypt20-dev) are needed");
    let includes = library
        .include_paths
        .iter()
        .map(|path| format!("-I{}", path.display()));
    let bindings = bindgen::Builder::default()
        .header_contents("gcrypt-bindings.h", "#include <gcrypt.h>\n")
        .clang_args(includes)
        .allowlist_function("gcry_(check_version|control|strerror|free)")
        .allowlist_function("gcry_sexp_(sscan|sprint|release|find_token|length|nth|nth_data)")
        .allowlist_function("gcry_pk_(genkey|sign|verify)")
        .allowlist_type("gcry_ctl_cmds|gcry_sexp_format")
        .rustified_enum("gcry_ctl_cmds|gcry_sexp_format")
        .opaque_type("gcry_sexp")
        .layout_tests(false)
        .generate()
        .expect("bindgen could not read <gcrypt.h>");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    bindings
        .write_to_file(out.join("bindings.rs"))
        .expect("the bindings could not be written");
}
