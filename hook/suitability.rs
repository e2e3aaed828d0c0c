//! Which machines could build a derivation, which of them can do it now, and the order in which
//! they are tried (`doc/spec/offload.md`, sections 3, 6 and 10). Nothing here probes a machine.

use std::collections::{HashMap, HashSet};
use std::fmt;

use farm::placement::{self, Candidate, Ranked, Task, UNKNOWN_RATE, typical_rate};
use formats::size::Rounded;
use rand::Rng;

use crate::health::{Health, Stamp};
use crate::inputs::{Lacking, Usual};
use crate::machines::Machine;
use crate::remote::REQUIRED_FREE_BYTES;
use crate::request::Request;
use crate::sends::ToMachine;

/// Whether a machine could ever build what is requested: it has the system and the features.
fn can_build(machine: &Machine, request: &Request) -> bool {
    machine.systems.contains(&request.system)
        && (request.features.iter()).all(|feature| machine.offers(feature))
        && machine
            .mandatory_features
            .iter()
            .all(|feature| request.features.contains(feature))
}

/// The machines that could ever build it, without duplicates: a machine that is listed twice would
/// have its slots counted twice.
pub fn candidates<'a>(machines: &'a [Machine], request: &Request) -> Vec<&'a Machine> {
    let mut seen = HashSet::new();
    let mut candidates = Vec::new();
    for machine in machines {
        if can_build(machine, request) && seen.insert(machine.key()) {
            candidates.push(machine);
        }
    }
    candidates
}

/// Why a working machine gets no build now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unsuitable {
    /// Its normalized load is not below the threshold of its entry.
    Overloaded {
        /// The load, 1 being all processors busy.
        load: f64,
        /// The threshold.
        threshold: f64,
    },
    /// Its store has too little free space.
    LowDiskSpace {
        /// Free bytes.
        free: u64,
    },
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Unsuitable::Overloaded { load, threshold } => {
                write!(f, "its load {load:.2} is not below {threshold:.2}")
            }
            Unsuitable::LowDiskSpace { free } => {
                write!(f, "it is low on disk space ({} free)", Rounded(free))
            }
        }
    }
}

/// Why a machine gets no build now, given what is known about it; `None` if it may get one.
pub fn unsuitable(machine: &Machine, health: &Health) -> Option<Unsuitable> {
    let load = health.normalized_load();
    match machine.overload_threshold {
        Some(threshold) if load >= threshold => Some(Unsuitable::Overloaded { load, threshold }),
        _ if health.free_bytes < REQUIRED_FREE_BYTES => Some(Unsuitable::LowDiskSpace {
            free: health.free_bytes,
        }),
        _ => None,
    }
}

/// Why a machine with so many slots taken gets no build now; `None` if a slot is free.
pub fn no_slot(machine: &Machine, taken: usize) -> Option<String> {
    match machine.parallel_builds {
        0 => Some("its parallel-builds is 0".to_owned()),
        slots if taken < slots as usize => None,
        1 => Some("its only slot is taken".to_owned()),
        slots => Some(format!("all {slots} slots are taken")),
    }
}

/// A machine that could take the build now, and what is known of it.
pub struct Able<'m, 'i> {
    /// The machine.
    pub machine: &'m Machine,
    /// How it is.
    pub health: Health,
    /// What tells whether that has changed since.
    pub stamp: Stamp,
    /// How many of its slots are taken.
    pub taken: usize,
    /// The inputs that it lacks, if that is known.
    pub lacking: Option<Lacking<'i>>,
}

impl Able<'_, '_> {
    /// Whether it is expected to fetch inputs from its substitute servers, instead of being sent them.
    pub fn fetches(&self) -> bool {
        let rates = &self.health.rates_fetched;
        self.machine.use_substitutes && (rates.is_empty() || typical_rate(rates).is_some())
    }

    /// What its rank depends on. What is being sent there is no longer lacking.
    fn candidate(&mut self, sends: &HashMap<String, ToMachine>) -> Candidate {
        let speed = self.machine.speed;
        if self.machine.pool.is_some() {
            // Each job has its own machine, and nobody knows which.
            return Candidate {
                speed,
                ..Candidate::default()
            };
        }
        let to_machine = sends.get(&self.machine.key());
        if let (Some(lacking), Some(to_machine)) = (&mut self.lacking, to_machine) {
            lacking.has(&to_machine.items);
        }
        let fetches = self.fetches();
        let rate_there = typical_rate(match fetches {
            true => &self.health.rates_fetched,
            false => &self.health.rates_there,
        });
        let left = |to: &ToMachine| to.left(rate_there.unwrap_or(UNKNOWN_RATE));
        Candidate {
            load: self.health.normalized_load(),
            taken: self.taken as f64 / f64::from(self.machine.parallel_builds.max(1)),
            speed,
            lacks: self.lacking.as_ref().map(|lacking| lacking.bytes),
            queued: to_machine.map_or(0, left),
            rate_there,
            rate_back: typical_rate(&self.health.rates_back),
            fetches,
        }
    }
}

