//! The limit of open files.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit with which this process was started, once it has been raised.
static ORIGINAL: OnceLock<libc::rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard limit. Programs started later get the previous
/// limit, on which some rely (those that use `select`, or close all possible descriptors).
pub fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ORIGINAL.get_or_init(|| libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    });
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// To what this process can raise its limit of open files, and programs that it starts theirs.
pub fn hard_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// The limit for programs that we start, if it differs from ours.
pub(crate) fn original_limit() -> Option<libc::rlimit> {
    ORIGINAL.get().copied()
}
