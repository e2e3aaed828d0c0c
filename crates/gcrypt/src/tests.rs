//! Keys, ACLs and signatures, on real files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use crate::keys::DEFAULT_PARAMETERS;
use crate::{Acl, Error, KeyPair, PublicKey, Sexp, VerifyError, sign, verify};

const HASH: [u8; 32] = [0xa5; 32];

fn pair_and_acl() -> (KeyPair, Acl) {
    let pair = KeyPair::generate(DEFAULT_PARAMETERS).unwrap();
    let mut acl = Acl::default();
    acl.authorize(PublicKey::parse(pair.public().as_sexp().to_advanced()).unwrap());
    (pair, acl)
}

#[test]
fn a_signature_verifies_and_says_what_was_signed() {
    let (pair, acl) = pair_and_acl();
    let text = sign(&HASH, &pair).unwrap();
    assert_eq!(verify(&text, &acl).unwrap(), HASH);
    assert_eq!(
        text,
        sign(&HASH, &pair).unwrap(),
        "nonces are deterministic"
    );
}

#[test]
fn rsa_signs_too() {
    let pair = KeyPair::generate("(genkey (rsa (nbits 4:1024)))").unwrap();
    let mut acl = Acl::default();
    acl.authorize(PublicKey::parse(pair.public().as_sexp().to_canonical()).unwrap());
    assert_eq!(verify(&sign(&HASH, &pair).unwrap(), &acl).unwrap(), HASH);
}

#[test]
fn the_signature_has_the_shape_guix_gives_it() {
    let (pair, _) = pair_and_acl();
    let text = String::from_utf8(sign(&HASH, &pair).unwrap()).unwrap();
    assert!(text.starts_with("(signature \n (data \n  (flags rfc6979)\n  (hash sha256 #A5A5"));
    assert!(text.contains("(sig-val \n  (ecdsa \n   (r #"), "{text}");
    assert!(
        text.contains("(public-key \n  (ecc \n   (curve Ed25519)\n   (q #"),
        "{text}"
    );
}

#[test]
fn strangers_and_forgers_are_told_apart() {
    let (pair, acl) = pair_and_acl();
    let (stranger, _) = pair_and_acl();
    let error = verify(&sign(&HASH, &stranger).unwrap(), &acl).unwrap_err();
    assert!(matches!(error, VerifyError::Unauthorized(_)), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("unauthorized public key: (public-key"),
        "{error}"
    );

    let genuine = String::from_utf8(sign(&HASH, &pair).unwrap()).unwrap();
    let forged = genuine.replace(&"A5".repeat(32), &"A6".repeat(32));
    let error = verify(forged.as_bytes(), &acl).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("invalid signature: (signature"),
        "{error}"
    );

    for corrupt in [
        "",
        "()",
        "(",
        "(signature)",
        "rubbish",
        "(signature (data (hash sha256)))",
    ] {
        let error = verify(corrupt.as_bytes(), &acl).unwrap_err();
        assert!(
            error.to_string().starts_with("corrupt signature data: "),
            "{corrupt}: {error}"
        );
    }
}

#[test]
fn a_key_pair_is_kept_as_guix_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("etc");
    let pair = KeyPair::generate(DEFAULT_PARAMETERS).unwrap();
    pair.save(&configuration).unwrap();
    let mode = |name: &str| {
        fs::metadata(configuration.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (mode("signing-key.pub"), mode("signing-key.sec")),
        (0o444, 0o400)
    );
    assert_eq!(
        fs::read_dir(&configuration).unwrap().count(),
        2,
        "no temporary file stays"
    );
    assert!(matches!(
        pair.save(&configuration),
        Err(Error::KeyPairExists(_))
    ));

    let loaded = KeyPair::load(&configuration).unwrap();
    let acl = Acl::load(&configuration).unwrap();
    assert_eq!(
        acl.len(),
        1,
        "the own key is authorised where there was no ACL"
    );
    assert!(configuration.join("acl").exists());
    assert_eq!(verify(&sign(&HASH, &loaded).unwrap(), &acl).unwrap(), HASH);

    let secret = configuration.join("signing-key.sec");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o440)).unwrap();
    let error = KeyPair::load(&configuration).unwrap_err();
    assert!(error.to_string().contains("should be secret"), "{error}");
}

