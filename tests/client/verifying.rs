//! `guix-client gc --verify`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::fixture::Fixture;

fn damage(item: &str) {
    fs::set_permissions(item, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(item, "damaged").unwrap();
    fs::set_permissions(item, fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_store_in_order_is_status_0() {
    let fixture = Fixture::new();
    fixture.add_text("text", "contents", &[]);
    for option in ["--verify", "--verify=contents", "--verify=contents,repair"] {
        fixture.run(&["gc", option]).succeeds().prints_nothing();
    }
}

#[test]
fn damaged_contents_are_found_where_they_are_looked_for() {
    let fixture = Fixture::new();
    let item = fixture.add_text("text", "contents", &[]);
    damage(&item);
    fixture.run(&["gc", "--verify"]).succeeds();
    fixture.run(&["gc", "--verify=contents"]).fails(&item);
}

#[test]
fn damaged_outputs_are_repaired() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("built", "echo whole >$out");
    fixture.run(&["build", drv.path.as_str()]).succeeds();
    let out = drv.out().as_str();
    damage(out);
    fixture.run(&["gc", "--verify=contents"]).fails(out);
    fixture.run(&["gc", "--verify=repair,contents"]).says(out);
    assert_eq!(fs::read(out).unwrap(), b"whole\n");
    fixture.run(&["gc", "--verify=contents"]).succeeds();
}

#[test]
fn an_item_whose_files_are_gone_is_forgotten() {
    let fixture = Fixture::new();
    let item = fixture.add_text("text", "contents", &[]);
    fixture.wait_for_sessions_to_end();
    fs::remove_file(&item).unwrap();
    fixture.run(&["gc", "--verify"]).says(&item);
    fixture
        .run(&["gc", "--verify"])
        .succeeds()
        .does_not_say(&item);
    assert!(!Path::new(&item).exists());
}

#[test]
fn unknown_checks_are_refused() {
    Fixture::new()
        .run(&["gc", "--verify=everything"])
        .fails("everything: invalid '--verify' option");
}
