//! What Guix doesn't have: the state of everything that is being built. Its number is far from Guix's,
//! whose daemon answers it with an error, like any operation that it doesn't know.

use bstr::BString;

use crate::codec::{Decode, Encode, Error, Source, put_bytes};
use crate::version::Version;

/// The maximum length of the text.
const MAX_STATUS: u64 = 32 << 20;

call! {
    /// What is being built, what waits, and why.
    QueryFarmStatus {} -> FarmStatus
}

/// The state, as JSON: see `doc/spec/farm-status.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarmStatus(pub BString);

impl Encode for FarmStatus {
    fn encode(&self, out: &mut Vec<u8>, _: Version) {
        put_bytes(out, &self.0);
    }
}

impl Decode for FarmStatus {
    fn decode(source: &mut Source<'_>) -> Result<FarmStatus, Error> {
        Ok(FarmStatus(source.bytes(MAX_STATUS)?))
    }
}
