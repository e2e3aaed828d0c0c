//! `guix-client build`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::fixture::Fixture;
use crate::harness::Site;
use crate::harness::derivations::{Client, Script};

#[test]
fn outputs_are_printed_and_the_log_is_shown() {
    let fixture = Fixture::new();
    let script =
        Script::new("hello", "echo from the builder; echo >$out; echo >$doc").output("doc");
    let (_client, drv) = fixture.derivation_of(script);
    let run = fixture.run(&["build", drv.path.as_str()]);
    run.succeeds()
        .prints_lines(&[drv.output("doc").as_str(), drv.out().as_str()])
        .says(format!(
            "The following derivation will be built:\n  {}\n",
            drv.path
        ))
        .says(format!("building {}...\n", drv.path))
        .says("\nfrom the builder\n")
        .says(format!("successfully built {}\n", drv.path))
        .does_not_say("@ ");
    assert!(fixture.has(drv.out()));
    // A second time there is nothing to do.
    let again = fixture.run(&["build", drv.path.as_str()]);
    again
        .succeeds()
        .prints_lines(&[drv.output("doc").as_str(), drv.out().as_str()])
        .says_nothing();
}

#[test]
fn verbosity_says_how_much_is_shown() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let mut build = |name: &str, options: &[&str]| {
        let drv = client.write(Script::new(name, "echo from the builder; echo >$out"));
        let run = fixture.run(&[&["build", drv.path.as_str()], options].concat());
        run.succeeds().prints_lines(&[drv.out().as_str()]);
        run
    };
    build("quiet", &["--quiet"]).says_nothing();
    build("level-0", &["--verbosity=0"]).says_nothing();
    build("level-1", &["-v", "1"])
        .says("successfully built")
        .does_not_say("from the builder");
    build("level-3", &["-v3"]).says("from the builder");
}

#[test]
fn several_targets_are_built_and_printed_in_their_order() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let first = client.write(Script::new("first", "echo >$out"));
    let second = client.write(Script::new("second", "echo >$out"));
    let run = fixture.run(&["build", second.path.as_str(), first.path.as_str()]);
    run.succeeds()
        .prints_lines(&[second.out().as_str(), first.out().as_str()])
        .says("The following derivations will be built:\n");
}

#[test]
fn one_output_can_be_asked_for() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("one", "echo >$out");
    let target = format!("{}!out", drv.path);
    fixture
        .run(&["build", &target])
        .succeeds()
        .prints_lines(&[drv.out().as_str()]);
}

#[test]
fn without_targets_there_is_a_warning() {
    Fixture::new()
        .run(&["build"])
        .succeeds()
        .prints_nothing()
        .says("guix-client build: warning: no arguments specified, nothing to do\n");
}

#[test]
fn a_dry_run_tells_what_would_be_done_and_does_nothing() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let base = client.write(Script::new("base", "echo >$out"));
    let top = client.write(Script::new("top", "echo >$out").input(&base, "out"));
    let dry_run = fixture.run(&["build", "--dry-run", top.path.as_str()]);
    dry_run.succeeds().prints_nothing().says(format!(
        "The following derivations would be built:\n  {}\n  {}\n",
        base.path, top.path
    ));
    assert!(!fixture.has(base.out()) && !fixture.has(top.out()));

    fixture.run(&["build", base.path.as_str()]).succeeds();
    fixture
        .run(&["build", "-n", top.path.as_str()])
        .succeeds()
        .says(format!(
            "The following derivation would be built:\n  {}\n",
            top.path
        ));
    fixture.run(&["build", top.path.as_str()]).succeeds();
    fixture
        .run(&["build", "-n", top.path.as_str()])
        .succeeds()
        .prints_lines(&[top.out().as_str()])
        .says_nothing();
}

#[test]
fn a_dry_run_of_a_check_builds_nothing_again() {
    let fixture = Fixture::new();
    let counter = fixture.gate("count");
    let script = format!("echo >>{}; echo >$out", counter.display());
    let (_client, drv) = fixture.derivation("counted", &script);
    fixture.run(&["build", drv.path.as_str()]).succeeds();
    let run = fixture.run(&["build", "-n", "--check", drv.path.as_str()]);
    run.succeeds().prints_nothing().says("would be built");
    assert_eq!(fs::read(counter).unwrap(), b"\n");
}

