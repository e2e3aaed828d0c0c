//! A whole export stream.
#![no_main]

use std::io;

use formats::{StoreDir, export, nar};

fn read(mut input: &[u8]) -> Result<(), io::Error> {
    let store = StoreDir::new("/gnu/store").unwrap();
    while export::read_marker(&mut input)? {
        nar::read(&mut input, &mut io::sink())?;
        export::Fields::read(&mut input, &store)?;
        export::read_signature(&mut input)?;
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = read(data);
});
