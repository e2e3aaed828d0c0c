//! The intervals of the last 24 hours.

/// How far back they go, in seconds.
const SPAN: u64 = 24 * 3600;
/// The length of one, in seconds.
pub const INTERVAL: u64 = 600;

/// When the one begins in which a time is.
pub fn of(time: u64) -> u64 {
    time / INTERVAL * INTERVAL
}

/// When the first one begins.
pub fn first(now: u64) -> u64 {
    of(now.saturating_sub(SPAN))
}
