//! What this host knows of its build machines without asking them: who builds what, and why a
//! machine gets nothing now. Nothing here uses the network.

use std::io;

use crate::directories::HookDirectories;
use crate::drained::Drained;
use crate::health::Health;
use crate::machines::Machine;
use crate::slots::{self, Occupant};
use crate::suitability;

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What it builds; `None` for a slot of which nothing more is known.
    pub building: Vec<Option<Occupant>>,
    /// Why it gets nothing now; `None` if it could get something, for all that is known.
    pub why_not: Option<String>,
}

impl Standing {
    /// What is known of `machine` now.
    pub fn of(directories: &HookDirectories, machine: &Machine) -> io::Result<Standing> {
        let health = Health::load(directories, machine);
        let building = slots::taken(directories, machine)?;
        let drained = Drained::load(directories, &machine.key())?;
        let why_not = if let Some(drained) = drained {
            Some(drained.to_string())
        } else if let Some(pause) = health.pause() {
            Some(pause.to_string())
        } else {
            suitability::no_slot(machine, building.len()).or_else(|| {
                let is_known = machine.pool.is_none() && health.is_fresh();
                let reason = is_known.then(|| suitability::unsuitable(machine, &health));
                reason.flatten().map(|reason| reason.to_string())
            })
        };
        Ok(Standing { building, why_not })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, machine};

    #[test]
    fn a_machine_tells_why_it_gets_nothing_in_the_words_of_the_hook() {
        let (_state, directories) = directories();
        let one = Machine {
            parallel_builds: 1,
            ..machine("one")
        };
        let why = || Standing::of(&directories, &one).unwrap().why_not;
        assert_eq!(why(), None);
        let slot = slots::acquire(&directories, &one, "/gnu/store/x.drv");
        let slot = slot.unwrap().expect("a slot");
        assert_eq!(why().as_deref(), Some("its only slot is taken"));
        let building = Standing::of(&directories, &one).unwrap().building;
        let names: Vec<_> = (building.iter().flatten())
            .map(|occupant| occupant.derivation.as_str())
            .collect();
        assert_eq!(names, ["/gnu/store/x.drv"]);
        drop(slot);
        Health::update(&directories, &one, |health| health.is_full("no nodes"));
        assert_eq!(why().as_deref(), Some("no nodes"));
        Health::update(&directories, &one, |health| health.failed("no route"));
        let text = why().expect("a reason");
        assert!(text.starts_with("set aside for ") && text.ends_with(": no route"));
    }
}
