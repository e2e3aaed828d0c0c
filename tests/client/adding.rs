//! `guix-client add` and `add-text`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::fixture::Fixture;

#[test]
fn files_directories_and_links_are_added() {
    let fixture = Fixture::new();
    fixture.write("file", "contents");
    fs::create_dir_all(fixture.file("tree/inner")).unwrap();
    fixture.write("tree/inner/file", "inside");
    symlink("nowhere", fixture.file("link")).unwrap();
    let run = fixture.run(&["add", "file", "tree", "link"]);
    let items = run.succeeds().says_nothing().lines();
    assert_eq!(items.len(), 3);
    assert!(
        items
            .iter()
            .all(|item| Path::new(item).starts_with(fixture.site.store()))
    );
    assert_eq!(fs::read(&items[0]).unwrap(), b"contents");
    let inner = Path::new(&items[1]).join("inner/file");
    assert_eq!(fs::read(inner).unwrap(), b"inside");
    assert_eq!(fs::read_link(&items[2]).unwrap(), Path::new("nowhere"));
    fixture.run(&["gc", "--verify=contents"]).succeeds();
}

#[test]
fn an_item_has_the_files_name_or_another() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.file("tree")).unwrap();
    fixture.write("tree/file", "");
    let name_of = |words: &[&str]| {
        let item = fixture.run(words).succeeds().line();
        let base = Path::new(&item).file_name().unwrap().to_str().unwrap();
        base[33..].to_owned()
    };
    assert_eq!(name_of(&["add", "tree/file"]), "file");
    assert_eq!(name_of(&["add", "tree/"]), "tree");
    assert_eq!(name_of(&["add", "tree/."]), "tree");
    assert_eq!(name_of(&["add", "."]), "work");
    assert_eq!(name_of(&["add", "--name=other", "tree"]), "other");
    fixture
        .run(&["add", "--name=.bad", "tree"])
        .fails("adding `tree': ");
}

#[test]
fn the_hash_that_names_an_item_can_be_chosen() {
    let fixture = Fixture::new();
    fixture.write("file", "contents");
    let add = |options: &[&str]| {
        let words = [&["add"], options, &["file"]].concat();
        let item = fixture.run(&words).succeeds().line();
        assert_eq!(fs::read(&item).unwrap(), b"contents");
        item
    };
    let items = [
        add(&[]),
        add(&["--flat"]),
        add(&["--flat", "-H", "sha1"]),
        add(&["--hash=sha512"]),
    ];
    let mut different = items.to_vec();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), items.len(), "{items:?}");
    assert_eq!(add(&["--hash=sha256"]), items[0]);
}

#[test]
fn what_cannot_be_added_is_named_soon() {
    let fixture = Fixture::new();
    fixture
        .run(&["add", "missing"])
        .fails("guix-client add: error: adding `missing': missing: No such file or directory\n");
    fs::create_dir(fixture.file("tree")).unwrap();
    fixture.write("tree/before", vec![0; 1 << 20]);
    mkfifo(&fixture.file("tree/pipe"), Mode::S_IRWXU).unwrap();
    let message = "adding `tree': file `tree/pipe' has an unsupported type\n";
    fixture.run(&["add", "tree"]).fails(message);
    fixture.run(&["add", "tree/pipe"]).fails("unsupported type");
    for file in ["tree", "tree/pipe"] {
        let message = format!("adding `{file}': '--flat' needs a regular file\n");
        fixture.run(&["add", "--flat", file]).fails(&message);
    }
    fixture
        .run(&["add", "--flat", "missing"])
        .fails("adding `missing': No such file or directory\n");
    // Files before the error are added, those after it aren't.
    let words = ["add", "tree/before", "missing", "tree/before"];
    fixture.run(&words).fails("missing").line();
    fixture.run(&["add"]).fails("required");
}

#[test]
fn texts_refer_to_items() {
    let fixture = Fixture::new();
    let base = fixture.add_text("base", "", &[]);
    fixture.write("text", &base);
    let words = ["add-text", "top", "text", "-r", &base];
    let top = fixture.run(&words).succeeds().says_nothing().line();
    assert_eq!(fs::read_to_string(&top).unwrap(), base);
    let run = fixture.run(&["gc", "--references", &top]);
    run.succeeds().prints_lines(&[&base]);
    // The same again, from standard input.
    assert_eq!(fixture.add_text("top", &base, &[&base]), top);
}

#[test]
fn texts_that_cannot_be_added() {
    let fixture = Fixture::new();
    fixture
        .run(&["add-text", "name", "missing"])
        .fails("reading `missing': No such file or directory\n");
    let missing = fixture.no_item("missing");
    fixture
        .run(&["add-text", "name", "-r", &missing])
        .fails(&missing);
    fixture
        .run(&["add-text", "name", "-r", "/etc/passwd"])
        .fails("/etc/passwd");
    fixture.run(&["add-text", "a/b"]).fails("a/b");
}