#[test]
fn an_acl_is_written_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let (first, mut acl) = pair_and_acl();
    let (second, _) = pair_and_acl();
    for _ in 0..2 {
        acl.authorize(PublicKey::parse(second.public().as_sexp().to_advanced()).unwrap());
    }
    assert_eq!(acl.len(), 2, "no key is listed twice");
    acl.save(directory.path()).unwrap();
    let read = Acl::load(directory.path()).unwrap();
    assert!(read.contains(first.public().as_sexp()) && read.contains(second.public().as_sexp()));
}

#[test]
fn an_acl_of_another_shape_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for text in [
        "(acl (entry (public-key (ecc (q #00#))) (tag (guix export))))",
        "(acl (entry (public-key (ecc (q #00#)))))",
        "(acl key)",
        "(lca)",
    ] {
        fs::write(directory.path().join("acl"), text).unwrap();
        let error = Acl::load(directory.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("invalid access-control list"),
            "{text}: {error}"
        );
    }
    fs::write(directory.path().join("acl"), "(acl").unwrap();
    assert!(matches!(
        Acl::load(directory.path()),
        Err(Error::Content { .. })
    ));
    fs::write(directory.path().join("acl"), "(acl)").unwrap();
    assert!(Acl::load(directory.path()).unwrap().is_empty());
}

#[test]
fn what_is_no_public_key_is_refused() {
    for text in ["(private-key (ecc))", "(acl)", "public-key"] {
        assert!(PublicKey::parse(text).is_err(), "{text}");
    }
    assert!(KeyPair::generate("(genkey (unknown))").is_err());
}

#[test]
fn nesting_and_length_are_no_danger() {
    let deep = format!("{}{}", "(a".repeat(200_000), ")".repeat(200_000));
    if let Ok(sexp) = Sexp::parse(&deep) {
        assert!(sexp.find(c"b").is_none());
        assert!(!sexp.to_canonical().is_empty());
    }
    assert!(matches!(
        Sexp::parse(vec![b'('; 2 << 20]),
        Err(Error::TooLong(_))
    ));
}

proptest! {
    /// A genuine signature with bytes changed, dropped or added is refused, or still yields the
    /// same hash (white space may change). ECDSA signs as many bits as the order of the curve has:
    /// 253 with Guix's Ed25519, so the last three bits of the hash may differ.
    #[test]
    fn a_damaged_signature_never_says_another_hash(
        place in 0usize..600, byte: u8, kind in 0..3,
    ) {
        let (pair, acl) = pair_and_acl();
        let mut text = sign(&HASH, &pair).unwrap();
        let place = place % text.len();
        match kind {
            0 => text[place] = byte,
            1 => { text.remove(place); }
            _ => text.insert(place, byte),
        }
        if let Ok(hash) = verify(&text, &acl) {
            let signed = |hash: [u8; 32]| [&hash[..31], &[hash[31] >> 3]].concat();
            prop_assert_eq!(signed(hash), signed(HASH));
        }
    }

    /// Whatever parses is printed as something that parses to the same, with one exception:
    /// libgcrypt parses a quoted empty atom but not `0:`, as which it prints it.
    #[test]
    fn what_parses_prints(text in "[()a-z#0-9 :\"|\\\\]{0,60}") {
        if let Ok(sexp) = Sexp::parse(&text) {
            let canonical = sexp.to_canonical();
            match Sexp::parse(&canonical) {
                Ok(again) => prop_assert_eq!(again.to_canonical(), canonical),
                Err(Error::Syntax { position, .. }) => {
                    prop_assert!(canonical[position..].starts_with(b"0:"));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