/// Ranks machines in the order in which they are tried ([`farm::placement`]), given what is being sent to
/// all machines, and what such builds are usually like.
pub fn rank(
    machines: &mut [Able<'_, '_>],
    sends: &HashMap<String, ToMachine>,
    usual: Usual,
    random: &mut impl Rng,
) -> Vec<Ranked> {
    let candidates = machines.iter_mut().map(|able| able.candidate(sends));
    let candidates: Vec<Candidate> = candidates.collect();
    let task = Task {
        run: usual.time,
        outputs: usual.outputs,
        lines_in_use: sends.len(),
    };
    placement::rank(&candidates, &task, random)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::test_data::machine;

    fn request(system: &str, features: &[&str]) -> Request {
        Request {
            am_willing: false,
            system: system.to_owned(),
            derivation: "/gnu/store/x.drv".to_owned(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn with_features(features: &[&str], mandatory: &[&str]) -> Machine {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Machine {
            features: owned(features),
            mandatory_features: owned(mandatory),
            ..machine("build1")
        }
    }

    fn health(load: f64, cores: u32) -> Health {
        Health {
            load,
            cores,
            free_bytes: 10 << 30,
            ..Health::default()
        }
    }

    #[test]
    fn a_machine_needs_the_system_and_all_features() {
        let kvm = with_features(&["kvm", "big"], &[]);
        assert!(can_build(&kvm, &request("x86_64-linux", &[])));
        assert!(can_build(&kvm, &request("x86_64-linux", &["big", "kvm"])));
        assert!(!can_build(&kvm, &request("x86_64-linux", &["kvm", "gpu"])));
        assert!(!can_build(&kvm, &request("aarch64-linux", &[])));
    }

    #[test]
    fn mandatory_features_must_be_asked_for() {
        let reserved = with_features(&["big"], &["gpu"]);
        assert!(!can_build(&reserved, &request("x86_64-linux", &[])));
        assert!(!can_build(&reserved, &request("x86_64-linux", &["big"])));
        assert!(can_build(&reserved, &request("x86_64-linux", &["gpu"])));
        assert!(can_build(
            &reserved,
            &request("x86_64-linux", &["big", "gpu"])
        ));
    }

    #[test]
    fn a_machine_that_is_given_twice_is_one_candidate() {
        let other_port = Machine {
            port: 2222,
            ..machine("a")
        };
        let machines = [machine("a"), machine("b"), machine("a"), other_port];
        let found: Vec<_> = candidates(&machines, &request("x86_64-linux", &[]))
            .iter()
            .map(|machine| machine.key())
            .collect();
        assert_eq!(found, ["a:22", "b:22", "a:2222"]);
    }

    #[test]
    fn a_load_at_the_threshold_is_too_high() {
        let machine = Machine {
            overload_threshold: Some(0.5),
            ..machine("a")
        };
        assert_eq!(unsuitable(&machine, &health(1.9, 4)), None);
        let reason = unsuitable(&machine, &health(2.0, 4)).unwrap();
        assert_eq!(reason.to_string(), "its load 0.50 is not below 0.50");
        // Builds that it was given since the load was measured count, too.
        let busy = Health {
            given: 1,
            ..health(1.9, 4)
        };
        assert!(unsuitable(&machine, &busy).is_some());
        let unlimited = Machine {
            overload_threshold: None,
            ..machine
        };
        assert_eq!(unsuitable(&unlimited, &health(1000.0, 1)), None);
    }

    #[test]
    fn a_machine_needs_free_space() {
        let with = |free_bytes| Health {
            free_bytes,
            ..health(0.0, 1)
        };
        assert_eq!(unsuitable(&machine("a"), &with(100 << 20)), None);
        let reason = unsuitable(&machine("a"), &with((100 << 20) - 1)).unwrap();
        assert_eq!(reason.to_string(), "it is low on disk space (100 MiB free)");
        assert_eq!(
            unsuitable(&machine("a"), &with(3 << 19)).unwrap(),
            Unsuitable::LowDiskSpace { free: 3 << 19 }
        );
    }

    /// The names in the order of their rank.
    fn ranked(machines: &[(&Machine, Health)], seed: u64) -> Vec<String> {
        let able = machines.iter().map(|(machine, health)| Able {
            machine,
            health: health.clone(),
            stamp: Stamp::default(),
            taken: 0,
            lacking: None,
        });
        let mut able: Vec<Able<'_, '_>> = able.collect();
        let random = &mut StdRng::seed_from_u64(seed);
        rank(&mut able, &HashMap::new(), Usual::default(), random)
            .iter()
            .map(|ranked| machines[ranked.index].0.name.clone())
            .collect()
    }

    #[test]
    fn the_less_loaded_comes_first_then_the_faster() {
        let of_speed = |name, speed| Machine {
            speed,
            ..machine(name)
        };
        let (idle, fast, slow) = (
            of_speed("idle", 1.0),
            of_speed("fast", 3.0),
            of_speed("slow", 2.0),
        );
        let machines = [
            (&slow, health(3.0, 4)),
            // Not a whole step less loaded than `slow`.
            (&fast, health(3.5, 4)),
            (&idle, health(0.5, 4)),
        ];
        for seed in 0..20 {
            assert_eq!(ranked(&machines, seed), ["idle", "fast", "slow"]);
        }
    }

    #[test]
    fn the_load_of_all_processors_counts() {
        let (small, large) = (machine("small"), machine("large"));
        let machines = [(&small, health(1.0, 1)), (&large, health(4.0, 32))];
        assert_eq!(ranked(&machines, 0), ["large", "small"]);
        // A machine with an impossible load comes last, and nothing panics.
        let machines = [(&small, health(f64::INFINITY, 1)), (&large, health(9.0, 1))];
        assert_eq!(ranked(&machines, 0), ["large", "small"]);
    }

    #[test]
    fn equal_machines_are_tried_in_random_order() {
        let (a, b) = (machine("a"), machine("b"));
        let machines = [(&a, health(0.0, 1)), (&b, health(0.0, 1))];
        let first: std::collections::BTreeSet<String> = (0..50)
            .map(|seed| ranked(&machines, seed).swap_remove(0))
            .collect();
        assert_eq!(first.len(), 2);
    }
}
