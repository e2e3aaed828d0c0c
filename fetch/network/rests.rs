//! Servers that are too busy to answer: how long they are left alone before they are asked again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a server that is busy is asked for the same.
pub const MAX_ATTEMPTS: u32 = 4;
/// The first wait for a server that doesn't say how long it needs; the next ones are longer.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long a server is waited for altogether, until it has had its peace for [`MEMORY`].
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it is remembered for how long a server was waited for.
const MEMORY: Duration = Duration::from_secs(60);

/// The servers that are left alone, or were a moment ago.
#[derive(Default)]
pub struct Rests(HashMap<String, Rest>);

struct Rest {
    until: Instant,
    /// How long the server was waited for.
    waited: Duration,
}

impl Rests {
    /// Leaves a server alone that has said, at `now`, that it is busy, for as long as it wishes
    /// (`retry_after`, in seconds) or as is usual after so many `attempts`. `false` if that is too
    /// long: then its answer stands.
    pub fn add(
        &mut self,
        server: &str,
        retry_after: Option<u64>,
        attempts: u32,
        now: Instant,
    ) -> bool {
        self.0.retain(|_, rest| now < rest.until + MEMORY);
        let wait = match retry_after {
            Some(seconds) => Duration::from_secs(seconds),
            None => FIRST_WAIT.saturating_mul(1 << attempts.saturating_sub(1).min(8)),
        };
        if wait > PATIENCE {
            return false;
        }
        let none = Rest {
            until: now,
            waited: Duration::ZERO,
        };
        let rest = self.0.entry(server.to_owned()).or_insert(none);
        // Others may have been told so, too, and the server rests already.
        let longer = (now + wait).saturating_duration_since(rest.until.max(now));
        if rest.waited + longer > PATIENCE {
            return false;
        }
        rest.waited += longer;
        rest.until = rest.until.max(now + wait);
        true
    }

    /// Whether a server may be asked.
    pub fn may_ask(&self, server: &str, now: Instant) -> bool {
        self.until(server, now).is_none()
    }

    /// Until when a server is left alone.
    pub fn until(&self, server: &str, now: Instant) -> Option<Instant> {
        let rest = self.0.get(server)?;
        (rest.until > now).then_some(rest.until)
    }

    /// When the next of them may be asked again.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        let ends = self.0.values().map(|rest| rest.until);
        ends.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_says() {
        let (mut rests, start) = (Rests::default(), Instant::now());
        assert!(rests.may_ask("a", start) && rests.next_end(start).is_none());
        assert!(rests.add("a", Some(10), 1, start));
        // What it says to the next one counts from then on, and is not waited for twice.
        assert!(rests.add("a", Some(10), 1, start + seconds(5)));
        assert_eq!(rests.next_end(start), Some(start + seconds(15)));
        assert_eq!(rests.until("a", start), Some(start + seconds(15)));
        assert!(!rests.may_ask("a", start + seconds(14)) && rests.may_ask("b", start));
        assert!(rests.may_ask("a", start + seconds(15)));
        assert_eq!(rests.next_end(start + seconds(15)), None);
    }

    #[test]
    fn waiting_has_an_end() {
        let (mut rests, start) = (Rests::default(), Instant::now());
        assert!(!rests.add("a", Some(u64::MAX), 1, start));
        assert!(!rests.add("a", Some(31), 1, start));
        assert!(rests.may_ask("a", start));
        let mut now = start;
        for attempt in 1.. {
            if !rests.add("a", None, attempt, now) {
                break;
            }
            now = rests.next_end(now).unwrap();
        }
        assert_eq!(now, start + seconds(1 + 2 + 4 + 8));
        // Later, it is waited for again.
        assert!(rests.add("a", None, 1, now + MEMORY));
    }
}
