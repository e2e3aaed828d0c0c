//! The daemon's log, on standard error.
//!
//! One line per event, without times (a service manager adds them). Events quote clients, build
//! machines and others; what would end the line or control a terminal is escaped. A line that cannot
//! be written, because standard error is closed or its disk is full, is lost. `--debug` shows more;
//! `GUIX_DAEMON_LOG` chooses levels by target, as in `guix_daemon::session=debug`.

use std::io::{self, Write};

use formats::printable::printable;
use tracing_subscriber::EnvFilter;

/// The environment variable that chooses which messages are shown.
const VARIABLE: &str = "GUIX_DAEMON_LOG";

/// Starts the log.
pub fn start(debug: bool) {
    let usual = if debug { "debug" } else { "info" };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| OneLine)
        // They would be written to standard error, too, which panics.
        .log_internal_errors(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false)
        .init();
}

/// Standard error, for whole events: each is written as one line.
struct OneLine;

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = format!("{}\n", printable(text));
        io::stderr().write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
