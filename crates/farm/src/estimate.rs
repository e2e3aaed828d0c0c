//! How long a build will take, by how long its like took before.
//!
//! Durations are remembered for each name (without version) and system, for each class of things
//! ([`Class`]), and for everything; the first of these that has any is used. They are those of a
//! machine of speed 1: what a machine of speed 2 took counts twice.
//!
//! Nothing here reads a clock or a file.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::item_name::{Class, ItemName};

/// How many durations of one name and system count: the last ones.
const OF_NAME: usize = 32;
/// The same of a class, and of everything.
const OF_MANY: usize = 512;

/// A successful build, as far as estimates are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What was built.
    pub item: ItemName,
    /// The system.
    pub system: String,
    /// How long it took.
    pub built: Duration,
    /// The speed of the machine.
    pub speed: f64,
}

/// What an estimate is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Builds of the same name for the same system.
    Name,
    /// Builds of the same class.
    Class,
    /// All builds.
    All,
    /// Nothing: no build is known.
    Nothing,
}

/// How long a build takes on a machine of speed 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Half of the builds took no longer.
    pub usual: Duration,
    /// Nine of ten took no longer.
    pub long: Duration,
    /// How many builds are known.
    pub samples: usize,
    /// What kind of builds these are.
    pub from: Basis,
}

/// The durations of builds.
///
/// ```
/// use std::time::Duration;
/// use farm::ItemName;
/// use farm::estimate::{Basis, Estimates, Sample};
///
/// let sample = |seconds| Sample {
///     item: ItemName::of("hello-2.11"),
///     system: "x86_64-linux".to_owned(),
///     built: Duration::from_secs(seconds),
///     speed: 2.0,
/// };
/// let estimates = Estimates::from_rows([sample(20), sample(30), sample(25)]);
/// let hello = estimates.estimate(&ItemName::of("hello-2.12.1"), "x86_64-linux");
/// assert_eq!(hello.usual, Duration::from_secs(50));
/// assert_eq!((hello.samples, hello.from), (3, Basis::Name));
/// ```
#[derive(Clone, Debug)]
pub struct Estimates {
    /// By name; then by system, of which there are few.
    names: HashMap<String, Vec<(String, Window)>>,
    classes: [Window; Class::COUNT],
    all: Window,
}

impl Default for Estimates {
    fn default() -> Estimates {
        Estimates {
            names: HashMap::new(),
            classes: std::array::from_fn(|_| Window::new(OF_MANY)),
            all: Window::new(OF_MANY),
        }
    }
}

impl Estimates {
    /// From successful builds, the oldest first.
    pub fn from_rows(rows: impl IntoIterator<Item = Sample>) -> Estimates {
        let mut estimates = Estimates::default();
        for row in rows {
            estimates.add(row);
        }
        estimates
    }

    /// Takes one more build into account.
    pub fn add(&mut self, sample: Sample) {
        let normal = at_speed_one(sample.built, sample.speed);
        self.all.add(normal);
        self.classes[sample.item.class() as usize].add(normal);
        let systems = self.names.entry(sample.item.name).or_default();
        match systems.iter_mut().find(|(name, _)| *name == sample.system) {
            Some((_, window)) => window.add(normal),
            None => {
                let mut window = Window::new(OF_NAME);
                window.add(normal);
                systems.push((sample.system, window));
            }
        }
    }

    /// How long another version of this takes to build for a system.
    pub fn estimate(&self, item: &ItemName, system: &str) -> Estimate {
        let of_name = self.names.get(&item.name).and_then(|systems| {
            let found = systems.iter().find(|(known, _)| known == system);
            found.map(|(_, window)| window)
        });
        let of_class = &self.classes[item.class() as usize];
        let windows = [
            (of_name, Basis::Name),
            (Some(of_class), Basis::Class),
            (Some(&self.all), Basis::All),
        ];
        let mut estimates = windows
            .into_iter()
            .filter_map(|(window, from)| window?.estimate(from));
        estimates.next().unwrap_or(Estimate {
            usual: Duration::ZERO,
            long: Duration::ZERO,
            samples: 0,
            from: Basis::Nothing,
        })
    }
}

/// How long it would have taken on a machine of speed 1, in milliseconds. A speed that isn't one, such
/// as 0, counts as 1.
fn at_speed_one(built: Duration, speed: f64) -> u32 {
    let speed = match speed.is_normal() && speed > 0.0 {
        true => speed.clamp(1e-3, 1e3),
        false => 1.0,
    };
    // Saturates, at 49 days.
    (built.as_secs_f64() * 1000.0 * speed) as u32
}

/// The last durations of something, in milliseconds.
#[derive(Clone, Debug)]
struct Window {
    most: usize,
    /// In the order in which they came.
    last: VecDeque<u32>,
    /// The same, sorted.
    sorted: Vec<u32>,
}

impl Window {
    fn new(most: usize) -> Window {
        Window {
            most,
            last: VecDeque::new(),
            sorted: Vec::new(),
        }
    }