#[test]
fn derivations_only_are_printed_and_not_built() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("unbuilt", "echo >$out");
    for option in ["-d", "--derivations"] {
        fixture
            .run(&["build", option, drv.path.as_str()])
            .succeeds()
            .prints_lines(&[drv.path.as_str()])
            .says_nothing();
    }
    assert!(!fixture.has(drv.out()));
}

#[test]
fn the_log_file_of_a_derivation_and_of_its_output_is_the_same() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("logged", "echo for the log; echo >$out");
    let log_of = |item: &str| fixture.run(&["build", "--log-file", item]);
    let no_log = format!("no build log for '{}'", drv.path);
    log_of(drv.path.as_str()).fails(&no_log).prints_nothing();
    fixture.run(&["build", drv.path.as_str()]).succeeds();
    let log = log_of(drv.path.as_str()).succeeds().line();
    assert_eq!(fs::read_to_string(&log).unwrap(), "for the log\n");
    log_of(drv.out().as_str()).succeeds().prints_lines(&[log]);
    let text = fixture.add_text("text", "", &[]);
    log_of(&text).fails(&format!("no build log for '{text}'"));
}

#[test]
fn a_failed_build_is_status_1_and_names_its_log() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("failing", "echo before the end; exit 3");
    let run = fixture.run(&["build", drv.path.as_str()]);
    run.fails(&format!("build of `{}' failed", drv.path))
        .prints_nothing()
        .says("before the end\n")
        .says(format!("build of {} failed\n", drv.path));
    let line = run
        .err
        .lines()
        .find_map(|line| line.strip_prefix("View build log at '")?.strip_suffix("'."));
    let log = line.expect("the log is named");
    assert_eq!(fs::read_to_string(log).unwrap(), "before the end\n");
    // The log was just shown.
    run.does_not_say("ends with");
}

#[test]
fn the_end_of_a_failed_log_and_the_reason_are_shown_at_any_verbosity() {
    let fixture = Fixture::new();
    let script = "for i in $(seq 1000); do echo line $i; done; printf 'the \\033[2Jend'; exit 3";
    let (_client, drv) = fixture.derivation("failing", script);
    let name = &drv.path;
    for options in [&["-q"][..], &["-v0"], &["-v1"]] {
        let run = fixture.run(&[&["build", name.as_str()], options].concat());
        run.fails("guix-client build: error: build of")
            .says(format!("The log of {name} ends with:\n  line 982\n"))
            .says("  line 1000\n  the \\u{1b}[2Jend\nView build log at '")
            .does_not_say("line 981\n");
        let is_shown = run.err.contains(&format!("building {name}"));
        assert_eq!(is_shown, options == ["-v1"], "{}", run.err);
    }
}

#[test]
fn lines_of_builds_that_run_at_once_are_named_and_builds_are_counted() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let touch = |name: &str| format!("echo >{}", fixture.gate(name).display());
    let first = format!(
        "{}; printf from; sleep 0.2; echo ' the first'; {}; echo >$out",
        fixture.await_gate("second-runs"),
        touch("first-spoke")
    );
    let second = format!(
        "echo from the second; {}; {}; exit 1",
        touch("second-runs"),
        fixture.await_gate("first-spoke")
    );
    let first = client.write(Script::new("first-1.0", &first));
    let second = client.write(Script::new("second", &second));
    let words = [
        "build",
        "-k",
        "-M2",
        first.path.as_str(),
        second.path.as_str(),
    ];
    fixture
        .run(&words)
        .fails("failed")
        .says("\nfirst-1.0> from the first\n")
        .says(format!("successfully built {} (1 of 2)\n", first.path))
        .says(format!(
            "The log of {} ends with:\n  from the second\n",
            second.path
        ))
        .says("\n1 of 2 derivations built, 1 failed\n");
}

