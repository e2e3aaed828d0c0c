//! Which of several machines should get a build: the one whose outputs will be here first.
//!
//! The score of a machine is the time expected until then, in seconds (`doc/spec/offload.md`, section 29):
//! sending what it lacks, over a line that others may be using, the build itself, as fast as the machine is
//! and as slow as its load makes it, and fetching the outputs. Machines between which that makes no
//! significant difference are compared as if nothing were known: less loaded ones first, then faster ones, then
//! those that lack less; those that are equal in all of this come in random order, so that simultaneous hooks
//! choose different ones.
//!
//! Nothing here does any I/O: a simulator can call it as well as the hook.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use formats::size::Rounded;
use rand::Rng;
use rand::seq::SliceRandom;

/// Loads are compared in steps of this fraction of all processors; smaller differences are
/// insignificant.
const LOAD_STEP: f64 = 0.25;

/// How long a build is taken to last on an idle machine if that isn't known, in seconds. It is what the load is
/// weighed by against the time to send things.
const UNKNOWN_RUN: f64 = 10.0;

/// The rate at which items are taken to be sent if none was ever measured, in bytes per second.
pub const UNKNOWN_RATE: f64 = 25e6;

/// Times are as good as the best one if they are longer by less than this fraction of it: two measurements of
/// the same line differ by more.
const SIGNIFICANT_FRACTION: f64 = 0.05;
/// The same in seconds, at least.
const SIGNIFICANT_SECONDS: f64 = 0.1;
/// No time is longer, in seconds: what is beyond comes from absurd numbers.
const LONGEST: f64 = 1e9;
/// No load has more steps.
const MAX_LOAD_STEPS: f64 = 1e6;

/// What is known about a machine that could take the build now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    /// Its load, where 1 means that all processors are busy.
    pub load: f64,
    /// The fraction of its slots that are taken. A build may keep all processors busy before the load tells; who has
    /// set the number of slots knows how many builds a machine can bear.
    pub taken: f64,
    /// Its relative speed.
    pub speed: f64,
    /// How many bytes of what the build needs are neither there nor being sent there; `None` if that isn't
    /// known.
    pub lacks: Option<u64>,
    /// How many bytes other builds have still to send there, before ours can begin.
    pub queued: u64,
    /// How fast it was sent items before, in bytes per second.
    pub rate_there: Option<f64>,
    /// How fast items were fetched from it before, in bytes per second.
    pub rate_back: Option<f64>,
    /// Whether it gets what it lacks from somewhere else, over a line that it shares with nobody.
    pub fetches: bool,
}

/// A build, and what is going on meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Task {
    /// How long it usually runs on an idle machine of speed 1.
    pub run: Option<Duration>,
    /// How many bytes its outputs usually have.
    pub outputs: Option<u64>,
    /// The number of machines, whether candidates or not, to which something is being sent.
    pub lines_in_use: usize,
}

/// A machine in the order in which they are to be tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Its position in the list of candidates.
    pub index: usize,
    /// What it is expected to take there.
    pub expected: Expected,
}

/// The time that a build is expected to take on a machine. Displayed, it explains itself to people.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Bytes that it lacks, if known.
    lacks: Option<u64>,
    fetches: bool,
    /// Seconds until what it lacks is there.
    sending: f64,
    load: f64,
    taken: f64,
    /// Seconds of the build.
    building: f64,
    is_run_known: bool,
    outputs: Option<u64>,
    /// Seconds until the outputs are here.
    returning: f64,
}

