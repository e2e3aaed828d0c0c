//! Numbers chosen by clients, as large as possible.

use std::fs::File;

use protocol::operations::GcAction;

use crate::harness::Site;
use crate::harness::derivations::{Client, Script};
use crate::only_ours;
use crate::support::*;

#[test]
fn more_repetitions_than_make_sense_are_an_error() {
    only_ours!();
    let fixture = Fixture::new();
    for repeat in [
        "10001",
        "4294967294",
        "4294967295",
        "4294967296",
        "9223372036854775807",
    ] {
        let mut client = Client::connect(&fixture.daemon);
        client.set(|options| options.set("build-repeat", repeat));
        let drv = client.write(Script::new("repeated", "echo x > $out"));
        let expected = "configuration setting `build-repeat' should be at most 10000";
        client.build(&[&drv]).failed(1, expected);
    }
    assert!(!fixture.daemon.messages().contains("panicked"));
}

#[test]
fn settings_can_be_as_large_and_as_small_as_their_types_allow() {
    only_ours!();
    let fixture = Fixture::new();
    let numbers: [(&str, &[&str]); 7] = [
        (
            "build-timeout",
            &["9223372036854775807", "-9223372036854775808"],
        ),
        (
            "build-max-silent-time",
            &["9223372036854775807", "-9223372036854775808"],
        ),
        ("build-max-jobs", &["4294967295", "-1"]),
        ("build-cores", &["4294967295", "-1"]),
        ("build-poll-interval", &["4294967295", "0"]),
        ("build-max-log-size", &["18446744073709551615", "-1"]),
        ("build-repeat", &["-9223372036854775808", "0"]),
    ];
    for which in [0, 1] {
        let mut client = Client::connect(&fixture.daemon);
        client.set(|options| {
            options.verbosity = u32::MAX;
            options.build_verbosity = Some(u32::MAX);
            for (name, values) in numbers {
                options.set(name, values[which]);
            }
        });
        let name = format!("built-{which}");
        let drv = client.write(Script::new(&name, "echo x; echo x > $out"));
        client.build(&[&drv]).succeeded();
    }
    assert!(!fixture.daemon.messages().contains("panicked"));
}

#[test]
fn garbage_that_is_larger_than_a_number_is_collected() {
    only_ours!();
    let site = Site::new();
    let mount = PrivateMount::tmpfs(site.store(), "8m");
    let fixture = Fixture::on(mount, site, &["--no-substitutes"]);
    let mut client = fixture.client();
    for number in 0..3 {
        let path = fixture.path(&format!("hole-{number}"));
        let file = File::create(path.as_path()).unwrap();
        file.set_len(i64::MAX.unsigned_abs() - 4095).unwrap();
    }
    let collected = collect(&mut client, GcAction::DeleteDead, &[]);
    assert_eq!(collected.bytes_freed, u64::MAX);
    assert!(fixture.entries().is_empty());
}
