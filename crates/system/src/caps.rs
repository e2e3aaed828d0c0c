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

/// Gives up, as far as this thread has the right to do so, what a program executed later could get
/// from its file. To be called before the user changes, with which that right goes.
pub fn drop_bounding() {
    for capability in 0..64 {
        let zero: libc::c_ulong = 0;
        // SAFETY: only numbers are passed.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, zero, zero, zero) };
        if result != 0 {
            break; // there are no more of them, or this thread has no right to
        }
    }
}

/// Gives up all capabilities of this thread.
pub fn drop_all() -> io::Result<()> {
    drop_ambient()?;
    // `capget(2)': version 3, with two words for each of three sets.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: header and data are as large as this version of the call says.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
