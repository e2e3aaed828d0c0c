use super::*;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

struct Paths(Vec<String>);

impl Visit for Paths {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        self.0.push(file.path().to_string_lossy().into_owned());
        Ok(Descend::Into)
    }

    fn leave(&mut self, directory: &Visited<'_>) -> io::Result<()> {
        self.0.push(format!("{}/", directory.path().display()));
        Ok(())
    }
}

fn scratch() -> (tempfile::TempDir, Dir) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = Dir::open(scratch.path()).unwrap();
    (scratch, dir)
}

/// A chain of directories `d/d/d…` that is too deep for a path name.
fn deep(dir: &Dir, depth: usize) {
    let mut at = dir.try_clone().unwrap();
    for _ in 0..depth {
        at.create_dir("d", 0o755).unwrap();
        at = at.open_dir("d").unwrap();
    }
    at.create_new("file", 0o644).unwrap();
}

#[test]
fn a_walk_goes_parents_first_in_bytewise_order() {
    let (scratch, dir) = scratch();
    let root = scratch.path().join("t");
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::write(root.join("a"), "").unwrap();
    fs::write(root.join("B"), "").unwrap();
    symlink("/", root.join("z")).unwrap();
    let mut paths = Paths(Vec::new());
    walk(&dir, "t", &mut paths).unwrap();
    assert_eq!(
        paths.0,
        [
            "t", "t/B", "t/a", "t/b", "t/b/c", "t/b/c/", "t/b/", "t/z", "t/"
        ]
    );
    let mut one = Paths(Vec::new());
    walk(&dir.open_dir("t").unwrap(), "a", &mut one).unwrap();
    assert_eq!(one.0, ["a"]);
}

#[test]
fn deep_trees_are_walked_and_removed_with_few_descriptors() {
    let (scratch, dir) = scratch();
    deep(&dir, 3000);
    let mut paths = Paths(Vec::new());
    let limit = fs::read_dir("/proc/self/fd").unwrap().count();
    walk(&dir, "d", &mut paths).unwrap();
    assert_eq!(paths.0.len(), 6001);
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() < limit + 200);
    remove_tree(&dir, "d").unwrap();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_moved_during_the_walk_is_noticed() {
    struct Mover<'a> {
        scratch: &'a Path,
        done: bool,
    }
    impl Visit for Mover<'_> {
        fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
            if file.name == "file" && !self.done {
                self.done = true;
                // Move a directory that the walk has closed out of the tree.
                let middle = "d/".repeat(60);
                fs::rename(self.scratch.join(middle), self.scratch.join("elsewhere"))?;
            }
            Ok(Descend::Into)
        }
    }
    let (scratch, dir) = scratch();
    deep(&dir, 100);
    let error = walk(
        &dir,
        "d",
        &mut Mover {
            scratch: scratch.path(),
            done: false,
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("replaced meanwhile"), "{error}");
}

