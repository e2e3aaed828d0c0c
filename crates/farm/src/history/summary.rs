//! What the attempts to build one thing say together.

use std::time::Duration;

use super::record::{Attempt, AttemptResult, Kind};
use crate::ItemName;
use crate::estimate::{Basis, Estimate, Estimates, Sample};

/// What is known of builds for one system.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemSummary {
    /// The system.
    pub system: String,
    /// How long successful builds take on a machine of speed 1.
    pub estimate: Estimate,
    /// By machine, in the order of their names.
    pub machines: Vec<MachineSummary>,
}

/// What is known of builds on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSummary {
    /// Its name, as in the attempts.
    pub machine: String,
    /// How many have succeeded.
    pub done: usize,
    /// How many builds have failed or timed out.
    pub failed: usize,
    /// How many attempts have ended for other reasons: cancelled, or failures of machines.
    pub other: usize,
    /// Half of those that succeeded took no longer there; nothing if none has.
    pub usual: Option<Duration>,
    /// When the last attempt ended, in seconds since the epoch.
    pub last: u64,
}

/// Sums up attempts to build one thing, the newest first; checks and repairs don't count. Systems are in
/// the order of their names.
pub fn summary(attempts: &[Attempt]) -> Vec<SystemSummary> {
    let builds = |attempt: &&Attempt| attempt.kind == Kind::Build;
    let builds: Vec<&Attempt> = attempts.iter().filter(builds).collect();
    let systems = distinct(builds.iter().map(|attempt| &attempt.system));
    let of_system = systems.into_iter().map(|system| {
        let builds = builds.iter().copied();
        of_system(system, builds.filter(|attempt| attempt.system == *system))
    });
    of_system.collect()
}

fn of_system<'a>(
    system: &str,
    builds: impl DoubleEndedIterator<Item = &'a Attempt> + Clone,
) -> SystemSummary {
    let machines = distinct(builds.clone().map(|attempt| &attempt.machine));
    let of_machine = machines.into_iter().map(|machine| {
        let builds = builds.clone();
        of_machine(
            machine,
            builds.filter(|attempt| attempt.machine == *machine),
        )
    });
    SystemSummary {
        system: system.to_owned(),
        estimate: estimate(builds.clone(), |attempt| attempt.speed),
        machines: of_machine.collect(),
    }
}

fn of_machine<'a>(
    machine: &str,
    builds: impl DoubleEndedIterator<Item = &'a Attempt> + Clone,
) -> MachineSummary {
    let count = |results: &[AttemptResult]| {
        let is_such = |attempt: &&Attempt| results.contains(&attempt.result);
        builds.clone().filter(is_such).count()
    };
    let done = count(&[AttemptResult::Done]);
    let failed = count(&[AttemptResult::Failed, AttemptResult::TimedOut]);
    let here = estimate(builds.clone(), |_| 1.0);
    MachineSummary {
        machine: machine.to_owned(),
        done,
        failed,
        other: builds.clone().count() - done - failed,
        usual: (here.from != Basis::Nothing).then_some(here.usual),
        last: builds.map(|attempt| attempt.time).max().unwrap_or(0),
    }
}

/// How long successful builds took, the newest first.
fn estimate<'a>(
    builds: impl DoubleEndedIterator<Item = &'a Attempt>,
    speed: impl Fn(&Attempt) -> f64,
) -> Estimate {
    let done = builds.filter(|attempt| attempt.result == AttemptResult::Done);
    // All count as the same thing.
    let item = ItemName::default();
    let samples = done.rev().map(|attempt| Sample {
        item: item.clone(),
        system: String::new(),
        built: attempt.times.built,
        speed: speed(attempt),
    });
    Estimates::from_rows(samples).estimate(&item, "")
}

/// Each word once, sorted.
fn distinct<'a>(words: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut words: Vec<&String> = words.collect();
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use super::super::record::Times;
    use super::*;

    fn attempt(
        system: &str,
        machine: &str,
        speed: f64,
        result: AttemptResult,
        time: u64,
    ) -> Attempt {
        Attempt {
            time,
            derivation: String::new(),
            item: ItemName::of("hello-1"),
            system: system.to_owned(),
            machine: machine.to_owned(),
            speed,
            kind: Kind::Build,
            times: Times {
                built: Duration::from_secs(time),
                ..Times::default()
            },
            bytes_sent: 0,
            bytes_retrieved: 0,
            result,
            reason: String::new(),
        }
    }

    #[test]
    fn machines_are_told_apart() {
        use AttemptResult::{Cancelled, Done, Failed, MachineFailed, TimedOut};
        let check = Attempt {
            kind: Kind::Check,
            ..attempt("x", "a", 1.0, Done, 90)
        };
        let attempts = [
            check,
            attempt("y", "a", 1.0, Failed, 8),
            attempt("x", "b", 2.0, Done, 7),
            attempt("x", "a", 1.0, MachineFailed, 6),
            attempt("x", "a", 1.0, Done, 5),
            attempt("x", "a", 1.0, TimedOut, 4),
            attempt("x", "a", 1.0, Cancelled, 3),
            attempt("x", "a", 1.0, Done, 2),
        ];
        let [x, y]: [SystemSummary; 2] = summary(&attempts).try_into().unwrap();
        assert_eq!((x.system.as_str(), y.system.as_str()), ("x", "y"));
        // 2, 5, and 14 on the machine of speed 2.
        assert_eq!(
            (x.estimate.usual.as_secs(), x.estimate.long.as_secs()),
            (5, 14)
        );
        assert_eq!(y.estimate.from, Basis::Nothing);
        let counts = |machine: &MachineSummary| (machine.done, machine.failed, machine.other);
        let [a, b]: [MachineSummary; 2] = x.machines.try_into().unwrap();
        assert_eq!((counts(&a), counts(&b)), ((2, 1, 2), (1, 0, 0)));
        assert_eq!((a.usual, a.last), (Some(Duration::from_secs(2)), 6));
        assert_eq!(b.usual, Some(Duration::from_secs(7)));
        assert_eq!(
            (counts(&y.machines[0]), y.machines[0].usual),
            ((0, 1, 0), None)
        );
        assert_eq!(summary(&[]), []);
    }
}
