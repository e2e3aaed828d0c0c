//! Hooks that have accepted a build and don't complete it.

use formats::Hash;

use super::super::harness::derivations::processes_with;
use super::super::harness::eventually;
use super::super::kept_log;
use super::*;

/// A derivation that records local builds.
fn noted(setup: &Setup, name: &str) -> Script {
    let gate = setup.gate();
    Script::new(
        name,
        &format!("echo x >>{}/local; echo locally >$out", gate.display()),
    )
}

#[test]
fn exit_100_is_a_failed_build() {
    let setup = hooked(
        "ask; accept; echo compiler error >&4; exit 100",
        &["--cache-failures"],
    );
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "bad"));
    let built = client.build(&[&drv]);
    built.failed(100, &format!("build of `{}' failed", drv.path));
    built.said("compiler error\n");
    let text = format!(
        "@ build-failed {} - 1 builder for `{0}' failed with exit code 100",
        drv.path
    );
    built.said(&text);
    assert_eq!(setup.read("local"), "");
    assert_eq!(setup.read("asked").lines().count(), 1);
    assert_eq!(kept_log(&setup.site, &drv.path), "compiler error\n");
    // It is cached like a failure of a local build.
    client.build(&[&drv]).failed(100, "failed");
    assert_eq!(setup.read("asked").lines().count(), 1);
}

#[test]
fn exit_100_of_a_fixed_output_may_be_the_networks_fault() {
    let setup = hooked("ask; accept; exit 100", &["--cache-failures"]);
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "bad").fixed(false, Hash::sha256("locally\n")));
    client.build(&[&drv]).failed(1, "failed");
    assert!(client.connection.query_failed_paths().unwrap().is_empty());
    assert_eq!(setup.read("local"), "");
}

#[test]
fn exit_101_is_a_timeout() {
    let setup = hooked("ask; accept; exit 101", &[]);
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "slow"));
    let built = client.build(&[&drv]);
    built.failed(101, &format!("build of `{}' failed", drv.path));
    built.said(&format!("@ build-failed {} - timeout\n", drv.path));
    assert_eq!(setup.read("local"), "");
}

#[test]
fn any_other_end_is_the_hooks_failure_not_the_builds() {
    for (end, status, how) in [
        ("exit 1", "256", "failed with exit code 1"),
        ("kill -9 $$", "9", "failed due to signal 9"),
        (
            "for output in $outputs; do echo half >$output; done; exit 2",
            "512",
            "failed with exit code 2",
        ),
        ("exit 0", "0", "failed to produce output path"),
    ] {
        let setup = hooked(&format!("ask; accept; {end}"), &[]);
        let mut client = client(&setup);
        let drv = client.write(noted(&setup, "unlucky"));
        let built = client.build(&[&drv]);
        built.said(&format!(
            "@ hook-failed {} - {status} builder for `{0}' {how}",
            drv.path
        ));
        if is_ours() {
            // After some attempts it is built locally.
            built.succeeded();
            assert_eq!(maker(drv.out()), "locally");
            assert_eq!(setup.read("asked").lines().count(), 3, "{end}");
            assert_eq!(setup.read("local"), "x\n");
        } else {
            built.failed(1, &format!("build of `{}' failed", drv.path));
        }
    }
}

#[test]
fn another_hook_may_do_better() {
    let script = "ask; test $(wc -l <$dir/asked) = 1 && { accept; exit 1; }; accept; make";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "example"));
    let built = client.build(&[&drv]);
    if !is_ours() {
        built.failed(1, "failed");
        return;
    }
    built.succeeded();
    assert_eq!(maker(drv.out()), "by the hook");
    assert_eq!(setup.read("local"), "");
}

#[test]
fn a_hook_that_dies_without_reading_what_it_asked_for_breaks_nothing() {
    if !is_ours() {
        return; // it dies of the broken pipe
    }
    let setup = hooked("ask; echo '# accept'; exit 1", &[]);
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "example"));
    client.build(&[&drv]).succeeded();
    assert_eq!(maker(drv.out()), "locally");
}

#[test]
fn limits_of_time_hold_for_hooks_too() {
    for (limit, text) in [
        ("build-timeout", "timed out after 1 seconds\n"),
        (
            "build-max-silent-time",
            "timed out after 1 seconds of silence\n",
        ),
    ] {
        let marker = format!("20202.{}", rand::random::<u32>());
        let setup = hooked(
            &format!("ask; accept; sleep {marker} & sleep {marker}"),
            &[],
        );
        let mut client = client(&setup);
        client.set(|options| options.set(limit, "1"));
        let drv = client.write(noted(&setup, "slow"));
        let built = client.build(&[&drv]);
        built.failed(101, &format!("build of `{}' failed", drv.path));
        built.said(&format!("building of `{}' {text}", drv.path));
        assert!(eventually(|| processes_with(&marker).is_empty()));
        assert_eq!(setup.read("local"), "");
    }
}

#[test]
fn a_client_that_goes_away_ends_the_hook_and_what_it_started() {
    let marker = format!("30303.{}", rand::random::<u32>());
    let setup = hooked(
        &format!("ask; accept; echo begun; sleep {marker} & sleep {marker}"),
        &[],
    );
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "abandoned"));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    building.hang_up();
    assert!(
        eventually(|| processes_with(&marker).is_empty()),
        "{:?}",
        processes_with(&marker)
    );
    // The locks are released.
    let mut client = setup.client();
    client.build(&[&drv]).succeeded();
    assert_eq!(maker(drv.out()), "locally");
}

#[test]
fn what_a_hook_leaves_running_delays_nobody_for_long() {
    if !is_ours() {
        return; // it waits for the end of its output
    }
    // In another process group.
    let marker = format!("{}.5", 20 + rand::random::<u32>() % 1000);
    let setup = hooked(
        &format!("ask; accept; make; setsid sleep {marker} & exit 0"),
        &[],
    );
    let mut client = client(&setup);
    let drv = client.write(noted(&setup, "example"));
    let started = std::time::Instant::now();
    client.build(&[&drv]).succeeded();
    assert!(started.elapsed() < std::time::Duration::from_secs(15));
    let left = format!("sleep {marker}");
    for pid in processes_with(&left) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
}

#[test]
fn a_daemon_that_is_stopped_or_killed_takes_its_hooks_along() {
    for kill in [false, true] {
        let marker = format!("40404.{}", rand::random::<u32>());
        let setup = hooked(
            &format!("ask; accept; echo begun; exec sleep {marker}"),
            &[],
        );
        let mut client = client(&setup);
        let drv = client.write(noted(&setup, "ended"));
        let building = client.start(&[&drv]);
        building.wait_for("begun");
        let Setup {
            daemon,
            site,
            users,
        } = setup;
        if !is_ours() {
            building.hang_up(); // its sessions live on
            assert!(eventually(|| processes_with(&marker).is_empty()));
            continue;
        }
        if kill {
            daemon.kill();
        } else {
            daemon.stop();
        }
        assert!(eventually(|| processes_with(&marker).is_empty()));
        drop((building, site, users));
    }
}
