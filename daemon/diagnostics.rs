//! What the daemon says to its administrator, on standard error.
//!
//! One line per event, without times (a service manager adds them). `--debug` shows more;
//! `GUIX_DAEMON_LOG` chooses levels by target, as in `guix_daemon::session=debug`.

use tracing_subscriber::EnvFilter;

/// The variable that chooses what is shown.
const VARIABLE: &str = "GUIX_DAEMON_LOG";

/// Starts showing messages.
pub fn start(debug: bool) {
    let usual = if debug { "debug" } else { "info" };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false)
        .init();
}
