//! How many files this process may have open.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit that this process was started with, once it has been raised.
static ORIGINAL: OnceLock<libc::rlimit> = OnceLock::new();

/// Lets this process have as many files open as it may. Programs that it starts get the limit that
/// it had before, which some rely on (`select`, or closing all that might be open).
pub fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ORIGINAL.get_or_init(|| libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    });
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// What programs that we start get, if it isn't what we have.
pub(crate) fn original_limit() -> Option<libc::rlimit> {
    ORIGINAL.get().copied()
}
