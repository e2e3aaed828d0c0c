//! `guix-client archive`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::fixture::{Fixture, Run};

/// A daemon that signs its exports.
fn with_keys() -> Fixture {
    let fixture = Fixture::new();
    let generated = fixture.run(&["archive", "--generate-key"]);
    generated.succeeds().prints_nothing();
    fixture
}

fn public_key(fixture: &Fixture) -> Vec<u8> {
    fs::read(fixture.site.configuration().join("signing-key.pub")).unwrap()
}

/// Makes `fixture` accept what `signer` signs.
#[track_caller]
fn authorize(fixture: &Fixture, signer: &Fixture) {
    let run = fixture.run_with_input(&["archive", "--authorize"], public_key(signer));
    run.succeeds().prints_nothing().says_nothing();
}

/// A store on another machine would have the same directory; here each has its own, so archives are
/// exported from a store and imported into it again.
#[track_caller]
fn export(fixture: &Fixture, options: &[&str], items: &[&str]) -> Run {
    let run = fixture.run(&[&["archive", "--export"], options, items].concat());
    run.succeeds().says_nothing();
    run
}

#[track_caller]
fn delete(fixture: &Fixture, items: &[&str]) {
    fixture.wait_for_sessions_to_end();
    fixture
        .run(&[&["gc", "--delete"], items].concat())
        .succeeds();
}

#[test]
fn items_go_out_and_come_back() {
    let fixture = with_keys();
    authorize(&fixture, &fixture);
    let base = fixture.add_text("base", "the base", &[]);
    let top = fixture.add_text("top", &base, &[&base]);
    let archive = export(&fixture, &["--recursive"], &[&top]);
    delete(&fixture, &[&base, &top]);
    let import = fixture.run_with_input(&["archive", "--import"], &archive.out);
    import.succeeds().prints_nothing();
    assert_eq!(fs::read(&base).unwrap(), b"the base");
    let references = fixture.run(&["gc", "--references", &top]);
    references.succeeds().prints_lines(&[&base]);
}

#[test]
fn without_recursive_only_the_items_go_out() {
    let fixture = with_keys();
    authorize(&fixture, &fixture);
    let base = fixture.add_text("base", "the base", &[]);
    let top = fixture.add_text("top", &base, &[&base]);
    let archive = export(&fixture, &[], &[&top]);
    delete(&fixture, &[&base, &top]);
    fixture
        .run_with_input(&["archive", "--import"], &archive.out)
        .fails(&base);
    fixture
        .run_with_input(&["archive", "--missing"], format!("{base}\n{top}\n"))
        .prints_lines(&[&base, &top]);
}

#[test]
fn an_archive_needs_an_authorised_signature() {
    let fixture = with_keys();
    let item = fixture.add_text("text", "", &[]);
    let archive = export(&fixture, &[], &[&item]);
    delete(&fixture, &[&item]);
    // Without an ACL, the machine's own key is authorised.
    fs::write(fixture.site.configuration().join("acl"), "(acl)").unwrap();
    fixture
        .run_with_input(&["archive", "--import"], &archive.out)
        .fails("unauthorized");
    assert!(!fixture.has(&item));
    // Another name for the same command.
    let run = fixture.run_with_input(&["authorize"], public_key(&fixture));
    run.succeeds().prints_nothing();
    fixture
        .run_with_input(&["archive", "--import"], &archive.out)
        .succeeds();
    assert!(fixture.has(&item));
}

#[test]
fn archives_that_end_early_or_are_none_are_refused() {
    let fixture = with_keys();
    authorize(&fixture, &fixture);
    let item = fixture.add_text("text", &"x".repeat(100_000), &[]);
    let archive = export(&fixture, &[], &[&item]).out;
    delete(&fixture, &[&item]);
    let import = |archive: &[u8]| {
        let run = fixture.run_with_input(&["archive", "--import"], archive);
        run.fails("guix-client archive: error: ");
    };
    import(b"nothing of the sort, at all");
    import(&archive[..9]);
    import(&archive[..1000]);
    assert!(!fixture.has(&item));
    // The item is complete, but the end of the archive is missing.
    import(&archive[..archive.len() - 8]);
}

