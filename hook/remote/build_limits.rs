//! The limits of a build.

use std::time::{Duration, Instant};

/// What is added to a build's time limit on the machine, since it may have to wait for other builds
/// there.
const GRACE: Duration = Duration::from_secs(600);

/// The limits of a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuildLimits {
    /// Seconds of silence; 0 for no limit.
    pub max_silent_time: u64,
    /// Seconds in total; 0 for no limit.
    pub timeout: u64,
    /// Whether the local daemon wants trace lines.
    pub print_build_trace: bool,
}

impl BuildLimits {
    /// Reads them as the daemon writes them; `None` if these are no numbers. `trace` is `1` or `0`,
    /// and with Guix 1.5 `true` or `false`.
    pub fn parse(max_silent_time: &str, trace: &str, timeout: &str) -> Option<BuildLimits> {
        Some(BuildLimits {
            max_silent_time: max_silent_time.parse().ok()?,
            timeout: timeout.parse().ok()?,
            print_build_trace: matches!(trace, "1" | "true"),
        })
    }

    /// When to give up on a build that starts now; `None`: never. The remote daemon itself enforces
    /// the limits, so this is later than `timeout`.
    pub fn deadline(&self) -> Option<Instant> {
        match self.timeout {
            0 => None,
            seconds => {
                Instant::now().checked_add(Duration::from_secs(seconds).saturating_add(GRACE))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(timeout: u64) -> BuildLimits {
        BuildLimits {
            timeout,
            ..BuildLimits::default()
        }
    }

    #[test]
    fn limits_are_read_as_any_daemon_writes_them() {
        for (trace, expected) in [("1", true), ("0", false), ("true", true), ("false", false)] {
            let limits = BuildLimits::parse("3600", trace, "86400").unwrap();
            assert_eq!(limits.print_build_trace, expected, "{trace}");
            assert_eq!((limits.max_silent_time, limits.timeout), (3600, 86400));
        }
        assert_eq!(BuildLimits::parse("-1", "1", "0"), None);
        assert_eq!(BuildLimits::parse("0", "1", "soon"), None);
    }

    #[test]
    fn the_deadline_is_later_than_the_time_limit() {
        let before = Instant::now();
        let deadline = limited(5).deadline().unwrap();
        assert!(deadline >= before + Duration::from_secs(605));
        assert!(deadline <= Instant::now() + Duration::from_secs(605));
    }

    #[test]
    fn without_a_time_limit_there_is_no_deadline() {
        assert_eq!(limited(0).deadline(), None);
        // More seconds than an `Instant` can represent.
        assert_eq!(limited(u64::MAX).deadline(), None);
    }
}
