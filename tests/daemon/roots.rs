//! What protects items: temporary, indirect and permanent roots.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::client::Connection;
use protocol::operations::{AddIndirectRoot, GcAction, SyncWithGC};

use crate::harness::{Bytes, End};
use crate::only_ours;
use crate::support::*;

#[test]
fn temporary_roots_keep_items_while_the_session_lasts() {
    let fixture = Fixture::new();
    let mut owner = fixture.client();
    let added = add_text(&mut owner, "added", "x", &[]);
    let mut other = fixture.client();
    assert_eq!(collect(&mut other, GcAction::DeleteDead, &[]).paths, []);
    // Another session takes over the item.
    other.add_temp_root(&added).unwrap();
    drop(owner);
    let mut third = fixture.client();
    assert_eq!(collect(&mut third, GcAction::ReturnDead, &[]).paths, []);
    assert_eq!(
        collect(&mut third, GcAction::ReturnLive, &[]).paths,
        from_ref(&added)
    );
    drop(other);
    drop(third);
    let mut last = fixture.only_client();
    assert_eq!(collect(&mut last, GcAction::DeleteDead, &[]).paths, [added]);
    fixture.assert_holds([]);
}

#[test]
fn temporary_roots_may_come_before_the_item() {
    let fixture = Fixture::new();
    let mut holder = fixture.client();
    let path = fixture
        .dir()
        .text_path("x", &formats::Hash::sha256("x"), [])
        .unwrap();
    holder.add_temp_root(&path).unwrap();
    holder.add_temp_root(&path).unwrap();
    let many: Vec<_> = (0..500)
        .map(|number| fixture.path(&format!("root-{number}")))
        .collect();
    holder.add_temp_roots(&many).unwrap();
    assert_eq!(add_text(&mut fixture.client(), "x", "x", &[]), path);
    assert_eq!(
        collect(&mut fixture.client(), GcAction::DeleteDead, &[]).paths,
        []
    );
    fixture.assert_holds([&path]);
}

#[test]
fn a_session_that_asks_gives_up_its_own_roots() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let path = add_text(&mut client, "x", "x", &[]);
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        from_ref(&path)
    );
    // It can continue to add, and its items are protected from others (in Guix they no longer are).
    assert_eq!(add_text(&mut client, "x", "x", &[]), path);
    only_ours!();
    assert_eq!(
        collect(&mut fixture.client(), GcAction::DeleteDead, &[]).paths,
        []
    );
}

#[test]
fn permanent_roots_are_found_sorted_by_their_links() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(client.find_roots().unwrap(), []);
    let one = add_text(&mut client, "one", "x", &[]);
    let two = add_text(&mut client, "two", "x", &[&one]);
    let roots = fixture.site.state().join("gcroots");
    let b = fixture.root("b", &two);
    let a = fixture.root("a", &one);
    // A link into an item, a file named like one, and one in a profile.
    let inside = roots.join("inside");
    symlink(two.as_path().join("bin/sh"), &inside).unwrap();
    let named = roots.join(one.base_name());
    fs::write(&named, "").unwrap();
    let profile = fixture
        .site
        .state()
        .join("profiles/per-user/root/guix-profile-1-link");
    symlink(two.as_path(), &profile).unwrap();
    // These are not roots.
    symlink(fixture.path("invalid").as_path(), roots.join("invalid")).unwrap();
    symlink("/nowhere", roots.join("nowhere")).unwrap();
    symlink("loop", roots.join("loop")).unwrap();
    fs::write(roots.join("README"), "").unwrap();
    let mut expected: Vec<_> = [(a, &one), (b, &two), (inside, &two), (named, &one)]
        .into_iter()
        .chain([(profile, &two)])
        .map(|(link, path)| (link.to_str().unwrap().into(), path.clone()))
        .collect();
    expected.sort();
    assert_eq!(client.find_roots().unwrap(), expected);
    assert!(
        roots.join("nowhere").is_symlink(),
        "only automatic links are removed"
    );
}

