//! Messages in a build's log from the process that becomes its builder.

use std::fmt;
use std::io::{self, Write};

use formats::printable::printable_message;

/// Writes a line to the build's log, which is standard error. If the daemon has closed it, the
/// line is lost. It may quote the derivation, so control characters are escaped.
pub(super) fn log(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{}", printable_message(&line.to_string()));
}