#[test]
fn a_first_build_needs_nothing_in_the_store() {
    let fixture = Fixture::new();
    let mut outputs = Vec::new();
    for options in [&[][..], &["--quiet"], &["--no-offload", "--root=hello"]] {
        let run = fixture.run(&[&["build", "--hello"], options].concat());
        let output = run.succeeds().line();
        let text = fs::read_to_string(&output).unwrap();
        let greeting = format!(
            "Hello from guix-client {}, build ",
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.starts_with(&greeting), "{text}");
        let report = run.err.lines().last().unwrap();
        let time = report.strip_prefix("guix-client build: built in ").unwrap();
        let rest = time.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        assert_eq!(
            rest,
            format!(
                " s by the daemon itself, not offloaded. Its output is right: {}",
                text.trim_end()
            )
        );
        if options != ["--quiet"] {
            run.says("hello from the builder\n");
        }
        outputs.push(output);
    }
    assert_eq!(
        fs::read_link(fixture.file("hello")).unwrap().to_str(),
        Some(outputs[2].as_str())
    );
    outputs.sort();
    outputs.dedup();
    assert_eq!(outputs.len(), 3, "something was not built anew");
    fixture
        .run(&["build", "--hello", "--dry-run"])
        .succeeds()
        .says("would be built");
    for words in [&["--check"][..], &["--log-file"], &["x.drv"]] {
        let words = [&["build", "--hello"], words].concat();
        fixture.run(&words).fails("cannot be used with");
    }
}

#[test]
fn a_first_build_that_fails_says_why() {
    let fixture = Fixture::with_options(&["--no-substitutes", "--max-jobs=0"]);
    fixture
        .run(&["build", "--hello"])
        .fails("unable to start any build")
        .prints_nothing();
}

#[test]
fn keep_going_builds_the_rest() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let bad = client.write(Script::new("bad", "exit 1"));
    let await_failure = fixture.await_gate("failed");
    let good = client.write(Script::new("good", &format!("{await_failure}; echo >$out")));
    fixture.open("failed");
    let words = ["build", "-k", bad.path.as_str(), good.path.as_str()];
    fixture.run(&words).fails("failed").prints_nothing();
    assert!(fixture.has(good.out()));
}

#[test]
fn keep_failed_leaves_the_build_directory() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("kept", "echo evidence >found; exit 1");
    let build = |options: &[&str]| {
        let run = fixture.run(&[&["build", drv.path.as_str()], options].concat());
        run.fails("failed");
        run.err.lines().find_map(|line| {
            let text = line.strip_prefix("note: keeping build directory ")?;
            Some(text.trim_matches(['`', '\'', '‘', '’']).to_owned())
        })
    };
    assert_eq!(build(&[]), None);
    for option in ["-K", "--keep-failed"] {
        let directory = PathBuf::from(build(&[option]).expect("the directory is named"));
        // As root, Guix's daemon leaves it where the builder had it.
        let places = ["found", "top/found"].map(|name| directory.join(name));
        let found = places.iter().find_map(|place| fs::read(place).ok());
        assert_eq!(found.as_deref(), Some(&b"evidence\n"[..]));
    }
}

#[test]
fn builds_that_take_or_say_nothing_for_too_long_are_ended() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let long = client.write(Script::new("long", "while true; do echo; sleep 0.1; done"));
    fixture
        .run(&["build", "--timeout=2", long.path.as_str()])
        .fails("timed out after 2 seconds");
    let silent = client.write(Script::new("silent", "sleep 1000"));
    fixture
        .run(&["build", "--max-silent-time=1", silent.path.as_str()])
        .fails("timed out after 1 seconds of silence");
}

#[test]
fn cores_and_rounds_reach_the_builder() {
    let fixture = Fixture::new();
    let counter = fixture.gate("count");
    let script = format!(
        "echo $NIX_BUILD_CORES cores; echo >>{}; echo >$out",
        counter.display()
    );
    let (_client, drv) = fixture.derivation("rounds", &script);
    let run = fixture.run(&["build", "-c", "3", "--rounds=2", drv.path.as_str()]);
    run.succeeds().says("3 cores\n");
    assert_eq!(fs::read(counter).unwrap(), b"\n\n");
}

#[test]
fn a_check_compares_with_what_is_there() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let same = client.write(Script::new("same", "echo always >$out"));
    let check = |drv: &str| fixture.run(&["build", "--check", drv]);
    check(same.path.as_str()).fails("--check").prints_nothing();
    fixture.run(&["build", same.path.as_str()]).succeeds();
    check(same.path.as_str())
        .succeeds()
        .prints_lines(&[same.out().as_str()]);

    let counter = fixture.gate("count").display().to_string();
    let script = format!("echo >>{counter}; cat {counter} >$out");
    let other = client.write(Script::new("other", &script));
    fixture.run(&["build", other.path.as_str()]).succeeds();
    check(other.path.as_str())
        .fails("may not be deterministic")
        .prints_nothing();
}

