//! `offload test`: checks everything that the build machines need in order to work.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use formats::printable::{printable, printable_lines};
use protocol::client::{Address, Connection, Options};
use store::Directories;

use crate::directories::HookDirectories;
use crate::drained::Drained;
use crate::health::Health;
use crate::machines::Machine;
use crate::parallel;
use crate::remote::{self, Check, Verdict, Vitals, on_one_line};
use crate::selection::Selection;
use crate::slots;
use crate::suitability::{self, Unsuitable};

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
    let list = selection.load(&directories)?;
    writeln!(
        out,
        "testing {} build machines defined in {}...",
        list.machines.len(),
        list.file_names()
    )?;
    out.flush()?;
    let results = parallel::map(&list.machines, |machine| {
        let daemon = local_daemon(daemon_directories);
        let before = Health::load(&directories, machine);
        if let Some(pool) = &machine.pool {
            let mut checks = match slots::acquire(&directories, machine, "offload test") {
                Ok(Some(slot)) => {
                    remote::check_pool(machine, pool, &directories, slot.number, daemon)
                }
                Ok(None) => vec![slots_check(machine, machine.parallel_builds as usize)],
                Err(error) => vec![Check {
                    what: "slots",
                    verdict: Verdict::Wrong,
                    found: error.to_string(),
                    remedy: None,
                }],
            };
            checks.extend(set_aside(machine, &directories, &before, &checks));
            checks.extend(drained(machine, &directories));
            return checks;
        }
        let (mut checks, vitals) = remote::check(machine, &directories, CHECK_TIMEOUT, daemon);
        checks.extend(vitals.map(|vitals| load_check(machine, &before, &vitals)));
        checks.extend(
            slots::taken(&directories, machine).map(|taken| slots_check(machine, taken.len())),
        );
        checks.extend(set_aside(machine, &directories, &before, &checks));
        checks.extend(drained(machine, &directories));
        checks
    });
    let mut all_right = list.problems.is_empty();
    for (machine, checks) in list.machines.iter().zip(results) {
        all_right &= is_all_right(&checks);
        write_checks(machine, &checks, out)?;
    }
    out.flush()?;
    Ok(all_right)
}

/// Reports that a machine is drained: the test doesn't return it.
fn drained(machine: &Machine, directories: &HookDirectories) -> Option<Check> {
    let drained = Drained::load(directories, &machine.key()).ok()??;
    Some(Check {
        what: "drained",
        verdict: Verdict::Note,
        found: format!("gets nothing until it is returned: {drained}"),
        remedy: None,
    })
}

/// Checks a machine that is not in a machine file yet, and writes the results to `out`. Returns whether there
/// were no failures, and what it has reported about itself.
pub fn check_new(
    machine: &Machine,
    daemon_directories: &Directories,
    directories: &HookDirectories,
    out: &mut dyn Write,
) -> Result<(bool, Option<Vitals>)> {
    let (checks, vitals) = remote::check(
        machine,
        directories,
        CHECK_TIMEOUT,
        local_daemon(daemon_directories),
    );
    write_checks(machine, &checks, out)?;
    Ok((is_all_right(&checks), vitals))
}

fn local_daemon(directories: &Directories) -> Result<Connection, protocol::client::Error> {
    Address::from_environment(&directories.state)
        .and_then(|address| address.connect(&directories.store, &Options::default()))
}

fn is_all_right(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Wrong)
}

/// Whether the load allows builds. A high one is not wrong: it may be that of builds.
fn load_check(machine: &Machine, known: &Health, vitals: &Vitals) -> Check {
    let mut health = known.clone();
    health.answered(vitals);
    let load = health.normalized_load();
    let (verdict, found) = match suitability::unsuitable(machine, &health) {
        Some(reason @ Unsuitable::Overloaded { .. }) => {
            let found = format!("gets nothing now: {reason}, its overload-threshold");
            (Verdict::Note, found)
        }
        _ => match machine.overload_threshold {
            Some(threshold) => (
                Verdict::Right,
                format!("{load:.2}, below its overload-threshold {threshold:.2}"),
            ),
            None => (Verdict::Right, format!("{load:.2}")),
        },
    };
    Check {
        what: "load",
        verdict,
        found,
        remedy: None,
    }
}

/// Whether a slot is free. That none is isn't wrong: builds have them, or the entry says so.
fn slots_check(machine: &Machine, taken: usize) -> Check {
    let (verdict, found) = match suitability::no_slot(machine, taken) {
        Some(reason) => (Verdict::Note, format!("gets nothing now: {reason}")),
        None => {
            let slots = machine.parallel_builds as usize;
            (Verdict::Right, format!("{} of {slots} free", slots - taken))
        }
    };
    Check {
        what: "slots",
        verdict,
        found,
        remedy: None,
    }
}

