//! Whether a builder of a daemon that isn't root can hand on a descriptor by which its output could be changed
//! when it is valid: by a socket that another builder or a user of the machine reaches, or by a process that
//! outlives the build. (All builders run as the daemon's user there, who owns the store: a descriptor for
//! reading would do, as it lets them change the file's mode.)

use formats::Hash;

use super::*;
use crate::harness::derivations::processes_with;
use crate::unprivileged::unprivileged_alone;

/// What the output holds.
const CONTENTS: &str = "what is registered";
/// A user who has nothing here.
const OTHER: u32 = 4242;

#[test]
fn builders_of_a_daemon_that_is_not_root_hand_no_descriptor_to_anybody() {
    if !is_ours() {
        return; // Guix's of March 2026 ends the second client's session: `std::exception'
    }
    let setup = unprivileged_alone();
    // A fixed output has a network, where the machine has what that takes.
    for (name, fixed) in [("offer", false), ("offer-fixed", true)] {
        let Attacker {
            mut client,
            program,
        } = Attacker::new(&setup);
        let script = format!(
            "chmod 777 . / /tmp /dev/shm $NIX_STORE || :
             printf %s '{CONTENTS}' >$out; chmod 666 $out
             {program} offer $out enough; chmod 644 $out"
        );
        let mut script = Script::new(name, &script).source(&program);
        if fixed {
            script = script.fixed(false, Hash::of(Algorithm::Sha256, CONTENTS));
        }
        let drv = client.write(script);
        let building = client.start(&[&drv]);
        building.wait_for("offered\n");
        ask(&setup, &format!("{name}-meanwhile"));
        let directory = setup.site.path(format!("tmp/guix-build-{name}.drv-0"));
        fs::write(directory.join("top/enough"), "").unwrap();
        building.finish().1.succeeded();
        let left = format!("{program} offer");
        assert!(eventually(|| processes_with(&left).is_empty()));
        ask(&setup, &format!("{name}-afterwards"));
        let now = fs::read_to_string(drv.out().as_path()).unwrap();
        assert_eq!(now, CONTENTS);
    }
}

/// Looks for what is offered: as other builders, without a network and with one, and as users of the machine.
fn ask(setup: &Setup, when: &str) {
    for fixed in [false, true] {
        let mut attacker = Attacker::new(setup);
        let script = format!("{} ask; echo >$out", attacker.program);
        let name = format!("ask-{when}-{fixed}");
        let mut script = Script::new(&name, &script).source(&attacker.program);
        if fixed {
            script = script.fixed(false, Hash::of(Algorithm::Sha256, "\n"));
        }
        let drv = attacker.client.write(script);
        let built = attacker.client.build(&[&drv]);
        built.succeeded();
        built.said("asked everywhere\n");
        built.did_not_say("is there");
    }
    let mut asking = Command::new(setup.site.path("attack"));
    let said = asking.arg("ask").output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&said), "asked everywhere\n");
    if !nix::unistd::geteuid().is_root() {
        return; // Every other user of this machine is somebody else
    }
    // Neither the build directory nor the place of the output can be entered by others.
    let mut find = Command::new("find");
    let socket = setup.site.socket();
    find.arg(setup.site.path(""));
    find.args([
        "(",
        "-type",
        "s",
        "-o",
        "-type",
        "f",
        "-o",
        "-type",
        "d",
        ")",
        "-writable",
    ]);
    let found = find.uid(OTHER).gid(OTHER).output().unwrap().stdout;
    let found = String::from_utf8_lossy(&found).into_owned();
    let mut found: Vec<&Path> = found.lines().map(Path::new).collect();
    found.sort();
    assert_eq!(found, [socket, setup.site.path("tmp")]);
}
