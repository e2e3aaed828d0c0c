//! Clients, hooks and daemons that are killed leave nothing behind, on either side.

use std::process::{Command, Stdio};

use crate::farm::{CLIENT, Farm, by_both_transports, processes};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};

/// A farm of one machine with this transport.
fn farm(transport: &str) -> Farm {
    let farm = Farm::new(1);
    farm.configure(&[farm.entry(0).text("transport", transport)]);
    farm
}

/// A derivation whose builder waits for `go`.
fn waiting(farm: &Farm, client: &mut Client, name: &str) -> Drv {
    let script = format!("{}; echo built on $me; echo >$out", farm.await_gate("go"));
    client.write(Script::new(name, &script))
}

/// The waiting builders.
fn builders(farm: &Farm) -> Vec<crate::farm::Process> {
    let gate = format!("until test -e {}/go", farm.gate().display());
    processes()
        .into_iter()
        .filter(|process| process.line.contains(&gate))
        .collect()
}

/// Checks that no builder runs any more, and that nothing protects what was sent.
fn assert_all_given_up(farm: &Farm) {
    assert!(
        eventually(|| farm.hooks().is_empty()),
        "hooks: {:#?}",
        farm.hooks()
    );
    assert!(
        eventually(|| builders(farm).is_empty()),
        "builders: {:#?}",
        builders(farm)
    );
    farm.assert_nothing_left();
    let kept = farm.machines[0].collect_garbage(&farm.site);
    assert!(kept.is_empty(), "something is kept: {kept:?}");
}

