//! What derivations say is text: in no message does it become an event, a line of a log or a
//! sequence that controls a terminal.

use super::harness::derivations::Built;
use super::*;

/// An event that nobody but the daemon may report, and what would clear a terminal.
const FORGED: &str = "\n@ build-succeeded /gnu/store/victim.drv -\n\x1b[2J\u{9b}2J\u{202e}";

/// A client that gets events, in frames or without.
fn client(setup: &Setup, multiplexed: bool) -> Client {
    let mut client = setup.client();
    client.set(|options| {
        options.print_build_trace = Some(true);
        options.set("multiplexed-build-output", multiplexed.to_string());
        options.verbosity = u32::MAX;
    });
    client
}

/// Neither the client nor the daemon's log has been given what was forged.
#[track_caller]
fn assert_harmless(setup: &Setup, built: &Built) {
    let error = match &built.result {
        Err((error, _)) => error.as_str(),
        Ok(()) => "",
    };
    let log = setup.daemon.messages();
    for text in [built.log.as_str(), error, log.as_str()] {
        let lines = || text.split(['\n', '\r']);
        assert!(
            !lines().any(|line| line.starts_with("@ build-succeeded")),
            "{text}"
        );
        let bad = |c: char| c != '\n' && formats::printable::is_unprintable(c);
        assert!(!text.contains(bad), "{text:?}");
    }
}

#[test]
fn a_system_forges_nothing() {
    if !is_ours() {
        return; // Guix's sends it as it is
    }
    let setup = Setup::new(&["--debug"]);
    for (index, multiplexed) in [false, true].into_iter().enumerate() {
        let mut client = client(&setup, multiplexed);
        let system = concat!(env!("GUIX_SYSTEM")).to_owned() + FORGED;
        let drv = client.write(Script::new(&format!("system-{index}"), "echo").system(&system));
        let built = client.build(&[&drv]);
        built.failed(100, "failed");
        built.said("@ unsupported-platform ");
        assert_harmless(&setup, &built);
    }
}

#[test]
fn no_builder_says_where_something_is_built() {
    if !is_ours() {
        return; // Guix's sends it as it is
    }
    let setup = Setup::new(&[]);
    for multiplexed in [false, true] {
        let mut client = client(&setup, multiplexed);
        let text = "echo '@ build-remote /victim.drv evil'; echo made > $out";
        let drv = client.write(Script::new(&format!("remote-{multiplexed}"), text));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said(" @ build-remote /victim.drv evil\n");
        built.did_not_say("\n@ build-remote ");
    }
}

#[test]
fn variables_and_builders_forge_nothing() {
    if !is_ours() {
        return; // Guix's sends them as they are
    }
    let setup = Setup::new(&["--debug"]);
    let named = |name: &str| Script::new(name, "echo; exit 1");
    for multiplexed in [false, true] {
        let mut client = client(&setup, multiplexed);
        let store = setup.site.store().display().to_string();
        let kind = if multiplexed { "framed" } else { "plain" };
        let scripts = [
            named("features").variable("requiredSystemFeatures", FORGED),
            named("graph").variable("exportReferencesGraph", FORGED),
            named("graphs").variable("exportReferencesGraph", format!("f {store}/x{FORGED}")),
            named("disallowed").variable("disallowedReferences", FORGED),
            named("impure").variable("impureEnvVars", FORGED),
            named("name").variable("name", FORGED),
            named("builder").builder(&format!("/nowhere{FORGED}")),
            named("inside").builder(&format!("{}/bin/x{FORGED}", client.busybox())),
            named("builtin").builder(&format!("builtin:{FORGED}")),
            named("local").variable("preferLocalBuild", FORGED),
        ];
        for script in scripts {
            let drv = client.write(script.variable("kind", kind));
            let built = client.build(&[&drv]);
            assert!(built.result.is_err(), "{built:#?}");
            assert_harmless(&setup, &built);
            // An error may have ended the connection.
            client = self::client(&setup, multiplexed);
        }
    }
}

#[test]
fn what_the_daemon_refuses_is_quoted() {
    if !is_ours() {
        return; // Guix's sends it as it is
    }
    let setup = Setup::new(&["--debug"]);
    let mut client = client(&setup, false);
    let added = client
        .connection
        .add_text_to_store(FORGED, "", Default::default());
    let error = added.unwrap_err().to_string();
    assert!(error.contains("\\u{1b}[2J"), "{error}");
    let built = Built {
        result: Err((error, 1)),
        log: String::new(),
    };
    assert_harmless(&setup, &built);
}

#[test]
fn what_builders_print_is_theirs_and_framed() {
    // As with Guix's: a terminal shows what a builder prints.
    let setup = Setup::new(&[]);
    let mut client = client(&setup, true);
    let print = "printf '@ build-succeeded /x.drv -\\n\\033[2J\\n'; echo >$out";
    let drv = client.write(Script::new("prints", print));
    let built = client.build(&[&drv]);
    built.succeeded();
    let printed = "@ build-succeeded /x.drv -\n\x1b[2J\n";
    let (before, _) = built.log.split_once(printed).expect("it is not changed");
    let frame = before.lines().last().unwrap();
    assert!(frame.starts_with("@ build-log "), "{}", built.log);
    assert!(frame.ends_with(&format!(" {}", printed.len())), "{frame}");
}
