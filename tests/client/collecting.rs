//! `guix-client gc`: collecting and deleting.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::fixture::Fixture;
use crate::harness::is_ours;

/// Three dead items and one that a root keeps.
fn with_garbage() -> (Fixture, [String; 3], String) {
    let fixture = Fixture::new();
    let dead = ["one", "two", "six"].map(|name| fixture.add_text(name, &name.repeat(3000), &[]));
    let kept = fixture.add_text("kept", "", &[]);
    fixture.run(&["build", &kept, "--root=kept"]).succeeds();
    fixture.wait_for_sessions_to_end();
    (fixture, dead, kept)
}

#[test]
fn what_no_root_keeps_is_collected() {
    let (fixture, dead, kept) = with_garbage();
    let list = fixture.run(&["gc", "--list-dead"]);
    list.succeeds().prints_all_of(&dead);
    let list = fixture.run(&["gc", "--list-live"]);
    list.succeeds().prints_all_of(&[&kept]);
    fixture
        .run(&["gc"])
        .succeeds()
        .prints_nothing()
        .says("guix-client gc: freed ");
    assert!(!dead.iter().any(|item| fixture.has(item)));
    assert!(fixture.has(kept));
    fixture
        .run(&["gc", "--list-dead"])
        .succeeds()
        .prints_nothing();
}

#[test]
fn what_is_freed_is_counted_once() {
    // Guix's daemon counts a file again when it removes the link to it.
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let contents: Vec<u8> = (0..3 << 20).map(|_| rand::random()).collect();
    let file = fixture.write("file", contents).display().to_string();
    let add = |name: &str| {
        fixture
            .run(&["add", "--name", name, &file])
            .succeeds()
            .line()
    };
    let freed = |text: &str| {
        fixture.wait_for_sessions_to_end();
        let run = fixture.run(&["gc"]);
        run.succeeds()
            .says(format!("guix-client gc: freed {text}\n"));
    };
    add("one");
    freed("3 MiB");
    // Equal files take space once,
    fs::create_dir(fixture.file("directory")).unwrap();
    fs::copy(&file, fixture.file("directory/copy")).unwrap();
    fixture.run(&["add", "directory"]).succeeds();
    add("one");
    let kept = add("two");
    fixture.run(&["build", &kept, "--root=kept"]).succeeds();
    // and until the last one is gone.
    freed("0 bytes");
    fs::remove_file(fixture.file("kept")).unwrap();
    freed("3 MiB");
}

#[test]
fn without_items_nothing_is_done_and_that_is_said() {
    let (fixture, dead, _) = with_garbage();
    for option in [
        "--delete",
        "--references",
        "-R",
        "--referrers",
        "--derivers",
        "--clear-failures",
    ] {
        let run = fixture.run(&["gc", option]);
        let warning = "guix-client gc: warning: no arguments specified, nothing to do\n";
        run.succeeds().says(warning).prints_nothing();
    }
    assert!(dead.iter().all(|item| fixture.has(item)));
}

#[test]
fn a_collection_can_stop_when_enough_is_freed() {
    let left_after = |words: &[&str]| {
        let (fixture, dead, _) = with_garbage();
        fixture.run(words).succeeds().says("freed ");
        dead.iter().filter(|item| fixture.has(item)).count()
    };
    assert_eq!(left_after(&["gc", "-C", "1"]), 2);
    assert_eq!(left_after(&["gc", "-C10KiB"]), 1);
    assert_eq!(left_after(&["gc", "--collect-garbage=1G"]), 0);
    assert_eq!(left_after(&["gc", "-C"]), 0);
}

#[test]
fn a_collection_can_make_space() {
    let (fixture, dead, _) = with_garbage();
    let all_there = || dead.iter().all(|item| fixture.has(item));
    fixture
        .run(&["gc", "-F", "1"])
        .succeeds()
        .says(" available on ")
        .says(", nothing to do\n");
    assert!(all_there());
    fixture
        .run(&["gc", "--free-space=1000PiB"])
        .succeeds()
        .says("guix-client gc: freeing ")
        .says("guix-client gc: freed ");
    assert!(!all_there());
}

#[test]
fn amounts_that_are_none_are_refused() {
    let (fixture, dead, _) = with_garbage();
    for words in [["gc", "-C", "lots"], ["gc", "-F", "1XB"]] {
        let message = format!("invalid amount of storage: {}", words[2]);
        fixture.run(&words).fails(&message);
    }
    assert!(dead.iter().all(|item| fixture.has(item)));
}

#[test]
fn an_item_is_deleted_unless_something_needs_it() {
    let (fixture, [one, two, six], kept) = with_garbage();
    fixture.run(&["gc", "--delete", &one]).succeeds();
    assert!(!fixture.has(&one) && fixture.has(&two));
    fixture.run(&["gc", "-D", &two, &six]).succeeds();
    assert!(!fixture.has(&two) && !fixture.has(&six));
    fixture
        .run(&["gc", "--delete", &kept])
        .fails(&format!("`{kept}'"))
        .says("still alive");
    assert!(fixture.has(&kept));
}

#[test]
fn equal_files_are_linked() {
    let fixture = Fixture::with_options(&["--no-substitutes", "--disable-deduplication"]);
    let text = "the same\n".repeat(1000);
    let [one, two] = ["one", "two"].map(|name| fixture.add_text(name, &text, &[]));
    let inode = |item: &str| fs::metadata(item).unwrap().ino();
    assert_ne!(inode(&one), inode(&two));
    fixture
        .run(&["gc", "--optimize"])
        .succeeds()
        .prints_nothing();
    assert_eq!(inode(&one), inode(&two));
    fixture.run(&["gc", "--optimise"]).succeeds();
}

#[test]
fn failures_are_remembered_and_can_be_forgotten() {
    let fixture = Fixture::with_options(&["--no-substitutes", "--cache-failures"]);
    let counter = fixture.gate("count");
    let script = format!("echo >>{}; exit 1", counter.display());
    let (_client, drv) = fixture.derivation("failing", &script);
    let builds = || fs::read(&counter).map_or(0, |bytes| bytes.len());
    let build = || {
        fixture.run(&["build", drv.path.as_str()]).fails("fail");
        builds()
    };
    assert_eq!((build(), build()), (1, 1));
    let list = || fixture.run(&["gc", "--list-failures"]);
    list().succeeds().prints_lines(&[drv.out().as_str()]);
    fixture
        .run(&["gc", "--clear-failures", drv.out().as_str()])
        .succeeds();
    list().succeeds().prints_nothing();
    assert_eq!(build(), 2);
}

#[test]
fn one_thing_is_done_at_a_time() {
    let (fixture, dead, _) = with_garbage();
    fixture
        .run(&["gc", "--list-dead", "--delete", &dead[0]])
        .fails("cannot be used with");
    for words in [
        &["gc", "extra"][..],
        &["gc", "-C1", "extra"],
        &["gc", "--optimize", "extra"],
        &["gc", "--verify", "extra"],
        &["gc", "--list-roots", "extra"],
        &["gc", "--list-dead", "extra"],
        &["gc", "--list-live", "extra"],
        &["gc", "--list-failures", "extra"],
    ] {
        fixture.run(words).fails("extraneous arguments: extra\n");
    }
    assert!(dead.iter().all(|item| fixture.has(item)));
}
