//! Builds that succeed or fail as expected, with both transports.

use std::time::{Duration, Instant};

use crate::farm::{Farm, Kind, Machine, by_both_transports};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::is_ours;
use crate::hook_process::HookProcess;

/// Whether a machine's store has an item of the head.
fn has(machine: &Machine, path: &formats::StorePath) -> bool {
    machine
        .store_names()
        .iter()
        .any(|name| name == path.base_name())
}

/// A farm of one machine with this transport.
fn farm_with_transport(transport: &str) -> Farm {
    let farm = Farm::new(1);
    farm.configure(&[farm.entry(0).text("transport", transport)]);
    farm
}

/// A build with a log and an input that the machine does not have.
fn offload_something(farm: &Farm) {
    let mut client = farm.client();
    let data = client.text("data", "some data\n", &[]);
    let script = format!(
        "{}; echo this is built on $me; echo nothing is lost >&2; cat {data} >$out; echo $out {data} >>$out",
        farm.where_am_i()
    );
    let drv = client.write(Script::new("something", &script).source(&data));
    let built = client.build(&[&drv]);
    built.succeeded();
    for text in [
        "sending 3 store items",
        " to 'build-1'...\n",
        &format!("offloading '{}' to 'build-1'...\n", drv.path),
        &format!("@ build-remote {} build-1\n", drv.path),
        "this is built on build-1\n",
        "nothing is lost\n",
        "retrieving 1 store item from 'build-1'...\n",
        &format!("done with offloaded '{}'\n", drv.path),
        &format!("@ build-succeeded {} -\n", drv.path),
    ] {
        built.said(text);
    }
    // The log is only builder output, without messages of the hook or of the machine's daemon.
    let log = "this is built on build-1\nnothing is lost\n";
    assert_eq!(farm.kept_log(&drv.path), log, "{built:?}");
    check_output(farm, &mut client, &drv, &[drv.out(), &data]);
    let text = std::fs::read_to_string(drv.out().as_str()).unwrap();
    assert_eq!(text, format!("some data\n{} {data}\n", drv.out()));
    assert!(has(&farm.machines[0], &data));
    drop(client);
    farm.assert_nothing_left();
}

/// Checks that an output was fetched unchanged, and is registered as if built here.
fn check_output(farm: &Farm, client: &mut Client, drv: &Drv, references: &[&formats::StorePath]) {
    let info = client.info(drv.out());
    let expected: std::collections::BTreeSet<_> =
        references.iter().map(|path| (*path).clone()).collect();
    assert_eq!(info.references, expected);
    assert_eq!(info.deriver.as_ref(), Some(&drv.path));
    let machine = &farm.machines[0];
    let socket = machine.files.join("state/daemon-socket/socket");
    let mut there = connect(farm, &socket);
    let theirs = there.query_path_info(drv.out()).unwrap();
    assert_eq!((info.hash, info.nar_size), (theirs.hash, theirs.nar_size));
    assert_eq!(info.references, theirs.references);
    let verified = client.connection.verify_store(true, false).unwrap();
    assert!(!verified, "the store is damaged");
}

/// A connection to a daemon other than the head's.
pub fn connect(farm: &Farm, socket: &std::path::Path) -> protocol::client::Connection {
    let store = formats::StoreDir::new(farm.site.store().to_str().unwrap()).unwrap();
    let address = protocol::client::Address::Unix(socket.to_owned());
    address
        .connect(&store, &protocol::client::Options::default())
        .unwrap()
}

#[test]
fn inputs_go_there_and_the_output_comes_home() {
    offload_something(&farm_with_transport("socket"));
}

#[test]
fn the_same_by_commands() {
    let farm = farm_with_transport("commands");
    offload_something(&farm);
}

