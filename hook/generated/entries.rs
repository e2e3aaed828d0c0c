//! The machines of a command's answer: entries as in `machines.toml`, checked in the same way.

use std::path::PathBuf;

use system::ids;

use crate::machines::{self, Generator, Machine, Place, Problem};

/// The most machines that a command may print.
const MACHINE_LIMIT: usize = 10_000;
/// How many mistakes of an answer are reported.
const PROBLEMS_SHOWN: usize = 5;

/// The name that stands for the file in messages.
fn source(generator: &Generator) -> PathBuf {
    format!("answer of `{}'.toml", generator.name()).into()
}

/// Checks whether an answer can be read at all.
pub fn check(generator: &Generator, text: &str) -> Result<(), String> {
    let list = machines::load_text(&source(generator), text).map_err(|error| error.to_string())?;
    match list.machines.len() + list.problems.len() {
        count if count > MACHINE_LIMIT => {
            Err(format!("it prints more than {MACHINE_LIMIT} machines"))
        }
        _ => Ok(()),
    }
}

/// The machines of an answer, and the mistakes in the others.
pub fn read(generator: &Generator, text: &str) -> (Vec<Machine>, Vec<Problem>) {
    let source = source(generator);
    let mut list = match machines::load_text(&source, text) {
        Ok(list) => list,
        // (It was checked; somebody has changed the file.)
        Err(error) => return (Vec::new(), vec![problem(generator, error.to_string())]),
    };
    let mut problems = std::mem::take(&mut list.problems);
    for inner in &list.generators {
        let message = "a command's answer has no commands".to_owned();
        problems.push(Problem {
            place: inner.place.clone(),
            field: Some("generate".to_owned()),
            message,
        });
    }
    if is_another_user(generator) {
        list.machines.retain(|machine| match foreign(machine) {
            None => true,
            Some(field) => {
                problems.push(Problem {
                    place: machine.place.clone(),
                    field: Some(field.to_owned()),
                    message:
                        "not from a command with `run-as': it would run programs as the hook's user"
                            .to_owned(),
                });
                false
            }
        });
    }
    if let Some(others @ 1..) = problems.len().checked_sub(PROBLEMS_SHOWN) {
        problems.truncate(PROBLEMS_SHOWN);
        problems.push(problem(generator, format!("and {others} other mistakes")));
    }
    (list.machines, problems)
}

fn problem(generator: &Generator, message: String) -> Problem {
    Problem {
        place: Place {
            file: source(generator),
            ..Place::default()
        },
        field: None,
        message,
    }
}

/// Whether a command runs as a user who is not the hook's: its answer must not be a way to become that.
fn is_another_user(generator: &Generator) -> bool {
    let Some(name) = &generator.run_as else {
        return false;
    };
    let account = ids::user_by_name(name).ok().flatten();
    account.is_none_or(|account| account.uid != ids::effective_uid())
}

/// The field of a machine by which whoever writes it has programs run here.
fn foreign(machine: &Machine) -> Option<&'static str> {
    match machine {
        Machine { pool: Some(_), .. } => Some("transport"),
        Machine {
            ssh_config: Some(_),
            ..
        } => Some("ssh-config"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(run_as: Option<&str>) -> Generator {
        Generator {
            command: vec!["/usr/bin/my-cloud".to_owned()],
            run_as: run_as.map(str::to_owned),
            timeout: 1,
            every: 1,
            keep: 0,
            place: Place::default(),
        }
    }

    fn entry(name: &str, more: &str) -> String {
        format!(
            "[[machine]]\nname = \"{name}\"\nsystems = [\"x\"]\nuser = \"u\"\n\
             host-key = \"t AAAAAXQAAAABaw==\"\n{more}\n"
        )
    }

    #[test]
    fn entries_are_those_of_a_file() {
        let text = entry("a", "") + &entry("b c", "") + &entry("d", "speed = 2.0");
        let (machines, problems) = read(&generator(None), &text);
        let names: Vec<_> = machines.iter().map(|machine| &*machine.name).collect();
        assert_eq!(names, ["a", "d"]);
        assert_eq!(
            problems[0].to_string(),
            "answer of `my-cloud'.toml:8:1: field `name': `b c' is not a host name"
        );
        assert_eq!(read(&generator(None), "").0, []);
    }

    #[test]
    fn few_of_many_mistakes_are_reported() {
        let text: String = (0..100).map(|_| entry("b c", "")).collect();
        let (_, problems) = read(&generator(None), &text);
        assert_eq!(problems.len(), PROBLEMS_SHOWN + 1);
        assert_eq!(problems[PROBLEMS_SHOWN].message, "and 95 other mistakes");
    }

    #[test]
    fn an_answer_has_its_limits() {
        let check = |text: &str| check(&generator(None), text);
        assert!(check("").is_ok() && check(&entry("a", "")).is_ok());
        let error = check("[[machine]\n").unwrap_err();
        assert!(error.contains("answer of `my-cloud'.toml:1:"), "{error}");
        let many: String = (0..=MACHINE_LIMIT).map(|_| "[[machine]]\n").collect();
        assert_eq!(
            check(&many).unwrap_err(),
            "it prints more than 10000 machines"
        );
        let nested = "[[generate]]\ncommand = [\"reboot\"]\n";
        let (machines, problems) = read(&generator(None), nested);
        assert!(machines.is_empty());
        assert_eq!(problems[0].message, "a command's answer has no commands");
    }

    #[test]
    fn a_command_of_another_user_gets_nothing_run_as_ours() {
        let text = entry("a", "")
            + &entry("b", "ssh-config = \"/tmp/evil\"")
            + "[[machine]]\nname = \"c\"\nsystems = [\"x\"]\ntransport = \"command\"\n\
               command = [\"/tmp/evil\"]\n";
        let names = |run_as| -> Vec<String> {
            let (machines, _) = read(&generator(run_as), &text);
            machines.into_iter().map(|machine| machine.name).collect()
        };
        assert_eq!(names(None), ["a", "b", "c"]);
        assert_eq!(names(Some("no-such-user-here")), ["a"]);
        let ours = ids::user_name(ids::effective_uid());
        assert_eq!(names(Some(&ours)), ["a", "b", "c"]);
        let (_, problems) = read(&generator(Some("no-such-user-here")), &text);
        let fields: Vec<_> = problems
            .iter()
            .map(|problem| problem.field.as_deref())
            .collect();
        assert_eq!(fields, [Some("ssh-config"), Some("transport")]);
    }
}
