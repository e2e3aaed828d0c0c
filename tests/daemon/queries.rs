//! Queries about items.

use std::collections::BTreeSet;
use std::slice::from_ref;

use formats::StorePath;
use formats::export::Fields;
use protocol::operations::{GcAction, SetOptions};

use crate::harness::{Bytes, End};
use crate::items::*;
use crate::support::*;

#[test]
fn valid_items_are_told_from_others() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert!(client.query_all_valid_paths().unwrap().is_empty());
    let one = add_text(&mut client, "one", "x", &[]);
    let two = add_text(&mut client, "two", "x", &[&one]);
    let missing = fixture.path("missing");
    assert!(client.is_valid_path(&one).unwrap());
    assert!(!client.is_valid_path(&missing).unwrap());
    let both: BTreeSet<StorePath> = [one.clone(), two.clone()].into();
    assert_eq!(client.query_all_valid_paths().unwrap(), both);
    let asked = [missing.clone(), two.clone()].into();
    assert_eq!(
        client.query_valid_paths(asked).unwrap(),
        [two.clone()].into()
    );
    assert_eq!(
        client.query_valid_paths(BTreeSet::new()).unwrap(),
        BTreeSet::new()
    );
}

#[test]
fn items_are_found_by_their_hash_part() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let path = add_text(&mut client, "text", "x", &[]);
    let found = client.query_path_from_hash_part(path.hash_part()).unwrap();
    assert_eq!(found, Some(path.clone()));
    for absent in [
        "0".repeat(32),
        "z".repeat(32),
        "_".repeat(32),
        "%".repeat(32),
    ] {
        assert_eq!(client.query_path_from_hash_part(&absent).unwrap(), None);
    }
    let hash_part = path.hash_part();
    for wrong in [
        "",
        "x",
        &hash_part[1..],
        &format!("{hash_part}-"),
        &"x".repeat(10_000),
    ] {
        let refused = refusal(client.query_path_from_hash_part(wrong));
        assert_eq!(refused, "invalid hash part");
    }
    assert_eq!(
        client.query_path_from_hash_part(hash_part).unwrap(),
        Some(path)
    );
}

#[test]
fn references_and_referrers_are_the_two_sides_of_one_thing() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let base = add_text(&mut client, "base", "x", &[]);
    let one = add_text(&mut client, "one", "x", &[&base]);
    let two = add_text(&mut client, "two", "x", &[&base, &one]);
    assert_eq!(
        client.query_references(&two).unwrap(),
        [base.clone(), one.clone()].into()
    );
    assert_eq!(
        client.query_referrers(&base).unwrap(),
        [one.clone(), two.clone()].into()
    );
    assert_eq!(client.query_references(&base).unwrap(), BTreeSet::new());
    assert_eq!(client.query_referrers(&two).unwrap(), BTreeSet::new());
    assert_eq!(
        client.query_path_info(&two).unwrap().references,
        [base, one].into()
    );
}

#[test]
fn invalid_items_have_an_error_or_no_answer_and_the_connection_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let missing = fixture.path("missing");
    let expected = format!("path `{missing}' is not valid");
    assert_eq!(refusal(client.query_path_info(&missing)), expected);
    assert_eq!(refusal(client.query_path_hash(&missing)), expected);
    assert_eq!(refusal(client.query_references(&missing)), expected);
    assert_eq!(refusal(client.query_deriver(&missing)), expected);
    assert_eq!(refusal(client.query_derivation_outputs(&missing)), expected);
    assert_eq!(
        refusal(client.query_derivation_output_names(&missing)),
        expected
    );
    assert_eq!(
        refusal(client.export_path(&missing, false, &mut Vec::new())),
        expected
    );
    assert_eq!(client.query_referrers(&missing).unwrap(), BTreeSet::new());
    assert_eq!(
        client.query_valid_derivers(&missing).unwrap(),
        BTreeSet::new()
    );
    assert!(!client.has_substitutes(&missing).unwrap());
    assert_eq!(
        client
            .query_substitutable_paths([missing.clone()].into())
            .unwrap()
            .len(),
        0
    );
    assert_eq!(
        client
            .query_substitutable_path_infos([missing].into())
            .unwrap(),
        []
    );
    assert_eq!(
        client.builtin_builders().unwrap(),
        ["download", "git-download"]
    );
}

