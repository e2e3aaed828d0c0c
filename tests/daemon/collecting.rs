//! Garbage collection.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use formats::StorePath;
use formats::export::Fields;
use protocol::operations::GcAction;

use crate::harness::{Site, eventually, is_ours};
use crate::items::*;
use crate::support::*;

fn sorted<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> Vec<StorePath> {
    let mut paths: Vec<StorePath> = paths.into_iter().cloned().collect();
    paths.sort();
    paths
}

#[test]
fn what_roots_lead_to_is_live_and_the_rest_dead() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let base = add_text(&mut client, "base", "x", &[]);
    let kept = add_text(&mut client, "kept", "x", &[&base]);
    let dead = add_text(&mut client, "dead", "x", &[&base]);
    let chain = add_text(&mut client, "chain", "x", &[&dead, &base]);
    let tree = Tree::Directory(vec![("file", Tree::file(noise(1, 100_000)))]);
    let large = add_tree(&mut client, "large", &tree).unwrap();
    let root = fixture.root("kept", &kept);
    drop(client);
    let mut client = fixture.only_client();
    let live = collect(&mut client, GcAction::ReturnLive, &[]);
    assert_eq!(
        (sorted(&live.paths), live.bytes_freed),
        (sorted([&base, &kept]), 0)
    );
    let expected = sorted([&dead, &chain, &large]);
    let found = collect(&mut client, GcAction::ReturnDead, &[]);
    assert_eq!(
        (sorted(&found.paths), found.bytes_freed),
        (expected.clone(), 0)
    );
    fixture.assert_holds([&base, &kept, &dead, &chain, &large]);
    assert_eq!(fixture.links(), 1);
    let deleted = collect(&mut client, GcAction::DeleteDead, &[]);
    assert_eq!(sorted(&deleted.paths), expected);
    if is_ours() {
        let line = "collected garbage for user root: 3 items, 0.";
        let said = || fixture.daemon.messages();
        assert!(eventually(|| said().contains(line)), "{}", said());
    }
    assert!(
        (100_000..1_000_000).contains(&deleted.bytes_freed),
        "{}",
        deleted.bytes_freed
    );
    fixture.assert_holds([&base, &kept]);
    assert_eq!(fixture.links(), 0, "links that nobody uses go, too");
    assert_eq!(client.query_referrers(&base).unwrap(), [kept].into());
    fs::remove_file(root).unwrap();
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths.len(),
        2
    );
    fixture.assert_holds([]);
}

#[test]
fn certain_items_are_deleted_unless_alive() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let base = add_text(&mut client, "base", "x", &[]);
    let user = add_text(&mut client, "user", "x", &[&base]);
    let other = add_text(&mut client, "other", "x", &[]);
    let kept = add_text(&mut client, "kept", "x", &[&other]);
    fixture.root("kept", &kept);
    drop(client);
    let mut client = fixture.only_client();
    for alive in [&kept, &other] {
        let refused = refusal(try_collect(&mut client, GcAction::DeleteSpecific, &[alive]));
        let expected = format!("cannot delete path `{alive}' since it is still alive");
        assert!(refused.starts_with(&expected), "{refused}");
    }
    let done = collect(&mut client, GcAction::DeleteSpecific, &[&base]);
    assert_eq!(
        sorted(&done.paths),
        sorted([&base, &user]),
        "what refers to it goes, too"
    );
    fixture.assert_holds([&other, &kept]);
    assert_eq!(
        collect(&mut client, GcAction::DeleteSpecific, &[]).paths,
        []
    );
    let missing = fixture.path("missing");
    assert_eq!(
        collect(&mut client, GcAction::DeleteSpecific, &[&missing]).paths,
        []
    );
    fixture.assert_holds([&other, &kept]);
}

#[test]
fn the_stores_own_directories_are_not_garbage() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let kept = add_tree(&mut client, "kept", &Tree::file(noise(5, 10_000))).unwrap();
    fixture.root("kept", &kept);
    let links = fixture.dir().join(".links").unwrap();
    refusal(try_collect(
        &mut client,
        GcAction::DeleteSpecific,
        &[&links],
    ));
    assert_eq!(fixture.links(), 1);
    assert_eq!(collect(&mut client, GcAction::DeleteDead, &[]).paths, []);
    assert_eq!(fixture.links(), 1);
}

