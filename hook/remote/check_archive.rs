//! `offload test`: what a machine sends back.

use std::io::{self, Write};

use authority::SingleKey;
use formats::export::{Fields, read_marker, read_signature};
use formats::{Hash, StoreDir, StorePath, nar};
use store::Authority;

/// An archive in memory: of one small item, so that a machine can't fill the memory.
#[derive(Default)]
pub(super) struct Limited(pub Vec<u8>);

impl Write for Limited {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        const MOST: usize = 1 << 20;
        if self.0.len() + data.len() > MOST {
            return Err(io::Error::other("more than was asked for"));
        }
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an archive has this item and nothing else.
pub(super) fn is_only(mut archive: &[u8], store: &StoreDir, item: &StorePath) -> bool {
    let mut read = || -> Option<StorePath> {
        let source = &mut archive;
        read_marker(source).ok().filter(|follows| *follows)?;
        nar::copy(source, &mut io::sink()).ok()?;
        let fields = Fields::read(source, store).ok()?;
        read_signature(source).ok()?;
        let follows = read_marker(source).ok()?;
        (!follows && source.is_empty()).then_some(fields.path)
    };
    read().as_ref() == Some(item)
}

/// Checks the signature of an archive's only item, of which [`is_only`] is true, by this key.
pub(super) fn is_signed_by(mut archive: &[u8], store: &StoreDir, key: &str) -> Result<(), String> {
    let key = SingleKey::parse(key)?;
    let source = &mut archive;
    read_marker(source).map_err(|error| error.to_string())?;
    let item = *source;
    nar::copy(source, &mut io::sink()).map_err(|error| error.to_string())?;
    Fields::read(source, store).map_err(|error| error.to_string())?;
    let item = &item[..item.len() - source.len()];
    let signature = read_signature(source).map_err(|error| error.to_string())?;
    let signature = signature.ok_or_else(|| "it is not signed".to_owned())?;
    match key.verify(&signature)? == Hash::sha256(item) {
        true => Ok(()),
        false => Err("what is signed is something else".to_owned()),
    }
}
