//! What people and scripts get to read: results on standard output, the rest on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Prints lines on standard output.
pub fn lines<T: Display>(lines: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Prints a line on standard error, in the manner of `guix COMMAND: …`.
fn message(command: &str, kind: &str, text: &str) {
    let _ = writeln!(io::stderr().lock(), "guix-client {command}: {kind}{text}");
}

/// Prints information on standard error.
pub fn info(command: &str, text: &str) {
    message(command, "", text);
}

/// Prints a warning on standard error.
pub fn warning(command: &str, text: &str) {
    message(command, "warning: ", text);
}

/// Prints an error, with its causes, on standard error.
pub fn error(command: &str, error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = without_number(&cause.to_string());
        // Errors that quote their cause have said it already.
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    message(command, "error: ", &text);
}

/// A message without the system's error numbers, which Guix doesn't show.
fn without_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((text, number)) if number.ends_with(')') => text.to_owned(),
        _ => text.to_owned(),
    }
}

/// Whether the reader of standard output went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether a person watches standard error.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}
