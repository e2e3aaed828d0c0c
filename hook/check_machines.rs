//! `offload test`: checks everything that the build machines need in order to work.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use formats::printable::{printable, printable_lines};
use protocol::client::{Address, Options};
use store::Directories;

use crate::directories::HookDirectories;
use crate::machines::Machine;
use crate::parallel;
use crate::remote::{self, Check};
use crate::selection::Selection;

/// The timeout of each check of a machine.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

/// Checks all selected machines in parallel and writes the results to `out`. Returns whether there
/// were no failures.
pub fn run(
    daemon_directories: &Directories,
    selection: &Selection,
    out: &mut dyn Write,
) -> Result<bool> {
    let directories = HookDirectories::new(daemon_directories).context("looking up our user")?;
    let list = selection.load(&daemon_directories.configuration)?;
    writeln!(
        out,
        "testing {} build machines defined in {}...",
        list.machines.len(),
        list.file_names()
    )?;
    out.flush()?;
    let results = parallel::map(&list.machines, |machine| {
        let daemon = Address::from_environment(&daemon_directories.state)
            .and_then(|address| address.connect(&daemon_directories.store, &Options::default()));
        remote::check(machine, &directories, CHECK_TIMEOUT, daemon)
    });
    let mut all_right = list.problems.is_empty();
    for (machine, checks) in list.machines.iter().zip(results) {
        all_right &= checks.iter().all(|check| check.result.is_ok());
        write_checks(machine, &checks, out)?;
    }
    out.flush()?;
    Ok(all_right)
}

fn write_checks(machine: &Machine, checks: &[Check], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}:{}", machine.name, machine.port)?;
    for check in checks {
        match &check.result {
            Ok(text) => writeln!(out, "  right  {:<16} {}", check.what, printable(text))?,
            Err(text) => {
                // Put on one line: a public key in a message, for example, spans several.
                let words: Vec<&str> = text.split_whitespace().collect();
                let text = words.join(" ");
                writeln!(out, "  wrong  {:<16} {}", check.what, printable(&text))?;
            }
        }
        if let Some(remedy) = &check.remedy {
            let remedy = printable_lines(remedy);
            writeln!(out, "         {:<16} {remedy}", "to fix it:")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::machine;

    #[test]
    fn what_a_machine_says_controls_no_terminal() {
        let check = |result: Result<&str, &str>| Check {
            what: "name",
            result: result.map(str::to_owned).map_err(str::to_owned),
            remedy: Some("say \x1b[2J".to_owned()),
        };
        let checks = [check(Ok("host\n\x1b[2J")), check(Err("no \x1b]0;\x07"))];
        let mut out = Vec::new();
        write_checks(&machine("build1"), &checks, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }

    #[test]
    fn a_failed_check_is_one_line_and_its_remedy_another() {
        let checks = [
            Check {
                what: "name",
                result: Ok("10.0.0.1".to_owned()),
                remedy: None,
            },
            Check {
                what: "signatures there",
                result: Err("unauthorized key:\n (public-key)".to_owned()),
                remedy: Some("guix archive --authorize".to_owned()),
            },
        ];
        let mut out = Vec::new();
        write_checks(&machine("build1"), &checks, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "build1:22\n\
             \x20 right  name             10.0.0.1\n\
             \x20 wrong  signatures there unauthorized key: (public-key)\n\
             \x20        to fix it:       guix archive --authorize\n"
        );
    }
}
