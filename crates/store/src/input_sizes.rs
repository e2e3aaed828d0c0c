//! What a derivation needs, with sizes: a question that must be answered quickly or not at all.

use std::collections::HashSet;
use std::time::Instant;

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use rusqlite::{OptionalExtension, Row};

use crate::database::together;
use crate::error::Result;
use crate::store::Store;

/// How often the time is looked at, in items.
const ITEMS_BETWEEN_LOOKS: usize = 64;

/// An output of a valid derivation.
const OUTPUT: &str = "select o.path from DerivationOutputs o join ValidPaths v on o.drv = v.id \
                      where v.path = ? and o.id = ?";
/// A valid item and its size, given its path.
const ITEM: &str = "select id, path, narSize from ValidPaths where path = ?";
/// The references of an item, given its row id.
const REFERENCES: &str = "select id, path, narSize from Refs join ValidPaths on reference = id \
                          where referrer = ?";

impl Store {
    /// The valid items that a derivation needs to be built, with everything that they refer to, and the sizes
    /// of their nars in bytes. `None` if that are more than `most`, or takes until `deadline`.
    ///
    /// Of the derivations themselves only those that it needs as sources are included.
    pub fn input_sizes(
        &self,
        derivation: &Derivation,
        most: usize,
        deadline: Instant,
    ) -> Result<Option<Vec<(StorePath, u64)>>> {
        let found = self.read("querying the inputs of a derivation", |connection| {
            let _transaction = together(connection)?;
            let mut output = connection.prepare_cached(OUTPUT)?;
            let mut roots: Vec<String> = Vec::new();
            for (input, names) in &derivation.inputs {
                for name in names {
                    let path = output.query_row((input.as_str(), name), |row| row.get(0));
                    roots.extend(path.optional()?);
                }
            }
            roots.extend(
                derivation
                    .sources
                    .iter()
                    .map(|path| path.as_str().to_owned()),
            );
            let row = |row: &Row<'_>| -> rusqlite::Result<(i64, String, u64)> {
                let size: Option<i64> = row.get(2)?;
                let size = size.unwrap_or(0).unsigned_abs();
                Ok((row.get(0)?, row.get(1)?, size))
            };
            let mut item = connection.prepare_cached(ITEM)?;
            let mut references = connection.prepare_cached(REFERENCES)?;
            let mut seen = HashSet::new();
            let mut found = Vec::new();
            for root in roots {
                let valid = item.query_row([&root], row).optional()?;
                found.extend(valid.filter(|(id, ..)| seen.insert(*id)));
            }
            let mut next = 0;
            while next < found.len() {
                let is_late = next % ITEMS_BETWEEN_LOOKS == 0 && Instant::now() >= deadline;
                if found.len() > most || is_late {
                    return Ok(None);
                }
                let mut rows = references.query([found[next].0])?;
                while let Some(reference) = rows.next()? {
                    // Only what is new is copied.
                    if seen.insert(reference.get(0)?) {
                        found.push(row(reference)?);
                    }
                }
                next += 1;
            }
            Ok(Some(found))
        })?;
        let Some(found) = found else { return Ok(None) };
        found
            .into_iter()
            .map(|(_, path, size)| Ok((self.parse(&path)?, size)))
            .collect::<Result<_>>()
            .map(Some)
    }
}
