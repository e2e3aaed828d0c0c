//! The daemon's log, on standard error.
//!
//! One line per event, without times (a service manager adds them). A line that cannot be written,
//! because standard error is closed or its disk is full, is lost. `--debug` shows more;
//! `GUIX_DAEMON_LOG` chooses levels by target, as in `guix_daemon::session=debug`.

use tracing_subscriber::EnvFilter;

/// The environment variable that chooses which messages are shown.
const VARIABLE: &str = "GUIX_DAEMON_LOG";

/// Starts the log.
pub fn start(debug: bool) {
    let usual = if debug { "debug" } else { "info" };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // They would be written to standard error, too, which panics.
        .log_internal_errors(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false)
        .init();
}
