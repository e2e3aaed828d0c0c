//! Tests of [`super`].

use super::*;

fn line(arguments: &[&str]) -> Parsed {
    parse(
        std::iter::once(PROGRAM)
            .chain(arguments.iter().copied())
            .map(OsString::from),
    )
}

fn served(arguments: &[&str]) -> Vec<(Name, Option<String>)> {
    match line(arguments) {
        Parsed::Serve(given) => given
            .into_iter()
            .map(|(option, value)| (option, value.map(|value| value.into_string().unwrap())))
            .collect(),
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn refused(arguments: &[&str]) -> String {
    match line(arguments) {
        Parsed::Refuse(text, 64) => {
            let (first, rest) = text.split_once('\n').unwrap();
            assert!(rest.starts_with("Try `guix-daemon --help'"), "{rest}");
            first.strip_prefix("guix-daemon: ").unwrap().to_owned()
        }
        other => panic!("{arguments:?}: {other:?}"),
    }
}

#[test]
fn table_is_sound() {
    command().debug_assert();
}

#[test]
fn the_store_is_given_to_a_user() {
    assert_eq!(
        line(&["--change-owner=alice", "--build-users-group=b"]),
        Parsed::ChangeOwner(
            "alice".into(),
            vec![(Name::BuildUsersGroup, Some("b".into()))]
        )
    );
    assert_eq!(
        refused(&["--change-owner"]),
        "option '--change-owner' requires an argument"
    );
}

#[test]
fn options_take_effect_in_order() {
    let value = |text: &str| Some(text.to_owned());
    assert_eq!(
        served(&[
            "--log-compression",
            "gzip",
            "--disable-log-compression",
            "-c4",
            "-M",
            "2",
            "--log-compression=bzip2",
            "--cores=",
            "--debug",
            "--debug",
        ]),
        vec![
            (Name::LogCompression, value("gzip")),
            (Name::DisableLogCompression, None),
            (Name::Cores, value("4")),
            (Name::MaxJobs, value("2")),
            (Name::LogCompression, value("bzip2")),
            (Name::Cores, value("")),
            (Name::Debug, None),
            (Name::Debug, None),
        ]
    );
}

#[test]
fn long_options_can_be_shortened_and_have_former_names() {
    use Name::*;
    let options = |arguments: &[&str]| -> Vec<Name> {
        served(arguments)
            .into_iter()
            .map(|(option, _)| option)
            .collect()
    };
    assert_eq!(
        options(&["--no-b", "--no-o", "--no-offload"]),
        [NoOffload; 3]
    );
    assert_eq!(
        options(&[
            "--disable-st",
            "--disable-dedup",
            "--disable-store-optimization"
        ]),
        [DisableDeduplication; 3]
    );
    assert_eq!(
        options(&["--sys=x", "--roun=3", "--lis", "/s"]),
        [System, Rounds, Listen]
    );
}

#[test]
fn optional_arguments_need_the_equals_sign() {
    assert_eq!(
        served(&[
            "--gc-keep-outputs",
            "--discover=no",
            "--gc-keep-derivations="
        ]),
        vec![
            (Name::GcKeepOutputs, None),
            (Name::Discover, Some("no".into())),
            (Name::GcKeepDerivations, Some(String::new())),
        ]
    );
    assert_eq!(refused(&["--gc-keep-outputs", "no"]), "Too many arguments");
}

#[test]
fn an_argument_may_look_like_an_option() {
    let value = |text: &str| Some(text.to_owned());
    assert_eq!(
        served(&["--system", "--debug"]),
        [(Name::System, value("--debug"))]
    );
    assert_eq!(served(&["-M", "-1"]), [(Name::MaxJobs, value("-1"))]);
}

#[test]
fn refusals_are_those_of_argp() {
    assert_eq!(
        refused(&["--frobnicate"]),
        "unrecognized option '--frobnicate'"
    );
    assert_eq!(refused(&["-x"]), "invalid option -- 'x'");
    assert_eq!(refused(&["word"]), "Too many arguments");
    assert_eq!(
        refused(&["--system"]),
        "option '--system' requires an argument"
    );
    assert_eq!(refused(&["-c"]), "option requires an argument -- 'c'");
    assert_eq!(
        refused(&["--debug=1"]),
        "option '--debug' doesn't allow an argument"
    );
    assert_eq!(
        refused(&["--gc-keep"]),
        "option '--gc-keep' is ambiguous; possibilities: \
         '--gc-keep-outputs' '--gc-keep-derivations'"
    );
}

#[test]
fn the_version_says_whether_offloading_is_built_in() {
    let Parsed::Print(text) = line(&["--version"]) else {
        panic!()
    };
    let wanted = match cfg!(have_daemon_offload_hook) {
        true => "\noffloading: built in\n",
        false => "\noffloading: not built in\n",
    };
    assert!(text.ends_with(wanted), "{text}");
}

#[test]
fn version_and_help() {
    let Parsed::Print(text) = line(&["--version"]) else {
        panic!()
    };
    assert!(text.starts_with("guix-daemon (GNU Guix) "), "{text}");
    for arguments in [["--help"], ["-?"], ["--usage"]] {
        let Parsed::Print(text) = line(&arguments) else {
            panic!()
        };
        assert!(text.starts_with("Usage: guix-daemon"), "{text}");
        assert!(text.contains("--isolate-host-loopback"), "{text}");
        assert!(!text.contains("no-build-hook"), "hidden: {text}");
    }
    assert!(matches!(line(&["-V"]), Parsed::Print(_)));
}

#[test]
fn the_help_fits_a_terminal_of_80_columns() {
    let Parsed::Print(help) = line(&["--help"]) else {
        panic!("no help")
    };
    for line in help.lines() {
        assert!(line.chars().count() < 80, "{line}");
    }
    assert!(!help.contains("\n\n\n"), "{help}");
}
