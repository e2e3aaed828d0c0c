//! Options with values that make no sense.

use crate::harness::Site;
use crate::only_ours;
use crate::support::*;

/// A daemon with this option does not start, and says why, before it takes any socket.
#[track_caller]
fn refuses(option: &str, reason: &str) {
    let site = Site::new();
    let (status, _, said) = site.run(&[option]);
    assert_eq!(
        (status.code(), said),
        (Some(1), format!("error: {reason}\n")),
        "{option}"
    );
    assert!(!site.socket().exists(), "{option}");
}

#[test]
fn values_that_mean_nothing_are_refused_at_once() {
    only_ours!(); // Guix's accepts some of them, and takes the socket before it reads the others.
    for (option, setting) in [
        ("--cores", "build-cores"),
        ("--max-jobs", "build-max-jobs"),
        ("--timeout", "build-timeout"),
        ("--max-silent-time", "build-max-silent-time"),
    ] {
        for value in ["", "x", "1.5", "4 "] {
            let reason = format!(
                "configuration setting `{setting}' should have an integer value, not `{value}'"
            );
            refuses(&format!("{option}={value}"), &reason);
        }
    }
    refuses(
        "--max-jobs=99999999999",
        "configuration setting `build-max-jobs' should be at most 4294967295",
    );
    refuses("--rounds=x", "x: invalid number of rounds");
    refuses("--rounds=99999", "99999: too many rounds; 10001 at most");
    refuses("--log-compression=xz", "xz: unknown compression type");
    refuses("--discover=maybe", "'maybe': invalid Boolean value");
    refuses("--system=", "'': not a system type");
    refuses(
        "--chroot-directory=a",
        "'a': not an absolute directory name",
    );
}

#[test]
fn what_clients_will_meet_is_in_the_log() {
    only_ours!();
    let directory = "/nonexistent/for-builds";
    let options = [
        "--build-users-group=no-such-group",
        "--chroot-directory=/usr",
        &format!("--chroot-directory=/inside={directory}"),
    ];
    let fixture = Fixture::with(Site::new(), &options);
    let daemon = &fixture.daemon;
    daemon.wait_until(|| daemon.messages().contains("listening on"), "to log");
    let said = daemon.messages();
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert_eq!(
        warnings,
        [
            "warning: the group `no-such-group' specified in \
             `build-users-group' does not exist",
            "warning: no build can start: `--chroot-directory=/inside=/nonexistent/for-builds': \
             No such file or directory",
        ]
    );
}
