//! Finding which valid items some data mentions, whichever they are: those whose hash part occurs in
//! it, as in the outputs of builds (see [`formats::references`]).
//!
//! What may be a hash part is looked up in the database. There is little of it in what people make,
//! so this takes no time worth mentioning, however large the store is.

use std::collections::{BTreeSet, HashSet};

use formats::references::{HashPart, Windows};
use formats::store_path::StorePath;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::Store;

/// So many possible hash parts are kept before they are looked up.
const KEPT: usize = 1 << 14;

/// Finds the valid items that data mentions.
pub struct Mentions<'a> {
    store: &'a Store,
    windows: Windows,
    possible: HashSet<HashPart>,
    found: BTreeSet<StorePath>,
}

impl Store {
    /// Finds the valid items that some data mentions, which has not come yet.
    pub fn mentions(&self) -> Mentions<'_> {
        Mentions {
            store: self,
            windows: Windows::default(),
            possible: HashSet::new(),
            found: BTreeSet::new(),
        }
    }
}

impl Mentions<'_> {
    /// Examines `data`, which continues the data before it, unless `progress` stops it.
    pub fn update(&mut self, data: &[u8], progress: &dyn Progress) -> Result<()> {
        for piece in data.chunks(KEPT) {
            let possible = &mut self.possible;
            self.windows.update(piece, |digits| {
                possible.insert(*digits);
            });
            if self.possible.len() >= KEPT {
                self.look_up(progress)?;
            }
        }
        Ok(())
    }

    /// The items that are mentioned.
    pub fn finish(mut self, progress: &dyn Progress) -> Result<BTreeSet<StorePath>> {
        self.look_up(progress)?;
        Ok(self.found)
    }

    fn look_up(&mut self, progress: &dyn Progress) -> Result<()> {
        for digits in self.possible.drain() {
            crate::progress::check(progress)?;
            let digits =
                std::str::from_utf8(&digits).map_err(|error| Error::Other(error.to_string()))?;
            self.found
                .extend(self.store.query_path_from_hash_part(digits)?);
        }
        Ok(())
    }
}
