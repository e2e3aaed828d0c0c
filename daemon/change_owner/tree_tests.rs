//! Tests of [`super`]. Nothing here needs root: a file is given to whoever has it already.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

/// A giver from and to the user of this process.
fn giver(scratch: &Path) -> Giver {
    let metadata = fs::metadata(scratch).unwrap();
    let account = Account {
        name: "me".into(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        home: "/".into(),
    };
    Giver::new(&account, metadata.uid())
}

#[test]
fn trees_are_walked_without_following_links() {
    let scratch = tempfile::tempdir().unwrap();
    let top = scratch.path().canonicalize().unwrap();
    fs::create_dir_all(top.join("state/profiles/per-user/alice")).unwrap();
    fs::write(top.join("state/profiles/per-user/alice/file"), "").unwrap();
    fs::write(top.join("state/file"), "").unwrap();
    fs::create_dir(top.join("elsewhere")).unwrap();
    fs::write(top.join("elsewhere/file"), "").unwrap();
    symlink(top.join("elsewhere"), top.join("state/link")).unwrap();
    let mut giver = giver(&top);
    let keep = top.join("state/profiles/per-user");
    giver.give_private(&top.join("state"), Some(&keep)).unwrap();
    // state, file, link, profiles, per-user.
    assert_eq!((giver.changed, giver.right), (0, 5));
    assert!(giver.left.is_empty());
    let missing = top.join("missing");
    giver.give_private(&missing, Some(&keep)).unwrap();
    giver
        .give_private(&missing.join("state"), Some(&keep))
        .unwrap();
    assert_eq!(giver.right, 5);
}

#[test]
fn files_with_other_names_stay_outside_of_the_store() {
    let scratch = tempfile::tempdir().unwrap();
    let top = scratch.path().canonicalize().unwrap();
    fs::create_dir_all(top.join("state")).unwrap();
    fs::write(top.join("precious"), "").unwrap();
    fs::hard_link(top.join("precious"), top.join("state/name")).unwrap();
    let mut giver = giver(&top);
    giver.give_private(&top.join("state"), None).unwrap();
    assert_eq!(giver.right, 1);
    let shown = top.join("state/name").display().to_string();
    assert_eq!(
        giver.report("me"),
        format!(
            "left as it is: `{shown}', it has other names\n0 files are now me's; 1 were before\n"
        )
    );
    // In the store that is how equal files are kept.
    let store = Dir::open(top.join("state")).unwrap();
    giver.give_store(&store, &top.join("state")).unwrap();
    assert_eq!(giver.right, 2);
}

#[test]
fn what_stays_is_counted_when_it_is_too_much_to_name() {
    let scratch = tempfile::tempdir().unwrap();
    let mut giver = giver(scratch.path());
    for number in 0..NAMED + 3 {
        giver.leave_alone(Path::new(&number.to_string()), "odd");
    }
    let report = giver.report("me");
    assert!(
        report.contains("left as it is: `19', odd\nleft as they are: 3 more\n"),
        "{report}"
    );
}
