//! What tests say if they cannot be run on some machine.

use std::io::Write;

/// Reports that this test can't be run here, and why; `tests/check` counts it as skipped. The test
/// must return afterwards.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    match std::env::var_os("GUIX_CHECK_SKIPPED") {
        Some(name) => {
            let mut file = std::fs::File::options().append(true).open(name).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        None => eprint!("skipped: {line}"),
    }
}
