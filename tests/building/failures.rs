//! Failing builds, and what the client is told.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_failing_build_has_status_100_and_its_log_is_kept() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("bad", "echo I shall fail; exit 3"));
    let built = client.build(&[&drv]);
    built.failed(100, &format!("build of `{}' failed", drv.path));
    built.said("I shall fail\n");
    built.said(&format!(
        "builder for `{}' failed with exit code 3\n",
        drv.path
    ));
    built.said(&format!(
        "@ build-failed {} - 1 builder for `{0}' failed with exit code 3",
        drv.path
    ));
    assert_eq!(kept_log(&setup.site, &drv.path), "I shall fail\n");
    assert!(!client.is_valid(drv.out()));
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

#[test]
fn a_builder_that_is_killed_is_said_to_have_been() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    // The first process of a PID namespace ignores its own signals, so another one kills it.
    let drv = client.write(Script::new(
        "killed",
        "kill -SEGV $$; sh -c 'kill -9 1'; exit 7",
    ));
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
    built.said("failed with exit code 7");
}

#[test]
fn a_builder_that_makes_no_output_fails() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("lazy", "echo >$out").output("doc"));
    let built = client.build(&[&drv]);
    built.failed(1, &format!("build of `{}' failed", drv.path));
    let missing = drv.output("doc");
    built.said(&format!(
        "builder for `{}' failed to produce output path `{missing}'",
        drv.path
    ));
    assert!(!client.is_valid(drv.out()));
}

#[test]
fn a_builder_that_cannot_be_executed_fails_the_build_only() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let missing = format!("{}/bin/nothing", client.busybox());
    let script = client.text("not-a-program", "just a text\n", &[]);
    let absent = client.write(Script::new("absent", "x").builder(&missing));
    let text = client.write(
        Script::new("text", "x")
            .source(&script)
            .builder(script.as_str()),
    );
    for drv in [&absent, &text] {
        let built = client.build(&[drv]);
        built.failed(100, &format!("build of `{}' failed", drv.path));
        built.said("failed with exit code 1");
    }
}

#[test]
fn a_builder_outside_the_store_is_refused() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let gate = setup.gate().join("program");
    fs::copy("/bin/busybox", &gate).unwrap();
    for program in [gate.to_str().unwrap(), "/proc/self/exe"] {
        let drv = client.write(Script::new("outside", "sh").builder(program));
        let built = client.build(&[&drv]);
        assert!(built.result.is_err(), "{built:?}");
        assert!(!client.is_valid(drv.out()));
    }
}

#[test]
fn a_builder_outside_the_store_holds_up_no_other_build() {
    if !is_ours() {
        return; // Guix's of June 2025 ends the whole request
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.keep_going = true);
    let bad = client.write(Script::new("outside", "").builder("/proc/self/exe"));
    let good = ["a", "b", "c"].map(|name| client.write(Script::new(name, "echo >$out")));
    let [a, b, c] = &good;
    let built = client.build(&[a, &bad, b, c]);
    built.failed(100, &format!("build of `{}' failed", bad.path));
    built.said("derivation builder `/proc/self/exe' is outside the store");
    for drv in &good {
        assert!(client.is_valid(drv.out()));
    }
}

#[test]
fn what_needs_a_failed_build_fails_with_its_status() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let bad = client.write(Script::new("bad", "exit 1"));
    let top = client.write(Script::new("top", "echo >$out").input(&bad, "out"));
    let built = client.build(&[&top]);
    built.failed(100, &format!("build of `{}' failed", top.path));
    let text = format!(
        "cannot build derivation `{}': 1 dependencies couldn't be built",
        top.path
    );
    built.said(&text);
}

#[test]
fn after_a_failure_nothing_is_begun_unless_told_to_keep_going() {
    for keep_going in [false, true] {
        let setup = Setup::new(&[]);
        let mut client = setup.client();
        client.set(|options| options.keep_going = keep_going);
        // Goals are ordered by name.
        let bad = client.write(Script::new("a-bad", "exit 1"));
        let good = client.write(Script::new("b-good", "echo >$out"));
        let (first, second) = if bad.path < good.path {
            (&bad, &good)
        } else {
            (&good, &bad)
        };
        let built = client.build(&[first, second]);
        built.failed(100, &format!("build of `{}' failed", bad.path));
        if keep_going {
            assert!(client.is_valid(good.out()));
        }
    }
}

#[test]
fn several_failures_are_all_named() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.keep_going = true);
    let one = client.write(Script::new("one", "exit 1"));
    let two = client.write(Script::new("two", "exit 1"));
    let mut paths = [&one.path, &two.path];
    paths.sort();
    let built = client.build(&[&one, &two]);
    built.failed(
        100,
        &format!("build of `{}', `{}' failed", paths[0], paths[1]),
    );
}

