//! The machines that `offload status` and `offload test` use: those in one machine file or in the
//! usual ones, optionally only those whose name matches a regular expression.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

use crate::directories::HookDirectories;
use crate::generated::{self, Audience};
use crate::machines::{Machine, MachineList};
use crate::stderr_line;

/// Which machines to use.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The machine file to read instead of the usual ones.
    file: Option<PathBuf>,
    /// Matches somewhere in a machine's name, as with Guix's `string-match`.
    regexp: Option<Regex>,
}

impl Selection {
    /// Parses the arguments `[FILE [REGEXP]]`.
    pub fn new(arguments: &[impl AsRef<str>]) -> Result<Selection> {
        if arguments.len() > 2 {
            bail!("wrong number of arguments");
        }
        let argument = |index: usize| arguments.get(index).map(AsRef::as_ref);
        let regexp = argument(1)
            .map(|text| {
                Regex::new(text).with_context(|| format!("invalid regular expression '{text}'"))
            })
            .transpose()?;
        Ok(Selection {
            file: argument(0).map(PathBuf::from),
            regexp,
        })
    }

    /// The selected machines of the file, or of the usual files, without duplicates; also those that a
    /// file's commands print. Prints the mistakes in machine files. It is an error if no machine is selected.
    pub fn load(&self, directories: &HookDirectories) -> Result<MachineList> {
        let mut list = self.read(directories)?;
        for problem in list.complaints() {
            stderr_line!("warning: {problem}");
        }
        let is_empty = list.machines.is_empty();
        self.select(&mut list.machines);
        if list.machines.is_empty() {
            bail!(self.no_machine(&list, is_empty, directories));
        }
        Ok(list)
    }

    /// The same, for whoever shows the mistakes otherwise; there may be none.
    pub fn load_quietly(&self, directories: &HookDirectories) -> Result<MachineList> {
        let mut list = self.read(directories)?;
        self.select(&mut list.machines);
        Ok(list)
    }

    fn read(&self, directories: &HookDirectories) -> Result<MachineList> {
        Ok(match &self.file {
            Some(file) => generated::load_file(file, directories, Audience::Administrator)?,
            None => generated::load(directories, Audience::Administrator)?,
        })
    }

    fn select(&self, machines: &mut Vec<Machine>) {
        let mut seen = HashSet::new();
        machines.retain(|machine| {
            let matches = match &self.regexp {
                Some(regexp) => regexp.is_match(&machine.name),
                None => true,
            };
            seen.insert(machine.key()) && matches
        });
    }

    /// Why no machine is selected. `is_empty`: whether the list was empty from the start.
    fn no_machine(
        &self,
        list: &MachineList,
        is_empty: bool,
        directories: &HookDirectories,
    ) -> String {
        let files = list.file_names();
        match &self.regexp {
            _ if list.files.is_empty() => format!(
                "there is no machine file: none of machines.scm, machines.toml and machines is in \
                 '{}'",
                directories.configuration.display()
            ),
            _ if is_empty && list.problems.is_empty() => {
                format!("no build machine is defined in {files}")
            }
            Some(regexp) if !is_empty => {
                format!("no build machine in {files} has a name that matches '{regexp}'")
            }
            _ => format!("no build machine in {files} is defined correctly"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::machine;

    /// The names of which the regular expression selects some.
    const NAMES: [&str; 4] = ["build1", "build2.example", "build10", "old"];

    fn selected(regexp: &str) -> Vec<String> {
        let mut machines: Vec<Machine> = NAMES.map(machine).into();
        let selection = Selection::new(&["machines.scm", regexp]).unwrap();
        selection.select(&mut machines);
        machines.into_iter().map(|machine| machine.name).collect()
    }

    #[test]
    fn the_regular_expression_matches_anywhere_in_the_name() {
        assert_eq!(selected("build[12]"), NAMES[..3]);
        assert_eq!(selected("^build[12]$"), ["build1"]);
        assert_eq!(selected("l.*1"), ["build1", "build10"]);
        assert_eq!(selected("^(old|build2)"), ["build2.example", "old"]);
        assert_eq!(selected(r"\.example$"), ["build2.example"]);
        assert_eq!(selected("[[:digit:]]{2}"), ["build10"]);
        assert_eq!(selected("bui?ld[^0-9]*1?$"), ["build1"]);
        assert_eq!(selected(""), NAMES);
        // As in Guix, matching is case-sensitive and not anchored.
        assert!(selected("BUILD").is_empty() && selected("^uild").is_empty());
    }

    #[test]
    fn a_bad_regular_expression_is_an_error() {
        for bad in ["build[", "(", "*", "a{2,1}"] {
            let error = Selection::new(&["machines.scm", bad]).unwrap_err();
            let expected = format!("invalid regular expression '{bad}'");
            assert_eq!(error.to_string(), expected);
        }
        assert!(Selection::new(&["a", "b", "c"]).is_err());
    }

    #[test]
    fn a_machine_that_is_given_twice_is_selected_once() {
        let other_port = Machine {
            port: 2222,
            ..machine("a")
        };
        let mut machines = vec![machine("a"), other_port, machine("a")];
        Selection::default().select(&mut machines);
        let keys: Vec<_> = machines.iter().map(Machine::key).collect();
        assert_eq!(keys, ["a:22", "a:2222"]);
    }

    #[test]
    fn no_machine_is_an_error_that_names_file_and_expression() {
        let directory = tempfile::tempdir().unwrap();
        let (_state, directories) = crate::test_data::directories();
        let directories = HookDirectories {
            configuration: directory.path().to_owned(),
            ..directories
        };
        let error = |arguments: &[&str]| {
            let selection = Selection::new(arguments).unwrap();
            selection.load(&directories).unwrap_err().to_string()
        };
        let file = directory.path().join("machines.toml");
        let name = file.to_str().unwrap();
        assert!(error(&[]).starts_with("there is no machine file"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(
            error(&[]),
            format!("no build machine is defined in '{name}'")
        );
        std::fs::write(&file, "[[machine]]\nname = 'a'\n").unwrap();
        assert_eq!(
            error(&[name, "a"]),
            format!("no build machine in '{name}' is defined correctly")
        );
        let entry = "[[machine]]\nname = 'a'\nsystems = ['x']\nuser = 'u'\nhost-key = 't AAAAAXQAAAABaw=='\n";
        std::fs::write(&file, entry).unwrap();
        assert_eq!(
            error(&[name, "build[12]"]),
            format!("no build machine in '{name}' has a name that matches 'build[12]'")
        );
        let found = Selection::new(&[name, "^a$"]).unwrap();
        assert_eq!(found.load(&directories).unwrap().machines.len(), 1);
    }
}
