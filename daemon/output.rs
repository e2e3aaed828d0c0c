//! Standard output and standard error, which may be closed or full.
//!
//! * If standard output is a closed pipe, the program ends by `SIGPIPE`, like other Unix programs.
//!   Otherwise, the signal is ignored, so that a client that disconnects only affects its session.
//! * If standard output can't be written otherwise (because of a full disk, for example), that is
//!   an error of the program.
//! * If standard error can't be written, the message is lost.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::{Result, anyhow};

/// Prints `text` on standard output.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let printed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    printed.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => system::signal::end_by_broken_pipe(),
        _ => anyhow!("standard output: {}", system::errno::message(&error)),
    })
}

/// Prints a line on standard error.
pub fn print_error(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
