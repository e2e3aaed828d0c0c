//! Several clients, and clients that disconnect.

use std::time::Duration;

use super::harness::derivations::{Building, processes_with};
use super::*;

/// Waits until a client shares a running build: ours sends it the log, with Guix's it waits for the
/// end.
fn wait_to_share(building: &Building) {
    building.wait_for(if is_ours() {
        "begun"
    } else {
        "waiting for locks or build slots..."
    });
}

#[test]
fn a_build_that_two_clients_want_is_done_once() {
    let setup = Setup::new(&[]);
    let mut first = setup.client();
    let script = format!(
        "echo x >>{}/runs; echo begun; {}; echo done; echo result >$out",
        setup.gate().display(),
        setup.await_gate("go")
    );
    let drv = first.write(Script::new("shared", &script));
    let second = setup.client();
    let first = first.start(&[&drv]);
    first.wait_for("begun");
    let second = second.start(&[&drv]);
    wait_to_share(&second);
    setup.open("go");
    let mut logs = Vec::new();
    for building in [first, second] {
        let (mut client, built) = building.finish();
        built.succeeded();
        assert!(client.is_valid(drv.out()));
        logs.push(built.log);
    }
    assert_eq!(setup.read("runs"), "x\n");
    assert!(logs[0].contains("done\n"));
    assert!(!is_ours() || logs[1].contains("done\n"));
}

#[test]
fn a_client_is_told_that_another_process_builds_what_it_wants() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("locked", "echo >$out"));
    let lock = system::lock::LockFile::open(format!("{}.lock", drv.out())).unwrap();
    assert!(lock.try_lock(system::lock::Mode::Exclusive).unwrap());
    let building = client.start(&[&drv]);
    building.wait_for("waiting for locks or build slots...\n");
    if is_ours() {
        building.wait_for(&format!(
            "`{}' is being built by another process\n",
            drv.path
        ));
    }
    drop(lock);
    building.finish().1.succeeded();
}

#[test]
fn a_failure_that_two_clients_share_is_told_to_both() {
    let setup = Setup::new(&[]);
    let mut first = setup.client();
    let script = format!("echo begun; {}; exit 9", setup.await_gate("go"));
    let drv = first.write(Script::new("shared", &script));
    let second = setup.client();
    let first = first.start(&[&drv]);
    first.wait_for("begun");
    let second = second.start(&[&drv]);
    wait_to_share(&second);
    setup.open("go");
    for building in [first, second] {
        let (_, built) = building.finish();
        built.failed(100, &format!("build of `{}' failed", drv.path));
        built.said("failed with exit code 9");
    }
}

#[test]
fn different_clients_build_at_the_same_time() {
    let setup = Setup::new(&["--max-jobs=1"]);
    let (mut one, mut two) = (setup.client(), setup.client());
    let script = |own: &str, other: &str| {
        let gate = setup.gate();
        format!(
            "touch {}/{own}; {}; echo >$out",
            gate.display(),
            setup.await_gate(other)
        )
    };
    let first = one.write(Script::new("one", &script("one", "two")));
    let second = two.write(Script::new("two", &script("two", "one")));
    let (one, two) = (one.start(&[&first]), two.start(&[&second]));
    one.finish().1.succeeded();
    two.finish().1.succeeded();
}

#[test]
fn a_client_that_goes_away_ends_its_build() {
    for options in [&[][..], &["--disable-chroot"]] {
        let setup = Setup::new(options);
        let mut client = setup.client();
        let marker = format!("66666.{}", rand::random::<u32>());
        let script = format!(
            "(setsid sleep {marker} >/dev/null 2>&1 &); echo begun; sleep {marker}; echo >$out"
        );
        let drv = client.write(Script::new("abandoned", &script));
        let building = client.start(&[&drv]);
        building.wait_for("begun");
        assert!(!processes_with(&marker).is_empty());
        building.hang_up();
        assert!(
            eventually(|| processes_with(&marker).is_empty()),
            "{:?}",
            processes_with(&marker)
        );

        // Its locks are released: another client can build it.
        let mut client = setup.client();
        client.set(|options| options.set("build-timeout", "1"));
        let built = client.build(&[&drv]);
        built.failed(101, "failed");
        if is_ours() {
            assert!(eventually(|| names(&setup.site.path("tmp")).is_empty()));
        }
        let left = || {
            setup
                .store_names()
                .iter()
                .any(|name| name.ends_with(".chroot"))
        };
        assert!(!left());
    }
}

#[test]
fn a_build_goes_on_as_long_as_somebody_waits_for_it() {
    let setup = Setup::new(&[]);
    let mut first = setup.client();
    let script = format!(
        "echo x >>{}/runs; echo begun; {}; echo >$out",
        setup.gate().display(),
        setup.await_gate("go")
    );
    let drv = first.write(Script::new("shared", &script));
    let second = setup.client();
    let first = first.start(&[&drv]);
    first.wait_for("begun");
    let second = second.start(&[&drv]);
    wait_to_share(&second);
    first.hang_up();
    setup.open("go");
    let (mut client, built) = second.finish();
    built.succeeded();
    assert!(client.is_valid(drv.out()));
    if is_ours() {
        assert_eq!(setup.read("runs"), "x\n");
    }
}

