//! The daemon's log, on standard error.
//!
//! One line per event, without times (a service manager adds them). Events quote clients, build
//! machines and others; what would end the line or control a terminal is escaped. A line that cannot
//! be written, because standard error is closed or its disk is full, is lost. `--debug` shows more;
//! `GUIX_DAEMON_LOG` chooses levels by target, as in `guix_daemon::session=debug`.

use std::io::{self, Write};

use formats::printable::printable;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that chooses which messages are shown.
const VARIABLE: &str = "GUIX_DAEMON_LOG";

/// Starts the log.
pub fn start(debug: bool) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| OneLine)
        // They would be written to standard error, too, which panics.
        .log_internal_errors(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false);
    let chosen = std::env::var(VARIABLE).ok();
    tracing_subscriber::registry()
        .with(lines.with_filter(filter(chosen.as_deref(), debug)))
        .init();
}

/// What is shown: what the administrator has `chosen`, if that can be understood. Of targets that it
/// doesn't name, errors are shown.
fn filter(chosen: Option<&str>, debug: bool) -> Targets {
    let usual = match debug {
        true => LevelFilter::DEBUG,
        false => LevelFilter::INFO,
    };
    match chosen.map(str::parse::<Targets>) {
        Some(Ok(targets)) if targets.default_level().is_some() => targets,
        Some(Ok(targets)) => targets.with_default(LevelFilter::ERROR),
        None | Some(Err(_)) => Targets::new().with_default(usual),
    }
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::filter;

    #[test]
    fn levels_are_chosen_by_target() {
        let shown = |chosen, target, level| filter(chosen, false).would_enable(target, &level);
        let session = "guix_daemon::session";

        assert!(shown(None, session, Level::INFO));
        assert!(!shown(None, session, Level::DEBUG));
        assert!(filter(None, true).would_enable(session, &Level::DEBUG));
        assert!(shown(Some("debug"), session, Level::DEBUG));
        let chosen = Some("guix_daemon::session=debug");
        assert!(shown(chosen, "guix_daemon::session::add", Level::DEBUG));
        assert!(!shown(chosen, "guix_daemon::build", Level::INFO));
        assert!(shown(chosen, "guix_daemon::build", Level::ERROR));
        let chosen = Some("warn,guix_daemon::build=trace");
        assert!(shown(chosen, "guix_daemon::build", Level::TRACE));
        assert!(!shown(chosen, session, Level::INFO));
        // What cannot be understood changes nothing.
        assert!(shown(Some("guix_daemon=loud"), session, Level::INFO));
    }
}
