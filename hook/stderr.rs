//! Messages of the hook, on standard error.

use std::fmt;
use std::io::Write;

use formats::printable::printable_message;
use protocol::trace::Trace;

/// Writes a message, which may quote what a build machine says about itself: control characters
/// are escaped, and no line of it looks like a trace line.
pub fn write_line(text: fmt::Arguments<'_>) {
    write(printable_message(&text.to_string()).into_owned());
}

/// Writes a trace line.
pub fn write_trace(trace: &Trace<'_>) {
    write(trace.to_string());
}

/// Writes a line with a single `write`: standard error is not buffered, and the daemon forwards
/// what one `read` returns as one message.
fn write(mut line: String) {
    line.push('\n');
    // A closed standard error must not end the build.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Writes a line to standard error, formatted as by `eprintln!`.
#[macro_export]
macro_rules! stderr_line {
    ($($words:tt)*) => { $crate::stderr::write_line(format_args!($($words)*)) };
}