#[test]
fn a_daemon_that_is_stopped_ends_its_builds() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let marker = format!("55555.{}", rand::random::<u32>());
    let drv = client.write(Script::new("ended", &format!("echo begun; sleep {marker}")));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    let Setup {
        daemon,
        site,
        users,
    } = setup;
    if is_ours() {
        daemon.stop();
    } else {
        // Guix's daemon lets its sessions end when their clients disconnect.
        building.hang_up();
        daemon.stop();
    }
    assert!(
        eventually(|| processes_with(&marker).is_empty()),
        "{:?}",
        processes_with(&marker)
    );
    drop((site, users));
}

#[test]
fn what_a_shared_build_needs_is_kept_when_the_client_that_began_it_goes() {
    if !is_ours() {
        return; // Guix's doesn't share builds
    }
    let setup = Setup::new(&[]);
    let mut first = setup.client();
    let needed = first.write(Script::new("needed", "echo needed >$out"));
    let script = format!(
        "echo begun; {}; cat $needed >$out; echo $needed >>$out",
        setup.await_gate("go")
    );
    let script = Script::new("needy", &script)
        .input(&needed, "out")
        .variable("needed", needed.out().as_str());
    let needy = first.write(script);
    let first = first.start(&[&needy]);
    first.wait_for("begun");
    let second = setup.client().start(&[&needy]);
    wait_to_share(&second);
    first.hang_up();
    for _ in 0..5 {
        let mut third = setup.client().connection;
        third
            .collect_garbage(GcAction::DeleteDead, [].into(), u64::MAX, &mut |_| ())
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    setup.open("go");
    let (mut client, built) = second.finish();
    built.succeeded();
    let info = client.info(needy.out());
    assert!(info.references.contains(needed.out()));
    assert!(client.is_valid(needed.out()));
    let contents = fs::read_to_string(needy.out().as_path()).unwrap();
    assert!(contents.starts_with("needed\n"), "{contents}");
}

#[test]
fn locks_and_chroots_of_builds_are_not_garbage_even_if_named() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = format!("echo half >$out; echo begun; {}", setup.await_gate("go"));
    let drv = client.write(Script::new("wanted", &script));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    for name in [
        format!("{}.lock", drv.out()),
        format!("{}.chroot", drv.path),
    ] {
        let path = setup.store_path(&name);
        let mut other = setup.client().connection;
        let deleted = other.collect_garbage(
            GcAction::DeleteSpecific,
            [path].into(),
            u64::MAX,
            &mut |_| (),
        );
        let error = deleted.expect_err(&name).to_string();
        assert!(error.contains("alive"), "{error}");
        assert!(Path::new(&name).exists());
    }
    setup.open("go");
    building.finish().1.succeeded();
}

#[test]
fn the_time_limit_of_one_client_is_not_that_of_another() {
    let setup = Setup::new(&[]);
    let mut hasty = setup.client();
    hasty.set(|options| options.set("build-timeout", "1"));
    let drv = hasty.write(Script::new("slow", "echo begun; sleep 2; echo >$out"));
    let hasty = hasty.start(&[&drv]);
    hasty.wait_for("begun");
    let patient = setup.client().start(&[&drv]);
    wait_to_share(&patient);
    let (_, built) = hasty.finish();
    assert!(built.result.is_err(), "{built:?}");
    patient.finish().1.succeeded();
}

#[test]
fn a_daemon_that_is_killed_takes_its_builds_along_and_the_next_one_starts_afresh() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let marker = format!("44444.{}", rand::random::<u32>());
    let script = format!(
        "if test -e {0}/go; then echo result >$out; exit; fi
         echo half >$out; echo begun; sleep {marker}",
        setup.gate().display()
    );
    let drv = client.write(Script::new("ended", &script));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    setup.open("go");
    let Setup {
        daemon,
        site,
        users,
    } = setup;
    daemon.kill();
    if is_ours() {
        assert!(eventually(|| processes_with(&marker).is_empty()));
    }
    building.hang_up();
    assert!(
        eventually(|| processes_with(&marker).is_empty()),
        "{:?}",
        processes_with(&marker)
    );
    let group = users
        .as_ref()
        .map(|users| format!("--build-users-group={}", users.group));
    let gate = format!("--chroot-directory={}", site.path("gate").display());
    let mut options = vec!["--no-substitutes", &gate];
    options.extend(group.as_deref());
    let daemon = site.start(&options);
    let mut client = Client::connect(&daemon);
    client.build(&[&drv]).succeeded();
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "result\n");
    let left = names(&site.store());
    assert!(
        !left.iter().any(|name| name.ends_with(".chroot")),
        "{left:?}"
    );
}

#[test]
fn a_slow_reader_holds_up_nobody_else() {
    let setup = Setup::new(&["--max-jobs=1", "--no-offload"]);
    let mut slow = super::harness::RawClient::new(&setup.daemon);
    let mut client = setup.client();
    let chatty = client.write(Script::new("chatty", "seq 400000; echo >$out"));
    let quick = client.write(Script::new("quick", "echo >$out"));
    // BuildPaths, without reading the replies.
    let request = super::harness::Bytes::new()
        .word(9)
        .strings(&[chatty.path.as_str()])
        .word(0);
    slow.send(request);
    client.build(&[&quick]).succeeded();
    let (end, log) = slow.end_with_log();
    assert_eq!(end, super::harness::End::Last);
    assert!(log.ends_with(b"400000\n") || String::from_utf8_lossy(&log).contains("\n400000\n"));
}
