//! Machines that fetch inputs from substitute servers of their own (`use-substitutes`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use formats::nar::{self, Sink};
use formats::{Hash, StoreDir, StorePath};
use protocol::client::{Connection, Options};
use substitutes::Compression;

use crate::bad_cables::noise;
use crate::entry::Entry;
use crate::farm::{Farm, Kind};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::substitutes::{Item, Publisher, Signature, Tree};
use crate::harness::{eventually, is_ours};
use crate::machine::{Substitutes, is_machine_ours};
use crate::sharing::sent;

const MIB: usize = 1 << 20;

/// Machines with substitutes, of which all have what every build needs.
fn farm(machines: usize) -> (Farm, Client) {
    let kind = Kind {
        substitutes: Substitutes::Program,
        ..Kind::default()
    };
    let mut farm = Farm::with(&vec![kind; machines]);
    for machine in &farm.machines {
        fs::create_dir(machine.files.join("substitutes")).unwrap();
        let script = include_str!("substituter.sh");
        let script = script.replace("@SITE@", farm.site.path("").to_str().unwrap());
        // Guix's daemons need it for other things.
        let real = std::env::var("GUIX").unwrap_or_else(|_| "false".to_owned());
        let script = script.replace("@GUIX@", &real);
        let program = machine.files.join("substituter");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    farm.start(&["--max-jobs=0"]);
    let mut client = farm.client();
    for index in 0..machines {
        farm.configure(&[entry(&farm, index)]);
        let script = format!("{}; echo $me >$out", farm.where_am_i());
        let first = client.write(Script::new(&format!("first-{index}"), &script));
        client.build(&[&first]).succeeded();
    }
    let entries: Vec<Entry> = (0..machines).map(|index| entry(&farm, index)).collect();
    farm.configure(&entries);
    (farm, client)
}

/// The first machine is the fastest.
fn entry(farm: &Farm, index: usize) -> Entry {
    farm.entry(index)
        .text("transport", "socket")
        .plain("use-substitutes", "true")
        .plain("speed", if index == 0 { "9.0" } else { "1.0" })
}

/// A file among the substitutes of a machine.
fn substitutes(farm: &Farm, index: usize) -> PathBuf {
    farm.machines[index].files.join("substitutes")
}

/// A file that the substituter of a machine makes.
fn made(farm: &Farm, index: usize, name: &str) -> PathBuf {
    farm.machines[index]
        .files
        .join("state/substitute/cache")
        .join(name)
}

/// Gives a machine a substitute for an item of the head.
fn offer(farm: &Farm, index: usize, client: &mut Client, item: &StorePath) {
    let info = client.info(item);
    let mut text = format!("\n{}\n", info.references.len());
    for reference in &info.references {
        text += &format!("{reference}\n");
    }
    text += &format!("0\n{}\n", info.nar_size);
    let file = substitutes(farm, index).join(item.base_name());
    fs::copy(item.as_path(), &file).unwrap();
    finish(&file, &text, &info.hash, info.nar_size);
}

/// Gives a machine a substitute with other contents of the same size.
fn offer_another(farm: &Farm, index: usize, item: &StorePath, size: usize) {
    let data = vec![0; size];
    let mut bytes = Vec::new();
    nar::Writer::new(&mut bytes)
        .regular(false, size as u64, &mut &data[..])
        .unwrap();
    let nar_size = bytes.len() as u64;
    let file = substitutes(farm, index).join(item.base_name());
    fs::write(&file, data).unwrap();
    let text = format!("\n0\n0\n{nar_size}\n");
    finish(&file, &text, &Hash::sha256(&bytes), nar_size);
}

fn finish(file: &std::path::Path, info: &str, hash: &Hash, size: u64) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o444)).unwrap();
    let time = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1));
    fs::File::open(file).unwrap().set_times(time).unwrap();
    let beside = |suffix: &str| format!("{}.{suffix}", file.display());
    fs::write(beside("info"), info).unwrap();
    let status = format!("sha256:{} {size}\n", hash.hex());
    fs::write(beside("status"), status).unwrap();
}