#[test]
fn an_empty_export_is_warned_of_and_is_an_archive() {
    let fixture = with_keys();
    let run = fixture.run(&["archive", "--export"]);
    run.succeeds()
        .says("warning: no arguments specified; creating an empty archive\n");
    fixture
        .run_with_input(&["archive", "--import"], &run.out)
        .succeeds();
}

#[test]
fn what_is_not_in_the_store_cannot_be_exported() {
    let fixture = with_keys();
    let missing = fixture.no_item("missing");
    fixture
        .run(&["archive", "--export", &missing])
        .fails(&missing);
    fixture
        .run(&["archive", "--export", "/etc/passwd"])
        .fails("/etc/passwd");
}

#[test]
fn missing_items_are_listed() {
    let fixture = Fixture::new();
    let item = fixture.add_text("text", "", &[]);
    let missing = fixture.no_item("missing");
    let other = fixture.no_item("other");
    fixture
        .run_with_input(
            &["archive", "--missing"],
            format!("{other}\n{item}\n{missing}\n"),
        )
        .succeeds()
        .prints_lines(&[&other, &missing]);
    fixture
        .run(&["archive", "--missing"])
        .succeeds()
        .prints_nothing();
    fixture
        .run_with_input(&["archive", "--missing"], "/etc/passwd\n")
        .fails("/etc/passwd");
}

/// A nar of a directory with one entry of each type.
fn nar() -> Vec<u8> {
    use formats::nar::{Sink, Writer};
    let mut nar = Writer::new(Vec::new());
    let mut write = || -> std::io::Result<()> {
        nar.begin_directory()?;
        nar.entry("directory".into())?;
        nar.begin_directory()?;
        nar.entry("file".into())?;
        nar.regular(false, 5, &mut &b"hello"[..])?;
        nar.end_directory()?;
        nar.entry("link".into())?;
        nar.symlink("directory/file".into())?;
        nar.entry("program".into())?;
        nar.regular(true, 2, &mut &b"#!"[..])?;
        nar.end_directory()
    };
    write().unwrap();
    nar.into_inner()
}

#[test]
fn a_nar_is_listed_without_a_store() {
    let fixture = Fixture::new();
    for option in ["--list", "-t"] {
        let run = fixture.run_with_input(&["archive", option], nar());
        let lines = run.succeeds().says_nothing().lines();
        let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
        let file = format!("r {:<60} {:>10} B", "/directory/file", 5);
        let program = format!("x {:<60} {:>10} B", "/program", 2);
        let expected = [
            "D",
            "D /directory",
            &file,
            "S /link -> directory/file",
            &program,
        ];
        assert_eq!(lines, expected);
    }
    let mut nasty = formats::nar::Writer::new(Vec::new());
    formats::nar::Sink::symlink(&mut nasty, "x\n\x1b[2J".into()).unwrap();
    fixture
        .run_with_input(&["archive", "--list"], nasty.into_inner())
        .prints_lines(&["S  -> x\\n\\u{1b}[2J"]);
    fixture
        .run_with_input(&["archive", "--list"], &nar()[..200])
        .fails("guix-client archive: error: ");
}

#[test]
fn a_nar_is_extracted_without_a_store() {
    let fixture = Fixture::new();
    let extract = |words: &[&str], nar: &[u8]| fixture.run_with_input(words, nar);
    extract(&["archive", "-x", "tree"], &nar())
        .succeeds()
        .says_nothing();
    let tree = fixture.file("tree");
    assert_eq!(fs::read(tree.join("directory/file")).unwrap(), b"hello");
    let link = fs::read_link(tree.join("link")).unwrap();
    assert_eq!(link, Path::new("directory/file"));
    let mode = |name: &str| fs::metadata(tree.join(name)).unwrap().permissions().mode();
    assert_ne!(mode("program") & 0o100, 0);
    assert_eq!(mode("directory/file") & 0o111, 0);
    extract(&["archive", "--extract=tree"], &nar()).fails("extracting to `tree': ");
    extract(&["archive", "--extract=other"], b"nothing").fails("extracting to `other': ");
    extract(&["archive", "--extract=missing/dir"], &nar()).fails("No such file or directory");
}

#[test]
fn something_has_to_be_asked_for() {
    Fixture::new()
        .run(&["archive"])
        .fails("either '--export' or '--import' must be specified");
}