#[test]
fn removal_copes_with_read_only_directories_and_follows_no_links() {
    let (scratch, dir) = scratch();
    let root = scratch.path().join("t");
    let outside = scratch.path().join("outside");
    fs::create_dir_all(root.join("locked/inner")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    fs::write(root.join("locked/inner/f"), vec![1; 10000]).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    for path in ["t/locked/inner", "t/locked", "t"] {
        fs::set_permissions(scratch.path().join(path), fs::Permissions::from_mode(0o500)).unwrap();
    }
    assert!(remove_tree(&dir, "t").unwrap() >= 10000);
    assert!(!root.exists() && outside.join("keep").exists());
    assert!(remove_tree(&dir, "t").is_err());
    symlink(&outside, &root).unwrap();
    remove_tree(&dir, "t").unwrap();
    assert!(outside.join("keep").exists());
}

#[test]
fn copies_share_nothing_and_keep_modes_and_times() {
    let (scratch, dir) = scratch();
    let root = scratch.path().join("t");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("sub/program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("sub/program"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::hard_link(root.join("sub/program"), root.join("again")).unwrap();
    symlink("nowhere", root.join("link")).unwrap();
    dir.open_dir("t")
        .unwrap()
        .set_times_at("again", None, 1)
        .unwrap();
    dir.open_dir("t")
        .unwrap()
        .set_times_at("link", None, 1)
        .unwrap();
    fs::set_permissions(root.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    copy_tree(&dir, "t", &dir, "copy", &|| false).unwrap();
    let copy = scratch.path().join("copy");
    let program = fs::metadata(copy.join("sub/program")).unwrap();
    assert_eq!(
        (program.mode() & 0o7777, program.nlink(), program.mtime()),
        (0o555, 1, 1)
    );
    assert_eq!(fs::read(copy.join("again")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(
        fs::read_link(copy.join("link")).unwrap(),
        Path::new("nowhere")
    );
    assert_eq!(fs::symlink_metadata(copy.join("link")).unwrap().mtime(), 1);
    assert_eq!(
        fs::metadata(copy.join("sub")).unwrap().mode() & 0o7777,
        0o555
    );
    assert!(copy_tree(&dir, "t", &dir, "copy", &|| false).is_err());
    let status = std::process::Command::new("mkfifo")
        .arg(root.join("pipe"))
        .status()
        .unwrap();
    assert!(status.success());
    let error = copy_tree(&dir, "t", &dir, "copy2", &|| false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot copy `t/pipe': it has an unsupported type"
    );
}

#[test]
fn copies_of_holes_are_holes() {
    let (scratch, dir) = scratch();
    let (size, at) = (1 << 40, 1 << 39);
    let file = fs::File::create(scratch.path().join("f")).unwrap();
    file.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
    copy_tree(&dir, "f", &dir, "copy", &|| false).unwrap();
    let copy = fs::File::open(scratch.path().join("copy")).unwrap();
    let mut found = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&copy, &mut found, at - 1).unwrap();
    assert_eq!(&found, b"\0data\0");
    let metadata = copy.metadata().unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() < 1024, "{}", metadata.blocks());
}

#[test]
fn copying_a_deep_tree_keeps_few_descriptors_open() {
    let (_scratch, dir) = scratch();
    deep(&dir, 3000);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let most = std::cell::Cell::new(0);
    // It is asked at each directory.
    copy_tree(&dir, "d", &dir, "copy", &|| {
        most.set(most.get().max(open()));
        false
    })
    .unwrap();
    // Other tests have descriptors, too.
    assert!(most.get() < before + 500, "{} of {before}", most.get());
    let mut copy = Paths(Vec::new());
    walk(&dir, "copy", &mut copy).unwrap();
    let mut original = Paths(Vec::new());
    walk(&dir, "d", &mut original).unwrap();
    assert_eq!(copy.0.len(), original.0.len());
    remove_tree(&dir, "copy").unwrap();
    remove_tree(&dir, "d").unwrap();
}

#[test]
fn copying_can_be_stopped() {
    let (scratch, dir) = scratch();
    fs::create_dir(scratch.path().join("t")).unwrap();
    fs::write(scratch.path().join("t/f"), "x").unwrap();
    let asked = std::cell::Cell::new(0);
    let error = copy_tree(&dir, "t", &dir, "copy", &|| {
        asked.set(asked.get() + 1);
        asked.get() > 1
    })
    .unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::Interrupted);
    assert!(!scratch.path().join("copy/f").exists());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_scratch, dir) = scratch();
    for name in ["", ".", "..", "a/b", "/etc"] {
        let error = dir.stat_at(name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn open_beneath_stays_beneath() {
    let (scratch, dir) = scratch();
    fs::create_dir_all(scratch.path().join("a/b")).unwrap();
    symlink("b", scratch.path().join("a/inner")).unwrap();
    dir.open_beneath("a/b").unwrap();
    for bad in ["a/../../..", "/etc", "a/inner"] {
        assert!(dir.open_beneath(bad).is_err(), "{bad}");
    }
}

#[test]
fn modes_and_owners_of_links_are_their_own() {
    let (scratch, dir) = scratch();
    fs::write(scratch.path().join("f"), "").unwrap();
    fs::set_permissions(scratch.path().join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("f", scratch.path().join("l")).unwrap();
    dir.set_times_at("l", None, 1).unwrap();
    assert!(dir.chmod_at("l", 0o777).is_err());
    assert_eq!(dir.stat_at("f").unwrap().mode(), 0o600);
    assert_ne!(dir.stat_at("f").unwrap().mtime().0, 1);
    assert_eq!(dir.stat_at("l").unwrap().mtime(), (1, 0));
    dir.chmod_at("f", 0o444).unwrap();
    assert_eq!(dir.stat_at("f").unwrap().mode(), 0o444);
    assert!(dir.open_file("l").is_err());
}

#[test]
fn exchange_and_rename_new_do_what_they_say() {
    let (scratch, dir) = scratch();
    fs::write(scratch.path().join("a"), "A").unwrap();
    fs::write(scratch.path().join("b"), "B").unwrap();
    assert!(dir.rename_new("a", &dir, "b").is_err());
    dir.exchange("a", &dir, "b").unwrap();
    assert_eq!(fs::read(scratch.path().join("a")).unwrap(), b"B");
    dir.rename("a", &dir, "b").unwrap();
    assert_eq!(fs::read(scratch.path().join("b")).unwrap(), b"B");
}
