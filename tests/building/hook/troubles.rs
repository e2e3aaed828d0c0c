//! Hooks that misbehave. Guix's daemon fails the request, or waits forever; ours continues without
//! them.

use std::time::{Duration, Instant};

use super::super::harness::derivations::processes_with;
use super::super::harness::eventually;
use super::*;

#[test]
fn a_bad_answer_counts_as_a_no() {
    for (answer, shown) in [("maybe", "maybe"), ("accept ", "accept "), ("", "")] {
        let setup = hooked(&format!("while ask; do echo '# {answer}'; done"), &[]);
        let mut client = client(&setup);
        let drv = client.write(local("example"));
        let built = client.build(&[&drv]);
        if !is_ours() {
            built.failed(1, &format!("bad hook reply `{shown}'"));
            continue;
        }
        built.succeeded();
        built.said(&format!("gave a bad reply `{shown}'; going on without it"));
        assert_eq!(maker(drv.out()), "locally");
    }
}

#[test]
fn a_hook_that_dies_before_its_answer_is_asked_thrice() {
    let setup = hooked("ask; echo some last words; exit 3", &[]);
    let mut client = client(&setup);
    // One by one.
    let mut last = client.write(local("d-0"));
    for number in 1..5 {
        last = client.write(local(&format!("d-{number}")).input(&last, "out"));
    }
    let built = client.build(&[&last]);
    if !is_ours() {
        built.failed(1, "unexpected EOF reading a line");
        return;
    }
    built.succeeded();
    built.said("some last words\n");
    let name = setup.site.path("hook");
    let name = name.display();
    built.said(&format!(
        "build hook `{name}' did not reply: it failed with exit code 3"
    ));
    built.said(&format!(
        "build hook `{name}' failed 3 times; not asking it again"
    ));
    assert_eq!(setup.read("started").lines().count(), 3);
    // It is tried again for another request.
    let drv = client.write(local("later"));
    client.build(&[&drv]).succeeded();
    assert_eq!(setup.read("started").lines().count(), 4);
}

#[test]
fn a_hook_that_dies_at_once_is_no_broken_pipe_of_the_daemon() {
    if !is_ours() {
        return; // it dies of it
    }
    for script in [
        "exit 0",
        "exec 0<&-; sleep 0.1",
        "kill -9 $$",
        "exec >/dev/null 2>&1; ask",
    ] {
        let setup = hooked(script, &[]);
        let mut client = client(&setup);
        let drv = client.write(local("example"));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("going on without it");
        assert_eq!(maker(drv.out()), "locally");
    }
}

#[test]
fn a_hook_that_says_endlessly_much_or_nonsense_is_borne() {
    let script = "ask; seq -s, 40000; printf '\\377\\000\\n'; echo '# decline'; ask";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("39999,40000\n");
    assert_eq!(maker(drv.out()), "locally");
}

#[test]
fn no_answer_in_time_counts_as_a_no() {
    if !is_ours() {
        return; // it waits for ever
    }
    let marker = format!("11111.{}", rand::random::<u32>());
    let site = site("hook", &format!("ask; sleep {marker} & sleep {marker}"));
    let setup = Setup::at(site.env("GUIX_BUILD_HOOK_TIMEOUT", "1"), &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let started = Instant::now();
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("did not reply within 1 seconds; going on without it");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(maker(drv.out()), "locally");
    assert!(eventually(|| processes_with(&marker).is_empty()));
}

#[test]
fn a_hook_that_thinks_holds_up_only_what_it_was_asked() {
    let script = "while ask; do
                      case $drv in *-stuck.drv) until test -e $dir/go; do sleep 0.02; done;; esac
                      echo '# decline'; done";
    let setup = hooked(script, &[]);
    let mut first = client(&setup);
    let stuck = first.write(local("stuck"));
    let open = format!("touch {}/built; echo locally >$out", setup.gate().display());
    let beside = first.write(Script::new("beside", &open));
    let mut second = client(&setup);
    let other = second.write(local("other"));
    let building = first.start(&[&stuck, &beside]);
    assert!(eventually(|| setup.read("asked").contains("-stuck.drv")));
    // Other clients' builds continue; and with our daemon, the same client's.
    second.build(&[&other]).succeeded();
    if is_ours() {
        assert!(eventually(|| setup.gate().join("built").exists()));
    }
    assert!(!building.is_finished());
    setup.open("go");
    building.finish().1.succeeded();
    assert_eq!(maker(stuck.out()), "locally");
}

#[test]
fn a_client_that_goes_away_ends_the_hook_that_thinks() {
    let marker = format!("10101.{}", rand::random::<u32>());
    let setup = hooked(&format!("ask; sleep {marker} & sleep {marker}"), &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let building = client.start(&[&drv]);
    assert!(eventually(|| processes_with(&marker).len() > 1));
    building.hang_up();
    if !is_ours() {
        return; // it waits for the answer all the same
    }
    assert!(
        eventually(|| processes_with(&marker).is_empty()),
        "{:?}",
        processes_with(&marker)
    );
    // The locks are released.
    let mut client = setup.client();
    client.build(&[&drv]).succeeded();
}

#[test]
fn a_hook_of_nix_may_decline_for_good() {
    if !is_ours() {
        return; // a bad reply there
    }
    let setup = hooked("while ask; do echo '# decline-permanently'; done", &[]);
    let mut client = client(&setup);
    let first = client.write(local("first"));
    let second = client.write(local("second").input(&first, "out"));
    client.build(&[&second]).succeeded();
    assert_eq!(setup.read("asked").lines().count(), 1);
}
