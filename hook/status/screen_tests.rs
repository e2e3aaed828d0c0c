//! Tests of [`super`].

use super::*;
use crate::drained::Drained;
use crate::health::Health;
use crate::slots::Occupant;
use crate::test_data;

fn machine(number: usize) -> MachineStatus {
    let machine = test_data::machine(&format!("build-{number:04}"));
    MachineStatus::unasked(&machine, Health::default(), Vec::new())
}

fn building(number: usize, names: &[&str], seconds: u64) -> MachineStatus {
    let occupant = |name: &&str| {
        Some(Occupant {
            pid: 1,
            derivation: format!("/gnu/store/{}-{name}.drv", "a".repeat(32)),
            since: unix_time() - seconds,
        })
    };
    MachineStatus {
        slots: 8,
        slots_used: names.len(),
        building: names.iter().map(occupant).collect(),
        ..machine(number)
    }
}

/// A thousand machines, of which few are not idle.
fn thousand() -> Vec<MachineStatus> {
    let mut all: Vec<MachineStatus> = (0..1000).map(machine).collect();
    all[990].error = Some(format!(
        "failed to connect to 'build-0990': {}",
        "no route to host ".repeat(20)
    ));
    all[500] = building(500, &["gcc-14.3.0", "texlive-20250308"], 300);
    all[501] = building(501, &["rust-1.88.0"], 8000);
    all[30].drained = Some(Drained::default());
    all[40] = MachineStatus {
        drained: Some(Drained {
            since: unix_time() - 600,
            reason: Some("new disk".to_owned()),
        }),
        ..building(40, &["llvm-20.1.8"], 100)
    };
    all[50].unsuitable = Some("it is low on disk space (95 MiB free)".to_owned());
    all[60].systems = vec!["aarch64-linux".to_owned()];
    all
}

#[test]
fn what_needs_attention_comes_first_and_the_idle_ones_are_one_line() {
    let lines = lines(&thousand(), &[], 80, 24);
    let expected =
        "1000 machines, 4 of 1021 slots taken: 1 failing, 1 draining, 1 full or overloaded, 2";
    assert_eq!(lines[0].chars().count(), 80);
    assert_eq!(lines[0].trim_end_matches('…'), &expected[..79]);
    assert!(
        lines[1].starts_with("machine          slots   load      free"),
        "{lines:#?}"
    );
    for (index, words) in [
        (
            2,
            "build-0990         0/1      -         -  no route to host no route",
        ),
        (
            3,
            "build-0040         1/8      -         -  drained for 10 min: new disk; ",
        ),
        (
            4,
            "build-0050         0/1      -         -  gets nothing: it is low on disk",
        ),
        // What has lasted longest, first.
        (
            5,
            "build-0501         1/8      -         -  rust-1.88.0 2 h",
        ),
        (
            6,
            "build-0500         2/8      -         -  gcc-14.3.0 5 min, texlive-2025",
        ),
        (7, "build-0030         0/1      -         -  drained"),
        (8, "994 idle: 993 x86_64-linux, 1 aarch64-linux"),
    ] {
        assert!(lines[index].starts_with(words), "{index} {lines:#?}");
    }
    assert_eq!(lines.len(), 9);
}

#[test]
fn any_screen_is_filled_and_none_overflows() {
    let mut all = thousand();
    for (index, one) in all.iter_mut().enumerate().skip(100).take(200) {
        *one = building(index, &["x"], index as u64);
    }
    for machines in [&all[..], &all[..5], &[]] {
        for (columns, rows) in [
            (80, 24),
            (200, 60),
            (20, 5),
            (1, 1),
            (3, 2),
            (0, 0),
            (500, 2000),
        ] {
            let notices = vec!["a notice".repeat(20); 9];
            let lines = lines(machines, &notices, columns, rows);
            assert!(lines.len() <= rows, "{columns}x{rows}: {lines:#?}");
            let widest = lines.iter().map(|line| line.chars().count()).max();
            assert!(
                widest.unwrap_or(0) <= columns,
                "{columns}x{rows}: {lines:#?}"
            );
        }
    }
    let lines = lines(&all, &[], 80, 24);
    assert_eq!(lines.len(), 24);
    assert!(
        lines[22].starts_with("and 18") && lines[22].contains("building"),
        "{lines:#?}"
    );
    assert!(lines[23].contains(" idle: "), "{lines:#?}");
}

#[test]
fn a_rack_that_is_off_hides_nothing() {
    let mut all = thousand();
    for (index, one) in all.iter_mut().enumerate().skip(600).take(90) {
        one.error = Some(format!(
            "failed to connect to 'build-{index:04}': timed out"
        ));
    }
    for (index, one) in all.iter_mut().enumerate().skip(700).take(90) {
        one.error = Some(format!("each says something else: {index}"));
    }
    for (index, one) in all.iter_mut().enumerate().skip(800).take(50) {
        *one = building(index, &["x"], index as u64);
    }
    let lines = lines(&all, &[], 100, 24);
    assert_eq!(lines.len(), 24, "{lines:#?}");
    let rack = "90 machines       0/90      -         -  timed out (build-0600, build-0601, build-0602, …)";
    assert!(lines.contains(&rack.to_owned()), "{lines:#?}");
    let of_failing = lines
        .iter()
        .position(|line| line.starts_with("and "))
        .unwrap();
    assert!(lines[of_failing].contains(" failing"), "{lines:#?}");
    let building = lines[of_failing..]
        .iter()
        .filter(|line| line.contains("  x "));
    assert!(building.count() >= 8, "{lines:#?}");
    assert!(
        lines[22].starts_with("and ") && lines[22].contains(" building"),
        "{lines:#?}"
    );
    assert!(lines[23].contains(" idle: "), "{lines:#?}");
    // In a narrow terminal, what is wrong is seen.
    let narrow = super::lines(&all, &[], 40, 24);
    assert!(
        narrow.iter().any(|line| line.contains("  timed out")),
        "{narrow:#?}"
    );
}

#[test]
fn what_a_machine_says_controls_no_terminal() {
    let mut one = machine(1);
    one.error = Some("\x1b[2J\n\u{9b}2J\r".to_owned());
    one.name = "a\x1b[2J".to_owned();
    let lines = lines(&[one], &["\x1b]0;x\x07".to_owned()], 80, 24);
    let controls = lines.iter().any(|line| line.contains(char::is_control));
    assert!(!controls, "{lines:?}");
}