#[test]
fn it_says_what_it_deletes_and_how_much_that_is() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let item = add_text(&mut client, "x", "x", &[]);
    drop(client);
    let mut client = fixture.only_client();
    let mut said = Vec::new();
    let none = [].into();
    let done = client.collect_garbage(GcAction::DeleteDead, none, u64::MAX, &mut |text| {
        said.extend_from_slice(text);
    });
    assert_eq!(done.unwrap().paths, std::slice::from_ref(&item));
    let said = String::from_utf8_lossy(&said);
    let deleting = format!("\n[   0  bytes] deleting '{item}'\n");
    assert!(said.contains(&deleting), "{said}");
    // A directory takes space, which nothing here saves: none on a tmpfs, 4096 bytes on others. Guix's
    // daemon prints that as a negative number.
    let saved = "\nnote: currently hard linking saves ";
    let (_, rest) = said.split_once(saved).expect(&said);
    let amount = rest.lines().next().unwrap().strip_suffix("  bytes");
    let amount: i64 = amount.expect(rest).trim().parse().unwrap();
    assert!(amount == 0 || amount < 0 && !is_ours(), "{said}");
}

#[test]
fn a_limit_ends_the_collection() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for number in 0..40 {
        add_text(&mut client, "text", &"a".repeat(100_000 + number), &[]);
    }
    drop(client);
    let mut client = fixture.only_client();
    let mut collect = |limit| {
        client
            .collect_garbage(GcAction::DeleteDead, [].into(), limit, &mut |_| {})
            .unwrap()
    };
    let done = collect(0);
    assert_eq!((done.paths.len(), done.bytes_freed), (0, 0));
    let done = collect(1_000_000);
    assert!(
        (10..=13).contains(&done.paths.len()),
        "{}",
        done.paths.len()
    );
    assert!(
        (900_000..2_700_000).contains(&done.bytes_freed),
        "{}",
        done.bytes_freed
    );
    assert_eq!(fixture.entries().len(), 40 - done.paths.len());
    let rest = collect(u64::MAX);
    assert_eq!(rest.paths.len(), 40 - done.paths.len());
    fixture.assert_holds([]);
}

#[test]
fn what_is_not_registered_goes() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let kept = add_text(&mut client, "kept", "x", &[]);
    fixture.root("kept", &kept);
    let store = fixture.site.store();
    fs::create_dir_all(store.join("stray/inside/deep")).unwrap();
    fs::write(store.join("stray/file"), "x").unwrap();
    fs::create_dir_all(store.join("nix-1234-5/unpacked")).unwrap();
    fs::write(store.join("00000000000000000000000000000000-x.lock"), "").unwrap();
    fs::write(
        store.join(fixture.path("x.tmp").base_name()),
        noise(1, 10_000),
    )
    .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", store.join("link")).unwrap();
    fs::create_dir(store.join("trash")).unwrap();
    fs::write(store.join("trash/0"), "left by a collector that was killed").unwrap();
    collect(&mut client, GcAction::DeleteDead, &[]);
    let mut left = fixture.entries_and_locks();
    left.remove("trash");
    assert_eq!(left, [kept.base_name().to_owned()].into());
    assert!(
        fs::read_dir(store.join("trash")).is_ok_and(|mut trash| trash.next().is_none())
            || !store.join("trash").exists()
    );
    assert!(fs::metadata("/etc/passwd").is_ok());
}

#[test]
fn items_that_processes_use_are_kept() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let program = Tree::File(true, fs::read("/bin/sleep").unwrap());
    let executable = add_tree(&mut client, "sleep", &program).unwrap();
    let open = add_text(&mut client, "open", "x", &[]);
    let directory = Tree::Directory(vec![("file", Tree::file("x"))]);
    let current = add_tree(&mut client, "current", &directory).unwrap();
    let named = add_text(&mut client, "named", "x", &[]);
    let dead = add_text(&mut client, "dead", "x", &[]);
    drop(client);
    let mut command = Command::new(executable.as_path());
    command
        .arg("1000")
        .stdin(Stdio::from(File::open(open.as_path()).unwrap()))
        .current_dir(current.as_path())
        .env("SOMETHING", format!("x:{named}/bin"));
    let process = Process(command.spawn().unwrap());
    // This also closes what it holds open for the next process.
    drop(command);
    let mut client = fixture.only_client();
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        [dead]
    );
    fixture.assert_holds([&executable, &open, &current, &named]);
    refusal(try_collect(&mut client, GcAction::DeleteSpecific, &[&open]));
    drop(process);
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths.len(),
        4
    );
    fixture.assert_holds([]);
}

/// A derivation and its output, each a root or not; returns which are live.
fn live(options: &[&str], root_derivation: bool, root_output: bool) -> (bool, bool) {
    let options = [&["--no-substitutes"], options].concat();
    let fixture = Fixture::with(Site::new(), &options);
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    let tree = Tree::file("output");
    let (text, output) = fixed_derivation(&fixture.dir(), "x", &tree);
    let derivation = add_text(&mut client, "x.drv", &text, &[]);
    let deriver = Some(derivation.clone());
    let fields = Fields {
        path: output.clone(),
        references: [].into(),
        deriver,
    };
    let item = Item {
        nar: tree.nar(),
        fields,
    };
    client
        .import_paths(&mut item.archive(Some(&keys)).as_slice())
        .unwrap();
    if root_derivation {
        fixture.root("derivation", &derivation);
    }
    if root_output {
        fixture.root("output", &output);
    }
    drop(client);
    let mut client = fixture.only_client();
    let live = collect(&mut client, GcAction::ReturnLive, &[]).paths;
    collect(&mut client, GcAction::DeleteDead, &[]);
    fixture.assert_holds(&live);
    (live.contains(&derivation), live.contains(&output))
}

