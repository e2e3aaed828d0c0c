//! Messages of the hook, on standard error.

use std::fmt;
use std::io::Write;

/// Writes a line with one `write`: standard error is not buffered, and the daemon forwards whatever
/// one `read` returns as a message of its own.
pub fn write_line(text: fmt::Arguments<'_>) {
    let line = format!("{text}\n");
    // If nobody reads standard error any more, that must not end the build.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Writes a line to standard error, formatted as by `eprintln!`.
#[macro_export]
macro_rules! stderr_line {
    ($($words:tt)*) => { $crate::stderr::write_line(format_args!($($words)*)) };
}
