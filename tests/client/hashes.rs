//! `guix-client hash`. The expected hashes are those that `sha256sum` and `guix hash` print.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::fixture::Fixture;

/// The hash of the five bytes `hello`.
const SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn formats() {
    let fixture = Fixture::new();
    let file = fixture.write("file", "hello");
    let hash = |options: &[&str]| {
        let words = [&["hash"], options, &[file.to_str().unwrap()]].concat();
        fixture.run(&words).succeeds().says_nothing().line()
    };
    let base32 = "094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic";
    assert_eq!(hash(&[]), base32);
    assert_eq!(hash(&["--format=nix-base32"]), base32);
    for format in ["hex", "base16", "hexadecimal"] {
        assert_eq!(hash(&["-f", format]), SHA256);
    }
    let base64 = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    assert_eq!(hash(&["-f", "base64"]), base64);
    let base32 = "ftze3os7wcrq4jxihmvmlopctynrmhs4d6tuexttaqzwfe4ltasa";
    assert_eq!(hash(&["-f", "base32"]), base32);
    let sha1 = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
    assert_eq!(hash(&["-H", "sha1", "-f", "hex"]), sha1);
    let sha512 = hash(&["--hash=sha512", "--format=hex"]);
    assert!(sha512.starts_with("9b71d224bd62f378") && sha512.len() == 128);
}

#[test]
fn standard_input_and_several_files() {
    let fixture = Fixture::new();
    fixture
        .run_with_input(&["hash", "-f", "hex", "-"], "hello")
        .succeeds()
        .prints_lines(&[SHA256]);
    fixture.write("file", "hello");
    let words = ["hash", "-f", "hex", "file", "file"];
    let run = fixture.run(&words);
    run.succeeds().prints_lines(&[SHA256, SHA256]);
}

#[test]
fn a_tree_has_the_hash_of_its_nar() {
    let fixture = Fixture::new();
    let tree = fixture.file("tree");
    fs::create_dir_all(tree.join("directory")).unwrap();
    fs::write(tree.join("directory/file"), "hello").unwrap();
    fs::write(tree.join("program"), "#!").unwrap();
    fs::set_permissions(tree.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("program", tree.join("link")).unwrap();
    let recursive = fixture.run(&["hash", "-r", "tree"]).succeeds().line();
    for option in ["--serializer=nar", "-Snar", "--recursive"] {
        let run = fixture.run(&["hash", option, "tree"]);
        run.succeeds().prints_lines(&[&recursive]);
    }
    // The store's own hash of the same files.
    let item = fixture.run(&["add", "tree"]).succeeds().line();
    let run = fixture.run(&["hash", "-r", &item]);
    run.succeeds().prints_lines(&[&recursive]);
    fixture.write("tree/directory/file", "changed");
    assert_ne!(fixture.run(&["hash", "-r", "tree"]).line(), recursive);
    // The hash of a file's nar differs from that of its contents.
    let contents = fixture.run(&["hash", "-S", "none", "tree/program"]).line();
    assert_ne!(
        contents,
        fixture.run(&["hash", "-r", "tree/program"]).line()
    );
}

#[test]
fn what_cannot_be_hashed_is_named() {
    let fixture = Fixture::new();
    let missing = "guix-client hash: error: hashing `missing': ";
    fixture.run(&["hash", "missing"]).fails(missing);
    fixture.run(&["hash", "-r", "missing"]).fails(missing);
    fs::create_dir(fixture.file("directory")).unwrap();
    fixture
        .run(&["hash", "directory"])
        .fails("hashing `directory': Is a directory\n");
    mkfifo(&fixture.file("directory/pipe"), Mode::S_IRWXU).unwrap();
    fixture
        .run(&["hash", "-r", "directory"])
        .fails("file `directory/pipe' has an unsupported type\n");
    fixture.run(&["hash", "-H", "crc", "x"]).fails("crc");
    fixture
        .run(&["hash", "-f", "decimal", "x"])
        .fails("decimal");
    fixture.run(&["hash"]).fails("required");
}
