//! A command that prints entries: a `[[generate]]` table of `machines.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::problem::{Place, Problem};
use super::values::{FieldResult, integer, strings, user_name};

/// The most seconds that a command may take: builds may wait for it, and the daemon gives up a hook that
/// hasn't answered within 300 seconds, in which machines must be asked, too.
const MOST_SECONDS: i64 = 240;
/// The most seconds that an answer may be kept.
const MOST_KEPT: i64 = 30 * 24 * 3600;

/// A command that prints the entries of machines which come and go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// The program and its words.
    pub command: Vec<String>,
    /// The user as whom it runs; `None`: ours.
    pub run_as: Option<String>,
    /// How long it may take, in seconds.
    pub timeout: u32,
    /// How long its answer is new, in seconds.
    pub every: u32,
    /// How long its last answer is used while it fails, in seconds.
    pub keep: u32,
    /// The position of its table.
    #[serde(skip)]
    pub place: Place,
}

impl Generator {
    /// What the fields describe, or all mistakes in them.
    pub fn new(entry: &Entry, file: &Path) -> Result<Generator, Vec<Problem>> {
        let place = |position| Place {
            file: file.into(),
            position,
        };
        let mut generator = Generator {
            command: Vec::new(),
            run_as: None,
            timeout: 30,
            every: 60,
            keep: 3600,
            place: place(entry.position),
        };
        let mut problems = Vec::new();
        for field in &entry.fields {
            if let Err(message) = generator.set(&field.name, &field.value) {
                problems.push(Problem {
                    place: place(field.position),
                    field: Some(field.name.clone()),
                    message,
                });
            }
        }
        if !entry.fields.iter().any(|field| field.name == "command") {
            problems.push(Problem {
                place: place(entry.position),
                field: Some("command".to_owned()),
                message: "missing field initializer".to_owned(),
            });
        }
        match problems.is_empty() {
            true => Ok(generator),
            false => Err(problems),
        }
    }

    fn set(&mut self, name: &str, value: &formats::datum::Datum) -> FieldResult<()> {
        match name {
            "command" => {
                self.command = strings(value)?;
                if self.command.is_empty() {
                    return Err("names no program".to_owned());
                }
            }
            "run-as" => self.run_as = Some(user_name(value)?),
            "timeout" => self.timeout = integer(value, 1, MOST_SECONDS)? as u32,
            "every" => self.every = integer(value, 1, MOST_KEPT)? as u32,
            "keep" => self.keep = integer(value, 0, MOST_KEPT)? as u32,
            _ => return Err("extraneous field initializer".to_owned()),
        }
        Ok(())
    }

    /// The program's name, for messages.
    pub fn name(&self) -> &str {
        let program = self.command.first().map_or("", String::as_str);
        program.rsplit('/').next().unwrap_or(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::load_text;

    fn loaded(fields: &str) -> Result<Generator, Vec<String>> {
        let text = format!("[[generate]]\n{fields}\n");
        let mut list = load_text(Path::new("/m.toml"), &text).unwrap();
        match list.generators.pop() {
            Some(generator) => Ok(generator),
            None => Err(list.problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let least = loaded("command = ['/bin/cloud', 'print it']").unwrap();
        assert_eq!(least.command, ["/bin/cloud", "print it"]);
        assert_eq!(least.name(), "cloud");
        assert_eq!((least.timeout, least.every, least.keep), (30, 60, 3600));
        let manual = include_str!("../../doc/src/machine-files.md");
        let (_, section) = manual.split_once("## Entries from a command").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let mut names = Vec::new();
        for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
            let cells: Vec<_> = row
                .split(" | ")
                .map(|cell| cell.trim_matches('`'))
                .collect();
            names.push(cells[0]);
            if let Some((first, last)) = cells[1].split_once(" to ") {
                let (first, last): (i64, i64) = (first.parse().unwrap(), last.parse().unwrap());
                for (number, right) in [
                    (first - 1, false),
                    (first, true),
                    (last, true),
                    (last + 1, false),
                ] {
                    let given = loaded(&format!("command = ['x']\n{} = {number}", cells[0]));
                    assert_eq!(given.is_ok(), right, "{} {number}", cells[0]);
                }
                let default = loaded(&format!(
                    "command = ['/bin/cloud', 'print it']\n{} = {}",
                    cells[0], cells[2]
                ));
                assert_eq!(default, Ok(least.clone()));
            }
        }
        assert_eq!(names, ["command", "run-as", "timeout", "every", "keep"]);
    }

    #[test]
    fn mistakes_have_their_places() {
        for (fields, problem) in [
            (
                "",
                "/m.toml:1:1: field `command': missing field initializer",
            ),
            (
                "command = []",
                "/m.toml:2:1: field `command': names no program",
            ),
            (
                "command = 'x y'",
                "/m.toml:2:1: field `command': expected a list of strings, got \"x y\"",
            ),
            (
                "command = ['x']\nname = 'y'",
                "/m.toml:3:1: field `name': extraneous field initializer",
            ),
        ] {
            assert_eq!(loaded(fields).unwrap_err(), [problem]);
        }
        let error = load_text(Path::new("/m.toml"), "generate = 1\n").unwrap();
        assert!(
            error.problems[0]
                .message
                .starts_with("expected `[[machine]]'")
        );
    }
}
