//! Errors with what was attempted, and on which file.

use std::io;
use std::path::Path;

/// Adds to an error that `action` failed on `path`.
pub(super) fn context<T>(result: io::Result<T>, action: &str, path: &Path) -> io::Result<T> {
    result.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot {action} `{}': {error}", path.display()),
        )
    })
}
