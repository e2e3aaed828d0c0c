//! Capabilities of this process.

use std::io;

/// `CAP_CHOWN`: may change the owner of files.
pub const CHOWN: u32 = 0;

/// `CAP_SYS_ADMIN`: may mount, among many other things.
pub const SYS_ADMIN: u32 = 21;

/// Gives up all ambient capabilities, so that programs executed from now on don't get them.
pub fn drop_ambient() -> io::Result<()> {
    const CLEAR_ALL: libc::c_ulong = 4;
    let zero: libc::c_ulong = 0;
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, zero, zero, zero) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Kernels before 4.3 have no ambient capabilities.
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        error => Err(error),
    }
}

/// Whether a capability is in this process's effective set.
pub fn has_effective(capability: u32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> capability & 1 == 1)
}