#[test]
fn indirect_roots_last_as_long_as_the_link_they_name() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let path = add_text(&mut client, "x", "x", &[]);
    let link = fixture.site.path("result");
    symlink(path.as_path(), &link).unwrap();
    let name = link.to_str().unwrap();
    for _ in 0..2 {
        client.call(&AddIndirectRoot { link: name.into() }).unwrap();
    }
    let auto = fixture.site.state().join("gcroots/auto");
    let hash = formats::Hash::of(formats::Algorithm::Sha1, name).base32();
    assert_eq!(fs::read_link(auto.join(&hash)).unwrap(), link);
    assert_eq!(fs::read_dir(&auto).unwrap().count(), 1);
    assert_eq!(client.find_roots().unwrap(), [(name.into(), path.clone())]);
    drop(client);
    let mut client = fixture.only_client();
    assert_eq!(collect(&mut client, GcAction::DeleteDead, &[]).paths, []);
    fs::remove_file(&link).unwrap();
    assert_eq!(client.find_roots().unwrap(), []);
    assert!(
        !auto.join(&hash).is_symlink(),
        "a link to nowhere is removed"
    );
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        [path]
    );
}

#[test]
fn names_of_indirect_roots_are_taken_as_they_are() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    let auto = fixture.site.state().join("gcroots/auto");
    for name in [
        "relative/name",
        "/no/such/file",
        "/../../etc/passwd",
        "/a/./b//c",
    ] {
        client.send(Bytes::new().word(12).string(name));
        assert_eq!((client.end(), client.word()), (End::Last, 1), "{name}");
    }
    for entry in fs::read_dir(auto).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        assert!(target.is_absolute(), "{}", target.display());
    }
    client.send(Bytes::new().word(14));
    assert_eq!((client.end(), client.word()), (End::Last, 0));
}

/// Collects nothing, and all that is said meanwhile.
fn words_of_collection(client: &mut Connection) -> String {
    let mut said = Vec::new();
    let mut hear = |text: &[u8]| said.extend_from_slice(text);
    client
        .collect_garbage(GcAction::ReturnLive, [].into(), u64::MAX, &mut hear)
        .unwrap();
    String::from_utf8(said).unwrap()
}

