//! When to retry builds that could not be started.
//!
//! A build is postponed when another process holds the lock of an output, or when the hook
//! postpones it. There is no notification when the other process releases the lock or when a build
//! machine becomes free, so here, and only here, the scheduler polls: it retries everything at the
//! interval `build-poll-interval` (5 seconds). The end of any build of this daemon may have freed a
//! lock or a machine, so then one postponed goal is retried immediately.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bstr::BString;
use formats::derivation::Derivation;

/// What a derivation requires of a build machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Requirements {
    pub(super) system: BString,
    /// `requiredSystemFeatures`, as written.
    pub(super) features: BString,
}

impl Requirements {
    /// What a derivation requires.
    pub(super) fn of(derivation: &Derivation) -> Requirements {
        let features = derivation.variable("requiredSystemFeatures");
        Requirements {
            system: derivation.system.clone(),
            features: features.unwrap_or_default().into(),
        }
    }
}

/// The state of one request's postponed goals.
pub(super) struct Postponement {
    interval: Duration,
    last_try: Instant,
    /// Whether the client was told that it waits.
    announced: bool,
    /// Requirements with which the hook has postponed a build, and so would postpone others.
    postponed_by_hook: HashSet<Requirements>,
    /// What the hook said last why it postponed a build with these requirements.
    reasons: HashMap<Requirements, String>,
}

impl Postponement {
    /// No goal is postponed.
    pub(super) fn new(interval: Duration, now: Instant) -> Postponement {
        Postponement {
            interval,
            last_try: now,
            announced: false,
            postponed_by_hook: HashSet::new(),
            reasons: HashMap::new(),
        }
    }

    /// Records that a goal is postponed; `is_first` if it is the only one. Returns whether to tell
    /// the client.
    pub(super) fn begin(&mut self, is_first: bool, now: Instant) -> bool {
        if !is_first || self.announced {
            return false;
        }
        self.announced = true;
        self.last_try = now;
        true
    }

    /// The hook has postponed a build, for this reason.
    pub(super) fn postponed_by_hook(&mut self, requirements: Requirements, reason: Option<String>) {
        match reason {
            Some(reason) => self.reasons.insert(requirements.clone(), reason),
            None => self.reasons.remove(&requirements),
        };
        self.postponed_by_hook.insert(requirements);
    }

    /// Why the hook has last postponed a build with these requirements, if it said so.
    pub(super) fn reason(&self, requirements: &Requirements) -> Option<&str> {
        self.reasons.get(requirements).map(String::as_str)
    }

    /// Whether the hook would postpone a build with these requirements.
    pub(super) fn would_be_postponed(&self, requirements: &Requirements) -> bool {
        self.postponed_by_hook.contains(requirements)
    }

    /// A build has ended, so the hook may be asked again.
    pub(super) fn build_ended(&mut self) {
        self.postponed_by_hook.clear();
    }

    /// No goal is postponed any more.
    pub(super) fn none_left(&mut self) {
        self.announced &= !self.postponed_by_hook.is_empty();
    }

    /// When to retry the postponed goals.
    pub(super) fn next_try(&self) -> Instant {
        self.last_try + self.interval
    }

    /// Whether it is time to retry the postponed goals; if so, schedules the next time.
    pub(super) fn try_now(&mut self, now: Instant) -> bool {
        if now < self.next_try() {
            return false;
        }
        self.last_try = now;
        self.postponed_by_hook.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn kvm() -> Requirements {
        Requirements {
            system: "x86_64-linux".into(),
            features: "kvm".into(),
        }
    }

    #[test]
    fn postponed_goals_are_tried_at_the_interval_and_announced_once() {
        let start = Instant::now();
        let mut postponement = Postponement::new(INTERVAL, start);
        let later = start + Duration::from_secs(60);
        assert!(postponement.begin(true, later));
        assert!(!postponement.begin(false, later) && !postponement.begin(true, later));
        assert_eq!(postponement.next_try(), later + INTERVAL);
        assert!(!postponement.try_now(later));
        assert!(postponement.try_now(later + INTERVAL));
        assert!(!postponement.try_now(later + INTERVAL));
        postponement.none_left();
        assert!(postponement.begin(true, later), "a new wait is announced");
    }

    #[test]
    fn what_a_hook_postponed_is_not_asked_again_until_something_happens() {
        let start = Instant::now();
        let mut postponement = Postponement::new(INTERVAL, start);
        postponement.begin(true, start);
        postponement.postponed_by_hook(kvm(), None);
        assert!(postponement.would_be_postponed(&kvm()));
        // Only one goal was retried meanwhile: waiting continues, and is not announced again.
        postponement.none_left();
        assert!(!postponement.begin(true, start));
        postponement.build_ended();
        assert!(!postponement.would_be_postponed(&kvm()));
        postponement.postponed_by_hook(kvm(), Some("busy".to_owned()));
        assert_eq!(postponement.reason(&kvm()), Some("busy"));
        assert!(postponement.try_now(start + INTERVAL));
        assert!(!postponement.would_be_postponed(&kvm()));
    }
}
