//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch (1970-01-01 00:00 UTC); 0 if the clock is set to before it.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