#[test]
fn all_outputs_come_home() {
    by_both_transports(|transport| {
        let farm = farm_with_transport(transport);
        let mut client = farm.client();
        // The output that comes first by name refers to a later one.
        let script = "mkdir $out $doc; echo $lib >$out/libs; echo text >$doc/text; ln -s $doc/text $doc/link; \
                      echo code >$lib; chmod +x $lib";
        let recipe = Script::new("several", script).output("doc").output("lib");
        let drv = client.write(recipe);
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("retrieving 3 store items from 'build-1'...\n");
        let (out, doc, lib) = (drv.out(), drv.output("doc"), drv.output("lib"));
        assert_eq!(client.info(out).references, [lib.clone()].into());
        assert_eq!(client.info(doc).references, [doc.clone()].into());
        assert_eq!(client.info(lib).references, [].into());
        let link = std::fs::read_link(doc.as_path().join("link")).unwrap();
        assert_eq!(link, doc.as_path().join("text"));
        assert!(!client.connection.verify_store(true, false).unwrap());

        // The output is an input of the next build, and is not sent to where it was built.
        let text = format!("cat {lib} {doc}/text >$out");
        let next = client.write(
            Script::new("next", &text)
                .input(&drv, "lib")
                .input(&drv, "doc"),
        );
        let built = client.build(&[&next]);
        built.succeeded();
        built.said("sending 1 store item ");
        assert_eq!(
            std::fs::read_to_string(next.out().as_str()).unwrap(),
            "code\ntext\n"
        );
        drop(client);
        farm.assert_nothing_left();
    });
}

#[test]
fn an_output_that_is_missing_alone_is_built_there() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let drv = client.write(Script::new("two", "echo 1 >$out; echo 2 >$doc").output("doc"));
    client.build(&[&drv]).succeeded();
    client
        .connection
        .collect_garbage(
            protocol::operations::GcAction::DeleteSpecific,
            [drv.output("doc").clone()].into(),
            u64::MAX,
            &mut |_| (),
        )
        .unwrap();
    assert!(!client.is_valid(drv.output("doc")) && client.is_valid(drv.out()));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("retrieving 1 store item from 'build-1'...\n");
    assert!(client.is_valid(drv.output("doc")));
}

#[test]
fn a_fixed_output_is_offloaded_too() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let hash = formats::Hash::sha256("expected\n");
    let right = client.write(Script::new("right", "echo expected >$out").fixed(false, hash));
    client.build(&[&right]).succeeded();
    assert_eq!(
        std::fs::read_to_string(right.out().as_str()).unwrap(),
        "expected\n"
    );
    let hash = formats::Hash::sha256("something else\n");
    let wrong = client.write(Script::new("wrong", "echo expected >$out").fixed(false, hash));
    let built = client.build(&[&wrong]);
    built.failed(1, &format!("build of `{}' failed", wrong.path));
    built.said("offloaded to 'build-1' failed: ");
    farm.assert_nothing_left();
}

#[test]
fn more_inputs_than_a_pipe_holds() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let mut recipe = Script::new("many", "echo >$out");
    for number in 0..1000 {
        let input = client.text(&format!("input-{number:04}"), "", &[]);
        recipe = recipe.source(&input);
    }
    let drv = client.write(recipe);
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("sending 1002 store items ");
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn the_log_comes_as_it_is_written() {
    by_both_transports(|transport| {
        let farm = farm_with_transport(transport);
        let mut client = farm.client();
        let script = format!(
            "echo before; {}; printf after; echo >$out",
            farm.await_gate("go")
        );
        let drv = client.write(Script::new("slow", &script));
        let building = client.start(&[&drv]);
        building.wait_for("before\n");
        farm.wait_for_builder("go");
        assert!(!building.is_finished());
        farm.open("go");
        building.finish().1.succeeded();
        assert_eq!(farm.kept_log(&drv.path), "before\nafter");
    });
}

#[test]
fn a_long_log_is_complete() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let script = "seq 1 50000; echo '@ build-log 1 5'; echo '# accept'; printf end; echo >$out";
    let drv = client.write(Script::new("talkative", script));
    client.build(&[&drv]).succeeded();
    let mut expected: String = (1..=50000).map(|number| format!("{number}\n")).collect();
    expected += "@ build-log 1 5\n# accept\nend";
    assert!(farm.kept_log(&drv.path) == expected);
}

#[test]
fn a_failed_build_fails_once_and_nowhere_else() {
    let farm = Farm::new(2);
    for transport in ["socket", "commands"] {
        let entry = |index| farm.entry(index).text("transport", transport);
        farm.configure(&[entry(0), entry(1)]);
        let mut client = farm.client();
        let tries = farm.gate().join(format!("tries-{transport}"));
        let script = format!("echo I shall fail; echo >>{}; exit 3", tries.display());
        let drv = client.write(Script::new(&format!("bad-{transport}"), &script));
        let built = client.build(&[&drv]);
        built.failed(100, &format!("build of `{}' failed", drv.path));
        built.said("I shall fail\n");
        built.said(&format!("derivation '{}' offloaded to 'build-", drv.path));
        built.said("failed with exit code 3");
        // Guix's daemon has only what became of the hook.
        let code = if is_ours() { 3 } else { 100 };
        built.said(&format!(
            "@ build-failed {} - 1 builder for `{0}' failed with exit code {code}",
            drv.path
        ));
        built.did_not_say("instead");
        assert_eq!(std::fs::read_to_string(&tries).unwrap(), "\n");
        assert_eq!(farm.kept_log(&drv.path), "I shall fail\n");
        assert!(!client.is_valid(drv.out()));
        // The machine works.
        for index in [0, 1] {
            assert_ne!(farm.health(index)["all_failures"].as_u64(), Some(1));
        }
    }
    farm.assert_nothing_left();
}

