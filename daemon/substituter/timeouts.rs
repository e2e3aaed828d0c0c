//! How long a client lets something take.

use std::time::Duration;

use substitutes::Stop;

use crate::settings::SessionSettings;

/// Limits in seconds; 0 means none.
#[derive(Clone, Copy, Default)]
pub struct Timeouts {
    /// Without anything happening.
    pub silence: u64,
    /// In all.
    pub total: u64,
}

impl Timeouts {
    /// Those of a client.
    pub fn of(settings: &SessionSettings) -> Timeouts {
        let limit = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        Timeouts {
            silence: limit(settings.max_silent_time),
            total: limit(settings.build_timeout),
        }
    }

    /// The time left of what has been silent for so long, and has taken so long altogether; `None` if there
    /// is no limit.
    pub fn left(self, silent: Duration, taken: Duration) -> Result<Option<Duration>, Stop> {
        let mut least: Option<Duration> = None;
        for (seconds, passed, stop) in [
            (self.silence, silent, Stop::SilenceTimeout(self.silence)),
            (self.total, taken, Stop::TotalTimeout(self.total)),
        ] {
            if seconds == 0 {
                continue;
            }
            let left = Duration::from_secs(seconds).saturating_sub(passed);
            if left.is_zero() {
                return Err(stop);
            }
            least = Some(least.map_or(left, |least| least.min(left)));
        }
        Ok(least)
    }
}
