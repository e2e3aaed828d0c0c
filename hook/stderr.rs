//! Messages of the hook, on standard error.

use std::fmt;
use std::io::Write;

use formats::printable::printable_message;
use protocol::trace::Trace;

/// Writes a message, which may quote what a build machine says: control characters are escaped, and
/// no line of it looks like a trace line or a reply to the daemon.
pub fn write_line(text: fmt::Arguments<'_>) {
    write(quoted(&text.to_string()));
}

fn quoted(text: &str) -> String {
    let lines = printable_message(text);
    // The daemon reads replies where it reads messages.
    let indented = lines.split_inclusive('\n').map(|line| {
        let indent = if line.starts_with("# ") { " " } else { "" };
        [indent, line].concat()
    });
    indented.collect()
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_machines_words_are_no_reply() {
        let said = "'m' failed: x\n# accept\n@ build-succeeded\n\x1b\n## y\n# ";
        let expected = "'m' failed: x\n # accept\n @ build-succeeded\n\\u{1b}\n## y\n # ";
        assert_eq!(super::quoted(said), expected);
    }
}