#[test]
fn what_needs_a_failed_build_fails_and_the_rest_goes_on() {
    let farm = Farm::new(2);
    let mut client = farm.client();
    client.set(|options| options.keep_going = true);
    let bad = client.write(Script::new("bad", "exit 1"));
    let top = client.write(Script::new("top", "echo >$out").input(&bad, "out"));
    let good = client.write(Script::new("good", "echo >$out"));
    let built = client.build(&[&top, &good]);
    built.failed(100, "failed");
    built.said(&format!(
        "cannot build derivation `{}': 1 dependencies couldn't be built",
        top.path
    ));
    assert!(client.is_valid(good.out()));
}

#[test]
fn a_time_limit_of_the_client_ends_the_build_there() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    client.set(|options| options.set("build-timeout", "2"));
    let script = format!("{}; echo >$out", farm.await_gate("never"));
    let drv = client.write(Script::new("endless", &script));
    let began = Instant::now();
    let built = client.build(&[&drv]);
    built.failed(101, "failed");
    assert!(began.elapsed() < Duration::from_secs(15));
    built.said("timed out after 2 seconds");
    built.said(&format!("@ build-failed {} - timeout", drv.path));
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn sshd_that_forbids_forwarding_is_found_out() {
    let kind = Kind {
        sshd: "AllowStreamLocalForwarding no".to_owned(),
        ..Kind::default()
    };
    let mut farm = Farm::with(&[kind]);
    farm.start(&["--max-jobs=0"]);
    offload_something(&farm);
    let forbidden = || {
        let names = crate::farm::names(&farm.offload_directory().join("ssh"));
        names
            .iter()
            .any(|name| name.ends_with(".forbids-forwarding"))
    };
    assert!(forbidden());
    // It isn't available with the socket transport alone.
    farm.configure(&[farm.entry(0).text("transport", "socket")]);
    let mut hook = HookProcess::start(&farm);
    let mut client = farm.client();
    let drv = client.write(Script::new("another", "echo >$out"));
    assert_eq!(hook.ask(&drv), "postpone");
    assert!(
        hook.output.contains("forwarding is forbidden"),
        "{}",
        hook.output
    );
}

#[test]
fn archives_are_compressed_for_slow_links() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--no-offload"]);
    let entry = |transport| {
        farm.entry(0)
            .text("transport", transport)
            .plain("transfer-compression", "3")
    };
    let broken = || entry("socket").text("program", "/nonexistent/guix");
    let mut client = farm.client();
    let busybox = client.busybox().clone();
    let mut offload = |name: &str, size: &str| {
        let script = format!("head -c {size} /dev/zero >$out");
        let drv = client.write(Script::new(name, &script));
        let mut hook = HookProcess::start(&farm);
        assert_eq!(hook.ask(&drv), "accept");
        hook.send_paths(&[&busybox], &[drv.out()]);
        let status = hook.end();
        assert_eq!(status == Some(0), client.is_valid(drv.out()));
        (status, hook.output.clone())
    };
    // It is the command there that takes much and makes much; with a little it is not bothered.
    farm.configure(&[broken()]);
    let (status, said) = offload("refused", "1");
    assert_eq!(status, Some(1));
    assert!(said.contains("/nonexistent/guix"), "{said}");
    farm.forget();
    for transport in ["socket", "commands"] {
        farm.configure(&[entry(transport)]);
        let (status, said) = offload(&format!("{transport}-much"), "3000000");
        assert_eq!(status, Some(0), "{said}");
    }
    farm.configure(&[broken()]);
    assert_eq!(offload("little", "1").0, Some(0));
    let (status, said) = offload("much", "3000000");
    assert_eq!(status, Some(1));
    assert!(said.contains("/nonexistent/guix"), "{said}");
}
