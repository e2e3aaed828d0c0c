//! Results on standard output, everything else on standard error.
//!
//! All output of this program goes through this file, so that write errors are handled in one
//! place:
//!
//! * The output is a closed pipe (`EPIPE`): the program ends by `SIGPIPE`, like other Unix
//!   programs. The signal is ignored until then, so that a daemon that disconnects is reported as
//!   an error.
//! * Standard output can't be written, for example because of a full disk: an error, and exit
//!   status 1.
//! * Standard error can't be written: the message is lost, and the program continues.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use formats::printable::{printable, printable_lines};
use system::errno::without_number;
use system::poll::{PollFd, PollFlags, poll};
use system::signal::end_by_broken_pipe;
use system::terminal;

/// The size of the output buffer, in bytes.
const OUTPUT_BUFFER_SIZE: usize = 128 * 1024;

/// Standard output, buffered. Must be flushed: errors are ignored when the buffer is dropped.
pub fn stdout() -> BufWriter<impl Write> {
    BufWriter::with_capacity(OUTPUT_BUFFER_SIZE, Stdout(io::stdout().lock()))
}

/// Standard error.
pub fn stderr() -> impl Write + Send {
    Stderr(io::stderr())
}

struct Stdout<W>(W);

impl<W: Write> Write for Stdout<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data).map_err(not_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(not_written)
    }
}

fn not_written(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => end_by_broken_pipe(),
        kind => io::Error::new(kind, format!("standard output: {error}")),
    }
}

struct Stderr<W>(W);

impl<W: Write> Write for Stderr<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.0.write(data) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => end_by_broken_pipe(),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Ok(data.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on, ends the program when `stream` becomes a closed pipe, even if nothing is written.
pub fn end_with_reader_of(stream: impl AsFd + IsTerminal + Send + 'static) {
    if stream.is_terminal() {
        return;
    }
    let watch = move || {
        // Errors are always reported by poll.
        let mut watched = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        loop {
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
            if poll(&mut watched, None).is_err() {
                return;
            }
            match watched[0].revents() {
                Some(events) if events.intersects(gone) => end_by_broken_pipe(),
                Some(events) if events.is_empty() => {} // a signal
                _ => return,
            }
        }
    };
    // Without the thread, the next failed write ends the program.
    let _ = std::thread::Builder::new()
        .name("reader".into())
        .spawn(watch);
}

/// Prints lines on standard output. Names in them may be other users': control characters are
/// escaped.
pub fn lines<T: Display>(lines: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut out = stdout();
    for line in lines {
        writeln!(out, "{}", printable(&line.to_string()))?;
    }
    out.flush()
}

/// Prints a line on standard error, in the style of `guix COMMAND: …`.
fn message(command: &str, kind: &str, text: &str) {
    // Errors are others' words as well: a daemon's, a build machine's, a file name.
    let line = format!("{}: {kind}{}\n", program(command), printable_lines(text));
    let _ = stderr().write_all(line.as_bytes());
}

/// `guix-client COMMAND`, or `guix-client` if there is no command.
fn program(command: &str) -> String {
    format!("guix-client {command}").trim_end().to_owned()
}

/// Prints information on standard error.
pub fn info(command: &str, text: &str) {
    message(command, "", text);
}

/// Tells somebody who runs a command that reads standard input that it waits for them.
pub fn say_if_typed(command: &str, what: &str) {
    if io::stdin().is_terminal() {
        let text = format!("reading {what} from the terminal; Ctrl-D ends it");
        info(command, &text);
    }
}

/// Prints a warning on standard error.
pub fn warning(command: &str, text: &str) {
    message(command, "warning: ", text);
}

/// Prints an error, with its causes, on standard error.
pub fn error(command: &str, error: &anyhow::Error) {
    message(command, "error: ", &text(error));
}

/// An error with its causes.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = without_number(&cause);
        // Rust's word for the end of a file, which is what the other causes say.
        let cause = match cause {
            "failed to fill whole buffer" if !text.is_empty() => continue,
            cause => cause,
        };
        // Some errors already include their cause.
        if text.is_empty() {
            text = cause.to_owned();
        } else if !text.contains(cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether `stream` is a terminal that shows colors, and the user has not said `NO_COLOR`.
pub fn has_colors(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal::is_screen(stream) && !is_set("NO_COLOR")
}

/// Whether standard error is a terminal.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// What a log is shown on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// A file, or a pipe, or a terminal that shows lines and nothing else.
    Lines,
    /// A terminal.
    Screen,
    /// A terminal with colors.
    Colors,
}

impl Surface {
    /// Standard error.
    pub fn of_stderr() -> Surface {
        let stderr = io::stderr();
        match (terminal::is_screen(&stderr), has_colors(&stderr)) {
            (false, _) => Surface::Lines,
            (true, false) => Surface::Screen,
            (true, true) => Surface::Colors,
        }
    }
}
