//! `guix discover`, which finds substitute servers on the local network (`--discover`).

use system::process::{Child, Spawn};
use system::signal::Signal;

use crate::settings::Settings;

/// Starts `guix discover`, if it is enabled. It is ended on drop, or with the daemon. A failure is
/// only logged.
pub fn start(settings: &Settings) -> Option<Child> {
    if !settings.discover {
        return None;
    }
    let guix = &settings.directories.guix;
    let file = settings.directories.state.join("discover/publish");
    let started = Spawn::new(guix)
        .args(["discover".as_ref(), file.as_os_str()])
        .parent_death_signal(Signal::SIGKILL)
        .spawn();
    started
        .inspect_err(|error| tracing::warn!("cannot start `{} discover': {error}", guix.display()))
        .ok()
}
