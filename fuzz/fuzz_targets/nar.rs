//! A nar that is accepted is canonical, and ends where its extent does.
#![no_main]

use std::io::{self, Read};

use formats::nar;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut copy = Vec::new();
    let mut input = data;
    if nar::read(&mut input, &mut nar::Writer::new(&mut copy)).is_ok() {
        assert_eq!(copy, data[..data.len() - input.len()]);
        let mut extent = Vec::new();
        nar::Extent::new(data).read_to_end(&mut extent).unwrap();
        assert_eq!(extent, copy);
    }
    let _ = io::copy(&mut nar::Extent::new(data), &mut io::sink());
});