impl Expected {
    /// Seconds until the outputs are here.
    pub fn seconds(&self) -> f64 {
        (self.sending + self.building + self.returning).min(LONGEST)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", Seconds(self.seconds()))?;
        let sending = Seconds(self.sending);
        match self.lacks {
            None => write!(f, "what it lacks is not known")?,
            Some(0) if self.sending > 0.0 => write!(f, "inputs arrive in {sending}")?,
            Some(0) => write!(f, "has all inputs")?,
            Some(bytes) => {
                let verb = if self.fetches { "fetches" } else { "sends" };
                write!(f, "{verb} {} in {sending}", Rounded(bytes))?;
            }
        }
        let sure = if self.is_run_known {
            "about"
        } else {
            "perhaps"
        };
        write!(f, ", builds {sure} {}", Seconds(self.building))?;
        if self.taken > self.load {
            write!(f, " with {:.0} % of the slots taken", 100.0 * self.taken)?;
        } else if self.load >= 0.005 {
            write!(f, " at load {:.2}", self.load)?;
        }
        if let Some(bytes @ 1..) = self.outputs {
            let returning = Seconds(self.returning);
            write!(f, ", returns {} in {returning}", Rounded(bytes))?;
        }
        write!(f, ")")
    }
}

/// Seconds in the largest unit that leaves two digits.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            short if short < 1.0 => write!(f, "under 1 s"),
            seconds if seconds < 120.0 => write!(f, "{seconds:.0} s"),
            seconds if seconds < 7200.0 => write!(f, "{:.0} min", seconds / 60.0),
            seconds => write!(f, "{:.0} h", seconds / 3600.0),
        }
    }
}

/// How many of the last rates of a line are remembered.
pub const RATES_KEPT: usize = 6;

/// The rate to expect, given the last rates that were measured, in bytes per second: the second highest, since
/// a transfer may have shared the line, but one that was too fast to be true counts for nothing.
pub fn typical_rate(measured: &[f64]) -> Option<f64> {
    let mut rates: Vec<f64> = measured.iter().copied().filter(is_rate).collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.get(1).or(rates.first()).copied()
}

/// Whether a number that was read somewhere can be a rate.
fn is_rate(rate: &f64) -> bool {
    rate.is_finite() && *rate >= 1.0
}

/// Orders the machines for a build: the best one comes first.
pub fn rank(candidates: &[Candidate], task: &Task, random: &mut impl Rng) -> Vec<Ranked> {
    let assumed = Assumptions::new(candidates, task);
    let expected: Vec<Expected> = candidates
        .iter()
        .map(|candidate| assumed.expected(candidate, task))
        .collect();
    let best = expected
        .iter()
        .map(Expected::seconds)
        .fold(LONGEST, f64::min);
    let significant = match task.run {
        Some(_) => (SIGNIFICANT_FRACTION * best).max(SIGNIFICANT_SECONDS),
        // As significant as one step of the load.
        None => UNKNOWN_RUN * LOAD_STEP,
    };
    let mut ranked: Vec<(Key, Ranked)> = expected
        .into_iter()
        .zip(candidates)
        .enumerate()
        .map(|(index, (expected, candidate))| {
            let mebibytes = candidate.lacks.unwrap_or(assumed.lacks) >> 20;
            let key = Key {
                time: ((expected.seconds() - best) / significant) as u64,
                load: load_steps(candidate.load),
                speed: candidate.speed,
                lacks: u64::BITS - mebibytes.leading_zeros(),
            };
            (key, Ranked { index, expected })
        })
        .collect();
    ranked.shuffle(random);
    ranked.sort_by(|(a, _), (b, _)| a.compare(b));
    ranked.into_iter().map(|(_, ranked)| ranked).collect()
}

/// What machines are compared by, in this order.
struct Key {
    /// By how much the expected time is longer than the best, in steps that are significant.
    time: u64,
    load: u64,
    speed: f64,
    /// What it lacks, in steps that grow with it.
    lacks: u32,
}

impl Key {
    fn compare(&self, other: &Key) -> Ordering {
        self.time
            .cmp(&other.time)
            .then(self.load.cmp(&other.load))
            .then(other.speed.total_cmp(&self.speed))
            .then(self.lacks.cmp(&other.lacks))
    }
}

/// The load in whole steps. Impossible loads are very high ones.
fn load_steps(load: f64) -> u64 {
    (load / LOAD_STEP).min(MAX_LOAD_STEPS) as u64
}

