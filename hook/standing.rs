//! What this host knows of its build machines without asking them: who builds what, and why a
//! machine gets nothing now. Nothing here uses the network.

use std::io;

use crate::directories::HookDirectories;
use crate::drained::Drained;
use crate::health::{Health, Pause};
use crate::machines::Machine;
use crate::slots::{self, Occupant};
use crate::suitability;

/// How a machine is now, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It could get something, and has nothing.
    Ready,
    /// It builds, and could get more.
    Busy,
    /// It gets nothing more for now: its slots are taken, or its load, its disk or its scheduler say so.
    Full,
    /// It has failed, and gets nothing for a while.
    Failing,
    /// An administrator has drained it.
    Drained,
}

impl Condition {
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Condition::Ready => "ready",
            Condition::Busy => "busy",
            Condition::Full => "full",
            Condition::Failing => "failing",
            Condition::Drained => "drained",
        }
    }
}

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What it builds; `None` for a slot of which nothing more is known.
    pub building: Vec<Option<Occupant>>,
    /// Why it gets nothing now; `None` if it could get something, for all that is known.
    pub why_not: Option<String>,
    /// The same in one word.
    pub condition: Condition,
}

impl Standing {
    /// What is known of `machine` now.
    pub fn of(directories: &HookDirectories, machine: &Machine) -> io::Result<Standing> {
        let health = Health::load(directories, machine);
        let building = slots::taken(directories, machine)?;
        let drained = Drained::load(directories, &machine.key())?;
        Ok(Standing::judge(
            machine,
            &health,
            building,
            drained.as_ref(),
        ))
    }

    /// The same, where what is in the hook's files has been read.
    pub fn judge(
        machine: &Machine,
        health: &Health,
        building: Vec<Option<Occupant>>,
        drained: Option<&Drained>,
    ) -> Standing {
        let (condition, why_not) = if let Some(drained) = drained {
            (Condition::Drained, Some(drained.to_string()))
        } else if let Some(pause) = health.pause() {
            let condition = match pause {
                Pause::SetAside { .. } => Condition::Failing,
                Pause::Busy(_) => Condition::Full,
            };
            (condition, Some(pause.to_string()))
        } else {
            let reason = suitability::no_slot(machine, building.len()).or_else(|| {
                let is_known = machine.pool.is_none() && health.is_fresh();
                let reason = is_known.then(|| suitability::unsuitable(machine, health));
                reason.flatten().map(|reason| reason.to_string())
            });
            let condition = match (&reason, building.len()) {
                (Some(_), _) => Condition::Full,
                (None, 0) => Condition::Ready,
                (None, _) => Condition::Busy,
            };
            (condition, reason)
        };
        Standing {
            building,
            why_not,
            condition,
        }
    }

    /// That of a machine whose files can't be read.
    pub fn unreadable(error: &io::Error) -> Standing {
        Standing {
            building: Vec::new(),
            why_not: Some(format!("what is known of it cannot be read: {error}")),
            condition: Condition::Failing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drained;
    use crate::test_data::{directories, machine};

    #[test]
    fn a_machine_tells_why_it_gets_nothing_in_the_words_of_the_hook() {
        let (_state, directories) = directories();
        let one = Machine {
            parallel_builds: 1,
            ..machine("one")
        };
        let why = || Standing::of(&directories, &one).unwrap().why_not;
        let condition = || Standing::of(&directories, &one).unwrap().condition;
        assert_eq!((why(), condition()), (None, Condition::Ready));
        let slot = slots::acquire(&directories, &one, "/gnu/store/x.drv");
        let slot = slot.unwrap().expect("a slot");
        assert_eq!(why().as_deref(), Some("its only slot is taken"));
        assert_eq!(condition(), Condition::Full);
        let two = Machine {
            parallel_builds: 2,
            ..one.clone()
        };
        let of_two = Standing::of(&directories, &two).unwrap();
        assert_eq!((of_two.why_not, of_two.condition), (None, Condition::Busy));
        let building = Standing::of(&directories, &one).unwrap().building;
        let names: Vec<_> = (building.iter().flatten())
            .map(|occupant| occupant.derivation.as_str())
            .collect();
        assert_eq!(names, ["/gnu/store/x.drv"]);
        drop(slot);
        Health::update(&directories, &one, |health| health.is_full("no nodes"));
        assert_eq!(why().as_deref(), Some("no nodes"));
        assert_eq!(condition(), Condition::Full);
        Health::update(&directories, &one, |health| health.failed("no route"));
        let text = why().expect("a reason");
        assert!(text.starts_with("set aside for ") && text.ends_with(": no route"));
        assert_eq!(condition(), Condition::Failing);
        drained::drain(&directories, &one.key(), None).unwrap();
        assert_eq!(condition(), Condition::Drained);
    }
}