#[test]
fn derivers_of_live_outputs_are_kept_unless_told_otherwise() {
    assert_eq!(live(&[], false, true), (true, true));
    assert_eq!(live(&[], true, false), (true, false));
    assert_eq!(
        live(&["--gc-keep-derivations=no"], false, true),
        (false, true)
    );
    assert_eq!(
        live(&["--gc-keep-derivations=yes"], false, true),
        (true, true)
    );
}

#[test]
fn outputs_of_live_derivations_are_kept_if_told_so() {
    assert_eq!(live(&["--gc-keep-outputs"], true, false), (true, true));
    assert_eq!(live(&["--gc-keep-outputs=no"], true, false), (true, false));
    let neither = ["--gc-keep-outputs=yes", "--gc-keep-derivations=no"];
    assert_eq!(live(&neither, true, false), (true, true));
    assert_eq!(live(&neither, false, true), (false, true));
    assert_eq!(
        live(&["--gc-keep-outputs=yes"], false, false),
        (false, false)
    );
}

#[test]
fn sessions_can_add_while_others_collect() {
    let fixture = Fixture::new();
    // Guix's sessions conflict when they create the store at the same time.
    drop(fixture.client());
    let stop = AtomicBool::new(false);
    let add = &|worker: u64| {
        for round in 0..25 {
            let mut client = fixture.client();
            let base = add_text(&mut client, "base", &format!("{worker}"), &[]);
            let file = Tree::file(noise(worker * 100 + round, 9000));
            let tree = add_tree(&mut client, "tree", &file).unwrap();
            let text = format!("{worker}-{round}");
            let user = add_text(&mut client, "user", &text, &[&base, &tree]);
            for path in [&base, &tree, &user] {
                assert!(client.is_valid_path(path).unwrap());
                assert!(path.as_path().exists());
            }
        }
    };
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut client = fixture.client();
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                collect(&mut client, GcAction::DeleteDead, &[]);
                rounds += 1;
            }
            rounds
        });
        let adding: Vec<_> = (0..3)
            .map(|worker| scope.spawn(move || add(worker)))
            .collect();
        let results: Vec<_> = adding.into_iter().map(|thread| thread.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(collecting.join().unwrap() > 0);
        assert!(results.iter().all(Result::is_ok));
    });
    let mut client = fixture.only_client();
    assert!(!client.verify_store(true, false).unwrap());
    collect(&mut client, GcAction::DeleteDead, &[]);
    fixture.assert_holds([]);
}

#[test]
fn what_gets_a_root_before_its_session_ends_is_kept() {
    if !is_ours() {
        return; // Guix's looks for links before it looks at sessions
    }
    let fixture = Fixture::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut client = fixture.client();
            while !stop.load(Ordering::Relaxed) {
                collect(&mut client, GcAction::DeleteDead, &[]);
            }
        });
        let rooted: Vec<StorePath> = (0..100)
            .map(|round| {
                let mut client = fixture.client();
                // From now on, the session has temporary roots.
                add_text(&mut client, "first", "", &[]);
                let name = format!("rooted-{round}");
                let path = add_text(&mut client, &name, "", &[]);
                fixture.root(&name, &path);
                path
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        collecting.join().unwrap();
        let lost: Vec<_> = rooted
            .iter()
            .filter(|path| !path.as_path().exists())
            .collect();
        assert!(lost.is_empty(), "{lost:#?}");
    });
    let mut client = fixture.only_client();
    assert_eq!(
        collect(&mut client, GcAction::ReturnLive, &[]).paths.len(),
        100
    );
    assert!(!client.verify_store(true, false).unwrap());
}

#[test]
fn loops_and_endless_names_are_no_roots_and_no_obstacles() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let looping = fixture.site.path("loop");
    std::os::unix::fs::symlink(&looping, &looping).unwrap();
    let mut links = vec![format!("{}/x", looping.display())];
    links.push(format!(
        "{}/{}",
        fixture.site.path("").display(),
        "x".repeat(300)
    ));
    for link in links {
        client.add_indirect_root(link).unwrap();
    }
    let text = add_text(&mut client, "text", "", &[]);
    fixture.root("text", &text);
    drop(client);
    let mut client = fixture.only_client();
    if is_ours() {
        collect(&mut client, GcAction::DeleteDead, &[]);
        fixture.assert_holds([&text]);
    }
}