/// What is assumed where nothing is known: nothing that makes a difference.
struct Assumptions {
    /// What a machine lacks of which it isn't known.
    lacks: u64,
    rate_there: f64,
    rate_back: Option<f64>,
    /// What this host's line carries, as far as anybody has seen.
    line: Option<f64>,
    /// Whether only loads and speeds are known. Then slots don't count, either.
    is_ignorant: bool,
}

impl Assumptions {
    fn new(candidates: &[Candidate], task: &Task) -> Assumptions {
        let rates = |rate: fn(&Candidate) -> Option<f64>| -> Vec<f64> {
            let own_line = candidates.iter().filter(|candidate| !candidate.fetches);
            let mut rates: Vec<f64> = own_line.filter_map(rate).filter(is_rate).collect();
            rates.sort_by(f64::total_cmp);
            rates
        };
        let (there, back) = (rates(|one| one.rate_there), rates(|one| one.rate_back));
        let median = |rates: &[f64]| rates.get(rates.len() / 2).copied();
        let lacks = candidates.iter().filter_map(|candidate| candidate.lacks);
        let lacks = lacks.min();
        Assumptions {
            lacks: lacks.unwrap_or(0),
            is_ignorant: lacks.is_none() && task.run.is_none(),
            rate_there: median(&there).unwrap_or(UNKNOWN_RATE),
            rate_back: median(&back),
            line: there.last().copied(),
        }
    }

