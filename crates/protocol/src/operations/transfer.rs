//! Moving items between stores.

use formats::StorePath;

use crate::codec::{Decode, Done, Encode, Error, Source};
use crate::version::Version;

/// Sends one item in the export format, in WRITE frames, without the words before and after items.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportPath {
    /// The item.
    pub path: StorePath,
    /// Whether to sign it.
    pub sign: bool,
}
reply!(ExportPath -> Done);

impl Encode for ExportPath {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.path.encode(out, version);
        self.sign.encode(out, version);
    }
}

impl Decode for ExportPath {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        Ok(ExportPath {
            path: source.get()?,
            sign: source.int()? == 1,
        })
    }
}

call! {
    /// Receives items, which the daemon asks for with READ frames; the reply lists them in their
    /// order.
    ImportPaths {} -> Vec<StorePath>
}