#[test]
fn derivations_and_outputs_know_each_other() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let (mut client, dir) = (fixture.client(), fixture.dir());
    let tree = Tree::file("output");
    let (text, output) = fixed_derivation(&dir, "thing", &tree);
    let derivation = add_text(&mut client, "thing.drv", &text, &[]);
    assert_eq!(
        client.query_derivation_outputs(&derivation).unwrap(),
        [output.clone()].into()
    );
    assert_eq!(
        client.query_derivation_output_names(&derivation).unwrap(),
        ["out"]
    );
    assert_eq!(
        client.query_valid_derivers(&output).unwrap(),
        [derivation.clone()].into()
    );
    assert!(!client.is_valid_path(&output).unwrap());
    // Added items have no deriver; imported ones have the given deriver, if it is valid.
    let fields = Fields {
        path: output.clone(),
        references: [].into(),
        deriver: Some(derivation.clone()),
    };
    let item = Item {
        nar: tree.nar(),
        fields,
    };
    let imported = client
        .import_paths(&mut item.archive(Some(&keys)).as_slice())
        .unwrap();
    assert_eq!(imported, from_ref(&output));
    assert_eq!(
        client.query_deriver(&output).unwrap(),
        Some(derivation.clone())
    );
    assert_eq!(
        client.query_path_info(&output).unwrap().deriver,
        Some(derivation.clone())
    );
    assert_eq!(client.query_deriver(&derivation).unwrap(), None);
    // An item that isn't a derivation has no outputs.
    assert_eq!(
        client.query_derivation_outputs(&output).unwrap(),
        BTreeSet::new()
    );
    assert_eq!(
        client.query_derivation_output_names(&output).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn an_item_may_refer_to_itself() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    let path = fixture.path("self");
    let mut item = Item::text(&path, &format!("I am {path}"));
    item.fields.references.insert(path.clone());
    client
        .import_paths(&mut item.archive(Some(&keys)).as_slice())
        .unwrap();
    assert_eq!(
        client.query_references(&path).unwrap(),
        [path.clone()].into()
    );
    assert_eq!(
        client.query_referrers(&path).unwrap(),
        [path.clone()].into()
    );
    assert_eq!(
        client.query_path_info(&path).unwrap().references,
        [path.clone()].into()
    );
    let collected = collect(&mut fixture.client(), GcAction::DeleteSpecific, &[]);
    assert_eq!(collected.paths, []);
    drop(client);
    let mut client = fixture.only_client();
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        [path]
    );
    fixture.assert_holds([]);
}

#[test]
fn failed_builds_are_forgotten_on_request() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    let path = fixture.path("failed");
    for paths in [vec![], vec!["*".to_owned()], vec![path.to_string()]] {
        client.send(Bytes::new().word(25).strings(&paths));
        assert_eq!((client.end(), client.word()), (End::Last, 1), "{paths:?}");
        client.send(Bytes::new().word(24));
        assert_eq!((client.end(), client.strings()), (End::Last, vec![]));
    }
}

#[test]
fn substitute_urls_are_the_clients_or_else_the_daemons() {
    let site = crate::harness::Site::new();
    let fixture = Fixture::with(
        site,
        &["--substitute-urls=https://a.example  https://b.example"],
    );
    let mut client = fixture.client();
    let expected = ["https://a.example", "https://b.example"];
    assert_eq!(client.substitute_urls().unwrap(), expected);
    let mut options = SetOptions::default();
    options.set("substitute-urls", "https://c.example");
    client.set_options(&options).unwrap();
    assert_eq!(client.substitute_urls().unwrap(), ["https://c.example"]);
    assert_eq!(
        fixture.client().substitute_urls().unwrap(),
        expected,
        "others keep theirs"
    );
    options.use_substitutes = Some(false);
    client.set_options(&options).unwrap();
    assert_eq!(client.substitute_urls().unwrap().len(), 0);
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.set_options(&SetOptions::default()).unwrap();
    assert_eq!(
        client.substitute_urls().unwrap().len(),
        0,
        "--no-substitutes is final"
    );
}
