//! A derivation that is accepted writes itself out as one that reads the same.
#![no_main]

use formats::{Derivation, Hash, StoreDir};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let store = StoreDir::new("/gnu/store").unwrap();
    if let Ok(derivation) = Derivation::parse(data, &store) {
        assert_eq!(
            Derivation::parse(&derivation.to_bytes(), &store).unwrap(),
            derivation
        );
        let _ = derivation.hash_modulo(|_| Ok(Hash::sha256("")));
        let _ = derivation.compute_output_paths("name", &store, |_| Ok(Hash::sha256("")));
    }
});