/// What a machine has fetched.
fn fetched(farm: &Farm, index: usize) -> Vec<String> {
    let text = fs::read_to_string(made(farm, index, "fetched")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A derivation whose output is the contents of some items, on which machine it was made.
fn concatenation(farm: &Farm, client: &mut Client, name: &str, items: &[&StorePath]) -> Drv {
    let names: Vec<&str> = items.iter().map(|item| item.as_str()).collect();
    let script = format!(
        "{}; echo built on $me; cat {} >$out",
        farm.where_am_i(),
        names.join(" ")
    );
    let script = Script::new(name, &script);
    client.write(
        items
            .iter()
            .fold(script, |script, item| script.source(item)),
    )
}

#[test]
fn what_a_machine_can_fetch_is_not_sent() {
    let (farm, mut client) = farm(1);
    let (large, data) = noise(&mut client, "large", 8 * MIB);
    let user = client.text("user", &"x".repeat(MIB), &[&large]);
    let (own, own_data) = noise(&mut client, "own", MIB);
    for item in [&large, &user] {
        offer(&farm, 0, &mut client, item);
    }
    let drv = concatenation(&farm, &mut client, "x", &[&large, &user, &own]);
    let before = sent(&farm);
    let built = client.build(&[&drv]);
    let sent = sent(&farm) - before;
    built.succeeded();
    built.said("'build-1' fetches 2 of 4 store items (9.0 MiB) from its substitute servers...\n");
    built.said("sending 2 store items (1.0 MiB) to 'build-1'...\n");
    assert!(sent > MIB && sent < 3 * MIB / 2, "{sent}");
    assert_eq!(fetched(&farm, 0).len(), 2);
    let expected = [data, vec![b'x'; MIB], own_data].concat();
    assert!(fs::read(drv.out().as_str()).unwrap() == expected);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn a_machine_fetches_from_a_server_after_one_that_says_nothing() {
    if !is_machine_ours() {
        return;
    }
    let after = 8080;
    let kind = Kind {
        substitutes: Substitutes::Directory { after },
        ..Kind::default()
    };
    let mut farm = Farm::with(&[kind]);
    // Connections are taken, and nothing is read.
    let silent = farm.machines[0].namespaces.listen(after);
    farm.start(&["--max-jobs=0"]);
    farm.configure(&[entry(&farm, 0)]);
    let mut client = farm.client();
    let first = client.write(Script::new("first", "echo >$out"));
    client.build(&[&first]).succeeded();
    let (large, data) = noise(&mut client, "large", 8 * MIB);
    let (foreign, foreign_data) = noise(&mut client, "foreign", MIB);
    let files = &farm.machines[0].files;
    let store = StoreDir::new(farm.site.store().to_str().unwrap()).unwrap();
    let publisher = Publisher::new(files.join("server"));
    publisher.authorise(&files.join("etc"));
    let item = |name: &str, data: &[u8]| {
        Item::new(name, Tree::file(data)).compressed(&[Compression::Zstd])
    };
    assert_eq!(publisher.publish(&store, &item("large", &data)), large);
    // A substitute that the machine does not believe in is none.
    let unsigned = publisher.publish_with(&store, &item("foreign", &foreign_data), |draft| {
        draft.signature = Signature::None;
    });
    assert_eq!(unsigned, foreign);
    let drv = concatenation(&farm, &mut client, "x", &[&large, &foreign]);
    let before = sent(&farm);
    let built = client.build(&[&drv]);
    let sent = sent(&farm) - before;
    built.succeeded();
    built.said("'build-1' fetches 1 of 3 store items (8.0 MiB) from its substitute servers...\n");
    built.said("sending 2 store items (1.0 MiB) to 'build-1'...\n");
    assert!(sent > MIB && sent < 3 * MIB / 2, "{sent}");
    assert!(fs::read(drv.out().as_str()).unwrap() == [data, foreign_data].concat());
    assert!(silent.accept().is_ok());
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn a_machine_fetches_only_if_it_may_and_it_is_worth_it() {
    let (farm, mut client) = farm(1);
    let mut build = |name: &str, size: usize, entry: Entry| {
        farm.configure(&[entry]);
        let (item, data) = noise(&mut client, name, size);
        offer(&farm, 0, &mut client, &item);
        let drv = concatenation(&farm, &mut client, &format!("{name}-user"), &[&item]);
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("sending 2 store items");
        built.did_not_say("fetches");
        assert!(fs::read(drv.out().as_str()).unwrap() == data);
    };
    build(
        "denied",
        MIB,
        entry(&farm, 0).plain("use-substitutes", "false"),
    );
    build(
        "commands",
        MIB,
        entry(&farm, 0).text("transport", "commands"),
    );
    build("small", 1000, entry(&farm, 0));
    assert!(fetched(&farm, 0).is_empty());
    // A substitute of another size is another item.
    let (item, data) = noise(&mut client, "short", MIB);
    farm.configure(&[entry(&farm, 0)]);
    offer_another(&farm, 0, &item, MIB - 8);
    let drv = concatenation(&farm, &mut client, "x", &[&item]);
    client.build(&[&drv]).succeeded();
    assert!(fs::read(drv.out().as_str()).unwrap() == data);
    assert!(fetched(&farm, 0).is_empty());
}

#[test]
fn builds_that_need_the_same_item_fetch_it_once() {
    if !is_ours() {
        return; // how many hooks another daemon starts at a time is its own affair
    }
    let (farm, mut client) = farm(1);
    farm.configure(&[entry(&farm, 0).plain("parallel-builds", "3")]);
    let (large, _) = noise(&mut client, "large", 8 * MIB);
    offer(&farm, 0, &mut client, &large);
    let drvs = ["a", "b", "c"].map(|name| concatenation(&farm, &mut client, name, &[&large]));
    let before = sent(&farm);
    client.build(&drvs.each_ref()).succeeded();
    let sent = sent(&farm) - before;
    assert!(sent < MIB, "{sent}");
    assert_eq!(fetched(&farm, 0).len(), 1);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn an_item_that_is_not_ours_is_replaced() {
    let (farm, mut client) = farm(1);
    farm.configure(&[entry(&farm, 0).plain("parallel-builds", "2")]);
    let (item, data) = noise(&mut client, "item", MIB);
    let user = client.text("user", &"x".repeat(MIB), &[&item]);
    offer_another(&farm, 0, &item, MIB);
    offer(&farm, 0, &mut client, &user);
    // Both meet it.
    let drvs = ["a", "b"].map(|name| concatenation(&farm, &mut client, name, &[&item, &user]));
    let built = client.build(&drvs.each_ref());
    built.succeeded();
    built.said(&format!(
        "warning: `{item}' from the substitute servers of 'build-1' is not ours: its hash is sha256:"
    ));
    let expected = [data.clone(), vec![b'x'; MIB]].concat();
    for drv in &drvs {
        assert!(fs::read(drv.out().as_str()).unwrap() == expected);
    }
    let there = farm.machines[0].files.join("store").join(item.base_name());
    assert!(fs::read(there).unwrap() == data);
    assert_eq!(farm.health(0)["all_failures"], 0);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn a_machine_that_keeps_another_item_gets_no_build_with_it() {
    let (farm, mut client) = farm(2);
    let (item, data) = noise(&mut client, "item", MIB);
    offer_another(&farm, 0, &item, MIB);
    let drv = concatenation(&farm, &mut client, "x", &[&item]);
    // Somebody there uses it.
    let store = StoreDir::new(farm.site.store().to_str().unwrap()).unwrap();
    let socket = farm.machines[0].files.join("state/daemon-socket/socket");
    let stream = system::socket::connect(&socket).unwrap();
    let mut user = Connection::over_unix(stream, &store, &Options::default()).unwrap();
    user.add_temp_root(&item).unwrap();
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said(&format!(
        "'build-1' has another `{item}' than ours, from its substitute servers, and keeps it: "
    ));
    built.said("built on build-2\n");
    assert!(fs::read(drv.out().as_str()).unwrap() == data);
    assert_eq!(farm.health(0)["failures"], 1);
    drop((client, user));
    farm.assert_nothing_left();
}

#[test]
fn servers_that_fail_cost_only_the_sending() {
    let (farm, mut client) = farm(1);
    for (failure, says) in [("dead", true), ("mute", false)] {
        if failure == "mute" && !is_machine_ours() {
            continue; // without an answer, Guix's daemon does not build either
        }
        let (item, data) = noise(&mut client, failure, MIB);
        offer(&farm, 0, &mut client, &item);
        let mark = substitutes(&farm, 0).join(failure);
        fs::write(&mark, "").unwrap();
        let drv = concatenation(&farm, &mut client, &format!("{failure}-user"), &[&item]);
        let built = client.build(&[&drv]);
        built.succeeded();
        assert_eq!(
            built.log.contains("'build-1' fetches 1 of 2 "),
            says,
            "{}",
            built.log
        );
        built.said("sending 2 store items (1.0 MiB) to 'build-1'...\n");
        assert!(fs::read(drv.out().as_str()).unwrap() == data);
        fs::remove_file(mark).unwrap();
    }
    assert!(fetched(&farm, 0).is_empty());
    assert_eq!(farm.health(0)["all_failures"], 0);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn fetching_ends_with_the_client_and_with_the_time_limit() {
    let (farm, mut client) = farm(1);
    let (item, _) = noise(&mut client, "item", MIB);
    offer(&farm, 0, &mut client, &item);
    fs::write(substitutes(&farm, 0).join("stuck"), "").unwrap();
    let waiting = made(&farm, 0, "waiting");
    let drv = concatenation(&farm, &mut client, "x", &[&item]);
    let building = client.start(&[&drv]);
    assert!(eventually(|| waiting.exists()), "{}", building.said());
    building.hang_up();
    farm.assert_nothing_left();
    fs::remove_file(&waiting).unwrap();
    let mut client = farm.client();
    client.set(|options| options.set("build-timeout", "2"));
    client.build(&[&drv]).failed(101, "failed");
    assert!(waiting.exists());
    drop(client);
    farm.assert_nothing_left();
}
