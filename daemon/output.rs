//! Standard output and standard error, which may be closed or full.
//!
//! * If the reader of standard output is gone, the program ends by `SIGPIPE`, as Unix programs do.
//!   The signal is ignored otherwise, so that a client that hangs up is an error of its session.
//! * If standard output takes no more (a full disk, say), that is an error of the program.
//! * If standard error takes no more, the message is lost.

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
