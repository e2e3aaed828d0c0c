//! Which store items some data refers to: those whose hash part occurs in it.
//!
//! This takes one pass and copies nothing: a window of 32 bytes is examined from its end, so that
//! most bytes of binaries, and of text that contains `e`, `o`, `t` or `u` here and there, are never
//! looked at.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};

use crate::base32::is_digit;
use crate::store_path::{HASH_LENGTH, StorePath};

/// The digits of a hash part.
pub type HashPart = [u8; HASH_LENGTH];

/// Finds the hash parts of candidates in the data that is written to it. The data may be split
/// anywhere; a hash part that spans pieces is found.
pub struct Scanner {
    /// Candidates that were not found yet.
    candidates: HashMap<HashPart, Vec<StorePath>>,
    found: BTreeSet<StorePath>,
    windows: Windows,
}

impl Scanner {
    /// Looks for `candidates`. Those that aren't well-formed store paths are never found.
    pub fn new(candidates: impl IntoIterator<Item = StorePath>) -> Scanner {
        let mut by_hash = HashMap::<HashPart, Vec<StorePath>>::new();
        for path in candidates {
            let digits = path.hash_part().as_bytes();
            match HashPart::try_from(digits) {
                Ok(digits) if digits.iter().copied().all(is_digit) => {
                    by_hash.entry(digits).or_default().push(path);
                }
                _ => {}
            }
        }
        Scanner {
            candidates: by_hash,
            found: BTreeSet::new(),
            windows: Windows::default(),
        }
    }

    /// The candidates that were found.
    pub fn finish(self) -> BTreeSet<StorePath> {
        self.found
    }

    /// The candidates found so far.
    pub fn found(&self) -> &BTreeSet<StorePath> {
        &self.found
    }

    /// Scans `data`, which continues the data before it.
    pub fn update(&mut self, data: &[u8]) {
        if self.candidates.is_empty() {
            return;
        }
        let (candidates, found) = (&mut self.candidates, &mut self.found);
        self.windows.update(data, |digits| {
            if let Some(paths) = candidates.remove(digits) {
                found.extend(paths);
            }
        });
    }
}

/// Finds everything that may be a hash part in data that comes in pieces: each 32 bytes that are all
/// digits, at whatever place they begin.
///
/// ```
/// use formats::references::Windows;
///
/// let mut found = Vec::new();
/// let mut windows = Windows::default();
/// for piece in ["see /gnu/store/a3y8", "9x3qyl1zdfnh3wcd4ryf3rlnmaq2-x"] {
///     windows.update(piece.as_bytes(), |digits| found.push(*digits));
/// }
/// assert_eq!(found, [*b"a3y89x3qyl1zdfnh3wcd4ryf3rlnmaq2"]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// The last bytes of the pieces so far, fewer than a hash part.
    tail: Vec<u8>,
}

impl Windows {
    /// Tells `found` what there is in `data`, which continues the data before it.
    pub fn update(&mut self, data: &[u8], mut found: impl FnMut(&HashPart)) {
        const KEPT: usize = HASH_LENGTH - 1;
        if !self.tail.is_empty() {
            // A hash part may begin in the tail and end in the first bytes of this piece.
            let mut seam = std::mem::take(&mut self.tail);
            seam.extend_from_slice(&data[..data.len().min(KEPT)]);
            search(&seam, &mut found);
            if data.len() < KEPT {
                seam.drain(..seam.len().saturating_sub(KEPT));
                self.tail = seam;
                return;
            }
        }
        search(data, &mut found);
        self.tail
            .extend_from_slice(&data[data.len().saturating_sub(KEPT)..]);
    }
}

fn search(data: &[u8], found: &mut impl FnMut(&HashPart)) {
    let mut start = 0;
    // Everything before this, from `start`, is known to be digits.
    let mut digits_until = 0;
    while let Some(window) = data.get(start..start + HASH_LENGTH) {
        let known = digits_until.max(start) - start;
        match window[known..].iter().rposition(|&byte| !is_digit(byte)) {
            Some(position) => {
                start += known + position + 1;
                digits_until = 0;
            }
            None => {
                if let Ok(digits) = window.try_into() {
                    found(digits);
                }
                digits_until = start + HASH_LENGTH;
                start += 1;
            }
        }
    }
}

impl Write for Scanner {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store_path::StoreDir;

    fn path(digit: char, name: &str) -> StorePath {
        let store = StoreDir::new("/gnu/store").unwrap();
        store
            .join(&format!("{}abc-{name}", digit.to_string().repeat(29)))
            .unwrap()
    }

    #[test]
    fn found_at_every_offset() {
        for offset in 0..70 {
            let mut scanner = Scanner::new([path('1', "a"), path('2', "b"), path('1', "c")]);
            let data = format!("{}{}", "1".repeat(offset), path('1', "a").hash_part());
            scanner.write_all(data.as_bytes()).unwrap();
            assert_eq!(scanner.finish(), [path('1', "a"), path('1', "c")].into());
        }
    }

    #[test]
    fn short_names_are_no_candidates() {
        let links = StoreDir::new("/gnu/store")
            .unwrap()
            .parse("/gnu/store/.links")
            .unwrap();
        let mut scanner = Scanner::new([links]);
        scanner.update(b".links");
        assert!(scanner.finish().is_empty());
    }

    proptest! {
        /// However the data is split, the result is that of a naive search.
        #[test]
        fn same_as_plain_search(
            pieces in prop::collection::vec("[12abc/-]{0,40}|1{29}abc|1{20}|1{9}abc|2{29}abc", 0..12),
        ) {
            let candidates = [path('1', "one"), path('2', "two")];
            let mut scanner = Scanner::new(candidates.clone());
            pieces.iter().for_each(|piece| scanner.update(piece.as_bytes()));
            let whole = pieces.concat();
            let expected: BTreeSet<_> =
                candidates.into_iter().filter(|path| whole.contains(path.hash_part())).collect();
            prop_assert_eq!(scanner.finish(), expected);
        }
    }
}
