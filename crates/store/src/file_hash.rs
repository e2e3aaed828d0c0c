//! The hash of a single file's nar, computed while its contents flow by: the name of the file in
//! `.links`, and of an item that is a single file, the registered hash.

use formats::hash::{Hash, Hasher};
use formats::nar;
use formats::wire::{WriteExt, padding};

/// Files smaller than this are not deduplicated (`doc/spec/store-formats.md`, section 10).
pub(crate) const DEDUPLICATION_MINIMUM: u64 = 8192;

/// Hashes the nar of a regular file of known size.
pub(crate) struct FileHasher {
    hasher: Hasher,
    size: u64,
}

impl FileHasher {
    pub(crate) fn new(executable: bool, size: u64) -> FileHasher {
        let mut hasher = Hasher::sha256();
        let tokens: &[&[u8]] = if executable {
            &[
                nar::MAGIC,
                b"(",
                b"type",
                b"regular",
                b"executable",
                b"",
                b"contents",
            ]
        } else {
            &[nar::MAGIC, b"(", b"type", b"regular", b"contents"]
        };
        let mut header = Vec::with_capacity(144);
        for token in tokens {
            write(&mut header, token);
        }
        header.extend_from_slice(&size.to_le_bytes());
        hasher.update(&header);
        FileHasher { hasher, size }
    }

    /// The next of the file's bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
    }

    /// The hash and the size of the nar, once all bytes have gone by.
    pub(crate) fn finish(mut self) -> (Hash, u64) {
        let mut end = vec![0; padding(self.size)];
        write(&mut end, b")");
        self.hasher.update(&end);
        self.hasher.finish()
    }

    /// The hash and the size of the nar of a file with these contents.
    pub(crate) fn of(executable: bool, contents: &[u8]) -> (Hash, u64) {
        let mut hasher = FileHasher::new(executable, contents.len() as u64);
        hasher.update(contents);
        hasher.finish()
    }
}

fn write(buffer: &mut Vec<u8>, token: &[u8]) {
    // A vector takes everything.
    let _ = buffer.write_bytes(token);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_what_the_nar_writer_writes() {
        for executable in [false, true] {
            for contents in [&b""[..], b"x", b"12345678", &[7; 10_001]] {
                let nar = nar::of_file(executable, contents);
                let (hash, size) = FileHasher::of(executable, contents);
                assert_eq!((hash, size), (Hash::sha256(&nar), nar.len() as u64));
            }
        }
    }
}
