//! The hash of a single file's nar, computed while its contents stream through. It names the file
//! in `.links`, and is the registered hash of an item that is a single file.

use formats::hash::{Hash, Hasher};
use formats::nar;

/// Files smaller than this are not deduplicated (`doc/spec/store-formats.md`, section 10).
pub(crate) const DEDUPLICATION_MINIMUM: u64 = 8192;

/// Hashes the nar of a regular file of known size. (Writing to a hasher can't fail, so writing the
/// nar can't either.)
pub(crate) struct FileHasher {
    nar: nar::Writer<Hasher>,
    size: u64,
}

impl FileHasher {
    pub(crate) fn new(executable: bool, size: u64) -> FileHasher {
        let mut nar = nar::Writer::new(Hasher::sha256());
        let _ = nar.begin_regular(executable, size);
        FileHasher { nar, size }
    }

    /// Adds the file's next bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        let _ = self.nar.write_contents(data);
    }

    /// The hash and the size of the nar, after all bytes.
    pub(crate) fn finish(mut self) -> (Hash, u64) {
        let _ = self.nar.end_regular(self.size);
        self.nar.into_inner().finish()
    }

    /// The hash and the size of the nar of a file with these contents.
    pub(crate) fn of(executable: bool, contents: &[u8]) -> (Hash, u64) {
        let mut hasher = FileHasher::new(executable, contents.len() as u64);
        hasher.update(contents);
        hasher.finish()
    }
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
