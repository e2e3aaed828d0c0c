//! Lists that the kernel writes when they are read.

use std::fs::File;
use std::io::{self, Read};

/// Most lists are shorter, in bytes.
const USUAL_LENGTH: usize = 4096;

/// Reads one of the kernel's lists. Their size is unknown before, so [`std::fs::read_to_string`]
/// would read them in small pieces.
pub(crate) fn read(path: &str) -> io::Result<String> {
    let mut list = String::with_capacity(USUAL_LENGTH);
    // `Take` doesn't ask for the size.
    File::open(path)?.take(u64::MAX).read_to_string(&mut list)?;
    Ok(list)
}
