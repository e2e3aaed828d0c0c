//! The contents of machine files.

use std::path::PathBuf;

use super::generator::Generator;
use super::machine::Machine;
use super::problem::Problem;

/// The machines that machine files describe, and the mistakes in them.
#[derive(Debug, Clone, Default)]
pub struct MachineList {
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// The machines of all valid entries, in order.
    pub machines: Vec<Machine>,
    /// The commands that print more entries.
    pub generators: Vec<Generator>,
    /// The mistakes in the other entries.
    pub problems: Vec<Problem>,
    /// What has no effect in valid entries.
    pub warnings: Vec<Problem>,
}

impl MachineList {
    /// The first mistake, and how many more there are: why machines are missing.
    pub fn problem(&self) -> Option<String> {
        let first = self.problems.first()?;
        match self.problems.len() - 1 {
            0 => Some(first.to_string()),
            1 => Some(format!("{first}; and one more problem")),
            more => Some(format!("{first}; and {more} more problems")),
        }
    }

    /// What to tell the administrator: mistakes first, then what has no effect.
    pub fn complaints(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().chain(&self.warnings)
    }

    /// The `NAME:PORT`s of the machines, in order.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.machines.iter().map(Machine::key)
    }

    /// The first machine with this `NAME:PORT`.
    pub fn find(&self, key: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.key() == key)
    }

    /// The names of the files, for messages: `'FILE', 'FILE'`.
    pub fn file_names(&self) -> String {
        let names: Vec<String> = self
            .files
            .iter()
            .map(|file| format!("'{}'", file.display()))
            .collect();
        names.join(", ")
    }
}