#[test]
fn nobody_is_told_what_is_in_a_directory_that_is_closed_to_him() {
    only_ours!();
    let fixture = Fixture::new();
    let mut root = fixture.client();
    let item = add_text(&mut root, "x", "x", &[]);
    let secret = fixture.site.path("secret");
    fs::create_dir(&secret).unwrap();
    symlink(item.as_path(), secret.join("there")).unwrap();
    symlink(fixture.path("invalid").as_path(), secret.join("invalid")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    // What others see is told by a link to it, too.
    symlink(&secret, fixture.site.path("way")).unwrap();
    let closed = [
        secret.join("there"),
        secret.join("invalid"),
        secret.join("gone"),
        secret.join("gone/deeper"),
        fixture.site.path("way/there"),
        fixture.site.path("way/gone"),
    ];
    let open = [fixture.site.path("gone")];
    let connect = || fixture.greet(connect_as(NOBODY, &fixture.site.socket()));
    let mut nobody = connect();
    for link in closed.iter().chain(&open) {
        let link = link.to_str().unwrap().into();
        nobody.call(&AddIndirectRoot { link }).unwrap();
    }
    let auto = fixture.site.state().join("gcroots/auto");
    let left = || -> BTreeSet<PathBuf> {
        fs::read_dir(&auto)
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
            .collect()
    };
    assert_eq!(left().len(), 7);
    assert_eq!(nobody.find_roots().unwrap(), []);
    assert_eq!(left(), closed.iter().cloned().collect());
    let said = words_of_collection(&mut nobody);
    assert!(!said.contains("secret") && !said.contains("way"), "{said}");
    // Nor by what others do.
    let told: Vec<_> = [secret.join("there"), fixture.site.path("way/there")]
        .map(|link| (link.to_str().unwrap().into(), item.clone()))
        .into();
    assert_eq!(root.find_roots().unwrap(), told);
    assert!(words_of_collection(&mut root).contains("secret/invalid"));
    assert_eq!(left(), closed.iter().cloned().collect());
    // The item is kept all the same.
    drop((root, nobody));
    let mut client = fixture.only_client();
    assert_eq!(
        collect(&mut client, GcAction::ReturnLive, &[]).paths,
        [item]
    );
}

#[test]
fn links_and_directories_that_change_places_end_no_collection() {
    only_ours!();
    let fixture = Fixture::new();
    let mut root = fixture.client();
    let item = add_text(&mut root, "x", "x", &[]);
    fixture.root("kept", &item);
    let secret = fixture.site.path("secret");
    fs::create_dir(&secret).unwrap();
    for number in 0..50 {
        symlink(item.as_path(), secret.join(format!("secret-{number}"))).unwrap();
    }
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let mut nobody = fixture.greet(connect_as(NOBODY, &fixture.site.socket()));
    let own = fixture.site.state().join("profiles/per-user/nobody");
    for number in 0..20 {
        fs::create_dir(own.join(format!("directory-{number}"))).unwrap();
        symlink(&secret, own.join(format!("link-{number}"))).unwrap();
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = system::tree::Dir::open(&own).unwrap();
            while !ended.load(Ordering::Relaxed) {
                for number in 0..20 {
                    let (link, directory) =
                        (format!("link-{number}"), format!("directory-{number}"));
                    dir.exchange(&link, &dir, &directory).unwrap();
                }
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..60 {
                for (link, _) in nobody.find_roots().unwrap() {
                    assert!(!link.to_string().contains("secret-"), "{link}");
                }
                assert_eq!(
                    collect(&mut root, GcAction::ReturnLive, &[]).paths,
                    from_ref(&item)
                );
            }
        }));
        ended.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn links_that_guix_shell_and_time_machine_keep_are_roots() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    drop(fixture.greet(connect_as(NOBODY, &fixture.site.socket())));
    let user = fixture.site.state().join("profiles/per-user/nobody");
    let mut kept = BTreeSet::new();
    for directory in ["profiles", "inferiors"] {
        let item = add_text(&mut client, directory, directory, &[]);
        fs::create_dir(user.join(directory)).unwrap();
        symlink(item.as_path(), user.join(directory).join("cached")).unwrap();
        kept.insert(item);
    }
    add_text(&mut client, "garbage", "x", &[]);
    drop(client);
    let mut client = fixture.only_client();
    let dead = collect(&mut client, GcAction::DeleteDead, &[]).paths;
    assert_eq!(dead.len(), 1);
    assert_eq!(client.query_all_valid_paths().unwrap(), kept);
}

#[test]
fn waiting_for_the_collector_ends_when_there_is_none() {
    let fixture = Fixture::new();
    fixture.client().call(&SyncWithGC {}).unwrap();
}

#[test]
fn users_get_a_profile_directory_of_their_own() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    drop(fixture.greet(connect_as(NOBODY, &fixture.site.socket())));
    let users = fixture.site.state().join("profiles/per-user");
    let nobody = fs::metadata(users.join("nobody")).unwrap();
    assert_eq!((nobody.uid(), nobody.mode() & 0o7777), (NOBODY, 0o755));
    // A user without a name has no directory.
    let client = connect_as(77_777, &fixture.site.socket());
    assert_eq!(fixture.greet(client).builtin_builders().unwrap().len(), 2);
    let gcroots = fixture.site.state().join("gcroots/profiles");
    assert_eq!(
        fs::read_link(gcroots).unwrap(),
        fixture.site.state().join("profiles")
    );
}