    fn add(&mut self, duration: u32) {
        if self.last.len() == self.most {
            if let Some(oldest) = self.last.pop_front() {
                if let Ok(place) = self.sorted.binary_search(&oldest) {
                    self.sorted.remove(place);
                }
            }
        }
        self.last.push_back(duration);
        let place = self.sorted.partition_point(|other| *other < duration);
        self.sorted.insert(place, duration);
    }

    fn estimate(&self, from: Basis) -> Option<Estimate> {
        // The nearest rank: at least this share is no longer.
        let quantile = |tenths: usize| {
            let rank = (self.sorted.len() * tenths).div_ceil(10);
            let duration = self.sorted.get(rank.checked_sub(1)?)?;
            Some(Duration::from_millis((*duration).into()))
        };
        Some(Estimate {
            usual: quantile(5)?,
            long: quantile(9)?,
            samples: self.sorted.len(),
            from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = "x86_64-linux";

    fn sample(item: &str, system: &str, seconds: u64) -> Sample {
        Sample {
            item: ItemName::of(item),
            system: system.to_owned(),
            built: Duration::from_secs(seconds),
            speed: 1.0,
        }
    }

    fn seconds(estimate: Estimate) -> (u64, u64, usize, Basis) {
        let Estimate {
            usual,
            long,
            samples,
            from,
        } = estimate;
        (usual.as_secs(), long.as_secs(), samples, from)
    }

    #[test]
    fn nothing_is_known_at_first() {
        let estimate = Estimates::default().estimate(&ItemName::of("hello-3"), SYSTEM);
        assert_eq!(seconds(estimate), (0, 0, 0, Basis::Nothing));
    }

    #[test]
    fn the_nearest_like_counts() {
        let estimates = Estimates::from_rows([
            sample("hello-1", SYSTEM, 10),
            sample("hello-1", "aarch64-linux", 90),
            sample("hello-1.tar.gz", SYSTEM, 2),
        ]);
        let of = |item, system| seconds(estimates.estimate(&ItemName::of(item), system));
        assert_eq!(of("hello-2", SYSTEM), (10, 10, 1, Basis::Name));
        assert_eq!(of("hello-2", "aarch64-linux"), (90, 90, 1, Basis::Name));
        // The same package for another system says little of this one; packages are of one class.
        assert_eq!(of("hello-2", "riscv64-linux"), (10, 90, 2, Basis::Class));
        assert_eq!(of("emacs-30.tar.xz", SYSTEM), (2, 2, 1, Basis::Class));
        assert_eq!(of("fix-1.patch", SYSTEM), (10, 90, 3, Basis::All));
    }

    #[test]
    fn the_last_ones_count() {
        let builds = |count| (1..=count).map(|number| sample("hello-1", SYSTEM, number));
        let of = |count| {
            let estimates = Estimates::from_rows(builds(count));
            seconds(estimates.estimate(&ItemName::of("hello-3"), SYSTEM))
        };
        assert_eq!(of(2), (1, 2, 2, Basis::Name));
        assert_eq!(of(10), (5, 9, 10, Basis::Name));
        assert_eq!(of(32), (16, 29, 32, Basis::Name));
        assert_eq!(of(100), (84, 97, 32, Basis::Name));
    }

    #[test]
    fn durations_are_those_of_a_machine_of_speed_one() {
        for (speed, expected) in [
            (2.0, 20),
            (0.5, 5),
            (0.0, 10),
            (-1.0, 10),
            (f64::NAN, 10),
            (f64::INFINITY, 10),
        ] {
            let fast = Sample {
                speed,
                ..sample("hello-1", SYSTEM, 10)
            };
            let estimates = Estimates::from_rows([fast]);
            let estimate = estimates.estimate(&ItemName::of("hello-3"), SYSTEM);
            assert_eq!(estimate.usual.as_secs(), expected, "{speed}");
        }
        let endless = sample("hello-1", SYSTEM, u64::MAX);
        let estimates = Estimates::from_rows([endless]);
        let estimate = estimates.estimate(&ItemName::of("hello-3"), SYSTEM);
        assert_eq!(estimate.usual.as_millis(), u128::from(u32::MAX));
    }

    proptest::proptest! {
        #[test]
        fn quantiles_are_those_of_the_last_ones(durations in proptest::collection::vec(0u32..100, 1..120)) {
            let mut window = Window::new(OF_NAME);
            for duration in &durations {
                window.add(*duration);
            }
            let mut last = durations[durations.len().saturating_sub(OF_NAME)..].to_vec();
            last.sort_unstable();
            assert_eq!(window.sorted, last);
            let estimate = window.estimate(Basis::Name).unwrap();
            assert!(estimate.usual <= estimate.long);
            let within = |limit: Duration| {
                let is_within = |d: &&u32| Duration::from_millis(u64::from(**d)) <= limit;
                last.iter().filter(is_within).count()
            };
            assert!(within(estimate.usual) * 2 >= last.len());
            assert!(within(estimate.long) * 10 >= last.len() * 9);
        }
    }
}