/// Ends the time for which a machine is set aside if all checks were successful: it has been mended.
/// Reports that, or for how long it is still set aside; nothing if it is not.
fn set_aside(
    machine: &Machine,
    directories: &HookDirectories,
    before: &Health,
    checks: &[Check],
) -> Option<Check> {
    let mut now = Health::load(directories, machine);
    // Builds that have failed during the checks know more than these.
    let failed_since = now.all_failures != before.all_failures;
    if now.set_aside_s() > 0 && is_all_right(checks) && !failed_since {
        Health::update(directories, machine, |health| {
            if health.all_failures == before.all_failures {
                health.mended();
            }
        });
        // It may not have been possible to write it.
        now = Health::load(directories, machine);
    }
    let (wait, error) = match (now.set_aside_s(), before.set_aside_s()) {
        (0, 0) => return None,
        (0, _) => ("was set aside, and gets builds again".to_owned(), before),
        (seconds, _) => (format!("gets nothing for {seconds} s more"), &now),
    };
    let error = error.last_error.as_deref().unwrap_or("it failed");
    Some(Check {
        what: "set aside",
        verdict: Verdict::Note,
        found: format!("{wait}: {error}"),
        remedy: None,
    })
}

fn write_checks(machine: &Machine, checks: &[Check], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}:{}", machine.name, machine.port)?;
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Right => "right",
            Verdict::Note => "note ",
            Verdict::Wrong => "wrong",
        };
        let found = on_one_line(&check.found);
        writeln!(out, "  {verdict}  {:<16} {}", check.what, printable(&found))?;
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
    use crate::test_data::{directories, machine};

    fn vitals(load: f64) -> Vitals {
        Vitals {
            load,
            cores: 4,
            free_bytes: 10 << 30,
            round_trip: Duration::from_millis(1),
            clock_offset: 0.0,
            kernel: "Linux 6.1".to_owned(),
            architecture: "x86_64".to_owned(),
            host_name: "build1".to_owned(),
        }
    }

    #[test]
    fn a_load_that_keeps_builds_away_is_a_note() {
        let known = Health::default();
        let at = |load| {
            let check = load_check(&machine("build1"), &known, &vitals(load));
            (check.verdict, check.found)
        };
        let high = "gets nothing now: its load 0.80 is not below 0.80, its overload-threshold";
        assert_eq!(at(3.2), (Verdict::Note, high.to_owned()));
        let low = "0.75, below its overload-threshold 0.80";
        assert_eq!(at(3.0), (Verdict::Right, low.to_owned()));
        let any = Machine {
            overload_threshold: None,
            ..machine("build1")
        };
        let check = load_check(&any, &known, &vitals(40.0));
        assert_eq!((check.verdict, &*check.found), (Verdict::Right, "10.00"));
    }

    #[test]
    fn slots_that_are_all_taken_are_a_note() {
        let with = |parallel_builds, taken| {
            let machine = Machine {
                parallel_builds,
                ..machine("build1")
            };
            let check = slots_check(&machine, taken);
            (check.verdict, check.found)
        };
        let note = |reason: &str| (Verdict::Note, format!("gets nothing now: {reason}"));
        assert_eq!(with(4, 1), (Verdict::Right, "3 of 4 free".to_owned()));
        assert_eq!(with(4, 4), note("all 4 slots are taken"));
        // Its entry has been changed.
        assert_eq!(with(1, 2), note("its only slot is taken"));
        assert_eq!(with(0, 0), note("its parallel-builds is 0"));
    }

    #[test]
    fn only_a_successful_test_ends_the_time_set_aside() {
        let (_state, directories) = directories();
        let machine = machine("build1");
        let check = |verdict| Check {
            what: "login",
            verdict,
            found: String::new(),
            remedy: None,
        };
        let (right, wrong) = (check(Verdict::Right), check(Verdict::Wrong));
        let never = Health::default();
        let report = |before: &Health, checks: &[Check]| {
            set_aside(&machine, &directories, before, checks).map(|check| check.found)
        };
        assert_eq!(report(&never, std::slice::from_ref(&right)), None);
        let before = Health::update(&directories, &machine, |health| health.failed("gone"));
        let still = report(&before, &[right.clone(), wrong]).unwrap();
        assert!(
            still.starts_with("gets nothing for ") && still.ends_with(" s more: gone"),
            "{still}"
        );
        // It failed while it was tested.
        assert!(report(&never, std::slice::from_ref(&right)).is_some());
        assert!(Health::load(&directories, &machine).set_aside_s() > 0);
        let ended = report(&before, &[right, check(Verdict::Note)]);
        let expected = "was set aside, and gets builds again: gone".to_owned();
        assert_eq!(ended, Some(expected));
        let now = Health::load(&directories, &machine);
        assert_eq!((now.set_aside_s(), now.failures, now.builds), (0, 0, 0));
    }

    #[test]
    fn what_a_machine_says_controls_no_terminal() {
        let check = |verdict, found: &str| Check {
            what: "name",
            verdict,
            found: found.to_owned(),
            remedy: Some("say \x1b[2J".to_owned()),
        };
        let checks = [
            check(Verdict::Right, "host\n\x1b[2J"),
            check(Verdict::Wrong, "no \x1b]0;\x07"),
        ];
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
                verdict: Verdict::Right,
                found: "10.0.0.1".to_owned(),
                remedy: None,
            },
            Check {
                what: "signatures there",
                verdict: Verdict::Wrong,
                found: "unauthorized key:\n (public-key)".to_owned(),
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
