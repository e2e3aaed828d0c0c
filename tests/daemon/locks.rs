//! Locks and roots that another daemon, on the same store, may hold.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use formats::Hash;
use protocol::codec::Done;
use protocol::operations::{GcAction, SyncWithGC};
use system::lock::{LockFile, Mode};

use crate::harness::TEST_TIMEOUT;
use crate::items::*;
use crate::only_ours;
use crate::support::*;

/// Checks that nothing is received for a moment.
#[track_caller]
fn assert_waits<T>(receiver: &Receiver<T>) {
    let come = receiver.recv_timeout(Duration::from_millis(200));
    assert!(
        matches!(come, Err(RecvTimeoutError::Timeout)),
        "it does not wait"
    );
}

/// Checks that `work` waits for `lock`, and ends once that is released.
fn waits_for(lock: LockFile, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let (done, is_done) = channel();
        scope.spawn(move || {
            work();
            done.send(()).unwrap();
        });
        assert_waits(&is_done);
        drop(lock);
        is_done
            .recv_timeout(TEST_TIMEOUT)
            .expect("it goes on waiting");
    });
}

/// Takes a free lock.
fn take_lock(path: PathBuf, mode: Mode) -> LockFile {
    let lock = LockFile::open(path).unwrap();
    assert!(lock.try_lock(mode).unwrap());
    lock
}

#[test]
fn an_item_that_another_works_on_is_waited_for() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    let text = fixture
        .dir()
        .text_path("x", &Hash::sha256("x"), [])
        .unwrap();
    let lock = || take_lock(format!("{text}.lock").into(), Mode::Exclusive);
    waits_for(lock(), || {
        assert_eq!(add_text(&mut client, "x", "x", &[]), text)
    });
    assert!(
        !PathBuf::from(format!("{text}.lock")).exists(),
        "it goes with success"
    );
    let path = fixture.path("imported");
    let archive = Item::text(&path, "x").archive(Some(&keys));
    let lock = take_lock(format!("{path}.lock").into(), Mode::Exclusive);
    waits_for(lock, || {
        drop(
            fixture
                .client()
                .import_paths(&mut archive.as_slice())
                .unwrap(),
        )
    });
    // A valid path needs no lock.
    let _lock = take_lock(format!("{text}.lock").into(), Mode::Exclusive);
    assert_eq!(add_text(&mut client, "x", "x", &[]), text);
}

#[test]
fn an_item_that_another_has_made_meanwhile_is_not_made_again() {
    let fixture = Fixture::new();
    let client = &mut fixture.client();
    let path = fixture
        .dir()
        .text_path("x", &Hash::sha256("x"), [])
        .unwrap();
    let lock = take_lock(format!("{path}.lock").into(), Mode::Exclusive);
    std::thread::scope(|scope| {
        let (done, is_done) = channel();
        scope.spawn(move || done.send(add_text(client, "x", "x", &[])).unwrap());
        assert_waits(&is_done);
        // The previous owner deletes the lock file; a waiting process must take the new one.
        let next = LockFile::open(format!("{path}.lock.next")).unwrap();
        assert!(next.try_lock(Mode::Exclusive).unwrap());
        lock.delete().unwrap();
        fs::rename(format!("{path}.lock.next"), format!("{path}.lock")).unwrap();
        drop(lock);
        assert_waits(&is_done);
        drop(next);
        assert_eq!(is_done.recv_timeout(TEST_TIMEOUT).unwrap(), path);
    });
}

#[test]
fn collectors_and_those_who_wait_for_them_respect_the_lock() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    add_text(&mut client, "x", "x", &[]);
    let lock = |mode| take_lock(fixture.site.state().join("gc.lock"), mode);
    waits_for(lock(Mode::Exclusive), || {
        assert_eq!(client.call(&SyncWithGC {}).unwrap(), Done)
    });
    waits_for(lock(Mode::Exclusive), || {
        drop(collect(&mut client, GcAction::DeleteDead, &[]))
    });
    waits_for(lock(Mode::Shared), || {
        drop(collect(&mut client, GcAction::ReturnDead, &[]))
    });
    let shared = lock(Mode::Shared);
    client.call(&SyncWithGC {}).unwrap();
    drop(shared);
    // A session that adds its first root reports what it waits for.
    let mut client = fixture.client();
    let log = listen(&mut client);
    waits_for(lock(Mode::Exclusive), || {
        drop(add_text(&mut client, "x", "x", &[]))
    });
    let log = take(&log);
    assert!(
        log.contains("waiting for the big garbage collector lock..."),
        "{log}"
    );
}

#[test]
fn roots_of_other_daemons_sessions_are_kept_and_those_of_dead_ones_removed() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let living = add_text(&mut client, "living", "x", &[]);
    let dead = add_text(&mut client, "dead", "x", &[]);
    drop(client);
    let roots = fixture.site.state().join("temproots");
    let lock = take_lock(roots.join("4000001"), Mode::Shared);
    write!(lock.file(), "{living}\0{}\0", fixture.path("invalid")).unwrap();
    fs::write(roots.join("4000002"), format!("{dead}\0")).unwrap();
    // One that was truncated in the middle of a name.
    let cut = take_lock(roots.join("4000003"), Mode::Shared);
    write!(cut.file(), "{}", &dead.as_str()[..20]).unwrap();
    let mut client = fixture.client();
    let gone = || collect(&mut fixture.client(), GcAction::ReturnDead, &[]).paths;
    fixture
        .daemon
        .wait_until(|| gone() == [dead.clone()], "to end a session");
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        [dead]
    );
    assert!(!roots.join("4000002").exists());
    assert!(roots.join("4000001").exists());
    fixture.assert_holds([&living]);
    drop((lock, cut));
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        [living]
    );
}

#[test]
fn a_lock_file_that_somebody_has_written_to_keeps_nobody_waiting() {
    only_ours!();
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let text = fixture
        .dir()
        .text_path("x", &Hash::sha256("x"), [])
        .unwrap();
    // As a builder without a chroot can, who is in the store directory's group.
    let lock = format!("{text}.lock");
    fs::write(&lock, "d").unwrap();
    std::os::unix::fs::chown(&lock, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(add_text(&mut client, "x", "x", &[]), text);
    assert!(!PathBuf::from(&lock).exists());
}

#[test]
fn locks_of_items_in_use_are_no_garbage() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let path = fixture.path("being-built");
    client.add_temp_root(&path).unwrap();
    let lock = format!("{path}.lock");
    File::create(&lock).unwrap();
    File::create(format!("{}.lock", fixture.path("other"))).unwrap();
    collect(&mut fixture.client(), GcAction::DeleteDead, &[]);
    let left = fixture.entries_and_locks();
    assert!(
        left.contains(&format!("{}.lock", path.base_name())),
        "{left:?}"
    );
    assert!(
        !left.contains(&format!("{}.lock", fixture.path("other").base_name())),
        "{left:?}"
    );
}
