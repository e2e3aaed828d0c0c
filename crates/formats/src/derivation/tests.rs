use proptest::prelude::*;

use super::*;
use crate::store_path::StoreDir;

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn no_inputs(path: &StorePath) -> Result<Hash, Error> {
    Err(Error::Cycle(path.clone()))
}

fn recipe() -> Recipe {
    Recipe {
        outputs: [("out".into(), None), ("lib".into(), None)].into(),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        arguments: vec!["-c".into(), "echo \"a\\b\"\n\r\t\u{1}".into()],
        environment: [("b".into(), "2".into()), ("a".into(), "".into())].into(),
        ..Recipe::default()
    }
}

#[test]
fn text_round_trip_and_escapes() {
    let (derivation, path) = recipe().instantiate("x", &store(), no_inputs).unwrap();
    let text = derivation.to_bytes();
    assert!(text.as_bstr().contains_str(r#"["-c","echo \"a\\b\"\n\r\t"#));
    assert!(text.starts_with(br#"Derive([("lib","/gnu/store/"#));
    assert_eq!(Derivation::parse(&text, &store()).unwrap(), derivation);
    derivation
        .check_outputs(&path, &store(), no_inputs)
        .unwrap();
}

#[test]
fn wrong_outputs_are_named() {
    let (mut derivation, path) = recipe().instantiate("x", &store(), no_inputs).unwrap();
    let wrong = store().join("00000000000000000000000000000000-x").unwrap();
    let right = std::mem::replace(&mut derivation.outputs.get_mut("out").unwrap().path, wrong);
    let error = derivation
        .check_outputs(&path, &store(), no_inputs)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "derivation `{path}' has incorrect output \
             `/gnu/store/00000000000000000000000000000000-x', should be `{right}'"
        )
    );
    derivation.outputs.get_mut("out").unwrap().path = right;
    derivation.environment.remove(bstr::BStr::new("lib"));
    assert!(
        derivation
            .check_outputs(&path, &store(), no_inputs)
            .is_err()
    );
}

#[test]
fn fixed_outputs_hide_how_they_are_got() {
    let fixed = |script: &str| {
        let hash = FixedHash {
            recursive: false,
            hash: Hash::sha256("x"),
        };
        let recipe = Recipe {
            outputs: [("out".into(), Some(hash))].into(),
            arguments: vec![script.into()],
            ..recipe()
        };
        recipe.instantiate("source", &store(), no_inputs).unwrap()
    };
    let (one, two) = (fixed("one"), fixed("two"));
    assert_ne!(one.1, two.1);
    assert_eq!(one.0.outputs, two.0.outputs);
    let user = |(derivation, path): (Derivation, StorePath)| {
        let hash = derivation.hash_modulo(no_inputs).unwrap();
        Recipe {
            inputs: [(path, ["out".to_owned()].into())].into(),
            ..recipe()
        }
        .instantiate("user", &store(), |_| Ok(hash))
        .unwrap()
    };
    let (one, two) = (user(one), user(two));
    assert_ne!(one.1, two.1);
    assert_eq!(one.0.outputs, two.0.outputs);
}

#[test]
fn deep_graphs_and_cycles() {
    let mut all = std::collections::HashMap::new();
    let mut last: Option<(StorePath, Hash)> = None;
    for _ in 0..50_000 {
        let inputs = last
            .iter()
            .map(|(path, _)| (path.clone(), ["out".to_owned()].into()));
        let recipe = Recipe {
            inputs: inputs.collect(),
            ..recipe()
        };
        let known = last.clone();
        let resolve = |_: &StorePath| Ok(known.clone().unwrap().1);
        let (derivation, path) = recipe.instantiate("deep", &store(), resolve).unwrap();
        let hash = derivation.hash_modulo(resolve).unwrap();
        all.insert(path.clone(), derivation);
        last = Some((path, hash));
    }
    let (path, hash) = last.unwrap();
    let load = |path: &StorePath| all.get(path).cloned().ok_or("missing");
    assert_eq!(ModuloHashes::new().get(&path, load).unwrap(), hash);

    let cycle = |_: &StorePath| Ok::<_, String>(all[&path].clone());
    assert!(matches!(
        ModuloHashes::new().get(&path, cycle),
        Err(Error::Cycle(_))
    ));
}

#[test]
fn refusals() {
    let parse = |text: &str| Derivation::parse(text.as_bytes(), &store());
    let whole = r#"Derive([],[],[],"","",[],[])"#;
    assert!(parse(whole).is_ok());
    for end in 0..whole.len() {
        assert!(
            matches!(parse(&whole[..end]), Err(Error::Syntax { .. })),
            "{end}"
        );
    }
    assert!(parse(&format!("{whole}\n")).is_err());
    assert!(matches!(
        parse(r#"Derive([],[],["/etc"],"","",[],[])"#),
        Err(Error::Path(_))
    ));
    assert!(parse("Derive([],[],[],\"a\0\",\"\",[],[])").is_err());
    assert!(parse("Derive([],[],[],\"a\\\0\",\"\",[],[])").is_err());
}

proptest! {
    #[test]
    fn any_strings_round_trip(
        strings in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 1..6),
    ) {
        let recipe = Recipe {
            arguments: strings.iter().map(|s| s.clone().into()).collect(),
            environment: strings.iter().map(|s| (s.clone().into(), s.clone().into())).collect(),
            system: strings[0].clone().into(),
            ..recipe()
        };
        let (derivation, _) = recipe.instantiate("p", &store(), no_inputs).unwrap();
        prop_assert_eq!(Derivation::parse(&derivation.to_bytes(), &store()).unwrap(), derivation);
    }

    #[test]
    fn damaged_is_read_or_refused(place: prop::sample::Index, value: u8) {
        let (derivation, _) = recipe().instantiate("p", &store(), no_inputs).unwrap();
        let mut text = derivation.to_bytes();
        let place = place.index(text.len());
        text[place] = value;
        if let Ok(read) = Derivation::parse(&text, &store()) {
            prop_assert_eq!(Derivation::parse(&read.to_bytes(), &store()).unwrap(), read);
        }
    }
}