#[test]
fn a_repair_builds_what_is_damaged() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("repaired", "echo whole >$out");
    fixture.run(&["build", drv.path.as_str()]).succeeds();
    fs::set_permissions(drv.out().as_path(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(drv.out().as_path(), "damaged").unwrap();
    fixture
        .run(&["build", "--repair", drv.path.as_str()])
        .succeeds();
    assert_eq!(fs::read(drv.out().as_path()).unwrap(), b"whole\n");
    // They can't be combined.
    let words = ["build", "--repair", "--check", drv.path.as_str()];
    fixture.run(&words).fails("cannot be used with");
}

#[test]
fn an_item_is_there_or_named_as_missing() {
    let fixture = Fixture::new();
    let item = fixture.add_text("text", "", &[]);
    for options in [&["build"][..], &["build", "-n"], &["build", "-q"]] {
        let run = fixture.run(&[options, &[&item]].concat());
        run.succeeds().prints_nothing().says_nothing();
        let missing = fixture.no_item("nowhere");
        let run = fixture.run(&[options, &[&item, &missing]].concat());
        run.fails(&format!(
            "guix-client build: error: `{missing}' is not in the store, and there is no \
             substitute for it; `guix-client weather {missing}' says what the servers have\n"
        ));
    }
}

#[test]
fn what_is_no_item_or_no_derivation_is_an_error() {
    let fixture = Fixture::new();
    fixture
        .run(&["build", "/etc/passwd"])
        .fails("/etc/passwd: not an item of ");
    let missing = fixture.no_item("missing.drv");
    fixture.run(&["build", &missing]).fails(&missing);
    fixture.run(&["build", "-n", &missing]).fails(&missing);
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let fixture = Fixture::new();
    let mut command = fixture.command(&["build", "-q"]);
    command.env("GUIX_DAEMON_SOCKET", "/nowhere/socket");
    fixture.finish(command).fails(
        "guix-client build: error: failed to connect to `/nowhere/socket': No such file or \
         directory\n",
    );
    let mut command = fixture.command(&["gc", "--list-dead"]);
    command.env("GUIX_DAEMON_SOCKET", "ssh://somewhere");
    fixture
        .finish(command)
        .fails("`ssh://somewhere': unsupported kind of daemon address");
}

#[test]
fn wrong_options_are_status_1_and_not_claps_2() {
    let fixture = Fixture::new();
    fixture.run(&["build", "--nonsense"]).fails("--nonsense");
    fixture.run(&["build", "--cores=many"]).fails("many");
    fixture.run(&["nonsense"]).fails("nonsense");
    fixture.run::<&str>(&[]).fails("Usage");
    fixture.run(&["--version"]).succeeds().says_nothing();
    fixture.run(&["build", "--help"]).succeeds().says_nothing();
}

/// A daemon whose helper has a substitute for a text with this name.
fn with_substitute(name: &str) -> (Fixture, String) {
    let site = Site::new();
    let helper = site.path("guix");
    let script = include_str!("../daemon/guix.sh");
    let script = script.replace("@SITE@", site.path("").to_str().unwrap());
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(site.path("substitutes")).unwrap();
    let fixture = Fixture::at(site.env("GUIX", helper), &[]);
    let item = fixture.no_item(name);
    let file = item.replace("/store/", "/substitutes/");
    fs::write(&file, "the substitute").unwrap();
    let size = formats::wire::padding(14) + 14 + 112;
    let hash = fixture
        .run(&["hash", "-r", "--format=hex", &file])
        .succeeds()
        .line();
    fs::write(format!("{file}.is"), format!("sha256:{hash} {size}\n")).unwrap();
    (fixture, item)
}

#[test]
fn a_missing_item_is_substituted() {
    let (fixture, item) = with_substitute("text");
    let would = format!("The following file would be downloaded:\n  {item}\n");
    fixture.run(&["build", "-n", &item]).succeeds().says(would);
    assert!(!fixture.has(&item));
    fixture
        .run(&["build", "--no-substitutes", &item])
        .fails(&item);
    let will = format!("The following file will be downloaded:\n  {item}\n");
    fixture.run(&["build", &item]).succeeds().says(will);
    assert_eq!(fs::read(&item).unwrap(), b"the substitute");
}
