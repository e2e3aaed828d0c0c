//! What the hook has to say, on standard error.

use std::fmt;
use std::io::Write;

/// Says a line, with one `write`: standard error has no buffer, and the daemon hands on, in a frame
/// of its own, whatever it happens to read.
pub fn line(text: fmt::Arguments<'_>) {
    let line = format!("{text}\n");
    // Nobody may listen any more.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Says a line, as `eprintln!` formats it.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::say::line(format_args!($($words)*)) };
}
