//! Files made by Guix's own programs (`vectors/README.md`).

use std::fs;
use std::path::Path;

use gcrypt::{Acl, PublicKey, verify};

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors"))
}

#[test]
fn a_key_and_an_acl_are_read_and_written_the_same() {
    let name = directory().join("signing-key.pub");
    let key = PublicKey::load(&name).unwrap();
    assert_eq!(key.as_sexp().to_advanced(), fs::read(&name).unwrap());
    let acl = Acl::load(directory()).unwrap();
    assert!(acl.contains(key.as_sexp()));
    let copy = tempfile::tempdir().unwrap();
    acl.save(copy.path()).unwrap();
    assert_eq!(
        fs::read(copy.path().join("acl")).unwrap(),
        fs::read(directory().join("acl")).unwrap()
    );
}

#[test]
fn a_signature_is_verified() {
    let acl = Acl::load(directory()).unwrap();
    let text = fs::read(directory().join("signature")).unwrap();
    let hash = verify(&text, &acl).unwrap();
    let hex: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(String::from_utf8_lossy(&text).contains(&format!("#{hex}#")));
}
