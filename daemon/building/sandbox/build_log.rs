//! Messages in a build's log from the process that becomes its builder.

use std::fmt;
use std::io::{self, Write};

/// Writes a line to the build's log, which is standard error. If the daemon has closed it, the line
/// is lost.
pub(super) fn log(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
