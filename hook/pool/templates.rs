//! The command lines of a pool, and what its scheduler says: from its entry, or from what is known
//! about its scheduler.

use serde::{Deserialize, Serialize};

use super::preset::Preset;
use super::{podman, slurm};
use crate::machines::{Pool, Scheduler};

/// Nothing is known.
const NONE: Preset = Preset {
    command: &[],
    cancel: &[],
    pending: &[],
    busy: &[],
    unreachable: &[],
    exhausted: &[],
    out_of_time: &[],
    lost: &[],
    hopeless: &[],
};

/// What a scheduler says, to be looked for in its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs {
    /// If there is no room.
    pub busy: Vec<String>,
    /// If it does not answer.
    pub unreachable: Vec<String>,
    /// When a job uses more than it has asked for.
    pub exhausted: Vec<String>,
    /// When a job has lasted as long as it may.
    pub out_of_time: Vec<String>,
    /// When the node of a job fails.
    pub lost: Vec<String>,
    /// If a job would wait for ever, and what that means.
    pub hopeless: Vec<(String, String)>,
}

/// The command lines of a pool, with placeholders: those of its entry, or else of its scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    /// The command whose standard input and output reach the worker.
    pub command: Vec<String>,
    /// The command that ends the job; may be empty.
    pub cancel: Vec<String>,
    /// The command that says why a job waits; may be empty.
    pub pending: Vec<String>,
    /// What the scheduler says.
    pub signs: Signs,
}

impl Templates {
    /// Those of a pool.
    pub fn of(pool: &Pool) -> Templates {
        let preset = match pool.scheduler {
            Some(Scheduler::Slurm) => &slurm::PRESET,
            Some(Scheduler::Podman) => &podman::PRESET,
            None => &NONE,
        };
        let words = |own: &Option<Vec<String>>, preset: &[&str]| match own {
            Some(words) => words.clone(),
            None => owned(preset),
        };
        Templates {
            command: words(&pool.command, preset.command),
            cancel: words(&pool.cancel, preset.cancel),
            pending: words(&pool.pending, preset.pending),
            signs: Signs {
                busy: words(&pool.busy, preset.busy),
                unreachable: owned(preset.unreachable),
                exhausted: owned(preset.exhausted),
                out_of_time: owned(preset.out_of_time),
                lost: owned(preset.lost),
                hopeless: (preset.hopeless.iter())
                    .map(|(sign, meaning)| ((*sign).to_owned(), (*meaning).to_owned()))
                    .collect(),
            },
        }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::template::{self, Placeholder};

    #[test]
    fn presets_are_command_lines() {
        for scheduler in [Scheduler::Slurm, Scheduler::Podman] {
            let pool = Pool {
                scheduler: Some(scheduler),
                ..Pool::default()
            };
            let Templates {
                command,
                cancel,
                pending,
                ..
            } = Templates::of(&pool);
            for word in command.iter().chain(&cancel).chain(&pending) {
                assert!(template::pieces(word).is_ok(), "{word}");
            }
            assert_eq!(command.last().map(String::as_str), Some("{worker}"));
            for needed in [Placeholder::Options, Placeholder::Job] {
                assert!(template::has(&command, needed), "{command:?}");
            }
            assert!(template::has(&cancel, Placeholder::Job), "{cancel:?}");
        }
    }

    #[test]
    fn the_entry_has_the_last_word() {
        let words = |words: &[&str]| Some(owned(words));
        let pool = Pool {
            scheduler: Some(Scheduler::Slurm),
            pending: words(&["squeue", "-n", "{job}"]),
            busy: words(&[]),
            ..Pool::default()
        };
        let templates = Templates::of(&pool);
        assert_eq!(templates.command, owned(slurm::PRESET.command));
        assert_eq!(Some(templates.pending), pool.pending);
        assert!(templates.signs.busy.is_empty());
    }
}
