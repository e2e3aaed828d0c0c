//! The time of day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the epoch (1970-01-01 00:00 UTC); 0 if the clock is set to before it.
pub fn unix_time() -> u64 {
    since_epoch(SystemTime::now()).as_secs()
}

/// The time from the epoch to `time`; nothing if `time` is before it.
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
