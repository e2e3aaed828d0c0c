//! The machines of machine files, and those that the files' commands print (`[[generate]]`;
//! `doc/spec/offload.md`, section 28).
//!
//! | file | |
//! |---|---|
//! | `run.rs` | runs a command: no shell, a deadline, a bound on what it prints |
//! | `answer.rs` | its last answer, in a file that all hooks share, and who gets the next one |
//! | `entries.rs` | the machines of an answer |

mod answer;
mod entries;
mod run;

use std::path::Path;

use crate::directories::HookDirectories;
use crate::machines::{self, MachineList, Problem};
use crate::parallel;

pub use answer::refresh_in_background;

/// Who is told that a command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Clients that build: it is said once.
    Clients,
    /// Somebody who asks for it: it is said each time.
    Administrator,
}

/// All machines: those of the usual machine files, then those that their commands print.
pub fn load(
    directories: &HookDirectories,
    audience: Audience,
) -> Result<MachineList, machines::Error> {
    let list = machines::load(&directories.configuration)?;
    Ok(complete(list, directories, audience))
}

/// All machines as far as they are known without running a command, whoever runs them: those of the usual
/// machine files, then those that their commands have printed last. Nothing is written, and nothing waited for.
/// Returns also how many of them are in the files.
pub fn load_known(directories: &HookDirectories) -> Result<(MachineList, usize), machines::Error> {
    let mut list = machines::load(&directories.configuration)?;
    let listed = list.machines.len();
    for index in 0..list.generators.len() {
        if let Some(text) = answer::known(&list.generators[index], directories) {
            add(&mut list, index, &text);
        }
    }
    Ok((list, listed))
}

/// All machines of one machine file.
pub fn load_file(
    file: &Path,
    directories: &HookDirectories,
    audience: Audience,
) -> Result<MachineList, machines::Error> {
    let list = machines::load_file(file)?;
    Ok(complete(list, directories, audience))
}

/// Adds the machines that the commands of a list print. They come last: of two with the same name, the
/// first counts, so that no command takes the place of a machine that is listed.
fn complete(
    mut list: MachineList,
    directories: &HookDirectories,
    audience: Audience,
) -> MachineList {
    // Together they take no longer than the slowest.
    let answers = parallel::map(&list.generators, |generator| {
        answer::current(generator, directories)
    });
    for (index, (answer, failure)) in answers.into_iter().enumerate() {
        if let Some(failure) = failure {
            if audience == Audience::Administrator || failure.is_news(directories) {
                list.warnings.push(Problem {
                    place: list.generators[index].place.clone(),
                    field: None,
                    message: failure.message,
                });
            }
        }
        if let Some(text) = answer {
            add(&mut list, index, &text);
        }
    }
    list
}

/// Adds the machines of a command's answer.
fn add(list: &mut MachineList, generator: usize, answer: &str) {
    let (machines, problems) = entries::read(&list.generators[generator], answer);
    list.machines.extend(machines);
    list.problems.extend(problems);
}
