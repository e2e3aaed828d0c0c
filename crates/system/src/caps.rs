//! Capabilities of this process.

use std::io;

/// Drops all ambient capabilities, so that programs executed from now on don't get them.
pub fn drop_ambient() -> io::Result<()> {
    const CLEAR_ALL: libc::c_ulong = 4;
    let zero: libc::c_ulong = 0;
    // SAFETY: only numbers are passed.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, zero, zero, zero) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Kernels before 4.3 don't have ambient capabilities.
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        error => Err(error),
    }
}