#[test]
fn a_failure_is_remembered_if_failures_are_cached() {
    let setup = Setup::new(&["--cache-failures"]);
    let mut client = setup.client();
    let script = format!("echo again >>{}/tries; exit 1", setup.gate().display());
    let drv = client.write(Script::new("bad", &script));
    client.build(&[&drv]).failed(100, "failed");
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
    built.said(&format!(
        "builder for `{}' failed previously (cached)",
        drv.out()
    ));
    assert_eq!(setup.read("tries"), "again\n");
    assert!(
        client
            .connection
            .query_failed_paths()
            .unwrap()
            .contains(drv.out())
    );

    let forgotten = [drv.out().as_str().into()].into();
    client.connection.clear_failed_paths(forgotten).unwrap();
    client.build(&[&drv]).failed(100, "failed");
    assert_eq!(setup.read("tries"), "again\nagain\n");
}

#[test]
fn a_build_for_another_kind_of_machine_is_refused() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.print_build_trace = Some(true));
    let drv = client.write(Script::new("foreign", "echo >$out").system("x86_64-gnu"));
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
    let own = env!("GUIX_SYSTEM");
    built.said(&format!(
        "a `x86_64-gnu' is required to build `{}', but I am a `{own}'",
        drv.path
    ));
    built.said(&format!("@ unsupported-platform {} x86_64-gnu", drv.path));
}

#[test]
fn the_outputs_of_a_failed_build_can_be_looked_at_but_are_harmless() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = "cp $(readlink -f $PATH/busybox) $out; chmod 6777 $out; exit 1";
    let drv = client.write(Script::new("setuid", script));
    client.build(&[&drv]).failed(100, "failed");
    assert!(!client.is_valid(drv.out()));
    let mode = fs::symlink_metadata(drv.out().as_path()).unwrap().mode();
    assert_eq!(mode & 0o6002, 0, "{mode:o}");
    // It doesn't affect later builds.
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
}

#[test]
fn the_directory_of_a_failed_build_is_kept_for_the_client_who_wants_it() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.keep_failed = true);
    let script = "echo here >note; mkdir sub; chmod 4755 note; exit 1";
    let drv = client.write(Script::new("kept", script));
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
    let kept = setup
        .site
        .path("tmp")
        .join(format!("guix-build-{}-0", drv.path.name()));
    built.said(&format!(
        "note: keeping build directory `{}'",
        kept.display()
    ));
    // We are root: the tree isn't changed.
    assert_eq!(fs::read_to_string(kept.join("top/note")).unwrap(), "here\n");
    let uid = fs::metadata(kept.join("top/note")).unwrap().uid();
    assert_eq!(Some(uid), setup.users.as_ref().map(|users| users.uids[0]));
    // Nobody else can access what may be a setuid program of the build user.
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o700);
    let top = fs::metadata(kept.join("top")).unwrap();
    assert_eq!(top.mode() & 0o7777, 0o755);

    // The next one gets another directory, and a successful build leaves none.
    let gone = client.write(Script::new("kept", "echo >$out"));
    client.build(&[&gone]).succeeded();
    assert_eq!(
        names(&setup.site.path("tmp")),
        [kept.file_name().unwrap().to_str().unwrap()]
    );
}

#[test]
fn the_directory_of_a_failed_build_belongs_to_the_client_who_asked_for_it() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = "echo here >note; mkdir sub; echo deep >sub/note; chmod 4777 note
                  mkfifo -m 4666 fifo; exit 1";
    let drv = client.write(Script::new("kept", script));
    drop(client);
    // Another user, who need not have a name.
    let program = build_as_nobody(&setup, &drv.path);
    assert!(program.contains("keeping build directory"), "{program}");
    let kept = setup
        .site
        .path("tmp")
        .join(format!("guix-build-{}-0", drv.path.name()));
    for file in ["", "note", "fifo", "sub", "sub/note"] {
        let metadata = fs::symlink_metadata(kept.join(file)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (NOBODY, NOBODY), "{file}");
        assert_eq!(metadata.mode() & 0o6002, 0, "{file}: {:o}", metadata.mode());
    }
    assert_eq!(fs::read_to_string(kept.join("sub/note")).unwrap(), "deep\n");
}

/// An otherwise unused user id.
pub const NOBODY: u32 = 54321;

/// Builds with `--keep-failed`, in a client that another user runs; returns its output.
pub fn build_as_nobody(setup: &Setup, drv: &formats::StorePath) -> String {
    use std::os::unix::process::CommandExt;
    let client = setup.site.for_everybody(env!("CARGO_BIN_EXE_guix-client"));
    let mut command = setup.site.command(client);
    command
        .args(["build", "--keep-failed", "--no-offload"])
        .arg(drv.as_path());
    command.uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_failed_build_that_leaves_a_strange_output_is_an_ordinary_failure() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("fifo", "mkdir $out; mkfifo $out/x; exit 3"));
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
    built.said("failed with exit code 3");
    let left = names(&std::env::temp_dir());
    let is_its = |name: &&String| name.starts_with("guix-build-fifo.drv");
    assert_eq!(left.iter().find(is_its), None);
}