#[test]
fn a_client_that_is_killed() {
    by_both_transports(|transport| {
        let farm = farm(transport);
        let mut client = farm.client();
        let drv = waiting(&farm, &mut client, "x");
        drop(client);
        let mut command = farm.site.command(CLIENT);
        command
            .args(["build", drv.path.as_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        farm.wait_for_builder("go");
        assert_eq!(
            (builders(&farm).is_empty(), farm.taken_slots().len()),
            (false, 1)
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_all_given_up(&farm);
        // The same build succeeds afterwards.
        farm.open("go");
        let mut client = farm.client();
        client.build(&[&drv]).succeeded();
    });
}

#[test]
fn a_client_that_hangs_up_while_inputs_are_sent() {
    by_both_transports(|transport| {
        let farm = farm(transport);
        let mut client = farm.client();
        let data: Vec<u8> = (0..8u32 << 20)
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let large = client
            .connection
            .add_to_store("large", true, formats::Algorithm::Sha256, |nar| {
                use formats::nar::Sink;
                nar.regular(false, data.len() as u64, &mut &data[..])
            })
            .unwrap();
        let drv = client.write(Script::new("x", "echo >$out").source(&large));
        // The machine's daemon accepts nothing more once the first items are there.
        client.connection.set_log(|_| ());
        let daemon = &farm.machines[0].processes("guix-daemon")[0];
        let pid = nix::unistd::Pid::from_raw(daemon.pid);
        let building = client.start(&[&drv]);
        building.wait_for("sending 3 store items");
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        building.hang_up();
        let gone = || farm.hooks().is_empty() && farm.ssh_sessions().is_empty();
        let ended = eventually(gone);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        assert!(ended, "{:#?}", farm.head_processes());
        assert_all_given_up(&farm);
    });
}

#[test]
fn a_build_that_nobody_waits_for_any_more_because_another_failed() {
    let farm = Farm::new(2);
    let mut client = farm.client();
    let slow = waiting(&farm, &mut client, "slow");
    let script = format!(
        "{}; until test -e {}/fail; do sleep 0.02; done; exit 1",
        farm.where_am_i(),
        farm.gate().display()
    );
    let bad = client.write(Script::new("bad", &script));
    let building = client.start(&[&slow, &bad]);
    farm.wait_for_builder("go");
    building.wait_for(&format!("offloading '{}'", bad.path));
    farm.open("fail");
    building.finish().1.failed(100, "failed");
    assert!(eventually(|| builders(&farm).is_empty()));
    farm.assert_nothing_left();
}

#[test]
fn a_hook_that_is_killed() {
    if !is_ours() {
        return; // it is the end of the build
    }
    by_both_transports(|transport| {
        let farm = farm(transport);
        let mut client = farm.client();
        let drv = waiting(&farm, &mut client, "x");
        let building = client.start(&[&drv]);
        farm.wait_for_builder("go");
        if transport == "commands" {
            let roots = farm.machines[0].roots();
            assert!(
                roots.iter().any(|name| name.starts_with("offload-head-")),
                "{roots:?}"
            );
        }
        let hooks = farm.hooks();
        assert_eq!(hooks.len(), 1);
        // What removes the links there when the hook ends does not live to see it.
        let mut root_holders = farm.machines[0].processes("sh");
        root_holders
            .retain(|holder| holder.line.contains("trap") && holder.line.contains("gcroots"));
        assert_eq!(root_holders.is_empty(), transport == "socket");
        root_holders.iter().for_each(crate::farm::Process::kill);
        hooks[0].kill();
        // Another hook tries again, and removes the links that the first one left.
        farm.wait_for_builder("go");
        assert_ne!(farm.hooks()[0].pid, hooks[0].pid);
        if transport == "commands" {
            let old = format!("-{}-", hooks[0].pid);
            let roots = farm.machines[0].roots();
            assert!(roots.iter().all(|name| !name.contains(&old)), "{roots:?}");
        }
        farm.open("go");
        let (_, built) = building.finish();
        built.succeeded();
        built.said("@ hook-failed ");
        built.said("built on build-1\n");
        farm.assert_nothing_left();
        assert_eq!(farm.machines[0].collect_garbage(&farm.site), [""; 0]);
    });
}

#[test]
fn links_of_hooks_that_still_run_are_left_alone() {
    let farm = farm("commands");
    let mut client = farm.client();
    let slow = waiting(&farm, &mut client, "slow");
    let quick = client.write(Script::new("quick", "echo >$out"));
    let building = client.start(&[&slow]);
    farm.wait_for_builder("go");
    let roots = farm.machines[0].roots();
    assert_eq!(roots.len(), 1, "{roots:?}");
    farm.client().build(&[&quick]).succeeded();
    assert_eq!(farm.machines[0].roots(), roots);
    // Meanwhile, their targets are protected there.
    let kept = farm.machines[0].collect_garbage(&farm.site);
    assert!(
        kept.iter().any(|name| name == slow.path.base_name()),
        "{kept:?}"
    );
    farm.open("go");
    building.finish().1.succeeded();
    farm.assert_nothing_left();
}

#[test]
fn what_is_needed_is_kept_while_it_is_built() {
    let farm = farm("socket");
    let mut client = farm.client();
    let data = client.text("data", "x", &[]);
    let script = format!("{}; cat {data} >$out", farm.await_gate("go"));
    let drv = client.write(Script::new("x", &script).source(&data));
    let building = client.start(&[&drv]);
    farm.wait_for_builder("go");
    let kept = farm.machines[0].collect_garbage(&farm.site);
    for path in [&data, &drv.path] {
        assert!(kept.iter().any(|name| name == path.base_name()), "{kept:?}");
    }
    farm.open("go");
    building.finish().1.succeeded();
    farm.assert_nothing_left();
}

#[test]
fn the_daemon_that_is_killed_takes_its_hooks_along() {
    by_both_transports(|transport| {
        let mut farm = farm(transport);
        let mut client = farm.client();
        let drv = waiting(&farm, &mut client, "x");
        let building = client.start(&[&drv]);
        farm.wait_for_builder("go");
        farm.daemon.take().unwrap().kill();
        building.hang_up();
        assert_all_given_up(&farm);
        farm.start(&["--max-jobs=0"]);
        farm.open("go");
        let mut client = farm.client();
        client.build(&[&drv]).succeeded();
        drop(client);
        farm.assert_nothing_left();
    });
}

#[test]
fn connections_end_when_they_are_told_to() {
    use hook::directories::HookDirectories;
    use hook::remote::disconnect;
    let farm = farm("socket");
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    client.build(&[&drv]).succeeded();
    assert_eq!(farm.ssh_masters().len(), 1);
    let loaded = hook::machines::load_file(&farm.site.configuration().join("machines.toml"));
    let directories = HookDirectories {
        state: farm.offload_directory(),
        store: formats::StoreDir::new(farm.site.store().to_str().unwrap()).unwrap(),
        configuration: farm.site.configuration(),
        user_home: nix::unistd::User::from_uid(nix::unistd::geteuid())
            .unwrap()
            .unwrap()
            .dir,
        history: None,
    };
    disconnect(&loaded.unwrap().machines[0], &directories).unwrap();
    assert!(
        eventually(|| farm.ssh_masters().is_empty()),
        "{:#?}",
        farm.ssh_masters()
    );
    let sockets = || {
        let names = crate::farm::names(&farm.offload_directory().join("ssh"));
        names
            .into_iter()
            .filter(|name| name.contains(".0-"))
            .collect::<Vec<_>>()
    };
    assert!(eventually(|| sockets().is_empty()), "{:?}", sockets());
    // Also on the machine.
    let sessions = || farm.machines[0].processes("sshd").len();
    assert!(
        eventually(|| sessions() == 1),
        "{:#?}",
        farm.machines[0].processes("sshd")
    );
}

#[test]
fn nothing_is_inherited_by_connections() {
    // A connection that stays open must not hold the pipes of the hook, or the daemon waits.
    let farm = farm("socket");
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    client.build(&[&drv]).succeeded();
    let master = &farm.ssh_masters()[0];
    let list = Command::new("ls")
        .arg("-l")
        .arg(format!("/proc/{}/fd", master.pid))
        .output();
    let list = String::from_utf8_lossy(&list.unwrap().stdout).into_owned();
    assert!(!list.contains("pipe:"), "{list}");
}