    fn expected(&self, candidate: &Candidate, task: &Task) -> Expected {
        let rate_there = candidate.rate_there.filter(is_rate);
        let rate_there = rate_there.unwrap_or(self.rate_there);
        let lacks = candidate.lacks.unwrap_or(self.lacks) as f64;
        let sending = match candidate.fetches {
            true => lacks / rate_there,
            false => {
                // This one's line is in use, too, if something is queued for it.
                let others = task
                    .lines_in_use
                    .saturating_sub((candidate.queued > 0) as usize);
                let share = self.line.unwrap_or(rate_there) / (1 + others) as f64;
                (candidate.queued as f64 + lacks) / rate_there.min(share)
            }
        };
        let taken = match self.is_ignorant || candidate.taken.is_nan() {
            true => 0.0,
            false => candidate.taken,
        };
        let load = candidate.load.max(taken);
        let building = match task.run {
            Some(run) => {
                let speed = candidate.speed.max(f64::MIN_POSITIVE);
                run.as_secs_f64() / speed * (1.0 + load.max(0.0))
            }
            // The speed then decides only between equals, and the load does so by whole steps.
            None => UNKNOWN_RUN * (1.0 + LOAD_STEP * load_steps(load) as f64),
        };
        let rate_back = candidate.rate_back.filter(is_rate).or(self.rate_back);
        let rate_back = rate_back.unwrap_or(rate_there);
        let bound = |seconds: f64| match seconds.is_nan() {
            true => LONGEST,
            false => seconds.clamp(0.0, LONGEST),
        };
        Expected {
            lacks: candidate.lacks,
            fetches: candidate.fetches,
            sending: bound(sending),
            load: candidate.load,
            taken,
            building: bound(building),
            is_run_known: task.run.is_some(),
            outputs: task.outputs,
            returning: bound(task.outputs.unwrap_or(0) as f64 / rate_back),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// An idle machine that has everything, and whose line carries 1 MiB in a second.
    fn idle() -> Candidate {
        Candidate {
            speed: 1.0,
            lacks: Some(0),
            rate_there: Some(MIB as f64),
            ..Candidate::default()
        }
    }

    fn lacking(mebibytes: u64) -> Candidate {
        Candidate {
            lacks: Some(mebibytes * MIB),
            ..idle()
        }
    }

    fn order(candidates: &[Candidate], task: &Task, seed: u64) -> Vec<usize> {
        let ranked = rank(candidates, task, &mut StdRng::seed_from_u64(seed));
        ranked.iter().map(|ranked| ranked.index).collect()
    }

    /// The one that comes first whatever the random numbers are.
    #[track_caller]
    fn first(candidates: &[Candidate], task: &Task) -> usize {
        let firsts: Vec<usize> = (0..20)
            .map(|seed| order(candidates, task, seed)[0])
            .collect();
        assert!(firsts.iter().all(|first| *first == firsts[0]), "{firsts:?}");
        firsts[0]
    }

    fn running(seconds: u64) -> Task {
        Task {
            run: Some(Duration::from_secs(seconds)),
            ..Task::default()
        }
    }

    #[test]
    fn the_one_that_has_the_inputs() {
        let unknown = Task::default();
        assert_eq!(first(&[lacking(30), idle(), lacking(8)], &unknown), 1);
        // Even if sending them would take no time that matters.
        let fast = |mebibytes| Candidate {
            rate_there: Some(1e9),
            ..lacking(mebibytes)
        };
        assert_eq!(first(&[fast(20), fast(0), fast(40)], &unknown), 1);
    }

    #[test]
    fn waiting_is_weighed_against_sending() {
        let loaded = |load| Candidate { load, ..idle() };
        for task in [Task::default(), running(10)] {
            // It takes 10 s longer on the loaded one.
            assert_eq!(first(&[loaded(1.0), lacking(4)], &task), 1);
            assert_eq!(first(&[loaded(1.0), lacking(20)], &task), 0);
        }
        assert_eq!(first(&[loaded(1.0), lacking(20)], &running(100)), 1);
        assert_eq!(first(&[loaded(1.0), lacking(4)], &running(1)), 0);
    }

    #[test]
    fn slots_that_are_taken_are_a_load_that_will_come() {
        let full = |taken| Candidate { taken, ..idle() };
        for task in [Task::default(), running(10)] {
            assert_eq!(first(&[full(0.25), lacking(8)], &task), 0);
            assert_eq!(first(&[full(0.75), lacking(4)], &task), 1);
            assert_eq!(first(&[full(0.75), full(0.25), full(0.5)], &task), 1);
        }
        // The build may need all processors for long.
        assert_eq!(first(&[full(0.25), lacking(60)], &running(3600)), 1);
    }

    #[test]
    fn a_faster_machine_is_worth_sending_to_if_the_build_is_long() {
        let fast = Candidate {
            speed: 4.0,
            ..lacking(20)
        };
        let machines = [idle(), fast];
        assert_eq!(first(&machines, &running(10)), 0);
        assert_eq!(first(&machines, &running(100)), 1);
        // Without an estimate the speed decides only between equals.
        assert_eq!(first(&machines, &Task::default()), 0);
    }

    #[test]
    fn the_slow_line_counts_and_not_the_bytes() {
        let slow = Candidate {
            rate_there: Some(1e5),
            ..lacking(10)
        };
        let fast = Candidate {
            rate_there: Some(1e8),
            ..lacking(30)
        };
        assert_eq!(first(&[slow, fast], &Task::default()), 1);
    }

    #[test]
    fn large_outputs_make_a_slow_line_back_worse() {
        let back = |rate| Candidate {
            rate_back: Some(rate),
            ..idle()
        };
        let task = Task {
            outputs: Some(100 * MIB),
            ..running(10)
        };
        assert_eq!(first(&[back(1e6), back(1e8)], &task), 1);
    }

    #[test]
    fn what_is_being_sent_to_one_machine_is_not_sent_to_another() {
        // What the build needs is on its way to the first one, which has had a build more.
        let getting = Candidate {
            queued: 30 * MIB,
            load: 0.25,
            ..idle()
        };
        let task = Task {
            lines_in_use: 1,
            ..Task::default()
        };
        assert_eq!(first(&[getting.clone(), lacking(30)], &task), 0);
        // If the machine is busy enough, it is.
        let busy = Candidate {
            load: 10.0,
            ..getting
        };
        assert_eq!(first(&[busy, lacking(30)], &task), 1);
    }

    #[test]
    fn a_line_in_use_is_shared_except_by_those_who_fetch() {
        let seconds = |candidate: &Candidate, lines_in_use| {
            let task = Task {
                lines_in_use,
                ..Task::default()
            };
            let ranked = rank(
                std::slice::from_ref(candidate),
                &task,
                &mut StdRng::seed_from_u64(0),
            );
            (ranked[0].expected.seconds() - UNKNOWN_RUN).round()
        };
        assert_eq!(seconds(&lacking(10), 0), 10.0);
        assert_eq!(seconds(&lacking(10), 2), 30.0);
        let queued = Candidate {
            queued: 5 * MIB,
            ..lacking(10)
        };
        assert_eq!(seconds(&queued, 1), 15.0);
        let fetches = Candidate {
            fetches: true,
            ..lacking(10)
        };
        assert_eq!(seconds(&fetches, 2), 10.0);
        // A slow line does not become slower because a fast one is in use.
        let slow = Candidate {
            rate_there: Some(MIB as f64 / 10.0),
            ..lacking(1)
        };
        let task = Task {
            lines_in_use: 3,
            ..Task::default()
        };
        let ranked = rank(&[slow, idle()], &task, &mut StdRng::seed_from_u64(0));
        assert_eq!(ranked[1].index, 0);
        assert_eq!(ranked[1].expected.seconds().round(), 10.0 + UNKNOWN_RUN);
    }

    #[test]
    fn a_machine_of_which_nothing_is_known_is_as_good_as_the_best() {
        let pool = Candidate {
            lacks: None,
            rate_there: None,
            ..idle()
        };
        let machines = [lacking(30), pool.clone(), lacking(50)];
        let all: std::collections::BTreeSet<usize> = (0..50)
            .map(|seed| order(&machines, &Task::default(), seed)[0])
            .collect();
        assert_eq!(all, [0, 1].into());
        assert_eq!(
            first(&[idle(), Candidate { load: 0.5, ..pool }], &Task::default()),
            0
        );
    }

    #[test]
    fn a_rate_is_robust() {
        assert_eq!(typical_rate(&[]), None);
        assert_eq!(typical_rate(&[5e6]), Some(5e6));
        // Two shared the line, one was too good to be true.
        assert_eq!(typical_rate(&[1e7, 4e6, 9e11, 5e6, 1.1e7]), Some(1.1e7));
        assert_eq!(typical_rate(&[0.0, -1.0, f64::NAN, f64::INFINITY]), None);
    }

    #[test]
    fn a_score_says_why() {
        let says = |candidate: Candidate, task: Task| {
            let ranked = rank(&[candidate], &task, &mut StdRng::seed_from_u64(0));
            ranked[0].expected.to_string()
        };
        let sends = Candidate {
            rate_there: Some(340.0 * MIB as f64 / 9.0),
            ..lacking(340)
        };
        assert_eq!(
            says(sends.clone(), running(3)),
            "12 s (sends 340 MiB in 9 s, builds about 3 s)"
        );
        let fetches = Candidate {
            fetches: true,
            load: 0.5,
            ..sends
        };
        assert_eq!(
            says(fetches, Task::default()),
            "24 s (fetches 340 MiB in 9 s, builds perhaps 15 s at load 0.50)"
        );
        let half = Candidate {
            taken: 0.5,
            load: 0.1,
            ..idle()
        };
        assert_eq!(
            says(half, running(4)),
            "6 s (has all inputs, builds about 6 s with 50 % of the slots taken)"
        );
        let task = Task {
            outputs: Some(2 * MIB),
            ..running(600)
        };
        assert_eq!(
            says(idle(), task),
            "10 min (has all inputs, builds about 10 min, returns 2 MiB in 2 s)"
        );
        let queued = Candidate {
            queued: 7 * MIB,
            ..idle()
        };
        assert_eq!(
            says(queued, Task::default()),
            "17 s (inputs arrive in 7 s, builds perhaps 10 s)"
        );
        assert_eq!(
            says(Candidate::default(), Task::default()),
            "10 s (what it lacks is not known, builds perhaps 10 s)"
        );
    }

    /// Any number, absurd ones among them.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![0.0..4.0, 0.0..1e9, any::<f64>()]
    }

    prop_compose! {
        fn candidate()(
            load in number(),
            taken in number(),
            speed in number(),
            lacks in any::<Option<u64>>(),
            queued in prop_oneof![Just(0), any::<u64>()],
            rate_there in proptest::option::of(number()),
            rate_back in proptest::option::of(number()),
            fetches in any::<bool>(),
        ) -> Candidate {
            Candidate { load, taken, speed, lacks, queued, rate_there, rate_back, fetches }
        }
    }

    prop_compose! {
        fn task()(
            run in proptest::option::of(any::<u64>()),
            outputs in any::<Option<u64>>(),
            lines_in_use in 0..usize::MAX,
        ) -> Task {
            Task { run: run.map(Duration::from_secs), outputs, lines_in_use }
        }
    }

    proptest! {
        #[test]
        fn every_machine_once_whatever_the_numbers(
            candidates in proptest::collection::vec(candidate(), 0..20),
            task in task(),
            seed in any::<u64>(),
        ) {
            let ranked = rank(&candidates, &task, &mut StdRng::seed_from_u64(seed));
            let mut found: Vec<usize> = ranked.iter().map(|ranked| ranked.index).collect();
            found.sort_unstable();
            prop_assert_eq!(found, (0..candidates.len()).collect::<Vec<_>>());
            for Ranked { expected, .. } in ranked {
                prop_assert!((0.0..=LONGEST).contains(&expected.seconds()));
                let _ = expected.to_string();
            }
        }

        /// The order of a farm of which nothing is known but load and speed.
        #[test]
        fn without_knowledge_load_comes_first_and_then_speed(
            loads in proptest::collection::vec((0.0..8.0, 0.0..1.0, 0.1..8.0), 0..20),
            rate_there in proptest::option::of(1.0..1e9),
            seed in any::<u64>(),
        ) {
            let candidates: Vec<Candidate> = loads
                .iter()
                .map(|&(load, taken, speed)| Candidate { load, taken, speed, rate_there, ..Candidate::default() })
                .collect();
            let steps = |index: &usize| load_steps(candidates[*index].load);
            let ranked = order(&candidates, &Task::default(), seed);
            for pair in ranked.windows(2) {
                let (a, b) = (&pair[0], &pair[1]);
                prop_assert!(steps(a) <= steps(b));
                if steps(a) == steps(b) {
                    prop_assert!(candidates[*a].speed >= candidates[*b].speed);
                }
            }
        }

        /// Nothing that makes a machine worse makes it come earlier than its better twin.
        #[test]
        fn worse_is_never_better(
            good in (0.0..4.0, 0.1..8.0, 0..1u64 << 34, 0..1u64 << 34, 1e3..1e9),
            worse in (0.0..4.0, 0.1..1.0, 0..1u64 << 34, 0..1u64 << 34),
            run in proptest::option::of(0..10_000u64),
            seed in any::<u64>(),
        ) {
            let (load, speed, lacks, queued, rate) = good;
            let good = Candidate {
                load,
                speed,
                lacks: Some(lacks),
                queued,
                rate_there: Some(rate),
                ..Candidate::default()
            };
            let bad = Candidate {
                load: load + worse.0,
                speed: speed * worse.1,
                lacks: Some(lacks + worse.2),
                // Both are being sent something, or both are not.
                queued: if queued > 0 { queued + worse.3 } else { 0 },
                ..good.clone()
            };
            let task = Task { run: run.map(Duration::from_secs), ..Task::default() };
            let ranked = rank(&[bad, good], &task, &mut StdRng::seed_from_u64(seed));
            let seconds = |index| {
                let found = ranked.iter().find(|ranked| ranked.index == index);
                found.map(|ranked| ranked.expected.seconds())
            };
            prop_assert!(seconds(1) <= seconds(0));
        }
    }
}
