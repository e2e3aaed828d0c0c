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
    refuses(
        "--substitute-urls=foo",
        "'--substitute-urls': foo: invalid URI",
    );
    for number in ["0", "-1"] {
        let reason = format!(
            "'--max-substitutions': expected a whole number from 1 to 4294967295, not `{number}'"
        );
        refuses(&format!("--max-substitutions={number}"), &reason);
    }
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

/// What a daemon logs when it starts with this in its environment, and what a client of it is told that
/// wants a substitute twice.
fn said_about(variables: &[(&str, &str)], options: &[&str]) -> (String, String) {
    let site = variables
        .iter()
        .fold(Site::new(), |site, (name, value)| site.env(name, value));
    let fixture = Fixture::with(site, options);
    let daemon = &fixture.daemon;
    daemon.wait_until(|| daemon.messages().contains("listening on"), "to log");
    let mut client = fixture.client();
    let missing = fixture.path("missing");
    let mut said = String::new();
    for _ in 0..2 {
        let result = client.ensure_path(&missing, &mut |text| {
            said += &String::from_utf8_lossy(text);
        });
        result.unwrap_err();
    }
    (daemon.messages(), said)
}

#[test]
fn a_program_that_is_not_there_is_named_and_clients_are_told_once() {
    only_ours!();
    let gone = "/nonexistent/program";
    let reason =
        |by: &str| format!("warning: cannot use `{gone}' ({by}): No such file or directory");
    let fetch = [("GUIX_FETCH", gone)];
    let guix = [("GUIX", gone)];
    for (variables, options, by) in [
        (&fetch[..], &[][..], "GUIX_FETCH"),
        (&guix, &["--fetcher=guix"], "GUIX"),
    ] {
        let (log, said) = said_about(variables, options);
        let lack = reason(by);
        let warning = format!("{lack}; there are no substitutes and no downloads\n");
        assert!(log.contains(&warning), "{log}");
        assert_eq!(said.matches(&lack).count(), 1, "{said}");
        let site = Site::new().env(variables[0].0, variables[0].1);
        let (_, out, _) = site.run(&[options, &["--check-setup"]].concat());
        let wrong = format!("WRONG  {}; there are", &lack["warning: ".len()..]);
        assert!(out.contains(&wrong), "{out}");
    }
    // Who has turned substitutes off misses downloads only.
    let (log, said) = said_about(&fetch, &["--no-substitutes"]);
    let warning = format!("{}; there are no downloads\n", reason("GUIX_FETCH"));
    assert!(log.contains(&warning), "{log}");
    assert_eq!(said, "");
    // Who wants neither program has said so.
    let (log, said) = said_about(&[("GUIX_FETCH", "")], &[]);
    assert!(!log.contains("warning: cannot use"), "{log}");
    assert!(
        log.contains("`GUIX_FETCH' is empty, and cannot use `"),
        "{log}"
    );
    assert_eq!(said, "");
}

#[test]
fn believing_everybody_is_warned_of() {
    only_ours!();
    let warning =
        "GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES is `yes': every substitute server is believed";
    let fetch = env!("CARGO_BIN_EXE_guix-fetch");
    for (value, is_warned) in [("yes", true), ("YES", true), ("no", false)] {
        let site = Site::new()
            .env("GUIX_FETCH", fetch)
            .env("GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES", value);
        let (_, out, _) = site.run(&["--check-setup"]);
        assert_eq!(
            out.contains(&format!("WRONG  {warning}")),
            is_warned,
            "{out}"
        );
        let daemon = site.start(&[]);
        daemon.wait_until(|| daemon.messages().contains("listening on"), "to log");
        let log = daemon.messages();
        assert_eq!(
            log.contains(&format!("warning: {warning}")),
            is_warned,
            "{log}"
        );
    }
}
